package mask

import (
	"slices"
	"strings"
)

// Servers show the result of a query in four shapes of JSON: an array of
// objects, where a column is a member of each; one object a row, a document
// each; an object with the columns' names in one member and the rows, arrays,
// in another; and an object whose rows are objects, which is the first again.

// Names of the members that hold them, in lower case.
var (
	headerNames = []string{"columns", "fields", "headers", "header", "columnnames", "column_names", "names", "schema", "columnmetadata", "column_metadata"}
	bodyNames   = []string{"rows", "data", "values", "records", "results", "result"}
	columnNames = []string{"name", "column", "column_name", "columnname", "field"}
)

// column are the rules for a column: a quoted or qualified name counts by its
// last part, too.
func (w *fielder) column(name string) []int32 {
	of := func(r *fieldRule) []pattern { return r.columns }
	found := w.named(w.columns, name, of)
	tail := name[strings.LastIndexByte(name, '.')+1:]
	if tail = strings.Trim(tail, "\"`[]'"); tail != name {
		found = include(found, w.named(w.columns, tail, of)...)
	}
	return found
}

// apart is an object that holds columns and rows apart.
type apart struct {
	names, bodies []int32   // its members that do
	cells         [][]int32 // the rules that concern each column
}

// table finds what an object holds apart; nil if it does not, or no rule
// concerns it. Where several members may be the names, or the rows, all count: a
// column has the rules of every name that may be its own.
func (w *fielder) table(t *tree, at int32) *apart {
	var b apart
	some := false
	for c := t.items[at].first; c != 0; c = t.items[c].next {
		if t.items[c].kind != '[' {
			continue
		}
		name := strings.ToLower(t.items[c].name)
		if slices.Contains(bodyNames, name) && t.arrays(c) {
			b.bodies = append(b.bodies, c)
			continue
		}
		if !slices.Contains(headerNames, name) {
			continue
		}
		names, ok := t.columnNames(c)
		if !ok {
			continue
		}
		b.names = append(b.names, c)
		for n, name := range names {
			rules := w.column(name)
			some = some || len(rules) > 0
			if n == len(b.cells) {
				b.cells = append(b.cells, nil)
			}
			b.cells[n] = include(b.cells[n], rules...)
		}
	}
	if !some || len(b.bodies) == 0 {
		return nil
	}
	return &b
}

// arrays tells whether an element is an array.
func (t *tree) arrays(at int32) bool {
	for c := t.items[at].first; c != 0; c = t.items[c].next {
		if t.items[c].kind == '[' {
			return true
		}
	}
	return false
}

// columnNames are the names in a header, if each entry has one.
func (t *tree) columnNames(at int32) (names []string, ok bool) {
	for c := t.items[at].first; c != 0; c = t.items[c].next {
		name, ok := t.columnName(c)
		if !ok {
			return nil, false
		}
		names = append(names, name)
	}
	return names, len(names) > 0
}

// columnName is the name that an entry of the header gives its column: a text,
// or a member of an object.
func (t *tree) columnName(at int32) (string, bool) {
	switch t.items[at].kind {
	case '"':
		return string(t.text(at)), true
	case '{':
		for c := t.items[at].first; c != 0; c = t.items[c].next {
			if t.items[c].kind == '"' && slices.Contains(columnNames, strings.ToLower(t.items[c].name)) {
				return string(t.text(c)), true
			}
		}
	}
	return "", false
}
