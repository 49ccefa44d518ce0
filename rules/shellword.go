package rules

import (
	"strings"
	"unicode/utf8"

	"mvdan.cc/sh/v3/syntax"
)

// known is a word of which everything is known.
func known(text string) shellWord { return shellWord{text: text, bare: text} }

func joined(a, b shellWord) shellWord {
	return shellWord{text: a.text + b.text, bare: a.bare + b.bare, unknown: a.unknown || b.unknown,
		computed: a.computed || b.computed, variable: a.variable || b.variable, indirect: a.indirect || b.indirect, glob: a.glob || b.glob}
}

// maxShellReadings bounds the readings of one word whose variables have
// several values, and the words that its braces make.
const maxShellReadings = 16

// maxShellParts bounds the parts of one word: each is put behind all before it.
const maxShellParts = 1000

// word reads a word: as the fields that it is split into, for each of the
// values that its variables may have.
func (w *shellWalker) word(word *syntax.Word) []shellWord {
	if word == nil {
		return nil
	}
	var out []shellWord
	for _, one := range braces(word) {
		for _, reading := range w.readings(one.Parts, false) {
			out = append(out, reading...)
		}
	}
	return out
}

// assigned reads the right side of an assignment, which is not split.
func (w *shellWalker) assigned(word *syntax.Word) []shellWord {
	var out []shellWord
	for _, reading := range w.readings(word.Parts, false) {
		one := known("")
		for i, field := range reading {
			if i > 0 {
				one = joined(one, known(" "))
			}
			one = joined(one, field)
		}
		out = append(out, one)
	}
	return out
}

// readings puts the parts of a word together in each of the ways that their
// values allow. Quoted text is one field; what is not quoted may be several.
func (w *shellWalker) readings(parts []syntax.WordPart, quoted bool) [][]shellWord {
	if len(parts) > maxShellParts {
		w.over = true
		return nil
	}
	all := [][]shellWord{{}}
	for _, p := range parts {
		values := w.part(p, quoted)
		if len(values)*len(all) > maxShellReadings {
			values = [][]shellWord{{{text: "$…", unknown: true, computed: true, variable: true}}}
		}
		var next [][]shellWord
		for _, before := range all {
			for _, v := range values {
				next = append(next, appended(before, v))
			}
		}
		all = next
	}
	return all
}

// appended puts the fields of a part behind those before it: the first one
// joins the last.
func appended(before, fields []shellWord) []shellWord {
	out := append([]shellWord{}, before...)
	for i, f := range fields {
		if i == 0 && len(out) > 0 {
			out[len(out)-1] = joined(out[len(out)-1], f)
			continue
		}
		out = append(out, f)
	}
	return out
}

// split makes fields of what an unquoted expansion gives.
func split(v shellWord) []shellWord {
	if strings.IndexByte(v.text, ' ') < 0 && strings.IndexByte(v.text, '\t') < 0 && strings.IndexByte(v.text, '\n') < 0 {
		return []shellWord{v}
	}
	var out []shellWord
	texts := strings.FieldsFunc(v.text, isBlank)
	bares := strings.FieldsFunc(v.bare, isBlank)
	for i, t := range texts {
		f := v
		f.text, f.bare = t, ""
		if i < len(bares) {
			f.bare = bares[i]
		}
		out = append(out, f)
	}
	// A blank at an end separates from what stands next to it.
	if r, _ := utf8.DecodeRuneInString(v.text); isBlank(r) {
		out = append([]shellWord{{variable: true}}, out...)
	}
	if r, _ := utf8.DecodeLastRuneInString(v.text); isBlank(r) {
		out = append(out, shellWord{variable: true})
	}
	return out
}

func isBlank(r rune) bool { return r == ' ' || r == '\t' || r == '\n' }

