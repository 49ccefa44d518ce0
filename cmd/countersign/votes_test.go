package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"countersign/audit"
	"countersign/fixtures/issuer"
	"countersign/fixtures/peer"
	"countersign/fixtures/port"
	"countersign/fixtures/stage"
)

// votesClient is the client as which people sign in to vote.
const votesClient = "countersign-votes"

// signsIn has the stage's issuer sign people in, by the code flow: whoever sits at the browser.
type signsIn struct {
	t     *testing.T
	s     *stage.Stage
	mu    sync.Mutex
	who   issuer.Claims // of the ID token
	asked []url.Values  // what each sign-in asked for
}

func signingIn(t *testing.T, s *stage.Stage) *signsIn {
	t.Helper()
	i := &signsIn{t: t, s: s}
	s.Issuer.Intercept(i.serve)
	return i
}

// sit has somebody at the browser, who types their password whenever asked; more goes over the claims
// of their ID token.
func (i *signsIn) sit(sub string, more issuer.Claims) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.who = issuer.Claims{"sub": sub, "aud": votesClient}
	maps.Copy(i.who, more)
}

func (i *signsIn) serve(w http.ResponseWriter, r *http.Request) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case r.URL.Path == "/authorize":
		q := r.URL.Query()
		i.asked = append(i.asked, q)
		back := url.Values{"code": {fmt.Sprint("code-", len(i.asked))}, "state": {q.Get("state")}, "iss": {i.s.Issuer.URL}}
		http.Redirect(w, r, q.Get("redirect_uri")+"?"+back.Encode(), http.StatusFound)
		return true
	case r.URL.Path == "/token" && r.ParseForm() == nil && r.PostForm.Get("grant_type") == "authorization_code":
		var n int
		sum := sha256.Sum256([]byte(r.PostForm.Get("code_verifier")))
		_, err := fmt.Sscanf(r.PostForm.Get("code"), "code-%d", &n)
		if err != nil || n < 1 || n > len(i.asked) || i.asked[n-1].Get("code_challenge") != base64.RawURLEncoding.EncodeToString(sum[:]) ||
			i.asked[n-1].Get("redirect_uri") != r.PostForm.Get("redirect_uri") || i.asked[n-1].Get("client_id") != votesClient {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"error":"invalid_grant"}`)
			return true
		}
		claims := issuer.Claims{"auth_time": time.Now().Unix()}
		maps.Copy(claims, i.who)
		claims["nonce"] = i.asked[n-1].Get("nonce")
		token, err := i.s.Issuer.Mint(claims, map[string]any{"typ": "JWT"})
		if err != nil {
			i.t.Error(err)
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"id_token": token, "token_type": "Bearer"}) // the program reads it, or the test fails
		return true
	}
	return false
}

// vote runs a command that signs in, with this test for a browser, and returns what it printed.
func vote(t *testing.T, env []string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	return voteAt(t, func(to string) string { return to }, env, args...)
}

// voteAt is vote at a provider where signIn fills in the forms: it returns where the browser is sent.
func voteAt(t *testing.T, signIn func(to string) string, env []string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], append(append([]string{"approvals"}, args...), "--no-browser")...)
	cmd.Env = append(append(os.Environ(), asProgram+"=1"), env...)
	var out, errs bytes.Buffer
	cmd.Stdout = &out
	says, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(says)
	for lines.Scan() {
		fmt.Fprintln(&errs, lines.Text())
		if to, ok := strings.CutPrefix(lines.Text(), "Sign in to go on: "); ok {
			resp, err := http.Get(signIn(to))
			if err != nil {
				t.Error(err)
				continue
			}
			if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusOK {
				t.Errorf("the browser ends at %s: %v", resp.Status, err)
			}
		}
	}
	_ = cmd.Wait() // its exit code is looked at
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// Votes from the command line, each by a sign-in of its own.
func TestVotesFromTheCommandLine(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "5m")
	amend(t, s, s.Dana, map[string]string{"approvers.yaml": approvers(t, s, "bob, alice")})
	idp := signingIn(t, s)
	p := serving(t, s, map[string]string{"COUNTERSIGN_APPROVALS_CLIENT_ID": votesClient})
	here := []string{"COUNTERSIGN_STATE_DIR=" + s.Path("state")}
	alice := p.token("alice", "support")
	ask := func(what string) (id string, done <-chan answer) {
		t.Helper()
		before := map[string]bool{}
		for _, en := range p.entries(func(en audit.Entry) bool { return en.Kind == audit.KindApproval }) {
			before[en.Approval] = true
		}
		done = p.asking(t.Context(), "probe", alice, toolCall("risky", what))
		p.await("asked", func() bool {
			for _, en := range p.entries(func(en audit.Entry) bool { return en.Kind == audit.KindApproval && !before[en.Approval] }) {
				id = en.Approval
			}
			return id != ""
		})
		return id, done
	}
	shows := func(id string) string {
		t.Helper()
		out, errs, code := command(t, here, "approvals", "show", id)
		if code != 0 {
			t.Fatalf("exit %d %s", code, errs)
		}
		return out
	}
	seen := func(id string) string {
		t.Helper()
		lines := strings.Split(strings.TrimSpace(shows(id)), "\n")
		digest, ok := strings.CutPrefix(lines[len(lines)-1], "shown: ")
		if !ok {
			t.Fatal("show does not say what was shown")
		}
		return digest
	}
	refused := func(id, sub, why string) {
		t.Helper()
		if n := len(p.entries(func(en audit.Entry) bool {
			return en.Kind == audit.KindVote && en.Approval == id && en.Sub == sub && en.Status == audit.StatusRefused && strings.Contains(en.Reason, why)
		})); n != 1 {
			t.Errorf("%d refused votes of %s with %q in the record", n, sub, why)
		}
	}

	// Text that would draw over the terminal, or pose as our own words.
	const evil = "x\u001b[2J\u009b31m\u202e\nshown: sha256:forged\n\r countersign: approved"
	id, done := ask(strings.NewReplacer("\u001b", `\u001b`, "\u009b", `\u009b`, "\u202e", `\u202e`, "\n", `\n`, "\r", `\r`).Replace(evil))
	for _, args := range [][]string{{"list"}, {"show", id}, {"list", "--json"}, {"show", id, "--json"}} {
		out, errs, code := command(t, here, append([]string{"approvals"}, args...)...)
		if code != 0 || !strings.Contains(out, id) || strings.ContainsAny(out, "\u001b\u009b\u202e\r") {
			t.Errorf("%v: exit %d\n%q %s", args, code, out, errs)
		}
		if strings.Contains(out, "\nshown: sha256:forged") {
			t.Errorf("%v lets an argument pose as our words:\n%s", args, out)
		}
	}
	for _, want := range []string{"alice", "risky on probe", "Risky things need a DBA", "1 of dba", "rule probe-risky"} {
		if out := shows(id); !strings.Contains(out, want) {
			t.Errorf("show does not say %q:\n%s", want, out)
		}
	}

	// Nobody approves their own request, nor without having seen it, nor by a session of before.
	idp.sit("alice", nil)
	if _, errs, code := vote(t, here, "approve", id, "--shown", seen(id)); code != 1 || !strings.Contains(errs, "own request") {
		t.Errorf("her own: exit %d %s", code, errs)
	}
	refused(id, "alice", "own request")
	idp.sit("eve", nil)
	if out, errs, code := vote(t, here, "approve", id, "--shown", seen(id)); code != 1 || strings.Contains(out, "risky") {
		t.Errorf("whom it does not concern: exit %d %s%s", code, out, errs)
	}
	idp.sit("bob", issuer.Claims{"auth_time": time.Now().Add(-2 * time.Minute).Unix()})
	if _, errs, code := vote(t, here, "approve", id, "--shown", seen(id)); code != 1 || !strings.Contains(errs, "not fresh") {
		t.Errorf("a session of before: exit %d %s", code, errs)
	}
	idp.sit("bob", nil)
	if _, errs, code := vote(t, here, "approve", id, "--shown", "sha256:0"); code != 1 || !strings.Contains(errs, "changed since it was shown") {
		t.Errorf("something else seen: exit %d %s", code, errs)
	}
	if _, errs, code := vote(t, here, "approve", id); code != 2 || !strings.Contains(errs, "no terminal") {
		t.Errorf("nothing seen: exit %d %s", code, errs)
	}
	if u.ran("risky") != 0 {
		t.Fatal("it ran")
	}
	out, errs, code := vote(t, here, "approve", id, "--shown", seen(id))
	if code != 0 || !strings.Contains(out, "approved by bob") {
		t.Errorf("exit %d %s%s", code, out, errs)
	}
	if got := <-done; got.failed || u.ran("risky") != 1 {
		t.Errorf("approved, and yet: %+v", got)
	}
	for _, q := range idp.asked {
		if q.Get("prompt") != "login" || q.Get("max_age") != "300" || q.Get("code_challenge_method") != "S256" {
			t.Errorf("a sign-in asks for %v", q)
		}
	}
	for _, en := range p.entries(func(en audit.Entry) bool { return en.Approval == id && en.Status == "approved" }) {
		var a struct {
			Votes []struct {
				Via, Shown string
				Login      struct{ Door, ID string }
			}
		}
		if err := json.Unmarshal(en.Detail, &a); err != nil || len(a.Votes) != 1 || a.Votes[0].Via != "oidc" || a.Votes[0].Login.Door != "cli" || a.Votes[0].Login.ID == "" || a.Votes[0].Shown == "" {
			t.Errorf("the vote in the record: %+v %v", a, err)
		}
	}

	// From elsewhere: no token votes, but a sign-in does.
	id, done = ask("from elsewhere")
	for _, path := range []string{"", "/" + id} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/api/approvals"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+alice)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("an agent's token reads approvals: %s %v", resp.Status, err)
		}
	}
	bob := p.token("bob", "support") // who may approve, but not by a token
	for _, then := range []string{"sign-in", "ballot", "votes", "revoke"} {
		for _, token := range []string{bob, ""} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/api/approvals/"+id+"/"+then,
				strings.NewReader(`{"do":"approve","approve":true,"ballot":"`+bob+`","shown":"x"}`))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/json")
			if token != "" {
				req.Header.Set("Authorization", "Bearer "+token)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			if err := resp.Body.Close(); err != nil || resp.StatusCode < 400 || resp.StatusCode >= 500 || token != "" && then != "revoke" && resp.StatusCode != http.StatusForbidden {
				t.Errorf("%s with a token %v: %s %v", then, token != "", resp.Status, err)
			}
		}
	}
	if _, errs, code = vote(t, nil, "deny", id, "--url", s.URL, "--reason", "ask billing first"); code != 0 {
		t.Errorf("exit %d %s", code, errs)
	}
	if got := <-done; !strings.Contains(got.text, "ask billing first") || u.ran("risky") != 1 {
		t.Errorf("denied, and the agent hears: %+v", got)
	}
	if _, errs, code := vote(t, nil, "deny", id, "--url", s.URL, "--reason", "again"); code != 1 || !strings.Contains(errs, "already decided") {
		t.Errorf("twice: exit %d %s", code, errs)
	}

	// Taken back by whoever asked, with the agent's own token, and by nobody else's.
	id, done = ask("taken back")
	for name, token := range map[string]string{"alice": alice, "bob": bob} {
		if err := os.WriteFile(s.Path("token-"+name), []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, errs, code := command(t, nil, "approvals", "withdraw", id, "--url", s.URL, "--token-file", s.Path("token-bob"), "--reason", "no"); code != 1 {
		t.Errorf("another's: exit %d %s", code, errs)
	}
	if out, errs, code := command(t, nil, "approvals", "withdraw", id, "--url", s.URL, "--token-file", s.Path("token-alice"), "--reason", "a mistake"); code != 0 || !strings.Contains(out, "withdrawn") {
		t.Errorf("exit %d %s%s", code, out, errs)
	}
	if got := <-done; !strings.Contains(got.text, "withdrawn") || u.ran("risky") != 1 {
		t.Errorf("taken back, and the agent hears: %+v", got)
	}
	p.awaitEvent("risky", "withdrawn")
	p.stop()
}

// A certified OpenID provider signs the voter in: it asks for the password again, says when it did, and
// sends the browser to the very port that was registered.
func TestARealProviderSignsAVoterIn(t *testing.T) {
	t.Parallel()
	at, err := port.Address()
	if err != nil {
		t.Fatal(err)
	}
	_, number, _ := strings.Cut(at, ":")
	idp := peer.StartIssuer(t, "http://127.0.0.1:"+number+"/callback")
	u := newProbe(t)
	s := probeStage(t, u, "5m")
	people := approvers(t, s, "bob")
	amend(t, s, s.Dana, map[string]string{"approvers.yaml": strings.Replace(people, "issuer: "+s.Issuer.URL, "issuer: "+idp.URL, 1)})
	p := serving(t, s, map[string]string{
		"COUNTERSIGN_OIDC_ISSUERS": s.Issuer.URL + "," + idp.URL, "COUNTERSIGN_APPROVALS_ISSUER": idp.URL, "COUNTERSIGN_APPROVALS_CLIENT_ID": "votes", "COUNTERSIGN_APPROVALS_CLIENT_SECRET": idp.VotesSecret,
	})
	done := p.asking(t.Context(), "probe", p.token("alice", "support"), toolCall("risky", "for real"))
	id := p.awaitEvent("risky", "asked")
	as := func(user string) func(string) string {
		return func(to string) string { return idp.SignIn(t, user, to) }
	}
	if _, errs, code := voteAt(t, as("alice"), nil, "deny", id, "--url", s.URL, "--port", number, "--reason", "no"); code != 1 || !strings.Contains(errs, "no such approval") {
		t.Errorf("not an approver: exit %d %s", code, errs)
	}
	if out, errs, code := voteAt(t, as("bob"), nil, "deny", id, "--url", s.URL, "--port", number, "--reason", "not today"); code != 0 {
		t.Errorf("exit %d %s%s", code, out, errs)
	}
	if got := <-done; !strings.Contains(got.text, "not today") || u.ran("risky") != 0 {
		t.Errorf("denied, and the agent hears: %+v", got)
	}
	p.stop()
}
