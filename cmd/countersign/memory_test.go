package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"countersign/audit"
)

// memory reads a line of the program's status, in MB: VmRSS, or VmHWM, its peak.
func (p *program) memory(line string) int {
	p.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(b), line+":")
	kb, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.SplitN(rest, "\n", 2)[0], "kB")))
	if !ok || err != nil {
		p.t.Fatalf("%s: %v", line, err)
	}
	return kb >> 10
}

// stalled is a client that reads the beginning of its answer, and no more.
type stalled struct {
	conn  net.Conn
	begun string // headers, and the first bytes of the body
	err   error
}

func (p *program) stall(token, body string) stalled { return p.stallAt("/mcp/probe", "", token, body) }

// stallAt is at any path, with more headers, each with its line's end.
func (p *program) stallAt(path, headers, token, body string) (s stalled) {
	addr := strings.TrimPrefix(p.stage.URL, "http://")
	s.conn, s.err = net.Dial("tcp", addr)
	if s.err != nil {
		return s
	}
	tcp := s.conn.(*net.TCPConn)
	if s.err = tcp.SetReadBuffer(4 << 10); s.err != nil {
		return s
	}
	_, s.err = fmt.Fprintf(tcp, "POST %s HTTP/1.1\r\nHost: %s\r\n%sAuthorization: Bearer %s\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\nContent-Length: %d\r\n\r\n%s", path, addr, headers, token, len(body), body)
	if s.err != nil {
		return s
	}
	r := bufio.NewReaderSize(tcp, 1024)
	var b strings.Builder
	for !strings.Contains(b.String(), "\r\n\r\n") {
		line, err := r.ReadString('\n')
		b.WriteString(line)
		if err != nil {
			s.err = err
			return s
		}
	}
	var first [400]byte
	n, err := io.ReadAtLeast(r, first[:], 100)
	b.Write(first[:n])
	s.begun, s.err = b.String(), err
	return s
}

// begin sends the headers of a request that announces 4 MB, and the first few of
// them.
func (p *program) begin(token string) (net.Conn, error) {
	addr := strings.TrimPrefix(p.stage.URL, "http://")
	conn, err := net.Dial("tcp", addr)
	if err == nil {
		_, err = fmt.Fprintf(conn, "POST /mcp/probe HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n{\"jsonrpc\":", addr, token, 4<<20)
	}
	return conn, err
}

