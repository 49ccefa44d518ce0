package rules

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// with is the base policy with these rules in place of its own.
func with(t testing.TB, rules string) *Policy {
	t.Helper()
	return load(t, base(), "rules/customers.yaml", rules)
}

// short builds a rule: id, effect, and other fields in flow style.
func short(id, effect, fields string) string {
	s := "- { id: " + id + ", effect: " + effect
	if effect != "allow" {
		s += ", reason: because of " + id
	}
	if effect == "approve" && !strings.Contains(fields, "approval:") {
		s += ", approval: { approvers: dba }"
	}
	if !strings.Contains(fields, "server:") {
		s += ", server: customers"
	}
	if fields != "" {
		s += ", " + fields
	}
	return s + " }\n"
}

func TestMostRestrictiveWins(t *testing.T) {
	rules := []string{short("a", "allow", ""), short("b", "approve", ""), short("c", "deny", "")}
	want := map[int]Effect{1: Allow, 2: Approve, 3: Approve, 4: Deny, 5: Deny, 6: Deny, 7: Deny}
	for set, effect := range want {
		for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {1, 2, 0}} {
			var text string
			for _, i := range order {
				if set&(1<<i) != 0 {
					text += rules[i]
				}
			}
			d := with(t, text).Decide(call("query", ""))
			if d.Effect != effect {
				t.Errorf("rules %03b in order %v: %s", set, order, d.Effect)
			}
			if !slices.IsSortedFunc(d.Trace, func(a, b Match) int { return strings.Compare(a.Rule, b.Rule) }) {
				t.Errorf("trace depends on the order: %+v", d.Trace)
			}
		}
	}
}

func TestClosedByDefault(t *testing.T) {
	p := with(t, short("a", "allow", "tool: query")+short("b", "allow", "method: resources/read, when: 'resource.startsWith(\"file:\")'"))
	for name, c := range map[string]struct {
		change func(*Request)
		want   string
	}{
		"other tool":   {func(r *Request) { r.Tool = "drop" }, `No rule allows tools/call drop on server "customers".`},
		"other server": {func(r *Request) { r.Server = "files" }, `No rule allows tools/call query on server "files".`},
		"no server":    {func(r *Request) { r.Server = "nope" }, `The policy knows no server "nope".`},
		"star server":  {func(r *Request) { r.Server = "*" }, `The policy knows no server "*".`},
		"method":       {func(r *Request) { r.Method = "tools/CALL" }, "No rule allows tools/CALL"},
		"condition":    {func(r *Request) { r.Method, r.Tool = "resources/read", "" }, "with these arguments"},
		"vendor":       {func(r *Request) { r.Method, r.Tool = "acme/do", "" }, "No rule allows acme/do"},
	} {
		r := call("query", "")
		c.change(&r)
		d := p.Decide(r)
		if d.Effect != Deny || !strings.Contains(d.Reason, c.want) || d.Policy != commit || d.Credential != "" {
			t.Errorf("%s: %+v, want %q", name, d, c.want)
		}
	}
	if d := p.Decide(Request{}); d.Effect != Deny {
		t.Errorf("empty request: %+v", d)
	}
	if d := p.Decide(call("query", "")); d.Effect != Allow {
		t.Errorf("query: %+v", d)
	}
}

