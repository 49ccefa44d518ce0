package main

import (
	"time"

	agefile "filippo.io/age"

	"countersign/audit"
	"countersign/rules"
)

// bodies is what takes the kept bodies of a run to Git, sealed as the policy has
// it that decided their call. Of a run of an earlier version that is not known:
// then as the policy in force says, and while there is none, they wait in the
// journal.
func (r *record) bodies(bc audit.BodiesConfig, at *site) (*audit.Bodies, error) {
	bc.Store, bc.Now = at.repo, time.Now
	bc.Recipients = func() ([]agefile.Recipient, bool) {
		p := r.inForce()
		if p == nil {
			return nil, false
		}
		to, err := audit.ParseRecipients(p.Settings().Record.Recipients)
		if err != nil { // the policy was checked
			r.log.Error("bodies wait in the journal: the policy's recipients cannot be read", "err", err)
			return nil, false
		}
		return to, true
	}
	bc.Erased = func(digest string) bool { return r.eraser.Erased(digest) }
	return audit.NewBodies(bc)
}

// newEraser makes the eraser, which reaches every repository that is open.
func (r *record) newEraser(bodies []*audit.Bodies) (err error) {
	r.eraser, err = audit.NewEraser(audit.EraserConfig{
		Dir: r.config.StateDir, Enforcer: r.config.ID, Named: r.named, Journal: r.journal, Past: r.previous, Bodies: bodies,
		Subject: func(issuer, sub string) (string, string) {
			s := r.names().Subject(r.inForce(), rules.Subject{Issuer: issuer, Sub: sub})
			return s.Issuer, s.Sub
		},
		Pseudonym: func(issuer, sub string) (string, string) { return issuer, r.names().Pseudonym(issuer, sub) },
		Retention: func() (time.Duration, bool) {
			p := r.inForce()
			if p == nil {
				return 0, false
			}
			return p.Settings().Record.Retention, true
		},
		ID: func() string { return randomID("er_") }, Now: time.Now, Log: r.log,
	})
	if err != nil {
		return err
	}
	for _, s := range r.openSites() {
		if s.name == "" && r.config.rolls() {
			continue // nobody knows where that was
		}
		s.outlet.Add(r.eraser.Reach(s.place()))
	}
	return nil
}

// inForce is the policy, the last one at a stop; nil while there is none.
func (r *record) inForce() *rules.Policy {
	if r.policy == nil {
		return nil // the record was opened, and no more
	}
	return r.policy()
}
