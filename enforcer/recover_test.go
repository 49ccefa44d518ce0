package enforcer

import (
	"encoding/json"
	"errors"
	"iter"
	"testing"

	"countersign/audit"
	"countersign/enforcer/approval"
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
			r, err := Recover(journalOf(c.entries[:1]...), journalOf(c.entries[1:]...))
			if err != nil {
				t.Fatal(err)
			}
			if len(r.Approvals) != 1 || r.Approvals[0].State != c.state {
				t.Errorf("approvals %+v, want one that is %s", r.Approvals, c.state)
			}
			if r.Unfinished["a"] != c.unfinished {
				t.Errorf("unfinished %q, want %q", r.Unfinished["a"], c.unfinished)
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
	broken := errors.New("broken")
	if _, err := Recover(func(yield func(audit.Entry, error) bool) { yield(audit.Entry{}, broken) }); !errors.Is(err, broken) {
		t.Errorf("a journal that does not read: %v", err)
	}
	if _, err := Recover(journalOf(audit.Entry{Kind: audit.KindApproval, Detail: []byte("[]")})); err == nil {
		t.Error("an approval that does not read was passed over")
	}
}
