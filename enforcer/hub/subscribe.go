package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"countersign/enforcer/wire"
)

// subscriptions/listen (2026-07-28): one stream of ours merges one of each
// server that it concerns. The request's id, which is the subscription's, is
// the same everywhere. What the servers acknowledge is gathered first, because
// a client gets one acknowledgement, ahead of everything else.

const (
	acknowledged = "notifications/subscriptions/acknowledged"
	// ackWait is how long the acknowledgement waits for a server.
	ackWait = 3 * time.Second
)

// selectors are the members of a filter that list things of servers, each with
// its server's name to it; every other member is a flag, for all servers.
// taskIds is the tasks extension's.
var selectors = map[string]selector{
	"resourceSubscriptions": {splitURI, joinURI, "resource", "mcp+<server>+<uri>"},
	"taskIds":               {splitName, joinName, "task", "<server>__<task id>"},
}

type selector struct {
	split      func(joined string) (server, own string, ok bool)
	join       func(server, own string) string
	what, form string
}

type subscription struct {
	x     *exchange
	flags []wire.Span                    // values of the filter's members that are flags
	names []string                       // and of which members
	picks map[string]map[string][]string // by server and selector, without the server's name

	mu      sync.Mutex
	waiting map[string]bool // servers that have yet to acknowledge, or to fail
	agreed  map[string]bool
	picked  map[string][]string // what was agreed on by selector, as the client knows it
	heard   chan struct{}       // closed when nobody is waited for any more
	acked   chan struct{}       // closed when the acknowledgement is out
}

func (x *exchange) subscribe(ctx context.Context) error {
	if err := x.spreads(); err != nil {
		return err
	}
	s := &subscription{
		x: x, picks: map[string]map[string][]string{}, waiting: map[string]bool{}, agreed: map[string]bool{}, picked: map[string][]string{},
		heard: make(chan struct{}), acked: make(chan struct{}),
	}
	servers, err := s.filter()
	if err != nil {
		return err
	}
	if !x.out.accepts {
		return refuse(BadRequest, "subscriptions/listen is answered with an event stream: accept text/event-stream")
	}
	if err := x.c.Answered("the subscription at all servers that it concerns"); err != nil {
		return err
	}
	if x.out.open() != nil {
		return nil
	}
	for _, server := range servers {
		s.waiting[server] = true
	}
	if len(servers) == 0 {
		close(s.heard)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		var all sync.WaitGroup // all at once: a subscription lasts, and none waits for another's end
		for _, server := range servers {
			all.Go(func() {
				x.h.guard(func() {
					defer s.failed(server)
					s.follow(ctx, server)
				})
			})
		}
		all.Wait()
	}()
	patience := time.NewTimer(min(ackWait, x.h.patience))
	defer patience.Stop()
	select {
	case <-s.heard:
	case <-patience.C:
	case <-ctx.Done():
	}
	s.acknowledge()
	<-done
	if ctx.Err() != nil {
		return ErrCut
	}
	// Every server has ended it: so do we, to whoever still listens.
	_ = x.out.message(http.StatusOK, nil, fmt.Appendf(nil,
		`{"jsonrpc":"2.0","id":%s,"result":{"resultType":"complete","_meta":{%q:%s}}}`, x.m.ID, wire.MetaSubscription, x.m.ID))
	return nil
}

// filter takes the request's filter apart by server.
func (s *subscription) filter() ([]string, error) {
	m := s.x.m
	at, ok := m.Member(m.Params, "notifications")
	if b := m.Bytes(at); !ok || b[0] != '{' {
		return nil, refuse(Unknown, "params.notifications must be an object")
	}
	everyone, err := false, error(nil)
	m.Members(at, func(name []byte, value wire.Span) bool {
		literal := string(m.Bytes(value))
		if sel, ok := selectors[string(name)]; ok {
			err = s.pick(string(name), sel, value)
			return err == nil
		}
		s.names, s.flags = append(s.names, string(name)), append(s.flags, value)
		everyone = everyone || literal != "false" && literal != "null"
		return true
	})
	var servers []string
	for _, server := range s.x.c.Servers {
		if everyone || len(s.picks[server]) > 0 {
			servers = append(servers, server)
		}
	}
	return servers, err
}

