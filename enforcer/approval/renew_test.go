package approval_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"countersign/enforcer/approval"
	"countersign/rules"
)

// under is what a rule asks of a set, as a policy has it that digest tells.
func under(rule, set string, quorum int, digest string) rules.Ask {
	a := ask(set, quorum)
	a.Rule, a.Digest = rule, "sha256:"+digest
	return a
}

// Asked again under other rules, the votes stand whose rules and sets have not
// changed.
func TestRenewal(t *testing.T) {
	dba, sec := under("writes", "dba", 1, "dba"), under("writes", "security", 1, "sec")
	two := under("writes", "dba", 2, "dba2")
	broken := under("writes", "dba", 2, "dba2")
	broken.BreakGlass = "oncall"
	tests := []struct {
		name          string
		before, after []rules.Ask
		votes         []string
		state         approval.State
		stand         []string // who has a vote afterwards
		kept, dropped []string // sets
	}{
		{"nobody had voted", []rules.Ask{dba}, []rules.Ask{under("writes", "dba", 1, "new")}, nil, approval.Pending, nil, nil, nil},
		{"the set's rule has changed", []rules.Ask{two}, []rules.Ask{under("writes", "dba", 2, "new")}, []string{"bob"}, approval.Pending, nil, nil, []string{"dba"}},
		{"another set's rule has changed", []rules.Ask{dba, sec}, []rules.Ask{dba, under("writes", "security", 1, "new")}, []string{"carol"}, approval.Pending, []string{"carol"}, []string{"dba"}, nil},
		{"one of two votes stands", []rules.Ask{two, sec}, []rules.Ask{two, under("writes", "security", 1, "new")}, []string{"carol", "erin"}, approval.Pending, []string{"carol"}, []string{"dba"}, []string{"security"}},
		{"one more rule asks the same set", []rules.Ask{two}, []rules.Ask{two, under("deletes", "dba", 1, "new")}, []string{"bob"}, approval.Pending, nil, nil, []string{"dba"}},
		{"one more rule asks another set", []rules.Ask{dba}, []rules.Ask{dba, sec}, []string{"carol"}, approval.Pending, []string{"carol"}, []string{"dba"}, nil},
		{"a set is not asked any more, and that was all that was missing", []rules.Ask{dba, sec}, []rules.Ask{dba}, []string{"carol"}, approval.Approved, []string{"carol"}, []string{"dba"}, nil},
		{"the voter's set is not asked any more", []rules.Ask{dba, sec}, []rules.Ask{sec}, []string{"carol"}, approval.Pending, nil, nil, []string{"dba"}},
		{"one of the voter's two sets has changed", []rules.Ask{two, sec}, []rules.Ask{two, under("writes", "security", 1, "new")}, []string{"bob"}, approval.Pending, nil, nil, []string{"dba", "security"}},
		{"the same words under another rule", []rules.Ask{two}, []rules.Ask{under("deletes", "dba", 2, "dba2")}, []string{"bob"}, approval.Pending, nil, nil, []string{"dba"}},
		{"approved, and now asked of more", []rules.Ask{dba}, []rules.Ask{dba, sec}, []string{"carol"}, approval.Pending, []string{"carol"}, []string{"dba"}, nil},
		{"approved, and still asked the same", []rules.Ask{dba}, []rules.Ask{dba}, []string{"carol"}, approval.Approved, []string{"carol"}, []string{"dba"}, nil},
		{"policies without digests", []rules.Ask{ask("dba", 2)}, []rules.Ask{ask("dba", 2)}, []string{"carol"}, approval.Pending, nil, nil, []string{"dba"}},
		{"a broken glass stands", []rules.Ask{broken, sec}, []rules.Ask{broken, under("writes", "security", 1, "new")}, []string{"carol!"}, approval.Pending, []string{"carol"}, []string{"oncall"}, nil},
		{"a broken glass that is another now", []rules.Ask{broken, sec}, []rules.Ask{two, sec}, []string{"carol!"}, approval.Pending, nil, nil, []string{"oncall"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			w.policy = policy(t, "a", signers())
			a := w.ask("d1", test.before...)
			for _, sub := range test.votes {
				if sub, glass := strings.CutSuffix(sub, "!"); glass {
					w.vote(a.ID, breaking(w.signIn(sub)))
				} else {
					w.vote(a.ID, yes(sub))
				}
			}
			shown := a.Shows()
			w.pass(5 * time.Minute)
			w.policy = policy(t, "b", signers())
			r := w.request("d1", test.after...)
			r.RulesDigest, r.Args = "sha256:changed", "as it is masked now"
			got, created, err := w.newBook().Ask(t.Context(), r)
			if err != nil || created || got.ID != a.ID {
				t.Fatalf("%s, created %v, %v", got.ID, created, err)
			}
			var stand []string
			for _, v := range got.Votes {
				stand = append(stand, v.Person)
			}
			if got.State != test.state || !slices.Equal(stand, test.stand) {
				t.Errorf("%s with the votes of %v", got.State, stand)
			}
			last := got.Renewals[len(got.Renewals)-1]
			if !slices.Equal(last.Kept, test.kept) || !slices.Equal(last.Dropped, test.dropped) || last.Policy != w.policy.Commit() || !last.At.Equal(w.clock()) {
				t.Errorf("%+v", last)
			}
			expires := r.Expires
			if len(stand) > 0 {
				expires = a.Expires // votes are no older than they were to become
			}
			if got.Policy != r.Policy || got.RulesDigest != r.RulesDigest || got.Args != r.Args || !got.Expires.Equal(expires) || w.count(approval.EventRenewed) != 1 || w.seen(a.ID).RulesDigest != r.RulesDigest {
				t.Errorf("%+v", got)
			}
			// What was shown before counts no more; nor do the old digests.
			v := yes("dave")
			v.Shown = shown
			if _, err := w.book.Vote(t.Context(), a.ID, v, w.policy); got.State == approval.Pending && !errors.Is(err, approval.ErrShown) && !errors.Is(err, approval.ErrNotApprover) {
				t.Errorf("by what was shown before: %v", err)
			}
			if _, err := w.book.Spend(t.Context(), a.ID, w.request("d1"), "c_2"); err == nil {
				t.Error("spent by the old rules")
			}
			if again, _, err := w.book.Ask(t.Context(), r); err != nil || again.ID != a.ID || w.count(approval.EventRenewed) != 1 {
				t.Errorf("renewed again: %v", err)
			}
		})
	}
}

