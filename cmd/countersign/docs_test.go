package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"countersign/fixtures/peer"
	"countersign/fixtures/slack"
	"countersign/fixtures/stage"
)

// Every command that the pages show is run as it stands, in the order of its page, by a shell that
// keeps its folder and variables from one to the next. What cannot be run here is listed with the
// reason and something cheaper that is checked instead. A command that is neither fails the test.

// shown says what is expected of one command.
type shown struct {
	exit int
	says string // a part of its output
	// instead is why it is not run; check is what is looked at then. With run, the command is run
	// after run has made what it stands for, and with its words replaced.
	instead string
	check   func(s *shell)
	run     func(s *shell, command string) string
}

// shell runs a page's commands in a folder that looks like a checkout.
type shell struct {
	t    *testing.T
	dir  string // the checkout
	env  []string
	last string // output of the last command
}

const asVault = "COUNTERSIGN_TEST_AS_VAULT"

func init() {
	if os.Getenv(asVault) != "" {
		if err := vaultCLI(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "vault:", err)
			os.Exit(2)
		}
		os.Exit(0)
	}
}

// newShell makes the checkout: the programs, the pages' files, a home with a key to sign with, and
// a place that stands for the Git host.
func newShell(t *testing.T) *shell {
	t.Helper()
	s := &shell{t: t, dir: t.TempDir()}
	for name, as := range map[string]string{"countersign": asProgram, "vault": asVault} {
		s.write("bin/"+name, fmt.Sprintf("#!/bin/sh\n%s=1 exec '%s' \"$@\"\n", as, os.Args[0]), 0o755)
	}
	for _, folder := range []string{"docs/policy", "deploy"} {
		if err := os.CopyFS(s.path(folder), os.DirFS(filepath.Join("..", "..", folder))); err != nil {
			t.Fatal(err)
		}
	}
	home, host := t.TempDir(), t.TempDir()
	s.env = []string{"HOME=" + home, "PATH=" + s.path("bin") + ":" + os.Getenv("PATH"), "GIT_CONFIG_NOSYSTEM=1", "STATE=" + filepath.Join(home, "state"), "HOST=" + host}
	s.must("git config --global user.name Dana; git config --global user.email dana@example.com; git config --global init.defaultBranch main")
	s.must(`git config --global url."$HOST/".insteadOf https://github.com/example/`)
	s.must("git init -q --bare $HOST/countersign-policy.git && git init -q --bare $HOST/countersign-record.git")
	s.must("mkdir ~/.ssh && ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519")
	return s
}

func (s *shell) path(name string) string { return filepath.Join(s.dir, filepath.FromSlash(name)) }

func (s *shell) write(name, text string, mode os.FileMode) {
	s.t.Helper()
	if err := os.MkdirAll(filepath.Dir(s.path(name)), 0o700); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(s.path(name), []byte(text), mode); err != nil {
		s.t.Fatal(err)
	}
}

