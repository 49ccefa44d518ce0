package hub

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"countersign/enforcer/wire"
)

// What leads nowhere gets the exact words, and no server hears of it.
func TestHostile(t *testing.T) {
	s := newStage(t, "a", "b")
	session := s.open()
	s.post(session, call(1, "a__t")) // a has a session, b has none
	forged := func(raw string) string { return `"cs1.a.` + encode(raw) + `"` }
	msg := func(method, params string) string {
		return `{"jsonrpc":"2.0","id":2,"method":"` + method + `","params":{` + params + `}}`
	}
	cursor := func(json string) string { return msg("tools/list", `"cursor":"`+encode(json)+`"`) }
	before := len(s.fakes.seen)
	for _, c := range []struct {
		name, body string
		kind       Kind
		want       string
	}{
		{"a name without a server", call(2, "t"), Unknown, `name "t" names no server: at this endpoint it is spelled <server>__<name>`},
		{"an empty server", call(2, "__t"), Unknown, `name "__t" names no server: at this endpoint it is spelled <server>__<name>`},
		{"an empty name", call(2, "a__"), Unknown, `name "a__" names no server: at this endpoint it is spelled <server>__<name>`},
		{"an unknown server", call(2, "c__t"), Unknown, `name "c__t": there is no server "c" that you may use`},
		{"a path for a server", call(2, "../a__t"), Unknown, `name "../a__t" names no server: at this endpoint it is spelled <server>__<name>`},
		{"another case", call(2, "A__t"), Unknown, `name "A__t" names no server: at this endpoint it is spelled <server>__<name>`},
		{"a prompt of nobody", msg("prompts/get", `"name":"p"`), Unknown, `name "p" names no server: at this endpoint it is spelled <server>__<name>`},
		{"a bare uri", msg("resources/read", `"uri":"file:///etc/passwd"`), Unknown, `uri "file:///etc/passwd" names no server: at this endpoint it is spelled mcp+<server>+<uri>`},
		{"a uri of an unknown server", msg("resources/read", `"uri":"mcp+c+mcp+a+x:"`), Unknown, `uri "mcp+c+mcp+a+x:": there is no server "c" that you may use`},
		{"a uri in another case", msg("resources/read", `"uri":"MCP+a+x:"`), Unknown, `uri "MCP+a+x:" names no server: at this endpoint it is spelled mcp+<server>+<uri>`},
		{"a completion of nobody", msg("completion/complete", `"ref":{"type":"ref/prompt","name":"p"},"argument":{"name":"n","value":""}`), Unknown, `name "p" names no server: at this endpoint it is spelled <server>__<name>`},
		{"a completion for another server's task", msg("completion/complete", `"ref":{"type":"ref/prompt","name":"a__p"},"_meta":{"io.modelcontextprotocol/related-task":{"taskId":"b__1"}}`), Unknown, `the request names two servers, "a" and "b"`},
		{"a task without an id", msg("tasks/get", ``), Unknown, `the request names nothing that a server could be told by`},
		{"a task of nobody", msg("tasks/get", `"taskId":"1"`), Unknown, `taskId "1" names no server: at this endpoint it is spelled <server>__<task id>`},
		{"a task of another server", msg("tools/call", `"name":"a__t","_meta":{"io.modelcontextprotocol/related-task":{"taskId":"b__1"}}`), Unknown, `the request names two servers, "a" and "b"`},
		{"a method of no revision", msg("servers/list", ``), NoMethod, `method "servers/list" does not exist at this endpoint: use /mcp/<server> for what is particular to one server`},
		{"a cursor of nobody", msg("tools/list", `"cursor":"eA"`), Unknown, `this cursor is not one that this list gave`},
		{"a cursor that is no text", msg("tools/list", `"cursor":{}`), Unknown, `this cursor is not one that this list gave`},
		{"a server's own cursor", msg("tools/list", `"cursor":"at 3"`), Unknown, `this cursor is not one that this list gave`},
		{"a cursor of another list", cursor(`{"prompts":{"a":"x"}}`), Unknown, `this cursor is not one that this list gave`},
		{"a cursor for an unknown server", cursor(`{"tools":{"c":"x"}}`), Unknown, `this cursor is not one that this list gave: it names a server that you may not use`},
		{"an answer to nothing", `{"jsonrpc":"2.0","id":1,"result":{}}`, BadRequest, `this answers nothing that a server of this session asked`},
		{"an answer to a server without a session", `{"jsonrpc":"2.0","id":` + string(joinID("b", []byte("1"))) + `,"result":{}}`, BadRequest, `this answers nothing that a server of this session asked: none is open under that name`},
		{"an answer to an unknown server", `{"jsonrpc":"2.0","id":` + string(joinID("c", []byte("1"))) + `,"result":{}}`, BadRequest, `this answers nothing that a server of this session asked: none is open under that name`},
		{"an answer that smuggles a call", `{"jsonrpc":"2.0","id":` + forged(`1,"method":"tools/call","params":{"name":"drop"}`) + `,"result":{}}`, BadRequest, `this answers nothing that a server of this session asked`},
		{"an error that smuggles one", `{"jsonrpc":"2.0","id":` + forged(`1},{"x":1`) + `,"error":{"code":1,"message":""}}`, BadRequest, `this answers nothing that a server of this session asked`},
		{"progress of nothing", `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"x","progress":1}}`, BadRequest, `this progress token is not one that a server of this session gave`},
		{"a second initialize", hello, BadRequest, `initialize opens a session: it cannot be sent in one`},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := s.post(session, c.body)
			if r.refused == nil || r.refused.Kind != c.kind || r.refused.Reason != c.want {
				t.Errorf("got %+v %v", r, r.refused)
			}
			if len(s.fakes.seen) != before {
				t.Errorf("a server was sent %s", methods(s.fakes.seen[before:]))
				before = len(s.fakes.seen)
			}
		})
	}
	for last, want := range map[string]string{
		"7":     `this Last-Event-ID is not one of this endpoint's`,
		"p.b.1": `there is nothing to resume: server "b" has no open session here`,
		"g.c.1": `there is nothing to resume: server "c" has no open session here`,
	} {
		get := s.request("alice", http.MethodGet, session, "")
		get.Header.Set("Last-Event-Id", last)
		if r := s.send(get, "alice"); r.refused == nil || r.refused.Reason != want || len(s.fakes.seen) != before {
			t.Errorf("%s: %+v", last, r.refused)
		}
	}
	for name, r := range map[string]reply{
		`this revision of MCP is not served here`:                                                                      s.send(func() *http.Request { return modernAs(s, "2031-01-01") }(), "alice"),
		`method "ping" does not exist in this revision of MCP`:                                                         s.modern("ping", ""),
		`resource "x:1": there is no such server that you may use, or none is named; it is spelled mcp+<server>+<uri>`: s.modern("subscriptions/listen", `"notifications":{"resourceSubscriptions":["x:1"]}`),
		`params.notifications must be an object`:                                                                       s.modern("subscriptions/listen", ``),
	} {
		if r.refused == nil || r.refused.Reason != name || len(s.fakes.seen) != before {
			t.Errorf("%s: %+v", name, r.refused)
		}
	}
	if len(s.answered) != 1 { // the initialize
		t.Errorf("answered %q", s.answered)
	}
}

