package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
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
	// The commit need not be durable before it is pushed.
	Commit(ctx context.Context, branch, parent string, files map[string][]byte, message string, when time.Time) (string, error)
	// Tip gives the branch's newest commit.
	Tip(branch string) (hash string, ok bool, err error)
	// File reads a file of a commit.
	File(commit, path string) ([]byte, error)
}

const (
	minBatch      = 4096    // entries that do not wait for the window; a commit costs the same files whatever it holds
	maxBatch      = 8192    // entries of one commit
	maxBatchBytes = 4 << 20 // of their lines
	maxTrail      = 256     // positions that are kept until they are known to be on the remote

	cosignTime = 15 * time.Second
)

// PublisherConfig says what is published, and where.
type PublisherConfig struct {
	Journal *Journal // this incarnation, or
	Past    *Past    // an earlier one: what a crash or an outage left
	Store   Store
	// Repo names the repository that the store is published to, without
	// credentials. It matters where repositories roll: the log is published up
	// to the entry of kind rolled that leaves this one (see Rolled), and begins
	// in it behind the one that leads here.
	Repo   string
	Signer Signer // of checkpoints; not the key of commits
	// Previous is the key before, which signs beside Signer while a rotation
	// is under way; the zero Signer if there is none.
	Previous Signer
	// Cosign has others sign a checkpoint that is about to be pushed, within the
	// time of ctx. It returns the note with their lines added, as far as it got
	// if there is an error too. nil: nobody.
	Cosign func(ctx context.Context, c Cosigning) (string, error)
	Rand   func() float64 // in [0,1), for jitter when Cosign is asked again; nil: none

	// Told is told what each commit holds; nil: nobody.
	Told func(Tally)

	Now  func() time.Time                               // nil: time.Now
	Log  *slog.Logger                                   // nil: none
	Done func(c Checkpoint, signed string, pushed bool) // told of each commit and push; nil: nobody
}

// Publisher takes an incarnation's entries to a Store: each batch a commit on
// the branch of its month, with a checkpoint of the whole tree.
//
// A commit's tree has, beside those of the branch's earlier commits:
//
//	entries/NNN/<first>.jsonl    the lines; NNN is <first> without its last three
//	                             digits, in groups of three (1234567: 001/234), so
//	                             that no folder grows without bound (see batchPath)
//	entries/NNN/<first>.hashes   their leaf hashes, 32 bytes each: the layout of a
//	                             level-0 tile of c2sp.org/tlog-tiles
//	checkpoint                   the signed note, also in the message (see commitMessage)
//	base                         the tree's edge where the branch begins (see edge)
//	handover                     where it begins in another repository than the log
//	                             did before: a proof that it was handed over (see Rolled)
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

	mu     sync.Mutex // one commit at a time
	known  bool       // at is what the store has
	at     position
	marked position   // what the remote is known to have
	trail  []position // committed since, the newest last, at most maxTrail
	dirty  []string   // branches to push
	before string     // the hand-over from the repository before this one
	began  string     // repository of the log's beginning
	proofs proofs
	late   late
	fatal  error

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
	next   string    // the repository where the log goes on, if it has left this one
	rolled *lastLeaf // the entry that says so, unless that was known before
}

// NewPublisher checks the configuration; it touches neither disk nor store.
func NewPublisher(cfg PublisherConfig) (*Publisher, error) {
	if (cfg.Journal == nil) == (cfg.Past == nil) || cfg.Store == nil {
		return nil, errors.New("audit: a publisher needs a journal or a past one, and a store")
	}
	if !cfg.Signer.ok() {
		return nil, errors.New("audit: a publisher needs an Ed25519 key for checkpoints")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
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
	p.proofs = proofs{store: cfg.Store, origin: p.inc.origin(), since: p.inc.Start, journal: p.journalLeaves}
	return p, nil
}

// branchName names the branch of a month (2006-01) of an origin.
func branchName(origin, month string) string { return "audit/" + origin + "/" + month }

// batchPath gives the path of a batch without its extension. No folder holds
// more than 1,000 folders and the files of 1,000 entries. From a billion on,
// the folder 1e9 (1e12, …) comes first: so a path is never in a folder that the
// store has let go of, see gitsync.Repo.Trim.
func batchPath(first uint64) string {
	groups := fmt.Sprintf("%03d", first/1000%1000)
	for n := first / 1_000_000; n > 0; n /= 1000 {
		groups = fmt.Sprintf("%03d/", n%1000) + groups
	}
	for power, n := 9, first/1_000_000_000; n > 0; power, n = power+3, n/1000 {
		if n < 1000 {
			groups = fmt.Sprintf("1e%d/", power) + groups
		}
	}
	return fmt.Sprintf("entries/%s/%03d", groups, first)
}

// Commit commits every durable entry that is not committed yet, the last batch
// with the signatures of those that Cosign asks. If there is none, and the last
// commit lacks some, it asks for these now and then (see late). It fails for good
// with ErrForked; after any other error nothing is lost, and it may be called
// again.
func (p *Publisher) Commit(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.commitAll(ctx, true); err != nil {
		return err
	}
	if more, err := p.askAgain(ctx); err != nil || !more {
		return err
	}
	return p.commitAll(ctx, true)
}

// Follow commits whole batches as soon as they are durable, until ctx is done,
// so that little is left to do when it is time to push. What fails here, the
// next Commit meets.
func (p *Publisher) Follow(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.ready:
			p.mu.Lock()
			if p.known && p.fatal == nil && p.end()-p.at.size >= minBatch {
				if err := p.commitAll(ctx, false); err != nil && ctx.Err() == nil {
					p.cfg.Log.Warn("entries could not be committed; they stay in the journal", "origin", p.inc.origin(), "err", err)
				}
			}
			p.mu.Unlock()
		}
	}
}

