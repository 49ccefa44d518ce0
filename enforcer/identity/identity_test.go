package identity_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"countersign/enforcer/identity"
	"countersign/fixtures/issuer"
)

const (
	resource  = "https://mcp.example.com/customers"
	discovery = "/.well-known/openid-configuration"
)

type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func start(t testing.TB) (*issuer.Issuer, *identity.Verifier, *clock) {
	t.Helper()
	c := &clock{at: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	iss := listen(t, c)
	return iss, verifier(t, c, iss.URL), c
}

func listen(t testing.TB, c *clock) *issuer.Issuer {
	t.Helper()
	iss, err := issuer.Start("127.0.0.1:0", c.now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := iss.Close(); err != nil {
			t.Error(err)
		}
	})
	return iss
}

func verifier(t testing.TB, c *clock, issuers ...string) *identity.Verifier {
	t.Helper()
	v, err := identity.New(identity.Config{Issuers: issuers, Audience: resource, Now: c.now, AllowHTTP: true, Client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func mint(t testing.TB, iss *issuer.Issuer, over issuer.Claims, header map[string]any) string {
	t.Helper()
	claims := issuer.Claims{"sub": "alice", "aud": resource, "client_id": "agent"}
	for k, v := range over {
		claims[k] = v
	}
	token, err := iss.Mint(claims, header)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func refused(t *testing.T, v *identity.Verifier, token, code, reason string) {
	t.Helper()
	caller, err := v.Verify(t.Context(), token)
	var e *identity.Error
	if !errors.As(err, &e) || e.Code != code || !strings.Contains(e.Reason, reason) {
		t.Errorf("got %v (caller %+v), want %s: …%s…", err, caller, code, reason)
	}
}

func accepted(t *testing.T, v *identity.Verifier, token string) identity.Caller {
	t.Helper()
	c, err := v.Verify(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCaller(t *testing.T) {
	iss, v, c := start(t)
	for _, alg := range []string{"RS256", "ES256"} {
		got := accepted(t, v, mint(t, iss, issuer.Claims{
			"aud": []string{"https://other.example.com", resource}, "email": "alice@example.com", "email_verified": true,
			"groups": []string{"dev", "dba"}, "team": "billing", "azp": "agent", "nbf": c.now().Unix(),
		}, map[string]any{"alg": alg}))
		s := got.Subject
		if s.Issuer != iss.URL || s.Sub != "alice" || s.Email != "alice@example.com" || !reflect.DeepEqual(s.Groups, []string{"dev", "dba"}) ||
			got.Client != "agent" || !got.Expires.Equal(c.now().Add(time.Hour)) || s.Claims["team"] != "billing" {
			t.Errorf("%s: %+v", alg, got)
		}
		for _, hidden := range []string{"email", "groups", "sub", "iss"} {
			if _, there := s.Claims[hidden]; there {
				t.Errorf("claims repeat %s, unchecked", hidden)
			}
		}
	}
}

func TestClaims(t *testing.T) {
	iss, v, _ := start(t)
	check := func(name string, claims issuer.Claims, want func(identity.Caller) bool) {
		if c := accepted(t, v, mint(t, iss, claims, nil)); !want(c) {
			t.Errorf("%s: %+v", name, c)
		}
	}
	email := func(want string) func(identity.Caller) bool {
		return func(c identity.Caller) bool { return c.Subject.Email == want && c.Subject.Claims["email"] == nil }
	}
	check("unverified e-mail", issuer.Claims{"email": "a@b.c", "email_verified": false}, email(""))
	check("unverified e-mail, as a string", issuer.Claims{"email": "a@b.c", "email_verified": "false"}, email(""))
	check("verified e-mail, as a string", issuer.Claims{"email": "a@b.c", "email_verified": "true"}, email("a@b.c"))
	check("e-mail without a word on it", issuer.Claims{"email": "a@b.c"}, email("a@b.c"))
	check("e-mail with a line break", issuer.Claims{"email": "a@b.c\nX: y"}, email(""))
	check("azp alone", issuer.Claims{"client_id": nil, "azp": "ide"}, func(c identity.Caller) bool { return c.Client == "ide" })
	check("no client", issuer.Claims{"client_id": nil}, func(c identity.Caller) bool { return c.Client == "" })
	check("one group, as a string", issuer.Claims{"groups": "dev"}, func(c identity.Caller) bool { return reflect.DeepEqual(c.Subject.Groups, []string{"dev"}) })
	for _, typ := range []any{nil, "JWT", "jwt", "AT+JWT", "application/at+jwt"} {
		accepted(t, v, mint(t, iss, nil, map[string]any{"typ": typ}))
	}
	accepted(t, v, mint(t, iss, nil, map[string]any{"kid": nil}))
}

func TestRefused(t *testing.T) {
	iss, v, c := start(t)
	now := c.now().Unix()
	stranger := listen(t, c)
	good := mint(t, iss, nil, nil)
	accepted(t, v, good)
	parts := strings.Split(good, ".")
	other := strings.Split(mint(t, iss, issuer.Claims{"sub": "mallory"}, nil), ".")

	cases := []struct {
		name, token, reason string
	}{
		{"garbage", "not-a-token", "three parts"},
		{"five parts (JWE)", "a.b.c.d.e", "three parts"},
		{"too long", strings.Repeat("a", 20<<10), "longer than"},
		{"empty parts", "..", "header"},
		{"payload swapped", parts[0] + "." + other[1] + "." + parts[2], "signature is wrong"},
		{"signature cut", parts[0] + "." + parts[1] + ".", "signature is wrong"},
		{"alg none", unsigned(t, map[string]any{"alg": "none"}, parts[1]) + ".", "algorithm"},
		{"alg None", unsigned(t, map[string]any{"alg": "None"}, parts[1]) + ".", "algorithm"},
		{"no alg", unsigned(t, map[string]any{}, parts[1]) + ".", "algorithm"},
		{"HS256 with the public key as secret", hs256(t, iss, parts[1]), "algorithm"},
		{"alg of another kind of key", mint(t, iss, nil, map[string]any{"alg": "PS256"}), "no key that could"},
		{"crit", mint(t, iss, nil, map[string]any{"crit": []string{"exp"}}), "critical"},
		{"logout token", mint(t, iss, nil, map[string]any{"typ": "logout+jwt"}), "typ"},
		{"DPoP proof", mint(t, iss, nil, map[string]any{"typ": "dpop+jwt"}), "typ"},
		{"typ no string", mint(t, iss, nil, map[string]any{"typ": 7}), "typ"},
		{"kid no string", mint(t, iss, nil, map[string]any{"kid": 7}), "kid"},
		{"unknown issuer", mint(t, stranger, nil, nil), "issuer is not one"},
		{"another issuer's key", mint(t, stranger, issuer.Claims{"iss": iss.URL}, nil), "signature is wrong"},
		{"issuer with a slash", mint(t, iss, issuer.Claims{"iss": iss.URL + "/"}, nil), "issuer is not one"},
		{"no issuer", mint(t, iss, issuer.Claims{"iss": nil}, nil), "issuer is not one"},
		{"no exp", mint(t, iss, issuer.Claims{"exp": nil}, nil), ""},
		{"exp as a string", mint(t, iss, issuer.Claims{"exp": fmt.Sprint(now + 60)}, nil), ""},
		{"exp beyond time", mint(t, iss, issuer.Claims{"exp": 1e300}, nil), ""},
		{"expired", mint(t, iss, issuer.Claims{"exp": now - 1}, nil), "expired"},
		{"expires now", mint(t, iss, issuer.Claims{"exp": now}, nil), "expired at 2026-03-01T12:00:00Z"},
		{"not yet", mint(t, iss, issuer.Claims{"nbf": now + 120}, nil), "nbf lies in the future"},
		{"nbf no date", mint(t, iss, issuer.Claims{"nbf": "soon"}, nil), ""},
		{"issued in the future", mint(t, iss, issuer.Claims{"iat": now + 120}, nil), "iat lies in the future"},
		{"another audience", mint(t, iss, issuer.Claims{"aud": "https://other.example.com"}, nil), "audience"},
		{"audience as prefix", mint(t, iss, issuer.Claims{"aud": resource + "/"}, nil), "audience"},
		{"no audience", mint(t, iss, issuer.Claims{"aud": nil}, nil), "audience"},
		{"audience under another spelling", mint(t, iss, issuer.Claims{"aud": nil, "Aud": resource}, nil), "audience"},
		{"mixed audience", mint(t, iss, issuer.Claims{"aud": []any{resource, 7}}, nil), ""},
		{"no sub", mint(t, iss, issuer.Claims{"sub": nil}, nil), "sub"},
		{"sub with a line break", mint(t, iss, issuer.Claims{"sub": "a\nb"}, nil), "sub"},
		{"sub of 2 KB", mint(t, iss, issuer.Claims{"sub": strings.Repeat("a", 2048)}, nil), "sub"},
		{"two clients", mint(t, iss, issuer.Claims{"azp": "other"}, nil), "different clients"},
		{"client with NUL", mint(t, iss, issuer.Claims{"client_id": "a\x00"}, nil), "client"},
		{"groups no strings", mint(t, iss, issuer.Claims{"groups": []any{"dev", 1}}, nil), "groups"},
		{"groups an object", mint(t, iss, issuer.Claims{"groups": map[string]any{"dev": true}}, nil), "groups"},
		{"groups elsewhere", mint(t, iss, issuer.Claims{"_claim_names": map[string]any{"groups": "src1"}, "_claim_sources": map[string]any{"src1": map[string]any{"endpoint": "http://127.0.0.1:1/"}}}, nil), "elsewhere"},
		{"bound to a key", mint(t, iss, issuer.Claims{"cnf": map[string]any{"jkt": "x"}}, nil), "cnf"},
		{"claim twice", sign(t, iss, `{"iss":%q,"sub":"alice","sub":"root","aud":%q,"exp":%d}`, iss.URL, resource, now+60), "payload"},
		{"trailing data", sign(t, iss, `{"iss":%q,"sub":"alice","aud":%q,"exp":%d} {}`, iss.URL, resource, now+60), "payload"},
		{"invalid UTF-8", sign(t, iss, "{\"iss\":%q,\"sub\":\"al\xffice\",\"aud\":%q,\"exp\":%d}", iss.URL, resource, now+60), "payload"},
		{"null", sign(t, iss, "null"), "payload"},
		{"array", sign(t, iss, "[]"), "payload"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) { refused(t, v, tc.token, identity.InvalidToken, tc.reason) })
	}
	refused(t, v, "", identity.MissingToken, "no bearer")
	if n := stranger.Hits(discovery) + stranger.Hits("/jwks"); n != 0 {
		t.Errorf("an issuer that is not configured was contacted %d times", n)
	}
}

func unsigned(t *testing.T, header map[string]any, payload string) string {
	t.Helper()
	h, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(h) + "." + payload
}

func hs256(t *testing.T, iss *issuer.Issuer, payload string) string {
	t.Helper()
	input := unsigned(t, map[string]any{"alg": "HS256", "kid": "key-1"}, payload)
	mac := hmac.New(sha256.New, get(t, iss.URL+"/jwks"))
	mac.Write([]byte(input))
	return input + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

func get(t *testing.T, url string) []byte {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return body
}

func sign(t *testing.T, iss *issuer.Issuer, payload string, args ...any) string {
	t.Helper()
	if len(args) > 0 {
		payload = fmt.Sprintf(payload, args...)
	}
	token, err := iss.Sign([]byte(payload), nil)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// A token that was verified once is not asked about again, and dies on time.
func TestRemembered(t *testing.T) {
	iss, v, c := start(t)
	token := mint(t, iss, issuer.Claims{"exp": c.now().Add(time.Minute).Unix()}, nil)
	for range 10 {
		accepted(t, v, token)
	}
	if n := iss.Hits("/jwks"); n != 1 {
		t.Errorf("keys were fetched %d times", n)
	}
	c.pass(time.Minute)
	refused(t, v, token, identity.InvalidToken, "expired")
}

func TestRotation(t *testing.T) {
	iss, v, c := start(t)
	old := mint(t, iss, nil, map[string]any{"kid": "key-1"})
	accepted(t, v, old)
	kid, err := iss.Rotate("RS256")
	if err != nil {
		t.Fatal(err)
	}
	accepted(t, v, mint(t, iss, nil, map[string]any{"kid": kid})) // seen at once
	accepted(t, v, old)

	// A withdrawn key: the first use after RefreshAfter has the keys fetched,
	// and then the token is dead, remembered or not.
	iss.Withdraw("key-1")
	c.pass(identity.RefreshAfter)
	fetched := make(chan struct{})
	var once sync.Once
	iss.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/jwks" {
			once.Do(func() { close(fetched) })
		}
		return false
	})
	accepted(t, v, old)
	<-fetched
	if err := v.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	for {
		_, err := v.Verify(t.Context(), old)
		var e *identity.Error
		if errors.As(err, &e) && e.Code == identity.InvalidToken {
			break // the fetch under way has landed
		}
		if err != nil || t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
}

// An issuer that cannot be reached cannot prolong a key beyond StaleAfter.
func TestStaleKeys(t *testing.T) {
	iss, v, c := start(t)
	token := mint(t, iss, nil, nil)
	accepted(t, v, token)
	iss.Intercept(func(w http.ResponseWriter, _ *http.Request) bool {
		http.Error(w, "down", http.StatusBadGateway)
		return true
	})
	c.pass(identity.StaleAfter - time.Second)
	accepted(t, v, token)
	c.pass(time.Second)
	refused(t, v, token, identity.Unavailable, "502")
	iss.Intercept(nil)
	c.pass(time.Minute)
	accepted(t, v, token)
}

func TestIssuerDown(t *testing.T) {
	for name, hook := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"error": func(w http.ResponseWriter, _ *http.Request) bool {
			http.Error(w, "x", http.StatusInternalServerError)
			return true
		},
		"cut": func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) },
		"not JSON": func(w http.ResponseWriter, _ *http.Request) bool {
			_, err := w.Write([]byte("<html>"))
			return err == nil
		},
		"huge": func(w http.ResponseWriter, _ *http.Request) bool {
			_, err := w.Write([]byte(`{"issuer":"` + strings.Repeat("a", 2<<20) + `"}`))
			return err == nil || true
		},
		"redirect": func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/elsewhere" {
				t.Error("a redirect was followed")
			}
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
			return true
		},
		"no keys": func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != "/jwks" {
				return false
			}
			_, err := w.Write([]byte(`{"keys":[{"kty":"oct","k":"c2VjcmV0","kid":"key-1","alg":"RS256"}]}`))
			return err == nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			iss, v, c := start(t)
			token := mint(t, iss, nil, nil)
			iss.Intercept(hook)
			refused(t, v, token, identity.Unavailable, iss.URL)
			if err := v.Ready(t.Context()); err == nil {
				t.Error("ready without keys")
			}
			asked := iss.Hits(discovery)
			refused(t, v, token, identity.Unavailable, iss.URL)
			if n := iss.Hits(discovery); n != asked || n != 1 {
				t.Errorf("asked %d times within a second of failing", n)
			}
			iss.Intercept(nil)
			c.pass(time.Second)
			accepted(t, v, token)
		})
	}
}

