package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"countersign/audit"
	"countersign/fixtures/slack"
	"countersign/fixtures/stage"
)

// approvers gives the stage's approver set other members.
func approvers(t *testing.T, s *stage.Stage, members string) string {
	t.Helper()
	files, err := s.PolicyFiles()
	if err != nil {
		t.Fatal(err)
	}
	was := string(files["approvers.yaml"])
	now := strings.Replace(was, "members: [bob]", "members: ["+members+"]", 1)
	if now == was && members != "bob" {
		t.Fatalf("approvers.yaml does not read as it did:\n%s", was)
	}
	return now
}

// happened counts an approval event of a tool in the record.
func (p *program) happened(tool, event string) int {
	p.t.Helper()
	return len(p.entries(func(en audit.Entry) bool {
		return en.Kind == audit.KindApproval && en.Tool == tool && en.Status == event
	}))
}

// approve presses Approve as the user, as often and in whatever way how says.
func approve(t *testing.T, s *stage.Stage, card slack.Card, user string, how ...slack.Delivery) error {
	t.Helper()
	return s.Slack.Press(t.Context(), card, button(t, card, "approve"), user, how...)
}

// Only an approver other than the requester decides, by a press that Slack
// vouches for, and once.
func TestPressesThatDoNotCount(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "5m")
	// Alice is a DBA herself: for others' requests, not for her own.
	amend(t, s, s.Dana, map[string]string{"approvers.yaml": approvers(t, s, "bob, alice")})
	p := serving(t, s, nil)
	alice := p.token("alice", "support")
	first := p.asking(t.Context(), "probe", alice, toolCall("risky", "presses"))
	card := awaitCard(t, s, "presses")

	unauthorized := func(name string, how slack.Delivery) {
		t.Helper()
		var status *slack.Status
		if err := approve(t, s, card, stage.SlackBob, how); !errors.As(err, &status) || status.Code != http.StatusUnauthorized {
			t.Errorf("%s: got %v, want 401", name, err)
		}
	}
	unauthorized("forged", slack.Delivery{Secret: "not the signing secret"})
	unauthorized("unsigned", slack.Delivery{Unsigned: true})
	unauthorized("an hour old", slack.Delivery{Age: time.Hour})
	unauthorized("changed on the way", slack.Delivery{Tamper: func(b []byte) []byte {
		return []byte(strings.Replace(string(b), stage.SlackEve, stage.SlackBob, 1) + "&x=1")
	}})

	press := func(user string, how ...slack.Delivery) {
		t.Helper()
		if err := approve(t, s, card, user, how...); err != nil {
			t.Fatal(err)
		}
	}
	press("U0ALICE")
	told(t, s, "U0ALICE", "This is your own request")
	press(stage.SlackEve)
	told(t, s, stage.SlackEve, "not linked to anybody in approvers.yaml")
	press(stage.SlackBob, slack.Delivery{Edit: func(m map[string]any) {
		m["actions"].([]any)[0].(map[string]any)["value"] = "ap_aaaaaaaaaaaaaaaaaaaaaaaaaa.forged"
	}})
	told(t, s, stage.SlackBob, "This button does not belong to any request that is open")
	press(stage.SlackBob, slack.Delivery{Edit: func(m map[string]any) { // of another workspace
		m["user"].(map[string]any)["team_id"] = "T0ELSEWHERE"
	}})
	p.await("the stranger's refusal", func() bool {
		return strings.Contains(p.log.String(), `"team":"T0ELSEWHERE"`)
	})
	if p.happened("risky", "approved")+p.happened("risky", "voted") != 0 || u.ran("risky") != 0 {
		t.Error("one of these presses counted")
	}

	// Bob's counts, though it comes three times.
	press(stage.SlackBob, slack.Delivery{Times: 3})
	if a := <-first; a.text != "ran risky" {
		t.Errorf("got %+v", a)
	}
	press(stage.SlackBob) // the card as he saw it before
	told(t, s, stage.SlackBob, "This is decided already")
	if n := p.happened("risky", "approved"); n != 1 || u.ran("risky") != 1 {
		t.Errorf("%d votes, %d runs", n, u.ran("risky"))
	}
	var refused []string
	for _, en := range p.entries(func(en audit.Entry) bool { return en.Kind == audit.KindApproval && en.Status == "approved" }) {
		if !strings.Contains(string(en.Detail), `"person":"bob"`) || !strings.Contains(string(en.Detail), `"payload_hash":"sha256:`) {
			refused = append(refused, string(en.Detail))
		}
	}
	if len(refused) != 0 {
		t.Errorf("the record does not prove who approved: %v", refused)
	}

	// It was for that one call: the same again asks again, other arguments too.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	same, other := p.asking(ctx, "probe", alice, toolCall("risky", "presses")), p.asking(ctx, "probe", alice, toolCall("risky", "other presses"))
	p.await("two more questions", func() bool { return p.happened("risky", "asked") == 3 })
	cancel()
	<-same
	<-other
	if u.ran("risky") != 1 {
		t.Errorf("%d runs", u.ran("risky"))
	}
	p.stop()
	verified(t, s)
}

