package hub

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"countersign/enforcer/wire"
)

// young makes a server one that speaks the stateless era alone, and holds its
// clients to it.
func (s *stage) young(server string, more func(w http.ResponseWriter, r *http.Request, q sent) bool) {
	s.set(server, nil)
	s.fakes.answer[server] = func(w http.ResponseWriter, r *http.Request, q sent) {
		m, err := wire.Parse([]byte(q.body), wire.Limits{})
		switch {
		case err != nil || q.verb != http.MethodPost || q.session != "":
			w.WriteHeader(http.StatusMethodNotAllowed)
		case !m.Modern():
			failure(w, 400, q.id, "-32022", `{"supported":["2026-07-28"]}`)
		case wire.CheckHeaders(q.header, m) != nil:
			failure(w, 400, q.id, "-32020", "null")
		case more != nil && more(w, r, q):
		case q.method == "server/discover":
			result(w, q.id, `{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{},"prompts":{},"resources":{},"logging":{},"extensions":{"io.modelcontextprotocol/tasks":{}}}}`)
		default:
			result(w, q.id, `{"from":"young","resultType":"complete"}`)
		}
	}
}

const told = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"client","version":"7"}`

// A client with sessions has servers of the stateless era in its lists, and can
// use them: each of its requests becomes one of that era.
func TestStatelessServersForClientsWithSessions(t *testing.T) {
	s := newStage(t, "old", "young")
	s.set("old", tools(5, "x"))
	listed := tools(1, "y", "z")
	s.young("young", func(w http.ResponseWriter, r *http.Request, q sent) bool {
		switch q.method {
		case "resources/read":
			result(w, q.id, `{"resultType":"complete","contents":[{"uri":"x:1","text":"t"}],"ttlMs":5,"cacheScope":"private"}`)
		case "prompts/get":
			failure(w, 400, q.id, "-32602", "null")
		case "completion/complete":
			failure(w, 404, q.id, "-32601", "null")
		case "tools/call":
			w.Header().Set("Content-Type", "text/event-stream")
			for _, data := range []string{
				`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"p","progress":1}}`,
				`{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"d"}}`,
				`{"jsonrpc":"2.0","id":5,"method":"sampling/createMessage","params":{}}`,
				`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`,
				`{"jsonrpc":"2.0","id":` + q.id + `,"result":{"content":[{"type":"resource_link","uri":"x:1"}],"resultType":"complete"}}`,
			} {
				fmt.Fprintf(w, "data: %s\n\n", data)
			}
		default:
			return listed(w, r, q)
		}
		return true
	})
	session := s.open()
	if got := names(t, s.post(session, `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`).result, "tools", "name"); strings.Join(got, " ") != "old__x young__y" {
		t.Errorf("tools: %v", got)
	}
	r := s.post(session, `{"jsonrpc":"2.0","id": 7,"method":"tools/call","params":{"name":"young__t","arguments":{"n":1.0},"_meta":{"progressToken":"p","x":1.0,"io.modelcontextprotocol/logLevel":"debug"}}}`)
	if want := `data: {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"p","progress":1}}` + "\n\n" +
		`data: {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"d"}}` + "\n\n" +
		`data: {"jsonrpc":"2.0","id":7,"result":{"content":[{"type":"resource_link","uri":"mcp+young+x:1"}],"resultType":"complete"}}` + "\n\n"; r.body != want {
		t.Errorf("got\n%s", r.body)
	}
	all := s.fakes.to("young")
	crossed := all[len(all)-1]
	if want := `{"jsonrpc":"2.0","id": 7,"method":"tools/call","params":{"name":"t","arguments":{"n":1.0},` + told + `,"progressToken":"p","x":1.0}}}`; crossed.body != want {
		t.Errorf("sent %s\nwant %s", crossed.body, want)
	}
	if h := crossed.header; h.Get("Mcp-Method") != "tools/call" || h.Get("Mcp-Name") != "t" || h.Get("Mcp-Protocol-Version") != "2026-07-28" || h.Get("Authorization") != "Bearer alice" {
		t.Errorf("headers: %v", h)
	}
	for _, level := range []string{"loud", "warning"} {
		if r := s.post(session, `{"jsonrpc":"2.0","id":8,"method":"logging/setLevel","params":{"level":"`+level+`"}}`); r.result != "{}" {
			t.Errorf("level: %+v", r)
		}
		s.post(session, call(2, "young__t"))
		all = s.fakes.to("young")
		if got := strings.Contains(all[len(all)-1].body, `"io.modelcontextprotocol/logLevel":"warning"`); got != (level == "warning") {
			t.Errorf("%s: sent %s", level, all[len(all)-1].body)
		}
	}
	if r := s.post(session, `{"jsonrpc":"2.0","id":9,"method":"resources/read","params":{"uri":"mcp+young+x:1"}}`); r.result != `{"resultType":"complete","contents":[{"uri":"mcp+young+x:1","text":"t"}],"ttlMs":5,"cacheScope":"private"}` {
		t.Errorf("read: %+v", r)
	}
	for method, params := range map[string]string{"prompts/get": `"name":"young__p"`, "completion/complete": `"ref":{"type":"ref/prompt","name":"young__p"}`} {
		if r := s.post(session, `{"jsonrpc":"2.0","id":9,"method":"`+method+`","params":{`+params+`}}`); r.code != http.StatusOK || !strings.HasPrefix(r.failed, "-3260") {
			t.Errorf("%s: %+v", method, r)
		}
	}
	before := len(s.fakes.to("young"))
	for body, kind := range map[string]Kind{
		`{"jsonrpc":"2.0","id":9,"method":"resources/subscribe","params":{"uri":"mcp+young+x:1"}}`: NoMethod,
		`{"jsonrpc":"2.0","id":9,"method":"tasks/get","params":{"taskId":"young__1"}}`:             NoMethod,
		`{"jsonrpc":"2.0","id":"cs1.young.MQ","result":{}}`:                                        BadRequest,
	} {
		if r := s.post(session, body); r.refused == nil || r.refused.Kind != kind {
			t.Errorf("%s: %+v", body, r)
		}
	}
	get := s.request("alice", http.MethodGet, session, "")
	get.Header.Set("Last-Event-Id", "p.young.1")
	if r := s.send(get, "alice"); r.refused == nil || r.refused.Kind != BadRequest {
		t.Errorf("resumed: %+v", r)
	}
	if r := s.post(session, `{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}`); r.code != http.StatusAccepted {
		t.Errorf("notified: %+v", r)
	}
	if got := names(t, s.post(session, `{"jsonrpc":"2.0","id":1,"method":"tasks/list"}`).result, "tasks", "taskId"); len(got) != 0 {
		t.Errorf("tasks: %v", got)
	}
	s.send(s.request("alice", http.MethodDelete, session, ""), "alice")
	if got := s.fakes.to("young")[before:]; len(got) != 0 {
		t.Errorf("it was sent %s", methods(got))
	}
	s.post(s.open(), call(2, "young__t")) // what the server speaks is known to the next session
	if got := methods(s.fakes.to("young")); strings.Count(got, "initialize") != 1 || strings.Count(got, "server/discover") != 1 {
		t.Errorf("sent %s", got)
	}
}

// What the client says of itself crosses, but for what such a server could ask
// it by.
func TestIntroduction(t *testing.T) {
	for said, want := range map[string]string{
		`{"protocolVersion":"x","capabilities":{"sampling":{},"elicitation":{},"roots":{},"tasks":{},"experimental":{"a":1.0},"extensions":{"io.modelcontextprotocol/tasks":{},"com.example/x":{ }}},"clientInfo":{"name":"c"}}`: `{"experimental":{"a":1.0},"extensions":{"com.example/x":{ }}},"io.modelcontextprotocol/clientInfo":{"name":"c"}`,
		`{"protocolVersion":"x","capabilities":7}`: `{}`,
		`{"protocolVersion":"x"}`:                  `{}`,
	} {
		m, err := wire.Parse([]byte(`{"jsonrpc":"2.0","id":0,"method":"initialize","params":`+said+`}`), wire.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		got := string((&session{hello: m}).introduction())
		if got != `"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":`+want {
			t.Errorf("%s: %s", said, got)
		}
	}
}

// Cancelling closes the one stream, and what closes says that it was that; a
// connection that is lost says something else.
func TestCancellingClosesTheStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, "young")
		ended := map[string]error{}
		s.young("young", func(w http.ResponseWriter, r *http.Request, q sent) bool {
			if q.method != "tools/call" && q.method != "prompts/list" {
				return false
			}
			<-r.Context().Done()
			s.mu.Lock()
			defer s.mu.Unlock()
			name := q.method
			if q.method == "tools/call" {
				name = r.Header.Get("Mcp-Name")
				if !Patient(r.Context()) {
					t.Error("nothing says that the client is one with sessions")
				}
			}
			ended[name] = context.Cause(r.Context())
			return true
		})
		session := s.open()
		s.post(session, `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`)
		var all sync.WaitGroup
		send := func(ctx context.Context, body string) {
			all.Go(func() {
				err := s.serve(&tape{header: http.Header{}}, s.request("alice", http.MethodPost, session, body).WithContext(ctx), "alice")
				var refused *Refusal
				if strings.Contains(body, "cancelled") && (!errors.As(err, &refused) || refused.Kind != Cancelled) {
					t.Errorf("%s: %v", body, err)
				}
			})
		}
		ctx, leave := context.WithCancel(t.Context())
		send(t.Context(), call(3, "young__cancelled"))
		send(ctx, call(4, "young__left"))
		send(t.Context(), call(5, "young__ended"))
		send(t.Context(), `{"jsonrpc":"2.0","id":6,"method":"prompts/list"}`)
		synctest.Wait()
		for _, id := range []string{"3", "6"} {
			s.post(session, `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":`+id+`}}`)
		}
		synctest.Wait()
		s.mu.Lock()
		if len(ended) != 2 || ended["cancelled"] != ErrCancelled || ended["prompts/list"] != ErrCancelled {
			t.Errorf("cancelled: %v", ended)
		}
		s.mu.Unlock()
		leave()
		synctest.Wait()
		s.mu.Lock()
		if err := ended["left"]; len(ended) != 3 || err == ErrCancelled {
			t.Errorf("left: %v", ended)
		}
		s.mu.Unlock()
		s.send(s.request("alice", http.MethodDelete, session, ""), "alice")
		all.Wait()
		if ended["ended"] != ErrCancelled {
			t.Errorf("the session's end: %v", ended)
		}
		if got := methods(s.fakes.to("young")); strings.Contains(got, "cancelled") {
			t.Errorf("sent %s", got)
		}
	})
}

