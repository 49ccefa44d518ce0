package bot_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	slackapi "github.com/slack-go/slack"

	"countersign/bot"
	"countersign/enforcer/approval"
	"countersign/enforcer/kv"
	"countersign/fixtures/slack"
	"countersign/rules"
)

const (
	issuer  = "https://id.example"
	team    = "T0TEST"
	channel = "C0DBA"
	approve = "countersign_approve"
	deny    = "countersign_deny"
	details = "countersign_details"
)

// clock is shared by Slack, the bot and the approvals. Whoever sleeps moves it.
type clock struct {
	mu   sync.Mutex
	now  time.Time
	bots atomic.Int32 // that run
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// Sleep takes a real millisecond and the whole time by the clock. With several
// bots a long one takes a fiftieth of it: what another does within seconds, as
// bots that claim a card trust each other to, is then done within the sleep
// here, too.
func (c *clock) Sleep(ctx context.Context, d time.Duration) error {
	real := time.Millisecond
	if d >= 10*time.Second && c.bots.Load() > 1 {
		real = d / 50
	}
	select {
	case <-time.After(real):
		c.pass(max(d, 0))
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

type logs struct {
	mu sync.Mutex
	strings.Builder
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Builder.Write(p)
}

func (l *logs) has(s string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.String(), s)
}

type world struct {
	t      *testing.T
	clock  *clock
	slack  *slack.Server
	store  *kv.Store
	bucket *kv.Bucket
	book   *approval.Book
	log    *logs

	mu     sync.Mutex
	policy *rules.Policy
	spent  int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	c := &clock{now: time.Date(2026, 3, 1, 14, 0, 0, 0, time.UTC)}
	s, err := slack.New(slack.Options{Now: c.Now, Patience: time.Minute, // a loaded machine is no failure
		Channels: []slack.Channel{{ID: channel, Name: "db-approvals"}, {ID: "C0SEC", Name: "security"}},
		Users: []slack.User{{ID: "U0ALICE", Name: "alice"}, {ID: "U0BOB", Name: "bob"}, {ID: "U0CAROL", Name: "carol"},
			{ID: "U0ERIN", Name: "erin"}, {ID: "U0EVE", Name: "eve"}, {ID: "U0GUEST", Name: "guest", Team: "T0OTHER"}}})
	if err != nil {
		t.Fatal(err)
	}
	store, err := kv.OpenEmbedded(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	log := &logs{}
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), store.Close()); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the bots' log:\n%s", log)
		}
	})
	bucket, err := store.Bucket(t.Context(), "approvals")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, clock: c, slack: s, store: store, bucket: bucket, log: log, policy: policy(t, "3")}
	w.book = approval.New(approval.Config{Bucket: bucket, Now: c.Now, Record: func(_ context.Context, _ approval.Approval, event string) error {
		if event == approval.EventSpent {
			w.mu.Lock()
			w.spent++
			w.mu.Unlock()
		}
		return nil
	}})
	return w
}

func policy(t *testing.T, commit string) *rules.Policy {
	t.Helper()
	p, err := rules.Load(fstest.MapFS{
		"countersign.yaml": {Data: []byte("version: 1\n")},
		"servers/db.yaml":  {Data: []byte("server: db\nurl: http://127.0.0.1:1/mcp\n")},
		"rules/all.yaml":   {Data: []byte("- { id: writes, server: db, effect: approve, reason: Writes need a DBA, approval: { approvers: dba, expires: 15m } }\n")},
		"approvers.yaml": {Data: []byte(`
people:
  alice: { issuer: https://id.example, sub: alice, email: a@example.com, slack: { team: T0TEST, user: U0ALICE } }
  bob:   { issuer: https://id.example, sub: bob, slack: { team: T0TEST, user: U0BOB } }
  carol: { issuer: https://id.example, sub: carol, slack: { team: T0TEST, user: U0CAROL } }
  erin:  { issuer: https://id.example, sub: erin, slack: { team: T0TEST, user: U0ERIN } }
  gus:   { issuer: https://id.example, sub: gus, slack: { team: T0TEST, user: U0GUEST } }
sets:
  dba:      { members: [bob, carol, alice, gus], channel: C0DBA }
  security: { members: [erin], channel: C0SEC }
`)},
	}, strings.Repeat(commit, 40))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (w *world) inForce() *rules.Policy {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.policy
}

func (w *world) setPolicy(p *rules.Policy) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.policy = p
}

