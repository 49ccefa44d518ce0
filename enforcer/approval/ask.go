package approval

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"countersign/enforcer/kv"
	"countersign/rules"
)

const (
	documents = "a."
	pointers  = "live."
	windows   = "win."
)

// maxRenewals is how many renewals an approval remembers.
const maxRenewals = 20

// pointer is the key under which identical requests meet.
func (r Request) pointer() string {
	return pointers + hex.EncodeToString(hashed(r.Subject.Issuer, r.Subject.Sub, r.Client, r.Holder, r.Server, r.Method, r.Tool, r.Resource, r.Digest))
}

// window is the key under which requests meet that one window covers; "" where
// only identical ones do.
//
// A window on a server is no wider than the rules that asked: what another rule
// asks about, or the same with another credential, has another digest.
func (r Request) window() string {
	parts := []string{"window", r.Grant.Scope, r.Subject.Issuer, r.Subject.Sub, r.Client, r.Holder, r.Server, r.RulesDigest}
	switch {
	case r.Grant.For == 0 || r.Grant.Scope == rules.ScopeExact:
		return ""
	case r.Grant.Scope == rules.ScopeTool:
		parts = append(parts, r.Method, r.Tool, r.Resource)
	}
	return windows + hex.EncodeToString(hashed(parts...))
}

// covers tells whether the call may run on the approval: nil, or why not.
func (a Approval) covers(r Request) error {
	same := a.Subject.Issuer == r.Subject.Issuer && a.Subject.Sub == r.Subject.Sub && a.Client == r.Client && a.Holder == r.Holder && a.Server == r.Server
	scope := rules.ScopeExact
	if !a.Until.IsZero() {
		scope = a.Grant.Scope
	}
	switch scope {
	case rules.ScopeServer:
	case rules.ScopeTool:
		same = same && a.Method == r.Method && a.Tool == r.Tool && a.Resource == r.Resource
	default:
		same = same && a.Digest == r.Digest
	}
	switch {
	case !same:
		return ErrOtherCall
	case a.RulesDigest != r.RulesDigest:
		return ErrStale
	}
	return nil
}

func (r Request) complete(now time.Time) error {
	missing := func(what string) error { return fmt.Errorf("%w: %s", ErrRequest, what) }
	for what, value := range map[string]string{"issuer": r.Subject.Issuer, "sub": r.Subject.Sub, "server": r.Server, "method": r.Method,
		"holder": r.Holder, "digest": r.Digest, "rules digest": r.RulesDigest, "policy commit": r.Policy, "call": r.Call} {
		if value == "" {
			return missing("no " + what)
		}
	}
	if len(r.Asks) == 0 {
		return missing("no rule asks")
	}
	for _, ask := range r.Asks {
		if ask.Approvers == "" || ask.Quorum < 1 {
			return missing(fmt.Sprintf("rule %s names no approvers, or nobody of them", ask.Rule))
		}
	}
	if r.Grant.For < 0 || r.Grant.For > 0 && !slices.Contains([]string{rules.ScopeExact, rules.ScopeTool, rules.ScopeServer}, r.Grant.Scope) {
		return missing("its window has no scope")
	}
	if !r.Expires.After(now) {
		return missing("it has expired before it was asked")
	}
	return nil
}

// live tells whether an identical retry attaches to the approval.
func (a Approval) live(now time.Time) bool {
	return !a.State.Ended() && now.Before(a.Ends())
}

