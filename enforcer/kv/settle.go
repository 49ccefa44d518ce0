package kv

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
)

// settleLimit bounds how long a write whose answer did not come is looked after.
const settleLimit = 10 * time.Second

// settled makes a conditional write, and finds out what became of it when its
// answer does not come in time, or the caller leaves meanwhile: it may have
// happened, or happen still. A change that is in the store, and that its maker
// believes failed, is in no record.
//
// It is written again, with the same condition, until the store says yes or no.
// The store takes the writes of one connection in their order, so a no means that
// the first one happened, if the key holds what it wrote, or that somebody else
// was faster. (Or faster after it: who reads the key then finds both.)
func (b *Bucket) settled(ctx context.Context, key string, value []byte, write func(context.Context) (uint64, error)) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, b.failed("write", key, err)
	}
	rev, err := write(ctx)
	if !unanswered(err) {
		return rev, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleLimit)
	defer cancel()
	for unanswered(err) && ctx.Err() == nil {
		rev, err = write(ctx)
	}
	if errors.Is(err, ErrConflict) || errors.Is(err, ErrExists) {
		held, at, gerr := b.Get(ctx, key)
		switch {
		case gerr == nil && bytes.Equal(held, value):
			return at, nil
		case gerr != nil && !errors.Is(gerr, ErrNotFound):
			return 0, errors.Join(err, gerr)
		}
	}
	return rev, err
}

// unanswered tells whether a write may have happened all the same.
func unanswered(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || errors.Is(err, nats.ErrTimeout)
}
