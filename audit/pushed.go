package audit

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"fmt"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// Dirty implements Part.
func (p *Publisher) Dirty() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.dirty)
}

// Pushed implements Part: it notes how far the remote has the log, which frees
// that much of the journal. Branches count in their order: what a later one
// has is worth nothing while an earlier one lacks some.
func (p *Publisher) Pushed(_ context.Context, tips map[string]string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	to, left := p.marked, p.dirty
	for len(left) > 0 {
		tip, ok := tips[left[0]]
		if !ok {
			break
		}
		var err error
		if to, err = p.passed(to, left[0], tip); err != nil {
			return err
		}
		if now, ok, err := p.cfg.Store.Tip(left[0]); err != nil || !ok || now != tip {
			break // only up to there, or there is more by now
		}
		left = left[1:]
	}
	if to.size == p.marked.size && to.commit == p.marked.commit {
		p.dirty = left
		return nil
	}
	m := mark{
		Entries: to.size, Bytes: to.bytes, Last: to.last, File: to.file, Offset: to.off,
		Branch: to.branch, Commit: to.commit, Checkpoint: to.signed, Repo: p.cfg.Repo, Began: p.began, Next: to.next,
	}
	if to.rolled != nil {
		m.Handover = to.rolled.handover(to.signed)
	}
	for _, h := range to.hashes {
		m.Hashes = append(m.Hashes, h[:])
	}
	if err := p.inc.writeMark(m); err != nil {
		return err // pushed, but not known: the next start finds out
	}
	p.marked, p.dirty = to, left
	p.trail = slices.DeleteFunc(p.trail, func(at position) bool { return at.size <= to.size })
	p.pushed(m)
	if p.cfg.Done != nil {
		c, err := ReadCheckpoint(to.signed)
		if err != nil {
			return err
		}
		p.cfg.Done(c, to.signed, true)
	}
	return nil
}

// passed gives the position of a commit that is on the remote. It is on the
// trail, or it is found in the journal again, from what is known to be there.
func (p *Publisher) passed(from position, branch, commit string) (position, error) {
	for _, at := range append(p.trail, p.at) {
		if at.branch == branch && at.commit == commit {
			return at, nil
		}
	}
	signed, err := p.cfg.Store.File(commit, "checkpoint")
	if err != nil {
		return from, fmt.Errorf("audit: %s: %w", branch, err)
	}
	c, err := ReadCheckpoint(string(signed))
	if err != nil {
		return from, err
	}
	if c.Size <= from.size {
		return from, nil
	}
	at, err := p.advance(from, c.Size)
	if err != nil {
		return from, err
	}
	if at.root() != c.Root {
		return from, p.forked("%s at %s is not what the journal holds", branch, commit)
	}
	at.branch, at.commit, at.signed = branch, commit, string(signed)
	return at, nil
}

// advance reads on from a position.
func (p *Publisher) advance(at position, size uint64) (position, error) {
	for at.size < size {
		b, err := p.read(at, size)
		if err != nil {
			return at, err
		}
		at = b.at
	}
	return at, nil
}

