package rules

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
)

// What a whole request exposes: every text in its arguments, and its URI, by
// what it is. The name of an argument and of the tool tell what a text is
// meant as: "command" is shell, "sql" is SQL. Where they do not, a text is
// what it looks like, and then only what is certain counts: in prose the word
// "env" is no command, and what does not parse is no SQL.

const (
	maxExposureTexts = 20_000
	maxSQLTexts      = 32
	maxShellTexts    = 64
	maxParsedBytes   = 128 << 10 // of the texts that are parsed, together
	maxFindings      = 32
	maxTextDepth     = 3 // of JSON within texts
)

// An exposer looks at one request, or at one text.
type exposer struct {
	facts       *facts
	tool        []string // the words of its name
	found       []finding
	texts       int
	sqls, lines int // texts that were parsed
	bytes       int // of them
	depth       int
}

// exposures lists what the request meets in the catalogue, once a decision.
func (f *facts) exposures() ([]finding, error) {
	if f.exposed != nil {
		return f.exposed, nil
	}
	f.decode()
	if f.argsErr != nil {
		return nil, f.argsErr
	}
	x := &exposer{facts: f, tool: nameWords(f.req.Tool)}
	if f.req.Method == "tools/call" {
		x.toolNamed()
	}
	x.object(f.args, "args")
	if f.req.Resource != "" {
		x.place(f.req.Resource, "resource")
	}
	f.exposed = x.sorted()
	return f.exposed, nil
}

// exposuresIn lists what one text meets, taken for what it looks like.
func (f *facts) exposuresIn(text string) []finding {
	x := &exposer{facts: f}
	x.text(text, "", "", true)
	return x.sorted()
}

func (x *exposer) sorted() []finding {
	slices.SortFunc(x.found, func(a, b finding) int {
		return cmp.Or(strings.Compare(a.at, b.at), strings.Compare(a.of.id, b.of.id))
	})
	x.found = slices.Compact(x.found)
	return append([]finding{}, x.found[:min(len(x.found), maxFindings)]...)
}

func (x *exposer) add(at string, list ...*exposure) {
	for _, e := range list {
		if f := (finding{e, at}); !slices.Contains(x.found, f) && len(x.found) < 4*maxFindings {
			x.found = append(x.found, f)
		}
	}
}

// within spells a place below another. Names come from the caller: one that
// is no plain word is not repeated, since people read this.
func within(at, key string) string {
	plain := key != "" && len(key) <= 40 && strings.IndexFunc(key, func(r rune) bool {
		return r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '_' && r != '-'
	}) < 0
	if !plain {
		return at + ".…"
	}
	return at + "." + key
}

func (x *exposer) object(m map[string]any, at string) {
	x.kubernetes(m, at)
	x.argv(m, at)
	x.relations(m, at)
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		x.value(m[k], k, within(at, k))
		x.text(k, "", at, false) // a name can be a text, too: {"SELECT …": 1}
	}
}

func (x *exposer) value(v any, key, at string) {
	switch v := v.(type) {
	case string:
		x.text(v, key, at, true)
	case map[string]any:
		x.object(v, at)
	case []any:
		if words := stringsOf(v); words != nil && x.meant(key) == asShell && !plural(key) {
			x.words(words, at)
		}
		for i, item := range v {
			if s, ok := item.(string); ok && x.meant(key) == asShell && !plural(key) && !strings.ContainsAny(s, " \t\n") {
				x.place(s, fmt.Sprintf("%s[%d]", at, i))
				continue
			}
			x.value(item, key, fmt.Sprintf("%s[%d]", at, i))
		}
	}
}

func stringsOf(list []any) []string {
	var out []string
	for _, v := range list {
		s, ok := v.(string)
		if !ok {
			return nil
		}
		out = append(out, s)
	}
	return out
}

func plural(key string) bool {
	return slices.ContainsFunc(nameWords(key), func(w string) bool { return w == "commands" || w == "cmds" || w == "scripts" || w == "lines" })
}

// text looks at one text. Of the name of an argument only what is certain
// counts: value is false.
func (x *exposer) text(s, key, at string, value bool) {
	s = strings.TrimSpace(s)
	if s == "" {
		return
	}
	if x.texts++; x.texts > maxExposureTexts {
		x.add(at, byID[idTooMuch])
		return
	}
	as := x.meant(key)
	if value {
		x.place(s, at)
	}
	if x.json(s, key, at) {
		return
	}
	if decoded, ok := encoded(s); ok && x.depth < maxTextDepth {
		x.depth++
		x.text(decoded, key, at, value)
		x.depth--
	}
	if as == asCode && value {
		allowed := slices.Concat(harmless["python"], harmless["node"])
		if !computes(s, allowed) {
			x.add(at, byID[idShellDynamic])
		}
		return
	}
	if x.sqlText(s, as, at) && as != asShell {
		return
	}
	if as == asSQL && value {
		return
	}
	x.shellText(s, as, at)
}

// parses counts a text that is about to be parsed, and tells whether that is
// too much.
func (x *exposer) parses(s string) bool {
	x.bytes += len(s)
	return x.bytes > maxParsedBytes
}

// json looks into a text that is JSON.
func (x *exposer) json(s, key, at string) bool {
	if s[0] != '{' && s[0] != '[' && s[0] != '"' || x.depth >= maxTextDepth || len(s) > 1<<20 {
		return false
	}
	var values []any // one text may hold several: lines of JSON
	for d := json.NewDecoder(strings.NewReader(s)); ; {
		var v any
		if err := d.Decode(&v); err == io.EOF {
			break
		} else if err != nil {
			return false
		}
		values = append(values, v)
	}
	x.depth++
	for _, v := range values {
		x.value(v, key, at)
	}
	x.depth--
	return true
}

