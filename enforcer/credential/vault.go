package credential

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"countersign/enforcer/mask"
)

// session is a client with a token of its own.
type session struct {
	client    *api.Client
	accessor  string
	policies  []string
	renewable bool
	ttl       time.Duration // at first
	expires   time.Time     // zero: never
	maskID    uint64
	file      string // where its accessor is written down; "" if it is not
}

// session makes a client for a token that Vault just gave, asked for at at.
func (m *Minter) session(secret *api.Secret, at time.Time) (*session, error) {
	if secret == nil || secret.Auth == nil || secret.Auth.ClientToken == "" {
		return nil, fmt.Errorf("%w: the answer held no token", ErrRefused)
	}
	id, err := m.cfg.Mask.Add("vault token", secret.Auth.ClientToken)
	if err != nil && !errors.Is(err, mask.ErrTooShort) { // a developer's "root": it goes nowhere but to Vault
		return nil, fmt.Errorf("a token of Vault's: %w", err)
	}
	client, err := m.client()
	if err != nil {
		return nil, err
	}
	client.SetToken(secret.Auth.ClientToken)
	s := &session{client: client, accessor: secret.Auth.Accessor, policies: secret.Auth.TokenPolicies,
		renewable: secret.Auth.Renewable, ttl: time.Duration(secret.Auth.LeaseDuration) * time.Second, maskID: id}
	if s.ttl > 0 {
		s.expires = at.Add(s.ttl)
	}
	return s, nil
}

// client is a copy of the operator's without a token, and without the retries
// of its own: a read repeated behind our back is a second mint.
func (m *Minter) client() (*api.Client, error) {
	client, err := m.cfg.Client.CloneWithHeaders()
	if err != nil {
		return nil, fmt.Errorf("vault client: %w", err)
	}
	client.ClearToken()
	client.SetMaxRetries(0)
	client.SetClientTimeout(requestLimit)
	return client, nil
}

// child makes a token below parent. Its policies are the parent's and no more:
// the default policy is not added to a parent that lacks it.
func (m *Minter) child(ctx context.Context, parent *session, name string, ttl, max time.Duration) (*session, error) {
	yes := true
	req := &api.TokenCreateRequest{
		DisplayName: name, TTL: whole(ttl), Renewable: &yes, Type: "service",
		NoDefaultPolicy: !contains(parent.policies, "default"),
	}
	if max > 0 {
		req.ExplicitMaxTTL = whole(max)
	}
	at := m.cfg.Now()
	secret, err := parent.client.Auth().Token().CreateWithContext(ctx, req)
	if err != nil {
		return nil, m.problem("make a token at auth/token/create", err)
	}
	s, err := m.session(secret, at)
	if err == nil && s.accessor == "" {
		err = fmt.Errorf("%w: the new token has no accessor", ErrRefused)
	}
	return s, err
}

// renew prolongs a session's own token, and says whether Vault knows it still.
func (m *Minter) renew(ctx context.Context, s *session) error {
	at := m.cfg.Now()
	secret, err := s.client.Auth().Token().RenewSelfWithContext(ctx, int(s.ttl/time.Second))
	if err != nil {
		return m.problem("renew a token at auth/token/renew-self", err)
	}
	if secret == nil || secret.Auth == nil {
		return fmt.Errorf("renew a token: %w: an empty answer", ErrRefused)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s.expires = at.Add(time.Duration(secret.Auth.LeaseDuration) * time.Second)
	return nil
}

// revokeAccessor revokes a token and all below it; one that is gone is fine.
func (m *Minter) revokeAccessor(ctx context.Context, by *session, accessor string) error {
	_, err := m.revokeKnown(ctx, by, accessor)
	return err
}

// revokeKnown also tells whether Vault knew the token. One that Vault has begun
// to revoke, and was killed over, has an accessor and no token: nobody can use
// it, and Vault ends it, and all below it, when it is back.
func (m *Minter) revokeKnown(ctx context.Context, by *session, accessor string) (known bool, err error) {
	err = by.client.Auth().Token().RevokeAccessorWithContext(ctx, accessor)
	var answer *api.ResponseError
	if errors.As(err, &answer) {
		said := strings.Join(answer.Errors, " ")
		if strings.Contains(said, "invalid accessor") || strings.Contains(said, "token not found") {
			return false, nil
		}
	}
	return err == nil, m.problem("revoke a token at auth/token/revoke-accessor", err)
}

// revokeLease returns when the secret is gone, not when Vault means to see to
// it. A lease that is gone is fine.
func (m *Minter) revokeLease(ctx context.Context, by *session, id string) error {
	// Not Sys().Revoke, which puts the id into the path: into logs, and out of
	// reach of a policy that names the path.
	_, err := by.client.Logical().WriteWithContext(ctx, "sys/leases/revoke", map[string]any{"lease_id": id, "sync": true})
	err = m.problem("revoke a lease at sys/leases/revoke", err)
	if errors.Is(err, ErrRefused) { // the database behind it is away, say: worth trying again
		err = fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return err
}

// problem gives an error of Vault's client one of our kinds. Vault's own words
// are kept, masked and short; the request, which may hold a secret, is not.
func (m *Minter) problem(doing string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, ErrNoToken) {
		return fmt.Errorf("%s: %w", doing, err)
	}
	var answer *api.ResponseError
	if !errors.As(err, &answer) {
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		return fmt.Errorf("%s: %w: %s", doing, ErrUnavailable, m.words(err.Error()))
	}
	said := m.words(strings.Join(answer.Errors, "; "))
	kind := ErrRefused
	switch code := answer.StatusCode; {
	case code == http.StatusServiceUnavailable && strings.Contains(said, "sealed"):
		return fmt.Errorf("%s: %w", doing, ErrSealed)
	case code == http.StatusForbidden:
		kind = ErrForbidden
	case code == http.StatusTooManyRequests, code == http.StatusPreconditionFailed, code >= 500:
		kind = ErrUnavailable
	}
	return fmt.Errorf("%s: %w (%d): %s", doing, kind, answer.StatusCode, said)
}

func (m *Minter) words(s string) string {
	s, _ = m.cfg.Mask.Text(strings.Join(strings.Fields(strings.ToValidUTF8(s, "?")), " "))
	if len(s) > 200 {
		s = strings.ToValidUTF8(s[:200], "") + "…"
	}
	return s
}

// whole rounds up to the seconds that Vault counts in.
func whole(d time.Duration) string {
	return fmt.Sprintf("%ds", max(1, int64((d+time.Second-1)/time.Second)))
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}
