package hub

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"countersign/enforcer/wire"
)

func call(id int, name string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":%q,"arguments":{"n":1.0}}}`, id, name)
}

// Nothing is opened before it is needed; then once, with what the client said
// of itself; and it ends with the session.
func TestSessionsAreOpenedLazilyAndEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, "a", "b")
		release := make(chan struct{})
		opens := s.fakes.answer["a"]
		s.fakes.answer["a"] = func(w http.ResponseWriter, r *http.Request, q sent) {
			if q.method == "initialize" {
				<-release
			}
			opens(w, r, q)
		}
		session := s.open()
		if r := s.post(session, `{"jsonrpc":"2.0","method":"notifications/initialized"}`); r.code != 202 {
			t.Errorf("initialized: %+v", r)
		}
		if r := s.post(session, `{"jsonrpc":"2.0","id":1,"method":"ping"}`); r.result != "{}" {
			t.Errorf("ping: %+v", r)
		}
		if n := len(s.fakes.seen); n != 0 {
			t.Fatalf("servers were asked: %v", methods(s.fakes.seen))
		}
		var all sync.WaitGroup
		for i := range 5 {
			all.Go(func() {
				if r := s.post(session, call(i+2, "a__t")); r.result != `{"from":"a"}` {
					t.Errorf("call %d: %+v", i, r)
				}
			})
		}
		synctest.Wait()
		close(release)
		all.Wait()
		got := s.fakes.to("a")
		if m := methods(got); m != "initialize notifications/initialized tools/call tools/call tools/call tools/call tools/call" {
			t.Fatalf("a was sent %s", m)
		}
		if got[0].body != hello || got[0].session != "" || got[0].header.Get("Mcp-Protocol-Version") != "" {
			t.Errorf("initialize: %+v", got[0])
		}
		for _, q := range got[1:] {
			if q.session != "a-1" || q.header.Get("Mcp-Protocol-Version") != "2025-11-25" || q.header.Get("Authorization") != "Bearer alice" {
				t.Errorf("%s: session %q, %v", q.method, q.session, q.header)
			}
		}
		if body := got[2].body; !strings.HasSuffix(body, `"method":"tools/call","params":{"name":"t","arguments":{"n":1.0}}}`) {
			t.Errorf("call: %s", body)
		}
		if len(s.fakes.to("b")) != 0 {
			t.Error("b was asked for nothing")
		}
		if r := s.send(s.request("alice", http.MethodDelete, session, ""), "alice"); r.code != 204 {
			t.Errorf("delete: %+v", r)
		}
		if got := s.fakes.to("a"); got[len(got)-1].verb != http.MethodDelete || got[len(got)-1].session != "a-1" {
			t.Errorf("the end: %+v", got[len(got)-1])
		}
		if r := s.post(session, call(9, "a__t")); r.refused == nil || r.refused.Kind != NoSession {
			t.Errorf("after the end: %+v", r)
		}
	})
}

// An older client and an older server each get their own revision.
func TestRevisions(t *testing.T) {
	for asked, want := range map[string]string{"2025-03-26": "2025-03-26", "2025-06-18": "2025-06-18", "2024-11-05": "2025-11-25", "2031-01-01": "2025-11-25"} {
		s := newStage(t, "a")
		r := s.post("", strings.Replace(hello, "2025-11-25", asked, 1))
		if !strings.HasPrefix(r.result, `{"protocolVersion":"`+want+`"`) {
			t.Errorf("%s: %s", asked, r.result)
		}
		s.post(r.header.Get("Mcp-Session-Id"), call(1, "a__t"))
		if got := s.fakes.to("a")[0].body; got != strings.Replace(hello, "2025-11-25", want, 1) {
			t.Errorf("%s: the server was greeted with %s", asked, got)
		}
	}
}

