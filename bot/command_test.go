package bot_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"countersign/bot"
	"countersign/enforcer/approval"
	"countersign/fixtures/slack"
	"countersign/rules"
)

// freezing is the test's policy, in which carol may freeze.
func freezing(t *testing.T) *rules.Policy {
	t.Helper()
	p, err := rules.Load(fstest.MapFS{
		"countersign.yaml": {Data: []byte("version: 1\nfreeze: { people: [carol] }\n")},
		"servers/db.yaml":  {Data: []byte("server: db\nurl: http://127.0.0.1:1/mcp\n")},
		"rules/all.yaml":   {Data: []byte("- { id: writes, server: db, effect: approve, reason: Writes need a DBA, approval: { approvers: dba, expires: 15m } }\n")},
		"approvers.yaml": {Data: []byte(`
people:
  alice: { issuer: https://id.example, sub: alice, slack: { team: T0TEST, user: U0ALICE } }
  bob:   { issuer: https://id.example, sub: bob, slack: { team: T0TEST, user: U0BOB } }
  carol: { issuer: https://id.example, sub: carol, slack: { team: T0TEST, user: U0CAROL } }
  erin:  { issuer: https://id.example, sub: erin, slack: { team: T0TEST, user: U0ERIN } }
  gus:   { issuer: https://id.example, sub: gus, slack: { team: T0OTHER, user: U0GUEST } }
sets:
  dba:      { members: [bob, carol], channel: C0DBA }
  security: { members: [erin], channel: C0SEC }
links: { login: true }
`)},
	}, strings.Repeat("5", 40))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// counter is the desk of a test: it keeps what it was asked for.
type counter struct {
	mu  sync.Mutex
	all []string
	err error
}

func (c *counter) note(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, fmt.Sprintf(format, args...))
}

func (c *counter) asked() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.all)
}

func (c *counter) desk(b *bot.Config) {
	b.Desk = bot.Desk{
		Status: func(context.Context) []string { return []string{"ready: calls are served", "policy: 5555"} },
		Frozen: func() []string { return []string{"fz_1  server db, by carol"} },
		Freeze: func(_ context.Context, t bot.Target, reason string, by rules.Person, from approval.SlackProof) (string, error) {
			c.note("freeze %s, by %s as %s: %s", t, by.Name, from.User, reason)
			return "Frozen: " + t.String(), c.err
		},
		Unfreeze: func(_ context.Context, id string, by rules.Person, from approval.SlackProof) (string, error) {
			c.note("unfreeze %s, by %s", id, by.Name)
			return "Unfrozen: " + id, c.err
		},
		Refused: func(_ context.Context, what string, who approval.Voter, from approval.SlackProof, why error) {
			c.note("refused %s of %q as %s", what, who.Person, from.User)
		},
		Link: func(_ context.Context, team, user, name string) (string, error) {
			return "https://gate.example/approvals/link?token=" + team + user, c.err
		},
		Linked: func(_ context.Context, team, user, code string) (string, error) {
			if code != "GOOD-CODE" {
				return "", approval.ErrLinkCode
			}
			c.note("linked %s/%s", team, user)
			return "mallory\u202e", nil
		},
	}
}

func (w *world) command(user, text string, how ...slack.Delivery) {
	w.t.Helper()
	// Typed where the bot is not: the answer comes all the same.
	if err := w.slack.Command(w.t.Context(), "D0SOMEWHERE", user, "/countersign", text, how...); err != nil {
		w.t.Fatalf("%s typed %q: %v", user, text, err)
	}
}

// said is everything that the user was shown alone.
func (w *world) said(user string) string {
	var b strings.Builder
	for _, e := range w.slack.Ephemerals(user) {
		b.WriteString(e.Text + "\n")
		for _, raw := range e.Blocks {
			b.Write(raw)
		}
	}
	return b.String()
}

