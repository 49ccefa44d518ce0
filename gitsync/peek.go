package gitsync

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"
	"github.com/go-git/go-git/v5/plumbing/transport"
)

// Want is a branch of which Peek shows the newest commits.
type Want struct {
	Branch string
	Since  string // a commit that was its tip; empty: only the tip is shown
}

// Seen is what Peek saw of a branch.
type Seen struct {
	Want
	// Commits are the newest first: down to, and without, Since. Their messages
	// are whatever somebody wrote; no signature was looked at.
	Commits []Commit
	// Err is ErrRejected if the branch does not descend from Since any more.
	Err error
}

const (
	maxPeek       = 16 << 20 // bytes of one answer that are looked at
	maxPeekCommit = 256 << 10
)

// Peek looks at branches of others on the remote, and brings none of their
// files: it asks which branches there are, lets choose name some of them, and
// reads their newest commits. Nothing is kept, and a host that sends more than
// that is cut off.
func (r *Repo) Peek(ctx context.Context, choose func(tips map[string]string) []Want) ([]Seen, error) {
	if r.remote == nil {
		return nil, errors.New("no remote is configured to look at")
	}
	var wants, rest []Want
	tips := map[string]string{}
	seen, err := r.remote.peek(ctx, func(refs map[plumbing.ReferenceName]plumbing.Hash) []Want {
		for name, h := range refs {
			if name.IsBranch() {
				tips[name.Short()] = h.String()
			}
		}
		for _, w := range choose(tips) {
			if w.Since == "" {
				wants = append(wants, w)
			} else {
				rest = append(rest, w)
			}
		}
		if len(wants) == 0 {
			wants, rest = rest, nil
		}
		return wants
	})
	if err != nil || len(rest) == 0 {
		return seen, err
	}
	more, err := r.remote.peek(ctx, func(map[plumbing.ReferenceName]plumbing.Hash) []Want { return rest })
	return append(seen, more...), err
}

// peek is one contact, for branches that are either all with Since or all
// without: depth is one for a whole request.
func (r *remote) peek(ctx context.Context, choose func(map[plumbing.ReferenceName]plumbing.Hash) []Want) (all []Seen, err error) {
	err = r.during(ctx, "look at", func(ctx context.Context) (err error) {
		s, err := r.uploadPack(ctx)
		if err != nil {
			return err
		}
		defer closeInto(s, &err)
		adv, err := s.AdvertisedReferencesContext(ctx)
		if errors.Is(err, transport.ErrEmptyRemoteRepository) {
			choose(nil)
			return nil
		}
		if err != nil {
			return err
		}
		refs, _, err := advertised(adv)
		if err != nil {
			return err
		}
		var tips []plumbing.Hash
		var wants []Want
		req := packp.NewUploadPackRequestFromCapabilities(adv.Capabilities)
		for _, w := range choose(refs) {
			name, err := branchRef(w.Branch)
			if err != nil {
				return err
			}
			tip := refs[name]
			if tip.IsZero() {
				all = append(all, Seen{Want: w, Err: fmt.Errorf("branch %s: %w", w.Branch, ErrNotFound)})
				continue
			}
			wants, tips, req.Wants = append(wants, w), append(tips, tip), append(req.Wants, tip)
			if w.Since == "" {
				req.Depth = packp.DepthCommits(1)
			} else {
				req.Haves = append(req.Haves, plumbing.NewHash(w.Since))
			}
		}
		if len(wants) == 0 {
			return nil
		}
		commits, whole, err := exchange(ctx, s, req, adv.Capabilities, r.ep.Protocol == "file")
		if err != nil {
			return err
		}
		for i, w := range wants {
			all = append(all, follow(w, tips[i], commits, whole))
		}
		return nil
	})
	return all, err
}

