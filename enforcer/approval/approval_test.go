package approval_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"countersign/enforcer/approval"
	"countersign/enforcer/kv"
	"countersign/rules"
)

const issuer = "https://id.example"

// world is a Book over a real store, with a clock that only tests move.
type world struct {
	t      *testing.T
	bucket *kv.Bucket
	people *kv.Bucket
	logins *approval.Logins
	book   *approval.Book
	policy *rules.Policy

	mu     sync.Mutex
	now    time.Time
	events []string
	last   map[string]approval.Approval // what the record knows
	broken error                        // the record fails with it
	signed []approval.LoginEvent        // what the record knows of logins
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func (w *world) breakRecord(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.broken = err
}

func (w *world) record(_ context.Context, a approval.Approval, event string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.broken != nil {
		return w.broken
	}
	w.events = append(w.events, event)
	w.last[a.ID] = a
	return nil
}

func (w *world) recordLogin(_ context.Context, e approval.LoginEvent) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.broken != nil {
		return w.broken
	}
	w.signed = append(w.signed, e)
	return nil
}

func (w *world) count(event string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, e := range w.events {
		if e == event {
			n++
		}
	}
	return n
}

func newWorld(t *testing.T) *world {
	t.Helper()
	store, err := kv.OpenEmbedded(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	bucket, err := store.Bucket(t.Context(), "approvals")
	if err != nil {
		t.Fatal(err)
	}
	people, err := store.Bucket(t.Context(), "logins")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, bucket: bucket, people: people, policy: policy(t, "a", persons()), now: time.Date(2026, 3, 1, 14, 0, 0, 0, time.UTC), last: map[string]approval.Approval{}}
	w.logins = approval.NewLogins(approval.LoginsConfig{Bucket: people, Now: w.clock, Record: w.recordLogin})
	w.book = w.newBook()
	return w
}

// newBook is another process's Book over the same store.
func (w *world) newBook() *approval.Book {
	return approval.New(approval.Config{Bucket: w.bucket, Logins: w.logins, Now: w.clock, Record: w.record})
}

// persons: alice asks; bob, carol and dave are DBAs, erin is in security, and
// bob in both. Bob also has a second account.
func persons() string {
	return `
people:
  alice: { issuer: https://id.example, sub: alice, email: alice@example.com, slack: { team: T0TEST, user: U0ALICE } }
  bob:   { issuer: https://id.example, sub: bob, slack: { team: T0TEST, user: U0BOB } }
  carol: { issuer: https://id.example, sub: carol, slack: { team: T0TEST, user: U0CAROL } }
  dave:  { issuer: https://id.example, sub: dave, slack: { team: T0TEST, user: U0DAVE } }
  erin:  { issuer: https://id.example, sub: erin, slack: { team: T0TEST, user: U0ERIN } }
  alias: { issuer: https://other.example, sub: al, email: Alice@Example.com, slack: { team: T0TEST, user: U0ALIAS } }
sets:
  dba:      { members: [bob, carol, dave, alice, alias], channel: C0DBA }
  security: { members: [erin, bob], channel: C0SEC }
`
}

