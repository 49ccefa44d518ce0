package page

import (
	"errors"
	"net/http"
	"slices"
	"time"

	"countersign/enforcer/approval"
	"countersign/enforcer/approval/tell"
	"countersign/rules"
)

// sight is what the page of one approval shows.
type sight struct {
	A         approval.Approval
	Headline  string
	State     standing
	Asker     string // the person's name in the policy, if they have one
	Until     string
	Asks      []askSight
	Trace     []traceSight
	Votes     []voteSight
	Similar   []similar
	Needs     []string // what each set still has to give
	Window    string   // what a window would cover, in words; "": one call only
	WindowFor string   // how long it would be open
	Audit     string   // where the record shows the call
	Shown     string   // what the form vouches for having shown

	May      powers
	Why      string // why this person may not approve, though they are asked, or nearly
	SignIn   string // where to sign in afresh, if that is all that is missing
	Fresh    bool
	Until5   string // until when this sign-in may vote
	Notice   string // what became of the form that was sent
	Bad      bool   // it did not count
	Typed    string // the reason that was typed into it
	TypedFor string // and for what
}

// powers are what this person may do with it, signed in afresh.
type powers struct {
	Approve, Deny, Break, Withdraw, Revoke, Review bool
}

// Any tells whether there is anything to decide.
func (p powers) Any() bool { return p.Approve || p.Deny || p.Break || p.Review || p.Revoke }

type standing struct{ Word, Kind string }

type askSight struct {
	rules.Ask
	Link string
}

type traceSight struct {
	rules.Match
	Link    string
	Verdict string
}

type voteSight struct {
	Who, What, At, Via, Reason string
	Approve                    bool
}

type similar struct {
	ID, Headline, Verdict, Reason, At string
	Good                              bool
}

// serveApproval is GET /approvals/{id}.
func (p *Page) serveApproval(w http.ResponseWriter, r *http.Request, s session) {
	p.showApproval(w, r, s, http.StatusOK, nil)
}

// showApproval draws the page of an approval, for whom it concerns; alter adds
// what became of a form.
func (p *Page) showApproval(w http.ResponseWriter, r *http.Request, s session, status int, alter func(*sight)) {
	a, err := p.Book.Get(r.Context(), r.PathValue("id"))
	switch {
	case errors.Is(err, approval.ErrUnknown):
		p.unknown(w, r, s)
		return
	case err != nil:
		p.broken(w, r, &s, err)
		return
	}
	v, err := p.viewer(r.Context(), s)
	if err != nil {
		p.broken(w, r, &s, err)
		return
	}
	if v.policy == nil {
		p.fail(w, r, &s, problem{http.StatusServiceUnavailable, "No policy is in force", "Nothing can be decided before there is one. See /readyz, or ask whoever runs this enforcer."})
		return
	}
	if !v.concerned(a) {
		p.unknown(w, r, s)
		return
	}
	body, err := p.sight(r, v, a)
	if err != nil {
		p.broken(w, r, &s, err)
		return
	}
	if alter != nil {
		alter(&body)
	}
	p.render(w, r, status, "approval.html", body.Headline, &s, body)
}

// unknown says no more of an approval that is none of this person's business
// than of one that is not there.
func (p *Page) unknown(w http.ResponseWriter, r *http.Request, s session) {
	p.fail(w, r, &s, problem{http.StatusNotFound, "There is nothing here for you", "There is no such approval, or it ended more than a day ago, or it does not concern you: policy asks others, and you did not ask for it yourself. The record has all of them."})
}

// viewer is a signed-in person, as the policy in force sees them.
type viewer struct {
	session
	policy  *rules.Policy
	subject rules.Subject // with the groups of the last login
	person  string        // name in the policy; ""
	now     time.Time
}

// concerned tells whether this person may see an approval; under no policy,
// nobody sees any.
func (v viewer) concerned(a approval.Approval) bool {
	return v.policy != nil && a.Concerns(v.subject, v.policy)
}

// glass tells whether this person may break the glass.
func (v viewer) glass(a approval.Approval) bool {
	return slices.ContainsFunc(a.Asks, func(ask rules.Ask) bool {
		return ask.BreakGlass != "" && v.policy.MayApprove(ask.BreakGlass, v.subject)
	})
}

// own tells whether it is this person who asked.
func (v viewer) own(a approval.Approval) bool {
	return a.Subject.Issuer == v.Issuer && a.Subject.Sub == v.Sub
}