func modernAs(s *stage, version string) *http.Request {
	return s.request("alice", http.MethodPost, "", `{"jsonrpc":"2.0","id":7,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"`+version+`"}}}`)
}

// What is sent on is the client's message, byte for byte but for the name.
func TestWhatIsSentOn(t *testing.T) {
	s := newStage(t, "a")
	session := s.open()
	for _, c := range []struct{ body, want string }{
		{`{ "jsonrpc":"2.0","id":2,"method":"tools/call","params":{"arguments":{"a__x":1.0e3,"\u0061":null},"name":"\u0061__b__c","x":[ ]} }`,
			`{ "jsonrpc":"2.0","id":2,"method":"tools/call","params":{"arguments":{"a__x":1.0e3,"\u0061":null},"name":"b__c","x":[ ]} }`},
		{`{"jsonrpc":"2.0","id":3,"method":"resources/read","params":{"uri":"mcp+a+mcp+b+x:"}}`,
			`{"jsonrpc":"2.0","id":3,"method":"resources/read","params":{"uri":"mcp+b+x:"}}`},
		{`{"jsonrpc":"2.0","id":4,"method":"completion/complete","params":{"ref":{"type":"ref/resource","uri":"mcp+a+x:{y}"},"argument":{"name":"y","value":"mcp+a+"}}}`,
			`{"jsonrpc":"2.0","id":4,"method":"completion/complete","params":{"ref":{"type":"ref/resource","uri":"x:{y}"},"argument":{"name":"y","value":"mcp+a+"}}}`},
		{`{"jsonrpc":"2.0","id":5,"method":"tasks/cancel","params":{"taskId":"a__t__1"}}`,
			`{"jsonrpc":"2.0","id":5,"method":"tasks/cancel","params":{"taskId":"t__1"}}`},
		{`{"jsonrpc":"2.0","id":6,"method":"tools/call","params":{"name":"a__q\"","_meta":{"progressToken":"a__p","io.modelcontextprotocol/related-task":{"taskId":"a__1"}}}}`,
			`{"jsonrpc":"2.0","id":6,"method":"tools/call","params":{"name":"q\"","_meta":{"progressToken":"a__p","io.modelcontextprotocol/related-task":{"taskId":"1"}}}}`},
	} {
		if r := s.post(session, c.body); r.result != `{"from":"a"}` {
			t.Errorf("%s: %+v", c.body, r)
		}
		all := s.fakes.to("a")
		if got := all[len(all)-1].body; got != c.want {
			t.Errorf("sent\n%s\nwant\n%s", got, c.want)
		}
	}
	r := s.modern("tools/call", `"name":"a__é"`, "Mcp-Name", wire.EncodeHeader("a__é"), "Mcp-Param-Region", "eu", "Cookie", "c")
	all := s.fakes.to("a")
	if h := all[len(all)-1].header; r.result != `{"from":"a"}` || h.Get("Mcp-Name") != wire.EncodeHeader("é") || h.Get("Mcp-Param-Region") != "eu" || h.Get("Mcp-Method") != "tools/call" || h.Get("Mcp-Session-Id") != "" {
		t.Errorf("modern: %+v %v", r, h)
	}
	if m := all[len(all)-2]; m.method != "server/discover" || m.header.Get("Mcp-Name") != "" || m.header.Get("Mcp-Method") != "server/discover" || m.header.Get("Mcp-Param-Region") != "" {
		t.Errorf("discover: %+v", m)
	}
	if r := s.modern("tools/call", `"name":"a__t","requestState":"mcp+a+x"`, "Mcp-Name", "a__t"); r.result != `{"from":"a"}` {
		t.Errorf("%+v", r)
	}
	if n := strings.Count(methods(s.fakes.to("a")), "server/discover"); n != 1 {
		t.Errorf("asked %d times what it speaks", n)
	}
}

