package audit

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Salts derives the salts of bodies that are not kept, so that who holds the
// secret can show that a text is the body of an entry, and nobody else can tell
// anything of a body by its digest. A salt is
//
//	HMAC-SHA256(key, origin NUL call NUL kind NUL index NUL body)
//
// of the entry's log, call, kind and place among its bodies, under a key that
// comes of the secret for nothing else. It may be given away: it opens the one
// digest. The start entry of a run names the key. The salts of bodies that are
// kept are random, and kept with them: after an erasure not even the secret
// tells what they were.
type Salts struct{ key []byte }

// NewSalts makes the salts of a secret of the enforcer's.
func NewSalts(secret []byte) *Salts {
	return &Salts{mac(secret, []byte("countersign body salts 1"))}
}

// Name is what a run's start entry calls the key: 16 hex digits, which say
// nothing of it.
func (s *Salts) Name() string { return hex.EncodeToString(mac(s.key, []byte("name"))[:8]) }

func (s *Salts) of(origin, call string, kind Kind, index int, text []byte) []byte {
	context := strings.Join([]string{origin, call, string(kind), strconv.Itoa(index), ""}, "\x00")
	return mac(s.key, []byte(context), text)
}

func mac(key []byte, parts ...[]byte) []byte {
	h := hmac.New(sha256.New, key)
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

// ErrBodyUnproven: what the salt of a body was is not known any more, or not to
// this secret.
var ErrBodyUnproven = errors.New("audit: nothing can be shown of the body")

// Prove tells whether a text is the body of an entry of the log with this
// origin, by its place among the entry's bodies, and gives the salt that shows
// it to anybody: see ProvenBy. start is the log's start entry. Errors:
// ErrBodyUnproven, or ErrBodyDiffers.
func (s *Salts) Prove(origin string, start Start, e Entry, index int, text []byte) (salt []byte, err error) {
	ref := e.Bodies[index]
	switch {
	case ref.Kept == KeptFull:
		return nil, fmt.Errorf("%w: its salt is kept with it, apart from the log", ErrBodyUnproven)
	case ref.Digest == "":
		return nil, fmt.Errorf("%w: its entry has no digest", ErrBodyUnproven)
	case start.Salts == "":
		return nil, fmt.Errorf("%w: this run threw its salts away", ErrBodyUnproven)
	case start.Salts != s.Name():
		return nil, fmt.Errorf("%w: this run's salts come of the key %s, and this is %s", ErrBodyUnproven, start.Salts, s.Name())
	}
	salt = s.of(origin, e.Call, e.Kind, index, text)
	return salt, ProvenBy(salt, ref, text)
}

// ProvenBy tells whether a salt shows that a text is the body that an entry
// names; ErrBodyDiffers if not.
func ProvenBy(salt []byte, ref BodyRef, text []byte) error {
	if got := bodyDigest(salt, text); got != ref.Digest || int64(len(text)) != ref.Size || len(salt) != saltBytes {
		return fmt.Errorf("%w: the entry has %d bytes with digest %s, these are %d bytes with digest %s",
			ErrBodyDiffers, ref.Size, ref.Digest, len(text), got)
	}
	return nil
}
