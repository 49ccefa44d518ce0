package mask

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Answer masks one JSON-RPC message of an upstream: as Message does, and then
// by the field rules for its site. An error is one of Message, or *Refused.
//
// Rules look at data: members structuredContent, error.data, params.data and
// _meta, and JSON in any text, also between other words, and in a base64 blob.
// Paths begin at the root of each of these. A rule on an object or array holds
// for all that is in it; null stays, what else is not a string becomes one;
// true and false are redacted where they could be told from each other.
func (m *Mask) Answer(msg []byte, at Site) (out []byte, r Report, err error) {
	out, r, err = m.MessageAt(msg, at)
	if err != nil {
		return nil, Report{}, err
	}
	rules := m.fields.Load()
	applied := rules.at(at)
	if len(applied) == 0 {
		return out, r, nil
	}
	edited, hits, err := m.applyFields(out, rules, applied)
	if err != nil {
		r.Hits = append(r.Hits, hits.Hits...)
		return nil, r, err
	}
	if len(hits.Hits) == 0 {
		return out, r, nil
	}
	r.Hits = append(r.Hits, hits.Hits...)
	if len(edited) > m.maxMessage {
		return nil, Report{}, ErrTooLarge
	}
	// What was cut out may have stood between the halves of a value.
	out, again, err := m.MessageAt(edited, at)
	if err != nil {
		return nil, Report{}, err
	}
	for _, h := range again.Hits {
		if h.Detector != "key" { // masks of ours under such a key
			r.add(h)
		}
	}
	return out, r, nil
}

func (m *Mask) applyFields(msg []byte, set *fieldRules, applied []*fieldRule) (out []byte, r Report, err error) {
	defer func() {
		if p := recover(); p != nil {
			out, r, err = nil, Report{}, fmt.Errorf("%w (%T)", ErrPanic, p)
		}
	}()
	now := m.now()
	w := newFielder(set, applied, clock{now: m.now, deadline: now.Add(m.budget)})
	t := &tree{raw: msg}
	root, ok := t.read(t.space(0))
	switch {
	case !ok && len(t.items) >= maxTokens:
		return nil, r, ErrTooLarge
	case !ok:
		return nil, r, ErrNotJSON
	}
	var edits []edit
	w.envelope(t, root, "", 0, &edits)
	switch {
	case w.clock.late:
		return nil, r, ErrBudget
	case w.tooMany:
		return nil, r, ErrTooLarge
	case w.refused != nil:
		return nil, w.report, w.refused
	}
	return apply(msg, edits), w.report, nil
}

// fielder applies field rules to one message.
type fielder struct {
	set     *fieldRules
	rules   []*fieldRule
	over    [][]int32  // of each that keeps: which it exempts from
	paths   []rulePath // of all rules
	lost    []uint64   // states where no path can match any more, shared
	keys    map[string][]int32
	columns map[string][]int32
	clock   clock
	place   []string // steps from the message's root
	quiet   int      // in what is dropped: only Block is looked for
	refused *Refused
	cut     map[int32][]edit // of texts whose JSON is cut over several, by item of the message
	tooMany bool             // brackets, in a text that is not JSON as a whole
	report  Report
}

type rulePath struct {
	rule  int32
	steps []Step
}

func newFielder(set *fieldRules, rules []*fieldRule, c clock) *fielder {
	w := &fielder{set: set, rules: rules, clock: c, over: make([][]int32, len(rules)), keys: map[string][]int32{}, columns: map[string][]int32{}}
	for i, r := range rules {
		for _, p := range r.Paths {
			w.paths = append(w.paths, rulePath{int32(i), p})
		}
		for j, o := range rules {
			if r.Action == Keep && slices.Contains(r.Over, o.ID) {
				w.over[i] = append(w.over[i], int32(j))
			}
		}
	}
	w.lost = make([]uint64, len(w.paths))
	return w
}

// edit says that text[start:end] becomes with.
type edit struct {
	start, end int
	with       string
}

func apply(text []byte, edits []edit) []byte {
	if len(edits) == 0 {
		return text
	}
	slices.SortFunc(edits, func(a, b edit) int { return a.start - b.start })
	out := make([]byte, 0, len(text))
	done := 0
	for _, e := range edits {
		out = append(append(out, text[done:e.start]...), e.with...)
		done = e.end
	}
	return append(out, text[done:]...)
}

