package audit

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// rolledOver opens a log that goes from repository a to b, with entries on
// both sides.
func rolledOver(t *testing.T, dir string, c *clockAt) *Journal {
	t.Helper()
	j := openJournal(t, Config{Dir: dir, Now: c.Now})
	add(t, j, Entry{Kind: KindIntent})
	detail, err := Detail(Rolled{From: "a", To: "b", Reason: RolledSize})
	if err != nil {
		t.Fatal(err)
	}
	add(t, j, Entry{Kind: KindRolled, Detail: detail})
	add(t, j, Entry{Kind: KindOutcome})
	add(t, j, Entry{Kind: KindStop})
	return j
}

// checkRolled checks that each repository has its part, and that the second
// begins where the first ends.
func checkRolled(t *testing.T, a, b *memStore) {
	t.Helper()
	const branch = "audit/demo/i1/2026-11"
	for name, m := range map[string]*memStore{"a": a, "b": b} {
		if m.remote[branch] == "" || m.remote[branch] != m.branches[branch] {
			t.Fatalf("%s is not pushed", name)
		}
	}
	if rep := verifyStore(t, a); !rep.OK() || rep.Entries != 3 {
		t.Errorf("a: %s", rep)
	}
	files := b.tipFiles(branch)
	if problems, err := VerifyFiles(mapFS(files), VerifyConfig{Keys: keysOf("log")}, nil); err != nil || problems != nil {
		t.Errorf("b: %v, %v", err, problems)
	}
	cp, err := keysOf("log").Open(string(files["checkpoint"]))
	if err != nil || cp.Size != 5 {
		t.Errorf("b ends at %+v, %v", cp, err)
	}
	last := a.tipFiles(branch)["checkpoint"]
	// Anybody's program for such proofs reads the hand-over.
	p, err := OpenProof(files["handover"], keysOf("log"), nil)
	if err != nil || p.signed != string(last) || p.Entry.Kind != KindRolled || p.Entry.Seq != 2 || handedOverFrom(files["handover"]) != "a" {
		t.Errorf("b begins with the hand-over %q, a ends with %q: %v", files["handover"], last, err)
	}
	base, err := parseBase(files["base"])
	at, err2 := ReadCheckpoint(string(last))
	if errors.Join(err, err2) != nil || base.size != 3 || base.root() != at.Root {
		t.Errorf("b begins behind %d entries: %v", base.size, errors.Join(err, err2))
	}
	if _, ok := files["entries/000/003.jsonl"]; !ok {
		t.Errorf("b has %v", files)
	}
}

func TestRoll(t *testing.T) {
	dir := t.TempDir()
	c := &clockAt{t: noon}
	j := rolledOver(t, dir, c)
	a, b := newStore(), newStore()
	first := newPublisher(t, PublisherConfig{Journal: j, Store: a, Repo: "a", Now: c.Now})
	if _, ok := first.Rolled(); ok {
		t.Error("it left before it began")
	}
	if err := first.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, ok := first.Rolled(); ok {
		t.Error("it left before the remote had the end")
	}
	if err := newPublisher(t, PublisherConfig{Journal: j, Store: b, Repo: "b", Now: c.Now}).Flush(t.Context()); err == nil || len(b.branches) > 0 {
		t.Errorf("the next repository is written before the last one is done: %v", err)
	}
	flush(t, first)
	if to, ok := first.Rolled(); !ok || to != "b" {
		t.Errorf("it left for %q, %v", to, ok)
	}
	if s := j.State(); s.Pushed != 3 || s.Bytes == 0 {
		t.Errorf("%+v", s)
	}
	if err := newPublisher(t, PublisherConfig{Journal: j, Store: b, Repo: "c", Now: c.Now}).Flush(t.Context()); err == nil || !strings.Contains(err.Error(), "is in b, not in c") {
		t.Errorf("in the wrong repository: %v", err)
	}
	flush(t, newPublisher(t, PublisherConfig{Journal: j, Store: b, Repo: "b", Now: c.Now}))
	checkRolled(t, a, b)
	if s := j.State(); s.Pushed != 5 || s.Bytes != 0 {
		t.Errorf("%+v", s)
	}
	// A log that did not roll cannot say that it did.
	if _, err := rolledTo([]byte(`{"from":"a"}`)); err == nil {
		t.Error("a roll to nowhere")
	}
}

