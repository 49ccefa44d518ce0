package bot

import (
	"errors"
	"strings"

	"countersign/enforcer/approval"
	"countersign/enforcer/approval/tell"
)

// words is what a presser is told, alone, of a press that did not count: what is
// wrong, and what to do.
func (b *Bot) words(err error, a approval.Approval) string {
	switch {
	case errors.Is(err, approval.ErrOwnRequest):
		return "This is your own request: somebody else has to decide it."
	case errors.Is(err, approval.ErrOwner):
		return "You answer for the service identity that asks (owners in approvers.yaml), so somebody else has to approve it. You may deny it."
	case errors.Is(err, approval.ErrUnlinked):
		return "Your Slack user is not linked to anybody in approvers.yaml, so your press does not count." + b.linkHint()
	case errors.Is(err, approval.ErrLinked):
		return "approvers.yaml links the person you signed in as to another Slack user, so your press does not count."
	case errors.Is(err, approval.ErrStaleLogin):
		return "Your last sign-in is too long ago to go by, so your press does not count. Sign in again, then press again: " + b.page("/sign-in")
	case errors.Is(err, approval.ErrNotApprover):
		return "You are not a member of the approver set that is asked, so your press does not count."
	case errors.Is(err, approval.ErrDuplicate):
		return "You have approved this already; it counts once. It waits for others."
	case errors.Is(err, approval.ErrExpired):
		return "This has expired; nothing ran. The agent may ask again."
	case errors.Is(err, approval.ErrDecided):
		return "This is decided already: " + tell.Join(tell.Standing(a), " · ") + "."
	case errors.Is(err, approval.ErrPartial):
		return "This request could not be shown in full, so it cannot be approved by a button." + b.elsewhere(a) + " You can deny it here."
	case errors.Is(err, approval.ErrSignIn), errors.Is(err, approval.ErrACR), errors.Is(err, approval.ErrGlass):
		return "This approver set approves by signing in, not by a button." + b.elsewhere(a)
	case errors.Is(err, approval.ErrShown):
		return "What is asked has changed since you were shown it: this card changed, look again. Your press does not count."
	case errors.Is(err, approval.ErrStale):
		return "The rules that ask for this approval, or the server or its credential, have changed since. The agent has to ask again; this card cannot be approved any more."
	case errors.Is(err, approval.ErrReason):
		return "A denial needs a reason, which the agent is told. Press Deny again."
	case errors.Is(err, approval.ErrUnknown), errors.Is(err, errForged):
		return "This button does not belong to any request that is open."
	case errors.Is(err, approval.ErrUnrecorded):
		return "Your vote could not be recorded, so it does not count, and the request was withdrawn."
	case errors.Is(err, errModal):
		return "Slack did not open the dialog. Press again."
	case errors.Is(err, errShown):
		return "Its card is in the channel already, or on its way there."
	case errors.Is(err, errNowhere):
		return "The policy names no channel for that approver set, so there is no card of it."
	case errors.Is(err, errEarly):
		return "No policy is in force yet, so nothing counts. The service has a problem; press again in a moment."
	}
	return "Your press could not be counted: the service has a problem. Press again in a moment."
}

// page is an address of the approval page.
func (b *Bot) page(path string) string {
	if b.PublicURL == "" {
		return "on the approval page"
	}
	return strings.TrimSuffix(b.PublicURL, "/") + "/approvals" + path
}

// elsewhere says where else it can be approved.
func (b *Bot) elsewhere(a approval.Approval) string {
	if b.PublicURL == "" || a.ID == "" {
		return ""
	}
	return " Open it here: " + tell.PageLink(b.PublicURL, a.ID)
}

// linkHint tells of /countersign link, where policy lets people link themselves.
func (b *Bot) linkHint() string {
	if p := b.Policy(); p == nil || !p.Links().Login || b.Desk.Link == nil {
		return ""
	}
	return " You can link it yourself, by signing in: /countersign link"
}
