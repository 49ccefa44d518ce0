package approval_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"
	"time"

	"countersign/enforcer/approval"
	"countersign/rules"
)

// seen is what the record knows of an approval.
func (w *world) seen(id string) approval.Approval {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last[id]
}

// The process died after an approval ended in the store and before that was
// recorded. The journal has it open; it stays ended all the same.
func TestRestoreKeepsAnEndThatWasNotRecorded(t *testing.T) {
	disk := errors.New("disk full")
	for state, end := range map[approval.State]func(w *world, id string) error{
		approval.Denied: func(w *world, id string) error {
			_, err := w.cast(w.book, id, no("carol", "not on a Friday"), w.policy)
			return err
		},
		approval.Withdrawn: func(w *world, id string) error { return w.book.Withdraw(t.Context(), id, "the caller left") },
		approval.Expired: func(w *world, _ string) error {
			w.pass(15 * time.Minute)
			_, err := w.book.Expire(t.Context())
			w.pass(-5 * time.Minute) // a clock set back must not revive it
			return err
		},
	} {
		for _, journal := range []approval.State{approval.Pending, approval.Approved} {
			if state == approval.Denied && journal == approval.Approved {
				continue // nobody votes on what is decided
			}
			t.Run(string(journal)+" "+string(state), func(t *testing.T) {
				w := newWorld(t)
				a := w.ask("d1")
				if journal == approval.Approved {
					w.vote(a.ID, yes("bob"))
				}
				w.breakRecord(disk)
				if err := end(w, a.ID); !errors.Is(err, disk) {
					t.Fatal(err)
				}
				known := w.seen(a.ID)
				if known.State != journal {
					t.Fatalf("the journal has it %s", known.State)
				}
				if err := w.book.Restore(t.Context(), []approval.Approval{known}); !errors.Is(err, disk) || !errors.Is(err, approval.ErrUnrecorded) {
					t.Errorf("an end that cannot be recorded: %v", err)
				}
				w.breakRecord(nil)
				if err := w.book.Restore(t.Context(), []approval.Approval{known}); err != nil {
					t.Fatal(err)
				}
				got, err := w.book.Get(t.Context(), a.ID)
				if err != nil || got.State != state || got.Ended.IsZero() {
					t.Errorf("%+v, %v", got, err)
				}
				if n := w.count(string(state)); n != 1 || w.seen(a.ID).State != state || w.seen(a.ID).Reason != got.Reason {
					t.Errorf("recorded %d times: %+v", n, w.seen(a.ID))
				}
				if _, err := w.book.Spend(t.Context(), a.ID, w.request("d1"), "c_2"); err == nil {
					t.Error("it was spent")
				}
				if again, created, err := w.book.Ask(t.Context(), w.request("d1")); err != nil || !created || again.ID == a.ID {
					t.Errorf("asked again: %s created %v, %v", again.ID, created, err)
				}
				// Now that the record knows, there is nothing to add.
				if err := w.book.Restore(t.Context(), []approval.Approval{w.seen(a.ID)}); err != nil || w.count(string(state)) != 1 {
					t.Errorf("recorded %d times, %v", w.count(string(state)), err)
				}
			})
		}
	}
}

