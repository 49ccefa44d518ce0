package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf16"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"countersign/enforcer/approval/api"
	"countersign/enforcer/approval/tell"
)

// How an approval is printed. What came from an agent must not be able to pass
// for what this program says: no character of it moves the cursor or hides, and
// every line of it, wrapped ones too, begins with a bar.

// printSight prints an approval; in full, with what only the curious want.
func printSight(w io.Writer, s api.Sight, full bool) {
	a := s.Approval
	fmt.Fprintf(w, "%s  %s\n%s\n", safe(a.ID), stateOf(s), safe(s.Headline))
	args, _ := tell.Visible(a.Args, true, 1<<24)
	if args == "" {
		args = "(no arguments)"
	}
	fmt.Fprintln(w, "\nasked for:")
	barred(w, args)
	section(w, "which does:", a.Does)
	var why []string
	for _, r := range s.Reasons {
		why = append(why, fmt.Sprintf("%s (rule %s, %s at %s)", r.Why, r.Rule, r.Place, r.At))
		if r.Link != "" {
			why = append(why, r.Link)
		}
	}
	section(w, "because:", why)
	section(w, "it stands:", s.Standing)
	var unasked []string
	for set, because := range a.Unasked {
		if card, _ := a.Card(set); card.TS == "" {
			unasked = append(unasked, set+": "+because)
		}
	}
	section(w, "could not be asked in Slack:", unasked)
	section(w, "who may vote:", s.Voters)
	section(w, "mind:", s.Notes)
	if full {
		var facts []string
		for _, f := range s.Facts {
			facts = append(facts, f.Name+": "+f.Value)
		}
		section(w, "exactly:", facts)
		section(w, "how policy came to ask:", s.Trace)
		if s.Page != "" {
			fmt.Fprintf(w, "\npage:  %s\n", safe(s.Page))
		}
		fmt.Fprintf(w, "shown: %s\n", safe(s.Shown))
	}
}

// section prints lines, if there are any.
func section(w io.Writer, name string, lines []string) {
	if len(lines) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s\n", name)
	for _, l := range lines {
		barred(w, safe(l))
	}
}

// barred prints text with a bar before each line, and a broken one where a line
// goes on, so that it never begins where our own words do.
func barred(w io.Writer, text string) {
	room := columns() - 4
	for line := range strings.SplitSeq(text, "\n") {
		bar := "  │ "
		for {
			n, width := 0, 0
			for i, r := range line {
				width += cells(r)
				if width > room && i > 0 {
					break
				}
				n = i + len(string(r))
			}
			fmt.Fprintf(w, "%s%s\n", bar, line[:n])
			if line, bar = line[n:], "  ┊ "; line == "" {
				break
			}
		}
	}
}

// cells is how many columns a character may take: too many rather than too few.
func cells(r rune) int {
	switch {
	case r == '\t':
		return 8
	case r >= 0x1100:
		return 2
	}
	return 1
}

// columns is the width of the terminal, or 100.
func columns() int {
	if w, _, err := term.GetSize(int(os.Stdout.Fd())); err == nil && w >= 20 {
		return w
	}
	return 100
}

// safe is one line of text that no terminal takes for anything but text. What
// can be printed stays as it is.
func safe(s string) string {
	var b strings.Builder
	for _, r := range strings.ToValidUTF8(s, "\uFFFD") {
		if unicode.IsPrint(r) {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, `\u{%02X}`, r)
		}
	}
	return b.String()
}

// short is safe, and cut.
func short(s string, n int) string {
	all := []rune(safe(s))
	if len(all) > n {
		return string(all[:n-1]) + "…"
	}
	return string(all)
}

// printJSON prints what the enforcer answered, the same value, with everything
// that a terminal might take for more than text as an escape of JSON.
func printJSON(cmd *cobra.Command, raw json.RawMessage) error {
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, raw, "", "  "); err != nil {
		return fmt.Errorf("its answer cannot be read: %w", err)
	}
	_, err := io.WriteString(cmd.OutOrStdout(), visibleJSON(strings.TrimRight(pretty.String(), "\n")+"\n"))
	return err
}

// visibleJSON is the same JSON, with what a terminal might take for more than
// text as escapes.
func visibleJSON(text string) string {
	var b strings.Builder
	for _, r := range text {
		switch {
		case r == '\n' || unicode.IsPrint(r):
			b.WriteRune(r)
		case r > 0xFFFF:
			hi, lo := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, hi, lo)
		default: // stands inside of a string only
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}
