package page_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"countersign/enforcer/approval"
	"countersign/enforcer/approval/page"
	"countersign/enforcer/approval/signin"
	"countersign/enforcer/kv"
	"countersign/fixtures/issuer"
	"countersign/rules"
)

// world is a page over a real store, beside an issuer that says what a test has
// it say.
type world struct {
	t      *testing.T
	id     *identityProvider
	book   *approval.Book
	logins *approval.Logins
	seal   approval.Seal
	server *httptest.Server
	url    string

	mu      sync.Mutex
	now     time.Time
	policy  *rules.Policy
	record  []approval.LoginEvent
	events  []string
	refused []refusal
	failed  []error
	broken  error // the record fails with it
}

type refusal struct {
	id   string
	vote approval.Vote
	why  error
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func (w *world) inForce() *rules.Policy {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.policy
}

func (w *world) enact(p *rules.Policy) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.policy = p
}

// lastRefused is the newest vote that did not count.
func (w *world) lastRefused() refusal {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.refused) == 0 {
		return refusal{}
	}
	return w.refused[len(w.refused)-1]
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, now: time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)}
	w.id = newProvider(t, w.clock)
	w.policy = w.load("a", everyone(w.id.URL))
	store, err := kv.OpenEmbedded(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	bucket := func(name string) *kv.Bucket {
		b, err := store.Bucket(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	w.logins = approval.NewLogins(approval.LoginsConfig{Bucket: bucket("logins"), Now: w.clock, Record: func(_ context.Context, e approval.LoginEvent) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.record = append(w.record, e)
		return w.broken
	}})
	w.book = approval.New(approval.Config{Bucket: bucket("approvals"), Logins: w.logins, Now: w.clock, Record: func(_ context.Context, _ approval.Approval, event string) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.events = append(w.events, event)
		return w.broken
	}})
	if w.seal, err = approval.NewSeal([]byte(strings.Repeat("k", 32))); err != nil {
		t.Fatal(err)
	}
	w.server = httptest.NewUnstartedServer(nil)
	w.url = "https://" + w.server.Listener.Addr().String()
	w.server.Config.Handler = w.page()
	w.server.StartTLS()
	t.Cleanup(w.server.Close)
	return w
}

