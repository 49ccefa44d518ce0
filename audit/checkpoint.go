package audit

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"math/bits"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// ErrCheckpoint is returned for a checkpoint that does not read or verify.
var ErrCheckpoint = errors.New("checkpoint")

// maxNote bounds a signed checkpoint; witnesses may add a line each.
const maxNote = 64 << 10

// Checkpoint is a statement about an incarnation's first Size entries.
type Checkpoint struct {
	Origin string    `json:"origin"` // <enforcer>/<incarnation>
	Size   uint64    `json:"size"`
	Root   tlog.Hash `json:"root"` // RFC 6962 §2.1
}

// text is the body of a checkpoint (c2sp.org/tlog-checkpoint): origin, size
// in decimal, root in base64, a line each; this log writes no extension lines.
func (c Checkpoint) text() string {
	return fmt.Sprintf("%s\n%d\n%s\n", c.Origin, c.Size, base64.StdEncoding.EncodeToString(c.Root[:]))
}

// ReadCheckpoint parses a signed note without looking at its signatures: what
// it says is a claim.
func ReadCheckpoint(signed string) (Checkpoint, error) {
	if len(signed) > maxNote {
		return Checkpoint{}, fmt.Errorf("%w: %d bytes", ErrCheckpoint, len(signed))
	}
	text, _, ok := strings.Cut(signed, "\n\n")
	lines := strings.Split(text, "\n")
	if !ok || len(lines) != 3 {
		return Checkpoint{}, fmt.Errorf("%w: not three lines and a signature", ErrCheckpoint)
	}
	c := Checkpoint{Origin: lines[0]}
	enforcer, id, ok := strings.Cut(c.Origin, "/")
	if !ok || checkName("", enforcer) != nil || checkName("", id) != nil {
		return Checkpoint{}, fmt.Errorf("%w: origin %q is not <enforcer>/<incarnation>", ErrCheckpoint, c.Origin)
	}
	var err error
	if c.Size, err = strconv.ParseUint(lines[1], 10, 63); err != nil {
		return Checkpoint{}, fmt.Errorf("%w: size: %v", ErrCheckpoint, err)
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize {
		return Checkpoint{}, fmt.Errorf("%w: root %q is not a hash", ErrCheckpoint, lines[2])
	}
	copy(c.Root[:], root)
	if c.text() != text+"\n" {
		return Checkpoint{}, fmt.Errorf("%w: not as it would be written", ErrCheckpoint)
	}
	return c, nil
}

// OpenCheckpoint parses a signed note and checks that one of the keys signed
// it under its origin's name. Lines of other signers are ignored.
func OpenCheckpoint(signed string, keys []ed25519.PublicKey) (Checkpoint, error) {
	c, err := ReadCheckpoint(signed)
	if err != nil {
		return Checkpoint{}, err
	}
	var why error
	for _, k := range keys {
		v, err := verifier(c.Origin, k)
		if err != nil {
			return Checkpoint{}, err
		}
		if _, err := note.Open([]byte(signed), note.VerifierList(v)); err == nil {
			return c, nil
		} else {
			why = err
		}
	}
	if why == nil {
		why = errors.New("no key was given to check it with")
	}
	return Checkpoint{}, fmt.Errorf("%w of %s, size %d: not signed by a checkpoint key that you trust (%w)", ErrCheckpoint, c.Origin, c.Size, why)
}

func verifier(name string, key ed25519.PublicKey) (note.Verifier, error) {
	vkey, err := note.NewEd25519VerifierKey(name, key)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrCheckpoint, err)
	}
	return note.NewVerifier(vkey)
}

// noteSigner signs with a Signer, not with a key in note's own form.
type noteSigner struct {
	note.Verifier
	ctx context.Context // note.Signer has no room for one
	key Signer
}

func (s noteSigner) Sign(msg []byte) ([]byte, error) { return s.key.sign(s.ctx, msg) }

// Sign makes the signed note (c2sp.org/signed-note) of a checkpoint. The
// key's name is the origin.
func (c Checkpoint) Sign(key ed25519.PrivateKey) (string, error) {
	return c.SignWith(context.Background(), KeySigner(key))
}

