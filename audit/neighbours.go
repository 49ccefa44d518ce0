package audit

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// StatusForked of a KindAnchor: another log is no longer what was recorded of
// it before. The detail is what it shows now; Reason says what is wrong.
const StatusForked = "forked"

const (
	anchorEvery  = 5 * time.Minute
	maxAnchors   = 32      // looked at in one round, and so at most recorded
	maxAnchored  = 8 << 10 // bytes of a note that is recorded
	anchorPrefix = "audit/"
)

// Sighting is what a branch of another log showed.
type Sighting struct {
	Branch  string
	Tip     string
	Commits []Commit // newest first, without the one that was asked from
	Hashes  []string // of Commits
	// Err says why there is nothing, or, if it is Gone back, that the branch does
	// not descend from that one.
	Err      error
	GoneBack bool
}

// NeighboursConfig says whose logs are recorded.
type NeighboursConfig struct {
	Enforcer string  // ours: its own logs name each other already
	Keys     LogKeys // of the others; who is not in it is not looked at
	// Where names the repository that our log is in now, if there may be several;
	// nil: there is one.
	Where func() string
	// Look asks that repository's remote for its branches, and gives the commits of
	// those that choose names, from the commit given with each on, "" being the tip
	// alone.
	Look   func(ctx context.Context, repo string, choose func(tips map[string]string) map[string]string) ([]Sighting, error)
	Append func(context.Context, Entry) error
	Now    func() time.Time
	Log    *slog.Logger // nil: none
}

// Neighbours records the newest checkpoints of other enforcers that publish to
// the same remote, as KindAnchor entries, so that each log is held by others:
// who has stolen one enforcer's keys, and the Git host with them, cannot take
// back what another one has recorded. At most one entry a log in five minutes;
// and none where only anchors were added, or two idle enforcers would keep each
// other writing for ever.
//
// Whether a log still begins with what was recorded, Verify proves. Here it is
// watched from outside: its branch must descend from the commit that was seen,
// its checkpoints must not shrink, and two of one size must be the same. Where
// repositories roll, it is watched in the one that our log is in; what was seen of
// it in the one before is a bound for its checkpoints, and no more.
type Neighbours struct {
	cfg NeighboursConfig

	mu    sync.Mutex
	known map[string]*neighbour // by origin
}

// neighbour is what is known of another log.
type neighbour struct {
	last     Checkpoint // seen
	repo     string     // where the branch is
	branch   string
	commit   string
	owed     Anchor    // seen, to be recorded, and not recorded yet: it was too soon, or could not be
	recorded time.Time // an entry of it, last
	shown    Checkpoint
	forked   string // why, once it was
}

