package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"countersign/audit"
	"countersign/enforcer/approval"
	"countersign/enforcer/kv"
	"countersign/fixtures/slack"
	"countersign/fixtures/stage"
	"countersign/rules"
)

// attack is what somebody tries to get an approval that they should not have, or
// more from one than it is for. The table stands in docs/approvals.md, too.
type attack struct {
	attack  string // what is tried
	outcome string // what comes of it, and what whoever tries is told
	try     func(t *testing.T, w *attacked)
}

// attacked is a whole enforcer with its Slack, and two approvers who are in each
// other's sets.
type attacked struct {
	*program
	u     *probe
	alice string
}

const attackedApprovers = `
people:
  bob:   { issuer: ISSUER, sub: bob, email: bob@example.com, slack: { team: T0DEMO, user: U0BOB } }
  alice: { issuer: ISSUER, sub: alice, email: alice@example.com, slack: { team: T0DEMO, user: U0ALICE } }
  dana:  { issuer: ISSUER, sub: dana }
sets:
  dba:      { members: [MEMBERS], channel: C0DBAPPROVALS }
  security: { members: [bob, alice], channel: C0DBAPPROVALS }
`

const attackedRules = probeRules + `
- { id: probe-both-dba, server: probe, tool: both, effect: approve, reason: Both need a DBA, approval: { approvers: dba } }
- { id: probe-both-sec, server: probe, tool: both, effect: approve, reason: Both need security, approval: { approvers: security } }
- { id: probe-brief, server: probe, tool: brief, effect: approve, reason: Soon or never, approval: { approvers: dba, expires: 10s } }
`

func (w *attacked) people(members string) string {
	issuer := w.stage.Issuer.URL
	return strings.NewReplacer("ISSUER", issuer, "MEMBERS", members).Replace(attackedApprovers)
}

// ask makes a call that nobody approves in time, and returns the card and its id.
func (w *attacked) pending(t *testing.T, tool, arg string) (slack.Card, string) {
	t.Helper()
	a := w.in(t).ask("probe", w.alice, toolCall(tool, arg))
	id := approvalID.FindString(a.text)
	if !a.failed || !strings.Contains(a.text, "approval pending") || id == "" {
		t.Fatalf("the agent is told %+v", a)
	}
	return w.cardOf(t, id), id
}

