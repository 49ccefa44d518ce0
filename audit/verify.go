package audit

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// Repository is read access to a copy of the record: plain Git, nothing that
// only the writer has. Content is checked against its hash by the reader.
type Repository struct {
	Branches func(prefix string) ([]string, error)
	Tip      func(branch string) (hash string, ok bool, err error)
	Commit   func(hash string) (Commit, error)
	Tree     func(hash string) ([]Node, error)
	Blob     func(hash string) ([]byte, error)
}

// Commit is a Git commit, its signature not looked at yet.
type Commit struct {
	Tree    string
	Parents []string
	When    time.Time // of the committer
	Message string
	Raw     []byte // the object
}

// Node is an entry of a Git tree.
type Node struct {
	Name string
	Mode string // as in the tree: 40000 is a folder, 100644 a file
	Hash string
}

// VerifyConfig says what the record is held against.
type VerifyConfig struct {
	Keys []ed25519.PublicKey // of checkpoints
	// Signer checks a commit's signature and names who made it. Required.
	Signer func(raw []byte, when time.Time) (string, error)
	// Prefix limits what is verified to branches that begin so; it lies within
	// "audit/". Empty: all.
	Prefix string
	// Anchors are signed checkpoints that somebody else kept: the record must
	// hold at least what they hold.
	Anchors []string
}

// Report is what Verify found.
type Report struct {
	Logs     []Log
	Entries  uint64
	Commits  int // each has a checkpoint
	Anchors  int // checkpoints held elsewhere that were compared
	Problems []Problem
	Notes    []string // not wrong, but worth knowing
}

// Log is one incarnation's part of a report, as far as it holds.
type Log struct {
	Enforcer    string
	Incarnation string
	Entries     uint64
	Commits     int
	First, Last time.Time
	Checkpoint  Checkpoint // the newest
	Signed      time.Time  // when that was committed
	Signers     []string   // of commits
	Previous    string     // origin of the incarnation before, as the first entry says; empty: none
	Tip         string     // newest commit
}

func (l Log) origin() string { return l.Enforcer + "/" + l.Incarnation }

// Problem is one thing that does not hold.
type Problem struct {
	Origin string
	Branch string
	Commit string
	Entry  int64 // -1: no single one
	Text   string
}

func (p Problem) String() string {
	where := p.Origin
	if p.Branch != "" {
		where = p.Branch
	}
	if p.Commit != "" {
		where += ", commit " + short(p.Commit)
	}
	return p.Text + " (" + where + ")"
}

// OK tells whether there is a record, and everything holds.
func (r *Report) OK() bool { return len(r.Problems) == 0 && len(r.Logs) > 0 }

// String is the report in a line, or a line for each problem.
func (r *Report) String() string {
	if len(r.Problems) > 0 {
		var lines []string
		for _, p := range r.Problems {
			lines = append(lines, p.String())
		}
		return strings.Join(lines, "\n")
	}
	if len(r.Logs) == 0 {
		return "no record here"
	}
	return fmt.Sprintf("%d %s, %d %s, all links hold", r.Entries, plural(int(r.Entries), "entry", "entries"),
		r.Commits, plural(r.Commits, "checkpoint", "checkpoints"))
}

// Verify checks a copy of the record against public keys and anchors: every
// commit's signature; that each branch is one line of commits, each adding one
// batch and nothing else; that the lines read strictly, follow each other, and
// lead to the root in each signed checkpoint; that months continue each other;
// that each incarnation names the one before, and holds what that says. In
// each incarnation it stops after the first commit that does not hold. The
// error is the context's; what cannot be read is a problem.
func Verify(ctx context.Context, repo Repository, cfg VerifyConfig) (*Report, error) {
	v := &verification{repo: repo, cfg: cfg, rep: &Report{}}
	prefix := cfg.Prefix
	if prefix == "" {
		prefix = "audit/"
	}
	branches, err := repo.Branches(prefix)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	months := map[string][]string{} // of each origin
	for _, b := range branches {
		parts := strings.Split(b, "/")
		if len(parts) != 4 || parts[0] != "audit" || !isMonth(parts[3]) {
			v.problem(Problem{Branch: b, Entry: -1, Text: "the branch is no part of a record: audit/<enforcer>/<incarnation>/<yyyy-mm>"})
			continue
		}
		o := parts[1] + "/" + parts[2]
		months[o] = append(months[o], parts[3])
	}
	var origins []string
	for o := range months {
		slices.Sort(months[o])
		origins = append(origins, o)
	}
	slices.Sort(origins)
	for _, o := range origins {
		l := &logState{roots: map[uint64]tlog.Hash{0: (&edge{}).root()}, written: map[string]time.Time{}}
		l.Enforcer, l.Incarnation, _ = strings.Cut(o, "/")
		v.logs = append(v.logs, l)
		for _, m := range months[o] {
			if err := v.month(ctx, l, m); err != nil {
				return nil, err
			}
			if l.broken {
				break
			}
		}
		l.Entries = l.size
		v.rep.Logs = append(v.rep.Logs, l.Log)
		v.rep.Entries += l.Entries
		v.rep.Commits += l.Commits
	}
	v.links()
	for i, a := range cfg.Anchors {
		v.anchor(a, fmt.Sprintf("anchor %d", i+1))
	}
	v.hold()
	return v.rep, nil
}

