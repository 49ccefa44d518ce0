package hub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// tape is a ResponseWriter whose stream can be read while it is written.
type tape struct {
	mu     sync.Mutex
	b      bytes.Buffer
	header http.Header
	code   int
	broken bool
}

func (t *tape) Header() http.Header { return t.header }
func (t *tape) WriteHeader(c int)   { t.mu.Lock(); t.code = c; t.mu.Unlock() }
func (t *tape) FlushError() error   { return nil }
func (t *tape) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.broken {
		return 0, errors.New("the client has left")
	}
	return t.b.Write(b)
}

// take is what has come since the last time.
func (t *tape) take() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.b.String()
	t.b.Reset()
	return s
}

// listening opens a stream; the returned func ends it, as the client's leaving
// does.
func (s *stage) listening(r *http.Request, owner string) (*tape, func() error) {
	t := &tape{header: http.Header{}}
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan error, 1)
	go func() { done <- s.serve(t, r.WithContext(ctx), owner) }()
	synctest.Wait()
	return t, func() error {
		cancel()
		if err := <-done; !errors.Is(err, ErrCut) {
			return err
		}
		return nil
	}
}

// streaming answers GETs with what is sent to it, until the client leaves.
func streaming(events <-chan string, got func(last string)) func(http.ResponseWriter, *http.Request, sent) bool {
	return func(w http.ResponseWriter, r *http.Request, q sent) bool {
		if q.verb != http.MethodGet {
			return false
		}
		got(r.Header.Get("Last-Event-Id"))
		w.Header().Set("Content-Type", "text/event-stream")
		if err := http.NewResponseController(w).Flush(); err != nil {
			return true
		}
		for {
			select {
			case e, ok := <-events:
				if !ok {
					return true
				}
				if _, err := w.Write([]byte(e)); err != nil {
					return true
				}
			case <-r.Context().Done():
				return true
			}
		}
	}
}

// The streams of the servers are merged, of those that are opened later too;
// ids say whose they are; and what a server asks is answered to that server.
func TestTheStreamOfAllServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, "a", "b", "c")
		var mu sync.Mutex
		var lasts []string
		note := func(server string) func(string) {
			return func(last string) { mu.Lock(); lasts = append(lasts, server+"="+last); mu.Unlock() }
		}
		a, b := make(chan string), make(chan string)
		s.set("a", streaming(a, note("a")))
		s.set("b", streaming(b, note("b")))
		session := s.open()
		s.post(session, call(1, "a__t"))
		tape, end := s.listening(s.request("alice", http.MethodGet, session, ""), "alice")
		s.post(session, call(2, "b__t"))
		s.post(session, call(3, "c__t")) // offers no stream
		synctest.Wait()

		a <- "id: 7\nretry: 50\ndata: {\"jsonrpc\":\"2.0\",\"id\": 9007199254740993,\"method\":\"roots/list\",\"params\":{\"_meta\":{\"progressToken\":\"t\"}}}\n\n"
		b <- ": hello\n\nid: 8\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/resources/updated\",\"params\":{\"uri\":\"x:y\"}}\n\n"
		b <- "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/cancelled\",\"params\":{\"requestId\":\"q\"}}\n\n"
		synctest.Wait()
		got := tape.take()
		for _, want := range []string{
			"id: g.a.7\nretry: 50\ndata: {\"jsonrpc\":\"2.0\",\"id\": " + string(joinID("a", []byte("9007199254740993"))) + ",\"method\":\"roots/list\",\"params\":{\"_meta\":{\"progressToken\":" + string(joinID("a", []byte(`"t"`))) + "}}}\n\n",
			": hello\n\n",
			"id: g.b.8\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/resources/updated\",\"params\":{\"uri\":\"mcp+b+x:y\"}}\n\n",
			`{"requestId":` + string(joinID("b", []byte(`"q"`))) + `}`,
		} {
			if !strings.Contains(got, want) {
				t.Errorf("the stream lacks %q:\n%s", want, got)
			}
		}
		// The client answers, and tells of progress.
		if r := s.post(session, `{"jsonrpc":"2.0","id":`+string(joinID("a", []byte("9007199254740993")))+`,"result":{"roots":[]}}`); r.code != 202 || r.refused != nil {
			t.Errorf("the answer: %+v", r)
		}
		if r := s.post(session, `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":`+string(joinID("a", []byte(`"t"`)))+`,"progress":1}}`); r.code != 202 || r.refused != nil {
			t.Errorf("progress: %+v", r)
		}
		sentA := s.fakes.to("a")
		if got := sentA[len(sentA)-2].body; got != `{"jsonrpc":"2.0","id":9007199254740993,"result":{"roots":[]}}` {
			t.Errorf("a got %s", got)
		}
		if got := sentA[len(sentA)-1].body; got != `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"t","progress":1}}` {
			t.Errorf("a got %s", got)
		}
		// A stream that ends is taken up again where it ended.
		close(b)
		synctest.Wait()
		time.Sleep(3 * time.Second)
		synctest.Wait()
		mu.Lock()
		if got := strings.Join(lasts, " "); !strings.HasPrefix(got, "a= b= b=8") {
			t.Errorf("streams were opened %s", got)
		}
		mu.Unlock()
		if err := end(); err != nil {
			t.Error(err)
		}
		// And by the client, after a break.
		tape, end = s.listening(func() *http.Request {
			r := s.request("alice", http.MethodGet, session, "")
			r.Header.Set("Last-Event-Id", "g.a.7")
			return r
		}(), "alice")
		mu.Lock()
		if got := strings.Join(lasts, " "); !strings.Contains(got, "a=7") {
			t.Errorf("streams were opened %s", got)
		}
		mu.Unlock()
		// A second reader takes over.
		other, endOther := s.listening(s.request("alice", http.MethodGet, session, ""), "alice")
		a <- "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/x\"}\n\n"
		synctest.Wait()
		if first, second := tape.take(), other.take(); strings.Contains(first, "notifications/x") || !strings.Contains(second, "notifications/x") {
			t.Errorf("first reader: %q, second: %q", first, second)
		}
		if err := errors.Join(end(), endOther()); err != nil {
			t.Error(err)
		}
	})
}

