package hub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"countersign/enforcer/wire"
)

// single forwards a request to the server that it is for, and its answer back.
func (x *exchange) single(ctx context.Context, t target) error {
	body := wire.Splice(x.m.Raw, t.edits...)
	if body == nil {
		return refuse(BadRequest, "the request cannot be told apart from its server's name")
	}
	wait := ctx
	if x.s != nil {
		var done func()
		wait, done = x.s.waits(ctx, x.m.ID)
		defer done()
	}
	for first := true; ; first = false {
		w, err := x.reach(wait, t.server, true)
		switch {
		case err != nil && wait.Err() != nil:
			return refuse(Cancelled, "cancelled by the client before it was forwarded; nothing ran")
		case err != nil:
			return refuse(Unavailable, "server %q cannot be used now, and nothing ran: %v", t.server, err)
		}
		ours := strings.HasPrefix(x.m.Method, "tasks/") && x.h.own(t.name)
		if err := w.stateless.carries(t.server, x.m.Method); err != nil && !ours {
			return err
		}
		x.learn(wait, w)
		if x.s != nil && !x.s.sentTo(x.m.ID, t.server) {
			return refuse(Cancelled, "cancelled by the client before it was forwarded; nothing ran")
		}
		call, end := ctx, func() {}
		if w.stateless != nil {
			call, end = until(ctx, wait)
		}
		again, err := x.forward(call, ask{verb: http.MethodPost, way: w, body: body, name: t.name}, first)
		end()
		if !again {
			return err
		}
	}
}

// forward makes the exchange. It returns true if the server's session was gone
// and the request certainly not run, for another try; only with retry.
func (x *exchange) forward(ctx context.Context, a ask, retry bool) (again bool, err error) {
	server := a.way.server
	answered := false
	r := &relay{
		open: func() {
			if x.out.accepts {
				_ = x.out.open() // a client that has left shows at the next write
			}
		},
		take: func(r *relay, ev wire.Event) error {
			renumber := func(id string) string { return joinEvent('p', server, id) }
			if len(bytes.TrimSpace(ev.Data)) == 0 {
				return x.out.event(ev.Renumber(ev.Data, renumber))
			}
			m, err := wire.Parse(ev.Data, x.c.limits())
			if err != nil {
				return err
			}
			if m.Kind != wire.Response {
				return x.pass(ctx, a.way, m, ev, renumber)
			}
			answered = true
			home := x.home(a.way)
			if gone(m) && home != nil {
				home.forget(a.way)
				if again = retry && r.code == http.StatusNotFound && !r.stream() && !mayHaveRun(m); again {
					return nil
				}
			}
			clean, err := named(server, m)
			if err != nil {
				return err
			}
			if gone(m) && home != nil {
				clean = wire.ErrorReply(m.ID, wire.CodeInternal, fmt.Sprintf(
					"server %q has ended its session, and the next request to it opens another: repeat this one if it may run twice (%s)", server, errorText(m)), nil)
			}
			if r.stream() {
				return x.out.event(ev.Renumber(clean, renumber))
			}
			return x.out.message(x.httpStatus(a.way, r.code, m), r.header, clean)
		},
	}
	x.h.send(ctx, x.c, a, r)
	switch {
	case again:
		return true, nil
	case r.refused != nil:
		return false, r.refused
	case !answered && errors.Is(context.Cause(ctx), ErrCancelled):
		return false, refuse(Cancelled, "cancelled by the client; whether it ran is not known")
	case answered:
		return false, nil
	case r.err != nil: // on a stream that has begun, too: an end without a word would be taken for one to resume
		return false, refuse(Broken, "the answer of server %q cannot be passed on: %v", server, r.err)
	case x.out.begun():
		return false, nil
	case r.code != 0 && r.code < 300 && x.m.Kind != wire.Request:
		x.out.status(r.code, r.header)
		return false, nil
	}
	return false, refuse(Broken, "server %q did not answer (HTTP status %d)", server, r.code)
}

// pass lets through what a server sends beside the response. Without renumber
// the event goes out without an id, because nobody could resume by it.
func (x *exchange) pass(ctx context.Context, w way, m *wire.Message, ev wire.Event, renumber func(string) string) error {
	clean, err := named(w.server, m)
	if err == errLongID {
		x.h.reject(ctx, x.c, w, m, "the id is longer than it can carry")
		return nil
	}
	if err != nil {
		return err
	}
	if renumber == nil {
		return x.out.event(wire.MessageEvent(clean))
	}
	return x.out.event(ev.Renumber(clean, renumber))
}

// reject answers a server's request that cannot be carried to the client.
func (h *Hub) reject(ctx context.Context, c *Call, w way, m *wire.Message, why string) {
	h.log.Warn("a server's request was refused", "server", w.server, "method", m.Method, "why", why)
	body := wire.ErrorReply(m.ID, wire.CodeInvalidRequest, "refused by the client's gateway: "+why, nil)
	r, _ := collect(nil)
	h.send(context.WithoutCancel(ctx), c, ask{verb: http.MethodPost, way: w, body: body, own: true}, r)
}

// httpStatus is the server's, where it means the same here. 404 would tell a
// client of the legacy era that its session is gone, which is ours to say.
func (x *exchange) httpStatus(w way, code int, m *wire.Message) int {
	if w.bridged && code == http.StatusOK { // the older era has no other for these
		switch errorCode(m) {
		case "-32601":
			return http.StatusNotFound
		case "-32602":
			return http.StatusBadRequest
		}
	}
	if w.stateless != nil && code == http.StatusBadRequest { // of that era: some clients drop their session on it
		return http.StatusOK
	}
	if code == http.StatusNotFound && !(x.s == nil && errorCode(m) == "-32601") {
		return http.StatusOK
	}
	return code
}

// gone tells whether an error response says that the server's session is not
// known any more. The words are those of the enforcer's refusals, which come
// with a status of 404; where it is a server that says so, nothing is repeated.
func gone(m *wire.Message) bool {
	data, _ := m.Member(m.ErrorObj, "data")
	at, _ := m.Member(data, "status")
	status, _ := m.Text(at)
	return status == "no-session"
}

// mayHaveRun tells whether such a response leaves it open what became of the
// request, or an approval was spent on it: then it is not repeated.
func mayHaveRun(m *wire.Message) bool {
	data, _ := m.Member(m.ErrorObj, "data")
	_, ran := m.Member(data, "ran")
	_, approved := m.Member(data, "approval")
	return ran || approved
}