// SignWith makes the signed note with a line for each key, in their order.
func (c Checkpoint) SignWith(ctx context.Context, keys ...Signer) (string, error) {
	var signers []note.Signer
	for _, k := range keys {
		if !k.ok() {
			return "", fmt.Errorf("%w: not an Ed25519 key", ErrCheckpoint)
		}
		v, err := verifier(c.Origin, k.Public)
		if err != nil {
			return "", err
		}
		signers = append(signers, noteSigner{v, ctx, k})
	}
	b, err := note.Sign(&note.Note{Text: c.text()}, signers...)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrCheckpoint, err)
	}
	return string(b), nil
}

// ParsePrivateKey reads the checkpoint key: an unencrypted OpenSSH private key
// file of type ed25519, as made by ssh-keygen -t ed25519 -N "".
func ParsePrivateKey(pem []byte) (ed25519.PrivateKey, error) {
	k, err := ssh.ParseRawPrivateKey(pem)
	if err != nil {
		return nil, fmt.Errorf("checkpoint key: %w", err)
	}
	if k, ok := k.(*ed25519.PrivateKey); ok {
		return *k, nil
	}
	return nil, fmt.Errorf("checkpoint key: it is a %T; make one with ssh-keygen -t ed25519", k)
}

// parsePublicKey reads an Ed25519 key in the form of a line of an OpenSSH .pub
// file.
func parsePublicKey(line string) (ed25519.PublicKey, error) {
	k, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil || len(options) > 0 || len(rest) > 0 {
		return nil, errors.New("not an OpenSSH public key")
	}
	if ck, ok := k.(ssh.CryptoPublicKey); ok {
		if pub, ok := ck.CryptoPublicKey().(ed25519.PublicKey); ok {
			return pub, nil
		}
	}
	return nil, fmt.Errorf("it is a %s key; they are ssh-ed25519", k.Type())
}

// edge is the right edge of an RFC 6962 tree: the roots of its perfect
// subtrees, the largest first, one for each bit set in size. It is all that is
// needed to add leaves and to compute roots from there on.
type edge struct {
	size   uint64
	hashes []tlog.Hash
}

func (t *edge) add(leaf tlog.Hash) {
	for s := t.size; s&1 == 1; s >>= 1 {
		last := len(t.hashes) - 1
		leaf = tlog.NodeHash(t.hashes[last], leaf)
		t.hashes = t.hashes[:last]
	}
	t.hashes = append(t.hashes, leaf)
	t.size++
}

func (t *edge) root() tlog.Hash {
	if t.size == 0 {
		return sha256.Sum256(nil)
	}
	h := t.hashes[len(t.hashes)-1]
	for i := len(t.hashes) - 2; i >= 0; i-- {
		h = tlog.NodeHash(t.hashes[i], h)
	}
	return h
}

func (t *edge) clone() edge {
	return edge{t.size, append([]tlog.Hash(nil), t.hashes...)}
}

// with gives the edge after the leaves.
func (t *edge) with(leaves []tlog.Hash) edge {
	n := t.clone()
	for _, l := range leaves {
		n.add(l)
	}
	return n
}

// appendBase encodes an edge as the file "base", which a month's branch has if
// the tree did not begin in it: the size in decimal, then the hashes in base64,
// a line each. Nobody signs it, and nobody need trust it: the month's first
// checkpoint holds only if it is right.
func (t *edge) appendBase(b []byte) []byte {
	b = fmt.Appendf(b, "%d\n", t.size)
	for _, h := range t.hashes {
		b = append(base64.StdEncoding.AppendEncode(b, h[:]), '\n')
	}
	return b
}

func parseBase(b []byte) (edge, error) {
	bad := fmt.Errorf("file base is not a size and the hashes of a tree's edge")
	if len(b) > 4096 {
		return edge{}, bad
	}
	lines := strings.Split(string(b), "\n")
	n, err := strconv.ParseUint(lines[0], 10, 63)
	if err != nil || len(lines) != bits.OnesCount64(n)+2 {
		return edge{}, bad
	}
	t := edge{size: n}
	for _, l := range lines[1 : len(lines)-1] {
		h, err := base64.StdEncoding.DecodeString(l)
		if err != nil || len(h) != tlog.HashSize {
			return edge{}, bad
		}
		t.hashes = append(t.hashes, tlog.Hash(h))
	}
	if string(t.appendBase(nil)) != string(b) {
		return edge{}, bad
	}
	return t, nil
}
