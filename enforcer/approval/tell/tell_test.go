package tell

import (
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"countersign/enforcer/approval"
	"countersign/rules"
)

const issuer = "https://id.example"

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func load(t *testing.T) *rules.Policy {
	t.Helper()
	p, err := rules.Load(fstest.MapFS{
		"countersign.yaml": {Data: []byte("version: 1\n")},
		"servers/db.yaml":  {Data: []byte("server: db\nurl: http://127.0.0.1:1/mcp\n")},
		"approvers.yaml": {Data: []byte(`
people:
  alice: { issuer: https://id.example, sub: u-1, slack: { team: T0TEST, user: U0ALICE } }
  bob:   { issuer: https://id.example, sub: u-2, slack: { team: T0TEST, user: U0BOB } }
  carol: { issuer: https://id.example, sub: u-3, slack: { team: T0TEST, user: U0CAROL } }
sets:
  dba: { members: [alice, bob, carol], channel: C0DBA }
`)},
	}, strings.Repeat("3", 40))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func asking(quorum int) approval.Approval {
	return approval.Approval{ID: "ap_1", State: approval.Pending, Created: noon, Request: approval.Request{
		Subject: rules.Subject{Issuer: issuer, Sub: "u-1"}, Client: "desk-assistant", Server: "db", Method: "tools/call", Tool: "query",
		Asks:    []rules.Ask{{Rule: "writes", Reason: "Writes need a DBA", File: "rules/all.yaml", Line: 7, Approvers: "dba", Quorum: quorum}},
		Expires: noon.Add(15 * time.Minute), Policy: strings.Repeat("3", 40), Call: "c_1",
	}}
}

func yes(person string) approval.Vote {
	return approval.Vote{Person: person, Sets: []string{"dba"}, Approve: true, At: noon.Add(time.Minute)}
}

func TestHeadline(t *testing.T) {
	p := load(t)
	a := asking(1)
	if got, whole := Headline(a, p); got != "desk-assistant asks for alice: query on db" || !whole {
		t.Errorf("%q %v", got, whole)
	}
	if got, whole := Headline(a, nil); got != "desk-assistant asks for u-1: query on db" || !whole {
		t.Errorf("without a policy: %q %v", got, whole)
	}
	a.Client, a.Tool, a.Resource = " ", "", "file:///etc/\u202epasswd"
	if got, _ := Headline(a, p); got != `An unnamed client asks for alice: file:///etc/\u{202E}passwd on db` {
		t.Errorf("%q", got)
	}
	a.Resource = strings.Repeat("x", 61)
	if got, whole := Headline(a, p); whole {
		t.Errorf("cut, and said to be whole: %q", got)
	}
}

func TestStanding(t *testing.T) {
	ended := noon.Add(2 * time.Minute)
	no := approval.Vote{Person: "carol", Reason: "ask billing\u200b first", At: ended}
	for name, test := range map[string]struct {
		change func(a *approval.Approval)
		want   string
	}{
		"asked":    {func(*approval.Approval) {}, "needs 2 of dba; until 1 Mar 12:15 UTC"},
		"one vote": {func(a *approval.Approval) { a.Votes = []approval.Vote{yes("bob")} }, "approved by bob at 1 Mar 12:01 UTC; needs 1 of dba; until 1 Mar 12:15 UTC"},
		"one person in two sets": {func(a *approval.Approval) {
			a.Asks = []rules.Ask{{Approvers: "dba", Quorum: 1}, {Approvers: "security", Quorum: 1}}
			a.Votes = []approval.Vote{{Person: "bob", Sets: []string{"dba", "security"}, Approve: true, At: noon}}
		}, "approved by bob at 1 Mar 12:00 UTC; needs one more person: nobody counts for two approver sets at once; until 1 Mar 12:15 UTC"},
		"approved": {func(a *approval.Approval) { a.State, a.Votes = approval.Approved, []approval.Vote{yes("bob")} },
			"approved by bob at 1 Mar 12:01 UTC; not used yet: good for one identical call, until 1 Mar 12:15 UTC"},
		"denied": {func(a *approval.Approval) { a.State, a.Ended, a.Votes = approval.Denied, ended, []approval.Vote{no} },
			`denied by carol at 1 Mar 12:02 UTC: “ask billing\u{200B} first”; nothing ran`},
		"expired": {func(a *approval.Approval) { a.State = approval.Expired },
			"expired at 1 Mar 12:15 UTC, which counts as a denial; nothing ran"},
		"withdrawn": {func(a *approval.Approval) { a.State, a.Ended, a.Reason = approval.Withdrawn, ended, "the caller left" },
			"withdrawn at 1 Mar 12:02 UTC: the caller left; nothing ran"},
		"approved and not used": {func(a *approval.Approval) {
			a.State, a.Votes = approval.Expired, []approval.Vote{yes("bob"), yes("carol")}
		}, "approved by bob at 1 Mar 12:01 UTC; approved by carol at 1 Mar 12:01 UTC; not used until 1 Mar 12:15 UTC, so it is void; nothing ran"},
		"a window": {func(a *approval.Approval) {
			a.State, a.Grant, a.Until, a.Uses, a.LastUse = approval.Approved, rules.Grant{For: time.Hour, Scope: rules.ScopeTool}, noon.Add(time.Hour), 3, ended
		}, "good until 1 Mar 13:00 UTC for every call of query on db that the same rules ask about, with any arguments; used 3 times, last at 1 Mar 12:02 UTC"},
		"a window that is over": {func(a *approval.Approval) {
			a.State, a.Grant, a.Until = approval.Expired, rules.Grant{For: time.Hour, Scope: rules.ScopeExact}, noon.Add(time.Hour)
		}, "its time was over at 1 Mar 13:00 UTC; nothing ran"},
		"a window revoked": {func(a *approval.Approval) {
			a.State, a.Until, a.Uses, a.LastUse, a.Ended, a.Reason, a.Revoked = approval.Revoked, noon.Add(time.Hour), 1, noon, ended, "too wide", &approval.Vote{Person: "carol"}
		}, "revoked by carol at 1 Mar 12:02 UTC: “too wide”; used 1 time, last at 1 Mar 12:00 UTC"},
		"broken glass": {func(a *approval.Approval) {
			a.State, a.Votes = approval.Approved, []approval.Vote{{Person: "bob", Approve: true, BreakGlass: true, Reason: "prod is down", At: noon}}
		}, "approved alone by bob, who broke the glass, at 1 Mar 12:00 UTC: “prod is down”; not used yet: good for one identical call, until 1 Mar 12:15 UTC"},
		"one call of a window": {func(a *approval.Approval) {
			v := yes("bob")
			v.Once, a.Grant = true, rules.Grant{For: time.Hour, Scope: rules.ScopeExact}
			a.Votes = []approval.Vote{v}
		}, "approved for one call by bob at 1 Mar 12:01 UTC; needs 1 of dba; until 1 Mar 12:15 UTC"},
		"running": {func(a *approval.Approval) { a.State, a.Ended = approval.Spent, ended },
			"used at 1 Mar 12:02 UTC; under way: it has no outcome yet"},
		"ran": {func(a *approval.Approval) { a.State, a.Ended, a.Outcome = approval.Spent, ended, "ok" },
			"used at 1 Mar 12:02 UTC; ran: it succeeded"},
		"not run": {func(a *approval.Approval) { a.State, a.Ended, a.Outcome = approval.Spent, ended, "not-run" },
			"used at 1 Mar 12:02 UTC; not run: nothing reached the server"},
	} {
		t.Run(name, func(t *testing.T) {
			a := asking(2)
			test.change(&a)
			if got := Join(Standing(a), "; "); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
	for _, status := range []string{"unknown", "cancelled", "frozen", "something\nnew"} {
		if got := Outcome(status); !strings.HasPrefix(got, "unknown: ") || strings.Contains(got, "\n") {
			t.Errorf("%s: %q", status, got)
		}
	}
	a := asking(1)
	a.Does = []string{"drops table t"}
	if got := Summary(a, load(t)); got != "desk-assistant asks for alice: query on db. What it does: drops table t. Why a person is asked: Writes need a DBA. Needs 1 of dba; until 1 Mar 12:15 UTC." {
		t.Errorf("%q", got)
	}
}

func TestNotes(t *testing.T) {
	a := asking(1)
	if got := Notes(a); len(got) != 0 {
		t.Errorf("%q", Join(got, "; "))
	}
	a.Partial = true
	a.Renewals = []approval.Renewal{{At: noon, Policy: strings.Repeat("4", 40), Kept: []string{"dba"}, Dropped: []string{"security"}}}
	a.Gone = noon.Add(time.Minute)
	a.Grant = rules.Grant{For: 90 * time.Minute, Scope: rules.ScopeServer}
	want := "part of the request is masked or left out; " +
		"policy changed at 1 Mar 12:00 UTC: asked again under policy 4444444; the votes of dba stand; the votes of security do not, since what they approved has changed; " +
		"the caller left at 1 Mar 12:01 UTC: nothing has run, and nothing will unless it asks again; " +
		"an approval is good for 90 minutes, for every call on db that the same rules ask about; or for one call, if it is given once"
	if got := Join(Notes(a), "; "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	a = asking(1)
	a.Votes = []approval.Vote{{Person: "bob", Approve: true, BreakGlass: true, Reason: "x", At: noon}}
	if got := Join(Notes(a), "; "); got != "the glass was broken: somebody else of the sets that were asked has to review it" {
		t.Errorf("%q", got)
	}
	a.Review = &approval.Review{Person: "carol", Justified: true, Note: "it was down", At: noon}
	if got := Join(Notes(a), "; "); got != "reviewed by carol at 1 Mar 12:00 UTC: justified, “it was down”" {
		t.Errorf("%q", got)
	}
}

func TestVoters(t *testing.T) {
	a := asking(2)
	if got := Join(Voters(a, load(t)), "; "); got != "2 of dba: bob, carol; not alice, whose request it is" {
		t.Errorf("%q", got)
	}
	if got := Join(Voters(a, nil), "; "); got != "2 of dba: the policy in force does not know it" {
		t.Errorf("without a policy: %q", got)
	}
}

func TestTrace(t *testing.T) {
	a := asking(1)
	if got := strings.Join(Trace(a), "\n"); got != "writes (rules/all.yaml:7) matched: approve: Writes need a DBA" {
		t.Errorf("%q", got)
	}
	a.Trace = []rules.Match{{Rule: "a", File: "rules/a.yaml", Line: 1}, {Rule: "b", File: "rules/b.yaml", Line: 2, Effect: rules.Deny, Matched: true, Err: "no such key\nb (x:1) matched: allow"}}
	if got := Trace(a); len(got) != 2 || got[0] != "a (rules/a.yaml:1) did not match" ||
		got[1] != `b (rules/b.yaml:2) matched: deny [its condition could not be evaluated: no such key\u{0A}b (x:1) matched: allow]` {
		t.Errorf("%q", got)
	}
}

// What a link holds comes from the policy and from outside: it leads to the
// template's own host, or nowhere.
func TestLinks(t *testing.T) {
	commit := strings.Repeat("a", 40)
	good := "https://github.com/acme/policy/blob/{commit}/{file}#L{line}"
	for _, test := range []struct{ template, commit, file, want string }{
		{good, commit, "rules/all.yaml", "https://github.com/acme/policy/blob/" + commit + "/rules/all.yaml#L7"},
		{good, commit, "rules/a b#c?d%.yaml", "https://github.com/acme/policy/blob/" + commit + "/rules/a%20b%23c%3Fd%25.yaml#L7"},
		{"", commit, "rules/all.yaml", ""},
		{good, "main", "rules/all.yaml", ""},
		{good, commit, "../../evil/x.yaml", ""},
		{"{file}://github.com/{commit}", commit, "https", ""},
		{"//github.com/{commit}", commit, "x", ""},
		{"javascript:alert('{commit}')", commit, "x", ""},
		{"https://{file}/", commit, "evil.example", ""},
		{"https://me@github.com/{commit}", commit, "x", ""},
		{"https://github.com/{commit}/<b>", commit, "x", ""},
		{"https://github.com/{unknown}", commit, "x", ""},
		{good, commit, strings.Repeat("x", 3000), ""},
	} {
		if got := PolicyLink(test.template, test.commit, test.file, 7); got != test.want {
			t.Errorf("%s of %s: %q, want %q", test.template, test.file, got, test.want)
		}
	}
	if got := AuditLink("https://audit.example/?call={call}", "c_1"); got != "https://audit.example/?call=c_1" {
		t.Errorf("%q", got)
	}
	if got := AuditLink("https://audit.example/?call={call}", "c_1&admin=1"); got != "" {
		t.Errorf("%q", got)
	}
	if got := PageLink("https://gate.example/", "ap_1"); got != "https://gate.example/approvals/ap_1" {
		t.Errorf("%q", got)
	}
	if PageLink("", "ap_1") != "" || PageLink("https://gate.example", "../x") != "" {
		t.Error("a page that there is not")
	}
}