// What comes back has the server's name where it leads to something there, and
// is the same everywhere else.
func TestWhatComesBack(t *testing.T) {
	for _, c := range []struct{ from, want string }{
		{`{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"x:1"},{"type":"resource_link","uri":"x:1","name":"n"},{"type":"resource","resource":{"uri":"x:2","text":"t"}},{"type":"image"}],"structuredContent":{"uri":"x:1","content":[{"type":"resource_link","uri":"x:1"}]}}}`,
			`{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"x:1"},{"type":"resource_link","uri":"mcp+a+x:1","name":"n"},{"type":"resource","resource":{"uri":"mcp+a+x:2","text":"t"}},{"type":"image"}],"structuredContent":{"uri":"x:1","content":[{"type":"resource_link","uri":"x:1"}]}}}`},
		{`{"jsonrpc":"2.0","id":1,"result":{"contents":[{"uri":"x:\u0031","text":"uri"}]}}`, `{"jsonrpc":"2.0","id":1,"result":{"contents":[{"uri":"mcp+a+x:\u0031","text":"uri"}]}}`},
		{`{"jsonrpc":"2.0","id":1,"result":{"messages":[{"role":"user","content":{"type":"resource","resource":{"uri":"x:1"}}},{"content":[{"type":"resource_link","uri":"x:2"}]}]}}`,
			`{"jsonrpc":"2.0","id":1,"result":{"messages":[{"role":"user","content":{"type":"resource","resource":{"uri":"mcp+a+x:1"}}},{"content":[{"type":"resource_link","uri":"mcp+a+x:2"}]}]}}`},
		{`{"jsonrpc":"2.0","id":1,"result":{"task":{"taskId":"t"},"_meta":{"io.modelcontextprotocol/related-task":{"taskId":"t"}}}}`,
			`{"jsonrpc":"2.0","id":1,"result":{"task":{"taskId":"a__t"},"_meta":{"io.modelcontextprotocol/related-task":{"taskId":"a__t"}}}}`},
		{`{"jsonrpc":"2.0","id":1,"result":{"resultType":"task","taskId":"t"}}`, `{"jsonrpc":"2.0","id":1,"result":{"resultType":"task","taskId":"a__t"}}`},
		{`{"jsonrpc":"2.0","method":"notifications/tasks/status","params":{"taskId":"t"}}`, `{"jsonrpc":"2.0","method":"notifications/tasks/status","params":{"taskId":"a__t"}}`},
		{`{"jsonrpc":"2.0","id":"q","method":"sampling/createMessage","params":{"_meta":{"io.modelcontextprotocol/related-task":{"taskId":"t"}}}}`,
			`{"jsonrpc":"2.0","id":"cs1.a.InEi","method":"sampling/createMessage","params":{"_meta":{"io.modelcontextprotocol/related-task":{"taskId":"a__t"}}}}`},
		{`{"jsonrpc":"2.0","id":1,"result":{"content":5,"contents":{},"messages":[1,null],"taskId":7,"task":[]}}`, ``},
		{`{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","requestState":"s","inputRequests":{"x":{"method":"roots/list"}}}}`, ``},
		{` {"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"x:1","data":{"uri":"x:1"}}} `, ``},
		{`{"jsonrpc":"2.0","method":"notifications/message","params":{"data":{"uri":"x:1"}}}`, ``},
	} {
		m, err := wire.Parse([]byte(c.from), wire.Limits{})
		if err != nil {
			t.Fatalf("%s: %v", c.from, err)
		}
		if c.want == "" {
			c.want = c.from
		}
		if got, err := named("a", m); err != nil || string(got) != c.want {
			t.Errorf("got\n%s %v\nwant\n%s", got, err, c.want)
		}
	}
}

