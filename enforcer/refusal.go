package enforcer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"time"

	"countersign/audit"
	"countersign/enforcer/budget"
	"countersign/enforcer/identity"
	"countersign/enforcer/upstream"
	"countersign/enforcer/wire"
)

// kind is why an exchange ended early. It is mapped to what the client sees
// in one place, refuse.
type kind int

const (
	kindDenied          kind = iota // policy, or a person, said no
	kindPending                     // a person has yet to say
	kindUnauthenticated             // no valid token: 401
	kindBadRequest                  // not MCP, or ambiguous
	kindMismatch                    // mirrored headers disagree with the body
	kindNoSession                   // session unknown, or another holder's
	kindNoServer                    // no such server
	kindMethod                      // HTTP method not served
	kindForbidden                   // wrong host or origin
	kindUnavailable                 // a peer that is needed is down, or the record cannot be written
	kindUpstream                    // the upstream failed, and may have run the call
	kindBlocked                     // the answer could not be masked
	kindCancelled                   // by the client, before forwarding or after
	kindQuota                       // enough of such calls, for now
	kindHeaders                     // too large: 431
	kindUnknown                     // a name, uri, cursor or id that leads nowhere
	kindNoMethod                    // not a method of this endpoint
	kindVersion                     // a revision of MCP that is not served
	kindFrozen                      // by a freeze, before forwarding or after
	kindWithheld                    // the answer came, and policy does not let it pass
	kindCapability                  // a method of an extension that the client does not declare
	kindOwed                        // what an earlier identical call came to, which nobody has heard
)

// refusal is an early end with its reason. The reason is words for the agent:
// what was wrong, and what to do about it.
type refusal struct {
	kind  kind
	cause error
	data  map[string]any // for the client, beside the record's id
	// result is what the client gets instead of words, where that is no end: a
	// result that has it wait in another way.
	result []byte
}

func (r *refusal) Error() string { return r.cause.Error() }
func (r *refusal) Unwrap() error { return r.cause }

func refuse(k kind, format string, args ...any) *refusal {
	return &refusal{kind: k, cause: fmt.Errorf(format, args...)}
}

func (x *exchange) denied(reason string) *refusal { return refuse(kindDenied, "%s", reason) }

// status is the word for the record.
func (k kind) status() string {
	return map[kind]string{
		kindDenied: "denied", kindPending: "pending", kindUnauthenticated: "unauthenticated", kindBadRequest: "bad-request",
		kindMismatch: "bad-request", kindNoSession: "no-session", kindNoServer: "no-server", kindMethod: "bad-request",
		kindForbidden: "forbidden", kindUnavailable: "unavailable", kindUpstream: "error", kindBlocked: "blocked", kindCancelled: "cancelled",
		kindQuota: "over-quota", kindHeaders: "bad-request",
		kindUnknown: "bad-request", kindNoMethod: "bad-request", kindVersion: "bad-request", kindCapability: "bad-request",
		kindFrozen: audit.StatusFrozen, kindWithheld: "blocked", kindOwed: "undelivered",
	}[k]
}

// JSON-RPC codes: -32700, -32600 and -32603 are JSON-RPC 2.0's own; -32020 is
// MCP's (2026-07-28) for mirrored headers; -32000 is the first of JSON-RPC's
// implementation-defined range that MCP leaves alone.
const (
	codeRefused  = -32000
	codeInternal = -32603
)

