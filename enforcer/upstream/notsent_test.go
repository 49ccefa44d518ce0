package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"countersign/enforcer/wire"
)

// What is certain not to have gone out, and what is not: a server that runs a
// call and then fails, however it does, must not look as if it had not run it.
func TestStdioNotSent(t *testing.T) {
	small := func(c *StdioConfig) { c.MaxMessage = 10_000 }
	for _, kind := range []string{"html", "banner", "duplicate", "huge", "die", "half"} {
		_, err := answer(t, open(t, kind, small), modern(1, "x"))
		var ours *wire.Error
		if err == nil || errors.Is(err, ErrNotSent) || errors.As(err, &ours) {
			t.Errorf("%s: the server saw the call, but the error is %#v: %v", kind, err, err)
		}
	}

	// A process that ended by its output is also why a later call finds none:
	// that call went nowhere.
	u := open(t, "html")
	session := initialize(t, u, "")
	call := legacy(session, "", `{"jsonrpc":"2.0","id":5,"method":"x"}`)
	if _, err := answer(t, u, call); !errors.Is(err, ErrNotMCP) || errors.Is(err, ErrNotSent) {
		t.Errorf("in flight: %v", err)
	}

	for name, do := range map[string]func() error{
		"no command": func() error { _, err := Stdio(StdioConfig{}).Send(t.Context(), modern(1, "x")); return err },
		"no program": func() error {
			_, err := Stdio(StdioConfig{Command: []string{"/no/such/program"}}).Send(t.Context(), modern(1, "x"))
			return err
		},
		"another verb": func() error { _, err := u.Send(t.Context(), &Request{Verb: "PUT"}); return err },
		"no session": func() error {
			_, err := u.Send(t.Context(), request(`{"jsonrpc":"2.0","id":1,"method":"x"}`))
			return err
		},
		"unknown session": func() error {
			_, err := u.Send(t.Context(), legacy("?", "", `{"jsonrpc":"2.0","id":1,"method":"x"}`))
			return err
		},
		"unknown stream": func() error { _, err := u.Send(t.Context(), &Request{Verb: http.MethodGet, Session: "?"}); return err },
		"unknown to end": func() error {
			_, err := u.Send(t.Context(), &Request{Verb: http.MethodDelete, Session: "?"})
			return err
		},
		"refused initialize": func() error {
			r := open(t, "refuses k2")
			session := initialize(t, r, "")
			_, err := r.Send(t.Context(), legacy(session, "k2", `{"jsonrpc":"2.0","id":1,"method":"x"}`))
			return err
		},
		"cancelled before": func() error {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_, err := open(t, "hang").Send(ctx, modern(1, "x"))
			return err
		},
	} {
		if err := do(); !errors.Is(err, ErrNotSent) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// In flight, at the bound, closed.
func TestStdioNotSentWhileBusy(t *testing.T) {
	u := spawns(t, "hang", func(c *StdioConfig) { c.MaxProcesses = 1 }).(*stdio)
	session := initialize(t, u, "")
	running := make(chan error, 1)
	go func() {
		_, err := u.Send(t.Context(), legacy(session, "", `{"jsonrpc":"2.0","id":7,"method":"x"}`))
		running <- err
	}()
	waitFor(t, u, func() bool {
		for p := range u.procs {
			return len(p.calls) == 1
		}
		return false
	})
	_, err := u.Send(t.Context(), legacy(session, "", `{"jsonrpc":"2.0","id":7,"method":"x"}`))
	var clash *wire.Error
	if !errors.Is(err, ErrNotSent) || !errors.As(err, &clash) || string(clash.ID) != "7" {
		t.Errorf("the same id: %v", err)
	}
	if _, err := u.Send(t.Context(), modern(8, "x")); !errors.Is(err, ErrNotSent) || !errors.Is(err, ErrBusy) {
		t.Errorf("beyond the bound: %v", err)
	}
	closeUpstream(t, u)
	if err := <-running; !errors.Is(err, ErrClosed) || errors.Is(err, ErrNotSent) {
		t.Errorf("cut off by Close: %v", err)
	}
	if _, err := u.Send(t.Context(), modern(9, "x")); !errors.Is(err, ErrNotSent) || !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestHTTPNotSent(t *testing.T) {
	const url = "http://127.0.0.1:1"        // where nobody ever listens
	tls := httptest.NewUnstartedServer(nil) // its certificate is nobody's
	tls.Config.ErrorLog = log.New(io.Discard, "", 0)
	tls.StartTLS()
	t.Cleanup(tls.Close)
	for name, cfg := range map[string]HTTPConfig{
		"refused":     {URL: url},
		"no such URL": {URL: "http://%zz"},
		"untrusted":   {URL: tls.URL},
	} {
		u := HTTP(cfg)
		if _, err := u.Send(t.Context(), request(ping)); !errors.Is(err, ErrNotSent) {
			t.Errorf("%s: %v", name, err)
		}
		closeUpstream(t, u)
		if _, err := u.Send(t.Context(), request(ping)); !errors.Is(err, ErrNotSent) || !errors.Is(err, ErrClosed) {
			t.Errorf("%s, closed: %v", name, err)
		}
	}
	for name, do := range map[string]http.HandlerFunc{
		"cut off": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"HTML":    func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") },
		"not found": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusNotFound)
		},
	} {
		u := against(t, HTTPConfig{}, do)
		r := request(ping)
		r.Session = "s"
		if _, err := u.Send(t.Context(), r); err == nil || errors.Is(err, ErrNotSent) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A transport that tells nothing proves nothing: this one ran the call.
	silent := HTTP(HTTPConfig{URL: url, Client: &http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) {
		return nil, &net.OpError{Op: "dial", Err: io.ErrUnexpectedEOF}
	})}})
	if _, err := silent.Send(t.Context(), request(ping)); err == nil || errors.Is(err, ErrNotSent) {
		t.Errorf("a foreign transport: %v", err)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
