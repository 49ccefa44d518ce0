package page_test

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"countersign/enforcer/approval"
	"countersign/enforcer/approval/page"
	"countersign/enforcer/approval/signin"
	"countersign/fixtures/issuer"
)

// signedIn tells whether the browser has a session.
func (b *browser) signedIn() bool {
	b.w.t.Helper()
	return b.open("/approvals").status == http.StatusOK
}

func TestTheSignInAsksForAFreshOne(t *testing.T) {
	w := newWorld(t)
	a := w.ask(func(r *approval.Request) { r.Asks[0].ACR = []string{"phr", "phrh"} })
	b := w.browser()
	b.open("/approvals/sign-in?again=1&to=/approvals/" + a.ID)
	for name, want := range map[string]string{"max_age": "300", "prompt": "login", "acr_values": "phr phrh", "code_challenge_method": "S256", "client_id": "votes",
		"redirect_uri": w.url + "/approvals/sign-in/callback", "response_type": "code"} {
		if got := w.id.asked.Get(name); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	for _, name := range []string{"state", "nonce", "code_challenge"} {
		if len(w.id.asked.Get(name)) < 20 {
			t.Errorf("%s can be guessed: %q", name, w.id.asked.Get(name))
		}
	}
}

// Answers that sign nobody in; each is reported, and said in words.
func TestAnswersThatSignNobodyIn(t *testing.T) {
	w := newWorld(t)
	old := w.clock().Add(-approval.MaxAuthAge - time.Second).Unix()
	for name, test := range map[string]struct {
		claims issuer.Claims
		extra  url.Values
		again  bool
		token  func(http.ResponseWriter, *http.Request) bool
		want   error
		status int
		says   string
	}{
		"an audience of MCP":    {claims: issuer.Claims{"aud": []string{"votes", "https://gate.example.com"}}, want: signin.ErrRefused, status: 403},
		"another audience":      {claims: issuer.Claims{"aud": "https://gate.example.com"}, want: signin.ErrRefused, status: 403},
		"another client":        {claims: issuer.Claims{"azp": "agent"}, want: signin.ErrRefused, status: 403},
		"another nonce":         {claims: issuer.Claims{"nonce": "n"}, want: signin.ErrRefused, status: 403},
		"too old":               {claims: issuer.Claims{"auth_time": old}, want: signin.ErrNotFresh, status: 403, says: "sign-in from before"},
		"no auth_time":          {claims: issuer.Claims{"auth_time": nil}, want: signin.ErrNotFresh, status: 403, says: "auth_time"},
		"older than asked":      {again: true, claims: issuer.Claims{"auth_time": w.clock().Add(-2 * time.Minute).Unix()}, want: signin.ErrNotFresh, status: 403},
		"an issuer's error":     {extra: url.Values{"error": {"access_denied"}, "error_description": {"<b>no</b>"}}, want: signin.ErrRefused, status: 403, says: "has not signed you in"},
		"from another issuer":   {extra: url.Values{"iss": {"https://evil.example"}}, want: signin.ErrRefused, status: 403},
		"two codes":             {extra: url.Values{"code": {"code-1", "code-2"}}, want: signin.ErrRefused, status: 403},
		"another code":          {extra: url.Values{"code": {"code-2"}}, want: signin.ErrRefused, status: 403},
		"no code":               {extra: url.Values{"code": nil}, want: signin.ErrRefused, status: 403},
		"another state":         {extra: url.Values{"state": {"guessed"}}, status: 403, says: "has begun no such sign-in"},
		"no state":              {extra: url.Values{"state": nil}, status: 403, says: "has begun no such sign-in"},
		"an issuer that is ill": {token: func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(503); return true }, want: signin.ErrUnavailable, status: 502, says: "does not answer as it should"},
	} {
		t.Run(name, func(t *testing.T) {
			w.t = t
			w.id.mu.Lock()
			w.id.extra, w.id.token = test.extra, test.token
			w.id.mu.Unlock()
			w.pass(time.Minute) // whoever tries too often has to wait
			b := w.browser()
			if test.again {
				w.id.says(test.claims)
				b.open("/approvals/sign-in?again=1").says(t, test.status, test.says)
			} else {
				claims := issuer.Claims{"auth_time": w.clock().Unix()}
				for k, v := range test.claims {
					claims[k] = v
				}
				b.signIn("/approvals", claims).says(t, test.status, test.says)
			}
			w.id.mu.Lock()
			w.id.extra, w.id.token = nil, nil
			w.id.mu.Unlock()
			if b.signedIn() {
				t.Error("signed in")
			}
			if test.want == nil {
				return
			}
			if last := w.failed[len(w.failed)-1]; !errors.Is(last, test.want) {
				t.Errorf("reported %v, want %v", last, test.want)
			}
		})
	}
	if len(w.record) != 0 {
		t.Errorf("recorded as sign-ins: %+v", w.record)
	}
}

