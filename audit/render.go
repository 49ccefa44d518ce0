package audit

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// approvalOf reads the state and the approving people from the detail of an
// approval entry.
func approvalOf(detail json.RawMessage) (state string, by []string) {
	state, by, _ = votersIn(detail)
	return state, by
}

// votersIn reads {"state", "votes": [{"person", "email", "sub", "approve"}]}, in
// any case, or the same under "approval". Whom the policy does not name, the
// issuer does.
func votersIn(detail json.RawMessage) (state string, yes, no []string) {
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
		return "", nil, nil
	}
	if d.approval.State == "" {
		d.approval = d.Approval
	}
	for _, v := range d.approval.Votes {
		if who := cmp.Or(v.Person, v.Email, v.Sub); v.Approve {
			yes = append(yes, who)
		} else {
			no = append(no, who)
		}
	}
	return d.approval.State, yes, no
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
	fmt.Fprintf(&b, "%s  %5d  %-12s", e.Time.UTC().Format("2006-01-02 15:04:05"), e.Seq, e.Verb())
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
		part("%s", strings.TrimSpace(e.Status+" "+e.Credential+" "+e.Lease))
	}
	if what := e.Dropped(); what != "" {
		part("%s", what)
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
	if by := e.Voters(); by != "" {
		part("%s", by)
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

// Verb says what happened, in a word or two; not safe for a terminal, which a
// status of a hostile record may steer.
func (e Entry) Verb() string {
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
	case KindErased:
		if e.Status == StatusAsked {
			return "erases"
		}
		if e.Status != "" {
			return e.Status
		}
	case KindLogin:
		if e.Status != "" {
			return e.Status
		}
	case KindApproval:
		if e.Status != "" { // not where it stands: that stays the same over several
			return e.Status
		}
		if state, _ := approvalOf(e.Detail); state != "" {
			return state
		}
	}
	return string(e.Kind)
}

// Voters says of an approval's entry who let it happen, or who did not: "approved
// by bob, dana". It is empty where people are not what the entry is about; not
// safe for a terminal.
func (e Entry) Voters() string {
	if e.Kind != KindApproval {
		return ""
	}
	_, yes, no := votersIn(e.Detail)
	switch e.Status {
	case "denied":
		if len(no) > 0 {
			return "denied by " + strings.Join(no, ", ")
		}
	case "voted", "approved", "break-glass", "spent", "used":
		if len(yes) > 0 {
			return "approved by " + strings.Join(yes, ", ")
		}
	}
	return ""
}

// Dropped says of an erasure's entry whose bodies went, or are to go, and who
// asked; empty of any other. It is not safe for a terminal.
func (e Entry) Dropped() string {
	var d erasedDetail
	if e.Kind != KindErased || json.Unmarshal(e.Detail, &d) != nil {
		return ""
	}
	what := "bodies"
	if e.Status != StatusAsked {
		what = fmt.Sprintf("%d %s", d.Bodies, plural(d.Bodies, "body", "bodies"))
	}
	switch {
	case d.Sub != "":
		what += " of " + d.Sub
	case d.Call != "":
		what += " of " + d.Call
	case !d.Before.IsZero():
		what += " from before " + d.Before.UTC().Format(time.DateOnly)
	}
	if d.By != "" {
		what += ", by " + d.By
	}
	return what
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
	fmt.Fprintf(&b, "entry %d  %s  %s\n", e.Seq, plain(e.Verb()), e.Time.UTC().Format("2006-01-02 15:04:05.000000 UTC"))
	row("kind", string(e.Kind))
	row("call", e.Call)
	row("subject", e.Sub)
	row("issuer", e.Issuer)
	row("client", e.Client)
	row("holder", e.Holder)
	row("session", e.Session)
	row("server", e.Server)
	row("method", e.Method)
	row("tool", e.Tool)
	row("resource", e.Resource)
	row("effect", e.Effect)
	row("rules", strings.Join(e.Rules, ", "))
	for _, s := range e.Trace {
		row("trace", strings.TrimSpace(s.Effect+" "+s.Rule+" "+s.Why))
	}
	row("reason", e.Reason)
	row("policy", e.Policy)
	row("approval", e.Approval)
	row("credential", e.Credential)
	row("lease", e.Lease)
	row("arguments", e.Args)
	row("result", e.Result)
	row("digest", e.Digest)
	row("status", e.Status)
	if e.Millis > 0 {
		row("took", fmt.Sprintf("%v ms", e.Millis))
	}
	if e.Bytes > 0 {
		row("answer", fmt.Sprintf("%d bytes", e.Bytes))
	}
	for _, t := range e.Timings {
		row("of that", fmt.Sprintf("%v ms %s", t.Millis, t.Part))
	}
	for _, r := range e.Bodies {
		row("body", strings.TrimSpace(fmt.Sprintf("%s, %d bytes, kept: %s %s", r.Of, r.Size, r.Kept, r.Digest)))
	}
	for _, s := range e.Splices {
		row("spliced", s.What+" at "+s.Where)
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
