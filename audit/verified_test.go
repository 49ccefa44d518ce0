package audit

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"
)

// resumed verifies with a state, by way of its file, and returns the report and
// the new file.
func resumed(t *testing.T, repo Repository, file []byte, cfg VerifyConfig) (*Report, []byte) {
	t.Helper()
	cfg.Keys, cfg.Signer, cfg.State = keysOf("log"), checkSigner, NewVerified("test")
	if file != nil {
		if err := cfg.State.Load(file); err != nil {
			t.Fatal(err)
		}
	}
	rep, err := Verify(t.Context(), repo, cfg)
	if err != nil {
		t.Fatal(err)
	}
	b, err := cfg.State.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return rep, b
}

func TestVerifyResumes(t *testing.T) {
	m := sample(t)
	tip := m.branches[branch]
	chain := m.history(tip)
	read := map[string]int{}
	repo := m.repository()
	blob := repo.Blob
	repo.Blob = func(h string) ([]byte, error) { read[h]++; return blob(h) }
	m.branches[branch] = chain[1] // the third commit is to come
	first, file := resumed(t, repo, nil, VerifyConfig{Workers: 1})
	if !first.OK() || first.Entries != 10 {
		t.Fatal(first)
	}
	if rep, again := resumed(t, repo, file, VerifyConfig{Workers: 1}); !rep.OK() || rep.Entries != 10 || string(again) != string(file) {
		t.Errorf("nothing new: %s\n%s\n%s", rep, again, file)
	}
	clear(read)
	m.branches[branch] = tip
	rep, file := resumed(t, repo, file, VerifyConfig{Workers: 1})
	if !rep.OK() || rep.Logs[0].Resumed != 10 || len(read) != 3 { // lines, hashes, checkpoint
		t.Errorf("%s: %d files read, resumed after %d", rep, len(read), rep.Logs[0].Resumed)
	}
	rep.Logs[0].Resumed = 0
	if whole := verifyStore(t, m); !reflect.DeepEqual(rep, whole) {
		t.Errorf("in two runs\n%+v\nin one\n%+v", rep, whole)
	}

	// It is an anchor: what held must still be there.
	anchor := string(m.files[chain[1]]["checkpoint"]) // within what was read before
	if rep, _ := resumed(t, repo, file, VerifyConfig{Anchors: []string{anchor}}); !rep.OK() || rep.Anchors != 1 {
		t.Error(rep)
	}
	for what, change := range map[string]func(m *memStore){
		"rolled back": func(m *memStore) { m.branches[branch] = chain[1] },
		"rewritten": func(m *memStore) {
			m.rewrite(branch, "demo", func(_ int, _ map[string][]byte, msg *string) bool { return true })
			c := m.objects[m.branches[branch]].(Commit)
			m.branches[branch] = m.write(m.files[m.branches[branch]], c.Parents, c.Message, c.When.Add(time.Second))
		},
	} {
		bad := m.clone()
		change(bad)
		rep, after := resumed(t, bad.repository(), file, VerifyConfig{})
		if rep.OK() || rep.Problems[0].Class != ClassState || string(after) != string(file) {
			t.Errorf("%s: %s; the state changed: %v", what, rep, string(after) != string(file))
		}
	}
	// The branch is gone, and another log is there: that is another record.
	bad := m.clone()
	bad.branches = map[string]string{"audit/other/i1/2026-11": tip}
	s := NewVerified("test")
	if err := s.Load(file); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(t.Context(), bad.repository(), VerifyConfig{Keys: keysOf("log"), Signer: checkSigner, State: s}); !errors.Is(err, ErrState) {
		t.Errorf("another record: %v", err)
	}
	bad.branches[branch] = tip
	delete(bad.branches, "audit/other/i1/2026-11")
	bad.branches["audit/demo/i2/2026-11"] = tip
	delete(bad.branches, branch)
	s = NewVerified("test")
	if err := s.Load(file); err != nil {
		t.Fatal(err)
	}
	bad.branches["audit/demo/i1/2026-12"] = tip // the log is there, its month is not
	if rep, err := Verify(t.Context(), bad.repository(), VerifyConfig{Keys: keysOf("log"), Signer: checkSigner, State: s}); err != nil || rep.OK() || !strings.Contains(rep.String(), "an earlier run verified this branch, and it is gone") {
		t.Errorf("%v, %s", err, rep)
	}
	for what, file := range map[string]string{
		"cut": string(file[:len(file)-1]), "edited": strings.Replace(string(file), `"size":14`, `"size":15`, 1), "empty": "", "something else": "{}\n",
	} {
		if err := NewVerified("test").Load([]byte(file)); !errors.Is(err, ErrState) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := NewVerified("other keys").Load(file); !errors.Is(err, ErrState) || !strings.Contains(err.Error(), "other keys") {
		t.Errorf("%v", err)
	}
}

// Whoever interrupts a run has what held so far.
func TestVerifyIsInterrupted(t *testing.T) {
	m := sample(t)
	ctx, cancel := context.WithCancel(t.Context())
	s := NewVerified("test")
	cfg := VerifyConfig{Keys: keysOf("log"), Signer: checkSigner, State: s, Workers: 1, Progress: func(_ string, n uint64) {
		if n == 10 {
			cancel()
		}
	}}
	if _, err := Verify(ctx, m.repository(), cfg); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	file, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if rep, _ := resumed(t, m.repository(), file, VerifyConfig{}); !rep.OK() || rep.Logs[0].Resumed != 10 || rep.Entries != 14 {
		t.Errorf("%s %+v", rep, rep.Logs)
	}
}

func TestVerifyFollowsKeys(t *testing.T) {
	c := &clockAt{t: noon}
	j := openJournal(t, Config{Now: c.Now})
	m := newStore()
	old, next := testKey("log"), testKey("next")
	both := newPublisher(t, PublisherConfig{Journal: j, Store: m, Now: c.Now, Signer: KeySigner(next), Previous: KeySigner(old)})
	rotate := func(use string, from, to ed25519.PrivateKey) {
		r, err := Rotate("demo", use, KeySigner(from), public(to))
		if err != nil {
			t.Fatal(err)
		}
		d, err := Detail(r)
		if err != nil {
			t.Fatal(err)
		}
		add(t, j, Entry{Kind: KindKey, Status: StatusRotated, Detail: d})
	}
	rotate(UseCheckpoint, old, next)
	rotate(UseCommit, testKey("commits"), testKey("commits-2"))
	m.signer = "demo-2" // the commit is signed by the key that an entry in it brings
	flush(t, both)
	add(t, j, Entry{Kind: KindIntent})
	after := newPublisher(t, PublisherConfig{Journal: j, Store: m, Now: c.Now, Signer: KeySigner(next)})
	flush(t, after)
	cfg := VerifyConfig{Keys: LogKeys{"demo": keysOf("log")[""]}, Signer: checkSigner,
		Committer: func(key, _ string, _ time.Time) (string, error) {
			if line, err := PublicLine(public(testKey("commits"))); err != nil || key != line {
				return "", errors.New("nobody's")
			}
			return "demo", nil
		},
		SignedBy: func(raw []byte, _ time.Time, key string) error {
			if line, err := PublicLine(public(testKey("commits-2"))); err != nil || key != line || !strings.HasPrefix(string(raw), "signed by demo-2\n") {
				return errors.New("not by that key")
			}
			return nil
		}}
	rep, err := Verify(t.Context(), m.repository(), cfg)
	if err != nil || !rep.OK() || rep.Entries != 4 || len(rep.Notes) != 2 || !strings.Contains(rep.Notes[0]+rep.Notes[1], "demo replaced its checkpoint key at entry 1 of demo/i1") {
		t.Fatalf("%v: %s %q", err, rep, rep.Notes)
	}
	// A later run finds them in the state.
	cfg.State = NewVerified("test")
	for range 2 {
		if rep, err = Verify(t.Context(), m.repository(), cfg); err != nil || !rep.OK() {
			t.Fatalf("%v: %s", err, rep)
		}
		add(t, j, Entry{Kind: KindOutcome})
		flush(t, after)
	}
	if rep.Logs[0].Resumed != 4 || rep.Entries != 5 {
		t.Errorf("%+v", rep.Logs)
	}
	cfg.State = nil
	// Whom nobody trusts names nobody.
	cfg.Committer = func(string, string, time.Time) (string, error) { return "", errors.New("nobody's") }
	if rep, _ := Verify(t.Context(), m.repository(), cfg); rep.OK() || !strings.Contains(rep.String(), "a commit key that you do not trust names its successor") {
		t.Error(rep)
	}
}

// rolledStores are the sample, and a second repository in which its log goes
// on after the second commit.
func rolledStores(t *testing.T) (old, next *memStore) {
	old, next = sample(t), newStore()
	chain := old.history(old.branches[branch])
	last, before := old.files[chain[0]], old.files[chain[1]]
	var e edge
	for _, f := range []string{"entries/000/000.jsonl", second} {
		for _, l := range trimLines(before[f]) {
			e = e.with(leavesOf(l))
		}
	}
	files := map[string][]byte{"checkpoint": last["checkpoint"], "base": e.appendBase(nil), handoverFile: before["checkpoint"]}
	for p, b := range last {
		if _, ok := before[p]; !ok {
			files[p] = b
		}
	}
	c := old.objects[chain[0]].(Commit)
	next.branches[branch] = next.write(files, nil, c.Message, c.When)
	old.branches[branch] = chain[1]
	return old, next
}

func TestVerifyOverSeveralRepositories(t *testing.T) {
	old, next := rolledStores(t)
	handover := false
	verify := func(repo *memStore, earlier ...*memStore) *Report {
		t.Helper()
		cfg := VerifyConfig{Keys: keysOf("log"), Signer: checkSigner, Handover: handover}
		for _, m := range earlier {
			cfg.Earlier = append(cfg.Earlier, m.repository())
		}
		rep, err := Verify(t.Context(), repo.repository(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		return rep
	}
	if rep := verify(next, old); !rep.OK() || rep.Entries != 14 || rep.Commits != 3 {
		t.Errorf("both: %s", rep)
	}
	if rep := verify(next); rep.OK() || rep.Problems[0].Class != ClassHandover || !strings.Contains(rep.String(), "which was not given, or were deleted") {
		t.Errorf("the newer alone: %s", rep)
	}
	handover = true
	if rep := verify(next); rep.OK() || !strings.Contains(rep.String(), "begins here with entry 10, and its hand-over, as earlier versions made them, does not prove that it rolled") {
		t.Errorf("the newer alone: %s", rep)
	}
	for what, change := range map[string]func(files map[string][]byte){
		"is of another tree": func(f map[string][]byte) { f[handoverFile] = f["checkpoint"] },
		"not signed by": func(f map[string][]byte) {
			f[handoverFile] = []byte(strings.Replace(string(f[handoverFile]), "\n10\n", "\n11\n", 1))
		},
		"entry 0 and those up": func(f map[string][]byte) { delete(f, handoverFile) },
		"of another log": func(f map[string][]byte) {
			c, err := ReadCheckpoint(string(f[handoverFile]))
			if err != nil {
				t.Fatal(err)
			}
			c.Origin = "demo/i9"
			signed, err := c.Sign(testKey("log"))
			if err != nil {
				t.Fatal(err)
			}
			f[handoverFile] = []byte(signed)
		},
	} {
		bad := next.clone()
		files := maps.Clone(bad.tipFiles(branch))
		change(files)
		c := bad.objects[bad.branches[branch]].(Commit)
		bad.branches[branch] = bad.write(files, nil, c.Message, c.When)
		if rep := verify(bad); rep.OK() || !strings.Contains(rep.String(), what) {
			t.Errorf("%s: %s", what, rep)
		}
	}
	// The old repository lacks its last commit.
	short := old.clone()
	short.branches[branch] = short.history(short.branches[branch])[1]
	if rep := verify(next, short); rep.OK() || !strings.Contains(rep.String(), "entry 6 and those up to 9 are missing") {
		t.Error(rep)
	}
}

// A proof may lead from an entry in one repository to a checkpoint in the next.
func TestProveOverSeveralRepositories(t *testing.T) {
	old, next := rolledStores(t)
	for seq := range uint64(14) {
		p, err := Prove(t.Context(), next.repository(), ProveConfig{Keys: keysOf("log"), Earlier: []Repository{old.repository()}, Seq: seq})
		if err != nil || p.Entry.Seq != seq || p.Checkpoint.Size != 14 {
			t.Errorf("entry %d of both: %+v, %v", seq, p.Checkpoint, err)
		}
	}
	if _, err := Prove(t.Context(), next.repository(), ProveConfig{Keys: keysOf("log"), Seq: 2}); !errors.Is(err, ErrNoEntry) {
		t.Errorf("an entry of the older, in the newer alone: %v", err)
	}
}

// Where the log goes on from another repository, messages are checked although
// the start that tells their form was not read.
func TestVerifyChecksMessagesOfContinuedLogs(t *testing.T) {
	_, next := rolledApart(t)
	c := next.objects[next.branches[branch]].(Commit)
	note, ok := messageNote(c.Message)
	if !ok {
		t.Fatal(c.Message)
	}
	next.branches[branch] = next.write(next.tipFiles(branch), c.Parents, "nothing happened\n\n"+note, c.When)
	rep, err := Verify(t.Context(), next.repository(), VerifyConfig{Keys: keysOf("log"), Signer: checkSigner, Handover: true})
	if err != nil || rep.OK() || rep.Problems[0].Class != ClassMessage {
		t.Errorf("%v, %s", err, rep)
	}
}

// What the ids of calls are is remembered from run to run.
func TestVerifyRemembersIDs(t *testing.T) {
	one := newConduct(func(Problem) {}, nil)
	for _, id := range []string{"c_1", "c_2"} {
		one.seen[idHash(id)] = struct{}{}
	}
	file, err := json.Marshal(stateCalls{IDs: one.ids()})
	if err != nil {
		t.Fatal(err)
	}
	var kept stateCalls
	if err := json.Unmarshal(file, &kept); err != nil {
		t.Fatal(err)
	}
	s := goodScene(t)
	s.entries = s.entries[:3]
	if ps, _, _ := s.told(false); len(ps) != 0 {
		t.Fatal(ps)
	}
	s.knows = kept.IDs
	if ps, _, _ := s.told(false); len(ps) != 1 || !strings.Contains(ps[0].Text, "the id c_1 is that of an earlier call") {
		t.Error(ps)
	}
}

// A folder that has the name of a file hides it from who reads by name.
func TestVerifySeesHiddenFiles(t *testing.T) {
	m := sample(t)
	repo := m.repository()
	tree := repo.Tree
	repo.Tree = func(hash string) ([]Node, error) {
		nodes, err := tree(hash)
		for _, n := range nodes {
			if n.Name == "entries" {
				return append(nodes, Node{Name: "entries", Mode: modeFile, Hash: n.Hash}), err
			}
		}
		return nodes, err
	}
	rep, err := Verify(t.Context(), repo, VerifyConfig{Keys: keysOf("log"), Signer: checkSigner})
	if err != nil || rep.OK() || !strings.Contains(rep.String(), "entries is there twice") {
		t.Errorf("%v, %s", err, rep)
	}
}

// The report is what programs read: its members have their names.
func TestReportJSON(t *testing.T) {
	m := sample(t)
	m.rewrite(branch, "mallory", func(int, map[string][]byte, *string) bool { return true })
	c := m.objects[m.branches[branch]].(Commit)
	m.signer = "mallory"
	m.branches[branch] = m.write(m.files[m.branches[branch]], c.Parents, c.Message, c.When)
	b, err := json.Marshal(verifyStore(t, m))
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Verdict  string
		Problems []struct {
			Class, Origin, Branch, Commit, Text string
			Entry                               int
		}
		Logs []struct {
			Enforcer, Incarnation string
			Entries               int
			Checkpoint            struct{ Root string }
		}
		Checked map[string]any
	}
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if got.Verdict != Fails || len(got.Problems) == 0 || got.Problems[0].Class != "signature" || got.Problems[0].Branch != branch || got.Problems[0].Entry != -1 ||
		len(got.Logs) != 1 || got.Logs[0].Enforcer != "demo" || fmt.Sprint(got.Checked["calls"]) == "" {
		t.Errorf("%s", b)
	}
}
