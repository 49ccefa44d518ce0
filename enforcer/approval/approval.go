// Package approval keeps the questions that policy puts to people, and their
// answers.
//
// It promises:
//
//   - An approval is for one thing: the holder, server, method, tool, digest of
//     the canonical arguments and digest of the asking rules that it was asked
//     for. Spend checks them again.
//   - It is spent at most once, by compare-and-swap, and never after its expiry;
//     or, where the asking rules grant a window, used within that window and its
//     scope only, each use counted and recorded.
//   - Nobody approves their own request, nor that of a service identity for which
//     they answer. One person counts once, under however many identities. A denial
//     ends it. Expiry is a denial.
//   - What could not be shown in full cannot be approved by a button, and nobody
//     approves another thing than what they were shown.
//   - Every change goes to the Record hook after it is in the store. A vote or
//     a spending that cannot be recorded gives no permission. A login or a link is
//     recorded before it is in the store.
//
// What an approval is made of is one JSON document in the store under
// "a.<id>"; see Approval. Under "live.<key>" is the newest approval for one
// request, so that an identical retry finds it, and under "win.<key>" the newest
// window that covers it; see Book.Ask.
package approval

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"regexp"
	"slices"
	"time"

	"countersign/rules"
)

// State is where an approval stands. Only Pending and Approved ever change.
type State string

// The states. Pending becomes Approved, Denied, Expired or Withdrawn; Approved
// becomes Spent, Expired, Withdrawn or Revoked. Asked for again under changed
// rules, Approved may become Pending again, before anything ran on it.
const (
	Pending   State = "pending"
	Approved  State = "approved"
	Denied    State = "denied"
	Expired   State = "expired"
	Withdrawn State = "withdrawn"
	Spent     State = "spent"
	Revoked   State = "revoked"
)

// Ended tells whether nothing can come of it any more.
func (s State) Ended() bool { return s != Pending && s != Approved }

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
	// Cut says that part of it is not here at all, rather than masked: it was too
	// long to be kept, or could not be masked. Nobody can see it, so nobody
	// approves it, through whatever door. Cut implies Partial.
	Cut  bool     `json:"cut,omitempty"`
	Does []string `json:"does,omitempty"` // in words, what SQL and shell in the arguments do

	Asks        []rules.Ask   `json:"asks"`
	Trace       []rules.Match `json:"trace,omitempty"` // for who wants to know why
	RulesDigest string        `json:"rules_digest"`
	Policy      string        `json:"policy"` // commit that asked
	Expires     time.Time     `json:"expires"`
	Call        string        `json:"call"`           // the first call that asked
	Task        string        `json:"task,omitempty"` // id of the MCP task that waits; "": none

	Grant rules.Grant `json:"grant,omitzero"` // what it is good for, once approved
}

// Approval is a Request and what became of it.
type Approval struct {
	ID string `json:"id"`
	Request
	State   State     `json:"state"`
	Created time.Time `json:"created"`
	Ended   time.Time `json:"ended,omitzero"` // when it was denied, expired, withdrawn, revoked or spent
	Votes   []Vote    `json:"votes,omitempty"`
	Reason  string    `json:"reason,omitempty"`   // why it was denied, withdrawn or revoked
	SpentBy string    `json:"spent_by,omitempty"` // the call that ran on it
	Outcome string    `json:"outcome,omitempty"`  // what became of that call
	Cards   []Card    `json:"cards,omitempty"`

	// Unasked is why a set could not be asked, by its name: its channel refuses
	// us, say. What it says of a set whose card is there is over.
	Unasked map[string]string `json:"unasked,omitempty"`

	// Of a window: Until is its end, set when it is approved (zero: the approval
	// is good for one call), Uses counts the calls that ran on it, LastUse is
	// when the newest did, and Calls are the newest of them and those that have
	// not ended; see Spend.
	Until   time.Time `json:"until,omitzero"`
	Uses    int       `json:"uses,omitempty"`
	LastUse time.Time `json:"last_use,omitzero"`
	Calls   []Use     `json:"calls,omitempty"`

	Renewals []Renewal `json:"renewals,omitempty"` // the newest, oldest first
	Review   *Review   `json:"review,omitempty"`   // of an approval by a broken glass; see NeedsReview
	Revoked  *Vote     `json:"revoked,omitempty"`  // who revoked it; nil: nobody, or a change of policy
	Gone     time.Time `json:"gone,omitzero"`      // since when the caller no longer waits; zero: it does
	Reminded time.Time `json:"reminded,omitzero"`  // when the approvers were reminded

	Rev   uint64 `json:"-"` // the store's revision
	About string `json:"-"` // for Record: the call that the event is about, of EventSpent, EventUsed and EventFinished
}

