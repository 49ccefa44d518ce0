package gitsync

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
)

// shelf is a branch of bodies, an hour a commit.
type shelf struct {
	t           *testing.T
	r           *Repo
	dir, remote string
	key         []byte
	each        int // bodies of a commit
	when        time.Time
	blobs       map[string]plumbing.Hash // by path
	tips        []string
}

func newShelf(t *testing.T, each int) *shelf {
	t.Helper()
	s := &shelf{t: t, each: each, when: noon, blobs: map[string]plumbing.Hash{}}
	s.r, s.dir, s.remote, s.key = pair(t)
	return s
}

// grow commits to the newest folder and a new one, as calls do that last.
func (s *shelf) grow(n int) {
	s.t.Helper()
	for range n {
		files, tip := map[string][]byte{}, ""
		if k := len(s.tips); k > 0 {
			tip = s.tips[k-1]
		}
		for i := range s.each {
			at := s.when.Add(time.Duration(i%2) * time.Minute)
			path := fmt.Sprintf("%s/%02x/%d-%d", at.Format("02/15/04"), i%3, len(s.tips), i)
			files[path] = fmt.Appendf(nil, "body %s", path)
			s.blobs[path] = plumbing.ComputeHash(plumbing.BlobObject, files[path])
		}
		files["position"] = fmt.Appendf(nil, "%d", len(s.tips))
		made, err := s.r.Commit(s.t.Context(), bodies, tip, files, "m", s.when)
		if err != nil {
			s.t.Fatal(err)
		}
		s.tips, s.when = append(s.tips, made), s.when.Add(time.Minute)
	}
}

func (s *shelf) push() {
	s.t.Helper()
	if err := push(s.r, s.t.Context(), bodies); err != nil {
		s.t.Fatal(err)
	}
	git(s.t, s.remote, "fsck", "--strict", "--full")
}

func (s *shelf) trim(before time.Time) int {
	s.t.Helper()
	n, err := s.r.Trim(s.t.Context(), "bodies/", before, func(string) bool { return true })
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// restart opens the repository again, which must leave every branch alone.
func (s *shelf) restart() {
	s.t.Helper()
	s.r = audit(s.t, s.dir, s.remote, s.key)
	if d := s.r.Dropped(); len(d) > 0 {
		s.t.Fatalf("a start takes back %s", d)
	}
}

// rewrite drops what commit n brought.
func (s *shelf) rewrite(n int) {
	s.t.Helper()
	now, err := s.r.Rewrite(s.t.Context(), bodies, s.tips[len(s.tips)-1], s.without(n), "m", s.when)
	if err != nil {
		s.t.Fatal(err)
	}
	s.tips = append(s.tips, now)
}

func (s *shelf) without(n int) func(path string) bool {
	return func(path string) bool { return !strings.Contains(path, fmt.Sprintf("/%d-", n)) }
}

// here checks of which commits the bodies are on this disk.
func (s *shelf) here(want func(commit int) bool) {
	s.t.Helper()
	var names strings.Builder
	for _, h := range s.blobs {
		fmt.Fprintln(&names, h)
	}
	cmd := exec.CommandContext(s.t.Context(), "git", "-C", s.dir, "cat-file", "--batch-check")
	cmd.Stdin = strings.NewReader(names.String())
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatal(err)
	}
	for path, h := range s.blobs {
		if got := strings.Contains(string(out), h.String()+" blob "); got != want(commitOf(s.t, path)) {
			s.t.Errorf("body %s is here: %v", path, got)
		}
	}
}

