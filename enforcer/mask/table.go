package mask

import (
	"bytes"
	"encoding/csv"
	"io"
	"slices"
	"strings"
)

// Tables of text whose shape is certain: a line of names above a line that
// only rules it off (Markdown, psql, the boxes of MySQL), and a text that is CSV
// from its first line to its last, with the names in the first.

// tables applies the rules for columns to the tables in text.
func (w *fielder) tables(text []byte, edits *[]edit) {
	if len(text) < 4 || !w.columnRules() || w.ruled(text, edits) {
		return
	}
	for _, comma := range []rune{',', '\t', ';', '|'} {
		if w.csv(text, comma, edits) {
			return
		}
	}
	w.single(text, edits)
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

func lines(text []byte) []textLine {
	out := make([]textLine, 0, bytes.Count(text, []byte("\n"))+1)
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

// isDashes tells a line of dashes, which rules off the name of a single column.
func isDashes(line []byte) bool {
	line = bytes.TrimSpace(line)
	return len(line) >= 2 && len(bytes.Trim(line, "-")) == 0
}

// isRule tells a line of dashes, bars, colons and crosses, with two dashes.
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
	if !bytes.Contains(text, []byte("--")) {
		return false
	}
	all := lines(text)
	for i := 1; i < len(all); i++ {
		if w.clock.work(all[i].end - all[i].start) {
			return any
		}
		head, line := all[i-1].of(text), all[i].of(text)
		switch {
		case isDashes(line) && !bytes.Contains(head, []byte("|")):
			if rule := w.strongest(w.column(nameIn(head))); rule != nil {
				any = true
				i = w.column1(text, all, i+1, rule, edits)
			}
			continue
		case !isRule(line) || !bytes.Contains(head, []byte("|")) || isRule(head):
			continue
		}
		var rules []*fieldRule
		for _, c := range all[i-1].split(text) {
			rules = append(rules, w.strongest(w.column(nameIn(c.of(text)))))
		}
		any = true
		last := i // the last line with a bar before a blank one
		for n := i + 1; n < len(all) && !isEnd(all[n].of(text)); n++ {
			if bytes.Contains(all[n].of(text), []byte("|")) {
				last = n
			}
		}
		for ; i < last; i++ {
			if !isRule(all[i+1].of(text)) {
				w.row(text, all[i+1].split(text), rules, edits)
			}
		}
	}
	return any
}

func (l textLine) of(text []byte) []byte { return text[l.start:l.end] }

// nameIn is the name of a column without what is around it in a text.
func nameIn(cell []byte) string { return strings.Trim(string(cell), "*_` \t\r") }

// isEnd tells a line behind a table: a blank one, or psql's count of rows.
func isEnd(line []byte) bool {
	line = bytes.TrimSpace(line)
	return len(line) == 0 || line[0] == '(' && (bytes.HasSuffix(line, []byte(" row)")) || bytes.HasSuffix(line, []byte(" rows)")))
}

// column1 applies a rule to the lines from the one numbered from on, up to the
// table's end, and returns the number of the last.
func (w *fielder) column1(text []byte, all []textLine, from int, rule *fieldRule, edits *[]edit) int {
	for ; from < len(all) && !isEnd(all[from].of(text)); from++ {
		w.row(text, []textLine{trimmed(text, all[from])}, []*fieldRule{rule}, edits)
	}
	return from - 1
}

func trimmed(text []byte, l textLine) textLine {
	l.start += len(l.of(text)) - len(bytes.TrimLeft(l.of(text), " \t\r"))
	l.end -= len(l.of(text)) - len(bytes.TrimRight(l.of(text), " \t\r"))
	return l
}

// single takes a text for a column with its name above it if its first line is
// such a name and no line is blank.
func (w *fielder) single(text []byte, edits *[]edit) {
	first, _, more := bytes.Cut(text, []byte("\n"))
	if !more || len(first) > maxLooseName || w.clock.work(len(text)) {
		return
	}
	rule := w.strongest(w.column(nameIn(bytes.Trim(withoutMark(first), "\"\r"))))
	if rule == nil {
		return
	}
	all := lines(text)
	for _, l := range all {
		if len(bytes.TrimSpace(l.of(text))) == 0 {
			return
		}
	}
	w.column1(text, all, 1, rule, edits)
}

// withoutMark cuts off the byte order mark that spreadsheets write.
func withoutMark(text []byte) []byte { return bytes.TrimPrefix(text, []byte("\ufeff")) }

// row applies the rules of the columns to cells. Where there are more cells than
// columns a value held a bar: nobody knows which, so all from the first column
// with a rule on are masked by it. Where there are fewer, a value held the end of
// a line, and all are.
func (w *fielder) row(text []byte, cells []textLine, rules []*fieldRule, edits *[]edit) {
	var first *fieldRule
	if len(cells) < len(rules) {
		if n := slices.IndexFunc(rules, func(r *fieldRule) bool { return r != nil }); n >= 0 {
			first = rules[n]
		}
	}
	for n, c := range cells {
		var rule *fieldRule
		if n < len(rules) {
			rule = rules[n]
		}
		if first == nil {
			first = rule
		}
		if rule == nil && len(cells) != len(rules) {
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
func (w *fielder) csv(whole []byte, comma rune, edits *[]edit) bool {
	text := withoutMark(whole)
	base := len(whole) - len(text)
	if !bytes.ContainsRune(text, comma) {
		return false
	}
	in := csv.NewReader(bytes.NewReader(text))
	in.Comma, in.LazyQuotes = comma, true
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
		start, end int
		rule       *fieldRule
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
		at := func(n int) int {
			line, column := in.FieldPos(n)
			return starts[line-1] + column - 1
		}
		for n := range record {
			if rules[n] == nil {
				continue
			}
			start, end := at(n), int(in.InputOffset())
			if n+1 < len(record) {
				end = at(n+1) - 1 // the comma
			} else {
				end = start + len(bytes.TrimRight(text[start:end], "\r\n"))
			}
			if end-start >= 2 && text[start] == '"' && text[end-1] == '"' {
				start, end = start+1, end-1
			}
			if start < end {
				found = append(found, field{start, end, rules[n]})
			}
		}
	}
	for _, f := range found {
		if w.refused != nil {
			return true
		}
		w.place = append(w.place, "[*]", "[*]")
		w.cell(f.rule, whole, base+f.start, base+f.end, edits)
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
