package mask

import (
	"encoding/binary"
	"math/bits"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// How a string stands between its quotes: RFC 8259 §7.

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
