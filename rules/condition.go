package rules

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/functions"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/interpreter"
	"github.com/go-json-experiment/json/jsontext"
)

// costLimit bounds one evaluation of one condition, in CEL's own unit (about
// one per operation or byte looked at); beyond it the condition is an error.
const costLimit = 250_000

// A condition is the compiled `when` of a rule. Rules with the same text share
// it.
type condition struct {
	full    cel.Program
	partial func() (cel.Program, error) // planned when a list is first filtered
	sql     bool
	secrets []issue // each text that is compared with what secrets() names

	speaks   []speech // what it takes for SQL or shell
	composes bool     // and of more than that
}

// newEnv declares what a condition may speak of. The subject's fields are
// variables of their own, with types: a misspelt one fails at load, not as an
// error in the middle of the night.
func newEnv() (*cel.Env, error) {
	registry, err := types.NewRegistry()
	if err != nil {
		return nil, err
	}
	return cel.NewEnv(append(exposureFunctions(),
		cel.CustomTypeAdapter(registry),
		cel.CustomTypeProvider(celTypes{registry}),
		cel.Variable("subject.issuer", cel.StringType),
		cel.Variable("subject.sub", cel.StringType),
		cel.Variable("subject.email", cel.StringType),
		cel.Variable("subject.groups", cel.ListType(cel.StringType)),
		cel.Variable("subject.claims", cel.MapType(cel.StringType, cel.DynType)),
		cel.Variable("client", cel.StringType),
		cel.Variable("server", cel.StringType),
		cel.Variable("method", cel.StringType),
		cel.Variable("tool", cel.StringType),
		cel.Variable("resource", cel.StringType),
		cel.Variable("source", cel.StringType),
		cel.Variable("now", cel.TimestampType),
		cel.Variable("args", cel.MapType(cel.StringType, cel.DynType)),
		// Bound late: every decision brings its own, which parses a text once
		// however many rules look at it.
		cel.Function("sql", cel.Overload("sql_string", []*cel.Type{cel.StringType}, factsType,
			cel.LateFunctionBinding())),
		cel.Function("shell", cel.Overload("shell_string", []*cel.Type{cel.StringType}, shellType,
			cel.LateFunctionBinding())),
		cel.Function("secrets", cel.Overload("secrets_dyn", []*cel.Type{cel.DynType}, cel.ListType(cel.StringType),
			cel.LateFunctionBinding())),
		cel.ParserExpressionSizeLimit(16<<10),
		cel.ParserRecursionLimit(64),
		cel.RegexProgramSizeLimit(1000),
		cel.ASTValidators(cel.ValidateRegexLiterals(), cel.ValidateDurationLiterals(), cel.ValidateTimestampLiterals()),
		cel.CrossTypeNumericComparisons(true),
		cel.DefaultUTCTimeZone(true),
	)...)
}

// compile parses, checks and plans a condition. The issues are CEL's own,
// with their places in the text.
func compile(env *cel.Env, text conditionText) (*condition, []issue) {
	ast, iss := env.Compile(text.when)
	if iss.Err() != nil {
		var out []issue
		for _, e := range iss.Errors() {
			out = append(out, issue{e.Location.Line(), e.Location.Column(), e.Message})
		}
		return nil, out
	}
	if ast.OutputType() != cel.BoolType {
		return nil, []issue{{1, 0, fmt.Sprintf("a condition must be true or false, and this is %s", ast.OutputType())}}
	}
	if found := unguarded(ast.NativeRep(), text.required); len(found) > 0 {
		return nil, found
	}
	if found := misnamed(ast.NativeRep()); len(found) > 0 {
		return nil, found
	}
	full, err := env.Program(ast, cel.CostLimit(costLimit))
	if err != nil {
		return nil, []issue{{1, 0, err.Error()}}
	}
	partial := sync.OnceValues(func() (cel.Program, error) {
		return env.Program(ast, cel.CostLimit(costLimit), cel.EvalOptions(cel.OptPartialEval))
	})
	c := &condition{full: full, partial: partial, sql: calls(ast.NativeRep(), parsesSQL...), secrets: secretNames(ast.NativeRep())}
	c.speaks, c.composes = speeches(ast.NativeRep())
	return c, nil
}

