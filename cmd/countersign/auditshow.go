package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"countersign/audit"
	"countersign/enforcer/approval"
)

func auditShowCommand() *cobra.Command {
	var from readFlags
	var asJSON, full bool
	var bodies bodyFlags
	cmd := &cobra.Command{
		Use:   "show <id>",
		Short: "Tell the whole story of a call, an approval, a session, or one entry",
		Long: `Tells what the record has about an id, over all logs and in order: who asked, what
was decided and why, who approved and what they saw, the credential's lease, where
the time went, what was masked, and what was answered.

The id is a call's (as the agent was told it), an approval's (ap_…), a session's, a
holder's or a lease's, or the beginning of one; or an entry's,
<enforcer>/<run>@<number>, where the enforcer or the run alone will do.

--json prints {"what":…,"id":…,"entries":[{"origin":…,"entry":{…}},…]}.`,
		Example: `  countersign audit show --repo ./audit c_4kq2m7…
  countersign audit show --repo ./audit ap_7f2k…
  countersign audit show --repo ./audit prod-1@1042`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return from.read(cmd, func(r *reading) error {
				s, err := r.tell(cmd.Context(), args[0])
				if err != nil {
					return refusedID(err, func(said string) { fmt.Fprintln(cmd.ErrOrStderr(), "countersign:", safe(said)) })
				}
				if asJSON {
					return s.printJSON(cmd)
				}
				if err := s.print(cmd.OutOrStdout(), full); err != nil || !bodies.wanted() {
					return err
				}
				return bodies.print(cmd.OutOrStdout(), r, s)
			})
		},
	}
	from.add(cmd)
	bodies.add(cmd)
	cmd.Flags().BoolVar(&full, "full", false, "every entry in full, with all its members")
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

func (s *story) printJSON(cmd *cobra.Command) error {
	type entry struct {
		Origin string          `json:"origin"`
		Entry  json.RawMessage `json:"entry"`
	}
	out := struct {
		What    string  `json:"what"`
		ID      string  `json:"id"`
		Entries []entry `json:"entries"`
	}{s.What, s.ID, []entry{}}
	for _, f := range s.Entries {
		out.Entries = append(out.Entries, entry{f.Origin, f.Line})
	}
	b, err := json.Marshal(out)
	if err != nil {
		return err
	}
	return printJSON(cmd, b)
}

// print tells the story to people: of each call what was asked, decided and
// answered, then every entry.
func (s *story) print(out io.Writer, full bool) error {
	if s.What == "entry" {
		e := s.Entries[0].Entry
		fmt.Fprintf(out, "%s %s\n", s.What, safe(s.ID))
		barred(out, visible(e.Show()))
		if e.Call != "" {
			fmt.Fprintf(out, "the whole of it: countersign audit show %s\n", safe(e.Call))
		}
		return nil
	}
	fmt.Fprintf(out, "%s %s\n", s.What, safe(s.ID))
	for _, c := range callsOf(s.found()) {
		c.print(out, s)
	}
	for _, id := range s.ids(func(e audit.Entry) string { return e.Approval }) {
		s.printApproval(out, id)
	}
	fmt.Fprintln(out, "\nin order (UTC):")
	var begun time.Time
	for _, f := range s.Entries {
		e := f.Entry
		if begun.IsZero() {
			begun = e.Time
		}
		after := "+" + millis(e.Time.Sub(begun))
		fmt.Fprintf(out, "%s  %9s  %-18s %s\n", e.Time.UTC().Format("2006-01-02 15:04:05.000"), after, safe(happened(e)), safe(f.ID()))
		if full || !narrated(e) {
			barred(out, visible(e.Show()))
		}
	}
	return nil
}

// happened is what an entry tells, in a word or two: of an approval what happened
// to it just now.
func happened(e audit.Entry) string {
	if e.Kind == audit.KindApproval && e.Status != "" {
		return "approval " + e.Status
	}
	if e.Kind == audit.KindCredential && e.Status != "" {
		return e.Status + " " + e.Credential
	}
	return e.Verb()
}

// narrated tells whether what an entry says is told already, where its call or
// its approval is.
func narrated(e audit.Entry) bool {
	switch e.Kind {
	case audit.KindIntent, audit.KindOutcome, audit.KindRefused, audit.KindApproval:
		return !strings.HasPrefix(e.Method, "server:")
	case audit.KindCredential:
		return e.Reason == ""
	}
	return false
}

// visible keeps the lines of a text, and makes each safe.
func visible(text string) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for i, l := range lines {
		lines[i] = safe(l)
	}
	return strings.Join(lines, "\n")
}

// fact prints a name and what there is to say, if there is anything.
func fact(out io.Writer, name string, parts ...string) {
	parts = slices.DeleteFunc(parts, func(p string) bool { return p == "" })
	if len(parts) > 0 {
		fmt.Fprintf(out, "  %-11s %s\n", name, safe(strings.Join(parts, "; ")))
	}
}

// passage prints text of an agent or a server behind a bar.
func passage(out io.Writer, name, text string) {
	if text != "" {
		fmt.Fprintf(out, "  %s\n", name)
		barred(out, safe(text))
	}
}

