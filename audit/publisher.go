package audit

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// ErrForked: the branch holds what this journal did not write, or no longer
// holds what it did. Two writers share an identity, or somebody rewrote the
// branch. Publishing stops; a person must look.
var ErrForked = errors.New("audit: the published record and the journal disagree")

// Store is where the record is published: branches that only grow.
type Store interface {
	// Commit adds files to the parent's tree, as one commit on the branch;
	// parent "" begins the branch. It fails if the branch is not at parent.
	// The commit need not be durable before a Push.
	Commit(ctx context.Context, branch, parent string, files map[string][]byte, message string, when time.Time) (string, error)
	// Tip gives the branch's newest commit.
	Tip(branch string) (hash string, ok bool, err error)
	// File reads a file of a commit.
	File(commit, path string) ([]byte, error)
	// Push returns when the remote has the branches, and what it was sent is
	// durable here too.
	Push(ctx context.Context, branches ...string) error
}

const (
	minBatch      = 4096    // entries that do not wait for the window; a commit costs the same files whatever it holds
	maxBatch      = 8192    // entries of one commit
	maxBatchBytes = 4 << 20 // of their lines
	defaultWindow = 10 * time.Second
	maxBackoff    = 5 * time.Minute
)

// PublisherConfig says what is published, where to and when.
type PublisherConfig struct {
	Journal *Journal // this incarnation, or
	Past    *Past    // an earlier one: what a crash or an outage left
	Store   Store
	Key     ed25519.PrivateKey // of checkpoints; not the key of commits
	// Rejected tells whether a push failed because the remote's branch holds
	// commits that ours does not: never tried again. Required.
	Rejected func(error) bool

	Window  time.Duration                                  // between pushes, a live writer; 0: 10 s
	Writers func() int                                     // live writers that share the remote; nil: 1
	Rand    func() float64                                 // in [0,1), for jitter; nil: none
	Now     func() time.Time                               // nil: time.Now
	After   func(time.Duration) <-chan time.Time           // nil: time.After
	Log     *slog.Logger                                   // nil: none
	Done    func(c Checkpoint, signed string, pushed bool) // told of each commit and push; nil: nobody
}

// Publisher takes an incarnation's entries to a Store: each batch a commit on
// the branch of its month, with a checkpoint of the whole tree.
//
// A commit's tree has, beside those of the branch's earlier commits:
//
//	entries/NNN/<first>.jsonl    the lines; NNN is <first> without its last three
//	                             digits, in groups of three (1234567: 001/234), so
//	                             that no folder grows without bound
//	entries/NNN/<first>.hashes   their leaf hashes, 32 bytes each: the layout of a
//	                             level-0 tile of c2sp.org/tlog-tiles
//	checkpoint                   the signed note, also the message's last paragraphs
//	base                         the tree's edge where the month begins (see edge)
//
// The hashes are there so that a changed entry can be named. A root tells only
// that something under it changed; but if the hashes beside the lines lead to
// the signed root, they are what was signed, and the line that differs from
// its hash is the one.
type Publisher struct {
	cfg    PublisherConfig
	inc    *incarnation
	end    func() uint64 // durable entries
	pushed func(mark)
	ready  <-chan struct{}

	mu    sync.Mutex // one commit or push at a time
	known bool       // at is what the store has
	at    position
	dirty []string // branches to push
	fatal error

	lastMu sync.Mutex
	last   Checkpoint
	signed string
}

// position is the end of what was committed.
type position struct {
	edge
	bytes  int64
	last   time.Time
	file   uint64 // cursor
	off    int64
	branch string
	commit string
	signed string
}

