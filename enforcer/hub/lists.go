package hub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"countersign/enforcer/budget"
	"countersign/enforcer/wire"
)

// lists are the methods whose answers are merged, and the member of the result
// that holds the list.
var lists = map[string]string{
	"tools/list":               "tools",
	"prompts/list":             "prompts",
	"resources/list":           "resources",
	"resources/templates/list": "resourceTemplates",
	"tasks/list":               "tasks",
}

// page is what one server contributes to a page of the merged list.
type page struct {
	elements [][]byte
	size     int
	next     *string // its own cursor; nil: that was all
	ttl      int64
	leftOut  int    // elements whose names clients would not take
	unfit    string // the first of these names
	err      error  // why there is nothing
	free     func() // gives back what it is counted in; may be nil
	closed   bool   // the reason is that the server has no session yet
}

var (
	errNotOffered = errors.New("it has no such list")
	errNoRoom     = errors.New("the page is full")
	errSlow       = errors.New("no answer in time")
)

// list merges one page: all servers are asked side by side, each answer is
// named, and what did not come in time, or not at all, is left out and said in
// the record. Its cursor leads every server on to its own end.
func (x *exchange) list(ctx context.Context, key string) error {
	if err := x.spreads(); err != nil {
		return err
	}
	from, err := x.start(key)
	if err != nil {
		return err
	}
	var servers []string
	for _, s := range x.c.Servers {
		if _, ok := from[s]; ok {
			servers = append(servers, s)
		}
	}
	pages := x.pages(ctx, key, servers, from)
	free := func() {
		for _, p := range pages {
			if p.free != nil {
				p.free()
			}
		}
	}
	if ctx.Err() != nil && x.s == nil {
		free()
		return refuse(Cancelled, "cancelled by the client")
	}

	all := x.merge(key, servers, from, pages)
	free()
	merged := x.c.Room.Share()
	defer merged.Free()
	if err := merged.Set(ctx, 3*all.list.Len()); err != nil { // on its own, in its result, and as it is sent
		return refuse(Unavailable, "the merged list cannot be sent: %v", err)
	}
	if all.failed > 0 && all.failed == len(servers) {
		return refuse(Unavailable, "none of the servers answered: %s", strings.Join(all.words, "; "))
	}
	result := fmt.Appendf(nil, `{%q:[%s]`, key, all.list.Bytes())
	if len(all.next) > 0 {
		text, err := all.next.encode(key)
		if err != nil {
			return refuse(Broken, "the list cannot be continued: %v", err)
		}
		result = fmt.Appendf(result, `,"nextCursor":%q`, text)
	}
	if x.s == nil {
		result = fmt.Appendf(result, `,"ttlMs":%d,"cacheScope":"private","resultType":"complete"`, max(all.ttl, 0))
	}
	said := "merged"
	if len(all.words) > 0 {
		said += ": " + strings.Join(all.words, "; ")
	}
	return x.answer(string(result)+"}", said)
}

// merged is a page of the list, of all servers.
type merged struct {
	list   bytes.Buffer // elements, with commas
	next   cursor
	ttl    int64    // the least; -1 if nobody answered
	failed int      // servers
	words  []string // for the record: who and what is left out
}

// merge puts the pages together in the order of the servers' names. What does
// not fit is left to the next page.
func (x *exchange) merge(key string, servers []string, from cursor, pages map[string]page) *merged {
	all := &merged{next: cursor{}, ttl: -1}
	leftOut := map[string][]string{} // servers, by why
	for _, server := range servers {
		p := pages[server]
		full := all.list.Len() > 0 && all.list.Len()+p.size > x.c.Limits.Bytes
		switch {
		case full || errors.Is(p.err, errNoRoom):
			all.next[server] = from[server]
			continue
		case errors.Is(p.err, errNotOffered):
			continue
		case p.err != nil:
			all.failed++
			all.ttl = 0 // it may be back in a moment
			if x.s != nil && p.closed {
				x.s.miss(server)
			}
			// Each has an entry of its own, which need not be named here.
			why, _, _ := strings.Cut(p.err.Error(), " (countersign record ")
			leftOut[why] = append(leftOut[why], server)
			x.h.log.Warn("a server is left out of a merged list", "server", server, "method", x.m.Method, "err", p.err)
			continue
		}
		if p.leftOut > 0 {
			all.words = append(all.words, fmt.Sprintf("%d of %s left out, %s first: names longer than %d bytes with the server's, or that clients would not take", p.leftOut, server, p.unfit, maxName))
			x.h.log.Warn("elements of a server's list are left out", "server", server, "list", key, "count", p.leftOut, "first", p.unfit)
		}
		for _, e := range p.elements {
			if all.list.Len() > 0 {
				all.list.WriteByte(',')
			}
			all.list.Write(e)
		}
		if p.next != nil {
			all.next[server] = p.next
		}
		if all.ttl < 0 || p.ttl < all.ttl {
			all.ttl = p.ttl
		}
	}
	for _, why := range slices.Sorted(maps.Keys(leftOut)) {
		all.words = append(all.words, strings.Join(leftOut[why], ", ")+" left out: "+why)
	}
	return all
}

