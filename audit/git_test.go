package audit_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"golang.org/x/crypto/ssh"

	"countersign/audit"
	"countersign/gitsync"
)

func keyPair(t testing.TB) (private, public []byte) {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(priv, "")
	if err != nil {
		t.Fatal(err)
	}
	sshPub, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(block), ssh.MarshalAuthorizedKey(sshPub)
}

func gitIn(t testing.TB, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-C", dir}, args...)...)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_NAME=m", "GIT_AUTHOR_EMAIL=m@x", "GIT_COMMITTER_NAME=m", "GIT_COMMITTER_EMAIL=m@x")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// reader reads any repository through go-git, as plain objects.
func reader(t testing.TB, dir string) audit.Repository {
	t.Helper()
	r, err := git.PlainOpen(dir)
	if err != nil {
		t.Fatal(err)
	}
	return audit.Repository{
		Branches: func(prefix string) ([]string, error) {
			it, err := r.Branches()
			if err != nil {
				return nil, err
			}
			var names []string
			return names, it.ForEach(func(ref *plumbing.Reference) error {
				if n := ref.Name().Short(); strings.HasPrefix(n, prefix) {
					names = append(names, n)
				}
				return nil
			})
		},
		Tip: func(branch string) (string, bool, error) {
			ref, err := r.Reference(plumbing.NewBranchReferenceName(branch), true)
			if errors.Is(err, plumbing.ErrReferenceNotFound) {
				return "", false, nil
			}
			if err != nil {
				return "", false, err
			}
			return ref.Hash().String(), true, nil
		},
		Commit: func(hash string) (audit.Commit, error) {
			c, err := r.CommitObject(plumbing.NewHash(hash))
			if err != nil {
				return audit.Commit{}, err
			}
			out := audit.Commit{Tree: c.TreeHash.String(), When: c.Committer.When, Message: c.Message}
			for _, p := range c.ParentHashes {
				out.Parents = append(out.Parents, p.String())
			}
			o, err := r.Storer.EncodedObject(plumbing.CommitObject, c.Hash)
			if err != nil {
				return out, err
			}
			rd, err := o.Reader()
			if err != nil {
				return out, err
			}
			out.Raw, err = io.ReadAll(rd)
			return out, errors.Join(err, rd.Close())
		},
		Tree: func(hash string) ([]audit.Node, error) {
			tr, err := r.TreeObject(plumbing.NewHash(hash))
			if err != nil {
				return nil, err
			}
			var ns []audit.Node
			for _, e := range tr.Entries {
				ns = append(ns, audit.Node{Name: e.Name, Mode: strings.TrimLeft(e.Mode.String(), "0"), Hash: e.Hash.String()})
			}
			return ns, nil
		},
		Blob: func(hash string) ([]byte, error) {
			b, err := r.BlobObject(plumbing.NewHash(hash))
			if err != nil {
				return nil, err
			}
			rd, err := b.Reader()
			if err != nil {
				return nil, err
			}
			data, err := io.ReadAll(rd)
			return data, errors.Join(err, rd.Close())
		},
	}
}

