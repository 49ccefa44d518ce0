package bot_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"countersign/bot"
	"countersign/enforcer/approval"
	"countersign/fixtures/slack"
)

// often has a bot look for what is late all the time.
func often(c *bot.Config) { c.Every = 5 * time.Millisecond }

// reply waits for a reply in the card's thread.
func (w *world) reply(c slack.Card, says string) slack.Card {
	w.t.Helper()
	var found slack.Card
	w.await("a reply that says "+says, func() bool {
		for _, r := range w.slack.Replies(c.Channel, c.TS) {
			if strings.Contains(text(r), says) {
				found = r
				return true
			}
		}
		return false
	})
	return found
}

// One reminder, when a quarter of the time is left, in the card's thread, calling
// those who may still vote; and none to those who have, over restarts and two bots.
func TestReminder(t *testing.T) {
	w := newWorld(t)
	_, stop := w.start(often)
	w.start(often)
	r := w.request("sql: 1")
	r.Asks[0].Quorum = 2
	a := w.ask(r)
	c := w.card(a.ID, "needs 2")
	w.press(c, approve, "U0BOB")
	w.card(a.ID, "approved by bob")
	if n := len(w.slack.Replies(channel, c.TS)); n != 0 {
		t.Fatalf("%d reminders eight hours before the end", n)
	}
	w.clock.pass(6*time.Hour + time.Minute)
	got := w.reply(c, "expires at")
	if !strings.Contains(text(got), `"user_id":"U0CAROL"`) || !strings.Contains(text(got), `"user_id":"U0GUEST"`) {
		t.Errorf("it does not call who may still vote: %s", text(got))
	}
	if strings.Contains(text(got), "U0BOB") || strings.Contains(text(got), "U0ALICE") {
		t.Errorf("it calls who has voted, or asked: %s", text(got))
	}
	if got.Broadcast {
		t.Error("the whole channel was told")
	}
	w.awaitState(a.ID, func(a approval.Approval) bool { return !a.Reminded.IsZero() })
	stop()
	_, again := w.start(often)
	next := w.ask(w.request("sql: 2"))
	w.card(next.ID, "needs 1") // the new bot has been through the old approval
	w.press(c, approve, "U0CAROL")
	w.card(a.ID, "approved by carol")
	w.reply(c, "This was a reminder")
	again()
	if n := len(w.slack.Replies(channel, c.TS)); n != 1 {
		t.Errorf("%d reminders", n)
	}
}

// awaitState waits until the approval is as wanted.
func (w *world) awaitState(id string, is func(approval.Approval) bool) approval.Approval {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.soon())
	defer cancel()
	changes, err := w.book.Watch(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	for a := range changes {
		if a.ID == id && is(a) {
			return a
		}
	}
	a := w.state(id)
	w.t.Fatalf("what was awaited of %s did not come; it is %s with cards %v", id, a.State, a.Cards)
	return approval.Approval{}
}

// What lives less than two minutes needs no reminder, and what is over gets none.
func TestNoReminder(t *testing.T) {
	w := newWorld(t)
	w.start(often)
	short := w.request("sql: short")
	short.Expires = w.clock.Now().Add(110 * time.Second)
	a := w.ask(short)
	c := w.card(a.ID, "needs 1")
	decided := w.ask(w.request("sql: decided"))
	d := w.card(decided.ID, "needs 1")
	w.press(d, approve, "U0BOB")
	w.card(decided.ID, "approved by bob")
	w.clock.pass(100 * time.Second)
	late := w.request("sql: late")
	late.Expires = w.clock.Now().Add(2 * time.Hour)
	b := w.ask(late)
	l := w.card(b.ID, "needs 1")
	w.clock.pass(2*time.Hour - 5*time.Minute)
	w.reply(l, "expires at") // by now everything was looked at
	if n := len(w.slack.Replies(channel, c.TS)) + len(w.slack.Replies(channel, d.TS)); n != 0 {
		t.Errorf("%d reminders that nobody needs", n)
	}
}

// Each call that posts a message of any kind is hit by each mishap: before it has
// an effect, after, refused for now. All is said in the end, and nothing twice.
func TestMishapAtEachMessage(t *testing.T) {
	for name, mishap := range map[string]func(*slack.Server, string){
		"the connection breaks before":  (*slack.Server).Break,
		"the answer is lost":            (*slack.Server).Lose,
		"a proxy's error":               func(s *slack.Server, m string) { s.Stumble(m, 502) },
		"rate limited":                  func(s *slack.Server, m string) { s.Limit(m, 3) },
		"Slack has an internal problem": func(s *slack.Server, m string) { s.Fail(m, "internal_error") },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.start(often)
			for range 2 { // the card
				mishap(w.slack, "chat.postMessage")
			}
			mishap(w.slack, "conversations.history")
			a := w.ask(w.request("sql: 1"))
			c := w.card(a.ID, "needs 1")
			w.awaitCoordinates(a.ID)
			mishap(w.slack, "chat.postMessage") // the reminder
			mishap(w.slack, "conversations.replies")
			w.clock.pass(6*time.Hour + time.Minute)
			w.reply(c, "expires at")
			w.awaitState(a.ID, func(a approval.Approval) bool { return !a.Reminded.IsZero() })
			mishap(w.slack, "chat.update") // the card's end, and the reminder's
			mishap(w.slack, "chat.update")
			w.press(c, approve, "U0BOB")
			w.card(a.ID, "approved by bob")
			w.reply(c, "This was a reminder")
			if n := len(w.slack.Cards(channel)); n != 2 {
				t.Errorf("%d messages, want a card and a reminder", n)
			}
		})
	}
}