// What has expired can neither be approved nor run.
func TestApprovalExpires(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "1s")
	soon := strings.Replace(probeRules, "expires: 10m", "expires: 10s", 1)
	if soon == probeRules {
		t.Fatal("the rule does not read as it did")
	}
	amend(t, s, s.Dana, map[string]string{"rules/probe.yaml": soon, "countersign.yaml": "version: 1\napprovals: { hold: 5m }\n"})
	p := serving(t, s, nil)
	alice := p.token("alice", "support")
	// asks is a call, and the card that asks about it; none if that came too late.
	asks := func(ctx context.Context, what string) (<-chan answer, *slack.Card) {
		t.Helper()
		asked, expired := p.happened("hasty", "asked"), p.happened("hasty", "expired")
		waiting := p.asking(ctx, "probe", alice, strings.Replace(toolCall("hasty", what), `"id":1`, fmt.Sprintf(`"id":%d`, asked+1), 1))
		var card *slack.Card
		p.await("a card, or the end of "+what, func() bool {
			for _, c := range s.Slack.Cards(stage.Channel) {
				if len(c.Buttons()) > 0 && strings.Contains(fmt.Sprintf("%s", c.Blocks), what) {
					card = &c
				}
			}
			return card != nil || p.happened("hasty", "expired") > expired
		})
		return waiting, card
	}
	// Ten seconds may not do for a loaded machine to show the cards, and for Bob to
	// press: then all is done again.
	var what string
	var lateCard *slack.Card
	for n := 0; lateCard == nil || p.happened("hasty", "approved") == 0; n++ {
		// Nobody presses in time: who waits is told.
		var late <-chan answer
		late, lateCard = asks(t.Context(), fmt.Sprint("late", n))
		// Bob presses in time, but the caller has left and comes back too late.
		what = fmt.Sprint("left", n)
		ctx, cancel := context.WithCancel(t.Context())
		left, leftCard := asks(ctx, what)
		cancel()
		<-left
		over := func() bool { return p.happened("hasty", "expired") == p.happened("hasty", "asked") }
		p.await("the caller to be missed", func() bool {
			return over() || len(p.entries(func(en audit.Entry) bool { return en.Kind == audit.KindRefused && en.Status == "cancelled" })) == n+1
		})
		if leftCard != nil {
			if err := approve(t, s, *leftCard, stage.SlackBob); err != nil {
				t.Fatal(err)
			}
		}
		if a := <-late; !a.failed || !strings.Contains(a.text, "nobody approved this call in time") {
			t.Errorf("got %+v", a)
		}
		p.await("both to expire", over)
	}
	if err := approve(t, s, *lateCard, stage.SlackBob); err != nil {
		t.Fatal(err)
	}
	told(t, s, stage.SlackBob, "This has expired; nothing ran")
	asked := p.happened("hasty", "asked")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	again := p.asking(ctx, "probe", alice, toolCall("hasty", what))
	p.await("a new question", func() bool { return p.happened("hasty", "asked") == asked+1 })
	cancel()
	<-again
	if u.ran("hasty") != 0 || p.happened("hasty", "spent") != 0 {
		t.Errorf("it ran %d times", u.ran("hasty"))
	}
}

