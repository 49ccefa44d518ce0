package gitsync

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"countersign/fixtures/githost"

	"github.com/go-git/go-git/v5/plumbing"
)

const bodies = "bodies/one/r_1/2026-03"

// fill commits three files, one after the other, and gives their blobs.
func fill(t *testing.T, r *Repo, branch string) (tip string, blobs map[string]plumbing.Hash) {
	t.Helper()
	blobs = map[string]plumbing.Hash{}
	for i := range 3 {
		path := fmt.Sprintf("04/12/0%d/ab/%d", i, i)
		text := []byte(strings.Repeat(fmt.Sprintf("body %d of %s\n", i, branch), 40))
		h, err := r.Commit(t.Context(), branch, tip, map[string][]byte{path: text, "position": fmt.Appendf(nil, "%d", i)}, "a body", noon)
		if err != nil {
			t.Fatal(err)
		}
		tip, blobs[path] = h, plumbing.ComputeHash(plumbing.BlobObject, text)
	}
	return tip, blobs
}

func without1(path string) bool { return !strings.HasPrefix(path, "04/12/01/") }

// holds asks stock Git whether an object is in a repository.
func holds(t *testing.T, dir string, h plumbing.Hash) bool {
	t.Helper()
	out, err := tryGit(dir, "cat-file", "-e", h.String())
	if err != nil && out != "" && !strings.Contains(out, "Not a valid object name") {
		t.Fatalf("cat-file %s: %v: %s", h, err, out)
	}
	return err == nil
}

func remoteTip(t *testing.T, remote, branch string) string {
	t.Helper()
	return git(t, remote, "for-each-ref", "--format=%(objectname)", "refs/heads/"+branch)
}

func TestARewriteDropsAndThePushReplaces(t *testing.T) {
	for _, packed := range []bool{false, true} {
		t.Run(fmt.Sprintf("packed=%v", packed), func(t *testing.T) {
			r, dir, remote, _ := pair(t)
			const other = "audit/one/r_1/2026-03"
			kept := commit(t, r, other, "", "entries/000/1.jsonl", "{}\n")
			old, blobs := fill(t, r, bodies)
			if err := push(r, t.Context(), bodies, other); err != nil {
				t.Fatal(err)
			}
			if packed {
				git(t, dir, "-c", "core.commitGraph=true", "gc", "-q", "--prune=now")
				r.st.Reindex() // as after a start
				if left, _ := filepath.Glob(filepath.Join(dir, "objects", "??", "*")); len(left) > 0 {
					t.Fatalf("%d loose objects after gc", len(left))
				}
			}
			now, err := r.Rewrite(t.Context(), bodies, old, without1, "2 bodies, 1 erased", noon)
			if err != nil || now == old {
				t.Fatalf("%q, %v", now, err)
			}
			for path, h := range blobs {
				if got := holds(t, dir, h); got != without1(path) {
					t.Errorf("%s is here: %v", path, got)
				}
			}
			if holds(t, dir, plumbing.NewHash(old)) {
				t.Error("the old tip is still here")
			}
			git(t, dir, "fsck", "--strict", "--full")
			if got := git(t, dir, "rev-parse", other); got != kept {
				t.Errorf("the other branch is at %s", got)
			}
			if _, err := r.Commits(old); !errors.Is(err, ErrNotFound) {
				t.Errorf("read what is gone: %v", err)
			}
			if got, err := r.Rewritten("bodies/"); err != nil || len(got) != 1 || got[0] != bodies {
				t.Errorf("rewritten: %v, %v", got, err)
			}
			if err := push(r, t.Context(), bodies, other); err != nil {
				t.Fatal(err)
			}
			if got := remoteTip(t, remote, bodies); got != now {
				t.Errorf("the remote is at %s, want %s", got, now)
			}
			if got := git(t, remote, "log", "--format=%s", bodies); got != "2 bodies, 1 erased" {
				t.Errorf("history on the remote: %s", got)
			}
			if got, err := r.Rewritten("bodies/"); err != nil || len(got) != 0 {
				t.Errorf("still to be settled: %v, %v", got, err)
			}
			// It grows on from there, and is rewritten to nothing.
			more, err := r.Commit(t.Context(), bodies, now, map[string][]byte{"05/00/00/cd/9": []byte("more")}, "a body", noon)
			if err != nil {
				t.Fatal(err)
			}
			if err := push(r, t.Context(), bodies); err != nil {
				t.Fatal(err)
			}
			if gone, err := r.Rewrite(t.Context(), bodies, more, func(string) bool { return false }, "", noon); err != nil || gone != "" {
				t.Fatalf("%q, %v", gone, err)
			}
			if _, ok, err := r.Tip(bodies); err != nil || ok {
				t.Errorf("the branch is still here: %v", err)
			}
			for range 2 { // a second push has nothing to do, and is none
				if err := push(r, t.Context(), bodies); err != nil && !errors.Is(err, ErrNotFound) {
					t.Fatal(err)
				}
			}
			if got := remoteTip(t, remote, bodies); got != "" {
				t.Errorf("the remote still has the branch: %s", got)
			}
			git(t, dir, "fsck", "--strict", "--full")
		})
	}
}

