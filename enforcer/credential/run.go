package credential

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"
)

// run is a token of ours under which leases are minted. A process has one at a
// time, and a new one when the login below it comes to its end.
type run struct {
	login *session
	token *session
}

// start is Open's work: log in, end what earlier runs left, begin a new one.
func (m *Minter) start(ctx context.Context) error {
	login, err := m.fresh(ctx)
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
	m.next = nil
	m.mu.Lock()
	defer m.mu.Unlock()
	m.run = r
	return nil
}

// fresh is the login to begin a run with. One that came to nothing serves the
// next attempt: it is a token that can do all that the run's can. Called with
// replacing held, or while nobody else is there.
func (m *Minter) fresh(ctx context.Context) (*session, error) {
	if m.next != nil {
		known, err := m.known(ctx, m.next)
		if err != nil {
			return nil, err
		}
		if known {
			return m.next, nil
		}
		if err := m.logout(ctx, m.next); err != nil {
			return nil, err
		}
		m.next = nil
	}
	login, err := m.login(ctx)
	if err != nil {
		return nil, err
	}
	m.next = login
	return login, nil
}

// login gets a token from Vault, and writes its accessor down. Should the
// process die in between, a token is left that nobody used; it expires by
// itself.
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
	s, err := m.session(secret, at)
	if err != nil || m.static() {
		return s, err // a token that the operator made is not ours to end
	}
	if s.accessor == "" {
		return nil, errors.Join(fmt.Errorf("log in to Vault: %w: the token has no accessor, as a batch token; runs need a service token", ErrRefused), m.logout(ctx, s))
	}
	if s.file, err = m.keepAccessor(loginFile, s.accessor); err != nil {
		return nil, errors.Join(fmt.Errorf("keep the login's accessor: %w", err), m.logout(ctx, s))
	}
	return s, nil
}

// logout ends a login, and with it all tokens below. One that is gone is fine.
func (m *Minter) logout(ctx context.Context, s *session) error {
	if m.static() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), logoutLimit)
	defer cancel()
	err := m.problem("log out of Vault at auth/token/revoke-self", s.client.Auth().Token().RevokeSelfWithContext(ctx, ""))
	if errors.Is(err, ErrForbidden) && s.accessor != "" { // a role without the default policy
		err = m.revokeAccessor(ctx, s, s.accessor)
	}
	if errors.Is(err, ErrForbidden) {
		if known, kerr := m.known(ctx, s); kerr == nil && !known {
			err = nil
		}
	}
	if err != nil {
		return err
	}
	return m.gone(s)
}

// gone takes note that a session's token has ended.
func (m *Minter) gone(s *session) error {
	m.cfg.Mask.Retire(s.maskID)
	if s.file == "" {
		return nil
	}
	if err := os.Remove(s.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// known asks whether Vault still knows a session's token.
func (m *Minter) known(ctx context.Context, s *session) (bool, error) {
	_, err := s.client.Auth().Token().LookupSelfWithContext(ctx)
	err = m.problem("look a token up at auth/token/lookup-self", err)
	if errors.Is(err, ErrForbidden) {
		return false, nil
	}
	return err == nil, err
}

// begin makes a run's token. Should the process die before its accessor is on
// disk, a token is left that nothing was minted under; it ends with its login.
func (m *Minter) begin(ctx context.Context, login *session) (*run, error) {
	token, err := m.child(ctx, login, "countersign-run", runTTL, 0)
	if err != nil {
		return nil, err
	}
	if token.file, err = m.keepAccessor(runFile, token.accessor); err != nil {
		return nil, errors.Join(fmt.Errorf("keep the run's accessor: %w", err), (&run{login, token}).end(ctx, m, login))
	}
	return &run{login, token}, nil
}

// end revokes a run's token.
func (r *run) end(ctx context.Context, m *Minter, by *session) error {
	if err := m.revokeAccessor(ctx, by, r.token.accessor); err != nil {
		return err
	}
	return m.gone(r.token)
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
	login, err := m.fresh(ctx)
	if err != nil {
		return nil, err
	}
	next, err := m.begin(ctx, login)
	if err != nil {
		return nil, err
	}
	m.next = nil
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
		m.settle(m.life)
	}
}

// settle ends replaced runs, and their logins, that no lease hangs under any
// more. What cannot be ended now is tried again later.
func (m *Minter) settle(ctx context.Context) {
	m.mu.Lock()
	by := m.run.login
	used := map[*run]bool{}
	for _, e := range m.all {
		used[e.run] = true
	}
	var idle []*run
	for _, r := range m.olds {
		if !used[r] {
			idle = append(idle, r)
		}
	}
	m.mu.Unlock()
	for _, r := range idle {
		ctx, cancel := context.WithTimeout(ctx, requestLimit)
		err := r.end(ctx, m, by)
		if err == nil {
			err = m.logout(ctx, r.login)
		}
		cancel()
		if err != nil {
			m.cfg.Log.Warn("an earlier login to Vault could not be ended; trying again", "err", err)
			continue
		}
		m.mu.Lock()
		m.olds = slices.DeleteFunc(m.olds, func(old *run) bool { return old == r })
		m.mu.Unlock()
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
	known, err := m.known(ctx, r.token)
	return known || err != nil
}

// finish revokes the tokens of all runs, and their logins if those were ours
// alone.
func (m *Minter) finish(ctx context.Context) error {
	m.mu.Lock()
	if m.run == nil { // without Vault
		m.mu.Unlock()
		return nil
	}
	runs := append([]*run{m.run}, m.olds...)
	m.mu.Unlock()
	by := m.run.login
	var errs []error
	for _, r := range runs {
		err := r.end(ctx, m, by)
		if errors.Is(err, ErrForbidden) { // the login ended first: once more with another
			if again, lerr := m.fresh(ctx); lerr == nil {
				by, err = again, r.end(ctx, m, again)
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("credential: close: left to the next start: %w", err))
		}
	}
	logins := []*session{m.next}
	for _, r := range runs {
		logins = append(logins, r.login)
	}
	for _, s := range logins {
		if s == nil {
			continue
		}
		if err := m.logout(ctx, s); err != nil {
			errs = append(errs, fmt.Errorf("credential: close: left to the next start: %w", err))
		}
	}
	if err := syncDir(m.cfg.Dir); err != nil {
		errs = append(errs, fmt.Errorf("credential: close: %w", err))
	}
	return errors.Join(errs...)
}
