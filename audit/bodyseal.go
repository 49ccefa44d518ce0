package audit

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	agefile "filippo.io/age"
	"filippo.io/age/agessh"
	"golang.org/x/crypto/ssh"
)

// ParseRecipients reads those whom bodies are sealed to: each the public part
// of an SSH key as in a .pub file (ssh-ed25519, ssh-rsa), or a recipient of age
// (age1…).
func ParseRecipients(lines []string) ([]agefile.Recipient, error) {
	var all []agefile.Recipient
	for i, l := range lines {
		var r agefile.Recipient
		var err error
		if strings.HasPrefix(l, "ssh-") {
			r, err = agessh.ParseRecipient(l)
		} else {
			var rs []agefile.Recipient
			if rs, err = agefile.ParseRecipients(strings.NewReader(l)); err == nil && len(rs) != 1 {
				err = errors.New("not one recipient")
			}
			if err == nil {
				r = rs[0]
			}
		}
		if err != nil {
			return nil, fmt.Errorf("recipient %d: %w", i+1, err)
		}
		all = append(all, r)
	}
	return all, nil
}

// sealer gives what seals for the recipients; nil if there are none.
func sealer(recipients []agefile.Recipient) func([]byte) ([]byte, error) {
	if len(recipients) == 0 {
		return nil
	}
	return func(plain []byte) ([]byte, error) {
		var b bytes.Buffer
		w, err := agefile.Encrypt(&b, recipients...)
		if err == nil {
			_, err = w.Write(plain)
			err = errors.Join(err, w.Close())
		}
		if err != nil {
			return nil, fmt.Errorf("audit: seal a body: %w", err)
		}
		return b.Bytes(), nil
	}
}

// ParseIdentities reads the file of who may open sealed bodies: an OpenSSH
// private key (Ed25519 or RSA), or an identity file of age. passphrase is
// called if, and when, an encrypted SSH key is needed.
func ParseIdentities(file []byte, passphrase func() ([]byte, error)) ([]agefile.Identity, error) {
	if !bytes.HasPrefix(bytes.TrimSpace(file), []byte("-----BEGIN")) {
		ids, err := agefile.ParseIdentities(bytes.NewReader(file))
		if err != nil {
			return nil, fmt.Errorf("identity: %w", err)
		}
		return ids, nil
	}
	id, err := agessh.ParseIdentity(file)
	if locked := new(ssh.PassphraseMissingError); errors.As(err, &locked) && locked.PublicKey != nil && passphrase != nil {
		id, err = agessh.NewEncryptedSSHIdentity(locked.PublicKey, file, passphrase)
	}
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	return []agefile.Identity{id}, nil
}