// encoded is the text that stands in Base64, if it is one that people read.
func encoded(s string) (string, bool) {
	if len(s) < 12 || len(s) > maxShellBytes || strings.ContainsAny(s, " .:") {
		return "", false
	}
	s = strings.TrimRight(webBreaks.Replace(s), "=")
	b, err := base64.RawStdEncoding.DecodeString(strings.NewReplacer("-", "+", "_", "/").Replace(s))
	if err != nil || strings.IndexFunc(string(b), func(r rune) bool { return r > unicode.MaxASCII || r < ' ' && !isBlank(r) && r != '\r' }) >= 0 {
		return "", false
	}
	return string(b), true
}

// sqlText looks at a text as SQL, and tells whether it is.
func (x *exposer) sqlText(s string, as meaning, at string) bool {
	if as != asSQL && !sqlVerbs.MatchString(s) {
		return false
	}
	if as == asAny && !strings.ContainsAny(s, " \t\n/(") {
		return false
	}
	if len(s) > maxSQLBytes {
		if as == asSQL {
			x.add(at, byID[idSQLUnreadable])
		}
		return as == asSQL
	}
	if x.sqls++; x.sqls > maxSQLTexts || x.parses(s) {
		x.add(at, byID[idTooMuch])
		return true
	}
	f := x.facts.sql(s)
	certain := as == asSQL || as == asQuery
	switch {
	case f.parsed:
		for _, e := range f.exposuresOf() {
			// In prose, "execute plan" and "show all" happen to parse.
			if !certain && (e.id == idSQLSettings || e.id == idSQLDynamic && (x.writes() || !strings.ContainsAny(s, "'($;"))) {
				continue
			}
			x.add(at, e)
		}
		return true
	case as == asSQL:
		x.add(at, f.exposuresOf()...)
		return true
	case sqlStraight.MatchString(s):
		x.add(at, scanSQL(s, false)...)
		return certain
	}
	return false
}

// shellText looks at a text as shell.
func (x *exposer) shellText(s string, as meaning, at string) {
	if as != asShell && !x.looksLikeShell(s) {
		return
	}
	if len(s) > maxShellBytes && as != asShell {
		return
	}
	if x.lines++; x.lines > maxShellTexts || x.parses(s) {
		x.add(at, byID[idTooMuch])
		return
	}
	f := x.facts.shell(s)
	certain := as == asShell || strings.HasPrefix(s, "#!") && !x.writes()
	if !f.parsed && !certain {
		return
	}
	list := f.exposuresOf(x.facts.sql)
	if program := x.program(); program != "" && certain { // a tool kubectl, with "get secrets -A"
		list = append(list, x.facts.shell(program+" "+s).exposuresOf(x.facts.sql)...)
	}
	for _, e := range list {
		if !certain && (e.id == idShellDynamic || e.id == idShellUnreadable || len(f.commands) == 1 && len(f.commands[0].args) == 0) {
			continue
		}
		x.add(at, e)
	}
}

// looksLikeShell tells whether a text begins with a program of the catalogue,
// one that runs others, or one that shows files.
func (x *exposer) looksLikeShell(s string) bool {
	if strings.HasPrefix(s, "#!") {
		line, _, _ := strings.Cut(s, "\n")
		return strings.HasSuffix(strings.TrimSpace(line), "sh") || strings.Contains(line, "sh ")
	}
	s = strings.TrimLeft(s, "({;$`!<> \t\n")
	end := strings.IndexAny(s, " \t\n;|&<>()")
	if end < 0 {
		end = len(s)
	}
	word := s[:end]
	if strings.Contains(word, "=") { // NAME=value before a command
		rest := strings.TrimLeft(s[end:], " \t\n;")
		return rest != "" && rest != s && x.looksLikeShell(rest)
	}
	name := word[strings.LastIndexByte(word, '/')+1:]
	if strings.ToLower(name) != name {
		return false
	}
	_, wraps := shellWrappers[name]
	_, second := shellNames[name]
	_, client := sqlClients[name]
	return len(byProgram[name]) > 0 || wraps || second || client || reader[name] || shellStarts[name]
}

// shellStarts are other words that a line of shell begins with.
var shellStarts = setOf("sh cd eval true : echo printf test [ if for while until case")

var toolPrograms = setOf("kubectl oc aws gcloud az vault bao gh glab git docker podman op psql mysql helm redis")

// program is a program that the tool is named after.
func (x *exposer) program() string {
	for _, w := range x.tool {
		if toolPrograms[w] {
			return w
		}
	}
	return ""
}

// argv looks at a program and its words in arguments of their own.
func (x *exposer) argv(m map[string]any, at string) {
	for k, v := range m {
		program, ok := v.(string)
		if !ok || x.meant(k) != asShell && k != "program" && k != "executable" && k != "binary" || strings.ContainsAny(program, " \t\n") {
			continue
		}
		for _, name := range []string{"args", "arguments", "argv", "params", "parameters"} {
			if list, ok := m[name].([]any); ok && name != k {
				if words := stringsOf(list); words != nil {
					x.words(append([]string{program}, words...), within(at, name))
				}
			}
		}
	}
}

// words looks at the words of a command, which no shell reads.
func (x *exposer) words(words []string, at string) {
	if x.lines++; x.lines > maxShellTexts {
		x.add(at, byID[idTooMuch])
		return
	}
	for _, before := range []string{"", x.program()} {
		var b strings.Builder
		b.WriteString(before)
		for _, w := range words {
			b.WriteString(" '" + strings.ReplaceAll(w, "'", `'\''`) + "'")
		}
		x.add(at, x.facts.shell(b.String()).exposuresOf(x.facts.sql)...)
		if x.program() == "" {
			return
		}
	}
}
