package audit

import (
	"errors"
	"fmt"
	"io"
	"math/bits"

	"golang.org/x/mod/sumdb/tlog"
)

// consistency proves that the tree at a position continues the one with the
// edge old (RFC 6962 §2.1.2). Such a proof is made of perfect subtrees of the
// old tree, which its edge holds, and of subtrees of the leaves since, which
// are read from the journal.
func (p *Publisher) consistency(old edge, at position) ([]tlog.Hash, error) {
	switch {
	case old.size > at.size:
		return nil, fmt.Errorf("audit: no proof from %d entries to %d", old.size, at.size)
	case len(old.hashes) != bits.OnesCount64(old.size):
		return nil, errors.New("audit: no proof: the edge of the earlier tree is not whole")
	case old.size == 0 || old.size == at.size:
		return nil, nil
	}
	leaves, err := p.leaves(old.size, at.size)
	if err != nil {
		return nil, err
	}
	if t := old.with(leaves); t.root() != at.root() {
		return nil, fmt.Errorf("audit: no proof: the tree of %d entries that it is to begin with is not ours", old.size)
	}
	return tlog.ProveTree(int64(at.size), int64(old.size), tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		var out []tlog.Hash
		for _, i := range indexes {
			level, n := tlog.SplitStoredHashIndex(i)
			h, ok := subtree(old, leaves, level, uint64(n))
			if !ok {
				return nil, fmt.Errorf("audit: no proof: subtree %d of level %d is not known", n, level)
			}
			out = append(out, h)
		}
		return out, nil
	}))
}

// subtree gives the root of the n-th perfect subtree of 2^level leaves.
func subtree(old edge, leaves []tlog.Hash, level int, n uint64) (tlog.Hash, bool) {
	first, size := n<<level, uint64(1)<<level
	if first >= old.size {
		first -= old.size
		if first+size > uint64(len(leaves)) {
			return tlog.Hash{}, false
		}
		t := (&edge{}).with(leaves[first : first+size])
		return t.root(), true
	}
	begin := uint64(0) // of the edge's subtrees
	for _, h := range old.hashes {
		width := uint64(1) << (63 - bits.LeadingZeros64(old.size-begin))
		if begin == first && width == size {
			return h, true
		}
		begin += width
	}
	return tlog.Hash{}, false
}

// leaves reads leaf hashes from the journal, as far as it still has them.
func (p *Publisher) leaves(from, to uint64) (leaves []tlog.Hash, err error) {
	firsts, err := p.inc.segments()
	if err != nil {
		return nil, err
	}
	c := &cursor{inc: p.inc}
	found := false
	for _, f := range firsts {
		if f <= from {
			c.seq, c.first, found = f, f, true
		}
	}
	if !found {
		return nil, fmt.Errorf("audit: entries from %d on are no longer in the journal", from)
	}
	defer func() { err = errors.Join(err, c.close()) }()
	for c.seq < to {
		seq := c.seq
		line, err := c.next()
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %s, entry %d: %w", ErrDamaged, p.inc.dir, seq, err)
		}
		if seq >= from {
			leaves = append(leaves, tlog.RecordHash(line))
		}
	}
	return leaves, nil
}
