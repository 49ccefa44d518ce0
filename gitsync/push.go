package gitsync

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"github.com/go-git/go-git/v5/storage/filesystem"
)

// published is where a branch's state on the remote, as last seen, is noted.
func published(branch string) plumbing.ReferenceName {
	return plumbing.ReferenceName("refs/remotes/origin/" + branch)
}

// Pushed is what became of one push.
type Pushed struct {
	Before map[string]string // all branches of the remote before, each with its commit
	Tips   map[string]string // of the branches that were to be pushed, those that are there now, each with its commit
	Failed map[string]error  // the others, each with the reason: ErrRejected, ErrRefused, or our own disk's
	Sent   int64             // bytes of objects, about
	More   bool              // commits are left for the next push
	Notes  []string          // what a person should know: a branch that the remote had further
}

// Err joins what failed.
func (p Pushed) Err() error {
	var errs []error
	for _, b := range slices.Sorted(maps.Keys(p.Failed)) {
		errs = append(errs, p.Failed[b])
	}
	return errors.Join(errs...)
}

// step is what a push is to do about one branch.
type step struct {
	branch  string
	cmd     *packp.Command
	objects []plumbing.Hash
	said    string // empty: the remote said ok
}

const (
	defaultMaxPack = 256 << 20
	// A push may take so long until the remote has told its branches, and again,
	// with a second for each so many bytes, until it has answered.
	defaultPatience = 2 * time.Minute
	slowest         = 256 << 10
)

// Push publishes branches, all in one push. Nothing is forced: the remote's
// commit must be one that ours descends from, or one that Rewrite left; if not,
// ErrRejected, which no retry mends. ErrRefused is the remote's own no (a hook, a protected branch),
// with its words. Both are of single branches, as the push is not atomic: the
// remote takes what it takes, which is noted as published, and one branch that
// it dislikes holds up no other. The error is of the whole push: the network's,
// or the disk's, and the remote may have taken it all the same.
//
// A push sends AuditConfig.MaxPack bytes, about. Of what is more it sends a
// part of each branch, the oldest commits, and says so (More); a branch in the
// same folder as one that was cut short, and named after it, waits.
func (r *Repo) Push(ctx context.Context, branches ...string) (Pushed, error) {
	done := Pushed{Tips: map[string]string{}, Failed: map[string]error{}}
	if r.remote == nil {
		return done, errors.New("no remote is configured to push to")
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	late := time.AfterFunc(r.patience, func() { cancel(fmt.Errorf("given up: %w", context.DeadlineExceeded)) })
	defer late.Stop()

	var sent []step
	now := Pushed{Tips: map[string]string{}, Failed: map[string]error{}} // a contact may outlive this call
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
		now.Before = heads(refs)
		steps, err := r.plan(branches, refs, &now)
		if err != nil || len(steps) == 0 {
			return err
		}
		var objects []plumbing.Hash
		for _, st := range steps {
			req.Commands = append(req.Commands, st.cmd)
			objects = append(objects, st.objects...)
		}
		// Ours must be durable before theirs is: see Repo.
		if err := r.syncObjects(objects); err != nil {
			return err
		}
		late.Reset(r.patience + time.Duration(now.Sent)*time.Second/slowest)
		report, err := r.send(ctx, s, req, objects)
		var bad *badObject
		if errors.As(err, &bad) {
			for _, st := range steps {
				if slices.Contains(st.objects, bad.hash) {
					now.Failed[st.branch] = fmt.Errorf("%s: %w", st.branch, err)
				}
			}
			return nil // the others have not been sent, and are not to blame
		}
		if err != nil {
			return err
		}
		if report == nil {
			return errors.New("the remote did not report what became of the push")
		}
		for i := range steps {
			steps[i].said = "no answer"
			if report.UnpackStatus != "ok" {
				steps[i].said = "unpack: " + report.UnpackStatus
				continue
			}
			for _, cs := range report.CommandStatuses {
				if cs.ReferenceName == steps[i].cmd.Name {
					steps[i].said = strings.TrimPrefix(cs.Status, "ok")
				}
			}
		}
		sent = steps
		return nil
	})
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
			err = fmt.Errorf("%w: %w", err, cause)
		}
		return done, err
	}
	done = now
	var refused []string
	for _, st := range sent {
		if st.said == "" {
			if err := r.notePublished(st.branch, st.cmd.New); err != nil {
				return done, err
			}
			done.Tips[st.branch] = st.cmd.New.String()
			continue
		}
		refused = append(refused, st.branch)
		done.Failed[st.branch] = fmt.Errorf("%w: %s: %s", ErrRefused, st.branch, plain(st.said))
	}
	if len(refused) > 0 {
		late.Reset(r.patience)
		// Servers word a lost race in many ways: what the reference is now decides.
		if err := r.diverged(ctx, refused, done.Failed); err != nil {
			return done, err
		}
	}
	return done, nil
}

// heads lists the branches among references.
func heads(refs map[plumbing.ReferenceName]plumbing.Hash) map[string]string {
	out := map[string]string{}
	for name, h := range refs {
		if b, ok := strings.CutPrefix(name.String(), "refs/heads/"); ok {
			out[b] = h.String()
		}
	}
	return out
}

