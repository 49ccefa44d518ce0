package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"go.yaml.in/yaml/v3"

	"countersign/enforcer/credential"
	"countersign/enforcer/mask"
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
	script := "[ ! -e \"$STATE\" ] || . \"$STATE\"\n" + command + "\nstatus=$?\n{ declare -px; printf 'cd %q\\n' \"$PWD\"; } > \"$STATE\"\nexit $status\n"
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

// target checks that make knows what to do, without doing it.
func target(args string) shown {
	return shown{instead: "takes minutes, and runs this test", check: func(s *shell) {
		s.t.Helper()
		cmd := exec.CommandContext(s.t.Context(), "bash", "-c", "make -n "+args)
		cmd.Dir = filepath.Join("..", "..")
		if out, err := cmd.CombinedOutput(); err != nil {
			s.t.Errorf("make -n %s: %v\n%s", args, err, out)
		}
	}}
}

// imageTarget checks a docker build against the Dockerfile.
func imageTarget(name string) shown {
	return shown{instead: "needs a container engine", check: func(s *shell) {
		if !strings.Contains(docPage(s.t, "Dockerfile"), " AS "+name+"\n") {
			s.t.Errorf("the Dockerfile has no target %s", name)
		}
	}}
}

func TestTheReadmesCommands(t *testing.T) {
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
	help := shown{says: "COUNTERSIGN_PUBLIC_URL (required)"}
	s.page("README.md", map[string]shown{
		"make demo": target("demo"), "make test": target("test"), "make build": target("build"),
		"make demo ARGS=--interactive":                       target("demo ARGS=--interactive"),
		"make demo ARGS=--keep":                              target("demo ARGS=--keep"),
		"docker build --target countersign -t countersign .": imageTarget("countersign"),
		"./bin/countersign policy check docs/policy":         {says: "no problems"},
		`./bin/countersign policy explain docs/policy --server customers --tool query --sub alice --group support --args '{"sql":"COMMIT; CREATE TABLE evil(a int)"}'`: {says: "DENY"},
		"ssh-keygen -t ed25519 -N '' -f commit_key":      {says: "commit_key.pub"},
		"./bin/countersign serve --help":                 help,
		"countersign audit log --repo ./audit --last 20": {says: "customers execute"},
		"countersign audit show --repo ./audit c_…": {says: "UPDATE customers", run: func(_ *shell, c string) string {
			return strings.Replace(c, "c_…", id, 1)
		}},
		"countersign audit verify --repo ./audit --commit-signers audit_signers --checkpoint-key checkpoint_key.pub": {says: "all links hold"},
		"countersign audit replay --repo ./audit ./policy":                                                           {says: " 0 different, 0 skipped"},
		"git -c gpg.ssh.allowedSignersFile=audit_signers verify-commit <commit>": {says: "Good \"git\" signature", run: func(s *shell, c string) string {
			commit := strings.TrimSpace(s.must("git -C audit for-each-ref --count=1 --format='%(objectname)' refs/remotes/origin/audit"))
			return "cp audit_signers audit/ && cd audit && " + strings.Replace(c, "<commit>", commit, 1)
		}},
	})
}

func TestThePolicyPagesCommands(t *testing.T) {
	s := newShell(t)
	s.must("cp -r docs/policy policy")
	s.page("docs/policy.md", map[string]shown{
		"countersign policy check ./policy": {says: "no problems; 5 cases, 0 failed"},
		`countersign policy explain ./policy --server customers --tool execute --sub alice --group support --args '{"sql":"DELETE FROM customers"}'`: {says: "asks 1 of dba"},
	})
}

