package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"countersign/audit"
	"countersign/fixtures/stage"
)

// mayFreeze lets bob freeze over the network.
func mayFreeze(t *testing.T, s *stage.Stage, hold string) {
	t.Helper()
	amend(t, s, s.Dana, map[string]string{"countersign.yaml": "version: 1\napprovals: { hold: " + hold + ", expires: 15m }\nfreeze: { sets: [dba] }\n"})
}

// cli runs a command against this program's enforcer, as its operator does.
func (p *program) cli(args ...string) (stdout, stderr string, code int) {
	p.t.Helper()
	return command(p.t, []string{"COUNTERSIGN_STATE_DIR=" + p.stage.Path("state")}, args...)
}

var freezeID = regexp.MustCompile(`^fz_[a-z0-9]+`)

// freeze freezes from the command line, and returns the freeze's id.
func (p *program) freeze(args ...string) string {
	p.t.Helper()
	out, errs, code := p.cli(append([]string{"freeze"}, args...)...)
	id := freezeID.FindString(out)
	if code != 0 || id == "" || errs != "" {
		p.t.Fatalf("freeze %q: exit %d\n%s%s", args, code, out, errs)
	}
	return id
}

func (p *program) unfreeze(args ...string) {
	p.t.Helper()
	if out, errs, code := p.cli(append([]string{"unfreeze"}, args...)...); code != 0 || !strings.Contains(out, "unfrozen: ") {
		p.t.Fatalf("unfreeze %q: exit %d\n%s%s", args, code, out, errs)
	}
}

// frozen checks that an answer says so, that it is recorded, and why.
func (p *program) frozen(a answer, why string) {
	p.t.Helper()
	if !strings.Contains(a.text, "frozen by ") || !strings.Contains(a.text, why) || !strings.Contains(a.text, "nothing ran") {
		p.t.Errorf("want frozen, %s; got %+v", why, a)
	}
	if en := p.wants(a.record, audit.KindRefused, audit.StatusFrozen); !strings.Contains(en.Reason, why) {
		p.t.Errorf("recorded as %+v", en)
	}
}

// freezeEntries counts what the record says of a freeze.
func (p *program) freezeEntries(id, status string) int {
	p.t.Helper()
	return len(p.entries(func(en audit.Entry) bool { return en.Kind == audit.KindFreeze && en.Call == id && en.Status == status }))
}

