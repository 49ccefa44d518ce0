package gitsync

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/transport"
)

// published is where a branch's state on the remote, as last seen, is noted.
func published(branch string) plumbing.ReferenceName {
	return plumbing.ReferenceName("refs/remotes/origin/" + branch)
}

// Push publishes branches, all in one push. Nothing is forced. For each branch
// the remote's commit must be one that ours descends from: if not, ErrRejected,
// which no retry mends. ErrRefused is the remote's own no (a hook, a protected
// branch), with its words; other errors are the network's. With several
// branches some may have passed: those are noted as published.
func (r *Repo) Push(ctx context.Context, branches ...string) error {
	if r.remote == nil {
		return errors.New("no remote is configured to push to")
	}
	type outcome struct {
		name, branch string
		cmd          *packp.Command
		said         string // empty: the remote said ok
	}
	var sent []outcome
	err := r.remote.during(ctx, "push to", func(ctx context.Context) (err error) {
		auth, err := r.remote.method(ctx)
		if err != nil {
			return err
		}
		ep := *r.remote.ep
		s, err := r.remote.tr.NewReceivePackSession(&ep, auth)
		if err != nil {
			return err
		}
		defer closeInto(s, &err)
		adv, err := s.AdvertisedReferencesContext(ctx)
		if err != nil && !errors.Is(err, transport.ErrEmptyRemoteRepository) {
			return err
		}
		refs, _, err := advertised(adv)
		if err != nil {
			return err
		}
		req := packp.NewReferenceUpdateRequestFromCapabilities(adv.Capabilities)
		if !adv.Capabilities.Supports(capability.ReportStatus) {
			return errors.New("the remote does not report whether it took the push")
		}
		var objects []plumbing.Hash
		seen := map[plumbing.Hash]bool{}
		for _, b := range branches {
			o, err := r.plan(b, refs, seen, &objects)
			if err != nil {
				return err
			}
			if o == nil {
				continue
			}
			req.Commands = append(req.Commands, o)
			sent = append(sent, outcome{name: o.Name.String(), branch: b, cmd: o, said: "no answer"})
		}
		if len(req.Commands) == 0 {
			return nil
		}
		// Ours must be durable before theirs is: see Repo.
		if err := r.syncObjects(objects); err != nil {
			return err
		}
		report, err := r.send(ctx, s, req, objects)
		if err != nil {
			return err
		}
		if report == nil {
			return errors.New("the remote did not report what became of the push")
		}
		if report.UnpackStatus != "ok" {
			return fmt.Errorf("%w: unpack: %s", ErrRefused, plain(report.UnpackStatus))
		}
		for _, cs := range report.CommandStatuses {
			for i := range sent {
				if sent[i].name == cs.ReferenceName.String() {
					sent[i].said = strings.TrimPrefix(cs.Status, "ok")
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	var errs []error
	refused := false
	for _, o := range sent {
		if o.said == "" {
			errs = append(errs, r.notePublished(o.branch, o.cmd.New))
			continue
		}
		refused = true
		errs = append(errs, fmt.Errorf("%w: %s: %s", ErrRefused, o.branch, plain(o.said)))
	}
	if refused {
		// Servers word a lost race in many ways: what the reference is now decides.
		errs = append(errs, r.diverged(ctx, branches))
	}
	return errors.Join(errs...)
}

// plan decides what to do about one branch, and adds to objects what the
// remote lacks; nil if it lacks nothing.
func (r *Repo) plan(branch string, refs map[plumbing.ReferenceName]plumbing.Hash, seen map[plumbing.Hash]bool, objects *[]plumbing.Hash) (*packp.Command, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	name, err := branchRef(branch)
	if err != nil {
		return nil, err
	}
	tip, err := r.ref(name)
	if err != nil {
		return nil, err
	}
	if tip.IsZero() {
		return nil, fmt.Errorf("branch %s: %w", branch, ErrNotFound)
	}
	theirs := refs[name]
	if theirs == tip {
		return nil, r.note(branch, tip)
	}
	commits, err := r.since(tip, theirs)
	if errors.Is(err, errNotAncestor) {
		return nil, fmt.Errorf("%w: %s is at %s there, at %s here", ErrRejected, branch, theirs, tip)
	}
	if err != nil {
		return nil, err
	}
	var base plumbing.Hash
	if !theirs.IsZero() {
		c, _, err := readCommit(r.st, theirs)
		if err != nil {
			return nil, err
		}
		base = c.tree
	}
	for _, h := range slices.Backward(commits) {
		c, _, err := readCommit(r.st, h)
		if err != nil {
			return nil, err
		}
		if !seen[h] {
			seen[h] = true
			*objects = append(*objects, h)
		}
		if err := r.added(base, c.tree, seen, objects); err != nil {
			return nil, err
		}
		base = c.tree
	}
	return &packp.Command{Name: name, Old: theirs, New: tip}, nil
}

var errNotAncestor = errors.New("not an ancestor")

// since lists the commits from tip down to, and without, stop, by first
// parents; a zero stop lists all.
func (r *Repo) since(tip, stop plumbing.Hash) ([]plumbing.Hash, error) {
	var list []plumbing.Hash
	for at := tip; at != stop; {
		list = append(list, at)
		c, _, err := readCommit(r.st, at)
		if err != nil {
			return nil, err
		}
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
	if base == tree || seen[tree] {
		return nil
	}
	seen[tree] = true
	*objects = append(*objects, tree)
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
		switch {
		case had[e.mode+e.name] == e.hash:
		case e.dir():
			if err := r.added(had[e.mode+e.name], e.hash, seen, objects); err != nil {
				return err
			}
		case !seen[e.hash]:
			seen[e.hash] = true
			*objects = append(*objects, e.hash)
		}
	}
	return nil
}

// syncObjects makes loose objects and their names durable; packed ones were
// when they were packed. An error is final for this push: after a failed fsync
// the page cache tells nothing about the disk.
func (r *Repo) syncObjects(objects []plumbing.Hash) error {
	dirs := map[string]bool{}
	for _, h := range objects {
		path := r.loose(h)
		err := syncPath(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		dirs[filepath.Dir(path)] = true
	}
	for d := range dirs {
		if err := syncPath(d); err != nil {
			return err
		}
	}
	return syncPath(filepath.Join(r.dir, "objects"))
}

func (r *Repo) loose(h plumbing.Hash) string {
	s := h.String()
	return filepath.Join(r.dir, "objects", s[:2], s[2:])
}

func (r *Repo) send(ctx context.Context, s transport.ReceivePackSession, req *packp.ReferenceUpdateRequest, objects []plumbing.Hash) (*packp.ReportStatus, error) {
	rd, wr := io.Pipe()
	encoded := make(chan error, 1)
	go func() {
		// A reader of its own: a slow remote must not hold up Commit.
		st := storageAt(r.dir)
		err := writePack(wr, st, objects)
		err = errors.Join(err, st.ObjectStorage.Close())
		encoded <- errors.Join(err, wr.CloseWithError(err))
	}()
	req.Packfile = rd
	report, err := s.ReceivePack(ctx, req)
	if err != nil && report != nil && len(report.CommandStatuses) > 0 {
		err = nil // the error only repeats the first refusal of the report
	}
	cerr := rd.Close()
	if eerr := <-encoded; err == nil && eerr != nil {
		err = eerr
	}
	if err == nil {
		err = cerr
	}
	return report, err
}

// diverged asks the remote where it is now: ErrRejected if elsewhere.
func (r *Repo) diverged(ctx context.Context, branches []string) error {
	var errs []error
	_, err := r.remote.fetch(ctx, r.st, 0, nil, func(refs map[plumbing.ReferenceName]plumbing.Hash, _ plumbing.ReferenceName) ([]fetched, error) {
		for _, b := range branches {
			_, err := r.plan(b, refs, map[plumbing.Hash]bool{}, &[]plumbing.Hash{})
			errs = append(errs, err)
		}
		return nil, errors.Join(errs...)
	})
	return err
}

func (r *Repo) notePublished(branch string, h plumbing.Hash) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.note(branch, h)
}

func (r *Repo) note(branch string, h plumbing.Hash) error {
	old, err := r.ref(published(branch))
	if err != nil || old == h {
		return err
	}
	return r.move(published(branch), old, h)
}

// Fetch brings branches in from the remote, so that they can be read, or
// continued after their local copy was lost. A branch that is behind its remote
// moves forward; one that is ahead stays; one that went another way is
// ErrRejected; one that the remote does not have is left alone.
func (r *Repo) Fetch(ctx context.Context, branches ...string) error {
	if r.remote == nil {
		return errors.New("no remote is configured to fetch from")
	}
	var haves []plumbing.Hash
	for _, b := range branches {
		tip, ok, err := r.Tip(b)
		if err != nil {
			return err
		}
		if ok {
			haves = append(haves, plumbing.NewHash(tip))
		}
	}
	picks, err := r.remote.fetch(ctx, r.st, maxClone, haves, func(refs map[plumbing.ReferenceName]plumbing.Hash, _ plumbing.ReferenceName) ([]fetched, error) {
		var picks []fetched
		for _, b := range branches {
			name, err := branchRef(b)
			if err != nil {
				return nil, err
			}
			if h := refs[name]; !h.IsZero() {
				picks = append(picks, fetched{name, h})
			}
		}
		return picks, nil
	})
	if err != nil {
		return err
	}
	if err := syncAll(filepath.Join(r.dir, "objects", "pack")); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range picks {
		branch := p.Name.Short()
		tip, err := r.ref(p.Name)
		if err != nil {
			return err
		}
		if _, err = r.since(p.Hash, tip); err == nil {
			err = r.move(p.Name, tip, p.Hash)
		} else if errors.Is(err, errNotAncestor) {
			if _, err = r.since(tip, p.Hash); errors.Is(err, errNotAncestor) {
				err = fmt.Errorf("%w: %s is at %s there, at %s here", ErrRejected, branch, p.Hash, tip)
			}
		}
		if err = errors.Join(err, r.note(branch, p.Hash)); err != nil {
			return err
		}
	}
	return nil
}

// plain makes a remote's words fit for one line of a log.
func plain(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	return strings.TrimSpace(s[:min(len(s), 300)])
}