// start runs a bot, hearing presses over HTTP, until stop is called.
func (w *world) start(change ...func(*bot.Config)) (b *bot.Bot, stop func()) {
	w.t.Helper()
	c := bot.Config{API: slackapi.New(w.slack.Token(), slackapi.OptionAPIURL(w.slack.API())), Book: w.book, Policy: w.inForce,
		SigningSecret: w.slack.Secret(), TeamID: team, Now: w.clock.Now, Sleep: w.clock.Sleep,
		Log: logger(w.log)}
	for _, f := range change {
		f(&c)
	}
	b = bot.New(c)
	web := httptest.NewServer(b.Handler())
	w.slack.DeliverTo(web.URL)
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	w.clock.bots.Add(1)
	go func() { done <- b.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		defer w.clock.bots.Add(-1)
		web.Close()
		cancel()
		select {
		case err := <-done:
			if err != nil && !errors.Is(err, context.Canceled) {
				w.t.Errorf("Run: %v", err)
			}
		case <-time.After(2 * time.Minute):
			w.t.Error("Run does not end")
		}
	})
	w.t.Cleanup(stop)
	return b, stop
}

// soon ends with the test, or when what is awaited with it will not come any
// more: a machine may be slow, but not by minutes.
func (w *world) soon() context.Context {
	ctx, cancel := context.WithTimeout(w.t.Context(), 2*time.Minute)
	w.t.Cleanup(cancel)
	return ctx
}

func (w *world) request(args string) approval.Request {
	return approval.Request{
		Subject: rules.Subject{Issuer: issuer, Sub: "alice"}, Client: "desk-assistant", Server: "db", Method: "tools/call", Tool: "query",
		Holder: "h", Digest: "d-" + args, Args: args, RulesDigest: "sha256:r", Policy: w.inForce().Commit(),
		Asks:    []rules.Ask{{Rule: "writes", Reason: "Writes need a DBA", File: "rules/all.yaml", Line: 1, Approvers: "dba", Quorum: 1}},
		Expires: w.clock.Now().Add(8 * time.Hour), Call: "c_1",
	}
}

