package audit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// DefaultGrace is how long entries may wait for their cosignatures: an enforcer
// pushes every window with whatever cosignatures it got within seconds, and
// asks again with what it pushes next.
const DefaultGrace = 15 * time.Minute

// quorum checks that every log is cosigned to its end, or was until a moment
// ago. A thief of the enforcer's keys can make commits that look right in every
// other way; what a quorum has cosigned he cannot make otherwise. So what comes
// after the last such checkpoint is his to write, and only as much of it is let
// pass as Grace says, by the clock of whoever verifies, not by dates in the
// record.
//
// The end of a log that has a successor is cosigned with it: the successor's
// first entry names the last checkpoint.
func (v *verification) quorum(ctx context.Context) error {
	q := v.cfg.Quorum
	if q == nil {
		return nil
	}
	ends := map[string]*cosignedEnd{}
	for _, l := range v.logs {
		if l.broken {
			continue // what does not hold, holds no cosignature either
		}
		end, err := v.cosignedEnd(ctx, l, q)
		if err != nil {
			return err
		}
		ends[l.origin()] = end
	}
	for again := true; again; {
		again = false
		for _, l := range v.logs {
			end := ends[l.origin()]
			if end == nil || end.size == 0 || l.start == nil || l.start.Previous == "" {
				continue
			}
			c, err := ReadCheckpoint(l.start.Previous)
			if before := ends[c.Origin]; err == nil && before != nil && c.Size > before.size && c.Size == before.entries {
				before.size, again = c.Size, true
			}
		}
	}
	for _, l := range v.logs {
		end := ends[l.origin()]
		if end == nil {
			continue
		}
		l.Cosigned, l.CosignedAt = end.size, end.at
		if end.size >= l.size {
			continue
		}
		last := "none ever met it"
		if !end.at.IsZero() {
			last = fmt.Sprintf("the last that did was of %d entries, at %s, by %s", end.size, clock(end.at), names(end.by))
		}
		if end.false != nil {
			last += "; " + end.false.Error()
		}
		text := fmt.Sprintf("entries from %d to %d lack the cosignatures of %s: %s", end.size, l.size-1, q.Needs(), last)
		if late := v.cfg.Now.Sub(end.since); late <= v.cfg.Grace && late > -v.cfg.Grace {
			v.rep.Notes = append(v.rep.Notes, fmt.Sprintf("%s: %s; they were committed at %s, within the grace of %s", l.origin(), text, clock(end.since), v.cfg.Grace))
			continue
		}
		v.problem(Problem{Class: ClassQuorum, Origin: l.origin(), Entry: int64(end.size), Text: text})
	}
	return nil
}

// cosignedEnd is where a log's cosigned part ends.
type cosignedEnd struct {
	entries uint64 // of the log
	size    uint64 // of its newest tree that meets the quorum
	at      time.Time
	by      []Cosignature
	since   time.Time // when the first checkpoint after it was committed
	false   error     // the newest cosignature by a witness's name that is none
}

// cosignedEnd walks back from the tips: one step, where all is well. Messages
// hold the same notes as the files, which is checked elsewhere.
func (v *verification) cosignedEnd(ctx context.Context, l *logState, q *Quorum) (*cosignedEnd, error) {
	end := &cosignedEnd{entries: l.size, since: l.First}
	for _, month := range slices.Backward(slices.Sorted(maps.Keys(l.tips))) {
		for hash := l.tips[month]; hash != ""; {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			c, err := v.repo.Commit(hash)
			if err != nil {
				v.problem(Problem{Class: ClassUnread, Origin: l.origin(), Commit: hash, Entry: -1, Text: fmt.Sprintf("the commit does not read: %v", err)})
				return end, nil
			}
			if note, ok := messageNote(c.Message); ok {
				by, err := q.Check(note)
				cp, cerr := ReadCheckpoint(note)
				if err == nil && cerr == nil && cp.Origin == l.origin() {
					end.size, end.by = cp.Size, by
					for _, b := range by {
						end.at = maxTime(end.at, b.Time)
					}
					return end, nil
				}
				var bad *falseCosignature
				if end.false == nil && errors.As(err, &bad) {
					end.false = err
				}
			}
			end.since = c.When
			if hash = ""; len(c.Parents) > 0 {
				hash = c.Parents[0]
			}
		}
	}
	return end, nil
}

func maxTime(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
