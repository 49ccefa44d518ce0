package audit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"
)

var (
	// ErrPoisoned: a write or sync failed before; what the disk holds is
	// unknown, so nothing more is accepted until a new incarnation starts.
	ErrPoisoned = errors.New("audit: the journal failed and accepts nothing until the enforcer restarts")
	// ErrFull: the journal holds as much unpublished data as it may.
	ErrFull = errors.New("audit: the journal is full")
	// ErrClosed: the journal was closed.
	ErrClosed = errors.New("audit: the journal is closed")
)

const (
	defaultMaxBytes     = 1 << 30
	defaultSegmentBytes = 64 << 20
	staleAfter          = time.Hour
)

// File is what the journal needs of a file that it appends to.
type File interface {
	Write(p []byte) (int, error)
	// Sync returns when everything written is on stable storage.
	Sync() error
	Close() error
}

// Config says where and how a journal is kept.
type Config struct {
	Dir         string           // the state directory; the caller holds its Lock
	Enforcer    string           // name of the enforcer, a-z 0-9 - . _
	Incarnation string           // random id of this run, same letters, never used before
	Previous    []*Past          // what Previous found; the newest one's checkpoint is named in the first entry
	Version     string           // of the program, for the first entry
	Now         func() time.Time // nil: time.Now
	MaxBytes    int64            // bound of what is not yet published; 0: 1 GiB

	SegmentBytes int64                           // a new file after so many bytes; 0: 64 MiB
	OpenFile     func(path string) (File, error) // tests only; creates the file; nil: the real one
}

// Journal is the record of one incarnation, being written. Its methods may be
// called by many goroutines at once.
type Journal struct {
	inc *incarnation
	cfg Config

	wake    chan struct{} // to the writer: the pool is not empty, or closing
	ready   chan struct{} // to a publisher: something became durable
	stopped chan struct{} // the writer has returned

	mu      sync.Mutex
	pool    *pool
	seq     uint64    // of the next entry
	last    time.Time // of the last entry
	bytes   int64     // ever appended, pool included
	durable uint64    // entries on stable storage
	pushed  uint64    // entries published
	freed   int64     // bytes published
	ages    []age     // when what is unpublished was written, one a second
	open    calls     // with an intent and, so far, no durable outcome
	err     error     // set once: poisoned
	closed  bool

	// The writer's own.
	file    File
	segment int64 // bytes in file
}

// pool collects the entries of one write; all their callers wait for done.
type pool struct {
	buf  []byte
	n    uint64
	ends []string // calls that its entries close
	done chan struct{}
	err  error
}

type age struct {
	seq uint64
	at  time.Time
}

// Open starts the journal of a new incarnation and writes its first entry, of
// KindStart. A directory of this incarnation must not exist yet: a journal is
// never continued, so that a tail torn by a crash stays where it was.
func Open(cfg Config) (*Journal, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = defaultMaxBytes
	}
	if cfg.SegmentBytes == 0 {
		cfg.SegmentBytes = defaultSegmentBytes
	}
	if cfg.OpenFile == nil {
		cfg.OpenFile = createFile
	}
	start := Start{Enforcer: cfg.Enforcer, Incarnation: cfg.Incarnation, Schema: Schema, Version: cfg.Version}
	began := cfg.Now().UTC()
	var last time.Time
	for _, p := range cfg.Previous { // oldest first
		if c := p.Checkpoint(); c != "" {
			start.Previous = c
		}
		start.Torn = p.Torn
		if p.last.After(last) { // across restarts too, time never runs back
			last = p.last
		}
		if !began.After(p.Start) { // the order of starts is the order of incarnations
			began = p.Start.Add(time.Microsecond)
		}
	}
	inc, err := createIncarnation(cfg.Dir, cfg.Enforcer, cfg.Incarnation, began)
	if err != nil {
		return nil, err
	}
	j := &Journal{
		inc: inc, cfg: cfg, last: last,
		wake: make(chan struct{}, 1), ready: make(chan struct{}, 1), stopped: make(chan struct{}),
		pool: newPool(nil), open: calls{intents: map[string]uint64{}},
	}
	if err := j.rotate(0); err != nil {
		return nil, err
	}
	go j.write()
	detail, err := Detail(start)
	if err == nil {
		_, err = j.Append(context.Background(), Entry{Kind: KindStart, Detail: detail})
	}
	if err != nil {
		return nil, errors.Join(err, j.Close())
	}
	return j, nil
}

