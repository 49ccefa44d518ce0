package credential

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// entry is a minted secret, from the moment that somebody asks for it until it
// is known to be gone. Key to ready and the mint's results never change after
// ready closes; the rest is guarded by Minter.mu.
type entry struct {
	key, share, holder, call string
	spec                     Spec
	ready                    chan struct{} // closed when the mint is over
	err                      error         // of the mint
	callerToken              string        // to log in with; cleared by the mint

	run       *run     // guarded by Minter.mu
	token     *session // the lease's own
	issued    *issued  // by an issuer, in the place of Vault
	leaseID   string
	username  string
	fields    map[string]string
	renewable bool
	made      time.Time
	span      time.Duration // of the lease, as minted
	told      bool          // the mint is on record

	minted   bool // usable
	uses     int  // calls in flight
	used     bool // since the last renewal
	lastUsed time.Time
	last     bool   // no more calls: end with the last one in flight
	doomed   bool   // to end at once, though it is still being minted
	why      string // who revoked it, and why, if a person did
	ending   bool   // somebody revokes it
	failed   bool   // to revoke it failed before, and is on record
	expires  time.Time
	end      time.Time // the cap
	timer    *time.Timer
	masks    []uint64

	rendering sync.Mutex
	rendered  map[string]string
}

// until is when it ends, if nobody renews it.
func (e *entry) until() time.Time {
	if e.expires.Before(e.end) {
		return e.expires
	}
	return e.end
}

// info describes the entry. Called with mu held.
func (e *entry) info() LeaseInfo {
	l := LeaseInfo{Key: e.key, Name: e.spec.Name, Holder: e.holder, Call: e.call, PerCall: e.spec.PerCall, Uses: e.uses, LastUsed: e.lastUsed, Ending: e.ending || e.last || e.doomed, Failed: e.failed}
	if e.minted {
		l.Username, l.Expires = e.username, e.until()
	}
	return l
}

// freshUntil leaves a call that starts just before it some time to run.
func (e *entry) freshUntil() time.Time {
	until := e.until()
	return until.Add(-min(until.Sub(e.made)/5, 2*time.Minute))
}

// mint fills the entry. It does not end with the caller's context: others may
// wait, and a mint cut short is one that somebody has to clean up.
func (m *Minter) mint(e *entry) {
	ctx, cancel := context.WithTimeout(m.life, mintLimit)
	defer cancel()
	err := m.fill(ctx, e)
	m.mu.Lock()
	closed := m.closed
	if err == nil && e.doomed {
		err = ErrEnded
		if e.why != "" {
			err = fmt.Errorf("%w: %s", ErrEnded, e.why)
		}
	}
	e.err = err
	if err == nil {
		e.minted = true
		m.schedule(e)
	} else {
		m.unshare(e)
		e.ending = true
	}
	m.mu.Unlock()
	close(e.ready)
	switch {
	case err == nil:
	case e.token == nil && e.issued == nil:
		m.forget(e)
	case !closed: // else Close does
		// Even where no lease came back one may be there: its token goes.
		m.logged(e, m.endNow(context.Background(), e))
	}
}

func (m *Minter) fill(ctx context.Context, e *entry) error {
	e.made = m.cfg.Now()
	if e.spec.Exchange != nil {
		return m.exchange(ctx, e)
	}
	if err := m.arm(ctx, e); err != nil {
		return err
	}
	e.end = e.made.Add(e.spec.TTL)
	if e.token.expires.Before(e.end) && !e.token.expires.IsZero() {
		e.end = e.token.expires
	}
	secret, err := e.spec.ask(ctx, e.token.client)
	if err != nil {
		return m.problem(e.spec.doing(), err)
	}
	if secret == nil {
		return fmt.Errorf("%s: %w: nothing is there", e.spec.doing(), ErrRefused)
	}
	e.leaseID = secret.LeaseID
	e.renewable = secret.Renewable && e.leaseID != ""
	e.span = time.Duration(secret.LeaseDuration) * time.Second
	e.expires = e.made.Add(e.span)
	switch {
	case e.leaseID != "":
		if err := os.WriteFile(m.leasePath(e), m.note(e.leaseID), 0o600); err != nil {
			return err
		}
	case !e.spec.NoLease:
		return fmt.Errorf("%s: %w", e.spec.doing(), ErrNoLease)
	case e.span == 0: // else it says when to ask again
		e.expires = e.end
	}
	if err := m.hide(e, secret); err != nil {
		return fmt.Errorf("%s: %w", e.spec.doing(), err)
	}
	action := "mint"
	if e.leaseID == "" {
		action = "read"
	}
	ev := m.event(action, e, nil)
	ev.Path, _ = m.cfg.Mask.Text(e.spec.Path)
	ev.Params = slices.Sorted(maps.Keys(e.spec.Params))
	if l := e.spec.Login; l != nil {
		ev.Login = "auth/" + l.Mount + " role " + l.Role
	}
	if err := m.cfg.Record(ctx, ev); err != nil {
		return fmt.Errorf("record the mint: %w", err)
	}
	e.told = true
	return nil
}

