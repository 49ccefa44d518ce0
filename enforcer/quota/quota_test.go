package quota

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func draw(id, who string, l Limit) []Draw { return []Draw{{id, KeyOf("subject", who), l}} }

// call is a call that goes ahead and ends at once.
func call(t *Table, now time.Time, draws []Draw) *Exhausted {
	leave, e := t.Enter(now, draws, true)
	if e == nil {
		leave()
	}
	return e
}

// In no 60 seconds, wherever they begin, are there more calls than the bound;
// and who waits as long as he was told gets through.
func TestMinuteHasNoEdge(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, bound := range []int{1, 2, 7, 60} {
		q := New(noon)
		d := draw("q", "alice", Limit{Minute: bound})
		var passed []time.Time
		now := noon
		for range 3000 {
			if e := call(q, now, d); e == nil {
				passed = append(passed, now)
			} else if e.After < time.Second || e.After > 66*time.Second || e.After%time.Second != 0 {
				t.Fatalf("after %v", e.After)
			} else if r.IntN(4) == 0 {
				now = now.Add(e.After)
				if e := call(q, now, d); e != nil {
					t.Fatalf("bound %d: waited, and still: %v", bound, e)
				}
				passed = append(passed, now)
			}
			now = now.Add(time.Duration(r.IntN(int(2*time.Minute) / bound / 2)))
		}
		for i := bound; i < len(passed); i++ {
			if span := passed[i].Sub(passed[i-bound]); span < time.Minute {
				t.Fatalf("%d calls within %v, with a bound of %d", bound+1, span, bound)
			}
		}
		if len(passed) < 1000 {
			t.Errorf("bound %d: only %d of 3000 passed", bound, len(passed))
		}
	}
}

// The burst at the end of one clock minute and the start of the next is what a
// fixed window lets through twice.
func TestNoDoubleBurst(t *testing.T) {
	q := New(noon)
	d := draw("q", "alice", Limit{Minute: 10})
	n := 0
	for _, at := range []time.Duration{59_999 * time.Millisecond, 60 * time.Second, 61 * time.Second} {
		for range 20 {
			if call(q, noon.Add(at), d) == nil {
				n++
			}
		}
	}
	if n != 10 {
		t.Errorf("%d calls got through within two seconds", n)
	}
}

func TestDay(t *testing.T) {
	q := New(noon)
	d := draw("q", "alice", Limit{Day: 2})
	late := time.Date(2026, 3, 1, 23, 59, 50, 0, time.UTC)
	for i, want := range []bool{true, true, false} {
		if e := call(q, late, d); (e == nil) != want {
			t.Fatalf("call %d: %v", i, e)
		}
	}
	e := call(q, late, d)
	if e.After != 10*time.Second || !strings.Contains(e.Error(), "quota q is exhausted: 2 calls a day (UTC). Try again in 10 s") {
		t.Errorf("%v, after %v", e, e.After)
	}
	if e := call(q, late.Add(10*time.Second), d); e != nil {
		t.Errorf("after midnight: %v", e)
	}
	if e := call(q, late, d); e != nil { // the clock is set back: still the new day, which has one left
		t.Errorf("set back: %v", e)
	}
	if e := call(q, late, d); e == nil {
		t.Error("a clock that is set back begins the day anew")
	}
}

func TestConcurrent(t *testing.T) {
	q := New(noon)
	d := draw("q", "alice", Limit{Concurrent: 1, Day: 5})
	leave, e := q.Enter(noon, d, true)
	if e != nil {
		t.Fatal(e)
	}
	if e := call(q, noon, d); e == nil || e.After != time.Second || !strings.Contains(e.Error(), "1 call at one time") {
		t.Errorf("a second one at the same time: %v", e)
	}
	if e := call(q, noon, draw("q", "bob", d[0].Limit)); e != nil {
		t.Errorf("another caller: %v", e)
	}
	leave()
	if e := call(q, noon, d); e != nil {
		t.Errorf("after the first has ended: %v", e)
	}
}

// A refused call uses up nothing, of no quota; the first in order refuses.
func TestAllOrNone(t *testing.T) {
	q := New(noon)
	a, b := Draw{"a", KeyOf("x"), Limit{Minute: 3, Concurrent: 9}}, Draw{"b", KeyOf("x"), Limit{Minute: 1}}
	if e := call(q, noon, []Draw{a, b}); e != nil {
		t.Fatal(e)
	}
	for range 10 {
		if e := call(q, noon, []Draw{a, b}); e == nil || e.Quota != "b" {
			t.Fatalf("want a refusal by b, not %v", e)
		}
	}
	for range 2 {
		if e := call(q, noon, []Draw{a}); e != nil {
			t.Fatalf("refused calls have used up a: %v", e)
		}
	}
	if e := call(q, noon, []Draw{a, b}); e == nil || e.Quota != "a" {
		t.Errorf("both exhausted: want a, not %v", e)
	}
	if n := q.m["a"][a.Key].open; n != 0 {
		t.Errorf("%d places are still held", n)
	}
}

