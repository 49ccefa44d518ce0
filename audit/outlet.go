package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// Part is what an Outlet takes to the remote: one incarnation's log (a
// Publisher), or bodies. An Outlet calls one method at a time.
type Part interface {
	// Commit commits what is durable in the journal, as far as it can: what was
	// committed before an error is pushed. An error that wraps ErrForked is
	// final; after any other, it is called again.
	Commit(ctx context.Context) error
	// Dirty names the branches with commits that the remote lacks, in the order
	// in which it is to get them.
	Dirty() []string
	// Pushed tells that the remote has these branches, of those that Dirty named
	// when the push began, at these commits: each at what was its tip then, or
	// at an earlier commit if the push was cut into steps. Branches that failed
	// are not named.
	Pushed(ctx context.Context, tips map[string]string) error
}

// Push is what became of one push.
type Push struct {
	Before map[string]string // all branches of the remote before, each with its commit
	Tips   map[string]string // of the branches that were to be pushed, those that are there now, each with its commit
	Failed map[string]error  // the others, each with the reason
	Sent   int64             // bytes of objects
	More   bool              // commits are left for the next push: the size of one is bounded
	Notes  []string          // what a person should know
}

// OutletConfig says what is pushed, how and when.
type OutletConfig struct {
	// Parts are taken along together; what refers to another comes after it.
	Parts []Part
	// Push pushes branches, all in one push, in time that it bounds. An error is
	// the network's, the host's or the disk's, and nobody's in particular;
	// what is wrong with one branch is in Push.Failed.
	Push func(ctx context.Context, branches []string) (Push, error)
	// Rejected tells whether a branch failed because the remote's holds commits
	// that ours does not: never tried again.
	Rejected func(error) bool

	Window time.Duration                        // between pushes, a live writer; 0: 10 s
	Rand   func() float64                       // in [0,1), for jitter; nil: none
	Now    func() time.Time                     // nil: time.Now
	After  func(time.Duration) <-chan time.Time // nil: time.After
	Log    *slog.Logger                         // nil: none
	Pushed func(Push)                           // told of each push; nil: nobody
}

const (
	defaultWindow = 10 * time.Second
	perMinute     = 6 // pushes, for all writers; a minute is so many windows
	maxBackoff    = 5 * time.Minute
)

// Outlet takes parts to one remote, in one push a window. The window is 10 s
// for each live writer of the remote, since a host bounds the pushes to a
// repository, not those of a writer (GitHub: 6 a minute); a fifth more, so that
// a minute has room for one push of somebody who comes anew; and up to another
// fifth, so that writers do not meet. Who else writes is seen in what the
// remote shows at the beginning of every push; see writers.
//
// Parts share a push, not their troubles. A part that cannot be committed, or
// whose branch alone the remote refuses, waits longer and longer while the
// others go on; one that the remote's branch contradicts is given up, loudly.
// When the remote refuses all of a push, it cannot be told whose fault that
// is, and each part has a push of its own until one of its own passes.
type Outlet struct {
	cfg OutletConfig

	mu       sync.Mutex // one window at a time
	parts    []*outletPart
	writers  writers
	failures int // pushes in a row of which nothing is known to have arrived
	crowded  bool
}

// outletPart is a part, and the trouble it is in.
type outletPart struct {
	Part
	fatal    error
	alone    bool // it has no part in others' pushes
	failures int
	due      time.Time // not before
}

// NewOutlet checks the configuration.
func NewOutlet(cfg OutletConfig) (*Outlet, error) {
	if cfg.Push == nil || cfg.Rejected == nil {
		return nil, errors.New("audit: an outlet needs Push and Rejected")
	}
	if cfg.Window == 0 {
		cfg.Window = defaultWindow
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.After == nil {
		cfg.After = time.After
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	o := &Outlet{cfg: cfg}
	for _, p := range cfg.Parts {
		o.parts = append(o.parts, &outletPart{Part: p})
	}
	return o, nil
}

// Add gives the outlet one more part, from its next window on.
func (o *Outlet) Add(p Part) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.parts = append(o.parts, &outletPart{Part: p})
}

// Remove takes a part away.
func (o *Outlet) Remove(p Part) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.parts = slices.DeleteFunc(o.parts, func(have *outletPart) bool { return have.Part == p })
}

// Run commits at once, and pushes every window, until ctx is done; the caller
// may Flush a last time. What fails is logged, and tried again.
func (o *Outlet) Run(ctx context.Context) {
	o.mu.Lock()
	o.commit(ctx, false)
	o.mu.Unlock()
	for {
		select {
		case <-ctx.Done():
			return
		case <-o.cfg.After(o.wait()):
			o.window(ctx)
		}
	}
}

// Flush commits and pushes everything that is durable, waiting for nothing. It
// returns what kept a part from that; unless that is final, nothing is lost,
// and Flush may be called again.
func (o *Outlet) Flush(ctx context.Context) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	errs := o.commit(ctx, true)
	for {
		var all []*outletPart
		for _, p := range o.parts {
			if p.fatal != nil {
				errs = append(errs, p.fatal)
			} else {
				all = append(all, p)
			}
		}
		more, err := o.push(ctx, all)
		if err != nil || !more {
			return errors.Join(append(errs, err)...)
		}
		errs = errs[:0]
	}
}

// wait is how long the next window is away.
func (o *Outlet) wait() time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	w := o.pause()
	if o.cfg.Rand != nil {
		w += time.Duration((1 + o.cfg.Rand()) * float64(w) / 5)
	}
	return w
}

