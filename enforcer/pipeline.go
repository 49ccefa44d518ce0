package enforcer

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"countersign/audit"
	"countersign/enforcer/budget"
	"countersign/enforcer/credential"
	"countersign/enforcer/identity"
	"countersign/enforcer/upstream"
	"countersign/enforcer/wire"
	"countersign/rules"
)

// exchange is one HTTP request on its way through the gate.
type exchange struct {
	e      *Enforcer
	w      http.ResponseWriter
	r      *http.Request
	out    outlet // what the client gets; knows whether a stream has begun
	id     string // the call id: the name of this exchange in the record
	start  time.Time
	server string // from the path; a name of the policy once decided
	via    string // the endpoint for all servers, where the call came by it

	source    string // the caller's IP address
	caller    identity.Caller
	force     *force        // the policy in force, loaded once for this exchange
	raw       []byte        // the body as received
	msg       *wire.Message // nil for GET and DELETE
	session   string        // legacy session id, "" if none
	req       rules.Request
	decision  rules.Decision
	digest    string // keyed digest of what was asked
	binds     string // what an approval is bound to, and
	whose     string // the holder that has it; see bind
	canonical []byte // what was asked; see canon

	quota    string            // id of the quota that refused it
	retry    time.Duration     // when to try again, if the refusal says
	approval string            // id, when a person approved it, or is asked to
	ticket   *ticket           // that a retry brought, and its request is without
	origin   *wire.Message     // what the client sent, where that is not msg; see client
	task     *task             // that the call runs for
	chained  *task             // of ours, which the request asks for by the server's id
	took     func([]byte)      // gets the answer, as the client would
	refused  *refusal          // how it ended, if early
	lease    *credential.Lease // nil when no credential is injected
	perCall  bool              // it was minted for this call alone
	inject   upstream.Injection
	body     []byte            // what is forwarded: raw, and the listed splices
	sent     *wire.Message     // what body was before a credential went into it: msg, or msg without secrets
	spliced  map[string][]byte // arguments of it whose headers must follow
	hidden   map[string][]byte // what arguments were, and what was sent instead: for headers
	reply    *upstream.Reply
	held     held          // of its stream, where policy buffers
	asked    *budget.Share // what the request's bytes are counted in
	answers  *budget.Share // and the answer's
	sending  *budget.Share // an event's, while it is written
	pass     http.Header   // of the reply, to go out with it
	place    *session      // kept for the session that an initialize opens
	bound    bool          // that session is the caller's
	cleanup  []func()
	turn     uint64 // of the server's tools, before it was asked: see sights

	cancelled atomic.Bool     // by the client, in a notification
	ice       context.Context // ends, with the *freeze.Stopped as its cause, when a freeze reaches the exchange
	halt      context.CancelCauseFunc
	reachable bool // by a freeze

	spent     bool      // the approval is used by this call
	window    time.Time // the end of the window that it runs on; zero: it is used up
	owes      string    // under which its answer is kept, if the client leaves
	intended  bool      // the intent is in the record: an outcome must follow
	forwarded bool      // the upstream may have run it
	closed    bool      // the outcome is in the record
	outcome   string    // as recorded
	masked    []audit.Masked
	splices   []audit.Splice
	voices    []voice                    // by which it runs
	events    int                        // of its stream, so far
	opened    bool                       // its stream is open, as the record has it
	spends    spends                     // where its time went
	named     struct{ key, name string } // see holderName
}

