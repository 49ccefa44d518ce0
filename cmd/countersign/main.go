// Command countersign is the gate between AI agents and the systems they
// touch: it serves MCP (serve), stops what agents do (freeze), revokes what was
// minted for them (credentials), checks and explains policy (policy), and reads
// and proves the record (audit).
//
// Exit status: 0 fine; 1 a check found something; 2 usage or configuration
// error.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the build (-ldflags -X).
var version = "dev"

// The voice of this program: results go to standard output, one thing a line,
// readable without colour; errors go to standard error as
// "countersign: what was wrong; what to do". Nothing is printed twice.

// errFound is the outcome of a check that found something: exit 1, the finding
// itself has been printed already.
var errFound = errors.New("found")

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := rootCommand()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errFound):
		return 1
	default:
		fmt.Fprintln(os.Stderr, "countersign:", err)
		return 2
	}
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "countersign",
		Short: "The gate between AI agents and the systems they touch",
		Long: `Countersign stands between an agent's MCP client and your MCP servers. It knows
who asks (OIDC), decides by a policy that lives in Git, has a person approve
what is risky (Slack), mints a credential that lives minutes (Vault), masks
every secret in what comes back, and writes a signed record of it all to Git.

Start with:
  countersign policy check ./policy     is this policy sound?
  countersign serve --help              what the enforcer needs, variable by variable
  countersign audit verify --help       how to prove the record
  countersign freeze --help             how to stop everything, now`,
		Version: version, SilenceUsage: true, SilenceErrors: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.AddCommand(serveCommand(), botCommand(), healthCommand(), freezeCommand(), unfreezeCommand(), freezesCommand(), credentialsCommand(), approvalsCommand(), policyCommand(), auditCommand())
	for _, c := range root.Commands() {
		if c.HasSubCommands() && !c.Runnable() {
			c.Args, c.RunE = cobra.ArbitraryArgs, noSuchCommand
		}
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		if c != root && c.HasSubCommands() && c.Flags().NArg() > 0 { // the flags are of the command that it has not
			return noSuchCommand(c, c.Flags().Args())
		}
		return err
	})
	return root
}

// noSuchCommand runs where one of a command's own was to be named: a misspelt
// "audit verify" must not pass for one that found nothing.
func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	hint := ""
	cmd.SuggestionsMinimumDistance = 2
	if like := cmd.SuggestionsFor(args[0]); len(like) > 0 {
		hint = fmt.Sprintf(" (%s?)", strings.Join(like, ", "))
	}
	return fmt.Errorf("%s has no command %q%s; see %[1]s --help", cmd.CommandPath(), args[0], hint)
}