// start says which servers this page is asked of, and from where on.
func (x *exchange) start(key string) (cursor, error) {
	at, ok := x.m.Member(x.m.Params, "cursor")
	if !ok {
		from := cursor{}
		for _, s := range x.c.Servers {
			from[s] = nil
		}
		return from, nil
	}
	text, ok := x.m.Text(at)
	if !ok {
		return nil, refuse(Unknown, "%v", errCursor)
	}
	from, err := decodeCursor(key, text)
	if err != nil {
		return nil, refuse(Unknown, "%v", err)
	}
	for s := range from {
		if !x.c.reaches(s) {
			return nil, refuse(Unknown, "%v: it names a server that you may not use", errCursor)
		}
	}
	return from, nil
}

// pages asks the servers, no longer than patience lasts. A server that is late
// goes on opening, and is there for the next list.
func (x *exchange) pages(ctx context.Context, key string, servers []string, from cursor) map[string]page {
	ctx, cancel := context.WithTimeoutCause(ctx, x.h.patience, errSlow)
	defer cancel()
	var mu sync.Mutex
	got := map[string]page{}
	over := false
	var held atomic.Int64 // bytes that wait to be merged
	done := make(chan struct{})
	go func() {
		defer close(done)
		x.h.each(servers, func(server string) {
			p := page{err: errSlow, closed: true}
			if ctx.Err() == nil {
				p = x.page(ctx, key, server, from[server], &held)
			}
			mu.Lock()
			defer mu.Unlock()
			if got[server] = p; over && p.free != nil { // too late
				p.free()
			}
		})
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
	mu.Lock()
	defer mu.Unlock()
	over = true
	out := map[string]page{}
	for _, s := range servers {
		p, ok := got[s]
		if !ok {
			p = page{err: errSlow}
			if x.s != nil {
				_, open := x.s.opened(s)
				p.closed = !open
			}
		}
		out[s] = p
	}
	return out
}

// page asks one server.
func (x *exchange) page(ctx context.Context, key, server string, from *string, held *atomic.Int64) page {
	for first := true; ; first = false {
		w, err := x.reach(ctx, server, false)
		if err != nil {
			return page{err: err, closed: true}
		}
		if !w.offers.list(key) {
			return page{err: errNotOffered}
		}
		if x.s != nil && !x.s.sentTo(x.m.ID, server) {
			return page{err: errors.New("cancelled by the client")}
		}
		r, found := collect(func(m *wire.Message, ev wire.Event) error {
			if ctx.Err() != nil {
				return nil
			}
			return x.pass(ctx, w, m, ev, nil)
		})
		r.keeps = true
		r.room = func(n int) error {
			if held.Add(int64(n)) > int64(4*x.c.Limits.Bytes) {
				return errNoRoom
			}
			return nil
		}
		stop := context.AfterFunc(ctx, r.close)
		asking, end := ctx, func() {}
		if w.stateless != nil {
			asking, end = x.untilCancelled(ctx)
		}
		x.h.send(asking, x.c, ask{verb: http.MethodPost, way: w, body: x.pageRequest(from)}, r)
		stop()
		end()
		m := found()
		if m == nil || m.ErrorObj.Present() {
			err := r.failure(m)
			if home := x.home(w); m != nil && gone(m) && home != nil {
				if home.forget(w); first && r.code == http.StatusNotFound && !mayHaveRun(m) {
					r.share.Free()
					continue
				}
			}
			var answered *answeredError
			if errors.As(err, &answered) && answered.code == "-32601" {
				err = errNotOffered
			}
			switch {
			case errors.Is(err, budget.ErrFull):
				err = errNoRoom
			case ctx.Err() != nil:
				err = errSlow
			}
			r.share.Free()
			return page{err: err}
		}
		p := x.read(key, server, m)
		p.free = r.share.Free
		return p
	}
}

// pageRequest is the client's request with the server's own cursor.
func (x *exchange) pageRequest(from *string) []byte {
	m := x.m
	var params []byte
	m.Members(m.Params, func(name []byte, value wire.Span) bool {
		if string(name) != "cursor" {
			params = append(append(append(params, ','), wire.Quote(string(name))...), ':')
			params = append(params, m.Bytes(value)...)
		}
		return true
	})
	if from != nil {
		params = append(append(params, `,"cursor":`...), wire.Quote(*from)...)
	}
	return fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%s,"method":%s,"params":{%s}}`,
		m.ID, wire.Quote(m.Method), bytes.TrimPrefix(params, []byte(",")))
}

// read takes one server's page apart.
func (x *exchange) read(key, server string, m *wire.Message) page {
	at, ok := m.Member(m.Result, key)
	if b := m.Bytes(at); !ok || b[0] != '[' {
		return page{err: fmt.Errorf("its answer has no list of %s", key)}
	}
	var p page
	m.Elements(at, func(e wire.Span) {
		out, name, ok := element(server, key, m, e)
		if !ok {
			if p.leftOut++; p.leftOut == 1 {
				p.unfit = quoted(name)
			}
			return
		}
		p.elements, p.size = append(p.elements, out), p.size+len(out)+1
	})
	if next, ok := m.Member(m.Result, "nextCursor"); ok && string(m.Bytes(next)) != "null" {
		text, ok := m.Text(next)
		if !ok || len(text) > maxOwnCursor {
			return page{err: errors.New("its cursor is no text, or longer than can be carried")}
		}
		p.next = &text
	}
	if ttl, ok := m.Member(m.Result, "ttlMs"); ok {
		p.ttl, _ = strconv.ParseInt(string(m.Bytes(ttl)), 10, 64) // what is no number of milliseconds is 0: not to be kept
	}
	return p
}
