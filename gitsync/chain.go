package gitsync

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
)

// verify decides whether what the reference names may follow the last accepted
// commit (none at the first start). What it returns waits for acceptance.
func (s *Source) verify(ref fetched, last accepted) (accepted, error) {
	tip := ref.Hash.String()
	reject := func(format string, args ...any) (accepted, error) {
		return accepted{}, &Rejected{tip, fmt.Sprintf(format, args...)}
	}
	next := accepted{Commit: tip, Tip: tip, Signers: s.digest, ResetTo: last.ResetTo}
	commit := ref.Hash
	if strings.HasPrefix(ref.Name.String(), "refs/tags/") && s.repo.st.HasEncodedObject(commit) == nil {
		if raw, err := readObject(s.repo.st, plumbing.TagObject, commit, 1<<20); err == nil {
			t, err := parseTag(raw)
			if err != nil {
				return reject("%s", err)
			}
			// The name inside is signed, the reference's is not: without this
			// check an old tag could be served under a new name.
			if want := ref.Name.Short(); t.tag != want {
				return reject("the tag calls itself %q, not %q", t.tag, want)
			}
			if t.kind != "commit" {
				return reject("the tag names a %s, not a commit", t.kind)
			}
			commit = t.target
			next.Commit = commit.String()
		} else if s.trust != nil {
			return reject("%s is not an annotated tag, so it carries no signature", ref.Name)
		}
	}

	anchor := last.Commit
	if s.cfg.ResetTo != "" && s.cfg.ResetTo != last.ResetTo {
		anchor, next.ResetTo, next.Reset = s.cfg.ResetTo, s.cfg.ResetTo, true
	}
	chain, err := s.chain(commit, anchor, next.Tip != next.Commit)
	if errors.Is(err, ErrDamaged) {
		return accepted{}, err // our disk's fault, not the policy's
	}
	if err != nil {
		return reject("%s", err)
	}
	if s.trust == nil {
		return next, nil
	}
	// A key that had expired when the remote was last confirmed signed nothing
	// that came after, whatever date the commit gives itself.
	if next.Tip != next.Commit {
		if next.Signer, err = s.vouched(next.Tip, commit, last.Confirmed); err != nil {
			return reject("%s", err)
		}
		return next, nil
	}
	switch {
	case anchor == "": // the first start: history before it is nobody's promise
		chain = append(chain, commit)
	case next.Reset: // what is reset to needs a voucher like what follows
		chain = append(chain, plumbing.NewHash(anchor))
	}
	for _, h := range chain {
		who, err := s.vouched(h.String(), h, last.Confirmed)
		if err != nil {
			return reject("commit %.12s: %s", h, err)
		}
		if h == commit {
			next.Signer = who
		}
	}
	if len(chain) == 0 {
		// A reset is spent, or a tag became a branch: same commit as before.
		next.Signer = last.Signer
	}
	return next, nil
}

// chain lists the commits from tip down to anchor along first parents, tip
// included and anchor not; with no anchor, none. A tag vouches for all that it
// reaches: for it (any) the anchor may be reached through any parent.
func (s *Source) chain(tip plumbing.Hash, anchor string, any bool) ([]plumbing.Hash, error) {
	if anchor == "" {
		return nil, nil
	}
	stop := plumbing.NewHash(anchor)
	seen := map[plumbing.Hash]bool{tip: true}
	queue := []plumbing.Hash{tip}
	var list []plumbing.Hash
	for len(queue) > 0 {
		at := queue[0]
		queue = queue[1:]
		if at == stop {
			return list, nil
		}
		if len(seen) > s.cfg.Limits.Commits {
			return nil, fmt.Errorf("the last accepted policy %.12s is not among the last %d commits", anchor, s.cfg.Limits.Commits)
		}
		c, _, err := readCommit(s.repo.st, at)
		if err != nil {
			return nil, err
		}
		list = append(list, at)
		for i, p := range c.parents {
			if (i == 0 || any) && !seen[p] {
				seen[p] = true
				queue = append(queue, p)
			}
		}
	}
	if any {
		return nil, fmt.Errorf("it does not descend from %.12s", anchor)
	}
	return nil, fmt.Errorf("it does not descend from %.12s by first parents: history was rewritten, or main was merged into a branch and not the branch into main. To go there nevertheless, reset to a commit explicitly", anchor)
}

// vouched checks the signature of a commit, or of the annotated tag that names
// it, and tells whose it is. The key must be valid when the object says it was
// made, as stock Git has it, but no earlier than since and no later than now.
func (s *Source) vouched(object string, commit plumbing.Hash, since time.Time) (string, error) {
	var o signed
	h := plumbing.NewHash(object)
	if h == commit {
		c, _, err := readCommit(s.repo.st, h)
		if err != nil {
			return "", err
		}
		o = c
	} else {
		raw, err := readObject(s.repo.st, plumbing.TagObject, h, 1<<20)
		if err != nil {
			return "", err
		}
		if o, err = parseTag(raw); err != nil {
			return "", err
		}
		if o.target != commit {
			return "", errors.New("the tag names another commit")
		}
	}
	at := o.committer.when
	if now := s.cfg.Now(); at.After(now) {
		at = now
	}
	if at.Before(since) {
		at = since
	}
	return s.trust.check(o, at)
}