// Freezing everything ends all that is under way, and holds over a crash and
// over the loss of the store.
func TestFreezeEverything(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "5m")
	arrived, cancelled := make(chan string, 4), make(chan string, 4)
	told := make(chan struct{}, 4)
	u.answerWith(func(w http.ResponseWriter, r *http.Request, id json.RawMessage, method, tool string) bool {
		name := tool
		switch {
		case r.Method == http.MethodGet:
			name = "stream"
			w.Header().Set("Content-Type", "text/event-stream")
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
		case method == "notifications/cancelled":
			told <- struct{}{}
			return false
		case tool != "once":
			return false
		}
		arrived <- name
		<-r.Context().Done()
		cancelled <- name
		return true
	})
	p := serving(t, s, nil)
	alice := p.token("alice", "support")
	opened := p.ask("probe", alice, `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}`)
	session := opened.header.Get("Mcp-Session-Id")
	if a := p.ask("probe", alice, toolCall("leak", "x")); a.text != "ran leak" || len(s.Vault.Leases()) != 1 {
		t.Fatalf("%+v, leases %v", a, s.Vault.Leases())
	}

	// A stream, a running call, a waiting one.
	streamed := make(chan string, 1)
	go func() {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/mcp/probe", nil)
		if err != nil {
			t.Error(err)
			return
		}
		req.Header.Set("Authorization", "Bearer "+alice)
		req.Header.Set("Accept", "text/event-stream")
		req.Header.Set("Mcp-Session-Id", session)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Error(err)
			streamed <- ""
			return
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Errorf("the stream broke: %v", err)
		}
		streamed <- string(b)
	}()
	within(t, arrived, "the call at the server")
	running := p.asking(t.Context(), "probe", alice, toolCall("once", "x"))
	within(t, arrived, "the call at the server")
	waiting := p.asking(t.Context(), "probe", alice, toolCall("risky", "frozen"))
	awaitCard(t, s, "frozen")
	if n := len(s.Vault.Leases()); n != 2 {
		t.Errorf("%d leases", n)
	}

	if st, err := os.Stat(s.Path("state/control.sock")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the control socket: %v %v", st, err)
	}
	id := p.freeze("--all", "--reason", "incident 42")
	for range 2 {
		within(t, cancelled, "the cancellation at the server")
	}
	p.await("the legacy era's way to cancel", func() bool {
		select {
		case <-told:
			return true
		default:
			return false
		}
	})
	if got := <-streamed; !strings.Contains(got, ": frozen by operator uid ") || !strings.Contains(got, "incident 42") {
		t.Errorf("the stream ended with %q", got)
	}
	a := <-running
	if !a.failed || !strings.Contains(a.text, "incident 42") || !strings.Contains(a.text, "may have run") {
		t.Errorf("the running call got %+v", a)
	}
	p.wants(a.record, audit.KindOutcome, audit.StatusFrozen)
	p.frozen(<-waiting, "incident 42")
	p.await("the end of all leases", func() bool { return len(s.Vault.Leases()) == 0 })
	closed := p.entries(func(en audit.Entry) bool {
		return en.Kind == audit.KindOutcome && en.Method == "notifications/stream" && en.Status == audit.StatusFrozen
	})
	if len(closed) != 1 {
		t.Errorf("the stream's end is recorded %d times", len(closed))
	}

	// Nothing reaches the upstream any more, and nobody is asked.
	before, cards := u.requests(), len(s.Slack.Cards(stage.Channel))
	for _, body := range []string{toolCall("echo", "x"), toolCall("leak", "x"), toolCall("risky", "again"), `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`} {
		p.frozen(p.ask("probe", alice, body), "incident 42")
	}
	if u.requests() != before || len(s.Slack.Cards(stage.Channel)) != cards || len(s.Vault.Leases()) != 0 {
		t.Error("somebody was contacted")
	}
	if status, body := p.get("/readyz"); status != http.StatusOK || !strings.Contains(body, `"frozen": "everything is frozen by operator uid `) {
		t.Errorf("readyz: %d %s", status, body)
	}

	// The crash comes right after another freeze was confirmed.
	second := p.freeze("--tool", "elsewhere-not", "--reason", "second")
	p.killed()
	if _, errs, code := p.cli("freezes"); code != 2 || !strings.Contains(errs, "no enforcer answers at control.sock in "+s.Path("state")) {
		t.Errorf("with no enforcer: exit %d %s", code, errs)
	}
	p = serving(t, s, nil) // over the socket that the crash left
	p.frozen(p.ask("probe", alice, toolCall("echo", "x")), "incident 42")
	p.killed()
	if err := os.RemoveAll(s.Path("state/kv")); err != nil {
		t.Fatal(err)
	}
	p = serving(t, s, nil) // from the journal
	p.frozen(p.ask("probe", alice, toolCall("echo", "x")), "incident 42")
	out, _, code := p.cli("freezes")
	if lines := strings.Split(out, "\n"); code != 0 || len(lines) != 4 || !strings.Contains(lines[1], id+"  everything") || !strings.Contains(lines[2], second+"  tool elsewhere-not") {
		t.Errorf("exit %d\n%s", code, out)
	}
	if p.freezeEntries(id, audit.StatusFrozen) != 1 || p.freezeEntries(id, audit.StatusStanding) != 2 {
		t.Errorf("the record: %+v", p.entries(func(en audit.Entry) bool { return en.Kind == audit.KindFreeze }))
	}

	if _, errs, code := p.cli("unfreeze", "fz_nosuch"); code != 2 || !strings.Contains(errs, "no such freeze stands") {
		t.Errorf("exit %d %s", code, errs)
	}
	if _, errs, code := p.cli("unfreeze", id, "--reason", "two\nlines"); code != 2 || !strings.Contains(errs, "why it is lifted is one line") {
		t.Errorf("exit %d %s", code, errs)
	}
	p.unfreeze(id, "--reason", "the mail is stopped, and ghp_0123456789abcdefghijklmnopqrstuvwxyzAB revoked")
	u.answerWith(nil)
	if a := p.ask("probe", alice, toolCall("leak", "x")); a.text != "ran leak" {
		t.Errorf("got %+v", a)
	}
	p.unfreeze("--all")
	if out, _, _ := p.cli("freezes"); out != "nothing is frozen\n" {
		t.Error(out)
	}
	p.killed()
	p = serving(t, s, nil) // lifted is lifted
	if a := p.ask("probe", alice, toolCall("echo", "x")); a.text != "ran echo" {
		t.Errorf("got %+v", a)
	}
	p.stop()
	verified(t, s)
	shown, _, _ := command(t, nil, "audit", "show", "--repo", s.Audit, id)
	for _, words := range []string{"operator uid ", "froze everything: incident 42", "still frozen", "unfroze everything (the mail is stopped, and ", `"why": "the mail is stopped, and [masked: github-pat] revoked"`} {
		if !strings.Contains(shown, words) {
			t.Errorf("audit show does not say %q:\n%s", words, shown)
		}
	}
}

