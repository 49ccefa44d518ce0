package mask

import (
	"bytes"
	"encoding/csv"
	"io"
	"strings"
)

// Tables of text whose shape is certain: a line of names above a line that
// only rules it off (Markdown, psql, the boxes of MySQL), and a text that is CSV
// from its first line to its last, with the names in the first.

// tables applies the rules for columns to the tables in text.
func (w *fielder) tables(text []byte, edits *[]edit) {
	if len(text) < 8 || !w.columnRules() || w.ruled(text, edits) || w.csv(text, ',', edits) {
		return
	}
	w.csv(text, '\t', edits)
}

func (w *fielder) columnRules() bool {
	for _, r := range w.rules {
		if len(r.columns) > 0 {
			return true
		}
	}
	return false
}

// textLine is text[start:end], without its end.
type textLine struct{ start, end int }

func lines(text []byte) (out []textLine) {
	for i := 0; i < len(text); {
		n := bytes.IndexByte(text[i:], '\n')
		end := i + n
		if n < 0 {
			end = len(text)
		}
		out = append(out, textLine{i, end})
		i = end + 1
	}
	return out
}

// isRule tells a line of dashes, bars, colons and crosses, with three dashes.
func isRule(line []byte) bool {
	return bytes.Contains(line, []byte("--")) && len(bytes.Trim(line, "-+|: \t\r")) == 0 && bytes.ContainsAny(line, "|+")
}

// split gives the cells of a line between its bars, without blanks around them;
// a bar behind a backslash is part of a cell. Bars at either end stand for none.
func (l textLine) split(text []byte) (cells []textLine) {
	start, end := l.start, l.end
	for start < end && (text[start] == ' ' || text[start] == '\t') {
		start++
	}
	for end > start && (text[end-1] == ' ' || text[end-1] == '\t' || text[end-1] == '\r') {
		end--
	}
	if start < end && text[start] == '|' {
		start++
	}
	if end > start && text[end-1] == '|' {
		end--
	}
	for i := start; i <= end; i++ {
		if i < end && text[i] == '\\' {
			i++
			continue
		}
		if i >= end || text[i] == '|' {
			cell := textLine{start, min(i, end)}
			for cell.start < cell.end && (text[cell.start] == ' ' || text[cell.start] == '\t') {
				cell.start++
			}
			for cell.end > cell.start && (text[cell.end-1] == ' ' || text[cell.end-1] == '\t') {
				cell.end--
			}
			cells = append(cells, cell)
			start = i + 1
		}
	}
	return cells
}

// ruled finds tables whose names are ruled off from the rows.
func (w *fielder) ruled(text []byte, edits *[]edit) (any bool) {
	all := lines(text)
	for i := 1; i < len(all); i++ {
		if w.clock.work(all[i].end - all[i].start) {
			return any
		}
		head := all[i-1]
		if !isRule(text[all[i].start:all[i].end]) || !bytes.Contains(text[head.start:head.end], []byte("|")) || isRule(text[head.start:head.end]) {
			continue
		}
		var rules []*fieldRule
		for _, c := range head.split(text) {
			rules = append(rules, w.strongest(w.column(strings.Trim(string(text[c.start:c.end]), "*_` "))))
		}
		any = true
		for i++; i < len(all); i++ {
			row := text[all[i].start:all[i].end]
			if isRule(row) {
				continue
			}
			if !bytes.Contains(row, []byte("|")) {
				break
			}
			w.row(text, all[i].split(text), rules, edits)
		}
	}
	return any
}

// row applies the rules of the columns to cells. Where there are more cells than
// columns a value held a bar: nobody knows which, so all from the first column
// with a rule on are masked by it.
func (w *fielder) row(text []byte, cells []textLine, rules []*fieldRule, edits *[]edit) {
	var first *fieldRule
	for n, c := range cells {
		var rule *fieldRule
		if n < len(rules) {
			rule = rules[n]
		}
		if first == nil {
			first = rule
		}
		if rule == nil && len(cells) > len(rules) {
			rule = first
		}
		if rule == nil || c.start == c.end || w.refused != nil {
			continue
		}
		w.place = append(w.place, "[*]", "[*]")
		w.cell(rule, text, c.start, c.end, edits)
		w.place = w.place[:len(w.place)-2]
	}
}

// csv takes a text for CSV if each of its lines has as many fields, at least
// two, and the first names a column with a rule.
func (w *fielder) csv(text []byte, comma rune, edits *[]edit) bool {
	if !bytes.ContainsRune(text, comma) {
		return false
	}
	in := csv.NewReader(bytes.NewReader(text))
	in.Comma = comma
	head, err := in.Read()
	if err != nil || len(head) < 2 {
		return false
	}
	var rules []*fieldRule
	some := false
	for _, name := range head {
		rule := w.strongest(w.column(strings.TrimSpace(name)))
		rules, some = append(rules, rule), some || rule != nil
	}
	if !some {
		return false
	}
	type field struct {
		start int
		value string
		rule  *fieldRule
	}
	var found []field
	starts := lineStarts(text)
	rows := 0
	for ; ; rows++ {
		record, err := in.Read() // wants as many fields as in the first line
		if err != nil {
			if err != io.EOF || rows == 0 {
				return false
			}
			break
		}
		if w.clock.work(len(record)) {
			return false
		}
		for n, value := range record {
			if rules[n] != nil && value != "" {
				line, column := in.FieldPos(n)
				found = append(found, field{starts[line-1] + column - 1, value, rules[n]})
			}
		}
	}
	for _, f := range found {
		if w.refused != nil {
			return true
		}
		start, end := f.start, f.start+len(f.value)
		if text[start] == '"' {
			start++
			for end = start; end < len(text) && (text[end] != '"' || end+1 < len(text) && text[end+1] == '"'); end++ {
				if text[end] == '"' {
					end++
				}
			}
		}
		w.place = append(w.place, "[*]", "[*]")
		w.cell(f.rule, text, start, min(end, len(text)), edits)
		w.place = w.place[:len(w.place)-2]
	}
	return true
}

func lineStarts(text []byte) []int {
	starts := []int{0}
	for i, c := range text {
		if c == '\n' {
			starts = append(starts, i+1)
		}
	}
	return starts
}
