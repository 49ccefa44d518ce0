package rules

import (
	"path"
	"regexp"
	"slices"
	"strings"
)

// How the entries of the catalogue are told in a text. Everything is compared
// in lower case.
//
// A commandPattern is words: a program, then its words in their order, with
// any others between them: "gcloud secrets versions access". Each is a list of
// globs, by "|". A word that begins with "-" is an option, which may stand
// anywhere, with "=value" behind it. "$" means without operands, "." without
// any word, "%" that it runs no other command (env), and "!a|b" without these.
type commandPattern struct {
	of                *exposure
	operands, options [][]string
	without           []string
	bare, alone, last bool
}

func newCommandPattern(of *exposure, text string) (programs []string, p commandPattern) {
	words := strings.Fields(text)
	p.of = of
	for _, w := range words[1:] {
		switch {
		case w == "$":
			p.bare = true
		case w == ".":
			p.alone = true
		case w == "%":
			p.last = true
		case w[0] == '!':
			p.without = strings.Split(w[1:], "|")
		case w[0] == '-' && len(w) > 1:
			p.options = append(p.options, strings.Split(w, "|"))
		default:
			p.operands = append(p.operands, strings.Split(w, "|"))
		}
	}
	return strings.Split(words[0], "|"), p
}

// matches tells whether the command is one that the pattern means. The words
// are in lower case.
func (p commandPattern) matches(c *shellCommand, words []string) bool {
	if p.alone && len(words) > 0 || p.last && c.wraps {
		return false
	}
	if p.bare && slices.ContainsFunc(words, func(w string) bool { return !strings.HasPrefix(w, "-") && !among(w, p.operands) }) {
		return false
	}
	if slices.ContainsFunc(words, func(w string) bool { return option(w, p.without) }) {
		return false
	}
	for _, any := range p.options {
		if !slices.ContainsFunc(words, func(w string) bool { return option(w, any) }) {
			return false
		}
	}
	at := 0
	for _, any := range p.operands {
		for at < len(words) && !globs(any, words[at]) {
			at++
		}
		if at == len(words) {
			return false
		}
		at++
	}
	return true
}

func among(w string, operands [][]string) bool {
	return slices.ContainsFunc(operands, func(any []string) bool { return globs(any, w) })
}

func option(w string, any []string) bool {
	return slices.ContainsFunc(any, func(o string) bool {
		return w == o || strings.HasPrefix(w, o+"=") || !strings.HasPrefix(o, "-") && overlap(o, w)
	})
}

// globs tells whether one of the globs matches the word; the word may be an
// option's value (--resource=secrets).
func globs(any []string, w string) bool {
	return slices.ContainsFunc(any, func(g string) bool { return globMatch(g, w) })
}

// globMatch matches a text with a glob that knows "*" only.
func globMatch(glob, s string) bool {
	first, rest, ok := strings.Cut(glob, "*")
	if !ok {
		return glob == s
	}
	if !strings.HasPrefix(s, first) {
		return false
	}
	s = s[len(first):]
	for {
		part, after, more := strings.Cut(rest, "*")
		if !more {
			return strings.HasSuffix(s, part)
		}
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s, rest = s[i+len(part):], after
	}
}

// overlap tells whether any text matches both globs: what the shell may make
// of one, and what the catalogue names by the other. "?" and "[…]" stand for
// any one character.
func overlap(a, b string) bool {
	if len(a) > 255 || len(b) > 255 {
		return false
	}
	as, bs := globTokens(a), globTokens(b)
	reach := make([]bool, len(bs)+1)
	reach[0] = true
	for j, t := range bs {
		reach[j+1] = reach[j] && t == '*'
	}
	for _, x := range as {
		next := make([]bool, len(bs)+1)
		next[0] = reach[0] && x == '*'
		for j, y := range bs {
			switch {
			case x == '*' && y == '*':
				next[j+1] = reach[j] || reach[j+1] || next[j]
			case x == '*':
				next[j+1] = reach[j+1] || next[j] || reach[j]
			case y == '*':
				next[j+1] = next[j] || reach[j+1] || reach[j]
			case x == y || x == '?' || y == '?':
				next[j+1] = reach[j]
			}
		}
		reach = next
	}
	return reach[len(bs)]
}

// globTokens is a glob with each bracket expression as "?".
func globTokens(s string) []rune {
	var out []rune
	for i := 0; i < len(s); i++ {
		if s[i] == '[' {
			if end := strings.IndexByte(s[min(i+2, len(s)):], ']'); end >= 0 {
				i += 2 + end
				out = append(out, '?')
				continue
			}
		}
		out = append(out, rune(s[i]))
	}
	return out
}

// A filePattern is the end of a path: ".aws/credentials" is that file in any
// folder, and so is "/etc/shadow", since a root may be mounted anywhere. "/" at
// the end means the folder as a whole, "/**" whatever is in it as well.
type filePattern struct {
	of    *exposure
	parts []string
	below bool // whatever is below, too
}

func newFilePattern(of *exposure, text string) filePattern {
	p := filePattern{of: of}
	text, p.below = strings.CutSuffix(text, "/**")
	p.parts = strings.Split(strings.Trim(text, "/"), "/")
	return p
}

// templates are files that show what belongs into the real ones.
var templates = []string{".example", ".sample", ".template", ".dist", ".tmpl", ".schema", ".defaults", ".pub", ".d.ts"}

