package identity

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	jose "github.com/go-jose/go-jose/v4"
	"golang.org/x/time/rate"
)

// How old an issuer's keys may get.
const (
	RefreshAfter = 5 * time.Minute  // then the next token has them fetched again, in the background
	StaleAfter   = 15 * time.Minute // then no token passes before they are
)

const (
	fetchLimit = 10 * time.Second // for discovery and keys together
	maxBody    = 1 << 20
	maxKeys    = 100
	minRSA     = 2048
)

type thumbprint [32]byte // RFC 7638, SHA-256

// keySet is what an issuer published at one moment.
type keySet struct {
	keys    []jose.JSONWebKey
	has     map[thumbprint]bool
	fetched time.Time
}

// issuer holds one issuer's keys.
type issuer struct {
	name    string
	url     *url.URL
	client  *http.Client
	now     func() time.Time
	current atomic.Pointer[keySet]
	unknown *rate.Limiter // fetches that a token with an unknown key may cause

	mu       sync.Mutex
	flight   *flight
	failures int
	retry    time.Time // not before, after failures
	last     error
}

// flight is one fetch that any number of callers wait for.
type flight struct {
	done chan struct{}
	keys *keySet
	err  error
}

func newIssuer(u *url.URL, name string, client *http.Client, now func() time.Time) *issuer {
	// Three at once, then one every ten seconds: rotation is seen at once, and
	// made-up key ids do not turn this process against its issuer.
	return &issuer{name: name, url: u, client: client, now: now, unknown: rate.NewLimiter(rate.Every(10*time.Second), 3)}
}

// honours tells whether the key is still in force, from memory alone.
func (i *issuer) honours(key thumbprint) bool {
	set := i.current.Load()
	if set == nil {
		return false
	}
	age := i.now().Sub(set.fetched)
	if age >= RefreshAfter {
		i.fetch()
	}
	return age < StaleAfter && set.has[key]
}

// fresh returns keys that are not stale, fetching them if need be.
func (i *issuer) fresh(ctx context.Context) (*keySet, error) {
	if set := i.current.Load(); set != nil {
		switch age := i.now().Sub(set.fetched); {
		case age < RefreshAfter:
			return set, nil
		case age < StaleAfter:
			i.fetch()
			return set, nil
		}
	}
	return i.wait(ctx, i.fetch())
}

func (i *issuer) wait(ctx context.Context, f *flight) (*keySet, error) {
	select {
	case <-f.done:
		return f.keys, f.err
	case <-ctx.Done():
		return nil, fmt.Errorf("identity: waiting for the keys of %s: %w", i.name, ctx.Err())
	}
}

// fetch starts a fetch, or joins the one under way. After a failure it waits
// one second, then two, up to thirty, before it asks again.
func (i *issuer) fetch() *flight {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.flight != nil {
		return i.flight
	}
	f := &flight{done: make(chan struct{})}
	if i.now().Before(i.retry) {
		f.err = i.last
		close(f.done)
		return f
	}
	i.flight = f
	go func() {
		// Not the caller's context: others wait for this fetch too.
		ctx, cancel := context.WithTimeout(context.Background(), fetchLimit)
		defer cancel()
		f.keys, f.err = i.download(ctx)
		i.mu.Lock()
		defer i.mu.Unlock()
		if f.err == nil {
			i.current.Store(f.keys)
			i.failures, i.retry = 0, time.Time{}
		} else {
			f.err = fmt.Errorf("identity: keys of %s: %s", i.name, clip(f.err))
			i.last, i.retry = f.err, i.now().Add(min(time.Second<<min(i.failures, 5), 30*time.Second))
			i.failures++
		}
		i.flight = nil
		close(f.done)
	}()
	return f
}

// verify checks the signature, and what go-oidc checks besides, and returns
// the key that made it.
func (i *issuer) verify(ctx context.Context, audience, token string, h header) (thumbprint, *Error) {
	set, err := i.fresh(ctx)
	if err != nil {
		return thumbprint{}, &Error{Unavailable, err.Error()}
	}
	match := &matcher{set: set, head: h}
	verifier := oidc.NewVerifier(i.name, match, &oidc.Config{ClientID: audience, SupportedSigningAlgs: algorithms, Now: i.now})
	_, err = verifier.Verify(ctx, token)
	if err != nil && match.candidates == 0 && i.unknown.AllowN(i.now(), 1) {
		// A key that we have not seen: a rotation, or an invention. Ask, but
		// never let go of good keys because the answer failed.
		if match.set, err = i.wait(ctx, i.fetch()); err != nil {
			return thumbprint{}, &Error{Unavailable, err.Error()}
		}
		_, err = verifier.Verify(ctx, token)
	}
	switch {
	case err != nil && match.candidates == 0:
		return thumbprint{}, invalid("%s publishes no key that could have signed it", i.name)
	case err != nil && !match.signed:
		return thumbprint{}, invalid("its signature is wrong")
	case err != nil:
		return thumbprint{}, invalid("%s", clip(err))
	}
	return match.key, nil
}

