package rules

import (
	"errors"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"
)

// Each line changes one file of the base policy, and names what Load must say.
func TestLoadProblems(t *testing.T) {
	rule := func(body string) string { return "- id: x\n  server: customers\n" + body }
	set := func(body string) string { return base()["approvers.yaml"] + body }
	server := func(body string) string { return "server: s\nurl: http://127.0.0.1/mcp\n" + body }
	cred := func(body string) string {
		return server("credentials:\n  c: { vault: database/creds/c, ttl: 60s, inject: { headers: { A: \"{{x}}\" } }" + body + " }\n")
	}
	for _, c := range []struct{ name, file, text, want string }{
		{"no settings", "countersign.yaml", "", "countersign.yaml: is missing"},
		{"version", "countersign.yaml", "version: 2\n", "countersign.yaml:1:10: version 2 is not known"},
		{"version type", "countersign.yaml", "version: \"1\"\n", "countersign.yaml:1:10: version must be a whole number, not a text"},
		{"unknown setting", "countersign.yaml", "version: 1\nverison: 1\n", `countersign.yaml:2:1: unknown field "verison"`},
		{"hold", "countersign.yaml", "version: 1\napprovals: { hold: 45 }\n", "countersign.yaml:2:20: approvals.hold must be a text"},
		{"expires", "countersign.yaml", "version: 1\napprovals: { expires: 720h }\n", "it must lie between"},
		{"size", "countersign.yaml", "version: 1\nlimits: { request: 9999GB }\n", "countersign.yaml:2:20: limits.request must be a size"},
		{"unknown limit", "countersign.yaml", "version: 1\nlimits: { bytes: 1 }\n", `unknown field "bytes" in limits (known: request, response, headers, depth, memory, processes)`},
		{"depth", "countersign.yaml", "version: 1\nlimits: { depth: 1000 }\n", "countersign.yaml:2:18: limits.depth must lie between 8 and 500"},
		{"depth type", "countersign.yaml", "version: 1\nlimits: { depth: deep }\n", "limits.depth must be a whole number"},
		{"headers", "countersign.yaml", "version: 1\nlimits: { headers: 1KB }\n", "countersign.yaml:2:20: limits.headers is less than 4KB"},
		{"headers beyond the server's", "countersign.yaml", "version: 1\nlimits: { headers: 1MB }\n", "limits.headers must be a size"},
		{"memory", "countersign.yaml", "version: 1\nlimits: { memory: 1MB }\n", "countersign.yaml:2:19: limits.memory is less than 16 MB"},
		{"memory for one", "countersign.yaml", "version: 1\nlimits: { memory: 64MB, response: 17MB }\n", "countersign.yaml:2:35: limits.response is 17 MB: limits.memory must be at least four times that, and is 64 MB"},
		{"memory for the default", "countersign.yaml", "version: 1\nlimits: { memory: 16MB }\n", "countersign.yaml:2:9: limits.response is 8 MB"},

		{"quotas", "countersign.yaml", "version: 1\nquotas: { id: a }\n", "countersign.yaml:2:9: quotas must be a list"},
		{"quota field", "countersign.yaml", "version: 1\nquotas: [{ id: a, hour: 1 }]\n", `countersign.yaml:2:19: unknown field "hour" in a quota`},
		{"quota id", "countersign.yaml", "version: 1\nquotas: [{ id: A b, day: 1 }]\n", `countersign.yaml:2:16: id "A b" is not a name`},
		{"quota without id", "countersign.yaml", "version: 1\nquotas: [{ day: 1 }]\n", "countersign.yaml:2:10: id is missing"},
		{"quota twice", "countersign.yaml", "version: 1\nquotas:\n- { id: a, day: 1 }\n- { id: a, day: 2 }\n", `countersign.yaml:4:3: duplicate id "a" among the quotas (first on line 3)`},
		{"quota of nothing", "countersign.yaml", "version: 1\nquotas: [{ id: a, per: [subject] }]\n", "a quota bounds something: minute, day or concurrent"},
		{"quota per", "countersign.yaml", "version: 1\nquotas: [{ id: a, day: 1, per: [user] }]\n", `countersign.yaml:2:32: per "user" is not known: subject, client, server or tool`},
		{"quota per twice", "countersign.yaml", "version: 1\nquotas: [{ id: a, day: 1, per: [tool, tool] }]\n", `per lists "tool" twice`},
		{"quota server", "countersign.yaml", "version: 1\nquotas: [{ id: a, day: 1, server: costumers }]\n", `countersign.yaml:2:35: server "costumers" is not in servers/`},
		{"quota method", "countersign.yaml", "version: 1\nquotas: [{ id: a, day: 1, method: tools/cal }]\n", "did you mean tools/call?"},
		{"quota tool", "countersign.yaml", "version: 1\nquotas: [{ id: a, day: 1, tool: \"*x\" }]\n", "* may only stand alone or at the end"},
		{"quota of none", "countersign.yaml", "version: 1\nquotas: [{ id: a, minute: 0 }]\n", "countersign.yaml:2:27: minute must lie between 1 and 1000000000; to forbid calls, write a deny rule"},
		{"quota number", "countersign.yaml", "version: 1\nquotas: [{ id: a, minute: many }]\n", "minute must be a whole number"},
		{"many quotas", "countersign.yaml", "version: 1\nquotas: [" + strings.Repeat("{}, ", 33) + "]\n", "33 quotas: a policy has at most 32"},
		{"freezers", "countersign.yaml", "version: 1\nfreeze: { sets: [dba, oncall] }\n", `countersign.yaml:2:23: approver set "oncall" is not in approvers.yaml`},
		{"freezing person", "countersign.yaml", "version: 1\nfreeze: { people: eve }\n", `countersign.yaml:2:19: "eve" is not among the people`},
		{"freezers type", "countersign.yaml", "version: 1\nfreeze: [dba]\n", "countersign.yaml:2:9: freeze must be a mapping"},
		{"freezers unknown", "countersign.yaml", "version: 1\nfreeze: { set: dba }\n", `unknown field "set" in freeze`},
		{"no freezers", "countersign.yaml", "version: 1\nfreeze: {}\n", "freeze names nobody"},
		{"no freezers listed", "countersign.yaml", "version: 1\nfreeze: { sets: [] }\n", "freeze.sets is an empty list"},
		{"negative size", "countersign.yaml", "version: 1\nlimits: { request: -1MB }\n", "must be a size"},

		{"syntax", "rules/x.yaml", "- id: [\n", "rules/x.yaml:1:1: not valid YAML"},
		{"tab", "rules/x.yaml", "- id: x\n\tserver: y\n", "rules/x.yaml:2:1: not valid YAML"},
		{"not a list", "rules/x.yaml", "id: x\n", "rules/x.yaml:1:1: a rules file must be a list, not a mapping"},
		{"two documents", "rules/x.yaml", "[]\n---\n[]\n", "one YAML document"},
		{"empty", "rules/x.yaml", "# nothing\n", "rules/x.yaml: is empty"},
		{"anchor", "rules/x.yaml", "- &a { id: x }\n", "aliases and anchors"},
		{"alias", "rules/x.yaml", "- { id: &a x, server: *a }\n", "aliases and anchors"},
		{"merge", "rules/x.yaml", "- { <<: { id: x } }\n", "merge keys"},
		{"tag", "rules/x.yaml", "- { id: !!str x }\n", "tags and merge keys"},
		{"duplicate key", "rules/x.yaml", "- id: x\n  id: y\n", `rules/x.yaml:2:3: duplicate key "id" (first on line 1)`},
		{"bomb", "rules/x.yaml", "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n", "aliases and anchors"},
		{"invalid UTF-8", "rules/x.yaml", "- id: \xff\n", "rules/x.yaml"},
		{"wrong folder", "rule/x.yaml", "[]\n", "rule/x.yaml: no such file in a policy"},
		{"nested folder", "rules/deep/x.yaml", "[]\n", "no such file in a policy"},
		{"yml", "rules/x.yml", "[]\n", "must be called .yaml"},
		{"huge", "rules/x.yaml", strings.Repeat("#", maxFileBytes+1), "larger than 1 MB"},

		{"unknown field", "rules/x.yaml", rule("  effct: allow\n"), `rules/x.yaml:3:3: unknown field "effct" in a rule`},
		{"no effect", "rules/x.yaml", rule(""), "rules/x.yaml:1:3: effect is missing"},
		{"effect", "rules/x.yaml", rule("  effect: permit\n"), `rules/x.yaml:3:11: effect "permit" is not known`},
		{"duplicate id", "rules/x.yaml", "- { id: no-secrets, server: customers, effect: allow }\n", `rules/x.yaml:1:9: duplicate id "no-secrets" (first in rules/customers.yaml:14)`},
		{"id", "rules/x.yaml", "- { id: X y, server: customers, effect: allow }\n", `id "X y" is not a name`},
		{"no id", "rules/x.yaml", "- { server: customers, effect: allow }\n", "id is missing"},
		{"no server", "rules/x.yaml", "- { id: x, effect: allow }\n", "server is missing"},
		{"server", "rules/x.yaml", "- { id: x, server: costumers, effect: allow }\n", `rules/x.yaml:1:20: server "costumers" is not in servers/`},
		{"server glob", "rules/x.yaml", "- { id: x, server: \"cust*\", effect: allow }\n", `server "cust*" is not in servers/`},
		{"method", "rules/x.yaml", rule("  method: tool/call\n  effect: allow\n"), `rules/x.yaml:3:11: method "tool/call" is not known: did you mean tools/call?`},
		{"method case", "rules/x.yaml", rule("  method: Tools/Call\n  effect: allow\n"), `did you mean tools/call?`},
		{"method family", "rules/x.yaml", rule("  method: tools/everything\n  effect: allow\n"), `no such method under tools/`},
		{"tool glob", "rules/x.yaml", rule("  tool: \"*query\"\n  effect: allow\n"), "* may only stand alone or at the end"},
		{"tool twice", "rules/x.yaml", rule("  tool: [a, a]\n  effect: allow\n"), `tool lists "a" twice`},
		{"tool type", "rules/x.yaml", rule("  tool: 1\n  effect: allow\n"), "tool must be a text, not a number"},
		{"no tools", "rules/x.yaml", rule("  tool: []\n  effect: allow\n"), "tool is an empty list"},
		{"no reason", "rules/x.yaml", rule("  effect: deny\n"), "needs a reason"},
		{"no approval", "rules/x.yaml", rule("  effect: approve\n  reason: x\n"), "effect: approve needs approval"},
		{"approval of allow", "rules/x.yaml", rule("  effect: allow\n  approval: { approvers: dba }\n"), "approval belongs to effect: approve"},
		{"approvers", "rules/x.yaml", rule("  effect: approve\n  reason: x\n  approval: { approvers: dbas }\n"), `rules/x.yaml:5:26: approver set "dbas" is not in approvers.yaml`},
		{"no approvers", "rules/x.yaml", rule("  effect: approve\n  reason: x\n  approval: { quorum: 1 }\n"), "approval needs approvers"},
		{"quorum", "rules/x.yaml", rule("  effect: approve\n  reason: x\n  approval: { approvers: dba, quorum: 3 }\n"), "a quorum of 3 can never be reached: approver set dba has 2"},
		{"quorum 0", "rules/x.yaml", rule("  effect: approve\n  reason: x\n  approval: { approvers: dba, quorum: 0 }\n"), "quorum must be at least 1"},
		{"grant", "rules/x.yaml", rule("  effect: approve\n  reason: x\n  approval: { approvers: dba, grant: twice }\n"), `grant "twice" is not known`},
		{"approve baseline", "rules/x.yaml", rule("  method: tools/list\n  effect: approve\n  reason: x\n  approval: { approvers: dba }\n"), "belongs to the protocol's baseline"},
		{"credential", "rules/x.yaml", rule("  effect: allow\n  credential: customers-rx\n"), `rules/x.yaml:4:15: server customers has no credential "customers-rx"`},
		{"credential anywhere", "rules/x.yaml", "- { id: x, server: \"*\", effect: allow, credential: nope }\n", `no server has a credential "nope"`},
		{"credential of deny", "rules/x.yaml", rule("  effect: deny\n  reason: x\n  credential: customers-ro\n"), "credential has no use here"},

		{"condition syntax", "rules/x.yaml", rule("  when: 1 ==\n  effect: allow\n"), "rules/x.yaml:3:"},
		{"condition name", "rules/x.yaml", rule("  when: subject.emial == 'x'\n  effect: allow\n"), "rules/x.yaml:3:16: when: undeclared reference to 'subject.emial' (did you mean 'subject.email'?)"},
		{"condition type", "rules/x.yaml", rule("  when: subject.email\n  effect: allow\n"), "must be true or false, and this is string"},
		{"condition types", "rules/x.yaml", rule("  when: client == 1\n  effect: allow\n"), "found no matching overload"},
		{"sql field", "rules/x.yaml", rule("  when: has(args.sql) && sql(args.sql).statments.size() > 1\n  effect: allow\n"), "rules/x.yaml:3:39: when: undefined field 'statments'"},
		{"statement field", "rules/x.yaml", rule("  when: has(args.sql) && sql(args.sql).statements.exists(s, s.knd == 'x')\n  effect: allow\n"), "undefined field 'knd'"},
		{"sql made up", "rules/x.yaml", rule("  when: 'sql.Facts{parsed: true}.parsed'\n  effect: allow\n"), "cannot be made up"},
		{"literal block", "rules/x.yaml", rule("  when: |\n    client == 'x' &&\n      args.sql == 'y'\n  effect: allow\n"), "rules/x.yaml:5:11: when: reads args.sql"},
		{"quoted", "rules/x.yaml", rule("  when: \"args.sql == 'y'\"\n  effect: allow\n"), "rules/x.yaml:3:14: when: reads args.sql, which may be absent: say has(args.sql)"},
		{"regex", "rules/x.yaml", rule("  when: client.matches('(')\n  effect: allow\n"), "invalid matches argument"},
		{"empty condition", "rules/x.yaml", rule("  when: ''\n  effect: allow\n"), "when is empty"},
		{"condition type bool", "rules/x.yaml", rule("  when: true\n  effect: allow\n"), "when must be a text, not a boolean"},

		{"server name", "servers/s.yaml", "server: t\nurl: http://x/\n", `servers/s.yaml:1:9: server is "t", but the file is called s.yaml`},
		{"server file name", "servers/S.yaml", "server: S\nurl: http://x/\n", `server "S" is not a name`},
		{"both", "servers/s.yaml", server("command: [x]\n"), "either url or command"},
		{"neither", "servers/s.yaml", "server: s\n", "needs url or command"},
		{"scheme", "servers/s.yaml", "server: s\nurl: file:///etc/passwd\n", "servers/s.yaml:2:6: url must be an http or https URL"},
		{"password", "servers/s.yaml", "server: s\nurl: http://u:hunter2@x/\n", "must not hold a user or a password"},
		{"env of url", "servers/s.yaml", server("env: { A: b }\n"), "env is for servers started by command"},
		{"env name", "servers/s.yaml", "server: s\ncommand: [x]\nenv: { A=B: c }\n", "not the name of an environment variable"},
		{"command", "servers/s.yaml", "server: s\ncommand: node x\n", "command must be a list"},
		{"timeout", "servers/s.yaml", server("timeout: 1ms\n"), "it must lie between"},
		{"default credential", "servers/s.yaml", server("credential: c\n"), `credential "c" is not among`},
		{"vault path", "servers/s.yaml", server("credentials:\n  c: { vault: ../sys/seal, ttl: 1m, inject: { headers: { A: \"{{x}}\" } } }\n"), "vault must be a path"},
		{"scope", "servers/s.yaml", cred(", scope: ever"), `scope "ever" is not known`},
		{"no ttl", "servers/s.yaml", server("credentials:\n  c: { vault: a/b, inject: { headers: { A: \"{{x}}\" } } }\n"), "needs ttl"},
		{"no inject", "servers/s.yaml", server("credentials:\n  c: { vault: a/b, ttl: 1m }\n"), "needs inject"},
		{"no field", "servers/s.yaml", server("credentials:\n  c: { vault: a/b, ttl: 1m, inject: { headers: { A: fixed } } }\n"), "names no field"},
		{"template", "servers/s.yaml", server("credentials:\n  c: { vault: a/b, ttl: 1m, inject: { headers: { A: \"{{x|hex}}\" } } }\n"), "servers/s.yaml:4:53: A: {{x|hex}} is not known"},
		{"transport header", "servers/s.yaml", server("credentials:\n  c: { vault: a/b, ttl: 1m, inject: { headers: { Mcp-Session-Id: \"{{x}}\" } } }\n"), "belongs to the transport"},
		{"bad header", "servers/s.yaml", server("credentials:\n  c: { vault: a/b, ttl: 1m, inject: { headers: { \"A B\": \"{{x}}\" } } }\n"), "not the name of a header"},
		{"env into url", "servers/s.yaml", server("credentials:\n  c: { vault: a/b, ttl: 1m, inject: { env: { A: \"{{x}}\" } } }\n"), "has no environment"},
		{"headers into command", "servers/s.yaml", "server: s\ncommand: [x]\ncredentials:\n  c: { vault: a/b, ttl: 1m, inject: { headers: { A: \"{{x}}\" } } }\n", "has no headers"},

		{"the old via", "approvers.yaml", set("  o: { members: [bob], channel: C03, via: oidc }\n"), `unknown field "via"`},
		{"via", "approvers.yaml", set("  o: { members: [bob], channel: C03, approve_via: mail }\n"), `via "mail" is not known`},
		{"member", "approvers.yaml", set("  o: { members: [eve], channel: C03 }\n"), `"eve" is not among people`},
		{"member twice", "approvers.yaml", set("  o: { members: [bob, bob], channel: C03 }\n"), "one person has one vote"},
		{"no members", "approvers.yaml", set("  o: { members: [], channel: C03 }\n"), "has no members"},
		{"no channel", "approvers.yaml", set("  o: { members: [bob] }\n"), "needs channel"},
		{"channel name", "approvers.yaml", set("  o: { members: [bob], channel: \"#dba\" }\n"), "channel must be the id"},
		{"no slack", "approvers.yaml", "people:\n  eve: { issuer: \"https://id\", sub: eve }\nsets:\n  dba: { members: [eve], channel: C01 }\n", "eve has no slack user"},
		{"same identity", "approvers.yaml", "people:\n  a: { issuer: \"https://id\", sub: x }\n  b: { issuer: \"https://id\", sub: x }\n", "one identity is one person"},
		{"same slack", "approvers.yaml", "people:\n  a: { issuer: \"https://id\", sub: x, slack: { team: T1, user: U1 } }\n  b: { issuer: \"https://id\", sub: y, slack: { team: T1, user: U1 } }\n", "one user is one person"},
		{"no sub", "approvers.yaml", "people:\n  a: { issuer: \"https://id\" }\n", "needs issuer and sub"},
		{"slack name", "approvers.yaml", "people:\n  a: { issuer: \"https://id\", sub: x, slack: { team: T1, user: bob } }\n", "the ids that Slack shows"},

		{"mask", "masks/x.yaml", "key: [a]\n", `unknown field "key"`},
		{"case", "tests/x.yaml", "- { name: a, subject: { sub: x }, server: nope, expect: { effect: deny } }\n", `tests/x.yaml:1:43: server "nope" is not in servers/`},
		{"case rule", "tests/x.yaml", "- { name: a, subject: { sub: x }, server: customers, expect: { effect: deny, rule: nope } }\n", `no rule has the id "nope"`},
		{"case effect", "tests/x.yaml", "- { name: a, subject: { sub: x }, server: customers, expect: { effect: no } }\n", "expect needs effect"},
		{"case time", "tests/x.yaml", "- { name: a, now: noon, subject: { sub: x }, server: customers, expect: { effect: deny } }\n", "now must be a time"},
		{"case args", "tests/x.yaml", "- { name: a, subject: { sub: x }, server: customers, args: [1], expect: { effect: deny } }\n", "args must be a mapping"},
		{"case number", "tests/x.yaml", "- { name: a, subject: { sub: x }, server: customers, args: { a: 0x10 }, expect: { effect: deny } }\n", "not a number in JSON"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := try(base(), c.file, c.text)
			if err == nil {
				t.Fatalf("Load succeeded, want %q", c.want)
			}
			var problems Problems
			if p != nil || !errors.As(err, &problems) {
				t.Fatalf("Load = %v, %T", p, err)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("problems:\n%v\nwant one that says %q", err, c.want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("a password of the policy is in the error:\n%v", err)
			}
		})
	}
}

