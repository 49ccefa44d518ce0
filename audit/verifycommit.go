package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// commit checks one commit, and moves the log on if it holds.
func (v *verification) commit(l *logState, at Problem, b *prepared, month string) {
	bad := func(class Class, entry int64, format string, args ...any) {
		p := at
		p.Class, p.Entry, p.Text = class, entry, fmt.Sprintf(format, args...)
		v.problem(p)
		l.broken = true
	}
	// The signature comes last: who edits an entry breaks it as well, and the
	// entry is what a person wants to know first.
	defer func() {
		if b.sigErr != nil {
			bad(ClassSignature, -1, "the commit is not signed by a key that you trust: %v", b.sigErr)
		}
	}()
	if b.err != nil {
		bad(ClassUnread, -1, "%v", b.err)
		return
	}
	c, d := b.commit, b.changes
	if p, ok := v.overwritten(l, d); ok {
		bad(ClassEntry, p.Entry, "%s", p.Text)
		return
	}
	base, first := l.edge.clone(), b.parentTree == ""
	if first && !v.continues(l, d, &base, bad) {
		return
	}
	path := batchPath(l.size)
	batch, hashes, hashErr := b.at(v, path)
	if batch.err != nil {
		bad(ClassEntry, int64(l.size), "entry %d does not follow: %v", l.size, batch.err)
		return
	}
	if b.noteErr != nil {
		bad(ClassCheckpoint, -1, "it has no new checkpoint: %v", b.noteErr)
		return
	}
	cp, cpErr := b.cp, b.cpErr
	if cpErr != nil && v.keys[l.Enforcer] != nil {
		cp, _, cpErr = v.open(string(b.note))
	}
	if cpErr == nil && cp.Origin != l.origin() {
		cpErr = fmt.Errorf("the checkpoint is of another log: %s", cp.Origin)
	}
	if cpErr != nil {
		defer func() { bad(ClassCheckpoint, -1, "%v", cpErr) }()
		var err error
		if cp, err = ReadCheckpoint(string(b.note)); err != nil {
			return
		} // a claim, still good enough to point at an entry
	}
	j := judgment{base: base, batchFile: batch, stored: splitHashes(hashes), signed: cp, last: l.last, month: month}
	if b.sigErr == nil {
		j.when = c.When
	}
	if entry, text := j.judge(); text != "" {
		bad(ClassEntry, entry, "%s", text)
		return
	}
	if cpErr == nil { // what the checkpoint covers may say whose the commit's signature is
		for i := range batch.entries {
			if e := &batch.entries[i]; e.Kind == KindKey {
				v.rotated(l, at, e, c)
			}
		}
		if b.sigErr != nil {
			if signer, ok := v.signedByOwn(l, c); ok {
				b.signer, b.sigErr = signer, nil
			}
		}
	}
	if b.sigErr == nil {
		b.sigErr = v.writes(b.signer, l.Enforcer)
	}
	if told, ok := messageNote(c.Message); !ok || told != string(b.note) {
		bad(ClassMessage, -1, "its message carries another checkpoint than its file")
	} else if told, due := b.told(l, batch); due && told != c.Message {
		bad(ClassMessage, -1, "its message does not tell what its entries say: %s", firstDifference(c.Message, told))
	} else if due {
		v.calls.Messages++
	}
	if hashErr != nil {
		bad(ClassEntry, -1, "the leaf hashes beside entries %d to %d are missing: %v", l.size, cp.Size-1, hashErr)
	}
	for p := range d.added {
		if p != path+".jsonl" && p != path+".hashes" && (!first || p != "checkpoint" && p != "base" && p != handoverFile) {
			bad(ClassBranch, -1, "it adds %q, which is no part of the record", p)
		}
	}
	if l.broken || cpErr != nil || b.sigErr != nil {
		return
	}
	v.collect(l, at, batch.entries)
	if l.broken {
		return
	}
	if l.size == 0 {
		l.First = batch.entries[0].Time
	}
	l.written[l.size] = c.When.Unix()
	l.edge = j.after
	l.last, l.Last = batch.entries[len(batch.entries)-1].Time, batch.entries[len(batch.entries)-1].Time
	l.Checkpoint, l.Signed = cp, c.When
	l.roots = append(l.roots, sizedRoot{l.size, cp.Root})
	if err := v.used(l, b); err != nil {
		bad(ClassCheckpoint, -1, "%v", err)
		return
	}
	if !slices.Contains(l.Signers, b.signer) {
		l.Signers = append(l.Signers, b.signer)
	}
}

// continues checks where a branch begins: where the month before ends. base
// becomes the edge that the branch begins with.
func (v *verification) continues(l *logState, d changes, base *edge, bad func(Class, int64, string, ...any)) bool {
	var err error
	if *base, err = v.monthBase(d); err != nil {
		bad(ClassEntry, -1, "%v", err)
		return false
	}
	if d.added[handoverFile] != "" && !v.handover(l, d, base, bad) {
		return false
	}
	switch {
	case base.size > l.size:
		bad(ClassMissing, int64(l.size), "entry %d and those up to %d are missing: the branch begins after them", l.size, base.size-1)
	case base.size < l.size:
		bad(ClassFork, int64(base.size), "entry %d is there twice, in this branch and in the month before: the record forks", base.size)
	case base.root() != l.root():
		bad(ClassFork, -1, "the month does not continue the tree of the one before, of %d entries", l.size)
	default:
		return true
	}
	return false
}

// told gives the message that the commit must have. Before entries of schema 2,
// messages had a subject for people that nobody can make again. Where the log
// goes on from another repository its start may not have been read; no version
// before schema 2 did that.
func (p *prepared) told(l *logState, batch batchFile) (message string, due bool) {
	var s Start
	switch {
	case l.start != nil:
		s = *l.start
	case len(batch.entries) > 0 && batch.entries[0].Seq == 0:
		_ = json.Unmarshal(batch.entries[0].Detail, &s) // what it is not, collect says
	}
	if s.Schema < 2 && l.base.size == 0 && !strings.Contains(p.commit.Message, "\nEntries: ") {
		return "", false
	}
	if p.message == "" { // the batch was not the one that was prepared
		return commitMessage(batch.entries, string(p.note)), true
	}
	return p.message, true
}

// firstDifference shows the first line in which two messages differ.
func firstDifference(is, want string) string {
	a, b := strings.Split(is, "\n"), strings.Split(want, "\n")
	i := 0
	for i < len(a)-1 && i < len(b)-1 && a[i] == b[i] {
		i++
	}
	return fmt.Sprintf("%q, and not %q", a[i], b[i])
}

// collect takes from a batch that holds what later checks need.
func (v *verification) collect(l *logState, at Problem, entries []Entry) {
	for i := range entries {
		e := &entries[i]
		v.calls.take(&l.calls, at, e)
		v.bodies(l, at, e)
		switch {
		case e.Seq == 0:
			var s Start
			if e.Kind != KindStart || json.Unmarshal(e.Detail, &s) != nil || s.Enforcer != l.Enforcer || s.Incarnation != l.Incarnation {
				at.Class, at.Entry = ClassEntry, 0
				at.Text = "entry 0 does not begin this log: it must be of kind start, and name " + l.origin()
				v.problem(at)
				l.broken = true
				return
			}
			l.start = &s
		case e.Kind == KindRolled:
			l.rolled = append(l.rolled, e.Seq+1)
		case e.Kind == KindAnchor:
			var a Anchor
			if json.Unmarshal(e.Detail, &a) == nil && a.Checkpoint != "" {
				v.anchor(a.Checkpoint, fmt.Sprintf("entry %d of %s", e.Seq, l.origin()), l.origin())
			}
		}
	}
}

