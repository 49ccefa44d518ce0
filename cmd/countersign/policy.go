package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"countersign/enforcer"
	"countersign/enforcer/mask"
	"countersign/rules"
)

func policyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Check a policy directory, explain and simulate its decisions, and lock the tools of its servers",
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(policyCheckCommand(), policyExplainCommand(), policySimulateCommand(), policyLockCommand(), policyMaskHashCommand())
	return cmd
}

func policyCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check [directory]",
		Short: "Check a policy: files, rules, conditions, and its own test cases",
		Long: `Reads a policy directory the way the enforcer would, says every problem as
file:line:column, and runs the cases in tests/*.yaml. Exit 1 when anything was
found: use it in the policy repository's CI.`,
		Example: "  countersign policy check ./policy",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			out := cmd.OutOrStdout()
			p, err := loadPolicy(args)
			var problems rules.Problems
			if err != nil && !errors.As(err, &problems) {
				return err
			}
			cases := 0
			if len(problems) == 0 {
				for _, c := range p.Cases() {
					cases++
					if c.Problem != nil {
						problems = append(problems, *c.Problem)
					}
				}
			}
			for _, pr := range problems {
				fmt.Fprintln(out, pr)
			}
			if len(problems) > 0 {
				fmt.Fprintf(out, "%s\n", count(len(problems), "problem"))
				return errFound
			}
			for _, hint := range p.Expired(time.Now()) {
				hint.Msg = "hint: " + hint.Msg
				fmt.Fprintln(out, hint)
			}
			fmt.Fprintf(out, "no problems: %s, %s\n", count(len(p.Servers()), "server"), count(cases, "case"))
			return nil
		},
	}
}