// envelope goes through what the protocol made of a message, to the data in it.
func (w *fielder) envelope(t *tree, at int32, in string, depth int, edits *[]edit) {
	if w.clock.work(8) || w.refused != nil {
		return
	}
	it := &t.items[at]
	switch it.kind {
	case '"':
		w.text(t, at, 0, edits, w.cut[at]...)
	case '[':
		if alike(in, "content") {
			w.together(t, it.first)
		}
		n := 0
		for c := it.first; c != 0; c = t.items[c].next {
			w.place = append(w.place, "["+strconv.Itoa(n)+"]")
			w.envelope(t, c, in, depth+1, edits)
			w.place = w.place[:len(w.place)-1]
			n++
		}
	case '{':
		for c := it.first; c != 0; c = t.items[c].next {
			name := t.items[c].name
			if depth == 0 && (name == "jsonrpc" || name == "id" || name == "method") {
				continue
			}
			w.place = append(w.place, stepName(name))
			switch {
			case alike(name, "structuredContent"), alike(name, "data") && depth == 1 && (alike(in, "error") || alike(in, "params")):
				w.document(t, c, 0, edits)
			case alike(in, "_meta") && !ofProtocol(name):
				w.document(t, c, 0, edits)
			case alike(in, "_meta"):
			case alike(name, "blob") && t.items[c].kind == '"':
				w.blob(t, c, edits)
			default:
				w.envelope(t, c, name, depth+1, edits)
			}
			w.place = w.place[:len(w.place)-1]
		}
	}
}

// alike compares the names of the protocol as the most lenient client does.
func alike(name, want string) bool { return strings.EqualFold(name, want) }

// ofProtocol tells the members of _meta that the protocol itself goes by.
func ofProtocol(name string) bool {
	return name == "progressToken" || strings.HasPrefix(name, "io.modelcontextprotocol/")
}

// document applies the rules to one JSON document, active ones among them to all
// of it. An object may be the only row of a result, or one of a document each.
func (w *fielder) document(t *tree, root int32, nested int, edits *[]edit, active ...int32) {
	states := make([]uint64, len(w.paths))
	active = slices.Clip(active)
	for i, p := range w.paths {
		states[i] = 1
		if len(p.steps) == 0 {
			active = include(active, p.rule)
		}
	}
	w.visit(t, root, visit{states: states, active: active, nested: nested, row: true}, edits)
}

// visit is what is known on the way to a value.
type visit struct {
	states []uint64  // of each path, a bit for each step that may come next
	active []int32   // rules that hold for the value, in order
	rows   int       // what an array's children are, see below
	cells  [][]int32 // rules of the columns
	row    bool      // the value is an element of an array, or a document
	nested int       // texts around it
}

// What the children of a value are, where a result names its columns apart.
const (
	rowsBelow  = iota + 1 // arrays of cells
	cellsBelow            // cells
	namesBelow            // columns' names, which go with a column that is dropped
)

// include adds a rule to a set, in order; sets are shared and never changed.
func include(set []int32, rules ...int32) []int32 {
	for _, r := range rules {
		if i, ok := slices.BinarySearch(set, r); !ok {
			set = slices.Insert(slices.Clone(set), i, r)
		}
	}
	return set
}

// strongest is the rule that decides, nil if none does.
func (w *fielder) strongest(active []int32) *fieldRule {
rules:
	for _, i := range active {
		r := w.rules[i]
		if r.Action == Keep {
			return nil // they rank last
		}
		for _, k := range active {
			if slices.Contains(w.over[k], i) {
				continue rules
			}
		}
		return r
	}
	return nil
}

// visit applies the rules to a value; a value that is to be dropped is cut out
// by the one above it.
func (w *fielder) visit(t *tree, at int32, v visit, edits *[]edit) {
	if w.clock.work(8) || w.refused != nil {
		return
	}
	it := &t.items[at]
	rule := w.strongest(v.active)
	if rule != nil && rule.Action == Block {
		w.hit(rule)
		w.refused = &Refused{rule.ID, w.where(), rule.Reason}
		return
	}
	switch it.kind {
	case '{', '[':
		w.children(t, at, v, edits)
	case 'n':
	case '"':
		if rule == nil || w.quiet > 0 {
			w.text(t, at, v.nested, edits)
			return
		}
		fallthrough
	default:
		if rule != nil {
			w.hit(rule)
			shown := w.set.shown(rule, string(t.text(at)), it.kind == 't')
			*edits = append(*edits, edit{it.start, it.end, `"` + jsonEscape(shown, func(rune) bool { return false }, false, false) + `"`})
		}
	}
}

