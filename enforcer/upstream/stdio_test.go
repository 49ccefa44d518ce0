package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func spawns(t *testing.T, kind string, more ...func(*StdioConfig)) Upstream {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cfg := StdioConfig{Command: []string{self}, Env: []string{"PEER=" + kind}, Grace: 2 * time.Second}
	for _, f := range more {
		f(&cfg)
	}
	return Stdio(cfg)
}

func open(t *testing.T, kind string, more ...func(*StdioConfig)) *stdio {
	t.Helper()
	u := spawns(t, kind, more...)
	t.Cleanup(func() { closeUpstream(t, u) })
	return u.(*stdio)
}

func modern(id int, method string) *Request {
	return request(fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":%q,"params":{%s}}`, id, method, modernMeta))
}

// answer sends and returns the last event.
func answer(t *testing.T, u Upstream, r *Request) (string, error) {
	t.Helper()
	reply, err := u.Send(t.Context(), r)
	if err != nil {
		return "", err
	}
	var last string
	for {
		e, err := reply.Next()
		if err == io.EOF {
			return last, reply.Close()
		}
		if err != nil {
			return last, errors.Join(err, reply.Close())
		}
		last = string(e.Data)
	}
}

type mirrored struct {
	Result struct {
		PID, Initialized int
		Key, Got         string
	}
}

func mirror(t *testing.T, u Upstream, r *Request) mirrored {
	t.Helper()
	got, err := answer(t, u, r)
	if err != nil {
		t.Fatal(err)
	}
	var m mirrored
	if err := json.Unmarshal([]byte(got), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func initialize(t *testing.T, u Upstream, key string) string {
	t.Helper()
	r := request(`{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{}}}`)
	r.Inject = injected(key)
	reply, err := u.Send(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if err := reply.Close(); err != nil {
		t.Fatal(err)
	}
	if reply.Session == "" || reply.Header.Get("Mcp-Session-Id") != reply.Session {
		t.Fatalf("no session: %+v", reply)
	}
	return reply.Session
}

func injected(key string) Injection {
	if key == "" {
		return Injection{}
	}
	return Injection{Key: key, Env: []string{"KEY=" + key}}
}

func legacy(session, key, body string) *Request {
	r := request(body)
	r.Session, r.Inject = session, injected(key)
	return r
}

// What a misbehaving server does to its calls: an error that names the kind of
// fault and shows nothing of what it wrote.
func TestStdioHostileServers(t *testing.T) {
	for kind, want := range map[string]error{
		"html": ErrNotMCP, "banner": ErrNotMCP, "duplicate": ErrNotMCP, "huge": ErrTooLarge, "endless": ErrTooLarge,
		"die": ErrDead, "half": ErrDead,
	} {
		t.Run(kind, func(t *testing.T) {
			clock := newClock()
			u := open(t, kind, func(c *StdioConfig) { c.MaxMessage, c.Now = 10_000, clock.now })
			for id := range 2 { // the second finds a new process, after a pause
				clock.advance(maxPause)
				_, err := answer(t, u, modern(id, "x"))
				if !errors.Is(err, want) || strings.Contains(err.Error(), "hunter2") {
					t.Errorf("got %v, want %v", err, want)
				}
				if kind == "die" && (err == nil || !strings.Contains(err.Error(), "exit status 3")) {
					t.Errorf("it does not say how: %v", err)
				}
			}
		})
	}
	for id := range 3 {
		got, err := answer(t, open(t, "last words"), modern(id, "x"))
		if err != nil || !strings.Contains(got, "said") {
			t.Errorf("what it said before it died: %s, %v", got, err)
		}
	}
	u := open(t, "hang", func(c *StdioConfig) { c.Timeout = 50 * time.Millisecond })
	if _, err := answer(t, u, modern(1, "x")); !errors.Is(err, ErrDead) || !strings.Contains(err.Error(), "in time") {
		t.Errorf("silence: %v", err)
	}
	missing := Stdio(StdioConfig{Command: []string{"no-such-program-here"}})
	if _, err := answer(t, missing, modern(1, "x")); !errors.Is(err, ErrDead) || !strings.Contains(err.Error(), "PATH") {
		t.Errorf("missing: %v", err)
	}
	closeUpstream(t, missing)
	none := Stdio(StdioConfig{Command: []string{"/no/such/program"}})
	if _, err := answer(t, none, modern(1, "x")); !errors.Is(err, ErrDead) {
		t.Errorf("missing: %v", err)
	}
	closeUpstream(t, none)
}

// The message arrives as it was, but for line ends between its tokens.
func TestStdioIsLossless(t *testing.T) {
	u := open(t, "mirror")
	body := "{ \"jsonrpc\":\"2.0\",\r\n \"id\":9007199254740993,\"method\":\"x\", \"unknown\":1.0,\"params\":{" + modernMeta + ",\"t\":\"\\u0041\\n\"}}"
	got := mirror(t, u, request(body)).Result.Got
	if want := strings.ReplaceAll(strings.ReplaceAll(body, "\r", " "), "\n", " ") + "\n"; got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestStdioEnvironmentIsEmpty(t *testing.T) {
	t.Setenv("COUNTERSIGN_TEST_SECRET", "hunter2")
	u := open(t, "sdk")
	session := initialize(t, u, "k1")
	if _, err := answer(t, u, legacy(session, "k1", `{"jsonrpc":"2.0","method":"notifications/initialized"}`)); err != nil {
		t.Fatal(err)
	}
	got, err := answer(t, u, legacy(session, "k1", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"env","arguments":{"text":""}}}`))
	if err != nil || !strings.Contains(got, `"PEER=sdk\nKEY=k1"`) {
		t.Errorf("environment: %s, %v", got, err)
	}
}

func TestStdioModernProcesses(t *testing.T) {
	u := open(t, "mirror", func(c *StdioConfig) { c.MaxProcesses = 3 })
	pid := func(holder, key string, id int) int {
		r := modern(id, "x")
		r.Holder, r.Inject = holder, injected(key)
		m := mirror(t, u, r)
		if m.Result.Key != key {
			t.Errorf("asked with key %q, the process has %q", key, m.Result.Key)
		}
		return m.Result.PID
	}
	a := pid("alice", "k1", 1)
	if again := pid("alice", "k1", 1); again != a {
		t.Error("the same holder and key got another process")
	}
	if b := pid("bob", "k1", 1); b == a {
		t.Error("another holder got alice's process")
	}
	if c := pid("alice", "k2", 1); c == a {
		t.Error("another key got the process of the first")
	}
	// A fourth makes an idle one go: never more than three.
	pid("carol", "", 1)
	u.mu.Lock()
	if u.count > 3 {
		t.Errorf("%d processes, the bound is 3", u.count)
	}
	u.mu.Unlock()

	if again := pid("carol", "k9", 1); again == a {
		t.Error("a process of another key was used")
	}
	u.EndKey("k9")
	if r := pid("carol", "k9", 2); r == a {
		t.Error("a process of another key was used")
	}
}

// Two calls of one holder with the same id cannot share a process: the server
// could not tell them apart, nor we its answers. At the bound, with all busy,
// a call is refused.
func TestStdioClashesAndBound(t *testing.T) {
	u := open(t, "hang", func(c *StdioConfig) { c.MaxProcesses = 2 })
	ctx, cancel := context.WithCancel(t.Context())
	var calls sync.WaitGroup
	for range 2 {
		calls.Go(func() {
			if _, err := u.Send(ctx, modern(7, "x")); !errors.Is(err, context.Canceled) {
				t.Errorf("a call ended with %v", err)
			}
		})
	}
	waitFor(t, u, func() bool {
		busy := 0
		for p := range u.procs {
			busy += len(p.calls)
		}
		return busy == 2
	})
	if len(u.procs) != 2 {
		t.Errorf("%d processes for two calls with one id", len(u.procs))
	}
	r := modern(8, "x")
	r.Holder = "bob"
	if _, err := u.Send(t.Context(), r); !errors.Is(err, ErrBusy) {
		t.Errorf("beyond the bound: %v", err)
	}
	cancel()
	calls.Wait()
}

// waitFor polls a condition under the upstream's lock: what it waits for has
// no event to the outside.
func waitFor(t *testing.T, u *stdio, ok func() bool) {
	t.Helper()
	for t.Context().Err() == nil {
		u.mu.Lock()
		done := ok()
		u.mu.Unlock()
		if done {
			return
		}
		runtime.Gosched()
	}
}

func TestStdioModernCancels(t *testing.T) {
	lines := make(chan string, 10)
	u := open(t, "hang", func(c *StdioConfig) { c.Stderr = func(l string) { lines <- l } })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := u.Send(ctx, modern(41, "x"))
		done <- err
	}()
	if got := <-lines; got != "peer starts" {
		t.Errorf("stderr says %q", got)
	}
	if got := <-lines; got != "called 41" {
		t.Errorf("the server read %q", got)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("the call ended with %v", err)
	}
	if got := <-lines; got != "cancelled 41" {
		t.Errorf("the server was told %q", got)
	}
}

func TestStdioStatuses(t *testing.T) {
	unknown := open(t, "unknown")
	reply, err := unknown.Send(t.Context(), modern(1, "nope"))
	if err != nil || reply.Status != http.StatusNotFound || reply.Stream() {
		t.Errorf("unknown method, modern: %+v, %v", reply, err)
	}
	session := initialize(t, unknown, "")
	reply, err = unknown.Send(t.Context(), legacy(session, "", `{"jsonrpc":"2.0","id":1,"method":"nope"}`))
	if err != nil || reply.Status != http.StatusOK {
		t.Errorf("unknown method, legacy: %+v, %v", reply, err)
	}
	reply, err = unknown.Send(t.Context(), legacy(session, "", `{"jsonrpc":"2.0","method":"notifications/initialized"}`))
	if err != nil || reply.Status != http.StatusAccepted {
		t.Errorf("notification: %+v, %v", reply, err)
	}
	reply, err = unknown.Send(t.Context(), &Request{Verb: http.MethodGet, Holder: "alice"})
	if err != nil || reply.Status != http.StatusMethodNotAllowed {
		t.Errorf("GET without session: %+v, %v", reply, err)
	}
	if _, err := unknown.Send(t.Context(), request(`{"jsonrpc":"2.0","id":1,"method":"tools/list"}`)); err == nil || !strings.Contains(err.Error(), "initialize") {
		t.Errorf("legacy without session: %v", err)
	}
	refusing := open(t, "refuses")
	reply, err = refusing.Send(t.Context(), request(`{"jsonrpc":"2.0","id":0,"method":"initialize","params":{}}`))
	if err != nil || reply.Session != "" || reply.Header.Get("Mcp-Session-Id") != "" {
		t.Errorf("a refused initialize: %+v, %v", reply, err)
	}
}

func TestStdioSessions(t *testing.T) {
	u := open(t, "mirror")
	session := initialize(t, u, "")
	if _, err := answer(t, u, legacy(session, "", `{"jsonrpc":"2.0","method":"notifications/initialized"}`)); err != nil {
		t.Fatal(err)
	}
	call := func(key string) mirrored {
		return mirror(t, u, legacy(session, key, `{"jsonrpc":"2.0","id":5,"method":"x"}`))
	}
	first := call("")
	if first.Result.Initialized != 1 {
		t.Errorf("the first process was initialized %d times", first.Result.Initialized)
	}
	// Another lease: another process, which has heard the beginning as well.
	other := call("k1")
	if other.Result.PID == first.Result.PID || other.Result.Key != "k1" || other.Result.Initialized != 1 {
		t.Errorf("with another key: %+v", other.Result)
	}
	if call("").Result.PID != first.Result.PID || call("k1").Result.PID != other.Result.PID {
		t.Error("the processes are not kept")
	}
	u.EndKey("k1")
	if after := call("k1"); after.Result.PID == other.Result.PID || after.Result.Initialized != 1 {
		t.Errorf("after the end of the lease: %+v", after.Result)
	}
	if call("").Result.PID != first.Result.PID {
		t.Error("the end of a lease ended another's process")
	}
	// Many at once for a new key start one process.
	var calls sync.WaitGroup
	pids := make([]int, 8)
	for i := range pids {
		calls.Go(func() {
			got, err := answer(t, u, legacy(session, "k2", fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"x"}`, 100+i)))
			var m mirrored
			if err := errors.Join(err, json.Unmarshal([]byte(got), &m)); err != nil {
				t.Error(err)
			}
			pids[i] = m.Result.PID
		})
	}
	calls.Wait()
	if len(slices.Compact(pids)) != 1 {
		t.Errorf("processes of eight calls at once: %v", pids)
	}

	stranger := legacy(session, "", `{"jsonrpc":"2.0","id":5,"method":"x"}`)
	stranger.Holder = "mallory"
	if _, err := answer(t, u, stranger); !errors.Is(err, ErrSessionGone) {
		t.Errorf("another holder's session: %v", err)
	}
	if _, err := u.Send(t.Context(), &Request{Verb: http.MethodDelete, Session: session, Holder: "mallory"}); !errors.Is(err, ErrSessionGone) {
		t.Errorf("another holder ends the session: %v", err)
	}
	reply, err := u.Send(t.Context(), &Request{Verb: http.MethodDelete, Session: session, Holder: "alice"})
	if err != nil || reply.Status != http.StatusNoContent {
		t.Errorf("ending the session: %+v, %v", reply, err)
	}
	if _, err := answer(t, u, legacy(session, "", `{"jsonrpc":"2.0","id":5,"method":"x"}`)); !errors.Is(err, ErrSessionGone) {
		t.Errorf("after its end: %v", err)
	}
}

