package enforcer

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"countersign/enforcer/upstream"
	"countersign/enforcer/wire"
)

// A freeze ends a call's lease, and what is under way with it; that the call is
// cancelled is told to its server all the same.
func TestTheEndOfALeaseDoesNotCutACancellation(t *testing.T) {
	var g *gate
	told := make(chan string, 1)
	server := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.LeaseEnded("l_1")
		told <- r.Header.Get("Authorization")
		w.WriteHeader(http.StatusAccepted)
	})
	var log bytes.Buffer
	g = newGate(t, server, map[string]string{"rules/echo.yaml": allowEcho}, func(c *Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	raw := []byte(`{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"x","arguments":{}}}`)
	m, err := wire.Parse(raw, wire.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	x := &exchange{
		e: g.Enforcer, id: "c_frozen", server: "echo", force: g.force.Load(), msg: m, raw: raw, start: g.Now(),
		r:      httptest.NewRequest(http.MethodPost, "/mcp/echo", nil),
		inject: upstream.Injection{Key: "l_1", Header: http.Header{"Authorization": {"Bearer x"}}},
	}
	x.cancelUpstream("frozen")
	for _, f := range x.cleanup {
		f()
	}
	select {
	case got := <-told:
		if got != "Bearer x" {
			t.Errorf("told with %q", got)
		}
	default:
		t.Error("the server was not told")
	}
	if strings.Contains(log.String(), "could not be told") {
		t.Error(log.String())
	}
}