// uploading sends a request of 4 MB whose last MB does not come.
func (p *program) uploading(ctx context.Context, token string) answer {
	a, err := p.send(ctx, "probe", token, "", func(r *http.Request) {
		r.Body = io.NopCloser(io.MultiReader(strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"ping","x":"`+strings.Repeat("x", 3<<20)), never{ctx}))
		r.ContentLength = 4 << 20
	})
	if err != nil {
		a.text = "no answer: " + err.Error()
	}
	return a
}

// never has nothing to read until ctx ends.
type never struct{ ctx context.Context }

func (n never) Read([]byte) (int, error) {
	<-n.ctx.Done()
	return 0, n.ctx.Err()
}

// gauge reads one of the program's metrics.
func (p *program) gauge(name string) string {
	_, body := p.get("/metrics")
	for line := range strings.Lines(body) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

// Two hundred clients ask for 4 MB each and do not read it, with a budget of 64
// MB. The memory of the program stays within it; whom there is no room for is
// told so, and it is in the record; when they have left, everything works. And
// as long as there is room, no slow client, and no slow server, holds anybody up.
func TestStalledReadersStayWithinTheBudget(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "1s")
	amend(t, s, s.Dana, map[string]string{
		"countersign.yaml":   "version: 1\nlimits: { memory: 64MB }\n",
		"rules/probe.yaml":   "- { id: all, server: probe, effect: allow }\n",
		"servers/probe.yaml": "server: probe\nurl: " + u.url + "\ntimeout: 5m\n",
	})
	text := strings.Repeat("all work and no play makes jack a dull boy. ", 4<<20/44)
	end := make(chan struct{})
	defer close(end)
	u.answerWith(func(w http.ResponseWriter, r *http.Request, id json.RawMessage, method, tool string) bool {
		answer := func() string {
			return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":"%s"}]}}`, id, text)
		}
		switch tool {
		case "body":
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Length", strconv.Itoa(len(answer())))
			io.WriteString(w, answer()) // the gate may have given up on it
		case "event": // not announced, either
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprintf(w, "data: %s\n\n", answer())
		case "slow":
			select {
			case <-end:
			case <-r.Context().Done():
			}
		default:
			return false
		}
		return true
	})
	p := serving(t, s, nil)
	alice, bob := p.token("alice", "support"), p.token("bob", "support")
	works := func(when string) {
		t.Helper()
		for _, tool := range []string{"body", "event"} {
			if a := p.ask("probe", bob, toolCall(tool, "x")); a.text != text {
				t.Errorf("%s, a large answer (%s): %.300s", when, tool, a.body)
			}
		}
		for range 10 {
			if a := p.ask("probe", bob, toolCall("echo", "x")); a.text != "ran echo" {
				t.Errorf("%s, a small answer: %s", when, a.body)
			}
		}
	}
	works("at the beginning")

	all := make([]stalled, 200)
	leave := func() {
		for _, c := range all {
			if c.conn != nil {
				c.conn.Close() // it has nothing to say any more
			}
		}
	}
	defer leave()
	var asking sync.WaitGroup
	for i := range all {
		asking.Go(func() { all[i] = p.stall(alice, toolCall([]string{"body", "event"}[i%2], "x")) })
	}
	for range 10 {
		a := p.ask("probe", bob, toolCall("echo", "x"))
		switch {
		case a.text == "ran echo":
		case strings.Contains(a.text, "no room: the messages of other calls take up the memory"):
			if a.header.Get("Retry-After") != "5" {
				t.Errorf("when to try again: %v", a.header)
			}
			p.wants(a.record, audit.KindRefused, "unavailable")
		default:
			t.Errorf("a small call among them: %+v", a)
		}
	}
	asking.Wait()
	held, refused := 0, ""
	for _, c := range all {
		switch {
		case c.err != nil:
			t.Errorf("a stalled client: %v", c.err)
		case strings.Contains(c.begun, "jack"):
			held++
		case strings.Contains(c.begun, "no room") && strings.Contains(c.begun, "(limits.memory)") && strings.Contains(c.begun, "record c_"):
			refused = c.begun
		default:
			t.Errorf("a stalled client: %.400q", c.begun)
		}
	}
	if held < 3 || held > 40 || refused == "" { // what the sockets' buffers take adds to the 32 MB of the half for answers
		t.Errorf("%d of 200 are being answered; refused: %q", held, refused)
	}
	_, call, _ := strings.Cut(refused, "countersign record ")
	call = strings.TrimRight(strings.SplitN(call, ")", 2)[0], " ")
	if entries := p.entries(func(en audit.Entry) bool { return en.Call == call && strings.Contains(en.Reason, "limits.memory") }); len(entries) != 1 ||
		entries[0].Status != "blocked" && entries[0].Status != "unavailable" {
		t.Errorf("in the record of call %s: %+v", call, entries)
	}
	// What the program tells the Go runtime to stay within, and its code.
	if peak, most := p.memory("VmHWM"), 64+besideMessages>>20+32; peak > most {
		t.Errorf("the program took %d MB, want at most %d", peak, most)
	}
	t.Logf("%d of 200 held; memory now %d MB, at most %d MB", held, p.memory("VmRSS"), p.memory("VmHWM"))
	leave()
	p.await("room again", func() bool { return p.gauge("countersign_held_answer_bytes") == "0" })
	works("when they have left")

	// The same with what callers send: 3 of 4 MB come, and no more.
	sending, enough := context.WithCancel(t.Context())
	defer enough()
	before := u.requests()
	told := make(chan answer, 24)
	for range cap(told) {
		go func() { told <- p.uploading(sending, alice) }()
	}
	if a := <-told; a.status != http.StatusServiceUnavailable || !strings.Contains(a.text, "no room") || a.header.Get("Retry-After") != "5" {
		t.Errorf("an upload without room: %+v", a)
	}
	if a := p.ask("probe", bob, toolCall("echo", "x")); a.text != "ran echo" {
		t.Errorf("a small call among large ones: %s", a.body)
	}
	enough()
	for range cap(told) - 1 {
		within(t, told, "what is told")
	}
	if n := u.requests() - before; n != 1 {
		t.Errorf("%d requests reached the server, want the small one", n)
	}
	p.await("room for requests again", func() bool { return p.gauge("countersign_held_request_bytes") == "0" })

	// A mix that leaves room.
	all = nil
	for i := range 3 {
		all = append(all, p.stall(alice, toolCall([]string{"body", "event"}[i%2], "x")))
	}
	for range 50 {
		p.asking(t.Context(), "probe", alice, toolCall("slow", "x"))
		conn, err := p.begin(alice)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	p.await("the slow calls", func() bool { return u.ran("slow") == 50 })
	works("among slow clients and servers")
}

// So it is at the endpoint for all servers, where an answer is held twice: on
// its way out of the one endpoint, and into the client from the other.
func TestStalledReadersAtTheEndpointForAllServers(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "1s")
	amend(t, s, s.Dana, map[string]string{
		"countersign.yaml":   "version: 1\nlimits: { memory: 32MB }\n",
		"rules/probe.yaml":   "- { id: all, server: probe, effect: allow }\n",
		"servers/probe.yaml": "server: probe\nurl: " + u.url + "\ntimeout: 5m\n",
	})
	text := strings.Repeat("all work and no play makes jack a dull boy. ", 3<<20/44)
	legacyProbe(u, func(w http.ResponseWriter, id json.RawMessage, _, tool string) bool {
		begin, end := "", ""
		switch tool {
		case "body":
			w.Header().Set("Content-Type", "application/json")
		case "event":
			w.Header().Set("Content-Type", "text/event-stream")
			begin, end = "data: ", "\n\n"
		default:
			return false
		}
		fmt.Fprintf(w, `%s{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":"%s"}]}}%s`, begin, id, text, end) // the gate may have given up on it
		return true
	})
	p := serving(t, s, nil)
	alice, bob := p.token("alice", "support"), p.token("bob", "support")
	session, bobs := p.openAll(alice), p.openAll(bob)
	works := func(when string) {
		t.Helper()
		for _, tool := range []string{"body", "event"} {
			if a := p.all(t.Context(), bobs, bob, toolCall("probe__"+tool, "x")); a.text != text {
				t.Errorf("%s, a large answer (%s): %.300s", when, tool, a.body)
			}
		}
		if a := p.all(t.Context(), bobs, bob, toolCall("probe__echo", "x")); a.text != "ran echo" {
			t.Errorf("%s, a small answer: %s", when, a.body)
		}
	}
	works("at the beginning")

	all := make([]stalled, 40)
	leave := func() {
		for _, c := range all {
			if c.conn != nil {
				c.conn.Close() // it has nothing to say any more
			}
		}
	}
	defer leave()
	var asking sync.WaitGroup
	for i := range all {
		body := strings.Replace(toolCall("probe__"+[]string{"body", "event"}[i%2], "x"), `"id":1`, fmt.Sprintf(`"id":%d`, i+1), 1)
		asking.Go(func() { all[i] = p.stallAt("/mcp", "Mcp-Session-Id: "+session+"\r\n", alice, body) })
	}
	asking.Wait()
	held, refused := 0, 0
	for _, c := range all {
		switch {
		case c.err != nil:
			t.Errorf("a stalled client: %v", c.err)
		case strings.Contains(c.begun, "jack"):
			held++
		case strings.Contains(c.begun, "no room") && strings.Contains(c.begun, "(limits.memory)") && strings.Contains(c.begun, "record c_"):
			refused++
		default:
			t.Errorf("a stalled client: %.400q", c.begun)
		}
	}
	if held < 1 || held > 20 || refused == 0 {
		t.Errorf("%d of %d are being answered, %d refused", held, len(all), refused)
	}
	if peak, most := p.memory("VmHWM"), 32+besideMessages>>20+32; peak > most {
		t.Errorf("the program took %d MB, want at most %d", peak, most)
	}
	t.Logf("%d held, %d refused; memory now %d MB, at most %d MB", held, refused, p.memory("VmRSS"), p.memory("VmHWM"))
	leave()
	p.await("room again", func() bool { return p.gauge("countersign_held_answer_bytes") == "0" })
	works("when they have left")
}
