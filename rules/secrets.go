package rules

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"go.yaml.in/yaml/v3"
)

// SecretsInArgs is what becomes of a call whose arguments hold what looks like a
// secret.
type SecretsInArgs string

// The settings, from the most restrictive to the least.
const (
	SecretsDeny    SecretsInArgs = "deny"
	SecretsApprove SecretsInArgs = "approve" // of a rule that allows: it asks for approval then
	SecretsMask    SecretsInArgs = "mask"    // the upstream gets them masked
	SecretsAllow   SecretsInArgs = "allow"
)

var secretsSettings = []SecretsInArgs{SecretsDeny, SecretsApprove, SecretsMask, SecretsAllow}

// A Finder names what looks like a secret in a part of a request's arguments,
// JSON: names of detectors, each once, sorted. It is called once a decision for
// the same value.
type Finder func(r *Request, value []byte) ([]string, error)

// FindSecrets says who finds secrets: this package does not know the detectors.
// It is called before the first decision. Without it a condition that asks for
// secrets fails, and so does a setting that depends on them: denied.
func (p *Policy) FindSecrets(f Finder) { p.finder = f }

// found is what one value of a decision was found to hold.
type found struct {
	names []string
	err   error
}

// secretsIn looks through a value, JSON, once a decision.
func (f *facts) secretsIn(value []byte) ([]string, error) {
	if len(value) == 0 {
		return nil, nil
	}
	if f.finder == nil {
		return nil, fmt.Errorf("nothing here can look for secrets")
	}
	had, ok := f.secrets[string(value)]
	if !ok {
		had.names, had.err = f.finder(f.req, value)
		if f.secrets == nil {
			f.secrets = map[string]found{}
		}
		f.secrets[string(value)] = had
	}
	return had.names, had.err
}

// secretsCall is secrets(value) of conditions: all arguments, or a part of them.
func (f *facts) secretsCall(_ string, args ...ref.Val) ref.Val {
	value := args[0].Value()
	raw := f.req.Args
	if m, ok := value.(map[string]any); !ok || reflect.ValueOf(m).Pointer() != reflect.ValueOf(f.args).Pointer() {
		var err error
		if raw, err = json.Marshal(value); err != nil {
			return types.NewErr("secrets() takes the arguments or a part of them")
		}
	}
	names, err := f.secretsIn(raw)
	if err != nil {
		return types.NewErr("secrets(): %v", err)
	}
	return types.NewStringList(types.DefaultTypeAdapter, append([]string{}, names...))
}

// secretsSetting reads secrets_in_args of a server or a rule.
func (d *document) secretsSetting(n *yaml.Node) SecretsInArgs {
	s := SecretsInArgs(d.text(n, "secrets_in_args"))
	if s != "" && !slices.Contains(secretsSettings, s) {
		d.report(n, "secrets_in_args %q is not known: allow, mask, deny or approve", s)
		return ""
	}
	return s
}

// ruleSecrets reads secrets_in_args of a rule.
func (d *document) ruleSecrets(n *yaml.Node, r *rule) {
	if n == nil {
		return
	}
	r.secrets = d.secretsSetting(n)
	switch {
	case r.effect == Deny:
		d.report(n, "secrets_in_args has no use in a rule that denies")
	case r.effect == Approve && r.secrets == SecretsApprove:
		d.report(n, "secrets_in_args: approve belongs to effect: allow; this rule asks anyway")
	}
}

// asks tells whether a rule that was matched asks people: always, or since the
// arguments hold a secret, or might.
func (r *rule) asksPeople(f *facts) bool {
	if r.effect != Allow || r.secrets != SecretsApprove {
		return r.effect == Approve
	}
	names, err := f.secretsIn(f.req.Args)
	return len(names) > 0 || err != nil
}

// mayAsk tells whether a rule ever asks people.
func (r *rule) mayAsk() bool { return r.effect == Approve || r.secrets == SecretsApprove }

