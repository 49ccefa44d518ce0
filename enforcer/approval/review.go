package approval

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"countersign/rules"
)

// WithdrawBy has the person who asked take the request back, or close the window
// that they were given. The subject alone decides, not the client: they sign in
// by another client than the agent that asked for them, and answer for all of
// them. To take back gives no permission, so nobody else's consent is needed.
func (b *Book) WithdrawBy(ctx context.Context, id string, s rules.Subject, why string) error {
	return b.withdraw(ctx, id, why, func(a Approval) error {
		if s.Issuer == "" || s.Sub == "" || a.Subject.Issuer != s.Issuer || a.Subject.Sub != s.Sub {
			return ErrNotYours
		}
		return nil
	})
}

// Revoke takes back what was approved and has not run, above all a window in
// force; calls that run on it are not cut off. by says who, as a vote does, and
// through which door: whoever could deny the request may revoke it, and the
// operator on the machine (ViaOperator, for whom the caller vouches). by.Reason
// is needed. ErrNotApproved: there is nothing to revoke; what is pending is
// denied.
func (b *Book) Revoke(ctx context.Context, id string, by Vote, p *rules.Policy) (Approval, error) {
	by.Approve, by.BreakGlass, by.Once = false, false, false
	var who identity
	if by.Via != ViaOperator {
		var err error
		if who, err = b.identify(ctx, &by, p); err != nil {
			return Approval{}, err
		}
	}
	return b.change(ctx, id, func(a *Approval) (string, error) {
		now := b.Now().UTC()
		by.At = now
		switch {
		case a.State != Approved || !now.Before(a.Ends()):
			return "", fmt.Errorf("%w: it is %s", ErrNotApproved, a.State)
		case strings.TrimSpace(by.Reason) == "" || len(by.Reason) > maxReason:
			return "", fmt.Errorf("%w, of %d bytes at most", ErrReason, maxReason)
		}
		if by.Via != ViaOperator {
			if err := b.member(*a, &by, who, p); err != nil {
				return "", err
			}
		}
		a.State, a.Reason, a.Ended, a.Revoked = Revoked, by.Reason, now, &by
		return EventRevoked, nil
	})
}

// member checks that the voter is a member of a set that was asked, or that
// could break the glass.
func (b *Book) member(a Approval, v *Vote, who identity, p *rules.Policy) error {
	err := b.seats(a, v, who, p)
	if errors.Is(err, ErrNotApprover) {
		for _, ask := range a.Asks {
			if ask.BreakGlass != "" && p.MayApprove(ask.BreakGlass, who.subject) {
				v.Sets, err = append(v.Sets, ask.BreakGlass), nil
			}
		}
		slices.Sort(v.Sets)
		v.Sets = slices.Compact(v.Sets)
	}
	return err
}

// ReviewBy notes what a member of the sets that were asked, neither who asked
// nor who broke the glass nor who answers for the service that asked, finds of
// it afterwards: v.Approve says whether it was justified, v.Reason (needed) in
// words why. It takes a sign-in: ViaOIDC. ErrNoReview: nobody broke the glass, or
// it was reviewed.
func (b *Book) ReviewBy(ctx context.Context, id string, v Vote, p *rules.Policy) (Approval, error) {
	if v.Via != ViaOIDC {
		return Approval{}, fmt.Errorf("%w: a broken glass is reviewed on the approval page", ErrSignIn)
	}
	who, err := b.identify(ctx, &v, p)
	if err != nil {
		return Approval{}, err
	}
	a, err := b.change(ctx, id, func(a *Approval) (string, error) {
		broke, broken := a.BrokenGlass()
		if !broken || a.Review != nil {
			return "", ErrNoReview
		}
		if err := b.barred(ctx, *a, who.names, p); err != nil {
			return "", err
		}
		breaker, err := b.voter(ctx, broke, p)
		switch {
		case err != nil:
			return "", err
		case breaker.share(who.names):
			return "", fmt.Errorf("%w: who broke the glass does not review it", ErrDuplicate)
		case strings.TrimSpace(v.Reason) == "" || len(v.Reason) > maxReason:
			return "", fmt.Errorf("%w, of %d bytes at most", ErrReason, maxReason)
		}
		asReviewer := v
		asReviewer.Approve, asReviewer.BreakGlass = true, false
		if err := b.seats(*a, &asReviewer, who, p); err != nil {
			return "", err
		}
		a.Review = &Review{Person: v.Person, Issuer: v.Issuer, Sub: v.Sub, Email: v.Email, Justified: v.Approve, Note: v.Reason, At: b.Now().UTC(), Login: v.Login}
		return EventReviewed, nil
	})
	if errors.Is(err, ErrUnrecorded) {
		_, uerr := b.quietly(ctx, id, func(a *Approval) bool {
			there := a.Review != nil
			a.Review = nil
			return there
		})
		err = errors.Join(err, uerr)
	}
	return a, err
}

// Reconsider ends the windows that the policy p, which has come into force, no
// longer grants as they were granted: should it change back, they stay ended. It
// returns how many it ended.
func (b *Book) Reconsider(ctx context.Context, p *rules.Policy) (int, error) {
	all, err := b.All(ctx)
	if err != nil {
		return 0, err
	}
	n := 0
	var errs []error
	for _, a := range all {
		if !a.Window(b.Now()) || b.fresh(a, p) {
			continue
		}
		done, err := b.change(ctx, a.ID, func(a *Approval) (string, error) {
			if !a.Window(b.Now()) || b.fresh(*a, p) {
				return "", nil
			}
			return a.outdate(b.Now().UTC()), nil
		})
		if done.State == Revoked {
			n++
		}
		errs = append(errs, err)
	}
	return n, errors.Join(errs...)
}

// outdate ends a window whose rules have changed.
func (a *Approval) outdate(now time.Time) (event string) {
	a.State, a.Reason, a.Ended = Revoked, "the rules that granted it, the server or its credential have changed", now
	return EventRevoked
}

// Left notes that the caller no longer waits: nothing runs unless it asks again.
func (b *Book) Left(ctx context.Context, id string) error {
	_, err := b.change(ctx, id, func(a *Approval) (string, error) {
		if a.State.Ended() || !a.Until.IsZero() || !a.Gone.IsZero() {
			return "", nil
		}
		a.Gone = b.Now().UTC()
		return EventLeft, nil
	})
	return err
}

// Back notes that the caller waits again. Ask does so by itself.
func (b *Book) Back(ctx context.Context, id string) error {
	_, err := b.change(ctx, id, func(a *Approval) (string, error) {
		if a.State.Ended() || a.Gone.IsZero() {
			return "", nil
		}
		a.Gone = time.Time{}
		return EventBack, nil
	})
	return err
}

// Remind notes that the approvers are being reminded, and returns true to the
// one who shall do it: of all that call it for a pending approval, one.
func (b *Book) Remind(ctx context.Context, id string) (Approval, bool, error) {
	mine := false
	a, err := b.change(ctx, id, func(a *Approval) (string, error) {
		if mine = a.State == Pending && a.Reminded.IsZero(); !mine {
			return "", nil
		}
		a.Reminded = b.Now().UTC()
		return EventReminded, nil
	})
	return a, mine && err == nil, err
}
