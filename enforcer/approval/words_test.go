package approval_test

import (
	"strings"
	"testing"

	"countersign/enforcer/approval"
)

// What people type is kept, recorded, shown to others and told the agent, so it
// is masked at every door; and what a form says was shown is a digest or nothing.
func TestWhatAVoterSendsIsMaskedAndBounded(t *testing.T) {
	w := newWorld(t)
	w.book.Words = func(s string) string { return strings.ReplaceAll(s, "hunter2", "[masked]") }

	a := w.ask("d1")
	v := no("bob", "hunter2 is in it")
	v.Shown = strings.Repeat("hunter2", 9000)
	denied, err := w.book.Vote(t.Context(), a.ID, v, w.policy)
	if err != nil || denied.Reason != "[masked] is in it" || denied.Votes[0].Reason != denied.Reason || denied.Votes[0].Shown != "" {
		t.Errorf("%v: %q, vote %.200q, shown %.80q", err, denied.Reason, denied.Votes[0].Reason, denied.Votes[0].Shown)
	}

	a = w.ask("d2")
	v = no("bob", "no")
	v.Shown = a.Shows()
	if denied, err = w.book.Vote(t.Context(), a.ID, v, w.policy); err != nil || denied.Votes[0].Shown != a.Shows() {
		t.Errorf("%v: shown %q, want %q", err, denied.Votes[0].Shown, a.Shows())
	}

	a = w.ask("d3")
	if err := w.book.Withdraw(t.Context(), a.ID, "hunter2 was in it"); err != nil {
		t.Fatal(err)
	}
	if got, err := w.book.Get(t.Context(), a.ID); err != nil || got.State != approval.Withdrawn || got.Reason != "[masked] was in it" {
		t.Errorf("%v: %s, %q", err, got.State, got.Reason)
	}
}
