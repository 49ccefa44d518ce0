package enforcer

import (
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
