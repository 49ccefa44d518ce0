package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"countersign/enforcer/credential"
	"countersign/enforcer/mask"
	"countersign/fixtures/peer"
)

// mintsAsThePageSays logs in with what the page's commands left, and mints under its policy.
func mintsAsThePageSays(s *shell, v *peer.Vault, pg *peer.Postgres) {
	t := s.t
	login, err := credential.AppRole("approle", s.read("gate/secrets/vault_role_id"), s.read("gate/secrets/vault_secret_id"))
	if err != nil {
		t.Fatal(err)
	}
	var events []string
	dir := t.TempDir()
	open := func() *credential.Minter {
		m, err := credential.Open(t.Context(), credential.Config{
			Client: v.Client(t, ""), Login: login, Dir: dir, Mask: mask.New(mask.Options{}), Now: time.Now,
			Record: func(_ context.Context, e credential.Event) error {
				events = append(events, strings.TrimSpace(e.Action+" "+e.Err))
				return nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	m := open()
	for _, role := range []string{"customers-ro", "customers-rw"} {
		lease, err := m.Acquire(t.Context(), "holder", "c_1", credential.Spec{Name: role, Path: "database/creds/" + role, PerCall: true, TTL: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		password, err := lease.Render("{{password}}")
		if err != nil {
			t.Fatal(err)
		}
		if err := pg.Login(t.Context(), lease.Username, password); err != nil {
			t.Errorf("%s: the minted user cannot log in: %v", role, err)
		}
		if err := m.Release(t.Context(), lease); err != nil {
			t.Error(err)
		}
		if err := pg.Login(t.Context(), lease.Username, password); err == nil {
			t.Errorf("%s: the user is there after its call", role)
		}
	}
	if _, err := m.Acquire(t.Context(), "holder", "c_2", credential.Spec{Name: "other", Path: "database/creds/other", TTL: time.Minute}); !errors.Is(err, credential.ErrForbidden) {
		t.Errorf("a path that the page's policy does not name: %v", err)
	}
	if err := m.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := open().Close(t.Context()); err != nil { // the secret id is good for every start
		t.Error(err)
	}
	if want := []string{"mint", "revoke", "mint", "revoke"}; !slices.Equal(events, want) {
		t.Errorf("recorded %q, want %q", events, want)
	}
}

// mounted reads the words behind "enable".
func mounted(args []string) (kind, path string, options map[string]string) {
	for _, a := range args {
		switch name, value, _ := strings.Cut(a, "="); name {
		case "-path":
			path = value
		case "-version":
			options = map[string]string{"version": value}
		default:
			kind = a
		}
	}
	if path == "" {
		path = kind
	}
	return kind, path, options
}

// vaultCLI is as much of Vault's command line as the page uses, over Vault's own client.
func vaultCLI(args []string) error {
	cfg := api.DefaultConfig()
	if cfg.Error != nil {
		return cfg.Error
	}
	client, err := api.NewClient(cfg)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	switch {
	case len(args) == 4 && args[0] == "policy" && args[1] == "write":
		text, err := os.ReadFile(args[3])
		if err != nil {
			return err
		}
		return client.Sys().PutPolicyWithContext(ctx, args[2], string(text))
	case len(args) >= 3 && args[0] == "auth" && args[1] == "enable":
		kind, path, _ := mounted(args[2:])
		return client.Sys().EnableAuthWithOptionsWithContext(ctx, path, &api.EnableAuthOptions{Type: kind})
	case len(args) >= 3 && args[0] == "secrets" && args[1] == "enable":
		kind, path, options := mounted(args[2:])
		return client.Sys().MountWithContext(ctx, path, &api.MountInput{Type: kind, Options: options})
	case len(args) >= 5 && args[0] == "kv" && args[1] == "put" && strings.HasPrefix(args[2], "-mount="):
		data := map[string]any{}
		for _, a := range args[4:] {
			name, value, _ := strings.Cut(a, "=")
			data[name] = value
		}
		_, err := client.KVv2(strings.TrimPrefix(args[2], "-mount=")).Put(ctx, args[3], data)
		return err
	case len(args) < 2 || args[0] != "read" && args[0] != "write":
		return fmt.Errorf("unknown command %q", args)
	}
	verb, field, path, data := args[0], "", "", map[string]any{}
	for _, a := range args[1:] {
		name, value, pair := strings.Cut(a, "=")
		switch {
		case a == "-f":
		case name == "-field":
			field = value
		case path == "" && !strings.HasPrefix(a, "-"):
			path = a
		case pair && strings.HasPrefix(value, "@"):
			text, err := os.ReadFile(value[1:])
			if err != nil {
				return err
			}
			data[name] = string(text)
		case pair && !strings.HasPrefix(a, "-"):
			data[name] = value
		default:
			return fmt.Errorf("unknown flag %q", a)
		}
	}
	var secret *api.Secret
	if verb == "read" {
		secret, err = client.Logical().ReadWithContext(ctx, path)
	} else {
		secret, err = client.Logical().WriteWithContext(ctx, path, data)
	}
	if err != nil || field == "" {
		return err
	}
	if secret == nil || secret.Data[field] == nil {
		return fmt.Errorf("%s has no field %s", path, field)
	}
	fmt.Println(secret.Data[field])
	return nil
}