func TestRewriteRefuses(t *testing.T) {
	r, _, _, _ := pair(t)
	old, _ := fill(t, r, bodies)
	const log = "audit/one/r_1/2026-03"
	tip := commit(t, r, log, "", "entries/000/1.jsonl", "{}\n")
	if _, err := r.Rewrite(t.Context(), log, tip, without1, "m", noon); !errors.Is(err, ErrAppendOnly) {
		t.Errorf("the log was rewritten: %v", err)
	}
	if err := r.Restore(log, tip); !errors.Is(err, ErrAppendOnly) {
		t.Errorf("the log was restored: %v", err)
	}
	if _, err := r.Rewrite(t.Context(), bodies, tip, without1, "m", noon); !errors.Is(err, ErrMoved) {
		t.Errorf("from another commit: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Rewrite(ctx, bodies, old, without1, "m", noon); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if now, err := r.Rewrite(t.Context(), bodies, old, func(string) bool { return true }, "m", noon); err != nil || now != old {
		t.Errorf("nothing to drop: %q, %v", now, err)
	}
}

// What stays is not sent again: the remote has it, where it stands at the tip
// that was left.
func TestWhatARewriteKeepsIsNotSentAgain(t *testing.T) {
	r, _, remote, _ := pair(t)
	large := make([]byte, 1<<20)
	if _, err := rand.Read(large); err != nil {
		t.Fatal(err)
	}
	old, err := r.Commit(t.Context(), bodies, "", map[string][]byte{"04/12/00/ab/0": large, "04/12/01/ab/1": []byte("x"), "position": []byte("1")}, "m", noon)
	if err != nil {
		t.Fatal(err)
	}
	if err := push(r, t.Context(), bodies); err != nil {
		t.Fatal(err)
	}
	now, err := r.Rewrite(t.Context(), bodies, old, without1, "m", noon)
	if err != nil {
		t.Fatal(err)
	}
	more, err := r.Commit(t.Context(), bodies, now, map[string][]byte{"04/13/00/ab/2": []byte("y")}, "m", noon)
	if err != nil {
		t.Fatal(err)
	}
	done, err := r.Push(t.Context(), bodies)
	if err != nil || done.Err() != nil || done.Sent > 1<<16 {
		t.Fatalf("%d bytes, %v, %v", done.Sent, err, done.Err())
	}
	if got := remoteTip(t, remote, bodies); got != more {
		t.Errorf("the remote is at %s, want %s", got, more)
	}
	git(t, remote, "fsck", "--strict", "--full")
	// Where it is set back to an older one, everything is sent.
	git(t, remote, "update-ref", "-d", "refs/heads/"+bodies)
	if done, err := r.Push(t.Context(), bodies); err != nil || done.Err() != nil || done.Sent < 1<<20 {
		t.Fatalf("%d bytes, %v, %v", done.Sent, err, done.Err())
	}
	git(t, remote, "fsck", "--strict", "--full")
}

// A branch is rewritten that has grown since it was pushed: wherever the remote
// stands of what it was, it is replaced, or removed.
func TestARewriteReplacesWhatWasNotPushedToItsEnd(t *testing.T) {
	for at := 1; at < 3; at++ { // commits that the remote has
		for _, heard := range []bool{true, false} { // that it has them
			for _, nothing := range []bool{true, false} { // stays
				t.Run(fmt.Sprintf("%d commits, heard=%v, nothing=%v", at, heard, nothing), func(t *testing.T) {
					r, dir, remote, _ := pair(t)
					tip, _ := fill(t, r, bodies)
					if at > 0 {
						there := git(t, dir, "rev-parse", fmt.Sprintf("%s~%d", tip, 3-at))
						git(t, dir, "push", "-q", remote, there+":refs/heads/"+bodies)
						if heard {
							git(t, dir, "update-ref", published(bodies).String(), there)
						}
					}
					now, err := r.Rewrite(t.Context(), bodies, tip, func(path string) bool { return !nothing && without1(path) }, "m", noon)
					if err != nil {
						t.Fatal(err)
					}
					if err := push(r, t.Context(), bodies); err != nil {
						t.Fatal(err)
					}
					if got := remoteTip(t, remote, bodies); got != now {
						t.Errorf("the remote is at %q, want %q", got, now)
					}
					git(t, remote, "fsck", "--strict", "--full")
					if left, err := r.Rewritten("bodies/"); err != nil || len(left) > 0 {
						t.Errorf("still to be settled: %v, %v", left, err)
					}
				})
			}
		}
	}
}

// A push replaces what a rewrite left, and nothing else: a commit that somebody
// put there meanwhile stays.
func TestARewriteReplacesOnlyWhatItLeft(t *testing.T) {
	r, _, remote, _ := pair(t)
	old, _ := fill(t, r, bodies)
	if err := push(r, t.Context(), bodies); err != nil {
		t.Fatal(err)
	}
	stranger := git(t, remote, "-c", "user.name=x", "-c", "user.email=x@example.com",
		"commit-tree", "-p", old, "-m", "mine", git(t, remote, "rev-parse", old+"^{tree}"))
	git(t, remote, "update-ref", "refs/heads/"+bodies, stranger)
	now, err := r.Rewrite(t.Context(), bodies, old, without1, "m", noon)
	if err != nil {
		t.Fatal(err)
	}
	if err := push(r, t.Context(), bodies); !errors.Is(err, ErrRejected) {
		t.Fatalf("push over a stranger's commit: %v", err)
	}
	if got := remoteTip(t, remote, bodies); got != stranger {
		t.Errorf("the remote is at %s", got)
	}
	// Removed here, it is not removed there either.
	if _, err := r.Rewrite(t.Context(), bodies, now, func(string) bool { return false }, "", noon); err != nil {
		t.Fatal(err)
	}
	if err := push(r, t.Context(), bodies); !errors.Is(err, ErrRejected) {
		t.Fatalf("remove a stranger's commit: %v", err)
	}
}

// Killed between any two steps, the branch is whole, and the next start leaves
// nothing of what was to go once the branch has moved.
func TestARewriteSurvivesACrash(t *testing.T) {
	for _, moved := range []bool{false, true} {
		t.Run(fmt.Sprintf("moved=%v", moved), func(t *testing.T) {
			r, dir, _, key := pair(t)
			old, blobs := fill(t, r, bodies)
			c, err := r.Commits(old)
			if err != nil {
				t.Fatal(err)
			}
			made := additions{r: r}
			r.mu.Lock()
			tree, err := made.filter(plumbing.NewHash(c.Tree), "", without1)
			if err != nil {
				t.Fatal(err)
			}
			trees := made.names
			commit, err := made.commit(r.signer, tree, plumbing.ZeroHash, "m", noon)
			if err = errors.Join(err, made.store()); err != nil {
				t.Fatal(err)
			}
			list, err := r.doom(bodies, plumbing.NewHash(old), tree, made.names)
			if err != nil {
				t.Fatal(err)
			}
			if moved {
				if err := r.replace(plumbing.NewBranchReferenceName(bodies), bodies, plumbing.NewHash(old), commit, trees); err != nil {
					t.Fatal(err)
				}
				if err := os.Remove(r.loose(blobs["04/12/01/ab/1"])); err != nil { // and died in the middle
					t.Fatal(err)
				}
			}
			r.mu.Unlock()
			again := audit(t, dir, "", key)
			tip, ok, err := again.Tip(bodies)
			if err != nil || !ok {
				t.Fatal(ok, err)
			}
			want := old
			if moved {
				want = commit.String()
			}
			if tip != want {
				t.Errorf("at %s, want %s", tip, want)
			}
			for path, h := range blobs {
				if got := holds(t, dir, h); got != (!moved || without1(path)) {
					t.Errorf("%s is here: %v", path, got)
				}
			}
			if _, err := os.Stat(list); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the list is still here: %v", err)
			}
			if len(again.Dropped()) > 0 {
				t.Errorf("dropped: %v", again.Dropped())
			}
			if !moved {
				if _, err := again.Rewrite(t.Context(), bodies, old, without1, "m", noon); err != nil {
					t.Errorf("a second time: %v", err)
				}
			}
			git(t, dir, "fsck", "--strict", "--full")
		})
	}
}