// A freeze of a part stops that part, and nothing beside it.
func TestFreezeAPart(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "5m")
	amend(t, s, s.Dana, map[string]string{
		"servers/other.yaml": "server: other\nurl: " + u.url + "\n", "rules/other.yaml": "- { id: other-all, server: other, effect: allow }\n",
	})
	p := serving(t, s, nil)
	alice, erin := p.token("alice", "support"), p.token("erin", "support")
	desk, err := s.Token("alice", nil, map[string]any{"client_id": "another|desk"})
	if err != nil {
		t.Fatal(err)
	}
	leak := func(token string) {
		t.Helper()
		if a := p.ask("probe", token, toolCall("leak", "x")); a.text != "ran leak" {
			t.Fatalf("%+v", a)
		}
	}
	type ask struct{ server, token, tool string }
	for name, c := range map[string]struct {
		args         []string
		stops, spare []ask
		leases       int // left, of three holders'
	}{
		"subject": {[]string{"--subject", s.Issuer.URL + "#alice"}, []ask{{"probe", alice, "echo"}, {"other", alice, "echo"}, {"probe", desk, "echo"}}, []ask{{"probe", erin, "echo"}}, 1},
		"client":  {[]string{"--client", "another|desk"}, []ask{{"probe", desk, "echo"}}, []ask{{"probe", alice, "echo"}}, 2},
		"server":  {[]string{"--server", "probe"}, []ask{{"probe", alice, "echo"}, {"probe", erin, "leak"}}, []ask{{"other", alice, "echo"}}, 0},
		"tool":    {[]string{"--tool", "echo"}, []ask{{"probe", alice, "echo"}, {"other", erin, "echo"}}, []ask{{"other", alice, "leak"}}, 3},
		"several": {[]string{"--subject", s.Issuer.URL + "#alice", "--client", stage.Agent, "--server", "probe", "--tool", "echo"}, []ask{{"probe", alice, "echo"}},
			[]ask{{"probe", desk, "echo"}, {"probe", erin, "echo"}, {"other", alice, "echo"}, {"probe", alice, "once"}}, 3},
	} {
		for _, token := range []string{alice, erin, desk} {
			leak(token)
		}
		id := p.freeze(append(c.args, "--reason", "of a "+name)...)
		before := u.requests()
		for _, a := range c.stops {
			p.frozen(p.ask(a.server, a.token, toolCall(a.tool, "x")), "of a "+name)
		}
		if u.requests() != before {
			t.Errorf("%s: the upstream was contacted", name)
		}
		for _, a := range c.spare {
			if got := p.ask(a.server, a.token, toolCall(a.tool, "x")); got.text != "ran "+a.tool {
				t.Errorf("%s: %+v got %+v", name, a, got)
			}
		}
		p.await(name+": leases of the frozen end", func() bool { return len(s.Vault.Leases()) == c.leases })
		p.unfreeze(id)
	}
	// An approval that was given before a freeze is not spent while it stands.
	waiting := p.asking(t.Context(), "probe", alice, toolCall("risky", "thaw"))
	card := awaitCard(t, s, "thaw")
	id := p.freeze("--tool", "risky", "--reason", "not now")
	p.frozen(<-waiting, "not now")
	if err := approve(t, s, card, stage.SlackBob); err != nil {
		t.Fatal(err)
	}
	p.awaitEvent("risky", "approved")
	p.frozen(p.ask("probe", alice, toolCall("risky", "thaw")), "not now")
	if u.ran("risky") != 0 || p.happened("risky", "spent") != 0 {
		t.Error("it was spent")
	}
	p.unfreeze(id)
	if a := p.ask("probe", alice, toolCall("risky", "thaw")); a.text != "ran risky" || u.ran("risky") != 1 {
		t.Errorf("got %+v", a)
	}
	// A call whose credential is just being minted goes no further, and the
	// credential ends as soon as it is there.
	minting, mint := make(chan struct{}, 1), make(chan struct{})
	minted := sync.OnceFunc(func() { close(mint) })
	t.Cleanup(minted)
	s.Vault.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "database/creds/") {
			minting <- struct{}{}
			<-mint
		}
		return false
	})
	left := len(s.Vault.Leases())
	caught := p.asking(t.Context(), "probe", erin, toolCall("once", "x"))
	within(t, minting, "the mint")
	before := u.requests()
	id = p.freeze("--tool", "once", "--reason", "in between")
	if a := <-caught; !strings.Contains(a.text, "in between") || !strings.Contains(a.text, "nothing ran") || u.requests() != before {
		t.Errorf("got %+v", a)
	} else {
		p.wants(a.record, audit.KindOutcome, audit.StatusFrozen)
	}
	s.Vault.Intercept(nil)
	minted()
	p.await("the end of what was being minted", func() bool {
		minted := p.entries(func(en audit.Entry) bool {
			return en.Kind == audit.KindCredential && en.Credential == "probe-call"
		})
		return len(minted)%2 == 0 && len(minted) > 0 && minted[len(minted)-1].Status == "revoke" && len(s.Vault.Leases()) == left
	})
	p.unfreeze(id)
	if _, errs, code := p.cli("freeze", "--server", "probes", "--reason", "typo"); code != 0 || !strings.Contains(errs, `the policy in force has no server "probes"`) {
		t.Errorf("exit %d %s", code, errs)
	}
	p.stop()
	verified(t, s)
}