// A condition that cannot be evaluated closes: deny and approve count as
// matched, allow does not.
func TestErrorsClose(t *testing.T) {
	for name, c := range map[string]struct{ when, args string }{
		"type":       {`'has(args.n) && args.n.startsWith("x")'`, `{"n":1}`},
		"index":      {`'has(args.n) && args.n[3] == 1'`, `{"n":[1]}`},
		"zero":       {`'has(args.n) && 1 / args.n == 1'`, `{"n":0}`},
		"overflow":   {`'has(args.n) && args.n + 1 > 0'`, `{"n":9223372036854775807}`},
		"range":      {`'has(args.n) && args.n > 0'`, `{"n":1e999}`},
		"not JSON":   {`'has(args.n)'`, `{"n":`},
		"not object": {`'has(args.n)'`, `[1]`},
		"trailing":   {`'has(args.n)'`, `{"n":1}{"n":2}`},
		"closing":    {`'has(args.n)'`, `{"n":1}}`},
		"doubled":    {`'has(args.n)'`, `{"n":1,"n":2}`},
		"surrogate":  {`'has(args.n)'`, `{"n":"\ud800"}`},
		"bad UTF-8":  {`'has(args.n)'`, "{\"n\":\"\xff\"}"},
		"null":       {`'has(args.n)'`, `null`},
		"cost":       {`'has(args.n) && args.n.all(a, args.n.all(b, args.n.all(c, a + b + c > 0)))'`, `{"n":[` + strings.Repeat("1,", 300) + `1]}`},
		"sql lists":  {`'has(args.n) && sql(args.n).reads.exists(t, t == "staff")'`, `{"n":"SELEC * FROM staff"}`},
	} {
		for _, effect := range []Effect{Deny, Approve, Allow} {
			text := short("x", string(effect), "when: "+c.when)
			if effect != Allow {
				text += short("y", "allow", "")
			}
			d := with(t, text).Decide(call("query", c.args))
			want := effect
			if effect == Allow {
				want = Deny
			}
			if d.Effect != want || d.Trace[0].Err == "" || d.Trace[0].Matched != (effect != Allow) {
				t.Errorf("%s, %s: %+v", name, effect, d)
			}
		}
	}
}

func TestArguments(t *testing.T) {
	for _, c := range []struct {
		when, args string
		want       bool
	}{
		{`args.a == 1`, `{"a":1}`, true},
		{`args.a == 1`, `{"a":1.0}`, true},
		{`args.a == 1.5`, `{"a":1.5}`, true},
		{`type(args.a) == int`, `{"a":9007199254740993}`, true},
		{`args.a == 9007199254740993`, `{"a":9007199254740992}`, false},
		{`type(args.a) == double`, `{"a":9223372036854775808}`, true},
		{`args.a == "DROP"`, `{"a":"\u0044ROP"}`, true},
		{`args.a == "DROP"`, `{"\u0061":"DROP"}`, true},
		{`args.a == null`, `{"a":null}`, true},
		{`args.a.b[0].c`, `{"a":{"b":[{"c":true}]}}`, true},
		{`args.a in ["x"]`, `{"a":"x"}`, true},
		{`args.A == 1`, `{"a":1}`, false},
	} {
		guard := "has(args.a)"
		if strings.Contains(c.when, "args.A") {
			guard = "has(args.A)"
		}
		if strings.Contains(c.when, ".b") {
			guard += " && has(args.a.b)"
		}
		if strings.Contains(c.when, ".c") {
			c.when = strings.ReplaceAll(c.when, "args.a.b[0].c", "args.a.b.exists(x, x.c)")
		}
		p := with(t, "- { id: x, server: customers, effect: allow, when: '"+guard+" && "+c.when+"' }\n")
		if d := p.Decide(call("query", c.args)); (d.Effect == Allow) != c.want {
			t.Errorf("%s of %s: %+v", c.when, c.args, d)
		}
	}
}

func TestFactsOfTheRequest(t *testing.T) {
	r := call("query", "")
	r.Source, r.Resource = "10.1.2.3", "file:///x"
	r.Subject.Claims = map[string]any{"team": "eu", "level": 3.0}
	for _, when := range []string{
		`subject.issuer == "https://id.example"`, `subject.sub == "alice"`, `subject.email == "alice@example.com"`,
		`"support" in subject.groups`, `has(subject.claims.team) && subject.claims.team == "eu"`,
		`has(subject.claims.level) && subject.claims.level == 3`, `client == "desk"`, `server == "customers"`, `method == "tools/call"`,
		`tool == "query"`, `source.startsWith("10.")`, `resource == "file:///x"`, `now == timestamp("2026-01-01T12:00:00Z")`,
		`now.getHours("Europe/Berlin") == 13`, `size(args) == 0`,
	} {
		p := with(t, "- id: x\n  server: customers\n  effect: allow\n  when: |\n    "+when+"\n")
		if d := p.Decide(r); d.Effect != Allow {
			t.Errorf("%s: %+v", when, d)
		}
	}
	if d := with(t, short("x", "allow", "when: 'size(subject.claims) == 0 && size(subject.groups) == 0'")).Decide(Request{Server: "customers", Method: "tools/call"}); d.Effect != Allow {
		t.Errorf("nobody: %+v", d)
	}
}