// plan decides what to do about each branch. What fails, or has nothing to be
// done about, is in the result already.
func (r *Repo) plan(branches []string, refs map[plumbing.ReferenceName]plumbing.Hash, out *Pushed) ([]step, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var steps []step
	cut := map[string]bool{} // folders with a branch that was cut short
	seen := map[plumbing.Hash]bool{}
	for i, b := range branches {
		if cut[path.Dir(b)] {
			continue
		}
		name, err := branchRef(b)
		if err != nil {
			return nil, err
		}
		theirs := refs[name]
		l, err := r.lacks(b, name, theirs)
		if err == nil {
			err = r.setBack(b, l.tip, theirs, out)
		}
		if err == nil && l.nothing() {
			out.Tips[b] = l.tip.String()
			err = r.note(b, l.tip)
		}
		if err != nil {
			out.Failed[b] = err
			continue
		}
		if l.nothing() {
			continue
		}
		st, size, err := r.collect(l, (r.maxPack-out.Sent)/int64(len(branches)-i), seen)
		if err != nil {
			out.Failed[b] = fmt.Errorf("%s: %w", b, err)
			continue
		}
		st.branch, st.cmd = b, &packp.Command{Name: name, Old: theirs, New: st.cmd.New}
		out.Sent += size
		if st.cmd.New != l.tip {
			out.More, cut[path.Dir(b)] = true, true
		}
		steps = append(steps, st)
	}
	return steps, nil
}

// syncObjects makes loose objects and their names durable; packed ones were
// when they were packed. An error is final for this push: after a failed fsync
// the page cache tells nothing about the disk.
func (r *Repo) syncObjects(objects []plumbing.Hash) error {
	var files, dirs []string
	for _, h := range objects {
		files = append(files, r.loose(h))
		dirs = append(dirs, filepath.Dir(r.loose(h)))
	}
	slices.Sort(dirs)
	dirs = slices.Compact(dirs)
	if err := syncEach(files); err != nil {
		return err
	}
	if err := syncEach(dirs); err != nil {
		return err
	}
	return syncPath(filepath.Join(r.dir, "objects"))
}

func (r *Repo) loose(h plumbing.Hash) string {
	s := h.String()
	return filepath.Join(r.dir, "objects", s[:2], s[2:])
}

func (r *Repo) send(ctx context.Context, s transport.ReceivePackSession, req *packp.ReferenceUpdateRequest, objects []plumbing.Hash) (*packp.ReportStatus, error) {
	if onlyRemoves(req) {
		return answered(s.ReceivePack(ctx, req))
	}
	rd, wr := io.Pipe()
	encoded := make(chan error, 1)
	go func() {
		r.packs.RLock()
		defer r.packs.RUnlock()
		// A reader of its own: a slow remote must not hold up Commit.
		st := filesystem.NewStorageWithOptions(osfs.New(r.dir, osfs.WithBoundOS()), newCache(), filesystem.Options{KeepDescriptors: true})
		err := writePack(wr, st, objects)
		err = errors.Join(err, st.ObjectStorage.Close())
		encoded <- errors.Join(err, wr.CloseWithError(err))
	}()
	req.Packfile = rd
	report, err := answered(s.ReceivePack(ctx, req))
	cerr := rd.Close()
	eerr := <-encoded
	var bad *badObject
	if errors.As(eerr, &bad) || err == nil {
		err = eerr // the other side's words are only a consequence
	}
	if err == nil {
		err = cerr
	}
	return report, err
}

// answered passes over an error that only repeats the report's first refusal.
func answered(report *packp.ReportStatus, err error) (*packp.ReportStatus, error) {
	if err != nil && report != nil && len(report.CommandStatuses) > 0 {
		err = nil
	}
	return report, err
}

// diverged asks the remote where it is now: ErrRejected, beside what it said of
// a branch, if elsewhere.
func (r *Repo) diverged(ctx context.Context, branches []string, failed map[string]error) error {
	more := map[string]error{}
	_, err := r.fetch(ctx, 0, nil, func(refs map[plumbing.ReferenceName]plumbing.Hash, _ plumbing.ReferenceName) ([]fetched, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, b := range branches {
			name, err := branchRef(b)
			if err != nil {
				return nil, err
			}
			if _, err := r.lacks(b, name, refs[name]); err != nil {
				more[b] = err
			}
		}
		return nil, nil
	})
	if err != nil {
		return err
	}
	for b, why := range more {
		failed[b] = errors.Join(failed[b], why)
	}
	return nil
}

func (r *Repo) notePublished(branch string, h plumbing.Hash) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.note(branch, h)
}

func (r *Repo) note(branch string, h plumbing.Hash) error {
	if err := r.settle(branch, h); err != nil || h.IsZero() {
		return err
	}
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
	picks, err := r.fetch(ctx, maxClone, haves, func(refs map[plumbing.ReferenceName]plumbing.Hash, _ plumbing.ReferenceName) ([]fetched, error) {
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

// fetch is the remote's, with a store of its own: the Repo goes on meanwhile.
func (r *Repo) fetch(ctx context.Context, limit int64, haves []plumbing.Hash,
	choose func(refs map[plumbing.ReferenceName]plumbing.Hash, head plumbing.ReferenceName) ([]fetched, error),
) ([]fetched, error) {
	picks, err := r.remote.fetch(ctx, storageAt(r.dir), limit, haves, choose)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.st.ObjectStorage.Reindex()
	return picks, err
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
