package enforcer

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"countersign/audit"
	"countersign/enforcer/credential"
	"countersign/enforcer/freeze"
	"countersign/enforcer/upstream"
	"countersign/enforcer/wire"
)

// What a freeze covers is refused before anything is done for it; and what is
// under way when a freeze takes effect is ended: a caller that waits for a
// person is sent home, a stream is closed, a call that was forwarded is
// cancelled at the upstream, and the leases are revoked.

// running are the exchanges that a freeze can reach: every one from its
// decision to its end.
type running struct {
	mu      sync.Mutex
	m       map[*exchange]freeze.Call
	severed severed
}

func (r *running) init() { r.m = map[*exchange]freeze.Call{} }

// add has a freeze reach the exchange until the returned func is called.
func (r *running) add(x *exchange, c freeze.Call) func() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.m[x] = c
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.m, x)
	}
}

// halt ends what the freeze covers, and returns the ids of these calls.
func (r *running) halt(f freeze.Freeze) map[string]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	ids := map[string]bool{}
	for x, c := range r.m {
		if f.Stops(c) {
			ids[x.id] = true
			r.severed.add(x)
			x.halt(&freeze.Stopped{Freeze: f})
		}
	}
	return ids
}

// freezable makes the exchange's context one that a freeze can end. The
// returned func gives back what that holds.
func (x *exchange) freezable(ctx context.Context) (live context.Context, done func()) {
	ice, cut := context.WithCancelCause(context.Background())
	live, end := context.WithCancelCause(ctx)
	x.ice, x.halt = ice, func(why error) { cut(why); end(why) }
	return live, func() { x.halt(nil) }
}

// unfrozen refuses what a freeze covers, and everything while it is not known
// what is frozen. A freeze that takes effect after this looked finds the
// exchange among those running, since it is entered there before.
func (x *exchange) unfrozen(ctx context.Context) error {
	c := freeze.Call{
		Issuer: x.caller.Subject.Issuer, Sub: x.caller.Subject.Sub, Client: x.caller.Client, Server: x.req.Server, Tool: x.req.Tool,
		Alias: x.e.naming.Pseudonym(x.caller.Subject.Issuer, x.caller.Subject.Sub),
	}
	if !x.reachable {
		x.reachable = true
		x.cleanup = append(x.cleanup, x.e.running.add(x, c))
	}
	err := x.e.Freezes.Check(c)
	var stopped *freeze.Stopped
	switch {
	case errors.As(err, &stopped):
		return refuse(kindFrozen, "%w", err)
	case err != nil:
		return refuse(kindUnavailable, "%w", err)
	}
	return nil
}

// stopped is the freeze that ended the exchange; nil if none did.
func (x *exchange) stopped() *freeze.Stopped {
	var stopped *freeze.Stopped
	if x.ice == nil {
		return nil
	}
	// By way of the endpoint for all servers, the freeze may have reached that
	// exchange first, and this one as the end of its request.
	if !errors.As(context.Cause(x.ice), &stopped) && !errors.As(context.Cause(x.r.Context()), &stopped) {
		return nil
	}
	return stopped
}

// orFrozen is why an exchange ended, where a freeze is what ended it: the parts
// that it was cut off in know of a cancellation only.
func (x *exchange) orFrozen(err error) error {
	var ref *refusal
	if !errors.As(err, &ref) {
		return err
	}
	switch why := x.stopped(); {
	case ref.kind == kindFrozen:
		err = ref.cause
	case why != nil && (ref.kind == kindCancelled || ref.kind == kindUpstream || ref.kind == kindUnavailable):
		err = why
	default:
		return ref
	}
	if !x.forwarded {
		return refuse(kindFrozen, "%w; nothing ran", err)
	}
	x.cancelUpstream("frozen")
	return refuse(kindFrozen, "%w; the call was with the server already: it was cancelled there, and may have run", err)
}

// endFrozen ends a stream that a freeze covers. A request still gets its
// answer, which says so; a stream that answers nothing ends with a comment.
func (x *exchange) endFrozen(why *freeze.Stopped) error {
	if x.msg != nil && x.msg.Kind == wire.Request && !x.closed {
		return refuse(kindFrozen, "%w", why)
	}
	var err error
	if x.closed {
		x.opened = false
		err = x.recordStream(audit.KindClose, audit.StatusFrozen, why.Error())
	} else {
		err = x.recordEnd(audit.StatusFrozen, why.Error(), nil)
	}
	if err != nil {
		return refuse(kindUnavailable, "the record cannot be written: %w", err)
	}
	x.out.write([]byte(": " + x.e.words(why.Error(), 2048) + "\n\n"))
	return nil
}

