package audit

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// ownKeys are the keys with which an enforcer has replaced its own, on record:
// lines of .pub files. They are trusted from the entry on that says so.
type ownKeys struct {
	Checkpoints []string `json:"checkpoints,omitempty"`
	Commits     []string `json:"commits,omitempty"`
	// Retired are the keys that were replaced, in the order in which that was read.
	Retired []retirement `json:"retired,omitempty"`
}

// ownKeys gives the keys with which an enforcer has replaced its checkpoint key.
func (v *verification) ownKeys(enforcer string) (keys []ed25519.PublicKey) {
	own := v.keys[enforcer]
	if own == nil {
		return nil
	}
	for _, line := range own.Checkpoints {
		if k, err := parsePublicLine(line); err == nil { // rotated read it
			keys = append(keys, k)
		}
	}
	return keys
}

// open reads a checkpoint that a key of its enforcer must have signed, and gives
// those that did.
func (v *verification) open(signed string) (Checkpoint, []string, error) {
	enforcer, _, _ := strings.Cut(signed, "/")
	return v.cfg.Keys.openWith(signed, v.ownKeys(enforcer))
}

// rotated takes up an entry by which a key is replaced. Everything about it is
// checked but that nobody else has the old key.
func (v *verification) rotated(l *logState, at Problem, e *Entry, c Commit) {
	at.Class, at.Entry = ClassRotation, int64(e.Seq)
	bad := func(format string, args ...any) {
		at.Text = fmt.Sprintf("entry %d: ", e.Seq) + fmt.Sprintf(format, args...)
		v.problem(at)
	}
	if e.Status != StatusRotated {
		return
	}
	var r Rotation
	if err := json.Unmarshal(e.Detail, &r); err != nil {
		bad("it replaces a key, and does not read: %v", err)
		return
	}
	old, _, err := r.Keys()
	switch {
	case err != nil:
		bad("it replaces a key, and proves nothing: %v", err)
		return
	case r.Enforcer != l.Enforcer:
		bad("it replaces a key of %s, in the log of %s", r.Enforcer, l.Enforcer)
		return
	}
	own := v.keys[l.Enforcer]
	if own == nil {
		own = &ownKeys{}
		v.keys[l.Enforcer] = own
	}
	add := func(list *[]string) {
		if err := own.retire(retirement{r.Use, r.Old, r.New, l.origin(), e.Seq, e.Time}); err != nil {
			at.Class = ClassRetired
			bad("%v", err)
			return
		}
		if !slices.Contains(*list, r.New) {
			*list = append(*list, r.New)
			v.rep.Notes = append(v.rep.Notes, fmt.Sprintf("%s replaced its %s key at entry %d of %s, on %s: it is now %s", l.Enforcer, r.Use, e.Seq, l.origin(), clock(e.Time), r.New))
		}
	}
	switch r.Use {
	case UseCheckpoint:
		if !slices.ContainsFunc(append(v.cfg.Keys.Of(l.origin()), v.ownKeys(l.Enforcer)...), func(k ed25519.PublicKey) bool { return k.Equal(old) }) {
			bad("a checkpoint key that you do not trust names its successor: %s", r.Old)
			return
		}
		add(&own.Checkpoints)
	case UseCommit:
		if slices.Contains(own.Commits, r.Old) {
			add(&own.Commits)
			return
		}
		if v.cfg.Committer == nil {
			return
		}
		signer, err := v.cfg.Committer(r.Old, l.Enforcer, c.When)
		if err == nil {
			err = v.writes(signer, l.Enforcer)
		}
		if err != nil {
			bad("a commit key that you do not trust names its successor: %v", err)
			return
		}
		add(&own.Commits)
	}
}

// writes tells whether a signer may write an enforcer's log.
func (v *verification) writes(signer, enforcer string) error {
	if v.cfg.Writer == nil {
		return nil
	}
	if is := v.cfg.Writer(signer); is != "" && is != enforcer {
		return fmt.Errorf("it is %s's key, and this is a log of %s; a key that both have must be listed for both", is, enforcer)
	}
	return nil
}

// signedByOwn tries the keys with which the enforcer has replaced its own.
func (v *verification) signedByOwn(l *logState, c Commit) (string, bool) {
	own := v.keys[l.Enforcer]
	if own == nil || v.cfg.SignedBy == nil {
		return "", false
	}
	for _, key := range own.Commits {
		if v.cfg.SignedBy(c.Raw, c.When, key) == nil {
			return l.Enforcer + ", by a key that it replaced its own with", true
		}
	}
	return "", false
}
