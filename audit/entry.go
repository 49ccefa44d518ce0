package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

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
	KindSegment    Kind = "segment"     // events of a stream since the last segment
	KindRecovered  Kind = "recovered"   // closed by a later incarnation
	KindAnchor     Kind = "anchor"      // another log's checkpoint; Detail is an Anchor
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
	// MaxArgs bounds the preview of the arguments; a longer one is cut.
	MaxArgs = 2048

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
	Server     string
	Method     string
	Tool       string
	Resource   string
	Effect     string
	Rules      []string
	Reason     string
	Approval   string
	Credential string
	Args       string // masked preview, at most MaxArgs bytes
	Digest     string // keyed digest of the canonical params
	Status     string
	Millis     float64 // to the microsecond
	Masked     []Masked
	Bytes      int64
	Detail     json.RawMessage // an object, specific to the kind
}

// Masked counts what one detector masked at one place, never what it was.
type Masked struct {
	Detector string
	Place    string
	Count    int
}

// timeLayout has a fixed width, so that lines sort as their times do.
const timeLayout = "2006-01-02T15:04:05.000000Z"

// appendHead encodes the fields that Append assigns. appendBody follows.
func appendHead(b []byte, seq uint64, t time.Time) []byte {
	b = append(b, `{"seq":`...)
	b = strconv.AppendUint(b, seq, 10)
	b = append(b, `,"time":"`...)
	b = t.UTC().AppendFormat(b, timeLayout)
	return append(b, '"')
}

// appendBody encodes everything after the head, and the closing brace.
//
// An entry is one JSON object (RFC 8259) on one line, without white space
// between tokens, its members in this order, an empty one (but for seq, time
// and kind) left out:
//
//	seq         number  position in the tree, from 0
//	time        string  UTC, YYYY-MM-DDThh:mm:ss.uuuuuuZ
//	kind        string  see Kind
//	call        string  id that the caller was told
//	policy      string  policy commit that decided, hex
//	issuer, sub, client, server, method, tool, resource   strings
//	effect      string  deny, approve, allow
//	rules       array of strings: the rules that made the effect
//	reason      string  what the agent was told
//	approval    string  id of the approval
//	credential  string  name of the credential, never its value
//	args        string  masked preview of the arguments, cut at 2,048 bytes with "…"
//	digest      string  keyed digest of the canonical params
//	status      string  outcome in a word
//	ms          number  duration in milliseconds, at most 3 decimals
//	masked      array of {"detector":string,"place":string,"count":number}
//	bytes       number  size of what was answered
//	detail      object  specific to the kind; compact, no duplicate names
//
// In strings only these are escaped, as \" \\ \n \r \t or \uXXXX in lower
// case: the quotation mark, the backslash, and what could move a cursor, hide
// or reorder text when a person reads the line: U+0000–001F, 007F–009F, 061C,
// 200B–200F, 2028–202E, 2060–2069, FEFF. The list is closed: it does not
// depend on a version of Unicode. (Inside detail, strings stay as given, as
// long as they are valid; raw control characters are not valid JSON.)
//
// A log's leaf (RFC 6962 §2.1) is exactly these bytes, without the line feed
// that ends the line in a file.
func (e *Entry) appendBody(b []byte) ([]byte, error) {
	str := func(name, v string) {
		if v == "" {
			return
		}
		b = append(b, `,"`...)
		b = append(b, name...)
		b = append(b, `":`...)
		b = appendString(b, v)
	}
	if e.Kind == "" {
		return nil, fmt.Errorf("%w: it has no kind", ErrEntry)
	}
	str("kind", string(e.Kind))
	str("call", e.Call)
	str("policy", e.Policy)
	str("issuer", e.Issuer)
	str("sub", e.Sub)
	str("client", e.Client)
	str("server", e.Server)
	str("method", e.Method)
	str("tool", e.Tool)
	str("resource", e.Resource)
	str("effect", e.Effect)
	if len(e.Rules) > 0 {
		b = append(b, `,"rules":[`...)
		for i, r := range e.Rules {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendString(b, r)
		}
		b = append(b, ']')
	}
	str("reason", e.Reason)
	str("approval", e.Approval)
	str("credential", e.Credential)
	str("args", cutArgs(e.Args))
	str("digest", e.Digest)
	str("status", e.Status)
	if ms := math.Round(e.Millis*1000) / 1000; ms != 0 {
		if math.IsNaN(ms) || ms < 0 || ms > 1e12 {
			return nil, fmt.Errorf("%w: duration %v ms", ErrEntry, e.Millis)
		}
		b = append(b, `,"ms":`...)
		b = strconv.AppendFloat(b, ms, 'f', -1, 64)
	}
	if len(e.Masked) > 0 {
		b = append(b, `,"masked":[`...)
		for i, m := range e.Masked {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(b, `{"detector":`...)
			b = appendString(b, m.Detector)
			b = append(b, `,"place":`...)
			b = appendString(b, m.Place)
			b = append(b, `,"count":`...)
			b = strconv.AppendInt(b, int64(m.Count), 10)
			b = append(b, '}')
		}
		b = append(b, ']')
	}
	if e.Bytes != 0 {
		b = append(b, `,"bytes":`...)
		b = strconv.AppendInt(b, e.Bytes, 10)
	}
	if len(e.Detail) > 0 {
		d := jsontext.Value(bytes.Clone(e.Detail))
		if err := d.Compact(jsontext.AllowDuplicateNames(false), jsontext.AllowInvalidUTF8(false)); err != nil {
			return nil, fmt.Errorf("%w: detail: %v", ErrEntry, err)
		}
		if d.Kind() != '{' {
			return nil, fmt.Errorf("%w: detail is not an object", ErrEntry)
		}
		b = append(b, `,"detail":`...)
		b = append(b, d...)
	}
	return append(b, '}'), nil
}

