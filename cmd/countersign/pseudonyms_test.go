package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"countersign/audit"
	"countersign/fixtures/githost"
	"countersign/fixtures/stage"
)

// A record that names no subjects, and whose bodies are sealed: over a crash the
// enforcer still knows who waits and who is frozen, auditors read the bodies, and
// a subject's are found and erased.
func TestASealedRecordOfPseudonymsOverACrash(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "5m")
	auditor, err := githost.NewKey(rand.Reader, "auditors")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.Path("auditor_key"), auditor.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	amend(t, s, s.Dana, map[string]string{"countersign.yaml": "version: 1\napprovals: { hold: 5m, expires: 15m }\n" +
		"record:\n  bodies: full\n  subjects: pseudonym\n  retention: 90d\n  recipients: [\"" + strings.TrimSpace(auditor.Authorized()) + "\"]\n"})
	quick := map[string]string{"COUNTERSIGN_AUDIT_WINDOW": "200ms"}
	p := serving(t, s, quick)
	const who = "alice-liddell-77"
	alice, carol := p.token(who, "support"), p.token("carol", "support")
	first := p.ask("probe", alice, toolCall("leak", "looking-glass"))
	if first.text != "ran leak" {
		t.Fatalf("%+v", first)
	}
	if out, errs, code := p.cli("credentials", "revoke", "--subject", s.Issuer.URL+"#"+who, "--reason", "phished"); code != 0 || !strings.Contains(out, "revoked") {
		t.Errorf("exit %d\n%s%s", code, out, errs)
	}
	frozen := p.freeze("--subject", s.Issuer.URL+"#carol", "--reason", "until tomorrow")
	p.frozen(p.ask("probe", carol, toolCall("echo", "x")), "until tomorrow")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	waiting := p.asking(ctx, "probe", alice, toolCall("risky", "rabbit-hole"))
	card := awaitCard(t, s, "rabbit-hole")
	p.await("the card in the record", func() bool { // claimed, then posted
		return len(p.entries(func(en audit.Entry) bool { return en.Kind == audit.KindApproval && en.Status == "card" })) >= 2
	})
	asked, _ := p.event("risky", "asked")
	p.killed()
	<-waiting

	p = serving(t, s, quick)
	p.frozen(p.ask("probe", carol, toolCall("echo", "x")), "until tomorrow")
	p.await("a press that is taken", func() bool { return approve(t, s, card, stage.SlackBob) == nil })
	if got := p.awaitEvent("risky", "approved"); got != asked {
		t.Errorf("approved %s, asked %s", got, asked)
	}
	second := p.ask("probe", alice, toolCall("risky", "rabbit-hole"))
	if second.text != "ran risky" || u.ran("risky") != 1 {
		t.Errorf("%+v", second)
	}
	p.unfreeze(frozen)
	if a := p.ask("probe", carol, toolCall("echo", "tea-party")); a.text != "ran echo" {
		t.Errorf("%+v", a)
	}

	// An auditor reads the bodies of both runs; without the key nobody does.
	calls := map[string]string{}
	for _, en := range p.entries(func(en audit.Entry) bool { return en.Kind == audit.KindIntent }) {
		for _, words := range []string{"looking-glass", "rabbit-hole", "tea-party"} {
			if strings.Contains(en.Args, words) {
				calls[words] = en.Call
			}
		}
	}
	shown := func(words string, identity bool) string {
		t.Helper()
		args := []string{"audit", "show", "--repo", s.Audit, "--bodies", calls[words]}
		if identity {
			args = append(args, "--identity", s.Path("auditor_key"))
		}
		out, errs, code := command(t, nil, args...)
		if code != 0 {
			return errs // nothing is in Git yet
		}
		_, bodies, _ := strings.Cut(out, "\nrequest of ")
		return bodies
	}
	for words := range calls {
		p.await(words+" in Git", func() bool { return strings.Contains(shown(words, true), words) })
		if got := shown(words, false); strings.Contains(got, words) {
			t.Errorf("nobody's key opens %s", got)
		}
	}
	if len(calls) != 3 {
		t.Fatalf("%v", calls)
	}
	holds := func(args ...string) string {
		t.Helper()
		out, errs, code := command(t, nil, append([]string{"audit", "verify", "--repo", s.Audit,
			"--commit-signers", s.Path("audit_signers"), "--checkpoint-key", s.Path("checkpoint.pub"),
			"--policy", s.Policy.Dir, "--policy-signers", s.Path("policy_signers"), "--bodies"}, args...)...)
		if code != 0 {
			t.Errorf("audit verify: exit %d\n%s%s", code, out, errs)
		}
		return out
	}
	holds()

	// Hers are erased, of both runs; Carol's stay.
	out, errs, code := p.cli("audit", "erase", "--subject", s.Issuer.URL+"#"+who, "--reason", "right to erasure")
	if code != 0 {
		t.Fatalf("exit %d\n%s%s", code, out, errs)
	}
	for words, stays := range map[string]bool{"looking-glass": false, "rabbit-hole": false, "tea-party": true} {
		if got := shown(words, true); strings.Contains(got, words) != stays {
			t.Errorf("%s: %s", words, got)
		}
	}
	p.stop()
	holds()
	for _, branch := range strings.Fields(git(t, s.Audit, "for-each-ref", "--format=%(refname)")) {
		if said := git(t, s.Audit, "log", "-p", "--format=%B", branch); strings.Contains(said, who) {
			t.Errorf("%s names her", branch)
		}
	}
	files, err := filepath.Glob(s.Path("state/journal/*/*.jsonl"))
	if err != nil || len(files) < 2 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte(who)) {
			t.Errorf("%s names her", f)
		}
	}
}
