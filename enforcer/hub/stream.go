package hub

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"countersign/enforcer/wire"
)

// The stream that a GET opens (legacy era): what the servers with an open
// session send unasked, of those that get one later too. It has one reader; a
// second GET takes over, because the first is most often a connection that died
// unnoticed.

const (
	followSoon  = time.Second // before a server's stream is opened again
	followLater = time.Minute // at most, while it keeps ending
)

type listener struct {
	x    *exchange
	ctx  context.Context
	stop context.CancelFunc

	mu        sync.Mutex
	following map[string]string // server → session whose stream is followed
	over      bool
	all       sync.WaitGroup
}

// listen answers the GET.
func (x *exchange) listen(ctx context.Context) error {
	last := x.c.Request.Header.Get("Last-Event-Id")
	var from, lastID string
	if last != "" {
		kind, server, id, ok := splitEvent(last)
		if !ok {
			return refuse(BadRequest, "this Last-Event-ID is not one of this endpoint's")
		}
		w, open := x.s.opened(server)
		if !open || !x.c.reaches(server) || w.stateless != nil {
			return refuse(BadRequest, "there is nothing to resume: server %q has no open session here", server)
		}
		if kind == 'p' {
			return x.resume(ctx, w, id)
		}
		from, lastID = server, id
	}
	if err := x.c.Answered("the stream of all servers with an open session"); err != nil {
		return err
	}
	live, stop := context.WithCancel(ctx)
	l := &listener{x: x, ctx: live, stop: stop, following: map[string]string{}}
	defer l.end()
	x.s.mu.Lock()
	if x.s.listener != nil {
		x.s.listener.stop()
	}
	x.s.listener = l
	over := x.s.over
	x.s.mu.Unlock()
	if over || x.out.open() != nil {
		return nil
	}
	for _, server := range x.s.open() {
		if w, ok := x.s.opened(server); ok && x.c.reaches(server) {
			id := ""
			if server == from {
				id = lastID
			}
			l.follow(w, id)
		}
	}
	<-live.Done()
	if ctx.Err() != nil {
		return ErrCut
	}
	return nil // another reader has taken over, or the session has ended
}

// end waits until nobody writes to the stream any more.
func (l *listener) end() {
	l.stop()
	l.x.s.mu.Lock()
	if l.x.s.listener == l {
		l.x.s.listener = nil
	}
	l.x.s.mu.Unlock()
	l.mu.Lock()
	l.over = true
	l.mu.Unlock()
	l.all.Wait()
}

// follow merges a server's stream in, from an event on if there is one.
func (l *listener) follow(w way, from string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if is, ok := l.following[w.server]; l.over || ok && is == w.session || w.stateless != nil { // there is no such stream there
		return
	}
	l.following[w.server] = w.session
	l.all.Go(func() {
		l.x.h.guard(func() { l.read(w, from) })
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.following[w.server] == w.session {
			delete(l.following, w.server)
		}
	})
}

// changed tells the client to ask for its lists again: a server is there now
// that an earlier list had to do without.
func (l *listener) changed(o offers) {
	for list, has := range map[string]bool{"tools": o.tools, "prompts": o.prompts, "resources": o.resources} {
		if has {
			_ = l.x.out.event(wire.MessageEvent(fmt.Appendf(nil, // a client that has left asks again anyway
				`{"jsonrpc":"2.0","method":"notifications/%s/list_changed"}`, list)))
		}
	}
}

// read reads a server's stream, and opens it again when it ends, as a client
// would.
func (l *listener) read(w way, from string) {
	x := l.x
	wait := followSoon
	for l.ctx.Err() == nil {
		events := 0
		r := x.merging(l.ctx, w, 'g', func(ev wire.Event) {
			events++
			if ev.ID != "" {
				from = ev.ID
			}
		})
		x.h.send(l.ctx, x.c, ask{verb: http.MethodGet, way: w, own: true, last: from}, r)
		switch {
		case r.code == http.StatusUnauthorized: // the client comes back with a token that holds
			l.stop()
			return
		case r.code == 0 || r.code >= 300 || !r.stream():
			return // it offers none, or the session is gone
		}
		if _, open := x.s.opened(w.server); !open {
			return
		}
		if wait = min(2*wait, followLater); events > 0 {
			wait = followSoon
		}
		pause := time.NewTimer(wait)
		select {
		case <-pause.C:
		case <-l.ctx.Done():
			pause.Stop()
		}
	}
}

// merging is a relay whose events go into the client's stream.
func (x *exchange) merging(ctx context.Context, w way, kind byte, seen func(wire.Event)) *relay {
	renumber := func(id string) string { return joinEvent(kind, w.server, id) }
	return &relay{take: func(r *relay, ev wire.Event) error {
		if !r.stream() {
			return nil // a refusal: its status says enough
		}
		var err error
		if len(bytes.TrimSpace(ev.Data)) == 0 {
			err = x.out.event(ev.Renumber(ev.Data, renumber))
		} else {
			m, perr := wire.Parse(ev.Data, x.c.limits())
			if perr != nil {
				return perr
			}
			err = x.pass(ctx, w, m, ev, renumber)
		}
		if err == nil {
			seen(ev)
		}
		return err
	}}
}

// resume takes up the answer to a POST where it broke off.
func (x *exchange) resume(ctx context.Context, w way, id string) error {
	r := x.merging(ctx, w, 'p', func(wire.Event) {})
	r.open = func() { _ = x.out.open() } // a client that has left shows at the next write
	x.h.send(ctx, x.c, ask{verb: http.MethodGet, way: w, own: true, last: id}, r)
	if !x.out.begun() {
		return refuse(BadRequest, "server %q cannot resume this stream (HTTP status %d)", w.server, r.code)
	}
	return nil
}