func TestNames(t *testing.T) {
	p := with(t, short("a", "allow", "tool: [query, 'list_*']")+short("b", "allow", "method: [resources/read, 'acme/*']")+
		short("c", "allow", "server: '*', tool: everywhere"))
	for name, want := range map[string]bool{"query": true, "queryx": false, "list_": true, "list_x": true, "lis": false, "list_*": true,
		"": false, "*": false, "everywhere": true, "QUERY": false, "query ": false} {
		if d := p.Decide(call(name, "")); (d.Effect == Allow) != want {
			t.Errorf("tool %q: %+v", name, d)
		}
	}
	for method, want := range map[string]bool{"resources/read": true, "acme/x": true, "acme": false, "prompts/get": false} {
		r := call("", "")
		r.Method = method
		if d := p.Decide(r); (d.Effect == Allow) != want {
			t.Errorf("method %q: %+v", method, d)
		}
	}
	r := call("everywhere", "")
	r.Server = "files"
	if d := p.Decide(r); d.Effect != Allow || d.Credential != "" {
		t.Errorf("server *: %+v", d)
	}
}

func TestApproval(t *testing.T) {
	text := short("a", "approve", "approval: { approvers: [dba, security], expires: 20m }, credential: customers-rw") +
		short("b", "approve", "approval: { approvers: dba, quorum: 2, expires: 2m }") + short("c", "approve", "when: 'false'") + short("d", "allow", "")
	d := with(t, text).Decide(call("query", ""))
	var asks []string
	for _, a := range d.Asks {
		asks = append(asks, fmt.Sprint(a.Rule, " ", a.Approvers, " ", a.Quorum, " ", a.Reason, " ", a.File, ":", a.Line))
	}
	want := "a dba 1 because of a rules/customers.yaml:1|a security 1 because of a rules/customers.yaml:1|b dba 2 because of b rules/customers.yaml:2"
	if d.Effect != Approve || strings.Join(asks, "|") != want || d.Expires != 2*time.Minute || d.Credential != "customers-rw" || d.Reason != "because of a; because of b" {
		t.Errorf("%+v", d)
	}
	// The default comes from countersign.yaml, whatever the order of files.
	if d := with(t, short("a", "approve", "")).Decide(call("query", "")); d.Expires != 10*time.Minute {
		t.Errorf("default expiry: %v", d.Expires)
	}
}

