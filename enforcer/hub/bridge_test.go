package hub

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"countersign/enforcer/wire"
)

// older makes a server one of the older era.
func (s *stage) older(server string, more func(w http.ResponseWriter, r *http.Request, q sent) bool) {
	s.set(server, func(w http.ResponseWriter, r *http.Request, q sent) bool { return more != nil && more(w, r, q) })
	knows := s.fakes.answer[server]
	s.fakes.answer[server] = func(w http.ResponseWriter, r *http.Request, q sent) {
		switch {
		case q.method == "server/discover":
			failure(w, 200, q.id, "-32601", "null")
		case strings.Contains(q.body, "io.modelcontextprotocol/"), q.header.Get("Mcp-Protocol-Version") >= "2026", q.method != "initialize" && q.session == "":
			failure(w, 400, q.id, "-32600", "null")
		default:
			knows(w, r, q)
		}
	}
}

const modernMeta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"agent","version":"3"},"io.modelcontextprotocol/clientCapabilities":{"sampling":{}},"progressToken":"p","x":1.0}`

// A client of the stateless era has the servers of the older one in its lists,
// and can use them: in a session that is kept for it.
func TestOlderServersForNewerClients(t *testing.T) {
	s := newStage(t, "new", "old")
	s.set("new", tools(5, "x"))
	listed := tools(5, "y")
	s.older("old", func(w http.ResponseWriter, r *http.Request, q sent) bool {
		switch q.method {
		case "resources/read":
			result(w, q.id, `{"contents":[{"uri":"x:1","text":"t"}]}`)
		case "completion/complete":
			result(w, q.id, `{ }`)
		case "prompts/get":
			failure(w, 200, q.id, "-32602", "null")
		case "tools/call":
			w.Header().Set("Content-Type", "text/event-stream")
			for _, data := range []string{
				`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":` + q.id + `,"progress":1}}`,
				`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"p","progress":2}}`,
				`{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"d"}}`,
				`{"jsonrpc":"2.0","id":5,"method":"sampling/createMessage","params":{}}`,
				`{"jsonrpc":"2.0","id":` + q.id + `,"result":{"content":[{"type":"resource_link","uri":"x:1"}]}}`,
			} {
				fmt.Fprintf(w, "id: 1\ndata: %s\n\n", data)
			}
		default:
			return listed(w, r, q)
		}
		return true
	})
	if got := names(t, s.modern("tools/list", "").result, "tools", "name"); strings.Join(got, " ") != "new__x old__y" {
		t.Errorf("tools: %v", got)
	}
	r := s.send(s.request("alice", http.MethodPost, "", `{"jsonrpc":"2.0","id": 7,"method":"tools/call","params":{"name":"old__t","arguments":{"n":1.0},`+modernMeta+`}}`), "alice")
	want := `data: {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"p","progress":1}}` + "\n\n" +
		"id: p.old.1\n" + `data: {"jsonrpc":"2.0","id":7,"result":{"content":[{"type":"resource_link","uri":"mcp+old+x:1"}],"resultType":"complete"}}` + "\n\n"
	if r.body != "id: p.old.1\n"+want {
		t.Errorf("got\n%s", r.body)
	}
	r = s.send(s.request("alice", http.MethodPost, "", `{"jsonrpc":"2.0","id":8,"method":"tools/call","params":{"name":"old__t","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/logLevel":"info"}}}`), "alice")
	if !strings.Contains(r.body, `"method":"notifications/message"`) || strings.Contains(r.body, "notifications/progress") {
		t.Errorf("with logs, without progress: %s", r.body)
	}
	var call, refused sent
	for _, q := range s.fakes.to("old") {
		if q.method == "tools/call" && call.id == "" {
			call = q
		}
		if q.method == "" {
			refused = q
		}
	}
	if call.id == "7" || call.session != "old-1" || call.header.Get("Mcp-Protocol-Version") != "2025-11-25" ||
		call.body != `{"jsonrpc":"2.0","id": `+call.id+`,"method":"tools/call","params":{"name":"t","arguments":{"n":1.0},"_meta":{"progressToken":`+call.id+`,"x":1.0}}}` {
		t.Errorf("sent %+v", call)
	}
	if !strings.Contains(refused.body, `"id":5,"error"`) || !strings.Contains(refused.body, "cannot be asked this way") {
		t.Errorf("what it asked was answered with %s", refused.body)
	}
	if r := s.modern("resources/read", `"uri":"mcp+old+x:1"`); r.result != `{"contents":[{"uri":"mcp+old+x:1","text":"t"}],"resultType":"complete","ttlMs":0,"cacheScope":"private"}` {
		t.Errorf("read: %+v", r)
	}
	if r := s.modern("completion/complete", `"ref":{"type":"ref/prompt","name":"old__p"}`); r.result != `{ "resultType":"complete"}` {
		t.Errorf("an empty result: %+v", r)
	}
	if r := s.modern("prompts/get", `"name":"old__p"`); r.code != http.StatusBadRequest || !strings.HasPrefix(r.failed, "-32602") {
		t.Errorf("get: %+v", r)
	}
	if got := methods(s.fakes.to("old")); strings.Count(got, "initialize ") != 1 || strings.Count(got, "server/discover") != 1 {
		t.Errorf("sent %s", got)
	}
	if r := s.modern("subscriptions/listen", `"notifications":{"resourceSubscriptions":["mcp+old+x:1"]}`); !strings.Contains(r.body, `"notifications":{}`) ||
		strings.Contains(methods(s.fakes.to("old")), "subscriptions") {
		t.Errorf("subscribed: %+v", r)
	}
}