// A session of somebody else, an idle or an old one is as good as none.
func TestSessionsBelongToTheirOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, "a")
		session := s.open()
		s.post(session, call(1, "a__t"))
		before := len(s.fakes.seen)
		for name, r := range map[string]*http.Request{
			"a call":       s.request("mallory", http.MethodPost, session, call(2, "a__t")),
			"the stream":   s.request("mallory", http.MethodGet, session, ""),
			"the end":      s.request("mallory", http.MethodDelete, session, ""),
			"a made-up id": s.request("mallory", http.MethodPost, "a-1", call(2, "a__t")),
		} {
			if got := s.send(r, "mallory"); got.refused == nil || got.refused.Kind != NoSession {
				t.Errorf("%s: %+v", name, got)
			}
		}
		if r := s.post("", call(2, "a__t")); r.refused == nil || r.refused.Kind != BadRequest {
			t.Errorf("without a session: %+v", r)
		}
		if len(s.fakes.seen) != before {
			t.Error("a server was asked")
		}
		if r := s.post(session, call(3, "a__t")); r.refused != nil {
			t.Errorf("alice cannot use her own: %v", r.refused)
		}
		time.Sleep(sessionIdle + time.Second)
		if r := s.post(session, call(4, "a__t")); r.refused == nil || r.refused.Kind != NoSession {
			t.Errorf("idle: %+v", r)
		}
		session = s.open()
		for range 24*3 + 1 {
			time.Sleep(20 * time.Minute)
			s.post(session, `{"jsonrpc":"2.0","id":1,"method":"ping"}`)
		}
		if r := s.post(session, call(4, "a__t")); r.refused == nil || r.refused.Kind != NoSession {
			t.Errorf("a day old: %+v", r)
		}
		s.hub.Sweep()
		if n := len(s.hub.sessions.m); n != 0 {
			t.Errorf("%d sessions are left", n)
		}
	})
}

// An open stream keeps a session from being idle, and from making room for
// another as long as there is an idle one.
func TestASessionInUseLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, "a")
		session := s.open()
		_, leave := s.listening(s.request("alice", http.MethodGet, session, ""), "alice")
		time.Sleep(2 * sessionIdle)
		s.hub.Sweep()
		for range maxOwned {
			time.Sleep(time.Second)
			s.open()
		}
		synctest.Wait()
		if r := s.post(session, `{"jsonrpc":"2.0","id":1,"method":"ping"}`); r.refused != nil {
			t.Errorf("its stream is open, and it has ended: %v", r.refused)
		}
		if err := leave(); err != nil {
			t.Error(err)
		}
		time.Sleep(sessionIdle + time.Second)
		s.hub.Sweep()
		if n := len(s.hub.sessions.m); n != 0 {
			t.Errorf("%d sessions are left", n)
		}
	})
}

// One caller cannot take the room of all: the session idle for longest ends,
// at the servers as well.
func TestOldestSessionMakesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, "a")
		first := s.open()
		s.post(first, call(1, "a__t"))
		for range maxOwned {
			time.Sleep(time.Second)
			s.open()
		}
		synctest.Wait()
		if r := s.post(first, call(2, "a__t")); r.refused == nil || r.refused.Kind != NoSession {
			t.Errorf("%+v", r)
		}
		if m := methods(s.fakes.to("a")); !strings.HasSuffix(m, "DELETE") {
			t.Errorf("a was sent %s", m)
		}
		if n := len(s.hub.sessions.m); n != maxOwned {
			t.Errorf("%d sessions", n)
		}
	})
}

// Nor can one subject with many clients.
func TestOneSubjectsSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s sessions
		s.init(time.Now)
		first, _ := s.bind("alice|c", "2025-11-25", nil)
		other, _ := s.bind("bob|c", "2025-11-25", nil)
		for i := range maxSubject {
			time.Sleep(time.Second)
			if _, evicted := s.bind(fmt.Sprintf("alice|c%d", i), "2025-11-25", nil); (i == maxSubject-1) != (len(evicted) == 1 && evicted[0] == first) {
				t.Errorf("session %d: evicted %v", i, evicted)
			}
		}
		if s.m[other.id] == nil {
			t.Error("another subject's session has made room")
		}
	})
}