// Encode gives the entry's line, without a line feed.
func (e Entry) Encode() ([]byte, error) {
	b, err := e.appendBody(appendHead(nil, e.Seq, e.Time))
	if err == nil && len(b) > MaxLine {
		return nil, tooLong(len(b))
	}
	return b, err
}

func tooLong(n int) error {
	return fmt.Errorf("%w: its line has %d bytes, more than %d", ErrEntry, n, MaxLine)
}

func cutArgs(s string) string {
	if len(s) <= MaxArgs {
		return s
	}
	s = s[:MaxArgs-len(cut)]
	for len(s) > 0 {
		if r, n := utf8.DecodeLastRuneInString(s); r != utf8.RuneError || n != 1 {
			break
		}
		s = s[:len(s)-1]
	}
	return s + cut
}

// hidden lists what appendString escapes beyond RFC 8259's must.
func hidden(r rune) bool {
	switch {
	case r < 0x20, r >= 0x7f && r <= 0x9f, r == 0x61c,
		r >= 0x200b && r <= 0x200f, r >= 0x2028 && r <= 0x202e,
		r >= 0x2060 && r <= 0x2069, r == 0xfeff:
		return true
	}
	return false
}

func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		if c := s[i]; c < utf8.RuneSelf && c >= 0x20 && c != '"' && c != '\\' && c != 0x7f {
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == '"' || r == '\\':
			b = append(append(b, s[start:i]...), '\\', byte(r))
		case r == '\n':
			b = append(append(b, s[start:i]...), `\n`...)
		case r == '\r':
			b = append(append(b, s[start:i]...), `\r`...)
		case r == '\t':
			b = append(append(b, s[start:i]...), `\t`...)
		case hidden(r):
			b = fmt.Appendf(append(b, s[start:i]...), `\u%04x`, r)
		case r == utf8.RuneError && n == 1: // not UTF-8: what it was cannot be told in JSON
			b = append(append(b, s[start:i]...), "\ufffd"...)
		default:
			i += n
			continue
		}
		i += n
		start = i
	}
	return append(append(b, s[start:]...), '"')
}

// line mirrors Entry for encoding/json. Laxness of that decoder (case,
// duplicates, white space, spelling) is caught by encoding again.
type line struct {
	Seq        uint64          `json:"seq"`
	Time       string          `json:"time"`
	Kind       Kind            `json:"kind"`
	Call       string          `json:"call"`
	Policy     string          `json:"policy"`
	Issuer     string          `json:"issuer"`
	Sub        string          `json:"sub"`
	Client     string          `json:"client"`
	Server     string          `json:"server"`
	Method     string          `json:"method"`
	Tool       string          `json:"tool"`
	Resource   string          `json:"resource"`
	Effect     string          `json:"effect"`
	Rules      []string        `json:"rules"`
	Reason     string          `json:"reason"`
	Approval   string          `json:"approval"`
	Credential string          `json:"credential"`
	Args       string          `json:"args"`
	Digest     string          `json:"digest"`
	Status     string          `json:"status"`
	Millis     float64         `json:"ms"`
	Masked     []Masked        `json:"masked"`
	Bytes      int64           `json:"bytes"`
	Detail     json.RawMessage `json:"detail"`
}

// Decode parses a line (without line feed) strictly: it accepts nothing that
// Encode would not have written. Errors wrap ErrEntry.
func Decode(b []byte) (Entry, error) {
	if len(b) > MaxLine {
		return Entry{}, tooLong(len(b))
	}
	var l line
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&l); err != nil {
		return Entry{}, fmt.Errorf("%w: %v", ErrEntry, err)
	}
	t, err := time.Parse(timeLayout, l.Time)
	if err != nil {
		return Entry{}, fmt.Errorf("%w: time: %v", ErrEntry, err)
	}
	e := Entry{
		Seq: l.Seq, Time: t, Kind: l.Kind, Call: l.Call, Policy: l.Policy,
		Issuer: l.Issuer, Sub: l.Sub, Client: l.Client, Server: l.Server, Method: l.Method,
		Tool: l.Tool, Resource: l.Resource, Effect: l.Effect, Rules: l.Rules, Reason: l.Reason,
		Approval: l.Approval, Credential: l.Credential, Args: l.Args, Digest: l.Digest,
		Status: l.Status, Millis: l.Millis, Masked: l.Masked, Bytes: l.Bytes, Detail: l.Detail,
	}
	again, err := e.Encode()
	if err != nil {
		return Entry{}, err
	}
	if !bytes.Equal(again, b) {
		i := 0
		for i < len(again) && i < len(b) && again[i] == b[i] {
			i++
		}
		return Entry{}, fmt.Errorf("%w: byte %d is not as it would be written", ErrEntry, i)
	}
	return e, nil
}

// Start is the detail of an incarnation's first entry.
type Start struct {
	Enforcer    string `json:"enforcer"`
	Incarnation string `json:"incarnation"`
	// Previous is the last checkpoint of the incarnation before this one on
	// the same state directory: an anchor, by which a cut tail shows. Empty:
	// there was none.
	Previous string `json:"previous,omitempty"`
	// Torn counts bytes at the end of the previous incarnation's journal that
	// made no entry: written, never acknowledged, when it died.
	Torn int64 `json:"torn,omitempty"`
	// Version and Config may say what started.
	Version string `json:"version,omitempty"`
	Config  string `json:"config,omitempty"`
}

// Anchor is the detail of a KindAnchor entry: another log's newest
// checkpoint, as this enforcer saw it.
type Anchor struct {
	Checkpoint string `json:"checkpoint"`
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
