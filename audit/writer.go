package audit

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

const (
	keepRoom    = 1 << 20 // room that a file has ahead at least, before anything begins
	outcomeRoom = 8 << 10 // and for each call under way

	roomAgain  = time.Second            // between two tries to get room
	mendAgain  = 100 * time.Millisecond // between the first two tries to begin a new file; doubled each time
	mendSeldom = 30 * time.Second       // but no more than this

	spareBytes = 1 << 20 // of a pool's buffer that is used again
)

// writer is what the goroutine that writes has for itself.
type writer struct {
	file  File    // nil: given up, or closed
	seg   segment // the last file that counts
	good  int64   // bytes of it that do
	after string  // what its head says
	at    int64
	next  int64   // bytes at which the next file is begun
	tried segment // the last name that was tried …
	any   bool    // … if any was

	again <-chan time.Time // when to try again what did not work
	wait  time.Duration    // before the next but one try to mend
}

// write is the only writer: it swaps the pool, writes and syncs it, and
// releases all who wait for it. While it syncs, the next pool fills.
func (j *Journal) write() {
	defer close(j.stopped)
	var spare []byte // of the pool before: nobody reads it any more
	for {
		due := false
		select {
		case <-j.wake:
		case <-j.w.again:
			j.w.again, due = nil, true
		}
		if due && j.w.file == nil {
			j.mend()
		} else if due {
			if _, err := j.makeRoom(0); err != nil {
				j.giveUp(nil, err) //nolint:errcheck // it is told to whoever comes
			}
		}
		p, first, closed := j.take(&spare)
		if p.n > 0 {
			p.err = j.flush(p, first)
			if spare = p.buf; cap(spare) > spareBytes {
				spare = nil
			}
			p.buf = nil
			close(p.done)
			// Those just released often come back at once; let them join the
			// next group, or two half groups take turns, a sync each.
			runtime.Gosched()
		}
		j.syncCounts(false)
		if closed {
			return
		}
	}
}

// take swaps the pool. What is owed goes first.
func (j *Journal) take(spare *[]byte) (p *pool, first uint64, closed bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.pay()
	j.tell(j.closed)
	p = j.pool
	j.pool, *spare = newPool(*spare), nil
	j.writing = p.size()
	return p, j.head.entries - p.n, j.closed
}

// flush makes a pool durable. After an error the file is never trusted again:
// the kernel may have dropped the pages and report success the next time.
func (j *Journal) flush(p *pool, first uint64) error {
	w := &j.w
	if w.good >= w.next {
		if undone, err := j.begin(first); undone {
			w.next = w.good + keepRoom // this one goes on
		} else if err != nil {
			return j.giveUp(p, err)
		}
	}
	lines := p.buf[headRoom:]
	head := group{first: first, entries: p.n, bytes: int64(len(lines)), sum: crc32.Checksum(lines, castagnoli)}.appendTo(nil)
	data := p.buf[headRoom-len(head):]
	copy(data, head)
	if fits, err := j.makeRoom(int64(len(data))); err != nil {
		return j.giveUp(p, err)
	} else if !fits {
		return j.drop(p)
	}
	_, err := w.file.Write(data)
	if err == nil {
		err = w.file.Sync()
	}
	if err != nil {
		return j.giveUp(p, err)
	}
	w.good += int64(len(data))
	w.wait = 0
	j.mu.Lock()
	defer j.mu.Unlock()
	j.writing, j.room = 0, j.room-int64(len(data))
	j.durable.entries = first + p.n
	j.durable.bytes += int64(len(lines)) - p.bodies
	j.durable.bodies += p.bodies
	j.settled()
	for _, call := range p.ends { // not before: should this be lost, the intent must be there
		delete(j.open.intents, call)
	}
	select {
	case j.ready <- struct{}{}:
	default:
	}
	return nil
}

