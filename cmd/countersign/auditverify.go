package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"countersign/audit"
	"countersign/gitsync"
)

func auditVerifyCommand() *cobra.Command {
	var from recordFlags
	var signers, keys string
	var anchors []string
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Prove that the record is whole and unchanged (exit 1 if not)",
		Long: `Checks every commit's signature, every checkpoint, every entry against its
checkpoint's tree, and every link between months and runs. Finds edits,
reorderings, gaps, insertions and forks, and names the first entry that does not
hold; finds a cut end if an anchor (--anchor, or a later run's first entry) holds
a checkpoint from beyond the cut.

What it cannot show: a thief of both private keys can rewrite what no anchor has
seen. Keep checkpoints elsewhere.`,
		Example: `  countersign audit verify --repo ./audit --commit-signers audit_signers --checkpoint-key checkpoint.pub`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := verifyConfig(signers, keys, anchors)
			if err != nil {
				return err
			}
			cfg.Prefix = from.prefix
			repo, err := from.open(cmd.Context())
			if err != nil {
				return err
			}
			defer repo.Close()
			report, err := audit.Verify(cmd.Context(), objects(repo), cfg)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			for _, n := range report.Notes {
				fmt.Fprintln(out, "note:", n)
			}
			fmt.Fprintln(out, report)
			if !report.OK() {
				return errFound
			}
			return nil
		},
	}
	from.add(cmd)
	cmd.Flags().StringVar(&signers, "commit-signers", "", "allowed_signers file: who may sign commits (required)")
	cmd.Flags().StringVar(&keys, "checkpoint-key", "", "file of ssh-ed25519 public keys: who may sign checkpoints (required)")
	cmd.Flags().StringSliceVar(&anchors, "anchor", nil, "file with a signed checkpoint kept elsewhere; may be repeated")
	for _, f := range []string{"commit-signers", "checkpoint-key"} {
		if err := cmd.MarkFlagRequired(f); err != nil {
			panic(err) // the flags are defined three lines up
		}
	}
	return cmd
}

func verifyConfig(signers, keys string, anchors []string) (audit.VerifyConfig, error) {
	var cfg audit.VerifyConfig
	allowed, err := os.ReadFile(signers)
	if err != nil {
		return cfg, err
	}
	trust, err := gitsync.Signers{AllowedSigners: allowed}.Parse()
	if err != nil {
		return cfg, fmt.Errorf("%s: %w", signers, err)
	}
	cfg.Signer = trust.Commit
	pub, err := os.ReadFile(keys)
	if err != nil {
		return cfg, err
	}
	if cfg.Keys, err = audit.ParsePublicKeys(pub); err != nil {
		return cfg, fmt.Errorf("%s: %w", keys, err)
	}
	for _, a := range anchors {
		b, err := os.ReadFile(a)
		if err != nil {
			return cfg, err
		}
		cfg.Anchors = append(cfg.Anchors, string(b))
	}
	return cfg, nil
}

// objects is a repository as verification wants to see it.
func objects(r *gitsync.Repo) audit.Repository {
	return audit.Repository{
		Branches: r.Branches, Tip: r.Tip, Blob: r.Blob,
		Commit: func(hash string) (audit.Commit, error) {
			c, err := r.Commits(hash)
			return audit.Commit{Tree: c.Tree, Parents: c.Parents, When: c.When, Message: c.Message, Raw: c.Raw}, err
		},
		Tree: func(hash string) ([]audit.Node, error) {
			nodes, err := r.Tree(hash)
			out := make([]audit.Node, len(nodes))
			for i, n := range nodes {
				out[i] = audit.Node(n)
			}
			return out, err
		},
	}
}
