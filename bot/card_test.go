package bot

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	slackapi "github.com/slack-go/slack"

	"countersign/enforcer/approval"
	"countersign/enforcer/approval/tell"
	"countersign/fixtures/slack"
	"countersign/rules"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func cardPolicy(t testing.TB) *rules.Policy {
	t.Helper()
	p, err := rules.Load(fstest.MapFS{
		"countersign.yaml": {Data: []byte("version: 1\napprovals: { policy_link: 'https://git.example/acme/policy/blob/{commit}/{file}#L{line}', audit_link: 'https://audit.example/calls/{call}' }\n")},
		"servers/db.yaml":  {Data: []byte("server: db\nurl: http://127.0.0.1:1/mcp\n")},
		"rules/all.yaml":   {Data: []byte("- { id: reads, server: db, effect: allow, when: 'has(args.sql) && !sql(args.sql).writing' }\n")},
		"approvers.yaml": {Data: []byte(`
people:
  alice: { issuer: https://id.example, sub: alice, slack: { team: T0TEST, user: U0ALICE } }
  bob:   { issuer: https://id.example, sub: bob, slack: { team: T0TEST, user: U0BOB } }
  carol: { issuer: https://id.example, sub: carol, slack: { team: T0TEST, user: U0CAROL } }
sets:
  dba:    { members: [bob, carol, alice], channel: C0DBA }
  oncall: { members: [carol], approve_via: oidc }
`)},
	}, strings.Repeat("3", 40))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// plea is an ordinary approval that waits.
func plea() approval.Approval {
	return approval.Approval{ID: "ap_7Q2", State: approval.Pending, Created: noon, Request: approval.Request{
		Subject: rules.Subject{Issuer: "https://id.example", Sub: "alice"}, Client: "desk-assistant", Server: "db", Method: "tools/call", Tool: "query",
		Args: "sql: UPDATE customers SET plan = 'pro'", Does: []string{"writes table customers: UPDATE, no WHERE clause: every row · sets plan"},
		Asks:   []rules.Ask{{Rule: "writes", Reason: "Writes need a DBA", File: "rules/all.yaml", Line: 7, Approvers: "dba", Quorum: 1}},
		Digest: "sha256:d", RulesDigest: "sha256:r", Policy: strings.Repeat("3", 40), Expires: noon.Add(15 * time.Minute), Call: "c_1",
	}}
}

func rendered(f face) string {
	return slack.Render(slack.Card{Blocks: raws(f.blocks), ChannelName: "dba"}, 200)
}

func raws(blocks []slackapi.Block) []json.RawMessage {
	var out []json.RawMessage
	for _, b := range blocks {
		raw, err := json.Marshal(b)
		if err != nil {
			panic(err)
		}
		out = append(out, raw)
	}
	return out
}

func buttonsOf(f face) (labels []string) {
	for _, b := range (slack.Card{Blocks: raws(f.blocks)}).Buttons() {
		labels = append(labels, b.Text)
	}
	return labels
}

func TestCardOfARequest(t *testing.T) {
	p := cardPolicy(t)
	set, _ := p.ApproverSet("dba")
	f := draw(plea(), set, p, "https://gate.example")
	shown := rendered(f)
	for _, want := range []string{"desk-assistant asks for alice: query on db", "writes table customers: UPDATE, no WHERE clause: every row",
		"sql: UPDATE customers SET plan = 'pro'", "Writes need a DBA · rule writes, rules/all.yaml:7 · policy 3333333", "• needs 1 of dba", "• until 1 Mar 12:15 UTC"} {
		if !strings.Contains(shown, want) {
			t.Errorf("it does not say %q:\n%s", want, shown)
		}
	}
	all := fmt.Sprintf("%s", raws(f.blocks))
	for _, want := range []string{`"url":"https://git.example/acme/policy/blob/` + strings.Repeat("3", 40) + `/rules/all.yaml#L7"`, `"url":"https://gate.example/approvals/ap_7Q2"`,
		`{"type":"date","timestamp":1772367300,"format":"{date_short}, {time}","fallback":"1 Mar 12:15 UTC"}`} {
		if !strings.Contains(all, want) {
			t.Errorf("it does not hold %s:\n%s", want, all)
		}
	}
	if got := buttonsOf(f); !slices.Equal(got, []string{"Approve", "Deny", "Details", "Approval page"}) {
		t.Errorf("%q", got)
	}
	want := "desk-assistant asks for alice: query on db. What it does: writes table customers: UPDATE, no WHERE clause: every row · sets plan. Why a person is asked: Writes need a DBA. Needs 1 of dba; until 1 Mar 12:15 UTC."
	if f.text != want {
		t.Errorf("the text says\n%s\nwant\n%s", f.text, want)
	}
}

func TestCardsFoot(t *testing.T) {
	p := cardPolicy(t)
	page := "https://gate.example"
	for name, test := range map[string]struct {
		change  func(a *approval.Approval, set *rules.ApproverSet)
		public  string
		buttons []string
		says    string
	}{
		"without a page": {func(*approval.Approval, *rules.ApproverSet) {}, "", []string{"Approve", "Deny", "Details"}, "needs 1 of dba"},
		"a window": {func(a *approval.Approval, _ *rules.ApproverSet) {
			a.Grant = rules.Grant{For: time.Hour, Scope: rules.ScopeTool}
		}, page,
			[]string{"Approve once", "Approve for 1 hour", "Deny", "Details", "Approval page"},
			"an approval is good for 1 hour, for every call of query on db that the same rules ask about, with any arguments; or for one call, if it is given once"},
		"masked in part": {func(a *approval.Approval, _ *rules.ApproverSet) { a.Partial = true }, page, []string{"Deny", "Details", "Approval page"},
			"Part of the request is masked or left out. What cannot be seen in full cannot be approved here: open the approval page, where it is whole."},
		"too long, and no page": {func(a *approval.Approval, _ *rules.ApproverSet) { a.Args = strings.Repeat("x", 3000) }, "", []string{"Deny", "Details"},
			"The request is longer than a card can show. What cannot be seen in full cannot be approved here. Deny it, or have it asked again in a form that fits."},
		"nowhere whole": {func(a *approval.Approval, _ *rules.ApproverSet) { a.Partial, a.Cut = true, true }, page, []string{"Deny", "Details", "Approval page"},
			"Nobody can approve what nobody can see in full. Deny it, or have it asked again in a form that fits."},
		"what it does is too long": {func(a *approval.Approval, _ *rules.ApproverSet) {
			a.Does = slices.Repeat([]string{strings.Repeat("x", 100)}, 30)
		}, page,
			[]string{"Deny", "Details", "Approval page"}, "What it does is longer than a card can show."},
		"by signing in": {func(a *approval.Approval, set *rules.ApproverSet) { set.Via = approval.ViaOIDC }, page, []string{"Deny", "Details", "Approval page"},
			"It is approved by signing in on the approval page, not by a button."},
		"by signing in, as the rule wants": {func(a *approval.Approval, _ *rules.ApproverSet) { a.Asks[0].Via = approval.ViaOIDC }, "", []string{"Deny", "Details"},
			"It is approved by signing in, not by a button."},
		"another set signs in": {func(a *approval.Approval, _ *rules.ApproverSet) {
			a.Asks = append(a.Asks, rules.Ask{Rule: "more", Approvers: "oncall", Quorum: 1, Via: approval.ViaOIDC})
		}, "", []string{"Approve", "Deny", "Details"}, "needs 1 of oncall"},
		"policy changed": {func(a *approval.Approval, _ *rules.ApproverSet) {
			a.Renewals = []approval.Renewal{{At: noon, Policy: strings.Repeat("4", 40), Dropped: []string{"dba"}}}
		}, "", []string{"Approve", "Deny", "Details"}, "policy changed at 1 Mar 12:00 UTC: asked again under policy 4444444; the votes of dba do not, since what they approved has changed"},
		"the caller left": {func(a *approval.Approval, _ *rules.ApproverSet) { a.Gone = noon }, "", []string{"Approve", "Deny", "Details"},
			"the caller left at 1 Mar 12:00 UTC: nothing has run, and nothing will unless it asks again"},
		"approved": {func(a *approval.Approval, _ *rules.ApproverSet) {
			a.State, a.Votes = approval.Approved, []approval.Vote{{Person: "bob", Approve: true, At: noon}}
		}, page, nil, "approval ap_7Q2 · call c_1 · its entry in the record · revoke it on the approval page"},
		"ran": {func(a *approval.Approval, _ *rules.ApproverSet) {
			a.State, a.Votes, a.Outcome, a.SpentBy, a.Ended = approval.Spent, []approval.Vote{{Person: "bob", Approve: true, At: noon}}, "ok", "c_9", noon
		}, page, nil, "• ran: it succeeded"},
		"nobody knows whether it ran": {func(a *approval.Approval, _ *rules.ApproverSet) {
			a.State, a.Outcome, a.SpentBy, a.Ended = approval.Spent, "unknown", "c_9", noon
		}, page, nil, "approval ap_7Q2 · call c_9 · its entry in the record · the approval page"},
		"denied": {func(a *approval.Approval, _ *rules.ApproverSet) {
			a.State, a.Ended, a.Votes = approval.Denied, noon, []approval.Vote{{Person: "bob", Reason: "ask billing", At: noon}}
		}, "", nil, "denied by bob at 1 Mar 12:00 UTC: “ask billing”"},
	} {
		t.Run(name, func(t *testing.T) {
			a := plea()
			set, _ := p.ApproverSet("dba")
			test.change(&a, &set)
			f := draw(a, set, p, test.public)
			if got := buttonsOf(f); !slices.Equal(got, test.buttons) {
				t.Errorf("buttons %q, want %q", got, test.buttons)
			}
			if shown := rendered(f); !strings.Contains(strings.Join(strings.Fields(shown), " "), test.says) {
				t.Errorf("it does not say %q:\n%s", test.says, shown)
			}
			if why := slack.Refusals(raws(f.blocks), false); len(why) > 0 {
				t.Errorf("Slack refuses it: %q", why)
			}
		})
	}
}

// hostile makes texts that somebody might send to be misread, to be cut in a bad
// place, or to break the message.
type hostile struct {
	*rand.Rand
	brief bool // what it makes may fit
}

func (h hostile) text(limit int) string {
	units := []string{"a", " ", "<!channel>", "<@U0BOB>", "<https://evil.example|click>", "```", "`", "*x*", "_", "&amp;", "&", "<", ">", "\u202e", "\u200b", "\u2066", "\x00", "\x1b[2J",
		`\u{202E}`, `\u{`, "\\", "\n", "\r", "\t", "\u2028", "\xff", "\xf0\x9f", "😀", "日本", "é", "e\u0301", "{date}", "{\"type\":\"header\"}", ":smile:", "@here", "#general", "\U000E0041", "words and words"}
	if h.brief {
		limit = min(limit, 12)
	}
	n := h.IntN(limit + 1)
	if h.IntN(4) > 0 {
		n = h.IntN(min(limit, 60) + 1)
	}
	var b strings.Builder
	one := units[h.IntN(len(units))] // often all the same: the worst for counting
	same := h.IntN(3) == 0
	for b.Len() < n {
		if same {
			b.WriteString(one)
		} else {
			b.WriteString(units[h.IntN(len(units))])
		}
	}
	return b.String()
}

func (h hostile) some(n int) int {
	if h.brief {
		return 2
	}
	return n
}

func (h hostile) time() time.Time { return noon.Add(time.Duration(h.IntN(1e6)) * time.Second) }

func (h hostile) approval() approval.Approval {
	a := plea()
	a.Subject = rules.Subject{Issuer: h.text(300), Sub: h.text(300)}
	a.Client, a.Server, a.Tool, a.Resource, a.Args = h.text(300), h.text(300), h.text(300), h.text(3000), h.text(20_000)
	a.Partial = !h.brief && h.IntN(4) == 0
	a.Does, a.Asks, a.Trace = nil, nil, nil
	for range h.IntN(4) * h.IntN(h.some(20)) {
		a.Does = append(a.Does, h.text(1200))
	}
	sets := []string{"dba", "oncall", h.text(80), h.text(80)}
	for range 1 + h.IntN(3)*h.IntN(h.some(50)) {
		a.Asks = append(a.Asks, rules.Ask{Rule: h.text(120), Reason: h.text(2000), File: h.text(300), Line: h.IntN(1e9), Approvers: sets[h.IntN(len(sets))], Quorum: 1 + h.IntN(3),
			Via: []string{"", approval.ViaSlack, approval.ViaOIDC}[h.IntN(h.some(30))%3], BreakGlass: []string{"", "oncall", h.text(80)}[h.IntN(3)]})
	}
	for range h.IntN(2) * h.IntN(h.some(100)) {
		a.Trace = append(a.Trace, rules.Match{Rule: h.text(120), File: h.text(300), Line: h.IntN(1e6), Effect: rules.Approve, Matched: h.IntN(2) == 0, Err: h.text(500), Reason: h.text(500)})
	}
	for range h.IntN(2) * h.IntN(50) {
		a.Votes = append(a.Votes, approval.Vote{Person: h.text(100), Issuer: h.text(200), Sub: h.text(200), Email: h.text(200), Sets: sets[:h.IntN(4)], Approve: h.IntN(4) > 0, Reason: h.text(2000),
			Once: h.IntN(2) == 0, BreakGlass: h.IntN(5) == 0, Via: approval.ViaSlack, At: h.time(), Slack: &approval.SlackProof{Team: h.text(30), User: h.text(30)}})
	}
	for range h.IntN(2) * h.IntN(30) {
		a.Renewals = append(a.Renewals, approval.Renewal{At: h.time(), Policy: h.text(60), Kept: slices.Repeat(sets, h.IntN(8)), Dropped: slices.Repeat(sets, h.IntN(8))})
	}
	a.State = []approval.State{approval.Pending, approval.Pending, approval.Pending, approval.Pending, approval.Pending, approval.Pending, approval.Approved, approval.Denied, approval.Expired, approval.Withdrawn, approval.Spent, approval.Revoked}[h.IntN(12)]
	a.Reason, a.Outcome, a.Policy, a.Expires, a.Ended = h.text(2000), h.text(300), h.text(100), h.time(), h.time()
	if wide := (hostile{h.Rand, false}); h.brief { // all would fit, but for one thing
		switch h.IntN(8) {
		case 0:
			a.Args = wide.text(4000)
		case 1:
			a.Client = wide.text(100)
		case 2:
			a.Server = wide.text(100)
		case 3:
			a.Subject.Sub = wide.text(100)
		case 4:
			for range h.IntN(100) {
				a.Does = append(a.Does, "x"+h.text(12))
			}
		case 5:
			for range h.IntN(20) {
				a.Asks = append(a.Asks, a.Asks[0])
			}
		case 6:
			a.Partial = true
		}
	}
	if h.IntN(2) == 0 {
		a.Grant = rules.Grant{For: time.Duration(1+h.IntN(1e6)) * time.Second, Scope: []string{rules.ScopeExact, rules.ScopeTool, rules.ScopeServer}[h.IntN(3)]}
	}
	if h.IntN(2) == 0 {
		a.Until, a.Uses, a.LastUse = h.time(), h.IntN(100), h.time()
	}
	if h.IntN(3) == 0 {
		a.Gone = h.time()
		a.Review = &approval.Review{Person: h.text(100), Note: h.text(2000), At: h.time()}
	}
	return a
}

// Whatever is asked, by whomever: Slack takes the card and its dialog, nothing
// in it can be misread, and there is an Approve button exactly if all of the
// request was shown.
func TestHostileCards(t *testing.T) {
	p := cardPolicy(t)
	seed := uint64(time.Now().UnixNano())
	approvable := 0
	for n := range 120 {
		h := hostile{rand.New(rand.NewPCG(seed, uint64(n))), n%2 == 0}
		a := h.approval()
		set, _ := p.ApproverSet([]string{"dba", "dba", "oncall"}[h.IntN(3)])
		public := []string{"", "https://gate.example"}[h.IntN(2)]
		policy := []*rules.Policy{p, p, nil}[h.IntN(3)]
		f := draw(a, set, policy, public)
		bad := func(format string, args ...any) {
			t.Helper()
			t.Fatalf("seed %d, %d: %s\n%s", seed, n, fmt.Sprintf(format, args...), rendered(f))
		}
		card, modal := raws(f.blocks), raws(details(a, policy, public))
		if why := slack.Refusals(card, false); len(why) > 0 {
			bad("Slack refuses the card: %q", why)
		}
		if why := slack.Refusals(modal, true); len(why) > 0 {
			bad("Slack refuses the dialog: %q", why)
		}
		if n := len([]rune(f.text)); n > 10_000 {
			bad("the text for screen readers has %d characters", n)
		}
		for _, s := range append(strung(slices.Concat(card, modal)), f.text) {
			if open := strings.ReplaceAll(s, `\u{`, `\u[`); seen(open) != open { // but for our own escapes
				bad("what nobody sees is in %q", s)
			}
			if s == "mrkdwn" {
				bad("Slack would look for mentions and links")
			}
		}
		all := a.State == approval.Pending && !a.Partial && len(a.Asks) <= maxAsks && !signsIn(a, set) && showsAll(a, card)
		has := slices.ContainsFunc(buttonsOf(f), func(s string) bool { return strings.HasPrefix(s, "Approve") && s != "Approval page" })
		if has != all || has != f.approvable {
			bad("all of it was shown: %v; an Approve button: %v (%v); obstacles %q", all, has, f.approvable, unseen(a, policy))
		}
		if a.State != approval.Pending && len(buttonsOf(f)) > 0 {
			bad("decided, and it has buttons")
		}
		if has {
			approvable++
		}
	}
	if approvable < 3 {
		t.Errorf("%d of 120 could be approved: the test looks at little", approvable)
	}
}

// showsAll tells whether names, request and what it does stand on the card
// whole. The person is nobody whom the policy knows.
func showsAll(a approval.Approval, card []json.RawMessage) bool {
	client := orElse(a.Client, "An unnamed client")
	see := func(s string) string { out, _ := tell.Visible(s, false, 1<<30); return out }
	headline := fmt.Sprintf("%s asks for %s: %s on %s", see(client), see(a.Subject.Sub), see(orElse(a.Tool, orElse(a.Resource, a.Method))), see(a.Server))
	var does []string
	request, whole := "", slices.Contains(strung(card[:1]), headline)
	for _, raw := range card {
		var b struct {
			Elements []struct {
				Type     string
				Elements []struct {
					Text     string
					Elements []struct{ Text string }
				}
			}
		}
		if json.Unmarshal(raw, &b) != nil || len(b.Elements) != 2 || len(b.Elements[0].Elements) != 1 {
			continue
		}
		switch b.Elements[0].Elements[0].Text {
		case "What it does":
			for _, item := range b.Elements[1].Elements {
				does = append(does, item.Elements[0].Text)
			}
		case "The request in full":
			request = b.Elements[1].Elements[0].Text
		}
	}
	if a.Args == "" {
		a.Args = "(no arguments)"
	}
	return whole && request == seen(a.Args) && slices.Equal(does, tell.Does(a))
}

// seen is the text with everything in it visible, line breaks and tabs aside.
func seen(s string) string {
	out, _ := tell.Visible(s, true, 1<<30)
	return out
}

// strung lists every text in blocks.
func strung(blocks []json.RawMessage) []string {
	var out []string
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case string:
			out = append(out, v)
		case []any:
			for _, item := range v {
				walk(item)
			}
		case map[string]any:
			for _, item := range v {
				walk(item)
			}
		}
	}
	for _, raw := range blocks {
		var v any
		if json.Unmarshal(raw, &v) == nil {
			walk(v)
		}
	}
	return out
}
