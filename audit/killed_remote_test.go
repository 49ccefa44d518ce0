package audit_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"countersign/audit"
)

// remote verifies what is published, which is all that there ever was.
func (k *killing) remote() {
	k.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	var repos []audit.Repository
	for n := range k.number {
		repos = append(repos, knowing(k.T, filepath.Join(k.dir, repoName(n+1))))
	}
	last := len(repos) - 1
	cfg := k.verify
	cfg.Earlier = repos[:last]
	for _, note := range k.pushed {
		cfg.Anchors = append(cfg.Anchors, note)
	}
	rep, err := audit.Verify(k.Context(), repos[last], cfg)
	if err != nil || len(rep.Problems) > 0 {
		k.Fatalf("the published record: %v %v", err, rep)
	}
	if rep.Anchors < len(cfg.Anchors) {
		k.Errorf("%d checkpoints were said to be pushed, %d are held", len(cfg.Anchors), rep.Anchors)
	}
	begun, ended := map[string]int{}, map[string]int{}
	entries, told := 0, 0
	logs := lines(k.T, repos)
	for inc, acked := range k.acked {
		log := logs[inc]
		for seq, sum := range acked {
			if seq >= uint64(len(log)) {
				k.Errorf("entry %d of %s was acknowledged, and is not published: there are %d", seq, inc, len(log))
			} else if told++; sum != sha256.Sum256(log[seq].text) {
				k.Errorf("entry %d of %s is not what was acknowledged: %s", seq, inc, log[seq].text)
			}
		}
	}
	for inc, log := range logs {
		at := log[0].repo
		for seq, line := range log {
			entries++
			e := line.entry
			if e.Seq != uint64(seq) || line.repo != at {
				k.Errorf("%s, line %d: it is entry %d, in repository %d; the log is in %d", inc, seq, e.Seq, line.repo+1, at+1)
			}
			switch e.Kind {
			case audit.KindIntent:
				begun[e.Call]++
			case audit.KindOutcome, audit.KindRecovered:
				ended[e.Call]++
			case audit.KindRolled:
				at++
			}
		}
	}
	for call, n := range begun {
		if n != 1 || ended[call] != 1 {
			k.Errorf("call %s was begun %d times and ended %d times", call, n, ended[call])
		}
	}
	for call := range ended {
		if begun[call] == 0 {
			k.Errorf("call %s ended and was not begun", call)
		}
	}
	k.Logf("%s; in %d repositories; of the entries %d were acknowledged; %s", rep, len(repos), told, k.bodies(repos, logs))
	k.seen["entry published, and not acknowledged"] = entries - told
}

// knowing reads a repository that knows what it has, so that to look for an
// object in the wrong one costs nothing.
func knowing(t *testing.T, dir string) audit.Repository {
	t.Helper()
	has := map[string]bool{}
	for _, hash := range strings.Fields(gitIn(t, dir, "cat-file", "--batch-all-objects", "--batch-check=%(objectname)", "--unordered")) {
		has[hash] = true
	}
	r := reader(t, dir)
	commit, tree, blob := r.Commit, r.Tree, r.Blob
	r.Commit = func(hash string) (c audit.Commit, err error) {
		if !has[hash] {
			return c, fmt.Errorf("%s has no commit %s", dir, hash)
		}
		return commit(hash)
	}
	r.Tree = func(hash string) ([]audit.Node, error) {
		if !has[hash] {
			return nil, fmt.Errorf("%s has no tree %s", dir, hash)
		}
		return tree(hash)
	}
	r.Blob = func(hash string) ([]byte, error) {
		if !has[hash] {
			return nil, fmt.Errorf("%s has no blob %s", dir, hash)
		}
		return blob(hash)
	}
	return r
}

// publishedLine is a line of a log, and the repository that has it.
type publishedLine struct {
	text  []byte
	entry audit.Entry
	repo  int
}

// lines gives the lines of each incarnation, as branches hold them.
func lines(t *testing.T, repos []audit.Repository) map[string][]publishedLine {
	t.Helper()
	logs := map[string][]publishedLine{}
	for i, repo := range repos {
		branches, err := repo.Branches("audit/")
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(branches) // months in order
		for _, b := range branches {
			inc := strings.Split(b, "/")[2]
			for _, text := range branchLines(t, repo, b) {
				e, err := audit.Decode(text)
				if err != nil {
					t.Fatalf("%s: %v", b, err)
				}
				logs[inc] = append(logs[inc], publishedLine{text, e, i})
			}
		}
	}
	return logs
}

