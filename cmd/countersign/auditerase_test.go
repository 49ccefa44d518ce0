package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"countersign/audit"
)

// The command reaches the running enforcer, and the erasure is an entry.
func TestAuditErase(t *testing.T) {
	t.Parallel()
	p := serving(t, newStage(t), nil)
	out, errs, code := p.cli("audit", "erase", "--call", "c_none", "--reason", "it held a secret")
	if code != 0 || !strings.HasPrefix(out, "er_") || !strings.Contains(out, "erased: 0 bodies on 0 branches") || !strings.Contains(errs, "is it named as the record has it") {
		t.Fatalf("exit %d\n%s%s", code, out, errs)
	}
	id, _, _ := strings.Cut(out, " ")
	for _, status := range []string{audit.StatusAsked, audit.StatusErased} {
		en := p.wants(id, audit.KindErased, status)
		if en.Reason != "it held a secret" || !strings.Contains(string(en.Detail), `"of_call":"c_none"`) || !strings.Contains(string(en.Detail), `"by":"operator uid `) {
			t.Errorf("recorded as %+v, %s", en, en.Detail)
		}
	}
	for _, args := range [][]string{{"--reason", "x"}, {"--call", "c", "--subject", "a#b", "--reason", "x"}, {"--call", "c"}, {"--subject", "alice", "--reason", "x"}} {
		if out, errs, code := p.cli(append([]string{"audit", "erase"}, args...)...); code == 0 {
			t.Errorf("%q: exit 0\n%s%s", args, out, errs)
		}
	}
}

// What a call asked and was answered is kept, and erased.
func TestBodiesFromCallToErasure(t *testing.T) {
	t.Parallel()
	s := probeStage(t, newProbe(t), "5m")
	amend(t, s, s.Dana, map[string]string{"countersign.yaml": "version: 1\napprovals: { hold: 5m, expires: 15m }\nrecord: { bodies: full }\n"})
	p := serving(t, s, map[string]string{"COUNTERSIGN_AUDIT_WINDOW": "200ms"})
	alice := p.token("alice", "support")
	p.ask("probe", alice, `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}`)
	found := p.entries(func(e audit.Entry) bool { return e.Kind == audit.KindOutcome && e.Method == "initialize" })
	if len(found) != 1 || len(found[0].Bodies) != 1 || found[0].Bodies[0].Kept != audit.KeptFull {
		t.Fatalf("%+v", found)
	}
	session := found[0].Call
	out, errs, code := p.cli("audit", "erase", "--call", session, "--reason", "test")
	if code != 0 {
		t.Fatalf("exit %d\n%s%s", code, out, errs)
	}
	// Published or not, it will not be published any more.
	if held, err := os.ReadFile(filepath.Join(s.Path("state"), "erased")); err != nil || !strings.Contains(string(held), found[0].Bodies[0].Digest) {
		t.Errorf("%s, %v", held, err)
	}
}
