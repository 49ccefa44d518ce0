package main

import (
	"cmp"
	"context"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"countersign/gitsync"
)

// recordFlags say which record is read, and how it is reached.
type recordFlags struct {
	repo, prefix, token, sshKey, knownHosts string
	flag                                    string // that names the record; "": repo
}

func (f *recordFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.repo, cmp.Or(f.flag, "repo"), ".", "the record: a clone's folder, or a Git URL")
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
"verify" needs the public keys only. What the others print is not verified: they
find it by an index beside the clone, and read it there.`,
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(
		auditLogCommand(),
		auditShowCommand(),
		auditBodyCommand(),
		auditEraseCommand(),
		auditVerifyCommand(),
		auditReplayCommand(),
		auditMasksCommand(),
		auditProofCommand(),
		auditWitnessCommand(),
		auditKeyCommand(),
		auditSessionCommand(),
		auditStatsCommand(),
		auditExportCommand(),
		auditIndexCommand(),
		auditSchemaCommand(),
	)
	return cmd
}
