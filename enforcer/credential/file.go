package credential

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// runTTL is how long a run's token lives when nobody renews it: the longest
// that leases outlast a machine that never comes back.
const runTTL = 10 * time.Minute

// The directory holds four kinds of files. Each has two lines: an id, and the
// Vault that it means something to, its address and, where there is one, a
// blank and the namespace. (Files of earlier versions have no second line.)
//
//	run-<random>    the accessor of a run's token; synced, with the directory,
//	                before anything is minted under it
//	login-<random>  the accessor of the token that the run's is a child of,
//	                where logging in made it; synced in the same way
//	caller-<random> the accessor of a login of a caller's own; synced, with the
//	                directory, before anything is minted under it
//	lease-<key>     Vault's id of a live lease; not synced: it only saves the
//	                next start from trusting Vault to be quick (see recover)
const (
	runFile    = "run-"
	callerFile = "caller-"
	loginFile  = "login-"
	leaseFile  = "lease-"
)

// note is the content of a file.
func (m *Minter) note(id string) []byte { return []byte(id + "\n" + m.where() + "\n") }

// where names the configured Vault.
func (m *Minter) where() string {
	at := strings.TrimRight(m.cfg.Client.Address(), "/")
	if u, err := url.Parse(at); err == nil {
		u.User = nil
		at = u.String()
	}
	if ns := strings.Trim(m.cfg.Client.Namespace(), "/"); ns != "" {
		at += " " + ns
	}
	return at
}

// keepAccessor writes an accessor down, durably.
func (m *Minter) keepAccessor(kind, accessor string) (path string, err error) {
	f, err := os.CreateTemp(m.cfg.Dir, kind+"*")
	if err != nil {
		return "", err
	}
	_, err = f.Write(m.note(accessor))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = syncDir(m.cfg.Dir)
	}
	return f.Name(), err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// left is a file of an earlier run.
type left struct {
	kind, key, path, id, at string
}

// leftIn lists the files, in the order in which to end what they name: a run's
// token before its login, and the leases, which end with it, at last.
func leftIn(dir string) ([]left, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var all []left
	for _, kind := range []string{runFile, callerFile, loginFile, leaseFile} {
		for _, f := range entries {
			key, ok := strings.CutPrefix(f.Name(), kind)
			if !ok {
				continue
			}
			l := left{kind: kind, key: key, path: filepath.Join(dir, f.Name())}
			data, err := os.ReadFile(l.path)
			if err != nil {
				return nil, err
			}
			id, rest, _ := strings.Cut(string(data), "\n")
			l.id, l.at = strings.TrimSpace(id), strings.TrimSpace(rest)
			all = append(all, l)
		}
	}
	return all, nil
}

// Pending counts what earlier runs left in a directory that is to be revoked
// in Vault: tokens, logins and leases. Open does it; without it they wait. It
// is for a start that does not call Open, and counts a live Minter's files, too.
func Pending(dir string) (int, error) {
	all, err := leftIn(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("credential: %w", err)
	}
	n := 0
	for _, l := range all {
		if l.id != "" {
			n++
		}
	}
	return n, nil
}

// recover revokes the tokens of earlier runs. Vault then ends their leases in
// its own time; those that are on file are waited for.
//
// An id that Vault does not know is gone, if it is the Vault that gave it. At
// another address it is the same one only if it knows a token from there.
func (m *Minter) recover(ctx context.Context, login *session) error {
	all, err := leftIn(m.cfg.Dir)
	if err != nil {
		return err
	}
	same := map[string]bool{"": true, m.where(): true}
	var unknown, leases, elsewhere []left
	for _, l := range all {
		if l.path == login.file {
			continue
		}
		if l.kind == leaseFile {
			leases = append(leases, l)
			continue
		}
		known := false
		if l.id != "" { // else the crash came between making the file and writing it: nothing was minted
			if known, err = m.revokeKnown(ctx, login, l.id); err != nil {
				return fmt.Errorf("end what an earlier run left (%s): %w", filepath.Base(l.path), err)
			}
		}
		if !known {
			unknown = append(unknown, l)
			continue
		}
		same[l.at] = true
		if err := m.recovered(ctx, l); err != nil {
			return err
		}
	}
	for _, l := range append(unknown, leases...) {
		switch {
		case l.id != "" && !same[l.at]:
			elsewhere = append(elsewhere, l)
			continue
		case l.id != "" && l.kind == leaseFile:
			err := m.revokeLease(ctx, login, l.id)
			if errors.Is(err, ErrForbidden) { // its token is gone, and Vault ends it by itself
				m.cfg.Log.Warn("a lease of an earlier run was left to Vault, whose policy should allow sys/leases/revoke", "err", err)
			} else if err != nil {
				return fmt.Errorf("end what an earlier run left (%s): %w", filepath.Base(l.path), err)
			}
		}
		if err := m.recovered(ctx, l); err != nil {
			return err
		}
	}
	return errors.Join(m.elsewhere(ctx, elsewhere), syncDir(m.cfg.Dir))
}

// recovered takes note that what an earlier run left has ended.
func (m *Minter) recovered(ctx context.Context, l left) error {
	if l.id != "" {
		if err := m.cfg.Record(ctx, Event{Action: "recover", Key: l.key}); err != nil {
			return fmt.Errorf("record the end of what an earlier run left (%s): %w", filepath.Base(l.path), err)
		}
	}
	return os.Remove(l.path)
}

// elsewhere says what is at another Vault, and what a person can do.
func (m *Minter) elsewhere(ctx context.Context, all []left) error {
	var errs []error
	for _, l := range all {
		err := fmt.Errorf("%w: %s is of %s, and %s does not know it: start once with the former, which revokes it; or, if that Vault is gone for good, delete the file", ErrElsewhere, l.path, m.words(l.at), m.where())
		m.cfg.Log.Error("not revoked", "err", err)
		errs = append(errs, err)
		if err := m.cfg.Record(ctx, Event{Action: "revoke-failed", Key: l.key, Err: err.Error()}); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
