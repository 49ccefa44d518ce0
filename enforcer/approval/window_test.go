package approval_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"countersign/enforcer/approval"
	"countersign/rules"
)

// windowed is a request whose rules grant a window.
func (w *world) windowed(digest, scope string) approval.Request {
	r := w.request(digest)
	r.Grant = rules.Grant{For: time.Hour, Scope: scope}
	return r
}

// opened has such a request approved.
func (w *world) opened(digest, scope string) approval.Approval {
	w.t.Helper()
	a, created, err := w.book.Ask(w.t.Context(), w.windowed(digest, scope))
	if err != nil || !created {
		w.t.Fatalf("created %v, %v", created, err)
	}
	return w.vote(a.ID, yes("bob"))
}

// Which calls a window covers: what Ask finds and what Spend lets run agree.
func TestWindowScope(t *testing.T) {
	change := map[string]func(*approval.Request){
		"the same":        func(*approval.Request) {},
		"other arguments": func(r *approval.Request) { r.Digest = "d2" },
		"another tool":    func(r *approval.Request) { r.Tool, r.Digest = "export", "d2" },
		"another method": func(r *approval.Request) {
			r.Method, r.Tool, r.Resource, r.Digest = "resources/read", "", "file:///a", "d2"
		},
		"another resource": func(r *approval.Request) { r.Resource, r.Digest = "file:///b", "d2" },
		"another server":   func(r *approval.Request) { r.Server = "files" },
		"other rules":      func(r *approval.Request) { r.RulesDigest = "sha256:other" },
		"another holder":   func(r *approval.Request) { r.Holder = "h2" },
		"another client":   func(r *approval.Request) { r.Client = "ide" },
		"another person":   func(r *approval.Request) { r.Subject.Sub = "zoe" },
		"another's issuer": func(r *approval.Request) { r.Subject.Issuer = "https://other.example" },
	}
	covers := map[string][]string{
		rules.ScopeExact:  {"the same"},
		rules.ScopeTool:   {"the same", "other arguments"},
		rules.ScopeServer: {"the same", "other arguments", "another tool", "another method", "another resource"},
	}
	for scope, covered := range covers {
		w := newWorld(t)
		a := w.opened("d1", scope)
		if a.State != approval.Approved || !a.Until.Equal(w.clock().Add(time.Hour)) {
			t.Fatalf("%s until %v", a.State, a.Until)
		}
		uses := 0
		for name, f := range change {
			r := w.windowed("d1", scope)
			f(&r)
			want := false
			for _, c := range covered {
				want = want || c == name
			}
			call := fmt.Sprint("c_", len(name), name)
			_, err := w.book.Spend(t.Context(), a.ID, r, call)
			if (err == nil) != want {
				t.Errorf("%s, %s: %v", scope, name, err)
			}
			if err != nil && !errors.Is(err, approval.ErrOtherCall) && !errors.Is(err, approval.ErrStale) {
				t.Errorf("%s, %s: %v", scope, name, err)
			}
			if name == "other rules" && scope == rules.ScopeExact {
				continue // renews in place: see TestRenewal
			}
			if name != "other rules" { // which end the window
				found, _, err := w.newBook().Ask(t.Context(), r)
				if err != nil || (found.ID == a.ID) != want {
					t.Errorf("%s, %s: Ask finds %s, %v", scope, name, found.ID, err)
				}
			}
			if want {
				uses++
			}
		}
		if got, err := w.book.Get(t.Context(), a.ID); err != nil || got.Uses != uses || len(got.Calls) != uses || got.State != approval.Approved || w.count(approval.EventUsed) != uses {
			t.Errorf("%s: %d uses of %d, %v", scope, got.Uses, uses, err)
		}
	}
}

