package main

import (
	"bytes"
	"context"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"countersign/audit"
	"countersign/fixtures/stage"
	"countersign/gitsync"
)

// The record's own targets, of the design. Entries a second are those of 64
// writers; bytes are those of a repository that Git has packed.
const (
	wantJournal  = 50_000
	wantCommits  = 50_000
	wantVerified = 200_000
	wantPacked   = 100 // bytes an entry, where entries have about 300
)

// recordResults are what the record's parts do by themselves, without calls.
type recordResults struct {
	plain    []float64 // writes of one entry, each with an fdatasync, a second
	one      []float64 // entries a second that one writer gets acknowledged
	many     []float64 // … and 64 writers
	commits  float64   // entries a second that become signed commits
	verified float64   // entries a second that `countersign audit verify` checks
	sizes    []repositorySize
}

// repositorySize is what a mix of entries takes.
type repositorySize struct {
	mix     string
	batch   int // entries of a commit
	in, out float64
}

// measureRecord lets the journal take turns with the plain loop, then takes the
// entries of the last turn to Git, and verifies them there.
func (s *scene) measureRecord(ctx context.Context, o options) (*recordResults, error) {
	r := &recordResults{}
	for round := range o.rounds {
		line, err := newTraffic(1).full()[0].Encode()
		if err != nil {
			return nil, err
		}
		n, err := plainLoop(s.dir, append(line, '\n'), o.duration)
		if err != nil {
			return nil, err
		}
		r.plain = append(r.plain, n)
		for _, writers := range []int{1, 64} {
			dir := filepath.Join(s.dir, fmt.Sprintf("journal-%d-%d", round, writers))
			j, n, err := journalLoop(ctx, dir, writers, o.duration)
			if err != nil {
				return nil, err
			}
			if writers == 1 {
				r.one = append(r.one, n)
			} else {
				r.many = append(r.many, n)
			}
			if writers == 64 && round == o.rounds-1 {
				err = s.publishAndVerify(ctx, o, r, j, filepath.Join(dir, "audit.git"))
			}
			if err = errors.Join(err, j.Close(), os.RemoveAll(dir)); err != nil {
				return nil, err
			}
		}
	}
	for _, size := range []repositorySize{{mix: "bare", batch: 200}, {mix: "bare", batch: 4000}, {mix: "full", batch: 4000}} {
		entries := size.batch * 25
		if o.duration < time.Second {
			entries = size.batch
		}
		if err := s.measureSize(ctx, &size, entries); err != nil {
			return nil, err
		}
		r.sizes = append(r.sizes, size)
	}
	return r, nil
}

// plainLoop writes a line, and syncs it, one after the other: what a program
// does that knows nothing better.
func plainLoop(dir string, line []byte, d time.Duration) (perSecond float64, err error) {
	f, err := os.OpenFile(filepath.Join(dir, "plain"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	began, n := time.Now(), 0
	for ; time.Since(began) < d; n++ {
		if _, err := f.Write(line); err != nil {
			return 0, err
		}
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			return 0, err
		}
	}
	return float64(n) / time.Since(began).Seconds(), nil
}

// journalLoop appends as the enforcer does, each writer waiting until its entry
// is durable.
func journalLoop(ctx context.Context, dir string, writers int, d time.Duration) (*audit.Journal, float64, error) {
	j, err := audit.Open(audit.Config{Dir: dir, Enforcer: stage.EnforcerN, Incarnation: "r1", Now: time.Now, MaxBytes: 1 << 40})
	if err != nil {
		return nil, 0, err
	}
	var wg sync.WaitGroup
	counts, errs := make([]int, writers), make([]error, writers)
	var work [][]audit.Entry
	for w := range writers { // made beforehand: who makes them is not measured
		var mine []audit.Entry
		for t := newTraffic(uint64(w)); len(mine) < 200; {
			mine = append(mine, t.full()...)
		}
		work = append(work, mine)
	}
	began := time.Now()
	for w := range writers {
		wg.Go(func() {
			for time.Since(began) < d {
				n := counts[w]
				e := work[w][n%len(work[w])]
				e.Call = e.Call[:20] + strconv.Itoa(n/len(work[w])) // no two calls have the same
				if _, errs[w] = j.Append(ctx, e); errs[w] != nil {
					return
				}
				counts[w]++
			}
		})
	}
	wg.Wait()
	took, n := time.Since(began), 0
	for _, c := range counts {
		n += c
	}
	if err := errors.Join(errs...); err != nil {
		return nil, 0, errors.Join(err, j.Close())
	}
	return j, float64(n) / took.Seconds(), nil
}

// publishAndVerify makes commits of a journal, and has the program verify them.
func (s *scene) publishAndVerify(ctx context.Context, o options, r *recordResults, j *audit.Journal, repo string) error {
	p, store, err := s.publisher(j, repo)
	if err != nil {
		return err
	}
	n, began := j.State().Entries, time.Now()
	err = p.Commit(ctx)
	r.commits = float64(n) / time.Since(began).Seconds()
	if err = errors.Join(err, store.Close()); err != nil {
		return err
	}
	if err := stockGit(ctx, repo, "gc", "-q"); err != nil { // as a clone has it
		return err
	}
	program, err := o.product()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, program, "audit", "verify", "--repo", repo, "--commit-signers", s.stage.Path("audit_signers"), "--checkpoint-key", s.stage.Path("checkpoint.pub"))
	began = time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	r.verified = float64(n) / time.Since(began).Seconds()
	if !strings.Contains(string(out), fmt.Sprintf("%d entries", n)) {
		return fmt.Errorf("verified was another record: %s", out)
	}
	return nil
}