// What comes before the answer makes it a stream; what comes unasked waits for
// the GET stream.
func TestStdioStreams(t *testing.T) {
	u := open(t, "notes")
	session := initialize(t, u, "")
	reply, err := u.Send(t.Context(), legacy(session, "", `{"jsonrpc":"2.0","id":5,"method":"x"}`))
	if err != nil || !reply.Stream() || reply.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%+v, %v", reply, err)
	}
	var raw strings.Builder
	for {
		e, err := reply.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		raw.Write(e.Raw)
	}
	want := `data: {"jsonrpc":"2.0","method":"notifications/message","params":{"n":1.0}}` + "\n\n" +
		`data: {"jsonrpc":"2.0","id":5,"result":{"initialized":0}}` + "\n\n"
	if raw.String() != want {
		t.Errorf("stream:\n%s", raw.String())
	}
	get := &Request{Verb: http.MethodGet, Session: session, Holder: "alice"}
	first, err := u.Send(t.Context(), get)
	if err != nil {
		t.Fatal(err)
	}
	if e, err := first.Next(); err != nil || !strings.Contains(string(e.Data), "list_changed") {
		t.Errorf("unasked: %s, %v", e.Data, err)
	}
	second, err := u.Send(t.Context(), get)
	if err != nil {
		t.Fatal(err)
	}
	if e, err := first.Next(); err != io.EOF {
		t.Errorf("the first reader still gets %s, %v", e.Data, err)
	}
	u.EndSession(session)
	if e, err := second.Next(); err != io.EOF {
		t.Errorf("after the session: %s, %v", e.Data, err)
	}
}

