package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// proof stops the product, reads the record from Git as anybody could, has
// stock Git and the product verify it, and shows that one changed byte is
// found.
func (t *teller) proof(ctx context.Context) error {
	if err := t.agent.Close(); err != nil {
		return err
	}
	if err := t.product.stop(); err != nil {
		return fmt.Errorf("the product stopped badly: %w\n%s", err, t.product.tail())
	}
	if left := t.stage.Vault.Leases(); len(left) != 0 {
		return fmt.Errorf("leases are left after the end: %v", left)
	}
	branch, err := t.branch(ctx)
	if err != nil {
		return err
	}
	t.out.line("")
	t.out.line("%s", t.out.paint(bold, "The record"))
	log, err := t.git(ctx, t.stage.Audit, "log", "--oneline", branch)
	if err != nil {
		return err
	}
	t.out.line("  $ git -C audit log --oneline %.24s…", branch)
	lines := strings.Split(strings.TrimSpace(log), "\n")
	for _, l := range lines {
		t.out.line("  %s", l)
	}
	tip, _, _ := strings.Cut(lines[0], " ")
	good, err := t.git(ctx, t.stage.Audit, "-c", "gpg.ssh.allowedSignersFile="+t.stage.Path("audit_signers"), "verify-commit", tip)
	if err != nil {
		return fmt.Errorf("stock Git does not accept the signature: %w", err)
	}
	signature, _, _ := strings.Cut(good, " with ")
	t.out.line("  $ git verify-commit %s        %s", tip, strings.TrimSpace(signature))
	out, code, err := t.verify(ctx, t.stage.Audit)
	if err != nil || code != 0 {
		return fmt.Errorf("the record does not verify: %v\n%s", err, out)
	}
	t.out.line("  $ countersign audit verify         %s", lastLine(out))
	copied, err := t.tamper(ctx, branch)
	if err != nil {
		return err
	}
	out, code, err = t.verify(ctx, copied)
	if err != nil {
		return err
	}
	if code != 1 || !strings.Contains(out, "entry ") {
		return fmt.Errorf("the changed byte was not found (exit %d): %s", code, out)
	}
	first, _, _ := strings.Cut(strings.TrimPrefix(out, "PROBLEM: "), " (")
	t.out.line("  one byte changed in a copy →       %s", t.out.paint(red, strings.TrimSpace(first)))
	return nil
}

// branch is the newest of the record: the demo makes one, or two at midnight
// between two months.
func (t *teller) branch(ctx context.Context) (string, error) {
	out, err := t.git(ctx, t.stage.Audit, "for-each-ref", "--format=%(refname:short)", "--sort=-committerdate", "refs/heads/audit")
	if err != nil {
		return "", err
	}
	newest, _, _ := strings.Cut(out, "\n")
	if newest == "" {
		return "", errors.New("the record has no branch")
	}
	return newest, nil
}

func (t *teller) verify(ctx context.Context, repo string) (string, int, error) {
	return t.product.run(ctx, "audit", "verify", "--repo", repo,
		"--commit-signers", t.stage.Path("audit_signers"), "--checkpoint-key", t.stage.Path("checkpoint.pub"))
}

// tamper copies the record and changes one letter of one entry in the newest
// commit, leaving everything else as it was, signature and checkpoint too: what
// somebody could do who holds the repository but no key.
func (t *teller) tamper(ctx context.Context, branch string) (string, error) {
	dir := t.stage.Path("copy.git")
	if _, err := t.git(ctx, t.stage.Dir, "clone", "--quiet", "--mirror", t.stage.Audit, dir); err != nil {
		return "", err
	}
	changed, err := t.git(ctx, dir, "diff-tree", "--root", "-r", "--no-commit-id", "--name-only", branch)
	if err != nil {
		return "", err
	}
	var path string
	for f := range strings.FieldsSeq(changed) {
		if strings.HasSuffix(f, ".jsonl") {
			path = f
		}
	}
	if path == "" {
		return "", errors.New("the newest commit holds no entries")
	}
	content, err := t.git(ctx, dir, "cat-file", "blob", branch+":"+path)
	if err != nil {
		return "", err
	}
	// The first line, unless it tells of more: if the commit's last is whole, the
	// product can say when the tree was signed.
	at := strings.Index(content, `"kind":"`)
	if i := strings.LastIndex(content, "Ask billing first"); i >= 0 {
		at = i
	}
	b := []byte(content)
	b[at+len(`"kind":"`)] ^= 1
	blob, err := t.pipe(ctx, dir, b, "hash-object", "-w", "--stdin")
	if err != nil {
		return "", err
	}
	index := t.stage.Path("copy.index")
	for _, args := range [][]string{{"read-tree", branch}, {"update-index", "--cacheinfo", "100644," + blob + "," + path}} {
		if _, err := t.gitEnv(ctx, dir, []string{"GIT_INDEX_FILE=" + index}, nil, args...); err != nil {
			return "", err
		}
	}
	tree, err := t.gitEnv(ctx, dir, []string{"GIT_INDEX_FILE=" + index}, nil, "write-tree")
	if err != nil {
		return "", err
	}
	commit, err := t.git(ctx, dir, "cat-file", "commit", branch)
	if err != nil {
		return "", err
	}
	_, rest, _ := strings.Cut(commit, "\n")
	forged, err := t.pipe(ctx, dir, []byte("tree "+strings.TrimSpace(tree)+"\n"+rest), "hash-object", "-t", "commit", "-w", "--stdin")
	if err != nil {
		return "", err
	}
	_, err = t.git(ctx, dir, "update-ref", "refs/heads/"+branch, forged)
	return dir, err
}

func (t *teller) git(ctx context.Context, dir string, args ...string) (string, error) {
	return t.gitEnv(ctx, dir, nil, nil, args...)
}

func (t *teller) pipe(ctx context.Context, dir string, in []byte, args ...string) (string, error) {
	out, err := t.gitEnv(ctx, dir, nil, in, args...)
	return strings.TrimSpace(out), err
}

func (t *teller) gitEnv(ctx context.Context, dir string, env []string, in []byte, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-C", dir}, args...)...)
	cmd.Env = append(append(os.Environ(), "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_CONFIG_NOSYSTEM=1"), env...)
	cmd.Stdin = bytes.NewReader(in)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("git %s: %w: %s", args[0], err, errs.String())
	}
	if slices.Contains(args, "verify-commit") {
		return errs.String(), nil // Git says who signed on standard error
	}
	return out.String(), nil
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}
