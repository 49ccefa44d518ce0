package credential_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/api"

	"countersign/enforcer/credential"
	"countersign/fixtures/vault"
)

// What depends on time runs against the stand-in in a bubble of its own, where
// hours pass at once. A network would break the bubble, so requests reach the
// stand-in as calls.

const creds = "database/creds/app"

type direct struct{ h http.Handler }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	rec := httptest.NewRecorder()
	if r.Body == nil {
		r.Body = http.NoBody
	}
	done := make(chan error, 1)
	go func() {
		defer func() {
			if v := recover(); v != nil {
				done <- io.ErrUnexpectedEOF // http.ErrAbortHandler: the connection is cut
			}
		}()
		d.h.ServeHTTP(rec, r)
		done <- nil
	}()
	select {
	case err := <-done:
		if err != nil {
			return nil, err
		}
		resp := rec.Result()
		resp.Request = r
		return resp, nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

type sim struct {
	*bench
	v       *vault.Vault
	db      *database
	cfg     credential.Config
	perCall credential.Spec
	shared  credential.Spec
}

// simulate runs f in a bubble, with a Minter that is closed at the end.
func simulate(t *testing.T, role func(*vault.Role), f func(t *testing.T, s *sim)) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := prepare(t, dir, role)
		s.open()
		f(t, s)
		s.v.Intercept(nil)
		s.v.Cut(nil)
		s.v.Seal(false)
		s.close()
		if n := s.db.count(); n != 0 {
			t.Errorf("%d users outlived the run", n)
		}
		if files := left(t, dir); len(files) != 0 {
			t.Errorf("left behind: %v", files)
		}
	})
}

func prepare(t *testing.T, dir string, change func(*vault.Role)) *sim {
	s := &sim{v: vault.New(nil), db: &database{users: map[string]string{}}}
	role := s.db.role()
	if change != nil {
		change(&role)
	}
	s.v.Mint(creds, role)
	s.v.Policy("enforcer", creds, "auth/token/create", "auth/token/revoke-accessor", "sys/leases/revoke")
	id, secret := s.v.AppRole("enforcer", time.Hour, 24*time.Hour)
	vc := api.DefaultConfig()
	vc.Address = "http://vault.invalid"
	vc.HttpClient = &http.Client{Transport: direct{s.v}}
	client, err := api.NewClient(vc)
	if err != nil {
		t.Fatal(err)
	}
	s.bench = newBench(t, dir)
	s.cfg = s.config(client, appRole(t, id, secret))
	s.perCall = credential.Spec{Name: "app", Path: creds, PerCall: true, TTL: 10 * time.Minute}
	s.shared = credential.Spec{Name: "app", Path: creds, TTL: time.Hour}
	return s
}

func (s *sim) open() {
	s.t.Helper()
	m, err := credential.Open(s.t.Context(), s.cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	s.Minter = m
}

func (s *sim) works(user, password string, want bool) {
	s.t.Helper()
	if err := s.v.Sweep(); err != nil {
		s.t.Error(err)
	}
	if err := s.db.login(s.t.Context(), user, password); (err == nil) != want {
		s.t.Errorf("log-in: %v, want it to work: %v", err, want)
	}
}

func (s *sim) refused(spec credential.Spec, want error, words string) {
	s.t.Helper()
	_, err := s.Acquire(s.t.Context(), "h1", "c_1", spec)
	if !errors.Is(err, want) || !strings.Contains(fmt.Sprint(err), words) {
		s.t.Errorf("got %v, want %v with %q", err, want, words)
	}
}

func pass(d time.Duration) {
	time.Sleep(d) // in the bubble: no time passes outside
	synctest.Wait()
}

func TestAccessorIsDurableBeforeTheFirstMint(t *testing.T) {
	simulate(t, nil, func(t *testing.T, s *sim) {
		var seen atomic.Int32
		s.v.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, creds) {
				files, err := filepath.Glob(filepath.Join(s.dir, "run-*"))
				if err != nil || len(files) != 1 {
					t.Errorf("%v, %v", files, err)
				}
				data, err := os.ReadFile(files[0])
				if err != nil || len(strings.TrimSpace(string(data))) < 20 {
					t.Errorf("%q, %v", data, err)
				}
				seen.Add(1)
			}
			return false
		})
		l, _, _ := s.acquire("h1", s.perCall)
		s.release(l)
		if seen.Load() != 1 {
			t.Error("nothing was minted")
		}
	})
}