// refuse ends an exchange early: recorded first, then told to the client.
//
// Policy denials and pending approvals are never a bare 4xx, because some SDK
// clients drop their session on those: a tool call gets a result with isError,
// any other request a JSON-RPC error, both with status 200. 401 and 403 are
// for OAuth; 404 is for a session that is gone.
func (x *exchange) refuse(err error) {
	var ref *refusal
	defer func() { x.refused = ref }()
	if !errors.As(err, &ref) {
		ref = &refusal{kind: kindUnavailable, cause: err}
	}
	reason, _ := x.e.Mask.Text(ref.Error())
	if x.caller.Subject.Sub == "" {
		x.e.unknown(x, ref)
		if ref.kind == kindUnauthenticated {
			x.challenge(ref)
		} else {
			x.tell(ref, reason)
		}
		return
	}
	if x.closed { // the answer is out already: what came after it ends the stream, and is in the record
		x.opened = false
		if err := x.recordStream(audit.KindClose, ref.kind.status(), reason); err != nil {
			x.e.Log.Error("the record cannot be written", "call", x.id, "err", err)
		}
		return
	}
	status := ref.kind.status()
	if ref.kind == kindUpstream && x.spent && x.forwarded {
		status = audit.StatusUnknown // an approver reads of an error that the call ran
	}
	if rerr := x.recordEnd(status, reason, nil); rerr != nil {
		x.e.Log.Error("the record cannot be written", "call", x.id, "err", rerr)
		reason = "the record cannot be written, so nothing is served: " + publicCause(rerr)
		ref = &refusal{kind: kindUnavailable, cause: rerr}
	}
	x.tell(ref, reason)
}

