package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"countersign/audit"
	"countersign/enforcer"
	"countersign/enforcer/mask"
	"countersign/fixtures/githost"
	"countersign/fixtures/peer"
)

// recordKey gives an OpenSSH private key as a variable has it, and its public line.
func recordKey(t *testing.T) (private, public string) {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(priv, "")
	if err != nil {
		t.Fatal(err)
	}
	line, err := audit.PublicLine(pub)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(pem.EncodeToMemory(block))), line
}

type words struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (w *words) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

func (w *words) take() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer w.b.Reset()
	return w.b.String()
}

// recordConfig is what a record alone needs, with a repository of its own.
func recordConfig(t *testing.T) config {
	t.Helper()
	dir := t.TempDir()
	remote := filepath.Join(dir, "remote.git")
	if err := githost.Init(remote); err != nil {
		t.Fatal(err)
	}
	return config{ID: "prod-1", StateDir: filepath.Join(dir, "state"), AuditRepo: "file://" + remote, AuditWindow: 10 * time.Second,
		AuditJournalMax: 1 << 24, ShutdownGrace: time.Minute, VaultAuth: "token"}
}

// oneRun opens a record and closes it, as a start and a stop do, and gives the
// entries of that run, and what was logged.
func oneRun(t *testing.T, c config) (entries []audit.Entry, said string, err error) {
	t.Helper()
	var log words
	lock, err := audit.Lock(c.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	r, err := openRecord(t.Context(), c, mask.New(mask.Options{}), enforcer.Names{}, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		return nil, log.take(), err
	}
	for e, err := range r.journal.Read() {
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, e)
	}
	return entries, log.take(), r.close()
}

func rotations(t *testing.T, entries []audit.Entry) (out []audit.Rotation) {
	t.Helper()
	for _, e := range entries {
		if e.Kind != audit.KindKey {
			continue
		}
		var r audit.Rotation
		if err := json.Unmarshal(e.Detail, &r); err != nil || e.Status != audit.StatusRotated {
			t.Fatalf("%+v: %v", e, err)
		}
		if _, _, err := r.Keys(); err != nil {
			t.Error(err)
		}
		out = append(out, r)
	}
	return out
}

