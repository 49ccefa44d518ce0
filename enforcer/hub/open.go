package hub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"countersign/enforcer/wire"
)

// openLink opens the session at one server: initialize as the client said it,
// in the revision that was agreed with the client, and then
// notifications/initialized.
func (s *session) openLink(ctx context.Context, x *exchange, server string, l *link) {
	w, err := way{}, errors.New("opening it failed inside")
	var told []byte // of the log level
	defer func() {
		s.mu.Lock()
		l.way, l.err, l.ended = w, err, x.h.now()
		over, level, listener, missed := s.over, s.level, s.listener, s.missed[server] && err == nil
		if missed {
			delete(s.missed, server)
		}
		close(l.ready)
		s.mu.Unlock()
		switch {
		case err != nil:
			x.h.log.Info("a server could not be opened for the endpoint of all servers", "server", server, "err", err)
		case over:
			x.h.endSession(ctx, x.c, w)
		default:
			if listener != nil {
				listener.follow(w, "")
				if missed {
					listener.changed(w.offers)
				}
			}
			if !bytes.Equal(level, told) { // it came meanwhile
				x.tellLevel(ctx, w, level)
			}
		}
	}()
	if w, err = s.meet(ctx, x, server); err == nil {
		s.mu.Lock()
		told = s.level
		s.mu.Unlock()
		x.tellLevel(ctx, w, told)
	}
}

// tellLevel repeats the client's logging/setLevel to a server.
func (x *exchange) tellLevel(ctx context.Context, w way, level []byte) {
	if level == nil || !w.offers.logging || w.stateless != nil { // there each request says it
		return
	}
	r, _ := collect(nil)
	x.h.send(ctx, x.c, ask{verb: http.MethodPost, way: w, body: level, own: true}, r)
}

func (s *session) greet(ctx context.Context, x *exchange, server string) (way, error) {
	hello := s.hello.Raw
	if at, ok := s.hello.Member(s.hello.Params, "protocolVersion"); ok && s.hello.ProtocolVersion != s.version {
		hello = wire.Splice(hello, wire.Edit{Span: at, New: wire.Quote(s.version)})
	}
	r, found := collect(nil)
	x.h.send(ctx, x.c, ask{verb: http.MethodPost, way: way{server: server}, body: hello, own: true}, r)
	m := found()
	if m != nil && m.ErrorObj.Present() && own(m) {
		return way{}, errNoSessions{r.failure(m)}
	}
	if m == nil || m.ErrorObj.Present() {
		return way{}, r.failure(m)
	}
	at, _ := m.Member(m.Result, "protocolVersion")
	version, _ := m.Text(at)
	if version == "" || version >= wire.ModernVersion {
		return way{}, errNoSessions{fmt.Errorf("it does not speak the revisions with sessions (it answered with %s)", quoted(version))}
	}
	w := way{server: server, session: r.header.Get("Mcp-Session-Id"), offers: readOffers(m)}
	if version >= "2025-06-18" { // older ones did not know the header
		w.version = version
	}
	r, found = collect(nil)
	x.h.send(ctx, x.c, ask{verb: http.MethodPost, way: w, own: true,
		body: []byte(`{"jsonrpc":"2.0","method":"notifications/initialized"}`)}, r)
	if r.code >= 300 {
		return way{}, fmt.Errorf("it did not take notifications/initialized: %w", r.failure(found()))
	}
	w.bridged = s.bridge
	return w, nil
}

// endSession tells a server that a session is over.
func (h *Hub) endSession(ctx context.Context, c *Call, w way) {
	if w.session == "" {
		return
	}
	r, _ := collect(nil)
	h.send(context.WithoutCancel(ctx), c, ask{verb: http.MethodDelete, way: w, own: true}, r)
}

// endAt ends a session of ours with everything that it holds at the servers.
func (h *Hub) endAt(ctx context.Context, c *Call, s *session) {
	open := s.close()
	s.hangUp()
	ctx = context.WithoutCancel(ctx) // not the request's own: this one knows which endpoint was called
	var all sync.WaitGroup
	for _, w := range open {
		all.Go(func() { h.guard(func() { h.endSession(ctx, c, w) }) })
	}
	all.Wait()
}

// endSession is the client's DELETE.
func (x *exchange) endSession(ctx context.Context) error {
	if err := x.c.Answered("the session of the endpoint for all servers ends"); err != nil {
		return err
	}
	x.h.sessions.drop(x.s)
	done := make(chan struct{})
	go x.h.guard(func() { defer close(done); x.h.endAt(ctx, x.c, x.s) })
	patience := time.NewTimer(x.h.patience)
	defer patience.Stop()
	select {
	case <-done:
	case <-patience.C: // who is that slow forgets the session idle
	}
	x.out.status(http.StatusNoContent, nil)
	return nil
}

// setLevel tells every server with a session, and those that get one later.
func (x *exchange) setLevel(ctx context.Context) error {
	if len(x.m.Raw) > maxLevel {
		return refuse(BadRequest, "logging/setLevel is longer than %d bytes", maxLevel)
	}
	x.s.mu.Lock()
	x.s.level = bytes.Clone(x.m.Raw)
	x.s.mu.Unlock()
	var servers []string
	var ways []way
	for _, server := range x.s.open() {
		if w, ok := x.s.opened(server); ok && w.offers.logging && w.stateless == nil && x.c.reaches(server) {
			servers, ways = append(servers, server), append(ways, w)
		}
	}
	replies := x.tell(ctx, servers, ways, x.m.Raw)
	var refused *wire.Message
	for _, server := range servers {
		m := replies[server]
		if m != nil && m.Result.Present() {
			return x.answer(`{}`, "the log level was set")
		}
		if m != nil && refused == nil {
			refused = m
		}
	}
	if refused != nil { // by all of them, policy most likely
		return refuse(Unavailable, "no server took the log level: %s", errorText(refused))
	}
	return x.answer(`{}`, "the log level is told to servers when they are opened")
}