func TestWindowEnds(t *testing.T) {
	use := func(w *world, a approval.Approval, call string) error {
		_, err := w.book.Spend(t.Context(), a.ID, a.Request, call)
		return err
	}
	for name, c := range map[string]struct {
		end    func(w *world, a approval.Approval) error
		refuse error
		state  approval.State
	}{
		"by itself": {func(w *world, _ approval.Approval) error {
			w.pass(time.Hour)
			_, err := w.book.Expire(t.Context())
			return err
		}, approval.ErrExpired, approval.Expired},
		"on the dot, before anybody looked": {func(w *world, _ approval.Approval) error { w.pass(time.Hour); return nil }, approval.ErrExpired, approval.Approved},
		"revoked by button": {func(w *world, a approval.Approval) error {
			_, err := w.book.Revoke(t.Context(), a.ID, no("carol", "Enough"), w.policy)
			return err
		}, approval.ErrNotApproved, approval.Revoked},
		"revoked by the operator": {func(w *world, a approval.Approval) error {
			_, err := w.book.Revoke(t.Context(), a.ID, approval.Vote{Via: approval.ViaOperator, Reason: "Incident"}, nil)
			return err
		}, approval.ErrNotApproved, approval.Revoked},
		"given up": {func(w *world, a approval.Approval) error {
			return w.book.WithdrawBy(t.Context(), a.ID, rules.Subject{Issuer: issuer, Sub: "alice"}, "Done")
		}, approval.ErrNotApproved, approval.Withdrawn},
		"by a policy that grants otherwise": {func(w *world, _ approval.Approval) error {
			n, err := w.book.Reconsider(t.Context(), policy(t, "b", persons()))
			if n != 1 {
				t.Errorf("%d ended", n)
			}
			return err
		}, approval.ErrNotApproved, approval.Revoked},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			a := w.opened("d1", rules.ScopeTool)
			w.pass(59 * time.Minute) // long after a question's expiry
			if n, err := w.book.Expire(t.Context()); n != 0 || err != nil {
				t.Fatalf("%d expired, %v", n, err)
			}
			if err := use(w, a, "c_2"); err != nil {
				t.Fatal(err)
			}
			w.pass(-59 * time.Minute)
			if n, err := w.book.Reconsider(t.Context(), w.policy); n != 0 || err != nil {
				t.Fatalf("%d ended, %v", n, err)
			}
			if err := c.end(w, a); err != nil {
				t.Fatal(err)
			}
			if err := use(w, a, "c_3"); !errors.Is(err, c.refuse) {
				t.Errorf("used: %v", err)
			}
			got, err := w.book.Get(t.Context(), a.ID)
			if err != nil || got.State != c.state || got.Uses != 1 {
				t.Fatalf("%s, %d uses, %v", got.State, got.Uses, err)
			}
			// What ran goes on, and its outcome is noted.
			if err := w.book.Finish(t.Context(), a.ID, "c_2", "ok"); err != nil {
				t.Error(err)
			}
			if got, err = w.book.Get(t.Context(), a.ID); err != nil || got.Calls[0].Outcome != "ok" {
				t.Errorf("%+v, %v", got.Calls, err)
			}
			again, created, err := w.book.Ask(t.Context(), w.windowed("d2", rules.ScopeTool))
			if err != nil || !created || again.State != approval.Pending {
				t.Errorf("asked again: %s, created %v, %v", again.State, created, err)
			}
		})
	}
}

