package upstream

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"countersign/enforcer/budget"
	"countersign/enforcer/wire"
)

// StdioConfig describes a server that is spawned and speaks on its standard
// streams, one message a line.
type StdioConfig struct {
	Command []string // found with our PATH; the process itself gets only Env
	Env     []string // all of its environment, NAME=value; nothing is inherited
	Dir     string
	// MaxProcesses bounds the processes of this server, those that are ending
	// included. 32 if zero.
	MaxProcesses int
	Pool         *Pool             // bounds them with those of other servers; may be nil
	Resources    Resources         // of each process
	MaxMessage   int               // bytes of one line; 8 MiB if zero
	MaxDepth     int               // of the JSON in it; 64 if zero
	Room         *budget.Pool      // what the lines that wait for a reader are counted in; nil: they are not
	Timeout      time.Duration     // until the first message of an answer, a start included; 60 s if zero
	Idle         time.Duration     // silence within the stream that answers a request; no bound if zero
	Stderr       func(line string) // not yet masked, bounded in rate; may be nil
	Grace        time.Duration     // between asking a process to end and killing it; 5 s if zero
	Now          func() time.Time  // the clock of restarts and of the log's bound; time.Now if nil
	// Private is the folder for Injection.Files: ours alone, and made by
	// ClearPrivate. Without it no file can be injected.
	Private string
	Warn    func(text string) // what a person should look at, not yet masked; may be nil
	// ToolsChanged is told when a process says that its tools have changed,
	// whether or not a client listens. It must return at once. May be nil.
	ToolsChanged func()
}

// stdio runs the processes of one server.
//
// Legacy: initialize starts a process and mints a session id; the session's
// messages go to it. A call with another lease (Inject.Key) goes to another
// process of the session, which is first shown the recorded initialize and
// notifications/initialized. Modern: a process belongs to a holder and a key
// and serves its calls side by side, as long as their ids and progress tokens
// differ.
type stdio struct {
	limits
	cfg     StdioConfig
	chatter *chatter
	after   func(time.Duration, func()) // the timer of cancelled calls

	mu       sync.Mutex
	traffic  traffic
	count    int // processes that run or are being started
	restarts restarts
	procs    map[*process]struct{}
	sessions map[string]*session
	leases   map[string]*lent // of the messages that are being delivered, by key
	wait     sync.WaitGroup
	freed    chan struct{} // closed and replaced when a process has ended
}

// slot is what a modern process belongs to; of a legacy one only the key counts.
type slot struct{ holder, key string }

// lent is a lease that messages need which are being delivered: should it end,
// no process is started with it any more.
type lent struct {
	needed int
	ended  bool
}

// call is one request in flight.
type call struct {
	id       string
	token    string // its progress token, "" if none
	listen   bool   // subscriptions/listen: gets only what names it
	internal bool   // ours: gets nothing but its response
	opens    bool   // initialize: to answer that is no work yet
	mail     *mailbox
	order    uint64
	detached bool // nobody reads any more; the id stays taken until the answer
}

