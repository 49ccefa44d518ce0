package approval

import (
	"context"
	"fmt"
	"strings"
	"time"

	"countersign/enforcer/kv"
)

// rewatch is the pause before a broken watch is opened again; meanwhile a
// waiter looks for itself as often.
const rewatch = time.Second

// Wait returns the approval as soon as it is no longer pending: decided by
// whatever process, or expired. It gives up with ctx.
//
// A change made through this Book wakes at once; one made elsewhere, as soon
// as the store tells of it. What Wait returns may be an instant ahead of the
// record: only Spend permits anything.
func (b *Book) Wait(ctx context.Context, id string) (Approval, error) {
	woken := make(chan struct{}, 1)
	b.enter(id, woken)
	defer b.leave(id, woken)
	for {
		a, err := b.Get(ctx, id)
		if err != nil || a.State != Pending {
			return a, err
		}
		left := a.Expires.Sub(b.Now())
		if left <= 0 {
			if a, err = b.expire(ctx, id); err != nil || a.State != Pending {
				return a, err
			}
			continue
		}
		t := time.NewTimer(left)
		select {
		case <-woken:
			t.Stop()
		case <-t.C:
			// With a clock that is not the wall's, expiry comes by Expire.
			if b.Now().Before(a.Expires) {
				select {
				case <-woken:
				case <-ctx.Done():
				}
			}
		case <-ctx.Done():
			t.Stop()
		}
		if err := ctx.Err(); err != nil {
			return a, fmt.Errorf("approval %s is still pending: %w", id, err)
		}
	}
}

// enter adds a waiter. One watch of the store serves all of them.
func (b *Book) enter(id string, woken chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.waiters) == 0 {
		var ctx context.Context
		ctx, b.unwatch = context.WithCancel(context.Background())
		go b.follow(ctx, func(u kv.Update) { b.wake(strings.TrimPrefix(u.Key, documents)) })
	}
	if b.waiters[id] == nil {
		b.waiters[id] = map[chan struct{}]bool{}
	}
	b.waiters[id][woken] = true
}

func (b *Book) leave(id string, woken chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.waiters[id], woken)
	if len(b.waiters[id]) == 0 {
		delete(b.waiters, id)
	}
	if len(b.waiters) == 0 {
		b.unwatch()
	}
}

// wake has everyone who waits for the approval look at it.
func (b *Book) wake(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for woken := range b.waiters[id] {
		select {
		case woken <- struct{}{}:
		default: // will look anyway
		}
	}
}

func (b *Book) wakeAll() {
	b.mu.Lock()
	ids := make([]string, 0, len(b.waiters))
	for id := range b.waiters {
		ids = append(ids, id)
	}
	b.mu.Unlock()
	for _, id := range ids {
		b.wake(id)
	}
}

// follow calls f with each approval's newest state and then each change, until
// ctx ends. A watch that breaks is opened again, and tells everything anew.
func (b *Book) follow(ctx context.Context, f func(kv.Update)) {
	for {
		updates, err := b.Bucket.Watch(ctx, documents)
		if err == nil {
			for u := range updates {
				f(u)
			}
		}
		if ctx.Err() != nil {
			return
		}
		b.Log.WarnContext(ctx, "approvals: the store's watch broke; opening it again", "error", err)
		b.wakeAll()
		select {
		case <-time.After(rewatch):
		case <-ctx.Done():
			return
		}
	}
}

// Watch delivers every approval in the store, then each one that changes, until
// ctx ends. Of several quick changes to one only the last is sure to come.
func (b *Book) Watch(ctx context.Context) (<-chan Approval, error) {
	// Asked once here, so that a store that cannot be watched is an error.
	if _, err := b.Bucket.Keys(ctx, documents); err != nil {
		return nil, err
	}
	out := make(chan Approval)
	go func() {
		defer close(out)
		b.follow(ctx, func(u kv.Update) {
			if u.Deleted {
				return
			}
			a, err := decode(u.Value, u.Rev)
			if err != nil {
				b.Log.ErrorContext(ctx, "approvals: unreadable document in the store", "key", u.Key, "error", err)
				return
			}
			select {
			case out <- a:
			case <-ctx.Done():
			}
		})
	}()
	return out, nil
}
