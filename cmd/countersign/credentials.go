package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

func credentialsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "credentials",
		Short: "List and revoke the credentials that live now",
		Long:  "Shows whom live credentials were minted for, and revokes them. Never a value.\n" + gateHelp,
	}
	cmd.AddCommand(credentialsListCommand(), credentialsRevokeCommand())
	return cmd
}

// lent is a live credential as the enforcer tells it; see enforcer/leases.go.
type lent struct {
	Key, Credential, Server, Issuer, Sub, Client, Call, Username, Ending string
	PerCall                                                              bool `json:"per_call"`
	Expires                                                              time.Time
	Uses                                                                 int
}

// until is when it ends by itself; "" while it is being minted.
func (m lent) until() string {
	if m.Expires.IsZero() {
		return "-"
	}
	return m.Expires.UTC().Format("2006-01-02 15:04:05 MST")
}

func (m lent) who() string { return m.Issuer + "#" + m.Sub }

func credentialsListCommand() *cobra.Command {
	var gate gateFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the live credentials: who, what, which call, until when",
		Long: `Lists the credentials that live in this enforcer. That somebody looked is recorded.
` + gateHelp,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			var raw json.RawMessage
			if err := gate.ask(cmd.Context(), http.MethodGet, "/credentials", nil, &raw); err != nil {
				return err
			}
			if asJSON {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				return enc.Encode(raw)
			}
			var out struct{ Credentials []lent }
			if err := json.Unmarshal(raw, &out); err != nil {
				return fmt.Errorf("its answer cannot be read: %w", err)
			}
			if len(out.Credentials) == 0 {
				fmt.Fprintln(cmd.OutOrStdout(), "no credential lives")
				return nil
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "KEY\tCREDENTIAL\tSERVER\tFOR\tCLIENT\tCALL\tUSER\tCALLS\tUNTIL\tENDING")
			for _, m := range out.Credentials {
				call := m.Call
				if !m.PerCall {
					call += " and later"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\n",
					m.Key, m.Credential, m.Server, m.who(), m.Client, call, m.Username, m.Uses, m.until(), m.Ending)
			}
			return w.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	gate.add(cmd)
	return cmd
}

func credentialsRevokeCommand() *cobra.Command {
	var gate gateFlags
	var subject string
	var asJSON bool
	var ask struct {
		All        bool   `json:"all,omitempty"`
		Key        string `json:"key,omitempty"`
		Issuer     string `json:"issuer,omitempty"`
		Sub        string `json:"sub,omitempty"`
		Client     string `json:"client,omitempty"`
		Server     string `json:"server,omitempty"`
		Credential string `json:"credential,omitempty"`
		Reason     string `json:"reason"`
	}
	cmd := &cobra.Command{
		Use:   "revoke (<key> | --all | --subject … --client … --server … --credential …) --reason …",
		Short: "Revoke live credentials at once; calls that use them end",
		Long: `Revokes credentials at their source, at once. A call under way that uses one fails,
and its agent is told the reason. The next call gets a new one: to stop that, use
"countersign freeze". Several flags together revoke what agrees with all of them.

Exit status 1: some are not revoked yet (their source cannot be reached, say). It
is repeated until it is done; "countersign credentials list" shows them until then.
` + gateHelp,
		Example: `  countersign credentials revoke l_4kq2m7… --reason "seen in a chat"
  countersign credentials revoke --subject https://id.example.com#alice --reason "laptop stolen"
  countersign credentials revoke --credential customers-rw --reason "the role was too wide"`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				ask.Key = args[0]
			}
			if subject != "" {
				var ok bool
				if ask.Issuer, ask.Sub, ok = strings.Cut(subject, "#"); !ok || ask.Issuer == "" || ask.Sub == "" {
					return fmt.Errorf("--subject %q: want ISSUER#SUB, as the list has them", subject)
				}
			}
			if !ask.All && ask.Key+ask.Issuer+ask.Client+ask.Server+ask.Credential == "" {
				return errors.New("revoke what? want the key of a credential (see `countersign credentials list`), or a flag")
			}
			body, err := json.Marshal(ask)
			if err != nil {
				return err
			}
			var raw json.RawMessage
			if err := gate.ask(cmd.Context(), http.MethodPost, "/credentials/revoke", body, &raw); err != nil {
				return fmt.Errorf("not revoked: %w", err)
			}
			var out struct {
				Revoked, Pending []lent
				Warning          string
			}
			if err := json.Unmarshal(raw, &out); err != nil {
				return fmt.Errorf("its answer cannot be read: %w", err)
			}
			if out.Warning != "" {
				fmt.Fprintln(cmd.ErrOrStderr(), "countersign: warning:", out.Warning)
			}
			if asJSON {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				if err := enc.Encode(raw); err != nil {
					return err
				}
			} else {
				sayEach(cmd, out.Revoked, "revoked")
				sayEach(cmd, out.Pending, "not revoked yet, it is repeated")
				if len(out.Revoked)+len(out.Pending) == 0 {
					fmt.Fprintln(cmd.OutOrStdout(), "no such credential lives")
				}
			}
			if len(out.Pending) > 0 {
				return errFound
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.BoolVar(&ask.All, "all", false, "every live credential of this enforcer")
	f.StringVar(&subject, "subject", "", "those minted for this subject: ISSUER#SUB")
	f.StringVar(&ask.Client, "client", "", "those minted for calls through this client (client_id)")
	f.StringVar(&ask.Server, "server", "", "those of this server of the policy")
	f.StringVar(&ask.Credential, "credential", "", "those of this name in the policy")
	f.StringVar(&ask.Reason, "reason", "", "why; the agents are told (required)")
	f.BoolVar(&asJSON, "json", false, "as JSON")
	gate.add(cmd)
	for _, name := range []string{"subject", "client", "server", "credential"} {
		cmd.MarkFlagsMutuallyExclusive("all", name)
	}
	if err := cmd.MarkFlagRequired("reason"); err != nil {
		panic(err) // the flag is defined a few lines up
	}
	return cmd
}

func sayEach(cmd *cobra.Command, all []lent, what string) {
	for _, m := range all {
		fmt.Fprintf(cmd.OutOrStdout(), "%s  %s: %s of %s, minted for %s\n", m.Key, what, m.Credential, m.Server, m.who())
	}
}
