package gitsync

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

// Signers are the keys whose signature counts. They come from the operator,
// never from the repository that they vouch for.
type Signers struct {
	AllowedSigners []byte // an allowed_signers file as in ssh-keygen(1)
	Keyring        []byte // OpenPGP public keys, armored blocks or binary
}

// Empty tells whether no signer is named at all: verification is not configured.
func (s Signers) Empty() bool { return len(s.AllowedSigners) == 0 && len(s.Keyring) == 0 }

// Trust is Signers, parsed.
type Trust struct {
	ssh []allowedSigner
	pgp openpgp.EntityList
}

// VerifyCommit checks the signature of a commit object and returns who signed:
// the principal of an SSH key, the identity and key id of an OpenPGP key. at is
// the moment for which the key must be valid.
func VerifyCommit(raw []byte, signers Signers, at time.Time) (principal string, err error) {
	t, err := signers.Parse()
	if err != nil {
		return "", err
	}
	return t.Commit(raw, at)
}

// Parse reads the keys, strictly: a line that is not understood could be the
// one that was meant to take trust away.
func (s Signers) Parse() (*Trust, error) {
	t := &Trust{}
	for i, line := range strings.Split(string(s.AllowedSigners), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		a, err := parseAllowedSigner(line)
		if err != nil {
			return nil, fmt.Errorf("allowed signers, line %d: %w", i+1, err)
		}
		t.ssh = append(t.ssh, a)
	}
	if len(s.Keyring) > 0 {
		ring, err := parseKeyring(s.Keyring)
		if err != nil {
			return nil, fmt.Errorf("OpenPGP keyring: %w", err)
		}
		t.pgp = ring
	}
	if !s.Empty() && len(t.ssh) == 0 && len(t.pgp) == 0 {
		return nil, errors.New("signers are configured, but no key is among them")
	}
	return t, nil
}

// Commit checks the signature of a commit object: see [VerifyCommit].
func (t *Trust) Commit(raw []byte, at time.Time) (principal string, err error) {
	c, err := parseCommit(raw)
	if err != nil {
		return "", err
	}
	return t.check(c, at)
}

// Key tells whose an SSH key is that may sign commits at that time, by email if
// that is allowed: a line of a .pub file.
func (t *Trust) Key(line, email string, at time.Time) (principal string, err error) {
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return "", fmt.Errorf("not an OpenSSH public key: %w", err)
	}
	return t.allowed(key, email, at, "the key")
}

// allowed names whose key it is: the address if a line for the key allows it,
// else the first principal of the first line that is good.
func (t *Trust) allowed(key ssh.PublicKey, email string, at time.Time, what string) (principal string, err error) {
	err = fmt.Errorf("%s is not among the allowed signers: %s", what, ssh.FingerprintSHA256(key))
	for _, a := range t.ssh {
		if !bytes.Equal(a.key, key.Marshal()) {
			continue
		}
		if why := a.allows("git", at); why != nil {
			if principal == "" {
				err = why
			}
			continue
		}
		if name := a.principal(email); principal == "" || name == email {
			principal, err = name, nil
		}
	}
	return principal, err
}

// check verifies what parseCommit or parseTag took apart.
func (t *Trust) check(c signed, at time.Time) (string, error) {
	switch {
	case c.signature == nil:
		return "", errors.New("it is not signed")
	case bytes.HasPrefix(c.signature, []byte("-----BEGIN SSH SIGNATURE-----\n")):
		return t.checkSSH(c, at)
	case bytes.HasPrefix(c.signature, []byte("-----BEGIN PGP SIGNATURE-----\n")):
		return t.checkPGP(c, at)
	}
	return "", errors.New("its signature is neither SSH nor OpenPGP")
}

func (t *Trust) checkSSH(c signed, at time.Time) (string, error) {
	// One armored block and nothing else: the decoder skips what surrounds it.
	if rest := bytes.SplitAfterN(c.signature, []byte("-----END SSH SIGNATURE-----\n"), 2); len(rest) != 2 || len(bytes.TrimSpace(rest[1])) > 0 {
		return "", errors.New("its SSH signature is malformed")
	}
	sig, err := sshsig.Unarmor(c.signature)
	if err != nil {
		return "", fmt.Errorf("its SSH signature is malformed: %w", err)
	}
	// The namespace keeps a signature made for something else from being
	// taken for one of a commit (PROTOCOL.sshsig).
	if err := sshsig.Verify(bytes.NewReader(c.payload), sig, sig.PublicKey, sig.HashAlgorithm, "git"); err != nil {
		return "", fmt.Errorf("its SSH signature does not match: %w", err)
	}
	return t.allowed(sig.PublicKey, c.committer.email, at, "it is signed by a key that")
}

