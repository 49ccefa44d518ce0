package credential_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
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
	"countersign/fixtures/peer"
	"countersign/fixtures/vault"
)

// world is a Vault with a database behind it, and what a test does to it.
type world struct {
	client func(t *testing.T) *api.Client // without a token
	login  func(t *testing.T) api.AuthMethod
	path   string                                                     // mints a user
	denied string                                                     // exists, and the login may not read it
	works  func(ctx context.Context, username, password string) error // logs in to the database
	seal   func(t *testing.T, sealed bool)
	kill   func()
}

// The suite runs against a real Vault core with a real PostgreSQL, and against
// the stand-in that the demo uses: what they agree on is what we rely on.
func TestMinter(t *testing.T) {
	t.Run("stand-in", func(t *testing.T) { suite(t, standIn) })
	t.Run("real Vault and PostgreSQL", func(t *testing.T) {
		pg := peer.StartPostgres(t)
		suite(t, func(t *testing.T) world { return realVault(t, pg) })
	})
}

func realVault(t *testing.T, pg *peer.Postgres) world {
	v := peer.StartVault(t)
	peer.Database(t, v, pg)
	role, secret := v.AppRole(t, `
		path "database/creds/app-ro" { capabilities = ["read"] }
		path "auth/token/create" { capabilities = ["update"] }
		path "auth/token/revoke-accessor" { capabilities = ["update"] }
		path "sys/leases/revoke" { capabilities = ["update"] }`)
	return world{
		client: func(t *testing.T) *api.Client { return v.Client(t, "") },
		login:  func(t *testing.T) api.AuthMethod { return appRole(t, role, secret) },
		path:   "database/creds/app-ro", denied: "database/creds/app-rw",
		works: pg.Login,
		seal: func(t *testing.T, sealed bool) {
			if sealed {
				v.Seal(t)
			} else {
				v.Unseal(t)
			}
		},
		kill: v.Kill,
	}
}

func standIn(t *testing.T) world {
	v := vault.New(nil)
	users := &database{users: map[string]string{}}
	v.Mint("database/creds/app-ro", users.role())
	v.Mint("database/creds/app-rw", users.role())
	v.Policy("enforcer", "database/creds/app-ro", "auth/token/create", "auth/token/revoke-accessor", "sys/leases/revoke")
	role, secret := v.AppRole("enforcer", time.Hour, 24*time.Hour)
	url, stop, err := v.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	end := sync.OnceFunc(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(end)
	return world{
		client: func(t *testing.T) *api.Client {
			cfg := api.DefaultConfig()
			cfg.Address = url
			c, err := api.NewClient(cfg)
			if err != nil {
				t.Fatal(err)
			}
			return c
		},
		login: func(t *testing.T) api.AuthMethod { return appRole(t, role, secret) },
		path:  "database/creds/app-ro", denied: "database/creds/app-rw",
		works: users.login,
		seal:  func(_ *testing.T, sealed bool) { v.Seal(sealed) },
		kill:  end,
	}
}

func appRole(t *testing.T, role, secret string) api.AuthMethod {
	t.Helper()
	m, err := credential.AppRole("approle", role, secret)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// database stands in for one that honours Vault's users.
type database struct {
	mu    sync.Mutex
	users map[string]string
	fail  error // of Drop
}

func (d *database) role() vault.Role {
	return vault.Role{
		TTL: 10 * time.Minute, MaxTTL: time.Hour,
		Create: func(username, password string) error {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.users[username] = password
			return nil
		},
		Drop: func(username string) error {
			d.mu.Lock()
			defer d.mu.Unlock()
			if d.fail == nil {
				delete(d.users, username)
			}
			return d.fail
		},
	}
}

func (d *database) login(_ context.Context, username, password string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if known, ok := d.users[username]; !ok || known != password {
		return errors.New("password authentication failed")
	}
	return nil
}

func (d *database) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.users)
}

func (d *database) broken(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail = err
}

// bench is a Minter with all that watches it.
type bench struct {
	*credential.Minter
	t    *testing.T
	dir  string
	mask *mask.Mask
	logs *buffer

	mu     sync.Mutex
	events []credential.Event
	came   chan struct{} // closed and replaced with each event
	minted []string      // passwords, none of which may be told
	refuse func(e credential.Event) error
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (b *bench) record(_ context.Context, e credential.Event) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refuse != nil {
		if err := b.refuse(e); err != nil {
			return err
		}
	}
	b.events = append(b.events, e)
	close(b.came)
	b.came = make(chan struct{})
	return nil
}