// NewNeighbours checks the configuration.
func NewNeighbours(cfg NeighboursConfig) (*Neighbours, error) {
	if len(cfg.Keys) == 0 || cfg.Look == nil || cfg.Append == nil || cfg.Now == nil {
		return nil, errors.New("audit: neighbours need keys, a remote, a journal and a clock")
	}
	if cfg.Where == nil {
		cfg.Where = func() string { return "" }
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Neighbours{cfg: cfg, known: map[string]*neighbour{}}, nil
}

// Recall takes in an entry of an earlier run: what was recorded of a log then
// still counts. Where it was seen, the entry says, or else it was where that run
// began.
func (n *Neighbours) Recall(e Entry, began string) {
	var a Anchor
	if e.Kind != KindAnchor || json.Unmarshal(e.Detail, &a) != nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if e.Status == StatusForked {
		origin, why, _ := strings.Cut(e.Reason, ": ")
		n.at(origin).forked = why
		return
	}
	c, err := n.cfg.Keys.Open(a.Checkpoint)
	if err != nil || strings.HasPrefix(c.Origin, n.cfg.Enforcer+"/") {
		return
	}
	k := n.at(c.Origin)
	k.last, k.shown, k.commit, k.recorded = c, c, a.Commit, e.Time
	k.branch, k.repo = branchName(c.Origin, e.Time.Format("2006-01")), cmp.Or(a.Repo, began)
}

func (n *Neighbours) at(origin string) *neighbour {
	k := n.known[origin]
	if k == nil {
		k = &neighbour{}
		n.known[origin] = k
	}
	return k
}

// Forked lists the logs that are no longer what was recorded of them.
func (n *Neighbours) Forked() map[string]string {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := map[string]string{}
	for o, k := range n.known {
		if k.forked != "" {
			all[o] = k.forked
		}
	}
	return all
}

// Recorded tells how many logs are held here, and when the last entry was made.
func (n *Neighbours) Recorded() (logs int, last time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, k := range n.known {
		if !k.recorded.IsZero() {
			logs, last = logs+1, maxTime(last, k.recorded)
		}
	}
	return logs, last
}

// Run looks every five minutes until ctx ends. What fails is logged: the record
// does not depend on others.
func (n *Neighbours) Run(ctx context.Context) {
	tick := time.NewTicker(anchorEvery)
	defer tick.Stop()
	for {
		if err := n.Round(ctx); err != nil && ctx.Err() == nil {
			n.cfg.Log.Warn("other enforcers' checkpoints could not be seen", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Round looks once.
func (n *Neighbours) Round(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var errs []error
	where := n.cfg.Where()
	for _, k := range n.known {
		if k.repo != where { // what was seen there is not missing here
			k.repo, k.branch, k.commit = where, "", ""
		}
	}
	seen, err := n.cfg.Look(ctx, where, func(tips map[string]string) map[string]string { return n.choose(ctx, tips, &errs) })
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, s := range seen {
		errs = append(errs, n.sight(ctx, where, s))
	}
	for _, o := range slices.Sorted(maps.Keys(n.known)) {
		errs = append(errs, n.record(ctx, n.known[o]))
	}
	return errors.Join(errs...)
}

// record writes down what is owed of a log, unless it is too soon. If nothing
// follows in that log, its branch is not looked at again: so what could not be
// written is kept for the next round.
func (n *Neighbours) record(ctx context.Context, k *neighbour) error {
	now := n.cfg.Now()
	if k.owed.Checkpoint == "" || now.Sub(k.recorded) < anchorEvery-anchorEvery/10 {
		return nil
	}
	c, err := ReadCheckpoint(k.owed.Checkpoint)
	if err != nil {
		return err
	}
	detail, err := Detail(k.owed)
	if err != nil {
		return err
	}
	if err := n.cfg.Append(ctx, Entry{Kind: KindAnchor, Detail: detail}); err != nil {
		return err
	}
	k.recorded, k.shown, k.owed = now, c, Anchor{}
	return nil
}

// choose picks the branches to look at: those that moved since, and of logs not
// seen before the newest month, if that is this one or the last.
func (n *Neighbours) choose(ctx context.Context, tips map[string]string, errs *[]error) map[string]string {
	months := map[string][]string{}
	for b := range tips {
		if o, month, ok := n.theirs(b); ok {
			months[o] = append(months[o], month)
		}
	}
	now := n.cfg.Now().UTC()
	recent := time.Date(now.Year(), now.Month()-1, 1, 0, 0, 0, 0, time.UTC).Format("2006-01")
	want := map[string]string{}
	for _, o := range slices.Sorted(maps.Keys(months)) {
		newest := branchName(o, slices.Max(months[o]))
		k := n.known[o]
		switch {
		case len(want) >= maxAnchors: // the others' turn comes
		case k == nil || k.commit == "":
			if slices.Max(months[o]) >= recent {
				want[newest] = ""
			}
		case tips[k.branch] != k.commit && tips[k.branch] != "":
			want[k.branch] = k.commit
		case tips[k.branch] != "" && newest != k.branch:
			want[newest] = "" // the next month, which begins anew
		}
	}
	for o, k := range n.known {
		if k.branch != "" && tips[k.branch] == "" && k.commit != "" && len(tips) > 0 {
			*errs = append(*errs, n.forked(ctx, o, k, "", fmt.Sprintf("branch %s is gone; it had %d entries", k.branch, k.last.Size)))
		}
	}
	return want
}

// theirs takes a branch name apart, if it is of a log that is looked at.
func (n *Neighbours) theirs(branch string) (origin, month string, ok bool) {
	parts := strings.Split(strings.TrimPrefix(branch, anchorPrefix), "/")
	if !strings.HasPrefix(branch, anchorPrefix) || len(parts) != 3 || parts[0] == n.cfg.Enforcer ||
		checkName("", parts[0]) != nil || checkName("", parts[1]) != nil || !isMonth(parts[2]) {
		return "", "", false
	}
	if len(n.cfg.Keys.Of(parts[0]+"/"+parts[1])) == 0 {
		return "", "", false
	}
	return parts[0] + "/" + parts[1], parts[2], true
}

// sight takes in what a branch shows.
func (n *Neighbours) sight(ctx context.Context, where string, s Sighting) error {
	origin, month, ok := n.theirs(s.Branch)
	if !ok {
		return nil
	}
	k := n.at(origin)
	if s.GoneBack {
		return n.forked(ctx, origin, k, "", fmt.Sprintf("branch %s does not descend any more from what it was with %d entries", s.Branch, k.last.Size))
	}
	if s.Err != nil || len(s.Commits) == 0 {
		return s.Err
	}
	note, ok := messageNote(s.Commits[0].Message)
	c, err := n.cfg.Keys.Open(note)
	if !ok || err != nil || c.Origin != origin {
		return fmt.Errorf("branch %s: the commit at its tip has no checkpoint of that log by a key that is known (%w)", s.Branch, errors.Join(err))
	}
	switch {
	case c.Size < k.last.Size:
		return n.forked(ctx, origin, k, note, fmt.Sprintf("it had %d entries, and now has %d", k.last.Size, c.Size))
	case c.Size == k.last.Size && c.Root != k.last.Root:
		return n.forked(ctx, origin, k, note, fmt.Sprintf("there are two trees of %d entries", c.Size))
	}
	k.last, k.repo, k.branch, k.commit = c, where, branchName(origin, month), s.Hashes[0]
	quiet := !k.recorded.IsZero() && k.owed.Checkpoint == "" && onlyAnchors(s.Commits)
	if c.Size != k.shown.Size && !quiet && len(note) <= maxAnchored {
		k.owed = Anchor{Checkpoint: note, Commit: k.commit, Repo: where}
	}
	return nil
}

// forked says so once, as loudly as can be: in the log, in a metric, and in the
// record, with the checkpoint, if there is one, that proves it.
func (n *Neighbours) forked(ctx context.Context, origin string, k *neighbour, note, why string) error {
	if k.forked != "" {
		return nil
	}
	n.cfg.Log.Error("the record of another enforcer is not what it was: it was rewritten, or taken back", "origin", origin, "why", why)
	e := Entry{Kind: KindAnchor, Status: StatusForked, Reason: origin + ": " + why}
	if note == "" || len(note) > maxAnchored {
		note = ""
	}
	var err error
	if e.Detail, err = Detail(Anchor{Checkpoint: note}); err != nil {
		return err
	}
	if err := n.cfg.Append(ctx, e); err != nil {
		return err
	}
	k.forked = why
	return nil
}

// onlyAnchors tells whether commits say, in their trailers, that their entries
// were nothing but anchors.
func onlyAnchors(commits []Commit) bool {
	for _, c := range commits {
		var first, last, anchors uint64
		for l := range strings.SplitSeq(c.Message[strings.LastIndex(strings.TrimSuffix(c.Message, "\n"), "\n\n")+1:], "\n") {
			name, value, _ := strings.Cut(l, ": ")
			switch name {
			case "Entries":
				a, b, _ := strings.Cut(value, "-")
				first, _ = strconv.ParseUint(a, 10, 63)
				last, _ = strconv.ParseUint(b, 10, 63)
			case "Anchors":
				anchors, _ = strconv.ParseUint(value, 10, 63)
			}
		}
		if anchors == 0 || last-first+1 != anchors {
			return false
		}
	}
	return true
}
