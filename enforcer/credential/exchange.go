package credential

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Exchange has an issuer give a token for the caller's own (RFC 8693): what an
// upstream takes that knows no Vault, but the same people.
//
// Nothing of it is on disk. Should this process die, its tokens live on until
// the issuer's time is up: a token is taken only if that is within Spec.TTL. So
// does one whose answer is lost, for as long as the issuer gave it.
type Exchange struct {
	Issuer   string   // must be among Config.Issuers
	Audience []string // at least one of audience and resource
	Resource []string // absolute URIs (RFC 8707)
	Scope    string   // blank-separated; "" leaves it to the issuer
	Token    string   // the caller's; verified. It goes to the issuer and nowhere else, and is not kept
	Expires  time.Time
	Says     string // what the token says of the caller, in any form: calls share a lease where it is the same
}

// What an issuer says no to, or does not say.
var (
	ErrDeclined = errors.New("the issuer does not exchange the token")
	ErrSilent   = errors.New("no answer from the issuer, or one to come back later")
)

const (
	grantExchange   = "urn:ietf:params:oauth:grant-type:token-exchange"
	tokenTypeAccess = "urn:ietf:params:oauth:token-type:access_token"
	tokenTypeJWT    = "urn:ietf:params:oauth:token-type:jwt"
)

// issued is what an issuer gave for one entry.
type issued struct {
	by      *issuer
	tokens  []string // the access token; and a refresh token, which nobody asked for
	expires time.Time
	revoke  string // where to give them back; "" if the issuer takes none
}

// check refuses what would be a token for everything.
func (x *Exchange) check() error {
	if len(x.Audience)+len(x.Resource) == 0 {
		return errors.New("a token exchange needs an audience or a resource")
	}
	return nil
}

func (x *Exchange) doing() string { return "exchange the caller's token at " + x.Issuer }

// exchange fills the entry with a token for the caller's.
func (m *Minter) exchange(ctx context.Context, e *entry) error {
	x, token := e.spec.Exchange, e.callerToken
	e.callerToken = ""
	e.end = e.made.Add(e.spec.TTL)
	by := m.issuers[x.Issuer]
	switch {
	case by == nil:
		return fmt.Errorf("%s: %w: the operator has not named a client of ours there (COUNTERSIGN_TOKEN_EXCHANGE)", x.doing(), ErrDeclined)
	case token == "":
		return fmt.Errorf("%s: %w: no caller's token is at hand", x.doing(), ErrNoToken)
	case !x.Expires.IsZero() && !m.cfg.Now().Before(x.Expires):
		return fmt.Errorf("%s: %w: it has expired meanwhile; get a new one, and repeat the call", x.doing(), ErrNoToken)
	case m.owed(x.Issuer) >= mostOwed:
		return fmt.Errorf("%s: %w: it has not taken back %d tokens that it was told to, and is asked for no more until it does, or their time is up", x.doing(), ErrSilent, mostOwed)
	}
	id, err := m.cfg.Mask.Add("caller token", token)
	if err != nil {
		return fmt.Errorf("%s: %w", x.doing(), err)
	}
	defer m.cfg.Mask.Retire(id)

	form := url.Values{
		"grant_type": {grantExchange}, "subject_token": {token}, "subject_token_type": {tokenTypeAccess},
		"requested_token_type": {tokenTypeAccess},
	}
	if len(x.Audience) > 0 {
		form["audience"] = x.Audience
	}
	if len(x.Resource) > 0 {
		form["resource"] = x.Resource
	}
	if x.Scope != "" {
		form.Set("scope", x.Scope)
	}
	at, err := by.discover(ctx)
	if err != nil {
		return m.worded(x.doing(), err)
	}
	var answer tokenAnswer
	// Cut short, it would leave a token that nobody can give back: a stop waits
	// for the answer, which has a limit of its own.
	err = by.post(context.WithoutCancel(ctx), at.Token, form, &answer)
	// An answer of the wrong shape may hold a token all the same.
	if herr := m.hold(e, &issued{by: by, revoke: at.Revocation}, answer.AccessToken, answer.RefreshToken); err == nil {
		err = herr
	}
	if err != nil {
		return m.worded(x.doing(), err)
	}
	return m.takeIssued(ctx, e, answer)
}

// mostOwed bounds the tokens of one issuer that are to be given back, again and
// again: a broken one gives a token for every call, and takes none.
const mostOwed = 64

// owed counts those.
func (m *Minter) owed(issuer string) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.all {
		if e.failed && e.spec.Exchange != nil && e.spec.Exchange.Issuer == issuer {
			n++
		}
	}
	return n
}

