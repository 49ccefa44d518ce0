package gitsync

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"countersign/fixtures/githost"

	"github.com/go-git/go-git/v5/plumbing"
)

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	out, err := tryGit(dir, args...)
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return out
}

func tryGit(dir string, args ...string) (string, error) {
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null")
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// audit opens a record in a temporary folder, published to url.
func audit(t testing.TB, dir, url string, key []byte) *Repo {
	t.Helper()
	r, err := OpenAudit(AuditConfig{Dir: dir, URL: url, KeyPEM: key, Name: "Countersign", Email: "enforcer@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func commit(t *testing.T, r *Repo, branch, parent, path, content string) string {
	t.Helper()
	h, err := r.Commit(t.Context(), branch, parent, map[string][]byte{path: []byte(content), "checkpoint": []byte(path + "\n")}, "1 call\n\n"+path, noon)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestStockGitVerifiesTheRecord(t *testing.T) {
	key := sshKey(t, "enforcer@example.com")
	remote := filepath.Join(t.TempDir(), "remote.git")
	if err := githost.Init(remote); err != nil {
		t.Fatal(err)
	}
	r := audit(t, filepath.Join(t.TempDir(), "a"), remote, key.PEM())
	const branch = "audit/one/inc1/2026-03"
	c1 := commit(t, r, branch, "", "entries/000/1.jsonl", "{}\n")
	c2 := commit(t, r, branch, c1, "entries/000/2.jsonl", "{2}\n")
	c3 := commit(t, r, branch, c2, "entries/001/3.jsonl", "{3}\n")
	const second = "audit/two/inc1/2026-03"
	commit(t, r, second, "", "entries/000/1.jsonl", "{}\n")
	if err := push(r, t.Context(), branch, second); err != nil {
		t.Fatal(err)
	}
	allowed := filepath.Join(t.TempDir(), "allowed")
	if err := os.WriteFile(allowed, []byte(key.AllowedSigner("")), 0o600); err != nil {
		t.Fatal(err)
	}
	clone := filepath.Join(t.TempDir(), "clone")
	git(t, ".", "clone", "-q", "-b", branch, remote, clone)
	git(t, clone, "fsck", "--strict")
	for _, c := range []string{c1, c2, c3} {
		out := git(t, clone, "-c", "gpg.ssh.allowedSignersFile="+allowed, "verify-commit", c)
		if !strings.Contains(out, `Good "git" signature for enforcer@example.com`) {
			t.Errorf("verify-commit %s: %s", c, out)
		}
	}
	if got := git(t, clone, "ls-tree", "-r", "--name-only", "HEAD"); got != "checkpoint\nentries/000/1.jsonl\nentries/000/2.jsonl\nentries/001/3.jsonl" {
		t.Errorf("tree:\n%s", got)
	}
	read, err := OpenClone(t.Context(), clone, Auth{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := read.Branches("audit/"); err != nil || strings.Join(got, " ") != branch+" "+second {
		t.Errorf("branches of a working copy: %v, %v", got, err)
	}
	if tip, ok, err := read.Tip(second); err != nil || !ok || tip == "" {
		t.Errorf("a branch that is only tracked: %q %v %v", tip, ok, err)
	}
}

// pair is a record and the remote that it is published to.
func pair(t testing.TB) (r *Repo, dir, remote string, key []byte) {
	t.Helper()
	remote = filepath.Join(t.TempDir(), "remote.git")
	if err := githost.Init(remote); err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(t.TempDir(), "record")
	key = sshKey(t, "enforcer@example.com").PEM()
	return audit(t, dir, remote, key), dir, remote, key
}

func TestCompareAndSwap(t *testing.T) {
	r, dir, _, key := pair(t)
	c1 := commit(t, r, "b", "", "1", "1")
	add := func(parent string) error {
		_, err := r.Commit(t.Context(), "b", parent, map[string][]byte{"2": nil}, "m", noon)
		return err
	}
	if err := add(""); !errors.Is(err, ErrMoved) {
		t.Errorf("a second beginning: %v", err)
	}
	if err := add(strings.Repeat("1", 40)); !errors.Is(err, ErrMoved) {
		t.Errorf("from elsewhere: %v", err)
	}
	if err := add("HEAD"); err == nil {
		t.Error("a parent that is no hash passes")
	}
	// Stock Git moves the branch behind our back.
	c2 := git(t, dir, "-c", "user.name=x", "-c", "user.email=x@example.com", "commit-tree", "-p", c1, "-m", "other", c1+"^{tree}")
	git(t, dir, "update-ref", "refs/heads/b", c2)
	if err := add(c1); !errors.Is(err, ErrMoved) {
		t.Errorf("moved by another writer: %v", err)
	}
	if tip, ok, err := r.Tip("b"); tip != c2 || !ok || err != nil {
		t.Errorf("tip %s %v %v", tip, ok, err)
	}
	// The same, between our first look and the lock.
	if err := r.move("refs/heads/b", plumbing.NewHash(c1), plumbing.NewHash(c1)); !errors.Is(err, ErrMoved) {
		t.Errorf("moved before the lock was taken: %v", err)
	}
	// Another writer holds the lock right now.
	lock := filepath.Join(dir, "refs/heads/b.lock")
	if err := os.WriteFile(lock, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := add(c2); !errors.Is(err, ErrMoved) {
		t.Errorf("locked: %v", err)
	}
	if _, err := os.Stat(lock); err != nil {
		t.Errorf("the other writer's lock: %v", err)
	}
	// It died, over an object too; the next start clears up.
	half := filepath.Join(dir, "objects", c2[:2], "tmp_obj_123")
	if err := os.WriteFile(half, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	r = audit(t, dir, "", key)
	if _, err := os.Stat(half); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what it had half written: %v", err)
	}
	if err := add(c2); err != nil {
		t.Error(err)
	}
	// A packed reference is a reference.
	git(t, dir, "pack-refs", "--all")
	if err := add(c2); !errors.Is(err, ErrMoved) {
		t.Errorf("packed: %v", err)
	}
}

func TestOnlyOneWriterWins(t *testing.T) {
	r, dir, _, key := pair(t)
	c1 := commit(t, r, "b", "", "1", "1")
	other := audit(t, dir, "", key)
	results := make(chan error)
	for i := range 10 {
		repo := []*Repo{r, other}[i%2]
		go func() {
			_, err := repo.Commit(context.Background(), "b", c1, map[string][]byte{fmt.Sprint(i): nil}, "m", noon)
			results <- err
		}()
	}
	won := 0
	for range 10 {
		if err := <-results; err == nil {
			won++
		} else if !errors.Is(err, ErrMoved) {
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d writers won", won)
	}
}

func TestBadPaths(t *testing.T) {
	r, _, _, _ := pair(t)
	for _, path := range []string{"", "/a", "a//b", "../a", "a/..", ".git/config", "a/.GIT", "a\x00", "a\nb", "a\\b", "c:d", "\xff"} {
		if _, err := r.Commit(t.Context(), "b", "", map[string][]byte{path: nil}, "m", noon); err == nil {
			t.Errorf("%q passes", path)
		}
	}
	for _, branch := range []string{"", "a..b", "a b", "/a", "a.lock", "a/", "-", "@{", "a\nb"} {
		if _, err := r.Commit(t.Context(), branch, "", nil, "m", noon); err == nil && branch != "-" {
			t.Errorf("branch %q passes", branch)
		}
	}
	c1 := commit(t, r, "b", "", "a/b", "1")
	for _, files := range []map[string][]byte{{"a": nil}, {"a/b/c": nil}, {"x": nil, "x/y": nil}} {
		if _, err := r.Commit(t.Context(), "b", c1, files, "m", noon); err == nil {
			t.Errorf("%v passes", files)
		}
	}
}

func TestPushIsRejected(t *testing.T) {
	r, _, remote, key := pair(t)
	c1 := commit(t, r, "b", "", "1", "1")
	if err := push(r, t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	if err := push(r, t.Context(), "b"); err != nil {
		t.Fatalf("nothing to push: %v", err)
	}
	// Another disk with the same branch, gone another way.
	other := audit(t, filepath.Join(t.TempDir(), "other"), remote, key)
	if err := other.Fetch(t.Context(), "b", "never-was"); err != nil {
		t.Fatal(err)
	}
	theirs := commit(t, other, "b", c1, "2", "theirs")
	if err := push(other, t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	c2 := commit(t, r, "b", c1, "2", "ours")
	if err := push(r, t.Context(), "b"); !errors.Is(err, ErrRejected) {
		t.Errorf("push: %v", err)
	}
	if err := r.Fetch(t.Context(), "b"); !errors.Is(err, ErrRejected) {
		t.Errorf("fetch: %v", err)
	}
	if tip, _, err := r.Tip("b"); err != nil || tip != c2 {
		t.Errorf("our branch moved: %s, %v", tip, err)
	}
	if got := git(t, remote, "rev-parse", "b"); got != theirs {
		t.Errorf("remote at %s, want %s", got, theirs)
	}
	if err := push(r, t.Context(), "none"); !errors.Is(err, ErrNotFound) {
		t.Errorf("no such branch: %v", err)
	}
}

func TestPushOverHTTP(t *testing.T) {
	r, dir, remote, key := pair(t)
	host, err := githost.ServeHTTP(filepath.Dir(remote), "x-access-token", "t0ken")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(host.Close)
	over := func(token string) *Repo {
		t.Helper()
		r, err := OpenAudit(AuditConfig{Dir: dir, URL: host.URL + "/remote.git", KeyPEM: key, Name: "n", Email: "e",
			Auth: Auth{Token: func(context.Context) (string, error) { return token, nil }}})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	c1 := commit(t, r, "a/1", "", "entries/000/1", "1")
	c2 := commit(t, r, "a/2", "", "entries/000/1", "2")
	if err := push(over("wrong"), t.Context(), "a/1"); !errors.Is(err, ErrAuth) || strings.Contains(err.Error(), "wrong") {
		t.Errorf("wrong token: %v", err)
	}
	r = over("t0ken")
	host.SetDown(true)
	if err := push(r, t.Context(), "a/1"); err == nil || errors.Is(err, ErrRejected) || errors.Is(err, ErrRefused) {
		t.Errorf("down: %v", err)
	}
	host.SetDown(false)
	if err := githost.RefusePushes(remote, "quota exceeded"); err != nil {
		t.Fatal(err)
	}
	if err := push(r, t.Context(), "a/1", "a/2"); !errors.Is(err, ErrRefused) || errors.Is(err, ErrRejected) || !strings.Contains(err.Error(), "pre-receive hook declined") {
		t.Errorf("hook: %v", err)
	}
	if err := githost.RefusePushes(remote, ""); err != nil {
		t.Fatal(err)
	}
	// The hook of one reference only: the other passes.
	hook := "#!/bin/sh\ntest \"$1\" != refs/heads/a/2\n"
	if err := os.WriteFile(filepath.Join(remote, "hooks/update"), []byte(hook), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := push(r, t.Context(), "a/1", "a/2"); !errors.Is(err, ErrRefused) || errors.Is(err, ErrRejected) {
		t.Errorf("hook for one: %v", err)
	}
	if got := git(t, remote, "for-each-ref", "--format=%(refname:short) %(objectname)"); got != "a/1 "+c1 {
		t.Errorf("remote has %s", got)
	}
	if err := os.Remove(filepath.Join(remote, "hooks/update")); err != nil {
		t.Fatal(err)
	}
	arrived, release := host.Hold()
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	if err := push(r, ctx, "a/2"); !errors.Is(err, context.Canceled) {
		t.Errorf("slow: %v", err)
	}
	release()
	c3 := commit(t, r, "a/1", c1, "entries/000/3", "3")
	if err := push(r, t.Context(), "a/1", "a/2"); err != nil {
		t.Fatal(err)
	}
	if got := git(t, remote, "for-each-ref", "--format=%(refname:short) %(objectname)"); got != "a/1 "+c3+"\na/2 "+c2 {
		t.Errorf("remote has %s", got)
	}
	git(t, remote, "fsck", "--strict", "--full")

	clone, err := OpenClone(t.Context(), host.URL+"/remote.git", Auth{Token: func(context.Context) (string, error) { return "t0ken", nil }})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := clone.Branches("a/"); err != nil || strings.Join(b, " ") != "a/1 a/2" {
		t.Errorf("branches %v, %v", b, err)
	}
	if err := clone.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(clone.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the clone stays behind: %v", err)
	}
}

func TestPushOverSSH(t *testing.T) {
	_, dir, remote, key := pair(t)
	login := sshKey(t, "enforcer")
	host, err := githost.ServeSSH(filepath.Dir(remote), sshKey(t, "host"))
	if err != nil {
		t.Fatal(err)
	}
	host.Authorize(login)
	r, err := OpenAudit(AuditConfig{Dir: dir, URL: host.URL("remote.git"), KeyPEM: key, Name: "n", Email: "e",
		Auth: Auth{SSHKeyPEM: login.PEM(), KnownHosts: host.KnownHosts()}})
	if err != nil {
		t.Fatal(err)
	}
	c1 := commit(t, r, "b", "", "1", "1")
	if err := push(r, t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	if got := git(t, remote, "rev-parse", "b"); got != c1 {
		t.Errorf("remote at %s", got)
	}
	if err := githost.RefusePushes(remote, "no"); err != nil {
		t.Fatal(err)
	}
	commit(t, r, "b", c1, "2", "2")
	if err := push(r, t.Context(), "b"); !errors.Is(err, ErrRefused) {
		t.Errorf("hook: %v", err)
	}
	if err := host.Close(); err != nil {
		t.Error(err)
	}
	if err := push(r, t.Context(), "b"); err == nil || errors.Is(err, ErrRefused) || errors.Is(err, ErrRejected) {
		t.Errorf("host gone: %v", err)
	}
}

func TestRead(t *testing.T) {
	r, dir, _, _ := pair(t)
	c1 := commit(t, r, "b", "", "entries/000/1", "one")
	c2 := commit(t, r, "b", c1, "entries/000/2", "two")
	read, err := OpenClone(t.Context(), dir, Auth{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for c, err := range read.Log("b") {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, c.Hash)
		if c.Author != "Countersign <enforcer@example.com>" || !c.When.Equal(noon) || !strings.HasPrefix(c.Message, "1 call\n\nentries/000/") {
			t.Errorf("commit %+v", c)
		}
	}
	if strings.Join(got, " ") != c2+" "+c1 {
		t.Errorf("log %v", got)
	}
	for c, err := range read.Log("none") {
		if !errors.Is(err, ErrNotFound) {
			t.Errorf("log of nothing: %v %v", c, err)
		}
	}
	if b, err := read.File(c2, "entries/000/1"); err != nil || string(b) != "one" {
		t.Errorf("%q, %v", b, err)
	}
	for _, path := range []string{"entries/000/3", "entries", "entries/000/1/x", ""} {
		if b, err := read.File(c2, path); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %q, %v", path, b, err)
		}
	}
	if names, err := read.Files(c2, "entries/000"); err != nil || strings.Join(names, " ") != "1 2" {
		t.Errorf("%v, %v", names, err)
	}
	if names, err := read.Files(c2, ""); err != nil || strings.Join(names, " ") != "checkpoint entries/" {
		t.Errorf("%v, %v", names, err)
	}
	if _, err := read.Commit(t.Context(), "b", c2, nil, "m", noon); err == nil {
		t.Error("a reader writes")
	}
	if _, err := OpenClone(t.Context(), t.TempDir(), Auth{}); err == nil {
		t.Error("an empty folder is a repository")
	}
}

// Only what a commit adds is written: its file, the trees on the way to it and
// the commit itself.
func TestCommitKeepsTheParentsTree(t *testing.T) {
	r, dir, _, _ := pair(t)
	files := map[string][]byte{}
	for i := range 500 {
		files[fmt.Sprintf("entries/%03d/%d", i/100, i)] = []byte(fmt.Sprint(i))
	}
	c1, err := r.Commit(t.Context(), "b", "", files, "m", noon)
	if err != nil {
		t.Fatal(err)
	}
	count := func() int {
		got, err := filepath.Glob(filepath.Join(dir, "objects/??/*"))
		if err != nil {
			t.Fatal(err)
		}
		return len(got)
	}
	before := count()
	if _, err := r.Commit(t.Context(), "b", c1, map[string][]byte{"entries/004/x": []byte("x")}, "m", noon); err != nil {
		t.Fatal(err)
	}
	if n := count() - before; n != 5 { // blob, 004, entries, top, commit
		t.Errorf("%d objects written", n)
	}
}

// What a crash of the machine leaves: objects and references that were written
// but not synced are empty or gone.
func TestCrash(t *testing.T) {
	loose := func(dir, hash string) string { return filepath.Join(dir, "objects", hash[:2], hash[2:]) }
	gone := func(t *testing.T, path string) {
		t.Helper()
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	empty := func(t *testing.T, path string) {
		t.Helper()
		if err := errors.Join(os.Chmod(path, 0o600), os.Truncate(path, 0)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name string
		harm func(t *testing.T, dir string, commits []string)
		want int // index of the commit that the branch must be back at
	}{
		{"nothing", func(*testing.T, string, []string) {}, 3},
		{"object written, reference not moved", func(t *testing.T, dir string, c []string) { git(t, dir, "update-ref", "refs/heads/b", c[2]) }, 2},
		{"commit gone", func(t *testing.T, dir string, c []string) { gone(t, loose(dir, c[3])) }, 0},
		{"commit empty", func(t *testing.T, dir string, c []string) { empty(t, loose(dir, c[3])) }, 0},
		{"middle commit gone", func(t *testing.T, dir string, c []string) { gone(t, loose(dir, c[2])) }, 0},
		{"blob empty", func(t *testing.T, dir string, c []string) {
			empty(t, loose(dir, git(t, dir, "rev-parse", c[3]+":entries/3")))
		}, 2},
		{"blob of the middle gone", func(t *testing.T, dir string, c []string) {
			gone(t, loose(dir, git(t, dir, "rev-parse", c[2]+":entries/2")))
		}, 1},
		{"tree gone", func(t *testing.T, dir string, c []string) {
			gone(t, loose(dir, git(t, dir, "rev-parse", c[3]+":entries")))
		}, 2},
		{"reference torn", func(t *testing.T, dir string, _ []string) { empty(t, filepath.Join(dir, "refs/heads/b")) }, 0},
		{"note of what was published torn", func(t *testing.T, dir string, _ []string) {
			empty(t, filepath.Join(dir, "refs/remotes/origin/b"))
		}, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, dir, remote, key := pair(t)
			commits := []string{commit(t, r, "b", "", "entries/0", "entry 0")}
			if err := push(r, t.Context(), "b"); err != nil {
				t.Fatal(err)
			}
			for i := 1; i < 4; i++ {
				commits = append(commits, commit(t, r, "b", commits[i-1], fmt.Sprintf("entries/%d", i), fmt.Sprintf("entry %d", i)))
			}
			c.harm(t, dir, commits)
			r = audit(t, dir, remote, key)
			tip, ok, err := r.Tip("b")
			if err != nil || !ok || tip != commits[c.want] {
				t.Fatalf("after the crash at %s %v %v, want %s; %v", tip, ok, err, commits[c.want], r.Dropped())
			}
			// The journal has the entries: the same commits are made again.
			for i := c.want + 1; i < 4; i++ {
				if tip = commit(t, r, "b", tip, fmt.Sprintf("entries/%d", i), fmt.Sprintf("entry %d", i)); tip != commits[i] {
					t.Errorf("commit %d is another one", i)
				}
			}
			if err := push(r, t.Context(), "b"); err != nil {
				t.Fatal(err)
			}
			git(t, remote, "fsck", "--strict", "--full")
			if got := git(t, remote, "rev-parse", "b"); got != commits[3] {
				t.Errorf("remote at %s", got)
			}
		})
	}
}

func BenchmarkCommit(b *testing.B) {
	key, err := githost.NewKey(rand.Reader, "enforcer@example.com")
	if err != nil {
		b.Fatal(err)
	}
	r, err := OpenAudit(AuditConfig{Dir: b.TempDir(), KeyPEM: key.PEM(), Name: "n", Email: "e"})
	if err != nil {
		b.Fatal(err)
	}
	const entries = 256
	batch := []byte(strings.Repeat(`{"seq":1,"time":"2026-03-04T12:00:00Z","kind":"intent","call":"c_abcdefghijklmnopqrstuvwxyz","policy":"3f9c2e1","server":"customers"}`+"\n", entries))
	tip, n := "", 0
	for b.Loop() {
		path := fmt.Sprintf("entries/%03d/%d.jsonl", n/256, n)
		if tip, err = r.Commit(b.Context(), "b", tip, map[string][]byte{path: batch, "checkpoint": []byte(path)}, "m", noon); err != nil {
			b.Fatal(err)
		}
		n++
	}
	b.ReportMetric(float64(entries*n)/b.Elapsed().Seconds(), "entries/s")
}

// Each body is a file, and almost each a folder: what a commit of many costs
// until the remote has it.
func BenchmarkPushManyFiles(b *testing.B) {
	const bodies = 1024
	r, _, _, _ := pair(b)
	tip, n := "", 0
	for b.Loop() {
		files := map[string][]byte{}
		for range bodies {
			n++
			files[fmt.Sprintf("04/12/%02d/%02x/%d", n/bodies%60, n%256, n)] = fmt.Appendf(nil, "body %d", n)
		}
		var err error
		if tip, err = r.Commit(b.Context(), "bodies/b", tip, files, "m", noon); err != nil {
			b.Fatal(err)
		}
		if err := push(r, b.Context(), "bodies/b"); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "bodies/s")
}

// push pushes, and joins what went wrong.
func push(r *Repo, ctx context.Context, branches ...string) error {
	done, err := r.Push(ctx, branches...)
	return errors.Join(err, done.Err())
}
