package credential_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"countersign/enforcer/credential"
	"countersign/fixtures/issuer"
)

const gate, secretOfUs = "https://gate.example", "s3cret of +us/%"

// swap is a Minter without Vault, and an issuer that exchanges tokens.
type swap struct {
	*bench
	issuer *issuer.Issuer
	client issuer.Client
	us     credential.IssuerClient
	now    func() time.Time // nil: time.Now
}

func startIssuer(t *testing.T) *issuer.Issuer {
	t.Helper()
	i, err := issuer.Start("127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := i.Close(); err != nil {
			t.Error(err)
		}
	})
	return i
}

func newSwap(t *testing.T, i *issuer.Issuer, change func(*issuer.Exchange)) *swap {
	t.Helper()
	i.Intercept(nil)
	i.Revokes(true)
	x := &issuer.Exchange{SubjectAudience: gate, Audiences: []string{"crm"}, Resources: []string{"https://crm.example/api"}, Scopes: []string{"read", "write"}}
	if change != nil {
		change(x)
	}
	s := &swap{bench: newBench(t, ""), issuer: i, client: issuer.Client{ID: "gate: 1", Secret: secretOfUs, Exchange: x}}
	s.us = credential.IssuerClient{Issuer: i.URL, ClientID: "gate: 1", Secret: secretOfUs}
	return s
}