// guardArgs does what the rules that made the effect say of secrets in the
// arguments, or else the server; of several rules the most restrictive counts.
func (p *Policy) guardArgs(d *Decision, f *facts, rs []*rule) {
	setting, from := p.servers[f.req.Server].SecretsInArgs, "server "+f.req.Server
	said := false
	for _, r := range rs {
		if r.secrets != "" && (!said || slices.Index(secretsSettings, r.secrets) < slices.Index(secretsSettings, setting)) {
			setting, from, said = r.secrets, "rule "+r.id, true
		}
	}
	if setting != SecretsDeny && setting != SecretsMask || d.Effect == Deny {
		return
	}
	names, err := f.secretsIn(f.req.Args)
	switch {
	case err != nil:
		d.refuse(fmt.Sprintf("Whether the arguments hold a secret could not be found out, and %s does not let secrets through as they are: %v", from, err))
	case len(names) == 0:
	case setting == SecretsDeny:
		d.refuse(fmt.Sprintf("The arguments hold what looks like a secret (%s), which %s does not let through. Call again without it.", strings.Join(names, ", "), from))
	default:
		d.MaskArgs = true
	}
}

// secretNames are the texts that a condition compares with the names of
// secrets(): with the list, an element of it, or the variable of a macro over it.
func secretNames(a *ast.AST) (found []issue) {
	isList := func(e ast.Expr) bool { return e.Kind() == ast.CallKind && e.AsCall().FunctionName() == "secrets" }
	var in func(e ast.Expr, vars []string)
	compare := func(what, with ast.Expr, vars []string) {
		one := what.Kind() == ast.IdentKind && slices.Contains(vars, what.AsIdent()) ||
			what.Kind() == ast.CallKind && what.AsCall().FunctionName() == operators.Index && isList(what.AsCall().Args()[0])
		values := []ast.Expr{with}
		switch {
		case with.Kind() == ast.ListKind && (one || isList(what)):
			values = with.AsList().Elements()
		case !one:
			return
		}
		for _, v := range values {
			if name, ok := text(v); ok {
				at := a.SourceInfo().GetStartLocation(v.ID())
				found = append(found, issue{at.Line(), at.Column(), name})
			}
		}
	}
	in = func(e ast.Expr, vars []string) {
		switch e.Kind() {
		case ast.SelectKind:
			in(e.AsSelect().Operand(), vars)
		case ast.ListKind:
			for _, item := range e.AsList().Elements() {
				in(item, vars)
			}
		case ast.MapKind:
			for _, entry := range e.AsMap().Entries() {
				in(entry.AsMapEntry().Key(), vars)
				in(entry.AsMapEntry().Value(), vars)
			}
		case ast.ComprehensionKind:
			c := e.AsComprehension()
			in(c.IterRange(), vars)
			inner := slices.DeleteFunc(slices.Clone(vars), func(v string) bool { return v == c.IterVar() || v == c.IterVar2() })
			if isList(c.IterRange()) {
				inner = append(inner, c.IterVar())
			}
			for _, part := range []ast.Expr{c.AccuInit(), c.LoopCondition(), c.LoopStep(), c.Result()} {
				in(part, inner)
			}
		case ast.CallKind:
			c := e.AsCall()
			if c.IsMemberFunction() {
				in(c.Target(), vars)
			}
			args := c.Args()
			for _, arg := range args {
				in(arg, vars)
			}
			switch c.FunctionName() {
			case operators.Equals, operators.NotEquals:
				compare(args[0], args[1], vars)
				compare(args[1], args[0], vars)
			case operators.In:
				if isList(args[1]) { // "x" in secrets(…)
					if name, ok := text(args[0]); ok {
						at := a.SourceInfo().GetStartLocation(args[0].ID())
						found = append(found, issue{at.Line(), at.Column(), name})
					}
				}
				compare(args[0], args[1], vars) // d in ["x"]
			}
		}
	}
	in(a.Expr(), nil)
	return found
}
