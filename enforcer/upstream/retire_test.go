package upstream

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"
)

// What runs is carried to its end, and so is what comes late; then nothing is
// taken any more. A stream that only listens holds up nothing.
func TestHTTPRetires(t *testing.T) {
	asked, finish := make(chan struct{}, 1), make(chan struct{})
	u := against(t, HTTPConfig{}, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			w.Header().Set("Content-Type", "text/event-stream")
			if http.NewResponseController(w).Flush() == nil {
				<-r.Context().Done()
			}
			return
		}
		if r.Header.Get("Mcp-Method") == "long" {
			asked <- struct{}{}
			<-finish
		}
		w.Header().Set("Content-Type", "application/json")
		if _, err := io.WriteString(w, `{"jsonrpc":"2.0","id":1,"result":{}}`); err != nil {
			t.Error(err)
		}
	}).(*httpUpstream)
	u.traffic.calm = 40 * time.Millisecond
	stream, err := u.Send(t.Context(), &Request{Verb: http.MethodGet})
	if err != nil {
		t.Fatal(err)
	}
	listened := make(chan error, 1)
	go func() {
		_, err := stream.Next()
		listened <- errors.Join(err, stream.Close())
	}()
	long := request(ping)
	long.Header = http.Header{"Mcp-Method": {"long"}}
	checkRetirement(t, u, long, func() { <-asked }, func() { close(finish) }, request(ping))
	if err := <-listened; !errors.Is(err, ErrClosed) {
		t.Errorf("the listening stream ended with %v", err)
	}
}

func TestStdioRetires(t *testing.T) {
	u := spawns(t, "asks").(*stdio)
	u.traffic.calm = 40 * time.Millisecond
	session := initialize(t, u, "k1")
	listening := &Request{Verb: http.MethodGet, Session: session, Holder: "alice"}
	if _, err := u.Send(t.Context(), listening); err != nil {
		t.Fatal(err)
	}
	checkRetirement(t, u, legacy(session, "k1", `{"jsonrpc":"2.0","id":5,"method":"x"}`),
		func() {
			waitFor(t, u, func() bool { return u.sessions[session].asked["1"] != nil })
		},
		func() {
			if _, err := u.Send(t.Context(), legacy(session, "", `{"jsonrpc":"2.0","id":1,"result":{"roots":[]}}`)); err != nil {
				t.Error(err)
			}
		},
		legacy(session, "k1", `{"jsonrpc":"2.0","method":"notifications/x"}`))
}

func checkRetirement(t *testing.T, u Upstream, long *Request, begun, finish func(), late *Request) {
	t.Helper()
	result := make(chan error, 1)
	go func() {
		_, err := answer(t, u, long)
		result <- err
	}()
	begun()
	retired := make(chan error, 1)
	go func() { retired <- u.Retire(t.Context()) }()
	select {
	case err := <-retired:
		finish()
		t.Fatalf("retired with a call in flight: %v", err)
	case <-time.After(200 * time.Millisecond): // many times the calm
	}
	if _, err := answer(t, u, late); err != nil {
		t.Errorf("one that came late: %v", err)
	}
	finish()
	if err := <-result; err != nil {
		t.Errorf("what ran ended with %v", err)
	}
	if err := <-retired; err != nil {
		t.Error(err)
	}
	if _, err := answer(t, u, late); !errors.Is(err, ErrClosed) || !errors.Is(err, ErrNotSent) {
		t.Errorf("after it: %v", err)
	}
}

// No retirement waits for longer than its context: what still runs is cut off.
func TestRetireEnds(t *testing.T) {
	asked := make(chan struct{}, 1)
	spawned := spawns(t, "hang").(*stdio)
	for name, tt := range map[string]struct {
		u     Upstream
		begun func()
	}{
		"HTTP": {against(t, HTTPConfig{}, func(_ http.ResponseWriter, r *http.Request) {
			if _, err := io.Copy(io.Discard, r.Body); err == nil {
				asked <- struct{}{}
				<-r.Context().Done()
			}
		}), func() { <-asked }},
		"stdio": {spawned, func() {
			waitFor(t, spawned, func() bool {
				for p := range spawned.procs {
					return len(p.calls) == 1
				}
				return false
			})
		}},
	} {
		result := make(chan error, 1)
		go func() {
			_, err := answer(t, tt.u, modern(1, "x"))
			result <- err
		}()
		tt.begun()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := tt.u.Retire(ctx); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := <-result; !errors.Is(err, ErrClosed) {
			t.Errorf("%s: what ran ended with %v", name, err)
		}
	}
}