// page is one more process's page over the same store.
func (w *world) page() *page.Page {
	w.t.Helper()
	client, err := signin.New(signin.Config{Issuer: w.id.URL, ID: "votes", Secret: "hush", AllowHTTP: true, Now: w.clock})
	if err != nil {
		w.t.Fatal(err)
	}
	p, err := page.New(page.Config{
		PublicURL: w.url, SignIn: client, Book: w.book, Logins: w.logins, Seal: w.seal, Policy: w.inForce, Now: w.clock,
		Refused: func(_ context.Context, id string, v approval.Vote, why error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.refused = append(w.refused, refusal{id, v, why})
		},
		Failed: func(_ context.Context, _ string, why error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.failed = append(w.failed, why)
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

// everyone: alice asks; bob is a DBA by name, carol by a group of the issuer;
// dana answers for the client ci; erin may break the glass; mallory is nobody.
func everyone(issuer string) string {
	return strings.ReplaceAll(`
people:
  alice: { issuer: ISSUER, sub: alice }
  bob:   { issuer: ISSUER, sub: bob, slack: { team: T0TEST, user: U0BOB } }
  dana:  { issuer: ISSUER, sub: dana }
  erin:  { issuer: ISSUER, sub: erin }
sets:
  dba:    { members: [bob, dana, alice], groups: [{ issuer: ISSUER, group: dba }], approve_via: oidc, channel: C0DBA }
  secure: { members: [bob], approve_via: oidc, acr: [phr] }
  oncall: { members: [erin], approve_via: oidc }
owners:
  - { client: ci, people: [dana] }
links: { login: true, max_age: 12h }
`, "ISSUER", issuer)
}

func (w *world) load(commit, approvers string) *rules.Policy {
	w.t.Helper()
	p, err := rules.Load(fstest.MapFS{
		"countersign.yaml":    {Data: []byte("version: 1\napprovals: { max_grant: 8h, policy_link: \"https://git.example.com/policy/blob/{commit}/{file}#L{line}\", audit_link: \"https://git.example.com/audit?q={call}\" }\n")},
		"servers/db.yaml":     {Data: []byte("server: db\nurl: http://127.0.0.1:1/mcp\n")},
		"approvers.yaml":      {Data: []byte(approvers)},
		"rules/everyone.yaml": {Data: []byte("- { id: writes, server: db, effect: approve, reason: Writes need a DBA, approval: { approvers: dba, quorum: 1, expires: 15m, grant: { for: 1h, scope: tool }, break_glass: oncall } }\n")},
	}, strings.Repeat(commit, 40))
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

// ask has somebody ask for something; edit changes the request.
func (w *world) ask(edit func(*approval.Request)) approval.Approval {
	w.t.Helper()
	p := w.inForce()
	r := approval.Request{
		Subject: rules.Subject{Issuer: w.id.URL, Sub: "alice", Email: "alice@example.com"}, Client: "desk", Server: "db", Method: "tools/call", Tool: "query",
		Holder: "h1", Digest: "sha256:" + w.t.Name(), Args: "sql: DELETE FROM customers", Does: []string{"deletes from table customers, with no WHERE clause"},
		Asks:  []rules.Ask{{Rule: "writes", Reason: "Writes need a DBA", File: "rules/everyone.yaml", Line: 1, Approvers: "dba", Quorum: 1, Via: rules.ViaOIDC, BreakGlass: "oncall", Digest: "d"}},
		Trace: []rules.Match{{Rule: "writes", File: "rules/everyone.yaml", Line: 1, Effect: rules.Approve, Matched: true, Reason: "Writes need a DBA"}},
		Grant: rules.Grant{}, RulesDigest: "sha256:rules", Policy: p.Commit(), Expires: w.clock().Add(15 * time.Minute), Call: "c_1",
	}
	if edit != nil {
		edit(&r)
	}
	a, _, err := w.book.Ask(w.t.Context(), r)
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

func (w *world) get(id string) approval.Approval {
	w.t.Helper()
	a, err := w.book.Get(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

// identityProvider signs people in as the test says, without asking anybody.
type identityProvider struct {
	*issuer.Issuer
	now func() time.Time

	mu     sync.Mutex
	claims issuer.Claims // over the defaults, of the next ID token
	asked  url.Values    // what the last authorization request said
	extra  url.Values    // over the answer that the browser carries; a nil value takes one away
	token  func(http.ResponseWriter, *http.Request) bool
}

func newProvider(t *testing.T, now func() time.Time) *identityProvider {
	t.Helper()
	i, err := issuer.Start("127.0.0.1:0", now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := i.Close(); err != nil {
			t.Error(err)
		}
	})
	p := &identityProvider{Issuer: i, now: now}
	i.Intercept(p.serve)
	return p
}

func (p *identityProvider) serve(w http.ResponseWriter, r *http.Request) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch r.URL.Path {
	case "/authorize":
		p.asked = r.URL.Query()
		q := url.Values{"code": {"code-1"}, "state": {p.asked.Get("state")}, "iss": {p.URL}}
		for name, v := range p.extra {
			if q[name] = v; v == nil {
				delete(q, name)
			}
		}
		http.Redirect(w, r, p.asked.Get("redirect_uri")+"?"+q.Encode(), http.StatusSeeOther)
		return true
	case "/token":
		if p.token != nil && p.token(w, r) {
			return true
		}
		sum := sha256.Sum256([]byte(r.FormValue("code_verifier")))
		id, secret, _ := r.BasicAuth()
		if r.FormValue("code") != "code-1" || base64.RawURLEncoding.EncodeToString(sum[:]) != p.asked.Get("code_challenge") || id != "votes" || secret != "hush" {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"error":"invalid_grant"}`)
			return true
		}
		claims := issuer.Claims{"aud": "votes", "azp": "votes", "sub": "bob", "nonce": p.asked.Get("nonce"), "auth_time": p.now().Unix()}
		for k, v := range p.claims {
			claims[k] = v
		}
		token, err := p.Mint(claims, map[string]any{"typ": "JWT"})
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return true
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"id_token": token, "access_token": "at", "token_type": "Bearer"})
		return true
	}
	return false
}

// says sets what the next ID token says.
func (p *identityProvider) says(claims issuer.Claims) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.claims = claims
}

// browser is one with cookies. It follows redirects, as browsers do.
type browser struct {
	w *world
	http.Client
	edit func(*http.Request) // before each request
}

func (w *world) browser() *browser {
	w.t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	b := &browser{w: w, Client: *w.server.Client()}
	b.Jar = jar
	return b
}

// read is what a browser got.
type read struct {
	status int
	url    string
	body   string
	header http.Header
}

func (b *browser) do(req *http.Request) read {
	b.w.t.Helper()
	if b.edit != nil {
		b.edit(req)
	}
	res, err := b.Do(req)
	if err != nil {
		b.w.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		b.w.t.Fatal(err)
	}
	return read{res.StatusCode, res.Request.URL.String(), string(body), res.Header}
}

func (b *browser) open(path string) read {
	b.w.t.Helper()
	req, err := http.NewRequestWithContext(b.w.t.Context(), http.MethodGet, b.w.url+path, nil)
	if err != nil {
		b.w.t.Fatal(err)
	}
	return b.do(req)
}

// signIn signs a person in, and comes back to the path.
func (b *browser) signIn(path string, claims issuer.Claims) read {
	b.w.t.Helper()
	b.w.id.says(claims)
	return b.open("/approvals/sign-in?" + url.Values{"to": {path}}.Encode())
}

func (b *browser) post(path string, form url.Values) read {
	b.w.t.Helper()
	req, err := http.NewRequestWithContext(b.w.t.Context(), http.MethodPost, b.w.url+path, strings.NewReader(form.Encode()))
	if err != nil {
		b.w.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	return b.do(req)
}

var hidden = regexp.MustCompile(`name="(form|shown|token)" value="([^"]*)"`)

// form is the page's form, filled in. Pairs of a name and a value go over it.
func (r read) form(pairs ...string) url.Values {
	out := url.Values{}
	for _, m := range hidden.FindAllStringSubmatch(r.body, -1) {
		out.Set(m[1], html.UnescapeString(m[2]))
	}
	for i := 0; i < len(pairs); i += 2 {
		out.Set(pairs[i], pairs[i+1])
	}
	return out
}

// says fails the test unless the page has the status and the texts.
func (r read) says(t *testing.T, status int, texts ...string) {
	t.Helper()
	if r.status != status {
		t.Errorf("status %d, want %d", r.status, status)
	}
	for _, text := range texts {
		if !strings.Contains(html.UnescapeString(r.body), text) {
			t.Errorf("the page does not say %q:\n%s", text, r.body)
		}
	}
}
