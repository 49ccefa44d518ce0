package audit

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var (
	crashSeed = flag.Uint64("crash.seed", 0, "seed of the crashes; 0: a new one")
	crashRuns = flag.Int("crash.runs", 80, "runs with errors of the disk and a crash")
)

// atOnce is a clock on which everything is due.
func atOnce(time.Duration) <-chan time.Time {
	c := make(chan time.Time, 1)
	c <- time.Time{}
	return c
}

// calm is a disk that syncs nothing.
type calm struct{ osDisk }

func (calm) SyncDir(string) error { return nil }

func (calm) Create(path string) (File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	return calmFile{f}, err
}

type calmFile struct{ *os.File }

func (calmFile) Sync() error                  { return nil }
func (calmFile) Reserve(int64) (int64, error) { return 1 << 62, nil }
func (calmFile) Trim() error                  { return nil }

// memoryDir is a directory without a disk that syncs have to wait for, if this
// machine has one.
func memoryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "audit")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// acked is an entry that its caller was told is durable.
type acked struct {
	seq  uint64
	call string
	body string
}

// crashScene is a run of a journal and its publisher on a crashDisk: some
// groups, files that follow each other, commits, pushes, and old files pruned.
type crashScene struct {
	disk  *crashDisk
	acked []acked
	whole bool // it ended well
}

func newCrashScene(t testing.TB, rnd *rand.Rand, fault func(int, step) (bool, error)) *crashScene {
	t.Helper()
	d := newCrashDisk(memoryDir(t))
	d.fault = fault
	s := &crashScene{disk: d}
	m := newStore()
	held := func() { c := m.clone(); d.tell(func(now *moment) { now.store = c }) }
	m.beforeCommit = func() error { return d.outside("commit") }
	m.afterCommit = func() error { held(); return d.outside("committed") }
	m.onPush = func() error { return d.outside("push") }
	m.afterPush = func() error { held(); return d.outside("pushed") }
	j, err := Open(Config{
		Dir: filepath.Join(d.root, "state"), Enforcer: "demo", Incarnation: "i1", Now: (&clockAt{t: noon}).Now,
		SegmentBytes: 2500, After: atOnce, Disk: d,
	})
	if err != nil {
		return s
	}
	pub := newPublisher(t, PublisherConfig{Journal: j, Store: m})
	var wg sync.WaitGroup
	for round := range 5 {
		for worker := range 3 {
			body := strings.Repeat("b", rnd.IntN(1500))
			wg.Go(func() {
				call := fmt.Sprintf("c_%d_%d", round, worker)
				if !s.add(t, j, Entry{Kind: KindIntent, Call: call, Reason: strings.Repeat("r", 300)}, "") {
					return
				}
				s.add(t, j, Entry{Kind: KindOutcome, Call: call, Status: StatusOK}, body)
			})
		}
		wg.Wait()
		if rnd.IntN(2) == 0 {
			if err := pub.Flush(t.Context()); errors.Is(err, ErrForked) || errors.Is(err, ErrDamaged) {
				t.Error(err)
			}
			j.bodiesPublished(j.durableEntries(), 1<<40)
		}
		if rnd.IntN(3) == 0 {
			_ = j.Prune(noon.Add(time.Hour)) // what the disk does to it is not the question here
		}
	}
	s.whole = j.Close() == nil
	return s
}

func (s *crashScene) add(t testing.TB, j *Journal, e Entry, body string) (ok bool) {
	var bodies []Body
	if body != "" {
		bodies = []Body{{Of: "response", Text: []byte(body)}}
	}
	e, err := j.Append(t.Context(), e, bodies...)
	if err != nil {
		if !errors.Is(err, ErrDisk) {
			t.Errorf("%s: %v", e.Call, err)
		}
		return false
	}
	s.disk.tell(func(now *moment) {
		s.acked = append(s.acked, acked{e.Seq, e.Call, body})
		now.acked = len(s.acked)
	})
	return true
}

