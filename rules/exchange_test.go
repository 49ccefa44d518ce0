package rules

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

func exchanging(text string) string {
	return "server: s\nurl: https://crm.example/mcp\ncredentials:\n  c: { " + text + "ttl: 10m, inject: { headers: { Authorization: \"Bearer {{access_token}}\" } } }\n"
}

func TestExchange(t *testing.T) {
	p := load(t, base(), "servers/s.yaml", exchanging(`exchange: { issuer: "https://id.example", audience: crm, resource: ["https://crm.example/a", "urn:b"], scope: "read  write" }, scope: call, `))
	s, _ := p.Server("s")
	c := s.Credentials["c"]
	if want := (&Exchange{"https://id.example", []string{"crm"}, []string{"https://crm.example/a", "urn:b"}, "read write"}); !reflect.DeepEqual(c.Exchange, want) || !c.PerCall || c.Vault != "" {
		t.Errorf("got %+v", c)
	}
}

func TestExchangeProblems(t *testing.T) {
	const good = `issuer: "https://id.example", audience: crm`
	for name, c := range map[string]struct{ text, want string }{
		"and Vault":          {"vault: a/b, exchange: { " + good + " }, ", "servers/s.yaml:4:15: vault is for what Vault mints"},
		"and a login":        {"login: { as: caller, role: x }, exchange: { " + good + " }, ", "login is for what Vault mints"},
		"no issuer":          {"exchange: { audience: crm }, ", "servers/s.yaml:4:18: exchange needs issuer"},
		"no URL":             {"exchange: { issuer: id.example, audience: crm }, ", "must be the issuer's URL"},
		"a query":            {"exchange: { issuer: \"https://id.example?x=1\", audience: crm }, ", "must be the issuer's URL"},
		"for everything":     {"exchange: { issuer: \"https://id.example\" }, ", "exchange needs audience or resource"},
		"a relative URI":     {"exchange: { issuer: \"https://id.example\", resource: /api }, ", "an absolute URI without a fragment"},
		"a fragment":         {"exchange: { issuer: \"https://id.example\", resource: \"https://x#y\" }, ", "an absolute URI without a fragment"},
		"a secret in policy": {"exchange: { " + good + ", client_secret: hunter2 }, ", `unknown field "client_secret"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := try(base(), "servers/s.yaml", exchanging(c.text))
			var problems Problems
			if !errors.As(err, &problems) || len(problems) != 1 || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("problems:\n%v\nwant one, which says %q", err, c.want)
			}
		})
	}
	other := strings.Replace(exchanging("exchange: { "+good+" }, "), "{{access_token}}", "{{password}}", 1)
	if _, err := try(base(), "servers/s.yaml", other); err == nil || !strings.Contains(err.Error(), "{{password}} is used") {
		t.Errorf("got %v", err)
	}
}
