package audit

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"
)

// The state directory:
//
//	lock                                    flock(2)ed while an enforcer runs
//	journal/<incarnation>/meta.json         format, enforcer, incarnation, start
//	journal/<incarnation>/<first>.jsonl     entries from <first> on: see segment.go (format 2), format1.go
//	journal/<incarnation>/published.json    how far the publisher came (see mark)
//	journal/<incarnation>/unrecorded.json   what was refused without an entry and is not told yet (see counted)
//	pruned                                  an incarnation's directory, on its way out
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
	if _, err := os.Stat(stateDir); errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(stateDir, 0o700); err == nil {
			err = osDisk{}.SyncDir(filepath.Dir(stateDir))
		}
		if err != nil {
			return nil, fmt.Errorf("audit: state directory: %w", err)
		}
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
	return lock{f}, nil
}

type lock struct{ *os.File }

// Close gives the directory back, also while a process that is just being
// started, and has all that is open here until it runs, shares the file.
func (l lock) Close() error {
	return errors.Join(syscall.Flock(int(l.Fd()), syscall.LOCK_UN), l.File.Close())
}

// meta is written once, before an incarnation's first entry.
type meta struct {
	Format      int       `json:"format"` // 2; 1 was written by earlier versions
	Enforcer    string    `json:"enforcer"`
	Incarnation string    `json:"incarnation"`
	Start       time.Time `json:"start"`
}

// Disk is what the journal needs of a file system; the paths are absolute or
// all relative. What is created, renamed or removed is durable, as a name,
// once the directory was synced.
type Disk interface {
	Mkdir(path string) error
	Create(path string) (File, error) // to write to; it must not exist
	Rename(from, to string) error
	Remove(path string) error
	SyncDir(path string) error
}

// osDisk is the operating system's.
type osDisk struct{}

func (osDisk) Mkdir(path string) error          { return os.Mkdir(path, 0o700) }
func (osDisk) Create(path string) (File, error) { return openData(path) }
func (osDisk) Rename(from, to string) error     { return os.Rename(from, to) }
func (osDisk) Remove(path string) error         { return os.Remove(path) }

func (osDisk) SyncDir(path string) error {
	d, err := os.Open(filepath.Clean(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// incarnation is one run's directory.
type incarnation struct {
	meta
	dir  string
	disk Disk

	mu    sync.Mutex
	chain []segment // the files that count, in order
}

func (i *incarnation) origin() string { return i.Enforcer + "/" + i.Incarnation }

func createIncarnation(disk Disk, stateDir, enforcer, id string, now time.Time) (*incarnation, error) {
	if err := errors.Join(checkName("enforcer", enforcer), checkName("incarnation", id)); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	parent := filepath.Join(stateDir, journalDir)
	i := &incarnation{
		meta: meta{Format: 2, Enforcer: enforcer, Incarnation: id, Start: now.UTC()},
		dir:  filepath.Join(parent, id), disk: disk,
	}
	err := disk.Mkdir(stateDir)
	if err == nil {
		err = disk.SyncDir(filepath.Dir(stateDir))
	}
	if err == nil || errors.Is(err, fs.ErrExist) {
		err = disk.Mkdir(parent)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("audit: %w", err)
	}
	if err := disk.Mkdir(i.dir); err != nil {
		return nil, fmt.Errorf("audit: an incarnation is never continued: %w", err)
	}
	b, err := json.Marshal(i.meta)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	if err := writeDurably(disk, filepath.Join(i.dir, metaFile), b); err != nil {
		return nil, err
	}
	if err := errors.Join(disk.SyncDir(parent), disk.SyncDir(stateDir)); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	return i, nil
}

// writeDurably replaces a file in one step, and makes it and its name durable.
func writeDurably(disk Disk, path string, b []byte) error {
	tmp := path + ".new"
	err := disk.Remove(tmp) // of a try that was cut short
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	var f File
	if err == nil {
		f, err = disk.Create(tmp)
	}
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = disk.Rename(tmp, path)
	}
	if err == nil {
		err = disk.SyncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	return nil
}

// load reads the names of the files. Only a journal that nobody writes is
// loaded; a Journal tells begun instead.
func (i *incarnation) load() error {
	des, err := os.ReadDir(i.dir)
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	chain, _, err := parseSegments(i.dir, des)
	if err != nil {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.chain = chain
	return nil
}

// begun adds a file, the newest, before any entry in it is durable.
func (i *incarnation) begun(s segment) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if n := len(i.chain); n > 0 && i.chain[n-1].first == s.first {
		i.chain = i.chain[:n-1]
	}
	i.chain = append(i.chain, s)
}

// file gives the file whose first entry has that number.
func (i *incarnation) file(first uint64) (segment, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	k, ok := slices.BinarySearchFunc(i.chain, first, func(s segment, first uint64) int { return cmp.Compare(s.first, first) })
	if !ok {
		return segment{}, false
	}
	return i.chain[k], true
}

// files gives all that count, in order.
func (i *incarnation) files() []segment {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.chain)
}

func (i *incarnation) path(s segment) string { return filepath.Join(i.dir, s.name()) }

// prune deletes files of which every entry is below pushed and older than before.
func (i *incarnation) prune(pushed uint64, before time.Time) error {
	files := i.files()
	for k := 0; k+1 < len(files) && files[k+1].first <= pushed; k++ { // the newest file always stays
		// No entry of this file is younger than the first of the next one.
		c := &cursor{inc: i, seq: files[k+1].first, first: files[k+1].first}
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
		if err := i.remove(files[k]); err != nil {
			return fmt.Errorf("audit: %w", err)
		}
	}
	return nil
}

// remove deletes the oldest file, after the failed ones that had its number:
// alone, one of those would count.
func (i *incarnation) remove(s segment) error {
	for try := range s.try {
		if err := i.disk.Remove(i.path(segment{s.first, try})); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if s.try > 0 {
		if err := i.disk.SyncDir(i.dir); err != nil {
			return err
		}
	}
	if err := i.disk.Remove(i.path(s)); err != nil {
		return err
	}
	i.mu.Lock()
	i.chain = slices.DeleteFunc(i.chain, func(t segment) bool { return t == s })
	i.mu.Unlock()
	return i.disk.SyncDir(i.dir) // or a crash may bring this one back, but not the next
}

// since forgets the files before the last gap, as far as all that is missing
// there is below pushed: they were removed, and a crash brought some back.
func (i *incarnation) since(pushed uint64) error {
	files := i.files()
	for k := len(files) - 1; k > 0; k-- {
		if files[k].first > pushed {
			continue
		}
		f, err := os.Open(i.path(files[k]))
		if err != nil {
			return fmt.Errorf("audit: %w", err)
		}
		g := groupReader{r: bufio.NewReaderSize(f, maxHead)}
		h, unread := g.segment() // if it does not read, a reader of its entries says so
		if err := f.Close(); err != nil {
			return fmt.Errorf("audit: %w", err)
		}
		if unread == nil && h.After != files[k-1].name() {
			i.mu.Lock()
			i.chain = files[k:]
			i.mu.Unlock()
			return nil
		}
	}
	return nil
}
