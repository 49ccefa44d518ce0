package hub

import (
	"context"
	"net/http"
	"sync"
	"time"

	"countersign/enforcer/wire"
)

// params are the arguments that a server's tools want mirrored into headers
// (x-mcp-header), as the lists that passed by said, for the sessions of one
// caller.
type params struct {
	mu     sync.Mutex
	listed bool      // to the end
	asked  time.Time // by ourselves
	tools  map[string][]wire.ParamHeader
	bytes  int
}

const (
	maxParams = 64 << 10 // bytes of what is kept of one server for one caller
	maxPages  = 100      // that are asked for by ourselves
)

func (p *params) of(tool string) []wire.ParamHeader {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tools[tool] // replaced as a whole, never changed
}

// learn reads a page. At the bound it starts anew: what is not known any more
// is refused by the server, and then the list is asked for again.
func (p *params) learn(m *wire.Message) {
	if !m.Result.Present() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for tool, headers := range wire.ParamPaths(m) {
		p.bytes -= weight(tool, p.tools[tool])
		delete(p.tools, tool)
		more := weight(tool, headers)
		switch {
		case more == 0 || more > maxParams:
			continue
		case p.tools == nil || p.bytes+more > maxParams:
			p.tools, p.bytes = map[string][]wire.ParamHeader{}, 0
		}
		p.tools[tool] = headers
		p.bytes += more
	}
	if next, more := m.Member(m.Result, "nextCursor"); !more || string(m.Bytes(next)) == "null" {
		p.listed = true
	}
}

func weight(tool string, headers []wire.ParamHeader) int {
	if len(headers) == 0 {
		return 0
	}
	n := len(tool)
	for _, h := range headers {
		n += 64 + len(h.Header)
		for _, name := range h.Path {
			n += 16 + len(name)
		}
	}
	return n
}

func (p *params) unlearn() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.listed, p.asked = false, time.Time{}
}

// asks tells whether the list has to be asked for, which the caller does then.
func (p *params) asks(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listed || now.Sub(p.asked) < reopenAfter {
		return false
	}
	p.asked = now
	return true
}

// learn asks for a server's tools ahead of a call, if no list has passed by yet:
// which arguments have to be in headers, nothing else says. A call goes on
// without; a server that misses a header says so, and has not run it.
func (x *exchange) learn(ctx context.Context, w way) {
	if w.stateless == nil || x.m.Method != "tools/call" || !w.offers.tools || !w.stateless.params.asks(x.h.now()) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, x.h.patience)
	defer cancel()
	from := ""
	for range maxPages {
		r, found := collect(nil)
		x.h.send(ctx, x.c, ask{verb: http.MethodPost, way: w, body: []byte(`{"jsonrpc":"2.0","id":"countersign-list","method":"tools/list","params":{` + from + `}}`)}, r)
		m := found()
		if m == nil || m.ErrorObj.Present() {
			x.h.log.Info("the tools of a server could not be listed ahead of a call", "server", w.server, "err", r.failure(m))
			return
		}
		at, more := m.Member(m.Result, "nextCursor")
		next, ok := m.Text(at)
		if !more || !ok || len(next) > maxOwnCursor {
			return
		}
		from = `"cursor":` + string(wire.Quote(next))
	}
}
