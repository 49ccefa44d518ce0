package audit

import (
	"cmp"
	"fmt"
	"iter"
	"math/bits"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// subtrees answers tlog's questions for the hashes of subtrees, in one pass:
// from an edge, and the leaf hashes that follow it. What lies wholly before the
// edge is known only if it is part of it. That is enough for every consistency
// proof from a size that is not smaller (RFC 6962 §2.1.2): such a proof has
// subtrees of the old tree's edge, which are in every smaller edge too, or
// begin after it; and subtrees of new leaves.
func subtrees(base edge, leaves iter.Seq2[tlog.Hash, error]) tlog.HashReaderFunc {
	return func(indexes []int64) ([]tlog.Hash, error) {
		var want []*subtree
		for i, index := range indexes {
			level, n := tlog.SplitStoredHashIndex(index)
			s := &subtree{i: i, from: uint64(n) << level, to: uint64(n+1) << level}
			s.take(base)
			want = append(want, s)
		}
		hashes := make([]tlog.Hash, len(indexes))
		slices.SortFunc(want, func(a, b *subtree) int { return cmp.Compare(a.from, b.from) })
		done := func(at uint64) error {
			for len(want) > 0 && want[0].to <= at {
				s := want[0]
				if len(s.hashes) != 1 || s.from+s.size != s.to {
					return fmt.Errorf("audit: entries %d to %d are not known one by one: the tree before entry %d is known by its edge only", s.from, s.to-1, base.size)
				}
				hashes[s.i], want = s.hashes[0], want[1:]
			}
			return nil
		}
		at := base.size
		if err := done(at); err != nil || len(want) == 0 {
			return hashes, err
		}
		for leaf, err := range leaves {
			if err != nil {
				return nil, err
			}
			if want[0].from <= at {
				want[0].add(leaf)
			}
			at++
			if err := done(at); err != nil || len(want) == 0 {
				return hashes, err
			}
		}
		return nil, fmt.Errorf("audit: leaf hashes end at entry %d", at)
	}
}

// subtree is a perfect one, of the leaves [from, to), while it grows.
type subtree struct {
	edge
	i        int // of the question
	from, to uint64
}

// take begins with what an edge holds of it.
func (s *subtree) take(base edge) {
	at := uint64(0)
	for i, h := range base.hashes {
		rest := base.size - at
		width := uint64(1) << (bits.Len64(rest) - 1)
		switch {
		case at == s.from && at+width == s.to:
			s.edge = edge{width, []tlog.Hash{h}}
			return
		case at >= s.from && base.size < s.to:
			s.edge = edge{base.size - at, slices.Clone(base.hashes[i:])}
			return
		}
		at += width
	}
}

// proveConsistency proves that the tree of size begins with the one of old
// (RFC 6962 §2.1.2). base is an edge of at most old entries; leaves are the
// leaf hashes from there on, up to size.
func proveConsistency(old, size uint64, base edge, leaves iter.Seq2[tlog.Hash, error]) ([]tlog.Hash, error) {
	switch {
	case old > size || base.size > old:
		return nil, fmt.Errorf("audit: no proof from %d to %d entries, with an edge of %d", old, size, base.size)
	case old == 0 || old == size:
		return nil, nil
	}
	return tlog.ProveTree(int64(size), int64(old), subtrees(base, leaves))
}

// proveEntry proves that the tree of size has the entry index (RFC 6962
// §2.1.1). base is an edge of at most index entries; leaves follow it.
func proveEntry(index, size uint64, base edge, leaves iter.Seq2[tlog.Hash, error]) (tlog.RecordProof, error) {
	if index >= size || base.size > index {
		return nil, fmt.Errorf("audit: no proof of entry %d in %d, with an edge of %d", index, size, base.size)
	}
	return tlog.ProveRecord(int64(size), int64(index), subtrees(base, leaves))
}