// A server that a list had to do without is made known once it is there.
func TestALateServerIsMadeKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, "a", "late", "slow")
		s.set("a", tools(5, "x"))
		starting := make(chan struct{})
		s.set("late", tools(5, "y"))
		opens := s.fakes.answer["late"]
		s.fakes.answer["late"] = func(w http.ResponseWriter, r *http.Request, q sent) { <-starting; opens(w, r, q) }
		done := make(chan struct{})
		s.set("slow", func(w http.ResponseWriter, r *http.Request, q sent) bool { // open, but slow to tell
			if q.method == "tools/list" {
				<-done
			}
			return false
		})
		session := s.open()
		tape, end := s.listening(s.request("alice", http.MethodGet, session, ""), "alice")
		if r := s.post(session, `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`); strings.Contains(r.result, "late__y") {
			t.Fatalf("%+v", r)
		}
		if got := tape.take(); got != "" {
			t.Errorf("before it is there: %s", got)
		}
		close(starting)
		synctest.Wait()
		if got := tape.take(); strings.Count(got, `"method":"notifications/tools/list_changed"`) != 1 {
			t.Errorf("when it is: %s", got)
		}
		s.post(session, `{"jsonrpc":"2.0","id":2,"method":"tools/list"}`) // without slow again
		if got := tape.take(); got != "" {
			t.Errorf("for one that is open and slow: %s", got)
		}
		close(done)
		if err := end(); err != nil {
			t.Error(err)
		}
	})
}

// An id that is too long to come back is refused to the server, not lost.
func TestAnIDThatCannotBeCarried(t *testing.T) {
	s := newStage(t, "a")
	s.set("a", func(w http.ResponseWriter, r *http.Request, q sent) bool {
		if q.method != "tools/call" {
			return false
		}
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprintf(w, "data: {\"jsonrpc\":\"2.0\",\"id\":\"%s\",\"method\":\"roots/list\"}\n\n", strings.Repeat("x", maxRawID))
		fmt.Fprintf(w, "data: {\"jsonrpc\":\"2.0\",\"id\":%s,\"result\":{}}\n\n", q.id)
		return true
	})
	r := s.post(s.open(), call(1, "a__t"))
	if strings.Contains(r.body, "roots/list") || r.result != "{}" {
		t.Errorf("%+v", r)
	}
	if got := s.fakes.to("a"); !strings.Contains(got[len(got)-1].body, `"error":{"code":-32600`) {
		t.Errorf("a was told %s", got[len(got)-1].body)
	}
}

