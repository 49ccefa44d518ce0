package main

import (
	"crypto/rand"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"countersign/fixtures/githost"
	"countersign/fixtures/stage"
)

// What docs/operate.md tells the operator to do when something goes wrong, done.

// denied makes one call that the policy denies: something for the record.
func denied(p *program) {
	p.t.Helper()
	status, _, body := p.post("customers", p.token("alice", "support"), `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"query","arguments":{"sql":"SELECT * FROM staff"}}}`, nil)
	if status != http.StatusOK || !strings.Contains(body, "password hashes") {
		p.t.Fatalf("%d %s", status, body)
	}
}

// denials tells whether so many of them are in the record.
func denials(t *testing.T, s *stage.Stage, want int) func() bool {
	return func() bool {
		n := 0
		for _, en := range recorded(t, s) {
			if en["kind"] == "refused" {
				n++
			}
		}
		return n == want
	}
}

// proved runs `audit verify` and returns what it says.
func proved(t *testing.T, s *stage.Stage) string {
	t.Helper()
	out, errs, code := command(t, nil, "audit", "verify", "--repo", s.Audit, "--commit-signers", s.Path("audit_signers"), "--checkpoint-key", s.Path("checkpoint.pub"))
	if code != 0 {
		t.Fatalf("exit %d\n%s%s", code, out, errs)
	}
	return out
}

// refused starts the program, which must end by itself, and returns what it said.
func refused(t *testing.T, s *stage.Stage, more map[string]string) string {
	t.Helper()
	p := starting(t, s, more)
	select {
	case <-p.done:
	case <-time.After(patience):
		t.Fatal("it starts")
	}
	if p.err == nil {
		t.Fatal("it ended well")
	}
	return p.log.String()
}