// pick takes a selector's list apart by server.
func (s *subscription) pick(name string, sel selector, list wire.Span) (err error) {
	m := s.x.m
	switch b := m.Bytes(list); {
	case string(b) == "null":
		return nil
	case b[0] != '[':
		return refuse(Unknown, "params.notifications.%s must be a list", name)
	}
	m.Elements(list, func(e wire.Span) {
		joined, _ := m.Text(e)
		server, own, ok := sel.split(joined)
		if !ok || !s.x.c.reaches(server) {
			err = refuse(Unknown, "%s %s: there is no such server that you may use, or none is named; it is spelled %s", sel.what, quoted(joined), sel.form)
			return
		}
		if s.picks[server] == nil {
			s.picks[server] = map[string][]string{}
		}
		s.picks[server][name] = append(s.picks[server][name], own)
	})
	return err
}

// request is the client's request with one server's part of the filter.
func (s *subscription) request(server string) []byte {
	m := s.x.m
	var filter []byte
	add := func(name string, value []byte) {
		filter = append(append(append(filter, ','), wire.Quote(name)...), ':')
		filter = append(filter, value...)
	}
	for i, name := range s.names {
		add(name, m.Bytes(s.flags[i]))
	}
	for _, name := range slices.Sorted(maps.Keys(s.picks[server])) {
		list := []byte{'['}
		for i, own := range s.picks[server][name] {
			if i > 0 {
				list = append(list, ',')
			}
			list = append(list, wire.Quote(own)...)
		}
		add(name, append(list, ']'))
	}
	filter = append([]byte{'{'}, filter[min(1, len(filter)):]...)
	at, _ := m.Member(m.Params, "notifications")
	return wire.Splice(m.Raw, wire.Edit{Span: at, New: append(filter, '}')})
}

var errUnasked = errors.New("an event came ahead of its subscription's acknowledgement")

// follow keeps one server's stream in the merged one: it is opened again when
// it ends, once it has been acknowledged.
func (s *subscription) follow(ctx context.Context, server string) {
	x := s.x
	body := s.request(server)
	for wait := followSoon; ctx.Err() == nil; {
		w, err := x.reach(ctx, server, false)
		if err == nil && w.bridged {
			err = errSessionsOnly
		}
		if err != nil {
			x.h.log.Info("a server is left out of a merged subscription", "server", server, "err", err)
			return
		}
		ours, events := false, 0
		r, _ := collect(func(m *wire.Message, ev wire.Event) error {
			if m.Method == acknowledged {
				ours = true
				s.agree(server, m)
				return nil
			}
			if !ours {
				return errUnasked
			}
			select {
			case <-s.acked:
			case <-ctx.Done():
				return ctx.Err()
			}
			events++
			return x.pass(ctx, w, m, ev, nil)
		})
		x.h.send(ctx, x.c, ask{verb: http.MethodPost, way: w, body: body}, r)
		if !ours || r.code >= 300 {
			return
		}
		if wait = min(2*wait, followLater); events > 0 {
			wait = followSoon
		}
		pause := time.NewTimer(wait)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
		}
	}
}

// agree takes one server's acknowledgement in.
func (s *subscription) agree(server string, m *wire.Message) {
	s.mu.Lock()
	at, _ := m.Member(m.Params, "notifications")
	m.Members(at, func(name []byte, value wire.Span) bool {
		if sel, ok := selectors[string(name)]; ok {
			m.Elements(value, func(e wire.Span) {
				if own, ok := m.Text(e); ok {
					s.picked[string(name)] = append(s.picked[string(name)], sel.join(server, own))
				}
			})
		} else if string(m.Bytes(value)) == "true" {
			s.agreed[string(name)] = true
		}
		return true
	})
	s.mu.Unlock()
	s.failed(server)
}

// failed: nobody waits for this server any more, whatever the reason.
func (s *subscription) failed(server string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting[server] {
		if delete(s.waiting, server); len(s.waiting) == 0 {
			close(s.heard)
		}
	}
}

// acknowledge tells the client what the servers agreed to, and lets their
// events through.
func (s *subscription) acknowledge() {
	s.mu.Lock()
	all := map[string]any{}
	for name := range s.agreed {
		all[name] = true
	}
	for name, list := range s.picked {
		all[name] = list
	}
	filter, err := json.Marshal(all)
	s.mu.Unlock()
	if err != nil {
		filter = []byte("{}") // booleans and strings only: it cannot fail
	}
	_ = s.x.out.event(wire.MessageEvent(fmt.Appendf(nil, // a client that has left ends the context
		`{"jsonrpc":"2.0","method":%q,"params":{"_meta":{%q:%s},"notifications":%s}}`,
		acknowledged, wire.MetaSubscription, s.x.m.ID, filter)))
	close(s.acked)
}
