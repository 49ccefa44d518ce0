package gitsync

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"countersign/fixtures/githost"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// signedCommit makes a commit in a fresh repository, dated noon.
func signedCommit(t *testing.T, signer githost.Signer) (raw []byte, repo, hash string) {
	t.Helper()
	r, err := githost.NewRepo(filepath.Join(t.TempDir(), "r.git"), noon)
	if err != nil {
		t.Fatal(err)
	}
	hash, err = r.Commit(map[string][]byte{"a": []byte("1")}, "subject\n\nbody\n", signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := OpenClone(t.Context(), r.Dir, Auth{})
	if err != nil {
		t.Fatal(err)
	}
	read, err := c.Commits(hash)
	if err != nil {
		t.Fatal(err)
	}
	return read.Raw, r.Dir, hash
}

// Stock Git and we must agree about every allowed_signers file.
func TestAllowedSignersAsStockGit(t *testing.T) {
	ada, eve := sshKey(t, "ada@example.com"), sshKey(t, "eve@example.com")
	raw, repo, hash := signedCommit(t, ada)
	key := strings.TrimPrefix(strings.TrimSpace(ada.AllowedSigner("")), "ada@example.com ")
	for _, c := range []struct {
		file string
		want string // the principal, or what the error says
		good bool
	}{
		{ada.AllowedSigner(""), "ada@example.com", true},
		{"# comment\n\n  \n" + eve.AllowedSigner("") + ada.AllowedSigner(""), "ada@example.com", true},
		{eve.AllowedSigner(""), "not among the allowed signers", false},
		{"*@example.com " + key + " a comment", "ada@example.com", true},
		{"*@elsewhere.com " + key, "*@elsewhere.com", true},
		{`"ada@example.com,other" ` + key, "ada@example.com", true},
		{"a?a@example.com,!eve@example.com " + key, "ada@example.com", true},
		{ada.AllowedSigner(`namespaces="git"`), "ada@example.com", true},
		{ada.AllowedSigner(`namespaces="file,g*"`), "ada@example.com", true},
		{ada.AllowedSigner(`namespaces="file"`), "not allowed to sign for", false},
		{ada.AllowedSigner(`namespaces="*,!git"`), "not allowed to sign for", false},
		{ada.AllowedSigner(`NAMESPACES="git",valid-after="20260304Z"`), "ada@example.com", true},
		{ada.AllowedSigner(`valid-after="20260304115959Z",valid-before="202603041201Z"`), "ada@example.com", true},
		{ada.AllowedSigner(`valid-after="202603041201Z"`), "valid only after", false},
		{ada.AllowedSigner(`valid-before="202603041159Z"`), "expired", false},
		{ada.AllowedSigner(`valid-before="20200101Z"`) + ada.AllowedSigner(`valid-after="20260101Z"`), "ada@example.com", true},
	} {
		path := filepath.Join(t.TempDir(), "allowed")
		if err := os.WriteFile(path, []byte(c.file), 0o600); err != nil {
			t.Fatal(err)
		}
		out, gitErr := tryGit(repo, "-c", "gpg.ssh.allowedSignersFile="+path, "verify-commit", hash)
		who, err := VerifyCommit(raw, Signers{AllowedSigners: []byte(c.file)}, noon)
		if (err == nil) != c.good || (gitErr == nil) != c.good {
			t.Errorf("%s\nwe: %v\nstock Git: %v %s", c.file, err, gitErr, out)
			continue
		}
		if c.good && who != c.want || !c.good && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s\ngot %q, %v; want %q", c.file, who, err, c.want)
		}
	}
}

func TestAllowedSignersIsStrict(t *testing.T) {
	ada := sshKey(t, "ada@example.com")
	for file, want := range map[string]string{
		ada.AllowedSigner("cert-authority"):                                   "line 1: cert-authority is not supported",
		"# x\n" + ada.AllowedSigner("namespace=git"):                          `line 2: unknown option "namespace"`,
		ada.AllowedSigner(`valid-before="tomorrow"`):                          "not a time",
		ada.AllowedSigner(`valid-before="20261340"`):                          "out of range",
		ada.AllowedSigner(`namespaces=""`):                                    "names none",
		ada.AllowedSigner(`namespaces="git`):                                  "quote is not closed",
		"ada@example.com":                                                     "principals, key type and key expected",
		"ada@example.com ssh-ed25519":                                         "key is missing",
		"ada@example.com ssh-ed25519 !!!":                                     "not base64",
		"ada@example.com ssh-ed25519 AAAA":                                    "cannot be read",
		"ada@example.com ssh-ed25519-cert-v01@openssh.com AAAA":               "certificates are not supported",
		strings.Replace(ada.AllowedSigner(""), "ssh-ed25519 ", "ssh-rsa ", 1): "of type ssh-ed25519",
		"\n": "no key is among them",
	} {
		_, err := Signers{AllowedSigners: []byte(file)}.Parse()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", file, err, want)
		}
	}
}

