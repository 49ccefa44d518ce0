package bot_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	slackapi "github.com/slack-go/slack"

	"countersign/bot"
	"countersign/enforcer/approval"
	"countersign/fixtures/slack"
	"countersign/rules"
)

func (w *world) calls(method, answer string) int {
	n := 0
	for _, c := range w.slack.Calls() {
		if c.Method == method && c.Error == answer {
			n++
		}
	}
	return n
}

func (w *world) await(what string, cond func() bool) {
	w.t.Helper()
	if err := w.slack.Await(w.soon(), cond); err != nil {
		w.t.Fatalf("%s: %v", what, err)
	}
}

// Twenty at once: all are posted, none twice, each a second after the other.
func TestPace(t *testing.T) {
	w := newWorld(t)
	var mu sync.Mutex
	var turns []time.Duration // from the start, by a clock that stands still
	w.start(func(c *bot.Config) {
		start := w.clock.Now()
		c.Now = func() time.Time { return start }
		c.Sleep = func(ctx context.Context, d time.Duration) error {
			mu.Lock()
			turns = append(turns, d)
			mu.Unlock()
			return w.clock.Sleep(ctx, d)
		}
	})
	for i := range 20 { // not so many in a minute that they go into a list
		w.ask(w.request(fmt.Sprintf("sql: DELETE FROM t%d", i)))
		w.clock.pass(10 * time.Second)
	}
	w.await("twenty cards", func() bool { return len(w.slack.Cards(channel)) >= 20 })
	mu.Lock()
	defer mu.Unlock()
	slices.Sort(turns)
	turns = slices.Compact(turns)
	for i := 1; i < len(turns); i++ {
		if turns[i]-turns[i-1] < time.Second {
			t.Errorf("two messages within %s", turns[i]-turns[i-1])
		}
	}
	if len(turns) < 20 {
		t.Errorf("%d turns for twenty messages", len(turns))
	}
	if n := len(w.slack.Cards(channel)); n != 20 {
		t.Errorf("%d cards", n)
	}
}

func TestRateLimited(t *testing.T) {
	w := newWorld(t)
	w.slack.Limit("chat.postMessage", 30)
	w.slack.Limit("chat.postMessage", 7)
	w.start()
	before := w.clock.Now()
	a := w.ask(w.request("sql: DROP TABLE t"))
	w.card(a.ID, "needs 1")
	if waited := w.clock.Now().Sub(before); waited < 37*time.Second {
		t.Errorf("waited %s, Slack asked for 37 s", waited)
	}
	if len(w.slack.Cards(channel)) != 1 {
		t.Errorf("%d cards", len(w.slack.Cards(channel)))
	}
}

// Slack down: pending, nothing lost, nothing approved; the card comes later.
func TestSlackDown(t *testing.T) {
	w := newWorld(t)
	b, _ := w.start()
	first := w.ask(w.request("sql: 1"))
	w.card(first.ID, "needs 1")
	w.slack.Down(true)
	a := w.ask(w.request("sql: 2"))
	w.await("a failure in the log", func() bool { return w.log.has("could not be brought up to date") })
	if got := w.state(a.ID); got.State != approval.Pending {
		t.Fatalf("%s while Slack was down", got.State)
	}
	if err := b.CardError(a.ID); err != nil {
		t.Errorf("a Slack that is away is no reason to give up: %v", err)
	}
	w.slack.Down(false)
	w.card(a.ID, "needs 1")
}

// A refusal of the channel reaches whoever waits; once cured, the card comes.
func TestChannelRefused(t *testing.T) {
	for code, c := range map[string]slack.Channel{
		"not_in_channel": {ID: channel, Name: "db-approvals", Absent: true},
		"is_archived":    {ID: channel, Name: "db-approvals", Archived: true},
	} {
		t.Run(code, func(t *testing.T) {
			w := newWorld(t)
			w.slack.SetChannel(c)
			b, _ := w.start()
			a := w.ask(w.request("sql: 1"))
			w.await("a refused card", func() bool { return w.calls("chat.postMessage", code) >= 2 })
			if err := b.CardError(a.ID); err == nil || !strings.Contains(err.Error(), code) || !w.log.has(code) {
				t.Errorf("CardError: %v", err)
			}
			if got := w.state(a.ID); got.State != approval.Pending {
				t.Errorf("%s", got.State)
			}
			w.slack.SetChannel(slack.Channel{ID: channel, Name: "db-approvals"})
			w.card(a.ID, "needs 1")
		})
	}
}

