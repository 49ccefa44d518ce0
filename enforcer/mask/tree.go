package mask

import (
	"bytes"
	"strings"
)

// A tree is a JSON value with the offsets of everything in it, so that fields
// can be cut out of it and all else stays as it came.
type tree struct {
	raw   []byte
	items []item
}

// item is a value; its children are chained.
type item struct {
	kind       byte // { [ " 0 (number) t (boolean) n (null)
	start, end int
	from       int    // of a member: where its key begins; else start
	name       string // of a member, decoded
	first      int32  // child; 0: none
	next       int32  // sibling; 0: none
}

// read parses one value at i, and tells whether there is one. Items are added;
// the value's is the first of them. Its strings are valid UTF-8, as the whole
// text is.
func (t *tree) read(i int) (int32, bool) { return t.value(i, 0) }

func (t *tree) space(i int) int {
	for i < len(t.raw) && (t.raw[i] == ' ' || t.raw[i] == '\n' || t.raw[i] == '\r' || t.raw[i] == '\t') {
		i++
	}
	return i
}

func (t *tree) value(i, depth int) (int32, bool) {
	if i >= len(t.raw) || depth > maxDepth || len(t.items) >= maxTokens {
		return 0, false
	}
	at := int32(len(t.items))
	t.items = append(t.items, item{kind: t.raw[i], start: i, from: i})
	end, ok := i, false
	switch c := t.raw[i]; c {
	case '{', '[':
		end, ok = t.children(i, depth, at)
	case '"':
		end, ok = t.str(i)
	case 't':
		end, ok = t.word(i, "true")
	case 'f':
		t.items[at].kind = 't'
		end, ok = t.word(i, "false")
	case 'n':
		end, ok = t.word(i, "null")
	default:
		t.items[at].kind = '0'
		end, ok = t.number(i)
	}
	t.items[at].end = end
	return at, ok
}

func (t *tree) word(i int, word string) (int, bool) {
	end := i + len(word)
	return end, end <= len(t.raw) && string(t.raw[i:end]) == word
}

// number wants the characters of one. Which numbers RFC 8259 allows does not
// matter here: what is malformed in a message was refused before.
func (t *tree) number(i int) (int, bool) {
	start := i
	for i < len(t.raw) && strings.IndexByte("+-.0123456789Ee", t.raw[i]) >= 0 {
		i++
	}
	return i, i > start && t.raw[i-1]-'0' < 10
}

// str returns the end of the string at i, quotes included.
func (t *tree) str(i int) (int, bool) {
	for i++; ; {
		if i = skipPlain(t.raw, i); i >= len(t.raw) || t.raw[i] < 0x20 {
			return i, false
		}
		if t.raw[i] == '"' {
			return i + 1, true
		}
		_, n := jsonEscapeAt(t.raw, i)
		if n == 0 {
			return i, false
		}
		i += n
	}
}

func (t *tree) children(i, depth int, parent int32) (int, bool) {
	object := t.raw[i] == '{'
	closing := byte(']')
	if object {
		closing = '}'
	}
	i = t.space(i + 1)
	if i < len(t.raw) && t.raw[i] == closing {
		return i + 1, true
	}
	last := int32(0)
	for {
		from, name := i, ""
		if object {
			if i >= len(t.raw) || t.raw[i] != '"' {
				return i, false
			}
			end, ok := t.str(i)
			if !ok {
				return end, false
			}
			if literal := t.raw[i+1 : end-1]; bytes.IndexByte(literal, '\\') < 0 {
				name = string(literal)
			} else {
				name = string(jsonUnescape(nil, literal))
			}
			if i = t.space(end); i >= len(t.raw) || t.raw[i] != ':' {
				return i, false
			}
			i = t.space(i + 1)
		}
		at, ok := t.value(i, depth+1)
		if !ok {
			return i, false
		}
		if object {
			t.items[at].from, t.items[at].name = from, name
		}
		if last == 0 {
			t.items[parent].first = at
		} else {
			t.items[last].next = at
		}
		last = at
		if i = t.space(t.items[at].end); i >= len(t.raw) {
			return i, false
		}
		switch t.raw[i] {
		case closing:
			return i + 1, true
		case ',':
			i = t.space(i + 1)
		default:
			return i, false
		}
	}
}

// text is the decoded text of a string item, or a number as it is spelled.
func (t *tree) text(at int32) []byte {
	it := &t.items[at]
	if it.kind != '"' {
		return t.raw[it.start:it.end]
	}
	return jsonUnescape(nil, t.raw[it.start+1:it.end-1])
}
