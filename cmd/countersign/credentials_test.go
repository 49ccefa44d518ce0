package main

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"countersign/audit"
)

// An operator sees whom credentials live for, and ends them: at once, with the
// calls that use them, which are told why. Both stand in the record.
func TestCredentialsAreListedAndRevoked(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "1s")
	mayFreeze(t, s, "1s")
	patientProbe(t, s, u, "5m", "10m")
	arrived, gone := make(chan struct{}, 4), make(chan struct{}, 4)
	u.answerWith(func(_ http.ResponseWriter, r *http.Request, _ json.RawMessage, _, tool string) bool {
		if tool != "once" {
			return false
		}
		arrived <- struct{}{}
		<-r.Context().Done()
		gone <- struct{}{}
		return true
	})
	p := serving(t, s, nil)
	alice := p.token("alice", "support")
	list := func() []lent {
		t.Helper()
		out, errs, code := p.cli("credentials", "list", "--json")
		var all struct{ Credentials []lent }
		if err := json.Unmarshal([]byte(out), &all); err != nil || code != 0 || errs != "" {
			t.Fatalf("exit %d %v\n%s%s", code, err, out, errs)
		}
		return all.Credentials
	}
	revoke := func(code int, args ...string) string {
		t.Helper()
		out, errs, got := p.cli(append([]string{"credentials", "revoke"}, args...)...)
		if got != code {
			t.Errorf("revoke %q: exit %d\n%s%s", args, got, out, errs)
		}
		return out + errs
	}
	if out, _, code := p.cli("credentials", "list"); code != 0 || out != "no credential lives\n" {
		t.Errorf("exit %d %s", code, out)
	}
	if a := p.ask("probe", alice, toolCall("leak", "x")); a.text != "ran leak" {
		t.Fatalf("%+v", a)
	}
	basic, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(u.authorization(), "Basic "))
	if err != nil {
		t.Fatal(err)
	}
	user, password, _ := strings.Cut(string(basic), ":")
	running := p.asking(t.Context(), "probe", alice, toolCall("once", "x"))
	within(t, arrived, "the call at the server")

	all := list()
	if len(all) != 2 {
		t.Fatalf("%+v", all)
	}
	shared, single := all[0], all[1]
	if shared.PerCall {
		shared, single = single, shared
	}
	if shared.Credential != "probe-db" || shared.Username != user || shared.Uses != 0 || shared.Server != "probe" || shared.Sub != "alice" ||
		shared.Issuer != s.Issuer.URL || shared.Client == "" || shared.Expires.IsZero() || shared.Ending != "" {
		t.Errorf("the holder's: %+v", shared)
	}
	if single.Credential != "probe-call" || single.Uses != 1 || !strings.HasPrefix(single.Call, "c_") {
		t.Errorf("the call's: %+v", single)
	}
	out, _, _ := p.cli("credentials", "list")
	if !strings.Contains(out, user) || !strings.Contains(out, single.Call) || strings.Contains(out, password) {
		t.Errorf("listed:\n%s", out)
	}

	if said := revoke(0, "--credential", "probe-call", "--reason", "seen in a chat"); said != single.Key+"  revoked: probe-call of probe, minted for "+s.Issuer.URL+"#alice\n" {
		t.Errorf("it said %s", said)
	}
	within(t, gone, "the call to have left")
	a := <-running
	if !strings.Contains(a.text, `credential "probe-call" was revoked by operator uid `) || !strings.Contains(a.text, "seen in a chat; the call was with the upstream server, and may have run") {
		t.Errorf("the call was told %+v", a)
	}
	p.wants(a.record, audit.KindOutcome, audit.StatusError)
	if left := list(); len(left) != 1 || left[0].Key != shared.Key || len(s.Vault.Leases()) != 1 {
		t.Errorf("left: %+v", left)
	}

	// The next call gets another.
	revoke(0, "--subject", s.Issuer.URL+"#alice", "--server", "probe", "--reason", "laptop stolen")
	if n := len(s.Vault.Leases()); n != 0 {
		t.Errorf("%d leases", n)
	}
	if a := p.ask("probe", alice, toolCall("leak", "x")); a.text != "ran leak" {
		t.Errorf("%+v", a)
	}
	again := list()
	if len(again) != 1 || again[0].Key == shared.Key {
		t.Fatalf("%+v", again)
	}
	for _, args := range [][]string{{"--subject", "x#nobody"}, {"--client", "other"}, {"--credential", "probe-call"}} {
		if said := revoke(0, append(args, "--reason", "x")...); said != "no such credential lives\n" {
			t.Errorf("%q: %s", args, said)
		}
	}
	for want, args := range map[string][]string{
		"no live credential of this enforcer has the key": {"l_nosuch", "--reason", "x"},
		"revoke what?":         {"--reason", "x"},
		"want ISSUER#SUB":      {"--subject", "alice", "--reason", "x"},
		"none of the others":   {"--all", "--server", "probe", "--reason", "x"},
		"not both":             {again[0].Key, "--all", "--reason", "x"},
		"required flag(s)":     {"--all"},
		"one line of at most ": {"--all", "--reason", "a\nb"},
	} {
		if said := revoke(2, args...); !strings.Contains(said, want) {
			t.Errorf("%q: %s", args, said)
		}
	}
	if left := list(); len(left) != 1 {
		t.Errorf("one of them revoked something: %+v", left)
	}

	// Over the network: whom the policy lets freeze, with a token for that.
	bob := operateToken(t, s)
	mallory, err := s.Token("mallory", nil, map[string]any{"aud": s.URL + "/operate"})
	if err != nil {
		t.Fatal(err)
	}
	for token, want := range map[string]int{"": 401, alice: 401, mallory: 403, bob: 200} {
		if status, _, body := p.operate(http.MethodGet, "/credentials", token, "", nil); status != want || strings.Contains(body, again[0].Key) != (want == 200) {
			t.Errorf("list: %d %s", status, body)
		}
	}
	for body, want := range map[string]string{
		`{"all":true}`: "needs a reason", `{"reason":"x"}`: "say which", `{"sub":"alice","reason":"x"}`: "want both",
		`{"all":true,"key":"x","reason":"x"}`: "not both", `{"everything":true,"reason":"x"}`: "cannot be read",
	} {
		if status, _, said := p.operate(http.MethodPost, "/credentials/revoke", bob, body, nil); status != 400 || !strings.Contains(said, want) {
			t.Errorf("%s: %d %s", body, status, said)
		}
	}
	if status, _, said := p.operate(http.MethodPost, "/credentials/revoke", mallory, `{"all":true,"reason":"x"}`, nil); status != 403 || !strings.Contains(said, "does not name you") || len(s.Vault.Leases()) != 1 {
		t.Errorf("%d %s", status, said)
	}

	// What cannot be revoked yet is shown until it is; its calls end at once.
	running = p.asking(t.Context(), "probe", alice, toolCall("once", "x"))
	within(t, arrived, "the call at the server")
	s.Vault.Seal(true)
	if said := revoke(1, "--all", "--reason", "drill"); strings.Count(said, "not revoked yet") != 2 {
		t.Errorf("it said %s", said)
	}
	within(t, gone, "the call to have left")
	if a := <-running; !strings.Contains(a.text, "drill; the call was with the upstream server") {
		t.Errorf("the call was told %+v", a)
	}
	if left := list(); len(left) != 2 || left[0].Ending != "to revoke it failed, and is repeated" {
		t.Errorf("left: %+v", left)
	}
	s.Vault.Seal(false)
	p.await("the revocation", func() bool { return len(s.Vault.Leases()) == 0 })
	if said := revoke(0, "--all", "--reason", "drill"); !strings.Contains(said, "no such credential") && !strings.Contains(said, "revoked") {
		t.Errorf("it said %s", said)
	}

	asked := p.entries(func(en audit.Entry) bool { return en.Kind == audit.KindCredential && en.Status == "revoke-asked" })
	if len(asked) < 4 || !strings.HasPrefix(asked[0].Reason, "operator uid ") || !strings.HasSuffix(asked[0].Reason, " asked to revoke credential probe-call: seen in a chat") {
		t.Errorf("recorded: %+v", asked)
	}
	looked := p.entries(func(en audit.Entry) bool {
		return en.Kind == audit.KindCredential && (en.Status == "listed" && en.Sub == "bob" || en.Status == audit.StatusRefused && en.Sub == "mallory")
	})
	if len(looked) != 3 {
		t.Errorf("recorded: %+v", looked)
	}
	p.stop()
	verified(t, s)
}