func (s *shell) read(name string) string {
	s.t.Helper()
	b, err := os.ReadFile(s.path(name))
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// do runs a command where the last one left off.
func (s *shell) do(command string) int {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	script := "[ ! -e \"$STATE\" ] || . \"$STATE\"\nset -a\n" + command + "\nstatus=$?\n{ declare -px; printf 'cd %q\\n' \"$PWD\"; } > \"$STATE\"\nexit $status\n"
	cmd := exec.CommandContext(ctx, "bash", "-c", script)
	cmd.Dir, cmd.Env = s.dir, s.env
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	s.last = out.String()
	return cmd.ProcessState.ExitCode()
}

func (s *shell) must(command string) string {
	s.t.Helper()
	if code := s.do(command); code != 0 {
		s.t.Fatalf("exit %d: %s\n%s", code, command, s.last)
	}
	return s.last
}

// page runs a page.
func (s *shell) page(name string, expect map[string]shown) {
	s.t.Helper()
	used := map[string]bool{}
	for _, command := range commands(s.t, name) {
		want, listed := expect[command]
		if !listed {
			s.t.Errorf("%s shows a command that this test neither runs nor lists:\n%s", name, command)
			continue
		}
		used[command] = true
		if want.instead != "" {
			s.t.Logf("not run: %s (%s)", command, want.instead)
			want.check(s)
			continue
		}
		run := command
		if want.run != nil {
			run = want.run(s, command)
		}
		if code := s.do(run); code != want.exit || !strings.Contains(s.last, want.says) {
			s.t.Fatalf("%s: %s\nexit %d, want %d and %q:\n%s", name, run, code, want.exit, want.says, s.last)
		}
	}
	for command := range expect {
		if !used[command] {
			s.t.Errorf("%s does not show this any more:\n%s", name, command)
		}
	}
}

var (
	docFence  = regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```$")
	docInline = regexp.MustCompile("`((?:\\./bin/)?(?:countersign|ssh-keygen|git|make|docker|vault|kubectl)\\s[^`]+)`")
	docHidden = regexp.MustCompile(`(?m)^(?: {4}|\t)\s*(?:\./bin/)?(?:countersign|ssh-keygen|git|make|docker|vault|kubectl)\s.*$`)
	docNote   = regexp.MustCompile(`\s+# .*$`)
)

func docPage(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func docBlocks(t *testing.T, name, language string) (out []string) {
	t.Helper()
	for _, m := range docFence.FindAllStringSubmatch(docPage(t, name), -1) {
		if m[1] == language {
			out = append(out, m[2])
		}
	}
	return out
}

// commands lists what a page shows: the lines of its sh blocks, and the commands that stand in a
// sentence; each once, in their order.
func commands(t *testing.T, name string) (out []string) {
	t.Helper()
	add := func(c string) {
		c = strings.Join(strings.Fields(docNote.ReplaceAllString(c, "")), " ")
		if c != "" && !slices.Contains(out, c) {
			out = append(out, c)
		}
	}
	text, at := docPage(t, name), 0
	if hidden := docHidden.FindString(docFence.ReplaceAllString(text, "")); hidden != "" {
		t.Errorf("%s shows a command outside of a block of sh: %s", name, hidden)
	}
	prose := func(s string) {
		for _, m := range docInline.FindAllStringSubmatch(s, -1) {
			add(m[1])
		}
	}
	for _, m := range docFence.FindAllStringSubmatchIndex(text, -1) {
		prose(text[at:m[0]])
		at = m[1]
		if text[m[2]:m[3]] == "sh" {
			for line := range strings.Lines(strings.ReplaceAll(text[m[4]:m[5]], "\\\n", " ")) {
				add(strings.TrimSpace(line))
			}
		}
	}
	prose(text[at:])
	return out
}

// target checks that make knows what to do, without doing it: .ci/run does it, and cmd/demo's and
// cmd/bench's own tests run the programs that it starts.
func target(args string) shown {
	return shown{instead: "builds the program that is being tested, or runs this test", check: func(s *shell) {
		s.t.Helper()
		cmd := exec.CommandContext(s.t.Context(), "bash", "-c", "make -n "+args)
		cmd.Dir = filepath.Join("..", "..")
		if out, err := cmd.CombinedOutput(); err != nil {
			s.t.Errorf("make -n %s: %v\n%s", args, err, out)
		}
	}}
}

// imageTarget checks a docker build against the Dockerfile; .ci/image builds and runs it.
func imageTarget(name string) shown {
	return shown{instead: "needs a container engine", check: func(s *shell) {
		if !strings.Contains(docPage(s.t, "Dockerfile"), " AS "+name+"\n") {
			s.t.Errorf("the Dockerfile has no target %s", name)
		}
	}}
}

func TestTheReadmesCommands(t *testing.T) {
	t.Parallel()
	st := newStage(t)
	p := serving(t, st, nil)
	c := p.client("customers", p.token("alice", "support"))
	call(t, c, "query", "SELECT name, api_key FROM customers LIMIT 3")
	call(t, c, "query", "SELECT * FROM staff")
	pressed := press(t, st, func(card slack.Card) error {
		return st.Slack.Press(t.Context(), card, button(t, card, "approve"), stage.SlackBob)
	})
	call(t, c, "execute", "UPDATE customers SET plan = 'pro' WHERE id = 7")
	if err := <-pressed; err != nil {
		t.Fatal(err)
	}
	metricsAreDocumented(t, p)
	p.stop()

	s := newShell(t)
	s.must("git clone -q --no-checkout '" + st.Audit + "' audit")
	s.must("cp '" + st.Path("audit_signers") + "' audit_signers; cp '" + st.Path("checkpoint.pub") + "' checkpoint_key.pub; cp -r docs/policy policy")
	var id string
	for _, en := range recorded(t, st) {
		if en["tool"] == "execute" {
			id, _ = en["call"].(string)
		}
	}
	atTheGate := func(s *shell, c string) string { return "COUNTERSIGN_STATE_DIR='" + st.Path("state") + "' " + c }
	help := shown{says: "COUNTERSIGN_PUBLIC_URL (required)"}
	s.page("README.md", map[string]shown{
		"make demo": target("demo"), "make test": target("test"), "make build": target("build"), "make conformance": target("conformance"), "make mask-report": target("mask-report"),
		"make demo ARGS=--interactive":                       target("demo ARGS=--interactive"),
		"make demo ARGS=--keep":                              target("demo ARGS=--keep"),
		"docker build --target countersign -t countersign .": imageTarget("countersign"),
		"./bin/countersign policy check docs/policy":         {says: "no problems"},
		`./bin/countersign policy explain docs/policy --server customers --tool query --sub alice --group support --args '{"sql":"COMMIT; CREATE TABLE evil(a int)"}'`: {says: "DENY"},
		"ssh-keygen -t ed25519 -N '' -f commit_key": {says: "commit_key.pub"},
		"./bin/countersign serve --help":            help,
		"countersign audit key":                     {instead: "stands in a sentence; the test of docs/record.md runs it", check: func(*shell) {}},
		`countersign freeze --all --reason "incident 42: looking into it"`: {says: "frozen: everything", run: func(s *shell, c string) string {
			p = serving(t, st, nil)
			return atTheGate(s, c)
		}},
		"countersign unfreeze --all":                     {says: "unfrozen: everything", run: atTheGate},
		"countersign credentials list":                   {says: "no credential lives", run: atTheGate},
		"countersign audit log --repo ./audit --last 20": {says: "customers execute"},
		"countersign audit show --repo ./audit c_…": {says: "UPDATE customers", run: func(_ *shell, c string) string {
			return strings.Replace(c, "c_…", id, 1)
		}},
		"countersign audit verify --repo ./audit --commit-signers audit_signers --checkpoint-key checkpoint_key.pub": {says: "all links hold"},
		"countersign policy simulate ./policy --record ./audit":                                                      {says: " 0 different, 0 skipped"},
		"countersign audit stats --repo ./audit --since 30d":                                                         {says: "95% within"},
		"countersign audit masks --repo ./audit":                                                                     {says: "stripe"},
		`git -C audit -c gpg.ssh.allowedSignersFile="$PWD/audit_signers" verify-commit <commit>`: {says: "Good \"git\" signature", run: func(s *shell, c string) string {
			commit := strings.TrimSpace(s.must("git -C audit for-each-ref --count=1 --format='%(objectname)' refs/remotes/origin/audit"))
			return strings.Replace(c, "<commit>", commit, 1)
		}},
	})
}

func TestThePolicyPagesCommands(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	s.must("cp -r docs/policy policy")
	url := hostileList(t, func(r *http.Request) string {
		return `{"name":"query","description":"Reads."},{"name":"execute"},{"name":"tables"}`
	})
	s.page("docs/policy.md", map[string]shown{
		"countersign policy check ./policy": {says: "no problems: 1 server, 6 cases"},
		`countersign policy explain ./policy --server customers --tool execute --sub alice --group support --args '{"sql":"DELETE FROM customers"}'`: {says: "asks 1 of dba"},
		"countersign policy lock ./policy --server customers --header 'Authorization: env:CUSTOMERS_AUTH'": {says: "3 new", run: func(_ *shell, c string) string {
			return "export CUSTOMERS_AUTH=x-for-the-page; sed -i 's|^url: .*|url: " + url + "|' policy/servers/customers.yaml && " + c
		}},
		"countersign policy lock ./policy --check":          {says: "nothing changed"},
		"countersign freeze --subject <issuer>#pseudonym:…": {instead: "stands in a sentence; the test of freezes runs it", check: func(*shell) {}},
		"countersign policy simulate":                       {instead: "stands in a sentence, and is run by the test of the readme", check: func(*shell) {}},
	})
}

func TestTheProtocolPagesCommands(t *testing.T) {
	t.Parallel()
	newShell(t).page("docs/protocol.md", map[string]shown{"make conformance": target("conformance"), "make test": target("test")})
}

// The operator's page from its beginning to its end: the keys, the policy repository and the
// configuration that it makes start an enforcer, with a real Vault set up by its commands.
func TestTheOperatorsPage(t *testing.T) {
	t.Parallel()
	st, v, pg := newStage(t), peer.StartVault(t), peer.StartPostgres(t)
	s := newShell(t)
	s.env = append(s.env, "VAULT_ADDR="+v.Address, "VAULT_TOKEN="+v.Token)
	var p *program

	// The file that the page shows is the policy that Vault gets.
	hcl := docBlocks(t, "docs/operate.md", "hcl")
	if len(hcl) != 1 {
		t.Fatalf("%d hcl blocks", len(hcl))
	}
	plain := shown{}
	database := shown{run: func(s *shell, c string) string {
		pg.Exec(t, "CREATE ROLE vault SUPERUSER LOGIN PASSWORD 'chosen-by-the-operator'")
		s.write("gate/database_password", "chosen-by-the-operator", 0o600)
		return strings.Replace(c, "db.internal.example.com:5432/customers?sslmode=verify-full", fmt.Sprintf("127.0.0.1:%d/app?sslmode=disable", pg.Port), 1)
	}}
	asked := func(method string) shown {
		return shown{instead: "curl may not be there; the same is asked without it", check: func(*shell) {
			if status, _, body := p.operate(method, "/freezes", operateToken(t, st), `{"all":true,"reason":"incident 42"}`, nil); status != http.StatusForbidden || !strings.Contains(body, "does not name you") {
				t.Errorf("%s: %d %s", method, status, body)
			}
		}}
	}
	const create = `"CREATE ROLE \"{{name}}\" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'; GRANT `
	const revoke = ` ON ALL TABLES IN SCHEMA public TO \"{{name}}\";" revocation_statements="ALTER ROLE \"{{name}}\" NOLOGIN; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{name}}'; DROP OWNED BY \"{{name}}\"; DROP ROLE \"{{name}}\";"`
	const verify = "countersign audit verify --repo audit --commit-signers audit_signers --checkpoint-key checkpoint_key.pub"
	s.page("docs/operate.md", map[string]shown{
		"make build":                       target("build"),
		`export PATH="$PWD/bin:$PATH"`:     plain,
		"mkdir -p gate/secrets && cd gate": plain,
		"ssh-keygen -q -t ed25519 -N '' -C commits -f secrets/commit_key":                                                plain,
		"ssh-keygen -q -t ed25519 -N '' -C checkpoints -f secrets/checkpoint_key":                                        plain,
		`echo "prod-1@countersign.invalid namespaces=\"git\" $(cut -d' ' -f1,2 secrets/commit_key.pub)" > audit_signers`: plain,
		`echo "prod-1 $(cut -d' ' -f1,2 secrets/checkpoint_key.pub)" > checkpoint_key.pub`:                               plain,
		"git init -q -b main policy":                                 plain,
		"cp -r ../docs/policy/. policy/":                             plain,
		"git -C policy config gpg.format ssh":                        plain,
		"git -C policy config user.signingKey ~/.ssh/id_ed25519.pub": plain,
		"git -C policy config commit.gpgSign true":                   plain,
		"git -C policy add .":                                        plain,
		`git -C policy commit -q -m "The first policy"`:              plain,
		`echo "$(git config user.email) namespaces=\"git\" $(cut -d' ' -f1,2 ~/.ssh/id_ed25519.pub)" > secrets/policy_signers`: plain,
		`git -C policy -c gpg.ssh.allowedSignersFile="$PWD/secrets/policy_signers" verify-commit HEAD`:                         {says: "Good \"git\" signature for dana@example.com"},
		"countersign policy check policy":                                              {says: "no problems"},
		"git -C policy push -q https://github.com/example/countersign-policy.git main": plain,
		"countersign policy check .":                                                   {says: "no problems", run: func(_ *shell, c string) string { return "(cd policy && " + c + ")" }},

		"vault policy write countersign countersign.hcl": {run: func(s *shell, c string) string {
			s.write("gate/countersign.hcl", hcl[0], 0o600)
			return c
		}},
		"vault auth enable approle": plain,
		"vault write auth/approle/role/countersign token_policies=countersign token_type=service token_ttl=1h token_max_ttl=24h secret_id_ttl=0 secret_id_num_uses=0": plain,
		"vault read -field=role_id auth/approle/role/countersign/role-id > secrets/vault_role_id":                                                                     plain,
		"vault write -f -field=secret_id auth/approle/role/countersign/secret-id > secrets/vault_secret_id":                                                           plain,
		"vault auth enable kubernetes": plain,
		"vault write auth/kubernetes/config kubernetes_host=https://kubernetes.default.svc": {run: func(s *shell, c string) string {
			s.write("gate/pod_ca.pem", v.CA, 0o600) // what a Vault in a pod reads from there
			return c + " kubernetes_ca_cert=@pod_ca.pem disable_local_ca_jwt=true"
		}},
		"vault write auth/kubernetes/role/countersign bound_service_account_names=countersign bound_service_account_namespaces=countersign token_policies=countersign token_type=service token_ttl=1h token_max_ttl=24h": plain,
		"vault auth enable -path=machines jwt": plain,
		"vault write auth/machines/config oidc_discovery_url=https://id.example.com bound_issuer=https://id.example.com": {run: func(_ *shell, c string) string {
			return strings.ReplaceAll(c, "https://id.example.com", st.Issuer.URL)
		}},
		"vault write auth/machines/role/countersign role_type=jwt user_claim=sub bound_subject=countersign bound_audiences=vault token_policies=countersign token_type=service token_ttl=1h token_max_ttl=24h": plain,
		"vault auth enable cert": plain,
		"vault write auth/cert/certs/countersign certificate=@gate_client_ca.pem allowed_common_names=gate.example.com token_policies=countersign token_type=service token_ttl=1h token_max_ttl=24h": {run: func(s *shell, c string) string {
			s.write("gate/gate_client_ca.pem", v.CA, 0o600)
			return c
		}},
		"vault secrets enable database": plain,
		`vault write database/config/customers plugin_name=postgresql-database-plugin allowed_roles=customers-ro,customers-rw connection_url='postgresql://{{username}}:{{password}}@db.internal.example.com:5432/customers?sslmode=verify-full' username=vault password="$(cat database_password)"`: database,
		"vault write database/roles/customers-ro db_name=customers default_ttl=10m max_ttl=1h creation_statements=" + create + "SELECT" + revoke:                                                                                                                                                     plain,
		"vault write database/roles/customers-rw db_name=customers default_ttl=10m max_ttl=1h creation_statements=" + create + "SELECT, INSERT, UPDATE, DELETE" + revoke:                                                                                                                             plain,

		"countersign serve": {instead: "started below, where the page has a container", check: func(s *shell) { mintsAsThePageSays(s, v, pg) }},
		"sudo chown -R 65532:65532 secrets": {instead: "needs root", check: func(s *shell) {
			if !strings.Contains(docPage(s.t, "Dockerfile"), "USER 65532:65532") {
				s.t.Error("the Dockerfile has another user")
			}
		}},
		"docker build --target countersign -t countersign ..": imageTarget("countersign"),
		`docker run -d --name countersign --restart unless-stopped --read-only --cap-drop ALL --security-opt no-new-privileges --tmpfs /tmp --stop-timeout 120 -v countersign-state:/var/lib/countersign -v "$PWD/secrets:/etc/countersign:ro" -p 127.0.0.1:8080:8080 --env-file countersign.env countersign`: {
			instead: "needs a container engine; the program is started without one, on the page's own configuration",
			check: func(s *shell) {
				p = servesAsThePageSays(s, st, v)
				s.env = append(s.env, "COUNTERSIGN_STATE_DIR="+s.path("state"))
			},
		},
		"docker exec countersign /usr/bin/countersign health": {
			instead: "needs a container engine; the program is asked without one",
			check: func(s *shell) {
				if out := s.must("COUNTERSIGN_LISTEN=" + st.Listen + " countersign health"); !strings.Contains(out, `"ready": true`) {
					t.Error(out)
				}
			},
		},
		`countersign freeze --all --reason "incident 42: agents are being phished"`:                             {says: "frozen: everything"},
		`countersign freeze --subject https://id.example.com#alice --reason "laptop stolen"`:                    {says: "frozen: subject https://id.example.com#alice"},
		`countersign freeze --server customers --tool execute --reason "no writes until the migration is over"`: {says: "frozen: server customers, tool execute"},
		"countersign freezes": {says: "everything"},
		`countersign unfreeze --all --reason "the migration is over"`: {says: "unfrozen: server customers, tool execute"},
		"countersign unfreeze --all":                                  {says: "nothing was frozen"},
		"countersign unfreeze <id>": {says: "unfrozen: tool execute", run: func(s *shell, c string) string {
			out := s.must("countersign freeze --tool execute --reason 'to be lifted'")
			return strings.Replace(c, "<id>", freezeID.FindString(out), 1)
		}},
		"countersign credentials list": {says: "no credential lives"},
		`countersign credentials revoke --credential customers-rw --reason "the role was too wide"`: {says: "no such credential lives"},
		"docker exec countersign /usr/bin/countersign freezes": {
			instead: "needs a container engine; the program is asked without one",
			check: func(s *shell) {
				if out := s.must("countersign freezes"); out != "nothing is frozen\n" {
					t.Error(out)
				}
			},
		},
		// Bob of the page's policy is another issuer's: what is seen is that the token is good, and the gate asked.
		`countersign freeze --all --reason "incident 42" --url https://gate.example.com --token-file operate_token`: {exit: 2, says: "does not name you", run: func(s *shell, c string) string {
			s.write("gate/operate_token", operateToken(t, st), 0o600)
			return strings.Replace(c, "https://gate.example.com", st.URL, 1)
		}},
		`curl -fsS -H "Authorization: Bearer $(cat operate_token)" -H 'Content-Type: application/json' -d '{"all":true,"reason":"incident 42"}' https://gate.example.com/freezes`: asked(http.MethodPost),
		`curl -fsS -H "Authorization: Bearer $(cat operate_token)" https://gate.example.com/freezes`:                                                                              asked(http.MethodGet),
		`curl -fsS -H "Authorization: Bearer $(cat operate_token)" -X DELETE https://gate.example.com/freezes`:                                                                    asked(http.MethodDelete),
		"kubectl create secret generic countersign-keys --from-file=secrets/":                                                                                                     {instead: "needs a cluster", check: secretsAreThere},
		"kubectl apply -f ../deploy/kubernetes.yaml":                                                                                                                              {instead: "needs a cluster", check: func(s *shell) { manifestsHold(s, p) }},
		"kubectl rollout status statefulset/countersign":                                                                                                                          {instead: "needs a cluster", check: func(*shell) {}},

		"git clone -q --no-checkout https://github.com/example/countersign-record.git audit": {run: func(_ *shell, c string) string {
			status, _, body := p.post("customers", p.token("alice", "support"), `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"query","arguments":{"sql":"SELECT * FROM staff"}}}`, nil)
			if status != http.StatusOK || !strings.Contains(body, "password hashes") {
				t.Errorf("%d %s", status, body)
			}
			p.stop()
			return c
		}},
		"countersign audit log --repo audit --last 20":                      {says: "no-credential-tables"},
		"countersign audit masks --repo audit --since 2026-01-01T00:00:00Z": {says: "masked"},
		verify: {says: "all links hold"},
		`git -C audit show "$(git -C audit for-each-ref --sort=-committerdate --count=1 --format='%(refname)' refs/remotes/origin/audit)":checkpoint > anchor`: plain,
		verify + " --anchor anchor":                         {says: "all links hold"},
		"countersign policy simulate policy --record audit": {says: " 0 different"},
		"countersign audit verify":                          {instead: "stands in a sentence, and is run above with its flags", check: func(*shell) {}},
		"countersign policy lock":                           {instead: "stands in a sentence, and is run with its flags by the test of the policy page", check: func(*shell) {}},
		"countersign audit key":                             {instead: "stands in a sentence; TestKeysInVault runs it", check: func(*shell) {}},
		"vault write -f transit/keys/<name>/rotate":         {instead: "Vault's own command", check: func(*shell) {}},
	})
}