// brief is pending for a call of the tool brief; without a card if that came too late.
func (w *attacked) brief(t *testing.T, arg string) (card *slack.Card, id string) {
	t.Helper()
	a := w.in(t).ask("probe", w.alice, toolCall("brief", arg))
	if id = approvalID.FindString(a.text); !a.failed || id == "" {
		t.Fatalf("the agent is told %+v", a)
	}
	asked := false // for a card of its own, where it stands in the set's list
	w.in(t).await("a card, or the end of it", func() bool {
		for _, c := range w.stage.Slack.Cards(stage.Channel) {
			for _, b := range c.Buttons() {
				switch {
				case !strings.HasPrefix(b.Value, id+"."):
				case b.ActionID != "countersign_show":
					card = &c
				case !asked:
					asked = true
					if err := w.stage.Slack.PressButton(t.Context(), c, b, stage.SlackBob); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		return card != nil || w.events(id, "expired") > 0
	})
	return card, id
}

var approvalID = regexp.MustCompile(`ap_[a-z2-7]{26}`)

// card is that of the request with this argument.
func (w *attacked) card(t *testing.T, arg string) (slack.Card, string) {
	t.Helper()
	var id string
	w.in(t).await("the question in the record", func() bool {
		for _, en := range w.entries(func(en audit.Entry) bool { return en.Kind == audit.KindApproval && en.Status != "card" }) {
			if strings.Contains(string(en.Detail), arg) {
				id = en.Approval
			}
		}
		return id != ""
	})
	return w.cardOf(t, id), id
}

// cardOf is an approval's card. Those that came too fast for a card of their own
// stand in the set's list, from which Bob has theirs posted.
func (w *attacked) cardOf(t *testing.T, id string) slack.Card {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	shown := map[string]bool{}
	for {
		var pressed slack.Button
		c, err := w.stage.Slack.AwaitCard(ctx, stage.Channel, func(c slack.Card) bool {
			for _, b := range c.Buttons() {
				if strings.HasPrefix(b.Value, id+".") && !shown[b.ActionID] {
					pressed = b
					return true
				}
			}
			return false
		})
		if err != nil {
			t.Fatalf("no card of %s: %v", id, err)
		}
		if pressed.ActionID != "countersign_show" {
			return c
		}
		shown[pressed.ActionID] = true
		if err := w.stage.Slack.PressButton(t.Context(), c, pressed, stage.SlackBob); err != nil {
			t.Fatal(err)
		}
	}
}

// cards counts an approval's cards, by what the bot wrote into each for itself.
func (w *attacked) cards(id string) (n int) {
	for _, c := range w.stage.Slack.Cards(stage.Channel) {
		if strings.Contains(string(c.Metadata), id) {
			n++
		}
	}
	return n
}

// press presses the card's button as somebody, and waits until they are told.
func (w *attacked) press(t *testing.T, c slack.Card, what, user, isTold string, how ...slack.Delivery) {
	t.Helper()
	if err := w.stage.Slack.Press(t.Context(), c, button(t, c, what), user, how...); err != nil {
		t.Fatal(err)
	}
	if isTold != "" {
		told(t, w.stage, user, isTold)
	}
}

// refused waits for the record of a vote that did not count.
func (w *attacked) refused(t *testing.T, id, why string) {
	t.Helper()
	w.in(t).await("the refusal in the record", func() bool {
		return len(w.entries(func(en audit.Entry) bool {
			return en.Kind == audit.KindVote && en.Status == audit.StatusRefused && en.Approval == id && strings.Contains(en.Reason, why)
		})) > 0
	})
}

// events counts an approval's entries.
func (w *attacked) events(id, event string) int {
	return len(w.entries(func(en audit.Entry) bool {
		return en.Kind == audit.KindApproval && en.Approval == id && en.Status == event
	}))
}

func (w *attacked) awaitEvents(t *testing.T, id, event string) {
	t.Helper()
	w.in(t).await(event, func() bool { return w.events(id, event) > 0 })
}

// runs has the call made again, now that it is approved, and checks that it ran.
func (w *attacked) runs(t *testing.T, tool, arg string) {
	t.Helper()
	before := w.u.ran(tool)
	if a := w.in(t).ask("probe", w.alice, toolCall(tool, arg)); a.text != "ran "+tool || w.u.ran(tool) != before+1 {
		t.Errorf("approved, and yet %+v after %d runs", a, w.u.ran(tool)-before)
	}
}

var attacks = []attack{
	{"The approval is for tool plus requester, not for these arguments",
		"The same tool with other arguments asks anew: “approval pending”. What was approved runs once.",
		func(t *testing.T, w *attacked) {
			c, id := w.pending(t, "risky", "approved thing")
			w.press(t, c, "approve", stage.SlackBob, "")
			w.awaitEvents(t, id, "approved")
			_, other := w.pending(t, "risky", "another thing")
			if other == id || w.u.ran("risky") != 0 {
				t.Errorf("one approval for both, or it ran %d times", w.u.ran("risky"))
			}
			w.runs(t, "risky", "approved thing")
		}},
	{"Its digest is not re-checked when spent",
		"Spending it for another call is refused: “the approval is for another call than this”.",
		func(t *testing.T, w *attacked) {
			b := newBooks(t)
			a := b.approved()
			other := a.Request
			other.Digest = "sha256:other"
			if _, err := b.one.Spend(t.Context(), a.ID, other, "c_2"); !errors.Is(err, approval.ErrOtherCall) {
				t.Errorf("spent for another call: %v", err)
			}
		}},
	{"The agent, in a reviewer group, approves its own request; an admin may self-approve",
		"“This is your own request: somebody else has to decide it.” It holds for every button, and for who may freeze.",
		func(t *testing.T, w *attacked) {
			c, id := w.pending(t, "risky", "my own")
			w.press(t, c, "approve", "U0ALICE", "This is your own request")
			w.press(t, c, "deny", "U0ALICE", "This is your own request")
			w.refused(t, id, "nobody approves their own request")
			if w.events(id, "approved")+w.events(id, "denied") != 0 {
				t.Error("it counted")
			}
		}},
	{"The agent approves through an admin tool, with its own token",
		"401 or 403: no bearer token votes, one that may call MCP least of all.",
		func(t *testing.T, w *attacked) {
			_, id := w.pending(t, "risky", "by token")
			for path, body := range map[string]string{
				"/api/approvals/" + id + "/sign-in": `{"do":"approve","redirect":"http://127.0.0.1:1/","challenge":"x"}`,
				"/api/approvals/" + id + "/votes":   `{"ballot":"x","shown":"x"}`,
				"/approvals/" + id:                  `{}`,
			} {
				if status := w.call(t, http.MethodPost, path, w.alice, body); status < 400 || status >= 500 {
					t.Errorf("%s answers %d", path, status)
				}
			}
			if n := w.events(id, "approved"); n != 0 {
				t.Error("it counted")
			}
		}},
	{"Two groups' approvals given by one person count as two",
		"One press fills a place in one set; the second is told “it counts once. It waits for others.”",
		func(t *testing.T, w *attacked) {
			c, id := w.pending(t, "both", "two hats")
			w.press(t, c, "approve", stage.SlackBob, "")
			w.awaitEvents(t, id, "voted")
			w.press(t, c, "approve", stage.SlackBob, "it counts once")
			w.refused(t, id, "one person counts once")
			if w.events(id, "approved") != 0 {
				t.Error("one person was two")
			}
		}},
	{"Approved requests never expire; pending ones neither",
		"Both end with their time. The press is told “This has expired; nothing ran”, the retry asks anew.",
		func(t *testing.T, w *attacked) {
			// In time is within ten seconds, which may not do on a loaded machine: again then.
			var c *slack.Card
			var what, approved string
			for n := 0; c == nil || approved == ""; n++ {
				var id, other string
				var d *slack.Card
				c, id = w.brief(t, fmt.Sprint("never pressed ", n))
				what = fmt.Sprint("approved in time ", n)
				if d, other = w.brief(t, what); d != nil {
					w.press(t, *d, "approve", stage.SlackBob, "")
				}
				w.awaitEvents(t, id, "expired")
				w.awaitEvents(t, other, "expired")
				if w.events(other, "approved") > 0 {
					approved = other
				}
			}
			w.press(t, *c, "approve", stage.SlackBob, "This has expired; nothing ran")
			if a := w.in(t).ask("probe", w.alice, toolCall("brief", what)); !strings.Contains(a.text, "approval pending") || strings.Contains(a.text, approved) || w.u.ran("brief") != 0 {
				t.Error("it outlived its time")
			}
		}},
	{"The script is cut at 1,800 bytes: approvers press a button on what they could not see",
		"The card has no Approve button. A forged press is told “This request could not be shown in full, so it cannot be approved by a button.”",
		func(t *testing.T, w *attacked) {
			c, id := w.pending(t, "risky", "cut off "+strings.Repeat("and on ", 1000))
			for _, b := range c.Buttons() {
				if strings.Contains(b.ActionID, "approve") {
					t.Fatal("it has an Approve button")
				}
			}
			w.press(t, c, "deny", stage.SlackBob, "could not be shown in full", slack.Delivery{Edit: func(m map[string]any) {
				m["actions"].([]any)[0].(map[string]any)["action_id"] = "countersign_approve"
			}})
			w.refused(t, id, "could not be shown in full")
		}},
	{"Untrusted text in a Slack card: `<!channel>`, links, backtick runs that close the code block, bidirectional and zero-width characters",
		"It stands as preformatted or plain text, in which Slack finds no meaning; what cannot be seen is spelt out.",
		func(t *testing.T, w *attacked) {
			hostile := "hostile <!channel> <https://evil.example|click> ```` \u202etxt.exe\u200b"
			c, _ := w.pending(t, "risky", hostile)
			for _, raw := range c.Blocks {
				shown := string(raw)
				for _, bad := range []string{`"mrkdwn"`, "\u202e", "\u200b", `"type":"link","url":"https://evil`, `"broadcast"`} {
					if strings.Contains(shown, bad) {
						t.Errorf("the card holds %q: %s", bad, shown)
					}
				}
			}
			if all := strings.ToUpper(fmt.Sprintf("%s", c.Blocks)); !strings.Contains(all, `202E`) || !strings.Contains(all, `200B`) {
				t.Errorf("what cannot be seen is not spelt out: %s", c.Blocks)
			}
			if strings.ContainsAny(c.Text, "<>") {
				t.Errorf("the notification has markup: %q", c.Text)
			}
		}},
	{"Untrusted text in a Slack card: truncation between escape characters",
		"Text is escaped first and cut after, between characters; what was cut has no Approve button.",
		func(t *testing.T, w *attacked) {
			c, _ := w.pending(t, "risky", "escapes "+strings.Repeat("\u202e", 2900))
			all := fmt.Sprintf("%s", c.Blocks)
			for _, half := range []string{`\\u"`, `\\u{"`, `\\u{202"`, `\\u{202E"`} {
				if strings.Contains(all, half) {
					t.Errorf("half an escape: %q", half)
				}
			}
			if strings.Contains(all, "countersign_approve") {
				t.Error("it can be approved")
			}
		}},
	{"Channel membership as the only access control",
		"“Your Slack user is not linked to anybody in approvers.yaml, so your press does not count.”",
		func(t *testing.T, w *attacked) {
			c, id := w.pending(t, "risky", "in the channel")
			w.press(t, c, "approve", stage.SlackEve, "not linked to anybody in approvers.yaml")
			w.refused(t, id, "linked to nobody")
		}},
	{"E-mail as the link between a Slack user and an identity, by default",
		"An approver's name and address on another Slack user count for nothing: “not linked to anybody”.",
		func(t *testing.T, w *attacked) {
			c, id := w.pending(t, "risky", "by mail")
			w.press(t, c, "approve", stage.SlackEve, "not linked to anybody", slack.Delivery{Edit: func(m map[string]any) {
				u := m["user"].(map[string]any)
				u["name"], u["username"], u["email"] = "bob", "bob", "bob@example.com"
			}})
			w.refused(t, id, "linked to nobody")
		}},
	{"Button value replayed or pressed twice",
		"One vote. Later presses are told “This is decided already”, with who decided and what came of it.",
		func(t *testing.T, w *attacked) {
			c, id := w.pending(t, "risky", "replayed")
			w.press(t, c, "approve", stage.SlackBob, "", slack.Delivery{Times: 3})
			w.awaitEvents(t, id, "approved")
			w.press(t, c, "approve", stage.SlackBob, "This is decided already")
			w.runs(t, "risky", "replayed")
			w.press(t, c, "approve", stage.SlackBob, "This is decided already")
			if w.events(id, "approved") != 1 || w.events(id, "spent") != 1 {
				t.Errorf("approved %d times, spent %d times", w.events(id, "approved"), w.events(id, "spent"))
			}
		}},
	{"Button value forged",
		"“This button does not belong to any request that is open.” What Slack has not signed is answered 401.",
		func(t *testing.T, w *attacked) {
			c, id := w.pending(t, "risky", "forged")
			w.press(t, c, "approve", stage.SlackBob, "does not belong to any request", slack.Delivery{Edit: func(m map[string]any) {
				act := m["actions"].([]any)[0].(map[string]any)
				act["value"] = id + ".0000000000000000"
			}})
			w.refused(t, id, "does not belong")
			var status *slack.Status
			for _, how := range []slack.Delivery{{Secret: "guess"}, {Unsigned: true}, {Age: time.Hour}, {Age: -time.Hour},
				{Tamper: func(b []byte) []byte { return append(b, "&x=1"...) }},
				{Header: func(h http.Header) { h.Add("X-Slack-Signature", "v0=00") }},
				{Header: func(h http.Header) {
					h.Set("X-Slack-Signature", strings.Replace(h.Get("X-Slack-Signature"), "v0=", "v1=", 1))
				}}} {
				if err := approve(t, w.stage, c, stage.SlackBob, how); !errors.As(err, &status) || status.Code != http.StatusUnauthorized {
					t.Errorf("%+v: %v", how, err)
				}
			}
			if w.events(id, "approved") != 0 {
				t.Error("it counted")
			}
		}},
	{"Two bots process one click",
		"One vote: the second is refused, “already decided”, or “one person counts once”.",
		func(t *testing.T, w *attacked) {
			b := newBooks(t)
			a := b.asked(2)
			v := b.vote(a)
			errs := make(chan error, 2)
			for _, book := range []*approval.Book{b.one, b.other} {
				go func() { _, err := book.Vote(t.Context(), a.ID, v, b.policy); errs <- err }()
			}
			first, second := <-errs, <-errs
			if first != nil {
				first, second = second, first
			}
			if first != nil || !errors.Is(second, approval.ErrDuplicate) {
				t.Errorf("%v, %v", first, second)
			}
			if got, err := b.one.Get(t.Context(), a.ID); err != nil || len(got.Votes) != 1 {
				t.Errorf("%d votes, %v", len(got.Votes), err)
			}
		}},
	{"Slack retries after 3 s and the vote counts twice",
		"The same payload again, marked as a retry, has no further effect.",
		func(t *testing.T, w *attacked) {
			c, id := w.pending(t, "both", "retried")
			w.press(t, c, "approve", stage.SlackBob, "", slack.Delivery{Times: 4})
			w.awaitEvents(t, id, "voted")
			if n := w.events(id, "voted"); n != 1 || w.events(id, "approved") != 0 {
				t.Errorf("%d votes", n)
			}
		}},
	{"Approval API open when its token is empty",
		"401, with no token, an empty one, and any other.",
		func(t *testing.T, w *attacked) {
			for _, token := range []string{"", " ", "null", "undefined"} {
				if status := w.call(t, http.MethodGet, "/api/approvals", token, ""); status != http.StatusUnauthorized && status != http.StatusForbidden {
					t.Errorf("token %q: %d", token, status)
				}
			}
		}},
	{"Approver not recorded",
		"The entry of a vote has who, how their Slack user was linked, message and action, the payload's hash, what was shown, and how long it took.",
		func(t *testing.T, w *attacked) {
			c, id := w.pending(t, "risky", "on record")
			w.press(t, c, "approve", stage.SlackBob, "")
			w.awaitEvents(t, id, "approved")
			for _, en := range w.entries(func(en audit.Entry) bool { return en.Approval == id && en.Status == "approved" }) {
				for _, want := range []string{`"person":"bob"`, `"sub":"bob"`, `"linked":"policy"`, `"team":"T0DEMO"`, `"user":"U0BOB"`, `"message_ts":"` + c.TS,
					`"action_ts":"`, `"payload_hash":"sha256:`, `"shown":"sha256:`, `"waited_ns":`} {
					if !strings.Contains(string(en.Detail), want) {
						t.Errorf("the record does not hold %s: %s", want, en.Detail)
					}
				}
			}
		}},
	{"Slack down: request approved, or lost",
		"It stays pending, and nothing runs; when Slack is back, the card comes.",
		func(t *testing.T, w *attacked) {
			w.stage.Slack.Down(true)
			a := w.in(t).ask("probe", w.alice, toolCall("risky", "while down"))
			w.stage.Slack.Down(false)
			if !a.failed || w.u.ran("risky while down") != 0 {
				t.Errorf("%+v", a)
			}
			c, id := w.card(t, "while down")
			w.press(t, c, "approve", stage.SlackBob, "")
			w.awaitEvents(t, id, "approved")
		}},
	{"Rate limited: message dropped",
		"It is posted after as long as Slack asks for, once.",
		func(t *testing.T, w *attacked) {
			w.stage.Slack.Limit("chat.postMessage", 1)
			c, id := w.pending(t, "risky", "while limited")
			cards := w.cards(id)
			if cards != 1 || c.TS == "" {
				t.Errorf("%d cards", cards)
			}
		}},
	{"The client leaves, the call runs anyway",
		"A call whose client has left, or cancelled, never starts, though it is approved later.",
		func(t *testing.T, w *attacked) {
			ctx, leave := context.WithCancel(t.Context())
			before := w.u.ran("spend")
			gone := w.asking(ctx, "probe", w.alice, toolCall("spend", "gone"))
			c, id := w.card(t, "gone")
			leave()
			within(t, gone, "the call to have left")
			w.press(t, c, "approve", stage.SlackBob, "")
			w.awaitEvents(t, id, "approved")
			if w.u.ran("spend") != before || w.events(id, "spent") != 0 {
				t.Error("it ran")
			}
		}},
	{"The retry asks for a second approval, or it runs twice",
		"A retry attaches to what is pending, or runs on what was approved; the next one asks anew.",
		func(t *testing.T, w *attacked) {
			c, id := w.pending(t, "risky", "again and again")
			if _, same := w.pending(t, "risky", "again and again"); same != id {
				t.Errorf("asked twice: %s and %s", id, same)
			}
			w.press(t, c, "approve", stage.SlackBob, "")
			w.awaitEvents(t, id, "approved")
			w.runs(t, "risky", "again and again")
			before := w.u.ran("risky")
			a := w.in(t).ask("probe", w.alice, toolCall("risky", "again and again"))
			if !a.failed || w.u.ran("risky") != before || w.events(id, "asked") != 1 || w.events(id, "spent") != 1 {
				t.Errorf("%+v", a)
			}
		}},
	{"The message index is lost on restart",
		"The same card is pressed after a crash, and counts; there is no second one.",
		func(t *testing.T, w *attacked) {
			c, id := w.pending(t, "risky", "over a crash")
			w.kill()
			w.program = serving(w.t, w.stage, nil)
			w.press(t, c, "approve", stage.SlackBob, "")
			w.awaitEvents(t, id, "approved")
			w.runs(t, "risky", "over a crash")
			cards := w.cards(id)
			if cards != 1 {
				t.Errorf("%d cards", cards)
			}
		}},
	{"Approver groups checked when posting but not when clicking",
		"“You are not a member of the approver set that is asked, so your press does not count.”",
		func(t *testing.T, w *attacked) {
			c, id := w.pending(t, "risky", "moved on")
			w.in(t).inForce(amend(t, w.stage, w.stage.Dana, map[string]string{"approvers.yaml": w.people("alice")}))
			w.press(t, c, "approve", stage.SlackBob, "You are not a member of the approver set")
			w.refused(t, id, "not a member")
		}},
	{"Policy changes between asking and approving",
		"The press does not count: “have changed since”. Asked again, the card says what changed, and an old one is told “this card changed, look again”.",
		func(t *testing.T, w *attacked) {
			w.in(t).inForce(amend(t, w.stage, w.stage.Dana, map[string]string{"approvers.yaml": w.people("bob, alice")}))
			c, id := w.pending(t, "risky", "under other rules")
			stricter := strings.Replace(attackedRules, "Risky things need a DBA", "Risky things need a DBA who knows why", 1)
			w.in(t).inForce(amend(t, w.stage, w.stage.Dana, map[string]string{"rules/probe.yaml": stricter}))
			w.press(t, c, "approve", stage.SlackBob, "have changed since")
			w.refused(t, id, "have changed since")
			if _, same := w.pending(t, "risky", "under other rules"); same != id {
				t.Errorf("asked anew as %s", same)
			}
			w.press(t, c, "approve", stage.SlackBob, "this card changed, look again")
			if w.events(id, "approved") != 0 {
				t.Error("it counted")
			}
		}},
}

// Each attack is refused by name. The rows share one enforcer, one after the
// other: what one leaves behind the next has to live with.
func TestEveryAttackOnApproving(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "200ms")
	w := &attacked{program: &program{t: t, stage: s}, u: u}
	amend(t, s, s.Dana, map[string]string{"rules/probe.yaml": attackedRules, "approvers.yaml": w.people("bob, alice")})
	w.program = serving(t, s, nil)
	w.alice = w.token("alice", "support")
	for _, a := range attacks {
		t.Run(a.attack, func(t *testing.T) { a.try(t, w) })
	}
	w.stop()
	verified(t, s)
}

// docs/approvals.md has the same table.
func TestTheAttacksAreWrittenDown(t *testing.T) {
	page, err := os.ReadFile("../../docs/approvals.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(page), "\n| What was tried | What comes of it |\n|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	var want strings.Builder
	for _, a := range attacks {
		fmt.Fprintf(&want, "| %s | %s |\n", a.attack, a.outcome)
	}
	if got := strings.TrimRight(table, "\n") + "\n"; !ok || got != want.String() {
		t.Errorf("docs/approvals.md has\n%s\nand the test tries\n%s", got, want.String())
	}
}

// call is one HTTP request with a bearer token.
func (w *attacked) call(t *testing.T, method, path, token, body string) int {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, w.stage.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode
}

// books are two processes' approvals, over one store.
type books struct {
	t          *testing.T
	one, other *approval.Book
	policy     *rules.Policy
}

func newBooks(t *testing.T) *books {
	t.Helper()
	store, err := kv.OpenEmbedded(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	bucket, err := store.Bucket(t.Context(), "approvals")
	if err != nil {
		t.Fatal(err)
	}
	book := func() *approval.Book {
		return approval.New(approval.Config{Bucket: bucket, Now: time.Now, Digest: (*rules.Policy).AsksDigest,
			Record: func(context.Context, approval.Approval, string) error { return nil }})
	}
	p, err := rules.Load(fstest.MapFS{
		"countersign.yaml": {Data: []byte("version: 1\n")},
		"servers/db.yaml":  {Data: []byte("server: db\nurl: http://127.0.0.1:1/mcp\n")},
		"approvers.yaml": {Data: []byte("people: { bob: { issuer: https://id.example, sub: bob, slack: { team: T0DEMO, user: U0BOB } } }\n" +
			"sets: { dba: { members: [bob], channel: C0DBA } }\n")},
	}, strings.Repeat("a", 40))
	if err != nil {
		t.Fatal(err)
	}
	return &books{t: t, one: book(), other: book(), policy: p}
}

// asked is an approval that so many have to give.
func (b *books) asked(quorum int) approval.Approval {
	b.t.Helper()
	a, _, err := b.one.Ask(b.t.Context(), approval.Request{
		Subject: rules.Subject{Issuer: "https://id.example", Sub: "alice"}, Client: "agent", Server: "db", Method: "tools/call", Tool: "query",
		Holder: "h", Digest: "sha256:args", Args: "what: 1", RulesDigest: "sha256:rules", Policy: b.policy.Commit(), Call: "c_1",
		Asks:    []rules.Ask{{Rule: "writes", Approvers: "dba", Quorum: quorum, File: "rules/all.yaml", Line: 1}},
		Expires: time.Now().Add(time.Hour),
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return a
}

func (b *books) vote(a approval.Approval) approval.Vote {
	return approval.Vote{Approve: true, Via: approval.ViaSlack, Shown: a.Shows(),
		Slack: &approval.SlackProof{Team: "T0DEMO", User: "U0BOB", PayloadHash: "sha256:x"}}
}

// approved is an approval that Bob has given.
func (b *books) approved() approval.Approval {
	b.t.Helper()
	a := b.asked(1)
	a, err := b.one.Vote(b.t.Context(), a.ID, b.vote(a), b.policy)
	if err != nil || a.State != approval.Approved {
		b.t.Fatalf("%s, %v", a.State, err)
	}
	return a
}