func (t *Trust) checkPGP(c signed, at time.Time) (string, error) {
	if len(t.pgp) == 0 {
		return "", errors.New("it is signed by OpenPGP, and no OpenPGP key is trusted")
	}
	e, err := openpgp.CheckArmoredDetachedSignature(t.pgp, bytes.NewReader(c.payload), bytes.NewReader(c.signature),
		&packet.Config{Time: func() time.Time { return at }})
	if err != nil {
		return "", fmt.Errorf("its OpenPGP signature does not hold: %w", err)
	}
	if e.Revoked(at) {
		return "", fmt.Errorf("it is signed by a revoked OpenPGP key: %016X", e.PrimaryKey.KeyId)
	}
	name := ""
	if id := e.PrimaryIdentity(); id != nil {
		name = id.Name + " "
	}
	return fmt.Sprintf("%s(%016X)", name, e.PrimaryKey.KeyId), nil
}

// signGit makes an SSH signature over a Git object (PROTOCOL.sshsig, namespace
// "git", as gpg.format=ssh does).
func signGit(signer ssh.Signer, payload []byte) ([]byte, error) {
	sig, err := sshsig.Sign(bytes.NewReader(payload), signer, sshsig.HashSHA512, "git")
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return sshsig.Armor(sig), nil
}

// allowedSigner is a line of allowed_signers, as in ssh-keygen(1):
//
//	principals [options] keytype base64-key [comment]
//
// principals is a comma-separated list of patterns with * and ?, those after a
// ! excluded; it may be quoted. options are cert-authority, namespaces="…",
// valid-after="…" and valid-before="…", comma-separated. Certificate
// authorities are refused: what they certify is not checked here.
type allowedSigner struct {
	principals    []string
	namespaces    []string // patterns; none means any
	after, before time.Time
	key           []byte // the SSH wire form
}

func parseAllowedSigner(line string) (a allowedSigner, err error) {
	who, rest, err := field(line)
	if err != nil {
		return a, err
	}
	a.principals = strings.Split(strings.Trim(who, `"`), ",")
	next, rest2, err := field(rest)
	if err != nil {
		return a, err
	}
	if !isKeyType(next) {
		if err := a.options(next); err != nil {
			return a, err
		}
		if next, rest2, err = field(rest2); err != nil {
			return a, err
		}
	}
	if strings.Contains(next, "-cert-v01@") {
		return a, errors.New("certificates are not supported: list the key itself")
	}
	if !isKeyType(next) {
		return a, fmt.Errorf("%q is not a key type", next)
	}
	blob, _, err := field(rest2)
	if err != nil {
		return a, errors.New("the key is missing")
	}
	if a.key, err = base64.StdEncoding.DecodeString(blob); err != nil {
		return a, fmt.Errorf("the key is not base64: %w", err)
	}
	key, err := ssh.ParsePublicKey(a.key)
	if err != nil {
		return a, fmt.Errorf("the key cannot be read: %w", err)
	}
	if key.Type() != next {
		return a, fmt.Errorf("the key is of type %s, not %s", key.Type(), next)
	}
	return a, nil
}

func isKeyType(s string) bool {
	return strings.HasPrefix(s, "ssh-") || strings.HasPrefix(s, "ecdsa-") || strings.HasPrefix(s, "sk-")
}

// field cuts the next word; blanks inside double quotes do not end it.
func field(s string) (word, rest string, err error) {
	s = strings.TrimLeft(s, " \t")
	quoted := false
	for i, r := range s {
		switch {
		case r == '"':
			quoted = !quoted
		case !quoted && (r == ' ' || r == '\t'):
			return s[:i], s[i:], nil
		}
	}
	if quoted {
		return "", "", errors.New("a quote is not closed")
	}
	if s == "" {
		return "", "", errors.New("principals, key type and key expected")
	}
	return s, "", nil
}