func policy(t *testing.T, commit, approvers string) *rules.Policy {
	t.Helper()
	p, err := rules.Load(fstest.MapFS{
		"countersign.yaml":    {Data: []byte("version: 1\n")},
		"servers/db.yaml":     {Data: []byte("server: db\nurl: http://127.0.0.1:1/mcp\n")},
		"approvers.yaml":      {Data: []byte(approvers)},
		"rules/everyone.yaml": {Data: []byte("- { id: writes, server: db, effect: approve, reason: Writes need a DBA, approval: { approvers: dba, quorum: 1, expires: 15m } }\n")},
	}, strings.Repeat(commit, 40))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (w *world) request(digest string, asks ...rules.Ask) approval.Request {
	if len(asks) == 0 {
		asks = []rules.Ask{ask("dba", 1)}
	}
	return approval.Request{
		Subject: rules.Subject{Issuer: issuer, Sub: "alice", Email: "alice@example.com", Groups: []string{"support"}},
		Client:  "desk", Server: "db", Method: "tools/call", Tool: "query", Holder: "h1", Digest: digest, Args: "sql: DELETE FROM t",
		Asks: asks, RulesDigest: "sha256:rules", Policy: w.policy.Commit(), Expires: w.clock().Add(15 * time.Minute), Call: "c_1",
	}
}

func ask(set string, quorum int) rules.Ask {
	return rules.Ask{Rule: "writes", Reason: "Writes need a DBA", File: "rules/everyone.yaml", Line: 1, Approvers: set, Quorum: quorum}
}

func (w *world) ask(digest string, asks ...rules.Ask) approval.Approval {
	w.t.Helper()
	a, created, err := w.book.Ask(w.t.Context(), w.request(digest, asks...))
	if err != nil || !created {
		w.t.Fatalf("Ask: created %v, %v", created, err)
	}
	return a
}

// cast votes on what is there, shown as it is.
func (w *world) cast(book *approval.Book, id string, v approval.Vote, p *rules.Policy) (approval.Approval, error) {
	if a, err := book.Get(w.t.Context(), id); err == nil && v.Shown == "" {
		v.Shown = a.Shows()
	}
	return book.Vote(w.t.Context(), id, v, p)
}

func yes(sub string) approval.Vote {
	return approval.Vote{Issuer: issuer, Sub: sub, Approve: true, Via: approval.ViaSlack, Slack: &approval.SlackProof{Team: "T0TEST", User: "U0" + strings.ToUpper(sub), PayloadHash: "sha256:x"}}
}

func no(sub, reason string) approval.Vote {
	v := yes(sub)
	v.Approve, v.Reason = false, reason
	return v
}

func (w *world) vote(id string, v approval.Vote) approval.Approval {
	w.t.Helper()
	a, err := w.cast(w.book, id, v, w.policy)
	if err != nil {
		w.t.Fatalf("vote of %s: %v", v.Sub, err)
	}
	return a
}

// Every way to get an approval that one should not, refused by its name, and
// without effect.
func TestRefused(t *testing.T) {
	away := persons()[:strings.Index(persons(), "sets:")] + "sets:\n  dba: { members: [carol], channel: C0DBA }\n"
	tests := []struct {
		name  string
		asks  []rules.Ask
		setup func(w *world, a approval.Approval, r *approval.Request)
		vote  approval.Vote
		want  error
	}{
		{name: "requester approves own request", vote: yes("alice"), want: approval.ErrOwnRequest},
		{name: "requester denies own request as an approver", vote: no("alice", "x"), want: approval.ErrOwnRequest},
		{name: "requester approves under a second identity with the same e-mail", want: approval.ErrOwnRequest,
			vote: func() approval.Vote {
				v := yes("al")
				v.Issuer, v.Slack.User = "https://other.example", "U0ALIAS"
				return v
			}()},
		{name: "member of another set", vote: yes("erin"), want: approval.ErrNotApprover},
		{name: "unknown identity", vote: yes("mallory"), want: approval.ErrUnlinked},
		{name: "right sub of the wrong issuer", want: approval.ErrVote,
			vote: func() approval.Vote { v := yes("bob"); v.Issuer = "https://other.example"; return v }()},
		{name: "no identity", vote: yes(""), want: approval.ErrUnlinked},
		{name: "an agent's token is no door", want: approval.ErrVote,
			vote: func() approval.Vote { v := yes("bob"); v.Via = "mcp"; return v }()},
		{name: "Slack vote without proof", want: approval.ErrVote,
			vote: func() approval.Vote { v := yes("bob"); v.Slack = nil; return v }()},
		{name: "same person twice", asks: []rules.Ask{ask("dba", 2)}, vote: yes("bob"), want: approval.ErrDuplicate,
			setup: func(w *world, a approval.Approval, _ *approval.Request) { w.vote(a.ID, yes("bob")) }},
		{name: "after it was approved", vote: yes("carol"), want: approval.ErrDecided,
			setup: func(w *world, a approval.Approval, _ *approval.Request) { w.vote(a.ID, yes("bob")) }},
		{name: "approval after a denial", vote: yes("carol"), want: approval.ErrDecided,
			setup: func(w *world, a approval.Approval, _ *approval.Request) { w.vote(a.ID, no("bob", "ask billing")) }},
		{name: "after it was withdrawn", vote: yes("carol"), want: approval.ErrDecided,
			setup: func(w *world, a approval.Approval, _ *approval.Request) {
				if err := w.book.Withdraw(w.t.Context(), a.ID, "left"); err != nil {
					w.t.Fatal(err)
				}
			}},
		{name: "after expiry", vote: yes("bob"), want: approval.ErrExpired,
			setup: func(w *world, _ approval.Approval, _ *approval.Request) { w.pass(15 * time.Minute) }},
		{name: "denial without a reason", vote: no("bob", " \n"), want: approval.ErrReason},
		{name: "policy changed between asking and approving", vote: yes("bob"), want: approval.ErrStale,
			setup: func(w *world, _ approval.Approval, _ *approval.Request) { w.policy = policy(w.t, "b", persons()) }},
		{name: "removed from the set since", vote: yes("bob"), want: approval.ErrNotApprover,
			setup: func(w *world, _ approval.Approval, _ *approval.Request) { w.policy = policy(w.t, "b", away) }},
		{name: "no policy in force", vote: yes("bob"), want: approval.ErrStale,
			setup: func(w *world, _ approval.Approval, _ *approval.Request) { w.policy = nil }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			a := w.ask("d1", test.asks...)
			if test.setup != nil {
				test.setup(w, a, nil)
			}
			before, err := w.book.Get(t.Context(), a.ID)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.cast(w.book, a.ID, test.vote, w.policy); !errors.Is(err, test.want) {
				t.Fatalf("Vote: %v, want %v", err, test.want)
			}
			after, err := w.book.Get(t.Context(), a.ID)
			if err != nil {
				t.Fatal(err)
			}
			if len(after.Votes) != len(before.Votes) || after.State == approval.Approved && before.State != approval.Approved {
				t.Errorf("the refused vote had an effect: %+v", after)
			}
		})
	}
}

