// Package transit signs with keys that never leave Vault: its transit engine.
//
// It promises:
//
//   - A key is one version of an Ed25519 key, chosen when it is opened. What
//     is signed is signed by that version or not at all, whatever is rotated in
//     Vault meanwhile.
//   - A signature comes, or an error, within Config.Patience.
//
// Its login is its own: the record signs before leases are minted, and after.
package transit

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"

	"countersign/enforcer/credential"
	"countersign/enforcer/mask"
)

// ErrKey: Vault has no such key, or not one that can be used.
var ErrKey = errors.New("no key to sign with")

// Config says how Vault is reached.
type Config struct {
	Client   *api.Client    // without a token
	Login    api.AuthMethod // asked again when Vault no longer knows our token
	Keep     bool           // the token is the operator's, and not ours to revoke
	Mask     *mask.Mask
	Patience time.Duration // for one signature, or one look; 0: 10 s
	Pause    time.Duration // between two attempts of Open while Vault is sealed or away; 0: 2 s
	Log      *slog.Logger
}

// Vault is a login to Vault, for signing. It may be used by several goroutines.
type Vault struct {
	cfg Config

	mu     sync.Mutex
	token  string
	masked uint64
}

// Key is one version of a key in Vault.
type Key struct {
	Path    string // <mount>/<name>
	Version int
	Public  ed25519.PublicKey

	vault *Vault
}

// New does not ask Vault for anything yet.
func New(cfg Config) *Vault {
	if cfg.Patience == 0 {
		cfg.Patience = 10 * time.Second
	}
	if cfg.Pause == 0 {
		cfg.Pause = 2 * time.Second
	}
	return &Vault{cfg: cfg}
}

// ParseName splits <mount>/<name> or <mount>/<name>@<version>; version 0 is
// the newest when the key is opened.
func ParseName(s string) (mount, name string, version int, err error) {
	bad := fmt.Errorf("%q: want <mount>/<name> of a key in Vault's transit engine, or <mount>/<name>@<version>", s)
	path, v, pinned := strings.Cut(s, "@")
	if pinned {
		if version, err = strconv.Atoi(v); err != nil || version < 1 || strconv.Itoa(version) != v {
			return "", "", 0, bad
		}
	}
	i := strings.LastIndexByte(path, '/')
	if i < 1 || i == len(path)-1 {
		return "", "", 0, bad
	}
	for part := range strings.SplitSeq(path, "/") {
		if part == "" || part[0] == '.' || strings.Trim(part, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") != "" {
			return "", "", 0, bad
		}
	}
	return path[:i], path[i+1:], version, nil
}

// Open reads a key's public half, and has it sign something, so that what is
// not allowed shows at once. While Vault is sealed or away it keeps trying,
// until ctx ends. Errors: ErrKey, and those of package credential.
func (v *Vault) Open(ctx context.Context, name string) (*Key, error) {
	for {
		k, err := v.open(ctx, name)
		if !errors.Is(err, credential.ErrSealed) && !errors.Is(err, credential.ErrUnavailable) {
			return k, err
		}
		v.cfg.Log.Warn("the key is in Vault, which does not answer", "key", name, "err", err, "again_in", v.cfg.Pause)
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", err, ctx.Err())
		case <-time.After(v.cfg.Pause):
		}
	}
}

func (v *Vault) open(ctx context.Context, name string) (*Key, error) {
	mount, key, version, err := ParseName(name)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	path := mount + "/keys/" + key
	secret, err := v.ask(ctx, "read the key at "+path, func(ctx context.Context, c *api.Client) (*api.Secret, error) {
		return c.Logical().ReadWithContext(ctx, path)
	})
	if err != nil {
		return nil, err
	}
	if secret == nil {
		return nil, fmt.Errorf("%w: there is none at %s", ErrKey, path)
	}
	k := &Key{Path: mount + "/" + key, vault: v}
	if k.Version, k.Public, err = parseKey(secret.Data, version); err != nil {
		return nil, fmt.Errorf("%w at %s: %w", ErrKey, path, err)
	}
	if _, err := k.Sign(ctx, []byte("countersign asks whether it may sign")); err != nil {
		return nil, err
	}
	return k, nil
}

// parseKey reads what Vault tells of a key.
func parseKey(data map[string]any, version int) (int, ed25519.PublicKey, error) {
	if t, _ := data["type"].(string); t != "ed25519" {
		return 0, nil, fmt.Errorf("it is of type %q; the record's are ed25519", t)
	}
	if d, _ := data["derived"].(bool); d {
		return 0, nil, errors.New("it is derived: it has another public half for every context")
	}
	if version == 0 {
		n, _ := data["latest_version"].(json.Number)
		i, err := n.Int64()
		if err != nil || i < 1 || i > 1<<31 {
			return 0, nil, fmt.Errorf("latest_version is %v", data["latest_version"])
		}
		version = int(i)
	}
	keys, _ := data["keys"].(map[string]any)
	one, ok := keys[strconv.Itoa(version)].(map[string]any)
	if !ok {
		return 0, nil, fmt.Errorf("it has no version %d", version)
	}
	text, _ := one["public_key"].(string)
	pub, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(pub) != ed25519.PublicKeySize {
		return 0, nil, fmt.Errorf("the public half of version %d does not read", version)
	}
	return version, pub, nil
}

