package signin_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"countersign/enforcer/approval/signin"
	"countersign/fixtures/issuer"
)

const redirect = "http://127.0.0.1:7777/callback"

var (
	noon     = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	verifier = strings.Repeat("v", 43)
	began    = signin.Flow{Redirect: redirect, State: "state-1", Nonce: "nonce-1", Challenge: challenge(verifier), Began: noon}
	good     = signin.Answer{Code: "code-1", Verifier: verifier}
)

func challenge(verifier string) string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// provider is an issuer whose token endpoint gives an ID token for code-1 and its verifier.
type provider struct {
	*issuer.Issuer
	claims issuer.Claims // over the defaults
	form   url.Values    // what the token endpoint was sent
	basic  [2]string
	answer func(http.ResponseWriter) // in the place of a token; may be nil
	doc    map[string]any            // over the discovery document; may be nil
}

func newProvider(t *testing.T) *provider {
	t.Helper()
	i, err := issuer.Start("127.0.0.1:0", func() time.Time { return noon })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := i.Close(); err != nil {
			t.Error(err)
		}
	})
	p := &provider{Issuer: i}
	i.Intercept(p.serve)
	return p
}

func (p *provider) serve(w http.ResponseWriter, r *http.Request) bool {
	switch {
	case r.URL.Path == "/.well-known/openid-configuration" && p.doc != nil:
		doc := map[string]any{"issuer": p.URL, "jwks_uri": p.URL + "/jwks", "token_endpoint": p.URL + "/token", "authorization_endpoint": p.URL + "/authorize"}
		for k, v := range p.doc {
			doc[k] = v
		}
		_ = json.NewEncoder(w).Encode(doc) // the client reads it or fails the test
		return true
	case r.URL.Path != "/token":
		return false
	}
	if err := r.ParseForm(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return true
	}
	p.form = r.PostForm
	p.basic[0], p.basic[1], _ = r.BasicAuth()
	if p.answer != nil {
		p.answer(w)
		return true
	}
	if r.PostForm.Get("code") != "code-1" || challenge(r.PostForm.Get("code_verifier")) != began.Challenge || r.PostForm.Get("redirect_uri") != redirect {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"error":"invalid_grant"}`)
		return true
	}
	claims := issuer.Claims{"aud": "votes", "sub": "bob", "nonce": "nonce-1", "auth_time": noon.Unix()}
	for k, v := range p.claims {
		claims[k] = v
	}
	token, err := p.Mint(claims, map[string]any{"typ": "JWT"})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return true
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"id_token": token, "token_type": "Bearer"})
	return true
}

func (p *provider) client(t *testing.T, secret string) *signin.Client {
	t.Helper()
	c, err := signin.New(signin.Config{Issuer: p.URL, ID: "votes", Secret: secret, AllowHTTP: true, Now: func() time.Time { return noon }})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTheURLAsksForWhatTheFlowSays(t *testing.T) {
	p := newProvider(t)
	f := began
	f.Fresh, f.ACR = true, []string{"phr", "mfa"}
	where, err := p.client(t, "").Begin(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(where)
	if err != nil || !strings.HasPrefix(where, p.URL+"/authorize?") {
		t.Fatalf("%s: %v", where, err)
	}
	for name, want := range map[string]string{"response_type": "code", "client_id": "votes", "redirect_uri": redirect, "state": "state-1", "nonce": "nonce-1",
		"code_challenge": began.Challenge, "code_challenge_method": "S256", "max_age": "300", "scope": "openid profile email", "prompt": "login", "acr_values": "phr mfa"} {
		if got := u.Query()[name]; !slices.Equal(got, []string{want}) {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	for _, missing := range []signin.Flow{
		{State: "s", Nonce: "n", Challenge: "c"}, {Redirect: redirect, Nonce: "n", Challenge: "c"},
		{Redirect: redirect, State: "s", Challenge: "c"}, {Redirect: redirect, State: "s", Nonce: "n"},
	} {
		if _, err := p.client(t, "").Begin(t.Context(), missing); err == nil {
			t.Errorf("a flow with a part missing has begun: %+v", missing)
		}
	}
}

func TestALoginIsWhatTheIDTokenSays(t *testing.T) {
	p := newProvider(t)
	p.claims = issuer.Claims{"name": "Bob B.", "email": "bob@example.com", "groups": []string{"dba"}, "acr": "phr", "amr": []string{"hwk", "user"}, "auth_time": noon.Add(-time.Minute).Unix()}
	l, err := p.client(t, "s+/ &").Finish(t.Context(), began, good)
	if err != nil {
		t.Fatal(err)
	}
	if l.Issuer != p.URL || l.Sub != "bob" || l.Name != "Bob B." || l.Email != "bob@example.com" || l.ACR != "phr" ||
		!slices.Equal(l.Groups, []string{"dba"}) || !slices.Equal(l.AMR, []string{"hwk", "user"}) || !l.AuthTime.Equal(noon.Add(-time.Minute)) || !l.At.Equal(noon) {
		t.Errorf("%+v", l)
	}
	if p.basic != [2]string{"votes", url.QueryEscape("s+/ &")} || p.form.Has("client_secret") {
		t.Errorf("authenticated as %q, form %v", p.basic, p.form)
	}
	if _, err := p.client(t, "").Finish(t.Context(), began, good); err != nil || p.form.Get("client_id") != "votes" || p.form.Has("client_secret") {
		t.Errorf("a public client: %v, form %v", err, p.form)
	}
}

func TestASecretGoesInTheFormWhereTheIssuerWantsThat(t *testing.T) {
	p := newProvider(t)
	p.doc = map[string]any{"token_endpoint_auth_methods_supported": []string{"client_secret_post"}}
	if _, err := p.client(t, "hush").Finish(t.Context(), began, good); err != nil || p.form.Get("client_secret") != "hush" || p.basic[0] != "" {
		t.Errorf("%v, form %v, basic %q", err, p.form, p.basic)
	}
}

func TestWhatIsNoFreshLoginForUs(t *testing.T) {
	p := newProvider(t)
	fresh := began
	fresh.Fresh = true
	for name, c := range map[string]struct {
		claims issuer.Claims
		flow   signin.Flow
		answer signin.Answer
		want   error
	}{
		"another audience":         {claims: issuer.Claims{"aud": "gate"}, want: signin.ErrRefused},
		"a second audience":        {claims: issuer.Claims{"aud": []string{"votes", "https://gate.example.com"}}, want: signin.ErrRefused},
		"another client":           {claims: issuer.Claims{"azp": "agent"}, want: signin.ErrRefused},
		"another issuer":           {claims: issuer.Claims{"iss": "https://id.example.com"}, want: signin.ErrRefused},
		"another nonce":            {claims: issuer.Claims{"nonce": "nonce-2"}, want: signin.ErrRefused},
		"no nonce":                 {claims: issuer.Claims{"nonce": nil}, want: signin.ErrRefused},
		"expired":                  {claims: issuer.Claims{"exp": noon.Add(-time.Second).Unix()}, want: signin.ErrRefused},
		"no sub":                   {claims: issuer.Claims{"sub": nil}, want: signin.ErrRefused},
		"bound to a key":           {claims: issuer.Claims{"cnf": map[string]any{"jkt": "x"}}, want: signin.ErrRefused},
		"no auth_time":             {claims: issuer.Claims{"auth_time": nil}, want: signin.ErrNotFresh},
		"auth_time as text":        {claims: issuer.Claims{"auth_time": "1772452800"}, want: signin.ErrNotFresh},
		"too long ago":             {claims: issuer.Claims{"auth_time": noon.Add(-signin.MaxAge - time.Second).Unix()}, want: signin.ErrNotFresh},
		"yet to come":              {claims: issuer.Claims{"auth_time": noon.Add(2 * time.Minute).Unix()}, want: signin.ErrNotFresh},
		"before a fresh one began": {claims: issuer.Claims{"auth_time": noon.Add(-11 * time.Second).Unix()}, flow: fresh, want: signin.ErrNotFresh},
		"another code":             {answer: signin.Answer{Code: "code-2", Verifier: verifier}, want: signin.ErrRefused},
		"another verifier":         {answer: signin.Answer{Code: "code-1", Verifier: strings.Repeat("w", 43)}, want: signin.ErrRefused},
		"an answer of another":     {answer: signin.Answer{Code: "code-1", Verifier: verifier, Issuer: "https://evil.example.com"}, want: signin.ErrRefused},
	} {
		t.Run(name, func(t *testing.T) {
			p.claims = c.claims
			if c.flow.State == "" {
				c.flow = began
			}
			if c.answer.Code == "" {
				c.answer = good
			}
			if l, err := p.client(t, "").Finish(t.Context(), c.flow, c.answer); !errors.Is(err, c.want) || l.Sub != "" {
				t.Errorf("%+v, %v; want %v", l, err, c.want)
			}
		})
	}
	p.claims = nil // the same flow, with nothing wrong
	if _, err := p.client(t, "").Finish(t.Context(), fresh, good); err != nil {
		t.Error(err)
	}
}

func TestAnIssuerThatFailsIsUnavailable(t *testing.T) {
	p := newProvider(t)
	c := p.client(t, "")
	for name, answer := range map[string]func(http.ResponseWriter){
		"an error of its own": func(w http.ResponseWriter) { w.WriteHeader(http.StatusBadGateway) },
		"too many":            func(w http.ResponseWriter) { w.WriteHeader(http.StatusTooManyRequests) },
		"no JSON":             func(w http.ResponseWriter) { _, _ = io.WriteString(w, "<html>token-abc") },
		"endless":             func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{"id_token":"`+strings.Repeat("x", 1<<20)+`"}`) },
	} {
		p.answer = answer
		if _, err := c.Finish(t.Context(), began, good); !errors.Is(err, signin.ErrUnavailable) || strings.Contains(err.Error(), "token-abc") {
			t.Errorf("%s: %v", name, err)
		}
	}
	p.answer = func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{"access_token":"abc"}`) }
	if _, err := c.Finish(t.Context(), began, good); !errors.Is(err, signin.ErrRefused) || strings.Contains(err.Error(), "abc") {
		t.Errorf("no ID token: %v", err)
	}
	p.answer = func(w http.ResponseWriter) {
		http.Redirect(w, &http.Request{}, p.URL+"/elsewhere", http.StatusTemporaryRedirect)
	}
	if _, err := c.Finish(t.Context(), began, good); !errors.Is(err, signin.ErrRefused) || p.Hits("/elsewhere") > 0 {
		t.Errorf("a redirect: %v", err)
	}
}

func TestDiscoveryPointsNowhereElse(t *testing.T) {
	p := newProvider(t)
	for name, doc := range map[string]map[string]any{
		"another issuer":  {"issuer": "https://id.example.com"},
		"a token to us":   {"token_endpoint": "http://127.0.0.1:1/token"},
		"into a network":  {"token_endpoint": "https://10.0.0.1/token"},
		"no endpoint":     {"authorization_endpoint": ""},
		"another page":    {"authorization_endpoint": "http://id.example.com/authorize"},
		"with a password": {"authorization_endpoint": "https://a:b@id.example.com/authorize"},
	} {
		p.doc = doc
		if where, err := p.client(t, "").Begin(t.Context(), began); !errors.Is(err, signin.ErrUnavailable) || where != "" {
			t.Errorf("%s: %q, %v", name, where, err)
		}
	}
	p.doc = map[string]any{"authorization_response_iss_parameter_supported": true}
	c := p.client(t, "")
	if _, err := c.Finish(t.Context(), began, good); !errors.Is(err, signin.ErrRefused) {
		t.Errorf("an answer that does not name its issuer: %v", err)
	}
	named := good
	named.Issuer = p.URL
	if _, err := c.Finish(t.Context(), began, named); err != nil {
		t.Error(err)
	}
}

func TestAConfigurationThatCannotWork(t *testing.T) {
	for _, c := range []signin.Config{
		{Issuer: "https://id.example.com"}, {ID: "votes"}, {Issuer: "http://id.example.com", ID: "votes"}, {Issuer: "http://127.0.0.1:1", ID: "votes"},
		{Issuer: "https://id.example.com", ID: "votes", Scopes: []string{"profile"}},
	} {
		if _, err := signin.New(c); err == nil {
			t.Errorf("taken: %+v", c)
		}
	}
}
