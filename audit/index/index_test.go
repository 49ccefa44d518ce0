package index

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"countersign/audit"
)

// clone is a copy of the record in miniature: commits, trees and blobs by hash.
// It does not pack, sign, or prove anything.
type clone struct {
	mu      sync.Mutex
	commits map[string]audit.Commit
	trees   map[string][]audit.Node
	blobs   map[string][]byte
	tips    map[string]string
}

func newClone() *clone {
	return &clone{commits: map[string]audit.Commit{}, trees: map[string][]audit.Node{}, blobs: map[string][]byte{}, tips: map[string]string{}}
}

func hash(parts ...any) string {
	sum := sha1.Sum(fmt.Append(nil, parts...))
	return hex.EncodeToString(sum[:])
}

var errNone = errors.New("not in the repository")

func get[T any](c *clone, m map[string]T, key string) (T, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok := m[key]
	if !ok {
		return v, errNone
	}
	return v, nil
}

func (c *clone) repository() audit.Repository {
	return audit.Repository{
		Branches: func(prefix string) ([]string, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			return slices.DeleteFunc(slices.Sorted(maps.Keys(c.tips)), func(b string) bool { return !strings.HasPrefix(b, prefix) }), nil
		},
		Tip: func(branch string) (string, bool, error) {
			tip, err := get(c, c.tips, branch)
			return tip, err == nil, nil
		},
		Commit: func(h string) (audit.Commit, error) { return get(c, c.commits, h) },
		Tree:   func(h string) ([]audit.Node, error) { return get(c, c.trees, h) },
		Blob:   func(h string) ([]byte, error) { return get(c, c.blobs, h) },
	}
}

// commit adds a batch to a branch; raw is put where its lines belong.
func (c *clone) commit(branch string, first uint64, raw []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	blob := hash("blob", string(raw))
	c.blobs[blob] = raw
	folder, name := fmt.Sprintf("%03d", first/1000), fmt.Sprintf("%03d.jsonl", first)
	var top, files []audit.Node
	if tip := c.tips[branch]; tip != "" {
		top = slices.Clone(c.trees[c.trees[c.commits[tip].Tree][0].Hash])
		if i := slices.IndexFunc(top, func(n audit.Node) bool { return n.Name == folder }); i >= 0 {
			files = slices.Clone(c.trees[top[i].Hash])
			top = slices.Delete(top, i, i+1)
		}
	}
	files = append(files, audit.Node{Name: name, Mode: "100644", Hash: blob})
	tree := func(nodes []audit.Node) string {
		h := hash("tree", fmt.Sprint(nodes))
		c.trees[h] = nodes
		return h
	}
	top = append(top, audit.Node{Name: folder, Mode: "40000", Hash: tree(files)})
	root := tree([]audit.Node{{Name: "entries", Mode: "40000", Hash: tree(top)}})
	commit := audit.Commit{Tree: root}
	if tip := c.tips[branch]; tip != "" {
		commit.Parents = []string{tip}
	}
	h := hash("commit", root, fmt.Sprint(commit.Parents))
	c.commits[h], c.tips[branch] = commit, h
}

func encode(t testing.TB, entries ...audit.Entry) []byte {
	t.Helper()
	var b []byte
	for _, e := range entries {
		line, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		b = append(append(b, line...), '\n')
	}
	return b
}

func (c *clone) add(t testing.TB, branch string, entries ...audit.Entry) {
	t.Helper()
	c.commit(branch, entries[0].Seq, encode(t, entries...))
}

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func after(d time.Duration) time.Time { return noon.Add(d) }

// opened opens an index, and gives what it told.
func opened(t testing.TB, cfg Config) (*Index, *[]string) {
	t.Helper()
	var told []string
	cfg.Tell = func(s string) { told = append(told, s) }
	x, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	})
	return x, &told
}

func ids(t testing.TB, found iter.Seq2[Found, error]) string {
	t.Helper()
	var out []string
	for f, err := range found {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, f.ID())
	}
	return strings.Join(out, " ")
}

const branchA, branchB = "audit/demo/r_a/2026-11", "audit/prod/r_b/2026-11"

