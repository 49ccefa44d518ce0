package rules

import (
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

const commit = "3f9c2e1d00000000000000000000000000000000"

// base is a policy that the tests vary: a file given as "" is left out.
func base() map[string]string {
	return map[string]string{
		"countersign.yaml": "version: 1\napprovals: { hold: 30s, expires: 10m }\nlimits: { request: 1MB, response: 2MB, headers: 16KB, depth: 32, memory: 64MB }\nquotas: [{ id: a-person, per: [subject], minute: 120, day: 5000, concurrent: 8 }]\n",
		"servers/customers.yaml": `server: customers
url: http://127.0.0.1:9000/mcp
timeout: 20s
credential: customers-ro
credentials:
  customers-ro: { vault: database/creds/customers-ro, scope: holder, ttl: 60s, inject: { headers: { Authorization: "{{basic username password}}" } } }
  customers-rw: { vault: database/creds/customers-rw, scope: call, ttl: 60s, inject: { headers: { X-Url: "postgres://{{username|url}}:{{password|url}}@db" } } }
`,
		"servers/files.yaml": "server: files\ncommand: [node, server.js]\nenv: { PATH: /usr/bin }\n",
		"approvers.yaml": `people:
  bob: { issuer: "https://id.example", sub: bob, email: bob@example.com, slack: { team: T01, user: U01 } }
  dana: { issuer: "https://id.example", sub: dana, slack: { team: T01, user: U02 } }
sets:
  dba: { members: [bob, dana], channel: C01, approve_via: slack }
  security: { members: [dana], channel: C02 }
`,
		"masks/keys.yaml": "disable: [e-mail]\nkeys: [api_key, token]\n",
		"rules/customers.yaml": `- id: support-reads
  server: customers
  tool: query
  when: '"support" in subject.groups'
  effect: allow
- id: writes-need-dba
  server: customers
  tool: query
  when: has(args.sql) && args.sql.startsWith("UPDATE")
  effect: approve
  reason: Writing needs a DBA
  approval: { approvers: dba, expires: 5m }
  credential: customers-rw
- id: no-secrets
  server: customers
  tool: [query, "export*"]
  when: has(args.sql) && args.sql.contains("secret")
  effect: deny
  reason: These tables hold secrets
`,
	}
}

func load(t testing.TB, files map[string]string, change ...string) *Policy {
	t.Helper()
	p, err := try(files, change...)
	if err != nil {
		t.Fatalf("Load:\n%v", err)
	}
	return p
}

func try(files map[string]string, change ...string) (*Policy, error) {
	for i := 0; i+1 < len(change); i += 2 {
		files[change[i]] = change[i+1]
	}
	fsys := fstest.MapFS{}
	for name, text := range files {
		if text != "" {
			fsys[name] = &fstest.MapFile{Data: []byte(text), Mode: 0o644}
		}
	}
	return Load(fsys, commit)
}

func alice() Subject {
	return Subject{Issuer: "https://id.example", Sub: "alice", Email: "alice@example.com", Groups: []string{"support"}}
}

// call is alice's tools/call on the server customers.
func call(tool, args string) Request {
	r := Request{Subject: alice(), Client: "desk", Server: "customers", Method: "tools/call", Tool: tool, Now: caseTime}
	if args != "" {
		r.Args = []byte(args)
	}
	return r
}

func TestLoad(t *testing.T) {
	p := load(t, base())
	if got, want := p.Settings(), (Settings{1, 30 * time.Second, 10 * time.Minute, time.Hour, "", "", 1 << 20, 2 << 20, 16 << 10, 32, 64 << 20, 256,
		Record{Bodies: RecordDigest, Previews: true}}); !reflect.DeepEqual(got, want) {
		t.Errorf("Settings = %+v, want %+v", got, want)
	}
	s, ok := p.Server("customers")
	if !ok || s.URL != "http://127.0.0.1:9000/mcp" || s.Timeout != 20*time.Second || s.Credential != "customers-ro" {
		t.Errorf("Server = %+v, %v", s, ok)
	}
	if c := s.Credentials["customers-rw"]; !c.PerCall || c.TTL != time.Minute || c.Vault != "database/creds/customers-rw" {
		t.Errorf("credential = %+v", c)
	}
	if len(p.Servers()) != 2 || p.Servers()[1].Command[0] != "node" {
		t.Errorf("Servers = %+v", p.Servers())
	}
	bob, ok := p.PersonBySlack("T01", "U01")
	if !ok || bob.Name != "bob" {
		t.Errorf("PersonBySlack = %+v, %v", bob, ok)
	}
	if _, ok := p.PersonBySlack("T02", "U01"); ok {
		t.Error("a user of another workspace is a person")
	}
	if !p.MayApprove("dba", Subject{Issuer: "https://id.example", Sub: "bob"}) ||
		p.MayApprove("security", Subject{Issuer: "https://id.example", Sub: "bob"}) ||
		p.MayApprove("dba", Subject{Issuer: "https://evil.example", Sub: "bob"}) ||
		p.MayApprove("", Subject{}) {
		t.Error("MayApprove is wrong")
	}
	if m := p.Masks(); strings.Join(m.Keys, " ") != "api_key token" || strings.Join(m.Disable, " ") != "e-mail" {
		t.Errorf("Masks = %+v", m)
	}
	if p.Commit() != commit || p.UsesSQL() {
		t.Errorf("Commit = %s, UsesSQL = %v", p.Commit(), p.UsesSQL())
	}
}

func TestDecide(t *testing.T) {
	p := load(t, base())
	d := p.Decide(call("query", `{"sql":"SELECT 1"}`))
	if d.Effect != Allow || d.Credential != "customers-ro" || len(d.Trace) != 3 || strings.Join(d.RuleIDs(), " ") != "support-reads" {
		t.Errorf("read: %+v", d)
	}
	d = p.Decide(call("query", `{"sql":"\u0055PDATE t"}`))
	if d.Effect != Approve || d.Credential != "customers-rw" || d.Expires != 5*time.Minute || len(d.Asks) != 1 || d.Asks[0].Approvers != "dba" || !strings.HasPrefix(d.RulesDigest, "sha256:") {
		t.Errorf("write: %+v", d)
	}
	d = p.Decide(call("query", `{"sql":"UPDATE \u0073ecret"}`))
	if d.Effect != Deny || d.Reason != "These tables hold secrets" || d.Asks != nil || d.Credential != "" {
		t.Errorf("secret: %+v", d)
	}
}