func TestTokenRefused(t *testing.T) {
	w := newWorld(t)
	b, _ := w.start(func(c *bot.Config) { c.API = slackapi.New("xoxb-wrong", slackapi.OptionAPIURL(w.slack.API())) })
	a := w.ask(w.request("sql: 1"))
	w.await("refusals", func() bool { return w.calls("auth.test", "invalid_auth") >= 2 })
	if err := b.CardError(a.ID); err == nil || !strings.Contains(err.Error(), "invalid_auth") {
		t.Errorf("CardError: %v", err)
	}
	other := bot.New(bot.Config{API: slackapi.New(w.slack.Token(), slackapi.OptionAPIURL(w.slack.API())), Book: w.book, Policy: w.inForce,
		TeamID: "T0ELSE", Now: w.clock.Now, Sleep: w.clock.Sleep})
	if err := other.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "T0ELSE") {
		t.Errorf("a token of another workspace: %v", err)
	}
}

func TestNobodyToAsk(t *testing.T) {
	w := newWorld(t)
	b, _ := w.start()
	r := w.request("sql: 1")
	r.Asks[0].Approvers = "gone"
	a := w.ask(r)
	w.await("the card's error", func() bool { return b.CardError(a.ID) != nil })
	if err := b.CardError(a.ID); !strings.Contains(err.Error(), "no Slack channel") {
		t.Error(err)
	}
}

// The same card and the same buttons work after a restart; nothing is posted
// again.
func TestRestart(t *testing.T) {
	w := newWorld(t)
	_, stop := w.start()
	a := w.ask(w.request("sql: 1"))
	c := w.card(a.ID, "needs 1")
	w.awaitCoordinates(a.ID)
	stop()
	w.start()
	b := w.ask(w.request("sql: 2"))
	w.card(b.ID, "needs 1") // the new bot has been through the old approval
	w.press(c, approve, "U0BOB")
	w.card(a.ID, "approved by bob")
	if n := len(w.slack.Cards(channel)); n != 2 {
		t.Errorf("%d cards for two approvals", n)
	}
}

func (w *world) awaitCoordinates(id string) {
	w.t.Helper()
	w.awaitState(id, func(a approval.Approval) bool {
		card, ok := a.Card("dba")
		return ok && card.TS != ""
	})
}

// Slack took the card, but its answer was lost: the card is found, not posted
// again.
func TestLostAnswer(t *testing.T) {
	w := newWorld(t)
	w.slack.Lose("chat.postMessage")
	w.start()
	a := w.ask(w.request("sql: 1"))
	w.awaitCoordinates(a.ID)
	w.press(w.card(a.ID, "needs 1"), approve, "U0BOB")
	w.card(a.ID, "approved by bob")
	if n := len(w.slack.Cards(channel)); n != 1 {
		t.Errorf("%d cards", n)
	}
}

// A bot that died between posting and noting where: the next one finds the
// card. Without the scope to look, it posts another; one vote counts still.
func TestCrashAfterPost(t *testing.T) {
	for name, blind := range map[string]bool{"history readable": false, "history out of scope": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			_, stop := w.start()
			a := w.ask(w.request("sql: 1"))
			w.card(a.ID, "needs 1")
			w.awaitCoordinates(a.ID)
			stop()
			crashed := w.state(a.ID)
			crashed.Cards[0].TS, crashed.Cards[0].Shown = "", ""
			crashed.Cards[0].Claimed, crashed.Cards[0].By = w.clock.Now(), "the dead"
			if err := w.book.Restore(t.Context(), []approval.Approval{crashed}); err != nil {
				t.Fatal(err)
			}
			want := 1
			if blind {
				w.slack.Fail("conversations.history", "missing_scope")
				for range 20 {
					w.slack.Fail("conversations.history", "missing_scope")
				}
				want = 2
			}
			w.start()
			w.awaitCoordinates(a.ID)
			if n := len(w.slack.Cards(channel)); n != want {
				t.Errorf("%d cards", n)
			}
		})
	}
}

