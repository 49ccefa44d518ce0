package audit

import (
	"bytes"
	"encoding/json"
	"strconv"
	"time"
	"unicode/utf8"
)

// look reads what a message needs of a line. Most lines are read in one pass
// that knows how Encode spells them, since every entry ever written goes this
// way; one that is spelled in another way is left to encoding/json, which says
// what is wrong with it. Errors are that package's.
func look(line []byte) (glance, error) {
	if g, ok := fastLook(line); ok {
		return g, nil
	}
	var g glance
	err := json.Unmarshal(line, &g)
	return g, err
}

func fastLook(line []byte) (g glance, ok bool) {
	rest, found := bytes.CutPrefix(line, []byte{'{'})
	for found {
		var name, value []byte
		if name, rest, ok = cutString(rest); !ok || len(rest) == 0 || rest[0] != ':' {
			return g, false
		}
		if value, rest, ok = cutValue(rest[1:]); !ok || len(rest) == 0 {
			return g, false
		}
		if !g.take(string(name[1:len(name)-1]), value) {
			return g, false
		}
		if rest[0] == '}' {
			return g, len(rest) == 1
		}
		rest, found = bytes.CutPrefix(rest, []byte{','})
	}
	return g, false
}

// take sets the member of that name, if a message needs it; false where the
// value is for encoding/json to read.
func (g *glance) take(name string, value []byte) (ok bool) {
	text := ""
	switch name {
	case "time", "kind", "policy", "sub", "client", "server", "method", "tool", "resource", "effect", "reason", "credential", "status":
		if value[0] != '"' || !utf8.Valid(value) {
			return false
		}
		if bytes.IndexByte(value, '\\') < 0 {
			text = string(value[1 : len(value)-1])
		} else if json.Unmarshal(value, &text) != nil {
			return false
		}
	}
	var err error
	switch name {
	case "seq":
		g.Seq, err = strconv.ParseUint(string(value), 10, 64)
	case "time":
		g.Time, err = time.Parse(timeLayout, text)
	case "kind":
		g.Kind = Kind(text)
	case "policy":
		g.Policy = text
	case "sub":
		g.Sub = text
	case "client":
		g.Client = text
	case "server":
		g.Server = text
	case "method":
		g.Method = text
	case "tool":
		g.Tool = text
	case "resource":
		g.Resource = text
	case "effect":
		g.Effect = text
	case "reason":
		g.Reason = text
	case "credential":
		g.Credential = text
	case "status":
		g.Status = text
	case "detail":
		g.Detail = bytes.Clone(value)
	default: // encoding/json takes Seq for seq, too: Encode spells no capitals
		for _, c := range name {
			if c < 'a' || c > 'z' {
				return false
			}
		}
	}
	return err == nil
}

// cutString takes a string literal, quotation marks included, off the front.
func cutString(b []byte) (lit, rest []byte, ok bool) {
	if len(b) == 0 || b[0] != '"' {
		return nil, nil, false
	}
	for i := 1; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			return b[:i+1], b[i+1:], true
		case c == '\\':
			return cutUnusual(b, i)
		case c < 0x20:
			return nil, nil, false
		}
	}
	return nil, nil, false
}

// cutUnusual is cutString for a literal with an escape at i: it finds the end,
// and has encoding/json look at the escapes.
func cutUnusual(b []byte, i int) (lit, rest []byte, ok bool) {
	for ; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return b[:i+1], b[i+1:], json.Valid(b[:i+1])
		}
	}
	return nil, nil, false
}

// cutValue takes a value off the front: a string, a number, or a whole object
// or array, which encoding/json looks through.
func cutValue(b []byte) (value, rest []byte, ok bool) {
	if len(b) == 0 {
		return nil, nil, false
	}
	switch b[0] {
	case '"':
		return cutString(b)
	case '{', '[':
		depth := 0
		for i := 0; i < len(b); i++ {
			switch b[i] {
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return b[:i+1], b[i+1:], json.Valid(b[:i+1])
				}
			case '"':
				lit, _, ok := cutString(b[i:])
				if !ok {
					return nil, nil, false
				}
				i += len(lit) - 1
			}
		}
		return nil, nil, false
	}
	end := bytes.IndexAny(b, ",}")
	if end <= 0 || !json.Valid(b[:end]) {
		return nil, nil, false
	}
	return b[:end], b[end:], true
}