// A crash may fall between any two steps of a roll; the next start, with the
// disk and the repositories, ends where an orderly one does.
func TestRollCrashes(t *testing.T) {
	crash := errors.New("crash")
	noMark := func(dir string) func() error {
		return func() error { return os.Mkdir(filepath.Join(dir, "journal", "i1", markFile+".new"), 0o700) }
	}
	fail := func() error { return crash }
	for name, fault := range map[string]func(dir string, a, b *memStore){
		"before anything is committed":    func(_ string, a, _ *memStore) { a.beforeCommit = fail },
		"after the commit to the first":   func(_ string, a, _ *memStore) { a.afterCommit = fail },
		"before the push to the first":    func(_ string, a, _ *memStore) { a.onPush = fail },
		"before the first is known":       func(dir string, a, _ *memStore) { a.onPush = noMark(dir) },
		"before the second is begun":      func(_ string, _, b *memStore) { b.beforeCommit = fail },
		"after the commit to the second":  func(_ string, _, b *memStore) { b.afterCommit = fail },
		"before the push to the second":   func(_ string, _, b *memStore) { b.onPush = fail },
		"before the second one is known":  func(dir string, _, b *memStore) { b.onPush = noMark(dir) },
		"with nothing going wrong at all": func(string, *memStore, *memStore) {},
	} {
		for _, forgets := range []bool{false, true} { // a power failure takes commits that no push made durable
			t.Run(fmt.Sprintf("%s, forgets=%v", name, forgets), func(t *testing.T) {
				dir := t.TempDir()
				c := &clockAt{t: noon}
				j := rolledOver(t, dir, c)
				stores := map[string]*memStore{"a": newStore(), "b": newStore()}
				fault(dir, stores["a"], stores["b"])
				for _, repo := range []string{"a", "b"} {
					if err := newPublisher(t, PublisherConfig{Journal: j, Store: stores[repo], Repo: repo, Now: c.Now}).Flush(t.Context()); err != nil {
						break // dead
					}
				}
				if err := os.RemoveAll(filepath.Join(dir, "journal", "i1", markFile+".new")); err != nil {
					t.Fatal(err)
				}
				for _, m := range stores {
					m.beforeCommit, m.afterCommit, m.onPush = nil, nil, nil
					if forgets {
						clear(m.branches)
						for b, h := range m.remote {
							m.branches[b] = h
						}
					}
				}
				past := onlyPast(t, dir)
				for range 3 {
					repo := past.Repo()
					if repo == "" {
						repo = "a"
					}
					p := newPublisher(t, PublisherConfig{Past: past, Store: stores[repo], Repo: repo, Now: c.Now})
					flush(t, p)
					if to, ok := p.Rolled(); !ok || to != past.Repo() {
						break
					}
				}
				if past.mark.Entries != past.Entries {
					t.Error("not all is published")
				}
				checkRolled(t, stores["a"], stores["b"])
			})
		}
	}
}

// rolledApart are two repositories that a log went through.
func rolledApart(t *testing.T) (a, b *memStore) {
	t.Helper()
	c := &clockAt{t: noon}
	j := rolledOver(t, t.TempDir(), c)
	a, b = newStore(), newStore()
	flush(t, newPublisher(t, PublisherConfig{Journal: j, Store: a, Repo: "a", Now: c.Now}))
	flush(t, newPublisher(t, PublisherConfig{Journal: j, Store: b, Repo: "b", Now: c.Now}))
	return a, b
}

