package audit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// busy is a part that always has something to push.
type busy struct {
	branch string
	n      int
	err    error
	got    []string
}

func (b *busy) Commit(context.Context) error { b.n++; return b.err }
func (b *busy) Dirty() []string              { return []string{b.branch} }
func (b *busy) Pushed(_ context.Context, tips map[string]string) error {
	b.got = append(b.got, tips[b.branch])
	return nil
}

// host is a remote that takes pushes, and counts them.
type host struct {
	refs   map[string]string
	refuse map[string]error
	whole  bool // a hook that refuses one branch refuses the push
	pushes [][]string
	down   error
}

func (h *host) push(_ context.Context, branches []string) (Push, error) {
	h.pushes = append(h.pushes, branches)
	done := Push{Before: maps.Clone(h.refs), Tips: map[string]string{}, Failed: map[string]error{}}
	if h.down != nil {
		return done, h.down
	}
	all := error(nil)
	for _, b := range branches {
		if h.whole && h.refuse[b] != nil {
			all = h.refuse[b]
		}
	}
	for _, b := range branches {
		if why := errors.Join(h.refuse[b], all); why != nil {
			done.Failed[b] = why
			continue
		}
		h.refs[b] = fmt.Sprint(len(h.pushes))
		done.Tips[b] = h.refs[b]
	}
	return done, nil
}