// Stdio returns an upstream that spawns processes.
func Stdio(cfg StdioConfig) Upstream {
	if cfg.MaxProcesses <= 0 {
		cfg.MaxProcesses = 32
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 60 * time.Second
	}
	if cfg.Grace <= 0 {
		cfg.Grace = 5 * time.Second
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Warn == nil {
		cfg.Warn = func(string) {}
	}
	if cfg.Pool == nil {
		cfg.Pool = NewPool(0)
	}
	u := &stdio{
		cfg: cfg, chatter: &chatter{say: cfg.Stderr, now: cfg.Now}, traffic: traffic{calm: calm}, restarts: restarts{},
		procs: map[*process]struct{}{}, sessions: map[string]*session{}, leases: map[string]*lent{}, freed: make(chan struct{}),
		after: func(d time.Duration, f func()) { time.AfterFunc(d, f) },
	}
	u.SetLimits(cfg.MaxMessage, cfg.MaxDepth)
	cfg.Pool.join(u)
	return u
}

func (u *stdio) Send(ctx context.Context, r *Request) (*Reply, error) {
	u.mu.Lock()
	leave, err := u.traffic.enter(&u.mu, r)
	if err == nil {
		defer u.need(r.Inject.Key)()
	}
	u.mu.Unlock()
	if err != nil {
		return nil, err
	}
	defer leave() // what is still to be answered then, is in flight in its process
	switch {
	case len(u.cfg.Command) == 0:
		return nil, unsent{fmt.Errorf("%w: the policy gives it no command", ErrDead)}
	case r.Verb == http.MethodGet:
		return u.listen(ctx, r)
	case r.Verb == http.MethodDelete:
		if _, err := u.session(r); err != nil {
			return nil, err
		}
		u.EndSession(r.Session)
		return &Reply{Status: http.StatusNoContent, Header: http.Header{}}, nil
	case r.Verb != http.MethodPost || r.Message == nil:
		return nil, unsent{fmt.Errorf("an MCP server is not asked with %q", r.Verb)}
	}
	first, cancel := context.WithTimeoutCause(ctx, u.cfg.Timeout, errTimeout)
	defer cancel()
	reply, err := u.deliver(ctx, first, r)
	if err != nil && ctx.Err() == nil && context.Cause(first) == errTimeout && errors.Is(err, context.DeadlineExceeded) {
		late := fmt.Errorf("%w: %w within %s", ErrDead, errTimeout, u.cfg.Timeout)
		if errors.Is(err, ErrNotSent) {
			return nil, unsent{fmt.Errorf("%w: it does not read its standard input, or did not start", late)}
		}
		return nil, late
	}
	return reply, err
}

// need notes that a message needs a lease. Called with u.mu held, done without.
func (u *stdio) need(key string) (done func()) {
	l := u.leases[key]
	if l == nil {
		l = &lent{}
		u.leases[key] = l
	}
	l.needed++
	return func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		if l.needed--; l.needed == 0 {
			delete(u.leases, key)
		}
	}
}

// deliver sends a message. All that comes before the first message of its
// answer is bounded by first.
func (u *stdio) deliver(ctx, first context.Context, r *Request) (*Reply, error) {
	switch {
	case r.Message.Kind != wire.Request:
		return u.tell(first, r)
	case r.Message.Method == "initialize" && !r.Message.Modern():
		return u.initialize(ctx, first, r)
	case r.Session != "":
		s, err := u.session(r)
		if err != nil {
			return nil, err
		}
		return u.retryOnce(func() (*Reply, error) {
			p, err := u.member(first, s, r.Inject)
			if err != nil {
				return nil, unsent{err}
			}
			return u.ask(ctx, first, p, r)
		})
	case !r.Message.Modern():
		return nil, unsent{&wire.Error{Code: wire.CodeInvalidRequest, Reason: "there is no session: send initialize first", ID: r.Message.ID}}
	}
	return u.retryOnce(func() (*Reply, error) {
		p, c, err := u.modern(first, r)
		if err != nil {
			return nil, unsent{err}
		}
		return u.await(ctx, first, p, c, r, true)
	})
}

// errVanished marks a request whose process ended before it saw any of it.
var errVanished = errors.New("the process ended before the request was sent")

// retryOnce covers a process that ended between being chosen and being
// written to: the request has not been sent, another process can take it.
func (u *stdio) retryOnce(send func() (*Reply, error)) (*Reply, error) {
	reply, err := send()
	if errors.Is(err, errVanished) {
		reply, err = send()
	}
	return reply, err
}

// tell delivers what gets no answer: notifications, and the client's
// responses to requests of the server.
func (u *stdio) tell(ctx context.Context, r *Request) (*Reply, error) {
	var to []*process
	m := r.Message
	if r.Session != "" {
		s, err := u.session(r)
		if err != nil {
			return nil, err
		}
		to = u.addressees(s, m, r.Body)
	} else {
		u.mu.Lock()
		for p := range u.procs {
			if p.session == nil && !p.leaving && p.slot == (slot{r.Holder, r.Inject.Key}) {
				if m.Method != "notifications/cancelled" || p.calls[idKey(m.CancelledID)] != nil {
					to = append(to, p)
				}
			}
		}
		u.mu.Unlock()
	}
	var cancelled []*call
	if m.Method == "notifications/cancelled" {
		cancelled = u.named(to, idKey(m.CancelledID))
	}
	errs := make([]error, len(to))
	var sending sync.WaitGroup
	for i, p := range to { // side by side: one that is deaf does not keep it from the others
		sending.Go(func() { errs[i] = u.hand(ctx, p, r.Body, nil) })
	}
	sending.Wait()
	for i, c := range cancelled {
		u.after(cancelGrace, func() { u.giveUp(to[i], c) })
	}
	// A process that is ending misses nothing: the one that replaces it is
	// shown initialize and notifications/initialized again.
	if ctx.Err() != nil && slices.Contains(errs, ctx.Err()) {
		if slices.Contains(errs, nil) {
			return nil, ctx.Err()
		}
		return nil, unsent{ctx.Err()}
	}
	return &Reply{Status: http.StatusAccepted, Header: http.Header{}}, nil
}

