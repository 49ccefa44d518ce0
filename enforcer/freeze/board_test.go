package freeze

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"countersign/enforcer/kv"
)

var (
	everything = Target{All: true}
	dana       = Operator{Name: "dana", Issuer: "https://id.example", Sub: "dana"}
)

// world is a store, a clock that only tests move, and a record.
type world struct {
	t      *testing.T
	store  *kv.Store
	bucket *kv.Bucket

	mu     sync.Mutex
	now    time.Time
	events []string // event, id, by
	broken error    // the record fails with it
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, now: time.Date(2026, 11, 27, 18, 0, 0, 0, time.UTC)}
	w.open(t.TempDir())
	t.Cleanup(w.shut)
	return w
}

func (w *world) open(dir string) {
	w.t.Helper()
	var err error
	if w.store, err = kv.OpenEmbedded(dir); err == nil {
		w.bucket, err = w.store.Bucket(w.t.Context(), "freezes")
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) shut() {
	if w.store == nil {
		return
	}
	if err := w.store.Close(); err != nil {
		w.t.Error(err)
	}
	w.store = nil
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func (w *world) breakRecord(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.broken = err
}

func (w *world) record(_ context.Context, f Freeze, event string, by Operator) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.broken != nil {
		return w.broken
	}
	w.events = append(w.events, event+" "+f.ID+" "+by.Name)
	return nil
}

func (w *world) recorded() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.events)
}

// unloaded is a Board of the store, as one process has it before it knows
// anything; its ids begin with name.
func (w *world) unloaded(name string) *Board {
	n := 0
	return New(Config{Bucket: w.bucket, Now: w.clock, Record: w.record, ID: func() string { n++; return fmt.Sprintf("fz_%s%d", name, n) }})
}