// wrong signs, but not what it should, or not as it should.
type wrong func(payload []byte) (string, error)

func (w wrong) SignGit(payload []byte) (string, error) { return w(payload) }

func TestSignaturesThatDoNotHold(t *testing.T) {
	ada, eve := sshKey(t, "ada@example.com"), sshKey(t, "eve@example.com")
	signers := Signers{AllowedSigners: []byte(ada.AllowedSigner(""))}
	for name, c := range map[string]struct {
		signer githost.Signer
		want   string
	}{
		"none":              {nil, "not signed"},
		"another key":       {eve, "not among the allowed signers"},
		"another namespace": {wrong(func(p []byte) (string, error) { return ada.Sign(p, "file") }), "does not match"},
		"another payload":   {wrong(func([]byte) (string, error) { return ada.SignGit([]byte("x")) }), "does not match"},
		"two blocks": {wrong(func(p []byte) (string, error) {
			a, err := ada.SignGit(p)
			return a + a, err
		}), "malformed"},
		"rubbish": {wrong(func([]byte) (string, error) {
			return "-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----\n", nil
		}), "malformed"},
		"no end": {wrong(func([]byte) (string, error) { return "-----BEGIN SSH SIGNATURE-----\nAAAA\n", nil }), "malformed"},
		"x509":   {wrong(func([]byte) (string, error) { return "-----BEGIN SIGNED MESSAGE-----\nAAAA\n", nil }), "neither SSH nor OpenPGP"},
		"pgp":    {wrong(func([]byte) (string, error) { return "-----BEGIN PGP SIGNATURE-----\nAAAA\n", nil }), "no OpenPGP key is trusted"},
	} {
		t.Run(name, func(t *testing.T) {
			raw, _, _ := signedCommit(t, c.signer)
			if who, err := VerifyCommit(raw, signers, noon); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%q, %v; want %q", who, err, c.want)
			}
		})
	}
	raw, _, _ := signedCommit(t, ada)
	for i := range raw {
		changed := bytes.Clone(raw)
		changed[i] ^= 1
		who, err := VerifyCommit(changed, signers, noon)
		// The armor may end its lines in other ways: the signature is the same.
		if err == nil && !bytes.Equal(payloadOf(t, changed), payloadOf(t, raw)) {
			t.Fatalf("byte %d changed, and still by %s", i, who)
		}
	}
}

func payloadOf(t *testing.T, raw []byte) []byte {
	t.Helper()
	c, err := parseCommit(raw)
	if err != nil {
		t.Fatal(err)
	}
	return c.payload
}

// pgpKey signs as gpg does.
type pgpKey struct {
	entity *openpgp.Entity
	at     time.Time
}

func (k pgpKey) config() *packet.Config {
	return &packet.Config{Time: func() time.Time { return k.at }}
}

func (k pgpKey) SignGit(payload []byte) (string, error) {
	var b strings.Builder
	err := openpgp.ArmoredDetachSign(&b, k.entity, bytes.NewReader(payload), k.config())
	return strings.TrimSuffix(b.String(), "\n") + "\n", err
}

func newPGP(t *testing.T, name string, life time.Duration) pgpKey {
	t.Helper()
	k := pgpKey{at: noon.Add(-time.Hour)}
	cfg := k.config()
	cfg.KeyLifetimeSecs = uint32(life.Seconds())
	var err error
	if k.entity, err = openpgp.NewEntity(name, "", name+"@example.com", cfg); err != nil {
		t.Fatal(err)
	}
	k.at = noon
	return k
}

