package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"countersign/audit"
	"countersign/enforcer"
	"countersign/enforcer/credential"
	"countersign/enforcer/mask"
)

// podToken is where Kubernetes keeps a pod's service-account token fresh.
const podToken = "/var/run/secrets/kubernetes.io/serviceaccount/token"

var (
	vaultLogins = []string{"token", "approle", "kubernetes", "jwt", "cert"}
	vaultMount  = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*$`)
)

// checkVault reports what is wrong with the login to Vault.
func (c config) checkVault(bad func(name, format string, args ...any)) {
	if !slices.Contains(vaultLogins, c.VaultAuth) {
		bad("COUNTERSIGN_VAULT_AUTH", "%q: want token, approle, kubernetes, jwt or cert", c.VaultAuth)
		return
	}
	if c.VaultMount != "" && (!vaultMount.MatchString(c.VaultMount) || c.VaultAuth == "token") {
		bad("COUNTERSIGN_VAULT_AUTH_MOUNT", "%q: want a path below auth/, such as %s; and none for token", c.VaultMount, c.VaultAuth)
	}
	if c.VaultAddr == "" {
		return
	}
	takes := func(name, value string, by ...string) {
		if value != "" && !slices.Contains(by, c.VaultAuth) {
			bad(name, "is for %s, and COUNTERSIGN_VAULT_AUTH is %s", strings.Join(by, ", "), c.VaultAuth)
		}
	}
	takes("COUNTERSIGN_VAULT_AUTH_ROLE", c.VaultRole, "kubernetes", "jwt", "cert")
	takes("COUNTERSIGN_VAULT_AUTH_JWT_PATH", c.VaultJWTPath, "kubernetes", "jwt")
	switch c.VaultAuth {
	case "token":
		if c.VaultToken == "" {
			bad("VAULT_TOKEN", "missing: VAULT_ADDR is set and COUNTERSIGN_VAULT_AUTH is token")
		}
	case "approle":
		if c.VaultRoleID == "" || c.VaultSecretID == "" {
			bad("VAULT_ROLE_ID, VAULT_SECRET_ID", "both are needed: COUNTERSIGN_VAULT_AUTH is approle")
		}
	case "kubernetes", "jwt":
		if c.VaultRole == "" {
			bad("COUNTERSIGN_VAULT_AUTH_ROLE", "missing: COUNTERSIGN_VAULT_AUTH is %s", c.VaultAuth)
		}
		switch path := c.vaultJWTPath(); {
		case path == "":
			bad("COUNTERSIGN_VAULT_AUTH_JWT_PATH", "missing: COUNTERSIGN_VAULT_AUTH is jwt")
		case !filepath.IsAbs(path):
			bad("COUNTERSIGN_VAULT_AUTH_JWT_PATH", "%q: want the absolute path of a file that is there", path)
		default:
			if info, err := os.Stat(path); err != nil || info.IsDir() {
				bad("COUNTERSIGN_VAULT_AUTH_JWT_PATH", "%q: want the absolute path of a file that is there", path)
			}
		}
	case "cert":
		if c.VaultClientCert == "" || c.VaultClientKey == "" {
			bad("VAULT_CLIENT_CERT, VAULT_CLIENT_KEY", "both are needed, files in PEM: COUNTERSIGN_VAULT_AUTH is cert")
		}
		if !strings.HasPrefix(c.VaultAddr, "https://") {
			bad("VAULT_ADDR", "want https, since COUNTERSIGN_VAULT_AUTH is cert") // not quoted: it may hold a password
		}
	}
}

func (c config) vaultJWTPath() string {
	if c.VaultJWTPath == "" && c.VaultAuth == "kubernetes" {
		return podToken
	}
	return c.VaultJWTPath
}

// vaultLogin is how the enforcer logs in.
func (c config) vaultLogin(m *mask.Mask) (api.AuthMethod, error) {
	mount := c.VaultMount
	if mount == "" {
		mount = c.VaultAuth
	}
	switch c.VaultAuth {
	case "approle":
		login, err := credential.AppRole(mount, c.VaultRoleID, c.VaultSecretID)
		if err != nil {
			return nil, fmt.Errorf("VAULT_ROLE_ID, VAULT_SECRET_ID: %w", err)
		}
		return login, nil
	case "kubernetes", "jwt":
		return credential.TokenFile(m, mount, c.VaultRole, c.vaultJWTPath()), nil
	case "cert":
		return credential.Certificate(mount, c.VaultRole), nil
	}
	return credential.Token(c.VaultToken), nil
}

// openVault logs in and revokes what earlier runs left; nil where no Vault is
// configured.
//
// The policy is told of each lease that has ended, so that a spawned server
// that still holds its values ends too.
func openVault(ctx context.Context, c config, m *mask.Mask, journal *audit.Journal, names enforcer.Names, policy *policyFollower, log *slog.Logger) (*credential.Minter, error) {
	dir := filepath.Join(c.StateDir, "vault")
	issuers, err := c.exchangers(m)
	if err != nil {
		return nil, err
	}
	var client *api.Client
	var login api.AuthMethod
	if c.VaultAddr == "" {
		if n, err := credential.Pending(dir); err != nil || n > 0 {
			return nil, fmt.Errorf("an earlier run's Vault token may still live (%s), and VAULT_ADDR is not set: start once with the Vault of that run, which revokes it, or remove the folder when the token has expired: %w", dir, errOrNil(err))
		}
		if len(issuers) == 0 {
			return nil, nil
		}
		dir = ""
	} else {
		vc := api.DefaultConfig() // reads Vault's own VAULT_* variables
		if vc.Error != nil {
			return nil, fmt.Errorf("VAULT_*: %w", vc.Error)
		}
		if client, err = api.NewClient(vc); err != nil {
			return nil, fmt.Errorf("VAULT_*: %w", err)
		}
		client.ClearToken() // only the login of the minter counts
		if login, err = c.vaultLogin(m); err != nil {
			return nil, err
		}
	}
	minter, err := credential.Open(ctx, credential.Config{
		Client: client, Login: login, Dir: dir, Issuers: issuers, Mask: m, Now: time.Now, Log: log,
		Record: func(ctx context.Context, e credential.Event) error {
			if e.Action == "revoke" || e.Action == "forget" {
				policy.leaseEnded(e.Key)
			}
			say := map[string]any{"username": e.Username, "expires": e.Expires}
			now := policy.current()
			if e.Path != "" {
				say["path"], say["params"] = e.Path, e.Params
				if now != nil && now.Settings().Record.Pseudonym { // what they were filled in with may name the caller
					delete(say, "params")
				}
			}
			if e.Login != "" {
				say["login"] = e.Login
			}
			detail, err := audit.Detail(say)
			if err != nil {
				return err
			}
			en := audit.Entry{
				Kind: audit.KindCredential, Call: e.Call, Policy: policy.commit(), Credential: e.Name, Lease: e.Key, Status: e.Action, Reason: e.Err, Detail: detail,
			}
			names.Held(&en, now, e.Holder)
			_, err = journal.Append(ctx, en)
			return err
		},
	})
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	return minter, nil
}

// exchangers are our clients at issuers that exchange callers' tokens. Their
// secrets are in the mask.
func (c config) exchangers(m *mask.Mask) (all []credential.IssuerClient, err error) {
	if c.TokenExchange == "" {
		return nil, nil
	}
	dec := json.NewDecoder(strings.NewReader(c.TokenExchange))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&all); err != nil || dec.More() { // its text could quote a secret
		return nil, errors.New("COUNTERSIGN_TOKEN_EXCHANGE: want a JSON list of objects with issuer, client_id, and client_secret or private_key (and key_id)")
	}
	for i, client := range all {
		for _, before := range all[:i] {
			if before.Issuer == client.Issuer {
				return nil, fmt.Errorf("COUNTERSIGN_TOKEN_EXCHANGE: %s is there twice", client.Issuer)
			}
		}
		secrets := append(strings.Split(client.PrivateKey, "\n"), client.Secret)
		for _, secret := range secrets {
			if len(secret) < 16 && secret != client.Secret || secret == "" || strings.HasPrefix(secret, "-----") {
				continue // of a key's lines, the last may be short
			}
			if _, err := m.Add("COUNTERSIGN_TOKEN_EXCHANGE", secret); err != nil {
				return nil, fmt.Errorf("COUNTERSIGN_TOKEN_EXCHANGE: %s: %w", client.Issuer, err)
			}
		}
	}
	return all, nil
}
