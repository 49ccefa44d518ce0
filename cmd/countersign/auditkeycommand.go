package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"

	"github.com/caarlos0/env/v11"
	"github.com/spf13/cobra"

	"countersign/audit"
	"countersign/enforcer/mask"
)

func auditKeyCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Print the public halves of the record's keys, for auditors",
		Long: `Reads the variables by which "serve" finds the record's keys (COUNTERSIGN_ID,
COUNTERSIGN_AUDIT_…_KEY…, and Vault's where a key is there) and prints what an auditor
needs: lines for an allowed_signers file, which names who signs commits, and for a file
of checkpoint keys. With --dir, both files are written there. While keys change, the
ones before are among them.`,
		Example: "  countersign audit key --dir .",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := keyConfig(os.Environ())
			if err != nil {
				return err
			}
			m := mask.New(mask.Options{})
			keys, err := openKeys(cmd.Context(), c, m, slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn})))
			if err != nil {
				return err
			}
			defer keys.close(cmd.Context())
			signers, checkpoints, err := keys.public(c.ID)
			if err != nil {
				return err
			}
			if dir == "" {
				fmt.Fprintf(cmd.OutOrStdout(), "# audit_signers\n%s# checkpoint_key.pub\n%s", signers, checkpoints)
				return nil
			}
			for name, text := range map[string]string{"audit_signers": signers, "checkpoint_key.pub": checkpoints} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "write audit_signers and checkpoint_key.pub into this folder")
	return cmd
}

// keyConfig reads of the environment what the record's keys need.
func keyConfig(environ []string) (config, error) {
	vars := env.ToMap(environ)
	problems := readSecretFiles(vars)
	var c config
	v := reflect.ValueOf(&c).Elem()
	for _, f := range configFields() {
		if field := v.FieldByName(f.field); field.Kind() == reflect.String {
			field.SetString(vars[f.name])
			if vars[f.name] == "" {
				field.SetString(f.def)
			}
		}
	}
	problems = append(problems, c.checkAuditKeys()...)
	if c.ID == "" {
		problems = append(problems, "COUNTERSIGN_ID is missing: "+fieldHelp("COUNTERSIGN_ID"))
	}
	c.checkVault(func(name, format string, args ...any) {
		problems = append(problems, name+": "+fmt.Sprintf(format, args...))
	})
	return c, problemsError(problems)
}

// public gives the lines of an allowed_signers file, and of a file of
// checkpoint keys.
func (k recordKeys) public(id string) (signers, checkpoints string, err error) {
	for _, keys := range []map[string]audit.Signer{k.now, k.before} {
		for use, key := range keys {
			line, err := audit.PublicLine(key.Public)
			if err != nil {
				return "", "", err
			}
			if use == audit.UseCommit {
				signers += fmt.Sprintf("%s namespaces=\"git\" %s\n", committerEmail(id), line)
			} else {
				checkpoints += fmt.Sprintf("%s %s\n", id, line)
			}
		}
	}
	return signers, checkpoints, nil
}