func TestPartialIsNotApprovedByButton(t *testing.T) {
	w := newWorld(t)
	r := w.request("d1")
	r.Partial = true
	a, _, err := w.book.Ask(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.cast(w.book, a.ID, yes("bob"), w.policy); !errors.Is(err, approval.ErrPartial) {
		t.Fatalf("Vote: %v, want ErrPartial", err)
	}
	v := yes("bob")
	v.Via, v.Slack, v.Login = approval.ViaOIDC, nil, w.signIn("bob").Proof("127.0.0.1", "page")
	if a = w.vote(a.ID, v); a.State != approval.Approved {
		t.Fatalf("by signing in: %s", a.State)
	}

	long := w.request("d2")
	long.Args = strings.Repeat("x", 1<<20)
	if a, _, err = w.book.Ask(t.Context(), long); err != nil || !a.Partial || !a.Cut || len(a.Args) > 64<<10 {
		t.Fatalf("what is not kept in full is not said to be so: %v %+v", err, a)
	}
	for _, glass := range []bool{false, true} { // by no door, and in no emergency
		v.BreakGlass, v.Reason = glass, "it burns"
		if _, err := w.cast(w.book, a.ID, v, w.policy); err == nil {
			t.Fatalf("what nobody could see was approved")
		}
	}
	// What a start found cut is whole again once the caller asks again.
	long.Args, long.Digest, long.Cut = "half", "d3", true
	if a, _, err = w.book.Ask(t.Context(), long); err != nil || !a.Cut || !a.Partial {
		t.Fatalf("%v %+v", err, a)
	}
	long.Args, long.Cut = "half and half", false
	again, created, err := w.book.Ask(t.Context(), long)
	if err != nil || created || again.ID != a.ID || again.Cut || again.Partial || again.Args != long.Args {
		t.Fatalf("%v %v %+v", created, err, again)
	}
}

func TestQuorum(t *testing.T) {
	tests := []struct {
		name   string
		asks   []rules.Ask
		votes  []string
		states []approval.State
	}{
		{"one of one", []rules.Ask{ask("dba", 1)}, []string{"bob"}, []approval.State{approval.Approved}},
		{"two of one set", []rules.Ask{ask("dba", 2)}, []string{"bob", "carol"}, []approval.State{approval.Pending, approval.Approved}},
		{"two rules ask one set", []rules.Ask{ask("dba", 1), ask("dba", 2)}, []string{"bob", "carol"}, []approval.State{approval.Pending, approval.Approved}},
		{"bob is in both sets and counts once", []rules.Ask{ask("dba", 1), ask("security", 1)}, []string{"bob", "erin"}, []approval.State{approval.Pending, approval.Approved}},
		{"bob counts where he is needed", []rules.Ask{ask("security", 1), ask("dba", 1)}, []string{"bob", "carol"}, []approval.State{approval.Pending, approval.Approved}},
		{"two DBAs are no security", []rules.Ask{ask("dba", 1), ask("security", 1)}, []string{"carol", "dave"}, []approval.State{approval.Pending, approval.Pending}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			a := w.ask("d1", test.asks...)
			for i, sub := range test.votes {
				if a = w.vote(a.ID, yes(sub)); a.State != test.states[i] {
					t.Fatalf("after %s: %s, want %s", sub, a.State, test.states[i])
				}
			}
		})
	}
}