func TestRevoke(t *testing.T) {
	w := newWorld(t)
	pending := w.ask("d0")
	a := w.opened("d1", rules.ScopeTool)
	for name, c := range map[string]struct {
		id   string
		by   approval.Vote
		want error
	}{
		"who was not asked": {a.ID, no("erin", "No"), approval.ErrNotApprover},
		"a stranger":        {a.ID, no("mallory", "No"), approval.ErrUnlinked},
		"without a reason":  {a.ID, no("bob", " "), approval.ErrReason},
		"what is pending":   {pending.ID, no("bob", "No"), approval.ErrNotApproved},
		"by nobody":         {a.ID, approval.Vote{Reason: "No"}, approval.ErrVote},
		"what is not":       {"ap_none", no("bob", "No"), approval.ErrUnknown},
	} {
		if _, err := w.book.Revoke(t.Context(), c.id, c.by, w.policy); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if _, err := w.book.Revoke(t.Context(), a.ID, no("bob", "Enough"), nil); !errors.Is(err, approval.ErrStale) {
		t.Errorf("without a policy: %v", err)
	}
	// Also what is good for one call, and has not been used.
	b := w.ask("d2")
	w.vote(b.ID, yes("bob"))
	got, err := w.book.Revoke(t.Context(), b.ID, no("carol", "On second thoughts"), w.policy)
	if err != nil || got.State != approval.Revoked || got.Revoked == nil || got.Revoked.Person != "carol" || got.Revoked.Slack == nil || w.seen(b.ID).Reason != "On second thoughts" {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := w.book.Spend(t.Context(), b.ID, w.request("d2"), "c_2"); !errors.Is(err, approval.ErrNotApproved) {
		t.Error(err)
	}
}

// One who approves may want it for one call only.
func TestOnce(t *testing.T) {
	w := newWorld(t)
	r := w.windowed("d1", rules.ScopeServer)
	r.Asks = []rules.Ask{ask("dba", 2)}
	a, _, err := w.book.Ask(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	v := yes("bob")
	v.Once = true
	w.vote(a.ID, v)
	if a = w.vote(a.ID, yes("carol")); a.State != approval.Approved || !a.Until.IsZero() {
		t.Fatalf("%s until %v", a.State, a.Until)
	}
	other := r
	other.Digest = "d2"
	if _, err := w.book.Spend(t.Context(), a.ID, other, "c_2"); !errors.Is(err, approval.ErrOtherCall) {
		t.Error(err)
	}
	if a, err = w.book.Spend(t.Context(), a.ID, r, "c_2"); err != nil || a.State != approval.Spent {
		t.Errorf("%s, %v", a.State, err)
	}
}

// No approval is good for longer than the policy in force lets any be.
func TestMaxGrant(t *testing.T) {
	w := newWorld(t)
	r := w.windowed("d1", rules.ScopeExact)
	r.Grant.For = 3 * time.Hour // the policy's ceiling is an hour
	a, _, err := w.book.Ask(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if a = w.vote(a.ID, yes("bob")); !a.Until.Equal(w.clock().Add(time.Hour)) {
		t.Errorf("until %v", a.Until)
	}
	r.Grant.Scope = "all"
	r.Digest = "d2"
	if _, _, err := w.book.Ask(t.Context(), r); !errors.Is(err, approval.ErrRequest) {
		t.Errorf("a scope that is none: %v", err)
	}
}

// The calls of a window are bounded, counted once, and told one by one what
// became of them.
func TestWindowCalls(t *testing.T) {
	w := newWorld(t)
	a := w.opened("d1", rules.ScopeExact)
	spend := func(call string) error {
		_, err := w.book.Spend(t.Context(), a.ID, a.Request, call)
		return err
	}
	for i := range 64 {
		if err := spend(fmt.Sprint("c_", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := spend("c_64"); !errors.Is(err, approval.ErrWindow) {
		t.Errorf("a 65th at once: %v", err)
	}
	if err := w.book.Finish(t.Context(), a.ID, "c_none", "ok"); !errors.Is(err, approval.ErrNotApproved) {
		t.Errorf("a call that never ran: %v", err)
	}
	for i := range 64 {
		if err := w.book.Finish(t.Context(), a.ID, fmt.Sprint("c_", i), "ok"); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.book.Finish(t.Context(), a.ID, "c_7", "error"); err != nil {
		t.Error(err)
	}
	if err := spend("c_64"); err != nil {
		t.Fatal(err)
	}
	if err := spend("c_64"); !errors.Is(err, approval.ErrSpent) {
		t.Errorf("the same call twice: %v", err)
	}
	got, err := w.book.Get(t.Context(), a.ID)
	if err != nil || got.Uses != 65 || len(got.Calls) != 17 || got.Calls[16].Call != "c_64" || got.Calls[15].Call != "c_63" || got.Calls[15].Outcome != "ok" {
		t.Errorf("%d uses, %+v, %v", got.Uses, got.Calls, err)
	}
	w.breakRecord(errors.New("disk full"))
	if err := spend("c_65"); !errors.Is(err, approval.ErrUnrecorded) {
		t.Error(err)
	}
	w.breakRecord(nil)
	if got, err = w.book.Get(t.Context(), a.ID); err != nil || got.Uses != 65 || got.State != approval.Approved || strings.Contains(fmt.Sprint(got.Calls), "c_65") {
		t.Errorf("what could not be recorded counts as running: %+v", got.Calls)
	}
}

// A window is found by what it covers also if whoever approved it died before
// saying so; of two, the one that is open for longer.
func TestWindowIsFound(t *testing.T) {
	w := newWorld(t)
	a := w.opened("d1", rules.ScopeTool)
	finds := func(want string) {
		t.Helper()
		if got, _, err := w.book.Ask(t.Context(), w.windowed("d9", rules.ScopeTool)); err != nil || got.ID != want {
			t.Fatalf("found %s, %v, want %s", got.ID, err, want)
		}
	}
	finds(a.ID)
	keys, err := w.bucket.Keys(t.Context(), "win.")
	if err != nil || len(keys) != 1 {
		t.Fatalf("%v, %v", keys, err)
	}
	_, rev, err := w.bucket.Get(t.Context(), keys[0])
	if err == nil {
		err = w.bucket.Delete(t.Context(), keys[0], rev)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.book.Expire(t.Context()); err != nil {
		t.Fatal(err)
	}
	finds(a.ID)
	w.pass(10 * time.Minute)
	if _, err := w.book.Revoke(t.Context(), a.ID, no("bob", "Enough"), w.policy); err != nil {
		t.Fatal(err)
	}
	b := w.opened("d2", rules.ScopeTool)
	finds(b.ID)
	w.pass(time.Hour)
	for range 2 { // ended, then forgotten
		if _, err := w.book.Expire(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.pass(approval.Keep + time.Minute)
	}
	if keys, err := w.bucket.Keys(t.Context(), "win."); err != nil || len(keys) != 0 {
		t.Errorf("left behind: %v, %v", keys, err)
	}
}

// The caller leaves, and is back with its next identical call.
func TestLeftAndBack(t *testing.T) {
	w := newWorld(t)
	a := w.ask("d1")
	for range 2 {
		if err := w.book.Left(t.Context(), a.ID); err != nil {
			t.Fatal(err)
		}
	}
	if got := w.seen(a.ID); got.Gone.IsZero() || got.State != approval.Pending {
		t.Errorf("%+v", got)
	}
	if got, created, err := w.book.Ask(t.Context(), w.request("d1")); err != nil || created || !got.Gone.IsZero() {
		t.Errorf("gone since %v, created %v, %v", got.Gone, created, err)
	}
	if err := w.book.Left(t.Context(), a.ID); err != nil {
		t.Fatal(err)
	}
	if err := w.book.Back(t.Context(), a.ID); err != nil {
		t.Fatal(err)
	}
	if w.count(approval.EventLeft) != 2 || w.count(approval.EventBack) != 2 {
		t.Errorf("%v", w.events)
	}
	mine := 0
	for range 3 {
		if _, ok, err := w.newBook().Remind(t.Context(), a.ID); err != nil {
			t.Fatal(err)
		} else if ok {
			mine++
		}
	}
	if mine != 1 {
		t.Errorf("%d remind", mine)
	}
}
