package enforcer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"countersign/audit"
	"countersign/enforcer/upstream"
	"countersign/enforcer/wire"
	"countersign/rules"
)

// segmentEvery is how often a long stream leaves a mark in the record.
const segmentEvery = 10 * time.Second

// answer takes the upstream's reply in, message by message: each is parsed
// strictly, masked, and filtered; a response's outcome is durable before the
// response leaves.
func (x *exchange) answer(ctx context.Context) error {
	pass, err := x.replyHeaders()
	if err != nil {
		return err
	}
	x.pass = pass
	if !x.reply.Stream() {
		return x.answerJSON()
	}
	return x.answerStream()
}

// replyHeaders are the few headers of the reply that belong to the protocol.
// They go out with the answer, not with a refusal of it.
func (x *exchange) replyHeaders() (http.Header, error) {
	pass := http.Header{}
	for _, k := range []string{"Mcp-Session-Id", "Mcp-Protocol-Version", "Cache-Control", "Retry-After"} {
		for _, v := range x.reply.Header.Values(k) {
			if clean, r := x.e.Mask.Text(v); clean != v {
				x.note(r)
				return nil, refuse(kindBlocked, "the upstream server's answer is blocked: a secret stands in its header %s", k)
			}
			pass.Add(k, v)
		}
	}
	if s := x.reply.Session; s != "" {
		if x.session != "" && s != x.session {
			return nil, refuse(kindBlocked, "the upstream server's answer is blocked: it names another session than the request")
		}
		if clean, _ := x.e.Mask.Text(s); clean != s {
			return nil, refuse(kindBlocked, "the upstream server's answer is blocked: a secret stands in its session id")
		}
		pass.Set("Mcp-Session-Id", s)
	}
	if x.r.Method == http.MethodDelete && x.reply.Status < 300 {
		x.e.session.end(x.session, x.server)
		x.cleanup = append(x.cleanup, func() { x.e.endHolder(context.WithoutCancel(x.r.Context()), x.ownerKey()) })
	}
	return pass, nil
}

// release lets the reply's headers go: the answer is about to leave. A session
// that an initialize has opened becomes this caller's.
func (x *exchange) release() error {
	if s := x.pass.Get("Mcp-Session-Id"); s != "" && x.session == "" && x.msg != nil && x.msg.Method == "initialize" {
		evicted, ok := x.e.session.bind(s, x.server, x.ownerKey())
		if !ok {
			return refuse(kindUnavailable, "too many sessions are open: try again later")
		}
		if evicted != "" {
			x.force.upstreams[x.server].EndSession(evicted)
		}
	}
	for k, v := range x.pass {
		x.w.Header()[k] = v
	}
	return nil
}

// status is the upstream's, as far as it means the same between the client and
// us. 401 and 403 are between the upstream and our credential, and would send
// the client to our identity provider; a server's failure is told in the
// message, because a bare 5xx makes clients drop their session.
func (x *exchange) status() int {
	s := x.reply.Status
	switch {
	case s >= 200 && s < 300, s == http.StatusBadRequest, s == http.StatusNotFound, s == http.StatusMethodNotAllowed:
		return s
	case x.msg != nil && x.msg.Kind == wire.Request:
		return http.StatusOK
	}
	return http.StatusBadGateway
}

func (x *exchange) answerJSON() error {
	ev, err := x.reply.Next()
	if err != nil && !errors.Is(err, io.EOF) {
		return upstreamFailed(err)
	}
	if len(bytes.TrimSpace(ev.Data)) == 0 {
		if x.msg != nil && x.msg.Kind == wire.Request {
			return refuse(kindUpstream, "the upstream server answered a request with nothing (status %d)", x.reply.Status)
		}
		if err := x.recordEnd(httpStatus(x.reply.Status), ""); err != nil {
			return refuse(kindUnavailable, "the record cannot be written: %w", err)
		}
		if err := x.release(); err != nil {
			return err
		}
		x.out.header(x.status(), "")
		return nil
	}
	m, clean, err := x.clean(ev.Data)
	if err != nil {
		return err
	}
	if m.Kind != wire.Response {
		return refuse(kindBlocked, "the upstream server's answer is blocked: not a JSON-RPC response")
	}
	// An error may be without an id: of a message that the server could not read.
	if x.msg != nil && x.msg.Kind == wire.Request && m.ID != nil && !sameID(m.ID, x.msg.ID) {
		return refuse(kindBlocked, "the upstream server's answer is blocked: it is not the answer to this request")
	}
	if err := x.recordEnd(outcome(m), ""); err != nil {
		return refuse(kindUnavailable, "the record cannot be written, so the answer is withheld: %w", err)
	}
	if err := x.release(); err != nil {
		return err
	}
	x.out.message(x.status(), clean)
	return nil
}

