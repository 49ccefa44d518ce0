package approval

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// ClaimPatience is how long a claim to post a card stands before another bot
// may take it over.
const ClaimPatience = time.Minute

// maxRunning is how many calls may run on one window at once; maxCalls how many
// that have ended it remembers, too.
const (
	maxRunning = 64
	maxCalls   = 16
)

// Spend uses an approval for the call that r describes, which is about to run:
// r's digests are those under the policy now in force. An approval for one call
// is spent: of all that try, one succeeds. Of a window in force one use is
// counted, if the call is within its scope and its time.
//
// Spend returns nil only when the spending is in the store and recorded. On
// any other error than a refusal the approval may be spent all the same, and
// the call must not run.
func (b *Book) Spend(ctx context.Context, id string, r Request, call string) (Approval, error) {
	a, err := b.change(ctx, id, func(a *Approval) (string, error) {
		now := b.Now().UTC()
		switch {
		case call == "":
			return "", fmt.Errorf("%w: no call", ErrRequest)
		case a.State == Spent:
			return "", ErrSpent
		case a.State == Expired, a.State == Approved && !now.Before(a.Ends()):
			return "", ErrExpired
		case a.State != Approved:
			return "", fmt.Errorf("%w: it is %s", ErrNotApproved, a.State)
		}
		if err := a.covers(r); err != nil {
			return "", err
		}
		a.About, a.Gone = call, time.Time{}
		if a.Until.IsZero() {
			a.State, a.SpentBy, a.Ended = Spent, call, now
			return EventSpent, nil
		}
		return EventUsed, a.use(call, now)
	})
	if errors.Is(err, ErrUnrecorded) && !a.Until.IsZero() {
		// It does not run, and must not be taken for one that does.
		_, uerr := b.quietly(ctx, id, func(a *Approval) bool {
			before := len(a.Calls)
			a.Calls = slices.DeleteFunc(slices.Clone(a.Calls), func(u Use) bool { return u.Call == call })
			a.Uses -= before - len(a.Calls)
			return len(a.Calls) < before
		})
		err = errors.Join(err, uerr)
	}
	return a, err
}

// use counts a call that runs on a window. It forgets the oldest that have ended.
func (a *Approval) use(call string, now time.Time) error {
	running, ended := 0, 0
	for _, u := range a.Calls {
		if u.Call == call {
			return fmt.Errorf("%w: by this call", ErrSpent)
		}
		if u.Outcome == "" {
			running++
		} else {
			ended++
		}
	}
	if running >= maxRunning {
		return fmt.Errorf("%w: %d", ErrWindow, running)
	}
	a.Calls = slices.DeleteFunc(slices.Clone(a.Calls), func(u Use) bool {
		if u.Outcome == "" || ended <= maxCalls {
			return false
		}
		ended--
		return true
	})
	a.Calls = append(a.Calls, Use{Call: call, At: now})
	a.Uses, a.LastUse = a.Uses+1, now
	return nil
}

// Finish notes what became of a call that ran on the approval: "ok", "error",
// "not run", "unknown"… The first outcome stands.
func (b *Book) Finish(ctx context.Context, id, call, outcome string) error {
	_, err := b.change(ctx, id, func(a *Approval) (string, error) {
		a.About = call
		if i := slices.IndexFunc(a.Calls, func(u Use) bool { return u.Call == call }); i >= 0 {
			if a.Calls[i].Outcome != "" {
				return "", nil
			}
			a.Calls = slices.Clone(a.Calls)
			a.Calls[i].Outcome = outcome
			return EventFinished, nil
		}
		switch {
		case a.State != Spent || a.SpentBy != call:
			return "", fmt.Errorf("%w to call %s: it is %s", ErrNotApproved, call, a.State)
		case a.Outcome != "":
			return "", nil
		}
		a.Outcome = outcome
		return EventFinished, nil
	})
	return err
}

// Withdraw takes a request back before anything ran on it, or closes a window.
// It is for the enforcer's own reasons; a person who asked uses WithdrawBy.
func (b *Book) Withdraw(ctx context.Context, id, why string) error {
	return b.withdraw(ctx, id, why, func(Approval) error { return nil })
}

func (b *Book) withdraw(ctx context.Context, id, why string, may func(Approval) error) error {
	why = b.Words(why)
	_, err := b.change(ctx, id, func(a *Approval) (string, error) {
		if err := may(*a); err != nil {
			return "", err
		}
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
		if a.State.Ended() || now.Before(a.Ends()) {
			return "", nil
		}
		a.State, a.Ended = Expired, now
		return EventExpired, nil
	})
}

// Expire ends every approval and window whose time has come, wakes who waits for
// one, and forgets those that ended long ago, except what still has to be
// reviewed. It returns how many it ended.
func (b *Book) Expire(ctx context.Context) (int, error) {
	all, err := b.All(ctx)
	if err != nil {
		return 0, err
	}
	n := 0
	var errs []error
	for _, a := range all {
		switch now := b.Now(); {
		case a.Window(now):
			b.point(ctx, a)
		case !a.State.Ended() && !now.Before(a.Ends()):
			done, err := b.expire(ctx, a.ID)
			if done.State == Expired {
				n++
			}
			errs = append(errs, err)
		case a.State.Ended() && now.Sub(a.Ended) > Keep && !a.NeedsReview():
			errs = append(errs, b.forget(ctx, a))
		}
	}
	return n, errors.Join(errs...)
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
