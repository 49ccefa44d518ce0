package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"countersign/audit"
	"countersign/fixtures/stage"
)

const exposureRules = `
- { id: probe-echo, server: probe, tool: echo, effect: allow }
- id: probe-shows
  server: probe
  tool: echo
  when: exposes_credentials(request)
  effect: deny
  reason: Credentials are not for agents
- id: probe-runs
  server: probe
  tool: risky
  when: exposes_credentials(request)
  effect: approve
  reason: Somebody should look at this
  approval: { approvers: dba }
`

// What would show a credential is stopped before it runs, and the agent, the
// approver and the record read what it is.
func TestExposuresAreToldEverywhere(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "5m")
	amend(t, s, s.Dana, map[string]string{"rules/probe.yaml": exposureRules})
	p := serving(t, s, nil)
	alice := p.token("alice", "support")

	if a := p.ask("probe", alice, toolCall("echo", "an ordinary text")); u.ran("echo") != 1 {
		t.Errorf("%+v", a)
	}
	a := p.ask("probe", alice, toolCall("echo", "bash -c 'cat /proc/self/environ'"))
	const why = "it reads the environment of a process, which holds credentials (environment-file, in args.what)"
	if !strings.Contains(a.text, "Credentials are not for agents: "+why) || u.ran("echo") != 1 {
		t.Errorf("got %+v, and it ran %d times", a, u.ran("echo"))
	}
	refused := p.entries(func(en audit.Entry) bool { return en.Tool == "echo" && en.Effect == "deny" })
	if len(refused) != 1 || !strings.Contains(refused[0].Reason, why) {
		t.Errorf("the record says %+v", refused)
	}

	asked := p.asking(t.Context(), "probe", alice, toolCall("risky", "vault kv get secret/app"))
	card := awaitCard(t, s, "Somebody should look at this: it reads secrets or tokens of Vault (vault, in args.what)")
	if err := approve(t, s, card, stage.SlackBob); err != nil {
		t.Fatal(err)
	}
	if a := <-asked; a.text != "ran risky" {
		t.Errorf("got %+v", a)
	}
}

func TestExplainNamesTheExposures(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"countersign.yaml": "version: 1\n",
		"servers/s.yaml":   "server: s\nurl: http://s.example.com\n",
		"rules/r.yaml":     "- { id: r, server: s, when: exposes_credentials(request), effect: deny, reason: No }\n",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700), os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	out, errs, code := command(t, nil, "policy", "explain", dir, "--server", "s", "--tool", "echo", "--sub", "alice", "--args", `{"cmd":"env; cat ~/.netrc"}`)
	want := "  deny    r (rules/r.yaml:1) matched\n          it reads passwords that clients keep (client-passwords, in args.cmd)\n          it shows the whole environment, which holds credentials (environment, in args.cmd)\n"
	if code != 0 || !strings.HasPrefix(out, "DENY  No: it ") || !strings.HasSuffix(out, want) {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
}

func TestExplainNamesWhatACredentialIsRefusedFor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"countersign.yaml": "version: 1\n",
		"servers/s.yaml": `server: s
url: https://s.example.com
credentials:
  c: { vault: "db/creds/{{args.cluster}}", ttl: 10m, inject: { args: { to: { prod: "postgres://{{password|url}}@db" } } } }
`,
		"rules/r.yaml": "- { id: r, server: s, effect: allow, credential: c }\n",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700), os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	for args, want := range map[string]string{
		`{"cluster":"eu","to":"prod"}`:    "  Vault is asked at db/creds/eu\n",
		`{"cluster":"../eu","to":"prod"}`: "  refused all the same: {{args.cluster}} cannot be put into a path in Vault",
		`{"cluster":"eu","to":"dev"}`:     `  refused all the same: argument "to" must be one of prod`,
		`{"cluster":"eu"}`:                `  refused all the same: argument "to" must be one of prod`,
	} {
		out, errs, code := command(t, nil, "policy", "explain", dir, "--server", "s", "--tool", "echo", "--sub", "alice", "--args", args)
		if code != 0 || !strings.Contains(out, want) || strings.Contains(want, "asked at") && strings.Contains(out, "refused") {
			t.Errorf("%s: exit %d: %s%s", args, code, out, errs)
		}
	}
}
