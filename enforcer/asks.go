package enforcer

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"countersign/audit"
	"countersign/enforcer/upstream"
	"countersign/enforcer/wire"
	"countersign/rules"
)

// serverAsks decides what the upstream asks of the client (sampling,
// elicitation, roots). Refused unless a rule allows: the upstream then gets an
// error, and the client never sees it.
func (x *exchange) serverAsks(m *wire.Message) (bool, error) {
	d := x.force.policy.Decide(rules.Request{
		Subject: x.caller.Subject, Client: x.caller.Client, Server: x.server, Source: x.source,
		Method: m.Method, FromServer: true, Args: m.Bytes(m.Params), Now: x.e.Now(),
	})
	d.Reason, _ = x.e.Mask.Text(d.Reason)
	if x.task != nil { // a task's call has no connection to a client
		d.Effect, d.Reason = rules.Deny, noAsking
	}
	if d.Effect == rules.Allow {
		return true, x.recordServer(audit.KindIntent, m, d.Effect, d)
	}
	if err := x.recordServer(audit.KindRefused, m, rules.Deny, d); err != nil {
		return false, refuse(kindUnavailable, "the record cannot be written: %w", err)
	}
	answer := wire.ErrorReply(m.ID, codeRefused, "refused by the client's gateway: "+d.Reason, nil)
	parsed, err := wire.Parse(answer, wire.Limits{})
	if err != nil {
		return false, err
	}
	room := x.e.room.answers.Share()
	defer room.Free()
	reply, err := x.force.upstreams[x.server].Send(context.WithoutCancel(x.r.Context()), &upstream.Request{
		Verb: http.MethodPost, Header: http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"}},
		Body: answer, Message: parsed, Session: x.session, Holder: x.ownerKey(), Inject: x.inject,
		Room: room, Live: x.live(),
	})
	if err != nil {
		x.e.Log.Warn("the upstream could not be told that its request was refused", "server", x.server, "method", m.Method, "err", err)
		return false, nil
	}
	return false, reply.Close()
}

// noAsking is why a call that runs for a task cannot ask its client.
const noAsking = "the call waited for approval as a task, and runs without a connection to its client, which cannot be asked"

// inputAsks decides what a server asks of the client otherwise than by a request
// of its own:
//
//   - inputRequests of a result, by names of its choice (2026-07-28, multi
//     round-trip requests), and of a notification (the tasks extension);
//   - data.elicitations of an error, a list of what elicitation/create has for
//     its params (2025-11-25, URLElicitationRequiredError). The error's code is
//     not looked at: a client may take more for -32042 than we would.
//
// Each is decided as the request would be. If one is refused the whole message
// is, since the client answers all or none.
func (x *exchange) inputAsks(m *wire.Message) (err error) {
	if !m.AsksInput {
		return nil
	}
	in := m.Result
	if m.Kind == wire.Notification {
		in = m.Params
	}
	alike(m, in, "inputRequests", func(asks wire.Span) bool {
		if b := m.Bytes(asks); b[0] != '{' && string(b) != "null" {
			err = refuse(kindBlocked, "the upstream server's answer is blocked: its inputRequests are not an object")
		}
		m.Members(asks, func(_ []byte, ask wire.Span) bool {
			var method string
			if at, ok := m.Member(ask, "method"); ok {
				method, _ = m.Text(at)
			}
			params, _ := m.Member(ask, "params")
			err = x.inputAsk(method, m.Bytes(params))
			return err == nil
		})
		return err == nil
	})
	alike(m, m.ErrorObj, "data", func(data wire.Span) bool {
		alike(m, data, "elicitations", func(asks wire.Span) bool {
			if b := m.Bytes(asks); b[0] != '[' && string(b) != "null" {
				err = refuse(kindBlocked, "the upstream server's answer is blocked: its elicitations are not a list")
			}
			m.Elements(asks, func(ask wire.Span) {
				if err == nil {
					err = x.inputAsk("elicitation/create", m.Bytes(ask))
				}
			})
			return err == nil
		})
		return err == nil
	})
	return err
}

// alike visits the members of an object that some client might take for key,
// until visit returns false.
func alike(m *wire.Message, object wire.Span, key string, visit func(wire.Span) bool) {
	m.Members(object, func(name []byte, value wire.Span) bool {
		return !strings.EqualFold(string(name), key) || visit(value)
	})
}

func (x *exchange) inputAsk(method string, params []byte) error {
	d := x.force.policy.Decide(rules.Request{
		Subject: x.caller.Subject, Client: x.caller.Client, Server: x.server, Source: x.source,
		Method: method, FromServer: true, Args: params, Now: x.e.Now(),
	})
	if x.task != nil {
		d.Effect, d.Reason = rules.Deny, noAsking
	}
	kind, effect := audit.KindIntent, rules.Allow
	if d.Effect != rules.Allow {
		kind, effect = audit.KindRefused, rules.Deny
	}
	if err := x.recordServer(kind, &wire.Message{Method: method}, effect, d); err != nil {
		return refuse(kindUnavailable, "the record cannot be written: %w", err)
	}
	if effect == rules.Deny {
		return x.denied("refused by the client's gateway: the server asks the client for " + clip(method, 128) + ": " + d.Reason)
	}
	return nil
}

// notifies tells whether a notification goes on to the client. One that asks for
// what no rule allows does not, which inputAsk has recorded: nobody waits for
// it, and the stream goes on.
func (x *exchange) notifies(m *wire.Message) (bool, error) {
	err := x.inputAsks(m)
	var ref *refusal
	if errors.As(err, &ref) && ref.kind == kindDenied {
		return false, nil
	}
	return err == nil, err
}