// hold masks what an issuer gave. From here on there is something to give back,
// whatever is wrong with it.
func (m *Minter) hold(e *entry, given *issued, tokens ...string) error {
	given.tokens = slices.DeleteFunc(tokens, func(t string) bool { return t == "" })
	if len(given.tokens) > 0 {
		e.issued = given
	}
	for _, token := range given.tokens {
		if err := m.mask(e, token); err != nil {
			return &oauthError{ErrDeclined, err.Error()}
		}
	}
	return nil
}

// takeIssued makes an answer the entry's secret.
func (m *Minter) takeIssued(ctx context.Context, e *entry, answer tokenAnswer) error {
	x := e.spec.Exchange
	e.expires = e.end
	if answer.ExpiresIn > 0 { // in seconds; more than a century is as good as one
		e.expires = e.made.Add(time.Duration(min(answer.ExpiresIn, 100*365*86400)) * time.Second)
		if e.issued != nil && answer.RefreshToken == "" { // whose end nobody tells
			e.issued.expires = e.expires
		}
	}
	problem := ""
	switch {
	case answer.AccessToken == "":
		problem = "its answer holds no access_token"
	case !strings.EqualFold(answer.TokenType, "Bearer"):
		problem = "its answer is no bearer token"
	case answer.IssuedType != tokenTypeAccess && answer.IssuedType != tokenTypeJWT:
		problem = "its answer is not said to be an access token (issued_token_type)"
	case x.Scope != "" && !within(answer.Scope, x.Scope):
		problem = "its token may do more than was asked for (scope)"
	case answer.RefreshToken != "":
		problem = "its answer holds a refresh token, which would outlive the credential: have it give this client none"
	case answer.ExpiresIn <= 0:
		problem = "its answer does not say for how many seconds the token lives (expires_in), which may be no longer than the credential's ttl"
	case e.expires.After(e.end.Add(time.Second)):
		problem = fmt.Sprintf("its token lives for %s, and would outlive the credential's ttl of %s: give tokens for this client a shorter life, or the credential a longer ttl",
			e.expires.Sub(e.made), e.spec.TTL)
	}
	if problem != "" {
		return fmt.Errorf("%s: %w: %s", x.doing(), ErrDeclined, problem)
	}
	e.fields = map[string]string{"access_token": answer.AccessToken}
	ev := m.event("mint", e, nil)
	ev.Path, _ = m.cfg.Mask.Text("token exchange at " + x.Issuer)
	ev.Params = []string{"audience " + strings.Join(x.Audience, " "), "resource " + strings.Join(x.Resource, " "), "scope " + x.Scope}
	ev.Params = slices.DeleteFunc(ev.Params, func(p string) bool { return strings.HasSuffix(p, " ") })
	if err := m.cfg.Record(ctx, ev); err != nil {
		return fmt.Errorf("record the mint: %w", err)
	}
	e.told = true
	return nil
}

// within tells whether every scope that was given was asked for. One that is
// not named is what was asked for (RFC 8693 section 2.2.1).
func within(given, asked string) bool {
	have := strings.Fields(asked)
	for _, s := range strings.Fields(given) {
		if !slices.Contains(have, s) {
			return false
		}
	}
	return true
}

// giveBack ends what an issuer gave (RFC 7009), and forgets the entry. What has
// expired is gone; what the issuer has not taken back by the end of the
// credential's ttl is left to it, on record: a token that was used has expired by
// then, and one that was refused nobody has seen.
func (m *Minter) giveBack(ctx context.Context, e *entry) error {
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	was := e.issued
	action := "revoke"
	m.mu.Lock()
	over := !m.cfg.Now().Before(e.end)
	m.mu.Unlock()
	var left error
	switch expired := !was.expires.IsZero() && !m.cfg.Now().Before(was.expires); {
	case expired || len(was.tokens) == 0:
	case was.revoke == "":
		action = "forget" // nobody can take it back; see takeIssued
	default:
		for _, token := range was.tokens {
			if err := was.by.post(ctx, was.revoke, url.Values{"token": {token}}, nil); err != nil {
				if left = m.worded("revoke a token at "+was.by.name, err); !over {
					return left
				}
				action = "forget"
			}
		}
	}
	if !m.forget(e) || !e.told && !e.failed {
		return nil
	}
	m.mu.Lock()
	ev := m.event(action, e, left)
	m.mu.Unlock()
	if err := m.cfg.Record(ctx, ev); err != nil {
		m.cfg.Log.Error("a revocation is not on record", "key", e.key, "err", err)
	}
	return nil
}

// worded says what an issuer's error is about; its own words are masked, and
// cut short.
func (m *Minter) worded(doing string, err error) error {
	var said *oauthError
	if errors.As(err, &said) {
		return fmt.Errorf("%s: %w: %s", doing, said.kind, m.words(said.text))
	}
	return fmt.Errorf("%s: %w: %s", doing, ErrSilent, m.words(err.Error()))
}