// cancelGrace is how long a process may still answer a call after it was told
// that the call is cancelled. One that honours it writes nothing more.
const cancelGrace = 5 * time.Second

// errCancelled ends a call that the server was told to cancel, and did not
// answer. It may have run.
var errCancelled = fmt.Errorf("%w: the MCP server was told, and has not answered", context.Canceled)

// named is the call with this id in each of the processes, nil where there is
// none.
func (u *stdio) named(in []*process, id string) []*call {
	u.mu.Lock()
	defer u.mu.Unlock()
	calls := make([]*call, len(in))
	for i, p := range in {
		calls[i] = p.calls[id]
	}
	return calls
}

// giveUp forgets a call whose answer will not come: its id is free again, and
// who still reads is told. An answer, should there be one after all, is nobody's.
func (u *stdio) giveUp(p *process, c *call) {
	u.mu.Lock()
	open := c != nil && p.calls[c.id] == c
	if open {
		delete(p.calls, c.id)
	}
	u.mu.Unlock()
	if open {
		c.mail.finish(errCancelled)
	}
}

// modern finds or starts the process for a call without a session, and enters
// the call there.
func (u *stdio) modern(ctx context.Context, r *Request) (*process, *call, error) {
	at := slot{r.Holder, r.Inject.Key}
	u.mu.Lock()
	for p := range u.procs {
		if p.session == nil && p.slot == at && !p.leaving {
			if c := u.enter(p, r.Message, r.Quiet); c != nil {
				u.mu.Unlock()
				return p, c, nil
			}
		}
	}
	u.mu.Unlock()
	p, err := u.spawn(ctx, nil, at, r.Inject)
	if err != nil {
		return nil, nil, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	c := u.enter(p, r.Message, r.Quiet)
	if c == nil { // another call came first, with the same id
		return nil, nil, fmt.Errorf("%w: %w", errVanished, p.why())
	}
	return p, c, nil
}

// enter registers a request as in flight; nil if its id or its progress token
// already is, or if the process takes no more calls. Needs u.mu.
func (u *stdio) enter(p *process, m *wire.Message, internal bool) *call {
	id, token := idKey(m.ID), idKey(m.ProgressToken)
	if p.leaving || p.calls[id] != nil {
		return nil
	}
	for _, other := range p.calls {
		if token != "" && other.token == token && p.session == nil {
			return nil
		}
	}
	now := u.cfg.Pool.clock.Add(1)
	c := &call{
		id: id, token: token, order: now,
		listen: m.Method == "subscriptions/listen", internal: internal, opens: m.Method == "initialize",
		mail: newMailbox(u.waiting, u.cfg.Room),
	}
	p.calls[id] = c
	p.used = now
	return c
}

// ask sends a request of a session to one of its processes.
func (u *stdio) ask(ctx, first context.Context, p *process, r *Request) (*Reply, error) {
	u.mu.Lock()
	c := u.enter(p, r.Message, r.Quiet)
	leaving := p.leaving
	u.mu.Unlock()
	switch {
	case c == nil && leaving:
		return nil, unsent{fmt.Errorf("%w: %w", errVanished, p.why())}
	case c == nil:
		return nil, unsent{&wire.Error{Code: wire.CodeInvalidRequest, Reason: "the id belongs to a request that is still in flight", ID: r.Message.ID}}
	}
	return u.await(ctx, first, p, c, r, false)
}

// await sends a registered request and waits for the first message: only then
// is it known whether the answer is one response or a stream.
func (u *stdio) await(ctx, first context.Context, p *process, c *call, r *Request, modern bool) (*Reply, error) {
	if err := u.hand(first, p, r.Body, c); err != nil {
		if first.Err() == nil {
			err = fmt.Errorf("%w: %w", errVanished, err)
		}
		return nil, unsent{err}
	}
	l, err := c.mail.next(first, nil)
	if err != nil {
		u.abandonCall(p, c, r.Message.ID, modern || context.Cause(first) == errTimeout)
		return nil, err
	}
	l = l.handed(r.Room)
	reply := &Reply{Status: http.StatusOK, Header: http.Header{}}
	reply.close = func() error {
		u.abandonCall(p, c, r.Message.ID, modern)
		return nil
	}
	if l.final {
		reply.code = l.code
		if modern {
			reply.Status = httpStatus(l.code)
		}
		reply.Header.Set("Content-Type", "application/json")
		reply.next = once(wire.Event{Raw: l.line, Data: l.line, HasData: true})
		return reply, nil
	}
	reply.stream = true
	reply.Header.Set("Content-Type", "text/event-stream")
	reply.Header.Set("X-Accel-Buffering", "no")
	begin := once(l.asEvent())
	reply.done = r.Room.Free
	reply.next = func() (wire.Event, error) {
		if e, err := begin(); err == nil {
			return e, nil
		}
		r.Room.Free()
		heard, stop := ctx, func() {}
		if u.cfg.Idle > 0 && !c.listen {
			heard, stop = context.WithTimeoutCause(ctx, u.cfg.Idle, errTimeout)
		}
		l, err := c.mail.next(heard, nil)
		if err != nil && ctx.Err() == nil && context.Cause(heard) == errTimeout {
			u.abandonCall(p, c, r.Message.ID, true)
			err = fmt.Errorf("%w: %w", ErrDead, &lateError{phase: silent, bound: u.cfg.Idle})
		}
		stop()
		if err != nil {
			return wire.Event{}, err
		}
		return l.handed(r.Room).asEvent(), nil
	}
	return reply, nil
}

// once gives an event, and does not hold on to it.
func once(e wire.Event) func() (wire.Event, error) {
	return func() (wire.Event, error) {
		if !e.HasData {
			return wire.Event{}, io.EOF
		}
		given := e
		e = wire.Event{}
		return given, nil
	}
}

// httpStatus is what 2026-07-28 wants an error response to arrive with
// (basic/transports/streamable-http): the codes that older revisions have too
// mean the same there, but came with 200.
func httpStatus(code int) int {
	switch code {
	case wire.CodeMethodNotFound:
		return http.StatusNotFound
	case wire.CodeInvalidParams, wire.CodeHeaderMismatch, wire.CodeCapability, wire.CodeVersion:
		return http.StatusBadRequest
	}
	return http.StatusOK
}

// abandonCall ends the reader's interest. If the answer is still to come, a
// modern server is told: there, closing the stream is cancelling. In a legacy
// session a disconnect is not, and the id stays taken until the answer.
func (u *stdio) abandonCall(p *process, c *call, id []byte, cancel bool) {
	u.mu.Lock()
	open := p.calls[c.id] == c
	if open {
		c.detached = true
	}
	if open && cancel {
		delete(p.calls, c.id)
	}
	u.mu.Unlock()
	c.mail.discard()
	if !open || !cancel {
		return
	}
	note := append([]byte(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":`), id...)
	p.post(append(note, "}}"...))
}

// hand gives a message to a process, that of a call entered there or of none.
// A process that did not take it in time is ended, unless it may be busy with
// other calls.
func (u *stdio) hand(ctx context.Context, p *process, message []byte, c *call) error {
	late := ctx.Err() != nil // before the process had its chance: not its fault
	err := p.send(ctx, message)
	if err == nil {
		return nil
	}
	u.mu.Lock()
	if c != nil && p.calls[c.id] == c {
		delete(p.calls, c.id)
	}
	idle := len(p.calls) == 0
	u.mu.Unlock()
	if idle && !late && context.Cause(ctx) == errTimeout {
		p.end(fmt.Errorf("%w: it does not read its standard input", ErrDead))
	}
	return err
}

// idKey makes ids comparable: two spellings of one string are one id.
func idKey(raw []byte) string {
	if len(raw) == 0 {
		return ""
	}
	if raw[0] == '"' && strings.IndexByte(string(raw), '\\') >= 0 {
		if text, ok := (&wire.Message{Raw: raw}).Text(wire.Span{Start: 0, End: len(raw)}); ok {
			return `"` + text + `"`
		}
	}
	return string(raw)
}

func newSessionID() string { return rand.Text() }
