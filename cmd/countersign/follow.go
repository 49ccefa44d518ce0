package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"countersign/enforcer"
	"countersign/gitsync"
	"countersign/rules"
)

// policyFollower brings policy from Git into force: fetched and verified by
// gitsync, loaded by rules, installed in the gate, accepted durably, recorded.
// What is bad at any step changes nothing; the last good policy stays.
type policyFollower struct {
	config config
	log    *slog.Logger
	gate   *enforcer.Enforcer
	source *gitsync.Source
	told   func(commit, signer string, rejected error) // of each change, for check runs; may be nil
}

// open begins with the policy accepted last, from disk, and fetches. Without
// either the gate refuses everything, and says so on /readyz, until a fetch
// brings one.
func (f *policyFollower) open(ctx context.Context, gate *enforcer.Enforcer) error {
	signers, unverified, err := f.config.policySigners()
	if err != nil {
		return err
	}
	if unverified {
		f.log.Warn("policy is not verified: whoever can push to the repository decides what agents may do")
	}
	f.gate = gate
	f.source, err = gitsync.Policy(gitsync.PolicyConfig{
		URL: f.config.PolicyRepo, Ref: f.config.PolicyRef, Auth: f.config.policyAuth(), Signers: signers, Unverified: unverified,
		Dir: filepath.Join(f.config.StateDir, "policy"), ResetTo: f.config.PolicyResetTo, Now: time.Now,
	})
	if err != nil {
		return fmt.Errorf("COUNTERSIGN_POLICY_REPO, COUNTERSIGN_POLICY_SIGNERS: %w", err)
	}
	snap, err := f.source.Accepted()
	switch {
	case err == nil:
		p, err := rules.Load(snap.FS, snap.Commit)
		if err == nil {
			err = f.install(ctx, snap, p, "resumed")
		}
		if err != nil {
			f.reject(ctx, snap.Commit, fmt.Errorf("accepted before, but it does not load any more: %w", err))
		}
	case !errors.Is(err, gitsync.ErrNone):
		f.reject(ctx, "", err)
	}
	f.poll(ctx)
	return nil
}

func (f *policyFollower) close() error { return f.source.Close() }

func (f *policyFollower) current() *rules.Policy {
	if f.gate == nil {
		return nil
	}
	return f.gate.Policy()
}

// leaseEnded ends what still holds a lease's values.
func (f *policyFollower) leaseEnded(key string) {
	if f.gate != nil {
		f.gate.LeaseEnded(key)
	}
}

// follow polls until ctx ends.
func (f *policyFollower) follow(ctx context.Context) error {
	tick := time.NewTicker(f.config.PolicyPoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			f.poll(ctx)
		}
	}
}

// poll fetches once.
func (f *policyFollower) poll(ctx context.Context) {
	began := time.Now()
	snap, err := f.source.Fetch(ctx)
	var rejected *gitsync.Rejected
	switch {
	case errors.Is(err, gitsync.ErrUnchanged):
		f.gate.Confirm(began)
		f.gate.Rejected("")
	case errors.As(err, &rejected):
		f.reject(ctx, rejected.Commit, errors.New(rejected.Reason))
	case err != nil:
		f.log.Warn("the policy repository cannot be reached; the last policy stays, as long as its maximum age allows", "err", err)
		if f.current() == nil { // /readyz has to say why there is none
			f.gate.Rejected("the policy repository cannot be reached: " + err.Error())
		}
	default:
		if err := f.take(ctx, snap); err != nil {
			f.reject(ctx, snap.Commit, err)
		}
	}
}

// take loads a verified snapshot and puts it in force. The acceptance is
// durable, and in the record, before the policy decides anything.
func (f *policyFollower) take(ctx context.Context, snap *gitsync.Snapshot) error {
	p, err := rules.Load(snap.FS, snap.Commit)
	if err == nil {
		err = maskProblems(p)
	}
	if err != nil {
		f.source.Refuse(snap.Commit, err.Error())
		return err
	}
	if failed := failedCases(p); failed != "" {
		err := fmt.Errorf("its own test cases fail: %s", failed)
		f.source.Refuse(snap.Commit, err.Error())
		return err
	}
	if err := f.source.Accept(snap.Commit); err != nil {
		return err
	}
	status := "accepted"
	if snap.Reset {
		status = "reset"
	}
	return f.install(ctx, snap, p, status)
}

func (f *policyFollower) install(ctx context.Context, snap *gitsync.Snapshot, p *rules.Policy, status string) error {
	if p.UsesSQL() {
		if err := rules.Warm(); err != nil {
			return err
		}
	}
	detail := map[string]any{"subject": snap.Subject, "author": snap.Author, "signer": snap.Signer, "committed": snap.When.UTC()}
	if err := f.gate.RecordPolicy(ctx, snap.Commit, status, "", detail); err != nil {
		return err
	}
	f.gate.Install(p, snap.Confirmed)
	f.gate.Rejected("")
	f.log.Info("policy in force", "commit", snap.Commit, "subject", snap.Subject, "signer", snap.Signer, "how", status)
	if f.told != nil {
		f.told(snap.Commit, snap.Signer, nil)
	}
	return nil
}

// reject says loudly, once for each reason, that the newest policy is not in
// force.
func (f *policyFollower) reject(ctx context.Context, commit string, why error) {
	reason := why.Error()
	if !f.gate.Rejected(strings.TrimSpace(commit + " " + reason)) {
		return
	}
	f.log.Error("policy rejected; the last good one stays", "commit", commit, "reason", reason)
	if err := f.gate.RecordPolicy(ctx, commit, "rejected", reason, nil); err != nil {
		f.log.Error("the rejection could not be recorded", "err", err)
	}
	if f.told != nil && commit != "" {
		f.told(commit, "", why)
	}
}

// failedCases names the cases of tests/*.yaml that do not come out as written.
func failedCases(p *rules.Policy) string {
	var failed []string
	for _, c := range p.Cases() {
		if c.Problem != "" {
			failed = append(failed, fmt.Sprintf("%s:%d %s: %s", c.File, c.Line, c.Name, c.Problem))
		}
	}
	return strings.Join(failed, "; ")
}
