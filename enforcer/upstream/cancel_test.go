package upstream

import (
	"context"
	"errors"
	"testing"
	"time"
)

// A server that honours a cancellation sends nothing more. A grace after it was
// told, the call is over: whoever still reads is told, the id is free, and
// nothing holds up a retirement.
func TestStdioCancelledCallsEnd(t *testing.T) {
	lines, due := make(chan string, 10), make(chan func(), 1)
	u := open(t, "hang", func(c *StdioConfig) { c.Stderr = func(l string) { lines <- l } })
	u.after = func(d time.Duration, f func()) {
		if d != cancelGrace {
			t.Errorf("the grace is %s", d)
		}
		due <- f
	}
	session := initialize(t, u, "")
	inFlight := func() (n int) {
		for p := range u.procs {
			n += len(p.calls)
		}
		return n
	}
	const call = `{"jsonrpc":"2.0","id":41,"method":"x"}`
	const cancel = `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":41}}`
	for _, left := range []bool{false, true} { // its caller waits, or has given it up, as a freeze does
		ctx, leave := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := u.Send(ctx, legacy(session, "", call))
			done <- err
		}()
		for got := ""; got != "called 41"; got = <-lines { // from here on it is the server's
		}
		if n := callsOf(u, inFlight); n != 1 {
			t.Errorf("%d calls in flight", n)
		}
		if left {
			leave()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("given up: %v", err)
			}
		}
		if _, err := answer(t, u, legacy(session, "", cancel)); err != nil {
			t.Fatal(err)
		}
		grace := <-due
		for got := ""; got != "cancelled 41"; got = <-lines {
		}
		if n := callsOf(u, inFlight); n != 1 {
			t.Errorf("%d calls within the grace", n)
		}
		grace()
		if !left {
			if err := <-done; !errors.Is(err, context.Canceled) || errors.Is(err, ErrNotSent) {
				t.Errorf("the call ended with %v", err)
			}
		}
		if n := callsOf(u, inFlight); n != 0 {
			t.Errorf("%d calls after the grace", n)
		}
		leave()
	}
	// One that was answered in time is not touched, nor the next with its id.
	next := make(chan error, 1)
	u.after = func(_ time.Duration, f func()) {
		f()
		u.mu.Lock()
		defer u.mu.Unlock()
		if inFlight() != 0 {
			t.Error("a timer of no call ended something")
		}
	}
	if _, err := answer(t, u, legacy(session, "", cancel)); err != nil {
		t.Fatal(err)
	}
	go func() {
		_, err := answer(t, u, legacy(session, "", `{"jsonrpc":"2.0","id":41,"method":"ping"}`))
		next <- err
	}()
	if err := <-next; err != nil {
		t.Errorf("the id is still taken: %v", err)
	}
}

func callsOf(u *stdio, count func() int) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return count()
}
