package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/term"
)

// table prints rows in columns. On a terminal it keeps to its width: the columns
// that may be cut are cut, the widest first. Elsewhere it cuts nothing. Whatever
// is in a cell, it stays on its line, and moves no cursor.
type table struct {
	head  []string
	cut   []int // columns that may be cut
	right []int // columns of numbers
	rows  [][]string
	// width is the room there is; 0: no bound.
	width  int
	widths []int // once rows were printed: those that come later keep to them
}

// terminal is the width of the terminal that standard output is, or 0.
func terminal(w io.Writer) int {
	if c, ok := w.(*counted); ok {
		w = c.to
	}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return columns()
	}
	return 0
}

func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

// least is how narrow a column may become.
const least = 8

// print writes the rows, below the head if there is one and it was not written
// yet, and forgets them.
func (t *table) print(w io.Writer) error {
	all := t.rows
	first := t.widths == nil
	if first && t.head != nil {
		all = append([][]string{t.head}, t.rows...)
	}
	t.rows = nil
	for _, row := range all {
		for i, c := range row {
			if row[i] = safe(strings.Join(strings.Fields(c), " ")); row[i] == "" && i < len(row)-1 {
				row[i] = "-"
			}
			if !first {
				continue
			}
			if i == len(t.widths) {
				t.widths = append(t.widths, 1)
			}
			t.widths[i] = max(t.widths[i], wide(row[i]))
		}
	}
	if first && t.width > 0 {
		t.fit(t.widths)
	}
	for _, row := range all {
		var b strings.Builder
		for i, c := range row {
			if t.width > 0 && (first || slices.Contains(t.cut, i)) {
				c = clipped(c, t.widths[i])
			}
			pad := strings.Repeat(" ", max(0, t.widths[i]-wide(c)))
			switch {
			case slices.Contains(t.right, i):
				b.WriteString(pad + c)
			case i < len(row)-1:
				b.WriteString(c + pad)
			default:
				b.WriteString(c)
			}
			if i < len(row)-1 {
				b.WriteString("  ")
			}
		}
		if _, err := fmt.Fprintln(w, strings.TrimRight(b.String(), " ")); err != nil {
			return err
		}
	}
	return nil
}

// fit narrows what may be cut until the table fits, or nothing can be narrower.
func (t *table) fit(widths []int) {
	total := 2 * (len(widths) - 1)
	for _, w := range widths {
		total += w
	}
	for total > t.width {
		widest := -1
		for _, i := range t.cut {
			if i < len(widths) && widths[i] > least && (widest < 0 || widths[i] > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			return
		}
		widths[widest]--
		total--
	}
}

// wide is how many columns of a terminal a text may take.
func wide(s string) int {
	n := 0
	for _, r := range s {
		n += cells(r)
	}
	return n
}

// clipped is s, cut to so many columns.
func clipped(s string, width int) string {
	if wide(s) <= width {
		return s
	}
	n := 0
	for i, r := range s {
		if n += cells(r); n > width-cells('…') {
			return s[:i] + "…"
		}
	}
	return s
}
