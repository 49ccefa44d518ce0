package audit

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// glance is the part of a line that a summary needs.
type glance struct {
	Seq    uint64          `json:"seq"`
	Time   time.Time       `json:"time"`
	Kind   Kind            `json:"kind"`
	Policy string          `json:"policy"`
	Effect string          `json:"effect"`
	Status string          `json:"status"`
	Detail json.RawMessage `json:"detail"`
}

func look(line []byte) (glance, error) {
	var g glance
	err := json.Unmarshal(line, &g)
	return g, err
}

// summary counts a batch for the first line of its commit's message.
type summary struct {
	entries, calls, denied, blocked int
	approved                        []string // by whom
	approvals, rejections           int
	policy                          string
}

func (s *summary) count(g glance) {
	s.entries++
	if g.Policy != "" {
		s.policy = g.Policy
	}
	switch g.Kind {
	case KindOutcome, KindRefused:
		s.calls++
		if g.Effect == "deny" {
			s.denied++
		}
		if g.Status == StatusBlocked {
			s.blocked++
		}
	case KindApproval:
		switch state, by := approvalOf(g.Detail); state {
		case "approved":
			s.approvals++
			for _, name := range by {
				if !slices.Contains(s.approved, name) {
					s.approved = append(s.approved, name)
				}
			}
		case "denied":
			s.rejections++
		}
	}
}

// approvalOf reads the state and the approving people from the detail of an
// approval entry: {"state", "votes": [{"person", "approve"}]}, in any case, or
// the same under "approval".
func approvalOf(detail json.RawMessage) (state string, by []string) {
	type approval struct {
		State string
		Votes []struct {
			Person  string
			Approve bool
		}
	}
	var d struct {
		approval
		Approval approval
	}
	if json.Unmarshal(detail, &d) != nil {
		return "", nil
	}
	if d.approval.State == "" {
		d.approval = d.Approval
	}
	for _, v := range d.approval.Votes {
		if v.Approve {
			by = append(by, v.Person)
		}
	}
	return d.approval.State, by
}

// String gives for instance "14 calls · 2 denied · 1 approved by dana · policy 3f9c2e1".
func (s summary) String() string {
	var parts []string
	add := func(n int, what string) {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, what))
		}
	}
	switch s.calls {
	case 0:
		add(s.entries, plural(s.entries, "entry", "entries"))
	default:
		add(s.calls, plural(s.calls, "call", "calls"))
	}
	add(s.denied, "denied")
	add(s.blocked, "blocked")
	by := ""
	if n := len(s.approved); n > 0 && n <= 3 {
		by = " by " + strings.Join(s.approved, ", ")
	} else if n > 3 {
		by = fmt.Sprintf(" by %d people", n)
	}
	add(s.approvals, "approved"+by)
	add(s.rejections, "rejected by an approver")
	if s.policy != "" {
		parts = append(parts, "policy "+short(s.policy))
	}
	return plain(strings.Join(parts, " · "))
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

func short(hash string) string { return hash[:min(7, len(hash))] }

// plain shows what could hide or reorder text, or steer a terminal, as \u{…}.
func plain(s string) string {
	if !strings.ContainsFunc(s, hidden) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if hidden(r) {
			fmt.Fprintf(&b, `\u{%x}`, r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}
