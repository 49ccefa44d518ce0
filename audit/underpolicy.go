package audit

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"countersign/rules"
)

// policies holds the entries against the policies that they name; without a
// policy repository it finds nothing.
type policies struct {
	load     func(commit string) (*rules.Policy, error)
	calls    *conduct
	known    map[string]bool // by commit: whether it loads
	gone     []*gonePolicy   // that do not load: a fault, unless history was rewritten later, on record, and the auditor knows of it
	resets   []policyReset
	accepted []string // commits that resets may have led to, or their beginnings
}

// gonePolicy is one that entries of an enforcer name and that does not load.
type gonePolicy struct {
	enforcer, commit string
	why              error
	first, last      goneUse
}

type goneUse struct {
	at   Problem
	when time.Time // of the entry
}

// policyReset is an entry that puts a history in force that does not descend
// from the one before.
type policyReset struct {
	enforcer, commit string
	when             time.Time
}

// wasReset takes up such an entry.
func (p *policies) wasReset(at Problem, e *Entry) {
	if p != nil {
		p.resets = append(p.resets, policyReset{enforcerOf(at.Origin), e.Policy, e.Time})
	}
}

func enforcerOf(origin string) string {
	enforcer, _, _ := strings.Cut(origin, "/")
	return enforcer
}

// settle tells of policies that do not load. An operator may accept a history
// that does not descend from the one before (a reset); what was decided before
// it cannot be decided again from a clone made after it. That the entry is there
// does not make it so: whoever can write a log can write this entry, too, and
// whoever can change the policy's history can have an operator reset it, and
// with either hide the policy under which something was let through. So it
// takes the auditor, who names the commit that a reset led to, and it covers the
// past of the enforcer whose reset it was, and of no other.
func (p *policies) settle() (notes []string) {
	if p == nil {
		return nil
	}
	for _, g := range p.gone {
		var reset policyReset // the last one that is accepted
		var other policyReset // the last one that is not
		for _, r := range p.resets {
			switch {
			case r.enforcer != g.enforcer:
			case p.accepts(r.commit) && r.when.After(reset.when):
				reset = r
			case !p.accepts(r.commit) && r.when.After(other.when):
				other = r
			}
		}
		if g.last.when.Before(reset.when) {
			notes = append(notes, fmt.Sprintf("%s; the policy's history was reset at %s, on record and as you accept, so it was not decided again", g.text(g.first), clock(reset.when)))
			continue
		}
		of := g.first
		if of.when.Before(reset.when) {
			of = g.last
		}
		at := of.at
		at.Class, at.Text = ClassPolicy, g.text(of)
		if of.when.Before(other.when) {
			at.Text += fmt.Sprintf("; the policy's history was reset at %s, on record, to %s, which you have not accepted", clock(other.when), short(other.commit))
		}
		p.calls.problem(at)
	}
	p.gone = nil
	return notes
}

func (g *gonePolicy) text(of goneUse) string {
	return fmt.Sprintf("entry %d: it was decided under policy %s, and %v", of.at.Entry, short(g.commit), g.why)
}

func (p *policies) accepts(commit string) bool {
	return slices.ContainsFunc(p.accepted, func(a string) bool { return a != "" && strings.HasPrefix(commit, a) })
}

// of gives the policy of a commit; nil if there is none to hold against.
func (p *policies) of(at Problem, when time.Time, commit string) *rules.Policy {
	if p == nil || p.load == nil || commit == "" {
		return nil
	}
	loads, asked := p.known[commit]
	if asked && !loads {
		p.misses(at, when, commit, nil)
		return nil
	}
	found, err := p.load(commit)
	p.known[commit] = err == nil
	switch {
	case err != nil:
		p.misses(at, when, commit, err)
		return nil
	case !asked:
		p.calls.Policies++
	}
	return found
}

