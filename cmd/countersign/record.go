package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"path"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"countersign/audit"
	"countersign/enforcer"
	"countersign/enforcer/mask"
	"countersign/gitsync"
)

// keepPast is how many fully published journals of earlier runs stay on disk,
// and pastAge how long at least: the approvals of the last day live in them.
const (
	keepPast = 8
	pastAge  = 48 * time.Hour
)

// record is the journal of this run and its way to Git.
type record struct {
	config   config
	log      *slog.Logger
	journal  *audit.Journal
	repo     *gitsync.Repo
	keys     recordKeys
	previous []*audit.Past // journals of earlier runs that are still on this disk
	current  *audit.Publisher
	outlet   *audit.Outlet // of this run's log, and of earlier ones that were not wholly published
	recovery enforcer.Recovery
	outside  outside
	anchor   func(checkpoint string) // told of each pushed checkpoint
	told     func(audit.Tally)       // of each commit of this run
}

// openRecord takes up what earlier runs left: their entries are committed, so
// that the first entry of this run can name the last checkpoint; then this
// run's journal begins, and what they left open is closed in it.
func openRecord(ctx context.Context, c config, m *mask.Mask, names enforcer.Names, log *slog.Logger) (*record, error) {
	keys, err := openKeys(ctx, c, m, log)
	if err != nil {
		return nil, errors.Join(err, keys.close(ctx))
	}
	committer, err := keys.now[audit.UseCommit].SSH()
	if err != nil {
		return nil, err
	}
	repo, err := gitsync.OpenAudit(gitsync.AuditConfig{
		Dir: filepath.Join(c.StateDir, "audit.git"), URL: c.AuditRepo, Auth: c.auditAuth(m),
		Signer: committer, Name: "countersign " + c.ID, Email: committerEmail(c.ID),
	})
	if err != nil {
		return nil, fmt.Errorf("COUNTERSIGN_AUDIT_REPO: %w", err)
	}
	r := &record{config: c, log: log, repo: repo, keys: keys}
	if err := r.open(ctx, names); err != nil {
		return nil, errors.Join(err, repo.Close(), keys.close(ctx))
	}
	return r, nil
}

// committerEmail is whom the record's commits are by, as allowed_signers names
// it.
func committerEmail(id string) string { return id + "@countersign.invalid" }

func (r *record) open(ctx context.Context, names enforcer.Names) error {
	previous, err := audit.Previous(r.config.StateDir)
	if err != nil {
		return err
	}
	if previous, err = audit.Prune(previous, keepPast, time.Now().Add(-pastAge)); err != nil {
		return err
	}
	r.previous = previous
	r.outside, err = openOutside(r.config, r.repo, func(ctx context.Context, e audit.Entry) error {
		_, err := r.journal.Append(ctx, e)
		return err
	}, r.log)
	if err != nil {
		return err
	}
	var parts []audit.Part // earlier runs first: this one's first entry says that they are there
	var journals []iter.Seq2[audit.Entry, error]
	for _, p := range previous {
		journals = append(journals, r.recalled(p.Read()))
		pub, err := r.publisher(audit.PublisherConfig{Past: p})
		if err != nil {
			return err
		}
		if err := pub.Commit(ctx); err != nil {
			return fmt.Errorf("the journal of run %s cannot be committed: %w", p.Incarnation, err)
		}
		if !p.Published() {
			parts = append(parts, pub)
		}
	}
	if r.recovery, err = enforcer.Recover(names, journals...); err != nil {
		return err
	}
	r.journal, err = audit.Open(audit.Config{
		Dir: r.config.StateDir, Enforcer: r.config.ID, Incarnation: randomID("r"), Previous: previous,
		Version: version, Now: time.Now, MaxBytes: r.config.AuditJournalMax, Log: r.log,
	})
	if err != nil {
		return err
	}
	if err := r.rotate(ctx); err != nil {
		return errors.Join(err, r.journal.Close())
	}
	for _, intent := range r.recovery.Dangling {
		if _, err := r.journal.Append(ctx, enforcer.Closing(intent)); err != nil {
			return errors.Join(err, r.journal.Close())
		}
		r.log.Warn("a call of an earlier run has no outcome: it may have run", "call", intent.Call, "server", intent.Server, "tool", intent.Tool)
	}
	if r.current, err = r.publisher(audit.PublisherConfig{Journal: r.journal}); err != nil {
		return err
	}
	r.outlet, err = audit.NewOutlet(audit.OutletConfig{
		Parts: append(parts, r.current), Push: pushTo(r.repo), Rejected: func(err error) bool { return errors.Is(err, gitsync.ErrRejected) },
		Window: r.config.AuditWindow, Rand: rand.Float64, Now: time.Now, Log: r.log,
	})
	return err
}

