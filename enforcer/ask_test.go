package enforcer

import (
	"net/http"
	"testing"

	"countersign/rules"
)

// A login of the caller's own is shared by calls whose tokens say the same of
// the caller, and by no others.
func TestWhatATokenSays(t *testing.T) {
	of := func(change func(*rules.Subject)) string {
		s := rules.Subject{Issuer: "https://id.example", Sub: "ann", Email: "ann@example.com", Groups: []string{"admins", "staff"},
			Claims: map[string]any{"exp": 1.0, "iat": 1.0, "nbf": 1.0, "jti": "a", "scope": "read write", "org": map[string]any{"unit": "eu"}}}
		change(&s)
		out, err := says(s)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	first := of(func(*rules.Subject) {})
	if of(func(s *rules.Subject) {
		s.Claims["exp"], s.Claims["iat"], s.Claims["nbf"], s.Claims["jti"] = 2.0, 2.0, 2.0, "b"
	}) != first {
		t.Error("a refreshed token says something else")
	}
	for name, change := range map[string]func(*rules.Subject){
		"group lost":    func(s *rules.Subject) { s.Groups = s.Groups[1:] },
		"scope":         func(s *rules.Subject) { s.Claims["scope"] = "read" },
		"claim within":  func(s *rules.Subject) { s.Claims["org"] = map[string]any{"unit": "us"} },
		"claim gone":    func(s *rules.Subject) { delete(s.Claims, "org") },
		"e-mail":        func(s *rules.Subject) { s.Email = "" },
		"another's":     func(s *rules.Subject) { s.Sub = "ben" },
		"other issuer":  func(s *rules.Subject) { s.Issuer = "https://other.example" },
		"claim renamed": func(s *rules.Subject) { s.Claims["orgs"] = s.Claims["org"]; delete(s.Claims, "org") },
	} {
		if of(change) == first {
			t.Errorf("%s: it says the same", name)
		}
	}
	claims := map[string]any{"jti": "a"}
	if _, err := says(rules.Subject{Claims: claims}); err != nil || claims["jti"] != "a" {
		t.Error("the token's claims were changed")
	}
}

// A spawned server keeps what it was started with while its lease lives: where a
// policy puts the secret elsewhere, calls ask for another lease.
func TestASecretThatGoesElsewhereIsAnother(t *testing.T) {
	x := &exchange{r: &http.Request{Header: http.Header{}}}
	ask := func(in rules.Inject) string {
		t.Helper()
		s, err := x.asks(rules.Credential{Name: "c", Exchange: &rules.Exchange{Issuer: "https://id.example"}, Inject: in})
		if err != nil {
			t.Fatal(err)
		}
		return s.Into
	}
	env := rules.Inject{Env: map[string]string{"A": "{{a}}", "B": "{{b}}"}}
	if ask(env) != ask(rules.Inject{Env: map[string]string{"B": "{{b}}", "A": "{{a}}"}}) {
		t.Error("the same is another")
	}
	if ask(env) == ask(rules.Inject{Files: env.Env}) || ask(env) == ask(rules.Inject{Env: map[string]string{"A": "{{a}}", "B": "{{a}}"}}) {
		t.Error("another is the same")
	}
}

// An approval of a call whose credential depends on the caller's token is for
// what the token said when it was asked for.
func TestApprovalsBindWhatVaultIsAsked(t *testing.T) {
	g := newGate(t, http.NotFoundHandler(), map[string]string{"servers/echo.yaml": `server: echo
url: ${URL}
credentials:
  fixed: { vault: database/creds/reader, ttl: 1m, inject: { headers: { X-Key: "{{password}}" } } }
  chosen: { vault: "database/creds/{{args.role}}", ttl: 1m, inject: { headers: { X-Key: "{{password}}" } } }
  path: { vault: "teams/{{subject.claims.team}}/key", lease: none, ttl: 1m, inject: { headers: { X-Key: "{{password}}" } } }
  param: { vault: ssh/creds/otp, method: post, params: { list: ["{{subject.claims.team}}"] }, ttl: 1m, inject: { headers: { X-Key: "{{key}}" } } }
`})
	holds := ""
	binds := func(credential, team, digest string) string {
		x := &exchange{e: g.Enforcer, force: g.force.Load(), server: "echo", digest: digest, decision: rules.Decision{Credential: credential}}
		x.req.Subject.Claims = map[string]any{"team": team}
		x.req.Args = []byte(`{"role":"reader"}`)
		if err := x.bind(); err != nil {
			t.Fatal(err)
		}
		holds = x.whose
		return x.binds
	}
	for _, c := range []string{"", "fixed", "chosen"} { // all that it depends on is in the digest
		if got := binds(c, "blue", "d1"); got != "d1" {
			t.Errorf("%q: %s", c, got)
		}
	}
	for _, c := range []string{"path", "param"} {
		first := binds(c, "blue", "d1")
		holder := holds
		if binds(c, "blue", "d1") != first {
			t.Errorf("%s: not the same for the same", c)
		}
		if binds(c, "red", "d1") == first {
			t.Errorf("%s: an approval for one team is good for another", c)
		}
		if binds(c, "blue", "d2") == first {
			t.Errorf("%s: an approval for one call is good for another", c)
		}
		if holds != holder {
			t.Errorf("%s: a window does not cover another call of the same team", c)
		}
		if binds(c, "red", "d2"); holds == holder {
			t.Errorf("%s: a window for one team is good for another", c)
		}
	}
	x := &exchange{e: g.Enforcer, force: g.force.Load(), server: "echo", decision: rules.Decision{Credential: "path"}}
	if err := x.bind(); err == nil {
		t.Errorf("without the claim: %s", x.binds)
	}
}
