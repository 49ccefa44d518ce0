package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// stalled accepts connections and does no more than take does.
func stalled(t *testing.T, take func(net.Conn)) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			go func() {
				take(c)
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			}()
		}
	}()
	return l.Addr().String()
}

// hold waits until the far end gives up, and reads what it says meanwhile.
func hold(c net.Conn) {
	if _, err := io.Copy(io.Discard, c); err != nil {
		return // reset: that is giving up, too
	}
}

// full is an address where nobody accepts and no more connections fit.
func full(t *testing.T) (address string) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	at := &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	if err := errors.Join(syscall.Bind(fd, at), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Close(fd); err != nil {
			t.Error(err)
		}
	})
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address = fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port)
	for {
		c, err := net.DialTimeout("tcp", address, 100*time.Millisecond)
		if err != nil {
			return address
		}
		t.Cleanup(func() {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// Each phase has its bound, and the error names the phase that took too long. On
// a loaded machine that may be an earlier one: then the bound is longer.
func TestHTTPPhases(t *testing.T) {
	silent := stalled(t, hold)
	deaf := stalled(t, func(c net.Conn) { <-t.Context().Done() })
	slow := func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	begins := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if http.NewResponseController(w).Flush() == nil {
			slow(w, r)
		}
	}
	streams := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		if _, err := io.WriteString(w, "data: {}\n\n: and"); err == nil && http.NewResponseController(w).Flush() == nil {
			slow(w, r)
		}
	}
	all := func(c *HTTPConfig, d time.Duration) { c.Timeout = d }
	connect := func(c *HTTPConfig, d time.Duration) { c.Timeouts.Connect = d }
	answered := func(c *HTTPConfig, d time.Duration) { c.Timeouts.Answer = d }
	for _, tt := range []struct {
		name, says string
		cfg        HTTPConfig
		bounds     func(c *HTTPConfig, bound time.Duration)
		serve      http.HandlerFunc
		body       int
		sent       bool
	}{
		{name: "connect", says: "no connection to it stood within %s", cfg: HTTPConfig{URL: "http://" + full(t)}, bounds: connect},
		{name: "connect, all", says: "no connection to it stood within %s", cfg: HTTPConfig{URL: "http://" + full(t)}, bounds: all},
		{name: "connect through a proxy", says: "through the proxy within %s", cfg: HTTPConfig{URL: "https://crm.invalid", Proxy: "http://" + silent}, bounds: connect},
		{name: "tls", says: "the TLS handshake was not done within %s", cfg: HTTPConfig{URL: "https://" + silent}, bounds: func(c *HTTPConfig, d time.Duration) { c.Timeouts.TLS = d }},
		{name: "tls, all", says: "the TLS handshake was not done within %s", cfg: HTTPConfig{URL: "https://" + silent}, bounds: all},
		{name: "the request", says: "did not take the whole request within %s", cfg: HTTPConfig{URL: "http://" + deaf}, bounds: all, body: 32 << 20, sent: true},
		{name: "answer", says: "took the request, and did not begin to answer within %s", bounds: answered, serve: slow, sent: true},
		{name: "answer, all", says: "took the request, and did not begin to answer within %s", bounds: all, serve: slow, sent: true},
		{name: "the body", says: "began to answer, and did not come to the end within %s", bounds: func(c *HTTPConfig, d time.Duration) { all(c, d); answered(c, d) }, serve: begins, sent: true},
		{name: "idle", says: "was silent for %s", bounds: func(c *HTTPConfig, d time.Duration) { c.Timeouts.Idle = d }, serve: streams, sent: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for bound := 80 * time.Millisecond; ; bound *= 8 {
				cfg := tt.cfg
				tt.bounds(&cfg, bound)
				u := Upstream(nil)
				if tt.serve != nil {
					u = against(t, cfg, func(w http.ResponseWriter, r *http.Request) {
						if _, err := io.Copy(io.Discard, r.Body); err == nil {
							tt.serve(w, r)
						}
					})
				} else {
					u = remote(t, cfg)
				}
				r := request(ping)
				if tt.body > 0 {
					r.Body = make([]byte, tt.body)
				}
				_, err := answer(t, u, r)
				if errors.Is(err, ErrDead) && errors.Is(err, ErrNotSent) != tt.sent && strings.Contains(err.Error(), fmt.Sprintf(tt.says, bound)) {
					return
				}
				if t.Logf("it says: %v", err); bound > 20*time.Second {
					t.Fatalf("not that its server %s", fmt.Sprintf(tt.says, bound))
				}
			}
		})
	}
}

// Silence never ends a stream that only listens.
func TestHTTPListeningIsNotIdle(t *testing.T) {
	const bound = 60 * time.Millisecond
	again := make(chan struct{})
	u := against(t, HTTPConfig{Timeouts: Timeouts{Idle: bound}}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		if _, err := io.WriteString(w, "data: 1\n\n"); err != nil || http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case <-again:
		case <-r.Context().Done():
		}
		if _, err := io.WriteString(w, "data: 2\n\n"); err != nil {
			return
		}
	})
	for name, r := range map[string]*Request{
		"GET":                  {Verb: http.MethodGet},
		"subscriptions/listen": request(strings.Replace(ping, `"ping"`, `"subscriptions/listen"`, 1)),
	} {
		reply, err := u.Send(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		late := time.AfterFunc(3*bound, func() { again <- struct{}{} })
		for _, want := range []string{"1", "2"} {
			if e, err := reply.Next(); err != nil || string(e.Data) != want {
				t.Errorf("%s: %s, %v", name, e.Data, err)
			}
		}
		late.Stop()
		if err := reply.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A client that does not read is not the server's silence: only who waits for
// the server counts the time.
func TestHTTPSlowReaderIsNotSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		w := watch(HTTPConfig{Timeout: time.Minute, Timeouts: Timeouts{Idle: time.Minute}}, cancel)
		w.stop()
		body, server := io.Pipe()
		heard := w.audible(body)
		go func() {
			for _, pause := range []time.Duration{0, 59 * time.Second, 0} {
				time.Sleep(pause) // no time passes outside of the bubble
				if _, err := server.Write([]byte("x")); err != nil {
					return
				}
			}
		}()
		for _, pause := range []time.Duration{0, 0, time.Hour} {
			time.Sleep(pause)
			if _, err := heard.Read(make([]byte, 1)); err != nil || ctx.Err() != nil {
				t.Errorf("%v, %v", err, context.Cause(ctx))
			}
		}
		context.AfterFunc(ctx, func() { _ = server.CloseWithError(context.Cause(ctx)) })
		began := time.Now()
		if _, err := heard.Read(make([]byte, 1)); !errors.Is(err, errTimeout) || time.Since(began) != time.Minute {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
	})
}

// A dial whose exchange went on over another connection says nothing about it
// any more.
func TestHTTPLateDialIsNoPhase(t *testing.T) {
	late := make(chan error, 1)
	w := watch(HTTPConfig{Timeout: time.Minute, Timeouts: Timeouts{Connect: time.Minute, TLS: time.Minute, Answer: time.Millisecond}}, func(cause error) { late <- cause })
	defer w.stop()
	trace := w.trace()
	trace.GetConn("crm:443")
	trace.GotConn(httptrace.GotConnInfo{Reused: true})
	trace.TLSHandshakeStart()
	trace.WroteRequest(httptrace.WroteRequestInfo{})
	trace.TLSHandshakeDone(tls.ConnectionState{}, nil)
	if err := <-late; !strings.Contains(err.Error(), "took the request") {
		t.Errorf("it says: %v", err)
	}
}
