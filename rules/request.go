package rules

import (
	"slices"
	"time"
)

// Subject is the person (or service) on whose behalf a request is made, as a
// verified token names it.
type Subject struct {
	Issuer string         // the token's iss, an URL
	Sub    string         // the token's sub, opaque, unique within Issuer
	Email  string         // may be empty; never an identity by itself
	Groups []string       // from the claim that the operator named
	Claims map[string]any // every other claim, as decoded JSON
}

// Key names the subject uniquely over all issuers: issuer, "#", sub.
func (s Subject) Key() string { return s.Issuer + "#" + s.Sub }

// Request is what a policy decides about: one JSON-RPC message, seen as it
// will be forwarded.
type Request struct {
	Subject    Subject
	Client     string    // the token's client_id or azp, never clientInfo
	Server     string    // the policy's name of the upstream
	Method     string    // the JSON-RPC method
	Tool       string    // tools/call and prompts/get: params.name; completion/complete: the prompt of params.ref
	Resource   string    // resources/*: params.uri; completion/complete: the resource of params.ref
	Source     string    // the caller's IP address
	Args       []byte    // params.arguments as received, strict JSON; nil if absent
	FromServer bool      // the upstream asks the client: sampling, elicitation, roots
	Now        time.Time // the moment of the decision: time is a fact, passed in
}

// Effect is what a rule, and in the end a decision, does to a request.
type Effect string

// The effects, from the most restrictive to the least.
const (
	Deny    Effect = "deny"
	Approve Effect = "approve"
	Allow   Effect = "allow"
)

// Match tells what became of one rule that named the request's server, method
// and tool.
type Match struct {
	Rule    string `json:"rule"`
	File    string `json:"file"`
	Line    int    `json:"line"`
	Effect  Effect `json:"effect"`
	Matched bool   `json:"matched"`
	Err     string `json:"err,omitempty"` // why its condition could not be evaluated; may quote arguments: mask it as they are masked
	Reason  string `json:"reason,omitempty"`
	// Found is what exposes_credentials() and exposures() told its condition: words and ids of
	// the catalogue, and where in the request. They quote no argument.
	Found []string `json:"found,omitempty"`
}

// Ask is one rule's demand for approval.
type Ask struct {
	Rule      string `json:"rule"`
	Reason    string `json:"reason"`
	File      string `json:"file"`
	Line      int    `json:"line"`
	Approvers string `json:"approvers"` // name of the approver set
	Quorum    int    `json:"quorum"`    // distinct people of that set

	Via string   `json:"via,omitempty"` // ViaSlack or ViaOIDC: the stricter of what the rule and the set say
	ACR []string `json:"acr,omitempty"` // of a login by which the set approves; none: any
	// BreakGlass is the set any member of which may approve in place of this
	// one, alone; "": none.
	BreakGlass string `json:"break_glass,omitempty"`
	// Digest is over this rule, this set and the people in it, the break-glass
	// set, who is barred, and what the call goes to and with. A vote of the set
	// stands as long as it is the same.
	Digest string `json:"digest,omitempty"`
}

// How far a window reaches beyond the call that it was asked for.
const (
	ScopeExact  = "exact"  // identical calls only
	ScopeTool   = "tool"   // the same tool, with any arguments for which the same rules ask
	ScopeServer = "server" // anything on the same server for which the same rules ask
)

// scopes are ordered from the narrowest to the widest.
var scopes = []string{ScopeExact, ScopeTool, ScopeServer}

// Grant is what an approval is good for: one call, or a window of time.
type Grant struct {
	For   time.Duration `json:"for_ns,omitempty"` // nanoseconds from the approval on; 0: one call
	Scope string        `json:"scope,omitempty"`  // of a window
}

// Narrowest is what both grant.
func (g Grant) Narrowest(other Grant) Grant {
	if g.For == 0 || other.For == 0 {
		return Grant{}
	}
	return Grant{For: min(g.For, other.For), Scope: scopes[min(slices.Index(scopes, g.Scope), slices.Index(scopes, other.Scope))]}
}

// String is "once", or for instance "1h, tool".
func (g Grant) String() string {
	if g.For == 0 {
		return "once"
	}
	return brevity(g.For) + ", " + g.Scope
}

// Decision is the whole answer of a policy to a request. It is total: there
// is nothing left for the caller to work out or to get wrong.
type Decision struct {
	Effect      Effect        `json:"effect"`
	Reason      string        `json:"reason"`             // words that the agent can act on; may hold a Match's Err
	Baseline    bool          `json:"baseline,omitempty"` // open by the protocol's baseline
	Trace       []Match       `json:"trace"`
	Asks        []Ask         `json:"asks,omitempty"`
	Expires     time.Duration `json:"expires,omitempty"`      // of the approval; the shortest that a matched rule asks
	Grant       Grant         `json:"grant,omitzero"`         // the narrowest of what the asking rules grant
	RulesDigest string        `json:"rules_digest,omitempty"` // "sha256:" + hex over the asking rules, their approver sets, the server's address and the credential
	Credential  string        `json:"credential,omitempty"`   // name; empty: none
	MaskArgs    bool          `json:"mask_args,omitempty"`    // the arguments go to the upstream masked
	Record      string        `json:"record,omitempty"`       // RecordFull or RecordDigest: what is kept of its bodies
	Policy      string        `json:"policy"`                 // commit of the policy that decided
}

// RuleIDs lists the matched rules that made the effect, in the trace's order.
func (d Decision) RuleIDs() []string {
	var ids []string
	for _, m := range d.Trace {
		if m.Matched && m.Effect == d.Effect {
			ids = append(ids, m.Rule)
		}
	}
	return ids
}
