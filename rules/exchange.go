package rules

import (
	"net/url"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Exchange is what an issuer is asked for in the place of Vault: a token for
// the caller's own (RFC 8693). The one field of that secret is access_token.
type Exchange struct {
	Issuer   string   // one at which the operator has named a client
	Audience []string // at least one of audience and resource
	Resource []string // absolute URIs (RFC 8707)
	Scope    string   // blank-separated
}

// vaultOnly are the fields that say how Vault is asked.
var vaultOnly = []string{"vault", "method", "params", "fields", "public", "base64", "lease", "login"}

func (d *document) exchange(n *yaml.Node, c *Credential, f map[string]*yaml.Node) {
	for _, name := range vaultOnly {
		if at := f[name]; at != nil {
			d.report(at, "%s is for what Vault mints: a credential has either vault or exchange", name)
		}
	}
	x := &Exchange{}
	c.Exchange = x
	g, ok := d.fields(n, "exchange", "issuer", "audience", "resource", "scope")
	if !ok {
		return
	}
	if at := g["issuer"]; at == nil {
		d.report(n, "exchange needs issuer: whose token is wanted")
	} else if x.Issuer = d.text(at, "exchange.issuer"); x.Issuer != "" && !absolute(x.Issuer) {
		d.report(at, "exchange.issuer must be the issuer's URL, as its own metadata has it")
	}
	x.Audience, x.Resource = d.texts(g["audience"], "exchange.audience"), d.texts(g["resource"], "exchange.resource")
	for _, r := range x.Resource {
		if u, err := url.Parse(r); err != nil || !u.IsAbs() || u.Fragment != "" {
			d.report(g["resource"], "exchange.resource must be an absolute URI without a fragment")
		}
	}
	if g["audience"] == nil && g["resource"] == nil {
		d.report(n, "exchange needs audience or resource: what the token is for")
	}
	x.Scope = strings.Join(strings.Fields(d.text(g["scope"], "exchange.scope")), " ")
	d.used(f["inject"], []string{"access_token"})
}

// absolute tells whether an issuer's name is one: a URL without a query or a
// fragment (RFC 8414 section 2).
func absolute(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Host != "" && slices.Contains([]string{"https", "http"}, u.Scheme) && u.RawQuery == "" && u.Fragment == "" && u.User == nil
}