// bodies looks for the bodies of an entry. One that is not there was erased,
// has expired, or its branch was not cloned: that is no fault, and counted. One
// that is sealed is not opened; that what is sealed is what the entry says, who
// has the key can see.
func (v *verification) bodies(l *logState, at Problem, e *Entry) {
	for _, ref := range e.Bodies {
		if len(v.shelves) == 0 || ref.Kept != KeptFull {
			continue
		}
		state, why, err := BodyGone, error(nil), error(nil)
		for _, s := range v.shelves {
			if state, why, err = CheckBody(s, l.origin(), e.Time, ref); state != BodyGone {
				break
			}
		}
		switch {
		case err != nil:
			at.Class, at.Entry, at.Text = ClassUnread, int64(e.Seq), fmt.Sprintf("entry %d: its %s does not read: %v", e.Seq, ref.Of, err)
			v.problem(at)
		case state == BodyWhole:
			v.calls.Bodies++
		case state == BodySealed:
			v.calls.Sealed++
		case state == BodyGone:
			v.calls.Erased++
		default:
			at.Class, at.Entry, at.Text = ClassBody, int64(e.Seq), fmt.Sprintf("entry %d: its %s is not what was recorded: %v", e.Seq, ref.Of, why)
			v.problem(at)
		}
	}
}

// monthBase reads the edge that a month begins with.
func (v *verification) monthBase(d changes) (edge, error) {
	if _, ok := d.added["base"]; !ok {
		return edge{}, nil
	}
	b, err := v.blob(d.added, "base")
	if err != nil {
		return edge{}, err
	}
	return parseBase(b)
}

// overwritten finds what no commit may do: touch what an earlier one wrote.
func (v *verification) overwritten(l *logState, d changes) (Problem, bool) {
	paths := make([]string, 0, len(d.gone))
	for p := range d.gone {
		if p != "checkpoint" || d.latest[p] == "" {
			paths = append(paths, p)
		}
	}
	slices.SortFunc(paths, func(a, b string) int { // lines before hashes: they name an entry
		if x, y := strings.HasSuffix(a, ".jsonl"), strings.HasSuffix(b, ".jsonl"); x != y {
			if x {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
	if len(paths) == 0 {
		return Problem{}, false
	}
	p := paths[0]
	found := Problem{Entry: -1, Text: fmt.Sprintf("it changes or removes %q, which an earlier commit wrote", p)}
	when, known := l.writtenAt(p)
	now, there := d.latest[p]
	if !known || !there {
		return found, true
	}
	was, err1 := v.repo.Blob(d.gone[p])
	is, err2 := v.repo.Blob(now)
	if err1 != nil || err2 != nil {
		return found, true
	}
	a, b := bytes.Split(was, []byte("\n")), bytes.Split(is, []byte("\n"))
	i := 0
	for i < len(a)-2 && i < len(b) && bytes.Equal(a[i], b[i]) {
		i++
	}
	if e, err := Decode(a[i]); err == nil {
		found.Entry = int64(e.Seq)
		found.Text = fmt.Sprintf("entry %d does not match the tree signed at %s: a later commit changed it", e.Seq, clock(when))
	}
	return found, true
}

// writtenAt tells when a file of lines was committed.
func (l *logState) writtenAt(path string) (time.Time, bool) {
	stem, ok := strings.CutSuffix(path, ".jsonl")
	first, err := strconv.ParseUint(stem[strings.LastIndexByte(stem, '/')+1:], 10, 63)
	unix, known := l.written[first]
	return time.Unix(unix, 0), ok && err == nil && known && batchPath(first) == stem
}

func (v *verification) blob(in map[string]string, path string) ([]byte, error) {
	h, ok := in[path]
	if !ok {
		return nil, fmt.Errorf("the commit adds no %s", path)
	}
	b, err := v.repo.Blob(h)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return b, nil
}
