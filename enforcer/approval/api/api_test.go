package api_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"countersign/enforcer/approval"
	"countersign/enforcer/approval/api"
	"countersign/enforcer/approval/signin"
	"countersign/enforcer/kv"
	"countersign/fixtures/issuer"
	"countersign/rules"
)

const (
	redirect = "http://127.0.0.1:7777/callback"
	verifier = "vvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvv"
)

// scene is an API, an issuer that signs in whom the test says, and one approval that waits.
type scene struct {
	t       *testing.T
	api     *api.API
	book    *approval.Book
	issuer  *issuer.Issuer
	now     time.Time
	who     issuer.Claims
	nonces  map[string]string // by code
	refused []string
	failed  []string
	a       approval.Approval
	policy  *rules.Policy
}

func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{t: t, now: time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC), nonces: map[string]string{}}
	clock := func() time.Time { return s.now }
	var err error
	if s.issuer, err = issuer.Start("127.0.0.1:0", clock); err != nil {
		t.Fatal(err)
	}
	store, err := kv.OpenEmbedded(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(store.Close(), s.issuer.Close()); err != nil {
			t.Error(err)
		}
	})
	s.issuer.Intercept(s.token)
	s.policy, err = rules.Load(fstest.MapFS{
		"countersign.yaml": {Data: []byte("version: 1\nfreeze: { people: [dana] }\n")},
		"servers/s.yaml":   {Data: []byte("server: s\nurl: http://s.example.com\n")},
		"approvers.yaml":   {Data: fmt.Appendf(nil, "people:\n  bob: { issuer: %q, sub: bob }\n  alice: { issuer: %[1]q, sub: alice }\n  dana: { issuer: %[1]q, sub: dana }\nsets:\n  dba: { members: [bob, alice], approve_via: oidc }\n", s.issuer.URL)},
		"rules/r.yaml":     {Data: []byte("- { id: r, server: s, tool: t, effect: approve, reason: why, approval: { approvers: dba } }\n")},
	}, "0123456789abcdef0123456789abcdef01234567")
	if err != nil {
		t.Fatal(err)
	}
	bucket := func(name string) *kv.Bucket {
		b, err := store.Bucket(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	logins := approval.NewLogins(approval.LoginsConfig{Bucket: bucket("logins"), Now: clock, Record: func(context.Context, approval.LoginEvent) error { return nil }})
	s.book = approval.New(approval.Config{Bucket: bucket("approvals"), Logins: logins, Now: clock, Digest: (*rules.Policy).AsksDigest,
		Record: func(context.Context, approval.Approval, string) error { return nil }})
	seal, err := approval.NewSeal(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	client, err := signin.New(signin.Config{Issuer: s.issuer.URL, ID: "votes", AllowHTTP: true, Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	s.api = api.New(api.Config{Book: s.book, Logins: logins, Seal: seal, SignIn: client, Policy: func() *rules.Policy { return s.policy },
		Words: func(text string, n int) string { return text[:min(n, len(text))] }, Source: func(*http.Request) string { return "192.0.2.1" }, Now: clock, Log: slog.New(slog.DiscardHandler),
		Failed: func(_ *http.Request, why error) { s.failed = append(s.failed, why.Error()) },
		Refused: func(_ context.Context, id string, v approval.Vote, why error) {
			s.refused = append(s.refused, id+" "+v.Sub+": "+why.Error())
		}})
	s.a = s.ask("c_1", "one")
	return s
}

// ask puts a request of alice's before the set.
func (s *scene) ask(call, digest string) approval.Approval {
	s.t.Helper()
	d := s.policy.Decide(rules.Request{Subject: rules.Subject{Issuer: s.issuer.URL, Sub: "alice"}, Server: "s", Method: "tools/call", Tool: "t", Now: s.now})
	a, _, err := s.book.Ask(s.t.Context(), approval.Request{Subject: rules.Subject{Issuer: s.issuer.URL, Sub: "alice"}, Client: "ide", Server: "s", Method: "tools/call", Tool: "t",
		Holder: "h", Digest: digest, Args: "what: x", Asks: d.Asks, RulesDigest: d.RulesDigest, Policy: d.Policy, Expires: s.now.Add(15 * time.Minute), Call: call})
	if err != nil {
		s.t.Fatal(err)
	}
	return a
}

// token is the issuer's token endpoint: code C is good once, for the flow with nonce nonces[C].
func (s *scene) token(w http.ResponseWriter, r *http.Request) bool {
	if r.URL.Path != "/token" || r.ParseForm() != nil {
		return false
	}
	nonce, ok := s.nonces[r.PostForm.Get("code")]
	delete(s.nonces, r.PostForm.Get("code"))
	if !ok || r.PostForm.Get("code_verifier") != verifier {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"error":"invalid_grant"}`)
		return true
	}
	claims := issuer.Claims{"aud": "votes", "nonce": nonce, "auth_time": s.now.Unix()}
	for k, v := range s.who {
		claims[k] = v
	}
	token, err := s.issuer.Mint(claims, map[string]any{"typ": "JWT"})
	if err != nil {
		s.t.Error(err)
	}
	_ = json.NewEncoder(w).Encode(map[string]string{"id_token": token}) // read, or the test fails
	return true
}

type said struct {
	status                  int
	Error, URL, Flow, State string
	Who, Ballot             string
	Sight                   api.Sight
	Approvals               []api.Sight
}

func (s *scene) do(serve func(http.ResponseWriter, *http.Request), id, body string, edit ...func(*http.Request)) said {
	s.t.Helper()
	r := httptest.NewRequestWithContext(s.t.Context(), http.MethodPost, "/", strings.NewReader(body))
	r.SetPathValue("id", id)
	r.Header.Set("Content-Type", "application/json")
	for _, e := range edit {
		e(r)
	}
	w := httptest.NewRecorder()
	serve(w, r)
	out := said{status: w.Code}
	if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
		s.t.Fatalf("%d %s: %v", w.Code, w.Body, err)
	}
	return out
}

func (s *scene) begin(id string, intent map[string]any) said {
	s.t.Helper()
	sum := sha256.Sum256([]byte(verifier))
	ask := map[string]any{"redirect": redirect, "challenge": base64.RawURLEncoding.EncodeToString(sum[:])}
	for k, v := range intent {
		ask[k] = v
	}
	body, err := json.Marshal(ask)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.do(s.api.Begin, id, string(body))
}

// answer is what a CLI sends when sub has signed in; edit changes it.
func (s *scene) answer(b said, sub string, edit func(map[string]any)) string {
	s.t.Helper()
	_, query, _ := strings.Cut(b.URL, "nonce=")
	nonce, _, _ := strings.Cut(query, "&")
	code := fmt.Sprint("code-", len(s.nonces), s.now.UnixNano())
	s.nonces[code], s.who = nonce, issuer.Claims{"sub": sub}
	ask := map[string]any{"flow": b.Flow, "state": b.State, "code": code, "verifier": verifier}
	if edit != nil {
		edit(ask)
	}
	body, err := json.Marshal(ask)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(body)
}

func (s *scene) signedIn(id, sub string, intent map[string]any) said {
	s.t.Helper()
	b := s.begin(id, intent)
	if b.status != http.StatusOK {
		s.t.Fatalf("%d %s", b.status, b.Error)
	}
	return s.do(s.api.Redeem, id, s.answer(b, sub, nil))
}

func (s *scene) cast(id, ballot, shown string) said {
	s.t.Helper()
	return s.do(s.api.Vote, id, fmt.Sprintf(`{"ballot":%q,"shown":%q}`, ballot, shown))
}

func (s *scene) wants(got said, status int, words string) {
	s.t.Helper()
	if got.status != status || !strings.Contains(got.Error, words) {
		s.t.Errorf("%d %q; want %d %q", got.status, got.Error, status, words)
	}
}

func (s *scene) stands(want approval.State, votes int) {
	s.t.Helper()
	a, err := s.book.Get(s.t.Context(), s.a.ID)
	if err != nil || a.State != want || len(a.Votes) != votes {
		s.t.Errorf("%s with %d votes, %v; want %s with %d", a.State, len(a.Votes), err, want, votes)
	}
}

var approve = map[string]any{"do": "approve"}

func TestOneSignInIsOneVote(t *testing.T) {
	s := newScene(t)
	ready := s.signedIn(s.a.ID, "bob", approve)
	if ready.status != http.StatusOK || !strings.HasPrefix(ready.Who, "bob (") || ready.Sight.Approval.Args != "what: x" || ready.Sight.Shown != s.a.Shows() {
		t.Fatalf("%+v", ready)
	}
	s.stands(approval.Pending, 0) // signed in, and nothing is decided
	s.wants(s.cast("ap_other", ready.Ballot, s.a.Shows()), http.StatusForbidden, "no ballot for this approval")
	s.wants(s.cast(s.a.ID, ready.Ballot+"x", s.a.Shows()), http.StatusForbidden, "no ballot")
	got := s.cast(s.a.ID, ready.Ballot, s.a.Shows())
	if got.status != http.StatusOK || got.Sight.Approval.State != approval.Approved {
		t.Fatalf("%+v", got)
	}
	v := got.Sight.Approval.Votes[0]
	if v.Via != approval.ViaOIDC || v.Login == nil || v.Login.Door != "cli" || v.Login.Source != "192.0.2.1" || v.Shown != s.a.Shows() || v.Person != "bob" {
		t.Errorf("%+v %+v", v, v.Login)
	}
	s.wants(s.cast(s.a.ID, ready.Ballot, s.a.Shows()), http.StatusConflict, "cast already")
	s.stands(approval.Approved, 1)
	if len(s.refused) != 0 {
		t.Errorf("refused: %q", s.refused)
	}
}

func TestWhatEndsBeforeTheVote(t *testing.T) {
	s := newScene(t)
	b := s.begin(s.a.ID, approve)
	for name, edit := range map[string]func(map[string]any){
		"another state":    func(m map[string]any) { m["state"] = "x" },
		"no code":          func(m map[string]any) { m["code"] = "" },
		"a changed flow":   func(m map[string]any) { m["flow"] = b.Flow[:len(b.Flow)-1] },
		"an unknown field": func(m map[string]any) { m["approve"] = true },
	} {
		if got := s.do(s.api.Redeem, s.a.ID, s.answer(b, "bob", edit)); got.status != http.StatusBadRequest {
			t.Errorf("%s: %d %s", name, got.status, got.Error)
		}
	}
	s.wants(s.do(s.api.Redeem, "ap_other", s.answer(b, "bob", nil)), http.StatusBadRequest, "begin again")
	s.wants(s.do(s.api.Redeem, s.a.ID, s.answer(b, "bob", func(m map[string]any) { m["verifier"] = "another" })), http.StatusForbidden, "refuses the code")
	s.wants(s.do(s.api.Redeem, s.a.ID, s.answer(b, "bob", nil)), http.StatusConflict, "answered already") // the flow is used up
	b = s.begin(s.a.ID, approve)
	// A ballot of a sign-in is no flow, nor the other way round.
	s.wants(s.cast(s.a.ID, b.Flow, s.a.Shows()), http.StatusForbidden, "no ballot")
	body := s.answer(b, "bob", nil)
	s.now = s.now.Add(10 * time.Minute)
	s.wants(s.do(s.api.Redeem, s.a.ID, body), http.StatusBadRequest, "less than ten minutes")
	s.now = s.now.Add(-10 * time.Minute)

	ready := s.signedIn(s.a.ID, "bob", approve)
	s.now = s.now.Add(5 * time.Minute)
	s.wants(s.cast(s.a.ID, ready.Ballot, s.a.Shows()), http.StatusForbidden, "more than five minutes")
	s.stands(approval.Pending, 0)
}

func TestVotesThatDoNotCountAreReported(t *testing.T) {
	s := newScene(t)
	s.wants(s.signedIn(s.a.ID, "alice", approve), http.StatusForbidden, "own request")
	s.wants(s.signedIn(s.a.ID, "eve", approve), http.StatusNotFound, "there is no such approval")
	ready := s.signedIn(s.a.ID, "bob", approve)
	s.wants(s.cast(s.a.ID, ready.Ballot, "sha256:0"), http.StatusConflict, "changed since it was shown")
	late := s.signedIn(s.a.ID, "bob", approve)
	deny := s.signedIn(s.a.ID, "bob", map[string]any{"do": "deny", "reason": "no"})
	if got := s.cast(s.a.ID, deny.Ballot, ""); got.status != http.StatusOK || got.Sight.Approval.State != approval.Denied {
		t.Fatalf("%+v", got)
	}
	s.wants(s.cast(s.a.ID, late.Ballot, s.a.Shows()), http.StatusConflict, "already decided")
	s.wants(s.signedIn(s.a.ID, "bob", map[string]any{"do": "revoke", "reason": "no"}), http.StatusOK, "")
	s.policy = nil
	s.wants(s.signedIn(s.a.ID, "bob", approve), http.StatusConflict, "no policy is in force")
	want := []string{"alice: nobody approves", "eve: there is no such approval", "bob: what is asked has changed", "bob: already decided", "bob: the rules that asked"}
	if len(s.refused) != len(want) {
		t.Fatalf("%q", s.refused)
	}
	for i, w := range want {
		if !strings.HasPrefix(s.refused[i], s.a.ID+" "+w) {
			t.Errorf("%d: %q, want %q", i, s.refused[i], w)
		}
	}
}

func TestWhatNobodyShouldAsk(t *testing.T) {
	s := newScene(t)
	for name, intent := range map[string]map[string]any{
		"nothing":                {},
		"something else":         {"do": "spend"},
		"deny without a reason":  {"do": "deny", "reason": " "},
		"break without a reason": {"do": "break-glass"},
		"deny once":              {"do": "deny", "reason": "x", "once": true},
		"a long reason":          {"do": "deny", "reason": strings.Repeat("ä", 501)},
		"to another machine":     {"do": "approve", "redirect": "http://192.0.2.1:7777/callback"},
		"to a name":              {"do": "approve", "redirect": "http://localhost:7777/callback"},
		"to another place":       {"do": "approve", "redirect": "http://127.0.0.1:7777/elsewhere"},
		"without a port":         {"do": "approve", "redirect": "http://127.0.0.1/callback"},
		"with a query":           {"do": "approve", "redirect": redirect + "?x=1"},
		"past the host":          {"do": "approve", "redirect": "http://127.0.0.1:7777@evil.example.com/callback"},
		"with a plain challenge": {"do": "approve", "challenge": "short"},
		"an unknown member":      {"do": "approve", "approver": "bob"},
	} {
		if got := s.begin(s.a.ID, intent); got.status != http.StatusBadRequest || got.URL != "" {
			t.Errorf("%s: %d %+v", name, got.status, got)
		}
	}
	s.wants(s.begin("ap_nobody", approve), http.StatusNotFound, "there is no such approval")
	s.wants(s.begin("a.b/../c", approve), http.StatusNotFound, "there is no such approval")
	token := func(r *http.Request) { r.Header.Set("Authorization", "Bearer x") }
	for _, serve := range []func(http.ResponseWriter, *http.Request){s.api.Begin, s.api.Redeem, s.api.Vote} {
		s.wants(s.do(serve, s.a.ID, `{}`, token), http.StatusForbidden, "no token votes")
		s.wants(s.do(serve, s.a.ID, `{"do":`), http.StatusBadRequest, "cannot be read")
		s.wants(s.do(serve, s.a.ID, `{}`, func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") }), http.StatusBadRequest, "content type")
		s.wants(s.do(serve, s.a.ID, `{"reason":"`+strings.Repeat("x", 64<<10)+`"}`), http.StatusBadRequest, "cannot be read")
	}
	s.api.SignIn = nil
	s.wants(s.begin(s.a.ID, approve), http.StatusNotFound, "COUNTERSIGN_APPROVALS_CLIENT_ID")
	s.stands(approval.Pending, 0)
}

func TestWhoSeesWhat(t *testing.T) {
	s := newScene(t)
	subject := func(sub string, groups ...string) api.Reader {
		return api.Reader{Subject: rules.Subject{Issuer: s.issuer.URL, Sub: sub, Groups: groups}}
	}
	for name, c := range map[string]struct {
		by   api.Reader
		sees bool
	}{
		"an approver": {subject("bob"), true}, "who asked": {subject("alice"), true}, "the operator": {api.Reader{All: true}, true},
		"somebody": {subject("eve"), false}, "the same name elsewhere": {api.Reader{Subject: rules.Subject{Issuer: "https://evil.example.com", Sub: "bob"}}, false},
		"nobody": {api.Reader{}, false},
	} {
		list := func(w http.ResponseWriter, r *http.Request) { s.api.List(w, r, c.by) }
		show := func(w http.ResponseWriter, r *http.Request) { s.api.Show(w, r, c.by) }
		if n := len(s.do(list, "", "").Approvals); n > 0 != c.sees {
			t.Errorf("%s: %d in the list", name, n)
		}
		if status := s.do(show, s.a.ID, "").status; (status == http.StatusOK) != c.sees || !c.sees && status != http.StatusNotFound {
			t.Errorf("%s: %d", name, status)
		}
	}
	state := func(name string) said {
		return s.do(func(w http.ResponseWriter, r *http.Request) { s.api.List(w, r, api.Reader{All: true}) }, "", "", func(r *http.Request) { r.URL.RawQuery = "state=" + name })
	}
	for name, n := range map[string]int{"open": 1, "pending": 1, "window": 0, "review": 0, "all": 1} {
		if got := state(name); got.status != http.StatusOK || len(got.Approvals) != n {
			t.Errorf("%s: %d, %d approvals", name, got.status, len(got.Approvals))
		}
	}
	s.wants(state("nonsense"), http.StatusBadRequest, "want open, pending")
	s.now = s.now.Add(time.Hour) // expired, though nobody has said so yet
	for name, n := range map[string]int{"open": 0, "pending": 0, "all": 1} {
		if got := state(name); len(got.Approvals) != n {
			t.Errorf("an hour later, %s: %d approvals", name, len(got.Approvals))
		}
	}
}

func TestWhoTakesBack(t *testing.T) {
	s := newScene(t)
	by := func(who rules.Subject, name string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, r *http.Request) { s.api.Withdraw(w, r, who, name) }
	}
	alice := rules.Subject{Issuer: s.issuer.URL, Sub: "alice"}
	s.wants(s.do(by(rules.Subject{Issuer: s.issuer.URL, Sub: "bob"}, ""), s.a.ID, `{"reason":"x"}`), http.StatusNotFound, "no such approval")
	s.wants(s.do(by(alice, ""), s.a.ID, `{"reason":""}`), http.StatusBadRequest, "reason")
	s.stands(approval.Pending, 0)
	if got := s.do(by(alice, ""), s.a.ID, `{"reason":"a mistake"}`); got.status != http.StatusOK || got.Sight.Approval.State != approval.Withdrawn {
		t.Errorf("%+v", got)
	}
	s.wants(s.do(by(alice, ""), s.a.ID, `{"reason":"again"}`), http.StatusConflict, "already decided")
	other := s.ask("c_2", "two")
	if got := s.do(by(rules.Subject{}, "operator uid 0"), other.ID, `{"reason":"x"}`); got.status != http.StatusOK || !strings.Contains(got.Sight.Approval.Reason, "operator uid 0: x") {
		t.Errorf("%+v", got)
	}
	s.wants(s.do(func(w http.ResponseWriter, r *http.Request) { s.api.RevokeAsOperator(w, r, "operator uid 0") }, other.ID, `{"reason":"x"}`), http.StatusConflict, "not given")
}

func TestASignInOfBeforeIsNotOneForThisVote(t *testing.T) {
	s := newScene(t)
	if ready := s.signedIn(s.a.ID, "bob", approve); ready.status != http.StatusOK {
		t.Fatalf("%+v", ready)
	}
	before := s.now
	s.now = s.now.Add(5 * time.Second) // within what an issuer's clock may be behind
	b := s.begin(s.a.ID, approve)
	body := s.answer(b, "bob", nil)
	s.who["auth_time"] = before.Unix() // somebody took prompt=login out of the URL
	s.wants(s.do(s.api.Redeem, s.a.ID, body), http.StatusForbidden, "not fresh")
	if ready := s.signedIn(s.a.ID, "bob", approve); ready.status != http.StatusOK {
		t.Errorf("signed in anew: %+v", ready)
	}
}

func TestWhoLeavesWhileTheirVoteIsWrittenHasVoted(t *testing.T) {
	s := newScene(t)
	ready := s.signedIn(s.a.ID, "bob", approve)
	ctx, leave := context.WithCancel(t.Context())
	s.book.Record = func(ctx context.Context, _ approval.Approval, _ string) error {
		leave() // the vote is in the store, and not yet in the record
		return ctx.Err()
	}
	got := s.do(s.api.Vote, s.a.ID, fmt.Sprintf(`{"ballot":%q,"shown":%q}`, ready.Ballot, s.a.Shows()), func(r *http.Request) { *r = *r.WithContext(ctx) })
	if got.status != http.StatusOK {
		t.Errorf("%d %s", got.status, got.Error)
	}
	s.stands(approval.Approved, 1)
}

func TestWhatLeadsToNoVoterIsReported(t *testing.T) {
	s := newScene(t)
	reported := func(what, words string) {
		t.Helper()
		if len(s.failed) != 1 || !strings.Contains(s.failed[0], words) {
			t.Errorf("%s: reported %q, want %q", what, s.failed, words)
		}
		s.failed = nil
	}
	token := func(r *http.Request) { r.Header.Set("Authorization", "Bearer x") }
	s.wants(s.do(s.api.Vote, s.a.ID, `{}`, token), http.StatusForbidden, "no token votes")
	reported("a token", "no token votes")
	s.do(s.api.Redeem, s.a.ID, `{"flow":"x","state":"x","code":"x","verifier":"x"}`)
	reported("a forged flow", "not begun here")
	s.cast(s.a.ID, "x", "x")
	reported("a forged ballot", "a ballot that is none")
	s.do(s.api.Redeem, s.a.ID, s.answer(s.begin(s.a.ID, approve), "bob", func(m map[string]any) { m["code"] = "another" }))
	reported("another's code", "refuses the code")
	if len(s.refused) != 0 {
		t.Errorf("refused: %q", s.refused)
	}
}

// Each ended sign-in asks the issuer, which knows us as one client: who has many
// fail would have it turn everybody away.
func TestTooManySignInsFromOneAddress(t *testing.T) {
	s := newScene(t)
	turned := 0
	for range 30 {
		got := s.do(s.api.Redeem, s.a.ID, s.answer(s.begin(s.a.ID, approve), "bob", func(m map[string]any) { m["code"] = "another" }))
		if got.status == http.StatusTooManyRequests {
			turned++
		}
	}
	if asked := s.issuer.Hits("/token"); turned != 10 || asked != 20 {
		t.Errorf("%d turned away, the issuer was asked %d times; want 10 and 20", turned, asked)
	}
	s.now = s.now.Add(3 * time.Second)
	if ready := s.signedIn(s.a.ID, "bob", approve); ready.status != http.StatusOK {
		t.Errorf("later: %+v", ready)
	}
}
