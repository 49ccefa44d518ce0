package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"countersign/audit"
	"countersign/fixtures/githost"
	"countersign/gitsync"
)

// What a program reads of audit verify: exit codes, the JSON, the state.
func TestVerifyForPrograms(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	write := func(name string, b []byte) {
		t.Helper()
		if err := os.WriteFile(at(name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	key := func() (ed25519.PrivateKey, []byte, []byte) {
		t.Helper()
		pub, private, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		block, err := ssh.MarshalPrivateKey(private, "")
		if err != nil {
			t.Fatal(err)
		}
		public, err := ssh.NewPublicKey(pub)
		if err != nil {
			t.Fatal(err)
		}
		return private, pem.EncodeToMemory(block), ssh.MarshalAuthorizedKey(public)
	}
	_, commitKey, commitPub := key()
	checkpointKey, _, checkpointPub := key()
	write("audit_signers", append([]byte("demo@countersign.invalid "), commitPub...))
	write("checkpoint.pub", append([]byte("demo "), checkpointPub...))
	store, err := gitsync.OpenAudit(gitsync.AuditConfig{Dir: at("audit.git"), KeyPEM: commitKey, Name: "demo", Email: "demo@countersign.invalid"})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now() // for all of it, also where a month ends
	j, err := audit.Open(audit.Config{Dir: at("state"), Enforcer: "demo", Incarnation: "i1", Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	log, err := audit.NewPublisher(audit.PublisherConfig{Journal: j, Store: store, Signer: audit.KeySigner(checkpointKey), Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	verify := func(more ...string) (out, errs string, code int) {
		t.Helper()
		return command(t, nil, append([]string{"audit", "verify", "--repo", at("audit.git"), "--commit-signers", at("audit_signers"), "--checkpoint-key", at("checkpoint.pub")}, more...)...)
	}
	type verdict struct {
		Verdict  string
		Entries  int
		Problems []struct{ Class, Text string }
		Logs     []struct{ Resumed int }
		Notes    []string
	}
	read := func(out string) (v verdict) {
		t.Helper()
		if err := json.Unmarshal([]byte(out), &v); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return v
	}
	if out, _, code := verify("--json"); code != 1 || read(out).Verdict != "empty" {
		t.Errorf("an empty repository: %d %s", code, out)
	}
	for i := range 2 {
		if _, err := j.Append(t.Context(), audit.Entry{Kind: audit.KindIntent, Call: []string{"c_1", "c_2"}[i], Effect: "allow"}); err != nil {
			t.Fatal(err)
		}
		if err := log.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		out, errs, code := verify("--json", "--state", at("verified"))
		v := read(out)
		if code != 0 || v.Verdict != "holds" || v.Entries != 2+i || v.Problems == nil || v.Logs[0].Resumed != 2*i || len(v.Notes) != 1+i {
			t.Errorf("run %d: exit %d, %s%s", i, code, out, errs)
		}
	}
	for _, c := range []func() error{j.Close, store.Close} {
		if err := c(); err != nil {
			t.Fatal(err)
		}
	}
	if out, _, code := verify(); code != 0 || !strings.Contains(out, "checked: 2 forwarded calls, each with its intent: 0 with an outcome, 0 closed by a later run, 2 open") || !strings.HasSuffix(out, "all links hold\n") {
		t.Errorf("%d %s", code, out)
	}
	// A file as earlier versions made it serves on, and verify says what that is worth.
	write("plain.pub", checkpointPub)
	if out, errs, code := verify("--checkpoint-key", at("plain.pub")); code != 0 || !strings.Contains(out, "note: a checkpoint key is given without an enforcer's name, and may sign the logs of every enforcer: SHA256:") {
		t.Errorf("%d %s%s", code, out, errs)
	}
	write("others.pub", append([]byte("prod-2 "), checkpointPub...))
	if out, _, code := verify("--checkpoint-key", at("others.pub")); code != 1 || !strings.Contains(out, "no key is known for this enforcer: demo") {
		t.Errorf("another enforcer's key: %d %s", code, out)
	}
	// What was found is told, though it cannot be noted.
	if out, errs, code := verify("--state", at("nowhere/state")); code != 2 || !strings.HasSuffix(out, "all links hold\n") || !strings.Contains(errs, "--state: what holds is not noted") {
		t.Errorf("a state that cannot be written: %d %s%s", code, out, errs)
	}
	clonesThatLack(t, at("audit.git"), dir, func(clone string) (string, string, int) {
		return command(t, nil, "audit", "verify", "--repo", clone, "--commit-signers", at("audit_signers"), "--checkpoint-key", at("checkpoint.pub"))
	})
	// Rolled back: the state knows.
	ref := at("audit.git/refs/heads/audit/demo/i1/" + now.UTC().Format("2006-01"))
	tip, err := os.ReadFile(ref)
	if err != nil {
		t.Fatal(err)
	}
	r, err := gitsync.OpenClone(t.Context(), at("audit.git"), gitsync.Auth{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := r.Commits(strings.TrimSpace(string(tip)))
	if err != nil || r.Close() != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(ref, []byte(c.Parents[0]+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, _, code := verify("--json", "--state", at("verified")); code != 1 || read(out).Verdict != "fails" || read(out).Problems[0].Class != "state" {
		t.Errorf("rolled back: %d %s", code, out)
	}
	if out, _, code := verify(); code != 0 {
		t.Errorf("without the state nobody knows: %d %s", code, out)
	}
	for what, more := range map[string][]string{
		"remove it to verify from the beginning": {"--state", at("checkpoint.pub")},
		"made with other keys":                   {"--state", at("verified"), "--log", "audit/demo/"},
		"no key is in the file":                  {"--commit-signers", os.DevNull},
		"--commit-signers: open":                 {"--commit-signers", at("none")},
		"--checkpoint-key: open":                 {"--checkpoint-key", at("none")},
		"--anchor: lstat":                        {"--anchor", at("none")},
		"--anchor: there is no file in":          {"--anchor", t.TempDir()},
		"is neither a folder nor a Git URL":      {"--repo", at("none")},
		"is not a Git repository":                {"--policy", dir},
		"there is no --policy":                   {"--accept-reset", "c0ffee1"},
		"is no commit":                           {"--accept-reset", "main", "--policy", dir},
	} {
		if out, errs, code := verify(more...); code != 2 || !strings.Contains(errs, what) {
			t.Errorf("%s: %d %s%s", what, code, out, errs)
		}
	}
}

// A clone that was made without something is not taken for one that was tampered with, nor for whole.
func clonesThatLack(t *testing.T, repo, dir string, verify func(clone string) (string, string, int)) {
	t.Helper()
	git(t, repo, "config", "uploadpack.allowFilter", "true")
	branch := strings.Fields(git(t, repo, "for-each-ref", "--format=%(refname:short)", "refs/heads/audit"))[0]
	for flags, c := range map[string]struct {
		code int
		says string
	}{
		"--depth=1":          {2, "cannot be verified: it is a shallow clone"},
		"--filter=blob:none": {2, "cannot be verified: it is a partial clone"},
		"--single-branch":    {0, "with a single branch (--single-branch): the record may have others"},
		"--mirror":           {0, "all links hold"},
	} {
		clone := filepath.Join(dir, "clone"+flags)
		args := []string{"clone", "-q", flags, "file://" + repo, clone}
		if flags != "--mirror" {
			args = append(args, "--no-checkout", "-b", branch)
		}
		git(t, dir, args...)
		out, errs, code := verify(clone)
		if code != c.code || !strings.Contains(out+errs, c.says) || flags == "--mirror" && strings.Contains(out, "single") {
			t.Errorf("%s: exit %d, %s%s", flags, code, out, errs)
		}
	}
	empty := filepath.Join(dir, "empty.git")
	git(t, dir, "init", "-q", "--bare", empty)
	if out, _, code := verify(empty); code != 1 || out != "no record here: no branch begins with audit/ (a clone needs all branches)\n" {
		t.Errorf("an empty repository: %d %s", code, out)
	}
}

// What was decided under a policy that its repository does not have any more is
// a problem, though a reset is on record, until the auditor accepts that one.
func TestVerifyAfterAReset(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	key := func(name, line string) *githost.Key {
		t.Helper()
		k, err := githost.NewKey(rand.Reader, "demo@countersign.invalid")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at(name), []byte(line+k.Authorized()+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return k
	}
	commits, checkpoints := key("audit_signers", "demo@countersign.invalid "), key("checkpoint.pub", "demo ")
	private, err := audit.ParsePrivateKey(checkpoints.PEM())
	if err != nil {
		t.Fatal(err)
	}
	store, err := gitsync.OpenAudit(gitsync.AuditConfig{Dir: at("audit.git"), KeyPEM: commits.PEM(), Name: "demo", Email: "demo@countersign.invalid"})
	if err != nil {
		t.Fatal(err)
	}
	j, err := audit.Open(audit.Config{Dir: at("state"), Enforcer: "demo", Incarnation: "i1"})
	if err != nil {
		t.Fatal(err)
	}
	log, err := audit.NewPublisher(audit.PublisherConfig{Journal: j, Store: store, Signer: audit.KeySigner(private)})
	if err != nil {
		t.Fatal(err)
	}
	gone, to := strings.Repeat("bad", 13)+"b", strings.Repeat("cafe", 10)
	for _, e := range []audit.Entry{
		{Kind: audit.KindPolicy, Policy: gone, Status: "accepted"},
		{Kind: audit.KindRefused, Call: "c_1", Policy: gone, Effect: "deny", Server: "db", Method: "tools/call", Tool: "drop"},
		{Kind: audit.KindPolicy, Policy: to, Status: "reset"},
	} {
		if _, err := j.Append(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(log.Commit(t.Context()), j.Close(), store.Close()); err != nil {
		t.Fatal(err)
	}
	policy, err := githost.NewRepo(at("policy.git"), time.Now())
	if err == nil {
		_, err = policy.Commit(map[string][]byte{"countersign.yaml": []byte("version: 1\n")}, "anew\n", nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		more []string
		code int
		says string
	}{
		{nil, 1, "to " + to[:7] + ", which you have not accepted"},
		{[]string{"--accept-reset", gone[:12]}, 1, "which you have not accepted"},
		{[]string{"--accept-reset", to[:12]}, 0, "note: entry 2: it was decided under policy badbadb, and branch main of the policy repository has never had that commit; the policy's history was reset at "},
	} {
		out, errs, code := command(t, nil, append([]string{"audit", "verify", "--repo", at("audit.git"), "--commit-signers", at("audit_signers"), "--checkpoint-key", at("checkpoint.pub"), "--policy", at("policy.git")}, c.more...)...)
		if code != c.code || !strings.Contains(out, c.says) {
			t.Errorf("%q: exit %d\n%s%s", c.more, code, out, errs)
		}
	}
}
