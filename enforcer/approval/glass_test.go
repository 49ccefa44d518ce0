package approval_test

import (
	"errors"
	"testing"
	"time"

	"countersign/enforcer/approval"
	"countersign/rules"
)

// glass is an ask of the set's quorum, which somebody on call may spare.
func glass(set string, quorum int) rules.Ask {
	a := ask(set, quorum)
	a.Rule, a.BreakGlass = set+"-or-glass", "oncall"
	return a
}

func breaking(l approval.Login) approval.Vote {
	v := by(l)
	v.BreakGlass, v.Reason = true, "The site is down"
	return v
}

func TestBreakGlass(t *testing.T) {
	tests := []struct {
		name string
		asks []rules.Ask
		vote func(w *world) approval.Vote
		want error
		left approval.State
	}{
		{name: "alone", asks: []rules.Ask{glass("dba", 2), glass("security", 1)}, vote: func(w *world) approval.Vote { return breaking(w.signIn("olga", "oncall")) }, left: approval.Approved},
		{name: "what another rule asks is still asked", asks: []rules.Ask{glass("dba", 2), ask("dba", 1)}, vote: func(w *world) approval.Vote { return breaking(w.signIn("olga", "oncall")) }, left: approval.Pending},
		{name: "the same set, asked by another rule", asks: []rules.Ask{glass("dba", 2), ask("oncall", 1)}, vote: func(w *world) approval.Vote { return breaking(w.signIn("olga", "oncall")) }, left: approval.Pending},
		{name: "no rule lets anybody", asks: []rules.Ask{ask("dba", 2)}, vote: func(w *world) approval.Vote { return breaking(w.signIn("olga", "oncall")) }, want: approval.ErrGlass},
		{name: "somebody else", asks: []rules.Ask{glass("dba", 2)}, vote: func(w *world) approval.Vote { return breaking(w.signIn("dave")) }, want: approval.ErrGlass},
		{name: "without a reason", asks: []rules.Ask{glass("dba", 2)}, want: approval.ErrReason, vote: func(w *world) approval.Vote {
			v := breaking(w.signIn("olga", "oncall"))
			v.Reason = " "
			return v
		}},
		{name: "by button", asks: []rules.Ask{glass("dba", 2)}, want: approval.ErrSignIn, vote: func(w *world) approval.Vote {
			v := yes("carol")
			v.BreakGlass, v.Reason = true, "The site is down"
			return v
		}},
		{name: "a denial", asks: []rules.Ask{glass("dba", 2)}, want: approval.ErrVote, vote: func(w *world) approval.Vote {
			v := breaking(w.signIn("olga", "oncall"))
			v.Approve = false
			return v
		}},
		{name: "without breaking it", asks: []rules.Ask{glass("dba", 2)}, want: approval.ErrNotApprover, vote: func(w *world) approval.Vote { return by(w.signIn("olga", "oncall")) }},
		{name: "the requester", asks: []rules.Ask{glass("dba", 2)}, want: approval.ErrOwnRequest, vote: func(w *world) approval.Vote { return breaking(w.signIn("alice", "oncall")) }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			w.policy = policy(t, "a", signers())
			r := w.request("d1", test.asks...)
			r.Grant = rules.Grant{For: time.Hour, Scope: rules.ScopeTool}
			a, _, err := w.book.Ask(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			a, err = w.cast(w.book, a.ID, test.vote(w), w.policy)
			if !errors.Is(err, test.want) {
				t.Fatalf("%v, want %v", err, test.want)
			}
			if test.want != nil {
				if a.NeedsReview() || a.State != approval.Pending {
					t.Errorf("%+v", a)
				}
				return
			}
			if a.State != test.left || !a.NeedsReview() || w.count(approval.EventGlass) != 1 {
				t.Errorf("%s, recorded %d times", a.State, w.count(approval.EventGlass))
			}
			if v, ok := a.BrokenGlass(); !ok || v.Who() != "olga@example.com" || !v.Once || !a.Until.IsZero() {
				t.Errorf("a broken glass opens a window: %+v until %v", v, a.Until)
			}
		})
	}
}