// The operator's page from its beginning to its end: the keys, the policy repository and the
// configuration that it makes start an enforcer, with a real Vault set up by its commands.
func TestTheOperatorsPage(t *testing.T) {
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
		"cp secrets/checkpoint_key.pub checkpoint_key.pub":                                                               plain,
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
			check:   func(s *shell) { p = servesAsThePageSays(s, st, v) },
		},
		"docker exec countersign /usr/bin/countersign health": {
			instead: "needs a container engine; the program is asked without one",
			check: func(s *shell) {
				if out := s.must("COUNTERSIGN_LISTEN=" + st.Listen + " countersign health"); !strings.Contains(out, `"ready": true`) {
					t.Error(out)
				}
			},
		},
		"kubectl create secret generic countersign-keys --from-file=secrets/": {instead: "needs a cluster", check: secretsAreThere},
		"kubectl apply -f ../deploy/kubernetes.yaml":                          {instead: "needs a cluster", check: func(s *shell) { manifestsHold(s, p) }},
		"kubectl rollout status statefulset/countersign":                      {instead: "needs a cluster", check: func(*shell) {}},

		"git clone -q --no-checkout https://github.com/example/countersign-record.git audit": {run: func(_ *shell, c string) string {
			status, _, body := p.post("customers", p.token("alice", "support"), `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"query","arguments":{"sql":"SELECT * FROM staff"}}}`, nil)
			if status != http.StatusOK || !strings.Contains(body, "password hashes") {
				t.Errorf("%d %s", status, body)
			}
			p.stop()
			return c
		}},
		"countersign audit log --repo audit --last 20": {says: "no-credential-tables"},
		verify: {says: "all links hold"},
		`git -C audit show "$(git -C audit for-each-ref --sort=-committerdate --count=1 --format='%(refname)' refs/remotes/origin/audit)":checkpoint > anchor`: plain,
		verify + " --anchor anchor":                    {says: "all links hold"},
		"countersign audit replay --repo audit policy": {says: " 0 different"},
		"countersign audit verify":                     {instead: "stands in a sentence, and is run above with its flags", check: func(*shell) {}},
	})
}

