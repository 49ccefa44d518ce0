// Package hub is the one endpoint for many servers: /mcp, composed of the
// endpoints of the single servers, /mcp/<server>.
//
// It promises that nothing reaches a server, or comes back, but through the
// single server's endpoint: each message is handed to that handler in process,
// with the caller's own token, so that identity, policy, approval, record and
// mask see it under the server's real name, and know no difference. All that
// changes on the way is a splice that removes the server's name from tools,
// prompts, resources, tasks and ids, and one that puts it there on the way
// back; names.go says how they are spelled. Where client and server have no era
// in common, what belongs to the era changes too: bridge.go has a client of the
// stateless era reach servers that know sessions only, stateless.go a client
// with sessions those that know none.
//
// It promises further that a server that is dead, slow or refuses is left out
// of a list and hurts nothing else, that no server is asked before something
// concerns it, that an id, a cursor or a name that a client made up reaches no
// server that the client may not use, and that whatever is kept has a bound.
package hub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"countersign/enforcer/budget"
	"countersign/enforcer/wire"
)

// Config is what a Hub is made of.
type Config struct {
	// Inner serves the single servers under /mcp/<server>; the server is the
	// request's path value "server" as well. It is called by several goroutines
	// at once, and may be under way still when Serve has returned.
	Inner http.Handler
	Now   func() time.Time
	Log   *slog.Logger // behind the mask
	// Own tells whether a task is the endpoints' own and no server's, by its id
	// without the server's name; nil: none is.
	Own func(task string) bool
	// Patience is how long a merged answer waits for one server. 10 s if zero.
	Patience time.Duration
}

// Hub is the endpoint. It is safe for concurrent use.
type Hub struct {
	inner    http.Handler
	now      func() time.Time
	log      *slog.Logger
	own      func(task string) bool
	patience time.Duration
	sessions sessions
	eras     eras
	bridges  bridges
}

// New makes a Hub.
func New(c Config) *Hub {
	if c.Patience <= 0 {
		c.Patience = 10 * time.Second
	}
	if c.Own == nil {
		c.Own = func(string) bool { return false }
	}
	h := &Hub{inner: c.Inner, now: c.Now, log: c.Log, own: c.Own, patience: c.Patience}
	h.sessions.init(c.Now)
	h.eras.m = map[string]*era{}
	h.bridges.m = map[string]*session{}
	return h
}

// Call is one request to the endpoint, whose sender is known, and whose body
// has been scanned.
type Call struct {
	Request *http.Request
	Message *wire.Message // nil for GET and DELETE
	Owner   string        // who a session belongs to: subject and client; the subject ends at the first |
	Servers []string      // that this subject can reach, sorted
	Limits  wire.Limits   // of a server's message; both bounds are set
	Room    *budget.Pool  // what is held of answers is counted in; nil: it is not
	// Answered makes it durable that the endpoint answers this request by
	// itself, before the answer leaves, or says why it may not. What servers have
	// a part in is in the record already, under their own names.
	Answered func(words string) error
}

func (c *Call) limits() wire.Limits {
	// What the mask or a splice writes may be longer than what it stands for.
	return wire.Limits{Bytes: 2*c.Limits.Bytes + 64<<10, Depth: c.Limits.Depth}
}

func (c *Call) reaches(server string) bool {
	_, ok := slices.BinarySearch(c.Servers, server)
	return ok
}

// Modern tells whether the request belongs to the stateless era. Revisions are
// dates: they sort as text.
func (c *Call) modern() bool {
	return c.Message != nil && c.Message.Modern() || c.Request.Header.Get("Mcp-Protocol-Version") >= wire.ModernVersion
}

// exchange is one request on its way.
type exchange struct {
	h   *Hub
	c   *Call
	m   *wire.Message
	out *client
	s   *session // nil in the stateless era
}

// ErrCut says that a stream ended with its context: the client may be there
// still, and waits for what else is said. A subscription has no response yet.
var ErrCut = errors.New("the stream was cut off")

// Serve answers a request. A *Refusal is not yet told to the client nor
// recorded: that is the caller's to do. Any other error than ErrCut is what
// Answered said; nothing was sent then.
func (h *Hub) Serve(ctx context.Context, w http.ResponseWriter, c *Call) error {
	x := &exchange{h: h, c: c, m: c.Message, out: newClient(w, c.Request)}
	defer x.out.end()
	if c.modern() {
		return x.modern(ctx)
	}
	return x.legacy(ctx)
}

// Sweep ends the sessions that are idle or too old. What they hold at the
// servers is idle too, and ends there by itself.
func (h *Hub) Sweep() {
	h.sessions.sweep()
	h.bridges.sweep(h.sessions.expired)
}

