package enforcer

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/hashicorp/vault/api"

	"countersign/audit"
	"countersign/enforcer/credential"
	"countersign/enforcer/freeze"
	"countersign/enforcer/identity"
	"countersign/enforcer/kv"
	"countersign/enforcer/mask"
	"countersign/fixtures/issuer"
	"countersign/fixtures/vault"
	"countersign/rules"
)

// gate is a whole enforcer on loopback, in front of one server: tokens of a
// real issuer, a journal on the disk, a mask that knows values. What its
// configuration lacks (Vault, approvals), no rule may ask for.
type gate struct {
	*Enforcer
	token string // of alice, in the group "support"
	other string // of mallory, in the same
}

// comes takes what comes next by a channel; it fails the test if nothing comes.
func comes[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(2 * time.Minute):
		t.Fatalf("waited too long for %s", what)
		panic("unreachable")
	}
}

// newGate puts an enforcer in front of a server, which the policy calls echo.
// policy is files over the smallest policy; ${URL} in them is the server's.
func newGate(tb testing.TB, server http.Handler, policy map[string]string, more ...func(*Config)) *gate {
	tb.Helper()
	up := httptest.NewServer(server)
	tb.Cleanup(up.Close)
	iss, err := issuer.Start("127.0.0.1:0", time.Now)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { fail(tb, iss.Close()) })
	journal, err := audit.Open(audit.Config{Dir: tb.TempDir(), Enforcer: "test", Incarnation: "r1"})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { fail(tb, journal.Close()) })
	front := httptest.NewUnstartedServer(nil)
	url := "http://" + front.Listener.Addr().String()
	verifier, err := identity.New(identity.Config{Issuers: []string{iss.URL}, Audience: url, AllowHTTP: true})
	if err != nil {
		tb.Fatal(err)
	}
	var calls atomic.Int64
	cfg := Config{
		PublicURL: url, Issuers: []string{iss.URL}, Audience: url, Identity: verifier, Journal: journal,
		Mask: mask.New(mask.Options{}), DigestKey: make([]byte, 32), Now: time.Now, Log: slog.New(slog.DiscardHandler),
		ID: func() string { return fmt.Sprintf("c_%d", calls.Add(1)) },
	}
	cfg.Freezes = nothingFrozen(tb)
	for _, f := range more {
		f(&cfg)
	}
	e, err := New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	files := fstest.MapFS{
		"countersign.yaml":  {Data: []byte("version: 1\n")},
		"servers/echo.yaml": {Data: []byte("server: echo\nurl: " + up.URL + "\n")},
	}
	for name, text := range policy {
		files[name] = &fstest.MapFile{Data: []byte(strings.ReplaceAll(text, "${URL}", up.URL))}
	}
	p, err := rules.Load(files, "0123456789abcdef")
	if err != nil {
		tb.Fatal(err)
	}
	e.Install(p, time.Now())
	front.Config.Handler = e.Handler()
	front.Start()
	tb.Cleanup(func() {
		front.Close()
		fail(tb, e.Shutdown(context.Background()))
	})
	token, err := iss.Mint(issuer.Claims{"sub": "alice", "aud": url, "client_id": "desk-assistant", "groups": []string{"support"}}, nil)
	if err != nil {
		tb.Fatal(err)
	}
	other, err := iss.Mint(issuer.Claims{"sub": "mallory", "aud": url, "client_id": "desk-assistant", "groups": []string{"support"}}, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return &gate{Enforcer: e, token: token, other: other}
}

// nothingFrozen is a kill switch that nobody has thrown.
func nothingFrozen(tb testing.TB) *freeze.Board {
	tb.Helper()
	store, err := kv.OpenEmbedded(tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { fail(tb, store.Close()) })
	bucket, err := store.Bucket(tb.Context(), "freezes")
	if err != nil {
		tb.Fatal(err)
	}
	board := freeze.New(freeze.Config{Bucket: bucket})
	if err := board.Load(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- board.Run(ctx) }()
	tb.Cleanup(func() { stop(); fail(tb, <-done) })
	return board
}

func fail(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Error(err)
	}
}

// post sends one message to the gate, with further headers, and reads the
// whole answer.
func (g *gate) post(ctx context.Context, body []byte, header http.Header) (*http.Response, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, g.PublicURL+"/mcp/echo", bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	for name, values := range header {
		req.Header[name] = values
	}
	req.Header.Set("Authorization", "Bearer "+g.token)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	resp, err := client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	return resp, answer, err
}

// client keeps a connection for each of many callers.
var client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}, Timeout: time.Minute}

// withVault gives the gate a Vault that mints database users under
// database/creds/app, seen through what is given.
func withVault(tb testing.TB, through ...func(url string) string) func(*Config) {
	return func(c *Config) {
		tb.Helper()
		v := vault.New(nil)
		v.Mint("database/creds/app", vault.Role{Create: func(_, _ string) error { return nil }, Drop: func(string) error { return nil }})
		srv := httptest.NewServer(v)
		tb.Cleanup(srv.Close)
		cfg := api.DefaultConfig()
		cfg.Address = srv.URL
		for _, f := range through {
			cfg.Address = f(cfg.Address)
		}
		cl, err := api.NewClient(cfg)
		if err != nil {
			tb.Fatal(err)
		}
		c.Credentials, err = credential.Open(tb.Context(), credential.Config{
			Client: cl, Login: credential.Token(v.Root), Dir: tb.TempDir(), Mask: c.Mask,
			Record: func(context.Context, credential.Event) error { return nil }, Now: time.Now,
		})
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { fail(tb, c.Credentials.Close(context.Background())) })
	}
}
