package approval_test

import (
	"errors"
	"testing"
	"time"

	"countersign/enforcer/approval"
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
