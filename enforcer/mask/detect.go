package mask

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"slices"
)

// detectorSet is the detectors in force, ready to run: a bitmap over the
// first three bytes of their prefixes, then a short list a bucket.
type detectorSet struct {
	bits    [1 << (probeBits - 6)]uint64
	buckets [1 << probeBits][]candidate
	causes  []cause // by detector
}

type candidate struct {
	prefix string
	probe  int
	number int
}

const probeBits = 12

func probeHash(g uint32) uint32 { return (g * 0x9E3779B1) >> (32 - probeBits) }

func newDetectorSet(disable []string) *detectorSet {
	ds := &detectorSet{causes: make([]cause, len(detectors))}
	for i, d := range detectors {
		ds.causes[i] = causeOf(d.name, "")
		if slices.Contains(disable, d.name) {
			continue
		}
		for _, p := range d.prefixes {
			h := probeHash(uint32(p[d.probe]) | uint32(p[d.probe+1])<<8 | uint32(p[d.probe+2])<<16)
			ds.bits[h>>6] |= 1 << (h & 63)
			ds.buckets[h] = append(ds.buckets[h], candidate{p, d.probe, i})
		}
	}
	return ds
}

// scan appends what the detectors find in buf. Cuts are the seams between
// strings: a token ends at one, unless it is complete only beyond it.
func (ds *detectorSet) scan(buf []byte, cuts []int, c *clock, found []finding) []finding {
	var m memo
	const chunk = 1 << 16
	cut, skip := 0, 0
	for lo := 0; lo+3 <= len(buf); lo += chunk {
		if c.work(chunk / 2) {
			return found
		}
		hi := min(lo+chunk, len(buf)-2)
		for i := lo; i < hi; i++ {
			var g uint32
			if i+4 <= len(buf) {
				g = binary.LittleEndian.Uint32(buf[i:]) & 0xFFFFFF
			} else {
				g = uint32(buf[i]) | uint32(buf[i+1])<<8 | uint32(buf[i+2])<<16
			}
			h := probeHash(g)
			if ds.bits[h>>6]&(1<<(h&63)) == 0 || i < skip {
				continue
			}
			for _, k := range ds.buckets[h] {
				start := i - k.probe
				if start < 0 || len(buf)-start < len(k.prefix) || string(buf[start:start+len(k.prefix)]) != k.prefix {
					continue
				}
				for cut < len(cuts) && cuts[cut] <= start {
					cut++
				}
				f, ok := ds.try(buf, start, k, cuts, cut, &m)
				if c.work(64) {
					return found
				}
				if ok {
					found = append(found, f)
					skip = f.end
				}
			}
		}
	}
	return found
}

// try matches one detector at start; cuts[cut] is the first seam behind start.
func (ds *detectorSet) try(buf []byte, start int, k candidate, cuts []int, cut int, m *memo) (finding, bool) {
	d := &detectors[k.number]
	first := cut > 0 && cuts[cut-1] == start
	if !d.loose && start > 0 && !first && isAlnum(buf[start-1]) {
		return finding{}, false
	}
	limit := len(buf)
	if cut < len(cuts) {
		limit = cuts[cut]
	}
	body := start + len(k.prefix)
	f := finding{start: start, cause: &ds.causes[k.number]}
	match := func(text []byte, cross bool) bool {
		if body > len(text) {
			return false
		}
		if d.check != nil {
			var ok bool
			f.start, f.end, ok = d.check(text, start, body)
			return ok
		}
		end, ok := matchParts(text, body, d.parts, cross, k.number, m)
		f.end = end
		return ok
	}
	if match(buf[:limit], false) {
		return f, true
	}
	if limit == len(buf) || d.whole || !match(buf, true) || f.end <= limit {
		return finding{}, false
	}
	// Complete only beyond the seam. Of an open-ended last part, the rest of
	// the string that completes it belongs to it too.
	if d.check == nil {
		i, _ := slices.BinarySearch(cuts, f.end)
		limit = len(buf)
		if i < len(cuts) {
			limit = cuts[i]
		}
		last := d.parts[len(d.parts)-1]
		for n := last.min; f.end < limit && n < last.max && classOf[buf[f.end]]&last.set != 0; n++ {
			f.end++
		}
	}
	return f, true
}