// two is a clone with two logs whose entries interleave.
func two(t testing.TB) *clone {
	c := newClone()
	c.add(t, branchA,
		audit.Entry{Seq: 0, Time: after(0), Kind: audit.KindStart},
		audit.Entry{Seq: 1, Time: after(2 * time.Second), Kind: audit.KindIntent, Call: "c_1", Sub: "alice", Server: "db", Tool: "query", Effect: "allow", Rules: []string{"reads"}, Session: "s1", Policy: "3f9c2e1b"},
		audit.Entry{Seq: 2, Time: after(3 * time.Second), Kind: audit.KindOutcome, Call: "c_1", Sub: "alice", Server: "db", Tool: "query", Status: "ok", Millis: 12.5, Session: "s1", Policy: "3f9c2e1b", Masked: []audit.Masked{{Detector: "email", Place: "x", Count: 3}}},
	)
	c.add(t, branchB,
		audit.Entry{Seq: 0, Time: after(time.Second), Kind: audit.KindStart},
		audit.Entry{Seq: 1, Time: after(2500 * time.Millisecond), Kind: audit.KindRefused, Call: "c_2", Sub: "bob", Server: "db", Tool: "drop_table", Effect: "deny", Rules: []string{"no-drops", "reads"}, Reason: "Dropping is NOT for agents", Status: "refused", Millis: 0.5, Policy: "ab12ffff"},
		audit.Entry{Seq: 2, Time: after(26 * time.Hour), Kind: audit.KindIntent, Call: "c_3", Sub: "bob", Server: "db", Tool: "query", Effect: "approve", Rules: []string{"writes"}, Approval: "ap_1"},
		audit.Entry{Seq: 3, Time: after(27 * time.Hour), Kind: audit.KindOutcome, Call: "c_3", Sub: "bob", Server: "db", Tool: "query", Status: "error", Millis: 40, Approval: "ap_1"},
	)
	return c
}