// Use is one call that ran on a window.
type Use struct {
	Call    string    `json:"call"`
	At      time.Time `json:"at"`
	Outcome string    `json:"outcome,omitempty"` // "": it runs, as far as is known
}

// Renewal tells that the request was asked again under changed rules, in place:
// the votes of the sets in Kept stand, since what they approved has not changed;
// those of the sets in Dropped do not.
type Renewal struct {
	At      time.Time `json:"at"`
	Policy  string    `json:"policy"` // commit that asks now
	Kept    []string  `json:"kept,omitempty"`
	Dropped []string  `json:"dropped,omitempty"`
}

// Review is what somebody else found, afterwards, of a broken glass.
type Review struct {
	Person    string      `json:"person"` // as in Vote
	Issuer    string      `json:"issuer"`
	Sub       string      `json:"sub"`
	Email     string      `json:"email,omitempty"` // as in Vote
	Justified bool        `json:"justified"`
	Note      string      `json:"note"`
	At        time.Time   `json:"at"`
	Login     *LoginProof `json:"login,omitempty"`
}

// Shows is the digest of what somebody who looks at the approval is shown: what
// is to run, and which rules ask. A vote names the one that its voter saw
// (Vote.Shown), and counts only while it is the same.
func (a Approval) Shows() string {
	return "sha256:" + hex.EncodeToString(hashed("shows", a.ID, a.Digest, a.RulesDigest))
}

var shownForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// hashed is SHA-256 over the parts, each preceded by its length, so that no two
// lists of parts spell the same.
func hashed(parts ...string) []byte {
	h := sha256.New()
	for _, part := range parts {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(part)))
		h.Write(n[:])
		h.Write([]byte(part))
	}
	return h.Sum(nil)
}

// Ends is when the approval ends by itself: its window's end once that is open,
// its expiry before.
func (a Approval) Ends() time.Time {
	if a.State == Approved && !a.Until.IsZero() {
		return a.Until
	}
	return a.Expires
}

// Window tells whether it is a window in force: calls may run on it until Until.
func (a Approval) Window(now time.Time) bool {
	return a.State == Approved && now.Before(a.Until)
}

// BrokenGlass returns the vote by which somebody of a break-glass set approved
// alone.
func (a Approval) BrokenGlass() (Vote, bool) {
	i := slices.IndexFunc(a.Votes, func(v Vote) bool { return v.Approve && v.BreakGlass })
	if i < 0 {
		return Vote{}, false
	}
	return a.Votes[i], true
}

// NeedsReview tells whether somebody broke the glass and nobody has reviewed it
// yet. Such an approval is kept, and listed, until somebody does.
func (a Approval) NeedsReview() bool {
	_, broken := a.BrokenGlass()
	return broken && a.Review == nil
}

// Card is where an approver set was shown the approval, or told something about
// it: then Set is followed by a slash and what it was. Without TS and By it is a
// card that somebody wants to see.
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
	EventUsed      = "used"        // of a window, by the call that About names
	EventRenewed   = "renewed"     // asked again under changed rules; what Renewals' last says
	EventGlass     = "break-glass" // an approving vote by a broken glass, whether or not others still have to approve
	EventReviewed  = "reviewed"
	EventRevoked   = "revoked"
	EventLeft      = "left"     // the caller no longer waits
	EventBack      = "back"     // it waits again
	EventReminded  = "reminded" // the approvers were, shortly before it expires
)
