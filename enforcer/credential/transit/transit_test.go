package transit

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"countersign/enforcer/credential"
	"countersign/enforcer/mask"
	"countersign/fixtures/peer"
)

func open(t *testing.T, client *api.Client, login api.AuthMethod, change func(*Config)) *Vault {
	t.Helper()
	cfg := Config{Client: client, Login: login, Mask: mask.New(mask.Options{}), Log: slog.New(slog.DiscardHandler), Pause: time.Millisecond}
	if change != nil {
		change(&cfg)
	}
	return New(cfg)
}

const policy = `
	path "transit/keys/+" { capabilities = ["read"] }
	path "transit/sign/+" { capabilities = ["update"] }`

func appRole(t *testing.T, v *peer.Vault, policy string) api.AuthMethod {
	t.Helper()
	role, secret := v.AppRole(t, policy)
	login, err := credential.AppRole("approle", role, secret)
	if err != nil {
		t.Fatal(err)
	}
	return login
}

func TestSign(t *testing.T) {
	v := peer.StartVault(t)
	v.Mount(t, "transit", "transit", nil)
	for name, kind := range map[string]string{"log": "ed25519", "rsa": "rsa-2048"} {
		v.Write(t, "transit/keys/"+name, map[string]any{"type": kind})
	}
	v.Write(t, "transit/keys/derived", map[string]any{"type": "ed25519", "derived": true})
	client := v.Client(t, "")
	vault := open(t, client, appRole(t, v, policy), nil)
	key, err := vault.Open(t.Context(), "transit/log")
	if err != nil {
		t.Fatal(err)
	}
	if key.Version != 1 {
		t.Errorf("version %d", key.Version)
	}
	msg := []byte("demo/i1\n14\nroot\n")
	signs := func(k *Key) {
		t.Helper()
		sig, err := k.Sign(t.Context(), msg)
		if err != nil || !ed25519.Verify(k.Public, msg, sig) {
			t.Errorf("%v", err)
		}
	}
	signs(key)

	t.Run("what is no key for this is refused", func(t *testing.T) {
		for name, want := range map[string]string{"transit/rsa": `it is of type "rsa-2048"`, "transit/derived": "it is derived", "transit/none": "there is none",
			"transit/log@7": "it has no version 7", "log": "want <mount>/<name>", "transit/log@0": "want <mount>/<name>"} {
			if _, err := vault.Open(t.Context(), name); !errors.Is(err, ErrKey) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %s", name, err, want)
			}
		}
	})
	t.Run("a rotation in Vault changes nothing here", func(t *testing.T) {
		v.Write(t, "transit/keys/log/rotate", nil)
		signs(key)
		next, err := vault.Open(t.Context(), "transit/log")
		if err != nil || next.Version != 2 || next.Public.Equal(key.Public) {
			t.Fatalf("%+v, %v", next, err)
		}
		signs(next)
		pinned, err := vault.Open(t.Context(), "transit/log@1")
		if err != nil || !pinned.Public.Equal(key.Public) {
			t.Fatalf("%+v, %v", pinned, err)
		}
		signs(pinned)
		v.Write(t, "transit/keys/log/config", map[string]any{"min_encryption_version": 2})
		if _, err := pinned.Sign(t.Context(), msg); !errors.Is(err, credential.ErrRefused) {
			t.Errorf("a version that may not sign any more: %v", err)
		}
		v.Write(t, "transit/keys/log/config", map[string]any{"min_encryption_version": 0})
		signs(pinned)
	})
	t.Run("a token that has ended is replaced", func(t *testing.T) {
		old := vault.token
		if err := v.Client(t, old).Auth().Token().RevokeSelfWithContext(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
		signs(key)
		if vault.token == old {
			t.Error("signed with a revoked token")
		}
	})
	t.Run("what the policy in Vault does not allow shows at the start", func(t *testing.T) {
		for _, less := range []string{`path "transit/keys/+" { capabilities = ["read"] }`, `path "transit/sign/+" { capabilities = ["update"] }`} {
			if _, err := open(t, client, appRole(t, v, less), nil).Open(t.Context(), "transit/log"); !errors.Is(err, credential.ErrForbidden) {
				t.Errorf("%s: %v", less, err)
			}
		}
	})
	t.Run("sealed, then open", func(t *testing.T) {
		v.Seal(t)
		if _, err := key.Sign(t.Context(), msg); !errors.Is(err, credential.ErrSealed) {
			t.Errorf("sealed: %v", err)
		}
		waits := make(chan struct{}, 1000)
		slow := open(t, client, appRoleAgain(vault), func(c *Config) { c.Log = slog.New(slog.NewTextHandler(noted(waits), nil)) })
		opened := make(chan error, 1)
		go func() { _, err := slow.Open(t.Context(), "transit/log"); opened <- err }()
		<-waits
		v.Unseal(t)
		if err := <-opened; err != nil {
			t.Errorf("after it: %v", err)
		}
		signs(key)
	})
	last := vault.token
	if err := vault.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := v.Client(t, last).Auth().Token().LookupSelfWithContext(t.Context()); err == nil {
		t.Error("the token outlives its owner")
	}
	v.Kill()
	if _, err := key.Sign(t.Context(), msg); !errors.Is(err, credential.ErrUnavailable) {
		t.Errorf("gone: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := vault.Open(ctx, "transit/log"); !errors.Is(err, context.Canceled) {
		t.Errorf("a start that is given up: %v", err)
	}
}

func appRoleAgain(v *Vault) api.AuthMethod { return v.cfg.Login }

type noted chan struct{}

func (n noted) Write(p []byte) (int, error) {
	select {
	case n <- struct{}{}:
	default:
	}
	return len(p), nil
}

var _ io.Writer = noted(nil)

// A Vault that is not ours to trust with everything: slow, or with another key
// than it said.
func TestStrangeAnswers(t *testing.T) {
	pub, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	_, other, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	var answer atomic.Value
	answer.Store("")
	release := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/keys/") {
			reply(t, w, map[string]any{"type": "ed25519", "latest_version": 3, "keys": map[string]any{"3": map[string]any{"public_key": base64.StdEncoding.EncodeToString(pub)}}})
			return
		}
		var in struct{ Input []byte }
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			t.Error(err)
		}
		sign := func(prefix string, key ed25519.PrivateKey) {
			reply(t, w, map[string]any{"signature": prefix + base64.StdEncoding.EncodeToString(ed25519.Sign(key, in.Input))})
		}
		switch answer.Load() {
		case "":
			sign("vault:v3:", priv)
		case "another key":
			sign("vault:v3:", other)
		case "another version":
			sign("vault:v4:", priv)
		case "no signature":
			reply(t, w, map[string]any{})
		case "nothing":
			w.WriteHeader(http.StatusNoContent)
		case "slow":
			select {
			case <-r.Context().Done():
			case <-release:
			}
		}
	}))
	t.Cleanup(srv.Close)
	t.Cleanup(func() { close(release) })
	cfg := api.DefaultConfig()
	cfg.Address = srv.URL
	client, err := api.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	vault := open(t, client, given("a-token-of-the-operator"), func(c *Config) { c.Keep = true })
	key, err := vault.Open(t.Context(), "a/b/log")
	if err != nil || key.Path != "a/b/log" {
		t.Fatalf("%+v, %v", key, err)
	}
	for _, what := range []string{"another key", "another version", "no signature"} {
		answer.Store(what)
		if _, err := key.Sign(t.Context(), []byte("m")); !errors.Is(err, ErrKey) {
			t.Errorf("%s: %v", what, err)
		}
	}
	answer.Store("nothing")
	if _, err := key.Sign(t.Context(), []byte("m")); !errors.Is(err, credential.ErrRefused) {
		t.Errorf("nothing: %v", err)
	}
	answer.Store("slow")
	vault.cfg.Patience = 20 * time.Millisecond
	if _, err := key.Sign(t.Context(), []byte("m")); !errors.Is(err, credential.ErrUnavailable) {
		t.Errorf("slow: %v", err)
	}
	if err := vault.Close(t.Context()); err != nil {
		t.Errorf("a token that is the operator's was not left alone: %v", err)
	}
}

func reply(t *testing.T, w http.ResponseWriter, data map[string]any) {
	if err := json.NewEncoder(w).Encode(map[string]any{"data": data}); err != nil {
		t.Error(err)
	}
}

// given is a login that is a token.
type given string

func (g given) Login(context.Context, *api.Client) (*api.Secret, error) {
	return &api.Secret{Auth: &api.SecretAuth{ClientToken: string(g)}}, nil
}
