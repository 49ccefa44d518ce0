package upstream

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"
)

// A client that does not read what its call gets holds up no other call of the
// same process, and costs a bounded amount of memory: then it loses its stream.
func TestStdioSlowReader(t *testing.T) {
	u := open(t, "flood", func(c *StdioConfig) { c.MaxMessage = 100_000 })
	flood := request(`{"jsonrpc":"2.0","id":1,"method":"flood","params":{"_meta":{"progressToken":"f",` + modernMeta[len(`"_meta":{`):] + `}}`)
	reply, err := u.Send(t.Context(), flood)
	if err != nil {
		t.Fatal(err)
	}
	var mail *mailbox
	u.mu.Lock()
	for p := range u.procs {
		mail = p.calls["1"].mail
	}
	u.mu.Unlock()
	waitFor(t, u, mail.failed) // nobody reads
	if size := mail.size(); size > u.waiting()+100_000 {
		t.Errorf("%d bytes wait", size)
	}
	for id := range 5 {
		if _, err := answer(t, u, modern(10+id, "x")); err != nil {
			t.Errorf("another call: %v", err)
		}
	}
	if len(u.procs) != 1 {
		t.Errorf("%d processes", len(u.procs))
	}
	_, err = reply.Next()
	for err == nil {
		_, err = reply.Next()
	}
	if !errors.Is(err, ErrTooLarge) {
		t.Errorf("the stream ended with %v", err)
	}
	if err := reply.Close(); err != nil {
		t.Error(err)
	}
}

// Silence within a stream ends a call, where the policy says so, and the server
// is told.
func TestStdioIdle(t *testing.T) {
	lines := make(chan string, 10)
	u := open(t, "listen", func(c *StdioConfig) {
		c.Idle, c.Stderr = 50*time.Millisecond, func(l string) { lines <- l }
	})
	quiet, err := u.Send(t.Context(), request(`{"jsonrpc":"2.0","id":7,"method":"half","params":{`+modernMeta+`}}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := quiet.Next(); err != nil {
		t.Fatal(err)
	}
	if _, err := quiet.Next(); !errors.Is(err, ErrDead) || !errors.Is(err, errTimeout) {
		t.Errorf("the call ended with %v", err)
	}
	for _, want := range []string{"peer starts", "cancelled 7"} {
		if got := <-lines; got != want {
			t.Errorf("stderr line %q, want %q", got, want)
		}
	}
	stream, err := u.Send(t.Context(), modern(1, "subscriptions/listen"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Next(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	time.AfterFunc(150*time.Millisecond, func() {
		_, err := answer(t, u, modern(3, "end"))
		ended <- err
	})
	if e, err := stream.Next(); err != nil {
		t.Errorf("a stream that listens: %s, %v", e.Data, err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// Nor does it hold up the calls that share its HTTP/2 connection.
func TestHTTP2SlowReader(t *testing.T) {
	ca := newAuthority(t)
	srv := secure(t, ca, "127.0.0.1", nil, true, nil)
	stuck := make(chan struct{}, 1)
	endless := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		event := []byte("data: " + strings.Repeat("x", 64<<10) + "\n\n")
		stalled := time.AfterFunc(100*time.Millisecond, func() { stuck <- struct{}{} })
		for {
			if _, err := w.Write(event); err != nil {
				return // it was given up
			}
			stalled.Reset(100 * time.Millisecond)
		}
	})
	srv.get.Store(&endless)
	u := remote(t, HTTPConfig{URL: srv.URL, TLS: TLSConfig{CA: []string{ca.pem}}})
	reply, err := u.Send(t.Context(), &Request{Verb: http.MethodGet})
	if err != nil {
		t.Fatal(err)
	}
	<-stuck // the server can write no more, for nobody reads
	for range 5 {
		if _, err := answer(t, u, request(ping)); err != nil {
			t.Error(err)
		}
	}
	if n := srv.conns.Load(); n != 1 || srv.last.Load().ProtoMajor != 2 {
		t.Errorf("%d connections, %s", n, srv.last.Load().Proto)
	}
	if err := reply.Close(); err != nil {
		t.Error(err)
	}
}
