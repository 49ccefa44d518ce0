package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"
)

// The demo's voice: one numbered step a scene, the verdict at the right, what
// was read back indented below. Colour and width only on a terminal; plain
// text, 80 wide, anywhere else.

const plainWidth = 80

type printer struct {
	w     io.Writer
	width int
	color bool
}

func newPrinter(f *os.File) *printer {
	p := &printer{w: f, width: plainWidth}
	if term.IsTerminal(int(f.Fd())) {
		p.color = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w >= 60 {
			p.width = min(w, 110)
		}
	}
	return p
}

// The colours of the four things that can happen, and of what is aside.
const (
	green, red, yellow, dim, bold = "32", "31", "33", "2", "1"
)

func (p *printer) paint(code, s string) string {
	if !p.color {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (p *printer) line(format string, args ...any) {
	fmt.Fprintf(p.w, "%s\n", strings.TrimRight(fmt.Sprintf(format, args...), " "))
}

// step prints a scene's title, with the verdict and the time at the right.
func (p *printer) step(n int, title, verdict, took string) {
	right := verdict
	if took != "" {
		right += "  " + fmt.Sprintf("%7s", took)
	}
	left := fmt.Sprintf("%d  %s", n, title)
	pad := max(2, p.width-utf8.RuneCountInString(left)-utf8.RuneCountInString(right))
	color := map[string]string{"allowed": green, "denied": red, "refused": red}[verdict]
	if color == "" {
		color = yellow
	}
	fmt.Fprintf(p.w, "\n%s%s%s\n", p.paint(bold, left), strings.Repeat(" ", pad), p.paint(color, right))
}

// outcome prints the verdict of a scene that went on after its title.
func (p *printer) outcome(text, verdict, took string) {
	right := verdict + "  " + fmt.Sprintf("%7s", took)
	left := "     " + text
	pad := max(2, p.width-utf8.RuneCountInString(left)-utf8.RuneCountInString(right))
	color := red
	if verdict == "allowed" {
		color = green
	}
	fmt.Fprintf(p.w, "%s%s%s\n", left, strings.Repeat(" ", pad), p.paint(color, right))
}

// detail prints indented text; what is wider than the terminal goes on below,
// further in.
func (p *printer) detail(format string, args ...any) { p.block("", fmt.Sprintf(format, args...)) }

// aside is a detail that matters less.
func (p *printer) aside(format string, args ...any) { p.block(dim, fmt.Sprintf(format, args...)) }

func (p *printer) block(code, text string) {
	for l := range strings.SplitSeq(text, "\n") {
		indent := "     "
		for _, part := range wrap(l, p.width-7) {
			if code != "" {
				part = p.paint(code, part)
			}
			p.line("%s%s", indent, part)
			indent = "       "
		}
	}
}

// wrap breaks a line at spaces; a drawing (it begins with a box character) and
// a word that is too long stay whole.
func wrap(l string, width int) []string {
	if strings.HasPrefix(strings.TrimSpace(l), "│") || utf8.RuneCountInString(l) <= width {
		return []string{l}
	}
	var out []string
	line := ""
	for _, word := range strings.Split(l, " ") {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			out, line = append(out, line), word
			continue
		}
		if line != "" || len(out) == 0 && word == "" {
			line += " "
		}
		line += word
	}
	return append(out, line)
}
