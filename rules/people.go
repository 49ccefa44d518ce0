package rules

import (
	"slices"
	"strings"
	"time"
)

// Person is somebody who may approve: an identity of an issuer, linked by
// policy (never by e-mail) to a user of a Slack workspace.
type Person struct {
	Name      string
	Issuer    string
	Sub       string
	Email     string
	SlackTeam string
	SlackUser string
}

// The ways in which a set can be asked to approve.
const (
	ViaSlack = "slack" // by button, or signed in on the approval page
	ViaOIDC  = "oidc"  // only signed in afresh on the approval page
)

// ApproverSet is a group of people and the place where they are asked.
type ApproverSet struct {
	Name    string
	Members []string // names of people
	Groups  []Group  // whoever the issuer says is in one of them, too
	Channel string   // Slack channel id; "" only with ViaOIDC
	Via     string   // ViaSlack or ViaOIDC
	ACR     []string // with ViaOIDC: the login's acr must be one of these; none: any
}

// Group is a group as an issuer names it in its claims.
type Group struct {
	Issuer string
	Name   string
}

// Links says how a Slack user whom policy links to nobody may be told to be
// somebody.
type Links struct {
	Login  bool          // by their own login to the approval page
	Email  bool          // by the e-mail address that Slack has of them
	MaxAge time.Duration // how old a login may be whose claims, or whose link, a vote rests on
}

// An owner is who answers for a service identity.
type owner struct {
	Issuer, Sub string // of the identity, or
	Client      string
	People      []string
}

type people struct {
	byName    map[string]Person
	bySubject map[string]string // issuer#sub to name
	bySlack   map[string]string // team/user to name
	sets      map[string]ApproverSet
	owners    []owner
	links     Links
}

func (p *people) init() {
	p.byName, p.bySubject, p.bySlack, p.sets = map[string]Person{}, map[string]string{}, map[string]string{}, map[string]ApproverSet{}
	p.links.MaxAge = 12 * time.Hour
}

// ApproverSet returns the named set.
func (p *Policy) ApproverSet(name string) (ApproverSet, bool) {
	s, ok := p.people.sets[name]
	s.Members, s.Groups, s.ACR = slices.Clone(s.Members), slices.Clone(s.Groups), slices.Clone(s.ACR)
	return s, ok
}

// People lists everybody whom approvers.yaml names, by name.
func (p *Policy) People() []Person {
	var all []Person
	for _, person := range p.people.byName {
		all = append(all, person)
	}
	slices.SortFunc(all, func(a, b Person) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Person returns whoever the issuer calls sub.
func (p *Policy) Person(issuer, sub string) (Person, bool) {
	person, ok := p.people.byName[p.people.bySubject[Subject{Issuer: issuer, Sub: sub}.Key()]]
	return person, ok
}

// PersonByName returns whoever approvers.yaml calls so.
func (p *Policy) PersonByName(name string) (Person, bool) {
	person, ok := p.people.byName[name]
	return person, ok
}

// PersonBySlack returns the person linked to that user of that workspace.
func (p *Policy) PersonBySlack(team, user string) (Person, bool) {
	person, ok := p.people.byName[p.people.bySlack[team+"/"+user]]
	return person, ok
}

// PersonByEmail returns the one person who has that e-mail address, in any
// case; nobody if two have it. It is for Links().Email, and for nothing else: an
// address proves little.
func (p *Policy) PersonByEmail(email string) (Person, bool) {
	var found []Person
	for _, person := range p.people.byName {
		if email != "" && strings.EqualFold(person.Email, email) {
			found = append(found, person)
		}
	}
	if len(found) != 1 {
		return Person{}, false
	}
	return found[0], true
}

// Links says how Slack users may be linked to subjects beside Person.
func (p *Policy) Links() Links { return p.people.links }

// Owners names the people who answer for a service identity: for the subject,
// or for the client that it comes by. They may not approve what it asks.
func (p *Policy) Owners(s Subject, client string) []string {
	var names []string
	for _, o := range p.people.owners {
		if o.Client != "" && o.Client == client || o.Client == "" && o.Issuer == s.Issuer && o.Sub == s.Sub {
			names = append(names, o.People...)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// MayApprove tells whether the subject is a member of the set: by name, or by
// one of s.Groups, which the caller takes from a login that is fresh enough.
func (p *Policy) MayApprove(set string, s Subject) bool {
	if person, ok := p.Person(s.Issuer, s.Sub); ok && slices.Contains(p.people.sets[set].Members, person.Name) {
		return true
	}
	return slices.ContainsFunc(p.people.sets[set].Groups, func(g Group) bool {
		return g.Issuer == s.Issuer && slices.Contains(s.Groups, g.Name)
	})
}

// MayFreeze returns the person whom the policy lets freeze and unfreeze over
// the network, if the subject is one.
func (p *Policy) MayFreeze(subject Subject) (Person, bool) {
	person, ok := p.Person(subject.Issuer, subject.Sub)
	return person, ok && slices.Contains(p.freezers, person.Name)
}