// match compares a path that pathParts has taken apart.
func (p filePattern) match(parts []string) bool {
	n := len(p.parts)
	if p.below {
		for i := 0; i+n < len(parts); i++ {
			if alike(parts[i:i+n], p.parts) {
				return true
			}
		}
	}
	return len(parts) >= n && alike(parts[len(parts)-n:], p.parts)
}

// alike compares components, of which both sides may be globs. A glob that
// would fit anything, or anything of a kind (*.json), says nothing.
func alike(parts, pattern []string) bool {
	literal, globbed := 0, false
	for i, part := range parts {
		if !strings.ContainsAny(part, "*?[") {
			if !globMatch(pattern[i], part) {
				return false
			}
			literal += len(part)
			continue
		}
		if !overlap(part, pattern[i]) || pattern[i][0] == '.' && (part[0] == '*' || part[0] == '?') {
			return false
		}
		globbed = true
		if rest, ok := strings.CutPrefix(part, "*"); ok && strings.Contains(pattern[i], "*") {
			if end, ok := strings.CutPrefix(pattern[i], "*"); !ok || !strings.HasSuffix(rest, end) {
				return false
			}
		} else if ok && strings.HasPrefix(rest, ".") {
			continue
		}
		literal += len(strings.Trim(strings.NewReplacer("*", "", "?", "").Replace(part), "[]"))
	}
	return !globbed || literal >= 3 || len(pattern) == 1 && literal >= 2 && pattern[0][0] == '.'
}

var homes = regexp.MustCompile(`^(~[a-z0-9_.-]*|/root|/home/[^/]+|/users/[^/]+|[a-z]:/users/[^/]+)(/|$)`)

// pathParts takes a path apart, home folders off.
func pathParts(p string) (parts []string) {
	p = strings.ToLower(strings.ReplaceAll(p, `\`, "/"))
	for strings.Contains(p, "//") {
		p = strings.ReplaceAll(p, "//", "/")
	}
	p = strings.ReplaceAll(p, "/./", "/")
	p = strings.Replace(p, "/dev/fd", "/proc/self/fd", 1) // as the links go
	if strings.Contains(p, "..") {
		p = path.Clean(p)
	}
	if m := homes.FindString(p); m != "" && m != p {
		p = p[len(m):]
	}
	for part := range strings.SplitSeq(p, "/") {
		if part != "" && part != "." {
			parts = append(parts, part)
		}
	}
	return parts
}

// A finding is an entry of the catalogue that a request meets.
type finding struct {
	of *exposure
	at string // where: args.sql, resource; "" where one text was asked about
}

// Words says it for a person.
func (f finding) String() string {
	if f.at == "" {
		return f.of.words + " (" + f.of.id + ")"
	}
	return f.of.words + " (" + f.of.id + ", in " + f.at + ")"
}

// catalogue is all entries; the rest is ways to find them by a name.
var catalogue = func() []*exposure {
	var all []*exposure
	for _, part := range [][]exposure{sqlCatalogue, commandCatalogue, placeCatalogue} {
		for i := range part {
			all = append(all, &part[i])
		}
	}
	return all
}()

var byID = func() map[string]*exposure {
	m := map[string]*exposure{}
	for _, e := range catalogue {
		m[e.id] = e
	}
	return m
}()

// programGlob is a pattern whose program is a glob.
type programGlob struct {
	name string
	commandPattern
}

var byProgram, programGlobs = func() (map[string][]commandPattern, []programGlob) {
	exact, globbed := map[string][]commandPattern{}, []programGlob(nil)
	for _, e := range catalogue {
		for _, text := range e.commands {
			programs, p := newCommandPattern(e, text)
			for _, name := range programs {
				if strings.Contains(name, "*") {
					globbed = append(globbed, programGlob{name, p})
				} else {
					exact[name] = append(exact[name], p)
				}
			}
		}
	}
	return exact, globbed
}()

// filesByEnd files patterns whose last component is no glob by it.
var filesByEnd, filesByGlob = func() (map[string][]filePattern, []filePattern) {
	exact, rest := map[string][]filePattern{}, []filePattern(nil)
	for _, e := range catalogue {
		for _, text := range e.files {
			p := newFilePattern(e, text)
			if end := p.parts[len(p.parts)-1]; p.below || strings.Contains(end, "*") {
				rest = append(rest, p)
			} else {
				exact[end] = append(exact[end], p)
			}
		}
	}
	return exact, rest
}()

// file lists what a path names.
func file(p string) []*exposure {
	p, _, _ = strings.Cut(p, "\x00") // where C ends it
	p = strings.TrimSuffix(p, "::$DATA")
	if p == "" || len(p) > 4096 {
		return nil
	}
	parts := pathParts(p)
	if len(parts) == 0 || slices.ContainsFunc(templates, func(t string) bool { return strings.HasSuffix(parts[len(parts)-1], t) }) {
		return nil
	}
	var found []*exposure
	try := func(patterns []filePattern) {
		for _, f := range patterns {
			if f.match(parts) && !slices.Contains(found, f.of) {
				found = append(found, f.of)
			}
		}
	}
	if end := parts[len(parts)-1]; strings.ContainsAny(end, "*?[") {
		for _, patterns := range filesByEnd {
			try(patterns)
		}
		slices.SortFunc(found, func(a, b *exposure) int { return strings.Compare(a.id, b.id) })
	} else {
		try(filesByEnd[end])
	}
	try(filesByGlob)
	return found
}
