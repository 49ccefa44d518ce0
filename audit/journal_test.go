package audit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// clockAt is a clock that tests move.
type clockAt struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clockAt) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clockAt) Set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = t
}

// diskOf is the real one, but for its files.
func diskOf(create func(path string) (File, error)) Disk { return created{create: create} }

type created struct {
	osDisk
	create func(path string) (File, error)
}

func (c created) Create(path string) (File, error) { return c.create(path) }

// faultyFile is a real file that fails, or waits, on demand.
type faultyFile struct {
	File
	write func(p []byte) (int, error) // nil: the real one
	sync  func() error                // called before the real one
}

func (f *faultyFile) Write(p []byte) (int, error) {
	if f.write != nil {
		return f.write(p)
	}
	return f.File.Write(p)
}

func (f *faultyFile) Sync() error {
	if f.sync != nil {
		if err := f.sync(); err != nil {
			return err
		}
	}
	return f.File.Sync()
}

func openJournal(t testing.TB, cfg Config) *Journal {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	if cfg.Enforcer == "" {
		cfg.Enforcer = "demo"
	}
	if cfg.Incarnation == "" {
		cfg.Incarnation = "i1"
	}
	if cfg.Now == nil {
		cfg.Now = (&clockAt{t: noon}).Now
	}
	j, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil && !errors.Is(err, ErrDisk) && !errors.Is(err, ErrPoisoned) {
			t.Error(err)
		}
	})
	return j
}

