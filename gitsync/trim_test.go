package gitsync

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// loose lists the loose objects of a repository.
func loose(t *testing.T, dir string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(dir, "objects"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && len(filepath.Base(filepath.Dir(path))) == 2 {
			all = append(all, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// grow adds commits to a branch, ten minutes apart, as a log does: a path after
// the ones before, and a file beside that is replaced.
func grow(t *testing.T, r *Repo, branch string, from, n int, when time.Time) time.Time {
	t.Helper()
	tip, _, err := r.Tip(branch)
	if err != nil {
		t.Fatal(err)
	}
	for i := from; i < from+n; i++ {
		when = when.Add(10 * time.Minute)
		path := fmt.Sprintf("entries/%03d/%03d/%d.jsonl", i/9%1000, i/3, i)
		files := map[string][]byte{path: fmt.Appendf(nil, "%s %d", branch, i), "checkpoint": fmt.Appendf(nil, "%s at %d", branch, i)}
		if tip, err = r.Commit(t.Context(), branch, tip, files, "m", when); err != nil {
			t.Fatal(err)
		}
	}
	return when
}

func TestTrim(t *testing.T) {
	r, dir, remote, key := pair(t)
	const branch = "audit/demo/i1/2026-11"
	never := func(string) bool { return false }
	trim := func(before time.Time, over func(string) bool) int {
		t.Helper()
		n, err := r.Trim(t.Context(), "audit/", before, over)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	push1 := func() {
		t.Helper()
		if err := push(r, t.Context(), branch); err != nil {
			t.Fatal(err)
		}
	}
	now := grow(t, r, branch, 0, 60, noon)
	if n := trim(now.Add(time.Hour), never); n != 0 {
		t.Errorf("%d objects went that nobody else has", n)
	}
	push1()
	all := len(loose(t, dir))
	grow(t, r, "bodies/demo/i1/2026-11", 0, 3, noon) // not asked for: it stays
	now = grow(t, r, branch, 60, 2, now)             // not published yet: they stay
	if n := trim(now.Add(-time.Hour), never); n < all/2 {
		t.Errorf("%d of %d objects went", n, all)
	}
	if n := trim(now.Add(-time.Hour), never); n != 0 {
		t.Errorf("%d more went", n)
	}
	// It goes on: a new start, commits into folders old and new, pushes.
	most := 0
	for i := range 8 {
		if i%4 == 0 {
			r = audit(t, dir, remote, key)
			if d := r.Dropped(); len(d) > 0 {
				t.Fatalf("a start takes back %s", d)
			}
		}
		now = grow(t, r, branch, 62+i*7, 7, now)
		push1()
		trim(now.Add(-time.Hour), never)
		most = max(most, len(loose(t, dir)))
	}
	if most > 160 {
		t.Errorf("up to %d objects stay", most)
	}
	git(t, remote, "fsck", "--strict", "--full")
	if got := git(t, remote, "rev-list", "--count", branch); got != "118" {
		t.Errorf("the remote has %s commits", got)
	}
	if b, err := r.File(git(t, remote, "rev-parse", branch), "checkpoint"); err != nil || string(b) != branch+" at 117" {
		t.Errorf("the checkpoint: %q, %v", b, err)
	}

	// All of it is old, and still goes on.
	trim(now.Add(time.Hour), never)
	now = grow(t, r, branch, 118, 1, now)
	push1()

	// What the remote loses of late comes back, with a word.
	now = grow(t, r, branch, 119, 3, now)
	push1()
	git(t, remote, "update-ref", "refs/heads/"+branch, branch+"~2")
	done, err := r.Push(t.Context(), branch)
	if err != nil || len(done.Failed) > 0 || len(done.Notes) != 1 || !strings.Contains(done.Notes[0], "took commits away") {
		t.Errorf("%+v, %v", done, err)
	}
	// What it loses of old is asked for.
	git(t, remote, "update-ref", "refs/heads/"+branch, branch+"~60")
	if err := push(r, t.Context(), branch); !errors.Is(err, ErrRejected) || !strings.Contains(err.Error(), "from a clone that has it") {
		t.Errorf("got %v", err)
	}
	git(t, remote, "update-ref", "-d", "refs/heads/"+branch)
	if err := push(r, t.Context(), branch); !errors.Is(err, ErrRejected) {
		t.Errorf("got %v", err)
	}

	// A branch that is over goes, once it is published.
	git(t, remote, "update-ref", "refs/heads/"+branch, git(t, dir, "rev-parse", branch))
	grow(t, r, "audit/demo/i2/2026-11", 0, 1, now)
	trim(now, func(string) bool { return true })
	if b, err := r.Branches(""); err != nil || strings.Join(b, " ") != "audit/demo/i2/2026-11 bodies/demo/i1/2026-11" {
		t.Errorf("%s, %v", b, err)
	}
	if d := audit(t, dir, remote, key).Dropped(); len(d) > 0 {
		t.Errorf("a start takes back %s", d)
	}
	if _, err := os.Stat(filepath.Join(dir, "refs", "heads", "audit", "demo", "i1")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an empty folder stays: %v", err)
	}
	for _, b := range []string{"bodies/demo/i1/2026-11", "audit/demo/i2/2026-11"} {
		git(t, dir, "rev-list", "--objects", b)
	}
	if n := len(loose(t, dir)); n > 30 {
		t.Errorf("%d objects stay", n)
	}
}

// A crash may leave any part of what was to go: the next start, and the next
// Trim, go on.
func TestTrimIsCutShort(t *testing.T) {
	for skip := range 3 {
		r, dir, remote, key := pair(t)
		const branch = "audit/demo/i1/2026-11"
		now := grow(t, r, branch, 0, 30, noon)
		if err := push(r, t.Context(), branch); err != nil {
			t.Fatal(err)
		}
		before := map[string][]byte{}
		for _, path := range loose(t, dir) {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			before[path] = b
		}
		never := func(string) bool { return false }
		if _, err := r.Trim(t.Context(), "audit/", now.Add(-time.Hour), never); err != nil {
			t.Fatal(err)
		}
		i := 0
		for path, b := range before { // some of them are still there
			if _, err := os.Stat(path); err != nil {
				if i++; i%3 != skip {
					if err := os.WriteFile(path, b, 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		r = audit(t, dir, remote, key)
		if d := r.Dropped(); len(d) > 0 {
			t.Errorf("a start takes back %s", d)
		}
		now = grow(t, r, branch, 30, 5, now)
		if _, err := r.Trim(t.Context(), "audit/", now, never); err != nil {
			t.Error(err)
		}
		if err := push(r, t.Context(), branch); err != nil {
			t.Error(err)
		}
		git(t, remote, "fsck", "--strict", "--full")
	}
}
