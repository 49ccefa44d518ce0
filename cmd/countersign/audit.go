package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"countersign/audit"
	"countersign/gitsync"
	"countersign/rules"
)

// recordFlags say which record is read, and how it is reached.
type recordFlags struct {
	repo, prefix, token, sshKey, knownHosts string
}

func (f *recordFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.repo, "repo", ".", "the record: a clone's folder, or a Git URL")
	fl.StringVar(&f.prefix, "log", "", "only branches that begin so, e.g. audit/prod-1/")
	fl.StringVar(&f.token, "git-token-file", "", "file with a token, for a URL over HTTPS")
	fl.StringVar(&f.sshKey, "git-ssh-key", "", "OpenSSH private key file, for a URL over SSH")
	fl.StringVar(&f.knownHosts, "git-known-hosts", "", "known_hosts file, for a URL over SSH")
}

// open opens a clone in place, or clones a URL into a temporary folder.
func (f *recordFlags) open(ctx context.Context) (*gitsync.Repo, error) {
	var auth gitsync.Auth
	for _, from := range []struct {
		path string
		take func([]byte)
	}{
		{f.token, func(b []byte) {
			t := strings.TrimSpace(string(b))
			auth.Token = func(context.Context) (string, error) { return t, nil }
		}},
		{f.sshKey, func(b []byte) { auth.SSHKeyPEM = b }},
		{f.knownHosts, func(b []byte) { auth.KnownHosts = b }},
	} {
		if from.path == "" {
			continue
		}
		b, err := os.ReadFile(from.path)
		if err != nil {
			return nil, err
		}
		from.take(b)
	}
	return gitsync.OpenClone(ctx, f.repo, auth)
}

func auditCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Read the record, and prove it",
		Long: `Reads the record from a clone or a URL. Everything works offline on a clone:
"verify" needs the public keys only.`,
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(
		auditLogCommand(),
		auditShowCommand(),
		auditVerifyCommand(),
		auditReplayCommand(),
		auditMasksCommand(),
		auditProofCommand(),
		auditWitnessCommand(),
		auditKeyCommand(),
	)
	return cmd
}

func auditLogCommand() *cobra.Command {
	var from recordFlags
	var last int
	var kinds []string
	var call, since string
	cmd := &cobra.Command{
		Use:     "log",
		Short:   "Print the record, an entry a line, oldest first",
		Example: "  countersign audit log --repo ./audit --last 20",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			var after time.Time
			if since != "" {
				var err error
				if after, err = time.Parse(time.RFC3339, since); err != nil {
					return fmt.Errorf("--since: %w; want RFC 3339, e.g. 2026-11-23T14:00:00Z", err)
				}
			}
			repo, err := from.open(cmd.Context())
			if err != nil {
				return err
			}
			defer repo.Close()
			var lines []string
			for e, err := range entries(repo, from.prefix) {
				if err != nil {
					return err
				}
				if len(kinds) > 0 && !slices.Contains(kinds, string(e.Kind)) || call != "" && e.Call != call || e.Time.Before(after) {
					continue
				}
				if lines = append(lines, e.Line()); last > 0 && len(lines) > last {
					lines = lines[1:]
				}
			}
			for _, l := range lines {
				fmt.Fprintln(cmd.OutOrStdout(), l)
			}
			return nil
		},
	}
	from.add(cmd)
	cmd.Flags().IntVar(&last, "last", 0, "only so many, the newest")
	cmd.Flags().StringSliceVar(&kinds, "kind", nil, "only these kinds: intent, outcome, refused, approval, credential, policy, freeze, …")
	cmd.Flags().StringVar(&call, "call", "", "only this call")
	cmd.Flags().StringVar(&since, "since", "", "only from this time on, RFC 3339")
	return cmd
}

func auditShowCommand() *cobra.Command {
	var from recordFlags
	cmd := &cobra.Command{
		Use:     "show <id>",
		Short:   "Print all entries of a call or an approval in full",
		Long:    "Prints every entry that names the id: a call's (c_…, as the agent was told it) or an approval's (ap_…).",
		Example: "  countersign audit show --repo ./audit c_4kq2m7…",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			repo, err := from.open(cmd.Context())
			if err != nil {
				return err
			}
			defer repo.Close()
			found := false
			for e, err := range entries(repo, from.prefix) {
				if err != nil {
					return err
				}
				if e.Call == args[0] || e.Approval == args[0] {
					found = true
					fmt.Fprintln(cmd.OutOrStdout(), e.Show())
				}
			}
			if !found {
				fmt.Fprintf(cmd.OutOrStdout(), "no entry names %s\n", args[0])
				return errFound
			}
			return nil
		},
	}
	from.add(cmd)
	return cmd
}