// The answer to a POST comes as it is made: progress, what the server asks, the
// response, each with the ids that lead back.
func TestAnswersStream(t *testing.T) {
	s := newStage(t, "a")
	s.set("a", func(w http.ResponseWriter, r *http.Request, q sent) bool {
		switch {
		case q.method == "tools/call":
			w.Header().Set("Content-Type", "text/event-stream")
			for _, part := range []string{ // cut anywhere
				"id: 1\nda", "ta: \n\n", "id: 2\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{\"progressToken\":5,\"progress\":0.5}}\n\nid: 3\n",
				"data: {\"jsonrpc\":\"2.0\",\"id\":1,\"meth", "od\":\"elicitation/create\",\"params\":{}}\n\n",
				"id: 4\ndata: {\"jsonrpc\":\"2.0\",\"id\":" + q.id + ",\"result\":{\"content\":[{\"type\":\"resource_link\",\"uri\":\"x:1\"}]}}\n\n",
			} {
				if _, err := w.Write([]byte(part)); err != nil {
					t.Error(err)
				}
			}
			return true
		case q.verb == http.MethodGet:
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprintf(w, "id: 5\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"after\":%q}}\n\n", r.Header.Get("Last-Event-Id"))
			return true
		}
		return false
	})
	session := s.open()
	r := s.post(session, call(1, "a__t"))
	want := "id: p.a.1\ndata: \n\n" +
		"id: p.a.2\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{\"progressToken\":5,\"progress\":0.5}}\n\n" +
		"id: p.a.3\ndata: {\"jsonrpc\":\"2.0\",\"id\":\"cs1.a.MQ\",\"method\":\"elicitation/create\",\"params\":{}}\n\n" +
		"id: p.a.4\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"content\":[{\"type\":\"resource_link\",\"uri\":\"mcp+a+x:1\"}]}}\n\n"
	if r.body != want {
		t.Errorf("got\n%s\nwant\n%s", r.body, want)
	}
	get := s.request("alice", http.MethodGet, session, "")
	get.Header.Set("Last-Event-Id", "p.a.3")
	if r := s.send(get, "alice"); r.body != "id: p.a.5\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"after\":\"3\"}}\n\n" {
		t.Errorf("resumed: %+v", r)
	}
}

// The pipeline has to learn of a client that has left before its answer was
// out: it keeps that of an approved call.
func TestAFailedWriteReachesThePipeline(t *testing.T) {
	s := newStage(t, "a")
	var err error
	s.set("a", func(w http.ResponseWriter, r *http.Request, q sent) bool {
		if q.method == "tools/call" {
			w.Header().Set("Content-Type", "application/json")
			_, err = fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{}}`, q.id)
		}
		return q.method == "tools/call"
	})
	session := s.open()
	if serr := s.serve(&tape{header: http.Header{}, broken: true}, s.request("alice", http.MethodPost, session, call(1, "a__t")), "alice"); serr != nil || err == nil {
		t.Errorf("served with %v, written with %v", serr, err)
	}
}

// A subscription is split by server, acknowledged once, and merged.
func TestSubscriptionsAreMerged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, "a", "b", "dead", "hangs")
		events := map[string]chan string{"a": make(chan string), "b": make(chan string)}
		for name, ch := range events {
			s.set(name, func(w http.ResponseWriter, r *http.Request, q sent) bool {
				if q.method != "subscriptions/listen" {
					return false
				}
				w.Header().Set("Content-Type", "text/event-stream")
				for {
					select {
					case e := <-ch:
						if _, err := fmt.Fprintf(w, "data: %s\n\n", e); err != nil {
							return true
						}
					case <-r.Context().Done():
						return true
					}
				}
			})
		}
		s.fakes.answer["dead"] = func(w http.ResponseWriter, r *http.Request, q sent) { failure(w, 200, q.id, "-32603", "null") }
		hang := make(chan struct{})
		s.fakes.answer["hangs"] = func(w http.ResponseWriter, r *http.Request, q sent) { <-hang }
		r := s.request("alice", http.MethodPost, "", `{"jsonrpc":"2.0","id":"s1","method":"subscriptions/listen","params":{"notifications":{"toolsListChanged":true,"resourceSubscriptions":["mcp+a+x:1","mcp+a+x:2"]},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}`)
		r.Header.Set("Mcp-Protocol-Version", "2026-07-28")
		tape, end := s.listening(r, "alice")
		const meta = `"_meta":{"io.modelcontextprotocol/subscriptionId":"s1"}`
		events["a"] <- `{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"notifications":{"toolsListChanged":true,"resourceSubscriptions":["x:1"]},` + meta + `}}`
		events["a"] <- `{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{` + meta + `}}`
		events["b"] <- `{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"notifications":{},` + meta + `}}`
		synctest.Wait()
		if got := tape.take(); got != "" {
			t.Errorf("before every server has answered, or is late: %s", got)
		}
		time.Sleep(ackWait)
		synctest.Wait()
		want := `data: {"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{` + meta + `,"notifications":{"resourceSubscriptions":["mcp+a+x:1"],"toolsListChanged":true}}}` + "\n\n" +
			`data: {"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{` + meta + `}}` + "\n\n"
		if got := tape.take(); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
		events["a"] <- `{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"x:1",` + meta + `}}`
		synctest.Wait()
		if got := tape.take(); !strings.Contains(got, `"uri":"mcp+a+x:1"`) {
			t.Errorf("got %s", got)
		}
		for server, want := range map[string]string{
			"a": `"notifications":{"toolsListChanged":true,"resourceSubscriptions":["x:1","x:2"]},`,
			"b": `"notifications":{"toolsListChanged":true},`,
		} {
			all := s.fakes.to(server)
			if body := all[len(all)-1].body; !strings.Contains(body, want) {
				t.Errorf("%s was sent %s", server, body)
			}
		}
		close(hang)
		if err := end(); err != nil {
			t.Error(err)
		}
	})
}

