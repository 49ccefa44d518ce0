package approval

import (
	"bytes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/chacha20poly1305"
)

// ErrSealed is why something that should be ours, coming back from outside,
// is not taken.
var ErrSealed = errors.New("it was not made here, was changed, or is too old")

// maxSealed bounds what Open looks at: it comes out of cookies and URLs.
const maxSealed = 8 << 10

// A Seal closes what leaves for a browser, or for Slack, and comes back: nobody
// outside reads or changes it, nor uses it for another purpose, nor after its
// time. Every process that holds the same key opens it, also after a restart.
// That it is used once is for the user of the package to see to.
//
// Its form is base64url, without padding, of a random nonce of 24 bytes and the
// XChaCha20-Poly1305 box of: the time until which it holds, as 8 bytes of Unix
// seconds, big endian; and a JSON value. The additional data are the purpose.
type Seal struct {
	box cipher.AEAD
	mac []byte
}

// NewSeal derives what it needs from a key of 32 bytes or more, which may serve
// other things too.
func NewSeal(key []byte) (Seal, error) {
	if len(key) < 32 {
		return Seal{}, fmt.Errorf("approval: a seal's key has %d bytes: want 32", len(key))
	}
	boxKey, err := hkdf.Key(sha256.New, key, nil, "countersign approvals: seal", chacha20poly1305.KeySize)
	if err != nil {
		return Seal{}, fmt.Errorf("approval: seal: %w", err)
	}
	mac, err := hkdf.Key(sha256.New, key, nil, "countersign approvals: mark", sha256.Size)
	if err != nil {
		return Seal{}, fmt.Errorf("approval: seal: %w", err)
	}
	box, err := chacha20poly1305.NewX(boxKey)
	if err != nil {
		return Seal{}, fmt.Errorf("approval: seal: %w", err)
	}
	return Seal{box, mac}, nil
}

// Close seals v, which is plain data, for the purpose until then.
func (s Seal) Close(purpose string, until time.Time, v any) (string, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("approval: seal %s: %w", purpose, err)
	}
	nonce := make([]byte, chacha20poly1305.NonceSizeX)
	_, _ = rand.Read(nonce) // crypto/rand.Read never fails
	plain := binary.BigEndian.AppendUint64(nil, uint64(until.Unix()))
	sealed := s.box.Seal(nonce, nonce, append(plain, raw...), []byte(purpose))
	return base64.RawURLEncoding.EncodeToString(sealed), nil
}

// Open is the reverse. Every failure is ErrSealed.
func (s Seal) Open(purpose, sealed string, now time.Time, v any) error {
	if len(sealed) > maxSealed {
		return ErrSealed
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(sealed)
	if err != nil || len(raw) < chacha20poly1305.NonceSizeX {
		return ErrSealed
	}
	plain, err := s.box.Open(nil, raw[:chacha20poly1305.NonceSizeX], raw[chacha20poly1305.NonceSizeX:], []byte(purpose))
	if err != nil || len(plain) < 8 {
		return ErrSealed
	}
	if until := int64(binary.BigEndian.Uint64(plain)); now.Unix() >= until {
		return ErrSealed
	}
	d := json.NewDecoder(bytes.NewReader(plain[8:]))
	d.DisallowUnknownFields() // sealed by another version: better done anew
	if err := d.Decode(v); err != nil {
		return ErrSealed
	}
	return nil
}

// Mark is a text that only a holder of the key can make of what, for the
// purpose; it says nothing about it.
func (s Seal) Mark(purpose, what string) string {
	h := hmac.New(sha256.New, s.mac)
	for _, part := range []string{purpose, what} {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		h.Write([]byte(part))
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// Marked tells, in constant time, whether mark is what Mark makes.
func (s Seal) Marked(purpose, what, mark string) bool {
	return hmac.Equal([]byte(s.Mark(purpose, what)), []byte(mark))
}