func (x *exchange) answerStream() error {
	if err := x.release(); err != nil {
		return err
	}
	x.out.header(x.status(), "text/event-stream")
	var events int
	last := x.e.Now()
	for {
		ev, err := x.next()
		switch {
		case errors.Is(err, io.EOF):
			return x.endStream(events, "ok")
		case err != nil && x.endless() && x.e.lifetime.Err() != nil:
			return x.endStream(events, "stopped")
		case err != nil && x.closed, err != nil && x.r.Method == http.MethodGet:
			return x.endStream(events, "broken")
		case err != nil:
			return upstreamFailed(err)
		}
		if err := x.event(ev); err != nil {
			return err
		}
		events++
		if x.out.gone && (x.msg == nil || x.msg.Modern()) {
			return x.endStream(events, "client-gone")
		}
		if now := x.e.Now(); now.Sub(last) >= segmentEvery {
			last = now
			if err := x.recordSegment(events, "open", ""); err != nil {
				return refuse(kindUnavailable, "the record cannot be written, so the stream ends: %w", err)
			}
		}
	}
}

// headersAfter is how long a stream's status and headers wait to travel with
// its first event, which spares a packet for each of the many short ones.
const headersAfter = 100 * time.Millisecond

// next is the stream's next event. Where the first one takes its time the
// client is told at once that a stream has begun: some clients wait for that
// before they do anything else, and some give up without it.
func (x *exchange) next() (wire.Event, error) {
	if x.out.begun {
		return x.reply.Next()
	}
	if x.r.Method == http.MethodGet {
		x.out.flush()
		return x.reply.Next()
	}
	type result struct {
		ev  wire.Event
		err error
	}
	first := make(chan result, 1)
	go func() {
		r := result{err: errors.New("reading the upstream's stream failed inside")}
		defer func() {
			if p := recover(); p != nil {
				x.e.Log.Error("reading a stream panicked", "call", x.id, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			}
			first <- r
		}()
		r.ev, r.err = x.reply.Next()
	}()
	late := time.NewTimer(headersAfter)
	defer late.Stop()
	select {
	case r := <-first:
		x.out.begun = true
		return r.ev, r.err
	case <-late.C:
		x.out.flush()
		r := <-first
		return r.ev, r.err
	}
}

// event lets one event of the stream through, masked: its data as a message,
// everything beside it (comments, id, name) as text.
func (x *exchange) event(ev wire.Event) error {
	beside := func(text string) string {
		clean, r := x.e.Mask.Text(text)
		x.note(r)
		return clean
	}
	if len(bytes.TrimSpace(ev.Data)) == 0 {
		x.out.write(ev.Rewrite(ev.Data, beside))
		return nil
	}
	m, clean, err := x.clean(ev.Data)
	if err != nil {
		return err
	}
	switch m.Kind {
	case wire.Response:
		if err := x.recordResponse(m); err != nil {
			return err
		}
	case wire.Request:
		if allowed, err := x.serverAsks(m); err != nil || !allowed {
			return err
		}
	}
	x.out.write(ev.Rewrite(clean, beside))
	return nil
}

// recordResponse makes a response's outcome durable: this exchange's own, or,
// on a stream that a GET resumes, one of an earlier exchange. A second answer,
// or somebody else's, is blocked.
func (x *exchange) recordResponse(m *wire.Message) (err error) {
	switch {
	case x.msg == nil: // which exchange it belongs to, only the client knows
		en := x.entry(audit.KindSegment)
		en.Status, en.Reason, en.Masked = outcome(m), "a response of an earlier request, on a resumed stream", x.masked
		err = x.append(en)
	case x.closed:
		return refuse(kindBlocked, "the upstream server's stream is blocked: it answers twice")
	case !sameID(m.ID, x.msg.ID):
		return refuse(kindBlocked, "the upstream server's stream is blocked: it is not the answer to this request")
	default:
		err = x.recordEnd(outcome(m), "")
	}
	if err != nil {
		return refuse(kindUnavailable, "the record cannot be written, so the answer is withheld: %w", err)
	}
	return nil
}

// serverAsks decides what the upstream asks of the client (sampling,
// elicitation, roots). Refused unless a rule allows: the upstream then gets an
// error, and the client never sees it.
func (x *exchange) serverAsks(m *wire.Message) (bool, error) {
	d := x.force.policy.Decide(rules.Request{
		Subject: x.caller.Subject, Client: x.caller.Client, Server: x.server, Source: x.source,
		Method: m.Method, FromServer: true, Args: m.Bytes(m.Params), Now: x.e.Now(),
	})
	d.Reason, _ = x.e.Mask.Text(d.Reason)
	if d.Effect == rules.Allow {
		return true, x.recordServer(audit.KindIntent, m, string(d.Effect), d.Reason)
	}
	if err := x.recordServer(audit.KindRefused, m, string(rules.Deny), d.Reason); err != nil {
		return false, refuse(kindUnavailable, "the record cannot be written: %w", err)
	}
	answer := wire.ErrorReply(m.ID, codeRefused, "refused by the client's gateway: "+d.Reason, nil)
	parsed, err := wire.Parse(answer, wire.Limits{})
	if err != nil {
		return false, err
	}
	reply, err := x.force.upstreams[x.server].Send(context.WithoutCancel(x.r.Context()), &upstream.Request{
		Verb: http.MethodPost, Header: http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"}},
		Body: answer, Message: parsed, Session: x.session, Holder: x.ownerKey(), Inject: x.inject,
	})
	if err != nil {
		x.e.Log.Warn("the upstream could not be told that its request was refused", "server", x.server, "method", m.Method, "err", err)
		return false, nil
	}
	return false, reply.Close()
}

// inputAsks decides what a server of the stateless era asks of the client: it
// has no requests of its own, and puts them into a result instead, under
// inputRequests by names of its choice (2026-07-28, multi round-trip requests).
// Each is decided as the request would be. If one is refused the whole result
// is, since the client answers all or none.
func (x *exchange) inputAsks(m *wire.Message) (err error) {
	m.Members(m.Result, func(name []byte, asks wire.Span) bool {
		if !strings.EqualFold(string(name), "inputRequests") {
			return true
		}
		if b := m.Bytes(asks); b[0] != '{' && string(b) != "null" {
			err = refuse(kindBlocked, "the upstream server's answer is blocked: its inputRequests are not an object")
		}
		m.Members(asks, func(_ []byte, ask wire.Span) bool {
			err = x.inputAsk(m, ask)
			return err == nil
		})
		return err == nil
	})
	return err
}

func (x *exchange) inputAsk(m *wire.Message, ask wire.Span) error {
	var method string
	if at, ok := m.Member(ask, "method"); ok {
		method, _ = m.Text(at)
	}
	params, _ := m.Member(ask, "params")
	d := x.force.policy.Decide(rules.Request{
		Subject: x.caller.Subject, Client: x.caller.Client, Server: x.server, Source: x.source,
		Method: method, FromServer: true, Args: m.Bytes(params), Now: x.e.Now(),
	})
	kind, effect := audit.KindIntent, rules.Allow
	if d.Effect != rules.Allow {
		kind, effect = audit.KindRefused, rules.Deny
	}
	if err := x.recordServer(kind, &wire.Message{Method: method}, string(effect), d.Reason); err != nil {
		return refuse(kindUnavailable, "the record cannot be written: %w", err)
	}
	if effect == rules.Deny {
		return x.denied("refused by the client's gateway: the server asks the client for " + clip(method, 128) + ": " + d.Reason)
	}
	return nil
}

// clean parses one message from the upstream, hides the list elements that this
// subject could never use, and masks what is left. An error means: blocked.
func (x *exchange) clean(data []byte) (*wire.Message, []byte, error) {
	limit := x.force.policy.Settings().MaxResponse
	m, err := wire.Parse(data, wire.Limits{Bytes: int(limit)})
	if err != nil {
		return nil, nil, refuse(kindBlocked, "the upstream server's answer is blocked, since it cannot be read safely: %w", err)
	}
	kept := data
	if m.Kind == wire.Response {
		if err := x.inputAsks(m); err != nil {
			return nil, nil, err
		}
		if kept, err = x.filterLists(m); err != nil {
			return nil, nil, refuse(kindBlocked, "the upstream server's list is blocked, since it cannot be filtered: %w", err)
		}
	}
	clean, report, err := x.e.Mask.Message(kept)
	x.note(report)
	if err != nil {
		return nil, nil, refuse(kindBlocked, "the upstream server's answer is blocked, since it cannot be masked: %w", err)
	}
	return m, clean, nil
}

// listed names, for each list method, the result's member and the method that
// uses an element of it. Resource templates are not filtered: what they would
// expand to is not known before resources/read.
var listed = map[string]struct{ key, method string }{
	"tools/list":     {"tools", "tools/call"},
	"prompts/list":   {"prompts", "prompts/get"},
	"resources/list": {"resources", "resources/read"},
}

// filterLists shows only what this subject could get under some arguments. It
// goes by the request; on a resumed stream, where the request is not at hand,
// by the shape of the result.
func (x *exchange) filterLists(m *wire.Message) ([]byte, error) {
	for list, l := range listed {
		if x.msg != nil && x.msg.Method != list {
			continue
		}
		if x.msg == nil {
			if _, ok := m.Member(m.Result, l.key); !ok {
				continue
			}
		}
		kept, _, err := wire.FilterList(m, l.key, func(name, uri string) bool {
			return x.force.policy.Visible(rules.Request{
				Subject: x.caller.Subject, Client: x.caller.Client, Server: x.server, Source: x.source, Now: x.e.Now(),
				Method: l.method, Tool: name, Resource: uri,
			})
		})
		return kept, err
	}
	return m.Raw, nil
}

func (x *exchange) recordSegment(events int, status, reason string) error {
	en := x.entry(audit.KindSegment)
	en.Status, en.Bytes, en.Masked, en.Args, en.Rules, en.Reason, en.Digest = status, x.out.bytes, x.masked, "", nil, x.e.words(reason, 2048), ""
	en.Detail = json.RawMessage(`{"events":` + strconv.Itoa(events) + `}`)
	return x.append(en)
}

// endStream closes a stream in the record.
func (x *exchange) endStream(events int, status string) error {
	if x.closed { // the response is out; what came after it, or before, is one close entry
		if events > 1 {
			return x.recordSegment(events, status, "")
		}
		return nil
	}
	if x.msg != nil && x.msg.Kind == wire.Request && status == "ok" {
		status = "undelivered" // the stream ended without the response; a resumed one may bring it
	}
	return x.recordEnd(status, "")
}

// sameID compares ids as they are meant: a server may spell a string with other
// escapes than its client did.
func sameID(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	var s, t string
	return len(a) > 0 && len(b) > 0 && a[0] == '"' && b[0] == '"' && json.Unmarshal(a, &s) == nil && json.Unmarshal(b, &t) == nil && s == t
}

// outcome is the word for a response in the record.
func outcome(m *wire.Message) string {
	if m.ErrorObj != (wire.Span{}) {
		return "error"
	}
	return "ok"
}

func httpStatus(code int) string {
	if code < 300 {
		return "ok"
	}
	return "http-" + strconv.Itoa(code)
}
