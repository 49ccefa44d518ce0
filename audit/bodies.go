package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	agefile "filippo.io/age"
)

// BodyStore keeps branches of bodies, beside what a Store promises.
type BodyStore interface {
	Store
	// Restore puts a branch at a commit that descends from its tip, if it has
	// one: where it stood before a crash took its reference back. An error if
	// the commit does not, or what lies between is not whole.
	Restore(branch, commit string) error
}

// BodiesConfig says whose bodies are published, and how.
type BodiesConfig struct {
	Journal *Journal // or
	Past    *Past
	Store   BodyStore
	// Recipients gives those whom bodies are sealed to of which the journal does
	// not say it (see Body.To); none: to nobody. While ok is false it is not
	// known, and these bodies, with all behind them, wait in the journal: nothing
	// is published open that the policy might want sealed.
	Recipients func() (to []agefile.Recipient, ok bool)
	// Erased tells of a digest whose body was erased before it was published;
	// nil: none was.
	Erased func(digest string) bool
	Now    func() time.Time // nil: time.Now
}

// Bodies takes the kept bodies of an incarnation's journal to their branches:
// a commit a batch, with the bodies and the file "position". It is a Part of an
// Outlet.
//
// Sealing is random: a body that is committed twice is two objects, and two
// branches. So what a branch holds is taken over, never made again: "position"
// in its tip says how far it has come, and before a commit may be pushed, the
// mark on this disk names it, so that a reference that a crash took back is
// found again. A branch that was written anew meanwhile is continued.
type Bodies struct {
	cfg  BodiesConfig
	inc  *incarnation
	end  func() uint64
	done func(bodyPoint)

	batch int // bytes of a commit's files, at about which it ends

	mu    sync.Mutex // one commit or push at a time
	known bool       // at is where the branches are
	at    bodyPoint
	seals map[string]func([]byte) ([]byte, error) // by recipients, a line each
	begun bool                                    // mark was read
	mark  bodiesMark                              // as it is on this disk, or is to be next
	noted uint64                                  // mark.Pushed.Next on this disk
}

const (
	maxBatchBodies    = 2048
	maxBatchBodyBytes = 16 << 20
	maxSeals          = 64
	noteEvery         = 4096 // entries
)

// NewBodies checks the configuration; it touches neither disk nor store.
func NewBodies(cfg BodiesConfig) (*Bodies, error) {
	if (cfg.Journal == nil) == (cfg.Past == nil) || cfg.Store == nil || cfg.Recipients == nil {
		return nil, errors.New("audit: bodies need a journal or a past one, a store, and Recipients")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Erased == nil {
		cfg.Erased = func(string) bool { return false }
	}
	b := &Bodies{cfg: cfg, batch: maxBatchBodyBytes}
	if j := cfg.Journal; j != nil {
		b.inc, b.end = j.inc, j.durableEntries
		b.done = func(p bodyPoint) { j.bodiesPublished(p.Next, p.Bytes) }
	} else {
		p := cfg.Past
		b.inc, b.end = p.inc, func() uint64 { return p.Entries }
		b.done = func(at bodyPoint) { p.bodiesPublished(at.Next) }
	}
	return b, nil
}

// Commit commits the bodies of every durable entry that are not committed yet.
func (b *Bodies) Commit(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.known {
		if err := b.recover(); err != nil {
			return err
		}
		b.known = true
	}
	for until := b.end(); b.at.Next < until; {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := b.commit(ctx, until)
		if w := waiting(0); errors.As(err, &w) {
			until = uint64(w)
		} else if err != nil {
			b.known = false // it may have happened: look at the branch first
			return err
		}
	}
	if len(b.mark.Dirty) > 0 || b.mark.Pushed.Next == b.at.Next {
		return nil
	}
	b.arrived() // nothing of it waits
	if b.cfg.Past == nil && b.at.Next < b.noted+noteEvery {
		return nil // it costs little to look again
	}
	return b.note()
}

// waiting is the number of an entry of which it is not known yet whom its bodies
// are sealed to. Those before it can be committed.
type waiting uint64

func (w waiting) Error() string { return fmt.Sprintf("the bodies of entry %d wait for a policy", w) }

// seal gives what seals a body; nil if it is to be sealed to nobody.
func (b *Bodies) seal(k Kept) (func([]byte) ([]byte, error), error) {
	if k.To == nil {
		to, ok := b.cfg.Recipients()
		if !ok {
			return nil, waiting(k.Seq)
		}
		return sealer(to), nil
	}
	key := strings.Join(k.To, "\n")
	seal, ok := b.seals[key]
	if !ok {
		to, err := ParseRecipients(k.To)
		if err != nil {
			return nil, fmt.Errorf("%w: body of entry %d: %w", ErrDamaged, k.Seq, err)
		}
		if len(b.seals) >= maxSeals || b.seals == nil {
			b.seals = map[string]func([]byte) ([]byte, error){}
		}
		seal = sealer(to)
		b.seals[key] = seal
	}
	return seal, nil
}

// settle returns when a commit that was under way has ended: the next one asks
// anew what was erased. It tells of which run these bodies are, and the first
// entry of which none is committed.
func (b *Bodies) settle() (run string, next uint64, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.known {
		if err := b.recover(); err != nil {
			return "", 0, err
		}
		b.known = true
	}
	return b.inc.Incarnation, b.at.Next, nil
}

// Dirty names the branches with commits that the remote lacks.
func (b *Bodies) Dirty() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var names []string
	var dirty []dirtyBranch
	for _, d := range b.mark.Dirty {
		switch tip, ok, err := b.cfg.Store.Tip(d.Branch); {
		case err != nil: // the push will say it
		case !ok:
			continue // removed meanwhile: who did it takes it off the remote
		default:
			d.Tip = tip // written anew meanwhile, maybe
		}
		names, dirty = append(names, d.Branch), append(dirty, d)
	}
	b.mark.Dirty = dirty
	return names
}

