package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"unicode/utf8"
)

// JSON-RPC error codes of refusals (JSON-RPC 2.0 section 5.1, MCP 2026-07-28
// basic/index "Error Codes").
const (
	CodeParse          = -32700
	CodeInvalidRequest = -32600
	CodeMethodNotFound = -32601
	CodeInvalidParams  = -32602
	CodeInternal       = -32603
	CodeHeaderMismatch = -32020
	CodeCapability     = -32021
	CodeVersion        = -32022
)

// Error says why a message was refused. Reason never quotes a value of the
// message, only protocol words and offsets.
type Error struct {
	Code   int
	Reason string
	Offset int
	ID     []byte // the request's id, only if the whole message was scanned
}

func (e *Error) Error() string {
	if e.Code == CodeHeaderMismatch {
		return e.Reason
	}
	return fmt.Sprintf("%s (at byte %d)", e.Reason, e.Offset)
}

// Limits bounds a message. A zero field means the default.
type Limits struct {
	Bytes int // 4 MiB
	Depth int // 64 nested objects and arrays, the envelope included
}

const (
	defaultBytes = 4 << 20
	defaultDepth = 64
	maxID        = 1024 // an id is kept as long as its call: it must be small
)

// Parse scans raw once and refuses whatever two parsers could read in two
// ways. The message keeps raw; the caller must not change it afterwards. A
// refusal is always an *Error.
func Parse(raw []byte, lim Limits) (*Message, error) {
	if lim.Bytes <= 0 {
		lim.Bytes = defaultBytes
	}
	if lim.Depth <= 0 {
		lim.Depth = defaultDepth
	}
	if len(raw) > min(lim.Bytes, math.MaxUint32) {
		return nil, &Error{Code: CodeInvalidRequest, Reason: fmt.Sprintf("the message is longer than %d bytes", lim.Bytes), Offset: lim.Bytes}
	}
	m := &Message{Raw: raw}
	var room [40]key
	s := scanner{b: raw, m: m, maxDepth: lim.Depth, keys: room[:0]}
	i := skipSpace(raw, 0)
	if i < len(raw) && raw[i] == '[' {
		return nil, &Error{Code: CodeInvalidRequest, Reason: "batches are not served: send one message at a time", Offset: i}
	}
	if i >= len(raw) || raw[i] != '{' {
		return nil, &Error{Code: CodeParse, Reason: "a message must be a JSON object", Offset: i}
	}
	i, err := s.object(i, inEnvelope)
	if err != nil {
		return nil, err
	}
	if i = skipSpace(raw, i); i != len(raw) {
		return nil, &Error{Code: CodeParse, Reason: "data after the end of the message", Offset: i}
	}
	if err := s.finish(); err != nil {
		return nil, err
	}
	return m, nil
}

// place is where in a message the scanner is: which keys mean something.
type place uint8

const (
	elsewhere   place = iota
	inEnvelope        // the message itself
	inParams          // params
	inMeta            // params._meta
	inRef             // params.ref
	inListen          // params.notifications
	inArguments       // params.arguments, its direct members
	inArgument        // deeper in params.arguments
	inResult          // result or error and all below
)

// key is one object key: a range of b, or of scratch when it had escapes.
type key struct {
	start, end uint32
	decoded    bool
}

type scanner struct {
	b        []byte
	m        *Message
	depth    int
	maxDepth int
	keys     []key  // of all open objects, innermost last
	scratch  []byte // decoded keys

	version, id, method, params, result, errorObj Span // envelope members
	name, uri, task, ref, protocol, request       Span // params members
	listen                                        Span // params.notifications
	progress, metaProgress, metaVersion           Span
}

func (s *scanner) fail(i int, reason string) (int, *Error) {
	return i, &Error{Code: CodeParse, Reason: reason, Offset: i}
}

func (s *scanner) text(k key) []byte { return k.text(s.b, s.scratch) }

func (k key) text(b, scratch []byte) []byte {
	if k.decoded {
		return scratch[k.start:k.end]
	}
	return b[k.start:k.end]
}

// Up to linearKeys keys are compared as they come; the rest are sorted once
// the object ends, so that a million keys cost no more than their sorting.
const linearKeys = 16

