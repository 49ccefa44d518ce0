package gitsync

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/storage/filesystem"
)

// Of a branch under bodies/, Trim takes out the files of what is old, and the
// folders that later commits replaced, but no folder of the tip: so the branch
// can still be written anew, without what was in it. Nor does it go when it is
// over. What is left of its history always has all of its folders.

const (
	manyPacks  = 64       // more than these are gathered
	gatherSize = 64 << 20 // bytes of packs, the smallest first, that become one
)

// past is a commit that is on the remote.
type past struct {
	hash, tree plumbing.Hash
	when       time.Time
}

// trimFiles is Trim for one branch under bodies/.
func (r *Repo) trimFiles(ctx context.Context, st *filesystem.Storage, branch string, before time.Time) (n int, err error) {
	r.mu.Lock()
	sent, err := r.ref(published(branch))
	done := r.trimmed[branch]
	r.mu.Unlock()
	if err != nil || sent.IsZero() {
		return 0, err
	}
	reader := &Repo{dir: r.dir, st: st}
	chain, err := reader.chain(ctx, sent)
	if err != nil {
		return 0, err
	}
	newest := slices.IndexFunc(chain, func(p past) bool { return p.when.Before(before) })
	if newest < 0 || chain[newest].hash == done {
		return 0, nil
	}
	gone, stay, err := reader.old(ctx, chain, newest, done)
	if err != nil {
		return 0, err
	}
	r.packs.Lock()
	defer r.packs.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if now, err := r.ref(published(branch)); err != nil || now != sent {
		return 0, err // written anew meanwhile, maybe with some of these folders
	}
	n, err = r.drop(branch, gone, stay)
	if err == nil {
		if r.trimmed == nil {
			r.trimmed = map[string]plumbing.Hash{}
		}
		r.trimmed[branch] = chain[newest].hash
	}
	return n, err
}

// chain lists the commits from one on that are here, the newest first.
func (r *Repo) chain(ctx context.Context, from plumbing.Hash) (list []past, err error) {
	for at := from; ctx.Err() == nil; {
		c, _, err := readCommit(r.st, at)
		if errors.Is(err, ErrNotFound) && len(list) > 0 {
			return list, nil
		}
		if err != nil {
			return nil, err
		}
		list = append(list, past{at, c.tree, c.committer.when})
		if len(c.parents) == 0 {
			return list, nil
		}
		at = c.parents[0]
	}
	return nil, ctx.Err()
}

// old lists what goes of a chain of commits of which those from the newest old
// one on are old, and the folders that stay of them. That one stays, without
// files, so that next time it is known what the one after it added. It is done
// with those from done on.
func (r *Repo) old(ctx context.Context, chain []past, newest int, done plumbing.Hash) (gone map[plumbing.Hash]bool, stay []plumbing.Hash, err error) {
	gone = map[plumbing.Hash]bool{}
	top, err := readTree(r.st, chain[0].tree) // of what is on the remote
	if err != nil {
		return nil, nil, err
	}
	first := plumbing.ZeroHash // the folders that were looked at before
	for k := len(chain) - 1; k >= newest; k-- {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		base := plumbing.ZeroHash
		if k+1 < len(chain) {
			base = chain[k+1].tree
		}
		if chain[k].hash == done {
			first = chain[k].tree
		} else if err := r.differ(base, chain[k].tree, into(gone, false)); err != nil {
			return nil, nil, err
		}
		if k > newest {
			gone[chain[k].hash] = true
			if err := r.differ(chain[k-1].tree, chain[k].tree, into(gone, true)); err != nil {
				return nil, nil, err
			}
		}
	}
	for _, e := range top {
		if !e.dir() {
			delete(gone, e.hash)
		}
	}
	folders := map[plumbing.Hash]bool{}
	if err := r.differ(first, chain[newest].tree, into(folders, true)); err != nil {
		return nil, nil, err
	}
	for h := range folders {
		stay = append(stay, h)
	}
	return gone, stay, nil
}

// into has differ collect the folders that it meets, or else the files.
func into(set map[plumbing.Hash]bool, folders bool) func(plumbing.Hash, bool) bool {
	return func(h plumbing.Hash, folder bool) bool {
		if folder == folders {
			set[h] = true
		}
		return true
	}
}

// drop takes objects out of this repository, and puts folders that stay into a
// pack, if they are many: a file of its own is a block of the disk for each. What
// goes is written down first, as a rewrite does it: what a crash leaves of it,
// the next start takes out, since the history here may not lead to it any more.
// r.packs and r.mu are held.
func (r *Repo) drop(branch string, gone map[plumbing.Hash]bool, stay []plumbing.Hash) (n int, err error) {
	stay = slices.DeleteFunc(stay, func(h plumbing.Hash) bool {
		_, err := os.Stat(r.loose(h))
		return err != nil // in a pack
	})
	if len(stay) >= packFrom {
		if err := r.repack(stay); err != nil {
			return 0, err
		}
		for _, h := range stay {
			if err := os.Remove(r.loose(h)); err != nil {
				return 0, err
			}
		}
	}
	left := filepath.Join(r.dir, doomedDir, plumbing.ZeroHash.String())
	if _, err := r.takeOut(left); err != nil && !errors.Is(err, os.ErrNotExist) { // the last time it failed
		return 0, err
	}
	list, err := r.writeDoomed(plumbing.ZeroHash, branch, slices.Collect(maps.Keys(gone)))
	if err != nil {
		return 0, err
	}
	return r.takeOut(list)
}

// gather makes one pack of many small ones, which each Trim and each large commit
// add to: who looks for an object looks into all.
func (r *Repo) gather() error {
	r.packs.Lock()
	defer r.packs.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	dir := filepath.Join(r.dir, "objects", "pack")
	found, err := filepath.Glob(filepath.Join(dir, "pack-*.pack"))
	if err != nil || len(found) <= manyPacks {
		return err
	}
	size := map[string]int64{}
	for _, path := range found {
		fi, err := os.Stat(path)
		if err != nil {
			return err
		}
		size[path] = fi.Size()
	}
	slices.SortFunc(found, func(a, b string) int { return int(size[a] - size[b]) })
	var all []plumbing.Hash
	var old []string
	total := int64(0)
	for _, path := range found {
		if total += size[path]; total > gatherSize {
			break
		}
		stem := path[:len(path)-len(".pack")]
		objects, err := indexed(stem + ".idx")
		if err != nil {
			return err
		}
		all, old = append(all, objects...), append(old, stem)
	}
	if len(old) < 2 {
		return nil
	}
	if err := r.repack(all); err != nil {
		return err
	}
	return r.removePacks(dir, old)
}
