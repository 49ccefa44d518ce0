package gitsync

import (
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
)

// snapshot reads all of a commit's files into memory: it is then whole or not
// there, and the clone may change behind it.
func (s *Source) snapshot(a accepted) (*Snapshot, error) {
	h := plumbing.NewHash(a.Commit)
	c, _, err := readCommit(s.repo.st, h)
	if err != nil {
		return nil, err
	}
	l := &loader{repo: s.repo, limits: s.cfg.Limits, fs: snapFS{}, when: c.committer.when}
	if err := l.folder(c.tree, ".", 0); err != nil {
		return nil, &Rejected{a.Tip, err.Error()}
	}
	subject, _, _ := strings.Cut(strings.TrimSpace(c.message), "\n")
	return &Snapshot{FS: l.fs, Commit: a.Commit, Subject: subject, Author: c.author.who, Signer: a.Signer,
		When: c.committer.when, Confirmed: a.Confirmed, Reset: a.Reset}, nil
}

type loader struct {
	repo   *Repo
	limits Limits
	fs     snapFS
	total  int64
	files  int
	when   time.Time
}

func (l *loader) folder(h plumbing.Hash, dir string, depth int) error {
	if depth > l.limits.Depth {
		return fmt.Errorf("%s: folders are nested deeper than %d", dir, l.limits.Depth)
	}
	entries, err := readTree(l.repo.st, h)
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	d := &node{info: info{name: path.Base(dir), mode: fs.ModeDir | 0o555, when: l.when}}
	for _, e := range entries {
		p := path.Join(dir, e.name)
		if !goodName(e.name) {
			return fmt.Errorf("%q in %s is not a name that every system can hold", e.name, dir)
		}
		// Folders count too: a tree of empty or shared folders can be a bomb.
		if l.files++; l.files > l.limits.Files {
			return fmt.Errorf("there are more than %d files and folders", l.limits.Files)
		}
		switch {
		case e.dir():
			err = l.folder(e.hash, p, depth+1)
		case e.blob():
			err = l.file(e, p)
		case e.mode == modeSymlink:
			err = fmt.Errorf("%s is a symbolic link: policy is made of plain files", p)
		case e.mode == modeModule:
			err = fmt.Errorf("%s is a submodule: policy must be in one repository", p)
		default:
			err = fmt.Errorf("%s has the unknown mode %q", p, e.mode)
		}
		if err != nil {
			return err
		}
		d.entries = append(d.entries, l.fs[p].info)
	}
	slices.SortFunc(d.entries, func(a, b info) int { return strings.Compare(a.name, b.name) })
	l.fs[dir] = d
	return nil
}

func (l *loader) file(e treeEntry, p string) error {
	o, err := l.repo.st.EncodedObjectSize(e.hash)
	if err != nil {
		return fmt.Errorf("%s: %w", p, err)
	}
	if o > l.limits.File {
		return fmt.Errorf("%s has %d bytes; a policy file may have %d", p, o, l.limits.File)
	}
	data, err := readObject(l.repo.st, plumbing.BlobObject, e.hash, l.limits.File)
	if err != nil {
		return fmt.Errorf("%s: %w", p, err)
	}
	if l.total += int64(len(data)); l.total > l.limits.Total {
		return fmt.Errorf("the files have more than %d bytes together", l.limits.Total)
	}
	l.fs[p] = &node{info: info{name: e.name, size: int64(len(data)), mode: 0o444, when: l.when}, data: string(data)}
	return nil
}

// snapFS is a read-only file system in memory, by path.
type snapFS map[string]*node

type node struct {
	info    info
	data    string
	entries []info // of a folder
}

type info struct {
	name string
	size int64
	mode fs.FileMode
	when time.Time
}

func (i info) Name() string               { return i.name }
func (i info) Size() int64                { return i.size }
func (i info) Mode() fs.FileMode          { return i.mode }
func (i info) Type() fs.FileMode          { return i.mode.Type() }
func (i info) ModTime() time.Time         { return i.when }
func (i info) IsDir() bool                { return i.mode.IsDir() }
func (i info) Sys() any                   { return nil }
func (i info) Info() (fs.FileInfo, error) { return i, nil }

// Open is part of fs.FS.
func (f snapFS) Open(name string) (fs.File, error) {
	n, ok := f[name]
	if !ok || !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &handle{node: n, Reader: strings.NewReader(n.data)}, nil
}

// handle is an open file or folder.
type handle struct {
	node *node
	*strings.Reader
	at int // next entry of a folder
}

func (h *handle) Stat() (fs.FileInfo, error) { return h.node.info, nil }
func (h *handle) Close() error               { return nil }

func (h *handle) Read(p []byte) (int, error) {
	if h.node.info.IsDir() {
		return 0, &fs.PathError{Op: "read", Path: h.node.info.name, Err: fs.ErrInvalid}
	}
	return h.Reader.Read(p)
}

// ReadDir is part of fs.ReadDirFile.
func (h *handle) ReadDir(n int) ([]fs.DirEntry, error) {
	if !h.node.info.IsDir() {
		return nil, &fs.PathError{Op: "readdir", Path: h.node.info.name, Err: fs.ErrInvalid}
	}
	rest := h.node.entries[h.at:]
	if n > 0 {
		if len(rest) == 0 {
			return nil, io.EOF
		}
		rest = rest[:min(n, len(rest))]
	}
	h.at += len(rest)
	out := make([]fs.DirEntry, len(rest))
	for i, e := range rest {
		out[i] = e
	}
	return out, nil
}
