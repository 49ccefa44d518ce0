package upstream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// A server that ends at once is started again only after a pause, which
// doubles; calls meanwhile are refused at once, and say when. An answer ends
// the series; another holder has one of its own.
func TestStdioRestarts(t *testing.T) {
	clock := newClock()
	u := open(t, "die", func(c *StdioConfig) { c.Now = clock.now })
	call := func(holder string) error {
		r := modern(1, "x")
		r.Holder = holder
		_, err := answer(t, u, r)
		return err
	}
	started := func(err error) bool { return errors.Is(err, ErrDead) && !errors.Is(err, ErrNotSent) }
	for i, pause := range []time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, maxPause, maxPause} {
		if err := call("alice"); !started(err) {
			t.Fatalf("start %d: %v", i+1, err)
		}
		clock.advance(pause - time.Millisecond)
		err := call("alice")
		if !errors.Is(err, ErrDead) || !errors.Is(err, ErrNotSent) || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "within the next 100ms") {
			t.Errorf("just before the end of pause %d: %v", i+1, err)
		}
		if i > 0 && !strings.Contains(err.Error(), fmt.Sprintf("its last %d starts", i+1)) {
			t.Errorf("pause %d: %v", i+1, err)
		}
		clock.advance(time.Millisecond)
	}
	if err := call("bob"); !started(err) {
		t.Errorf("another holder: %v", err)
	}
	if len(u.restarts) != 2 {
		t.Errorf("%d series", len(u.restarts))
	}
	// Who stays away for long is forgotten, once somebody else fails.
	clock.advance(3 * maxPause)
	if err := call("carol"); !started(err) || len(u.restarts) != 1 {
		t.Errorf("%v, %d series", err, len(u.restarts))
	}
}

// What is no failed start: a process that answered, and one that we ended.
func TestStdioRestartsAtOnce(t *testing.T) {
	clock := newClock()
	frozen := func(c *StdioConfig) { c.Now = clock.now }
	last := open(t, "last words", frozen)
	for id := range 3 {
		if _, err := answer(t, last, modern(id, "x")); err != nil {
			t.Errorf("after an answer: %v", err)
		}
		waitFor(t, last, func() bool { return len(last.procs) == 0 })
	}
	// A process whose lease has ended did nothing wrong.
	u := open(t, "hang", frozen)
	for id := range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			r := modern(id, "x")
			r.Inject = injected("k1")
			_, err := u.Send(ctx, r)
			ended <- err
		}()
		waitFor(t, u, func() bool {
			for p := range u.procs {
				if !p.leaving && len(p.calls) == 1 {
					return true
				}
			}
			return false
		})
		u.EndKey("k1")
		cancel() // it may be in the next process already, if the first had not taken it
		if err := <-ended; !errors.Is(err, errKeyEnded) && !errors.Is(err, context.Canceled) {
			t.Errorf("the call ended with %v", err)
		}
		u.EndKey("k1")
		waitFor(t, u, func() bool { return len(u.procs) == 0 })
		if len(u.restarts) != 0 {
			t.Errorf("it counts as a failed start: %+v", u.restarts)
		}
	}
	missing := Stdio(StdioConfig{Command: []string{"/no/such/program"}, Now: clock.now})
	t.Cleanup(func() { closeUpstream(t, missing) })
	for _, says := range []string{"cannot start it", "its last start came to nothing (cannot start it: no such file or directory)"} {
		if _, err := answer(t, missing, modern(1, "x")); !errors.Is(err, ErrNotSent) || !strings.Contains(err.Error(), says) {
			t.Errorf("it says: %v", err)
		}
	}
}

// A process that dies with a call in flight is started again at once, the first
// time; one that goes on like that has to wait, whether or not it answers the
// initialize that it is shown, and with whatever lease.
func TestStdioSessionRestarts(t *testing.T) {
	for name, key := range map[string]func(i int) string{
		"no lease":             func(int) string { return "" },
		"a lease of each call": func(i int) string { return fmt.Sprint("k", i) },
	} {
		t.Run(name, func(t *testing.T) {
			clock := newClock()
			u := open(t, "dies at x", func(c *StdioConfig) { c.Now = clock.now })
			session := initialize(t, u, "")
			n := 0
			ask := func(method string) error {
				n++
				_, err := answer(t, u, legacy(session, key(n), fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":%q}`, n, method)))
				return err
			}
			dies := func(when string) {
				t.Helper()
				if err := ask("x"); !errors.Is(err, ErrDead) || errors.Is(err, ErrNotSent) || !strings.Contains(err.Error(), "exit status 3") {
					t.Errorf("%s: %v", when, err)
				}
			}
			waits := func(when string) {
				t.Helper()
				if err := ask("x"); !errors.Is(err, ErrNotSent) || !strings.Contains(err.Error(), "it is not started again within the next") {
					t.Errorf("%s: %v", when, err)
				}
			}
			if key(1) == "" {
				dies("the client's own process") // which has answered its initialize
			} else {
				dies("the first of a lease")
				clock.advance(firstPause)
			}
			dies("at once, or after the pause")
			for pause := 2 * firstPause; pause <= 8*firstPause; pause *= 2 {
				waits("within the pause")
				clock.advance(pause - time.Millisecond)
				waits("just before its end")
				clock.advance(time.Millisecond)
				dies("after it")
			}
			clock.advance(16 * firstPause)
			if err := ask("y"); err != nil { // an answer ends the series
				t.Fatal(err)
			}
			if len(u.restarts) != 0 {
				t.Errorf("%d series after an answer", len(u.restarts))
			}
			dies("after an answer")
		})
	}
}
