package wire

import (
	"bytes"
	"strings"
)

// WithData returns the event's bytes with other data. Lines that are not data
// keep every byte; if the data is the same, so do all.
func (e Event) WithData(data []byte) []byte { return e.Rewrite(data, nil) }

// Rewrite is WithData that also passes all other text of the event (comments,
// ids, names, unknown fields) through text, for the mask; what text leaves as
// it is keeps every byte.
//
// The new data lines stand where the first data line stood, in its style. Line
// ends inside data begin a new data line: in JSON they are white space.
func (e Event) Rewrite(data []byte, text func(string) string) []byte {
	if bytes.Equal(data, e.Data) {
		return e.beside(text)
	}
	out := make([]byte, 0, len(e.Raw)+len(data)-len(e.Data)+64)
	written := false
	writeData := func(lead, end []byte) {
		if written {
			return
		}
		written = true
		for _, part := range splitLines(data) {
			out = append(out, lead...)
			if len(part) > 0 && part[0] == ' ' && bytes.HasSuffix(lead, []byte(":")) {
				out = append(out, ' ') // one space after the colon is not data
			}
			out = append(append(out, part...), end...)
			lead = bytes.TrimPrefix(lead, bom)
		}
	}
	eachLine(e.Raw, e.first, func(l line) {
		switch {
		case string(l.field) == "data":
			lead, end := l.lead, l.end
			if len(l.value) == 0 || len(end) == 0 {
				lead, end = dataStyle(l)
			}
			writeData(lead, end)
		case len(l.raw) == len(l.end):
			if !e.HasData && len(data) > 0 && len(out) > 0 {
				writeData([]byte("data: "), []byte("\n"))
			}
			out = append(out, l.raw...)
		case text == nil:
			out = append(out, l.raw...)
		default:
			out = append(out, rewriteLine(l, text)...)
		}
	})
	if !written && len(data) > 0 {
		writeData([]byte("data: "), []byte("\n"))
		out = append(out, '\n')
	}
	return out
}

// beside passes the text beside the data through text. What stays as it is, is
// not copied.
func (e Event) beside(text func(string) string) []byte {
	if text == nil {
		return e.Raw
	}
	var out []byte
	at, done := 0, 0
	eachLine(e.Raw, e.first, func(l line) {
		end := at + len(l.raw)
		if string(l.field) != "data" && len(l.raw) > len(l.end) {
			if now := rewriteLine(l, text); !bytes.Equal(now, l.raw) {
				out = append(append(out, e.Raw[done:at]...), now...)
				done = end
			}
		}
		at = end
	})
	if out == nil {
		return e.Raw
	}
	return append(out, e.Raw[done:]...)
}

// Renumber is WithData that also passes the event's ids through id, for a
// stream that is put together from several. An empty id, which resets the
// client's last one, stays empty.
func (e Event) Renumber(data []byte, id func(string) string) []byte {
	raw := e.WithData(data)
	out := make([]byte, 0, len(raw)+32)
	eachLine(raw, e.first, func(l line) {
		if string(l.field) != "id" || len(l.value) == 0 {
			out = append(out, l.raw...)
			return
		}
		out = append(out, l.lead...)
		out = append(out, strings.NewReplacer("\r", " ", "\n", " ").Replace(id(string(l.value)))...)
		out = append(out, l.end...)
	})
	return out
}

// dataStyle completes the style of a data line that has no value (and maybe
// no colon) or no end, so that data can be put there.
func dataStyle(l line) (lead, end []byte) {
	lead, end = bytes.Clone(l.lead), l.end
	if !bytes.HasSuffix(lead, []byte(" ")) {
		lead = append(bytes.TrimSuffix(lead, []byte(":")), ": "...)
	}
	if len(end) == 0 {
		end = []byte("\n")
	}
	return lead, end
}

// rewriteLine passes a line's text through text: field and value together,
// because a field that nobody knows is text as well. Known fields keep their
// names. A line must stay one line.
func rewriteLine(l line, text func(string) string) []byte {
	keep, inner := l.lead, l.value
	switch string(l.field) {
	case "", "id", "event", "retry":
	default:
		keep, inner = nil, l.raw[:len(l.raw)-len(l.end)]
	}
	was := string(inner)
	now := text(was)
	if now == was {
		return l.raw
	}
	now = strings.NewReplacer("\r", " ", "\n", " ").Replace(now)
	return append(append(bytes.Clone(keep), now...), l.end...)
}

// line is one line of an event: raw is lead, value, end. Lead is the BOM, the
// field's name, the colon and the one space that is not part of the value. A
// comment has an empty field.
type line struct {
	raw, lead, field, value, end []byte
}

func eachLine(b []byte, first bool, visit func(line)) {
	for len(b) > 0 {
		l := line{raw: b}
		if i := lineEnd(b); i >= 0 {
			n := i + 1
			if b[i] == '\r' && n < len(b) && b[n] == '\n' {
				n++
			}
			l.raw, l.end = b[:n:n], b[i:n:n]
		}
		b = b[len(l.raw):]
		content := l.raw[:len(l.raw)-len(l.end)]
		at := 0
		if first && bytes.HasPrefix(content, bom) {
			at = len(bom)
		}
		first = false
		colon := bytes.IndexByte(content[at:], ':')
		if colon < 0 {
			l.lead, l.field = content, content[at:]
			visit(l)
			continue
		}
		l.field = content[at : at+colon]
		valueAt := at + colon + 1
		if valueAt < len(content) && content[valueAt] == ' ' {
			valueAt++
		}
		l.lead, l.value = content[:valueAt:valueAt], content[valueAt:len(content):len(content)]
		visit(l)
	}
}

// lineEnd finds the first CR or LF. It looks at a window at a time: searching
// for one of them in all that is left would be quadratic where there is only
// the other, and searching for both at once is slow.
func lineEnd(b []byte) int {
	const window = 512
	for at := 0; at < len(b); at += window {
		w := b[at:min(at+window, len(b))]
		if i := bytes.IndexByte(w, '\n'); i >= 0 {
			w = w[:i+1]
		}
		if i := bytes.IndexByte(w, '\r'); i >= 0 {
			return at + i
		}
		if w[len(w)-1] == '\n' {
			return at + len(w) - 1
		}
	}
	return -1
}

// splitLines cuts at LF, CRLF and CR.
func splitLines(data []byte) [][]byte {
	var parts [][]byte
	for {
		i := lineEnd(data)
		if i < 0 {
			return append(parts, data)
		}
		parts = append(parts, data[:i])
		if data[i] == '\r' && i+1 < len(data) && data[i+1] == '\n' {
			i++
		}
		data = data[i+1:]
	}
}

// MessageEvent wraps one JSON-RPC message in an event of our own.
func MessageEvent(message []byte) []byte {
	out := make([]byte, 0, len(message)+16)
	for _, part := range splitLines(message) {
		out = append(append(append(out, "data: "...), part...), '\n')
	}
	return append(out, '\n')
}
