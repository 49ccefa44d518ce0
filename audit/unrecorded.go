package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Unrecorded is the detail of a KindUnrecorded entry: how much was refused that
// has no entry of its own, since the journal had no room for any, or its disk
// failed. Nothing of it was sent on.
type Unrecorded struct {
	Run   string    `json:"run,omitempty"` // the earlier run that it is about, which died before it could tell; empty: this one
	Since time.Time `json:"since"`         // the first of them
	Until time.Time `json:"until"`         // and the last
	tally
	Why string `json:"why"`
	// Short: there may have been more. The run died, and what its last moments
	// counted may not have reached the disk.
	Short bool `json:"short,omitempty"`
}

// tally counts what was refused.
type tally struct {
	Refused    uint64 `json:"refused,omitempty"`     // requests
	Denied     uint64 `json:"denied,omitempty"`      // of them, by the policy
	AuthFailed uint64 `json:"auth_failed,omitempty"` // failed authentications
}

func (t tally) plus(o tally) tally {
	return tally{t.Refused + o.Refused, t.Denied + o.Denied, t.AuthFailed + o.AuthFailed}
}

func (t tally) minus(o tally) tally {
	less := func(a, b uint64) uint64 { return a - min(a, b) }
	return tally{less(t.Refused, o.Refused), less(t.Denied, o.Denied), less(t.AuthFailed, o.AuthFailed)}
}

// tallyOf is what an entry tells of that begins nothing: one, or as many more as it
// counts.
func tallyOf(e *Entry) (t tally) {
	n := uint64(1)
	var d struct{ More uint64 }
	if len(e.Detail) > 0 && json.Unmarshal(e.Detail, &d) == nil && d.More > 0 {
		n = d.More
	}
	switch e.Kind {
	case KindRefused:
		t.Refused = n
		if e.Effect == "deny" {
			t.Denied = n
		}
	case KindAuthFailed:
		t.AuthFailed = n
	}
	return t
}

const (
	// unrecordedFile has the counts while there are some, beside the journal's
	// files: a line of JSON, padded, written over in place at each refusal.
	unrecordedFile  = "unrecorded.json"
	unrecordedBytes = 1024
	tellEvery       = time.Minute // while there is no room
)

// counted is the content of unrecordedFile. What entries from From on tell is to
// be taken off: so nothing is counted twice, wherever a crash falls.
type counted struct {
	From   uint64    `json:"from"`
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until"`
	All    tally     `json:"all"`
	Why    string    `json:"why"`
	Closed bool      `json:"closed,omitempty"` // the run ended in order: it is exact
}

// unrecorded is what a journal counts. j.mu guards it.
type unrecorded struct {
	counted
	told   tally // of All, in entries that are durable or on their way
	toldAt time.Time
	toldIn uint64 // the number of the last entry that did
	file   *os.File
	failed bool // there is no file
	synced time.Time
	dirty  bool
}

// left is what no entry tells yet.
func (u *unrecorded) left() tally { return u.All.minus(u.told) }

// miss counts an entry that was refused. j.mu is held.
func (j *Journal) miss(e *Entry, why error) {
	t := tallyOf(e)
	if t == (tally{}) {
		return
	}
	u, now := &j.missed, j.cfg.Now().UTC()
	if u.All == (tally{}) {
		u.From = j.durable.entries
	}
	if u.left() == (tally{}) {
		u.Since = now
		u.toldAt = maxTime(u.toldAt, now.Add(-tellEvery+roomAgain)) // it may be over in a moment
	}
	u.All, u.Until = u.All.plus(t), now
	u.Why = clip(why.Error(), 300)
	j.count()
}

// count writes the counts over those in the file. Without a file they are in
// memory alone.
func (j *Journal) count() {
	u := &j.missed
	if u.failed {
		return
	}
	var err error
	if u.file == nil {
		u.file, err = os.OpenFile(filepath.Join(j.inc.dir, unrecordedFile), os.O_CREATE|os.O_RDWR, 0o600)
	}
	var b []byte
	if err == nil {
		b, err = json.Marshal(u.counted)
	}
	if err == nil {
		_, err = u.file.WriteAt(append(b, bytes.Repeat([]byte(" "), max(1, unrecordedBytes-len(b)))...), 0)
	}
	if err != nil {
		u.failed = true
		j.cfg.Log.Error("what is refused without an entry is counted in memory alone: a crash loses the count", "err", err)
	}
	u.dirty = true
}

// syncCounts makes them durable, once a second at most: a refusal waits for no
// disk. The writer alone calls it.
func (j *Journal) syncCounts(last bool) {
	j.mu.Lock()
	u := &j.missed
	f := u.file
	if f == nil || !u.dirty { // nearly always: not even the clock is asked
		j.mu.Unlock()
		return
	}
	now := j.cfg.Now()
	if !last && now.Sub(u.synced).Abs() < roomAgain {
		j.mu.Unlock()
		return
	}
	first := u.synced.IsZero()
	u.dirty, u.synced = false, now
	j.mu.Unlock()
	err := f.Sync()
	if err == nil && first {
		err = j.cfg.Disk.SyncDir(j.inc.dir)
	}
	if err != nil {
		j.cfg.Log.Warn("the count of what is refused without an entry is not durable", "err", err)
	}
}

