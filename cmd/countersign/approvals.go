package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"countersign/enforcer/approval"
	"countersign/enforcer/approval/api"
)

func approvalsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "approvals",
		Short: "Look at what waits for a person, and decide it",
		Long: `Lists and shows approvals, and votes about them. To vote you sign in at your
identity provider, in your browser, for that one vote: no token votes.
` + approvalsHelp,
		Example: `  countersign approvals list
  countersign approvals show ap_4kq2m7…
  countersign approvals approve ap_4kq2m7… --url https://gate.example.com
  countersign approvals deny ap_4kq2m7… --reason "ask billing first" --url https://gate.example.com`,
	}
	cmd.AddCommand(approvalsListCommand(), approvalsShowCommand(), approvalsWithdrawCommand())
	cmd.AddCommand(voteCommands()...)
	return cmd
}

const approvalsHelp = `
It reaches the enforcer of this machine through control.sock in
COUNTERSIGN_STATE_DIR, as the enforcer's own user or as root; or, with --url, any
enforcer over HTTPS. There, to look takes --token-file, with an access token for
<audience>/operate: you see what concerns you, and all if the policy names you
under "freeze". To vote takes no token, but a sign-in.

Exit status: 0 done; 1 refused, and nothing has changed; 2 anything else.`

func approvalsListCommand() *cobra.Command {
	var gate gateFlags
	var state string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List what waits, which windows are in force, and what is to be reviewed",
		Long:  "Lists approvals, newest first.\n" + approvalsHelp,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			var raw json.RawMessage
			if err := gate.ask(cmd.Context(), http.MethodGet, "/api/approvals?"+url.Values{"state": {state}}.Encode(), nil, &raw); err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd, raw)
			}
			var out struct{ Approvals []api.Sight }
			if err := json.Unmarshal(raw, &out); err != nil {
				return fmt.Errorf("its answer cannot be read: %w", err)
			}
			if len(out.Approvals) == 0 {
				fmt.Fprintln(cmd.OutOrStdout(), "nothing is there to be seen: nothing waits, or nothing that concerns you")
				return nil
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "ID\tSTATE\tUNTIL\tASKED\tWAITS FOR\tWHAT")
			for _, s := range out.Approvals {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", safe(s.Approval.ID), stateOf(s), minute(s.Approval.Ends()), minute(s.Approval.Created), waitsFor(s), short(s.Headline, 90))
			}
			return w.Flush()
		},
	}
	cmd.Flags().StringVar(&state, "state", "open", "open, pending, window, review (a broken glass that nobody has reviewed), or all of the last day")
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	gate.add(cmd)
	return cmd
}

func approvalsShowCommand() *cobra.Command {
	var gate gateFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show <id>",
		Short: "Show one approval in full",
		Long: `Shows who asks, for what, in full; what that does; why policy asks; where it
stands. What came from agents stands behind a bar, and what is invisible in it is
spelt as \u{XXXX}.
` + approvalsHelp,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var raw json.RawMessage
			if err := gate.ask(cmd.Context(), http.MethodGet, approvalPath(args[0], ""), nil, &raw); err != nil {
				return refusedOr("cannot be shown", err, cmd)
			}
			if asJSON {
				return printJSON(cmd, raw)
			}
			var s api.Sight
			if err := json.Unmarshal(raw, &s); err != nil {
				return fmt.Errorf("its answer cannot be read: %w", err)
			}
			printSight(cmd.OutOrStdout(), s, true)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	gate.add(cmd)
	return cmd
}

func approvalsWithdrawCommand() *cobra.Command {
	var gate gateFlags
	var reason string
	cmd := &cobra.Command{
		Use:   "withdraw <id> --reason …",
		Short: "Take back a request that has not run",
		Long: `Takes back what you, or an agent for you, asked for, or closes the window that was
granted for it: with --url and --token-file, where the token may be the agent's own
for MCP. On the enforcer's machine the operator withdraws anybody's request.
` + approvalsHelp,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return gate.decide(cmd, args[0], "withdraw", reason, "withdrawn")
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why; it stands in the record (required)")
	gate.add(cmd)
	required(cmd, "reason")
	return cmd
}

// decide asks for what takes no sign-in.
func (g *gateFlags) decide(cmd *cobra.Command, id, what, reason, done string) error {
	body, err := json.Marshal(map[string]string{"reason": reason})
	if err != nil {
		return err
	}
	var out struct{ Sight api.Sight }
	if err := g.ask(cmd.Context(), http.MethodPost, approvalPath(id, "/"+what), body, &out); err != nil {
		return refusedOr("not "+done, err, cmd)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s  %s: %s\n", safe(out.Sight.Approval.ID), done, short(out.Sight.Headline, 200))
	return nil
}

// refusedOr prints a refusal, which is an outcome: exit 1. Other errors it
// returns.
func refusedOr(what string, err error, cmd *cobra.Command) error {
	var said *gateError
	if errors.As(err, &said) && slices.Contains([]int{http.StatusForbidden, http.StatusNotFound, http.StatusConflict}, said.status) {
		fmt.Fprintf(cmd.ErrOrStderr(), "countersign: %s: %s\n", what, safe(said.said))
		return errFound
	}
	return fmt.Errorf("%s: %w", what, err)
}

func approvalPath(id, then string) string { return "/api/approvals/" + url.PathEscape(id) + then }

func required(cmd *cobra.Command, flag string) {
	if err := cmd.MarkFlagRequired(flag); err != nil {
		panic(err) // the flag is defined a few lines up
	}
}

// stateOf is one word for where an approval stands.
func stateOf(s api.Sight) string {
	switch {
	case s.Review:
		return "review"
	case s.Window:
		return fmt.Sprintf("window (%d used)", s.Approval.Uses)
	}
	return safe(string(s.Approval.State))
}

// waitsFor names the sets whose votes are missing, and whether they could be
// asked.
func waitsFor(s api.Sight) string {
	if s.Approval.State != approval.Pending {
		return "-"
	}
	var sets []string
	missing := s.Approval.Missing()
	for _, ask := range s.Approval.Asks {
		said := fmt.Sprintf("%d of %s", missing[ask.Approvers], ask.Approvers)
		if missing[ask.Approvers] == 0 || slices.Contains(sets, said) {
			continue
		}
		if card, _ := s.Approval.Card(ask.Approvers); card.TS == "" && s.Approval.Unasked[ask.Approvers] != "" {
			said += " (not asked)"
		}
		sets = append(sets, said)
	}
	return safe(strings.Join(sets, ", "))
}

func minute(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04 MST")
}
