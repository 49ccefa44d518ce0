package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"countersign/fixtures/peer"
	"countersign/fixtures/port"
	"countersign/fixtures/stage"
)

// The soak: many calls of several callers, each with a user that Vault makes in
// PostgreSQL, at servers that show the password in every way they can, while
// enforcer, Vault and servers are killed. In the end nothing is left: no lease
// in Vault, no role in PostgreSQL, and no value that Vault ever gave out in any
// log, journal, Git object, chat message or answer.
//
// The mix: of ten calls two have a user made for them alone, and dropped with
// them; the others share their holder's, which is made anew after each death of
// the enforcer. One call in four goes to a spawned server, one in fifty has a
// server die while it answers, one in fifty is asked to be approved and is not.
//
// COUNTERSIGN_SOAK_CALLS says how many calls (`make soak`: 100,000),
// COUNTERSIGN_SOAK_SEED which ones, and when who dies.

const soakWorkers = 12

func TestSoak(t *testing.T) {
	t.Parallel()
	calls, seed := soakNumber(t, "COUNTERSIGN_SOAK_CALLS", 300), soakNumber(t, "COUNTERSIGN_SOAK_SEED", 20260728)
	t.Logf("%d calls, seed %d", calls, seed)
	s := newSoak(t, uint64(seed))
	defer s.web.kill()
	work := make(chan int)
	var workers sync.WaitGroup
	for range soakWorkers {
		workers.Go(func() {
			for n := range work {
				s.call(n)
			}
		})
	}
	begin := time.Now()
	since := func() time.Duration { return time.Since(begin).Round(time.Second) }
	deaths := s.schedule(calls)
	var back func() // what brings the dead one back
	until := 0
	for n := range calls {
		if back != nil && n >= until {
			back()
			back = nil
		}
		for back == nil && len(deaths) > 0 && deaths[0].at <= n {
			t.Logf("%s, before call %d: %s is killed", since(), n, deaths[0].who)
			back, until = s.kill(deaths[0].who), n+2*soakWorkers
			deaths = deaths[1:]
		}
		work <- n
	}
	close(work)
	workers.Wait()
	if back != nil {
		back()
	}
	_, metrics := s.program.get("/metrics")
	s.keep(metrics)
	s.program.stop()
	s.shelve()
	t.Logf("%s: the calls are over", since())
	s.nothingLives()
	s.nothingIsSeen()
	if got := s.vault.users(); got < calls/10 {
		t.Errorf("%d users were made for %d calls: this proves little", got, calls)
	}
	for _, why := range slices.Sorted(maps.Keys(s.why)) {
		t.Logf("did not go through: %d × %q", s.why[why], why)
	}
	t.Logf("%s: %d calls: %d went through, %d were refused or cut; %d users made, %d values given out; %d starts of the enforcer",
		since(), calls, s.through.Load(), s.failed.Load(), s.vault.users(), len(s.vault.values()), s.runs)
}

func soakNumber(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q: want a number", name, text)
	}
	return n
}

// soak is what takes part.
type soak struct {
	t     *testing.T
	seed  uint64
	stage *stage.Stage
	core  *peer.Vault
	vault *witness
	pg    *peer.Postgres
	web   *webServer
	env   map[string]string
	user  []string // tokens

	up      sync.RWMutex // held while the enforcer is not there
	program *program
	runs    int    // of the enforcer
	logs    string // the folder with the logs of those that are over

	through, failed atomic.Int64

	mu   sync.Mutex
	seen *os.File       // all that clients got
	why  map[string]int // calls that did not go through, by the reason
}

const soakPolicy = `
- { id: once, server: [web, shell], tool: once, effect: allow, credential: call }
- { id: held, server: [web, shell], tool: held, effect: allow, credential: holder }
- { id: risky, server: web, tool: risky, effect: approve, reason: Risky things need a DBA, approval: { approvers: dba }, credential: call }
`