// actions lists what was recorded so far.
func (b *bench) actions() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []string
	for _, e := range b.events {
		out = append(out, e.Action)
	}
	return out
}

func (b *bench) want(actions ...string) {
	b.t.Helper()
	if got := b.actions(); !slices.Equal(got, actions) {
		b.t.Errorf("recorded %v, want %v", got, actions)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.events {
		if (e.Err != "") != (e.Action == "revoke-failed") {
			b.t.Errorf("%s: %q", e.Action, e.Err)
		}
	}
}

// await returns when the newest event is of that kind.
func (b *bench) await(action string) {
	b.t.Helper()
	for {
		b.mu.Lock()
		came := b.came
		ok := len(b.events) > 0 && b.events[len(b.events)-1].Action == action
		b.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-came:
		case <-b.t.Context().Done():
			b.t.Fatalf("no %s came; recorded: %v", action, b.actions())
		}
	}
}

// count returns when there are n events of that kind.
func (b *bench) count(action string, n int) {
	b.t.Helper()
	for {
		b.mu.Lock()
		came, had := b.came, 0
		for _, e := range b.events {
			if e.Action == action {
				had++
			}
		}
		b.mu.Unlock()
		if had >= n {
			return
		}
		select {
		case <-came:
		case <-b.t.Context().Done():
			b.t.Fatalf("only %d of %d %s came", had, n, action)
		}
	}
}

func newBench(t *testing.T, dir string) *bench {
	return &bench{t: t, dir: dir, mask: mask.New(mask.Options{}), logs: &buffer{}, came: make(chan struct{})}
}

func (b *bench) config(client *api.Client, login api.AuthMethod) credential.Config {
	return credential.Config{Client: client, Login: login, Dir: b.dir, Mask: b.mask, Record: b.record,
		Log: slog.New(slog.NewTextHandler(b.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))}
}

func open(t *testing.T, w world, dir string) *bench {
	t.Helper()
	b := newBench(t, dir)
	m, err := credential.Open(t.Context(), b.config(w.client(t), w.login(t)))
	if err != nil {
		t.Fatal(err)
	}
	b.Minter = m
	return b
}

func (b *bench) acquire(holder string, s credential.Spec) (l *credential.Lease, username, password string) {
	b.t.Helper()
	l, err := b.Acquire(b.t.Context(), holder, "c_1", s)
	if err != nil {
		b.t.Fatal(err)
	}
	username, password = b.user(l)
	return l, username, password
}

// user is whom a lease is for; neither the log nor the record may tell the password.
func (b *bench) user(l *credential.Lease) (name, password string) {
	b.t.Helper()
	name, password = b.render(l, "{{username}}"), b.render(l, "{{password}}")
	b.mu.Lock()
	defer b.mu.Unlock()
	b.minted = append(b.minted, password)
	return name, password
}

func (b *bench) render(l *credential.Lease, tmpl string) string {
	b.t.Helper()
	out, err := l.Render(tmpl)
	if err != nil {
		b.t.Fatal(err)
	}
	return out
}

