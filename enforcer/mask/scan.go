package mask

import (
	"encoding/binary"
	"hash/maphash"
	"slices"
)

// cause is what found something, and the name it goes by in the text.
type cause struct{ detector, label, text string }

const known = "known"

func causeOf(detector, label string) cause {
	name := label
	if name == "" {
		name = detector
	}
	return cause{detector, label, "[masked: " + name + "]"}
}

// finding says that buf[start:end] must go.
type finding struct {
	start, end int
	cause      *cause
}

// search is one look at one message: what to look for, and for how long.
type search struct {
	index     *index
	rules     *rules
	clock     clock
	allowed   []*allowance
	within    string // the place of the document in the message
	batch     bool   // the document is an array of messages, places are within each
	knownOnly bool   // no detectors: for the last look at what goes out
	matches   []match
	layers    map[uint64]int // those that were looked through, by hash: at which depth
}

// maxLayers is how many encodings, one over the other, are taken off before
// the forms are looked for, which themselves hold up to two more.
const maxLayers = 2

// all appends every finding in buf, at any layer of encoding.
func (s *search) all(buf []byte, cuts []int, depth int, found []finding) []finding {
	if len(buf) < minNeedle {
		return found
	}
	if depth == 0 {
		clear(s.layers)
	}
	first := len(found) // what is before has the offsets of another layer
	s.matches = s.index.scan(buf, &s.clock, s.matches[:0])
	for _, m := range s.matches {
		f := finding{m.start, m.end, &m.needle.secret.cause}
		if m.needle.b64 {
			f.start, f.end = wholeRun(buf, cuts, f.start, f.end)
		}
		// Many hits of one value, one in the other, are one.
		if n := len(found) - 1; n >= first && found[n].cause == f.cause && found[n].start <= f.start && f.start < found[n].end {
			found[n].end = max(found[n].end, f.end)
			continue
		}
		found = append(found, f)
	}
	if !s.knownOnly {
		ds := s.rules.detectors
		found = ds.search(buf, cuts, &s.clock, ds.scan(buf, cuts, depth < maxLayers, &s.clock, found))
	} else if s.index.empty() {
		return found
	}
	if depth >= maxLayers {
		return found
	}
	// Base64 comes first: what it stands for is mostly the same where other
	// escapes were taken off before, and need not be seen again.
	decoded, unwrapped := takeBase64(buf, cuts)
	found = s.layer(decoded, depth, found)
	// What line breaks wrap is looked through for known values only: a detector
	// would take the next line for more of its token.
	was := s.knownOnly
	s.knownOnly = true
	found = s.layer(unwrapped, depth, found)
	s.knownOnly = was
	for _, u := range unescapers {
		l, straddled := u.take(buf, cuts, false)
		found = s.layer(l, depth, found)
		if straddled {
			l, _ = u.take(buf, cuts, true)
			found = s.layer(l, depth, found)
		}
	}
	return found
}

// seen tells whether a layer's text was looked through at this depth or above,
// so that all below it was, too: two encodings taken off in the one order and in
// the other mostly leave the same text.
func (s *search) seen(l *layer, depth int) bool {
	var h maphash.Hash
	h.SetSeed(groupSeed)
	_, _ = h.Write(l.text) // never fails
	var b [8]byte
	for _, c := range l.cuts {
		binary.LittleEndian.PutUint64(b[:], uint64(c))
		_, _ = h.Write(b[:])
	}
	if s.knownOnly {
		_ = h.WriteByte(1)
	}
	sum := h.Sum64()
	if at, ok := s.layers[sum]; ok && at <= depth {
		return true
	}
	if s.layers == nil {
		s.layers = map[uint64]int{}
	}
	s.layers[sum] = depth
	return false
}

// layer looks through l, and brings what it finds back to l's source.
func (s *search) layer(l *layer, depth int, found []finding) []finding {
	if l == nil || s.clock.work(len(l.text)) || s.seen(l, depth+1) {
		return found
	}
	from := len(found)
	found = s.all(l.text, l.cuts, depth+1, found)
	for i := from; i < len(found); i++ {
		found[i].start, found[i].end = l.back(found[i].start, found[i].end)
	}
	return found
}

// wholeRun widens a piece of base64 to the run it stands in: the characters
// at its edges hold bits of the value, and half a run is of no use to anyone.
func wholeRun(buf []byte, cuts []int, start, end int) (int, int) {
	i, _ := slices.BinarySearch(cuts, start+1)
	low, high := 0, len(buf)
	if i > 0 {
		low = cuts[i-1]
	}
	if i, _ = slices.BinarySearch(cuts, end); i < len(cuts) {
		high = cuts[i]
	}
	for start > low && unbase64[buf[start-1]] < 64 {
		start--
	}
	for end < high && unbase64[buf[end]] < 64 {
		end++
	}
	for k := 0; k < 2 && end < high && buf[end] == '='; k++ {
		end++
	}
	return start, end
}