// arm gets the token that the entry is minted under: below the run's, or by a
// login of the caller's own.
func (m *Minter) arm(ctx context.Context, e *entry) error {
	if e.spec.Login != nil {
		return m.asCaller(ctx, e)
	}
	r := m.under(e)
	token, err := m.child(ctx, r.token, "countersign-lease", e.spec.TTL, e.spec.TTL)
	if errors.Is(err, ErrForbidden) && !m.alive(ctx, r) {
		// The run's token was revoked behind our back, or expired while Vault was away.
		if _, err = m.replace(ctx, r); err == nil {
			token, err = m.child(ctx, m.under(e).token, "countersign-lease", e.spec.TTL, e.spec.TTL)
		}
	}
	if err != nil {
		return err
	}
	e.token = token
	return nil
}

// under has the entry minted under the run of the moment, which from then on is
// not ended before the entry.
func (m *Minter) under(e *entry) *run {
	m.mu.Lock()
	defer m.mu.Unlock()
	e.run = m.run
	return m.run
}

func (m *Minter) mask(e *entry, value string) error {
	id, err := m.cfg.Mask.Add(e.spec.Name, value)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.all[e.key] != e { // it has ended meanwhile
		m.cfg.Mask.Retire(id)
		return nil
	}
	e.masks = append(e.masks, id)
	return nil
}

func (m *Minter) event(action string, e *entry, err error) Event {
	ev := Event{Action: action, Name: e.spec.Name, Key: e.key, Holder: e.holder, Call: e.call, Username: e.username, Expires: e.until()}
	if err != nil {
		ev.Err = err.Error()
	}
	return ev
}

// schedule sets the entry's timer to what comes next: a renewal when two
// thirds of the lease are gone, or the end. Called with mu held.
func (m *Minter) schedule(e *entry) {
	if e.timer != nil {
		e.timer.Stop()
	}
	if m.closed {
		return
	}
	now := m.cfg.Now()
	wait := e.until().Sub(now)
	if e.renewable && e.expires.Before(e.end) && wait > time.Second {
		wait = wait * 2 / 3
	}
	e.timer = time.AfterFunc(max(wait, 0), func() { m.due(e) })
}

// due renews an entry that is in use, or ends it.
func (m *Minter) due(e *entry) {
	m.mu.Lock()
	if m.closed || e.ending {
		m.mu.Unlock()
		return
	}
	now := m.cfg.Now()
	over := !now.Before(e.until())
	idle := e.uses == 0 && !e.used
	m.work.Add(1) // so that Close waits
	defer m.work.Done()
	if over || idle {
		m.unshare(e)
		e.ending = true
		m.mu.Unlock()
		m.logged(e, m.endNow(context.Background(), e))
		return
	}
	e.used = e.uses > 0
	if !e.renewable { // the timer was early
		m.schedule(e)
		m.mu.Unlock()
		return
	}
	before := e.expires
	m.mu.Unlock()

	ctx, cancel := context.WithTimeout(m.life, requestLimit)
	defer cancel()
	secret, err := e.token.client.Sys().RenewWithContext(ctx, e.leaseID, int(e.span/time.Second))
	m.mu.Lock()
	if err == nil && secret != nil {
		e.expires = now.Add(time.Duration(secret.LeaseDuration) * time.Second)
	}
	if err != nil || e.expires.Sub(before) < time.Second {
		e.renewable = errors.Is(m.problem("", err), ErrUnavailable) // at its longest, or refused: it ends when it ends
	}
	ev := m.event("renew", e, m.problem("renew a lease at sys/leases/renew", err))
	m.schedule(e)
	m.mu.Unlock()
	if err := m.cfg.Record(ctx, ev); err != nil {
		m.cfg.Log.Error("a renewal is not on record", "key", e.key, "err", err)
	}
}

// retire takes an entry out of use by new calls, and ends it if no call is in
// flight. Called with mu held.
func (m *Minter) retire(e *entry) {
	m.unshare(e)
	if m.mayEnd(e) {
		m.work.Go(func() { m.logged(e, m.endNow(context.Background(), e)) })
	}
}

func (m *Minter) unshare(e *entry) {
	e.last = true
	if e.share != "" && m.shared[e.share] == e {
		delete(m.shared, e.share)
	}
}

// mayEnd claims an entry that nobody uses any more for revocation. Called with
// mu held.
func (m *Minter) mayEnd(e *entry) bool {
	if !e.minted || e.ending || e.uses > 0 || !e.last && !e.spec.PerCall {
		return false
	}
	e.ending = true
	return true
}

