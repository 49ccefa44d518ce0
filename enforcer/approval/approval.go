// Package approval keeps the questions that policy puts to people, and their
// answers.
//
// It promises:
//
//   - An approval is for one thing: the holder, server, method, tool, digest of
//     the canonical arguments and digest of the asking rules that it was asked
//     for. Spend checks the digests again.
//   - It is spent at most once, by compare-and-swap, and never after its expiry.
//   - Nobody approves their own request. One person counts once. A denial ends
//     it. Expiry is a denial.
//   - What could not be shown in full cannot be approved by a button.
//   - Every change goes to the Record hook after it is in the store. A vote or
//     a spending that cannot be recorded gives no permission.
//
// What an approval is made of is one JSON document in the store under
// "a.<id>"; see Approval. Under "live.<key>" is the newest approval for one
// key, so that an identical retry finds it; see Book.Ask.
package approval

import (
	"errors"
	"time"

	"countersign/rules"
)

// State is where an approval stands. Only Pending and Approved ever change.
type State string

// The states. Pending becomes Approved, Denied, Expired or Withdrawn; Approved
// becomes Spent, Expired or Withdrawn.
const (
	Pending   State = "pending"
	Approved  State = "approved"
	Denied    State = "denied"
	Expired   State = "expired"
	Withdrawn State = "withdrawn"
	Spent     State = "spent"
)

// Ended tells whether nothing can come of it any more.
func (s State) Ended() bool { return s != Pending && s != Approved }

// The doors a vote can come through.
const (
	ViaSlack = "slack"
	ViaOIDC  = "oidc"
)

// Request is what is asked, and on whose behalf.
type Request struct {
	Subject  rules.Subject `json:"subject"` // issuer, sub and e-mail only: Ask drops the rest
	Client   string        `json:"client"`
	Server   string        `json:"server"`
	Method   string        `json:"method"`
	Tool     string        `json:"tool,omitempty"`
	Resource string        `json:"resource,omitempty"`
	Holder   string        `json:"holder"`
	Digest   string        `json:"digest"` // of the canonical arguments; and of what Vault is asked, where that depends on the caller's token

	// Args is the request as a person reads it, masked; never empty of meaning:
	// Partial says that something in it was masked or left out.
	Args    string `json:"args"`
	Partial bool   `json:"partial,omitempty"`

	Asks        []rules.Ask   `json:"asks"`
	Trace       []rules.Match `json:"trace,omitempty"` // for who wants to know why
	RulesDigest string        `json:"rules_digest"`
	Policy      string        `json:"policy"` // commit that asked
	Expires     time.Time     `json:"expires"`
	Call        string        `json:"call"` // the first call that asked
}

// Approval is a Request and what became of it.
type Approval struct {
	ID string `json:"id"`
	Request
	State   State     `json:"state"`
	Created time.Time `json:"created"`
	Ended   time.Time `json:"ended,omitzero"` // when it was denied, expired, withdrawn or spent
	Votes   []Vote    `json:"votes,omitempty"`
	Reason  string    `json:"reason,omitempty"`   // why it was denied or withdrawn
	SpentBy string    `json:"spent_by,omitempty"` // the call that ran on it
	Outcome string    `json:"outcome,omitempty"`  // what became of that call
	Cards   []Card    `json:"cards,omitempty"`
	Rev     uint64    `json:"-"` // the store's revision
}

// Vote is one person's answer. The caller fills in who (Issuer and Sub), what
// and how; Book.Vote fills in Person, Sets and At.
type Vote struct {
	Person  string      `json:"person"` // name in the policy
	Issuer  string      `json:"issuer"`
	Sub     string      `json:"sub"`
	Sets    []string    `json:"sets"` // approver sets that the vote counts for
	Approve bool        `json:"approve"`
	Reason  string      `json:"reason,omitempty"`
	Via     string      `json:"via"`
	At      time.Time   `json:"at"`
	Slack   *SlackProof `json:"slack,omitempty"`
}

// SlackProof ties a vote to what Slack sent.
type SlackProof struct {
	Team        string `json:"team"`
	User        string `json:"user"`
	Channel     string `json:"channel,omitempty"`
	MessageTS   string `json:"message_ts,omitempty"`
	ActionTS    string `json:"action_ts,omitempty"`
	PayloadHash string `json:"payload_hash"` // "sha256:" and hex, over the payload as received
}

// Card is where an approver set was shown the approval.
type Card struct {
	Set     string `json:"set"`
	Channel string `json:"channel"`
	TS      string `json:"ts,omitempty"` // empty while somebody is posting it

	// Claimed and By say who posts the card, and since when: a bot posts only
	// what it has claimed, so that two never post the same.
	Claimed time.Time `json:"claimed,omitzero"`
	By      string    `json:"by,omitempty"`

	Shown string `json:"shown,omitempty"` // digest of what the card shows
}

// Card returns the card of the approver set.
func (a Approval) Card(set string) (Card, bool) {
	for _, c := range a.Cards {
		if c.Set == set {
			return c, true
		}
	}
	return Card{}, false
}

// Events name the changes that Record is told of.
const (
	EventAsked     = "asked"
	EventVoted     = "voted" // an approving vote that the quorum still waits beyond
	EventApproved  = "approved"
	EventDenied    = "denied"
	EventExpired   = "expired"
	EventWithdrawn = "withdrawn"
	EventSpent     = "spent"
	EventFinished  = "finished"
	EventCard      = "card"
)

// Why something was refused. The approval is as it was.
var (
	ErrUnknown     = errors.New("there is no such approval")
	ErrOwnRequest  = errors.New("nobody approves their own request")
	ErrNotApprover = errors.New("not a member of the approver sets that were asked")
	ErrDecided     = errors.New("already decided")
	ErrExpired     = errors.New("the approval has expired")
	ErrPartial     = errors.New("the request could not be shown in full, so a button cannot approve it")
	ErrSignIn      = errors.New("this approver set approves by signing in, not by button")
	ErrDuplicate   = errors.New("this person has approved already; one person counts once")
	ErrStale       = errors.New("the rules that asked, their approver sets, the server or its credential have changed since")
	ErrReason      = errors.New("a denial needs a reason, which the agent is told")
	ErrVote        = errors.New("the vote does not say who gave it and how")
	ErrNotApproved = errors.New("the approval was not given")
	ErrSpent       = errors.New("the approval has been used already; it is good for one call")
	ErrOtherCall   = errors.New("the approval is for other arguments than these")
	ErrRequest     = errors.New("the request for approval is incomplete")
	ErrUnrecorded  = errors.New("it could not be recorded, so it does not count")
)
