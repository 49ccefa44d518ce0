package audit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// ErrState: what is given as an earlier run's state is none, was changed, or is
// of another record or other keys.
var ErrState = errors.New("audit: the state of an earlier verification cannot be used")

// Verified is what Verify found to hold, so that the next run reads only what is
// new. It is an anchor as well: a record that no longer holds what it held then
// has a problem. Who can change it can hide a change of what it covers: keep it
// where those who hold the record do not write.
//
// It is one JSON object; Encode ends it with a digest, which finds damage, not
// malice.
type Verified struct {
	Version int                 `json:"version"` // 1
	Trust   string              `json:"trust"`   // digest of keys and settings that the caller chose: see NewVerified
	Logs    map[string]stateLog `json:"logs,omitempty"`
	Calls   *stateCalls         `json:"calls,omitempty"`
	Keys    map[string]*ownKeys `json:"keys,omitempty"` // with which enforcers have replaced theirs
}

type stateLog struct {
	Size       uint64            `json:"size"`
	Hashes     [][]byte          `json:"hashes"`         // of the tree's edge
	Base       []byte            `json:"base,omitempty"` // where another repository was continued
	Tips       map[string]string `json:"tips"`           // of each month's branch
	Tip        string            `json:"tip"`
	Commits    int               `json:"commits"`
	First      time.Time         `json:"first"`
	Last       time.Time         `json:"last"`
	Signed     time.Time         `json:"signed"`
	Signers    []string          `json:"signers"`
	Checkpoint string            `json:"checkpoint"` // the newest, as its text
	Start      *Start            `json:"start,omitempty"`
	Calls      logCalls          `json:"calls"`
	Anchors    []stateAnchor     `json:"anchors,omitempty"` // that its entries hold
	Uses       []lastUse         `json:"uses,omitempty"`    // of keys
	Rolled     []uint64          `json:"rolled,omitempty"`
}

type stateAnchor struct {
	Origin string    `json:"origin"`
	Size   uint64    `json:"size"`
	Root   tlog.Hash `json:"root"`
	From   string    `json:"from"`
}

type stateCalls struct {
	Checked Checked                      `json:"checked"`
	Cast    map[string]map[string]string `json:"cast,omitempty"`
	Spent   map[string]string            `json:"spent,omitempty"`
	Used    map[string]usedApproval      `json:"used,omitempty"`
	Groups  map[string][]string          `json:"groups,omitempty"`
	IDs     []byte                       `json:"ids,omitempty"` // hashes of the ids of calls, eight bytes each
}

// NewVerified is the state before any run. trust is what the record is held
// against (keys, signers, whether a policy repository is given): a state serves
// for the same only.
func NewVerified(trust ...string) *Verified {
	h := sha256.New()
	for _, t := range trust {
		fmt.Fprintf(h, "%d\n%s", len(t), t)
	}
	return &Verified{Version: 1, Trust: hex.EncodeToString(h.Sum(nil))}
}

// Encode gives the state's file.
func (s *Verified) Encode() ([]byte, error) {
	b, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrState, err)
	}
	sum := sha256.Sum256(b)
	return fmt.Appendf(b, "\nsha256 %x\n", sum), nil
}

// Load reads a file that Encode made, for the same trust as s was made for.
// Errors wrap ErrState.
func (s *Verified) Load(file []byte) error {
	body, end, ok := cutLine(file)
	sum := sha256.Sum256(body)
	if !ok || string(end) != fmt.Sprintf("sha256 %x\n", sum) {
		return fmt.Errorf("%w: the file is damaged, was changed, or is not one; remove it to verify from the beginning", ErrState)
	}
	var found Verified
	if err := json.Unmarshal(body, &found); err != nil || found.Version != 1 {
		return fmt.Errorf("%w: it is of another version; remove it to verify from the beginning", ErrState)
	}
	if found.Trust != s.Trust {
		return fmt.Errorf("%w: it was made with other keys, or with or without --policy; remove it to verify from the beginning", ErrState)
	}
	*s = found
	return nil
}

