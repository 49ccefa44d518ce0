package enforcer

import (
	"encoding/json"
	"errors"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"countersign/audit"
	"countersign/enforcer/approval"
	"countersign/enforcer/freeze"
	"countersign/enforcer/identity"
	"countersign/rules"
)

// journalOf plays back entries, as an earlier run left them.
func journalOf(entries ...audit.Entry) iter.Seq2[audit.Entry, error] {
	return func(yield func(audit.Entry, error) bool) {
		for _, e := range entries {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func stateOf(t *testing.T, id string, state approval.State, outcome string) audit.Entry {
	t.Helper()
	b, err := json.Marshal(approval.Approval{ID: id, State: state, Outcome: outcome})
	if err != nil {
		t.Fatal(err)
	}
	return audit.Entry{Kind: audit.KindApproval, Approval: id, Detail: b}
}

// At whatever moment a run dies, the next one knows what it left: what may have
// run is unknown, what no intent names did not run, and what was closed stays
// closed.
func TestRecover(t *testing.T) {
	intent := func(call, id string) audit.Entry {
		return audit.Entry{Kind: audit.KindIntent, Call: call, Approval: id, Method: "tools/call"}
	}
	outcome := func(call string) audit.Entry {
		return audit.Entry{Kind: audit.KindOutcome, Call: call, Status: audit.StatusOK}
	}
	for name, c := range map[string]struct {
		entries    []audit.Entry
		dangling   []string
		state      approval.State
		unfinished string
	}{
		"asked":                    {[]audit.Entry{stateOf(t, "a", approval.Pending, "")}, nil, approval.Pending, ""},
		"approved":                 {[]audit.Entry{stateOf(t, "a", approval.Pending, ""), stateOf(t, "a", approval.Approved, "")}, nil, approval.Approved, ""},
		"spent, no intent":         {[]audit.Entry{stateOf(t, "a", approval.Spent, "")}, nil, approval.Spent, audit.StatusNotRun},
		"spent, intent":            {[]audit.Entry{stateOf(t, "a", approval.Spent, ""), intent("c", "a")}, []string{"c"}, approval.Spent, audit.StatusUnknown},
		"an intent, spent unsaid":  {[]audit.Entry{stateOf(t, "a", approval.Approved, ""), intent("c", "a")}, []string{"c"}, approval.Spent, audit.StatusUnknown},
		"outcome, not finished":    {[]audit.Entry{stateOf(t, "a", approval.Spent, ""), intent("c", "a"), outcome("c")}, nil, approval.Spent, audit.StatusOK},
		"finished":                 {[]audit.Entry{stateOf(t, "a", approval.Spent, ""), intent("c", "a"), outcome("c"), stateOf(t, "a", approval.Spent, "ok")}, nil, approval.Spent, ""},
		"closed by an earlier one": {[]audit.Entry{stateOf(t, "a", approval.Spent, ""), intent("c", "a"), Closing(intent("c", "a"))}, nil, approval.Spent, audit.StatusUnknown},
		"asked of the client":      {[]audit.Entry{stateOf(t, "a", approval.Pending, ""), {Kind: audit.KindIntent, Call: "s", Method: "server:roots/list"}}, nil, approval.Pending, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := Recover(Names{}, journalOf(c.entries[:1]...), journalOf(c.entries[1:]...))
			if err != nil {
				t.Fatal(err)
			}
			if len(r.Approvals) != 1 || r.Approvals[0].State != c.state {
				t.Errorf("approvals %+v, want one that is %s", r.Approvals, c.state)
			}
			if got := unfinished(r); got != c.unfinished {
				t.Errorf("unfinished %q, want %q", got, c.unfinished)
			}
			var calls []string
			for _, e := range r.Dangling {
				calls = append(calls, e.Call)
			}
			if len(calls) != len(c.dangling) || len(calls) == 1 && calls[0] != c.dangling[0] {
				t.Errorf("dangling %v, want %v", calls, c.dangling)
			}
		})
	}
	if r, err := Recover(Names{}, journalOf(stateOf(t, "a", approval.Spent, ""), intent("c", "a"), audit.Entry{Kind: audit.KindOutcome, Call: "c", Status: audit.StatusFrozen})); err != nil || unfinished(r) != audit.StatusUnknown {
		t.Errorf("a call that a freeze cut off may have run: %+v %v", r.Unfinished, err)
	}
	broken := errors.New("broken")
	if _, err := Recover(Names{}, func(yield func(audit.Entry, error) bool) { yield(audit.Entry{}, broken) }); !errors.Is(err, broken) {
		t.Errorf("a journal that does not read: %v", err)
	}
	if _, err := Recover(Names{}, journalOf(audit.Entry{Kind: audit.KindApproval, Detail: []byte("[]")})); err == nil {
		t.Error("an approval that does not read was passed over")
	}
}

func unfinished(r Recovery) string {
	var all []string
	for _, u := range r.Unfinished {
		all = append(all, u.Outcome)
	}
	return strings.Join(all, " ")
}

// The newest entry about a freeze tells whether it stands.
func TestRecoverFreezes(t *testing.T) {
	about := func(id, status string) audit.Entry {
		f := freeze.Freeze{ID: id, Target: freeze.Target{All: true}, Reason: "r", By: "dana", Since: time.Unix(1, 0).UTC()}
		detail, err := audit.Detail(map[string]any{"by": "dana", "freeze": json.RawMessage(f.Encode())})
		if err != nil {
			t.Fatal(err)
		}
		return audit.Entry{Kind: audit.KindFreeze, Call: id, Status: status, Detail: detail}
	}
	r, err := Recover(Names{}, journalOf(
		about("fz_pruned", audit.StatusUnfrozen), about("fz_1", audit.StatusFrozen), about("fz_2", audit.StatusFrozen),
	), journalOf(
		about("fz_old", audit.StatusStanding), about("fz_1", audit.StatusUnfrozen), about("fz_2", audit.StatusUnfrozen), about("fz_2", audit.StatusStanding),
		audit.Entry{Kind: audit.KindFreeze, Status: audit.StatusUnfrozen},             // an unreadable document was discarded
		audit.Entry{Kind: audit.KindFreeze, Call: "c_1", Status: audit.StatusRefused}, // somebody may not freeze
	))
	if err != nil {
		t.Fatal(err)
	}
	var standing []string
	for _, f := range r.Standing {
		standing = append(standing, f.ID)
	}
	if !slices.Equal(standing, []string{"fz_old", "fz_2"}) || !r.Lifted["fz_1"] || !r.Lifted["fz_pruned"] || r.Lifted["fz_2"] {
		t.Errorf("standing %q, lifted %v", standing, r.Lifted)
	}
	for _, detail := range []string{``, `{}`, `{"freeze":{"id":"fz_1"}}`, string(about("fz_other", "").Detail)} {
		if _, err := Recover(Names{}, journalOf(audit.Entry{Kind: audit.KindFreeze, Call: "fz_1", Status: audit.StatusFrozen, Detail: []byte(detail)})); err == nil {
			t.Errorf("a freeze that does not read was passed over: %s", detail)
		}
	}
}

// Whoever holds a lease is read back from its key, whatever they are called.
func TestHoldersAreTold(t *testing.T) {
	for _, c := range []freeze.Call{
		{Issuer: "https://id.example", Sub: "auth0|alice", Client: "desk", Server: "s"}, {Issuer: "https://id.example", Sub: "auth0", Client: "alice|desk", Server: "s"},
		{Issuer: "https://id.example", Sub: "a%7Cb", Client: "%", Server: "s"}, {Issuer: "https://id.example", Sub: "a#b", Server: "s"},
	} {
		x := &exchange{server: c.Server, caller: identity.Caller{Subject: rules.Subject{Issuer: c.Issuer, Sub: c.Sub}, Client: c.Client}}
		x.decision.Credential = "db"
		if got := holderOf(x.holder()); got != c {
			t.Errorf("%q is %+v, want %+v", x.holder(), got, c)
		}
	}
	if got := holderOf("of|an earlier version"); got != (freeze.Call{}) {
		t.Errorf("%+v", got)
	}
}

// Of a window each call is closed by itself; it stays open.
func TestRecoverWindow(t *testing.T) {
	window := func(calls ...approval.Use) audit.Entry {
		a := approval.Approval{ID: "a", State: approval.Approved, Until: time.Unix(7200, 0).UTC(), Uses: len(calls), Calls: calls}
		detail, err := audit.Detail(a)
		if err != nil {
			t.Fatal(err)
		}
		return audit.Entry{Kind: audit.KindApproval, Approval: "a", Detail: detail}
	}
	use := func(call, outcome string) approval.Use { return approval.Use{Call: call, Outcome: outcome} }
	intent := func(call string) audit.Entry {
		return audit.Entry{Kind: audit.KindIntent, Call: call, Approval: "a", Method: "tools/call"}
	}
	r, err := Recover(Names{}, journalOf(
		window(), window(use("told", "")), intent("told"), audit.Entry{Kind: audit.KindOutcome, Call: "told", Status: audit.StatusOK}, window(use("told", "ok")),
		window(use("told", "ok"), use("ran", "")), intent("ran"), audit.Entry{Kind: audit.KindOutcome, Call: "ran", Status: audit.StatusError},
	), journalOf(
		window(use("told", "ok"), use("ran", ""), use("cut", "")), intent("cut"),
		window(use("told", "ok"), use("ran", ""), use("cut", ""), use("never", "")),
	))
	if err != nil {
		t.Fatal(err)
	}
	want := []Unfinished{{"a", "ran", audit.StatusError, true}, {"a", "cut", audit.StatusUnknown, true}, {"a", "never", audit.StatusNotRun, false}}
	if !slices.Equal(r.Unfinished, want) {
		t.Errorf("%+v, want %+v", r.Unfinished, want)
	}
	if len(r.Approvals) != 1 || r.Approvals[0].State != approval.Approved || r.Approvals[0].Uses != 4 || r.Approvals[0].SpentBy != "" || r.Approvals[0].Until.IsZero() {
		t.Errorf("%+v", r.Approvals)
	}
	if len(r.Dangling) != 1 || r.Dangling[0].Call != "cut" {
		t.Errorf("%+v", r.Dangling)
	}
}

// What this enforcer knows only from an approval that others use, too, is not its
// own to close: the call may be under way there.
func TestRecoverWhatOthersRun(t *testing.T) {
	entry := func(id, status, call string, change func(a *approval.Approval)) audit.Entry {
		a := approval.Approval{ID: id, State: approval.Spent, Ended: time.Unix(1, 0).UTC()}
		change(&a)
		detail, err := audit.Detail(a)
		if err != nil {
			t.Fatal(err)
		}
		return audit.Entry{Kind: audit.KindApproval, Approval: id, Status: status, Call: call, Detail: detail}
	}
	r, err := Recover(Names{}, journalOf(
		entry("once", approval.EventCard, "c_asked", func(a *approval.Approval) { a.SpentBy = "c_theirs" }),
		entry("own", approval.EventSpent, "c_own", func(a *approval.Approval) { a.SpentBy = "c_own" }),
		entry("window", approval.EventUsed, "c_used", func(a *approval.Approval) {
			a.State, a.Until, a.Calls = approval.Approved, time.Unix(7200, 0).UTC(), []approval.Use{{Call: "c_other"}, {Call: "c_used"}}
		}),
	))
	if err != nil {
		t.Fatal(err)
	}
	want := []Unfinished{
		{"once", "c_theirs", audit.StatusNotRun, false}, {"own", "c_own", audit.StatusNotRun, true},
		{"window", "c_other", audit.StatusNotRun, false}, {"window", "c_used", audit.StatusNotRun, true},
	}
	if !slices.Equal(r.Unfinished, want) {
		t.Errorf("%+v", r.Unfinished)
	}
}
