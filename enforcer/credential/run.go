package credential

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// runTTL is how long a run's token lives when nobody renews it: the longest
// that leases outlast a machine that never comes back.
const runTTL = 10 * time.Minute

// run is a token of ours under which leases are minted. A process has one at a
// time, and a new one when the login below it comes to its end.
type run struct {
	login *session
	token *session
	file  string
}

// The directory holds two kinds of files, each with one line:
//
//	run-<random>    the accessor of a run's token; synced, with the directory,
//	                before anything is minted under it
//	lease-<key>     Vault's id of a live lease; not synced: it only saves the
//	                next start from trusting Vault to be quick (see recover)
const (
	runFile   = "run-"
	leaseFile = "lease-"
)

// start is Open's work: log in, end what earlier runs left, begin a new one.
func (m *Minter) start(ctx context.Context) error {
	login, err := m.login(ctx)
	if err != nil {
		return err
	}
	if err := m.recover(ctx, login); err != nil {
		return err
	}
	r, err := m.begin(ctx, login)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.run = r
	return nil
}

func (m *Minter) login(ctx context.Context) (*session, error) {
	client, err := m.client()
	if err != nil {
		return nil, err
	}
	at := m.cfg.Now()
	secret, err := m.cfg.Login.Login(ctx, client)
	if err != nil {
		return nil, m.problem("log in to Vault", err)
	}
	return m.session(secret, at)
}

// recover revokes the tokens of earlier runs. Vault then ends their leases in
// its own time; those that are on file are waited for.
func (m *Minter) recover(ctx context.Context, login *session) error {
	files, err := os.ReadDir(m.cfg.Dir)
	if err != nil {
		return err
	}
	for _, kind := range []string{runFile, leaseFile} {
		for _, f := range files {
			if !strings.HasPrefix(f.Name(), kind) {
				continue
			}
			path := filepath.Join(m.cfg.Dir, f.Name())
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			id := strings.TrimSpace(string(data))
			switch {
			case id == "": // the crash came between making the file and writing it: nothing was minted
			case kind == runFile:
				err = m.revokeAccessor(ctx, login, id)
				if err == nil {
					err = m.cfg.Record(ctx, Event{Action: "recover", Key: strings.TrimPrefix(f.Name(), kind)})
				}
			default:
				err = m.revokeLease(ctx, login, id)
				if errors.Is(err, ErrForbidden) {
					m.cfg.Log.Warn("a lease of an earlier run was left to Vault, whose policy should allow sys/leases/revoke", "err", err)
					err = nil // its token is gone, and Vault ends it by itself
				}
				if err == nil {
					err = m.cfg.Record(ctx, Event{Action: "recover", Key: strings.TrimPrefix(f.Name(), kind)})
				}
			}
			if err != nil {
				return fmt.Errorf("end what an earlier run left (%s): %w", f.Name(), err)
			}
			if err := os.Remove(path); err != nil {
				return err
			}
		}
	}
	return syncDir(m.cfg.Dir)
}

// begin makes a run's token. Should the process die before its accessor is on
// disk, a token is left that nothing was minted under; it expires by itself.
func (m *Minter) begin(ctx context.Context, login *session) (*run, error) {
	token, err := m.child(ctx, login, "countersign-run", runTTL, 0)
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(m.cfg.Dir, runFile+"*")
	if err != nil {
		return nil, err
	}
	_, err = f.WriteString(token.accessor + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = syncDir(m.cfg.Dir)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("keep the run's accessor: %w", err), m.revokeAccessor(ctx, login, token.accessor))
	}
	return &run{login, token, f.Name()}, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (m *Minter) current() *run {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.run
}

// replace begins a new run where old can mint no more. Leases of the old one
// live on for as long as its token does; calls that come now get new ones.
func (m *Minter) replace(ctx context.Context, old *run) (*run, error) {
	m.replacing.Lock()
	defer m.replacing.Unlock()
	if now := m.current(); now != old {
		return now, nil // somebody else did
	}
	login, err := m.login(ctx)
	if err != nil {
		return nil, err
	}
	next, err := m.begin(ctx, login)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.run = next
	m.olds = append(m.olds, old)
	for _, e := range m.all {
		if e.run == old && e.minted && !e.ending && !old.token.expires.IsZero() && old.token.expires.Before(e.end) {
			e.end = old.token.expires
			m.schedule(e)
		}
	}
	m.cfg.Log.Info("logged in to Vault again")
	return next, nil
}

