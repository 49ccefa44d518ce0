package approval_test

import (
	"errors"
	"strings"
	"testing"

	"countersign/enforcer/approval"
	"countersign/rules"
)

// Who asks, and who answers for it, is barred under every identity that is
// known to be theirs; and nobody counts twice.
func TestBarred(t *testing.T) {
	link := func(w *world, user, sub string) {
		if err := w.logins.Link(w.t.Context(), "T0TEST", user, w.signIn(sub)); err != nil {
			w.t.Fatal(err)
		}
	}
	asks := func(sub, email, client string) func(*approval.Request) {
		return func(r *approval.Request) {
			r.Subject, r.Client = rules.Subject{Issuer: issuer, Sub: sub, Email: email}, client
		}
	}
	tests := []struct {
		name    string
		request func(*approval.Request)
		quorum  int
		setup   func(w *world)
		first   func(w *world) approval.Vote // which counts
		vote    func(w *world) approval.Vote
		want    error
	}{
		{name: "the requester, signed in", request: asks("bob", "", "desk"), want: approval.ErrOwnRequest,
			vote: func(w *world) approval.Vote { return by(w.signIn("bob")) }},
		{name: "by an identity whose Slack user the requester linked", request: asks("bob-admin", "", "desk"), want: approval.ErrOwnRequest,
			setup: func(w *world) { link(w, "U0BOB", "bob-admin") },
			vote:  func(*world) approval.Vote { return yes("bob") }},
		{name: "signed in, by an identity whose Slack user the requester linked", request: asks("bob-admin", "", "desk"), want: approval.ErrOwnRequest,
			setup: func(w *world) { link(w, "U0BOB", "bob-admin") },
			vote:  func(w *world) approval.Vote { return by(w.signIn("bob")) }},
		{name: "a group's member with the requester's e-mail address", request: asks("g2", "Gail@Example.com", "desk"), want: approval.ErrOwnRequest,
			vote: func(w *world) approval.Vote { return by(w.signIn("gail", "dbas")) }},
		{name: "a group's member, the requester having signed in with the same address", request: asks("bob", "", "desk"), want: approval.ErrOwnRequest,
			setup: func(w *world) {
				l := w.signIn("bob")
				l.Email, l.At = "gail@example.com", l.At.Add(1)
				if err := w.logins.Put(w.t.Context(), l); err != nil {
					w.t.Fatal(err)
				}
			},
			vote: func(w *world) approval.Vote { return by(w.signIn("gail", "dbas")) }},
		{name: "who answers for the subject", request: asks("deploy-bot", "", "desk"), want: approval.ErrOwner,
			vote: func(*world) approval.Vote { return yes("carol") }},
		{name: "who answers for the client", request: asks("alice", "", "ci"), want: approval.ErrOwner,
			vote: func(*world) approval.Vote { return yes("dave") }},
		{name: "who answers for it, under another identity", request: asks("deploy-bot", "", "desk"), want: approval.ErrOwner,
			setup: func(w *world) { link(w, "U0CAROL", "carol2"); w.signIn("carol2", "dbas") },
			vote:  func(w *world) approval.Vote { return by(w.signIn("carol2", "dbas")) }},
		{name: "who answers for it denies", request: asks("deploy-bot", "", "desk"),
			vote: func(*world) approval.Vote { return no("carol", "The bot is wrong") }},
		{name: "who answers for another", request: asks("other-bot", "", "desk"),
			vote: func(*world) approval.Vote { return yes("carol") }},
		{name: "the same person, linked and signed in", request: asks("alice", "", "desk"), quorum: 2, want: approval.ErrDuplicate,
			first: func(*world) approval.Vote { return yes("bob") },
			setup: func(w *world) { link(w, "U0BOB", "bob2"); w.signIn("bob2", "dbas") },
			vote:  func(w *world) approval.Vote { return by(w.signIn("bob2", "dbas")) }},
		{name: "the same group's member twice", request: asks("alice", "", "desk"), quorum: 2, want: approval.ErrDuplicate,
			first: func(w *world) approval.Vote { return by(w.signIn("gail", "dbas")) },
			vote:  func(w *world) approval.Vote { return by(w.signIn("gail", "dbas")) }},
		{name: "two group's members", request: asks("alice", "", "desk"), quorum: 2,
			first: func(w *world) approval.Vote { return by(w.signIn("gail", "dbas")) },
			vote:  func(w *world) approval.Vote { return by(w.signIn("gus", "dbas")) }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			w.policy = policy(t, "a", strings.Replace(signers(), "sets:\n", "sets:\n  all: { members: [bob, carol, dave, alice], groups: [{ issuer: https://id.example, group: dbas }], channel: C0ALL }\n", 1))
			r := w.request("d1", ask("all", max(test.quorum, 1)))
			test.request(&r)
			a, _, err := w.book.Ask(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			if test.setup != nil {
				test.setup(w)
			}
			if test.first != nil {
				w.vote(a.ID, test.first(w))
			}
			got, err := w.cast(w.book, a.ID, test.vote(w), w.policy)
			if !errors.Is(err, test.want) {
				t.Fatalf("%v, want %v", err, test.want)
			}
			if test.want == nil && got.State == approval.Pending {
				t.Error("it did not count")
			}
			if test.want != nil && got.State != approval.Pending {
				t.Errorf("it is %s", got.State)
			}
		})
	}
}

// Who asked takes it back, by whatever client; nobody else does.
func TestWithdrawBy(t *testing.T) {
	w := newWorld(t)
	a := w.ask("d1")
	for _, s := range []rules.Subject{{Issuer: issuer, Sub: "bob"}, {Issuer: "https://other.example", Sub: "alice"}, {}} {
		if err := w.book.WithdrawBy(t.Context(), a.ID, s, "mine"); !errors.Is(err, approval.ErrNotYours) {
			t.Errorf("%+v: %v", s, err)
		}
	}
	alice := rules.Subject{Issuer: issuer, Sub: "alice"}
	if err := w.book.WithdrawBy(t.Context(), a.ID, alice, "a typing mistake"); err != nil {
		t.Fatal(err)
	}
	if got := w.seen(a.ID); got.State != approval.Withdrawn || got.Reason != "a typing mistake" {
		t.Errorf("%+v", got)
	}
	if err := w.book.WithdrawBy(t.Context(), a.ID, alice, "again"); !errors.Is(err, approval.ErrDecided) {
		t.Error(err)
	}
}
