package main

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"countersign/audit"
	"countersign/enforcer"
	"countersign/enforcer/mask"
	"countersign/fixtures/githost"
)

// rolling is a record whose repositories are folders of one folder.
type rolling struct {
	t    *testing.T
	c    config
	dir  string
	keys string // folder of the public keys
	said words
}

func newRolling(t *testing.T, template string, repos ...string) *rolling {
	t.Helper()
	r := &rolling{t: t, c: recordConfig(t)}
	r.dir = filepath.Join(filepath.Dir(r.c.StateDir), "repos")
	for _, name := range repos {
		r.make(name)
	}
	r.c.AuditRepo, r.c.AuditRollBytes = "file://"+r.dir+"/"+template, 6<<10
	commit, commitPub := recordKey(t)
	log, logPub := recordKey(t)
	r.c.AuditCommitKey, r.c.AuditCheckpointKey = commit, log
	r.keys = t.TempDir()
	for name, text := range map[string]string{"signers": "* namespaces=\"git\" " + commitPub + "\n", "checkpoint.pub": logPub + "\n"} {
		if err := os.WriteFile(filepath.Join(r.keys, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func (r *rolling) make(name string) {
	r.t.Helper()
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		r.t.Fatal(err)
	}
	if err := githost.Init(filepath.Join(r.dir, name)); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rolling) start() *record {
	r.t.Helper()
	rec, err := openRecord(r.t.Context(), r.c, mask.New(mask.Options{}), enforcer.Names{}, slog.New(slog.NewTextHandler(&r.said, nil)))
	if err != nil {
		r.t.Fatal(err)
	}
	return rec
}

// work records some, and does what a window does.
func (r *rolling) work(rec *record, now time.Time) (pushed bool) {
	r.t.Helper()
	for range 20 {
		if _, err := rec.journal.Append(r.t.Context(), audit.Entry{Kind: audit.KindRefused, Effect: "deny", Reason: strings.Repeat("words ", 20) + randomID("x")}); err != nil {
			r.t.Fatal(err)
		}
	}
	if err := rec.roll(r.t.Context(), now); err != nil {
		r.t.Fatal(err)
	}
	pushed = true
	for range 3 {
		moved := false
		for _, s := range rec.openSites() {
			pushed = s.outlet.Flush(r.t.Context()) == nil && pushed
		}
		if err := rec.moveOn(func(*audit.Publisher) { moved = true }); err != nil {
			r.t.Fatal(err)
		}
		if !moved {
			break
		}
	}
	return pushed
}

// verify runs the command on the repositories.
func (r *rolling) verify(names ...string) (string, int) {
	r.t.Helper()
	args := []string{"audit", "verify", "--commit-signers", filepath.Join(r.keys, "signers"), "--checkpoint-key", filepath.Join(r.keys, "checkpoint.pub")}
	for _, n := range names {
		if strings.HasPrefix(n, "--") {
			args = append(args, n)
			continue
		}
		args = append(args, "--repo", filepath.Join(r.dir, n))
	}
	out, errs, code := command(r.t, nil, args...)
	return out + errs, code
}

func TestRecordRollsBySize(t *testing.T) {
	t.Parallel()
	r := newRolling(t, "log-{n}.git", "log-1.git", "log-2.git")
	rec := r.start()
	for range 4 {
		if !r.work(rec, time.Now()) {
			t.Fatal(r.said.take())
		}
	}
	if name, _ := rec.due(time.Now()); !strings.HasSuffix(name, "log-2.git") && !strings.HasSuffix(name, "log-3.git") {
		t.Errorf("the log belongs in %s", name)
	}
	if rec.target == r.c.repoAt(time.Now(), 1) {
		t.Fatalf("nothing rolled; %d bytes were pushed", rec.weight(rec.target))
	}
	if err := rec.close(); err != nil {
		t.Fatal(err)
	}
	if out, code := r.verify("log-1.git", "log-2.git"); code != 0 {
		t.Errorf("both: %s", out)
	}
	if out, code := r.verify("log-2.git"); code != 1 || !strings.Contains(out, "are in another repository") {
		t.Errorf("the second alone: %d %s", code, out)
	}
	if out, code := r.verify("log-2.git", "--handover"); code != 0 || !strings.Contains(out, "are in another repository, "+r.c.repoAt(time.Now(), 1)+", which was not read") {
		t.Errorf("the second alone, by its hand-over: %d %s", code, out)
	}
	// As docs/record.md has it: the hand-over proves itself by the key alone.
	second := filepath.Join(r.dir, "log-2.git")
	branch := strings.Fields(git(t, second, "for-each-ref", "--sort=committerdate", "--format=%(refname)", "refs/heads/audit"))[0]
	handover := filepath.Join(t.TempDir(), "handover")
	if err := os.WriteFile(handover, []byte(git(t, second, "show", branch+":handover")), 0o600); err != nil {
		t.Fatal(err)
	}
	out, errs, code := command(t, nil, "audit", "proof", "--check", handover, "--checkpoint-key", filepath.Join(r.keys, "checkpoint.pub"))
	if code != 0 || !strings.Contains(out, "proven: entry") || !strings.Contains(out, "(rolled") {
		t.Errorf("the hand-over as a proof: %d %s%s", code, out, errs)
	}

	// The next start goes on where this one was. A third repository is not
	// there: what belongs in it stays in the journal, and says so.
	r.said.take()
	rec = r.start()
	if rec.target != r.c.repoAt(time.Now(), 2) {
		t.Errorf("it starts in %s", rec.target)
	}
	for range 4 {
		r.work(rec, time.Now())
	}
	if r.work(rec, time.Now()) || rec.journal.State().Bytes == 0 {
		t.Errorf("all was pushed: %+v", rec.journal.State())
	}
	if err := rec.close(); err != nil {
		t.Fatal(err)
	}
	if said := r.said.take(); !strings.Contains(said, "could not be published") || !strings.Contains(said, "log-3.git") {
		t.Errorf("it says nothing of it: %s", said)
	}
	r.make("log-3.git")
	rec = r.start() // the crashed run's log rolls on, this one begins behind it
	if !r.work(rec, time.Now()) {
		t.Error(r.said.take())
	}
	if rec.target != r.c.repoAt(time.Now(), 3) {
		t.Errorf("it starts in %s", rec.target)
	}
	if err := rec.close(); err != nil {
		t.Fatal(err)
	}
	if out, code := r.verify("log-1.git", "log-2.git", "log-3.git"); code != 0 {
		t.Errorf("all three: %s", out)
	}
}

// Killed when it has said that it rolls, and before it committed anything, a
// log begins in the repository that it leaves, though the next run begins in
// the one behind it.
func TestRecordRollsBeforeItIsCommitted(t *testing.T) {
	t.Parallel()
	r := newRolling(t, "log-{n}.git", "log-1.git", "log-2.git")
	rec := r.start()
	rec.weigh(rec.target, r.c.AuditRollBytes)
	if err := rec.roll(t.Context(), time.Now()); err != nil || rec.target != r.c.repoAt(time.Now(), 2) {
		t.Fatalf("%s, %v", rec.target, err)
	}
	if err := errors.Join(rec.journal.Close(), rec.closeSites()); err != nil {
		t.Fatal(err)
	}
	rec = r.start()
	if rec.target != r.c.repoAt(time.Now(), 2) {
		t.Errorf("it starts in %s", rec.target)
	}
	if !r.work(rec, time.Now()) {
		t.Error(r.said.take())
	}
	if err := rec.close(); err != nil {
		t.Fatal(err)
	}
	if out, code := r.verify("log-1.git", "log-2.git"); code != 0 || !strings.Contains(out, "24 entries, 3 checkpoints, all links hold") {
		t.Errorf("both: %s", out)
	}
}

// The journal that told where the record is may be gone, pruned while one start
// after the other failed: what was last pushed to tells it, too.
func TestRecordKnowsItsRepositoryWithoutItsJournals(t *testing.T) {
	t.Parallel()
	r := newRolling(t, "log-{n}.git", "log-1.git", "log-2.git")
	rec := r.start()
	rec.weigh(rec.target, r.c.AuditRollBytes)
	if !r.work(rec, time.Now()) || rec.target != r.c.repoAt(time.Now(), 2) {
		t.Fatalf("it is in %s: %s", rec.target, r.said.take())
	}
	if err := errors.Join(rec.close(), os.RemoveAll(filepath.Join(r.c.StateDir, "journal"))); err != nil {
		t.Fatal(err)
	}
	rec = r.start()
	if rec.target != r.c.repoAt(time.Now(), 2) {
		t.Errorf("it starts in %s", rec.target)
	}
	if err := rec.close(); err != nil {
		t.Fatal(err)
	}
}

func TestRecordRollsByDate(t *testing.T) {
	t.Parallel()
	now := time.Now().UTC()
	next := time.Date(now.Year(), now.Month()+1, 1, 0, 0, 1, 0, time.UTC)
	r := newRolling(t, "log-{yyyy}-{mm}.git", "log-"+now.Format("2006-01")+".git", "log-"+next.Format("2006-01")+".git")
	rec := r.start()
	if !r.work(rec, now) || rec.target != r.c.repoAt(now, 1) {
		t.Errorf("it is in %s", rec.target)
	}
	if !r.work(rec, next) || rec.target != r.c.repoAt(next, 1) {
		t.Errorf("it is in %s", rec.target)
	}
	if !r.work(rec, next) {
		t.Error(r.said.take())
	}
	rec.target = r.c.repoAt(next, 1)
	if err := rec.close(); err != nil {
		t.Fatal(err)
	}
	if out, code := r.verify("log-"+now.Format("2006-01")+".git", "log-"+next.Format("2006-01")+".git"); code != 0 {
		t.Errorf("both: %s", out)
	}
}

func TestRollNames(t *testing.T) {
	t.Parallel()
	c := config{AuditRepo: "https://bot:s3cret@git.example.com/{yyyy}/log-{n}.git", AuditRollBytes: 1 << 30}
	name := c.repoAt(time.Date(2026, 11, 3, 0, 0, 0, 0, time.UTC), 7)
	if name != "https://git.example.com/2026/log-7.git" {
		t.Errorf("named %s", name)
	}
	if n, ok := c.repoNumber(name); n != 7 || !ok {
		t.Errorf("%d %v", n, ok)
	}
	for _, other := range []string{"", "https://git.example.com/2026/log-x.git", "https://git.example.com/2026/log-7.gitx", "https://evil.example.com/2026/log-7.git"} {
		if _, ok := c.repoNumber(other); ok {
			t.Errorf("%q is one of its repositories", other)
		}
	}
	for template, want := range map[string]string{"https://h/{n}": "", "git@h:x/{yyyy}-{mm}.git": "", "https://h/{mm}": "want {yyyy} beside {mm}", "https://h/{dd}": "other braces"} {
		var said []string
		config{AuditRepo: template, AuditRollBytes: 1 << 30}.checkRoll(func(_, format string, args ...any) { said = append(said, format) })
		if want == "" && len(said) > 0 || want != "" && len(said) != 1 {
			t.Errorf("%s: %q, want %q", template, said, want)
		}
	}
}

// A key is replaced between two runs that both roll: who knows the old one alone
// follows the log through all repositories.
func TestRecordRollsWhileAKeyIsReplaced(t *testing.T) {
	t.Parallel()
	r := newRolling(t, "log-{n}.git", "log-1.git", "log-2.git", "log-3.git", "log-4.git", "log-5.git", "log-6.git")
	var rec *record
	number := func() int {
		n, ok := r.c.repoNumber(rec.target)
		if !ok {
			t.Fatalf("it is in %s", rec.target)
		}
		return n
	}
	run := func(rolls int) {
		t.Helper()
		rec = r.start()
		for to := number() + rolls; number() < to; {
			if !r.work(rec, time.Now()) {
				t.Fatal(r.said.take())
			}
		}
		if !r.work(rec, time.Now()) {
			t.Fatal(r.said.take())
		}
		if err := rec.close(); err != nil {
			t.Fatal(err)
		}
	}
	run(1)
	old := r.c.AuditCheckpointKey
	next, _ := recordKey(t)
	r.c.AuditCheckpointKey, r.c.AuditCheckpointPrevious = next, old
	run(1)
	r.c.AuditCheckpointPrevious = "" // the overlap ends
	run(1)
	var all []string
	for n := 1; n <= number(); n++ {
		all = append(all, "log-"+strconv.Itoa(n)+".git")
	}
	if out, code := r.verify(all...); code != 0 || len(all) < 4 {
		t.Errorf("%q: %s", all, out)
	}
}

// What a run that was killed left behind is published after the commit key was
// replaced, and before the record says so: the key before signs it, or who
// trusts that one alone could not follow.
func TestACommitKeyIsReplacedAfterACrash(t *testing.T) {
	t.Parallel()
	r := newRolling(t, "log-{n}.git", "log-1.git")
	r.c.AuditRollBytes = 1 << 30
	killed := func(published bool) {
		t.Helper()
		rec := r.start()
		if published && !r.work(rec, time.Now()) {
			t.Fatal(r.said.take())
		}
		for range 3 {
			if _, err := rec.journal.Append(t.Context(), audit.Entry{Kind: audit.KindRefused, Effect: "deny"}); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(rec.journal.Close(), rec.closeSites()); err != nil {
			t.Fatal(err)
		}
	}
	killed(false)
	killed(true)
	old := r.c.AuditCommitKey
	next, _ := recordKey(t)
	r.c.AuditCommitKey, r.c.AuditCommitPrevious = next, old
	killed(false)
	killed(true)
	rec := r.start()
	if len(rec.outgoing.runs) != 2 {
		t.Errorf("the key before signs the end of %d runs", len(rec.outgoing.runs))
	}
	if !r.work(rec, time.Now()) {
		t.Fatal(r.said.take())
	}
	if err := rec.close(); err != nil {
		t.Fatal(err)
	}
	r.c.AuditCommitPrevious = ""
	rec = r.start()
	if !r.work(rec, time.Now()) {
		t.Fatal(r.said.take())
	}
	if err := rec.close(); err != nil {
		t.Fatal(err)
	}
	if out, code := r.verify("log-1.git"); code != 0 || !strings.Contains(out, "all links hold") {
		t.Errorf("%d: %s", code, out)
	}
}
