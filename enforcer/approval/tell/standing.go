package tell

import (
	"fmt"
	"slices"
	"strings"

	"countersign/enforcer/approval"
	"countersign/rules"
)

// maxNames is how many people are named of one approver set.
const maxNames = 12

// Standing says where an approval stands: the votes; then what is missing and
// until when, or how it ended and what came of it.
func Standing(a approval.Approval) []Line {
	said := Votes(a)
	switch a.State {
	case approval.Pending:
		said = append(said, missing(a)...)
		said = append(said, say("until ").moment(a.Expires))
	case approval.Approved:
		said = append(said, say("not used yet: good for one identical call, until ").moment(a.Expires))
	case approval.Denied:
		said = append(said, say("nothing ran"))
	case approval.Expired:
		said = append(said, say("expired at ").moment(a.Expires).and(", which counts as a denial"), say("nothing ran"))
	case approval.Withdrawn:
		said = append(said, say("withdrawn at ").moment(a.Ended).and(": "+reason(a.Reason)), say("nothing ran"))
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
		if v.Approve {
			said = append(said, sayf("approved by %s at ", name(v.Person)).moment(v.At))
		} else {
			said = append(said, sayf("denied by %s at ", name(v.Person)).moment(v.At).and(fmt.Sprintf(": “%s”", reason(v.Reason))))
		}
	}
	return said
}

// missing says how many votes each approver set still has to give.
func missing(a approval.Approval) []Line {
	var said []Line
	open := a.Missing()
	for _, set := range asked(a) {
		if n := open[set]; n > 0 {
			said = append(said, sayf("needs %d of %s", n, name(set)))
		}
	}
	if len(said) == 0 { // one person cannot fill the places of two sets
		said = append(said, say("needs one more person: nobody counts for two approver sets at once"))
	}
	return said
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

// Voters says who may vote, a line for each approver set, under the policy p.
func Voters(a approval.Approval, p *rules.Policy) []Line {
	var said []Line
	quorum := map[string]int{}
	for _, ask := range a.Asks {
		quorum[ask.Approvers] = max(quorum[ask.Approvers], ask.Quorum)
	}
	for _, id := range asked(a) {
		var set rules.ApproverSet
		known := false
		if p != nil {
			set, known = p.ApproverSet(id)
		}
		if !known {
			said = append(said, sayf("%d of %s, which the policy in force does not know", quorum[id], name(id)))
			continue
		}
		may, barred := []string{}, []string{}
		for _, member := range set.Members {
			if member == asker(a, p) {
				barred = append(barred, member)
			} else {
				may = append(may, member)
			}
		}
		text := fmt.Sprintf("%d of %s: %s", quorum[id], name(id), orElse(list(may), "nobody"))
		if len(barred) > 0 {
			text += "; not " + list(barred) + ", who asks"
		}
		said = append(said, say(text))
	}
	return said
}

// Notes says what else whoever decides, or reads the record, has to know. The
// policy is the one in force, and may be nil.
func Notes(a approval.Approval, p *rules.Policy) []Line {
	var said []Line
	if a.Partial {
		said = append(said, say("part of the request is masked or left out"))
	}
	return said
}

func list(names []string) string {
	shown := make([]string, 0, maxNames)
	for _, n := range names[:min(len(names), maxNames)] {
		shown = append(shown, name(n))
	}
	s := strings.Join(shown, ", ")
	if more := len(names) - len(shown); more > 0 {
		s += fmt.Sprintf(" and %d more", more)
	}
	return s
}
