package credential_test

import (
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"countersign/enforcer/credential"
	"countersign/fixtures/peer"
)

// Engines of a real Vault, each as docs/credentials.md shows it.
func TestEngines(t *testing.T) {
	v := peer.StartVault(t)
	v.Mount(t, "kv", "kv", map[string]string{"version": "1"})
	v.Mount(t, "transit", "transit", nil)
	v.Mount(t, "pki", "pki", nil)
	v.Mount(t, "ssh", "ssh", nil)
	const kvPassword, kvToken, sealed = "an-old-password-1", "static-api-token-2", "billing:not-in-git-3"
	v.Write(t, "kv/legacy", map[string]any{"username": "reports", "password": kvPassword, "port": 5432})
	v.Write(t, "secret/data/crm", map[string]any{"data": map[string]any{"api-key": kvToken, "region": "eu"}})
	v.Write(t, "transit/keys/policy", nil)
	cipher := v.Write(t, "transit/encrypt/policy", map[string]any{"plaintext": base64.StdEncoding.EncodeToString([]byte(sealed))}).Data["ciphertext"]
	v.Write(t, "pki/root/generate/internal", map[string]any{"common_name": "test root", "ttl": "24h"})
	role := map[string]any{"allowed_domains": "example.com", "allow_subdomains": true, "allow_bare_domains": true, "max_ttl": "1h", "key_type": "ec", "key_bits": 256}
	v.Write(t, "pki/roles/agents", role)
	role["generate_lease"] = true
	v.Write(t, "pki/roles/leased", role)
	v.Write(t, "ssh/roles/otp", map[string]any{"key_type": "otp", "default_user": "ops", "cidr_list": "192.0.2.0/24"})
	v.Write(t, "ssh/config/ca", map[string]any{"generate_signing_key": true})
	v.Write(t, "ssh/roles/agent", map[string]any{"key_type": "ca", "allow_user_certificates": true, "allowed_users": "deploy", "default_user": "deploy", "ttl": "5m"})
	roleID, secretID := v.AppRole(t, `
		path "kv/legacy" { capabilities = ["read"] }
		path "secret/data/crm" { capabilities = ["read"] }
		path "transit/decrypt/policy" { capabilities = ["update"] }
		path "pki/issue/*" { capabilities = ["update"] }
		path "ssh/creds/otp" { capabilities = ["update"] }
		path "ssh/issue/agent" { capabilities = ["update"] }
		path "auth/token/create" { capabilities = ["update"] }
		path "auth/token/revoke-accessor" { capabilities = ["update"] }
		path "sys/leases/revoke" { capabilities = ["update"] }`)
	b := newBench(t, t.TempDir())
	m, err := credential.Open(t.Context(), b.config(v.Client(t, ""), appRole(t, roleID, secretID)))
	if err != nil {
		t.Fatal(err)
	}
	b.Minter = m
	defer b.close()

	public := func(names ...string) []string { return names }
	pki := credential.Spec{Name: "cert", Post: true, Params: map[string]any{"common_name": "crm.example.com", "ttl": "10m"},
		Fields: []string{"private_key"}, Public: public("certificate", "ca_chain", "issuing_ca", "serial_number"), PerCall: true, TTL: 10 * time.Minute}
	leased, unleased := pki, pki
	leased.Path, unleased.Path, unleased.NoLease = "pki/issue/leased", "pki/issue/agents", true

	for _, c := range []struct {
		name    string
		spec    credential.Spec
		renders map[string]string // template to what it gives, "" for anything
		secret  []string          // templates whose value must be masked
		shown   []string          // and those whose value must not
		events  []string
	}{
		{"KV v1", credential.Spec{Name: "legacy", Path: "kv/legacy", Public: public("port"), NoLease: true, PerCall: true, TTL: time.Minute},
			map[string]string{"{{password}}": kvPassword, "{{username}}": "reports", "{{port}}": "5432"}, []string{"{{password}}"}, []string{"{{username}}", "{{port}}"}, []string{"read", "forget"}},
		{"KV v2", credential.Spec{Name: "crm", Path: "secret/data/crm", NoLease: true, Fields: []string{"data.api-key"}, Public: public("data.region"), PerCall: true, TTL: time.Minute},
			map[string]string{"{{data.api-key}}": kvToken, "{{data.region}}": "eu"}, []string{"{{data.api-key}}"}, []string{"{{data.region}}"}, []string{"read", "forget"}},
		{"transit", credential.Spec{Name: "billing", Path: "transit/decrypt/policy", Post: true, Params: map[string]any{"ciphertext": cipher},
			Fields: []string{"plaintext"}, Base64: []string{"plaintext"}, NoLease: true, PerCall: true, TTL: time.Minute},
			map[string]string{"{{plaintext}}": sealed}, []string{"{{plaintext}}"}, nil, []string{"read", "forget"}},
		{"PKI with a lease", leased, map[string]string{"{{private_key}}": ""}, []string{"{{private_key}}"}, []string{"{{serial_number}}", "{{certificate}}"}, []string{"mint", "revoke"}},
		{"PKI without", unleased, map[string]string{"{{private_key}}": ""}, []string{"{{private_key}}"}, []string{"{{certificate}}"}, []string{"read", "forget"}},
		{"SSH one-time password", credential.Spec{Name: "otp", Path: "ssh/creds/otp", Post: true, Params: map[string]any{"ip": "192.0.2.7"},
			Fields: []string{"key"}, PerCall: true, TTL: time.Minute}, map[string]string{"{{key}}": ""}, []string{"{{key}}"}, []string{"{{username}}"}, []string{"mint", "revoke"}},
		{"SSH certificate", credential.Spec{Name: "ssh", Path: "ssh/issue/agent", Post: true, Params: map[string]any{"valid_principals": "deploy", "key_type": "ed25519"},
			Fields: []string{"private_key"}, Public: public("signed_key"), NoLease: true, PerCall: true, TTL: 5 * time.Minute},
			map[string]string{"{{private_key}}": ""}, []string{"{{private_key}}"}, []string{"{{signed_key}}"}, []string{"read", "forget"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := len(b.actions())
			l, err := b.Acquire(t.Context(), "h1", "c_1", c.spec)
			if err != nil {
				t.Fatal(err)
			}
			for tmpl, want := range c.renders {
				if got := b.render(l, tmpl); got == "" || want != "" && got != want {
					t.Errorf("%s is %q", tmpl, got)
				}
			}
			for _, tmpl := range c.secret {
				value := strings.TrimSpace(b.render(l, tmpl))
				for _, form := range append(strings.Split(value, "\n"), value, strings.ReplaceAll(value, "\n", "\r\n")) {
					if form = strings.TrimSpace(form); len(form) < 20 || strings.HasPrefix(form, "-----") {
						continue
					}
					if text, _ := b.mask.Text("it said " + form); strings.Contains(text, form) || strings.Contains(text, form[len(form)/2:]) {
						t.Errorf("not masked: %d bytes of %s", len(form), tmpl)
					}
				}
			}
			for _, tmpl := range c.shown {
				line, _, _ := strings.Cut(b.render(l, tmpl), "\n") // the certificate's own begin line
				if text, _ := b.mask.Text("it said " + line); !strings.Contains(text, line) {
					t.Errorf("%s is masked", tmpl)
				}
			}
			if strings.HasPrefix(c.name, "PKI") {
				if _, err := tls.X509KeyPair([]byte(b.render(l, "{{certificate}}")), []byte(b.render(l, "{{private_key}}"))); err != nil {
					t.Error(err)
				}
			}
			serial := ""
			if c.name == "PKI with a lease" {
				serial = b.render(l, "{{serial_number}}")
			}
			b.release(l)
			if serial != "" {
				if cert, err := v.Client(t, "").Logical().ReadWithContext(t.Context(), "pki/cert/"+serial); err != nil || fmt.Sprint(cert.Data["revocation_time"]) == "0" {
					t.Errorf("the certificate is not revoked: %v", err)
				}
			}
			if got := b.actions()[before:]; !slices.Equal(got, c.events) {
				t.Errorf("recorded %v, want %v", got, c.events)
			}
		})
	}

	t.Run("the record says what was asked for", func(t *testing.T) {
		b.mu.Lock()
		defer b.mu.Unlock()
		i := slices.IndexFunc(b.events, func(e credential.Event) bool { return e.Path == "pki/issue/leased" })
		if i < 0 || !slices.Equal(b.events[i].Params, []string{"common_name", "ttl"}) || b.events[i].Login != "" {
			t.Errorf("%+v", b.events)
		}
	})
	t.Run("a secret without a lease, where policy does not take one", func(t *testing.T) {
		s := credential.Spec{Name: "legacy", Path: "kv/legacy", PerCall: true, TTL: time.Minute}
		if _, err := b.Acquire(t.Context(), "h1", "c_1", s); !errors.Is(err, credential.ErrNoLease) {
			t.Error(err)
		}
	})
	t.Run("a field that is not there", func(t *testing.T) {
		s := credential.Spec{Name: "legacy", Path: "kv/legacy", Fields: []string{"token"}, NoLease: true, PerCall: true, TTL: time.Minute}
		if _, err := b.Acquire(t.Context(), "h1", "c_1", s); !errors.Is(err, credential.ErrRefused) || !strings.Contains(err.Error(), "no text in field token") {
			t.Error(err)
		}
	})
	t.Run("a number that nobody names", func(t *testing.T) {
		l, err := b.Acquire(t.Context(), "h1", "c_1", credential.Spec{Name: "legacy", Path: "kv/legacy", NoLease: true, PerCall: true, TTL: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Render("{{port}}"); err == nil || !strings.Contains(err.Error(), `no field "port"`) {
			t.Error(err)
		}
		b.release(l)
	})
	t.Run("a number that is a secret, and short", func(t *testing.T) {
		s := credential.Spec{Name: "legacy", Path: "kv/legacy", Fields: []string{"port"}, NoLease: true, PerCall: true, TTL: time.Minute}
		if _, err := b.Acquire(t.Context(), "h1", "c_1", s); err == nil || !strings.Contains(err.Error(), "field port: mask: a value under 6 bytes") {
			t.Error(err)
		}
	})
	t.Run("a short text that nobody calls public", func(t *testing.T) {
		s := credential.Spec{Name: "crm", Path: "secret/data/crm", NoLease: true, PerCall: true, TTL: time.Minute}
		if _, err := b.Acquire(t.Context(), "h1", "c_1", s); err == nil || !strings.Contains(err.Error(), "field data.region") || !strings.Contains(err.Error(), "public") {
			t.Error(err)
		}
	})
	t.Run("what is not base64", func(t *testing.T) {
		s := credential.Spec{Name: "legacy", Path: "kv/legacy", Base64: []string{"password"}, NoLease: true, PerCall: true, TTL: time.Minute}
		if _, err := b.Acquire(t.Context(), "h1", "c_1", s); err == nil || !strings.Contains(err.Error(), "field password") || strings.Contains(err.Error(), kvPassword) {
			t.Error(err)
		}
	})
	t.Run("a refusal of Vault's", func(t *testing.T) {
		s := pki
		s.Path, s.Params = "pki/issue/leased", map[string]any{"common_name": "crm.example.org"}
		if _, err := b.Acquire(t.Context(), "h1", "c_1", s); !errors.Is(err, credential.ErrRefused) || !strings.Contains(err.Error(), "post pki/issue/leased") {
			t.Error(err)
		}
	})
}
