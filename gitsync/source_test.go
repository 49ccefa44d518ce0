package gitsync

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"countersign/fixtures/githost"
)

func sshKey(t testing.TB, principal string) *githost.Key {
	t.Helper()
	k, err := githost.NewKey(rand.Reader, principal)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// world is a policy repository, two people, and a source that trusts Ada.
type world struct {
	t        *testing.T
	repo     *githost.Repo
	ada, eve *githost.Key
	cfg      PolicyConfig
	src      *Source
	now      time.Time
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, ada: sshKey(t, "ada@example.com"), eve: sshKey(t, "eve@example.com"), now: noon.Add(24 * time.Hour)}
	var err error
	if w.repo, err = githost.NewRepo(filepath.Join(t.TempDir(), "policy.git"), noon); err != nil {
		t.Fatal(err)
	}
	w.cfg = PolicyConfig{URL: w.repo.Dir, Ref: "main", Dir: t.TempDir(), Signers: Signers{AllowedSigners: []byte(w.ada.AllowedSigner(""))},
		Now: func() time.Time { return w.now }}
	w.open()
	return w
}

// open starts anew from disk, with the present configuration.
func (w *world) open() {
	w.t.Helper()
	src, err := Policy(w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := src.Close(); err != nil {
			w.t.Error(err)
		}
	})
	w.src = src
}

func (w *world) commit(path, content string, signer githost.Signer) string {
	w.t.Helper()
	h, err := w.repo.Commit(map[string][]byte{path: []byte(content)}, "set "+path, signer)
	if err != nil {
		w.t.Fatal(err)
	}
	return h
}

