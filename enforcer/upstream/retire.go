package upstream

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// calm is for how long nothing must have run before a retired upstream is
// closed. Who loaded the old policy just before another came into force is
// still on the way here. Whoever takes longer gets an ErrNotSent.
const calm = 2 * time.Second

// traffic is what retirement has to know. Its owner's mutex guards it.
type traffic struct {
	calm    time.Duration
	begun   uint64
	running int // exchanges that hold up the retirement
	closed  bool
}

// enter lets an exchange in, and returns how it leaves.
func (t *traffic) enter(mu *sync.Mutex, r *Request) (leave func(), err error) {
	if t.closed {
		return nil, unsent{ErrClosed}
	}
	// EndKey needs the lock, too: it comes after this, and finds the exchange, or
	// the lease has ended.
	if r.Live != nil && !r.Live() {
		return nil, unsent{fmt.Errorf("%w: %w", ErrDead, errKeyEnded)}
	}
	// Streams that only listen may last for days, and their clients open them
	// again: they hold up nothing.
	if listens(r) {
		return func() {}, nil
	}
	t.begun++
	t.running++
	return func() {
		mu.Lock()
		defer mu.Unlock()
		t.running--
	}, nil
}

func listens(r *Request) bool {
	return r.Verb == http.MethodGet || r.Message != nil && r.Message.Method == "subscriptions/listen"
}

// settle returns when nothing has run for a while, when ctx has ended, or when
// the upstream was closed meanwhile. In the first case no exchange gets in any
// more, so that none is cut off by the Close that follows.
func (t *traffic) settle(ctx context.Context, mu *sync.Mutex, busy func() bool) {
	look := time.NewTicker(t.calm / 8)
	defer look.Stop()
	since, seen := time.Now(), uint64(0)
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-look.C:
			mu.Lock()
			if t.running > 0 || t.begun != seen || busy() {
				since, seen = now, t.begun
			}
			t.closed = t.closed || now.Sub(since) >= t.calm
			closed := t.closed
			mu.Unlock()
			if closed {
				return
			}
		}
	}
}
