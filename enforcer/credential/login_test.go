package credential_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/api"

	"countersign/enforcer/credential"
	"countersign/fixtures/vault"
)

// alone runs f in a bubble with a Vault, and no Minter yet.
func alone(t *testing.T, f func(t *testing.T, s *sim)) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) { f(t, prepare(t, dir, nil)) })
}

// answering has Vault answer requests for paths that end so with the status.
func (s *sim) answering(path string, status int) {
	s.v.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, path) {
			return false
		}
		w.WriteHeader(status)
		return true
	})
}

func (s *sim) tokens(want ...string) {
	s.t.Helper()
	if got := s.v.Tokens(); !slices.Equal(got, want) {
		s.t.Errorf("Vault has tokens %v, want %v", got, want)
	}
}

func (s *sim) files(want ...string) {
	s.t.Helper()
	var got []string
	for _, f := range left(s.t, s.dir) {
		kind, _, _ := strings.Cut(filepath.Base(f), "-")
		got = append(got, kind)
	}
	if !slices.Equal(got, want) {
		s.t.Errorf("on file: %v, want %v", got, want)
	}
}

func TestLoginServesAllRetries(t *testing.T) {
	alone(t, func(t *testing.T, s *sim) {
		s.answering("auth/token/create", http.StatusServiceUnavailable)
		go func() {
			time.Sleep(10 * time.Minute)
			s.v.Intercept(nil)
		}()
		s.open()
		if n := s.v.Hits("auth/approle/login"); n != 1 {
			t.Errorf("logged in %d times", n)
		}
		s.tokens("approle", "token-countersign-run")
		s.files("login", "run")
		s.close()
		s.tokens()
		s.files()
	})
}

// A login that ended while Vault could not make a run's token is replaced.
func TestLoginEndsWhileRetrying(t *testing.T) {
	alone(t, func(t *testing.T, s *sim) {
		s.answering("auth/token/create", http.StatusServiceUnavailable)
		go func() {
			time.Sleep(3 * time.Hour)
			s.v.Intercept(nil)
		}()
		s.open()
		s.tokens("approle", "token-countersign-run")
		s.files("login", "run")
		s.close()
		s.tokens()
	})
}

func TestFailedOpenLogsOut(t *testing.T) {
	for name, status := range map[string]int{"forbidden": http.StatusForbidden, "away until the context ends": http.StatusServiceUnavailable} {
		t.Run(name, func(t *testing.T) {
			alone(t, func(t *testing.T, s *sim) {
				s.answering("auth/token/create", status)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if _, err := credential.Open(ctx, s.cfg); err == nil {
					t.Error("opened")
				}
				s.tokens()
				s.files()
				// Where even that fails, the next start finds it.
				s.v.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
					if strings.HasSuffix(r.URL.Path, "login") {
						return false
					}
					w.WriteHeader(status)
					return true
				})
				ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if _, err := credential.Open(ctx, s.cfg); err == nil {
					t.Error("opened")
				}
				s.v.Intercept(nil)
				if status == http.StatusForbidden { // Vault said that the login is gone
					return
				}
				s.tokens("approle")
				s.files("login")
				s.open()
				s.tokens("approle", "token-countersign-run")
				s.close()
				s.tokens()
			})
		})
	}
}

// kill -9: the token below the run's is on disk before it is used, and the
// next start ends it, whatever it logs in with itself.
func TestKillLeavesNoLogin(t *testing.T) {
	for name, static := range map[string]bool{"approle": false, "token": true} {
		t.Run(name, func(t *testing.T) {
			alone(t, func(t *testing.T, s *sim) {
				var used atomic.Int32
				s.v.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
					if strings.HasSuffix(r.URL.Path, "auth/token/create") && used.Add(1) == 1 {
						s.files("login")
					}
					return false
				})
				s.open()
				s.v.Intercept(nil)
				dead := s.Minter
				_, user, password := s.acquire("h1", s.shared)
				s.tokens("approle", "token-countersign-lease", "token-countersign-run")
				want := []string{"approle", "token-countersign-run"}
				if static {
					s.cfg.Login = credential.Token(s.v.Root)
					want = want[1:]
				}
				s.open()
				s.tokens(want...)
				s.works(user, password, false)
				s.want("mint", "recover", "recover", "recover")
				s.close()
				s.tokens()
				s.files()
				if err := dead.Close(t.Context()); err != nil {
					t.Error(err)
				}
				s.tokens() // what it logged in for to close is gone as well
			})
		})
	}
}

// A role without Vault's default policy may not revoke itself by that name.
func TestLogoutWithoutDefaultPolicy(t *testing.T) {
	simulate(t, nil, func(t *testing.T, s *sim) {
		s.v.Policy("default", "auth/token/lookup-self", "auth/token/renew-self")
		s.close()
		s.tokens()
		s.files()
		s.open()
	})
}

