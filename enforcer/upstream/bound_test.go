package upstream

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// A server that never reads its input holds nobody for longer than the bound,
// though its grace lasts for ever: neither a request nor what gets no answer.
func TestStdioDeafServerIsBounded(t *testing.T) {
	big := strings.Repeat("x", 1<<20) // more than a pipe holds
	call := func(id int) *Request {
		return request(fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"x","params":{%s,"a":%q}}`, id, modernMeta, big))
	}
	note := func(int) *Request {
		return request(fmt.Sprintf(`{"jsonrpc":"2.0","method":"notifications/x","params":{%s,"a":%q}}`, modernMeta, big))
	}
	for name, next := range map[string]func(int) *Request{"request": call, "notification": note} {
		t.Run(name, func(t *testing.T) {
			u := spawns(t, "deaf", func(c *StdioConfig) { c.Grace, c.Timeout = time.Hour, time.Second }).(*stdio)
			if _, err := u.Send(t.Context(), call(1)); !errors.Is(err, ErrDead) || errors.Is(err, ErrNotSent) {
				t.Errorf("half of it may be in the pipe: %v", err)
			}
			u.mu.Lock()
			var first *process
			for p := range u.procs {
				first = p
			}
			u.mu.Unlock()
			if _, err := u.Send(t.Context(), next(2)); !errors.Is(err, ErrDead) || !errors.Is(err, ErrNotSent) || !strings.Contains(err.Error(), "in time") {
				t.Errorf("behind what is in the pipe: %v", err)
			}
			<-first.quit // of no more use
			u.mu.Lock()
			for p := range u.procs {
				defer p.kill(ErrClosed) // without its hour of grace
			}
			u.mu.Unlock()
			t.Cleanup(func() { closeUpstream(t, u) })
		})
	}
}
