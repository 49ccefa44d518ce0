package hub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"countersign/enforcer/wire"
)

// A client with sessions reaches servers that speak the stateless era alone
// through requests of that era, made of its own: nothing else would let it see
// them, since it knows no other revision.
//
// The message keeps its id, its progress token and its arguments, and with them
// its digest. Each request gets what it has to say of itself in that era: in
// _meta the revision, the client's name and capabilities from its initialize,
// and the log level that it last set; the mirrored headers; no session. What
// comes back is as it came: a client of the older era ignores members that it
// does not know (resultType, ttlMs, cacheScope).
//
// Capabilities by which such a server asks the client for something, in a
// result that wants the request repeated, are not declared, nor are tasks: a
// result of either kind is refused all the same. notifications/cancelled closes
// the stream, which cancels there; a connection that is lost does not, as it
// never did in the older era. Subscriptions, list_changed and tasks do not
// cross.
type stateless struct {
	s      *session // whose client speaks
	params *params
}

// ErrCancelled is the cause that ends the context of a request in process when
// the client has cancelled it.
var ErrCancelled = errors.New("cancelled by the client")

type patientKey struct{}

// Patient tells whether a request of the stateless era, in process, is made for
// a client with sessions: that its connection is lost is no cancellation then.
// A context that ends with ErrCancelled is one.
func Patient(ctx context.Context) bool { return ctx.Value(patientKey{}) != nil }

// errNoSessions: a server has refused initialize by itself.
type errNoSessions struct{ error }

// meet is the way to a server for this session: what initialize opens, or the
// other era, if that is all that the server speaks.
func (s *session) meet(ctx context.Context, x *exchange, server string) (way, error) {
	key := s.owner + "\x00" + server + "\x00alone"
	if !s.bridge {
		if w, known, ok := x.h.eras.recall(key, x.h.now()); ok {
			w.stateless = &stateless{s, known}
			return w, nil
		}
	}
	w, err := s.greet(ctx, x, server)
	var refused errNoSessions
	if err == nil || s.bridge || !errors.As(err, &refused) {
		return w, err
	}
	w, derr := x.ask(ctx, server, wire.ModernVersion, s.introduction())
	if derr != nil { // nor does it speak that: what it said first counts
		return way{}, err
	}
	w.offers.tasks = false
	known := x.h.eras.remember(key, w, x.h.now())
	w.stateless = &stateless{s, known}
	return w, nil
}

// recall is what is known of a server that speaks the stateless era alone.
func (t *eras) recall(key string, now time.Time) (way, *params, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.m[key]; e != nil && now.Sub(e.ended) <= eraKnown {
		return e.way, e.params, true
	}
	return way{}, nil, false
}

func (t *eras) remember(key string, w way, now time.Time) *params {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.m) >= maxEras {
		clear(t.m)
	}
	e := &era{ready: make(chan struct{}), way: w, ended: now, params: &params{}}
	close(e.ready)
	t.m[key] = e
	return e.params
}

func (t *eras) forget(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.m, key)
}

// introduction is what the client said of itself, as members of _meta. It does
// not declare what this way cannot serve.
func (s *session) introduction() []byte {
	m := s.hello
	at, _ := m.Member(m.Params, "capabilities")
	capabilities := members(m, at, func(name string, value wire.Span) []byte {
		switch name {
		case "sampling", "elicitation", "roots", "tasks":
			return nil
		case "extensions":
			return members(m, value, func(name string, value wire.Span) []byte {
				if name == "io.modelcontextprotocol/tasks" {
					return nil
				}
				return m.Bytes(value)
			})
		}
		return m.Bytes(value)
	})
	out := fmt.Appendf(nil, `%q:%q,"io.modelcontextprotocol/clientCapabilities":%s`, wire.MetaVersion, wire.ModernVersion, capabilities)
	if info, ok := m.Member(m.Params, "clientInfo"); ok {
		out = append(append(out, `,"io.modelcontextprotocol/clientInfo":`...), m.Bytes(info)...)
	}
	return out
}

// members is an object with those members for which keep has a value.
func members(m *wire.Message, at wire.Span, keep func(name string, value wire.Span) []byte) []byte {
	var out []byte
	m.Members(at, func(name []byte, value wire.Span) bool {
		if kept := keep(string(name), value); kept != nil {
			out = append(append(append(out, ','), wire.Quote(string(name))...), ':')
			out = append(out, kept...)
		}
		return true
	})
	return append(append([]byte{'{'}, bytes.TrimPrefix(out, []byte(","))...), '}')
}

// logLevel is what the client last asked for; "" where nothing is asked of it,
// or where the server would refuse every request for the word.
func (s *session) logLevel() string {
	s.mu.Lock()
	level := s.level
	s.mu.Unlock()
	m, err := wire.Parse(level, wire.Limits{})
	if err != nil {
		return ""
	}
	at, _ := m.Member(m.Params, "level")
	text, _ := m.Text(at)
	if !slices.Contains([]string{"debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"}, text) {
		return ""
	}
	return text
}

