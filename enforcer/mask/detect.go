package mask

import (
	"bytes"
	"encoding/binary"
	"slices"
	"sync"
)

// prefixIndex finds where a prefix may stand. One pass over the text takes four
// bytes at a time, letters folded to lower case, and asks a bitmap whether any
// prefix holds them; few do, and of these a slot names the prefixes that may
// stand there. Then the shape behind the prefix is verified.
type prefixIndex struct {
	bits    [1 << (probeBits - 6)]uint64
	slots   [1 << probeBits]uint16 // index of a bucket, from 1
	buckets [][]candidate
}

// detectorSet is the detectors in force, ready to run.
type detectorSet struct {
	*prefixIndex
	causes []cause // by detector
	off    []bool  // by detector
	own    []Pattern
	owned  []cause // by own
}

type candidate struct {
	prefix string
	probe  int
	number int
	is     *[256]bool // what the first min characters behind the prefix are of
	min    int        // 0: nothing is known of them
}

// may looks at two of the characters behind the prefix: most places where a
// prefix stands are no token, and need no closer look.
func (k *candidate) may(buf []byte, body int) bool {
	return k.min == 0 || body+k.min <= len(buf) && k.is[buf[body]] && k.is[buf[body+k.min-1]]
}

const (
	probeBits = 16
	probeSize = 4
	foldCase  = 0x20202020
)

func probeHash(g uint32) uint32 { return ((g | foldCase) * 0x9E3779B1) >> (32 - probeBits) }

// theIndex is of all detectors. Those that are off are left out as they are met.
var theIndex = sync.OnceValue(func() *prefixIndex {
	ix := &prefixIndex{}
	for i := range detectors {
		d := &detectors[i]
		for _, p := range d.prefixes {
			for _, gram := range d.grams(p) {
				c := candidate{prefix: p, probe: d.probe, number: i}
				if d.check == nil && len(d.parts) > 0 && d.parts[0].is != nil {
					c.is, c.min = d.parts[0].is, d.parts[0].min
				}
				ix.enter(gram, c)
			}
		}
	}
	for _, b := range ix.buckets { // of two that fit, the one that says more
		slices.SortStableFunc(b, func(a, b candidate) int { return len(b.prefix) - len(a.prefix) })
	}
	return ix
})

func newDetectorSet(disable []string, own []Pattern) *detectorSet {
	ds := &detectorSet{prefixIndex: theIndex(), causes: make([]cause, len(detectors)), off: make([]bool, len(detectors)), own: own}
	for i := range detectors {
		ds.causes[i] = causeOf(detectors[i].name, "")
		ds.off[i] = slices.Contains(disable, detectors[i].name)
	}
	for _, p := range own {
		ds.owned = append(ds.owned, causeOf(p.ID, ""))
	}
	return ds
}

// enter puts a candidate under four bytes; those that differ in case share one.
func (ix *prefixIndex) enter(gram []byte, c candidate) {
	h := probeHash(binary.LittleEndian.Uint32(gram))
	ix.bits[h>>6] |= 1 << (h & 63)
	if ix.slots[h] == 0 {
		ix.buckets = append(ix.buckets, nil)
		ix.slots[h] = uint16(len(ix.buckets))
	}
	if b := &ix.buckets[ix.slots[h]-1]; !slices.Contains(*b, c) {
		*b = append(*b, c)
	}
}

// grams are the four bytes that are looked for, of one prefix. A shorter prefix
// is completed by all that may follow it.
func (d *detector) grams(prefix string) [][]byte {
	if len(prefix) >= d.probe+probeSize {
		return [][]byte{[]byte(prefix[d.probe : d.probe+probeSize])}
	}
	out := [][]byte{[]byte(prefix)}
	for n := 0; len(out[0]) < probeSize; n++ {
		is := &anyByte
		if len(d.parts) > 0 && d.parts[0].is != nil && n < d.parts[0].min {
			is = d.parts[0].is
		}
		var longer [][]byte
		for _, o := range out {
			var seen [256]bool // the other case has the same hash
			for c := range 256 {
				if is[c] && !seen[c|foldCase&0xFF] {
					seen[c|foldCase&0xFF] = true
					longer = append(longer, append(slices.Clone(o), byte(c)))
				}
			}
		}
		out = longer
	}
	return out
}

var anyByte = func() (t [256]bool) {
	for c := range t {
		t[c] = true
	}
	return t
}()

