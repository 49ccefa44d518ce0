package credential_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/api"

	"countersign/enforcer/credential"
	"countersign/fixtures/issuer"
	"countersign/fixtures/peer"
)

// people is a real Vault at whose JWT login callers log in with tokens of an
// issuer, and whose audit log a test can read.
type people struct {
	*peer.Vault
	t     *testing.T
	idp   *issuer.Issuer
	audit string
}

func newPeople(t *testing.T) *people {
	p := &people{Vault: otpVault(t), t: t, audit: filepath.Join(t.TempDir(), "audit.log")}
	var err error
	if p.idp, err = issuer.Start("127.0.0.1:0", nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.idp.Close() }) // nothing depends on it any more
	p.Auth(t, "jwt", "jwt")
	p.Write(t, "auth/jwt/config", map[string]any{"oidc_discovery_url": p.idp.URL, "bound_issuer": p.idp.URL})
	p.Write(t, "ssh/roles/blue", map[string]any{"key_type": "otp", "default_user": "ops", "cidr_list": "192.0.2.0/24"})
	p.Policy(t, "people", `path "ssh/creds/blue" { capabilities = ["update"] }`)
	p.role("agents", nil)
	if err := p.Client(t, "").Sys().EnableAuditWithOptionsWithContext(t.Context(), "file", &api.EnableAuditOptions{Type: "file", Options: map[string]string{"file_path": p.audit}}); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *people) role(name string, change map[string]any) {
	role := map[string]any{"role_type": "jwt", "user_claim": "sub", "bound_audiences": "https://gate.example", "token_policies": "people", "token_ttl": "1h"}
	for k, v := range change {
		role[k] = v
	}
	p.Write(p.t, "auth/jwt/role/"+name, role)
}

func (p *people) token(claims issuer.Claims) string {
	p.t.Helper()
	all := issuer.Claims{"aud": "https://gate.example"}
	for k, v := range claims {
		all[k] = v
	}
	token, err := p.idp.Mint(all, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	return token
}

// open makes a Minter whose own login may not read what people may.
func (p *people) open(dir string) *bench {
	p.t.Helper()
	role, secret := p.AppRole(p.t, enforcerPolicy)
	b := newBench(p.t, dir)
	m, err := credential.Open(p.t.Context(), b.config(p.Client(p.t, ""), appRole(p.t, role, secret)))
	if err != nil {
		p.t.Fatal(err)
	}
	b.Minter = m
	return b
}

// own is a credential that is minted under the caller's own login.
func own(role, token string) credential.Spec {
	s := otp
	s.Path, s.Login = "ssh/creds/blue", &credential.Login{Mount: "jwt", Role: role, Token: token}
	return s
}

// whose lists the display names that Vault's audit log has for a path.
func (p *people) whose(path string) (names []string) {
	p.t.Helper()
	data, err := os.ReadFile(p.audit)
	if err != nil {
		p.t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		var entry struct {
			Type    string
			Auth    struct{ Display_name string }
			Request struct{ Path string }
		}
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			p.t.Fatal(err)
		}
		if entry.Type == "request" && entry.Request.Path == path {
			names = append(names, entry.Auth.Display_name)
		}
	}
	return names
}

// logins lists the live tokens that came by the JWT login, with their time to
// live.
func (p *people) logins() map[string]time.Duration {
	p.t.Helper()
	root := p.Client(p.t, "")
	list, err := root.Logical().ListWithContext(p.t.Context(), "auth/token/accessors")
	if err != nil {
		p.t.Fatal(err)
	}
	found := map[string]time.Duration{}
	for _, accessor := range list.Data["keys"].([]any) {
		token, err := root.Auth().Token().LookupAccessorWithContext(p.t.Context(), accessor.(string))
		if err != nil || token.Data["path"] != "auth/jwt/login" {
			continue // gone meanwhile, or another's
		}
		ttl, err := token.TokenTTL()
		if err != nil {
			p.t.Fatal(err)
		}
		found[fmt.Sprint(token.Data["display_name"])] = ttl
	}
	return found
}

func kept(t *testing.T, dir, kind string) (n int) {
	for _, f := range left(t, dir) {
		if strings.HasPrefix(filepath.Base(f), kind) {
			n++
		}
	}
	return n
}

