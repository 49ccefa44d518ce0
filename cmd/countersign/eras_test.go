package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"countersign/fixtures/peer"
)

// before puts a server of our own in front of a real one: what refuse answers does not get there.
func before(t *testing.T, server string, refuse func(w http.ResponseWriter, r *http.Request, body []byte) bool) string {
	t.Helper()
	to, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	real := &httputil.ReverseProxy{FlushInterval: -1, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }, ErrorLog: noLog}
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // whoever asked has left
		}
		if !refuse(w, r, body) {
			r.Body = io.NopCloser(bytes.NewReader(body))
			real.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(func() { web.CloseClientConnections(); web.Close() })
	return web.URL
}

// A server answers in the era that it speaks, and a client of the other era is told so in the
// server's own way: it falls back to initialize, or learns that it cannot.
func TestErasMeet(t *testing.T) {
	t.Parallel()
	modern := func(r *http.Request) bool { return r.Header.Get("Mcp-Protocol-Version") >= "2026-07-28" }
	old := peer.ConformanceServer(t, true)
	// As older servers do, without JSON.
	blunt := before(t, old, func(w http.ResponseWriter, r *http.Request, body []byte) bool {
		if r.Header.Get("Mcp-Session-Id") != "" || bytes.Contains(body, []byte(`"method":"initialize"`)) {
			return false
		}
		http.Error(w, "Bad Request: session required", http.StatusBadRequest)
		return true
	})
	const unsupported = `"error":{"code":-32022,"message":"Unsupported protocol version","data":{"supported":["2026-07-28"],"requested":`
	young := before(t, peer.ConformanceServer(t, false), func(w http.ResponseWriter, r *http.Request, body []byte) bool {
		var m struct{ ID json.RawMessage }
		if modern(r) || json.Unmarshal(body, &m) != nil || m.ID == nil {
			return false
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s, %s"2025-11-25"}}}`, m.ID, unsupported)
		return true
	})
	c := newConformanceStage(t, map[string]string{
		"old": "url: " + old, "blunt": "url: " + blunt, "young": "url: " + young,
		"young-spawned": fmt.Sprintf("command: %s\nenv: { PATH: %q }", yamlList(peer.Stateless(t)), os.Getenv("PATH")),
	})
	connect := func(t *testing.T, server, version string) (*mcp.ClientSession, error) {
		client := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, nil)
		session, err := client.Connect(t.Context(), &mcp.StreamableClientTransport{Endpoint: strings.TrimSuffix(c.base+"/mcp/"+server, "/"), MaxRetries: -1},
			&mcp.ClientSessionOptions{ProtocolVersion: version})
		if err == nil {
			t.Cleanup(func() {
				if err := session.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		return session, err
	}
	const initialize = `{"jsonrpc":"2.0","id":"é-1","method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"old","version":"1"}}}`

	for _, s := range []struct{ name, tool, says, version string }{
		{"old", "test_simple_text", "simple text response", "2025-11-25"},
		{"blunt", "test_simple_text", "simple text response", "2025-11-25"},
		{"young", "test_simple_text", "simple text response", "2026-07-28"},
		{"young-spawned", "work", "worked", "2026-07-28"},
	} {
		t.Run("a client of both finds the era of "+s.name, func(t *testing.T) {
			t.Parallel()
			lines := peer.Client2(t, c.base+"/mcp/"+s.name, "", "auto", "call", s.tool, "{}")
			if len(lines) != 2 || lines[0].Version != s.version || !strings.Contains(said(lines[1]), s.says) {
				t.Errorf("TypeScript: %+v", lines)
			}
			session, err := connect(t, s.name, "2026-07-28")
			if err != nil {
				t.Fatal(err)
			}
			if got := session.InitializeResult().ProtocolVersion; got != s.version {
				t.Errorf("Go: speaks %s", got)
			}
			if res, err := session.CallTool(t.Context(), &mcp.CallToolParams{Name: s.tool}); err != nil || len(res.Content) != 1 || !strings.Contains(res.Content[0].(*mcp.TextContent).Text, s.says) {
				t.Errorf("Go: %+v %v", res, err)
			}
		})
	}
	t.Run("at the endpoint for all servers a client of sessions has both", func(t *testing.T) {
		t.Parallel()
		lines := peer.Client1(t, c.base+"/mcp", "", "list", "call", "young__test_simple_text", "{}", "call", "young-spawned__work", "{}", "call", "old__test_simple_text", "{}")
		if len(lines) != 5 || lines[0].Version != "2025-11-25" {
			t.Fatalf("TypeScript: %+v", lines)
		}
		if got := names(t, lines[1].Tools, "name"); !strings.Contains(got, "young__test_simple_text") || !strings.Contains(got, "young-spawned__work") || !strings.Contains(got, "old__test_simple_text") {
			t.Errorf("TypeScript: tools %s", got)
		}
		for i, says := range []string{"simple text response", "worked", "simple text response"} {
			if got := said(lines[2+i]); lines[2+i].Error != nil || !strings.Contains(got, says) {
				t.Errorf("TypeScript: %s", got)
			}
		}
		session, err := connect(t, "", "2025-11-25")
		if err != nil {
			t.Fatal(err)
		}
		list, err := session.ListTools(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(list.Tools, func(tool *mcp.Tool) bool { return tool.Name == "young-spawned__work" }) {
			t.Errorf("Go: %+v", list.Tools)
		}
		if res, err := session.CallTool(t.Context(), &mcp.CallToolParams{Name: "young-spawned__work"}); err != nil || len(res.Content) != 1 || res.Content[0].(*mcp.TextContent).Text != "worked" {
			t.Errorf("Go: %+v %v", res, err)
		}
	})
	t.Run("a server that refuses without a message is told from one that speaks the era", func(t *testing.T) {
		t.Parallel()
		status, header, body := c.knock(t, "blunt", `{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`,
			map[string]string{"Mcp-Protocol-Version": "2026-07-28", "Mcp-Method": "server/discover"})
		if status != http.StatusBadRequest || header.Get("Content-Type") != "application/json" || !strings.Contains(body, `"id":1`) || !strings.Contains(body, "-32603") {
			t.Errorf("%d %s", status, body)
		}
		// In the era of sessions a client might drop its own over a status.
		if status, _, body = c.knock(t, "blunt", `{"jsonrpc":"2.0","id":2,"method":"resources/list"}`, nil); status != http.StatusOK || !strings.Contains(body, "-32603") {
			t.Errorf("%d %s", status, body)
		}
	})
	for server, want := range map[string]int{"young": http.StatusBadRequest, "young-spawned": http.StatusOK} { // a pipe has no status
		t.Run("a client of sessions gets the answer of "+server, func(t *testing.T) {
			t.Parallel()
			status, header, body := c.knock(t, server, initialize, nil)
			if status != want || header.Get("Mcp-Session-Id") != "" || !strings.Contains(body, unsupported+`"2025-11-25"}}`) || !strings.Contains(body, `"id":"é-1"`) {
				t.Errorf("%d %v %s", status, header, body)
			}
			if lines := peer.Client1(t, c.base+"/mcp/"+server, "", "list"); len(lines) != 1 || lines[0].Error == nil || !strings.Contains(lines[0].Error.Message, "Unsupported protocol version") {
				t.Errorf("TypeScript: %+v", lines)
			}
			if _, err := connect(t, server, "2025-11-25"); err == nil || !strings.Contains(err.Error(), "nsupported protocol version") {
				t.Errorf("Go: %v", err)
			}
		})
	}
}

// knock posts one message through the front.
func (c *conformanceStage) knock(t *testing.T, server, body string, header map[string]string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.base+"/mcp/"+server, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(b)
}
