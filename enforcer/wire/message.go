// Package wire reads and edits JSON-RPC messages and event streams without
// ever re-encoding them.
//
// It promises two things. First, what a rule decides about is what the
// upstream gets: one strict scan finds the offsets of everything that policy
// looks at, and text that two parsers could understand differently is refused
// before anything looks at it (duplicate keys, protocol keys in another case,
// invalid UTF-8, unpaired surrogates, batches, trailing data). Second, what
// nobody edits goes through byte for byte: unknown members, the spelling of
// numbers and strings, white space, and the ids, retries and comments of
// server-sent events.
package wire

import "bytes"

// Kind says what a message is.
type Kind int

const (
	Request      Kind = iota + 1 // method and id
	Notification                 // method, no id
	Response                     // result or error
)

func (k Kind) String() string {
	switch k {
	case Request:
		return "request"
	case Notification:
		return "notification"
	case Response:
		return "response"
	}
	return "unknown"
}

// Span is a half-open range of bytes. The zero Span means absent: no member
// of a message can start at offset 0.
type Span struct{ Start, End int }

// Present reports whether the member was there at all.
func (s Span) Present() bool { return s.End > s.Start }

// Message is one strictly scanned JSON-RPC message. Spans and byte slices
// point into Raw; nothing of it may be modified.
type Message struct {
	Raw    []byte
	Kind   Kind
	ID     []byte // the id as spelled, a string or an integer; nil if absent or null
	Method string // "" in a response

	Params    Span // an object
	Arguments Span // params.arguments
	Meta      Span // params._meta, an object
	Result    Span
	ErrorObj  Span

	Name   string // params.name if it is a string; of completion/complete, params.ref.name of a ref/prompt
	URI    string // params.uri if it is a string; of completion/complete, params.ref.uri of a ref/resource
	TaskID string // params.taskId if it is a string

	// ProgressToken is _meta.progressToken as spelled; in a
	// notifications/progress, params.progressToken.
	ProgressToken []byte
	// ProtocolVersion comes from _meta["io.modelcontextprotocol/protocolVersion"],
	// or, in an initialize request, from params.protocolVersion.
	ProtocolVersion string
	// Subscribes are the URIs in params.notifications.resourceSubscriptions of a
	// subscriptions/listen.
	Subscribes []string
	// AsksInput says that the message may ask for input without being a request:
	// a result or params have a member inputRequests, or there is a member
	// elicitations one level below a result or an error, in any case of their
	// letters.
	AsksInput bool
	// CancelledID is params.requestId of a notifications/cancelled, as spelled.
	CancelledID []byte

	metaVersion bool // ProtocolVersion came from _meta
	empty       bool // the object in Arguments has no member
	emptyParams bool // the object in Params has no member
}

// ModernVersion is the first revision without sessions: each request carries
// its version and capabilities in _meta.
const ModernVersion = "2026-07-28"

// MetaVersion is the _meta key that carries a request's protocol version.
const MetaVersion = "io.modelcontextprotocol/protocolVersion"

// MetaSubscription is the _meta key that ties a notification to the
// subscriptions/listen request that asked for it.
const MetaSubscription = "io.modelcontextprotocol/subscriptionId"

// Modern reports whether the message says, in its _meta, that it speaks
// 2026-07-28 or a later revision. Revisions are dates: they sort as text.
func (m *Message) Modern() bool {
	return m.metaVersion && m.ProtocolVersion >= ModernVersion
}

// Bytes returns the bytes of a span of m, nil if it is absent or not of m.
func (m *Message) Bytes(s Span) []byte {
	if !s.Present() || s.Start < 0 || s.End > len(m.Raw) {
		return nil
	}
	return m.Raw[s.Start:s.End:s.End]
}

// Member finds a direct member of an object inside m: for results and for
// parts of params that Message has no field for.
func (m *Message) Member(object Span, key string) (Span, bool) {
	var found Span
	members(m.Raw, object, func(_ Span, k []byte, value Span) bool {
		if string(k) == key {
			found = value
			return false
		}
		return true
	})
	return found, found.Present()
}

// Members calls visit for each direct member of an object inside m, its name
// decoded, until visit returns false.
func (m *Message) Members(object Span, visit func(name []byte, value Span) bool) {
	members(m.Raw, object, func(_ Span, name []byte, value Span) bool { return visit(name, value) })
}

// EachMember does so for an object that stands alone: a part of a message, or
// one that was made of it.
func EachMember(object []byte, visit func(name, value []byte) bool) {
	at := Span{skipSpace(object, 0), len(object)}
	members(object, at, func(_ Span, name []byte, value Span) bool { return visit(name, object[value.Start:value.End]) })
}

// Elements calls visit for each element of an array inside m.
func (m *Message) Elements(array Span, visit func(Span)) { elements(m.Raw, array, visit) }

// Text decodes the JSON string in a span; false if there is no string.
func (m *Message) Text(s Span) (string, bool) {
	b := m.Bytes(s)
	if len(b) < 2 || b[0] != '"' {
		return "", false
	}
	return string(decoded(b)), true
}

// decoded returns the text of a scanned string literal, quotes included in
// the input; without an escape it is a slice of the input.
func decoded(literal []byte) []byte {
	inner := literal[1 : len(literal)-1]
	if bytes.IndexByte(inner, '\\') < 0 {
		return inner
	}
	return unquote(nil, inner)
}