// A bot that dies between any two calls to Slack: the next one finishes what it
// began, and says nothing twice.
func TestDiesBetweenAnyTwoSteps(t *testing.T) {
	for step := range 8 {
		t.Run(fmt.Sprintf("after call %d", step), func(t *testing.T) {
			w := newWorld(t)
			ctx, die := context.WithCancel(t.Context())
			defer die()
			before := len(w.slack.Calls())
			_, stop := w.start(often)
			go func() { // dies as soon as Slack has had so many calls
				if w.slack.Await(ctx, func() bool { return len(w.slack.Calls())-before >= step }) == nil {
					stop()
				}
				die()
			}()
			a := w.ask(w.request("sql: 1"))
			if step > 1 {
				w.clock.pass(6*time.Hour + time.Minute) // the reminder is due at once
			}
			if step < 4 { // before there is anything to press
				select {
				case <-ctx.Done():
				case <-w.soon().Done():
					t.Fatalf("Slack was called %d times only", len(w.slack.Calls())-before)
				}
			}
			w.clock.pass(2 * approval.ClaimPatience)
			w.start(often)
			c := w.card(a.ID, "needs 1")
			if step > 1 {
				w.reply(c, "expires at")
			}
			w.press(c, approve, "U0BOB")
			w.card(a.ID, "approved by bob")
			want := min(step, 2)
			if step < 2 {
				want = 1
			}
			if n := len(w.slack.Cards(channel)); n != want {
				t.Errorf("%d messages, want %d", n, want)
			}
			die()
		})
	}
}

// Of many that come at once the first have cards; the others stand in one list,
// from which anybody who is known may have a card posted. Approve stands on the
// card alone. The list says what became of them, also after a restart.
func TestManyAtOnce(t *testing.T) {
	w := newWorld(t)
	const all = 45
	var ids []string
	for i := range all {
		r := w.request(fmt.Sprintf("sql: DELETE FROM t%d", i))
		r.Expires = w.clock.Now().Add(48 * time.Hour)
		ids = append(ids, w.ask(r).ID)
	}
	_, stop := w.start()
	list := func(says string) slack.Card {
		t.Helper()
		c, err := w.slack.AwaitCard(w.soon(), channel, func(c slack.Card) bool { return strings.Contains(text(c), says) })
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	l := list("35 requests wait for dba")
	if n := len(l.Blocks); n > 50 || !strings.Contains(text(l), "and 15 more") {
		t.Errorf("%d blocks: %s", n, slack.Render(l, 100))
	}
	if has(l, approve) || has(l, deny) {
		t.Fatal("something can be decided on the list")
	}
	w.await("ten cards and the list", func() bool { return len(w.slack.Cards(channel)) == 11 })
	w.clock.pass(time.Minute)

	last := l.Buttons()[19] // the last of those that are shown
	press := func(user string) {
		t.Helper()
		if err := w.slack.PressButton(t.Context(), l, last, user); err != nil {
			t.Fatal(err)
		}
	}
	press("U0EVE")
	w.told("U0EVE", "not linked to anybody")
	press("U0BOB")
	id, _, _ := strings.Cut(last.Value, ".")
	c := w.card(id, "needs 1")
	press("U0CAROL")
	w.told("U0CAROL", "in the channel already")
	w.press(c, approve, "U0BOB")
	w.card(id, "approved by bob")
	list("34 requests wait for dba")

	stop()
	_, stop = w.start()
	policy := w.inForce()
	for _, id := range ids {
		v := approval.Vote{Via: approval.ViaSlack, Slack: &approval.SlackProof{Team: team, User: "U0BOB", PayloadHash: "sha256:x"}, Reason: "no"}
		if _, err := w.book.Vote(t.Context(), id, v, policy); err != nil && !errors.Is(err, approval.ErrDecided) {
			t.Fatal(err)
		}
	}
	done := list("Nothing in this list waits for dba any more")
	if done.TS != l.TS || !strings.Contains(text(done), "35 decided or expired") {
		t.Errorf("%s", slack.Render(done, 100))
	}
	if n := len(w.slack.Cards(channel)); n != 12 {
		t.Errorf("%d messages: ten cards, the list and the one that was wanted are twelve", n)
	}

	// The next crowd is told of in a message of its own.
	stop()
	w.clock.pass(time.Hour)
	for i := range 11 {
		w.ask(w.request(fmt.Sprintf("sql: DELETE FROM u%d", i)))
	}
	w.start()
	if next := list("1 request waits for dba"); next.TS == l.TS {
		t.Error("nobody is told of a message that changes")
	}
}

// A list is posted once, whatever happens to the calls that do it.
func TestMishapAtTheList(t *testing.T) {
	for name, mishap := range map[string]func(*slack.Server, string){
		"before": (*slack.Server).Break, "after": (*slack.Server).Lose,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			for i := range 10 {
				w.ask(w.request(fmt.Sprintf("sql: %d", i)))
			}
			w.ask(w.request("sql: one too many"))
			mishap(w.slack, "chat.postMessage") // of the list, or of a card
			mishap(w.slack, "chat.postMessage")
			_, stop := w.start()
			w.await("a list", func() bool { return len(w.slack.Cards(channel)) == 11 })
			stop()
			w.clock.pass(2 * approval.ClaimPatience)
			w.start()
			other := w.ask(func() approval.Request {
				r := w.request("sql: after")
				r.Asks[0].Approvers = "security"
				return r
			}())
			if _, err := w.slack.AwaitCard(w.soon(), "C0SEC", func(c slack.Card) bool { return strings.Contains(text(c), other.ID) }); err != nil {
				t.Fatal(err)
			}
			if n := len(w.slack.Cards(channel)); n != 11 {
				t.Errorf("%d messages", n)
			}
		})
	}
}

