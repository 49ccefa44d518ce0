package credential

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	jose "github.com/go-jose/go-jose/v4"
)

// IssuerClient is who we are at an issuer that exchanges tokens. The operator
// names it: a policy can send callers' tokens nowhere else. It has either a
// Secret (client_secret_basic, RFC 6749 section 2.3.1) or a PrivateKey
// (private_key_jwt, RFC 7523 section 2.2).
type IssuerClient struct {
	Issuer     string `json:"issuer"` // as its metadata says
	ClientID   string `json:"client_id"`
	Secret     string `json:"client_secret"`
	PrivateKey string `json:"private_key"` // PEM: RSA, or EC on P-256, or Ed25519
	KeyID      string `json:"key_id"`      // of PrivateKey, where the issuer wants one
}

// issuer is an issuer, and our client there.
type issuer struct {
	name   string
	us     IssuerClient
	signer jose.Signer // nil: Secret
	client *http.Client
	now    func() time.Time

	mu    sync.Mutex
	known metadata
	until time.Time
}

// metadata is what we need of RFC 8414.
type metadata struct {
	Issuer     string `json:"issuer"`
	Token      string `json:"token_endpoint"`
	Revocation string `json:"revocation_endpoint"`
}

// tokenAnswer is RFC 8693 section 2.2.1.
type tokenAnswer struct {
	AccessToken  string  `json:"access_token"`
	IssuedType   string  `json:"issued_token_type"`
	TokenType    string  `json:"token_type"`
	ExpiresIn    seconds `json:"expires_in"`
	Scope        string  `json:"scope"`
	RefreshToken string  `json:"refresh_token"`
}

// seconds is a number, or a text that holds one, as some issuers have it; 0
// for anything else: an answer that cannot be read whole holds a token all the
// same, which has to be given back.
type seconds int64

func (s *seconds) UnmarshalJSON(b []byte) error {
	var f json.Number
	if json.Unmarshal([]byte(strings.Trim(string(b), `"`)), &f) != nil {
		return nil
	}
	if n, err := f.Float64(); err == nil && n > -1e12 && n < 1e12 {
		*s = seconds(n)
	}
	return nil
}

// oauthError is what an issuer, or the way to it, refused with.
type oauthError struct {
	kind error // ErrDeclined or ErrSilent
	text string
}

func (e *oauthError) Error() string { return e.text }

const (
	maxIssuerAnswer = 256 << 10
	metadataAge     = 10 * time.Minute
)

// newIssuer checks a client, and asks nobody yet.
func newIssuer(us IssuerClient, now func() time.Time) (*issuer, error) {
	u, err := url.Parse(us.Issuer)
	switch {
	case err != nil || u.Host == "" || !private(u) || u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		return nil, fmt.Errorf("issuer %q: want an https URL (or an http one on loopback)", us.Issuer)
	case us.ClientID == "":
		return nil, fmt.Errorf("issuer %s: client_id is missing", us.Issuer)
	case (us.Secret == "") == (us.PrivateKey == ""):
		return nil, fmt.Errorf("issuer %s: want either client_secret or private_key", us.Issuer)
	}
	i := &issuer{name: us.Issuer, us: us, now: now, client: &http.Client{
		Timeout:       requestLimit,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // a token goes where it was meant to
	}}
	if us.PrivateKey != "" {
		if i.signer, err = assertionSigner(us.PrivateKey, us.KeyID); err != nil {
			return nil, fmt.Errorf("issuer %s: private_key: %w", us.Issuer, err)
		}
	}
	return i, nil
}

func assertionSigner(text, kid string) (jose.Signer, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("it is not PEM")
	}
	var key any
	var err error
	switch block.Type {
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	}
	if err != nil { // its text quotes nothing of the key
		return nil, fmt.Errorf("it cannot be read: %w", err)
	}
	var alg jose.SignatureAlgorithm
	switch k := key.(type) {
	case *rsa.PrivateKey:
		alg = jose.RS256
	case *ecdsa.PrivateKey:
		if k.Curve.Params().BitSize != 256 {
			return nil, errors.New("of elliptic curves P-256 is supported")
		}
		alg = jose.ES256
	case ed25519.PrivateKey:
		alg = jose.EdDSA
	default:
		return nil, errors.New("want an RSA, EC or Ed25519 key")
	}
	opts := (&jose.SignerOptions{}).WithType("JWT")
	if kid != "" {
		opts = opts.WithHeader("kid", kid)
	}
	return jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key.(crypto.Signer)}, opts)
}

