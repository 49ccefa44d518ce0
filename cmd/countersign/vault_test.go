package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"

	"countersign/audit"
	"countersign/fixtures/issuer"
	"countersign/fixtures/peer"
)

// A server with credentials of several engines of a real Vault, to which the
// enforcer logs in with a JWT from a file, and callers with their own tokens.
func TestCredentialsOfAnyEngine(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "1s")
	v := peer.StartVault(t)
	v.Mount(t, "kv", "kv", map[string]string{"version": "1"})
	v.Mount(t, "ssh", "ssh", nil)
	const clusterToken = "cluster-token-of-prod"
	v.Write(t, "kv/clusters/prod", map[string]any{"token": clusterToken})
	v.Write(t, "kv/clusters/prod/admin", map[string]any{"token": "cluster-token-of-admins"})
	v.Write(t, "ssh/roles/blue", map[string]any{"key_type": "otp", "default_user": "ops", "cidr_list": "192.0.2.0/24"})
	v.Policy(t, "countersign", `
		path "kv/*" { capabilities = ["read"] }
		path "auth/token/create" { capabilities = ["update"] }
		path "auth/token/revoke-accessor" { capabilities = ["update"] }
		path "sys/leases/revoke" { capabilities = ["update"] }`)
	v.Policy(t, "people", `path "ssh/creds/blue" { capabilities = ["update"] }`)
	for _, mount := range []string{"gates", "jwt"} {
		v.Auth(t, mount, "jwt")
		v.Write(t, "auth/"+mount+"/config", map[string]any{"oidc_discovery_url": s.Issuer.URL, "bound_issuer": s.Issuer.URL})
	}
	v.Write(t, "auth/gates/role/countersign", map[string]any{"role_type": "jwt", "user_claim": "sub", "bound_audiences": "vault", "token_policies": "countersign", "token_ttl": "1h"})
	v.Write(t, "auth/jwt/role/agents", map[string]any{"role_type": "jwt", "user_claim": "sub", "bound_audiences": s.URL, "bound_claims": map[string]any{"groups": "ops"}, "token_policies": "people", "token_ttl": "1h"})
	log := filepath.Join(t.TempDir(), "audit.log")
	if err := v.Client(t, "").Sys().EnableAuditWithOptionsWithContext(t.Context(), "file", &api.EnableAuditOptions{Type: "file", Options: map[string]string{"file_path": log}}); err != nil {
		t.Fatal(err)
	}
	own, err := s.Issuer.Mint(issuer.Claims{"sub": "countersign", "aud": "vault"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "gate.jwt", []byte(own))
	tip := amend(t, s, s.Dana, map[string]string{
		"servers/probe.yaml": "server: probe\nurl: " + u.url + `
timeout: 2m
credentials:
  cluster: { vault: "kv/clusters/{{args.what}}", lease: none, scope: call, ttl: 60s, inject: { headers: { Authorization: "Bearer {{token}}" } } }
  person:
    vault: ssh/creds/blue
    method: post
    params: { ip: 192.0.2.7 }
    fields: [key]
    login: { as: caller, role: agents }
    scope: holder
    ttl: 2m
    inject: { headers: { Authorization: "Bearer {{key}}" } }
`,
		"rules/probe.yaml": `
- { id: cluster, server: probe, tool: cluster, effect: allow, credential: cluster }
- { id: drain, server: probe, tool: drain, effect: approve, reason: Draining needs a DBA, approval: { approvers: dba }, credential: cluster }
- { id: person, server: probe, tool: person, effect: allow, credential: person }
`,
	})
	p := serving(t, s, map[string]string{
		"VAULT_ADDR": v.Address, "COUNTERSIGN_VAULT_AUTH": "jwt", "COUNTERSIGN_VAULT_AUTH_MOUNT": "gates", "COUNTERSIGN_VAULT_AUTH_ROLE": "countersign",
		"COUNTERSIGN_VAULT_AUTH_JWT_PATH": s.Path("gate.jwt"), "VAULT_ROLE_ID": "", "VAULT_SECRET_ID_FILE": "",
	})
	p.inForce(tip)
	// The upstream says what it was sent: that must not come through.
	u.answerWith(func(w http.ResponseWriter, r *http.Request, id json.RawMessage, method, tool string) bool {
		w.Header().Set("Content-Type", "application/json")
		switch method {
		case "tools/call":
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":"with %s"}]}}`, id, r.Header.Get("Authorization"))
		case "initialize":
			w.Header().Set("Mcp-Session-Id", "s-1")
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"probe","version":"1"}}}`, id)
		default:
			return false
		}
		return true
	})
	ann, eve := p.token("ann", "ops"), p.token("eve", "support")
	minted := func(call string) (all []audit.Entry) {
		return p.entries(func(en audit.Entry) bool { return en.Kind == audit.KindCredential && en.Call == call })
	}

	t.Run("a path from an argument", func(t *testing.T) {
		p := p.in(t)
		a := p.ask("probe", ann, toolCall("cluster", "prod"))
		if a.failed || u.authorization() != "Bearer "+clusterToken || strings.Contains(a.text, clusterToken) || !strings.Contains(a.text, "[masked: ") {
			t.Fatalf("%+v, upstream got %q", a, u.authorization())
		}
		var call string
		p.await("forgotten again", func() bool {
			for _, en := range p.entries(func(en audit.Entry) bool { return en.Kind == audit.KindCredential && en.Status == "forget" }) {
				call = en.Call
			}
			return call != ""
		})
		read := minted(call)
		if len(read) != 2 || read[0].Status != "read" || !strings.Contains(string(read[0].Detail), `"path":"kv/clusters/prod"`) {
			t.Errorf("%+v", read)
		}
	})
	t.Run("a path that would lead elsewhere", func(t *testing.T) {
		p := p.in(t)
		before, asked := u.requests(), len(vaultSaw(t, log, ""))
		for _, what := range []string{"prod/admin", "..", "prod%2fadmin", "", "prod?x", "pr\\u006fd\\n"} {
			body := strings.Replace(toolCall("cluster", "WHAT"), "WHAT", what, 1)
			a := p.ask("probe", ann, body)
			if !a.failed || !strings.Contains(a.text, "{{args.what}} cannot be put into a path in Vault") {
				t.Errorf("%q: %+v", what, a)
			}
			p.wants(a.record, audit.KindRefused, "denied")
			// Nobody is asked to approve what cannot run.
			a = p.ask("probe", ann, strings.Replace(body, "cluster", "drain", 1))
			if !a.failed || !strings.Contains(a.text, "cannot be put into a path in Vault") {
				t.Errorf("%q: %+v", what, a)
			}
		}
		if u.requests() != before || len(vaultSaw(t, log, "")) != asked {
			t.Error("the upstream or Vault was asked")
		}
	})
	t.Run("the caller's own login", func(t *testing.T) {
		p := p.in(t)
		a := p.ask("probe", ann, toolCall("person", "x"))
		key, _ := strings.CutPrefix(u.authorization(), "Bearer ")
		if a.failed || len(key) < 30 || strings.Contains(a.text, key) {
			t.Fatalf("%+v", a)
		}
		if got := vaultSaw(t, log, "ssh/creds/blue"); !slices.Equal(got, []string{"jwt-ann"}) {
			t.Errorf("Vault's audit log has %v", got)
		}
		mints := p.entries(func(en audit.Entry) bool { return en.Status == "mint" })
		if len(mints) != 1 || !strings.Contains(string(mints[0].Detail), `"login":"auth/jwt role agents"`) || !strings.Contains(string(mints[0].Detail), `"params":["ip"]`) {
			t.Errorf("%+v", mints)
		}
	})
	t.Run("by the endpoint for all servers", func(t *testing.T) {
		p := p.in(t)
		joe := p.token("joe", "ops")
		a := p.all(t.Context(), p.openAll(joe), joe, toolCall("probe__person", "x"))
		if a.failed || a.code != 0 || !strings.HasPrefix(u.authorization(), "Bearer ") {
			t.Errorf("%+v", a)
		}
		if got := vaultSaw(t, log, "ssh/creds/blue"); !slices.Equal(got, []string{"jwt-ann", "jwt-joe"}) {
			t.Errorf("Vault's audit log has %v", got)
		}
	})
	t.Run("whom Vault does not let in", func(t *testing.T) {
		p := p.in(t)
		before := u.ran("person")
		a := p.ask("probe", eve, toolCall("person", "x"))
		if !a.failed && a.code == 0 || !strings.Contains(a.text, "log in as the caller at auth/jwt/login, role agents: refused by Vault (400)") || strings.Contains(a.text, eve) {
			t.Errorf("%+v", a)
		}
		if u.ran("person") != before {
			t.Error("it ran")
		}
		p.wants(a.record, audit.KindOutcome, "unavailable")
	})
	t.Run("no token is written anywhere", func(t *testing.T) {
		err := filepath.WalkDir(s.Path("state"), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			data, err := os.ReadFile(path)
			for _, secret := range []string{ann, eve, own, clusterToken} {
				if strings.Contains(string(data), secret) {
					t.Errorf("%s holds a token", path)
				}
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
		for _, secret := range []string{ann, eve, own, clusterToken} {
			if strings.Contains(p.log.String(), secret) {
				t.Error("the log holds a token")
			}
		}
	})
	t.Run("a stop ends every login", func(t *testing.T) {
		p.stop()
		list, err := v.Client(t, "").Logical().ListWithContext(t.Context(), "auth/token/accessors")
		if err != nil {
			t.Fatal(err)
		}
		if n := len(list.Data["keys"].([]any)); n != 2 { // the root's own, and the first root's
			t.Errorf("%d tokens are left", n)
		}
	})
}

// vaultSaw lists the display names that Vault's audit log has for requests to a
// path, or to any.
func vaultSaw(t *testing.T, log, path string) (names []string) {
	t.Helper()
	data, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		var entry struct {
			Type string
			Auth struct {
				DisplayName string `json:"display_name"`
			}
			Request struct{ Path string }
		}
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatal(err)
		}
		if entry.Type == "request" && (path == "" || entry.Request.Path == path) {
			names = append(names, entry.Auth.DisplayName)
		}
	}
	return names
}

// What is wrong with the login to Vault is said at once, with what was expected.
func TestVaultVariables(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		c    config
		want []string
	}{
		{"nothing", config{VaultAuth: "token"}, nil},
		{"kubernetes", config{VaultAddr: "http://v", VaultAuth: "kubernetes", VaultRole: "gate", VaultJWTPath: file, VaultMount: "clusters/prod"}, nil},
		{"cert", config{VaultAddr: "https://v", VaultAuth: "cert", VaultClientCert: "c", VaultClientKey: "k"}, nil},
		{"unknown", config{VaultAuth: "ldap"}, []string{`COUNTERSIGN_VAULT_AUTH: "ldap": want token, approle, kubernetes, jwt or cert`}},
		{"token", config{VaultAddr: "http://v", VaultAuth: "token", VaultMount: "x", VaultRole: "r"}, []string{"COUNTERSIGN_VAULT_AUTH_MOUNT", "COUNTERSIGN_VAULT_AUTH_ROLE: is for kubernetes, jwt, cert", "VAULT_TOKEN: missing"}},
		{"approle", config{VaultAddr: "http://v", VaultAuth: "approle", VaultMount: "../x", VaultJWTPath: file}, []string{"COUNTERSIGN_VAULT_AUTH_JWT_PATH: is for kubernetes, jwt", `COUNTERSIGN_VAULT_AUTH_MOUNT: "../x": want a path below auth/, such as approle`, "VAULT_ROLE_ID, VAULT_SECRET_ID: both"}},
		{"jwt", config{VaultAddr: "http://v", VaultAuth: "jwt"}, []string{"COUNTERSIGN_VAULT_AUTH_JWT_PATH: missing", "COUNTERSIGN_VAULT_AUTH_ROLE: missing"}},
		{"jwt from a relative path", config{VaultAddr: "http://v", VaultAuth: "jwt", VaultRole: "r", VaultJWTPath: "token"}, []string{`COUNTERSIGN_VAULT_AUTH_JWT_PATH: "token": want the absolute path of a file that is there`}},
		{"kubernetes outside of a pod", config{VaultAddr: "http://v", VaultAuth: "kubernetes", VaultRole: "r", VaultJWTPath: file + "2"}, []string{"COUNTERSIGN_VAULT_AUTH_JWT_PATH: "}},
		{"cert in the clear", config{VaultAddr: "http://v", VaultAuth: "cert"}, []string{"VAULT_ADDR: want https", "VAULT_CLIENT_CERT, VAULT_CLIENT_KEY: both"}},
	} {
		var got []string
		c.c.checkVault(func(name, format string, args ...any) { got = append(got, name+": "+fmt.Sprintf(format, args...)) })
		slices.Sort(got)
		ok := len(got) == len(c.want)
		for i := range c.want {
			ok = ok && strings.HasPrefix(got[i], c.want[i])
		}
		if !ok {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
