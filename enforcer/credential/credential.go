// Package credential mints Vault's dynamic secrets for calls, and ends them.
//
// It promises:
//
//   - Every run mints under a Vault token of its own, whose accessor is on disk
//     (file and directory synced) before the first mint, as is that of the
//     login below it. The next Open revokes the tokens and logins of earlier
//     runs, and waits for their leases to be gone, before it returns; those of
//     another Vault than the configured one it does not take for gone, and
//     refuses.
//   - Every lease hangs under a token of its own below the run's, whose TTL is
//     the cap (Spec.TTL): Vault itself ends the lease then, whatever becomes of
//     this process, and so it does with a lease whose answer got lost.
//   - A value is known to the mask before Acquire returns it. A value too short
//     to mask is refused, and so is a secret without a lease, unless the Spec
//     takes it: then it is forgotten at its end, since nobody can revoke it.
//   - A login of a caller's own is written down, capped and ended like a run's,
//     and serves that caller alone.
//   - Record has seen a mint before anybody can use it. What cannot be recorded
//     is revoked.
//   - A revocation that fails is repeated until it succeeds, and is on record
//     as failed until then.
//   - No error, log line or record holds a secret.
//
// What the operator's Vault policy must grant, besides the paths of the specs
// (read, or update for those asked by POST): update on auth/token/create, auth/token/revoke-accessor, sys/leases/revoke,
// and what Vault's default policy grants.
package credential

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"

	"countersign/enforcer/mask"
)

// What a caller can tell its own caller. All are wrapped with what was asked
// of Vault, by path.
var (
	ErrSealed      = errors.New("the vault is sealed")
	ErrForbidden   = errors.New("the policy in Vault does not allow it")
	ErrUnavailable = errors.New("no answer from Vault, or one to come back later")
	ErrRefused     = errors.New("refused by Vault")
	ErrNoLease     = errors.New("it has no lease, so that Vault cannot take it back: use a dynamic secret, or say `lease: none` in the policy")
	ErrNoToken     = errors.New("there is no token to log in with")
	ErrClosed      = errors.New("credentials are shutting down")
	ErrEnded       = errors.New("it was ended before it could be used")
	ErrTooMany     = errors.New("too many of the caller's are in use, or wait to be ended: give one back by ending its call, and repeat this one")
	ErrElsewhere   = errors.New("tokens of an earlier run are at another Vault than the configured one")
)

// Config of a Minter. All but Now and Log are required; where there is no Vault,
// Client, Login and Dir are not, and only Issuers can be asked.
type Config struct {
	Client  *api.Client    // address and TLS; its token is not used
	Login   api.AuthMethod // Token, AppRole, TokenFile, Certificate, or any other that can log in again
	Dir     string         // durable, of this enforcer alone
	Issuers []IssuerClient // that exchange callers' tokens
	Mask    *mask.Mask
	Record  func(context.Context, Event) error // durable when it returns nil
	Now     func() time.Time
	Log     *slog.Logger
}

// Event is something that happened to a credential, for the record. Key is the
// lease's name in the record, not Vault's.
//
// A secret without a lease is read and forgotten: Vault holds nothing of it.
type Event struct {
	Action   string   // mint, renew, revoke, revoke-failed, recover; read, forget
	Name     string   // the policy's name of the credential
	Path     string   // of a mint or read: what was asked for, masked
	Params   []string // the names of the parameters that were sent along, sorted
	Login    string   // where the caller's own token logged in, and as which role
	Key      string
	Holder   string
	Call     string // the call it was minted for
	Username string
	Expires  time.Time
	Err      string
}

// Spec says what to mint.
type Spec struct {
	Name    string         // the policy's name
	Path    string         // what to ask for, such as database/creds/customers-ro
	Post    bool           // ask by POST, not by GET
	Params  map[string]any // sent along: string, int, bool, or with Post []string
	Fields  []string       // the fields that are secret, dotted; nil: every text but username
	Public  []string       // fields that are not
	Base64  []string       // fields that are used as what they decode to
	NoLease bool           // take a secret that has no lease
	Login   *Login         // nil: the enforcer's own
	// Exchange asks an issuer, not Vault: then nothing above but Name counts.
	Exchange *Exchange
	Into     string        // where it goes, in any form: calls share a lease where it is the same
	PerCall  bool          // for one call; otherwise the holder's calls share it
	TTL      time.Duration // the longest that it may live; one hour if 0
}

