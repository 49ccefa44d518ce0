package credential

import (
	"context"
	"fmt"
	"time"
)

// Login has a credential minted under a login of the caller's own.
type Login struct {
	Mount   string // below auth/, of the JWT method
	Role    string
	Token   string // the caller's; verified. It goes to Vault and nowhere else, and is not kept
	Expires time.Time
	Says    string // what the token says of the caller, in any form: calls share a lease where it is the same
}

// asCaller logs in with the caller's own token, for this entry alone. As with a
// run's, the accessor of the token that Vault gives is on disk before anything
// is minted under it; and Vault itself ends the token at the cap: it is renewed
// once, for that long and no longer.
func (m *Minter) asCaller(ctx context.Context, e *entry) error {
	login, token := e.spec.Login, e.callerToken
	e.callerToken = ""
	path := "auth/" + login.Mount + "/login"
	doing := fmt.Sprintf("log in as the caller at %s, role %s", path, login.Role)
	switch {
	case token == "":
		return fmt.Errorf("%s: %w: no caller's token is at hand", doing, ErrNoToken)
	case !login.Expires.IsZero() && !m.cfg.Now().Before(login.Expires):
		return fmt.Errorf("%s: %w: it has expired meanwhile; get a new one, and repeat the call", doing, ErrNoToken)
	}
	id, err := m.cfg.Mask.Add("caller token", token)
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	defer m.cfg.Mask.Retire(id)
	client, err := m.client()
	if err != nil {
		return err
	}
	at := m.cfg.Now()
	// Cut short, it would leave a token whose accessor nobody knows: a stop
	// waits for the answer.
	asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestLimit)
	defer cancel()
	secret, err := jwtLogin(asking, client, login.Mount, login.Role, token)
	if err != nil {
		return m.problem(doing, err)
	}
	s, err := m.session(secret, at)
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if s.accessor == "" {
		m.cfg.Mask.Retire(s.maskID)
		return fmt.Errorf("%s: %w: the token has no accessor, as a batch token; it could not be revoked: the role needs token_type=service", doing, ErrRefused)
	}
	e.token = s // from here on, whoever ends the entry ends the login
	if s.file, err = m.keepAccessor(callerFile, s.accessor); err != nil {
		return fmt.Errorf("keep the accessor of the caller's login: %w", err)
	}
	return m.cap(ctx, s, e.spec.TTL, doing)
}

// cap has Vault end a token after ttl, if it lives longer, and not much
// earlier, if the role allows.
func (m *Minter) cap(ctx context.Context, s *session, ttl time.Duration, doing string) error {
	var why error
	if s.renewable && s.ttl != ttl {
		asked := *s
		asked.ttl = ttl
		if why = m.renew(ctx, &asked); why == nil {
			s.expires = asked.expires
		}
	}
	if left := s.expires.Sub(m.cfg.Now()); s.expires.IsZero() || left > ttl+time.Second {
		err := fmt.Errorf("%s: %w: the token would outlive the credential's ttl of %s: give the role a token_max_ttl of that at most, and no token_period", doing, ErrRefused, ttl)
		if why != nil {
			err = fmt.Errorf("%w (it could not be shortened: %w)", err, why)
		}
		return err
	}
	return nil
}
