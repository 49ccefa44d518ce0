// Command demo shows one agent's calls going the whole way through
// Countersign, on this machine alone. Around the enforcer stand loopback
// doubles (an OIDC issuer, a Vault, a Slack workspace) and a small real MCP
// server over an SQL database; the enforcer itself is the product's own
// program, configured by the environment as in production.
//
// Everything it prints about a call is read back from the running system: the
// record, the decision's trace, the card, the lease, Git. It exits 0 only if
// every step came out as told.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"countersign/fixtures/stage"
)

func main() {
	interactive := flag.Bool("interactive", false, "you press the buttons, on a local page")
	keep := flag.Bool("keep", false, "leave everything running, and say how to connect your own client")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "usage: make demo [ARGS=\"--interactive --keep\"]\n\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := demo(ctx, *interactive, *keep); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// demo sets the stage, starts the product, tells the story, proves the record,
// and takes everything down again.
func demo(ctx context.Context, interactive, keep bool) (err error) {
	// Stock Git has ssh-keygen check SSH signatures; Debian packages it as
	// openssh-client, which Git recommends.
	for _, program := range []string{"git", "ssh-keygen"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%s is needed, and is not there (Debian: apt-get install git openssh-client)", program)
		}
	}
	dir, err := os.MkdirTemp("", "countersign-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, err := stage.Set(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	product, err := startProduct(ctx, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, product.stop()) }()

	t := &teller{stage: s, out: newPrinter(os.Stdout), product: product}
	if interactive || keep { // with --keep, the page answers your own client's calls
		if t.page, err = servePage(s); err != nil {
			return err
		}
		defer t.page.close()
		t.pressing = interactive
	}
	began := time.Now()
	if err := t.story(ctx); err != nil {
		return fmt.Errorf("%w\n%s", err, product.tail())
	}
	told := time.Since(began)
	if keep {
		t.invite()
		<-ctx.Done()
		// The record is read when the last call is in it, yours among them.
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
	}
	began = time.Now()
	if err := t.proof(ctx); err != nil {
		return err
	}
	t.out.line("")
	t.out.line("All of it came out as told, in %.1f s.", (told + time.Since(began)).Seconds())
	if keep {
		return nil
	}
	t.out.line("")
	t.out.line("Next: make demo ARGS=--keep, then connect your own client; README.md, “Your first policy”.")
	return nil
}
