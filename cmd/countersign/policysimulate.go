package main

import (
	"fmt"
	"iter"

	"github.com/spf13/cobra"

	"countersign/audit"
	"countersign/audit/index"
	"countersign/rules"
)

func policySimulateCommand() *cobra.Command {
	from := readFlags{recordFlags: recordFlags{flag: "record"}}
	cmd := &cobra.Command{
		Use:   "simulate <policy directory> --record <repository>",
		Short: "Decide the recorded requests again under a policy (exit 1 if any differs)",
		Long: `Decides every recorded request again, at its own time, under the policy in the
directory, and prints those that come out differently: what a pull request would
have changed. Requests whose arguments the record does not hold in full are
skipped, and counted.`,
		Example: "  countersign policy simulate ./policy --record ./audit",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := loadPolicy(args)
			if err != nil {
				return err
			}
			return from.read(cmd, func(r *reading) error {
				asked := r.Entries(cmd.Context(), index.Filter{Log: from.prefix, Kinds: []string{string(audit.KindIntent), string(audit.KindRefused)}}, false)
				again, err := audit.Replay(justEntries(asked), func(req rules.Request) rules.Decision { return p.Decide(req) })
				if err != nil {
					return err
				}
				out := cmd.OutOrStdout()
				for _, c := range again.Changed {
					fmt.Fprintf(out, "%s\n    %s\n", c, c.Entry.Line())
				}
				fmt.Fprintf(out, "%s decided again: %d the same, %d different, %d skipped\n", count(again.Requests, "request"), again.Same, len(again.Changed), len(again.Skipped))
				if len(again.Changed) > 0 {
					return errFound
				}
				return nil
			})
		},
	}
	from.add(cmd)
	return cmd
}

func justEntries(found iter.Seq2[index.Found, error]) iter.Seq2[audit.Entry, error] {
	return func(yield func(audit.Entry, error) bool) {
		for f, err := range found {
			if !yield(f.Entry, err) {
				return
			}
		}
	}
}
