package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"countersign/enforcer/freeze"
)

// gateFlags say which enforcer is meant, and how it is reached.
type gateFlags struct {
	url, tokenFile string
	open           bool // --url alone will do: what is asked there needs no token
}

func (g *gateFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&g.url, "url", "", "public URL of the enforcer, instead of the one on this machine")
	cmd.Flags().StringVar(&g.tokenFile, "token-file", "", "file with an access token for <audience>/operate, for --url")
}

const gateHelp = `
It reaches the enforcer of this machine through control.sock in
COUNTERSIGN_STATE_DIR, as the enforcer's own user or as root; or, with --url and
--token-file, any enforcer over HTTPS, as a person whom the policy names under
"freeze" in countersign.yaml.`

func freezeCommand() *cobra.Command {
	var gate gateFlags
	var t freeze.Target
	var subject, reason string
	cmd := &cobra.Command{
		Use:   "freeze (--all | --subject … --client … --server … --tool …) --reason …",
		Short: "Stop everything, or what one subject, client, server or tool does; at once",
		Long: `Refuses new calls at once, ends open streams and callers that wait for a person,
cancels calls under way, and revokes their credentials. It holds across restarts,
until "countersign unfreeze". Several flags together stop the calls that agree
with all of them. The agents are told the reason.
` + gateHelp,
		Example: `  countersign freeze --all --reason "incident 42: agents are being phished"
  countersign freeze --subject https://id.example.com#alice --reason "laptop stolen"
  countersign freeze --server customers --tool execute --reason "migration until 18:00"`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if subject != "" {
				var ok bool
				if t.Issuer, t.Sub, ok = strings.Cut(subject, "#"); !ok || t.Issuer == "" || t.Sub == "" {
					return fmt.Errorf("--subject %q: want ISSUER#SUB, as the record has them", subject)
				}
			}
			body, err := json.Marshal(struct {
				freeze.Target
				Reason string `json:"reason"`
			}{t, reason})
			if err != nil {
				return err
			}
			var f struct {
				freeze.Freeze
				Warning string `json:"warning"`
			}
			if err := gate.ask(cmd.Context(), http.MethodPost, "/freezes", body, &f); err != nil {
				return fmt.Errorf("not frozen: %w", err)
			}
			if f.Warning != "" {
				fmt.Fprintln(cmd.ErrOrStderr(), "countersign: warning:", f.Warning)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s  frozen: %s\n", f.ID, f.Target)
			return nil
		},
	}
	fl := cmd.Flags()
	fl.BoolVar(&t.All, "all", false, "everything")
	fl.StringVar(&subject, "subject", "", "calls on behalf of this subject: ISSUER#SUB")
	fl.StringVar(&t.Client, "client", "", "calls through this client (client_id)")
	fl.StringVar(&t.Server, "server", "", "calls to this server of the policy")
	fl.StringVar(&t.Tool, "tool", "", "calls of this tool, by the server's own name for it")
	fl.StringVar(&reason, "reason", "", "why; the agents are told (required)")
	gate.add(cmd)
	cmd.MarkFlagsOneRequired("all", "subject", "client", "server", "tool")
	for _, f := range []string{"subject", "client", "server", "tool"} {
		cmd.MarkFlagsMutuallyExclusive("all", f)
	}
	if err := cmd.MarkFlagRequired("reason"); err != nil {
		panic(err) // the flag is defined a few lines up
	}
	return cmd
}

func unfreezeCommand() *cobra.Command {
	var gate gateFlags
	var all bool
	var reason string
	cmd := &cobra.Command{
		Use:     "unfreeze (<id> | --all) [--reason …]",
		Short:   "Lift a freeze, or all of them",
		Long:    "Lifts what \"countersign freezes\" lists. The record says so first, and why, if you say it." + "\n" + gateHelp,
		Example: "  countersign unfreeze fz_4kq2m7… --reason \"the laptop was found\"\n  countersign unfreeze --all",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) == 1) {
				return errors.New("unfreeze what? want the id of a freeze (see `countersign freezes`), or --all")
			}
			var body []byte
			if reason != "" {
				var err error
				if body, err = json.Marshal(map[string]string{"reason": reason}); err != nil {
					return err
				}
			}
			var lifted []freeze.Freeze
			if all {
				var out struct{ Unfrozen []freeze.Freeze }
				if err := gate.ask(cmd.Context(), http.MethodDelete, "/freezes", body, &out); err != nil {
					return fmt.Errorf("not unfrozen: %w", err)
				}
				lifted = out.Unfrozen
			} else {
				lifted = make([]freeze.Freeze, 1)
				if err := gate.ask(cmd.Context(), http.MethodDelete, "/freezes/"+url.PathEscape(args[0]), body, &lifted[0]); err != nil {
					return fmt.Errorf("not unfrozen: %w", err)
				}
			}
			for _, f := range lifted {
				fmt.Fprintf(cmd.OutOrStdout(), "%s  unfrozen: %s\n", f.ID, f.Target)
			}
			if len(lifted) == 0 {
				fmt.Fprintln(cmd.OutOrStdout(), "nothing was frozen")
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "every freeze")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	gate.add(cmd)
	return cmd
}

