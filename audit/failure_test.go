package audit

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// dueTimes is a clock on which a test says when something is due.
type dueTimes struct {
	asked chan time.Duration
	fire  chan time.Time
}

func newDueTimes() dueTimes {
	return dueTimes{asked: make(chan time.Duration, 100), fire: make(chan time.Time)}
}

func (d dueTimes) after(wait time.Duration) <-chan time.Time {
	d.asked <- wait
	return d.fire
}

// sick is a disk that fails in the ways that a test sets.
type sick struct {
	osDisk
	mu     sync.Mutex
	create error
	sync   error
	half   error // a write writes half
}

func (s *sick) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (s *sick) Create(path string) (File, error) {
	s.mu.Lock()
	err := s.create
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	f, err := openData(path)
	return &sickFile{File: f, disk: s}, err
}

type sickFile struct {
	File
	disk *sick
}

func (f *sickFile) Write(p []byte) (int, error) {
	f.disk.mu.Lock()
	half := f.disk.half
	f.disk.mu.Unlock()
	if half != nil {
		n, err := f.File.Write(p[:len(p)/2])
		return n, errors.Join(half, err)
	}
	return f.File.Write(p)
}

func (f *sickFile) Sync() error {
	f.disk.mu.Lock()
	err := f.disk.sync
	f.disk.mu.Unlock()
	return errors.Join(f.File.Sync(), err) // what failed may well be there
}

// After an error nobody is told that anything is written, until a new file is;
// that begins with the first entry that was not durable, and what the failed
// one holds from there on is in nobody's record.
func TestAfterADiskErrorANewFileGoesOn(t *testing.T) {
	for name, fault := range map[string]func(*sick, error){
		"sync":  func(s *sick, err error) { s.sync = err },
		"write": func(s *sick, err error) { s.half = err },
	} {
		t.Run(name, func(t *testing.T) {
			dir, due, disk := t.TempDir(), newDueTimes(), &sick{}
			j := openJournal(t, Config{Dir: dir, Disk: disk, After: due.after})
			add(t, j, Entry{Kind: KindIntent, Call: "c_1"})
			add(t, j, Entry{Kind: KindIntent, Call: "c_2"})
			disk.set(func() { fault(disk, syscall.EIO); disk.create = syscall.EIO })
			_, err := j.Append(t.Context(), Entry{Kind: KindIntent, Call: "lost"})
			if !errors.Is(err, ErrDisk) || !errors.Is(err, syscall.EIO) {
				t.Fatalf("got %v", err)
			}
			// The first try is at once; then they become seldom.
			for _, want := range []time.Duration{100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000} {
				if got := <-due.asked; got != want*time.Millisecond {
					t.Errorf("tried again after %v, want %d ms", got, want)
				}
				if _, err := j.Append(t.Context(), Entry{Kind: KindOutcome, Call: "c_1", Status: StatusOK}, Body{Of: "response", Text: []byte("it ran")}); !errors.Is(err, ErrDisk) {
					t.Errorf("while it is broken: %v", err)
				}
				due.fire <- time.Time{}
			}
			<-due.asked
			s := j.State()
			if s.Entries != 3 || s.Err == nil || s.Refuses == nil || s.Failures != 1 || !strings.Contains(s.Alert, "disk failed") {
				t.Errorf("state %+v", s)
			}
			disk.set(func() { disk.sync, disk.half, disk.create = nil, nil, nil })
			if _, err := j.Append(t.Context(), Entry{Kind: KindIntent}); !errors.Is(err, ErrDisk) {
				t.Errorf("the disk seems well, and no new file is there: %v", err)
			}
			due.fire <- time.Time{}
			for j.State().Err != nil { // the writer works on it
				<-j.ready
			}
			// What could not be recorded when it ended is, first of all.
			e := add(t, j, Entry{Kind: KindOutcome, Call: "c_2", Status: StatusOK})
			if s := j.State(); e.Seq != 4 || s.Entries != 5 || s.Alert != "" || s.Refuses != nil {
				t.Errorf("entry %d, state %+v", e.Seq, s)
			}
			if n := len(j.open.intents); n != 0 {
				t.Errorf("%d calls are open", n)
			}
			// Its caller tries again, and is told what stands there.
			if e := add(t, j, Entry{Kind: KindOutcome, Call: "c_1", Status: StatusError}); e.Seq != 3 || e.Status != StatusBlocked {
				t.Errorf("%+v", e)
			}
			m := newStore()
			flush(t, newPublisher(t, PublisherConfig{Journal: j, Store: m}))
			holds(t, m, 5)
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			p := onlyPast(t, dir)
			var got []Entry
			for e, err := range p.Read() {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, e)
			}
			if len(got) != 5 || p.Torn != 0 || got[3].Call != "c_1" || got[3].Status != StatusBlocked || got[3].Reason != withheld || got[4].Call != "c_2" {
				t.Errorf("%+v", got)
			}
			if name == "sync" {
				b, err := os.ReadFile(p.inc.path(segment{}))
				if err != nil || !bytes.Contains(b, []byte(`"call":"lost"`)) {
					t.Errorf("the failed file does not hold what it should not: %v", err)
				}
			}
			if files := p.inc.files(); len(files) != 2 || files[1].name() != "00000000000000000003.jsonl" {
				t.Errorf("%+v", files)
			}
		})
	}
}