func (x *exchange) legacy(ctx context.Context) error {
	if x.m != nil && x.m.Kind == wire.Request && x.m.Method == "initialize" {
		return x.initialize(ctx)
	}
	id := x.c.Request.Header.Get("Mcp-Session-Id")
	if id == "" {
		return refuse(BadRequest, "this endpoint keeps sessions: send initialize first, and its Mcp-Session-Id from then on")
	}
	s, leave := x.h.sessions.enter(id, x.c.Owner)
	if s == nil {
		return refuse(NoSession, "this session is unknown: initialize again")
	}
	defer leave()
	x.s = s
	switch {
	case x.m == nil && x.c.Request.Method == http.MethodGet:
		return x.listen(ctx)
	case x.m == nil:
		return x.endSession(ctx)
	case x.m.Kind == wire.Response:
		return x.response(ctx)
	case x.m.Kind == wire.Notification:
		return x.notification(ctx)
	}
	defer x.s.run(x.m.ID)()
	switch x.m.Method {
	case "ping":
		return x.answer(`{}`, "ping")
	case "logging/setLevel":
		return x.setLevel(ctx)
	}
	return x.request(ctx)
}

func (x *exchange) modern(ctx context.Context) error {
	switch {
	case x.m == nil:
		return refuse(BadRequest, "this revision of MCP has no %s", x.c.Request.Method)
	case x.m.Kind != wire.Request: // closing a stream cancels there; nothing else is told this way
		if err := x.c.Answered("concerns no server"); err != nil {
			return err
		}
		x.out.status(http.StatusAccepted, nil)
		return nil
	case x.m.ProtocolVersion != wire.ModernVersion:
		return &Refusal{Kind: Version, Reason: "this revision of MCP is not served here",
			Data: map[string]any{"supported": versions, "requested": x.m.ProtocolVersion}}
	}
	switch x.m.Method {
	case "server/discover":
		return x.discover()
	case "subscriptions/listen":
		return x.subscribe(ctx)
	case "initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe":
		return refuse(NoMethod, "method %q does not exist in this revision of MCP", x.m.Method)
	}
	return x.request(ctx)
}

// spreads refuses what would be copied for every server, if it is large: a
// question to many servers holds a name and a cursor, and who asks.
func (x *exchange) spreads() error {
	if len(x.m.Raw) > maxHello {
		return refuse(BadRequest, "%s is longer than %d bytes", x.m.Method, maxHello)
	}
	return nil
}

// request is what both eras have alike: lists are merged, everything that
// names something goes to the server that the name begins with.
func (x *exchange) request(ctx context.Context) error {
	if key, ok := lists[x.m.Method]; ok {
		return x.list(ctx, key)
	}
	t, err := x.target()
	if err != nil {
		return err
	}
	return x.single(ctx, t)
}

// reach makes a server ready for this call: in the legacy era a session is
// opened there, in the other it is asked once whether it speaks that era. With
// eager a failure of a moment ago does not count.
func (x *exchange) reach(ctx context.Context, server string, eager bool) (way, error) {
	if x.s != nil {
		return x.s.reach(ctx, x, server, eager)
	}
	return x.h.eras.reach(ctx, x, server, eager)
}

// answer is a result of our own.
func (x *exchange) answer(result, words string) error {
	if err := x.c.Answered(words); err != nil {
		return err
	}
	msg := fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%s,"result":%s}`, x.m.ID, result)
	_ = x.out.message(http.StatusOK, nil, msg) // a client that has left changes nothing: the record has it
	return nil
}

// Kind is why a request was refused here.
type Kind int

const (
	BadRequest  Kind = iota + 1 // malformed, or without a session
	NoSession                   // unknown, or another owner's: 404
	Unknown                     // a name, uri, cursor or id that leads nowhere: -32602
	NoMethod                    // -32601
	Version                     // -32022
	Unavailable                 // a server cannot be used now; nothing ran
	Broken                      // a server's answer ended early or was unreadable
	Cancelled                   // by the client, before anything was forwarded
)

// Refusal is a request that is not served, with words for the agent.
type Refusal struct {
	Kind   Kind
	Reason string
	Data   map[string]any // more for the error's data; may be nil
}

func (r *Refusal) Error() string { return r.Reason }

func refuse(k Kind, format string, args ...any) *Refusal {
	return &Refusal{Kind: k, Reason: fmt.Sprintf(format, args...)}
}

// width is how many servers one request asks at a time.
const width = 64

// each calls f for every server, side by side, and returns when all have
// returned.
func (h *Hub) each(servers []string, f func(server string)) {
	var all sync.WaitGroup
	room := make(chan struct{}, width)
	for _, s := range servers {
		room <- struct{}{}
		all.Go(func() {
			defer func() { <-room }()
			h.guard(func() { f(s) })
		})
	}
	all.Wait()
}

// guard keeps a panic in a goroutine of ours from ending the process.
func (h *Hub) guard(f func()) {
	defer func() {
		if p := recover(); p != nil {
			h.log.Error("the endpoint for all servers panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
	}()
	f()
}

// quoted is a caller's word as an answer may repeat it.
func quoted(s string) string {
	if len(s) > 128 {
		s = strings.ToValidUTF8(s[:128], "") + "…"
	}
	return fmt.Sprintf("%q", s)
}
