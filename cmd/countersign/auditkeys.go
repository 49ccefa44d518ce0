package main

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/hashicorp/vault/api"
	"golang.org/x/crypto/ssh"

	"countersign/audit"
	"countersign/enforcer/credential/transit"
	"countersign/enforcer/mask"
)

// auditKey is where one key of the record is: in a file, or in Vault.
type auditKey struct {
	variable, use, pem, vault string
	previous                  bool
}

func (c config) auditKeys() []auditKey {
	const commit, checkpoint = "COUNTERSIGN_AUDIT_COMMIT_KEY", "COUNTERSIGN_AUDIT_CHECKPOINT_KEY"
	return []auditKey{
		{commit, audit.UseCommit, c.AuditCommitKey, c.AuditCommitVault, false},
		{checkpoint, audit.UseCheckpoint, c.AuditCheckpointKey, c.AuditCheckpointVault, false},
		{commit + "_PREVIOUS", audit.UseCommit, c.AuditCommitPrevious, c.AuditCommitPrevVault, true},
		{checkpoint + "_PREVIOUS", audit.UseCheckpoint, c.AuditCheckpointPrevious, c.AuditCheckpointPrevVault, true},
	}
}

// checkAuditKeys says what is wrong with the record's keys, as far as that can
// be said before Vault is asked.
func (c config) checkAuditKeys() (problems []string) {
	seen := map[string]string{}
	for _, k := range c.auditKeys() {
		switch {
		case k.pem != "" && k.vault != "":
			problems = append(problems, fmt.Sprintf("%s and %s_VAULT are both set: choose one", k.variable, k.variable))
		case k.pem == "" && k.vault == "" && !k.previous:
			problems = append(problems, fmt.Sprintf("%s is missing: %s", k.variable, fieldHelp(k.variable)))
		case k.vault != "":
			if _, _, _, err := transit.ParseName(k.vault); err != nil {
				problems = append(problems, fmt.Sprintf("%s_VAULT: %v", k.variable, err))
			}
			if c.VaultAddr == "" {
				problems = append(problems, fmt.Sprintf("%s_VAULT: want VAULT_ADDR beside it", k.variable))
			}
		}
		for _, where := range []string{k.pem, k.vault} {
			if other := seen[where]; other != "" {
				problems = append(problems, sameKey(k.variable, other))
			} else if where != "" {
				seen[where] = k.variable
			}
		}
	}
	return problems
}

func sameKey(variable, other string) string {
	return fmt.Sprintf("%s: is the key of %s: want another one, so that one stolen key does not forge both, and that a new key is new", variable, other)
}

// recordKeys are the record's keys, ready to sign.
type recordKeys struct {
	now, before map[string]audit.Signer // by use; before: while keys change
	vault       *transit.Vault          // nil: none is in Vault
}

// openKeys reads the keys that are in files, and finds those that are in
// Vault, for which it waits while Vault is sealed or away.
func openKeys(ctx context.Context, c config, m *mask.Mask, log *slog.Logger) (keys recordKeys, err error) {
	keys = recordKeys{now: map[string]audit.Signer{}, before: map[string]audit.Signer{}}
	seen := map[string]string{}
	for _, k := range c.auditKeys() {
		var s audit.Signer
		switch {
		case k.pem != "":
			private, err := audit.ParsePrivateKey([]byte(k.pem + "\n"))
			if err != nil {
				return keys, fmt.Errorf("%s: %w", k.variable, err)
			}
			s = audit.KeySigner(private)
		case k.vault != "":
			if keys.vault == nil {
				if keys.vault, err = c.transitVault(m, log); err != nil {
					return keys, err
				}
			}
			key, err := keys.vault.Open(ctx, k.vault)
			if err != nil {
				return keys, fmt.Errorf("%s_VAULT: %w", k.variable, err)
			}
			log.Info("the record is signed in Vault", "use", k.use, "key", key.Path, "version", key.Version, "previous", k.previous)
			s = audit.Signer{Public: key.Public, Sign: key.Sign}
		default:
			continue
		}
		if other := seen[string(s.Public)]; other != "" {
			return keys, errors.New(sameKey(k.variable, other))
		}
		seen[string(s.Public)] = k.variable
		if k.previous {
			keys.before[k.use] = s
		} else {
			keys.now[k.use] = s
		}
	}
	return keys, nil
}

// transitVault is the login to Vault by which the record is signed: of its own,
// since it is needed before leases are minted, and after.
func (c config) transitVault(m *mask.Mask, log *slog.Logger) (*transit.Vault, error) {
	vc := api.DefaultConfig() // reads Vault's own VAULT_* variables
	if vc.Error != nil {
		return nil, fmt.Errorf("VAULT_*: %w", vc.Error)
	}
	vc.Address = c.VaultAddr
	client, err := api.NewClient(vc)
	if err != nil {
		return nil, fmt.Errorf("VAULT_*: %w", err)
	}
	login, err := c.vaultLogin(m)
	if err != nil {
		return nil, err
	}
	return transit.New(transit.Config{Client: client, Login: login, Keep: c.VaultAuth == "token", Mask: m, Log: log}), nil
}

