package mask

import (
	"slices"
	"strings"
)

// Servers show the result of a query in three shapes of JSON: an array of
// objects, where a column is a member of each; an object with the columns'
// names in one member and the rows, arrays, in another; and an object whose
// rows are objects, which is the first again.

// Names of the members that hold them, in lower case.
var (
	headerNames = []string{"columns", "fields", "headers", "header", "columnnames", "column_names", "names", "schema"}
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

// table tells whether an object holds columns and rows apart, where, and which
// rules concern each column; cells is nil if it does not or none does.
func (w *fielder) table(t *tree, at int32) (header, body int32, cells [][]int32) {
	for c := t.items[at].first; c != 0; c = t.items[c].next {
		if t.items[c].kind != '[' {
			continue
		}
		switch name := strings.ToLower(t.items[c].name); {
		case header == 0 && slices.Contains(headerNames, name):
			header = c
		case body == 0 && slices.Contains(bodyNames, name) && t.arrays(c):
			body = c
		}
	}
	if header == 0 || body == 0 {
		return 0, 0, nil
	}
	some := false
	for c := t.items[header].first; c != 0; c = t.items[c].next {
		name, ok := t.columnName(c)
		if !ok {
			return 0, 0, nil
		}
		rules := w.column(name)
		some = some || len(rules) > 0
		cells = append(cells, rules)
	}
	if !some {
		return 0, 0, nil
	}
	return header, body, cells
}

// arrays tells whether all elements are arrays.
func (t *tree) arrays(at int32) bool {
	for c := t.items[at].first; c != 0; c = t.items[c].next {
		if t.items[c].kind != '[' {
			return false
		}
	}
	return t.items[at].first != 0
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