// A server that has forgotten its session gets another and the request again,
// unless that may have run.
func TestASessionThatIsGoneIsOpenedAgain(t *testing.T) {
	for _, c := range []struct {
		name, data string
		calls      int
		want       string
	}{
		{"it did not run", `{"status":"no-session"}`, 2, ""},
		{"it may have run", `{"status":"no-session","ran":"unknown"}`, 1, `server "a" has ended its session, and the next request to it opens another`},
		{"an approval was spent on it", `{"status":"no-session","approval":"ap_1"}`, 1, `server "a" has ended its session`},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStage(t, "a")
			s.set("a", func(w http.ResponseWriter, r *http.Request, q sent) bool {
				if q.method == "tools/call" && q.session == "a-1" {
					failure(w, 404, q.id, "-32000", c.data)
					return true
				}
				return false
			})
			session := s.open()
			r := s.post(session, call(1, "a__t"))
			if c.want == "" && r.result != `{"from":"a"}` || !strings.Contains(r.failed, c.want) || r.code != 200 {
				t.Errorf("%+v", r)
			}
			if n := strings.Count(methods(s.fakes.to("a")), "tools/call"); n != c.calls {
				t.Errorf("called %d times", n)
			}
			if r := s.post(session, call(2, "a__t")); r.result != `{"from":"a"}` {
				t.Errorf("the next call: %+v", r)
			}
		})
	}
	t.Run("a server that says so itself", func(t *testing.T) {
		s := newStage(t, "a")
		s.set("a", func(w http.ResponseWriter, r *http.Request, q sent) bool {
			if q.method == "tools/call" {
				failure(w, 200, q.id, "-32000", `{"status":"no-session"}`)
			}
			return q.method == "tools/call"
		})
		s.post(s.open(), call(1, "a__t"))
		if n := strings.Count(methods(s.fakes.to("a")), "tools/call"); n != 1 {
			t.Errorf("called %d times", n)
		}
	})
	t.Run("always gone", func(t *testing.T) {
		s := newStage(t, "a")
		s.set("a", func(w http.ResponseWriter, r *http.Request, q sent) bool {
			if q.method == "tools/call" {
				failure(w, 404, q.id, "-32000", `{"status":"no-session"}`)
			}
			return q.method == "tools/call"
		})
		r := s.post(s.open(), call(1, "a__t"))
		if n := strings.Count(methods(s.fakes.to("a")), "tools/call"); n != 2 || r.code != 200 || !strings.Contains(r.failed, "has ended its session") {
			t.Errorf("%d calls, %+v", n, r)
		}
	})
}

// A server that cannot be opened is told of in words; one of the other era by
// that reason.
func TestAServerThatCannotBeOpened(t *testing.T) {
	s := newStage(t, "a", "b")
	s.fakes.answer["a"] = func(w http.ResponseWriter, r *http.Request, q sent) {
		failure(w, 200, q.id, "-32603", `{"record":"c_1","status":"unavailable"}`)
	}
	s.fakes.answer["b"] = func(w http.ResponseWriter, r *http.Request, q sent) {
		if q.method == "server/discover" {
			failure(w, 404, q.id, "-32601", "null")
		} else {
			result(w, q.id, `{"protocolVersion":"2026-07-28"}`)
		}
	}
	session := s.open()
	for name, want := range map[string]string{
		"a__t": `server "a" cannot be used now, and nothing ran: said so`,
		"b__t": `server "b" cannot be used now, and nothing ran: it does not speak the revisions with sessions (it answered with "2026-07-28")`,
	} {
		if r := s.post(session, call(1, name)); r.refused == nil || r.refused.Kind != Unavailable || r.refused.Reason != want {
			t.Errorf("%s: %v", name, r.refused)
		}
	}
	if r := s.modern("tools/call", `"name":"b__t"`); r.refused == nil || r.refused.Kind != Unavailable || !strings.Contains(r.refused.Reason, "it does not speak the revisions with sessions") {
		t.Errorf("neither era: %+v", r)
	}
	if r := s.modern("tools/call", `"name":"a__t"`); r.refused == nil || r.refused.Reason != `server "a" cannot be used now, and nothing ran: said so` {
		t.Errorf("down: %+v", r)
	}
}

