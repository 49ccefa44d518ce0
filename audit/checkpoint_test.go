package audit

import (
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// testKey derives a key from a name: tests are the same every time.
func testKey(name string) ed25519.PrivateKey {
	seed := tlog.RecordHash([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func public(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

// The edge must compute what RFC 6962 says; golang.org/x/mod is the judge.
func TestEdgeIsRFC6962(t *testing.T) {
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(idx []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(idx))
		for i, k := range idx {
			out[i] = stored[k]
		}
		return out, nil
	})
	var e edge
	for n := int64(0); n < 300; n++ {
		want, err := tlog.TreeHash(n, reader)
		if err != nil {
			t.Fatal(err)
		}
		if got := e.root(); got != want {
			t.Fatalf("root of %d: %v, want %v", n, got, want)
		}
		again, err := parseBase(e.appendBase(nil))
		if err != nil || again.root() != want {
			t.Fatalf("base of %d: %v", n, err)
		}
		data := fmt.Appendf(nil, "entry %d", n)
		hs, err := tlog.StoredHashes(n, data, reader)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, hs...)
		e.add(tlog.RecordHash(data))
	}
	for _, bad := range []string{"", "x\n", "1\n", "0", "00\n", "0\n\n", "2\nAAAA\n", "-1\n"} {
		if _, err := parseBase([]byte(bad)); err == nil {
			t.Errorf("base %q is accepted", bad)
		}
	}
}

func TestCheckpointIsAC2SPNote(t *testing.T) {
	key := testKey("log")
	c := Checkpoint{Origin: "demo/i1", Size: 14, Root: tlog.RecordHash([]byte("x"))}
	signed, err := c.Sign(key)
	if err != nil {
		t.Fatal(err)
	}
	// An independent reader of signed notes.
	vkey, err := note.NewEd25519VerifierKey("demo/i1", public(key))
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	n, err := note.Open([]byte(signed), note.VerifierList(v))
	if err != nil || n.Text != "demo/i1\n14\n"+c.Root.String()+"\n" {
		t.Fatalf("%v, %q", err, n.Text)
	}
	got, err := OpenCheckpoint(signed, []ed25519.PublicKey{public(testKey("other")), public(key)})
	if err != nil || got != c {
		t.Errorf("%v, %+v", err, got)
	}
	// A witness's line may stand beside ours, not instead of it.
	w := noteSigner{verifierFor(t, "witness", public(testKey("w"))), t.Context(), KeySigner(testKey("w"))}
	both, err := note.Sign(n, w)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenCheckpoint(string(both), []ed25519.PublicKey{public(key)}); err != nil {
		t.Error(err)
	}
	for name, s := range map[string]string{
		"size":      strings.Replace(signed, "\n14\n", "\n15\n", 1),
		"origin":    strings.Replace(signed, "demo/i1\n", "demo/i2\n", 1),
		"extension": strings.Replace(signed, "\n\n", "\nmore\n\n", 1),
		"leading 0": strings.Replace(signed, "\n14\n", "\n014\n", 1),
		"unsigned":  c.text() + "\n",
		"text only": c.text(),
		"empty":     "",
		"CR":        strings.ReplaceAll(signed, "\n", "\r\n"),
		"huge":      signed + strings.Repeat("— x y\n", maxNote),
	} {
		if _, err := OpenCheckpoint(s, []ed25519.PublicKey{public(key)}); !errors.Is(err, ErrCheckpoint) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := OpenCheckpoint(signed, []ed25519.PublicKey{public(testKey("other"))}); !errors.Is(err, ErrCheckpoint) || !strings.Contains(err.Error(), "not signed by a checkpoint key that you trust") {
		t.Errorf("wrong key: %v", err)
	}
	if _, err := OpenCheckpoint(signed, nil); !errors.Is(err, ErrCheckpoint) {
		t.Errorf("no key: %v", err)
	}
}

func verifierFor(t *testing.T, name string, k ed25519.PublicKey) note.Verifier {
	t.Helper()
	v, err := verifier(name, k)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestKeysAreOpenSSHFiles(t *testing.T) {
	key := testKey("ssh")
	block, err := ssh.MarshalPrivateKey(key, "checkpoint")
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParsePrivateKey(pem.EncodeToMemory(block))
	if err != nil || !got.Equal(key) {
		t.Errorf("private: %v", err)
	}
	sshPub, err := ssh.NewPublicKey(public(key))
	if err != nil {
		t.Fatal(err)
	}
	line := string(ssh.MarshalAuthorizedKey(sshPub))
	keys, err := ParseLogKeys([]byte("# checkpoint keys\n\n" + line + line))
	if err != nil || len(keys[""]) != 2 || !keys[""][0].Equal(public(key)) {
		t.Errorf("public: %v, %v", keys, err)
	}
	for _, bad := range []string{"", "# none\n", "ssh-ed25519 AAAA\n", "cert-authority " + line, "command=\"x\" " + line} {
		if _, err := ParseLogKeys([]byte(bad)); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
	locked, err := ssh.MarshalPrivateKeyWithPassphrase(key, "", []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][]byte{nil, []byte("x"), pem.EncodeToMemory(locked)} {
		if _, err := ParsePrivateKey(bad); err == nil {
			t.Errorf("%.30q is accepted", bad)
		}
	}
}

func FuzzCheckpoint(f *testing.F) {
	key := testKey("log")
	signed, err := Checkpoint{Origin: "demo/i1", Size: 14, Root: tlog.RecordHash([]byte("x"))}.Sign(key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(signed)
	f.Add("demo/i1\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\n")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ReadCheckpoint(s)
		if err == nil && !strings.HasPrefix(s, c.text()+"\n") {
			t.Errorf("%q reads as %q", s, c.text())
		}
		if _, err := OpenCheckpoint(s, []ed25519.PublicKey{public(key)}); err == nil && !strings.HasPrefix(s, "demo/i1\n14\n") {
			t.Errorf("%q verifies", s)
		}
	})
}
