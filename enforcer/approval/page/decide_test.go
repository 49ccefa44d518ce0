package page_test

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"countersign/enforcer/approval"
	"countersign/fixtures/issuer"
	"countersign/rules"
)

func TestWhoSignsInDecides(t *testing.T) {
	w := newWorld(t)
	a := w.ask(nil)
	b := w.browser()
	b.open("/approvals/"+a.ID).says(t, http.StatusUnauthorized, "Sign in to decide", "/approvals/sign-in?to=%2Fapprovals%2F"+a.ID)
	seen := b.signIn("/approvals/"+a.ID, issuer.Claims{"name": "Bob B.", "acr": "phr", "amr": []string{"hwk"}})
	seen.says(t, http.StatusOK, "desk asks for alice: query on db", "DELETE FROM customers", "with no WHERE clause", "Writes need a DBA", "Approve this call",
		"https://git.example.com/policy/blob/"+strings.Repeat("a", 40)+"/rules/everyone.yaml#L1", "https://git.example.com/audit?q=c_1", "Bob B.")
	b.post("/approvals/"+a.ID, seen.form("do", "approve")).says(t, http.StatusOK, "Approved, not used yet", "bob")
	a = w.get(a.ID)
	if a.State != approval.Approved || len(a.Votes) != 1 {
		t.Fatalf("%+v", a)
	}
	v := a.Votes[0]
	if v.Person != "bob" || v.Via != approval.ViaOIDC || v.Shown != a.Shows() || v.Login == nil || v.Login.ACR != "phr" || v.Login.Door != "page" || v.Login.Source != "127.0.0.1" || v.Login.ID == "" || !v.Login.AuthTime.Equal(w.clock()) {
		t.Errorf("the vote does not prove who gave it: %+v %+v", v, v.Login)
	}
	if len(w.record) != 1 || w.record[0].Event != approval.EventSignedIn || w.record[0].Login.ID != v.Login.ID {
		t.Errorf("the sign-in is not recorded: %+v", w.record)
	}
	if len(w.refused) != 0 {
		t.Errorf("refused: %+v", w.refused)
	}
}

// Each way to decide what one may not, refused in words and reported, without
// effect.
func TestVotesThatDoNotCount(t *testing.T) {
	away := func(w *world) string {
		return strings.Replace(everyone(w.id.URL), "members: [bob, dana, alice]", "members: [dana, alice]", 1)
	}
	for name, test := range map[string]struct {
		who    issuer.Claims
		ask    func(*approval.Request)
		do     string
		reason string
		edit   func(url.Values)
		before func(w *world, a approval.Approval) // between the page and the vote
		want   error
		status int
		says   string
	}{
		"own request":        {who: issuer.Claims{"sub": "alice"}, do: "approve", want: approval.ErrOwnRequest, status: 403, says: "your own request"},
		"own denial":         {who: issuer.Claims{"sub": "alice"}, do: "deny", reason: "x", want: approval.ErrOwnRequest, status: 403, says: "your own request"},
		"owner":              {who: issuer.Claims{"sub": "dana"}, ask: func(r *approval.Request) { r.Client = "ci" }, do: "approve", want: approval.ErrOwner, status: 403, says: "You answer for the service"},
		"not asked":          {who: issuer.Claims{"sub": "erin"}, do: "approve", want: approval.ErrNotApprover, status: 403, says: "Policy does not ask you"},
		"weak sign-in":       {ask: func(r *approval.Request) { r.Asks[0].Approvers = "secure" }, do: "approve", want: approval.ErrACR, status: 403, says: "a stronger sign-in"},
		"denied, no reason":  {do: "deny", reason: " \n", want: approval.ErrReason, status: 400, says: "A reason is needed"},
		"a long reason":      {do: "deny", reason: strings.Repeat("ä", 501), want: approval.ErrReason, status: 400, says: "at most 500"},
		"glass, no reason":   {who: issuer.Claims{"sub": "erin"}, do: "break-glass", want: approval.ErrReason, status: 400, says: "A reason is needed"},
		"glass of others":    {do: "break-glass", reason: "x", want: approval.ErrGlass, status: 403, says: "break the glass"},
		"nothing":            {do: "", want: nil, status: 400, says: "did not say what to do"},
		"nonsense":           {do: "explode", want: nil, status: 400, says: "did not say what to do"},
		"cut":                {ask: func(r *approval.Request) { r.Args = strings.Repeat("x", 65<<10) }, do: "approve", want: approval.ErrPartial, status: 403, says: "could not be kept"},
		"shown another":      {do: "approve", edit: func(f url.Values) { f.Set("shown", "sha256:00") }, want: approval.ErrShown, status: 409, says: "has changed since you opened"},
		"shown nothing":      {do: "approve", edit: func(f url.Values) { f.Del("shown") }, want: approval.ErrShown, status: 409, says: "has changed since you opened"},
		"withdrawn by other": {do: "withdraw", want: approval.ErrNotYours, status: 403, says: "Only who asked"},
		"revoked too early":  {do: "revoke", reason: "x", want: approval.ErrNotApproved, status: 409, says: "not in force"},
		"reviewed too early": {do: "justified", reason: "x", want: approval.ErrNoReview, status: 409, says: "nothing to review"},
		"signed in long ago": {do: "approve", before: func(w *world, _ approval.Approval) { w.pass(approval.MaxAuthAge) }, status: 403, says: "more than five minutes ago"},
		"expired meanwhile": {do: "approve", want: approval.ErrExpired, status: 409, says: "expired", ask: func(r *approval.Request) { r.Expires = r.Expires.Add(-14 * time.Minute) },
			before: func(w *world, _ approval.Approval) { w.pass(time.Minute) }},
		"decided meanwhile": {do: "approve", want: approval.ErrDecided, status: 409, says: "decided already", before: func(w *world, a approval.Approval) {
			if err := w.book.Withdraw(w.t.Context(), a.ID, "left"); err != nil {
				w.t.Fatal(err)
			}
		}},
		"removed meanwhile": {do: "approve", status: 404, says: "nothing here for you", before: func(w *world, _ approval.Approval) { w.enact(w.load("b", away(w))) }},
		"policy gone":       {do: "approve", status: 503, before: func(w *world, _ approval.Approval) { w.enact(nil) }, says: "No policy is in force", want: approval.ErrStale},
		"rules changed":     {do: "approve", want: approval.ErrStale, status: 409, says: "have changed since", before: func(w *world, _ approval.Approval) { w.enact(w.load("b", everyone(w.id.URL))) }},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			a := w.ask(test.ask)
			b := w.browser()
			seen := b.signIn("/approvals/"+a.ID, test.who)
			form := seen.form("do", test.do, "reason", test.reason)
			if test.edit != nil {
				test.edit(form)
			}
			if test.before != nil {
				test.before(w, a)
			}
			state := w.get(a.ID).State
			b.post("/approvals/"+a.ID, form).says(t, test.status, test.says)
			if now := w.get(a.ID); len(now.Votes) != 0 || now.State != state && now.State != approval.Expired {
				t.Errorf("it is %s, with votes %+v", now.State, now.Votes)
			}
			last := w.lastRefused()
			if last.why == nil || test.want != nil && !errors.Is(last.why, test.want) || last.vote.Login == nil || last.vote.Sub == "" {
				t.Errorf("reported: %+v, %v; want %v", last.vote, last.why, test.want)
			}
		})
	}
}

