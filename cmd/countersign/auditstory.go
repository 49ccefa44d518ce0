package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"countersign/audit"
	"countersign/audit/index"
	"countersign/enforcer/approval"
)

// story is everything that the record says about one id, in the order of time
// over all logs.
type story struct {
	What    string // call, approval, session, holder, lease, entry
	ID      string
	Entries []index.Found
}

// maxStory bounds a story, which is held in memory.
const maxStory = 100_000

// errUnknown is an id that names nothing, or too much. Its text says what to do.
type errUnknown struct{ said string }

func (e *errUnknown) Error() string { return e.said }

// tell finds the story of an id, in full or its beginning.
func (r *reading) tell(ctx context.Context, id string) (story, error) {
	if origin, number, ok := strings.Cut(id, "@"); ok {
		return r.entryAt(ctx, id, origin, number)
	}
	names, err := r.Names(ctx, id, 4)
	if err != nil {
		return story{}, err
	}
	if len(id) < 4 || len(names) == 0 {
		return story{}, &errUnknown{fmt.Sprintf("nothing in this record is called %q: give the id of a call (c…), an approval (ap_…), a session, a holder or a lease, "+
			"or its beginning, or an entry as <enforcer>/<run>@<number>; has the clone been fetched since?", id)}
	}
	if len(names) > 1 {
		var all []string
		for _, n := range names {
			all = append(all, n.What+" "+n.ID)
		}
		return story{}, &errUnknown{fmt.Sprintf("%q is the beginning of several: %s", id, strings.Join(all, ", "))}
	}
	s := story{What: names[0].What, ID: names[0].ID}
	return s, r.gather(ctx, &s)
}

func (r *reading) entryAt(ctx context.Context, id, origin, number string) (story, error) {
	seq, err := strconv.ParseUint(number, 10, 62)
	if err != nil || origin == "" {
		return story{}, &errUnknown{fmt.Sprintf("%q names no entry; want <enforcer>/<run>@<number>, or the enforcer or the run alone", id)}
	}
	found, err := r.At(ctx, origin, seq)
	switch {
	case err != nil:
		return story{}, err
	case len(found) == 0:
		return story{}, &errUnknown{fmt.Sprintf("no log of %s has an entry %d", origin, seq)}
	case len(found) > 1:
		var all []string
		for _, f := range found {
			all = append(all, f.ID())
		}
		return story{}, &errUnknown{fmt.Sprintf("%q is one of several: %s", id, strings.Join(all, ", "))}
	}
	return story{What: "entry", ID: found[0].ID(), Entries: found}, nil
}

// gather finds the entries of a story: what names the id, and from there the
// calls, approvals and leases that belong to it.
func (r *reading) gather(ctx context.Context, s *story) error {
	have := map[string]bool{}
	add := func(f index.Filter) error {
		for e, err := range r.Entries(ctx, f, false) {
			if err != nil {
				return err
			}
			if id := e.ID(); !have[id] {
				have[id] = true
				s.Entries = append(s.Entries, e)
			}
			if len(s.Entries) > maxStory {
				return fmt.Errorf("%s %s has more than %d entries: use audit log", s.What, s.ID, maxStory)
			}
		}
		return nil
	}
	var first index.Filter
	only := []string{s.ID}
	switch s.What {
	case "call":
		first.Calls = only
	case "approval":
		first.Approvals = only
	case "session":
		first.Sessions = only
	case "holder":
		first.Holders = only
	case "lease":
		first.Leases = only
	}
	if err := add(first); err != nil {
		return err
	}
	if s.What == "approval" {
		if err := each(s.calls(), func(ids []string) error { return add(index.Filter{Calls: ids}) }); err != nil {
			return err
		}
	}
	if s.What != "lease" {
		if err := each(s.ids(func(e audit.Entry) string { return e.Approval }), func(ids []string) error { return add(index.Filter{Approvals: ids}) }); err != nil {
			return err
		}
		if err := each(s.ids(leaseID), func(ids []string) error {
			return add(index.Filter{Leases: escaped(ids), Kinds: []string{"credential"}})
		}); err != nil {
			return err
		}
	}
	slices.SortStableFunc(s.Entries, func(a, b index.Found) int {
		return cmp.Or(a.Entry.Time.Compare(b.Entry.Time), strings.Compare(a.Origin, b.Origin), cmp.Compare(a.Entry.Seq, b.Entry.Seq))
	})
	return nil
}