// commitOf is the number of the commit that brought a body.
func commitOf(t *testing.T, path string) (n int) {
	t.Helper()
	if _, err := fmt.Sscanf(filepath.Base(path), "%d-", &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// there checks that the remote has the bodies of these commits and no others.
func (s *shelf) there(want func(commit int) bool) {
	s.t.Helper()
	list := git(s.t, s.remote, "ls-tree", "-r", "--name-only", bodies) + "\n"
	for path := range s.blobs {
		if got := strings.Contains(list, path+"\n"); got != want(commitOf(s.t, path)) {
			s.t.Errorf("the remote has %s: %v", path, got)
		}
	}
}

// Of bodies that the remote has, the files go after a while and the folders
// stay: the branch goes on, over restarts, and is written anew without what is
// not here any more.
func TestTrimOfBodies(t *testing.T) {
	for name, each := range map[string]int{"files": 4, "packs": packFrom} {
		t.Run(name, func(t *testing.T) {
			s := newShelf(t, each)
			s.grow(3)
			if n := s.trim(s.when); n != 0 {
				t.Errorf("%d objects went that nobody else has", n)
			}
			s.push()
			before := s.when
			s.grow(2)
			s.push()
			s.grow(1) // not pushed
			if n := s.trim(before); n < 3*each {
				t.Errorf("%d objects went", n)
			}
			s.here(func(c int) bool { return c >= 3 })
			if n := s.trim(before); n != 0 {
				t.Errorf("%d more went", n)
			}
			if n := len(loose(t, s.dir)); name == "packs" && n > 0 {
				t.Errorf("%d files beside packs", n)
			}
			s.restart()
			if n := s.trim(before); n != 0 {
				t.Errorf("%d more went after a start", n)
			}
			s.grow(1)
			s.push()
			// Every folder is here, of all commits that are.
			for at := s.tips[len(s.tips)-1]; ; {
				git(t, s.dir, "ls-tree", "-r", "-t", "--name-only", at)
				c, err := s.r.Commits(at)
				if err != nil {
					t.Fatal(err)
				}
				if at = c.Parents[0]; !holds(t, s.dir, plumbing.NewHash(at)) {
					break
				}
			}
			if b, err := s.r.File(s.tips[len(s.tips)-1], "position"); err != nil || string(b) != "6" {
				t.Errorf("position %q, %v", b, err)
			}
			// All of it is old; it is written anew, and goes on.
			s.trim(s.when)
			s.here(func(int) bool { return false })
			s.rewrite(1)
			s.restart() // before it is pushed
			s.grow(1)
			s.restart()
			s.push()
			s.there(func(c int) bool { return c != 1 })
			s.trim(s.when)
			s.here(func(int) bool { return false })
			s.grow(1)
			s.push()
			// Twice, before the remote sees either.
			s.rewrite(2)
			s.rewrite(3)
			s.restart()
			s.push()
			s.there(func(c int) bool { return c < 1 || c > 3 })
			if got, want := remoteTip(t, s.remote, bodies), s.tips[len(s.tips)-1]; got != want {
				t.Errorf("the remote is at %s, want %s", got, want)
			}
			// A branch that is over stays: an erasure must find it.
			if _, ok, err := s.r.Tip(bodies); err != nil || !ok {
				t.Errorf("the branch is gone: %v", err)
			}
		})
	}
}

// What the remote loses later cannot come from here: that is said.
func TestTrimmedBodiesThatTheRemoteLoses(t *testing.T) {
	s := newShelf(t, 4)
	s.grow(1)
	s.push()
	s.trim(s.when)
	git(t, s.remote, "update-ref", "-d", "refs/heads/"+bodies)
	if err := push(s.r, t.Context(), bodies); !errors.Is(err, ErrRejected) || !strings.Contains(err.Error(), "from a clone that has them") {
		t.Errorf("got %v", err)
	}
	s.grow(2)
	s.rewrite(1)
	if err := push(s.r, t.Context(), bodies); !errors.Is(err, ErrRejected) {
		t.Errorf("got %v", err)
	}
}

// Killed while it writes the branch anew, a trimmed repository loses nothing of
// it.
func TestARewriteOfTrimmedBodiesSurvivesACrash(t *testing.T) {
	for _, moved := range []bool{false, true} {
		t.Run(fmt.Sprintf("moved=%v", moved), func(t *testing.T) {
			s := newShelf(t, 4)
			s.grow(4)
			s.push()
			s.trim(s.when.Add(-time.Minute))
			old := plumbing.NewHash(s.tips[3])
			c, err := s.r.Commits(s.tips[3])
			if err != nil {
				t.Fatal(err)
			}
			made := additions{r: s.r}
			s.r.mu.Lock()
			tree, err := made.filter(plumbing.NewHash(c.Tree), "", s.without(1))
			if err != nil {
				t.Fatal(err)
			}
			trees := made.names
			commit, err := made.commit(s.r.signer, tree, plumbing.ZeroHash, "m", s.when)
			if err = errors.Join(err, made.store()); err != nil {
				t.Fatal(err)
			}
			if _, err := s.r.doom(bodies, old, tree, made.names); err != nil {
				t.Fatal(err)
			}
			if err := s.r.replace(plumbing.NewBranchReferenceName(bodies), bodies, old, commit, trees); err != nil {
				t.Fatal(err)
			}
			s.r.mu.Unlock()
			if !moved { // the note was written, and that is all
				git(t, s.dir, "update-ref", "refs/heads/"+bodies, old.String())
			}
			s.restart()
			want := map[bool]string{false: old.String(), true: commit.String()}[moved]
			if tip, _, err := s.r.Tip(bodies); err != nil || tip != want {
				t.Fatalf("at %s, want %s: %v", tip, want, err)
			}
			s.tips = append(s.tips, want)
			if !moved {
				s.rewrite(1)
				s.restart()
			}
			s.grow(1)
			s.restart()
			s.push()
			s.there(func(c int) bool { return c != 1 })
		})
	}
}

// Killed in the middle, a Trim is finished by the next start: what it had not
// taken yet, the history here may not lead to any more.
func TestATrimOfBodiesIsFinishedAfterACrash(t *testing.T) {
	s := newShelf(t, 4)
	s.grow(4)
	s.push()
	chain, err := s.r.chain(t.Context(), plumbing.NewHash(s.tips[3]))
	if err != nil {
		t.Fatal(err)
	}
	gone, _, err := s.r.old(t.Context(), chain, 1, plumbing.ZeroHash)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.r.writeDoomed(plumbing.ZeroHash, bodies, keysOf(gone)); err != nil {
		t.Fatal(err)
	}
	for _, tip := range s.tips[:2] { // and died when these were gone
		if err := os.Remove(s.r.loose(plumbing.NewHash(tip))); err != nil {
			t.Fatal(err)
		}
	}
	s.restart()
	s.here(func(c int) bool { return c == 3 })
	for h := range gone {
		if holds(t, s.dir, h) {
			t.Errorf("%s is still here", h)
		}
	}
	s.grow(1)
	s.push()
	s.trim(s.when)
	s.here(func(int) bool { return false })
}

func keysOf(set map[plumbing.Hash]bool) (all []plumbing.Hash) {
	for h := range set {
		all = append(all, h)
	}
	return all
}

// Packs do not become more and more.
func TestTrimGathersPacks(t *testing.T) {
	r, dir, _, _ := pair(t)
	var all []plumbing.Hash
	for i := range manyPacks + 1 {
		to := additions{r: r}
		h, err := to.add(plumbing.BlobObject, fmt.Appendf(nil, "blob %d", i))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(to.store(), r.repack([]plumbing.Hash{h}), os.Remove(r.loose(h))); err != nil {
			t.Fatal(err)
		}
		all = append(all, h)
	}
	if _, err := r.Trim(t.Context(), "bodies/", noon, func(string) bool { return true }); err != nil {
		t.Fatal(err)
	}
	if got := packs(t, dir); strings.Join(got, " ") != ".idx .pack" {
		t.Errorf("packs: %v", got)
	}
	for _, h := range all {
		if !holds(t, dir, h) {
			t.Errorf("%s is gone", h)
		}
	}
	git(t, dir, "fsck", "--strict", "--full")
}
