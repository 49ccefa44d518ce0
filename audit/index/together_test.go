package index

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"countersign/audit"
)

// rolled is a log that went on in another repository within a month, at the
// moment at which it rolled, and a run that followed there.
func rolled(t *testing.T) (older, newer *clone) {
	older, newer = newClone(), newClone()
	older.add(t, branchA,
		audit.Entry{Seq: 0, Time: after(0), Kind: audit.KindStart},
		audit.Entry{Seq: 1, Time: after(time.Second), Kind: audit.KindIntent, Call: "c_1", Sub: "alice", Effect: "allow", Rules: []string{"reads"}},
		audit.Entry{Seq: 2, Time: after(time.Second), Kind: audit.KindIntent, Call: "c_2", Sub: "bob", Effect: "approve", Rules: []string{"writes"}},
		audit.Entry{Seq: 3, Time: after(2 * time.Second), Kind: audit.KindRolled},
	)
	newer.add(t, branchA,
		audit.Entry{Seq: 4, Time: after(2 * time.Second), Kind: audit.KindOutcome, Call: "c_1", Sub: "alice", Status: "ok", Millis: 2},
	)
	newer.add(t, "audit/demo/r_0/2026-11",
		audit.Entry{Seq: 0, Time: after(time.Minute), Kind: audit.KindStart},
		audit.Entry{Seq: 1, Time: after(time.Minute), Kind: audit.KindRecovered, Call: "c_2", Status: "unknown"},
	)
	return older, newer
}

const rolledIDs = "demo/r_a@0 demo/r_a@1 demo/r_a@2 demo/r_a@3 demo/r_a@4 demo/r_0@0 demo/r_0@1"

// calls adds up what a record says of its calls.
func calls(t *testing.T, x *Index) string {
	t.Helper()
	var all []string
	for s, err := range x.Tallies(t.Context(), Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, fmt.Sprint(s.Sub, s.Decision, s.Rules, s.Status, s.Calls))
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// Repositories that a record was rolled over are read as one, in order: a call
// that began in one and ended in another has both. A copy of one, or an older
// copy, doubles nothing.
func TestTogether(t *testing.T) {
	older, newer := rolled(t)
	copied := newClone()
	copied.add(t, branchA, audit.Entry{Seq: 0, Time: after(0), Kind: audit.KindStart})
	again, _ := rolled(t)
	_, twice := rolled(t)
	var sums string
	for name, all := range map[string][]audit.Repository{
		"two":             {older.repository(), newer.repository()},
		"the older twice": {older.repository(), again.repository(), newer.repository()},
		"an older copy":   {copied.repository(), older.repository(), newer.repository()},
		"the newer twice": {older.repository(), newer.repository(), twice.repository()},
	} {
		x, told := opened(t, Config{Repo: Together(all), Path: filepath.Join(t.TempDir(), "x.sqlite")})
		if got := ids(t, x.Entries(t.Context(), Filter{}, false)); got != rolledIDs {
			t.Errorf("%s: %s", name, got)
		}
		if got := ids(t, x.Entries(t.Context(), Filter{Calls: []string{"c_1"}, Log: branchA}, true)); got != "demo/r_a@4 demo/r_a@1" {
			t.Errorf("%s: one call, backwards: %s", name, got)
		}
		for e, err := range x.Entries(t.Context(), Filter{Kinds: []string{"rolled"}}, false) {
			if err != nil || e.Branch != branchA {
				t.Errorf("%s: it is on %s: %v", name, e.Branch, err)
			}
		}
		got := calls(t, x)
		if sums == "" {
			sums = got
		}
		if got != sums || !strings.Contains(got, "allow[reads]ok1") || !strings.Contains(got, "approve[writes]unknown1") {
			t.Errorf("%s: %s", name, got)
		}
		if len(*told) > 0 {
			t.Errorf("%s: it told %q", name, *told)
		}
	}
}

// What comes in is read, in whichever repository it is; and what was rewritten in
// one is called out.
func TestTogetherGrows(t *testing.T) {
	older, newer := rolled(t)
	path := filepath.Join(t.TempDir(), "x.sqlite")
	both := Together([]audit.Repository{older.repository(), newer.repository()})
	x, told := opened(t, Config{Repo: both, Path: path})
	mark, err := x.Mark(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	newer.add(t, branchA, audit.Entry{Seq: 5, Time: after(time.Hour), Kind: audit.KindStop})
	older.add(t, "audit/prod/r_b/2026-11", audit.Entry{Seq: 0, Time: after(2 * time.Hour), Kind: audit.KindStart})
	if err := x.Update(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := ids(t, x.Since(t.Context(), Filter{}, mark)); got != "demo/r_a@5 prod/r_b@0" || len(*told) > 0 {
		t.Errorf("new: %s; it told %q", got, *told)
	}
	delete(older.tips, branchA)
	older.add(t, branchA, audit.Entry{Seq: 0, Time: after(time.Second), Kind: audit.KindStart})
	if err := x.Update(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(*told) == 0 || !strings.Contains((*told)[0], "REWRITTEN: branch "+branchA+"~1 ") {
		t.Errorf("it told %q", *told)
	}
}
