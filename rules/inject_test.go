package rules

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

const injecting = "credentials:\n  c:\n    vault: a/b\n    ttl: 1m\n    inject:\n"

func TestInject(t *testing.T) {
	p := load(t, base(), "servers/far.yaml", "server: far\nurl: https://crm.internal/mcp?tenant=1\n"+injecting+
		"      headers: { X-A: \"{{a}}\" }\n      query: { key: \"{{key}}\" }\n      client_cert: { cert: \"{{certificate}}\", key: \"{{private_key}}\" }\n"+
		"      args: { token: \"{{token}}\", connection: { prod: \"postgres://{{u|url}}@prod\", \"read only\": \"postgres://{{u|url}}@replica\" } }\n",
		"servers/near.yaml", "server: near\ncommand: [x]\n"+injecting+
			"      env: { A: \"{{a}}\" }\n      files:\n        PGPASSFILE: |\n          db:*:*:{{username}}:{{password}}\n")
	far, _ := p.Server("far")
	want := Inject{
		Headers: map[string]string{"X-A": "{{a}}"}, Query: map[string]string{"key": "{{key}}"}, Cert: ClientCert{"{{certificate}}", "{{private_key}}"},
		Args: map[string]Arg{
			"token":      {Value: "{{token}}"},
			"connection": {Words: map[string]string{"prod": "postgres://{{u|url}}@prod", "read only": "postgres://{{u|url}}@replica"}},
		},
	}
	if got := far.Credentials["c"].Inject; !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	near, _ := p.Server("near")
	want = Inject{Env: map[string]string{"A": "{{a}}"}, Files: map[string]string{"PGPASSFILE": "db:*:*:{{username}}:{{password}}\n"}}
	if got := near.Credentials["c"].Inject; !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestInjectProblems(t *testing.T) {
	far, near := "server: s\nurl: https://x/mcp?tenant=1\n"+injecting, "server: s\ncommand: [x]\n"+injecting
	plain := strings.Replace(far, "https:", "http:", 1)
	for name, c := range map[string]struct{ text, want string }{
		"query of a command":       {near + "      query: { a: \"{{x}}\" }\n", "servers/s.yaml:8:14: a server started by command has no query"},
		"certificate of a command": {near + "      client_cert: { cert: \"{{x}}\", key: \"{{y}}\" }\n", "servers/s.yaml:8:20: a server started by command has no client_cert"},
		"file of a url":            {far + "      files: { A: \"{{x}}\" }\n", "servers/s.yaml:8:14: a server behind a url has no files"},
		"parameter of the url":     {far + "      query: { tenant: \"{{x}}\" }\n", `servers/s.yaml:8:16: the server's url has a query parameter "tenant" already`},
		"parameter without a name": {far + "      query: { \"\": \"{{x}}\" }\n", "servers/s.yaml:8:16: a query parameter needs a name"},
		"parameter's template":     {far + "      query: { a: \"{{x\" }\n", "servers/s.yaml:8:19: a: {{ without }}"},
		"a header twice":           {far + "      headers: { X-Key: \"{{x}}\", x-key: \"{{y}}\" }\n", "servers/s.yaml:8:34: header x-key is there as X-Key, too"},
		"a header of two lines":    {far + "      headers: { X-Key: \"{{x}}\\nB: c\" }\n", "servers/s.yaml:8:25: X-Key: a header is one line of text"},
		"an argument twice":        {far + "      args: { dsn: \"{{x}}\", DSN: \"{{y}}\" }\n", "servers/s.yaml:8:29: argument DSN is there as dsn, too"},
		"no TLS":                   {plain + "      client_cert: { cert: \"{{x}}\", key: \"{{y}}\" }\n", "servers/s.yaml:8:20: client_cert is for an https url"},
		"no key":                   {far + "      client_cert: { cert: \"{{x}}\" }\n", "servers/s.yaml:8:20: client_cert needs cert and key"},
		"unknown part":             {far + "      client_cert: { cert: \"{{x}}\", key: \"{{y}}\", ca: z }\n", `unknown field "ca"`},
		"certificate's template":   {far + "      client_cert: { cert: \"{{x}}\", key: \"{{y|hex}}\" }\n", "client_cert.key: {{y|hex}} is not known"},
		"file's name":              {near + "      files: { \"../A\": \"{{x}}\" }\n", "not the name of an environment variable"},
		"file and env":             {near + "      env: { A: \"{{x}}\" }\n      files: { A: \"{{x}}\" }\n", "servers/s.yaml:9:16: A is under env, too"},
		"file with NUL":            {near + "      files: { A: \"{{x}}\\0\" }\n", "cannot hold NUL"},
		"fixed file":               {near + "      files: { A: fixed }\n", "names no field"},
		"no words":                 {far + "      args: { a: {} }\n", "servers/s.yaml:8:18: args.a names no word"},
		"word's template":          {far + "      args: { a: { prod: \"{{x|hex}}\" } }\n", "servers/s.yaml:8:26: a.prod: {{x|hex}} is not known"},
		"a list of words":          {far + "      args: { a: [prod] }\n", "args.a must be"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := try(base(), "servers/s.yaml", c.text)
			var problems Problems
			if !errors.As(err, &problems) || len(problems) != 1 || !strings.Contains(err.Error(), c.want) {
				t.Errorf("problems:\n%v\nwant one, which says %q", err, c.want)
			}
		})
	}
}

// An approval of "prod" is of what "prod" was when it was given.
func TestApprovalsKnowWhatAWordBecomes(t *testing.T) {
	digest := func(args, credential string) string {
		t.Helper()
		p := load(t, base(), "servers/far.yaml", "server: far\nurl: https://x/mcp\n"+injecting+"      args: { "+args+" }\n"+
			"  other: { vault: a/b, ttl: 1m, inject: { args: { connection: \"{{u}}\" } } }\n",
			"rules/far.yaml", "- { id: far, server: far, tool: query, effect: approve, reason: r, approval: { approvers: dba }"+credential+" }\n")
		d := p.Decide(Request{Server: "far", Method: "tools/call", Tool: "query", Subject: Subject{Issuer: "https://id", Sub: "x"}})
		if d.Effect != Approve || p.AsksDigest("far", alice(), "desk", d.Asks) != d.RulesDigest {
			t.Fatalf("%+v", d)
		}
		return d.RulesDigest
	}
	const with = ", credential: c"
	same := digest(`connection: { prod: "db://a/{{u}}" }`, with)
	if digest(`connection: { prod: "db://b/{{u}}" }`, with) == same || digest(`connection: { prod: "db://a/{{u}}", test: "db://t/{{u}}" }`, with) == same ||
		digest(`connection: "db://a/{{u}}"`, with) == same {
		t.Error("another meaning, the same digest")
	}
	if digest(`connection: { prod: "db://a/{{u}}" }`, "") != digest(`connection: { prod: "db://b/{{u}}" }`, "") {
		t.Error("a credential that the rule does not use counts")
	}
}
