// Package identity turns a bearer token into the caller it stands for.
//
// It promises:
//
//   - Only a token that a configured issuer signed for this resource, and that
//     is in force now, yields a caller. Whatever cannot be checked is refused:
//     a token bound to a key that the caller did not prove (cnf), a critical
//     header, groups that are kept somewhere else.
//   - A key that an issuer withdrew is honoured for at most StaleAfter, and
//     where the issuer can be reached for little more than RefreshAfter; tokens
//     verified earlier are no exception.
//   - No token makes this process contact anyone but the configured issuers,
//     and hostile tokens do so no more than a few times a minute.
//   - An issuer that is down is an Error with code Unavailable: the caller is
//     told to come back, not that the token is bad.
//   - Neither an error nor a challenge repeats the token.
package identity

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"countersign/rules"
)

// Config is what the operator says about tokens.
type Config struct {
	Issuers     []string          // exact iss values, https URLs
	Audience    string            // what aud must contain: the URL of this resource, or a name that stands for it
	Never       func(string) bool // an audience that must not stand beside it in aud: a token is good for one resource; may be nil
	GroupsClaim string            // claim that lists the subject's groups; "groups" if empty
	Client      *http.Client      // for discovery and keys; http.DefaultClient if nil. Redirects are never followed
	Now         func() time.Time  // time.Now if nil
	AllowHTTP   bool              // accept http:// issuers on a loopback address
}

// Caller is a verified token. Its maps and slices are shared: read only.
type Caller struct {
	Subject rules.Subject
	Client  string // client_id, or azp; may be empty
	Expires time.Time
}

// Codes of an Error.
const (
	InvalidToken = "invalid_token" // RFC 6750 section 3.1; 401
	MissingToken = "missing_token" // none was sent; 401, without an error code
	Unavailable  = "unavailable"   // it could not be checked now; 503
)

// Error says why there is no caller. Reason is for the operator's record; it
// quotes neither the token nor a signature, and a client is not told it.
type Error struct {
	Code   string
	Reason string
}

func (e *Error) Error() string { return "identity: " + e.Code + ": " + e.Reason }

// Status is the HTTP status that goes with the error.
func (e *Error) Status() int {
	if e.Code == Unavailable {
		return http.StatusServiceUnavailable
	}
	return http.StatusUnauthorized
}

func invalid(format string, args ...any) *Error {
	return &Error{InvalidToken, fmt.Sprintf(format, args...)}
}

const (
	maxToken = 16 << 10 // bytes; a token with hundreds of groups fits
	maxCache = 10_000   // verified tokens remembered
	leeway   = time.Minute
)

// Verifier verifies tokens. It is safe for concurrent use.
type Verifier struct {
	audience string
	never    func(string) bool
	groups   string
	now      func() time.Time
	issuers  map[string]*issuer

	mu    sync.RWMutex
	cache map[[sha256.Size]byte]verified // by digest: memory holds no token
}

// verified is a token that passed, whom it is for, and the key that must stay
// in force for it to pass again.
type verified struct {
	caller    Caller
	audiences []string
	issuer    *issuer
	key       thumbprint
}

// New checks the configuration; it contacts nobody. Issuers are asked when the
// first token of theirs arrives, or by Ready.
func New(cfg Config) (*Verifier, error) {
	if len(cfg.Issuers) == 0 {
		return nil, errors.New("identity: no issuer configured: nobody could call")
	}
	if cfg.Audience == "" {
		return nil, errors.New("identity: no audience configured: tokens meant for others would be accepted")
	}
	v := &Verifier{
		audience: cfg.Audience,
		never:    cfg.Never,
		groups:   cfg.GroupsClaim,
		now:      cfg.Now,
		issuers:  map[string]*issuer{},
		cache:    map[[sha256.Size]byte]verified{},
	}
	if v.groups == "" {
		v.groups = "groups"
	}
	if v.now == nil {
		v.now = time.Now
	}
	client := guarded(cfg.Client)
	for _, iss := range cfg.Issuers {
		u, err := url.Parse(iss)
		if err != nil || u.Host == "" || u.User != nil || strings.ContainsAny(iss, "?#") {
			return nil, fmt.Errorf("identity: issuer %q is not a plain URL", iss)
		}
		if u.Scheme != "https" && !(cfg.AllowHTTP && u.Scheme == "http" && loopback(u.Hostname())) {
			return nil, fmt.Errorf("identity: issuer %q must use https", iss)
		}
		if v.issuers[iss] != nil {
			return nil, fmt.Errorf("identity: issuer %q is listed twice", iss)
		}
		v.issuers[iss] = newIssuer(u, iss, client, v.now)
	}
	return v, nil
}

