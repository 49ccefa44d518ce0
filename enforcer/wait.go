package enforcer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"countersign/enforcer/approval"
)

// keepAlive is how often a waiting caller hears from us: well below every
// client's idle limit that is known.
const keepAlive = 10 * time.Second

// Why a wait ends before the approval is decided.
var (
	errCancelled = errors.New("cancelled by the client")
	errStopping  = errors.New("the enforcer is stopping")
	errPolicy    = errors.New("the policy has changed")
)

// wait holds the caller until the approval is decided, the hold is over, the
// caller leaves, the enforcer stops, or the policy changes (errPolicy).
//
// Who leaves has nothing run, even if the approval is granted at that moment;
// but the approval stays. Clients give up by themselves, and say so with
// notifications/cancelled: their retry must not need a second one.
func (x *exchange) wait(ctx context.Context, a approval.Approval, hold <-chan time.Time) (approval.Approval, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer x.e.waiting.hold(x, func() { cancel(errCancelled) })()
	stopped := context.AfterFunc(x.e.lifetime, func() { cancel(errStopping) })
	defer stopped()
	changed := x.e.turns.next()
	if x.e.force.Load() != x.force { // before anybody could tell
		return a, errPolicy
	}

	type result struct {
		a   approval.Approval
		err error
	}
	decided := make(chan result, 1)
	go func() {
		a, err := x.e.Approvals.Wait(ctx, a.ID)
		decided <- result{a, err}
	}()
	leave := x.e.attending.enter(a.ID)
	defer leave()
	tick, look := time.NewTicker(keepAlive), time.NewTicker(250*time.Millisecond)
	defer tick.Stop()
	defer look.Stop()
	x.out.open("waiting for approval " + a.ID + ": " + x.e.page(a.ID))
	for n := 1; ; {
		select {
		case r := <-decided:
			switch cause := context.Cause(ctx); { // even if it was granted at the same moment: nobody waits for it any more
			case errors.Is(cause, errStopping):
				return a, refuse(kindPending, "the enforcer is restarting; approval %s stays: repeat the identical call", a.ID)
			case ctx.Err() != nil:
				return a, refuse(kindCancelled, "cancelled by the client while waiting for approval; nothing ran")
			case r.err != nil:
				return a, refuse(kindUnavailable, "the approval's state cannot be read: %w", r.err)
			}
			return r.a, nil
		case <-changed:
			return a, errPolicy
		case <-hold:
			leave()
			answer := x.again(a)
			if answer.result == nil { // with a ticket it is back in a moment
				x.left(a.ID)
			}
			return a, answer
		case <-look.C:
			if err := x.cardError(a.ID); err != nil {
				return a, refuse(kindUnavailable, "approval %s is needed, but nobody could be asked: %w", a.ID, err)
			}
		case <-tick.C:
			x.out.progress(x.msg.ProgressToken, float64(n)/1e6, "waiting for approval by "+approvers(a))
			n++
		}
	}
}

// left notes that nobody waits for the approval, and that the caller has not
// heard how it ends: its next identical call is told.
func (x *exchange) left(id string) {
	if x.task != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(x.r.Context()), storeLimit)
	defer cancel()
	if x.e.attending.of(id) == 0 {
		if err := x.e.Approvals.Left(ctx, id); err != nil {
			x.e.Log.Warn("that a caller has left is not on its approval", "approval", id, "err", err)
		}
	}
	if err := x.e.owe(ctx, x.owedKey(), owed{Approval: id, At: x.e.Now()}); err != nil {
		x.e.Log.Warn("a caller who left will not be told how its approval ends", "approval", id, "err", err)
	}
}

// pending is what a caller is told whose hold is over.
func (x *exchange) pending(a approval.Approval) *refusal {
	r := refuse(kindPending, "approval pending: %s has been asked (approval %s, until %s). A person decides at %s, or where the approvers were asked. Repeat the identical call to continue; it runs at most once",
		approvers(a), a.ID, a.Expires.UTC().Format("15:04 MST"), x.e.page(a.ID))
	r.data = map[string]any{"url": x.e.page(a.ID), "expires": a.Expires.UTC().Format(time.RFC3339)}
	return r
}

func (x *exchange) cardError(id string) error {
	if x.e.CardError == nil {
		return nil
	}
	return x.e.CardError(id)
}

func approvers(a approval.Approval) string {
	var sets []string
	for _, ask := range a.Asks {
		sets = append(sets, ask.Approvers)
	}
	return strings.Join(sets, " and ")
}

// verdict is what the agent is told of an approval that was not granted.
func verdict(a approval.Approval) string {
	switch a.State {
	case approval.Denied:
		who := "an approver"
		for _, v := range a.Votes {
			if !v.Approve {
				who = v.Who()
			}
		}
		return fmt.Sprintf("%s denied this call: %q", who, a.Reason)
	case approval.Expired:
		return "nobody approved this call in time: ask the approvers, then repeat it"
	case approval.Withdrawn:
		return "the request for approval was withdrawn: " + a.Reason
	case approval.Revoked:
		return fmt.Sprintf("the approval was revoked: %q", a.Reason)
	default:
		return "the approval has been used already: repeat the call to ask again"
	}
}

// attending counts the callers that wait here, by approval.
type attending struct {
	mu sync.Mutex
	m  map[string]int
}

// enter counts one in, until leave is called for the first time.
func (t *attending) enter(id string) (leave func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m == nil {
		t.m = map[string]int{}
	}
	t.m[id]++
	return sync.OnceFunc(func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.m[id]--; t.m[id] == 0 {
			delete(t.m, id)
		}
	})
}

func (t *attending) of(id string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.m[id]
}

// turns tell whoever waits that the policy has changed.
type turns struct {
	mu sync.Mutex
	ch chan struct{}
}

// next is closed at the next change.
func (t *turns) next() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ch == nil {
		t.ch = make(chan struct{})
	}
	return t.ch
}

func (t *turns) turn() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ch != nil {
		close(t.ch)
	}
	t.ch = nil
}