// A question of our own takes its answer and leaves the rest to the client.
func TestStdioQuietQuestions(t *testing.T) {
	var changed atomic.Int32
	u := open(t, "notes", func(c *StdioConfig) { c.ToolsChanged = func() { changed.Add(1) } })
	session := initialize(t, u, "")
	r := legacy(session, "", `{"jsonrpc":"2.0","id":"ours","method":"x"}`)
	r.Quiet = true
	reply, err := u.Send(t.Context(), r)
	if err != nil || reply.Stream() {
		t.Fatalf("%+v, %v", reply, err)
	}
	if e, err := reply.Next(); err != nil || string(e.Data) != `{"jsonrpc":"2.0","id":"ours","result":{"initialized":0}}` {
		t.Errorf("got %s, %v", e.Data, err)
	}
	get, err := u.Send(t.Context(), &Request{Verb: http.MethodGet, Session: session, Holder: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"notifications/message", "list_changed"} {
		if e, err := get.Next(); err != nil || !strings.Contains(string(e.Data), want) {
			t.Errorf("the client's stream has %s, %v; want %s", e.Data, err, want)
		}
	}
	if changed.Load() != 1 {
		t.Errorf("told %d times that the tools changed", changed.Load())
	}
}

// A subscription gets what names it and nothing else; the server ends it with
// a notification, having no stream to close.
func TestStdioSubscription(t *testing.T) {
	u := open(t, "listen")
	stream, err := u.Send(t.Context(), modern(1, "subscriptions/listen"))
	if err != nil || !stream.Stream() {
		t.Fatalf("%+v, %v", stream, err)
	}
	change, err := u.Send(t.Context(), modern(2, "change"))
	if err != nil || !change.Stream() {
		t.Fatalf("%+v, %v", change, err)
	}
	if e, err := change.Next(); err != nil || !strings.Contains(string(e.Data), "notifications/message") {
		t.Errorf("the call got %s, %v", e.Data, err)
	}
	if _, err := answer(t, u, modern(3, "end")); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"acknowledged", "tools/list_changed", "cancelled"} {
		if e, err := stream.Next(); err != nil || !strings.Contains(string(e.Data), want) {
			t.Errorf("the subscription got %s, %v; want %s", e.Data, err, want)
		}
	}
	if e, err := stream.Next(); err != io.EOF {
		t.Errorf("after its end: %s, %v", e.Data, err)
	}
}