func TestOneDenialEndsIt(t *testing.T) {
	w := newWorld(t)
	a := w.ask("d1", ask("dba", 2))
	w.vote(a.ID, yes("bob"))
	a = w.vote(a.ID, no("bob", "Ask billing first")) // a change of mind, in the safe direction
	if a.State != approval.Denied || a.Reason != "Ask billing first" {
		t.Fatalf("%+v", a)
	}
	if _, err := w.book.Spend(t.Context(), a.ID, w.request("d1"), "c_2"); !errors.Is(err, approval.ErrNotApproved) {
		t.Fatalf("Spend: %v", err)
	}
}

// The identical retry attaches while the approval lives, and asks anew after.
func TestAskAttaches(t *testing.T) {
	w := newWorld(t)
	a := w.ask("d1")
	again, created, err := w.newBook().Ask(t.Context(), w.request("d1"))
	if err != nil || created || again.ID != a.ID {
		t.Fatalf("retry while pending: %s created %v, %v", again.ID, created, err)
	}
	w.vote(a.ID, yes("bob"))
	if again, created, err = w.book.Ask(t.Context(), w.request("d1")); err != nil || created || again.State != approval.Approved {
		t.Fatalf("retry while approved: %s created %v, %v", again.State, created, err)
	}
	if _, err := w.book.Spend(t.Context(), a.ID, w.request("d1"), "c_2"); err != nil {
		t.Fatal(err)
	}
	third := w.ask("d1")
	if third.ID == a.ID || third.State != approval.Pending {
		t.Fatalf("after it was spent: %+v", third)
	}
	w.pass(15 * time.Minute)
	fourth := w.ask("d1")
	if fourth.ID == third.ID {
		t.Fatal("attached to an expired approval")
	}
	if old, err := w.book.Get(t.Context(), third.ID); err != nil || old.State != approval.Expired {
		t.Fatalf("%s, %v", old.State, err)
	}
	other := w.request("d1")
	other.Subject.Sub = "zoe"
	if a, created, err := w.book.Ask(t.Context(), other); err != nil || !created || a.ID == fourth.ID {
		t.Fatalf("another's request attached: created %v, %v", created, err)
	}
	if len(fourth.Subject.Groups) != 0 {
		t.Error("the subject's groups are kept")
	}
}