func newSoak(t *testing.T, seed uint64) *soak {
	s := &soak{t: t, seed: seed, why: map[string]int{}, stage: newStage(t), core: peer.StartDurableVault(t), pg: peer.StartPostgres(t)}
	peer.Database(t, s.core, s.pg)
	// One that was dropped right before a crash is dropped again. (Vault's own
	// statements would do, too; they search all grants, at 30 ms a user.)
	s.core.Write(t, "database/config/app", map[string]any{"allowed_roles": "app-ro,app-rw,soak"})
	s.core.Write(t, "database/roles/soak", map[string]any{
		"db_name": "app", "default_ttl": "10m", "max_ttl": "1h",
		"creation_statements":   []string{`CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'`},
		"revocation_statements": []string{`DROP ROLE IF EXISTS "{{name}}"`},
	})
	role, secretID := s.core.AppRole(t, vaultPolicy)
	s.vault = newWitness(t, s.core.Address)
	s.env = map[string]string{"VAULT_ADDR": s.vault.URL, "VAULT_ROLE_ID": role, "VAULT_SECRET_ID": secretID, "VAULT_SECRET_ID_FILE": "", "COUNTERSIGN_LOG_LEVEL": "debug",
		"COUNTERSIGN_AUDIT_WINDOW": "200ms"} // so that Git has the record of runs that are killed
	s.web = startWeb(t)
	script := s.stage.Path("shell.sh")
	if err := os.WriteFile(script, []byte(leakyShell), 0o600); err != nil {
		t.Fatal(err)
	}
	inject := func(how string) string {
		return fmt.Sprintf("credentials:\n  call: { vault: database/creds/soak, scope: call, ttl: 5m, inject: %[1]s }\n  holder: { vault: database/creds/soak, scope: holder, ttl: 5m, inject: %[1]s }\n", how)
	}
	amend(t, s.stage, s.stage.Dana, map[string]string{
		"countersign.yaml":   "version: 1\napprovals: { hold: 1s, expires: 15m }\n",
		"servers/web.yaml":   "server: web\nurl: " + s.web.url + "\ntimeout: 20s\n" + inject(`{ headers: { Authorization: "{{basic username password}}" } }`),
		"servers/shell.yaml": fmt.Sprintf("server: shell\ncommand: [sh, %q]\nenv: { PATH: %q }\ntimeout: 20s\n", script, os.Getenv("PATH")) + inject(`{ env: { PGUSER: "{{username}}", PGPASSWORD: "{{password}}" } }`),
		"rules/soak.yaml":    soakPolicy, "rules/customers.yaml": "", "tests/customers.yaml": "",
	})
	for i := range soakWorkers + 2 {
		token, err := s.stage.Token(fmt.Sprintf("user%d", i), []string{"support"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		s.user = append(s.user, token)
	}
	var err error
	if s.seen, err = os.Create(filepath.Join(t.TempDir(), "answers")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.seen.Close(); err != nil {
			t.Error(err)
		}
	})
	s.logs = t.TempDir()
	s.start()
	return s
}

func (s *soak) start() {
	s.program = serving(s.t, s.stage, s.env)
	s.vault.forget() // a value of an earlier run is dead by now, and nobody here has heard of it
	s.runs++
}

// shelve puts the log of a run that is over into a file, but for its end, which
// a test that fails shows: a hundred of them would not fit into memory, nor into
// an eye.
func (s *soak) shelve() {
	log := s.program.log
	log.mu.Lock()
	defer log.mu.Unlock()
	if err := os.WriteFile(filepath.Join(s.logs, fmt.Sprint("run ", s.runs)), log.b.Bytes(), 0o600); err != nil {
		s.t.Error(err)
	}
	end := log.b.Bytes()[max(0, log.b.Len()-1<<14):]
	log.b = *bytes.NewBuffer(slices.Clone(end))
}

// death is one that is to be killed before call at.
type death struct {
	at  int
	who string
}

// schedule says who dies when, by the seed.
func (s *soak) schedule(calls int) (all []death) {
	r := rand.New(rand.NewPCG(s.seed, 0))
	for _, d := range []struct {
		who   string
		every int // calls
	}{{"the enforcer", 2500}, {"Vault", 1000}, {"the web server", 1000}} { // the first reads all earlier journals when it starts
		for range max(2, calls/d.every) {
			all = append(all, death{soakWorkers + r.IntN(calls), d.who})
		}
	}
	slices.SortFunc(all, func(a, b death) int { return cmp.Compare(a.at, b.at) })
	return all
}

// kill kills one with SIGKILL, and returns what brings it back: later, or, for
// the enforcer, without which there is nothing to see, at once.
func (s *soak) kill(who string) (back func()) {
	switch who {
	case "Vault":
		// Not while it makes a user: what it has made in PostgreSQL and not yet
		// noted, it does not know any more. That is between these two.
		release := s.vault.quiet()
		s.core.Kill()
		release()
		return func() { s.core.Restart(s.t) }
	case "the web server":
		s.web.kill()
		return func() { s.web.start(s.t) }
	}
	s.up.Lock()
	defer s.up.Unlock()
	s.program.kill()
	s.shelve()
	s.start()
	return nil
}

// call makes call n, and keeps what comes.
func (s *soak) call(n int) {
	r := rand.New(rand.NewPCG(s.seed, uint64(n)+1))
	server := []string{"web", "web", "web", "shell"}[r.IntN(4)]
	tool := []string{"once", "held", "held", "held", "held"}[r.IntN(5)]
	what := fmt.Sprint("how ", r.IntN(spellings))
	var p *program
	switch r.IntN(50) {
	case 0:
		what = "die"
	case 1: // somebody knows a value of this run, and says it: card and record must not
		s.up.RLock()
		defer s.up.RUnlock()
		p = s.program
		server, tool = "web", "risky"
		if all := s.vault.known(); len(all) > 0 {
			what = all[r.IntN(len(all))]
		}
	}
	body, edit := toolCall(tool, what), func(*http.Request) {}
	switch r.IntN(4) {
	case 0:
		if server == "shell" { // which wants a session in that era
			body, edit = stateless(tool, what), mirroredCall(tool, "")
		}
	case 1:
		server, body, edit = "", strings.Replace(stateless(tool, what), `"name":"`, `"name":"`+server+`__`, 1), mirroredCall(server+"__"+tool, "/mcp")
	default:
		body, edit = stateless(tool, what), mirroredCall(tool, "")
	}
	if p == nil { // it may die while this runs
		p = s.running()
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	a, err := p.send(ctx, server, s.user[r.IntN(len(s.user))], body, edit)
	if shown := a.code == -32000 && a.text == "failed"; err != nil || a.failed || a.code != 0 && !shown { // the server's own error
		s.failed.Add(1)
		s.refused(err, a)
	} else {
		s.through.Add(1)
	}
	s.keep(fmt.Sprint(a.header, a.body))
}

// refused counts why calls do not go through, by the words for it, without what
// differs from call to call.
func (s *soak) refused(err error, a answer) {
	why := a.text
	if err != nil {
		why = "the client: " + err.Error()
		why = why[strings.LastIndex(why, ": ")+2:]
	}
	why, _, _ = strings.Cut(why, " (")
	why = strings.Map(func(c rune) rune {
		if c >= '0' && c <= '9' {
			return -1
		}
		return c
	}, why)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.why[why[:min(len(why), 120)]]++
}

// running is the enforcer, once there is one.
func (s *soak) running() *program {
	s.up.RLock()
	defer s.up.RUnlock()
	return s.program
}

func stateless(tool, what string) string {
	return strings.Replace(toolCall(tool, what), `"params":{`, `"params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}},`, 1)
}

func mirroredCall(name, path string) func(*http.Request) {
	return func(r *http.Request) {
		if path != "" {
			r.URL.Path = path
		}
		r.Header.Set("Mcp-Protocol-Version", "2026-07-28")
		r.Header.Set("Mcp-Method", "tools/call")
		r.Header.Set("Mcp-Name", name)
	}
}

func (s *soak) keep(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.seen.WriteString(text + "\n"); err != nil {
		s.t.Error(err)
	}
}

// nothingLives waits until Vault has done what it was told, and looks.
func (s *soak) nothingLives() {
	s.t.Helper()
	client := s.core.Client(s.t, "")
	leases := func() (all []string) {
		all = s.list(client, "sys/leases/lookup/database/creds/soak")
		for _, accessor := range s.list(client, "auth/token/accessors") {
			token, err := client.Auth().Token().LookupAccessorWithContext(s.t.Context(), accessor)
			if err != nil {
				continue // it has ended meanwhile
			}
			if name := fmt.Sprint(token.Data["display_name"]); strings.Contains(name, "countersign") {
				all = append(all, "token "+name)
			}
		}
		return all
	}
	roles := func() []string {
		return s.pg.Strings(s.t, "SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'v-%' ORDER BY 1")
	}
	limit := time.After(patience)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for len(leases())+len(roles()) > 0 {
		select {
		case <-limit:
			s.t.Errorf("left in Vault: %q\nleft in PostgreSQL: %q", leases(), roles())
			return
		case <-tick.C:
		}
	}
}

func (s *soak) list(client *api.Client, path string) (all []string) {
	s.t.Helper()
	found, err := client.Logical().ListWithContext(s.t.Context(), path)
	if err != nil {
		s.t.Fatal(err)
	}
	if found == nil {
		return nil
	}
	keys, _ := found.Data["keys"].([]any)
	for _, k := range keys {
		all = append(all, fmt.Sprint(k))
	}
	return all
}

// webServer is the HTTP upstream, a process of its own at one address.
type webServer struct {
	url, listen string
	cmd         *exec.Cmd
}

const asWebServer = "COUNTERSIGN_TEST_AS_WEB_SERVER"

func startWeb(t *testing.T) *webServer {
	t.Helper()
	number, err := port.Free()
	if err != nil {
		t.Fatal(err)
	}
	w := &webServer{listen: net.JoinHostPort("127.0.0.1", strconv.Itoa(number))}
	w.url = "http://" + w.listen
	w.start(t)
	return w
}

// start returns when the server listens.
func (w *webServer) start(t *testing.T) {
	t.Helper()
	w.cmd = exec.Command(os.Args[0])
	w.cmd.Env = []string{asWebServer + "=" + w.listen}
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatalf("the web server does not start: %v", err)
	}
}

func (w *webServer) kill() {
	if err := w.cmd.Process.Kill(); err == nil || errors.Is(err, os.ErrProcessDone) {
		_ = w.cmd.Wait() // it says that it was killed
	}
}
