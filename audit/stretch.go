package audit

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// stretch is a stretch of a log: a month's branch in one repository.
type stretch struct {
	month string
	repo  int    // of verification.repos
	name  string // month, a dot and repo: unique in the log, and in their order
}

// stretches lists the branches of each log in the order of their entries: by
// month, and where a log went on in another repository within a month, by
// repository.
func (v *verification) stretches() (map[string][]stretch, error) {
	prefix := cmp.Or(v.cfg.Prefix, "audit/")
	of := map[string][]stretch{}
	for i, repo := range v.repos {
		branches, err := repo.Branches(prefix)
		if err != nil {
			return nil, fmt.Errorf("audit: %w", err)
		}
		for _, b := range branches {
			parts := strings.Split(b, "/")
			if len(parts) != 4 || parts[0] != "audit" || !isMonth(parts[3]) {
				v.problem(Problem{Class: ClassBranch, Branch: b, Entry: -1, Text: "the branch is no part of a record: audit/<enforcer>/<incarnation>/<yyyy-mm>"})
				continue
			}
			s := stretch{month: parts[3], repo: i, name: fmt.Sprintf("%s.%03d", parts[3], i)}
			o := parts[1] + "/" + parts[2]
			of[o] = append(of[o], s)
		}
	}
	for _, list := range of {
		slices.SortFunc(list, func(a, b stretch) int {
			return cmp.Or(strings.Compare(a.month, b.month), cmp.Compare(a.repo, b.repo))
		})
	}
	return of, nil
}

// inOrder lists the logs by their first entries, so that an enforcer's keys are
// replaced before a later incarnation uses the new ones. When commits were made
// says less: what is left of a run that was killed while it went on in another
// repository may be committed after all of the next run. Who lies there gains
// nothing: what is signed by a key that is not known yet does not hold.
func (v *verification) inOrder(stretches map[string][]stretch) []string {
	began := map[string]time.Time{}
	var origins []string
	for o, list := range stretches {
		origins = append(origins, o)
		if known, ok := v.before.Logs[o]; ok {
			began[o] = known.First
		} else {
			began[o] = v.began(branchName(o, list[0].month), list[0].repo)
		}
	}
	slices.SortFunc(origins, func(a, b string) int {
		return cmp.Or(began[a].Compare(began[b]), strings.Compare(a, b))
	})
	return origins
}

// began is the time of the first entry on a branch; zero if it does not read,
// which is told where it is walked.
func (v *verification) began(branch string, repo int) time.Time {
	tip, ok, err := v.repos[repo].Tip(branch)
	if err != nil || !ok {
		return time.Time{}
	}
	c, err := v.repo.Commit(tip)
	if err != nil {
		return time.Time{}
	}
	at := c.Tree
	for _, want := range []func(Node) bool{
		func(n Node) bool { return n.Mode == modeDir && n.Name == "entries" },
		func(n Node) bool { return n.Mode == modeDir },
		func(n Node) bool { return n.Mode != modeDir && strings.HasSuffix(n.Name, ".jsonl") },
	} {
		nodes, err := v.repo.Tree(at)
		i := slices.IndexFunc(nodes, want)
		if err != nil || i < 0 {
			return time.Time{}
		}
		at = nodes[i].Hash
	}
	text, err := v.repo.Blob(at)
	if err != nil {
		return time.Time{}
	}
	line, _, _ := bytes.Cut(text, []byte{'\n'})
	e, err := Decode(line)
	if err != nil {
		return time.Time{}
	}
	return e.Time
}

// together reads objects from whichever repository has them: their names are
// their hashes.
func together(repos []Repository) Repository {
	return Repository{
		Commit: func(hash string) (Commit, error) {
			return anyOf(repos, func(r Repository) (Commit, error) { return r.Commit(hash) })
		},
		Tree: func(hash string) ([]Node, error) {
			return anyOf(repos, func(r Repository) ([]Node, error) { return r.Tree(hash) })
		},
		Blob: func(hash string) ([]byte, error) {
			return anyOf(repos, func(r Repository) ([]byte, error) { return r.Blob(hash) })
		},
	}
}

func anyOf[T any](repos []Repository, read func(Repository) (T, error)) (found T, err error) {
	var errs []error
	for _, r := range slices.Backward(repos) {
		if found, err = read(r); err == nil {
			return found, nil
		}
		errs = append(errs, err)
	}
	return found, errors.Join(errs...)
}

// handover checks a branch that begins with the edge base, of a log whose
// earlier entries are in another repository: the last checkpoint there, which
// it brings along, must be signed, and of this edge. Without the other
// repository, that is taken for it only if the caller says so, and if it proves
// that the log was handed over: a thief of the commit key has checkpoints, too.
func (v *verification) handover(l *logState, d changes, base *edge, bad func(Class, int64, string, ...any)) bool {
	note, err := v.blob(d.added, handoverFile)
	if err != nil {
		bad(ClassHandover, -1, "%v", err)
		return false
	}
	c, keys, rolled, err := openHandover(note, v.open)
	from := "another repository"
	if rolled != nil {
		from += ", " + rolled.From
	}
	switch {
	case err != nil:
		bad(ClassHandover, -1, "the hand-over from the repository before: %v", err)
	case c.Origin != l.origin():
		bad(ClassHandover, -1, "the hand-over from the repository before is of another log: %s", c.Origin)
	case c.Size != base.size || c.Root != base.root():
		bad(ClassHandover, -1, "the hand-over from the repository before is of another tree, of %d entries: this one begins after %d", c.Size, base.size)
	case l.size > 0:
		return true // the entries before are here, too: continues compares
	case !v.cfg.Handover:
		bad(ClassHandover, 0, "the log begins here with entry %d: those before it are in %s, which was not given, or were deleted", base.size, from)
	case rolled == nil:
		bad(ClassHandover, 0, "the log begins here with entry %d, and its hand-over, as earlier versions made them, does not prove that it rolled: give the repository before", base.size)
	default:
		v.rep.Notes = append(v.rep.Notes, fmt.Sprintf("%s begins here with entry %d: those before it are in %s, which was not read; that they ended so, and go on here, is signed", l.origin(), base.size, from))
		l.edge, l.base = base.clone(), base.clone()
		l.roots = append(l.roots, sizedRoot{base.size, c.Root})
		l.note(lastUse{UseCheckpoint, keys, c.Size, time.Time{}, ""})
		l.calls.Continued = true
		return true
	}
	return false
}