func isMonth(s string) bool {
	t, err := time.Parse("2006-01", s)
	return err == nil && t.Format("2006-01") == s
}

type verification struct {
	repo    Repository
	cfg     VerifyConfig
	rep     *Report
	logs    []*logState
	anchors []anchor
}

// logState is a log while it is walked.
type logState struct {
	Log
	edge
	last    time.Time
	roots   map[uint64]tlog.Hash // at each checkpoint
	hashes  []string             // blobs of leaf hashes, in order
	written map[string]time.Time // when each batch was committed
	start   *Start
	broken  bool
}

func (v *verification) problem(p Problem) {
	v.rep.Problems = append(v.rep.Problems, p)
}

// month walks one branch from its first commit to its tip.
func (v *verification) month(ctx context.Context, l *logState, month string) error {
	branch := branchName(l.origin(), month)
	here := Problem{Origin: l.origin(), Branch: branch, Entry: -1}
	bad := func(commit, format string, args ...any) {
		p := here
		p.Commit, p.Text = commit, fmt.Sprintf(format, args...)
		v.problem(p)
		l.broken = true
	}
	tip, ok, err := v.repo.Tip(branch)
	if err != nil || !ok {
		bad("", "the branch does not read: %v", err)
		return nil
	}
	var chain []string // newest first
	for hash := tip; ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		c, err := v.repo.Commit(hash)
		if err != nil {
			bad(hash, "the commit does not read: %v", err)
			return nil
		}
		chain = append(chain, hash)
		if len(c.Parents) > 1 {
			bad(hash, "the commit merges two histories; the record has one")
			return nil
		}
		if len(c.Parents) == 0 {
			break
		}
		hash = c.Parents[0]
	}
	parent := ""
	for _, hash := range slices.Backward(chain) {
		if err := ctx.Err(); err != nil {
			return err
		}
		c, err := v.repo.Commit(hash)
		if err != nil {
			bad(hash, "the commit does not read: %v", err)
			return nil
		}
		p := here
		p.Commit = hash
		v.commit(l, p, c, parent, month)
		if l.broken {
			return nil
		}
		parent, l.Tip = c.Tree, hash
		l.Commits++
	}
	return nil
}

// commit checks one commit, and moves the log on if it holds.
func (v *verification) commit(l *logState, at Problem, c Commit, parentTree, month string) {
	bad := func(entry int64, format string, args ...any) {
		p := at
		p.Entry, p.Text = entry, fmt.Sprintf(format, args...)
		v.problem(p)
		l.broken = true
	}
	// The signature comes last: who edits an entry breaks it as well, and the
	// entry is what a person wants to know first.
	signer, sigErr := v.cfg.Signer(c.Raw, c.When)
	defer func() {
		if sigErr != nil {
			bad(-1, "the commit is not signed by a key that you trust: %v", sigErr)
		}
	}()
	d, err := v.diff(parentTree, c.Tree)
	if err != nil {
		bad(-1, "its files do not read: %v", err)
		return
	}
	if p, ok := v.overwritten(l, d); ok {
		bad(p.Entry, "%s", p.Text)
		return
	}
	base := l.edge.clone()
	if parentTree == "" {
		if base, err = v.monthBase(d); err != nil {
			bad(-1, "%v", err)
			return
		}
		switch {
		case base.size > l.size:
			bad(int64(l.size), "entry %d and those up to %d are missing: the branch begins after them", l.size, base.size-1)
			return
		case base.size < l.size:
			bad(int64(base.size), "entry %d is there twice, in this branch and in the month before: the record forks", base.size)
			return
		case base.root() != l.root():
			bad(-1, "the month does not continue the tree of the one before, of %d entries", l.size)
			return
		}
	}
	path := batchPath(l.size)
	lines, err := v.blob(d.added, path+".jsonl")
	if err != nil {
		bad(int64(l.size), "entry %d does not follow: %v", l.size, err)
		return
	}
	hashes, hashErr := v.blob(d.added, path+".hashes")
	note, err := v.blob(d.latest, "checkpoint")
	if err != nil {
		bad(-1, "it has no new checkpoint: %v", err)
		return
	}
	cp, cpErr := OpenCheckpoint(string(note), v.cfg.Keys)
	if cpErr == nil && cp.Origin != l.origin() {
		cpErr = fmt.Errorf("the checkpoint is of another log: %s", cp.Origin)
	}
	if cpErr != nil {
		defer func() { bad(-1, "%v", cpErr) }()
		if cp, err = ReadCheckpoint(string(note)); err != nil {
			return
		} // a claim, still good enough to point at an entry
	}
	j := judgment{base: base, lines: trimLines(lines), stored: splitHashes(hashes), signed: cp, last: l.last, month: month}
	if sigErr == nil {
		j.when = c.When
	}
	if entry, text := j.judge(); text != "" {
		bad(entry, "%s", text)
		return
	}
	if told, ok := messageNote(c.Message); !ok || told != string(note) {
		bad(-1, "its message carries another checkpoint than its file")
	}
	if hashErr != nil {
		bad(-1, "the leaf hashes beside entries %d to %d are missing: %v", l.size, cp.Size-1, hashErr)
	}
	for p := range d.added {
		if p != path+".jsonl" && p != path+".hashes" && (parentTree != "" || p != "checkpoint" && p != "base") {
			bad(-1, "it adds %q, which is no part of the record", p)
		}
	}
	if l.broken || cpErr != nil || sigErr != nil {
		return
	}
	v.collect(l, at, j.entries)
	if l.broken {
		return
	}
	if l.size == 0 {
		l.First = j.entries[0].Time
	}
	l.edge = j.after
	l.last, l.Last = j.entries[len(j.entries)-1].Time, j.entries[len(j.entries)-1].Time
	l.Checkpoint, l.Signed = cp, c.When
	l.roots[l.size] = cp.Root
	l.hashes = append(l.hashes, d.added[path+".hashes"])
	l.written[path+".jsonl"] = c.When
	if !slices.Contains(l.Signers, signer) {
		l.Signers = append(l.Signers, signer)
	}
}

