package kv

import (
	"context"
	"encoding/hex"
	"errors"
	"testing"
)

// A write whose answer is lost has happened, has not, or lost to another: its
// maker is told which.
func TestWriteWithoutAnAnswer(t *testing.T) {
	s, err := OpenEmbedded(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	b, err := s.Bucket(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	for name, lost := range map[string]error{"late": context.DeadlineExceeded, "the caller left": context.Canceled} {
		for _, c := range []struct {
			name    string
			meant   func(key string, rev uint64) // what happens in the place of an answer
			holds   string
			refused error
		}{
			{"it happened", func(key string, rev uint64) { put(t, b, key, "mine", rev) }, "mine", nil},
			{"it did not", func(string, uint64) {}, "mine", nil},
			{"another was faster", func(key string, rev uint64) { put(t, b, key, "theirs", rev) }, "theirs", ErrConflict},
		} {
			t.Run(name+"/"+c.name, func(t *testing.T) {
				key := hex.EncodeToString([]byte(t.Name()))
				first := put(t, b, key, "before", 0)
				ctx, leave := context.WithCancel(t.Context())
				defer leave()
				tries := 0
				rev, err := b.settled(ctx, key, []byte("mine"), func(ctx context.Context) (uint64, error) {
					if tries++; tries == 1 {
						c.meant(key, first)
						leave()
						return 0, lost
					}
					rev, err := b.kv.Update(ctx, key, []byte("mine"), first)
					if err != nil {
						return 0, b.failed("update", key, err)
					}
					return rev, nil
				})
				held, at, gerr := b.Get(t.Context(), key)
				if !errors.Is(err, c.refused) || (c.refused == nil) != (err == nil) || gerr != nil || string(held) != c.holds || err == nil && rev != at {
					t.Errorf("%d, %v; the key holds %q at %d, %v", rev, err, held, at, gerr)
				}
			})
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Create(gone, "never", []byte("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("for a caller who had left: %v", err)
	}
	if _, _, err := b.Get(t.Context(), "never"); !errors.Is(err, ErrNotFound) {
		t.Errorf("it was written: %v", err)
	}
}

func put(t *testing.T, b *Bucket, key, value string, rev uint64) (next uint64) {
	t.Helper()
	var err error
	if rev == 0 {
		next, err = b.Create(t.Context(), key, []byte(value))
	} else {
		next, err = b.Update(t.Context(), key, []byte(value), rev)
	}
	if err != nil {
		t.Fatal(err)
	}
	return next
}