// sight gathers what the page shows of a.
func (p *Page) sight(r *http.Request, v viewer, a approval.Approval) (sight, error) {
	s := sight{A: a, Headline: headline(a, v.policy), State: stateOf(a, v.now), Until: stamp(a.Expires), Shown: a.Shows(),
		Fresh: v.fresh(v.now), Until5: stamp(v.VotesUntil()), Window: windowOf(a), WindowFor: span(a.Grant.For)}
	if person, known := v.policy.Person(a.Subject.Issuer, a.Subject.Sub); known {
		s.Asker = person.Name
	}
	for _, ask := range a.Asks {
		s.Asks = append(s.Asks, askSight{ask, tell.PolicyLink(v.policy.Settings().PolicyLink, a.Policy, ask.File, ask.Line)})
	}
	for _, m := range a.Trace {
		s.Trace = append(s.Trace, traceSight{m, tell.PolicyLink(v.policy.Settings().PolicyLink, a.Policy, m.File, m.Line), verdictOf(m)})
	}
	for _, vote := range a.Votes {
		s.Votes = append(s.Votes, voteOf(vote))
	}
	s.Needs = needs(a)
	s.Audit = tell.AuditLink(v.policy.Settings().AuditLink, firstOf(a.SpentBy, a.Call))
	p.powers(&s, r, v)
	all, err := p.Book.All(r.Context())
	if err != nil {
		return s, err
	}
	s.Similar = alike(all, a, v)
	return s, nil
}

// powers finds out what this person may do; Vote checks again. Whoever signed in
// too long ago to vote is asked to do so again before anything else.
func (p *Page) powers(s *sight, r *http.Request, v viewer) {
	a := s.A
	try := func(edit func(*approval.Vote)) error {
		vote := p.vote(r, v.session)
		vote.Shown = s.Shown
		edit(&vote)
		return p.Book.Check(r.Context(), a, vote, v.policy)
	}
	switch {
	case a.State != approval.Pending:
	case s.Fresh:
		why := try(func(v *approval.Vote) { v.Approve = true })
		s.May.Approve = why == nil
		s.May.Deny = try(func(v *approval.Vote) { v.Reason = "-" }) == nil
		s.May.Break = try(func(v *approval.Vote) { v.Approve, v.BreakGlass, v.Reason = true, true, "-" }) == nil
		switch {
		case why == nil:
		case unforeseen(why):
			p.Log.ErrorContext(r.Context(), "approval page: it cannot be told whether a vote would count", "approval", a.ID, "error", why)
			s.Why = "It cannot be told just now whether you may decide this. Load the page again in a moment."
		default:
			s.Why = sayTo(why, a)
		}
		if errors.Is(why, approval.ErrACR) || errors.Is(why, approval.ErrStaleLogin) || errors.Is(why, approval.ErrNoLogin) {
			s.SignIn = signInURL("/approvals/"+a.ID, true)
		}
	case v.own(a):
		s.Why = sayTo(approval.ErrOwnRequest, a)
	case v.asked(a), v.glass(a):
		s.SignIn = signInURL("/approvals/"+a.ID, true)
	}
	s.May.Withdraw = !a.State.Ended() && v.own(a)
	s.May.Revoke = a.State == approval.Approved && (v.asked(a) || v.glass(a)) && !v.own(a)
	broke, broken := a.BrokenGlass()
	s.May.Review = broken && a.NeedsReview() && v.asked(a) && !v.own(a) && (broke.Issuer != v.Issuer || broke.Sub != v.Sub)
	if (s.May.Revoke || s.May.Review) && !s.Fresh {
		s.SignIn = signInURL("/approvals/"+a.ID, true)
	}
}

// asked tells whether policy asks this person.
func (v viewer) asked(a approval.Approval) bool {
	return slices.ContainsFunc(a.Asks, func(ask rules.Ask) bool { return v.policy.MayApprove(ask.Approvers, v.subject) })
}

// alike are the last decisions about the same tool, the newest first, of those
// that this person may see.
func alike(all []approval.Approval, a approval.Approval, v viewer) []similar {
	const most = 5
	slices.SortFunc(all, func(x, y approval.Approval) int { return y.Created.Compare(x.Created) })
	var out []similar
	for _, o := range all {
		if o.ID == a.ID || len(o.Votes) == 0 || o.Server != a.Server || o.Method != a.Method || o.Tool != a.Tool || o.Resource != a.Resource || !v.concerned(o) {
			continue
		}
		last := voteOf(o.Votes[len(o.Votes)-1])
		s := similar{ID: o.ID, Headline: askerOf(o, v.policy), Verdict: last.Who + " " + last.What, Reason: last.Reason, At: last.At, Good: last.Approve}
		if o.Digest == a.Digest {
			s.Headline += ", the very same arguments"
		}
		if out = append(out, s); len(out) == most {
			break
		}
	}
	return out
}