// publisher commits a journal to a repository that has no remote.
func (s *scene) publisher(j *audit.Journal, dir string) (*audit.Publisher, *gitsync.Repo, error) {
	key, err := audit.ParsePrivateKey(s.stage.CheckKey.PEM())
	if err != nil {
		return nil, nil, err
	}
	repo, err := gitsync.OpenAudit(gitsync.AuditConfig{Dir: dir, KeyPEM: s.stage.CommitKey.PEM(), Name: "bench", Email: s.stage.CommitKey.Principal})
	if err != nil {
		return nil, nil, err
	}
	p, err := audit.NewPublisher(audit.PublisherConfig{Journal: j, Store: repo, Signer: audit.KeySigner(key)})
	if err != nil {
		return nil, nil, errors.Join(err, repo.Close())
	}
	return p, repo, nil
}

// measureSize takes a mix to a repository, a commit for each batch, and has Git
// pack it.
func (s *scene) measureSize(ctx context.Context, size *repositorySize, entries int) (err error) {
	dir, err := os.MkdirTemp(s.dir, "size-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	t := newTraffic(1)
	mix := t.bare
	if size.mix == "full" {
		mix = t.full
	}
	j, err := audit.Open(audit.Config{Dir: dir, Enforcer: stage.EnforcerN, Incarnation: "r1", Now: t.clock, MaxBytes: 1 << 40})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, j.Close()) }()
	repo := filepath.Join(dir, "audit.git")
	p, store, err := s.publisher(j, repo)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	var open []audit.Entry // calls under way end in any order
	for range entries / size.batch {
		var wg sync.WaitGroup
		errs := make([]error, size.batch)
		for i := range size.batch {
			var e audit.Entry
			if k := len(open); k > 0 && (k > 20 || t.r.IntN(2) == 0) {
				at := t.r.IntN(k)
				e, open[at], open = open[at], open[k-1], open[:k-1]
			} else {
				call := mix()
				e, open = call[0], append(open, call[1])
			}
			wg.Go(func() { _, errs[i] = j.Append(ctx, e) })
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			return err
		}
		if err := p.Commit(ctx); err != nil {
			return err
		}
	}
	if err := stockGit(ctx, repo, "gc", "-q", "--prune=now"); err != nil {
		return err
	}
	packed := int64(0)
	err = filepath.WalkDir(filepath.Join(repo, "objects"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		fi, err := d.Info()
		if err == nil {
			packed += fi.Size()
		}
		return err
	})
	n := float64(j.State().Entries)
	size.in, size.out = float64(j.State().Bytes)/n, float64(packed)/n
	return err
}

func stockGit(ctx context.Context, dir string, args ...string) error {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-C", dir}, args...)...)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_CONFIG_NOSYSTEM=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("git %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// traffic makes the entries of a few people's calls at a few servers, as an
// enforcer writes them.
type traffic struct {
	r   *rand.Rand
	mu  sync.Mutex
	now time.Time
}

func newTraffic(seed uint64) *traffic {
	return &traffic{r: rand.New(rand.NewPCG(seed, 0)), now: time.Date(2026, 11, 2, 9, 0, 0, 0, time.UTC)}
}

// clock moves on by some milliseconds whenever it is read.
func (t *traffic) clock() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.now = t.now.Add(time.Duration(rand.IntN(20_000)) * time.Microsecond)
	return t.now
}

func (t *traffic) random(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(t.r.Uint32())
	}
	return b
}

