package gitsync

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"
	"github.com/go-git/go-git/v5/plumbing/storer"
	"github.com/go-git/go-git/v5/plumbing/transport"
)

// ErrAuth marks a contact that the host refused for want of a valid
// credential. Hosts hide private repositories behind the same answer.
var ErrAuth = errors.New("the Git host refuses our credential")

// during runs one contact with the remote and gives up on it when ctx ends:
// f may then still run, so its results count only if during returns nil.
func (r *remote) during(ctx context.Context, what string, f func(context.Context) error) error {
	select {
	case r.turn <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("%s %s: an earlier contact still hangs: %w", what, r.url, ctx.Err())
	}
	done := make(chan error, 1)
	go func() {
		defer func() { <-r.turn }()
		done <- f(ctx)
	}()
	select {
	case err := <-done:
		return r.explain(what, err)
	case <-ctx.Done():
		return r.explain(what, ctx.Err())
	}
}

func (r *remote) explain(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, transport.ErrAuthenticationRequired), errors.Is(err, transport.ErrAuthorizationFailed),
		strings.Contains(err.Error(), "unable to authenticate"):
		return fmt.Errorf("%s %s: %w: %w", what, r.url, ErrAuth, err)
	case strings.Contains(err.Error(), "knownhosts: key mismatch"), strings.Contains(err.Error(), "no common algorithm for host key"):
		return fmt.Errorf("%s %s: the host key is not the one in the known hosts: this is another machine, or somebody stands in between; if the host's key was changed on purpose, put the new one there: %w", what, r.url, err)
	}
	return fmt.Errorf("%s %s: %w", what, r.url, err)
}

// fetched is what a contact told about one reference.
type fetched struct {
	Name plumbing.ReferenceName
	Hash plumbing.Hash
}

func (r *remote) uploadPack(ctx context.Context) (transport.UploadPackSession, error) {
	auth, err := r.method(ctx)
	if err != nil {
		return nil, err
	}
	ep := *r.ep
	return r.tr.NewUploadPackSession(&ep, auth)
}

func advertised(adv *packp.AdvRefs) (map[plumbing.ReferenceName]plumbing.Hash, plumbing.ReferenceName, error) {
	all, err := adv.AllReferences()
	if err != nil {
		return nil, "", err
	}
	refs := map[plumbing.ReferenceName]plumbing.Hash{}
	var head plumbing.ReferenceName
	for name, ref := range all {
		switch ref.Type() {
		case plumbing.HashReference:
			refs[name] = ref.Hash()
		case plumbing.SymbolicReference:
			if name == plumbing.HEAD {
				head = ref.Target()
			}
		}
	}
	return refs, head, nil
}

// fetch asks which references there are, lets choose pick among them, and
// brings what is missing to reach the picks into st. Nothing but the picks'
// objects is asked for, and no more than limit bytes of pack are taken.
func (r *remote) fetch(ctx context.Context, st storer.Storer, limit int64, haves []plumbing.Hash,
	choose func(refs map[plumbing.ReferenceName]plumbing.Hash, head plumbing.ReferenceName) ([]fetched, error),
) ([]fetched, error) {
	var picks []fetched
	err := r.during(ctx, "fetch", func(ctx context.Context) (err error) {
		s, err := r.uploadPack(ctx)
		if err != nil {
			return err
		}
		defer closeInto(s, &err)
		adv, err := s.AdvertisedReferencesContext(ctx)
		refs, head := map[plumbing.ReferenceName]plumbing.Hash{}, plumbing.ReferenceName("")
		switch {
		case errors.Is(err, transport.ErrEmptyRemoteRepository):
		case err != nil:
			return err
		default:
			if refs, head, err = advertised(adv); err != nil {
				return err
			}
		}
		if picks, err = choose(refs, head); err != nil {
			return err
		}
		req := packp.NewUploadPackRequest()
		if adv != nil {
			req = packp.NewUploadPackRequestFromCapabilities(adv.Capabilities)
		}
		for _, p := range picks {
			if st.HasEncodedObject(p.Hash) != nil {
				req.Wants = append(req.Wants, p.Hash)
			}
		}
		if len(req.Wants) == 0 {
			return nil
		}
		req.Haves = haves
		if adv.Capabilities.Supports(capability.NoProgress) {
			if err := req.Capabilities.Set(capability.NoProgress); err != nil {
				return err
			}
		}
		res, err := s.UploadPack(ctx, req)
		if err != nil {
			return err
		}
		defer closeInto(res, &err)
		var pack io.Reader = res
		switch {
		case req.Capabilities.Supports(capability.Sideband64k):
			pack = sideband.NewDemuxer(sideband.Sideband64k, res)
		case req.Capabilities.Supports(capability.Sideband):
			pack = sideband.NewDemuxer(sideband.Sideband, res)
		}
		return packfile.UpdateObjectStorage(st, &bounded{r: pack, left: limit, limit: limit})
	})
	if err != nil {
		return nil, err
	}
	return picks, nil
}

// bounded refuses, rather than cuts, what is longer than its limit.
type bounded struct {
	r           io.Reader
	left, limit int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, fmt.Errorf("the repository sends more than %d bytes", b.limit)
	}
	return n, err
}

func closeInto(c io.Closer, err *error) {
	if cerr := c.Close(); *err == nil && cerr != nil {
		*err = cerr
	}
}
