package audit_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The script of docs/verify-by-hand.md, with nothing of ours, comes to the
// verdict that Verify comes to: on the sample, and on what was done to it.
func TestVerifyByHand(t *testing.T) {
	page, err := os.ReadFile("../docs/verify-by-hand.md")
	if err != nil {
		t.Fatal(err)
	}
	_, script, _ := strings.Cut(string(page), "```python\n")
	script, _, ok := strings.Cut(script, "```\n")
	if n := strings.Count(script, "\n"); !ok || n > 40 || n < 10 {
		t.Fatalf("the page's script has %d lines", n)
	}
	dir := t.TempDir()
	var allowed, keys []byte
	for _, n := range []string{"1", "2"} {
		_, _, commit := namedKey(t, "commit-"+n)
		allowed = fmt.Appendf(allowed, "prod-%s@countersign.invalid namespaces=\"git\" %s", n, commit)
		_, _, checkpoint := namedKey(t, "checkpoint-"+n)
		keys = fmt.Appendf(keys, "prod-%s %s", n, checkpoint)
	}
	for name, b := range map[string][]byte{"verify.py": []byte(script), "audit_signers": allowed, "checkpoint_key.pub": keys} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	byHand := func(repo string) (string, bool) {
		cmd := exec.CommandContext(t.Context(), "python3", "verify.py", repo, "audit_signers", "checkpoint_key.pub")
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), "does not hold: ")) {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out), err == nil
	}
	// Nobody who has a file without names must make it anew.
	unnamed := bytes.ReplaceAll(bytes.ReplaceAll(keys, []byte("prod-1 "), nil), []byte("prod-2 "), nil)
	w, _ := sampleRecord(t)
	clone := filepath.Join(w.dir, "clone") // as git clone makes it: most branches are remote ones
	gitIn(t, w.dir, "clone", "-q", "-b", second, w.repo, clone)
	if out, good := byHand(clone); !good || out != "holds: 18 entries, 8 checkpoints\n" {
		t.Fatal(out)
	}
	pub := filepath.Join(dir, "checkpoint.pub")
	if err := os.WriteFile(pub, unnamed, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, good := byHand(clone); !good || out != "holds: 18 entries, 8 checkpoints\n" {
		t.Fatal(out)
	}
	if err := os.WriteFile(pub, keys, 0o600); err != nil {
		t.Fatal(err)
	}
	rows := []string{
		"two entries are swapped", "a commit is left out", "everything is signed again by another key", "an entry is edited, its leaf hash too",
		"a month is deleted in the middle", "the end of a run is cut", "the last run is deleted", "the end of the last run is written anew",
		"a state directory is copied, and both copies run", "a run of its own is added", "a run of its own is added, with another enforcer's keys",
		"a run of its own is added, its checkpoints by another enforcer's key",
	}
	for _, c := range tamperings() {
		if c.with != nil || !slices.Contains(rows, c.what) {
			continue
		}
		rows = slices.DeleteFunc(rows, func(r string) bool { return r == c.what })
		bad := w.copied(t)
		c.do(bad)
		if out, good := byHand(bad.repo); good != (c.foundBy == "") {
			t.Errorf("%s by %s: by hand %s", c.what, c.who, out)
		}
	}
	if len(rows) > 0 {
		t.Errorf("not tried: %q", rows)
	}
}
