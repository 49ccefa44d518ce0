package enforcer

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"countersign/enforcer/approval"
	"countersign/enforcer/wire"
)

// all asks the endpoint for all servers, in a session if there is one.
func (l *ladder) all(ctx context.Context, session, body string, header http.Header) (sent, http.Header) {
	l.t.Helper()
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, l.PublicURL+"/mcp", bytes.NewReader([]byte(body)))
	for name, values := range header {
		r.Header[name] = values
	}
	if session != "" {
		r.Header.Set("Mcp-Session-Id", session)
	}
	r.Header.Set("Authorization", "Bearer "+l.token)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, text/event-stream")
	w := httptest.NewRecorder()
	l.Handler().ServeHTTP(w, r)
	return readSent(l.t, w.Code, w.Body.String()), w.Result().Header
}

// speaks has the server know the era of sessions, the stateless one, or both.
func (l *ladder) speaks(sessions, stateless bool) {
	l.answerWith(func(w http.ResponseWriter, _ *http.Request, m *wire.Message) bool {
		w.Header().Set("Content-Type", "application/json")
		switch m.Method {
		case "initialize":
			if !sessions {
				fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"no sessions here"}}`, m.ID)
				return true
			}
			w.Header().Set("Mcp-Session-Id", "s1")
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"s","version":"1"}}}`, m.ID)
		case "server/discover":
			if !stateless {
				fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"what?"}}`, m.ID)
				return true
			}
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{}}}`, m.ID)
		case "notifications/initialized":
			w.WriteHeader(http.StatusAccepted)
		case "tools/call":
			l.mu.Lock()
			l.got = string(m.Raw)
			l.mu.Unlock()
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":"ran %s"}],"resultType":"complete"}}`, m.ID, m.Name)
		default:
			return false
		}
		return true
	})
}

const allRisky = `"name":"echo__risky","arguments":{"n":1}`

// At the endpoint for all servers the ladder is that of the client's era,
// whatever its server speaks.
func TestTheLadderAtTheEndpointForAllServers(t *testing.T) {
	for _, c := range []struct {
		name                string
		modern              bool // client
		sessions, stateless bool // server
	}{
		{"both stateless", true, false, true},
		{"a stateless client, a server with sessions", true, true, false},
		{"both with sessions", false, true, false},
		{"a client with sessions, a stateless server", false, false, true},
	} {
		begin := func(t *testing.T, hold string) (l *ladder, ask func(id int, method, params, capabilities string) sent) {
			l = newLadder(t, hold, nil)
			l.speaks(c.sessions, c.stateless)
			session := ""
			if !c.modern {
				_, h := l.all(t.Context(), "", helloBody, nil)
				session = h.Get("Mcp-Session-Id")
			}
			return l, func(id int, method, params, capabilities string) sent {
				body, h := sessionAsk(id, method, params)
				if c.modern {
					body, h = statelessAsk(id, method, params, capabilities)
				}
				got, _ := l.all(t.Context(), session, body, h)
				return got
			}
		}
		t.Run(c.name+": a task", func(t *testing.T) {
			l, ask := begin(t, "1h")
			params := allRisky
			if !c.modern {
				params += `,"task":{}`
			}
			got := ask(2, "tools/call", params, withTasks)
			in := got.result
			if inner, ok := in["task"].(map[string]any); ok != !c.modern {
				t.Errorf("a task of the other era: %s", got.body)
			} else if ok {
				in = inner
			}
			id, _ := in["taskId"].(string)
			if own, ok := strings.CutPrefix(id, "echo__"); !ok || !ownTask(own) {
				t.Fatalf("no task in %s", got.body)
			}
			which := fmt.Sprintf(`"taskId":%q`, id)
			wantAll(t, ask(3, "tasks/get", which, withTasks).body, `"status":"working"`, which)
			l.vote(l.await(approval.EventAsked, 1), true)
			got = ask(4, "tasks/get", which, withTasks)
			wantAll(t, got.body, `"status":"completed"`, which)
			if !c.modern {
				got = ask(5, "tasks/result", which, "")
				wantAll(t, got.body, `"io.modelcontextprotocol/related-task":{`+which+`}`)
			}
			wantAll(t, got.body, "ran risky")
			if l.ran() != 1 || l.times("tasks/get") != 0 {
				t.Errorf("ran %d times, the server was asked for its task %d times", l.ran(), l.times("tasks/get"))
			}
		})
		t.Run(c.name+": what follows the hold", func(t *testing.T) {
			l, ask := begin(t, "1ms")
			params := allRisky
			for i := range maxRounds {
				got := ask(2+i, "tools/call", params, "{}")
				if c.modern {
					params = allRisky + `,"requestState":` + string(wire.Quote(state(t, got)))
				}
			}
			wantAll(t, ask(8, "tools/call", params, "{}").body, "approval pending", `"isError":true`)
			l.vote(l.await(approval.EventAsked, 1), true)
			if got := ask(9, "tools/call", params, "{}"); got.text != "ran risky" || l.ran() != 1 || strings.Contains(l.lastAsked(), "requestState") {
				t.Errorf("got %s, the server %s", got.body, l.lastAsked())
			}
			if l.count(approval.EventAsked) != 1 {
				t.Errorf("asked %d times", l.count(approval.EventAsked))
			}
		})
	}
}
