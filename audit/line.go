package audit

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

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
//	issuer, sub, client   strings
//	holder      string  keyed digest that names the holder
//	session     string  keyed digest of the MCP session's id
//	server, method, tool, resource   strings
//	effect      string  deny, approve, allow
//	rules       array of strings: the rules that made the effect
//	trace       array of {"rule":string,"effect":string,"why":string}, at most 32:
//	            every rule that matched or failed; an empty why is left out
//	reason      string  what the agent was told
//	approval    string  id of the approval
//	credential  string  name of the credential, never its value
//	lease       string  the credential's lease: its accessor or id
//	args        string  masked preview of the arguments, cut at 2,048 bytes with "…"
//	result      string  masked preview of the answer, cut in the same way
//	digest      string  keyed digest of the canonical params
//	status      string  outcome in a word
//	ms          number  duration in milliseconds, at most 3 decimals
//	timings     array of {"part":string,"ms":number}, ms as above, and 0
//	masked      array of {"detector":string,"place":string,"count":number}
//	splices     array of {"what":string,"where":string}
//	bytes       number  size of what was answered
//	bodies      array of {"of":string,"size":number,"digest":string,"kept":string};
//	            an empty digest is left out
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
	if e.Kind == "" {
		return nil, fmt.Errorf("%w: it has no kind", ErrEntry)
	}
	if len(e.Trace) > MaxTrace {
		return nil, fmt.Errorf("%w: its trace has %d steps, more than %d", ErrEntry, len(e.Trace), MaxTrace)
	}
	w := members{b: b}
	w.str("kind", string(e.Kind))
	w.str("call", e.Call)
	w.str("policy", e.Policy)
	w.str("issuer", e.Issuer)
	w.str("sub", e.Sub)
	w.str("client", e.Client)
	w.str("holder", e.Holder)
	w.str("session", e.Session)
	w.str("server", e.Server)
	w.str("method", e.Method)
	w.str("tool", e.Tool)
	w.str("resource", e.Resource)
	w.str("effect", e.Effect)
	w.array("rules", len(e.Rules), func(i int) { w.b = appendString(w.b, e.Rules[i]) })
	w.objects("trace", len(e.Trace), func(i int) {
		w.text("rule", e.Trace[i].Rule)
		w.text("effect", e.Trace[i].Effect)
		w.str("why", e.Trace[i].Why)
	})
	w.str("reason", e.Reason)
	w.str("approval", e.Approval)
	w.str("credential", e.Credential)
	w.str("lease", e.Lease)
	w.str("args", cutPreview(e.Args))
	w.str("result", cutPreview(e.Result))
	w.str("digest", e.Digest)
	w.str("status", e.Status)
	if rounded(e.Millis) != 0 {
		w.millis(e.Millis)
	}
	w.objects("timings", len(e.Timings), func(i int) {
		w.text("part", e.Timings[i].Part)
		w.millis(e.Timings[i].Millis)
	})
	w.objects("masked", len(e.Masked), func(i int) {
		w.text("detector", e.Masked[i].Detector)
		w.text("place", e.Masked[i].Place)
		w.number("count", int64(e.Masked[i].Count))
	})
	w.objects("splices", len(e.Splices), func(i int) {
		w.text("what", e.Splices[i].What)
		w.text("where", e.Splices[i].Where)
	})
	if e.Bytes != 0 {
		w.number("bytes", e.Bytes)
	}
	w.objects("bodies", len(e.Bodies), func(i int) {
		w.text("of", e.Bodies[i].Of)
		w.number("size", e.Bodies[i].Size)
		w.str("digest", e.Bodies[i].Digest)
		w.text("kept", e.Bodies[i].Kept)
	})
	if w.err != nil {
		return nil, w.err
	}
	b = w.b
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

// members appends the members of an object, in the order of the calls.
type members struct {
	b   []byte
	err error // the first
}

