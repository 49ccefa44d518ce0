package freeze

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"countersign/enforcer/kv"
)

// Patience is how long the store may be silent before every call is stopped.
const Patience = 15 * time.Second

const (
	key      = "standing"       // of the document, in the bucket
	every    = time.Second / 2  // the document is read
	limit    = 2 * time.Second  // for one question to the store
	owing    = 5 * time.Second  // between attempts to store and record what holds here
	restated = 12 * time.Hour   // a freeze that stands is recorded again
	writing  = 10 * time.Second // for all attempts to change the document
)

// Events name what Record is told.
const (
	EventFrozen   = "frozen"
	EventStanding = "standing" // it was frozen before, and still is: at each start, and twice a day
	EventUnfrozen = "unfrozen"
)

// Config is what a Board needs.
type Config struct {
	Bucket *kv.Bucket
	Now    func() time.Time

	// Record writes an event to the audit journal and returns when it is
	// durable. by is who did it; f.By froze. A discarded document (see
	// UnfreezeAll) is a Freeze without id. Record must not call the Board.
	Record func(ctx context.Context, f Freeze, event string, by Operator) error

	ID  func() string // a new id: fz_ and letters or digits; nil: random
	Log *slog.Logger  // nil: silent
}

// Board is what is frozen, as this process knows it. Any number of Boards, in
// any number of processes, may share a store. It is safe for concurrent use.
// Load or Restore it before anybody asks, and Run it.
type Board struct {
	Config
	state     atomic.Pointer[state]
	confirmed atomic.Pointer[time.Time] // when the store was last asked, and answered

	writes sync.Mutex // over changes of the document, one at a time
	mu     sync.Mutex // over state's replacement, owed, took
	owed   map[string]*debt
	took   func(Freeze)
}

// state never changes after it is stored.
type state struct {
	freezes []Freeze // the document's, and those owed to it
	rev     uint64   // of the document
	bad     error    // the document cannot be read
}

// debt is a freeze that holds in this process, and is not where it should be.
type debt struct {
	freeze           Freeze
	by               Operator
	stored, recorded bool
}

