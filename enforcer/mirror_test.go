package enforcer

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"countersign/enforcer/wire"
)

// mirroring is a server of the stateless era that holds headers against the
// body, as the revision asks it to.
type mirroring struct {
	mu      sync.Mutex
	headers http.Header // of the last call that agreed
	body    string
}

func (s *mirroring) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var m struct {
		ID     json.RawMessage
		Method string
		Params struct{ Arguments map[string]any }
	}
	b, err := io.ReadAll(r.Body)
	if err != nil || json.Unmarshal(b, &m) != nil {
		http.Error(w, "no JSON", http.StatusTeapot)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if m.Method == "tools/list" {
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"resultType":"complete","cacheScope":"public","ttlMs":1000,"tools":[{"name":"query","inputSchema":{"type":"object","properties":{`+
			`"connection":{"type":"string","x-mcp-header":"Connection"},"region":{"type":"string","x-mcp-header":"region"},"sql":{"type":"string"}}}},{"name":"hidden"}]}}`, m.ID)
		return
	}
	for argument, header := range map[string]string{"connection": "Mcp-Param-Connection", "region": "Mcp-Param-Region"} {
		want, ok := m.Params.Arguments[argument]
		got, valid := wire.DecodeHeader(r.Header.Get(header))
		if ok != (len(r.Header.Values(header)) == 1) || ok && (!valid || got != want) {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"error":{"code":-32020,"message":"Header mismatch: %s"}}`, m.ID, header)
			return
		}
	}
	s.mu.Lock()
	s.headers, s.body = r.Header.Clone(), string(b)
	s.mu.Unlock()
	fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"resultType":"complete","cacheScope":"public","content":[],"was":%q}}`, m.ID, r.Header.Get("Mcp-Param-Connection"))
}

// A header that mirrors an argument follows it when a credential is spliced in,
// however the argument came; all others go through as they are, those that
// nobody knows included.
func TestMirroredHeadersFollowASplicedArgument(t *testing.T) {
	s := &mirroring{}
	g := newGate(t, s, map[string]string{
		"servers/echo.yaml": "server: echo\nurl: ${URL}\ncredentials:\n" +
			"  db: { vault: database/creds/app, scope: holder, ttl: 60s, inject: { args: { connection: \" postgres://{{username}}:{{password}}@db/é\" } } }\n",
		"rules/query.yaml": "- { id: query, server: echo, tool: query, effect: allow, credential: db }\n",
	}, withVault(t))
	const meta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`
	header := func(method, name string, more ...string) http.Header {
		h := http.Header{"Mcp-Protocol-Version": {"2026-07-28"}, "Mcp-Method": {method}}
		if name != "" {
			h.Set("Mcp-Name", name)
		}
		for i := 0; i < len(more); i += 2 {
			h.Add(more[i], more[i+1])
		}
		return h
	}
	call := func(arguments string, h http.Header) (int, string) {
		t.Helper()
		resp, b, err := g.post(t.Context(), []byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"query","arguments":{`+arguments+`},`+meta+`}}`), h)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	with := header("tools/call", "query", "Mcp-Param-Connection", "prod", "Mcp-Param-Region", "eu-1", "Mcp-Param-Zone", "=?base64?w6k=?=")
	arguments := `"region":"eu-1","connection":"prod","sql":"SELECT 1"`

	// Nobody has listed the tools yet: the server's own answer says what to do.
	if status, text := call(arguments, with); status != http.StatusBadRequest || !strings.Contains(text, "-32020") {
		t.Errorf("before the list: %d %s", status, text)
	}
	resp, list, err := g.post(t.Context(), []byte(`{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{`+meta+`}}`), header("tools/list", ""))
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("tools/list: %v %s", err, list)
	}
	if !strings.Contains(string(list), `"cacheScope":"private"`) || strings.Contains(string(list), "hidden") {
		t.Errorf("a list that depends on the caller: %s", list)
	}
	for name, c := range map[string]struct {
		arguments string
		header    http.Header
	}{
		"replaced": {arguments, with},
		"added":    {`"sql":"SELECT 1"`, header("tools/call", "query", "Mcp-Param-Zone", "=?base64?w6k=?=")},
		"doubled":  {arguments, header("tools/call", "query", "Mcp-Param-Connection", "a", "Mcp-Param-Connection", "b", "Mcp-Param-Region", "eu-1", "Mcp-Param-Zone", "=?base64?w6k=?=")},
	} {
		status, text := call(c.arguments, c.header)
		if status != http.StatusOK || !strings.Contains(text, "[masked: ") || !strings.Contains(text, `"cacheScope":"private"`) {
			t.Errorf("%s: %d %s", name, status, text)
			continue
		}
		s.mu.Lock()
		got := s.headers
		s.mu.Unlock()
		if connection, ok := wire.DecodeHeader(got.Get("Mcp-Param-Connection")); !ok || !strings.HasPrefix(connection, " postgres://v-") {
			t.Errorf("%s: the header is %q", name, got.Get("Mcp-Param-Connection"))
		}
		if got.Get("Mcp-Param-Zone") != "=?base64?w6k=?=" || got.Get("Mcp-Param-Region") != c.header.Get("Mcp-Param-Region") {
			t.Errorf("%s: other headers changed: %v", name, got)
		}
	}
}
