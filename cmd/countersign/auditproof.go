package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"countersign/audit"
)

func auditProofCommand() *cobra.Command {
	var from recordFlags
	var need quorumFlags
	var keys, kind, to, check string
	cmd := &cobra.Command{
		Use:   "proof [<call> | <number>]",
		Short: "Prove one entry to somebody who has a public key and nothing else",
		Long: `Writes a proof (c2sp.org/tlog-proof) that the record holds an entry: the one that
ended a call (c_…, or its beginning), or the one with a number, for which --log has
to name one run where there are several. The file holds the entry, the hashes that lead from it to a signed checkpoint, and the
checkpoint. It shows that entry, and says nothing of any other.

Prints the log's key as a vkey: with it, any program for such proofs can check the
file. So does --check, given a file with that vkey, or with the enforcer's name and
its key's .pub line (prod-1 ssh-ed25519 AAAA…); with --witness-key or
--witness-policy it demands cosignatures, too, and without --check chooses a
checkpoint that has them.

Exits with 1 if there is no such entry, or the proof does not hold.`,
		Example: `  countersign audit proof c_4kq2m7… --repo ./audit --checkpoint-key checkpoint_key.pub -o call.tlog-proof
  countersign audit proof --check call.tlog-proof --checkpoint-key checkpoint_key.pub`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if (len(args) == 1) == (check != "") {
				return errors.New("name a call or the number of an entry, or a file with --check")
			}
			pub, err := os.ReadFile(keys)
			if err != nil {
				return err
			}
			cfg := audit.ProveConfig{Prefix: from.prefix, Kind: audit.Kind(kind)}
			if cfg.Keys, err = audit.ParseLogKeys(pub); err != nil {
				return fmt.Errorf("%s: %w", keys, err)
			}
			if unnamed := cfg.Keys.Unnamed(); unnamed != "" {
				fmt.Fprintln(cmd.ErrOrStderr(), "note:", unnamed)
			}
			if cfg.Quorum, err = need.quorum(); err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if check != "" {
				file, err := os.ReadFile(check)
				if err != nil {
					return err
				}
				p, err := audit.OpenProof(file, cfg.Keys, cfg.Quorum)
				if err != nil {
					fmt.Fprintln(out, err)
					return errFound
				}
				fmt.Fprintf(out, "proven: %s\n", provenEntry(p))
				for _, c := range p.Cosigned {
					fmt.Fprintf(out, "cosigned by %s at %s\n", c.Witness, c.Time.Format(time.RFC3339))
				}
				fmt.Fprintln(out, p.Entry.Show())
				return nil
			}
			if cfg.Seq, err = strconv.ParseUint(args[0], 10, 63); err != nil {
				cfg.Call = args[0]
			}
			repos, err := from.open(cmd.Context())
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, repos.close()) }()
			for _, repo := range repos {
				cfg.Earlier = append(cfg.Earlier, objects(repo))
			}
			last := len(cfg.Earlier) - 1
			newest := cfg.Earlier[last]
			cfg.Earlier = cfg.Earlier[:last]
			p, err := audit.Prove(cmd.Context(), newest, cfg)
			if errors.Is(err, audit.ErrNoEntry) || errors.Is(err, audit.ErrProof) || errors.Is(err, audit.ErrQuorum) {
				fmt.Fprintln(out, err)
				return errFound
			}
			if err != nil {
				return err
			}
			vkey, err := p.LogKey(cfg.Keys)
			if err != nil {
				return err
			}
			if to == "-" {
				_, err := out.Write(p.Encode())
				return err
			}
			if to == "" {
				to = args[0] + ".tlog-proof"
			}
			if err := os.WriteFile(to, p.Encode(), 0o644); err != nil {
				return err
			}
			fmt.Fprintf(out, "%s: %s\nlog %s\n", to, provenEntry(p), vkey)
			return nil
		},
	}
	from.add(cmd)
	need.add(cmd)
	fl := cmd.Flags()
	fl.StringVar(&keys, "checkpoint-key", "", "file of who may sign checkpoints: a line each, <enforcer> ssh-ed25519 <key>, or a log's vkey (required)")
	fl.StringVar(&kind, "kind", "", "of a call's entries, the last of this kind (intent, approval, …) in place of the one that ended it")
	fl.StringVarP(&to, "output", "o", "", "file to write, - for standard output; by default <what was named>.tlog-proof")
	fl.StringVar(&check, "check", "", "check this proof; needs no record")
	if err := cmd.MarkFlagRequired("checkpoint-key"); err != nil {
		panic(err) // the flag is defined a few lines up
	}
	return cmd
}

// provenEntry says which entry a proof is of.
func provenEntry(p audit.Proof) string {
	of := string(p.Entry.Kind)
	if p.Entry.Call != "" {
		of += " of " + safe(p.Entry.Call)
	}
	return fmt.Sprintf("entry %d of %s (%s), in its tree of %d entries", p.Entry.Seq, p.Checkpoint.Origin, of, p.Checkpoint.Size)
}