// An approval means what the policy meant when it was asked for.
func TestPolicyChangesMeanwhile(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "2s")
	p := serving(t, s, nil)
	alice := p.token("alice", "support")
	pending := func(t *testing.T, arg string) slack.Card {
		t.Helper()
		if a := p.in(t).ask("probe", alice, toolCall("risky", arg)); !a.failed || !strings.Contains(a.text, "approval pending") {
			t.Fatalf("got %+v", a)
		}
		return awaitCard(t, s, arg)
	}
	change := func(t *testing.T, files map[string]string) {
		t.Helper()
		p.in(t).inForce(amend(t, s, s.Dana, files))
	}

	t.Run("the approvers, before the press", func(t *testing.T) {
		p := p.in(t)
		card := pending(t, "first")
		change(t, map[string]string{"approvers.yaml": approvers(t, s, "bob, alice")})
		if err := approve(t, s, card, stage.SlackBob); err != nil {
			t.Fatal(err)
		}
		told(t, s, stage.SlackBob, "The rules that ask for this approval, or the server or its credential, have changed since")
		if p.happened("risky", "approved") != 0 {
			t.Error("the press counted")
		}
		renewed, asked := p.happened("risky", "renewed"), p.happened("risky", "asked")
		if a := p.ask("probe", alice, toolCall("risky", "first")); !a.failed || !strings.Contains(a.text, "approval pending") {
			t.Errorf("got %+v", a)
		}
		if n := p.happened("risky", "renewed"); n != renewed+1 || p.happened("risky", "asked") != asked {
			t.Errorf("renewed %d times, want %d; asked %d times more", n, renewed+1, p.happened("risky", "asked")-asked)
		}
		change(t, map[string]string{"approvers.yaml": approvers(t, s, "bob")})
	})
	t.Run("the rule, between the press and the call", func(t *testing.T) {
		p := p.in(t)
		card := pending(t, "second")
		if err := approve(t, s, card, stage.SlackBob); err != nil {
			t.Fatal(err)
		}
		p.awaitEvent("risky", "approved")
		change(t, map[string]string{"rules/probe.yaml": probeRules + "- { id: no-more, server: probe, tool: risky, effect: deny, reason: Not today }\n"})
		a := p.ask("probe", alice, toolCall("risky", "second"))
		if !a.failed || !strings.Contains(a.text, "Not today") {
			t.Errorf("got %+v", a)
		}
		p.wants(a.record, audit.KindRefused, "denied")
		stricter := strings.Replace(probeRules, "Risky things need a DBA", "Risky things need a DBA who knows why", 1)
		if stricter == probeRules {
			t.Fatal("the rule does not read as it did")
		}
		change(t, map[string]string{"rules/probe.yaml": stricter, "approvers.yaml": approvers(t, s, "bob, alice")})
		if a := p.ask("probe", alice, toolCall("risky", "second")); !a.failed || !strings.Contains(a.text, "approval pending") {
			t.Errorf("under other rules: %+v", a)
		}
		if u.ran("risky") != 0 || p.happened("risky", "spent") != 0 {
			t.Errorf("it ran %d times", u.ran("risky"))
		}
		change(t, map[string]string{"rules/probe.yaml": probeRules, "approvers.yaml": approvers(t, s, "bob")})
	})
	t.Run("something else: the press counts", func(t *testing.T) {
		p := p.in(t)
		card := pending(t, "third")
		change(t, map[string]string{"rules/probe.yaml": probeRules + "- { id: other, server: probe, tool: other, effect: allow }\n"})
		if err := approve(t, s, card, stage.SlackBob); err != nil {
			t.Fatal(err)
		}
		p.await("the vote", func() bool { return p.happened("risky", "approved") == 2 })
		if a := p.ask("probe", alice, toolCall("risky", "third")); a.text != "ran risky" || u.ran("risky") != 1 {
			t.Errorf("got %+v after %d runs", a, u.ran("risky"))
		}
	})
	p.stop()
	verified(t, s)
}

// Of callers that wait for one approval, one runs on it.
func TestOneApprovalRunsOneCall(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "5m")
	p := serving(t, s, nil)
	alice := p.token("alice", "support")
	const callers = 4
	var waiting []<-chan answer
	for i := range callers {
		body := strings.Replace(toolCall("risky", "together"), `"id":1`, fmt.Sprintf(`"id":%d`, i+1), 1)
		waiting = append(waiting, p.asking(t.Context(), "probe", alice, body))
	}
	// Somebody else's identical call is another thing.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stranger := p.asking(ctx, "probe", p.token("carol", "support"), toolCall("risky", "together"))
	p.await("two questions", func() bool { return p.happened("risky", "asked") == 2 })
	// Whose card is whose is in the record; press alice's.
	var ids []string
	for _, en := range p.entries(func(en audit.Entry) bool {
		return en.Kind == audit.KindApproval && en.Status == "asked" && en.Sub == "alice"
	}) {
		ids = append(ids, en.Approval)
	}
	if len(ids) != 1 {
		t.Fatalf("alice's callers asked %d times", len(ids))
	}
	card := awaitCard(t, s, ids[0])
	if err := approve(t, s, card, stage.SlackBob); err != nil {
		t.Fatal(err)
	}
	ran, used := 0, 0
	for _, w := range waiting {
		switch a := <-w; {
		case a.text == "ran risky":
			ran++
		case a.failed && strings.Contains(a.text, "used already"):
			used++
		default:
			t.Errorf("got %+v", a)
		}
	}
	if ran != 1 || used != callers-1 || u.ran("risky") != 1 || p.happened("risky", "spent") != 1 {
		t.Errorf("%d ran, %d were told that it is used, the upstream ran %d, spent %d", ran, used, u.ran("risky"), p.happened("risky", "spent"))
	}
	cancel()
	<-stranger
	p.stop()
	verified(t, s)
}

