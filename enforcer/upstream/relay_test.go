package upstream

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"countersign/enforcer/wire"
)

const modernMeta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`

func request(body string) *Request {
	m, err := wire.Parse([]byte(body), wire.Limits{})
	if err != nil {
		panic(err) // a test's own text
	}
	return &Request{Verb: http.MethodPost, Body: []byte(body), Message: m, Holder: "alice"}
}

// relay is the smallest proxy that this package allows: every byte passes.
func relay(u Upstream) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		req := &Request{
			Verb: r.Method, Header: r.Header, Body: body, Holder: "alice",
			Session: r.Header.Get("Mcp-Session-Id"), LastEventID: r.Header.Get("Last-Event-Id"),
		}
		if r.Method == http.MethodPost {
			if req.Message, err = wire.Parse(body, wire.Limits{}); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
		}
		reply, err := u.Send(r.Context(), req)
		var status *StatusError
		switch {
		case errors.Is(err, ErrSessionGone):
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		case errors.As(err, &status):
			http.Error(w, err.Error(), status.Status)
			return
		case err != nil:
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		for name, values := range reply.Header {
			w.Header()[name] = values
		}
		w.WriteHeader(reply.Status)
		flush := http.NewResponseController(w)
		for {
			if reply.Stream() {
				if flush.Flush() != nil {
					break
				}
			}
			e, err := reply.Next()
			if err != nil {
				break
			}
			if _, err := w.Write(e.Raw); err != nil {
				break
			}
		}
		if err := reply.Close(); err != nil && r.Context().Err() == nil {
			panic(http.ErrAbortHandler)
		}
	})
}

// A real client of either era does the same things through every kind of
// upstream.
func TestRealPeers(t *testing.T) {
	serve := func(opts *mcp.StreamableHTTPOptions) func(*testing.T) Upstream {
		return func(t *testing.T) Upstream {
			s := sdkServer()
			srv := httptest.NewServer(mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return s }, opts))
			t.Cleanup(srv.Close)
			return HTTP(HTTPConfig{URL: srv.URL})
		}
	}
	for _, tt := range []struct {
		name, version string
		make          func(*testing.T) Upstream
		asks          bool // the server may ask the client
	}{
		{"HTTP with sessions", "2025-11-25", serve(nil), true},
		{"HTTP with sessions, oldest", "2025-03-26", serve(nil), true},
		{"HTTP that answers JSON", "2025-11-25", serve(&mcp.StreamableHTTPOptions{JSONResponse: true}), false},
		{"HTTP without sessions", "2026-07-28", serve(&mcp.StreamableHTTPOptions{Stateless: true}), false},
		{"HTTP, modern client, legacy server", "", serve(nil), true},
		{"stdio with sessions", "2025-11-25", func(t *testing.T) Upstream { return spawns(t, "sdk") }, true},
		{"stdio without sessions", "2026-07-28", func(t *testing.T) Upstream { return spawns(t, "sdk") }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u := tt.make(t)
			t.Cleanup(func() { closeUpstream(t, u) })
			front := httptest.NewServer(relay(u))
			t.Cleanup(front.Close)

			var progress atomic.Int64
			arrived := make(chan struct{}, 8)
			client := mcp.NewClient(&mcp.Implementation{Name: "client", Version: "1"}, &mcp.ClientOptions{
				ProgressNotificationHandler: func(context.Context, *mcp.ProgressNotificationClientRequest) {
					progress.Add(1)
					arrived <- struct{}{}
				},
				ElicitationHandler: func(_ context.Context, r *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
					return &mcp.ElicitResult{Action: "accept", Content: map[string]any{"said": r.Params.Message}}, nil
				},
			})
			session, err := client.Connect(t.Context(), &mcp.StreamableClientTransport{Endpoint: front.URL}, &mcp.ClientSessionOptions{ProtocolVersion: tt.version})
			if err != nil {
				t.Fatal(err)
			}
			call := func(tool, text string, token any) (*mcp.CallToolResult, error) {
				p := &mcp.CallToolParams{Name: tool, Arguments: map[string]any{"text": text}}
				if token != nil {
					p.SetProgressToken(token)
				}
				return session.CallTool(t.Context(), p)
			}
			tools, err := session.ListTools(t.Context(), nil)
			if err != nil || len(tools.Tools) != 4 {
				t.Fatalf("tools: %v, %v", tools, err)
			}
			for _, text := range []string{"x", "a\r\n\"\u2028 世 \x00", strings.Repeat("long ", 100_000)} {
				if strings.ContainsRune(text, 0) {
					text = strings.ReplaceAll(text, "\x00", "")
				}
				res, err := call("echo", text, nil)
				if err != nil || res.Content[0].(*mcp.TextContent).Text != text {
					t.Fatalf("echo of %d bytes: %v", len(text), err)
				}
			}
			if _, err := call("no such tool", "", nil); err == nil {
				t.Error("an unknown tool was called")
			}
			if tt.name != "HTTP that answers JSON" {
				if _, err := call("progress", "x", "token"); err != nil {
					t.Fatal(err)
				}
				for range 3 {
					<-arrived
				}
			}
			if tt.asks {
				res, err := call("elicit", "said by the client", nil)
				if err != nil || res.IsError || res.Content[0].(*mcp.TextContent).Text != "accept said by the client" {
					t.Fatalf("elicitation: %+v, %v", res, err)
				}
			}
			if err := session.Close(); err != nil {
				t.Errorf("closing: %v", err)
			}
		})
	}
}

func closeUpstream(t *testing.T, u Upstream) {
	t.Helper()
	if err := u.Close(); err != nil {
		t.Error(err)
	}
}
