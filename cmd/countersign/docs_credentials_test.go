package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/hashicorp/vault/api"

	"countersign/enforcer/credential"
	"countersign/enforcer/mask"
	"countersign/fixtures/issuer"
	"countersign/fixtures/peer"
	"countersign/fixtures/vault"
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

	p, tested, untested := credentialsPage(t, s.read("ciphertext"))
	if want := []string{"Databases", "KV version 1", "KV version 2", "PKI", "SSH", "The caller's own login", "Transit"}; !slices.Equal(slices.Sorted(maps.Keys(tested)), want) {
		t.Errorf("tested: %v", tested)
	}
	if want := []string{"AWS", "Azure", "GCP", "Kubernetes", "LDAP", "RabbitMQ"}; !slices.Equal(slices.Sorted(maps.Keys(untested)), want) {
		t.Errorf("not run: %v", untested)
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
			mintsFromThePage(t, m, known, c, req, ann)
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

// credentialsPage reads the page's policy, and its servers by the title of their section.
func credentialsPage(t *testing.T, ciphertext string) (p *rules.Policy, tested, untested map[string]string) {
	t.Helper()
	files := fstest.MapFS{"countersign.yaml": {Data: []byte("version: 1\n")}}
	tested, untested = map[string]string{}, map[string]string{}
	for _, section := range strings.Split(docPage(t, "docs/credentials.md"), "\n## ")[1:] {
		title, body, _ := strings.Cut(section, "\n")
		name, state, _ := strings.Cut(title, " · ")
		for _, m := range docFence.FindAllStringSubmatch(body, -1) {
			if m[1] != "yaml" {
				continue
			}
			file, _, _ := strings.Cut(strings.TrimPrefix(m[2], "# "), "\n")
			files[file] = &fstest.MapFile{Data: []byte(strings.Replace(m[2], "vault:v1:the-content-of-the-file", ciphertext, 1))}
			into := tested
			if state == "not run" {
				into = untested
			}
			into[name] = strings.TrimSuffix(strings.TrimPrefix(file, "servers/"), ".yaml")
		}
	}
	p, err := rules.Load(files, "")
	if err != nil {
		t.Fatal(err)
	}
	return p, tested, untested
}

// mintsFromThePage mints a credential as the pipeline would, fills its templates, and looks at what
// is masked then.
func mintsFromThePage(t *testing.T, m *credential.Minter, known *mask.Mask, c rules.Credential, req rules.Request, token string) {
	t.Helper()
	path, params, err := c.Fill(req)
	if err != nil {
		t.Fatalf("%s: %v", c.Vault, err)
	}
	spec := credential.Spec{Name: c.Name, Path: path, Post: c.Post, Params: params, Fields: c.Fields, Public: c.Public, Base64: c.Base64, NoLease: c.NoLease, PerCall: true, TTL: c.TTL}
	if c.Login != nil {
		spec.Login = &credential.Login{Mount: c.Login.Mount, Role: c.Login.Role, Token: token}
	}
	lease, err := m.Acquire(t.Context(), "ann", "c_1", spec)
	if err != nil {
		t.Errorf("%s: %v", path, err)
		return
	}
	for _, into := range []map[string]string{c.Inject.Headers, c.Inject.Env} {
		for to, tmpl := range into {
			value, err := lease.Render(tmpl)
			if err != nil || value == "" {
				t.Errorf("%s: %s is %q: %v", path, to, value, err)
			}
			secret := !slices.Contains([]string{"X-Region", "TLS_CERT", "SSH_CERT", "SSH_USER", "AZURE_CLIENT_ID"}, to)
			if text, _ := known.Text("sent: " + value); secret == strings.Contains(text, value) {
				t.Errorf("%s: %s is masked: %v", path, to, !secret)
			}
		}
	}
	if err := m.Release(t.Context(), lease); err != nil {
		t.Error(err)
	}
}

// The engines that could not be run: a stand-in answers as Vault's documentation of each shows
// (developer.hashicorp.com/vault/api-docs/secret), and takes the parameters for granted.
func TestTheEnginesOfTheCredentialsPageThatWereNotRun(t *testing.T) {
	t.Parallel()
	p, _, untested := credentialsPage(t, "vault:v1:x")
	v := vault.New(nil)
	answer := func(path string, post, static bool, data map[string]any) {
		v.Mint(path, vault.Role{Post: post, Static: static, Data: func() map[string]any { return data }})
	}
	secret := func(n int) string { return (rand.Text() + rand.Text() + rand.Text())[:n] } // no literal token stands in the repository
	answer("aws/sts/reader", true, false, map[string]any{"access_key": "ASIA" + secret(16), "secret_key": secret(40), "security_token": "AQoDYXdz" + secret(64), "arn": "arn:aws:sts::123456789012:assumed-role/reader/ann", "ttl": 899})
	answer("azure/creds/reader", false, false, map[string]any{"client_id": "408bf248-dd4e-4be5-919a-7f6207a307ab", "client_secret": secret(36)})
	answer("gcp/roleset/reader/token", false, true, map[string]any{"token": "ya29.c." + secret(31), "token_ttl": 3599, "expires_at_seconds": 1537402548})
	answer("gcp/roleset/reader/key", false, false, map[string]any{"private_key_data": base64.StdEncoding.EncodeToString([]byte(`{"type":"service_account","private_key_id":"0f1e2d3c4b5a69788796a5b4c3d2e1f0"}`)), "key_algorithm": "KEY_ALG_RSA_2048", "key_type": "TYPE_GOOGLE_CREDENTIALS_FILE"})
	answer("kubernetes/creds/prod", true, false, map[string]any{"service_account_name": "test-service-account-with-generated-token", "service_account_namespace": "billing", "service_account_token": "eyJ" + secret(32) + ".eyJ" + secret(22) + "." + secret(11)})
	answer("ldap/creds/reader", false, false, map[string]any{"distinguished_names": []string{"cn=v_token_reader_FfH1i1c4dO_1634952600,ou=users,dc=learn,dc=example"}, "username": "v_token_reader_FfH1i1c4dO_1634952600", "password": secret(64)})
	answer("ldap/static-cred/reports", false, true, map[string]any{"dn": "uid=reports,ou=Users,dc=example,dc=com", "last_password": "?@09" + secret(19), "last_vault_rotation": "2020-02-19T11:31:53.7812-05:00", "password": "?@09" + secret(19), "rotation_period": 86400, "ttl": 86299, "username": "reports"})
	answer("rabbitmq/creds/reader", false, false, map[string]any{"username": "root-4b95bf47-281d-dcb5-8a60-9594f8056092", "password": secret(36)})
	config := api.DefaultConfig()
	url, stop, err := v.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	}()
	config.Address = url
	client, err := api.NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	known := mask.New(mask.Options{})
	m, err := credential.Open(t.Context(), credential.Config{Client: client, Login: credential.Token(v.Root), Dir: t.TempDir(), Mask: known, Now: time.Now,
		Record: func(context.Context, credential.Event) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	req := rules.Request{Subject: rules.Subject{Sub: "ann"}, Args: []byte(`{"cluster":"prod","namespace":"billing"}`)}
	minted := 0
	for _, name := range untested {
		server, _ := p.Server(name)
		for _, c := range server.Credentials {
			mintsFromThePage(t, m, known, c, req, "")
			minted++
		}
	}
	if minted != 8 {
		t.Errorf("%d credentials", minted)
	}
	if err := m.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
