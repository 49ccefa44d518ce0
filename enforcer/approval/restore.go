package approval

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"countersign/enforcer/kv"
)

// forget deletes the pointers before the document: one without a document would
// be taken for an approval that was cut off at its beginning.
func (b *Book) forget(ctx context.Context, a Approval) error {
	if key := a.window(); key != "" {
		raw, rev, err := b.Bucket.Get(ctx, key)
		if err == nil && string(raw) == a.ID {
			err = b.Bucket.Delete(ctx, key, rev)
		}
		if err != nil && !errors.Is(err, kv.ErrNotFound) {
			return err
		}
	}
	raw, rev, err := b.Bucket.Get(ctx, a.pointer())
	if err != nil && !errors.Is(err, kv.ErrNotFound) {
		return err
	}
	if err == nil {
		if first, derr := decode(raw, rev); derr != nil || first.ID == a.ID {
			if err := b.Bucket.Delete(ctx, a.pointer(), rev); err != nil {
				return err
			}
		}
	}
	return b.Bucket.Delete(ctx, documents+a.ID, a.Rev)
}

// Restore makes the store hold the given approvals: what the journal has seen.
// It is for an embedded store at start (which has one server, so that its lists
// are whole), before anything else uses it; what was in the store and not in the
// journal never counted.
//
// Two things count though the journal has not seen them, since they give no
// permission. That an approval was denied, withdrawn, revoked or expired, before the
// process died with the entry unwritten, stands, and is recorded now. And what
// still has to be reviewed stays, when its entries have long left the journal.
// What ended longer ago than Keep is left out, but for the latter, and for calls
// whose outcome nobody noted: Finish must find them. A claim to post a card ends:
// who made it has died.
func (b *Book) Restore(ctx context.Context, list []Approval) error {
	now := b.Now().UTC()
	want := map[string][]byte{}
	newest, open := map[string]Approval{}, map[string]Approval{} // by pointer
	var unseen []Approval
	for _, a := range list {
		if !idForm.MatchString(a.ID) {
			return fmt.Errorf("%w: id %q", ErrRequest, a.ID)
		}
		if a.State.Ended() && a.Ended.IsZero() { // concluded from other entries, which do not say when
			a.Ended = a.Expires
			if now.Before(a.Ended) {
				a.Ended = now
			}
		}
		if !a.State.Ended() {
			ended, err := b.endedUnseen(ctx, &a)
			if err != nil {
				return err
			}
			if ended {
				unseen = append(unseen, a)
			}
		}
		if a.State.Ended() && now.Sub(a.Ended) > Keep && !a.unfinished() && !a.NeedsReview() {
			continue
		}
		a.Cards = slices.Clone(a.Cards)
		for i := range a.Cards {
			a.Cards[i].disclaim()
		}
		want[documents+a.ID] = encode(a)
		if key := a.window(); key != "" && a.Window(now) {
			if have, ok := open[key]; !ok || have.Until.Before(a.Until) {
				open[key], want[key] = a, []byte(a.ID)
			}
		}
		if have, ok := newest[a.pointer()]; a.live(now) && (!ok || a.Created.After(have.Created)) {
			newest[a.pointer()] = a
		}
	}
	for key, a := range newest {
		want[key] = encode(a)
	}
	if err := b.keepUnreviewed(ctx, want); err != nil {
		return err
	}
	if err := b.disclaimLists(ctx); err != nil {
		return err
	}
	// First the record, then the store: should the process die in between, the
	// next start finds in the store what is still to be recorded.
	for _, a := range unseen {
		if err := b.Record(ctx, a, string(a.State)); err != nil {
			return fmt.Errorf("approval: restore %s, %s: %w: %w", a.ID, a.State, ErrUnrecorded, err)
		}
	}
	return b.replace(ctx, want)
}

// disclaim ends a claim to post the card: it counts as too old to stand. That it
// was made, and about when, stays, since the card may have been posted.
func (c *Card) disclaim() (stood bool) {
	stood = c.TS == "" && c.By != ""
	if stood {
		c.Claimed = c.Claimed.Add(-ClaimPatience)
	}
	return stood
}

// disclaimLists ends the claims to post a list.
func (b *Book) disclaimLists(ctx context.Context) error {
	keys, err := b.Bucket.Keys(ctx, lists)
	if err != nil {
		return err
	}
	for _, key := range keys {
		l, err := b.List(ctx, strings.TrimPrefix(key, lists))
		if err == nil && l.Card.disclaim() {
			_, err = b.SetList(ctx, l)
		}
		if err != nil {
			return fmt.Errorf("approval: restore %s: %w", key, err)
		}
	}
	return nil
}

// endedUnseen gives a, open as far as the journal knows, the end that the store
// knows of.
func (b *Book) endedUnseen(ctx context.Context, a *Approval) (bool, error) {
	raw, rev, err := b.Bucket.Get(ctx, documents+a.ID)
	if errors.Is(err, kv.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	stored, err := decode(raw, rev)
	if err != nil || stored.ID != a.ID {
		return false, nil // nothing to go by: the journal's is put in its place
	}
	switch stored.State {
	case Denied, Expired, Withdrawn, Revoked:
	default: // a spending that no intent followed ran nothing, and an approval must be on record
		return false, nil
	}
	a.State, a.Reason, a.Ended, a.Votes, a.Cards, a.Revoked = stored.State, stored.Reason, stored.Ended, stored.Votes, stored.Cards, stored.Revoked
	if a.Ended.IsZero() {
		a.Ended = b.Now().UTC()
	}
	return true, nil
}

// unfinished tells whether a call ran whose outcome nobody has noted.
func (a Approval) unfinished() bool {
	return a.State == Spent && a.Outcome == "" || slices.ContainsFunc(a.Calls, func(u Use) bool { return u.Outcome == "" })
}

// keepUnreviewed adds the broken glasses that the store knows of, that nothing
// can come of any more, and that nobody has reviewed.
func (b *Book) keepUnreviewed(ctx context.Context, want map[string][]byte) error {
	keys, err := b.Bucket.Keys(ctx, documents)
	if err != nil {
		return err
	}
	for _, key := range keys {
		if want[key] != nil {
			continue
		}
		raw, rev, err := b.Bucket.Get(ctx, key)
		if err != nil {
			return err
		}
		if a, err := decode(raw, rev); err == nil && documents+a.ID == key && a.State.Ended() && a.NeedsReview() {
			want[key] = raw
		}
	}
	return nil
}

// replace makes the store hold exactly what is wanted.
func (b *Book) replace(ctx context.Context, want map[string][]byte) error {
	for _, prefix := range []string{pointers, windows, documents} {
		keys, err := b.Bucket.Keys(ctx, prefix)
		if err != nil {
			return err
		}
		for _, key := range keys {
			raw, rev, err := b.Bucket.Get(ctx, key)
			if err != nil {
				return err
			}
			switch value, ok := want[key]; {
			case !ok:
				err = b.Bucket.Delete(ctx, key, rev)
			case string(value) != string(raw):
				_, err = b.Bucket.Update(ctx, key, value, rev)
			}
			if err != nil {
				return fmt.Errorf("approval: restore %s: %w", strings.TrimPrefix(key, prefix), err)
			}
			delete(want, key)
		}
	}
	for key, value := range want {
		if _, err := b.Bucket.Create(ctx, key, value); err != nil {
			return fmt.Errorf("approval: restore: %w", err)
		}
	}
	return nil
}
