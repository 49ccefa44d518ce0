package audit

import (
	"cmp"
	"context"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"countersign/rules"
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
	Keys LogKeys // of checkpoints
	// Signer checks a commit's signature and names who made it. Required.
	Signer func(raw []byte, when time.Time) (string, error)
	// Writer names the enforcer that a signer is; "" if its name does not say
	// so. An enforcer writes no log but its own: else who steals one's keys could
	// write all logs anew, and their anchors in each other. nil: no name says so.
	Writer func(signer string) string
	// Committer names whose key it is that may sign an enforcer's commits at that
	// time, and SignedBy checks a commit's signature by one key; keys are lines of .pub
	// files. They serve where an enforcer has replaced its key. nil: a commit key
	// that replaced another is not trusted.
	Committer func(key, enforcer string, when time.Time) (string, error)
	SignedBy  func(raw []byte, when time.Time, key string) error
	// Earlier are the repositories before this one, the oldest first, where a log
	// went on in another.
	Earlier []Repository
	// Handover takes a repository's signed hand-over for one before it that is
	// not among Earlier. Whoever has a log's commit key can cut off its beginning
	// with an old checkpoint for a hand-over, so it is a problem without.
	Handover bool
	// Prefix limits what is verified to branches that begin so; it lies within
	// "audit/". Empty: all.
	Prefix string
	// Anchors are signed checkpoints that somebody else kept: the record must
	// hold at least what they hold. AnchorNames, one for each, say where from;
	// without, they are numbered.
	Anchors     []string
	AnchorNames []string
	// Quorum says who must have cosigned every log, up to what was committed
	// Grace before Now; nil: nobody.
	Quorum *Quorum
	Grace  time.Duration
	Now    time.Time
	// Policy gives the policy of a commit from the policy repository, if its
	// accepted history has it; else an error for people. nil: decisions and
	// approvals are checked by the record alone.
	Policy func(commit string) (*rules.Policy, error)
	// AcceptResets are commits, or their beginnings, that operators have reset the
	// policy to with good reason: what an enforcer decided before such a reset of
	// its own cannot be decided again, and that is then a note. Without, it is a
	// problem that a policy which decided something is not in the history.
	AcceptResets []string
	// Bodies has every kept body of the entries that are walked looked for, and
	// held against the entry's digest.
	Bodies bool
	// State is what an earlier run left: what it has verified is not read again,
	// and the record must still hold it. Verify brings it up to date, also when
	// its context ends, unless there is a problem. nil: from the beginning.
	State *Verified
	// Workers read and decode side by side; each holds a batch, of some 10 MB at
	// most. 0: as many as processors.
	Workers int
	// Progress is told, after a commit, which log is being walked and how many
	// entries hold so far; nil: nobody is.
	Progress func(origin string, entries uint64)
}

// Verify checks a copy of the record against public keys and anchors: every
// commit's signature; that each branch is one line of commits, each adding one
// batch and nothing else; that the lines read strictly, follow each other, and
// lead to the root in each signed checkpoint; that months continue each other;
// that each incarnation names the one before, and holds what that says; and
// what the entries say of calls, approvals and policies, see conduct. In each
// incarnation it stops after the first commit that does not hold. The error is
// the context's, or ErrState; what cannot be read is a problem. repo must be
// safe for concurrent use.
func Verify(ctx context.Context, repo Repository, cfg VerifyConfig) (*Report, error) {
	v := &verification{repo: repo, cfg: cfg, rep: &Report{}, keys: map[string]*ownKeys{}}
	pol := &policies{load: cfg.Policy, known: map[string]bool{}, accepted: cfg.AcceptResets}
	v.calls = newConduct(v.problem, pol)
	pol.calls = v.calls
	if v.cfg.Workers == 0 {
		v.cfg.Workers = runtime.GOMAXPROCS(0)
	}
	v.repos = append(slices.Clone(cfg.Earlier), repo)
	if len(v.repos) > 1 {
		v.repo = together(v.repos)
	}
	stretches, err := v.stretches()
	if err != nil {
		return nil, err
	}
	if cfg.Bodies {
		for _, r := range slices.Backward(v.repos) {
			v.shelves = append(v.shelves, NewShelf(r))
		}
	}
	if err := v.resume(stretches); err != nil {
		return nil, err
	}
	for _, o := range v.inOrder(stretches) {
		l := v.begin(o, stretches[o])
		v.logs = append(v.logs, l)
		for _, s := range stretches[o] {
			if l.broken {
				break
			}
			if err := v.month(ctx, l, s); err != nil {
				v.keep()
				return nil, err
			}
		}
	}
	v.keep()
	if unnamed := cfg.Keys.Unnamed(); unnamed != "" {
		v.rep.Notes = append(v.rep.Notes, unnamed)
	}
	v.links()
	v.retirements()
	for i, a := range cfg.Anchors {
		name := strconv.Itoa(i + 1)
		if i < len(cfg.AnchorNames) {
			name = cfg.AnchorNames[i]
		}
		v.anchor(a, "anchor "+name, "")
	}
	v.openAnchors()
	v.hold()
	if err := v.quorum(ctx); err != nil {
		return nil, err
	}
	slices.SortFunc(v.logs, func(a, b *logState) int { return strings.Compare(a.origin(), b.origin()) })
	v.rep.Notes = append(v.rep.Notes, v.calls.settle(v.logs)...)
	for _, l := range v.logs {
		l.Entries = l.size
		v.rep.Logs = append(v.rep.Logs, l.Log)
		v.rep.Entries += l.Entries
		v.rep.Commits += l.Commits
	}
	v.rep.Checked = v.calls.Checked
	switch {
	case len(v.rep.Problems) > 0:
		v.rep.Verdict = Fails
	case len(v.rep.Logs) > 0:
		v.rep.Verdict = Holds
	default:
		v.rep.Verdict = Empty
	}
	if len(v.rep.Problems) > 0 {
		v.discard()
	}
	return v.rep, nil
}

