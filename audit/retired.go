package audit

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

// retirement is a key that was replaced, and the entry that says so. From there
// on the new key signs all that the enforcer writes: a checkpoint while both are
// configured has a line of each, a commit is signed by the new one. So what only
// the old one signed is from before, or by who has stolen it: an operator
// destroys it, but a copy of it may be anywhere.
type retirement struct {
	Use    string    `json:"use"`
	Old    string    `json:"old"`
	New    string    `json:"new"`
	Origin string    `json:"origin"`
	Entry  uint64    `json:"entry"`
	Time   time.Time `json:"time"`
}

// retire takes up that a key was replaced. One key has one successor: another is
// named by somebody else who has it.
func (own *ownKeys) retire(r retirement) error {
	for _, before := range slices.Backward(own.Retired) {
		switch {
		case before.Use != r.Use:
		case before.New == r.Old:
			own.Retired = append(own.Retired, r) // it came back meanwhile
			return nil
		case before.Old == r.Old && before.New == r.New:
			return nil // said again, by a start that did not know that it was said
		case before.Old == r.Old:
			return fmt.Errorf("a key has two successors: entry %d of %s, on %s, names %s, and this one %s",
				before.Entry, before.Origin, clock(before.Time), before.New, r.New)
		}
	}
	own.Retired = append(own.Retired, r)
	return nil
}

// retired gives the entry by which a key was replaced for good.
func (own *ownKeys) retired(use, key string) (retirement, bool) {
	for _, r := range slices.Backward(own.Retired) {
		if r.Use == use && r.New == key {
			return retirement{}, false
		}
		if r.Use == use && r.Old == key {
			return r, true
		}
	}
	return retirement{}, false
}

// lastUse is the newest of a log that certain keys signed: a commit's, or all
// those of a checkpoint.
type lastUse struct {
	Use    string    `json:"use"`
	Keys   []string  `json:"keys"`
	Size   uint64    `json:"size"` // of the tree
	Last   time.Time `json:"last"` // entry of it
	Commit string    `json:"commit"`
}

// used notes which keys signed a commit that holds, and its checkpoint.
func (v *verification) used(l *logState, b *prepared) error {
	cp := b.cpKeys
	if v.keys[l.Enforcer] != nil { // those that replaced others may be among them, one that this very commit names, too
		var err error
		if _, cp, err = v.open(string(b.note)); err != nil {
			return err
		}
	}
	l.note(lastUse{UseCheckpoint, cp, l.size, l.last, b.hash})
	if b.commitKey != "" {
		l.note(lastUse{UseCommit, []string{b.commitKey}, l.size, l.last, b.hash})
	}
	return nil
}

func (l *logState) note(u lastUse) {
	for i, before := range l.uses {
		if before.Use == u.Use && slices.Equal(before.Keys, u.Keys) {
			l.uses[i] = u
			return
		}
	}
	l.uses = append(l.uses, u)
}

// retirements looks, when all logs are walked, for what was signed by nothing
// but keys that had been replaced before. That is: in the log that says so,
// whatever comes with that entry or after it; in the runs before that one,
// whatever comes after the end that the next run names; in the runs after it,
// anything. A run that neither follows it nor is followed by it, as after a
// state directory was lost, can only be held to its dates; and so can what of a
// run comes after its end as the next one names it, if that is a roll: killed
// there, the run goes on in the next repository when the one before is pushed.
func (v *verification) retirements() {
	byOrigin := map[string]*logState{}
	ends := map[string]uint64{} // of runs that another follows, as that one says
	for _, l := range v.logs {
		byOrigin[l.origin()] = l
		if c, ok := l.follows(); ok {
			ends[c.Origin] = max(ends[c.Origin], c.Size)
		}
	}
	before := func(l *logState) map[string]bool { // the runs that lead to it
		all := map[string]bool{}
		for l != nil {
			c, ok := l.follows()
			if !ok || all[c.Origin] {
				break
			}
			all[c.Origin] = true
			l = byOrigin[c.Origin]
		}
		return all
	}
	for _, l := range v.logs {
		own := v.keys[l.Enforcer]
		if own == nil || len(own.Retired) == 0 {
			continue
		}
		mine := before(l)
		for _, u := range l.uses {
			r, ok := own.allRetired(u)
			if !ok {
				continue
			}
			late := false
			switch {
			case l.origin() == r.Origin:
				late = u.Size > r.Entry
			case before(byOrigin[r.Origin])[l.origin()]:
				end := ends[l.origin()]
				late = u.Size > end && (!slices.Contains(l.rolled, end) || u.Last.After(r.Time))
			default:
				late = mine[r.Origin] || u.Last.After(r.Time)
			}
			if late {
				v.problem(Problem{Class: ClassRetired, Origin: l.origin(), Commit: u.Commit, Entry: int64(u.Size) - 1, Text: fmt.Sprintf(
					"a %s up to entry %d is signed by a key that entry %d of %s had replaced, on %s: whoever has the old key wrote it, or it was put into use again (%s)",
					u.Use, u.Size-1, r.Entry, r.Origin, clock(r.Time), r.Old)})
			}
		}
	}
}

// allRetired gives the last of the entries that replaced the keys of a use, if
// all were.
func (own *ownKeys) allRetired(u lastUse) (last retirement, ok bool) {
	for _, k := range u.Keys {
		r, gone := own.retired(u.Use, k)
		if !gone {
			return retirement{}, false
		}
		if !ok || r.Time.After(last.Time) {
			last, ok = r, true
		}
	}
	return last, ok
}

// follows gives the checkpoint of the run before, as the first entry has it.
func (l *logState) follows() (Checkpoint, bool) {
	if l.start == nil || l.start.Previous == "" {
		return Checkpoint{}, false
	}
	c, err := ReadCheckpoint(l.start.Previous)
	return c, err == nil && strings.HasPrefix(c.Origin, l.Enforcer+"/")
}

// untold notes that a state of an earlier version does not say when keys were
// replaced.
func (v *verification) untold() {
	for _, enforcer := range slices.Sorted(maps.Keys(v.keys)) {
		if own := v.keys[enforcer]; len(own.Retired) == 0 && len(own.Checkpoints)+len(own.Commits) > 0 {
			v.rep.Notes = append(v.rep.Notes, fmt.Sprintf("the state of an earlier run does not say since when keys of %s are replaced, so the old ones still count: remove it to verify from the beginning", enforcer))
		}
	}
}

// commitKey gives the key that a commit's SSH signature names, as a line of a
// .pub file; "" if it has none. That it is by that key is checked elsewhere.
func commitKey(raw []byte) string {
	head, _, _ := bytes.Cut(raw, []byte("\n\n"))
	_, rest, ok := bytes.Cut(head, []byte("\ngpgsig "))
	if !ok {
		return ""
	}
	var armored []byte
	for i, line := range bytes.Split(rest, []byte("\n")) {
		if i > 0 && !bytes.HasPrefix(line, []byte(" ")) {
			break
		}
		armored = append(append(armored, bytes.TrimPrefix(line, []byte(" "))...), '\n')
	}
	sig, err := sshsig.Unarmor(armored)
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(ssh.MarshalAuthorizedKey(sig.PublicKey)), "\n")
}