const (
	defaultTTL   = time.Hour
	mostHeld     = 32 // leases that a holder's calls share: what the request chooses makes more than one
	mintLimit    = 30 * time.Second
	requestLimit = 15 * time.Second
	logoutLimit  = 5 * time.Second
)

// Lease is one use of a minted secret. Release it.
type Lease struct {
	Key      string // tells leases apart; no secret
	Name     string
	Username string // "" where the secret has none
	Expires  time.Time

	e    *entry
	m    *Minter
	once sync.Once
	err  error
}

// LeaseInfo describes a live lease.
type LeaseInfo struct {
	Key, Name, Holder, Username string
	Call                        string // the call it was minted for
	PerCall                     bool   // for that call alone
	Expires                     time.Time
	Uses                        int       // calls in flight
	LastUsed                    time.Time // when a call last took it or gave it back
	Ending                      bool      // to be revoked, at once or with the last call in flight
	Failed                      bool      // to revoke it failed, and is repeated
}

// Minter mints, renews and revokes. It is safe for concurrent use.
type Minter struct {
	cfg  Config
	life context.Context // ends with Close: no more mints, renewals, retries
	quit context.CancelFunc
	work sync.WaitGroup // what runs in the background; added to with mu held and closed false

	replacing sync.Mutex // held while a new run token is made
	next      *session   // a login that no run uses yet; see fresh

	mu     sync.Mutex
	closed bool
	run    *run
	olds   []*run            // replaced, and not yet known to be gone
	shared map[string]*entry // by holder and spec
	all    map[string]*entry // by Key, until revoked

	issuers map[string]*issuer // by name; never changes
}