// What is put to a server's message is undone by what is taken from a
// client's: every byte beside is the same.
func FuzzNamed(f *testing.F) {
	f.Add(`{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"resource_link","uri":"x"}]}}`)
	f.Add(`{"jsonrpc":"2.0","id":1,"method":"x","params":{"_meta":{"progressToken":1}}}`)
	f.Fuzz(func(t *testing.T, raw string) {
		m, err := wire.Parse([]byte(raw), wire.Limits{})
		if err != nil {
			return
		}
		out, err := named("srv", m)
		if err != nil {
			if !errors.Is(err, errLongID) {
				t.Fatal(err)
			}
			return
		}
		again, err := wire.Parse(out, wire.Limits{})
		if err != nil || again.Kind != m.Kind || again.Method != m.Method {
			t.Fatalf("%s became %s: %v", raw, out, err)
		}
	})
}

// Nothing is kept of a client that is not allowed: the endpoint's own answers
// are not sent unless the record has them.
func TestNothingUnrecorded(t *testing.T) {
	s := newStage(t, "a")
	s.set("a", tools(5, "x"))
	session := s.open()
	full := errors.New("the journal is full")
	for name, body := range map[string]string{
		"ping": `{"jsonrpc":"2.0","id":1,"method":"ping"}`, "a list": `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`,
		"initialize": hello, "initialized": `{"jsonrpc":"2.0","method":"notifications/initialized"}`,
		"cancelled": `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`,
		"a level":   `{"jsonrpc":"2.0","id":5,"method":"logging/setLevel","params":{"level":"debug"}}`,
		"discover":  `{"jsonrpc":"2.0","id":5,"method":"server/discover","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}`,
		"listen":    `{"jsonrpc":"2.0","id":5,"method":"subscriptions/listen","params":{"notifications":{"toolsListChanged":true},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}`,
	} {
		m, err := wire.Parse([]byte(body), wire.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		in := session
		if name == "initialize" {
			in = ""
		}
		w := &tape{header: http.Header{}}
		err = s.hub.Serve(t.Context(), w, &Call{Request: s.request("alice", http.MethodPost, in, ""), Message: m, Owner: "alice",
			Servers: s.servers, Limits: wire.Limits{Bytes: 1 << 20, Depth: 64}, Answered: func(string) error { return full }})
		if !errors.Is(err, full) || w.code != 0 || w.take() != "" || w.header.Get("Mcp-Session-Id") != "" {
			t.Errorf("%s: %v, status %d", name, err, w.code)
		}
	}
}
