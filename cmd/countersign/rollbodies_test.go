package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"countersign/audit"
	"countersign/enforcer"
	"countersign/gitsync"
	"countersign/rules"
)

func (r *rolling) branches(name, prefix string) string {
	r.t.Helper()
	out, err := exec.CommandContext(r.t.Context(), "git", "-C", filepath.Join(r.dir, name), "for-each-ref", "--format=%(refname)", "refs/heads/"+prefix).Output()
	if err != nil {
		r.t.Fatal(err)
	}
	return string(out)
}

// The log of a run rolls on; its bodies, which waited, go where it began.
func TestBodiesOfAPastRunGoWhereItBegan(t *testing.T) {
	t.Parallel()
	r := newRolling(t, "log-{n}.git", "log-1.git", "log-2.git", "log-3.git")
	rec := r.start()
	kept, err := rec.journal.Append(t.Context(), audit.Entry{Kind: audit.KindRefused, Effect: "deny"}, audit.Body{Of: "request", Text: []byte(`{"a":1}`)})
	if err != nil || len(kept.Bodies) != 1 {
		t.Fatal(kept, err)
	}
	for rec.target == r.c.repoAt(time.Now(), 1) {
		if !r.work(rec, time.Now()) { // no policy is known yet: bodies wait
			t.Fatal(r.said.take())
		}
	}
	id := rec.journal.Incarnation()
	if err := rec.close(); err != nil {
		t.Fatal(err)
	}
	rec = r.serve()
	r.work(rec, time.Now())
	if err := rec.close(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(r.branches("log-1.git", "bodies/"), id) {
		t.Errorf("the bodies are not where the run began: %s", r.said.take())
	}
	if strings.Contains(r.branches("log-2.git", "bodies/"), id) {
		t.Error("the bodies are where the log went on")
	}
}

// keep records a call with a body.
func (r *rolling) keep(rec *record, call string) {
	r.t.Helper()
	e := audit.Entry{Kind: audit.KindRefused, Effect: "deny", Call: call, Issuer: "https://id", Sub: "alice"}
	if _, err := rec.journal.Append(r.t.Context(), e, audit.Body{Of: "request", Text: []byte(call)}); err != nil {
		r.t.Fatal(err)
	}
}

// serve starts a record that a policy is in force for.
func (r *rolling) serve() *record {
	r.t.Helper()
	rec := r.start()
	rec.policy = func() *rules.Policy { return &rules.Policy{} }
	rec.names = func() enforcer.Names { return enforcer.Names{} }
	return rec
}

// flush does what a window does, in every repository.
func (r *rolling) flush(rec *record) {
	r.t.Helper()
	for _, s := range rec.openSites() {
		if err := s.outlet.Flush(r.t.Context()); err != nil {
			r.t.Error(err)
		}
	}
}

// runs makes a run for each of n repositories, which keeps a body in it, and
// ends in the next.
func (r *rolling) runs(n int) {
	r.t.Helper()
	for i := 1; i <= n; i++ {
		rec := r.serve()
		r.keep(rec, "c_"+strconv.Itoa(i))
		for rec.target == r.c.repoAt(time.Now(), i) {
			if !r.work(rec, time.Now()) {
				r.t.Fatal(r.said.take())
			}
		}
		if err := rec.close(); err != nil {
			r.t.Fatal(err)
		}
		if r.branches("log-"+strconv.Itoa(i)+".git", "bodies/") == "" {
			r.t.Fatalf("no body is in log-%d: %s", i, r.said.take())
		}
	}
}

// An erasure reaches the repositories that the record was in before, also when
// the journals are gone, and says which one it waits for.
func TestAnErasureReachesEveryRepositoryOfTheRecord(t *testing.T) {
	t.Parallel()
	r := newRolling(t, "log-{n}.git", "log-1.git", "log-2.git", "log-3.git")
	r.runs(2)
	r.c.AuditRollBytes = 1 << 30 // no fourth is there
	if err := os.RemoveAll(filepath.Join(r.c.StateDir, "journal")); err != nil {
		t.Fatal(err)
	}
	log1, first := filepath.Join(r.dir, "log-1.git"), r.c.repoAt(time.Now(), 1)
	if err := os.Rename(log1, log1+".away"); err != nil {
		t.Fatal(err)
	}
	rec := r.serve()
	er, err := rec.eraser.Ask(t.Context(), audit.Erasure{By: "operator", Issuer: "https://id", Sub: "alice", Reason: "a test"})
	if err != nil || er.Done || !strings.Contains(er.Waits, first+": ") {
		t.Fatalf("%+v, %v", er, err)
	}
	r.work(rec, time.Now())
	if r.branches("log-2.git", "bodies/") != "" {
		t.Error("what could be reached is still there")
	}
	if err := rec.close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(log1+".away", log1); err != nil {
		t.Fatal(err)
	}
	rec = r.serve()
	if !r.work(rec, time.Now()) {
		t.Error(r.said.take())
	}
	if er, ok := rec.eraser.Get(er.ID); !ok || !er.Done || er.Count() != 2 || len(er.Others) != 0 {
		t.Errorf("%+v", er)
	}
	if r.branches("log-1.git", "bodies/") != "" {
		t.Error("the first repository still has a body")
	}
	if err := rec.close(); err != nil {
		t.Fatal(err)
	}
}

// After the state directory was lost, the logs tell where the record went on.
func TestAnErasureFollowsTheLogs(t *testing.T) {
	t.Parallel()
	r := newRolling(t, "log-{n}.git", "log-1.git", "log-2.git", "log-3.git")
	r.runs(2)
	if err := os.RemoveAll(r.c.StateDir); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(r.c.StateDir, 0o700); err != nil {
		t.Fatal(err)
	}
	rec := r.serve() // in the first repository again
	rec.places = append(rec.places, forgotten+" "+r.c.repoAt(time.Now(), 3)+"\n"...)
	elsewhere, err := audit.Detail(audit.Rolled{From: rec.target, To: "https://elsewhere.example/log.git", Reason: audit.RolledDate})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rec.journal.Append(t.Context(), audit.Entry{Kind: audit.KindRolled, Detail: elsewhere}); err != nil {
		t.Fatal(err)
	}
	if err := rec.openSites()[0].outlet.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	er, err := rec.eraser.Ask(t.Context(), audit.Erasure{By: "operator", Issuer: "https://id", Sub: "alice", Reason: "a test"})
	if err != nil || len(rec.openSites()) != 2 {
		t.Fatalf("%+v, %v", er, err)
	}
	r.flush(rec)
	if er, ok := rec.eraser.Get(er.ID); !ok || !er.Done || er.Count() != 2 || !slices.Equal(er.Others, []string{"https://elsewhere.example/log.git", r.c.repoAt(time.Now(), 3)}) { // as the logs name them
		t.Errorf("%+v", er)
	}
	// From a later one, its hand-over leads back.
	if err := errors.Join(rec.journal.Close(), rec.closeSites(), os.RemoveAll(r.c.StateDir)); err != nil {
		t.Fatal(err)
	}
	numbered := r.c
	r.c.AuditRepo = numbered.repoAt(time.Now(), 2)
	rec = r.serve()
	er, err = rec.eraser.Ask(t.Context(), audit.Erasure{By: "operator", Issuer: "https://id", Sub: "alice", Reason: "a test"})
	if err != nil || !slices.Equal(er.Others, []string{numbered.repoAt(time.Now(), 1), numbered.repoAt(time.Now(), 3)}) {
		t.Errorf("%+v, %v", er, err)
	}
	if left := r.branches("log-1.git", "bodies/") + r.branches("log-2.git", "bodies/"); left != "" {
		t.Errorf("still there: %s", left)
	}
	if err := errors.Join(rec.journal.Close(), rec.closeSites()); err != nil {
		t.Fatal(err)
	}
}

// The credentials are those of one host: no other is asked, though the record was
// there, and the erasure waits for a person.
func TestAnErasureWaitsForAnotherHost(t *testing.T) {
	t.Parallel()
	r := newRolling(t, "log-{n}.git", "log-1.git")
	if err := os.MkdirAll(r.c.StateDir, 0o700); err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(r.c.StateDir, placesFile)
	if err := os.WriteFile(list, []byte("audit-old.git https://old.example/log.git\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ask := audit.Erasure{By: "operator", Call: "c_1", Reason: "a test"}
	rec := r.serve()
	er, err := rec.eraser.Ask(t.Context(), ask)
	if err != nil || er.Done || !strings.Contains(er.Waits, "https://old.example/log.git: ") || !strings.Contains(er.Waits, "on another host") {
		t.Errorf("%+v, %v", er, err)
	}
	if err := rec.close(); err != nil {
		t.Fatal(err)
	}
	noted, err := os.ReadFile(list)
	if err != nil || !strings.HasSuffix(string(noted), " "+r.c.repoAt(time.Now(), 1)+"\n") {
		t.Fatalf("%s, %v", noted, err)
	}
	if err := os.WriteFile(list, []byte(strings.Replace(string(noted), "audit-old.git", forgotten, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	rec = r.serve()
	if again, err := rec.eraser.Ask(t.Context(), ask); err != nil || again.ID != er.ID || !again.Done {
		t.Errorf("%+v, %v", again, err)
	}
	if err := rec.close(); err != nil {
		t.Fatal(err)
	}
}

// What was the only repository is one of several, when the record begins to roll.
func TestTheOnlyRepositoryIsReachedWhenTheyRoll(t *testing.T) {
	t.Parallel()
	r := newRolling(t, "log-1.git", "log-1.git")
	rec := r.serve()
	r.keep(rec, "c_1")
	if err := rec.close(); err != nil {
		t.Fatal(err)
	}
	only := r.c.AuditRepo
	for _, template := range []string{"log-{n}.git", "other-{n}.git"} {
		r.c.AuditRepo = "file://" + r.dir + "/" + template
		r.make(strings.ReplaceAll(template, "{n}", "1"))
		rec = r.serve()
		var dirs []string
		for _, s := range rec.openSites() {
			if s.name == only {
				dirs = append(dirs, s.dir)
			}
		}
		if len(dirs) != 1 || dirs[0] != onlyDir {
			t.Errorf("%s: it is open as %q", template, dirs)
		}
		if err := rec.close(); err != nil {
			t.Fatal(err)
		}
	}
	r.c.AuditRepo = only // and back
	rec = r.serve()
	er, err := rec.eraser.Ask(t.Context(), audit.Erasure{By: "operator", Issuer: "https://id", Sub: "alice", Reason: "a test"})
	if err != nil || len(er.Steps) != 1 {
		t.Errorf("%+v, %v", er, err)
	}
	r.flush(rec)
	if er, _ = rec.eraser.Get(er.ID); !er.Done || er.Count() != 1 {
		t.Errorf("%+v, %s", er, r.said.take())
	}
	if err := rec.close(); err != nil {
		t.Fatal(err)
	}
}

// A run that died before its first commit was nowhere: it is published where
// the next one begins, not in the first repository of all.
func TestUncommittedRunIsPublishedWhereTheNextBegins(t *testing.T) {
	t.Parallel()
	r := newRolling(t, "log-{n}.git", "log-1.git", "log-2.git", "log-3.git")
	rec := r.start()
	for rec.target == r.c.repoAt(time.Now(), 1) {
		if !r.work(rec, time.Now()) {
			t.Fatal(r.said.take())
		}
	}
	if err := rec.close(); err != nil {
		t.Fatal(err)
	}
	j, err := audit.Open(audit.Config{Dir: r.c.StateDir, Enforcer: r.c.ID, Incarnation: "rdied"})
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	rec = r.start()
	r.work(rec, time.Now())
	if err := rec.close(); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(r.branches("log-1.git", "audit/"), "rdied") || !strings.Contains(r.branches("log-2.git", "audit/"), "rdied") {
		t.Errorf("log-1: %s\nlog-2: %s\n%s", r.branches("log-1.git", "audit/"), r.branches("log-2.git", "audit/"), r.said.take())
	}
	if _, err := os.Stat(filepath.Join(r.c.StateDir, "audit.git")); err == nil {
		t.Error("a repository was opened that nothing is in")
	}
}

// What is published goes from the enforcer's own repository, bodies too.
func TestPublishedBodiesAreTrimmed(t *testing.T) {
	t.Parallel()
	r := newRolling(t, "log.git", "log.git")
	rec := r.start()
	rec.policy = func() *rules.Policy { return &rules.Policy{} }
	if _, err := rec.journal.Append(t.Context(), audit.Entry{Kind: audit.KindRefused, Effect: "deny"}, audit.Body{Of: "request", Text: []byte(`{"a":1}`), To: []string{}}); err != nil {
		t.Fatal(err)
	}
	if !r.work(rec, time.Now()) {
		t.Fatal(r.said.take())
	}
	out, err := exec.CommandContext(t.Context(), "git", "-C", filepath.Join(r.dir, "log.git"), "rev-list", "--objects", "--glob=refs/heads/bodies/*").Output()
	if err != nil {
		t.Fatal(err)
	}
	body := regexp.MustCompile(`(?m)^([0-9a-f]{40}) \d\d/\d\d/\d\d/[0-9a-f]{2}/[0-9a-f]{64}$`).FindStringSubmatch(string(out))
	if body == nil {
		t.Fatalf("no body is published: %s", out)
	}
	here := func() bool {
		_, err := rec.current.Load().repo.Blob(body[1])
		if err != nil && !errors.Is(err, gitsync.ErrNotFound) {
			t.Fatal(err)
		}
		return err == nil
	}
	if err := rec.trim(t.Context(), time.Now()); err != nil || !here() {
		t.Fatalf("it went at once: %v", err)
	}
	if err := rec.trim(t.Context(), time.Now().Add(2*trimAge)); err != nil || here() {
		t.Errorf("it is still here: %v", err)
	}
	if err := rec.close(); err != nil {
		t.Fatal(err)
	}
	if out, code := r.verify("log.git", "--bodies"); code != 0 || !strings.Contains(out, "1 bodies as their entries say") {
		t.Errorf("exit %d: %s", code, out)
	}
}
