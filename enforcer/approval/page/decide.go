package page

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"unicode/utf8"

	"countersign/enforcer/approval"
)

// What a form may ask for.
const (
	doApprove     = "approve"
	doOnce        = "once" // approve this call only, though policy grants a window
	doDeny        = "deny"
	doBreak       = "break-glass"
	doWithdraw    = "withdraw"
	doRevoke      = "revoke"
	doJustified   = "justified"   // a review: the glass was rightly broken
	doUnjustified = "unjustified" // or not
)

// decide is POST /approvals/{id}. The form: do, reason, shown (of the page that
// it stood on).
func (p *Page) decide(w http.ResponseWriter, r *http.Request, s session) {
	if !p.posts.Allow(s.key(), p.Now()) {
		p.tooOften(w, r, &s)
		return
	}
	id, do := r.PathValue("id"), r.PostForm.Get("do")
	vote := p.vote(r, s)
	vote.Reason = strings.TrimSpace(strings.ToValidUTF8(r.PostForm.Get("reason"), "\uFFFD"))
	vote.Shown = r.PostForm.Get("shown")
	vote.Approve = do == doApprove || do == doOnce || do == doBreak || do == doJustified
	vote.Once, vote.BreakGlass = do == doOnce, do == doBreak
	_, err := p.act(r, s, id, do, vote)
	if errors.Is(err, errHidden) {
		p.refuse(r.Context(), "", vote, fmt.Errorf("%w: %.64q", approval.ErrUnknown, id))
		p.unknown(w, r, s)
		return
	}
	if err == nil {
		// To the page anew, so that loading it again sends nothing twice.
		http.Redirect(w, r, "/approvals/"+id, http.StatusSeeOther)
		return
	}
	p.refuse(r.Context(), id, vote, err)
	p.showApproval(w, r, s, statusOf(err), func(b *sight) {
		b.Notice, b.Bad, b.Typed, b.TypedFor = sayTo(err, b.A), true, vote.Reason, do
		if errors.Is(err, errOld) || errors.Is(err, approval.ErrStaleLogin) || errors.Is(err, approval.ErrACR) {
			b.SignIn = signInURL("/approvals/"+b.A.ID, true)
		}
	})
}

// errHidden: there is no such approval, or it is not for this person to see.
var errHidden = errors.New("no approval that concerns this person")

// act does what the form asks for.
func (p *Page) act(r *http.Request, s session, id, do string, vote approval.Vote) (approval.Approval, error) {
	// Whoever leaves now has decided all the same: cut off between the store and
	// the record, the vote would be in the one and not in the other.
	ctx := context.WithoutCancel(r.Context())
	a, err := p.Book.Get(ctx, id)
	if errors.Is(err, approval.ErrUnknown) {
		return a, errHidden
	}
	if err != nil {
		return a, err
	}
	v, err := p.viewer(ctx, s)
	switch {
	case err != nil:
		return a, err
	case v.policy == nil:
		return a, fmt.Errorf("%w: no policy is in force", approval.ErrStale)
	case !v.concerned(a):
		return a, errHidden
	case utf8.RuneCountInString(vote.Reason) > maxReason:
		return a, fmt.Errorf("%w: one of at most %d characters", approval.ErrReason, maxReason)
	}
	switch do {
	case doWithdraw: // whoever asked may take it back: no fresh sign-in, no reason
		return a, p.Book.WithdrawBy(ctx, id, v.subject, firstOf(vote.Reason, "withdrawn by who asked"))
	case doApprove, doOnce, doDeny, doBreak, doRevoke, doJustified, doUnjustified:
	default:
		return a, errForm
	}
	switch {
	case !s.fresh(v.now):
		return a, errOld
	case do == doRevoke:
		return p.Book.Revoke(ctx, id, vote, v.policy)
	case do == doJustified, do == doUnjustified:
		return p.Book.ReviewBy(ctx, id, vote, v.policy)
	}
	return p.Book.Vote(ctx, id, vote, v.policy)
}

func statusOf(err error) int {
	switch {
	case errors.Is(err, approval.ErrDecided), errors.Is(err, approval.ErrExpired), errors.Is(err, approval.ErrStale), errors.Is(err, approval.ErrShown), errors.Is(err, approval.ErrDuplicate),
		errors.Is(err, approval.ErrNotApproved), errors.Is(err, approval.ErrNoReview):
		return http.StatusConflict
	case errors.Is(err, approval.ErrReason), errors.Is(err, errForm):
		return http.StatusBadRequest
	case unforeseen(err), errors.Is(err, approval.ErrUnrecorded):
		return http.StatusServiceUnavailable
	}
	return http.StatusForbidden
}
