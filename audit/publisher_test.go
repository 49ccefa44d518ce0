package audit

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// keysOf are keys of any enforcer.
func keysOf(names ...string) LogKeys {
	var ks []ed25519.PublicKey
	for _, n := range names {
		ks = append(ks, public(testKey(n)))
	}
	return LogKeys{"": ks}
}

func flush(t testing.TB, p *Publisher) {
	t.Helper()
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// holds checks that the store's record verifies and has so many entries.
func holds(t testing.TB, m *memStore, entries uint64) *Report {
	t.Helper()
	rep := verifyStore(t, m)
	if !rep.OK() || rep.Entries != entries {
		t.Fatalf("%d entries, want %d: %s", rep.Entries, entries, rep)
	}
	return rep
}

func TestPublishMonthsAndMessages(t *testing.T) {
	c := &clockAt{t: time.Date(2026, 11, 30, 23, 59, 58, 0, time.UTC)}
	j := openJournal(t, Config{Now: c.Now})
	m := newStore()
	p := newPublisher(t, PublisherConfig{Journal: j, Store: m, Now: c.Now})
	detail := json.RawMessage(`{"state":"approved","votes":[{"person":"dana","approve":true}]}`)
	for _, e := range []Entry{
		{Kind: KindIntent, Effect: "allow"}, {Kind: KindOutcome, Effect: "allow", Policy: "3f9c2e1aa"},
		{Kind: KindRefused, Effect: "deny"}, {Kind: KindApproval, Detail: detail},
	} {
		add(t, j, e)
	}
	flush(t, p)
	add(t, j, Entry{Kind: KindOutcome})
	c.Set(time.Date(2026, 12, 1, 0, 0, 1, 0, time.UTC))
	add(t, j, Entry{Kind: KindIntent})
	flush(t, p)
	add(t, j, Entry{Kind: KindStop})
	flush(t, p)
	rep := holds(t, m, 8)
	if s := rep.String(); s != "8 entries, 4 checkpoints, all links hold" {
		t.Error(s)
	}
	if n := len(m.branches); n != 2 {
		t.Errorf("%d branches", n)
	}
	nov, dec := m.history(m.branches["audit/demo/i1/2026-11"]), m.history(m.branches["audit/demo/i1/2026-12"])
	if len(nov) != 2 || len(dec) != 2 {
		t.Fatalf("%d and %d commits", len(nov), len(dec))
	}
	first := m.objects[nov[1]].(Commit)
	subject, _, _ := strings.Cut(first.Message, "\n\n")
	note, _ := messageNote(first.Message)
	if subject != "2 calls · 1 denied · 1 approved by dana · policy 3f9c2e1" {
		t.Errorf("subject %q", subject)
	}
	if note != string(m.files[nov[1]]["checkpoint"]) {
		t.Error("the message does not carry the checkpoint")
	}
	if _, ok := m.files[dec[0]]["entries/000/006.jsonl"]; !ok {
		t.Errorf("files of December: %v", m.files[dec[0]])
	}
	// A month's files verify by themselves.
	if problems, err := VerifyFiles(mapFS(m.files[dec[0]]), VerifyConfig{Keys: keysOf("log")}, rep); err != nil || problems != nil {
		t.Errorf("%v, %v", err, problems)
	}
	if s := j.State(); s.Bytes != 0 || s.Pushed != 8 {
		t.Errorf("state %+v", s)
	}
	if cp, signed, ok := p.Last(); !ok || cp.Size != 8 || signed == "" {
		t.Errorf("last checkpoint %+v", cp)
	}
}

func TestBatchPathsDoNotCrowd(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "entries/000/000", 14: "entries/000/014", 999: "entries/000/999", 1000: "entries/001/1000",
		1234567: "entries/001/234/1234567", 999_999_999: "entries/999/999/999999999",
		1_000_000_000: "entries/1e9/001/000/000/1000000000", 5_000_000_042: "entries/1e9/005/000/000/5000000042", 1_234_567_890_123: "entries/1e12/001/234/567/890/1234567890123",
	} {
		if got := batchPath(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

func TestLargeBatchesSplit(t *testing.T) {
	j := openJournal(t, Config{})
	e := Entry{Kind: KindIntent}
	done := make(chan error)
	const n = maxBatch + 10
	for range n {
		go func() {
			_, err := j.Append(context.Background(), e)
			done <- err
		}()
	}
	for range n {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	m := newStore()
	flush(t, newPublisher(t, PublisherConfig{Journal: j, Store: m}))
	if rep := holds(t, m, n+1); rep.Commits != 2 {
		t.Errorf("%d commits", rep.Commits)
	}
}

// A crash may fall between any two steps. In each case the next start, with
// nothing but the disk and the branch, publishes every entry once.
func TestCrashOutcomes(t *testing.T) {
	crash := errors.New("crash")
	cases := map[string]struct {
		fault    func(m *memStore, dir string)
		powerOff bool // the store forgets commits that no push synced
	}{
		"before the commit":                    {fault: func(m *memStore, _ string) { m.beforeCommit = func() error { return crash } }},
		"after the commit, before it returned": {fault: func(m *memStore, _ string) { m.afterCommit = func() error { return crash } }},
		"after the commit, before the push":    {fault: func(m *memStore, _ string) { m.onPush = func() error { return crash } }},
		"and the power failed":                 {fault: func(m *memStore, _ string) { m.onPush = func() error { return crash } }, powerOff: true},
		"after the push, before the mark": {fault: func(m *memStore, dir string) {
			m.onPush = func() error { // nothing can be written where the mark belongs
				return errors.Join(os.MkdirAll(filepath.Join(dir, "journal", "i1", markFile+".new", "x"), 0o700))
			}
		}},
	}
	for name, c := range cases {
		for _, months := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, months=%v", name, months), func(t *testing.T) {
				dir := t.TempDir()
				now := &clockAt{t: noon}
				j := openJournal(t, Config{Dir: dir, Now: now.Now})
				m := newStore()
				p := newPublisher(t, PublisherConfig{Journal: j, Store: m, Now: now.Now})
				add(t, j, Entry{Kind: KindIntent})
				flush(t, p)
				if months {
					now.Set(noon.AddDate(0, 1, 0))
				}
				add(t, j, Entry{Kind: KindOutcome})
				if months {
					now.Set(noon.AddDate(0, 2, 0))
				}
				add(t, j, Entry{Kind: KindStop})
				c.fault(m, dir)
				if err := p.Flush(t.Context()); err == nil || errors.Is(err, ErrForked) {
					t.Fatalf("no crash: %v", err)
				}
				m.beforeCommit, m.afterCommit, m.onPush = nil, nil, nil
				if err := os.RemoveAll(filepath.Join(dir, "journal", "i1", markFile+".new")); err != nil {
					t.Fatal(err)
				}
				if c.powerOff {
					m.branches = map[string]string{}
					for b, h := range m.remote {
						m.branches[b] = h
					}
				}
				past := onlyPast(t, dir)
				if past.Entries != 4 || past.Published() {
					t.Fatalf("%d entries, published %v", past.Entries, past.Published())
				}
				again := newPublisher(t, PublisherConfig{Past: past, Store: m})
				flush(t, again)
				holds(t, m, 4)
				if past.mark.Entries != past.Entries || past.Checkpoint() == "" {
					t.Error("the past is not published")
				}
				for b, h := range m.branches {
					if m.remote[b] != h {
						t.Errorf("%s is not pushed", b)
					}
				}
				commits := len(m.objects)
				flush(t, again)
				flush(t, newPublisher(t, PublisherConfig{Past: onlyPast(t, dir), Store: m}))
				if len(m.objects) != commits {
					t.Error("published twice")
				}
			})
		}
	}
}

// The same process goes on after an error, without a new start.
func TestErrorsLoseNothing(t *testing.T) {
	j := openJournal(t, Config{})
	m := newStore()
	p := newPublisher(t, PublisherConfig{Journal: j, Store: m})
	refused := errors.New("hook declined")
	m.onPush = func() error { return refused }
	if err := p.Flush(t.Context()); !errors.Is(err, refused) {
		t.Fatal(err)
	}
	add(t, j, Entry{Kind: KindIntent})
	if err := p.Flush(t.Context()); !errors.Is(err, refused) {
		t.Fatal(err)
	}
	if s := j.State(); s.Bytes == 0 || s.Pushed != 0 {
		t.Errorf("counted as published: %+v", s)
	}
	m.afterCommit = func() error { return context.Canceled }
	add(t, j, Entry{Kind: KindOutcome})
	if err := p.Flush(t.Context()); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	m.onPush, m.afterCommit = nil, nil
	flush(t, p)
	holds(t, m, 3)
	if s := j.State(); s.Bytes != 0 {
		t.Errorf("state %+v", s)
	}
}

func TestForkIsFatal(t *testing.T) {
	start := func(t *testing.T) (string, *Journal, *memStore, *Publisher) {
		dir := t.TempDir()
		j := openJournal(t, Config{Dir: dir})
		m := newStore()
		p := newPublisher(t, PublisherConfig{Journal: j, Store: m})
		flush(t, p)
		add(t, j, Entry{Kind: KindIntent})
		return dir, j, m, p
	}
	const branch = "audit/demo/i1/2026-11"
	stays := func(t *testing.T, p *Publisher) {
		t.Helper()
		for range 2 {
			if err := p.Flush(t.Context()); !errors.Is(err, ErrForked) {
				t.Errorf("got %v", err)
			}
		}
	}
	t.Run("push rejected", func(t *testing.T) {
		_, _, m, p := start(t)
		m.remote[branch] = "somebody else's"
		stays(t, p)
		if m.pushes != 2 {
			t.Errorf("%d pushes: it was tried again", m.pushes)
		}
	})
	t.Run("branch moved by a stranger", func(t *testing.T) {
		dir, _, m, _ := start(t)
		cp, err := Checkpoint{Origin: "demo/i1", Size: 2}.Sign(testKey("other"))
		if err != nil {
			t.Fatal(err)
		}
		m.branches[branch] = m.write(map[string][]byte{"checkpoint": []byte(cp)}, []string{m.branches[branch]}, "x", noon)
		stays(t, newPublisher(t, PublisherConfig{Past: onlyPast(t, dir), Store: m}))
	})
	t.Run("branch moved by our own key", func(t *testing.T) {
		dir, _, m, _ := start(t)
		for _, size := range []uint64{1, 2, 3} {
			cp, err := Checkpoint{Origin: "demo/i1", Size: size}.Sign(testKey("log"))
			if err != nil {
				t.Fatal(err)
			}
			m.branches[branch] = m.write(map[string][]byte{"checkpoint": []byte(cp)}, nil, "x", noon)
			pushes := m.pushes
			stays(t, newPublisher(t, PublisherConfig{Past: onlyPast(t, dir), Store: m}))
			if m.pushes != pushes {
				t.Errorf("size %d: it was pushed before it was looked at", size)
			}
		}
	})
	t.Run("branch gone", func(t *testing.T) {
		dir, _, m, _ := start(t)
		delete(m.branches, branch)
		stays(t, newPublisher(t, PublisherConfig{Past: onlyPast(t, dir), Store: m}))
	})
}

func TestNextIncarnationNamesTheLast(t *testing.T) {
	dir := t.TempDir()
	c := &clockAt{t: noon}
	m := newStore()
	var first string
	for i := range 4 {
		past, err := Previous(dir)
		if err != nil || len(past) != i {
			t.Fatalf("%d past, %v", len(past), err)
		}
		for _, p := range past {
			pub := newPublisher(t, PublisherConfig{Past: p, Store: m})
			if err := pub.Commit(t.Context()); err != nil { // no remote needed to go on
				t.Fatal(err)
			}
		}
		c.Set(c.Now().Add(time.Second))
		j := openJournal(t, Config{Dir: dir, Incarnation: fmt.Sprintf("i%d", 9-i), Now: c.Now, Previous: past, Version: "v1"})
		add(t, j, Entry{Kind: KindIntent})
		if i == 0 {
			first = j.inc.dir
		}
	}
	past, err := Previous(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range past {
		flush(t, newPublisher(t, PublisherConfig{Past: p, Store: m}))
	}
	rep := holds(t, m, 8)
	if rep.Anchors != 3 || rep.Logs[0].Previous != "demo/i7" || rep.Logs[3].Previous != "" {
		t.Errorf("%d anchors, %+v", rep.Anchors, rep.Logs)
	}
	// Old ones may go, the newest and the unpublished may not.
	past, err = Previous(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range past {
		p.bodies = p.Entries // that their bodies have arrived, a Bodies finds
	}
	if err := os.MkdirAll(filepath.Join(dir, "pruned", "of-a-prune-that-was-cut-short"), 0o700); err != nil {
		t.Fatal(err)
	}
	stay, err := Prune(past, 3, c.Now().Add(time.Hour))
	if err != nil || len(stay) != 3 {
		t.Errorf("%d stay, %v", len(stay), err)
	}
	if _, err := os.Stat(first); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the oldest is still there: %v", err)
	}
	if stay, err = Prune(stay, 0, noon); err != nil || len(stay) != 3 {
		t.Errorf("%d stay of those young enough to be needed, %v", len(stay), err)
	}
	// Only from the oldest on: behind one that stays, all do.
	stay[1].mark.Entries--
	if stay, err = Prune(stay, 0, c.Now().Add(time.Hour)); err != nil || len(stay) != 2 || stay[0].Published() || !stay[1].Published() {
		t.Errorf("%d stay, the first is unpublished, %v", len(stay), err)
	}
	for _, p := range stay {
		if _, err := os.Stat(p.inc.dir); err != nil {
			t.Error(err)
		}
	}
}

func BenchmarkPublish(b *testing.B) {
	j := openJournal(b, Config{MaxBytes: 1 << 40})
	e := full()
	done := make(chan error, 64)
	sem := make(chan struct{}, 512)
	go func() {
		for range b.N {
			sem <- struct{}{}
			go func() {
				_, err := j.Append(b.Context(), e)
				<-sem
				done <- err
			}()
		}
	}()
	for range b.N {
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	p := newPublisher(b, PublisherConfig{Journal: j, Store: newStore()})
	b.ResetTimer()
	flush(b, p)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
}
