package audit

import (
	"context"
	"crypto/ed25519"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"os"
)

func TestRotation(t *testing.T) {
	old, next, other := KeySigner(testKey("old")), testKey("next"), KeySigner(testKey("other"))
	r, err := Rotate("demo", UseCheckpoint, old, public(next))
	if err != nil {
		t.Fatal(err)
	}
	was, is, err := r.Keys()
	if err != nil || !was.Equal(old.Public) || !is.Equal(public(next)) {
		t.Errorf("%v", err)
	}
	for name, change := range map[string]func(*Rotation){
		"another enforcer":    func(r *Rotation) { r.Enforcer = "prod" },
		"another use":         func(r *Rotation) { r.Use = UseCommit },
		"another new key":     func(r *Rotation) { r.New, _ = PublicLine(other.Public) },
		"another old key":     func(r *Rotation) { r.Old, _ = PublicLine(other.Public) },
		"itself":              func(r *Rotation) { r.New = r.Old },
		"no signature":        func(r *Rotation) { r.Signature = "" },
		"a use of its own":    func(r *Rotation) { r.Use = "x" },
		"an enforcer's lines": func(r *Rotation) { r.Enforcer = "a\nb" },
		"a key with a name":   func(r *Rotation) { r.New += " dana" },
		"two keys":            func(r *Rotation) { r.New += "\n" + r.Old },
	} {
		bad := r
		change(&bad)
		if _, _, err := bad.Keys(); err == nil {
			t.Errorf("%s passes", name)
		}
	}
	if _, err := Rotate("demo", UseCommit, old, old.Public); err == nil {
		t.Error("a key was replaced by itself")
	}
	away := errors.New("no answer")
	if _, err := Rotate("demo", UseCommit, Signer{old.Public, func(context.Context, []byte) ([]byte, error) { return nil, away }}, public(next)); !errors.Is(err, away) {
		t.Errorf("the old key does not answer: %v", err)
	}
	exchanged := Signer{old.Public, other.Sign}
	if _, err := Rotate("demo", UseCommit, exchanged, public(next)); err == nil {
		t.Error("a signature by another key was taken")
	}

	// Stock ssh-keygen reads it.
	dir := t.TempDir()
	sig := filepath.Join(dir, "sig")
	signers := filepath.Join(dir, "signers")
	if err := errors.Join(os.WriteFile(sig, []byte(r.Signature), 0o600), os.WriteFile(signers, []byte("demo "+r.Old+"\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("ssh-keygen", "-Y", "verify", "-f", signers, "-I", "demo", "-n", "countersign-key-rotation", "-s", sig)
	cmd.Stdin = strings.NewReader("countersign-key-rotation v1 demo checkpoint " + r.New + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("ssh-keygen: %v: %s", err, out)
	}
}

// While a rotation is under way, who has either key sees a good checkpoint.
func TestTwoLinesWhileRotating(t *testing.T) {
	j := openJournal(t, Config{})
	m := newStore()
	old, next := testKey("log"), testKey("next")
	p := newPublisher(t, PublisherConfig{Journal: j, Store: m, Signer: KeySigner(next), Previous: KeySigner(old)})
	flush(t, p)
	_, signed, _ := p.Last()
	for _, k := range []ed25519.PrivateKey{old, next} {
		if _, err := OpenCheckpoint(signed, []ed25519.PublicKey{public(k)}); err != nil {
			t.Error(err)
		}
	}
	if n := strings.Count(signed, "\n— "); n != 2 {
		t.Errorf("%d lines:\n%s", n, signed)
	}
	holds(t, m, 1)
	// What the old key committed and nobody pushed is ours after it, too.
	add(t, j, Entry{Kind: KindIntent})
	if err := p.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	after := newPublisher(t, PublisherConfig{Journal: j, Store: m, Signer: KeySigner(testKey("third")), Previous: KeySigner(next)})
	if err := after.Commit(t.Context()); err != nil {
		t.Error(err)
	}
	// Without it, it is nobody's, and the error says what to do.
	if err := newPublisher(t, PublisherConfig{Journal: j, Store: m, Signer: KeySigner(testKey("third"))}).Commit(t.Context()); !errors.Is(err, ErrForked) || !strings.Contains(err.Error(), "PREVIOUS") {
		t.Errorf("%v", err)
	}
}

// A key that does not answer for a while costs nothing but time, and one that
// was exchanged never signs.
func TestSignerInTrouble(t *testing.T) {
	j := openJournal(t, Config{})
	m := newStore()
	good := KeySigner(testKey("log"))
	away := errors.New("no answer")
	now := func(context.Context, []byte) ([]byte, error) { return nil, away }
	p := newPublisher(t, PublisherConfig{Journal: j, Store: m, Signer: Signer{good.Public, func(ctx context.Context, b []byte) ([]byte, error) { return now(ctx, b) }}})
	if err := p.Flush(t.Context()); !errors.Is(err, away) {
		t.Errorf("%v", err)
	}
	now = KeySigner(testKey("other")).Sign
	if err := p.Flush(t.Context()); err == nil || len(m.branches) > 0 {
		t.Errorf("another key signed: %v, %v", err, m.branches)
	}
	now = good.Sign
	flush(t, p)
	holds(t, m, 1)
}
