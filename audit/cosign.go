package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
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

// proofs makes consistency proofs of a log that is being written. What a witness
// cosigned last is held as a span, which needs nothing else, however long ago
// that was. If it was something else (an answer that was lost, an earlier run's
// end), the edges of the last commits that were asked for help, with the leaf
// hashes since: from the branches, which are here as long as they are new, or
// else from the lines in the journal.
type proofs struct {
	store   Store
	origin  string
	since   time.Time                                  // of the first entry's month
	journal func(from, to uint64) ([]tlog.Hash, error) // leaf hashes, while it has the lines
	spans   map[string]*span                           // by the name in a cosignature's line
	edges   []edge                                     // the smallest first
}

// keptEdges is more than a witness can be behind that answers at all.
const keptEdges = 32

// asked remembers a tree that witnesses were asked to cosign, and the lines
// that they added.
func (p *proofs) asked(e edge, lines string) {
	if n := len(p.edges); n == 0 || p.edges[n-1].size < e.size {
		if p.edges = append(p.edges, e.clone()); len(p.edges) > keptEdges {
			p.edges = p.edges[1:]
		}
	}
	for l := range strings.Lines(lines) {
		name, _, _ := strings.Cut(strings.TrimPrefix(l, "— "), " ")
		if p.spans == nil {
			p.spans = map[string]*span{}
		}
		p.spans[name] = newSpan(e)
	}
}

// committed takes in the leaves of a commit.
func (p *proofs) committed(first uint64, leaves []tlog.Hash) {
	for name, s := range p.spans {
		if !s.grow(first, leaves) {
			delete(p.spans, name)
		}
	}
}

// from makes a proof from old entries to those that are committed and the
// pending ones, whose leaf hashes are given; now is a time in the last month.
func (p *proofs) from(ctx context.Context, old, committed uint64, pending []tlog.Hash, now time.Time) (tlog.TreeProof, error) {
	size := committed + uint64(len(pending))
	if old == 0 || old == size {
		return nil, nil
	}
	for _, s := range p.spans {
		if s.base.size == old {
			return s.prove(committed, pending)
		}
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
	proof, err := proveConsistency(old, size, base, p.leaves(ctx, months, base.size, committed, pending))
	if err == nil || p.journal == nil || old > size {
		return proof, err
	}
	lines, jerr := p.journal(base.size, committed)
	if jerr != nil {
		return nil, errors.Join(err, jerr)
	}
	return proveConsistency(old, size, base, func(yield func(tlog.Hash, error) bool) {
		for _, h := range append(lines, pending...) {
			if !yield(h, nil) {
				return
			}
		}
	})
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

// journalLeaves reads leaf hashes from the journal, as far as it still has the
// lines.
func (p *Publisher) journalLeaves(from, to uint64) (leaves []tlog.Hash, err error) {
	c := &cursor{inc: p.inc}
	found := false
	for _, f := range p.inc.files() {
		if f.first <= from {
			c.seq, c.first, found = f.first, f.first, true
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