// Who cancels or leaves while a person is asked has nothing run, even if it is
// approved later.
func TestCallerLeavesWhileWaiting(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "5m")
	p := serving(t, s, nil)
	alice := p.token("alice", "support")
	const cancel = `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`

	t.Run("a cancellation", func(t *testing.T) {
		p := p.in(t)
		waiting := p.asking(t.Context(), "probe", alice, toolCall("risky", "cancelled"))
		card := awaitCard(t, s, "cancelled")
		// Another caller's has no effect on it.
		if a := p.ask("probe", p.token("mallory", "support"), cancel); a.status != http.StatusAccepted {
			t.Errorf("got %+v", a)
		}
		select {
		case a := <-waiting:
			t.Fatalf("another caller's cancellation ended it: %+v", a)
		default:
		}
		if a := p.ask("probe", alice, cancel); a.status != http.StatusAccepted {
			t.Errorf("got %+v", a)
		}
		a := <-waiting
		if !a.failed || !strings.Contains(a.text, "cancelled by the client while waiting for approval; nothing ran") {
			t.Errorf("got %+v", a)
		}
		p.wants(a.record, audit.KindRefused, "cancelled")
		if err := approve(t, s, card, stage.SlackBob); err != nil {
			t.Fatal(err)
		}
		p.await("the approval", func() bool { return p.happened("risky", "approved") == 1 })
	})
	t.Run("a disconnection", func(t *testing.T) {
		p := p.in(t)
		ctx, leave := context.WithCancel(t.Context())
		waiting := p.asking(ctx, "probe", alice, toolCall("risky", "disconnected"))
		card := awaitCard(t, s, "disconnected")
		leave()
		<-waiting
		p.await("the entry", func() bool {
			return len(p.entries(func(en audit.Entry) bool { return en.Kind == audit.KindRefused && en.Status == "cancelled" })) == 2
		})
		if err := approve(t, s, card, stage.SlackBob); err != nil {
			t.Fatal(err)
		}
		p.await("the approval", func() bool { return p.happened("risky", "approved") == 2 })
	})
	if u.ran("risky") != 0 || p.happened("risky", "spent") != 0 {
		t.Errorf("it ran %d times", u.ran("risky"))
	}
	// The approvals stand: an identical call runs on its own.
	if a := p.ask("probe", alice, toolCall("risky", "disconnected")); a.text != "ran risky" || u.ran("risky") != 1 {
		t.Errorf("got %+v after %d runs", a, u.ran("risky"))
	}
	p.stop()
	if n := p.happened("risky", "spent"); n != 1 {
		t.Errorf("spent %d", n)
	}
	verified(t, s)
}

// A call that is cancelled, or whose caller leaves, before it is forwarded
// never starts, though its intent is in the record.
func TestCallerLeavesWhileMinting(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "1s")
	p := serving(t, s, nil)
	alice := p.token("alice", "support")
	for _, c := range []struct {
		name  string
		leave func(t *testing.T, disconnect func())
		words string
	}{
		{"a cancellation", func(t *testing.T, _ func()) {
			if a := p.in(t).ask("probe", alice, `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`); a.status != http.StatusAccepted {
				t.Errorf("got %+v", a)
			}
		}, "cancelled by the client before it was forwarded; nothing ran"},
		{"a disconnection", func(_ *testing.T, disconnect func()) { disconnect() }, "no answer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := p.in(t)
			arrived, release := make(chan struct{}, 1), make(chan struct{})
			free := sync.OnceFunc(func() { close(release) })
			t.Cleanup(free)
			s.Vault.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
				if strings.HasSuffix(r.URL.Path, "database/creds/customers-ro") {
					arrived <- struct{}{}
					<-release
				}
				return false
			})
			ended := func() []audit.Entry {
				return p.entries(func(en audit.Entry) bool {
					return en.Kind == audit.KindOutcome && en.Tool == "once" && en.Status == audit.StatusCancelled
				})
			}
			before := len(ended())
			ctx, disconnect := context.WithCancel(t.Context())
			defer disconnect()
			waiting := p.asking(ctx, "probe", alice, toolCall("once", "minting"))
			within(t, arrived, "the call at the server")
			c.leave(t, disconnect)
			if c.name == "a disconnection" { // seen by the program before the credential comes
				p.await("the end", func() bool { return len(ended()) == before+1 })
			}
			free()
			if a := <-waiting; !strings.Contains(a.text, c.words) {
				t.Errorf("got %+v", a)
			}
			p.await("the end", func() bool { return len(ended()) == before+1 })
			p.await("the credential's end", func() bool { return len(s.Vault.Leases()) == 0 })
			if u.ran("once") != 0 {
				t.Error("it ran")
			}
		})
	}
}
