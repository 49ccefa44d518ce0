package rules

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// met lists what a request meets: place:id, in order.
func met(t testing.TB, r Request) string {
	t.Helper()
	found, err := (&facts{req: &r}).exposures()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range found {
		out = append(out, f.at+":"+f.of.id)
	}
	return strings.Join(out, " ")
}

func TestRequestsThatExpose(t *testing.T) {
	for _, c := range []struct{ tool, args, want string }{
		{"query", `{"sql":"SELECT * FROM pg_shadow"}`, "args.sql:pg-shadow"},
		{"query", `{"sql":"SELECT * FROM \u0070g_shadow"}`, "args.sql:pg-shadow"},
		{"query", `{"sql":"SELEC"}`, "args.sql:sql-unreadable"},
		{"anything", `{"whatever":"select * from pg_authid"}`, "args.whatever:pg-shadow"},
		{"anything", `{"whatever":"-- hello\n/* x */ select * from pg_authid"}`, "args.whatever:pg-shadow"},
		{"anything", `{"list":[{"deep":["x","TABLE pg_shadow"]}]}`, "args.list[0].deep[1]:pg-shadow"},
		{"anything", `{"SELECT * FROM pg_shadow":1}`, "args:pg-shadow"},
		{"anything", "{\"q\":\"SELECT authentication_string FROM `mysql`.`user`\"}", "args.q:mysql-user"},
		{"anything", `{"json":"{\"sql\":\"TABLE pg_shadow\"}"}`, "args.json.sql:pg-shadow"},
		{"anything", `{"bad key <!channel>":"TABLE pg_shadow"}`, "args.…:pg-shadow"},
		{"pg_query", `{"query":"DO $$ BEGIN END $$"}`, "args.query:sql-dynamic"},

		{"run", `{"command":"env"}`, "args.command:environment"},
		{"run_terminal_cmd", `{"text":"env"}`, "args.text:environment"},
		{"bash", `{"input":"cat ~/.aws/credentials"}`, "args.input:cloud-credentials"},
		{"anything", `{"x":"cat ~/.aws/credentials"}`, "args.x:cloud-credentials"},
		{"anything", `{"x":"FOO=1 sudo cat /etc/shadow"}`, "args.x:system-passwords"},
		{"anything", `{"x":"env | base64"}`, "args.x:environment"},
		{"run", `{"command":"echo )"}`, "args.command:shell-unreadable"},
		{"run", `{"command":"eval $X"}`, "args.command:shell-dynamic"},
		{"run", `{"command":["cat","/etc/shadow"]}`, "args.command:system-passwords"},
		{"run", `{"command":["bash","-lc","env"]}`, "args.command:environment"},
		{"run", `{"command":"cat","args":["/etc/shadow"]}`, "args.args:system-passwords"},
		{"run", `{"commands":["ls","env"]}`, "args.commands[1]:environment"},
		{"kubectl", `{"command":"get secrets -A"}`, "args.command:kubernetes-secret"},
		{"kubectl", `{"args":["get","secret","x"],"cmd":"-n x"}`, "args.args:kubernetes-secret"},
		{"call_aws", `{"cli_command":"aws secretsmanager get-secret-value --secret-id x"}`, "args.cli_command:aws-secrets"},
		{"aws_cli", `{"command":"sts get-session-token"}`, "args.command:aws-secrets"},
		{"write_file", `{"path":"x.sh","content":"#!/bin/sh\ncat /etc/shadow"}`, "args.content:system-passwords"},
		{"run_python", `{"code":"import os\nprint(os.environ)"}`, "args.code:shell-dynamic"},

		{"read_file", `{"path":"/home/dana/.ssh/id_rsa"}`, "args.path:ssh-key"},
		{"read_file", `{"path":"C:\\Users\\dana\\.aws\\credentials"}`, "args.path:cloud-credentials"},
		{"read_file", `{"path":"/srv/data/../../proc/self/environ"}`, "args.path:environment-file"},
		{"read_multiple_files", `{"paths":["README.md",".env"]}`, "args.paths[1]:dotenv"},
		{"move_file", `{"source":"/root/.netrc","destination":"/srv/data/x"}`, "args.source:client-passwords"},
		{"read_file", `{"uri":"file:///etc/%73hadow"}`, "args.uri:system-passwords"},

		{"fetch", `{"url":"http://169.254.169.254/latest/meta-data/iam/security-credentials/"}`, "args.url:metadata-address"},
		{"fetch", `{"url":"http:/169.254.169.254/"}`, "args.url:metadata-address"},
		{"fetch", `{"url":"//169.254.169.254/"}`, "args.url:metadata-address"},
		{"fetch", `{"url":"http:\\\\169.254.169.254\\"}`, "args.url:metadata-address"},
		{"fetch", `{"url":"ht\ntp://169.254.\t169.254/"}`, "args.url:metadata-address"},
		{"fetch", `{"url":"jar:http://169.254.169.254!/"}`, "args.url:metadata-address"},
		{"fetch", `{"url":"https://r.example/http://169.254.169.254/"}`, "args.url:metadata-address"},
		{"fetch", `{"url":"https://r.example/?u=http%3A%2F%2F169.254.169.254%2F"}`, "args.url:metadata-address"},
		{"read_file", `{"path":".env\u0000.txt"}`, "args.path:dotenv"},
		{"read_file", `{"path":".env::$DATA"}`, "args.path:dotenv"},
		{"run_sql", `{"table":"pg_shadow"}`, "args.table:pg-shadow"},
		{"describe_table", `{"schema":"auth","table_name":"users"}`, "args.table_name:pg-vault-extension"},
		{"sample_rows", `{"relation":"pg_catalog.\"pg_authid\""}`, "args.relation:pg-shadow"},
		{"run", `{"command":"Y2F0IC9ldGMvc2hhZG93"}`, "args.command:system-passwords"},
		{"x", `{"payload":"Y2F0IC9ldGMvc2hhZG93"}`, "args.payload:system-passwords"},
		{"x", `{"j":"\"cat /etc/shadow\""}`, "args.j:system-passwords"},
		{"x", `{"j":"{\"a\":1}\n{\"sql\":\"TABLE pg_shadow\"}"}`, "args.j.sql:pg-shadow"},
		{"x", `{"a":"true; cat /etc/shadow"}`, "args.a:system-passwords"},
		{"x", `{"a":"(cat /etc/shadow)"}`, "args.a:system-passwords"},
		{"x", `{"a":"echo a; cat /etc/shadow"}`, "args.a:system-passwords"},
		{"x", `{"a":"$(cat /etc/shadow)"}`, "args.a:system-passwords"},
		{"fetch", `{"url":"https://vault.example.com/v1/secret/data/app"}`, "args.url:vault"},
		{"fetch", `{"url":"https://k8s.example.com:6443/api/v1/namespaces/prod/secrets/db"}`, "args.url:kubernetes-secret"},
		{"fetch", `{"url":"https://example.com/.git/config"}`, "args.url:git-credentials"},
		{"fetch", `{"url":"https://app.example.com/actuator/env"}`, "args.url:environment"},
		{"fetch", `{"url":"https://myvault.vault.azure.net/secrets/db?api-version=7.4"}`, "args.url:azure-secrets"},
		{"request", `{"method":"GET","path":"/api/v1/namespaces/x/secrets"}`, "args.path:kubernetes-secret"},
		{"api", `{"service":"secretsmanager","operation":"GetSecretValue"}`, "args.operation:aws-secrets"},
		{"api", `{"operation":"get_secret_value"}`, "args.operation:aws-secrets"},

		{"resources_get", `{"apiVersion":"v1","kind":"Secret","name":"db","namespace":"x"}`, "args.kind:kubernetes-secret"},
		{"kubectl_get", `{"resourceType":"secrets"}`, "args.resourceType:kubernetes-secret"},
		{"k8s_describe", `{"resource":"secret/db"}`, "args.resource:kubernetes-secret"},
		{"list_resources", `{"kind":"pods,secrets"}`, "args.kind:kubernetes-secret"},
		{"get_secret", `{"name":"x"}`, "tool:secret-tool"},
		{"vault_read", `{"p":"x"}`, "tool:secret-tool"},
		{"getSecretValue", `{}`, "tool:secret-tool"},
		{"get_parameter", `{"name":"x","withDecryption":true}`, "tool:secret-tool"},
	} {
		got := met(t, Request{Method: "tools/call", Server: "s", Tool: c.tool, Args: []byte(c.args)})
		for _, want := range strings.Fields(c.want) {
			if !strings.Contains(" "+got+" ", " "+want+" ") {
				t.Errorf("%s %s\n got %q\nwant %s", c.tool, c.args, got, want)
			}
		}
	}
	for uri, want := range map[string]string{
		"file:///home/dana/.kube/config": "resource:kubeconfig", "http://metadata.google.internal/computeMetadata/v1/": "resource:metadata-address", "file:///srv/readme.md": "",
	} {
		if got := met(t, Request{Method: "resources/read", Resource: uri}); got != want {
			t.Errorf("%s: %q, want %q", uri, got, want)
		}
	}
}