func outletTo(t *testing.T, h *host, now *clockAt, parts ...Part) *Outlet {
	t.Helper()
	o, err := NewOutlet(OutletConfig{Parts: parts, Push: h.push, Now: now.Now, Rejected: func(err error) bool { return errors.Is(err, errRejected) }})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// However many enforcers share a remote, and whenever they start, they push six
// times a minute at most, together, once they know of each other.
func TestSixPushesAMinute(t *testing.T) {
	for n := 1; n <= 6; n++ {
		for seed := range uint64(20) {
			rnd := rand.New(rand.NewPCG(seed, uint64(n)))
			h, now := &host{refs: map[string]string{}}, &clockAt{t: noon}
			type enforcer struct {
				o    *Outlet
				next time.Time
			}
			var all []*enforcer
			for i := range n {
				o := outletTo(t, h, now, &busy{branch: fmt.Sprintf("audit/e%d/r1/2026-11", i)})
				o.cfg.Rand = rnd.Float64
				start := noon.Add(time.Duration(rnd.IntN(600)) * time.Second)
				all = append(all, &enforcer{o, start.Add(o.wait())})
			}
			var at []time.Time
			for now.Now().Before(noon.Add(time.Hour)) {
				e := slices.MinFunc(all, func(a, b *enforcer) int { return a.next.Compare(b.next) })
				now.Set(e.next)
				at = append(at, e.next)
				e.o.window(t.Context())
				e.next = e.next.Add(e.o.wait())
			}
			most, late := 0, 0
			for i := range at {
				k := i
				for k < len(at) && at[k].Sub(at[i]) < time.Minute {
					k++
				}
				most = max(most, k-i)
				if at[i].After(noon.Add(15 * time.Minute)) {
					late = max(late, k-i)
				}
			}
			if late > 6 || most > 6+max(0, n-2) {
				t.Errorf("%d enforcers, seed %d: %d pushes in a minute, %d when all had run for long", n, seed, most, late)
			}
			if len(at) < 150 {
				t.Errorf("%d enforcers, seed %d: %d pushes in an hour", n, seed, len(at))
			}
		}
	}
}

func TestWriters(t *testing.T) {
	const span = time.Minute
	var w writers
	now := noon
	look := func(after time.Duration, refs ...string) int {
		t.Helper()
		now = now.Add(after)
		m := map[string]string{}
		for _, r := range refs {
			b, tip, _ := strings.Cut(r, "@")
			m[b] = tip
		}
		w.see(m, []string{"audit/me/r9/2026-11", "bodies/me/r9"}, now, span)
		return w.others
	}
	// Whoever was there before the first look counts once for a span: not its
	// many runs, not of months before, and not this enforcer's own earlier runs.
	first := []string{"audit/me/r9/2026-11@1", "audit/me/r8/2026-11@1", "audit/a/r1/2026-11@1", "audit/a/r2/2026-11@1", "audit/b/r1/2026-10@1", "main@1", "audit/x@1"}
	if n := look(0, first...); n != 1 {
		t.Errorf("%d at first", n)
	}
	if n := look(2*time.Minute, first...); n != 0 {
		t.Errorf("%d when nothing had changed", n)
	}
	moved := append([]string{"audit/a/r2/2026-11@2", "audit/b/r2/2026-11@1"}, first[:3]...)
	if n := look(time.Second, moved...); n != 2 {
		t.Errorf("%d of one that moved and one that is new", n)
	}
	if n := look(span, moved...); n != 2 {
		t.Errorf("%d within the span", n)
	}
	if n := look(time.Second, moved...); n != 0 {
		t.Errorf("%d after it", n)
	}
}

func TestWindows(t *testing.T) {
	h, now := &host{refs: map[string]string{"audit/other/r1/2026-11": "1"}}, &clockAt{t: noon}
	o := outletTo(t, h, now, &busy{branch: "audit/me/r1/2026-11"})
	o.cfg.Rand = func() float64 { return 0.5 }
	waits := func(want time.Duration) {
		t.Helper()
		if d := o.wait(); d != want {
			t.Errorf("waits %v, want %v", d, want)
		}
	}
	step := func(d time.Duration) { now.Set(now.Now().Add(d)); o.window(t.Context()) }
	waits(13 * time.Second)
	step(13 * time.Second)
	waits(52 * time.Second) // another one, of whom this minute may be full
	h.refs["audit/other/r1/2026-11"] = "2"
	step(52 * time.Second)
	waits(26 * time.Second)
	h.down = errors.New("network")
	for i := range 6 {
		step(time.Second)
		waits(min(26*time.Second<<(i+1), maxBackoff*13/10))
	}
	h.down = nil
	step(10 * time.Minute)
	waits(13 * time.Second) // the other one has not moved for long
}

// What one part meets, the others do not.
func TestPartsShareNoTrouble(t *testing.T) {
	hook, network := errors.New("hook declined"), errors.New("network")
	a, b, c := &busy{branch: "audit/me/a/2026-11"}, &busy{branch: "audit/me/b/2026-11"}, &busy{branch: "audit/me/c/2026-11"}
	h, now := &host{refs: map[string]string{}, refuse: map[string]error{}}, &clockAt{t: noon}
	o := outletTo(t, h, now, a, b, c)
	window := func(want string) {
		t.Helper()
		n := len(h.pushes)
		now.Set(now.Now().Add(10 * time.Second))
		o.window(t.Context())
		var got []string
		for _, p := range h.pushes[n:] {
			for _, b := range p {
				got = append(got, strings.Split(b, "/")[2])
			}
		}
		if g := strings.Join(got, " "); g != want {
			t.Errorf("at %v pushed %q, want %q", now.Now().Sub(noon), g, want)
		}
	}
	window("a b c")
	h.refuse[b.branch] = hook
	window("a b c") // b is refused, and waits by itself: 20 s, 40 s, …
	window("a c")
	window("b")
	window("a c")
	h.refuse[b.branch] = nil
	window("a c")
	window("a c")
	window("b")
	window("a b c")
	// One that cannot be committed is left out as long.
	a.err = network
	window("b c")
	a.err = nil
	window("b c")
	window("a b c")
	// A host that refuses the push as a whole does not say whose fault it is.
	h.whole, h.refuse[a.branch] = true, hook
	window("a b c")
	window("c")
	window("b")
	window("a")
	window("b c")
	window("a")
	window("b c")
	h.refuse[a.branch] = nil
	for range 2 {
		window("b c")
	}
	window("a")
	window("a b c")
	// The remote's branch is not ours: that is the end, of this one.
	h.whole, h.refuse[b.branch] = false, errRejected
	window("a b c")
	for range 40 {
		window("a c")
	}
	if err := o.Flush(t.Context()); !errors.Is(err, ErrForked) || !errors.Is(err, errRejected) {
		t.Errorf("flush: %v", err)
	}
	h.down = network
	if err := o.Flush(t.Context()); !errors.Is(err, network) {
		t.Errorf("flush: %v", err)
	}
	o.Remove(b)
	h.down = nil
	if err := o.Flush(t.Context()); err != nil {
		t.Errorf("flush without it: %v", err)
	}
}

func TestOutletRuns(t *testing.T) {
	j := openJournal(t, Config{})
	m := newStore()
	waits, ticks := make(chan time.Duration), make(chan time.Time)
	told := make(chan Checkpoint, 100)
	p := newPublisher(t, PublisherConfig{Journal: j, Store: m, Done: func(c Checkpoint, _ string, pushed bool) {
		if !pushed {
			told <- c
		}
	}})
	o := newOutlet(t, m, OutletConfig{Parts: []Part{p}, After: func(d time.Duration) <-chan time.Time { waits <- d; return ticks }})
	ctx, cancel := context.WithCancel(t.Context())
	var ended sync.WaitGroup
	ended.Go(func() { o.Run(ctx) })
	<-waits
	if c := <-told; c.Size != 1 {
		t.Errorf("at start %+v", c)
	}
	ended.Go(func() { p.Follow(ctx) })
	// A full batch is committed without waiting for the window.
	var wg sync.WaitGroup
	for range 64 { // so that they share syncs
		wg.Go(func() {
			for range minBatch / 64 {
				if _, err := j.Append(t.Context(), Entry{Kind: KindIntent}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if c := <-told; c.Size < minBatch {
		t.Errorf("%+v", c)
	}
	m.mu.Lock()
	if m.pushes != 0 {
		t.Error("pushed before the window")
	}
	m.mu.Unlock()
	ticks <- noon
	<-waits
	if s := j.State(); s.Pushed != s.Entries {
		t.Errorf("%+v", s)
	}
	cancel()
	ended.Wait()
	holds(t, m, minBatch+1)
}

// A long outage is pushed in steps. Each is known when it is there: it frees
// the journal, and after a crash the next start goes on behind it.
func TestCatchUpInSteps(t *testing.T) {
	dir := t.TempDir()
	c := &clockAt{t: noon}
	j := openJournal(t, Config{Dir: dir, Now: c.Now})
	m := newStore()
	p := newPublisher(t, PublisherConfig{Journal: j, Store: m, Now: c.Now})
	for i := range 9 { // a commit each, over three months
		c.Set(noon.AddDate(0, i/3, 0))
		add(t, j, Entry{Kind: KindIntent})
		if err := p.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(p.Dirty()); n != 3 {
		t.Fatalf("%d branches", n)
	}
	m.step = 1
	o, _ := outlets.Load(p)
	var steps []uint64
	pushed := func(j *Journal) {
		if _, err := o.(*Outlet).push(t.Context(), o.(*Outlet).turn()); err != nil {
			t.Fatal(err)
		}
		steps = append(steps, j.State().Pushed)
	}
	for range 4 {
		pushed(j)
	}
	// A commit that comes in while a push is under way is not counted with it.
	m.onPush = func() error {
		m.onPush = nil
		m.mu.Unlock()
		defer m.mu.Lock()
		add(t, j, Entry{Kind: KindOutcome})
		return p.Commit(t.Context())
	}
	pushed(j)
	if fmt.Sprint(steps) != "[2 3 5 6 8]" { // the first commit has the start entry, too; what ends a branch begins the next
		t.Errorf("steps at %v", steps)
	}
	// A later start knows what is there, and does the rest, in steps too; what
	// is no longer on its trail, it finds in the journal.
	again := newPublisher(t, PublisherConfig{Past: onlyPast(t, dir), Store: m})
	again.trail = nil
	flush(t, again)
	if past := again.cfg.Past; past.mark.Entries != past.Entries {
		t.Error("not all is published")
	}
	holds(t, m, 11)
	for b, h := range m.branches {
		if m.remote[b] != h {
			t.Errorf("%s is not pushed", b)
		}
	}
	if m.pushes != 5+3 {
		t.Errorf("%d pushes", m.pushes)
	}
}
