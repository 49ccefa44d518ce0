package enforcer

import (
	"countersign/enforcer/credential"
	"countersign/rules"
)

// asks is what the policy has Vault asked for, for this request. Where the
// caller is to log in to Vault itself, or an issuer exchanges its token, this is where that goes; it goes
// nowhere else.
func (x *exchange) asks(c rules.Credential) (credential.Spec, error) {
	if t := c.Exchange; t != nil {
		return credential.Spec{Name: c.Name, PerCall: c.PerCall, TTL: c.TTL, Exchange: &credential.Exchange{
			Issuer: t.Issuer, Audience: t.Audience, Resource: t.Resource, Scope: t.Scope, Token: bearerToken(x.r), Expires: x.caller.Expires,
		}}, nil
	}
	path, params, err := c.Fill(x.req)
	if err != nil {
		return credential.Spec{}, refuse(kindDenied, "credential %q cannot be asked for: %w", c.Name, err)
	}
	s := credential.Spec{
		Name: c.Name, Path: path, Post: c.Post, Params: params, Fields: c.Fields, Public: c.Public, Base64: c.Base64,
		NoLease: c.NoLease, PerCall: c.PerCall, TTL: c.TTL,
	}
	if c.Login != nil {
		s.Login = &credential.Login{Mount: c.Login.Mount, Role: c.Login.Role, Token: bearerToken(x.r), Expires: x.caller.Expires}
	}
	return s, nil
}
