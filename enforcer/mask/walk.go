package mask

import (
	"hash/maphash"
	"strings"
)

// A document is one JSON text (RFC 8259), strictly read, as the list of its
// strings and numbers with their offsets. Decoded texts lie one behind the
// other in two buffers: values in one, keys and numbers in the other.
type document struct {
	raw    []byte
	rules  *rules
	tokens []token
	nodes  []node
	values buffer // string values: neighbours touch, so that a split value is whole again
	others buffer // keys touch; numbers stand apart
	joins  buffer // string values of the same last name, see join
	// The nodes with "sensitive": true.
	sensitive []int32
	next      []int32
	let       []span // findings that were let through
	cursor    cursor
}

type kind uint8

const (
	value kind = iota
	key
	number
)

// token is a string or a number.
type token struct {
	start, end int // in raw: what is between the quotes; the number itself
	at, size   int // of the decoded text in its buffer
	kind       kind
	escaped    bool
	in         int32  // the node it stands in
	name       int32  // token of its key; or
	index      int32  // its place in an array
	group      uint64 // hash of its last name: key or array index
	rule       *cause // the key rule it is under
}

// node is an object or an array.
type node struct{ up, name, index int32 }

// buffer is text made of the pieces of several tokens. Piece i begins at
// cuts[i] and ends where the next one begins.
type buffer struct {
	text   []byte
	cuts   []int
	pieces []piece
}

type piece struct {
	token int32 // -1: a separator, belongs to none
	from  int32 // offset of the piece in the token's decoded text
}

// separator cannot be part of a form or a token in UTF-8 text.
const separator = "\xff\xff\xff\xff"

func (b *buffer) begin(tok int, from int) {
	b.cuts = append(b.cuts, len(b.text))
	b.pieces = append(b.pieces, piece{int32(tok), int32(from)})
}

func (b *buffer) separate() {
	b.begin(-1, 0)
	b.text = append(b.text, separator...)
}

func (b *buffer) reset() { b.text, b.cuts, b.pieces = b.text[:0], b.cuts[:0], b.pieces[:0] }

// maxTokens bounds the memory that a message of many tiny strings takes.
const maxTokens = 1 << 20

// maxDepth bounds the nesting of arrays and objects.
const maxDepth = 512

var groupSeed = maphash.MakeSeed()

// read fills d from raw, and tells whether it is one JSON value and nothing
// else. The caller has checked the UTF-8.
func (d *document) read(raw []byte, r *rules) bool {
	d.reset(raw, r)
	i, ok := d.value(d.space(0), 0, place{in: -1, name: -1})
	return ok && d.space(i) == len(raw)
}

func (d *document) reset(raw []byte, r *rules) {
	d.raw, d.rules, d.cursor = raw, r, cursor{token: -1}
	d.tokens, d.nodes, d.next, d.sensitive = d.tokens[:0], d.nodes[:0], d.next[:0], d.sensitive[:0]
	d.let = d.let[:0]
	d.values.reset()
	d.others.reset()
	d.joins.reset()
}

// place says where a value stands.
type place struct {
	in, name, index int32
	group           uint64
	rule            *cause
}

func (d *document) space(i int) int {
	for i < len(d.raw) && (d.raw[i] == ' ' || d.raw[i] == '\n' || d.raw[i] == '\r' || d.raw[i] == '\t') {
		i++
	}
	return i
}

func (d *document) value(i, depth int, p place) (int, bool) {
	if i >= len(d.raw) || depth > maxDepth {
		return i, false
	}
	switch c := d.raw[i]; c {
	case '"':
		return d.string(i, value, p)
	case '{':
		return d.object(i, depth, p)
	case '[':
		return d.array(i, depth, p)
	case 't':
		return d.literal(i, "true")
	case 'f':
		return d.literal(i, "false")
	case 'n':
		return d.literal(i, "null")
	default:
		return d.number(i, p)
	}
}

func (d *document) literal(i int, word string) (int, bool) {
	end := i + len(word)
	return end, end <= len(d.raw) && string(d.raw[i:end]) == word
}

func (d *document) open(p place) int32 {
	d.nodes = append(d.nodes, node{p.in, p.name, p.index})
	return int32(len(d.nodes) - 1)
}

