package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Schema is the version of the entries that this package writes, and of their
// published JSON Schema (entry.schema.json). Entries of version 1,
// which had fewer members, are entries of version 2 as they are.
const Schema = 2

// Kind says what an entry tells about.
type Kind string

// The kinds of entries.
const (
	KindStart      Kind = "start"       // first of an incarnation; Detail is a Start
	KindStop       Kind = "stop"        // orderly end
	KindIntent     Kind = "intent"      // a request is about to be forwarded
	KindOutcome    Kind = "outcome"     // what became of it
	KindRefused    Kind = "refused"     // a request that is not forwarded
	KindAuthFailed Kind = "auth-failed" // authentication failed (aggregated)
	KindApproval   Kind = "approval"    // an approval changed state; Detail is the approval
	KindVote       Kind = "vote"        // a vote that did not count, and why
	KindLogin      Kind = "login"       // somebody who may approve signed in, or was linked to a Slack user or unlinked: see Status
	KindCredential Kind = "credential"  // minted, renewed, revoked; read and forgotten
	KindPolicy     Kind = "policy"      // accepted, rejected, reset
	KindOpen       Kind = "open"        // a stream to the client begins
	KindSegment    Kind = "segment"     // events of a stream since the last segment
	KindClose      Kind = "close"       // a stream has ended, after its last segment
	KindRecovered  Kind = "recovered"   // closed by a later incarnation
	KindAnchor     Kind = "anchor"      // another log's checkpoint, or this one's, cosigned late; Detail is an Anchor
	KindKey        Kind = "key"         // a key of the record was replaced by another
	KindRolled     Kind = "rolled"      // the log goes on in another repository
	KindUnrecorded Kind = "unrecorded"  // what was refused while the journal had no room; Detail is an Unrecorded
	KindErased     Kind = "erased"      // bodies were dropped, and why
	KindFreeze     Kind = "freeze"      // frozen, unfrozen, standing (again, so that it is found) or refused; Call is the freeze's id, Detail holds the freeze
	// KindToolChanged: a server offers a tool that is not as tools.lock has it,
	// noticed for the first time; it is hidden, and calls of it are refused.
	KindToolChanged Kind = "tool-changed"
)

// What Status says of an outcome.
const (
	StatusOK        = "ok"
	StatusError     = "error"
	StatusBlocked   = "blocked"
	StatusCancelled = "cancelled"
	StatusRefused   = "refused"
	StatusUnknown   = "unknown"
	StatusNotRun    = "not-run"
	StatusFrozen    = "frozen" // refused, or cut off, by a freeze; of a freeze: it was set
	StatusUnfrozen  = "unfrozen"
	StatusStanding  = "standing"
)

const (
	// MaxLine bounds an encoded entry: 2^16-1 bytes, what an entry bundle of
	// c2sp.org/tlog-tiles could carry.
	MaxLine = 1<<16 - 1
	// MaxArgs bounds the previews, of the arguments and of the result; a longer
	// one is cut.
	MaxArgs = 2048
	// MaxTrace bounds the steps of a trace.
	MaxTrace = 32

	cut = "…" // the end of a preview that was cut
)

// ErrEntry is returned for an entry that cannot be recorded as it is.
var ErrEntry = errors.New("entry cannot be recorded")

// Entry is one line of the record: metadata, a masked preview and digests,
// never a body. Its encoding is specified at appendBody.
type Entry struct {
	Seq        uint64    // position in the incarnation's tree, from 0; set by Append
	Time       time.Time // UTC, microseconds; never decreases; set by Append
	Kind       Kind
	Call       string
	Policy     string // commit that decided
	Issuer     string
	Sub        string
	Client     string
	Holder     string // keyed digest that names (issuer, sub, client, server, credential)
	Session    string // keyed digest of the MCP session's id, which is no name but a secret
	Server     string
	Method     string
	Tool       string
	Resource   string
	Effect     string
	Rules      []string
	Trace      []Step // every rule that matched or failed, at most MaxTrace
	Reason     string
	Approval   string
	Credential string // its name in the policy, never its value
	Lease      string // by which the lease can be found where it was minted, never a value
	Args       string // masked preview, at most MaxArgs bytes
	Result     string // masked preview of the answer, at most MaxArgs bytes
	Digest     string // keyed digest of the canonical params
	Status     string
	Millis     float64 // to the microsecond
	Timings    []Timing
	Masked     []Masked
	Splices    []Splice
	Bytes      int64
	Bodies     []BodyRef       // set by Append
	Detail     json.RawMessage // an object, specific to the kind
}