func freezesCommand() *cobra.Command {
	var gate gateFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "freezes",
		Short: "List what is frozen",
		Long:  "Lists the freezes that stand, oldest first." + "\n" + gateHelp,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			var out struct {
				Freezes []freeze.Freeze `json:"freezes"`
				Unknown string          `json:"unknown,omitempty"`
			}
			if err := gate.ask(cmd.Context(), http.MethodGet, "/freezes", nil, &out); err != nil {
				return err
			}
			if asJSON {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				return enc.Encode(out)
			}
			if out.Unknown != "" {
				fmt.Fprintln(cmd.ErrOrStderr(), "countersign: warning:", out.Unknown)
			}
			if len(out.Freezes) == 0 {
				fmt.Fprintln(cmd.OutOrStdout(), "nothing is frozen")
				return nil
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "ID\tFROZEN\tSINCE\tBY\tREASON")
			for _, f := range out.Freezes {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", f.ID, f.Target, f.Since.UTC().Format("2006-01-02 15:04 MST"), f.By, f.Reason)
			}
			return w.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	gate.add(cmd)
	return cmd
}

// maxGateAnswer bounds what an enforcer may answer.
const maxGateAnswer = 4 << 20

// ask makes one request of the enforcer, and reads its answer into out.
func (g *gateFlags) ask(ctx context.Context, method, path string, body []byte, out any) error {
	client, base, token, err := g.client()
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := client.Do(req)
	switch {
	case g.url == "" && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)):
		return fmt.Errorf("no enforcer answers at control.sock in %s: is it running there, and past its start? (COUNTERSIGN_STATE_DIR names the directory, --url another machine's enforcer)", stateDir())
	case g.url == "" && errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("control.sock in %s is for the enforcer's own user, and for root: %w", stateDir(), fs.ErrPermission)
	case err != nil:
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxGateAnswer))
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		var said struct{ Error string }
		if json.Unmarshal(b, &said) != nil || said.Error == "" {
			said.Error = "it answered " + resp.Status
		}
		return &gateError{resp.StatusCode, said.Error}
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("its answer cannot be read (%s): %w", resp.Status, err)
	}
	return nil
}

// gateError is what an enforcer answers in the place of what was asked.
type gateError struct {
	status int
	said   string
}

func (e *gateError) Error() string { return e.said }

// client is the way to the enforcer that the flags name.
func (g *gateFlags) client() (client *http.Client, base, token string, err error) {
	if (g.url == "") != (g.tokenFile == "") && !(g.open && g.url != "") {
		return nil, "", "", errors.New("--url and --token-file go together")
	}
	if g.url == "" {
		path, err := controlPath(stateDir())
		if err != nil {
			return nil, "", "", err
		}
		return &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "unix", path)
			},
		}}, "http://control", "", nil
	}
	u, err := url.Parse(g.url)
	if err != nil || u.Host == "" || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.User != nil {
		return nil, "", "", fmt.Errorf("--url %q: want scheme://host[:port]", g.url)
	}
	if ip := net.ParseIP(u.Hostname()); u.Scheme != "https" && !(u.Scheme == "http" && (u.Hostname() == "localhost" || ip != nil && ip.IsLoopback())) {
		return nil, "", "", fmt.Errorf("--url %q: want https, so that nobody reads the token on the way", g.url)
	}
	if g.tokenFile != "" {
		b, err := os.ReadFile(g.tokenFile)
		if err != nil {
			return nil, "", "", fmt.Errorf("--token-file: %w", err)
		}
		if token = strings.TrimSpace(string(b)); token == "" {
			return nil, "", "", fmt.Errorf("--token-file: %s is empty", g.tokenFile)
		}
	}
	return &http.Client{Timeout: 30 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		u.Scheme + "://" + u.Host, token, nil
}

// stateDir is the state directory of the enforcer of this environment.
func stateDir() string {
	if dir := os.Getenv("COUNTERSIGN_STATE_DIR"); dir != "" {
		return dir
	}
	for _, f := range configFields() {
		if f.name == "COUNTERSIGN_STATE_DIR" {
			return f.def
		}
	}
	return "."
}