func (w *fielder) children(t *tree, at int32, v visit, edits *[]edit) {
	it := &t.items[at]
	object := it.kind == '{'
	var rows *apart
	if object {
		rows = w.table(t, at)
	}
	var dropped []bool
	n := 0
	for c := it.first; c != 0; c = t.items[c].next {
		child := visit{states: w.step(v.states, t.items[c].name, n, object), nested: v.nested, row: !object}
		child.active = w.matching(t.items[c].name, object, v)
		for i, p := range w.paths {
			if len(child.states) > 0 && &child.states[0] == &w.lost[0] {
				break
			}
			if child.states[i]>>len(p.steps)&1 != 0 {
				child.active = include(child.active, p.rule)
			}
		}
		if object {
			w.place = append(w.place, stepName(t.items[c].name))
		} else {
			w.place = append(w.place, "[*]")
		}
		switch {
		case rows != nil && slices.Contains(rows.names, c):
			child.rows, child.cells = namesBelow, rows.cells
		case rows != nil && slices.Contains(rows.bodies, c):
			child.rows, child.cells = rowsBelow, rows.cells
		case v.rows == rowsBelow && t.items[c].kind == '[':
			child.rows, child.cells = cellsBelow, v.cells
		case v.rows == cellsBelow && n < len(v.cells):
			child.active = include(child.active, v.cells[n]...)
		}
		rule := w.strongest(child.active)
		drop := rule != nil && rule.Action == Drop
		if v.rows == namesBelow && n < len(v.cells) {
			if r := w.strongest(v.cells[n]); r != nil && r.Action == Drop {
				rule, drop = r, true
			}
		}
		if drop {
			w.hit(rule)
			before := len(*edits)
			w.quiet++
			w.visit(t, c, child, edits)
			w.quiet--
			*edits = (*edits)[:before]
		} else {
			w.visit(t, c, child, edits)
		}
		w.place = w.place[:len(w.place)-1]
		dropped = append(dropped, drop)
		n++
	}
	t.cut(it.first, dropped, edits)
}

// cut removes children with the commas that belonged to them.
func (t *tree) cut(first int32, dropped []bool, edits *[]edit) {
	if !slices.Contains(dropped, true) {
		return
	}
	kept, before := false, 0 // before: the end of the child before
	n := 0
	for c := first; c != 0; c = t.items[c].next {
		it := &t.items[c]
		switch {
		case !dropped[n]:
			kept = true
		case kept:
			*edits = append(*edits, edit{start: before, end: it.end})
		case it.next != 0:
			*edits = append(*edits, edit{start: it.from, end: t.items[it.next].from})
		default:
			*edits = append(*edits, edit{start: it.from, end: it.end})
		}
		before = it.end
		n++
	}
}

// matching are the rules for a child by those of its parent and by its name.
func (w *fielder) matching(name string, object bool, v visit) []int32 {
	active := v.active
	if !object {
		return active
	}
	active = include(active, w.named(w.keys, name, func(r *fieldRule) []pattern { return r.keys })...)
	if v.row {
		active = include(active, w.column(name)...)
	}
	return active
}

// named are the rules with a pattern for a name, remembered.
func (w *fielder) named(memo map[string][]int32, name string, of func(*fieldRule) []pattern) []int32 {
	found, ok := memo[name]
	if !ok {
		lower := strings.ToLower(name)
		for i, r := range w.rules {
			if slices.ContainsFunc(of(r), func(p pattern) bool { return p.match(lower) }) {
				found = append(found, int32(i))
			}
		}
		memo[name] = found
	}
	return found
}

// step moves every path on by one step.
func (w *fielder) step(states []uint64, name string, index int, object bool) []uint64 {
	if len(w.paths) == 0 || &states[0] == &w.lost[0] {
		return states
	}
	out, some := make([]uint64, len(states)), false
	for i, p := range w.paths {
		for k, s := range p.steps {
			if states[i]>>k&1 == 0 {
				continue
			}
			if s.Deep {
				out[i] |= 1 << k
			}
			if s.Any || object && s.Index < 0 && s.Name == name || !object && s.Index == index {
				out[i] |= 1 << (k + 1)
			}
			some = some || out[i] != 0
		}
	}
	if !some {
		return w.lost
	}
	return out
}

// text looks for JSON in a string, as a whole or between other words. Cut is what
// else is to be changed in it.
func (w *fielder) text(t *tree, at int32, nested int, edits *[]edit, cut ...edit) {
	if nested >= maxNested {
		return
	}
	it := &t.items[at]
	raw := t.raw[it.start+1 : it.end-1]
	if len(cut) == 0 && !w.promising(raw) {
		return
	}
	w.place = append(w.place, "|")
	inner := w.within(jsonUnescape(nil, raw), nested)
	w.place = w.place[:len(w.place)-1]
	if len(cut) > 0 {
		inner = settle(append(cut, inner...))
	}
	*edits = append(*edits, lift(raw, it.start+1, inner)...)
}

// promising spares most texts a closer look.
func (w *fielder) promising(raw []byte) bool {
	return bytes.ContainsAny(raw, "{[:|,;\t\n\\")
}

