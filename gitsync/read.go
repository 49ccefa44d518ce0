package gitsync

import (
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