func (s *swap) open() *swap {
	s.t.Helper()
	s.issuer.Register(s.client)
	cfg := s.config(nil, nil)
	cfg.Issuers, cfg.Now = []credential.IssuerClient{s.us}, s.now
	m, err := credential.Open(s.t.Context(), cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	s.Minter = m
	return s
}

// of is what a caller asks for.
func (s *swap) of(sub string) credential.Spec {
	s.t.Helper()
	token, err := s.issuer.Mint(issuer.Claims{"sub": sub, "aud": gate}, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return credential.Spec{Name: "crm", TTL: time.Hour, Exchange: &credential.Exchange{
		Issuer: s.issuer.URL, Audience: []string{"crm"}, Resource: []string{"https://crm.example/api"}, Scope: "read", Token: token, Expires: time.Now().Add(time.Hour),
	}}
}

func (s *swap) get(holder string, spec credential.Spec) (*credential.Lease, string) {
	s.t.Helper()
	l, err := s.Acquire(s.t.Context(), holder, "c_1", spec)
	if err != nil {
		s.t.Fatal(err)
	}
	if held := s.CallerTokens(); len(held) > 0 {
		s.t.Error("a caller's token is kept after it was exchanged")
	}
	token := s.render(l, "{{access_token}}")
	s.mu.Lock()
	s.minted = append(s.minted, token, spec.Exchange.Token)
	s.mu.Unlock()
	return l, token
}

func TestExchange(t *testing.T) {
	s := newSwap(t, startIssuer(t), nil).open()
	spec := s.of("alice")
	leases := make([]*credential.Lease, 8)
	var calls sync.WaitGroup
	for i := range leases {
		calls.Go(func() { leases[i], _ = s.get("h1", spec) })
	}
	calls.Wait()
	if n := s.issuer.Hits("/token"); n != 1 {
		t.Errorf("exchanged %d times for calls at once", n)
	}
	l, token := s.get("h1", s.of("alice")) // a later token of the caller's changes nothing
	if l.Key != leases[0].Key || len(s.issuer.Alive()) != 1 {
		t.Errorf("alive: %v", s.issuer.Alive())
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil || !strings.Contains(string(payload), `"sub":"alice"`) || !strings.Contains(string(payload), `"aud":["crm","https://crm.example/api"]`) || !strings.Contains(string(payload), `"scope":"read"`) {
		t.Errorf("%s %v", payload, err)
	}
	if masked, _ := s.mask.Text("the tool said " + token); strings.Contains(masked, token) {
		t.Error("the token is not masked")
	}
	if left := time.Until(l.Expires); left > 10*time.Minute || left < 8*time.Minute {
		t.Errorf("it expires in %s", left)
	}
	other, _ := s.get("h2", s.of("bob"))
	elsewhere := s.of("alice")
	elsewhere.Into = "the environment"
	moved, _ := s.get("h1", elsewhere)
	if moved.Key == l.Key {
		t.Error("a lease is shared by calls that put it into different places")
	}
	s.release(moved)
	s.EndWhere(t.Context(), func(i credential.LeaseInfo) bool { return i.Key == moved.Key })
	one := s.of("alice")
	one.PerCall = true
	single, _ := s.get("h1", one)
	if other.Key == l.Key || single.Key == l.Key || len(s.issuer.Alive()) != 3 {
		t.Errorf("alive: %v", s.issuer.Alive())
	}
	s.release(single)
	if n := len(s.issuer.Alive()); n != 2 {
		t.Errorf("%d live after the call", n)
	}
	s.release(other)
	s.EndHolder(t.Context(), "h2")
	for _, l := range append(leases, l) {
		s.release(l)
	}
	if n := len(s.issuer.Alive()); n != 1 {
		t.Errorf("%d live after a holder's end", n)
	}
	s.close()
	if n := len(s.issuer.Alive()); n != 0 {
		t.Errorf("%d live after the end", n)
	}
	s.want("mint", "mint", "mint", "revoke", "mint", "revoke", "revoke", "revoke")
	if ev := s.events[0]; ev.Path != "token exchange at "+s.issuer.URL || strings.Join(ev.Params, ", ") != "audience crm, resource https://crm.example/api, scope read" {
		t.Errorf("recorded as %+v", ev)
	}
	if _, err := s.Acquire(t.Context(), "h1", "c_1", credential.Spec{Name: "db", Path: "database/creds/app"}); !errors.Is(err, credential.ErrClosed) && !strings.Contains(err.Error(), "needs Vault") {
		t.Errorf("Vault without Vault: %v", err)
	}
}

// A key in the place of a secret: each assertion is for one endpoint, and works
// once.
func TestExchangeByKey(t *testing.T) {
	s := newSwap(t, startIssuer(t), nil)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	s.client.Secret, s.client.Key = "", key.Public()
	s.us.Secret, s.us.PrivateKey, s.us.KeyID = "", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), "k1"
	s.open()
	l, _ := s.get("h1", s.of("alice"))
	other, _ := s.get("h2", s.of("bob"))
	s.release(l)
	s.release(other)
	s.close()
	s.want("mint", "mint", "revoke", "revoke")
	if n := len(s.issuer.Alive()); n != 0 {
		t.Errorf("%d live", n)
	}
}

// What is refused is said, by whom and why, and leaves nothing alive.
func TestExchangeRefused(t *testing.T) {
	i := startIssuer(t)
	for name, tt := range map[string]struct {
		issuer func(*issuer.Exchange)
		us     func(*swap)
		spec   func(*swap, *credential.Spec)
		want   error
		says   string
	}{
		"our client":        {us: func(s *swap) { s.us.Secret = "another secret" }, want: credential.ErrDeclined, says: "invalid_client (it does not know our client, or not by this secret or key)"},
		"our right":         {us: func(s *swap) { s.client.Exchange = nil }, want: credential.ErrDeclined, says: "unauthorized_client"},
		"the audience":      {spec: func(_ *swap, s *credential.Spec) { s.Exchange.Audience = []string{"billing"} }, want: credential.ErrDeclined, says: "invalid_target (no token for that audience or resource is given to our client): audience billing"},
		"the resource":      {spec: func(_ *swap, s *credential.Spec) { s.Exchange.Resource = []string{"https://x"} }, want: credential.ErrDeclined, says: "invalid_target"},
		"the scope":         {spec: func(_ *swap, s *credential.Spec) { s.Exchange.Scope = "read admin" }, want: credential.ErrDeclined, says: "invalid_scope (the scope is more than our client, or the caller, may have): scope admin"},
		"no target":         {spec: func(_ *swap, s *credential.Spec) { s.Exchange.Audience, s.Exchange.Resource = nil, nil }, says: "needs an audience or a resource"},
		"no token":          {spec: func(_ *swap, s *credential.Spec) { s.Exchange.Token = "" }, want: credential.ErrNoToken},
		"an expired token":  {spec: func(_ *swap, s *credential.Spec) { s.Exchange.Expires = time.Now().Add(-time.Second) }, want: credential.ErrNoToken, says: "expired meanwhile"},
		"another's token":   {spec: func(_ *swap, s *credential.Spec) { s.Exchange.Token += "x" }, want: credential.ErrDeclined, says: "invalid_request (it does not take the caller's token, or something is missing)"},
		"another issuer":    {spec: func(_ *swap, s *credential.Spec) { s.Exchange.Issuer = "https://evil.example" }, want: credential.ErrDeclined, says: "has not named a client of ours there"},
		"no bearer token":   {issuer: answers("token_type", "DPoP"), want: credential.ErrDeclined, says: "no bearer token"},
		"no access token":   {issuer: answers("issued_token_type", "urn:ietf:params:oauth:token-type:saml2"), want: credential.ErrDeclined, says: "not said to be an access token"},
		"an empty answer":   {issuer: answers("access_token", ""), want: credential.ErrDeclined, says: "holds no access_token"},
		"a short token":     {issuer: answers("access_token", "x7"), says: "under 6 bytes cannot be masked"},
		"too wide a scope":  {issuer: answers("scope", "read write"), want: credential.ErrDeclined, says: "may do more than was asked for"},
		"a strange expiry":  {issuer: answers("expires_in", []int{1}), want: credential.ErrDeclined, says: "does not say for how many seconds"},
		"a strange scope":   {issuer: answers("scope", []string{"read"}), want: credential.ErrDeclined, says: "right shape"},
		"a token for ever":  {issuer: answers("expires_in", nil), want: credential.ErrDeclined, says: "does not say for how many seconds"},
		"a token of before": {issuer: answers("expires_in", -60), want: credential.ErrDeclined, says: "does not say for how many seconds"},
		"a token for a day": {issuer: func(x *issuer.Exchange) { x.Lifetime = 24 * time.Hour }, want: credential.ErrDeclined, says: "lives for 24h0m0s, and would outlive the credential's ttl of 1h0m0s"},
		"and a refresh one": {issuer: answers("refresh_token", "refresh-0123456789"), want: credential.ErrDeclined, says: "holds a refresh token"},
		"for good":          {issuer: func(x *issuer.Exchange) { x.Lifetime = 24 * time.Hour }, us: func(s *swap) { s.issuer.Revokes(false) }, want: credential.ErrDeclined, says: "would outlive"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSwap(t, i, tt.issuer)
			if tt.us != nil {
				tt.us(s)
			}
			s.open()
			alive := len(i.Alive())
			spec := s.of("alice")
			if tt.spec != nil {
				tt.spec(s, &spec)
			}
			l, err := s.Acquire(t.Context(), "h1", "c_1", spec)
			if l != nil || err == nil || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) ||
				strings.Contains(err.Error(), secretOfUs) || spec.Exchange.Token != "" && strings.Contains(err.Error(), spec.Exchange.Token) {
				t.Errorf("got %v", err)
			}
			s.close()
			s.want()
			if name != "an empty answer" && name != "a short token" && name != "for good" {
				if n := len(s.issuer.Alive()) - alive; n != 0 {
					t.Errorf("%d live", n)
				}
			}
		})
	}
}