func branchLines(t *testing.T, repo audit.Repository, branch string) (all [][]byte) {
	t.Helper()
	tip, _, err := repo.Tip(branch)
	if err != nil {
		t.Fatal(err)
	}
	c, err := repo.Commit(tip)
	if err != nil {
		t.Fatal(err)
	}
	files := map[uint64][]byte{}
	var walk func(tree string)
	walk = func(tree string) {
		nodes, err := repo.Tree(tree)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range nodes {
			if n.Mode == "40000" {
				walk(n.Hash)
			} else if first, ok := strings.CutSuffix(n.Name, ".jsonl"); ok {
				seq, err := strconv.ParseUint(first, 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				if files[seq], err = repo.Blob(n.Hash); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	walk(c.Tree)
	for _, first := range slices.Sorted(maps.Keys(files)) {
		for line := range bytes.Lines(files[first]) {
			all = append(all, bytes.TrimSuffix(line, []byte("\n")))
		}
	}
	return all
}

// bodies looks for every body: in the repository in which its run began, and in
// no other, it is whole, unless its subject's or its call's were erased, or it
// is older than what expired there. What was recorded when an erasure was asked
// for is not there any more, where it reaches.
func (k *killing) bodies(repos []audit.Repository, logs map[string][]publishedLine) string {
	k.Helper()
	erasures, expired := k.erasures(logs)
	var shelves []*audit.Shelf
	for _, r := range repos {
		shelves = append(shelves, audit.NewShelf(r))
	}
	subjects := map[string]string{} // by call
	for _, log := range logs {
		for _, l := range log {
			if l.entry.Sub != "" {
				subjects[l.entry.Call] = l.entry.Sub
			}
		}
	}
	whole, gone, old := 0, 0, 0
	for inc, log := range logs {
		began := log[0].repo
		for _, l := range log {
			e := l.entry
			for _, ref := range e.Bodies {
				must, may := false, e.Time.Before(expired[began])
				for _, er := range erasures {
					if er.call == e.Call || er.sub != "" && er.sub == subjects[e.Call] {
						before := er.asked.Time.After(e.Time)
						must = must || before && began >= er.reaches
						may = may || er.done.Time.After(e.Time)
					}
				}
				for at, shelf := range shelves {
					state, why, err := audit.CheckBody(shelf, "demo/"+inc, e.Time, ref)
					switch {
					case err != nil || state != audit.BodyWhole && state != audit.BodyGone:
						k.Errorf("the body of entry %d of %s in repository %d: %v: %v, %v", e.Seq, inc, at+1, state, why, err)
					case state == audit.BodyGone && at != began:
					case state == audit.BodyGone && must:
						gone++
					case state == audit.BodyGone && may:
						old++
					case state == audit.BodyGone:
						k.Errorf("the body of entry %d of %s, of call %s, is gone, and nobody erased it", e.Seq, inc, e.Call)
					case at != began:
						k.Errorf("the body of entry %d of %s is in repository %d; the run began in %d", e.Seq, inc, at+1, began+1)
					case must:
						k.Errorf("the body of entry %d of %s, of call %s, was erased, and is there", e.Seq, inc, e.Call)
					default:
						whole++
					}
				}
			}
		}
	}
	k.seen["body erased"], k.seen["body expired, or erased as it came"] = gone, old
	return fmt.Sprintf("%d bodies are there, %d were erased, %d have expired or were erased as they came", whole, gone, old)
}

// publishedErasure is what was asked for, and done.
type publishedErasure struct {
	call, sub   string
	asked, done audit.Entry
	reaches     int // this repository, and those after it
}

// erasures gives those that the record has, each of which is done by now, and
// done once; and for each repository the newest time from before which bodies
// expired.
func (k *killing) erasures(logs map[string][]publishedLine) (all map[string]*publishedErasure, expired map[int]time.Time) {
	k.Helper()
	all, expired = map[string]*publishedErasure{}, map[int]time.Time{}
	asked := map[string]audit.Entry{}
	for _, log := range logs {
		for _, l := range log {
			e := l.entry
			if e.Kind != audit.KindErased {
				continue
			}
			var d struct {
				Sub        string    `json:"sub"`
				Call       string    `json:"of_call"`
				Before     time.Time `json:"before"`
				Repository string    `json:"repository"`
			}
			if err := json.Unmarshal(e.Detail, &d); err != nil {
				k.Fatal(err)
			}
			switch e.Status {
			case audit.StatusAsked:
				asked[e.Call] = e
			case audit.StatusErased:
				if all[e.Call] != nil {
					k.Errorf("%s was done twice", e.Call)
				}
				all[e.Call] = &publishedErasure{call: d.Call, sub: d.Sub, done: e, reaches: log[0].repo + 1 - reaches}
			case audit.StatusExpired:
				number, err := repoNumber(d.Repository)
				if err != nil {
					k.Fatal(err)
				}
				if d.Before.After(expired[number-1]) {
					expired[number-1] = d.Before
				}
			}
		}
	}
	for id, e := range asked {
		if all[id] == nil { // killed before Ask returned, it may be forgotten
			if slices.Contains(k.asked, id) {
				k.Errorf("%s was asked for, and is not done", id)
			}
			continue
		}
		all[id].asked = e
	}
	for _, id := range k.asked {
		if _, ok := asked[id]; !ok {
			k.Errorf("it is not on record that %s was asked for", id)
		}
	}
	k.seen["erasure"] = len(all)
	return all, expired
}
