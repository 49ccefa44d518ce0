package audit

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"
)

var (
	// ErrDisk: a write or sync failed, and what the file holds from there on is
	// unknown. Nothing is accepted until a new file is durable, which is tried
	// again and again.
	ErrDisk = errors.New("audit: the journal's disk failed, and nothing is accepted until a new file is durable")
	// ErrPoisoned: the disk failed, and no new file can mend that: the files
	// that it would go on from are not there. Nothing is accepted any more.
	ErrPoisoned = errors.New("audit: the journal's files are gone, and nothing is accepted until the enforcer restarts")
	// ErrDiskFull: the disk has no room; what is left is for calls under way.
	ErrDiskFull = errors.New("audit: the disk of the journal is full")
	// ErrFull: the journal holds as much unpublished data as it may.
	ErrFull = errors.New("audit: the journal is full")
	// ErrClosed: the journal was closed.
	ErrClosed = errors.New("audit: the journal is closed")
)

const (
	// MaxBody bounds a body that is kept.
	MaxBody = 16 << 20

	defaultMaxBytes     = 1 << 30
	defaultSegmentBytes = 64 << 20
	staleAfter          = time.Hour
)

// File is what the journal needs of a file that it appends to.
type File interface {
	Write(p []byte) (int, error)
	// Reserve asks for room, after what was written, for n bytes more, and
	// tells for how many there is room now, also with an error: the disk is
	// full. A write into room does not fail for want of any.
	Reserve(n int64) (int64, error)
	// Sync returns when everything written is on stable storage.
	Sync() error
	// Trim gives room back, durably.
	Trim() error
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
	MaxBytes    int64            // bound of what is not yet published, kept bodies included; 0: 1 GiB

	SegmentBytes int64                                // a new file after so many bytes; 0: 64 MiB
	Salts        *Salts                               // of bodies that are not kept; nil: random, and thrown away
	Rand         io.Reader                            // of the other salts; nil: crypto/rand
	After        func(time.Duration) <-chan time.Time // between tries to mend; nil: time.After
	Log          *slog.Logger                         // told when the disk fails or fills, and when it is well again; nil: none
	Disk         Disk                                 // tests only; nil: the real one
}

// Body is a masked body that belongs to an entry.
type Body struct {
	Of     string // "request", "response", "segment"
	Text   []byte // the whole of it; or nothing, and then Size alone is recorded
	Size   int64  // of the whole, if Text is not
	Digest bool   // only size and digest are recorded
	// To are those whom it is sealed to when it is published, as ParseRecipients
	// reads them; empty: it is not sealed. nil: as BodiesConfig.Recipients says.
	To []string
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
	last    time.Time       // of the last entry
	head    books           // what was appended, pool included
	durable books           // of that, on stable storage
	pushed  books           // of that, published
	ages    []age           // when what is unpublished was written, one a second
	open    calls           // with an intent and, so far, no durable outcome
	owed    []Entry         // outcomes that could not be written when their calls ended
	paid    map[string]paid // by call: those that were, later
	err     error           // why nothing is accepted
	short   error           // why intents are not: the disk is full
	room    int64           // then: for so many bytes there is room, the writing pool's included
	writing int64           // bytes of the pool that is being written
	failed  uint64          // files that were given up
	missed  unrecorded      // what was refused without an entry
	closed  bool

	w writer
}

// books count entries, and the bytes of their lines and of kept bodies, line
// feeds included.
type books struct {
	entries uint64
	bytes   int64
	// bodies counts apart, since others publish them; withBodies is the number
	// of entries whose bodies are published (of pushed only).
	bodies     int64
	withBodies uint64
}

// pool collects the entries of one write; all their callers wait for done.
type pool struct {
	buf    []byte // headRoom, and then lines
	n      uint64
	bodies int64    // bytes of the lines of bodies
	ends   []string // calls that its entries close
	done   chan struct{}
	err    error
}

