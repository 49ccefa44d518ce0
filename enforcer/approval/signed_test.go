package approval_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"countersign/enforcer/approval"
	"countersign/rules"
)

// signIn has somebody sign in at the issuer, in some groups.
func (w *world) signIn(sub string, groups ...string) approval.Login {
	w.t.Helper()
	l := approval.Login{ID: "l_" + strings.ReplaceAll(sub, "-", "_"), Issuer: issuer, Sub: sub, Email: sub + "@example.com", Groups: groups, ACR: "pwd", AMR: []string{"pwd"}, AuthTime: w.clock(), At: w.clock()}
	if err := w.logins.Put(w.t.Context(), l); err != nil {
		w.t.Fatal(err)
	}
	return l
}

// by is a vote right after a sign-in.
func by(l approval.Login) approval.Vote {
	return approval.Vote{Issuer: l.Issuer, Sub: l.Sub, Approve: true, Via: approval.ViaOIDC, Login: l.Proof("192.0.2.7", "page")}
}

// signers is persons with sets that approve by signing in, and by groups.
func signers() string {
	return strings.Replace(persons(), "sets:\n", `links: { login: true, email: true, max_age: 2h }
owners:
  - { issuer: https://id.example, sub: deploy-bot, people: [carol] }
  - { client: ci, people: [dave] }
sets:
  vault:  { members: [bob], groups: [{ issuer: https://id.example, group: keys }], approve_via: oidc, acr: [phr, phrh] }
  groupy: { groups: [{ issuer: https://id.example, group: dbas }], channel: C0GRP }
  oncall: { members: [carol], groups: [{ issuer: https://id.example, group: oncall }], approve_via: oidc }
`, 1)
}

func TestSignedVotes(t *testing.T) {
	strong := func(l approval.Login) approval.Login { l.ACR = "phr"; return l }
	tests := []struct {
		name string
		set  string
		vote func(w *world) approval.Vote
		want error
		says string
	}{
		{name: "signed in, strongly", set: "vault", vote: func(w *world) approval.Vote {
			l := strong(w.signIn("bob"))
			l.At = l.At.Add(time.Nanosecond) // the newer of two on record
			if err := w.logins.Put(w.t.Context(), l); err != nil {
				w.t.Fatal(err)
			}
			return by(l)
		}},
		{name: "signed in, not strongly", set: "vault", vote: func(w *world) approval.Vote { return by(w.signIn("bob")) }, want: approval.ErrACR, says: `vault wants acr phr or phrh, and it has "pwd"`},
		{name: "claims of a strength that is not on record", set: "vault", vote: func(w *world) approval.Vote { return by(strong(w.signIn("bob"))) }, want: approval.ErrACR},
		{name: "by button", set: "vault", vote: func(*world) approval.Vote { return yes("bob") }, want: approval.ErrSignIn},
		{name: "no login", set: "dba", vote: func(w *world) approval.Vote { v := by(w.signIn("bob")); v.Login = nil; return v }, want: approval.ErrVote},
		{name: "a login that is not on record", set: "dba", want: approval.ErrNoLogin, vote: func(w *world) approval.Vote {
			return by(approval.Login{ID: "l_1", Issuer: issuer, Sub: "bob", AuthTime: w.clock(), At: w.clock()})
		}},
		{name: "newer than what is on record", set: "dba", want: approval.ErrNoLogin, vote: func(w *world) approval.Vote {
			l := w.signIn("bob")
			w.pass(time.Minute)
			l.ID, l.At = "l_other", w.clock()
			return by(l)
		}},
		{name: "authenticated six minutes ago", set: "dba", want: approval.ErrStaleLogin, vote: func(w *world) approval.Vote {
			v := by(w.signIn("bob"))
			w.pass(6 * time.Minute)
			return v
		}},
		{name: "claims to have authenticated just now", set: "dba", want: approval.ErrStaleLogin, vote: func(w *world) approval.Vote {
			v := by(w.signIn("bob"))
			w.pass(6 * time.Minute)
			v.Login.AuthTime = w.clock() // the record has it otherwise
			return v
		}},
		{name: "authenticated four minutes ago", set: "dba", vote: func(w *world) approval.Vote {
			v := by(w.signIn("bob"))
			w.pass(4 * time.Minute)
			return v
		}},
		{name: "a clock far ahead", set: "dba", want: approval.ErrStaleLogin, vote: func(w *world) approval.Vote {
			l := w.signIn("bob")
			l.ID, l.AuthTime = "l_ahead", l.AuthTime.Add(2*time.Minute)
			return by(l)
		}},
		{name: "a clock a little ahead", set: "dba", vote: func(w *world) approval.Vote {
			l := w.signIn("bob")
			l.ID, l.AuthTime = "l_ahead", l.AuthTime.Add(30*time.Second)
			return by(l)
		}},
		{name: "a member by a group", set: "groupy", vote: func(w *world) approval.Vote { return by(w.signIn("gail", "dbas")) }},
		{name: "not in the group", set: "groupy", vote: func(w *world) approval.Vote { return by(w.signIn("gail", "dba", "DBAS")) }, want: approval.ErrNotApprover},
		{name: "the group's name at another issuer", set: "groupy", want: approval.ErrNotApprover, vote: func(w *world) approval.Vote {
			l := w.signIn("gail", "dbas")
			l.Issuer = "https://other.example"
			if err := w.logins.Put(w.t.Context(), l); err != nil {
				w.t.Fatal(err)
			}
			return by(l)
		}},
		{name: "in the group no more", set: "groupy", want: approval.ErrNotApprover, vote: func(w *world) approval.Vote {
			w.signIn("gail", "dbas")
			w.pass(time.Minute)
			return by(w.signIn("gail"))
		}},
		{name: "a member by a group, strongly", set: "vault", vote: func(w *world) approval.Vote {
			l := strong(w.signIn("kim", "keys"))
			l.ID = "l_strong"
			return by(l)
		}},
		{name: "as the operator", set: "dba", vote: func(w *world) approval.Vote { v := by(w.signIn("bob")); v.Via = approval.ViaOperator; return v }, want: approval.ErrVote},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			w.policy = policy(t, "a", signers())
			a := w.ask("d1", ask(test.set, 1))
			got, err := w.cast(w.book, a.ID, test.vote(w), w.policy)
			if !errors.Is(err, test.want) || test.want == nil && (err != nil || got.State != approval.Approved) || test.says != "" && !strings.Contains(err.Error(), test.says) {
				t.Fatalf("%s, %v; want %v %s", got.State, err, test.want, test.says)
			}
		})
	}
}