// The digest changes with whatever an approver's consent rests on, and with
// nothing else.
func TestRulesDigest(t *testing.T) {
	digest := func(change ...string) string {
		t.Helper()
		d := load(t, base(), change...).Decide(call("query", `{"sql":"UPDATE t"}`))
		if d.Effect != Approve {
			t.Fatalf("%+v", d)
		}
		return d.RulesDigest
	}
	first := digest()
	rules, people, server := base()["rules/customers.yaml"], base()["approvers.yaml"], base()["servers/customers.yaml"]
	for name, c := range map[string][2]string{
		"comment":          {"rules/customers.yaml", "# comment\n\n" + rules},
		"other rule":       {"rules/other.yaml", short("z", "allow", "tool: z")},
		"other set":        {"approvers.yaml", strings.Replace(people, "C02", "C09", 1)},
		"moved":            {"rules/customers.yaml", rules},
		"bounds":           {"servers/customers.yaml", strings.Replace(server, "timeout: 20s", "timeout: 25s", 1)},
		"other credential": {"servers/customers.yaml", strings.Replace(server, "customers-ro, scope: holder, ttl: 60s", "customers-ro, scope: call, ttl: 9s", 1)},
		"other server":     {"servers/files.yaml", "server: files\ncommand: [node, other.js]\n"},
	} {
		if digest(c[0], c[1]) != first {
			t.Errorf("%s: another digest", name)
		}
	}
	for name, c := range map[string][2]string{
		"condition": {"rules/customers.yaml", strings.Replace(rules, `startsWith("UPDATE")`, `startsWith("UPD")`, 1)},
		"reason":    {"rules/customers.yaml", strings.Replace(rules, "Writing needs a DBA", "Because", 1)},
		"quorum":    {"rules/customers.yaml", strings.Replace(rules, "approvers: dba,", "approvers: dba, quorum: 2,", 1)},
		"expiry":    {"rules/customers.yaml", strings.Replace(rules, "expires: 5m", "expires: 6m", 1)},
		"member":    {"approvers.yaml", strings.Replace(people, "members: [bob, dana]", "members: [bob]", 1)},
		"identity":  {"approvers.yaml", strings.Replace(people, "sub: bob", "sub: robert", 1)},
		"slack":     {"approvers.yaml", strings.Replace(people, "user: U01", "user: U09", 1)},
		"channel":   {"approvers.yaml", strings.Replace(people, "C01", "C09", 1)},
		"another":   {"rules/other.yaml", short("z", "approve", "")},
		"address":   {"servers/customers.yaml", strings.Replace(server, ":9000/mcp", ":9001/mcp", 1)},
		"proxy":     {"servers/customers.yaml", server + "proxy: http://127.0.0.1:3128\n"},
		"path":      {"servers/customers.yaml", strings.Replace(server, "creds/customers-rw", "creds/owner", 1)},
		"parameter": {"servers/customers.yaml", strings.Replace(server, "vault: database/creds/customers-rw", "vault: database/creds/customers-rw, params: { role: owner }", 1)},
		"login":     {"servers/customers.yaml", strings.Replace(server, "vault: database/creds/customers-rw", "vault: database/creds/customers-rw, login: { as: caller, role: owner }", 1)},
		"ttl":       {"servers/customers.yaml", strings.Replace(server, "scope: call, ttl: 60s", "scope: call, ttl: 61s", 1)},
		"injection": {"servers/customers.yaml", strings.Replace(server, "X-Url", "X-Dsn", 1)},
	} {
		if digest(c[0], c[1]) == first {
			t.Errorf("%s: the same digest", name)
		}
	}
	p := load(t, base())
	asks := p.Decide(call("query", `{"sql":"UPDATE t"}`)).Asks
	if got := p.AsksDigest("customers", alice(), "desk", asks); got != first {
		t.Errorf("AsksDigest %s, Decide %s", got, first)
	}
	for _, server := range []string{"files", "nobody"} { // files has no credential of that name
		if got := p.AsksDigest(server, alice(), "desk", asks); got != "" {
			t.Errorf("%s: %s", server, got)
		}
	}
}

func TestCredential(t *testing.T) {
	ro, rw := "credential: customers-ro", "credential: customers-rw"
	for name, c := range map[string]struct{ rules, want, reason string }{
		"default":    {short("a", "allow", ""), "customers-ro", ""},
		"named":      {short("a", "allow", rw), "customers-rw", ""},
		"agree":      {short("a", "allow", rw) + short("b", "allow", rw) + short("c", "allow", ""), "customers-rw", ""},
		"differ":     {short("a", "allow", rw) + short("b", "allow", ro), "", "Rules a and b name different credentials (customers-rw, customers-ro)"},
		"differ ask": {short("a", "approve", rw) + short("b", "approve", ro), "", "name different credentials"},
		"effect":     {short("a", "approve", "") + short("b", "allow", rw), "customers-ro", ""},
		"deny":       {short("a", "deny", "") + short("b", "allow", rw), "", "because of a"},
	} {
		d := with(t, c.rules).Decide(call("query", ""))
		if d.Credential != c.want || c.reason != "" && (d.Effect != Deny || !strings.Contains(d.Reason, c.reason) || d.Asks != nil || d.RulesDigest != "") {
			t.Errorf("%s: %+v", name, d)
		}
	}
	r := call("query", "")
	r.Server = "files"
	if d := with(t, short("a", "allow", "server: '*', "+ro)).Decide(r); d.Effect != Deny || !strings.Contains(d.Reason, `which server "files" does not have`) {
		t.Errorf("server without the credential: %+v", d)
	}
}