// memo remembers how far long runs reach, so that hostile input with many
// prefixes in one run is still read in linear time.
type memo [8]struct {
	key        int
	start, end int
}

const longPart = 512

// runEnd returns the end of the run of set characters from i, up to max.
func (m *memo) runEnd(text []byte, i int, p *part, key int) int {
	limit := len(text)
	if p.max < longPart {
		limit = min(limit, i+p.max)
		end := i
		for end < limit && classOf[text[end]]&p.set != 0 {
			end++
		}
		return end
	}
	e := &m[key&7]
	if e.key != key+1 || i < e.start || i >= e.end || e.end > limit {
		end := i
		for end < limit && classOf[text[end]]&p.set != 0 {
			end++
		}
		e.key, e.start, e.end = key+1, i, end
	}
	return min(e.end, i+p.max)
}

// matchParts matches parts one behind the other from i. Over a seam (cross)
// nothing says where the token ends: parts take what they must, and no more.
func matchParts(text []byte, i int, ps []part, cross bool, detector int, m *memo) (int, bool) {
	for n := range ps {
		p := &ps[n]
		if p.lit != "" {
			if len(text)-i < len(p.lit) || string(text[i:i+len(p.lit)]) != p.lit {
				return i, false
			}
			i += len(p.lit)
			continue
		}
		last := n == len(ps)-1
		var end int
		if cross && last {
			end = i
			for end < len(text) && end < i+p.min && classOf[text[end]]&p.set != 0 {
				end++
			}
		} else {
			key := detector*4 + n
			if cross { // sees further: not the same run
				key += 1 << 16
			}
			end = m.runEnd(text, i, p, key)
		}
		if end-i < p.min {
			return i, false
		}
		if last && !cross && p.min == p.max && end < len(text) && classOf[text[end]]&p.set != 0 {
			return i, false // longer than any token of this format
		}
		if p.digit && !bytes.ContainsAny(text[i:end], "0123456789") {
			return i, false
		}
		i = end
	}
	return i, true
}

// checkBasic wants base64 of user:password.
func checkBasic(text []byte, start, body int) (int, int, bool) {
	end := body
	for end < len(text) && end < body+4096 && classOf[text[end]]&b64std != 0 {
		end++
	}
	plain, err := base64.RawStdEncoding.DecodeString(string(bytes.TrimRight(text[body:end], "=")))
	return start, end, err == nil && bytes.IndexByte(plain, ':') >= 0
}

// checkURL wants user:password@ behind ://, and masks the password.
func checkURL(text []byte, start, body int) (int, int, bool) {
	colon := -1
	for i := body; i < len(text) && i < body+1024; i++ {
		switch c := text[i]; {
		case c == '@':
			from := colon + 1
			ok := colon >= 0 && i > from && len(bytes.Trim(text[from:i], "*")) > 0
			return from, i, ok
		case c == ':' && colon < 0:
			colon = i
		case c <= ' ', c == '/', c == '"', c == '<', c == '>', c == '`':
			return 0, 0, false
		}
	}
	return 0, 0, false
}

// checkPEM wants the armour of a private key. A block whose end is missing is
// masked as far as it looks like one.
func checkPEM(text []byte, start, body int) (int, int, bool) {
	const dashes = "-----"
	title := text[body:min(len(text), body+64)]
	n := bytes.Index(title, []byte(dashes))
	if n < 0 || !bytes.Contains(title[:n], []byte("PRIVATE KEY")) {
		return 0, 0, false
	}
	i := body + n + len(dashes)
	rest := text[i:min(len(text), i+64<<10)]
	if n := bytes.Index(rest, []byte(dashes)); n >= 0 && bytes.HasPrefix(rest[n:], []byte(dashes+"END ")) {
		end := i + n + len(dashes)
		if m := bytes.Index(text[end:min(len(text), end+64)], []byte(dashes)); m >= 0 {
			end += m + len(dashes)
		}
		return start, end, true
	}
	end, size := i, 0
	for i < len(text) {
		for i < len(text) && (text[i] <= ' ' || text[i] == '\\') {
			i++
		}
		from := i
		for i < len(text) && classOf[text[i]]&b64std != 0 {
			i++
		}
		if i-from < 16 {
			break
		}
		end, size = i, size+i-from
	}
	return start, end, size >= 32
}
