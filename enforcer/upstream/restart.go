package upstream

import (
	"fmt"
	"strings"
	"time"
)

// After a start that came to nothing the next one waits: for this long at
// first, twice as long each time, at most for that long.
const (
	firstPause = 500 * time.Millisecond
	maxPause   = 30 * time.Second
)

// restarts keeps a server that ends at once, or at every call, from being
// started in a loop: for each holder, how often it came to nothing in a row. A
// start came to nothing if there was no process, or one that ended by itself
// before it had answered a caller, or with calls in flight. Which lease it had
// does not count: with a credential of each call's own no two are alike. The
// owner's mutex guards it.
type restarts map[string]*pause

type pause struct {
	failed int
	until  time.Time
	why    string
}

// allow returns an error as long as a holder has to wait.
func (r restarts) allow(holder string, now time.Time) error {
	p := r[holder]
	if p == nil || !now.Before(p.until) {
		return nil
	}
	times := "its last start"
	if p.failed > 1 {
		times = fmt.Sprintf("its last %d starts", p.failed)
	}
	return fmt.Errorf("%w: %s came to nothing (%s); it is not started again within the next %s",
		ErrDead, times, p.why, max(p.until.Sub(now).Round(100*time.Millisecond), 100*time.Millisecond))
}

// reason is an error without what would be said twice.
func reason(err error) string { return strings.TrimPrefix(err.Error(), ErrDead.Error()+": ") }

// failed notes a start that came to nothing. Where the process had worked, the
// first in a row costs no pause: servers crash, and mostly once.
func (r restarts) failed(holder string, now time.Time, why string, worked bool) {
	for other, p := range r { // who has not come back for as long again
		if now.Sub(p.until) > maxPause {
			delete(r, other)
		}
	}
	p := r[holder]
	if p == nil {
		p = &pause{}
		r[holder] = p
	}
	wait := maxPause
	switch {
	case worked && p.failed == 0:
		wait = 0
	case p.failed < 6:
		wait = min(maxPause, firstPause<<p.failed)
	}
	p.failed++
	p.until, p.why = now.Add(wait), why
}

// worked notes that a process answered a caller.
func (r restarts) worked(holder string) { delete(r, holder) }