// newPool is an empty pool; buf may be an earlier one's.
func newPool(buf []byte) *pool {
	return &pool{buf: append(buf[:0], groupMark), done: make(chan struct{})}
}

// Append records an entry and returns it, with Seq and Time set, when it is
// durable. Errors: ErrEntry (this entry cannot be recorded), ErrFull,
// ErrPoisoned (wrapping the cause), ErrClosed; or the context's, and then the
// entry may or may not become part of the record.
//
// Near the bound, intents are refused while a little room is left (a
// sixteenth), so that calls under way can still record how they ended.
func (j *Journal) Append(ctx context.Context, e Entry) (Entry, error) {
	if err := ctx.Err(); err != nil {
		return Entry{}, err
	}
	body, err := e.appendBody(make([]byte, 0, 512))
	if err != nil {
		return Entry{}, err
	}
	j.mu.Lock()
	p, err := j.add(&e, body)
	j.mu.Unlock()
	if err != nil {
		return Entry{}, err
	}
	select {
	case <-p.done:
		if p.err != nil {
			return Entry{}, p.err
		}
		return e, nil
	case <-ctx.Done():
		return Entry{}, fmt.Errorf("audit: not known to be recorded: %w", ctx.Err())
	}
}

// add puts the entry into the pool. j.mu is held.
func (j *Journal) add(e *Entry, body []byte) (*pool, error) {
	switch {
	case j.err != nil:
		return nil, j.err
	case j.closed:
		return nil, ErrClosed
	}
	e.Seq = j.seq
	e.Time = j.cfg.Now().UTC().Truncate(time.Microsecond)
	if e.Time.Before(j.last) { // the clock was set back; the record's order is the truth
		e.Time = j.last
	}
	p, before := j.pool, len(j.pool.buf)
	p.buf = append(appendHead(p.buf, e.Seq, e.Time), body...)
	n := len(p.buf) - before
	err := error(nil)
	bound := j.cfg.MaxBytes
	if e.Kind == KindIntent {
		bound -= bound / 16
	}
	if n > MaxLine {
		err = tooLong(n)
	} else if held := j.bytes - j.freed; held+int64(n)+1 > bound {
		err = fmt.Errorf("%w: %d of %d bytes wait to be published to Git; see why the push fails", ErrFull, held, j.cfg.MaxBytes)
	}
	if err != nil {
		p.buf = p.buf[:before]
		return nil, err
	}
	p.buf = append(p.buf, '\n')
	p.n++
	j.seq++
	j.open.note(e, p)
	j.last = e.Time
	j.bytes += int64(n) + 1
	if k := len(j.ages); k == 0 || e.Time.Sub(j.ages[k-1].at) >= time.Second {
		j.ages = append(j.ages, age{e.Seq, e.Time})
	}
	select {
	case j.wake <- struct{}{}:
	default:
	}
	return p, nil
}

// write is the only writer: it swaps the pool, writes and syncs it, and
// releases all who wait for it. While it syncs, the next pool fills.
func (j *Journal) write() {
	defer close(j.stopped)
	var spare []byte // of the pool before: nobody reads it any more
	for range j.wake {
		j.mu.Lock()
		p, failed, closed := j.pool, j.err, j.closed
		j.pool, spare = newPool(spare), nil
		first := j.seq - p.n
		j.mu.Unlock()

		if p.n > 0 {
			if p.err = failed; p.err == nil {
				p.err = j.flush(p, first)
			}
			spare, p.buf = p.buf, nil
			close(p.done)
			// Those just released often come back at once; let them join the
			// next group, or two half groups take turns, a sync each.
			runtime.Gosched()
		}
		if closed {
			return
		}
	}
}

