package hub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"countersign/enforcer/wire"
)

// A client of the stateless era reaches servers that know sessions only through
// a session that the endpoint keeps for it, one for each caller and server.
// Without it a client that speaks both eras, and takes the newer one because we
// do, would lose the servers that do not, and could not tell why.
//
// The message keeps its arguments, and with them its digest. What changes is
// what belongs to the era: the protocol's own members of _meta go, the id and
// the progress token are replaced, since two clients of one caller may use the
// same, and closing the stream becomes notifications/cancelled. The client is
// introduced without capabilities: nothing can be asked of it on this way, and
// a server that asks all the same is refused. Subscriptions do not cross.

type bridges struct {
	mu   sync.Mutex
	m    map[string]*session // by owner
	last uint64              // of the ids that were given out
}

// errSessionsOnly: a server does not speak the stateless era.
var errSessionsOnly = fmt.Errorf("it does not speak %s, only revisions with sessions", wire.ModernVersion)

// bridge is the caller's session for servers of the older era.
func (h *Hub) bridge(x *exchange) (*session, error) {
	b := &h.bridges
	b.mu.Lock()
	defer b.mu.Unlock()
	now := h.now()
	s := b.m[x.c.Owner]
	if s == nil || h.sessions.expired(s) {
		if s == nil && len(b.m) >= maxSessions {
			return nil, errors.New("too many callers have sessions: try again later")
		}
		info := []byte(`{"name":"countersign","version":"1"}`)
		if at, ok := x.m.Member(x.m.Meta, "io.modelcontextprotocol/clientInfo"); ok && at.End-at.Start < maxHello {
			info = x.m.Bytes(at)
		}
		version := legacyVersions[len(legacyVersions)-1]
		hello, err := wire.Parse(fmt.Appendf(nil, `{"jsonrpc":"2.0","id":"cs-0","method":"initialize","params":{"protocolVersion":%q,"capabilities":{},"clientInfo":%s}}`,
			version, info), wire.Limits{Depth: x.c.Limits.Depth})
		if err != nil {
			return nil, err
		}
		s = newSession(x.c.Owner, version, hello, now)
		s.bridge = true
		b.m[x.c.Owner] = s
	}
	s.used = now
	return s, nil
}

func (b *bridges) sweep(expired func(*session) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for owner, s := range b.m {
		if expired(s) {
			s.close()
			delete(b.m, owner)
		}
	}
}

// home is the session that a way belongs to; nil in the stateless era.
func (x *exchange) home(w way) *session {
	if !w.bridged {
		return x.s
	}
	x.h.bridges.mu.Lock()
	defer x.h.bridges.mu.Unlock()
	return x.h.bridges.m[x.c.Owner]
}

func (h *Hub) newID() []byte {
	h.bridges.mu.Lock()
	defer h.bridges.mu.Unlock()
	h.bridges.last++
	return fmt.Appendf(nil, `"cs-%d"`, h.bridges.last)
}

// cross turns a request into one of the older era, and has the relay turn what
// comes back. The returned func is to be called when the exchange has ended.
func (h *Hub) cross(ctx context.Context, c *Call, a *ask, to *relay) func() {
	m, err := wire.Parse(a.body, wire.Limits{Bytes: len(a.body), Depth: c.Limits.Depth})
	if err != nil || m.Kind != wire.Request {
		return func() {}
	}
	id := h.newID()
	_, logs := m.Member(m.Meta, "io.modelcontextprotocol/logLevel")
	edits := []wire.Edit{{Span: idSpan(m), New: id}}
	if m.Meta.Present() {
		edits = append(edits, wire.Edit{Span: m.Meta, New: olderMeta(m, id)})
	}
	a.body = wire.Splice(m.Raw, edits...)

	var mu sync.Mutex
	over := false
	end := func() bool {
		mu.Lock()
		defer mu.Unlock()
		was := over
		over = true
		return was
	}
	left := context.AfterFunc(ctx, func() {
		if end() {
			return
		}
		h.guard(func() {
			r, _ := collect(nil)
			h.send(context.WithoutCancel(ctx), c, ask{verb: http.MethodPost, way: a.way, own: true,
				body: fmt.Appendf(nil, `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":%s}}`, id)}, r)
		})
	})
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
		case back.Kind == wire.Request:
			h.reject(ctx, c, a.way, back, "the client speaks a revision of MCP in which it cannot be asked this way")
			return nil
		case back.Kind == wire.Response:
			end()
		case back.Method == "notifications/message" && !logs: // each request asks for them, or gets none
			return nil
		case back.Method == "notifications/cancelled",
			back.Method == "notifications/progress" && (m.ProgressToken == nil || !bytes.Equal(back.ProgressToken, id)):
			return nil // of nothing that the client knows
		}
		return take(r, withData(ev, r.stream(), newer(m, back)))
	}
	return func() { left() }
}

// olderMeta is _meta without what only the stateless era has in it.
func olderMeta(m *wire.Message, token []byte) []byte {
	var out []byte
	m.Members(m.Meta, func(name []byte, value wire.Span) bool {
		kept := m.Bytes(value)
		switch n := string(name); {
		case n == "progressToken":
			kept = token
		case n != relatedTask && strings.HasPrefix(n, "io.modelcontextprotocol/"):
			return true
		}
		out = append(append(append(out, ','), wire.Quote(string(name))...), ':')
		out = append(out, kept...)
		return true
	})
	return append(append([]byte{'{'}, bytes.TrimPrefix(out, []byte(","))...), '}')
}

// newer is what came back, as the request m had asked it.
func newer(m, back *wire.Message) []byte {
	var edits []wire.Edit
	switch {
	case back.Kind == wire.Response && back.ID != nil:
		edits = append(edits, wire.Edit{Span: idSpan(back), New: m.ID})
		if b := back.Bytes(back.Result); len(b) > 0 && b[0] == '{' {
			end := back.Result.End - 1
			edits = append(edits, wire.Edit{Span: wire.Span{Start: end, End: end}, New: lacking(m, back)})
		}
	case back.Method == "notifications/progress":
		if at, ok := back.Member(back.Params, "progressToken"); ok {
			edits = append(edits, wire.Edit{Span: at, New: m.ProgressToken})
		}
	}
	return wire.Splice(back.Raw, edits...)
}

// lacking is what a result of the stateless era must have, and this one has
// not: its type, and for what may be kept, how long. It is not to be kept.
func lacking(m, back *wire.Message) []byte {
	empty := true
	back.Members(back.Result, func([]byte, wire.Span) bool { empty = false; return false })
	var out []byte
	add := func(name, value string) {
		if _, has := back.Member(back.Result, name); !has {
			out = fmt.Appendf(out, `,%q:%s`, name, value)
		}
	}
	add("resultType", `"complete"`)
	if m.Method == "resources/read" {
		add("ttlMs", "0")
		add("cacheScope", `"private"`)
	}
	if empty {
		out = bytes.TrimPrefix(out, []byte(","))
	}
	return out
}

// withData is an event with other data.
func withData(ev wire.Event, stream bool, data []byte) wire.Event {
	if stream {
		if again, err := wire.NewEventReader(bytes.NewReader(ev.WithData(data)), 0).Next(); err == nil {
			return again
		}
	}
	return wire.Event{Raw: data, Data: data, HasData: true}
}
