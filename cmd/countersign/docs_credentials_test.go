package main

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"countersign/enforcer/credential"
	"countersign/enforcer/mask"
	"countersign/fixtures/issuer"
	"countersign/fixtures/peer"
	"countersign/rules"
)

// The page's commands set a real Vault up, and what the page calls tested is minted with the page's
// own YAML. All of its YAML loads.
func TestTheCredentialsPage(t *testing.T) {
	t.Parallel()
	st, v := newStage(t), peer.StartVault(t)
	s := newShell(t)
	s.env = append(s.env, "VAULT_ADDR="+v.Address, "VAULT_TOKEN="+v.Token)
	hcl := docBlocks(t, "docs/credentials.md", "hcl")
	if len(hcl) != 2 {
		t.Fatalf("%d hcl blocks", len(hcl))
	}
	plain := shown{}
	s.page("docs/credentials.md", map[string]shown{
		"vault policy write engines engines.hcl": {run: func(s *shell, c string) string {
			s.write("engines.hcl", hcl[0], 0o600)
			return c
		}},
		"vault kv put -mount=secret crm api-key=a-key-from-the-crm region=eu":            plain,
		"vault secrets enable -path=legacy -version=1 kv":                                plain,
		"vault write legacy/reports username=reports password=nobody-rotates-this":       plain,
		"vault secrets enable transit":                                                   plain,
		"vault write -f transit/keys/policy":                                             plain,
		"vault secrets enable pki":                                                       plain,
		"vault secrets enable ssh":                                                       plain,
		"vault write ssh/config/ca generate_signing_key=true":                            plain,
		"vault write ssh/roles/otp key_type=otp default_user=ops cidr_list=192.0.2.0/24": plain,
		"vault secrets enable -path=team -version=1 kv":                                  plain,
		"vault auth enable jwt":                                                          plain,
		"vault read -field=accessor sys/auth/jwt":                                        {says: "auth_jwt_"},
		`vault write pki/root/generate/internal common_name="Agents of Example" ttl=24h`: plain,
		`vault write -field=ciphertext transit/encrypt/policy plaintext="$(printf %s billing-key-in-git | base64)" > ciphertext`:                                        plain,
		"vault write pki/roles/agents allowed_domains=agents.example.com allow_subdomains=true key_type=ec key_bits=256 max_ttl=1h generate_lease=true":                 plain,
		"vault write ssh/roles/deploy key_type=ca allow_user_certificates=true allowed_users=deploy default_user=deploy ttl=5m":                                         plain,
		"vault write auth/jwt/role/agents role_type=jwt user_claim=sub bound_audiences=https://gate.example.com token_policies=people token_type=service token_ttl=15m": plain,
		"vault write auth/jwt/config oidc_discovery_url=https://id.example.com bound_issuer=https://id.example.com": {run: func(_ *shell, c string) string {
			return strings.ReplaceAll(c, "https://id.example.com", st.Issuer.URL)
		}},
		"vault policy write people people.hcl": {run: func(s *shell, c string) string {
			accessor := strings.TrimSpace(s.must("vault read -field=accessor sys/auth/jwt"))
			s.write("people.hcl", strings.ReplaceAll(hcl[1], "AUTH_JWT", accessor), 0o600)
			return c
		}},
	})
	for _, who := range []string{"ann", "ben"} {
		v.Write(t, "team/"+who+"/token", map[string]any{"token": "the-token-of-" + who})
	}

	// By section: what it is called, and its server.
	files, tested, untested := fstest.MapFS{"countersign.yaml": {Data: []byte("version: 1\n")}}, map[string]string{}, 0
	for _, section := range strings.Split(docPage(t, "docs/credentials.md"), "\n## ")[1:] {
		title, body, _ := strings.Cut(section, "\n")
		name, state, _ := strings.Cut(title, " · ")
		for _, m := range docFence.FindAllStringSubmatch(body, -1) {
			if m[1] != "yaml" {
				continue
			}
			file, _, _ := strings.Cut(strings.TrimPrefix(m[2], "# "), "\n")
			files[file] = &fstest.MapFile{Data: []byte(strings.Replace(m[2], "vault:v1:the-content-of-the-file", s.read("ciphertext"), 1))}
			server := strings.TrimSuffix(strings.TrimPrefix(file, "servers/"), ".yaml")
			if state == "not run" {
				untested++
			} else {
				tested[name] = server
			}
		}
	}
	p, err := rules.Load(files, "")
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"Databases", "KV version 1", "KV version 2", "PKI", "SSH", "The caller's own login", "Transit"}; !slices.Equal(slices.Sorted(maps.Keys(tested)), want) || untested != 6 {
		t.Errorf("tested: %v, and %d are not", tested, untested)
	}
	delete(tested, "Databases") // the operator's page sets it up, and TestTheOperatorsPage mints

	// The operator's policy, with the lines of this page.
	base := regexp.MustCompile(`(?m)^path "(auth|sys)/.*$`).FindAllString(docBlocks(t, "docs/operate.md", "hcl")[0], -1)
	role, secretID := v.AppRole(t, strings.Join(base, "\n")+"\n"+hcl[0])
	login, err := credential.AppRole("approle", role, secretID)
	if err != nil {
		t.Fatal(err)
	}
	var events []credential.Event
	known := mask.New(mask.Options{})
	m, err := credential.Open(t.Context(), credential.Config{Client: v.Client(t, ""), Login: login, Dir: t.TempDir(), Mask: known, Now: time.Now,
		Record: func(_ context.Context, e credential.Event) error { events = append(events, e); return nil }})
	if err != nil {
		t.Fatal(err)
	}
	ann, err := st.Issuer.Mint(issuer.Claims{"sub": "ann", "aud": "https://gate.example.com"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	req := rules.Request{Subject: rules.Subject{Issuer: st.Issuer.URL, Sub: "ann"}, Args: []byte(`{"host":"192.0.2.7"}`)}
	for _, name := range slices.Sorted(maps.Keys(tested)) {
		server, _ := p.Server(tested[name])
		for _, c := range server.Credentials {
			path, params, err := c.Fill(req)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			spec := credential.Spec{Name: c.Name, Path: path, Post: c.Post, Params: params, Fields: c.Fields, Public: c.Public, Base64: c.Base64, NoLease: c.NoLease, PerCall: true, TTL: c.TTL}
			if c.Login != nil {
				spec.Login = &credential.Login{Mount: c.Login.Mount, Role: c.Login.Role, Token: ann}
			}
			lease, err := m.Acquire(t.Context(), "ann", "c_1", spec)
			if err != nil {
				t.Errorf("%s, %s: %v", name, c.Name, err)
				continue
			}
			for _, into := range []map[string]string{c.Inject.Headers, c.Inject.Env} {
				for to, tmpl := range into {
					value, err := lease.Render(tmpl)
					if err != nil || value == "" {
						t.Errorf("%s, %s: %s is %q: %v", name, c.Name, to, value, err)
					}
					secret := !slices.Contains([]string{"X-Region", "TLS_CERT", "SSH_CERT", "SSH_USER"}, to)
					if text, _ := known.Text("sent: " + value); secret == strings.Contains(text, value) {
						t.Errorf("%s, %s: %s is masked: %v", name, c.Name, to, !secret)
					}
				}
			}
			if err := m.Release(t.Context(), lease); err != nil {
				t.Error(err)
			}
		}
	}
	// Nobody gets another's, though the path is their own choice.
	other := credential.Spec{Name: "own", Path: "team/ben/token", NoLease: true, PerCall: true, TTL: time.Minute, Login: &credential.Login{Mount: "jwt", Role: "agents", Token: ann}}
	if _, err := m.Acquire(t.Context(), "ann", "c_1", other); err == nil || !strings.Contains(err.Error(), "(403)") {
		t.Errorf("another person's secret: %v", err)
	}
	if err := m.Close(t.Context()); err != nil {
		t.Error(err)
	}
	seen := map[string]int{}
	for _, e := range events {
		seen[e.Action]++
	}
	if want := (map[string]int{"mint": 2, "revoke": 2, "read": 5, "forget": 5}); !maps.Equal(seen, want) {
		t.Errorf("recorded %v, want %v", seen, fmt.Sprint(want))
	}
}