// Step is a rule's part in a decision.
type Step struct {
	Rule   string `json:"rule"`
	Effect string `json:"effect"`        // deny, approve, allow; empty: the rule could not be evaluated, and had none
	Why    string `json:"why,omitempty"` // what it found, or why it failed
}

// Timing is how long a part of a call took: "wait" for people, "credential",
// "upstream", "mask", "record".
type Timing struct {
	Part   string  `json:"part"`
	Millis float64 `json:"ms"` // to the microsecond
}

// Splice is a place where what was forwarded differs from what was decided,
// never what stands there.
type Splice struct {
	What  string `json:"what"` // for instance "credential", "prefix", "header"
	Where string `json:"where"`
}

// BodyRef says what became of a masked body. Its digest is salted with 32
// bytes. Where the body is kept, they are random and kept with it alone: when
// both are erased, it says nothing about what the body was. Else see Salts.
type BodyRef struct {
	Of     string `json:"of"`               // "request", "response", "segment"
	Size   int64  `json:"size"`             // of the whole masked body, in bytes
	Digest string `json:"digest,omitempty"` // "sha256:" and hex of SHA-256(salt ‖ body)
	Kept   string `json:"kept"`             // KeptFull, KeptDigest or KeptOver
}

// What Kept says of a body.
const (
	KeptFull   = "full"   // it is on the branch for bodies, until retention or an erasure
	KeptDigest = "digest" // the policy keeps none
	KeptOver   = "over"   // it is larger than what is kept
)

// Masked counts what one detector masked at one place, never what it was.
type Masked struct {
	Detector string `json:"detector"`
	Place    string `json:"place"`
	Count    int    `json:"count"`
}

// Start is the detail of an incarnation's first entry.
type Start struct {
	Enforcer    string `json:"enforcer"`
	Incarnation string `json:"incarnation"`
	// Schema is the version of the entries that follow. None: 1.
	Schema int `json:"schema,omitempty"`
	// Previous is the last checkpoint of the incarnation before this one on
	// the same state directory: an anchor, by which a cut tail shows. Empty:
	// there was none.
	Previous string `json:"previous,omitempty"`
	// Torn counts bytes at the end of the previous incarnation's journal that
	// made no entry: written, never acknowledged, when it died.
	Torn int64 `json:"torn,omitempty"`
	// Salts names the key that the salts of bodies that are not kept come of.
	// Empty: they are thrown away.
	Salts string `json:"salts,omitempty"`
	// Version and Config may say what started.
	Version string `json:"version,omitempty"`
	Config  string `json:"config,omitempty"`
}

// Anchor is the detail of a KindAnchor entry: another log's newest
// checkpoint, as this enforcer saw it; or this log's own, with cosignatures that
// came after it was published.
type Anchor struct {
	Checkpoint string `json:"checkpoint"`
	// Commit is the one that carried it: the branch must descend from it.
	Commit string `json:"commit,omitempty"`
	// Repo is the repository that it was seen in, where there may be several.
	Repo string `json:"repository,omitempty"`
}

// Facts is what a policy may ask about a request and the entry's own members
// do not hold. An intent or refusal that carries them under "facts" in its
// detail can be decided again; see Replay.
type Facts struct {
	Email      string         `json:"email,omitempty"`
	Groups     []string       `json:"groups,omitempty"`
	Claims     map[string]any `json:"claims,omitempty"`
	Source     string         `json:"source,omitempty"`
	FromServer bool           `json:"from_server,omitempty"`
}

// Detail encodes a kind's detail.
func Detail(v any) (json.RawMessage, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("%w: detail: %v", ErrEntry, err)
	}
	return b, nil
}

// checkName tells whether s may stand in an origin, a branch name and a path.
func checkName(what, s string) error {
	ok := len(s) > 0 && len(s) <= 64 && !strings.Contains(s, "..") &&
		!strings.HasSuffix(s, ".lock") && !strings.HasSuffix(s, ".")
	for i, r := range s {
		ok = ok && (r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || i > 0 && (r == '-' || r == '.' || r == '_'))
	}
	if !ok {
		return fmt.Errorf("%s %q: use 1 to 64 of a-z, 0-9, and inside also - . _", what, s)
	}
	return nil
}