// Open revokes what earlier runs left, logs in, and makes this run's token. It
// keeps trying while Vault is sealed or away, until ctx ends.
func Open(ctx context.Context, cfg Config) (*Minter, error) {
	vaultless := cfg.Client == nil && cfg.Login == nil
	if !vaultless && (cfg.Client == nil || cfg.Login == nil || cfg.Dir == "") || cfg.Mask == nil || cfg.Record == nil {
		return nil, errors.New("credential: Client, Login, Dir, Mask and Record are all needed")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	m := &Minter{cfg: cfg, shared: map[string]*entry{}, all: map[string]*entry{}, issuers: map[string]*issuer{}}
	for _, c := range cfg.Issuers {
		i, err := newIssuer(c, cfg.Now)
		if err != nil {
			return nil, fmt.Errorf("credential: %w", err)
		}
		m.issuers[c.Issuer] = i
	}
	if vaultless {
		m.life, m.quit = context.WithCancel(context.Background())
		return m, nil
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("credential: %w", err)
	}
	client, err := sentOnce(cfg.Client)
	if err != nil {
		return nil, fmt.Errorf("credential: %w", err)
	}
	m.cfg.Client = client
	if err := m.retry(ctx, func() error { return m.start(ctx) }); err != nil {
		if m.next != nil {
			if lerr := m.logout(ctx, m.next); lerr != nil {
				err = fmt.Errorf("%w (and the login is left to the next start: %w)", err, lerr)
			}
		}
		return nil, fmt.Errorf("credential: %w", err)
	}
	m.life, m.quit = context.WithCancel(context.Background())
	m.work.Go(m.keep)
	return m, nil
}

// Acquire returns a lease for a call: the holder's, or one for this call
// alone. Calls that ask for the same at once wait for one mint.
func (m *Minter) Acquire(ctx context.Context, holder, call string, s Spec) (*Lease, error) {
	err := s.check()
	if err == nil && s.Exchange == nil && m.cfg.Client == nil {
		err = errors.New("it needs Vault, and none is configured (VAULT_ADDR)")
	}
	if err != nil {
		return nil, fmt.Errorf("credential %s: %w", s.Name, err)
	}
	if s.TTL <= 0 {
		s.TTL = defaultTTL
	}
	e, err := m.take(holder, call, s)
	if err != nil {
		return nil, fmt.Errorf("credential %s: %w", s.Name, err)
	}
	select {
	case <-e.ready:
	case <-ctx.Done():
		go func() { // the mint goes on; what nobody comes for is ended
			<-e.ready
			m.logged(e, m.drop(context.Background(), e))
		}()
		return nil, fmt.Errorf("credential %s: %w", s.Name, ctx.Err())
	}
	if e.err != nil {
		return nil, fmt.Errorf("credential %s: %w", s.Name, e.err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return &Lease{Key: e.key, Name: s.Name, Username: e.username, Expires: e.until(), e: e, m: m}, nil
}

// take finds the entry to use, or starts a mint; the caller owns one use.
func (m *Minter) take(holder, call string, s Spec) (*entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, ErrClosed
	}
	var share string
	if !s.PerCall {
		var err error
		if share, err = s.shared(holder); err != nil {
			return nil, err
		}
		if e := m.shared[share]; e != nil {
			if !e.minted || m.cfg.Now().Before(e.freshUntil()) {
				e.uses++
				e.used = true
				e.lastUsed = m.cfg.Now()
				return e, nil
			}
			m.retire(e) // too little time left: calls in flight keep it, new ones get another
		}
		if err := m.room(holder); err != nil {
			return nil, err
		}
	}
	e := &entry{key: "l_" + strings.ToLower(rand.Text()), share: share, holder: holder, call: call, spec: s, ready: make(chan struct{}), uses: 1, used: true, lastUsed: m.cfg.Now()}
	if s.Login != nil { // the token is for the mint, and no longer
		login := *s.Login
		e.callerToken, login.Token = login.Token, ""
		e.spec.Login = &login
	}
	if s.Exchange != nil {
		x := *s.Exchange
		e.callerToken, x.Token = x.Token, ""
		e.spec.Exchange = &x
	}
	m.all[e.key] = e
	if share != "" {
		m.shared[share] = e
	}
	m.work.Go(func() { m.mint(e) })
	return e, nil
}

// Ended is the reason that Revoke gave, "" if nobody has revoked the lease.
func (l *Lease) Ended() string {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	return l.e.why
}

// Live tells whether nobody has ended the lease at once (EndNow, Revoke). From
// when it says no, on, the values may be dead.
func (l *Lease) Live() bool {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	return !l.e.doomed
}

// room has a holder give up the lease that it has not used for longest, where
// it has as many as it may have. Called with mu held.
func (m *Minter) room(holder string) error {
	live, all := 0, 0
	var idle *entry
	for _, e := range m.all {
		if e.holder != holder || e.spec.PerCall {
			continue
		}
		all++
		if e.last {
			continue
		}
		live++
		if e.uses == 0 && e.minted && !e.ending && (idle == nil || e.lastUsed.Before(idle.lastUsed)) {
			idle = e
		}
	}
	switch {
	case all >= 2*mostHeld, live >= mostHeld && idle == nil:
		return ErrTooMany
	case live >= mostHeld:
		m.retire(idle)
	}
	return nil
}

// Release gives a lease back. A lease for one call is revoked now; if Vault
// cannot be asked, the error says so and the revocation is repeated in the
// background. Releasing twice, or nil, does nothing.
func (m *Minter) Release(ctx context.Context, l *Lease) error {
	if l == nil {
		return nil
	}
	// A client that hung up must not keep a credential alive.
	l.once.Do(func() { l.err = m.drop(context.WithoutCancel(ctx), l.e) })
	return l.err
}

// EndHolder ends the holder's leases: now, or with the last call in flight.
func (m *Minter) EndHolder(ctx context.Context, holder string) {
	m.EndWhere(ctx, func(l LeaseInfo) bool { return l.Holder == holder })
}

// EndWhere ends the leases that match: now, or with the last call in flight.
// Those for one call end with it anyway. Match is asked about leases that are
// still being minted, too: they have no Username and Expires yet.
func (m *Minter) EndWhere(ctx context.Context, match func(LeaseInfo) bool) {
	found := m.matching(func(e *entry) bool { return !e.spec.PerCall }, match)
	m.mu.Lock()
	var now []*entry
	for _, e := range found {
		m.unshare(e)
		if !m.closed && m.mayEnd(e) {
			m.work.Add(1) // so that Close waits
			now = append(now, e)
		}
	}
	m.mu.Unlock()
	for _, err := range m.endAll(ctx, now) {
		m.cfg.Log.Warn("a holder's credential was not revoked at once; it is repeated", "err", err)
	}
	m.work.Add(-len(now))
}

// matching lists the leases of a kind that match. Match is asked without the
// lock, since it is another's.
func (m *Minter) matching(kind func(*entry) bool, match func(LeaseInfo) bool) (found []*entry) {
	m.mu.Lock()
	infos := map[*entry]LeaseInfo{}
	for _, e := range m.all {
		if kind(e) {
			infos[e] = e.info()
		}
	}
	m.mu.Unlock()
	for e, info := range infos {
		if match(info) {
			found = append(found, e)
		}
	}
	return found
}

// EndNow ends the leases that match at once, those for one call and those with
// calls in flight too. One that is still being minted ends when the mint does,
// and Acquire returns ErrEnded. A revocation that fails is repeated, as always.
func (m *Minter) EndNow(ctx context.Context, match func(LeaseInfo) bool) {
	m.Revoke(ctx, "", func(string) {}, match)
}

// Revoke is EndNow with a reason, which Lease.Ended tells those who hold one,
// and a func that is called with the Key of each before Vault is asked. It
// returns the leases that matched, as they were, sorted by Key.
func (m *Minter) Revoke(ctx context.Context, why string, cut func(key string), match func(LeaseInfo) bool) []LeaseInfo {
	found := m.matching(func(*entry) bool { return true }, match)
	m.mu.Lock()
	var now []*entry
	var infos []LeaseInfo
	for _, e := range found {
		infos = append(infos, e.info())
		m.unshare(e)
		e.doomed = true
		if e.why == "" {
			e.why = why
		}
		if !m.closed && e.minted && !e.ending {
			e.ending = true
			m.work.Add(1) // so that Close waits
			now = append(now, e)
		}
	}
	m.mu.Unlock()
	for _, l := range infos {
		cut(l.Key)
	}
	for _, err := range m.endAll(ctx, now) {
		m.cfg.Log.Warn("a credential was not revoked at once; it is repeated", "err", err)
	}
	m.work.Add(-len(now))
	slices.SortFunc(infos, func(a, b LeaseInfo) int { return strings.Compare(a.Key, b.Key) })
	return infos
}

// Leases lists the live leases, sorted by Key, those included that nobody will
// use: they ended while they were being minted, and are not revoked yet.
func (m *Minter) Leases() []LeaseInfo {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []LeaseInfo
	for _, e := range m.all {
		if e.minted || e.doomed || e.failed {
			out = append(out, e.info())
		}
	}
	slices.SortFunc(out, func(a, b LeaseInfo) int { return strings.Compare(a.Key, b.Key) })
	return out
}

// Close revokes every lease, calls in flight or not, and the run's token. What
// could not be revoked stays on disk for the next Open.
func (m *Minter) Close(ctx context.Context) error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil
	}
	m.closed = true
	m.mu.Unlock()
	m.quit()

	// When what is under way has ended, nothing new can come.
	done := make(chan struct{})
	go func() { m.work.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		return fmt.Errorf("credential: close: leases are left to the next start: %w", ctx.Err())
	}
	m.mu.Lock()
	var rest []*entry
	for _, e := range m.all {
		if e.timer != nil {
			e.timer.Stop()
		}
		e.ending = true
		rest = append(rest, e)
	}
	m.mu.Unlock()
	return errors.Join(append(m.endAll(ctx, rest), m.finish(ctx))...)
}

// retry repeats f while Vault is sealed or away.
func (m *Minter) retry(ctx context.Context, f func() error) error {
	for wait := time.Second / 4; ; wait = min(2*wait, 15*time.Second) {
		err := f()
		if !errors.Is(err, ErrSealed) && !errors.Is(err, ErrUnavailable) {
			return err
		}
		m.cfg.Log.Warn("waiting for Vault", "err", err)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return errors.Join(err, ctx.Err())
		}
	}
}