// span is a finding within one token: decoded[start:end] becomes with.
type span struct {
	token      int
	start, end int
	with       string // as it stands in the token's decoded text
	cause      *cause
	place      string // within the token, for JSON in text
}

// maxNested is how deep JSON in the strings of JSON is read.
const maxNested = 3

// document reads raw and appends what must go, by token and start, merged so
// that nothing overlaps. It tells whether raw is JSON.
func (s *search) document(d *document, raw []byte, nested int) ([]span, bool) {
	if s.clock.work(len(raw)) || !d.read(raw, s.rules) {
		return nil, false
	}
	var spans []span
	for i := range d.tokens {
		spans = s.token(d, i, nested, spans)
	}
	spans = s.fields(d, spans)
	spans = s.spread(d, &d.values, false, spans)
	spans = s.spread(d, &d.others, false, spans)
	if d.join(max(4096, 4*s.index.longest)); len(d.joins.text) > 0 {
		spans = s.spread(d, &d.joins, true, spans)
	}
	if len(spans) == 0 {
		return nil, true
	}
	for i := range spans {
		spans[i] = d.whole(spans[i])
		if t := &d.tokens[spans[i].token]; t.kind == number {
			spans[i].start, spans[i].end = 0, t.size
			spans[i].with = `"` + spans[i].cause.text + `"`
		}
	}
	return merge(spans), true
}

// token looks at what concerns one token alone: key rules, JSON in its text.
func (s *search) token(d *document, i, nested int, spans []span) []span {
	t := &d.tokens[i]
	if t.rule != nil && t.kind != key && !s.knownOnly && t.size > 0 && !s.allows(t.rule, d.text(i), func() string { return s.placeOf(d, i) }) {
		c := t.rule
		if string(d.text(i)) == c.text {
			return spans
		}
		return append(spans, span{token: i, end: t.size, with: c.text, cause: c})
	}
	if t.kind != value || nested >= maxNested || t.size < 2 {
		return spans
	}
	text := d.text(i)
	if !looksJSON(text) {
		return spans
	}
	inner := new(document)
	outer, batch := s.within, s.batch
	if len(s.allowed) > 0 {
		s.within, s.batch = s.placeOf(d, i)+"|", false
	}
	found, _ := s.document(inner, text, nested+1)
	s.within, s.batch = outer, batch
	for _, p := range inner.let {
		p.start, p.end = inner.rawSpan(p)
		p.token = i
		d.let = append(d.let, p)
	}
	for _, f := range found {
		start, end := inner.rawSpan(f)
		spans = append(spans, span{token: i, start: start, end: end, cause: f.cause,
			with: inner.written(f), place: inner.path(f, found)})
	}
	return spans
}

// looksJSON spares most texts a parse.
func looksJSON(text []byte) bool {
	i, j := 0, len(text)-1
	for i < j && text[i] <= ' ' {
		i++
	}
	for j > i && text[j] <= ' ' {
		j--
	}
	switch text[i] {
	case '{':
		return text[j] == '}'
	case '[':
		return text[j] == ']'
	case '"':
		return text[j] == '"' && j > i
	}
	return false
}

// spread looks through a buffer and gives each token its part of a finding.
// In joins, only what lies over a seam is news.
func (s *search) spread(d *document, b *buffer, seams bool, spans []span) []span {
	for _, f := range s.allow(d, b, s.all(b.text, b.cuts, 0, nil)) {
		i, ok := slices.BinarySearch(b.cuts, f.start)
		if !ok {
			i--
		}
		for i+1 < len(b.cuts) && b.cuts[i+1] <= f.start { // empty pieces
			i++
		}
		if seams && (i+1 >= len(b.cuts) || b.cuts[i+1] >= f.end) {
			continue
		}
		for ; i < len(b.cuts) && b.cuts[i] < f.end; i++ {
			end := len(b.text)
			if i+1 < len(b.cuts) {
				end = b.cuts[i+1]
			}
			p := b.pieces[i]
			if p.token < 0 || end == b.cuts[i] {
				continue
			}
			from := max(f.start, b.cuts[i]) - b.cuts[i]
			to := min(f.end, end) - b.cuts[i]
			spans = append(spans, span{token: int(p.token), start: from + int(p.from),
				end: to + int(p.from), with: f.cause.text, cause: f.cause})
		}
	}
	return spans
}

// merge sorts spans and unites those that overlap. The widest names the
// union; among equals a known value does, then the first found.
func merge(spans []span) []span {
	slices.SortStableFunc(spans, func(a, b span) int {
		if a.token != b.token {
			return a.token - b.token
		}
		return a.start - b.start
	})
	out := spans[:1]
	width := out[0].end - out[0].start
	for _, n := range spans[1:] {
		o := &out[len(out)-1]
		w := n.end - n.start
		if n.token != o.token || n.start >= o.end {
			out, width = append(out, n), w
			continue
		}
		o.end = max(o.end, n.end)
		if w > width || w == width && n.cause.detector == known && o.cause.detector != known {
			o.with, o.cause, o.place = n.with, n.cause, n.place
			width = w
		}
	}
	return out
}