func (k pgpKey) public(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := armor.Encode(&b, openpgp.PublicKeyType, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.entity.Serialize(w); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return append(b.Bytes(), '\n')
}

func TestOpenPGP(t *testing.T) {
	host, other := newPGP(t, "host", 0), newPGP(t, "other", 0)
	raw, _, _ := signedCommit(t, host)
	byHost := raw
	both := Signers{Keyring: append(other.public(t), host.public(t)...)}
	who, err := VerifyCommit(raw, both, noon)
	if want := fmt.Sprintf("host <host@example.com> (%016X)", host.entity.PrimaryKey.KeyId); err != nil || who != want {
		t.Errorf("%q, %v; want %q", who, err, want)
	}
	if who, err := VerifyCommit(raw, Signers{Keyring: other.public(t)}, noon); err == nil {
		t.Errorf("another's keyring: %q", who)
	}
	if who, err := VerifyCommit(bytes.Replace(raw, []byte("body"), []byte("BODY"), 1), both, noon); err == nil {
		t.Errorf("changed: %q", who)
	}
	short := newPGP(t, "short", 2*time.Hour)
	raw, _, _ = signedCommit(t, short)
	if _, err := VerifyCommit(raw, Signers{Keyring: short.public(t)}, noon); err != nil {
		t.Errorf("in time: %v", err)
	}
	if who, err := VerifyCommit(raw, Signers{Keyring: short.public(t)}, noon.Add(2*time.Hour)); err == nil {
		t.Errorf("expired: %q", who)
	}
	if err := host.entity.RevokeKey(packet.KeyCompromised, "stolen", host.config()); err != nil {
		t.Fatal(err)
	}
	if who, err := VerifyCommit(byHost, Signers{Keyring: host.public(t)}, noon.Add(time.Hour)); err == nil {
		t.Errorf("revoked: %q", who)
	}
	private := bytes.ReplaceAll(host.public(t), []byte("PUBLIC KEY"), []byte("PRIVATE KEY"))
	for _, ring := range [][]byte{[]byte("x"), []byte("-----BEGIN PGP PUBLIC KEY BLOCK-----\n"), private} {
		if _, err := (Signers{Keyring: ring}).Parse(); err == nil {
			t.Errorf("%.40q is a keyring", ring)
		}
	}
}

func FuzzCommit(f *testing.F) {
	const head = "tree 0123456789012345678901234567890123456789\n"
	const who = "A <a@example.com> 1 +0000\n"
	f.Add([]byte(head + "author " + who + "committer " + who + "\nm\n"))
	f.Add([]byte(head + "parent 0123456789012345678901234567890123456789\nauthor " + who + "committer " + who + "gpgsig -----BEGIN SSH SIGNATURE-----\n AAAA\n -----END SSH SIGNATURE-----\nencoding x\n\nm\n"))
	f.Add([]byte(head + "author " + who + "committer " + who + "mergetag object x\n type commit\n\nm\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := parseCommit(raw)
		if err != nil {
			return
		}
		// What is signed, put together with the signature, is the object again:
		// nothing that we read is outside of both.
		again, err := parseCommit(c.payload)
		if err != nil || again.signature != nil {
			t.Fatalf("the payload does not parse alone: %v", err)
		}
		if again.tree != c.tree || again.message != c.message || len(again.parents) != len(c.parents) || again.committer != c.committer || again.author != c.author {
			t.Fatal("the payload says something else")
		}
		if !bytes.Equal(again.payload, c.payload) {
			t.Fatal("the payload is not stable")
		}
	})
}

func FuzzTag(f *testing.F) {
	f.Add([]byte("object 0123456789012345678901234567890123456789\ntype commit\ntag v1\ntagger A <a> 1 +0000\n\nm\n-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----\n"))
	f.Add([]byte("object 0123456789012345678901234567890123456789\ntype commit\ntag v1\ntagger A <a> 1 +0000\n\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := parseTag(raw)
		if err != nil {
			return
		}
		if !bytes.Equal(append(bytes.Clone(c.payload), c.signature...), raw) {
			t.Fatal("payload and signature are not the object")
		}
		if !bytes.HasSuffix(c.payload, []byte(c.message)) {
			t.Fatal("the message is not what is signed")
		}
	})
}

func FuzzTree(f *testing.F) {
	f.Add([]byte("100644 a\x0001234567890123456789" + "40000 b\x0001234567890123456789"))
	f.Add([]byte("120000 l\x0001234567890123456789"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		entries, err := parseTree(raw)
		if err != nil {
			return
		}
		var b bytes.Buffer
		for _, e := range entries {
			b.WriteString(e.mode + " " + e.name + "\x00")
			b.Write(e.hash[:])
		}
		if !bytes.Equal(b.Bytes(), raw) {
			t.Fatal("written again it differs")
		}
	})
}

func FuzzAllowedSigners(f *testing.F) {
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
	f.Add([]byte("a@example.com " + key + "\n"))
	f.Add([]byte(`"a b",!c namespaces="git,x",valid-before="20260101Z" ` + key + " comment\n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		trust, err := Signers{AllowedSigners: file}.Parse()
		if err != nil {
			return
		}
		for _, a := range trust.ssh {
			if len(a.key) == 0 || len(a.principals) == 0 {
				t.Fatalf("%q: a line without a key or a principal", file)
			}
			if who := a.principal("a@example.com"); strings.ContainsAny(who, "\n\x00") && !bytes.ContainsAny(file, "\x00") {
				t.Fatalf("principal %q", who)
			}
		}
	})
}
