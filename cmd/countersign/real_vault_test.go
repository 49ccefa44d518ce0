package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"countersign/fixtures/githost"
	"countersign/fixtures/peer"
	"countersign/fixtures/stage"
)

// The published PostgreSQL server behind countersign, with nothing around it that is not real: a
// Vault core mints its users in PostgreSQL, a certified OpenID provider its callers' tokens, and
// stock Git serves policy and record over HTTP.

// vaultPolicy is what the operator grants, as the package credential documents it.
const vaultPolicy = `
path "database/creds/*"          { capabilities = ["read"] }
path "auth/token/create"         { capabilities = ["update"] }
path "auth/token/revoke-accessor" { capabilities = ["update"] }
path "sys/leases/revoke"         { capabilities = ["update"] }
`

// escape leaves the server's read-only transaction, and writes.
const escape = "COMMIT; create table evil(a int)"

// tap stands between countersign and Vault: it notes what was minted, so that a test can try to
// log in, and can hold a request back.
type tap struct {
	*httptest.Server
	mu     sync.Mutex
	minted []login
	held   string        // paths with this prefix wait
	gate   chan struct{} // until it is closed
	came   chan struct{} // closed when one waits
}

type login struct{ path, name, password string }

func newTap(t *testing.T, address string) *tap {
	t.Helper()
	to, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	v := &tap{}
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.ModifyResponse = v.note
	v.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v.mu.Lock()
		gate, came := v.gate, v.came
		hold := v.held != "" && strings.HasPrefix(r.URL.Path, v.held)
		if hold {
			v.held = "" // one is enough
		}
		v.mu.Unlock()
		if hold {
			close(came)
			select {
			case <-gate:
			case <-r.Context().Done():
				return
			}
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(func() { v.CloseClientConnections(); v.Close() })
	return v
}

func (v *tap) note(resp *http.Response) error {
	path, minting := strings.CutPrefix(resp.Request.URL.Path, "/v1/database/creds/")
	if !minting || resp.StatusCode != http.StatusOK {
		return nil
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	var s api.Secret
	if err := json.Unmarshal(body, &s); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.minted = append(v.minted, login{path, fmt.Sprint(s.Data["username"]), fmt.Sprint(s.Data["password"])})
	return nil
}

// logins are the users minted so far.
func (v *tap) logins() []login {
	v.mu.Lock()
	defer v.mu.Unlock()
	return append([]login(nil), v.minted...)
}

// hold makes the next request to a path wait until release is called; came is closed when it does.
func (v *tap) hold(prefix string) (came <-chan struct{}, release func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.held, v.gate, v.came = prefix, make(chan struct{}), make(chan struct{})
	gate := v.gate
	return v.came, sync.OnceFunc(func() { close(gate) })
}

// real is a stage whose Vault, issuer, upstream and Git host are the real ones.
type real struct {
	*stage.Stage
	t      *testing.T
	issuer *peer.Issuer
	vault  *tap
	pg     *peer.Postgres
	git    *githost.HTTP
	env    map[string]string
}

func newReal(t *testing.T) *real {
	t.Helper()
	r := &real{Stage: newStage(t), t: t, issuer: peer.StartIssuer(t), pg: peer.StartPostgres(t)}
	core := peer.StartVault(t)
	peer.Database(t, core, r.pg)
	r.vault = newTap(t, core.Address)
	role, secretID := core.AppRole(t, vaultPolicy)

	const gitToken = "git-host-token-of-the-enforcer"
	var err error
	if r.git, err = githost.ServeHTTP(r.Dir, "x-access-token", gitToken); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.git.Close)
	r.env = map[string]string{
		"COUNTERSIGN_OIDC_ISSUERS": r.issuer.URL,
		"COUNTERSIGN_POLICY_REPO":  r.git.URL + "/policy.git", "COUNTERSIGN_AUDIT_REPO": r.git.URL + "/audit.git",
		"COUNTERSIGN_GIT_TOKEN": gitToken,
		"VAULT_ADDR":            r.vault.URL, "VAULT_ROLE_ID": role, "VAULT_SECRET_ID": secretID, "VAULT_SECRET_ID_FILE": "",
	}
	url := fmt.Sprintf("postgresql://127.0.0.1:%d/app", r.pg.Port)
	commit(t, r.Stage, "An escapable server, and what stops it", map[string]string{
		"servers/pg.yaml": fmt.Sprintf(`
server: pg
command: %s
env: { PATH: %q }
timeout: 2m
credential: reader
credentials:
  reader: { vault: database/creds/app-ro, scope: holder, ttl: 5m, inject: { env: { PGUSER: "{{username}}", PGPASSWORD: "{{password}}" } } }
  writer: { vault: database/creds/app-rw, scope: call, ttl: 5m, inject: { env: { PGUSER: "{{username}}", PGPASSWORD: "{{password}}" } } }
`, yamlList(peer.EscapableSQL(t, url)), os.Getenv("PATH")),
		"rules/pg.yaml": `
- id: developers-read
  server: pg
  tool: query
  when: '"developers" in subject.groups && has(args.sql) && !args.sql.contains("customers_owner")'
  effect: allow
- id: developers-own # as a user who may write: only the rule below stands between it and the tables
  server: pg
  tool: query
  when: '"developers" in subject.groups && has(args.sql) && args.sql.contains("customers_owner")'
  effect: allow
  credential: writer
- id: one-reading-statement
  server: pg
  tool: query
  when: has(args.sql) && (sql(args.sql).multiple || sql(args.sql).writing)
  effect: deny
  reason: The query tool reads, with one statement at a time
- id: schemas
  server: pg
  method: resources/read
  when: '"developers" in subject.groups'
  effect: allow
`,
	})
	return r
}

// commit adds files to the policy, signed by Dana.
func commit(t *testing.T, s *stage.Stage, message string, files map[string]string) string {
	t.Helper()
	content := map[string][]byte{}
	for name, text := range files {
		content[name] = []byte(strings.TrimPrefix(text, "\n"))
	}
	hash, err := s.Policy.Commit(content, message+"\n", s.Dana)
	if err != nil {
		t.Fatal(err)
	}
	return hash
}

// yamlList is a flow sequence of words. JSON is YAML.
func yamlList(words []string) string {
	b, err := json.Marshal(words)
	if err != nil {
		panic(err) // strings only
	}
	return string(b)
}

// roles are the users that Vault has made and that are still there.
func (r *real) roles() []string {
	r.t.Helper()
	return r.pg.Strings(r.t, "SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'v-%' ORDER BY 1")
}

func (r *real) tables() string {
	r.t.Helper()
	return strings.Join(r.pg.Strings(r.t, "SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'public'"), " ")
}

func TestTheRealDatabaseTheWholeWay(t *testing.T) {
	r := newReal(t)
	p := serving(t, r.Stage, r.env)
	c := p.client("pg", r.issuer.UserToken(t, "alice", r.URL))

	t.Run("a read runs as a user that Vault made for it", func(t *testing.T) {
		text, isErr := call(t, c, "query", "SELECT name, api_key, current_user::text LIKE 'v-%-app-ro-%' AS minted FROM customers ORDER BY id")
		if isErr || !strings.Contains(text, "Ada Osei") || !strings.Contains(text, `"minted": true`) {
			t.Fatalf("error=%v %s", isErr, text)
		}
		for _, key := range r.pg.Strings(t, "SELECT api_key FROM customers") {
			if strings.Contains(text, key) {
				t.Errorf("an API key came through: %s", text)
			}
		}
	})
	t.Run("the user's own password cannot be read back", func(t *testing.T) {
		made := r.vault.logins()
		if len(made) != 1 {
			t.Fatalf("users minted: %d", len(made))
		}
		text, isErr := call(t, c, "query", "SELECT reverse(reverse('"+made[0].password+"')) AS again")
		if isErr || strings.Contains(text, made[0].password) || !strings.Contains(text, "[masked: ") {
			t.Errorf("error=%v %s", isErr, text)
		}
	})
	t.Run("another rule's credential, in the same session", func(t *testing.T) {
		before := len(r.vault.logins())
		text, isErr := call(t, c, "query", "SELECT current_user::text LIKE 'v-%-app-rw-%' AS customers_owner")
		if isErr || !strings.Contains(text, `"customers_owner": true`) {
			t.Fatalf("error=%v %s", isErr, text)
		}
		made := r.vault.logins()
		if len(made) != before+1 {
			t.Fatalf("users minted: %d, want %d", len(made), before+1)
		}
		mine := made[len(made)-1]
		if err := r.pg.Login(t.Context(), mine.name, mine.password); err == nil {
			t.Error("the user made for this call outlived it")
		}
		if text, isErr = call(t, c, "query", "SELECT count(*)::text AS n FROM customers"); isErr || !strings.Contains(text, `"3"`) {
			t.Errorf("the session does not go on: error=%v %s", isErr, text)
		}
	})
	t.Run("the published escape is refused", func(t *testing.T) {
		before := len(r.vault.logins())
		text, isErr := call(t, c, "query", escape+" /* customers_owner */")
		if !isErr || !strings.Contains(text, "one statement at a time") {
			t.Errorf("error=%v %s", isErr, text)
		}
		if got := r.tables(); strings.Contains(got, "evil") {
			t.Errorf("tables: %s", got)
		}
		if len(r.vault.logins()) != before {
			t.Error("a credential was minted for a call that is denied")
		}
	})
	t.Run("resources are read where a rule says so", func(t *testing.T) {
		list, err := c.ListResources(t.Context(), nil)
		if err != nil || len(list.Resources) != 1 {
			t.Fatalf("%+v %v", list, err)
		}
		got, err := c.ReadResource(t.Context(), &mcp.ReadResourceParams{URI: list.Resources[0].URI})
		if err != nil || len(got.Contents) != 1 || !strings.Contains(got.Contents[0].Text, "api_key") {
			t.Errorf("%+v %v", got, err)
		}
	})
	t.Run("a token of the same issuer, for somebody else or of somebody else", func(t *testing.T) {
		const list = `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`
		if status, _, body := p.post("pg", r.issuer.UserToken(t, "alice", "https://elsewhere.example"), list, nil); status != http.StatusUnauthorized {
			t.Errorf("another audience: %d %s", status, body)
		}
		if _, _, body := p.post("pg", r.issuer.UserToken(t, "bob", r.URL), list, nil); !strings.Contains(body, "No rule lets you use") {
			t.Errorf("another group: %s", body)
		}
		if _, _, body := p.post("pg", r.issuer.AgentToken(t, r.URL), list, nil); !strings.Contains(body, "No rule lets you use") {
			t.Errorf("an agent by itself: %s", body)
		}
	})

	made := r.vault.logins()
	if err := r.pg.Login(t.Context(), made[0].name, made[0].password); err != nil {
		t.Errorf("the holder's user does not work while the holder lives: %v", err)
	}
	p.stop()
	for _, m := range made {
		if err := r.pg.Login(t.Context(), m.name, m.password); err == nil {
			t.Errorf("%s logs in after the enforcer stopped", m.name)
		}
	}
	if left := r.roles(); len(left) != 0 {
		t.Errorf("users left: %v", left)
	}
	t.Run("the record on the Git host proves itself", func(t *testing.T) {
		token := r.Path("git_token")
		if err := os.WriteFile(token, []byte(r.env["COUNTERSIGN_GIT_TOKEN"]+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		out, errs, code := command(t, nil, "audit", "verify", "--repo", r.git.URL+"/audit.git", "--git-token-file", token,
			"--commit-signers", r.Path("audit_signers"), "--checkpoint-key", r.Path("checkpoint.pub"))
		if code != 0 {
			t.Errorf("exit %d\n%s%s", code, out, errs)
		}
		all := git(t, r.Audit, "log", "-p", "--all") + p.log.String()
		for _, m := range made {
			if strings.Contains(all, m.password) {
				t.Error("the record or the log holds a minted password")
			}
		}
	})
	t.Run("without countersign the published server falls for the same call", func(t *testing.T) {
		argv := peer.EscapableSQL(t, r.pg.DSN())
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
		direct, err := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, nil).Connect(t.Context(),
			&mcp.CommandTransport{Command: cmd, TerminateDuration: 100 * time.Millisecond}, nil)
		if err != nil {
			t.Fatal(err)
		}
		text, isErr := call(t, direct, "query", escape)
		var exit *exec.ExitError
		if err := direct.Close(); err != nil && !errors.As(err, &exit) { // it takes a signal to end this server
			t.Error(err)
		}
		if got := r.tables(); !strings.Contains(got, "evil") {
			t.Errorf("tables: %s; it said error=%v %s", got, isErr, text)
		}
	})
}

// What a killed enforcer left in PostgreSQL is gone before the next one serves.
func TestAKilledEnforcersUsersAreDropped(t *testing.T) {
	r := newReal(t)
	p := serving(t, r.Stage, r.env)
	token := r.issuer.UserToken(t, "alice", r.URL)
	if text, isErr := call(t, p.client("pg", token), "query", "SELECT 1 AS one"); isErr {
		t.Fatal(text)
	}
	made := r.vault.logins()
	p.kill()
	if err := r.pg.Login(t.Context(), made[0].name, made[0].password); err != nil {
		t.Fatalf("the test proves nothing: the user is gone already: %v", err)
	}

	revoking, release := r.vault.hold("/v1/auth/token/revoke-accessor")
	defer release()
	again := starting(t, r.Stage, r.env)
	again.await("the revocation of the last run", func() bool {
		select {
		case <-revoking:
			return true
		default:
			return false
		}
	})
	// It may answer nothing at all yet.
	ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.URL+"/readyz", nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := http.DefaultClient.Do(req); err == nil {
		if resp.StatusCode == http.StatusOK {
			t.Error("ready, with the last run's users still there")
		}
		if err := resp.Body.Close(); err != nil {
			t.Error(err)
		}
	}
	release()
	again.await("ready", func() bool {
		status, _ := again.get("/readyz")
		return status == http.StatusOK
	})
	if left := r.roles(); len(left) != 0 {
		t.Errorf("ready, and the last run's users are there: %v", left)
	}
	if err := r.pg.Login(t.Context(), made[0].name, made[0].password); err == nil {
		t.Error("the last run's user logs in")
	}
	if text, isErr := call(t, again.client("pg", token), "query", "SELECT 1 AS one"); isErr {
		t.Error(text)
	}
}
