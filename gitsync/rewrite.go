package gitsync

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
)

// Branches under bodies/ may be written anew, so that what they held is gone:
// nobody's proof rests on their history. All others only grow.
//
// A repository that rewrites has, beside Git's own files:
//
//	rewritten/<branch>   the tips that rewrites left behind, and what of their
//	                     history the remote was not known to be past, until it has
//	                     what took their place: where the remote stands at one of
//	                     these, and only there, Push replaces it (see left)
//	doomed/<old tip>     what a rewrite takes out of the object store: a line
//	                     "<old tip> <branch>", then the objects' names, a line
//	                     each; gone when they are
//
// The doomed are durable before the branch moves, and count once it has left
// the old tip. So a crash at any moment leaves the branch whole, either as it
// was or anew, and the next start finishes what was begun.
const (
	rewritable   = "bodies/"
	rewrittenDir = "rewritten"
	doomedDir    = "doomed"
)

// ErrAppendOnly is returned for a rewrite of a branch that only grows.
var ErrAppendOnly = errors.New("the branch only grows: nothing in it is written anew")

// Rewrite replaces a branch under bodies/, which must stand at old (ErrMoved),
// by a single signed commit with the files of old that keep lets stay. If none
// stays, the branch goes, and new is "". If all do, nothing happens, and new is
// old. When it returns without an error, what was dropped is out of this
// repository, packs included, and the next Push of the branch replaces the
// remote's: only if that stands where this one stood.
func (r *Repo) Rewrite(ctx context.Context, branch, old string, keep func(path string) bool, message string, when time.Time) (new string, err error) {
	name, err := branchRef(branch)
	if err != nil {
		return "", err
	}
	if !strings.HasPrefix(branch, rewritable) {
		return "", fmt.Errorf("%s: %w", branch, ErrAppendOnly)
	}
	if r.signer == nil {
		return "", errors.New("this repository was opened for reading")
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	was := plumbing.NewHash(old)
	if err := r.standsAt(name, was); err != nil {
		return "", err
	}
	c, _, err := readCommit(r.st, was)
	if err != nil {
		return "", err
	}
	made := additions{r: r}
	tree, err := made.filter(c.tree, "", keep)
	if err != nil || tree == c.tree {
		return old, err
	}
	trees := made.names
	commit := plumbing.ZeroHash
	if !tree.IsZero() {
		if commit, err = made.commit(r.signer, tree, plumbing.ZeroHash, message, when); err != nil {
			return "", err
		}
	}
	if err := made.store(); err != nil {
		return "", err
	}
	list, err := r.doom(branch, was, tree, made.names)
	if err != nil {
		return "", err
	}
	if err := r.replace(name, branch, was, commit, trees); err != nil {
		return "", err
	}
	if _, err := r.takeOut(list); err != nil || commit.IsZero() {
		return "", err
	}
	return commit.String(), nil
}

// filter gives the tree with the files that may stay; zero if none may.
func (a *additions) filter(tree plumbing.Hash, prefix string, keep func(path string) bool) (plumbing.Hash, error) {
	entries, err := readTree(a.r.st, tree)
	if err != nil {
		return tree, err
	}
	changed := false
	left := entries[:0]
	for _, e := range entries {
		if !e.dir() {
			if keep(prefix + e.name) {
				left = append(left, e)
			} else {
				changed = true
			}
			continue
		}
		h, err := a.filter(e.hash, prefix+e.name+"/", keep)
		if err != nil {
			return tree, err
		}
		changed = changed || h != e.hash
		if e.hash = h; !h.IsZero() {
			left = append(left, e)
		}
	}
	switch {
	case !changed:
		return tree, nil
	case len(left) == 0:
		return plumbing.ZeroHash, nil
	}
	return a.add(plumbing.TreeObject, encodeTree(left))
}

// doom writes down what goes when the branch leaves the commit was for one
// with the tree (zero: for nothing): all that its history holds and the tree
// does not. That is shared with no other branch: the names of bodies are
// salted digests, and a position belongs to one branch. What stays is made
// durable, made included.
func (r *Repo) doom(branch string, was, tree plumbing.Hash, made []plumbing.Hash) (list string, err error) {
	stay := map[plumbing.Hash]bool{}
	var live []plumbing.Hash
	if !tree.IsZero() {
		if err := r.added(plumbing.ZeroHash, tree, stay, &live); err != nil {
			return "", err
		}
	}
	sent, err := r.ref(published(branch))
	if err != nil {
		return "", err
	}
	if sent == was {
		live = nil // what the remote has was synced when it was sent
	}
	if err := r.syncObjects(append(live, made...)); err != nil {
		return "", err
	}

	var objects []plumbing.Hash
	for at := was; ; {
		c, _, err := readCommit(r.st, at)
		if errors.Is(err, ErrNotFound) && at != was {
			break // what is older is not here any more
		}
		if err != nil {
			return "", err
		}
		objects = append(objects, at)
		if err := r.added(plumbing.ZeroHash, c.tree, stay, &objects); err != nil && !errors.Is(err, ErrNotFound) {
			return "", err
		}
		if len(c.parents) == 0 {
			break
		}
		at = c.parents[0]
	}
	return r.writeDoomed(was, branch, objects)
}

// writeDoomed writes down what goes once the branch has left the commit was; zero:
// at once.
func (r *Repo) writeDoomed(was plumbing.Hash, branch string, objects []plumbing.Hash) (list string, err error) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s\n", was, branch)
	for _, h := range objects {
		b.WriteString(h.String() + "\n")
	}
	dir := filepath.Join(r.dir, doomedDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	list = filepath.Join(dir, was.String())
	return list, errors.Join(writeDurable(list, []byte(b.String())), syncPath(r.dir))
}

// replace moves the branch, durably, after noting what it leaves.
func (r *Repo) replace(name plumbing.ReferenceName, branch string, was, commit plumbing.Hash, made []plumbing.Hash) error {
	l, err := r.left(branch)
	if err != nil {
		return err
	}
	stood, err := r.remoteStands(branch, was)
	if err != nil {
		return err
	}
	l.tips = append(slices.DeleteFunc(l.tips, func(h plumbing.Hash) bool { return slices.Contains(stood, h) }), stood...)
	sent, err := r.ref(published(branch))
	if err != nil {
		return err
	}
	switch {
	case !sent.IsZero():
		l.stop = sent
	case slices.Contains(stood, l.new): // or that rewrite never came to be, and what was said of it holds
		l.stop = l.new
	}
	l.new, l.made = commit, made
	note := filepath.Join(r.dir, rewrittenDir, filepath.FromSlash(branch))
	if err := os.MkdirAll(filepath.Dir(note), 0o700); err != nil {
		return err
	}
	if err := writeDurable(note, l.encode()); err != nil {
		return err
	}
	if err := r.syncUp(filepath.Dir(note)); err != nil {
		return err
	}
	// What was published is about to go, as far as this repository is concerned.
	if err := r.unref(published(branch)); err != nil {
		return err
	}
	path := filepath.Join(r.dir, filepath.FromSlash(name.String()))
	if commit.IsZero() {
		if err := r.standsAt(name, was); err != nil {
			return err
		}
		if err := r.unref(name); err != nil {
			return err
		}
	} else {
		if err := r.move(name, was, commit); err != nil {
			return err
		}
		if err := syncPath(path); err != nil {
			return err
		}
	}
	return r.syncUp(filepath.Dir(path))
}

// remoteStands lists the commits at which the remote may stand where a branch is
// at was here, which comes last: the one that it confirmed last, and those after
// it, which a push may have taken there that nobody heard the end of.
func (r *Repo) remoteStands(branch string, was plumbing.Hash) ([]plumbing.Hash, error) {
	sent, err := r.ref(published(branch))
	if err != nil {
		return nil, err
	}
	list := []plumbing.Hash{was}
	for at := was; at != sent; {
		c, _, err := readCommit(r.st, at)
		if errors.Is(err, ErrNotFound) && at != was {
			break // what is older is not here any more
		}
		if err != nil {
			return nil, err
		}
		if len(c.parents) == 0 {
			break
		}
		at = c.parents[0]
		list = append(list, at)
	}
	slices.Reverse(list)
	return list, nil
}

// unref removes a reference: first from the file packed-refs, where stock Git
// may have gathered it, or what stands there would show again.
func (r *Repo) unref(name plumbing.ReferenceName) error {
	path := filepath.Join(r.dir, "packed-refs")
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	lines := strings.SplitAfter(string(b), "\n")
	left := slices.DeleteFunc(slices.Clone(lines), func(l string) bool {
		_, ref, _ := strings.Cut(strings.TrimSuffix(l, "\n"), " ")
		return ref == name.String()
	})
	if len(left) != len(lines) {
		if err := writeDurable(path, []byte(strings.Join(left, ""))); err != nil {
			return err
		}
	}
	err = os.Remove(filepath.Join(r.dir, filepath.FromSlash(name.String())))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// syncUp makes the names durable that lead to a folder of this repository, as
// far as there are any: removing the last branch of a folder may remove it.
func (r *Repo) syncUp(dir string) error {
	for ; len(dir) >= len(r.dir); dir = filepath.Dir(dir) {
		if err := syncPath(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Restore puts a branch under bodies/ at a commit that descends from where it
// stands, if it stands anywhere: where it stood before a crash took the
// reference back. What the commit adds must be whole.
func (r *Repo) Restore(branch, commit string) error {
	name, err := branchRef(branch)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(branch, rewritable) {
		return fmt.Errorf("%s: %w", branch, ErrAppendOnly)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	tip, err := r.ref(name)
	if err != nil {
		return err
	}
	to, err := parseHash(commit)
	if err != nil || to == tip {
		return err
	}
	for at := to; at != tip; {
		c, err := r.whole(at)
		if err != nil {
			return err
		}
		if len(c.parents) == 0 {
			if !tip.IsZero() {
				return fmt.Errorf("%w: %s does not descend from %s", ErrMoved, to, tip)
			}
			break
		}
		at = c.parents[0]
	}
	return r.move(name, tip, to)
}
