package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"countersign/audit"
)

// A record that rolled is read as one: a call that began in one repository and
// ended in the next has both, its body is found where the run began, and nothing
// is there twice.
func TestARolledRecordIsReadAsOne(t *testing.T) {
	t.Parallel()
	r := newRolling(t, "log-{n}.git", "log-1.git", "log-2.git", "log-3.git")
	rec := r.serve()
	const session = "5f0c9a77d1e24b63"
	e := audit.Entry{Call: "c_rolls", Issuer: "https://id", Sub: "alice", Server: "db", Method: "tools/call", Tool: "query", Session: session, Effect: "allow", Rules: []string{"reads"}}
	intent, outcome := e, e
	intent.Kind, outcome.Kind, outcome.Status, outcome.Effect, outcome.Rules = audit.KindIntent, audit.KindOutcome, audit.StatusOK, "", nil
	if _, err := rec.journal.Append(t.Context(), intent, audit.Body{Of: "request", Text: []byte("what she asked")}); err != nil {
		t.Fatal(err)
	}
	for rec.target == r.c.repoAt(time.Now(), 1) {
		if !r.work(rec, time.Now()) {
			t.Fatal(r.said.take())
		}
	}
	if _, err := rec.journal.Append(t.Context(), outcome); err != nil {
		t.Fatal(err)
	}
	rec.config.AuditRollBytes = 1 << 30 // two are enough
	if !r.work(rec, time.Now()) {
		t.Fatal(r.said.take())
	}
	entries := int(rec.journal.State().Entries) + 1 // and its end
	if err := rec.close(); err != nil {
		t.Fatal(err)
	}
	first, second := filepath.Join(r.dir, "log-1.git"), filepath.Join(r.dir, "log-2.git")
	copied := filepath.Join(t.TempDir(), "copy.git") // somebody gives one twice
	if err := os.CopyFS(copied, os.DirFS(first)); err != nil {
		t.Fatal(err)
	}
	two := []string{"--repo", first, "--repo", second}
	three := append([]string{"--repo", copied}, two...)
	run := func(repos []string, args ...string) string {
		t.Helper()
		out, errs, code := reads(t, append(append([]string{"audit"}, args...), repos...)...)
		if code != 0 || errs != "" {
			t.Fatalf("%q: exit %d: %s%s", args, code, out, errs)
		}
		return out
	}
	for _, repos := range [][]string{two, three} {
		lines := strings.Split(strings.TrimSpace(run(repos, "export", "--format", "jsonl")), "\n")
		if len(lines) != entries {
			t.Errorf("%d entries are exported, want %d", len(lines), entries)
		}
		for i, l := range lines {
			if !strings.Contains(l, fmt.Sprintf(`"entry":{"seq":%d,`, i)) {
				t.Fatalf("line %d is %s", i, l)
			}
		}
		if out := run(repos, "stats", "--json", "--subject", "alice"); !strings.Contains(strings.Join(strings.Fields(out), ""), `"calls":1,"ok":1,"denied":0,`) || strings.Contains(out, `"calls": 2`) {
			t.Errorf("stats: %s", out)
		}
		if out := run(repos, "log", "--decision", "allow"); strings.Count(out, "\n") != 2 {
			t.Errorf("log: %s", out)
		}
	}
	for name, c := range map[string]struct {
		args []string
		says []string
	}{
		"show":    {[]string{"show", "--bodies", "c_rolls"}, []string{"allow by reads", "outcome     ok", "what she asked"}},
		"session": {[]string{"session", session}, []string{"query", "ok"}},
		"replay":  {[]string{"replay", "--transcript", session}, []string{"query", "alice"}},
		"masks":   {[]string{"masks"}, nil},
		"index":   {[]string{"index"}, []string{"of 2 branches"}},
	} {
		out := run(two, c.args...)
		for _, want := range c.says {
			if !strings.Contains(out, want) {
				t.Errorf("%s lacks %q: %s", name, want, out)
			}
		}
	}
	plain, err := os.ReadFile(filepath.Join(r.keys, "checkpoint.pub"))
	if err != nil {
		t.Fatal(err)
	}
	named := filepath.Join(t.TempDir(), "checkpoint_key.pub")
	if err := os.WriteFile(named, append([]byte("prod-1 "), plain...), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"intent", "outcome"} {
		to := filepath.Join(t.TempDir(), "proof")
		run(two, "proof", "c_rolls", "--kind", kind, "--checkpoint-key", named, "-o", to)
		if out := run(nil, "proof", "--check", to, "--checkpoint-key", named); !strings.Contains(out, "proven: entry") {
			t.Errorf("%s: %s", kind, out)
		}
	}
	if out, errs, code := reads(t, "audit", "log", "--repo", first, "--repo", t.TempDir()); code != 2 || !strings.Contains(errs, "not a Git repository") {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
}
