package enforcer

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"

	"countersign/enforcer/credential"
	"countersign/rules"
)

// asks is what the policy has Vault asked for, for this request. Where the
// caller is to log in to Vault itself, or an issuer exchanges its token, this is
// where that goes; it goes nowhere else.
func (x *exchange) asks(c rules.Credential) (credential.Spec, error) {
	var same string // for whom a caller's own is shared
	var err error
	if c.Exchange != nil || c.Login != nil {
		if same, err = says(x.caller.Subject); err != nil {
			return credential.Spec{}, refuse(kindUnavailable, "credential %q cannot be asked for: %w", c.Name, err)
		}
	}
	// A process keeps what it was started with as long as its lease lives: a
	// policy that puts a secret elsewhere needs another of both.
	into, err := json.Marshal(c.Inject)
	if err != nil { // texts: it cannot fail
		return credential.Spec{}, refuse(kindUnavailable, "credential %q cannot be asked for: %w", c.Name, err)
	}
	if t := c.Exchange; t != nil {
		return credential.Spec{Name: c.Name, Into: string(into), PerCall: c.PerCall, TTL: c.TTL, Exchange: &credential.Exchange{
			Issuer: t.Issuer, Audience: t.Audience, Resource: t.Resource, Scope: t.Scope, Token: bearerToken(x.r), Expires: x.caller.Expires, Says: same,
		}}, nil
	}
	var path string
	var params map[string]any
	fill := func() { path, params, err = c.Fill(x.req) }
	if c.UsesArgs() { // and decodes them
		x.e.room.works(len(x.raw), fill)
	} else {
		fill()
	}
	if err != nil {
		return credential.Spec{}, refuse(kindDenied, "credential %q cannot be asked for: %w", c.Name, err)
	}
	s := credential.Spec{
		Name: c.Name, Path: path, Post: c.Post, Params: params, Fields: c.Fields, Public: c.Public, Base64: c.Base64,
		Into: string(into), NoLease: c.NoLease, PerCall: c.PerCall, TTL: c.TTL,
	}
	if c.Login != nil {
		s.Login = &credential.Login{Mount: c.Login.Mount, Role: c.Login.Role, Token: bearerToken(x.r), Expires: x.caller.Expires, Says: same}
	}
	return s, nil
}

// says is a digest of what a token says of its subject, which a role in Vault,
// or an issuer, may go by: a token that lost a group must not use the lease that was minted
// for it, nor one of a narrower scope that of a wider. What tells one token from
// the next, and nothing else, is left out.
func says(s rules.Subject) (string, error) {
	s.Claims = maps.Clone(s.Claims)
	for _, name := range []string{"exp", "iat", "nbf", "jti"} {
		delete(s.Claims, name)
	}
	b, err := json.Marshal(s)
	if err != nil {
		return "", err // decoded JSON: it cannot fail
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}