func TestADenialTellsTheReason(t *testing.T) {
	w := newWorld(t)
	a := w.ask(nil)
	b := w.browser()
	// Carol is a DBA by her group.
	seen := b.signIn("/approvals/"+a.ID, issuer.Claims{"sub": "carol", "email": "carol@example.com", "groups": []string{"dba"}})
	b.post("/approvals/"+a.ID, seen.form("do", "deny", "reason", " Ask <b>billing</b>\u202e first ")).says(t, http.StatusOK, "Denied", `Ask <b>billing</b><span class="spelled">\u{202E}</span> first`)
	if a = w.get(a.ID); a.State != approval.Denied || a.Reason != "Ask <b>billing</b>\u202e first" || a.Votes[0].Email != "carol@example.com" {
		t.Errorf("%+v", a)
	}
	again := w.ask(nil)
	if again.ID == a.ID {
		t.Fatal("the same approval")
	}
	b.open("/approvals/"+again.ID).says(t, http.StatusOK, "carol@example.com denied", "the very same arguments", "<b>billing</b>")
}

func TestWindowsGlassAndWithdrawal(t *testing.T) {
	w := newWorld(t)
	window := func(r *approval.Request) { r.Grant = rules.Grant{For: time.Hour, Scope: rules.ScopeTool} }
	bob, erin, alice := w.browser(), w.browser(), w.browser()
	one := w.ask(window)
	seen := bob.signIn("/approvals/"+one.ID, nil)
	seen.says(t, http.StatusOK, "for 1 h, every call of query on db for which the same rules ask", "Approve this call only")
	bob.post("/approvals/"+one.ID, seen.form("do", "approve")).says(t, http.StatusOK, "A window in force until", "Revoke")
	bob.open("/approvals").says(t, http.StatusOK, "Windows in force")
	bob.post("/approvals/"+one.ID, seen.form("do", "revoke", "reason", "enough")).says(t, http.StatusOK, "Revoked")
	if a := w.get(one.ID); a.State != approval.Revoked || a.Revoked == nil || a.Revoked.Person != "bob" {
		t.Errorf("%+v", a)
	}

	two := w.ask(func(r *approval.Request) { window(r); r.Digest = "sha256:two" })
	seen = bob.open("/approvals/" + two.ID)
	seen.says(t, http.StatusOK, "Decided before", "bob approved")
	bob.post("/approvals/"+two.ID, seen.form("do", "once")).says(t, http.StatusOK, "Approved, not used yet", "for this call only")
	if a := w.get(two.ID); !a.Until.IsZero() || !a.Votes[0].Once {
		t.Errorf("%+v", a)
	}

	three := w.ask(func(r *approval.Request) { r.Digest = "sha256:three" })
	seen = erin.signIn("/approvals/"+three.ID, issuer.Claims{"sub": "erin"})
	seen.says(t, http.StatusOK, "Break the glass", "Policy does not ask you")
	erin.post("/approvals/"+three.ID, seen.form("do", "break-glass", "reason", "production is down")).says(t, http.StatusOK, "breaking the glass", "production is down")
	seen = bob.open("/approvals/" + three.ID)
	seen.says(t, http.StatusOK, "was it right to break the glass")
	bob.post("/approvals/"+three.ID, seen.form("do", "unjustified", "reason", "billing was up")).says(t, http.StatusOK, "not justified", "billing was up")
	if a := w.get(three.ID); a.Review == nil || a.Review.Justified || a.Review.Person != "bob" {
		t.Errorf("%+v", a.Review)
	}

	four := w.ask(func(r *approval.Request) { r.Digest = "sha256:four" })
	seen = alice.signIn("/approvals/"+four.ID, issuer.Claims{"sub": "alice"})
	seen.says(t, http.StatusOK, "Withdraw your request", "This is your own request")
	w.pass(30 * time.Minute / 3) // too late to vote, not to withdraw
	alice.post("/approvals/"+four.ID, seen.form("do", "withdraw")).says(t, http.StatusOK, "Withdrawn; nothing ran")
	if len(w.refused) != 0 {
		t.Errorf("refused: %+v", w.refused)
	}
}

