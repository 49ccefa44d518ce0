package enforcer

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
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
