package audit

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// Every size that a witness may have seen is proven to be the beginning of what
// is about to be pushed: by the run that committed it, over the end of a month,
// and by the next start, which remembers nothing.
func TestProofsForWitnesses(t *testing.T) {
	c := &clockAt{t: time.Date(2026, 11, 30, 23, 50, 0, 0, time.UTC)}
	dir := t.TempDir()
	j := openJournal(t, Config{Dir: dir, Now: c.Now})
	m := newStore()
	roots := map[uint64]tlog.Hash{}
	asked := 0
	ask := func(ctx context.Context, a Cosigning) (string, error) {
		asked++
		roots[a.Checkpoint.Size] = a.Checkpoint.Root
		for old, root := range roots {
			proof, err := a.Proof(ctx, old)
			if old > a.Checkpoint.Size {
				if err == nil {
					t.Errorf("a proof from %d to %d", old, a.Checkpoint.Size)
				}
				continue
			}
			if err == nil && old < a.Checkpoint.Size {
				err = tlog.CheckTree(proof, int64(a.Checkpoint.Size), a.Checkpoint.Root, int64(old), root)
			}
			if err != nil {
				t.Errorf("from %d to %d: %v", old, a.Checkpoint.Size, err)
			}
		}
		if _, err := a.Proof(ctx, 1); err != nil { // no commit ended there
			t.Errorf("from 1 to %d: %v", a.Checkpoint.Size, err)
		}
		// Not all of them did: what there is goes into the commit.
		return cosignedBy(t, a.Signed, "w"), errors.New("witness x: down")
	}
	p := newPublisher(t, PublisherConfig{Journal: j, Store: m, Now: c.Now, Cosign: ask})
	publish := func(n int) {
		for range n {
			add(t, j, Entry{Kind: KindIntent})
		}
		if err := p.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	publish(4)
	publish(1)
	c.Set(time.Date(2026, 12, 31, 23, 0, 0, 0, time.UTC))
	publish(9)
	publish(2)
	c.Set(time.Date(2027, 1, 1, 0, 0, 1, 0, time.UTC))
	publish(3)
	q, err := NewQuorum([]string{witnessVkey(t, "w")}, 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, signed, _ := p.Last(); signed == "" {
		t.Fatal("no checkpoint")
	} else if by, err := q.Check(signed); err != nil || len(by) != 1 {
		t.Errorf("%v, %v", by, err)
	}
	add(t, j, Entry{Kind: KindStop})
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	past, err := Previous(dir)
	if err != nil || len(past) != 1 {
		t.Fatalf("%v, %v", past, err)
	}
	before := asked
	p = newPublisher(t, PublisherConfig{Past: past[0], Store: m, Now: c.Now, Cosign: ask})
	if err := p.Commit(t.Context()); err != nil || asked != before+1 {
		t.Fatalf("asked %d times, %v", asked-before, err)
	}
	if rep := verifyStore(t, m); !rep.OK() {
		t.Error(rep)
	}
}

// The local repository lets go of what is old. A witness that was away for long
// is still shown that the log goes on from what it cosigned; and one whose
// answer was lost, as long as the journal has the lines.
func TestProofsWithoutTheBranches(t *testing.T) {
	c := &clockAt{t: noon}
	j := openJournal(t, Config{Now: c.Now})
	m := newStore()
	forget := false
	roots := map[uint64]tlog.Hash{}
	var last Cosigning
	p, err := NewPublisher(PublisherConfig{Journal: j, Store: forgetful{m, &forget}, Signer: KeySigner(testKey("log")), Now: c.Now, Cosign: func(ctx context.Context, a Cosigning) (string, error) {
		last, roots[a.Checkpoint.Size] = a, a.Checkpoint.Root
		proof, err := a.Proof(ctx, 4)
		if err == nil && a.Checkpoint.Size > 4 {
			err = tlog.CheckTree(proof, int64(a.Checkpoint.Size), a.Checkpoint.Root, 4, roots[4])
		}
		if err != nil {
			t.Errorf("size %d: %v", a.Checkpoint.Size, err)
		}
		if a.Checkpoint.Size == 4 {
			return cosignedBy(t, a.Signed, "w1", "w2"), nil
		}
		if forget {
			for old, root := range roots { // lost answers
				proof, err := a.Proof(ctx, old)
				if err == nil && old < a.Checkpoint.Size {
					err = tlog.CheckTree(proof, int64(a.Checkpoint.Size), a.Checkpoint.Root, int64(old), root)
				}
				if err != nil {
					t.Errorf("from %d to %d: %v", old, a.Checkpoint.Size, err)
				}
			}
		}
		return cosignedBy(t, a.Signed, "w1"), nil // w2 is away
	}})
	if err != nil {
		t.Fatal(err)
	}
	for n := range 40 {
		forget = n > 35
		for range 3 {
			add(t, j, Entry{Kind: KindIntent})
		}
		if err := p.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if last.Checkpoint.Size != 121 {
		t.Errorf("%d entries", last.Checkpoint.Size)
	}
}

// forgetful is a store that may have let go of its files.
type forgetful struct {
	*memStore
	forgot *bool
}

func (f forgetful) File(commit, path string) ([]byte, error) {
	if *f.forgot && strings.HasSuffix(path, ".hashes") {
		return nil, errors.New("no such object")
	}
	return f.memStore.File(commit, path)
}

// Nothing but lines goes into a checkpoint, whatever comes back.
func TestWhatIsNoCosignature(t *testing.T) {
	for what, change := range map[string]func(string) string{
		"another text": func(s string) string { return strings.Replace(s, "\n2\n", "\n3\n", 1) },
		"a paragraph":  func(s string) string { return s + "\nhello\n" },
		"half a line":  func(s string) string { return s + "— w.example AAAA" },
		"less":         func(s string) string { return "" },
	} {
		j := openJournal(t, Config{})
		m := newStore()
		p := newPublisher(t, PublisherConfig{Journal: j, Store: m, Cosign: func(_ context.Context, a Cosigning) (string, error) {
			return change(a.Signed), nil
		}})
		add(t, j, Entry{Kind: KindIntent})
		if err := p.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, signed, _ := p.Last(); strings.Count(signed, "\n") != 5 {
			t.Errorf("%s: %q", what, signed)
		}
		if rep := verifyStore(t, m); !rep.OK() {
			t.Errorf("%s: %s", what, rep)
		}
	}
}
