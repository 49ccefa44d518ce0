package audit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The state directory:
//
//	lock                                    flock(2)ed while an enforcer runs
//	journal/<incarnation>/meta.json         enforcer, incarnation, start
//	journal/<incarnation>/<first>.jsonl     entries from <first> (20 digits) on, a line each
//	journal/<incarnation>/published.json    how far the publisher came (see mark)
//	pruned                                  an incarnation's directory, on its way out
//
// Entries that were written and made durable together, a group, begin with
// groupMark, before the first one's line: white space to whoever reads JSON.
// Where a mark stands, everything before it was durable. The room that a file
// keeps ahead of its entries reads as zeroes, which no entry contains.
const (
	groupMark = ' '
	groupHead = ` {"seq":` // in no line, but at a group's beginning: lines hold no white space between tokens, and no bare quotation mark in strings
)

const (
	journalDir = "journal"
	prunedDir  = "pruned"
	metaFile   = "meta.json"
	markFile   = "published.json"
	segmentExt = ".jsonl"
)

var (
	// ErrInUse: another process holds the state directory.
	ErrInUse = errors.New("is in use by another enforcer")
	// ErrDamaged: the journal on disk does not read, and not because its
	// last write was cut short.
	ErrDamaged = errors.New("audit: the journal on disk is damaged")
)

// Lock takes the state directory for this process, creating it if need be,
// until the closer is closed or the process ends. ErrInUse if another process
// has it.
func Lock(stateDir string) (io.Closer, error) {
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return nil, fmt.Errorf("audit: state directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(stateDir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("audit: state directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = ErrInUse
		}
		return nil, errors.Join(fmt.Errorf("audit: state directory %s %w: stop that one, or give this one a directory of its own", stateDir, err), f.Close())
	}
	return f, nil
}

// meta is written once, before an incarnation's first entry.
type meta struct {
	Format      int       `json:"format"` // 1
	Enforcer    string    `json:"enforcer"`
	Incarnation string    `json:"incarnation"`
	Start       time.Time `json:"start"`
}

// incarnation is one run's directory.
type incarnation struct {
	meta
	dir string
}

func (i *incarnation) origin() string { return i.Enforcer + "/" + i.Incarnation }

func (i *incarnation) segmentPath(first uint64) string {
	return filepath.Join(i.dir, fmt.Sprintf("%020d%s", first, segmentExt))
}

func createIncarnation(stateDir, enforcer, id string, now time.Time) (*incarnation, error) {
	if err := errors.Join(checkName("enforcer", enforcer), checkName("incarnation", id)); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	parent := filepath.Join(stateDir, journalDir)
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	i := &incarnation{
		meta: meta{Format: 1, Enforcer: enforcer, Incarnation: id, Start: now.UTC()},
		dir:  filepath.Join(parent, id),
	}
	if err := os.Mkdir(i.dir, 0o700); err != nil {
		return nil, fmt.Errorf("audit: an incarnation is never continued: %w", err)
	}
	b, err := json.Marshal(i.meta)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	if err := writeDurably(filepath.Join(i.dir, metaFile), b); err != nil {
		return nil, err
	}
	return i, errors.Join(syncDir(parent), syncDir(stateDir))
}