// An issue is something wrong with a condition: line from 1, column from 0.
type issue struct {
	line, column int
	msg          string
}

// truth is what a condition comes to.
type truth int

const (
	no truth = iota
	yes
	maybe // depends on what is not known yet
	failed
)

// facts is what one decision knows: the variables of its conditions. It is
// used by one goroutine.
type facts struct {
	req     *Request
	args    map[string]any
	argsErr error
	decoded bool
	parsed  map[string]*sqlFacts
	shells  map[string]*shellFacts
	exposed []finding // by the whole request; nil: not asked yet
	shown   []finding // what the condition under evaluation was told
	heard   []spoken  // what it had sql() and shell() read
	finder  Finder
	secrets map[string]found                // by value
	unknown []*interpreter.AttributePattern // nil: everything is known
}

var (
	_ interpreter.FunctionActivation = (*facts)(nil)
	_ interpreter.PartialActivation  = (*facts)(nil)
)

func (f *facts) Parent() interpreter.Activation { return nil }

// UnknownAttributePatterns names what a partial evaluation does not know.
func (f *facts) UnknownAttributePatterns() []*interpreter.AttributePattern { return f.unknown }

// AsPartialActivation is how CEL finds out that something is not known.
func (f *facts) AsPartialActivation() (interpreter.PartialActivation, bool) {
	return f, f.unknown != nil
}

func (f *facts) ResolveName(name string) (any, bool) {
	r := f.req
	switch name {
	case "subject.issuer":
		return r.Subject.Issuer, true
	case "subject.sub":
		return r.Subject.Sub, true
	case "subject.email":
		return r.Subject.Email, true
	case "subject.groups":
		return r.Subject.Groups, true
	case "subject.claims":
		if r.Subject.Claims == nil {
			return map[string]any{}, true
		}
		return r.Subject.Claims, true
	case "client":
		return r.Client, true
	case "server":
		return r.Server, true
	case "method":
		return r.Method, true
	case "tool":
		return r.Tool, true
	case "resource":
		return r.Resource, true
	case "source":
		return r.Source, true
	case "now":
		return r.Now.UTC(), true
	case "request":
		return sqlVal{r, requestType}, true
	case "args":
		f.decode()
		if f.argsErr != nil {
			return types.WrapErr(f.argsErr), true
		}
		return f.args, true
	}
	return nil, false
}

// ResolveFunction binds sql() and the like to this decision.
func (f *facts) ResolveFunction(name string) (functions.LateBoundOp, bool) {
	var of func(text string) ref.Val
	switch name {
	case "sql":
		of = func(text string) ref.Val { return sqlVal{f.sql(text), factsType} }
	case "shell":
		of = func(text string) ref.Val { return sqlVal{f.shell(text), shellType} }
	case "exposes_credentials", "exposures":
		return func(_ string, args ...ref.Val) ref.Val { return f.exposing(name, args[0]) }, true
	case "secrets":
		return f.secretsCall, true
	default:
		return nil, false
	}
	return func(_ string, args ...ref.Val) ref.Val {
		text, ok := args[0].(types.String)
		if !ok {
			return types.NewErr("%s() takes a text", name)
		}
		f.heard = append(f.heard, spoken{string(text), name == "shell", "what the policy makes of the arguments"})
		return of(string(text))
	}, true
}

// sql parses a text once a decision.
func (f *facts) sql(text string) *sqlFacts {
	s, ok := f.parsed[text]
	if !ok {
		if s = parseSQL(text); f.parsed == nil {
			f.parsed = map[string]*sqlFacts{}
		}
		f.parsed[text] = s
	}
	return s
}

func (f *facts) shell(text string) *shellFacts {
	s, ok := f.shells[text]
	if !ok {
		if s = parseShell(text); f.shells == nil {
			f.shells = map[string]*shellFacts{}
		}
		f.shells[text] = s
	}
	return s
}

