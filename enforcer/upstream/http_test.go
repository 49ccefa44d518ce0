package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const ping = `{"jsonrpc":"2.0","id":1,"method":"ping","params":{` + modernMeta + `}}`

func against(t *testing.T, cfg HTTPConfig, handle http.HandlerFunc) Upstream {
	t.Helper()
	srv := httptest.NewServer(handle)
	t.Cleanup(srv.Close)
	cfg.URL = srv.URL + "/mcp?key=hunter2"
	u := HTTP(cfg)
	t.Cleanup(func() { closeUpstream(t, u) })
	return u
}

// Each answer is refused with words that name its kind and nothing of it.
func TestHTTPRefusesHostileServers(t *testing.T) {
	secret := "hunter2"
	for _, tt := range []struct {
		why  string
		want error
		says string
		do   http.HandlerFunc
	}{
		{"HTML", ErrNotMCP, "text/html", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprint(w, "<p>hunter2")
		}},
		{"an error page", ErrNotMCP, "502", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, secret, http.StatusBadGateway) }},
		{"text", ErrNotMCP, "text/plain", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"jsonrpc":"2.0"}`) }},
		{"no type", ErrNotMCP, "no content type", func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Type"] = nil
			fmt.Fprint(w, `{"jsonrpc":"2.0"}`)
		}},
		{"a wild type", ErrNotMCP, "content type", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/"+strings.Repeat("x", 9000))
			fmt.Fprint(w, secret)
		}},
		{"gzip", ErrEncoded, "gzip", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Encoding", "gzip")
			fmt.Fprint(w, "\x1f\x8b hunter2")
		}},
		{"two encodings", ErrEncoded, "identity,br", func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Encoding"] = []string{"identity", "br"}
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, secret)
		}},
		{"huge, announced", ErrTooLarge, "1000", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Length", "2000000000")
		}},
		{"huge, not announced", ErrTooLarge, "1000", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			for r.Context().Err() == nil {
				if _, err := io.WriteString(w, strings.Repeat(" ", 4096)); err != nil {
					return
				}
			}
		}},
		{"a redirect", ErrNotMCP, "redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere?hunter2", http.StatusTemporaryRedirect)
		}},
		{"nothing", ErrDead, "", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }},
		{"half an answer", ErrDead, "middle", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Length", "500")
			fmt.Fprint(w, `{"jsonrpc":"2.0"`)
		}},
		{"silence", ErrDead, "no answer in time", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
		{"a body that stops", ErrDead, "no answer in time", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, "{")
			if err := http.NewResponseController(w).Flush(); err != nil {
				return
			}
			<-r.Context().Done()
		}},
	} {
		t.Run(tt.why, func(t *testing.T) {
			cfg := HTTPConfig{MaxMessage: 1000, Timeout: time.Minute}
			if tt.says == "no answer in time" {
				cfg.Timeout = 50 * time.Millisecond
			}
			var asked atomic.Int64
			u := against(t, cfg, func(w http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				if _, err := io.Copy(io.Discard, r.Body); err != nil {
					return
				}
				tt.do(w, r)
			})
			reply, err := u.Send(t.Context(), request(ping))
			if !errors.Is(err, tt.want) || reply != nil {
				t.Fatalf("got %v, %v; want %v", reply, err, tt.want)
			}
			if !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), secret) || len(err.Error()) > 300 {
				t.Errorf("it says: %v", err)
			}
			if n := asked.Load(); n != 1 {
				t.Errorf("the server was asked %d times", n)
			}
		})
	}
}

func TestHTTPDown(t *testing.T) {
	u := HTTP(HTTPConfig{URL: "http://127.0.0.1:1/?key=hunter2"}) // where nobody ever listens
	t.Cleanup(func() { closeUpstream(t, u) })
	if _, err := u.Send(t.Context(), request(ping)); !errors.Is(err, ErrDead) || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "refused") {
		t.Errorf("got %v", err)
	}
}

// The mask sees an error after us: a secret in it must be there whole, or not
// at all, or half of it would pass.
func TestHTTPShowsNoPartOfAHeader(t *testing.T) {
	secret := "s3cr3t-" + strings.Repeat("0123456789", 9)
	for name, tt := range map[string]struct {
		header, value string
		want          error
	}{
		"long type":               {"Content-Type", "text/" + secret, ErrNotMCP},
		"long encoding":           {"Content-Encoding", secret, ErrEncoded},
		"type with an odd byte":   {"Content-Type", "text/s3cr3t-01234\u00e956789", ErrNotMCP},
		"encoding with odd bytes": {"Content-Encoding", "s3cr3t-01234\t56789", ErrEncoded},
	} {
		u := against(t, HTTPConfig{}, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set(tt.header, tt.value)
			fmt.Fprint(w, "x")
		})
		_, err := u.Send(t.Context(), request(ping))
		if !errors.Is(err, tt.want) || strings.Contains(err.Error(), "s3cr3t") || !strings.Contains(err.Error(), "left out") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What goes out, what stays behind: in both directions.
func TestHTTPHeaders(t *testing.T) {
	got := make(chan *http.Request, 1)
	u := against(t, HTTPConfig{}, func(w http.ResponseWriter, r *http.Request) {
		got <- r.Clone(context.Background())
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Mcp-Session-Id", "s2")
		w.Header().Set("Set-Cookie", "a=hunter2")
		w.Header().Set("WWW-Authenticate", "Bearer hunter2")
		w.Header().Set("X-Debug", "hunter2")
		w.Header().Set("Retry-After", "3")
		fmt.Fprint(w, ` {"jsonrpc":"2.0", "id":1,"result":{"n":1.0}} `)
	})
	r := request(ping)
	r.Session, r.LastEventID = "s1", "e1"
	r.Header = http.Header{
		"Authorization": {"Bearer caller"}, "Cookie": {"c=1"}, "Host": {"x"}, "X-Forwarded-For": {"1.2.3.4"}, "Accept-Encoding": {"gzip"},
		"Mcp-Method": {"ping"}, "Mcp-Param-Region": {"eu"}, "mcp-protocol-version": {"2026-07-28"}, "Connection": {"Mcp-Method"},
	}
	r.Inject.Header = http.Header{"Authorization": {"Basic minted"}}
	reply, err := u.Send(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	out := <-got
	for name, want := range map[string]string{
		"Authorization": "Basic minted", "Cookie": "", "X-Forwarded-For": "", "Accept-Encoding": "identity", "Mcp-Method": "ping",
		"Mcp-Param-Region": "eu", "Mcp-Protocol-Version": "2026-07-28", "Mcp-Session-Id": "s1", "Last-Event-Id": "e1",
		"Content-Type": "application/json", "Accept": "application/json, text/event-stream", "Connection": "",
	} {
		if v := strings.Join(out.Header.Values(name), "|"); v != want {
			t.Errorf("%s goes out as %q, want %q", name, v, want)
		}
	}
	if reply.Session != "s2" || reply.Header.Get("Retry-After") != "3" || len(reply.Header) != 3 {
		t.Errorf("came back: %v", reply.Header)
	}
	e, err := reply.Next()
	if err != nil || string(e.Raw) != ` {"jsonrpc":"2.0", "id":1,"result":{"n":1.0}} ` || string(e.Data) != string(e.Raw) {
		t.Errorf("body %q, %v", e.Raw, err)
	}
	if _, err := reply.Next(); err != io.EOF {
		t.Errorf("after the body: %v", err)
	}
	if err := reply.Close(); err != nil {
		t.Error(err)
	}
}

func TestHTTPStatuses(t *testing.T) {
	for _, tt := range []struct {
		status  int
		kind    string
		body    string
		verb    string
		session string
		want    error
		events  int
	}{
		{http.StatusAccepted, "", "", http.MethodPost, "s", nil, 0},
		{http.StatusNoContent, "", "", http.MethodDelete, "s", nil, 0},
		{http.StatusMethodNotAllowed, "text/plain", "no", http.MethodGet, "s", nil, 0},
		{http.StatusNotFound, "text/plain", "no", http.MethodPost, "s", ErrSessionGone, 0},
		{http.StatusNotFound, "application/json", "{}", http.MethodPost, "s", ErrSessionGone, 0},
		{http.StatusNotFound, "application/json", "{}", http.MethodPost, "", nil, 1},
		{http.StatusBadRequest, "application/json", "{}", http.MethodPost, "", nil, 1},
		{http.StatusNotFound, "text/plain", "no", http.MethodPost, "", ErrNotMCP, 0},
		{http.StatusUnauthorized, "", "", http.MethodPost, "", ErrNotMCP, 0},
		{http.StatusInternalServerError, "text/event-stream", "data: x\n\n", http.MethodPost, "", ErrNotMCP, 0},
	} {
		u := against(t, HTTPConfig{}, func(w http.ResponseWriter, _ *http.Request) {
			if tt.kind != "" {
				w.Header().Set("Content-Type", tt.kind)
			}
			w.WriteHeader(tt.status)
			fmt.Fprint(w, tt.body)
		})
		r := request(ping)
		r.Verb, r.Session = tt.verb, tt.session
		reply, err := u.Send(t.Context(), r)
		if !errors.Is(err, tt.want) || errors.Is(err, ErrSessionEnd) {
			t.Errorf("%d %s: %v, want %v", tt.status, tt.kind, err, tt.want)
		}
		if reply == nil {
			continue
		}
		n := 0
		for ; err == nil; n++ {
			_, err = reply.Next()
		}
		if reply.Status != tt.status || n-1 != tt.events {
			t.Errorf("%d %s: status %d, %d events", tt.status, tt.kind, reply.Status, n-1)
		}
		if err := reply.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A stream comes through as it is, event by event.
func TestHTTPStream(t *testing.T) {
	step := make(chan struct{})
	ended := make(chan struct{})
	events := []string{"\xef\xbb\xbfid: 1\r\nretry: 50\r\ndata: \r\n\r\n", ": hello\n\n", "id: 2\ndata: {\ndata: }\n\n"}
	u := against(t, HTTPConfig{MaxMessage: 1000}, func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
		for _, e := range events {
			if _, err := io.WriteString(w, e); err != nil {
				return
			}
			if err := http.NewResponseController(w).Flush(); err != nil {
				return
			}
			<-step
		}
		<-r.Context().Done()
	})
	reply, err := u.Send(t.Context(), request(ping))
	if err != nil || !reply.Stream() {
		t.Fatal(err)
	}
	for _, want := range events {
		e, err := reply.Next()
		if err != nil || string(e.Raw) != want {
			t.Errorf("event %q, %v; want %q", e.Raw, err, want)
		}
		step <- struct{}{}
	}
	if err := reply.Close(); err != nil { // tells the server: its context ends
		t.Error(err)
	}
	<-ended
}

// A stream may outlast by far the bound on waiting for an answer, and a silent
// server may not: in the time of a bubble, over pipes.
func TestHTTPTimeIsBoundedOnlyUntilTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial := make(memoryListener, 1)
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				t.Error(err)
			}
			if r.Header.Get("Mcp-Method") == "silence" {
				<-r.Context().Done()
				return
			}
			w.Header().Set("Content-Type", "text/event-stream")
			for i := range 3 {
				if i > 0 {
					time.Sleep(time.Hour) // no time passes outside of the bubble
				}
				if _, err := io.WriteString(w, "data: x\n\n"); err != nil {
					t.Error(err)
				}
				if err := http.NewResponseController(w).Flush(); err != nil {
					t.Error(err)
				}
			}
		})}
		served := make(chan error, 1)
		go func() { served <- srv.Serve(dial) }()
		client := &http.Client{Transport: &http.Transport{DisableCompression: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
			here, there := net.Pipe()
			dial <- there
			return here, nil
		}}}
		u := HTTP(HTTPConfig{URL: "http://peer/mcp", Timeout: time.Minute, Client: client})
		reply, err := u.Send(t.Context(), request(ping))
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if _, err := reply.Next(); err != nil {
				t.Fatalf("the stream ended: %v", err)
			}
		}
		if err := reply.Close(); err != nil {
			t.Error(err)
		}
		silent := request(ping)
		silent.Header = http.Header{"Mcp-Method": {"silence"}}
		began := time.Now()
		if _, err := u.Send(t.Context(), silent); !errors.Is(err, ErrDead) || time.Since(began) != time.Minute {
			t.Errorf("silence ended after %s: %v", time.Since(began), err)
		}
		closeUpstream(t, u)
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
}

// memoryListener is a listener whose connections are pipes in memory.
type memoryListener chan net.Conn

func (p memoryListener) Accept() (net.Conn, error) {
	c, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (p memoryListener) Close() error { close(p); return nil }

func (p memoryListener) Addr() net.Addr { return &net.UnixAddr{Name: "memory"} }

func TestHTTPEndsCalls(t *testing.T) {
	for name, tt := range map[string]struct {
		end  func(u Upstream, cancel func())
		want error
	}{
		"caller":  {func(_ Upstream, cancel func()) { cancel() }, context.Canceled},
		"session": {func(u Upstream, _ func()) { u.EndSession("s1") }, ErrSessionEnd},
		"key":     {func(u Upstream, _ func()) { u.EndKey("k1") }, ErrDead},
	} {
		t.Run(name, func(t *testing.T) {
			asked := make(chan struct{}, 2)
			u := against(t, HTTPConfig{}, func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodGet {
					w.Header().Set("Content-Type", "text/event-stream")
					if err := http.NewResponseController(w).Flush(); err != nil {
						return
					}
				}
				asked <- struct{}{}
				if _, err := io.Copy(io.Discard, r.Body); err != nil {
					return
				}
				<-r.Context().Done()
			})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			r := request(ping)
			r.Session, r.Inject.Key = "s1", "k1"
			result := make(chan error, 2)
			go func() {
				_, err := u.Send(ctx, r)
				result <- err
			}()
			go func() {
				get := &Request{Verb: http.MethodGet, Session: "s1", Inject: Injection{Key: "k1"}}
				reply, err := u.Send(ctx, get)
				if err == nil {
					_, err = reply.Next()
					err = errors.Join(err, reply.Close())
				}
				result <- err
			}()
			<-asked
			<-asked
			tt.end(u, cancel)
			for range 2 {
				if err := <-result; !errors.Is(err, tt.want) {
					t.Errorf("a call ended with %v, want %v", err, tt.want)
				}
			}
		})
	}
	u := HTTP(HTTPConfig{URL: "http://127.0.0.1:1"})
	closeUpstream(t, u)
	if _, err := u.Send(t.Context(), request(ping)); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// Exchanges share a connection: JSON, streams read to their end, and 202s.
func TestHTTPReusesConnections(t *testing.T) {
	conns := make(chan net.Conn, 100)
	var n atomic.Int64
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		switch n.Add(1) % 3 {
		case 0:
			w.WriteHeader(http.StatusAccepted)
		case 1:
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, "{}")
		case 2:
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, "data: {}\n\n")
		}
	}))
	srv.Config.ConnState = func(c net.Conn, state http.ConnState) {
		if state == http.StateNew {
			conns <- c
		}
	}
	srv.Start()
	t.Cleanup(srv.Close)
	u := HTTP(HTTPConfig{URL: srv.URL})
	t.Cleanup(func() { closeUpstream(t, u) })
	for range 12 {
		if _, err := answer(t, u, request(ping)); err != nil {
			t.Fatal(err)
		}
	}
	if len(conns) != 1 {
		t.Errorf("%d connections for exchanges one after the other", len(conns))
	}
}
