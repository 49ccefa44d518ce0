package approval

import (
	"context"
	"errors"
	"strings"

	"countersign/rules"
)

// names are all that one human is known under, as far as anybody here knows:
// subjects, Slack users, e-mail addresses, and a name in the policy. They serve
// to refuse only (a second vote, the requester's own): that two share an address
// proves nothing about a voter, and is reason enough.
type names map[string]bool

func subjectName(issuer, sub string) string {
	return "subject " + rules.Subject{Issuer: issuer, Sub: sub}.Key()
}
func slackName(team, user string) string { return "slack " + team + "/" + user }
func mailName(address string) string     { return "mail " + strings.ToLower(address) }
func personName(name string) string      { return "person " + name }

func (n names) share(with names) bool {
	for name := range n {
		if with[name] {
			return true
		}
	}
	return false
}

// add adds a name, and tells whether it is new.
func (n names) add(name string) bool {
	_, kind, _ := strings.Cut(name, " ")
	if kind == "" || kind == "#" || kind == "/" || n[name] {
		return false
	}
	n[name] = true
	return true
}

// known closes n over what the policy's people, the logins and the links know:
// whoever shares one name with it is the same human, and so are all their names.
func (b *Book) known(ctx context.Context, p *rules.Policy, n names) (names, error) {
	people := p.People()
	asked := names{}
	for grown := true; grown; {
		grown = false
		for _, person := range people {
			theirs := names{}
			theirs.add(personName(person.Name))
			theirs.add(subjectName(person.Issuer, person.Sub))
			theirs.add(slackName(person.SlackTeam, person.SlackUser))
			theirs.add(mailName(person.Email))
			if n.share(theirs) {
				for name := range theirs {
					grown = n.add(name) || grown
				}
			}
		}
		if b.Logins == nil {
			continue
		}
		for name := range n {
			if !asked.add(name) {
				continue
			}
			l, err := b.loginOf(ctx, name)
			if err != nil {
				return nil, err
			}
			grown = n.add(subjectName(l.Issuer, l.Sub)) || grown
			grown = n.add(mailName(l.Email)) || grown
		}
	}
	return n, nil
}

// loginOf is the login of a subject or a linked Slack user; none is the zero one.
func (b *Book) loginOf(ctx context.Context, name string) (Login, error) {
	kind, rest, _ := strings.Cut(name, " ")
	var l Login
	var err error
	switch kind {
	case "subject":
		// An issuer is an URL; a fragment has no meaning there.
		issuer, sub, _ := strings.Cut(rest, "#")
		l, err = b.Logins.Get(ctx, issuer, sub)
	case "slack":
		team, user, _ := strings.Cut(rest, "/")
		l, err = b.Logins.BySlack(ctx, team, user)
	}
	if errors.Is(err, ErrNoLogin) || errors.Is(err, ErrUnlinked) || errors.Is(err, ErrStaleLogin) || errors.Is(err, ErrLogin) {
		err = nil
	}
	return l, err
}

// barred tells why the voter, known as theirs, may not approve what was asked.
func (b *Book) barred(ctx context.Context, a Approval, theirs names, p *rules.Policy) error {
	asker := names{}
	asker.add(subjectName(a.Subject.Issuer, a.Subject.Sub))
	asker.add(mailName(a.Subject.Email))
	asker, err := b.known(ctx, p, asker)
	if err != nil {
		return err
	}
	if theirs.share(asker) {
		return ErrOwnRequest
	}
	owners := names{}
	for _, name := range p.Owners(a.Subject, a.Client) {
		owners.add(personName(name))
	}
	if owners, err = b.known(ctx, p, owners); err != nil {
		return err
	}
	if theirs.share(owners) {
		return ErrOwner
	}
	return nil
}

// voter gives all names of who cast the vote.
func (b *Book) voter(ctx context.Context, v Vote, p *rules.Policy) (names, error) {
	n := names{}
	n.add(subjectName(v.Issuer, v.Sub))
	n.add(personName(v.Person))
	n.add(mailName(v.Email))
	if v.Slack != nil {
		n.add(slackName(v.Slack.Team, v.Slack.User))
	}
	return b.known(ctx, p, n)
}
