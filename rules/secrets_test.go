package rules

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

// findsKeys takes every text that begins with "sk-" for a secret, and counts how
// often it was asked.
func findsKeys(p *Policy, asked *int) {
	p.FindSecrets(func(_ *Request, value []byte) ([]string, error) {
		*asked++
		switch {
		case strings.Contains(string(value), "broken"):
			return nil, errors.New("out of time")
		case strings.Contains(string(value), `"sk-`):
			return []string{"key", "openai"}, nil
		}
		return nil, nil
	})
}

func TestSecretsInConditions(t *testing.T) {
	p := load(t, base(), "rules/x.yaml", `
- { id: a, server: files, tool: a, effect: allow }
- { id: b, server: files, tool: "*", when: 'size(secrets(args)) > 0 && secrets(args).exists(s, s == "openai")', effect: deny, reason: No secrets }
- { id: c, server: files, tool: a, when: 'has(args.x) && has(args.x.y) && secrets(args.x.y) == ["key", "openai"] && secrets(args.x) != [] && secrets("sk-") != [] && secrets(1) == []', effect: deny, reason: Nor there }
`)
	asked := 0
	findsKeys(p, &asked)
	for args, want := range map[string]string{
		``:                   "",
		`{"x":{"y":"fine"}}`: "",
		`{"x":{"y":"sk-1"}}`: "No secrets; Nor there",
		`{"z":["a","sk-1"]}`: "No secrets",
		`{"z":"broken"}`:     "No secrets", // a condition that fails denies
	} {
		asked = 0
		d := p.Decide(Request{Subject: Subject{Sub: "s"}, Server: "files", Method: "tools/call", Tool: "a", Args: []byte(args)})
		if (d.Effect == Deny) != (want != "") || want != "" && d.Reason != want {
			t.Errorf("%s: %s %q", args, d.Effect, d.Reason)
		}
		if asked > 5 { // the arguments, and four parts of them
			t.Errorf("%s: asked %d times", args, asked)
		}
	}
	if !p.Visible(Request{Server: "files", Method: "tools/call", Tool: "a"}) {
		t.Error("a tool whose arguments are asked about is not shown")
	}
	p.finder = nil
	if d := p.Decide(Request{Server: "files", Method: "tools/call", Tool: "a", Args: []byte(`{"x":1}`)}); d.Effect != Deny {
		t.Error("without anybody who finds secrets a condition about them let a call through")
	}
}

func TestSecretsInArgs(t *testing.T) {
	const secret, fine = `{"x":"sk-1"}`, `{"x":"y"}`
	for name, c := range map[string]struct {
		server, rules string
		args          string
		effect        Effect
		masked        bool
		says          string
	}{
		"nothing said":         {"", `- { id: a, server: s, effect: allow }`, secret, Allow, false, ""},
		"server denies":        {"deny", `- { id: a, server: s, effect: allow }`, secret, Deny, false, "what looks like a secret (key, openai), which server s does not let through"},
		"server denies, fine":  {"deny", `- { id: a, server: s, effect: allow }`, fine, Allow, false, ""},
		"server masks":         {"mask", `- { id: a, server: s, effect: allow }`, secret, Allow, true, ""},
		"server masks, fine":   {"mask", `- { id: a, server: s, effect: allow }`, fine, Allow, false, ""},
		"cannot be found out":  {"mask", `- { id: a, server: s, effect: allow }`, `{"x":"broken"}`, Deny, false, "out of time"},
		"rule over server":     {"deny", `- { id: a, server: s, effect: allow, secrets_in_args: allow }`, secret, Allow, false, ""},
		"stricter of two":      {"", "- { id: a, server: s, effect: allow, secrets_in_args: allow }\n- { id: b, server: s, effect: allow, secrets_in_args: mask }", secret, Allow, true, ""},
		"strictest of three":   {"", "- { id: a, server: s, effect: allow, secrets_in_args: deny }\n- { id: b, server: s, effect: allow, secrets_in_args: mask }\n- { id: c, server: s, effect: allow }", secret, Deny, false, "rule a"},
		"of those that match":  {"", "- { id: a, server: s, when: 'false', effect: allow, secrets_in_args: deny }\n- { id: b, server: s, effect: allow }", secret, Allow, false, ""},
		"asks":                 {"", "- { id: a, server: s, effect: allow, reason: r, secrets_in_args: approve, approval: { approvers: dba } }\n- { id: b, server: s, effect: allow }", secret, Approve, false, "r"},
		"does not ask":         {"", `- { id: a, server: s, effect: allow, reason: r, secrets_in_args: approve, approval: { approvers: dba } }`, fine, Allow, false, ""},
		"asks if in doubt":     {"", `- { id: a, server: s, effect: allow, reason: r, secrets_in_args: approve, approval: { approvers: dba } }`, `{"x":"broken"}`, Approve, false, ""},
		"asks, and then masks": {"mask", `- { id: a, server: s, effect: approve, reason: r, approval: { approvers: dba } }`, secret, Approve, true, ""},
		"asks, or denies":      {"", `- { id: a, server: s, effect: approve, reason: r, approval: { approvers: dba }, secrets_in_args: deny }`, secret, Deny, false, "rule a"},
	} {
		t.Run(name, func(t *testing.T) {
			server := "server: s\nurl: http://127.0.0.1/mcp\n"
			if c.server != "" {
				server += "secrets_in_args: " + c.server + "\n"
			}
			p := load(t, base(), "servers/s.yaml", server, "rules/x.yaml", c.rules)
			asked := 0
			findsKeys(p, &asked)
			d := p.Decide(Request{Server: "s", Method: "tools/call", Tool: "t", Args: []byte(c.args)})
			if d.Effect != c.effect || d.MaskArgs != c.masked || !strings.Contains(d.Reason, c.says) {
				t.Errorf("%s, masked %v: %s", d.Effect, d.MaskArgs, d.Reason)
			}
			if d.Effect == Approve && (len(d.Asks) != 1 || d.RulesDigest == "" || d.RulesDigest != p.AsksDigest("s", Subject{}, "", d.Asks) || !reflect.DeepEqual(d.RuleIDs(), []string{"a"})) {
				t.Errorf("%+v", d)
			}
			if asked > 1 {
				t.Errorf("asked %d times", asked)
			}
		})
	}
}

