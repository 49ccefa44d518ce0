package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"countersign/audit"
	"countersign/enforcer"
	"countersign/enforcer/mask"
	"countersign/gitsync"
	"countersign/rules"
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
	mask     *mask.Mask
	keys     recordKeys
	outgoing outgoing
	current  atomic.Pointer[site] // where this run's log is
	previous []*audit.Past        // journals of earlier runs that are still on this disk
	opening  sync.Mutex           // over places, and what opens a site
	places   []byte               // placesFile, as it is on the disk
	sitesMu  sync.Mutex
	sites    []*site               // all repositories that the record is or was in
	logs     []*rollingLog         // of earlier runs that were not wholly published, and of this one, the last
	target   string                // where this run's log is, or is to go on
	eraser   *audit.Eraser         // of bodies
	policy   func() *rules.Policy  // in force, or the last one that was; nil before the first; set before publishing begins
	names    func() enforcer.Names // of subjects; set before publishing begins
	recovery enforcer.Recovery
	outside  outside
	anchor   func(checkpoint string) // told of each pushed checkpoint
	told     func(audit.Tally)       // of each commit of this run

	sizeMu sync.Mutex
	size   repoSize
}

// openRecord takes up what earlier runs left: their entries are committed, so
// that the first entry of this run can name the last checkpoint; then this
// run's journal begins, and what they left open is closed in it.
func openRecord(ctx context.Context, c config, m *mask.Mask, names enforcer.Names, log *slog.Logger) (*record, error) {
	keys, err := openKeys(ctx, c, m, log)
	if err != nil {
		return nil, errors.Join(err, keys.close(ctx))
	}
	r := &record{config: c, log: log, mask: m, keys: keys}
	if err := r.open(ctx, names); err != nil {
		return nil, errors.Join(err, r.closeSites(), keys.close(ctx))
	}
	return r, nil
}

// committerEmail is whom the record's commits are by, as allowed_signers names
// it.
func committerEmail(id string) string { return id + committerHost }

const committerHost = "@countersign.invalid"

// enforcerOf names the enforcer whose address it is; "" if it is none.
func enforcerOf(email string) string {
	if id, ok := strings.CutSuffix(email, committerHost); ok {
		return id
	}
	return ""
}