// collect takes from a batch that holds what later checks need.
func (v *verification) collect(l *logState, at Problem, entries []Entry) {
	for _, e := range entries {
		switch {
		case e.Seq == 0:
			var s Start
			if e.Kind != KindStart || json.Unmarshal(e.Detail, &s) != nil || s.Enforcer != l.Enforcer || s.Incarnation != l.Incarnation {
				at.Entry = 0
				at.Text = "entry 0 does not begin this log: it must be of kind start, and name " + l.origin()
				v.problem(at)
				l.broken = true
				return
			}
			l.start = &s
		case e.Kind == KindAnchor:
			var a Anchor
			if json.Unmarshal(e.Detail, &a) == nil && a.Checkpoint != "" {
				v.anchor(a.Checkpoint, fmt.Sprintf("entry %d of %s", e.Seq, l.origin()))
			}
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
	when, known := l.written[p]
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

// changes is the difference of two trees: paths to blobs.
type changes struct {
	added  map[string]string // was not there
	gone   map[string]string // what was there and is not, or is changed
	latest map[string]string // added or changed: what is there now
}

func (v *verification) diff(from, to string) (changes, error) {
	d := changes{map[string]string{}, map[string]string{}, map[string]string{}}
	return d, v.diffTree(&d, "", from, to, 0)
}

func (v *verification) diffTree(d *changes, prefix, from, to string, depth int) error {
	if from == to {
		return nil
	}
	if depth > 12 {
		return fmt.Errorf("folders nest too deeply in %s", prefix)
	}
	read := func(hash string) (map[string]Node, error) {
		m := map[string]Node{}
		if hash == "" {
			return m, nil
		}
		nodes, err := v.repo.Tree(hash)
		for _, n := range nodes {
			m[n.Name] = n
		}
		return m, err
	}
	old, err := read(from)
	if err != nil {
		return err
	}
	now, err := read(to)
	if err != nil {
		return err
	}
	for name := range now {
		if _, ok := old[name]; !ok {
			old[name] = Node{}
		}
	}
	for name, o := range old {
		n, path := now[name], prefix+name
		if o == n {
			continue
		}
		var oldTree, newTree string
		if o.Mode == modeDir {
			oldTree = o.Hash
		} else if o.Hash != "" {
			d.gone[path] = o.Hash
		}
		if n.Mode == modeDir {
			newTree = n.Hash
		} else if n.Hash != "" {
			if n.Mode != modeFile {
				return fmt.Errorf("%s is not a plain file (mode %s)", path, n.Mode)
			}
			d.latest[path] = n.Hash
			if o.Hash == "" {
				d.added[path] = n.Hash
			}
		}
		if err := v.diffTree(d, path+"/", oldTree, newTree, depth+1); err != nil {
			return err
		}
	}
	return nil
}

const (
	modeDir  = "40000"
	modeFile = "100644"
)