// A refresh token that nobody asked for is given back, however long the way
// there is closed: that the access token has expired says nothing of it.
func TestExchangeGivesARefreshTokenBack(t *testing.T) {
	s := newSwap(t, startIssuer(t), answers("refresh_token", "refresh-0123456789"))
	now, mu := time.Now(), sync.Mutex{}
	s.now = func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return now
	}
	s.open()
	closed, back := make(chan struct{}, 1), make(chan string, 8)
	open := false
	s.issuer.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/revoke" {
			return false
		}
		mu.Lock()
		defer mu.Unlock()
		if !open {
			open, now = true, now.Add(30*time.Minute)
			w.WriteHeader(http.StatusServiceUnavailable)
			closed <- struct{}{}
			return true
		}
		back <- r.PostFormValue("token")
		return true
	})
	if _, err := s.Acquire(t.Context(), "h1", "c_1", s.of("alice")); !errors.Is(err, credential.ErrDeclined) {
		t.Errorf("got %v", err)
	}
	<-closed
	for token := range back {
		if token == "refresh-0123456789" {
			break
		}
	}
	s.close()
}

// A token that was refused, and that the issuer does not take back, is given up at
// the end of the ttl, on record; and while many wait for that, no more are asked
// for.
func TestExchangeGivesUpOnABrokenIssuer(t *testing.T) {
	s := newSwap(t, startIssuer(t), answers("refresh_token", "refresh-0123456789"))
	now, mu := time.Now(), sync.Mutex{}
	s.now = func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return now
	}
	s.open()
	s.issuer.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/revoke" {
			return false
		}
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	const most = 64
	spec := s.of("alice")
	spec.PerCall = true
	for n := range most {
		if _, err := s.Acquire(t.Context(), "h1", "c_1", spec); !errors.Is(err, credential.ErrDeclined) {
			t.Fatalf("got %v", err)
		}
		s.count("revoke-failed", n+1)
	}
	if held := s.CallerTokens(); len(held) > 0 {
		t.Error("a caller's token is kept though it was refused")
	}
	before := s.issuer.Hits("/token")
	if _, err := s.Acquire(t.Context(), "h2", "c_1", spec); !errors.Is(err, credential.ErrSilent) || !strings.Contains(err.Error(), "not taken back 64 tokens") {
		t.Errorf("got %v", err)
	}
	if s.issuer.Hits("/token") != before {
		t.Error("it was asked for one more")
	}
	if n := len(s.Leases()); n != most {
		t.Errorf("%d listed", n)
	}
	mu.Lock()
	now = now.Add(time.Hour)
	mu.Unlock()
	s.count("forget", most)
	if n := len(s.Leases()); n != 0 {
		t.Errorf("%d listed", n)
	}
	s.mu.Lock()
	for _, e := range s.events {
		if !strings.Contains(e.Err, "revoke a token at "+s.issuer.URL) {
			t.Errorf("%s: %q", e.Action, e.Err)
		}
	}
	s.mu.Unlock()
	s.close()
}

