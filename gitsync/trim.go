package gitsync

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/storage/filesystem"
)

// Trim takes out of this repository what the remote has confirmed, so that it
// does not grow for ever: of the branches that begin with prefix, the published
// commits from before a moment, with what they added. It returns how many
// objects went.
//
// What is not published stays, and so does what the next commits build on: the
// published tip, and of its tree the folders that a path which sorts after all
// others may touch (the top two levels, and below them the last folder of
// each). A branch that is over goes altogether, if it is published. One under
// bodies/ keeps its folders, see trimFiles.
//
// A repository that was trimmed is no clone: Git finds objects missing. And
// should the remote lose commits from before the moment, Push says so
// (ErrRejected) instead of bringing them back: a clone has them.
func (r *Repo) Trim(ctx context.Context, prefix string, before time.Time, over func(branch string) bool) (n int, err error) {
	branches, err := r.Branches(prefix)
	if err != nil {
		return 0, err
	}
	// A reader of its own: a long history must not hold up Commit. Nobody else
	// reads what goes, and nobody writes it again, since every path, and the
	// content under it, is new.
	st := storageAt(r.dir)
	defer func() { err = errors.Join(err, st.ObjectStorage.Close()) }()
	for _, b := range branches {
		k, err := 0, error(nil)
		if strings.HasPrefix(b, rewritable) {
			k, err = r.trimFiles(ctx, st, b, before)
		} else {
			k, err = r.trim(ctx, st, b, before, over(b))
		}
		if n += k; err != nil {
			return n, err
		}
	}
	return n, r.gather()
}

func (r *Repo) trim(ctx context.Context, st *filesystem.Storage, branch string, before time.Time, over bool) (n int, err error) {
	name, err := branchRef(branch)
	if err != nil {
		return 0, err
	}
	r.mu.Lock()
	tip, err := r.ref(name)
	sent, serr := r.ref(published(branch))
	r.mu.Unlock()
	if err := errors.Join(err, serr); err != nil || sent.IsZero() {
		return 0, err
	}
	over = over && tip == sent
	keep := map[plumbing.Hash]bool{}
	if !over {
		c, _, err := readCommit(st, sent)
		if err != nil {
			return 0, err
		}
		keep[sent] = true
		if err := growing(st, c.tree, 0, keep); err != nil {
			return 0, err
		}
	}
	gone, err := r.outdated(ctx, st, sent, before, over, keep)
	if err != nil {
		return 0, err
	}
	packed := map[plumbing.Hash]bool{}
	for _, h := range slices.Backward(gone) { // the oldest first: a later Trim looks from the newest on
		if err := ctx.Err(); err != nil {
			return n, err
		}
		switch err := os.Remove(r.loose(h)); {
		case err == nil:
			n++
		case !errors.Is(err, os.ErrNotExist):
			return n, err
		default: // in a pack, or gone
			packed[h] = true
		}
	}
	k, err := r.trimPacks(packed)
	if n += k; err != nil {
		return n, err
	}
	if over {
		return n, r.forget(name, published(branch))
	}
	return n, nil
}

// trimPacks takes objects out of packs, once no push reads any.
func (r *Repo) trimPacks(gone map[plumbing.Hash]bool) (int, error) {
	if len(gone) == 0 {
		return 0, nil
	}
	r.packs.Lock()
	defer r.packs.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.unpackFrom(gone)
}

// outdated lists what may go, the newest commit first, each before what it
// added to its parent.
func (r *Repo) outdated(ctx context.Context, st *filesystem.Storage, sent plumbing.Hash, before time.Time, over bool, keep map[plumbing.Hash]bool) (gone []plumbing.Hash, err error) {
	reader := &Repo{dir: r.dir, st: st}
	for at := sent; ; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		c, _, err := readCommit(st, at)
		if errors.Is(err, ErrNotFound) {
			return gone, nil // went before, and all that is older
		}
		if err != nil {
			return nil, err
		}
		base := plumbing.ZeroHash
		if len(c.parents) > 0 {
			p, _, err := readCommit(st, c.parents[0])
			switch {
			case err == nil:
				base = p.tree
			case !errors.Is(err, ErrNotFound):
				return nil, err
			}
		}
		var added []plumbing.Hash
		if base.IsZero() && len(c.parents) > 0 {
			// Its parent went before: what of its tree is still here was added by
			// it, or kept for it.
			if over || c.committer.when.Before(before) {
				if added, err = reader.present(c.tree, 0); err != nil {
					return nil, err
				}
			}
		} else if err := reader.added(base, c.tree, map[plumbing.Hash]bool{}, &added); err != nil && !errors.Is(err, ErrNotFound) {
			return nil, err
		}
		if over || c.committer.when.Before(before) {
			for _, h := range append([]plumbing.Hash{at}, added...) {
				if !keep[h] {
					gone = append(gone, h)
				}
			}
		}
		if len(c.parents) == 0 {
			return gone, nil
		}
		at = c.parents[0]
	}
}

// present lists what of a tree is on this disk. Of folders that growing did not
// keep, nothing is.
func (r *Repo) present(tree plumbing.Hash, depth int) (list []plumbing.Hash, err error) {
	entries, err := readTree(r.st, tree)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	list = append(list, tree)
	var dirs []treeEntry
	for _, e := range entries {
		if e.dir() {
			dirs = append(dirs, e)
		} else {
			list = append(list, e.hash)
		}
	}
	for _, d := range lastOf(dirs, depth) {
		below, err := r.present(d.hash, depth+1)
		if err != nil {
			return nil, err
		}
		list = append(list, below...)
	}
	return list, nil
}

// lastOf chooses the folders at a depth that later commits may write into.
func lastOf(dirs []treeEntry, depth int) []treeEntry {
	if depth > 1 && len(dirs) > 1 {
		return dirs[len(dirs)-1:]
	}
	return dirs
}

// growing marks the folders of a tree that later commits may write into, and
// the files beside the top one.
func growing(st *filesystem.Storage, tree plumbing.Hash, depth int, keep map[plumbing.Hash]bool) error {
	keep[tree] = true
	entries, err := readTree(st, tree)
	if err != nil {
		return err
	}
	var dirs []treeEntry
	for _, e := range entries {
		if e.dir() {
			dirs = append(dirs, e)
		} else if depth == 0 {
			keep[e.hash] = true
		}
	}
	for _, d := range lastOf(dirs, depth) {
		if err := growing(st, d.hash, depth+1, keep); err != nil {
			return err
		}
	}
	return nil
}

// forget removes references.
func (r *Repo) forget(names ...plumbing.ReferenceName) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range names {
		path := filepath.Join(r.dir, filepath.FromSlash(n.String()))
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		for dir := filepath.Dir(path); strings.Count(dir, "/") > strings.Count(filepath.Join(r.dir, "refs", "x"), "/"); dir = filepath.Dir(dir) {
			if os.Remove(dir) != nil { // not empty
				break
			}
		}
	}
	return nil
}