// headRoom is kept in front of a group for its head.
const headRoom = 192

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
	if cfg.Rand == nil {
		cfg.Rand = rand.Reader
	}
	if cfg.After == nil {
		cfg.After = time.After
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Disk == nil {
		cfg.Disk = osDisk{}
	}
	start := Start{Enforcer: cfg.Enforcer, Incarnation: cfg.Incarnation, Schema: Schema, Version: cfg.Version}
	if cfg.Salts != nil {
		start.Salts = cfg.Salts.Name()
	}
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
	inc, err := createIncarnation(cfg.Disk, cfg.Dir, cfg.Enforcer, cfg.Incarnation, began)
	if err != nil {
		return nil, err
	}
	j := &Journal{
		inc: inc, cfg: cfg, last: last,
		wake: make(chan struct{}, 1), ready: make(chan struct{}, 1), stopped: make(chan struct{}),
		pool: newPool(nil), open: calls{intents: map[string]uint64{}}, paid: map[string]paid{},
	}
	if _, err := j.begin(0); err != nil {
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
	return &pool{buf: append(buf[:0], make([]byte, headRoom)...), done: make(chan struct{})}
}

// size is how many bytes the pool takes in the file.
func (p *pool) size() int64 { return int64(len(p.buf)) }

// Append records an entry, with its masked bodies, and returns it, with Seq,
// Time and Bodies set, when it is durable. Errors: ErrEntry (this entry cannot
// be recorded), ErrFull, ErrDiskFull, ErrDisk and ErrPoisoned (both wrapping
// the cause), ErrClosed; or the context's, and then the entry may or may not
// become part of the record.
//
// Near the bound (a sixteenth of it), and while the disk is full, what begins
// something is refused, so that calls under way can still record how they
// ended. A body is then left out before an outcome is, and is KeptOver. An
// outcome that cannot be written even so is refused, too; it is written as
// soon as that is possible, with a reason that says that the answer was
// withheld, unless the caller has succeeded until then. Should the caller try
// again after that, it gets the entry that was written: a call ends once.
func (j *Journal) Append(ctx context.Context, e Entry, bodies ...Body) (Entry, error) {
	if err := ctx.Err(); err != nil {
		return Entry{}, err
	}
	p, err := j.enter(&e, bodies)
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

// enter encodes an entry and puts it into the pool, without its bodies if there
// is no room for them.
func (j *Journal) enter(e *Entry, bodies []Body) (*pool, error) {
	room := rooms.Get().(*[]byte)
	defer rooms.Put(room) // add has copied what was encoded in it
	d, err := j.draft(e, *room, bodies, true)
	if err != nil {
		return nil, err
	}
	p, err := j.append(e, d)
	if len(d.kept) > 0 && (errors.Is(err, ErrFull) || errors.Is(err, ErrDiskFull)) {
		if d, err = j.draft(e, *room, bodies, false); err != nil {
			return nil, err
		}
		p, err = j.append(e, d)
	}
	if err != nil && !errors.Is(err, ErrEntry) && !errors.Is(err, ErrClosed) {
		j.mu.Lock()
		j.owe(*e)
		j.miss(e, err)
		j.tell(false)
		j.mu.Unlock()
		j.rouse() // it may be well by now
	}
	return p, err
}

// rooms are for entries while they are encoded. A long one gets its own.
var rooms = sync.Pool{New: func() any { b := make([]byte, 0, 2048); return &b }}

// draft is what of an entry can be encoded before its number is known.
type draft struct {
	line []byte   // after the head
	kept [][]byte // lines of the bodies, after their heads, in order
}

// draft fills in e.Bodies, and encodes into room if that is enough. If there is
// none in the journal to keep bodies, keep is false.
func (j *Journal) draft(e *Entry, room []byte, bodies []Body, keep bool) (d draft, err error) {
	e.Bodies = nil
	for i, b := range bodies {
		ref := BodyRef{Of: b.Of, Size: int64(len(b.Text)), Kept: KeptFull}
		switch {
		case len(b.Text) == 0 && b.Size > 0:
			ref.Size, ref.Kept = b.Size, KeptOver
		case len(b.Text) > MaxBody || !keep && !b.Digest:
			ref.Kept = KeptOver
		case b.Digest:
			ref.Kept = KeptDigest
		}
		salt := make([]byte, saltBytes)
		if ref.Kept != KeptFull && j.cfg.Salts != nil {
			salt = j.cfg.Salts.of(j.inc.origin(), e.Call, e.Kind, i, b.Text)
		} else if _, err := io.ReadFull(j.cfg.Rand, salt); err != nil {
			return draft{}, fmt.Errorf("audit: salt: %w", err)
		}
		if int64(len(b.Text)) == ref.Size {
			ref.Digest = bodyDigest(salt, b.Text)
		}
		if ref.Kept == KeptFull {
			tail, err := appendKeptTail(nil, i, b.Of, b.To, salt, b.Text)
			if err != nil {
				return draft{}, err
			}
			d.kept = append(d.kept, tail)
		}
		e.Bodies = append(e.Bodies, ref)
	}
	d.line, err = e.appendBody(room)
	return d, err
}

// bodyDigest is the digest of a BodyRef.
func bodyDigest(salt, text []byte) string {
	h := sha256.New()
	h.Write(salt)
	h.Write(text)
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

func (j *Journal) append(e *Entry, d draft) (*pool, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return nil, ErrClosed
	}
	if e.Kind == KindOutcome {
		if done, ok := j.paid[e.Call]; ok {
			*e = done.entry
			return done.pool, nil
		}
	}
	if e.Kind == KindStop {
		j.tell(true)
	}
	return j.add(e, d)
}

// add puts the entry into the pool. j.mu is held.
func (j *Journal) add(e *Entry, d draft) (*pool, error) {
	if j.err != nil {
		return nil, j.err
	}
	e.Seq = j.head.entries
	e.Time = j.cfg.Now().UTC().Truncate(time.Microsecond)
	if e.Time.Before(j.last) { // the clock was set back; the record's order is the truth
		e.Time = j.last
	}
	p, before := j.pool, len(j.pool.buf)
	p.buf = append(append(appendHead(p.buf, e.Seq, e.Time), d.line...), '\n')
	n := len(p.buf) - before
	for _, tail := range d.kept {
		p.buf = append(appendKeptHead(p.buf, e.Seq), tail...)
	}
	all := int64(len(p.buf) - before)
	err := j.refusal(e.Kind, all, len(d.kept) > 0)
	if n > MaxLine+1 {
		err = tooLong(n - 1)
	}
	if err != nil {
		p.buf = p.buf[:before]
		return nil, err
	}
	p.n++
	p.bodies += all - int64(n)
	j.open.note(e, p)
	j.settle(e)
	j.last = e.Time
	j.head.entries++
	j.head.bytes += int64(n)
	j.head.bodies += all - int64(n)
	if k := len(j.ages); k == 0 || e.Time.Sub(j.ages[k-1].at) >= time.Second {
		j.ages = append(j.ages, age{e.Seq, e.Time})
	}
	j.rouse()
	return p, nil
}

// refusal tells why there is no room for an entry that takes so many bytes,
// those of bodies included. j.mu is held.
func (j *Journal) refusal(kind Kind, n int64, bodies bool) error {
	bound, begins := j.cfg.MaxBytes, kind == KindIntent || kind == KindRefused || kind == KindAuthFailed
	switch {
	case begins:
		bound -= bound / 16
	case kind == KindUnrecorded:
		bound -= bound / 32
	}
	if held := j.held(); held+n > bound {
		return fmt.Errorf("%w: %d of %d bytes wait to be published to Git; see why the push fails", ErrFull, held, j.cfg.MaxBytes)
	}
	if j.short != nil && (begins || bodies || j.writing+j.pool.size()+n > j.room) {
		return j.short
	}
	return nil
}

// held is what is not published. j.mu is held.
func (j *Journal) held() int64 {
	return j.head.bytes - j.pushed.bytes + j.head.bodies - j.pushed.bodies
}

func (j *Journal) rouse() {
	select {
	case j.wake <- struct{}{}:
	default:
	}
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
		j.rouse()
	}
	<-j.stopped
	if was {
		return nil
	}
	return errors.Join(j.Err(), j.w.close(), j.closeCounts())
}

// Err tells why the journal accepts nothing, nil if it does.
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
	Failures uint64    // how often the disk failed, and a file was given up
	Alert    string    // empty, or what a person should look at now
	Refuses  error     // why calls are refused now
	Err      error     // why nothing at all is accepted
}