// Two bots over one store: one card, and a press heard by both counts once.
func TestTwoBots(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.start()
	var all []approval.Approval
	for i := range 8 {
		all = append(all, w.ask(w.request(fmt.Sprintf("sql: %d", i))))
	}
	for _, a := range all {
		w.card(a.ID, "needs 1")
		w.awaitCoordinates(a.ID)
	}
	if n := len(w.slack.Cards(channel)); n != len(all) {
		t.Errorf("%d cards for %d approvals", n, len(all))
	}
}

// Fifty voters press at random, twice each, over two bots; callers spend as
// soon as they may: each approval is spent once.
func TestPressRace(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.start()
	var pressing sync.WaitGroup
	var ids []string
	for i := range 4 {
		a := w.ask(w.request(fmt.Sprintf("sql: %d", i)))
		ids = append(ids, a.ID)
		c := w.card(a.ID, "needs 1")
		for range 10 {
			for _, user := range []string{"U0BOB", "U0CAROL", "U0ALICE", "U0EVE"} {
				pressing.Go(func() {
					err := w.slack.Press(t.Context(), c, approve, user)
					var status *slack.Status
					if err != nil && (!errors.As(err, &status) || status.Code != 503) {
						t.Errorf("press: %v", err)
					}
				})
			}
			pressing.Go(func() {
				if _, err := w.book.Wait(w.soon(), a.ID); err != nil {
					t.Errorf("wait: %v", err)
				}
				_, err := w.book.Spend(t.Context(), a.ID, a.Request, "c_2")
				if err != nil && !errors.Is(err, approval.ErrSpent) {
					t.Errorf("spend: %v", err)
				}
			})
		}
	}
	pressing.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.spent != len(ids) {
		t.Errorf("%d spendings of %d approvals", w.spent, len(ids))
	}
}

// Acknowledged before work: Slack's own API hangs, and the press is answered.
func TestAckBeforeWork(t *testing.T) {
	w := newWorld(t)
	w.start()
	a := w.ask(w.request("sql: 1"))
	c := w.card(a.ID, "needs 1")
	release := w.slack.Slow()
	w.press(c, deny, "U0BOB") // needs views.open, which hangs
	release()
	w.modal("U0BOB", "Deny this request")
}

// The trigger of a press that waited too long opens nothing: the presser is
// told to press again.
func TestTriggerTooOld(t *testing.T) {
	w := newWorld(t)
	w.start()
	a := w.ask(w.request("sql: 1"))
	c := w.card(a.ID, "needs 1")
	release := w.slack.Slow()
	w.press(c, deny, "U0BOB")
	w.clock.pass(4 * time.Second)
	release()
	w.told("U0BOB", "Press again")
}

func TestEphemeralFallsBack(t *testing.T) {
	w := newWorld(t)
	w.start()
	a := w.ask(w.request("sql: 1"))
	c := w.card(a.ID, "needs 1")
	w.slack.Limit("chat.postEphemeral", 1)
	w.slack.Fail("chat.postEphemeral", "user_not_in_channel")
	w.press(c, approve, "U0EVE")
	w.told("U0EVE", "not linked") // by response_url
}