// drop gives one use back.
func (m *Minter) drop(ctx context.Context, e *entry) error {
	m.mu.Lock()
	e.uses--
	e.lastUsed = m.cfg.Now()
	end := !m.closed && m.mayEnd(e)
	if end {
		m.work.Add(1) // so that Close waits
		defer m.work.Done()
	}
	m.mu.Unlock()
	if !end {
		return nil
	}
	return m.endNow(ctx, e)
}

func (m *Minter) endAll(ctx context.Context, entries []*entry) []error {
	var wg sync.WaitGroup
	errs := make([]error, len(entries))
	slots := make(chan struct{}, 8)
	for i, e := range entries {
		slots <- struct{}{}
		wg.Go(func() {
			errs[i] = m.endNow(ctx, e)
			<-slots
		})
	}
	wg.Wait()
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}

// endNow revokes an entry that the caller has claimed (ending). If that fails
// it is repeated in the background, until it works or Close comes.
func (m *Minter) endNow(ctx context.Context, e *entry) error {
	err := m.revoke(ctx, e)
	if err == nil {
		return nil
	}
	m.mu.Lock()
	first := !e.failed
	e.failed = true
	ev := m.event("revoke-failed", e, err)
	m.mu.Unlock()
	if first {
		if rerr := m.cfg.Record(ctx, ev); rerr != nil {
			m.cfg.Log.Error("a failed revocation is not on record", "key", e.key, "err", rerr)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.closed {
		m.work.Go(func() {
			for wait := time.Second; ; wait = min(2*wait, 30*time.Second) {
				timer := time.NewTimer(wait)
				select {
				case <-m.life.Done():
					timer.Stop()
					return // Close tries once more
				case <-timer.C:
				}
				if err := m.revoke(m.life, e); err == nil {
					return
				}
			}
		})
	}
	return fmt.Errorf("credential %s: not revoked yet: %w", e.spec.Name, err)
}

// revoke tries once to end the lease and its token, and forgets the entry.
func (m *Minter) revoke(ctx context.Context, e *entry) error {
	if e.issued != nil {
		return m.giveBack(ctx, e)
	}
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	by := m.current()
	err, terr := m.revokeBoth(ctx, by, e)
	if errors.Is(terr, ErrForbidden) && !m.alive(ctx, by) {
		// The run's token was revoked behind our back, or expired while Vault was away.
		if by, terr = m.replace(ctx, by); terr == nil {
			err, terr = m.revokeBoth(ctx, by, e)
		}
	}
	// Ending the token ends the lease just as well, if not at once: where only
	// the lease is forbidden to us, that must do.
	if terr != nil || err != nil && !errors.Is(err, ErrForbidden) {
		return errors.Join(err, terr)
	}
	if !m.forget(e) || e.leaseID == "" && !e.failed && !e.told {
		return nil // told already, or there was nothing to tell of
	}
	action := "revoke"
	if e.leaseID == "" && e.told {
		action = "forget"
	}
	m.mu.Lock()
	ev := m.event(action, e, err)
	m.mu.Unlock()
	if rerr := m.cfg.Record(ctx, ev); rerr != nil {
		m.cfg.Log.Error("a revocation is not on record", "key", e.key, "err", rerr)
	}
	return nil
}

func (m *Minter) revokeBoth(ctx context.Context, by *run, e *entry) (lease, token error) {
	if e.leaseID != "" {
		lease = m.revokeLease(ctx, by.token, e.leaseID)
	}
	return lease, m.revokeAccessor(ctx, by.token, e.token.accessor)
}

// forget drops an entry that holds nothing any more. Its values stay masked
// for the mask's own while: they may still be on their way.
func (m *Minter) forget(e *entry) (first bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.all[e.key] != e {
		return false
	}
	if e.timer != nil {
		e.timer.Stop()
	}
	for _, id := range e.masks {
		m.cfg.Mask.Retire(id)
	}
	if e.token != nil {
		m.cfg.Mask.Retire(e.token.maskID)
	}
	e.masks = nil
	delete(m.all, e.key)
	var files []string
	if m.cfg.Dir != "" {
		files = append(files, m.leasePath(e))
	}
	if e.token != nil && e.token.file != "" {
		files = append(files, e.token.file)
	}
	for _, path := range files {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			m.cfg.Log.Warn("what was revoked stays on file; the next start revokes it again", "err", err)
		}
	}
	return true
}

func (m *Minter) leasePath(e *entry) string { return filepath.Join(m.cfg.Dir, leaseFile+e.key) }

// logged takes note of an error whose caller is gone.
func (m *Minter) logged(e *entry, err error) {
	if err != nil {
		m.cfg.Log.Warn("a revocation failed; it is repeated", "key", e.key, "err", err)
	}
}