// What a broken glass does not cover waits for the others; and who has approved
// may break the glass when that takes too long.
func TestBreakGlassBesideVotes(t *testing.T) {
	w := newWorld(t)
	w.policy = policy(t, "a", signers())
	a := w.ask("d1", glass("dba", 2), ask("security", 1))
	w.vote(a.ID, yes("carol"))
	if a = w.vote(a.ID, breaking(w.signIn("carol"))); a.State != approval.Pending || a.Missing()["dba"] != 0 || a.Missing()["security"] != 1 {
		t.Fatalf("%s %v", a.State, a.Missing())
	}
	if _, err := w.cast(w.book, a.ID, breaking(w.signIn("carol")), w.policy); !errors.Is(err, approval.ErrDuplicate) {
		t.Error(err)
	}
	if a = w.vote(a.ID, yes("erin")); a.State != approval.Approved {
		t.Fatal(a.State)
	}
	if _, err := w.book.Spend(t.Context(), a.ID, a.Request, "c_2"); err != nil {
		t.Fatal(err)
	}
}

// Afterwards somebody of those who were asked looks at it.
func TestReview(t *testing.T) {
	w := newWorld(t)
	w.policy = policy(t, "a", signers())
	a := w.ask("d1", glass("dba", 2))
	w.vote(a.ID, breaking(w.signIn("carol")))
	if _, err := w.book.Spend(t.Context(), a.ID, a.Request, "c_2"); err != nil {
		t.Fatal(err)
	}
	review := func(v approval.Vote) error {
		v.Reason = "The site was down"
		_, err := w.book.ReviewBy(t.Context(), a.ID, v, w.policy)
		return err
	}
	for name, c := range map[string]struct {
		vote approval.Vote
		want error
	}{
		"who broke the glass":   {by(w.signIn("carol")), approval.ErrDuplicate},
		"who asked":             {by(w.signIn("alice")), approval.ErrOwnRequest},
		"who was not asked":     {by(w.signIn("erin")), approval.ErrNotApprover},
		"another who is oncall": {by(w.signIn("olga", "oncall")), approval.ErrNotApprover},
		"by button":             {yes("bob"), approval.ErrSignIn},
	} {
		if err := review(c.vote); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	silent := by(w.signIn("bob"))
	if _, err := w.book.ReviewBy(t.Context(), a.ID, silent, w.policy); !errors.Is(err, approval.ErrReason) {
		t.Errorf("without a word: %v", err)
	}
	disk := errors.New("disk full")
	l := w.signIn("bob")
	w.breakRecord(disk)
	if err := review(by(l)); !errors.Is(err, approval.ErrUnrecorded) {
		t.Error(err)
	}
	w.breakRecord(nil)
	// What nobody reviewed is kept, however long ago it ended.
	w.pass(approval.Keep + time.Hour)
	if _, err := w.book.Expire(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := w.book.Get(t.Context(), a.ID); err != nil || !got.NeedsReview() {
		t.Fatalf("forgotten, or reviewed without a record: %+v, %v", got.Review, err)
	}
	if err := w.book.Restore(t.Context(), nil); err != nil { // its entries have left the journal
		t.Fatal(err)
	}
	v := by(w.signIn("bob"))
	v.Approve = false
	if err := review(v); err != nil {
		t.Fatal(err)
	}
	r := w.seen(a.ID).Review
	if r == nil || r.Person != "bob" || r.Justified || r.Note != "The site was down" || r.Login == nil || r.Login.Source != "192.0.2.7" || w.count(approval.EventReviewed) != 1 {
		t.Errorf("%+v", r)
	}
	if err := review(by(w.signIn("dave"))); !errors.Is(err, approval.ErrNoReview) {
		t.Errorf("twice: %v", err)
	}
	if _, err := w.book.Expire(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.book.Get(t.Context(), a.ID); !errors.Is(err, approval.ErrUnknown) {
		t.Errorf("kept for ever: %v", err)
	}
	b := w.ask("d2")
	a = b
	if err := review(by(w.signIn("bob"))); !errors.Is(err, approval.ErrNoReview) {
		t.Errorf("nothing to review: %v", err)
	}
}