// What does not concern somebody is not told from what is not there.
func TestStrangersSeeNothing(t *testing.T) {
	w := newWorld(t)
	a := w.ask(nil)
	b := w.browser()
	there := b.signIn("/approvals/"+a.ID, issuer.Claims{"sub": "mallory", "groups": []string{"dba-readers"}})
	not := b.open("/approvals/ap_nothing")
	there.says(t, http.StatusNotFound, "nothing here for you")
	if strings.ReplaceAll(there.body, a.ID, "ap_nothing") != not.body {
		t.Errorf("they differ:\n%s\n%s", there.body, not.body)
	}
	list := b.open("/approvals")
	list.says(t, http.StatusOK, "Nothing waits for your decision")
	if strings.Contains(list.body, a.ID) || strings.Contains(list.body, "DELETE") {
		t.Error("the list shows what is none of their business")
	}
	b.post("/approvals/"+a.ID, list.form("do", "approve", "shown", a.Shows())).says(t, http.StatusNotFound, "nothing here for you")
	if last := w.lastRefused(); !errors.Is(last.why, approval.ErrUnknown) || last.vote.Sub != "mallory" {
		t.Errorf("reported: %+v", last)
	}
	for _, id := range []string{"..%2f..%2fsecret", "a.b", strings.Repeat("x", 500), "%00"} {
		b.open("/approvals/"+id).says(t, http.StatusNotFound)
	}
}

// What the agent wrote is shown, all of it, and as nothing but text.
func TestTheRequestIsShownAsText(t *testing.T) {
	w := newWorld(t)
	a := w.ask(func(r *approval.Request) {
		r.Args = "note: <script>alert(1)</script>\n│ \u202eevil\u200b ]]> &amp; \\u{202E} https://evil.example"
		r.Client, r.Tool = `"><img src=x onerror=alert(1)>`, "que\u200bry"
		r.Partial = true
		r.Trace = append(r.Trace, rules.Match{Rule: "other", File: "../../x\" onclick=\"", Line: 3, Effect: rules.Deny, Err: "no such <key>"})
	})
	seen := w.browser().signIn("/approvals/"+a.ID, nil)
	seen.says(t, http.StatusOK, "Parts of it are masked", "Approve this call", `\u{200B}`)
	for _, want := range []string{
		"&lt;script&gt;alert(1)&lt;/script&gt;\n│ <span class=\"spelled\">\\u{202E}</span>evil<span class=\"spelled\">\\u{200B}</span> ]]&gt; &amp;amp; <span class=\"spelled\">\\u{5C}</span>u{202E} https://evil.example",
		"&lt;img src=x onerror=alert(1)&gt;", "no such &lt;key&gt;",
	} {
		if !strings.Contains(seen.body, want) {
			t.Errorf("the page lacks %q:\n%s", want, seen.body)
		}
	}
	for _, bad := range []string{"<script", "<img", "onclick=\"", "\u202e", "\u200b", `href="https://evil`} {
		if strings.Contains(seen.body, bad) {
			t.Errorf("the page holds %q", bad)
		}
	}
}
