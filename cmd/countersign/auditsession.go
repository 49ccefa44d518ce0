package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// sessionCall is a call of a session, as audit session --json prints it.
type sessionCall struct {
	Call     string    `json:"call"`
	Time     time.Time `json:"time"`
	Server   string    `json:"server"`
	Method   string    `json:"method"`
	Tool     string    `json:"tool,omitempty"`
	Resource string    `json:"resource,omitempty"`
	Decision string    `json:"decision,omitempty"`
	Rules    []string  `json:"rules,omitempty"`
	Reason   string    `json:"reason,omitempty"`
	Approval string    `json:"approval,omitempty"`
	GapMS    float64   `json:"gap_ms"`           // since the call before was asked
	WaitedMS float64   `json:"waited_ms"`        // for people
	TookMS   float64   `json:"took_ms"`          // all in all
	Status   string    `json:"status,omitempty"` // none: it has not ended
	Masked   int       `json:"masked,omitempty"` // values
}

func auditSessionCommand() *cobra.Command {
	var from readFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "session <id>",
		Short: "List the calls of a session or a holder, with times and outcomes",
		Long: `Lists all calls of an MCP session or of a holder (a subject, through one client, at
one server): when each was asked, how long after the one before, how long people
took to approve it, how long it took in all, and what became of it. The id, or its
beginning, is what entries have under session or holder: audit show of a call says it.

--json prints a JSON object for each call, a line each.`,
		Example: "  countersign audit session --repo ./audit 5f0c…",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return from.read(cmd, func(r *reading) error {
				s, err := r.tell(cmd.Context(), args[0])
				if err == nil && s.What != "session" && s.What != "holder" {
					err = &errUnknown{fmt.Sprintf("%s is no session or holder, but the name of a thing of kind %s: use audit show", s.ID, s.What)}
				}
				if err != nil {
					return refusedID(err, func(said string) { fmt.Fprintln(cmd.ErrOrStderr(), "countersign:", safe(said)) })
				}
				return s.printSession(cmd, asJSON)
			})
		},
	}
	from.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "a JSON object for each call, a line each")
	return cmd
}

func (s *story) printSession(cmd *cobra.Command, asJSON bool) error {
	out := cmd.OutOrStdout()
	calls := callsOf(s.found())
	if asJSON {
		var before time.Time
		for _, c := range calls {
			row := sessionCall{
				Call: c.Call, Time: c.Asked, Server: c.Ask.Server, Method: c.Ask.Method, Tool: c.Ask.Tool, Resource: c.Ask.Resource,
				Decision: c.Decision, Rules: c.Ask.Rules, Reason: cmp.Or(c.End.Reason, c.Ask.Reason), Approval: c.Approval,
				WaitedMS: float64(c.Waited.Microseconds()) / 1000, TookMS: c.End.Millis, Status: c.Status, Masked: c.Masked,
			}
			if !before.IsZero() {
				row.GapMS = float64(c.Asked.Sub(before).Microseconds()) / 1000
			}
			before = c.Asked
			b, err := json.Marshal(row)
			if err != nil {
				return err
			}
			fmt.Fprintln(out, visibleJSON(string(b)))
		}
		return nil
	}
	if len(calls) == 0 {
		fmt.Fprintf(out, "%s %s: no calls\n", s.What, safe(s.ID))
		return nil
	}
	first, last := calls[0], calls[len(calls)-1]
	at := first.Ask.Server
	if slices.ContainsFunc(calls, func(c *toldCall) bool { return c.Ask.Server != at }) {
		at = ""
	}
	fmt.Fprintf(out, "%s %s: %s by %s through %s", s.What, safe(s.ID), count(len(calls), "call"),
		safe(cmp.Or(first.Ask.Sub, "somebody")), safe(cmp.Or(first.Ask.Client, "no client")))
	if at != "" {
		fmt.Fprintf(out, ", at %s", safe(at))
	}
	fmt.Fprintf(out, "\n%s to %s\n\n", clock(first.Asked), clock(last.Asked))
	t := &table{head: []string{"TIME", "AFTER", "WHAT", "DECIDED", "WAITED", "TOOK", "OUTCOME", "CALL"}, cut: []int{2, 6}, right: []int{1, 4, 5}, width: terminal(out)}
	var before time.Time
	for _, c := range calls {
		gap, wait, all := "", "", ""
		if !before.IsZero() {
			gap = "+" + millis(c.Asked.Sub(before))
		}
		if c.Waited > 0 {
			wait = millis(c.Waited)
		}
		if c.End.Millis > 0 {
			all = took(c.End)
		}
		before = c.Asked
		outcome := cmp.Or(c.Status, "not ended")
		if c.Masked > 0 {
			outcome += fmt.Sprintf(", %d masked", c.Masked)
		}
		if c.Decision == "deny" {
			outcome += ": " + c.Ask.Reason
		}
		t.row(c.Asked.UTC().Format("15:04:05"), gap, strings.TrimSpace(strings.TrimPrefix(aimedAt(c.Ask), at)), c.Decision, wait, all, outcome, shortID(c.Call))
	}
	return t.print(out)
}