func TestOrdinaryRequestsExposeNothing(t *testing.T) {
	for _, c := range []struct{ tool, args string }{
		{"query", `{"sql":"SELECT name FROM customers LIMIT 3"}`},
		{"search", `{"query":"env vars in docker"}`},
		{"search", `{"query":"how does pg_shadow work"}`},
		{"search", `{"query":"select the best laptop"}`},
		{"search", `{"query":"show all open issues"}`},
		{"search", `{"query":"update of the release notes"}`},
		{"search", `{"q":"history of computing","limit":10}`},
		{"create_issue", `{"title":"Execute plan B","body":"Set up the env first. Don't commit .env files!\n\n1. cat the log\n2. print it"}`},
		{"create_issue", `{"title":"env","body":"history"}`},
		{"create_issue", `{"title":"show all","body":"execute plan"}`},
		{"create_issue", `{"body":"The file ~/.aws/credentials must be mode 600, and 169.254.169.254 must be blocked."}`},
		{"create_pull_request", `{"title":"rules: read secrets","head":"secrets","base":"main"}`},
		{"send_message", `{"channel":"#ops","text":"vault is down, kubectl get secret hangs"}`},
		{"write_file", `{"path":"/srv/app/.env","content":"PORT=80"}`},
		{"write_file", `{"path":"docs/setup.md","content":"# Setup\n\nRun ` + "`cat ~/.aws/credentials`" + ` to see the profile.\n"}`},
		{"write_file", `{"path":"main.go","content":"package main\n\nimport \"os\"\n\nfunc main() { println(os.Getenv(\"HOME\")) }\n"}`},
		{"write_file", `{"path":"x.sh","content":"#!/bin/sh\neval \"$(getopt -o a -- \"$@\")\"\n"}`},
		{"create_file", `{"path":"m.sql","content":"CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN 1; END $$"}`},
		{"list_directory", `{"path":"/home/dana/.ssh"}`},
		{"search_files", `{"path":"/srv","pattern":"id_rsa"}`},
		{"read_file", `{"path":"/srv/data/report.txt"}`},
		{"read_file", `{"path":"src/environment.ts"}`},
		{"read_file", `{"path":".env.example"}`},
		{"run_command", `{"command":"go test ./...","description":"run the tests","cwd":"/srv/app"}`},
		{"run_command", `{"command":"git status && git diff","timeout":30}`},
		{"run_command", `{"command":["go","build","./..."]}`},
		{"fetch", `{"url":"https://example.com/api/v1/items?page=2"}`},
		{"fetch", `{"url":"https://api.github.com/repos/example/app/pulls"}`},
		{"fetch", `{"url":"http://localhost:8080/healthz"}`},
		{"resources_get", `{"kind":"Pod","name":"web-0","namespace":"x"}`},
		{"resources_create", `{"kind":"Secret","name":"x"}`},
		{"list_issues", `{"type":"secret","state":"open"}`},
		{"set_variable", `{"name":"set","value":"export"}`},
		{"calculate", `{"expression":"1 + 1"}`},
		{"run_python", `{"code":"import math\nprint(math.sqrt(2))"}`},
		{"create_user", `{"name":"eve","email":"eve@example.com"}`},
		{"list_secrets", `{}`},
		{"translate", `{"text":"call me; begin when you want, commit to it, and explain","to":"de"}`},
		{"none", `{}`},
		{"create_pr", `{"body":"pass the salt; make the build faster"}`},
		{"create_pr", `{"body":"if true, then cat pictures (env)"}`},
		{"create_pr", `{"sha":"c3f9a1e2d4b5c6a7f8e9d0c1b2a3f4e5d6c7b8a9","name":"applicationsettings"}`},
		{"list_rows", `{"schema":"public","table":"users"}`},
		{"numbers", `{"a":1,"b":[2,3],"c":null,"d":true}`},
	} {
		if got := met(t, Request{Method: "tools/call", Server: "s", Tool: c.tool, Args: []byte(c.args)}); got != "" {
			t.Errorf("%s %s: %s", c.tool, c.args, got)
		}
	}
}