// Whoever waits when the disk fails is told, and the numbers are given again.
func TestAllWhoWaitAreTold(t *testing.T) {
	entered, release := make(chan struct{}), make(chan error)
	gate := false
	j := openJournal(t, Config{Disk: diskOf(func(path string) (File, error) {
		f, err := openData(path)
		return &faultyFile{File: f, sync: func() error {
			if gate {
				entered <- struct{}{}
				return <-release
			}
			return nil
		}}, err
	})})
	first := add(t, j, Entry{Kind: KindIntent, Call: "c_0"})
	gate = true
	done := make(chan error)
	go func() {
		_, err := j.Append(t.Context(), Entry{Kind: KindOutcome, Call: "c_0", Status: StatusError, Reason: "it says no"})
		done <- err
	}()
	<-entered
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		_, err := j.Append(ctx, Entry{Kind: KindIntent, Call: "gone"})
		done <- err
	}()
	for j.seqNow() < 4 {
		runtime.Gosched()
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("who left: %v", err)
	}
	const many = 20
	for range many {
		go func() {
			_, err := j.Append(t.Context(), Entry{Kind: KindIntent, Call: "waits"})
			done <- err
		}()
	}
	for j.seqNow() < 4+many {
		runtime.Gosched()
	}
	gate = false
	release <- syscall.EIO
	for range many + 1 {
		if err := <-done; !errors.Is(err, ErrDisk) {
			t.Errorf("got %v", err)
		}
	}
	for j.State().Entries < first.Seq+2 {
		<-j.ready
	}
	e := add(t, j, Entry{Kind: KindIntent, Call: "c_1"})
	if e.Seq != first.Seq+2 || len(j.open.intents) != 1 {
		t.Errorf("entry %d after %d, %v open", e.Seq, first.Seq, j.open.intents)
	}
	var got Entry
	for e, err := range j.Read() {
		if err != nil {
			t.Fatal(err)
		}
		if e.Seq == first.Seq+1 {
			got = e
		}
	}
	if got.Call != "c_0" || got.Status != StatusError || got.Reason != "it says no; "+withheld {
		t.Errorf("%+v", got)
	}
	if s := j.State(); s.Bytes != j.durable.bytes || s.Failures != 1 {
		t.Errorf("%+v", s)
	}
}

// What comes back after an error may be another disk. Its record has no past:
// it is not gone on with.
func TestAnotherDiskIsNotGoneOnWith(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"gone":  os.Remove,
		"short": func(path string) error { return os.Truncate(path, 100) },
	} {
		due, disk := newDueTimes(), &sick{}
		dir := t.TempDir()
		j := openJournal(t, Config{Dir: dir, Disk: disk, After: due.after})
		add(t, j, Entry{Kind: KindIntent})
		disk.set(func() { disk.sync, disk.create = syscall.EIO, syscall.EIO })
		if _, err := j.Append(t.Context(), Entry{Kind: KindIntent}); !errors.Is(err, ErrDisk) {
			t.Fatal(err)
		}
		<-due.asked
		disk.set(func() { disk.sync, disk.create = nil, nil })
		if err := spoil(filepath.Join(dir, "journal", "i1", segment{}.name())); err != nil {
			t.Fatal(err)
		}
		due.fire <- time.Time{}
		for !errors.Is(j.Err(), ErrPoisoned) {
			runtime.Gosched()
		}
		if _, err := j.Append(t.Context(), Entry{Kind: KindIntent}); !errors.Is(err, ErrPoisoned) {
			t.Errorf("%s: %v", name, err)
		}
		if err := j.Close(); !errors.Is(err, ErrPoisoned) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
