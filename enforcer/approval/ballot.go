package approval

import (
	"time"

	"countersign/rules"
)

// The doors a vote can come through.
const (
	ViaSlack = rules.ViaSlack
	ViaOIDC  = rules.ViaOIDC // the approval page, or the command line by way of it
	// ViaOperator is the operator's own command line on the machine. It revokes
	// and withdraws; it can never vote.
	ViaOperator = "operator"
)

// How a Slack user was found to be a subject.
const (
	LinkedPolicy = "policy" // approvers.yaml says so
	LinkedLogin  = "login"  // they signed in themselves, from a link in Slack
	LinkedEmail  = "email"  // Slack has an address of them that policy has of a person
)

// MaxAuthAge is how long ago, at the moment of a vote, its voter may have
// authenticated (the ID token's auth_time), where the vote is given by signing
// in. MaxAuthAhead is how far an issuer's clock may be ahead.
const (
	MaxAuthAge   = 5 * time.Minute
	MaxAuthAhead = time.Minute
)

// Vote is one person's answer. The caller fills in Approve, Reason, Once,
// BreakGlass, Via, Shown, and who:
//
//   - ViaSlack: Slack. Vote finds out itself whom that Slack user is (Issuer,
//     Sub and Linked); where the caller has filled in Issuer and Sub, from
//     Book.Voter, they must still be the same.
//   - ViaOIDC: Issuer, Sub and Login, from a verified ID token.
//
// The rest is Vote's to fill in.
type Vote struct {
	Person     string      `json:"person"` // name in the policy; "": a member by a group of the issuer whom policy does not name
	Issuer     string      `json:"issuer"`
	Sub        string      `json:"sub"`
	Email      string      `json:"email,omitempty"` // of whom policy does not name, as the issuer has it
	Sets       []string    `json:"sets"`            // approver sets that the vote counts for; with BreakGlass: break-glass sets
	Approve    bool        `json:"approve"`
	Reason     string      `json:"reason,omitempty"`      // required to deny, and to break the glass
	Once       bool        `json:"once,omitempty"`        // approve one call only, though the rules grant a window
	BreakGlass bool        `json:"break_glass,omitempty"` // approve alone, as a member of a break-glass set; implies Once
	Via        string      `json:"via"`                   // ViaSlack or ViaOIDC
	At         time.Time   `json:"at"`
	Linked     string      `json:"linked,omitempty"` // ViaSlack: LinkedPolicy, LinkedLogin or LinkedEmail
	Slack      *SlackProof `json:"slack,omitempty"`
	Login      *LoginProof `json:"login,omitempty"`

	// Shown is Approval.Shows of what the voter looked at. An approving vote
	// whose Shown is not the approval's present one is refused: ErrShown.
	Shown string `json:"shown,omitempty"`

	Waited time.Duration `json:"waited_ns,omitempty"` // from asking to this vote, in nanoseconds
}

// Who is the voter for people to read: the policy's name, or else the issuer's.
func (v Vote) Who() string {
	switch {
	case v.Person != "":
		return v.Person
	case v.Email != "":
		return v.Email
	}
	return v.Sub
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

// LoginProof ties a vote to the sign-in by which it was given.
type LoginProof struct {
	ID       string    `json:"id"`               // Login.ID
	ACR      string    `json:"acr,omitempty"`    // of the ID token
	AMR      []string  `json:"amr,omitempty"`    // of the ID token
	AuthTime time.Time `json:"auth_time"`        // of the ID token
	At       time.Time `json:"at"`               // when the ID token was received
	Source   string    `json:"source,omitempty"` // IP address that it was given from
	Door     string    `json:"door,omitempty"`   // "page" or "cli"
}

// Proof is what a vote given right after the login holds of it.
func (l Login) Proof(source, door string) *LoginProof {
	return &LoginProof{ID: l.ID, ACR: l.ACR, AMR: l.AMR, AuthTime: l.AuthTime, At: l.At, Source: source, Door: door}
}