// A reference that a crash took back is put where it was, if its commit is
// whole, and stays otherwise.
func TestRestore(t *testing.T) {
	r, dir, _, _ := pair(t)
	tip, blobs := fill(t, r, bodies)
	c, err := r.Commits(tip)
	if err != nil {
		t.Fatal(err)
	}
	ref := filepath.Join(dir, "refs", "heads", filepath.FromSlash(bodies))
	if err := os.WriteFile(ref, []byte(c.Parents[0]+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.Restore(bodies, tip); err != nil {
		t.Fatal(err)
	}
	if got, _, err := r.Tip(bodies); err != nil || got != tip {
		t.Errorf("at %s, %v", got, err)
	}
	if err := os.Remove(ref); err != nil {
		t.Fatal(err)
	}
	if err := r.Restore(bodies, tip); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(ref); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(r.loose(blobs["04/12/02/ab/2"])); err != nil {
		t.Fatal(err)
	}
	r.cache.Clear()
	if err := r.Restore(bodies, tip); !errors.Is(err, ErrNotFound) {
		t.Errorf("restored without one of its files: %v", err)
	}
	if _, ok, err := r.Tip(bodies); err != nil || ok {
		t.Errorf("it moved: %v", err)
	}
}

func TestFetchNewBringsWhatWasLost(t *testing.T) {
	r, _, remote, key := pair(t)
	const log = "audit/one/r_1/2026-03"
	commit(t, r, log, "", "entries/000/1.jsonl", "{}\n")
	tip, _ := fill(t, r, bodies)
	fill(t, r, "bodies/two/r_2/2026-03")
	if err := push(r, t.Context(), log, bodies, "bodies/two/r_2/2026-03"); err != nil {
		t.Fatal(err)
	}
	fresh := audit(t, filepath.Join(t.TempDir(), "fresh"), remote, key)
	for range 2 {
		if err := fresh.FetchNew(t.Context(), "audit/one/", "bodies/one/"); err != nil {
			t.Fatal(err)
		}
		if got, err := fresh.Branches(""); err != nil || strings.Join(got, " ") != log+" "+bodies {
			t.Fatalf("%v, %v", got, err)
		}
	}
	now, err := fresh.Rewrite(t.Context(), bodies, tip, func(string) bool { return false }, "", noon)
	if err != nil || now != "" {
		t.Fatal(now, err)
	}
	if err := fresh.FetchNew(t.Context(), "bodies/one/"); err != nil {
		t.Fatal(err)
	}
	if got, err := fresh.Branches("bodies/"); err != nil || len(got) != 0 {
		t.Errorf("what was removed came back: %v, %v", got, err)
	}
	if err := push(fresh, t.Context(), bodies); err != nil {
		t.Fatal(err)
	}
	if got := remoteTip(t, remote, bodies); got != "" {
		t.Errorf("the remote still has it")
	}
}

func TestAHostThatRefusesToReplaceIsTold(t *testing.T) {
	r, _, remote, _ := pair(t)
	old, _ := fill(t, r, bodies)
	if err := push(r, t.Context(), bodies); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Rewrite(t.Context(), bodies, old, without1, "m", noon); err != nil {
		t.Fatal(err)
	}
	if err := githost.RefusePushes(remote, "no force here"); err != nil {
		t.Fatal(err)
	}
	if err := push(r, t.Context(), bodies); !errors.Is(err, ErrRefused) || errors.Is(err, ErrRejected) {
		t.Fatalf("refused by a hook: %v", err)
	}
	if err := githost.RefusePushes(remote, ""); err != nil {
		t.Fatal(err)
	}
	if err := push(r, t.Context(), bodies); err != nil {
		t.Fatal(err)
	}
}
