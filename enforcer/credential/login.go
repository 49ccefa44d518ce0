package credential

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/api/auth/approle"

	"countersign/enforcer/mask"
)

// Token logs in with a token that the operator made.
func Token(token string) api.AuthMethod { return staticToken(token) }

type staticToken string

// Login implements api.AuthMethod: the token is there already, and is looked
// up to see that it works.
func (t staticToken) Login(ctx context.Context, client *api.Client) (*api.Secret, error) {
	client.SetToken(string(t))
	self, err := client.Auth().Token().LookupSelfWithContext(ctx)
	if err != nil {
		return nil, err
	}
	policies, err := self.TokenPolicies()
	if err != nil {
		return nil, err
	}
	ttl, err := self.TokenTTL()
	if err != nil {
		return nil, err
	}
	renewable, err := self.TokenIsRenewable()
	if err != nil {
		return nil, err
	}
	accessor, err := self.TokenAccessor()
	if err != nil {
		return nil, err
	}
	return &api.Secret{Auth: &api.SecretAuth{ClientToken: string(t), Accessor: accessor, TokenPolicies: policies, LeaseDuration: int(ttl.Seconds()), Renewable: renewable}}, nil
}

// AppRole logs in with a role at auth/<mount>.
func AppRole(mount, roleID, secretID string) (api.AuthMethod, error) {
	return approle.NewAppRoleAuth(roleID, &approle.SecretID{FromString: secretID}, approle.WithMountPath(mount))
}

// TokenFile logs in with a role at auth/<mount> and a token that somebody else
// keeps fresh in a file: a Kubernetes service account's, or a JWT. The file is
// read at each login, and what it holds is in the mask before it is sent.
func TokenFile(m *mask.Mask, mount, role, path string) api.AuthMethod {
	return tokenFile{m, mount, role, path}
}

type tokenFile struct {
	mask              *mask.Mask
	mount, role, path string
}

// maxTokenFile is far more than a token needs, and what a mask takes.
const maxTokenFile = 64 << 10

// Login implements api.AuthMethod.
func (f tokenFile) Login(ctx context.Context, client *api.Client) (*api.Secret, error) {
	token, err := f.read()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoToken, err)
	}
	id, err := f.mask.Add("vault login", token)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrNoToken, f.path, err)
	}
	defer f.mask.Retire(id)
	return jwtLogin(ctx, client, f.mount, f.role, token)
}

func (f tokenFile) read() (string, error) {
	file, err := os.Open(f.path)
	if err != nil {
		return "", err
	}
	data, err := io.ReadAll(io.LimitReader(file, maxTokenFile+1))
	if err = errors.Join(err, file.Close()); err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(data))
	switch {
	case token == "":
		return "", fmt.Errorf("%s is empty", f.path)
	case len(data) > maxTokenFile:
		return "", fmt.Errorf("%s is larger than %d bytes", f.path, maxTokenFile)
	case strings.ContainsAny(token, " \t\r\n"):
		return "", fmt.Errorf("%s holds more than one word: want one token", f.path)
	}
	return token, nil
}

// jwtLogin is the login of the JWT and the Kubernetes methods.
func jwtLogin(ctx context.Context, client *api.Client, mount, role, token string) (*api.Secret, error) {
	return client.Logical().WriteWithContext(ctx, "auth/"+mount+"/login", map[string]any{"role": role, "jwt": token})
}

// Certificate logs in at auth/<mount> with the client certificate of the
// connection (VAULT_CLIENT_CERT), as the role; "" has Vault choose among those
// that the certificate fits.
func Certificate(mount, role string) api.AuthMethod { return certificate{mount, role} }

type certificate struct{ mount, role string }

// Login implements api.AuthMethod.
func (c certificate) Login(ctx context.Context, client *api.Client) (*api.Secret, error) {
	ask := map[string]any{}
	if c.role != "" {
		ask["name"] = c.role
	}
	return client.Logical().WriteWithContext(ctx, "auth/"+c.mount+"/login", ask)
}