// survives crashes before step n, or in the course of it, and looks at what a
// start after that finds and publishes.
func (s *crashScene) survives(t *testing.T, n int, rnd *rand.Rand) {
	t.Helper()
	var last moment
	if n < len(s.disk.steps) {
		last = s.disk.seen[n]
	} else {
		last = s.disk.now
	}
	defer func() {
		if t.Failed() {
			for i, st := range s.disk.steps[:min(n+1, len(s.disk.steps))] {
				t.Logf("%d %s %s %s at %d, %d bytes; failed %v, done %v", i, st.op, filepath.Base(st.path), filepath.Base(st.to), st.off, len(st.data), st.err, st.done)
			}
			t.FailNow()
		}
	}()
	dir, err := os.MkdirTemp(s.disk.root, "crash")
	if err != nil {
		t.Fatal(err)
	}
	s.disk.at(t, n, dir, some(rnd))
	dir = filepath.Join(dir, "state")
	known := s.acked[:last.acked]
	past, err := Previous(dir)
	if err != nil {
		t.Errorf("step %d: %v", n, err)
		return
	}
	if len(past) == 0 {
		if len(known) > 0 {
			t.Errorf("step %d: nothing is left of %d entries", n, len(known))
		}
		return
	}
	p := past[0]
	p.inc.disk = calm{}
	entries := map[uint64]Entry{}
	for e, err := range p.Read() {
		if err != nil {
			t.Errorf("step %d: %v", n, err)
			return
		}
		entries[e.Seq] = e
	}
	bodies := map[uint64]string{}
	if files := p.inc.files(); len(files) > 0 {
		c := p.inc.bodiesFrom(files[0].first, files[0].first, 0)
		for {
			k, err := c.next(p.Entries)
			if err != nil {
				if c.seq != p.Entries && p.Entries > 0 {
					t.Errorf("step %d: bodies up to %d of %d: %v", n, c.seq, p.Entries, err)
				}
				break
			}
			bodies[k.Seq] = string(k.Text)
		}
		if err := c.close(); err != nil {
			t.Error(err)
		}
	}
	for _, a := range known {
		e, ok := entries[a.seq]
		if a.seq >= p.Entries || ok && (e.Call != a.call || bodies[a.seq] != a.body) {
			t.Errorf("step %d: entry %d of %s was acknowledged: %d of %d entries are there, and it is of %q with %d bytes of %d",
				n, a.seq, a.call, len(entries), p.Entries, e.Call, len(bodies[a.seq]), len(a.body))
			return
		}
	}
	if p.Entries == 0 {
		return
	}

	store := last.store.clone()
	if rnd.IntN(2) == 0 { // it forgets what no push synced
		store.branches = maps.Clone(store.remote)
	}
	if err := newPublisher(t, PublisherConfig{Past: p, Store: store}).Flush(t.Context()); err != nil {
		t.Errorf("step %d: %v", n, err)
		return
	}
	holds(t, store, p.Entries)
	calls := map[string]int{}
	for b := range store.remote {
		files := store.tipFiles(b)
		for _, path := range slices.Sorted(maps.Keys(files)) {
			if !strings.HasSuffix(path, ".jsonl") {
				continue
			}
			for e, err := range ReadEntries(strings.NewReader(string(files[path]))) {
				if err != nil {
					t.Errorf("step %d: %v", n, err)
				}
				calls[fmt.Sprint(e.Seq, e.Call)]++
				calls[fmt.Sprint(e.Kind, e.Call)]++
			}
		}
	}
	for _, a := range known {
		if calls[fmt.Sprint(a.seq, a.call)] != 1 {
			t.Errorf("step %d: entry %d of %s was acknowledged, and is not in Git", n, a.seq, a.call)
		}
	}
	for what, times := range calls {
		if times != 1 {
			t.Errorf("step %d: %s is there %d times", n, what, times)
		}
		if call, ok := strings.CutPrefix(what, string(KindIntent)); ok && s.whole && n >= len(s.disk.steps) && calls[string(KindOutcome)+call] != 1 {
			t.Errorf("%s has no end", call)
		}
	}
	next, err := Open(Config{Dir: dir, Enforcer: "demo", Incarnation: "i2", Previous: past, Disk: calm{}, Now: (&clockAt{t: noon}).Now})
	if err == nil {
		err = next.Close()
	}
	if err != nil {
		t.Errorf("step %d: %v", n, err)
	}
}

func seeded(t *testing.T) (*rand.Rand, uint64) {
	seed := *crashSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-crash.seed=%d", seed)
	return rand.New(rand.NewPCG(seed, 1)), seed
}

// Between any two steps, and in the course of any, a crash loses nothing that
// was acknowledged, and doubles nothing.
func TestCrashAtEveryStep(t *testing.T) {
	rnd, _ := seeded(t)
	s := newCrashScene(t, rnd, nil)
	if len(s.acked) != 30 || !s.whole {
		t.Errorf("%d acknowledged", len(s.acked))
	}
	for n := range len(s.disk.steps) + 1 {
		s.survives(t, n, rnd)
	}
	t.Logf("%d steps", len(s.disk.steps))
}

// The same with a disk that fails now and then: a write, a sync, a name, and
// the store, before they have an effect or after.
func TestCrashesOfADiskThatFails(t *testing.T) {
	rnd, _ := seeded(t)
	failed := 0
	for run := range *crashRuns {
		often := 10 + rnd.IntN(60)
		from := rnd.IntN(30) // let it begin, mostly
		faults := rand.New(rand.NewPCG(rnd.Uint64(), 2))
		s := newCrashScene(t, rnd, func(n int, s step) (bool, error) {
			if n < from || faults.IntN(often) > 0 {
				return true, nil
			}
			if s.op == "grow" {
				return false, []error{syscall.ENOSPC, syscall.EIO}[faults.IntN(2)]
			}
			return faults.IntN(2) == 0, []error{syscall.EIO, syscall.ENOSPC}[faults.IntN(2)]
		})
		for _, st := range s.disk.steps {
			if st.err {
				failed++
			}
		}
		for range 3 {
			s.survives(t, rnd.IntN(len(s.disk.steps)+1), rnd)
		}
		s.survives(t, len(s.disk.steps), rnd)
		if t.Failed() {
			t.Fatalf("run %d", run)
		}
	}
	if failed < *crashRuns/2 {
		t.Errorf("%d steps failed in %d runs", failed, *crashRuns)
	}
}
