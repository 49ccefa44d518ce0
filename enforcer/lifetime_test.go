package enforcer

import (
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"countersign/audit"
	"countersign/enforcer/freeze"
	"countersign/enforcer/wire"
)

// shell is a server of the legacy era in a few lines of sh; more are further
// cases of what it reads.
func shell(more string) string {
	return `while read -r l; do case "$l" in
*initialize*) echo '{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"sh","version":"1"}}}';;
*'"ping"'*) echo '{"jsonrpc":"2.0","id":9,"result":{}}';;
` + more + `
esac; done`
}

func spawned(script, more string) string {
	return fmt.Sprintf("server: echo\ncommand: [sh, -c, %q]\n%s\n", script, more)
}

// opens is initialize, and the session that it comes to.
func (g *gate) opens(t *testing.T) (session string) {
	t.Helper()
	resp, body, err := g.post(t.Context(), []byte(helloBody), nil)
	if err != nil {
		t.Fatal(err)
	}
	if session = resp.Header.Get("Mcp-Session-Id"); session == "" {
		t.Fatalf("no session: %s", body)
	}
	return session
}

func (g *gate) pings(t *testing.T, session string) int {
	t.Helper()
	resp, _, err := g.post(t.Context(), []byte(`{"jsonrpc":"2.0","id":9,"method":"ping"}`), http.Header{"Mcp-Session-Id": {session}})
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode
}

// A subject's sessions take half of a spawned server's processes: beyond that
// its own idle one makes room, before another process is needed.
func TestAShareOfProcesses(t *testing.T) {
	g := newGate(t, http.NotFoundHandler(), map[string]string{
		"rules/echo.yaml": allowEcho, "servers/echo.yaml": spawned(shell(""), "processes: 2"),
	})
	first := g.opens(t)
	second := g.opens(t)
	if got := g.pings(t, first); got != http.StatusNotFound {
		t.Errorf("the first session: %d", got)
	}
	if got := g.pings(t, second); got != http.StatusOK {
		t.Errorf("the second session: %d", got)
	}
	// A server whose bound is one serves one at a time.
	g = newGate(t, http.NotFoundHandler(), map[string]string{
		"rules/echo.yaml": allowEcho, "servers/echo.yaml": spawned(shell(""), "processes: 1"),
	})
	g.opens(t)
	if got := g.pings(t, g.opens(t)); got != http.StatusOK {
		t.Errorf("the next session: %d", got)
	}
}

// A session whose opening was blocked leaves neither a place taken nor a
// process.
func TestABlockedOpeningLeavesNothing(t *testing.T) {
	const denied = `"inputRequests":{"a":{"method":"sampling/createMessage","params":{}}},"serverInfo"`
	g := newGate(t, http.NotFoundHandler(), map[string]string{
		"rules/echo.yaml":   allowEcho,
		"servers/echo.yaml": spawned(strings.Replace(shell(""), `"serverInfo"`, denied, 1), "processes: 1"),
	})
	for range 3 { // a process that stayed would take the only place
		if got := g.asks(t, helloBody); !strings.Contains(got, "sampling/createMessage") {
			t.Errorf("got %s", got)
		}
	}
	if n := len(g.session.opening); n != 0 {
		t.Errorf("%d places are kept", n)
	}
}

// remembers is a server on HTTP with sessions, which notes what ends them.
type remembers struct {
	workshop
	opened int
	ended  chan string      // session and revision of each DELETE
	end    http.HandlerFunc // answers it
	gone   func(session string) bool
}

func newRemembers() *remembers {
	s := &remembers{workshop: workshop{asked: map[string]int{}}, ended: make(chan string, 64)}
	s.end = func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNoContent) }
	s.answerWith(func(w http.ResponseWriter, r *http.Request, m *wire.Message) bool {
		if s.gone != nil && s.gone(r.Header.Get("Mcp-Session-Id")) {
			w.WriteHeader(http.StatusNotFound)
			return true
		}
		if m.Method == "initialize" {
			s.mu.Lock()
			s.opened++
			w.Header().Set("Mcp-Session-Id", fmt.Sprint("s-", s.opened))
			s.mu.Unlock()
		}
		return false
	})
	return s
}

func (s *remembers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodDelete {
		s.workshop.ServeHTTP(w, r)
		return
	}
	s.ended <- r.Header.Get("Mcp-Session-Id") + " " + r.Header.Get("Mcp-Protocol-Version")
	s.end(w, r)
}

// endings are the entries of sessions' ends, once there are n.
func (g *gate) endings(t *testing.T, n int) []string {
	t.Helper()
	for t.Context().Err() == nil {
		if all := g.entries(t, func(en audit.Entry) bool { return en.Method == "notifications/session-end" }); len(all) >= n {
			return all
		}
		runtime.Gosched()
	}
	return nil
}