func TestFilters(t *testing.T) {
	x, told := opened(t, Config{Repo: two(t).repository(), Path: filepath.Join(t.TempDir(), "x.sqlite")})
	for name, c := range map[string]struct {
		f    Filter
		want string
	}{
		"all, in the order of time":       {Filter{}, "demo/r_a@0 prod/r_b@0 demo/r_a@1 prod/r_b@1 demo/r_a@2 prod/r_b@2 prod/r_b@3"},
		"subject":                         {Filter{Subjects: []string{"alice"}}, "demo/r_a@1 demo/r_a@2"},
		"two subjects":                    {Filter{Subjects: []string{"alice", "bob"}, Kinds: []string{"outcome"}}, "demo/r_a@2 prod/r_b@3"},
		"a pattern":                       {Filter{Tools: []string{"drop*"}}, "prod/r_b@1"},
		"a point is no pattern":           {Filter{Tools: []string{"quer."}}, ""},
		"decision, of the outcome too":    {Filter{Decisions: []string{"allow"}}, "demo/r_a@1 demo/r_a@2"},
		"rule, of several":                {Filter{Rules: []string{"reads"}}, "demo/r_a@1 prod/r_b@1 demo/r_a@2"},
		"status":                          {Filter{Statuses: []string{"error"}}, "prod/r_b@3"},
		"call":                            {Filter{Calls: []string{"c_1"}}, "demo/r_a@1 demo/r_a@2"},
		"approval":                        {Filter{Approvals: []string{"ap_1"}}, "prod/r_b@2 prod/r_b@3"},
		"session":                         {Filter{Sessions: []string{"s1"}}, "demo/r_a@1 demo/r_a@2"},
		"the beginning of a policy":       {Filter{Policies: []string{"AB12"}}, "prod/r_b@1"},
		"text in any case":                {Filter{Text: "not for"}, "prod/r_b@1"},
		"since":                           {Filter{Since: after(3 * time.Second)}, "demo/r_a@2 prod/r_b@2 prod/r_b@3"},
		"until, which is not meant":       {Filter{Until: after(2 * time.Second)}, "demo/r_a@0 prod/r_b@0"},
		"log":                             {Filter{Log: "audit/prod/"}, "prod/r_b@0 prod/r_b@1 prod/r_b@2 prod/r_b@3"},
		"masked":                          {Filter{Masked: true}, "demo/r_a@2"},
		"nobody":                          {Filter{Subjects: []string{"carol"}}, ""},
		"quotes are no SQL":               {Filter{Calls: []string{"' OR 1 --"}, Subjects: []string{"alice"}}, ""},
		"both conditions, not one of two": {Filter{Subjects: []string{"alice"}, Tools: []string{"drop_table"}}, ""},
	} {
		if got := ids(t, x.Entries(t.Context(), c.f, false)); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
	newest, err := x.Newest(t.Context(), Filter{}, 2)
	if err != nil || len(newest) != 2 || newest[0].ID() != "prod/r_b@2" {
		t.Errorf("%v %v", newest, err)
	}
	if got := ids(t, x.Entries(t.Context(), Filter{Kinds: []string{"start"}}, true)); got != "prod/r_b@0 demo/r_a@0" {
		t.Errorf("newest first: %s", got)
	}
	if unknown, err := x.Unknown(t.Context(), Filter{Subjects: []string{"alice", "carol"}, Tools: []string{"q*"}}); err != nil || fmt.Sprint(unknown) != "map[sub:[carol]]" {
		t.Errorf("%v %v", unknown, err)
	}
	if len(*told) > 0 {
		t.Errorf("it told %q", *told)
	}
}

// More entries than a page holds, at the same time: none is lost or doubled at
// the seam.
func TestPages(t *testing.T) {
	c := newClone()
	for first := uint64(0); first < 5000; first += 1000 {
		var batch []audit.Entry
		for i := range uint64(1000) {
			batch = append(batch, audit.Entry{Seq: first + i, Time: after(time.Duration((first+i)/1700) * time.Second), Kind: audit.KindStop})
		}
		c.add(t, branchA, batch...)
	}
	x, _ := opened(t, Config{Repo: c.repository()})
	for _, reverse := range []bool{false, true} {
		n := uint64(0)
		for f, err := range x.Entries(t.Context(), Filter{}, reverse) {
			want := n
			if reverse {
				want = 4999 - n
			}
			if err != nil || f.Entry.Seq != want {
				t.Fatalf("entry %d, want %d: %v", f.Entry.Seq, want, err)
			}
			n++
		}
		if n != 5000 {
			t.Errorf("%d entries", n)
		}
	}
}

func TestTallies(t *testing.T) {
	x, _ := opened(t, Config{Repo: two(t).repository()})
	read := func(f Filter) string {
		t.Helper()
		var all []string
		for s, err := range x.Tallies(t.Context(), f) {
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, fmt.Sprintln(s.Day.Format("01-02"), s.Sub, s.Tool, s.Decision, s.Rules, s.Status, s.Calls, s.Masked, s.Took))
		}
		slices.Sort(all)
		return strings.Join(all, "")
	}
	const want = "11-23 alice query allow [reads] ok 1 3 [12.5ms]\n11-23 bob drop_table deny [no-drops reads] refused 1 0 [500µs]\n11-24 bob query approve [writes] error 1 0 [40ms]\n"
	if got := read(Filter{}); got != want {
		t.Errorf("got\n%s", got)
	}
	// Call by call it is the same.
	if got := read(Filter{Log: "audit/"}); got != want {
		t.Errorf("singly:\n%s", got)
	}
	for name, f := range map[string]Filter{
		"bounds that cut days":   {Since: after(-time.Hour), Until: after(28 * time.Hour)},
		"until within a day":     {Until: after(28 * time.Hour)},
		"bounds at days":         {Since: noon.Truncate(day), Until: noon.Truncate(day).Add(2 * day)},
		"within one day and two": {Since: after(0), Until: after(30 * time.Hour)},
	} {
		if got := read(f); got != want {
			t.Errorf("%s:\n%s", name, got)
		}
	}
	if got := read(Filter{Since: after(2500 * time.Millisecond), Until: after(2600 * time.Millisecond)}); !strings.HasPrefix(got, "11-23 bob drop_table") || strings.Count(got, "\n") != 1 {
		t.Errorf("a tenth of a second: %s", got)
	}
	if got := read(Filter{Since: after(2600 * time.Millisecond)}); strings.Contains(got, "drop_table") || strings.Count(got, "\n") != 2 {
		t.Errorf("from within a day on: %s", got)
	}
	if got := read(Filter{Until: after(26*time.Hour + 30*time.Minute)}); strings.Contains(got, "error") || strings.Count(got, "\n") != 2 {
		t.Errorf("until within a day: %s", got)
	}
	if got := read(Filter{Rules: []string{"no-*"}}); strings.Count(got, "\n") != 1 {
		t.Errorf("by rule: %s", got)
	}
}