// Cancelling goes to whoever has the request, and keeps it from whoever has not.
func TestCancellation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, "a", "b", "slow")
		running := make(chan struct{})
		s.set("b", tools(5, "x"))
		s.set("a", func(w http.ResponseWriter, r *http.Request, q sent) bool {
			if q.method == "tools/call" {
				<-running
			}
			return false
		})
		opening := make(chan struct{})
		opens := s.fakes.answer["slow"]
		s.fakes.answer["slow"] = func(w http.ResponseWriter, r *http.Request, q sent) { <-opening; opens(w, r, q) }
		session := s.open()
		s.post(session, call(1, "b__t"))
		var all sync.WaitGroup
		all.Go(func() { s.post(session, call(2, "a__t")) })
		all.Go(func() {
			if r := s.post(session, call(3, "slow__t")); r.refused == nil || r.refused.Kind != Cancelled {
				t.Errorf("cancelled while its server was opened: %+v", r)
			}
		})
		synctest.Wait()
		all.Go(func() {
			if r := s.post(session, `{"jsonrpc":"2.0","id":4,"method":"tools/list"}`); !strings.Contains(r.result, "b__x") {
				t.Errorf("a cancelled list: %+v", r)
			}
		})
		synctest.Wait()
		for _, id := range []string{"2", "3", "4", "99"} {
			if r := s.post(session, `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":`+id+`}}`); r.code != 202 {
				t.Errorf("%s: %+v", id, r)
			}
		}
		close(running)
		close(opening)
		all.Wait()
		synctest.Wait()
		for server, want := range map[string]string{
			"a":    "initialize notifications/initialized tools/call tools/list notifications/cancelled notifications/cancelled",
			"b":    "initialize notifications/initialized tools/call tools/list notifications/cancelled",
			"slow": "initialize notifications/initialized",
		} {
			if got := methods(s.fakes.to(server)); got != want {
				t.Errorf("%s was sent %s", server, got)
			}
		}
	})
}

// What concerns every server goes to those that are open, and to those that
// are opened later.
func TestNotificationsAndTheLogLevel(t *testing.T) {
	s := newStage(t, "a", "b", "c")
	s.set("b", func(w http.ResponseWriter, r *http.Request, q sent) bool {
		if q.method == "logging/setLevel" {
			failure(w, 200, q.id, "-32000", "null")
		}
		return q.method == "logging/setLevel"
	})
	session := s.open()
	s.post(session, call(1, "a__t"))
	s.post(session, call(2, "b__t"))
	if r := s.post(session, `{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}`); r.code != 202 {
		t.Errorf("%+v", r)
	}
	const level = `{"jsonrpc":"2.0","id":5,"method":"logging/setLevel","params":{"level":"debug"}}`
	if r := s.post(session, level); r.result != "{}" {
		t.Errorf("%+v", r)
	}
	s.post(session, call(6, "c__t"))
	for server, want := range map[string]string{
		"a": "initialize notifications/initialized tools/call notifications/roots/list_changed logging/setLevel",
		"b": "initialize notifications/initialized tools/call notifications/roots/list_changed logging/setLevel",
	} {
		if got := methods(s.fakes.to(server)); got != want {
			t.Errorf("%s was sent %s", server, got)
		}
	}
	if got := methods(s.fakes.to("c")); !strings.Contains(got, "logging/setLevel") {
		t.Errorf("c was sent %s", got)
	}
	only := newStage(t, "b")
	only.fakes.answer["b"] = s.fakes.answer["b"]
	session = only.open()
	only.post(session, call(1, "b__t"))
	if r := only.post(session, level); r.refused == nil || r.refused.Reason != "no server took the log level: said so" {
		t.Errorf("%+v", r)
	}
}

// All callers together have a bound, too: who comes then is turned away, and
// nobody's session ends for it.
func TestTheBoundOnAllSessions(t *testing.T) {
	s := newStage(t, "a")
	hello := &wire.Message{}
	for i := range maxSessions {
		is := newSession(fmt.Sprintf("subject-%d|client", i), "2025-11-25", hello, time.Now())
		is.id = fmt.Sprint(i)
		s.hub.sessions.m[is.id] = is
	}
	const body = `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"x","version":"1"}}}`
	out := s.post("", body)
	if out.refused == nil || out.refused.Kind != Unavailable || len(s.hub.sessions.m) != maxSessions {
		t.Errorf("%+v, with %d sessions", out, len(s.hub.sessions.m))
	}
	s.hub.sessions.drop(s.hub.sessions.m["17"])
	if out := s.post("", body); out.refused != nil || out.header.Get("Mcp-Session-Id") == "" {
		t.Errorf("when one has ended: %+v", out)
	}
}
