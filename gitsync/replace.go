package gitsync

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
)

// left is what rewrites of a branch have left behind; see rewrittenDir.
type left struct {
	tips []plumbing.Hash // and commits before them where the remote may stand; the last tip last
	new  plumbing.Hash   // what took the last one's place
	made []plumbing.Hash // the objects of new, itself apart, that the last one had not
	stop plumbing.Hash   // the commit up to which what was left is durable, and may be without its files; zero: none
}

// encode writes a line "tip <hash>" for each, and then "new <hash>", a line
// "made <hash>" for each, and "stop <hash>".
func (l left) encode() []byte {
	var b []byte
	for _, h := range l.tips {
		b = append(b, "tip "+h.String()+"\n"...)
	}
	b = append(b, "new "+l.new.String()+"\n"...)
	for _, h := range l.made {
		b = append(b, "made "+h.String()+"\n"...)
	}
	if !l.stop.IsZero() {
		b = append(b, "stop "+l.stop.String()+"\n"...)
	}
	return b
}

func (r *Repo) left(branch string) (l left, err error) {
	b, err := os.ReadFile(filepath.Join(r.dir, rewrittenDir, filepath.FromSlash(branch)))
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return l, err
	}
	for line := range strings.Lines(string(b)) {
		what, hash, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		h, err := parseHash(hash)
		if err != nil {
			return l, fmt.Errorf("%s/%s: %w", rewrittenDir, branch, err)
		}
		switch what {
		case "tip":
			l.tips = append(l.tips, h)
		case "new":
			l.new = h
		case "made":
			l.made = append(l.made, h)
		case "stop":
			l.stop = h
		default:
			return l, fmt.Errorf("%s/%s: malformed: %q", rewrittenDir, branch, line)
		}
	}
	return l, nil
}

// replacing tells what the remote lacks of a branch that stands at tip if it
// stands at a commit that a rewrite left: then and only then that is replaced,
// by a push that holds only as long as it is still there. Where it stands at
// the last one, it has all that the rewrite let stay.
func (r *Repo) replacing(branch string, tip, theirs plumbing.Hash) (lack, bool, error) {
	if !strings.HasPrefix(branch, rewritable) {
		return lack{}, false, nil
	}
	was, err := r.left(branch)
	if err != nil || !slices.Contains(was.tips, theirs) {
		return lack{}, false, err
	}
	l := lack{tip: tip, instead: true}
	if l.commits, err = r.since(tip, plumbing.ZeroHash); err != nil {
		return l, false, err
	}
	slices.Reverse(l.commits)
	if theirs == was.tips[len(was.tips)-1] && l.commits[0] == was.new {
		l.made = was.made
	}
	return l, true, nil
}

// removed tells what is to be done about a branch that is not here: a rewrite
// that left nothing of it takes it off the remote, too.
func (r *Repo) removed(branch string, theirs plumbing.Hash) (lack, error) {
	var was left
	if strings.HasPrefix(branch, rewritable) {
		var err error
		if was, err = r.left(branch); err != nil {
			return lack{}, err
		}
	}
	switch {
	case len(was.tips) == 0:
		return lack{}, fmt.Errorf("branch %s: %w", branch, ErrNotFound)
	case !theirs.IsZero() && !slices.Contains(was.tips, theirs):
		return lack{}, fmt.Errorf("%w: %s is at %s there, and was removed here at another commit", ErrRejected, branch, theirs)
	}
	return lack{remove: !theirs.IsZero()}, nil
}

// onlyRemoves tells whether a push has no objects to send, and so no pack.
func onlyRemoves(req *packp.ReferenceUpdateRequest) bool {
	return !slices.ContainsFunc(req.Commands, func(c *packp.Command) bool { return c.Action() != packp.Delete })
}

// settle forgets what rewrites left, if the remote, which is at h (zero:
// without the branch), is where this repository is.
func (r *Repo) settle(branch string, h plumbing.Hash) error {
	if !strings.HasPrefix(branch, rewritable) {
		return nil
	}
	tip, err := r.ref(plumbing.NewBranchReferenceName(branch))
	if err != nil || tip != h {
		return err
	}
	err = os.Remove(filepath.Join(r.dir, rewrittenDir, filepath.FromSlash(branch)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Rewritten lists the branches under prefix that were written anew, or removed,
// and are not yet so on the remote.
func (r *Repo) Rewritten(prefix string) ([]string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var names []string
	root := filepath.Join(r.dir, rewrittenDir)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path == root {
			return nil
		}
		if err != nil || d.IsDir() || strings.HasSuffix(path, ".tmp") {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if b := filepath.ToSlash(rel); strings.HasPrefix(b, prefix) {
			names = append(names, b)
		}
		return err
	})
	return names, err
}

// FetchNew brings in the branches under the prefixes that only the remote has:
// those of a repository that was lost. What was removed here stays away.
func (r *Repo) FetchNew(ctx context.Context, prefixes ...string) error {
	if r.remote == nil {
		return errors.New("no remote is configured to fetch from")
	}
	picks, err := r.fetch(ctx, maxClone, nil, func(refs map[plumbing.ReferenceName]plumbing.Hash, _ plumbing.ReferenceName) ([]fetched, error) {
		var picks []fetched
		for name, h := range refs {
			branch, ok := strings.CutPrefix(name.String(), "refs/heads/")
			if !ok || !slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(branch, p) }) {
				continue
			}
			if err := name.Validate(); err != nil {
				return nil, fmt.Errorf("the remote names a branch %q: %w", name, err)
			}
			if foreign, err := r.foreign(branch, name); err != nil {
				return nil, err
			} else if foreign {
				picks = append(picks, fetched{name, h})
			}
		}
		return picks, nil
	})
	if err != nil || len(picks) == 0 {
		return err
	}
	if err := syncAll(filepath.Join(r.dir, "objects", "pack")); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range picks {
		if err := errors.Join(r.move(p.Name, plumbing.ZeroHash, p.Hash), r.note(p.Name.Short(), p.Hash)); err != nil {
			return err
		}
	}
	return nil
}

// foreign tells whether a branch is not here, and was not removed here.
func (r *Repo) foreign(branch string, name plumbing.ReferenceName) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	tip, err := r.ref(name)
	if err != nil || !tip.IsZero() {
		return false, err
	}
	was, err := r.left(branch)
	return len(was.tips) == 0, err
}