// TestRealGit takes the record to a real remote, verifies it there with stock
// Git and with Verify, and edits one byte in a copy, in the ways at hand.
func TestRealGit(t *testing.T) {
	dir := t.TempDir()
	remote := filepath.Join(dir, "remote.git")
	gitIn(t, dir, "init", "-q", "--bare", remote)
	commitKey, commitPub := keyPair(t)
	logKey, logPub := keyPair(t)
	store, err := gitsync.OpenAudit(gitsync.AuditConfig{Dir: filepath.Join(dir, "audit.git"), URL: "file://" + remote, KeyPEM: commitKey, Name: "demo", Email: "demo@countersign.example"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}()
	now := time.Date(2026, 11, 23, 14, 31, 7, 0, time.UTC)
	j, err := audit.Open(audit.Config{Dir: filepath.Join(dir, "state"), Enforcer: "demo", Incarnation: "i1", Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	}()
	key, err := audit.ParsePrivateKey(logKey)
	if err != nil {
		t.Fatal(err)
	}
	log, err := audit.NewPublisher(audit.PublisherConfig{Journal: j, Store: store, Signer: audit.KeySigner(key), Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	pub, err := audit.NewOutlet(audit.OutletConfig{
		Parts: []audit.Part{log}, Rejected: func(err error) bool { return errors.Is(err, gitsync.ErrRejected) },
		Push: func(ctx context.Context, branches []string) (audit.Push, error) {
			done, err := store.Push(ctx, branches...)
			return audit.Push(done), err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 13 {
		e := audit.Entry{Kind: audit.KindIntent, Reason: "some words"}
		if i == 12 { // who chose these names would like to write the message
			e = audit.Entry{Kind: audit.KindRefused, Effect: "deny", Policy: "3f9c2e1aa05d5bd3", Sub: "eve\nPolicy: forged", Tool: "a\n\nb\n\nPolicy: forged\n---\n", Reason: "\n\ndemo/i1\n9\nAAAA\n\n— demo/i1 AAAA\n"}
		}
		if _, err := j.Append(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		if i == 5 || i == 12 {
			if err := pub.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	const branch = "audit/demo/i1/2026-11"
	signers := "demo@countersign.example namespaces=\"git\" " + string(commitPub)
	allowed := filepath.Join(dir, "allowed_signers")
	if err := os.WriteFile(allowed, []byte(signers), 0o600); err != nil {
		t.Fatal(err)
	}
	clone := filepath.Join(dir, "clone")
	gitIn(t, dir, "clone", "-q", "-b", branch, remote, clone)
	if out := gitIn(t, clone, "-c", "gpg.ssh.allowedSignersFile="+allowed, "verify-commit", "HEAD", "HEAD~1"); strings.Count(out, `Good "git" signature`) != 2 {
		t.Error(out)
	}
	gitIn(t, clone, "fsck", "--strict")
	// Stock Git reads the trailers, ours and no others.
	const trailers = "Policy: 3f9c2e1aa05d5bd3\nEntries: 7-13\nCalls: 1\nDenied: 1\n"
	if out := gitIn(t, clone, "log", "-1", "--format=%(trailers:only,unfold)"); strings.TrimSpace(out)+"\n" != trailers {
		t.Errorf("git log shows the trailers\n%s", out)
	}
	if out := gitIn(t, clone, "log", "--format=%(trailers:key=Policy,valueonly,separator=%x2C)|%(trailers:key=Entries,valueonly,separator=%x2C)"); out != "3f9c2e1aa05d5bd3|7-13\n|0-6\n" {
		t.Errorf("git log shows %q", out)
	}
	message := filepath.Join(dir, "message")
	if err := os.WriteFile(message, []byte(gitIn(t, clone, "log", "-1", "--format=%B")), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := gitIn(t, clone, "interpret-trailers", "--parse", message); out != trailers {
		t.Errorf("git interpret-trailers says\n%s", out)
	}
	if out := gitIn(t, clone, "log", "-1", "--format=%s"); out != "1 call · 1 denied · policy 3f9c2e1\n" {
		t.Errorf("git log --oneline shows %q", out)
	}
	trust, err := gitsync.Signers{AllowedSigners: []byte(signers)}.Parse()
	if err != nil {
		t.Fatal(err)
	}
	keys, err := audit.ParseLogKeys(logPub)
	if err != nil {
		t.Fatal(err)
	}
	cfg := audit.VerifyConfig{Keys: keys, Signer: trust.Commit}
	verify := func(dir string) *audit.Report {
		t.Helper()
		rep, err := audit.Verify(context.Background(), reader(t, dir), cfg)
		if err != nil {
			t.Fatal(err)
		}
		return rep
	}
	rep := verify(clone)
	if rep.String() != "14 entries, 2 checkpoints, all links hold" {
		t.Fatal(rep)
	}

	// One byte of the working files.
	const file = "entries/000/007.jsonl"
	path := filepath.Join(clone, file)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(b, []byte("\n"))
	lines[2] = bytes.Replace(lines[2], []byte("words"), []byte("wordz"), 1)
	if err := os.WriteFile(path, bytes.Join(lines, nil), 0o600); err != nil {
		t.Fatal(err)
	}
	const want = "entry 9 does not match the tree signed at 14:31:07"
	ps, err := audit.VerifyFiles(os.DirFS(clone), cfg, rep)
	if err != nil || len(ps) != 1 || !strings.HasPrefix(ps[0].Text, want) {
		t.Errorf("%v, %v", err, ps)
	}
	// Committed on top, and the commit made again: nobody's signature fits.
	gitIn(t, clone, "commit", "-q", "-a", "-m", "nothing to see")
	if rep := verify(clone); !strings.HasPrefix(rep.String(), want) || !strings.Contains(rep.String(), "not signed") {
		t.Error(rep)
	}
	gitIn(t, clone, "reset", "-q", "--soft", "HEAD~2")
	gitIn(t, clone, "commit", "-q", "-C", "origin/"+branch)
	const unsigned = "entry 9 does not match the tree signed after 14:31:07"
	if rep := verify(clone); !strings.HasPrefix(rep.String(), unsigned) || !strings.Contains(rep.String(), "not signed") {
		t.Error(rep)
	}

	// Somebody else pushed to the branch: that is the end of publishing.
	gitIn(t, clone, "push", "-q", "-f", "origin", "HEAD:"+branch)
	if _, err := j.Append(t.Context(), audit.Entry{Kind: audit.KindStop}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := pub.Flush(t.Context()); !errors.Is(err, audit.ErrForked) || !errors.Is(err, gitsync.ErrRejected) {
			t.Errorf("got %v", err)
		}
	}
}
