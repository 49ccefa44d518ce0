package approval

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"countersign/rules"
)

// Voter is whom a Slack user is.
type Voter struct {
	Issuer string
	Sub    string
	Person string // name in the policy; "": policy does not name them
	Email  string // of whom policy does not name, as the issuer has it
	Linked string // LinkedPolicy, LinkedLogin or LinkedEmail
}

// Who is the voter for people to read.
func (v Voter) Who() string { return Vote{Person: v.Person, Email: v.Email, Sub: v.Sub}.Who() }

// Voter tells whom a Slack user is, under the policy p: whom approvers.yaml
// links to them; or else, if policy lets people link themselves, who signed in
// for them; or else, if policy lets e-mail addresses do, the person with the
// address that Slack has of them.
//
// ErrUnlinked: nobody. ErrStaleLogin: they linked themselves, and have to sign
// in again. ErrLinked: somebody whom policy links to another Slack user.
func (b *Book) Voter(ctx context.Context, p *rules.Policy, team, user string) (Voter, error) {
	if person, ok := p.PersonBySlack(team, user); ok {
		return Voter{Issuer: person.Issuer, Sub: person.Sub, Person: person.Name, Linked: LinkedPolicy}, nil
	}
	links := p.Links()
	if links.Login && b.Logins != nil {
		l, err := b.Logins.BySlack(ctx, team, user)
		switch {
		case errors.Is(err, ErrUnlinked):
		case err != nil:
			return Voter{}, err
		case b.Now().Sub(l.At) > links.MaxAge:
			return Voter{}, fmt.Errorf("%w: it was %v ago", ErrStaleLogin, b.Now().Sub(l.At).Round(1e9))
		default:
			return linked(p, team, Voter{Issuer: l.Issuer, Sub: l.Sub, Email: l.Email, Linked: LinkedLogin})
		}
	}
	if links.Email && b.SlackEmail != nil {
		address, err := b.SlackEmail(ctx, team, user)
		if err != nil {
			return Voter{}, err
		}
		if person, ok := p.PersonByEmail(address); ok {
			return linked(p, team, Voter{Issuer: person.Issuer, Sub: person.Sub, Linked: LinkedEmail})
		}
	}
	return Voter{}, ErrUnlinked
}

// Concerns tells whether somebody may see the approval: who is asked, who may
// break the glass, who asked, who answers for the service that asked, and who
// has voted. Under no policy, nil, it concerns who asked and who has voted.
func (a Approval) Concerns(who rules.Subject, p *rules.Policy) bool {
	if a.Subject.Issuer == who.Issuer && a.Subject.Sub == who.Sub {
		return true
	}
	if slices.ContainsFunc(a.Votes, func(v Vote) bool { return v.Issuer == who.Issuer && v.Sub == who.Sub }) {
		return true
	}
	if p == nil {
		return false
	}
	for _, ask := range a.Asks {
		if p.MayApprove(ask.Approvers, who) || ask.BreakGlass != "" && p.MayApprove(ask.BreakGlass, who) {
			return true
		}
	}
	person, known := p.Person(who.Issuer, who.Sub)
	return known && slices.Contains(p.Owners(a.Subject, a.Client), person.Name)
}

// ACR are the ways of signing in that the sets which are asked want.
func (a Approval) ACR() (acr []string) {
	for _, ask := range a.Asks {
		for _, v := range ask.ACR {
			if !slices.Contains(acr, v) {
				acr = append(acr, v)
			}
		}
	}
	return acr
}

// linked fills in what policy knows of a voter whom it does not link itself.
// Whom it links to another user of that workspace is not this one.
func linked(p *rules.Policy, team string, v Voter) (Voter, error) {
	person, ok := p.Person(v.Issuer, v.Sub)
	if !ok {
		return v, nil
	}
	if person.SlackTeam == team {
		return Voter{}, fmt.Errorf("%w: approvers.yaml links %s to another Slack user", ErrLinked, person.Name)
	}
	v.Person, v.Email = person.Name, ""
	return v, nil
}
