package mask

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
)

var documents = sync.Pool{New: func() any { return new(document) }}

// maxPooled keeps one large message from holding its memory for ever.
const maxPooled = 1 << 20

func (m *Mask) search() *search { return m.searchAt(Site{}) }

func (m *Mask) searchAt(at Site) *search {
	m.sweep()
	now := m.now()
	return &search{index: m.index.Load(), rules: m.rules.Load(), allowed: m.allowedAt(at, now), within: at.Root, batch: at.batch,
		clock: clock{now: m.now, deadline: now.Add(m.budget)}}
}

// Message masks one JSON-RPC message, or any JSON text. When nothing is to be
// masked it returns msg itself. On an error there is no output, and the caller
// blocks the message; see the errors of this package.
func (m *Mask) Message(msg []byte) (out []byte, r Report, err error) {
	return m.MessageAt(msg, Site{})
}

// MessageAt is Message for a site: what policy lets through there is.
func (m *Mask) MessageAt(msg []byte, at Site) (out []byte, r Report, err error) {
	defer func() {
		if p := recover(); p != nil {
			// The panic's value may hold what it stumbled over.
			out, r, err = nil, Report{}, fmt.Errorf("%w (%T)", ErrPanic, p)
		}
	}()
	if len(msg) > m.maxMessage {
		return nil, Report{}, ErrTooLarge
	}
	if !utf8.Valid(msg) {
		return nil, Report{}, ErrNotJSON
	}
	s := m.searchAt(at)
	d := documents.Get().(*document)
	defer d.release()
	spans, ok := s.document(d, msg, 0)
	switch {
	case s.clock.late:
		return nil, Report{}, ErrBudget
	case !ok && len(d.tokens) >= maxTokens:
		return nil, Report{}, ErrTooLarge
	case !ok:
		return nil, Report{}, ErrNotJSON
	}
	out = msg
	if len(spans) > 0 {
		out = d.splice(spans)
		for _, p := range spans {
			where := elsewhere
			if len(r.Hits) < maxPlaces {
				where = below(at.Root, d.path(p, spans))
			}
			r.add(Hit{p.cause.detector, p.cause.label, where, 1})
		}
	}
	if err := s.verify(out, len(spans) > 0); err != nil {
		return nil, Report{}, err
	}
	return out, r, nil
}

