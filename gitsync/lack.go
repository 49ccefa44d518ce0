package gitsync

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
)

// lack is what the remote lacks of a branch.
type lack struct {
	tip     plumbing.Hash   // here; zero: the branch was removed
	remove  bool            // and is to be, there
	from    plumbing.Hash   // the commits' base, which the remote has; zero: none
	commits []plumbing.Hash // the oldest first
	made    []plumbing.Hash // the objects of the first, if it is known that the remote has the others
	instead bool            // of what a rewrite left: the remote has what is no longer here, see Trim
}

func (l lack) nothing() bool { return len(l.commits) == 0 && !l.remove }

// lacks tells what the remote lacks of a branch where it stands at theirs.
// ErrRejected if our commits do not lead from there.
func (r *Repo) lacks(branch string, name plumbing.ReferenceName, theirs plumbing.Hash) (l lack, err error) {
	if l.tip, err = r.ref(name); err != nil {
		return l, err
	}
	if l.tip.IsZero() {
		return r.removed(branch, theirs)
	}
	l.from = theirs
	l.commits, err = r.since(l.tip, theirs)
	if errors.Is(err, errNotAncestor) || errors.Is(err, errTrimmed) {
		if replaced, ok, rerr := r.replacing(branch, l.tip, theirs); rerr != nil || ok {
			return replaced, rerr
		}
	}
	switch {
	case errors.Is(err, errNotAncestor):
		err = fmt.Errorf("%w: %s is at %s there, at %s here", ErrRejected, branch, orNone(theirs), l.tip)
	case errors.Is(err, errTrimmed):
		err = fmt.Errorf("%w, or lost some: %s is at %s there, at %s here, and what may lie between is no longer here: push it there from a clone that has it",
			ErrRejected, branch, orNone(theirs), l.tip)
	}
	slices.Reverse(l.commits)
	return l, err
}

// setBack notes that the remote once had more of a branch than it has.
func (r *Repo) setBack(branch string, tip, theirs plumbing.Hash, out *Pushed) error {
	had, err := r.ref(published(branch))
	if err != nil || had.IsZero() || had == theirs || tip == theirs {
		return err
	}
	if _, err := r.since(theirs, had); theirs.IsZero() || errors.Is(err, errNotAncestor) || errors.Is(err, errTrimmed) {
		out.Notes = append(out.Notes, fmt.Sprintf("%s was at %s on the remote, and is back at %s: somebody, or a restored backup, took commits away", branch, had, orNone(theirs)))
	}
	return nil
}

// collect gathers the objects of commits, the oldest first, up to a size; at
// least one commit.
func (r *Repo) collect(l lack, limit int64, seen map[plumbing.Hash]bool) (st step, total int64, err error) {
	kept := 0 // of the objects; the others may still go with another branch
	defer func() {
		for _, o := range st.objects[kept:] {
			delete(seen, o)
		}
		st.objects = st.objects[:kept]
	}()
	var base plumbing.Hash
	st = step{cmd: &packp.Command{}}
	if !l.from.IsZero() && !l.remove {
		c, _, err := readCommit(r.st, l.from)
		if err != nil {
			return st, 0, err
		}
		base = c.tree
	}
	for i, h := range l.commits {
		c, _, err := readCommit(r.st, h)
		if err != nil {
			return st, 0, err
		}
		if !seen[h] {
			seen[h] = true
			st.objects = append(st.objects, h)
		}
		if i == 0 && l.made != nil {
			st.objects = append(st.objects, l.made...)
		} else if err := r.added(base, c.tree, seen, &st.objects); err != nil {
			return st, 0, err
		}
		size, here := int64(0), st.objects[:kept]
		for _, o := range st.objects[kept:] {
			s, err := r.size(o)
			if errors.Is(err, plumbing.ErrObjectNotFound) {
				if l.instead {
					continue
				}
				err = fmt.Errorf("%w: it lacks some that are no longer here: push them there from a clone that has them", ErrRejected)
			}
			if err != nil {
				return st, 0, err
			}
			here, size = append(here, o), size+s
		}
		st.objects = here
		if total+size > limit && !st.cmd.New.IsZero() {
			break
		}
		total += size
		kept, base, st.cmd.New = len(st.objects), c.tree, h
	}
	return st, total, nil
}

// size is about what an object takes in a pack.
func (r *Repo) size(h plumbing.Hash) (int64, error) {
	fi, err := os.Stat(r.loose(h))
	if err == nil {
		return fi.Size(), nil
	}
	return r.st.EncodedObjectSize(h) // packed here: its content's size, which is more
}

var (
	errNotAncestor = errors.New("not an ancestor")
	errTrimmed     = errors.New("the history here does not reach back so far")
)

// since lists the commits from tip down to, and without, stop, by first
// parents; a zero stop lists all. What was published may be gone from here: see
// Trim.
func (r *Repo) since(tip, stop plumbing.Hash) ([]plumbing.Hash, error) {
	var list []plumbing.Hash
	for at := tip; at != stop; {
		c, _, err := readCommit(r.st, at)
		if errors.Is(err, ErrNotFound) && len(list) > 0 {
			return nil, errTrimmed
		}
		if err != nil {
			return nil, err
		}
		list = append(list, at)
		if len(c.parents) == 0 {
			if stop.IsZero() {
				break
			}
			return nil, errNotAncestor
		}
		at = c.parents[0]
	}
	return list, nil
}

// added collects the objects of tree that base, at the same path, has not. A
// file moved without a change is sent again, which costs little and is right.
func (r *Repo) added(base, tree plumbing.Hash, seen map[plumbing.Hash]bool, objects *[]plumbing.Hash) error {
	return r.differ(base, tree, func(h plumbing.Hash, _ bool) bool {
		if seen[h] {
			return false
		}
		seen[h] = true
		*objects = append(*objects, h)
		return true
	})
}

// differ walks what tree has and base, at the same path, has not. visit is told
// of each folder, before what is in it, and of each file; where it returns false
// for a folder, that one is passed by.
func (r *Repo) differ(base, tree plumbing.Hash, visit func(h plumbing.Hash, folder bool) (into bool)) error {
	if base == tree || !visit(tree, true) {
		return nil
	}
	had := map[string]plumbing.Hash{}
	if !base.IsZero() {
		entries, err := readTree(r.st, base)
		if err != nil {
			return err
		}
		for _, e := range entries {
			had[e.mode+e.name] = e.hash
		}
	}
	entries, err := readTree(r.st, tree)
	if err != nil {
		return err
	}
	for _, e := range entries {
		before := had[e.mode+e.name]
		switch {
		case before == e.hash:
		case e.dir():
			if err := r.differ(before, e.hash, visit); err != nil {
				return err
			}
		default:
			visit(e.hash, false)
		}
	}
	return nil
}
