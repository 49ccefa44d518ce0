package enforcer

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"countersign/enforcer/wire"
)

// sayer is a server that answers every request, tells every stream that its
// tools have changed, and keeps what it was sent.
type sayer struct {
	mu   sync.Mutex
	sent []string
}

func (s *sayer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // whoever asked has left
	}
	s.mu.Lock()
	s.sent = append(s.sent, string(body))
	s.mu.Unlock()
	const changed = `"method":"notifications/tools/list_changed"`
	if r.Method == http.MethodGet {
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprintf(w, "id: 7\ndata: {\"jsonrpc\":\"2.0\",%s}\n\n", changed)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return
	}
	m, err := wire.Parse(body, wire.Limits{})
	if err != nil {
		http.Error(w, err.Error(), http.StatusTeapot)
		return
	}
	if m.Method == "subscriptions/listen" {
		w.Header().Set("Content-Type", "text/event-stream")
		about := fmt.Sprintf(`"_meta":{%q:%s}`, wire.MetaSubscription, m.ID)
		fmt.Fprintf(w, "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/subscriptions/acknowledged\",\"params\":{\"notifications\":{},%s}}\n\n", about)
		fmt.Fprintf(w, "data: {\"jsonrpc\":\"2.0\",%s,\"params\":{%s}}\n\n", changed, about)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return
	}
	if m.Method == "initialize" {
		w.Header().Set("Mcp-Session-Id", "s1")
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"completion":{"values":["done"]}}}`, m.ID)
}

// count is how many messages it got.
func (s *sayer) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sent)
}

func modernRequest(method, params string) (string, http.Header) {
	return `{"jsonrpc":"2.0","id":1,"method":"` + method + `","params":{` + params + `"_meta":{"` + wire.MetaVersion + `":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`,
		http.Header{"Mcp-Protocol-Version": {"2026-07-28"}, "Mcp-Method": {method}}
}

// A completion is decided by the prompt or resource that it is for.
func TestCompletionUnderPolicy(t *testing.T) {
	server := &sayer{}
	g := newGate(t, server, map[string]string{"rules/all.yaml": `
- { id: prompts, server: echo, method: completion/complete, tool: plan, effect: allow }
- { id: resources, server: echo, method: completion/complete, when: 'resource.startsWith("demo://open/")', effect: allow }
- { id: secret, server: echo, method: completion/complete, when: 'resource.contains("secret")', effect: deny, reason: Not this one }
`})
	for _, c := range []struct{ ref, refused string }{
		{`{"type":"ref/prompt","name":"plan"}`, ""},
		{`{"type":"ref/prompt","name":"secret"}`, "No rule allows completion/complete secret"},
		{`{"type":"ref/resource","uri":"demo://open/{name}"}`, ""},
		{`{"type":"ref/resource","uri":"demo://closed/{name}"}`, "No rule allows completion/complete"},
		{`{"type":"ref/resource","uri":"demo://open/secret/{name}"}`, "Not this one"},
	} {
		// What stands beside the ref decides nothing.
		params := `"ref":` + c.ref + `,"argument":{"name":"n","value":"p"},"name":"plan","uri":"demo://open/","arguments":{},`
		legacy := `{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{` + strings.TrimSuffix(params, ",") + `}}`
		modern, header := modernRequest("completion/complete", params)
		for era, send := range map[string]struct {
			body   string
			header http.Header
		}{"legacy": {legacy, nil}, "modern": {modern, header}} {
			before := server.count()
			resp, answer, err := g.post(t.Context(), []byte(send.body), send.header)
			if err != nil {
				t.Fatal(err)
			}
			want := c.refused
			if want == "" {
				want = `"values":["done"]`
			}
			if resp.StatusCode != http.StatusOK || !strings.Contains(string(answer), want) || (server.count() > before) != (c.refused == "") {
				t.Errorf("%s, %s: %d %s; the server got %d messages", era, c.ref, resp.StatusCode, answer, server.count()-before)
			}
		}
	}
}

// A subscription is decided for each resource that it names, as
// resources/subscribe is for one.
func TestSubscriptionUnderPolicy(t *testing.T) {
	server := &sayer{}
	g := newGate(t, server, map[string]string{
		"servers/echo.yaml": "server: echo\nurl: ${URL}\ncredentials:\n  other: { vault: database/creds/app, scope: holder, ttl: 60s, inject: { headers: { Authorization: \"{{basic username password}}\" } } }\n",
		"rules/all.yaml": `
- { id: listening, server: echo, method: subscriptions/listen, effect: allow }
- { id: subscribing, server: echo, method: resources/subscribe, when: 'resource.startsWith("demo://open/")', effect: allow }
- { id: not-secret, server: echo, method: resources/subscribe, when: 'resource.contains("secret")', effect: deny, reason: Not this one }
- { id: ask, server: echo, method: resources/subscribe, when: 'resource == "demo://asked"', effect: approve, reason: Ask first, approval: { approvers: leads } }
- { id: another, server: echo, method: resources/subscribe, when: 'resource == "demo://other"', effect: allow, credential: other }
`,
		"approvers.yaml": `
people: { bob: { issuer: https://id.example.com, sub: bob, slack: { team: T0EXAMPLE, user: U0BOB } } }
sets: { leads: { members: [bob], channel: C0LEADS } }
`})
	for _, c := range []struct{ filter, refused string }{
		{`{"toolsListChanged":true}`, ""},
		{`{"resourceSubscriptions":[]}`, ""},
		{`{"toolsListChanged":true,"resourceSubscriptions":["demo://open/a","demo://open/b"]}`, ""},
		{`{"resourceSubscriptions":["demo://open/a","demo://closed/b"]}`, `Resource \"demo://closed/b\": No rule allows resources/subscribe on server \"echo\" with these arguments.`},
		{`{"resourceSubscriptions":["demo://open/a","demo://open/\u0073ecret"]}`, `Resource \"demo://open/secret\": Not this one`},
		{`{"resourceSubscriptions":["demo://asked"]}`, `Resource \"demo://asked\": subscribing to it needs approval, which subscriptions/listen cannot wait for: Ask first`},
		{`{"resourceSubscriptions":["demo://other"]}`, `Resource \"demo://other\": the policy names another credential`},
	} {
		body, header := modernRequest("subscriptions/listen", `"notifications":`+c.filter+`,`)
		before := server.count()
		if c.refused != "" {
			resp, answer, err := g.post(t.Context(), []byte(body), header)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != http.StatusOK || !strings.Contains(string(answer), c.refused) || server.count() != before {
				t.Errorf("%s: %d %s; the server got %d messages", c.filter, resp.StatusCode, answer, server.count()-before)
			}
			continue
		}
		events := g.stream(t, http.MethodPost, body, header)
		if got := events(); !strings.Contains(got, "subscriptions/acknowledged") {
			t.Errorf("%s: %s", c.filter, got)
		}
		if got := events(); !strings.Contains(got, "tools/list_changed") {
			t.Errorf("%s: %s", c.filter, got)
		}
	}
}

// What a server says of its lists beside all answers goes through at once, with
// its event's id.
func TestListChangedOnAStream(t *testing.T) {
	g := newGate(t, &sayer{}, map[string]string{"rules/all.yaml": "- { id: all, server: echo, effect: allow }\n"})
	hello := `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}`
	if resp, answer, err := g.post(t.Context(), []byte(hello), nil); err != nil || resp.Header.Get("Mcp-Session-Id") != "s1" {
		t.Fatalf("%s %v", answer, err)
	}
	events := g.stream(t, http.MethodGet, "", http.Header{"Mcp-Session-Id": {"s1"}, "Mcp-Protocol-Version": {"2025-11-25"}})
	if got := events(); got != "id: 7\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\"}\n" {
		t.Errorf("%q", got)
	}
}

// stream opens an event stream, which ends with the test, and returns what gives
// its next event.
func (g *gate) stream(t *testing.T, method, body string, header http.Header) func() string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, g.PublicURL+"/mcp/echo", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	req.Header.Set("Authorization", "Bearer "+g.token)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() }) // it is over
	lines := bufio.NewReader(resp.Body)
	return func() string {
		var event strings.Builder
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				t.Fatalf("%d %s%s: %v", resp.StatusCode, &event, line, err)
			}
			if line == "\n" {
				return event.String()
			}
			event.WriteString(line)
		}
	}
}
