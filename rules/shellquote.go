package rules

import (
	"strconv"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// braces expands {a,b} into words; one that would make too many stays.
func braces(word *syntax.Word) []*syntax.Word {
	if !syntax.SplitBraces(word) && !hasBraces(word) {
		return []*syntax.Word{word}
	}
	out := []*syntax.Word{{}}
	for _, p := range word.Parts {
		b, ok := p.(*syntax.BraceExp)
		var choices []*syntax.Word
		if ok && !b.Sequence {
			for _, e := range b.Elems {
				choices = append(choices, braces(e)...)
			}
		}
		if len(choices) == 0 || len(choices)*len(out) > 4*maxShellReadings {
			if ok && !b.Sequence {
				p = &syntax.BraceExp{Sequence: true, Elems: b.Elems}
			}
			for _, o := range out {
				o.Parts = append(o.Parts, p)
			}
			continue
		}
		var next []*syntax.Word
		for _, o := range out {
			for _, c := range choices {
				next = append(next, &syntax.Word{Parts: append(append([]syntax.WordPart{}, o.Parts...), c.Parts...)})
			}
		}
		out = next
	}
	return out
}

func hasBraces(word *syntax.Word) bool {
	for _, p := range word.Parts {
		if _, ok := p.(*syntax.BraceExp); ok {
			return true
		}
	}
	return false
}

// unescaped takes backslashes off: all, or those before one of the bytes.
func unescaped(s, before string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) && (before == "" || strings.IndexByte(before, s[i+1]) >= 0) {
			i++
			if s[i] == '\n' {
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func globbing(s string) bool {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '*', '?', '[':
			return true
		}
	}
	return false
}

// ansiC decodes what stands in $'…' (Bash, "ANSI-C Quoting").
func ansiC(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		digits := func(most, base int) (int64, bool) {
			n := 0
			for n < most && i+1+n < len(s) {
				if _, err := strconv.ParseInt(s[i+1+n:i+2+n], base, 8); err != nil {
					break
				}
				n++
			}
			if n == 0 {
				return 0, false
			}
			v, err := strconv.ParseInt(s[i+1:i+1+n], base, 64)
			i += n
			return v, err == nil
		}
		switch c := s[i]; c {
		case 'n':
			b.WriteByte('\n')
		case 't':
			b.WriteByte('\t')
		case 'r':
			b.WriteByte('\r')
		case 'a', 'b', 'e', 'E', 'f', 'v':
			b.WriteByte(' ')
		case 'x':
			if v, ok := digits(2, 16); ok {
				b.WriteByte(byte(v))
			}
		case 'u', 'U':
			if v, ok := digits(map[byte]int{'u': 4, 'U': 8}[c], 16); ok {
				b.WriteRune(rune(v))
			}
		case 'c':
			i++
		case '0', '1', '2', '3', '4', '5', '6', '7':
			i--
			if v, ok := digits(3, 8); ok {
				b.WriteByte(byte(v))
			}
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}
