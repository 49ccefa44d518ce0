package audit

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrUnknownLog is returned for a checkpoint of an enforcer whose key nobody
// gave us.
var ErrUnknownLog = errors.New("no key is known for this enforcer")

// PeerKeys are the checkpoint keys of enforcers, by their names; those under ""
// may speak for every enforcer.
type PeerKeys map[string][]ed25519.PublicKey

// ParsePeerKeys reads checkpoint keys, one a line: an OpenSSH public key
// (ssh-ed25519), and before it the name of the enforcer whose key it is. A key
// without a name may speak for every enforcer. Empty lines and lines that begin
// with # are skipped.
//
//	prod-1 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI… checkpoints
func ParsePeerKeys(file []byte) (PeerKeys, error) {
	keys := PeerKeys{}
	for i, l := range strings.Split(string(file), "\n") {
		if l = strings.TrimSpace(l); l == "" || l[0] == '#' {
			continue
		}
		name := ""
		if first, rest, _ := strings.Cut(l, " "); !strings.HasPrefix(first, "ssh-") {
			if err := checkName("enforcer", first); err != nil {
				return nil, fmt.Errorf("checkpoint keys: line %d: %w", i+1, err)
			}
			name, l = first, strings.TrimSpace(rest)
		}
		key, err := ParsePublicKeys([]byte(l))
		if err != nil || len(key) != 1 {
			return nil, fmt.Errorf("checkpoint keys: line %d is not [<enforcer>] ssh-ed25519 <key>", i+1)
		}
		keys[name] = append(keys[name], key[0])
	}
	if len(keys) == 0 {
		return nil, errors.New("checkpoint keys: none in the file")
	}
	return keys, nil
}

// Open parses a signed note, and checks that its enforcer's key signed it:
// ErrUnknownLog if none is known; otherwise as OpenCheckpoint.
func (k PeerKeys) Open(signed string) (Checkpoint, error) {
	c, err := ReadCheckpoint(signed)
	if err != nil {
		return Checkpoint{}, err
	}
	enforcer, _, _ := strings.Cut(c.Origin, "/")
	keys := slices.Concat(k[enforcer], k[""])
	if len(keys) == 0 {
		return Checkpoint{}, fmt.Errorf("%w: %s", ErrUnknownLog, enforcer)
	}
	return OpenCheckpoint(signed, keys)
}