// within finds the JSON documents in a text, and applies the rules to each.
func (w *fielder) within(text []byte, nested int) (edits []edit) {
	if looksJSON(text) && bytes.TrimSpace(text)[0] == '"' { // JSON of a string
		t := &tree{raw: text}
		if root, ok := t.read(t.space(0)); ok && t.space(t.items[root].end) == len(text) {
			w.document(t, root, nested+1, &edits)
			return edits
		}
	}
	w.tables(text, &edits)
	done := 0        // what is before was looked at
	var all *outline // of the text, once a bracket has shown to open nothing
	for i := 0; i < len(text); i++ {
		next := bytes.IndexAny(text[i:], "{[")
		if next < 0 || w.clock.late {
			break
		}
		i += next
		if all != nil && !all.opens(i) {
			if all.full() {
				w.tooMany = true
				break
			}
			continue
		}
		t := &tree{raw: text}
		root, ok := t.read(i)
		if !ok {
			all = newOutline(text, &w.clock)
			continue
		}
		w.loose(text, done, i, &edits)
		w.document(t, root, nested+1, &edits, w.nameOf(text[done:i])...)
		done = t.items[root].end
		i = done - 1
	}
	w.loose(text, done, len(text), &edits)
	return settle(edits)
}

// nameOf are the rules for a value by a quoted name and a colon before it: what
// is around the two could not be read.
func (w *fielder) nameOf(before []byte) []int32 {
	before, ok := bytes.CutSuffix(bytes.TrimRight(before, " \t\r\n"), []byte(":"))
	if !ok {
		return nil
	}
	name, ok := nameBefore(before)
	if !ok {
		return nil
	}
	return include(w.named(w.keys, name, func(r *fieldRule) []pattern { return r.keys }), w.column(name)...)
}

// settle unites edits that overlap: a cell of a table may hold JSON.
func settle(edits []edit) []edit {
	slices.SortStableFunc(edits, func(a, b edit) int { return a.start - b.start })
	out := edits[:0]
	for _, e := range edits {
		if n := len(out) - 1; n >= 0 && e.start < out[n].end {
			out[n].end = max(out[n].end, e.end)
			continue
		}
		out = append(out, e)
	}
	return out
}

// blob looks into what base64 stands for, if that is text.
func (w *fielder) blob(t *tree, at int32, edits *[]edit) {
	it := &t.items[at]
	encoding, text := decodeBlob(string(t.text(at)))
	if encoding == nil || !utf8.Valid(text) || !w.promising(text) {
		return
	}
	w.place = append(w.place, "|")
	inner := w.within(text, 0)
	w.place = w.place[:len(w.place)-1]
	if len(inner) > 0 {
		*edits = append(*edits, edit{it.start + 1, it.end - 1, encoding.EncodeToString(apply(text, inner))})
	}
}

// decodeBlob reads base64 as lenient clients do, and says which it is; nil if
// it is none.
func decodeBlob(blob string) (*base64.Encoding, []byte) {
	for _, e := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
		if text, err := e.DecodeString(blob); err == nil {
			return e, text
		}
	}
	return nil, nil
}

// lift brings edits of a string's decoded text to its raw spelling, which
// begins at base.
func lift(raw []byte, base int, inner []edit) []edit {
	slices.SortFunc(inner, func(a, b edit) int { return a.start - b.start })
	i, at := 0, 0
	raws := func(to int) int {
		for at < to && i < len(raw) {
			if raw[i] != '\\' {
				i, at = i+1, at+1
				continue
			}
			r, n := jsonEscapeAt(raw, i)
			i, at = i+n, at+len(string(r))
		}
		return base + i
	}
	for k := range inner {
		e := &inner[k]
		e.start, e.end = raws(e.start), raws(e.end)
		e.with = jsonEscape(e.with, func(rune) bool { return false }, false, false)
	}
	return inner
}

func (w *fielder) hit(r *fieldRule) {
	if w.quiet > 0 && r.Action != Block {
		return
	}
	where := elsewhere
	if len(w.report.Hits) < maxPlaces {
		where = w.where()
	}
	w.report.add(Hit{"field:" + r.ID, r.ID, where, 1})
}

// where names the place, as document.path does; of arrays within data only that
// there is one.
func (w *fielder) where() string {
	var b strings.Builder
	bar := false
	for _, s := range w.place {
		if b.Len() >= maxPath {
			break
		}
		if b.Len() > 0 && !bar && s[0] != '[' && s != "|" {
			b.WriteByte('.')
		}
		bar = s == "|"
		b.WriteString(s)
	}
	return b.String()
}

// stepName spells the name of a member in a place.
func stepName(text string) string {
	if len(text) > 64 {
		return "[long key]"
	}
	for i := range len(text) {
		if c := text[i]; !isAlnum(c) && c != '_' && c != '-' && c != '$' {
			return "[" + strconv.QuoteToASCII(text) + "]"
		}
	}
	if text == "" {
		return `[""]`
	}
	return text
}