// Padding a request with texts does not hide one of them.
func TestExposuresAreNotPaddedAway(t *testing.T) {
	pad := func(text string, n int) []byte {
		list := []string{}
		for i := range n {
			list = append(list, fmt.Sprintf(text, i))
		}
		b, err := json.Marshal(map[string]any{"a": list})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for text, n := range map[string]int{"select %d from t": maxSQLTexts + 2, "cat %d": maxShellTexts + 2, "%d": maxExposureTexts + 1} {
		r := Request{Method: "tools/call", Tool: "x", Args: pad(text, n)}
		if got := met(t, r); !strings.Contains(got, idTooMuch) {
			t.Errorf("%d of %q: %q", n, text, got)
		}
		if text == "cat %d" {
			continue
		}
		r.Args = pad(text, n/2)
		if got := met(t, r); got != "" {
			t.Errorf("%d of %q: %q", n/2, text, got)
		}
	}
}

// However the texts of a request are made, what is looked at is bounded.
func TestExposuresTakeBoundedTime(t *testing.T) {
	big := func(unit string) string { return strings.Repeat(unit, 60_000/len(unit)) }
	texts := map[string]string{
		"globs": "cat " + big("*a?[b] "), "few globs": "cat " + strings.Repeat(strings.Repeat("*a", 120)+" ", 90), "words": "cat " + big("abc "), "paths": "cat " + big("a/b/c/d/.e "), "slashes": "cat " + strings.Repeat("/a", 25_000),
		"commands": big("env a;"), "addresses": "curl " + big("0x1.2.3.4/a "), "long address": "curl http://" + big("a."), "percent": "curl http://" + big("%25"), "folders": strings.Repeat("cd a*;", 300) + "cat " + big("*b "),
		"double": big("X=$X$X;") + "$X", "substitutions": big("a $(b);"), "select": "SELECT " + big("a,") + "a", "select from": big("SELECT from "), "comments": "SELECT " + big("/* "), "with": big("with select "), "dots": "select " + big(" . "), "blanks": "select" + big(" "), "verbs": big("(") + "select",
		"json": big("[") + big("]"), "quotes": "SELECT `" + big("``"), "brackets": "cat [" + big("[a-"), "names": "echo " + big("$SECRET"), "equal": big("A=b "), "python": "python3 -c '" + big("print(a)") + "'",
	}
	for name, text := range texts {
		key := "command"
		if sqlVerbs.MatchString(text) {
			key = "sql"
		}
		args, err := json.Marshal(map[string]any{key: text, "more": []string{text, text + " ", text + "  "}})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		got := met(t, Request{Method: "tools/call", Tool: "x", Args: args})
		if took := time.Since(start); took > time.Minute { // a second at most, on an idle machine
			t.Errorf("%s as %s took %v: %s", name, key, took, got)
		}
	}
}

func TestAddresses(t *testing.T) {
	for _, a := range []string{
		"http://169.254.169.254", "http://169.254.169.254/latest", "169.254.169.254/latest", "169.254.169.254:80", "http://169.254.169.254./x", "http://2852039166/", "http://0xa9fea9fe/", "http://0XA9FEA9FE/",
		"http://025177524776/", "http://0251.0376.0251.0376/", "http://0xa9.0xfe.0xa9.0xfe/", "http://169.254.43518/", "http://169.16689662/", "http://0251.254.0xa9.254/", "http://425.510.425.510/",
		"http://[::ffff:169.254.169.254]/", "http://[::ffff:a9fe:a9fe]/", "http://[0:0:0:0:0:ffff:a9fe:a9fe]:80/", "http://[64:ff9b::a9fe:a9fe]/", "http://[::169.254.169.254]/", "http://[2002:a9fe:a9fe::]/", "http://[fd00:ec2::254]/", "http://[fe80::a9fe:a9fe%25eth0]/", "http://[FD00:EC2:0:0:0:0:0:254]/",
		"http://user:pass@169.254.169.254/", "http://example.com@169.254.169.254/", "http://169.254.169.254#@example.com/", "http://169.254.169.254\\@example.com/", "http://%31%36%39.254.169.254/", "http://１６９.254.169.254/", "http://169。254。169。254/", "http://①⑥⑨.254.169.254/",
		"http://169.254.169.254.nip.io/", "http://x.169-254-169-254.sslip.io/", "http://metadata.google.internal/", "http://METADATA.google.internal./", "http://metadata/computeMetadata/v1/", "http://instance-data/latest", "http://100.100.100.200/", "http://169.254.170.2/v2/credentials", "gopher://169.254.169.254/", "http://168.63.129.16/",
	} {
		if got := ids(address(a)); got != "metadata-address" {
			t.Errorf("%s: %q", a, got)
		}
	}
	for _, a := range []string{
		"", "http://", "http://[", "metadata", "http://example.com/169.254.169.254", "http://169.254.1.1/", "http://10.0.0.1/", "8080", "0x10", "example.com:443", "http://metadata.example.com/", "1.2.3", "localhost/x", "http://[::1]/", "16925416925.4",
	} {
		if got := ids(address(a)); got != "" {
			t.Errorf("%s: %q", a, got)
		}
	}
}

const exposing = `
- { id: run, server: customers, tool: "*", effect: allow }
- id: no-credentials
  server: customers
  tool: run
  when: exposes_credentials(request)
  effect: deny
  reason: This would show credentials
- id: secrets-need-dba
  server: customers
  tool: ask
  when: exposures(request).exists(e, e.id == "pg-shadow" || e.kind == "kubernetes")
  effect: approve
  reason: Somebody should look at that
  approval: { approvers: dba }
- id: texts
  server: customers
  tool: texts
  when: has(args.sql) && exposes_credentials(sql(args.sql)) || has(args.cmd) && exposes_credentials(shell(args.cmd)) || has(args.any) && exposes_credentials(args.any) || has(args.all) && exposes_credentials(args)
  effect: deny
  reason: A text of it would show credentials
- id: only-clean
  server: customers
  method: prompts/get
  tool: clean
  when: "!exposes_credentials(request)"
  effect: allow
`

func TestExposureConditions(t *testing.T) {
	p := load(t, base(), "rules/exposing.yaml", exposing)
	if !p.UsesSQL() {
		t.Error("UsesSQL = false")
	}
	for _, c := range []struct {
		tool, args string
		want       Effect
		reason     string
	}{
		{"run", `{"command":"env"}`, Deny, "This would show credentials: it shows the whole environment, which holds credentials (environment, in args.command)"},
		{"run", `{"command":"ls"}`, Allow, ""},
		{"run", `{"a":"TABLE pg_shadow","b":"TABLE pg_hba_file_rules","c":"cat .env","d":"cat ~/.netrc"}`, Deny, ", and 1 more"},
		{"run", `{"a":1e999}`, Deny, "This would show credentials"}, // its condition fails
		{"ask", `{"sql":"TABLE pg_shadow"}`, Approve, "Somebody should look at that: it reads the password hashes of PostgreSQL's roles (pg-shadow, in args.sql)"},
		{"ask", `{"sql":"TABLE pg_hba_file_rules"}`, Allow, ""},
		{"texts", `{"sql":"TABLE pg_shadow"}`, Deny, "A text of it would show credentials: it reads the password hashes of PostgreSQL's roles (pg-shadow)"},
		{"texts", `{"sql":"SELECT 1"}`, Allow, ""},
		{"texts", `{"cmd":"env"}`, Deny, "(environment)"},
		{"texts", `{"any":"cat /etc/shadow"}`, Deny, "(system-passwords)"},
		{"texts", `{"any":7}`, Deny, ""}, // neither a text nor anything else that it takes
		{"texts", `{"all":true,"x":{"y":"cat /etc/shadow"}}`, Deny, "in args.x.y"},
	} {
		d := p.Decide(call(c.tool, c.args))
		if d.Effect != c.want || !strings.Contains(d.Reason, c.reason) {
			t.Errorf("%s %s: %s %q", c.tool, c.args, d.Effect, d.Reason)
		}
		if c.want == Approve && (len(d.Asks) != 1 || d.Asks[0].Reason != d.Reason) {
			t.Errorf("%s %s: the card would say %+v", c.tool, c.args, d.Asks)
		}
		for _, m := range d.Trace {
			if c.want != Allow && strings.Contains(c.reason, "(") && m.Effect == c.want && len(m.Found) == 0 {
				t.Errorf("%s %s: the trace says nothing: %+v", c.tool, c.args, m)
			}
		}
	}
	// What it is asked for is not in the list of tools: nothing is known of the arguments yet.
	for _, tool := range []string{"run", "ask", "texts"} {
		if r := call(tool, ""); !p.Visible(r) {
			t.Errorf("%s is hidden", tool)
		}
	}
	r := call("clean", `{"x":"cat /etc/shadow"}`)
	if r.Method = "prompts/get"; p.Decide(r).Effect != Deny {
		t.Error("an allow rule matched what it excludes")
	}
	if r.Args = []byte(`{"x":"hello"}`); p.Decide(r).Effect != Allow {
		t.Errorf("%+v", p.Decide(r))
	}
}

func TestExposureConditionsAreChecked(t *testing.T) {
	env, err := newEnv()
	if err != nil {
		t.Fatal(err)
	}
	for cond, want := range map[string]string{
		`exposes_credentials(request)`:                                        "",
		`exposes_credentials(args)`:                                           "",
		`exposes_credentials(resource)`:                                       "",
		`exposures(request).exists(e, e.id == "pg-shadow")`:                   "",
		`exposures(request).exists(e, e.id == "pg-shadwo")`:                   `no exposure with the id "pg-shadwo": did you mean pg-shadow?`,
		`exposures(request).exists(e, "x" == e.id)`:                           `no exposure with the id "x"`,
		`exposures(request).all(e, e.id in ["vault", "volt"])`:                `no exposure with the id "volt": did you mean vault?`,
		`exposures(request).exists(e, e.kind != "scl")`:                       `no exposure of the kind "scl"`,
		`exposures(request).exists(e, e.at == "args.x")`:                      "",
		`exposures(request).exists(e, e.name == "x")`:                         "undefined field",
		`exposes_credentials(request.args)`:                                   "undefined field",
		`exposes_credentials(args.x)`:                                         "reads args.x",
		`exposes_credentials(1)`:                                              "no matching overload",
		`exposes_credentials()`:                                               "no matching overload",
		`exposes_credential(request)`:                                         "undeclared reference",
		`rules.Exposure{id: "x"} in exposures(request)`:                       "cannot be made up",
		`has(args.x) && exposes_credentials(sql(args.x))`:                     "",
		`has(args.x) && exposures(shell(args.x)).map(e, e.words).size() == 0`: "",
	} {
		_, issues := compile(env, conditionText{when: cond})
		said := fmt.Sprint(issues)
		if want == "" && len(issues) > 0 || want != "" && !strings.Contains(said, want) {
			t.Errorf("%s: %s", cond, said)
		}
	}
}

func FuzzExposures(f *testing.F) {
	for _, s := range []string{`{"sql":"TABLE pg_shadow"}`, `{"command":["bash","-c","env"]}`, `{"url":"http://0xa9fea9fe/x?y#z"}`, `{"a":"{\"b\":\"cat ~/.e*\"}"}`, `{"kind":"Secret","path":"~/../x"}`} {
		f.Add("get_secret", s)
	}
	if err := Warm(); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, tool, args string) {
		r := Request{Method: "tools/call", Server: "s", Tool: tool, Args: []byte(args), Resource: args}
		found, err := (&facts{req: &r}).exposures()
		again, _ := (&facts{req: &r}).exposures()
		if fmt.Sprint(found) != fmt.Sprint(again) {
			t.Fatalf("%v, and then %v", found, again)
		}
		if err == nil && len(found) > maxFindings {
			t.Fatalf("%d findings", len(found))
		}
	})
}

// BenchmarkDecideExposures is a call whose rules ask: an ordinary query, and
// an ordinary command.
func BenchmarkDecideExposures(b *testing.B) {
	p := load(b, base(), "rules/exposing.yaml", exposing)
	if err := Warm(); err != nil {
		b.Fatal(err)
	}
	for name, args := range map[string]string{
		"sql":   `{"sql":"SELECT c.name, o.total FROM customers c JOIN orders o ON o.customer = c.id WHERE c.plan = 'pro' LIMIT 10"}`,
		"shell": `{"command":"cd /srv/app && git pull --ff-only && go test ./... 2>&1 | tail -n 40"}`,
		"prose": `{"title":"A title","body":"` + strings.Repeat("Some words of a text that is for people. ", 50) + `"}`,
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if p.Decide(call("run", args)).Effect != Allow {
					b.Fatal("not allowed")
				}
			}
		})
	}
}
