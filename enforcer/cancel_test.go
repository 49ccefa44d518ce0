package enforcer

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"countersign/audit"
	"countersign/enforcer/wire"
)

// timer has the test end the grace of cancelled calls: the returned channel
// gets what is due then.
func (g *gate) timer(t *testing.T) <-chan func() {
	t.Helper()
	due := make(chan func(), 4)
	g.waiting.mu.Lock()
	defer g.waiting.mu.Unlock()
	g.waiting.after = func(d time.Duration, f func()) func() bool {
		if d != cancelGrace {
			t.Errorf("the grace is %s", d)
		}
		due <- f
		return func() bool { return true }
	}
	return due
}

const (
	allowEcho  = "- { id: all, server: echo, tool: \"*\", effect: allow }\n"
	hangCall   = `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"hang","arguments":{}}}`
	cancelCall = `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}`
	helloBody  = `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}`
)

// ends checks how the call to hang ended in the record.
func (g *gate) ends(t *testing.T) {
	t.Helper()
	got := g.entries(t, func(en audit.Entry) bool { return en.Method == "tools/call" })
	if len(got) != 2 || !strings.HasPrefix(got[0], "intent tools/call hang") ||
		!strings.HasPrefix(got[1], "outcome tools/call hang cancelled: cancelled by the client; the call was with the upstream server already, and may have run") {
		t.Errorf("the record says\n%s", strings.Join(got, "\n"))
	}
}

// A server that honours a cancellation sends no response (2025-11-25,
// basic/utilities/cancellation). The call ends all the same, a grace later: as
// cancelled, and it may have run.
func TestALegacyCallEndsAfterItsCancellation(t *testing.T) {
	for name, begun := range map[string]bool{"nothing came yet": false, "its stream has begun": true} {
		t.Run(name, func(t *testing.T) {
			s := &workshop{asked: map[string]int{}}
			arrived, told, cut := make(chan struct{}), make(chan struct{}, 1), make(chan struct{})
			s.answerWith(func(w http.ResponseWriter, r *http.Request, m *wire.Message) bool {
				switch m.Method {
				case "notifications/cancelled":
					w.WriteHeader(http.StatusAccepted)
					told <- struct{}{}
					return true
				case "tools/call":
					if begun {
						w.Header().Set("Content-Type", "text/event-stream")
						fmt.Fprint(w, "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{}}\n\n")
						_ = http.NewResponseController(w).Flush()
					}
					close(arrived)
					<-r.Context().Done()
					close(cut)
					return true
				}
				return false
			})
			g := newGate(t, s, map[string]string{"rules/echo.yaml": allowEcho})
			due := g.timer(t)
			answer := make(chan string, 1)
			go func() { answer <- g.asks(t, hangCall) }()
			comes(t, arrived, "the call at the server")
			if got := g.asks(t, cancelCall); got != "" {
				t.Errorf("the cancellation got %s", got)
			}
			comes(t, told, "the cancellation at the server")
			grace := <-due
			select {
			case <-cut:
				t.Error("it was cut off within the grace")
			default:
			}
			grace()
			comes(t, cut, "the end of the call at the server")
			if got := <-answer; !strings.Contains(got, `"id":7`) || !strings.Contains(got, "may have run") {
				t.Errorf("the client got %s", got)
			}
			g.ends(t)
		})
	}
}

// An answer within the grace is the call's outcome.
func TestACancelledCallMayStillBeAnswered(t *testing.T) {
	s := &workshop{asked: map[string]int{}}
	arrived, told := make(chan struct{}), make(chan struct{})
	s.answerWith(func(w http.ResponseWriter, r *http.Request, m *wire.Message) bool {
		switch m.Method {
		case "notifications/cancelled":
			w.WriteHeader(http.StatusAccepted)
			close(told)
			return true
		case "tools/call":
			close(arrived)
			<-told
		}
		return false
	})
	g := newGate(t, s, map[string]string{"rules/echo.yaml": allowEcho})
	due := g.timer(t)
	answer := make(chan string, 1)
	go func() { answer <- g.asks(t, hangCall) }()
	comes(t, arrived, "the call at the server")
	g.asks(t, cancelCall)
	if got := <-answer; !strings.Contains(got, "ran hang") {
		t.Errorf("the client got %s", got)
	}
	(<-due)() // too late: there is nothing to cut
	if got := g.entries(t, func(en audit.Entry) bool { return en.Kind == audit.KindOutcome && en.Method == "tools/call" }); len(got) != 1 ||
		!strings.HasPrefix(got[0], "outcome tools/call hang ok") {
		t.Errorf("the record says %q", got)
	}
}

