package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"countersign/enforcer"
	"countersign/enforcer/mask"
	"countersign/gitsync"
	"countersign/rules"
)

// history is a clone of the policy repository, for looking back.
type history struct {
	repo   *gitsync.Repo
	branch string
	trust  *gitsync.Trust // nil: signatures are not looked at
	when   map[string]time.Time
	kept   map[string]*rules.Policy
	order  []string // of kept, the oldest first
}

// keptPolicies bounds how many are held ready: a large one takes seconds to
// load and tens of megabytes.
const keptPolicies = 8

// openHistory opens a clone, and reads which commits its branch has had, along
// first parents: those that an enforcer could have accepted.
func openHistory(ctx context.Context, path, branch, signers string) (*history, error) {
	repo, err := gitsync.OpenClone(ctx, path, gitsync.Auth{})
	if err != nil {
		return nil, fmt.Errorf("--policy: %w", err)
	}
	h := &history{repo: repo, branch: branch, when: map[string]time.Time{}, kept: map[string]*rules.Policy{}}
	err = func() error {
		if h.branch == "" {
			if h.branch, err = repo.Head(); err != nil {
				return err
			}
		}
		for c, err := range repo.Log(h.branch) {
			if err != nil {
				return err
			}
			h.when[c.Hash] = c.When
		}
		if signers == "" {
			return nil
		}
		allowed, err := os.ReadFile(signers)
		if err == nil {
			h.trust, err = gitsync.Signers{AllowedSigners: allowed}.Parse()
		}
		return err
	}()
	if err != nil {
		return nil, fmt.Errorf("--policy %s: %w", path, joinClose(err, repo))
	}
	return h, nil
}

func joinClose(err error, repo *gitsync.Repo) error {
	if cerr := repo.Close(); cerr != nil {
		return fmt.Errorf("%w; %w", err, cerr)
	}
	return err
}

func (h *history) close() error { return h.repo.Close() }

// at loads the policy of a commit, if the branch has had it.
func (h *history) at(commit string) (*rules.Policy, error) {
	if p, ok := h.kept[commit]; ok {
		return p, nil
	}
	when, ok := h.when[commit]
	if !ok {
		return nil, fmt.Errorf("branch %s of the policy repository has never had that commit", h.branch)
	}
	if h.trust != nil {
		c, err := h.repo.Commits(commit)
		if err == nil {
			_, err = h.trust.Commit(c.Raw, when)
		}
		if err != nil {
			return nil, fmt.Errorf("the commit is not signed by who may change policy: %w", err)
		}
	}
	files, err := h.repo.Snapshot(commit)
	if err != nil {
		return nil, fmt.Errorf("its files do not read: %w", err)
	}
	p, err := rules.Load(files, commit, mask.Detectors()...)
	if err != nil {
		return nil, fmt.Errorf("it does not load: %w", err)
	}
	p.FindSecrets(enforcer.SecretsByPolicy(p))
	if len(h.order) == keptPolicies {
		delete(h.kept, h.order[0])
		h.order = h.order[1:]
	}
	h.kept[commit], h.order = p, append(h.order, commit)
	return p, nil
}
