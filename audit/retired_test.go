package audit

import (
	"strings"
	"testing"
	"time"
)

// rotating is an enforcer whose runs follow each other, in one store.
type rotating struct {
	*testing.T
	c   *clockAt
	m   *memStore
	dir string
}

// run is a run on a state directory, whose checkpoints these keys sign, and
// which says first that the one before was replaced, if there is one.
func (r *rotating) run(dir, id, key, before string) *Publisher {
	r.Helper()
	past, err := Previous(dir)
	if err != nil {
		r.Fatal(err)
	}
	j := openJournal(r, Config{Dir: dir, Incarnation: id, Previous: past, Now: r.c.Now})
	cfg := PublisherConfig{Journal: j, Store: r.m, Now: r.c.Now, Signer: KeySigner(testKey(key))}
	if before != "" {
		cfg.Previous = KeySigner(testKey(before))
		add(r, j, replaced(r, before, key))
	}
	p := newPublisher(r, cfg)
	flush(r, p)
	r.c.Set(r.c.Now().Add(time.Hour))
	return p
}

// replaced is an entry by which one checkpoint key replaces another.
func replaced(t testing.TB, old, next string) Entry {
	t.Helper()
	rotation, err := Rotate("demo", UseCheckpoint, KeySigner(testKey(old)), public(testKey(next)))
	if err != nil {
		t.Fatal(err)
	}
	detail, err := Detail(rotation)
	if err != nil {
		t.Fatal(err)
	}
	return Entry{Kind: KindKey, Status: StatusRotated, Detail: detail}
}

// end closes a run's journal; what is in it is published.
func (r *rotating) end(p *Publisher) {
	r.Helper()
	if err := p.cfg.Journal.Close(); err != nil {
		r.Fatal(err)
	}
}

// A key that was replaced counts for what was signed before, and for nothing
// that came later, whoever has it.
func TestAReplacedKeyCountsForThePast(t *testing.T) {
	for what, c := range map[string]struct {
		later func(r *rotating, last *Publisher) // what comes after the rotation
		says  string                             // "": the record holds
	}{
		"nothing": {func(*rotating, *Publisher) {}, ""},
		"the new key goes on, without the old one": {func(r *rotating, last *Publisher) {
			r.end(last)
			r.run(r.dir, "i3", "next", "")
		}, ""},
		"the next one": {func(r *rotating, last *Publisher) {
			r.end(last)
			r.run(r.dir, "i3", "third", "next")
		}, ""},
		"there and back": {func(r *rotating, last *Publisher) {
			r.end(last)
			r.end(r.run(r.dir, "i3", "log", "next"))
			r.run(r.dir, "i4", "log", "")
		}, ""},
		"there, back, and there again": {func(r *rotating, last *Publisher) {
			r.end(last)
			r.end(r.run(r.dir, "i3", "log", "next"))
			r.end(r.run(r.dir, "i4", "next", "log"))
			r.run(r.dir, "i5", "log", "")
		}, "entry 0 is signed by a key that entry 1 of demo/i4 had replaced"},
		"a start says it again": {func(r *rotating, last *Publisher) {
			r.end(last)
			r.run(r.dir, "i3", "next", "log")
		}, ""},
		"the same run goes on with the old key": {func(r *rotating, last *Publisher) {
			add(r, last.cfg.Journal, Entry{Kind: KindIntent})
			flush(r, newPublisher(r, PublisherConfig{Journal: last.cfg.Journal, Store: r.m, Now: r.c.Now, Signer: KeySigner(testKey("log")), Previous: KeySigner(testKey("next"))}))
			add(r, last.cfg.Journal, Entry{Kind: KindIntent})
			p := newPublisher(r, PublisherConfig{Journal: last.cfg.Journal, Store: r.m, Now: r.c.Now, Signer: KeySigner(testKey("log")), Previous: KeySigner(testKey("next"))})
			p.cfg.Previous = Signer{}
			flush(r, p)
		}, "a checkpoint up to entry 3 is signed by a key that entry 1 of demo/i2 had replaced, on 13:00:00 on 2026-11-23"},
		"a run that follows, by the old key": {func(r *rotating, last *Publisher) {
			r.end(last)
			r.run(r.dir, "i3", "log", "")
		}, "a checkpoint up to entry 0 is signed by a key that entry 1 of demo/i2 had replaced"},
		"a run that follows nothing, by the old key": {func(r *rotating, _ *Publisher) {
			r.run(r.TempDir(), "i3", "log", "")
		}, "a checkpoint up to entry 0 is signed by a key that entry 1 of demo/i2 had replaced"},
		"the old key names another successor": {func(r *rotating, _ *Publisher) {
			r.c.Set(noon)
			r.run(r.TempDir(), "i3", "mallory", "log")
		}, "a key has two successors"},
		// Nobody can tell it from a run before a state directory was lost.
		"a run that follows nothing, by the old key, dated back": {func(r *rotating, _ *Publisher) {
			r.c.Set(noon)
			r.run(r.TempDir(), "i3", "log", "")
		}, ""},
	} {
		t.Run(what, func(t *testing.T) {
			r := &rotating{t, &clockAt{t: noon}, newStore(), t.TempDir()}
			r.end(r.run(r.dir, "i1", "log", ""))
			last := r.run(r.dir, "i2", "next", "log")
			state := NewVerified("test")
			cfg := VerifyConfig{Keys: LogKeys{"demo": keysOf("log", "next")[""]}, Signer: checkSigner, State: state}
			if rep, err := Verify(t.Context(), r.m.repository(), cfg); err != nil || !rep.OK() {
				t.Fatalf("%v, %v", rep, err)
			}
			c.later(r, last)
			for _, cfg.State = range []*Verified{nil, state} {
				rep, err := Verify(t.Context(), r.m.repository(), cfg)
				if err != nil {
					t.Fatal(err)
				}
				if rep.OK() != (c.says == "") || !strings.Contains(rep.String(), c.says) {
					t.Errorf("%s", rep)
				}
				if c.says != "" && rep.Problems[0].Class != ClassRetired {
					t.Errorf("%+v", rep.Problems[0])
				}
			}
			// Those who were given the old key alone come to the same verdict.
			cfg.Keys, cfg.State = LogKeys{"demo": keysOf("log")[""]}, nil
			if rep, err := Verify(t.Context(), r.m.repository(), cfg); err != nil || rep.OK() != (c.says == "") {
				t.Errorf("with the old key alone: %v, %v", rep, err)
			}
		})
	}
}

// A run that had ended does not go on with a key that was replaced since.
func TestARunOfThePastStaysAsItWas(t *testing.T) {
	r := &rotating{t, &clockAt{t: noon}, newStore(), t.TempDir()}
	first := r.run(r.dir, "i1", "log", "")
	r.run(r.dir, "i2", "next", "log")
	cfg := VerifyConfig{Keys: LogKeys{"demo": keysOf("log", "next")[""]}, Signer: checkSigner}
	if rep, err := Verify(t.Context(), r.m.repository(), cfg); err != nil || !rep.OK() {
		t.Fatalf("%v, %v", rep, err)
	}
	r.c.Set(noon.Add(time.Second)) // dated back
	add(t, first.cfg.Journal, Entry{Kind: KindIntent})
	flush(t, first)
	rep, err := Verify(t.Context(), r.m.repository(), cfg)
	if err != nil || rep.OK() || rep.Problems[0].Class != ClassRetired || !strings.Contains(rep.String(), "a checkpoint up to entry 1 is signed by a key that entry 1 of demo/i2 had replaced") {
		t.Errorf("%v, %v", rep, err)
	}
}

// halfRolled is a run that was killed when it had said that it rolls from a to b,
// and the run after it: what is left of the first, in b, is committed last.
type halfRolled struct {
	a, b  *memStore
	c     *clockAt
	first *Journal
	rest  *Publisher
}