func (k recordKeys) close(ctx context.Context) error {
	if k.vault == nil {
		return nil
	}
	return k.vault.Close(ctx)
}

// keysFile notes in the state directory which keys signed last: public keys, by
// use.
const keysFile = "audit-keys.json"

func lastKeys(stateDir string) (map[string]string, error) {
	last := map[string]string{}
	b, err := os.ReadFile(filepath.Join(stateDir, keysFile))
	if errors.Is(err, fs.ErrNotExist) {
		return last, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &last)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(stateDir, keysFile), err)
	}
	return last, nil
}

// rotate writes into the record which key was replaced by which, signed by the
// one that was, for those that changed since the last start. A key that changed
// without its predecessor at hand is told of loudly: whoever trusts the old one
// has to be given the new one by other ways.
func (r *record) rotate(ctx context.Context) error {
	last, err := lastKeys(r.config.StateDir)
	if err != nil {
		return err
	}
	changed := false
	for _, use := range []string{audit.UseCommit, audit.UseCheckpoint} {
		now, err := audit.PublicLine(r.keys.now[use].Public)
		if err != nil {
			return err
		}
		if last[use] == now {
			continue
		}
		changed = true
		before, rotating := r.keys.before[use]
		if rotating {
			if err := r.rotated(ctx, use, before, r.keys.now[use].Public, last[use]); err != nil {
				return err
			}
		} else if last[use] != "" || r.strange(use) {
			r.log.Error("the record is signed by another key than before, and nothing in it says that this is right: set the variable that ends in _KEY_PREVIOUS to the old one, or give auditors the new one in another way",
				"use", use, "old", last[use], "new", now)
		}
		last[use] = now
	}
	if !changed {
		return nil
	}
	b, err := json.Marshal(last)
	if err != nil {
		return err
	}
	return writeKept(filepath.Join(r.config.StateDir, keysFile), b)
}

func (r *record) rotated(ctx context.Context, use string, before audit.Signer, now ed25519.PublicKey, last string) error {
	rotation, err := audit.Rotate(r.config.ID, use, before, now)
	if err != nil {
		return err
	}
	if last != "" && rotation.Old != last {
		return fmt.Errorf("the previous %s key is %s, and the record was last signed by %s: want that one, or none", use, rotation.Old, last)
	}
	detail, err := audit.Detail(rotation)
	if err != nil {
		return err
	}
	if _, err := r.journal.Append(ctx, audit.Entry{Kind: audit.KindKey, Status: audit.StatusRotated, Reason: "the " + use + " key was replaced", Detail: detail}); err != nil {
		return err
	}
	r.log.Info("a key of the record was replaced", "use", use, "old", rotation.Old, "new", rotation.New)
	return nil
}

// outgoing is the commit key before, and the earlier runs that it signs to their
// end: those before the entry by which it is replaced. The zero one has none.
type outgoing struct {
	key  ssh.Signer
	runs map[string]bool
}

func (r *record) findOutgoing(previous []*audit.Past) error {
	before, rotating := r.keys.before[audit.UseCommit]
	if !rotating {
		return nil
	}
	now := r.keys.now[audit.UseCommit].Public
	n, err := audit.RotatedIn(previous, audit.UseCommit, now)
	if err != nil {
		return err
	}
	if n == len(previous) { // or that entry is older than what is on this disk
		last, err := lastKeys(r.config.StateDir)
		if err != nil {
			return err
		}
		if line, err := audit.PublicLine(now); err != nil || last[audit.UseCommit] == line {
			return err
		}
	}
	if r.outgoing.key, err = before.SSH(); err != nil {
		return err
	}
	r.outgoing.runs = map[string]bool{}
	for _, p := range previous[:n] {
		r.outgoing.runs[p.Incarnation] = true
	}
	return nil
}

// strange tells whether an earlier run's last checkpoint is not by a key of
// now, where no note says which keys there were.
func (r *record) strange(use string) bool {
	if use != audit.UseCheckpoint || len(r.previous) == 0 {
		return false
	}
	signed := r.previous[len(r.previous)-1].Checkpoint()
	if signed == "" {
		return false
	}
	_, err := audit.OpenCheckpoint(signed, []ed25519.PublicKey{r.keys.now[use].Public})
	return err != nil
}

// writeKept puts a file's new content in place of the old, in one step that
// is durable.
func writeKept(path string, b []byte) error {
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