// A result that wants more of the client, or is none yet, does not reach it: it
// would take it for the end.
func TestUnfinishedResults(t *testing.T) {
	s := newStage(t, "young")
	s.young("young", func(w http.ResponseWriter, r *http.Request, q sent) bool {
		if q.method != "tools/call" && q.method != "prompts/list" {
			return false
		}
		body := `{"resultType":"` + strings.TrimPrefix(r.Header.Get("Mcp-Name"), "stream-") + `","inputRequests":{},"taskId":"1"}`
		if strings.HasPrefix(r.Header.Get("Mcp-Name"), "stream-") {
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprintf(w, ": here\n\ndata: {\"jsonrpc\":\"2.0\",\"id\":%s,\"result\":%s}\n\n", q.id, body)
			return true
		}
		result(w, q.id, body)
		return true
	})
	session := s.open()
	for kind, words := range map[string]string{"input_required": "wants something from the client", "task": "made a task of the call", "else": `nobody knows: "else"`} {
		for _, name := range []string{kind, "stream-" + kind} {
			r := s.post(session, call(2, "young__"+name))
			if r.refused == nil || r.refused.Kind != Broken || !strings.Contains(r.refused.Reason, words) || strings.Contains(r.body, "resultType") {
				t.Errorf("%s: %+v", name, r)
			}
		}
	}
	if r := s.post(session, `{"jsonrpc":"2.0","id":1,"method":"prompts/list"}`); r.refused == nil || !strings.Contains(r.refused.Reason, "of a type that nobody knows") {
		t.Errorf("a list: %+v", r)
	}
}

