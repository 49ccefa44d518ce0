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

// restarts keeps a server that ends at once from being started in a loop: for
// each slot, how often it came to nothing in a row. A start came to nothing if
// there was no process, or one that ended by itself before it had answered
// anything. Its owner's mutex guards it.
type restarts map[slot]*pause

type pause struct {
	failed int
	until  time.Time
	why    string
}

// allow returns an error as long as a slot has to wait.
func (r restarts) allow(at slot, now time.Time) error {
	p := r[at]
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

// failed notes a start that came to nothing.
func (r restarts) failed(at slot, now time.Time, why string) {
	for other, p := range r { // who has not come back for as long again
		if now.Sub(p.until) > maxPause {
			delete(r, other)
		}
	}
	p := r[at]
	if p == nil {
		p = &pause{}
		r[at] = p
	}
	wait := maxPause
	if p.failed < 6 {
		wait = min(maxPause, firstPause<<p.failed)
	}
	p.failed++
	p.until, p.why = now.Add(wait), why
}

// worked notes that a process answered.
func (r restarts) worked(at slot) { delete(r, at) }
