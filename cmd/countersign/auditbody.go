package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"countersign/audit"
	"countersign/audit/index"
	"countersign/enforcer/wire"
)

func auditBodyCommand() *cobra.Command {
	var from readFlags
	var key, salt, of string
	cmd := &cobra.Command{
		Use:   "body <id> <file>",
		Short: "Show that a file is the body of an entry that keeps only its digest",
		Long: `Tells whether a file is the masked body, not kept in the record, of a call (its id)
or of an entry (<enforcer>/<run>@<number>). --key-file is digest.key in the state
directory of the enforcer that wrote it, without which nobody can tell. It prints the
body's salt, which shows the same to whoever has the file and the record: with --salt,
or by hand, since the entry's digest is the SHA-256 of the salt and the body.

A request's body is its parameters, masked, in canonical form; the request as it was
sent will do, if nothing in it was masked. An answer's is the message as the client
got it.

Exits with 1 if the file is no body of it, or nothing can be shown.`,
		Example: `  countersign audit body --repo ./audit --key-file state/digest.key c_4kq2m7… answer.json
  countersign audit body --repo ./audit --salt 9af3… prod-1@1042 answer.json`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (key == "") == (salt == "") {
				return errors.New("give --key-file or --salt")
			}
			file, err := os.ReadFile(args[1])
			if err != nil {
				return err
			}
			var prove func(ctx context.Context, r *reading, f index.Found, i int, text []byte) ([]byte, error)
			if salt != "" {
				with, err := hex.DecodeString(salt)
				if err != nil {
					return fmt.Errorf("--salt: %w", err)
				}
				prove = func(_ context.Context, _ *reading, f index.Found, i int, text []byte) ([]byte, error) {
					return with, audit.ProvenBy(with, f.Entry.Bodies[i], text)
				}
			} else {
				secret, err := os.ReadFile(key)
				if err != nil {
					return fmt.Errorf("--key-file: %w", err)
				}
				prove = proveBy(audit.NewSalts(secret))
			}
			return from.read(cmd, func(r *reading) error {
				s, err := r.tell(cmd.Context(), args[0])
				if err != nil {
					return refusedID(err, func(said string) { fmt.Fprintln(cmd.ErrOrStderr(), "countersign:", safe(said)) })
				}
				proven, out := false, cmd.OutOrStdout()
				for _, f := range s.Entries {
					for i, ref := range f.Entry.Bodies {
						if of != "" && ref.Of != of {
							continue
						}
						shown, err := []byte(nil), error(nil)
						for _, text := range textsOf(file) {
							if shown, err = prove(cmd.Context(), r, f, i, text); err == nil {
								break
							}
						}
						what := fmt.Sprintf("the %s of %s, %d bytes", safe(ref.Of), safe(f.ID()), ref.Size)
						switch {
						case err == nil:
							proven = true
							fmt.Fprintf(out, "%s is %s; salt %x\n", args[1], what, shown)
						case errors.Is(err, audit.ErrBodyDiffers), errors.Is(err, audit.ErrBodyUnproven):
							fmt.Fprintf(out, "not shown to be %s: %s\n", what, safe(err.Error()))
						default:
							return err
						}
					}
				}
				if !proven {
					return errFound
				}
				return nil
			})
		},
	}
	from.add(cmd)
	cmd.Flags().StringVar(&key, "key-file", "", "digest.key of the enforcer's state directory")
	cmd.Flags().StringVar(&salt, "salt", "", "the body's salt, in hex, as this command prints it")
	cmd.Flags().StringVar(&of, "of", "", "request or response: only these bodies")
	return cmd
}

// proveBy proves with the salts of a run's key, which its first entry names.
func proveBy(salts *audit.Salts) func(context.Context, *reading, index.Found, int, []byte) ([]byte, error) {
	starts := map[string]audit.Start{}
	return func(ctx context.Context, r *reading, f index.Found, i int, text []byte) ([]byte, error) {
		start, ok := starts[f.Origin]
		if !ok {
			s, err := r.entryAt(ctx, f.Origin+"@0", f.Origin, "0")
			if err != nil {
				return nil, fmt.Errorf("the start of %s: %w", f.Origin, err)
			}
			if err := json.Unmarshal(s.Entries[0].Entry.Detail, &start); err != nil {
				return nil, fmt.Errorf("the start of %s: %w", f.Origin, err)
			}
			starts[f.Origin] = start
		}
		return salts.Prove(f.Origin, start, f.Entry, i, text)
	}
}

// textsOf are the bodies that a file may be meant as: itself, itself without the
// line feed that an editor added, and what it asks, if it is a request.
func textsOf(file []byte) [][]byte {
	texts := [][]byte{file}
	if line, ok := bytes.CutSuffix(file, []byte("\n")); ok {
		texts = append(texts, line)
	}
	if m, err := wire.Parse(bytes.TrimSpace(file), wire.Limits{}); err == nil && m.Params.Present() {
		texts = append(texts, m.Canonical())
	}
	return texts
}