// clip shortens the errors of go-oidc, which quote whole answers and claims.
func clip(err error) string {
	s := strings.ToValidUTF8(err.Error(), "?")
	if len(s) > 300 {
		s = strings.ToValidUTF8(s[:300], "") + "…"
	}
	return s
}

// matcher is a key set to go-oidc; it remembers what became of one token.
type matcher struct {
	set        *keySet
	head       header
	candidates int
	signed     bool
	key        thumbprint
}

// VerifySignature implements oidc.KeySet.
func (m *matcher) VerifySignature(_ context.Context, token string) ([]byte, error) {
	m.candidates, m.signed = 0, false
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(m.head.Alg)})
	if err != nil {
		return nil, errors.New("not a signed JWT")
	}
	for _, key := range m.set.keys {
		if m.head.Kid != "" && key.KeyID != m.head.Kid || !fits(key, m.head.Alg) {
			continue
		}
		m.candidates++
		payload, err := jws.Verify(key.Key)
		if err != nil {
			continue
		}
		print, err := key.Thumbprint(crypto.SHA256)
		if err != nil {
			return nil, err
		}
		m.signed, m.key = true, thumbprint(print)
		return payload, nil
	}
	return nil, errors.New("no key of the issuer made this signature")
}

// fits keeps a key to the algorithm that it was published for, and to its kind.
func fits(key jose.JSONWebKey, alg string) bool {
	if key.Algorithm != "" && key.Algorithm != alg {
		return false
	}
	switch key.Key.(type) {
	case *rsa.PublicKey:
		return alg[0] == 'R' || alg[0] == 'P'
	case *ecdsa.PublicKey:
		return alg[:2] == "ES"
	case ed25519.PublicKey:
		return alg == "EdDSA"
	}
	return false
}

// download reads discovery (OpenID Connect Discovery 4) and the key set that
// it points to. Discovery is read each time: issuers do move their keys.
func (i *issuer) download(ctx context.Context) (*keySet, error) {
	at := i.now() // before asking: the answer may be as old as the question
	provider, err := oidc.NewProvider(oidc.ClientContext(ctx, i.client), i.name)
	if err != nil {
		return nil, fmt.Errorf("discovery: %w", err)
	}
	var found struct {
		Keys string `json:"jwks_uri"`
	}
	if err := provider.Claims(&found); err != nil {
		return nil, fmt.Errorf("discovery: %w", err)
	}
	if err := i.allowed(found.Keys); err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, found.Keys, nil)
	if err != nil {
		return nil, fmt.Errorf("jwks_uri: %w", err)
	}
	resp, err := i.client.Do(req)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %s", found.Keys, resp.Status)
	}
	return readKeys(body, at)
}

// allowed guards against an issuer's document that points into our network:
// keys come from the issuer's own origin, or by https from a named host.
func (i *issuer) allowed(uri string) error {
	u, err := url.Parse(uri)
	switch {
	case err != nil || u.Host == "" || u.User != nil:
		return errors.New("discovery: jwks_uri is not a plain URL")
	case u.Scheme == i.url.Scheme && u.Host == i.url.Host:
		return nil
	case u.Scheme != "https" || net.ParseIP(u.Hostname()) != nil || loopback(u.Hostname()):
		return fmt.Errorf("discovery: jwks_uri must be at %s, or at another named host by https", i.url.Host)
	}
	return nil
}

// readKeys reads a JWK set (RFC 7517 section 5), leaving out what is not a
// strong public signature key; at least one must remain.
func readKeys(body []byte, at time.Time) (*keySet, error) {
	var raw struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &raw); err != nil {
		return nil, errors.New("the key set is not JSON")
	}
	if len(raw.Keys) > maxKeys {
		return nil, fmt.Errorf("the key set has more than %d keys", maxKeys)
	}
	set := &keySet{has: map[thumbprint]bool{}, fetched: at}
	for _, r := range raw.Keys {
		var key jose.JSONWebKey
		if json.Unmarshal(r, &key) != nil || !key.Valid() || key.Use != "" && key.Use != "sig" {
			continue
		}
		switch public := key.Key.(type) {
		case *rsa.PublicKey:
			if public.N.BitLen() < minRSA {
				continue
			}
		case *ecdsa.PublicKey, ed25519.PublicKey:
		default: // a secret, or a private key that should never have been published
			continue
		}
		print, err := key.Thumbprint(crypto.SHA256)
		if err != nil {
			continue
		}
		set.keys = append(set.keys, key)
		set.has[thumbprint(print)] = true
	}
	if len(set.keys) == 0 {
		return nil, errors.New("the key set has no usable public key")
	}
	return set, nil
}

// guarded is the client without redirects and with a bound on what it reads.
func guarded(client *http.Client) *http.Client {
	if client == nil {
		client = http.DefaultClient
	}
	own := *client
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	own.Transport = bounded{client.Transport}
	return &own
}

type bounded struct{ next http.RoundTripper }

func (b bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	next := b.next
	if next == nil {
		next = http.DefaultTransport
	}
	resp, err := next.RoundTrip(req)
	if err == nil {
		resp.Body = http.MaxBytesReader(nil, resp.Body, maxBody)
	}
	return resp, err
}