// New returns a Board that stops everything until it is loaded.
func New(c Config) *Board {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.ID == nil {
		c.ID = func() string { return "fz_" + strings.ToLower(rand.Text()) }
	}
	if c.Log == nil {
		c.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if c.Record == nil {
		c.Record = func(context.Context, Freeze, string, Operator) error { return errors.New("no record is configured") }
	}
	b := &Board{Config: c, owed: map[string]*debt{}, took: func(Freeze) {}}
	b.state.Store(&state{bad: errors.New("it was not loaded yet")})
	b.confirmed.Store(&time.Time{})
	return b
}

// Notify has f called for each freeze that takes effect in this process from
// now on, whoever set it, once it does. f must not call the Board.
func (b *Board) Notify(f func(Freeze)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.took = f
}

// Check returns nil if the call may go on; a *Stopped if it is frozen; an
// ErrUnknown if that is not known.
func (b *Board) Check(c Call) error {
	s := b.state.Load()
	for i := range s.freezes { // copied by nobody: every call comes here
		if s.freezes[i].Stops(c) {
			return &Stopped{s.freezes[i]}
		}
	}
	return b.Err()
}

// Err is an ErrUnknown while it is not known what is frozen.
func (b *Board) Err() error {
	if s := b.state.Load(); s.bad != nil {
		return fmt.Errorf("%w: %w", ErrUnknown, s.bad)
	}
	if age := b.Now().Sub(*b.confirmed.Load()); age > Patience {
		return fmt.Errorf("%w: the store has not answered for %s", ErrUnknown, age.Round(time.Second))
	}
	return nil
}

// List is what stands, in the order in which it was set.
func (b *Board) List() []Freeze { return slices.Clone(b.state.Load().freezes) }

// Freeze stops what t says. It holds here as soon as Freeze is called. With an
// ErrUnstored or an ErrUnrecorded it holds all the same, in this process, and
// is tried again; with any other error nothing is frozen.
func (b *Board) Freeze(ctx context.Context, t Target, reason string, by Operator) (Freeze, error) {
	f := Freeze{ID: b.ID(), Target: t, Reason: strings.TrimSpace(reason), By: by.Name, Since: b.Now().UTC().Truncate(time.Second)}
	if err := f.check(); err != nil {
		return Freeze{}, err
	}
	d := &debt{freeze: f, by: by}
	b.mu.Lock()
	if n := len(b.state.Load().freezes); n >= Max && !t.All || n >= 2*Max {
		b.mu.Unlock()
		return Freeze{}, ErrFull
	}
	b.owed[f.ID] = d
	b.publish(*b.state.Load())
	b.mu.Unlock()
	return f, b.pay(context.WithoutCancel(ctx), d) // whoever froze may leave: it goes on
}

// publish puts a state in the place of the present one, together with what is
// owed, and tells of what is new. Called with mu held.
func (b *Board) publish(next state) {
	known := map[string]bool{}
	for _, f := range b.state.Load().freezes {
		known[f.ID] = true
	}
	next.freezes = slices.Clone(next.freezes)
	for _, d := range b.owed {
		if !slices.ContainsFunc(next.freezes, func(f Freeze) bool { return f.ID == d.freeze.ID }) {
			next.freezes = append(next.freezes, d.freeze)
		}
	}
	slices.SortStableFunc(next.freezes, func(x, y Freeze) int { return x.Since.Compare(y.Since) })
	b.state.Store(&next)
	for _, f := range next.freezes {
		if !known[f.ID] {
			b.took(f)
		}
	}
}

// pay brings a freeze where it should be: into the store, then into the record.
func (b *Board) pay(ctx context.Context, d *debt) error {
	b.writes.Lock()
	defer b.writes.Unlock()
	b.mu.Lock()
	due := b.owed[d.freeze.ID] == d
	b.mu.Unlock()
	if !due {
		return nil // paid, or lifted meanwhile
	}
	var errs []error
	if !d.stored {
		err := b.change(ctx, func(list []Freeze) []Freeze {
			if slices.ContainsFunc(list, func(f Freeze) bool { return f.ID == d.freeze.ID }) {
				return list // an attempt whose answer got lost
			}
			return append(list, d.freeze)
		})
		if d.stored = err == nil; !d.stored {
			errs = append(errs, fmt.Errorf("%w, so it holds in this enforcer only: %w", ErrUnstored, err))
		}
	}
	if !d.recorded {
		err := b.Record(ctx, d.freeze, EventFrozen, d.by)
		if d.recorded = err == nil; !d.recorded {
			errs = append(errs, fmt.Errorf("%w: %w", ErrUnrecorded, err))
		}
	}
	if len(errs) == 0 {
		b.mu.Lock()
		delete(b.owed, d.freeze.ID)
		b.mu.Unlock()
	}
	return errors.Join(errs...)
}

// Unfreeze lifts a freeze: in the record first, then in the store. With any
// error it stands.
func (b *Board) Unfreeze(ctx context.Context, id string, by Operator) (Freeze, error) {
	if err := by.check(); err != nil {
		return Freeze{}, err
	}
	ctx = context.WithoutCancel(ctx)
	b.writes.Lock()
	defer b.writes.Unlock()
	list := b.List()
	i := slices.IndexFunc(list, func(f Freeze) bool { return f.ID == id })
	if i < 0 {
		return Freeze{}, fmt.Errorf("%w: %q", ErrNone, id)
	}
	return list[i], b.lift(ctx, list[i], by)
}

// lift is called with writes held.
func (b *Board) lift(ctx context.Context, f Freeze, by Operator) error {
	if err := b.Record(ctx, f, EventUnfrozen, by); err != nil {
		return fmt.Errorf("%s stands: %w: %w", f.ID, ErrUnrecorded, err)
	}
	b.mu.Lock()
	d := b.owed[f.ID]
	delete(b.owed, f.ID)
	b.mu.Unlock()
	err := b.change(ctx, func(list []Freeze) []Freeze {
		return slices.DeleteFunc(list, func(x Freeze) bool { return x.ID == f.ID })
	})
	if err != nil {
		// The record says that it was lifted, and a start would believe it.
		owed := &debt{freeze: f, by: by, stored: d == nil || d.stored}
		owed.recorded = b.Record(ctx, f, EventStanding, by) == nil
		if !owed.stored || !owed.recorded {
			b.mu.Lock()
			b.owed[f.ID] = owed
			b.mu.Unlock()
		}
		return fmt.Errorf("%s stands: %w: %w", f.ID, ErrUnstored, err)
	}
	return nil
}

// UnfreezeAll lifts every freeze, and discards a document that cannot be read.
// It returns those that it lifted.
func (b *Board) UnfreezeAll(ctx context.Context, by Operator) (lifted []Freeze, err error) {
	if err := by.check(); err != nil {
		return nil, err
	}
	ctx = context.WithoutCancel(ctx)
	b.writes.Lock()
	defer b.writes.Unlock()
	if b.state.Load().bad != nil {
		if err := b.discard(ctx, by); err != nil {
			return nil, err
		}
	}
	for _, f := range b.List() {
		if err := b.lift(ctx, f, by); err != nil {
			return lifted, err
		}
		lifted = append(lifted, f)
	}
	return lifted, nil
}

// discard replaces a document that cannot be read by what is known to stand.
func (b *Board) discard(ctx context.Context, by Operator) error {
	if err := b.Record(ctx, Freeze{}, EventUnfrozen, by); err != nil {
		return fmt.Errorf("%w: %w", ErrUnrecorded, err)
	}
	list := b.List()
	_, rev, err := b.read(ctx)
	switch {
	case err != nil:
	case rev == 0:
		rev, err = b.Bucket.Create(ctx, key, encode(list))
	default:
		rev, err = b.Bucket.Update(ctx, key, encode(list), rev)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnstored, err)
	}
	b.accept(state{freezes: list, rev: rev})
	return nil
}

// read asks the store for the document; revision 0 if there is none.
func (b *Board) read(ctx context.Context) (raw []byte, rev uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	raw, rev, err = b.Bucket.Get(ctx, key)
	if errors.Is(err, kv.ErrNotFound) {
		return nil, 0, nil
	}
	return raw, rev, err
}

// change replaces the document by compare-and-swap, again for as long as others
// are faster. Called with writes held.
func (b *Board) change(ctx context.Context, f func([]Freeze) []Freeze) error {
	ctx, cancel := context.WithTimeout(ctx, writing)
	defer cancel()
	for {
		raw, rev, err := b.read(ctx)
		if err != nil {
			return err
		}
		var list []Freeze
		if rev != 0 {
			list, err = decode(raw)
		} else if b.state.Load().rev != 0 {
			err = errVanished
		}
		if err != nil {
			return err
		}
		if list = f(list); rev == 0 {
			rev, err = b.Bucket.Create(ctx, key, encode(list))
		} else {
			rev, err = b.Bucket.Update(ctx, key, encode(list), rev)
		}
		if errors.Is(err, kv.ErrConflict) || errors.Is(err, kv.ErrExists) {
			continue
		}
		if err == nil {
			b.accept(state{freezes: list, rev: rev})
		}
		return err
	}
}
