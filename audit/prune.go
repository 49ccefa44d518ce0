package audit

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"strings"
	"time"
)

// calls is what of a journal must stay on disk for the next start, which
// closes every call that has an intent and no outcome.
type calls struct {
	intents map[string]uint64 // number of the intent, by call
	closed  uint64            // number of the first entry that closes an earlier run's call
	closes  bool              // there is one
}

// note takes an entry in that goes to disk with the pool.
func (c *calls) note(e *Entry, p *pool) {
	switch e.Kind {
	case KindIntent:
		// "server:" marks what an upstream asked in the course of a call; it has
		// no outcome of its own.
		if _, ok := c.intents[e.Call]; !ok && e.Call != "" && !strings.HasPrefix(e.Method, "server:") {
			c.intents[e.Call] = e.Seq
		}
	case KindOutcome:
		p.ends = append(p.ends, e.Call)
	case KindRecovered:
		p.ends = append(p.ends, e.Call)
		if !c.closes {
			c.closed, c.closes = e.Seq, true
		}
	}
}

// forget takes back what was noted of the entries from n on.
func (c *calls) forget(n uint64) {
	maps.DeleteFunc(c.intents, func(_ string, seq uint64) bool { return seq >= n })
	if c.closed >= n {
		c.closed, c.closes = 0, false
	}
}

// OldestOpen gives the number of the oldest intent whose outcome is not durable
// yet; ok is false if there is none.
func (j *Journal) OldestOpen() (seq uint64, ok bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.open.oldest()
}

func (c *calls) oldest() (seq uint64, ok bool) {
	for _, n := range c.intents {
		if !ok || n < seq {
			seq, ok = n, true
		}
	}
	return seq, ok
}

// Prune deletes files of this journal, from the oldest on, whose entries are
// all published and older than before. Without it, they stay. It may be called
// at any time, by one goroutine.
//
// It keeps every file from the one on that holds an intent whose outcome is not
// durable. And while an earlier journal (of Config.Previous) is on this disk,
// it keeps what closed that one's calls, or the next start would close them
// again: call the function Prune first, with keep 0.
//
// The caller guarantees that no approval which may still be used, or has ended
// so lately that it is still shown, is older than before: approvals are
// restored from the journal.
func (j *Journal) Prune(before time.Time) error {
	earlier, err := j.earlier()
	if err != nil {
		return err
	}
	j.mu.Lock()
	limit := j.unpublished()
	if seq, ok := j.open.oldest(); ok {
		limit = min(limit, seq)
	}
	if j.open.closes && earlier {
		limit = min(limit, j.open.closed)
	}
	j.mu.Unlock()
	return j.inc.prune(limit, before)
}

// earlier tells whether a journal of an earlier run is still there.
func (j *Journal) earlier() (bool, error) {
	for _, p := range j.cfg.Previous {
		switch _, err := os.Stat(p.inc.dir); {
		case err == nil:
			return true, nil
		case !errors.Is(err, fs.ErrNotExist):
			return false, err
		}
	}
	return false, nil
}