// A holder's lease is renewed while calls use it, up to the cap; then new
// calls get another, and the call in flight keeps its own to the very cap.
func TestRenewedWhileUsed(t *testing.T) {
	simulate(t, nil, func(t *testing.T, s *sim) { // leases of 10 minutes, cap one hour
		start := time.Now()
		long, user, password := s.acquire("h1", s.shared)
		for time.Since(start) < 59*time.Minute {
			pass(time.Minute)
			s.works(user, password, true)
		}
		next, _, _ := s.acquire("h1", s.shared)
		if next.Key == long.Key {
			t.Error("a lease with a minute to live was handed to a new call")
		}
		s.works(user, password, true)
		pass(time.Minute)
		s.works(user, password, false)
		s.release(long)
		s.release(next)
		if got := s.actions(); !slices.Contains(got, "renew") || got[len(got)-1] != "revoke" {
			t.Errorf("recorded %v", got)
		}
	})
}

func TestIdleIsNotRenewed(t *testing.T) {
	simulate(t, nil, func(t *testing.T, s *sim) {
		l, user, password := s.acquire("h1", s.shared)
		s.release(l)
		pass(9 * time.Minute)
		s.works(user, password, true) // renewed once, since a call had used it
		pass(10 * time.Minute)
		s.works(user, password, false)
		s.want("mint", "renew", "revoke")
		if got := s.Leases(); len(got) != 0 {
			t.Errorf("%+v", got)
		}
	})
}

// A lease at its longest in Vault is replaced, not run into the ground.
func TestNotRenewable(t *testing.T) {
	simulate(t, func(r *vault.Role) { r.TTL, r.MaxTTL = time.Minute, time.Minute }, func(t *testing.T, s *sim) {
		first, u1, p1 := s.acquire("h1", s.shared)
		pass(55 * time.Second)
		second, u2, p2 := s.acquire("h1", s.shared)
		if first.Key == second.Key {
			t.Error("a lease with 5 s to live was handed out")
		}
		s.works(u1, p1, true)
		s.release(first)
		synctest.Wait()
		s.works(u1, p1, false) // its last call is over
		s.works(u2, p2, true)
		s.release(second)
	})
}

// The cap is Vault's own to keep: a process that is gone cannot.
func TestCapWithoutUs(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := prepare(t, dir, nil)
		s.open()
		_, user, password := s.acquire("h1", s.perCall)
		s.v.Intercept(func(w http.ResponseWriter, _ *http.Request) bool { // as good as gone
			w.WriteHeader(http.StatusBadGateway)
			return true
		})
		pass(10*time.Minute - time.Second)
		s.works(user, password, true)
		pass(time.Second)
		s.works(user, password, false)
		s.v.Intercept(nil)
		s.close()
	})
}

// A run lasts for days: its tokens are renewed, and when the login comes to
// its longest, there is another, without a call noticing.
func TestDays(t *testing.T) {
	simulate(t, nil, func(t *testing.T, s *sim) { // AppRole: 1 h, at most 24 h
		for range 72 {
			pass(time.Hour)
			l, user, password := s.acquire("h1", s.perCall)
			s.works(user, password, true)
			s.release(l)
			s.works(user, password, false)
		}
		if n := s.v.Hits("auth/approle/login"); n < 3 || n > 8 {
			t.Errorf("logged in %d times in three days", n)
		}
		if got := s.v.Tokens(); len(got) > 4 {
			t.Errorf("tokens pile up: %v", got)
		}
	})
}