func (w *members) name(name string) {
	if n := len(w.b); n == 0 || w.b[n-1] != '{' { // the body of an entry follows its head
		w.b = append(w.b, ',')
	}
	w.b = append(append(append(w.b, '"'), name...), `":`...)
}

func (w *members) text(name, v string) {
	w.name(name)
	w.b = appendString(w.b, v)
}

// str is text for a member that is left out when it is empty.
func (w *members) str(name, v string) {
	if v != "" {
		w.text(name, v)
	}
}

func (w *members) number(name string, n int64) {
	if n < 0 && name == "size" {
		w.err = cmp.Or(w.err, fmt.Errorf("%w: a body of %d bytes", ErrEntry, n))
	}
	w.name(name)
	w.b = strconv.AppendInt(w.b, n, 10)
}

func rounded(ms float64) float64 { return math.Round(ms*1000) / 1000 }

func (w *members) millis(ms float64) {
	r := rounded(ms)
	if math.IsNaN(r) || r < 0 || r > 1e12 {
		w.err = cmp.Or(w.err, fmt.Errorf("%w: duration %v ms", ErrEntry, ms))
		return
	}
	w.name("ms")
	w.b = strconv.AppendFloat(w.b, math.Abs(r), 'f', -1, 64) // Abs: there is a minus zero
}

// array writes n elements by one; none: the member is left out.
func (w *members) array(name string, n int, one func(i int)) {
	if n == 0 {
		return
	}
	w.name(name)
	w.b = append(w.b, '[')
	for i := range n {
		if i > 0 {
			w.b = append(w.b, ',')
		}
		one(i)
	}
	w.b = append(w.b, ']')
}

// objects is array for elements that are objects.
func (w *members) objects(name string, n int, one func(i int)) {
	w.array(name, n, func(i int) {
		w.b = append(w.b, '{')
		one(i)
		w.b = append(w.b, '}')
	})
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

func cutPreview(s string) string {
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
	Holder     string          `json:"holder"`
	Session    string          `json:"session"`
	Server     string          `json:"server"`
	Method     string          `json:"method"`
	Tool       string          `json:"tool"`
	Resource   string          `json:"resource"`
	Effect     string          `json:"effect"`
	Rules      []string        `json:"rules"`
	Trace      []Step          `json:"trace"`
	Reason     string          `json:"reason"`
	Approval   string          `json:"approval"`
	Credential string          `json:"credential"`
	Lease      string          `json:"lease"`
	Args       string          `json:"args"`
	Result     string          `json:"result"`
	Digest     string          `json:"digest"`
	Status     string          `json:"status"`
	Millis     float64         `json:"ms"`
	Timings    []Timing        `json:"timings"`
	Masked     []Masked        `json:"masked"`
	Splices    []Splice        `json:"splices"`
	Bytes      int64           `json:"bytes"`
	Bodies     []BodyRef       `json:"bodies"`
	Detail     json.RawMessage `json:"detail"`
}

// Decode parses a line (without line feed) strictly: it accepts nothing that
// Encode would not have written. Errors wrap ErrEntry.
func Decode(b []byte) (Entry, error) {
	if len(b) > MaxLine {
		return Entry{}, tooLong(len(b))
	}
	var fast Entry
	if fastDecode(string(b), &fast) {
		return fast, nil
	}
	return slowDecode(b)
}

func slowDecode(b []byte) (Entry, error) {
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
		Issuer: l.Issuer, Sub: l.Sub, Client: l.Client, Holder: l.Holder, Session: l.Session,
		Server: l.Server, Method: l.Method, Tool: l.Tool, Resource: l.Resource,
		Effect: l.Effect, Rules: l.Rules, Trace: l.Trace, Reason: l.Reason,
		Approval: l.Approval, Credential: l.Credential, Lease: l.Lease, Args: l.Args, Result: l.Result, Digest: l.Digest,
		Status: l.Status, Millis: l.Millis, Timings: l.Timings, Masked: l.Masked, Splices: l.Splices,
		Bytes: l.Bytes, Bodies: l.Bodies, Detail: l.Detail,
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
