package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"countersign/audit"
	"countersign/enforcer"
	"countersign/enforcer/mask"
	"countersign/fixtures/port"
)

// witnessing runs `countersign audit witness` until the test ends, and gives
// its vkey; stop ends it in order.
func witnessing(t *testing.T, args ...string) (vkey string, stop func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0], append([]string{"audit", "witness"}, args...)...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	var errs buffer
	cmd.Stdout, cmd.Stderr = w, &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	ended := false
	stop = func() {
		if ended {
			return
		}
		ended = true
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("the witness: %v\n%s", err, errs.String())
		}
	}
	t.Cleanup(func() { stop(); r.Close() })
	if _, err := fmt.Fscanln(r, &vkey); err != nil { // it listens by then
		t.Fatalf("the witness says nothing: %v\n%s", err, errs.String())
	}
	return vkey, stop
}

// twoRecords are the configurations of two enforcers that share a repository.
func twoRecords(t *testing.T) (east, west config, commits, checkpoints, peers string) {
	t.Helper()
	dir := t.TempDir()
	east = recordConfig(t)
	west = recordConfig(t)
	east.ID, west.ID, west.AuditRepo = "east", "west", east.AuditRepo
	var signers, keys, named string
	for _, c := range []*config{&east, &west} {
		var pub string
		c.AuditCommitKey, pub = recordKey(t)
		signers += committerEmail(c.ID) + " namespaces=\"git\" " + pub + "\n"
		c.AuditCheckpointKey, pub = recordKey(t)
		keys += pub + "\n"
		named += c.ID + " " + pub + "\n"
	}
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return east, west, write("audit_signers", signers), write("checkpoints.pub", keys), write("peers", named)
}

