package audit

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// anchor is a checkpoint that somebody holds apart from the log it is of.
type anchor struct {
	Checkpoint
	from string
}

// anchor adds a signed checkpoint to those that the logs must hold.
func (v *verification) anchor(signed, from string) {
	c, err := OpenCheckpoint(signed, v.cfg.Keys)
	if err != nil {
		v.problem(Problem{Entry: -1, Text: fmt.Sprintf("%s: %v", from, err)})
		return
	}
	v.anchors = append(v.anchors, anchor{c, from})
}

// links checks that the incarnations of an enforcer follow each other, and
// takes the checkpoint that each first entry names as an anchor.
func (v *verification) links() {
	follows := map[string]string{} // previous → next
	begins := map[string][]string{}
	for i, l := range v.logs {
		if l.start == nil {
			continue
		}
		if l.start.Previous == "" {
			begins[l.Enforcer] = append(begins[l.Enforcer], l.origin())
			continue
		}
		c, err := ReadCheckpoint(l.start.Previous)
		at := Problem{Origin: l.origin(), Entry: 0}
		if err != nil || !strings.HasPrefix(c.Origin, l.Enforcer+"/") || c.Origin == l.origin() {
			at.Text = fmt.Sprintf("entry 0 names no checkpoint of an earlier incarnation of %s", l.Enforcer)
			v.problem(at)
			continue
		}
		v.rep.Logs[i].Previous = c.Origin
		if other := follows[c.Origin]; other != "" {
			at.Text = fmt.Sprintf("entry 0 says that it follows %s, and so does %s: the record forks (was a state directory copied, or restored?)", c.Origin, other)
			v.problem(at)
		}
		follows[c.Origin] = l.origin()
		v.anchor(l.start.Previous, "entry 0 of "+l.origin())
	}
	for enforcer, origins := range begins {
		if len(origins) > 1 {
			v.rep.Notes = append(v.rep.Notes, fmt.Sprintf("%s began anew %d times (%s): its state directory was lost, or there are several",
				enforcer, len(origins), strings.Join(origins, ", ")))
		}
	}
	slices.Sort(v.rep.Notes)
}

// hold compares the logs with the anchors.
func (v *verification) hold() {
	for _, l := range v.logs {
		var mine []anchor
		for _, a := range v.anchors {
			if a.Origin == l.origin() {
				mine = append(mine, a)
			}
		}
		if err := v.rootsFor(l, mine); err != nil {
			v.problem(Problem{Origin: l.origin(), Entry: -1, Text: err.Error()})
			continue
		}
		for _, a := range mine {
			at := Problem{Origin: l.origin(), Entry: -1}
			root, ok := l.roots[a.Size]
			switch {
			case ok && root == a.Root:
				v.rep.Anchors++
			case ok:
				at.Text = fmt.Sprintf("%s holds a signed tree of %d entries that is not this one: the record forks, or was rewritten", a.from, a.Size)
				v.problem(at)
			case l.broken:
				v.rep.Notes = append(v.rep.Notes, fmt.Sprintf("%s holds a checkpoint of %s with %d entries; it was not reached", a.from, a.Origin, a.Size))
			default:
				at.Entry = int64(l.size)
				at.Text = fmt.Sprintf("entry %d and those up to %d are missing: the record ends before the checkpoint that %s holds", l.size, a.Size-1, a.from)
				v.problem(at)
			}
		}
	}
	for _, a := range v.anchors {
		known := slices.ContainsFunc(v.logs, func(l *logState) bool { return l.origin() == a.Origin })
		switch {
		case known:
		case !strings.HasPrefix("audit/"+a.Origin+"/", v.cfg.Prefix):
			v.rep.Notes = append(v.rep.Notes, fmt.Sprintf("%s holds a checkpoint of %s, which was not asked for", a.from, a.Origin))
		default:
			v.problem(Problem{Origin: a.Origin, Entry: -1, Text: fmt.Sprintf(
				"entry 0 and those up to %d are missing: %s holds their checkpoint, and no branch has them", max(a.Size, 1)-1, a.from)})
		}
	}
}

// rootsFor computes the roots at sizes that lie within a batch.
func (v *verification) rootsFor(l *logState, anchors []anchor) error {
	want := map[uint64]bool{}
	for _, a := range anchors {
		if _, ok := l.roots[a.Size]; !ok && a.Size < l.size {
			want[a.Size] = true
		}
	}
	if len(want) == 0 {
		return nil
	}
	var t edge
	for _, h := range l.hashes {
		b, err := v.repo.Blob(h)
		if err != nil {
			return fmt.Errorf("leaf hashes do not read: %w", err)
		}
		for ; len(b) >= tlog.HashSize; b = b[tlog.HashSize:] {
			t.add(tlog.Hash(b[:tlog.HashSize]))
			if want[t.size] {
				l.roots[t.size] = t.root()
			}
		}
	}
	return nil
}
