package credential_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"countersign/enforcer/credential"
	"countersign/fixtures/mishap"
	"countersign/fixtures/peer"
)

// scene is a real Vault with a real PostgreSQL, behind a network that fails as
// it is told.
type scene struct {
	t      *testing.T
	vault  *peer.Vault
	pg     *peer.Postgres
	net    *mishap.Proxy
	world  world
	tokens int // in Vault, before anything of ours
}

func newScene(t *testing.T, pg *peer.Postgres) *scene {
	t.Helper()
	v := peer.StartVault(t)
	peer.Database(t, v, pg)
	role, secret := v.AppRole(t, `
		path "database/creds/app-ro" { capabilities = ["read"] }
		path "auth/token/create" { capabilities = ["update"] }
		path "auth/token/revoke-accessor" { capabilities = ["update"] }
		path "sys/leases/revoke" { capabilities = ["update"] }`)
	p, err := mishap.Start(v.Address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	s := &scene{t: t, vault: v, pg: pg, net: p}
	s.world = world{
		client: func(t *testing.T) *api.Client {
			c := v.Client(t, "")
			if err := c.SetAddress(p.URL); err != nil {
				t.Fatal(err)
			}
			return c
		},
		login: func(t *testing.T) api.AuthMethod { return appRole(t, role, secret) },
		path:  "database/creds/app-ro",
	}
	s.tokens = s.accessors()
	return s
}

const readPath = "/v1/database/creds/app-ro"

func perCall(name string) credential.Spec {
	return credential.Spec{Name: name, Path: "database/creds/app-ro", PerCall: true, TTL: 5 * time.Minute}
}

// list is what Vault has under a path, without the network that fails.
func (s *scene) list(path string) []any {
	s.t.Helper()
	got, err := s.vault.Client(s.t, "").Logical().ListWithContext(s.t.Context(), path)
	if err != nil {
		s.t.Fatal(err)
	}
	if got == nil {
		return nil
	}
	keys, _ := got.Data["keys"].([]any)
	return keys
}

func (s *scene) accessors() int { return len(s.list("auth/token/accessors")) }
func (s *scene) leases() []any  { return s.list("sys/leases/lookup/database/creds/app-ro") }
func (s *scene) users() (us []string) {
	return s.pg.Strings(s.t, "SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'v-%'")
}

// await polls for what Vault does in its own time.
func (s *scene) await(what string, ok func() bool) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute) // a hang, no margin
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.t.Fatalf("in vain: %s; leases %v, users %v", what, s.leases(), s.users())
		}
	}
}

// clean waits until Vault and PostgreSQL hold nothing that was minted.
func (s *scene) clean() {
	s.t.Helper()
	s.await("no lease and no user", func() bool { return len(s.leases()) == 0 && len(s.users()) == 0 })
}

// asked waits until a fault was met.
func (s *scene) asked(path string, n int) {
	s.t.Helper()
	hang, cancel := context.WithTimeout(s.t.Context(), 2*time.Minute)
	defer cancel()
	if err := s.net.Met(hang.Done(), path, n); err != nil {
		s.t.Fatal(err)
	}
}

// over closes, and wants nothing of ours left.
func (s *scene) over(b *bench) {
	s.t.Helper()
	b.close()
	s.clean()
	s.await("no token of ours", func() bool { return s.accessors() == s.tokens })
	if files := left(s.t, b.dir); len(files) != 0 {
		s.t.Errorf("left behind: %v", files)
	}
}

