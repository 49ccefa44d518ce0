package rules

import (
	"net/url"
	"regexp"
	"slices"

	"go.yaml.in/yaml/v3"
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

// ApproverSet is a group of people and the place where they are asked.
type ApproverSet struct {
	Name    string
	Members []string // names of people
	Channel string   // Slack channel id
	Via     string   // slack
}

type people struct {
	byName    map[string]Person
	bySubject map[string]string // issuer#sub to name
	bySlack   map[string]string // team/user to name
	sets      map[string]ApproverSet
}

func (p *people) init() {
	p.byName, p.bySubject, p.bySlack, p.sets = map[string]Person{}, map[string]string{}, map[string]string{}, map[string]ApproverSet{}
}

// ApproverSet returns the named set.
func (p *Policy) ApproverSet(name string) (ApproverSet, bool) {
	s, ok := p.people.sets[name]
	s.Members = slices.Clone(s.Members)
	return s, ok
}

// Person returns whoever the issuer calls sub.
func (p *Policy) Person(issuer, sub string) (Person, bool) {
	person, ok := p.people.byName[p.people.bySubject[Subject{Issuer: issuer, Sub: sub}.Key()]]
	return person, ok
}

// PersonBySlack returns the person linked to that user of that workspace.
func (p *Policy) PersonBySlack(team, user string) (Person, bool) {
	person, ok := p.people.byName[p.people.bySlack[team+"/"+user]]
	return person, ok
}

// MayApprove tells whether the subject is a member of the set.
func (p *Policy) MayApprove(set string, subject Subject) bool {
	person, ok := p.Person(subject.Issuer, subject.Sub)
	return ok && slices.Contains(p.people.sets[set].Members, person.Name)
}

// MayFreeze returns the person whom the policy lets freeze and unfreeze over
// the network, if the subject is one.
func (p *Policy) MayFreeze(subject Subject) (Person, bool) {
	person, ok := p.Person(subject.Issuer, subject.Sub)
	return person, ok && slices.Contains(p.freezers, person.Name)
}

// freezers reads `freeze` of countersign.yaml: sets of approvers.yaml, people
// of it, or both.
func (l *loader) freezers(d *document, n *yaml.Node) {
	f, ok := d.fields(n, "freeze", "sets", "people")
	if !ok {
		return
	}
	if f["sets"] == nil && f["people"] == nil {
		d.report(n, "freeze names nobody: give sets or people of approvers.yaml")
	}
	add := func(name string) {
		if !slices.Contains(l.policy.freezers, name) {
			l.policy.freezers = append(l.policy.freezers, name)
		}
	}
	d.each(f["sets"], "freeze.sets", func(n *yaml.Node, name string) {
		set, known := l.policy.people.sets[name]
		if !known {
			d.report(n, "approver set %q is not in approvers.yaml", name)
		}
		for _, m := range set.Members {
			add(m)
		}
	})
	d.each(f["people"], "freeze.people", func(n *yaml.Node, name string) {
		if _, known := l.policy.people.byName[name]; !known {
			d.report(n, "%q is not among the people of approvers.yaml", name)
		}
		add(name)
	})
}

var (
	slackTeam    = regexp.MustCompile(`^[TE][A-Z0-9]+$`)
	slackUser    = regexp.MustCompile(`^[UW][A-Z0-9]+$`)
	slackChannel = regexp.MustCompile(`^[CGD][A-Z0-9]+$`)
)

func (l *loader) approvers(d *document) {
	root := d.parse()
	if root == nil {
		return
	}
	f, ok := d.fields(root, "approvers.yaml", "people", "sets")
	if !ok {
		return
	}
	for _, at := range d.mapping(f["people"], "people") {
		l.person(d, at)
	}
	for _, at := range d.mapping(f["sets"], "sets") {
		l.set(d, at)
	}
}

func (l *loader) person(d *document, at field) {
	p := Person{Name: at.key.Value}
	d.named(p.Name, at.key.Line, at.key.Column, "person")
	f, ok := d.fields(at.val, "person "+p.Name, "issuer", "sub", "email", "slack")
	if !ok {
		return
	}
	p.Issuer, p.Sub, p.Email = d.text(f["issuer"], "issuer"), d.text(f["sub"], "sub"), d.text(f["email"], "email")
	if f["issuer"] == nil || f["sub"] == nil {
		d.report(at.key, "person %s needs issuer and sub: who they are to the identity provider", p.Name)
	} else if u, err := url.Parse(p.Issuer); p.Issuer != "" && (err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http") {
		d.report(f["issuer"], "issuer must be the URL that tokens carry as iss")
	}
	if n := f["slack"]; n != nil {
		if s, ok := d.fields(n, "slack", "team", "user"); ok {
			p.SlackTeam, p.SlackUser = d.text(s["team"], "slack.team"), d.text(s["user"], "slack.user")
			if !slackTeam.MatchString(p.SlackTeam) || !slackUser.MatchString(p.SlackUser) {
				d.report(n, "slack needs team and user, the ids that Slack shows (T… and U…), not names")
			} else if other, dup := l.policy.people.bySlack[p.SlackTeam+"/"+p.SlackUser]; dup {
				d.report(n, "this Slack user is %s already: one user is one person", other)
			} else {
				l.policy.people.bySlack[p.SlackTeam+"/"+p.SlackUser] = p.Name
			}
		}
	}
	key := Subject{Issuer: p.Issuer, Sub: p.Sub}.Key()
	if other, dup := l.policy.people.bySubject[key]; dup {
		d.report(at.key, "%s and %s are the same issuer and sub: one identity is one person", p.Name, other)
	}
	l.policy.people.bySubject[key] = p.Name
	l.policy.people.byName[p.Name] = p
}

func (l *loader) set(d *document, at field) {
	s := ApproverSet{Name: at.key.Value, Via: "slack"}
	d.named(s.Name, at.key.Line, at.key.Column, "approver set")
	defer func() { l.policy.people.sets[s.Name] = s }()
	f, ok := d.fields(at.val, "approver set "+s.Name, "members", "channel", "via")
	if !ok {
		return
	}
	if n := f["via"]; n != nil {
		switch v := d.text(n, "via"); v {
		case "slack", "":
		case "oidc":
			d.report(n, "via: oidc is not supported yet: people approve in Slack (via: slack)")
		default:
			d.report(n, "via %q is not known: slack", v)
		}
	}
	if n := f["members"]; n == nil {
		d.report(at.key, "approver set %s needs members", s.Name)
	} else {
		for _, m := range d.list(n, "members") {
			name := d.text(m, "member")
			p, known := l.policy.people.byName[name]
			switch {
			case name == "":
			case !known:
				d.report(m, "%q is not among people", name)
			case p.SlackUser == "":
				d.report(m, "%s has no slack user, and this set is asked in Slack", name)
			case slices.Contains(s.Members, name):
				d.report(m, "%s is a member twice: one person has one vote", name)
			default:
				s.Members = append(s.Members, name)
			}
		}
		if len(n.Content) == 0 {
			d.report(n, "approver set %s has no members", s.Name)
		}
	}
	if n := f["channel"]; n == nil {
		d.report(at.key, "approver set %s needs channel: the id of the Slack channel where it is asked", s.Name)
	} else if s.Channel = d.text(n, "channel"); s.Channel != "" && !slackChannel.MatchString(s.Channel) {
		d.report(n, "channel must be the id that Slack shows (C…), not a name")
	}
}
