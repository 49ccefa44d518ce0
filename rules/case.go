package rules

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// caseTime is the clock of a case that does not set its own.
var caseTime = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// A testCase is one entry of tests/*.yaml.
type testCase struct {
	name   string
	at     Problem // its place
	req    Request
	effect Effect
	rule   string
	reason string
}

// CaseResult tells how one case of tests/*.yaml came out.
type CaseResult struct {
	Name     string
	Problem  *Problem // nil: as expected
	Decision Decision
}

// Cases runs the policy's own tests, in the order of files and lines.
func (p *Policy) Cases() []CaseResult {
	var out []CaseResult
	for _, c := range p.cases {
		d := p.Decide(c.req)
		r := CaseResult{Name: c.name, Decision: d}
		say := func(format string, args ...any) {
			at := c.at
			at.Msg = fmt.Sprintf("case %q: ", c.name) + strings.TrimSuffix(fmt.Sprintf(format, args...), ": ")
			r.Problem = &at
		}
		switch {
		case d.Effect != c.effect:
			say("expected %s, and it is %s: %s", c.effect, d.Effect, d.Reason)
		case c.rule != "" && !slices.Contains(d.RuleIDs(), c.rule):
			say("expected rule %s to make it %s, and it is %s", c.rule, c.effect, strings.Join(d.RuleIDs(), ", "))
		case !strings.Contains(d.Reason, c.reason):
			say("expected a reason that says %q, and it is %q", c.reason, d.Reason)
		}
		out = append(out, r)
	}
	return out
}

func (l *loader) caseFile(d *document) {
	root := d.parse()
	if root == nil {
		return
	}
	for _, n := range d.list(root, "a tests file") {
		l.testCase(d, n)
	}
}

func (l *loader) testCase(d *document, n *yaml.Node) {
	f, ok := d.fields(n, "a case", "name", "now", "subject", "client", "source", "server", "method", "tool", "args", "resource", "from_server", "expect")
	if !ok {
		return
	}
	c := testCase{name: d.text(f["name"], "name"), at: Problem{File: d.file, Line: n.Line, Column: n.Column}}
	c.req = Request{Now: caseTime, Method: "tools/call", Client: d.text(f["client"], "client"), Source: d.text(f["source"], "source"),
		Server: d.text(f["server"], "server"), Tool: d.text(f["tool"], "tool"), Resource: d.text(f["resource"], "resource")}
	for _, need := range []string{"name", "subject", "server", "expect"} {
		if f[need] == nil {
			d.report(n, "a case needs %s", need)
		}
	}
	if at := f["method"]; at != nil {
		c.req.Method = d.text(at, "method")
	}
	if at := f["server"]; at != nil {
		if _, known := l.policy.servers[c.req.Server]; !known && c.req.Server != "" {
			d.report(at, "server %q is not in servers/", c.req.Server)
		}
	}
	if at := f["now"]; at != nil {
		t, err := time.Parse(time.RFC3339, at.Value)
		if err != nil {
			d.report(at, "now must be a time such as 2026-01-01T12:00:00Z")
		}
		c.req.Now = t
	}
	if at := f["from_server"]; at != nil {
		if at.Tag != "!!bool" {
			d.report(at, "from_server must be true or false")
		}
		c.req.FromServer = strings.EqualFold(at.Value, "true")
	}
	if at := f["args"]; at != nil {
		if at.Kind != yaml.MappingNode {
			d.report(at, "args must be a mapping, not %s", kind(at))
		} else {
			c.req.Args = d.json(at)
		}
	}
	if at := f["subject"]; at != nil {
		c.req.Subject = d.subject(at)
	}
	if at := f["expect"]; at != nil {
		l.expect(d, at, &c)
	}
	l.policy.cases = append(l.policy.cases, c)
}

func (d *document) subject(n *yaml.Node) Subject {
	f, ok := d.fields(n, "subject", "issuer", "sub", "email", "groups", "claims")
	if !ok {
		return Subject{}
	}
	s := Subject{Issuer: d.text(f["issuer"], "issuer"), Sub: d.text(f["sub"], "sub"), Email: d.text(f["email"], "email")}
	if f["sub"] == nil {
		d.report(n, "subject needs sub")
	}
	if at := f["issuer"]; at != nil && s.Issuer != "" {
		if u, err := url.Parse(s.Issuer); err != nil || u.Host == "" {
			d.report(at, "issuer must be the URL that tokens carry as iss")
		}
	}
	if at := f["groups"]; at != nil && len(at.Content) > 0 {
		s.Groups = d.texts(at, "groups")
	}
	if at := f["claims"]; at != nil {
		raw := d.json(at)
		if err := json.Unmarshal(raw, &s.Claims); raw != nil && err != nil {
			d.report(at, "claims must be a mapping")
		}
	}
	return s
}

func (l *loader) expect(d *document, n *yaml.Node, c *testCase) {
	f, ok := d.fields(n, "expect", "effect", "rule", "reason")
	if !ok {
		return
	}
	c.effect, c.rule, c.reason = Effect(d.text(f["effect"], "effect")), d.text(f["rule"], "rule"), d.text(f["reason"], "reason")
	if !slices.Contains(effects, c.effect) {
		d.report(n, "expect needs effect: allow, approve or deny")
	}
	if _, known := l.ids[c.rule]; c.rule != "" && !known {
		d.report(f["rule"], "no rule has the id %q", c.rule)
	}
}
