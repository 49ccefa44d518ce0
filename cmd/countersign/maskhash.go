package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// maxHashed bounds the value that is read: nothing longer is masked as one.
const maxHashed = 1 << 20

func policyMaskHashCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "mask-hash",
		Short: "Print the hash of a value that a detector masks and that is no secret",
		Long: `Reads a value from standard input, without echo if that is a terminal, and prints
its SHA-256 for an entry under allow in masks/*.yaml. A line break at the end is
not part of the value.

Whoever reads the policy can try out values against the hash: enter no secret.`,
		Example: `  printf %s "$VALUE" | countersign policy mask-hash`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			value, err := readValue(cmd.InOrStdin(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			sum := sha256.Sum256(value)
			fmt.Fprintln(cmd.OutOrStdout(), hex.EncodeToString(sum[:]))
			return nil
		},
	}
}

func readValue(in io.Reader, tell io.Writer) ([]byte, error) {
	if f, ok := in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		fmt.Fprint(tell, "Value (not shown): ")
		value, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(tell)
		if err == nil && len(value) == 0 {
			err = errors.New("no value was entered")
		}
		return value, err
	}
	value, err := io.ReadAll(io.LimitReader(in, maxHashed+1))
	if err != nil {
		return nil, err
	}
	value = bytes.TrimSuffix(bytes.TrimSuffix(value, []byte("\n")), []byte("\r"))
	switch {
	case len(value) == 0:
		return nil, errors.New("standard input holds no value")
	case len(value) > maxHashed:
		return nil, errors.New("the value is longer than 1 MB")
	}
	return value, nil
}