func add(t testing.TB, j *Journal, e Entry) Entry {
	t.Helper()
	e, err := j.Append(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// onlyPast closes nothing: it looks at the disk as after a crash.
func onlyPast(t testing.TB, dir string) *Past {
	t.Helper()
	ps, err := Previous(dir)
	if err != nil || len(ps) != 1 {
		t.Fatalf("%d past incarnations, %v", len(ps), err)
	}
	return ps[0]
}

func TestAppendReturnsOnlyWhenDurable(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	n := 0
	j := openJournal(t, Config{Disk: diskOf(func(path string) (File, error) {
		f, err := openData(path)
		return &faultyFile{File: f, sync: func() error {
			if n++; n > 3 { // the first are of meta.json, the file and the start entry
				entered <- struct{}{}
				<-release
			}
			return nil
		}}, err
	})})
	done := make(chan error)
	go func() {
		_, err := j.Append(t.Context(), Entry{Kind: KindIntent})
		done <- err
	}()
	<-entered
	// While one group syncs, many gather for the next.
	const many = 100
	for range many {
		go func() {
			_, err := j.Append(t.Context(), Entry{Kind: KindOutcome})
			done <- err
		}()
	}
	for j.seqNow() < 2+many {
		select {
		case err := <-done:
			t.Fatalf("acknowledged before it was durable: %v", err)
		default:
		}
	}
	if s := j.State(); s.Entries != 1 {
		t.Errorf("%d entries counted durable", s.Entries)
	}
	release <- struct{}{}
	<-entered // one sync for all of them
	release <- struct{}{}
	for range many + 1 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if n != 5 {
		t.Errorf("%d syncs, of two files and 3 groups", n)
	}
}

func (j *Journal) seqNow() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.head.entries
}

func TestAppendAfterCloseOrCancel(t *testing.T) {
	j := openJournal(t, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := j.Append(ctx, Entry{Kind: KindIntent}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Append(t.Context(), Entry{Kind: KindIntent}); !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	if n := j.seqNow(); n != 1 {
		t.Errorf("%d entries", n)
	}
}

func TestRefusedEntryLeavesNoTrace(t *testing.T) {
	j := openJournal(t, Config{})
	if _, err := j.Append(t.Context(), Entry{Kind: KindIntent, Reason: strings.Repeat("x", MaxLine)}); !errors.Is(err, ErrEntry) {
		t.Errorf("got %v", err)
	}
	// Just too long with the head that Append adds.
	e := Entry{Kind: KindIntent, Time: noon}
	b, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	e.Reason = strings.Repeat("x", MaxLine-len(b)-len(`,"reason":""`))
	if e := add(t, j, e); e.Seq != 1 {
		t.Errorf("the longest entry has number %d", e.Seq)
	}
	e.Reason += "x"
	if _, err := j.Append(t.Context(), e); !errors.Is(err, ErrEntry) {
		t.Errorf("got %v", err)
	}
	if e := add(t, j, Entry{Kind: KindStop}); e.Seq != 2 {
		t.Errorf("next number %d", e.Seq)
	}
}

func TestTimeNeverRunsBack(t *testing.T) {
	dir := t.TempDir()
	c := &clockAt{t: noon}
	j := openJournal(t, Config{Dir: dir, Now: c.Now})
	c.Set(noon.Add(time.Hour))
	later := add(t, j, Entry{Kind: KindIntent}).Time
	c.Set(noon.Add(-time.Hour))
	if e := add(t, j, Entry{Kind: KindOutcome}); !e.Time.Equal(later) {
		t.Errorf("%v after %v", e.Time, later)
	}
	next := openJournal(t, Config{Dir: dir, Incarnation: "a-next", Now: c.Now, Previous: []*Past{onlyPast(t, dir)}})
	for e, err := range next.Read() {
		if err != nil || e.Time.Before(later) {
			t.Errorf("%v: the next run begins at %v, before %v", err, e.Time, later)
		}
	}
	ps, err := Previous(dir)
	if err != nil || len(ps) != 2 || ps[1].Incarnation != "a-next" {
		t.Errorf("order of incarnations: %v, %v", ps, err)
	}
}

func TestBoundAndAlerts(t *testing.T) {
	c := &clockAt{t: noon}
	j := openJournal(t, Config{Now: c.Now, MaxBytes: 20_000})
	if s := j.State(); s.Alert != "" || !s.Oldest.Equal(noon) {
		t.Errorf("at start: %+v", s)
	}
	c.Set(noon.Add(time.Hour))
	if s := j.State(); !strings.Contains(s.Alert, "not published") {
		t.Errorf("after an hour: %+v", s)
	}
	j.published(1, j.State().Bytes)
	if s := j.State(); s.Alert != "" || s.Bytes != 0 || !s.Oldest.IsZero() {
		t.Errorf("after publishing: %+v", s)
	}
	freed := j.head.bytes
	full := func(kind Kind) error {
		for {
			if _, err := j.Append(t.Context(), Entry{Kind: kind, Reason: strings.Repeat("x", 100)}); err != nil {
				return err
			}
			if s := j.State(); s.Bytes >= s.MaxBytes/2 && !strings.Contains(s.Alert, "full") {
				t.Fatalf("at half: %+v", s)
			}
		}
	}
	if err := full(KindIntent); !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "of 20000 bytes wait to be published") {
		t.Errorf("got %v", err)
	}
	before := j.State()
	if _, err := j.Append(t.Context(), Entry{Kind: KindOutcome}); err != nil {
		t.Errorf("a call under way cannot record its outcome: %v", err)
	}
	if err := full(KindOutcome); !errors.Is(err, ErrFull) {
		t.Errorf("got %v", err)
	}
	if s := j.State(); s.Bytes > s.MaxBytes {
		t.Errorf("%d bytes, bound %d", s.Bytes, s.MaxBytes)
	}
	j.published(before.Entries, freed+before.Bytes)
	add(t, j, Entry{Kind: KindIntent})
}

func TestFilesRotateAndArePruned(t *testing.T) {
	dir := t.TempDir()
	c := &clockAt{t: noon}
	j := openJournal(t, Config{Dir: dir, Now: c.Now, SegmentBytes: 500})
	for i := range 40 {
		c.Set(noon.Add(time.Duration(i) * time.Minute))
		add(t, j, Entry{Kind: KindIntent, Reason: "some reason or other"})
	}
	firsts := j.inc.files()
	if len(firsts) < 4 {
		t.Fatalf("%d files", len(firsts))
	}
	if err := j.Prune(noon.Add(48 * time.Hour)); err != nil {
		t.Fatal(err)
	}
	if now := j.inc.files(); len(now) != len(firsts) {
		t.Error("unpublished entries were deleted")
	}
	j.published(firsts[3].first+1, 1)
	if err := j.Prune(noon); err != nil {
		t.Fatal(err)
	}
	if now := j.inc.files(); len(now) != len(firsts) {
		t.Error("entries that are young enough to be needed were deleted")
	}
	if err := j.Prune(noon.Add(48 * time.Hour)); err != nil {
		t.Fatal(err)
	}
	if now := j.inc.files(); now[0] != firsts[3] {
		t.Errorf("files now %v, were %v", now, firsts)
	}
	want := firsts[3].first
	for e, err := range j.Read() {
		if err != nil || e.Seq != want {
			t.Fatalf("%d, want %d: %v", e.Seq, want, err)
		}
		want++
	}
	if want != 41 {
		t.Errorf("read up to %d", want)
	}
}

func TestLock(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	l, err := Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	shared, err := syscall.Dup(int(l.(lock).Fd())) // as a process has it that is being started
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Close(shared); err != nil {
			t.Error(err)
		}
	}()
	if _, err := Lock(dir); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), dir) {
		t.Errorf("second lock: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l, err = Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	openJournal(t, Config{Dir: dir})
	for name, cfg := range map[string]Config{
		"same incarnation": {Dir: dir, Enforcer: "demo", Incarnation: "i1"},
		"path":             {Dir: dir, Enforcer: "demo", Incarnation: "../x"},
		"upper case":       {Dir: dir, Enforcer: "Demo", Incarnation: "i2"},
		"plus":             {Dir: dir, Enforcer: "a+b", Incarnation: "i2"},
		"empty":            {Dir: dir, Enforcer: "", Incarnation: "i2"},
		"lock":             {Dir: dir, Enforcer: "demo", Incarnation: "i2.lock"},
		"no disk": {Dir: dir, Enforcer: "demo", Incarnation: "i3", Disk: diskOf(func(string) (File, error) {
			return nil, syscall.ENOSPC
		})},
	} {
		if _, err := Open(cfg); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
	if _, err := Previous(dir); err != nil { // what a failed start leaves is no obstacle
		t.Error(err)
	}
}

// TestKilled kills a process that appends as fast as it can, and checks that
// whatever it was told is durable is there, and that what follows is whole.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilledChild$")
	cmd.Env = append(os.Environ(), "AUDIT_TEST_DIR="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var acknowledged uint64
	lines := 0
	for s := bufio.NewScanner(out); s.Scan(); {
		var n uint64
		if _, err := fmt.Sscanf(s.Text(), "ack %d", &n); err == nil {
			acknowledged = max(acknowledged, n)
			if lines++; lines == 500 {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if err := cmd.Wait(); err == nil || lines < 500 {
		t.Fatalf("the child ended by itself after %d lines: %v", lines, err)
	}
	p := onlyPast(t, dir)
	if p.Entries <= acknowledged {
		t.Errorf("%d entries on disk, entry %d was acknowledged", p.Entries, acknowledged)
	}
	n := uint64(0)
	for e, err := range p.Read() {
		if err != nil || e.Seq != n {
			t.Fatalf("entry %d: %v", n, err)
		}
		n++
	}
	if n != p.Entries {
		t.Errorf("%d read of %d", n, p.Entries)
	}
}

func TestKilledChild(t *testing.T) {
	dir := os.Getenv("AUDIT_TEST_DIR")
	if dir == "" {
		return // it is TestKilled's other half
	}
	j := openJournal(t, Config{Dir: dir})
	var out sync.Mutex
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				e, err := j.Append(context.Background(), Entry{Kind: KindIntent, Args: strings.Repeat("x", 1000)})
				if err != nil {
					return
				}
				out.Lock()
				_, err = fmt.Printf("ack %d\n", e.Seq)
				out.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestReadEntries(t *testing.T) {
	a, err := Entry{Seq: 4, Kind: KindStop, Time: noon}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	b, err := Entry{Seq: 5, Kind: KindStop, Time: noon}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"": "", string(a) + "\n" + string(b) + "\n": "45",
		string(a) + "\n" + string(a) + "\n":   "4!",
		string(a) + "\n" + string(b):          "4!",
		"\n" + string(a) + "\n":               "!",
		strings.Repeat("x", MaxLine+2) + "\n": "!",
	} {
		got := ""
		for e, err := range ReadEntries(strings.NewReader(text)) {
			if err != nil {
				got += "!"
			} else {
				got += fmt.Sprint(e.Seq)
			}
		}
		if got != want {
			t.Errorf("%.60q: %s, want %s", text, got, want)
		}
	}
}

// BenchmarkAppend has entries of 300 bytes, and beside each, or not, a body of
// 2 kB that is kept. "x-plain" is how many entries become durable in the time
// that a loop of write and fdatasync takes for one, measured in the same run.
func BenchmarkAppend(b *testing.B) {
	for _, writers := range []int{1, 8, 64} {
		for _, body := range []int{0, 2000} {
			b.Run(fmt.Sprintf("writers=%d/body=%d", writers, body), func(b *testing.B) {
				j := openJournal(b, Config{Now: time.Now, MaxBytes: 1 << 40})
				e := Entry{Kind: KindIntent, Call: "c_0123456789abcdef", Server: "postgres", Method: "tools/call", Tool: "query", Effect: "allow"}
				line, err := e.Encode()
				if err != nil {
					b.Fatal(err)
				}
				e.Args = strings.Repeat("a", 300-len(line)-len(`,"args":""`))
				if line, err = e.Encode(); err != nil || len(line) != 300 {
					b.Fatal(len(line), err)
				}
				var bodies []Body
				if body > 0 {
					bodies = []Body{{Of: "response", Text: []byte(strings.Repeat("b", body))}}
				}
				plain := plainSync(b, append(line, make([]byte, body)...))
				work := make(chan struct{}, 1024)
				var wg sync.WaitGroup
				b.ReportAllocs()
				b.ResetTimer()
				for range writers {
					wg.Go(func() {
						for range work {
							if _, err := j.Append(context.WithoutCancel(b.Context()), e, bodies...); err != nil {
								b.Error(err)
							}
						}
					})
				}
				for range b.N {
					work <- struct{}{}
				}
				close(work)
				wg.Wait()
				b.StopTimer()
				per := b.Elapsed().Seconds() / float64(b.N)
				b.ReportMetric(1/per, "entries/s")
				b.ReportMetric(plain.Seconds()/per, "x-plain")
			})
		}
	}
}

// plainSync is how long a write of data and an fdatasync take.
func plainSync(b *testing.B, data []byte) time.Duration {
	f, err := os.Create(filepath.Join(b.TempDir(), "plain"))
	if err != nil {
		b.Fatal(err)
	}
	const times = 300
	began := time.Now()
	for range times {
		_, err := f.Write(data)
		if err == nil {
			err = syscall.Fdatasync(int(f.Fd()))
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	took := time.Since(began)
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	return took / times
}