// The operator's own token is not ours to end.
func TestStaticLoginIsNotEnded(t *testing.T) {
	alone(t, func(t *testing.T, s *sim) {
		s.cfg.Login = credential.Token(s.v.Root)
		s.open()
		s.files("run")
		s.close()
		s.open() // it works still
		s.close()
	})
}

// A run that cannot be replaced yet costs one login, not one for each call.
func TestLoginServesAllReplacements(t *testing.T) {
	simulate(t, nil, func(t *testing.T, s *sim) {
		if err := s.v.RevokeTokens("token-countersign-run"); err != nil {
			t.Fatal(err)
		}
		s.v.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, "auth/token/create") && s.v.Hits("auth/approle/login") > 1 {
				w.WriteHeader(http.StatusForbidden)
				return true
			}
			return false
		})
		for range 5 {
			s.refused(s.perCall, credential.ErrForbidden, "auth/token/create")
		}
		if n := s.v.Hits("auth/approle/login"); n != 2 {
			t.Errorf("logged in %d times", n)
		}
		s.tokens("approle", "approle")
		s.v.Intercept(nil)
		l, _, _ := s.acquire("h1", s.perCall)
		s.release(l)
		if n := s.v.Hits("auth/approle/login"); n != 2 {
			t.Errorf("logged in %d times", n)
		}
		pass(time.Hour) // the login that was replaced is ended
		s.tokens("approle", "token-countersign-run")
		s.files("login", "run")
	})
}

// In days of running there is one login and one run, or two while leases of the
// one before are in use.
func TestReplacedLoginsAreEnded(t *testing.T) {
	simulate(t, func(r *vault.Role) { r.MaxTTL = 24 * time.Hour }, func(t *testing.T, s *sim) {
		for range 60 {
			pass(time.Hour)
			l, _, _ := s.acquire("h1", s.perCall)
			s.release(l)
			if n := len(left(t, s.dir)); n > 4 {
				t.Errorf("%d files", n)
			}
		}
		if n := s.v.Hits("auth/approle/login"); n < 2 {
			t.Errorf("logged in %d times", n)
		}
		pass(time.Hour)
		s.tokens("approle", "token-countersign-run")
		s.files("login", "run")
	})
}

// A lease in use keeps the run that it was minted under, and the login below,
// for as long as that run's token lives.
func TestReplacedRunOfALeaseStays(t *testing.T) {
	simulate(t, nil, func(t *testing.T, s *sim) {
		pass(23 * time.Hour) // logins last for 24 h
		l, user, password := s.acquire("h1", credential.Spec{Name: "app", Path: creds, PerCall: true, TTL: 50 * time.Minute})
		for s.v.Hits("auth/approle/login") < 2 {
			pass(time.Minute)
			s.works(user, password, true)
		}
		for range 4 { // the login is looked after every 3 minutes
			pass(time.Minute)
			s.works(user, password, true)
		}
		s.tokens("approle", "approle", "token-countersign-lease", "token-countersign-run", "token-countersign-run")
		s.release(l)
		pass(time.Hour)
		s.tokens("approle", "token-countersign-run")
	})
}