// recalled has the neighbours see the entries of an earlier run as they go by.
func (r *record) recalled(entries iter.Seq2[audit.Entry, error]) iter.Seq2[audit.Entry, error] {
	if r.outside.neighbours == nil {
		return entries
	}
	return func(yield func(audit.Entry, error) bool) {
		for e, err := range entries {
			if err == nil {
				r.outside.neighbours.Recall(e)
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

// pushTo is a repository as an outlet wants to see it.
func pushTo(repo *gitsync.Repo) func(context.Context, []string) (audit.Push, error) {
	return func(ctx context.Context, branches []string) (audit.Push, error) {
		done, err := repo.Push(ctx, branches...)
		return audit.Push(done), err
	}
}

func (r *record) publisher(pc audit.PublisherConfig) (*audit.Publisher, error) {
	pc.Store, pc.Now, pc.Log = r.repo, time.Now, r.log
	pc.Signer, pc.Previous = r.keys.now[audit.UseCheckpoint], r.keys.before[audit.UseCheckpoint]
	if r.outside.witnesses != nil {
		pc.Cosign = r.outside.witnesses.Cosign
	}
	if pc.Journal != nil {
		pc.Told = func(n audit.Tally) {
			if r.told != nil {
				r.told(n)
			}
		}
	}
	pc.Done = func(cp audit.Checkpoint, signed string, pushed bool) {
		if pushed && pc.Journal != nil && r.anchor != nil {
			r.anchor(signed)
		}
	}
	return audit.NewPublisher(pc)
}

// publish runs until ctx ends. A remote that disagrees with the journal stops
// publishing, loudly, but not the calls: the journal keeps them, up to its
// bound.
func (r *record) publish(ctx context.Context) error {
	var follow sync.WaitGroup
	defer follow.Wait()
	follow.Go(func() { r.current.Follow(ctx) })
	follow.Go(func() { r.outside.run(ctx) })
	r.outlet.Run(ctx)
	return nil
}

// prune removes, now and then, what is published and old enough: whatever an
// approval or an open call may still need stays.
func (r *record) prune(ctx context.Context) error {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			cutoff := time.Now().Add(-pastAge)
			var err error
			if r.previous, err = audit.Prune(r.previous, 0, cutoff); err == nil {
				err = r.journal.Prune(cutoff)
			}
			if err != nil {
				r.log.Warn("old journal files could not be removed", "err", err)
			}
			if err := r.trim(ctx, time.Now()); err != nil && ctx.Err() == nil {
				r.log.Warn("published objects could not be removed from the local repository", "err", err)
			}
		}
	}
}

// trimAge is how long published commits stay in the local repository: should
// the remote lose what it has just confirmed, it is brought back.
const trimAge = time.Hour

// trim drops what the remote has from the local repository.
func (r *record) trim(ctx context.Context, now time.Time) error {
	s := r.journal.State()
	branches, err := r.repo.Branches("audit/")
	if err != nil {
		return err
	}
	last := map[string]string{} // the newest branch of each log
	for _, b := range branches {
		last[path.Dir(b)] = b
	}
	logs := map[string]bool{} // of earlier runs that are on this disk: a publisher may still look at their branches
	for _, p := range r.previous {
		logs["audit/"+p.Enforcer+"/"+p.Incarnation] = true
	}
	current := "audit/" + r.config.ID + "/" + r.journal.Incarnation()
	cutoff := now.Add(-pastAge).UTC().Format("2006-01")
	n, err := r.repo.Trim(ctx, "audit/", now.Add(-trimAge), func(branch string) bool {
		switch log := path.Dir(branch); {
		case log == current:
			return s.Pushed == s.Entries && branch != last[log] && path.Base(branch) < cutoff
		case logs[log]:
			return false
		}
		return true
	})
	r.log.Debug("published objects were removed from the local repository", "objects", n)
	return err
}

// ready fails when calls are, or soon will be, refused because they cannot be
// recorded.
func (r *record) ready(context.Context) error {
	return r.journal.State().Refuses
}

func (r *record) metrics(reg prometheus.Registerer) {
	gauge := func(name, help string, f func(audit.State) float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help},
			func() float64 { return f(r.journal.State()) }))
	}
	gauge("countersign_journal_unpublished_bytes", "Bytes of the journal that are not in Git yet.", func(s audit.State) float64 { return float64(s.Bytes) })
	gauge("countersign_journal_entries", "Entries of this run that are durable.", func(s audit.State) float64 { return float64(s.Entries) })
	gauge("countersign_journal_alert", "1 when a person should look at the journal.", func(s audit.State) float64 {
		if s.Alert != "" {
			return 1
		}
		return 0
	})
	r.outside.metrics(reg)
}

// close writes the last entry, and publishes what there is, once more. A
// remote that is down then costs nothing: the next start publishes.
func (r *record) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), r.config.ShutdownGrace)
	defer cancel()
	var errs []error
	if r.journal.Err() == nil {
		_, err := r.journal.Append(ctx, audit.Entry{Kind: audit.KindStop})
		errs = append(errs, err)
	}
	errs = append(errs, r.journal.Close())
	if r.outlet != nil { // it got so far
		if err := r.outlet.Flush(ctx); err != nil {
			r.log.Warn("the record's end could not be published; the next start does it", "err", err)
		}
	}
	return errors.Join(append(errs, r.repo.Close(), r.keys.close(ctx))...)
}