// mintsAsThePageSays logs in with what the page's commands left, and mints under its policy.
func mintsAsThePageSays(s *shell, v *peer.Vault, pg *peer.Postgres) {
	t := s.t
	login, err := credential.AppRole(s.read("gate/secrets/vault_role_id"), s.read("gate/secrets/vault_secret_id"))
	if err != nil {
		t.Fatal(err)
	}
	var events []string
	dir := t.TempDir()
	open := func() *credential.Minter {
		m, err := credential.Open(t.Context(), credential.Config{
			Client: v.Client(t, ""), Login: login, Dir: dir, Mask: mask.New(mask.Options{}), Now: time.Now,
			Record: func(_ context.Context, e credential.Event) error {
				events = append(events, strings.TrimSpace(e.Action+" "+e.Err))
				return nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	m := open()
	for _, role := range []string{"customers-ro", "customers-rw"} {
		lease, err := m.Acquire(t.Context(), "holder", "c_1", credential.Spec{Name: role, Path: "database/creds/" + role, PerCall: true, TTL: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		password, err := lease.Render("{{password}}")
		if err != nil {
			t.Fatal(err)
		}
		if err := pg.Login(t.Context(), lease.Username, password); err != nil {
			t.Errorf("%s: the minted user cannot log in: %v", role, err)
		}
		if err := m.Release(t.Context(), lease); err != nil {
			t.Error(err)
		}
		if err := pg.Login(t.Context(), lease.Username, password); err == nil {
			t.Errorf("%s: the user is there after its call", role)
		}
	}
	if _, err := m.Acquire(t.Context(), "holder", "c_2", credential.Spec{Name: "other", Path: "database/creds/other", TTL: time.Minute}); !errors.Is(err, credential.ErrForbidden) {
		t.Errorf("a path that the page's policy does not name: %v", err)
	}
	if err := m.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := open().Close(t.Context()); err != nil { // the secret id is good for every start
		t.Error(err)
	}
	if want := []string{"mint", "revoke", "mint", "revoke"}; !slices.Equal(events, want) {
		t.Errorf("recorded %q, want %q", events, want)
	}
}

// docEnv is the configuration that the page shows, its secrets in the page's folder.
func docEnv(s *shell) map[string]string {
	s.t.Helper()
	blocks := docBlocks(s.t, "docs/operate.md", "env")
	if len(blocks) != 1 {
		s.t.Fatalf("%d env blocks", len(blocks))
	}
	vars := map[string]string{}
	for line := range strings.Lines(blocks[0]) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(line, "#") {
			vars[name] = strings.Replace(value, "/etc/countersign", s.path("gate/secrets"), 1)
		}
	}
	return vars
}

// servesAsThePageSays starts the program on the page's configuration, with addresses of this
// machine in it.
func servesAsThePageSays(s *shell, st *stage.Stage, v *peer.Vault) *program {
	t := s.t
	for name, text := range map[string]string{
		"policy_token": "unused-over-a-path", "github_key": "unused-over-a-path",
		"slack_bot_token": st.Slack.Token(), "slack_app_token": st.Slack.AppToken(),
	} {
		s.write("gate/secrets/"+name, text+"\n", 0o600)
	}
	vars := map[string]string{ // of the stage, and not of the page
		"COUNTERSIGN_POLICY_POLL": "", "COUNTERSIGN_AUDIT_WINDOW": "", "SLACK_SIGNING_SECRET_FILE": "", "VAULT_ROLE_ID": "",
	}
	maps.Copy(vars, docEnv(s))
	var environ []string
	for k, val := range vars {
		if val != "" {
			environ = append(environ, k+"="+val)
		}
	}
	if _, err := loadConfig(environ); err != nil {
		t.Fatalf("the configuration on the page: %v", err)
	}
	for _, e := range s.env {
		if host, ok := strings.CutPrefix(e, "HOST="); ok {
			vars["COUNTERSIGN_POLICY_REPO"], vars["COUNTERSIGN_AUDIT_REPO"] = host+"/countersign-policy.git", host+"/countersign-record.git"
		}
	}
	maps.Copy(vars, map[string]string{
		"COUNTERSIGN_PUBLIC_URL": st.URL, "COUNTERSIGN_OIDC_ISSUERS": st.Issuer.URL, "VAULT_ADDR": v.Address, "COUNTERSIGN_STATE_DIR": s.path("state"),
	})
	p := serving(t, st, vars)
	if err := st.Slack.Await(t.Context(), func() bool { return st.Slack.Sockets() > 0 }); err != nil {
		t.Errorf("Socket Mode: %v", err)
	}
	return p
}

// secretsAreThere checks that the page made every file that the manifest and the page's own
// configuration read, but for those that come from a service's web page.
func secretsAreThere(s *shell) {
	elsewhere := []string{"policy_token", "github_key", "slack_bot_token", "slack_app_token"}
	for _, vars := range []map[string]string{docEnv(s), kubernetes(s.t).config} {
		for name, value := range vars {
			if file := filepath.Base(value); (strings.HasSuffix(name, "_FILE") || name == "COUNTERSIGN_POLICY_SIGNERS") && !slices.Contains(elsewhere, file) {
				s.read("gate/secrets/" + file)
			}
		}
	}
}

// cluster is what deploy/kubernetes.yaml asks for.
type cluster struct {
	config map[string]string
	image  string
	mounts []string
	probes map[string]string
	kinds  []string
}

func kubernetes(t *testing.T) (c cluster) {
	t.Helper()
	type probe struct {
		HTTPGet struct{ Path, Port string } `yaml:"httpGet"`
	}
	type object struct {
		Kind     string
		Metadata struct{ Name string }
		Data     map[string]string
		Spec     struct {
			Replicas int
			Template struct {
				Spec struct {
					Containers []struct {
						Image           string
						EnvFrom         []map[string]map[string]string `yaml:"envFrom"`
						StartupProbe    probe                          `yaml:"startupProbe"`
						LivenessProbe   probe                          `yaml:"livenessProbe"`
						ReadinessProbe  probe                          `yaml:"readinessProbe"`
						SecurityContext struct {
							ReadOnlyRootFilesystem bool `yaml:"readOnlyRootFilesystem"`
						} `yaml:"securityContext"`
						VolumeMounts []struct {
							MountPath string `yaml:"mountPath"`
						} `yaml:"volumeMounts"`
					}
				}
			}
		}
	}
	dec := yaml.NewDecoder(strings.NewReader(docPage(t, "deploy/kubernetes.yaml")))
	for {
		var o object
		if err := dec.Decode(&o); errors.Is(err, io.EOF) {
			return c
		} else if err != nil {
			t.Fatal(err)
		}
		c.kinds = append(c.kinds, o.Kind)
		switch o.Kind {
		case "ConfigMap":
			c.config = o.Data
		case "StatefulSet":
			if n := len(o.Spec.Template.Spec.Containers); n != 1 || o.Spec.Replicas != 1 {
				t.Fatalf("%d containers, %d replicas", n, o.Spec.Replicas)
			}
			box := o.Spec.Template.Spec.Containers[0]
			if !box.SecurityContext.ReadOnlyRootFilesystem {
				t.Error("the root can be written")
			}
			c.image = box.Image
			c.probes = map[string]string{"startup": box.StartupProbe.HTTPGet.Path, "liveness": box.LivenessProbe.HTTPGet.Path, "readiness": box.ReadinessProbe.HTTPGet.Path}
			for _, m := range box.VolumeMounts {
				c.mounts = append(c.mounts, m.MountPath)
			}
		}
	}
}

// manifestsHold checks the manifests against the program and the Dockerfile.
func manifestsHold(s *shell, p *program) {
	t, c := s.t, kubernetes(s.t)
	if !slices.Equal(c.kinds, []string{"ConfigMap", "Service", "StatefulSet"}) {
		t.Errorf("kinds: %v", c.kinds)
	}
	if !maps.Equal(c.config, unquoted(t)) {
		t.Errorf("the ConfigMap and the page's countersign.env differ:\n%v\n%v", c.config, unquoted(t))
	}
	for name, path := range c.probes {
		if status, body := p.get(path); status != http.StatusOK {
			t.Errorf("%s probe: %s answers %d %s", name, path, status, body)
		}
	}
	dockerfile := docPage(t, "Dockerfile")
	for _, mount := range []string{"/var/lib/countersign", "/etc/countersign", "/tmp"} {
		if !slices.Contains(c.mounts, mount) {
			t.Errorf("%s is not mounted", mount)
		}
	}
	if !strings.Contains(dockerfile, "VOLUME /var/lib/countersign") {
		t.Error("the Dockerfile has another volume")
	}
}

// unquoted is the page's countersign.env as it stands.
func unquoted(t *testing.T) map[string]string {
	vars := map[string]string{}
	for line := range strings.Lines(docBlocks(t, "docs/operate.md", "env")[0]) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(line, "#") {
			vars[name] = value
		}
	}
	return vars
}

// docSection is what stands between the page's markers.
func docSection(t *testing.T, page, name string) string {
	t.Helper()
	_, rest, ok := strings.Cut(docPage(t, page), "<!-- "+name+" -->\n")
	section, _, end := strings.Cut(rest, "<!-- /"+name+" -->")
	if !ok || !end {
		t.Fatalf("%s has no section %s", page, name)
	}
	return strings.TrimSpace(section)
}

func TestTheOperatorsPageListsEveryVariable(t *testing.T) {
	var want strings.Builder
	want.WriteString("| variable | default | |\n|---|---|---|\n")
	for _, f := range configFields() {
		def := f.def
		if f.required {
			def = "required"
		}
		help := f.help
		if f.secret {
			help += " (*file*)"
		}
		fmt.Fprintf(&want, "| `%s` | %s | %s |\n", f.name, def, strings.NewReplacer("|", `\|`, "[", `\[`, "<", `\<`).Replace(help))
	}
	if got := docSection(t, "docs/operate.md", "variables"); got != strings.TrimSpace(want.String()) {
		t.Errorf("between <!-- variables --> and <!-- /variables --> docs/operate.md should say:\n%s", want.String())
	}
}

// vaults are variables that Vault's own client reads.
var vaults = []string{"VAULT_CACERT", "VAULT_NAMESPACE"}

func TestThePagesNameVariablesThatExist(t *testing.T) {
	known := map[string]bool{}
	for _, f := range configFields() {
		known[f.name] = true
		known[f.name+"_FILE"] = f.secret
	}
	for _, v := range vaults {
		known[v] = true
	}
	names := []string{"README.md", "docs/policy.md", "docs/operate.md", "docs/architecture.md"}
	deploy, err := filepath.Glob("../../deploy/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range deploy {
		names = append(names, "deploy/"+filepath.Base(d))
	}
	for _, name := range names {
		for _, v := range regexp.MustCompile(`\b(?:COUNTERSIGN|SLACK|VAULT)_[A-Z0-9_]*[A-Z0-9]\b`).FindAllString(docPage(t, name), -1) {
			if !known[v] {
				t.Errorf("%s names %s, which the program does not read", name, v)
			}
		}
	}
}

var metricName = regexp.MustCompile(`\bcountersign_[a-z_]+[a-z]\b`)

// metricsAreDocumented holds the page against a running program, in both directions.
func metricsAreDocumented(t *testing.T, p *program) {
	t.Helper()
	_, body := p.get("/metrics")
	var real []string
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (countersign_\w+)`).FindAllStringSubmatch(body, -1) {
		real = append(real, m[1])
	}
	section := docSection(t, "docs/operate.md", "metrics")
	for _, name := range real {
		if !strings.Contains(section, "`"+name+"`") {
			t.Errorf("docs/operate.md does not list the metric %s", name)
		}
	}
	for _, name := range metricName.FindAllString(docPage(t, "docs/operate.md"), -1) {
		if !slices.Contains(real, name) {
			t.Errorf("docs/operate.md names the metric %s, which the program does not have", name)
		}
	}
}

// The page says that check runs are not sent: this fails once they are.
func TestTheOperatorsPageIsRightAboutCheckRuns(t *testing.T) {
	sources, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	sent := false
	for _, name := range sources {
		sent = sent || !strings.HasSuffix(name, "_test.go") && strings.Contains(docPage(t, "cmd/countersign/"+name), "bot.NewChecks(")
	}
	if said := !strings.Contains(docPage(t, "docs/operate.md"), "not sent yet"); said != sent {
		t.Errorf("check runs are sent: %v; docs/operate.md says so: %v", sent, said)
	}
}

// vaultCLI is as much of Vault's command line as the page uses, over Vault's own client.
func vaultCLI(args []string) error {
	cfg := api.DefaultConfig()
	if cfg.Error != nil {
		return cfg.Error
	}
	client, err := api.NewClient(cfg)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	switch {
	case len(args) == 4 && args[0] == "policy" && args[1] == "write":
		text, err := os.ReadFile(args[3])
		if err != nil {
			return err
		}
		return client.Sys().PutPolicyWithContext(ctx, args[2], string(text))
	case len(args) == 3 && args[0] == "auth" && args[1] == "enable":
		return client.Sys().EnableAuthWithOptionsWithContext(ctx, args[2], &api.EnableAuthOptions{Type: args[2]})
	case len(args) == 3 && args[0] == "secrets" && args[1] == "enable":
		return client.Sys().MountWithContext(ctx, args[2], &api.MountInput{Type: args[2]})
	case len(args) < 2 || args[0] != "read" && args[0] != "write":
		return fmt.Errorf("unknown command %q", args)
	}
	verb, field, path, data := args[0], "", "", map[string]any{}
	for _, a := range args[1:] {
		name, value, pair := strings.Cut(a, "=")
		switch {
		case a == "-f":
		case name == "-field":
			field = value
		case path == "" && !strings.HasPrefix(a, "-"):
			path = a
		case pair && !strings.HasPrefix(a, "-"):
			data[name] = value
		default:
			return fmt.Errorf("unknown flag %q", a)
		}
	}
	var secret *api.Secret
	if verb == "read" {
		secret, err = client.Logical().ReadWithContext(ctx, path)
	} else {
		secret, err = client.Logical().WriteWithContext(ctx, path, data)
	}
	if err != nil || field == "" {
		return err
	}
	if secret == nil || secret.Data[field] == nil {
		return fmt.Errorf("%s has no field %s", path, field)
	}
	fmt.Println(secret.Data[field])
	return nil
}