// A window ends with the rules that granted it, and the request is asked anew.
func TestRenewalEndsAWindow(t *testing.T) {
	w := newWorld(t)
	a := w.opened("d1", rules.ScopeExact)
	r := w.windowed("d1", rules.ScopeExact)
	r.RulesDigest = "sha256:changed"
	b, created, err := w.book.Ask(t.Context(), r)
	if err != nil || !created || b.ID == a.ID || b.State != approval.Pending {
		t.Fatalf("%s %s, created %v, %v", b.ID, b.State, created, err)
	}
	if got := w.seen(a.ID); got.State != approval.Revoked || !strings.Contains(got.Reason, "have changed") || got.Revoked != nil {
		t.Errorf("%+v", got)
	}
	// And back: what was granted under the old rules stays ended.
	c, created, err := w.book.Ask(t.Context(), w.windowed("d1", rules.ScopeExact))
	if err != nil || created || c.ID != b.ID || c.State != approval.Pending || len(c.Renewals) != 1 {
		t.Errorf("%s %s, created %v, %v", c.ID, c.State, created, err)
	}
}

// A renewal that cannot be recorded ends the approval: what it kept might be
// more than the record knows.
func TestRenewalUnrecorded(t *testing.T) {
	w := newWorld(t)
	a := w.ask("d1", under("writes", "dba", 1, "dba"))
	w.vote(a.ID, yes("bob"))
	r := w.request("d1", under("writes", "dba", 1, "dba"))
	r.RulesDigest = "sha256:changed"
	w.breakRecord(errors.New("disk full"))
	if _, _, err := w.book.Ask(t.Context(), r); !errors.Is(err, approval.ErrUnrecorded) {
		t.Fatal(err)
	}
	if got, err := w.book.Get(t.Context(), a.ID); err != nil || got.State != approval.Withdrawn {
		t.Errorf("%s, %v", got.State, err)
	}
}

// A policy may change many times; the approval remembers the newest.
func TestRenewalsAreBounded(t *testing.T) {
	w := newWorld(t)
	a := w.ask("d1")
	for i := range 25 {
		r := w.request("d1", under("writes", "dba", 1, string(rune('a'+i))))
		r.RulesDigest = "sha256:" + string(rune('a'+i))
		got, _, err := w.book.Ask(t.Context(), r)
		if err != nil || got.ID != a.ID {
			t.Fatal(err)
		}
		a = got
	}
	if len(a.Renewals) != 20 {
		t.Errorf("%d renewals", len(a.Renewals))
	}
}

// A vote that stands is for what its voter was shown: a rule that is gone, and
// granted less than those that stay, leaves no wider window behind.
func TestRenewalWidensNothing(t *testing.T) {
	dba, sec := under("writes", "dba", 1, "dba"), under("deletes", "security", 1, "sec")
	hour := rules.Grant{For: time.Hour, Scope: rules.ScopeTool}
	for name, test := range map[string]struct{ before, after, want rules.Grant }{
		"once":           {rules.Grant{}, hour, rules.Grant{}},
		"shorter":        {rules.Grant{For: time.Minute, Scope: rules.ScopeServer}, hour, rules.Grant{For: time.Minute, Scope: rules.ScopeTool}},
		"exact":          {rules.Grant{For: 2 * time.Hour, Scope: rules.ScopeExact}, hour, rules.Grant{For: time.Hour, Scope: rules.ScopeExact}},
		"less than then": {hour, rules.Grant{}, rules.Grant{}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			r := w.request("d1", dba, sec)
			r.Grant = test.before
			a, _, err := w.book.Ask(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			w.vote(a.ID, yes("carol"))
			r = w.request("d1", dba)
			r.RulesDigest, r.Grant = "sha256:changed", test.after
			got, _, err := w.book.Ask(t.Context(), r)
			if err != nil || got.State != approval.Approved || got.Grant != test.want || got.Until.IsZero() != (test.want.For == 0) {
				t.Errorf("%s, %v until %v, %v", got.State, got.Grant, got.Until, err)
			}
		})
	}
}
