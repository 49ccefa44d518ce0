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

// maxReason bounds a voter's words, in bytes: they stand in the record, and the
// agent is told them.
const maxReason = 3000

// Vote counts one person's answer, under the policy p now in force. What the
// caller fills in of v, the type says.
//
// A refusal (one of the package's errors) leaves the approval as it was. With
// ErrUnrecorded the approval has ended, and nothing will run on it.
func (b *Book) Vote(ctx context.Context, id string, v Vote, p *rules.Policy) (Approval, error) {
	who, err := b.identify(ctx, &v, p)
	if err != nil {
		a, gerr := b.Get(ctx, id)
		return a, errors.Join(err, gerr)
	}
	late := false
	a, err := b.change(ctx, id, func(a *Approval) (string, error) {
		now := b.Now().UTC()
		late = a.State == Expired || a.State == Pending && !now.Before(a.Expires)
		switch {
		case late:
			return "", ErrExpired
		case a.State != Pending:
			return "", fmt.Errorf("%w: it is %s", ErrDecided, a.State)
		}
		v.At, v.Waited = now, now.Sub(a.Created)
		if err := b.admit(ctx, *a, &v, who, p); err != nil {
			return "", err
		}
		a.Votes = append(a.Votes, v)
		switch {
		case !v.Approve:
			a.State, a.Reason, a.Ended = Denied, v.Reason, now
			return EventDenied, nil
		case quorate(a.Asks, a.Votes):
			a.approve(now, p.Settings().MaxGrant)
		}
		switch {
		case v.BreakGlass:
			return EventGlass, nil
		case a.State == Approved:
			return EventApproved, nil
		}
		return EventVoted, nil
	})
	if late {
		_, expErr := b.expire(ctx, id)
		return a, errors.Join(err, expErr)
	}
	if errors.Is(err, ErrUnrecorded) {
		return a, b.void(ctx, id, err)
	}
	if err == nil {
		b.point(ctx, a)
	}
	return a, err
}

// approve has the quorum reached: if the rules grant a window, and nobody who
// approved wants it for one call only, the window is open from now on.
func (a *Approval) approve(now time.Time, ceiling time.Duration) {
	a.State = Approved
	once := slices.ContainsFunc(a.Votes, func(v Vote) bool { return v.Approve && v.Once })
	if a.Grant.For > 0 && !once {
		a.Until = now.Add(min(a.Grant.For, ceiling))
	}
}

// Check tells whether the vote would be admitted on a as it stands: for a
// dialog before the vote. Vote checks again.
func (b *Book) Check(ctx context.Context, a Approval, v Vote, p *rules.Policy) error {
	switch {
	case a.State == Expired || a.State == Pending && !b.Now().Before(a.Expires):
		return ErrExpired
	case a.State != Pending:
		return fmt.Errorf("%w: it is %s", ErrDecided, a.State)
	}
	who, err := b.identify(ctx, &v, p)
	if err != nil {
		return err
	}
	v.At = b.Now().UTC()
	return b.admit(ctx, a, &v, who, p)
}

// An identity is who votes, as far as it does not depend on what is asked.
type identity struct {
	subject rules.Subject // Groups from login, if it is not too old for them
	stale   rules.Subject // Groups from login, however old
	names   names
}

// identify finds out who votes, and fills that in.
func (b *Book) identify(ctx context.Context, v *Vote, p *rules.Policy) (identity, error) {
	if p == nil {
		return identity{}, fmt.Errorf("%w: no policy is in force", ErrStale)
	}
	v.Person, v.Email, v.Linked, v.Sets = "", "", "", nil
	v.Reason = b.Words(v.Reason)
	if !shownForm.MatchString(v.Shown) { // comes from outside, and would be kept
		v.Shown = ""
	}
	switch {
	case v.Via == ViaSlack && v.Slack != nil:
		who, err := b.Voter(ctx, p, v.Slack.Team, v.Slack.User)
		if err != nil {
			return identity{}, err
		}
		if v.Issuer+v.Sub != "" && (v.Issuer != who.Issuer || v.Sub != who.Sub) {
			return identity{}, fmt.Errorf("%w: the Slack user is somebody else now", ErrVote)
		}
		v.Issuer, v.Sub, v.Linked, v.Login = who.Issuer, who.Sub, who.Linked, nil
	case v.Via == ViaOIDC && v.Login != nil && v.Issuer != "" && v.Sub != "":
		v.Slack = nil
	default:
		return identity{}, ErrVote
	}
	last, err := b.lastLogin(ctx, *v)
	if err != nil {
		return identity{}, err
	}
	who := identity{subject: rules.Subject{Issuer: v.Issuer, Sub: v.Sub}}
	who.stale = who.subject
	v.Email, who.stale.Groups = last.Email, last.Groups
	if b.Now().Sub(last.At) <= p.Links().MaxAge {
		who.subject.Groups = last.Groups
	}
	if v.Via == ViaOIDC {
		proof := *v.Login
		if last.ID == proof.ID {
			proof = *last.Proof(proof.Source, proof.Door)
		}
		v.Login = &proof
		if age := b.Now().Sub(proof.AuthTime); age > MaxAuthAge || age < -MaxAuthAhead {
			return identity{}, fmt.Errorf("%w: you authenticated at %s", ErrStaleLogin, proof.AuthTime.UTC().Format(time.TimeOnly))
		}
	}
	if person, known := p.Person(v.Issuer, v.Sub); known {
		v.Person, v.Email = person.Name, ""
	}
	who.names, err = b.voter(ctx, *v, p)
	return who, err
}