// The new repository alone shows that the log was handed over to it, and from
// where; a checkpoint alone does not.
func TestHandover(t *testing.T) {
	const branch = "audit/demo/i1/2026-11"
	a, b := rolledApart(t)
	verify := func(m *memStore, handover bool, earlier ...Repository) string {
		t.Helper()
		rep, err := Verify(t.Context(), m.repository(), VerifyConfig{Keys: keysOf("log"), Signer: checkSigner, Handover: handover, Earlier: earlier})
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(rep.OK(), " ", rep, " ", rep.Notes)
	}
	if got := verify(b, false); !strings.Contains(got, "false") || !strings.Contains(got, "those before it are in another repository, a, which was not given") {
		t.Error(got)
	}
	if got := verify(b, true); !strings.HasPrefix(got, "true") || !strings.Contains(got, "those before it are in another repository, a, which was not read") {
		t.Error(got)
	}
	if got := verify(b, false, a.repository()); !strings.HasPrefix(got, "true") {
		t.Error(got)
	}
	with := func(file []byte) *memStore {
		made := b.clone()
		files := maps.Clone(made.tipFiles(branch))
		files[handoverFile] = file
		c := made.objects[made.branches[branch]].(Commit)
		made.branches[branch] = made.write(files, nil, c.Message, c.When)
		return made
	}
	proof := b.tipFiles(branch)[handoverFile]
	bare := with(a.tipFiles(branch)["checkpoint"]) // as earlier versions wrote it
	if got := verify(bare, false, a.repository()); !strings.HasPrefix(got, "true") {
		t.Error(got)
	}
	if got := verify(bare, true); !strings.HasPrefix(got, "false") || !strings.Contains(got, "does not prove that it rolled") {
		t.Error(got)
	}
	other, err := Prove(t.Context(), a.repository(), ProveConfig{Keys: keysOf("log"), Seq: 1})
	if err != nil {
		t.Fatal(err)
	}
	for what, file := range map[string][]byte{
		"is not the last one of a log that goes on": other.Encode(),
		"proof":         bytes.Replace(proof, []byte("index 2"), []byte("index 1"), 1),
		"not signed by": bytes.Replace(proof, []byte("demo/i1 9"), []byte("demo/i1 8"), 1),
	} {
		if got := verify(with(file), true); !strings.HasPrefix(got, "false") || !strings.Contains(got, what) {
			t.Errorf("%s: %s", what, got)
		}
	}
	// The way from the last leaf, in trees of every form.
	var e edge
	for i := range uint64(70) {
		line := fmt.Appendf(nil, "%d", i)
		l := newLastLeaf(e, line)
		e = e.with([]tlog.Hash{tlog.RecordHash(line)})
		if err := tlog.CheckRecord(l.way, int64(e.size), e.root(), int64(i), tlog.RecordHash(line)); err != nil {
			t.Errorf("entry %d: %v", i, err)
		}
	}
}

// A run that rolled under an earlier version, and had not gone on, goes on as that
// one would have.
func TestRollBeganUnderAnEarlierVersion(t *testing.T) {
	dir, c := t.TempDir(), &clockAt{t: noon}
	j := rolledOver(t, dir, c)
	a, b := newStore(), newStore()
	flush(t, newPublisher(t, PublisherConfig{Journal: j, Store: a, Repo: "a", Now: c.Now}))
	m, err := j.inc.readMark()
	if err != nil || m.Handover == "" {
		t.Fatal(m, err)
	}
	m.Handover = ""
	if err := j.inc.writeMark(m); err != nil {
		t.Fatal(err)
	}
	flush(t, newPublisher(t, PublisherConfig{Journal: j, Store: b, Repo: "b", Now: c.Now}))
	const branch = "audit/demo/i1/2026-11"
	if h := b.tipFiles(branch)[handoverFile]; string(h) != string(a.tipFiles(branch)["checkpoint"]) || handedOverFrom(h) != "" {
		t.Errorf("%q", h)
	}
	rep, err := Verify(t.Context(), b.repository(), VerifyConfig{Keys: keysOf("log"), Signer: checkSigner, Earlier: []Repository{a.repository()}})
	if err != nil || !rep.OK() {
		t.Error(rep, err)
	}
}
