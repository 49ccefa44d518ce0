package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// written is a folder with these files.
func written(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for path, text := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, path), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// Exit 0 is fine, 1 a check that found something, 2 usage or configuration; and
// each says what, where, and what to do.
func TestExitCodesAndWords(t *testing.T) {
	t.Parallel()
	bad := written(t, map[string]string{
		"countersign.yaml": "version: 1\nlimit: {}\n",
		"rules/a.yaml":     "- id: a\n  server: nowhere\n  effect: allow\n  when: args.x == 1\n",
	})
	misspelt := written(t, map[string]string{
		"countersign.yaml": "version: 1\n", "masks/a.yaml": "disable: [jwt, mailgunn]\n", "masks/b.yaml": "disable:\n- jwtt\n",
		"servers/s.yaml": "server: s\nurl: http://127.0.0.1:1/\nlimit: 1\n",
		"rules/a.yaml":   "- { id: a, server: s, effect: deny, reason: r, when: 'secrets(args) == [\"nope\"]' }\n",
	})
	ended := written(t, map[string]string{
		"countersign.yaml": "version: 1\n", "masks/a.yaml": "allow:\n- { detector: jwt, expires: 2020-01-31, reason: a sample }\n- { detector: jwt, expires: 2999-01-31, reason: a sample }\n",
	})
	claims := written(t, map[string]string{
		"countersign.yaml": "version: 1\n", "servers/s.yaml": "server: s\nurl: http://127.0.0.1:1/\n",
		"rules/a.yaml": "- { id: a, server: s, tool: t, effect: allow, when: 'has(subject.claims.team) && subject.claims.team == \"blue\"' }\n",
	})
	surprised := written(t, map[string]string{
		"countersign.yaml": "version: 1\n", "servers/s.yaml": "server: s\nurl: http://127.0.0.1:1/\n",
		"tests/a.yaml": "- name: a\n  subject: { sub: alice }\n  server: s\n  method: ping\n  expect: { effect: allow }\n",
	})
	empty := t.TempDir()
	git(t, empty, "init", "-q", "--bare")
	key := filepath.Join(t.TempDir(), "key.pub")
	if err := os.WriteFile(key, []byte("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8v0Yq1fGqN2m3yqkXlq0ZJx2l4m6c1yJm0Yc8w3b1d x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		code int
		says []string
	}{
		"help":               {[]string{"--help"}, 0, []string{"policy check", "audit verify"}},
		"help of serve":      {[]string{"serve", "--help"}, 0, []string{"COUNTERSIGN_POLICY_REPO (required)", "VAULT_TOKEN_FILE"}},
		"an unknown command": {[]string{"serv"}, 2, []string{"unknown command"}},
		"a misspelt check":   {[]string{"audit", "verfiy", "--repo", empty}, 2, []string{`countersign audit has no command "verfiy" (verify?); see countersign audit --help`}},
		"a group of them":    {[]string{"audit"}, 0, []string{"Available Commands"}},
		"an unknown flag":    {[]string{"policy", "check", "--fast"}, 2, []string{"unknown flag: --fast"}},
		"a good policy":      {[]string{"policy", "check", "../../docs/policy"}, 0, []string{"no problems: 1 server, 6 cases"}},
		"a bad policy":       {[]string{"policy", "check", bad}, 1, []string{"countersign.yaml:2:1: ", "rules/a.yaml:2:11: ", "has(args.x)", "problems"}},
		"a detector misspelt": {[]string{"policy", "check", misspelt}, 1, []string{"masks/a.yaml:1:16: there is no detector \"mailgunn\"", "masks/b.yaml:2:3: there is no detector \"jwtt\"",
			"servers/s.yaml:3:1: ", `rules/a.yaml:1:73: when: there is no detector "nope"`, "4 problems"}},
		"an allowance that ended":   {[]string{"policy", "check", ended}, 0, []string{"masks/a.yaml:2:29: hint: this entry under allow has expired", "no problems"}},
		"explain with claims":       {[]string{"policy", "explain", claims, "--server", "s", "--tool", "t", "--claims", `{"team":"blue"}`}, 0, []string{"ALLOW"}},
		"explain without claims":    {[]string{"policy", "explain", claims, "--server", "s", "--tool", "t"}, 0, []string{"DENY"}},
		"explain with wrong claims": {[]string{"policy", "explain", claims, "--server", "s", "--claims", "[1]"}, 2, []string{"--claims: not a JSON object"}},
		"a case that fails":         {[]string{"policy", "check", surprised}, 1, []string{"tests/a.yaml:1:3: case \"a\": expected allow, and it is deny: No rule lets you", "1 problem"}},
		"a policy that is missing":  {[]string{"policy", "check", filepath.Join(bad, "x")}, 2, []string{"no such file"}},
		"explain without a server":  {[]string{"policy", "explain", "../../docs/policy"}, 2, []string{`"server" not set`}},
		"explain with bad JSON":     {[]string{"policy", "explain", "../../docs/policy", "--server", "customers", "--args", "{"}, 2, []string{"--args: not JSON"}},
		"serve without anything": {[]string{"serve"}, 2, []string{"COUNTERSIGN_ID is missing", "COUNTERSIGN_POLICY_REPO is missing",
			"COUNTERSIGN_OIDC_ISSUERS is missing", "COUNTERSIGN_AUDIT_COMMIT_KEY is missing", "serve --help"}},
		"health of nobody":              {[]string{"health", "--url", "http://127.0.0.1:1"}, 1, []string{"not ready"}},
		"verify an empty record":        {[]string{"audit", "verify", "--repo", empty, "--commit-signers", "../../go.mod", "--checkpoint-key", key}, 2, []string{"go.mod"}},
		"verify without keys":           {[]string{"audit", "verify", "--repo", empty}, 2, []string{"commit-signers", "checkpoint-key"}},
		"log of an empty record":        {[]string{"audit", "log", "--repo", empty}, 2, []string{"no record in "}},
		"simulation on an empty record": {[]string{"policy", "simulate", "../../docs/policy", "--record", empty}, 2, []string{"no record in "}},
		"simulation of a bare clone":    {[]string{"policy", "simulate", empty, "--record", empty}, 2, []string{"is a bare Git repository", "name the clone"}},
		"replay as it was":              {[]string{"audit", "replay", "--repo", "r", "../../docs/policy"}, 2, []string{"countersign policy simulate ../../docs/policy --record r"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, errs, code := command(t, nil, c.args...)
			if code != c.code {
				t.Errorf("exit %d, want %d", code, c.code)
			}
			for _, want := range c.says {
				if !strings.Contains(out+errs, want) {
					t.Errorf("it does not say %q:\n%s%s", want, out, errs)
				}
			}
		})
	}
}

// Everything wrong with the environment is said at once.
func TestBadVariables(t *testing.T) {
	t.Parallel()
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, errs, code := command(t, []string{
		"COUNTERSIGN_ID=No Good", "COUNTERSIGN_PUBLIC_URL=gate.example.com", "COUNTERSIGN_POLICY_POLL=0", "COUNTERSIGN_POLICY_MAX_AGE=-1h",
		"COUNTERSIGN_SHUTDOWN_GRACE=soon", "COUNTERSIGN_TRUSTED_PROXIES=10.0.0.1", "COUNTERSIGN_TLS_CERT=x", "COUNTERSIGN_VAULT_AUTH=magic",
		"SLACK_SIGNING_SECRET=x", "COUNTERSIGN_GIT_TOKEN=a", "COUNTERSIGN_GIT_TOKEN_FILE=" + empty, "COUNTERSIGN_NATS_URL_FILE=" + empty,
		"COUNTERSIGN_GITHUB_CHECKS_REPO=just-a-name",
	}, "serve")
	if code != 2 {
		t.Errorf("exit %d", code)
	}
	for _, want := range []string{
		`COUNTERSIGN_ID: "No Good"`, "COUNTERSIGN_PUBLIC_URL:", "COUNTERSIGN_POLICY_POLL: 0s: want at least 1s", "COUNTERSIGN_POLICY_MAX_AGE:",
		"COUNTERSIGN_SHUTDOWN_GRACE:", "COUNTERSIGN_TRUSTED_PROXIES:", "COUNTERSIGN_TLS_KEY", "COUNTERSIGN_VAULT_AUTH:", "SLACK_BOT_TOKEN: missing",
		"COUNTERSIGN_GIT_TOKEN and COUNTERSIGN_GIT_TOKEN_FILE are both set", "COUNTERSIGN_NATS_URL_FILE: " + empty + " is empty", "COUNTERSIGN_GITHUB_CHECKS_REPO:",
	} {
		if !strings.Contains(errs, want) {
			t.Errorf("it does not say %q", want)
		}
	}
	if t.Failed() {
		t.Log(errs)
	}
}

// policy explain says how people approve, and what their approval is good for.
func TestExplainApprovals(t *testing.T) {
	dir := written(t, map[string]string{
		"countersign.yaml": "version: 1\napprovals: { max_grant: 2h }\n",
		"servers/s.yaml":   "server: s\nurl: http://s.example.com\n",
		"approvers.yaml": "sets:\n  leads: { groups: [{ issuer: \"https://id.example.com\", group: leads }], approve_via: oidc, acr: [phr, phrh] }\n" +
			"  dba: { groups: [{ issuer: \"https://id.example.com\", group: dba }], channel: C01 }\n  oncall: { groups: [{ issuer: \"https://id.example.com\", group: oncall }], channel: C02 }\n",
		"rules/r.yaml": "- { id: a, server: s, tool: [echo, once], effect: approve, reason: r, approval: { approvers: [leads, dba], quorum: 2, expires: 5m, grant: { for: 90m, scope: tool }, break_glass: oncall } }\n" +
			"- { id: b, server: s, tool: once, effect: approve, reason: r, approval: { approvers: dba, approve_via: oidc } }\n",
	})
	for tool, want := range map[string]string{
		"echo": "  asks 2 of leads, within 5m0s: rule a\n    they sign in to approve, with acr phr or phrh\n    or one of oncall breaks the glass\n" +
			"  asks 2 of dba, within 5m0s: rule a\n    or one of oncall breaks the glass\n" +
			"  the approval is good for 1h30m0s, for calls of the same tool that the same rules ask about\n",
		"once": "  asks 1 of dba, within 5m0s: rule b\n    they sign in to approve\n  the approval is good for one call\n",
	} {
		out, errs, code := command(t, nil, "policy", "explain", dir, "--server", "s", "--tool", tool, "--sub", "alice")
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("exit %d: %s%s\nwant %s", code, out, errs, want)
		}
	}
}
