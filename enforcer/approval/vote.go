package approval

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"countersign/rules"
)

// Vote counts one person's answer, under the policy p now in force. Whoever
// calls it has established who votes: v.Issuer and v.Sub.
//
// A refusal (one of the package's errors) leaves the approval as it was. With
// ErrUnrecorded the approval has ended, and nothing will run on it.
func (b *Book) Vote(ctx context.Context, id string, v Vote, p *rules.Policy) (Approval, error) {
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
		v.At = now
		if err := b.admit(*a, &v, p); err != nil {
			return "", err
		}
		a.Votes = append(a.Votes, v)
		switch {
		case !v.Approve:
			a.State, a.Reason, a.Ended = Denied, v.Reason, now
			return EventDenied, nil
		case quorate(a.Asks, a.Votes):
			a.State = Approved
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
	return a, err
}

// admit checks that v may be cast on a, and fills in what the policy knows of
// the voter.
func (b *Book) admit(a Approval, v *Vote, p *rules.Policy) error {
	if v.Issuer == "" || v.Sub == "" || v.Via != ViaSlack && v.Via != ViaOIDC || v.Via == ViaSlack && v.Slack == nil {
		return ErrVote
	}
	if p == nil {
		return fmt.Errorf("%w: no policy is in force", ErrStale)
	}
	person, known := p.Person(v.Issuer, v.Sub)
	if !known {
		return fmt.Errorf("%w: the policy's people do not include this identity", ErrNotApprover)
	}
	v.Person = person.Name
	if requested(a.Subject, person, p) {
		return ErrOwnRequest
	}
	var sets []string
	signIn := false
	for _, ask := range a.Asks {
		if slices.Contains(sets, ask.Approvers) || !p.MayApprove(ask.Approvers, rules.Subject{Issuer: v.Issuer, Sub: v.Sub}) {
			continue
		}
		if set, ok := p.ApproverSet(ask.Approvers); v.Approve && v.Via != ViaOIDC && (!ok || set.Via == ViaOIDC) {
			signIn = true
			continue
		}
		sets = append(sets, ask.Approvers)
	}
	switch {
	case len(sets) == 0 && signIn:
		return ErrSignIn
	case len(sets) == 0:
		return ErrNotApprover
	case !v.Approve && strings.TrimSpace(v.Reason) == "":
		return ErrReason
	case v.Approve && v.Via == ViaSlack && a.Partial:
		return ErrPartial
	case v.Approve && !b.fresh(a, p):
		return ErrStale
	}
	v.Sets = sets
	for _, earlier := range a.Votes {
		// Who has approved may still deny: that is the safe direction.
		if v.Approve && (earlier.Person == v.Person || earlier.Issuer == v.Issuer && earlier.Sub == v.Sub) {
			return ErrDuplicate
		}
	}
	return nil
}

// fresh tells whether the rules that asked, their sets, the server and its
// credential are still under p what they were when they asked.
func (b *Book) fresh(a Approval, p *rules.Policy) bool {
	if p.Commit() == a.Policy {
		return true
	}
	return b.Digest != nil && b.Digest(p, a.Server, a.Asks) == a.RulesDigest
}

// requested tells whether the person is the one who asks: the same subject, or
// the same person of the policy under another. An e-mail address proves
// nothing about a voter, but a shared one is reason enough to refuse.
func requested(subject rules.Subject, person rules.Person, p *rules.Policy) bool {
	if subject.Issuer == person.Issuer && subject.Sub == person.Sub {
		return true
	}
	if subject.Email != "" && strings.EqualFold(subject.Email, person.Email) {
		return true
	}
	asker, known := p.Person(subject.Issuer, subject.Sub)
	return known && (asker.Name == person.Name ||
		asker.SlackUser != "" && asker.SlackTeam == person.SlackTeam && asker.SlackUser == person.SlackUser ||
		asker.Email != "" && strings.EqualFold(asker.Email, person.Email))
}

// quorate tells whether the approving votes fill every set's quorum with
// distinct people: a member of two sets fills a place in one of them only.
// Several rules that ask the same set ask it once, for the largest quorum.
func quorate(asks []rules.Ask, votes []Vote) bool {
	quorum := map[string]int{}
	for _, ask := range asks {
		quorum[ask.Approvers] = max(quorum[ask.Approvers], ask.Quorum)
	}
	// Places to fill, each of one set; people are matched to them by augmenting
	// paths, so that it does not matter who voted first.
	var places []string
	for set, n := range quorum {
		if n > len(votes) {
			return false
		}
		for range n {
			places = append(places, set)
		}
	}
	holder := make([]int, len(places)) // index of the vote plus one
	var seat func(vote int, tried []bool) bool
	seat = func(vote int, tried []bool) bool {
		for i, set := range places {
			if tried[i] || !slices.Contains(votes[vote].Sets, set) {
				continue
			}
			tried[i] = true
			if holder[i] == 0 || seat(holder[i]-1, tried) {
				holder[i] = vote + 1
				return true
			}
		}
		return false
	}
	seated := 0
	people := map[string]bool{}
	for i, v := range votes {
		if !v.Approve || people[v.Person] {
			continue
		}
		people[v.Person] = true
		if seat(i, make([]bool, len(places))) {
			seated++
		}
	}
	return len(places) > 0 && seated == len(places)
}

// Missing tells how many approvals each set still has to give, at least.
func (a Approval) Missing() map[string]int {
	out := map[string]int{}
	for _, ask := range a.Asks {
		have := 0
		for _, v := range a.Votes {
			if v.Approve && slices.Contains(v.Sets, ask.Approvers) {
				have++
			}
		}
		out[ask.Approvers] = max(out[ask.Approvers], ask.Quorum-have, 0)
	}
	return out
}

// Check tells whether the vote would be admitted on a as it stands: for a
// dialog before the vote. Vote checks again.
func (b *Book) Check(a Approval, v Vote, p *rules.Policy) error {
	switch {
	case a.State == Expired || a.State == Pending && !b.Now().Before(a.Expires):
		return ErrExpired
	case a.State != Pending:
		return fmt.Errorf("%w: it is %s", ErrDecided, a.State)
	}
	return b.admit(a, &v, p)
}
