package rules

import (
	"fmt"
	"slices"
	"strings"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
)

// Does tells in words what the SQL and shell in the arguments of a request do.
// An argument holds SQL or shell where a rule that names the request's server,
// method and tool has sql() or shell() read it; of others nothing is said.
//
// It returns at most 8 texts' lines, 48 together, in the order of the rules. A
// line is of at most 1,200 characters, in which names and words of the request
// stand whole or are only counted: mask the lines before they are cut or
// escaped, and escape them before they are shown.
func (p *Policy) Does(req Request) []string {
	f := &facts{req: &req, finder: p.finder}
	f.decode()
	if f.argsErr != nil {
		return nil
	}
	var found []spoken
	known := map[spoken]bool{} // but for where it stands
	add := func(s spoken) {
		if same := (spoken{text: s.text, shell: s.shell}); !known[same] {
			known[same] = true
			found = append(found, s)
		}
	}
	for _, r := range p.index.naming(req.Server, req.Method, req.Tool) {
		if r.cond == nil {
			continue
		}
		for _, at := range r.cond.speaks {
			at.gather(f.args, at.path, "", add)
		}
		if r.cond.composes { // what it reads is known when it was evaluated
			f.heard = nil
			r.eval(f)
			for _, s := range f.heard {
				add(s)
			}
		}
	}
	var out []string
	for i, s := range found {
		if i == maxDoesTexts {
			return append(out, fmt.Sprintf("and %d more texts of SQL or shell: read them yourself", len(found)-i))
		}
		var lines []string
		if s.shell {
			lines = shellDoes(f.shell(s.text))
		} else {
			lines = sqlDoes(f.sql(s.text))
		}
		if len(found) > 1 {
			out = append(out, fmt.Sprintf("%s, as %s:", s.at, either(s.shell, "shell", "SQL")))
		}
		out = append(out, lines...)
	}
	if more := len(out) - maxDoesTotal; more > 0 {
		out = append(out[:maxDoesTotal], fmt.Sprintf("and %d more lines like these: read the texts yourself", more))
	}
	return out
}

// A spoken text is SQL or shell in a request.
type spoken struct {
	text  string
	shell bool
	at    string // where it stands: the argument's name and what follows it
}

// speech is a place in the arguments that a condition takes for SQL or shell.
type speech struct {
	path  []string // names; each is any element of a list
	shell bool
}

const each = "\x00each"

// gather calls add for the texts at a place, below v.
func (s speech) gather(v any, path []string, at string, add func(spoken)) {
	if len(path) == 0 {
		if text, ok := v.(string); ok {
			add(spoken{text, s.shell, at})
		}
		return
	}
	if path[0] == each {
		list, _ := v.([]any)
		for i, item := range list {
			s.gather(item, path[1:], fmt.Sprintf("%s[%d]", at, i+1), add)
		}
		return
	}
	m, _ := v.(map[string]any)
	if item, ok := m[path[0]]; ok {
		s.gather(item, path[1:], strings.TrimPrefix(at+"."+word(path[0], '"'), "."), add)
	}
}

// speeches lists the places whose texts a condition gives to sql() or shell().
// It composes where it gives them something that is not simply an argument.
func speeches(a *ast.AST) (at []speech, composes bool) {
	l := listener{bound: map[string][]string{}}
	l.visit(a.Expr())
	return l.at, l.composes
}

type listener struct {
	bound    map[string][]string // variables of the macros around: the elements that they stand for
	at       []speech
	composes bool
}

func (l *listener) visit(e ast.Expr) {
	switch e.Kind() {
	case ast.SelectKind:
		l.visit(e.AsSelect().Operand())
	case ast.CallKind:
		c := e.AsCall()
		if name := c.FunctionName(); (name == "sql" || name == "shell") && len(c.Args()) == 1 {
			if path, ok := l.path(c.Args()[0]); ok && len(path) > 0 {
				s := speech{path, name == "shell"}
				if !slices.ContainsFunc(l.at, func(o speech) bool { return o.shell == s.shell && slices.Equal(o.path, s.path) }) {
					l.at = append(l.at, s)
				}
			} else {
				l.composes = true
			}
		}
		if c.IsMemberFunction() {
			l.visit(c.Target())
		}
		for _, arg := range c.Args() {
			l.visit(arg)
		}
	case ast.ListKind:
		for _, item := range e.AsList().Elements() {
			l.visit(item)
		}
	case ast.MapKind:
		for _, entry := range e.AsMap().Entries() {
			l.visit(entry.AsMapEntry().Key())
			l.visit(entry.AsMapEntry().Value())
		}
	case ast.ComprehensionKind:
		c := e.AsComprehension()
		l.visit(c.IterRange())
		outer, was := l.bound[c.IterVar()]
		delete(l.bound, c.IterVar())
		if path, ok := l.path(c.IterRange()); ok && c.IterVar2() == "" {
			l.bound[c.IterVar()] = append(slices.Clone(path), each)
		} else {
			l.bound[c.IterVar()] = nil // no argument, whatever its name
		}
		for _, part := range []ast.Expr{c.AccuInit(), c.LoopCondition(), c.LoopStep(), c.Result()} {
			l.visit(part)
		}
		delete(l.bound, c.IterVar())
		if was {
			l.bound[c.IterVar()] = outer
		}
	}
}

// path is where in the arguments the value of e stands.
func (l *listener) path(e ast.Expr) ([]string, bool) {
	switch e.Kind() {
	case ast.IdentKind:
		name := e.AsIdent()
		if path, ok := l.bound[name]; ok {
			return path, path != nil
		}
		return nil, strings.TrimPrefix(name, ".") == "args"
	case ast.SelectKind:
		path, ok := l.path(e.AsSelect().Operand())
		return append(slices.Clone(path), e.AsSelect().FieldName()), ok && !e.AsSelect().IsTestOnly()
	case ast.CallKind:
		c := e.AsCall()
		if c.FunctionName() != operators.Index || len(c.Args()) != 2 || c.Args()[1].Kind() != ast.LiteralKind {
			return nil, false
		}
		path, ok := l.path(c.Args()[0])
		switch at := c.Args()[1].AsLiteral().(type) {
		case types.String:
			return append(slices.Clone(path), string(at)), ok
		case types.Int: // told with its neighbours
			return append(slices.Clone(path), each), ok
		}
	}
	return nil, false
}
