// Package signin has a person sign in, now, at the identity provider: OpenID
// Connect's authorization code flow with PKCE, for whoever is about to decide
// about an approval. It knows nothing of pages, cookies or command lines: the
// approval page and the enforcer's API for the command line both use it.
//
// It promises:
//
//   - A Login comes only of an ID token that the issuer signed for this client
//     and for nobody else, answering this very flow (nonce, code, PKCE), in
//     force now.
//   - The person has signed in within MaxAge, as the token itself says
//     (auth_time); where the flow asks for a fresh sign-in, not before the flow
//     began. A token that does not say when is refused.
//   - An issuer that is down is ErrUnavailable; nothing else is.
//   - No error repeats a token, a code or a secret.
//
// Whether the acr of the login is good enough is for the vote to check, under
// the policy then in force.
package signin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"countersign/enforcer/identity"
)

// MaxAge is how long ago a person may have signed in, to vote.
const MaxAge = 5 * time.Minute

const (
	refresh = 5 * time.Minute  // of what discovery said
	again   = 2 * time.Second  // before an issuer that failed is asked again
	limit   = 10 * time.Second // for one question to the issuer
	skew    = time.Minute      // of its clock and ours
	behind  = 10 * time.Second // its clock may be, where a sign-in has to be fresh: who signed in within that time before is taken for new
	maxBody = 256 << 10
)

// Why nobody has signed in.
var (
	ErrUnavailable = errors.New("the identity provider cannot be asked now: try again")
	ErrRefused     = errors.New("the identity provider has not signed this person in")
	ErrNotFresh    = errors.New("the sign-in is not fresh: sign in again")
)

// Login is who has signed in, and how, as the ID token says.
type Login struct {
	Issuer, Sub string
	Name, Email string // for people to read; the e-mail address only if it is verified, or not said not to be
	Groups      []string
	ACR         string
	AMR         []string
	AuthTime    time.Time // when they signed in at the issuer
	At          time.Time // when we were told
}

// Config is a client of ours at one issuer: its own, not one by which agents
// get tokens.
type Config struct {
	Issuer      string   // as iss has it
	ID, Secret  string   // the client; without a secret it is a public one
	Scopes      []string // asked for; openid, profile and email if empty
	GroupsClaim string   // "groups" if empty
	AllowHTTP   bool     // an http:// issuer on a loopback address
	HTTP        *http.Client
	Now         func() time.Time
}

// Client signs people in at its issuer. It is safe for concurrent use.
type Client struct {
	Config
	origin *url.URL
	tokens *identity.Verifier

	mu    sync.Mutex // over what discovery said
	found endpoints
	asked time.Time
	err   error
}

// endpoints are what discovery (OpenID Connect Discovery 4) says of an issuer.
type endpoints struct {
	Issuer        string   `json:"issuer"`
	Authorization string   `json:"authorization_endpoint"`
	Token         string   `json:"token_endpoint"`
	Auth          []string `json:"token_endpoint_auth_methods_supported"`
	NamesItself   bool     `json:"authorization_response_iss_parameter_supported"`
}

