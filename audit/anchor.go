package audit

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// anchor is a checkpoint that somebody holds apart from the log it is of.
type anchor struct {
	Checkpoint
	from string
	in   string // the log whose entry holds it; "": somebody outside
}

// signedAnchor is one that is not opened yet: the key that signed it may be
// known by an entry that comes later.
type signedAnchor struct{ signed, from, in string }

// anchor adds a signed checkpoint to those that the logs must hold.
func (v *verification) anchor(signed, from, in string) {
	v.pending = append(v.pending, signedAnchor{signed, from, in})
}

// openAnchors reads them, when all keys are known.
func (v *verification) openAnchors() {
	for _, a := range v.pending {
		c, err := ReadCheckpoint(a.signed)
		if err == nil {
			if c, _, err = v.open(a.signed); err != nil && a.in != "" {
				if claim, cerr := ReadCheckpoint(a.signed); cerr == nil && !strings.HasPrefix(anchorPrefix+claim.Origin+"/", v.cfg.Prefix) {
					v.rep.Notes = append(v.rep.Notes, fmt.Sprintf("%s holds a checkpoint of %s, which was not asked for", a.from, claim.Origin))
					continue // so its key need not be among those given
				}
			}
		}
		if err != nil {
			v.problem(Problem{Class: ClassAnchor, Entry: -1, Text: fmt.Sprintf("%s: %v", a.from, err)})
			continue
		}
		v.anchors = append(v.anchors, anchor{c, a.from, a.in})
	}
	v.pending = nil
}

// links checks that the incarnations of an enforcer follow each other, and
// takes the checkpoint that each first entry names as an anchor.
func (v *verification) links() {
	follows := map[string]string{} // previous → next
	begins := map[string][]string{}
	for _, l := range v.logs {
		if l.start == nil {
			continue
		}
		if l.start.Previous == "" {
			begins[l.Enforcer] = append(begins[l.Enforcer], l.origin())
			continue
		}
		c, err := ReadCheckpoint(l.start.Previous)
		at := Problem{Class: ClassEntry, Origin: l.origin(), Entry: 0}
		if err != nil || !strings.HasPrefix(c.Origin, l.Enforcer+"/") || c.Origin == l.origin() {
			at.Text = fmt.Sprintf("entry 0 names no checkpoint of an earlier incarnation of %s", l.Enforcer)
			v.problem(at)
			continue
		}
		l.Previous = c.Origin
		if other := follows[c.Origin]; other != "" {
			at.Class = ClassFork
			at.Text = fmt.Sprintf("entry 0 says that it follows %s, and so does %s: the record forks (was a state directory copied, or restored?)", c.Origin, other)
			v.problem(at)
		}
		follows[c.Origin] = l.origin()
		v.anchor(l.start.Previous, "entry 0 of "+l.origin(), "")
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
		within, err := v.rootsFor(l, mine)
		if err != nil {
			v.problem(Problem{Class: ClassUnread, Origin: l.origin(), Entry: -1, Text: err.Error()})
			continue
		}
		for _, a := range mine {
			at := Problem{Class: ClassFork, Origin: l.origin(), Entry: -1}
			root, ok := v.root(l, a.Size, within)
			switch {
			case ok && root == a.Root:
				v.rep.Anchors++
			case ok:
				at.Text = fmt.Sprintf("%s holds a signed tree of %d entries that is not this one: the record forks, or was rewritten", a.from, a.Size)
				v.problem(at)
			case a.Size < l.base.size:
				v.rep.Notes = append(v.rep.Notes, fmt.Sprintf("%s holds a checkpoint of %s with %d entries; those are in another repository", a.from, a.Origin, a.Size))
			case l.broken:
				v.rep.Notes = append(v.rep.Notes, fmt.Sprintf("%s holds a checkpoint of %s with %d entries; it was not reached", a.from, a.Origin, a.Size))
			default:
				at.Class, at.Entry = ClassMissing, int64(l.size)
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
			v.problem(Problem{Class: ClassMissing, Origin: a.Origin, Entry: -1, Text: fmt.Sprintf(
				"entry 0 and those up to %d are missing: %s holds their checkpoint, and no branch has them", max(a.Size, 1)-1, a.from)})
		}
	}
}

// root gives the root of a log's first size entries, met on the way or computed.
func (v *verification) root(l *logState, size uint64, within map[uint64]tlog.Hash) (tlog.Hash, bool) {
	if root, ok := l.rootAt(size); ok {
		return root, true
	}
	root, ok := within[size]
	return root, ok
}

// rootsFor computes the roots that anchors want at sizes within a batch, or
// before what this run has walked, from the leaf hashes beside the entries.
func (v *verification) rootsFor(l *logState, anchors []anchor) (map[uint64]tlog.Hash, error) {
	roots := map[uint64]tlog.Hash{}
	most := uint64(0)
	for _, a := range anchors {
		if _, ok := l.rootAt(a.Size); !ok && a.Size < l.size {
			roots[a.Size] = tlog.Hash{}
			most = max(most, a.Size)
		}
	}
	if len(roots) == 0 {
		return nil, nil
	}
	t := l.base.clone()
	for _, month := range slices.Sorted(maps.Keys(l.tips)) {
		c, err := v.repo.Commit(l.tips[month])
		if err != nil {
			return nil, fmt.Errorf("leaf hashes do not read: %w", err)
		}
		err = v.hashFiles(c.Tree, "", func(b []byte) bool {
			for ; len(b) >= tlog.HashSize && t.size < most; b = b[tlog.HashSize:] {
				t.add(tlog.Hash(b[:tlog.HashSize]))
				if _, want := roots[t.size]; want {
					roots[t.size] = t.root()
				}
			}
			return t.size < most
		})
		if err != nil {
			return nil, fmt.Errorf("leaf hashes do not read: %w", err)
		}
	}
	for size := range roots { // of entries in a repository before this one
		if size < l.base.size {
			delete(roots, size)
		}
	}
	return roots, nil
}

// hashFiles gives the files of leaf hashes of a tree in the order of their
// entries, which is that of their numbers, until f returns false.
func (v *verification) hashFiles(tree, dir string, f func([]byte) bool) error {
	type file struct {
		first uint64
		hash  string
	}
	var files []file
	var list func(tree, dir string, depth int) error
	list = func(tree, dir string, depth int) error {
		nodes, err := v.repo.Tree(tree)
		if err != nil {
			return err
		}
		for _, n := range nodes {
			path := dir + n.Name
			if n.Mode == modeDir && depth < 12 {
				if err := list(n.Hash, path+"/", depth+1); err != nil {
					return err
				}
			} else if stem, ok := strings.CutSuffix(n.Name, ".hashes"); ok {
				first, err := strconv.ParseUint(stem, 10, 63)
				if err == nil {
					files = append(files, file{first, n.Hash})
				}
			}
		}
		return nil
	}
	if err := list(tree, dir, 0); err != nil {
		return err
	}
	slices.SortFunc(files, func(a, b file) int { return cmp.Compare(a.first, b.first) })
	for _, at := range files {
		b, err := v.repo.Blob(at.hash)
		if err != nil {
			return err
		}
		if !f(b) {
			return nil
		}
	}
	return nil
}