// begin begins the file whose first entry is first; it goes on from what
// counts. Its head and its name are durable before anything else is in it. On
// an error undone tells whether all is, durably, as if it had not been tried.
func (j *Journal) begin(first uint64) (undone bool, err error) {
	w := &j.w
	was, any := w.tried, w.any
	defer func() {
		if undone { // the name is free again
			w.tried, w.any = was, any
		}
	}()
	s := segment{first: first}
	h := segmentHead{Format: 2, Origin: j.inc.origin(), First: first}
	if w.any {
		if w.tried.first == first {
			s.try = w.tried.try + 1
		}
		h.After, h.At = w.seg.name(), w.good
		if w.seg.first == first { // no entry in it was ever durable
			h.After, h.At = w.after, w.at
		}
	}
	w.tried, w.any = s, true
	line, err := h.line()
	if err != nil {
		return true, err
	}
	f, err := j.cfg.Disk.Create(j.inc.path(s))
	if err != nil {
		return !errors.Is(err, fs.ErrExist) && j.unmake(s), fmt.Errorf("audit: %w", err)
	}
	if _, err = f.Reserve(keepRoom); err == nil {
		_, err = f.Write(line)
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		err = errors.Join(err, f.Close())
		return j.unmake(s), fmt.Errorf("audit: %w", err)
	}
	if err := j.cfg.Disk.SyncDir(j.inc.dir); err != nil { // and then it is not known what names are there
		return false, errors.Join(fmt.Errorf("audit: %w", err), f.Close())
	}
	j.inc.begun(s)
	if err := w.close(); err != nil { // nothing in it is any less durable
		j.cfg.Log.Warn("a file of the journal that is complete could not be closed well", "file", w.seg.name(), "err", err)
	}
	w.file, w.seg, w.good, w.after, w.at, w.next = f, s, int64(len(line)), h.After, h.At, j.cfg.SegmentBytes
	return false, nil
}

// unmake removes a file that could not be begun, and tells whether it is gone
// for good. Were it to stay, what the file before takes in from now on would
// not count.
func (j *Journal) unmake(s segment) bool {
	err := j.cfg.Disk.Remove(j.inc.path(s))
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	return err == nil && j.cfg.Disk.SyncDir(j.inc.dir) == nil
}

// close ends a file in which all is well.
func (w *writer) close() error {
	if w.file == nil {
		return nil
	}
	err := errors.Join(w.file.Trim(), w.file.Close())
	w.file = nil
	return err
}

// makeRoom asks for room early, so that a full disk is known before anything
// does not fit, and tells whether n bytes do.
func (j *Journal) makeRoom(n int64) (fits bool, err error) {
	j.mu.Lock()
	want := n + keepRoom + int64(len(j.open.intents))*outcomeRoom
	j.mu.Unlock()
	have, err := j.w.file.Reserve(want)
	if err != nil && !diskFull(err) {
		return false, fmt.Errorf("audit: %w", err)
	}
	j.mu.Lock()
	was := j.short
	j.short, j.room = nil, have
	if err != nil {
		j.short = fmt.Errorf("%w: %w", ErrDiskFull, err)
	}
	j.mu.Unlock()
	switch {
	case err != nil && was == nil:
		j.cfg.Log.Error("the disk of the journal is full: calls are refused, those under way can still be recorded", "room", have, "err", err)
	case err == nil && was != nil:
		j.cfg.Log.Info("the journal has room again")
	}
	if err != nil && j.w.again == nil {
		j.w.again = j.cfg.After(roomAgain)
	}
	return have >= n, nil
}

// drop refuses a pool for which there is no room. Nothing was written.
func (j *Journal) drop(p *pool) error {
	j.mu.Lock()
	err := j.short
	q := j.rollBack(p)
	j.mu.Unlock()
	q.release(err)
	j.rouse() // the outcomes alone may fit
	return err
}

// giveUp never writes to the file again, and refuses whatever was not made
// durable, until mend has begun another one.
func (j *Journal) giveUp(p *pool, cause error) error {
	if err := j.w.file.Close(); err != nil {
		cause = errors.Join(cause, err)
	}
	j.w.file = nil
	err := fmt.Errorf("%w: %w", ErrDisk, cause)
	j.mu.Lock()
	j.err, j.short = err, nil
	j.failed++
	q := j.rollBack(p)
	j.mu.Unlock()
	j.cfg.Log.Error("the journal's disk failed: nothing is accepted until a new file is durable", "file", j.inc.path(j.w.seg), "good", j.w.good, "err", cause)
	q.release(err)
	j.later()
	return err
}

// rollBack has the books say what is durable, and returns the pool that was
// filling, whose numbers will be given again. Outcomes in either are owed.
// j.mu is held.
func (j *Journal) rollBack(p *pool) *pool {
	q, why := j.pool, cmp.Or(j.err, j.short, ErrDisk)
	j.pool, j.writing = newPool(nil), 0
	j.head = j.durable
	j.ages = slices.DeleteFunc(j.ages, func(a age) bool { return a.seq >= j.durable.entries })
	j.open.forget(j.durable.entries)
	for _, p := range []*pool{p, q} {
		if p == nil {
			continue
		}
		e, any := Entry{}, false
		for line := range bytes.Lines(p.buf[headRoom:]) {
			line = line[:len(line)-1]
			if bytes.HasPrefix(line, []byte(bodyMark)) {
				j.unkeep(e, line)
				continue
			}
			if any {
				j.lose(e, why)
			}
			var err error
			e, err = Decode(line)
			any = err == nil // it was encoded just now
		}
		if any {
			j.lose(e, why)
		}
	}
	return q
}

