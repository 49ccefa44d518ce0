package page_test

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"countersign/enforcer/approval"
	"countersign/fixtures/issuer"
)

// No other site, and no other session, has a browser vote.
func TestFormsOfOthers(t *testing.T) {
	w := newWorld(t)
	a := w.ask(nil)
	b, other := w.browser(), w.browser()
	seen := b.signIn("/approvals/"+a.ID, nil)
	foreign := other.signIn("/approvals", issuer.Claims{"sub": "erin"})
	good := func() url.Values { return seen.form("do", "approve") }
	for name, test := range map[string]struct {
		form   url.Values
		edit   func(*http.Request)
		status int
		says   string
	}{
		"no token":       {form: func() url.Values { f := good(); f.Del("form"); return f }(), status: 403, says: "not of your present session"},
		"another's":      {form: func() url.Values { f := good(); f.Set("form", foreign.form().Get("form")); return f }(), status: 403, says: "not of your present session"},
		"another site":   {form: good(), edit: func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }, status: 403, says: "not sent from this page"},
		"a sister site":  {form: good(), edit: func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "same-site") }, status: 403, says: "not sent from this page"},
		"no site":        {form: good(), edit: func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "none") }, status: 403, says: "not sent from this page"},
		"foreign origin": {form: good(), edit: func(r *http.Request) { r.Header.Del("Sec-Fetch-Site"); r.Header.Set("Origin", "https://evil.example") }, status: 403, says: "not sent from this page"},
		"null origin":    {form: good(), edit: func(r *http.Request) { r.Header.Del("Sec-Fetch-Site"); r.Header.Set("Origin", "null") }, status: 403, says: "not sent from this page"},
		"no word":        {form: good(), edit: func(r *http.Request) { r.Header.Del("Sec-Fetch-Site") }, status: 403, says: "not sent from this page"},
		"another host":   {form: good(), edit: func(r *http.Request) { r.Host = "evil.example" }, status: 403, says: "not the address"},
		"signed out":     {form: good(), edit: func(r *http.Request) { r.Header.Del("Cookie"); r.Header.Set("Cookie", "x=y") }, status: 401, says: "not signed in any more"},
		"too much":       {form: seen.form("do", "deny", "reason", strings.Repeat("x", 100<<10)), status: 403},
		"a bearer token": {form: url.Values{"do": {"approve"}, "shown": {a.Shows()}}, edit: func(r *http.Request) { r.Header.Set("Cookie", "x=y"); r.Header.Set("Authorization", "Bearer x") }, status: 401},
		"in the query":   {form: nil, edit: func(r *http.Request) { r.URL.RawQuery = good().Encode() }, status: 403},
		"another form": {form: nil, edit: func(r *http.Request) {
			r.Header.Set("Content-Type", "text/plain")
			r.Body = io.NopCloser(strings.NewReader(good().Encode()))
		}, status: 403},
	} {
		t.Run(name, func(t *testing.T) {
			w.t = t
			fresh := w.browser()
			fresh.Jar = b.Jar
			if name == "signed out" || name == "a bearer token" {
				fresh.Jar = nil
			}
			fresh.edit = test.edit
			fresh.post("/approvals/"+a.ID, test.form).says(t, test.status, test.says)
			if now := w.get(a.ID); now.State != approval.Pending {
				t.Fatalf("it is %s", now.State)
			}
		})
	}
	w.t = t
	b.post("/approvals/"+a.ID, good()).says(t, http.StatusOK, "Approved") // nothing was wrong with the rest
}

func TestTooManyVotes(t *testing.T) {
	w := newWorld(t)
	a := w.ask(nil)
	b := w.browser()
	form := b.signIn("/approvals/"+a.ID, nil).form("do", "nonsense")
	for range 20 {
		b.post("/approvals/"+a.ID, form).says(t, http.StatusBadRequest)
	}
	b.post("/approvals/"+a.ID, form).says(t, http.StatusTooManyRequests, "Too often")
}

