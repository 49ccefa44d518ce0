package enforcer

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"countersign/audit"
	"countersign/enforcer/hub"
	"countersign/enforcer/wire"
	"countersign/rules"
)

// The endpoint for all servers, /mcp. It knows who asks, and hands what is
// asked to the endpoints of the single servers, in process: there each message
// goes the way of any call, and there it is recorded, with a note that it came
// by here. Recorded here is what this endpoint answers or refuses by itself.

const (
	allServers = "/mcp"
	every      = "*" // stands for a server's name in what is recorded and measured here
)

type viaKey struct{}

// via is the endpoint that a request in process came by.
func via(ctx context.Context) string {
	s, _ := ctx.Value(viaKey{}).(string)
	return s
}

func (e *Enforcer) serveAll(w http.ResponseWriter, r *http.Request) {
	e.serve(w, r, every, (*exchange).runAll)
}

// runAll is the way of a request to the endpoint for all servers.
func (x *exchange) runAll(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		x.door,     // host, origin, HTTP method
		x.identify, // bearer token → subject and client
		x.readAll,  // body, one strict parse, mirrored headers
		x.admit,    // not stopping, policy still in force
		x.unfrozen, // as a whole: single servers are looked at on their way
		x.spread,   // to the servers that it concerns
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// readAll is read without a server; whose a session is, the hub knows.
func (x *exchange) readAll(ctx context.Context) error {
	if x.force = x.e.force.Load(); x.force == nil {
		return refuse(kindUnavailable, "no policy is in force: see /readyz")
	}
	if err := x.headers(); err != nil {
		return err
	}
	x.session = x.r.Header.Get("Mcp-Session-Id")
	if err := x.readMessage(ctx); err != nil {
		return err
	}
	if x.msg == nil {
		x.req.Method = "notifications/" + map[string]string{http.MethodGet: "stream", http.MethodDelete: "session-end"}[x.r.Method]
	}
	return x.sessionless()
}

// spread finds out which servers the request may concern, and has the hub
// answer it.
func (x *exchange) spread(ctx context.Context) error {
	ctx = context.WithValue(ctx, viaKey{}, allServers)
	if x.msg != nil {
		ctx = context.WithValue(ctx, originKey{}, x.msg)
	}
	if x.endless() { // a stop does not wait for it
		var end context.CancelFunc
		ctx, end = context.WithCancel(ctx)
		defer context.AfterFunc(x.e.lifetime, end)()
		defer end()
	}
	var servers []string
	for _, s := range x.force.policy.Servers() {
		if x.force.policy.Reaches(rules.Request{
			Subject: x.caller.Subject, Client: x.caller.Client, Server: s.Name, Source: x.source, Method: "tools/list", Now: x.e.Now(),
		}) {
			servers = append(servers, s.Name)
		}
	}
	if err := x.hand(ctx, servers); !errors.Is(err, hub.ErrCut) {
		return hubRefusal(err)
	}
	return x.cut()
}

// hand has the hub answer, of these servers.
func (x *exchange) hand(ctx context.Context, servers []string) error {
	// The calls that this one becomes are counted themselves: it must not wait
	// for them with more in its hands than it holds.
	x.asked.Keep(len(x.raw))
	set := x.force.policy.Settings()
	w := &timed{ResponseWriter: x.w}
	defer func() { x.out.sent, x.out.stream, x.out.begun = w.sent, w.stream(), w.sent }() // for whatever is said after it
	return x.e.hub.Serve(ctx, w, &hub.Call{
		Request: x.r, Message: x.msg, Owner: x.ownerKey(), Servers: servers,
		Limits: wire.Limits{Bytes: int(set.MaxResponse), Depth: set.MaxDepth}, Room: x.e.room.answers, Answered: x.answered,
	})
}

// cut ends a stream of this endpoint whose opening stands in the record as
// answered. If a freeze is what ended it, the client is told so: in a comment,
// or, where a subscription waits for its response, in that.
func (x *exchange) cut() error {
	why := x.stopped()
	if why == nil {
		return nil // the client has left, or the enforcer stops
	}
	if x.msg == nil {
		return x.endFrozen(why)
	}
	ref := refuse(kindFrozen, "%w", why)
	if err := x.recordStream(audit.KindClose, audit.StatusFrozen, ref.Error()); err != nil {
		return refuse(kindUnavailable, "the record cannot be written: %w", err)
	}
	x.tell(ref, x.e.words(ref.Error(), 2048))
	return nil
}

// answered makes durable that the endpoint answers by itself: nothing of this
// request went to a server, or what did is in the record under its own call.
func (x *exchange) answered(words string) error {
	if why := x.stopped(); why != nil { // what is left to say was gathered from servers that had to refuse
		return refuse(kindFrozen, "%w", why)
	}
	x.decision.Policy = x.force.policy.Commit()
	en := x.entry(audit.KindOutcome)
	en.Status, en.Reason, en.Millis = "ok", x.e.words(words, 2048), millis(x.e.Now().Sub(x.start))
	en.Detail = x.facts("")
	if err := x.append(en); err != nil {
		return refuse(kindUnavailable, "the record cannot be written, so the answer is withheld: %w", err)
	}
	x.closed, x.outcome = true, "ok"
	x.e.metrics.ended(x, "ok")
	return nil
}

// hubRefusal says a refusal of the hub in the pipeline's words.
func hubRefusal(err error) error {
	var ref *hub.Refusal
	if !errors.As(err, &ref) {
		return err
	}
	kinds := map[hub.Kind]kind{
		hub.BadRequest: kindBadRequest, hub.NoSession: kindNoSession, hub.Unknown: kindUnknown, hub.NoMethod: kindNoMethod,
		hub.Version: kindVersion, hub.Unavailable: kindUnavailable, hub.Broken: kindUpstream, hub.Cancelled: kindCancelled,
	}
	return &refusal{kind: kinds[ref.Kind], cause: ref, data: ref.Data}
}

// timed gives each write its time, as an outlet does: a client that does not
// read holds up nothing else. It notes what has been sent.
type timed struct {
	http.ResponseWriter
	sent bool
}

func (t *timed) Unwrap() http.ResponseWriter { return t.ResponseWriter }

func (t *timed) WriteHeader(status int) {
	t.sent = true
	t.ResponseWriter.WriteHeader(status)
}

func (t *timed) Write(b []byte) (int, error) {
	t.sent = true
	// The deadline is the connection's, so it is of the wall clock. A writer
	// that has none (a test's) never blocks.
	_ = http.NewResponseController(t.ResponseWriter).SetWriteDeadline(time.Now().Add(writeLimit))
	return t.ResponseWriter.Write(b)
}

func (t *timed) stream() bool {
	return t.sent && strings.HasPrefix(t.Header().Get("Content-Type"), "text/event-stream")
}
