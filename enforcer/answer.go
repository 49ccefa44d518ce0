package enforcer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"

	"countersign/enforcer/wire"
)

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
	var all strings.Builder // a value in two headers is whole there
	for _, k := range []string{"Mcp-Protocol-Version", "Cache-Control", "Retry-After"} {
		for _, v := range x.reply.Header.Values(k) {
			if clean, r := x.e.Mask.Text(v); clean != v {
				x.note(r)
				return nil, refuse(kindBlocked, "the upstream server's answer is blocked: a secret stands in its header %s", k)
			}
			pass.Add(k, v)
			all.WriteString(v)
		}
	}
	if clean, r := x.e.Mask.Text(all.String()); clean != all.String() {
		x.note(r)
		return nil, refuse(kindBlocked, "the upstream server's answer is blocked: a secret stands in its headers")
	}
	if s := x.reply.Session; s != "" {
		if x.session != "" && s != x.session {
			return nil, refuse(kindBlocked, "the upstream server's answer is blocked: it names another session than the request")
		}
		if clean, _ := x.e.Mask.Text(s); clean != s {
			return nil, refuse(kindBlocked, "the upstream server's answer is blocked: a secret stands in its session id")
		}
		// Sessions begin with initialize. Some servers name one in any answer, to
		// server/discover even: a client that took it up would be refused with it.
		if x.session != "" || x.opens() {
			pass.Set("Mcp-Session-Id", s)
		}
	}
	if x.r.Method == http.MethodDelete && x.reply.Status < 300 {
		x.sessionGone()
	}
	return pass, nil
}

// opens tells whether the answer may open a session.
func (x *exchange) opens() bool { return x.msg != nil && x.msg.Method == "initialize" }

// release lets the reply's headers go: the answer is about to leave. A session
// that an initialize has opened becomes this caller's.
func (x *exchange) release() error {
	if s := x.pass.Get("Mcp-Session-Id"); s != "" && x.session == "" && x.opens() {
		evicted, ok := x.e.session.bind(session{id: s, server: x.server, owner: x.ownerKey(), via: x.via, speaker: x.speaker()}, x.place)
		x.e.endSessions(x.force, evicted, endedForRoom)
		if !ok {
			return refuse(kindUnavailable, "too many sessions are open: try again later")
		}
		x.bound = true
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
	case s >= 200 && s < 300, passes(s):
		return s
	case x.msg != nil && x.msg.Kind == wire.Request:
		return http.StatusOK
	}
	return http.StatusBadGateway
}

// passes tells whether a failure's status goes through: those by which clients
// tell what a server does not know.
func passes(status int) bool {
	return status == http.StatusBadRequest || status == http.StatusNotFound || status == http.StatusMethodNotAllowed
}

func (x *exchange) answerJSON() error {
	came := x.clock(partUpstream)
	ev, err := x.reply.Next()
	came()
	if err != nil && !errors.Is(err, io.EOF) {
		return x.upstreamFailed(err)
	}
	if len(bytes.TrimSpace(ev.Data)) == 0 {
		if x.msg != nil && x.msg.Kind == wire.Request {
			return refuse(kindUpstream, "the upstream server answered a request with nothing (status %d)", x.reply.Status)
		}
		if err := x.recordEnd(httpStatus(x.reply.Status), "", nil); err != nil {
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
	if err := x.recordEnd(outcome(m), "", clean); err != nil {
		return refuse(kindUnavailable, "the record cannot be written, so the answer is withheld: %w", err)
	}
	if err := x.release(); err != nil {
		return err
	}
	x.answers.Keep(cap(clean)) // all that is held while the client takes its time
	x.out.message(x.status(), clean)
	x.delivered(clean)
	return nil
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