// part reads a part of a word: its values, each as fields. A part is read
// once, however many words its braces make: what it runs is run once.
func (w *shellWalker) part(p syntax.WordPart, quoted bool) [][]shellWord {
	if _, literal := p.(*syntax.Lit); literal {
		return w.read(p, quoted)
	}
	values, ok := w.parts[p]
	if !ok {
		values = w.read(p, quoted)
		w.parts[p] = values
	}
	return values
}

func (w *shellWalker) read(p syntax.WordPart, quoted bool) [][]shellWord {
	one := func(v shellWord) [][]shellWord { return [][]shellWord{{v}} }
	switch p := p.(type) {
	case *syntax.Lit:
		if quoted {
			return one(known(unescaped(p.Value, "$`\"\\\n")))
		}
		v := known(unescaped(p.Value, ""))
		v.glob = globbing(p.Value)
		return one(v)
	case *syntax.SglQuoted:
		if p.Dollar {
			return one(known(ansiC(p.Value)))
		}
		return one(known(p.Value))
	case *syntax.DblQuoted:
		var out [][]shellWord
		for _, reading := range w.readings(p.Parts, true) {
			v := known("")
			for _, f := range reading {
				v = joined(v, f)
			}
			out = append(out, []shellWord{v})
		}
		return out
	case *syntax.ParamExp:
		return w.parameter(p, quoted)
	case *syntax.CmdSubst:
		var out [][]shellWord
		for _, v := range w.substitution(p.Stmts) {
			v.variable = true
			if quoted {
				out = append(out, []shellWord{v})
			} else {
				out = append(out, split(v))
			}
		}
		return out
	case *syntax.ProcSubst:
		w.stmts(p.Stmts, shellPlace{nested: true, feeds: true})
		return one(shellWord{text: "<(…)", unknown: true, variable: true})
	case *syntax.ArithmExp:
		w.inside(p, shellPlace{})
		return one(shellWord{text: "$((…))", unknown: true, variable: true})
	case *syntax.ExtGlob:
		return alternatives(p)
	case *syntax.BraceExp: // {a..z}
		return one(shellWord{text: "{…}", unknown: true, computed: true, variable: true})
	}
	return one(shellWord{text: "$…", unknown: true, computed: true, variable: true})
}

// parameter reads $x and ${x…}.
func (w *shellWalker) parameter(p *syntax.ParamExp, quoted bool) [][]shellWord {
	name := ""
	if p.Param != nil {
		name = p.Param.Value
	}
	unset := shellWord{text: "$" + name, unknown: true, variable: true}
	var values []shellWord
	for _, v := range w.vars[positional(name)] {
		v.variable = true
		values = append(values, v)
	}
	switch name {
	case "IFS":
		if !quoted {
			return [][]shellWord{split(known(" "))}
		}
	case "HOME":
		values = []shellWord{known("~")}
	case "PWD":
		values = []shellWord{known(".")}
	}
	literal := len(values) > 0
	if !literal {
		values = []shellWord{unset}
	}
	if p.Index != nil {
		w.inside(p.Index, shellPlace{})
	}
	computed := func() {
		values = []shellWord{{text: "$" + name, unknown: true, computed: literal, variable: true}}
	}
	switch {
	case p.Excl || p.Names != 0: // ${!x}: a name that is known when it runs
		literal = true
		computed()
		values[0].indirect = true
	case p.Length, p.Width:
		values = []shellWord{unset}
	case p.Slice != nil:
		if p.Slice.Offset != nil { // ${x::7}
			w.inside(p.Slice.Offset, shellPlace{})
		}
		if p.Slice.Length != nil {
			w.inside(p.Slice.Length, shellPlace{})
		}
		computed()
	case p.Repl != nil:
		w.word(p.Repl.Orig)
		w.word(p.Repl.With)
		computed()
	case p.Exp != nil:
		var other []shellWord
		if p.Exp.Word != nil {
			other = w.assigned(p.Exp.Word)
		}
		for i := range other {
			other[i].variable = true
		}
		switch p.Exp.Op {
		case syntax.DefaultUnset, syntax.DefaultUnsetOrNull:
			values = append(values, other...)
		case syntax.AssignUnset, syntax.AssignUnsetOrNull:
			values = append(values, other...)
			w.set(name, other...)
		case syntax.AlternateUnset, syntax.AlternateUnsetOrNull:
			values = append(other, shellWord{variable: true})
		case syntax.ErrorUnset, syntax.ErrorUnsetOrNull:
		default:
			computed()
		}
	}
	var out [][]shellWord
	for _, v := range values {
		if quoted {
			out = append(out, []shellWord{v})
		} else {
			v.glob = v.glob || globbing(v.text) && !v.unknown
			out = append(out, split(v))
		}
	}
	return out
}