func TestKeysRotate(t *testing.T) {
	t.Parallel()
	c := recordConfig(t)
	commit1, commit1Pub := recordKey(t)
	commit2, commit2Pub := recordKey(t)
	log1, log1Pub := recordKey(t)
	log2, log2Pub := recordKey(t)
	log3, log3Pub := recordKey(t)
	run := func(want ...string) (said string) {
		t.Helper()
		es, said, err := oneRun(t, c)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range rotations(t, es) {
			got = append(got, r.Use+" "+r.Old+" "+r.New)
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("rotations\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		return said
	}
	c.AuditCommitKey, c.AuditCheckpointKey = commit1, log1
	if said := run(); strings.Contains(said, "another key") {
		t.Errorf("at the first start: %s", said)
	}
	run()
	// Both change, with those before at hand: said once, for as long as they are.
	c.AuditCommitKey, c.AuditCommitPrevious, c.AuditCheckpointKey, c.AuditCheckpointPrevious = commit2, commit1, log2, log1
	run("commit "+commit1Pub+" "+commit2Pub, "checkpoint "+log1Pub+" "+log2Pub)
	run()
	c.AuditCommitPrevious, c.AuditCheckpointPrevious = "", ""
	if said := run(); strings.Contains(said, "another key") {
		t.Errorf("after the rotation: %s", said)
	}
	// The wrong one before: nothing starts, and nothing is written down.
	c.AuditCheckpointKey, c.AuditCheckpointPrevious = log3, log1
	if _, _, err := oneRun(t, c); err == nil || !strings.Contains(err.Error(), "was last signed by "+log2Pub) {
		t.Errorf("the wrong previous key: %v", err)
	}
	c.AuditCheckpointPrevious = log2
	run("checkpoint " + log2Pub + " " + log3Pub)
	// None before: it starts, loudly.
	c.AuditCheckpointKey, c.AuditCheckpointPrevious = log1, ""
	if said := run(); !strings.Contains(said, "level=ERROR") || !strings.Contains(said, "another key than before") || !strings.Contains(said, log3Pub) {
		t.Errorf("a key changed without a word: %s", said)
	}
	// And without a note of what there was, from the record itself.
	if err := os.Remove(filepath.Join(c.StateDir, keysFile)); err != nil {
		t.Fatal(err)
	}
	c.AuditCheckpointKey = log2
	if said := run(); !strings.Contains(said, "another key than before") {
		t.Errorf("a key changed without a word, and without a note: %s", said)
	}
}

func TestKeysMustDiffer(t *testing.T) {
	t.Parallel()
	a, _ := recordKey(t)
	b, _ := recordKey(t)
	for name, k := range map[string]struct {
		change func(*config)
		want   string
	}{
		"none":               {func(c *config) { c.AuditCommitKey = "" }, "COUNTERSIGN_AUDIT_COMMIT_KEY is missing"},
		"one for both":       {func(c *config) { c.AuditCheckpointKey = a }, "COUNTERSIGN_AUDIT_CHECKPOINT_KEY: is the key of COUNTERSIGN_AUDIT_COMMIT_KEY"},
		"the new is the old": {func(c *config) { c.AuditCheckpointPrevious = b }, "COUNTERSIGN_AUDIT_CHECKPOINT_KEY_PREVIOUS: is the key of COUNTERSIGN_AUDIT_CHECKPOINT_KEY"},
		"two places":         {func(c *config) { c.AuditCommitVault, c.VaultAddr = "transit/a", "http://v" }, "COUNTERSIGN_AUDIT_COMMIT_KEY and COUNTERSIGN_AUDIT_COMMIT_KEY_VAULT are both set"},
		"no Vault":           {func(c *config) { c.AuditCommitKey, c.AuditCommitVault = "", "transit/a" }, "COUNTERSIGN_AUDIT_COMMIT_KEY_VAULT: want VAULT_ADDR"},
		"no name":            {func(c *config) { c.AuditCommitKey, c.AuditCommitVault, c.VaultAddr = "", "a", "http://v" }, "want <mount>/<name>"},
		"one of Vault's both": {func(c *config) {
			c.AuditCommitKey, c.AuditCheckpointKey, c.AuditCommitVault, c.AuditCheckpointVault, c.VaultAddr = "", "", "t/a", "t/a", "http://v"
		}, "is the key of"},
	} {
		c := config{AuditCommitKey: a, AuditCheckpointKey: b}
		if p := c.checkAuditKeys(); len(p) > 0 {
			t.Fatal(p)
		}
		k.change(&c)
		if p := c.checkAuditKeys(); !strings.Contains(strings.Join(p, "\n"), k.want) {
			t.Errorf("%s: %q, want %q", name, p, k.want)
		}
	}
}

// Both keys are in a real Vault, which rotates one: stock verification holds,
// and the record says which version followed which.
func TestKeysInVault(t *testing.T) {
	t.Parallel()
	v := peer.StartVault(t)
	v.Mount(t, "transit", "transit", nil)
	for _, name := range []string{"commits", "log"} {
		v.Write(t, "transit/keys/"+name, map[string]any{"type": "ed25519"})
	}
	c := recordConfig(t)
	c.VaultAddr, c.VaultToken = v.Address, v.Token
	c.AuditCommitVault, c.AuditCheckpointVault = "transit/commits", "transit/log"
	if _, _, err := oneRun(t, c); err != nil {
		t.Fatal(err)
	}
	v.Write(t, "transit/keys/log/rotate", nil)
	c.AuditCheckpointPrevVault = "transit/log@1"
	es, _, err := oneRun(t, c)
	if err != nil {
		t.Fatal(err)
	}
	if rs := rotations(t, es); len(rs) != 1 || rs[0].Use != audit.UseCheckpoint {
		t.Errorf("%+v", rs)
	}
	dir := t.TempDir()
	env := []string{"VAULT_ADDR=" + v.Address, "VAULT_TOKEN=" + v.Token, "COUNTERSIGN_ID=" + c.ID, "COUNTERSIGN_AUDIT_COMMIT_KEY_VAULT=transit/commits",
		"COUNTERSIGN_AUDIT_CHECKPOINT_KEY_VAULT=transit/log", "COUNTERSIGN_AUDIT_CHECKPOINT_KEY_PREVIOUS_VAULT=transit/log@1"}
	if out, errs, code := command(t, env, "audit", "key", "--dir", dir); code != 0 {
		t.Fatalf("%d %s %s", code, out, errs)
	}
	signers, checkpoints := filepath.Join(dir, "audit_signers"), filepath.Join(dir, "checkpoint_key.pub")
	if out, errs, code := command(t, nil, "audit", "verify", "--repo", strings.TrimPrefix(c.AuditRepo, "file://"), "--commit-signers", signers, "--checkpoint-key", checkpoints); code != 0 {
		t.Errorf("%d %s %s", code, out, errs)
	}
	if out, errs, code := command(t, env, "audit", "key"); code != 0 || strings.Count(out, "ssh-ed25519 ") != 3 {
		t.Errorf("%d %s %s", code, out, errs)
	}
	if _, errs, code := command(t, nil, "audit", "key"); code != 2 || !strings.Contains(errs, "COUNTERSIGN_AUDIT_CHECKPOINT_KEY is missing") {
		t.Errorf("%d %s", code, errs)
	}
	c.AuditCommitVault = "transit/nothing"
	if _, _, err := oneRun(t, c); err == nil || !strings.Contains(err.Error(), "COUNTERSIGN_AUDIT_COMMIT_KEY_VAULT: no key to sign with: there is none") {
		t.Errorf("%v", err)
	}
}