// bare is a call's intent and outcome with what no entry goes without: about
// 300 bytes each.
func (t *traffic) bare() []audit.Entry {
	who := t.r.IntN(40)
	intent := audit.Entry{
		Kind: audit.KindIntent, Call: "c_" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(t.random(16))),
		Policy: "3f9c2e1a77b0c4d2e5f60718293a4b5c6d7e8f90", Sub: fmt.Sprintf("u-%04d", who*137),
		Client: []string{"claude-code", "ide", "batch"}[who%3], Method: "tools/call", Effect: "allow",
		Digest: "hmac-sha256:" + hex.EncodeToString(t.random(32)),
	}
	switch t.r.IntN(3) {
	case 0:
		intent.Server, intent.Tool, intent.Rules = "postgres", "query", []string{"pg-read"}
		intent.Args = fmt.Sprintf(`{"sql":"SELECT name, total FROM orders WHERE customer = %d LIMIT %d"}`, t.r.IntN(100_000), 10*t.r.IntN(10))
	case 1:
		intent.Server, intent.Tool, intent.Rules = "tickets", "get", []string{"tickets-read"}
		intent.Args = fmt.Sprintf(`{"id":"OPS-%d"}`, t.r.IntN(50_000))
	case 2:
		intent.Server, intent.Tool, intent.Rules = "files", "read", []string{"files-docs"}
		intent.Args = fmt.Sprintf(`{"path":"/docs/%s/%d.md"}`, []string{"runbooks", "design", "howto"}[t.r.IntN(3)], t.r.IntN(3000))
	}
	outcome := intent
	outcome.Kind, outcome.Status, outcome.Millis, outcome.Bytes = audit.KindOutcome, audit.StatusOK, float64(2000+t.r.IntN(90_000))/1000, int64(200+t.r.IntN(4000))
	outcome.Args, outcome.Rules, outcome.Effect, outcome.Digest = "", nil, "", ""
	return []audit.Entry{intent, outcome}
}

// full is a call with everything that an enforcer knows of one.
func (t *traffic) full() []audit.Entry {
	call := t.bare()
	who := call[0].Sub
	body := func(of string) []audit.BodyRef {
		return []audit.BodyRef{{Of: of, Size: int64(80 + t.r.IntN(3000)), Digest: "sha256:" + hex.EncodeToString(t.random(32)), Kept: "digest"}}
	}
	for i := range call {
		e := &call[i]
		e.Issuer, e.Holder, e.Credential, e.Lease = "https://id.example.com", "h_"+hex.EncodeToString([]byte(who)), "app-ro", "database/creds/app-ro/"+who
	}
	intent, outcome := &call[0], &call[1]
	intent.Trace = []audit.Step{{Rule: intent.Rules[0], Effect: "allow", Why: "matched"}}
	intent.Bodies = body("request")
	facts, err := json.Marshal(map[string]any{"facts": map[string]any{"email": who + "@example.com", "groups": []string{"support"}, "source": "10.2.0." + who[4:]}})
	if err != nil {
		panic(err) // strings only
	}
	intent.Detail = facts
	outcome.Result = fmt.Sprintf(`{"content":[{"type":"text","text":"%d rows, the first of %d"}]}`, t.r.IntN(100), t.r.IntN(100_000))
	outcome.Bodies = body("response")
	for _, part := range []string{"credential", "upstream", "mask", "record"} {
		outcome.Timings = append(outcome.Timings, audit.Timing{Part: part, Millis: float64(t.r.IntN(5000)) / 1000})
	}
	outcome.Splices = []audit.Splice{{What: "credential", Where: "header Authorization"}}
	return call
}

// String is the report.
func (r *recordResults) String() string {
	var b bytes.Buffer
	plain, one, many := median(r.plain), median(r.one), median(r.many)
	fmt.Fprintf(&b, "the record by itself, medians of %d rounds:\n", len(r.plain))
	fmt.Fprintf(&b, "  a line written and synced, in a loop: %.0f/s\n", plain)
	fmt.Fprintf(&b, "  journal, 1 writer: %.0f entries/s, %.2f of the loop\n", one, one/plain)
	fmt.Fprintf(&b, "  journal, 64 writers: %.0f entries/s, %.1f × the loop; %d: %s\n", many, many/plain, wantJournal, met(many >= wantJournal))
	fmt.Fprintf(&b, "  journal to signed commits: %.0f entries/s; %d: %s\n", r.commits, wantCommits, met(r.commits >= wantCommits))
	fmt.Fprintf(&b, "  countersign audit verify: %.0f entries/s; %d: %s\n", r.verified, wantVerified, met(r.verified >= wantVerified))
	for _, s := range r.sizes {
		fmt.Fprintf(&b, "  repository, packed: %.0f bytes an entry (%s: %.0f bytes; %d in a commit)", s.out, s.mix, s.in, s.batch)
		if s.mix == "bare" {
			fmt.Fprintf(&b, "; %d: %s", wantPacked, met(s.out <= wantPacked))
		}
		b.WriteString("\n")
	}
	return b.String()
}
