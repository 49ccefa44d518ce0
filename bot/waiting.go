package bot

import (
	"slices"
	"sync"
	"time"

	"countersign/enforcer/approval"
)

const (
	// crowd is how many requests of one set may come within rush and have a card
	// each at once. Those beyond stand in the set's list until somebody wants to
	// see their card.
	crowd = 10
	rush  = time.Minute
)

// waiting knows of every approval in the store as much as it takes to tell what
// stands in a list, and who is to be reminded. It is filled before the first card
// is looked at, and kept by the store's changes; it holds nothing that the store
// does not.
type waiting struct {
	mu  sync.Mutex
	all map[string]approval.Approval   // without what is long
	set map[string][]approval.Approval // by set, by time of asking
}

func (w *waiting) note(a approval.Approval) {
	a.Args, a.Trace, a.Does = "", nil, nil
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all == nil {
		w.all, w.set = map[string]approval.Approval{}, map[string][]approval.Approval{}
	}
	have, known := w.all[a.ID]
	if known && have.Rev > a.Rev {
		return
	}
	if known {
		w.drop(have)
	}
	w.all[a.ID] = a
	for _, set := range setsOf(a) {
		i, _ := slices.BinarySearchFunc(w.set[set], a, inTurn)
		w.set[set] = slices.Insert(w.set[set], i, a)
	}
}

// drop takes an approval out. The caller holds mu.
func (w *waiting) drop(a approval.Approval) {
	delete(w.all, a.ID)
	for _, set := range setsOf(a) {
		w.set[set] = slices.DeleteFunc(w.set[set], func(b approval.Approval) bool { return b.ID == a.ID })
	}
}

// forget takes out what ended before then.
func (w *waiting) forget(then time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range w.all {
		if a.State.Ended() && a.Ended.Before(then) && !a.NeedsReview() {
			w.drop(a)
		}
	}
}

// each calls f with everything that is known.
func (w *waiting) each(f func(approval.Approval)) {
	w.mu.Lock()
	all := make([]approval.Approval, 0, len(w.all))
	for _, a := range w.all {
		all = append(all, a)
	}
	w.mu.Unlock()
	for _, a := range all {
		f(a)
	}
}

// crowded tells whether so many of the set's requests came in the minute before
// this one that it gets no card of its own. It depends on when they came alone,
// not on what became of them: the answer is the same for every bot, at all times.
func (w *waiting) crowded(a approval.Approval, set string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return crowded(w.set[set], a)
}

func crowded(all []approval.Approval, a approval.Approval) bool {
	i, _ := slices.BinarySearchFunc(all, a, inTurn)
	return i >= crowd && a.Created.Sub(all[i-crowd].Created) < rush
}

// listed are the set's requests that stand in its list: all that were crowded
// out, in the order of asking.
func (w *waiting) listed(set string) []approval.Approval {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []approval.Approval
	for _, a := range w.set[set] {
		if crowded(w.set[set], a) {
			out = append(out, a)
		}
	}
	return out
}

func inTurn(a, b approval.Approval) int {
	if c := a.Created.Compare(b.Created); c != 0 {
		return c
	}
	switch {
	case a.ID < b.ID:
		return -1
	case a.ID > b.ID:
		return 1
	}
	return 0
}

// sortByExpiry puts first what expires first.
func sortByExpiry(all []approval.Approval) {
	slices.SortFunc(all, func(a, b approval.Approval) int {
		if c := a.Expires.Compare(b.Expires); c != 0 {
			return c
		}
		return inTurn(a, b)
	})
}

// setsOf are the approver sets that are asked, each once.
func setsOf(a approval.Approval) []string {
	var out []string
	for _, ask := range a.Asks {
		if !slices.Contains(out, ask.Approvers) {
			out = append(out, ask.Approvers)
		}
	}
	return out
}