func TestLoadTellsEverything(t *testing.T) {
	_, err := try(base(), "rules/a.yaml", "- { id: A, server: nope, effect: no }\n", "rules/b.yaml", "- { id: b, server: customers, when: x, effect: allow }\n", "masks/x.yaml", "x: 1\n")
	var problems Problems
	if !errors.As(err, &problems) || len(problems) < 5 {
		t.Fatalf("problems: %v", err)
	}
	for i := 1; i < len(problems); i++ {
		if problems[i-1].File > problems[i].File {
			t.Errorf("not in the order of files:\n%v", err)
		}
	}
}

func TestLoadRefusesIrregularFiles(t *testing.T) {
	fsys := fstest.MapFS{"countersign.yaml": {Data: []byte("version: 1\n")}, "rules/x.yaml": {Data: []byte("/etc/passwd"), Mode: fs.ModeSymlink}}
	if _, err := Load(fsys, commit); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("err = %v", err)
	}
}

func TestLoadIgnoresWhatIsNotPolicy(t *testing.T) {
	load(t, base(), "README.md", "x", ".github/workflows/x.yaml", "on: push")
}

func FuzzLoad(f *testing.F) {
	for name, text := range base() {
		f.Add(name, text)
	}
	f.Add("tests/x.yaml", "- { name: a, subject: { sub: x }, server: customers, args: { a: 1 }, expect: { effect: deny } }\n")
	f.Add("rules/x.yaml", "? [a]\n: b\n")
	f.Add("masks/x.yaml", "fields: [{ id: a, server: files, tool: \"x*\", keys: [\"*a\"], columns: [b], paths: [\"$..a['b'][0].*\"], action: partial }, { id: b, server: \"*\", keys: [c], action: keep, over: [a] }]\nallow: [{ hash: \""+strings.Repeat("0", 64)+"\", detector: key, path: \"a[*]\", reason: r, expires: 2027-01-01 }]\nstreams: [{ server: files, stream: buffered, hold: 1s, size: 1KB }]\n")
	f.Add("rules/y.yaml", "- { id: y, server: files, effect: allow, reason: r, when: 'size(secrets(args)) == 0', secrets_in_args: approve, approval: { approvers: dba } }\n")
	f.Add("tools.lock", string(locked().Encode()))
	f.Add("servers/x.yaml", "server: x\nurl: https://x/\nproxy: http://p:1\ntimeouts: { connect: 1s, idle: 1m }\ntls: { ca: [a.pem, \"-----BEGIN CERTIFICATE-----\\n-----END CERTIFICATE-----\\n\"], cert: b, key: c, name: d }\n")
	f.Add("servers/x.yaml", "server: x\ncommand: [x]\nprocesses: 1\nresources: { memory: 1GB, cpu: 1s, files: 8, processes: 1, filesize: 1 }\n")
	f.Add("servers/x.yaml", secretPolicy(`vault: "a/{{args.x}}", method: post, params: { p: "{{subject.email}}", l: [a], n: 1, b: true }, fields: [password], public: [a.b], base64: [password], lease: none, login: { as: caller, role: r, mount: m }`))
	f.Fuzz(func(t *testing.T, name, text string) {
		if !fs.ValidPath(name) || name == "." || strings.Contains(text, "sql(") { // the parser has a fuzz target of its own
			return
		}
		fsys := fstest.MapFS{}
		for n, s := range base() {
			if !strings.HasPrefix(n, name+"/") && !strings.HasPrefix(name, n+"/") {
				fsys[n] = &fstest.MapFile{Data: []byte(s)}
			}
		}
		fsys[name] = &fstest.MapFile{Data: []byte(text)}
		p, err := Load(fsys, commit)
		var problems Problems
		if (p == nil) != errors.As(err, &problems) || p == nil && len(problems) == 0 {
			t.Fatalf("Load = %v, %v", p, err)
		}
		if p == nil {
			return
		}
		p.Decide(call("query", `{"sql":"UPDATE"}`))
		p.Visible(call("query", ""))
		p.Cases()
	})
}