func (w *world) ask(r approval.Request) approval.Approval {
	w.t.Helper()
	a, _, err := w.book.Ask(w.t.Context(), r)
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

// card waits for the approval's card to say something.
func (w *world) card(id, says string) slack.Card {
	w.t.Helper()
	c, err := w.slack.AwaitCard(w.soon(), channel, func(c slack.Card) bool {
		return strings.Contains(text(c), id) && strings.Contains(text(c), says)
	})
	if err != nil {
		w.t.Fatalf("no card of %s says %q: %v", id, says, err)
	}
	return c
}

// text is everything that the card shows: as it is drawn, and as it is sent.
func text(c slack.Card) string {
	var b strings.Builder
	b.WriteString(slack.Render(c, 1000))
	for _, raw := range c.Blocks {
		b.Write(raw)
	}
	return b.String()
}

func (w *world) press(c slack.Card, action, user string, how ...slack.Delivery) {
	w.t.Helper()
	if err := w.slack.Press(w.t.Context(), c, action, user, how...); err != nil {
		w.t.Fatalf("%s pressed %s: %v", user, action, err)
	}
}

// told waits until the user was told something privately.
func (w *world) told(user, what string) {
	w.t.Helper()
	err := w.slack.Await(w.soon(), func() bool {
		for _, e := range w.slack.Ephemerals(user) {
			if strings.Contains(e.Text, what) {
				return true
			}
		}
		return false
	})
	if err != nil {
		w.t.Fatalf("%s was not told %q: %v", user, what, err)
	}
}

func (w *world) state(id string) approval.Approval {
	w.t.Helper()
	a, err := w.book.Get(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

func has(c slack.Card, action string) bool {
	for _, b := range c.Buttons() {
		if b.ActionID == action {
			return true
		}
	}
	return false
}

func TestApprove(t *testing.T) {
	w := newWorld(t)
	w.start()
	a := w.ask(w.request("sql: UPDATE customers SET plan = 'pro' WHERE id = 7"))
	c := w.card(a.ID, "needs 1 of dba")
	for _, want := range []string{"desk-assistant asks for alice: query on db", "UPDATE customers SET plan = 'pro' WHERE id = 7",
		"Writes need a DBA", "rule writes, rules/all.yaml:1", "policy 3333333", "until 1 Mar 22:00 UTC"} {
		if !strings.Contains(text(c), want) {
			t.Errorf("the card does not say %q:\n%s", want, slack.Render(c, 80))
		}
	}
	w.press(c, approve, "U0BOB")
	got, err := w.book.Wait(w.soon(), a.ID)
	if err != nil || got.State != approval.Approved {
		t.Fatalf("%s, %v", got.State, err)
	}
	v := got.Votes[0]
	if v.Person != "bob" || v.Slack == nil || v.Slack.Team != team || v.Slack.User != "U0BOB" || v.Slack.MessageTS != c.TS ||
		v.Slack.ActionTS == "" || !strings.HasPrefix(v.Slack.PayloadHash, "sha256:") {
		t.Errorf("provenance: %+v %+v", v, v.Slack)
	}
	c = w.card(a.ID, "approved by bob at 1 Mar 14:")
	if len(c.Buttons()) != 0 {
		t.Error("a decided card has buttons")
	}
	if _, err := w.book.Spend(t.Context(), a.ID, a.Request, "c_9"); err != nil {
		t.Fatal(err)
	}
	if err := w.book.Finish(t.Context(), a.ID, "c_9", "ok"); err != nil {
		t.Fatal(err)
	}
	c = w.card(a.ID, "ran: it succeeded")
	if len(w.slack.Cards(channel)) != 1 {
		t.Errorf("%d cards", len(w.slack.Cards(channel)))
	}
}

func TestDenyGivesTheReason(t *testing.T) {
	w := newWorld(t)
	w.start()
	a := w.ask(w.request("sql: DROP TABLE t"))
	c := w.card(a.ID, "needs 1")
	w.press(c, deny, "U0BOB")
	v := w.modal("U0BOB", "Deny this request")
	if w.state(a.ID).State != approval.Pending {
		t.Fatal("decided before there was a reason")
	}
	if err := w.slack.SubmitModal(t.Context(), v, "U0BOB", map[string]string{"countersign_reason": "Ask billing first"}); err != nil {
		t.Fatal(err)
	}
	got, err := w.book.Wait(w.soon(), a.ID)
	if err != nil || got.State != approval.Denied || got.Reason != "Ask billing first" || got.Votes[0].Slack.MessageTS != c.TS {
		t.Fatalf("%+v, %v", got, err)
	}
	w.card(a.ID, "denied by bob at")
}

func (w *world) modal(user, title string) slack.View {
	w.t.Helper()
	var found slack.View
	err := w.slack.Await(w.soon(), func() bool {
		for _, v := range w.slack.Views(user) {
			if v.Title == title {
				found = v
				return true
			}
		}
		return false
	})
	if err != nil {
		w.t.Fatalf("no modal %q: %v", title, err)
	}
	return found
}

func TestDetails(t *testing.T) {
	w := newWorld(t)
	w.start()
	r := w.request("sql: DROP TABLE t")
	r.Trace = []rules.Match{{Rule: "writes", File: "rules/all.yaml", Line: 1, Effect: rules.Approve, Matched: true, Reason: "Writes need a DBA"},
		{Rule: "no-hashes", File: "rules/all.yaml", Line: 9, Effect: rules.Deny}}
	a := w.ask(r)
	w.press(w.card(a.ID, "needs 1"), details, "U0EVE") // anybody who sees the card may read
	v := w.modal("U0EVE", "Details")
	all := text(slack.Card{Blocks: v.Blocks})
	for _, want := range []string{issuer + "#alice", "no-hashes (rules/all.yaml:9) did not match", "writes (rules/all.yaml:1) matched: approve"} {
		if !strings.Contains(all, want) {
			t.Errorf("details do not say %q: %s", want, all)
		}
	}
}

// Every press that must not count: refused, told to the presser alone, and
// without effect.
func TestPressesRefused(t *testing.T) {
	forge := func(value string) slack.Delivery {
		return slack.Delivery{Edit: func(p map[string]any) {
			p["actions"].([]any)[0].(map[string]any)["value"] = value
		}}
	}
	tests := []struct {
		name   string
		user   string
		action string
		how    slack.Delivery
		setup  func(w *world, a approval.Approval)
		told   string // to the presser
		logged string
		status int  // of the HTTP answer, when it is no 200
		lost   bool // it belongs to no approval
	}{
		{name: "requester approves own request", user: "U0ALICE", action: approve, told: "your own request"},
		{name: "requester denies own request", user: "U0ALICE", action: deny, told: "your own request"},
		{name: "member of the channel, of no approver set", user: "U0ERIN", action: approve, told: "not a member of the approver set"},
		{name: "member of the channel, unknown to the policy", user: "U0EVE", action: approve, told: "not linked to anybody"},
		{name: "same user id in another team, over Slack Connect", user: "U0GUEST", action: approve, told: "not linked to anybody"},
		{name: "another approver's e-mail and name", user: "U0EVE", action: approve, told: "not linked to anybody",
			how: slack.Delivery{Edit: func(p map[string]any) {
				p["user"].(map[string]any)["name"] = "bob"
				p["user"].(map[string]any)["email"] = "bob@example.com"
			}}},
		{name: "another workspace", lost: true, user: "U0BOB", action: approve, logged: "not from ours",
			how: slack.Delivery{Edit: func(p map[string]any) { p["team"].(map[string]any)["id"] = "T0OTHER" }}},
		{name: "button value of nothing", lost: true, user: "U0BOB", action: approve, how: forge("ap_none.0123456789abcdef"), told: "does not belong"},
		{name: "button value with a key in it", lost: true, user: "U0BOB", action: approve, how: forge("../live.x"), told: "does not belong"},
		{name: "button value with another digest", user: "U0BOB", action: approve, told: "does not belong",
			how: slack.Delivery{Edit: func(p map[string]any) {
				act := p["actions"].([]any)[0].(map[string]any)
				act["value"] = act["value"].(string)[:len(act["value"].(string))-4] + "0000"
			}}},
		{name: "unknown action", lost: true, user: "U0BOB", action: approve, logged: "unknown action",
			how: slack.Delivery{Edit: func(p map[string]any) { p["actions"].([]any)[0].(map[string]any)["action_id"] = "approve_all" }}},
		{name: "not signed", user: "U0BOB", action: approve, how: slack.Delivery{Unsigned: true}, status: 401},
		{name: "signed by another", user: "U0BOB", action: approve, how: slack.Delivery{Secret: "guess"}, status: 401},
		{name: "replayed after six minutes", user: "U0BOB", action: approve, how: slack.Delivery{Age: 6 * time.Minute}, status: 401},
		{name: "from the future", user: "U0BOB", action: approve, how: slack.Delivery{Age: -6 * time.Minute}, status: 401},
		{name: "changed after it was signed", user: "U0BOB", action: approve, status: 401,
			how: slack.Delivery{Tamper: func(b []byte) []byte { return append(b, "&x=1"...) }}},
		{name: "after expiry", user: "U0BOB", action: approve, told: "expired",
			setup: func(w *world, _ approval.Approval) { w.clock.pass(9 * time.Hour) }},
		{name: "on an old card, after a denial", user: "U0BOB", action: approve, told: "decided already: denied by carol",
			setup: func(w *world, a approval.Approval) {
				v := approval.Vote{Issuer: issuer, Sub: "carol", Reason: "no", Via: approval.ViaSlack, Slack: &approval.SlackProof{Team: "T0TEST", User: "U0CAROL"}}
				if _, err := w.book.Vote(w.t.Context(), a.ID, v, w.inForce()); err != nil {
					w.t.Fatal(err)
				}
			}},
		{name: "policy changed between asking and approving", user: "U0BOB", action: approve, told: "have changed since",
			setup: func(w *world, _ approval.Approval) { w.setPolicy(policy(w.t, "4")) }},
		{name: "no policy in force", user: "U0BOB", action: approve, told: "has a problem",
			setup: func(w *world, _ approval.Approval) { w.setPolicy(nil) }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			var reports reported
			_, stop := w.start(reports.to)
			a := w.ask(w.request("sql: DROP TABLE t"))
			c := w.card(a.ID, "needs 1")
			if test.setup != nil {
				test.setup(w, a)
			}
			err := w.slack.Press(t.Context(), c, test.action, test.user, test.how)
			var status *slack.Status
			switch {
			case test.status != 0:
				if !errors.As(err, &status) || status.Code != test.status {
					t.Fatalf("answered %v, want %d", err, test.status)
				}
			case err != nil:
				t.Fatal(err)
			}
			if test.told != "" {
				w.told(test.user, test.told)
			}
			stop() // what was accepted is finished
			if test.logged != "" && !w.log.has(test.logged) {
				t.Errorf("the log does not say %q: %s", test.logged, w.log.String())
			}
			switch {
			case test.status != 0 && len(reports.all) != 0:
				t.Errorf("Slack did not vouch for it, but it was reported: %+v", reports.all)
			case test.status == 0 && !test.lost && (len(reports.all) != 1 || reports.all[0].id != a.ID):
				t.Errorf("not reported for its approval: %+v", reports.all)
			case test.status == 0 && (len(reports.all) != 1 || reports.all[0].v.Slack.User != test.user || reports.all[0].v.Via != approval.ViaSlack):
				t.Errorf("reported: %+v", reports.all)
			}
			for _, v := range w.state(a.ID).Votes {
				if v.Approve {
					t.Errorf("the press counted: %+v", v)
				}
			}
			if views := w.slack.Views(test.user); len(views) != 0 {
				t.Errorf("a dialog was opened: %v", views)
			}
		})
	}
}

// A press delivered three times, and a second one, count once.
func TestDeliveredTwice(t *testing.T) {
	w := newWorld(t)
	w.start()
	r := w.request("sql: DROP TABLE t")
	r.Asks[0].Quorum = 2
	a := w.ask(r)
	c := w.card(a.ID, "needs 2")
	w.press(c, approve, "U0BOB", slack.Delivery{Times: 3})
	w.press(c, approve, "U0BOB")
	w.told("U0BOB", "it counts once")
	if got := w.state(a.ID); got.State != approval.Pending || len(got.Votes) != 1 {
		t.Fatalf("%s with %d votes", got.State, len(got.Votes))
	}
	if n := len(w.slack.Ephemerals("U0BOB")); n != 1 {
		t.Errorf("told %d times", n)
	}
	c = w.card(a.ID, "approved by bob")
	if !strings.Contains(text(c), "needs 1 of dba") {
		t.Error("the card does not say what is missing")
	}
	w.press(c, approve, "U0CAROL")
	if got, err := w.book.Wait(w.soon(), a.ID); err != nil || got.State != approval.Approved {
		t.Fatalf("%s, %v", got.State, err)
	}
}

// What an approver cannot see in full has no Approve button, and a forged press
// of it does not count.
func TestUnseenIsNotApprovable(t *testing.T) {
	for name, spoil := range map[string]func(*approval.Request){
		"masked in part":      func(r *approval.Request) { r.Partial = true },
		"longer than a card":  func(r *approval.Request) { r.Args = strings.Repeat("SELECT 1; ", 500) },
		"long once escaped":   func(r *approval.Request) { r.Args = strings.Repeat("\u202e", 1000) },
		"a name beyond sight": func(r *approval.Request) { r.Tool = strings.Repeat("q", 300) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			_, stop := w.start()
			r := w.request("x")
			spoil(&r)
			a := w.ask(r)
			c := w.card(a.ID, "cannot be approved here")
			if has(c, approve) || !has(c, deny) || !has(c, details) {
				t.Fatalf("buttons: %+v", c.Buttons())
			}
			w.press(c, deny, "U0BOB", slack.Delivery{Edit: func(p map[string]any) {
				p["actions"].([]any)[0].(map[string]any)["action_id"] = approve
			}})
			w.told("U0BOB", "could not be shown in full")
			stop()
			if got := w.state(a.ID); len(got.Votes) != 0 {
				t.Fatalf("the forged press counted: %+v", got.Votes)
			}
		})
	}
}

// Untrusted text stands only where Slack finds no meaning in it.
func TestUntrustedText(t *testing.T) {
	w := newWorld(t)
	w.start()
	r := w.request("```<!channel> <https://evil.example|click> @here *bold* \u202Etxt.exe\u200b \x00 \\u{202E}\nsecond line")
	r.Client = "<!here>\u202e`x`"
	r.Tool = "a\nb <@U0BOB>"
	r.Asks[0].Reason = "see <https://evil.example|the docs>"
	a := w.ask(r)
	c := w.card(a.ID, "needs 1")
	shown := text(c)
	for _, bad := range []string{"\u202e", "\u200b", `"mrkdwn"`, `"link"`, `"url"`} {
		if strings.Contains(shown, bad) {
			t.Errorf("the card holds %q", bad)
		}
	}
	var pre string
	for _, raw := range c.Blocks {
		var b struct {
			Elements []struct {
				Type     string
				Elements []struct{ Type, Text string }
			}
		}
		if json.Unmarshal(raw, &b) == nil && len(b.Elements) == 2 && b.Elements[1].Type == "rich_text_preformatted" {
			pre = b.Elements[1].Elements[0].Text
		}
	}
	if want := "```<!channel> <https://evil.example|click> @here *bold* \\u{202E}txt.exe\\u{200B} \\u{00} \\u{5C}u{202E}\nsecond line"; pre != want {
		t.Errorf("shown as %q\nwant     %q", pre, want)
	}
	if strings.ContainsAny(c.Text, "<>") || strings.Contains(c.Text, "\u202e") {
		t.Errorf("the fallback text has markup: %q", c.Text)
	}
	if !has(c, approve) {
		t.Error("odd, but whole: it can be approved")
	}
}

func logger(l *logs) *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }
