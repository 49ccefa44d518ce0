package credential_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"countersign/enforcer/credential"
	"countersign/enforcer/mask"
	"countersign/fixtures/issuer"
	"countersign/fixtures/peer"
)

// otp mints one-time passwords: leases that need no system behind them.
var otp = credential.Spec{Name: "otp", Path: "ssh/creds/otp", Post: true, Params: map[string]any{"ip": "192.0.2.7"}, Fields: []string{"key"}, PerCall: true, TTL: 5 * time.Minute}

const enforcerPolicy = `
	path "ssh/creds/otp" { capabilities = ["update"] }
	path "auth/token/create" { capabilities = ["update"] }
	path "auth/token/revoke-accessor" { capabilities = ["update"] }
	path "sys/leases/revoke" { capabilities = ["update"] }`

// otpVault is a real Vault that mints such.
func otpVault(t *testing.T) *peer.Vault {
	v := peer.StartVault(t)
	v.Mount(t, "ssh", "ssh", nil)
	v.Write(t, "ssh/roles/otp", map[string]any{"key_type": "otp", "default_user": "ops", "cidr_list": "192.0.2.0/24"})
	v.Policy(t, "enforcer", enforcerPolicy)
	return v
}

// behead revokes every token but the root's, as an operator might.
func behead(t *testing.T, v *peer.Vault) (revoked int) {
	t.Helper()
	root := v.Client(t, "")
	list, err := root.Logical().ListWithContext(t.Context(), "auth/token/accessors")
	if err != nil {
		t.Fatal(err)
	}
	for _, accessor := range list.Data["keys"].([]any) {
		token, err := root.Auth().Token().LookupAccessorWithContext(t.Context(), accessor.(string))
		if err != nil {
			continue // a child of one that is gone already
		}
		if policies, err := token.TokenPolicies(); err != nil || slices.Contains(policies, "root") {
			continue
		}
		if err := root.Auth().Token().RevokeAccessorWithContext(t.Context(), accessor.(string)); err != nil {
			t.Fatal(err)
		}
		revoked++
	}
	return revoked
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Every login against a real Vault: it opens, mints, and logs in again when the
// token is gone, with what is in the file by then.
func TestLogins(t *testing.T) {
	v := otpVault(t)
	idp, err := issuer.Start("127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = idp.Close() }) // nothing depends on it any more
	file := filepath.Join(t.TempDir(), "token")
	m := mask.New(mask.Options{})

	t.Run("jwt", func(t *testing.T) {
		v.Auth(t, "corp/jwt", "jwt")
		v.Write(t, "auth/corp/jwt/config", map[string]any{"jwks_url": idp.URL + "/jwks"})
		role := func(generation string) {
			v.Write(t, "auth/corp/jwt/role/gate", map[string]any{"role_type": "jwt", "user_claim": "sub", "bound_audiences": "vault", "token_policies": "enforcer",
				"token_ttl": "1h", "bound_claims": map[string]any{"generation": generation}})
		}
		token := func(generation string) string {
			token, err := idp.Mint(issuer.Claims{"sub": "countersign", "aud": "vault", "generation": generation}, nil)
			if err != nil {
				t.Fatal(err)
			}
			return token
		}
		role("1")
		first, second := token("1"), token("2")
		write(t, file, first+"\n")
		loginWorks(t, v, v.Client(t, ""), credential.TokenFile(m, "corp/jwt", "gate", file), first, func() { role("2") }, credential.ErrRefused, func() { write(t, file, second) })
	})

	t.Run("kubernetes", func(t *testing.T) {
		reviewer, err := idp.Mint(issuer.Claims{"sub": "system:serviceaccount:vault:reviewer"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		cluster := newCluster(t, reviewer)
		v.Auth(t, "prod-cluster", "kubernetes")
		v.Write(t, "auth/prod-cluster/config", map[string]any{"kubernetes_host": cluster.URL, "kubernetes_ca_cert": cluster.ca(), "disable_local_ca_jwt": true, "token_reviewer_jwt": reviewer, "disable_iss_validation": true})
		v.Write(t, "auth/prod-cluster/role/gate", map[string]any{"bound_service_account_names": "countersign", "bound_service_account_namespaces": "gate", "token_policies": "enforcer", "token_ttl": "1h", "audience": "vault"})
		token := func(pod string) string {
			token, err := idp.Mint(issuer.Claims{"sub": "system:serviceaccount:gate:countersign", "aud": []string{"vault"},
				"kubernetes.io": map[string]any{"namespace": "gate", "pod": map[string]any{"name": pod, "uid": pod}, "serviceaccount": map[string]any{"name": "countersign", "uid": "u-1"}}}, nil)
			if err != nil {
				t.Fatal(err)
			}
			return token
		}
		first, second := token("pod-1"), token("pod-2")
		cluster.allow(first)
		write(t, file, first)
		loginWorks(t, v, v.Client(t, ""), credential.TokenFile(m, "prod-cluster", "gate", file), first, func() { cluster.allow(second) }, credential.ErrForbidden, func() { write(t, file, second) })
		if n := cluster.reviewed(); n < 2 {
			t.Errorf("the cluster was asked %d times", n)
		}
	})

	t.Run("certificate", func(t *testing.T) {
		cert, key := clientCertificate(t)
		v.Auth(t, "machines", "cert")
		role := func(name string) {
			v.Write(t, "auth/machines/certs/gate", map[string]any{"certificate": cert, "allowed_common_names": name, "token_policies": "enforcer", "token_ttl": "1h"})
		}
		role("gate.example.com")
		config := api.DefaultConfig()
		config.Address = v.TLSAddress
		dir := t.TempDir()
		write(t, filepath.Join(dir, "cert.pem"), cert)
		write(t, filepath.Join(dir, "key.pem"), key)
		if err := config.ConfigureTLS(&api.TLSConfig{CACertBytes: []byte(v.CA), ClientCert: filepath.Join(dir, "cert.pem"), ClientKey: filepath.Join(dir, "key.pem")}); err != nil {
			t.Fatal(err)
		}
		client, err := api.NewClient(config)
		if err != nil {
			t.Fatal(err)
		}
		loginWorks(t, v, client, credential.Certificate("machines", "gate"), "", func() { role("other.example.com") }, credential.ErrRefused, func() { role("gate.example.com") })
		b := newBench(t, t.TempDir())
		if _, err := credential.Open(t.Context(), b.config(v.Client(t, ""), credential.Certificate("machines", "gate"))); err == nil {
			t.Error("logged in without a certificate")
		}
	})
}

// loginWorks mints under a login, has Vault forget it, and change its mind about
// who may log in, until mend.
func loginWorks(t *testing.T, v *peer.Vault, client *api.Client, login api.AuthMethod, secret string, refuse func(), as error, mend func()) {
	t.Helper()
	b := newBench(t, t.TempDir())
	m, err := credential.Open(t.Context(), b.config(client, login))
	if err != nil {
		t.Fatal(err)
	}
	b.Minter = m
	use := func() error {
		l, err := b.Acquire(t.Context(), "h1", "c_1", otp)
		if err != nil {
			return err
		}
		return b.Release(t.Context(), l)
	}
	if err := use(); err != nil {
		t.Fatal(err)
	}
	if n := behead(t, v); n == 0 {
		t.Error("there was no token")
	}
	refuse()
	err = use()
	if !errors.Is(err, as) || !strings.Contains(err.Error(), "log in to Vault") || secret != "" && strings.Contains(err.Error(), secret) {
		t.Errorf("got %v, want %v", err, as)
	}
	mend()
	if err := use(); err != nil {
		t.Error(err)
	}
	b.close()
	if n := behead(t, v); n != 0 {
		t.Errorf("%d tokens outlived the run", n)
	}
	if told := b.logs.String(); secret != "" && strings.Contains(told, secret) {
		t.Error("the log holds the token")
	}
}

// Each login is renewed in time, and made again when renewing comes to its end.
func TestLoginsInTime(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	write(t, file, "a-token-from-a-file")
	for name, login := range map[string]func(m *mask.Mask) api.AuthMethod{
		"kubernetes": func(m *mask.Mask) api.AuthMethod { return credential.TokenFile(m, "elsewhere", "gate", file) },
		"cert":       func(m *mask.Mask) api.AuthMethod { return credential.Certificate("elsewhere", "gate") },
	} {
		t.Run(name, func(t *testing.T) {
			alone(t, func(t *testing.T, s *sim) {
				s.v.Login("elsewhere", "enforcer", time.Hour, 24*time.Hour, func(body map[string]any) (string, bool) {
					return name, body["jwt"] == "a-token-from-a-file" && body["role"] == "gate" || body["name"] == "gate"
				})
				s.cfg.Login = login(s.mask)
				s.open()
				for range 60 {
					pass(time.Hour)
					l, _, _ := s.acquire("h1", s.perCall)
					s.release(l)
				}
				if n := s.v.Hits("auth/elsewhere/login"); n < 3 || n > 5 {
					t.Errorf("logged in %d times in 60 hours, with a token for 24", n)
				}
				s.close()
				s.tokens()
			})
		})
	}
}

// A file that is not right is told of, and Vault is not asked.
func TestTokenFileProblems(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		write(t, filepath.Join(dir, name), text)
		return filepath.Join(dir, name)
	}
	for _, c := range []struct{ path, want string }{
		{filepath.Join(dir, "nobody-made-it"), "no such file"},
		{file("empty", " \n"), "is empty"},
		{file("words", "two words"), "more than one word"},
		{file("huge", strings.Repeat("x", 65<<10)), "larger than"},
		{file("short", "x"), "under 6 bytes"},
		{dir, "is a directory"},
	} {
		alone(t, func(t *testing.T, s *sim) {
			s.cfg.Login = credential.TokenFile(s.mask, "elsewhere", "gate", c.path)
			_, err := credential.Open(t.Context(), s.cfg)
			if !errors.Is(err, credential.ErrNoToken) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "two words") {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if n := s.v.Hits("auth/elsewhere/login"); n != 0 {
				t.Errorf("Vault was asked %d times", n)
			}
		})
	}
}

// Namespaces are Vault Enterprise's and OpenBao's: here it shows that every
// request names the one that is configured.
func TestNamespace(t *testing.T) {
	alone(t, func(t *testing.T, s *sim) {
		s.v.Login("elsewhere", "enforcer", time.Hour, time.Hour, func(map[string]any) (string, bool) { return "jwt-ann", true })
		var mu sync.Mutex
		paths := map[string]bool{}
		s.v.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
			mu.Lock()
			defer mu.Unlock()
			paths[strings.TrimPrefix(r.URL.Path, "/v1/")] = true
			if got := r.Header.Get("X-Vault-Namespace"); got != "teams/blue" {
				t.Errorf("%s has namespace %q", r.URL.Path, got)
			}
			return false
		})
		s.cfg.Client.SetNamespace("teams/blue")
		s.open()
		l, _, _ := s.acquire("h1", s.perCall)
		s.release(l)
		own := s.perCall
		own.Login = &credential.Login{Mount: "elsewhere", Role: "agents", Token: "a-caller's-token"}
		l, _, _ = s.acquire("h1", own)
		s.release(l)
		s.close()
		mu.Lock()
		defer mu.Unlock()
		for _, path := range []string{"auth/approle/login", "auth/elsewhere/login", "auth/token/create", creds, "sys/leases/revoke", "auth/token/revoke-accessor"} {
			if !paths[path] {
				t.Errorf("nobody asked for %s: %v", path, paths)
			}
		}
	})
}

// cluster is the TokenReview API of a Kubernetes cluster, over TLS: a double,
// as strict as the API's reference is (authentication.k8s.io/v1).
type cluster struct {
	*httptest.Server
	t        *testing.T
	reviewer string // who may ask

	mu    sync.Mutex
	token string
	asked int
}

func newCluster(t *testing.T, reviewer string) *cluster {
	c := &cluster{t: t, reviewer: reviewer}
	c.Server = httptest.NewTLSServer(c)
	t.Cleanup(c.Close)
	return c
}

func (c *cluster) ca() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate().Raw}))
}