// Two processes of one session ask the client with the same id. Only one may
// wait for the answer, and the answer goes to that one.
func TestStdioServersAskAlike(t *testing.T) {
	u := open(t, "asks")
	session := initialize(t, u, "k1")
	call := `{"jsonrpc":"2.0","id":5,"method":"x"}`
	first, err := u.Send(t.Context(), legacy(session, "k1", call))
	if err != nil || !first.Stream() {
		t.Fatalf("%+v, %v", first, err)
	}
	// The second process is told no, which it takes for an answer.
	if got, err := answer(t, u, legacy(session, "k2", call)); err != nil || !strings.Contains(got, `"key":"k2"`) {
		t.Errorf("the second: %s, %v", got, err)
	}
	reply, err := u.Send(t.Context(), legacy(session, "", `{"jsonrpc":"2.0","id":1,"result":{"roots":[]}}`))
	if err != nil || reply.Status != http.StatusAccepted {
		t.Fatalf("%+v, %v", reply, err)
	}
	for _, want := range []string{"roots/list", `"key":"k1"`} {
		if e, err := first.Next(); err != nil || !strings.Contains(string(e.Data), want) {
			t.Errorf("the first: %s, %v; want %s", e.Data, err, want)
		}
	}
}

// A modern server may not ask the client: it is told so, and the call fails by
// its own bound, not by ours to answer for the client.
func TestStdioModernServerMayNotAsk(t *testing.T) {
	u := open(t, "pushy", func(c *StdioConfig) { c.Timeout = 50 * time.Millisecond })
	if got, err := answer(t, u, modern(1, "x")); !errors.Is(err, ErrDead) {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestStdioStderr(t *testing.T) {
	lines := make(chan string, 10)
	u := open(t, "stderr", func(c *StdioConfig) { c.Stderr = func(l string) { lines <- l } })
	if _, err := answer(t, u, modern(1, "x")); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"peer starts", "one", "(a line of more than 64 KiB was left out)", "two"} {
		if got := <-lines; got != want {
			t.Errorf("stderr line %.80q, want %q", got, want)
		}
	}
}

// listenAt waits for one process to connect; the connection reads EOF when
// that process is gone, however it went.
func listenAt(t *testing.T) (path string, connected func() net.Conn) {
	t.Helper()
	dir, err := os.MkdirTemp("", "cs") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(l.Close(), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	return path, func() net.Conn {
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
		return c
	}
}

func awaitDeath(t *testing.T, c net.Conn) {
	t.Helper()
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("read %d bytes, %v", n, err)
	}
}

// What a server started dies with it, also what left its group and session,
// or was left by its own parent.
func TestStdioLeavesNoGrandchild(t *testing.T) {
	for _, kind := range []string{"fork", "fork away", "daemon"} {
		t.Run(kind, func(t *testing.T) {
			path, connected := listenAt(t)
			u := spawns(t, kind, func(c *StdioConfig) { c.Env = append(c.Env, "GRANDCHILD_SOCKET="+path) })
			if _, err := answer(t, u, modern(1, "x")); err != nil {
				t.Fatal(err)
			}
			grandchild := connected()
			closeUpstream(t, u)
			awaitDeath(t, grandchild)
		})
	}
}

// A server that ignores the end of its input, and one that reads nothing at
// all, are killed.
func TestStdioKillsTheStubborn(t *testing.T) {
	path, connected := listenAt(t)
	u := spawns(t, "stubborn", func(c *StdioConfig) {
		c.Env, c.Grace = append(c.Env, "PEER_SOCKET="+path), 50*time.Millisecond
	})
	if _, err := answer(t, u, modern(1, "ping")); err != nil {
		t.Fatal(err)
	}
	child := connected()
	closeUpstream(t, u)
	awaitDeath(t, child)

	deaf := spawns(t, "deaf", func(c *StdioConfig) { c.Grace, c.Timeout = 50*time.Millisecond, 50*time.Millisecond })
	big := strings.Repeat("x", 1<<20)
	for id := range 3 {
		body := fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"x","params":{%s,"a":%q}}`, id, modernMeta, big)
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		if _, err := deaf.Send(ctx, request(body)); !errors.Is(err, ErrDead) && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a deaf server: %v", err)
		}
		cancel()
	}
	closeUpstream(t, deaf)
	if _, err := deaf.Send(t.Context(), modern(1, "x")); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// We are killed without a chance to clean up: the guards do it.
func TestStdioServersDieWithUs(t *testing.T) {
	for _, kind := range []string{"deaf", "fork", "fork away", "daemon"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			path, connected := listenAt(t)
			below, connectedBelow := listenAt(t)
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			enforcer := exec.Command(self)
			enforcer.Env = []string{"PEER=keeper", "CHILD=" + kind, "CHILD_SOCKET=" + path, "GRANDCHILD_SOCKET=" + below}
			if err := enforcer.Start(); err != nil {
				t.Fatal(err)
			}
			family := []net.Conn{connected()}
			if kind != "deaf" {
				family = append(family, connectedBelow())
			}
			if err := enforcer.Process.Kill(); err != nil {
				t.Error(err)
			}
			for _, c := range family {
				awaitDeath(t, c)
			}
			var status *exec.ExitError
			if err := enforcer.Wait(); !errors.As(err, &status) {
				t.Errorf("it was not killed: %v", err)
			}
		})
	}
}