// Ask finds the approval that covers this request, or makes a new one. Of any
// number that ask the same at once, one makes it and the others attach. What
// covers it is:
//
//   - a window in force, if the same rules granted it to the same holder and the
//     request is within its scope: it is returned, approved;
//   - the live approval for exactly this request. Where the rules have changed
//     since it was asked for, it is renewed in place: see Renewal. It keeps its
//     id, and its time, unless no vote stood; then it has the request's. A window
//     does not survive such a change: it ends as revoked, and the request is asked
//     anew.
//
// The caller is back with that, if it was gone: see Left.
//
// The new approval's first document goes to the pointer first, by
// compare-and-swap, and then to its own key: whoever finds a pointer whose
// document is missing, since its maker was cut off, completes it.
func (b *Book) Ask(ctx context.Context, r Request) (a Approval, created bool, err error) {
	r.Subject = rules.Subject{Issuer: r.Subject.Issuer, Sub: r.Subject.Sub, Email: r.Subject.Email}
	if len(r.Args) > maxShown {
		r.Args, r.Cut = strings.ToValidUTF8(r.Args[:maxShown], ""), true
	}
	r.Partial = r.Partial || r.Cut
	for size, i := 0, 0; i < len(r.Does); i++ {
		if size += len(r.Does[i]); size > maxDoes {
			r.Does = append(slices.Clip(r.Does[:i]), "and more, which is not listed")
		}
	}
	if err := r.complete(b.Now()); err != nil {
		return Approval{}, false, err
	}
	if a, covered, err := b.covering(ctx, r); covered || err != nil {
		return a, false, err
	}
	key := r.pointer()
	for {
		raw, rev, err := b.Bucket.Get(ctx, key)
		if err != nil && !errors.Is(err, kv.ErrNotFound) {
			return Approval{}, false, err
		}
		if err == nil {
			first, err := decode(raw, 0)
			if err != nil {
				return Approval{}, false, err
			}
			a, found, err := b.attach(ctx, first, r)
			if found || err != nil {
				return a, false, err
			}
		}
		now := b.Now().UTC()
		a := Approval{ID: b.ID(), Request: r, State: Pending, Created: now}
		if !idForm.MatchString(a.ID) {
			return Approval{}, false, fmt.Errorf("%w: id %q", ErrRequest, a.ID)
		}
		if rev == 0 {
			_, err = b.Bucket.Create(ctx, key, encode(a))
		} else {
			_, err = b.Bucket.Update(ctx, key, encode(a), rev)
		}
		if errors.Is(err, kv.ErrExists) || errors.Is(err, kv.ErrConflict) {
			continue // another was first: attach to theirs
		}
		if err != nil {
			return Approval{}, false, err
		}
		a, err = b.begin(ctx, a)
		return a, err == nil, err
	}
}

// attach returns the approval that first began, if it is live, as it stands for
// a request under perhaps another policy.
func (b *Book) attach(ctx context.Context, first Approval, r Request) (a Approval, live bool, err error) {
	now := b.Now()
	a, err = b.Get(ctx, first.ID)
	switch {
	case errors.Is(err, ErrUnknown) && first.live(now):
		if a, err = b.begin(ctx, first); err != nil {
			return a, false, err
		}
	case errors.Is(err, ErrUnknown):
		return a, false, nil
	case err != nil:
		return a, false, err
	case a.State.Ended():
		return a, false, nil
	case !a.live(now):
		_, err = b.expire(ctx, a.ID)
		return a, false, err
	}
	if a.Policy == r.Policy && a.RulesDigest == r.RulesDigest && a.Gone.IsZero() && (r.Cut || !a.Cut) {
		return a, true, nil
	}
	a, err = b.change(ctx, a.ID, func(a *Approval) (string, error) { return a.renew(b.Now().UTC(), r), nil })
	if errors.Is(err, ErrUnrecorded) {
		return a, false, b.void(ctx, a.ID, err)
	}
	return a, err == nil && !a.State.Ended(), err
}

// renew has the approval asked for again by r, and returns the event.
//
// With the same digest of the rules, it takes the new commit: what the rules ask
// has not changed, and votes are checked under the policy in force. With another
// one, the votes of a set stand if each rule that now asks it asked it before and
// has the same digest of its own; and then nothing wider is granted than before.
func (a *Approval) renew(now time.Time, r Request) (event string) {
	if a.State.Ended() {
		return ""
	}
	if !a.Gone.IsZero() {
		a.Gone, event = time.Time{}, EventBack
	}
	if a.Cut && !r.Cut && a.State == Pending && a.Digest == r.Digest {
		// The journal keeps less of a long request than the store; after a restart
		// the caller brings the rest again.
		a.Args, a.Partial, a.Cut, event = r.Args, r.Partial, false, EventAsked
	}
	switch {
	case a.RulesDigest == r.RulesDigest && (a.Policy == r.Policy || a.State != Pending):
		return event
	case a.RulesDigest == r.RulesDigest:
		a.Policy, a.Asks, a.Trace = r.Policy, r.Asks, r.Trace
		return EventAsked
	case !a.Until.IsZero():
		return a.outdate(now)
	}
	done := Renewal{At: now, Policy: r.Policy}
	var votes []Vote
	for _, v := range a.Votes {
		var kept, dropped []string
		for _, set := range v.Sets {
			switch stands(set, v.BreakGlass, a.Asks, r.Asks) {
			case unchanged:
				kept = append(kept, set)
			case changed:
				dropped = append(dropped, set)
			}
		}
		if len(dropped) > 0 || len(kept) == 0 {
			kept, dropped = nil, v.Sets
		}
		done.Kept, done.Dropped = append(done.Kept, kept...), append(done.Dropped, dropped...)
		if v.Sets = kept; len(kept) > 0 {
			votes = append(votes, v)
		}
	}
	slices.Sort(done.Kept)
	slices.Sort(done.Dropped)
	done.Kept, done.Dropped = slices.Compact(done.Kept), slices.Compact(done.Dropped)
	a.Renewals = append(a.Renewals, done)
	a.Renewals = a.Renewals[max(0, len(a.Renewals)-maxRenewals):]
	if len(votes) == 0 || r.Expires.Before(a.Expires) {
		a.Expires = r.Expires
	}
	grant := r.Grant
	if len(votes) > 0 { // of whom nobody was shown more than this
		grant = a.Grant.Narrowest(grant)
	}
	a.Votes, a.State = votes, Pending
	a.Policy, a.Asks, a.Trace, a.RulesDigest, a.Grant = r.Policy, r.Asks, r.Trace, r.RulesDigest, grant
	a.Args, a.Partial, a.Cut, a.Does, a.Reminded = r.Args, r.Partial, r.Cut, r.Does, time.Time{}
	if quorate(a.Asks, a.Votes) {
		a.approve(now, a.Grant.For)
	}
	return EventRenewed
}