// allow has the cluster know one token, and no other.
func (c *cluster) allow(token string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.token = token
}

func (c *cluster) reviewed() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked
}

func (c *cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.Method != http.MethodPost || r.URL.Path != "/apis/authentication.k8s.io/v1/tokenreviews" || r.Header.Get("Content-Type") != "application/json" {
		http.Error(w, "404 page not found", http.StatusNotFound)
		return
	}
	if r.Header.Get("Authorization") != "Bearer "+c.reviewer {
		http.Error(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Unauthorized","code":401}`, http.StatusUnauthorized)
		return
	}
	body, err := io.ReadAll(r.Body)
	var in struct {
		Spec struct {
			Token     string
			Audiences []string
		}
	}
	if err == nil {
		err = json.Unmarshal(body, &in)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.asked++
	status := map[string]any{"authenticated": false, "error": "invalid bearer token"}
	if in.Spec.Token == c.token {
		status = map[string]any{"authenticated": true, "audiences": in.Spec.Audiences,
			"user": map[string]any{"username": "system:serviceaccount:gate:countersign", "uid": "u-1", "groups": []string{"system:serviceaccounts", "system:authenticated"}}}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	if err := json.NewEncoder(w).Encode(map[string]any{"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "status": status}); err != nil {
		c.t.Error(err)
	}
}

func clientCertificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "gate.example.com"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}
