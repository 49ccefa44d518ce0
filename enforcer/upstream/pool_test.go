package upstream

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
)

// Several servers share one bound. Who needs a place gets that of the process
// that was idle for longest, whichever server it is of; none that works.
func TestStdioPool(t *testing.T) {
	pool := NewPool(3)
	pooled := func(c *StdioConfig) { c.Pool = pool }
	a, b := open(t, "mirror", pooled), open(t, "hang", pooled)
	pid := func(holder string) int {
		r := modern(1, "x")
		r.Holder = holder
		return mirror(t, a, r).Result.PID
	}
	alice, bob := pid("alice"), pid("bob")
	if pid("alice") != alice { // bob's is idle for longer now
		t.Error("alice's process was not kept")
	}
	ctx, cancel := context.WithCancel(t.Context())
	var calls sync.WaitGroup
	busy := func(holder string) {
		calls.Go(func() {
			r := modern(1, "x")
			r.Holder = holder
			if _, err := b.Send(ctx, r); !errors.Is(err, context.Canceled) {
				t.Errorf("%s's call ended with %v", holder, err)
			}
		})
		waitFor(t, b, func() bool {
			for p := range b.procs {
				if p.slot.holder == holder && len(p.calls) == 1 {
					return true
				}
			}
			return false
		})
	}
	busy("carol")
	busy("dave") // takes bob's place
	if pid("alice") != alice {
		t.Error("the process that was used last made room")
	}
	busy("erin") // takes alice's
	r := modern(1, "x")
	if _, err := a.Send(t.Context(), r); !errors.Is(err, ErrBusy) || !errors.Is(err, ErrNotSent) || !strings.Contains(err.Error(), "3 of all MCP servers together") {
		t.Errorf("with all at work: %v", err)
	}
	pool.SetMax(4)
	if pid("bob") == bob {
		t.Error("bob's process made no room")
	}
	cancel()
	calls.Wait()
	closeUpstream(t, a)
	closeUpstream(t, b)
	if pool.running != 0 || len(pool.members) != 0 {
		t.Errorf("after the end: %d processes, %d members", pool.running, len(pool.members))
	}
}