// discover reads the issuer's metadata (RFC 8414; or OpenID Connect's, which
// has another place), once in a while.
func (i *issuer) discover(ctx context.Context) (metadata, error) {
	i.mu.Lock()
	known, until := i.known, i.until
	i.mu.Unlock()
	if i.now().Before(until) {
		return known, nil
	}
	u, err := url.Parse(i.name)
	if err != nil {
		return metadata{}, err
	}
	path := strings.TrimSuffix(u.Path, "/")
	var m metadata
	for _, at := range []string{"/.well-known/oauth-authorization-server" + path, path + "/.well-known/openid-configuration"} {
		u.Path, m = at, metadata{}
		req, rerr := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
		if rerr != nil {
			return metadata{}, rerr
		}
		if err = i.do(req, &m); err == nil {
			break
		}
		var said *oauthError
		if !errors.As(err, &said) || said.kind == ErrSilent {
			return metadata{}, err
		}
	}
	switch {
	case err != nil:
		return metadata{}, err
	case m.Issuer != i.name:
		return metadata{}, &oauthError{ErrDeclined, "its metadata is another issuer's"}
	case !i.leads(m.Token) || m.Revocation != "" && !i.leads(m.Revocation):
		return metadata{}, &oauthError{ErrDeclined, "its metadata names no https token_endpoint, or no https revocation_endpoint"}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.known, i.until = m, i.now().Add(metadataAge)
	return m, nil
}

// private tells whether nobody reads along on the way: https, or http on
// loopback.
func private(u *url.URL) bool {
	ip := net.ParseIP(u.Hostname())
	return u.Scheme == "https" || u.Scheme == "http" && (u.Hostname() == "localhost" || ip != nil && ip.IsLoopback())
}

// leads tells whether an endpoint may have our secret and callers' tokens: by
// https, or on loopback where the operator's own URL of the issuer is there.
func (i *issuer) leads(endpoint string) bool {
	u, err := url.Parse(endpoint)
	return err == nil && u.Host != "" && u.User == nil && u.Fragment == "" && private(u) &&
		(u.Scheme == "https" || strings.HasPrefix(i.name, "http:"))
}

// post asks an endpoint as our client. It is sent once. out may be nil: then
// the answer's content does not matter.
func (i *issuer) post(ctx context.Context, endpoint string, form url.Values, out any) error {
	if i.signer != nil {
		assertion, err := i.assertion(endpoint)
		if err != nil {
			return err
		}
		form.Set("client_id", i.us.ClientID)
		form.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
		form.Set("client_assertion", assertion)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return &oauthError{ErrDeclined, "its endpoint is no URL"}
	}
	req.GetBody = nil // so that nothing repeats it
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if i.signer == nil {
		req.SetBasicAuth(url.QueryEscape(i.us.ClientID), url.QueryEscape(i.us.Secret))
	}
	return i.do(req, out)
}

// assertion says who we are (RFC 7523 section 3), for one request.
func (i *issuer) assertion(endpoint string) (string, error) {
	now := i.now()
	claims, err := json.Marshal(map[string]any{
		"iss": i.us.ClientID, "sub": i.us.ClientID, "aud": endpoint, "jti": rand.Text(), "iat": now.Unix(), "exp": now.Add(time.Minute).Unix(),
	})
	if err != nil {
		return "", err
	}
	signed, err := i.signer.Sign(claims)
	if err != nil {
		return "", fmt.Errorf("sign with private_key: %w", err)
	}
	return signed.CompactSerialize()
}

// do makes a request and reads an answer in JSON, or an error (RFC 6749 section
// 5.2).
func (i *issuer) do(req *http.Request, out any) error {
	req.Header.Set("Accept", "application/json")
	resp, err := i.client.Do(req)
	if err != nil {
		var at *url.Error
		if errors.As(err, &at) {
			err = at.Err
		}
		return &oauthError{ErrSilent, err.Error()}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxIssuerAnswer+1))
	kind, _, merr := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	isJSON := merr == nil && kind == "application/json"
	switch {
	case err != nil:
		return &oauthError{ErrSilent, err.Error()}
	case len(body) > maxIssuerAnswer:
		return &oauthError{ErrDeclined, "its answer is too large"}
	case resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= 500:
		return &oauthError{ErrSilent, fmt.Sprintf("it answered with HTTP status %d", resp.StatusCode)}
	case resp.StatusCode != http.StatusOK:
		var said struct {
			Error       string `json:"error"`
			Description string `json:"error_description"`
		}
		if !isJSON || json.Unmarshal(body, &said) != nil || said.Error == "" {
			return &oauthError{ErrDeclined, fmt.Sprintf("it answered with HTTP status %d", resp.StatusCode)}
		}
		return &oauthError{ErrDeclined, explain(said.Error) + said.Description}
	case out == nil:
		return nil
	case !isJSON:
		return &oauthError{ErrDeclined, "its answer is not JSON"}
	}
	if err := json.Unmarshal(body, out); err != nil { // what it says may quote the answer
		return &oauthError{ErrDeclined, "its answer cannot be read as JSON of the right shape"}
	}
	return nil
}

// explain says what an error code means for whoever can mend it.
func explain(code string) string {
	what := map[string]string{
		"invalid_client":         "it does not know our client, or not by this secret or key",
		"invalid_request":        "it does not take the caller's token, or something is missing",
		"invalid_grant":          "the caller's token is not valid there, or has expired",
		"unauthorized_client":    "our client may not exchange tokens there",
		"unsupported_grant_type": "it does not exchange tokens",
		"invalid_target":         "no token for that audience or resource is given to our client",
		"invalid_scope":          "the scope is more than our client, or the caller, may have",
		"access_denied":          "the caller may not have it",
		"unsupported_token_type": "it cannot revoke a token of this kind",
	}[code]
	if what == "" {
		return code + ": "
	}
	return code + " (" + what + "): "
}
