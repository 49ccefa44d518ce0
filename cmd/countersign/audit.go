package main

import (
	"cmp"
	"context"
	"errors"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"countersign/gitsync"
)

// recordFlags say which record is read, and how it is reached.
type recordFlags struct {
	repos                             []string // the oldest first; none: the folder that this is
	prefix, token, sshKey, knownHosts string
	flag                              string // that names the record; "": repo
}

func (f *recordFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	name := cmp.Or(f.flag, "repo")
	fl.Var(&listFlag{&f.repos}, name, "the record: a clone's folder, or a Git URL; where it was rolled over several, each, the oldest first")
	fl.Lookup(name).DefValue = "."
	fl.StringVar(&f.prefix, "log", "", "only branches that begin so, e.g. audit/prod-1/")
	fl.StringVar(&f.token, "git-token-file", "", "file with a token, for a URL over HTTPS")
	fl.StringVar(&f.sshKey, "git-ssh-key", "", "OpenSSH private key file, for a URL over SSH")
	fl.StringVar(&f.knownHosts, "git-known-hosts", "", "known_hosts file, for a URL over SSH")
}

// listFlag takes each value of a flag that is given several times.
type listFlag struct{ to *[]string }

func (l *listFlag) String() string {
	if l.to == nil {
		return ""
	}
	return strings.Join(*l.to, ",")
}
func (l *listFlag) Set(s string) error { *l.to = append(*l.to, s); return nil }
func (*listFlag) Type() string         { return "stringArray" }

// open opens each clone in place, or clones a URL into a temporary folder.
func (f *recordFlags) open(ctx context.Context) (all clones, err error) {
	auth, err := f.auth()
	if err != nil {
		return nil, err
	}
	for _, at := range f.places() {
		repo, err := gitsync.OpenClone(ctx, at, auth)
		if err != nil {
			return nil, errors.Join(err, all.close())
		}
		all = append(all, repo)
	}
	return all, nil
}

// places names the repositories.
func (f *recordFlags) places() []string {
	if len(f.repos) == 0 {
		return []string{"."}
	}
	return f.repos
}

// clones are the repositories that a record was rolled over, the oldest first.
type clones []*gitsync.Repo

func (c clones) close() (err error) {
	for _, r := range c {
		err = errors.Join(err, r.Close())
	}
	return err
}

// auth is how a URL is reached.
func (f *recordFlags) auth() (gitsync.Auth, error) {
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
			return auth, err
		}
		from.take(b)
	}
	return auth, nil
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