func TestIssuerSlow(t *testing.T) {
	iss, v, _ := start(t)
	release := make(chan struct{})
	iss.Intercept(func(http.ResponseWriter, *http.Request) bool { <-release; return false })
	defer close(release)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := v.Verify(ctx, mint(t, iss, nil, nil))
	var e *identity.Error
	if !errors.As(err, &e) || e.Status() != http.StatusServiceUnavailable {
		t.Fatal(err)
	}
}

// One issuer down leaves the other's callers alone.
func TestTwoIssuers(t *testing.T) {
	c := &clock{at: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	a, b := listen(t, c), listen(t, c)
	v := verifier(t, c, a.URL, b.URL)
	a.Intercept(func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) })
	refused(t, v, mint(t, a, nil, nil), identity.Unavailable, a.URL)
	if got := accepted(t, v, mint(t, b, nil, nil)); got.Subject.Issuer != b.URL {
		t.Errorf("%+v", got)
	}
	if err := v.Ready(t.Context()); err != nil {
		t.Error(err)
	}
	// Each issuer's key vouches for its own tokens only.
	a.Intercept(nil)
	c.pass(time.Minute)
	refused(t, v, mint(t, b, issuer.Claims{"iss": a.URL}, nil), identity.InvalidToken, "signature")
}