func TestTokenRevokedBehindOurBack(t *testing.T) {
	simulate(t, nil, func(t *testing.T, s *sim) {
		l, _, _ := s.acquire("h1", s.shared)
		s.release(l)
		if err := s.v.RevokeTokens("approle"); err != nil {
			t.Fatal(err)
		}
		l, user, password := s.acquire("h2", s.perCall)
		s.works(user, password, true)
		s.release(l)
		if n := s.v.Hits("auth/approle/login"); n != 2 {
			t.Errorf("logged in %d times", n)
		}
	})
}

func TestVaultAwayForHours(t *testing.T) {
	simulate(t, nil, func(t *testing.T, s *sim) {
		l, user, password := s.acquire("h1", s.perCall)
		s.v.Seal(true)
		if err := s.Release(t.Context(), l); !errors.Is(err, credential.ErrSealed) {
			t.Error(err)
		}
		pass(5 * time.Hour)
		s.refused(s.perCall, credential.ErrSealed, "auth/token/create")
		s.want("mint", "revoke-failed") // once, not with every try
		s.v.Seal(false)
		pass(time.Minute)
		s.works(user, password, false)
		s.want("mint", "revoke-failed", "revoke")
		l, _, _ = s.acquire("h1", s.perCall)
		s.release(l)
	})
}

// The answer to a mint gets lost: there is a user that nobody knows of.
func TestCutInMidMint(t *testing.T) {
	simulate(t, nil, func(t *testing.T, s *sim) {
		s.v.Cut(func(r *http.Request) {
			if strings.HasSuffix(r.URL.Path, creds) {
				panic(http.ErrAbortHandler)
			}
		})
		s.refused(s.perCall, credential.ErrUnavailable, creds)
		synctest.Wait()
		if n := s.v.Hits(creds); n != 1 {
			t.Errorf("read %d times: each is a mint", n)
		}
		if err := s.v.Sweep(); err != nil {
			t.Error(err)
		}
		if n := s.db.count(); n != 0 {
			t.Errorf("%d users that nobody knows of", n)
		}
		s.want()
	})
}

func TestSlow(t *testing.T) {
	simulate(t, nil, func(t *testing.T, s *sim) {
		release := make(chan struct{})
		s.v.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, creds) {
				<-release
			}
			return false
		})
		// The caller leaves; the others of its holder still get the lease.
		ctx, leave := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := s.Acquire(ctx, "h1", "c_1", s.shared); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		synctest.Wait()
		wg.Go(func() {
			l, err := s.Acquire(t.Context(), "h1", "c_2", s.shared)
			if err != nil {
				t.Error(err)
				return
			}
			s.release(l)
		})
		synctest.Wait()
		leave()
		synctest.Wait()
		close(release)
		wg.Wait()
		s.want("mint")

		// A lone caller leaves: what comes too late is ended at once.
		release = make(chan struct{})
		ctx, leave = context.WithCancel(t.Context())
		wg.Go(func() {
			if _, err := s.Acquire(ctx, "h1", "c_3", s.perCall); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		synctest.Wait()
		leave()
		wg.Wait()
		close(release)
		synctest.Wait()
		s.want("mint", "mint", "revoke")

		// And a limit for who waits.
		release = make(chan struct{})
		s.refused(s.perCall, credential.ErrUnavailable, creds)
		close(release)
	})
}