func (s *scanner) object(i int, at place) (int, *Error) {
	if s.depth++; s.depth > s.maxDepth {
		return s.fail(i, "nested too deeply")
	}
	start, base, scratch := i, len(s.keys), len(s.scratch)
	i = skipSpace(s.b, i+1)
	if i < len(s.b) && s.b[i] == '}' {
		s.depth--
		s.close(at, true)
		return i + 1, nil
	}
	for {
		if i >= len(s.b) || s.b[i] != '"' {
			return s.fail(i, "an object key was expected")
		}
		keyAt := i
		end, escaped, err := s.str(i, at != inResult, at != elsewhere && at != inResult)
		if err != nil {
			return end, err
		}
		k := key{uint32(i + 1), uint32(end - 1), false}
		if escaped {
			from := len(s.scratch)
			s.scratch = unquote(s.scratch, s.b[i+1:end-1])
			k = key{uint32(from), uint32(len(s.scratch)), true}
		}
		name := s.text(k)
		if n := len(s.keys) - base; n < linearKeys {
			for _, other := range s.keys[base:] {
				if bytes.Equal(s.text(other), name) {
					return s.fail(keyAt, "an object has the same key twice")
				}
				if at == inArguments && bytes.EqualFold(s.text(other), name) {
					return s.fail(keyAt, "two arguments differ only in upper and lower case")
				}
			}
		}
		s.keys = append(s.keys, k)
		if err := checkCase(name, at, keyAt); err != nil {
			return keyAt, err
		}
		i = skipSpace(s.b, end)
		if i >= len(s.b) || s.b[i] != ':' {
			return s.fail(i, "a colon was expected after an object key")
		}
		i = skipSpace(s.b, i+1)
		valueAt := i
		if i, err = s.value(i, s.below(name, at)); err != nil {
			return i, err
		}
		s.note(name, at, Span{valueAt, i})
		i = skipSpace(s.b, i)
		if i < len(s.b) && s.b[i] == ',' {
			i = skipSpace(s.b, i+1)
			continue
		}
		if i < len(s.b) && s.b[i] == '}' {
			break
		}
		return s.fail(i, "a comma or the end of the object was expected")
	}
	if own := s.keys[base:]; len(own) > linearKeys {
		if !s.distinct(own, at) {
			return s.fail(start, "an object has the same key twice")
		}
	}
	s.keys, s.scratch = s.keys[:base], s.scratch[:scratch]
	s.depth--
	return i + 1, nil
}

// distinct sorts the keys of a large object and looks for neighbours that are
// equal; among arguments, equal but for their case.
func (s *scanner) distinct(own []key, at place) bool {
	raw, scratch := s.b, s.scratch // not s: it would move to the heap
	slices.SortFunc(own, func(x, y key) int {
		return bytes.Compare(x.text(raw, scratch), y.text(raw, scratch))
	})
	for i := 1; i < len(own); i++ {
		if bytes.Equal(s.text(own[i-1]), s.text(own[i])) {
			return false
		}
	}
	if at != inArguments {
		return true
	}
	seen := make(map[string]bool, len(own))
	for _, k := range own {
		folded := foldKey(s.text(k))
		if seen[folded] {
			return false
		}
		seen[folded] = true
	}
	return true
}

func (s *scanner) array(i int, at place) (int, *Error) {
	if s.depth++; s.depth > s.maxDepth {
		return s.fail(i, "nested too deeply")
	}
	i = skipSpace(s.b, i+1)
	if i < len(s.b) && s.b[i] == ']' {
		s.depth--
		return i + 1, nil
	}
	for {
		var err *Error
		if i, err = s.value(i, at); err != nil {
			return i, err
		}
		i = skipSpace(s.b, i)
		if i < len(s.b) && s.b[i] == ',' {
			i = skipSpace(s.b, i+1)
			continue
		}
		if i < len(s.b) && s.b[i] == ']' {
			s.depth--
			return i + 1, nil
		}
		return s.fail(i, "a comma or the end of the array was expected")
	}
}