// Last gives the newest checkpoint and its signed note.
func (p *Publisher) Last() (Checkpoint, string, bool) {
	p.lastMu.Lock()
	defer p.lastMu.Unlock()
	return p.last, p.signed, p.signed != ""
}

// Rolled tells whether the log has left this repository, all that belongs here
// being on the remote, and for which one. The next publisher of the same
// journal, with that one's Store and Repo, goes on there.
func (p *Publisher) Rolled() (to string, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.marked.next, p.known && p.marked.next != ""
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

// keys are those that sign checkpoints now.
func (p *Publisher) keys() []Signer {
	if p.cfg.Previous.ok() {
		return []Signer{p.cfg.Signer, p.cfg.Previous}
	}
	return []Signer{p.cfg.Signer}
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
func (p *Publisher) commitAll(ctx context.Context, cosign bool) error {
	if p.fatal != nil {
		return p.fatal
	}
	if !p.known {
		if err := p.recover(); err != nil {
			return err
		}
		p.known = true
	}
	for until := p.end(); p.at.size < until && p.at.next == ""; {
		if err := p.commit(ctx, until, cosign); err != nil {
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
	begun  time.Time // of its first entry
	story  story
}

// read collects the batch after a position: one month's entries, bounded.
func (p *Publisher) read(from position, until uint64) (b batch, err error) {
	b.at, b.first = from, from.size
	b.at.edge, b.at.next, b.at.rolled = from.edge.clone(), "", nil
	c := &cursor{inc: p.inc, seq: from.size, first: from.file, off: from.off}
	defer func() { err = errors.Join(err, c.close()) }()
	for b.at.size < until && len(b.leaves) < maxBatch && len(b.lines) < maxBatchBytes && b.at.next == "" {
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
			b.month, b.begun = month, g.Time
		} else if month != b.month {
			break
		}
		leaf := tlog.RecordHash(line)
		if g.Kind == KindRolled {
			b.at.rolled = newLastLeaf(b.at.edge, line)
		}
		b.at.add(leaf)
		b.leaves = append(b.leaves, leaf)
		b.lines = append(append(b.lines, line...), '\n')
		b.at.last, b.at.file, b.at.off = g.Time, c.first, c.off
		b.story.count(g)
		if g.Kind == KindRolled {
			if b.at.next, err = rolledTo(g.Detail); err != nil {
				return b, fmt.Errorf("%w: %s, entry %d: %w", ErrDamaged, p.inc.dir, g.Seq, err)
			}
		}
	}
	b.at.bytes += int64(len(b.lines))
	return b, nil
}

func (p *Publisher) commit(ctx context.Context, until uint64, cosign bool) error {
	b, err := p.read(p.at, until)
	if err != nil {
		return err
	}
	c := Checkpoint{Origin: p.inc.origin(), Size: b.at.size, Root: b.at.root()}
	if b.at.signed, err = c.SignWith(ctx, p.keys()...); err != nil {
		return err
	}
	cosigned := false
	if cosign && b.at.size == until && p.cfg.Cosign != nil {
		signed, err := p.cosigned(ctx, c, b.at.signed, b.at.edge, func(ctx context.Context, old uint64) (tlog.TreeProof, error) {
			return p.proofs.from(ctx, old, b.first, b.leaves, b.at.last)
		})
		b.at.signed, cosigned = signed, err == nil
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
		if p.at.branch == "" && p.before != "" {
			files[handoverFile] = []byte(p.before)
		}
	}
	when := p.cfg.Now().UTC()
	if when.Before(b.at.last) {
		when = b.at.last
	}
	b.at.commit, err = p.cfg.Store.Commit(ctx, b.at.branch, parent, files, b.story.message(b.at.signed), when)
	if err != nil {
		return fmt.Errorf("audit: commit to %s: %w", b.at.branch, err)
	}
	p.arrive(b.at, c)
	p.late.committed(cosigned, p.cfg.Now(), p.cfg.Rand)
	p.proofs.committed(b.first, b.leaves)
	if p.cfg.Told != nil {
		p.cfg.Told(b.story.tally(b.begun, b.at.last))
	}
	return nil
}

// arrive takes a position over as what the store has.
func (p *Publisher) arrive(at position, c Checkpoint) {
	p.at = at
	if p.trail = append(p.trail, at); len(p.trail) > maxTrail {
		p.trail = slices.Delete(p.trail, 0, 1)
	}
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