func TestBaseline(t *testing.T) {
	p := with(t, short("a", "allow", `tool: query, when: '"support" in subject.groups && has(args.x)'`)+
		short("b", "deny", `method: "*", when: 'subject.sub == "eve"'`)+short("c", "approve", "method: \"*\", when: 'subject.sub == \"carol\"'"))
	baseline := []string{"initialize", "ping", "server/discover", "tools/list", "prompts/list", "resources/list",
		"resources/templates/list", "notifications/initialized", "notifications/cancelled", ""}
	for _, m := range baseline {
		r := call("", "")
		r.Method = m
		if d := p.Decide(r); d.Effect != Allow || !d.Baseline || d.Credential != "customers-ro" {
			t.Errorf("%s for alice: %+v", m, d)
		}
		r.Subject.Sub, r.Subject.Groups = "carol", nil // an approve rule opens it too, and asks nobody
		if d := p.Decide(r); d.Effect != Allow || !d.Baseline {
			t.Errorf("%s for carol: %+v", m, d)
		}
		r.Subject = Subject{Issuer: "https://id.example", Sub: "mallory"}
		if d := p.Decide(r); d.Effect != Deny || d.Baseline || !strings.Contains(d.Reason, "No rule lets you use") {
			t.Errorf("%s for mallory: %+v", m, d)
		}
		r.Subject = Subject{Sub: "eve", Groups: []string{"support"}}
		if d := p.Decide(r); d.Effect != Deny || d.Reason != "because of b" {
			t.Errorf("%s for eve: %+v", m, d)
		}
		r = call("", "")
		r.Method, r.Server = m, "files"
		if d := p.Decide(r); d.Effect != Deny {
			t.Errorf("%s on a server that no rule names: %+v", m, d)
		}
	}
	for _, m := range []string{"tools/call", "resources/read", "completion/complete", "logging/setLevel", "resources/subscribe", "subscriptions/listen", "notification/x"} {
		r := call("", "")
		r.Method = m
		if d := p.Decide(r); d.Baseline {
			t.Errorf("%s is open: %+v", m, d)
		}
	}
}

func TestServerAsks(t *testing.T) {
	star := short("a", "allow", `method: "*"`) + short("b", "allow", `method: ["sampling/*", "tools/call"]`)
	ask := func(rules, method string) Decision {
		r := call("", "")
		r.Method, r.FromServer = method, true
		return with(t, rules).Decide(r)
	}
	for _, m := range []string{"sampling/createMessage", "elicitation/create", "roots/list", "tools/call", "initialize", "tools/list", "acme/x", ""} {
		if d := ask(star, m); d.Effect != Deny {
			t.Errorf("%s by a wildcard: %+v", m, d)
		}
	}
	named := short("a", "allow", "method: elicitation/create")
	if d := ask(named, "elicitation/create"); d.Effect != Allow {
		t.Errorf("named: %+v", d)
	}
	if d := ask(named+short("b", "deny", `method: "*"`), "elicitation/create"); d.Effect != Deny {
		t.Errorf("named and denied: %+v", d)
	}
	if d := ask(short("a", "approve", "method: sampling/createMessage"), "sampling/createMessage"); d.Effect != Approve {
		t.Errorf("approve: %+v", d)
	}
	for _, m := range []string{"ping", "notifications/progress"} {
		if d := ask("[]\n", m); d.Effect != Allow || !d.Baseline || d.Credential != "" {
			t.Errorf("%s: %+v", m, d)
		}
	}
}

