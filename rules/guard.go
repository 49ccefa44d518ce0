package rules

import (
	"fmt"
	"slices"
	"strings"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
)

// A condition that reads args.x where x is absent is an error: by it a deny or
// approve rule matches, an allow rule does not. That is safe, and surprising.
// So a policy says what it means, with has(args.x), and a condition that does
// not is refused when it is loaded. The same holds for subject.claims, which
// no two issuers fill alike. An argument that the locked schemas of the rule's
// tools require needs no has(): a client that leaves it out is refused by the
// server, and here the failed condition errs on the safe side.

// unguarded finds the reads that no has() stands before. `x && y` guards both
// ways, as CEL's && does: if either side is false, an error of the other does
// not count. required are names of arguments that are there, separated by NUL.
func unguarded(a *ast.AST, required string) []issue {
	g := guard{info: a.SourceInfo()}
	var known []string
	if required != "" {
		for _, name := range strings.Split(required, "\x00") {
			known = append(known, "args\x00"+name)
		}
	}
	g.check(a.Expr(), known)
	return g.found
}

type guard struct {
	info   *ast.SourceInfo
	shadow []string // variables of the macros around
	found  []issue
}

// path spells a read of args or subject.claims by constant names: its root
// and the names, separated by NUL. Written for a person it has dots.
func (g *guard) path(e ast.Expr) (string, bool) {
	var operand ast.Expr
	var name string
	switch e.Kind() {
	case ast.SelectKind:
		operand, name = e.AsSelect().Operand(), e.AsSelect().FieldName()
	case ast.CallKind:
		c := e.AsCall()
		if c.FunctionName() != operators.Index || len(c.Args()) != 2 {
			return "", false
		}
		s, ok := text(c.Args()[1])
		if !ok {
			return "", false
		}
		operand, name = c.Args()[0], s
	default:
		return "", false
	}
	if root, ok := g.root(operand); ok {
		return root + "\x00" + name, true
	}
	p, ok := g.path(operand)
	return p + "\x00" + name, ok
}

func (g *guard) root(e ast.Expr) (string, bool) {
	if e.Kind() != ast.IdentKind {
		return "", false
	}
	name := strings.TrimPrefix(e.AsIdent(), ".")
	return name, (name == "args" || name == "subject.claims") && !slices.Contains(g.shadow, name)
}

func text(e ast.Expr) (string, bool) {
	if e.Kind() != ast.LiteralKind {
		return "", false
	}
	s, ok := e.AsLiteral().(types.String)
	return string(s), ok
}

// check visits e, of which is known that the paths exist.
func (g *guard) check(e ast.Expr, known []string) {
	switch e.Kind() {
	case ast.SelectKind:
		before := len(g.found)
		g.check(e.AsSelect().Operand(), known)
		if !e.AsSelect().IsTestOnly() && len(g.found) == before {
			g.read(e, known)
		}
	case ast.CallKind:
		g.call(e, known)
	case ast.ListKind:
		for _, item := range e.AsList().Elements() {
			g.check(item, known)
		}
	case ast.MapKind:
		for _, entry := range e.AsMap().Entries() {
			g.check(entry.AsMapEntry().Key(), known)
			g.check(entry.AsMapEntry().Value(), known)
		}
	case ast.StructKind:
		at := g.info.GetStartLocation(e.ID())
		g.found = append(g.found, issue{at.Line(), at.Column(), e.AsStruct().TypeName() + " cannot be made up by a condition"})
	case ast.ComprehensionKind:
		c := e.AsComprehension()
		g.check(c.IterRange(), known)
		n := len(g.shadow)
		g.shadow = append(g.shadow, c.IterVar(), c.IterVar2(), c.AccuVar())
		for _, part := range []ast.Expr{c.AccuInit(), c.LoopCondition(), c.LoopStep(), c.Result()} {
			g.check(part, known)
		}
		g.shadow = g.shadow[:n]
	}
}

func (g *guard) call(e ast.Expr, known []string) {
	c := e.AsCall()
	args := c.Args()
	switch c.FunctionName() {
	case operators.LogicalAnd:
		g.check(args[0], join(known, g.when(true, args[1])))
		g.check(args[1], join(known, g.when(true, args[0])))
		return
	case operators.LogicalOr:
		g.check(args[0], join(known, g.when(false, args[1])))
		g.check(args[1], join(known, g.when(false, args[0])))
		return
	case operators.Conditional:
		g.check(args[0], known)
		g.check(args[1], join(known, g.when(true, args[0])))
		g.check(args[2], join(known, g.when(false, args[0])))
		return
	}
	before := len(g.found)
	if c.IsMemberFunction() {
		g.check(c.Target(), known)
	}
	for _, a := range args {
		g.check(a, known)
	}
	if len(g.found) == before {
		g.read(e, known)
	}
}

func (g *guard) read(e ast.Expr, known []string) {
	p, ok := g.path(e)
	if !ok || slices.Contains(known, p) {
		return
	}
	at := g.info.GetStartLocation(e.ID())
	name := strings.ReplaceAll(p, "\x00", ".")
	g.found = append(g.found, issue{at.Line(), at.Column(), fmt.Sprintf("reads %s, which may be absent: say has(%s) && … before it", name, name)})
}

// when lists the paths that exist if e came to be outcome.
func (g *guard) when(outcome bool, e ast.Expr) []string {
	if e.Kind() == ast.SelectKind && e.AsSelect().IsTestOnly() && outcome {
		if p, ok := g.path(e); ok {
			return []string{p}
		}
	}
	if e.Kind() != ast.CallKind {
		return nil
	}
	args := e.AsCall().Args()
	switch name := e.AsCall().FunctionName(); {
	case name == operators.LogicalNot:
		return g.when(!outcome, args[0])
	case name == operators.LogicalAnd && outcome, name == operators.LogicalOr && !outcome:
		return join(g.when(outcome, args[0]), g.when(outcome, args[1]))
	case name == operators.LogicalAnd, name == operators.LogicalOr:
		other := g.when(outcome, args[1])
		return slices.DeleteFunc(g.when(outcome, args[0]), func(p string) bool { return !slices.Contains(other, p) })
	case name == operators.In && outcome:
		s, isText := text(args[0])
		if root, ok := g.root(args[1]); ok && isText {
			return []string{root + "\x00" + s}
		}
		if p, ok := g.path(args[1]); ok && isText {
			return []string{p + "\x00" + s}
		}
	}
	return nil
}

func join(a, b []string) []string {
	return append(slices.Clone(a), b...)
}

// calls tells whether an expression calls one of the functions.
func calls(a *ast.AST, functions ...string) bool {
	found := false
	ast.PostOrderVisit(a.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		found = found || e.Kind() == ast.CallKind && slices.Contains(functions, e.AsCall().FunctionName())
	}))
	return found
}