// Verify returns the caller that the token stands for, or an *Error. The token
// must be for the configured audience, or for one of also: further names of
// the very resource that is called (RFC 8707 lets a client name it narrowly).
func (v *Verifier) Verify(ctx context.Context, bearer string, also ...string) (Caller, error) {
	if bearer == "" {
		return Caller{}, &Error{MissingToken, "no bearer token was sent"}
	}
	if len(bearer) > maxToken {
		return Caller{}, invalid("the token is longer than %d bytes", maxToken)
	}
	digest := sha256.Sum256([]byte(bearer))
	if e, ok := v.remembered(digest); ok {
		if v.audienceOf(e.audiences, also) == "" {
			return Caller{}, invalid("its audience is not %q", v.audience)
		}
		return e.caller, nil
	}
	head, claims, problem := parse(bearer)
	if problem != nil {
		return Caller{}, problem
	}
	// Nothing is verified yet: iss only picks among the configured issuers.
	iss := v.issuers[text(claims, "iss")]
	if iss == nil {
		return Caller{}, invalid("its issuer is not one of those configured")
	}
	audiences := list(claims["aud"])
	audience := v.audienceOf(audiences, also)
	if audience == "" {
		return Caller{}, invalid("its audience is not %q", v.audience)
	}
	if v.never != nil && slices.ContainsFunc(audiences, v.never) {
		return Caller{}, invalid("it has another audience than %q, too, and must be good for one of the two", v.audience)
	}
	key, problem := iss.verify(ctx, audience, bearer, head)
	if problem != nil {
		return Caller{}, problem
	}
	caller, problem := v.caller(iss.name, claims)
	if problem != nil {
		return Caller{}, problem
	}
	v.remember(digest, verified{caller, audiences, iss, key})
	return caller, nil
}

// audienceOf picks the audience of a token that makes it one for us, or "".
func (v *Verifier) audienceOf(audiences, also []string) string {
	for _, a := range audiences {
		if a == v.audience || slices.Contains(also, a) {
			return a
		}
	}
	return ""
}

// Ready returns nil when at least one issuer's keys are at hand, and asks for
// them if need be. One issuer being down must not take the others' callers
// down with it.
func (v *Verifier) Ready(ctx context.Context) error {
	var errs []error
	for _, iss := range v.issuers {
		if _, err := iss.fresh(ctx); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) < len(v.issuers) {
		return nil
	}
	return errors.Join(errs...)
}

func (v *Verifier) remembered(digest [sha256.Size]byte) (verified, bool) {
	v.mu.RLock()
	e, ok := v.cache[digest]
	v.mu.RUnlock()
	if !ok || !v.now().Before(e.caller.Expires) || !e.issuer.honours(e.key) {
		return verified{}, false
	}
	return e, true
}

func (v *Verifier) remember(digest [sha256.Size]byte, e verified) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.cache) >= maxCache {
		now := v.now()
		for d, old := range v.cache {
			if !now.Before(old.caller.Expires) {
				delete(v.cache, d)
			}
		}
	}
	for d := range v.cache { // all in force: any of them may be verified again
		if len(v.cache) < maxCache {
			break
		}
		delete(v.cache, d)
	}
	v.cache[digest] = e
}

// caller checks what the signature cannot vouch for and reads the rest.
func (v *Verifier) caller(iss string, claims map[string]any) (Caller, *Error) {
	now := v.now()
	exp, ok := date(claims, "exp")
	if !ok {
		return Caller{}, invalid("exp is missing or is not a date")
	}
	if !now.Before(exp) {
		return Caller{}, invalid("it expired at %s", exp.UTC().Format(time.RFC3339))
	}
	for _, name := range []string{"nbf", "iat"} {
		at, ok := date(claims, name)
		if _, there := claims[name]; there && !ok {
			return Caller{}, invalid("%s is not a date", name)
		}
		if ok && at.After(now.Add(leeway)) {
			return Caller{}, invalid("%s lies in the future: %s", name, at.UTC().Format(time.RFC3339))
		}
	}
	if _, bound := claims["cnf"]; bound {
		return Caller{}, invalid("it is bound to a key (cnf): sent as a plain bearer token it proves nothing")
	}
	c := Caller{Subject: rules.Subject{Issuer: iss, Sub: text(claims, "sub")}, Expires: exp}
	if !plain(c.Subject.Sub) {
		return Caller{}, invalid("sub is missing, too long, or holds control characters")
	}
	id, azp := text(claims, "client_id"), text(claims, "azp")
	if id != "" && azp != "" && id != azp {
		return Caller{}, invalid("client_id and azp name different clients")
	}
	if c.Client = id + azp; id != "" {
		c.Client = id
	}
	if c.Client != "" && !plain(c.Client) {
		return Caller{}, invalid("the client's name is too long, or holds control characters")
	}
	if email := text(claims, "email"); plain(email) && !denied(claims["email_verified"]) {
		c.Subject.Email = email
	}
	var problem *Error
	if c.Subject.Groups, problem = v.groupsOf(claims); problem != nil {
		return Caller{}, problem
	}
	c.Subject.Claims = map[string]any{}
	for name, value := range claims {
		switch name {
		case "iss", "sub", "email", v.groups: // told above, after checks that Claims must not bypass
		default:
			c.Subject.Claims[name] = value
		}
	}
	return c, nil
}

// groupsOf is strict because rules that deny read groups too: a membership
// that goes unseen could open what it was meant to close.
func (v *Verifier) groupsOf(claims map[string]any) ([]string, *Error) {
	if elsewhere, ok := claims["_claim_names"].(map[string]any); ok { // OpenID Connect Core 5.6.2
		if _, ok := elsewhere[v.groups]; ok {
			return nil, invalid("%s is kept elsewhere (_claim_names): have the issuer put fewer groups into the token", v.groups)
		}
	}
	value, there := claims[v.groups]
	if !there || value == nil {
		return nil, nil
	}
	groups := list(value)
	if groups == nil {
		return nil, invalid("%s is not a list of strings", v.groups)
	}
	return groups, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