func TestCallersOwnLogin(t *testing.T) {
	p := newPeople(t)
	ann, ben := p.token(issuer.Claims{"sub": "ann"}), p.token(issuer.Claims{"sub": "ben"})

	t.Run("Vault sees the person", func(t *testing.T) {
		dir := t.TempDir()
		b := p.open(dir)
		l, err := b.Acquire(t.Context(), "ann|gate", "c_1", own("agents", ann))
		if err != nil {
			t.Fatal(err)
		}
		if len(b.CallerTokens()) > 0 {
			t.Error("the caller's token is kept after it logged in")
		}
		if got := p.whose("ssh/creds/blue"); !slices.Equal(got, []string{"jwt-ann"}) {
			t.Errorf("Vault's audit log has %v", got)
		}
		if n := kept(t, dir, "caller-"); n != 1 {
			t.Errorf("%d logins on file", n)
		}
		// Vault itself ends it at the cap, though the role says an hour.
		if ttl := p.logins()["jwt-ann"]; ttl <= 0 || ttl > otp.TTL {
			t.Errorf("the login lives for %s, the cap is %s", ttl, otp.TTL)
		}
		if l.Expires.After(time.Now().Add(otp.TTL)) {
			t.Errorf("the lease lives until %s", l.Expires)
		}
		if text, _ := b.mask.Text("you sent " + ann); strings.Contains(text, ann) {
			t.Error("the caller's token is not masked")
		}
		b.release(l)
		if all := p.logins(); len(all) != 0 {
			t.Errorf("left: %v", all)
		}
		if n := kept(t, dir, "caller-"); n != 0 {
			t.Errorf("%d logins on file", n)
		}
		b.want("mint", "revoke")
		b.mu.Lock()
		if e := b.events[0]; e.Login != "auth/jwt role agents" || e.Path != "ssh/creds/blue" {
			t.Errorf("%+v", e)
		}
		told := b.logs.String() + fmt.Sprintf("%+v", b.events)
		b.mu.Unlock()
		if strings.Contains(told, ann) {
			t.Error("the log or the record holds the caller's token")
		}
		b.close()
	})

	t.Run("one login for a holder, and none for two", func(t *testing.T) {
		b := p.open(t.TempDir())
		defer b.close()
		before := len(p.whose("auth/jwt/login"))
		shared := own("agents", ann)
		shared.PerCall = false
		again := own("agents", p.token(issuer.Claims{"sub": "ann", "jti": "another"})) // refreshed meanwhile
		again.PerCall = false
		var wg sync.WaitGroup
		keys := make([]string, 8)
		for i := range keys {
			wg.Go(func() {
				spec := shared
				if i%2 == 1 {
					spec = again
				}
				l, err := b.Acquire(t.Context(), "ann|gate", "c_1", spec)
				if err != nil {
					t.Error(err)
					return
				}
				keys[i] = l.Key
			})
		}
		wg.Wait()
		if keys = slices.Compact(keys); len(keys) != 1 {
			t.Errorf("leases %v", keys)
		}
		other := own("agents", ben)
		other.PerCall = false
		l, err := b.Acquire(t.Context(), "ben|gate", "c_1", other)
		if err != nil {
			t.Fatal(err)
		}
		if l.Key == keys[0] {
			t.Error("two holders share a lease")
		}
		if n := len(p.whose("auth/jwt/login")) - before; n != 2 {
			t.Errorf("%d logins for two people", n)
		}
		if all := p.logins(); len(all) != 2 {
			t.Errorf("%v", all)
		}
		// Whoever has a lease needs no token of the caller's to use it again.
		bare := other
		bare.Login = &credential.Login{Mount: "jwt", Role: "agents"}
		if reused, err := b.Acquire(t.Context(), "ben|gate", "c_2", bare); err != nil || reused.Key != l.Key {
			t.Errorf("%v %v", reused, err)
		}
	})

	t.Run("crash", func(t *testing.T) {
		dir := t.TempDir()
		dead := p.open(dir)
		if _, err := dead.Acquire(t.Context(), "ann|gate", "c_1", own("agents", ann)); err != nil {
			t.Fatal(err)
		}
		b := p.open(dir) // nobody closed the first
		if all := p.logins(); len(all) != 0 {
			t.Errorf("left: %v", all)
		}
		b.want("recover", "recover", "recover", "recover") // the run's token, the caller's, the login and a lease
		b.close()
		dead.close()
	})

	t.Run("refused", func(t *testing.T) {
		p.role("elsewhere", map[string]any{"bound_audiences": "https://other.example"})
		p.role("nothing", map[string]any{"token_policies": "default"})
		p.role("batch", map[string]any{"token_type": "batch"})
		p.role("periodic", map[string]any{"token_period": "2h"})
		p.role("stiff", map[string]any{"token_no_default_policy": true})
		dir := t.TempDir()
		b := p.open(dir)
		late := own("agents", ann)
		late.Login.Expires = time.Now().Add(-time.Second)
		for _, c := range []struct {
			name string
			spec credential.Spec
			err  error
			want string
		}{
			{"another audience", own("elsewhere", ann), credential.ErrRefused, "log in as the caller at auth/jwt/login, role elsewhere: refused by Vault (400)"},
			{"no such role", own("nobody", ann), credential.ErrRefused, "role nobody"},
			{"a policy without the path", own("nothing", ann), credential.ErrForbidden, "post ssh/creds/blue"},
			{"expired, and we know", late, credential.ErrNoToken, "it has expired meanwhile; get a new one"},
			{"expired, and Vault knows", own("agents", p.token(issuer.Claims{"sub": "ann", "exp": time.Now().Add(-time.Hour).Unix(), "nbf": time.Now().Add(-2 * time.Hour).Unix(), "iat": time.Now().Add(-2 * time.Hour).Unix()})), credential.ErrRefused, "(400)"},
			{"no token", own("agents", ""), credential.ErrNoToken, "no caller's token is at hand"},
			{"not a JWT", own("agents", "opaque-token"), credential.ErrRefused, "(400)"},
			{"a batch token", own("batch", ann), credential.ErrRefused, "token_type=service"},
			{"a token without an end", own("periodic", ann), credential.ErrRefused, "no token_period"},
			{"a token that cannot be shortened", own("stiff", ann), credential.ErrRefused, "could not be shortened"},
		} {
			_, err := b.Acquire(t.Context(), "ann|gate", "c_1", c.spec)
			if !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), ann) || strings.Contains(err.Error(), "opaque-token") {
				t.Errorf("%s: %v, want %q", c.name, err, c.want)
			}
		}
		b.want()
		b.close()
		if all := p.logins(); len(all) != 0 {
			t.Errorf("left: %v", all)
		}
		if n := kept(t, dir, ""); n != 0 {
			t.Errorf("%d files left", n)
		}
	})
}

