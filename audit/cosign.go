package audit

import (
	"context"
	"fmt"
	"iter"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// Cosigning is a checkpoint that is about to be published, for witnesses.
type Cosigning struct {
	Checkpoint Checkpoint
	Signed     string // the note, with the log's own signature
	// Proof gives the consistency proof (RFC 6962 §2.1.2) from the tree of old
	// entries, empty from none; old is at most the checkpoint's size.
	Proof func(ctx context.Context, old uint64) (tlog.TreeProof, error)
}

// proofs makes consistency proofs of a log that is being written. It remembers
// the edges of its last commits, since what a witness cosigned is nearly always
// one of these; from there on it needs leaf hashes only, which lie beside the
// entries in the branches. For any other size it reads them from the first on,
// or from the month in which that size was reached.
type proofs struct {
	store  Store
	origin string
	since  time.Time // of the first entry's month
	edges  []edge    // the smallest first
}

// keptEdges is more than a witness can be behind that answers at all.
const keptEdges = 32

func (p *proofs) remember(e edge) {
	if n := len(p.edges); n > 0 && p.edges[n-1].size >= e.size {
		return
	}
	p.edges = append(p.edges, e.clone())
	if len(p.edges) > keptEdges {
		p.edges = p.edges[1:]
	}
}

// from makes a proof from old entries to those that are committed and the
// pending ones, whose leaf hashes are given; now is a time in the last month.
func (p *proofs) from(ctx context.Context, old, committed uint64, pending []tlog.Hash, now time.Time) (tlog.TreeProof, error) {
	size := committed + uint64(len(pending))
	if old == 0 || old == size {
		return nil, nil
	}
	var base edge
	for _, e := range p.edges {
		if e.size <= old {
			base = e
		}
	}
	months := p.months(now)
	if base.size == 0 {
		for _, tip := range months { // a month's base is an edge, too
			b, err := p.store.File(tip, "base")
			if err != nil {
				continue // the first month has none
			}
			if e, err := parseBase(b); err == nil && e.size <= old && e.size > base.size {
				base = e
			}
		}
	}
	return proveConsistency(old, size, base, p.leaves(ctx, months, base.size, committed, pending))
}

// months lists the tips of the log's branches, the oldest first.
func (p *proofs) months(now time.Time) (tips []string) {
	for m := time.Date(p.since.UTC().Year(), p.since.UTC().Month(), 1, 0, 0, 0, 0, time.UTC); !m.After(now); m = m.AddDate(0, 1, 0) {
		if tip, ok, err := p.store.Tip(branchName(p.origin, m.Format("2006-01"))); err == nil && ok {
			tips = append(tips, tip)
		}
	}
	return tips
}

// leaves gives the leaf hashes from a commit's first entry on.
func (p *proofs) leaves(ctx context.Context, months []string, at, committed uint64, pending []tlog.Hash) iter.Seq2[tlog.Hash, error] {
	return func(yield func(tlog.Hash, error) bool) {
		for len(months) > 0 && at < committed && ctx.Err() == nil {
			b, err := p.store.File(months[0], batchPath(at)+".hashes")
			if err != nil || len(b) < tlog.HashSize {
				months = months[1:] // it is in a later one
				continue
			}
			for _, h := range splitHashes(b) {
				at++
				if !yield(h, nil) {
					return
				}
			}
		}
		if err := ctx.Err(); err != nil {
			yield(tlog.Hash{}, err)
			return
		}
		if at != committed {
			yield(tlog.Hash{}, fmt.Errorf("audit: the leaf hashes of entry %d and later ones are not in the local repository", at))
			return
		}
		for _, h := range pending {
			if !yield(h, nil) {
				return
			}
		}
	}
}