// answers has one member of the answer be another.
func answers(name string, value any) func(*issuer.Exchange) {
	return func(x *issuer.Exchange) {
		x.Answer = func(out map[string]any) { out[name] = value }
	}
}

// An issuer that fails is not asked twice for one mint; what cannot be revoked
// is repeated, and on record until it is done.
func TestExchangeFaults(t *testing.T) {
	s := newSwap(t, startIssuer(t), nil).open()
	fail := func(path string, how func(http.ResponseWriter)) {
		s.issuer.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != path {
				return false
			}
			how(w)
			return true
		})
	}
	spec := s.of("alice")
	for name, how := range map[string]func(http.ResponseWriter){
		"429": func(w http.ResponseWriter) { w.WriteHeader(http.StatusTooManyRequests) },
		"503": func(w http.ResponseWriter) { w.WriteHeader(http.StatusServiceUnavailable) },
		"cut": func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
		"moved": func(w http.ResponseWriter) {
			w.Header().Set("Location", "https://evil.example/token")
			w.WriteHeader(http.StatusTemporaryRedirect)
		},
		"HTML": func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprint(w, "<html>"+secretOfUs)
		},
		"huge": func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"access_token":"`+strings.Repeat("x", 300<<10)+`"}`)
		},
		"it tells all": func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintf(w, `{"error":"invalid_request","error_description":%q}`, "subject_token "+spec.Exchange.Token)
		},
	} {
		fail("/token", how)
		before := s.issuer.Hits("/token")
		_, err := s.Acquire(t.Context(), "h1", "c_1", spec)
		want := credential.ErrDeclined
		if name == "429" || name == "503" || name == "cut" {
			want = credential.ErrSilent
		}
		if !errors.Is(err, want) || strings.Contains(err.Error(), spec.Exchange.Token) || strings.Contains(err.Error(), secretOfUs) {
			t.Errorf("%s: %v", name, err)
		}
		if n := s.issuer.Hits("/token") - before; n != 1 {
			t.Errorf("%s: asked %d times", name, n)
		}
	}
	s.want()

	s.issuer.Intercept(nil)
	l, _ := s.get("h1", spec)
	fail("/revoke", func(w http.ResponseWriter) { w.WriteHeader(http.StatusServiceUnavailable) })
	s.EndNow(t.Context(), func(credential.LeaseInfo) bool { return true })
	if live := s.Leases(); len(live) != 1 || !live[0].Failed {
		t.Errorf("listed: %+v", live)
	}
	s.want("mint", "revoke-failed")
	s.issuer.Intercept(nil)
	s.await("revoke")
	s.release(l)
	if n := len(s.issuer.Alive()); n != 0 {
		t.Errorf("%d live", n)
	}
	s.close()
	// One that nobody takes back is forgotten, and its short life is all it has.
	s = newSwap(t, s.issuer, func(x *issuer.Exchange) { x.Opaque = true }).open()
	s.issuer.Revokes(false)
	one := s.of("alice")
	one.PerCall = true
	l, token := s.get("h1", one)
	if !strings.HasPrefix(token, "opaque-") {
		t.Errorf("got %s", token)
	}
	s.release(l)
	s.close()
	s.want("mint", "forget")
}

// The metadata decides where callers' tokens go: it must be the issuer's own.
func TestExchangeMetadata(t *testing.T) {
	i := startIssuer(t)
	for name, c := range map[string]struct{ body, says string }{
		"another issuer":         {`{"issuer":"https://evil.example","token_endpoint":"https://evil.example/token"}`, "another issuer's"},
		"no endpoint":            {`{"issuer":"ISSUER"}`, "names no https token_endpoint"},
		"in the clear":           {`{"issuer":"ISSUER","token_endpoint":"http://id.example/token"}`, "names no https token_endpoint"},
		"a file":                 {`{"issuer":"ISSUER","token_endpoint":"file:///etc/passwd"}`, "names no https token_endpoint"},
		"with a user":            {`{"issuer":"ISSUER","token_endpoint":"https://a:b@evil.example/"}`, "names no https token_endpoint"},
		"a strange revocation":   {`{"issuer":"ISSUER","token_endpoint":"ISSUER/token","revocation_endpoint":"ftp://x"}`, "no https revocation_endpoint"},
		"something else":         {`[]`, "right shape"},
		"nothing":                {``, "right shape"},
		"no endpoint but a text": {`{"issuer":"ISSUER","token_endpoint":1}`, "right shape"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSwap(t, i, nil).open()
			before := i.Hits("/token")
			s.issuer.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
				if strings.HasPrefix(r.URL.Path, "/.well-known/") {
					w.Header().Set("Content-Type", "application/json")
					fmt.Fprint(w, strings.ReplaceAll(c.body, "ISSUER", s.issuer.URL))
					return true
				}
				return false
			})
			if _, err := s.Acquire(t.Context(), "h1", "c_1", s.of("alice")); !errors.Is(err, credential.ErrDeclined) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v", err)
			}
			if n := s.issuer.Hits("/token"); n != before {
				t.Error("the token went out")
			}
			s.close()
		})
	}
}

func TestExchangeClientsAreChecked(t *testing.T) {
	for want, us := range map[string]credential.IssuerClient{
		"http://id.example\": want an https":  {Issuer: "http://id.example", ClientID: "a", Secret: "b"},
		"want an https URL":                   {Issuer: "id.example", ClientID: "a", Secret: "b"},
		"client_id is missing":                {Issuer: "https://id.example", Secret: "b"},
		"either client_secret or private_key": {Issuer: "https://id.example", ClientID: "a", Secret: "b", PrivateKey: "c"},
		"private_key: it is not PEM":          {Issuer: "https://id.example", ClientID: "a", PrivateKey: "hunter2"},
		"private_key: it cannot be read":      {Issuer: "https://id.example", ClientID: "a", PrivateKey: string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("hunter2")}))},
	} {
		b := newBench(t, "")
		cfg := b.config(nil, nil)
		cfg.Issuers = []credential.IssuerClient{us}
		if _, err := credential.Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", want, err)
		}
	}
}