// What a subscription says of tasks goes to the server of each, without its
// name, and comes back with it.
func TestSubscriptionsToTasks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, "a", "b", "c")
		const meta = `"_meta":{"io.modelcontextprotocol/subscriptionId":"s1"}`
		for _, name := range []string{"a", "b", "c"} {
			s.set(name, func(w http.ResponseWriter, r *http.Request, q sent) bool {
				if q.method != "subscriptions/listen" {
					return false
				}
				w.Header().Set("Content-Type", "text/event-stream")
				for _, m := range []string{
					`{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"notifications":{"taskIds":["t__1"]},` + meta + `}}`,
					`{"jsonrpc":"2.0","method":"notifications/tasks","params":{"taskId":"t__1","status":"working",` + meta + `}}`,
				} {
					if _, err := fmt.Fprintf(w, "data: %s\n\n", m); err != nil {
						return true
					}
				}
				<-r.Context().Done()
				return true
			})
		}
		listen := func(filter string) *http.Request {
			r := s.request("alice", http.MethodPost, "", `{"jsonrpc":"2.0","id":"s1","method":"subscriptions/listen","params":{"notifications":`+filter+`,"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}`)
			r.Header.Set("Mcp-Protocol-Version", "2026-07-28")
			return r
		}
		tape, end := s.listening(listen(`{"taskIds":["a__t__1","b__t__1","a__2"],"resourceSubscriptions":["mcp+b+x:1"]}`), "alice")
		got := tape.take()
		if !strings.HasPrefix(got, `data: {"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{`+meta+`,"notifications":{"taskIds":["a__t__1","b__t__1"]}}}`+"\n\n") &&
			!strings.HasPrefix(got, `data: {"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{`+meta+`,"notifications":{"taskIds":["b__t__1","a__t__1"]}}}`+"\n\n") {
			t.Errorf("acknowledged with %s", got)
		}
		for _, want := range []string{`"taskId":"a__t__1"`, `"taskId":"b__t__1"`} {
			if strings.Count(got, want) != 1 {
				t.Errorf("want one event of %s: %s", want, got)
			}
		}
		for server, want := range map[string]string{
			"a": `"notifications":{"taskIds":["t__1","2"]},`,
			"b": `"notifications":{"resourceSubscriptions":["x:1"],"taskIds":["t__1"]},`,
		} {
			all := s.fakes.to(server)
			if body := all[len(all)-1].body; !strings.Contains(body, want) {
				t.Errorf("%s was sent %s", server, body)
			}
		}
		if all := s.fakes.to("c"); len(all) != 0 {
			t.Errorf("c, which has none of the tasks, was sent %+v", all)
		}
		if err := end(); err != nil {
			t.Error(err)
		}
		before := len(s.fakes.to("a"))
		for filter, words := range map[string]string{
			`{"taskIds":["t1"]}`:           `task "t1": there is no such server that you may use, or none is named; it is spelled <server>__<task id>`,
			`{"taskIds":["elsewhere__t"]}`: `task "elsewhere__t": there is no such server`,
			`{"taskIds":["a__t",7]}`:       `task "": there is no such server`,
			`{"taskIds":true}`:             `params.notifications.taskIds must be a list`,
		} {
			if r := s.send(listen(filter), "alice"); r.refused == nil || r.refused.Kind != Unknown || !strings.Contains(r.refused.Reason, words) {
				t.Errorf("%s: %+v", filter, r)
			}
		}
		if len(s.fakes.to("a")) != before {
			t.Error("a refused subscription reached a server")
		}
	})
}

// When no server has anything to say, the client is told, and the stream ends.
func TestASubscriptionThatNobodyTakes(t *testing.T) {
	s := newStage(t, "a")
	s.fakes.answer["a"] = func(w http.ResponseWriter, r *http.Request, q sent) { failure(w, 200, q.id, "-32603", "null") }
	r := s.modern("subscriptions/listen", `"notifications":{"toolsListChanged":true}`)
	if !strings.Contains(r.body, `"notifications":{}`) || !strings.Contains(r.result, `"io.modelcontextprotocol/subscriptionId":7`) {
		t.Errorf("%+v", r)
	}
}
