package audit

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	agefile "filippo.io/age"
)

// Restore is gitsync's: memStore's objects are never torn, but may be taken away.
func (m *memStore) Restore(branch, commit string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	tip := m.branches[branch]
	if _, ok := m.objects[commit]; !ok || tip != "" && !slices.Contains(m.history(commit), tip) {
		return errors.New("not whole, or no descendant")
	}
	m.branches[branch] = commit
	return nil
}

func nobody() ([]agefile.Recipient, bool) { return nil, true }

func newBodies(t testing.TB, cfg BodiesConfig) *Bodies {
	t.Helper()
	if cfg.Recipients == nil {
		cfg.Recipients = nobody
	}
	b, err := NewBodies(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// keep records an entry with two bodies.
func keep(t testing.TB, j *Journal, text string) Entry {
	t.Helper()
	e, err := j.Append(t.Context(), Entry{Kind: KindRefused, Effect: "deny", Call: "c_" + text, Issuer: "https://id", Sub: "alice"},
		Body{Of: "request", Text: []byte("asked " + text)}, Body{Of: "response", Text: []byte("answered " + text)})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// publish commits and pushes, as an Outlet does.
func publish(t testing.TB, m *memStore, parts ...Part) {
	t.Helper()
	for _, p := range parts {
		if err := p.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		send(t, m, p)
	}
}

// send pushes what a part has.
func send(t testing.TB, m *memStore, p Part) {
	t.Helper()
	names := p.Dirty()
	if len(names) == 0 {
		return
	}
	done, err := m.push(t.Context(), names)
	if err != nil || len(done.Failed) > 0 {
		t.Fatal(err, done.Failed)
	}
	if err := p.Pushed(t.Context(), done.Tips); err != nil {
		t.Fatal(err)
	}
}

// opens checks what the entry's bodies are on the shelf.
func opens(t testing.TB, m *memStore, origin string, e Entry, text string, ids ...agefile.Identity) {
	t.Helper()
	s := NewShelf(m.repository())
	for i, want := range []string{"asked " + text, "answered " + text} {
		got, err := s.Open(origin, e.Time, e.Bodies[i], ids...)
		if err != nil || string(got) != want {
			t.Errorf("body %d of entry %d: %q, %v; want %q", i, e.Seq, got, err, want)
		}
		if state, why, err := CheckBody(s, origin, e.Time, e.Bodies[i], ids...); state != BodyWhole || why != nil || err != nil {
			t.Errorf("checked: %v, %v, %v", state, why, err)
		}
	}
}

const novBodies, decBodies = "bodies/demo/i1/2026-11", "bodies/demo/i1/2026-12"

func TestBodiesGoToTheirMonths(t *testing.T) {
	c := &clockAt{t: time.Date(2026, 11, 30, 23, 59, 58, 0, time.UTC)}
	j := openJournal(t, Config{Now: c.Now})
	m := newStore()
	p := newPublisher(t, PublisherConfig{Journal: j, Store: m, Now: c.Now})
	b := newBodies(t, BodiesConfig{Journal: j, Store: m, Now: c.Now})
	one := keep(t, j, "one")
	if _, err := j.Append(t.Context(), Entry{Kind: KindIntent}, Body{Of: "request", Text: []byte("x"), Digest: true}); err != nil {
		t.Fatal(err)
	}
	two := keep(t, j, "two")
	c.Set(time.Date(2026, 12, 1, 0, 0, 1, 0, time.UTC))
	three := keep(t, j, "three")
	if err := p.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	publish(t, m, b)
	for text, e := range map[string]Entry{"one": one, "two": two, "three": three} {
		opens(t, m, "demo/i1", e, text)
	}
	nov, dec := m.history(m.remote[novBodies]), m.history(m.remote[decBodies])
	if len(nov) != 1 || len(dec) != 1 {
		t.Fatalf("%d and %d commits", len(nov), len(dec))
	}
	if got := m.objects[nov[0]].(Commit).Message; got != "4 bodies\n\nEntries: 1-3" {
		t.Errorf("message %q", got)
	}
	if s := j.State(); s.Bytes == 0 {
		t.Error("the entries are not published yet")
	}
	flush(t, p)
	if s := j.State(); s.Bytes != 0 || s.Alert != "" {
		t.Errorf("after both are published: %d bytes, %q", s.Bytes, s.Alert)
	}
	holds(t, m, 5)
	// Nothing new is nothing to do, whatever entries come.
	add(t, j, Entry{Kind: KindPolicy})
	before := len(m.objects)
	publish(t, m, b)
	if len(m.objects) != before || len(b.Dirty()) != 0 {
		t.Errorf("a commit without a body")
	}
	flush(t, p)
	if s := j.State(); s.Bytes != 0 {
		t.Errorf("%d bytes", s.Bytes)
	}
}

func TestBodiesWaitUntilItIsKnownWhomToSealThemTo(t *testing.T) {
	recipient, identity := sshIdentity(t, "")
	j := openJournal(t, Config{})
	m := newStore()
	var known bool
	b := newBodies(t, BodiesConfig{Journal: j, Store: m, Recipients: func() ([]agefile.Recipient, bool) {
		return []agefile.Recipient{recipient}, known
	}})
	e := keep(t, j, "secret plans")
	publish(t, m, b)
	if len(m.branches) != 0 || j.State().Bytes == 0 {
		t.Fatal("published before the policy was known")
	}
	known = true
	publish(t, m, b)
	opens(t, m, "demo/i1", e, "secret plans", identity)
	if state, why, err := CheckBody(NewShelf(m.repository()), "demo/i1", e.Time, e.Bodies[0]); state != BodySealed || !errors.Is(why, ErrBodySealed) || err != nil {
		t.Errorf("without an identity: %v, %v, %v", state, why, err)
	}
	for h, o := range m.objects {
		if f, ok := o.([]byte); ok && strings.Contains(string(f), "response") {
			t.Errorf("object %s shows of what it is", h)
		}
	}
}

// ageIdentity makes whom to seal to, as a policy names it, and who opens that.
func ageIdentity(t testing.TB) (string, agefile.Identity) {
	t.Helper()
	id, err := agefile.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return id.Recipient().String(), id
}

// Whom a body is sealed to was said when its call was recorded: no policy that
// is in force later opens it, nor seals it to others, not even after a restart.
func TestBodiesAreSealedAsTheirCallsWere(t *testing.T) {
	alice, opensAlice := ageIdentity(t)
	bob, opensBob := ageIdentity(t)
	other, opensOther := sshIdentity(t, "")
	later := func() ([]agefile.Recipient, bool) { return []agefile.Recipient{other}, true }
	for _, restarted := range []bool{false, true} {
		t.Run(fmt.Sprintf("restarted=%v", restarted), func(t *testing.T) {
			dir := t.TempDir()
			j := openJournal(t, Config{Dir: dir})
			m := newStore()
			cfg := BodiesConfig{Journal: j, Store: m, Recipients: later}
			es := map[string]Entry{}
			for name, to := range map[string][]string{"alice": {alice}, "both": {alice, bob}, "open": {}, "unsaid": nil} {
				e, err := j.Append(t.Context(), Entry{Kind: KindRefused, Effect: "deny"},
					Body{Of: "request", Text: []byte("asked " + name), To: to}, Body{Of: "response", Text: []byte("answered " + name), To: to})
				if err != nil {
					t.Fatal(err)
				}
				es[name] = e
			}
			if restarted {
				if err := j.Close(); err != nil {
					t.Fatal(err)
				}
				cfg.Journal, cfg.Past = nil, onlyPast(t, dir)
			}
			publish(t, m, newBodies(t, cfg))
			for name, by := range map[string][]agefile.Identity{"alice": {opensAlice}, "both": {opensAlice, opensBob}, "open": nil, "unsaid": {opensOther}} {
				opens(t, m, "demo/i1", es[name], name, by...)
				for _, id := range []agefile.Identity{opensAlice, opensBob, opensOther} {
					state, _, err := CheckBody(NewShelf(m.repository()), "demo/i1", es[name].Time, es[name].Bodies[0], id)
					want := BodySealed
					if name == "open" || slices.Contains(by, id) {
						want = BodyWhole
					}
					if state != want || err != nil {
						t.Errorf("the body of %s: %v, %v, want %v", name, state, err, want)
					}
				}
			}
			if got := m.objects[m.remote[novBodies]].(Commit).Message; !strings.HasPrefix(got, "8 bodies, 6 of them sealed\n") {
				t.Errorf("message %q", got)
			}
		})
	}
}

// A body of which it is not said waits until a policy is in force, and with it
// all behind it; those before are published.
func TestBodiesBehindOneThatWaits(t *testing.T) {
	j := openJournal(t, Config{})
	m := newStore()
	known := false
	b := newBodies(t, BodiesConfig{Journal: j, Store: m, Recipients: func() ([]agefile.Recipient, bool) { return nil, known }})
	open := func(text string) Entry {
		e, err := j.Append(t.Context(), Entry{Kind: KindRefused, Effect: "deny"},
			Body{Of: "request", Text: []byte("asked " + text), To: []string{}}, Body{Of: "response", Text: []byte("answered " + text), To: []string{}})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	one, two := open("one"), keep(t, j, "two")
	three := open("three")
	for range 2 {
		publish(t, m, b)
		opens(t, m, "demo/i1", one, "one")
		for _, e := range []Entry{two, three} {
			if state, _, err := CheckBody(NewShelf(m.repository()), "demo/i1", e.Time, e.Bodies[0]); state != BodyGone || err != nil {
				t.Fatalf("entry %d: %v, %v", e.Seq, state, err)
			}
		}
	}
	if j.pushed.withBodies != two.Seq {
		t.Errorf("published up to %d, want %d", j.pushed.withBodies, two.Seq)
	}
	known = true
	publish(t, m, b)
	opens(t, m, "demo/i1", two, "two")
	opens(t, m, "demo/i1", three, "three")
	if n := len(m.history(m.remote[novBodies])); n != 2 || j.pushed.bodies != j.head.bodies {
		t.Errorf("%d commits, %d bytes of %d", n, j.pushed.bodies, j.head.bodies)
	}
}

// Sealing is random, so a second commit of the same bodies would be another
// one: each uncertain step, with both of its outcomes, ends in one branch.
func TestBodiesAreNeverCommittedTwice(t *testing.T) {
	recipient, identity := sshIdentity(t, "")
	sealed := func() ([]agefile.Recipient, bool) { return []agefile.Recipient{recipient}, true }
	fault := errors.New("crash")
	for name, c := range map[string]struct {
		crash func(t *testing.T, m *memStore, b *Bodies)
		again bool // the commit of before is not there any more, nor on the remote
	}{
		"before the commit": {func(t *testing.T, m *memStore, b *Bodies) {
			m.beforeCommit = func() error { return fault }
			if err := b.Commit(t.Context()); !errors.Is(err, fault) {
				t.Fatal(err)
			}
		}, true},
		"committed, not known": {func(t *testing.T, m *memStore, b *Bodies) {
			m.afterCommit = func() error { return fault }
			if err := b.Commit(t.Context()); !errors.Is(err, fault) {
				t.Fatal(err)
			}
		}, false},
		"committed, not pushed": {func(t *testing.T, m *memStore, b *Bodies) {
			if err := b.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
		}, false},
		"not pushed, reference lost": {func(t *testing.T, m *memStore, b *Bodies) {
			if err := b.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			delete(m.branches, novBodies)
		}, false},
		"not pushed, objects lost": {func(t *testing.T, m *memStore, b *Bodies) {
			if err := b.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			delete(m.objects, m.branches[novBodies])
			delete(m.branches, novBodies)
		}, true},
		"pushed, not known": {func(t *testing.T, m *memStore, b *Bodies) {
			if err := b.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			if done, err := m.push(t.Context(), b.Dirty()); err != nil || len(done.Failed) > 0 {
				t.Fatal(err, done.Failed)
			}
		}, false},
		"pushed, not known, reference lost": {func(t *testing.T, m *memStore, b *Bodies) {
			if err := b.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			if done, err := m.push(t.Context(), b.Dirty()); err != nil || len(done.Failed) > 0 {
				t.Fatal(err, done.Failed)
			}
			delete(m.branches, novBodies)
		}, false},
	} {
		for _, started := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, started=%v", name, started), func(t *testing.T) {
				dir := t.TempDir()
				j := openJournal(t, Config{Dir: dir})
				m := newStore()
				b := newBodies(t, BodiesConfig{Journal: j, Store: m, Recipients: sealed})
				if started {
					keep(t, j, "zero")
					publish(t, m, b)
				}
				base := m.branches[novBodies]
				one := keep(t, j, "one")
				c.crash(t, m, b)
				made := m.branches[novBodies]
				if r := m.remote[novBodies]; r != "" && r != base {
					made = r
				}
				m.beforeCommit, m.afterCommit = nil, nil
				if err := j.Close(); err != nil {
					t.Fatal(err)
				}
				if strings.Contains(name, "lost") && base != "" {
					m.branches[novBodies] = base
				}
				past := onlyPast(t, dir)
				if past.Published() {
					t.Error("it says that it is published")
				}
				b = newBodies(t, BodiesConfig{Past: past, Store: m, Recipients: sealed})
				publish(t, m, b)
				tip := m.remote[novBodies]
				if tip != m.branches[novBodies] || tip == base {
					t.Fatalf("here at %s, there at %s", m.branches[novBodies], tip)
				}
				if made != "" && made != base && (tip != made) != c.again {
					t.Errorf("committed again: %v, want %v", tip != made, c.again)
				}
				if n := len(m.history(tip)); n != 1 && !started || n != 2 && started {
					t.Errorf("%d commits", n)
				}
				opens(t, m, "demo/i1", one, "one", identity)
				if past.bodies != past.Entries {
					t.Errorf("bodies up to %d of %d", past.bodies, past.Entries)
				}
				if again := onlyPast(t, dir); again.bodies != again.Entries {
					t.Errorf("after one more start: %d of %d", again.bodies, again.Entries)
				}
			})
		}
	}
}

func TestBodiesOfAnotherOriginAreNotContinued(t *testing.T) {
	j := openJournal(t, Config{})
	m := newStore()
	if _, err := m.Commit(t.Context(), novBodies, "", map[string][]byte{positionFile: []byte(`{"origin":"demo/other","next":1}` + "\n")}, "m", noon); err != nil {
		t.Fatal(err)
	}
	b := newBodies(t, BodiesConfig{Journal: j, Store: m, Now: func() time.Time { return noon }})
	keep(t, j, "one")
	if err := b.Commit(t.Context()); !errors.Is(err, ErrForked) {
		t.Errorf("continued: %v", err)
	}
}

func TestErasedBodiesAreNotPublished(t *testing.T) {
	j := openJournal(t, Config{})
	m := newStore()
	erased := map[string]bool{}
	b := newBodies(t, BodiesConfig{Journal: j, Store: m, Erased: func(d string) bool { return erased[d] }})
	one, two := keep(t, j, "one"), keep(t, j, "two")
	erased[one.Bodies[0].Digest], erased[one.Bodies[1].Digest] = true, true
	publish(t, m, b)
	opens(t, m, "demo/i1", two, "two")
	if state, _, err := CheckBody(NewShelf(m.repository()), "demo/i1", one.Time, one.Bodies[0]); state != BodyGone || err != nil {
		t.Errorf("%v, %v", state, err)
	}
	if j.State().Pushed != 0 || j.pushed.bodies != j.head.bodies {
		t.Errorf("%d bytes of bodies are published, of %d", j.pushed.bodies, j.head.bodies)
	}
}

// More than a commit takes is spread over several, whole entries each.
func TestBodiesInSeveralCommits(t *testing.T) {
	j := openJournal(t, Config{})
	m := newStore()
	b := newBodies(t, BodiesConfig{Journal: j, Store: m})
	const each = 1000
	b.batch = each
	var es []Entry
	for i := range 3 {
		text := noise(each)
		text[0] = byte(i)
		e, err := j.Append(t.Context(), Entry{Kind: KindSegment}, Body{Of: "request", Text: text}, Body{Of: "response", Text: text})
		if err != nil {
			t.Fatal(err)
		}
		es = append(es, e)
	}
	publish(t, m, b)
	if n := len(m.history(m.remote[novBodies])); n != 3 {
		t.Errorf("%d commits", n)
	}
	s := NewShelf(m.repository())
	for i, e := range es {
		for _, ref := range e.Bodies {
			if got, err := s.Open("demo/i1", e.Time, ref); err != nil || len(got) != each || got[0] != byte(i) {
				t.Errorf("entry %d: %d bytes, %v", e.Seq, len(got), err)
			}
		}
	}
}