// Sign signs a message (Ed25519, RFC 8032) with this version of the key.
func (k *Key) Sign(ctx context.Context, msg []byte) ([]byte, error) {
	i := strings.LastIndexByte(k.Path, '/')
	path := k.Path[:i] + "/sign" + k.Path[i:]
	secret, err := k.vault.ask(ctx, "sign at "+path, func(ctx context.Context, c *api.Client) (*api.Secret, error) {
		return c.Logical().WriteWithContext(ctx, path, map[string]any{
			"input": base64.StdEncoding.EncodeToString(msg), "key_version": k.Version,
		})
	})
	if err != nil {
		return nil, err
	}
	if secret == nil {
		return nil, fmt.Errorf("sign at %s: %w: an empty answer", path, credential.ErrRefused)
	}
	text, _ := secret.Data["signature"].(string)
	sig, ok := strings.CutPrefix(text, fmt.Sprintf("vault:v%d:", k.Version))
	raw, err := base64.StdEncoding.DecodeString(sig)
	if !ok || err != nil || !ed25519.Verify(k.Public, msg, raw) {
		return nil, fmt.Errorf("sign at %s: %w: what came back is no signature of version %d by the key that was there at the start", path, ErrKey, k.Version)
	}
	return raw, nil
}

// Close ends the login, if it is ours to end.
func (v *Vault) Close(ctx context.Context) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.token == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, v.cfg.Patience)
	defer cancel()
	return v.logout(ctx)
}

// ask asks Vault something, within the patience: with a new login if there is
// none, or Vault does not take the old one any more.
func (v *Vault) ask(ctx context.Context, doing string, f func(context.Context, *api.Client) (*api.Secret, error)) (*api.Secret, error) {
	ctx, cancel := context.WithTimeout(ctx, v.cfg.Patience)
	defer cancel()
	client, fresh, err := v.client(ctx, "")
	if err != nil {
		return nil, err
	}
	secret, err := f(ctx, client)
	if v.forbidden(err) && !fresh {
		if client, _, err = v.client(ctx, client.Token()); err != nil {
			return nil, err
		}
		secret, err = f(ctx, client)
	}
	return secret, v.problem(doing, err)
}

func (v *Vault) forbidden(err error) bool {
	var answer *api.ResponseError
	return errors.As(err, &answer) && answer.StatusCode == http.StatusForbidden
}

// client gives one that is logged in, not with the token that is known to be
// worth nothing; fresh tells that the login is new.
func (v *Vault) client(ctx context.Context, not string) (c *api.Client, fresh bool, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.token == not && not != "" {
		// It may be alive, and just not allowed to sign.
		if err := v.logout(ctx); err != nil {
			v.cfg.Log.Debug("a token for signing could not be revoked; it expires by itself", "err", err)
		}
	}
	if c, err = v.cfg.Client.Clone(); err != nil {
		return nil, false, err
	}
	c.SetMaxRetries(0) // who signs tries again, and knows when
	if v.token == "" {
		c.ClearToken()
		secret, err := v.cfg.Login.Login(ctx, c)
		if err != nil {
			return nil, true, v.problem("log in to Vault", err)
		}
		token, err := secret.TokenID()
		if err != nil || token == "" {
			return nil, true, fmt.Errorf("log in to Vault: %w", credential.ErrNoToken)
		}
		if v.masked, err = v.cfg.Mask.Add("vault token", token); err != nil {
			return nil, true, err
		}
		v.token, fresh = token, true
	}
	c.SetToken(v.token)
	return c, fresh, nil
}

// logout forgets the token, and ends it. v.mu is held.
func (v *Vault) logout(ctx context.Context) error {
	c, err := v.cfg.Client.Clone()
	if err != nil {
		return err
	}
	c.SetToken(v.token)
	v.cfg.Mask.Retire(v.masked)
	v.token = ""
	if v.cfg.Keep {
		return nil
	}
	return v.problem("log out of Vault", c.Auth().Token().RevokeSelfWithContext(ctx, ""))
}

// problem gives an error of Vault's client one of package credential's kinds,
// with Vault's own words, masked and short.
func (v *Vault) problem(doing string, err error) error {
	if err == nil {
		return nil
	}
	var answer *api.ResponseError
	if !errors.As(err, &answer) {
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		return fmt.Errorf("%s: %w: %s", doing, credential.ErrUnavailable, v.words(err.Error()))
	}
	said := v.words(strings.Join(answer.Errors, "; "))
	kind := credential.ErrRefused
	switch code := answer.StatusCode; {
	case code == http.StatusServiceUnavailable && strings.Contains(said, "sealed"):
		kind = credential.ErrSealed
	case code == http.StatusForbidden:
		kind = credential.ErrForbidden
	case strings.Contains(said, "minimum encryption key version"): // of Vault's 500s, one that will not pass
	case code == http.StatusTooManyRequests, code == http.StatusPreconditionFailed, code >= 500:
		kind = credential.ErrUnavailable
	}
	return fmt.Errorf("%s: %w (%d): %s", doing, kind, answer.StatusCode, said)
}

func (v *Vault) words(s string) string {
	s, _ = v.cfg.Mask.Text(strings.Join(strings.Fields(strings.ToValidUTF8(s, "?")), " "))
	if len(s) > 200 {
		s = strings.ToValidUTF8(s[:200], "") + "…"
	}
	return s
}
