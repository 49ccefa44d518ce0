package gitsync

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/idxfile"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
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
		if now == was { // not moved: nothing happened
			err = os.Remove(list)
		} else {
			err = r.takeOut(list)
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
// list. It may be repeated. r.mu is held, or nobody else is there yet.
func (r *Repo) takeOut(list string) (err error) {
	f, err := os.Open(list)
	if err != nil {
		return err
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
			return fmt.Errorf("%s: %w", list, err)
		}
		path := r.loose(h)
		switch err := os.Remove(path); {
		case err == nil:
			dirs[filepath.Dir(path)] = true
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
		packed[h] = true // maybe there, too
	}
	if err := s.Err(); err != nil {
		return err
	}
	if err := r.unpackFrom(packed); err != nil {
		return err
	}
	for d := range dirs {
		if err := syncPath(d); err != nil {
			return err
		}
	}
	r.cache.Clear()
	return os.Remove(list)
}

// unpackFrom takes objects out of every pack that has one, by writing the pack
// again without them.
func (r *Repo) unpackFrom(gone map[plumbing.Hash]bool) error {
	dir := filepath.Join(r.dir, "objects", "pack")
	indexes, err := filepath.Glob(filepath.Join(dir, "pack-*.idx"))
	if err != nil {
		return err
	}
	rewrote := false
	for _, path := range indexes {
		stay, some, err := without(path, gone)
		if err != nil {
			return err
		}
		if !some {
			continue
		}
		rewrote = true
		if len(stay) > 0 {
			if err := r.repack(stay); err != nil {
				return err
			}
			if err := syncAll(dir); err != nil {
				return err
			}
		}
		// The index goes first: a pack without one is nobody's.
		stem := strings.TrimSuffix(path, ".idx")
		for _, ext := range []string{".idx", ".bitmap", ".rev", ".mtimes", ".pack"} {
			if err := os.Remove(stem + ext); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	if !rewrote {
		return nil
	}
	// What stock Git derives from packs and commits would name what is gone.
	for _, path := range []string{"objects/pack/multi-pack-index", "objects/info/commit-graph", "objects/info/commit-graphs"} {
		if err := os.RemoveAll(filepath.Join(r.dir, filepath.FromSlash(path))); err != nil {
			return err
		}
	}
	if err := syncPath(dir); err != nil {
		return err
	}
	r.st.ObjectStorage.Reindex()
	return nil
}

// without lists a pack's objects that stay, and tells whether some do not.
func without(index string, gone map[plumbing.Hash]bool) (stay []plumbing.Hash, some bool, err error) {
	f, err := os.Open(index)
	if err != nil {
		return nil, false, err
	}
	defer closeInto(f, &err)
	idx := idxfile.NewMemoryIndex()
	if err := idxfile.NewDecoder(bufio.NewReader(f)).Decode(idx); err != nil {
		return nil, false, fmt.Errorf("%s: %w", index, err)
	}
	entries, err := idx.Entries()
	if err != nil {
		return nil, false, err
	}
	defer closeInto(entries, &err)
	for {
		e, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return stay, some, nil
		}
		if err != nil {
			return nil, false, fmt.Errorf("%s: %w", index, err)
		}
		if gone[e.Hash] {
			some = true
		} else {
			stay = append(stay, e.Hash)
		}
	}
}

// packWindow is how many objects a delta is looked for among: stock Git's own.
const packWindow = 10

func (r *Repo) repack(objects []plumbing.Hash) error {
	w, err := r.st.ObjectStorage.PackfileWriter()
	if err != nil {
		return err
	}
	_, err = packfile.NewEncoder(w, r.st, false).Encode(objects, packWindow)
	return errors.Join(err, w.Close())
}
