package main

import (
	"context"
	"errors"
	"fmt"

	"countersign/enforcer/kv"
)

// sharedKey is the digest key of all enforcers that share approvals over NATS:
// the one that the first of them proposed. A request has the same digest with
// each of them, or its approval could be asked for, and spent, once with each.
// Who can read the key there reads the approvals themselves.
func (a *approvals) sharedKey(ctx context.Context, mine []byte) ([]byte, error) {
	const name = "digest.key"
	bucket, err := a.store.Bucket(ctx, "enforcers")
	if err != nil {
		return nil, err
	}
	if _, err := bucket.Create(ctx, name, mine); err != nil && !errors.Is(err, kv.ErrExists) {
		return nil, err
	}
	key, _, err := bucket.Get(ctx, name)
	if err == nil && len(key) < 32 {
		err = fmt.Errorf("the key %s of the NATS bucket enforcers is damaged: delete it, and restart every enforcer", name)
	}
	return key, err
}