// lose has another entry tell what one that is lost would have told. j.mu is
// held.
func (j *Journal) lose(e Entry, why error) {
	j.owe(e)
	if e.Kind == KindUnrecorded {
		j.untell(&e)
	}
	j.miss(&e, why)
}

// unkeep has an entry say of a body, whose line in the journal is lost, what it
// says of one that is not kept.
func (j *Journal) unkeep(e Entry, line []byte) {
	if e.Kind != KindOutcome || j.cfg.Salts == nil {
		return
	}
	if k, err := parseKept(line); err == nil && k.Index < len(e.Bodies) {
		ref := &e.Bodies[k.Index]
		ref.Kept = KeptOver
		ref.Digest = bodyDigest(j.cfg.Salts.of(j.inc.origin(), e.Call, e.Kind, k.Index, k.Text), k.Text)
	}
}

func (p *pool) release(err error) {
	p.err = err
	close(p.done)
}

// later has mend called: at once, and then ever more seldom, until a group was
// durable again.
func (j *Journal) later() {
	if j.w.wait == 0 {
		now := make(chan time.Time, 1)
		now <- time.Time{}
		j.w.again, j.w.wait = now, mendAgain
		return
	}
	j.w.again = j.cfg.After(j.w.wait)
	j.w.wait = min(2*j.w.wait, mendSeldom)
}

// mend begins a new file with the first entry that was not made durable.
func (j *Journal) mend() {
	err := j.intact()
	if err == nil {
		_, err = j.begin(j.durable.entries)
	}
	gone := errors.Is(err, ErrPoisoned)
	j.mu.Lock()
	switch {
	case err == nil:
		j.err = nil
	case gone:
		j.err = err
	default:
		j.err = fmt.Errorf("%w: %w", ErrDisk, err)
	}
	j.mu.Unlock()
	switch {
	case err == nil:
		j.cfg.Log.Info("the journal goes on in a new file", "file", j.inc.path(j.w.seg), "first", j.w.seg.first)
	case gone:
		j.cfg.Log.Error("the journal cannot go on", "err", err)
	default:
		j.cfg.Log.Warn("the journal cannot begin a new file yet", "err", err, "again_in", j.w.wait)
		j.later()
	}
}

// intact tells whether what a new file would go on from is still there: if
// the disk came back as another one, whatever is written there has no past.
func (j *Journal) intact() error {
	info, err := os.Stat(j.inc.path(j.w.seg))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %w", ErrPoisoned, err)
	case err != nil:
		return fmt.Errorf("audit: %w", err)
	case info.Size() < j.w.good:
		return fmt.Errorf("%w: %s has %d bytes, and %d were durable", ErrPoisoned, j.inc.path(j.w.seg), info.Size(), j.w.good)
	}
	return nil
}

// paid is an outcome that was owed, and the group that it is in.
type paid struct {
	entry Entry
	pool  *pool
}

// withheld is the reason of an outcome that could not be written in time.
const withheld = "the answer was withheld: the journal could not record how the call ended when it did"

// owe remembers an outcome that is not written: its call may have run, and
// would stay open. j.mu is held.
func (j *Journal) owe(e Entry) {
	delete(j.paid, e.Call)
	if _, ok := j.open.intents[e.Call]; !ok || e.Kind != KindOutcome ||
		slices.ContainsFunc(j.owed, func(o Entry) bool { return o.Call == e.Call }) {
		return
	}
	if e.Status == StatusOK {
		e.Status = StatusBlocked
	}
	if e.Reason != withheld {
		e.Reason = strings.TrimPrefix(e.Reason+"; "+withheld, "; ")
	}
	e.Bodies = slices.Clone(e.Bodies)
	for i := range e.Bodies {
		if e.Bodies[i].Kept == KeptFull {
			e.Bodies[i].Kept = KeptOver
		}
	}
	j.owed = append(j.owed, e)
}

// settle forgets what is owed for a call that ends after all. j.mu is held.
func (j *Journal) settle(e *Entry) {
	if e.Kind == KindOutcome && len(j.owed) > 0 {
		j.owed = slices.DeleteFunc(j.owed, func(o Entry) bool { return o.Call == e.Call })
	}
}

// pay puts what is owed into the pool, as far as there is room. j.mu is held.
func (j *Journal) pay() {
	for len(j.owed) > 0 && j.err == nil {
		e := j.owed[0]
		line, err := e.appendBody(nil)
		var p *pool
		if err == nil {
			p, err = j.add(&e, draft{line: line}) // settles it
		}
		switch {
		case err == nil:
			j.paid[e.Call] = paid{entry: e, pool: p}
		case errors.Is(err, ErrEntry):
			j.owed = j.owed[1:] // with the reason, it has become too long: the next start closes the call
		case err != nil:
			return
		}
	}
}