// Who waits for a person has a place, and is counted when the call goes ahead.
func TestEnteredIsNotCounted(t *testing.T) {
	q := New(noon)
	d := draw("q", "alice", Limit{Minute: 1, Concurrent: 2})
	leave, e := q.Enter(noon, d, false)
	if e != nil {
		t.Fatal(e)
	}
	if e := call(q, noon, d); e != nil {
		t.Fatalf("while it waits, another: %v", e)
	}
	if e := q.Count(noon, d); e == nil {
		t.Error("it went ahead over the bound")
	}
	leave()
	if e := q.Count(noon.Add(66*time.Second), d); e != nil {
		t.Errorf("later: %v", e)
	}
}

// A flood of callers takes bounded memory, and begins nobody's count anew.
func TestFlood(t *testing.T) {
	q := New(noon)
	limit := Limit{Minute: 5, Day: 100}
	alice := draw("q", "alice", limit)
	for range 5 {
		if e := call(q, noon, alice); e != nil {
			t.Fatal(e)
		}
	}
	let := 0
	for i := range 3 * maxKeys {
		if call(q, noon, draw("q", fmt.Sprint("mallory", i), limit)) == nil {
			let++
		}
	}
	if n := len(q.m["q"]); n > maxKeys+1 {
		t.Errorf("%d keys are tracked", n)
	}
	if most := maxKeys - 1 + limit.Minute; let > most {
		t.Errorf("%d calls got through, want at most %d: newcomers share one count", let, most)
	}
	if e := call(q, noon, alice); e == nil || e.Shared {
		t.Errorf("alice's count began anew: %v", e)
	}
	e := call(q, noon, draw("q", "dana", limit))
	if e == nil || !e.Shared || !strings.Contains(e.Error(), "shared by all newcomers") {
		t.Errorf("a newcomer: %v", e)
	}
	if e := call(q, noon.Add(66*time.Second), alice); e != nil {
		t.Errorf("a minute later: %v", e)
	}
	// On the next day they are idle, and make room.
	if e := call(q, noon.Add(24*time.Hour), draw("q", "dana", limit)); e != nil {
		t.Error(e)
	}
	if n := len(q.m["q"]); n > 10 {
		t.Errorf("%d idle keys stay", n)
	}
}

// Without a bound on the day a minute is enough to be idle.
func TestIdleKeysMakeRoom(t *testing.T) {
	q := New(noon)
	limit := Limit{Minute: 5, Concurrent: 2}
	leave, e := q.Enter(noon, draw("q", "alice", limit), true)
	if e != nil {
		t.Fatal(e)
	}
	for i := range maxKeys {
		call(q, noon, draw("q", fmt.Sprint(i), limit))
	}
	if e := call(q, noon.Add(time.Minute+slot), draw("q", "dana", limit)); e != nil {
		t.Error(e)
	}
	if n := len(q.m["q"]); n != 2 {
		t.Errorf("%d keys, want alice's, who is still there, and dana's", n)
	}
	leave()
	if e := call(q, noon.Add(time.Minute), draw("q", "alice", limit)); e != nil {
		t.Error(e)
	}
}

func TestKeep(t *testing.T) {
	q := New(noon)
	limit := Limit{Day: 1}
	call(q, noon, draw("a", "alice", limit))
	leave, e := q.Enter(noon, draw("b", "alice", limit), true)
	if e != nil {
		t.Fatal(e)
	}
	q.Keep([]string{"a"})
	if e := call(q, noon, draw("a", "alice", limit)); e == nil {
		t.Error("the count of a quota that stays began anew")
	}
	leave() // of a quota that is gone: harmless
	if e := call(q, noon, draw("b", "alice", limit)); e != nil {
		t.Errorf("a quota that went and came back: %v", e)
	}
}