// What the enforcer's own login ends with leaves callers' alone, and the other
// way round; at the cap Vault ends a caller's by itself.
func TestCallersLoginInTime(t *testing.T) {
	simulate(t, nil, func(t *testing.T, s *sim) {
		s.v.Policy("people", creds)
		s.v.Login("jwt", "people", 2*time.Hour, 24*time.Hour, func(body map[string]any) (string, bool) {
			return "jwt-ann", body["jwt"] == "the-caller's-token" && body["role"] == "agents"
		})
		spec := credential.Spec{Name: "app", Path: creds, PerCall: true, TTL: 50 * time.Minute, Login: &credential.Login{Mount: "jwt", Role: "agents", Token: "the-caller's-token"}}
		l, user, password := s.acquire("h1", spec)
		if err := s.v.RevokeTokens("token-countersign-run"); err != nil {
			t.Fatal(err)
		}
		other, _, _ := s.acquire("h2", s.perCall) // under a new run
		s.works(user, password, true)
		s.release(other)
		if err := s.v.RevokeTokens("approle"); err != nil {
			t.Fatal(err)
		}
		s.works(user, password, true)
		s.release(l) // by yet another run
		s.works(user, password, false)

		// Nobody releases it, and the process hangs, say: Vault ends it.
		l, user, password = s.acquire("h1", spec)
		if got := time.Until(l.Expires); got > spec.TTL {
			t.Errorf("lives for %s", got)
		}
		s.v.Intercept(func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		})
		pass(spec.TTL + time.Minute)
		s.works(user, password, false)
		s.v.Intercept(nil)
		pass(time.Minute)
		s.release(l)
	})
}

// The accessor is on disk before anything is minted under the login: a kill at
// any point leaves nothing that the next start does not end.
func TestCallersLoginIsOnFileFirst(t *testing.T) {
	alone(t, func(t *testing.T, s *sim) {
		s.v.Policy("people", creds)
		s.v.Login("jwt", "people", time.Hour, time.Hour, func(map[string]any) (string, bool) { return "jwt-ann", true })
		s.open()
		hang := make(chan struct{})
		s.v.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, creds) {
				s.files("caller", "login", "run")
				<-hang
			}
			return false
		})
		dead := s.Minter
		got := make(chan error)
		go func() {
			_, err := dead.Acquire(t.Context(), "h1", "c_1", credential.Spec{Name: "app", Path: creds, PerCall: true, TTL: time.Hour, Login: &credential.Login{Mount: "jwt", Role: "agents", Token: "the-caller's-token"}})
			got <- err
		}()
		synctest.Wait()
		s.open() // the first is as good as dead
		s.tokens("approle", "token-countersign-run")
		close(hang)
		if err := <-got; !errors.Is(err, credential.ErrForbidden) {
			t.Errorf("minted under a login that was revoked: %v", err)
		}
		s.close()
		if err := dead.Close(t.Context()); err != nil {
			t.Error(err)
		}
		s.tokens()
	})
}
