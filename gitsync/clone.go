package gitsync

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/config"
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
		switch _, err := os.Stat(filepath.Join(dir, "HEAD")); {
		case errors.Is(err, os.ErrNotExist):
			return nil, fmt.Errorf("%s is not a Git repository", urlOrPath)
		case err != nil:
			return nil, fmt.Errorf("%s is not a Git repository: %w", urlOrPath, err)
		}
		return &Repo{dir: dir, st: storageAt(dir), tracked: tracked}, nil
	}
	if !strings.Contains(urlOrPath, ":") { // as in https://host/path, and host:path
		return nil, fmt.Errorf("%s is neither a folder nor a Git URL", urlOrPath)
	}
	rem, err := newRemote(urlOrPath, auth)
	if err != nil {
		return nil, err
	}
	return cloneFrom(ctx, rem, "")
}

// Borrow clones the branches under prefix, as the remote has them, into a
// temporary folder that Close removes.
func (r *Repo) Borrow(ctx context.Context, prefix string) (*Repo, error) {
	if r.remote == nil {
		return nil, errors.New("no remote is configured to clone from")
	}
	return cloneFrom(ctx, r.remote, prefix)
}

func cloneFrom(ctx context.Context, rem *remote, prefix string) (*Repo, error) {
	dir, err := os.MkdirTemp("", "countersign-clone-")
	if err != nil {
		return nil, err
	}
	r, err := openBare(dir)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	r.remote, r.temp = rem, true
	if err := r.cloneAll(ctx, prefix); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// Lacks says what a clone in a folder was made without: objects, so that nobody
// can tell what is missing from what is damaged, or branches. "" where it is whole.
func (r *Repo) Lacks() (objects, branches string, err error) {
	switch b, err := os.ReadFile(filepath.Join(r.dir, "shallow")); {
	case err == nil && len(b) > 0:
		return "it is a shallow clone (--depth), which lacks commits: git fetch --unshallow", "", nil
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return "", "", err
	}
	if promised, err := filepath.Glob(filepath.Join(r.dir, "objects", "pack", "*.promisor")); err != nil || len(promised) > 0 {
		return "it is a partial clone (--filter), which lacks objects: clone it without", "", err
	}
	cfg, err := r.st.Config()
	if err != nil {
		return "", "", err
	}
	if origin := cfg.Remotes["origin"]; origin != nil && len(origin.Fetch) > 0 && !slices.ContainsFunc(origin.Fetch, config.RefSpec.IsWildcard) {
		branches = "it was cloned with a single branch (--single-branch): the record may have others"
	}
	return "", branches, nil
}

// Dir is the repository's folder: of a working copy, .git.
func (r *Repo) Dir() string { return r.dir }

// Temporary tells whether this is a clone of a URL that Close removes.
func (r *Repo) Temporary() bool { return r.temp }

// Refresh brings the branches of a URL's clone to where the remote has them, its
// rewritten ones too, and drops those that the remote no longer has. A folder is
// for its owner to fetch: of that it reads what is new.
func (r *Repo) Refresh(ctx context.Context) error {
	if r.remote == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		err := r.st.ObjectStorage.Close()
		r.st = storageAt(r.dir) // what a fetch brought is in packs that this storage does not know
		return err
	}
	return r.cloneAll(ctx, "")
}

func (r *Repo) cloneAll(ctx context.Context, prefix string) error {
	had := map[plumbing.ReferenceName]plumbing.Hash{}
	var haves []plumbing.Hash
	it, err := r.st.IterReferences()
	if err != nil {
		return err
	}
	if err := it.ForEach(func(ref *plumbing.Reference) error {
		if ref.Type() == plumbing.HashReference && ref.Name().IsBranch() {
			had[ref.Name()] = ref.Hash()
			haves = append(haves, ref.Hash())
		}
		return nil
	}); err != nil {
		return err
	}
	picks, err := r.remote.fetch(ctx, r.st, maxClone, haves, func(refs map[plumbing.ReferenceName]plumbing.Hash, _ plumbing.ReferenceName) ([]fetched, error) {
		var picks []fetched
		for name, h := range refs {
			if !strings.HasPrefix(name.String(), "refs/heads/"+prefix) {
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
		if old := had[p.Name]; old != p.Hash {
			if err := r.move(p.Name, old, p.Hash); err != nil {
				return err
			}
		}
		delete(had, p.Name)
	}
	for name := range had {
		if err := r.st.RemoveReference(name); err != nil {
			return err
		}
	}
	return nil
}
