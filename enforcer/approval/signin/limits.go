package signin

import (
	"net/netip"
	"sync"
	"time"
)

// Limits bounds how often each of many may do something: burst times at once,
// and then once in a while. It is safe for concurrent use.
type Limits struct {
	burst float64
	every time.Duration

	mu   sync.Mutex
	left map[string]allowance
}

// allowance is how often one still may, as of then.
type allowance struct {
	n  float64
	at time.Time
}

// maxLimited is how many are told apart; beyond that, all further ones share.
const maxLimited = 10_000

// NewLimits lets each do it burst times, and one more time every so often.
func NewLimits(burst int, every time.Duration) *Limits {
	return &Limits{burst: float64(burst), every: every, left: map[string]allowance{}}
}

// Allow tells whether they may now, and counts it.
func (l *Limits) Allow(who string, now time.Time) bool {
	if ip, err := netip.ParseAddr(who); err == nil && ip.Is6() && !ip.Is4In6() {
		who = netip.PrefixFrom(ip.WithZone(""), 64).Masked().String() // one host has as many addresses as it likes
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	a, known := l.left[who]
	if !known && len(l.left) >= maxLimited {
		for k, old := range l.left { // whoever has all of theirs again need not be kept
			if now.Sub(old.at) >= time.Duration(l.burst)*l.every {
				delete(l.left, k)
			}
		}
		if len(l.left) >= maxLimited {
			who = ""
			a, known = l.left[who]
		}
	}
	if !known {
		a = allowance{l.burst, now}
	}
	a.n = min(l.burst, a.n+float64(now.Sub(a.at))/float64(l.every))
	a.at = now
	ok := a.n >= 1
	if ok {
		a.n--
	}
	l.left[who] = a
	return ok
}