func policyExplainCommand() *cobra.Command {
	var req rules.Request
	var args, issuer, sub, email, claims, at string
	var groups []string
	cmd := &cobra.Command{
		Use:   "explain [directory]",
		Short: "Show how a policy would decide one request, rule by rule",
		Example: `  countersign policy explain ./policy --server customers --tool query \
    --sub alice --group support --args '{"sql":"SELECT 1"}'`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, dir []string) error {
			p, err := loadPolicy(dir)
			if err != nil {
				return err
			}
			req.Now = time.Now()
			if at != "" {
				if req.Now, err = time.Parse(time.RFC3339, at); err != nil {
					return fmt.Errorf("--now: %w; want RFC 3339, e.g. 2026-11-23T14:00:00Z", err)
				}
			}
			if args != "" {
				if !json.Valid([]byte(args)) {
					return fmt.Errorf("--args: not JSON: %s", args)
				}
				req.Args = []byte(args)
			}
			req.Subject = rules.Subject{Issuer: issuer, Sub: sub, Email: email, Groups: groups}
			if claims != "" {
				if err := json.Unmarshal([]byte(claims), &req.Subject.Claims); err != nil || req.Subject.Claims == nil {
					return fmt.Errorf("--claims: not a JSON object: %s", claims)
				}
			}
			d := p.Decide(req)
			explain(cmd.OutOrStdout(), d)
			if d.Effect != rules.Deny {
				if s, ok := p.Server(req.Server); ok && d.Credential != "" {
					explainCredential(cmd.OutOrStdout(), req, s.Credentials[d.Credential])
				}
				explainQuotas(cmd.OutOrStdout(), p.QuotasOf(req.Server, req.Method, req.Tool))
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&req.Server, "server", "", "server (required)")
	f.StringVar(&req.Method, "method", "tools/call", "JSON-RPC method")
	f.StringVar(&req.Tool, "tool", "", "tool, or prompt, name")
	f.StringVar(&req.Resource, "resource", "", "resource URI")
	f.StringVar(&req.Client, "client", "", "the agent's client id")
	f.StringVar(&args, "args", "", "arguments, as JSON")
	f.StringVar(&issuer, "issuer", "", "the subject's issuer")
	f.StringVar(&sub, "sub", "", "the subject")
	f.StringVar(&email, "email", "", "the subject's e-mail")
	f.StringSliceVar(&groups, "group", nil, "the subject's groups")
	f.StringVar(&claims, "claims", "", "the other claims of the subject's token, as a JSON object")
	f.StringVar(&at, "now", "", "time of the request, RFC 3339")
	if err := cmd.MarkFlagRequired("server"); err != nil {
		panic(err) // the flag is defined three lines up
	}
	return cmd
}

// explain prints a decision with its trace.
func explain(w io.Writer, d rules.Decision) {
	fmt.Fprintf(w, "%s", strings.ToUpper(string(d.Effect)))
	if d.Baseline {
		fmt.Fprint(w, " (protocol baseline)")
	}
	fmt.Fprintf(w, "  %s\n", d.Reason)
	for _, a := range d.Asks {
		fmt.Fprintf(w, "  asks %d of %s, within %s: rule %s\n", a.Quorum, a.Approvers, d.Expires, a.Rule)
		switch {
		case len(a.ACR) > 0:
			fmt.Fprintf(w, "    they sign in to approve, with acr %s\n", strings.Join(a.ACR, " or "))
		case a.Via == rules.ViaOIDC:
			fmt.Fprintln(w, "    they sign in to approve")
		}
		if a.BreakGlass != "" {
			fmt.Fprintf(w, "    or one of %s breaks the glass\n", a.BreakGlass)
		}
	}
	switch g := d.Grant; {
	case len(d.Asks) == 0:
	case g.For == 0:
		fmt.Fprintln(w, "  the approval is good for one call")
	default:
		fmt.Fprintf(w, "  the approval is good for %s, for %s\n", g.For, map[string]string{
			rules.ScopeExact: "identical calls", rules.ScopeTool: "calls of the same tool that the same rules ask about", rules.ScopeServer: "whatever the same rules ask about on the server",
		}[g.Scope])
	}
	if d.MaskArgs {
		fmt.Fprintln(w, "  the server gets the arguments with their secrets masked")
	}
	if d.Credential != "" {
		fmt.Fprintf(w, "  credential %s\n", d.Credential)
	}
	if d.Record == rules.RecordFull {
		fmt.Fprintln(w, "  the record keeps its masked bodies")
	}
	for _, m := range d.Trace {
		state := "did not match"
		if m.Matched {
			state = "matched"
		}
		if m.Err != "" {
			state += ", its condition failed: " + m.Err
		}
		fmt.Fprintf(w, "  %-7s %s (%s:%d) %s\n", m.Effect, m.Rule, m.File, m.Line, state)
		for _, found := range m.Found {
			fmt.Fprintf(w, "          it %s\n", found)
		}
	}
	if len(d.Trace) == 0 && !d.Baseline {
		fmt.Fprintln(w, "  no rule names this server, method and tool")
	}
}

// explainCredential prints what the request makes of its credential's templates
// and words, or that the call is refused for it.
func explainCredential(w io.Writer, req rules.Request, c rules.Credential) {
	switch path, _, err := c.Fill(req); {
	case err != nil:
		fmt.Fprintf(w, "  refused all the same: %v\n", err)
	case c.Exchange == nil:
		fmt.Fprintf(w, "  Vault is asked at %s\n", path)
	}
	var args map[string]any
	if err := json.Unmarshal(req.Args, &args); err != nil {
		args = nil // absent, or no object: then there is no word in it
	}
	for _, name := range slices.Sorted(maps.Keys(c.Inject.Args)) {
		words := c.Inject.Args[name].Words
		word, text := args[name].(string)
		if _, ok := words[word]; words != nil && (!ok || !text) {
			fmt.Fprintf(w, "  refused all the same: argument %q must be one of %s\n", name, strings.Join(slices.Sorted(maps.Keys(words)), ", "))
		}
	}
}

// explainQuotas prints what counts the request.
func explainQuotas(w io.Writer, quotas []rules.Quota) {
	for _, q := range quotas {
		bounds := []string{}
		for _, b := range []struct {
			n    int
			what string
		}{{q.Minute, "a minute"}, {q.Day, "a day"}, {q.Concurrent, "at one time"}} {
			if b.n > 0 {
				bounds = append(bounds, fmt.Sprintf("%d %s", b.n, b.what))
			}
		}
		by := "all together"
		if len(q.Per) > 0 {
			by = "for each " + strings.Join(q.Per, " and ")
		}
		fmt.Fprintf(w, "  quota   %s: %s, %s\n", q.ID, strings.Join(bounds, ", "), by)
	}
}

func loadPolicy(args []string) (*rules.Policy, error) {
	dir := "."
	if len(args) == 1 {
		dir = args[0]
	}
	if st, err := os.Stat(dir); err != nil {
		return nil, err
	} else if !st.IsDir() {
		return nil, fmt.Errorf("%s is not a directory", dir)
	}
	if bare(dir) {
		return nil, fmt.Errorf("%s is a bare Git repository, which has no files: clone it, and name the clone", dir)
	}
	p, err := rules.Load(os.DirFS(dir), "working tree", mask.Detectors()...)
	if p != nil {
		p.FindSecrets(enforcer.SecretsByPolicy(p))
	}
	return p, err
}

// bare tells whether a directory is what Git keeps of a repository, and no working tree.
func bare(dir string) bool {
	for _, name := range []string{"HEAD", "objects", "refs"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return false
		}
	}
	return true
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
