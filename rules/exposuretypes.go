package rules

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// How conditions ask: exposes_credentials(x) is whether anything was found,
// exposures(x) what. x is the request, sql(…), shell(…), args, or a text.

var (
	requestType  = types.NewObjectType("rules.Request")
	exposureType = types.NewObjectType("rules.Exposure")
)

func exposureFunctions() []cel.EnvOption {
	var options []cel.EnvOption
	for name, result := range map[string]*types.Type{"exposes_credentials": cel.BoolType, "exposures": cel.ListType(exposureType)} {
		var overloads []cel.FunctionOpt
		for _, of := range []struct {
			name string
			typ  *types.Type
		}{{"request", requestType}, {"sql", factsType}, {"shell", shellType}, {"string", cel.StringType}, {"map", cel.MapType(cel.StringType, cel.DynType)}} {
			overloads = append(overloads, cel.Overload(name+"_"+of.name, []*cel.Type{of.typ}, result, cel.LateFunctionBinding()))
		}
		options = append(options, cel.Function(name, overloads...))
	}
	return append(options, cel.Variable("request", requestType))
}

// parsesSQL are the functions that may parse SQL.
var parsesSQL = []string{"sql", "exposes_credentials", "exposures"}

// exposing evaluates either function.
func (f *facts) exposing(function string, of ref.Val) ref.Val {
	var found []finding
	add := func(list []*exposure) {
		for _, e := range list {
			found = append(found, finding{of: e})
		}
	}
	switch v := of.Value().(type) {
	case *Request:
		var err error
		if found, err = f.exposures(); err != nil {
			return types.WrapErr(err)
		}
	case *sqlFacts:
		add(v.exposuresOf())
	case *shellFacts:
		add(v.exposuresOf(f.sql))
	case string:
		found = f.exposuresIn(v)
	case map[string]any:
		x := &exposer{facts: f, tool: nameWords(f.req.Tool)}
		x.object(v, "args")
		found = x.sorted()
	default:
		return types.NewErr("%s() takes the request, args, sql(…), shell(…) or a text", function)
	}
	for _, one := range found {
		if !slices.Contains(f.shown, one) {
			f.shown = append(f.shown, one)
		}
	}
	if function == "exposes_credentials" {
		return types.Bool(len(found) > 0)
	}
	vals := make([]ref.Val, len(found))
	for i := range found {
		vals[i] = sqlVal{&found[i], exposureType}
	}
	return types.NewRefValList(types.DefaultTypeAdapter, vals)
}

func exposurePart(name string, get func(*finding) any) sqlField {
	return sqlField{name, cel.StringType, func(of any) (any, error) {
		f, ok := of.(*finding)
		if !ok {
			return nil, errors.New("not an exposure")
		}
		return get(f), nil
	}}
}

var exposureFields = map[string][]sqlField{
	"rules.Request": {},
	"rules.Exposure": {
		exposurePart("id", func(f *finding) any { return f.of.id }),
		exposurePart("kind", func(f *finding) any { return f.of.kind }),
		exposurePart("words", func(f *finding) any { return f.of.words }),
		exposurePart("at", func(f *finding) any { return f.at }),
	},
}

// misnamed finds comparisons of an exposure's id or kind with a text that is
// none: such a rule would silently match nothing.
func misnamed(a *ast.AST) []issue {
	var found []issue
	check := func(field, literal ast.Expr) {
		if field.Kind() != ast.SelectKind || a.GetType(field.AsSelect().Operand().ID()).TypeName() != exposureType.TypeName() {
			return
		}
		values := []ast.Expr{literal}
		if literal.Kind() == ast.ListKind {
			values = literal.AsList().Elements()
		}
		for _, v := range values {
			s, ok := text(v)
			if !ok {
				continue
			}
			at := a.SourceInfo().GetStartLocation(v.ID())
			switch field.AsSelect().FieldName() {
			case "id":
				if byID[s] == nil {
					found = append(found, issue{at.Line(), at.Column(), fmt.Sprintf("there is no exposure with the id %q%s", s, nearest(s, slices.Sorted(maps.Keys(byID))))})
				}
			case "kind":
				if !slices.ContainsFunc(catalogue, func(e *exposure) bool { return e.kind == s }) {
					found = append(found, issue{at.Line(), at.Column(), fmt.Sprintf("there is no exposure of the kind %q", s)})
				}
			}
		}
	}
	ast.PostOrderVisit(a.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() != ast.CallKind || len(e.AsCall().Args()) != 2 {
			return
		}
		switch args := e.AsCall().Args(); e.AsCall().FunctionName() {
		case operators.Equals, operators.NotEquals:
			check(args[0], args[1])
			check(args[1], args[0])
		case operators.In:
			check(args[0], args[1])
		}
	}))
	return found
}

// nearest asks whether one of the words was meant, if one is spelled much like it.
func nearest(word string, words []string) string {
	best, at := min(4, len(word)), ""
	for _, w := range words {
		if d := distance(word, w); d < best {
			best, at = d, w
		}
	}
	if at == "" {
		return ""
	}
	return ": did you mean " + at + "?"
}