func (w *world) board(name string) *Board {
	w.t.Helper()
	b := w.unloaded(name)
	if err := b.Load(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	return b
}

func (w *world) freeze(b *Board, t Target) Freeze {
	w.t.Helper()
	f, err := b.Freeze(w.t.Context(), t, "because", dana)
	if err != nil {
		w.t.Fatal(err)
	}
	return f
}

func (w *world) refresh(b *Board) {
	w.t.Helper()
	if err := b.refresh(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

func wantFrozen(t *testing.T, b *Board, id string) {
	t.Helper()
	var stopped *Stopped
	if err := b.Check(alice); !errors.As(err, &stopped) || stopped.Freeze.ID != id {
		t.Errorf("want frozen by %s, got %v", id, err)
	}
}

func wantFree(t *testing.T, b *Board) {
	t.Helper()
	if err := b.Check(alice); err != nil {
		t.Errorf("want free, got %v", err)
	}
}

func wantUnknown(t *testing.T, b *Board) {
	t.Helper()
	var stopped *Stopped
	if err := b.Check(alice); !errors.Is(err, ErrUnknown) || errors.As(err, &stopped) {
		t.Errorf("want unknown, got %v", err)
	}
}

func TestFreezeAndUnfreeze(t *testing.T) {
	w := newWorld(t)
	here, there := w.board("a"), w.board("b")
	wantFree(t, here)
	told := make(chan string, 4)
	here.Notify(func(f Freeze) { told <- "here " + f.ID })
	there.Notify(func(f Freeze) { told <- "there " + f.ID })

	f := w.freeze(here, everything)
	wantFrozen(t, here, f.ID)
	if got := <-told; got != "here fz_a1" {
		t.Error(got)
	}
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- there.Run(ctx) }()
	if got := <-told; got != "there fz_a1" {
		t.Error(got)
	}
	wantFrozen(t, there, f.ID)
	wantFrozen(t, w.board("c"), f.ID) // which starts now

	if _, err := there.Unfreeze(t.Context(), f.ID, Operator{Name: "erin"}); err != nil {
		t.Fatal(err)
	}
	wantFree(t, there)
	w.refresh(here)
	wantFree(t, here)
	if _, err := here.Unfreeze(t.Context(), f.ID, dana); !errors.Is(err, ErrNone) {
		t.Error(err)
	}
	stop()
	if err := <-ran; err != nil {
		t.Error(err)
	}
	if got := w.recorded(); !slices.Equal(got, []string{"frozen fz_a1 dana", "standing fz_a1 dana", "unfrozen fz_a1 erin"}) {
		t.Errorf("the record has %q", got)
	}
	select {
	case got := <-told:
		t.Errorf("told once more: %s", got)
	default:
	}
}

// It holds before the record has it, and though the record never does.
func TestAFreezeThatCannotBeRecordedHolds(t *testing.T) {
	w := newWorld(t)
	b := w.board("a")
	w.breakRecord(errors.New("disk full"))
	f, err := b.Freeze(t.Context(), everything, "because", dana)
	if !errors.Is(err, ErrUnrecorded) || errors.Is(err, ErrUnstored) {
		t.Errorf("got %v", err)
	}
	wantFrozen(t, b, f.ID)
	wantFrozen(t, w.unloadedRestored(nil), f.ID) // crash: the journal knows nothing, the store does
	w.breakRecord(nil)
	b.payAll(t.Context())
	b.payAll(t.Context()) // owes nothing any more
	if got := w.recorded(); !slices.Equal(got, []string{"frozen fz_a1 dana"}) {
		t.Errorf("the record has %q", got)
	}

	twice := Operator{Name: "dana", Why: "two\nlines"}
	if _, err := b.Unfreeze(t.Context(), f.ID, twice); !errors.Is(err, ErrWhy) {
		t.Errorf("got %v", err)
	}
	if _, err := b.UnfreezeAll(t.Context(), twice); !errors.Is(err, ErrWhy) {
		t.Errorf("got %v", err)
	}
	wantFrozen(t, b, f.ID)
	w.breakRecord(errors.New("disk full"))
	if _, err := b.Unfreeze(t.Context(), f.ID, dana); !errors.Is(err, ErrUnrecorded) {
		t.Errorf("got %v", err)
	}
	wantFrozen(t, b, f.ID)
	if lifted, err := b.UnfreezeAll(t.Context(), dana); !errors.Is(err, ErrUnrecorded) || len(lifted) != 0 {
		t.Errorf("got %v %v", lifted, err)
	}
	w.refresh(b)
	wantFrozen(t, b, f.ID)
}

// unloadedRestored is a Board whose start is in the middle of a broken record.
func (w *world) unloadedRestored(standing []Freeze) *Board {
	w.t.Helper()
	b := w.unloaded("r")
	if err := b.Restore(w.t.Context(), standing, nil); w.broken == nil && err != nil {
		w.t.Fatal(err)
	}
	return b
}

// The kill switch works while the store does not; once nobody has heard from
// the store for long, nothing is served at all.
func TestTheStoreIsAway(t *testing.T) {
	w := newWorld(t)
	b := w.board("a")
	w.shut()
	w.pass(Patience)
	wantFree(t, b)
	bob := Target{Issuer: "https://id.example", Sub: "bob"}
	f, err := b.Freeze(t.Context(), bob, "because", dana)
	if !errors.Is(err, ErrUnstored) || errors.Is(err, ErrUnrecorded) {
		t.Errorf("got %v", err)
	}
	var stopped *Stopped
	if err := b.Check(Call{Issuer: bob.Issuer, Sub: bob.Sub}); !errors.As(err, &stopped) || stopped.Freeze.ID != f.ID {
		t.Errorf("got %v", err)
	}
	wantFree(t, b) // alice
	if _, err := b.Unfreeze(t.Context(), f.ID, dana); !errors.Is(err, ErrUnstored) {
		t.Errorf("got %v", err)
	}
	if err := b.Check(Call{Issuer: bob.Issuer, Sub: bob.Sub}); !errors.As(err, &stopped) {
		t.Errorf("lifted, though the store could not be told: %v", err)
	}
	w.pass(time.Second)
	wantUnknown(t, b)
	if b.Err() == nil {
		t.Error("readiness does not know")
	}
	unread := w.unloaded("b")
	if err := unread.Load(t.Context()); err != nil {
		t.Error(err)
	}
	wantUnknown(t, unread)
	if err := w.unloaded("c").Restore(t.Context(), nil, nil); err == nil {
		t.Error("restored from nothing")
	}
}

// With the embedded store the journal is the authority.
func TestRestore(t *testing.T) {
	w := newWorld(t)
	before := w.board("a")
	lost, unseen, lifted := w.freeze(before, everything), w.freeze(before, Target{Server: "unseen"}), w.freeze(before, Target{Server: "lifted"})
	w.shut()
	w.open(t.TempDir()) // the store is lost, the journal is not
	restored := func(name string) *Board {
		b := w.unloaded(name)
		if err := b.Restore(t.Context(), []Freeze{lost}, map[string]bool{lifted.ID: true}); err != nil {
			t.Fatal(err)
		}
		return b
	}
	b := restored("b")
	wantFrozen(t, b, lost.ID)
	wantFrozen(t, w.board("c"), lost.ID) // it is in the store again

	// What only the store knows stands; what the journal saw lifted does not.
	for _, f := range []Freeze{unseen, lifted} {
		if err := b.change(t.Context(), func(list []Freeze) []Freeze { return append(list, f) }); err != nil {
			t.Fatal(err)
		}
	}
	w.events = nil
	var ids []string
	for _, f := range restored("d").List() {
		ids = append(ids, f.ID)
	}
	slices.Sort(ids)
	if !slices.Equal(ids, []string{lost.ID, unseen.ID}) {
		t.Errorf("standing: %q", ids)
	}
	events := w.recorded()
	slices.Sort(events)
	if !slices.Equal(events, []string{"frozen " + unseen.ID + " dana", "standing " + lost.ID + " dana"}) {
		t.Errorf("the record has %q", events)
	}
}

// A document that cannot be read stops everything, at a start and while it
// runs, until somebody discards it, on record.
func TestADocumentThatCannotBeRead(t *testing.T) {
	w := newWorld(t)
	b := w.board("a")
	f := w.freeze(b, Target{Server: "files"})
	_, rev, err := w.bucket.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.bucket.Update(t.Context(), key, []byte(`{"format":9}`), rev); err != nil {
		t.Fatal(err)
	}
	w.refresh(b)
	wantUnknown(t, b)
	if list := b.List(); len(list) != 1 || list[0].ID != f.ID {
		t.Errorf("what stood is forgotten: %+v", list)
	}
	restored, loaded := w.unloadedRestored([]Freeze{f}), w.board("l")
	wantUnknown(t, restored)
	wantUnknown(t, loaded)
	if _, err := restored.Freeze(t.Context(), everything, "because", dana); !errors.Is(err, ErrUnstored) {
		t.Errorf("got %v", err)
	}
	lifted, err := b.UnfreezeAll(t.Context(), dana)
	if err != nil || len(lifted) != 1 {
		t.Errorf("%+v %v", lifted, err)
	}
	wantFree(t, b)
	events := w.recorded()
	if end := events[len(events)-2:]; !slices.Equal(end, []string{"unfrozen  dana", "unfrozen " + f.ID + " dana"}) {
		t.Errorf("the record ends with %q", end)
	}
	w.refresh(loaded)
	wantFree(t, loaded)

	w.freeze(b, everything)
	if err := w.bucket.Delete(t.Context(), key, 0); err != nil {
		t.Fatal(err)
	}
	w.refresh(b)
	w.refresh(loaded)
	wantUnknown(t, loaded)
	if _, err := b.Freeze(t.Context(), Target{Server: "files"}, "because", dana); !errors.Is(err, ErrUnstored) {
		t.Errorf("a vanished document was begun anew: %v", err)
	}
	if _, err := b.UnfreezeAll(t.Context(), dana); err != nil {
		t.Fatal(err)
	}
	wantFree(t, b)
}

func TestBounds(t *testing.T) {
	w := newWorld(t)
	b := w.board("a")
	for i := range Max {
		w.freeze(b, Target{Tool: fmt.Sprint(i)})
	}
	if _, err := b.Freeze(t.Context(), Target{Tool: "more"}, "because", dana); !errors.Is(err, ErrFull) {
		t.Errorf("got %v", err)
	}
	f := w.freeze(b, everything) // is always possible
	wantFrozen(t, w.board("b"), f.ID)
	for reason, want := range map[string]error{"": ErrReason, " ": ErrReason, "two\nlines": ErrReason, "\x1b[2J": ErrReason} {
		if _, err := b.Freeze(t.Context(), Target{All: true}, reason, dana); !errors.Is(err, want) {
			t.Errorf("%q: %v", reason, err)
		}
	}
}

// Many at once, through two boards: none is lost, and none comes back.
func TestManyAtOnce(t *testing.T) {
	w := newWorld(t)
	boards := []*Board{w.board("a"), w.board("b")}
	ctx, stop := context.WithCancel(t.Context())
	var running, all sync.WaitGroup
	for _, b := range boards {
		var mu sync.Mutex
		n := 0
		name := b.ID()
		b.ID = func() string { mu.Lock(); defer mu.Unlock(); n++; return fmt.Sprintf("%sx%d", name, n) }
		running.Go(func() {
			if err := b.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		for i := range 10 {
			all.Go(func() {
				f, err := b.Freeze(t.Context(), Target{Tool: fmt.Sprint(i)}, "because", dana)
				if err == nil && i%2 == 0 {
					_, err = b.Unfreeze(t.Context(), f.ID, dana)
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
	}
	all.Wait()
	stop()
	running.Wait()
	for _, b := range boards {
		b.payAll(t.Context())
		w.refresh(b)
		if n := len(b.List()); n != 10 {
			t.Errorf("%d stand", n)
		}
	}
}

// A lift that the record has and the store could not take: the freeze stands,
// and the record says so again, or a start would believe that it was lifted.
func TestALiftThatFailsIsTakenBackInTheRecord(t *testing.T) {
	w := &world{t: t}
	w.now = w.now.AddDate(2026, 1, 1)
	w.open(t.TempDir())
	b := w.board("a")
	f := w.freeze(b, everything)
	w.shut()
	if _, err := b.Unfreeze(t.Context(), f.ID, dana); !errors.Is(err, ErrUnstored) {
		t.Errorf("got %v", err)
	}
	wantFrozen(t, b, f.ID)
	events := w.recorded()
	if last := events[len(events)-1]; !strings.Contains(last, EventStanding) {
		t.Errorf("the record ends with %q: %q", last, events)
	}
}