// A glass that is broken is told of in each channel concerned, and the message
// says what a review found.
func TestBrokenGlassIsToldOf(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.start()
	r := w.request("sql: DROP TABLE t")
	r.Asks[0].BreakGlass = "security"
	a := w.ask(r)
	w.card(a.ID, "needs 1")
	v := approval.Vote{Issuer: issuer, Sub: "erin", Approve: true, BreakGlass: true, Reason: "production is down", Via: approval.ViaOIDC, Shown: a.Shows(),
		Login: &approval.LoginProof{ID: "l_1", AuthTime: w.clock.Now(), At: w.clock.Now()}}
	if _, err := w.book.Vote(t.Context(), a.ID, v, w.inForce()); err != nil {
		t.Fatal(err)
	}
	told := func(channel, says string) slack.Card {
		t.Helper()
		c, err := w.slack.AwaitCard(w.soon(), channel, func(c slack.Card) bool {
			return strings.Contains(text(c), "Glass broken") && strings.Contains(text(c), says)
		})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for _, where := range []string{channel, "C0SEC"} {
		c := told(where, "production is down")
		if !strings.Contains(text(c), "approved by erin alone") || !strings.Contains(text(c), "waits for a review") || c.Thread != "" {
			t.Errorf("%s", text(c))
		}
	}
	bob := approval.Vote{Issuer: issuer, Sub: "bob", Approve: true, Reason: "it was down", Via: approval.ViaOIDC,
		Login: &approval.LoginProof{ID: "l_2", AuthTime: w.clock.Now(), At: w.clock.Now()}}
	if _, err := w.book.ReviewBy(t.Context(), a.ID, bob, w.inForce()); err != nil {
		t.Fatal(err)
	}
	told(channel, "Reviewed by bob")
	told("C0SEC", "Reviewed by bob")
	if n := len(w.slack.Cards(channel)) + len(w.slack.Cards("C0SEC")); n != 3 {
		t.Errorf("%d messages: a card and two alarms are three", n)
	}
}

// A press on a card from before the rules changed is refused by name; the card
// as it is now can be approved.
func TestPressOnACardThatChanged(t *testing.T) {
	w := newWorld(t)
	w.start()
	a := w.ask(w.request("sql: 1"))
	old := w.card(a.ID, "needs 1")
	r := w.request("sql: 1")
	r.RulesDigest, r.Asks = "sha256:other", slices.Clone(r.Asks)
	r.Asks[0].Digest, r.Asks[0].Reason = "sha256:ask", "Writes need two looks"
	w.setPolicy(policy(t, "4"))
	r.Policy = w.inForce().Commit()
	if b := w.ask(r); b.ID != a.ID {
		t.Fatalf("asked anew: %s", b.ID)
	}
	now := w.card(a.ID, "Writes need two looks")
	w.press(old, approve, "U0BOB")
	w.told("U0BOB", "this card changed, look again")
	if got := w.state(a.ID); len(got.Votes) != 0 {
		t.Fatalf("it counted: %+v", got.Votes)
	}
	w.press(now, approve, "U0BOB")
	w.card(a.ID, "approved by bob")
	if v := w.state(a.ID).Votes[0]; v.Shown != w.state(a.ID).Shows() || v.Linked != approval.LinkedPolicy {
		t.Errorf("%+v", v)
	}
}