// What has signed one browser in does so once, and no other.
func TestAnAnswerIsGoodOnceAndForItsBrowser(t *testing.T) {
	w := newWorld(t)
	b, other := w.browser(), w.browser()
	var answer string
	b.CheckRedirect = func(req *http.Request, _ []*http.Request) error {
		if strings.HasPrefix(req.URL.Path, "/approvals/sign-in/callback") {
			answer = req.URL.RequestURI()
			return http.ErrUseLastResponse
		}
		return nil
	}
	b.signIn("/approvals", nil)
	b.CheckRedirect = nil
	u, err := url.Parse(w.url)
	if err != nil {
		t.Fatal(err)
	}
	kept := b.Jar.Cookies(u) // as a thief would, who reads the answer too
	other.open(answer).says(t, http.StatusForbidden, "has begun no such sign-in")
	b.open(answer).says(t, http.StatusOK, "Approvals")
	thief := w.browser()
	thief.Jar.SetCookies(u, kept)
	thief.open(answer).says(t, http.StatusForbidden, "answered already")
	b.open(answer).says(t, http.StatusForbidden, "has begun no such sign-in") // its cookie is gone

	// Begun too long ago.
	late := w.browser()
	late.CheckRedirect = func(req *http.Request, _ []*http.Request) error {
		if strings.HasPrefix(req.URL.Path, "/approvals/sign-in/callback") {
			w.pass(10 * time.Minute)
		}
		return nil
	}
	late.signIn("/approvals", nil).says(t, http.StatusForbidden, "more than ten minutes")
}

// Two tabs sign in side by side.
func TestSignInsInSeveralTabs(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	var answers []string
	b.CheckRedirect = func(req *http.Request, _ []*http.Request) error {
		if strings.HasPrefix(req.URL.Path, "/approvals/sign-in/callback") {
			answers = append(answers, req.URL.RequestURI())
			return http.ErrUseLastResponse
		}
		return nil
	}
	b.signIn("/approvals?a", nil)
	nonce := w.id.asked.Get("nonce")
	challenge := w.id.asked.Get("code_challenge")
	b.signIn("/approvals?b", nil)
	b.CheckRedirect = nil
	if got := b.open(answers[1]); !strings.HasSuffix(got.url, "/approvals?b") {
		t.Errorf("the second tab came back to %s", got.url)
	}
	w.id.mu.Lock()
	w.id.asked.Set("nonce", nonce)
	w.id.asked.Set("code_challenge", challenge)
	w.id.mu.Unlock()
	if got := b.open(answers[0]); !strings.HasSuffix(got.url, "/approvals?a") {
		t.Errorf("the first tab came back to %s:\n%s", got.url, got.body)
	}
}

func TestTheSignInLeadsNowhereElse(t *testing.T) {
	w := newWorld(t)
	for _, to := range []string{"https://evil.example/approvals", "//evil.example/approvals", "/\\evil.example", "/approvals/..//evil.example", "/mcp", "javascript:alert(1)", "/approvals/sign-out",
		"/approvals//evil.example", "approvals", "/approvalsx", "", "/approvals\nx", strings.Repeat("/approvals", 1000)} {
		if got := w.browser().signIn(to, nil); got.url != w.url+"/approvals" || got.status != http.StatusOK {
			t.Errorf("%q leads to %s (%d)", to, got.url, got.status)
		}
		w.pass(time.Minute)
	}
	if got := w.browser().signIn("/approvals/ap_x?y=z", nil); got.url != w.url+"/approvals/ap_x?y=z" {
		t.Errorf("it came back to %s", got.url)
	}
}

