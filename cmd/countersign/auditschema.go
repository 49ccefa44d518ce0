package main

import (
	"io"

	"github.com/spf13/cobra"

	"countersign/audit"
)

// auditSchema prints the JSON Schema of an entry, for programs that read the
// record.
func auditSchemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of an entry of the record",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := io.WriteString(cmd.OutOrStdout(), audit.EntrySchema)
			return err
		},
	}
}