// keep renews the run's tokens until Close, each when a third of its time is
// gone, and begins a new run when that no longer helps.
func (m *Minter) keep() {
	failures := 0
	for {
		m.mu.Lock()
		wait := time.Hour
		for _, s := range []*session{m.run.login, m.run.token} {
			if !s.expires.IsZero() && !(s == m.run.login && m.static() && !s.renewable) {
				wait = min(wait, s.expires.Sub(m.cfg.Now())-s.ttl*2/3)
			}
		}
		m.mu.Unlock()
		if failures > 0 {
			wait = min(time.Second<<min(failures, 5), 30*time.Second)
		}
		timer := time.NewTimer(max(wait, time.Second))
		select {
		case <-m.life.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		if err := m.refresh(m.life, m.current()); err != nil {
			failures++
			m.cfg.Log.Warn("the run's Vault token could not be renewed; trying again", "err", err)
			continue
		}
		failures = 0
	}
}

// refresh renews what is due. A token that Vault does not know any more, or
// that has come to the end of what renewing gives, means a new run.
func (m *Minter) refresh(ctx context.Context, r *run) error {
	for _, s := range []*session{r.login, r.token} {
		m.mu.Lock()
		left := s.expires.Sub(m.cfg.Now())
		due := !s.expires.IsZero() && left <= s.ttl*2/3+time.Second
		due = due && !(s == r.login && m.static() && !s.renewable) // logging in again gives the same token
		m.mu.Unlock()
		if !due {
			continue
		}
		rctx, cancel := context.WithTimeout(ctx, requestLimit)
		var err error
		if s.renewable && left > 0 {
			err = m.renew(rctx, s)
		}
		m.mu.Lock()
		spent := !s.renewable || s.expires.Sub(m.cfg.Now()) <= s.ttl*2/3+time.Second
		m.mu.Unlock()
		switch {
		case err == nil && spent && s == r.login && m.static(): // it cannot be helped
		case errors.Is(err, ErrForbidden), errors.Is(err, ErrRefused), err == nil && spent, left <= 0:
			_, err = m.replace(rctx, r)
			cancel()
			return err
		}
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

// static tells that the operator's token is all there is to log in with.
func (m *Minter) static() bool {
	_, ok := m.cfg.Login.(staticToken)
	return ok
}

// alive asks whether Vault still knows the run's token.
func (m *Minter) alive(ctx context.Context, r *run) bool {
	_, err := r.token.client.Auth().Token().LookupSelfWithContext(ctx)
	return !errors.Is(m.problem("", err), ErrForbidden)
}

// finish revokes the tokens of all runs, and the login if it was ours alone.
func (m *Minter) finish(ctx context.Context) error {
	m.mu.Lock()
	runs := append([]*run{m.run}, m.olds...)
	m.mu.Unlock()
	login := m.run.login
	var errs []error
	for _, r := range runs {
		err := m.revokeAccessor(ctx, login, r.token.accessor)
		if errors.Is(err, ErrForbidden) { // the login ended first: once more with another
			if again, lerr := m.login(ctx); lerr == nil {
				login, err = again, m.revokeAccessor(ctx, again, r.token.accessor)
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("credential: close: left to the next start: %w", err))
			continue
		}
		if err := os.Remove(r.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("credential: close: %w", err))
		}
	}
	if err := syncDir(m.cfg.Dir); err != nil {
		errs = append(errs, fmt.Errorf("credential: close: %w", err))
	}
	if !m.static() && len(errs) == 0 {
		if err := login.client.Auth().Token().RevokeSelfWithContext(ctx, ""); err != nil {
			errs = append(errs, fmt.Errorf("credential: close: %w", m.problem("log out of Vault", err)))
		}
	}
	return errors.Join(errs...)
}