// Asked for again under a newer policy that asks the same, the approval can be
// voted on again.
func TestAskedAgainUnderAnotherPolicy(t *testing.T) {
	w := newWorld(t)
	a := w.ask("d1")
	w.policy = policy(t, "b", persons())
	if _, err := w.cast(w.book, a.ID, yes("bob"), w.policy); !errors.Is(err, approval.ErrStale) {
		t.Fatalf("before: %v", err)
	}
	again, created, err := w.book.Ask(t.Context(), w.request("d1"))
	if err != nil || created || again.ID != a.ID || again.Policy != w.policy.Commit() {
		t.Fatalf("%+v created %v, %v", again, created, err)
	}
	if a = w.vote(a.ID, yes("bob")); a.State != approval.Approved {
		t.Fatal(a.State)
	}
}

// With a Digest, a vote needs nobody to ask again.
func TestDigestUnderAnotherPolicy(t *testing.T) {
	w := newWorld(t)
	digest := "sha256:rules"
	w.book = approval.New(approval.Config{Bucket: w.bucket, Now: w.clock, Record: w.record,
		Digest: func(*rules.Policy, string, rules.Subject, string, []rules.Ask) string { return digest }})
	a := w.ask("d1", ask("dba", 2))
	w.policy = policy(t, "b", persons())
	w.vote(a.ID, yes("bob"))
	digest = "sha256:changed"
	if _, err := w.cast(w.book, a.ID, yes("carol"), w.policy); !errors.Is(err, approval.ErrStale) {
		t.Fatal(err)
	}
}