// decode reads the arguments as a CEL map, once a decision, if any condition
// asks. Strings are decoded, whatever escapes they came in. A whole number that
// fits 64 bits is an int (so is 1.0, and 1e3), and every other number is the
// double nearest to it: 2^64 and 2^64+1 are the same to a condition. They are
// not to an approval, which binds their spelling.
func (f *facts) decode() {
	if f.decoded {
		return
	}
	f.decoded = true
	f.args = map[string]any{}
	if len(f.req.Args) == 0 {
		return
	}
	// The door has refused doubled keys and bad UTF-8 already; a decision that
	// is asked for by another way must not be the one that overlooks them.
	if !jsontext.Value(f.req.Args).IsValid() {
		f.argsErr = errors.New("the arguments are not strict JSON")
		return
	}
	dec := json.NewDecoder(bytes.NewReader(f.req.Args))
	dec.UseNumber()
	var m map[string]any
	if err := dec.Decode(&m); err != nil || m == nil {
		f.argsErr = errors.New("the arguments are not a JSON object")
		return
	}
	for k, v := range m {
		v, err := native(v)
		if err != nil {
			f.argsErr = err
			return
		}
		f.args[k] = v
	}
}

func native(v any) (any, error) {
	var err error
	switch v := v.(type) {
	case json.Number:
		if i, err := v.Int64(); err == nil {
			return i, nil
		}
		d, err := v.Float64()
		if err != nil || math.IsInf(d, 0) {
			return nil, fmt.Errorf("the number %.40s is out of range", v)
		}
		if d == math.Trunc(d) && math.Abs(d) < 1<<53 {
			return int64(d), nil // 1.0 and 1e3 are whole, and exact
		}
		return d, nil
	case []any:
		for i := range v {
			if v[i], err = native(v[i]); err != nil {
				return nil, err
			}
		}
	case map[string]any:
		for k := range v {
			if v[k], err = native(v[k]); err != nil {
				return nil, err
			}
		}
	}
	return v, nil
}

// eval answers whether the rule's condition holds. It does not panic.
func (r *rule) eval(f *facts) (t truth, why string) {
	if r.cond == nil {
		return yes, ""
	}
	defer func() {
		if p := recover(); p != nil {
			t, why = failed, fmt.Sprintf("the condition could not be evaluated: %v", p)
		}
	}()
	f.shown = nil
	program := r.cond.full
	if f.unknown != nil {
		var err error
		if program, err = r.cond.partial(); err != nil {
			return failed, err.Error()
		}
	}
	v, _, err := program.Eval(f)
	switch {
	case err != nil:
		return failed, err.Error()
	case types.IsUnknown(v):
		return maybe, ""
	case v == types.True:
		return yes, ""
	case v == types.False:
		return no, ""
	}
	return failed, fmt.Sprintf("the condition came to %v", v.Type())
}

// compile turns the rules that were read into the index.
func (l *loader) compile() {
	env, err := newEnv()
	if err != nil {
		l.problems = append(l.problems, Problem{File: "rules", Msg: "the language of conditions could not be set up: " + err.Error()})
		return
	}
	compiled, issues := compileAll(env, l.rules)
	p := l.policy
	p.index = index{}
	for _, src := range l.rules {
		if src.when != nil {
			src.rule.cond = compiled[src.text()]
			for _, is := range issues[src.text()] {
				line, column := place(src.doc, src.when, is)
				src.doc.reportAt(line, column, "when: %s", is.msg)
			}
			if src.rule.cond != nil {
				for _, name := range src.rule.cond.secrets {
					line, column := place(src.doc, src.when, name)
					p.compared = append(p.compared, Problem{src.doc.file, line, column, name.msg})
				}
			}
			p.usesSQL = p.usesSQL || src.rule.cond != nil && src.rule.cond.sql
		}
		if src.rule.mayAsk() {
			src.rule.pins = l.pins(src.rule)
		}
		p.rules = append(p.rules, src.rule)
	}
	p.number()
	p.byServer = map[string][]*rule{}
	for _, r := range p.rules {
		p.index.add(r)
		for name := range p.servers {
			if r.effect != Deny && (slices.Contains(r.servers, name) || slices.Contains(r.servers, "*")) {
				p.byServer[name] = append(p.byServer[name], r)
			}
		}
	}
}
