package hub

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"countersign/enforcer/wire"
)

// target is the server that a message is for, and the splices that take the
// server's name out of it.
type target struct {
	server string
	name   string // what Mcp-Name mirrors from now on, "" if nothing
	edits  []wire.Edit
}

// relatedTask is the _meta key that ties a message to a task.
const relatedTask = "io.modelcontextprotocol/related-task"

// target finds out which server a request is for, and refuses what names none
// that the caller may use. Nothing has been sent anywhere then.
func (x *exchange) target() (target, error) {
	m := x.m
	var t target
	var err error
	take := func(in wire.Span, member string, split func(string) (string, string, bool), form string) {
		if err != nil {
			return
		}
		at, ok := m.Member(in, member)
		if !ok {
			return
		}
		joined, _ := m.Text(at)
		server, rest, ok := split(joined)
		switch {
		case !ok:
			err = refuse(Unknown, "%s %s names no server: at this endpoint it is spelled %s", member, quoted(joined), form)
		case !x.c.reaches(server):
			err = refuse(Unknown, "%s %s: there is no server %s that you may use", member, quoted(joined), quoted(server))
		case t.server != "" && t.server != server:
			err = refuse(Unknown, "the request names two servers, %s and %s", quoted(t.server), quoted(server))
		default:
			t.server, t.name = server, rest
			t.edits = append(t.edits, wire.Edit{Span: at, New: wire.Quote(rest)})
		}
	}
	const nameForm, uriForm = "<server>__<name>", "mcp+<server>+<uri>"
	switch {
	case m.Method == "tools/call" || m.Method == "prompts/get":
		take(m.Params, "name", splitName, nameForm)
	case m.Method == "resources/read" || m.Method == "resources/subscribe" || m.Method == "resources/unsubscribe":
		take(m.Params, "uri", splitURI, uriForm)
	case m.Method == "completion/complete":
		ref, _ := m.Member(m.Params, "ref")
		take(ref, "name", splitName, nameForm)
		take(ref, "uri", splitURI, uriForm)
	case strings.HasPrefix(m.Method, "tasks/"):
		take(m.Params, "taskId", splitName, "<server>__<task id>")
	default:
		return t, refuse(NoMethod, "method %s does not exist at this endpoint: use /mcp/<server> for what is particular to one server", quoted(m.Method))
	}
	if err == nil && t.server == "" {
		return t, refuse(Unknown, "the request names nothing that a server could be told by")
	}
	if rel, ok := m.Member(m.Meta, relatedTask); ok {
		name := t.name
		take(rel, "taskId", splitName, "<server>__<task id>")
		t.name = name
	}
	return t, err
}

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
		if x.s != nil && !x.s.sentTo(x.m.ID, t.server) {
			return refuse(Cancelled, "cancelled by the client before it was forwarded; nothing ran")
		}
		again, err := x.forward(ctx, ask{verb: http.MethodPost, way: w, body: body, name: t.name}, first)
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
			if gone(m) {
				if x.s != nil {
					x.s.forget(a.way)
				}
				if again = retry && x.s != nil && !r.stream() && !mayHaveRun(m); again {
					return nil
				}
			}
			clean, err := named(server, m)
			if err != nil {
				return err
			}
			if gone(m) && x.s != nil {
				clean = wire.ErrorReply(m.ID, wire.CodeInternal, fmt.Sprintf(
					"server %q has ended its session, and the next request to it opens another: repeat this one if it may run twice (%s)", server, errorText(m)), nil)
			}
			if r.stream() {
				return x.out.event(ev.Renumber(clean, renumber))
			}
			return x.out.message(x.httpStatus(r.code, m), r.header, clean)
		},
	}
	x.h.send(ctx, x.c, a, r)
	switch {
	case again:
		return true, nil
	case answered || x.out.begun():
		return false, nil
	case r.err != nil:
		return false, refuse(Broken, "the answer of server %q cannot be passed on: %v", server, r.err)
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
		x.h.reject(ctx, x.c, w, m)
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

// reject answers a server's request whose id cannot be carried to the client.
func (h *Hub) reject(ctx context.Context, c *Call, w way, m *wire.Message) {
	h.log.Warn("a server's request was refused: its id is too long for the endpoint of all servers", "server", w.server, "method", m.Method)
	body := wire.ErrorReply(m.ID, wire.CodeInvalidRequest, "refused by the client's gateway: the id is longer than it can carry", nil)
	r, _ := collect(nil)
	h.send(context.WithoutCancel(ctx), c, ask{verb: http.MethodPost, way: w, body: body, own: true}, r)
}

// httpStatus is the server's, where it means the same here. 404 would tell a
// client of the legacy era that its session is gone, which is ours to say.
func (x *exchange) httpStatus(code int, m *wire.Message) int {
	if code == http.StatusNotFound && !(x.s == nil && errorCode(m) == "-32601") {
		return http.StatusOK
	}
	return code
}

// gone tells whether an error response says that the server's session is not
// known any more. The words are those of the enforcer's refusals.
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

// response takes the client's answer to something that a server asked to that
// server.
func (x *exchange) response(ctx context.Context) error {
	server, raw, ok := splitID(x.m.ID)
	if !ok {
		return refuse(BadRequest, "this answers nothing that a server of this session asked")
	}
	w, ok := x.s.opened(server)
	if !ok || !x.c.reaches(server) {
		return refuse(BadRequest, "this answers nothing that a server of this session asked: none is open under that name")
	}
	edits := []wire.Edit{{Span: idSpan(x.m), New: raw}}
	if meta, ok := x.m.Member(x.m.Result, "_meta"); ok {
		if rel, ok := x.m.Member(meta, relatedTask); ok {
			if at, ok := x.m.Member(rel, "taskId"); ok {
				joined, _ := x.m.Text(at)
				if s, task, ok := splitName(joined); ok && s == server {
					edits = append(edits, wire.Edit{Span: at, New: wire.Quote(task)})
				}
			}
		}
	}
	body := wire.Splice(x.m.Raw, edits...)
	if body == nil {
		return refuse(BadRequest, "the response cannot be told apart from its server's name")
	}
	_, err := x.forward(ctx, ask{verb: http.MethodPost, way: w, body: body}, false)
	return err
}

// idSpan is where a message's id stands.
func idSpan(m *wire.Message) wire.Span {
	at, _ := m.Member(wire.Span{Start: bytes.IndexByte(m.Raw, '{'), End: len(m.Raw)}, "id")
	return at
}

// notification takes the client's notifications to whom they concern.
func (x *exchange) notification(ctx context.Context) error {
	m := x.m
	body := m.Raw
	var to []string
	switch m.Method {
	case "notifications/initialized": // each server is told when its own session opens
	case "notifications/cancelled":
		to = x.s.cancel(m.CancelledID)
	case "notifications/progress":
		server, raw, ok := splitID(m.ProgressToken)
		if !ok {
			return refuse(BadRequest, "this progress token is not one that a server of this session gave")
		}
		at, _ := m.Member(m.Params, "progressToken")
		body, to = wire.Splice(m.Raw, wire.Edit{Span: at, New: raw}), []string{server}
	default:
		to = x.s.open()
	}
	told := make([]string, 0, len(to))
	var ways []way
	for _, server := range to {
		if w, ok := x.s.opened(server); ok && x.c.reaches(server) {
			ways, told = append(ways, w), append(told, server)
		}
	}
	if len(ways) == 0 || body == nil {
		if err := x.c.Answered("concerns no server"); err != nil {
			return err
		}
		x.out.status(http.StatusAccepted, nil)
		return nil
	}
	x.tell(ctx, told, ways, body)
	x.out.status(http.StatusAccepted, nil)
	return nil
}

// tell sends one message to several servers, and waits no longer than patience
// lasts. The answers are given back, nil where there is none.
func (x *exchange) tell(ctx context.Context, servers []string, ways []way, body []byte) map[string]*wire.Message {
	type reply struct {
		server string
		m      *wire.Message
	}
	replies := make(chan reply, len(ways))
	sending := context.WithoutCancel(ctx)
	for i, w := range ways {
		go x.h.guard(func() {
			r, found := collect(nil)
			defer func() { replies <- reply{servers[i], found()} }()
			x.h.send(sending, x.c, ask{verb: http.MethodPost, way: w, body: body}, r)
		})
	}
	patience := time.NewTimer(x.h.patience)
	defer patience.Stop()
	got := map[string]*wire.Message{}
	for range ways {
		select {
		case r := <-replies:
			got[r.server] = r.m
		case <-patience.C:
			return got
		}
	}
	return got
}
