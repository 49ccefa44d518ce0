package wire

import (
	"bytes"
	"slices"
)

// Canonical returns the params of a request or notification in the form that
// digests and approvals bind to:
//
//   - the member _meta of params is left out (the protocol version, the
//     client's capabilities, the progress token and tracing change between two
//     identical calls); so are the members of params named in without. A
//     _meta anywhere deeper belongs to the arguments and stays;
//   - the members of every object are sorted by the bytes of their decoded
//     keys;
//   - strings are decoded and escaped again as little as RFC 8259 allows, in
//     the spelling of RFC 8785 section 3.2.2.2: \" \\ \b \t \n \f \r, and
//     \u00xx in lower case for the other control characters;
//   - numbers stay exactly as spelled: 1 and 1.0 differ, and so do 2^53 and
//     2^53+1, which RFC 8785 itself would make equal;
//   - there is no white space.
//
// Absent params are {}. A response has no canonical form: nil.
func (m *Message) Canonical(without ...string) []byte {
	if m.Kind == Response {
		return nil
	}
	if !m.Params.Present() {
		return []byte("{}")
	}
	out := make([]byte, 0, m.Params.End-m.Params.Start)
	return canonicalObject(out, m.Raw, m.Params, func(key []byte) bool {
		return string(key) == "_meta" || slices.Contains(without, string(key))
	})
}

func canonicalValue(out, b []byte, v Span) []byte {
	switch b[v.Start] {
	case '{':
		return canonicalObject(out, b, v, nil)
	case '[':
		out = append(out, '[')
		n := 0
		elements(b, v, func(e Span) {
			if n++; n > 1 {
				out = append(out, ',')
			}
			out = canonicalValue(out, b, e)
		})
		return append(out, ']')
	case '"':
		return appendString(out, decoded(b[v.Start:v.End]))
	}
	return append(out, b[v.Start:v.End]...)
}

func canonicalObject(out, b []byte, v Span, leaveOut func(key []byte) bool) []byte {
	type member struct {
		key   []byte
		value Span
	}
	var all []member
	members(b, v, func(_ Span, key []byte, value Span) bool {
		if leaveOut == nil || !leaveOut(key) {
			all = append(all, member{key, value})
		}
		return true
	})
	slices.SortFunc(all, func(x, y member) int { return bytes.Compare(x.key, y.key) })
	out = append(out, '{')
	for i, m := range all {
		if i > 0 {
			out = append(out, ',')
		}
		out = appendString(out, m.key)
		out = append(out, ':')
		out = canonicalValue(out, b, m.value)
	}
	return append(out, '}')
}

// appendString appends a string literal with only the escapes that JSON asks for.
func appendString(out, text []byte) []byte {
	const hex = "0123456789abcdef"
	out = append(out, '"')
	for _, c := range text {
		switch {
		case c == '"' || c == '\\':
			out = append(out, '\\', c)
		case c >= 0x20:
			out = append(out, c)
		case c == '\b':
			out = append(out, '\\', 'b')
		case c == '\t':
			out = append(out, '\\', 't')
		case c == '\n':
			out = append(out, '\\', 'n')
		case c == '\f':
			out = append(out, '\\', 'f')
		case c == '\r':
			out = append(out, '\\', 'r')
		default:
			out = append(out, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	return append(out, '"')
}
