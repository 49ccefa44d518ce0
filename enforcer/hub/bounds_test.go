package hub

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"countersign/enforcer/budget"
	"countersign/enforcer/wire"
)

const ofToday = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`

func (s *stage) stateless(body string) *http.Request {
	r := s.request("alice", http.MethodPost, "", body)
	r.Header.Set("Mcp-Protocol-Version", "2026-07-28")
	return r
}

// A client that leaves a list while one server is slow gives back what the
// others have answered.
func TestALeftListIsNotHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, "a", "late")
		s.room = budget.New(4<<20, time.Second)
		big, late := strings.Repeat("y", 60<<10), make(chan struct{})
		for _, name := range s.servers {
			s.set(name, func(w http.ResponseWriter, r *http.Request, q sent) bool {
				switch q.method {
				case "server/discover":
					result(w, q.id, `{"supportedVersions":["2026-07-28"],"capabilities":{"tools":{}}}`)
					return true
				case "tools/list":
					if name == "late" {
						<-late
					}
					result(w, q.id, `{"tools":[{"name":"t","description":"`+big+`"}]}`)
					return true
				}
				return false
			})
		}
		for range 3 {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel)
			out := s.send(s.stateless(`{"jsonrpc":"2.0","id":7,"method":"tools/list","params":{`+ofToday+`}}`).WithContext(ctx), "alice")
			if out.refused == nil {
				t.Error("the list was answered")
			}
		}
		close(late)
		synctest.Wait()
		if n := s.room.Used(); n != 0 {
			t.Errorf("%d bytes are counted for ever", n)
		}
	})
}

// A client whose stream has begun is told, too, that its answer found no room.
func TestNoRoomForAnAnswerOnAStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, "a")
		s.room = budget.New(4<<20, time.Second)
		s.set("a", func(w http.ResponseWriter, r *http.Request, q sent) bool {
			if q.method != "tools/call" {
				return false
			}
			w.Header().Set("Content-Type", "text/event-stream")
			w.WriteHeader(http.StatusOK)
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Error(err)
			}
			taken := s.room.Share()
			if err := taken.Set(t.Context(), 4<<20); err != nil {
				t.Error(err)
			}
			defer taken.Free()
			if _, err := fmt.Fprintf(w, "data: {\"jsonrpc\":\"2.0\",\"id\":%s,\"result\":{\"x\":\"%s\"}}\n\n", q.id, strings.Repeat("y", 60<<10)); err == nil {
				t.Error("the gate took an answer for which it has no room")
			}
			return true
		})
		out := s.post(s.open(), call(7, "a__t"))
		if out.refused == nil || out.refused.Kind != Broken || !strings.Contains(out.refused.Reason, "limits.memory") || out.header.Get("Content-Type") != "text/event-stream" {
			t.Errorf("%+v", out)
		}
		if n := s.room.Used(); n != 0 {
			t.Errorf("%d bytes are counted for ever", n)
		}
	})
}

// What a server says at length of a session that it does not know is given back.
func TestASessionGoneIsNotHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, "a")
		s.room = budget.New(4<<20, time.Second)
		s.set("a", func(w http.ResponseWriter, r *http.Request, q sent) bool {
			if q.method != "tools/list" {
				return false
			}
			failure(w, http.StatusNotFound, q.id, "-32000", `{"status":"no-session","pad":"`+strings.Repeat("y", 60<<10)+`"}`)
			return true
		})
		session := s.open()
		for range 3 {
			s.post(session, `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`)
		}
		synctest.Wait()
		if n := s.room.Used(); n != 0 {
			t.Errorf("%d bytes are counted for ever", n)
		}
	})
}

// Whoever is late touches neither body nor headers of a response that is over.
func TestNothingIsWrittenAfterTheEnd(t *testing.T) {
	r := httptest.NewRequest(http.MethodPost, "/mcp", nil)
	r.Header.Set("Accept", "text/event-stream")
	w := httptest.NewRecorder()
	c := newClient(w, r)
	c.end()
	for name, err := range map[string]error{
		"event": c.event([]byte("data: x\n\n")), "message": c.message(http.StatusOK, nil, []byte("{}")), "open": c.open(),
	} {
		if err == nil {
			t.Errorf("%s succeeds", name)
		}
	}
	if len(w.Header()) > 0 || w.Body.Len() > 0 {
		t.Errorf("written: %v %s", w.Header(), w.Body)
	}
}

// All that goes to a server says by which endpoint it came, the end of a
// session too: a token may be good for that endpoint only.
func TestTheEndOfASessionSaysWhereItCameBy(t *testing.T) {
	type key struct{}
	s := newStage(t, "a")
	seen := make(chan string, 100)
	s.set("a", func(w http.ResponseWriter, r *http.Request, q sent) bool {
		v, _ := r.Context().Value(key{}).(string)
		seen <- r.Method + " by " + v
		return false
	})
	do := func(r *http.Request, body string) {
		c := &Call{Request: r, Owner: "alice", Servers: s.servers, Limits: wire.Limits{Bytes: s.limit, Depth: 64}, Answered: func(string) error { return nil }}
		if body != "" {
			m, err := wire.Parse([]byte(body), wire.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			c.Message = m
		}
		if err := s.hub.Serve(context.WithValue(r.Context(), key{}, "/mcp"), httptest.NewRecorder(), c); err != nil {
			t.Error(err)
		}
	}
	session := s.open()
	do(s.request("alice", http.MethodPost, session, call(1, "a__t")), call(1, "a__t"))
	do(s.request("alice", http.MethodDelete, session, ""), "")
	close(seen)
	ended := false
	for v := range seen {
		ended = ended || strings.HasPrefix(v, http.MethodDelete)
		if !strings.HasSuffix(v, " by /mcp") {
			t.Error(v)
		}
	}
	if !ended {
		t.Error("the server's session was not ended")
	}
}

// What is copied for every server is small; what is kept of a server's words,
// too.
func TestWhatIsCopiedAndKeptIsSmall(t *testing.T) {
	s := newStage(t, "a")
	s.limit = 8 << 20
	pad := strings.Repeat("y", 65<<10)
	for _, method := range []string{"tools/list", "subscriptions/listen"} {
		out := s.send(s.stateless(`{"jsonrpc":"2.0","id":7,"method":"`+method+`","params":{"pad":"`+pad+`",`+ofToday+`}}`), "alice")
		if out.refused == nil || out.refused.Reason != method+" is longer than 65536 bytes" {
			t.Errorf("%s: %v", method, out.refused)
		}
	}
	s.fakes.answer["a"] = func(w http.ResponseWriter, r *http.Request, q sent) {
		w.Header().Set("Content-Type", "application/json")
		if _, err := w.Write([]byte(`{"jsonrpc":"2.0","id":` + string(q.id) + `,"error":{"code":-1,"message":"` + strings.Repeat("y", 4<<20) + `"}}`)); err != nil {
			t.Error(err)
		}
	}
	session := s.open()
	s.post(session, call(1, "a__t"))
	s.hub.sessions.mu.Lock()
	defer s.hub.sessions.mu.Unlock()
	for _, x := range s.hub.sessions.m {
		if l := x.links["a"]; l == nil || l.err == nil || len(l.err.Error()) > 2*maxWords {
			t.Errorf("a session keeps %+v", l)
		}
	}
}

// A subscription goes to every server that it concerns, however many.
func TestASubscriptionAtManyServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var names []string
		for i := range width + 6 {
			names = append(names, fmt.Sprintf("s%03d", i))
		}
		s := newStage(t, names...)
		var mu sync.Mutex
		heard := map[string]bool{}
		for _, name := range names {
			s.set(name, func(w http.ResponseWriter, r *http.Request, q sent) bool {
				switch q.method {
				case "server/discover":
					result(w, q.id, `{"supportedVersions":["2026-07-28"],"capabilities":{"tools":{}}}`)
				case "subscriptions/listen":
					mu.Lock()
					heard[name] = true
					mu.Unlock()
					w.Header().Set("Content-Type", "text/event-stream")
					if _, err := w.Write([]byte("data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/subscriptions/acknowledged\",\"params\":{\"notifications\":{\"toolsListChanged\":true}}}\n\n")); err != nil {
						t.Error(err)
					}
					<-r.Context().Done()
				default:
					return false
				}
				return true
			})
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Hour, cancel)
		r := s.stateless(`{"jsonrpc":"2.0","id":7,"method":"subscriptions/listen","params":{"notifications":{"toolsListChanged":true},` + ofToday + `}}`)
		_ = s.serve(httptest.NewRecorder(), r.WithContext(ctx), "alice") // cut off, which it says
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if len(heard) != len(names) {
			t.Errorf("%d of %d servers were asked within an hour", len(heard), len(names))
		}
	})
}