func TestRefusals(t *testing.T) {
	answer := func(status int, body string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, creds) {
				return false
			}
			w.WriteHeader(status)
			_, err := io.WriteString(w, body)
			return err == nil
		}
	}
	for name, tc := range map[string]struct {
		role func(*vault.Role)
		hook func(http.ResponseWriter, *http.Request) bool
		spec func(*credential.Spec)
		want error
		says string
	}{
		"too many requests": {hook: answer(429, `{"errors":["request path is rate limited"]}`), want: credential.ErrUnavailable, says: creds},
		"server error":      {hook: answer(500, `{"errors":["1 error occurred:\n\t* dial tcp: refused"]}`), want: credential.ErrUnavailable, says: creds},
		"no JSON":           {hook: answer(502, `<html>bad gateway</html>`), want: credential.ErrUnavailable, says: creds},
		"nonsense":          {hook: answer(200, `<html>hello</html>`), want: credential.ErrUnavailable, says: creds},
		"unknown role":      {hook: answer(400, `{"errors":["unknown role: app"]}`), want: credential.ErrRefused, says: "unknown role"},
		"nothing there":     {hook: answer(404, `{"errors":[]}`), want: credential.ErrRefused, says: "nothing is there"},
		"not allowed":       {hook: answer(403, `{"errors":["permission denied"]}`), want: credential.ErrForbidden, says: creds},
		"no lease":          {role: func(r *vault.Role) { r.Static = true }, want: credential.ErrNoLease, says: creds},
		"too short to mask": {role: func(r *vault.Role) { r.Data = data("username", "app-user", "pin", "12345") }, says: "field pin"},
		"path with a query": {spec: func(s *credential.Spec) { s.Path = "a?b" }, says: "not a path"},
		"path that climbs":  {spec: func(s *credential.Spec) { s.Path = "database/../sys/raw" }, says: "not a path"},
		"no path":           {spec: func(s *credential.Spec) { s.Path = "" }, says: "not a path"},
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, tc.role, func(t *testing.T, s *sim) {
				s.v.Intercept(tc.hook)
				spec := s.perCall
				if tc.spec != nil {
					tc.spec(&spec)
				}
				_, err := s.Acquire(t.Context(), "h1", "c_1", spec)
				if err == nil || tc.want != nil && !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.says) || strings.Contains(err.Error(), "12345") {
					t.Errorf("got %v", err)
				}
				synctest.Wait()
				if got := append(s.Leases(), credential.LeaseInfo{})[1:]; len(got) != 0 {
					t.Errorf("left: %+v", got)
				}
				if slices.Contains(s.actions(), "mint") || s.db.count() != 0 {
					t.Errorf("%v, %d users", s.actions(), s.db.count())
				}
			})
		})
	}
}

func data(pairs ...string) func() map[string]any {
	return func() map[string]any {
		out := map[string]any{"n": 7, "nothing": nil}
		for i := 0; i < len(pairs); i += 2 {
			out[pairs[i]] = pairs[i+1]
		}
		return out
	}
}

func TestUnrecordedIsRevoked(t *testing.T) {
	simulate(t, nil, func(t *testing.T, s *sim) {
		full := errors.New("journal is full")
		s.refuse = func(e credential.Event) error {
			if e.Action == "mint" {
				return full
			}
			return nil
		}
		s.refused(s.perCall, full, "record")
		synctest.Wait()
		if n := s.db.count(); n != 0 {
			t.Errorf("%d users are not on record", n)
		}
	})
}

// A lease is gone when Release returns because Vault was asked to wait for it.
func TestRevokedInStep(t *testing.T) {
	simulate(t, nil, func(t *testing.T, s *sim) {
		var asked []string
		s.v.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, "sys/leases/revoke") {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				r.Body = io.NopCloser(strings.NewReader(string(body)))
				asked = append(asked, string(body))
			}
			return false
		})
		l, _, _ := s.acquire("h1", s.perCall)
		s.release(l)
		if len(asked) != 1 || !strings.Contains(asked[0], `"sync":true`) {
			t.Error(asked)
		}
	})
}

