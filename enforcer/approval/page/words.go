package page

import (
	"errors"
	"fmt"
	"html"
	"html/template"
	"regexp"
	"strings"
	"time"

	"countersign/enforcer/approval"
	"countersign/enforcer/approval/tell"
	"countersign/rules"
)

// words are what the templates say things with.
var words = template.FuncMap{
	"line":  func(s string) template.HTML { return plainly(s, false) },
	"text":  func(s string) template.HTML { return plainly(s, true) },
	"stamp": stamp,
	"join":  strings.Join,
	"short": func(commit string) string { return fmt.Sprintf("%.7s", commit) },
	"or":    firstOf,
	"list":  func(all ...any) []any { return all },
}

var escapes = regexp.MustCompile(`\\u\{x?[0-9A-F]+\}`)

// plainly is a text from outside as HTML that shows all of it: what could not be
// seen, or would move what stands around it, is spelled, and marked as such.
func plainly(s string, lines bool) template.HTML {
	seen, _ := tell.Visible(s, lines, 1<<30)
	var b strings.Builder
	from := 0
	for _, at := range escapes.FindAllStringIndex(seen, -1) {
		b.WriteString(html.EscapeString(seen[from:at[0]]))
		b.WriteString(`<span class="spelled">` + html.EscapeString(seen[at[0]:at[1]]) + `</span>`)
		from = at[1]
	}
	b.WriteString(html.EscapeString(seen[from:]))
	return template.HTML(b.String())
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format("2 Jan 2006, 15:04:05 MST")
}

// left is how long there is until then, roughly.
func left(t, now time.Time) string {
	switch d := t.Sub(now); {
	case d <= 0:
		return "over"
	case d < time.Minute:
		return "less than a minute left"
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min left", int(d/time.Minute))
	default:
		return fmt.Sprintf("%d h left", int(d/time.Hour))
	}
}

func askerOf(a approval.Approval, p *rules.Policy) string {
	if person, ok := p.Person(a.Subject.Issuer, a.Subject.Sub); ok {
		return person.Name
	}
	return firstOf(a.Subject.Email, a.Subject.Sub)
}

// headline says who asks for whom, for what.
func headline(a approval.Approval, p *rules.Policy) string {
	return fmt.Sprintf("%s asks for %s: %s on %s", firstOf(a.Client, "An unnamed client"), askerOf(a, p), firstOf(a.Tool, a.Resource, a.Method), a.Server)
}

func stateOf(a approval.Approval, now time.Time) standing {
	switch a.State {
	case approval.Pending:
		if !now.Before(a.Expires) {
			return standing{"Expired; nothing ran", "ended"}
		}
		return standing{"Waiting for a decision, " + left(a.Expires, now), "pending"}
	case approval.Approved:
		if a.Grant.For > 0 && !a.Until.IsZero() {
			return standing{fmt.Sprintf("A window in force until %s, used %d times", stamp(a.Until), a.Uses), "approved"}
		}
		return standing{"Approved, not used yet", "approved"}
	case approval.Denied:
		return standing{"Denied", "denied"}
	case approval.Expired:
		return standing{"Expired; nothing ran", "ended"}
	case approval.Withdrawn:
		return standing{"Withdrawn; nothing ran", "ended"}
	case approval.Revoked:
		return standing{"Revoked", "denied"}
	case approval.Spent:
		return standing{"Approved, and used" + map[bool]string{true: ", outcome: " + a.Outcome}[a.Outcome != ""], "approved"}
	}
	return standing{string(a.State), "ended"}
}

func verdictOf(m rules.Match) string {
	switch {
	case !m.Matched && m.Err != "":
		return "its condition could not be evaluated; not matched"
	case !m.Matched:
		return "did not match"
	case m.Err != "":
		return "its condition could not be evaluated, which counts as matched: " + string(m.Effect)
	}
	return "matched: " + string(m.Effect)
}