// State gives the journal's condition.
func (j *Journal) State() State {
	now := j.cfg.Now()
	j.mu.Lock()
	defer j.mu.Unlock()
	s := State{
		Entries: j.durable.entries, Pushed: j.pushed.entries, Bytes: j.held(), MaxBytes: j.cfg.MaxBytes,
		Failures: j.failed, Err: j.err, Refuses: j.err,
	}
	if s.Refuses == nil {
		s.Refuses = j.refusal(KindIntent, min(4096, j.cfg.MaxBytes/64), false) // an intent is a few thousand bytes at most
	}
	if len(j.ages) > 0 {
		s.Oldest = j.ages[0].at
	}
	switch {
	case j.err != nil:
		s.Alert = j.err.Error()
	case j.short != nil:
		s.Alert = j.short.Error()
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
	j.pushed.entries, j.pushed.bytes = entries, bytes
	j.freed()
}

// bodiesPublished frees room: the kept bodies of the first entries, whose lines
// have so many bytes (see Kept.Bytes), are on the remote.
func (j *Journal) bodiesPublished(entries uint64, bytes int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.pushed.withBodies, j.pushed.bodies = entries, bytes
	j.freed()
}

// unpublished is the number of the first entry that is not wholly on the
// remote. j.mu is held.
func (j *Journal) unpublished() uint64 {
	if j.head.bodies > j.pushed.bodies {
		return min(j.pushed.entries, j.pushed.withBodies)
	}
	return j.pushed.entries
}

// freed forgets the age of what is published. j.mu is held.
func (j *Journal) freed() {
	n, i := j.unpublished(), 0
	for i+1 < len(j.ages) && j.ages[i+1].seq <= n {
		i++
	}
	j.ages = j.ages[i:]
	if n == j.head.entries {
		j.ages = nil
	}
	if len(j.owed) > 0 || j.missed.left() != (tally{}) {
		j.rouse()
	}
}
