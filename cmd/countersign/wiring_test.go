package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"countersign/fixtures/stage"
)

// mergeKey is a Git host's OpenPGP key.
type mergeKey struct {
	entity *openpgp.Entity
	config *packet.Config // with the repository's clock
}

func (k mergeKey) SignGit(payload []byte) (string, error) {
	var b strings.Builder
	err := openpgp.ArmoredDetachSign(&b, k.entity, bytes.NewReader(payload), k.config)
	return b.String() + "\n", err
}

// keyring writes the public half as `gpg --export` would, armored or not.
func (k mergeKey) keyring(t *testing.T, s *stage.Stage, armored bool) string {
	t.Helper()
	var b bytes.Buffer
	w := io.WriteCloser(nopCloser{&b})
	if armored {
		var err error
		if w, err = armor.Encode(&b, openpgp.PublicKeyType, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := k.entity.Serialize(w); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return put(t, s, "merge.gpg", b.Bytes())
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// What the environment says reaches the part that it is meant for: TLS, a tag
// for policy signed by an OpenPGP key, a Vault token, another groups claim, a
// trusted proxy. The parts' own tests say what each then does.
func TestTheVariablesReachTheirParts(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "1s")
	s.URL = "https://" + s.Listen
	config := &packet.Config{Time: func() time.Time { return s.Policy.Now }}
	entity, err := openpgp.NewEntity("host", "", "host@example.com", config)
	if err != nil {
		t.Fatal(err)
	}
	host := mergeKey{entity, config}
	tip := amend(t, s, s.Dana, map[string]string{"rules/probe.yaml": `
- { id: office, server: probe, tool: echo, when: 'source == "192.0.2.7" && "staff" in subject.groups', effect: allow }
- { id: leak, server: probe, tool: leak, when: source == "192.0.2.7", effect: allow, credential: probe-db }
`})
	if _, err := s.Policy.Tag("live", "live", tip, "In force", host); err != nil {
		t.Fatal(err)
	}
	pool, cert, key := selfSigned(t, s)
	login := map[string]string{}
	for _, v := range s.Env(nil) {
		if id, ok := strings.CutPrefix(v, "VAULT_ROLE_ID="); ok {
			login["role_id"] = id
		}
	}
	more := map[string]string{
		"COUNTERSIGN_TLS_CERT": cert, "COUNTERSIGN_TLS_KEY": key,
		"COUNTERSIGN_POLICY_REF": "refs/tags/live", "COUNTERSIGN_POLICY_SIGNERS": s.Path("policy_signers") + "," + host.keyring(t, s, true),
		"COUNTERSIGN_OIDC_GROUPS_CLAIM": "roles", "COUNTERSIGN_TRUSTED_PROXIES": "127.0.0.0/8,::1/128",
		"COUNTERSIGN_VAULT_AUTH": "token", "VAULT_TOKEN": vaultToken(t, s, login["role_id"]), "VAULT_ROLE_ID": "", "VAULT_SECRET_ID_FILE": "",
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	t.Cleanup(client.CloseIdleConnections)
	p := starting(t, s, more)
	p.await("ready over TLS", func() bool {
		resp, err := client.Get(s.URL + "/readyz")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		return err == nil && resp.StatusCode == http.StatusOK
	})
	if out, errs, code := command(t, s.Env(more), "health"); code != 0 {
		t.Errorf("health: exit %d %s%s", code, out, errs)
	}
	token, err := s.Token("alice", []string{"nobody"}, map[string]any{"roles": []string{"staff"}})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(tool, from string) answer {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/mcp/probe", strings.NewReader(toolCall(tool, "x")))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Accept", "application/json, text/event-stream")
		req.Header.Set("Authorization", "Bearer "+token)
		req.Header.Set("X-Forwarded-For", from)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return readAnswer(resp.StatusCode, resp.Header, string(b))
	}
	if a := ask("echo", "192.0.2.7"); a.text != "ran echo" {
		t.Errorf("groups claim or proxy: %+v", a)
	}
	if a := ask("echo", "192.0.2.8"); !a.failed || u.ran("echo") != 1 {
		t.Errorf("another source: %+v", a)
	}
	if a := ask("leak", "192.0.2.7"); a.text != "ran leak" || !strings.HasPrefix(u.authorization(), "Basic ") {
		t.Errorf("token login: %+v, the upstream got %q", a, u.authorization())
	}
	p.stop()
	if left := s.Vault.Leases(); len(left) != 0 {
		t.Errorf("leases left: %v", left)
	}

	// The tag is signed by nobody that is trusted, as soon as the keyring is
	// left out; and an operator may say that no signature is wanted.
	more["COUNTERSIGN_POLICY_SIGNERS"], more["COUNTERSIGN_STATE_DIR"] = s.Path("policy_signers"), t.TempDir()
	more["VAULT_TOKEN"] = vaultToken(t, s, login["role_id"])
	p = starting(t, s, more)
	p.await("why there is no policy", func() bool { return strings.Contains(p.log.String(), "OpenPGP") })
	p.kill()
	more["COUNTERSIGN_POLICY_SIGNERS"], more["COUNTERSIGN_STATE_DIR"] = "unverified", t.TempDir()
	more["VAULT_TOKEN"] = vaultToken(t, s, login["role_id"])
	p = starting(t, s, more)
	p.await("policy in force, unverified", func() bool { return strings.Contains(p.log.String(), `"msg":"policy in force"`) })
	if !strings.Contains(p.log.String(), "policy is not verified") {
		t.Errorf("it does not say so:\n%s", p.log)
	}
}

// vaultToken logs in, for a token that an operator could have made.
func vaultToken(t *testing.T, s *stage.Stage, role string) string {
	t.Helper()
	secret, err := os.ReadFile(s.Path("vault_secret_id"))
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(map[string]string{"role_id": role, "secret_id": strings.TrimSpace(string(secret))})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(s.VaultURL+"/v1/auth/approle/login", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var got struct {
		Auth struct {
			ClientToken string `json:"client_token"`
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil || got.Auth.ClientToken == "" {
		t.Fatalf("%d %v", resp.StatusCode, err)
	}
	return got.Auth.ClientToken
}

// selfSigned is a certificate for this machine.
func selfSigned(t *testing.T, s *stage.Stage) (pool *x509.CertPool, cert, key string) {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "countersign"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &priv.PublicKey, priv)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	pool = x509.NewCertPool()
	pool.AppendCertsFromPEM(public)
	return pool, put(t, s, "tls.crt", public), put(t, s, "tls.key", pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw}))
}
