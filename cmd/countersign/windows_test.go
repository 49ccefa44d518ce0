package main

import (
	"strings"
	"testing"

	"countersign/enforcer/approval"
	"countersign/fixtures/stage"
)

// An approved window lets the calls that it covers through without asking, also
// after a crash, each counted on record; and ends with the rule that granted it,
// for good.
func TestAWindow(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "5m")
	granting := strings.Replace(probeRules, "reason: Risky things need a DBA, approval: { approvers: dba }", "reason: Risky things need a DBA, approval: { approvers: dba, grant: { for: 1h, scope: tool } }", 1)
	if granting == probeRules {
		t.Fatal("the rule does not read as it did")
	}
	amend(t, s, s.Dana, map[string]string{"rules/probe.yaml": granting})
	p := serving(t, s, nil)
	alice := p.token("alice", "support")
	first := p.asking(t.Context(), "probe", alice, toolCall("risky", "first"))
	if err := s.Slack.Press(t.Context(), awaitCard(t, s, "first"), "countersign_approve", stage.SlackBob); err != nil {
		t.Fatal(err)
	}
	if a := <-first; a.text != "ran risky" {
		t.Fatalf("got %+v", a)
	}
	if a := p.ask("probe", alice, toolCall("risky", "second")); a.text != "ran risky" {
		t.Errorf("within the window: %+v", a)
	}
	if asked, used := p.happened("risky", approval.EventAsked), p.happened("risky", approval.EventUsed); asked != 1 || used != 2 {
		t.Errorf("asked %d times, used %d times", asked, used)
	}
	p.killed()

	p = serving(t, s, nil)
	if a := p.ask("probe", alice, toolCall("risky", "third")); a.text != "ran risky" || p.happened("risky", approval.EventUsed) != 3 {
		t.Errorf("after a crash: %+v", a)
	}
	p.inForce(amend(t, s, s.Dana, map[string]string{"rules/probe.yaml": strings.Replace(granting, "Risky things need a DBA", "Risky things need a careful DBA", 1)}))
	p.awaitEvent("risky", approval.EventRevoked)
	p.inForce(amend(t, s, s.Dana, map[string]string{"rules/probe.yaml": granting}))
	fourth := p.asking(t.Context(), "probe", alice, toolCall("risky", "fourth"))
	if err := approve(t, s, awaitCard(t, s, "fourth"), stage.SlackBob); err != nil { // it is asked, though the rule is as it was
		t.Fatal(err)
	}
	if a := <-fourth; a.text != "ran risky" || u.ran("risky") != 4 {
		t.Errorf("got %+v after %d runs", a, u.ran("risky"))
	}
	p.stop()
	verified(t, s)
}
