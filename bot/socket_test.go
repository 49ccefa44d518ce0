package bot_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"countersign/bot"
	"countersign/enforcer/approval"
	"countersign/fixtures/slack"
)

// hearing runs a bot in Socket Mode until the test ends.
func (w *world) hearing(change ...func(*bot.Config)) *bot.Bot {
	w.t.Helper()
	b, _ := w.start(change...)
	w.slack.DeliverTo("")
	ctx, cancel := context.WithCancel(w.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.RunSocket(ctx, w.slack.AppToken()) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			w.t.Errorf("RunSocket: %v", err)
		}
	})
	return b
}

// Slack's reasons to end a connection, each followed by a press that counts.
func TestSlackEndsTheConnection(t *testing.T) {
	for _, reason := range []string{"warning", "refresh_requested", "link_disabled"} {
		t.Run(reason, func(t *testing.T) {
			w := newWorld(t)
			b := w.hearing()
			w.await("a connection", func() bool { return w.slack.Sockets() == 1 })
			a := w.ask(w.request("sql: 1"))
			c := w.card(a.ID, "needs 1")
			opened := w.calls("apps.connections.open", "")
			if err := w.slack.Disconnect(reason); err != nil {
				t.Fatal(err)
			}
			if reason == "link_disabled" {
				w.await("a refusal", func() bool { return w.calls("apps.connections.open", "not_allowed") >= 1 })
				w.await("an error for whoever waits: nobody is heard", func() bool { return b.CardError(a.ID) != nil })
				w.slack.Relink()
			}
			w.await("another connection", func() bool { return w.calls("apps.connections.open", "") > opened && w.slack.Sockets() >= 1 })
			w.press(c, approve, "U0BOB")
			w.card(a.ID, "approved by bob")
		})
	}
}

// A connection that died without a word is found out by its silence; a press that
// went into it comes again over the next one, and counts once.
func TestASilentConnection(t *testing.T) {
	w := newWorld(t)
	w.hearing(func(c *bot.Config) { c.Dead = 300 * time.Millisecond })
	w.await("a connection", func() bool { return w.slack.Sockets() == 1 })
	r := w.request("sql: 1")
	r.Asks[0].Quorum = 2
	a := w.ask(r)
	c := w.card(a.ID, "needs 2")
	w.slack.Silence()
	w.press(c, approve, "U0BOB") // delivered when there is another connection
	w.card(a.ID, "approved by bob")
	if got := w.state(a.ID); len(got.Votes) != 1 || got.State != approval.Pending {
		t.Errorf("%s with %d votes", got.State, len(got.Votes))
	}
}

// Two bots, each with its connection: whichever gets the press, it counts once.
func TestTwoConnections(t *testing.T) {
	w := newWorld(t)
	w.hearing()
	w.hearing()
	w.await("two connections", func() bool { return w.slack.Sockets() == 2 })
	r := w.request("sql: 1")
	r.Asks[0].Quorum = 2
	a := w.ask(r)
	c := w.card(a.ID, "needs 2")
	w.press(c, approve, "U0BOB", slack.Delivery{Times: 4}) // some to the one, some to the other
	w.press(c, approve, "U0CAROL")
	if got, err := w.book.Wait(w.soon(), a.ID); err != nil || got.State != approval.Approved || len(got.Votes) != 2 {
		t.Fatalf("%s with %d votes, %v", got.State, len(got.Votes), err)
	}
}