// Made-up key ids must not turn this process against its issuer.
func TestUnknownKeysAreBounded(t *testing.T) {
	iss, v, _ := start(t)
	accepted(t, v, mint(t, iss, nil, nil))
	for i := range 50 {
		refused(t, v, mint(t, iss, nil, map[string]any{"kid": fmt.Sprintf("made-up-%d", i)}), identity.InvalidToken, "no key")
	}
	if n := iss.Hits("/jwks"); n > 4 {
		t.Errorf("50 made-up keys caused %d fetches", n)
	}
}

// Discovery that points into our own network is not followed.
func TestKeysElsewhere(t *testing.T) {
	for _, uri := range []string{"http://169.254.169.254/latest", "https://10.0.0.1/jwks", "https://localhost/jwks", "file:///etc/passwd", "http://keys.example.com/jwks", "https://u:p@keys.example.com/", ""} {
		iss, v, _ := start(t)
		iss.Intercept(func(w http.ResponseWriter, _ *http.Request) bool {
			return json.NewEncoder(w).Encode(map[string]any{"issuer": iss.URL, "jwks_uri": uri}) == nil
		})
		refused(t, v, mint(t, iss, nil, nil), identity.Unavailable, "jwks_uri")
	}
	iss, v, _ := start(t)
	iss.Intercept(func(w http.ResponseWriter, _ *http.Request) bool {
		return json.NewEncoder(w).Encode(map[string]any{"issuer": "https://evil.example.com", "jwks_uri": iss.URL + "/jwks"}) == nil
	})
	refused(t, v, mint(t, iss, nil, nil), identity.Unavailable, "issuer")
}

