package audit

import (
	"errors"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// crashDisk is a directory whose every change is remembered, so that what a
// crash would have left at any moment can be made afterwards: of what was not
// synced, any sectors, sizes and names, or none. Nothing in it is slow.
type crashDisk struct {
	root string
	// fault, if set, may have a step fail: it says whether the step has an
	// effect first.
	fault func(n int, s step) (effect bool, err error)

	mu    sync.Mutex
	steps []step
	seen  []moment // before each step
	now   moment
	room  int64 // of the disk; 0: no bound
	used  int64
}

// step is one change, or one promise that changes are durable.
type step struct {
	op   string // mkdir, create, write, grow, sync, cut, rename, remove, syncdir; or something outside
	path string // file: where it was created
	to   string
	file *crashFile
	off  int64
	data []byte
	err  bool // it failed, or there is no telling
	done bool // it had its effect
}

// moment is what else was true before a step.
type moment struct {
	acked int       // entries acknowledged
	store *memStore // what Git held
	next  *memStore // and the repository in which the log goes on, if it rolls
}

func newCrashDisk(root string) *crashDisk {
	return &crashDisk{root: root, now: moment{store: newStore()}}
}

// do makes a step. effect has it happen in the real directory; d.mu is held.
func (d *crashDisk) do(s step, effect func() error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	happens, failure := true, error(nil)
	if d.fault != nil {
		happens, failure = d.fault(len(d.steps), s)
		if failure == nil {
			happens = true
		}
	}
	if happens {
		if err := effect(); err != nil {
			return err
		}
	}
	s.err, s.done = failure != nil, happens
	d.seen = append(d.seen, d.now)
	d.steps = append(d.steps, s)
	return failure
}

// outside marks a step of something else: of the store.
func (d *crashDisk) outside(op string) error {
	return d.do(step{op: op}, func() error { return nil })
}

func (d *crashDisk) tell(change func(m *moment)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(&d.now)
}

func (d *crashDisk) Mkdir(path string) error {
	if _, err := os.Stat(path); err == nil {
		return fs.ErrExist
	}
	return d.do(step{op: "mkdir", path: path}, func() error { return os.Mkdir(path, 0o700) })
}

func (d *crashDisk) Create(path string) (File, error) {
	f := &crashFile{disk: d}
	err := d.do(step{op: "create", path: path, file: f}, func() (err error) {
		f.f, err = os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		return err
	})
	if err != nil {
		if f.f != nil {
			err = errors.Join(err, f.f.Close())
		}
		return nil, err
	}
	return f, nil
}

func (d *crashDisk) Rename(from, to string) error {
	return d.do(step{op: "rename", path: from, to: to}, func() error { return os.Rename(from, to) })
}

func (d *crashDisk) Remove(path string) error {
	if _, err := os.Stat(path); err != nil {
		return err
	}
	return d.do(step{op: "remove", path: path}, func() error { return os.Remove(path) })
}

func (d *crashDisk) SyncDir(path string) error {
	return d.do(step{op: "syncdir", path: path}, func() error { return nil })
}

type crashFile struct {
	disk *crashDisk
	f    *os.File
	end  int64
	size int64
}

const crashRoom = 2 << 20

func (f *crashFile) Write(p []byte) (int, error) {
	n := len(p)
	err := f.disk.do(step{op: "write", file: f, off: f.end, data: slices.Clone(p)}, func() error {
		if f.end+int64(n) > f.size { // not in room
			if err := f.disk.take(f.end + int64(n) - f.size); err != nil {
				return err
			}
			f.size = f.end + int64(n)
		}
		_, err := f.f.Write(p)
		f.end += int64(n)
		return err
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}

func (d *crashDisk) take(n int64) error {
	if d.room > 0 && d.used+n > d.room {
		return syscall.ENOSPC
	}
	d.used += n
	return nil
}

func (f *crashFile) Reserve(n int64) (int64, error) {
	if f.end+n <= f.size {
		return f.size - f.end, nil
	}
	size := f.end + max(n, crashRoom)
	err := f.disk.do(step{op: "grow", file: f, off: size}, func() error {
		if err := f.disk.take(size - f.size); err != nil {
			return err
		}
		f.size = size
		return f.f.Truncate(size)
	})
	return f.size - f.end, err
}

func (f *crashFile) Sync() error {
	return f.disk.do(step{op: "sync", file: f}, func() error { return nil })
}

func (f *crashFile) Trim() error {
	if f.size == f.end {
		return nil
	}
	err := f.disk.do(step{op: "cut", file: f, off: f.end}, func() error {
		f.disk.used -= f.size - f.end
		f.size = f.end
		return f.f.Truncate(f.end)
	})
	if err != nil {
		return err
	}
	return f.Sync()
}

func (f *crashFile) Close() error { return f.f.Close() }

// content is what of a file may be on the disk.
type content struct {
	durable []byte
	size    int64 // durable
	now     []byte
	nowSize int64
	sizes   []int64        // that it had since the last sync
	dirty   map[int64]bool // sectors that differ, perhaps
	limbo   map[int64]bool // sectors of which a sync failed: no later one writes them
}

func (c *content) write(off int64, p []byte) {
	if need := off + int64(len(p)); int64(len(c.now)) < need {
		c.now = append(c.now, make([]byte, need-int64(len(c.now)))...)
	}
	copy(c.now[off:], p)
	for s := off / sectorBytes; s*sectorBytes < off+int64(len(p)); s++ {
		c.dirty[s] = true
	}
	c.resize(max(c.nowSize, off+int64(len(p))))
}

func (c *content) resize(n int64) {
	if n != c.nowSize {
		c.nowSize = n
		c.sizes = append(c.sizes, n)
	}
}

func (c *content) sync() {
	for s := range c.dirty {
		if !c.limbo[s] {
			c.durable = overlay(c.durable, c.now, s)
			delete(c.dirty, s)
		}
	}
	c.size, c.sizes = c.nowSize, nil
}

// overlay copies a sector.
func overlay(to, from []byte, s int64) []byte {
	end := min(int64(len(from)), (s+1)*sectorBytes)
	if int64(len(to)) < end {
		to = append(to, make([]byte, end-int64(len(to)))...)
	}
	if s*sectorBytes < end {
		copy(to[s*sectorBytes:end], from[s*sectorBytes:end])
	}
	return to
}

// at makes in dir what a crash before step n, or in the course of it, may have
// left. keep says of each thing that was not synced whether it is there.
func (d *crashDisk) at(t testing.TB, n int, dir string, keep func() bool) {
	t.Helper()
	files := map[*crashFile]*content{}
	type name struct {
		file *crashFile // nil: a directory
		dir  bool
	}
	now := map[string]name{}
	type change struct {
		gone, there string
		what        name
		in          string // directory
		is          byte   // 'd'urable, 'l'imbo: a sync failed, and no later one tells of it; else 0
	}
	var changes []change
	apply := func(to map[string]name, c change) {
		if c.gone != "" {
			delete(to, c.gone)
		}
		if c.there != "" {
			to[c.there] = c.what
		}
	}
	note := func(c change) {
		apply(now, c)
		c.in = filepath.Dir(c.there)
		if c.there == "" {
			c.in = filepath.Dir(c.gone)
		}
		changes = append(changes, c)
	}
	told := func(dir string, is byte) {
		for i, c := range changes {
			if c.in == dir && c.is == 0 {
				changes[i].is = is
			}
		}
	}
	for i, s := range d.steps[:min(n+1, len(d.steps))] {
		underWay := i == n
		if !underWay && !s.done && s.op != "sync" && s.op != "syncdir" {
			continue
		}
		switch s.op {
		case "mkdir", "create":
			if s.op == "create" {
				files[s.file] = &content{dirty: map[int64]bool{}, limbo: map[int64]bool{}}
			}
			note(change{there: s.path, what: name{file: s.file, dir: s.op == "mkdir"}})
		case "rename":
			note(change{gone: s.path, there: s.to, what: now[s.path]})
		case "remove":
			note(change{gone: s.path})
		case "syncdir":
			switch {
			case underWay:
			case s.err:
				told(s.path, 'l')
			default:
				told(s.path, 'd')
			}
		case "write":
			files[s.file].write(s.off, s.data)
		case "grow":
			files[s.file].resize(s.off)
		case "cut":
			files[s.file].resize(s.off)
		case "sync":
			c := files[s.file]
			switch {
			case underWay:
			case s.err:
				maps.Copy(c.limbo, c.dirty)
			default:
				c.sync()
			}
		}
	}
	durable := map[string]name{}
	for _, c := range changes {
		if c.is == 'd' || keep() {
			apply(durable, c)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(durable)) {
		what := durable[path]
		to := filepath.Join(dir, strings.TrimPrefix(path, d.root))
		if _, err := os.Stat(filepath.Dir(to)); err != nil {
			continue // its directory is lost
		}
		if what.dir {
			if err := os.Mkdir(to, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
				t.Fatal(err)
			}
			continue
		}
		if err := files[what.file].leave(to, keep); err != nil {
			t.Fatal(err)
		}
	}
}

// leave writes what is left of a file.
func (c *content) leave(path string, keep func() bool) error {
	b := slices.Clone(c.durable)
	for _, s := range slices.Sorted(maps.Keys(c.dirty)) {
		if keep() {
			b = overlay(b, c.now, s)
		}
	}
	size := c.size
	for _, s := range c.sizes {
		if keep() {
			size = s
		}
	}
	if err := os.WriteFile(path, b[:min(int64(len(b)), size)], 0o600); err != nil {
		return err
	}
	return os.Truncate(path, size)
}

// some is a chance, drawn anew for each crash, so that all, most, few and none
// of what was not synced is there.
func some(r *rand.Rand) func() bool {
	p := []float64{0, 1, 0.1, 0.5, 0.9}[r.IntN(5)]
	return func() bool { return r.Float64() < p }
}