// A rule asks for a sign-in where its set would take a button.
func TestARuleAsksForSignIn(t *testing.T) {
	w := newWorld(t)
	by := ask("dba", 1)
	by.Via = rules.ViaOIDC
	a := w.ask("d1", ask("dba", 1), by)
	if _, err := w.cast(w.book, a.ID, yes("bob"), w.policy); !errors.Is(err, approval.ErrSignIn) {
		t.Fatal(err)
	}
	if a = w.vote(a.ID, no("bob", "Not today")); a.State != approval.Denied {
		t.Error("a denial takes no sign-in")
	}
}

// Whom a Slack user is.
func TestVoter(t *testing.T) {
	const team = "T0TEST"
	linked := func(w *world, user, sub string) {
		if err := w.logins.Link(w.t.Context(), team, user, w.signIn(sub)); err != nil {
			w.t.Fatal(err)
		}
	}
	without := func(switched string) string { return strings.Replace(signers(), switched, "", 1) }
	tests := []struct {
		name, user, approvers string
		setup                 func(w *world)
		email                 string
		want                  approval.Voter
		err                   error
	}{
		{name: "by policy", user: "U0BOB", want: approval.Voter{Issuer: issuer, Sub: "bob", Person: "bob", Linked: "policy"}},
		{name: "policy before their own link", user: "U0BOB", setup: func(w *world) { linked(w, "U0BOB", "zoe") }, want: approval.Voter{Issuer: issuer, Sub: "bob", Person: "bob", Linked: "policy"}},
		{name: "of another workspace", user: "U0BOB", setup: func(w *world) {}, err: approval.ErrUnlinked, email: "-"},
		{name: "by login", user: "U0NEW", setup: func(w *world) { linked(w, "U0NEW", "gail") }, want: approval.Voter{Issuer: issuer, Sub: "gail", Email: "gail@example.com", Linked: "login"}},
		{name: "by login, not switched on", user: "U0NEW", approvers: without("login: true, "), setup: func(w *world) { linked(w, "U0NEW", "gail") }, err: approval.ErrUnlinked},
		{name: "by a login too old", user: "U0NEW", setup: func(w *world) { linked(w, "U0NEW", "gail"); w.pass(121 * time.Minute) }, err: approval.ErrStaleLogin},
		{name: "by a login long forgotten", user: "U0NEW", setup: func(w *world) { linked(w, "U0NEW", "gail"); w.pass(31 * 24 * time.Hour) }, err: approval.ErrStaleLogin},
		{name: "by login, as whom policy links otherwise", user: "U0NEW", setup: func(w *world) { linked(w, "U0NEW", "bob") }, err: approval.ErrLinked},
		{name: "by login, before e-mail", user: "U0NEW", setup: func(w *world) { linked(w, "U0NEW", "gail") }, email: "erin2@example.com", want: approval.Voter{Issuer: issuer, Sub: "gail", Email: "gail@example.com", Linked: "login"}},
		{name: "by e-mail", user: "U0NEW", email: "Hal@Example.com", want: approval.Voter{Issuer: issuer, Sub: "hal", Person: "hal", Linked: "email"}},
		{name: "by e-mail, not switched on", user: "U0NEW", approvers: without("email: true, "), email: "hal@example.com", err: approval.ErrUnlinked},
		{name: "by an e-mail address that two have", user: "U0NEW", email: "alice@example.com", err: approval.ErrUnlinked},
		{name: "by no e-mail address", user: "U0NEW", err: approval.ErrUnlinked},
		{name: "by the e-mail address of whom policy links", user: "U0NEW", email: "ida@example.com", err: approval.ErrLinked},
		{name: "hostile", user: "U0.*", err: approval.ErrLogin},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			approvers := test.approvers
			if approvers == "" {
				approvers = signers()
			}
			w.policy = policy(t, "a", strings.Replace(approvers, "people:\n", `people:
  hal: { issuer: https://id.example, sub: hal, email: hal@example.com }
  ida: { issuer: https://id.example, sub: ida, email: ida@example.com, slack: { team: T0TEST, user: U0IDA } }
`, 1))
			from := team
			w.book.SlackEmail = func(_ context.Context, team, user string) (string, error) { return test.email, nil }
			if test.email == "-" {
				from, test.email = "T0OTHER", ""
			}
			if test.setup != nil {
				test.setup(w)
			}
			got, err := w.book.Voter(t.Context(), w.policy, from, test.user)
			if got != test.want || !errors.Is(err, test.err) {
				t.Errorf("%+v, %v; want %+v, %v", got, err, test.want, test.err)
			}
		})
	}
}