func TestVisible(t *testing.T) {
	group := func(g string) string { return `"` + g + `" in subject.groups` }
	for name, c := range map[string]struct {
		rules string
		want  bool
	}{
		"nothing":             {"[]\n", false},
		"allow":               {short("a", "allow", ""), true},
		"approve":             {short("a", "approve", ""), true},
		"other tool":          {short("a", "allow", "tool: other"), false},
		"other group":         {short("a", "allow", "when: '"+group("ops")+"'"), false},
		"group":               {short("a", "allow", "when: '"+group("support")+"'"), true},
		"arguments":           {short("a", "allow", `when: 'has(args.a) && args.a == "x"'`), true},
		"arguments and group": {short("a", "allow", `when: 'has(args.a) && args.a == "x" && `+group("ops")+`'`), false},
		"group or arguments":  {short("a", "allow", `when: '`+group("ops")+` || has(args.a)'`), true},
		"sql":                 {short("a", "allow", `when: 'has(args.sql) && !sql(args.sql).writing'`), true},
		"sql lists":           {short("a", "allow", `when: 'has(args.sql) && sql(args.sql).reads.all(t, t == "x")'`), true},
		"dynamic index":       {short("a", "allow", `when: 'args.exists(k, k == "x")'`), true},
		"never":               {short("a", "allow", "when: 'false'"), false},
		"denied":              {short("a", "allow", "") + short("b", "deny", ""), false},
		"denied by arguments": {short("a", "allow", "") + short("b", "deny", "when: 'has(args.a)'"), true},
		"denied by group":     {short("a", "allow", "") + short("b", "deny", "when: '"+group("support")+"'"), false},
		"denied by error":     {short("a", "allow", "") + short("b", "deny", "when: '1 / size(subject.claims) == 1'"), false},
		"allowed by error":    {short("a", "allow", "when: '1 / size(subject.claims) == 1'"), false},
		"approve by error":    {short("a", "approve", "when: '1 / size(subject.claims) == 1'"), true},
	} {
		p := with(t, c.rules)
		if got := p.Visible(call("query", `{"a":"not looked at"}`)); got != c.want {
			t.Errorf("%s: visible = %v", name, got)
		}
	}
	r := call("query", "")
	r.Server = "nope"
	if with(t, short("a", "allow", "")).Visible(r) {
		t.Error("a server that is not there is visible")
	}
}

// Rules ask what a text is; what slips past a careless one does not slip past
// these.
func TestDecideOnSQL(t *testing.T) {
	p := with(t, `- id: reads
  server: customers
  tool: query
  when: has(args.sql) && !sql(args.sql).writing && sql(args.sql).portable
  effect: allow
- id: roles
  server: customers
  tool: query
  when: has(args.sql) && sql(args.sql).statements.exists(s, s.kind in ["CREATE ROLE", "ALTER ROLE", "GRANT"])
  effect: approve
  reason: Creating or changing a database role needs a DBA
  approval: { approvers: dba }
- id: hashes
  server: customers
  tool: query
  when: has(args.sql) && sql(args.sql).reads.exists(t, t in ["pg_shadow", "pg_authid", "staff"])
  effect: deny
  reason: These tables hold password hashes
`)
	if !p.UsesSQL() {
		t.Error("UsesSQL = false")
	}
	for sql, want := range map[string]Effect{
		`SELECT name FROM customers`:                          Allow,
		`COMMIT; create table evil(a int)`:                    Deny,
		`GRANT admin TO eve`:                                  Approve,
		`CREATE USER eve`:                                     Approve,
		`SELECT 1; ALTER USER eve SUPERUSER`:                  Approve,
		`SELECT * FROM pg_catalog."pg_shadow"`:                Deny,
		`SELECT * FROM \u0070g_shadow`:                        Deny,
		`SELECT * FROM \"STAFF\"`:                             Deny,
		`SELECT $a$; DELETE FROM staff; --$a$`:                Deny,
		`SELEC`:                                               Deny,
		`WITH x AS (UPDATE t SET a = 1 RETURNING a) TABLE x`:  Deny,
		`GRANT admin TO eve; SELECT * FROM pg_shadow`:         Deny,
		`SELECT pg_read_file('/etc/passwd') FROM pg_shadow s`: Deny,
	} {
		sql = strings.ReplaceAll(sql, `."pg_shadow"`, `.\"pg_shadow\"`)
		if d := p.Decide(call("query", `{"sql":"`+sql+`"}`)); d.Effect != want {
			t.Errorf("%s: %+v", sql, d)
		}
	}
}