// addTo appends a line to a file of the stage.
func addTo(t *testing.T, s *stage.Stage, name, line string) {
	t.Helper()
	b, err := os.ReadFile(s.Path(name))
	if err == nil {
		err = os.WriteFile(s.Path(name), []byte(strings.TrimRight(string(b), "\n")+"\n"+strings.TrimSpace(line)+"\n"), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// newKeyFile makes a key and its file on the stage.
func newKeyFile(t *testing.T, s *stage.Stage, name, principal string) *githost.Key {
	t.Helper()
	k, err := githost.NewKey(rand.Reader, principal)
	if err == nil {
		err = os.WriteFile(s.Path(name), append(k.PEM(), '\n'), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func inForceIs(p *program, commit string) func() bool {
	return func() bool {
		_, body := p.get("/readyz")
		return strings.Contains(body, `"policy": "`+commit+`"`)
	}
}

func TestRunbookAnUnsignedCommitIsHealedByAReset(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	p := serving(t, s, nil)
	for _, key := range []githost.Signer{nil, s.Dana} { // a signature on top does not mend what is below
		tip, err := s.Policy.Commit(map[string][]byte{"README.md": []byte("x")}, "One more\n", key)
		if err != nil {
			t.Fatal(err)
		}
		p.await("the rejection", func() bool { _, body := p.get("/readyz"); return strings.Contains(body, `"policy_rejected": "`+tip) })
		if !inForceIs(p, s.PolicyTip)() {
			t.Fatal("the last good policy did not stay")
		}
	}
	p.stop()
	tip, err := s.Policy.Tip()
	if err != nil {
		t.Fatal(err)
	}
	p = serving(t, s, map[string]string{"COUNTERSIGN_POLICY_RESET_TO": tip})
	p.await("the reset", inForceIs(p, tip))
	p.stop()
	p = serving(t, s, nil) // taken away afterwards
	p.await("the same policy", inForceIs(p, tip))
	p.stop()
	resets := 0
	for _, en := range recorded(t, s) {
		if en["kind"] == "policy" && en["status"] == "reset" && en["policy"] == tip {
			resets++
		}
	}
	if resets != 1 {
		t.Errorf("%d resets in the record", resets)
	}
}

func TestRunbookASignerIsRemoved(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	serving(t, s, nil).stop()
	erin, err := githost.NewKey(rand.Reader, "erin@example.com")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.Path("policy_signers"), []byte(erin.AllowedSigner("")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := starting(t, s, nil)
	p.await("the rejection", func() bool {
		_, body := p.get("/readyz")
		return strings.Contains(body, "the signers have changed since it was accepted")
	})
	if status, _ := p.get("/readyz"); status != http.StatusServiceUnavailable {
		t.Errorf("readyz answers %d under a policy that nobody vouches for", status)
	}
	tip, err := s.Policy.Commit(map[string][]byte{"README.md": []byte("x")}, "Erin vouches\n", erin)
	if err != nil {
		t.Fatal(err)
	}
	p.await("Erin's commit", inForceIs(p, tip))
	p.stop()
}

func TestRunbookSomebodyRewroteTheRecord(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	p := serving(t, s, map[string]string{"COUNTERSIGN_AUDIT_WINDOW": "1s"})
	denied(p)
	p.await("a push", func() bool { return len(recorded(t, s)) > 0 })
	branch := strings.Fields(git(t, s.Audit, "for-each-ref", "--format=%(refname)", "refs/heads/audit"))[0]
	tree := strings.TrimSpace(git(t, s.Audit, "rev-parse", branch+"^{tree}"))
	forged := strings.TrimSpace(git(t, s.Audit, "-c", "user.name=x", "-c", "user.email=x", "commit-tree", "-m", "nothing happened", tree))
	git(t, s.Audit, "update-ref", branch, forged)
	denied(p)
	p.await("the alarm", func() bool { return strings.Contains(p.log.String(), "a person must look") })
	denied(p) // calls go on
	p.stop()
	if now := strings.TrimSpace(git(t, s.Audit, "rev-parse", branch)); now != forged {
		t.Errorf("the enforcer overwrote what was there: %s", now)
	}
	// The administrator of the host keeps the evidence, and moves it away.
	git(t, s.Audit, "update-ref", "refs/evidence/1", forged)
	git(t, s.Audit, "update-ref", "-d", branch)
	p = serving(t, s, nil)
	p.await("the earlier run's record", denials(t, s, 3))
	p.stop()
	proved(t, s)
}

func TestRunbookTheStateDirectoryIsLost(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	for range 2 {
		p := serving(t, s, nil)
		denied(p)
		p.stop()
		if err := os.RemoveAll(s.Path("state")); err != nil {
			t.Fatal(err)
		}
	}
	if out := proved(t, s); !strings.Contains(out, "began anew") {
		t.Errorf("verify does not note it: %s", out)
	}
}

func TestRunbookBothKeysAreRotated(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	p := serving(t, s, nil)
	denied(p)
	p.stop()
	next := map[string]string{
		"COUNTERSIGN_AUDIT_COMMIT_KEY_FILE": s.Path("commit_key_2"), "COUNTERSIGN_AUDIT_CHECKPOINT_KEY_FILE": s.Path("checkpoint_key_2"),
	}
	addTo(t, s, "audit_signers", newKeyFile(t, s, "commit_key_2", "demo@countersign.invalid").AllowedSigner(""))
	addTo(t, s, "checkpoint.pub", stage.EnforcerN+" "+newKeyFile(t, s, "checkpoint_key_2", "checkpoints").Authorized())
	p = serving(t, s, next)
	denied(p)
	p.stop()
	proved(t, s)

	// With entries that were committed but not pushed, a new checkpoint key is refused; the old one,
	// once, mends it.
	if err := os.Rename(s.Audit, s.Audit+".away"); err != nil {
		t.Fatal(err)
	}
	p = serving(t, s, next)
	denied(p)
	p.stop()
	if err := os.Rename(s.Audit+".away", s.Audit); err != nil {
		t.Fatal(err)
	}
	addTo(t, s, "checkpoint.pub", stage.EnforcerN+" "+newKeyFile(t, s, "checkpoint_key_3", "checkpoints").Authorized())
	third := map[string]string{
		"COUNTERSIGN_AUDIT_COMMIT_KEY_FILE": s.Path("commit_key_2"), "COUNTERSIGN_AUDIT_CHECKPOINT_KEY_FILE": s.Path("checkpoint_key_3"),
	}
	if said := refused(t, s, third); !strings.Contains(said, "cannot be committed") {
		t.Errorf("it said: %s", said)
	}
	p = serving(t, s, next)
	p.await("the earlier run's record", denials(t, s, 3))
	p.stop()
	serving(t, s, third).stop()
	proved(t, s)
}