// After a power cut only what was synced is sure to be there: the accessor of
// the run. It must do.
func TestPowerCut(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := prepare(t, dir, nil)
		s.open()
		dead := s.Minter
		_, user, password := s.acquire("h1", s.shared)
		lost, err := filepath.Glob(filepath.Join(dir, "lease-*"))
		if err != nil || len(lost) != 1 {
			t.Fatal(lost, err)
		}
		if err := os.Remove(lost[0]); err != nil {
			t.Fatal(err)
		}
		s.open()
		s.works(user, password, false)
		s.close()
		if err := dead.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// What ends while it is being minted is listed until it is gone: whoever ended
// it must not take it for revoked before.
func TestEndedWhileMintedIsListed(t *testing.T) {
	simulate(t, nil, func(t *testing.T, s *sim) {
		s.db.broken(errors.New("role owns objects"))
		s.bench.mu.Lock()
		s.refuse = func(e credential.Event) error {
			if e.Action != "mint" {
				return nil
			}
			s.EndNow(t.Context(), func(credential.LeaseInfo) bool { return true })
			if l := s.Leases(); len(l) != 1 || !l[0].Ending || l[0].Failed {
				t.Errorf("while it is minted: %+v", l)
			}
			return nil
		}
		s.bench.mu.Unlock()
		if _, err := s.Acquire(t.Context(), "h1", "c_1", s.perCall); !errors.Is(err, credential.ErrEnded) {
			t.Errorf("got %v", err)
		}
		synctest.Wait()
		if l := s.Leases(); len(l) != 1 || !l[0].Failed {
			t.Errorf("when to revoke it failed: %+v", l)
		}
		s.db.broken(nil)
		pass(time.Minute)
		if l := s.Leases(); len(l) != 0 {
			t.Errorf("in the end: %+v", l)
		}
	})
}

// The database refuses to drop the user, so Vault cannot end the lease.
func TestRevocationIsRepeated(t *testing.T) {
	simulate(t, nil, func(t *testing.T, s *sim) {
		l, user, password := s.acquire("h1", s.perCall)
		s.db.broken(errors.New("role owns objects"))
		if err := s.Release(t.Context(), l); err == nil {
			t.Error("released, but the user is there")
		}
		pass(time.Minute)
		s.want("mint", "revoke-failed")
		s.db.broken(nil)
		pass(time.Minute)
		s.works(user, password, false)
		s.want("mint", "revoke-failed", "revoke")
	})
}

// Closed during an outage: the next start ends what is left before it is ready.
func TestLeftToTheNextStart(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := prepare(t, dir, nil)
		s.open()
		_, user, password := s.acquire("h1", s.shared)
		s.v.Seal(true)
		if err := s.Close(t.Context()); !errors.Is(err, credential.ErrSealed) {
			t.Errorf("close: %v", err)
		}
		go func() {
			time.Sleep(3 * time.Minute)
			s.works(user, password, true)
			s.v.Seal(false)
		}()
		began := time.Now()
		s.open()
		if time.Since(began) < 3*time.Minute {
			t.Error("ready while Vault was sealed")
		}
		if err := s.db.login(t.Context(), user, password); err == nil {
			t.Error("ready, and an earlier run's user can log in")
		}
		s.close()
		if files := left(t, dir); len(files) != 0 {
			t.Errorf("left behind: %v", files)
		}
	})
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := prepare(t, dir, nil)
		bad := s.cfg
		bad.Login = appRole(t, "role-x", "secret-unknown-to-vault")
		if _, err := credential.Open(t.Context(), bad); !errors.Is(err, credential.ErrRefused) || strings.Contains(err.Error(), "secret-unknown") {
			t.Errorf("%v", err)
		}
		bad.Login = credential.Token("hvs.no-such-token")
		if _, err := credential.Open(t.Context(), bad); !errors.Is(err, credential.ErrForbidden) || strings.Contains(err.Error(), "no-such") {
			t.Errorf("%v", err)
		}
		bad = s.cfg
		bad.Mask = nil
		if _, err := credential.Open(t.Context(), bad); err == nil {
			t.Error("opened without a mask")
		}
		// Away for good: Open ends with its context, and says why.
		s.v.Seal(true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := credential.Open(ctx, s.cfg); !errors.Is(err, credential.ErrSealed) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		// A disk that keeps nothing: no token may be left that nobody wrote down.
		s.v.Seal(false)
		bad = s.cfg
		bad.Dir = filepath.Join(dir, "file")
		if err := os.WriteFile(bad.Dir, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := credential.Open(t.Context(), bad); err == nil {
			t.Error("opened on a file")
		}
		if slices.Contains(s.v.Tokens(), "token-countersign-run") {
			t.Errorf("%v", s.v.Tokens())
		}
	})
}

