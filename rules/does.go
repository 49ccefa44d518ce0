package rules

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// What SQL and shell in a request do, in words, for who is to approve it. The
// words come from the parsers that conditions use, and add to the text itself,
// which the reader has too. What cannot be told is said so; nothing that
// changes something gives way to what only reads.

const (
	maxDoesLines = 20  // of a text
	maxDoesWidth = 280 // characters of a line
	maxDoesWord  = 80  // characters of a name or a word; a longer one is counted
	maxDoesTexts = 8
	maxDoesTotal = 48 // lines of all texts
)

// A doing is what one statement or command does. Its parts are never cut: what
// shows them masks them first, and half a secret would not be known.
type doing struct {
	kind  string // what to call it where there is no room for more
	parts []string
	tail  []string // what is said even if there are too many parts
	grave bool     // does more than read, or may
	files bool     // says in words of its own that it reaches files
}

func (d *doing) say(format string, args ...any) {
	d.parts = append(d.parts, fmt.Sprintf(format, args...))
}

func (d *doing) then(format string, args ...any) {
	d.tail = append(d.tail, fmt.Sprintf(format, args...))
}

func (d *doing) sayAll(before string, items []string) {
	d.parts = append(d.parts, listed(before, items)...)
}

func (d *doing) thenAll(before string, items []string) {
	d.tail = append(d.tail, listed(before, items)...)
}

// listed makes a part of each item: "reads a,", "b".
func listed(before string, items []string) []string {
	out := slices.Clone(items)
	for i := range out {
		if i < len(out)-1 {
			out[i] += ","
		}
	}
	if len(out) > 0 {
		out[0] = before + out[0]
	}
	return out
}

// line joins the parts that there is room for.
func (d *doing) line(before string) string {
	line := before + fitting(d.parts)
	if len(d.tail) > 0 {
		line += " " + fitting(d.tail)
	}
	return line
}

func fitting(parts []string) string {
	line := ""
	for i, p := range parts {
		if i > 0 && utf8.RuneCountInString(line)+utf8.RuneCountInString(p) > maxDoesWidth {
			return line + fmt.Sprintf(" … (and %d more: read it yourself)", len(parts)-i)
		}
		if i > 0 {
			line += " "
		}
		line += p
	}
	return line
}

// doings tells what the statements or commands (whose names in the plural are
// things) of one text do. Where there are too many, those that only read give
// way first.
func doings(all []doing, things string) []string {
	shown := make([]bool, len(all))
	room := len(all)
	if room > maxDoesLines-2 {
		room = maxDoesLines - 2
	}
	for _, grave := range []bool{true, false} {
		for i, d := range all {
			if d.grave == grave && room > 0 {
				shown[i], room = true, room-1
			}
		}
	}
	var out, left []string
	if len(all) > 1 {
		out = append(out, fmt.Sprintf("%d %s:", len(all), things))
	}
	more, grave := 0, 0
	for i, d := range all {
		switch {
		case shown[i] && len(all) > 1:
			out = append(out, d.line(fmt.Sprintf("%d. ", i+1)))
		case shown[i]:
			out = append(out, d.line(""))
		default:
			if more++; !slices.Contains(left, d.kind) {
				left = append(left, d.kind)
			}
			if d.grave {
				grave++
			}
		}
	}
	if more > 0 {
		rest := doing{}
		rest.say("and %d more %s", more, things)
		if grave > 0 {
			rest.say("(%d of them may change something)", grave)
		}
		rest.thenAll("that are not told here, read them yourself: ", left)
		out = append(out, rest.line(""))
	}
	return out
}

// word spells a word of the text: quoted where it would not be seen where it
// ends, and only counted where it is long.
func word(s string, quote byte) string {
	if n := utf8.RuneCountInString(s); n > maxDoesWord {
		return fmt.Sprintf("(a text of %d characters)", n)
	}
	plain := s != ""
	for _, r := range s {
		plain = plain && (r < utf8.RuneSelf && strings.ContainsRune("_-./:=@%+,~$*?[]{}^", r) || unicode.IsLetter(r) || unicode.IsDigit(r))
	}
	if plain {
		return s
	}
	q := string(quote)
	return q + strings.ReplaceAll(s, q, q+q) + q
}

func either(is bool, yes, no string) string {
	if is {
		return yes
	}
	return no
}
