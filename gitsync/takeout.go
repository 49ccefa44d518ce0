package gitsync

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/idxfile"
)

// sweep finishes the rewrites that a crash interrupted.
func (r *Repo) sweep() error {
	lists, err := filepath.Glob(filepath.Join(r.dir, doomedDir, "*"))
	if err != nil {
		return err
	}
	for _, list := range lists {
		if strings.HasSuffix(list, ".tmp") {
			if err := os.Remove(list); err != nil {
				return err
			}
			continue
		}
		was, branch, err := doomedHead(list)
		if err != nil {
			return err
		}
		name, err := branchRef(branch)
		if err != nil {
			return err
		}
		now, err := r.ref(name)
		if err != nil {
			return err
		}
		if now == was && !was.IsZero() { // not moved: nothing happened
			err = os.Remove(list)
		} else {
			_, err = r.takeOut(list)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func doomedHead(list string) (was plumbing.Hash, branch string, err error) {
	f, err := os.Open(list)
	if err != nil {
		return was, "", err
	}
	defer closeInto(f, &err)
	head, err := bufio.NewReader(f).ReadString('\n')
	if err != nil {
		return was, "", fmt.Errorf("%s: %w", list, err)
	}
	hash, branch, _ := strings.Cut(strings.TrimSuffix(head, "\n"), " ")
	was, err = parseHash(hash)
	return was, branch, err
}

// takeOut removes the objects of a doomed list from this disk, and then the
// list, and tells how many there were. It may be repeated. r.mu is held, or
// nobody else is there yet.
func (r *Repo) takeOut(list string) (n int, err error) {
	f, err := os.Open(list)
	if err != nil {
		return 0, err
	}
	defer closeInto(f, &err)
	packed := map[plumbing.Hash]bool{}
	dirs := map[string]bool{}
	s := bufio.NewScanner(f)
	for first := true; s.Scan(); first = false {
		if first {
			continue
		}
		h, err := parseHash(s.Text())
		if err != nil {
			return n, fmt.Errorf("%s: %w", list, err)
		}
		path := r.loose(h)
		switch err := os.Remove(path); {
		case err == nil:
			n++
			dirs[filepath.Dir(path)] = true
		case !errors.Is(err, fs.ErrNotExist):
			return n, err
		}
		packed[h] = true // maybe there, too
	}
	if err := s.Err(); err != nil {
		return n, err
	}
	k, err := r.unpackFrom(packed)
	if n += k; err != nil {
		return n, err
	}
	for d := range dirs {
		if err := syncPath(d); err != nil {
			return n, err
		}
	}
	r.cache.Clear()
	return n, os.Remove(list)
}

// unpackFrom takes objects out of every pack that has one, by writing what else
// these packs have as one, and tells how many it took.
func (r *Repo) unpackFrom(gone map[plumbing.Hash]bool) (n int, err error) {
	dir := filepath.Join(r.dir, "objects", "pack")
	indexes, err := filepath.Glob(filepath.Join(dir, "pack-*.idx"))
	if err != nil {
		return 0, err
	}
	var stay []plumbing.Hash
	var old []string // packs, without extension
	for _, path := range indexes {
		all, err := indexed(path)
		if err != nil {
			return 0, err
		}
		rest := slices.DeleteFunc(slices.Clone(all), func(h plumbing.Hash) bool { return gone[h] })
		if len(rest) < len(all) {
			n += len(all) - len(rest)
			stay, old = append(stay, rest...), append(old, strings.TrimSuffix(path, ".idx"))
		}
	}
	if n == 0 {
		return 0, nil
	}
	if err := r.repack(stay); err != nil {
		return 0, err
	}
	return n, r.removePacks(dir, old)
}

func (r *Repo) removePacks(dir string, stems []string) error {
	for _, stem := range stems {
		// The pack goes first: an index without one is nobody's.
		for _, ext := range []string{".pack", ".idx", ".bitmap", ".rev", ".mtimes"} {
			if err := os.Remove(stem + ext); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	// What stock Git derives from packs and commits would name what is gone.
	for _, path := range []string{"objects/pack/multi-pack-index", "objects/info/commit-graph", "objects/info/commit-graphs"} {
		if err := os.RemoveAll(filepath.Join(r.dir, filepath.FromSlash(path))); err != nil {
			return err
		}
	}
	r.st.ObjectStorage.Reindex()
	return syncPath(dir)
}

// indexed lists a pack's objects.
func indexed(index string) (all []plumbing.Hash, err error) {
	f, err := os.Open(index)
	if err != nil {
		return nil, err
	}
	defer closeInto(f, &err)
	idx := idxfile.NewMemoryIndex()
	if err := idxfile.NewDecoder(bufio.NewReader(f)).Decode(idx); err != nil {
		return nil, fmt.Errorf("%s: %w", index, err)
	}
	entries, err := idx.Entries()
	if err != nil {
		return nil, err
	}
	defer closeInto(entries, &err)
	for {
		e, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", index, err)
		}
		all = append(all, e.Hash)
	}
}

// repack writes objects that are here as one pack, if there are any.
func (r *Repo) repack(objects []plumbing.Hash) error {
	slices.SortFunc(objects, func(a, b plumbing.Hash) int { return bytes.Compare(a[:], b[:]) })
	objects = slices.Compact(objects)
	if len(objects) == 0 {
		return nil
	}
	return r.storePack(len(objects), func(p *packer) error { return p.addFrom(r.st, objects) })
}