func TestExpiryIsShown(t *testing.T) {
	w := newWorld(t)
	w.start()
	a := w.ask(w.request("sql: 1"))
	w.card(a.ID, "needs 1")
	w.clock.pass(9 * time.Hour)
	if _, err := w.book.Expire(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c := w.card(a.ID, "nothing ran"); len(c.Buttons()) != 0 {
		t.Error("an expired card has buttons")
	}
}

func TestTwoSets(t *testing.T) {
	w := newWorld(t)
	w.start()
	r := w.request("sql: 1")
	r.Asks = append(r.Asks, rules.Ask{Rule: "secrets", Reason: "Secrets need security", File: "rules/all.yaml", Line: 2, Approvers: "security", Quorum: 1})
	a := w.ask(r)
	w.press(w.card(a.ID, "needs 1 of dba"), approve, "U0BOB")
	w.card(a.ID, "approved by bob")
	c, err := w.slack.AwaitCard(w.soon(), "C0SEC", func(c slack.Card) bool { return strings.Contains(text(c), "approved by bob") })
	if err != nil {
		t.Fatal(err)
	}
	w.press(c, approve, "U0ERIN")
	if got, err := w.book.Wait(w.soon(), a.ID); err != nil || got.State != approval.Approved {
		t.Fatalf("%s, %v", got.State, err)
	}
}

func TestSocketMode(t *testing.T) {
	w := newWorld(t)
	b, _ := w.start()
	w.slack.DeliverTo("") // from here on over the socket
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.RunSocket(ctx, w.slack.AppToken()) }()
	w.await("a connection", func() bool { return w.slack.Sockets() == 1 })

	a := w.ask(w.request("sql: 1"))
	w.press(w.card(a.ID, "needs 1"), approve, "U0BOB", slack.Delivery{Times: 2})
	w.card(a.ID, "approved by bob")

	for name, interrupt := range map[string]func() error{
		"refresh": w.slack.Refresh,
		"cut":     func() error { w.slack.Cut(); return nil },
	} {
		if err := interrupt(); err != nil {
			t.Fatal(err)
		}
		opened := w.calls("apps.connections.open", "")
		w.await("a new connection", func() bool { return w.slack.Sockets() == 1 && w.calls("apps.connections.open", "") >= min(opened, 2) })
		a := w.ask(w.request("sql: after " + name))
		c := w.card(a.ID, "needs 1")
		w.await("a press that is heard", func() bool { // the old connection may still be the newest known
			return w.slack.Press(t.Context(), c, approve, "U0BOB") == nil
		})
		w.card(a.ID, "approved by bob")
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("RunSocket: %v", err)
	}
}

// A press that comes before Slack has said which workspace is ours is refused in
// Slack's sight, not taken for one from elsewhere.
func TestSocketModeBeforeItKnowsItsWorkspace(t *testing.T) {
	w := newWorld(t)
	_, stop := w.start()
	a := w.ask(w.request("sql: 1"))
	c := w.card(a.ID, "needs 1")
	stop()
	w.slack.DeliverTo("")
	early := bot.New(bot.Config{API: slackapi.New(w.slack.Token(), slackapi.OptionAPIURL(w.slack.API())), Book: w.book, Policy: w.inForce,
		Refused: func(_ context.Context, _ string, _ approval.Vote, why error) { t.Errorf("refused: %v", why) },
		Now:     w.clock.Now, Sleep: w.clock.Sleep, Log: logger(w.log)})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() { ended <- early.RunSocket(ctx, w.slack.AppToken()) }()
	w.await("a connection", func() bool { return w.slack.Sockets() == 1 })
	pressing, giveUp := context.WithCancel(t.Context())
	pressed := make(chan error, 1)
	go func() { pressed <- w.slack.Press(pressing, c, approve, "U0BOB") }()
	w.await("the press to be turned away", func() bool { return w.log.has("it was turned away") || len(pressed) > 0 })
	giveUp()
	if err := <-pressed; err == nil {
		t.Error("it was acknowledged")
	}
	known := w.calls("auth.test", "")
	go func() { ended <- early.Run(ctx) }()
	w.await("the introduction", func() bool { return w.calls("auth.test", "") > known })
	w.await("a press that is heard", func() bool { // the answer may still be on its way: then it is turned away once more
		again, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		return w.slack.Press(again, c, approve, "U0BOB") == nil
	})
	w.card(a.ID, "approved by bob")
	cancel()
	for range 2 {
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}

// A refused app-level token stops nothing: approvals wait, whoever asked is
// told why, and when Slack takes the token the press counts.
func TestSocketTokenRefused(t *testing.T) {
	// Of some refusals Slack's library says that they are for good, the others it
	// repeats, ever more slowly.
	for code, times := range map[string]int{"invalid_auth": 20, "token_revoked": 20, "missing_scope": 3} {
		t.Run(code, func(t *testing.T) {
			w := newWorld(t)
			b, _ := w.start()
			w.slack.DeliverTo("")
			a := w.ask(w.request("sql: 1"))
			c := w.card(a.ID, "needs 1")
			for range times {
				w.slack.Fail("apps.connections.open", code)
			}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- b.RunSocket(ctx, w.slack.AppToken()) }()
			w.await("the reason", func() bool { // known a moment after Slack's answer: by the next one
				err := b.CardError(a.ID)
				return err != nil && strings.Contains(err.Error(), "cannot be answered") && strings.Contains(err.Error(), code)
			})
			w.await("a connection", func() bool { return w.slack.Sockets() == 1 })
			w.press(c, approve, "U0BOB")
			w.card(a.ID, "approved by bob")
			if err := b.CardError(a.ID); err != nil {
				t.Errorf("all is well, but: %v", err)
			}
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("RunSocket: %v", err)
			}
		})
	}
}