// What is at another Vault is not taken for gone.
func TestAnotherVault(t *testing.T) {
	alone(t, func(t *testing.T, s *sim) {
		s.open()
		dead := s.Minter
		_, user, password := s.acquire("h1", s.shared)
		here := s.cfg

		other := prepare(t, s.dir, nil)
		at := func(h http.Handler, address, namespace string) *api.Client {
			vc := api.DefaultConfig()
			vc.Address, vc.HttpClient = address, &http.Client{Transport: direct{h}}
			c, err := api.NewClient(vc)
			if err != nil {
				t.Fatal(err)
			}
			if namespace != "" {
				c.SetNamespace(namespace)
			}
			return c
		}
		for _, client := range []*api.Client{at(other.v, "http://user:pa55word@elsewhere.invalid/", ""), at(other.v, "http://vault.invalid", "team")} {
			other.cfg.Client = client
			_, err := credential.Open(t.Context(), other.cfg)
			if !errors.Is(err, credential.ErrElsewhere) || !strings.Contains(err.Error(), "of http://vault.invalid, and http://") ||
				!strings.Contains(err.Error(), filepath.Join(s.dir, "login-")) || strings.Contains(err.Error(), "pa55word") {
				t.Errorf("%v", err)
			}
			s.files("lease", "login", "run")
			other.tokens()
		}
		other.want(slices.Repeat([]string{"revoke-failed"}, 6)...)
		if !strings.Contains(other.logs.String(), "start once with the former") {
			t.Errorf("logged: %s", other.logs)
		}
		s.works(user, password, true)

		// The same Vault under another name knows the tokens: they are revoked.
		s.cfg.Client = at(s.v, "https://new-name.invalid", "")
		s.open()
		s.works(user, password, false)
		s.tokens("approle", "token-countersign-run")
		second := s.Minter
		// Back at the first name, the tokens of the second are known; then all is gone.
		if err := s.v.RevokeTokens("token-countersign-run"); err != nil { // but for the login: it proves which Vault it is
			t.Fatal(err)
		}
		s.cfg = here
		s.open()
		s.close()
		s.tokens()
		s.files()
		for _, m := range []*credential.Minter{second, dead} {
			if err := m.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
}

// Files of before addresses were written down are of the configured Vault.
func TestFilesWithoutAddress(t *testing.T) {
	alone(t, func(t *testing.T, s *sim) {
		for _, name := range []string{"run-1", "lease-l_1"} {
			if err := os.WriteFile(filepath.Join(s.dir, name), []byte("some-id\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s.open()
		s.want("recover", "recover")
		s.files("login", "run")
		s.close()
	})
}

func TestPending(t *testing.T) {
	pending := func(dir string, want int) {
		t.Helper()
		if n, err := credential.Pending(dir); err != nil || n != want {
			t.Errorf("%d pending, want %d, %v", n, want, err)
		}
	}
	alone(t, func(t *testing.T, s *sim) {
		pending(filepath.Join(s.dir, "never-made"), 0)
		pending(s.dir, 0)
		if err := os.WriteFile(filepath.Join(s.dir, "run-cut-short"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		pending(s.dir, 0) // nothing was minted under it
		s.open()
		l, _, _ := s.acquire("h1", s.shared)
		pending(s.dir, 3)
		s.release(l)
		s.v.Seal(true)
		if err := s.Close(t.Context()); err == nil {
			t.Error("closed, and Vault is sealed")
		}
		pending(s.dir, 3)
		s.v.Seal(false)
		s.open()
		pending(s.dir, 2)
		s.close()
		pending(s.dir, 0)
		if _, err := credential.Pending(filepath.Join(s.dir, "a-file")); err != nil {
			t.Error(err)
		}
		if err := os.WriteFile(filepath.Join(s.dir, "a-file"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := credential.Pending(filepath.Join(s.dir, "a-file")); err == nil {
			t.Error("nothing is pending in what is no directory")
		}
		if err := os.Remove(filepath.Join(s.dir, "a-file")); err != nil {
			t.Fatal(err)
		}
	})
}

func TestEndWhere(t *testing.T) {
	simulate(t, nil, func(t *testing.T, s *sim) {
		idle, u1, p1 := s.acquire("h1", s.shared)
		s.release(idle)
		since := time.Now()
		pass(2 * time.Minute)
		busy, u2, p2 := s.acquire("h2", s.shared)
		admin := s.shared
		admin.Name = "admin"
		inFlight, u3, p3 := s.acquire("h1", admin)
		call, u4, p4 := s.acquire("h1", s.perCall)
		pass(time.Minute)
		s.release(busy)

		last := map[string]time.Time{}
		for _, l := range s.Leases() {
			last[l.Key] = l.LastUsed
		}
		if !last[idle.Key].Equal(since) || !last[busy.Key].Equal(time.Now()) || !last[inFlight.Key].Equal(since.Add(2*time.Minute)) {
			t.Errorf("last used: %v, began %v", last, since)
		}
		// Idle for a while.
		s.EndWhere(t.Context(), func(l credential.LeaseInfo) bool {
			s.Leases() // may be asked meanwhile
			return l.Uses == 0 && time.Since(l.LastUsed) >= 2*time.Minute
		})
		s.works(u1, p1, false)
		s.works(u2, p2, true)
		s.works(u3, p3, true)
		// A credential that policy has no more, and a holder that is gone: with the call in flight.
		s.EndWhere(t.Context(), func(l credential.LeaseInfo) bool { return l.Name == "admin" || l.Holder == "h1" })
		s.works(u3, p3, true)
		s.works(u4, p4, true)
		s.release(inFlight)
		s.works(u3, p3, false)
		s.release(call)
		s.works(u4, p4, false)
		s.works(u2, p2, true)

		// One that is being minted for a call ends with that call.
		release := make(chan struct{})
		s.v.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, creds) {
				<-release
			}
			return false
		})
		got := make(chan *credential.Lease)
		go func() {
			l, err := s.Acquire(t.Context(), "h3", "c_1", s.shared)
			if err != nil {
				t.Error(err)
			}
			got <- l
		}()
		synctest.Wait()
		s.EndWhere(t.Context(), func(l credential.LeaseInfo) bool { return l.Holder == "h3" && l.Uses == 1 && l.Username == "" })
		close(release)
		l := <-got
		user, password := s.render(l, "{{username}}"), s.render(l, "{{password}}")
		s.works(user, password, true)
		s.release(l)
		s.works(user, password, false)
	})
}
