package mask

import "bytes"

// What looks like JSON need not be: a text may be cut off, have a comma too
// many, or be the way Python prints its dictionaries. Paths have no meaning
// there; names do. So behind each quoted name and a colon, outside of what could
// be read as JSON, the value is found as far as its spelling tells where it
// ends: a quoted text, or a word or number. Values that hold others are not.

// maxLooseName is the longest name that is looked for, with its quotes.
const maxLooseName = 130

// loose applies the rules for keys and columns to text[from:to].
func (w *fielder) loose(text []byte, from, to int, edits *[]edit) {
	closed := bytes.LastIndexByte(text[from:to], ')') + from // looked for once
	for i := from; i < to && w.refused == nil; i++ {
		next := bytes.IndexByte(text[i:to], ':')
		if next < 0 || w.clock.work(next) {
			return
		}
		i += next
		name, ok := nameBefore(text[from:i])
		if !ok {
			continue
		}
		active := include(w.named(w.keys, name, func(r *fieldRule) []pattern { return r.keys }), w.column(name)...)
		rule := w.strongest(active)
		if rule == nil {
			continue
		}
		start, end := valueAfter(text[:to], i+1, closed)
		if start == end {
			continue
		}
		w.place = append(w.place, stepName(name))
		w.cell(rule, text, start, end, edits)
		w.place = w.place[:len(w.place)-1]
		i = end - 1
	}
}

// cell applies a rule to a value that stands in a text as it is. What would be
// dropped is masked: there is nothing around it to close the gap.
func (w *fielder) cell(rule *fieldRule, text []byte, start, end int, edits *[]edit) {
	w.hit(rule)
	if rule.Action == Block {
		w.refused = &Refused{rule.ID, w.where(), rule.Reason}
		return
	}
	*edits = append(*edits, edit{start, end, w.set.shown(rule, string(text[start:end]), false)})
}

// nameBefore reads the quoted name at the end of a text.
func nameBefore(text []byte) (string, bool) {
	text = bytes.TrimRight(text, " \t")
	n := len(text) - 1
	if n < 2 || text[n] != '"' && text[n] != '\'' {
		return "", false
	}
	open := bytes.LastIndexByte(text[max(0, n-maxLooseName):n], text[n])
	if open < 0 {
		return "", false
	}
	name := text[max(0, n-maxLooseName)+open+1 : n]
	return string(name), len(name) > 0 && !bytes.ContainsAny(name, "\r\n")
}

// valueAfter finds the value at i: what is between its quotes, or a word, with
// what is in the brackets that follow at once, the last of which is closed at
// closed. An open quote reaches to the end.
func valueAfter(text []byte, i, closed int) (start, end int) {
	for i < len(text) && (text[i] == ' ' || text[i] == '\t' || text[i] == '\n' || text[i] == '\r') {
		i++
	}
	if i >= len(text) {
		return i, i
	}
	if q := text[i]; q == '"' || q == '\'' {
		for end = i + 1; end < len(text) && text[end] != q; end++ {
			if text[end] == '\\' {
				end++
			}
		}
		return i + 1, min(end, len(text))
	}
	for end = i; end < len(text) && bytes.IndexByte([]byte(" \t\r\n,;{}[]\"'"), text[end]) < 0; end++ {
		if text[end] == '(' && end < closed {
			return i, end + bytes.IndexByte(text[end:], ')') + 1
		}
	}
	if word := string(text[i:end]); word == "null" || word == "None" || word == "nil" {
		return i, i
	}
	return i, end
}
