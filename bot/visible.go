package bot

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// visible makes text from outside safe to read: whatever a reader could not
// see, or could be misled by, stands there as \u{XXXX}. That is control and
// format characters (bidirectional marks and zero-width ones among them),
// line and paragraph separators, private use, spaces other than the plain one,
// and letters that draw nothing. A backslash that would spell such an escape
// is escaped itself, so that no text can pretend. Line breaks and tabs stay
// only where lines is set.
//
// It never gives more than limit characters, as Slack may count them (see
// cost), and never half an escape: what is left out is replaced by a note, and
// whole is false.
func visible(text string, lines bool, limit int) (out string, whole bool) {
	const note = " … [%d more characters]"
	var b strings.Builder
	used, fits, fitted := 0, 0, 0 // fits: bytes of b that leave room for the note
	seen := 0
	for i, r := range text {
		unit := string(r)
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(text[i:], "\uFFFD"):
			unit = fmt.Sprintf(`\u{x%02X}`, text[i]) // a byte that is no UTF-8
		case (r == '\n' || r == '\t') && lines:
		case hidden(r), r == '\\' && strings.HasPrefix(text[i+1:], "u{"):
			unit = fmt.Sprintf(`\u{%02X}`, r)
		}
		used += cost(unit)
		if used > limit {
			return b.String()[:fits] + fmt.Sprintf(note, utf8.RuneCountInString(text)-fitted), false
		}
		b.WriteString(unit)
		seen++
		if used <= limit-len(note)-20 {
			fits, fitted = b.Len(), seen
		}
	}
	return b.String(), true
}

// hidden tells whether r is invisible, or moves what stands around it.
func hidden(r rune) bool {
	switch {
	case r == ' ':
		return false
	case unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Cs, unicode.Zl, unicode.Zp, unicode.Zs):
		return true
	case unicode.In(r, unicode.Variation_Selector, unicode.Other_Default_Ignorable_Code_Point):
		return true
	case r == 0x2800: // braille pattern blank
		return true
	}
	return !unicode.IsPrint(r) && !unicode.IsMark(r) // unassigned
}

// cost is the number of characters that Slack may count for a text: UTF-16
// units, with & < > in the escaped form in which Slack keeps them.
func cost(s string) int {
	n := 0
	for _, r := range s {
		switch {
		case r == '&':
			n += 5
		case r == '<' || r == '>':
			n += 4
		case r > 0xFFFF:
			n += 2
		default:
			n++
		}
	}
	return n
}
