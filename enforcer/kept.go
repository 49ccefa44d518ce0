package enforcer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"countersign/enforcer/kv"
)

// keeper is what the enforcer keeps for callers who have left, in the
// key-value store: documents, and texts of any size beside them. Both are
// sealed, since they hold what callers asked and were answered, and each is
// bound to its place. A restart changes nothing of it.
type keeper struct {
	bucket *kv.Bucket // nil: nothing is kept
	sealer
}

var errKept = errors.New("what is kept in the store cannot be read")

// get reads a document, and gives its revision; kv.ErrNotFound if there is none.
func (k keeper) get(ctx context.Context, key string, doc any) (uint64, error) {
	sealed, rev, err := k.bucket.Get(ctx, key)
	if err != nil {
		return 0, err
	}
	plain, err := k.open(sealed, key)
	if err == nil {
		err = json.Unmarshal(plain, doc)
	}
	if err != nil {
		return rev, fmt.Errorf("%w: %s: %w", errKept, key, err)
	}
	return rev, nil
}

// put writes a document over revision rev of it, 0 if there must be none, and
// gives the new revision; kv.ErrConflict or kv.ErrExists if another was first.
func (k keeper) put(ctx context.Context, key string, doc any, rev uint64) (uint64, error) {
	plain, err := json.Marshal(doc)
	if err != nil {
		return 0, err
	}
	if rev == 0 {
		return k.bucket.Create(ctx, key, k.seal(plain, key))
	}
	return k.bucket.Update(ctx, key, k.seal(plain, key), rev)
}

// partBytes is how much of a text one entry holds: a NATS server takes 1 MB,
// unless it is told otherwise.
const partBytes = 512 << 10

func partKey(key, what string, n int) string { return fmt.Sprintf("%s.%s.%d", key, what, n) }

// putText writes a text beside a document, and gives the number of its parts.
func (k keeper) putText(ctx context.Context, key, what string, text []byte) (parts int, err error) {
	for ; len(text) > 0 || parts == 0; parts++ {
		n := min(len(text), partBytes)
		at := partKey(key, what, parts)
		sealed := k.seal(text[:n], at)
		if _, err = k.bucket.Create(ctx, at, sealed); errors.Is(err, kv.ErrExists) { // of a run that was cut off
			if err = k.bucket.Delete(ctx, at, 0); err == nil {
				_, err = k.bucket.Create(ctx, at, sealed)
			}
		}
		if err != nil {
			return parts, err
		}
		text = text[n:]
	}
	return parts, nil
}

func (k keeper) text(ctx context.Context, key, what string, parts int) ([]byte, error) {
	var all []byte
	for n := range parts {
		at := partKey(key, what, n)
		sealed, _, err := k.bucket.Get(ctx, at)
		if err != nil {
			return nil, err
		}
		plain, err := k.open(sealed, at)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", errKept, at, err)
		}
		all = append(all, plain...)
	}
	return all, nil
}

// forget removes a document at revision rev (0: at whatever it is) and its
// texts, each so many parts.
func (k keeper) forget(ctx context.Context, key string, rev uint64, texts map[string]int) error {
	if err := k.bucket.Delete(ctx, key, rev); err != nil {
		return err
	}
	var errs []error
	for what, parts := range texts {
		for n := range parts {
			errs = append(errs, k.bucket.Delete(ctx, partKey(key, what, n), 0))
		}
	}
	return errors.Join(errs...)
}