// What became of a set's asks.
const (
	unchanged = iota
	changed
	gone // nobody asks it any more
)

// stands compares what asked the set with what asks it now.
func stands(set string, glass bool, before, now []rules.Ask) int {
	asked := false
	for _, ask := range now {
		if !glass && ask.Approvers != set || glass && ask.BreakGlass != set {
			continue
		}
		asked = true
		if ask.Digest == "" || !slices.ContainsFunc(before, func(b rules.Ask) bool {
			return b.Rule == ask.Rule && b.Approvers == ask.Approvers && b.Digest == ask.Digest
		}) {
			return changed
		}
	}
	if !asked {
		return gone
	}
	return unchanged
}

// covering finds a window in force that covers the request.
func (b *Book) covering(ctx context.Context, r Request) (Approval, bool, error) {
	key := r.window()
	if key == "" {
		return Approval{}, false, nil
	}
	raw, _, err := b.Bucket.Get(ctx, key)
	if errors.Is(err, kv.ErrNotFound) {
		return Approval{}, false, nil
	}
	if err != nil {
		return Approval{}, false, err
	}
	a, err := b.Get(ctx, string(raw))
	if errors.Is(err, ErrUnknown) {
		return Approval{}, false, nil
	}
	return a, err == nil && a.Window(b.Now()) && a.covers(r) == nil, err
}

// point has the window found by what it covers. The pointer permits nothing:
// what it points to is checked when it is used, so that a lost one costs a
// question; Expire writes it again.
func (b *Book) point(ctx context.Context, a Approval) {
	key := a.window()
	if key == "" || !a.Window(b.Now()) {
		return
	}
	raw, rev, err := b.Bucket.Get(ctx, key)
	switch {
	case errors.Is(err, kv.ErrNotFound):
		_, err = b.Bucket.Create(ctx, key, []byte(a.ID))
	case err != nil || string(raw) == a.ID:
	default:
		// Another window covers the same: the one that is open for longer.
		if other, oerr := b.Get(ctx, string(raw)); oerr == nil && other.Window(b.Now()) && other.window() == key && !other.Until.Before(a.Until) {
			return
		}
		_, err = b.Bucket.Update(ctx, key, []byte(a.ID), rev)
	}
	if err != nil && !errors.Is(err, kv.ErrConflict) && !errors.Is(err, kv.ErrExists) {
		b.Log.WarnContext(ctx, "approvals: a window cannot be found yet by what it covers", "approval", a.ID, "error", err)
	}
}

// begin writes a new approval's own document, and records it.
func (b *Book) begin(ctx context.Context, a Approval) (Approval, error) {
	defer b.inOrder(a.ID)()
	rev, err := b.Bucket.Create(ctx, documents+a.ID, encode(a))
	if errors.Is(err, kv.ErrExists) {
		return b.Get(ctx, a.ID) // completed, and recorded, by another
	}
	if err != nil {
		return Approval{}, err
	}
	a.Rev = rev
	if err := b.Record(ctx, a, EventAsked); err != nil {
		return a, b.withdrawUnrecorded(ctx, a.ID, err)
	}
	return a, nil
}
