package mask

import (
	"bytes"
	"strings"
	"unicode/utf8"
)

// Messages masks messages that a receiver gets one after the other, each of
// which was masked by itself: what is split over texts of the same name in
// several of them. It returns as many, and itself those that do not change.
// Errors are those of Message.
func (m *Mask) Messages(msgs [][]byte, at Site) ([][]byte, Report, error) {
	if len(msgs) < 2 {
		return msgs, Report{}, nil
	}
	all := append(append([]byte{'['}, bytes.Join(msgs, []byte{','})...), ']')
	at.batch = true
	out, r, err := m.MessageAt(all, at)
	if err != nil || !r.Masked() {
		return msgs, Report{}, err
	}
	t := &tree{raw: out}
	root, ok := t.read(0)
	if !ok {
		return nil, Report{}, ErrNotJSON // cannot be: it was written here
	}
	var parts [][]byte
	for c := t.items[root].first; c != 0; c = t.items[c].next {
		parts = append(parts, out[t.items[c].start:t.items[c].end])
	}
	if len(parts) != len(msgs) {
		return nil, Report{}, ErrNotJSON
	}
	var places Report
	for _, h := range r.Hits {
		if h.Detector == "key" { // which each was masked by
			continue
		}
		_, h.Place, _ = strings.Cut(h.Place, "].") // of which message, nobody can tell later
		places.add(h)
	}
	return parts, places, nil
}

// End is a message with no more than the last most bytes of each of its texts:
// what the part of a secret that follows in another message goes on from. What
// is no JSON it returns as it is.
func End(msg []byte, most int) []byte {
	t := &tree{raw: msg}
	if _, ok := t.read(t.space(0)); !ok {
		return msg
	}
	var edits []edit
	for i := range t.items {
		it := &t.items[i]
		if it.kind != '"' || it.end-it.start <= most {
			continue
		}
		text := t.text(int32(i))
		from := max(0, len(text)-most)
		for from < len(text) && !utf8.RuneStart(text[from]) {
			from++
		}
		edits = append(edits, edit{it.start + 1, it.end - 1, jsonEscape(string(text[from:]), func(rune) bool { return false }, false, false)})
	}
	return apply(msg, edits)
}
