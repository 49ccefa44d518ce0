package audit

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Past is an earlier incarnation, found on this disk. It is only read.
type Past struct {
	Enforcer    string
	Incarnation string
	Start       time.Time
	Entries     uint64 // whole entries
	Torn        int64  // bytes after them, of a write that a crash cut short: nobody was told that it succeeded (room does not count)

	inc        *incarnation
	mu         sync.Mutex // over mark, which a Publisher writes
	mark       mark
	bytes      int64 // of the entries, from the first ever
	last       time.Time
	bodies     uint64 // entries whose bodies are on the remote
	checkpoint string // committed since the mark, if any
}

// mark is the content of published.json: how far the remote is known to have
// the entries. It is replaced, durably, after each push, and may lag behind
// what a crash interrupted.
type mark struct {
	Entries    uint64    `json:"entries"`            // pushed
	Bytes      int64     `json:"bytes"`              // of their lines, line feeds included
	Last       time.Time `json:"last"`               // time of the last of them
	File       uint64    `json:"file"`               // file where the next entry begins …
	Offset     int64     `json:"offset"`             // … and where in it
	Hashes     [][]byte  `json:"hashes"`             // the tree so far (see edge)
	Branch     string    `json:"branch"`             // of the last commit
	Commit     string    `json:"commit"`             // the last commit
	Checkpoint string    `json:"checkpoint"`         // the signed note in it
	Repo       string    `json:"repo,omitempty"`     // where the branch is, if repositories roll
	Began      string    `json:"began,omitempty"`    // where the log began, and where the run's bodies are
	Next       string    `json:"next,omitempty"`     // where the log goes on: the last pushed entry is of kind rolled
	Handover   string    `json:"handover,omitempty"` // with what that begins; none in a mark of an earlier version
}

func (i *incarnation) readMark() (mark, error) {
	var m mark
	b, err := os.ReadFile(filepath.Join(i.dir, markFile))
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil {
		return m, fmt.Errorf("%w: %s: %w", ErrDamaged, filepath.Join(i.dir, markFile), err)
	}
	return m, nil
}

func (i *incarnation) writeMark(m mark) error {
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	return writeDurably(i.disk, filepath.Join(i.dir, markFile), b)
}

// Previous finds the earlier incarnations of a state directory, oldest first.
// The caller holds its Lock and has not opened a Journal yet. What a crash
// left torn at an end is counted and otherwise ignored; ErrDamaged if
// anything else does not read, since that may be a loss of what was
// acknowledged.
func Previous(stateDir string) ([]*Past, error) {
	root := filepath.Join(stateDir, journalDir)
	des, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	var all []*Past
	for _, de := range des {
		p, err := openPast(filepath.Join(root, de.Name()))
		if err != nil {
			return nil, err
		}
		if p != nil {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b *Past) int { return a.Start.Compare(b.Start) })
	return all, nil
}

func openPast(dir string) (*Past, error) {
	inc := &incarnation{dir: dir, disk: osDisk{}}
	if err := inc.load(); err != nil {
		return nil, err
	}
	files := inc.files()
	b, err := os.ReadFile(filepath.Join(dir, metaFile))
	if errors.Is(err, fs.ErrNotExist) && len(files) == 0 {
		return nil, nil // died before it began
	}
	if err == nil {
		err = json.Unmarshal(b, &inc.meta)
	}
	if err == nil && (inc.Format != 1 && inc.Format != 2 || inc.Incarnation != filepath.Base(dir)) {
		err = errors.New("not this directory's, or of a later version")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrDamaged, filepath.Join(dir, metaFile), err)
	}
	p := &Past{Enforcer: inc.Enforcer, Incarnation: inc.Incarnation, Start: inc.Start, inc: inc}
	if p.mark, err = inc.readMark(); err != nil {
		return nil, err
	}
	if inc.Format == 2 {
		if err := inc.since(p.mark.Entries); err != nil {
			return p, err
		}
	}
	if files = inc.files(); len(files) > 0 {
		if err := p.scan(files); err != nil {
			return p, err
		}
	}
	m, err := inc.readBodiesMark()
	if p.bodies = m.Pushed.Next; err == nil && m.Pushed.Next < p.Entries && len(files) > 0 {
		p.bodies, err = p.unpublishedBody(m.Pushed)
	}
	return p, err
}

