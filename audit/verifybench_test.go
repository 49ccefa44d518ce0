package audit_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"countersign/audit"
	"countersign/gitsync"
)

// objects reads a repository by so many handles side by side, as the command does.
func objects(t testing.TB, dir string, handles int) audit.Repository {
	t.Helper()
	pool := make(chan *gitsync.Repo, handles)
	var all []*gitsync.Repo
	for range handles {
		r, err := gitsync.OpenClone(context.Background(), dir, gitsync.Auth{})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
		pool <- r
	}
	var once sync.Once
	t.Cleanup(func() {
		once.Do(func() {
			for _, r := range all {
				if err := r.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	})
	return audit.Repository{
		Branches: all[0].Branches, Tip: all[0].Tip,
		Commit: func(hash string) (audit.Commit, error) {
			r := <-pool
			defer func() { pool <- r }()
			c, err := r.Commits(hash)
			return audit.Commit{Tree: c.Tree, Parents: c.Parents, When: c.When, Message: c.Message, Raw: c.Raw}, err
		},
		Tree: func(hash string) ([]audit.Node, error) {
			r := <-pool
			defer func() { pool <- r }()
			nodes, err := r.Tree(hash)
			out := make([]audit.Node, len(nodes))
			for i, n := range nodes {
				out[i] = audit.Node(n)
			}
			return out, err
		},
		Blob: func(hash string) ([]byte, error) {
			r := <-pool
			defer func() { pool <- r }()
			return r.Blob(hash)
		},
	}
}

// BenchmarkVerify verifies a clone of 65,536 entries of some 300 bytes, an
// intent and an outcome for each call, in batches of 8,192, packed by stock Git.
func BenchmarkVerify(b *testing.B) {
	const calls = 32_768
	dir := b.TempDir()
	commitKey, commitPub := keyPair(b)
	logKey, logPub := keyPair(b)
	store, err := gitsync.OpenAudit(gitsync.AuditConfig{Dir: filepath.Join(dir, "audit.git"), KeyPEM: commitKey, Name: "demo", Email: "demo@countersign.example"})
	if err != nil {
		b.Fatal(err)
	}
	now := time.Date(2026, 11, 23, 14, 31, 7, 0, time.UTC)
	// Nothing is synced: the disk is not what is measured.
	j, err := audit.Open(audit.Config{Dir: filepath.Join(dir, "state"), Enforcer: "demo", Incarnation: "i1", Now: func() time.Time { return now },
		Disk: audit.UnsyncedDisk()})
	if err != nil {
		b.Fatal(err)
	}
	key, err := audit.ParsePrivateKey(logKey)
	if err != nil {
		b.Fatal(err)
	}
	log, err := audit.NewPublisher(audit.PublisherConfig{Journal: j, Store: store, Signer: audit.KeySigner(key), Now: func() time.Time { return now }})
	if err != nil {
		b.Fatal(err)
	}
	var size int
	for _, e := range benchCall(7) {
		l, err := e.Encode()
		if err != nil {
			b.Fatal(err)
		}
		size += len(l)
	}
	var wg sync.WaitGroup
	for w := range 64 {
		wg.Go(func() {
			for i := w; i < calls; i += 64 {
				for _, e := range benchCall(i) {
					if _, err := j.Append(context.Background(), e); err != nil {
						b.Error(err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	if err := log.Commit(b.Context()); err != nil {
		b.Fatal(err)
	}
	for _, c := range []func() error{j.Close, store.Close} {
		if err := c(); err != nil {
			b.Fatal(err)
		}
	}
	repo := filepath.Join(dir, "audit.git")
	gitIn(b, repo, "repack", "-adfq")
	trust, err := gitsync.Signers{AllowedSigners: append([]byte("demo@countersign.example "), commitPub...)}.Parse()
	if err != nil {
		b.Fatal(err)
	}
	keys, err := audit.ParseLogKeys(logPub)
	if err != nil {
		b.Fatal(err)
	}
	r := objects(b, repo, 4)
	entries, before := 0, cpu(b)
	for b.Loop() {
		rep, err := audit.Verify(b.Context(), r, audit.VerifyConfig{Keys: keys, Signer: trust.Commit})
		if err != nil || !rep.OK() || rep.Checked.Closed != calls {
			b.Fatal(err, rep)
		}
		entries += int(rep.Entries)
	}
	b.ReportMetric(float64(entries)/b.Elapsed().Seconds(), "entries/s")
	b.ReportMetric(float64(entries)/(cpu(b)-before).Seconds(), "entries/cpu-s") // what a busy machine does not change
	b.ReportMetric(float64(size)/2, "B/entry")
}

// benchCall is the intent and the outcome of one call.
func benchCall(i int) []audit.Entry {
	call := audit.Entry{
		Call: fmt.Sprintf("c_%020x", uint64(i)*0x9e3779b97f4a7c15), Policy: "3f9c2e1aa05d5bd3a5cd1ed7f9b3b8a0f2f6f3f1", Sub: fmt.Sprintf("user-%d", i%50),
		Client: "ide", Server: "postgres", Method: "tools/call", Tool: "query",
	}
	intent, outcome := call, call
	intent.Kind, intent.Effect, intent.Rules = audit.KindIntent, "allow", []string{"reads-only"}
	intent.Args, intent.Digest = fmt.Sprintf(`{"sql":"SELECT %d"}`, i), fmt.Sprintf("hmac-sha256:%032x", i*i)
	outcome.Kind, outcome.Status, outcome.Millis, outcome.Bytes = audit.KindOutcome, "ok", float64(i%9000)/7, int64(200+i%977)
	return []audit.Entry{intent, outcome}
}

func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