// Two clients of one caller use the same ids; neither gets the other's answer.
// Who leaves cancels its own call alone.
func TestBridgedCallsStayApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, "old")
		release := make(chan struct{})
		s.older("old", func(w http.ResponseWriter, r *http.Request, q sent) bool {
			if q.method != "tools/call" {
				return false
			}
			<-release
			result(w, q.id, `{"was":`+string(q.params)+`}`)
			return true
		})
		var all sync.WaitGroup
		for _, name := range []string{"one", "two"} {
			all.Go(func() {
				if r := s.modern("tools/call", `"name":"old__`+name+`"`); !strings.Contains(r.result, `"name":"`+name+`"`) || !strings.Contains(r.body, `"id":7,`) {
					t.Errorf("%s: %+v", name, r)
				}
			})
		}
		ctx, leave := context.WithCancel(t.Context())
		all.Go(func() {
			r := s.request("alice", http.MethodPost, "", `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"old__three",`+modernMeta+`}}`)
			if err := s.serve(&tape{header: http.Header{}}, r.WithContext(ctx), "alice"); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		leave()
		synctest.Wait()
		var three, cancelled string
		for _, q := range s.fakes.to("old") {
			switch {
			case strings.Contains(q.body, `"three"`):
				three = q.id
			case q.method == "notifications/cancelled":
				cancelled += q.body
			}
		}
		if cancelled != `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":`+three+`}}` {
			t.Errorf("%s was cancelled by %s", three, cancelled)
		}
		close(release)
		all.Wait()
		synctest.Wait()
		if n := strings.Count(methods(s.fakes.to("old")), "notifications/cancelled"); n != 1 {
			t.Errorf("%d cancellations", n)
		}
		time.Sleep(sessionIdle + time.Second)
		s.hub.Sweep()
		if len(s.hub.bridges.m) != 0 {
			t.Error("the session is kept for ever")
		}
	})
}

// The session that is kept is one caller's, and is opened again if the server
// has lost it.
func TestBridgesBelongToTheirCaller(t *testing.T) {
	s := newStage(t, "old")
	s.older("old", func(w http.ResponseWriter, r *http.Request, q sent) bool {
		if q.method == "tools/call" && q.session == "old-1" && strings.Contains(q.body, "lost") {
			failure(w, 404, q.id, "-32000", `{"status":"no-session"}`)
			return true
		}
		return false
	})
	for _, owner := range []string{"alice", "bob"} {
		r := s.request(owner, http.MethodPost, "", `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"old__t",`+modernMeta+`}}`)
		if got := s.send(r, owner); got.result != `{"from":"old","resultType":"complete"}` {
			t.Errorf("%s: %+v", owner, got)
		}
	}
	var used []string
	for _, q := range s.fakes.to("old") {
		if q.method == "tools/call" {
			used = append(used, q.header.Get("Authorization")+" "+q.session)
		}
		if q.method == "initialize" && !strings.Contains(q.body, `"capabilities":{},"clientInfo":{"name":"agent","version":"3"}`) {
			t.Errorf("introduced as %s", q.body)
		}
	}
	if got := strings.Join(used, ", "); got != "Bearer alice old-1, Bearer bob old-2" {
		t.Errorf("sessions: %s", got)
	}
	if r := s.modern("tools/call", `"name":"old__lost"`); r.result != `{"from":"old","resultType":"complete"}` {
		t.Errorf("lost: %+v", r)
	}
}

// What crosses stays one message of its kind, whatever either side puts in it.
func FuzzBridge(f *testing.F) {
	f.Add(`{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"x","_meta":{"progressToken":1}}}`, `{"jsonrpc":"2.0","id":"cs-1","result":{ }}`)
	f.Add(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","_meta":{ }}}`, `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"cs-1"}}`)
	f.Fuzz(func(t *testing.T, asked, came string) {
		m, err := wire.Parse([]byte(asked), wire.Limits{})
		if err != nil || m.Kind != wire.Request {
			return
		}
		if m.Meta.Present() {
			out := wire.Splice(m.Raw, wire.Edit{Span: m.Meta, New: olderMeta(m, []byte(`"cs-1"`))})
			older, err := wire.Parse(out, wire.Limits{})
			if err != nil || older.Modern() || string(older.Canonical()) != string(m.Canonical()) || older.ProgressToken != nil && string(older.ProgressToken) != `"cs-1"` {
				t.Fatalf("%s became %s: %v", asked, out, err)
			}
		}
		back, err := wire.Parse([]byte(came), wire.Limits{})
		if err != nil || back.Kind == wire.Request || back.Method == "notifications/progress" && m.ProgressToken == nil {
			return
		}
		out := newer(m, back)
		again, err := wire.Parse(out, wire.Limits{})
		if err != nil || again.Kind != back.Kind || again.Kind == wire.Response && back.ID != nil && string(again.ID) != string(m.ID) {
			t.Fatalf("%s became %s: %v", came, out, err)
		}
	})
}
