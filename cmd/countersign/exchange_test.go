package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"countersign/audit"
	"countersign/fixtures/issuer"
)

// An upstream that takes OAuth tokens gets one for the caller, which the issuer
// gave for the caller's own: nobody sees either, there is one for a holder's
// calls, and it ends with the enforcer. All of it without Vault.
func TestTokensAreExchanged(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := newStage(t)
	s.Issuer.Register(issuer.Client{ID: "gate", Secret: "gate-secret-1", Exchange: &issuer.Exchange{SubjectAudience: s.URL, Audiences: []string{"crm"}, Scopes: []string{"read"}}})
	const inject = "ttl: 15m, inject: { headers: { Authorization: \"Bearer {{access_token}}\" } } }\n"
	amend(t, s, s.Dana, map[string]string{
		"servers/probe.yaml": "server: probe\nurl: " + u.url + "\ntimeout: 5m\ncredentials:\n" +
			"  crm: { exchange: { issuer: \"" + s.Issuer.URL + "\", audience: crm, scope: read }, " + inject +
			"  billing: { exchange: { issuer: \"" + s.Issuer.URL + "\", audience: billing }, " + inject +
			"  db: { vault: database/creds/customers-ro, ttl: 15m, inject: { headers: { Authorization: \"Bearer {{password}}\" } } }\n",
		"rules/probe.yaml": "- { id: crm, server: probe, tool: echo, effect: allow, credential: crm }\n- { id: billing, server: probe, tool: bill, effect: allow, credential: billing }\n" +
			"- { id: db, server: probe, tool: query, effect: allow, credential: db }\n",
		"rules/customers.yaml": "", "rules/protocol.yaml": "", "tests/customers.yaml": "",
	})
	p := serving(t, s, map[string]string{"VAULT_ADDR": "", "COUNTERSIGN_VAULT_AUTH": "", "VAULT_ROLE_ID": "", "VAULT_SECRET_ID_FILE": "", "COUNTERSIGN_LOG_LEVEL": "debug",
		"COUNTERSIGN_TOKEN_EXCHANGE": `[{"issuer":"` + s.Issuer.URL + `","client_id":"gate","client_secret":"gate-secret-1"}]`})
	alice := p.token("alice", "support")
	u.answerWith(func(w http.ResponseWriter, r *http.Request, id json.RawMessage, _, _ string) bool {
		all, err := json.Marshal(r.Header.Get("Authorization"))
		if err != nil {
			return false
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"jsonrpc":"2.0","id":` + string(id) + `,"result":{"content":[{"type":"text","text":` + string(all) + `}]}}`))
		return true
	})
	for range 2 {
		if a := p.ask("probe", alice, toolCall("echo", "x")); !strings.Contains(a.text, "[masked: ") || strings.Contains(a.text, strings.TrimPrefix(u.authorization(), "Bearer ")) {
			t.Fatalf("got %+v", a)
		}
	}
	token := strings.TrimPrefix(u.authorization(), "Bearer ")
	if alive := s.Issuer.Alive(); len(alive) != 1 || alive[0] != token || token == alice {
		t.Errorf("alive %v, the upstream got %s", alive, token)
	}
	if a := p.ask("probe", alice, toolCall("bill", "x")); !strings.Contains(a.text, "invalid_target (no token for that audience or resource is given to our client)") || u.ran("bill") != 0 {
		t.Errorf("got %+v", a)
	}
	if a := p.ask("probe", alice, toolCall("query", "x")); !strings.Contains(a.text, "it needs Vault, and none is configured") || u.ran("query") != 0 {
		t.Errorf("got %+v", a)
	}
	out, _, code := p.cli("credentials", "list")
	if code != 0 || !strings.Contains(out, "crm") || !strings.Contains(out, s.Issuer.URL+"#alice") || strings.Contains(out, token) {
		t.Errorf("exit %d\n%s", code, out)
	}
	if out, _, code := p.cli("credentials", "revoke", "--credential", "crm", "--reason", "drill"); code != 0 || len(s.Issuer.Alive()) != 0 {
		t.Errorf("exit %d\n%s", code, out)
	}
	if a := p.ask("probe", alice, toolCall("echo", "x")); !strings.Contains(a.text, "[masked: ") || strings.Contains(a.text, strings.TrimPrefix(u.authorization(), "Bearer ")) {
		t.Errorf("got %+v", a)
	}
	p.stop()
	if alive := s.Issuer.Alive(); len(alive) != 0 {
		t.Errorf("alive after the end: %v", alive)
	}
	var events []string
	for _, en := range p.entries(func(en audit.Entry) bool {
		return en.Kind == audit.KindCredential && en.Credential == "crm"
	}) {
		events = append(events, en.Status)
	}
	if got := strings.Join(events, " "); got != "mint revoke mint revoke" {
		t.Errorf("recorded %s", got)
	}
	all := p.log.String() + git(t, s.Audit, "log", "-p", "--all")
	for _, secret := range []string{token, alice, "gate-secret-1"} {
		if strings.Contains(all, secret) {
			t.Error("a token, or our secret, is in the record or the log")
		}
	}
	verified(t, s)
}