// positional files $1, $@ and the like under one name: which argument is
// which is not kept.
func positional(name string) string {
	if name == "*" || name != "" && strings.Trim(name, "0123456789") == "" && name != "0" {
		return "@"
	}
	return name
}

// substitution visits the commands of $(…), and gives what it comes to if that
// stands in the text.
func (w *shellWalker) substitution(stmts []*syntax.Stmt) []shellWord {
	before := len(w.facts.commands)
	w.stmts(stmts, shellPlace{nested: true, feeds: true})
	ran := w.facts.commands[min(before, len(w.facts.commands)):]
	v := shellWord{text: "$(…)", unknown: true, variable: true}
	if len(ran) == 1 && len(ran[0].args) > 0 && (ran[0].name == "echo" || ran[0].name == "printf") {
		args := ran[0].args
		for len(args) > 1 && (strings.HasPrefix(args[0].text, "-") || ran[0].name == "printf" && plainFormat(args[0].text)) {
			v.computed = v.computed || strings.Contains(args[0].text, "e") && ran[0].name == "echo"
			args = args[1:]
		}
		sum := args[0]
		for _, a := range args[1:] {
			sum = joined(joined(sum, known(" ")), a)
		}
		if !v.computed && !strings.ContainsAny(sum.text, "\\%") {
			return []shellWord{sum}
		}
		v.computed = true
		return []shellWord{v}
	}
	for _, c := range ran {
		switch c.name {
		case "echo", "printf", "base64", "base32", "xxd", "rev", "tr", "openssl", "gunzip", "zcat", "uudecode":
			v.computed = true
		}
		v.computed = v.computed || len(c.stdin) > 0
	}
	return []shellWord{v}
}

func plainFormat(s string) bool { return s == "%s" || s == "%s\\n" || s == "%b" }

// document reads a here-document.
func (w *shellWalker) document(r *syntax.Redirect) string {
	quoted := false
	for _, p := range r.Word.Parts {
		lit, ok := p.(*syntax.Lit)
		quoted = quoted || !ok || strings.Contains(lit.Value, "\\")
	}
	var b strings.Builder
	for _, p := range r.Hdoc.Parts {
		if lit, ok := p.(*syntax.Lit); ok && quoted {
			b.WriteString(lit.Value)
			continue
		}
		for i, reading := range w.part(p, true) {
			for _, f := range reading {
				if i > 0 {
					b.WriteByte('\n')
				}
				b.WriteString(f.text)
			}
		}
	}
	return b.String()
}

// alternatives are the readings of an extended glob: .@(env|x) is .env or .x.
func alternatives(p *syntax.ExtGlob) [][]shellWord {
	list := strings.Split(p.Pattern.Value, "|")
	if p.Op == syntax.GlobExcept || strings.Contains(p.Pattern.Value, "(") || len(list) > maxShellReadings-1 {
		return [][]shellWord{{{text: "*", bare: "*", glob: true}}}
	}
	var out [][]shellWord
	if p.Op == syntax.GlobZeroOrOne || p.Op == syntax.GlobZeroOrMore {
		out = append(out, []shellWord{{glob: true}})
	}
	for _, one := range list {
		out = append(out, []shellWord{{text: one, bare: one, glob: true}})
	}
	return out
}
