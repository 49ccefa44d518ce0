package enforcer

import (
	"sync/atomic"
	"testing"
	"time"
)

func TestNoVoteCountsUnderAPolicyThatIsTooOld(t *testing.T) {
	var ahead atomic.Int64
	g := newGate(t, nil, nil, func(c *Config) {
		c.PolicyMaxAge = time.Hour
		c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	if p := g.VotesUnder(); p == nil || p != g.Policy() {
		t.Errorf("votes count under %p; in force is %p", p, g.Policy())
	}
	ahead.Store(int64(2 * time.Hour))
	if p := g.VotesUnder(); p != nil {
		t.Errorf("votes count under %s, which nobody has confirmed for two hours", p.Commit())
	}
}