// print tells of one call.
func (c *toldCall) print(out io.Writer, s *story) {
	e := c.Ask
	fmt.Fprintf(out, "\n%s: %s\n", safe(c.Call), safe(aimedAt(e)))
	who := cmp.Or(e.Sub, "somebody")
	if e.Issuer != "" {
		who += " (" + e.Issuer + ")"
	}
	if e.Client != "" {
		who += " through " + e.Client
	}
	fact(out, "asked by", who, "at "+e.Time.UTC().Format("2006-01-02 15:04:05.000 UTC"))
	fact(out, "session", e.Session)
	fact(out, "holder", e.Holder)
	passage(out, "arguments", e.Args)
	decided := cmp.Or(c.Decision, "nothing")
	if len(e.Rules) > 0 {
		decided += " by " + strings.Join(e.Rules, ", ")
	}
	fact(out, "decided", decided)
	for _, step := range e.Trace {
		fact(out, "", "- "+cmp.Or(step.Effect, "failed")+": "+step.Rule+because(step.Why))
	}
	fact(out, "reason", e.Reason)
	if e.Policy != "" {
		fact(out, "policy", e.Policy)
		for _, rule := range e.Rules[:min(len(e.Rules), 3)] {
			fact(out, "", "see: git -C <policy clone> grep -n -A 8 -e "+shellQuoted("id: "+rule)+" "+e.Policy+" -- rules")
		}
	}
	if c.Approval != "" {
		fact(out, "approval", c.Approval, waited(c.Waited))
	}
	credential := c.End
	if leaseID(credential) == "" {
		credential = e
	}
	if name, _, _ := strings.Cut(credential.Credential, " "); name != "" {
		lease := ""
		if id := leaseID(credential); id != "" {
			lease = "lease " + id
		}
		fact(out, "credential", name, lease)
	}
	for _, sp := range c.End.Splices {
		fact(out, "spliced", sp.What+" at "+sp.Where)
	}
	if c.End.Kind == "" {
		fact(out, "outcome", "none yet, as far as this clone goes")
		return
	}
	ended := cmp.Or(c.End.Status, string(c.End.Kind))
	if c.End.Millis > 0 {
		ended += " after " + took(c.End)
	}
	if c.End.Bytes > 0 {
		ended += ", " + size(c.End.Bytes)
	}
	why := c.End.Reason
	if why == e.Reason {
		why = "" // said already
	}
	fact(out, "outcome", ended, why)
	var parts []string
	for _, t := range c.End.Timings {
		parts = append(parts, t.Part+" "+millis(time.Duration(t.Millis*float64(time.Millisecond))))
	}
	fact(out, "of that", strings.Join(parts, ", "))
	for _, from := range []audit.Entry{e, c.End} {
		for _, m := range from.Masked {
			fact(out, "masked", fmt.Sprintf("%d × %s at %s", m.Count, m.Detector, m.Place))
		}
		if c.End.Seq == e.Seq && c.End.Time.Equal(e.Time) {
			break // a refusal: they are one
		}
	}
	passage(out, "answer", c.End.Result)
	for _, b := range slices.Concat(e.Bodies, c.End.Bodies) {
		fact(out, "body", fmt.Sprintf("%s, %s, kept: %s", b.Of, size(b.Size), b.Kept), b.Digest)
	}
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return ", " + why
}

func waited(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return "people took " + millis(d)
}

// shellQuoted is one word of a shell.
func shellQuoted(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// printApproval tells who was asked, what they saw, and what they said.
func (s *story) printApproval(out io.Writer, id string) {
	var last approval.Approval
	known := false
	var events []string
	for _, f := range s.Entries {
		e := f.Entry
		if e.Approval != id || e.Kind != audit.KindApproval {
			continue
		}
		if a, ok := approvalIn(e); ok {
			last, known = a, true
		}
		if e.Status != "" && !slices.Contains(events, e.Status) {
			events = append(events, e.Status)
		}
	}
	fmt.Fprintf(out, "\n%s: %s\n", safe(id), safe(cmp.Or(string(last.State), "an approval")))
	if !known {
		fact(out, "", "what was asked is not in this clone")
		return
	}
	for _, ask := range last.Asks {
		fact(out, "asks", fmt.Sprintf("%d of %s", max(ask.Quorum, 1), ask.Approvers), "rule "+ask.Rule)
	}
	fact(out, "in force", "until "+clock(last.Expires))
	saw := "they saw"
	switch {
	case last.Cut:
		saw += ", though not in full: it was cut"
	case last.Partial:
		saw += ", masked in part"
	}
	passage(out, saw, last.Args)
	for _, does := range last.Does {
		fact(out, "which does", does)
	}
	for _, v := range last.Votes {
		did := "denied"
		switch {
		case v.BreakGlass:
			did = "BROKE THE GLASS"
		case v.Approve:
			did = "approved"
		}
		shown := ""
		if v.Shown != "" {
			shown = "what they saw has digest " + v.Shown
		}
		fact(out, v.Who(), did+" via "+v.Via+" at "+v.At.UTC().Format("15:04:05 UTC"), strings.Join(v.Sets, ", "), v.Reason, shown)
	}
	fact(out, "reason", last.Reason)
	if !last.Until.IsZero() {
		fact(out, "window", fmt.Sprintf("until %s, used %d times", clock(last.Until), last.Uses))
	}
	if last.SpentBy != "" {
		fact(out, "spent by", last.SpentBy, last.Outcome)
	}
	fact(out, "events", strings.Join(events, ", "))
}

// originsOf are the logs that a story is from.
func (s *story) originsOf() []string {
	var all []string
	for _, f := range s.Entries {
		if !slices.Contains(all, f.Origin) {
			all = append(all, f.Origin)
		}
	}
	return all
}