func (w *world) wasSaid(user, what string) {
	w.t.Helper()
	w.await(user+" to be told "+what, func() bool { return strings.Contains(w.said(user), what) })
}

// Each command, over HTTP and over Socket Mode: what is answered, to whom alone,
// and what it has done.
func TestCommands(t *testing.T) {
	for _, socket := range []bool{false, true} {
		t.Run(fmt.Sprintf("socket mode %t", socket), func(t *testing.T) {
			w := newWorld(t)
			w.setPolicy(freezing(t))
			var desk counter
			b, _ := w.start(desk.desk)
			if socket {
				w.slack.DeliverTo("")
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- b.RunSocket(ctx, w.slack.AppToken()) }()
				defer func() {
					cancel()
					if err := <-ended; !errors.Is(err, context.Canceled) {
						t.Errorf("RunSocket: %v", err)
					}
				}()
				w.await("a connection", func() bool { return w.slack.Sockets() == 1 })
			}
			r := w.request("sql: DROP TABLE t")
			r.Trace = []rules.Match{{Rule: "writes", File: "rules/all.yaml", Line: 1, Effect: rules.Approve, Matched: true, Reason: "Writes need a DBA"}}
			a := w.ask(r)
			w.card(a.ID, "needs 1")

			w.command("U0BOB", "")
			w.wasSaid("U0BOB", "explain APPROVAL")
			w.command("U0BOB", "status")
			w.wasSaid("U0BOB", "ready: calls are served\npolicy: 5555\n1 approval waiting")
			w.command("U0BOB", "pending")
			w.wasSaid("U0BOB", "1 request waiting for you; page 1 of 1")
			w.wasSaid("U0BOB", a.ID)
			w.command("U0ERIN", "pending") // of another set
			w.wasSaid("U0ERIN", "0 requests waiting for you.")
			w.command("U0ALICE", "pending") // her own request is not for her
			w.wasSaid("U0ALICE", "0 requests waiting for you.")
			w.command("U0BOB", "pending first")
			w.wasSaid("U0BOB", "takes the number of a page")
			w.command("U0ERIN", "explain "+a.ID)
			w.wasSaid("U0ERIN", "Writes need a DBA")
			w.command("U0ERIN", "explain ../live.x")
			w.wasSaid("U0ERIN", "no such approval")
			w.command("U0ERIN", "dance")
			w.wasSaid("U0ERIN", "What /countersign can do")

			// Freezing: for whom policy lets, with a reason, confirmed.
			w.command("U0BOB", "freeze all because")
			w.wasSaid("U0BOB", "`freeze` in the policy's countersign.yaml does not name you")
			w.command("U0CAROL", "freeze")
			w.wasSaid("U0CAROL", "freeze what?")
			w.command("U0CAROL", "freeze server=db server=other x")
			w.wasSaid("U0CAROL", "cannot be understood")
			w.command("U0CAROL", "freeze server=db tool=query incident 42")
			v := w.modal("U0CAROL", "Freeze")
			if len(desk.asked()) != 1 { // bob's refusal
				t.Fatalf("before it was confirmed: %q", desk.asked())
			}
			if err := w.slack.SubmitModal(t.Context(), v, "U0CAROL", map[string]string{"countersign_freeze": "incident 42, agents are phished"}); err != nil {
				t.Fatal(err)
			}
			w.wasSaid("U0CAROL", "Frozen: server db, tool query")
			w.command("U0CAROL", "unfreeze")
			w.wasSaid("U0CAROL", "fz_1  server db, by carol")
			w.command("U0CAROL", "unfreeze fz_1")
			w.wasSaid("U0CAROL", "Unfrozen: fz_1")

			// Who is nobody is told, and may link themselves.
			w.command("U0EVE", "status")
			w.wasSaid("U0EVE", "not linked to anybody in approvers.yaml, so this is not for you. You can link it yourself, by signing in: /countersign link")
			w.command("U0EVE", "freeze all x")
			w.await("the refusal", func() bool { return slices.Contains(desk.asked(), `refused freeze all x of "" as U0EVE`) })
			w.command("U0EVE", "link")
			w.wasSaid("U0EVE", "https://gate.example/approvals/link?token=T0TESTU0EVE")
			w.command("U0EVE", "link WRONG")
			w.wasSaid("U0EVE", "That code is wrong")
			w.command("U0EVE", "link GOOD-CODE")
			w.wasSaid("U0EVE", `counts as mallory\u{202E}'s`)

			// A person of another organisation, over Slack Connect: the command does
			// not say of which team they are, so they are nobody.
			w.command("U0GUEST", "status")
			w.wasSaid("U0GUEST", "not linked to anybody")
			w.command("U0CAROL", "status", slack.Delivery{Edit: func(m map[string]any) { m["team_id"] = "T0OTHER" }})
			w.wasSaid("U0CAROL", "another workspace")
			want := []string{
				`refused freeze everything of "bob" as U0BOB`,
				`freeze server db, tool query, by carol as U0CAROL: incident 42, agents are phished`,
				`unfreeze fz_1, by carol`,
				`refused freeze all x of "" as U0EVE`,
				`refused link of "" as U0EVE`,
				`linked T0TEST/U0EVE`,
			}
			if got := desk.asked(); !slices.Equal(got, want) {
				t.Errorf("asked of the service:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			for _, c := range w.slack.Cards(channel) {
				if strings.Contains(text(c), "Frozen") {
					t.Error("the channel was told")
				}
			}
		})
	}
}

