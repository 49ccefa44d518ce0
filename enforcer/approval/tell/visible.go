package tell

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Visible makes text from outside safe to read: whatever a reader could not
// see, or could be misled by, stands there as \u{XXXX}. That is control and
// format characters (bidirectional marks and zero-width ones among them),
// line and paragraph separators, private use, spaces other than the plain one,
// and letters that draw nothing. A backslash that would spell such an escape
// is escaped itself, so that no text can pretend. Line breaks and tabs stay
// only where lines is set.
//
// It never gives more than limit characters, as Slack may count them (see
// Cost), and never half an escape; see Cut.
func Visible(text string, lines bool, limit int) (out string, whole bool) {
	return Cut(escaped(text, lines), limit)
}

// escaped is the text with what cannot be seen spelled out.
func escaped(text string, lines bool) string {
	var b strings.Builder
	for i, r := range text {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(text[i:], "\uFFFD"):
			fmt.Fprintf(&b, `\u{x%02X}`, text[i]) // a byte that is no UTF-8
		case (r == '\n' || r == '\t') && lines:
			b.WriteRune(r)
		case hidden(r), r == '\\' && strings.HasPrefix(text[i+1:], "u{"):
			fmt.Fprintf(&b, `\u{%02X}`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// Cut shortens what Visible has made visible to limit characters (see Cost),
// with a note of how many are left out. An escape counts as the one character
// that it stands for, and is never cut.
func Cut(visible string, limit int) (out string, whole bool) {
	const note = " … [%d more characters]"
	used, fits, fitted := 0, 0, 0 // fits: bytes that leave room for the note
	seen := 0
	for i := 0; i < len(visible); {
		n := unit(visible[i:])
		used += Cost(visible[i : i+n])
		if used > limit {
			return visible[:fits] + fmt.Sprintf(note, seen+units(visible[i:])-fitted), false
		}
		i += n
		seen++
		if used <= limit-len(note)-20 {
			fits, fitted = i, seen
		}
	}
	return visible, true
}

// Split parts a visible text after at most limit characters (see Cost), not
// within an escape.
func Split(visible string, limit int) (head, rest string) {
	used := 0
	for i := 0; i < len(visible); {
		n := unit(visible[i:])
		if used += Cost(visible[i : i+n]); used > limit && i > 0 {
			return visible[:i], visible[i:]
		}
		i += n
	}
	return visible, ""
}

// unit is the length in bytes of the first character, or of the escape that
// stands for one.
func unit(visible string) int {
	_, n := utf8.DecodeRuneInString(visible)
	if strings.HasPrefix(visible, `\u{`) {
		n = max(strings.IndexByte(visible, '}')+1, n)
	}
	return n
}

// units counts characters, an escape being one.
func units(visible string) int {
	n := 0
	for i := 0; i < len(visible); i += unit(visible[i:]) {
		n++
	}
	return n
}

// hidden tells whether r is invisible, or moves what stands around it.
func hidden(r rune) bool {
	switch {
	case r < 0x7F:
		return r < ' '
	case unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Cs, unicode.Zl, unicode.Zp, unicode.Zs):
		return true
	case unicode.In(r, unicode.Variation_Selector, unicode.Other_Default_Ignorable_Code_Point):
		return true
	case r == 0x2800: // braille pattern blank
		return true
	}
	return !unicode.IsPrint(r) && !unicode.IsMark(r) // unassigned
}

// Cost is the number of characters that Slack may count for a text: UTF-16
// units, with & < > in the escaped form in which Slack keeps them.
func Cost(s string) int {
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
