package approval

import "errors"

// Why something was refused. The approval is as it was.
var (
	ErrUnknown     = errors.New("there is no such approval")
	ErrOwnRequest  = errors.New("nobody approves their own request")
	ErrOwner       = errors.New("whoever answers for a service identity does not approve what it asks")
	ErrNotApprover = errors.New("not a member of the approver sets that were asked")
	ErrDecided     = errors.New("already decided")
	ErrExpired     = errors.New("the approval has expired")
	ErrPartial     = errors.New("the request could not be shown in full, so it cannot be approved here")
	ErrSignIn      = errors.New("this approver set approves by signing in, not by button")
	ErrStaleLogin  = errors.New("the last sign-in is too long ago: sign in again")
	ErrACR         = errors.New("the sign-in was not strong enough") // the error's text says which acr are wanted
	ErrDuplicate   = errors.New("this person has approved already; one person counts once")
	ErrStale       = errors.New("the rules that asked, their approver sets, the server or its credential have changed since")
	ErrShown       = errors.New("what is asked has changed since it was shown: look at it again")
	ErrReason      = errors.New("a reason is needed") // for a denial, which the agent is told; to break the glass; for a review; to revoke
	ErrGlass       = errors.New("no rule that asks lets this person break the glass")
	ErrVote        = errors.New("the vote does not say who gave it and how")
	ErrNotApproved = errors.New("the approval was not given")
	ErrSpent       = errors.New("the approval has been used already; it is good for one call")
	ErrOtherCall   = errors.New("the approval is for another call than this")
	ErrWindow      = errors.New("too many calls run on this window at once")
	ErrNotYours    = errors.New("only who asked can withdraw it")
	ErrNoReview    = errors.New("there is nothing to review: nobody broke the glass, or it was reviewed")
	ErrRequest     = errors.New("the request for approval is incomplete")
	ErrUnrecorded  = errors.New("it could not be recorded, so it does not count")
	ErrUnlinked    = errors.New("this Slack user is linked to nobody")
	ErrLinked      = errors.New("linked otherwise already") // the error's text says how
	ErrNoLogin     = errors.New("nobody of that name has signed in")
	ErrLogin       = errors.New("the login or link is incomplete")
)
