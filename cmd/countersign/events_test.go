package main

import (
	"crypto/rand"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"countersign/audit"
	"countersign/fixtures/githost"
	"countersign/fixtures/stage"
)

// logged is an entry as audit log --json prints it: the line of the record too.
type logged struct {
	audit.Entry
	line string
}

// asLogged reads the record as programs do.
func asLogged(t *testing.T, repo string, args ...string) (entries []logged) {
	t.Helper()
	out, errs, code := command(t, nil, append([]string{"audit", "log", "--json", "--repo", repo}, args...)...)
	if code != 0 {
		t.Fatalf("audit log: exit %d\n%s%s", code, out, errs)
	}
	for line := range strings.Lines(out) {
		var l struct {
			Origin string
			Entry  json.RawMessage
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil || l.Origin == "" {
			t.Fatalf("%v: %s", err, line)
		}
		en, err := audit.Decode(l.Entry)
		if err != nil {
			t.Fatalf("%v: %s", err, l.Entry)
		}
		entries = append(entries, logged{en, string(l.Entry)})
	}
	return entries
}

// What people do to an enforcer is in its record as what agents do is: each
// event an entry that names who, what and why.
func TestEveryEventIsAnEntry(t *testing.T) {
	t.Parallel()
	s := probeStage(t, newProbe(t), "5m")
	serving(t, s, nil).stop()

	// An unsigned commit gets into the policy's history, and the operator takes
	// what is built on it; a key of the record is replaced meanwhile.
	amendUnsigned := func(words string) string {
		t.Helper()
		tip, err := s.Policy.Commit(map[string][]byte{"README.md": []byte(words)}, words+"\n", nil)
		if err != nil {
			t.Fatal(err)
		}
		return tip
	}
	amendUnsigned("in a hurry")
	reset := amend(t, s, s.Dana, map[string]string{"README.md": "as it was meant"})
	old := s.CheckKey.Authorized()
	next, err := githost.NewKey(rand.Reader, "checkpoints")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.Path("checkpoint_key2"), next.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	p := serving(t, s, map[string]string{
		"COUNTERSIGN_POLICY_RESET_TO":                    reset,
		"COUNTERSIGN_AUDIT_CHECKPOINT_KEY_FILE":          s.Path("checkpoint_key2"),
		"COUNTERSIGN_AUDIT_CHECKPOINT_KEY_PREVIOUS_FILE": s.Path("checkpoint_key"),
		"COUNTERSIGN_AUDIT_WINDOW":                       "200ms",
	})
	p.inForce(reset)
	accepted := amend(t, s, s.Dana, map[string]string{"README.md": "and went on"})
	p.inForce(accepted)
	refused := amendUnsigned("in a hurry again")
	p.await("the refusal", func() bool { return strings.HasPrefix(p.readiness().Rejected, refused) })

	if a := p.ask("probe", "no-token", toolCall("echo", "x")); a.status != 401 {
		t.Errorf("%+v", a)
	}
	alice := p.token("alice", "support")
	waiting := p.asking(t.Context(), "probe", alice, toolCall("risky", "events"))
	card := awaitCard(t, s, "events")
	if err := approve(t, s, card, stage.SlackEve); err != nil {
		t.Fatal(err)
	}
	told(t, s, stage.SlackEve, "not linked to anybody in approvers.yaml")
	if err := approve(t, s, card, stage.SlackBob); err != nil {
		t.Fatal(err)
	}
	if a := <-waiting; a.text != "ran risky" {
		t.Fatalf("%+v", a)
	}
	if a := p.ask("probe", alice, toolCall("leak", "x")); a.text != "ran leak" {
		t.Fatalf("%+v", a)
	}
	subject := s.Issuer.URL + "#alice"
	operator := func(args ...string) string {
		t.Helper()
		out, errs, code := p.cli(args...)
		if code != 0 {
			t.Fatalf("%q: exit %d\n%s%s", args, code, out, errs)
		}
		return out
	}
	operator("credentials", "revoke", "--subject", subject, "--reason", "her laptop was stolen")
	frozen := p.freeze("--subject", subject, "--reason", "until she has another")
	p.frozen(p.ask("probe", alice, toolCall("echo", "x")), "until she has another")
	p.unfreeze(frozen)
	operator("audit", "erase", "--subject", subject, "--reason", "she asked for it")
	p.stop()

	verified(t, s) // by who knows the old key alone
	entries := asLogged(t, s.Audit)
	one := func(name string, kind audit.Kind, status string, words ...string) {
		t.Helper()
		var near []string
		for _, en := range entries {
			if en.Kind != kind || en.Status != status {
				continue
			}
			missing := false
			for _, w := range words {
				missing = missing || !strings.Contains(en.line, w)
			}
			if !missing {
				return
			}
			near = append(near, en.line)
		}
		t.Errorf("%s: no entry %s %s has %q, but there are\n%s", name, kind, status, words, strings.Join(near, "\n"))
	}
	key := func(line string) string { return strings.Join(strings.Fields(line)[:2], " ") }
	operatorIs := `operator uid `
	one("start", audit.KindStart, "", `"enforcer":"demo"`, `"version":`, `"schema":2`, `"previous":"demo/r`)
	one("policy accepted", audit.KindPolicy, "accepted", accepted, "dana@example.com", "Dana")
	one("policy refused", audit.KindPolicy, "rejected", refused, "not signed")
	one("policy reset", audit.KindPolicy, "reset", reset, "dana@example.com", "COUNTERSIGN_POLICY_RESET_TO")
	one("key", audit.KindKey, audit.StatusRotated, "the checkpoint key was replaced", key(old), key(next.Authorized()), "BEGIN SSH SIGNATURE")
	one("vote that does not count", audit.KindVote, audit.StatusRefused, stage.SlackEve, "this Slack user is linked to nobody", `"approval":"ap_`)
	one("approval asked", audit.KindApproval, "asked", `"sub":"alice"`, "Risky things need a DBA")
	one("approval", audit.KindApproval, "approved", `"person":"bob"`, `"payload_hash":"sha256:`)
	one("approval spent", audit.KindApproval, "spent")
	one("revocation asked", audit.KindCredential, "revoke-asked", operatorIs, "alice", "her laptop was stolen")
	one("revocation", audit.KindCredential, "revoke", "probe-db", `"sub":"alice"`)
	one("freeze", audit.KindFreeze, "frozen", frozen, operatorIs, "alice", "until she has another")
	one("a call meanwhile", audit.KindRefused, audit.StatusFrozen, `"sub":"alice"`, "until she has another")
	one("unfreeze", audit.KindFreeze, "unfrozen", frozen, operatorIs, "until she has another")
	one("failed authentication", audit.KindAuthFailed, "unauthenticated", `"server":"probe"`, `"source":"127.0.0.1"`, `"reason":"`)
	one("erasure asked", audit.KindErased, audit.StatusAsked, operatorIs, "alice", "she asked for it")
	one("erasure", audit.KindErased, audit.StatusErased, operatorIs, "alice", "she asked for it")
	if last := entries[len(entries)-1]; last.Kind != audit.KindStop {
		t.Errorf("the last is %s", last.line)
	}
}
