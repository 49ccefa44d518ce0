package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// peekAt shows a store's branches as gitsync.Peek would.
func peekAt(m *memStore) func(context.Context, string, func(map[string]string) map[string]string) ([]Sighting, error) {
	return func(_ context.Context, _ string, choose func(map[string]string) map[string]string) ([]Sighting, error) {
		var seen []Sighting
		for b, since := range choose(m.branches) {
			s := Sighting{Branch: b, Tip: m.branches[b], GoneBack: since != ""}
			for _, h := range m.history(s.Tip) {
				if h == since {
					s.GoneBack = false
					break
				}
				s.Commits, s.Hashes = append(s.Commits, m.objects[h].(Commit)), append(s.Hashes, h)
				if since == "" {
					break
				}
			}
			seen = append(seen, s)
		}
		return seen, nil
	}
}

// house is an enforcer with a log in the store, who looks at its neighbours.
type house struct {
	name string
	j    *Journal
	p    *Publisher
	n    *Neighbours
}

func newHouse(t *testing.T, c *clockAt, m *memStore, name string, keys LogKeys) *house {
	t.Helper()
	h := &house{name: name, j: openJournal(t, Config{Enforcer: name, Incarnation: "r_" + name, Now: c.Now})}
	h.p = newPublisher(t, PublisherConfig{Journal: h.j, Store: m, Now: c.Now, Signer: KeySigner(testKey(name))})
	h.n = h.neighbours(t, c, m, keys)
	h.publish(t)
	return h
}

