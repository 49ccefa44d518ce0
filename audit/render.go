package audit

import (
	"bytes"
	"cmp"
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

// summary counts a batch for the first line of its commit's message.
type summary struct {
	entries, calls, denied, blocked int
	approved                        []string // by whom
	approvals, rejections           int
	glasses                         []string // who approved alone, by a break-glass set
	frozen, unfrozen                int
	policy                          string
}

func (s *summary) count(g glance) {
	s.entries++
	if g.Policy != "" && inForce(g) {
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
	case KindFreeze:
		switch g.Status {
		case StatusFrozen:
			s.frozen++
		case StatusUnfrozen:
			s.unfrozen++
		}
	case KindApproval:
		// The detail is the approval as it stands, again and again; the status
		// is what happened just now.
		state, by := approvalOf(g.Detail)
		if g.Status != "" {
			state = g.Status
		}
		switch state {
		case "approved":
			s.approvals++
			for _, name := range by {
				if !slices.Contains(s.approved, name) {
					s.approved = append(s.approved, name)
				}
			}
		case "denied":
			s.rejections++
		case "break-glass":
			s.glasses = append(s.glasses, by[max(0, len(by)-1):]...)
		}
	}
}

// inForce tells whether the entry's policy is one that decided something, or
// that was put in force; others name one that was rejected, or that an earlier
// run or an old approval had.
func inForce(g glance) bool {
	switch g.Kind {
	case KindIntent, KindOutcome, KindRefused:
		return true
	case KindPolicy:
		return g.Status == "accepted" || g.Status == "reset" || g.Status == "resumed"
	}
	return false
}

// approvalOf reads the state and the approving people from the detail of an
// approval entry: {"state", "votes": [{"person", "email", "sub", "approve"}]}, in
// any case, or the same under "approval". Whom the policy does not name, the
// issuer does.
func approvalOf(detail json.RawMessage) (state string, by []string) {
	type approval struct {
		State string
		Votes []struct {
			Person  string
			Email   string
			Sub     string
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
			by = append(by, cmp.Or(v.Person, v.Email, v.Sub))
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
	add(len(s.glasses), "broke the glass ("+strings.Join(s.glasses[:min(len(s.glasses), 3)], ", ")+")")
	add(s.rejections, "rejected by an approver")
	add(s.frozen, plural(s.frozen, "freeze", "freezes"))
	add(s.unfrozen, "unfrozen")
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

// Line is the entry in one line, for a person who scrolls. Nothing in it can
// move a cursor.
func (e Entry) Line() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %5d  %-12s", e.Time.UTC().Format("2006-01-02 15:04:05"), e.Seq, e.verb())
	part := func(format string, args ...any) { b.WriteString("  " + fmt.Sprintf(format, args...)) }
	switch {
	case e.Sub != "" && e.Client != "":
		part("%s by %s", e.Sub, e.Client)
	case e.Sub != "" || e.Client != "":
		part("%s", e.Sub+e.Client)
	}
	if target := e.target(); target != "" {
		part("→ %s", target)
	}
	if e.Kind == KindCredential && e.Credential != "" {
		part("%s %s", e.Status, e.Credential)
	}
	if e.Reason != "" {
		part("“%s”", clip(e.Reason, 100))
	}
	if e.Kind != KindOutcome { // told once, with the intent or the refusal
		if e.Args != "" {
			part("%s", clip(e.Args, 80))
		}
		if len(e.Rules) > 0 {
			part("(%s %s)", plural(len(e.Rules), "rule", "rules"), strings.Join(e.Rules, ", "))
		}
	}
	if state, by := approvalOf(e.Detail); e.Kind == KindApproval && len(by) > 0 {
		part("%s by %s", state, strings.Join(by, ", "))
	}
	if n := e.maskedCount(); n > 0 {
		part("%d masked", n)
	}
	if e.Millis > 0 {
		part("%s", time.Duration(e.Millis*float64(time.Millisecond)).Round(100*time.Microsecond))
	}
	if e.Call != "" {
		part("%s", e.Call)
	}
	return plain(strings.TrimRight(b.String(), " "))
}

// verb says what happened, in a word or two.
func (e Entry) verb() string {
	switch e.Kind {
	case KindIntent:
		return "forwards"
	case KindOutcome:
		if e.Status == StatusOK || e.Status == "" {
			return "answered"
		}
		return e.Status
	case KindRefused:
		switch {
		case e.Status == StatusFrozen:
			return StatusFrozen
		case e.Effect == "deny":
			return "denied"
		}
		return "refused"
	case KindStart:
		return "started"
	case KindStop:
		return "stopped"
	case KindFreeze:
		if e.Status == StatusStanding {
			return "still frozen"
		}
		if e.Status != "" {
			return e.Status
		}
	case KindLogin:
		if e.Status != "" {
			return e.Status
		}
	case KindApproval:
		switch e.Status {
		case "break-glass", "used", "renewed", "reviewed": // louder than where it stands
			return e.Status
		}
		if state, _ := approvalOf(e.Detail); state != "" {
			return state
		}
	}
	return string(e.Kind)
}

func (e Entry) target() string {
	var parts []string
	for _, s := range []string{e.Server, e.Tool, e.Resource} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	if e.Tool == "" && e.Resource == "" && e.Method != "" {
		parts = append(parts, e.Method)
	}
	return strings.Join(parts, " ")
}

func (e Entry) maskedCount() int {
	n := 0
	for _, m := range e.Masked {
		n += m.Count
	}
	return n
}

func clip(s string, n int) string {
	r := []rune(strings.Join(strings.Fields(s), " "))
	if len(r) <= n {
		return string(r)
	}
	return string(r[:n-1]) + "…"
}

// Show is the entry in full, a member a line.
func (e Entry) Show() string {
	var b strings.Builder
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "  %-11s %s\n", name, plain(value))
		}
	}
	fmt.Fprintf(&b, "entry %d  %s  %s\n", e.Seq, plain(e.verb()), e.Time.UTC().Format("2006-01-02 15:04:05.000000 UTC"))
	row("kind", string(e.Kind))
	row("call", e.Call)
	row("subject", e.Sub)
	row("issuer", e.Issuer)
	row("client", e.Client)
	row("server", e.Server)
	row("method", e.Method)
	row("tool", e.Tool)
	row("resource", e.Resource)
	row("effect", e.Effect)
	row("rules", strings.Join(e.Rules, ", "))
	row("reason", e.Reason)
	row("policy", e.Policy)
	row("approval", e.Approval)
	row("credential", e.Credential)
	row("arguments", e.Args)
	row("digest", e.Digest)
	row("status", e.Status)
	if e.Millis > 0 {
		row("took", fmt.Sprintf("%v ms", e.Millis))
	}
	if e.Bytes > 0 {
		row("answer", fmt.Sprintf("%d bytes", e.Bytes))
	}
	for _, m := range e.Masked {
		row("masked", fmt.Sprintf("%d × %s at %s", m.Count, m.Detector, m.Place))
	}
	if len(e.Detail) > 0 {
		var out bytes.Buffer
		if json.Indent(&out, e.Detail, "    ", "  ") != nil {
			out.Reset()
			out.Write(e.Detail)
		}
		b.WriteString("  detail\n    ")
		for i, l := range strings.Split(out.String(), "\n") { // the line breaks are ours
			if i > 0 {
				b.WriteByte('\n')
			}
			b.WriteString(plain(l))
		}
		b.WriteByte('\n')
	}
	return b.String()
}