// The other direction needs the record: an approval that only the store knows
// of gives nothing.
func TestRestoreTakesNoPermissionFromTheStore(t *testing.T) {
	w := newWorld(t)
	a := w.ask("d1")
	known := w.seen(a.ID)
	w.vote(a.ID, yes("bob"))
	if err := w.book.Restore(t.Context(), []approval.Approval{known}); err != nil {
		t.Fatal(err)
	}
	if got, err := w.book.Get(t.Context(), a.ID); err != nil || got.State != approval.Pending || len(got.Votes) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

// A claim to post a card dies with the process that made it.
func TestRestoreEndsClaims(t *testing.T) {
	w := newWorld(t)
	a := w.ask("d1")
	claim := approval.Card{Set: "dba", Channel: "C1", Claimed: w.now, By: "the dead"}
	if _, err := w.book.SetCard(t.Context(), a.ID, claim); err != nil {
		t.Fatal(err)
	}
	mine := approval.Card{Set: "dba", Channel: "C1", Claimed: w.now.Add(time.Second), By: "mine"}
	taken := func() bool {
		t.Helper()
		got, err := w.book.SetCard(t.Context(), a.ID, mine)
		if err != nil {
			t.Fatal(err)
		}
		card, _ := got.Card("dba")
		return card.By == "mine"
	}
	if taken() {
		t.Fatal("a claim does not stand")
	}
	if _, err := w.book.SetList(t.Context(), approval.List{Set: "dba", Card: claim}); err != nil {
		t.Fatal(err)
	}
	if err := w.book.Restore(t.Context(), []approval.Approval{w.seen(a.ID)}); err != nil {
		t.Fatal(err)
	}
	if !taken() {
		t.Error("the claim of a process that died still stands")
	}
	if l, err := w.book.List(t.Context(), "dba"); err != nil || l.Card.By != "the dead" || mine.Claimed.Sub(l.Card.Claimed) < approval.ClaimPatience {
		t.Errorf("the claim of a list still stands: %+v, %v", l, err)
	}
}

func TestRestoreLeavesOutWhatEndedLongAgo(t *testing.T) {
	w := newWorld(t)
	old := w.ask("old")
	if err := w.book.Withdraw(t.Context(), old.ID, "never mind"); err != nil {
		t.Fatal(err)
	}
	spent := w.ask("spent")
	w.vote(spent.ID, yes("bob"))
	if _, err := w.book.Spend(t.Context(), spent.ID, w.request("spent"), "c_2"); err != nil {
		t.Fatal(err)
	}
	w.pass(approval.Keep + time.Minute)
	recent := w.ask("recent")
	if err := w.book.Withdraw(t.Context(), recent.ID, "never mind"); err != nil {
		t.Fatal(err)
	}
	// What a start concludes from an intent alone does not say when it ended.
	concluded := w.seen(recent.ID)
	concluded.ID, concluded.State, concluded.SpentBy, concluded.Ended = "ap_concluded", approval.Spent, "c_2", time.Time{}
	if err := w.book.Restore(t.Context(), []approval.Approval{w.seen(old.ID), w.seen(spent.ID), w.seen(recent.ID), concluded}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.book.Get(t.Context(), old.ID); !errors.Is(err, approval.ErrUnknown) {
		t.Errorf("ended long ago: %v", err)
	}
	if got, err := w.book.Get(t.Context(), recent.ID); err != nil || got.State != approval.Withdrawn {
		t.Errorf("%+v, %v", got, err)
	}
	// A call whose outcome nobody noted can still be closed, however old.
	for _, id := range []string{spent.ID, concluded.ID} {
		if err := w.book.Finish(t.Context(), id, "c_2", "unknown"); err != nil {
			t.Errorf("finish: %v", err)
		}
		if got, err := w.book.Get(t.Context(), id); err != nil || got.State != approval.Spent || got.Outcome != "unknown" || got.Ended.IsZero() {
			t.Errorf("%+v, %v", got, err)
		}
	}
	if _, err := w.book.Expire(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.book.Get(t.Context(), concluded.ID); err != nil {
		t.Errorf("forgotten at once: %v", err)
	}
}

// After a crash a window stands as the journal has it: with the uses that were
// recorded, found by what it covers; a use that was not recorded ran nothing.
func TestRestoreWindows(t *testing.T) {
	w := newWorld(t)
	a := w.opened("d1", rules.ScopeTool)
	if _, err := w.book.Spend(t.Context(), a.ID, a.Request, "c_2"); err != nil {
		t.Fatal(err)
	}
	known := w.seen(a.ID)
	for call, err := range map[string]error{"c_3": nil, "c_4": errors.New("disk full")} {
		w.breakRecord(err)
		if _, serr := w.book.Spend(t.Context(), a.ID, a.Request, call); err == nil && serr != nil {
			t.Fatal(serr)
		}
	}
	w.breakRecord(nil)
	keys, err := w.bucket.Keys(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys { // the disk is lost, too
		_, rev, err := w.bucket.Get(t.Context(), key)
		if err == nil {
			err = w.bucket.Delete(t.Context(), key, rev)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.book.Restore(t.Context(), []approval.Approval{known}); err != nil {
		t.Fatal(err)
	}
	got, created, err := w.book.Ask(t.Context(), w.windowed("d7", rules.ScopeTool))
	if err != nil || created || got.ID != a.ID || got.Uses != 1 || len(got.Calls) != 1 || !got.Until.Equal(a.Until) || !got.LastUse.Equal(known.LastUse) {
		t.Fatalf("%+v, created %v, %v", got, created, err)
	}
	if err := w.book.Finish(t.Context(), a.ID, "c_2", "unknown"); err != nil {
		t.Error(err)
	}
	if _, err := w.book.Spend(t.Context(), a.ID, a.Request, "c_2"); !errors.Is(err, approval.ErrSpent) {
		t.Errorf("the same call again: %v", err)
	}
	w.pass(time.Hour)
	if err := w.book.Restore(t.Context(), []approval.Approval{w.seen(a.ID)}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.book.Spend(t.Context(), a.ID, a.Request, "c_5"); !errors.Is(err, approval.ErrExpired) {
		t.Error(err)
	}
}

// A revocation stands although the process died before it was recorded; a
// window that only the store knows of never counted.
func TestRestoreRevoked(t *testing.T) {
	w := newWorld(t)
	a := w.ask("d0")
	known := w.seen(a.ID)
	b := w.opened("d1", rules.ScopeServer)
	open := w.seen(b.ID)
	w.breakRecord(errors.New("disk full"))
	if _, err := w.book.Revoke(t.Context(), b.ID, no("carol", "Enough"), w.policy); !errors.Is(err, approval.ErrUnrecorded) {
		t.Fatal(err)
	}
	w.breakRecord(nil)
	c := w.opened("d2", rules.ScopeTool) // in the store only
	if err := w.book.Restore(t.Context(), []approval.Approval{known, open}); err != nil {
		t.Fatal(err)
	}
	if got := w.seen(b.ID); got.State != approval.Revoked || got.Revoked == nil || got.Revoked.Person != "carol" || w.count(approval.EventRevoked) != 1 {
		t.Errorf("%+v", got)
	}
	if _, err := w.book.Get(t.Context(), c.ID); !errors.Is(err, approval.ErrUnknown) {
		t.Error(err)
	}
	if keys, err := w.bucket.Keys(t.Context(), "win."); err != nil || len(keys) != 0 {
		t.Errorf("%v, %v", keys, err)
	}
}

// The store was ahead of the journal with a renewal: what the journal knows
// holds, and the next call renews again.
func TestRestoreRenewal(t *testing.T) {
	w := newWorld(t)
	a := w.ask("d1", under("writes", "dba", 1, "dba"), under("writes", "security", 1, "sec"))
	w.vote(a.ID, yes("carol"))
	known := w.seen(a.ID)
	r := w.request("d1", under("writes", "dba", 1, "dba"))
	r.RulesDigest = "sha256:changed"
	if got, _, err := w.book.Ask(t.Context(), r); err != nil || got.State != approval.Approved {
		t.Fatalf("%s, %v", got.State, err)
	}
	if err := w.book.Restore(t.Context(), []approval.Approval{known}); err != nil {
		t.Fatal(err)
	}
	if got, err := w.book.Get(t.Context(), a.ID); err != nil || got.State != approval.Pending || got.RulesDigest != known.RulesDigest || len(got.Votes) != 1 || len(got.Renewals) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if got, _, err := w.book.Ask(t.Context(), r); err != nil || got.ID != a.ID || got.State != approval.Approved || len(got.Renewals) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
}

// Everything that an approval holds comes back from the record as it was.
func TestRestoreEverything(t *testing.T) {
	w := newWorld(t)
	w.policy = policy(t, "a", signers())
	r := w.request("d1", glass("dba", 2), under("writes", "security", 1, "sec"))
	r.Does, r.Task, r.Trace = []string{"writes table t, no WHERE clause"}, "task_1", []rules.Match{{Rule: "writes", Matched: true}}
	r.Grant = rules.Grant{For: time.Hour, Scope: rules.ScopeTool}
	a, _, err := w.book.Ask(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	w.vote(a.ID, breaking(w.signIn("olga", "oncall")))
	if _, _, err := w.book.Remind(t.Context(), a.ID); err != nil {
		t.Fatal(err)
	}
	if err := w.book.Left(t.Context(), a.ID); err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(w.seen(a.ID))
	if err != nil {
		t.Fatal(err)
	}
	var known approval.Approval
	if err := json.Unmarshal(raw, &known); err != nil {
		t.Fatal(err)
	}
	if err := w.book.Restore(t.Context(), []approval.Approval{known}); err != nil {
		t.Fatal(err)
	}
	got, err := w.book.Get(t.Context(), a.ID)
	if err != nil {
		t.Fatal(err)
	}
	was := w.seen(a.ID)
	was.Rev, got.Rev = 0, 0
	if !reflect.DeepEqual(got, was) {
		t.Errorf("%+v\nwas %+v", got, was)
	}
}