func (b *bench) release(l *credential.Lease) {
	b.t.Helper()
	if err := b.Release(b.t.Context(), l); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) close() {
	b.t.Helper()
	if err := b.Close(b.t.Context()); err != nil {
		b.t.Error(err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	told := b.logs.String() + fmt.Sprintf("%+v", b.events)
	for _, password := range append(b.minted, "hvs.") { // what Vault's tokens begin with
		if strings.Contains(told, password) {
			b.t.Error("the log or the record holds a secret")
		}
	}
}

func left(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func suite(t *testing.T, build func(*testing.T) world) {
	w := build(t)
	perCall := credential.Spec{Name: "app", Path: w.path, PerCall: true, TTL: 5 * time.Minute}
	shared := credential.Spec{Name: "app", Path: w.path, TTL: 5 * time.Minute}
	works := func(t *testing.T, user, password string, want bool) {
		t.Helper()
		if err := w.works(t.Context(), user, password); (err == nil) != want {
			t.Errorf("log-in: %v, want it to work: %v", err, want)
		}
	}

	t.Run("per call", func(t *testing.T) {
		b := open(t, w, t.TempDir())
		l, user, password := b.acquire("h1", perCall)
		works(t, user, password, true)
		if l.Username != user || l.Key == "" || !l.Expires.After(time.Now()) || l.Expires.After(time.Now().Add(perCall.TTL)) {
			t.Errorf("%+v", l)
		}
		if masked, _ := b.mask.Text("tool said: " + password); strings.Contains(masked, password) {
			t.Error("the password is not masked")
		}
		if masked, _ := b.mask.Text("user " + user); !strings.Contains(masked, user) {
			t.Error("the user's name is masked")
		}
		other, _, _ := b.acquire("h1", perCall)
		if other.Key == l.Key {
			t.Error("two calls share one lease")
		}
		b.release(l)
		works(t, user, password, false) // at once: the revocation was synchronous
		b.release(l)
		b.release(other)
		b.want("mint", "mint", "revoke", "revoke")
		b.close()
		b.want("mint", "mint", "revoke", "revoke")
	})

	t.Run("holder", func(t *testing.T) {
		b := open(t, w, t.TempDir())
		defer b.close()
		leases := make([]*credential.Lease, 16)
		var wg sync.WaitGroup
		for i := range leases {
			wg.Go(func() {
				l, err := b.Acquire(t.Context(), "h1", "c_1", shared)
				if err != nil {
					t.Error(err)
				}
				leases[i] = l
			})
		}
		wg.Wait()
		b.want("mint")
		user, password := b.render(leases[0], "{{username}}"), b.render(leases[0], "{{password}}")
		for _, l := range leases {
			if l.Key != leases[0].Key {
				t.Error("one holder got two leases")
			}
		}
		other, _, _ := b.acquire("h2", shared)
		if other.Key == leases[0].Key {
			t.Error("two holders share one lease")
		}
		b.release(other)
		for _, l := range leases[1:] {
			b.release(l)
		}
		b.EndHolder(t.Context(), "h1")
		works(t, user, password, true) // a call is in flight
		fresh, _, _ := b.acquire("h1", shared)
		if fresh.Key == leases[0].Key {
			t.Error("an ended lease was handed out again")
		}
		b.release(leases[0])
		works(t, user, password, false)
		b.release(fresh)
		b.EndHolder(t.Context(), "h2")
		if got := b.Leases(); len(got) != 1 || got[0].Key != fresh.Key || got[0].Uses != 0 {
			t.Errorf("%+v", got)
		}
	})

	t.Run("at once", func(t *testing.T) {
		b := open(t, w, t.TempDir())
		defer b.close()
		l1, u1, p1 := b.acquire("h1", shared) // both with their calls in flight
		l2, u2, p2 := b.acquire("h1", perCall)
		spared, u3, p3 := b.acquire("h2", shared)
		ofH1 := func(l credential.LeaseInfo) bool { return l.Holder == "h1" && l.Call == "c_1" }
		b.EndNow(t.Context(), ofH1)
		works(t, u1, p1, false)
		works(t, u2, p2, false)
		works(t, u3, p3, true)
		b.release(l1)
		b.release(l2)
		b.want("mint", "mint", "mint", "revoke", "revoke")
		if fresh, _, _ := b.acquire("h1", shared); fresh.Key == l1.Key {
			t.Error("an ended lease was handed out again")
		}
		// One that is just being minted is nobody's, and ends.
		b.mu.Lock()
		b.refuse = func(e credential.Event) error {
			if e.Action == "mint" {
				b.EndNow(t.Context(), func(l credential.LeaseInfo) bool { return l.Key == e.Key })
			}
			return nil
		}
		b.mu.Unlock()
		if _, err := b.Acquire(t.Context(), "h3", "c_1", shared); !errors.Is(err, credential.ErrEnded) {
			t.Errorf("got %v", err)
		}
		b.await("revoke")
		for _, l := range b.Leases() {
			if l.Holder == "h3" {
				t.Errorf("left: %+v", l)
			}
		}
		b.release(spared)
	})

	t.Run("close", func(t *testing.T) {
		dir := t.TempDir()
		b := open(t, w, dir)
		_, u1, p1 := b.acquire("h1", shared) // never released: its call is in flight
		_, u2, p2 := b.acquire("h1", perCall)
		b.close()
		works(t, u1, p1, false)
		works(t, u2, p2, false)
		if files := left(t, dir); len(files) != 0 {
			t.Errorf("left behind: %v", files)
		}
		if _, err := b.Acquire(t.Context(), "h1", "c_1", shared); !errors.Is(err, credential.ErrClosed) {
			t.Error(err)
		}
		b.close()
	})

	t.Run("crash", func(t *testing.T) {
		dir := t.TempDir()
		dead := open(t, w, dir)
		_, u1, p1 := dead.acquire("h1", shared)
		_, u2, p2 := dead.acquire("h1", perCall)
		works(t, u1, p1, true)

		b := open(t, w, dir) // nobody closed the first
		works(t, u1, p1, false)
		works(t, u2, p2, false)
		b.want("recover", "recover", "recover", "recover") // the run's token, its login and two leases
		if _, err := dead.Acquire(t.Context(), "h2", "c_1", perCall); err != nil {
			t.Error(err) // it is not dead after all, and gets a token of its own again
		}
		b.close()
		dead.close()
	})

	t.Run("cap", func(t *testing.T) {
		b := open(t, w, t.TempDir())
		defer b.close()
		brief := perCall
		brief.TTL = 4 * time.Second
		l, err := b.Acquire(t.Context(), "h1", "c_1", brief)
		for err != nil && brief.TTL < time.Minute { // a busy machine may take longer to mint
			t.Log(err)
			brief.TTL *= 4
			l, err = b.Acquire(t.Context(), "h1", "c_1", brief)
		}
		if err != nil {
			t.Fatal(err)
		}
		user, password := b.user(l)
		b.await("revoke") // though nobody released it
		works(t, user, password, false)
	})

	t.Run("forbidden", func(t *testing.T) {
		b := open(t, w, t.TempDir())
		defer b.close()
		for path, want := range map[string]error{w.denied: credential.ErrForbidden, "database/creds/nobody-made-it": credential.ErrForbidden} {
			s := perCall
			s.Path = path
			if _, err := b.Acquire(t.Context(), "h1", "c_1", s); !errors.Is(err, want) || !strings.Contains(err.Error(), path) {
				t.Errorf("%s: %v", path, err)
			}
		}
		b.want()
	})

	t.Run("sealed", func(t *testing.T) {
		b := open(t, w, t.TempDir())
		l, user, password := b.acquire("h1", perCall)
		w.seal(t, true)
		if _, err := b.Acquire(t.Context(), "h2", "c_1", perCall); !errors.Is(err, credential.ErrSealed) {
			t.Error(err)
		}
		if err := b.Release(t.Context(), l); !errors.Is(err, credential.ErrSealed) {
			t.Error(err)
		}
		b.want("mint", "revoke-failed")
		w.seal(t, false)
		b.await("revoke")
		works(t, user, password, false)
		b.close()
	})

	// Last: nobody answers any more.
	t.Run("away", func(t *testing.T) {
		dir := t.TempDir()
		b := open(t, w, dir)
		l, _, password := b.acquire("h1", perCall)
		w.kill()
		if _, err := b.Acquire(t.Context(), "h2", "c_1", perCall); !errors.Is(err, credential.ErrUnavailable) {
			t.Error(err)
		}
		if err := b.Release(t.Context(), l); !errors.Is(err, credential.ErrUnavailable) {
			t.Error(err)
		}
		err := b.Close(t.Context())
		if err == nil {
			t.Error("closed, with a lease left and Vault away")
		}
		if files := left(t, dir); len(files) != 3 {
			t.Errorf("the next start finds %v", files)
		}
		for _, f := range left(t, dir) {
			if info, err := os.Stat(f); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%s: %v, %v", f, info.Mode(), err)
			}
			if data, err := fs.ReadFile(os.DirFS(dir), filepath.Base(f)); err != nil || strings.Contains(string(data), password) {
				t.Errorf("%s: %v", data, err)
			}
		}
		if strings.Contains(b.logs.String(), password) || err != nil && strings.Contains(err.Error(), password) {
			t.Error("a password was logged")
		}
	})
}