// The journal sees the changes of one approval in their order, however slow it
// is: its newest entry is the newest state, from which a restart goes on.
func TestRecordIsInOrder(t *testing.T) {
	w := newWorld(t)
	var mu sync.Mutex
	var events []string
	var book *approval.Book
	var spending sync.WaitGroup
	book = approval.New(approval.Config{Bucket: w.bucket, Now: w.clock, Record: func(ctx context.Context, a approval.Approval, event string) error {
		if event == approval.EventApproved {
			// In the store, and not yet in the journal. Whoever may spend has
			// time for a hundred round trips, and must not.
			spending.Go(func() {
				if _, err := book.Spend(t.Context(), a.ID, w.request("d1"), "c_2"); err != nil {
					t.Error(err)
				}
			})
			for range 100 {
				if now, err := book.Get(ctx, a.ID); err != nil || now.State == approval.Spent {
					t.Errorf("%s before the approval was recorded, %v", now.State, err)
					break
				}
			}
		}
		mu.Lock()
		defer mu.Unlock()
		events = append(events, event)
		return nil
	}})
	a, _, err := book.Ask(t.Context(), w.request("d1"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.cast(book, a.ID, yes("bob"), w.policy); err != nil {
		t.Fatal(err)
	}
	spending.Wait()
	if want := []string{approval.EventAsked, approval.EventApproved, approval.EventSpent}; !slices.Equal(events, want) {
		t.Errorf("recorded %v, want %v", events, want)
	}
}

func TestAskRefusesTheIncomplete(t *testing.T) {
	w := newWorld(t)
	for name, spoil := range map[string]func(*approval.Request){
		"no subject":     func(r *approval.Request) { r.Subject.Sub = "" },
		"no holder":      func(r *approval.Request) { r.Holder = "" },
		"no digest":      func(r *approval.Request) { r.Digest = "" },
		"no rules":       func(r *approval.Request) { r.RulesDigest = "" },
		"nobody asked":   func(r *approval.Request) { r.Asks = nil },
		"quorum of none": func(r *approval.Request) { r.Asks[0].Quorum = 0 },
		"expired":        func(r *approval.Request) { r.Expires = w.clock() },
	} {
		r := w.request("d1")
		spoil(&r)
		if _, _, err := w.book.Ask(t.Context(), r); !errors.Is(err, approval.ErrRequest) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSpendChecks(t *testing.T) {
	w := newWorld(t)
	a := w.ask("d1")
	spend := func(digest, rulesDigest string) error {
		r := w.request(digest)
		r.RulesDigest = rulesDigest
		_, err := w.book.Spend(t.Context(), a.ID, r, "c_2")
		return err
	}
	if err := spend("d1", "sha256:rules"); !errors.Is(err, approval.ErrNotApproved) {
		t.Errorf("while pending: %v", err)
	}
	w.vote(a.ID, yes("bob"))
	if err := spend("d2", "sha256:rules"); !errors.Is(err, approval.ErrOtherCall) {
		t.Errorf("other arguments: %v", err)
	}
	if err := spend("d1", "sha256:other"); !errors.Is(err, approval.ErrStale) {
		t.Errorf("other rules: %v", err)
	}
	if err := spend("d1", "sha256:rules"); err != nil {
		t.Errorf("the very call: %v", err)
	}
	if err := spend("d1", "sha256:rules"); !errors.Is(err, approval.ErrSpent) {
		t.Errorf("again: %v", err)
	}
	if err := w.book.Finish(t.Context(), a.ID, "c_2", "ok"); err != nil {
		t.Error(err)
	}
	if a, err := w.book.Get(t.Context(), a.ID); err != nil || a.Outcome != "ok" || a.SpentBy != "c_2" {
		t.Errorf("%+v, %v", a, err)
	}

	b := w.ask("d3")
	w.vote(b.ID, yes("bob"))
	w.pass(15 * time.Minute)
	if _, err := w.book.Spend(t.Context(), b.ID, w.request("d3"), "c_3"); !errors.Is(err, approval.ErrExpired) {
		t.Errorf("approved, but too late: %v", err)
	}
	if n, err := w.book.Expire(t.Context()); n != 1 || err != nil {
		t.Errorf("Expire: %d, %v", n, err)
	}
	if _, err := w.book.Get(t.Context(), "a.b/../c"); !errors.Is(err, approval.ErrUnknown) {
		t.Errorf("an id that is none: %v", err)
	}
}

// Fifty voters and spenders on several Books at once: one approval by a quorum
// of distinct people, one spending.
func TestRace(t *testing.T) {
	w := newWorld(t)
	var list, members strings.Builder
	for i := range 50 {
		fmt.Fprintf(&list, "  p%d: { issuer: %s, sub: p%d, slack: { team: T0TEST, user: U0P%d } }\n", i, issuer, i, i)
		fmt.Fprintf(&members, "%sp%d", map[bool]string{true: ", "}[i > 0], i)
	}
	w.policy = policy(t, "a", "people:\n"+list.String()+"sets:\n  dba: { members: ["+members.String()+"], channel: C0DBA }\n")
	a := w.ask("d1", ask("dba", 5))

	var spent, counted atomic.Int32
	var all sync.WaitGroup
	for i := range 50 {
		book := w.newBook()
		all.Go(func() {
			for range 2 { // each presses twice
				if _, err := w.cast(book, a.ID, yes(fmt.Sprintf("p%d", i)), w.policy); err == nil {
					counted.Add(1)
				} else if !errors.Is(err, approval.ErrDuplicate) && !errors.Is(err, approval.ErrDecided) {
					t.Errorf("vote: %v", err)
				}
			}
		})
		all.Go(func() {
			hang, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			got, err := book.Wait(hang, a.ID)
			if err != nil {
				t.Errorf("wait: %v", err)
				return
			}
			if got.State != approval.Approved && got.State != approval.Spent {
				t.Errorf("woken to %s", got.State)
			}
			_, err = book.Spend(t.Context(), a.ID, w.request("d1"), fmt.Sprintf("c_%d", i))
			if err == nil {
				spent.Add(1)
			} else if !errors.Is(err, approval.ErrSpent) {
				t.Errorf("spend: %v", err)
			}
		})
	}
	all.Wait()
	if spent.Load() != 1 || counted.Load() != 5 {
		t.Fatalf("spent %d times, %d votes counted", spent.Load(), counted.Load())
	}
	if w.count(approval.EventSpent) != 1 || w.count(approval.EventApproved) != 1 {
		t.Errorf("record: %v", w.events)
	}
	end, err := w.book.Get(t.Context(), a.ID)
	if err != nil {
		t.Fatal(err)
	}
	var who []string
	for _, v := range end.Votes {
		who = append(who, v.Person)
	}
	slices.Sort(who)
	if len(slices.Compact(who)) != 5 {
		t.Errorf("voters: %v", who)
	}
}

func TestRaceToAsk(t *testing.T) {
	w := newWorld(t)
	ids := make([]string, 30)
	var created atomic.Int32
	var all sync.WaitGroup
	for i := range ids {
		book := w.newBook()
		all.Go(func() {
			a, made, err := book.Ask(t.Context(), w.request("d1"))
			if err != nil {
				t.Errorf("Ask: %v", err)
			}
			if made {
				created.Add(1)
			}
			ids[i] = a.ID
		})
	}
	all.Wait()
	slices.Sort(ids)
	if len(slices.Compact(ids)) != 1 || created.Load() != 1 || w.count(approval.EventAsked) != 1 {
		t.Fatalf("%d created, recorded %d times", created.Load(), w.count(approval.EventAsked))
	}
}

func TestWaitWakes(t *testing.T) {
	w := newWorld(t)
	elsewhere := w.newBook()
	for name, end := range map[string]struct {
		do   func(id string) error
		want approval.State
	}{
		"denied elsewhere": {func(id string) error {
			_, err := w.cast(elsewhere, id, no("bob", "no"), w.policy)
			return err
		}, approval.Denied},
		"approved here": {func(id string) error {
			_, err := w.cast(w.book, id, yes("bob"), w.policy)
			return err
		}, approval.Approved},
		"withdrawn": {func(id string) error { return elsewhere.Withdraw(t.Context(), id, "left") }, approval.Withdrawn},
		"expired": {func(string) error {
			w.pass(16 * time.Minute)
			_, err := elsewhere.Expire(t.Context())
			return err
		}, approval.Expired},
	} {
		t.Run(name, func(t *testing.T) {
			a := w.ask("wait-" + name)
			got := make(chan approval.Approval, 1)
			go func() {
				hang, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
				defer cancel()
				a, err := w.book.Wait(hang, a.ID)
				if err != nil {
					t.Error(err)
				}
				got <- a
			}()
			if err := end.do(a.ID); err != nil {
				t.Fatal(err)
			}
			if a := <-got; a.State != end.want {
				t.Fatalf("%s, want %s", a.State, end.want)
			}
		})
	}
	a := w.ask("left")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.book.Wait(ctx, a.ID); !errors.Is(err, context.Canceled) {
		t.Errorf("the caller left: %v", err)
	}
}

// What cannot be recorded gives no permission.
func TestUnrecorded(t *testing.T) {
	disk := errors.New("disk full")
	w := newWorld(t)
	w.breakRecord(disk)
	if _, created, err := w.book.Ask(t.Context(), w.request("d0")); created || !errors.Is(err, disk) || !errors.Is(err, approval.ErrUnrecorded) {
		t.Errorf("Ask: created %v, %v", created, err)
	}
	if p, err := w.book.Pending(t.Context()); err != nil || len(p) != 0 {
		t.Errorf("pending: %v, %v", p, err)
	}
	w.breakRecord(nil)
	a := w.ask("d1")
	w.breakRecord(disk)
	if _, err := w.cast(w.book, a.ID, yes("bob"), w.policy); !errors.Is(err, approval.ErrUnrecorded) {
		t.Errorf("Vote: %v", err)
	}
	w.breakRecord(nil)
	if _, err := w.book.Spend(t.Context(), a.ID, w.request("d1"), "c_2"); !errors.Is(err, approval.ErrNotApproved) {
		t.Errorf("Spend after an unrecorded vote: %v", err)
	}
	b := w.ask("d2")
	w.vote(b.ID, yes("bob"))
	w.breakRecord(disk)
	if _, err := w.book.Spend(t.Context(), b.ID, w.request("d2"), "c_3"); !errors.Is(err, approval.ErrUnrecorded) {
		t.Errorf("Spend: %v", err)
	}
	w.breakRecord(nil)
	if _, err := w.book.Spend(t.Context(), b.ID, w.request("d2"), "c_4"); !errors.Is(err, approval.ErrSpent) {
		t.Errorf("Spend again: %v", err)
	}
}

// After a restart the store holds what the journal saw, and nothing else.
func TestRestore(t *testing.T) {
	w := newWorld(t)
	kept := w.ask("kept")
	w.vote(kept.ID, yes("bob"))
	lost := w.ask("lost")
	w.mu.Lock()
	seen := w.last[kept.ID]
	w.mu.Unlock()
	older := seen
	older.ID, older.State, older.Created = "ap_gone", approval.Pending, seen.Created.Add(-time.Minute)
	if err := w.book.Restore(t.Context(), []approval.Approval{seen, older}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.book.Get(t.Context(), lost.ID); !errors.Is(err, approval.ErrUnknown) {
		t.Errorf("what the journal never saw: %v", err)
	}
	a, created, err := w.book.Ask(t.Context(), w.request("kept"))
	if err != nil || created || a.ID != kept.ID || a.State != approval.Approved {
		t.Fatalf("the retry after the restart: %+v created %v, %v", a, created, err)
	}
	if _, created, err := w.book.Ask(t.Context(), w.request("lost")); err != nil || !created {
		t.Errorf("asked anew: created %v, %v", created, err)
	}
	if err := w.book.Restore(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if keys, err := w.bucket.Keys(t.Context(), ""); err != nil || len(keys) != 0 {
		t.Errorf("left: %v, %v", keys, err)
	}
}

// An approval whose maker was cut off between its two writes is completed by
// the next that asks.
func TestCutOffWhileAsking(t *testing.T) {
	w := newWorld(t)
	a := w.ask("d1")
	if err := w.bucket.Delete(t.Context(), "a."+a.ID, 0); err != nil {
		t.Fatal(err)
	}
	again, created, err := w.book.Ask(t.Context(), w.request("d1"))
	if err != nil || created || again.ID != a.ID || w.count(approval.EventAsked) != 2 {
		t.Fatalf("%s created %v, %v", again.ID, created, err)
	}
}

func TestCardsAndForgetting(t *testing.T) {
	w := newWorld(t)
	a := w.ask("d1")
	set := func(c approval.Card) approval.Card {
		t.Helper()
		got, err := w.book.SetCard(t.Context(), a.ID, c)
		if err != nil {
			t.Fatal(err)
		}
		card, _ := got.Card("dba")
		return card
	}
	if c := set(approval.Card{Set: "dba", Channel: "C0DBA", Claimed: w.clock(), By: "one"}); c.By != "one" {
		t.Errorf("claim: %+v", c)
	}
	if c := set(approval.Card{Set: "dba", Channel: "C0DBA", Claimed: w.clock().Add(time.Second), By: "two"}); c.By != "one" {
		t.Errorf("a second bot took a fresh claim: %+v", c)
	}
	if c := set(approval.Card{Set: "dba", Channel: "C0DBA", Claimed: w.clock().Add(approval.ClaimPatience), By: "two"}); c.By != "two" {
		t.Errorf("an old claim stood: %+v", c)
	}
	if c := set(approval.Card{Set: "dba", Channel: "C0DBA", TS: "1.1"}); c.TS != "1.1" {
		t.Errorf("posted: %+v", c)
	}
	if c := set(approval.Card{Set: "dba", Channel: "C0DBA", TS: "2.2"}); c.TS != "1.1" {
		t.Errorf("a second post took the card: %+v", c)
	}
	w.pass(15 * time.Minute)
	if n, err := w.book.Expire(t.Context()); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	w.pass(approval.Keep + time.Minute)
	if _, err := w.book.Expire(t.Context()); err != nil {
		t.Fatal(err)
	}
	if keys, err := w.bucket.Keys(t.Context(), ""); err != nil || len(keys) != 0 {
		t.Errorf("left: %v, %v", keys, err)
	}
}
