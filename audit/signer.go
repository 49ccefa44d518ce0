package audit

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"

	"golang.org/x/crypto/ssh"
)

// Signer is a key that signs, wherever it lives: a file, or a service that
// never shows it. Ed25519 for now; the zero Signer is none.
type Signer struct {
	Public ed25519.PublicKey
	// Sign signs the message itself (RFC 8032, no prehash), within a time of
	// its own choosing. It may be called by several goroutines at once.
	Sign func(ctx context.Context, msg []byte) ([]byte, error)
}

// KeySigner signs with a key in memory.
func KeySigner(key ed25519.PrivateKey) Signer {
	if len(key) != ed25519.PrivateKeySize {
		return Signer{}
	}
	return Signer{
		Public: key.Public().(ed25519.PublicKey),
		Sign:   func(_ context.Context, msg []byte) ([]byte, error) { return ed25519.Sign(key, msg), nil },
	}
}

// ok tells whether there is a key at all.
func (s Signer) ok() bool { return len(s.Public) == ed25519.PublicKeySize && s.Sign != nil }

// sign signs, and looks at what came back: a key may live behind a network,
// and may have been exchanged there.
func (s Signer) sign(ctx context.Context, msg []byte) ([]byte, error) {
	if !s.ok() {
		return nil, errors.New("there is no Ed25519 key to sign with")
	}
	sig, err := s.Sign(ctx, msg)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	if !ed25519.Verify(s.Public, msg, sig) {
		return nil, errors.New("sign: the signature is not by the key that was agreed on")
	}
	return sig, nil
}

// SSH is the same key for whoever signs in the ways of OpenSSH: the commits of
// the record, and the hand-over from one key to the next.
func (s Signer) SSH() (ssh.Signer, error) {
	pub, err := ssh.NewPublicKey(s.Public)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	return sshSigner{s, pub}, nil
}

type sshSigner struct {
	key Signer
	pub ssh.PublicKey
}

// PublicKey implements ssh.Signer.
func (s sshSigner) PublicKey() ssh.PublicKey { return s.pub }

// Sign implements ssh.Signer, which knows no context: the key bounds its time.
func (s sshSigner) Sign(_ io.Reader, data []byte) (*ssh.Signature, error) {
	sig, err := s.key.sign(context.Background(), data)
	if err != nil {
		return nil, err
	}
	return &ssh.Signature{Format: s.pub.Type(), Blob: sig}, nil
}

// PublicLine gives a public key as in OpenSSH's .pub files, without a comment
// and a line feed.
func PublicLine(key ed25519.PublicKey) (string, error) {
	pub, err := ssh.NewPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("audit: %w", err)
	}
	line := ssh.MarshalAuthorizedKey(pub)
	return string(line[:len(line)-1]), nil
}