func voteOf(v approval.Vote) voteSight {
	s := voteSight{Who: v.Who(), What: "denied", At: stamp(v.At), Via: "in Slack", Reason: v.Reason, Approve: v.Approve}
	switch {
	case v.BreakGlass:
		s.What = "approved alone, breaking the glass"
	case v.Approve && v.Once:
		s.What = "approved, for this call only"
	case v.Approve:
		s.What = "approved"
	}
	if v.Via == approval.ViaOIDC {
		s.Via = "signed in"
	}
	return s
}

func needs(a approval.Approval) []string {
	var out []string
	missing := a.Missing()
	told := map[string]bool{}
	for _, ask := range a.Asks {
		if n := missing[ask.Approvers]; n > 0 && !told[ask.Approvers] {
			told[ask.Approvers] = true
			out = append(out, fmt.Sprintf("%d of %s", n, ask.Approvers))
		}
	}
	return out
}

// windowOf says what an approval for a window would let through.
func windowOf(a approval.Approval) string {
	if a.Grant.For == 0 {
		return ""
	}
	what := map[string]string{
		rules.ScopeExact:  "this very call",
		rules.ScopeTool:   fmt.Sprintf("every call of %s on %s for which the same rules ask", firstOf(a.Tool, a.Method), a.Server),
		rules.ScopeServer: fmt.Sprintf("every call on %s for which the same rules ask", a.Server),
	}[a.Grant.Scope]
	return fmt.Sprintf("for %s, %s, by the same caller", span(a.Grant.For), what)
}

func span(d time.Duration) string {
	switch {
	case d%time.Hour == 0:
		return fmt.Sprintf("%d h", d/time.Hour)
	case d%time.Minute == 0:
		return fmt.Sprintf("%d min", d/time.Minute)
	}
	return d.String()
}

// Why the page itself does not take a vote.
var (
	errOld  = fmt.Errorf("the sign-in is more than %s old", span(approval.MaxAuthAge))
	errForm = errors.New("the form says nothing that can be done")
)

// sayTo tells a person why they may not, or did not, decide.
func sayTo(err error, a approval.Approval) string {
	for _, w := range []struct {
		err  error
		text string
	}{
		{errOld, "You signed in more than five minutes ago. Sign in again, then decide."},
		{approval.ErrShown, "What is asked, or who is asked, has changed since you opened this page. Read it again below, then decide."},
		{errForm, "The form did not say what to do. Use the buttons."},
		{approval.ErrOwnRequest, "This is your own request: somebody else has to decide it."},
		{approval.ErrOwner, "You answer for the service that asks, so somebody else has to decide it."},
		{approval.ErrNoLogin, "Your sign-in is not known any more. Sign in again."},
		{approval.ErrStaleLogin, "Your sign-in is too old to tell what groups you are in. Sign in again."},
		{approval.ErrACR, "Policy wants a stronger sign-in for this one. Sign in again, with your second factor."},
		{approval.ErrDuplicate, "You have approved this already; it counts once. It waits for others."},
		{approval.ErrExpired, "This has expired; nothing ran. The agent may ask again."},
		{approval.ErrDecided, "This is decided already."},
		{approval.ErrPartial, "Part of this request could not be kept, so nobody can see all of it, and nobody can approve it. Deny it with a reason, and the agent can ask for less at a time."},
		{approval.ErrStale, "The rules that ask for this, the server or its credential have changed since. The agent has to ask again."},
		{approval.ErrReason, "A reason is needed, of at most 500 characters."},
		{approval.ErrGlass, "No rule that asks lets you break the glass."},
		{approval.ErrNotYours, "Only who asked can withdraw it."},
		{approval.ErrNoReview, "There is nothing to review: it was reviewed already."},
		{approval.ErrNotApproved, "It is not in force any more."},
		{approval.ErrNotApprover, "Policy does not ask you to decide this."},
		{approval.ErrUnrecorded, "Your decision could not be recorded, so it does not count, and the request was withdrawn."},
	} {
		if errors.Is(err, w.err) {
			return w.text
		}
	}
	return notCounted
}

const notCounted = "Your decision could not be counted: the service has a problem. Try again in a moment."

// unforeseen tells whether an error is none of the refusals: something is broken.
func unforeseen(err error) bool { return sayTo(err, approval.Approval{}) == notCounted }