func (a *allowedSigner) options(s string) error {
	quoted := false
	for _, o := range strings.FieldsFunc(s, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return r == ',' && !quoted
	}) {
		name, value, _ := strings.Cut(o, "=")
		value = strings.Trim(value, `"`)
		var err error
		switch strings.ToLower(name) {
		case "namespaces":
			if value == "" {
				return errors.New("namespaces names none")
			}
			a.namespaces = strings.Split(value, ",")
		case "valid-after":
			a.after, err = parseValidity(value)
		case "valid-before":
			a.before, err = parseValidity(value)
		case "cert-authority":
			err = errors.New("cert-authority is not supported: list the keys themselves")
		default:
			err = fmt.Errorf("unknown option %q", name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// parseValidity reads YYYYMMDD[HHMM[SS]][Z]; without Z it is local time.
func parseValidity(s string) (time.Time, error) {
	digits, utc := strings.CutSuffix(strings.ToUpper(s), "Z")
	zone := time.Local
	if utc {
		zone = time.UTC
	}
	const want = "%q is not a time: YYYYMMDD or YYYYMMDDHHMMSS, with Z for UTC"
	layout, ok := map[int]string{8: "20060102", 12: "200601021504", 14: "20060102150405"}[len(digits)]
	if !ok {
		return time.Time{}, fmt.Errorf(want, s)
	}
	at, err := time.ParseInLocation(layout, digits, zone)
	if err != nil {
		return time.Time{}, fmt.Errorf(want+": %w", s, err)
	}
	return at, nil
}

func (a allowedSigner) allows(namespace string, at time.Time) error {
	switch {
	case len(a.namespaces) > 0 && !matchList(a.namespaces, namespace):
		return fmt.Errorf("the key of %s is not allowed to sign for %q", strings.Join(a.principals, ","), namespace)
	case !a.after.IsZero() && at.Before(a.after):
		return fmt.Errorf("the key of %s is valid only after %s", strings.Join(a.principals, ","), a.after.UTC().Format(time.RFC3339))
	case !a.before.IsZero() && !at.Before(a.before):
		return fmt.Errorf("the key of %s expired at %s", strings.Join(a.principals, ","), a.before.UTC().Format(time.RFC3339))
	}
	return nil
}

// principal names the signer: the committer's address where the line allows
// it, else the line's first principal.
func (a allowedSigner) principal(email string) string {
	if email != "" && matchList(a.principals, email) {
		return email
	}
	return a.principals[0]
}

// matchList is OpenSSH's match_pattern_list: some pattern matches, and none
// that is negated. Path matching would give "/" and "[" a meaning they have not.
func matchList(patterns []string, s string) bool {
	found := false
	for _, p := range patterns {
		p, not := strings.CutPrefix(strings.TrimSpace(p), "!")
		if !glob(p, s) {
			continue
		}
		if not {
			return false
		}
		found = true
	}
	return found
}

func glob(pattern, s string) bool {
	esc := strings.NewReplacer(`\`, `\\`, `[`, `\[`, "/", "\x00")
	ok, err := path.Match(esc.Replace(pattern), strings.ReplaceAll(s, "/", "\x00"))
	return err == nil && ok
}

// parseKeyring reads one or more armored blocks, or binary packets.
func parseKeyring(data []byte) (openpgp.EntityList, error) {
	if !bytes.Contains(data, []byte("-----BEGIN PGP")) {
		return openpgp.ReadKeyRing(bytes.NewReader(data))
	}
	var ring openpgp.EntityList
	const begin = "-----BEGIN PGP PUBLIC KEY BLOCK-----"
	for _, part := range strings.SplitAfter(string(data), "-----END PGP PUBLIC KEY BLOCK-----") {
		i := strings.Index(part, begin)
		if i < 0 {
			if strings.Contains(part, "-----BEGIN PGP") {
				return nil, errors.New("a block is not a public key")
			}
			continue
		}
		block, err := armor.Decode(strings.NewReader(part[i:]))
		if err != nil {
			return nil, err
		}
		keys, err := openpgp.ReadKeyRing(block.Body)
		if err != nil {
			return nil, err
		}
		// The rest of the armor carries its checksum.
		if _, err := io.Copy(io.Discard, block.Body); err != nil {
			return nil, err
		}
		ring = append(ring, keys...)
	}
	return ring, nil
}