// flush makes a pool durable. After an error the file is never trusted again:
// the kernel may have dropped the pages and report success the next time.
func (j *Journal) flush(p *pool, first uint64) error {
	err := error(nil)
	if j.segment >= j.cfg.SegmentBytes {
		err = j.rotate(first)
	}
	if err == nil {
		_, err = j.file.Write(p.buf)
	}
	if err == nil {
		err = j.file.Sync()
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if err != nil {
		j.err = fmt.Errorf("%w: %w", ErrPoisoned, err)
		return j.err
	}
	j.segment += int64(len(p.buf))
	j.durable = first + p.n
	for _, call := range p.ends { // not before: should this be lost, the intent must be there
		delete(j.open.intents, call)
	}
	select {
	case j.ready <- struct{}{}:
	default:
	}
	return nil
}

// rotate begins the file whose first entry is first.
func (j *Journal) rotate(first uint64) error {
	if j.file != nil {
		if err := j.file.Close(); err != nil {
			return err
		}
	}
	f, err := j.cfg.OpenFile(j.inc.segmentPath(first))
	if err != nil {
		return err
	}
	j.file, j.segment = f, 0
	return syncDir(j.inc.dir)
}

// Incarnation names this run.
func (j *Journal) Incarnation() string { return j.cfg.Incarnation }

// Enforcer names the enforcer.
func (j *Journal) Enforcer() string { return j.cfg.Enforcer }

// Close makes what was appended durable and ends the journal.
func (j *Journal) Close() error {
	j.mu.Lock()
	was := j.closed
	j.closed = true
	j.mu.Unlock()
	if !was {
		select {
		case j.wake <- struct{}{}:
		default:
		}
	}
	<-j.stopped
	if was {
		return nil
	}
	return errors.Join(j.Err(), j.file.Close())
}

// Err tells why the journal is poisoned, nil if it is not.
func (j *Journal) Err() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.err
}

// State is a journal's condition at a moment.
type State struct {
	Entries  uint64    // durable
	Pushed   uint64    // of them, published to the remote
	Bytes    int64     // not yet published
	MaxBytes int64     // refusal is at this many
	Oldest   time.Time // when the oldest unpublished entry was written; zero: none
	Alert    string    // empty, or what a person should look at now
	Err      error     // why it is poisoned
}

// State gives the journal's condition.
func (j *Journal) State() State {
	now := j.cfg.Now()
	j.mu.Lock()
	defer j.mu.Unlock()
	s := State{Entries: j.durable, Pushed: j.pushed, Bytes: j.bytes - j.freed, MaxBytes: j.cfg.MaxBytes, Err: j.err}
	if len(j.ages) > 0 {
		s.Oldest = j.ages[0].at
	}
	switch {
	case j.err != nil:
		s.Alert = j.err.Error()
	case s.Bytes >= s.MaxBytes/2:
		s.Alert = fmt.Sprintf("the journal is %d %% full: %d of %d bytes wait to be published", s.Bytes*100/s.MaxBytes, s.Bytes, s.MaxBytes)
	case !s.Oldest.IsZero() && now.Sub(s.Oldest) >= staleAfter:
		s.Alert = fmt.Sprintf("entries since %s are not published yet", s.Oldest.Format(time.RFC3339))
	}
	return s
}

// published frees room: the first entries, of so many bytes, are on the remote.
func (j *Journal) published(entries uint64, bytes int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.pushed, j.freed = entries, bytes
	i := 0
	for i+1 < len(j.ages) && j.ages[i+1].seq <= entries {
		i++
	}
	j.ages = j.ages[i:]
	if entries == j.seq {
		j.ages = nil
	}
}

// createFile opens a file to write to, which must not exist.
func createFile(path string) (File, error) {
	f, err := openData(path)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	return f, nil
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(filepath.Clean(dir))
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}
