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

// In the stateless era nothing is opened, but a server has to speak it. Each is
// asked server/discover, once for a while and caller: what it offers, or that it
// knows sessions only, and then bridge.go leads there.

const (
	eraKnown   = 5 * time.Minute
	eraUnknown = 15 * time.Second // a failure holds that long, for lists
	maxEras    = 50_000           // beyond it all is forgotten and asked again
)

type eras struct {
	mu sync.Mutex
	m  map[string]*era // by owner and server
}

type era struct {
	ready  chan struct{}
	way    way
	err    error
	ended  time.Time
	params *params // of a server that speaks the stateless era alone: see stateless.go
}

func (e *era) stale(now time.Time, eager bool) bool {
	select {
	case <-e.ready:
	default:
		return false
	}
	if e.err != nil && !errors.Is(e.err, errSessionsOnly) {
		return eager || now.Sub(e.ended) > eraUnknown
	}
	return now.Sub(e.ended) > eraKnown
}

func (t *eras) reach(ctx context.Context, x *exchange, server string, eager bool) (way, error) {
	key := x.c.Owner + "\x00" + server
	t.mu.Lock()
	e := t.m[key]
	if e == nil || e.stale(x.h.now(), eager) {
		if len(t.m) >= maxEras {
			clear(t.m)
		}
		e = &era{ready: make(chan struct{})}
		t.m[key] = e
		asking := context.WithoutCancel(ctx)
		go x.h.guard(func() {
			e.err = errors.New("asking it failed inside")
			defer close(e.ready)
			e.way, e.err = x.ask(asking, server, x.m.ProtocolVersion, x.introduction())
			e.ended = x.h.now()
		})
	}
	t.mu.Unlock()
	select {
	case <-e.ready:
	case <-ctx.Done():
		return way{}, context.Cause(ctx)
	}
	if !errors.Is(e.err, errSessionsOnly) {
		return e.way, e.err
	}
	s, err := x.h.bridge(x)
	if err != nil {
		return way{}, err
	}
	return s.reach(ctx, x, server, eager)
}

// introduction is what the client says of itself, as members of _meta.
func (x *exchange) introduction() []byte {
	var meta []byte
	x.m.Members(x.m.Meta, func(name []byte, value wire.Span) bool {
		switch string(name) {
		case wire.MetaVersion, "io.modelcontextprotocol/clientInfo", "io.modelcontextprotocol/clientCapabilities":
			if value.End-value.Start > maxHello {
				return true // what is so long says nothing that the answer depends on
			}
			meta = append(append(append(meta, ','), wire.Quote(string(name))...), ':')
			meta = append(meta, x.m.Bytes(value)...)
		}
		return true
	})
	return bytes.TrimPrefix(meta, []byte(","))
}

// ask is server/discover with what the client says of itself.
func (x *exchange) ask(ctx context.Context, server, version string, introduction []byte) (way, error) {
	body := fmt.Appendf(nil, `{"jsonrpc":"2.0","id":"countersign-discover","method":"server/discover","params":{"_meta":{%s}}}`, introduction)
	w := way{server: server, version: version}
	r, found := collect(nil)
	x.h.send(ctx, x.c, ask{verb: http.MethodPost, way: w, body: body, own: true}, r)
	m := found()
	switch {
	case m == nil:
		return way{}, r.failure(nil)
	case m.ErrorObj.Present() && unaware(m):
		return way{}, errSessionsOnly
	case m.ErrorObj.Present():
		return way{}, r.failure(m)
	}
	at, _ := m.Member(m.Result, "supportedVersions")
	speaks := false
	m.Elements(at, func(v wire.Span) {
		text, _ := m.Text(v)
		speaks = speaks || text == wire.ModernVersion
	})
	if !speaks {
		return way{}, errSessionsOnly
	}
	w.offers = readOffers(m)
	return w, nil
}

// unaware tells whether an error response is that of a server that does not
// know the question. Older servers have many ways to say so; a client takes
// whatever is not a word of the stateless era itself for it (2026-07-28
// basic/versioning), and so do we, unless the refusal is ours.
func unaware(m *wire.Message) bool {
	switch errorCode(m) {
	case "-32020", "-32021":
		return false
	}
	return own(m)
}

// own tells whether an error response is the server's, and no refusal of ours.
func own(m *wire.Message) bool {
	data, _ := m.Member(m.ErrorObj, "data")
	if _, ours := m.Member(data, "record"); !ours {
		return true
	}
	at, _ := m.Member(data, "status")
	status, _ := m.Text(at)
	return status == "blocked" // an answer without a message, most likely
}
