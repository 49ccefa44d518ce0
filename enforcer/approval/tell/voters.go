package tell

import (
	"fmt"
	"slices"
	"strings"

	"countersign/enforcer/approval"
	"countersign/rules"
)

// maxNames is how many people are named in one line.
const maxNames = 12

// Voters says who may vote, a line for each approver set, under the policy p.
// Who asks is left out, and who answers for the service that asks.
func Voters(a approval.Approval, p *rules.Policy) []Line {
	var said []Line
	var barred []string
	if p != nil {
		barred = append(p.Owners(a.Subject, a.Client), asker(a, p))
	}
	for _, id := range asked(a) {
		quorum, signIn, glass := 0, false, ""
		for _, ask := range a.Asks {
			if ask.Approvers == id {
				quorum, signIn, glass = max(quorum, ask.Quorum), signIn || ask.Via == approval.ViaOIDC, orElse(glass, ask.BreakGlass)
			}
		}
		text := fmt.Sprintf("%d of %s: %s", quorum, name(id), members(id, barred, p))
		if signIn {
			text += "; by signing in on the approval page"
		}
		if glass != "" {
			text += fmt.Sprintf("; or, in an emergency, one of %s alone, on the approval page: %s", name(glass), members(glass, barred, p))
		}
		said = append(said, say(text))
	}
	return said
}

// members says who of the set may vote, and who may not.
func members(id string, barred []string, p *rules.Policy) string {
	var set rules.ApproverSet
	known := false
	if p != nil {
		set, known = p.ApproverSet(id)
	}
	if !known {
		return "the policy in force does not know it"
	}
	var may, not []string
	for _, m := range set.Members {
		if slices.Contains(barred, m) {
			not = append(not, m)
		} else {
			may = append(may, m)
		}
	}
	for _, g := range set.Groups {
		may = append(may, fmt.Sprintf("whoever is in group %s at %s", g.Name, g.Issuer))
	}
	text := orElse(list(may), "nobody")
	if len(not) > 0 {
		text += "; not " + list(not) + ", whose request it is"
	}
	return text
}

func list(names []string) string {
	shown := make([]string, 0, maxNames)
	for _, n := range names[:min(len(names), maxNames)] {
		n, _ = Visible(n, false, 2*MaxName)
		shown = append(shown, n)
	}
	s := strings.Join(shown, ", ")
	if more := len(names) - len(shown); more > 0 {
		s += fmt.Sprintf(" and %d more", more)
	}
	return s
}