// operateToken is bob's token for operating the enforcer.
func operateToken(t *testing.T, s *stage.Stage) string {
	t.Helper()
	tok, err := s.Token("bob", nil, map[string]any{"aud": s.URL + "/operate"})
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// operate makes one request of the endpoint.
func (p *program) operate(method, path, token, body string, edit func(*http.Request)) (int, http.Header, string) {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), method, p.stage.URL+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if edit != nil {
		edit(req)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(b)
}

// Over the network a person freezes whom the policy names, with a token that is
// good for nothing else.
func TestFreezeOverTheNetwork(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "5m")
	mayFreeze(t, s, "5m")
	p := serving(t, s, nil)
	mint := func(sub string, aud any) string {
		t.Helper()
		tok, err := s.Token(sub, nil, map[string]any{"aud": aud})
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	operate := s.URL + "/operate"
	bob, alice := operateToken(t, s), p.token("alice", "support")
	const all = `{"all":true,"reason":"drill"}`

	for name, c := range map[string]struct {
		token, body string
		edit        func(*http.Request)
		status      int
		says        string
	}{
		"no token":              {"", all, nil, 401, "a bearer token for operating"},
		"a token for MCP":       {mint("bob", s.URL), all, nil, 401, "a bearer token for operating"},
		"a token for both":      {mint("bob", []string{operate, s.URL}), all, nil, 401, "a bearer token for operating"},
		"a token for a server":  {mint("bob", []string{operate, s.URL + "/mcp/probe"}), all, nil, 401, "a bearer token for operating"},
		"no token at all":       {"x.y.z", all, nil, 401, "a bearer token for operating"},
		"somebody not named":    {mint("alice", operate), all, nil, 403, "does not name you"},
		"somebody unknown":      {mint("mallory", operate), all, nil, 403, "does not name you"},
		"a foreign host":        {bob, all, func(r *http.Request) { r.Host = "evil.example" }, 403, "is not served here"},
		"a foreign origin":      {bob, all, func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") }, 403, "may not call"},
		"two tokens":            {bob, all, func(r *http.Request) { r.Header.Add("Authorization", "Bearer x") }, 401, "a bearer token for operating"},
		"no reason":             {bob, `{"all":true}`, nil, 400, "needs a reason"},
		"nothing":               {bob, `{"reason":"drill"}`, nil, 400, "what to freeze"},
		"everything and a part": {bob, `{"all":true,"server":"probe","reason":"drill"}`, nil, 400, "not both"},
		"an unknown member":     {bob, `{"all":true,"tools":"x","reason":"drill"}`, nil, 400, "cannot be read"},
		"a member twice":        {bob, `{"all":false,"all":true,"reason":"drill"}`, nil, 400, "cannot be read"},
		"no JSON":               {bob, `all`, nil, 400, "cannot be read"},
		"too large":             {bob, `{"all":true,"reason":"` + strings.Repeat("x", 20<<10) + `"}`, nil, 400, "cannot be read"},
		"two lines":             {bob, `{"all":true,"reason":"a\nb"}`, nil, 400, "one line"},
		"another type":          {bob, all, func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") }, 400, "application/json"},
	} {
		status, header, body := p.operate(http.MethodPost, "/freezes", c.token, c.body, c.edit)
		if status != c.status || !strings.Contains(body, c.says) || header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %s", name, status, body)
		}
		if (status == 401) != strings.HasPrefix(header.Get("WWW-Authenticate"), `Bearer realm="countersign operate"`) {
			t.Errorf("%s: %d %q", name, status, header.Get("WWW-Authenticate"))
		}
	}
	if a := p.ask("probe", alice, toolCall("echo", "x")); a.text != "ran echo" {
		t.Errorf("one of them froze: %+v", a)
	}
	for _, method := range []string{http.MethodGet, http.MethodDelete} {
		if status, _, body := p.operate(method, "/freezes", alice, "", nil); status != 401 {
			t.Errorf("%s: %d %s", method, status, body)
		}
	}
	if status, _, _ := p.post("probe", bob, toolCall("echo", "x"), nil); status != 401 {
		t.Errorf("a token for operating calls MCP: %d", status)
	}

	// A secret in a reason goes no further.
	status, _, body := p.operate(http.MethodPost, "/freezes", bob, `{"tool":"echo","reason":"leaked ghp_0123456789abcdefghijklmnopqrstuvwxyzAB"}`, nil)
	var f struct{ ID, By, Reason, Warning string }
	if err := json.Unmarshal([]byte(body), &f); err != nil || status != http.StatusCreated || f.By != "bob" || f.Warning != "" || strings.Contains(body, "ghp_") {
		t.Fatalf("%d %s %v", status, body, err)
	}
	p.frozen(p.ask("probe", alice, toolCall("echo", "x")), "frozen by bob since ")
	if status, _, body := p.operate(http.MethodDelete, "/freezes/"+f.ID, mint("alice", operate), "", nil); status != 403 {
		t.Errorf("%d %s", status, body)
	}
	if status, _, body := p.operate(http.MethodDelete, "/freezes/fz_other", bob, "", nil); status != 404 {
		t.Errorf("%d %s", status, body)
	}
	if status, _, body := p.operate(http.MethodDelete, "/freezes/"+f.ID, bob, "", nil); status != 200 || !strings.Contains(body, f.ID) {
		t.Errorf("%d %s", status, body)
	}
	if a := p.ask("probe", alice, toolCall("echo", "x")); a.text != "ran echo" {
		t.Errorf("got %+v", a)
	}

	// The command line comes the same way.
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(bob+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	there := []string{"--url", s.URL, "--token-file", file}
	out, errs, code := command(t, nil, append([]string{"freeze", "--all", "--reason", "drill"}, there...)...)
	if code != 0 || !strings.Contains(out, "frozen: everything") {
		t.Errorf("exit %d %s%s", code, out, errs)
	}
	p.frozen(p.ask("probe", alice, toolCall("echo", "x")), "drill")
	if out, _, _ := command(t, nil, append([]string{"freezes", "--json"}, there...)...); !strings.Contains(out, `"by": "bob"`) {
		t.Error(out)
	}
	if out, errs, code := command(t, nil, append([]string{"unfreeze", "--all"}, there...)...); code != 0 || !strings.Contains(out, "unfrozen: everything") {
		t.Errorf("exit %d %s%s", code, out, errs)
	}
	if _, errs, code := command(t, nil, "freezes", "--url", "http://gate.example", "--token-file", file); code != 2 || !strings.Contains(errs, "want https") {
		t.Errorf("exit %d %s", code, errs)
	}

	p.stop()
	verified(t, s)
	failed, refused := 0, 0
	for _, en := range p.journal() {
		if en.Kind == audit.KindAuthFailed && strings.HasPrefix(en.Reason, "freezes: ") {
			failed++
		}
		if en.Kind == audit.KindFreeze && en.Status == audit.StatusRefused && en.Sub != "" {
			refused++
		}
		if en.Kind == audit.KindFreeze && en.Status == audit.StatusFrozen && (en.Sub != "bob" || en.Issuer != s.Issuer.URL) {
			t.Errorf("who froze? %+v", en)
		}
		if bytes.Contains(en.Detail, []byte("ghp_")) || strings.Contains(en.Reason, "ghp_") {
			t.Errorf("a secret is in the record: %+v", en)
		}
	}
	if failed < 4 || refused != 3 {
		t.Errorf("%d failed authentications, %d refusals in the record", failed, refused)
	}
}

// Who cannot reach the enforcer is told so, and how.
func TestFreezeWithoutAnEnforcer(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		dir  string
		args []string
		says string
	}{
		"no directory":  {filepath.Join(t.TempDir(), "nowhere"), []string{"freeze", "--all", "--reason", "x"}, "not frozen: no enforcer answers at control.sock"},
		"a long path":   {"/" + strings.Repeat("x", 100), []string{"freezes"}, "a Unix socket's path at most 107"},
		"serving there": {"/" + strings.Repeat("x", 100), []string{"serve"}, "a Unix socket's path at most 107"},
		"no target":     {"", []string{"freeze", "--reason", "x"}, "at least one of the flags"},
		"two targets":   {"", []string{"freeze", "--all", "--tool", "x", "--reason", "x"}, "all"},
		"no reason":     {"", []string{"freeze", "--all"}, `"reason" not set`},
		"no issuer":     {"", []string{"freeze", "--subject", "alice", "--reason", "x"}, "want ISSUER#SUB"},
		"no id":         {"", []string{"unfreeze"}, "unfreeze what?"},
		"url alone":     {"", []string{"freezes", "--url", "https://gate.example"}, "go together"},
	} {
		out, errs, code := command(t, []string{"COUNTERSIGN_STATE_DIR=" + c.dir}, c.args...)
		if code != 2 || !strings.Contains(errs, c.says) || out != "" {
			t.Errorf("%s: exit %d\n%s%s", name, code, out, errs)
		}
	}
}
