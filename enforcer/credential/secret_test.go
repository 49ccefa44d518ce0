package credential_test

import (
	"strings"
	"testing"

	"countersign/enforcer/credential"
	"countersign/fixtures/vault"
)

// Answers of every shape: what a template may use of them, and what is masked.
func TestShapesOfSecrets(t *testing.T) {
	const path = "engine/creds/x"
	chain := []any{"-----first-certificate-----", "-----second-certificate-----"}
	for _, c := range []struct {
		name   string
		data   map[string]any
		spec   credential.Spec
		want   map[string]string // template to value
		hidden []string          // that must be masked
		shown  []string          // that must not
		err    string            // of Acquire
	}{
		{name: "an object within", data: map[string]any{"data": map[string]any{"a-b": "first-secret", "c": map[string]any{"d": "second-secret"}}},
			want: map[string]string{"{{data.a-b}}": "first-secret", "{{data.c.d}}": "second-secret"}, hidden: []string{"first-secret", "second-secret"}},
		{name: "a list", data: map[string]any{"chain": chain}, spec: credential.Spec{Public: []string{"chain"}},
			want: map[string]string{"{{chain}}": "-----first-certificate-----\n-----second-certificate-----", "{{chain.1}}": "-----second-certificate-----"}, shown: []string{"first-certificate"}},
		{name: "a list of objects", data: map[string]any{"keys": []any{map[string]any{"k": "first-secret"}, "second-secret"}},
			want: map[string]string{"{{keys.0.k}}": "first-secret", "{{keys.1}}": "second-secret"}, hidden: []string{"first-secret", "second-secret"}},
		{name: "the whole object is secret", data: map[string]any{"data": map[string]any{"a": "first-secret", "b": "second-secret"}, "note": "left-out-altogether"}, spec: credential.Spec{Fields: []string{"data"}},
			want: map[string]string{"{{data.a}}": "first-secret"}, hidden: []string{"first-secret", "second-secret"}, shown: []string{"left-out-altogether"}},
		{name: "a secret user's name", data: map[string]any{"username": "access-key-id", "password": "first-secret"}, spec: credential.Spec{Fields: []string{"username", "password"}},
			want: map[string]string{"{{username}}": "access-key-id"}, hidden: []string{"access-key-id"}},
		{name: "empty texts", data: map[string]any{"password": "first-secret", "session": ""},
			want: map[string]string{"{{password}}": "first-secret", "{{session}}": ""}},
		{name: "base64 in the alphabet of URLs", data: map[string]any{"file": "e_CfmIM_Pn0"}, spec: credential.Spec{Base64: []string{"file"}},
			want: map[string]string{"{{file}}": "{😃?>}"}, hidden: []string{"e_CfmIM_Pn0", "{😃?>}"}},
		{name: "one name twice", data: map[string]any{"a.b": "first-secret", "a": map[string]any{"b": "second-secret"}}, err: "two fields that go by the name a.b"},
		{name: "an empty secret", data: map[string]any{"password": ""}, spec: credential.Spec{Fields: []string{"password"}}, err: "no text in field password"},
		{name: "base64 of no text", data: map[string]any{"file": "/////w=="}, spec: credential.Spec{Base64: []string{"file"}}, err: "it is not text in base64"},
		{name: "a word of the protocol", data: map[string]any{"a": "first-secret", "b": " jsonrpc\n"}, err: "field b: refused by Vault: it is a word of the protocol"},
		{name: "a part of one", data: map[string]any{"token": "otifications/c"}, spec: credential.Spec{Fields: []string{"token"}}, err: "it is a word of the protocol"},
		{name: "one in base64", data: map[string]any{"token": "dG9vbHMvY2FsbA=="}, spec: credential.Spec{Base64: []string{"token"}}, err: "it is a word of the protocol"},
		{name: "a public one", data: map[string]any{"kind": "object", "token": "first-secret"}, spec: credential.Spec{Public: []string{"kind"}},
			want: map[string]string{"{{kind}}": "object"}, hidden: []string{"first-secret"}, shown: []string{"object"}},
		{name: "short", data: map[string]any{"pin": "1234"}, err: "field pin: mask: a value under 6 bytes"},
		{name: "long", data: map[string]any{"blob": strings.Repeat("x", 65<<10)}, err: "field blob: mask: a value over 64 KiB"},
	} {
		t.Run(c.name, func(t *testing.T) {
			simulate(t, nil, func(t *testing.T, s *sim) {
				s.v.Mint(path, vault.Role{Data: func() map[string]any { return c.data }})
				s.v.Policy("enforcer", path, "auth/token/create", "auth/token/revoke-accessor", "sys/leases/revoke")
				c.spec.Name, c.spec.Path, c.spec.PerCall = "x", path, true
				l, err := s.Acquire(t.Context(), "h1", "c_1", c.spec)
				if c.err != "" {
					if err == nil || !strings.Contains(err.Error(), c.err) || strings.Contains(err.Error(), "first-secret") {
						t.Errorf("got %v, want %q", err, c.err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				for tmpl, want := range c.want {
					if got := s.render(l, tmpl); got != want {
						t.Errorf("%s is %q, want %q", tmpl, got, want)
					}
				}
				for _, value := range c.hidden {
					if text, _ := s.mask.Text("see " + value); strings.Contains(text, value) {
						t.Errorf("%s is not masked", value)
					}
					if l.Username == value {
						t.Error("a secret stands in the record as the user's name")
					}
				}
				for _, value := range c.shown {
					if text, _ := s.mask.Text("see " + value); !strings.Contains(text, value) {
						t.Errorf("%s is masked", value)
					}
				}
				s.release(l)
			})
		})
	}
}