// scan appends what the detectors find in buf. Cuts are the seams between
// strings: a token ends at one, unless it is complete only beyond it. Where no
// structures are asked for, what is known by what is around it is left out.
func (ds *detectorSet) scan(buf []byte, cuts []int, structures bool, c *clock, found []finding) []finding {
	var l *look
	first := len(found)
	const chunk = 1 << 16
	cut, skip := 0, 0
	softly := 0 // up to where what is around has told all
	for lo := 0; lo+probeSize <= len(buf); lo += chunk {
		if c.work(chunk / 2) {
			return found
		}
		hi := min(lo+chunk, len(buf)-probeSize+1)
		for i := lo; i < hi; i++ {
			h := probeHash(binary.LittleEndian.Uint32(buf[i:]))
			if ds.bits[h>>6]&(1<<(h&63)) == 0 || i < skip {
				continue
			}
			best := finding{end: -1}
			bucket := ds.buckets[ds.slots[h]-1]
			for n := range bucket {
				k := &bucket[n]
				start := i - k.probe
				soft := detectors[k.number].soft
				if start < 0 || len(buf)-start < len(k.prefix) || ds.off[k.number] || soft && (start < softly || !structures) || !begins(buf[start:], k) || !k.may(buf, start+len(k.prefix)) {
					continue
				}
				for cut < len(cuts) && cuts[cut] <= start {
					cut++
				}
				if l == nil {
					l = looks.Get().(*look)
					*l = look{}
					defer looks.Put(l)
				}
				before := l.read
				f, ok := ds.try(l, buf, start, k, cuts, cut)
				if c.work(64 + l.read - before) {
					return found
				}
				switch {
				case !ok:
				case soft:
					found = append(found, f)
					softly = f.end
				case f.end > best.end:
					best = f
				}
			}
			if best.end < 0 {
				continue
			}
			skip = best.end
			// password: ghp_… is reported as what it is.
			if n := len(found) - 1; n >= first && found[n].start <= best.start && best.end <= found[n].end {
				found[n].cause = best.cause
			} else {
				found = append(found, best)
			}
		}
	}
	return found
}

func begins(text []byte, k *candidate) bool {
	if !detectors[k.number].fold {
		return string(text[:len(k.prefix)]) == k.prefix
	}
	for i := range len(k.prefix) {
		c := text[i]
		if c-'A' < 26 {
			c |= 0x20
		}
		if c != k.prefix[i] {
			return false
		}
	}
	return true
}

// try matches one detector at start; cuts[cut] is the first seam behind start.
func (ds *detectorSet) try(l *look, buf []byte, start int, k *candidate, cuts []int, cut int) (finding, bool) {
	d := &detectors[k.number]
	low, limit := 0, len(buf)
	if cut > 0 {
		low = cuts[cut-1]
	}
	if cut < len(cuts) {
		limit = cuts[cut]
	}
	f := finding{start: start, cause: &ds.causes[k.number]}
	body := start + len(k.prefix)
	if d.lead != nil {
		if f.start = d.leads(buf, low, start); f.start < 0 {
			return finding{}, false
		}
	}
	boundary := d.loose || f.start == low || !isAlnum(buf[f.start-1])
	if !boundary && d.sum == nil {
		return finding{}, false
	}
	match := func(text []byte, cross bool) bool {
		if body > len(text) {
			return false
		}
		l.text = text
		var ok bool
		if d.check != nil {
			f.start, f.end, ok = d.check(l, start, body)
			return ok && f.start < f.end && !bytes.HasPrefix(text[f.start:], []byte("[masked"))
		}
		if f.end, ok = d.match(l, body, cross); !ok {
			return false
		}
		// In the middle of a word only a checksum tells a token.
		return boundary || d.sum(text[body:f.end])
	}
	if match(buf[:limit], false) {
		return f, true
	}
	if limit == len(buf) || d.whole || !match(buf, true) || f.end <= limit {
		return finding{}, false
	}
	// Complete only beyond the seam. Of an open-ended last part, the rest of
	// the string that completes it belongs to it too.
	if d.check == nil && len(d.parts) > 0 {
		i, _ := slices.BinarySearch(cuts, f.end)
		limit = len(buf)
		if i < len(cuts) {
			limit = cuts[i]
		}
		last := &d.parts[len(d.parts)-1]
		for n := last.min; last.is != nil && f.end < limit && n < last.max && last.is[buf[f.end]]; n++ {
			f.end++
		}
	}
	return f, true
}

// leads returns where a token begins whose prefix, at start, stands in its
// middle; -1 if what is in front has not the length for it.
func (d *detector) leads(buf []byte, low, start int) int {
	i := start
	for i > low && start-i <= d.lead.max && d.lead.is[buf[i-1]] {
		i--
	}
	switch {
	case start-i < d.lead.min:
		return -1
	case start-i > d.lead.max:
		if !d.loose {
			return -1
		}
		return start - d.lead.max
	}
	return i
}

// match matches what follows a prefix, from i. Over a seam (cross) nothing says
// where the token ends: the last part takes what it must, and no more.
func (d *detector) match(l *look, i int, cross bool) (int, bool) {
	body, reach := i, i
	for n := range d.parts {
		p := &d.parts[n]
		if p.lit != "" {
			if len(l.text)-i < len(p.lit) || string(l.text[i:i+len(p.lit)]) != p.lit {
				return i, false
			}
			i += len(p.lit)
			continue
		}
		end := l.run(i, p)
		reach = end
		if end-i < p.min {
			return i, false
		}
		switch last := n == len(d.parts)-1; {
		case last && cross:
			end = i + p.min
		case last && end-i > p.max:
			return i, false // longer than any token of this format
		case !last && end-i > p.max:
			end = i + p.max // the next part may begin with the same characters
		case !last && p.min == p.max:
			end = i + p.min
		}
		i = end
	}
	if d.digit {
		first := l.reach(&l.digits, body, noDigit)
		if first >= max(i, reach) {
			return i, false
		}
		i = max(i, first+1)
	}
	// What ends in EXAMPLE stands in a vendor's documentation.
	return i, shannon(l.text[body:i]) >= d.floor && !bytes.HasSuffix(l.text[body:i], []byte("EXAMPLE"))
}
