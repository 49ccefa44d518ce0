package approval

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"countersign/enforcer/kv"
)

// ClaimPatience is how long a claim to post a card stands before another bot
// may take it over.
const ClaimPatience = time.Minute

// Spend uses an approval for the call: of all that try, one succeeds. The
// digests are those of the call about to run, under the policy now in force.
//
// Spend returns nil only when the spending is in the store and recorded. On
// any other error than a refusal the approval may be spent all the same, and
// the call must not run.
func (b *Book) Spend(ctx context.Context, id, digest, rulesDigest, call string) (Approval, error) {
	return b.change(ctx, id, func(a *Approval) (string, error) {
		now := b.Now().UTC()
		switch {
		case call == "":
			return "", fmt.Errorf("%w: no call", ErrRequest)
		case a.State == Spent:
			return "", ErrSpent
		case a.State == Expired, a.State == Approved && !now.Before(a.Expires):
			return "", ErrExpired
		case a.State != Approved:
			return "", fmt.Errorf("%w: it is %s", ErrNotApproved, a.State)
		case a.Digest != digest:
			return "", ErrOtherCall
		case a.RulesDigest != rulesDigest:
			return "", ErrStale
		}
		a.State, a.SpentBy, a.Ended = Spent, call, now
		return EventSpent, nil
	})
}

// Finish notes what became of the call that was run on a spent approval: "ok",
// "error", "not run", "unknown"… The first outcome stands.
func (b *Book) Finish(ctx context.Context, id, outcome string) error {
	_, err := b.change(ctx, id, func(a *Approval) (string, error) {
		if a.State != Spent {
			return "", fmt.Errorf("%w: it is %s, so nothing ran", ErrNotApproved, a.State)
		}
		if a.Outcome != "" {
			return "", nil
		}
		a.Outcome = outcome
		return EventFinished, nil
	})
	return err
}

// Withdraw takes a request back before anything ran on it.
func (b *Book) Withdraw(ctx context.Context, id, why string) error {
	_, err := b.change(ctx, id, func(a *Approval) (string, error) {
		if a.State.Ended() {
			return "", fmt.Errorf("%w: it is %s", ErrDecided, a.State)
		}
		a.State, a.Reason, a.Ended = Withdrawn, why, b.Now().UTC()
		return EventWithdrawn, nil
	})
	return err
}

// expire ends one approval whose time has come; others it leaves alone.
func (b *Book) expire(ctx context.Context, id string) (Approval, error) {
	return b.change(ctx, id, func(a *Approval) (string, error) {
		now := b.Now().UTC()
		if a.State.Ended() || now.Before(a.Expires) {
			return "", nil
		}
		a.State, a.Ended = Expired, now
		return EventExpired, nil
	})
}

// Expire ends every approval whose time has come, wakes who waits for one, and
// forgets those that ended long ago. It returns how many it ended.
func (b *Book) Expire(ctx context.Context) (int, error) {
	all, err := b.all(ctx)
	if err != nil {
		return 0, err
	}
	n := 0
	var errs []error
	for _, a := range all {
		switch now := b.Now(); {
		case !a.State.Ended() && !now.Before(a.Expires):
			done, err := b.expire(ctx, a.ID)
			if done.State == Expired {
				n++
			}
			errs = append(errs, err)
		case a.State.Ended() && now.Sub(a.Ended) > Keep:
			errs = append(errs, b.forget(ctx, a))
		}
	}
	return n, errors.Join(errs...)
}

// forget deletes the pointer before the document: a pointer without a document
// would be taken for an approval that was cut off at its beginning.
func (b *Book) forget(ctx context.Context, a Approval) error {
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

// SetCard notes where a set's card is, or that somebody is about to post it. A
// card that has been posted keeps its coordinates; a claim that another made,
// and that is younger than the given one by less than its patience, stands:
// the returned approval tells whose it is.
func (b *Book) SetCard(ctx context.Context, id string, c Card) (Approval, error) {
	return b.change(ctx, id, func(a *Approval) (string, error) {
		for i, have := range a.Cards {
			if have.Set != c.Set {
				continue
			}
			switch {
			case have == c:
				return "", nil
			case c.TS == "" && have.TS != "":
				return "", nil // posted: nothing to claim
			case c.TS == "" && have.By != c.By && c.Claimed.Sub(have.Claimed) < ClaimPatience:
				return "", nil // another is posting it
			case have.TS != "" && c.TS != have.TS:
				return "", nil // posted twice after a crash: the first one is the card
			}
			a.Cards[i] = c
			return EventCard, nil
		}
		a.Cards = append(a.Cards, c)
		return EventCard, nil
	})
}

// Restore makes the store hold the given approvals: what the journal has seen.
// It is for an embedded store at start (which has one server, so that its lists
// are whole), before anything else uses it; what was in the store and not in the
// journal never counted.
//
// One thing counts though the journal has not seen it: that an approval was
// denied, withdrawn or expired, before the process died with the entry
// unwritten. An end gives no permission, so it stands, and is recorded now.
// What ended longer ago than Keep is left out, but for a spent approval whose
// outcome nobody noted: Finish must find it.
func (b *Book) Restore(ctx context.Context, list []Approval) error {
	now := b.Now().UTC()
	want := map[string][]byte{}
	newest := map[string]Approval{}
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
		if a.State.Ended() && now.Sub(a.Ended) > Keep && (a.State != Spent || a.Outcome != "") {
			continue
		}
		want[documents+a.ID] = encode(a)
		if have, ok := newest[a.pointer()]; a.live(now) && (!ok || a.Created.After(have.Created)) {
			newest[a.pointer()] = a
		}
	}
	for key, a := range newest {
		want[key] = encode(a)
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
	case Denied, Expired, Withdrawn:
	default: // a spending that no intent followed ran nothing, and an approval must be on record
		return false, nil
	}
	a.State, a.Reason, a.Ended, a.Votes, a.Cards = stored.State, stored.Reason, stored.Ended, stored.Votes, stored.Cards
	if a.Ended.IsZero() {
		a.Ended = b.Now().UTC()
	}
	return true, nil
}

// replace makes the store hold exactly what is wanted.
func (b *Book) replace(ctx context.Context, want map[string][]byte) error {
	for _, prefix := range []string{pointers, documents} {
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