// misses notes that an entry names a policy that does not load.
func (p *policies) misses(at Problem, when time.Time, commit string, why error) {
	use := goneUse{at, when}
	for _, g := range p.gone {
		if g.commit != commit {
			continue
		}
		why = g.why
		if g.enforcer != enforcerOf(at.Origin) {
			continue
		}
		if when.Before(g.first.when) {
			g.first = use
		}
		if when.After(g.last.when) {
			g.last = use
		}
		return
	}
	p.gone = append(p.gone, &gonePolicy{enforcerOf(at.Origin), commit, why, use, use})
}

// earlier are the moments at which a request is decided again if it comes out
// otherwise at its entry's time: an entry is written after the decision, by as
// long as Vault or a list of tools was waited for.
var earlier = []time.Duration{time.Second, 10 * time.Second, time.Minute, 5 * time.Minute}

// moments are those of one entry, how long before it. What was refused may have
// been decided when it came, and have waited hours for people; its entry says
// how long. What people approved was decided again before it ran.
func moments(e *Entry) []time.Duration {
	came := time.Duration(e.Millis * float64(time.Millisecond))
	if e.Kind != KindRefused || came <= 0 {
		return earlier
	}
	all := append(slices.Clone(earlier), came)
	for _, after := range earlier[:2] {
		if came > after {
			all = append(all, came-after)
		}
	}
	return all
}

// decide decides a request again, under the policy that it names.
func (p *policies) decide(at Problem, e *Entry) {
	if e.Effect == "" || e.Policy == "" || serverAsks(e) {
		return
	}
	pol := p.of(at, e.Time, e.Policy)
	if pol == nil {
		return
	}
	skip := func(why string) {
		if p.calls.Undecided == nil {
			p.calls.Undecided = map[string]int{}
		}
		p.calls.Undecided[why]++
	}
	req, why := request(*e)
	if why != "" {
		skip(why)
		return
	}
	same := func(d rules.Decision) bool {
		return string(d.Effect) == e.Effect && slices.Equal(sorted(d.RuleIDs()), sorted(e.Rules))
	}
	now := pol.Decide(req)
	if !same(now) {
		for _, ago := range moments(e) {
			back := req
			back.Now = e.Time.Add(-ago)
			if again := pol.Decide(back); same(again) {
				now = again
				break
			}
		}
	}
	switch {
	case same(now):
		p.calls.Decided++
	case pol.ReadsClaims(e.Server):
		skip("a rule looks at claims of the token, which the record does not hold")
	default:
		at.Class = ClassDecision
		at.Text = fmt.Sprintf("entry %d: policy %s decides %s (%s), and the entry says %s (%s)", e.Seq, short(e.Policy),
			now.Effect, orNone(now.RuleIDs()), e.Effect, orNone(e.Rules))
		p.calls.problem(at)
	}
}

// bindsCredential tells whether an approval's digest may cover more than the
// arguments: what Vault is asked, where that depends on the caller's token.
// Without the policy nobody can tell.
func (p *policies) bindsCredential(at Problem, e *Entry) bool {
	if p == nil || p.load == nil {
		return true
	}
	at.Entry = int64(e.Seq)
	pol := p.of(at, e.Time, e.Policy)
	if pol == nil {
		return true // reported already
	}
	server, _ := pol.Server(e.Server)
	name, _, _ := strings.Cut(e.Credential, " ")
	c, ok := server.Credentials[name]
	return ok && c.UsesCaller()
}

