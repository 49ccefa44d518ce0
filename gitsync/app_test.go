package gitsync

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"countersign/fixtures/github"
)

func appKey(t *testing.T) (*rsa.PrivateKey, []byte) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
}

func TestAppToken(t *testing.T) {
	key, keyPEM := appKey(t)
	now := noon
	clock := func() time.Time { return now }
	host := github.New(github.Config{App: 7, Installation: 8, Key: &key.PublicKey, Owner: "acme", Repo: "policy", Now: clock})
	t.Cleanup(host.Close)
	a := newApp(7, 8, keyPEM, host.URL, nil)
	a.now = clock
	get := func() string {
		t.Helper()
		s, err := a.get(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	first := get()
	if !host.ValidToken(first) {
		t.Error("not a token of the host's")
	}
	now = now.Add(54*time.Minute + 59*time.Second)
	if get() != first {
		t.Error("a new token though the old one lasts")
	}
	now = now.Add(time.Second)
	second := get()
	if second == first || host.Issued() != 2 {
		t.Errorf("five minutes before its end the old token is still used; %d issued", host.Issued())
	}
	now = now.Add(time.Hour)
	host.SetDown(true)
	if s, err := a.get(t.Context()); err == nil {
		t.Errorf("host down: %q", s)
	} else if strings.Contains(err.Error(), second) || strings.Contains(err.Error(), "eyJ") {
		t.Errorf("the error shows a credential: %v", err)
	}
	host.SetDown(false)
	get()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	now = now.Add(time.Hour)
	if _, err := a.get(ctx); err == nil {
		t.Error("a cancelled call passes")
	}
}

func TestAppTokenIsRefused(t *testing.T) {
	key, keyPEM := appKey(t)
	_, otherPEM := appKey(t)
	host := github.New(github.Config{App: 7, Installation: 8, Key: &key.PublicKey, Owner: "acme", Repo: "policy", Now: time.Now})
	t.Cleanup(host.Close)
	for name, c := range map[string]struct {
		get  func(context.Context) (string, error)
		want string
	}{
		"not a key":       {AppToken(7, 8, []byte("x"), host.URL, nil), "private key cannot be read"},
		"in the clear":    {AppToken(7, 8, keyPEM, "http://api.example.com", nil), "must be reached by https"},
		"another app":     {AppToken(9, 8, keyPEM, host.URL, nil), "Integration not found"},
		"not installed":   {AppToken(7, 9, keyPEM, host.URL, nil), "Not Found"},
		"another's key":   {AppToken(7, 8, otherPEM, host.URL, nil), "could not be decoded"},
		"nobody is there": {AppToken(7, 8, keyPEM, "http://127.0.0.1:1", nil), "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := c.get(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
