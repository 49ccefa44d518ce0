// Package quota counts calls, and tells when there have been enough.
//
// It promises:
//   - Within any 60 seconds, on any one day (UTC), and at any one moment no more
//     calls are counted under a key than its limit says: there is no edge at
//     which two allowances meet.
//   - A call is counted under all the quotas that it draws on, or under none.
//   - Its memory is bounded, and nobody's count is dropped or begins anew because
//     others come: at the bound newcomers share one count among them.
//   - Counts of a day survive a restart (Snapshot, Restore), as far as they were
//     saved.
//
// It is pure arithmetic: the time is passed in. A Table is one process's own;
// enforcers side by side each count what they see.
package quota

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"sync"
	"time"
)

// Limit is what a quota allows under each of its keys. 0 is no bound.
type Limit struct {
	Minute, Day, Concurrent int
}

// Key is who is counted, in 16 bytes, however long the names are.
type Key [16]byte

// KeyOf makes a key of names and values, in this order: the first 128 bits of
// the SHA-256 of each, led by its length in 8 bytes, big-endian. Nobody finds
// two lists with one key.
func KeyOf(parts ...string) (k Key) {
	var room [256]byte
	b := room[:0]
	for _, p := range parts {
		b = binary.BigEndian.AppendUint64(b, uint64(len(p)))
		b = append(b, p...)
	}
	sum := sha256.Sum256(b)
	copy(k[:], sum[:])
	return k
}

// shared is the key of all those for whom there was no room.
var shared Key

// Draw is one quota that a call draws on.
type Draw struct {
	Quota string // its id
	Key   Key
	Limit Limit
}

// Exhausted says which quota refuses a call, and when to try again.
type Exhausted struct {
	Quota  string
	Bound  string        // in words: "120 calls a minute"
	After  time.Duration // until then it is of no use; at least a second, in whole seconds
	Shared bool          // counted together with others, for want of room
	Lost   bool          // the day's counts were lost, and count as used up
}

func (e *Exhausted) Error() string {
	s := fmt.Sprintf("quota %s is exhausted: %s", e.Quota, e.Bound)
	if e.Shared {
		s += ", shared by all newcomers, since so many others are counted already"
	}
	if e.Lost {
		s += "; today's counts were lost, so nothing is left of it until midnight UTC"
	}
	return s + fmt.Sprintf(". Try again in %d s", int(e.After/time.Second))
}

// A minute is counted in slots of five seconds. A slot counts until all of it
// lies a minute back, so a place comes free up to five seconds late, never
// early.
const (
	slot  = 5 * time.Second
	slots = int64(time.Minute/slot) + 1
)

// maxKeys is how many keys a quota tracks. A count is about 100 bytes.
const maxKeys = 10_000

// count is what is known of one key.
type count struct {
	recent [slots]int32 // calls by slot, a ring
	last   int64        // the newest slot in it
	day    int64        // the day that today counts, in days since 1970
	today  int
	open   int // calls under way
}

// Table holds the counts of all quotas. It is safe for concurrent use.
type Table struct {
	mu    sync.Mutex
	epoch time.Time // slots are numbered from here: by the monotonic clock, if times have it
	m     map[string]map[Key]*count
	sweep map[string]time.Time // when a full quota was last looked through for idle keys
	lost  int64                // the day whose counts are lost
	dirty bool                 // a day's count has changed since the last Snapshot
}

// New makes an empty Table.
func New(now time.Time) *Table {
	return &Table{epoch: now, m: map[string]map[Key]*count{}, sweep: map[string]time.Time{}, lost: -1}
}

// Enter lets a call in that draws on all these quotas: each has a place left,
// and a count of the minute and the day. It holds the places until leave is
// called, once. With counted the call is counted, too; without, it will be by
// Count when it goes ahead. The first that is exhausted, in the order of draws,
// refuses, and then nothing has changed.
func (t *Table) Enter(now time.Time, draws []Draw, counted bool) (leave func(), refused *Exhausted) {
	if len(draws) == 0 {
		return func() {}, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var room [8]*count
	counts, refused := t.look(now, draws, room[:0], true)
	if refused != nil {
		return nil, refused
	}
	held := make([]*count, len(counts))
	for i, c := range counts {
		c.open++
		held[i] = c
		if counted {
			t.add(now, c, draws[i].Limit)
		}
	}
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		for _, c := range held {
			c.open--
		}
	}, nil
}

// Count counts a call that has its places already.
func (t *Table) Count(now time.Time, draws []Draw) *Exhausted {
	if len(draws) == 0 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var room [8]*count
	counts, refused := t.look(now, draws, room[:0], false)
	for i, c := range counts {
		t.add(now, c, draws[i].Limit)
	}
	return refused
}

