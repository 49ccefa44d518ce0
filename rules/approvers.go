package rules

import (
	"net/url"
	"regexp"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"
)

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
		switch {
		case !known:
			d.report(n, "approver set %q is not in approvers.yaml", name)
		case len(set.Members) == 0 && len(set.Groups) > 0:
			d.report(n, "approver set %q has groups only: who may freeze is named, as a member or under freeze.people", name)
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

// The bounds of links.max_age.
const (
	minLinkAge = time.Minute
	maxLinkAge = 30 * 24 * time.Hour
)

func (l *loader) approvers(d *document) {
	root := d.parse()
	if root == nil {
		return
	}
	f, ok := d.fields(root, "approvers.yaml", "people", "sets", "owners", "links")
	if !ok {
		return
	}
	l.links(d, f["links"]) // whether a member needs a Slack user depends on them
	for _, at := range d.mapping(f["people"], "people") {
		l.person(d, at)
	}
	for _, at := range d.mapping(f["sets"], "sets") {
		l.set(d, at)
	}
	if n := f["owners"]; n != nil {
		for _, at := range d.list(n, "owners") {
			l.owner(d, at)
		}
	}
}

func (l *loader) links(d *document, n *yaml.Node) {
	if n == nil {
		return
	}
	f, ok := d.fields(n, "links", "login", "email", "max_age")
	if !ok {
		return
	}
	links := &l.policy.people.links
	links.Login, links.Email = d.truth(f["login"], "links.login"), d.truth(f["email"], "links.email")
	if v := f["max_age"]; v != nil {
		links.MaxAge = d.span(v, "links.max_age", minLinkAge, maxLinkAge)
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
	} else if p.Issuer != "" {
		d.issuer(f["issuer"], p.Issuer)
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

// issuer checks an issuer's name, which is an URL.
func (d *document) issuer(n *yaml.Node, name string) {
	if u, err := url.Parse(name); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		d.report(n, "issuer must be the URL that tokens carry as iss")
	}
}

func (l *loader) set(d *document, at field) {
	s := ApproverSet{Name: at.key.Value, Via: ViaSlack}
	d.named(s.Name, at.key.Line, at.key.Column, "approver set")
	defer func() { l.policy.people.sets[s.Name] = s }()
	f, ok := d.fields(at.val, "approver set "+s.Name, "members", "groups", "channel", "approve_via", "acr")
	if !ok {
		return
	}
	if n := f["approve_via"]; n != nil {
		s.Via = d.via(n)
	}
	if n := f["acr"]; n != nil {
		if s.ACR = d.texts(n, "acr"); s.Via != ViaOIDC {
			d.report(n, "acr is of a login, and this set approves by button: say approve_via: oidc")
		}
	}
	if f["members"] == nil && f["groups"] == nil {
		d.report(at.key, "approver set %s needs members", s.Name)
	}
	if n := f["members"]; n != nil {
		l.members(d, n, &s)
	}
	if n := f["groups"]; n != nil {
		d.groups(n, &s)
	}
	switch n := f["channel"]; {
	case n == nil && s.Via != ViaOIDC:
		d.report(at.key, "approver set %s needs channel: the id of the Slack channel where it is asked, or approve_via: oidc", s.Name)
	case n == nil:
	default:
		if s.Channel = d.text(n, "channel"); s.Channel != "" && !slackChannel.MatchString(s.Channel) {
			d.report(n, "channel must be the id that Slack shows (C…), not a name")
		}
	}
}

// via reads approve_via; what is wrong counts as the stricter.
func (d *document) via(n *yaml.Node) string {
	switch v := d.text(n, "approve_via"); v {
	case ViaSlack, ViaOIDC:
		return v
	case "":
	default:
		d.report(n, "approve_via %q is not known: slack or oidc", v)
	}
	return ViaOIDC
}

func (l *loader) members(d *document, n *yaml.Node, s *ApproverSet) {
	list := d.list(n, "members")
	if n.Kind == yaml.SequenceNode && len(list) == 0 {
		d.report(n, "approver set %s has no members", s.Name)
	}
	links := l.policy.people.links
	for _, m := range list {
		name := d.text(m, "member")
		p, known := l.policy.people.byName[name]
		switch {
		case name == "":
		case !known:
			d.report(m, "%q is not among people", name)
		case s.Via == ViaSlack && p.SlackUser == "" && !links.Login && !(links.Email && p.Email != ""):
			d.report(m, "%s has no slack user, and this set is asked in Slack: add it, or let people link themselves (links: { login: true })", name)
		case slices.Contains(s.Members, name):
			d.report(m, "%s is a member twice: one person has one vote", name)
		default:
			s.Members = append(s.Members, name)
		}
	}
}

func (d *document) groups(n *yaml.Node, s *ApproverSet) {
	list := d.list(n, "groups")
	if n.Kind == yaml.SequenceNode && len(list) == 0 {
		d.report(n, "groups is an empty list")
	}
	for _, at := range list {
		f, ok := d.fields(at, "a group", "issuer", "group")
		if !ok {
			continue
		}
		g := Group{Issuer: d.text(f["issuer"], "issuer"), Name: d.text(f["group"], "group")}
		switch {
		case f["issuer"] == nil || f["group"] == nil:
			d.report(at, "a group needs issuer and group: whose claim it is, and its name there")
		case slices.Contains(s.Groups, g):
			d.report(at, "group %q of this issuer is listed twice", g.Name)
		default:
			d.issuer(f["issuer"], g.Issuer)
			s.Groups = append(s.Groups, g)
		}
	}
}

// owner reads who answers for one service identity.
func (l *loader) owner(d *document, n *yaml.Node) {
	f, ok := d.fields(n, "an owner", "issuer", "sub", "client", "people")
	if !ok {
		return
	}
	o := owner{Issuer: d.text(f["issuer"], "issuer"), Sub: d.text(f["sub"], "sub"), Client: d.text(f["client"], "client")}
	subject := f["issuer"] != nil && f["sub"] != nil
	switch half := f["issuer"] != nil || f["sub"] != nil; {
	case half && f["client"] != nil, !half && f["client"] == nil, half && !subject:
		d.report(n, "an owner is of a subject (issuer and sub) or of a client: say which of them")
		return
	case subject && o.Issuer != "":
		d.issuer(f["issuer"], o.Issuer)
	}
	if slices.ContainsFunc(l.policy.people.owners, func(other owner) bool {
		return other.Issuer == o.Issuer && other.Sub == o.Sub && other.Client == o.Client
	}) {
		d.report(n, "this identity stands among owners twice: name all its people in one place")
	}
	if f["people"] == nil {
		d.report(n, "an owner needs people: who answers for it")
	}
	d.each(f["people"], "people", func(n *yaml.Node, name string) {
		if _, known := l.policy.people.byName[name]; !known {
			d.report(n, "%q is not among people", name)
		}
		o.People = append(o.People, name)
	})
	l.policy.people.owners = append(l.policy.people.owners, o)
}

// approval reads what a rule asks of people.
func (l *loader) approval(d *document, a *yaml.Node, r *rule) {
	g, ok := d.fields(a, "approval", "approvers", "quorum", "expires", "approve_via", "grant", "break_glass")
	if !ok {
		return
	}
	if v := g["quorum"]; v != nil {
		if r.quorum = d.number(v, "quorum"); r.quorum < 1 {
			d.report(v, "quorum must be at least 1")
		}
	}
	if v := g["expires"]; v != nil {
		r.expires = d.span(v, "expires", minExpires, maxExpires)
	}
	if v := g["approve_via"]; v != nil {
		r.via = d.via(v)
	}
	if v := g["grant"]; v != nil {
		l.grant(d, v, r)
	}
	if g["approvers"] == nil {
		d.report(a, "approval needs approvers: the name of a set in approvers.yaml, or a list of them")
	}
	r.approvers = d.texts(g["approvers"], "approvers")
	for _, name := range r.approvers {
		set, known := l.policy.people.sets[name]
		switch {
		case !known:
			d.report(g["approvers"], "approver set %q is not in approvers.yaml", name)
		case r.quorum > len(set.Members) && len(set.Groups) == 0: // nobody here knows how many a group has
			d.report(a, "a quorum of %d can never be reached: approver set %s has %d", r.quorum, name, len(set.Members))
		}
	}
	if v := g["break_glass"]; v != nil {
		r.breakGlass = d.text(v, "break_glass")
		if _, known := l.policy.people.sets[r.breakGlass]; !known && r.breakGlass != "" {
			d.report(v, "approver set %q is not in approvers.yaml", r.breakGlass)
		} else if slices.Contains(r.approvers, r.breakGlass) {
			d.report(v, "break_glass must be another set than those which are asked: %s approves with its quorum", r.breakGlass)
		}
	}
}

// grant reads what an approval is good for: `once`, or a window.
func (l *loader) grant(d *document, n *yaml.Node, r *rule) {
	if n.Kind != yaml.MappingNode {
		if v := d.text(n, "grant"); v != "" && v != "once" {
			d.report(n, "grant %q is not known: once, or { for: 1h, scope: exact } (or tool, or server)", v)
		}
		return
	}
	f, ok := d.fields(n, "grant", "for", "scope")
	if !ok {
		return
	}
	ceiling := l.policy.settings.MaxGrant
	r.grant.Scope = ScopeExact
	if f["for"] == nil {
		d.report(n, "grant needs for: how long the window is open")
	} else if r.grant.For = d.span(f["for"], "grant.for", minGrant, maxGrant); r.grant.For > ceiling {
		d.report(f["for"], "grant.for is %v, and approvals.max_grant of countersign.yaml allows %v", brevity(r.grant.For), brevity(ceiling))
	}
	if v := f["scope"]; v != nil {
		switch s := d.text(v, "scope"); s {
		case ScopeExact, ScopeTool, ScopeServer:
			r.grant.Scope = s
		case "":
		default:
			d.report(v, "scope %q is not known: exact, tool or server", s)
		}
	}
}

// brevity spells a duration without the zeros at its end: 1h, not 1h0m0s.
func brevity(d time.Duration) string {
	s := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if n := len(s) - len(zero); n > 0 && s[n:] == zero {
			s = s[:n+1]
		}
	}
	return s
}