func (d *document) object(i, depth int, p place) (int, bool) {
	in := d.open(p)
	i = d.space(i + 1)
	if i < len(d.raw) && d.raw[i] == '}' {
		return i + 1, true
	}
	for {
		if i >= len(d.raw) || d.raw[i] != '"' {
			return i, false
		}
		name := len(d.tokens)
		var ok bool
		if i, ok = d.string(i, key, place{in: in, name: -1}); !ok {
			return i, false
		}
		if i = d.space(i); i >= len(d.raw) || d.raw[i] != ':' {
			return i, false
		}
		text := d.text(name)
		q := place{in: in, name: int32(name), group: maphash.Bytes(groupSeed, text), rule: p.rule}
		if q.rule == nil && len(d.rules.keys) > 0 {
			q.rule = d.rules.keys[strings.ToLower(string(text))]
		}
		from := d.space(i + 1)
		if i, ok = d.value(from, depth+1, q); !ok {
			return i, false
		}
		if d.raw[from] == 't' && string(text) == "sensitive" {
			d.sensitive = append(d.sensitive, in)
		}
		if i = d.space(i); i >= len(d.raw) {
			return i, false
		}
		switch d.raw[i] {
		case '}':
			return i + 1, true
		case ',':
			i = d.space(i + 1)
		default:
			return i, false
		}
	}
}

func (d *document) array(i, depth int, p place) (int, bool) {
	in := d.open(p)
	i = d.space(i + 1)
	if i < len(d.raw) && d.raw[i] == ']' {
		return i + 1, true
	}
	for n := int32(0); ; n++ {
		var ok bool
		q := place{in: in, name: -1, index: n, group: uint64(n) + 1, rule: p.rule}
		if i, ok = d.value(i, depth+1, q); !ok {
			return i, false
		}
		if i = d.space(i); i >= len(d.raw) {
			return i, false
		}
		switch d.raw[i] {
		case ']':
			return i + 1, true
		case ',':
			i = d.space(i + 1)
		default:
			return i, false
		}
	}
}

func (d *document) token(start, end int, k kind, escaped bool, p place) *token {
	d.tokens = append(d.tokens, token{start: start, end: end, kind: k, escaped: escaped,
		in: p.in, name: p.name, index: p.index, group: p.group, rule: p.rule})
	return &d.tokens[len(d.tokens)-1]
}

func (d *document) buffer(k kind) *buffer {
	if k == value {
		return &d.values
	}
	return &d.others
}

// text is the decoded text of a token.
func (d *document) text(tok int) []byte {
	t := &d.tokens[tok]
	return d.buffer(t.kind).text[t.at : t.at+t.size]
}

func (d *document) string(i int, k kind, p place) (int, bool) {
	if len(d.tokens) >= maxTokens {
		return i, false
	}
	start := i + 1
	end, escaped := start, false
	for {
		if end = skipPlain(d.raw, end); end >= len(d.raw) || d.raw[end] < 0x20 {
			return end, false
		}
		if d.raw[end] == '"' {
			break
		}
		_, n := jsonEscapeAt(d.raw, end)
		if n == 0 {
			return end, false
		}
		end, escaped = end+n, true
	}
	b := d.buffer(k)
	tok := len(d.tokens)
	t := d.token(start, end, k, escaped, p)
	b.begin(tok, 0)
	t.at = len(b.text)
	if escaped {
		b.text = jsonUnescape(b.text, d.raw[start:end])
	} else {
		b.text = append(b.text, d.raw[start:end]...)
	}
	t.size = len(b.text) - t.at
	return end + 1, true
}

// number reads by the grammar of RFC 8259 §6.
func (d *document) number(i int, p place) (int, bool) {
	start := i
	digits := func() bool {
		from := i
		for i < len(d.raw) && d.raw[i]-'0' < 10 {
			i++
		}
		return i > from
	}
	if d.raw[i] == '-' {
		i++
	}
	zero := i < len(d.raw) && d.raw[i] == '0'
	if from := i; !digits() || zero && i > from+1 {
		return i, false
	}
	if i < len(d.raw) && d.raw[i] == '.' {
		if i++; !digits() {
			return i, false
		}
	}
	if i < len(d.raw) && d.raw[i]|0x20 == 'e' {
		if i++; i < len(d.raw) && (d.raw[i] == '+' || d.raw[i] == '-') {
			i++
		}
		if !digits() {
			return i, false
		}
	}
	if i-start < minNeedle && p.rule == nil {
		return i, true // too short to hold a known value
	}
	if len(d.tokens) >= maxTokens {
		return i, false
	}
	tok := len(d.tokens)
	t := d.token(start, i, number, false, p)
	d.others.separate()
	d.others.begin(tok, 0)
	t.at, t.size = len(d.others.text), i-start
	d.others.text = append(d.others.text, d.raw[start:i]...)
	d.others.separate()
	return i, true
}