// What a server speaks is found out from its own words, not from a refusal of
// ours, and again when it speaks something else.
func TestWhatAServerSpeaksIsFoundOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, "a")
		for data, asked := range map[string]int{`{"record":"1","status":"denied"}`: 0, `{"record":"1","status":"blocked"}`: 1, "null": 1} {
			s.fakes.seen = nil
			s.fakes.answer["a"] = func(w http.ResponseWriter, _ *http.Request, q sent) { failure(w, 400, q.id, "-32000", data) }
			r := s.post(s.open(), call(2, "a__t"))
			if got := methods(s.fakes.to("a")); r.refused == nil || !strings.Contains(r.refused.Reason, "said so") || strings.Count(got, "server/discover") != asked {
				t.Errorf("%s: %+v after %s", data, r, got)
			}
		}
		s.young("a", nil)
		session := s.open()
		if r := s.post(session, call(2, "a__t")); !strings.Contains(r.result, "young") {
			t.Fatalf("%+v", r)
		}
		// It is replaced by one that has sessions, for an open session and for others.
		s.set("a", func(w http.ResponseWriter, _ *http.Request, q sent) bool {
			if q.session == "" {
				failure(w, 400, q.id, "-32022", "null")
			}
			return q.session == ""
		})
		if r := s.post(session, call(2, "a__t")); !strings.HasPrefix(r.failed, "-32022") {
			t.Errorf("the first call: %+v", r)
		}
		for _, session := range []string{session, s.open()} {
			if r := s.post(session, call(2, "a__t")); r.result != `{"from":"a"}` {
				t.Errorf("the next: %+v", r)
			}
		}
		// And by one without, again.
		s.young("a", func(w http.ResponseWriter, _ *http.Request, q sent) bool {
			if q.method == "initialize" {
				t.Error("initialize")
			}
			return false
		})
		s.post(s.open(), call(2, "a__t"))
		time.Sleep(eraKnown + time.Second)
		n := len(s.fakes.to("a"))
		s.post(s.open(), call(2, "a__t"))
		if got := methods(s.fakes.to("a")[n:]); got != "initialize server/discover tools/list tools/call" {
			t.Errorf("later: %s", got)
		}
	})
}