func (r *record) open(ctx context.Context, names enforcer.Names) error {
	previous, err := audit.Previous(r.config.StateDir)
	if err != nil {
		return err
	}
	if previous, err = audit.Prune(previous, keepPast, time.Now().Add(-pastAge)); err != nil {
		return err
	}
	r.previous = previous
	if err := r.loadSize(); err != nil {
		return err
	}
	if err := r.findOutgoing(previous); err != nil {
		return err
	}
	if r.target, err = r.startsIn(previous); err != nil {
		return err
	}
	if err := r.openPlaces(previous); err != nil {
		return err
	}
	here, err := r.at(r.target)
	if err != nil {
		return err
	}
	r.current.Store(here)
	r.outside, err = openOutside(r.config, &r.current, func(ctx context.Context, e audit.Entry) error {
		_, err := r.journal.Append(ctx, e)
		return err
	}, r.log)
	if err != nil {
		return err
	}
	var bodies []*audit.Bodies
	var journals []iter.Seq2[audit.Entry, error]
	for _, p := range previous {
		journals = append(journals, r.recalled(p))
		if (r.config.rolls() || p.Repo() != "") && p.Published() {
			continue // wherever it was
		}
		there, began, err := r.sitesOf(p, here)
		if err != nil {
			return err
		}
		pub, err := r.publisher(audit.PublisherConfig{Past: p}, there)
		if err != nil {
			return err
		}
		if err := pub.Commit(ctx); err != nil {
			return fmt.Errorf("the journal of run %s cannot be committed: %w", p.Incarnation, err)
		}
		if p.Published() {
			continue
		}
		b, err := r.bodies(audit.BodiesConfig{Past: p}, began)
		if err != nil {
			return err
		}
		r.logs, bodies = append(r.logs, &rollingLog{p, pub, there}), append(bodies, b)
		there.outlet.Add(pub) // earlier runs first: this one's first entry says that they are there
		began.outlet.Add(b)
	}
	if r.recovery, err = enforcer.Recover(names, journals...); err != nil {
		return err
	}
	secret, err := digestKey(r.config.StateDir) // of this machine, also where enforcers share one for the rest
	if err != nil {
		return err
	}
	r.journal, err = audit.Open(audit.Config{
		Dir: r.config.StateDir, Enforcer: r.config.ID, Incarnation: randomID("r"), Previous: previous,
		Version: version, Now: time.Now, MaxBytes: r.config.AuditJournalMax, Salts: audit.NewSalts(secret), Log: r.log,
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
	if err := r.journal.Recount(ctx, previous); err != nil {
		return errors.Join(err, r.journal.Close())
	}
	current, err := r.publisher(audit.PublisherConfig{Journal: r.journal}, here)
	if err != nil {
		return errors.Join(err, r.journal.Close())
	}
	r.logs = append(r.logs, &rollingLog{nil, current, here})
	here.outlet.Add(current)
	b, err := r.bodies(audit.BodiesConfig{Journal: r.journal}, here)
	if err == nil {
		here.outlet.Add(b)
		err = r.newEraser(append(bodies, b))
	}
	if err != nil {
		return errors.Join(err, r.journal.Close())
	}
	return nil
}

// recalled gives the entries of an earlier run, and has the neighbours see them
// as they go by.
func (r *record) recalled(p *audit.Past) iter.Seq2[audit.Entry, error] {
	entries := p.Read()
	if r.outside.neighbours == nil {
		return entries
	}
	return func(yield func(audit.Entry, error) bool) {
		for e, err := range entries {
			if err == nil {
				r.outside.neighbours.Recall(e, p.Began())
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

func (r *record) publisher(pc audit.PublisherConfig, at *site) (*audit.Publisher, error) {
	pc.Store, pc.Repo, pc.Now, pc.Log = at.repo, at.name, time.Now, r.log
	pc.Signer, pc.Previous = r.keys.now[audit.UseCheckpoint], r.keys.before[audit.UseCheckpoint]
	if pc.Past != nil && r.outgoing.runs[pc.Past.Incarnation] {
		pc.Store = at.repo.SignedBy(r.outgoing.key)
	}
	if r.outside.witnesses != nil {
		pc.Cosign, pc.Rand = r.outside.witnesses.Cosign, rand.Float64
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
	var work sync.WaitGroup
	defer work.Wait()
	follow := func(pub *audit.Publisher) { work.Go(func() { pub.Follow(ctx) }) }
	follow(r.logs[len(r.logs)-1].pub)
	work.Go(func() { r.outside.run(ctx) })
	tick := time.NewTicker(r.config.AuditWindow)
	defer tick.Stop()
	for {
		for _, s := range r.openSites() { // an erasure may have opened one
			if !s.runs {
				s.runs = true
				work.Go(func() { s.outlet.Run(ctx) })
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if !r.config.rolls() {
				continue
			}
			if err := errors.Join(r.roll(ctx, time.Now()), r.moveOn(follow)); err != nil && ctx.Err() == nil {
				r.log.Error("the record's next repository", "err", err)
			}
		}
	}
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

// trim drops what the remote has from the local repositories.
func (r *record) trim(ctx context.Context, now time.Time) error {
	state := r.journal.State()
	logs := map[string]bool{} // of earlier runs that are on this disk: a publisher may still look at their branches
	for _, p := range r.previous {
		logs["audit/"+p.Enforcer+"/"+p.Incarnation] = true
	}
	current := "audit/" + r.config.ID + "/" + r.journal.Incarnation()
	cutoff := now.Add(-pastAge).UTC().Format("2006-01")
	var errs []error
	for _, s := range r.openSites() {
		branches, err := s.repo.Branches("audit/")
		if err != nil {
			return err
		}
		last := map[string]string{} // the newest branch of each log
		for _, b := range branches {
			last[path.Dir(b)] = b
		}
		n, err := s.repo.Trim(ctx, "audit/", now.Add(-trimAge), func(branch string) bool {
			switch log := path.Dir(branch); {
			case log == current:
				return state.Pushed == state.Entries && branch != last[log] && path.Base(branch) < cutoff
			case logs[log]:
				return false
			}
			return true
		})
		m, berr := s.repo.Trim(ctx, "bodies/", now.Add(-trimAge), func(string) bool { return false }) // erasures need their branches
		r.log.Debug("published objects were removed from the local repository", "repository", s.name, "objects", n+m)
		errs = append(errs, err, berr)
	}
	return errors.Join(errs...)
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
	reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "countersign_journal_failures_total", Help: "Files of the journal given up after an error of the disk.",
	}, func() float64 { return float64(r.journal.State().Failures) }))
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
	// One roll at most may be under way; what is left, the next start does.
	for range 2 {
		for _, s := range r.openSites() {
			if err := s.outlet.Flush(ctx); err != nil {
				r.log.Warn("the record's end could not be published; the next start does it", "err", err)
			}
		}
		moved := false
		if err := r.moveOn(func(*audit.Publisher) { moved = true }); err != nil {
			r.log.Warn("the record's end could not be published; the next start does it", "err", err)
		}
		if !moved {
			break
		}
	}
	return errors.Join(append(errs, r.closeSites(), r.keys.close(ctx))...)
}
