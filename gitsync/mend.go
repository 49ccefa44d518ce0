package gitsync

import (
	"bytes"
	"crypto/sha1"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
)

// mend takes every branch of ours back to its newest commit that is whole,
// looking no further back than what was published, or what a rewrite made or left
// behind: that was synced before, and may be without its files (see Trim).
func (r *Repo) mend() error {
	if err := r.clearLocks(); err != nil {
		return err
	}
	if err := r.clearObjects(); err != nil {
		return err
	}
	branches, err := r.looseBranches()
	if err != nil {
		return err
	}
	for _, b := range branches {
		if err := r.mendBranch(b); err != nil {
			return fmt.Errorf("branch %s: %w", b, err)
		}
	}
	return nil
}

// clearLocks removes the locks of a writer that died; the caller promised that
// there is no other.
func (r *Repo) clearLocks() error {
	return filepath.WalkDir(filepath.Join(r.dir, "refs"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".lock") && d.Type().IsRegular() {
			return os.Remove(path)
		}
		return err
	})
}

// clearObjects removes what such a writer had not finished.
func (r *Repo) clearObjects() (err error) {
	for _, pattern := range []string{"??/" + tempObject, "pack/" + tempPack, "pack/*.tmp"} {
		half, gerr := filepath.Glob(filepath.Join(r.dir, "objects", pattern))
		err = errors.Join(err, gerr)
		for _, path := range half {
			err = errors.Join(err, os.Remove(path))
		}
	}
	return err
}

// looseBranches lists branches by their files, torn ones included, which the
// reader of references would stumble over. Packed references were written by
// stock Git, which syncs them.
func (r *Repo) looseBranches() ([]string, error) {
	var names []string
	heads := filepath.Join(r.dir, "refs", "heads")
	err := filepath.WalkDir(heads, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(heads, path)
		names = append(names, filepath.ToSlash(rel))
		return err
	})
	return names, err
}

func (r *Repo) mendBranch(branch string) error {
	name, err := branchRef(branch)
	if err != nil {
		return err
	}
	pub, err := r.mendRef(published(branch))
	if err != nil {
		return err
	}
	tip, err := r.mendRef(name)
	if err != nil {
		return err
	}
	l, err := r.left(branch)
	if err != nil {
		return err
	}
	if pub.IsZero() {
		pub = l.new
	}
	good, why := tip, error(nil)
	if tip.IsZero() {
		good, why = pub, errors.New("the reference is torn")
	}
	for at := tip; !at.IsZero() && at != pub && at != l.new && at != l.stop; {
		c, err := r.whole(at)
		if err != nil {
			// Whatever descends from a damaged commit falls with it.
			why, good = err, pub
			if len(c.parents) > 0 {
				good = c.parents[0]
			}
		}
		if len(c.parents) == 0 {
			break
		}
		at = c.parents[0]
	}
	if why == nil {
		return nil
	}
	r.dropped = append(r.dropped, fmt.Sprintf("%s: back from %s to %s: %v", branch, orNone(tip), orNone(good), why))
	if good.IsZero() {
		err := os.Remove(filepath.Join(r.dir, filepath.FromSlash(name.String())))
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	return r.move(name, tip, good)
}

// mendRef reads a reference; a torn one is removed and counts as absent.
func (r *Repo) mendRef(name plumbing.ReferenceName) (plumbing.Hash, error) {
	path := filepath.Join(r.dir, filepath.FromSlash(name.String()))
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return r.ref(name)
	}
	if err != nil {
		return plumbing.ZeroHash, err
	}
	h, err := parseHash(strings.TrimSuffix(string(data), "\n"))
	if err != nil {
		return plumbing.ZeroHash, os.Remove(path)
	}
	return h, nil
}

// whole reads a commit and every object that it added to its parent.
func (r *Repo) whole(h plumbing.Hash) (signed, error) {
	c, _, err := readCommit(r.st, h)
	if err != nil {
		return c, err
	}
	var base plumbing.Hash
	if len(c.parents) > 0 {
		// A parent that cannot be read is found at its own turn.
		if p, _, err := readCommit(r.st, c.parents[0]); err == nil {
			base = p.tree
		}
	}
	return c, r.wholeTree(base, c.tree)
}

func (r *Repo) wholeTree(base, tree plumbing.Hash) error {
	if base == tree {
		return nil
	}
	had := map[string]plumbing.Hash{}
	if !base.IsZero() {
		// As above: an unreadable base only means that more is read.
		if entries, err := readTree(r.st, base); err == nil {
			for _, e := range entries {
				had[e.mode+e.name] = e.hash
			}
		}
	}
	entries, err := readTree(r.st, tree)
	if err != nil {
		return err
	}
	for _, e := range entries {
		old := had[e.mode+e.name]
		switch {
		case old == e.hash:
		case e.dir():
			if err := r.wholeTree(old, e.hash); err != nil {
				return err
			}
		default:
			if _, err := readObject(r.st, plumbing.BlobObject, e.hash, maxObject); err != nil {
				return err
			}
		}
	}
	return nil
}

// dropTornPacks removes packs that a crash left incomplete: written or fetched,
// not yet synced, and so not relied on by anything. One of them would make every
// object unreadable. A pack and its index each end in the SHA-1 of all before it
// (gitformat-pack(5)).
func dropTornPacks(dir string) error {
	stems := map[string]bool{}
	for _, ext := range []string{".pack", ".idx"} {
		found, err := filepath.Glob(filepath.Join(dir, "pack-*"+ext))
		if err != nil {
			return err
		}
		for _, path := range found {
			stems[strings.TrimSuffix(path, ext)] = true
		}
	}
	for stem := range stems {
		pack, idx := stem+".pack", stem+".idx"
		good := true
		for _, path := range []string{pack, idx} {
			ok, err := sealed(path)
			if err != nil {
				return err
			}
			good = good && ok
		}
		if good {
			continue
		}
		for _, path := range []string{idx, pack} {
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

func sealed(path string) (ok bool, err error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer closeInto(f, &err)
	fi, err := f.Stat()
	if err != nil || fi.Size() < sha1.Size {
		return false, err
	}
	sum := sha1.New()
	if _, err := io.CopyN(sum, f, fi.Size()-sha1.Size); err != nil {
		return false, err
	}
	var end [sha1.Size]byte
	if _, err := io.ReadFull(f, end[:]); err != nil {
		return false, err
	}
	return bytes.Equal(end[:], sum.Sum(nil)), nil
}