func TestStateSurvives(t *testing.T) {
	q := New(noon)
	limit := Limit{Day: 3, Minute: 2}
	for range 2 {
		call(q, noon, draw("q", "alice", limit))
	}
	state := q.Snapshot(noon)
	if state == nil || q.Snapshot(noon) != nil {
		t.Fatal("want one snapshot for one change")
	}
	q.Unsaved()
	if again := q.Snapshot(noon); !bytes.Equal(state, again) {
		t.Errorf("what could not be saved is not there again: %q", again)
	}
	r := New(noon)
	if err := r.Restore(noon, state); err != nil {
		t.Fatal(err)
	}
	r.Keep([]string{"q"})
	if e := call(r, noon, draw("q", "alice", limit)); e != nil {
		t.Errorf("the third: %v", e)
	}
	if e := call(r, noon, draw("q", "alice", limit)); e == nil || !strings.Contains(e.Bound, "a day") {
		t.Errorf("the fourth: %v", e)
	}
	tomorrow := New(noon)
	if err := tomorrow.Restore(noon.Add(24*time.Hour), state); err != nil || len(tomorrow.m) != 0 {
		t.Errorf("yesterday's counts: %v %v", err, tomorrow.m)
	}
}

func TestDamagedState(t *testing.T) {
	q := New(noon)
	call(q, noon, draw("q", "alice", Limit{Day: 3}))
	good := q.Snapshot(noon)
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		r := New(noon)
		if err := r.Restore(noon, bad); !errors.Is(err, ErrDamaged) || len(r.m) != 0 {
			t.Fatalf("byte %d flipped: %v", i, err)
		}
		if err := r.Restore(noon, good[:i]); !errors.Is(err, ErrDamaged) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
	r := New(noon)
	r.Lose(noon)
	e := call(r, noon, draw("q", "alice", Limit{Day: 3}))
	if e == nil || !e.Lost || !strings.Contains(e.Error(), "today's counts were lost") {
		t.Errorf("lost: %v", e)
	}
	if e := call(r, noon, draw("m", "alice", Limit{Minute: 3})); e != nil {
		t.Errorf("a quota without a day: %v", e)
	}
	if r.Snapshot(noon) != nil {
		t.Error("the damaged file would be written over")
	}
	if e := call(r, noon.Add(12*time.Hour), draw("q", "alice", Limit{Day: 3})); e != nil || r.Snapshot(noon.Add(12*time.Hour)) == nil {
		t.Errorf("after midnight: %v", e)
	}
}

func TestRace(t *testing.T) {
	q := New(noon)
	limit := Limit{Minute: 500, Concurrent: 4, Day: 1000}
	var passed sync.Map
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			n := 0
			for i := range 500 {
				now := noon.Add(time.Duration(i) * time.Millisecond)
				leave, e := q.Enter(now, draw("q", "alice", limit), i%2 == 0)
				if e != nil {
					continue
				}
				if i%2 == 0 || q.Count(now, draw("q", "alice", limit)) == nil {
					n++
				}
				q.Snapshot(now)
				leave()
			}
			passed.Store(g, n)
		})
	}
	all.Wait()
	sum := 0
	passed.Range(func(_, n any) bool { sum += n.(int); return true })
	if sum > 500 || q.m["q"][KeyOf("subject", "alice")].open != 0 {
		t.Errorf("%d passed, %+v", sum, q.m["q"])
	}
}

func TestKeysDiffer(t *testing.T) {
	if KeyOf("ab", "c") == KeyOf("a", "bc") || KeyOf("a") == KeyOf("a", "") {
		t.Error("two lists have one key")
	}
}

// Whatever is restored is written again as it was, or refused.
func FuzzRestore(f *testing.F) {
	q := New(noon)
	f.Add([]byte(nil))
	call(q, noon, draw("q", "alice", Limit{Day: 3}))
	f.Add(q.Snapshot(noon))
	f.Add([]byte("countersign quotas 1 20513\nq 00 1\nsum 00\n"))
	f.Fuzz(func(t *testing.T, state []byte) {
		r := New(noon)
		if err := r.Restore(noon, state); err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Fatal(err)
			}
			return
		}
		r.Unsaved()
		again := New(noon)
		if err := again.Restore(noon, r.Snapshot(noon)); err != nil || len(again.m) != len(r.m) {
			t.Fatalf("%v: %v, then %v", err, r.m, again.m)
		}
	})
}

func BenchmarkEnter(b *testing.B) {
	q := New(noon)
	l := Limit{Minute: 1 << 30, Day: 1 << 30, Concurrent: 1 << 30}
	now := noon
	for b.Loop() {
		draws := []Draw{{"a", KeyOf("subject", "https://id.example.com|alice"), l}, {"b", KeyOf(), l}}
		leave, e := q.Enter(now, draws, true)
		if e != nil {
			b.Fatal(e)
		}
		leave()
		now = now.Add(time.Microsecond)
	}
}
