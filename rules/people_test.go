package rules

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// trusted is base's approvers.yaml with everything in it that may be.
const trusted = `people:
  bob: { issuer: "https://id.example", sub: bob, email: bob@example.com, slack: { team: T01, user: U01 } }
  dana: { issuer: "https://id.example", sub: dana, email: Dana@example.com, slack: { team: T01, user: U02 } }
  erin: { issuer: "https://id.example", sub: erin, email: shared@example.com }
  fay: { issuer: "https://id.example", sub: fay, email: shared@example.com }
sets:
  dba: { members: [bob, dana], channel: C01, approve_via: slack }
  security: { members: [erin], groups: [{ issuer: "https://id.example", group: sec }, { issuer: "https://b.example", group: sec2 }], approve_via: oidc, acr: [phr, phrh] }
  oncall: { groups: [{ issuer: "https://id.example", group: oncall }], channel: C03 }
owners:
  - { issuer: "https://id.example", sub: deploy-bot, people: [dana] }
  - { client: ci-runner, people: [erin, bob] }
links: { login: true, email: true, max_age: 2h }
`

func TestApprovers(t *testing.T) {
	p := load(t, base(), "approvers.yaml", trusted)
	set, ok := p.ApproverSet("security")
	if want := (ApproverSet{Name: "security", Members: []string{"erin"}, Via: ViaOIDC, ACR: []string{"phr", "phrh"},
		Groups: []Group{{"https://id.example", "sec"}, {"https://b.example", "sec2"}}}); !ok || fmt.Sprint(set) != fmt.Sprint(want) {
		t.Errorf("%+v", set)
	}
	if got := p.Links(); got != (Links{true, true, 2 * time.Hour}) {
		t.Errorf("%+v", got)
	}
	if got := load(t, base()).Links(); got != (Links{MaxAge: 12 * time.Hour}) {
		t.Errorf("by default: %+v", got)
	}
	const id, b = "https://id.example", "https://b.example"
	for _, c := range []struct {
		set  string
		s    Subject
		want bool
	}{
		{"dba", Subject{Issuer: id, Sub: "bob"}, true},
		{"dba", Subject{Issuer: b, Sub: "bob"}, false},
		{"dba", Subject{Issuer: id, Sub: "x", Groups: []string{"dba", "sec"}}, false},
		{"security", Subject{Issuer: id, Sub: "erin"}, true},
		{"security", Subject{Issuer: id, Sub: "x", Groups: []string{"a", "sec"}}, true},
		{"security", Subject{Issuer: b, Sub: "x", Groups: []string{"sec"}}, false}, // another issuer's group of that name
		{"security", Subject{Issuer: b, Sub: "x", Groups: []string{"sec2"}}, true},
		{"security", Subject{Issuer: id, Sub: "x", Groups: []string{"SEC"}}, false},
		{"security", Subject{Issuer: id, Sub: "x"}, false},
		{"nobody", Subject{Issuer: id, Sub: "bob", Groups: []string{"sec"}}, false},
		{"", Subject{}, false},
	} {
		if p.MayApprove(c.set, c.s) != c.want {
			t.Errorf("%s of %+v: %v", c.set, c.s, !c.want)
		}
	}
	for address, want := range map[string]string{"dana@EXAMPLE.com": "dana", "shared@example.com": "", "": "", "bob": ""} {
		if got, ok := p.PersonByEmail(address); got.Name != want || ok != (want != "") {
			t.Errorf("%q is %q", address, got.Name)
		}
	}
	for _, c := range []struct{ issuer, sub, client, want string }{
		{id, "deploy-bot", "x", "dana"}, {b, "deploy-bot", "x", ""}, {id, "alice", "ci-runner", "bob erin"},
		{id, "deploy-bot", "ci-runner", "bob dana erin"}, {id, "alice", "", ""}, {"", "", "", ""},
	} {
		if got := strings.Join(p.Owners(Subject{Issuer: c.issuer, Sub: c.sub}, c.client), " "); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}

func TestApproverProblems(t *testing.T) {
	person := "people:\n  eve: { issuer: \"https://id\", sub: eve, email: eve@example.com }\n"
	after := func(s string) string { return person + s }
	for _, c := range []struct{ name, text, want string }{
		{"nobody", after("sets: { s: { channel: C01 } }\n"), "approvers.yaml:3:9: approver set s needs members"},
		{"no groups", after("sets: { s: { groups: [], channel: C01 } }\n"), "approvers.yaml:3:22: groups is an empty list"},
		{"half a group", after("sets: { s: { groups: [{ group: g }], channel: C01 } }\n"), "approvers.yaml:3:23: a group needs issuer and group"},
		{"group twice", after("sets: { s: { groups: [{ issuer: \"https://id\", group: g }, { issuer: \"https://id\", group: g }], channel: C01 } }\n"), "listed twice"},
		{"group's issuer", after("sets: { s: { groups: [{ issuer: id, group: g }], channel: C01 } }\n"), "issuer must be the URL"},
		{"groups' kind", after("sets: { s: { groups: dba, channel: C01 } }\n"), "groups must be a list"},
		{"acr by button", after("sets: { s: { groups: [{ issuer: \"https://id\", group: g }], channel: C01, acr: phr } }\n"), "approvers.yaml:3:79: acr is of a login"},
		{"no channel", after("sets: { s: { groups: [{ issuer: \"https://id\", group: g }], approve_via: slack } }\n"), "needs channel"},
		{"neither Slack nor links", after("sets: { s: { members: [eve], channel: C01 } }\n"), "eve has no slack user"},
		{"no such link", after("links: { email: true, mail: true }\n"), `unknown field "mail"`},
		{"link's kind", after("links: { login: \"yes\" }\n"), "approvers.yaml:3:17: links.login must be true or false, not a text"},
		{"link's age", after("links: { max_age: 31d }\n"), "links.max_age must be a duration"},
		{"link too old", after("links: { max_age: 721h }\n"), "it must lie between 1m0s and 720h0m0s"},
		{"owner of nothing", after("owners: [{ people: [eve] }]\n"), "approvers.yaml:3:10: an owner is of a subject (issuer and sub) or of a client"},
		{"owner of both", after("owners: [{ issuer: \"https://id\", sub: x, client: y, people: [eve] }]\n"), "say which of them"},
		{"owner of half", after("owners: [{ sub: x, people: [eve] }]\n"), "say which of them"},
		{"owner's issuer", after("owners: [{ issuer: x, sub: x, people: [eve] }]\n"), "issuer must be the URL"},
		{"owned by nobody", after("owners: [{ client: x }]\n"), "an owner needs people"},
		{"owned by a stranger", after("owners: [{ client: x, people: [bob] }]\n"), `approvers.yaml:3:32: "bob" is not among people`},
		{"owned twice", after("owners: [{ client: x, people: [eve] }, { client: x, people: [eve] }]\n"), "stands among owners twice"},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := base()
			files["rules/customers.yaml"] = ""
			if _, err := try(files, "approvers.yaml", c.text); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v\nwant %s", err, c.want)
			}
		})
	}
	for name, text := range map[string]string{
		"linked by login":  after("sets: { s: { members: [eve], channel: C01 } }\nlinks: { login: true }\n"),
		"linked by e-mail": after("sets: { s: { members: [eve], channel: C01 } }\nlinks: { email: true }\n"),
		"signed in":        after("sets: { s: { members: [eve], approve_via: oidc } }\n"),
		"a channel to ask": after("sets: { s: { members: [eve], approve_via: oidc, channel: C01 } }\n"),
	} {
		files := base()
		files["rules/customers.yaml"] = ""
		if _, err := try(files, "approvers.yaml", text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Who may freeze over the network is named.
	if _, err := try(base(), "approvers.yaml", trusted, "countersign.yaml", "version: 1\nfreeze: { sets: [oncall] }\n"); err == nil || !strings.Contains(err.Error(), "has groups only") {
		t.Errorf("freeze by group: %v", err)
	}
}

// What a rule asks for.
func TestApprovalOfRules(t *testing.T) {
	rule := func(approval string) string { return short("a", "approve", "approval: "+approval) }
	for _, c := range []struct{ approval, want string }{
		{"{ approvers: dba, approve_via: mail }", `approve_via "mail" is not known: slack or oidc`},
		{"{ approvers: dba, grant: { scope: tool } }", "grant needs for"},
		{"{ approvers: dba, grant: { for: 30s } }", "grant.for is 30s: it must lie between 1m0s and 24h0m0s"},
		{"{ approvers: dba, grant: { for: 61m } }", "rules/customers.yaml:1:112: grant.for is 1h1m, and approvals.max_grant of countersign.yaml allows 1h"},
		{"{ approvers: dba, grant: { for: 1h, scope: all } }", `scope "all" is not known: exact, tool or server`},
		{"{ approvers: dba, grant: { for: 1h, uses: 3 } }", `unknown field "uses"`},
		{"{ approvers: dba, grant: 1h }", `grant "1h" is not known: once, or`},
		{"{ approvers: dba, break_glass: nobody }", `approver set "nobody" is not in approvers.yaml`},
		{"{ approvers: [dba, oncall], break_glass: oncall }", "break_glass must be another set"},
		{"{ approvers: dba, quorum: 3 }", "a quorum of 3 can never be reached"},
	} {
		if _, err := try(base(), "approvers.yaml", trusted, "rules/customers.yaml", rule(c.approval)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v\nwant %s", c.approval, err, c.want)
		}
	}
	if _, err := try(base(), "approvers.yaml", trusted, "rules/customers.yaml", rule("{ approvers: security, quorum: 9 }")); err != nil {
		t.Errorf("nobody here knows how many a group has: %v", err)
	}

	wide := "version: 1\napprovals: { max_grant: 8h }\n"
	decide := func(text string) Decision {
		t.Helper()
		return load(t, base(), "approvers.yaml", trusted, "countersign.yaml", wide, "rules/customers.yaml", text).Decide(call("query", ""))
	}
	for _, c := range []struct {
		first, second string
		want          Grant
	}{
		{"{ approvers: dba }", "", Grant{}},
		{"{ approvers: dba, grant: once }", "", Grant{}},
		{"{ approvers: dba, grant: { for: 8h } }", "", Grant{8 * time.Hour, ScopeExact}},
		{"{ approvers: dba, grant: { for: 8h, scope: server } }", "", Grant{8 * time.Hour, ScopeServer}},
		{"{ approvers: dba, grant: { for: 8h, scope: tool } }", "{ approvers: dba, grant: { for: 1h, scope: server } }", Grant{time.Hour, ScopeTool}},
		{"{ approvers: dba, grant: { for: 8h, scope: server } }", "{ approvers: dba }", Grant{}},
		{"{ approvers: dba }", "{ approvers: dba, grant: { for: 8h, scope: server } }", Grant{}},
	} {
		text := rule(c.first)
		if c.second != "" {
			text += short("b", "approve", "approval: "+c.second)
		}
		if d := decide(text); d.Effect != Approve || d.Grant != c.want {
			t.Errorf("%s and %s: %v", c.first, c.second, d.Grant)
		}
	}
	if d := decide(rule("{ approvers: dba, grant: { for: 8h } }") + short("b", "deny", "")); d.Grant != (Grant{}) {
		t.Errorf("a denial grants %v", d.Grant)
	}

	// Rule or set: the stricter holds.
	d := decide(rule("{ approvers: [dba, security], approve_via: slack, break_glass: oncall }") + short("b", "approve", "approval: { approvers: dba, approve_via: oidc }"))
	var got []string
	for _, a := range d.Asks {
		got = append(got, fmt.Sprintf("%s %s %s %v %q", a.Rule, a.Approvers, a.Via, a.ACR, a.BreakGlass))
	}
	if want := []string{`a dba slack [] "oncall"`, `a security oidc [phr phrh] "oncall"`, `b dba oidc [] ""`}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestApprovalSettings(t *testing.T) {
	for text, want := range map[string]string{
		"max_grant: 30s":                                 "it must lie between 1m0s and 24h0m0s",
		"max_grant: 25h":                                 "it must lie between 1m0s and 24h0m0s",
		"policy_link: somewhere":                         "countersign.yaml:2:27: approvals.policy_link must be a URL",
		"policy_link: \"javascript:alert(1)\"":           "must be a URL",
		"policy_link: \"https://git/{commit}/{branch}\"": "it may hold {commit}, {file}, {line}, and no other braces",
		"audit_link: \"https://git/{commit}\"":           "it may hold {call}, and no other braces",
	} {
		if _, err := try(base(), "countersign.yaml", "version: 1\napprovals: { "+text+" }\n"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	s := load(t, base(), "countersign.yaml", "version: 1\napprovals: { max_grant: 8h, policy_link: \"https://git.example/{commit}/{file}#L{line}\", audit_link: \"https://git.example/search?q={call}\" }\n").Settings()
	if s.MaxGrant != 8*time.Hour || s.PolicyLink != "https://git.example/{commit}/{file}#L{line}" || s.AuditLink != "https://git.example/search?q={call}" {
		t.Errorf("%+v", s)
	}
}

// The digest of one rule and one of its sets says whether a vote of that set
// still approves the same.
func TestAskDigests(t *testing.T) {
	text := short("a", "approve", "approval: { approvers: [dba, security] }") + short("b", "approve", "approval: { approvers: dba, quorum: 2, break_glass: oncall, grant: { for: 1h } }")
	digests := func(change ...string) map[string]string {
		t.Helper()
		d := load(t, base(), append([]string{"approvers.yaml", trusted, "rules/customers.yaml", text}, change...)...).Decide(call("query", ""))
		out := map[string]string{}
		for _, a := range d.Asks {
			if !strings.HasPrefix(a.Digest, "sha256:") {
				t.Fatalf("%+v", a)
			}
			out[a.Rule+" "+a.Approvers] = a.Digest
		}
		return out
	}
	first := digests()
	if len(first) != 3 || first["a dba"] == first["a security"] || first["a dba"] == first["b dba"] {
		t.Fatalf("%v", first)
	}
	edit := func(s, from, to string) string {
		if !strings.Contains(s, from) {
			t.Fatalf("%q is not in there", from)
		}
		return strings.Replace(s, from, to, 1)
	}
	server := base()["servers/customers.yaml"]
	for name, c := range map[string]struct {
		file, text string
		changed    string
	}{
		"the same":            {"rules/customers.yaml", "# moved\n\n" + text, ""},
		"a set's member":      {"approvers.yaml", edit(trusted, "[bob, dana]", "[bob, dana, erin]"), "a dba, b dba"},
		"a set's group":       {"approvers.yaml", edit(trusted, "group: sec }", "group: secs }"), "a security"},
		"a set's acr":         {"approvers.yaml", edit(trusted, "[phr, phrh]", "[phr]"), "a security"},
		"a set's door":        {"approvers.yaml", edit(trusted, "approve_via: slack", "approve_via: oidc"), "a dba, b dba"},
		"a break-glass set":   {"approvers.yaml", edit(trusted, "group: oncall", "group: sre"), "b dba"},
		"another's owner":     {"approvers.yaml", edit(trusted, "sub: deploy-bot", "sub: other-bot"), ""},
		"its owner":           {"approvers.yaml", edit(trusted, "sub: deploy-bot", "sub: alice"), "a dba, a security, b dba"},
		"how users are found": {"approvers.yaml", edit(trusted, "email: true", "email: false"), "a dba, a security, b dba"},
		"a rule's grant":      {"rules/customers.yaml", edit(text, "for: 1h", "for: 59m"), "b dba"},
		"a rule's scope":      {"rules/customers.yaml", edit(text, "for: 1h", "for: 1h, scope: tool"), "b dba"},
		"a rule's door":       {"rules/customers.yaml", edit(text, "quorum: 2", "quorum: 2, approve_via: oidc"), "b dba"},
		"a rule's glass":      {"rules/customers.yaml", edit(text, "break_glass: oncall, ", ""), "b dba"},
		"another rule":        {"rules/other.yaml", short("z", "approve", ""), "z dba"},
		"where it goes":       {"servers/customers.yaml", edit(server, ":9000/", ":9001/"), "a dba, a security, b dba"},
		"with what":           {"servers/customers.yaml", edit(server, "creds/customers-ro", "creds/customers-all"), "a dba, a security, b dba"},
		"a rule's credential": {"rules/customers.yaml", edit(text, "id: a,", "id: a, credential: customers-rw,"), "a dba, a security, b dba"},
	} {
		var changed []string
		now := digests(c.file, c.text)
		for ask, digest := range now {
			if first[ask] != digest {
				changed = append(changed, ask)
			}
		}
		slices.Sort(changed)
		if got := strings.Join(changed, ", "); got != c.changed {
			t.Errorf("%s: changed %q, want %q", name, got, c.changed)
		}
	}
}
