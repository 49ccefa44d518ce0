package wire

import "unicode/utf8"

// The functions here walk over JSON that Parse accepted: they check nothing.
// On anything else they stop early, and never read outside of it.

// members calls visit for each direct member of the object in a span: the key
// literal, the decoded key, and its value. It stops when visit returns false.
func members(b []byte, object Span, visit func(key Span, name []byte, value Span) bool) {
	if !within(b, object) || b[object.Start] != '{' {
		return
	}
	b = b[:object.End]
	i := skipSpace(b, object.Start+1)
	for i < len(b) && b[i] == '"' {
		key := Span{i, skipValue(b, i)}
		i = skipSpace(b, key.End)
		i = skipSpace(b, i+1) // the colon
		value := Span{i, skipValue(b, i)}
		if !value.Present() || key.End-key.Start < 2 || !visit(key, decoded(b[key.Start:key.End]), value) {
			return
		}
		i = skipSpace(b, value.End)
		if i >= len(b) || b[i] != ',' {
			return
		}
		i = skipSpace(b, i+1)
	}
}

// elements calls visit for each element of the array in a span.
func elements(b []byte, array Span, visit func(Span)) {
	if !within(b, array) || b[array.Start] != '[' {
		return
	}
	b = b[:array.End]
	i := skipSpace(b, array.Start+1)
	for i < len(b) && b[i] != ']' {
		value := Span{i, skipValue(b, i)}
		if !value.Present() {
			return
		}
		visit(value)
		i = skipSpace(b, value.End)
		if i >= len(b) || b[i] != ',' {
			return
		}
		i = skipSpace(b, i+1)
	}
}

func within(b []byte, s Span) bool {
	return s.Present() && s.Start >= 0 && s.End <= len(b)
}

// skipValue returns the end of the value that starts at i.
func skipValue(b []byte, i int) int {
	depth := 0
	for i < len(b) {
		switch b[i] {
		case '"':
			i++
			for i < len(b) && b[i] != '"' {
				if b[i] == '\\' {
					i++
				}
				i++
			}
			i = min(i+1, len(b))
		case '{', '[':
			depth++
			i++
		case '}', ']':
			depth--
			i++
		case ',', ':', ' ', '\t', '\n', '\r':
			if depth == 0 {
				return i
			}
			i++
			continue
		default:
			for i < len(b) && !delimiter(b[i]) {
				i++
			}
		}
		if depth <= 0 {
			return i
		}
	}
	return i
}

func delimiter(c byte) bool {
	switch c {
	case ',', ':', '}', ']', '{', '[', '"', ' ', '\t', '\n', '\r':
		return true
	}
	return false
}

// unquote appends the decoded text of a string literal's inside. A lone half
// of a surrogate pair, which only results may contain, becomes U+FFFD.
func unquote(dst, b []byte) []byte {
	for i := 0; i < len(b); i++ {
		if b[i] != '\\' || i+1 >= len(b) {
			dst = append(dst, b[i])
			continue
		}
		i++
		switch b[i] {
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		case 'u':
			r, ok := hex4(b, i-1)
			if !ok {
				continue
			}
			i += 4
			if r >= 0xD800 && r <= 0xDBFF {
				if low, ok := hex4(b, i+1); ok && low >= 0xDC00 && low <= 0xDFFF {
					r = (r-0xD800)<<10 + (low - 0xDC00) + 0x10000
					i += 6
				}
			}
			dst = utf8.AppendRune(dst, r)
		default:
			dst = append(dst, b[i])
		}
	}
	return dst
}
