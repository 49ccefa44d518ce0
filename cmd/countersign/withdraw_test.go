package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"countersign/audit"
	"countersign/fixtures/stage"
)

// patientProbe gives the probe's calls time, and its holder's credential a ttl.
func patientProbe(t *testing.T, s *stage.Stage, u *probe, timeout, ttl string) (commit string) {
	t.Helper()
	return amend(t, s, s.Dana, map[string]string{
		"servers/probe.yaml": "server: probe\nurl: " + u.url + "\ntimeout: " + timeout + "\ncredentials:\n" +
			"  probe-db: { vault: database/creds/customers-ro, scope: holder, ttl: " + ttl + ", inject: { headers: { Authorization: \"{{basic username password}}\" } } }\n" +
			"  probe-call: { vault: database/creds/customers-ro, scope: call, ttl: 10m, inject: { headers: { Authorization: \"{{basic username password}}\" } } }\n",
	})
}

// A policy that changes a credential ends those that live: at once, or with the
// call that uses it. A call at an upstream of the earlier policy can still be
// reached.
func TestAPolicyWithdrawsCredentials(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "1s")
	patientProbe(t, s, u, "5m", "10m")
	arrived := make(chan struct{}, 4)
	u.answerWith(func(_ http.ResponseWriter, r *http.Request, id json.RawMessage, _, tool string) bool {
		if string(id) != "7" {
			return false
		}
		arrived <- struct{}{}
		<-r.Context().Done()
		return true
	})
	p := serving(t, s, nil)
	alice, carol := p.token("alice", "support"), p.token("carol", "support")
	if a := p.ask("probe", alice, toolCall("leak", "x")); a.text != "ran leak" {
		t.Fatalf("%+v", a)
	}
	running := p.asking(t.Context(), "probe", carol, strings.Replace(toolCall("leak", "x"), `"id":1`, `"id":7`, 1))
	within(t, arrived, "the call at the server")
	if n := len(s.Vault.Leases()); n != 2 {
		t.Fatalf("%d leases", n)
	}
	// The ttl of one credential, and a timeout, by which the server is another upstream.
	p.inForce(patientProbe(t, s, u, "6m", "9m"))
	p.await("the idle holder's credential to end", func() bool { return len(s.Vault.Leases()) == 1 })
	out, _, code := p.cli("credentials", "list")
	if code != 0 || !strings.Contains(out, "#carol") || strings.Contains(out, "#alice") || !strings.Contains(out, "it is being revoked, or will be with its last call") {
		t.Errorf("exit %d\n%s", code, out)
	}
	if a := p.ask("probe", alice, toolCall("leak", "x")); a.text != "ran leak" {
		t.Errorf("under the new policy: %+v", a)
	}
	if out, _, code := p.cli("credentials", "revoke", "--subject", s.Issuer.URL+"#carol", "--reason", "it was withdrawn"); code != 0 || !strings.Contains(out, "revoked: probe-db of probe") {
		t.Errorf("exit %d\n%s", code, out)
	}
	if a := <-running; !strings.Contains(a.text, "it was withdrawn; the call was with the upstream server") {
		t.Errorf("got %+v", a)
	}
	if n := len(s.Vault.Leases()); n != 1 {
		t.Errorf("%d leases", n)
	}
	p.stop()
	if n := len(s.Vault.Leases()); n != 0 {
		t.Errorf("%d leases after the end", n)
	}
	ends := p.entries(func(en audit.Entry) bool { return en.Kind == audit.KindCredential && en.Status == "revoke" })
	if len(ends) != 3 {
		t.Errorf("recorded: %+v", ends)
	}
}
