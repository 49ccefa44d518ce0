package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"countersign/audit"
)

func auditEraseCommand() *cobra.Command {
	var gate gateFlags // of this machine: there is no other way
	var subject string
	var wait time.Duration
	var ask struct {
		Issuer string `json:"issuer,omitempty"`
		Sub    string `json:"sub,omitempty"`
		Call   string `json:"call,omitempty"`
		Reason string `json:"reason"`
	}
	cmd := &cobra.Command{
		Use:   "erase (--subject … | --call …) --reason …",
		Short: "Erase the bodies of a subject's calls, or of one call, from the record",
		Long: `Has the running enforcer drop the kept bodies of requests and answers: from its
journals' way to Git, from its own repository, and from the remote, whose branches
under bodies/ it writes anew, also in the repositories that the record was in before.
The log is not touched, and still verifies: it has the bodies' digests, which say
nothing without the salt that went with the bodies. That it was done, by whom and
why, is an entry.

Every enforcer erases its own: run it for each. Clones and forks keep what they
have, and so does the Git host until it collects garbage: see docs/record.md.

Exit status 1: it is not done yet (a repository cannot be reached, say: it is named).
It goes on by itself, also after a restart.

It reaches the enforcer of this machine through control.sock in
COUNTERSIGN_STATE_DIR, as the enforcer's own user or as root.`,
		Example: `  countersign audit erase --subject https://id.example.com#alice --reason "request 118: right to erasure"
  countersign audit erase --call c_4kq2m7… --reason "a customer's file was pasted into it"`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if subject != "" {
				var ok bool
				if ask.Issuer, ask.Sub, ok = strings.Cut(subject, "#"); !ok || ask.Issuer == "" || ask.Sub == "" {
					return fmt.Errorf("--subject %q: want ISSUER#SUB, in full, also where the record has a pseudonym", subject)
				}
			}
			body, err := json.Marshal(ask)
			if err != nil {
				return err
			}
			var er audit.Erasure
			if err := gate.ask(cmd.Context(), http.MethodPost, "/erasures", body, &er); err != nil {
				return fmt.Errorf("not known to be erased: %w", err)
			}
			until := time.After(wait)
			for !er.Done {
				select {
				case <-cmd.Context().Done():
					return cmd.Context().Err()
				case <-time.After(time.Second):
				case <-until:
					fmt.Fprintf(cmd.OutOrStdout(), "%s  not done yet, it goes on: %s\n", er.ID, safe(er.Waits))
					return errFound
				}
				if err := gate.ask(cmd.Context(), http.MethodGet, "/erasures/"+url.PathEscape(er.ID), nil, &er); err != nil {
					return fmt.Errorf("%s was begun, and goes on; what has become of it is not known: %w", er.ID, err)
				}
			}
			bodies := func(n int) string { return number(uint64(n), "body", "bodies") }
			fmt.Fprintf(cmd.OutOrStdout(), "%s  erased: %s on %s\n", er.ID, bodies(er.Count()-er.Held), number(uint64(len(er.Steps)), "branch", "branches"))
			if er.Held > 0 {
				fmt.Fprintf(cmd.OutOrStdout(), "  %s not in Git yet: not published any more, and gone from the enforcer's disk with its journal, within days\n", bodies(er.Held))
			}
			if er.Count() == 0 {
				note(cmd, "there was no body of it: is it named as the record has it, and were bodies kept?")
			}
			for _, s := range er.Steps {
				if s.New == "" {
					s.New = "gone"
				}
				fmt.Fprintf(cmd.OutOrStdout(), "  %s  %s, %s → %s\n", safe(strings.TrimSpace(s.Repo+" "+s.Branch)), bodies(s.Bodies), s.Old, s.New)
			}
			for _, name := range er.Others {
				fmt.Fprintf(cmd.OutOrStdout(), "not looked into: %s, which the log names; it is none of COUNTERSIGN_AUDIT_REPO, or forgotten: remove its branches under bodies/ by hand\n", safe(name))
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&subject, "subject", "", "bodies of calls on behalf of this subject: ISSUER#SUB")
	cmd.Flags().StringVar(&ask.Call, "call", "", "bodies of this call")
	cmd.Flags().StringVar(&ask.Reason, "reason", "", "why; it is recorded (required)")
	cmd.Flags().DurationVar(&wait, "wait", 2*time.Minute, "how long to wait for the push")
	cmd.MarkFlagsMutuallyExclusive("subject", "call")
	cmd.MarkFlagsOneRequired("subject", "call")
	if err := cmd.MarkFlagRequired("reason"); err != nil {
		panic(err) // the flag is defined a few lines up
	}
	return cmd
}
