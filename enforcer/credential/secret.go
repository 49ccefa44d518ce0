package credential

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/hashicorp/vault/api"

	"countersign/enforcer/mask"
)

// check refuses a spec that could ask Vault for something else than it says.
func (s Spec) check() error {
	if s.Exchange != nil {
		return s.Exchange.check()
	}
	if s.Path == "" || strings.HasPrefix(s.Path, "/") || strings.Contains(s.Path, "..") || strings.ContainsAny(s.Path, "?#%\\ \r\n") {
		return fmt.Errorf("%q is not a path to ask Vault at", s.Path)
	}
	return nil
}

// shared is the key under which calls of one holder share a lease: all that
// the secret depends on. Which token logs in is not in it, but what it says of
// the holder: Vault, or the issuer, may go by any of that.
func (s Spec) shared(holder string) (string, error) {
	all := struct {
		Holder string
		Spec   Spec
	}{holder, s}
	if s.Login != nil {
		all.Spec.Login = &Login{Mount: s.Login.Mount, Role: s.Login.Role, Says: s.Login.Says}
	}
	if x := s.Exchange; x != nil {
		all.Spec.Exchange = &Exchange{Issuer: x.Issuer, Audience: x.Audience, Resource: x.Resource, Scope: x.Scope, Says: x.Says}
	}
	key, err := json.Marshal(all)
	return string(key), err
}

// doing says in words what the spec asks of Vault.
func (s Spec) doing() string {
	if s.Post {
		return "post " + s.Path
	}
	return "read " + s.Path
}

// ask gets the secret from Vault.
func (s Spec) ask(ctx context.Context, client *api.Client) (*api.Secret, error) {
	if s.Post {
		return client.Logical().WriteWithContext(ctx, s.Path, s.Params)
	}
	query := map[string][]string{}
	for name, v := range s.Params {
		query[name] = []string{fmt.Sprint(v)}
	}
	return client.Logical().ReadWithDataWithContext(ctx, s.Path, query)
}

// hide makes the secret's texts known to the mask, and keeps those that a
// template may use. Where the spec names the fields that are secret, these must
// be there, and what it does not name is dropped; else every text is a secret
// but the user's name, which people need to see, and what the spec says is
// public. Numbers are dropped unless they are named.
func (m *Minter) hide(e *entry, secret *api.Secret) error {
	all, numbers := map[string]string{}, map[string]bool{}
	if err := flatten(all, numbers, "", secret.Data, mostLevels); err != nil {
		return err
	}
	s, names := e.spec, slices.Sorted(maps.Keys(all))
	for _, name := range s.Fields {
		if !slices.ContainsFunc(names, func(have string) bool { return below(have, name) && all[have] != "" }) {
			return fmt.Errorf("%w: the answer has no text in field %s, which policy names", ErrRefused, name)
		}
	}
	e.fields = map[string]string{}
	for _, name := range names {
		value := all[name]
		named := slices.ContainsFunc(s.Fields, func(f string) bool { return below(name, f) })
		public := !named && (name == "username" || slices.ContainsFunc(s.Public, func(f string) bool { return below(name, f) }))
		if (len(s.Fields) > 0 || numbers[name]) && !named && !public {
			continue
		}
		if !public {
			if err := m.hideText(e, name, value); err != nil {
				return err
			}
		}
		if slices.Contains(s.Base64, name) {
			var err error
			if value, err = decode(value); err != nil {
				return fmt.Errorf("field %s: %w: it is not text in base64, as policy says", name, ErrRefused)
			}
			if !public {
				if err := m.hideText(e, name, value); err != nil {
					return err
				}
			}
		}
		e.fields[name] = value
		if name == "username" && public {
			e.username = value
		}
	}
	return nil
}

// hideText has the mask know a text, and of one of several lines, as a key is
// in PEM, the long lines, too.
func (m *Minter) hideText(e *entry, name, value string) error {
	if value == "" {
		return nil
	}
	if isWord(value) {
		return fmt.Errorf("field %s: %w: %w", name, ErrRefused, errWord)
	}
	err := m.mask(e, value)
	if errors.Is(err, mask.ErrTooShort) {
		return fmt.Errorf("field %s: %w, or say in the policy that it is public", name, err)
	}
	if err != nil {
		return fmt.Errorf("field %s: %w", name, err)
	}
	return nil
}

// below tells whether a dotted name is the field or within it.
func below(name, field string) bool {
	rest, ok := strings.CutPrefix(name, field)
	return ok && (rest == "" || rest[0] == '.')
}

// Bounds of a secret. More is no credential, and the work of masking it would
// hold up all calls.
const (
	mostFields = 1000
	mostLevels = 32
)

// flatten lists the texts of a secret by dotted names, and its numbers and
// truths as they are spelled. An element of a list is named by its place; a list
// of texts is a text, too, its elements one a line, as a chain of certificates
// is in a file.
func flatten(into map[string]string, numbers map[string]bool, prefix string, in any, levels int) error {
	if levels == 0 {
		return fmt.Errorf("%w: the answer has more than %d levels", ErrRefused, mostLevels)
	}
	add := func(name, value string) error {
		if _, twice := into[name]; twice {
			return fmt.Errorf("%w: the answer has two fields that go by the name %s", ErrRefused, name)
		}
		if len(into) == mostFields {
			return fmt.Errorf("%w: the answer has more than %d fields", ErrRefused, mostFields)
		}
		into[name] = value
		return nil
	}
	under := func(name string) string {
		if prefix == "" {
			return name
		}
		return prefix + "." + name
	}
	switch in := in.(type) {
	case string:
		return add(prefix, in)
	case json.Number, bool:
		numbers[prefix] = true
		return add(prefix, fmt.Sprint(in))
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(in)) {
			if err := flatten(into, numbers, under(name), in[name], levels-1); err != nil {
				return err
			}
		}
	case []any:
		var texts []string
		for i, element := range in {
			if text, ok := element.(string); ok {
				texts = append(texts, text)
			}
			if err := flatten(into, numbers, under(strconv.Itoa(i)), element, levels-1); err != nil {
				return err
			}
		}
		if len(texts) == len(in) && len(in) > 0 {
			return add(prefix, strings.Join(texts, "\n"))
		}
	}
	return nil
}

// decode reads base64 in either alphabet, padded or not, that holds text.
func decode(s string) (string, error) {
	plain := strings.NewReplacer("-", "+", "_", "/", "\n", "", "\r", "").Replace(strings.TrimRight(strings.TrimSpace(s), "="))
	data, err := base64.RawStdEncoding.DecodeString(plain)
	if err != nil {
		return "", err
	}
	if !utf8.Valid(data) {
		return "", errors.New("it is not UTF-8")
	}
	return string(data), nil
}
