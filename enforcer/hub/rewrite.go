package hub

import (
	"errors"
	"strings"

	"countersign/enforcer/wire"
)

// What a server sends, with its name put to whatever leads back to it. Only
// the members listed here change; every other byte stays.
//
//	results            contents[].uri, content[] and messages[].content (links and
//	                   embedded resources), taskId, task.taskId, tasks[].taskId
//	requests           id, _meta.progressToken
//	notifications      resources/updated: uri; tasks: taskId; cancelled: requestId
//	everywhere         _meta["io.modelcontextprotocol/related-task"].taskId

var errLongID = errors.New("the id is too long")

// edits collects splices that put a server's name to things.
type edits struct {
	m      *wire.Message
	server string
	list   []wire.Edit
}

// prefix puts text in front of what a string member says. The rest of the
// literal keeps its spelling.
func (e *edits) prefix(object wire.Span, member, text string) {
	if at, ok := e.m.Member(object, member); ok {
		e.prefixAt(at, text)
	}
}

func (e *edits) prefixAt(at wire.Span, text string) {
	if b := e.m.Bytes(at); len(b) > 2 && b[0] == '"' {
		e.list = append(e.list, wire.Edit{Span: wire.Span{Start: at.Start + 1, End: at.Start + 1}, New: []byte(text)})
	}
}

func (e *edits) name(object wire.Span, member string) {
	e.prefix(object, member, e.server+between)
}

func (e *edits) uri(object wire.Span, member string) {
	e.prefix(object, member, uriScheme+e.server+"+")
}

// id replaces a request's id, or a token, by one that names the server.
func (e *edits) id(at wire.Span) error {
	joined := joinID(e.server, e.m.Bytes(at))
	if joined == nil {
		return errLongID
	}
	e.list = append(e.list, wire.Edit{Span: at, New: joined})
	return nil
}

func (e *edits) related(object wire.Span) {
	if meta, ok := e.m.Member(object, "_meta"); ok {
		if rel, ok := e.m.Member(meta, relatedTask); ok {
			e.name(rel, "taskId")
		}
	}
}

// block is one content block, or the content of a message, which may be one
// block or a list of them.
func (e *edits) block(at wire.Span) {
	switch b := e.m.Bytes(at); {
	case len(b) > 0 && b[0] == '[':
		e.m.Elements(at, e.block)
	case len(b) > 0 && b[0] == '{':
		kind, _ := e.m.Member(at, "type")
		switch k, _ := e.m.Text(kind); k {
		case "resource_link":
			e.uri(at, "uri")
		case "resource":
			if r, ok := e.m.Member(at, "resource"); ok {
				e.uri(r, "uri")
			}
		}
	}
}

// each calls f for the elements of a list member.
func (e *edits) each(object wire.Span, member string, f func(wire.Span)) {
	if at, ok := e.m.Member(object, member); ok {
		e.m.Elements(at, f)
	}
}

// named is a server's message as the client of the one endpoint gets it. It
// goes by the shape of results, because on a resumed stream the request is not
// known; lists are merged elsewhere.
func named(server string, m *wire.Message) ([]byte, error) {
	e := &edits{m: m, server: server}
	switch m.Kind {
	case wire.Response:
		e.result()
	case wire.Request:
		if err := e.id(idSpan(m)); err != nil {
			return nil, err
		}
		if meta, ok := m.Member(m.Params, "_meta"); ok {
			if token, ok := m.Member(meta, "progressToken"); ok {
				if err := e.id(token); err != nil {
					return nil, err
				}
			}
		}
		e.related(m.Params)
	case wire.Notification:
		switch {
		case m.Method == "notifications/resources/updated":
			e.uri(m.Params, "uri")
		case strings.HasPrefix(m.Method, "notifications/tasks"):
			e.name(m.Params, "taskId")
		case m.Method == "notifications/cancelled":
			if at, ok := m.Member(m.Params, "requestId"); ok {
				if err := e.id(at); err != nil {
					return nil, err
				}
			}
		}
		e.related(m.Params)
	}
	if len(e.list) == 0 {
		return m.Raw, nil
	}
	out := wire.Splice(m.Raw, e.list...)
	if out == nil {
		return nil, errors.New("the message cannot be given its server's name")
	}
	return out, nil
}

func (e *edits) result() {
	res := e.m.Result
	e.each(res, "contents", func(at wire.Span) { e.uri(at, "uri") })
	e.each(res, "content", e.block)
	e.each(res, "messages", func(at wire.Span) {
		if c, ok := e.m.Member(at, "content"); ok {
			e.block(c)
		}
	})
	e.name(res, "taskId")
	if task, ok := e.m.Member(res, "task"); ok {
		e.name(task, "taskId")
	}
	e.related(res)
}

// element is one element of a list, named; false if clients would not take its
// name, or if it has none.
func element(server, list string, m *wire.Message, at wire.Span) ([]byte, string, bool) {
	e := &edits{m: m, server: server}
	own := func(member string) string {
		v, _ := m.Member(at, member)
		s, _ := m.Text(v)
		return s
	}
	name := own("name")
	switch list {
	case "tools", "prompts":
		if name == "" || !offered(joinName(server, name), list == "tools") {
			return nil, name, false
		}
		e.name(at, "name")
		if meta, ok := m.Member(at, "_meta"); ok { // the page that shows a tool's results (MCP Apps)
			if ui, ok := m.Member(meta, "ui"); ok {
				e.uri(ui, "resourceUri")
			}
			e.uri(meta, "ui/resourceUri")
		}
	case "resources":
		if own("uri") == "" {
			return nil, name, false
		}
		e.uri(at, "uri")
	case "resourceTemplates":
		if own("uriTemplate") == "" {
			return nil, name, false
		}
		e.uri(at, "uriTemplate")
	case "tasks":
		if own("taskId") == "" {
			return nil, name, false
		}
		e.name(at, "taskId")
	}
	for i := range e.list { // they count from the beginning of the element
		e.list[i].Span.Start -= at.Start
		e.list[i].Span.End -= at.Start
	}
	out := wire.Splice(m.Bytes(at), e.list...)
	return out, name, out != nil
}
