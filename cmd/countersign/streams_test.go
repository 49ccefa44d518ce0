package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"countersign/audit"
)

// stream is an answer that is read while it comes.
type stream struct {
	status int
	got    *buffer
	leave  context.CancelFunc
	done   chan struct{} // closed when it has ended
	err    error         // why, unless in order; once done
}

// open makes a request of /mcp/<server>, or of /mcp, and follows its answer.
func (p *program) open(method, server, token, body string, edit func(*http.Request)) *stream {
	p.t.Helper()
	ctx, leave := context.WithCancel(p.t.Context())
	path := "/mcp"
	if server != "" {
		path += "/" + server
	}
	req, err := http.NewRequestWithContext(ctx, method, p.stage.URL+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	header("Authorization", "Bearer "+token, "Content-Type", "application/json", "Accept", "application/json, text/event-stream")(req)
	edit(req)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	s := &stream{status: resp.StatusCode, got: &buffer{}, leave: leave, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		defer resp.Body.Close()
		_, s.err = io.Copy(s.got, resp.Body)
	}()
	p.t.Cleanup(func() { leave(); <-s.done })
	return s
}

// shows waits until the words have come on the stream.
func (p *program) shows(s *stream, words string) {
	p.t.Helper()
	p.await("on a stream: "+words, func() bool { return strings.Contains(s.got.String(), words) })
}

// welcome answers initialize with a new session.
func welcome(w http.ResponseWriter, u *probe, id json.RawMessage) {
	w.Header().Set("Mcp-Session-Id", fmt.Sprintf("session-%d", u.requests()))
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"probe","version":"1"}}}`, id)
}

// streams has a probe hold open what is asked of it, in both eras: it begins
// every answer with a word, and goes on until whoever asked has left. What
// events gets is sent on one of them; told hears of cancellations, and of a list
// that is asked for.
func streams(u *probe, ended chan<- string, told chan<- struct{}, events <-chan string) {
	u.answerWith(func(w http.ResponseWriter, r *http.Request, id json.RawMessage, method, tool string) bool {
		begin := func(event string) {
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprintf(w, "id: e1\ndata: %s\n\n", event) // whoever has left is seen below
			_ = http.NewResponseController(w).Flush()
		}
		what := tool
		switch {
		case method == "server/discover":
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"serverInfo":{"name":"probe","version":"1"}}}`, id)
			return true
		case method == "initialize":
			welcome(w, u, id)
			return true
		case method == "notifications/cancelled":
			told <- struct{}{}
			return false
		case method == "tools/list":
			what = "list"
			told <- struct{}{}
		case method == "subscriptions/listen":
			what = "listen"
			begin(`{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"notifications":{"toolsListChanged":true},"_meta":{"io.modelcontextprotocol/subscriptionId":7}}}`)
		case r.Method == http.MethodGet:
			what = "get"
			begin(`{"jsonrpc":"2.0","method":"notifications/begun"}`)
		case tool == "once":
			begin(`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":5,"progress":1}}`)
		default:
			return false
		}
		for {
			select {
			case <-r.Context().Done():
				ended <- what
				return true
			case ev := <-events:
				begin(ev)
			}
		}
	})
}

