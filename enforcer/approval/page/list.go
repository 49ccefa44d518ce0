package page

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"

	"countersign/enforcer/approval"
	"countersign/rules"
)

// maxListed is how many approvals a heading of the list shows.
const maxListed = 100

// list is what GET /approvals shows: what concerns whoever looks.
type list struct {
	Headings []heading
	Linked   bool // policy lets people link their Slack user
}

// heading is one part of the list.
type heading struct {
	Title, Empty string
	Rows         []row
	More         int // that are not shown
}

type row struct {
	ID, Headline, Reason, Until string
	State                       standing
	Needs                       []string
	Badges                      []string
}

// viewer is who is signed in, under the policy in force and with the groups of
// their last login, if that is young enough.
func (p *Page) viewer(ctx context.Context, s session) (viewer, error) {
	v := viewer{session: s, policy: p.Policy(), subject: rules.Subject{Issuer: s.Issuer, Sub: s.Sub}, now: p.Now()}
	if v.policy == nil {
		return v, nil
	}
	if person, known := v.policy.Person(s.Issuer, s.Sub); known {
		v.person = person.Name
	}
	l, err := p.Logins.Get(ctx, s.Issuer, s.Sub)
	switch {
	case errors.Is(err, approval.ErrNoLogin):
	case err != nil:
		return v, err
	case v.now.Sub(l.At) <= v.policy.Links().MaxAge:
		v.subject.Groups = l.Groups
	}
	return v, nil
}

// serveList is GET /approvals.
func (p *Page) serveList(w http.ResponseWriter, r *http.Request, s session) {
	v, err := p.viewer(r.Context(), s)
	var all []approval.Approval
	if err == nil {
		all, err = p.Book.All(r.Context())
	}
	if err != nil {
		p.broken(w, r, &s, err)
		return
	}
	if v.policy == nil {
		p.fail(w, r, &s, problem{http.StatusServiceUnavailable, "No policy is in force", "Nothing can be decided before there is one. See /readyz, or ask whoever runs this enforcer."})
		return
	}
	p.render(w, r, http.StatusOK, "list.html", "Approvals", &s, v.list(all))
}

func (v viewer) list(all []approval.Approval) list {
	mine := heading{Title: "Waiting for you", Empty: "Nothing waits for your decision."}
	review := heading{Title: "Glass was broken: to be reviewed"}
	windows := heading{Title: "Windows in force"}
	others := heading{Title: "Waiting for others"}
	recent := heading{Title: "Decided in the last day"}
	slices.SortFunc(all, func(x, y approval.Approval) int { // the most urgent first
		return cmp.Or(x.Expires.Compare(y.Expires), cmp.Compare(x.ID, y.ID))
	})
	for _, a := range all {
		if !v.concerned(a) {
			continue
		}
		voted := slices.ContainsFunc(a.Votes, func(o approval.Vote) bool { return o.Issuer == v.Issuer && o.Sub == v.Sub })
		waits := a.State == approval.Pending && v.now.Before(a.Expires)
		switch {
		case a.NeedsReview():
			review.add(a, v)
		case a.State == approval.Approved && a.Grant.For > 0:
			windows.add(a, v)
		case waits && v.asked(a) && !v.own(a) && !voted:
			mine.add(a, v)
		case waits:
			others.add(a, v)
		default:
			recent.add(a, v)
		}
	}
	slices.Reverse(recent.Rows)
	out := list{Headings: []heading{mine}, Linked: v.policy.Links().Login}
	for _, h := range []heading{review, windows, others, recent} {
		if len(h.Rows) > 0 {
			out.Headings = append(out.Headings, h)
		}
	}
	return out
}

func (h *heading) add(a approval.Approval, v viewer) {
	if len(h.Rows) == maxListed {
		h.More++
		return
	}
	r := row{ID: a.ID, Headline: headline(a, v.policy), Until: stamp(a.Expires), State: stateOf(a, v.now)}
	if a.State == approval.Pending {
		r.Needs = needs(a)
	}
	for _, ask := range a.Asks {
		r.Reason = firstOf(r.Reason, ask.Reason)
		if ask.Via == approval.ViaOIDC && !slices.Contains(r.Badges, "only here, signed in") {
			r.Badges = append(r.Badges, "only here, signed in")
		}
	}
	if a.Partial {
		r.Badges = append(r.Badges, "masked in part")
	}
	if v.own(a) {
		r.Badges = append(r.Badges, "your own request")
	}
	h.Rows = append(h.Rows, r)
}