// NewPublisher checks the configuration; it touches neither disk nor store.
func NewPublisher(cfg PublisherConfig) (*Publisher, error) {
	if (cfg.Journal == nil) == (cfg.Past == nil) || cfg.Store == nil || cfg.Rejected == nil {
		return nil, errors.New("audit: a publisher needs a journal or a past one, a store, and Rejected")
	}
	if len(cfg.Key) != ed25519.PrivateKeySize {
		return nil, errors.New("audit: a publisher needs an Ed25519 key for checkpoints")
	}
	if cfg.Window == 0 {
		cfg.Window = defaultWindow
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.After == nil {
		cfg.After = time.After
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	p := &Publisher{cfg: cfg}
	if j := cfg.Journal; j != nil {
		p.inc, p.end, p.ready = j.inc, j.durableEntries, j.ready
		p.pushed = func(m mark) { j.published(m.Entries, m.Bytes) }
	} else {
		past := cfg.Past
		p.inc, p.end = past.inc, func() uint64 { return past.Entries }
		p.pushed = past.published
	}
	return p, nil
}

// branchName names the branch of a month (2006-01) of an origin.
func branchName(origin, month string) string { return "audit/" + origin + "/" + month }

// batchPath gives the path of a batch without its extension.
func batchPath(first uint64) string {
	groups := fmt.Sprintf("%03d", first/1000%1000)
	for n := first / 1_000_000; n > 0; n /= 1000 {
		groups = fmt.Sprintf("%03d/", n%1000) + groups
	}
	return fmt.Sprintf("entries/%s/%03d", groups, first)
}

// Commit commits every durable entry that is not committed yet.
func (p *Publisher) Commit(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.commitAll(ctx)
}

// Flush commits and pushes everything that is durable. After ErrForked, or a
// push that Rejected knows, it fails for good. After any other error nothing
// is lost, and it may be called again.
func (p *Publisher) Flush(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.commitAll(ctx); err != nil {
		return err
	}
	return p.push(ctx)
}

// Last gives the newest checkpoint and its signed note.
func (p *Publisher) Last() (Checkpoint, string, bool) {
	p.lastMu.Lock()
	defer p.lastMu.Unlock()
	return p.last, p.signed, p.signed != ""
}

// Unpublished tells how much is not on the remote yet, and since when (not
// known for a past incarnation).
func (p *Publisher) Unpublished() (int64, time.Time) {
	if j := p.cfg.Journal; j != nil {
		s := j.State()
		return s.Bytes, s.Oldest
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cfg.Past.bytes - p.cfg.Past.mark.Bytes, time.Time{}
}

func (p *Publisher) fail(err error) error {
	p.fatal = err
	p.cfg.Log.Error("the record is not published any more", "origin", p.inc.origin(), "err", err)
	return err
}

func (p *Publisher) forked(format string, args ...any) error {
	return p.fail(fmt.Errorf("%w: %s", ErrForked, fmt.Sprintf(format, args...)))
}

// commitAll commits what is durable now; what comes in meanwhile waits for its
// own turn, or a busy enforcer would never be done, with a commit for each
// handful of entries.
func (p *Publisher) commitAll(ctx context.Context) error {
	if p.fatal != nil {
		return p.fatal
	}
	if !p.known {
		if err := p.recover(); err != nil {
			return err
		}
		p.known = true
	}
	for until := p.end(); p.at.size < until; {
		if err := p.commit(ctx); err != nil {
			p.known = false // it may have happened: look at the branch first
			return err
		}
	}
	return nil
}

// batch is what one commit adds.
type batch struct {
	at     position // after it
	first  uint64
	lines  []byte
	leaves []tlog.Hash
	month  string
	sum    summary
}

// read collects the next batch: one month's entries, bounded.
func (p *Publisher) read(until uint64) (b batch, err error) {
	b.at, b.first = p.at, p.at.size
	b.at.edge = p.at.edge.clone()
	c := &cursor{inc: p.inc, seq: p.at.size, first: p.at.file, off: p.at.off}
	defer func() { err = errors.Join(err, c.close()) }()
	for b.at.size < until && len(b.leaves) < maxBatch && len(b.lines) < maxBatchBytes {
		line, err := c.next()
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return b, fmt.Errorf("%w: %s, entry %d: %w", ErrDamaged, p.inc.dir, b.at.size, err)
		}
		g, err := look(line)
		if err != nil || g.Seq != b.at.size {
			return b, fmt.Errorf("%w: %s, entry %d does not read (%w)", ErrDamaged, p.inc.dir, b.at.size, err)
		}
		month := g.Time.UTC().Format("2006-01")
		if b.month == "" {
			b.month = month
		} else if month != b.month {
			break
		}
		leaf := tlog.RecordHash(line)
		b.at.add(leaf)
		b.leaves = append(b.leaves, leaf)
		b.lines = append(append(b.lines, line...), '\n')
		b.at.last, b.at.file, b.at.off = g.Time, c.first, c.off
		b.sum.count(g)
	}
	b.at.bytes += int64(len(b.lines))
	return b, nil
}

func (p *Publisher) commit(ctx context.Context) error {
	b, err := p.read(p.end())
	if err != nil {
		return err
	}
	c := Checkpoint{Origin: p.inc.origin(), Size: b.at.size, Root: b.at.root()}
	if b.at.signed, err = c.Sign(p.cfg.Key); err != nil {
		return err
	}
	b.at.branch = branchName(c.Origin, b.month)
	path := batchPath(b.first)
	hashes := make([]byte, 0, len(b.leaves)*tlog.HashSize)
	for _, h := range b.leaves {
		hashes = append(hashes, h[:]...)
	}
	files := map[string][]byte{
		path + ".jsonl":  b.lines,
		path + ".hashes": hashes,
		"checkpoint":     []byte(b.at.signed),
	}
	parent := p.at.commit
	if b.at.branch != p.at.branch {
		parent = ""
		if b.first > 0 {
			files["base"] = p.at.appendBase(nil)
		}
	}
	when := p.cfg.Now().UTC()
	if when.Before(b.at.last) {
		when = b.at.last
	}
	b.at.commit, err = p.cfg.Store.Commit(ctx, b.at.branch, parent, files, b.sum.String()+"\n\n"+b.at.signed, when)
	if err != nil {
		return fmt.Errorf("audit: commit to %s: %w", b.at.branch, err)
	}
	p.arrive(b.at, c)
	return nil
}

// arrive takes a position over as what the store has.
func (p *Publisher) arrive(at position, c Checkpoint) {
	p.at = at
	if !slices.Contains(p.dirty, at.branch) {
		p.dirty = append(p.dirty, at.branch)
	}
	if past := p.cfg.Past; past != nil {
		past.checkpoint = at.signed
	}
	p.lastMu.Lock()
	p.last, p.signed = c, at.signed
	p.lastMu.Unlock()
	if p.cfg.Done != nil {
		p.cfg.Done(c, at.signed, false)
	}
}

func (p *Publisher) push(ctx context.Context) error {
	if len(p.dirty) == 0 {
		return nil
	}
	if err := p.cfg.Store.Push(ctx, p.dirty...); err != nil {
		err = fmt.Errorf("audit: push %s: %w", strings.Join(p.dirty, " "), err)
		if p.cfg.Rejected(err) {
			return p.fail(fmt.Errorf("%w: %w", ErrForked, err))
		}
		return err
	}
	m := mark{
		Entries: p.at.size, Bytes: p.at.bytes, Last: p.at.last, File: p.at.file, Offset: p.at.off,
		Branch: p.at.branch, Commit: p.at.commit, Checkpoint: p.at.signed,
	}
	for _, h := range p.at.hashes {
		m.Hashes = append(m.Hashes, h[:])
	}
	if err := p.inc.writeMark(m); err != nil {
		return err // pushed, but not known: the next start finds out
	}
	p.dirty = nil
	p.pushed(m)
	if p.cfg.Done != nil {
		p.cfg.Done(p.last, p.signed, true)
	}
	return nil
}

// recover finds out what the store has. The mark is durable after each push;
// commits after it may be there (a crash, an outage) or not (the store does
// not sync them), so the branch itself is asked, and what it holds is compared
// with the journal. Nothing is committed twice, and nothing is overwritten.
func (p *Publisher) recover() error {
	m, err := p.inc.readMark()
	if err != nil {
		return err
	}
	p.at = position{
		edge: edge{size: m.Entries}, bytes: m.Bytes, last: m.Last, file: m.File, off: m.Offset,
		branch: m.Branch, commit: m.Commit, signed: m.Checkpoint,
	}
	for _, h := range m.Hashes {
		if len(h) != tlog.HashSize {
			return fmt.Errorf("%w: %s: hashes", ErrDamaged, p.inc.dir)
		}
		p.at.hashes = append(p.at.hashes, tlog.Hash(h))
	}
	if m.Checkpoint != "" {
		c, err := ReadCheckpoint(m.Checkpoint)
		if err != nil || c.Size != p.at.size || c.Root != p.at.root() {
			return fmt.Errorf("%w: %s: the mark contradicts itself", ErrDamaged, p.inc.dir)
		}
		p.lastMu.Lock()
		p.last, p.signed = c, m.Checkpoint
		p.lastMu.Unlock()
	}
	for {
		before := p.at.size
		if p.at.branch != "" {
			if err := p.adopt(p.at.branch); err != nil {
				return err
			}
		}
		if p.at.size < p.end() { // a later month may have been begun
			next, err := p.read(p.at.size + 1)
			if err != nil {
				return err
			}
			if b := branchName(p.inc.origin(), next.month); b != p.at.branch {
				if err := p.adopt(b); err != nil {
					return err
				}
			}
		}
		if p.at.size == before {
			return nil
		}
	}
}

// adopt moves to the branch's tip, after checking that the journal leads there.
func (p *Publisher) adopt(branch string) error {
	tip, ok, err := p.cfg.Store.Tip(branch)
	if err != nil {
		return fmt.Errorf("audit: %s: %w", branch, err)
	}
	if !ok && branch == p.at.branch {
		return p.forked("branch %s is gone from the local repository; entries before %d were published in it", branch, p.at.size)
	}
	if !ok || tip == p.at.commit {
		return nil
	}
	signed, err := p.cfg.Store.File(tip, "checkpoint")
	if err != nil {
		return fmt.Errorf("audit: %s: %w", branch, err)
	}
	c, err := OpenCheckpoint(string(signed), []ed25519.PublicKey{p.cfg.Key.Public().(ed25519.PublicKey)})
	switch {
	case err != nil:
		return p.forked("%s is at %s, whose checkpoint is not ours: %v", branch, tip, err)
	case c.Origin != p.inc.origin() || c.Size <= p.at.size || c.Size > p.end():
		return p.forked("%s is at %s with %d entries of %s; the journal has %d, of which %d were published", branch, tip, c.Size, c.Origin, p.end(), p.at.size)
	}
	from := p.at
	for p.at.size < c.Size {
		b, err := p.read(c.Size)
		if err != nil {
			p.at = from
			return err
		}
		p.at = b.at
	}
	if p.at.root() != c.Root {
		p.at = from
		return p.forked("%s is at %s, whose %d entries are not those of the journal", branch, tip, c.Size)
	}
	at := p.at
	at.branch, at.commit, at.signed = branch, tip, string(signed)
	p.arrive(at, c)
	return nil
}

// Run publishes until ctx is done (then it returns nil, and the caller may
// Flush a last time) or until it must stop, with the reason. Errors of disk,
// network or the remote's hooks are logged and tried again, ever more slowly.
func (p *Publisher) Run(ctx context.Context) error {
	wait := p.window()
	timer := p.cfg.After(wait)
	err := p.Commit(ctx)
	for {
		if err != nil && ctx.Err() == nil {
			p.mu.Lock()
			fatal := p.fatal
			p.mu.Unlock()
			if fatal != nil {
				return fatal
			}
			p.cfg.Log.Warn("the record could not be published; it stays in the journal", "origin", p.inc.origin(), "err", err, "again_in", wait)
		}
		err = nil
		select {
		case <-ctx.Done():
			return nil
		case <-p.ready:
			p.mu.Lock()
			if p.known && p.end()-p.at.size >= minBatch {
				err = p.commitAll(ctx)
			}
			p.mu.Unlock()
		case <-timer:
			if err = p.Flush(ctx); err == nil {
				if p.cfg.Past != nil {
					return nil // nothing will be added to it
				}
				wait = p.window()
			} else {
				wait = min(2*wait, max(maxBackoff, p.window()))
			}
			timer = p.cfg.After(wait)
		}
	}
}

// window is 10 s for each live writer, since the host's limit of pushes is
// one for all, and up to a fifth more, so that they do not meet.
func (p *Publisher) window() time.Duration {
	w := p.cfg.Window
	if p.cfg.Writers != nil {
		w *= time.Duration(max(1, p.cfg.Writers()))
	}
	if p.cfg.Rand != nil {
		w += time.Duration(p.cfg.Rand() * float64(w) / 5)
	}
	return w
}

// trimLines splits a file of lines; nil if it does not end in a line feed.
func trimLines(b []byte) [][]byte {
	if len(b) == 0 || b[len(b)-1] != '\n' {
		return nil
	}
	return bytes.Split(b[:len(b)-1], []byte("\n"))
}