// unpublishedBody gives the number of the first entry after a point that keeps
// a body, or of all if none does: then nothing waits, though nobody noted that
// (most runs keep none, and one that died noted little).
func (p *Past) unpublishedBody(after bodyPoint) (uint64, error) {
	if after == (bodyPoint{}) {
		after.File = p.inc.files()[0].first
		after.Next = after.File
	}
	c := p.inc.bodiesFrom(after.Next, after.File, after.Offset)
	k, err := c.next(p.Entries)
	if err == io.EOF {
		return p.Entries, c.close()
	}
	return k.Seq, errors.Join(err, c.close())
}

// scan counts the entries after the mark; those before it are in Git. The
// tail may sit in the page cache only, if just the process died: publishing
// it must not outrun the disk, so it is synced first.
func (p *Past) scan(files []segment) error {
	f, err := os.Open(p.inc.path(files[len(files)-1]))
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	p.Entries, p.bytes, p.last = p.mark.Entries, p.mark.Bytes, p.mark.Last
	c := &cursor{inc: p.inc, seq: p.mark.Entries, first: p.mark.File, off: p.mark.Offset}
	for {
		line, err := c.next()
		if err == io.EOF && files[len(files)-1].first <= p.Entries {
			return c.close()
		}
		var e Entry
		if err == nil {
			e, err = Decode(line)
		}
		if err == nil && e.Seq != p.Entries {
			err = fmt.Errorf("%w: number %d where %d belongs", ErrEntry, e.Seq, p.Entries)
		}
		if err != nil {
			if p.inc.Format == 1 {
				err = p.tornLines(files, err)
			} else {
				err = p.torn(files, c, err)
			}
			return errors.Join(err, c.close())
		}
		p.Entries, p.bytes, p.last = e.Seq+1, p.bytes+int64(len(line))+1, e.Time
	}
}

// Checkpoint is the last one that was committed, a signed note; "" if none.
// To cover everything, let a Publisher Commit what is left first.
func (p *Past) Checkpoint() string {
	if p.checkpoint != "" {
		return p.checkpoint
	}
	return p.mark.Checkpoint
}

// Repo names the repository that the log is in, "" if that is not known: where
// repositories do not roll, or nothing was published yet.
func (p *Past) Repo() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return cmp.Or(p.mark.Next, p.mark.Repo)
}

// Began names the repository that the log began in, and that the run's bodies
// go to; "" if that is not known.
func (p *Past) Began() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mark.Began
}

// Published tells whether every entry has reached the remote.
func (p *Past) Published() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mark.Entries == p.Entries && p.bodies == p.Entries
}

func (p *Past) bodiesPublished(entries uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bodies = entries
}

func (p *Past) published(m mark) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mark = m
}

// Read gives the entries that are still on this disk, oldest first.
func (p *Past) Read() iter.Seq2[Entry, error] {
	return p.inc.read(func() uint64 { return p.Entries })
}

// Read gives the entries that are durable now and still on this disk, oldest
// first.
func (j *Journal) Read() iter.Seq2[Entry, error] { return j.inc.read(j.durableEntries) }

func (j *Journal) durableEntries() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.durable.entries
}

func (i *incarnation) read(end func() uint64) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		files := i.files()
		if len(files) == 0 {
			return
		}
		limit := end()
		c := &cursor{inc: i, seq: files[0].first, first: files[0].first}
		for c.seq < limit {
			var e Entry
			line, err := c.next()
			if err == nil {
				e, err = Decode(line)
			}
			if err != nil {
				yield(Entry{}, fmt.Errorf("%w: %s, entry %d: %w", ErrDamaged, i.dir, c.seq, err))
				break
			}
			if !yield(e, nil) {
				break
			}
		}
		if err := c.close(); err != nil {
			yield(Entry{}, err)
		}
	}
}

// Prune removes the oldest of the earlier incarnations (all of them, oldest
// first, as Previous gives them), and returns those that remain. It stops at
// the first that is not wholly published, that wrote an entry at or after
// before (a live approval may need it), or that is one of the newest keep: what
// remains is always the end of the record, so that an entry that closes a call
// never goes before the one that opened it.
//
// It may run while Publishers do.
func Prune(all []*Past, keep int, before time.Time) ([]*Past, error) {
	for len(all) > max(keep, 0) && all[0].Published() && all[0].last.Before(before) {
		// In one step, as Previous sees it: half a journal looks like damage.
		dir := all[0].inc.dir
		gone := filepath.Join(filepath.Dir(filepath.Dir(dir)), prunedDir)
		err := os.RemoveAll(gone) // of a removal that was cut short
		if err == nil {
			err = os.Rename(dir, gone)
		}
		if err == nil {
			err = os.RemoveAll(gone)
		}
		if err != nil {
			return all, fmt.Errorf("audit: %w", err)
		}
		all = all[1:]
	}
	return all, nil
}