// cancelLimit is how long an upstream may take to hear that a call is
// cancelled.
const cancelLimit = 10 * time.Second

// cancelUpstream tells the upstream that a call is cancelled. In the legacy era
// a connection that closes does not say so (2025-11-25, streamable HTTP,
// "Sending messages"). Recorded now, before the call's outcome; sent when the
// client has its answer.
func (x *exchange) cancelUpstream(why string) {
	if x.msg == nil || x.msg.Kind != wire.Request || x.msg.Modern() || x.msg.Method == "initialize" || x.closed {
		return
	}
	note := []byte(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":` + string(x.msg.ID) + `,"reason":` + string(wire.Quote(why)) + `}}`)
	m, err := wire.Parse(note, wire.Limits{})
	up := x.force.upstreams[x.server]
	if err != nil || up == nil {
		return
	}
	en := x.entry(audit.KindIntent)
	en.Method, en.Tool, en.Resource, en.Digest = m.Method, "", "", ""
	en.Reason = "the call is " + why + ": the server is told that it is cancelled"
	if err := x.append(en); err != nil {
		x.e.Log.Error("the upstream is not told that a frozen call is cancelled: the record cannot be written", "call", x.id, "err", err)
		return
	}
	header := http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"}}
	if v := x.r.Header.Get("Mcp-Protocol-Version"); v != "" {
		header.Set("Mcp-Protocol-Version", v)
	}
	inject := x.inject
	if at, _ := x.force.policy.Server(x.server); at.URL != "" && inject.Cert == "" {
		inject.Key = "" // the same freeze ends the lease, and what is under way with it: this still goes out
	}
	x.cleanup = append(x.cleanup, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(x.r.Context()), cancelLimit)
		defer cancel()
		reply, err := up.Send(ctx, &upstream.Request{
			Verb: http.MethodPost, Header: header, Body: note, Message: m, Session: x.session, Holder: x.ownerKey(), Inject: inject,
		})
		if err == nil {
			err = reply.Close()
		}
		if err != nil && !errors.Is(err, io.EOF) {
			x.e.Log.Warn("the upstream could not be told that a frozen call is cancelled", "call", x.id, "err", err)
		}
	})
}

// froze ends what a freeze covers that has just taken effect, set here or by
// another enforcer.
func (e *Enforcer) froze(f freeze.Freeze) {
	ended := e.running.halt(f)
	e.Log.Warn("frozen", "freeze", f.ID, "what", f.Target.String(), "by", f.By, "reason", f.Reason, "ended", len(ended))
	if e.Credentials == nil {
		return
	}
	// Vault may take its time. At a stop nobody waits for this: all leases are
	// revoked then.
	go e.Credentials.EndNow(context.Background(), func(l credential.LeaseInfo) bool {
		return e.frozenLease(f, l) || l.PerCall && ended[l.Call]
	})
}

// frozenLease tells whether a freeze covers whatever the lease could be used
// for. A holder's lease serves all tools, so a freeze of a tool leaves it.
func (e *Enforcer) frozenLease(f freeze.Freeze, l credential.LeaseInfo) bool {
	of := holderOf(l.Holder)
	of.Alias = e.naming.Pseudonym(of.Issuer, of.Sub)
	return f.Stops(of)
}

// holderOf reads a holder's key; see exchange.holder.
func holderOf(key string) freeze.Call {
	parts := strings.Split(key, "|")
	if len(parts) != 4 {
		return freeze.Call{}
	}
	for i := range parts {
		parts[i] = unescapePart.Replace(parts[i])
	}
	issuer, sub, _ := strings.Cut(parts[0], "#") // an issuer's URL has no fragment
	return freeze.Call{Issuer: issuer, Sub: sub, Client: parts[1], Server: parts[2]}
}

// endFrozenLeases ends what was minted at the very moment of a freeze, after
// froze had looked.
func (e *Enforcer) endFrozenLeases(ctx context.Context) {
	all := e.Freezes.List()
	if len(all) == 0 {
		return
	}
	e.Credentials.EndNow(ctx, func(l credential.LeaseInfo) bool {
		for _, f := range all {
			if e.frozenLease(f, l) {
				return true
			}
		}
		return false
	})
}
