package mask

import "bytes"

// JSON that is cut over the texts of one content: each piece is none, and what
// clients put together is. Rules that go by a place hold there, too.

// together looks for JSON in the texts of an array's blocks as one, and keeps
// what is to be changed of each for when the text itself is looked at.
func (w *fielder) together(t *tree, first int32) {
	var pieces []int32
	var whole []byte
	var ends []int // of the pieces, in whole
	for c := first; c != 0; c = t.items[c].next {
		for m := t.items[c].first; t.items[c].kind == '{' && m != 0; m = t.items[m].next {
			if t.items[m].kind == '"' && alike(t.items[m].name, "text") {
				pieces = append(pieces, m)
				whole = append(whole, t.text(m)...)
				ends = append(ends, len(whole))
			}
		}
	}
	if len(pieces) < 2 || len(bytes.TrimSpace(whole)) == 0 || !looksJSON(whole) || w.clock.work(len(whole)) {
		return
	}
	one := &tree{raw: whole}
	root, ok := one.read(one.space(0))
	if !ok || one.space(one.items[root].end) != len(whole) {
		return
	}
	var edits []edit
	w.place = append(w.place, "|")
	w.document(one, root, 1, &edits)
	w.place = w.place[:len(w.place)-1]
	for _, e := range edits {
		with, from := e.with, 0
		for i, end := range ends {
			if from < end && e.start < end && e.end > from {
				if w.cut == nil {
					w.cut = map[int32][]edit{}
				}
				w.cut[pieces[i]] = append(w.cut[pieces[i]], edit{max(e.start, from) - from, min(e.end, end) - from, with})
				with = "" // it stands in the first of them
			}
			from = end
		}
	}
}
