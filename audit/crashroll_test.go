package audit

import (
	"cmp"
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// rollScene is a run on a crashDisk whose log goes on from repository a to b,
// and whose bodies go to a.
type rollScene struct {
	disk  *crashDisk
	known []keptEntry // acknowledged
}

type keptEntry struct {
	Entry
	text string
}

func newRollScene(t testing.TB, fault func(int, step) (bool, error)) *rollScene {
	t.Helper()
	d := newCrashDisk(memoryDir(t))
	d.now.next = newStore()
	d.fault = fault
	s := &rollScene{disk: d}
	a, b := newStore(), newStore()
	for m, note := range map[*memStore]func(*moment, *memStore){
		a: func(now *moment, is *memStore) { now.store = is },
		b: func(now *moment, is *memStore) { now.next = is },
	} {
		held := func() { is := m.clone(); d.tell(func(now *moment) { note(now, is) }) }
		m.beforeCommit = func() error { return d.outside("commit") }
		m.afterCommit = func() error { held(); return d.outside("committed") }
		m.onPush = func() error { return d.outside("push") }
		m.afterPush = func() error { held(); return d.outside("pushed") }
	}
	c := &clockAt{t: noon}
	j, err := Open(Config{Dir: filepath.Join(d.root, "state"), Enforcer: "demo", Incarnation: "i1", Now: c.Now, SegmentBytes: 1200, After: atOnce, Disk: d})
	if err != nil {
		return s
	}
	pub := newPublisher(t, PublisherConfig{Journal: j, Store: a, Repo: "a", Now: c.Now})
	bodies := newBodies(t, BodiesConfig{Journal: j, Store: a, Now: c.Now})
	both := newOutlet(t, a, OutletConfig{Parts: []Part{pub, bodies}, Now: c.Now})
	flush := func(f *Outlet) {
		if err := f.Flush(t.Context()); errors.Is(err, ErrForked) || errors.Is(err, ErrDamaged) {
			t.Error(err)
		}
	}
	s.keep(t, j, "one")
	flush(both)
	s.keep(t, j, "two")
	roll, err := Detail(Rolled{From: "a", To: "b", Reason: RolledSize})
	if err != nil {
		t.Fatal(err)
	}
	s.add(t, j, keptEntry{Entry: Entry{Kind: KindRolled, Detail: roll}})
	s.keep(t, j, "three")
	flush(both)
	if _, ok := pub.Rolled(); ok {
		both.Remove(pub)
		pub = newPublisher(t, PublisherConfig{Journal: j, Store: b, Repo: "b", Now: c.Now})
		flush(newOutlet(t, b, OutletConfig{Parts: []Part{pub}, Now: c.Now}))
		s.keep(t, j, "four")
		flush(both)
		if err := pub.Flush(t.Context()); errors.Is(err, ErrForked) || errors.Is(err, ErrDamaged) {
			t.Error(err)
		}
	}
	_ = j.Close() // what the disk does to it is not the question here
	return s
}

// keep records an entry with two bodies.
func (s *rollScene) keep(t testing.TB, j *Journal, text string) {
	s.add(t, j, keptEntry{Entry{Kind: KindRefused, Effect: "deny", Call: "c_" + text}, text},
		Body{Of: "request", Text: []byte("asked " + text)}, Body{Of: "response", Text: []byte("answered " + text)})
}

func (s *rollScene) add(t testing.TB, j *Journal, k keptEntry, bodies ...Body) {
	var err error
	if k.Entry, err = j.Append(t.Context(), k.Entry, bodies...); err != nil {
		if !errors.Is(err, ErrDisk) {
			t.Error(err)
		}
		return
	}
	s.disk.tell(func(now *moment) {
		s.known = append(s.known, k)
		now.acked = len(s.known)
	})
}

// survives crashes before step n, or in the course of it. The next start takes
// up what is left, under new keys, says so, and publishes all of it.
func (s *rollScene) survives(t *testing.T, n int, rnd *rand.Rand) {
	t.Helper()
	last := s.disk.now
	if n < len(s.disk.steps) {
		last = s.disk.seen[n]
	}
	dir, err := os.MkdirTemp(s.disk.root, "crash")
	if err != nil {
		t.Fatal(err)
	}
	s.disk.at(t, n, dir, some(rnd))
	dir = filepath.Join(dir, "state")
	all, err := Previous(dir)
	if err != nil {
		t.Fatalf("step %d: %v", n, err)
	}
	if len(all) == 0 || all[0].Entries == 0 {
		if last.acked > 0 {
			t.Fatalf("step %d: nothing is left of %d entries", n, last.acked)
		}
		return
	}
	past := all[0]
	past.inc.disk = calm{}
	stores := map[string]*memStore{"a": last.store.clone(), "b": last.next.clone()}
	for _, m := range stores {
		if rnd.IntN(2) == 0 { // it forgets what no push synced
			m.branches = maps.Clone(m.remote)
		}
	}
	c := &clockAt{t: noon}
	old, next := KeySigner(testKey("log")), KeySigner(testKey("next"))
	for range 3 {
		in := cmp.Or(past.Repo(), "a")
		p := newPublisher(t, PublisherConfig{Past: past, Store: stores[in], Repo: in, Now: c.Now, Signer: next, Previous: old})
		if err := p.Flush(t.Context()); err != nil {
			t.Fatalf("step %d: %v", n, err)
		}
		if to, ok := p.Rolled(); !ok || to != past.Repo() {
			break
		}
	}
	publish(t, stores["a"], newBodies(t, BodiesConfig{Past: past, Store: stores["a"], Now: c.Now}))
	if !past.Published() {
		t.Errorf("step %d: not all is published", n)
	}
	j, err := Open(Config{Dir: dir, Enforcer: "demo", Incarnation: "i2", Previous: all, Disk: calm{}, Now: c.Now})
	if err != nil {
		t.Fatal(err)
	}
	add(t, j, replaced(t, "log", "next"))
	in := cmp.Or(past.Repo(), "a")
	flush(t, newPublisher(t, PublisherConfig{Journal: j, Store: stores[in], Repo: in, Now: c.Now, Signer: next, Previous: old}))
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	cfg := VerifyConfig{Keys: LogKeys{"demo": keysOf("log")[""]}, Signer: checkSigner, Bodies: true}
	repo := stores["a"].repository()
	if len(stores["b"].branches) > 0 {
		cfg.Earlier, repo = []Repository{repo}, stores["b"].repository()
	}
	rep, err := Verify(t.Context(), repo, cfg)
	if err != nil || !rep.OK() || rep.Entries != past.Entries+2 {
		t.Fatalf("step %d: %v, %v; the journal has %d entries", n, rep, err, past.Entries)
	}
	times := map[uint64]int{}
	for _, m := range stores {
		for branch, tip := range m.remote {
			if m.branches[branch] != tip {
				t.Errorf("step %d: %s is not pushed to its end", n, branch)
			}
			for path, b := range m.files[tip] {
				if strings.HasPrefix(branch, "audit/demo/i1/") && strings.HasSuffix(path, ".jsonl") {
					for e, err := range ReadEntries(strings.NewReader(string(b))) {
						if err != nil {
							t.Fatal(err)
						}
						times[e.Seq]++
					}
				}
			}
		}
	}
	for seq := range past.Entries {
		if times[seq] != 1 {
			t.Errorf("step %d: entry %d is there %d times", n, seq, times[seq])
		}
	}
	for _, k := range s.known[:last.acked] {
		if k.Seq >= past.Entries {
			t.Errorf("step %d: entry %d was acknowledged, and is lost", n, k.Seq)
		} else if k.text != "" {
			opens(t, stores["a"], "demo/i1", k.Entry, k.text)
		}
	}
	if t.Failed() {
		t.Fatalf("step %d of %d: %s", n, len(s.disk.steps), s.disk.steps[min(n, len(s.disk.steps)-1)].op)
	}
}

// Between any two steps of a run that rolls and keeps bodies, and in the course
// of any, a crash loses nothing, doubles nothing, and takes nothing apart; nor
// if the keys are replaced at the start after it.
func TestCrashAtEveryStepOfARoll(t *testing.T) {
	rnd, _ := seeded(t)
	s := newRollScene(t, nil)
	if len(s.known) != 5 || len(s.disk.now.next.remote) == 0 {
		t.Fatalf("%d acknowledged", len(s.known))
	}
	for n := range len(s.disk.steps) + 1 {
		s.survives(t, n, rnd)
	}
	t.Logf("%d steps", len(s.disk.steps))
}

// The same where one step fails, each in turn: before it has an effect, or after,
// and nobody is told.
func TestCrashAfterAnyStepOfARollFailed(t *testing.T) {
	rnd, _ := seeded(t)
	steps := len(newRollScene(t, nil).disk.steps)
	for fails := range steps {
		for _, effect := range []bool{false, true} {
			s := newRollScene(t, func(n int, _ step) (bool, error) {
				if n == fails {
					return effect, syscall.EIO
				}
				return true, nil
			})
			s.survives(t, len(s.disk.steps), rnd)
			if t.Failed() {
				t.Fatalf("step %d failed, effect %v", fails, effect)
			}
		}
	}
}