// A session that makes room, or is idle, ends at its server on HTTP too: told as
// by its caller, recorded before and after.
func TestSessionsEndAtTheServer(t *testing.T) {
	s, c := newRemembers(), &clock{t: time.Now()}
	g := newGate(t, s, map[string]string{"rules/echo.yaml": allowEcho}, func(cfg *Config) { cfg.Now = c.now })
	first := g.opens(t)
	if _, _, err := g.post(t.Context(), []byte(`{"jsonrpc":"2.0","method":"notifications/initialized"}`),
		http.Header{"Mcp-Session-Id": {first}, "Mcp-Protocol-Version": {"2025-11-25"}}); err != nil {
		t.Fatal(err)
	}
	for range maxOwned {
		c.pass(time.Second)
		g.opens(t)
	}
	if got := <-s.ended; got != "s-1 2025-11-25" {
		t.Errorf("the server was told the end of %s", got)
	}
	all := g.endings(t, 2)
	if len(all) != 2 || all[0] != "intent notifications/session-end  : "+endedForRoom || !strings.HasPrefix(all[1], "outcome notifications/session-end  ok") {
		t.Errorf("the record says\n%s", strings.Join(all, "\n"))
	}
	if got := g.pings(t, first); got != http.StatusNotFound {
		t.Errorf("the session answers %d", got)
	}
	c.pass(sessionIdle + time.Second)
	g.endIdle(t.Context())
	seen := map[string]bool{}
	for range maxOwned {
		seen[<-s.ended] = true
	}
	if len(seen) != maxOwned || seen["s-1 "] {
		t.Errorf("ended: %v", seen)
	}
	if all := g.endings(t, 2+2*maxOwned); len(all) != 2+2*maxOwned || !strings.Contains(strings.Join(all[2:], "\n"), endedIdle) {
		t.Errorf("the record says\n%s", strings.Join(all, "\n"))
	}
}

// A server that does not answer holds up nothing for longer than the bound.
func TestAServerThatIsDeafToTheEnd(t *testing.T) {
	s, c := newRemembers(), &clock{t: time.Now()}
	cut := make(chan struct{})
	s.end = func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done(); close(cut) }
	g := newGate(t, s, map[string]string{"rules/echo.yaml": allowEcho}, func(cfg *Config) { cfg.Now = c.now })
	g.opens(t)
	c.pass(sessionIdle + time.Second)
	due := g.timer(t)
	g.endIdle(t.Context())
	comes(t, s.ended, "the end of the session at the server")
	(<-due)()
	comes(t, cut, "the end of the call at the server")
	if all := g.endings(t, 2); len(all) != 2 || !strings.HasPrefix(all[1], "outcome notifications/session-end  error: no answer within 5s") {
		t.Errorf("the record says\n%s", strings.Join(all, "\n"))
	}
}

// What cannot be recorded is not sent.
func TestNoEndIsSentUnrecorded(t *testing.T) {
	s, c := newRemembers(), &clock{t: time.Now()}
	g := newGate(t, s, map[string]string{"rules/echo.yaml": allowEcho}, func(cfg *Config) { cfg.Now = c.now })
	g.opens(t)
	fail(t, g.Journal.Close())
	c.pass(sessionIdle + time.Second)
	g.endIdle(t.Context())
	<-g.inside.close()
	if len(s.ended) != 0 {
		t.Errorf("the server was told the end of %s", <-s.ended)
	}
}

// What the policy denies, and what is frozen, is not told either; the record
// says why.
func TestNoEndIsSentThatMayNotBe(t *testing.T) {
	const deny = "- { id: held, server: echo, method: notifications/session-end, effect: deny, reason: Its sessions are kept }\n"
	for name, c := range map[string]struct {
		rules  string
		frozen bool
		says   string
	}{
		"denied": {rules: allowEcho + deny, says: "denied: Its sessions are kept"},
		"frozen": {rules: allowEcho, frozen: true, says: "frozen: "},
	} {
		t.Run(name, func(t *testing.T) {
			s, now := newRemembers(), &clock{t: time.Now()}
			g := newGate(t, s, map[string]string{"rules/echo.yaml": c.rules}, func(cfg *Config) { cfg.Now = now.now })
			g.opens(t)
			if c.frozen {
				if _, err := g.Freezes.Freeze(t.Context(), freeze.Target{Server: "echo"}, "a test", freeze.Operator{Name: "test"}); !errors.Is(err, freeze.ErrUnrecorded) { // it stands: see nothingFrozen
					t.Fatal(err)
				}
			}
			now.pass(sessionIdle + time.Second)
			g.endIdle(t.Context())
			all := g.endings(t, 1)
			if len(all) != 1 || !strings.HasPrefix(all[0], "refused notifications/session-end  "+c.says) {
				t.Errorf("the record says\n%s", strings.Join(all, "\n"))
			}
			<-g.inside.close()
			if len(s.ended) != 0 {
				t.Errorf("the server was told the end of %s", <-s.ended)
			}
		})
	}
}

// A session that the server does not know any more is not kept here either.
func TestASessionGoneAtTheServer(t *testing.T) {
	s := newRemembers()
	s.gone = func(session string) bool { return session != "" }
	g := newGate(t, s, map[string]string{"rules/echo.yaml": allowEcho})
	session := g.opens(t)
	for range 2 {
		if got := g.pings(t, session); got != http.StatusNotFound {
			t.Errorf("got %d", got)
		}
	}
	if n := len(g.session.m); n != 0 || s.times("ping") != 1 {
		t.Errorf("%d sessions are kept, the server was asked %d times", n, s.times("ping"))
	}
}
