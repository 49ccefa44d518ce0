package gitsync

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-github/v60/github"
)

// AppToken returns a source of installation tokens of a GitHub App, for
// Auth.Token and for the API. A token is kept until five minutes before it
// expires; callers that come while one is fetched share it. apiURL is
// https://api.github.com, or https://<host>/api/v3 for a GitHub Enterprise
// Server; a nil client is http.DefaultClient.
func AppToken(appID, installationID int64, keyPEM []byte, apiURL string, client *http.Client) func(context.Context) (string, error) {
	a := newApp(appID, installationID, keyPEM, apiURL, client)
	return a.get
}

type app struct {
	id, installation int64
	key              *rsa.PrivateKey
	api              *url.URL
	client           *http.Client
	err              error // of the configuration: told at every use
	now              func() time.Time
	turn             chan struct{} // guards what follows; a channel, so that waiting ends with ctx
	token            string
	expires          time.Time
}

func newApp(appID, installationID int64, keyPEM []byte, apiURL string, client *http.Client) *app {
	a := &app{id: appID, installation: installationID, now: time.Now, turn: make(chan struct{}, 1)}
	if a.key, a.err = jwt.ParseRSAPrivateKeyFromPEM(keyPEM); a.err != nil {
		a.err = fmt.Errorf("the GitHub App's private key cannot be read: %w", a.err)
		return a
	}
	if a.api, a.err = url.Parse(strings.TrimSuffix(apiURL, "/") + "/"); a.err != nil {
		a.err = errors.New("the URL of the GitHub API cannot be parsed")
		return a
	}
	if a.api.User != nil {
		a.err = fmt.Errorf("the URL of the GitHub API at %s carries a user or a token: the app's key is all it takes", a.api.Host)
		return a
	}
	if a.api.Scheme != "https" && (a.api.Scheme != "http" || !loopback(a.api.Hostname())) {
		a.err = fmt.Errorf("the GitHub API must be reached by https: %s", a.api.Redacted())
		return a
	}
	if client == nil {
		client = http.DefaultClient
	}
	own := *client
	// The app's own proof of identity must not follow a redirect elsewhere.
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	a.client = &own
	return a
}

func (a *app) get(ctx context.Context) (string, error) {
	if a.err != nil {
		return "", a.err
	}
	select {
	case a.turn <- struct{}{}:
		defer func() { <-a.turn }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	now := a.now()
	if a.token != "" && now.Before(a.expires.Add(-5*time.Minute)) {
		return a.token, nil
	}
	// A minute back for a slow clock of theirs; GitHub takes ten minutes at most.
	signed, err := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.RegisteredClaims{
		Issuer:    strconv.FormatInt(a.id, 10),
		IssuedAt:  jwt.NewNumericDate(now.Add(-time.Minute)),
		ExpiresAt: jwt.NewNumericDate(now.Add(8 * time.Minute)),
	}).SignedString(a.key)
	if err != nil {
		return "", fmt.Errorf("sign as GitHub App %d: %w", a.id, err)
	}
	gh := github.NewClient(a.client).WithAuthToken(signed)
	gh.BaseURL = a.api
	t, _, err := gh.Apps.CreateInstallationToken(ctx, a.installation, nil)
	if err != nil {
		return "", fmt.Errorf("token for installation %d of GitHub App %d: %w", a.installation, a.id, err)
	}
	if t.GetToken() == "" || t.ExpiresAt == nil {
		return "", errors.New("GitHub answered without a token, or without its expiry")
	}
	a.token, a.expires = t.GetToken(), t.GetExpiresAt().Time
	return a.token, nil
}