func TestConfig(t *testing.T) {
	for name, cfg := range map[string]identity.Config{
		"no issuer":              {Audience: resource},
		"no audience":            {Issuers: []string{"https://a.example.com"}},
		"http":                   {Issuers: []string{"http://127.0.0.1:1"}, Audience: resource},
		"http, not loopback":     {Issuers: []string{"http://a.example.com"}, Audience: resource, AllowHTTP: true},
		"with a query":           {Issuers: []string{"https://a.example.com/?x"}, Audience: resource},
		"with a fragment":        {Issuers: []string{"https://a.example.com/#x"}, Audience: resource},
		"with a password":        {Issuers: []string{"https://u:p@a.example.com/"}, Audience: resource},
		"no URL":                 {Issuers: []string{"a"}, Audience: resource},
		"twice":                  {Issuers: []string{"https://a.example.com", "https://a.example.com"}, Audience: resource},
		"http, named like local": {Issuers: []string{"http://localhost.example.com"}, Audience: resource, AllowHTTP: true},
	} {
		if _, err := identity.New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// No error and no challenge repeats the token, nor tells an attacker which
// check failed.
func TestChallenge(t *testing.T) {
	iss, v, c := start(t)
	const meta = "https://mcp.example.com/.well-known/oauth-protected-resource/customers"
	_, missing := v.Verify(t.Context(), "")
	if got := identity.Challenge(meta, missing); got != `Bearer resource_metadata="`+meta+`"` {
		t.Error(got)
	}
	seen := map[string]bool{}
	for _, token := range []string{"secret.token.parts", mint(t, iss, issuer.Claims{"aud": "x"}, nil), mint(t, iss, issuer.Claims{"exp": c.now().Unix()}, nil)} {
		_, err := v.Verify(t.Context(), token)
		if err == nil || strings.Contains(err.Error(), token) || strings.Contains(err.Error(), strings.Split(token, ".")[2]) {
			t.Errorf("%v", err)
		}
		got := identity.Challenge(meta, err)
		if !strings.Contains(got, `error="invalid_token"`) || !strings.Contains(got, `resource_metadata="`+meta+`"`) {
			t.Error(got)
		}
		seen[got] = true
	}
	if len(seen) != 1 {
		t.Errorf("challenges differ: %v", seen)
	}
	if got := identity.Challenge("https://a\"b\\\r\nX: y", missing); got != `Bearer resource_metadata="https://a\"b\\X: y"` {
		t.Error(got)
	}
}

// A token for one endpoint is good there, remembered or not, and nowhere else.
func TestNarrowAudience(t *testing.T) {
	iss, v, _ := start(t)
	narrow := mint(t, iss, issuer.Claims{"aud": resource + "/mcp/a"}, nil)
	for range 2 {
		if c, err := v.Verify(t.Context(), narrow, resource+"/mcp/a"); err != nil || c.Subject.Sub == "" {
			t.Errorf("%+v, %v", c, err)
		}
		for _, also := range [][]string{nil, {resource + "/mcp/b"}, {""}} {
			if _, err := v.Verify(t.Context(), narrow, also...); err == nil || !strings.Contains(err.Error(), "audience") {
				t.Errorf("%q: %v", also, err)
			}
		}
	}
}

func TestMetadata(t *testing.T) {
	h := identity.Metadata(resource, []string{"https://a.example.com", "https://b.example.com"}, func(path string) bool { return path == "" || path == "/mcp/a" })
	at := func(method, path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, identity.WellKnown+path, nil))
		return w
	}
	do := func(method string) *httptest.ResponseRecorder { return at(method, "") }
	var doc struct {
		Resource string   `json:"resource"`
		Servers  []string `json:"authorization_servers"`
		Methods  []string `json:"bearer_methods_supported"`
	}
	w := do("GET")
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil || w.Code != 200 || w.Header().Get("Content-Type") != "application/json" {
		t.Fatal(err, w.Code, w.Header())
	}
	if doc.Resource != resource || len(doc.Servers) != 2 || !reflect.DeepEqual(doc.Methods, []string{"header"}) {
		t.Errorf("%+v", doc)
	}
	if err := json.Unmarshal(at("GET", "/mcp/a").Body.Bytes(), &doc); err != nil || doc.Resource != resource+"/mcp/a" {
		t.Errorf("%+v, %v", doc, err) // RFC 9728 section 3.3: it must be the one that was asked for
	}
	if w := at("GET", "/elsewhere"); w.Code != 404 {
		t.Error(w.Code)
	}
	if w := do("HEAD"); w.Code != 200 || w.Body.Len() != 0 {
		t.Error(w.Code, w.Body)
	}
	if w := do("OPTIONS"); w.Code != 204 || w.Header().Get("Access-Control-Allow-Origin") != "*" {
		t.Error(w.Code)
	}
	if w := do("POST"); w.Code != 405 {
		t.Error(w.Code)
	}
	for in, want := range map[string]string{
		"https://mcp.example.com":        "https://mcp.example.com/.well-known/oauth-protected-resource",
		"https://mcp.example.com/":       "https://mcp.example.com/.well-known/oauth-protected-resource",
		"https://mcp.example.com:8443/a": "https://mcp.example.com:8443/.well-known/oauth-protected-resource/a",
	} {
		if got, err := identity.MetadataURL(in); err != nil || got != want {
			t.Errorf("%s: %s, %v", in, got, err)
		}
	}
	if _, err := identity.MetadataURL("customers"); err == nil {
		t.Error("no URL passed for a resource")
	}
}