// lastLogin is the newest sign-in on record of who votes, the zero one if there
// is none. A vote by signing in needs one that is no older than it says.
func (b *Book) lastLogin(ctx context.Context, v Vote) (Login, error) {
	if b.Logins == nil {
		return Login{}, nil
	}
	last, err := b.Logins.Get(ctx, v.Issuer, v.Sub)
	switch {
	case errors.Is(err, ErrNoLogin) && v.Via != ViaOIDC:
		return Login{}, nil
	case err != nil:
		return Login{}, err
	case v.Via == ViaOIDC && last.At.Before(v.Login.At):
		return Login{}, fmt.Errorf("%w at that time", ErrNoLogin)
	}
	return last, nil
}

// admit checks that v may be cast on a by who, and fills in for which sets it
// counts.
func (b *Book) admit(ctx context.Context, a Approval, v *Vote, who identity, p *rules.Policy) error {
	if err := b.barred(ctx, a, who.names, p); err != nil && (v.Approve || errors.Is(err, ErrOwnRequest)) {
		return err // who answers for the identity that asks may still say no
	}
	if err := b.seats(a, v, who, p); err != nil {
		return err
	}
	switch {
	case (!v.Approve || v.BreakGlass) && strings.TrimSpace(v.Reason) == "":
		return ErrReason
	case len(v.Reason) > maxReason:
		return fmt.Errorf("%w of %d bytes at most", ErrReason, maxReason)
	case v.Approve && (a.Cut || v.Via == ViaSlack && a.Partial):
		return ErrPartial
	case v.Approve && !b.fresh(a, p):
		return ErrStale
	case v.Approve && v.Shown != a.Shows():
		return ErrShown
	}
	v.Once = v.Approve && (v.Once || v.BreakGlass)
	for _, earlier := range a.Votes {
		// Who has approved may still deny, that is the safe direction; and break
		// the glass, if waiting for the others takes too long.
		if !v.Approve || earlier.BreakGlass != v.BreakGlass {
			continue
		}
		theirs, err := b.voter(ctx, earlier, p)
		if err != nil {
			return err
		}
		if theirs.share(who.names) {
			return ErrDuplicate
		}
	}
	return nil
}

// seats fills in the sets that the vote counts for.
func (b *Book) seats(a Approval, v *Vote, who identity, p *rules.Policy) error {
	if v.BreakGlass && (!v.Approve || v.Via != ViaOIDC) {
		if v.Approve {
			return fmt.Errorf("%w: the glass is broken on the approval page only", ErrSignIn)
		}
		return fmt.Errorf("%w: a broken glass approves", ErrVote)
	}
	refused := ErrNotApprover
	if v.BreakGlass {
		refused = ErrGlass
	}
	v.Sets = nil
	var seen []string
	for _, ask := range a.Asks {
		set := ask.Approvers
		if v.BreakGlass {
			set = ask.BreakGlass
		}
		if set == "" || slices.Contains(seen, set) {
			continue
		}
		seen = append(seen, set)
		if !p.MayApprove(set, who.subject) {
			if p.MayApprove(set, who.stale) {
				refused = fmt.Errorf("%w: you are a member of %s by a group, which your sign-in showed too long ago", ErrStaleLogin, set)
			}
			continue
		}
		if err := demands(a, v, set, p); err != nil {
			refused = err
			continue
		}
		v.Sets = append(v.Sets, set)
	}
	if len(v.Sets) == 0 {
		return refused
	}
	return nil
}

// demands tells what the set wants of a vote and this one lacks. A denial may
// come through any door.
func demands(a Approval, v *Vote, name string, p *rules.Policy) error {
	if !v.Approve {
		return nil
	}
	set, ok := p.ApproverSet(name)
	via, acr := set.Via, set.ACR
	for _, ask := range a.Asks {
		if ask.Approvers == name && !v.BreakGlass && ask.Via == ViaOIDC {
			via = ViaOIDC
		}
	}
	switch {
	case v.Via != ViaOIDC && (!ok || via == ViaOIDC):
		return ErrSignIn
	case v.Via == ViaOIDC && len(acr) > 0 && !slices.Contains(acr, v.Login.ACR):
		return fmt.Errorf("%w: %s wants acr %s, and it has %q", ErrACR, name, strings.Join(acr, " or "), v.Login.ACR)
	}
	return nil
}

// fresh tells whether the rules that asked, their sets, the server and its
// credential are still under p what they were when they asked.
func (b *Book) fresh(a Approval, p *rules.Policy) bool {
	if p.Commit() == a.Policy {
		return true
	}
	return b.Digest != nil && b.Digest(p, a.Server, a.Subject, a.Client, a.Asks) == a.RulesDigest
}