// The run's token can do what its login can, and no more.
func TestPoliciesAreNotWidened(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := prepare(t, dir, nil)
		var created []string
		s.v.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, "auth/token/create") {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				r.Body = io.NopCloser(strings.NewReader(string(body)))
				created = append(created, string(body))
			}
			return false
		})
		s.cfg.Login = credential.Token(s.v.Root) // has no default policy
		s.open()
		l, _, _ := s.acquire("h1", s.perCall)
		s.release(l)
		s.close()
		if len(created) != 2 {
			t.Fatalf("%v", created)
		}
		for _, body := range created {
			if !strings.Contains(body, `"no_default_policy":true`) || strings.Contains(body, "no_parent") || strings.Contains(body, "policies\":[") {
				t.Error(body)
			}
		}
		if !strings.Contains(created[0], `"display_name":"countersign-run"`) || !strings.Contains(created[1], `"explicit_max_ttl":"600s"`) {
			t.Error(created)
		}
		if got := s.v.Tokens(); len(got) != 0 {
			t.Errorf("left: %v", got) // and the operator's own token is not revoked
		}
	})
}

func TestRender(t *testing.T) {
	const password = `p&ss "w/rd" ü%`
	simulate(t, func(r *vault.Role) { r.Data = data("username", "a:pp", "password", password) }, func(t *testing.T, s *sim) {
		l, _, _ := s.acquire("h1", s.perCall)
		if out, err := l.Render("{{basic username password}}"); err == nil || !strings.Contains(err.Error(), "colon") {
			t.Errorf("%q, %v", out, err)
		}
		s.release(l)
	})
	simulate(t, func(r *vault.Role) { r.Data = data("username", "app", "password", password, "empty", "") }, func(t *testing.T, s *sim) {
		l, _, _ := s.acquire("h1", s.perCall)
		for tmpl, want := range map[string]string{
			"":                         "",
			"no field":                 "no field",
			"{{password}}":             password,
			"Bearer {{ password }}":    "Bearer " + password,
			"{{password|url}}":         "p%26ss%20%22w%2Frd%22%20%C3%BC%25",
			"{{ password | json }}":    `"p\u0026ss \"w/rd\" ü%"`,
			"{{username}}{{username}}": "appapp",
			"{{empty}}":                "",
			"a}}b":                     "a}}b",
			"postgres://{{username|url}}:{{password|url}}@db/x": "postgres://app:p%26ss%20%22w%2Frd%22%20%C3%BC%25@db/x",
			"{{basic username password}}":                       "Basic YXBwOnAmc3MgIncvcmQiIMO8JQ==",
		} {
			for range 2 { // the second comes from memory
				got, err := l.Render(tmpl)
				if err != nil || got != want {
					t.Errorf("%s: %q, %v", tmpl, got, err)
				}
				if !strings.Contains(tmpl, "password") {
					continue
				}
				masked, _ := s.mask.Text("it said " + got)
				if strings.Contains(masked, want) {
					t.Errorf("%s: not masked: %q", tmpl, masked)
				}
			}
		}
		if masked, _ := s.mask.Text("pair YXBwOnAmc3MgIncvcmQiIMO8JQ== end"); strings.Contains(masked, "YXBwO") {
			t.Errorf("the pair is masked in part only: %q", masked)
		}
		for _, bad := range []string{"{{nobody}}", "{{password", "{{}}", "{{password|base64}}", "{{basic username}}", "{{basic username nobody}}", "{{basic nobody password}}", "{{n}}", "{{nothing}}", "{{password|url|json}}", "{{{password}}}"} {
			if out, err := l.Render(bad); err == nil || strings.Contains(err.Error(), password) {
				t.Errorf("%s: %q, %v", bad, out, err)
			}
		}
		s.release(l)
	})
}

func FuzzRender(f *testing.F) {
	f.Add("{{password}} {{password|url}} {{basic username password}}")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, tmpl string) {
		synctest.Test(t, func(t *testing.T) {
			s := prepare(t, dir, nil)
			s.open()
			l, _, password := s.acquire("h1", s.perCall)
			out, err := l.Render(tmpl)
			if err != nil && strings.Contains(err.Error(), password) {
				t.Error("an error holds the password")
			}
			if err == nil && strings.Contains(out, "{{") && !strings.Contains(tmpl, "{{") {
				t.Errorf("%q made %q", tmpl, out)
			}
			s.close()
		})
	})
}