// Between the command and the modal policy may take the right away; and a
// submission that nobody opened is checked as any other.
func TestFreezeIsCheckedAgain(t *testing.T) {
	w := newWorld(t)
	w.setPolicy(freezing(t))
	var desk counter
	w.start(desk.desk)
	w.command("U0CAROL", "freeze all x")
	v := w.modal("U0CAROL", "Freeze")
	submit := func(user string) {
		t.Helper()
		if err := w.slack.SubmitModal(t.Context(), v, user, map[string]string{"countersign_freeze": "mine"}); err != nil {
			t.Fatal(err)
		}
	}
	submit("U0ERIN") // forged by whom policy does not let
	w.await("a refusal", func() bool { return slices.Contains(desk.asked(), `refused freeze everything of "erin" as U0ERIN`) })
	w.setPolicy(policy(t, "6"))
	submit("U0CAROL")
	// Not what carol is told: erin's refusal went by the address of the modal,
	// which is carol's.
	w.await("carol's refusal", func() bool { return slices.Contains(desk.asked(), `refused freeze everything of "carol" as U0CAROL`) })
	if got := desk.asked(); len(got) != 2 {
		t.Errorf("%q", got)
	}
}

// A command is signed as a press is, delivered twice it is obeyed once, and what
// is not one of ours is refused.
func TestCommandsOnTheWire(t *testing.T) {
	w := newWorld(t)
	w.setPolicy(freezing(t))
	var desk counter
	_, stop := w.start(desk.desk)
	var status *slack.Status
	for name, how := range map[string]slack.Delivery{
		"unsigned": {Unsigned: true}, "another secret": {Secret: "guess"}, "old": {Age: time.Hour},
		"changed": {Tamper: func(b []byte) []byte { return []byte(strings.Replace(string(b), "U0BOB", "U0CAROL", 1)) }},
	} {
		if err := w.slack.Command(t.Context(), channel, "U0BOB", "/countersign", "unfreeze fz_1", how); !errors.As(err, &status) || status.Code != 401 {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := w.slack.Command(t.Context(), channel, "U0BOB", "/other", "x"); !errors.As(err, &status) || status.Code != 400 {
		t.Errorf("another's command: %v", err)
	}
	w.command("U0CAROL", "unfreeze fz_1", slack.Delivery{Times: 3})
	w.wasSaid("U0CAROL", "Unfrozen")
	desk.mu.Lock()
	desk.err = errors.New("the record cannot be written")
	desk.mu.Unlock()
	w.command("U0CAROL", "unfreeze fz_2")
	w.wasSaid("U0CAROL", "Not unfrozen: the record cannot be written")
	w.command("U0CAROL", "FREEZE all x", slack.Delivery{Edit: func(m map[string]any) { m["team_id"] = "T0OTHER" }})
	w.wasSaid("U0CAROL", "another workspace")
	stop()
	want := []string{"unfreeze fz_1, by carol", "unfreeze fz_2, by carol", `refused unfreeze fz_2 of "carol" as U0CAROL`, `refused freeze all x of "" as U0CAROL`}
	if got := desk.asked(); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// A bot that cannot freeze says so, and what was asked of it is recorded.
func TestFreezeWhereThereIsNoEnforcer(t *testing.T) {
	w := newWorld(t)
	w.setPolicy(freezing(t))
	var desk counter
	_, stop := w.start(desk.desk, func(c *bot.Config) { c.Desk.Freeze, c.Desk.Unfreeze = nil, nil })
	w.command("U0CAROL", "freeze all x")
	w.wasSaid("U0CAROL", "use the command line")
	stop()
	if got := desk.asked(); !slices.Equal(got, []string{`refused freeze everything of "carol" as U0CAROL`}) {
		t.Errorf("%q", got)
	}
}

// A thousand that wait are listed page by page, within what Slack takes.
func TestPendingPages(t *testing.T) {
	w := newWorld(t)
	w.setPolicy(freezing(t))
	for i := range 45 {
		w.ask(w.request(fmt.Sprintf("sql: %d %s", i, strings.Repeat("x", 2000))))
	}
	w.start()
	w.command("U0BOB", "pending 3")
	w.wasSaid("U0BOB", "45 requests waiting for you; page 3 of 3")
	if e := w.slack.Ephemerals("U0BOB"); len(e[0].Blocks) != 1+5 || len(e[0].Card().Buttons()) == 0 {
		t.Errorf("%d blocks, %d buttons", len(e[0].Blocks), len(e[0].Card().Buttons()))
	}
	w.command("U0BOB", "pending 4")
	w.wasSaid("U0BOB", "45 requests waiting for you.")
}

// What others wrote is no formatted text and no link in what one person is told;
// the address of our own page is one.
func TestWhatIsToldAloneIsPlain(t *testing.T) {
	w := newWorld(t)
	w.start(func(c *bot.Config) { c.PublicURL = "https://gate.example/" })
	r := w.request("sql: 1")
	a := w.ask(r)
	c := w.card(a.ID, "needs 1")
	why := "*urgent*: sign in at https://gate.example.evil/approvals or <https://evil.example|here>, not https://gate.example/approvals/ap_1?x=y"
	if err := w.book.WithdrawBy(t.Context(), a.ID, a.Subject, why); err != nil {
		t.Fatal(err)
	}
	w.press(c, approve, "U0BOB")
	w.told("U0BOB", "decided already")
	e := w.slack.Ephemerals("U0BOB")[0]
	if len(e.Blocks) == 0 {
		t.Fatalf("formatted text: %q", e.Text)
	}
	var all strings.Builder
	for _, raw := range e.Blocks {
		all.Write(raw)
	}
	for _, bad := range []string{`"mrkdwn"`, `"url":"https://evil`, `"url":"https://gate.example.evil`, `?x=y","url"`} {
		if got := all.String(); strings.Contains(got, bad) {
			t.Errorf("%s in %s", bad, got)
		}
	}
	if got := all.String(); !strings.Contains(got, "*urgent*: sign in at https://gate.example.evil/approvals") || !strings.Contains(got, `"url":"https://gate.example/approvals/ap_1"`) {
		t.Errorf("%s", got)
	}
}