// The same with a server that is spawned, whose one process lives on.
func TestALegacySpawnedCallEndsAfterItsCancellation(t *testing.T) {
	seen := filepath.Join(t.TempDir(), "seen")
	if err := syscall.Mkfifo(seen, 0o600); err != nil {
		t.Fatal(err)
	}
	script := `exec 3>"$SEEN"; while read -r l; do case "$l" in
*initialize*) echo '{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"sh","version":"1"}}}';;
*cancelled*) echo cancelled >&3;;
*hang*) echo hangs >&3;;
*ping*) echo '{"jsonrpc":"2.0","id":9,"result":{}}';;
esac; done`
	g := newGate(t, http.NotFoundHandler(), map[string]string{
		"rules/echo.yaml":   allowEcho,
		"servers/echo.yaml": fmt.Sprintf("server: echo\ncommand: [sh, -c, %q]\nenv: { SEEN: %q }\n", script, seen),
	})
	due := g.timer(t)
	lines := make(chan string)
	go func() {
		f, err := os.Open(seen) // once the server has opened it, too
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		for in := bufio.NewScanner(f); in.Scan(); {
			lines <- in.Text()
		}
	}()
	resp, body, err := g.post(t.Context(), []byte(helloBody), nil)
	if err != nil {
		t.Fatal(err)
	}
	session := resp.Header.Get("Mcp-Session-Id")
	if session == "" {
		t.Fatalf("no session: %s", body)
	}
	answer := make(chan string, 1)
	go func() { answer <- g.asks(t, hangCall, "Mcp-Session-Id", session) }()
	if got := <-lines; got != "hangs" {
		t.Errorf("the server got %q", got)
	}
	g.asks(t, cancelCall, "Mcp-Session-Id", session)
	if got := <-lines; got != "cancelled" {
		t.Errorf("the server got %q", got)
	}
	(<-due)()
	if got := <-answer; !strings.Contains(got, "may have run") {
		t.Errorf("the client got %s", got)
	}
	g.ends(t)
	if got := g.asks(t, `{"jsonrpc":"2.0","id":9,"method":"ping"}`, "Mcp-Session-Id", session); !strings.Contains(got, `"id":9,"result"`) {
		t.Errorf("the session does not go on: %s", got)
	}
}

// In the stateless era closing the stream is the cancellation: the upstream's
// request ends with the client's, and the record says that it may have run.
func TestClosingTheStreamCancelsAStatelessCall(t *testing.T) {
	for name, begun := range map[string]bool{"nothing came yet": false, "its stream has begun": true} {
		t.Run(name, func(t *testing.T) {
			s := &workshop{asked: map[string]int{}}
			arrived, cut := make(chan struct{}), make(chan struct{})
			s.answerWith(func(w http.ResponseWriter, r *http.Request, m *wire.Message) bool {
				if m.Method != "tools/call" {
					return false
				}
				if begun {
					w.Header().Set("Content-Type", "text/event-stream")
					fmt.Fprint(w, "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{}}\n\n")
					_ = http.NewResponseController(w).Flush()
				}
				close(arrived)
				<-r.Context().Done()
				close(cut)
				return true
			})
			g := newGate(t, s, map[string]string{"rules/echo.yaml": allowEcho})
			ctx, leave := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() {
				defer close(done)
				const call = `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"hang","arguments":{},"_meta":{"` + wire.MetaVersion + `":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`
				h := http.Header{"Mcp-Protocol-Version": {"2026-07-28"}, "Mcp-Method": {"tools/call"}, "Mcp-Name": {"hang"}}
				if _, body, err := g.post(ctx, []byte(call), h); err == nil {
					t.Errorf("it was answered: %s", body)
				}
			}()
			comes(t, arrived, "the call at the server")
			leave()
			<-cut // at the server, long before clientGrace
			comes(t, done, "the caller to have left")
			select {
			case <-g.inside.close(): // the exchange has ended
			case <-t.Context().Done():
			}
			g.ends(t)
		})
	}
}
