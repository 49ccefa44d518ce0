package approval

import (
	"slices"

	"countersign/rules"
)

// quorate tells whether the approving votes fill every set's quorum with
// distinct people: a member of two sets fills a place in one of them only.
// Several rules that ask the same set ask it once, for the largest quorum. What
// a broken glass covers asks nobody any more.
func quorate(asks []rules.Ask, votes []Vote) bool {
	quorum, covered := open(asks, votes)
	// Places to fill, each of one set; people are matched to them by augmenting
	// paths, so that it does not matter who voted first.
	var places []string
	for set, n := range quorum {
		if n > len(votes) {
			return false
		}
		for range n {
			places = append(places, set)
		}
	}
	holder := make([]int, len(places)) // index of the vote plus one
	var seat func(vote int, tried []bool) bool
	seat = func(vote int, tried []bool) bool {
		for i, set := range places {
			if tried[i] || !slices.Contains(votes[vote].Sets, set) {
				continue
			}
			tried[i] = true
			if holder[i] == 0 || seat(holder[i]-1, tried) {
				holder[i] = vote + 1
				return true
			}
		}
		return false
	}
	seated := 0
	people := map[string]bool{}
	for i, v := range votes {
		if !v.Approve || v.BreakGlass || people[v.voter()] {
			continue
		}
		people[v.voter()] = true
		if seat(i, make([]bool, len(places))) {
			seated++
		}
	}
	return (covered || len(places) > 0) && seated == len(places)
}

// open gives the quorum of each set that still has to approve, and whether a
// broken glass covers at least one ask.
func open(asks []rules.Ask, votes []Vote) (quorum map[string]int, covered bool) {
	quorum = map[string]int{}
	for _, ask := range asks {
		if ask.BreakGlass != "" && slices.ContainsFunc(votes, func(v Vote) bool {
			return v.Approve && v.BreakGlass && slices.Contains(v.Sets, ask.BreakGlass)
		}) {
			covered = true
			continue
		}
		quorum[ask.Approvers] = max(quorum[ask.Approvers], ask.Quorum)
	}
	return quorum, covered
}

// voter tells one voter from another.
func (v Vote) voter() string {
	if v.Person != "" {
		return personName(v.Person)
	}
	return subjectName(v.Issuer, v.Sub)
}

// Missing tells how many approvals each set still has to give, at least.
func (a Approval) Missing() map[string]int {
	out := map[string]int{}
	for _, ask := range a.Asks {
		out[ask.Approvers] = 0
	}
	quorum, _ := open(a.Asks, a.Votes)
	for set, n := range quorum {
		for _, v := range a.Votes {
			if v.Approve && !v.BreakGlass && slices.Contains(v.Sets, set) {
				n--
			}
		}
		out[set] = max(n, 0)
	}
	return out
}
