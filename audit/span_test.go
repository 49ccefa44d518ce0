package audit

import (
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// A span proves, from each size to each later one, in whatever pieces it grew,
// and holds few hashes.
func TestSpans(t *testing.T) {
	var leaves []tlog.Hash
	for h := range leavesFrom(0, 80) {
		leaves = append(leaves, h)
	}
	for old := uint64(1); old < 80; old++ {
		base := edgeOf(old)
		s := newSpan(base)
		for size := old; size < 80; size++ {
			proof, err := s.prove(size, leaves[size:])
			if err == nil {
				whole := edgeOf(80)
				err = tlog.CheckTree(proof, 80, whole.root(), int64(old), base.root())
			}
			if err != nil {
				t.Fatalf("from %d, grown to %d: %v", old, size, err)
			}
			if !s.grow(size-size%3%(size-old+1), leaves[size-size%3%(size-old+1):size+1]) {
				t.Fatalf("from %d: it does not grow to %d", old, size+1)
			}
		}
		if len(s.nodes) > 16 {
			t.Errorf("from %d: %d hashes", old, len(s.nodes))
		}
	}
	s := newSpan(edgeOf(5))
	if s.grow(6, leaves[6:8]) || s.grow(2, leaves[2:4]) {
		t.Error("it grew over a gap")
	}
	if _, err := s.prove(7, leaves[7:9]); err == nil {
		t.Error("a proof over a gap")
	}
}