func auditReplayCommand() *cobra.Command {
	var from recordFlags
	cmd := &cobra.Command{
		Use:   "replay <policy directory>",
		Short: "Decide the recorded requests again under another policy (exit 1 if any differs)",
		Long: `Decides every recorded request again, at its own time, under the policy in the
directory, and prints those that come out differently: what a pull request would
have changed. Requests whose arguments the record does not hold in full are
skipped, and counted.`,
		Example: "  countersign audit replay --repo ./audit ./policy",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := loadPolicy(args)
			if err != nil {
				return err
			}
			repo, err := from.open(cmd.Context())
			if err != nil {
				return err
			}
			defer repo.Close()
			r, err := audit.Replay(entries(repo, from.prefix), func(req rules.Request) rules.Decision { return p.Decide(req) })
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			for _, c := range r.Changed {
				fmt.Fprintf(out, "%s\n    %s\n", c, c.Entry.Line())
			}
			fmt.Fprintf(out, "%s decided again: %d the same, %d different, %d skipped\n", count(r.Requests, "request"), r.Same, len(r.Changed), len(r.Skipped))
			if len(r.Changed) > 0 {
				return errFound
			}
			return nil
		},
	}
	from.add(cmd)
	return cmd
}

// entries gives the entries of every log in the repository: log by log in the
// order of their first entry, each in its own order. Nothing is verified here.
func entries(repo *gitsync.Repo, prefix string) iter.Seq2[audit.Entry, error] {
	if prefix == "" {
		prefix = "audit/"
	}
	return func(yield func(audit.Entry, error) bool) {
		all, err := readLogs(repo, prefix)
		if err == nil && len(all) == 0 {
			err = fmt.Errorf("no record here: no branch begins with %s (a clone needs all branches: git clone --mirror)", prefix)
		}
		if err != nil {
			yield(audit.Entry{}, err)
			return
		}
		for _, log := range all {
			for _, e := range log {
				if !yield(e, nil) {
					return
				}
			}
		}
	}
}

func readLogs(repo *gitsync.Repo, prefix string) ([][]audit.Entry, error) {
	branches, err := repo.Branches(prefix)
	if err != nil {
		return nil, err
	}
	logs := map[string][]audit.Entry{} // by audit/<enforcer>/<incarnation>; months sort
	for _, branch := range branches {
		tip, ok, err := repo.Tip(branch)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		es, err := readBranch(repo, tip)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", branch, err)
		}
		logs[path.Dir(branch)] = append(logs[path.Dir(branch)], es...)
	}
	var out [][]audit.Entry
	for _, log := range logs {
		if len(log) > 0 {
			out = append(out, log)
		}
	}
	slices.SortFunc(out, func(a, b []audit.Entry) int { return a[0].Time.Compare(b[0].Time) })
	return out, nil
}

// readBranch reads the entry files of a commit, in the order of their names,
// which is the order of the entries.
func readBranch(repo *gitsync.Repo, commit string) ([]audit.Entry, error) {
	var out []audit.Entry
	var walk func(dir string) error
	walk = func(dir string) error {
		names, err := repo.Files(commit, dir)
		if err != nil {
			return err
		}
		for _, n := range names {
			full := path.Join(dir, n)
			if strings.HasSuffix(n, "/") {
				if err := walk(full); err != nil {
					return err
				}
				continue
			}
			if path.Ext(n) != ".jsonl" {
				continue
			}
			b, err := repo.File(commit, full)
			if err != nil {
				return err
			}
			for e, err := range audit.ReadEntries(bytes.NewReader(b)) {
				if err != nil && !errors.Is(err, io.EOF) {
					return fmt.Errorf("%s: %w", full, err)
				}
				out = append(out, e)
			}
		}
		return nil
	}
	if err := walk("entries"); err != nil {
		return nil, err
	}
	slices.SortStableFunc(out, func(a, b audit.Entry) int {
		switch {
		case a.Seq < b.Seq:
			return -1
		case a.Seq > b.Seq:
			return 1
		}
		return 0
	})
	return out, nil
}