// tell puts an entry into the pool that says what was refused, if anything was:
// when there is room again; and while there is none once a minute, out of what is
// kept for outcomes, half of which is for nothing else. j.mu is held.
func (j *Journal) tell(now bool) {
	u := &j.missed
	left := u.left()
	if left == (tally{}) || j.err != nil {
		return
	}
	at := j.cfg.Now().UTC()
	if !now && at.Sub(u.toldAt) < tellEvery && j.refusal(KindIntent, min(4096, j.cfg.MaxBytes/64), false) != nil {
		return
	}
	e, err := unrecordedEntry(Unrecorded{Since: u.Since, Until: u.Until, tally: left, Why: u.Why})
	if err == nil {
		var line []byte
		if line, err = e.appendBody(nil); err == nil {
			_, err = j.add(&e, draft{line: line})
		}
	}
	if err != nil {
		return // there will be room, or the next start tells
	}
	u.told, u.toldAt, u.toldIn = u.All, at, e.Seq
}

// untell takes back what an entry told that did not become durable. j.mu is
// held.
func (j *Journal) untell(e *Entry) {
	var d Unrecorded
	if json.Unmarshal(e.Detail, &d) != nil || d.Run != "" {
		return
	}
	u := &j.missed
	u.told = u.told.minus(d.tally)
	u.Since = d.Since
	j.count()
}

// settled begins the counts anew once entries tell all of them, durably. j.mu is
// held.
func (j *Journal) settled() {
	u := &j.missed
	if u.All != (tally{}) && u.left() == (tally{}) && u.toldIn < j.durable.entries {
		u.counted, u.told = counted{}, tally{}
		j.count()
	}
}

// closeCounts notes that the run ended in order, if anything is left to tell.
func (j *Journal) closeCounts() error {
	j.mu.Lock()
	u := &j.missed
	if u.file == nil {
		j.mu.Unlock()
		return nil
	}
	u.Closed = true
	j.count()
	f, none := u.file, u.All == (tally{})
	j.mu.Unlock()
	j.syncCounts(true)
	err := f.Close()
	if none {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return err
}

func unrecordedEntry(d Unrecorded) (Entry, error) {
	text := fmt.Sprintf("%d %s (%d denied by the policy) and %d failed %s between %s and %s have no entries of their own: %s",
		d.Refused, plural(int(d.Refused), "refused request", "refused requests"), d.Denied,
		d.AuthFailed, plural(int(d.AuthFailed), "authentication", "authentications"), d.Since.Format(time.RFC3339), d.Until.Format(time.RFC3339), d.Why)
	if d.Run != "" {
		text = "run " + d.Run + ": " + text
	}
	if d.Short {
		text += "; there may have been more, since the run died"
	}
	detail, err := Detail(d)
	return Entry{Kind: KindUnrecorded, Reason: text, Detail: detail}, err
}

// Recount tells what earlier runs refused and died before they could tell. The
// caller has closed the calls that they left open.
func (j *Journal) Recount(ctx context.Context, previous []*Past) error {
	for i, p := range previous {
		path := filepath.Join(p.inc.dir, unrecordedFile)
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("audit: %w", err)
		}
		d, err := leftOf(b, p, previous[i:])
		if err != nil {
			return err
		}
		if d.tally != (tally{}) || d.Why == countsUnread {
			e, err := unrecordedEntry(d)
			if err != nil {
				return err
			}
			if _, err := j.Append(ctx, e); err != nil {
				return err
			}
		}
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("audit: %w", err)
		}
		if err := j.cfg.Disk.SyncDir(p.inc.dir); err != nil {
			return fmt.Errorf("audit: %w", err)
		}
	}
	return nil
}

// countsUnread is why, where nobody knows how many they were.
const countsUnread = "the count did not outlast the run"

// leftOf is what the counts of a run have more than its entries tell, and those
// of the runs since that were about it.
func leftOf(file []byte, p *Past, since []*Past) (Unrecorded, error) {
	var c counted
	d := Unrecorded{Run: p.Incarnation, Since: p.Start, Until: p.last, Why: countsUnread, Short: true}
	reads := json.Unmarshal(bytes.TrimRight(file, " \x00"), &c) == nil
	if reads {
		d = Unrecorded{Run: p.Incarnation, Since: c.Since, Until: c.Until, tally: c.All, Why: c.Why, Short: !c.Closed}
	}
	for _, q := range since {
		for e, err := range q.Read() {
			if err != nil {
				return d, err
			}
			var told Unrecorded
			if e.Kind != KindUnrecorded || json.Unmarshal(e.Detail, &told) != nil {
				continue
			}
			switch {
			case q == p && told.Run == "" && e.Seq >= c.From:
				d.tally = d.tally.minus(told.tally)
			case q != p && told.Run == p.Incarnation:
				return Unrecorded{}, nil
			}
		}
	}
	return d, nil
}