func (h *house) neighbours(t *testing.T, c *clockAt, m *memStore, keys LogKeys) *Neighbours {
	t.Helper()
	n, err := NewNeighbours(NeighboursConfig{Enforcer: h.name, Keys: keys, Look: peekAt(m), Now: c.Now, Append: func(ctx context.Context, e Entry) error {
		_, err := h.j.Append(ctx, e)
		return err
	}})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (h *house) publish(t *testing.T) {
	t.Helper()
	if err := h.p.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// anchors lists what the house recorded of others, as status, size and reason.
func (h *house) anchors(t *testing.T) (all []string) {
	t.Helper()
	for e, err := range h.j.Read() {
		if err != nil {
			t.Fatal(err)
		}
		var a Anchor
		if e.Kind != KindAnchor {
			continue
		}
		if err := json.Unmarshal(e.Detail, &a); err != nil {
			t.Fatal(err)
		}
		c, err := ReadCheckpoint(a.Checkpoint)
		if a.Checkpoint != "" && err != nil {
			t.Fatal(err)
		}
		all = append(all, strings.TrimSpace(fmt.Sprintf("%s %s %d %s", e.Status, c.Origin, c.Size, e.Reason)))
	}
	return all
}

func TestNeighboursRecordEachOther(t *testing.T) {
	c := &clockAt{t: time.Date(2026, 11, 30, 23, 0, 0, 0, time.UTC)}
	m := newStore()
	keys := LogKeys{"east": {public(testKey("east"))}, "west": {public(testKey("west"))}}
	east, west := newHouse(t, c, m, "east", keys), newHouse(t, c, m, "west", keys)
	stranger := newHouse(t, c, m, "south", keys) // nobody has its key
	round := func() {
		t.Helper()
		for _, h := range []*house{east, west, stranger} {
			if err := h.n.Round(t.Context()); err != nil {
				t.Fatalf("%s: %v", h.name, err)
			}
			h.publish(t)
		}
	}
	expect := func(what string, h *house, want ...string) {
		t.Helper()
		if got := h.anchors(t); strings.Join(got, "; ") != strings.Join(want, "; ") {
			t.Errorf("%s: %s recorded %q, want %q", what, h.name, got, want)
		}
	}
	round()
	expect("at first", east, "west/r_west 1")
	expect("at first", west, "east/r_east 2") // with the anchor that east has just made
	round()
	expect("at once again", east, "west/r_west 1")
	for range 5 {
		c.Set(c.Now().Add(6 * time.Minute))
		round()
	}
	expect("where only anchors were added", east, "west/r_west 1")
	expect("where only anchors were added", west, "east/r_east 2")
	add(t, west.j, Entry{Kind: KindIntent})
	west.publish(t)
	round()
	expect("where something happened", east, "west/r_west 1", "west/r_west 3")
	expect("where something happened", west, "east/r_east 2")
	add(t, west.j, Entry{Kind: KindIntent})
	west.publish(t)
	c.Set(c.Now().Add(time.Minute))
	round()
	expect("a minute later", east, "west/r_west 1", "west/r_west 3")
	c.Set(time.Date(2026, 12, 1, 0, 5, 0, 0, time.UTC))
	add(t, west.j, Entry{Kind: KindIntent})
	west.publish(t)
	for range 3 {
		c.Set(c.Now().Add(6 * time.Minute))
		round()
	}
	expect("the next month", east, "west/r_west 1", "west/r_west 3", "west/r_west 5")
	for _, h := range []*house{east, west} {
		if f := h.n.Forked(); len(f) != 0 {
			t.Errorf("%s: %v", h.name, f)
		}
	}
	if logs, last := east.n.Recorded(); logs != 1 || last.IsZero() {
		t.Errorf("east holds %d logs, %s", logs, last)
	}
	rep, err := Verify(t.Context(), m.repository(), VerifyConfig{Keys: keysOf("east", "west", "south"), Signer: checkSigner})
	if err != nil || !rep.OK() || rep.Anchors < 4 {
		t.Errorf("%s, %d anchors, %v", rep, rep.Anchors, err)
	}
	// Who asks for one log only needs its keys only.
	rep, err = Verify(t.Context(), m.repository(), VerifyConfig{Keys: keysOf("east"), Signer: checkSigner, Prefix: "audit/east/"})
	if err != nil || !rep.OK() || !strings.Contains(fmt.Sprint(rep.Notes), "which was not asked for") {
		t.Errorf("%s, %q, %v", rep, rep.Notes, err)
	}
}

// A log that is not what it was is called out once, in the record too, and the
// next run still knows.
func TestNeighboursSeeARewrittenLog(t *testing.T) {
	const branch = "audit/west/r_west/2026-11"
	for what, c := range map[string]struct {
		change func(t *testing.T, m *memStore, west *house, c *clockAt)
		why    string
	}{
		"taken back": {func(_ *testing.T, m *memStore, _ *house, _ *clockAt) {
			m.branches[branch] = m.history(m.branches[branch])[1]
		}, "does not descend any more"},
		"gone": {func(_ *testing.T, m *memStore, _ *house, _ *clockAt) { delete(m.branches, branch) }, "is gone"},
		"written anew": {func(t *testing.T, m *memStore, west *house, c *clockAt) {
			delete(m.branches, branch)
			j := openJournal(t, Config{Enforcer: "west", Incarnation: "r_west", Now: c.Now})
			for range 9 {
				add(t, j, Entry{Kind: KindIntent, Reason: "nothing to see"})
			}
			if err := newPublisher(t, PublisherConfig{Journal: j, Store: m, Now: c.Now, Signer: KeySigner(testKey("west"))}).Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
		}, "does not descend any more"},
		"a second tree of one size": {func(t *testing.T, m *memStore, west *house, c *clockAt) {
			cp, _, _ := west.p.Last()
			cp.Root[0]++
			note, err := cp.Sign(testKey("west"))
			if err != nil {
				t.Fatal(err)
			}
			m.branches[branch] = m.write(map[string][]byte{"checkpoint": []byte(note)}, []string{m.branches[branch]}, "1 call\n\n"+note+"\nEntries: 0-1\n", c.Now())
		}, "two trees of 3 entries"},
	} {
		t.Run(what, func(t *testing.T) {
			clock, m := &clockAt{t: noon}, newStore()
			keys := LogKeys{"": {public(testKey("east")), public(testKey("west"))}}
			east, west := newHouse(t, clock, m, "east", keys), newHouse(t, clock, m, "west", keys)
			for range 2 {
				add(t, west.j, Entry{Kind: KindIntent})
				west.publish(t)
			}
			round := func() {
				t.Helper()
				clock.Set(clock.Now().Add(10 * time.Minute))
				if err := east.n.Round(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			round()
			c.change(t, m, west, clock)
			again := east.neighbours(t, clock, m, keys)
			for _, e := range recorded(t, east.j) {
				again.Recall(e, "")
			}
			east.n = again
			round()
			round()
			got := east.anchors(t)
			if len(got) != 2 || !strings.HasPrefix(got[1], "forked ") || !strings.Contains(got[1], c.why) {
				t.Errorf("recorded %q", got)
			}
			if f := east.n.Forked(); !strings.Contains(f["west/r_west"], c.why) {
				t.Errorf("%v", f)
			}
			last := east.neighbours(t, clock, m, keys)
			for _, e := range recorded(t, east.j) {
				last.Recall(e, "")
			}
			if f := last.Forked(); f["west/r_west"] == "" {
				t.Errorf("the next run: %v", f)
			}
		})
	}
}

func recorded(t *testing.T, j *Journal) (all []Entry) {
	t.Helper()
	for e, err := range j.Read() {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

// A remote that tells nonsense costs a line in the log.
func TestNeighboursOfAHostileRemote(t *testing.T) {
	clock, m := &clockAt{t: noon}, newStore()
	keys := LogKeys{"west": {public(testKey("west"))}}
	east := newHouse(t, clock, m, "east", keys)
	forged, err := Checkpoint{Origin: "west/r_1", Size: 7}.Sign(testKey("somebody else"))
	if err != nil {
		t.Fatal(err)
	}
	other, err := Checkpoint{Origin: "west/r_2", Size: 7}.Sign(testKey("west"))
	if err != nil {
		t.Fatal(err)
	}
	for branch, message := range map[string]string{
		"audit/west/r_1/2026-11": "1 call\n\n" + forged, "audit/west/r_3/2026-11": "1 call\n\n" + other, "audit/west/r_4/2026-11": "hello",
		"audit/west/r_5/2024-01": "old", "audit/west/../2026-11": "x", "audit/west/r_6": "x", "audit/West/r_7/2026-11": "x", "audit/west/r_8/2026-13": "x",
	} {
		m.branches[branch] = m.write(map[string][]byte{}, nil, message, noon)
	}
	err = east.n.Round(t.Context())
	if err == nil || strings.Count(err.Error(), "no checkpoint of that log by a key that is known") != 3 {
		t.Errorf("%v", err)
	}
	if got := east.anchors(t); len(got) != 0 {
		t.Errorf("recorded %q", got)
	}
	for i := range 100 {
		m.branches[fmt.Sprintf("audit/west/r_a%d/2026-11", i)] = m.write(map[string][]byte{}, nil, fmt.Sprint(i), noon)
	}
	asked := 0
	n, err := NewNeighbours(NeighboursConfig{Enforcer: "east", Keys: keys, Now: clock.Now, Append: func(context.Context, Entry) error { return nil },
		Look: func(_ context.Context, _ string, choose func(map[string]string) map[string]string) ([]Sighting, error) {
			asked = len(choose(m.branches))
			return nil, errors.New("down")
		}})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Round(t.Context()); err == nil || asked > maxAnchors {
		t.Errorf("asked for %d branches, %v", asked, err)
	}
}

// A log that rolls is watched where ours is: what was seen of it in the repository
// before is not missing here, and still a bound.
func TestNeighboursMoveOn(t *testing.T) {
	c := &clockAt{t: noon}
	stores := map[string]*memStore{"a": newStore(), "b": newStore()}
	where := "a"
	var kept []Entry
	fresh := func() *Neighbours {
		t.Helper()
		n, err := NewNeighbours(NeighboursConfig{
			Enforcer: "east", Keys: LogKeys{"west": {public(testKey("west"))}}, Now: c.Now,
			Where:  func() string { return where },
			Append: func(_ context.Context, e Entry) error { kept = append(kept, e); return nil },
			Look: func(ctx context.Context, repo string, choose func(map[string]string) map[string]string) ([]Sighting, error) {
				return peekAt(stores[repo])(ctx, repo, choose)
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range kept {
			e.Time = c.Now()
			n.Recall(e, "elsewhere")
		}
		return n
	}
	round := func(n *Neighbours) (forked string) {
		t.Helper()
		c.Set(c.Now().Add(10 * time.Minute))
		if err := n.Round(t.Context()); err != nil {
			t.Fatal(err)
		}
		return n.Forked()["west/r_west"]
	}
	west := openJournal(t, Config{Enforcer: "west", Incarnation: "r_west", Now: c.Now})
	in := func(repo string) {
		t.Helper()
		flush(t, newPublisher(t, PublisherConfig{Journal: west, Store: stores[repo], Repo: repo, Now: c.Now, Signer: KeySigner(testKey("west"))}))
	}
	add(t, west, Entry{Kind: KindIntent})
	in("a")
	n := fresh()
	round(n)
	detail, err := Detail(Rolled{From: "a", To: "b", Reason: RolledSize})
	if err != nil {
		t.Fatal(err)
	}
	add(t, west, Entry{Kind: KindRolled, Detail: detail})
	in("a")
	add(t, west, Entry{Kind: KindIntent})
	where = "b"
	if forked := round(n); forked != "" { // before the other has come
		t.Error(forked)
	}
	in("b")
	if forked := round(n); forked != "" {
		t.Error(forked)
	}
	var held []string
	for _, e := range kept {
		var a Anchor
		if err := json.Unmarshal(e.Detail, &a); err != nil {
			t.Fatal(err)
		}
		cp, err := ReadCheckpoint(a.Checkpoint)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, fmt.Sprint(cp.Size, " in ", a.Repo))
	}
	if got := strings.Join(held, ", "); got != "2 in a, 4 in b" {
		t.Errorf("recorded %s", got)
	}
	const branch = "audit/west/r_west/2026-11"
	delete(stores["a"].branches, branch)
	if forked := round(fresh()); forked != "" { // the next run, in b, has seen both
		t.Error(forked)
	}
	whole, all := stores["b"].branches[branch], kept
	stores["b"].branches["audit/south/r_0/2026-11"] = whole // something is there
	delete(stores["b"].branches, branch)
	if forked := round(fresh()); !strings.Contains(forked, "is gone") {
		t.Errorf("where it was seen last it is gone: %q", forked)
	}
	kept = all[:1:1] // of a run that saw it in a alone
	short, err := Checkpoint{Origin: "west/r_west", Size: 1}.Sign(testKey("west"))
	if err != nil {
		t.Fatal(err)
	}
	stores["b"].branches[branch] = stores["b"].write(map[string][]byte{}, nil, "1 call\n\n"+short, noon)
	if forked := round(fresh()); !strings.Contains(forked, "it had 2 entries, and now has 1") {
		t.Errorf("what it had in a is a bound in b: %q", forked)
	}
}