// Find names what Message would mask in a JSON value: detectors, each once, in
// order.
func (m *Mask) Find(value []byte, at Site) ([]string, error) {
	_, r, err := m.MessageAt(value, at)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, h := range r.Hits {
		names = append(names, h.Detector)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// release gives a document back, for the next message.
func (d *document) release() {
	d.raw = nil
	if cap(d.values.text)+cap(d.others.text)+cap(d.joins.text) <= maxPooled {
		documents.Put(d)
	}
}

// verify takes a last look at what goes out: no known form may be in its bytes,
// be it across strings and structure; nor, if something was masked, in what
// its strings decode to.
func (s *search) verify(out []byte, masked bool) error {
	if s.index.empty() {
		return nil
	}
	s.knownOnly = true
	s.matches = s.index.scan(out, &s.clock, s.matches[:0])
	remains := len(s.matches) > 0
	if masked && !remains {
		spans, ok := s.document(new(document), out, 0)
		remains = len(spans) > 0 || !ok && !s.clock.late
	}
	switch {
	case s.clock.late:
		return ErrBudget
	case remains:
		return ErrRemains
	}
	return nil
}

// Text masks plain text of any number of lines: logs, headers, stderr, SSE
// comments, error texts, previews. What cannot be masked is replaced whole.
func (m *Mask) Text(text string) (out string, r Report) {
	if text == "" { // an entry has many an empty member
		m.sweep()
		return "", Report{}
	}
	withheld := func(why string) (string, Report) {
		return "[masked: text withheld, " + why + "]", Report{Hits: []Hit{{Detector: "withheld", Label: why, Count: 1}}}
	}
	defer func() {
		if recover() != nil {
			out, r = withheld("internal error")
		}
	}()
	if len(text) > m.maxMessage {
		return withheld("too large")
	}
	s := m.search()
	spans := s.text(text)
	if s.clock.late {
		return withheld("out of time")
	}
	if len(spans) == 0 {
		return text, Report{}
	}
	var b strings.Builder
	done := 0
	for _, p := range spans {
		b.WriteString(text[done:p.start])
		b.WriteString(p.with)
		done = p.end
		r.add(Hit{p.cause.detector, p.cause.label, p.place, 1})
	}
	b.WriteString(text[done:])
	out = b.String()
	s.knownOnly = true
	if len(s.text(out)) > 0 {
		return withheld("a known value remains")
	}
	return out, r
}

// text treats plain text as a document of one string.
func (s *search) text(text string) []span {
	d := documents.Get().(*document)
	defer d.release()
	d.reset(nil, s.rules)
	d.tokens = append(d.tokens, token{end: len(text), size: len(text), in: -1, name: -1})
	d.values.begin(0, 0)
	d.values.text = append(d.values.text, text...)
	spans := s.token(d, 0, 0, nil)
	if spans = s.spread(d, &d.values, false, spans); len(spans) == 0 {
		return nil
	}
	return merge(spans)
}

// cursor is a place in an escaped token: raw offset i is decoded offset at.
type cursor struct{ token, i, at int }

// rawSpan maps a span to d.raw. Spans come in order, so it reads on from where
// it stopped.
func (d *document) rawSpan(p span) (int, int) {
	t := &d.tokens[p.token]
	if !t.escaped {
		return t.start + p.start, t.start + p.end
	}
	c := &d.cursor
	if c.token != p.token || c.at > p.start || c.i < t.start {
		*c = cursor{p.token, t.start, 0}
	}
	start := c.i
	for c.i < t.end && c.at < p.end {
		if c.at <= p.start {
			start = c.i
		}
		n, size := 1, 1
		if d.raw[c.i] == '\\' {
			var r rune
			r, n = jsonEscapeAt(d.raw, c.i)
			size = utf8.RuneLen(r)
		}
		c.i, c.at = c.i+n, c.at+size
	}
	return start, c.i
}

// whole widens a span to whole characters: a value may be any bytes, but
// what goes out is UTF-8.
func (d *document) whole(p span) span {
	text := d.text(p.token)
	for n := 1; n < utf8.UTFMax && p.start > 0 && !utf8.RuneStart(text[p.start]); n++ {
		p.start--
	}
	for n := 1; n < utf8.UTFMax && p.end < len(text) && !utf8.RuneStart(text[p.end]); n++ {
		p.end++
	}
	return p
}

// written is a span's replacement as it stands in d.raw. Two keys of one
// object must not become one, so a masked key gets the number of its token.
func (d *document) written(p span) string {
	t := &d.tokens[p.token]
	if t.kind == number {
		return p.with
	}
	with := jsonEscape(p.with, func(rune) bool { return false }, false, false)
	if t.kind == key {
		with += "#" + strconv.Itoa(p.token)
	}
	return with
}

// splice writes d.raw with the spans replaced.
func (d *document) splice(spans []span) []byte {
	out := make([]byte, 0, len(d.raw)+32*len(spans))
	done := 0
	for _, p := range spans {
		start, end := d.rawSpan(p)
		out = append(out, d.raw[done:start]...)
		out = append(out, d.written(p)...)
		done = end
	}
	return append(out, d.raw[done:]...)
}

// maxPath bounds a place in a report.
const maxPath = 256

// path names the place of a span, such as result.content[0].text; a key ends
// in (key); JSON within the text follows behind a bar. Keys are shown masked.
func (d *document) path(p span, spans []span) string {
	t := &d.tokens[p.token]
	var steps []string
	if t.kind == key {
		steps = append(steps, "(key)")
		steps = append(steps, d.step(int32(p.token), 0, spans))
	} else if t.in >= 0 {
		steps = append(steps, d.step(t.name, t.index, spans))
	}
	for in := t.in; in >= 0; in = d.nodes[in].up {
		if n := d.nodes[in]; n.up >= 0 {
			steps = append(steps, d.step(n.name, n.index, spans))
		}
	}
	var b strings.Builder
	for i := len(steps) - 1; i >= 0 && b.Len() < maxPath; i-- {
		if b.Len() > 0 && steps[i][0] != '[' && steps[i][0] != '(' {
			b.WriteByte('.')
		}
		b.WriteString(steps[i])
	}
	if p.place != "" {
		b.WriteString("|" + p.place)
	}
	return b.String()
}

func (d *document) step(name, index int32, spans []span) string {
	if name < 0 {
		return "[" + strconv.Itoa(int(index)) + "]"
	}
	if i, ok := slices.BinarySearchFunc(spans, int(name), func(p span, t int) int { return p.token - t }); ok {
		return spans[i].cause.text
	}
	return stepName(string(d.text(int(name))))
}