func TestASessionEnds(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	list := b.signIn("/approvals", nil)
	u, err := url.Parse(w.url)
	if err != nil {
		t.Fatal(err)
	}
	kept := b.Jar.Cookies(u)
	for _, c := range list.header.Values("Set-Cookie") {
		t.Errorf("a page sets %s", c)
	}
	// Another process with the same key knows it.
	w.server.Config.Handler = w.page()
	if !b.signedIn() {
		t.Fatal("not signed in any more after a restart")
	}
	b.post("/approvals/sign-out", list.form()).says(t, http.StatusOK, "Signed out")
	b.Jar.SetCookies(u, kept)
	if b.signedIn() {
		t.Error("a session that was signed out lives on")
	}
	w.pass(time.Minute)
	b.signIn("/approvals", nil)
	w.pass(time.Hour)
	if b.signedIn() {
		t.Error("a session outlives its hour")
	}
	for name, edit := range map[string]func(*http.Request){
		"a bearer token":   func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+strings.Repeat("x", 40)) },
		"a made-up cookie": func(r *http.Request) { r.Header.Set("Cookie", "__Host-countersign="+strings.Repeat("x", 100)) },
	} {
		stranger := w.browser()
		stranger.edit = edit
		if stranger.signedIn() {
			t.Errorf("%s signs in", name)
		}
	}
}

// A cookie of the browser can be read by no script, is sent over TLS only, and
// was planted by nobody else.
func TestCookies(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	var set []string
	b.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		set = append(set, req.Response.Header.Values("Set-Cookie")...)
		return nil
	}
	b.signIn("/approvals", nil)
	if len(set) != 3 { // begun, taken away, session
		t.Fatalf("cookies: %q", set)
	}
	for _, c := range set {
		if !strings.HasPrefix(c, "__Host-countersign") || !strings.Contains(c, "; Path=/; ") || strings.Contains(c, "Domain") ||
			!strings.HasSuffix(c, "; HttpOnly; Secure; SameSite=Lax") || !strings.Contains(c, "Max-Age=") {
			t.Errorf("cookie %s", c)
		}
	}
}

func TestTheIssuerIsDown(t *testing.T) {
	w := newWorld(t)
	w.id.Intercept(func(w http.ResponseWriter, _ *http.Request) bool {
		http.Error(w, "down", http.StatusBadGateway)
		return true
	})
	w.browser().signIn("/approvals", nil).says(t, http.StatusBadGateway, "does not answer as it should", "Sign in again")
}

func TestASignInThatCannotBeRecorded(t *testing.T) {
	w := newWorld(t)
	w.mu.Lock()
	w.broken = errors.New("the disk is full")
	w.mu.Unlock()
	b := w.browser()
	b.signIn("/approvals", nil).says(t, http.StatusServiceUnavailable, "could not be recorded")
	if b.signedIn() {
		t.Error("signed in")
	}
}

func TestTooManySignIns(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	b.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	for range 20 {
		b.open("/approvals/sign-in").says(t, http.StatusSeeOther)
	}
	got := b.open("/approvals/sign-in")
	got.says(t, http.StatusTooManyRequests, "Too often")
	w.pass(3 * time.Second)
	b.open("/approvals/sign-in").says(t, http.StatusSeeOther)
}

func TestTheConfiguration(t *testing.T) {
	w := newWorld(t)
	for url, good := range map[string]bool{"https://gate.example.com": true, "http://127.0.0.1:8080": true, "http://localhost:1": true, "http://gate.example.com": false, "": false, "gate": false} {
		if _, err := page.New(page.Config{PublicURL: url, Seal: w.seal}); (err == nil) != good {
			t.Errorf("%q: %v", url, err)
		}
	}
}