// New checks the configuration; it contacts nobody.
func New(c Config) (*Client, error) {
	if c.ID == "" {
		return nil, errors.New("signin: no client id")
	}
	if len(c.Scopes) == 0 {
		c.Scopes = []string{"openid", "profile", "email"}
	}
	if !slices.Contains(c.Scopes, "openid") {
		return nil, errors.New("signin: the scopes do not hold openid, without which there is no ID token")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	client := http.Client{Timeout: limit}
	if c.HTTP != nil {
		client = *c.HTTP
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c.HTTP = &client
	tokens, err := identity.New(identity.Config{
		Issuers: []string{c.Issuer}, Audience: c.ID, Never: func(audience string) bool { return audience != c.ID },
		GroupsClaim: c.GroupsClaim, Client: c.HTTP, Now: c.Now, AllowHTTP: c.AllowHTTP,
	})
	if err != nil {
		return nil, fmt.Errorf("signin: %w", err)
	}
	origin, err := url.Parse(c.Issuer)
	if err != nil {
		return nil, fmt.Errorf("signin: %w", err)
	}
	return &Client{Config: c, origin: origin, tokens: tokens}, nil
}

// Flow is one sign-in: what its beginning and its end must agree on. Whoever
// begins it keeps it where the person's browser can neither read nor change it.
type Flow struct {
	Redirect  string    `json:"redirect"`        // where the browser comes back
	State     string    `json:"state"`           // unguessable; checked by whoever receives the answer
	Nonce     string    `json:"nonce"`           // unguessable; in the ID token
	Challenge string    `json:"challenge"`       // of PKCE: base64url(SHA-256(verifier))
	Began     time.Time `json:"began"`           // now, of the enforcer
	Fresh     bool      `json:"fresh,omitempty"` // the person signs in after Began, whatever session there is
	ACR       []string  `json:"acr,omitempty"`   // asked for, the most wanted first
}

// Begin is the URL to send the person's browser to.
func (c *Client) Begin(ctx context.Context, f Flow) (string, error) {
	for what, value := range map[string]string{"redirect": f.Redirect, "state": f.State, "nonce": f.Nonce, "challenge": f.Challenge} {
		if value == "" {
			return "", errors.New("signin: the flow has no " + what)
		}
	}
	at, err := c.discover(ctx)
	if err != nil {
		return "", err
	}
	u, err := url.Parse(at.Authorization)
	if err != nil { // checked when it was read
		return "", fmt.Errorf("signin: %w", err)
	}
	q := u.Query()
	for name, value := range map[string]string{
		"response_type": "code", "client_id": c.ID, "redirect_uri": f.Redirect, "scope": strings.Join(c.Scopes, " "),
		"state": f.State, "nonce": f.Nonce, "code_challenge": f.Challenge, "code_challenge_method": "S256",
		"max_age": strconv.Itoa(int(MaxAge.Seconds())),
	} {
		q.Set(name, value)
	}
	if f.Fresh {
		q.Set("prompt", "login")
	}
	if len(f.ACR) > 0 {
		q.Set("acr_values", strings.Join(f.ACR, " "))
	}
	u.RawQuery = q.Encode()
	return u.String(), nil
}

// Answer is what came back to the redirect, and the verifier that Flow.Challenge
// was made of. Its state has been compared already.
type Answer struct{ Code, Issuer, Verifier string }

// Finish redeems the code for the person who has signed in.
func (c *Client) Finish(ctx context.Context, f Flow, a Answer) (Login, error) {
	at, err := c.discover(ctx)
	if err != nil {
		return Login{}, err
	}
	if a.Issuer != "" && a.Issuer != c.Issuer || a.Issuer == "" && at.NamesItself { // RFC 9207
		return Login{}, fmt.Errorf("%w: the answer is not from %s", ErrRefused, c.Issuer)
	}
	token, err := c.redeem(ctx, at, f, a)
	if err != nil {
		return Login{}, err
	}
	caller, err := c.tokens.Verify(ctx, token)
	var bad *identity.Error
	switch {
	case errors.As(err, &bad) && bad.Code == identity.Unavailable:
		return Login{}, fmt.Errorf("%w (%s)", ErrUnavailable, bad.Reason)
	case err != nil:
		return Login{}, fmt.Errorf("%w: its ID token is not good: %w", ErrRefused, err)
	}
	claims := caller.Subject.Claims
	if nonce, _ := claims["nonce"].(string); nonce != f.Nonce || nonce == "" {
		return Login{}, fmt.Errorf("%w: the ID token belongs to another sign-in", ErrRefused)
	}
	if caller.Client != "" && caller.Client != c.ID {
		return Login{}, fmt.Errorf("%w: the ID token is another client's", ErrRefused)
	}
	l := Login{Issuer: caller.Subject.Issuer, Sub: caller.Subject.Sub, Email: caller.Subject.Email, Groups: caller.Subject.Groups, At: c.Now().UTC()}
	l.Name, _ = claims["name"].(string)
	l.ACR, _ = claims["acr"].(string)
	if methods, ok := claims["amr"].([]any); ok {
		for _, m := range methods {
			if s, ok := m.(string); ok {
				l.AMR = append(l.AMR, s)
			}
		}
	}
	seconds, ok := claims["auth_time"].(float64)
	if !ok || seconds <= 0 || seconds > 1e11 {
		return Login{}, fmt.Errorf("%w: the ID token does not say when (auth_time); have the issuer put it in", ErrNotFresh)
	}
	l.AuthTime = time.Unix(int64(seconds), 0).UTC()
	switch {
	case l.AuthTime.After(l.At.Add(skew)):
		return Login{}, fmt.Errorf("%w: it is said to be at %s, which is yet to come", ErrNotFresh, l.AuthTime.Format(time.RFC3339))
	case l.At.Sub(l.AuthTime) > MaxAge:
		return Login{}, fmt.Errorf("%w: it was at %s", ErrNotFresh, l.AuthTime.Format(time.RFC3339))
	case f.Fresh && l.AuthTime.Before(f.Began.Add(-behind)):
		return Login{}, fmt.Errorf("%w: it was at %s, before this was asked; the issuer must honour prompt=login, and its clock be right to %s", ErrNotFresh, l.AuthTime.Format(time.RFC3339), behind)
	}
	return l, nil
}

// redeem trades the code for an ID token (RFC 6749 section 4.1.3, RFC 7636
// section 4.5).
func (c *Client) redeem(ctx context.Context, at endpoints, f Flow, a Answer) (string, error) {
	form := url.Values{"grant_type": {"authorization_code"}, "code": {a.Code}, "redirect_uri": {f.Redirect}, "code_verifier": {a.Verifier}}
	basic := c.Secret != "" && (len(at.Auth) == 0 || slices.Contains(at.Auth, "client_secret_basic"))
	if !basic {
		form.Set("client_id", c.ID)
		if c.Secret != "" {
			form.Set("client_secret", c.Secret)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, at.Token, strings.NewReader(form.Encode()))
	if err != nil {
		return "", fmt.Errorf("signin: %w", err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	if basic { // RFC 6749 section 2.3.1: form-encoded first
		req.SetBasicAuth(url.QueryEscape(c.ID), url.QueryEscape(c.Secret))
	}
	var said struct {
		ID    string `json:"id_token"`
		Error string `json:"error"`
	}
	status, err := c.read(req, &said)
	switch {
	case err != nil || status >= 500 || status == http.StatusTooManyRequests:
		return "", unavailable(err, status)
	case status != http.StatusOK:
		return "", fmt.Errorf("%w: it refuses the code (%d %.60q)", ErrRefused, status, said.Error)
	case said.ID == "":
		return "", fmt.Errorf("%w: it gives no ID token", ErrRefused)
	}
	return said.ID, nil
}

// discover is what the issuer says of itself, not older than refresh.
func (c *Client) discover(ctx context.Context) (endpoints, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch age := c.Now().Sub(c.asked); {
	case c.asked.IsZero():
	case c.err == nil && age < refresh, c.err != nil && age < again:
		return c.found, c.err
	}
	found, err := c.ask(ctx)
	if ctx.Err() != nil { // whoever asked has left: says nothing of the issuer
		return endpoints{}, fmt.Errorf("%w (%w)", ErrUnavailable, ctx.Err())
	}
	c.found, c.err, c.asked = found, err, c.Now()
	return found, err
}

func (c *Client) ask(ctx context.Context) (endpoints, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(c.Issuer, "/")+"/.well-known/openid-configuration", nil)
	if err != nil {
		return endpoints{}, fmt.Errorf("signin: %w", err)
	}
	var at endpoints
	status, err := c.read(req, &at)
	switch {
	case err != nil || status != http.StatusOK:
		return endpoints{}, unavailable(err, status)
	case at.Issuer != c.Issuer:
		return endpoints{}, fmt.Errorf("%w (its configuration is that of another issuer)", ErrUnavailable)
	case !c.allowed(at.Authorization) || !c.allowed(at.Token):
		return endpoints{}, fmt.Errorf("%w (its endpoints must be at %s, or at another named host by https)", ErrUnavailable, c.origin.Host)
	}
	return at, nil
}

// allowed guards against a document that points into our network: an endpoint
// is at the issuer's own origin, or by https at a named host.
func (c *Client) allowed(uri string) bool {
	u, err := url.Parse(uri)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" {
		return false
	}
	own := u.Scheme == c.origin.Scheme && u.Host == c.origin.Host
	return own || u.Scheme == "https" && net.ParseIP(u.Hostname()) == nil && u.Hostname() != "localhost"
}

// read does one request, whose answer is one JSON object.
func (c *Client) read(req *http.Request, into any) (int, error) {
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return 0, err
	}
	body, err := io.ReadAll(http.MaxBytesReader(nil, resp.Body, maxBody))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return 0, err
	}
	if err := json.Unmarshal(body, into); err != nil && resp.StatusCode == http.StatusOK {
		return 0, errors.New("its answer is not JSON") // nothing of it: it may hold a token
	}
	return resp.StatusCode, nil
}

func unavailable(err error, status int) error {
	if err == nil {
		return fmt.Errorf("%w (it answered %d)", ErrUnavailable, status)
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err // the URL may hold what is not for a log
	}
	return fmt.Errorf("%w (%w)", ErrUnavailable, err)
}