func (s *scanner) value(i int, at place) (int, *Error) {
	if i >= len(s.b) {
		return s.fail(i, "the message ends too early")
	}
	switch c := s.b[i]; {
	case c == '{':
		return s.object(i, at)
	case c == '[':
		// A list is never an object of the protocol.
		if at == inArguments {
			at = inArgument
		} else if at != inResult && at != inArgument {
			at = elsewhere
		}
		return s.array(i, at)
	case c == '"':
		end, _, err := s.str(i, at != inResult, at == inArguments || at == inArgument)
		return end, err
	case c == '-' || c >= '0' && c <= '9':
		return s.number(i)
	case c == 't':
		return s.word(i, "true")
	case c == 'f':
		return s.word(i, "false")
	case c == 'n':
		return s.word(i, "null")
	}
	return s.fail(i, "a JSON value was expected")
}

func (s *scanner) word(i int, w string) (int, *Error) {
	if len(s.b)-i < len(w) || string(s.b[i:i+len(w)]) != w {
		return s.fail(i, "a JSON value was expected")
	}
	return i + len(w), nil
}

// number follows RFC 8259 section 6.
func (s *scanner) number(i int) (int, *Error) {
	b := s.b
	digits := func() bool {
		from := i
		for i < len(b) && b[i] >= '0' && b[i] <= '9' {
			i++
		}
		return i > from
	}
	if b[i] == '-' {
		i++
	}
	if i < len(b) && b[i] == '0' {
		i++
	} else if !digits() {
		return s.fail(i, "a number has no digits")
	}
	if i < len(b) && b[i] == '.' {
		i++
		if !digits() {
			return s.fail(i, "a number has no digits after its point")
		}
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		if !digits() {
			return s.fail(i, "a number has no digits in its exponent")
		}
	}
	return i, nil
}

// str scans a string literal at i. Paired refuses unpaired surrogates: text
// that policy sees must mean the same to every parser. In results a lone half
// passes, because servers do cut text in the middle of a character. NoNUL
// refuses U+0000, at which some parsers end the text.
func (s *scanner) str(i int, paired, noNUL bool) (end int, escaped bool, err *Error) {
	b := s.b
	fail := func(reason string) (int, bool, *Error) {
		return i, escaped, &Error{Code: CodeParse, Reason: reason, Offset: i}
	}
	i++
	for {
		for len(b)-i >= 8 && plain(binary.LittleEndian.Uint64(b[i:])) {
			i += 8
		}
		if i >= len(b) {
			return fail("a string does not end")
		}
		switch c := b[i]; {
		case c == '"':
			return i + 1, escaped, nil
		case c == '\\':
			escaped = true
			if i+1 >= len(b) {
				return fail("a string does not end")
			}
			switch b[i+1] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
				i += 2
				continue
			case 'u':
			default:
				return fail("a string has an unknown escape")
			}
			r, ok := hex4(b, i)
			if !ok {
				return fail(`a string has a malformed \u escape`)
			}
			if r == 0 && noNUL {
				return fail("a string that policy sees contains U+0000")
			}
			switch {
			case r >= 0xDC00 && r <= 0xDFFF && paired:
				return fail("a string has an unpaired surrogate")
			case r >= 0xD800 && r <= 0xDBFF:
				low, ok := hex4(b, i+6)
				if ok && low >= 0xDC00 && low <= 0xDFFF {
					i += 6
				} else if paired {
					return fail("a string has an unpaired surrogate")
				}
			}
			i += 6
		case c < 0x20:
			return fail("a string has an unescaped control character")
		case c < utf8.RuneSelf:
			i++
		default:
			r, size := utf8.DecodeRune(b[i:])
			if r == utf8.RuneError && size == 1 {
				return fail("a string is not valid UTF-8")
			}
			i += size
		}
	}
}

// plain reports whether none of eight bytes is a control character, a quote,
// a backslash or outside ASCII. It may report false for a plain word (the
// borrow of a neighbour), never true for one that is not: the tests for bytes
// below n are exact up to and including the first byte that matches.
func plain(w uint64) bool {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	quote := w ^ ones*'"'
	slash := w ^ ones*'\\'
	return (w|(w-ones*0x20)&^w|(quote-ones)&^quote|(slash-ones)&^slash)&highs == 0
}

// hex4 reads the \uXXXX at i.
func hex4(b []byte, i int) (rune, bool) {
	if len(b)-i < 6 || b[i] != '\\' || b[i+1] != 'u' {
		return 0, false
	}
	var r rune
	for _, c := range b[i+2 : i+6] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}
