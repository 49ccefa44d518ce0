package audit

import (
	"fmt"
	"iter"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// leavesFrom yields the hashes of numbered records.
func leavesFrom(from, to uint64) iter.Seq2[tlog.Hash, error] {
	return func(yield func(tlog.Hash, error) bool) {
		for i := from; i < to; i++ {
			if !yield(tlog.RecordHash(fmt.Appendf(nil, "%d", i)), nil) {
				return
			}
		}
	}
}

func edgeOf(n uint64) (e edge) {
	for h := range leavesFrom(0, n) {
		e.add(h)
	}
	return e
}

// Every proof between two sizes up to 40, from every edge that may serve, is
// what golang.org/x/mod checks.
func TestConsistencyProofs(t *testing.T) {
	edges := make([]edge, 41)
	for n := range edges {
		edges[n] = edgeOf(uint64(n))
	}
	for size := uint64(1); size < 41; size++ {
		for old := uint64(1); old <= size; old++ {
			for base := uint64(0); base <= old; base++ {
				proof, err := proveConsistency(old, size, edges[base], leavesFrom(base, size))
				if err != nil {
					t.Fatalf("from %d to %d, edge %d: %v", old, size, base, err)
				}
				if err := tlog.CheckTree(proof, int64(size), edges[size].root(), int64(old), edges[old].root()); err != nil {
					t.Fatalf("from %d to %d, edge %d: %v", old, size, base, err)
				}
			}
		}
	}
	if proof, err := proveConsistency(0, 5, edge{}, leavesFrom(0, 5)); err != nil || len(proof) != 0 {
		t.Errorf("from nothing: %v, %v", proof, err)
	}
	for _, bad := range []struct{ old, size, base uint64 }{{6, 5, 0}, {3, 5, 4}} {
		if _, err := proveConsistency(bad.old, bad.size, edges[bad.base], leavesFrom(bad.base, bad.size)); err == nil {
			t.Errorf("%+v: a proof", bad)
		}
	}
	if _, err := proveConsistency(3, 9, edge{}, leavesFrom(0, 7)); err == nil {
		t.Error("a proof though leaf hashes are missing")
	}
}

func TestEntryProofs(t *testing.T) {
	for size := uint64(1); size < 40; size++ {
		root := edgeOf(size)
		for index := range size {
			leaf := tlog.RecordHash(fmt.Appendf(nil, "%d", index))
			for base := uint64(0); base <= index; base++ {
				proof, err := proveEntry(index, size, edgeOf(base), leavesFrom(base, size))
				if err == nil {
					err = tlog.CheckRecord(proof, int64(size), root.root(), int64(index), leaf)
				}
				if err != nil {
					t.Fatalf("entry %d of %d, edge %d: %v", index, size, base, err)
				}
			}
		}
	}
	if _, err := proveEntry(5, 5, edge{}, leavesFrom(0, 5)); err == nil {
		t.Error("a proof of an entry that is not there")
	}
}