// Pushed tells that the remote has these branches at these commits.
func (b *Bodies) Pushed(_ context.Context, tips map[string]string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mark.Dirty = slices.DeleteFunc(b.mark.Dirty, func(d dirtyBranch) bool { return tips[d.Branch] == d.Tip })
	if len(b.mark.Dirty) > 0 {
		return nil
	}
	b.arrived()
	return b.note() // pushed, and if this fails not known: the next start finds out
}

// arrived: nothing that was committed is not on the remote.
func (b *Bodies) arrived() {
	b.mark.Pushed = b.at
	b.done(b.at)
}

// bodyBatch is what one commit adds.
type bodyBatch struct {
	at     bodyPoint // after it
	branch string    // empty: there is nothing to commit
	files  map[string][]byte
	count  int
	sealed int
	first  uint64 // entry of the first body
	last   time.Time
}

// read collects the next bodies: of one month, bounded, and all of an entry.
func (b *Bodies) read(until uint64) (out bodyBatch, err error) {
	out.at, out.files = b.at, map[string][]byte{}
	c := b.inc.bodiesFrom(b.at.Next, b.at.File, b.at.Offset)
	defer func() { err = errors.Join(err, c.close()) }()
	var e Entry
	size, known := 0, false
	for {
		k, err := c.next(until)
		if err == io.EOF {
			out.at.Next, out.at.File, out.at.Offset = until, c.first, c.off
			return out, nil
		}
		if err == nil && (!known || k.Seq != e.Seq) {
			if out.count >= maxBatchBodies || size >= b.batch {
				out.at.Next, out.at.File, out.at.Offset = k.Seq, c.first, c.off
				return out, nil
			}
			e, err = Decode(c.line)
			known = true
		}
		if err == nil && (e.Seq != k.Seq || k.Index >= len(e.Bodies)) {
			err = fmt.Errorf("%w: a body of entry %d", ErrEntry, k.Seq)
		}
		if err != nil {
			return out, fmt.Errorf("%w: %s, bodies from entry %d on: %w", ErrDamaged, b.inc.dir, b.at.Next, err)
		}
		ref := e.Bodies[k.Index]
		branch, path, err := bodyPlace(b.inc.origin(), e.Time, ref)
		if err != nil {
			return out, err
		}
		if out.branch != "" && branch != out.branch {
			out.at.Next, out.at.File, out.at.Offset = k.Seq, c.first, c.off
			return out, nil
		}
		out.at.Bytes += k.Bytes
		if b.cfg.Erased(ref.Digest) {
			continue
		}
		seal, err := b.seal(k)
		if err != nil {
			return out, err
		}
		files, err := encodeBody(path, ref.Of, k.Salt, k.Text, seal)
		if err != nil {
			return out, err
		}
		if seal != nil {
			out.sealed++
		}
		for p, f := range files {
			out.files[p] = f
			size += len(f)
		}
		if out.count++; out.count == 1 {
			out.branch, out.first = branch, k.Seq
		}
		out.last = e.Time
	}
}

func (b *Bodies) commit(ctx context.Context, until uint64) error {
	next, err := b.read(until)
	if err != nil {
		return err
	}
	if next.branch == "" {
		b.at = next.at
		return nil
	}
	tip, at, err := b.tip(next.branch)
	switch {
	case err != nil:
		return err
	case at > b.at.Next: // of a month that was begun before a crash
		return b.skip(next.branch, tip, at)
	}
	position, err := json.Marshal(bodyPosition{b.inc.origin(), next.at.Next})
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	next.files[positionFile] = append(position, '\n')
	when := b.cfg.Now().UTC()
	if when.Before(next.last) {
		when = next.last
	}
	commit, err := b.cfg.Store.Commit(ctx, next.branch, tip, next.files, next.message(), when)
	if err != nil {
		return fmt.Errorf("audit: commit to %s: %w", next.branch, err)
	}
	b.at = next.at
	return b.stain(next.branch, commit)
}

func (n *bodyBatch) message() string {
	what, some := plural(n.count, "body", "bodies"), ""
	switch n.sealed {
	case 0:
	case n.count:
		what = "sealed " + what
	default:
		some = fmt.Sprintf(", %d of them sealed", n.sealed)
	}
	return fmt.Sprintf("%d %s%s\n\nEntries: %d-%d", n.count, what, some, n.first, n.at.Next-1)
}