// writeDurably replaces a file in one step, and makes it and its name durable.
func writeDurably(path string, b []byte) error {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

// segments lists the numbers of the first entries of the files, in order.
func (i *incarnation) segments() ([]uint64, error) {
	des, err := os.ReadDir(i.dir)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	var firsts []uint64
	for _, de := range des {
		if stem, ok := strings.CutSuffix(de.Name(), segmentExt); ok {
			n, err := strconv.ParseUint(stem, 10, 64)
			if err != nil {
				return nil, fmt.Errorf("%w: file name %s", ErrDamaged, filepath.Join(i.dir, de.Name()))
			}
			firsts = append(firsts, n)
		}
	}
	slices.Sort(firsts)
	return firsts, nil
}

// prune deletes files of which every entry is below pushed and older than before.
func (i *incarnation) prune(pushed uint64, before time.Time) error {
	firsts, err := i.segments()
	if err != nil {
		return err
	}
	for k := 0; k+1 < len(firsts) && firsts[k+1] <= pushed; k++ { // the newest file always stays
		// No entry of this file is younger than the first of the next one.
		c := &cursor{inc: i, seq: firsts[k+1], first: firsts[k+1]}
		line, err := c.next()
		var e Entry
		if err == nil {
			e, err = Decode(line)
		}
		if err = errors.Join(err, c.close()); errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil || !e.Time.Before(before) {
			return err
		}
		if err := os.Remove(i.segmentPath(firsts[k])); err != nil {
			return fmt.Errorf("audit: %w", err)
		}
	}
	return nil
}

// cursor reads an incarnation's lines from one entry on.
type cursor struct {
	inc   *incarnation
	seq   uint64 // of the next line
	first uint64 // file it is in
	off   int64  // where in that file
	f     *os.File
	r     *bufio.Reader
}

// errRoom: there is no entry here yet, but room for one.
var errRoom = fmt.Errorf("audit: room, not written yet: %w", io.EOF)

// lineBuffer holds a line, its mark and its line feed.
const lineBuffer = MaxLine + 2

// readLine returns a line without its mark and line feed, and how many bytes
// it takes in the file. Errors: io.EOF, errRoom, and io.ErrUnexpectedEOF if the
// line ends with the file or with room.
func readLine(r *bufio.Reader) ([]byte, int64, error) {
	if head, err := r.Peek(1); err != nil {
		return nil, 0, err
	} else if head[0] == 0 {
		return nil, 0, errRoom
	}
	b, err := r.ReadSlice('\n')
	if err == io.EOF || bytes.IndexByte(b, 0) >= 0 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, 0, err
	}
	n := int64(len(b))
	if b[0] == groupMark {
		b = b[1:]
	}
	return b[:len(b)-1], n, nil
}

// next returns the next line without its line feed, good until the next call;
// io.EOF at the end, errRoom where room begins, io.ErrUnexpectedEOF if the end
// has no line feed.
func (c *cursor) next() ([]byte, error) {
	for {
		if c.f == nil {
			f, err := os.Open(c.inc.segmentPath(c.first))
			if err != nil {
				return nil, fmt.Errorf("audit: %w", err)
			}
			if _, err := f.Seek(c.off, io.SeekStart); err != nil {
				return nil, errors.Join(fmt.Errorf("audit: %w", err), f.Close())
			}
			c.f, c.r = f, bufio.NewReaderSize(f, lineBuffer)
		}
		b, n, err := readLine(c.r)
		switch {
		case err == nil:
			c.seq++
			c.off += n
			return b, nil
		case err != io.EOF:
			return nil, err
		}
		// The end of this file; does another go on?
		if c.seq == c.first {
			return nil, io.EOF
		}
		if _, err := os.Stat(c.inc.segmentPath(c.seq)); errors.Is(err, fs.ErrNotExist) {
			return nil, io.EOF
		} else if err != nil {
			return nil, fmt.Errorf("audit: %w", err)
		}
		if err := c.close(); err != nil {
			return nil, err
		}
		c.first, c.off = c.seq, 0
	}
}

func (c *cursor) close() error {
	if c.f == nil {
		return nil
	}
	err := c.f.Close()
	c.f, c.r = nil, nil
	return err
}

// ReadEntries reads lines, decoding each strictly; the number of an entry must
// follow the one before. It reads a file of a journal, too, and ends where room
// begins. It ends after the first error, io.ErrUnexpectedEOF if the last line
// has no line feed.
func ReadEntries(r io.Reader) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		br := bufio.NewReaderSize(r, lineBuffer)
		var want uint64
		for n := 0; ; n++ {
			b, _, err := readLine(br)
			if errors.Is(err, io.EOF) {
				return
			}
			var e Entry
			if err == nil {
				e, err = Decode(b)
			}
			if err == nil && n > 0 && e.Seq != want {
				err = fmt.Errorf("%w: number %d where %d belongs", ErrEntry, e.Seq, want)
			}
			if err != nil {
				yield(Entry{}, fmt.Errorf("line %d: %w", n+1, err))
				return
			}
			want = e.Seq + 1
			if !yield(e, nil) {
				return
			}
		}
	}
}