// take fetches and accepts, and wants the commit.
func (w *world) take(commit string) *Snapshot {
	w.t.Helper()
	s, err := w.src.Fetch(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	if s.Commit != commit {
		w.t.Fatalf("fetched %s, want %s", s.Commit, commit)
	}
	if err := w.src.Accept(s.Commit); err != nil {
		w.t.Fatal(err)
	}
	return s
}

// refused fetches, wants a rejection that says why, and that good stays.
func (w *world) refused(why, good string) {
	w.t.Helper()
	s, err := w.src.Fetch(w.t.Context())
	var r *Rejected
	if !errors.As(err, &r) {
		w.t.Fatalf("got %+v, %v; want a rejection", s, err)
	}
	if !strings.Contains(r.Reason, why) {
		w.t.Errorf("rejected because %q, want %q", r.Reason, why)
	}
	a, err := w.src.Accepted()
	if good == "" {
		if !errors.Is(err, ErrNone) {
			w.t.Errorf("accepted: %v, %v; want none", a, err)
		}
		return
	}
	if err != nil {
		w.t.Fatal(err)
	}
	if a.Commit != good {
		w.t.Errorf("in force is %s, want %s", a.Commit, good)
	}
}

func (w *world) force(ref, commit string) {
	w.t.Helper()
	if err := w.repo.SetRef(ref, commit); err != nil {
		w.t.Fatal(err)
	}
}

func TestSnapshot(t *testing.T) {
	w := newWorld(t)
	w.commit("rules/a.yaml", "- id: a\n", nil) // before the first start nobody promised anything
	tip := w.commit("countersign.yaml", "version: 1\n", w.ada)
	s := w.take(tip)
	if s.Signer != "ada@example.com" || s.Subject != "set countersign.yaml" || s.Author != "Ada <ada@example.com>" ||
		!s.When.Equal(noon.Add(time.Minute)) || !s.Confirmed.Equal(w.now) || s.Reset {
		t.Errorf("snapshot: %+v", s)
	}
	if err := fstest.TestFS(s.FS, "countersign.yaml", "rules/a.yaml"); err != nil {
		t.Error(err)
	}
	if b, err := fs.ReadFile(s.FS, "rules/a.yaml"); err != nil || string(b) != "- id: a\n" {
		t.Errorf("%q, %v", b, err)
	}

	w.now = w.now.Add(time.Hour)
	if _, err := w.src.Fetch(t.Context()); !errors.Is(err, ErrUnchanged) {
		t.Fatalf("second fetch: %v", err)
	}
	// The remote is gone: the next start begins from disk, confirmed as above.
	if err := os.Rename(w.repo.Dir, w.repo.Dir+".gone"); err != nil {
		t.Fatal(err)
	}
	w.open()
	a, err := w.src.Accepted()
	if err != nil {
		t.Fatal(err)
	}
	if a.Commit != tip || !a.Confirmed.Equal(w.now) || a.Signer != "ada@example.com" {
		t.Errorf("accepted: %+v", a)
	}
	if _, err := w.src.Fetch(t.Context()); err == nil || errors.As(err, new(*Rejected)) || errors.Is(err, ErrUnchanged) {
		t.Errorf("fetch without a remote: %v", err)
	}
}

func TestEveryCommitIsVouchedFor(t *testing.T) {
	w := newWorld(t)
	early := w.commit("a", "1", w.eve)
	w.refused("not among the allowed signers", "")
	good := w.commit("a", "2", w.ada)
	w.take(good)

	t.Run("unsigned tip", func(t *testing.T) {
		w.t = t
		w.commit("a", "3", nil)
		w.refused("it is not signed", good)
		before := w.now
		w.now = w.now.Add(time.Hour)
		w.refused("it is not signed", good) // from memory
		if a, err := w.src.Accepted(); err != nil || a.Confirmed.After(before) {
			t.Errorf("a bad tip confirmed the good one: %+v, %v", a, err)
		}
	})
	t.Run("unsigned in the middle", func(t *testing.T) {
		w.t = t
		w.commit("a", "4", w.ada)
		w.refused("it is not signed", good)
		w.open()
		w.refused("it is not signed", good)
	})
	t.Run("signed by a stranger in the middle", func(t *testing.T) {
		w.t = t
		w.force("refs/heads/main", good)
		w.commit("a", "5", w.eve)
		w.commit("a", "6", w.ada)
		w.refused("not among the allowed signers", good)
	})
	t.Run("merge", func(t *testing.T) {
		w.t = t
		side, err := w.repo.CommitOn([]string{early}, "on a branch, unsigned", nil)
		if err != nil {
			t.Fatal(err)
		}
		unsigned, err := w.repo.CommitOn([]string{good, side}, "merge, unsigned", nil)
		if err != nil {
			t.Fatal(err)
		}
		w.force("refs/heads/main", unsigned)
		w.refused("it is not signed", good)
		merge, err := w.repo.CommitOn([]string{good, side}, "merge", w.ada)
		if err != nil {
			t.Fatal(err)
		}
		// Main merged into the branch: what was in force is a second parent.
		foxtrot, err := w.repo.CommitOn([]string{side, good}, "foxtrot", w.ada)
		if err != nil {
			t.Fatal(err)
		}
		w.force("refs/heads/main", foxtrot)
		w.refused("does not descend", good)
		w.force("refs/heads/main", merge)
		w.take(merge)
	})
}

func TestNoWayBackOrSideways(t *testing.T) {
	w := newWorld(t)
	one := w.commit("a", "1", w.ada)
	w.take(one)
	two := w.commit("a", "2", w.ada)
	w.take(two)

	w.force("refs/heads/main", one)
	w.refused("does not descend", two)
	side, err := w.repo.CommitOn([]string{one}, "sideways", w.ada)
	if err != nil {
		t.Fatal(err)
	}
	w.force("refs/heads/main", side)
	w.refused("does not descend", two)

	t.Run("reset", func(t *testing.T) {
		w.t = t
		unsigned, err := w.repo.CommitOn([]string{one}, "not signed", nil)
		if err != nil {
			t.Fatal(err)
		}
		onTop, err := w.repo.CommitOn([]string{unsigned}, "on top", w.ada)
		if err != nil {
			t.Fatal(err)
		}
		w.force("refs/heads/main", onTop)
		w.cfg.ResetTo = unsigned
		w.open()
		w.refused("it is not signed", two)
		w.cfg.ResetTo = side
		w.open()
		w.refused("does not descend", two)

		w.force("refs/heads/main", side)
		w.open()
		if s := w.take(side); !s.Reset {
			t.Error("the reset is not noted")
		}
		if _, err := w.src.Fetch(t.Context()); !errors.Is(err, ErrUnchanged) {
			t.Errorf("after the reset: %v", err)
		}
		w.force("refs/heads/main", onTop)
		w.refused("does not descend", side)
		// Spent: the same setting does not take anybody back a second time.
		w.force("refs/heads/main", side)
		three := w.commit("a", "3", w.ada)
		if s := w.take(three); s.Reset {
			t.Error("an ordinary commit counts as a reset")
		}
		w.open()
		w.force("refs/heads/main", side)
		w.refused("does not descend", three)
	})
}

func TestKeysComeAndGo(t *testing.T) {
	w := newWorld(t)
	one := w.commit("a", "1", w.ada)
	w.take(one)

	// Ada's key expires: stock Git would take a commit dated before that.
	w.cfg.Signers.AllowedSigners = []byte(w.ada.AllowedSigner(`valid-before="20260304130000Z"`) + w.eve.AllowedSigner(""))
	w.open()
	if a, err := w.src.Accepted(); err != nil || a.Commit != one {
		t.Fatalf("what she signed in time stays: %v, %v", a, err)
	}
	w.commit("a", "2", w.ada) // dated 12:01, but the remote was confirmed a day later without it
	w.refused("expired", one)

	// Eve is not trusted any more, having brought in a policy.
	w.force("refs/heads/main", one)
	two := w.commit("a", "3", w.eve)
	w.take(two)
	w.cfg.Signers.AllowedSigners = []byte(w.ada.AllowedSigner(""))
	w.open()
	var r *Rejected
	if _, err := w.src.Accepted(); !errors.As(err, &r) || !strings.Contains(r.Reason, "signers have changed") {
		t.Fatalf("her policy survives her key: %v", err)
	}
	if _, err := w.src.Fetch(t.Context()); !errors.As(err, &r) {
		t.Fatalf("her policy survives her key: %v", err)
	}
	three := w.commit("a", "4", w.ada)
	w.take(three)
}

func TestUnverifiedIsSaidAloud(t *testing.T) {
	w := newWorld(t)
	w.cfg.Signers = Signers{}
	if _, err := Policy(w.cfg); err == nil || !strings.Contains(err.Error(), "nobody is named") {
		t.Fatalf("no signers: %v", err)
	}
	w.cfg.Signers = Signers{AllowedSigners: []byte("# nobody\n")}
	if _, err := Policy(w.cfg); err == nil || !strings.Contains(err.Error(), "no key is among them") {
		t.Fatalf("empty signers: %v", err)
	}
	w.cfg.Signers, w.cfg.Unverified = Signers{}, true
	w.open()
	one := w.commit("a", "1", nil)
	w.take(one)
	two := w.commit("a", "2", nil)
	w.take(two)
	w.force("refs/heads/main", one)
	w.refused("does not descend", two)

	// Verification configured: what was taken without it counts for nothing.
	w.cfg.Signers, w.cfg.Unverified = Signers{AllowedSigners: []byte(w.ada.AllowedSigner(""))}, false
	w.open()
	w.refused("it is not signed", "")
}

func TestSignedTags(t *testing.T) {
	w := newWorld(t)
	tag := func(ref, name, commit string, signer githost.Signer) {
		t.Helper()
		if _, err := w.repo.Tag(ref, name, commit, "release", signer); err != nil {
			t.Fatal(err)
		}
	}
	one := w.commit("a", "1", nil)
	two := w.commit("a", "2", nil)
	w.cfg.Ref = "refs/tags/live"
	w.open()
	w.force("refs/tags/live", two)
	w.refused("carries no signature", "")
	tag("live", "live", two, nil)
	w.refused("it is not signed", "")
	tag("live", "live", two, w.eve)
	w.refused("not among the allowed signers", "")
	tag("live", "old", two, w.ada)
	w.refused(`calls itself "old"`, "")
	tag("live", "live", two, w.ada)
	if s := w.take(two); s.Signer != "ada@example.com" {
		t.Errorf("signer %q", s.Signer)
	}
	w.open()
	if a, err := w.src.Accepted(); err != nil || a.Commit != two {
		t.Fatal(a, err)
	}
	tag("live", "live", one, w.ada)
	w.refused("does not descend", two)
	three := w.commit("a", "3", nil)
	tag("live", "live", three, w.ada)
	w.take(three)
}

func TestHostileTrees(t *testing.T) {
	for name, c := range map[string]struct {
		why  string
		make func(*world) (string, error)
	}{
		"symlink":   {"is a symbolic link", func(w *world) (string, error) { return w.repo.Symlink("rules/x.yaml", "/etc/passwd", "x", w.ada) }},
		"submodule": {"is a submodule", func(w *world) (string, error) { return w.repo.Submodule("rules", strings.Repeat("1", 40), "x", w.ada) }},
		"huge file": {"a policy file may have 1000", func(w *world) (string, error) {
			return w.repo.Commit(map[string][]byte{"big": make([]byte, 1001)}, "x", w.ada)
		}},
		"huge tree": {"more than 3000 bytes together", func(w *world) (string, error) {
			b := make([]byte, 1000)
			return w.repo.Commit(map[string][]byte{"b": b, "c": b, "d": b, "e": b}, "x", w.ada)
		}},
		"many files": {"more than 5 files", func(w *world) (string, error) {
			return w.repo.Commit(map[string][]byte{"b": {}, "c": {}, "d": {}, "e": {}, "f": {}}, "x", w.ada)
		}},
		"deep": {"nested deeper than 2", func(w *world) (string, error) {
			return w.repo.Commit(map[string][]byte{"b/c/d/e": {}}, "x", w.ada)
		}},
		"dot git": {"not a name that every system can hold", func(w *world) (string, error) {
			return w.repo.Commit(map[string][]byte{"b/.GIT": {}}, "x", w.ada)
		}},
		"dot dot": {"not a name that every system can hold", func(w *world) (string, error) {
			return w.repo.Commit(map[string][]byte{"../x": {}}, "x", w.ada)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.cfg.Limits = Limits{File: 1000, Total: 3000, Files: 5, Depth: 2}
			w.open()
			good := w.commit("a", "1", w.ada)
			w.take(good)
			if _, err := c.make(w); err != nil {
				t.Fatal(err)
			}
			w.refused(c.why, good)
		})
	}
}

func TestPackIsBounded(t *testing.T) {
	w := newWorld(t)
	w.cfg.Limits.Pack = 1000
	w.open()
	b := make([]byte, 5000)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	w.commit("a", string(b), w.ada)
	if _, err := w.src.Fetch(t.Context()); err == nil || !strings.Contains(err.Error(), "more than 1000 bytes") {
		t.Errorf("fetch: %v", err)
	}
}

func TestRefuse(t *testing.T) {
	w := newWorld(t)
	one := w.commit("a", "1", w.ada)
	if _, err := w.src.Fetch(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.src.Refuse(one, "rules/a.yaml:1:1: not a rule")
	w.refused("not a rule", "")
	if err := w.src.Accept(one); err == nil {
		t.Error("a refused policy was accepted")
	}
	w.take(w.commit("a", "2", w.ada))
}

// After a crash anything not synced may be gone or torn; what was accepted was
// synced, and must come up without the remote.
func TestTornPackFromAnUnacceptedFetch(t *testing.T) {
	w := newWorld(t)
	one := w.commit("a", "1", w.ada)
	w.take(one)
	before, err := filepath.Glob(filepath.Join(w.cfg.Dir, "repo.git/objects/pack/*"))
	if err != nil {
		t.Fatal(err)
	}
	two := w.commit("a", "2", w.ada)
	if _, err := w.src.Fetch(t.Context()); err != nil {
		t.Fatal(err)
	}
	after, err := filepath.Glob(filepath.Join(w.cfg.Dir, "repo.git/objects/pack/*"))
	if err != nil {
		t.Fatal(err)
	}
	torn := 0
	for _, f := range after {
		if strings.Contains(strings.Join(before, " "), f) {
			continue
		}
		torn++
		if err := os.Chmod(f, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(f, 0); err != nil {
			t.Fatal(err)
		}
	}
	if torn == 0 {
		t.Fatal("the fetch left nothing to tear")
	}
	w.open()
	if a, err := w.src.Accepted(); err != nil || a.Commit != one {
		t.Fatalf("accepted: %v, %v", a, err)
	}
	w.take(two)
}

func TestLostClone(t *testing.T) {
	w := newWorld(t)
	one := w.commit("a", "1", w.ada)
	w.take(one)
	if err := os.RemoveAll(filepath.Join(w.cfg.Dir, "repo.git")); err != nil {
		t.Fatal(err)
	}
	w.open()
	if _, err := w.src.Accepted(); err == nil {
		t.Fatal("accepted out of nothing")
	}
	w.take(w.commit("a", "2", w.ada))
}

func TestDamagedState(t *testing.T) {
	w := newWorld(t)
	w.take(w.commit("a", "1", w.ada))
	if err := os.WriteFile(filepath.Join(w.cfg.Dir, "accepted.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.open()
	if _, err := w.src.Accepted(); err == nil || errors.Is(err, ErrNone) {
		t.Errorf("accepted: %v", err)
	}
	if _, err := w.src.Fetch(t.Context()); err == nil || errors.Is(err, ErrNone) {
		t.Errorf("a damaged state counts as a first start: %v", err)
	}
}

func TestPolicyOverHTTP(t *testing.T) {
	w := newWorld(t)
	host, err := githost.ServeHTTP(filepath.Dir(w.repo.Dir), "x-access-token", "s3cret-token")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(host.Close)
	token := func(s string) func(context.Context) (string, error) {
		return func(context.Context) (string, error) { return s, nil }
	}
	w.cfg.URL = host.URL + "/policy.git"
	w.cfg.Auth.Token = token("wrong-one")
	w.open()
	one := w.commit("a", "1", w.ada)
	_, err = w.src.Fetch(t.Context())
	if !errors.Is(err, ErrAuth) {
		t.Fatalf("wrong token: %v", err)
	}
	if strings.Contains(err.Error(), "wrong-one") {
		t.Errorf("the error shows the token: %v", err)
	}
	w.cfg.Auth.Token = token("s3cret-token")
	w.open()
	w.take(one)
	two := w.commit("a", "2", w.ada)

	host.SetDown(true)
	if _, err = w.src.Fetch(t.Context()); err == nil || errors.Is(err, ErrAuth) || errors.As(err, new(*Rejected)) {
		t.Errorf("host down: %v", err)
	}
	if a, err := w.src.Accepted(); err != nil || a.Commit != one {
		t.Errorf("host down, in force: %v, %v", a, err)
	}
	host.SetDown(false)

	arrived, release := host.Hold()
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	if _, err = w.src.Fetch(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("host slow: %v", err)
	}
	release()
	w.take(two)
	if _, err := w.src.Fetch(t.Context()); !errors.Is(err, ErrUnchanged) {
		t.Error(err)
	}
}

func TestPolicyOverSSH(t *testing.T) {
	w := newWorld(t)
	hostKey, login := sshKey(t, "host"), sshKey(t, "enforcer")
	host, err := githost.ServeSSH(filepath.Dir(w.repo.Dir), hostKey)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := host.Close(); err != nil {
			t.Error(err)
		}
	})
	one := w.commit("a", "1", w.ada)
	w.cfg.URL = host.URL("policy.git")

	w.cfg.Auth = Auth{SSHKeyPEM: login.PEM()}
	if _, err := Policy(w.cfg); err == nil || !strings.Contains(err.Error(), "no known hosts") {
		t.Fatalf("no known hosts: %v", err)
	}
	w.cfg.Auth.KnownHosts = []byte("elsewhere.example.com " + hostKey.Authorized())
	if _, err := Policy(w.cfg); err == nil || !strings.Contains(err.Error(), "no key for") {
		t.Fatalf("unknown host: %v", err)
	}
	w.cfg.Auth.KnownHosts = []byte(strings.Replace(string(host.KnownHosts()), strings.Fields(hostKey.Authorized())[1], strings.Fields(w.eve.Authorized())[1], 1))
	w.open()
	host.Authorize(login)
	if _, err := w.src.Fetch(t.Context()); err == nil || !strings.Contains(err.Error(), "key mismatch") {
		t.Fatalf("another host key: %v", err)
	}
	w.cfg.Auth = Auth{SSHKeyPEM: w.eve.PEM(), KnownHosts: host.KnownHosts()}
	w.open()
	if _, err := w.src.Fetch(t.Context()); !errors.Is(err, ErrAuth) {
		t.Fatalf("a key that is not authorized: %v", err)
	}
	w.cfg.Auth.SSHKeyPEM = login.PEM()
	w.open()
	w.take(one)
	w.take(w.commit("a", "2", w.ada))
	if _, err := w.src.Fetch(t.Context()); !errors.Is(err, ErrUnchanged) {
		t.Error(err)
	}
}
