package gitsync

import (
	"fmt"
	"io/fs"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
)

// Node is an entry of a tree, as it stands there.
type Node struct {
	Name string
	Mode string // 40000 is a folder, 100644 a file
	Hash string
}

// Tree reads one tree by its hash, which its content is checked against.
func (r *Repo) Tree(hash string) ([]Node, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	entries, err := readTree(r.st, plumbing.NewHash(hash))
	if err != nil {
		return nil, err
	}
	nodes := make([]Node, len(entries))
	for i, e := range entries {
		nodes[i] = Node{Name: e.name, Mode: e.mode, Hash: e.hash.String()}
	}
	return nodes, nil
}

// Blob reads one file by its hash, which its content is checked against.
func (r *Repo) Blob(hash string) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return readObject(r.st, plumbing.BlobObject, plumbing.NewHash(hash), maxObject)
}

// Again opens the same repository once more, for reading: a Repo reads one
// object at a time, several read side by side. Close each; a temporary clone
// goes with the first.
func (r *Repo) Again() *Repo {
	return &Repo{dir: r.dir, st: storageAt(r.dir), tracked: r.tracked}
}

// Head names the branch that HEAD points at; "" if it points at none.
func (r *Repo) Head() (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ref, err := r.st.Reference(plumbing.HEAD)
	if err != nil {
		return "", fmt.Errorf("read HEAD: %w", err)
	}
	branch, ok := strings.CutPrefix(ref.Target().String(), "refs/heads/")
	if !ok {
		return "", nil
	}
	return branch, nil
}

// Snapshot reads the files of a commit into memory, as a policy is read, with
// the same limits.
func (r *Repo) Snapshot(commit string) (fs.FS, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, _, err := readCommit(r.st, plumbing.NewHash(commit))
	if err != nil {
		return nil, err
	}
	l := &loader{repo: r, limits: Limits{}.orDefault(), fs: snapFS{}, when: c.committer.when}
	if err := l.folder(c.tree, ".", 0); err != nil {
		return nil, err
	}
	return l.fs, nil
}