// The end of a call is in another run's log, which is read before the intent's.
func TestRecovered(t *testing.T) {
	c := newClone()
	c.add(t, "audit/demo/r_a/2026-11", audit.Entry{Seq: 0, Time: after(time.Hour), Kind: audit.KindRecovered, Call: "c_1", Status: "unknown"})
	c.add(t, "audit/demo/r_z/2026-11", audit.Entry{Seq: 0, Time: after(0), Kind: audit.KindIntent, Call: "c_1", Effect: "allow", Rules: []string{"r"}})
	x, _ := opened(t, Config{Repo: c.repository()})
	for s, err := range x.Tallies(t.Context(), Filter{}) {
		if err != nil || s.Decision != "allow" || len(s.Rules) != 1 || s.Status != "unknown" {
			t.Errorf("%+v, %v", s, err)
		}
	}
}

func TestUpdate(t *testing.T) {
	c := two(t)
	path := filepath.Join(t.TempDir(), "x.sqlite")
	x, _ := opened(t, Config{Repo: c.repository(), Path: path})
	y, told := opened(t, Config{Repo: c.repository(), Path: path}) // another process
	mark, err := x.Mark(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.add(t, branchA, audit.Entry{Seq: 3, Time: after(4 * time.Second), Kind: audit.KindStop})
	c.add(t, "audit/demo/r_a/2026-12", audit.Entry{Seq: 4, Time: after(720 * time.Hour), Kind: audit.KindStop})
	if err := x.Update(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := ids(t, x.Since(t.Context(), Filter{}, mark)); got != "demo/r_a@3 demo/r_a@4" {
		t.Errorf("new: %s", got)
	}
	if err := y.Update(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, i := range map[string]*Index{"this process": x, "the other": y} {
		if got := ids(t, i.Entries(t.Context(), Filter{Kinds: []string{"stop"}}, false)); got != "demo/r_a@3 demo/r_a@4" {
			t.Errorf("%s: %s", name, got)
		}
	}
	if len(*told) > 0 {
		t.Errorf("it told %q", *told)
	}
}

// Two processes begin at once, on a clone that nobody has read: both read all of
// it, and the index has nothing twice.
func TestTwoAtOnce(t *testing.T) {
	c := two(t)
	path := filepath.Join(t.TempDir(), "x.sqlite")
	var both sync.WaitGroup
	for range 4 {
		both.Go(func() {
			x, err := Open(context.Background(), Config{Repo: c.repository(), Path: path})
			if err != nil {
				t.Error(err)
				return
			}
			n := 0
			for _, err := range x.Entries(context.Background(), Filter{}, false) {
				if n++; err != nil {
					t.Error(err)
				}
			}
			if err := x.Close(); err != nil || n != 7 {
				t.Errorf("%d entries, %v", n, err)
			}
		})
	}
	both.Wait()
	if left, err := filepath.Glob(path + ".new-*"); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q %v", left, err)
	}
}

// What is no index of this version and this repository is built anew, with a word.
func TestBuiltAnew(t *testing.T) {
	for name, c := range map[string]struct {
		harm func(t *testing.T, path string)
		says string
	}{
		"empty":     {func(t *testing.T, path string) { write(t, path, nil) }, "is not one: it is built anew"},
		"rubbish":   {func(t *testing.T, path string) { write(t, path, []byte(strings.Repeat("rubbish ", 4096))) }, "is not one: it is built anew"},
		"cut short": {func(t *testing.T, path string) { write(t, path, read(t, path)[:5000]) }, "is damaged: it is built anew"},
		"a page torn": {func(t *testing.T, path string) {
			b := read(t, path)
			clear(b[100:4096])
			write(t, path, b)
		}, "it is built anew"},
		"another version": {func(t *testing.T, path string) { tampered(t, path, "PRAGMA user_version = 99") }, "is of version 99, and this program's is"},
		"another's":       {func(t *testing.T, path string) { tampered(t, path, "PRAGMA application_id = 7") }, "is not one: it is built anew"},
		"a table gone":    {func(t *testing.T, path string) { tampered(t, path, "DROP TABLE branch") }, "is damaged: it is built anew"},
		"another repository": {func(t *testing.T, path string) {
			o := newClone()
			o.add(t, "audit/other/r_x/2026-11", audit.Entry{Kind: audit.KindStop, Time: noon})
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			opened(t, Config{Repo: o.repository(), Path: path})
		}, "of another repository"},
	} {
		t.Run(name, func(t *testing.T) {
			repo := two(t)
			path := filepath.Join(t.TempDir(), "x.sqlite")
			x, _ := opened(t, Config{Repo: repo.repository(), Path: path})
			if err := x.Close(); err != nil {
				t.Fatal(err)
			}
			c.harm(t, path)
			x, told := opened(t, Config{Repo: repo.repository(), Path: path})
			if !strings.Contains(strings.Join(*told, "\n"), c.says) {
				t.Errorf("it told %q", *told)
			}
			if got := len(strings.Fields(ids(t, x.Entries(t.Context(), Filter{}, false)))); got != 7 {
				t.Errorf("%d entries", got)
			}
		})
	}
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func tampered(t *testing.T, path, statement string) {
	t.Helper()
	db, err := openFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.Exec(statement)
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

// A row that points elsewhere does not make another entry out of the one that
// stands there.
func TestIndexIsNotBelieved(t *testing.T) {
	for _, lie := range []string{"UPDATE entry SET at = 0 WHERE seq = 2", "UPDATE entry SET at = 77", "UPDATE entry SET seq = seq + 10", "UPDATE entry SET time = time + 1"} {
		x, _ := opened(t, Config{Repo: two(t).repository()})
		if _, err := x.db.Exec(lie); err != nil {
			t.Fatal(err)
		}
		var err error
		for _, err = range x.Entries(t.Context(), Filter{Kinds: []string{"outcome"}}, false) {
			if err != nil {
				break
			}
		}
		if !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: got %v", lie, err)
		}
	}
}

// A rewritten branch is said, and said again by each who opens the index, until a
// person has it built anew.
func TestRewritten(t *testing.T) {
	for name, c := range map[string]struct {
		harm func(c *clone)
		want int
	}{
		"a branch written anew": {func(c *clone) {
			delete(c.tips, branchA)
			c.commit(branchA, 0, []byte(""))
		}, 4},
		"a branch taken back": {func(c *clone) { c.tips[branchA] = c.commits[c.tips[branchA]].Parents[0] }, 7},
		"a branch gone":       {func(c *clone) { delete(c.tips, branchA) }, 4},
	} {
		t.Run(name, func(t *testing.T) {
			repo := two(t)
			repo.add(t, branchA, audit.Entry{Seq: 3, Time: after(4 * time.Second), Kind: audit.KindStop})
			path := filepath.Join(t.TempDir(), "x.sqlite")
			x, told := opened(t, Config{Repo: repo.repository(), Path: path})
			if len(*told) > 0 {
				t.Fatal(*told)
			}
			if err := x.Close(); err != nil {
				t.Fatal(err)
			}
			c.harm(repo)
			for range 2 {
				x, told := opened(t, Config{Repo: repo.repository(), Path: path})
				if !strings.Contains(strings.Join(*told, "\n"), "THE RECORD WAS REWRITTEN: branch "+branchA+" was at commit ") {
					t.Errorf("it told %q", *told)
				}
				if got := len(strings.Fields(ids(t, x.Entries(t.Context(), Filter{}, false)))); got != c.want {
					t.Errorf("%d entries, want %d", got, c.want)
				}
				if err := x.Close(); err != nil {
					t.Fatal(err)
				}
			}
			_, told = opened(t, Config{Repo: repo.repository(), Path: path, Anew: true})
			if len(*told) > 0 {
				t.Errorf("after it was built anew: %q", *told)
			}
		})
	}
}

// A record of one branch, rewritten while it is followed: it is no other
// repository, and the one who follows is told.
func TestRewrittenWhileOpen(t *testing.T) {
	c := newClone()
	c.add(t, branchA, audit.Entry{Kind: audit.KindStart, Time: after(0)})
	x, told := opened(t, Config{Repo: c.repository(), Path: filepath.Join(t.TempDir(), "x.sqlite")})
	delete(c.tips, branchA)
	c.add(t, branchA, audit.Entry{Kind: audit.KindStop, Time: after(0)})
	for range 2 {
		if err := x.Update(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if len(*told) != 1 || !strings.Contains((*told)[0], "REWRITTEN") {
		t.Errorf("it told %q", *told)
	}
	if got := ids(t, x.Entries(t.Context(), Filter{Kinds: []string{"stop"}}, false)); got != "demo/r_a@0" {
		t.Error(got)
	}
}

// A shallow clone is read, though nobody can tell how it grew.
func TestShallow(t *testing.T) {
	c := two(t)
	path := filepath.Join(t.TempDir(), "x.sqlite")
	x, _ := opened(t, Config{Repo: c.repository(), Path: path})
	for i := range uint64(2) {
		c.add(t, branchA, audit.Entry{Seq: 3 + i, Time: after(time.Minute), Kind: audit.KindStop})
	}
	delete(c.commits, c.commits[c.tips[branchA]].Parents[0])
	y, told := opened(t, Config{Repo: c.repository(), Path: path})
	if !strings.Contains(strings.Join(*told, "\n"), "is cut off (a shallow clone)") {
		t.Errorf("it told %q", *told)
	}
	if got := len(strings.Fields(ids(t, y.Entries(t.Context(), Filter{}, false)))); got != 9 {
		t.Errorf("%d entries", got)
	}
	// Who had the index open still reads what it had.
	if got := len(strings.Fields(ids(t, x.Entries(t.Context(), Filter{}, false)))); got != 7 {
		t.Errorf("%d entries", got)
	}
}

// Lines that are no entries are left out, counted and named; the others are read.
func TestUnreadLines(t *testing.T) {
	c := two(t)
	good := encode(t, audit.Entry{Seq: 5, Time: after(time.Minute), Kind: audit.KindStop})
	c.commit(branchA, 3, slices.Concat([]byte("no entry\n{}\n"), good, good))
	x, told := opened(t, Config{Repo: c.repository()})
	if said := strings.Join(*told, "\n"); !strings.Contains(said, "3 of the lines of "+branchA) || !strings.Contains(said, "line 1 of entries/000/003.jsonl") {
		t.Errorf("it told %q", said)
	}
	if got := ids(t, x.Entries(t.Context(), Filter{Kinds: []string{"stop"}}, false)); got != "demo/r_a@5" {
		t.Error(got)
	}
}

func TestNames(t *testing.T) {
	x, _ := opened(t, Config{Repo: two(t).repository()})
	for beginning, want := range map[string]string{
		"c_": "[{call c_1} {call c_2} {call c_3}]", "c_1": "[{call c_1}]", "ap": "[{approval ap_1}]", "s": "[{session s1}]", "x": "[]", "%": "[]",
	} {
		if got, err := x.Names(t.Context(), beginning, 5); err != nil || fmt.Sprint(got) != want {
			t.Errorf("%q: %v %v", beginning, got, err)
		}
	}
	for origin, want := range map[string]int{"demo": 1, "r_": 2, "demo/r_a": 1, "r_b": 1, "nobody": 0} {
		if got, err := x.At(t.Context(), origin, 1); err != nil || len(got) != want {
			t.Errorf("%s@1: %d entries, %v", origin, len(got), err)
		}
	}
}

// The stock sqlite3 reads the index.
func TestStockSQLite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.sqlite")
	x, _ := opened(t, Config{Repo: two(t).repository(), Path: path})
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("sqlite3", path, "PRAGMA integrity_check; SELECT time, kind, sub, tool, decision, ms FROM entries WHERE call = 'c_1'").CombinedOutput()
	if want := "ok\n2026-11-23T12:00:02.000000Z|intent|alice|query|allow|\n2026-11-23T12:00:03.000000Z|outcome|alice|query|allow|12.5\n"; err != nil || string(out) != want {
		t.Errorf("%v\n%s", err, out)
	}
}

var made = flag.Int("entries", 200_000, "entries of the made year in BenchmarkYear")

// BenchmarkYear measures the index over a made year: two enforcers, a hundred
// subjects, ten servers with twenty tools.
func BenchmarkYear(b *testing.B) {
	c := newClone()
	r := rand.New(rand.NewPCG(1, 2))
	n := uint64(*made)
	step := 365 * 24 * time.Hour / time.Duration(n)
	batch := map[string][]audit.Entry{}
	seq := map[string]uint64{}
	lines := 0
	flush := func(branch string) {
		if len(batch[branch]) > 0 {
			raw := encode(b, batch[branch]...)
			lines += len(raw)
			c.commit(branch, batch[branch][0].Seq, raw)
			batch[branch] = nil
		}
	}
	for i := uint64(0); i < n; i += 2 {
		at := noon.Add(time.Duration(i) * step)
		log := fmt.Sprintf("audit/prod-%d/r_x", i/2%2)
		branch := log + "/" + at.Format("2006-01")
		sub := r.IntN(100)
		e := audit.Entry{Seq: seq[log], Time: at, Kind: audit.KindIntent, Call: fmt.Sprintf("c_%026x", r.Uint64()), Policy: fmt.Sprintf("%040x", i/(n/50+1)),
			Issuer: "https://id.example.com", Sub: fmt.Sprintf("user-%d", sub), Client: fmt.Sprintf("client-%d", sub%7), Holder: fmt.Sprintf("h%d", sub), Session: fmt.Sprintf("s%d", i/300),
			Server: fmt.Sprintf("server-%d", sub%10), Method: "tools/call", Tool: fmt.Sprintf("tool-%d", r.IntN(4)+sub%5), Effect: "allow", Rules: []string{fmt.Sprintf("rule-%d", sub%30)}, Args: `{"sql":"SELECT 1 FROM t WHERE id = 12345"}`}
		end := e
		end.Kind, end.Status, end.Millis, end.Effect, end.Rules, end.Args = audit.KindOutcome, "ok", float64(r.IntN(200_000))/1000, "", nil, ""
		end.Seq, end.Time = e.Seq+1, at.Add(time.Millisecond)
		batch[branch] = append(batch[branch], e, end)
		if seq[log] += 2; len(batch[branch]) >= 512 {
			flush(branch)
		}
	}
	for branch := range batch {
		flush(branch)
	}
	path := filepath.Join(b.TempDir(), "x.sqlite")
	begun := time.Now()
	x, _ := opened(b, Config{Repo: c.repository(), Path: path})
	built := time.Since(begun)
	s, err := x.State(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	perEntry := func(b *testing.B) {
		b.ReportMetric(float64(s.Entries)/built.Seconds(), "built/s")
		b.ReportMetric(float64(s.Bytes)/float64(s.Entries), "B/entry")
		b.ReportMetric(float64(lines)/float64(s.Entries), "lineB/entry")
	}
	count := func(f Filter, newest bool, most int) func(*testing.B) {
		return func(b *testing.B) {
			for b.Loop() {
				n := 0
				for _, err := range x.Entries(b.Context(), f, newest) {
					if err != nil {
						b.Fatal(err)
					}
					if n++; n == most {
						break
					}
				}
			}
			perEntry(b)
		}
	}
	b.Run("newest20", count(Filter{}, true, 20))
	b.Run("subjectNewest20", count(Filter{Subjects: []string{"user-7"}}, true, 20))
	b.Run("nothing", count(Filter{Statuses: []string{"ok"}, Decisions: []string{"allow"}, Tools: []string{"tool-0"}, Servers: []string{"server-9"}}, false, 0))
	b.Run("call", func(b *testing.B) {
		newest, err := x.Newest(b.Context(), Filter{}, 1)
		if err != nil {
			b.Fatal(err)
		}
		count(Filter{Calls: []string{newest[0].Entry.Call}}, false, 0)(b)
	})
	b.Run("stats", func(b *testing.B) {
		for b.Loop() {
			calls := int64(0)
			for t, err := range x.Tallies(b.Context(), Filter{}) {
				if calls += t.Calls; err != nil {
					b.Fatal(err)
				}
			}
			if calls != s.Entries/2 {
				b.Fatalf("%d calls", calls)
			}
		}
	})
	b.Run("open", func(b *testing.B) {
		for b.Loop() {
			y, err := Open(b.Context(), Config{Repo: c.repository(), Path: path})
			if err != nil {
				b.Fatal(err)
			}
			if err := y.Close(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