// asked checks that what the approval says was asked is what the policy asks.
func (p *policies) asked(u usedApproval) {
	pol := p.of(u.At, u.Doc.Created, u.Policy)
	if pol == nil {
		return
	}
	bad := func(format string, args ...any) {
		at := u.At
		at.Text = fmt.Sprintf("entry %d: approval %s ", at.Entry, u.Doc.ID) + fmt.Sprintf(format, args...)
		p.calls.problem(at)
	}
	subject := rules.Subject{Issuer: u.Doc.Subject.Issuer, Sub: u.Doc.Subject.Sub}
	asks := make([]rules.Ask, len(u.Doc.Asks))
	for i, a := range u.Doc.Asks {
		asks[i] = rules.Ask{Rule: a.Rule, Approvers: a.Approvers, Quorum: a.Quorum, BreakGlass: a.BreakGlass}
	}
	want := pol.Asked(asks)
	got := slices.Clone(asks)
	order := func(a, b rules.Ask) int {
		return strings.Compare(a.Rule+" "+a.Approvers, b.Rule+" "+b.Approvers)
	}
	slices.SortFunc(got, order)
	slices.SortFunc(want, order)
	if !slices.EqualFunc(got, want, func(a, b rules.Ask) bool {
		return a.Rule == b.Rule && a.Approvers == b.Approvers && a.Quorum == b.Quorum && a.BreakGlass == b.BreakGlass
	}) {
		bad("says that %s were asked, and under policy %s that is %s", askedOf(got), short(u.Policy), askedOf(want))
		return
	}
	if d := pol.AsksDigest(u.Doc.Server, subject, u.Doc.Client, asks); strings.HasPrefix(subject.Sub, pseudonym) {
		return // who answers for the identity that asks is part of the digest
	} else if d != u.Doc.RulesDigest {
		bad("rests on rules, people or a credential that are not those of policy %s", short(u.Policy))
	}
}

// pseudonym begins a subject that policy has not recorded in the clear.
const pseudonym = "pseudonym:"

func askedOf(asks []rules.Ask) string {
	var out []string
	for _, a := range asks {
		out = append(out, fmt.Sprintf("%d of %s by rule %s", a.Quorum, a.Approvers, a.Rule))
	}
	if out == nil {
		return "nobody"
	}
	return strings.Join(out, ", ")
}

// voter checks that who voted is of the sets that the vote counts for, under the
// policy then in force, and does not answer for who asked.
func (p *policies) voter(u usedApproval, v vote, commit string, groups []string) {
	pol := p.of(u.At, u.Doc.Created, commit)
	if pol == nil {
		return
	}
	at := u.At
	bad := func(format string, args ...any) {
		at.Text = fmt.Sprintf("entry %d: approval %s ", at.Entry, u.Doc.ID) + fmt.Sprintf(format, args...)
		p.calls.problem(at)
	}
	_, name, _ := strings.Cut(v.who(), " ")
	subject := rules.Subject{Issuer: v.Issuer, Sub: v.Sub}
	if strings.HasPrefix(v.Sub, pseudonym) {
		if person, ok := pol.PersonByName(v.Person); ok {
			subject = rules.Subject{Issuer: person.Issuer, Sub: person.Sub}
		} else {
			p.calls.Unknown++
			return
		}
	} else if person, ok := pol.Person(v.Issuer, v.Sub); ok != (v.Person != "") || ok && person.Name != v.Person {
		bad("has a vote of %s, whom policy %s does not know by that name", name, short(commit))
		return
	}
	asker := rules.Subject{Issuer: u.Doc.Subject.Issuer, Sub: u.Doc.Subject.Sub}
	if slices.Contains(pol.Owners(asker, u.Doc.Client), v.Person) && v.Person != "" {
		bad("has a vote of %s, who answers for who asked", name)
		return
	}
	byGroup, unknown := false, false
	for _, set := range v.Sets {
		if pol.MayApprove(set, subject) {
			continue
		}
		withGroups := subject
		withGroups.Groups = groups
		s, _ := pol.ApproverSet(set)
		switch {
		case pol.MayApprove(set, withGroups):
			byGroup = true
		case len(s.Groups) > 0 && groups == nil:
			unknown = true
		default:
			bad("has a vote of %s, who is not of %s under policy %s", name, set, short(commit))
			return
		}
	}
	switch {
	case unknown:
		p.calls.Unknown++
	case byGroup:
		p.calls.Groups++
	default:
		p.calls.Members++
	}
}