// Two enforcers, one repository, a witness: every checkpoint is cosigned, each
// enforcer holds the other's, an auditor demands it all, and a stranger checks
// one entry.
func TestTheRecordIsHeldOutside(t *testing.T) {
	t.Parallel()
	east, west, signers, checkpoints, peers := twoRecords(t)
	dir := t.TempDir()
	key, _ := recordKey(t)
	if err := os.WriteFile(filepath.Join(dir, "key"), []byte(key+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	number, err := port.Free()
	if err != nil {
		t.Fatal(err)
	}
	listen := fmt.Sprintf("127.0.0.1:%d", number)
	args := []string{"--name", "witness.example/w1", "--key", filepath.Join(dir, "key"), "--logs", peers, "--dir", filepath.Join(dir, "witness"), "--listen", listen}
	vkey, stop := witnessing(t, args...)
	if out, errs, code := command(t, nil, append([]string{"audit", "witness", "--print-key"}, args[:4]...)...); code != 0 || out != vkey+"\n" {
		t.Errorf("--print-key: %d %q %s", code, out, errs)
	}
	if _, errs, code := command(t, nil, append([]string{"audit", "witness"}, args[:4]...)...); code != 2 || !strings.Contains(errs, "--logs: whose checkpoints") {
		t.Errorf("of nobody: %d %s", code, errs)
	}
	if _, errs, code := command(t, nil, append([]string{"audit", "witness"}, args...)...); code != 2 || !strings.Contains(errs, "is in use by another") {
		t.Errorf("a second witness on one directory: %d %s", code, errs)
	}
	policy := filepath.Join(dir, "policy")
	if err := os.WriteFile(policy, []byte("witness w1 "+vkey+" http://"+listen+"\nquorum w1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*config{&east, &west} {
		c.AuditWitnesses, c.AuditPeerKeys = policy, peers
	}
	repo := strings.TrimPrefix(east.AuditRepo, "file://")
	verify := func(more ...string) (string, int) {
		t.Helper()
		out, errs, code := command(t, nil, append([]string{"audit", "verify", "--repo", repo, "--commit-signers", signers, "--checkpoint-key", checkpoints}, more...)...)
		return out + errs, code
	}
	// run is a start, a look at the others, a call, and a stop.
	run := func(c config, call string) string {
		t.Helper()
		var log words
		r, err := openRecord(t.Context(), c, mask.New(mask.Options{}), enforcer.Names{}, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		reg := prometheus.NewRegistry()
		r.metrics(reg)
		if _, err := r.journal.Append(t.Context(), audit.Entry{Kind: audit.KindRefused, Call: call, Effect: "deny", Status: audit.StatusRefused}); err != nil {
			t.Fatal(err)
		}
		if err := r.outside.neighbours.Round(t.Context()); err != nil {
			t.Error(err)
		}
		if err := r.close(); err != nil {
			t.Error(err)
		}
		families, err := reg.Gather()
		if err != nil {
			t.Error(err)
		}
		var names []string
		for _, f := range families {
			if n := f.GetName(); strings.HasPrefix(n, "countersign_witness_") || strings.HasPrefix(n, "countersign_anchor_") {
				names = append(names, n)
			}
		}
		if len(names) != 7 {
			t.Errorf("metrics %q", names)
		}
		return log.take()
	}
	run(east, "c_east1")
	if said := run(west, "c_west1"); strings.Contains(said, "WARN") || strings.Contains(said, "ERROR") {
		t.Error(said)
	}
	run(east, "c_east2")
	out, code := verify("--witness-policy", policy, "--anchor", filepath.Join(dir, "witness", "logs"))
	if code != 0 || !strings.Contains(out, "all links hold") {
		t.Fatalf("%d %s", code, out)
	}
	if out, code := verify("--witness-key", vkey, "--quorum", "2"); code != 2 {
		t.Errorf("a quorum of more than there are: %d %s", code, out)
	}
	if log, _, _ := command(t, nil, "audit", "log", "--repo", repo, "--kind", "anchor"); strings.Count(log, "\n") < 2 {
		t.Errorf("anchors:\n%s", log)
	}

	proof := filepath.Join(dir, "call.tlog-proof")
	if out, errs, code := command(t, nil, "audit", "proof", "c_west1", "--repo", repo, "--checkpoint-key", checkpoints, "--witness-policy", policy, "-o", proof); code != 0 || !strings.Contains(out, "log west/r") {
		t.Fatalf("%d %s %s", code, out, errs)
	}
	if out, errs, code := command(t, nil, "audit", "proof", "--check", proof, "--checkpoint-key", checkpoints, "--witness-key", vkey); code != 0 ||
		!strings.Contains(out, "proven: entry 1 of west/r") || !strings.Contains(out, "cosigned by witness.example/w1 at") || !strings.Contains(out, "c_west1") {
		t.Errorf("%d %s %s", code, out, errs)
	}
	b, err := os.ReadFile(proof)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(proof, []byte(strings.Replace(string(b), "index 1", "index 0", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, _, code := command(t, nil, "audit", "proof", "--check", proof, "--checkpoint-key", checkpoints); code != 1 {
		t.Errorf("a proof of another number: %d %s", code, out)
	}

	// The witness goes away: the record goes on, and verification says so, when
	// the grace is over.
	stop()
	if said := run(west, "c_west2"); !strings.Contains(said, "a witness did not cosign") {
		t.Error(said)
	}
	if out, code := verify("--witness-policy", policy); code != 0 || !strings.Contains(out, "within the grace of 15m0s") {
		t.Errorf("%d %s", code, out)
	}
	if out, code := verify("--witness-policy", policy, "--quorum-grace", "0s"); code != 1 || !strings.Contains(out, "lack the cosignatures of the quorum w1") {
		t.Errorf("%d %s", code, out)
	}
	// A thief with west's keys takes its last run back; east's record, and the
	// witness's own files, tell.
	branches, err := exec.CommandContext(context.WithoutCancel(t.Context()), "git", "-C", repo, "for-each-ref", "--format=%(refname)", "refs/heads/audit/west/").Output()
	if err != nil {
		t.Fatal(err)
	}
	for b := range strings.FieldsSeq(string(branches)) {
		git(t, repo, "update-ref", "-d", b)
	}
	if out, code := verify("--anchor", filepath.Join(dir, "witness", "logs")); code != 1 || !strings.Contains(out, "no branch has them") {
		t.Errorf("%d %s", code, out)
	}
	if out, code := verify(); code != 1 || !strings.Contains(out, "of east/") {
		t.Errorf("%d %s", code, out)
	}
	if said := run(east, "c_east3"); !strings.Contains(said, "is not what it was") {
		t.Error(said)
	}
}