// exchange sends a request and reads the commits of the answer; whole tells
// whether these are all that it has.
func exchange(ctx context.Context, s transport.UploadPackSession, req *packp.UploadPackRequest, can *capability.List, local bool) (commits map[plumbing.Hash][]byte, whole bool, err error) {
	// Without these each delta names its base, and the base is in the answer.
	req.Capabilities.Delete(capability.OFSDelta)
	req.Capabilities.Delete(capability.ThinPack)
	set := func(c capability.Capability) error {
		if !can.Supports(c) {
			return nil
		}
		return req.Capabilities.Set(c)
	}
	if err := set(capability.NoProgress); err != nil {
		return nil, false, err
	}
	if !req.Depth.IsZero() {
		if !can.Supports(capability.Shallow) {
			return nil, false, errors.New("the host sends no history of one commit (shallow)")
		}
		if err := set(capability.Shallow); err != nil {
			return nil, false, err
		}
	}
	if can.Supports(capability.Filter) {
		if err := set(capability.Filter); err != nil {
			return nil, false, err
		}
		req.Filter = packp.FilterTreeDepth(0)
	}
	res, err := s.UploadPack(ctx, req)
	if errors.Is(err, transport.ErrEmptyUploadPackRequest) {
		return nil, true, nil // every tip is one that we have
	}
	if err != nil {
		return nil, false, err
	}
	var pack io.Reader = res
	switch {
	case req.Capabilities.Supports(capability.Sideband64k):
		pack = sideband.NewDemuxer(sideband.Sideband64k, res)
	case req.Capabilities.Supports(capability.Sideband):
		pack = sideband.NewDemuxer(sideband.Sideband, res)
	}
	commits, whole, end, err := readCommits(&io.LimitedReader{R: pack, N: maxPeek})
	// A host without filters sends files after the commits: they are not waited
	// for, and what closing says then is no news. But a Git beside us (a file
	// URL) is waited for when it is closed, and would never be done.
	if err == nil && (end || local) {
		_, err = io.Copy(io.Discard, res)
	}
	if cerr := res.Close(); err == nil && end {
		err = cerr
	}
	return commits, whole, err
}

// readCommits takes the commits out of a pack. They come first in it: where
// something else begins, they were the whole, and the rest is not read to its
// end.
func readCommits(pack *io.LimitedReader) (commits map[plumbing.Hash][]byte, whole, end bool, err error) {
	commits = map[plumbing.Hash][]byte{}
	sc := packfile.NewScanner(pack)
	_, n, err := sc.Header()
	if errors.Is(err, packfile.ErrEmptyPackfile) {
		return commits, true, true, nil
	}
	if err != nil {
		return nil, false, false, err
	}
	for range n {
		h, err := sc.NextObjectHeader()
		if err != nil {
			if pack.N <= 0 {
				return commits, false, false, nil
			}
			return nil, false, false, err
		}
		var src []byte
		switch h.Type {
		case plumbing.CommitObject:
		case plumbing.REFDeltaObject:
			var ok bool
			if src, ok = commits[h.Reference]; !ok {
				return commits, false, false, nil
			}
		default:
			return commits, true, false, nil
		}
		if h.Length > maxPeekCommit {
			return nil, false, false, fmt.Errorf("a commit of %d bytes", h.Length)
		}
		var b bytes.Buffer
		if _, _, err := sc.NextObject(&b); err != nil {
			if pack.N <= 0 {
				return commits, false, false, nil
			}
			return nil, false, false, err
		}
		raw := b.Bytes()
		if src != nil {
			if raw, err = packfile.PatchDelta(src, raw); err != nil {
				return nil, false, false, err
			}
		}
		commits[plumbing.ComputeHash(plumbing.CommitObject, raw)] = raw
	}
	return commits, true, true, nil
}

// follow walks from a tip to where it was.
func follow(w Want, tip plumbing.Hash, commits map[plumbing.Hash][]byte, whole bool) Seen {
	s := Seen{Want: w}
	for at := tip; at.String() != w.Since; {
		raw, ok := commits[at]
		if !ok && whole && w.Since != "" { // it lies before where the branch was
			s.Err = fmt.Errorf("%w: %s is at %s, and was at %s", ErrRejected, w.Branch, tip, w.Since)
			return s
		}
		if !ok {
			s.Err = fmt.Errorf("branch %s: the host did not send commit %s", w.Branch, at)
			return s
		}
		c, err := parseCommit(raw)
		if err != nil {
			s.Err = fmt.Errorf("branch %s: commit %s: %w", w.Branch, at, err)
			return s
		}
		out := Commit{Hash: at.String(), Tree: c.tree.String(), Author: c.author.who, When: c.committer.when, Message: c.message, Raw: raw}
		for _, p := range c.parents {
			out.Parents = append(out.Parents, p.String())
		}
		s.Commits = append(s.Commits, out)
		if w.Since == "" {
			return s
		}
		if len(c.parents) == 0 {
			s.Err = fmt.Errorf("%w: %s is at %s, which does not descend from %s", ErrRejected, w.Branch, tip, w.Since)
			return s
		}
		at = c.parents[0]
	}
	return s
}
