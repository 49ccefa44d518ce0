package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"countersign/audit"
	"countersign/enforcer"
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
	rec = r.start()
	rec.policy = func() *rules.Policy { return &rules.Policy{} }
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

// Where repositories roll, an erasure reaches one of them, and says which: in the
// record, and to who asked.
func TestAnErasureNamesTheRepositoryItReaches(t *testing.T) {
	t.Parallel()
	for template, want := range map[string]string{"log-{n}.git": "log-1.git", "log-1.git": ""} {
		r := newRolling(t, template, "log-1.git")
		rec := r.start()
		rec.names = func() enforcer.Names { return enforcer.Names{} }
		er, err := rec.eraser.Ask(t.Context(), audit.Erasure{By: "operator", Call: "c_1", Reason: "a test"})
		if want != "" {
			want = r.c.repoAt(time.Now(), 1)
		}
		if err != nil || er.Repo != want {
			t.Errorf("%s: it reaches %q, not %q: %v", template, er.Repo, want, err)
		}
		for e, err := range rec.journal.Read() {
			if err != nil {
				t.Fatal(err)
			}
			if says := strings.Contains(string(e.Detail), `"repository":"`); e.Kind == audit.KindErased && says != (want != "") {
				t.Errorf("%s: %s", template, e.Detail)
			}
		}
		if err := rec.close(); err != nil {
			t.Fatal(err)
		}
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

// Another enforcer's log that was seen in the repository before is not in this
// one: it was not taken back.
func TestAnchorsOfAnotherRepositoryAreNotRecalled(t *testing.T) {
	t.Parallel()
	for repo, want := range map[string]int{"log-1.git": 1, "log-2.git": 0} {
		r := newRolling(t, "log-{n}.git", "log-1.git", "log-2.git")
		rec := r.start()
		key, err := audit.ParsePrivateKey([]byte(r.c.AuditCheckpointKey + "\n"))
		if err != nil {
			t.Fatal(err)
		}
		cp := audit.Checkpoint{Origin: "other/rx", Size: 1}
		note, err := cp.Sign(key)
		if err != nil {
			t.Fatal(err)
		}
		detail, err := audit.Detail(audit.Anchor{Checkpoint: note, Commit: strings.Repeat("a", 40)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := rec.journal.Append(t.Context(), audit.Entry{Kind: audit.KindAnchor, Detail: detail}); err != nil {
			t.Fatal(err)
		}
		if !r.work(rec, time.Now()) {
			t.Fatal(r.said.take())
		}
		if err := rec.close(); err != nil {
			t.Fatal(err)
		}
		past, err := audit.Previous(r.c.StateDir)
		if err != nil || len(past) != 1 {
			t.Fatal(past, err)
		}
		line, err := os.ReadFile(filepath.Join(r.keys, "checkpoint.pub"))
		if err != nil {
			t.Fatal(err)
		}
		keys, err := audit.ParseLogKeys([]byte("other " + string(line)))
		if err != nil {
			t.Fatal(err)
		}
		n, err := audit.NewNeighbours(audit.NeighboursConfig{
			Enforcer: "prod-1", Keys: keys, Now: time.Now, Append: func(context.Context, audit.Entry) error { return nil },
			Look: func(context.Context, func(map[string]string) map[string]string) ([]audit.Sighting, error) {
				return nil, nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		now := &record{config: r.c, target: "file://" + filepath.Join(r.dir, repo), outside: outside{neighbours: n}}
		for _, err := range now.recalled(past[0]) {
			if err != nil {
				t.Fatal(err)
			}
		}
		if logs, _ := n.Recorded(); logs != want {
			t.Errorf("in %s: %d logs are recalled, want %d", repo, logs, want)
		}
	}
}
