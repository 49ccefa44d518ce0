package gitsync

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

// newKey makes an Ed25519 key: its PEM and its allowed_signers line.
func newKey(t *testing.T, principal string) (pemBytes []byte, line string) {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(priv, principal)
	if err != nil {
		t.Fatal(err)
	}
	sp, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(block), principal + " " + string(ssh.MarshalAuthorizedKey(sp))
}

func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	out, err := tryGit(dir, args...)
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return out
}

func tryGit(dir string, args ...string) (string, error) {
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null")
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// audit opens a record in a temporary folder, published to url.
func audit(t *testing.T, dir, url string, key []byte) *Repo {
	t.Helper()
	r, err := OpenAudit(AuditConfig{Dir: dir, URL: url, KeyPEM: key, Name: "Countersign", Email: "enforcer@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func commit(t *testing.T, r *Repo, branch, parent, path, content string) string {
	t.Helper()
	h, err := r.Commit(t.Context(), branch, parent, map[string][]byte{path: []byte(content), "checkpoint": []byte(path + "\n")}, "1 call\n\n"+path, noon)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestStockGitVerifiesTheRecord(t *testing.T) {
	key, line := newKey(t, "enforcer@example.com")
	remote := filepath.Join(t.TempDir(), "remote.git")
	git(t, ".", "init", "-q", "--bare", remote)
	r := audit(t, filepath.Join(t.TempDir(), "a"), remote, key)
	const branch = "audit/one/inc1/2026-03"
	c1 := commit(t, r, branch, "", "entries/000/1.jsonl", "{}\n")
	c2 := commit(t, r, branch, c1, "entries/000/2.jsonl", "{2}\n")
	c3 := commit(t, r, branch, c2, "entries/001/3.jsonl", "{3}\n")
	if err := r.Push(t.Context(), branch); err != nil {
		t.Fatal(err)
	}
	allowed := filepath.Join(t.TempDir(), "allowed")
	if err := os.WriteFile(allowed, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	clone := filepath.Join(t.TempDir(), "clone")
	git(t, ".", "clone", "-q", "-b", branch, remote, clone)
	git(t, clone, "fsck", "--strict")
	for _, c := range []string{c1, c2, c3} {
		out := git(t, clone, "-c", "gpg.ssh.allowedSignersFile="+allowed, "verify-commit", c)
		if !strings.Contains(out, `Good "git" signature for enforcer@example.com`) {
			t.Errorf("verify-commit %s: %s", c, out)
		}
	}
	if got := git(t, clone, "ls-tree", "-r", "--name-only", "HEAD"); got != "checkpoint\nentries/000/1.jsonl\nentries/000/2.jsonl\nentries/001/3.jsonl" {
		t.Errorf("tree:\n%s", got)
	}
}