// newHalfRolled makes them, each with an entry of its own; a PublisherConfig
// says by which keys each is signed.
func newHalfRolled(t *testing.T, firstOf, secondOf Entry, first, second PublisherConfig) *halfRolled {
	t.Helper()
	h := &halfRolled{a: newStore(), b: newStore(), c: &clockAt{t: noon}}
	dir := t.TempDir()
	h.first = openJournal(t, Config{Dir: dir, Incarnation: "i1", Now: h.c.Now})
	roll, err := Detail(Rolled{From: "a", To: "b", Reason: RolledSize})
	if err != nil {
		t.Fatal(err)
	}
	add(t, h.first, firstOf)
	add(t, h.first, Entry{Kind: KindRolled, Detail: roll})
	add(t, h.first, Entry{Kind: KindRefused})
	first.Journal, first.Store, first.Repo, first.Now = h.first, h.a, "a", h.c.Now
	flush(t, newPublisher(t, first))
	past, err := Previous(dir)
	if err != nil {
		t.Fatal(err)
	}
	h.c.Set(noon.Add(time.Hour))
	j := openJournal(t, Config{Dir: dir, Incarnation: "i2", Now: h.c.Now, Previous: past})
	add(t, j, secondOf)
	second.Journal, second.Store, second.Repo, second.Now = j, h.b, "b", h.c.Now
	flush(t, newPublisher(t, second))
	h.c.Set(noon.Add(2 * time.Hour))
	first.Store, first.Repo = h.b, "b"
	h.rest = newPublisher(t, first)
	flush(t, h.rest)
	return h
}

// A run that was killed in the middle of a roll goes on in the next repository
// after the next run began, and so after the end that this one names: that is no
// sign of a thief, whenever a key is replaced.
func TestARunOfThePastGoesOnBehindARoll(t *testing.T) {
	old, next := KeySigner(testKey("log")), KeySigner(testKey("next"))
	h := newHalfRolled(t, Entry{Kind: KindRefused}, replaced(t, "log", "next"), PublisherConfig{Signer: old}, PublisherConfig{Signer: next, Previous: old})
	state := NewVerified("test")
	cfg := VerifyConfig{Keys: LogKeys{"demo": keysOf("log")[""]}, Signer: checkSigner, Earlier: []Repository{h.a.repository()}, State: state}
	for range 2 {
		if rep, err := Verify(t.Context(), h.b.repository(), cfg); err != nil || !rep.OK() || rep.Entries != 6 {
			t.Fatalf("%v, %v", rep, err)
		}
	}
	add(t, h.first, Entry{Kind: KindRefused}) // now it is
	flush(t, h.rest)
	for _, cfg.State = range []*Verified{nil, state} {
		rep, err := Verify(t.Context(), h.b.repository(), cfg)
		if err != nil || rep.OK() || rep.Problems[0].Class != ClassRetired {
			t.Errorf("%v, %v", rep, err)
		}
	}
}

// The run that was killed says that a key was replaced, and the next one is
// signed by the new key alone: what was begun first is read first, though it was
// committed last.
func TestAKeyIsReplacedByARunThatIsCommittedLast(t *testing.T) {
	old, next := KeySigner(testKey("log")), KeySigner(testKey("next"))
	h := newHalfRolled(t, replaced(t, "log", "next"), Entry{Kind: KindRefused}, PublisherConfig{Signer: next, Previous: old}, PublisherConfig{Signer: next})
	cfg := VerifyConfig{Keys: LogKeys{"demo": keysOf("log")[""]}, Signer: checkSigner, Earlier: []Repository{h.a.repository()}}
	if rep, err := Verify(t.Context(), h.b.repository(), cfg); err != nil || !rep.OK() || rep.Entries != 6 {
		t.Errorf("%v, %v", rep, err)
	}
}

// A state of an earlier version does not say when keys were replaced; that is
// told, and what is new is read as before.
func TestAStateWithoutRetirements(t *testing.T) {
	r := &rotating{t, &clockAt{t: noon}, newStore(), t.TempDir()}
	r.run(r.dir, "i1", "next", "log")
	state := NewVerified("test")
	cfg := VerifyConfig{Keys: LogKeys{"demo": keysOf("log")[""]}, Signer: checkSigner, State: state}
	if rep, err := Verify(t.Context(), r.m.repository(), cfg); err != nil || !rep.OK() {
		t.Fatalf("%v, %v", rep, err)
	}
	state.Keys["demo"].Retired = nil
	rep, err := Verify(t.Context(), r.m.repository(), cfg)
	if err != nil || !rep.OK() || !strings.Contains(strings.Join(rep.Notes, "\n"), "does not say since when keys of demo are replaced") {
		t.Errorf("%v, %v, %q", rep, err, rep.Notes)
	}
}
