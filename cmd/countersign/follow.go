package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"countersign/enforcer"
	"countersign/enforcer/mask"
	"countersign/gitsync"
	"countersign/rules"
)

// policyFollower brings policy from Git into force: fetched and verified by
// gitsync, loaded by rules, installed in the gate, accepted durably, recorded.
// What is bad at any step changes nothing; the last good policy stays.
type policyFollower struct {
	config config
	log    *slog.Logger
	gate   holder // nil until begin
	source *gitsync.Source
	told   func(commit, signer string, rejected error) // of each change, for check runs; may be nil

	unrecorded bool                         // the last rejection is not in the record yet
	last       atomic.Pointer[rules.Policy] // that came into force
}

// holder is where the policy in force is held: the enforcer, or a bot beside
// enforcers. See enforcer.Enforcer for what each does.
type holder interface {
	Policy() *rules.Policy
	Install(p *rules.Policy, confirmed time.Time)
	Confirm(t time.Time)
	Rejected(reason string) (news bool)
	RecordPolicy(ctx context.Context, commit, status, reason string, detail any) error
}

// open checks the configuration and opens the clone; it contacts nobody.
func (f *policyFollower) open(m *mask.Mask) error {
	signers, unverified, err := f.config.policySigners()
	if err != nil {
		return err
	}
	if unverified {
		f.log.Warn("policy is not verified: whoever can push to the repository decides what agents may do")
	}
	f.source, err = gitsync.Policy(gitsync.PolicyConfig{
		URL: f.config.PolicyRepo, Ref: f.config.PolicyRef, Auth: f.config.policyAuth(m), Signers: signers, Unverified: unverified,
		Dir: filepath.Join(f.config.StateDir, "policy"), ResetTo: f.config.PolicyResetTo, Now: time.Now,
	})
	if err != nil {
		return fmt.Errorf("COUNTERSIGN_POLICY_REPO, COUNTERSIGN_POLICY_SIGNERS: %w", err)
	}
	return nil
}

// begin puts the policy accepted last in force, from disk, and fetches. Without
// either the gate refuses everything, and says so on /readyz, until a fetch
// brings one.
func (f *policyFollower) begin(ctx context.Context, gate holder) {
	f.gate = gate
	f.resume(ctx)
	f.poll(ctx)
}

// resume puts what was accepted last in force.
func (f *policyFollower) resume(ctx context.Context) {
	snap, err := f.source.Accepted()
	if errors.Is(err, gitsync.ErrNone) {
		return
	}
	var p *rules.Policy
	if err == nil {
		p, err = loadSnapshot(snap)
	}
	if err == nil {
		err = f.record(ctx, snap, "resumed")
	}
	if err != nil {
		f.reject(ctx, "", fmt.Errorf("the policy accepted last cannot be put in force: %w", err))
		return
	}
	f.install(snap, p, "resumed")
}

func (f *policyFollower) close() error { return f.source.Close() }

func (f *policyFollower) current() *rules.Policy {
	if f.gate == nil {
		return nil
	}
	return f.gate.Policy()
}

// latest is the policy in force or, when the gate has stopped, the one that was:
// what the record still has to publish then is published as that one says.
func (f *policyFollower) latest() *rules.Policy { return f.last.Load() }

// commit is the policy in force, "" while there is none: for the record.
func (f *policyFollower) commit() string { return commitOf(f.current()) }

func commitOf(p *rules.Policy) string {
	if p == nil {
		return ""
	}
	return p.Commit()
}

// leaseEnded ends what still holds a lease's values.
func (f *policyFollower) leaseEnded(key string) {
	if gate, ok := f.gate.(*enforcer.Enforcer); ok { // nobody else has leases
		gate.LeaseEnded(key)
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
		if f.current() == nil { // accepted before, and it could not be put in force
			f.resume(ctx)
			return
		}
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

// take loads a verified snapshot and puts it in force. In this order: it is
// sound; it is in the record; it is what the next start begins with; it
// decides. A crash in between leaves a second entry in the record at most, and
// never a policy in force that the record does not name.
func (f *policyFollower) take(ctx context.Context, snap *gitsync.Snapshot) error {
	p, err := loadSnapshot(snap)
	if err != nil {
		f.source.Refuse(snap.Commit, err.Error())
		return err
	}
	status := "accepted"
	if snap.Reset {
		status = "reset"
	}
	if err := f.record(ctx, snap, status); err != nil {
		return err // the next poll brings the snapshot again
	}
	if err := f.source.Accept(snap.Commit); err != nil {
		return err
	}
	f.install(snap, p, status)
	return nil
}

// loadSnapshot compiles a policy, and holds it to its own test cases.
func loadSnapshot(snap *gitsync.Snapshot) (*rules.Policy, error) {
	p, err := rules.Load(snap.FS, snap.Commit, mask.Detectors()...)
	if err != nil {
		return nil, err
	}
	p.FindSecrets(enforcer.SecretsByPolicy(p))
	if p.UsesSQL() {
		if err := rules.Warm(); err != nil {
			return nil, err
		}
		debug.FreeOSMemory() // compiling the parser takes, once, many times what it then needs
	}
	if failed := failedCases(p); failed != "" {
		return nil, fmt.Errorf("its own test cases fail: %s", failed)
	}
	return p, nil
}

func (f *policyFollower) record(ctx context.Context, snap *gitsync.Snapshot, status string) error {
	reason := ""
	if snap.Reset {
		reason = "the operator named it in COUNTERSIGN_POLICY_RESET_TO"
	}
	return f.gate.RecordPolicy(ctx, snap.Commit, status, reason, map[string]any{
		"subject": brief(snap.Subject), "author": brief(snap.Author), "signer": brief(snap.Signer),
		"committed": snap.When.UTC(), "reset": snap.Reset,
	})
}

// brief bounds what a commit may say of itself.
func brief(s string) string {
	if len(s) > 200 {
		s = strings.ToValidUTF8(s[:200], "") + "…"
	}
	return s
}

func (f *policyFollower) install(snap *gitsync.Snapshot, p *rules.Policy, status string) {
	f.gate.Install(p, snap.Confirmed)
	f.last.Store(p)
	limitMemory(p.Settings().MaxMemory)
	f.gate.Rejected("")
	f.log.Info("policy in force", "commit", snap.Commit, "subject", snap.Subject, "signer", snap.Signer, "how", status)
	if f.told != nil {
		f.told(snap.Commit, snap.Signer, nil)
	}
}

// reject says loudly, once for each reason, that the newest policy is not in
// force.
func (f *policyFollower) reject(ctx context.Context, commit string, why error) {
	reason := why.Error()
	news := f.gate.Rejected(strings.TrimSpace(commit + " " + reason))
	if !news && !f.unrecorded {
		return
	}
	f.log.Error("policy rejected; the last good one stays", "commit", commit, "reason", reason)
	err := f.gate.RecordPolicy(ctx, commit, "rejected", reason, nil)
	if f.unrecorded = err != nil; f.unrecorded {
		f.log.Error("the rejection could not be recorded yet", "err", err)
	}
	if f.told != nil && commit != "" {
		f.told(commit, "", why)
	}
}

// failedCases names the cases of tests/*.yaml that do not come out as written.
func failedCases(p *rules.Policy) string {
	var failed []string
	for _, c := range p.Cases() {
		if c.Problem != nil {
			failed = append(failed, c.Problem.String())
		}
	}
	return strings.Join(failed, "; ")
}