// run is the whole way of one request. Each step hands on, or ends the
// exchange with a *refusal; every refusal is recorded by the caller.
func (x *exchange) run(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		x.door,     // host, origin, HTTP method
		x.identify, // bearer token → subject and client
		x.read,     // body, one strict parse, mirrored headers, session owner
		x.call,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// call is the way of a message that has been read, from whom is known.
func (x *exchange) call(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		x.admit,      // not stopping, policy still in force
		x.own,        // what is asked about a task of ours is answered here
		x.decide,     // the policy's decision
		x.unfrozen,   // by nobody; asked again before an approval is spent
		x.worded,     // an argument that a credential replaces: as the policy knows it
		x.meter,      // the policy's quotas, and room for an answer
		x.foreseen,   // what a pin or the credential would stop stops before a person is asked
		x.approve,    // a person's, where policy asks; decided again, spent once
		x.unasked,    // a task's call that needs no approval any more: from here on it may run
		x.intend,     // the intent, durable
		x.credential, // minted or reused, and spliced in
		x.pinned,     // a locked server's tool: offered as it was reviewed
		x.unfrozen,   // still
		x.forward,    // to the upstream
		x.answer,     // masked, the outcome durable, then released
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// decide asks the policy about the message as it came.
func (x *exchange) decide(ctx context.Context) error {
	x.req = rules.Request{
		Subject: x.caller.Subject, Client: x.caller.Client, Server: x.server, Source: x.source, Now: x.e.Now(),
	}
	switch {
	case x.msg == nil: // GET opens a stream, DELETE ends a session: part of the protocol's baseline
		x.req.Method = "notifications/" + map[string]string{http.MethodGet: "stream", http.MethodDelete: "session-end"}[x.r.Method]
	case x.msg.Kind == wire.Response: // the client answers what the server was allowed to ask
		x.req.Method = "notifications/response"
	default:
		x.req.Method, x.req.Tool, x.req.Resource = x.msg.Method, x.msg.Name, x.msg.URI
		x.req.Args = x.msg.Bytes(x.msg.Arguments)
	}
	x.e.room.works(len(x.raw), func() {
		x.digest = x.e.digest(x.msg, x.canon())
		x.decision = x.ask()
	})
	x.e.metrics.decided(x)
	if x.decision.Effect == rules.Deny {
		return x.denied(x.decision.Reason)
	}
	return x.mirrored() // not before: who may not call a tool learns nothing of it
}

// ask has the policy decide, and masks what its words may quote of the
// arguments: errors of conditions, and reasons made of them.
func (x *exchange) ask() rules.Decision {
	d := x.force.policy.Decide(x.req)
	if d.Effect != rules.Deny && x.msg != nil {
		x.subscribes(&d)
	}
	d.Reason, _ = x.e.Mask.Text(d.Reason)
	for i := range d.Trace {
		d.Trace[i].Err, _ = x.e.Mask.Text(d.Trace[i].Err)
	}
	return d
}

// subscribes has each resource of a subscriptions/listen decided as a
// resources/subscribe, which the era of sessions has one of for each. One that
// is not allowed ends the whole: a server that were sent the others would
// acknowledge what the client did not ask for.
func (x *exchange) subscribes(d *rules.Decision) {
	req := x.req
	req.Method, req.Args = "resources/subscribe", nil
	for _, req.Resource = range x.msg.Subscribes {
		each := x.force.policy.Decide(req)
		why := ""
		switch {
		case each.Effect == rules.Approve:
			why = "subscribing to it needs approval, which subscriptions/listen cannot wait for: " + each.Reason
		case each.Effect == rules.Deny:
			why = each.Reason
		case each.Credential != d.Credential:
			why = "the policy names another credential for resources/subscribe than for subscriptions/listen."
		}
		if each.Record == rules.RecordDigest {
			d.Record = each.Record
		}
		for _, m := range each.Trace { // a rule that decides about many stands there once
			if m.Matched && !slices.ContainsFunc(d.Trace, func(had rules.Match) bool { return had.Rule == m.Rule && had.Matched }) {
				d.Trace = append(d.Trace, m)
			}
		}
		if why != "" {
			*d = rules.Decision{Record: d.Record, Effect: rules.Deny, Reason: fmt.Sprintf("Resource %q: %s", clip(req.Resource, 256), why), Trace: d.Trace, Policy: d.Policy}
			return
		}
	}
}

// credential mints or reuses what the decision names, and splices it in on
// the upstream side.
func (x *exchange) credential(ctx context.Context) error {
	x.body = x.raw
	if err := x.hideSecrets(); err != nil {
		return err
	}
	name := x.decision.Credential
	if name == "" {
		return nil
	}
	spec, ok := x.force.credential(x.server, name)
	if !ok {
		return refuse(kindUnavailable, "policy names credential %q, which server %q does not define", name, x.server)
	}
	if err := x.worded(ctx); err != nil { // the policy may have changed while a person was asked
		return err
	}
	if x.e.Credentials == nil {
		return refuse(kindUnavailable, "credential %q needs Vault (VAULT_ADDR), or an issuer (COUNTERSIGN_TOKEN_EXCHANGE), and neither is configured", name)
	}
	ask, err := x.asks(spec)
	if err != nil {
		return err
	}
	had := x.clock(partCredential)
	lease, err := x.e.Credentials.Acquire(ctx, x.holder(), x.id, ask)
	had()
	switch {
	case err != nil && ctx.Err() != nil:
		return refuse(kindCancelled, "cancelled by the client before it was forwarded; nothing ran")
	case err != nil:
		return refuse(kindUnavailable, "credential %q could not be had: %w", name, err)
	}
	x.lease, x.perCall = lease, spec.PerCall
	return x.splice(spec.Inject)
}

// forward sends the message on. From here on it may have run.
func (x *exchange) forward(ctx context.Context) error {
	up, ok := x.force.upstreams[x.server]
	if !ok {
		return refuse(kindUnavailable, "server %q is not in the policy", x.server)
	}
	if x.cancelled.Load() || ctx.Err() != nil { // while the credential was minted, say
		return refuse(kindCancelled, "cancelled by the client before it was forwarded; nothing ran")
	}
	if err := x.openable(up); err != nil {
		return err
	}
	header := forwardHeader(x.r.Header, x.msg)
	if err := x.hideInHeaders(header); err != nil {
		return err
	}
	x.noteSplices(x.e.mirrors.follow(header, x.server, x.req.Tool, x.spliced))
	x.forwarded = true
	came := x.clock(partUpstream)
	reply, err := up.Send(x.buffers(x.upstreamContext(ctx)), &upstream.Request{
		Verb: x.r.Method, Header: header, Body: x.body, Message: x.msg,
		Session: x.session, Holder: x.ownerKey(), Inject: x.inject, LastEventID: x.r.Header.Get("Last-Event-ID"),
		Room: x.answers, Live: x.live(),
	})
	came()
	if err != nil {
		x.forwarded = !errors.Is(err, upstream.ErrNotSent)
		if errors.Is(err, upstream.ErrSessionGone) && !errors.Is(err, upstream.ErrSessionEnd) {
			x.sessionGone()
		}
		return x.upstreamFailed(err)
	}
	x.reply = reply
	return nil
}
