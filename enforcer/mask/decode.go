package mask

import (
	"bytes"
	"slices"
	"unicode/utf8"
)

// A layer is a text with one encoding taken off, and the way back: for each
// position the place in the text that it was made from. Layers catch what the
// list of wire forms cannot hold: arbitrary mixes of escapes.
type layer struct {
	text  []byte
	cuts  []int
	steps []step
}

// step says that from text[at] on, each byte stands for width bytes of the
// source, the first for those at from. A negative width: all bytes of the step
// together stand for -width bytes. Runs of like escapes share a step, and so
// hostile input cannot make the way back larger than itself by much.
type step struct{ at, from, width int32 }

// add notes that what is appended to text next stands for width bytes at from.
func (l *layer) add(from, width int) {
	s := step{int32(len(l.text)), int32(from), int32(width)}
	if n := len(l.steps) - 1; n >= 0 && width > 0 {
		if o := l.steps[n]; o.width == s.width && o.from+(s.at-o.at)*o.width == s.from {
			return
		}
	}
	l.steps = append(l.steps, s)
}

func (l *layer) plain(from int, b []byte) {
	l.add(from, 1)
	l.text = append(l.text, b...)
}

// back maps text[start:end] to the source.
func (l *layer) back(start, end int) (int, int) {
	s, e := l.at(start), l.at(end-1)
	from, to := s.from, e.from-e.width
	if s.width > 0 {
		from += (int32(start) - s.at) * s.width
	}
	if e.width > 0 {
		to = e.from + (int32(end)-e.at)*e.width
	}
	return int(from), int(to)
}

func (l *layer) at(pos int) step {
	i, found := slices.BinarySearchFunc(l.steps, pos, func(s step, pos int) int { return int(s.at) - pos })
	if !found {
		i--
	}
	for i+1 < len(l.steps) && int(l.steps[i+1].at) == pos { // steps without text come first
		i++
	}
	return l.steps[i]
}

// unescaper reads one escape at b[i]: what it appends and how many bytes it
// read, 0 if there is none.
type unescaper struct {
	lead byte
	read func(dst, b []byte, i int) ([]byte, int)
}

var unescapers = []unescaper{
	{'\\', readBackslash}, {'%', readPercent}, {'&', readEntity},
}

// take removes one kind of escape from buf. An escape that would reach over a
// cut is left alone, unless over says so; straddled reports that one did.
func (u unescaper) take(buf []byte, cuts []int, over bool) (l *layer, straddled bool) {
	if bytes.IndexByte(buf, u.lead) < 0 {
		return nil, false
	}
	l = &layer{text: make([]byte, 0, len(buf))}
	plain, cut, any := 0, 0, false
	flush := func(i int) {
		for ; cut < len(cuts) && cuts[cut] <= i; cut++ {
			if c := cuts[cut]; c > plain {
				l.plain(plain, buf[plain:c])
				plain = c
			}
			l.cuts = append(l.cuts, len(l.text))
		}
		if i > plain {
			l.plain(plain, buf[plain:i])
			plain = i
		}
	}
	for i := 0; i < len(buf); {
		next := bytes.IndexByte(buf[i:], u.lead)
		if next < 0 {
			break
		}
		i += next
		flush(i)
		limit := len(buf)
		if cut < len(cuts) {
			limit = cuts[cut]
		}
		out, n := u.read(l.text, buf[:min(len(buf), i+16)], i)
		if n > 0 && i+n > limit {
			straddled = true
		}
		if n > 0 && i+n > limit && !over {
			out, n = u.read(l.text, buf[:limit], i)
		}
		if n == 0 {
			i++
			continue
		}
		if len(out) == len(l.text)+1 {
			l.add(i, n)
		} else {
			l.add(i, -n)
		}
		l.text = out
		i += n
		plain, any = i, true
	}
	if !any {
		return nil, straddled
	}
	flush(len(buf))
	return l, straddled
}

// readBackslash reads the escapes of JSON, C, Python, SQL's E'…' and shells:
// \uXXXX, \UXXXXXXXX, \xXX, octal, letters; before anything else the backslash
// just goes.
func readBackslash(dst, b []byte, i int) ([]byte, int) {
	if i+1 >= len(b) {
		return dst, 0
	}
	if r, n := jsonEscapeAt(b, i); n > 0 {
		return utf8.AppendRune(dst, r), n
	}
	switch c := b[i+1]; {
	case c == 'x' && i+3 < len(b) && unhex[b[i+2]] < 16 && unhex[b[i+3]] < 16:
		return append(dst, unhex[b[i+2]]<<4|unhex[b[i+3]]), 4
	case c == 'u' && i+2 < len(b) && b[i+2] == '{': // JavaScript, Rust
		r, n := rune(0), i+3
		for ; n < len(b) && unhex[b[n]] < 16 && n < i+9; n++ {
			r = r<<4 | rune(unhex[b[n]])
		}
		if n < len(b) && b[n] == '}' && n > i+3 {
			return utf8.AppendRune(dst, r), n + 1 - i
		}
	case c == 'U':
		if hi, ok := hex4(b, i+2); ok {
			if lo, ok := hex4(b, i+6); ok {
				return utf8.AppendRune(dst, hi<<16|lo), 10
			}
		}
	case c >= '0' && c < '8':
		v, n := 0, 1
		for ; n < 4 && i+n < len(b) && b[i+n] >= '0' && b[i+n] < '8'; n++ {
			v = v<<3 | int(b[i+n]-'0')
		}
		return append(dst, byte(v)), n
	}
	return append(dst, b[i+1]), 2
}

