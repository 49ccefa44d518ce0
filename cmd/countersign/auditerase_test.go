package main

import (
	"strings"
	"testing"

	"countersign/audit"
)

// The command reaches the running enforcer, and the erasure is an entry.
func TestAuditErase(t *testing.T) {
	t.Parallel()
	p := serving(t, newStage(t), nil)
	out, errs, code := p.cli("audit", "erase", "--call", "c_none", "--reason", "it held a secret")
	if code != 0 || !strings.HasPrefix(out, "er_") || !strings.Contains(out, "erased: 0 bodies") {
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