// Every answer, an error's too, may be framed, cached and guessed by nobody.
func TestHeaders(t *testing.T) {
	w := newWorld(t)
	a := w.ask(nil)
	b := w.browser()
	style := ""
	for _, got := range []read{b.open("/approvals"), b.open("/approvals/nothing/there"), b.open("/approvals/sign-in/callback?state=x"), b.signIn("/approvals/"+a.ID, nil), b.open("/approvals/link?token=x")} {
		for name, want := range map[string]string{
			"Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
			"X-Content-Type-Options":  "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store", "Cross-Origin-Opener-Policy": "same-origin",
			"Strict-Transport-Security": "max-age=31536000", "Content-Type": "text/html; charset=utf-8",
		} {
			if have := got.header.Values(name); len(have) != 1 || have[0] != want {
				t.Errorf("%s: %s is %q", got.url, name, have)
			}
		}
		if strings.Contains(got.body, "<script") || strings.Contains(got.body, " style=") || strings.Contains(got.body, "http-equiv") {
			t.Errorf("%s holds what the policy forbids", got.url)
		}
		_, rest, _ := strings.Cut(got.body, `<link rel="stylesheet" href="`)
		style, _, _ = strings.Cut(rest, `"`)
	}
	if css := b.open(style); css.status != http.StatusOK || css.header.Get("Content-Type") != "text/css; charset=utf-8" || !strings.Contains(css.header.Get("Cache-Control"), "immutable") {
		t.Errorf("%s: %d %v", style, css.status, css.header)
	}
	for _, method := range []string{http.MethodPut, http.MethodDelete, http.MethodOptions, "TRACE"} {
		req, err := http.NewRequestWithContext(t.Context(), method, w.url+"/approvals/"+a.ID, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := b.do(req); got.status != http.StatusMethodNotAllowed {
			t.Errorf("%s: %d", method, got.status)
		}
	}
}

// The way of a link: from a token that Slack's user was given, by a sign-in, to a
// code that the same user types.
func TestLinks(t *testing.T) {
	w := newWorld(t)
	linking := approval.Linking{Logins: w.logins, Seal: w.seal}
	token, err := linking.Begin(w.inForce(), approval.SlackUser{Team: "T0TEST", User: "U0ERIN", Name: "erin <script>"})
	if err != nil {
		t.Fatal(err)
	}
	path := "/approvals/link?" + url.Values{"token": {token}}.Encode()
	b := w.browser()
	b.open(path).says(t, http.StatusUnauthorized, "Sign in")
	seen := b.signIn(path, issuer.Claims{"sub": "erin"})
	seen.says(t, http.StatusOK, "Link a Slack user to you?", "erin <script>", "U0ERIN", "T0TEST", "Whatever this Slack user presses will count as yours")
	done := b.post("/approvals/link", seen.form())
	done.says(t, http.StatusOK, "/countersign link ", "Give this code to nobody")
	_, rest, _ := strings.Cut(done.body, "/countersign link ")
	code := rest[:9]
	if _, err := w.logins.BySlack(t.Context(), "T0TEST", "U0ERIN"); err == nil {
		t.Fatal("linked before the code was given")
	}
	b.post("/approvals/link", seen.form()).says(t, http.StatusForbidden, "used already")
	if last := w.lastRefused(); !errors.Is(last.why, approval.ErrLinkToken) || last.vote.Sub != "erin" || last.vote.Login == nil {
		t.Errorf("of the link that was refused the record is told %+v", last)
	}
	l, err := linking.Accept(t.Context(), w.inForce(), "T0TEST", "U0ERIN", code)
	if err != nil || l.Sub != "erin" {
		t.Fatalf("%+v, %v", l, err)
	}

	old := w.browser()
	token, err = linking.Begin(w.inForce(), approval.SlackUser{Team: "T0TEST", User: "U0NEW"})
	if err != nil {
		t.Fatal(err)
	}
	path = "/approvals/link?" + url.Values{"token": {token}}.Encode()
	seen = old.signIn(path, issuer.Claims{"sub": "carol"})
	w.pass(approval.MaxAuthAge)
	old.post("/approvals/link", seen.form()).says(t, http.StatusForbidden, "more than five minutes ago")
	w.pass(approval.MaxAuthAge)
	old.post("/approvals/link", seen.form()).says(t, http.StatusForbidden, "more than ten minutes old")
	w.enact(w.load("b", strings.Replace(everyone(w.id.URL), "login: true", "login: false", 1)))
	if token, err = w.seal.Close("link", w.clock().Add(1e10), map[string]string{"Team": "T0TEST", "User": "U0NEW", "Name": "", "ID": "x"}); err != nil {
		t.Fatal(err)
	}
	old.open("/approvals/link?token="+token).says(t, http.StatusForbidden, "Policy does not let people link")
}