func cutLine(b []byte) (line, rest []byte, ok bool) {
	for i, c := range b {
		if c == '\n' {
			return b[:i], b[i+1:], true
		}
	}
	return b, nil, false
}

// resume takes up the state, if there is one and it is of this record.
func (v *verification) resume(stretches map[string][]stretch) error {
	s := v.cfg.State
	if s == nil || len(s.Logs) == 0 {
		return nil
	}
	here := 0
	for o := range s.Logs {
		if stretches[o] != nil {
			here++
		}
	}
	if here == 0 && len(stretches) > 0 {
		return fmt.Errorf("%w: it is of another record, none of whose logs is here", ErrState)
	}
	for _, o := range slices.Sorted(maps.Keys(s.Logs)) {
		if stretches[o] == nil {
			v.problem(Problem{Class: ClassState, Origin: o, Entry: -1, Text: fmt.Sprintf(
				"an earlier run verified %d entries of this log, and its branches are gone", s.Logs[o].Size)})
		}
	}
	v.before = *s
	for enforcer, own := range s.Keys {
		v.keys[enforcer] = &ownKeys{slices.Clone(own.Checkpoints), slices.Clone(own.Commits), slices.Clone(own.Retired)}
	}
	v.untold()
	if c := s.Calls; c != nil {
		v.calls.Checked = c.Checked
		v.calls.Undecided = maps.Clone(c.Checked.Undecided)
		v.calls.know(c.IDs)
		b := &v.calls.votes
		for _, m := range []func(){
			func() { take(b.cast, c.Cast) }, func() { take(b.spent, c.Spent) }, func() { take(b.used, c.Used) }, func() { take(b.groups, c.Groups) },
		} {
			m()
		}
	}
	return nil
}

func take[V any](to, from map[string]V) { maps.Copy(to, from) }

// begin is a log as an earlier run left it, or from its beginning.
func (v *verification) begin(origin string, stretches []stretch) *logState {
	l := newLog(origin)
	s, ok := v.before.Logs[origin]
	if !ok {
		return l
	}
	for m := range s.Tips {
		if !slices.ContainsFunc(stretches, func(s stretch) bool { return s.name == m }) {
			month, _, _ := strings.Cut(m, ".")
			v.problem(Problem{Class: ClassState, Origin: origin, Branch: branchName(origin, month), Entry: -1,
				Text: "an earlier run verified this branch, and it is gone"})
			return l
		}
	}
	edge := edge{size: s.Size}
	for _, h := range s.Hashes {
		if len(h) != tlog.HashSize {
			return l // not what keep writes; the digest was made to fit: from the beginning
		}
		edge.hashes = append(edge.hashes, tlog.Hash(h))
	}
	l.edge, l.tips, l.Tip, l.Commits, l.Signers = edge, maps.Clone(s.Tips), s.Tip, s.Commits, slices.Clone(s.Signers)
	l.First, l.Last, l.last, l.Signed, l.Resumed = s.First, s.Last, s.Last, s.Signed, s.Size
	l.start, l.calls, l.uses, l.rolled = s.Start, s.Calls.clone(), slices.Clone(s.Uses), slices.Clone(s.Rolled)
	l.Checkpoint = Checkpoint{Origin: origin, Size: s.Size, Root: edge.root()}
	l.roots = []sizedRoot{{0, newLog(origin).roots[0].root}, {s.Size, l.Checkpoint.Root}}
	if len(s.Base) > 0 {
		if b, err := parseBase(s.Base); err == nil {
			l.base = b
		}
	}
	for _, a := range s.Anchors {
		v.anchors = append(v.anchors, anchor{Checkpoint{a.Origin, a.Size, a.Root}, a.From, origin})
	}
	return l
}