// escaped leaves out what would be taken for a pattern: no id has a *.
func escaped(ids []string) []string {
	return slices.DeleteFunc(ids, func(id string) bool { return strings.Contains(id, "*") })
}

// each calls f with a hundred ids at a time.
func each(ids []string, f func([]string) error) error {
	for part := range slices.Chunk(ids, 100) {
		if err := f(part); err != nil {
			return err
		}
	}
	return nil
}

// ids are the different values of an entry's member, in order.
func (s *story) ids(of func(audit.Entry) string) []string {
	var ids []string
	seen := map[string]bool{}
	for _, f := range s.Entries {
		if id := of(f.Entry); id != "" && !seen[id] {
			seen[id] = true
			ids = append(ids, id)
		}
	}
	return ids
}

func (s *story) calls() []string { return s.ids(func(e audit.Entry) string { return e.Call }) }

// leaseID is the lease that an entry names; until version 2 of the entries it
// stood behind the credential's name.
func leaseID(e audit.Entry) string {
	_, behind, _ := strings.Cut(e.Credential, " ")
	return cmp.Or(e.Lease, behind)
}

// toldCall is one call of a story, put together from its entries.
type toldCall struct {
	Call, Approval   string
	Asked, Ended     time.Time // Ended is zero: it has not, as far as the record goes
	Ask              audit.Entry
	End              audit.Entry // of kind "": none
	Decision, Status string
	Waited           time.Duration // for people
	Masked           int
}

// callsOf puts the calls of entries together, in the order in which they were
// asked.
func callsOf(entries iter.Seq[index.Found]) []*toldCall {
	var all []*toldCall
	byCall := map[string]*toldCall{}
	byApproval := map[string][2]time.Time{}
	for f := range entries {
		e := f.Entry
		if e.Kind == audit.KindApproval {
			at := byApproval[e.Approval]
			if at[0].IsZero() {
				at[0] = e.Time
			}
			switch e.Status {
			case approval.EventApproved, approval.EventDenied, approval.EventExpired, approval.EventWithdrawn:
				if at[1].IsZero() {
					at[1] = e.Time
				}
			}
			byApproval[e.Approval] = at
			continue
		}
		if e.Call == "" || strings.HasPrefix(e.Method, "server:") {
			continue
		}
		c := byCall[e.Call]
		switch e.Kind {
		case audit.KindIntent, audit.KindRefused, audit.KindOutcome, audit.KindRecovered:
			if c == nil {
				c = &toldCall{Call: e.Call, Asked: e.Time, Ask: e}
				byCall[e.Call] = c
				all = append(all, c)
			}
		}
		if c == nil {
			continue
		}
		c.Approval = cmp.Or(c.Approval, e.Approval)
		c.Decision = cmp.Or(c.Decision, e.Effect)
		switch e.Kind {
		case audit.KindRefused, audit.KindOutcome, audit.KindRecovered:
			c.End, c.Ended, c.Status = e, e.Time, cmp.Or(e.Status, string(e.Kind))
			for _, m := range e.Masked {
				c.Masked += m.Count
			}
			for _, t := range e.Timings {
				if t.Part == "wait" {
					c.Waited = time.Duration(t.Millis * float64(time.Millisecond))
				}
			}
		}
	}
	for _, c := range all {
		if at := byApproval[c.Approval]; c.Waited == 0 && !at[0].IsZero() && !at[1].IsZero() && at[1].After(at[0]) {
			c.Waited = at[1].Sub(at[0])
		}
	}
	return all
}

// found gives the entries one after the other.
func (s *story) found() iter.Seq[index.Found] { return slices.Values(s.Entries) }

// approvalIn reads the approval in the detail of an entry.
func approvalIn(e audit.Entry) (approval.Approval, bool) {
	var a approval.Approval
	if e.Kind != audit.KindApproval || json.Unmarshal(e.Detail, &a) != nil {
		return a, false
	}
	return a, true
}

// refusedID prints that an id names nothing, or too much: exit 1.
func refusedID(err error, print func(string)) error {
	var unknown *errUnknown
	if errors.As(err, &unknown) {
		print(unknown.said)
		return errFound
	}
	return err
}