// A freeze of a subject ends what it has open in either era and at either
// endpoint, says so there and in the record, and leaves a neighbour's streams;
// those end when the program stops.
func TestFreezeEndsStreams(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "1s")
	amend(t, s, s.Dana, map[string]string{"rules/listen.yaml": "- { id: listen, server: probe, method: subscriptions/listen, effect: allow }\n"})
	ended, told, events := make(chan string, 20), make(chan struct{}, 20), make(chan string)
	streams(u, ended, told, events)
	p := serving(t, s, nil)
	alice, erin := p.token("alice", "support"), p.token("erin", "support")
	in := func(session string) func(*http.Request) { return header("Mcp-Session-Id", session) }
	const listen, call = `"notifications":{"toolsListChanged":true},`, `"arguments":{},`

	direct := p.ask("probe", alice, helloAll).header.Get("Mcp-Session-Id")
	session := p.openAll(alice)
	if a := p.all(t.Context(), session, alice, toolCall("probe__echo", "x")); a.text != "ran echo" { // opens the server's session
		t.Fatalf("%+v", a)
	}
	subscribe := func(server, token string) *stream {
		t.Helper()
		return p.open(http.MethodPost, server, token, modern("subscriptions/listen", listen), mirrored("subscriptions/listen", ""))
	}
	calls := map[string]*stream{
		"stateless":         p.open(http.MethodPost, "probe", alice, modern("tools/call", `"name":"once",`+call), mirrored("tools/call", "once")),
		"stateless at /mcp": p.open(http.MethodPost, "", alice, modern("tools/call", `"name":"probe__once",`+call), mirrored("tools/call", "probe__once")),
		"session":           p.open(http.MethodPost, "probe", alice, toolCall("once", "x"), in(direct)),
		"session at /mcp":   p.open(http.MethodPost, "", alice, toolCall("probe__once", "x"), in(session)),
	}
	listens := map[string]*stream{"listen": subscribe("probe", alice), "listen at /mcp": subscribe("", alice)}
	gets := map[string]*stream{
		"GET":         p.open(http.MethodGet, "probe", alice, "", in(direct)),
		"GET at /mcp": p.open(http.MethodGet, "", alice, "", in(session)),
	}
	spared := map[string]*stream{"listen": subscribe("probe", erin), "listen at /mcp": subscribe("", erin)}
	for _, c := range calls {
		p.shows(c, "notifications/progress")
	}
	for _, c := range gets {
		p.shows(c, "notifications/begun")
	}
	for _, all := range []map[string]*stream{listens, spared} {
		for _, c := range all {
			p.shows(c, "notifications/subscriptions/acknowledged")
		}
	}
	last := func(name string, c *stream) answer {
		t.Helper()
		<-c.done
		if c.err != nil || c.status != http.StatusOK {
			t.Errorf("%s: status %d, and it ended with %v", name, c.status, c.err)
		}
		return readAnswer(c.status, http.Header{"Content-Type": {"text/event-stream"}}, c.got.String())
	}
	listing := make(chan answer, 1)
	go func() {
		a, _ := p.send(t.Context(), "", alice, `{"jsonrpc":"2.0","id":8,"method":"tools/list"}`, toAll(session)) // checked below
		listing <- a
	}()
	within(t, told, "what is told")
	p.freeze("--subject", s.Issuer.URL+"#alice", "--reason", "incident 43")
	for range len(calls) + len(listens) + len(gets) + 1 {
		within(t, ended, "the end of the call at the server") // at the server
	}
	for name, c := range calls {
		a := last(name, c)
		if !a.failed || !strings.Contains(a.text, "incident 43") || !strings.Contains(a.text, "may have run") {
			t.Errorf("%s: %s", name, c.got)
		}
		p.wants(a.record, audit.KindOutcome, audit.StatusFrozen)
	}
	for range 2 { // of the calls in sessions; in the other era the closed stream says it
		within(t, told, "what is told")
	}
	for name, c := range listens {
		a := last(name, c)
		if a.code != -32000 || !strings.Contains(a.text, "incident 43") || strings.Count(c.got.String(), `"id":7`) != 1 {
			t.Errorf("%s: %s", name, c.got)
		}
		kind := audit.KindOutcome
		if strings.HasSuffix(name, "/mcp") {
			kind = audit.KindClose // its opening was the outcome
		}
		if en := p.wants(a.record, kind, audit.StatusFrozen); en.Method != "subscriptions/listen" || !strings.Contains(en.Reason, "incident 43") {
			t.Errorf("%s: recorded as %+v", name, en)
		}
	}
	for name, c := range gets {
		last(name, c)
		if !strings.Contains(c.got.String(), ": frozen by operator uid ") {
			t.Errorf("%s: %s", name, c.got)
		}
	}
	if all := p.entries(func(en audit.Entry) bool {
		return en.Server == "*" && en.Kind == audit.KindClose && en.Method == "notifications/stream" && en.Status == audit.StatusFrozen
	}); len(all) != 1 || !strings.Contains(all[0].Reason, "incident 43") {
		t.Errorf("the end of the stream of all servers is recorded as %+v", all)
	}
	p.frozen(<-listing, "incident 43") // nor a list of who had answered by then
	p.frozen(p.all(t.Context(), session, alice, `{"jsonrpc":"2.0","id":9,"method":"tools/list"}`), "incident 43")

	p.await("events on both streams", func() bool {
		select { // one of the two takes it
		case events <- `{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":7}}}`:
		default:
		}
		for _, c := range spared {
			if !strings.Contains(c.got.String(), "notifications/tools/list_changed") {
				return false
			}
		}
		return true
	})
	p.stop() // does not wait for what is subscribed to
	for name, c := range spared {
		if <-c.done; strings.Contains(c.got.String(), "frozen") {
			t.Errorf("%s: %s", name, c.got)
		}
	}
	for range spared {
		if what := <-ended; what != "listen" {
			t.Errorf("%s ended at the server", what)
		}
	}
	if n := len(p.entries(func(en audit.Entry) bool {
		return en.Method == "subscriptions/listen" && en.Server == "probe" && en.Sub == "erin" && en.Kind == audit.KindOutcome && en.Status == "stopped"
	})); n != len(spared) {
		t.Errorf("%d streams are recorded as stopped", n)
	}
	verified(t, s)
}