func FuzzVerify(f *testing.F) {
	iss, v, _ := start(f)
	f.Add(mint(f, iss, nil, nil))
	f.Add("..")
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	good := mint(f, iss, nil, nil)
	f.Fuzz(func(t *testing.T, token string) {
		c, err := v.Verify(t.Context(), token)
		var e *identity.Error
		if err != nil && !errors.As(err, &e) {
			t.Fatalf("an error of another kind: %v", err)
		}
		if err == nil && (c.Subject.Sub == "" || strings.Count(token, ".") != strings.Count(good, ".")) {
			t.Fatalf("%q made a caller: %+v", token, c)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	iss, v, _ := start(b)
	token := mint(b, iss, nil, nil)
	b.Run("remembered", func(b *testing.B) {
		for b.Loop() {
			if _, err := v.Verify(b.Context(), token); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// A token that is good for two resources is good for none that forbids the other.
func TestATokenForBothIsRefused(t *testing.T) {
	iss, mcp, c := start(t)
	const operate = resource + "/operate"
	v, err := identity.New(identity.Config{Issuers: []string{iss.URL}, Audience: operate, Never: func(a string) bool { return a == resource }, Now: c.now, AllowHTTP: true, Client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}})
	if err != nil {
		t.Fatal(err)
	}
	one := mint(t, iss, issuer.Claims{"aud": operate}, nil)
	if caller, err := v.Verify(t.Context(), one); err != nil || caller.Subject.Sub != "alice" {
		t.Errorf("%+v %v", caller, err)
	}
	refused(t, mcp, one, identity.InvalidToken, "audience")
	refused(t, v, mint(t, iss, nil, nil), identity.InvalidToken, "audience")
	refused(t, v, mint(t, iss, issuer.Claims{"aud": []any{operate, resource}}, nil), identity.InvalidToken, "good for one of the two")
	for range 2 { // the second time from memory
		if _, err := v.Verify(t.Context(), mint(t, iss, issuer.Claims{"aud": []any{operate, "account"}}, nil)); err != nil {
			t.Errorf("an audience that is nothing of ours: %v", err)
		}
	}
}
