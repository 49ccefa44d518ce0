package freeze

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

var errVanished = errors.New("freeze: the document has vanished from the store")

// accept takes over what the store holds, unless it is older than what is known.
func (b *Board) accept(next state) {
	b.mu.Lock()
	defer b.mu.Unlock()
	have := b.state.Load()
	if next.rev < have.rev {
		return
	}
	now := b.Now()
	b.confirmed.Store(&now)
	if next.rev > have.rev || (next.bad == nil) != (have.bad == nil) {
		b.publish(next)
	}
}

// refresh looks into the store. A document that cannot be read is no error
// here: the board then stops everything, and Err says why.
func (b *Board) refresh(ctx context.Context) error {
	raw, rev, err := b.read(ctx)
	if err != nil {
		return err
	}
	have := b.state.Load()
	next := state{rev: rev}
	switch {
	case rev != 0:
		next.freezes, next.bad = decode(raw)
	case have.rev != 0: // nobody deletes it: what stood is not known
		next.rev, next.bad = have.rev, errVanished
	}
	if next.bad != nil {
		next.freezes = have.freezes
	}
	b.accept(next)
	return nil
}

// Load reads what stands from a store that is the authority, and records that
// it does. While the store cannot be read everything is stopped: Run goes on
// trying.
func (b *Board) Load(ctx context.Context) error {
	if err := b.refresh(ctx); err != nil {
		b.Log.ErrorContext(ctx, "what is frozen cannot be read; nothing is served", "err", err)
		return nil
	}
	return b.restate(ctx, nil)
}

// Restore loads a store that the journal is the authority of: what the journal
// last saw frozen stands, even if the store has lost it; what it saw lifted
// does not. What only the store holds was frozen, and not recorded, when the
// process died: it stands, and is recorded now. Nothing else may use the store
// yet. A document that cannot be read stays as it is, and stops everything,
// until UnfreezeAll discards it.
func (b *Board) Restore(ctx context.Context, standing []Freeze, lifted map[string]bool) error {
	recorded := map[string]bool{}
	for _, f := range standing {
		if err := f.check(); err != nil {
			return fmt.Errorf("freeze: restore %q: %w", f.ID, err)
		}
		recorded[f.ID] = true
	}
	raw, rev, err := b.read(ctx)
	if err != nil {
		return fmt.Errorf("freeze: restore: %w", err)
	}
	if rev != 0 {
		if _, err := decode(raw); err != nil {
			b.accept(state{freezes: standing, rev: rev, bad: err})
			return b.restate(ctx, recorded)
		}
	}
	b.writes.Lock()
	err = b.change(ctx, func(list []Freeze) []Freeze {
		list = slices.DeleteFunc(list, func(f Freeze) bool { return lifted[f.ID] })
		for _, f := range standing {
			if !slices.ContainsFunc(list, func(have Freeze) bool { return have.ID == f.ID }) {
				list = append(list, f)
			}
		}
		return list
	})
	b.writes.Unlock()
	if err != nil {
		return fmt.Errorf("freeze: restore: %w", err)
	}
	return b.restate(ctx, recorded)
}

// restate records that what stands does, so that it is always found in the
// part of the journal that is kept. What the record has not seen yet (nil: it
// has seen all) is recorded as frozen.
func (b *Board) restate(ctx context.Context, recorded map[string]bool) error {
	for _, f := range b.List() {
		event := EventStanding
		if recorded != nil && !recorded[f.ID] {
			event = EventFrozen
		}
		if err := b.Record(ctx, f, event, Operator{Name: f.By}); err != nil {
			return fmt.Errorf("freeze: %s stands: %w: %w", f.ID, ErrUnrecorded, err)
		}
	}
	return nil
}

// payAll tries again to store and to record what is neither yet.
func (b *Board) payAll(ctx context.Context) {
	b.mu.Lock()
	var owed []*debt
	for _, d := range b.owed {
		owed = append(owed, d)
	}
	b.mu.Unlock()
	for _, d := range owed {
		if err := b.pay(ctx, d); err != nil && ctx.Err() == nil {
			b.Log.WarnContext(ctx, "a freeze holds, but is not yet where it should be", "freeze", d.freeze.ID, "err", err)
		}
	}
}

// Run follows the store until ctx ends, and pays what is owed to it and to the
// record.
func (b *Board) Run(ctx context.Context) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	said, paid, failed := b.Now(), b.Now(), false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		err := b.refresh(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !failed {
			b.Log.WarnContext(ctx, "what is frozen cannot be read; nothing is served once that lasts", "limit", Patience.String(), "err", err)
		}
		failed = err != nil
		if b.Now().Sub(paid) >= owing {
			paid = b.Now()
			b.payAll(ctx)
		}
		if b.Now().Sub(said) >= restated {
			said = b.Now()
			if err := b.restate(ctx, nil); err != nil {
				b.Log.WarnContext(ctx, "what stands frozen could not be recorded again", "err", err)
			}
		}
	}
}
