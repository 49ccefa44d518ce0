package page

import (
	"errors"
	"fmt"
	"net/http"

	"countersign/enforcer/approval"
)

// linkSight is what the page about a link shows; see approval.Linking.
type linkSight struct {
	approval.SlackUser
	Token string
	Code  string // to be typed in Slack; "": not confirmed yet
}

func (p *Page) linking() *approval.Linking {
	return &approval.Linking{Logins: p.Logins, Seal: p.Seal}
}

// showLink is GET /approvals/link: which Slack user would be whose.
func (p *Page) showLink(w http.ResponseWriter, r *http.Request, s session) {
	token := r.URL.Query().Get("token")
	u, err := p.linking().Read(p.Policy(), token)
	if err != nil {
		p.noLink(w, r, s, err)
		return
	}
	p.render(w, r, http.StatusOK, "link.html", "Link a Slack user", &s, linkSight{SlackUser: u, Token: token})
}

// makeLink is POST /approvals/link: the person confirms, and gets the code to
// give in Slack.
func (p *Page) makeLink(w http.ResponseWriter, r *http.Request, s session) {
	if !p.posts.Allow(s.key(), p.Now()) {
		p.tooOften(w, r, &s)
		return
	}
	token := r.PostForm.Get("token")
	u, err := p.linking().Read(p.Policy(), token)
	if err == nil && !s.fresh(p.Now()) {
		err = errOld
	}
	var code string
	if err == nil {
		code, err = p.linking().Offer(r.Context(), p.Policy(), token, approval.Login{Issuer: s.Issuer, Sub: s.Sub})
	}
	if err != nil {
		p.noLink(w, r, s, err)
		return
	}
	p.render(w, r, http.StatusOK, "link.html", "Link a Slack user", &s, linkSight{SlackUser: u, Code: code})
}

func (p *Page) noLink(w http.ResponseWriter, r *http.Request, s session, err error) {
	e := problem{http.StatusForbidden, "Nothing was linked", ""}
	switch {
	case errors.Is(err, errOld):
		e.Text = "You signed in more than five minutes ago. Sign out, open the link from Slack again, and sign in."
	case errors.Is(err, approval.ErrLinkOff):
		e.Text = "Policy does not let people link their Slack user themselves. Have it added to approvers.yaml, by pull request."
	case errors.Is(err, approval.ErrLinked):
		e.Text = "Policy links this Slack user, or you, otherwise already: see approvers.yaml."
	case errors.Is(err, approval.ErrLinkToken):
		e.Text = "This link is more than ten minutes old, or was used already. Send /countersign link in Slack for another one."
	default:
		p.broken(w, r, &s, err)
		return
	}
	p.refuse(r.Context(), "", p.vote(r, s), fmt.Errorf("a Slack user was not linked: %w", err))
	p.fail(w, r, &s, e)
}