func isMonth(s string) bool {
	t, err := time.Parse("2006-01", s)
	return err == nil && t.Format("2006-01") == s
}

type verification struct {
	repo    Repository   // all repos, by what is in them
	repos   []Repository // the newest last
	keys    map[string]*ownKeys
	shelves []*Shelf // of bodies, the newest repository's first; none: they are not looked for
	cfg     VerifyConfig
	rep     *Report
	logs    []*logState
	anchors []anchor
	pending []signedAnchor
	calls   *conduct
	before  Verified // as the run began
}

// logState is a log while it is walked.
type logState struct {
	Log
	edge
	last    time.Time
	roots   []sizedRoot       // at each checkpoint walked
	uses    []lastUse         // of keys
	rolled  []uint64          // entries before which it went on in another repository
	written map[uint64]int64  // when each batch was committed, by its first entry
	tips    map[string]string // of the stretches walked
	base    edge              // what the repository begins with: empty, unless it continues another
	start   *Start
	calls   logCalls
	broken  bool
}

// sizedRoot is the root of a log's first size entries.
type sizedRoot struct {
	size uint64
	root tlog.Hash
}

func newLog(origin string) *logState {
	l := &logState{
		roots: []sizedRoot{{0, (&edge{}).root()}}, written: map[uint64]int64{}, tips: map[string]string{}, calls: newLogCalls(),
	}
	l.Enforcer, l.Incarnation, _ = strings.Cut(origin, "/")
	return l
}

// rootAt gives the root at a size, if it was met on the way.
func (l *logState) rootAt(size uint64) (tlog.Hash, bool) {
	i, ok := slices.BinarySearchFunc(l.roots, size, func(r sizedRoot, size uint64) int { return cmp.Compare(r.size, size) })
	if !ok {
		return tlog.Hash{}, false
	}
	return l.roots[i].root, true
}

func (v *verification) problem(p Problem) {
	v.rep.Problems = append(v.rep.Problems, p)
}

// link is a commit of a branch, on the way from its tip to its beginning.
type link struct{ hash, tree string }

// month walks one branch from its first commit, or from the last one that an
// earlier run has verified, to its tip.
func (v *verification) month(ctx context.Context, l *logState, s stretch) error {
	branch := branchName(l.origin(), s.month)
	here := Problem{Class: ClassBranch, Origin: l.origin(), Branch: branch, Entry: -1}
	bad := func(class Class, commit, format string, args ...any) {
		p := here
		p.Class, p.Commit, p.Text = class, commit, fmt.Sprintf(format, args...)
		v.problem(p)
		l.broken = true
	}
	tip, ok, err := v.repos[s.repo].Tip(branch)
	if err != nil || !ok {
		bad(ClassUnread, "", "the branch does not read: %v", err)
		return nil
	}
	known := l.tips[s.name]
	var chain []link // newest first
	for hash := tip; hash != known; {
		if err := ctx.Err(); err != nil {
			return err
		}
		c, err := v.repo.Commit(hash)
		if err != nil {
			bad(ClassUnread, hash, "the commit does not read: %v", err)
			return nil
		}
		chain = append(chain, link{hash, c.Tree})
		if len(c.Parents) > 1 {
			bad(ClassBranch, hash, "the commit merges two histories; the record has one")
			return nil
		}
		if len(c.Parents) == 0 {
			known = ""
			break
		}
		hash = c.Parents[0]
	}
	if known != l.tips[s.name] { // what was verified is not in it any more
		return v.rolledBack(ctx, l, branch, s)
	}
	parent := ""
	if known != "" {
		c, err := v.repo.Commit(known)
		if err != nil {
			bad(ClassUnread, known, "the commit does not read: %v", err)
			return nil
		}
		parent = c.Tree
	}
	slices.Reverse(chain)
	for b := range v.prepare(ctx, chain, parent) {
		if err := ctx.Err(); err != nil {
			return err
		}
		p := here
		p.Commit = b.hash
		v.commit(l, p, b, s.month)
		if l.broken {
			return nil
		}
		l.Tip, l.tips[s.name] = b.hash, b.hash
		l.Commits++
		if v.cfg.Progress != nil {
			v.cfg.Progress(l.origin(), l.size)
		}
	}
	return ctx.Err()
}