func TestSecretsInArgsProblems(t *testing.T) {
	for _, c := range []struct{ name, file, text, want string }{
		{"server", "servers/s.yaml", "server: s\nurl: http://127.0.0.1/mcp\nsecrets_in_args: hide\n", `servers/s.yaml:3:18: secrets_in_args "hide" is not known`},
		{"server asks", "servers/s.yaml", "server: s\nurl: http://127.0.0.1/mcp\nsecrets_in_args: approve\n", "servers/s.yaml:3:18: secrets_in_args: approve belongs into a rule"},
		{"rule", "rules/x.yaml", "- { id: x, server: files, effect: allow, secrets_in_args: hide }\n", `rules/x.yaml:1:59: secrets_in_args "hide" is not known`},
		{"deny", "rules/x.yaml", "- { id: x, server: files, effect: deny, reason: r, secrets_in_args: mask }\n", "has no use in a rule that denies"},
		{"asks twice", "rules/x.yaml", "- { id: x, server: files, effect: approve, reason: r, approval: { approvers: dba }, secrets_in_args: approve }\n", "this rule asks anyway"},
		{"nobody to ask", "rules/x.yaml", "- { id: x, server: files, effect: allow, reason: r, secrets_in_args: approve }\n", "needs approval: { approvers"},
		{"no reason", "rules/x.yaml", "- { id: x, server: files, effect: allow, secrets_in_args: approve, approval: { approvers: dba } }\n", "needs a reason"},
		{"approval for nothing", "rules/x.yaml", "- { id: x, server: files, effect: allow, secrets_in_args: mask, approval: { approvers: dba } }\n", "approval belongs to effect: approve"},
		{"guard", "rules/x.yaml", "- { id: x, server: files, effect: allow, when: 'secrets(args.a) == []' }\n", "has(args.a)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := try(base(), c.file, c.text); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

// A name that no detector has is found wherever it is compared with secrets().
func TestUnknownNamesOfSecrets(t *testing.T) {
	known := []string{"e-mail", "github", "jwt"} // the first is one that base() names
	for when, want := range map[string][]string{
		`secrets(args) == ["nope"]`:                                                             {"18 nope"},
		`["github", "nope", "nine"] != secrets(args)`:                                           {"11 nope", "19 nine"},
		`"nope" in secrets(args)`:                                                               {"0 nope"},
		`secrets(args).exists(d, d == "nope" || d in ["jwt", "nine"])`:                          {"29 nope", "52 nine"},
		`secrets(args).size() > 0 && secrets(args)[0] == "nope"`:                                {"48 nope"},
		`secrets(args).all(d, ["x"].exists(d, d == "y")) || secrets(args).exists(d, "z" != d)`:  {"75 z"},
		`secrets(args) == [] || tool == "nope" || "nope" in ["nope"] || ["x"].all(d, d != "y")`: nil,
		`"key" in secrets(args) || "known" in secrets(args) || "github" in secrets(args)`:       nil,
		`{"a": secrets(args) == ["nope"]}["a"]`:                                                 {"24 nope"},
	} {
		p := load(t, base(), "rules/x.yaml", "- id: a\n  server: files\n  effect: deny\n  reason: r\n  when: '"+when+"'\n")
		var got []string
		for _, pr := range p.UnknownDetectors(known) {
			name := strings.TrimPrefix(pr.Msg, `when: there is no detector "`)
			name, _, _ = strings.Cut(name, `"`)
			got = append(got, fmt.Sprint(pr.Column-10, " ", name))
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %q, want %q", when, got, want)
		}
	}
	// It is said with all else that is wrong.
	files := fstest.MapFS{}
	for name, text := range base() {
		files[name] = &fstest.MapFile{Data: []byte(text), Mode: 0o644}
	}
	if _, err := Load(files, "c", known...); err != nil {
		t.Fatal(err)
	}
	files["rules/x.yaml"] = &fstest.MapFile{Mode: 0o644, Data: []byte("- { id: a, server: nowhere, effect: deny, reason: r, when: '\"nope\" in secrets(args)' }\n")}
	if _, err := Load(files, "c", known...); err == nil || !strings.Contains(err.Error(), "nowhere") || !strings.Contains(err.Error(), "nope") {
		t.Errorf("%v", err)
	}
}

func TestExpiredAllowances(t *testing.T) {
	p := load(t, base(), "masks/x.yaml", "allow:\n- { detector: a, expires: 2027-01-31, reason: r }\n- { detector: b, reason: r }\n- { detector: c, expires: 2027-02-01, reason: r }\n")
	if ps := p.Expired(time.Date(2027, 1, 31, 23, 59, 59, 0, time.UTC)); len(ps) != 0 {
		t.Errorf("%v", ps)
	}
	ps := p.Expired(time.Date(2027, 2, 1, 0, 0, 0, 0, time.UTC))
	if len(ps) != 1 || !strings.HasPrefix(ps[0].String(), "masks/x.yaml:2:27: this entry under allow has expired") {
		t.Errorf("%v", ps)
	}
}
