package audit

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

// Witnesses that were away when the last entry was pushed are asked again,
// though nothing follows: ever more seldom, at most every five minutes, with
// what was published; and nothing is written while they stay away.
func TestWitnessesAreAskedAgain(t *testing.T) {
	c := &clockAt{t: noon}
	j := openJournal(t, Config{Now: c.Now})
	m := newStore()
	there, asked := []string{"w1"}, []uint64{}
	p := newPublisher(t, PublisherConfig{Journal: j, Store: m, Now: c.Now, Rand: func() float64 { return 0.5 }, Cosign: func(ctx context.Context, a Cosigning) (string, error) {
		asked = append(asked, a.Checkpoint.Size)
		for old := range a.Checkpoint.Size { // whatever they have seen
			if _, err := a.Proof(ctx, old); err != nil {
				t.Errorf("from %d to %d: %v", old, a.Checkpoint.Size, err)
			}
		}
		if len(there) < 3 {
			return cosignedBy(t, a.Signed, there...), errors.New("somebody is away")
		}
		return cosignedBy(t, a.Signed, there...), nil
	}})
	// windows go by, ten seconds each, for so long; it gives how many times
	// witnesses were asked, and what was written.
	windows := func(d time.Duration) (times int, wrote uint64) {
		t.Helper()
		before, seq := len(asked), j.State().Entries
		for end := c.Now().Add(d); c.Now().Before(end); c.Set(c.Now().Add(10 * time.Second)) {
			flush(t, p)
		}
		return len(asked) - before, j.State().Entries - seq
	}
	add(t, j, Entry{Kind: KindIntent})
	if n, wrote := windows(30 * time.Second); n != 1 || wrote != 0 {
		t.Errorf("at once: asked %d times, %d entries", n, wrote)
	}
	if n, wrote := windows(time.Hour); n < 12 || n > 16 || wrote != 0 {
		t.Errorf("in an hour: asked %d times, %d entries", n, wrote)
	}
	if slices.Max(asked) != 2 {
		t.Errorf("asked for trees of %v", asked)
	}
	two, err := NewQuorum([]string{witnessVkey(t, "w1"), witnessVkey(t, "w2"), witnessVkey(t, "w3")}, 2)
	if err != nil {
		t.Fatal(err)
	}
	met := func() uint64 {
		t.Helper()
		rep, err := Verify(t.Context(), m.repository(), VerifyConfig{Keys: keysOf("log"), Signer: checkSigner, Quorum: two, Grace: DefaultGrace, Now: c.Now()})
		if err != nil || rep.Verdict == Fails && rep.Problems[0].Class != ClassQuorum {
			t.Fatalf("%v, %v", rep, err)
		}
		if rep.OK() != (rep.Logs[0].Cosigned == rep.Entries) {
			t.Errorf("cosigned up to %d: %s", rep.Logs[0].Cosigned, rep)
		}
		return rep.Logs[0].Cosigned
	}
	if n := met(); n != 0 {
		t.Errorf("one of three cosigned, and the quorum is met up to %d", n)
	}
	// A second one is enough for the quorum, though the third stays away.
	there = append(there, "w2")
	if n, wrote := windows(time.Hour); n < 12 || n > 18 || wrote != 1 || met() != 3 {
		t.Errorf("the second: asked %d times, %d entries, the quorum is met up to %d", n, wrote, met())
	}
	there = append(there, "w3")
	if n, wrote := windows(time.Hour); n != 2 || wrote != 1 || met() != 4 {
		t.Errorf("the third: asked %d times, %d entries, the quorum is met up to %d", n, wrote, met())
	}
	if n, wrote := windows(24 * time.Hour); n != 0 || wrote != 0 {
		t.Errorf("when all have: asked %d times, %d entries", n, wrote)
	}
	var late []Entry
	for e, err := range j.Read() {
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind == KindAnchor {
			late = append(late, e)
		}
	}
	if len(late) != 2 || late[0].Reason != lateReason || !strings.Contains(string(late[1].Detail), "w3.example") {
		t.Errorf("%v", late)
	}
	rep := holds(t, m, 4)
	if rep.Anchors != 2 {
		t.Errorf("%d anchors", rep.Anchors)
	}
}

// What one who is there and away in turn can cause is bounded by the pace.
func TestAWitnessThatComesAndGoes(t *testing.T) {
	c := &clockAt{t: noon}
	j := openJournal(t, Config{Now: c.Now})
	asked := 0
	p := newPublisher(t, PublisherConfig{Journal: j, Store: newStore(), Now: c.Now, Cosign: func(_ context.Context, a Cosigning) (string, error) {
		if asked++; asked%2 == 1 {
			return a.Signed, errors.New("away")
		}
		return cosignedBy(t, a.Signed, "w"), nil
	}})
	for range 360 { // an hour
		c.Set(c.Now().Add(10 * time.Second))
		flush(t, p)
	}
	if n := j.State().Entries; n > 20 {
		t.Errorf("%d entries", n)
	}
}

// What Follow commits between two pushes nobody has cosigned.
func TestWhatNobodyWasAskedFor(t *testing.T) {
	c := &clockAt{t: noon}
	j := openJournal(t, Config{Now: c.Now})
	var asked []uint64
	p := newPublisher(t, PublisherConfig{Journal: j, Store: newStore(), Now: c.Now, Cosign: func(_ context.Context, a Cosigning) (string, error) {
		asked = append(asked, a.Checkpoint.Size)
		return cosignedBy(t, a.Signed, "w"), nil
	}})
	p.mu.Lock()
	err := p.commitAll(t.Context(), false) // as Follow does
	p.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	for range 12 {
		c.Set(c.Now().Add(10 * time.Second))
		flush(t, p)
	}
	if !slices.Equal(asked, []uint64{1, 2}) {
		t.Errorf("asked for %v", asked)
	}
}

// What a neighbour could not record, or had no time for, it records when it can,
// though its neighbour adds nothing more.
func TestNeighboursRecordLate(t *testing.T) {
	c := &clockAt{t: noon}
	m := newStore()
	keys := LogKeys{"east": {public(testKey("east"))}, "west": {public(testKey("west"))}}
	east, west := newHouse(t, c, m, "east", keys), newHouse(t, c, m, "west", keys)
	full := true
	n, err := NewNeighbours(NeighboursConfig{Enforcer: "east", Keys: keys, Look: peekAt(m), Now: c.Now, Append: func(ctx context.Context, e Entry) error {
		if full {
			return ErrFull
		}
		_, err := east.j.Append(ctx, e)
		return err
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Round(t.Context()); !errors.Is(err, ErrFull) {
		t.Fatal(err)
	}
	full = false
	round := func(want ...string) {
		t.Helper()
		if err := n.Round(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := east.anchors(t); !slices.Equal(got, want) {
			t.Errorf("recorded %q, want %q", got, want)
		}
	}
	round("west/r_west 1")
	add(t, west.j, Entry{Kind: KindIntent})
	west.publish(t)
	c.Set(c.Now().Add(time.Minute))
	round("west/r_west 1") // too soon
	c.Set(c.Now().Add(5 * time.Minute))
	round("west/r_west 1", "west/r_west 2")
	c.Set(c.Now().Add(5 * time.Minute))
	round("west/r_west 1", "west/r_west 2")
}