func (o *Outlet) pause() time.Duration {
	w := o.rhythm()
	if o.failures > 0 {
		w = min(w<<min(o.failures, 16), max(maxBackoff, w))
	}
	return w
}

// rhythm is the window as the writers seen have it.
func (o *Outlet) rhythm() time.Duration {
	n := 1 + o.writers.others
	w := o.cfg.Window * time.Duration(n)
	if n > perMinute/2 { // or some push twice in a minute, and all of them may in the same
		w = max(w, o.cfg.Window*perMinute)
	}
	if o.crowded {
		w *= 2
	}
	return w
}

func (o *Outlet) window(ctx context.Context) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.commit(ctx, false)
	if _, err := o.push(ctx, o.turn()); err != nil && o.failures > 0 && ctx.Err() == nil {
		o.cfg.Log.Warn("the record could not be published; it stays in the journal", "err", err, "again_in", o.pause())
	}
}

// commit has every part commit that is not in trouble, or may try again; all
// that may ever try again, if it must not wait.
func (o *Outlet) commit(ctx context.Context, atOnce bool) (errs []error) {
	for _, p := range o.parts {
		if p.fatal != nil || !atOnce && o.cfg.Now().Before(p.due) {
			continue
		}
		if err := p.Commit(ctx); err != nil {
			errs = append(errs, o.trouble(ctx, p, err))
		}
	}
	return errs
}

// turn chooses whose push is next: a part that must be alone and may try again,
// the newest first, since calls are recorded in it; else all the others.
func (o *Outlet) turn() []*outletPart {
	now := o.cfg.Now()
	var together []*outletPart
	for _, p := range slices.Backward(o.parts) {
		switch {
		case p.fatal != nil || now.Before(p.due) || len(p.Dirty()) == 0:
		case p.alone:
			return []*outletPart{p}
		default:
			together = append(together, p)
		}
	}
	slices.Reverse(together)
	return together
}

// push pushes what the parts have, in one push.
func (o *Outlet) push(ctx context.Context, parts []*outletPart) (more bool, err error) {
	of := map[string]*outletPart{}
	var branches []string
	for _, p := range parts {
		for _, b := range p.Dirty() {
			if of[b] == nil {
				of[b] = p
				branches = append(branches, b)
			}
		}
	}
	if len(branches) == 0 {
		return false, nil
	}
	done, err := o.cfg.Push(ctx, branches)
	if err != nil {
		o.failures++
		return false, fmt.Errorf("audit: push %s: %w", strings.Join(branches, " "), err)
	}
	o.failures = 0
	o.look(done.Before, branches)
	for _, n := range done.Notes {
		o.cfg.Log.Warn("the remote is not as it was", "note", n)
	}
	if o.cfg.Pushed != nil {
		o.cfg.Pushed(done)
	}
	tips, failed := map[*outletPart]map[string]string{}, map[*outletPart]error{}
	for _, b := range branches {
		p := of[b]
		if tip, ok := done.Tips[b]; ok {
			if tips[p] == nil {
				tips[p] = map[string]string{}
			}
			tips[p][b] = tip
		}
		if why := done.Failed[b]; why != nil {
			failed[p] = errors.Join(failed[p], fmt.Errorf("audit: push %s: %w", b, why))
		}
	}
	all := len(parts) > 1 && len(tips) == 0
	var errs []error
	for _, p := range parts {
		why := failed[p]
		if t := tips[p]; t != nil {
			why = errors.Join(why, p.Pushed(ctx, t)) // what is not noted is found out by the next start
		}
		switch {
		case why == nil && tips[p] != nil:
			p.alone, p.failures, p.due = false, 0, time.Time{}
		case why == nil:
		case all && !o.cfg.Rejected(why):
			p.alone = true
		default:
			p.alone = true
			why = o.trouble(ctx, p, why)
		}
		errs = append(errs, why)
	}
	return done.More && len(tips) > 0, errors.Join(errs...)
}

// trouble puts a part back, tells of it, and returns why.
func (o *Outlet) trouble(ctx context.Context, p *outletPart, err error) error {
	switch {
	case ctx.Err() != nil:
		return err // not its fault
	case errors.Is(err, ErrForked):
		p.fatal = err
	case o.cfg.Rejected(err):
		p.fatal = fmt.Errorf("%w: %w", ErrForked, err)
	}
	if p.fatal != nil {
		o.cfg.Log.Error("a part of the record is not published any more: a person must look", "err", p.fatal)
		return p.fatal
	}
	p.failures++
	again := min(o.cfg.Window<<min(p.failures, 16), max(maxBackoff, o.cfg.Window))
	p.due = o.cfg.Now().Add(again)
	o.cfg.Log.Warn("a part of the record could not be published; it stays in the journal", "err", err, "again_in", again)
	return err
}

// look counts the writers seen in the remote's branches.
func (o *Outlet) look(before map[string]string, ours []string) {
	now := o.cfg.Now()
	stale := now.Sub(o.writers.looked) > o.span()
	was := o.writers.others
	o.writers.see(before, ours, now, o.span())
	// Of a minute in which the others did not know of this one, the host's
	// pushes may be used up.
	o.crowded = o.writers.others > 0 && (stale || o.writers.others > was)
}

// span is how long a writer counts as live after its last change was seen.
func (o *Outlet) span() time.Duration { return 3 * o.rhythm() }
