package audit

import (
	"fmt"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// span is what is needed to prove, at any later time, that a tree begins with
// the one of an edge: the edge, and the perfect subtrees of the leaves since, a
// few dozen hashes however many they are.
type span struct {
	base  edge
	end   uint64
	nodes []node // from the base on, each beginning where the one before ends
}

// node is a perfect subtree of width leaves.
type node struct {
	from, width uint64
	hash        tlog.Hash
}

func newSpan(base edge) *span { return &span{base: base.clone(), end: base.size} }

func (s *span) add(leaf tlog.Hash) {
	s.nodes = append(s.nodes, node{s.end, 1, leaf})
	s.end++
	for n := len(s.nodes); n > 1; n-- {
		a, b := s.nodes[n-2], s.nodes[n-1]
		if a.width != b.width || a.from%(2*a.width) != 0 {
			return
		}
		s.nodes = append(s.nodes[:n-2], node{a.from, 2 * a.width, tlog.NodeHash(a.hash, b.hash)})
	}
}

// grow adds those of the leaves, of which the first is number first, that come
// after the end; false if some between are missing.
func (s *span) grow(first uint64, leaves []tlog.Hash) bool {
	if s.end < first || s.end > first+uint64(len(leaves)) {
		return false
	}
	for _, l := range leaves[s.end-first:] {
		s.add(l)
	}
	return true
}

// prove proves that the tree with these leaves at its end begins with the base.
func (s *span) prove(first uint64, leaves []tlog.Hash) (tlog.TreeProof, error) {
	to := &span{base: s.base, end: s.end, nodes: slices.Clone(s.nodes)}
	if !to.grow(first, leaves) {
		return nil, fmt.Errorf("audit: entries between %d and %d are not known", s.end, first)
	}
	return tlog.ProveTree(int64(to.end), int64(s.base.size), tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			level, n := tlog.SplitStoredHashIndex(index)
			want := subtree{from: uint64(n) << level, to: uint64(n+1) << level}
			want.take(s.base)
			at := slices.IndexFunc(to.nodes, func(n node) bool { return n.from == want.from && n.from+n.width == want.to })
			switch {
			case at >= 0:
				out[i] = to.nodes[at].hash
			case len(want.hashes) == 1 && want.from+want.size == want.to:
				out[i] = want.hashes[0]
			default:
				return nil, fmt.Errorf("audit: subtree of entries %d to %d is not known", want.from, want.to-1)
			}
		}
		return out, nil
	}))
}