// Arguments are mirrored into the headers that the list asks for; it is asked
// for if none has passed by, and again when the server misses a header.
func TestMirroredArguments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, "young")
		header, down := "Region", false
		s.young("young", func(w http.ResponseWriter, r *http.Request, q sent) bool {
			switch {
			case q.method == "tools/list" && down:
				failure(w, 200, q.id, "-32603", "null")
			case q.method == "tools/list" && !strings.Contains(q.body, "cursor"):
				result(w, q.id, `{"tools":[],"nextCursor":"2"}`)
			case q.method == "tools/list":
				result(w, q.id, `{"tools":[{"name":"t","inputSchema":{"properties":{"at":{"properties":{"region":{"x-mcp-header":"`+header+`"},"n":{"x-mcp-header":"N"},"absent":{"x-mcp-header":"Absent"}}}}}}]}`)
			case q.method == "tools/call" && r.Header.Get("Mcp-Param-"+header) == "":
				failure(w, 400, q.id, "-32020", "null")
			default:
				return false
			}
			return true
		})
		body := `{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"young__t","arguments":{"at":{"region":"Zürich","n":1.2e1}}}}`
		session := s.open()
		r := s.request("alice", http.MethodPost, session, body)
		r.Header.Set("Mcp-Param-Foreign", "x") // of nothing that the server named
		if r := s.send(r, "alice"); !strings.Contains(r.result, "young") {
			t.Errorf("%+v", r)
		}
		all := s.fakes.to("young")
		if h := all[len(all)-1].header; h.Get("Mcp-Param-Region") != "=?base64?WsO8cmljaA==?=" || h.Get("Mcp-Param-N") != "12" || len(h.Values("Mcp-Param-Absent"))+len(h.Values("Mcp-Param-Foreign")) != 0 {
			t.Errorf("headers: %v", h)
		}
		s.post(s.open(), body)
		if got := methods(s.fakes.to("young")); strings.Count(got, "tools/list") != 2 {
			t.Errorf("sent %s", got)
		}
		header = "Zone"
		if r := s.post(session, body); r.code != http.StatusOK || !strings.HasPrefix(r.failed, "-32020") {
			t.Errorf("another header: %+v", r)
		}
		if r := s.post(session, body); !strings.Contains(r.result, "young") {
			t.Errorf("asked again: %+v", r)
		}
		header, down = "Other", true
		n := len(s.fakes.to("young"))
		for range 2 { // the list fails: a call goes on with what is known
			if r := s.post(session, body); !strings.HasPrefix(r.failed, "-32020") {
				t.Errorf("%+v", r)
			}
		}
		if got := methods(s.fakes.to("young")[n:]); got != "tools/call tools/list tools/call" {
			t.Errorf("sent %s", got)
		}
	})
}