func readPercent(dst, b []byte, i int) ([]byte, int) {
	if i+2 < len(b) && unhex[b[i+1]] < 16 && unhex[b[i+2]] < 16 {
		return append(dst, unhex[b[i+1]]<<4|unhex[b[i+2]]), 3
	}
	return dst, 0
}

var entities = []struct {
	name string
	char byte
}{{"&amp;", '&'}, {"&lt;", '<'}, {"&gt;", '>'}, {"&quot;", '"'}, {"&apos;", '\''}}

// readEntity reads XML's five named entities and numeric references.
func readEntity(dst, b []byte, i int) ([]byte, int) {
	rest := b[i:]
	for _, e := range entities {
		if len(rest) >= len(e.name) && string(rest[:len(e.name)]) == e.name {
			return append(dst, e.char), len(e.name)
		}
	}
	if len(rest) < 4 || rest[1] != '#' {
		return dst, 0
	}
	n, base := 2, rune(10)
	if rest[2]|0x20 == 'x' {
		n, base = 3, 16
	}
	first, r := n, rune(0)
	for ; n < len(rest) && rune(unhex[rest[n]]) < base && r < utf8.MaxRune; n++ {
		r = r*base + rune(unhex[rest[n]])
	}
	if n == first || n >= len(rest) || rest[n] != ';' {
		return dst, 0
	}
	return utf8.AppendRune(dst, r), n + 1
}

// unbase64 gives each byte its six bits in base64, either alphabet; 64 for
// the line breaks that wrap it, 255 for what ends it.
var unbase64 = func() (t [256]byte) {
	for i := range t {
		t[i] = 255
	}
	for i, c := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/" {
		t[c] = byte(i)
	}
	t['-'], t['_'], t['\n'], t['\r'] = 62, 63, 64, 64
	return t
}()

// minRun is the shortest run of base64 that is decoded. Shorter ones cannot
// hold more than the forms of known values already find.
const minRun = 16

// takeBase64 finds the runs of base64 in buf, between cuts. decoded holds what
// they stand for, each as a whole; unwrapped holds those that line breaks
// wrap, without the breaks, so that forms at any alignment show.
func takeBase64(buf []byte, cuts []int) (decoded, unwrapped *layer) {
	cut := 0
	for i := minRun - 1; i < len(buf); {
		if unbase64[buf[i]] > 64 {
			i += minRun // a run of minRun bytes cannot hide between two probes
			continue
		}
		for cut+1 < len(cuts) && cuts[cut+1] <= i {
			cut++
		}
		low, high := 0, len(buf)
		if cut < len(cuts) {
			low = cuts[cut]
		}
		if cut+1 < len(cuts) {
			high = cuts[cut+1]
		}
		start, end, reach, wrapped := base64Run(buf, i, low, high)
		if end-start >= minRun {
			if decoded == nil {
				decoded, unwrapped = &layer{}, &layer{}
			}
			decoded.decodeRun(buf, start, end, start)
			if wrapped {
				// The first line may be prose that ends in a word.
				decoded.decodeRun(buf, start+bytes.IndexByte(buf[start:end], '\n')+1, end, start)
				unwrapped.unwrap(buf, start, end)
			}
		}
		i = max(reach, i+1) + minRun - 1
	}
	return decoded, unwrapped
}

// base64Run widens around i, within low and high. A line break belongs to the
// run, and so does the indentation behind it; padding closes it. All before reach
// was looked at: breaks at either end are not part of the run.
func base64Run(buf []byte, i, low, high int) (start, end, reach int, wrapped bool) {
	start, end = i, i
	for start > low {
		if unbase64[buf[start-1]] > 64 {
			j := start - 1
			for j > low && (buf[j] == ' ' || buf[j] == '\t') {
				j--
			}
			if j == start-1 || buf[j] != '\n' {
				break
			}
			start = j + 1
		}
		start--
	}
	indent := false
	for ; end < high; end++ {
		c := buf[end]
		if unbase64[c] > 64 && !(indent && (c == ' ' || c == '\t')) {
			break
		}
		indent = c == '\n' || indent && (c == ' ' || c == '\t')
	}
	reach = end
	if end-start < minRun {
		return start, end, reach, false
	}
	for end > start && unbase64[buf[end-1]] > 63 { // what a break and indentation left
		end--
	}
	for start < end && unbase64[buf[start]] > 63 {
		start++
	}
	wrapped = bytes.IndexByte(buf[start:end], '\n') >= 0
	for k := 0; k < 2 && end < high && end > start && buf[end] == '='; k++ {
		end++
	}
	return start, end, max(reach, end), wrapped
}

func (l *layer) decodeRun(buf []byte, from, end, start int) {
	l.cuts = append(l.cuts, len(l.text))
	l.add(start, start-end)
	bits, n := uint32(0), 0
	for _, c := range buf[from:end] {
		v := unbase64[c]
		if v >= 64 {
			continue
		}
		bits = bits<<6 | uint32(v)
		if n++; n == 4 {
			l.text = append(l.text, byte(bits>>16), byte(bits>>8), byte(bits))
			n = 0
		}
	}
	switch n {
	case 3:
		l.text = append(l.text, byte(bits>>10), byte(bits>>2))
	case 2:
		l.text = append(l.text, byte(bits>>4))
	}
	l.text = append(l.text, separator...)
}

func (l *layer) unwrap(buf []byte, start, end int) {
	l.cuts = append(l.cuts, len(l.text))
	for i := start; i < end; i++ { // i also steps over what ends a line
		from := i
		for i < end && unbase64[buf[i]] < 64 {
			i++
		}
		if i > from {
			l.plain(from, buf[from:i])
		}
	}
	l.add(end-1, -1)
	l.text = append(l.text, separator...)
}