// The network and Vault fail while a real Vault mints and revokes users of a
// real PostgreSQL.
func TestFaults(t *testing.T) {
	pg := peer.StartPostgres(t)
	main := newScene(t, pg)
	s := main
	at := func(t *testing.T) *bench {
		t.Helper()
		s.net.Clear()
		s.t = t
		return open(t, s.world, t.TempDir())
	}

	t.Run("refused mints", func(t *testing.T) {
		b := at(t)
		const path = readPath
		for name, tt := range map[string]struct {
			fault mishap.Fault
			want  error
			says  string
		}{
			"403":                      {mishap.Fault{Status: http.StatusForbidden, Body: `{"errors":["1 error occurred:\n\t* permission denied\n\n"]}`}, credential.ErrForbidden, "permission denied"},
			"429":                      {mishap.Fault{Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"1"}}, Body: `{"errors":["request path \"database/creds/app-ro\": rate limit quota exceeded"]}`}, credential.ErrUnavailable, "rate limit quota exceeded"},
			"500":                      {mishap.Fault{Status: http.StatusInternalServerError, Body: `{"errors":["internal error"]}`}, credential.ErrUnavailable, "(500): internal error"},
			"502":                      {mishap.Fault{Status: http.StatusBadGateway, Body: `<html>hvs.secretlooking</html>`}, credential.ErrUnavailable, "(502)"},
			"503":                      {mishap.Fault{Status: http.StatusServiceUnavailable, Body: `{"errors":["Vault is sealed"]}`}, credential.ErrSealed, "the vault is sealed"},
			"a connection that breaks": {mishap.Fault{CutBefore: true}, credential.ErrUnavailable, ""},
		} {
			for _, at := range []string{path, "/v1/auth/token/create"} { // for the secret, and for the token above it
				tt.fault.Path = at
				s.net.Set(tt.fault)
				l, err := b.Acquire(t.Context(), "h1", "c_1", perCall("app"))
				if l != nil || !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
					t.Errorf("%s at %s: %v", name, at, err)
				}
				s.asked(at, 1)
				if err := s.net.Met(closed(), at, 2); err == nil {
					t.Errorf("%s at %s: asked twice: each is a mint", name, at)
				}
			}
		}
		s.net.Clear()
		b.want() // nothing was minted, and all tokens were ended
		l, user, password := b.acquire("h1", perCall("app"))
		if err := pg.Login(t.Context(), user, password); err != nil {
			t.Error(err)
		}
		b.release(l)
		s.over(b)
	})

	t.Run("sealed for real", func(t *testing.T) {
		b := at(t)
		shared := perCall("app")
		shared.PerCall = false
		inFlight, user, password := b.acquire("h1", shared)
		s.vault.Seal(t)
		if _, err := b.Acquire(t.Context(), "h2", "c_2", shared); !errors.Is(err, credential.ErrSealed) {
			t.Errorf("a mint: %v", err)
		}
		// A call that has its credential goes on.
		if again, err := b.Acquire(t.Context(), "h1", "c_3", shared); err != nil || again.Key != inFlight.Key {
			t.Errorf("the holder's: %+v %v", again, err)
		} else {
			b.release(again)
		}
		if err := pg.Login(t.Context(), user, password); err != nil {
			t.Errorf("a call in flight lost its user: %v", err)
		}
		b.release(inFlight)
		b.EndHolder(t.Context(), "h1")
		b.want("mint", "revoke-failed")
		if live := b.Leases(); len(live) != 1 || !live[0].Failed || !live[0].Ending {
			t.Errorf("listed: %+v", live)
		}
		s.vault.Unseal(t)
		b.await("revoke")
		b.want("mint", "revoke-failed", "revoke")
		s.over(b)
	})

	t.Run("the answer to a mint is lost", func(t *testing.T) {
		b := at(t)
		s.net.Set(mishap.Fault{Path: readPath, CutAfter: true, Times: 1})
		if _, err := b.Acquire(t.Context(), "h1", "c_1", perCall("app")); !errors.Is(err, credential.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		s.asked(readPath, 1) // it was made
		s.clean()            // and hung under a token that is gone
		b.want()
		s.over(b)
	})

	t.Run("the answer to a mint is lost, and so is what would end it", func(t *testing.T) {
		b := at(t)
		const revoke = "/v1/auth/token/revoke-accessor"
		s.net.Set(mishap.Fault{Path: readPath, CutAfter: true, Times: 1}, mishap.Fault{Path: revoke, CutBefore: true, Times: 1})
		if _, err := b.Acquire(t.Context(), "h1", "c_1", perCall("app")); !errors.Is(err, credential.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		s.asked(revoke, 1)
		b.await("revoke") // repeated
		s.clean()
		b.want("revoke-failed", "revoke")
		s.over(b)
	})

	t.Run("the answer to a token is lost", func(t *testing.T) {
		b := at(t)
		before := s.accessors()
		s.net.Set(mishap.Fault{Path: "/v1/auth/token/create", CutAfter: true, Times: 1})
		if _, err := b.Acquire(t.Context(), "h1", "c_1", perCall("app")); !errors.Is(err, credential.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		if n := s.accessors(); n != before+1 {
			t.Errorf("%d tokens, and there were %d: the test proves nothing", n, before)
		}
		s.over(b) // it ends with the run's
	})

	t.Run("the answer to a mint is lost, and we die", func(t *testing.T) {
		dead := at(t)
		s.net.Set(mishap.Fault{Path: readPath, CutAfter: true, Times: 1}, mishap.Fault{Path: "/v1/auth/token/revoke-accessor", CutBefore: true})
		if _, err := dead.Acquire(t.Context(), "h1", "c_1", perCall("app")); !errors.Is(err, credential.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		s.asked("/v1/auth/token/revoke-accessor", 1)
		if len(s.users()) != 1 || len(s.leases()) != 1 {
			t.Fatalf("users %v, leases %v: the test proves nothing", s.users(), s.leases())
		}
		s.net.Clear()
		b := open(t, s.world, dead.dir) // nobody closed the first
		s.clean()
		if err := dead.Close(t.Context()); err != nil {
			t.Error(err)
		}
		s.over(b)
	})

	for name, fault := range map[string]mishap.Fault{
		"cut before": {CutBefore: true}, "cut after": {CutAfter: true}, "429": {Status: http.StatusTooManyRequests, Body: `{"errors":[]}`},
		"503": {Status: http.StatusServiceUnavailable}, "403": {Status: http.StatusForbidden, Body: `{"errors":["permission denied"]}`},
	} {
		t.Run("revocation, "+name, func(t *testing.T) {
			b := at(t)
			l, user, password := b.acquire("h1", perCall("app"))
			faults := []mishap.Fault{fault, fault}
			faults[0].Path, faults[1].Path = "/v1/sys/leases/revoke", "/v1/auth/token/revoke-accessor"
			faults[0].Times, faults[1].Times = 1, 1
			if name == "cut after" { // the pauses grow
				faults[0].Times, faults[1].Times = 2, 2
			}
			s.net.Set(faults...)
			if err := b.Release(t.Context(), l); err == nil {
				t.Error("released, though the answer was lost")
			}
			s.asked("/v1/auth/token/revoke-accessor", faults[1].Times)
			b.await("revoke")
			if err := pg.Login(t.Context(), user, password); err == nil {
				t.Error("the user logs in after its revocation")
			}
			b.want("mint", "revoke-failed", "revoke")
			s.over(b)
		})
	}

	t.Run("a slow Vault", func(t *testing.T) {
		b := at(t)
		held := make(chan struct{})
		s.net.Set(mishap.Fault{Path: readPath, Held: held, Times: 1})
		ctx, leave := context.WithCancel(t.Context())
		gone := make(chan error)
		go func() {
			_, err := b.Acquire(ctx, "h1", "c_1", perCall("app"))
			gone <- err
		}()
		s.asked(readPath, 1)
		// Others do not wait for it.
		l, _, _ := b.acquire("h2", perCall("app"))
		b.release(l)
		leave()
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		close(held) // what nobody comes for is ended
		s.await("the mint's end", func() bool { return slices.Equal(b.actions(), []string{"mint", "revoke", "mint", "revoke"}) })
		s.over(b)
	})

	t.Run("one slow mint serves all that wait", func(t *testing.T) {
		b := at(t)
		held := make(chan struct{})
		s.net.Set(mishap.Fault{Path: readPath, Held: held})
		shared := perCall("app")
		shared.PerCall = false
		var calls sync.WaitGroup
		keys := make([]string, 8)
		for i := range keys {
			calls.Go(func() {
				l, err := b.Acquire(t.Context(), "h1", fmt.Sprint("c_", i), shared)
				if err != nil {
					t.Error(err)
					return
				}
				keys[i] = l.Key
				b.release(l)
			})
		}
		s.asked(readPath, 1)
		close(held)
		calls.Wait()
		if keys = slices.Compact(keys); len(keys) != 1 {
			t.Errorf("leases: %v", keys)
		}
		b.want("mint")
		s.over(b)
	})
}

// closed is a channel that is.
func closed() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}