// What is kept of a server's annotations has a bound.
func TestAnnotationsAreBounded(t *testing.T) {
	var p params
	for i := range 50 {
		var properties []string
		for n := range 20 {
			properties = append(properties, fmt.Sprintf(`"%s%d":{"x-mcp-header":"A%d"}`, strings.Repeat("a", 200), n, n))
		}
		m, err := wire.Parse(fmt.Appendf(nil, `{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"t%d","inputSchema":{"properties":{%s}}}],"nextCursor":"x"}}`, i, strings.Join(properties, ",")), wire.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			p.learn(m)
		}
		held := 0
		for tool, headers := range p.tools {
			held += weight(tool, headers)
		}
		if held != p.bytes || held > maxParams || p.of(fmt.Sprintf("t%d", i)) == nil || p.listed {
			t.Fatalf("%d: %d bytes, counted %d", i, held, p.bytes)
		}
	}
}

// A request stays the same request, whatever it holds, and becomes one of the
// stateless era.
func FuzzStatelessRequest(f *testing.F) {
	f.Add(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","_meta":{"progressToken":1}}}`)
	f.Add(`{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{ }} `)
	f.Add(`{"jsonrpc":"2.0","id":1,"method":"tools/list"}`)
	f.Fuzz(func(t *testing.T, asked string) {
		m, err := wire.Parse([]byte(asked), wire.Limits{})
		if err != nil || m.Kind != wire.Request {
			return
		}
		out := statelessRequest(m, []byte(`"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}`), "info")
		again, err := wire.Parse(out, wire.Limits{})
		if err != nil || !again.Modern() || again.Method != m.Method || string(again.ID) != string(m.ID) ||
			string(again.Bytes(again.Arguments)) != string(m.Bytes(m.Arguments)) || string(again.ProgressToken) != string(m.ProgressToken) ||
			m.Params.Present() && string(again.Canonical()) != string(m.Canonical()) {
			t.Fatalf("%s became %s: %v", asked, out, err)
		}
	})
}