func (c logCalls) clone() logCalls {
	n := newLogCalls()
	maps.Copy(n.Open, c.Open)
	maps.Copy(n.Recovered, c.Recovered)
	maps.Copy(n.Policies, c.Policies)
	maps.Copy(n.Spent, c.Spent)
	maps.Copy(n.Streams, c.Streams)
	n.Served, n.Continued = c.Served, c.Continued
	return n
}

// rolledBack is where a branch no longer holds the commit that an earlier run
// had verified: that is a problem whatever is there now. The tree that was
// verified serves as an anchor, which names the first entry that is not there
// any more.
func (v *verification) rolledBack(ctx context.Context, l *logState, branch string, at stretch) error {
	v.problem(Problem{Class: ClassState, Origin: l.origin(), Branch: branch, Commit: l.tips[at.name], Entry: -1, Text: fmt.Sprintf(
		"an earlier run verified this log up to entry %d, and the branch no longer holds the commit it saw: it was rolled back, or rewritten", l.Resumed-1)})
	v.anchors = append(v.anchors, anchor{Checkpoint{l.origin(), l.Resumed, l.roots[1].root}, "the state of an earlier run", ""})
	*l = *newLog(l.origin())
	clear(v.calls.seen) // its calls come again, and that is no fault of theirs
	stretches, err := v.stretches()
	if err != nil {
		return err
	}
	for _, s := range stretches[l.origin()] {
		if l.broken {
			return nil
		}
		if err := v.month(ctx, l, s); err != nil || s == at {
			return err // the caller goes on with the later ones
		}
	}
	return nil
}

// keep brings the state up to date with what holds so far.
func (v *verification) keep() {
	s := v.cfg.State
	if s == nil || len(v.rep.Problems) > 0 {
		return
	}
	s.Logs = maps.Clone(v.before.Logs)
	if s.Logs == nil {
		s.Logs = map[string]stateLog{}
	}
	for _, l := range v.logs {
		at := stateLog{
			Size: l.size, Tips: maps.Clone(l.tips), Tip: l.Tip, Commits: l.Commits, First: l.First, Last: l.Last, Signed: l.Signed,
			Signers: l.Signers, Checkpoint: l.Checkpoint.text(), Start: l.start, Calls: l.calls.clone(), Uses: slices.Clone(l.uses), Rolled: slices.Clone(l.rolled),
		}
		if l.base.size > 0 {
			at.Base = l.base.appendBase(nil)
		}
		for _, h := range l.hashes {
			at.Hashes = append(at.Hashes, h[:])
		}
		newest := map[string]stateAnchor{} // the earlier ones of a log were held against it
		for _, a := range slices.Concat(v.anchors, v.read(v.pending)) {
			if a.in == l.origin() && a.Size >= newest[a.Origin].Size {
				newest[a.Origin] = stateAnchor{a.Origin, a.Size, a.Root, a.from}
			}
		}
		at.Anchors = slices.Collect(maps.Values(newest))
		s.Logs[l.origin()] = at
	}
	s.Keys = v.keys
	b := &v.calls.votes
	checked := v.calls.Checked
	checked.Undecided = maps.Clone(checked.Undecided)
	s.Calls = &stateCalls{checked, maps.Clone(b.cast), maps.Clone(b.spent), maps.Clone(b.used), maps.Clone(b.groups), v.calls.ids()}
}

// read takes the anchors that are not opened yet for what they say: the run
// that keeps them opens them before it is over, or keeps nothing.
func (v *verification) read(pending []signedAnchor) (out []anchor) {
	for _, a := range pending {
		if c, err := ReadCheckpoint(a.signed); err == nil {
			out = append(out, anchor{c, a.from, a.in})
		}
	}
	return out
}

// discard takes back what keep noted: something that concerns several logs does
// not hold.
func (v *verification) discard() {
	if v.cfg.State != nil {
		v.cfg.State.Logs, v.cfg.State.Calls, v.cfg.State.Keys = v.before.Logs, v.before.Calls, v.before.Keys
	}
}
