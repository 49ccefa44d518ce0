package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	agefile "filippo.io/age"
)

// Shelf finds bodies in a clone. It serves one goroutine.
type Shelf struct {
	repo  Repository
	roots map[string]string          // tree of a branch, "" if there is no such branch
	trees map[string]map[string]Node // by hash; few
}

// NewShelf makes a shelf of the branches bodies/… of a repository.
func NewShelf(repo Repository) *Shelf {
	return &Shelf{repo: repo, roots: map[string]string{}, trees: map[string]map[string]Node{}}
}

// BodyState is what became of a body that an entry names.
type BodyState int

// The states of a body.
const (
	BodyUnkept BodyState = iota // its entry says that none is kept
	BodyWhole                   // it is there, and the one that its entry names
	BodySealed                  // it is there, and sealed to others
	BodyGone                    // it is not there: erased, expired, or not in this clone
	BodyWrong                   // what is there in its place is not the one
)

// CheckBody tells what became of a body of an entry of the log with this origin
// (<enforcer>/<incarnation>). why goes with BodyWrong and BodySealed; err is
// the repository's own trouble.
func CheckBody(s *Shelf, origin string, at time.Time, ref BodyRef, identities ...agefile.Identity) (state BodyState, why, err error) {
	if ref.Kept != KeptFull {
		return BodyUnkept, nil, nil
	}
	_, err = s.Open(origin, at, ref, identities...)
	switch {
	case err == nil:
		return BodyWhole, nil, nil
	case errors.Is(err, fs.ErrNotExist):
		return BodyGone, nil, nil
	case errors.Is(err, ErrBodySealed):
		return BodySealed, err, nil
	case errors.Is(err, ErrBody), errors.Is(err, ErrBodyDiffers):
		return BodyWrong, err, nil
	}
	return BodyGone, nil, err
}

// Open gives the text of a body of an entry written at the time, checked
// against the entry's digest. Errors: those of OpenBody, and the repository's.
func (s *Shelf) Open(origin string, at time.Time, ref BodyRef, identities ...agefile.Identity) ([]byte, error) {
	branch, path, err := bodyPlace(origin, at, ref)
	if err != nil {
		return nil, err
	}
	dir, name, err := s.folder(branch, path)
	if err != nil {
		return nil, err
	}
	return OpenBody(ref, func(suffix string) ([]byte, error) {
		n, ok := dir[name+suffix]
		if !ok {
			return nil, fmt.Errorf("%s in %s: %w", path+suffix, branch, fs.ErrNotExist)
		}
		if n.Mode != modeFile {
			return nil, fmt.Errorf("%w: %s in %s is no file", ErrBody, path+suffix, branch)
		}
		return s.repo.Blob(n.Hash)
	}, identities...)
}

// folder gives the entries of the folder of a path, none if it is not there,
// and the path's last element.
func (s *Shelf) folder(branch, path string) (map[string]Node, string, error) {
	root, ok := s.roots[branch]
	if !ok {
		tip, there, err := s.repo.Tip(branch)
		if err != nil {
			return nil, "", err
		}
		if there {
			c, err := s.repo.Commit(tip)
			if err != nil {
				return nil, "", err
			}
			root = c.Tree
		}
		s.roots[branch] = root
	}
	parts := strings.Split(path, "/")
	last := len(parts) - 1
	if root == "" {
		return nil, parts[last], nil
	}
	at, err := s.tree(root)
	for _, p := range parts[:last] {
		if err != nil {
			break
		}
		n, ok := at[p]
		if !ok || n.Mode != modeDir {
			return nil, parts[last], nil
		}
		at, err = s.tree(n.Hash)
	}
	return at, parts[last], err
}

// maxTrees bounds the trees that are kept: entries come in the order of time,
// and so do the folders.
const maxTrees = 512

func (s *Shelf) tree(hash string) (map[string]Node, error) {
	if t, ok := s.trees[hash]; ok {
		return t, nil
	}
	nodes, err := s.repo.Tree(hash)
	if err != nil {
		return nil, err
	}
	t := make(map[string]Node, len(nodes))
	for _, n := range nodes {
		t[n.Name] = n
	}
	if len(s.trees) >= maxTrees {
		clear(s.trees)
	}
	s.trees[hash] = t
	return t, nil
}