// statelessRequest is a request with the _meta of the stateless era.
func statelessRequest(m *wire.Message, introduction []byte, level string) []byte {
	meta := slices.Clone(introduction)
	if level != "" {
		meta = fmt.Appendf(meta, `,"io.modelcontextprotocol/logLevel":%q`, level)
	}
	own := members(m, m.Meta, func(name string, value wire.Span) []byte {
		if strings.HasPrefix(name, "io.modelcontextprotocol/") {
			return nil
		}
		return m.Bytes(value)
	})
	if len(own) > 2 {
		meta = append(append(meta, ','), own[1:len(own)-1]...)
	}
	meta = append(append([]byte{'{'}, meta...), '}')
	switch {
	case m.Meta.Present():
		return wire.Splice(m.Raw, wire.Edit{Span: m.Meta, New: meta})
	case m.Params.Present():
		first := append([]byte(`"_meta":`), meta...)
		empty := true
		m.Members(m.Params, func([]byte, wire.Span) bool { empty = false; return false })
		if !empty {
			first = append(first, ',')
		}
		at := m.Params.Start + 1
		return wire.Splice(m.Raw, wire.Edit{Span: wire.Span{Start: at, End: at}, New: first})
	}
	at := bytes.LastIndexByte(m.Raw, '}')
	return wire.Splice(m.Raw, wire.Edit{Span: wire.Span{Start: at, End: at}, New: fmt.Appendf(nil, `,"params":{"_meta":%s}`, meta)})
}

// carries refuses what does not cross. (A task that is the endpoints' own does:
// no server hears of it.)
func (n *stateless) carries(server, method string) error {
	switch {
	case n == nil:
		return nil
	case method == "resources/subscribe", method == "resources/unsubscribe":
		return refuse(NoMethod, "server %q speaks %s alone: this endpoint carries no subscriptions there for a client with sessions; read the resource again instead", server, wire.ModernVersion)
	case strings.HasPrefix(method, "tasks/"):
		return refuse(NoMethod, "server %q speaks %s alone: this endpoint carries no tasks there for a client with sessions", server, wire.ModernVersion)
	}
	return nil
}

// crossOver turns a request into one of the stateless era, and has the relay
// look at what comes back.
func (h *Hub) crossOver(ctx context.Context, c *Call, a *ask, to *relay) context.Context {
	n, server := a.way.stateless, a.way.server
	m, err := wire.Parse(a.body, wire.Limits{Bytes: len(a.body), Depth: c.Limits.Depth})
	if err != nil || m.Kind != wire.Request {
		return ctx
	}
	level := ""
	if a.way.offers.logging {
		level = n.s.logLevel()
	}
	a.body, a.own = statelessRequest(m, n.s.introduction(), level), true
	if m.Method == "tools/call" {
		a.params = http.Header{}
		wire.MirrorParams(a.params, m, n.params.of(m.Name))
	}
	take := to.take
	to.take = func(r *relay, ev wire.Event) error {
		if len(bytes.TrimSpace(ev.Data)) == 0 {
			return take(r, ev)
		}
		back, err := wire.Parse(ev.Data, r.limits)
		if err != nil {
			return err
		}
		switch {
		case back.Kind == wire.Request: // there are none in that era, and nothing that would answer it
			h.log.Warn("a server's request was dropped: there are none in the revision that it speaks", "server", server, "method", back.Method)
			return nil
		case back.Method == "notifications/cancelled": // nothing of the server's is under way
			return nil
		case back.Kind != wire.Response:
			return take(r, ev)
		}
		if m.Method == "tools/list" {
			n.params.learn(back)
		}
		switch errorCode(back) {
		case "-32020":
			n.params.unlearn()
		case "-32022": // it speaks something else now: what comes next asks again
			n.s.forget(a.way)
			h.eras.forget(n.s.owner + "\x00" + server + "\x00alone")
		}
		if r.refused = unfinished(server, back); r.refused != nil {
			return nil
		}
		return take(r, ev)
	}
	if _, list := lists[m.Method]; list { // it is waited for no longer than its client waits
		return ctx
	}
	return context.WithValue(ctx, patientKey{}, true)
}

// unfinished is the refusal of a result that a client with sessions cannot
// have; nil if it is complete.
func unfinished(server string, m *wire.Message) *Refusal {
	at, ok := m.Member(m.Result, "resultType")
	if !ok {
		return nil
	}
	switch kind, _ := m.Text(at); kind {
	case "complete":
		return nil
	case "input_required":
		return refuse(Broken, "server %q wants something from the client (elicitation, sampling or roots) before it goes on, in the way of %s, which a client with sessions does not speak: the call has not completed",
			server, wire.ModernVersion)
	case "task":
		return refuse(Broken, "server %q has made a task of the call, which was not offered to it and cannot be followed from here: the call may still be running", server)
	default:
		return refuse(Broken, "the answer of server %q is of a type that nobody knows: %s", server, quoted(kind))
	}
}

// until is a context that ends with the request's, and with ErrCancelled when
// the client has cancelled, which ends wait.
func until(ctx, wait context.Context) (context.Context, context.CancelFunc) {
	out, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(wait, func() {
		if ctx.Err() == nil {
			cancel(ErrCancelled)
		}
	})
	return out, func() { stop(); cancel(nil) }
}

// untilCancelled is such a context for a request that is sent to several.
func (x *exchange) untilCancelled(ctx context.Context) (context.Context, context.CancelFunc) {
	wait, done := x.s.waits(ctx, x.m.ID)
	out, end := until(ctx, wait)
	return out, func() { end(); done() }
}

// hangUp closes what is under way in a session that ends, and has no session at
// a server that would end with it.
func (s *session) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.running {
		for _, stop := range r.stop {
			stop()
		}
	}
}
