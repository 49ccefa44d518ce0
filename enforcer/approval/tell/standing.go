package tell

import (
	"fmt"
	"slices"
	"time"

	"countersign/enforcer/approval"
	"countersign/rules"
)

// Standing says where an approval stands: the votes; then what is missing and
// until when, or how it ended and what came of it.
func Standing(a approval.Approval) []Line {
	said := Votes(a)
	window := !a.Until.IsZero()
	switch a.State {
	case approval.Pending:
		said = append(said, missing(a)...)
		said = append(said, say("until ").moment(a.Expires))
	case approval.Approved:
		if window {
			said = append(said, say("good until ").moment(a.Until).and(" for "+Scope(a)), used(a, "not used yet"))
		} else {
			said = append(said, say("not used yet: good for one identical call, until ").moment(a.Expires))
		}
	case approval.Denied:
		said = append(said, say("nothing ran"))
	case approval.Expired:
		switch approved := !slices.ContainsFunc(a.Votes, func(v approval.Vote) bool { return !v.Approve }) && len(missing(a)) == 0; {
		case window:
			said = append(said, say("its time was over at ").moment(a.Until), used(a, "nothing ran"))
		case approved:
			said = append(said, say("not used until ").moment(a.Expires).and(", so it is void"), say("nothing ran"))
		default:
			said = append(said, say("expired at ").moment(a.Expires).and(", which counts as a denial"), say("nothing ran"))
		}
	case approval.Withdrawn:
		said = append(said, say("withdrawn at ").moment(a.Ended).and(": "+reason(a.Reason)), used(a, "nothing ran"))
	case approval.Revoked:
		by := ""
		if a.Revoked != nil && a.Revoked.Via != approval.ViaOperator {
			by = " by " + name(a.Revoked.Who())
		} else if a.Revoked != nil {
			by = " by the operator"
		}
		said = append(said, sayf("revoked%s at ", by).moment(a.Ended).and(fmt.Sprintf(": “%s”", reason(a.Reason))), used(a, "nothing ran"))
	case approval.Spent:
		said = append(said, say("used at ").moment(a.Ended), say(Outcome(a.Outcome)))
	default:
		said = append(said, say(name(string(a.State))))
	}
	return said
}

// Votes says who voted what, when, and why.
func Votes(a approval.Approval) []Line {
	var said []Line
	for _, v := range a.Votes {
		who := name(v.Who())
		because := fmt.Sprintf(": “%s”", reason(v.Reason))
		switch {
		case v.Approve && v.BreakGlass:
			said = append(said, sayf("approved alone by %s, who broke the glass, at ", who).moment(v.At).and(because))
		case v.Approve && v.Once && a.Grant.For > 0:
			said = append(said, sayf("approved for one call by %s at ", who).moment(v.At))
		case v.Approve:
			said = append(said, sayf("approved by %s at ", who).moment(v.At))
		default:
			said = append(said, sayf("denied by %s at ", who).moment(v.At).and(because))
		}
	}
	return said
}

// missing says how many votes each approver set still has to give; nothing
// where none is missing.
func missing(a approval.Approval) []Line {
	var said []Line
	open := a.Missing()
	for _, set := range asked(a) {
		if n := open[set]; n > 0 {
			said = append(said, sayf("needs %d of %s", n, name(set)))
		}
	}
	if len(said) == 0 && a.State == approval.Pending { // one person cannot fill the places of two sets
		said = append(said, say("needs one more person: nobody counts for two approver sets at once"))
	}
	return said
}

// used says how often calls ran on a window, or none, if none did.
func used(a approval.Approval, none string) Line {
	if a.Uses == 0 {
		return say(none)
	}
	return sayf("used %s, last at ", count(a.Uses, "time")).moment(a.LastUse)
}

// asked are the approver sets that are asked, each once.
func asked(a approval.Approval) []string {
	var sets []string
	for _, ask := range a.Asks {
		if !slices.Contains(sets, ask.Approvers) {
			sets = append(sets, ask.Approvers)
		}
	}
	return sets
}

// Scope says which calls a window covers.
func Scope(a approval.Approval) string {
	what, _ := What(a)
	switch a.Grant.Scope {
	case rules.ScopeTool:
		return "every call of " + what + " that the same rules ask about, with any arguments"
	case rules.ScopeServer:
		return "every call on " + name(a.Server) + " that the same rules ask about"
	}
	return "identical calls"
}

// Window says what an approval opens where the rules grant more than one call,
// or "": "for 1 hour, for identical calls".
func Window(a approval.Approval) string {
	if a.Grant.For == 0 {
		return ""
	}
	return "for " + Span(a.Grant.For) + ", for " + Scope(a)
}

// Span spells a duration: "90 minutes", "1 hour".
func Span(d time.Duration) string {
	switch {
	case d >= 24*time.Hour && d%(24*time.Hour) == 0:
		return count(int(d/(24*time.Hour)), "day")
	case d >= time.Hour && d%time.Hour == 0:
		return count(int(d/time.Hour), "hour")
	case d >= time.Minute && d%time.Minute == 0:
		return count(int(d/time.Minute), "minute")
	}
	return d.Round(time.Second).String()
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// Outcome says in plain words what came of the call that ran on an approval. It
// begins with "ran", "not run" or "unknown"; or with "under way", for an empty
// status.
func Outcome(status string) string {
	switch status {
	case "":
		return "under way: it has no outcome yet"
	case "ok":
		return "ran: it succeeded"
	case "error":
		return "ran: it ended in an error"
	case "blocked":
		return "ran: its answer was withheld"
	case "not-run", "not run":
		return "not run: nothing reached the server"
	case "unknown", "cancelled", "frozen":
		return "unknown: it was cut off, and may have run; it is never repeated by itself, so look at the server before asking again"
	}
	return "unknown: it ended as " + name(status)
}

// Notes says what else whoever decides, or reads the record, has to know.
func Notes(a approval.Approval) []Line {
	var said []Line
	switch {
	case a.Cut:
		said = append(said, say("part of the request is nowhere to be seen, too long or impossible to mask, so nobody can approve it"))
	case a.Partial:
		said = append(said, say("part of the request is masked or left out"))
	}
	if n := len(a.Renewals); n > 0 {
		r := a.Renewals[n-1]
		votes := ""
		if len(r.Kept) > 0 {
			votes += "; the votes of " + list(r.Kept) + " stand"
		}
		if len(r.Dropped) > 0 {
			votes += "; the votes of " + list(r.Dropped) + " do not, since what they approved has changed"
		}
		said = append(said, say("policy changed at ").moment(r.At).and(": asked again under policy "+short(r.Policy)+votes))
	}
	if !a.Gone.IsZero() && !a.State.Ended() {
		said = append(said, say("the caller left at ").moment(a.Gone).and(": nothing has run, and nothing will unless it asks again"))
	}
	if w := Window(a); w != "" && a.State == approval.Pending {
		said = append(said, say("an approval is good "+w+"; or for one call, if it is given once"))
	}
	if a.NeedsReview() {
		said = append(said, say("the glass was broken: somebody else of the sets that were asked has to review it"))
	}
	if r := a.Review; r != nil {
		found := "not justified"
		if r.Justified {
			found = "justified"
		}
		said = append(said, sayf("reviewed by %s at ", name(orElse(r.Person, orElse(r.Email, r.Sub)))).moment(r.At).and(fmt.Sprintf(": %s, “%s”", found, reason(r.Note))))
	}
	return said
}
