package gitsync

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
)

// maxClone bounds what a clone of the record may bring.
const maxClone = 8 << 30

// OpenClone opens a record for reading. A folder is opened in place: a bare
// repository with its branches, a working copy with those that it tracks from
// origin, and its own besides ("git clone" makes only one of its own). A URL is cloned, all its branches, into a temporary
// folder that Close removes.
func OpenClone(ctx context.Context, urlOrPath string, auth Auth) (*Repo, error) {
	if fi, err := os.Stat(urlOrPath); err == nil && fi.IsDir() {
		dir, err := filepath.Abs(urlOrPath)
		if err != nil {
			return nil, err
		}
		tracked := false
		if _, err := os.Stat(filepath.Join(dir, ".git", "HEAD")); err == nil {
			dir, tracked = filepath.Join(dir, ".git"), true
		}
		if _, err := os.Stat(filepath.Join(dir, "HEAD")); err != nil {
			return nil, fmt.Errorf("%s is not a Git repository: %w", urlOrPath, err)
		}
		return &Repo{dir: dir, st: storageAt(dir), tracked: tracked}, nil
	}
	rem, err := newRemote(urlOrPath, auth)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "countersign-clone-")
	if err != nil {
		return nil, err
	}
	r, err := openBare(dir)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	r.remote, r.temp = rem, true
	if err := r.cloneAll(ctx); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func (r *Repo) cloneAll(ctx context.Context) error {
	picks, err := r.remote.fetch(ctx, r.st, maxClone, nil, func(refs map[plumbing.ReferenceName]plumbing.Hash, _ plumbing.ReferenceName) ([]fetched, error) {
		var picks []fetched
		for name, h := range refs {
			if !strings.HasPrefix(name.String(), "refs/heads/") {
				continue
			}
			if err := name.Validate(); err != nil {
				return nil, fmt.Errorf("the remote names a branch %q: %w", name, err)
			}
			picks = append(picks, fetched{name, h})
		}
		return picks, nil
	})
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range picks {
		if err := r.move(p.Name, plumbing.ZeroHash, p.Hash); err != nil {
			return err
		}
	}
	return nil
}
