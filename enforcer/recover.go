package enforcer

import (
	"encoding/json"
	"fmt"
	"iter"
	"slices"

	"countersign/audit"
	"countersign/enforcer/approval"
	"countersign/enforcer/freeze"
)

// Recovery is what the journals of earlier runs leave to be done: calls whose
// intent has no outcome, and the approvals as the record knows them.
type Recovery struct {
	Dangling  []audit.Entry       // intents that no outcome and no earlier recovery closed
	Approvals []approval.Approval // the newest recorded state of each, in the order asked
	// Unfinished are the calls on approvals which were not told what became of
	// them.
	Unfinished []Unfinished
	Standing   []freeze.Freeze // frozen and not unfrozen, in the order they were first seen
	Lifted     map[string]bool // unfrozen, by id
}

// Unfinished is a call that an approval was used for, and what the record knows
// of its outcome.
type Unfinished struct {
	Approval, Call, Outcome string

	// Here is whether these journals say themselves that the approval was used
	// for it, and not only that somebody's was: enforcers that share a store see
	// each other's calls on an approval.
	Here bool
}

// Recover reads the entries of earlier incarnations, oldest first.
//
// An approval that the record shows approved, and that an intent names, was
// spent: the intent is durable before the call is forwarded, so a call may
// have run on it. One that no intent names was not: nothing ran.
//
// Who is a pseudonym in the entries, and sealed beside it, is known by names.
func Recover(names Names, journals ...iter.Seq2[audit.Entry, error]) (Recovery, error) {
	open := map[string]audit.Entry{}
	var order, asked []string
	state := map[string]approval.Approval{}
	ran := map[string][]string{}    // intents, by approval
	used := map[string]bool{}       // calls that an approval was used for
	outcomes := map[string]string{} // of calls
	r := Recovery{Lifted: map[string]bool{}}
	for _, entries := range journals {
		for en, err := range entries {
			if err != nil {
				return Recovery{}, err
			}
			switch en.Kind {
			case audit.KindIntent:
				if _, ok := open[en.Call]; !ok && !serverSide(en) {
					open[en.Call] = en
					order = append(order, en.Call)
				}
				if en.Approval != "" {
					ran[en.Approval] = append(ran[en.Approval], en.Call)
				}
			case audit.KindOutcome, audit.KindRecovered:
				delete(open, en.Call)
				outcomes[en.Call] = en.Status
			case audit.KindApproval:
				var told RecordedApproval
				if err := json.Unmarshal(en.Detail, &told); err != nil {
					return Recovery{}, fmt.Errorf("entry %d: approval %s: %w", en.Seq, en.Approval, err)
				}
				a := names.reveal(told)
				if _, ok := state[a.ID]; !ok {
					asked = append(asked, a.ID)
				}
				state[a.ID] = a
				if en.Status == approval.EventSpent || en.Status == approval.EventUsed {
					used[en.Call] = true
				}
			case audit.KindFreeze:
				if err := r.frozen(names, en); err != nil {
					return Recovery{}, fmt.Errorf("entry %d: %w", en.Seq, err)
				}
			}
		}
	}
	for _, id := range order {
		if en, ok := open[id]; ok {
			r.Dangling = append(r.Dangling, en)
			delete(open, id)
		}
	}
	outcome := func(call string, ran bool) string {
		switch status, known := outcomes[call]; {
		case !ran:
			return audit.StatusNotRun
		case known && status != audit.StatusFrozen:
			return status
		}
		return audit.StatusUnknown
	}
	for _, id := range asked {
		a := state[id]
		calls := ran[id]
		if len(calls) > 0 && a.Until.IsZero() {
			a.State, a.SpentBy = approval.Spent, calls[len(calls)-1]
		}
		if a.State == approval.Spent && a.Outcome == "" {
			sent := slices.Contains(calls, a.SpentBy)
			r.Unfinished = append(r.Unfinished, Unfinished{id, a.SpentBy, outcome(a.SpentBy, sent), sent || used[a.SpentBy]})
		}
		for _, u := range a.Calls {
			if u.Outcome == "" {
				sent := slices.Contains(calls, u.Call)
				r.Unfinished = append(r.Unfinished, Unfinished{id, u.Call, outcome(u.Call, sent), sent || used[u.Call]})
			}
		}
		r.Approvals = append(r.Approvals, a)
	}
	return r, nil
}

// frozen takes up one entry about a freeze. The newest about it counts: one
// that could not be lifted in the store after it was recorded as lifted is
// recorded as standing again.
func (r *Recovery) frozen(names Names, en audit.Entry) error {
	if en.Status == audit.StatusRefused || en.Call == "" { // somebody may not; a document was discarded
		return nil
	}
	was := slices.IndexFunc(r.Standing, func(f freeze.Freeze) bool { return f.ID == en.Call })
	if r.Lifted[en.Call] = en.Status == audit.StatusUnfrozen; r.Lifted[en.Call] {
		if was >= 0 {
			r.Standing = slices.Delete(r.Standing, was, was+1)
		}
		return nil
	}
	var d struct {
		Freeze json.RawMessage `json:"freeze"`
		Sealed string          `json:"sealed"`
	}
	if err := json.Unmarshal(en.Detail, &d); err != nil {
		return fmt.Errorf("freeze %s: %w", en.Call, err)
	}
	f, err := freeze.Decode(d.Freeze)
	if err == nil && f.ID != en.Call {
		err = fmt.Errorf("its detail is about %s", f.ID)
	}
	if err != nil {
		return fmt.Errorf("freeze %s: %w", en.Call, err)
	}
	if was < 0 {
		r.Standing = append(r.Standing, names.thaw(f, d.Sealed))
	}
	return nil
}

// serverSide marks the intent of something that an upstream asked of a client:
// it has no outcome of its own.
func serverSide(en audit.Entry) bool { return len(en.Method) > 7 && en.Method[:7] == "server:" }

// Closing is the entry that closes a dangling intent: it may have run, and is
// never run again.
func Closing(intent audit.Entry) audit.Entry {
	return audit.Entry{
		Kind: audit.KindRecovered, Call: intent.Call, Policy: intent.Policy, Issuer: intent.Issuer, Sub: intent.Sub,
		Client: intent.Client, Server: intent.Server, Method: intent.Method, Tool: intent.Tool, Approval: intent.Approval,
		Holder: intent.Holder, Session: intent.Session, Credential: intent.Credential, Lease: intent.Lease, Status: audit.StatusUnknown,
		Reason: "the enforcer stopped before the outcome was recorded: the call may have run, and is not run again",
	}
}