// A press counts for whom the Slack user is at that moment; a member by a group
// needs a sign-in that is not too old.
func TestLinkedVotes(t *testing.T) {
	w := newWorld(t)
	w.policy = policy(t, "a", signers())
	press := func(user string) approval.Vote {
		v := yes("")
		v.Issuer, v.Sub, v.Slack.User = "", "", user
		return v
	}
	if err := w.logins.Link(t.Context(), "T0TEST", "U0GAIL", w.signIn("gail", "dbas")); err != nil {
		t.Fatal(err)
	}
	a := w.ask("d1", ask("groupy", 2))
	v := press("U0GAIL")
	v.Issuer, v.Sub = issuer, "bob"
	if _, err := w.cast(w.book, a.ID, v, w.policy); !errors.Is(err, approval.ErrVote) {
		t.Errorf("in another's name: %v", err)
	}
	w.pass(14 * time.Minute)
	a = w.vote(a.ID, press("U0GAIL"))
	if v := a.Votes[0]; v.Issuer != issuer || v.Sub != "gail" || v.Linked != approval.LinkedLogin || v.Person != "" || v.Email != "gail@example.com" ||
		v.Who() != "gail@example.com" || v.Waited != 14*time.Minute || v.Shown != a.Shows() || !slices.Equal(v.Sets, []string{"groupy"}) {
		t.Errorf("%+v", v)
	}
	// Bob is linked by policy, and a member by a group: his sign-in may be old.
	w.signIn("bob", "dbas")
	w.pass(3 * time.Hour)
	b := w.ask("d2", ask("groupy", 1))
	if _, err := w.cast(w.book, b.ID, yes("bob"), w.policy); !errors.Is(err, approval.ErrStaleLogin) || !strings.Contains(err.Error(), "groupy by a group") {
		t.Errorf("%v", err)
	}
	if _, err := w.cast(w.book, b.ID, press("U0GAIL"), w.policy); !errors.Is(err, approval.ErrStaleLogin) {
		t.Errorf("linked by a login that is too old: %v", err)
	}
	w.signIn("bob", "dbas")
	if b = w.vote(b.ID, yes("bob")); b.State != approval.Approved {
		t.Error(b.State)
	}
	if err := w.book.Check(t.Context(), w.ask("d3", ask("groupy", 1)), press("U0NOBODY"), w.policy); !errors.Is(err, approval.ErrUnlinked) {
		t.Error(err)
	}
}

// Nobody votes on another thing than what they were shown.
func TestShown(t *testing.T) {
	w := newWorld(t)
	a, other := w.ask("d1"), w.ask("d2")
	for name, shown := range map[string]string{"another": other.Shows(), "nothing": "-", "the digest": a.Digest} {
		v := yes("bob")
		v.Shown = shown
		if _, err := w.book.Vote(t.Context(), a.ID, v, w.policy); !errors.Is(err, approval.ErrShown) {
			t.Errorf("shown %s: %v", name, err)
		}
	}
	v := yes("bob")
	if _, err := w.book.Vote(t.Context(), a.ID, v, w.policy); !errors.Is(err, approval.ErrShown) {
		t.Errorf("nobody says what was shown: %v", err)
	}
	long := no("bob", strings.Repeat("x", 3001))
	if _, err := w.cast(w.book, a.ID, long, w.policy); !errors.Is(err, approval.ErrReason) {
		t.Errorf("a reason without end: %v", err)
	}
}
