package audit

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

// StatusRotated is the status of a KindKey entry.
const StatusRotated = "rotated"

// What a key of the record is used for.
const (
	UseCheckpoint = "checkpoint"
	UseCommit     = "commit"
)

// rotationNamespace keeps a signature under a rotation from being taken for one
// under anything else (PROTOCOL.sshsig).
const rotationNamespace = "countersign-key-rotation"

// Rotation is the detail of a KindKey entry: one key of an enforcer is replaced
// by another, and the old one says so. Who trusts the old key for this use
// trusts the new one from this entry on; meanwhile, for as long as the operator
// has both, checkpoints carry a line of each.
//
// The signature is an SSHSIG, armored, in the namespace
// countersign-key-rotation, over the line
//
//	countersign-key-rotation v1 <enforcer> <use> <new key>
//
// with its line feed; keys are as in OpenSSH's .pub files, without a comment.
type Rotation struct {
	Use       string `json:"use"` // UseCheckpoint or UseCommit
	Enforcer  string `json:"enforcer"`
	Old       string `json:"old"`
	New       string `json:"new"`
	Signature string `json:"signature"`
}

// Rotate has the old key of an enforcer say what the new one is.
func Rotate(enforcer, use string, old Signer, new ed25519.PublicKey) (Rotation, error) {
	var r Rotation
	was, err := PublicLine(old.Public)
	if err != nil {
		return r, err
	}
	is, err := PublicLine(new)
	if err != nil {
		return r, err
	}
	r = Rotation{Use: use, Enforcer: enforcer, Old: was, New: is}
	key, err := old.SSH()
	if err != nil {
		return r, err
	}
	sig, err := sshsig.Sign(bytes.NewReader(r.text()), key, sshsig.HashSHA512, rotationNamespace)
	if err != nil {
		return r, fmt.Errorf("audit: rotation of the %s key: %w", use, err)
	}
	r.Signature = string(sshsig.Armor(sig))
	_, _, err = r.Keys()
	return r, err
}

// RotatedIn gives the index of the first of earlier runs, oldest first, that
// says that this key is the new one; their number if none on this disk does.
// Who trusts the old key does not know the new one before that entry: what is
// left to publish of the runs before it, the old key signs.
func RotatedIn(past []*Past, use string, key ed25519.PublicKey) (int, error) {
	line, err := PublicLine(key)
	if err != nil {
		return 0, err
	}
	for i, p := range past {
		for e, err := range p.Read() {
			if err != nil {
				return 0, err
			}
			var r Rotation
			if e.Kind == KindKey && json.Unmarshal(e.Detail, &r) == nil && r.Use == use && r.New == line {
				return i, nil
			}
		}
	}
	return len(past), nil
}

func (r Rotation) text() []byte {
	return fmt.Appendf(nil, "%s v1 %s %s %s\n", rotationNamespace, r.Enforcer, r.Use, r.New)
}

// Keys gives the two keys, if the old one has signed the new one. Whether the
// old one is trusted is for the caller to say.
func (r Rotation) Keys() (old, new ed25519.PublicKey, err error) {
	if r.Use != UseCheckpoint && r.Use != UseCommit || checkName("", r.Enforcer) != nil {
		return nil, nil, fmt.Errorf("audit: no rotation of a %q key of %q is known", r.Use, r.Enforcer)
	}
	if old, err = parsePublicLine(r.Old); err != nil {
		return nil, nil, err
	}
	if new, err = parsePublicLine(r.New); err != nil {
		return nil, nil, err
	}
	if old.Equal(new) {
		return nil, nil, errors.New("audit: the key is replaced by itself")
	}
	sig, err := sshsig.Unarmor([]byte(r.Signature))
	if err != nil {
		return nil, nil, fmt.Errorf("audit: the old key's signature does not read: %w", err)
	}
	pub, err := ssh.NewPublicKey(old)
	if err != nil {
		return nil, nil, fmt.Errorf("audit: %w", err)
	}
	if err := sshsig.Verify(bytes.NewReader(r.text()), sig, pub, sig.HashAlgorithm, rotationNamespace); err != nil {
		return nil, nil, fmt.Errorf("audit: the old key did not sign the new one: %w", err)
	}
	return old, new, nil
}

// parsePublicLine reads what PublicLine wrote, and nothing else.
func parsePublicLine(line string) (ed25519.PublicKey, error) {
	key, err := parsePublicKey(line)
	if err != nil {
		return nil, fmt.Errorf("audit: a public key: %w", err)
	}
	if again, err := PublicLine(key); err != nil || again != line {
		return nil, errors.New("audit: a public key is not as it would be written")
	}
	return key, nil
}
