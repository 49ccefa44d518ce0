package audit

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/mod/sumdb/note"
)

// ErrUnknownLog is returned for a checkpoint of an enforcer whose key nobody
// gave us.
var ErrUnknownLog = errors.New("no key is known for this enforcer")

// LogKeys are the keys that may sign checkpoints, by whose they are: an
// enforcer's name, for all its logs, or the origin of one log. Those under ""
// may sign for every enforcer: nobody said whose they are.
type LogKeys map[string][]ed25519.PublicKey

// ParseLogKeys reads checkpoint keys, one a line: an OpenSSH public key
// (ssh-ed25519), and before it the name of the enforcer whose key it is; or a
// vkey (c2sp.org/signed-note), whose name is that of an enforcer or a log. A key
// without a name may sign for every enforcer: comments say nothing, since
// ssh-keygen makes them up. One that several enforcers have is there once for
// each. Empty lines and lines that begin with # are skipped.
//
//	prod-1 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI… a comment
//	prod-1/r4kq2m7+3f9c2e1a+AZ3Grl…
func ParseLogKeys(file []byte) (LogKeys, error) {
	keys := LogKeys{}
	for i, l := range strings.Split(string(file), "\n") {
		if l = strings.TrimSpace(l); l == "" || l[0] == '#' {
			continue
		}
		first, rest, _ := strings.Cut(l, " ")
		var whose string
		var key ed25519.PublicKey
		var err error
		switch {
		case strings.Contains(first, "+"):
			whose, key, err = parseLogVkey(l)
		case strings.HasPrefix(first, "ssh-") && !strings.HasPrefix(strings.TrimSpace(rest), "ssh-"): // else an enforcer is called so
			key, err = parsePublicKey(l)
		case first == "cert-authority":
			err = errors.New("certificates are not supported: list the key itself")
		default:
			if err = checkName("enforcer", first); err == nil {
				whose = first
				key, err = parsePublicKey(strings.TrimSpace(rest))
			}
		}
		if err != nil {
			return nil, fmt.Errorf("checkpoint keys: line %d is not [<enforcer>] ssh-ed25519 <key>, nor a log's vkey: %w", i+1, err)
		}
		keys[whose] = append(keys[whose], key)
	}
	if len(keys) == 0 {
		return nil, errors.New("checkpoint keys: none in the file")
	}
	return keys, nil
}

// parseLogVkey reads the vkey of a log of ours: <name>+<hash>+<base64 of 1 and
// the key>.
func parseLogVkey(vkey string) (whose string, key ed25519.PublicKey, err error) {
	v, err := note.NewVerifier(vkey) // its hash is that of name and key; Ed25519
	if err != nil {
		return "", nil, err
	}
	enforcer, run, isLog := strings.Cut(v.Name(), "/")
	if err := checkName("enforcer", enforcer); err != nil {
		return "", nil, err
	}
	if isLog {
		if err := checkName("run", run); err != nil {
			return "", nil, err
		}
	}
	_, b64, _ := strings.Cut(vkey[len(v.Name())+1:], "+")
	b, err := base64.StdEncoding.DecodeString(b64)
	if err != nil || len(b) != 1+ed25519.PublicKeySize {
		return "", nil, errors.New("not an Ed25519 key")
	}
	return v.Name(), ed25519.PublicKey(b[1:]), nil
}

// Of gives the keys that may sign a log's checkpoints.
func (k LogKeys) Of(origin string) []ed25519.PublicKey {
	enforcer, _, _ := strings.Cut(origin, "/")
	return slices.Concat(k[origin], k[enforcer], k[""])
}

// Open parses a signed note, and checks that a key of its log signed it:
// ErrUnknownLog if none is known; otherwise as OpenCheckpoint.
func (k LogKeys) Open(signed string) (Checkpoint, error) {
	c, _, err := k.openWith(signed, nil)
	return c, err
}

// openWith is Open, with further keys of the log; it gives those that signed, as
// lines of .pub files.
func (k LogKeys) openWith(signed string, more []ed25519.PublicKey) (c Checkpoint, by []string, err error) {
	if c, err = ReadCheckpoint(signed); err != nil {
		return Checkpoint{}, nil, err
	}
	keys := append(k.Of(c.Origin), more...)
	enforcer, _, _ := strings.Cut(c.Origin, "/")
	if len(keys) == 0 {
		return Checkpoint{}, nil, fmt.Errorf("%w: %w: %s", ErrCheckpoint, ErrUnknownLog, enforcer)
	}
	for _, key := range keys {
		if _, err = OpenCheckpoint(signed, []ed25519.PublicKey{key}); err != nil {
			continue
		}
		line, err := PublicLine(key)
		if err != nil {
			return Checkpoint{}, nil, err
		}
		by = append(by, line)
	}
	if len(by) > 0 {
		slices.Sort(by)
		return c, slices.Compact(by), nil
	}
	_, err = OpenCheckpoint(signed, keys)
	for _, whose := range slices.Sorted(maps.Keys(k)) {
		if _, stranger := OpenCheckpoint(signed, k[whose]); stranger == nil {
			return Checkpoint{}, nil, fmt.Errorf("%w of %s, size %d: it is signed by %s's key, and this is a log of %s; a key that both have must be listed for both", ErrCheckpoint, c.Origin, c.Size, whose, enforcer)
		}
	}
	return Checkpoint{}, nil, err
}

// Unnamed says in a sentence which keys may sign for every enforcer, since
// nobody said whose they are; "" if there are none.
func (k LogKeys) Unnamed() string {
	var all []string
	for _, key := range k[""] {
		if pub, err := ssh.NewPublicKey(key); err == nil { // it was one when it was read
			all = append(all, ssh.FingerprintSHA256(pub))
		}
	}
	if len(all) == 0 {
		return ""
	}
	return fmt.Sprintf("%s given without an enforcer's name, and may sign the logs of every enforcer: %s",
		plural(len(all), "a checkpoint key is", "checkpoint keys are"), strings.Join(all, ", "))
}
