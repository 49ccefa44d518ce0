package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
)

// The end of a session at the endpoint for all servers is the end of what it
// opened at the servers, whichever of the good audiences the token has.
func TestTheEndOfASessionOfAllServers(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "1s")
	p := serving(t, s, nil)
	var ended atomic.Int64
	u.answerWith(func(w http.ResponseWriter, r *http.Request, id json.RawMessage, method, _ string) bool {
		switch {
		case r.Method == http.MethodDelete:
			ended.Add(1)
			w.WriteHeader(http.StatusNoContent)
		case method == "initialize":
			w.Header().Set("Mcp-Session-Id", fmt.Sprintf("session-%d", u.requests()))
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"probe","version":"1"}}}`, id)
		default:
			return false
		}
		return true
	})
	for i, audience := range []string{s.URL, s.URL + "/mcp"} {
		token, err := s.Token("alice", []string{"support"}, map[string]any{"aud": audience})
		if err != nil {
			t.Fatal(err)
		}
		session := p.openAll(token)
		if a := p.all(t.Context(), session, token, toolCall("probe__echo", "x")); a.text != "ran echo" {
			t.Fatalf("%s: %+v", audience, a)
		}
		a, err := p.send(t.Context(), "", token, "", func(r *http.Request) {
			toAll(session)(r)
			r.Method, r.Body, r.ContentLength = http.MethodDelete, nil, 0
		})
		if err != nil || a.status != http.StatusNoContent || ended.Load() != int64(i)+1 {
			t.Errorf("%s: %d %v, and %d sessions ended at the server", audience, a.status, err, ended.Load())
		}
	}
}