func serve(h http.Handler, method string, header map[string]string, body string) int {
	r := httptest.NewRequest(method, "/slack", strings.NewReader(body))
	for k, v := range header {
		r.Header.Set(k, v)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code
}

func TestHandlerRefuses(t *testing.T) {
	w := newWorld(t)
	b := bot.New(bot.Config{API: slackapi.New("x"), Book: w.book, Policy: w.inForce, Now: w.clock.Now})
	if status := serve(b.Handler(), "GET", nil, ""); status != 405 {
		t.Errorf("GET: %d", status)
	}
	body := "payload=%7B%7D"
	stamp := fmt.Sprint(w.clock.Now().Unix())
	signed := map[string]string{"X-Slack-Request-Timestamp": stamp, "X-Slack-Signature": slack.Sign("", stamp, []byte(body)),
		"Content-Type": "application/x-www-form-urlencoded"}
	if status := serve(b.Handler(), "POST", signed, body); status != 401 {
		t.Errorf("with the empty secret, while none is configured: %d", status)
	}
	early := bot.New(bot.Config{API: slackapi.New("x"), Book: w.book, Policy: w.inForce, Now: w.clock.Now, SigningSecret: "s"})
	signed["X-Slack-Signature"] = slack.Sign("s", stamp, []byte(body))
	if status := serve(early.Handler(), "POST", signed, body); status != 503 {
		t.Errorf("a press before Slack has said whose team is ours: %d, and it is lost", status)
	}
	b = bot.New(bot.Config{API: slackapi.New("x"), Book: w.book, Policy: w.inForce, Now: w.clock.Now, SigningSecret: "s", TeamID: "T0TEST"})
	for name, change := range map[string]struct {
		header, value, body string
		want                int
	}{
		"as signed":       {"", "", body, 200},
		"no form":         {"Content-Type", "application/json", body, 400},
		"two payloads":    {"", "", "payload=1&payload=2", 400},
		"no payload":      {"", "", "x=1", 400},
		"too large":       {"", "", "payload=" + strings.Repeat("x", 2<<20), 413},
		"version 1":       {"X-Slack-Signature", "v1=00", body, 401},
		"empty signature": {"X-Slack-Signature", "v0=", body, 401},
		"no time":         {"X-Slack-Request-Timestamp", "now", body, 401},
	} {
		h := map[string]string{}
		for k, v := range signed {
			h[k] = v
		}
		h["X-Slack-Signature"] = slack.Sign("s", stamp, []byte(change.body))
		if change.header != "" {
			h[change.header] = change.value
		}
		if status := serve(b.Handler(), "POST", h, change.body); status != change.want {
			t.Errorf("%s: %d, want %d", name, status, change.want)
		}
	}
}