// recover finds out what the store has. The mark is durable after each push;
// commits after it may be there (a crash, an outage) or not (the store does
// not sync them), so the branch itself is asked, and what it holds is compared
// with the journal. Nothing is committed twice, and nothing is overwritten.
func (p *Publisher) recover() error {
	m, err := p.inc.readMark()
	if err != nil {
		return err
	}
	p.at = position{
		edge: edge{size: m.Entries}, bytes: m.Bytes, last: m.Last, file: m.File, off: m.Offset,
		branch: m.Branch, commit: m.Commit, signed: m.Checkpoint, next: m.Next,
	}
	for _, h := range m.Hashes {
		if len(h) != tlog.HashSize {
			return fmt.Errorf("%w: %s: hashes", ErrDamaged, p.inc.dir)
		}
		p.at.hashes = append(p.at.hashes, tlog.Hash(h))
	}
	if m.Checkpoint != "" {
		c, err := ReadCheckpoint(m.Checkpoint)
		if err != nil || c.Size != p.at.size || c.Root != p.at.root() {
			return fmt.Errorf("%w: %s: the mark contradicts itself", ErrDamaged, p.inc.dir)
		}
		p.lastMu.Lock()
		p.last, p.signed = c, m.Checkpoint
		p.lastMu.Unlock()
	}
	switch {
	case p.cfg.Repo == "":
	case m.Next == p.cfg.Repo: // it begins here
		p.before, p.at.branch, p.at.commit, p.at.next = cmp.Or(m.Handover, m.Checkpoint), "", "", ""
	case m.Repo == "":
		// Which one it is in must be known before anything is: a later start
		// may have another one in mind.
		m.Repo, m.Began = p.cfg.Repo, p.cfg.Repo
		if err := p.inc.writeMark(m); err != nil {
			return err
		}
	case m.Repo != p.cfg.Repo:
		return fmt.Errorf("audit: the log of %s is in %s, not in %s", p.inc.origin(), cmp.Or(m.Next, m.Repo), p.cfg.Repo)
	}
	p.marked, p.trail, p.began = p.at, nil, m.Began
	for {
		before := p.at.size
		if p.at.branch != "" {
			if err := p.adopt(p.at.branch); err != nil {
				return err
			}
		}
		if p.at.size < p.end() && p.at.next == "" { // a later month may have been begun
			next, err := p.read(p.at, p.at.size+1)
			if err != nil {
				return err
			}
			if b := branchName(p.inc.origin(), next.month); b != p.at.branch {
				if err := p.adopt(b); err != nil {
					return err
				}
			}
		}
		if p.at.size == before {
			return nil
		}
	}
}

// adopt moves to the branch's tip, after checking that the journal leads there.
func (p *Publisher) adopt(branch string) error {
	tip, ok, err := p.cfg.Store.Tip(branch)
	if err != nil {
		return fmt.Errorf("audit: %s: %w", branch, err)
	}
	if !ok && branch == p.at.branch {
		return p.forked("branch %s is gone from the local repository; entries before %d were published in it", branch, p.at.size)
	}
	if !ok || tip == p.at.commit {
		return nil
	}
	signed, err := p.cfg.Store.File(tip, "checkpoint")
	if err != nil {
		return fmt.Errorf("audit: %s: %w", branch, err)
	}
	var keys []ed25519.PublicKey
	for _, k := range p.keys() {
		keys = append(keys, k.Public)
	}
	c, err := OpenCheckpoint(string(signed), keys)
	switch {
	case err != nil:
		return p.forked("%s is at %s, whose checkpoint is not ours (was the key changed? then the old one is wanted as COUNTERSIGN_AUDIT_CHECKPOINT_KEY_PREVIOUS): %v", branch, tip, err)
	case c.Origin != p.inc.origin() || c.Size <= p.at.size || c.Size > p.end():
		return p.forked("%s is at %s with %d entries of %s; the journal has %d, of which %d were published", branch, tip, c.Size, c.Origin, p.end(), p.at.size)
	}
	at, err := p.advance(p.at, c.Size)
	if err != nil {
		return err
	}
	if at.root() != c.Root {
		return p.forked("%s is at %s, whose %d entries are not those of the journal", branch, tip, c.Size)
	}
	at.branch, at.commit, at.signed = branch, tip, string(signed)
	p.arrive(at, c)
	p.late.committed(false, p.cfg.Now(), p.cfg.Rand) // for all that is known
	return nil
}

// trimLines splits a file of lines; nil if it does not end in a line feed.
func trimLines(b []byte) [][]byte {
	if len(b) == 0 || b[len(b)-1] != '\n' {
		return nil
	}
	return bytes.Split(b[:len(b)-1], []byte("\n"))
}
