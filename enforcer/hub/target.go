package hub

import (
	"bytes"
	"context"
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

// response takes the client's answer to something that a server asked to that
// server.
func (x *exchange) response(ctx context.Context) error {
	server, raw, ok := splitID(x.m.ID)
	if !ok {
		return refuse(BadRequest, "this answers nothing that a server of this session asked")
	}
	w, ok := x.s.opened(server)
	if !ok || !x.c.reaches(server) || w.stateless != nil {
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
		if w, ok := x.s.opened(server); ok && x.c.reaches(server) && w.stateless == nil { // there is no such notification there
			ways, told = append(ways, w), append(told, server)
		}
	}
	if len(ways) == 0 || body == nil {
		words := "concerns no server"
		if m.Method == "notifications/cancelled" && len(to) > 0 {
			words = "closes what is under way at " + strings.Join(to, ", ") // see stateless.go
		}
		if err := x.c.Answered(words); err != nil {
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