// What a server answers late to a call that a freeze has ended stays here, on a
// stream that the client resumes too; nothing else of the stream does.
func TestNoAnswerAfterAFreeze(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "1s")
	u.answerWith(func(w http.ResponseWriter, r *http.Request, id json.RawMessage, method, tool string) bool {
		switch {
		case method == "initialize":
			welcome(w, u, id)
		case tool == "once": // a server that does not heed a cancellation
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, "id: e1\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"level\":\"info\",\"data\":\"begun\"}}\n\n")
			_ = http.NewResponseController(w).Flush() // whoever has left is seen next
			<-r.Context().Done()
		case r.Method == http.MethodGet && r.Header.Get("Last-Event-Id") == "e1":
			w.Header().Set("Content-Type", "text/event-stream")
			for i, text := range []string{`"id":"\u0066","result":{"content":[{"type":"text","text":"late"}]}`, `"id":2,"result":{"content":[{"type":"text","text":"another"}]}`} {
				fmt.Fprintf(w, "id: e%d\ndata: {\"jsonrpc\":\"2.0\",%s}\n\n", i+2, text)
			}
		case r.Method == http.MethodGet:
			w.WriteHeader(http.StatusMethodNotAllowed)
		default:
			return false
		}
		return true
	})
	p := serving(t, s, nil)
	alice := p.token("alice", "support")
	call := func(tool string) string { return strings.Replace(toolCall(tool, "x"), `"id":1`, `"id":"f"`, 1) }
	for name, c := range map[string]struct{ server, session, tool, last string }{
		"one server":  {"probe", p.ask("probe", alice, helloAll).header.Get("Mcp-Session-Id"), "once", "e1"},
		"all servers": {"", p.openAll(alice), "probe__once", "p.probe.e1"},
	} {
		resume := func() string {
			t.Helper()
			s := p.open(http.MethodGet, c.server, alice, "", header("Mcp-Session-Id", c.session, "Last-Event-ID", c.last))
			<-s.done
			if s.status != http.StatusOK || s.err != nil || !strings.Contains(s.got.String(), "another") {
				t.Errorf("%s, resumed: %d %v %s", name, s.status, s.err, s.got)
			}
			return s.got.String()
		}
		running := p.open(http.MethodPost, c.server, alice, call(c.tool), header("Mcp-Session-Id", c.session))
		p.shows(running, "begun")
		if got := resume(); !strings.Contains(got, "late") {
			t.Errorf("%s: before the freeze the answer can be fetched, too: %s", name, got)
		}
		freeze := p.freeze("--tool", "once", "--reason", "incident 44")
		p.shows(running, "incident 44")
		<-running.done
		if got := resume(); strings.Contains(got, "late") {
			t.Errorf("%s, while it stands: %s", name, got)
		}
		p.unfreeze(freeze)
		if got := resume(); strings.Contains(got, "late") { // that call was answered
			t.Errorf("%s, when it is lifted: %s", name, got)
		}
	}
	withheld := p.entries(func(en audit.Entry) bool {
		return en.Kind == audit.KindSegment && en.Server == "probe" && en.Status == audit.StatusFrozen && strings.Contains(en.Reason, "a late response")
	})
	if len(withheld) != 4 {
		t.Errorf("withheld, as recorded: %+v", withheld)
	}
	p.stop()
	verified(t, s)
}
