package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"countersign/audit"
)

// Where the policy keeps digests, the operator shows what a call asked and was
// answered, and an auditor what the operator showed; nobody anything else.
func TestADigestIsShownToBeOfItsBody(t *testing.T) {
	t.Parallel()
	s := probeStage(t, newProbe(t), "45s")
	p := serving(t, s, map[string]string{"COUNTERSIGN_AUDIT_WINDOW": "200ms"})
	asked := toolCall("echo", "tea-party")
	got := p.ask("probe", p.token("alice", "support"), asked)
	if got.text != "ran echo" {
		t.Fatalf("%+v", got)
	}
	answered := got.body
	for line := range strings.Lines(got.body) {
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			answered = data
		}
	}
	found := p.entries(func(e audit.Entry) bool { return e.Kind == audit.KindOutcome && e.Tool == "echo" })
	if len(found) != 1 || len(found[0].Bodies) != 1 || found[0].Bodies[0].Kept != audit.KeptDigest {
		t.Fatalf("%+v", found)
	}
	call := found[0].Call
	write := func(name, text string) string {
		t.Helper()
		if err := os.WriteFile(s.Path(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return s.Path(name)
	}
	request, answer := write("asked.json", asked+"\n"), write("answered.json", answered)
	other, secret := write("other.json", toolCall("echo", "tea-partY")), write("other.key", strings.Repeat("k", 32))
	body := func(args ...string) (string, int) {
		t.Helper()
		out, errs, code := command(t, nil, append([]string{"audit", "body", "--repo", s.Audit}, args...)...)
		return out + errs, code
	}
	key := s.Path("state/digest.key")
	p.await("the call in Git", func() bool {
		out, _ := body("--key-file", key, call, request)
		return strings.Contains(out, "the response of")
	})
	salts := map[string]string{}
	for of, file := range map[string]string{"request": request, "response": answer} {
		out, code := body("--key-file", key, call, file)
		m := regexp.MustCompile(`(?m)^\S+ is the (\w+) of (\S+), \d+ bytes; salt ([0-9a-f]{64})$`).FindStringSubmatch(out)
		if code != 0 || m == nil || m[1] != of {
			t.Fatalf("exit %d, want the %s\n%s", code, of, out)
		}
		salts[of] = m[3]
		if out, code := body("--salt", m[3], m[2], file); code != 0 || !strings.Contains(out, "is the "+of+" of "+m[2]) {
			t.Errorf("exit %d by its salt\n%s", code, out)
		}
	}
	for name, args := range map[string][]string{
		"another text":       {"--key-file", key, call, other},
		"another kind":       {"--key-file", key, "--of", "response", call, request},
		"another key":        {"--key-file", secret, call, request},
		"another salt":       {"--salt", salts["response"], call, request},
		"of no call of ours": {"--key-file", key, "c_nobody", request},
	} {
		if out, code := body(args...); code != 1 || strings.Contains(out, " is the ") {
			t.Errorf("%s: exit %d\n%s", name, code, out)
		}
	}
	if out, _ := body("--key-file", secret, call, request); !strings.Contains(out, "this run's salts come of the key ") {
		t.Errorf("another key: %s", out)
	}
	if out, code := body(call, request); code != 2 {
		t.Errorf("without key and salt: exit %d\n%s", code, out)
	}
}
