package enforcer

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"

	"golang.org/x/crypto/chacha20poly1305"
)

// sealer makes what lies in the store, which others may read, unreadable and
// unchangeable: XChaCha20-Poly1305, whose nonce is long enough to be random,
// under a key of its own that comes of the digest key. All enforcers of one
// store have that, and each run of one on its state directory, so any of them
// opens what another has sealed. (approval.Seal is for what leaves for a client.)
type sealer struct{ aead cipher.AEAD }

func newSealer(digestKey []byte) (sealer, error) {
	key, err := hkdf.Key(sha256.New, digestKey, nil, "countersign enforcer: kept", chacha20poly1305.KeySize)
	if err != nil {
		return sealer{}, err
	}
	aead, err := chacha20poly1305.NewX(key)
	return sealer{aead}, err
}

// seal returns nonce and sealed text. Where it belongs is bound to it: open
// must name the same place.
func (s sealer) seal(plain []byte, place string) []byte {
	nonce := make([]byte, s.aead.NonceSize(), s.aead.NonceSize()+len(plain)+s.aead.Overhead())
	rand.Read(nonce) // crypto/rand.Read never fails
	return s.aead.Seal(nonce, nonce, plain, []byte(place))
}

var errSealed = errors.New("it was not sealed here, or was changed since")

func (s sealer) open(sealed []byte, place string) ([]byte, error) {
	n := s.aead.NonceSize()
	if len(sealed) < n {
		return nil, errSealed
	}
	plain, err := s.aead.Open(nil, sealed[:n], sealed[n:], []byte(place))
	if err != nil {
		return nil, errSealed
	}
	return plain, nil
}