// look finds the counts of the draws, none if one of them is exhausted.
func (t *Table) look(now time.Time, draws []Draw, counts []*count, places bool) ([]*count, *Exhausted) {
	for i := range draws {
		d := &draws[i]
		c, together := t.find(now, d)
		if e := t.exhausted(now, c, d, places); e != nil {
			e.Shared = together
			return nil, e
		}
		counts = append(counts, c)
	}
	return counts, nil
}

// find returns the count of a key, brought up to now.
func (t *Table) find(now time.Time, d *Draw) (c *count, together bool) {
	keys := t.m[d.Quota]
	if keys == nil {
		keys = map[Key]*count{}
		t.m[d.Quota] = keys
	}
	c = keys[d.Key]
	if c == nil && len(keys) >= maxKeys && !t.evict(now, d.Quota) {
		together = true
		if c = keys[shared]; c == nil {
			c = t.fresh(now)
			keys[shared] = c
		}
	}
	if c == nil {
		c = t.fresh(now)
		keys[d.Key] = c
	}
	t.advance(now, c)
	return c, together
}

func (t *Table) fresh(now time.Time) *count {
	return &count{last: t.slot(now), day: day(now)}
}

// evict drops the keys of a quota whose counts say nothing any more, and tells
// whether there is room. It looks once in a slot: within one, hardly any become
// idle, and a flood must not have it look for every call.
func (t *Table) evict(now time.Time, quota string) bool {
	if since := now.Sub(t.sweep[quota]); since >= 0 && since < slot {
		return false
	}
	t.sweep[quota] = now
	keys := t.m[quota]
	for k, c := range keys {
		t.advance(now, c)
		if c.open == 0 && c.today == 0 && c.minute() == 0 {
			delete(keys, k)
		}
	}
	return len(keys) < maxKeys
}

func (t *Table) slot(now time.Time) int64 { return int64(now.Sub(t.epoch) / slot) }

// day numbers the days of UTC.
func day(now time.Time) int64 {
	s := now.Unix()
	if s < 0 {
		return -1
	}
	return s / 86_400
}

// advance forgets what has become too old. A clock that was set back by less
// than a day starts no new one.
func (t *Table) advance(now time.Time, c *count) {
	if s := t.slot(now); s-c.last >= slots {
		c.recent, c.last = [slots]int32{}, s
	} else {
		for c.last < s {
			c.last++
			c.recent[c.last%slots] = 0
		}
	}
	if d := day(now); d != c.day && d != c.day-1 {
		c.day, c.today = d, 0
	}
}

func (c *count) minute() (n int) {
	for _, k := range c.recent {
		n += int(k)
	}
	return n
}

func (t *Table) add(now time.Time, c *count, l Limit) {
	if l.Minute > 0 {
		c.recent[c.last%slots]++
	}
	if l.Day > 0 { // no more than is bounded has to be remembered for so long
		c.today++
		t.dirty = true
	}
}

func (t *Table) exhausted(now time.Time, c *count, d *Draw, places bool) *Exhausted {
	l := d.Limit
	switch {
	case l.Day > 0 && (c.today >= l.Day || t.lost == day(now)):
		midnight := time.Duration(86_400-now.Unix()%86_400) * time.Second
		return &Exhausted{Quota: d.Quota, Bound: calls(l.Day) + " a day (UTC)", After: midnight, Lost: c.today < l.Day}
	case l.Minute > 0 && c.minute() >= l.Minute:
		return &Exhausted{Quota: d.Quota, Bound: calls(l.Minute) + " a minute", After: t.free(now, c, l.Minute)}
	case places && l.Concurrent > 0 && c.open >= l.Concurrent:
		return &Exhausted{Quota: d.Quota, Bound: calls(l.Concurrent) + " at one time", After: time.Second}
	}
	return nil
}

func calls(n int) string {
	if n == 1 {
		return "1 call"
	}
	return fmt.Sprintf("%d calls", n)
}

// free is how long it takes until one more call fits a minute.
func (t *Table) free(now time.Time, c *count, bound int) time.Duration {
	n := c.minute()
	for s := c.last - slots + 1; s <= c.last; s++ {
		if n -= int(c.recent[(s%slots+slots)%slots]); n < bound {
			at := t.epoch.Add(time.Duration(s+slots) * slot) // when it is too old
			return max(time.Second, (at.Sub(now) + time.Second - 1).Truncate(time.Second))
		}
	}
	return time.Minute
}

// Keep forgets the counts of quotas that are not among these: a policy that is
// about to be in force. The others stay as they are.
func (t *Table) Keep(ids []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	stays := map[string]bool{}
	for _, id := range ids {
		stays[id] = true
	}
	for id := range t.m {
		if !stays[id] {
			delete(t.m, id)
			delete(t.sweep, id)
			t.dirty = true
		}
	}
}

// Lost tells whether the counts of the day of now are lost.
func (t *Table) Lost(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.lost == day(now)
}

// Lose has all quotas of a day count as used up today: nobody knows how much
// was.
func (t *Table) Lose(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lost = day(now)
}