func TestCases(t *testing.T) {
	p := load(t, base(), "tests/x.yaml", `- name: reads
  subject: { issuer: "https://id.example", sub: alice, groups: [support], claims: { level: 1 } }
  client: desk
  server: customers
  tool: query
  args: { sql: "SELECT 1", n: 1.50, deep: [{ a: null, b: true }] }
  expect: { effect: allow, rule: support-reads }
- name: wrong effect
  subject: { sub: bob }
  server: customers
  tool: query
  expect: { effect: allow }
- name: wrong rule
  now: 2026-03-01T00:00:00Z
  subject: { sub: bob }
  server: customers
  tool: query
  args: { sql: UPDATE t }
  expect: { effect: approve, rule: no-secrets }
- name: wrong reason
  subject: { sub: bob }
  server: customers
  tool: query
  args: { sql: secret }
  expect: { effect: deny, rule: no-secrets, reason: bored }
- name: from the server
  subject: { sub: bob }
  server: customers
  method: sampling/createMessage
  from_server: true
  expect: { effect: deny, reason: No rule allows }
`)
	var got []string
	for _, r := range p.Cases() {
		if r.Problem != nil {
			got = append(got, r.Problem.String())
		}
	}
	want := []string{`tests/x.yaml:8:3: case "wrong effect": expected allow, and it is deny`,
		`tests/x.yaml:13:3: case "wrong rule": expected rule no-secrets to make it approve, and it is writes-need-dba`,
		`tests/x.yaml:20:3: case "wrong reason": expected a reason that says "bored"`}
	if len(got) != len(want) {
		t.Fatalf("%q", got)
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("got %q, want %q", got[i], want[i])
		}
	}
	if args := string(p.cases[0].req.Args); args != `{"sql":"SELECT 1","n":1.50,"deep":[{"a":null,"b":true}]}` {
		t.Errorf("args = %s", args)
	}
}

// many is a policy of n rules over 50 tools, conditions all different.
func many(n int) map[string]string {
	files := base()
	delete(files, "rules/customers.yaml")
	for f := 0; f*1000 < n; f++ {
		var b strings.Builder
		for i := f * 1000; i < min(n, f*1000+1000); i++ {
			fmt.Fprintf(&b, "- id: rule-%d\n  server: customers\n  tool: tool-%d\n  when: '\"group-%d\" in subject.groups && has(args.name) && args.name.startsWith(\"x%d\")'\n  effect: allow\n", i, i%(n/4), i, i)
		}
		files[fmt.Sprintf("rules/r%d.yaml", f)] = b.String()
	}
	return files
}

func TestManyRules(t *testing.T) {
	p := load(t, many(1000))
	r := call("tool-7", `{"name":"x7"}`)
	r.Subject.Groups = []string{"group-7"}
	if d := p.Decide(r); d.Effect != Allow || len(d.Trace) != 4 {
		t.Errorf("%+v", d)
	}
}

func BenchmarkDecide(b *testing.B) {
	p := load(b, many(1000))
	r := call("tool-7", `{"name":"x7","other":"some text of a usual length"}`)
	r.Subject.Groups = []string{"group-7"}
	b.ReportAllocs()
	for b.Loop() {
		if p.Decide(r).Effect != Allow {
			b.Fatal("not allowed")
		}
	}
}

func BenchmarkVisible(b *testing.B) {
	p := load(b, many(1000))
	r := call("tool-7", "")
	r.Subject.Groups = []string{"group-7"}
	for b.Loop() {
		p.Visible(r)
	}
}

func BenchmarkLoad(b *testing.B) {
	files := many(10_000)
	for b.Loop() {
		load(b, files)
	}
}
