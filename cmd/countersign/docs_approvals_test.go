package main

import (
	"strings"
	"testing"
)

// The commands of the approvers' page, by people who sign in at a browser that follows redirects.
func TestTheApproversPagesCommands(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	st := probeStage(t, u, "5m")
	amend(t, st, st.Dana, map[string]string{"rules/probe.yaml": strings.NewReplacer(
		"reason: Spending needs a DBA, approval: { approvers: dba }, credential: probe-call", "reason: Spending needs a DBA, approval: { approvers: dba, grant: { for: 30m, scope: exact } }",
		"expires: 10m", "expires: 15m").Replace(probeRules)})
	idp := signingIn(t, st)
	idp.sit("bob", nil)
	p := serving(t, st, map[string]string{"COUNTERSIGN_APPROVALS_CLIENT_ID": votesClient})
	alice := p.token("alice", "support")
	ids := map[string]string{}
	answers := map[string]<-chan answer{}
	for _, tool := range []string{"spend", "risky", "hasty"} {
		answers[tool] = p.asking(t.Context(), "probe", alice, toolCall(tool, "for "+tool))
		ids[tool] = p.awaitEvent(tool, "asked")
	}
	s := newShell(t)
	s.must("export COUNTERSIGN_STATE_DIR='" + st.Path("state") + "'")
	s.write("bin/xdg-open", "#!/bin/sh\ncurl -fsSL -o \"$HOME/page\" \"$1\" &\n", 0o755)
	s.write("agent_token", alice, 0o600)
	const window, denied, withdrawn = "ap_4kq2m7bnhw2uq6fbj3i2yd5v5a", "ap_5lr3n8cpix3vr7gck4j3ze6w6b", "ap_6ms4o9dqjy4ws8hdl5k4af7x7c"
	real := strings.NewReplacer(window, ids["spend"], denied, ids["risky"], withdrawn, ids["hasty"], "https://gate.example.com", st.URL)
	run := func(_ *shell, command string) string { return real.Replace(command) }
	s.page("docs/approvals.md", map[string]shown{
		"countersign approvals list":           {says: ids["risky"], run: run},
		"countersign approvals show " + window: {says: "Spending needs a DBA", run: run},
		"countersign approvals approve " + window + " --url https://gate.example.com": {says: "approved by bob", run: func(s *shell, command string) string {
			shows := strings.Split(strings.TrimSpace(s.must(real.Replace("countersign approvals show "+window))), "\n")
			return real.Replace(command) + " --shown " + strings.TrimPrefix(shows[len(shows)-1], "shown: ") // there is no terminal here
		}},
		"countersign approvals deny " + denied + " --reason \"ask billing first\" --url https://gate.example.com": {says: "denied by bob", run: run},
		"countersign freeze": {instead: "stops everything", check: func(*shell) {}},
		"countersign approvals withdraw " + withdrawn + " --reason \"the wrong table\" --url https://gate.example.com --token-file agent_token": {says: "withdrawn", run: run},
		"countersign approvals revoke " + window + " --reason \"the migration is over\"": {says: "revoked", run: func(s *shell, command string) string {
			if got := <-answers["spend"]; got.failed || u.ran("spend") != 1 {
				t.Errorf("approved, and yet: %+v", got)
			}
			if list := s.must("countersign approvals list --state window"); !strings.Contains(list, "window (1 used)") {
				t.Errorf("the window is not listed:\n%s", list)
			}
			return real.Replace(command)
		}},
		"countersign approvals review " + window + " --justified --note \"incident 42 was real\" --url https://gate.example.com": {exit: 1, says: "nothing to review", run: run},
		"make screenshots": target("screenshots"),
		"make soak":        target("soak"),
		"make test":        target("test"),
		"countersign bot":  {instead: "needs a NATS cluster", check: func(*shell) {}}, // see TestBotsBesideEnforcers
	})
	if got := <-answers["risky"]; !strings.Contains(got.text, "ask billing first") {
		t.Errorf("denied, and the agent hears %+v", got)
	}
	if got := <-answers["hasty"]; !strings.Contains(got.text, "withdrawn") {
		t.Errorf("withdrawn, and the agent hears %+v", got)
	}
	again := p.asking(t.Context(), "probe", alice, toolCall("spend", "for spend")) // the window is over: asked anew
	p.await("asked anew", func() bool { return p.happened("spend", "asked") == 2 })
	p.stop() // which sends the caller home
	if got := <-again; u.ran("spend") != 1 {
		t.Errorf("revoked, and it ran: %+v", got)
	}
}
