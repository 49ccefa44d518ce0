package mask

import (
	"encoding/binary"
	"hash/maphash"
	"math/bits"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
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
	next   []int32
	cursor cursor
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
	d.raw, d.rules, d.cursor = raw, r, cursor{token: -1}
	d.tokens, d.nodes, d.next = d.tokens[:0], d.nodes[:0], d.next[:0]
	d.values.reset()
	d.others.reset()
	d.joins.reset()
	i, ok := d.value(d.space(0), 0, place{in: -1, name: -1})
	return ok && d.space(i) == len(raw)
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
		if i, ok = d.value(d.space(i+1), depth+1, q); !ok {
			return i, false
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

// skipPlain returns the next position at or after i that holds a quote, a
// backslash or a control character; eight bytes at a time.
func skipPlain(b []byte, i int) int {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	for ; i+8 <= len(b); i += 8 {
		x := binary.LittleEndian.Uint64(b[i:])
		q, s := x^ones*'"', x^ones*'\\'
		hit := ((x-ones*0x20) & ^x | (q-ones) & ^q | (s-ones) & ^s) & highs
		if hit != 0 {
			// Borrows can raise false hits only above a true one.
			return i + bits.TrailingZeros64(hit)/8
		}
	}
	for ; i < len(b); i++ {
		if c := b[i]; c < 0x20 || c == '"' || c == '\\' {
			break
		}
	}
	return i
}

// jsonEscapeAt reads the escape at b[i], a backslash: the rune and its length
// in bytes, 0 if it is none that JSON knows. A lone surrogate is U+FFFD.
func jsonEscapeAt(b []byte, i int) (rune, int) {
	if i+1 >= len(b) {
		return 0, 0
	}
	if b[i+1] != 'u' {
		if k := strings.IndexByte(`"\/bfnrt`, b[i+1]); k >= 0 {
			return rune("\"\\/\b\f\n\r\t"[k]), 2
		}
		return 0, 0
	}
	r, ok := hex4(b, i+2)
	if !ok {
		return 0, 0
	}
	if utf16.IsSurrogate(r) {
		if i+7 < len(b) && b[i+6] == '\\' && b[i+7] == 'u' {
			if low, ok := hex4(b, i+8); ok {
				if both := utf16.DecodeRune(r, low); both != utf8.RuneError {
					return both, 12
				}
			}
		}
		return utf8.RuneError, 6
	}
	return r, 6
}

func hex4(b []byte, i int) (rune, bool) {
	if i+4 > len(b) {
		return 0, false
	}
	r := rune(0)
	for _, c := range b[i : i+4] {
		v := unhex[c]
		if v > 15 {
			return 0, false
		}
		r = r<<4 | rune(v)
	}
	return r, true
}

var unhex = func() (t [256]byte) {
	for i := range t {
		t[i] = 255
	}
	for i := range 10 {
		t['0'+i] = byte(i)
	}
	for i := range 6 {
		t['a'+i], t['A'+i] = byte(10+i), byte(10+i)
	}
	return t
}()

// jsonUnescape appends the decoded text of a valid JSON string.
func jsonUnescape(dst, src []byte) []byte {
	for i := 0; i < len(src); {
		if src[i] != '\\' {
			j := skipPlain(src, i)
			dst = append(dst, src[i:j]...)
			i = j
			continue
		}
		r, n := jsonEscapeAt(src, i)
		dst = utf8.AppendRune(dst, r)
		i += n
	}
	return dst
}

// join fills d.joins: for each name (object key or array index) the string
// values that stand under it, in document order. A value split over the text
// of two content blocks, or over a column of rows, is whole there. Of a long
// string only the ends matter, reach bytes each: the rest is in d.values.
func (d *document) join(reach int) {
	d.next = append(d.next[:0], make([]int32, len(d.tokens))...)
	d.chain()
	b := &d.joins
	for i := range d.tokens {
		if d.next[i] <= 0 {
			continue // not the first of several
		}
		for j := int32(i); j > 0 || j == int32(i); {
			t := &d.tokens[j]
			text := d.values.text[t.at : t.at+t.size]
			b.begin(int(j), 0)
			if t.size <= 2*reach {
				b.text = append(b.text, text...)
			} else {
				b.text = append(b.text, text[:reach]...)
				b.separate()
				b.begin(int(j), t.size-reach)
				b.text = append(b.text, text[t.size-reach:]...)
			}
			following := d.next[j]
			d.next[j] = -1 // done
			if following <= 0 {
				break
			}
			j = following
		}
		b.separate()
	}
}

// chain links each string value to the next of its group.
func (d *document) chain() {
	const few = 24
	if len(d.tokens) <= few {
		var last [few]int
		n := 0
	tokens:
		for i := range d.tokens {
			if d.tokens[i].kind != value {
				continue
			}
			for k := range n {
				if d.tokens[last[k]].group == d.tokens[i].group {
					d.next[last[k]] = int32(i)
					last[k] = i
					continue tokens
				}
			}
			last[n] = i
			n++
		}
		return
	}
	last := make(map[uint64]int32)
	for i := range d.tokens {
		if t := &d.tokens[i]; t.kind == value {
			if j, ok := last[t.group]; ok {
				d.next[j] = int32(i)
			}
			last[t.group] = int32(i)
		}
	}
}