// tell sends the refusal to the client in the form that its kind asks for.
func (x *exchange) tell(ref *refusal, reason string) {
	reason = fmt.Sprintf("%s (countersign record %s)", reason, x.id)
	isRequest := x.msg != nil && x.msg.Kind == wire.Request
	status, code := http.StatusOK, codeRefused
	var id []byte
	if x.msg != nil {
		id = x.msg.ID
	}
	switch ref.kind {
	case kindBadRequest, kindMismatch:
		status, code = http.StatusBadRequest, -32600
		var werr *wire.Error
		if errors.As(ref.cause, &werr) {
			code, id = werr.Code, werr.ID
		}
	case kindUnknown, kindNoMethod, kindVersion, kindCapability:
		status, code = x.protocolError(ref.kind)
	case kindNoSession, kindNoServer:
		status = http.StatusNotFound
	case kindMethod:
		status = http.StatusMethodNotAllowed
		x.w.Header().Set("Allow", "GET, POST, DELETE")
	case kindForbidden:
		status = http.StatusForbidden
	case kindHeaders:
		status, code = http.StatusRequestHeaderFieldsTooLarge, -32600
	case kindUnavailable, kindUpstream, kindBlocked:
		code = codeInternal
		var bare *upstream.StatusError
		switch {
		case !isRequest:
			status = http.StatusServiceUnavailable
		case errors.As(ref.cause, &bare) && x.msg.Modern() && passes(bare.Status):
			// A server of the session era says so, some without a message, and by
			// the status a client of both eras knows to send initialize.
			status = bare.Status
		}
	default: // what policy or a person refused
		switch {
		case isRequest:
		case x.msg != nil: // a notification, or a response: it has no answer
			x.out.header(http.StatusAccepted, "")
			return
		default: // no stream, no end of a session
			status = http.StatusMethodNotAllowed
		}
	}
	data := map[string]any{"record": x.id, "status": ref.kind.status()}
	if x.approval != "" {
		data["approval"] = x.approval
	}
	if x.retry > 0 {
		data["retry_after"] = int(x.retry / time.Second)
		if !x.out.sent {
			x.w.Header().Set("Retry-After", strconv.Itoa(int(x.retry/time.Second)))
		}
	}
	if x.quota != "" {
		data["quota"] = x.quota
	}
	maps.Copy(data, ref.data)
	if isRequest && ref.result != nil {
		x.out.message(status, fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%s,"result":%s}`, id, ref.result))
		return
	}
	said := ref.kind == kindDenied || ref.kind == kindOwed || ref.kind == kindPending || ref.kind == kindCancelled || ref.kind == kindQuota || ref.kind == kindFrozen || ref.kind == kindWithheld
	answer := wire.ErrorReply(id, code, reason, data)
	if isRequest && x.msg.Method == "tools/call" && status == http.StatusOK && said {
		answer = wire.ToolError(id, reason)
	}
	x.out.message(status, answer)
	if isRequest {
		x.delivered(answer)
	}
}

// protocolError is the protocol's own code for what leads nowhere, and the HTTP
// status that it has in the era of the message (2026-07-28 basic/transports/
// streamable-http; before, an error came with 200, and clients drop their
// session on others).
func (x *exchange) protocolError(k kind) (status, code int) {
	switch k {
	case kindNoMethod:
		status, code = http.StatusNotFound, wire.CodeMethodNotFound
	case kindVersion:
		status, code = http.StatusBadRequest, wire.CodeVersion
	case kindCapability:
		status, code = http.StatusBadRequest, wire.CodeCapability
	default:
		status, code = http.StatusBadRequest, wire.CodeInvalidParams
	}
	if x.msg == nil || !x.msg.Modern() {
		status = http.StatusOK
	}
	return status, code
}

// challenge answers 401 with the way to the resource metadata (RFC 9728
// section 5.1, RFC 6750 section 3), or 503 when the issuer could not be asked.
func (x *exchange) challenge(ref *refusal) {
	var ierr *identity.Error
	if errors.As(ref.cause, &ierr) && ierr.Status() == http.StatusServiceUnavailable {
		x.w.Header().Set("Retry-After", "5")
		x.out.message(http.StatusServiceUnavailable, wire.ErrorReply(nil, codeInternal, "the token cannot be checked now: try again (countersign record "+x.id+")", nil))
		return
	}
	meta := x.e.public.Scheme + "://" + x.e.public.Host + identity.WellKnown + x.resource()
	x.w.Header().Set("WWW-Authenticate", identity.Challenge(meta, ref.cause))
	x.out.message(http.StatusUnauthorized, wire.ErrorReply(nil, codeRefused, "unauthorized: a valid bearer token for this resource is needed (countersign record "+x.id+")", nil))
}

// upstreamFailed says in the agent's words what became of the upstream.
func (x *exchange) upstreamFailed(err error) *refusal {
	if errors.Is(err, budget.ErrFull) {
		x.e.metrics.full.WithLabelValues("answers").Inc()
		return refuse(kindBlocked, "the upstream server's answer is blocked, and the call may have run: %w", err)
	}
	var ambiguous *wire.Error
	notSent := errors.Is(err, upstream.ErrNotSent)
	switch {
	case errors.Is(err, upstream.ErrSessionEnd) && !notSent:
		ref := refuse(kindNoSession, "the session was ended while the upstream server worked; whether the call ran is not known: initialize again")
		ref.data = map[string]any{"ran": "unknown"}
		return ref
	case errors.Is(err, upstream.ErrSessionGone):
		return refuse(kindNoSession, "the upstream server no longer knows this session: initialize again")
	case errors.Is(err, context.Canceled) && x.forwarded:
		ref := refuse(kindCancelled, "cancelled by the client; the call was with the upstream server already, and may have run")
		ref.data = map[string]any{"ran": "unknown"}
		return ref
	case errors.Is(err, context.Canceled):
		return refuse(kindCancelled, "cancelled by the client before it was forwarded; nothing ran")
	case notSent && errors.As(err, &ambiguous): // an id already in flight, say
		return refuse(kindBadRequest, "%w", err)
	case notSent:
		return refuse(kindUnavailable, "the upstream server cannot be reached, and nothing ran: %w", err)
	case errors.Is(err, upstream.ErrEncoded), errors.Is(err, upstream.ErrTooLarge), errors.Is(err, upstream.ErrNotMCP):
		return refuse(kindBlocked, "the upstream server's answer is blocked: %w", err)
	default:
		return refuse(kindUpstream, "the upstream server failed; whether the call ran is not known: %w", err)
	}
}

// unrecorded is that an entry is not in the journal. What it says, clients may
// be told: it names no path, and what they can do. The log has the cause.
type unrecorded struct{ cause error }

func (u unrecorded) Error() string { return publicCause(u.cause) }
func (u unrecorded) Unwrap() error { return u.cause }

// publicCause keeps the journal's own words, which name no path.
func publicCause(err error) string {
	switch {
	case errors.Is(err, audit.ErrFull):
		return "the journal is full and not yet published; try again when its operators have made publishing work"
	case errors.Is(err, audit.ErrDiskFull):
		return "the disk of the journal is full; try again when its operators have made room"
	case errors.Is(err, audit.ErrDisk):
		return "the journal's disk failed; try again in a minute, it mends itself if it can"
	case errors.Is(err, audit.ErrPoisoned):
		return "the journal's files are gone; its operators must look and restart it"
	default:
		return "see the enforcer's log"
	}
}
