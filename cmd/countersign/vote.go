package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"countersign/enforcer/approval"
	"countersign/enforcer/approval/api"
)

// voteFlags are those of every command that votes.
type voteFlags struct {
	gate      gateFlags
	intent    api.Intent
	shown     string
	noBrowser bool
	port      int
}

func (v *voteFlags) add(cmd *cobra.Command) {
	v.gate.open = true
	cmd.Flags().BoolVar(&v.noBrowser, "no-browser", false, "print the address to sign in at, and open nothing; the browser must be on this machine")
	cmd.Flags().IntVar(&v.port, "port", 0, "port of this machine that the browser comes back to, where the identity provider wants a registered one; any by default")
	v.gate.add(cmd)
}

const voteHelp = `
Your browser opens at the identity provider, which asks you to sign in anew. What
you do is settled before; after the sign-in you are shown the request in full.
` + approvalsHelp

func voteCommands() []*cobra.Command {
	return []*cobra.Command{approveCommand(), denyCommand(), revokeCommand(), reviewCommand()}
}

func approveCommand() *cobra.Command {
	var v voteFlags
	var breakGlass bool
	cmd := &cobra.Command{
		Use:   "approve <id>",
		Short: "Approve a request, signed in afresh",
		Long: `Approves a request. You see all of it, and are asked once more, before the vote is
cast. Where standard input is no terminal, --shown says what you have seen: the
last line of "countersign approvals show".
` + voteHelp,
		Example: `  countersign approvals approve ap_4kq2m7… --url https://gate.example.com
  countersign approvals approve ap_4kq2m7… --once
  countersign approvals approve ap_4kq2m7… --break-glass --reason "incident 42, nobody else is awake"`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			v.intent.Do = api.DoApprove
			if breakGlass {
				v.intent.Do = api.DoBreakGlass
			}
			if (v.intent.Reason != "") != breakGlass {
				return errors.New("--reason and --break-glass go together")
			}
			return v.cast(cmd, args[0], "approved")
		},
	}
	cmd.Flags().BoolVar(&v.intent.Once, "once", false, "for one call only, though the policy grants a window")
	cmd.Flags().BoolVar(&breakGlass, "break-glass", false, "approve alone, as a member of a break-glass set; somebody else reviews it afterwards")
	cmd.Flags().StringVar(&v.intent.Reason, "reason", "", "why the glass is broken; with --break-glass")
	cmd.Flags().StringVar(&v.shown, "shown", "", "what you have seen, as `countersign approvals show` prints it; then you are not asked")
	cmd.MarkFlagsMutuallyExclusive("once", "break-glass")
	v.add(cmd)
	return cmd
}

func denyCommand() *cobra.Command {
	v := voteFlags{intent: api.Intent{Do: api.DoDeny}}
	cmd := &cobra.Command{
		Use:     "deny <id> --reason …",
		Short:   "Deny a request, signed in afresh",
		Long:    "Denies a request: one denial ends it. The agent is told the reason.\n" + voteHelp,
		Example: `  countersign approvals deny ap_4kq2m7… --reason "ask billing first" --url https://gate.example.com`,
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return v.cast(cmd, args[0], "denied") },
	}
	cmd.Flags().StringVar(&v.intent.Reason, "reason", "", "why; the agent is told (required)")
	v.add(cmd)
	required(cmd, "reason")
	return cmd
}

func revokeCommand() *cobra.Command {
	v := voteFlags{intent: api.Intent{Do: api.DoRevoke}}
	cmd := &cobra.Command{
		Use:   "revoke <id> --reason …",
		Short: "Revoke what was approved and has not run; close a window",
		Long: `Takes back an approval that has not been used, above all a window in force; calls
that run on it are not cut off (see "countersign freeze"). Who may vote may revoke,
signed in afresh; on the enforcer's machine the operator does, without --url.
` + voteHelp,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if v.gate.url == "" {
				return v.gate.decide(cmd, args[0], "revoke", v.intent.Reason, "revoked")
			}
			return v.cast(cmd, args[0], "revoked")
		},
	}
	cmd.Flags().StringVar(&v.intent.Reason, "reason", "", "why; the agent is told (required)")
	v.add(cmd)
	required(cmd, "reason")
	return cmd
}

func reviewCommand() *cobra.Command {
	var v voteFlags
	var justified, unjustified bool
	cmd := &cobra.Command{
		Use:     "review <id> (--justified | --unjustified) --note …",
		Short:   "Say, afterwards, whether a glass was rightly broken",
		Long:    "Reviews what somebody approved alone. Somebody else does, of the sets that were asked.\n" + voteHelp,
		Example: `  countersign approvals review ap_4kq2m7… --justified --note "incident 42 was real" --url https://gate.example.com`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if v.intent.Do = api.DoUnjustified; justified {
				v.intent.Do = api.DoJustified
			}
			return v.cast(cmd, args[0], "reviewed")
		},
	}
	cmd.Flags().BoolVar(&justified, "justified", false, "it was")
	cmd.Flags().BoolVar(&unjustified, "unjustified", false, "it was not")
	cmd.Flags().StringVar(&v.intent.Reason, "note", "", "what you found; it stands in the record (required)")
	cmd.MarkFlagsOneRequired("justified", "unjustified")
	cmd.MarkFlagsMutuallyExclusive("justified", "unjustified")
	v.add(cmd)
	required(cmd, "note")
	return cmd
}

// signInPatience is how long a person may take in the browser.
const signInPatience = 10 * time.Minute

// cast signs the person in, shows them what they vote about, and votes.
func (v *voteFlags) cast(cmd *cobra.Command, id, done string) error {
	out, says := cmd.OutOrStdout(), cmd.ErrOrStderr()
	asks := v.intent.Do == api.DoApprove || v.intent.Do == api.DoBreakGlass
	if asks && v.shown == "" && !term.IsTerminal(int(os.Stdin.Fd())) {
		return errors.New("standard input is no terminal, to ask you once more: give --shown, from `countersign approvals show`")
	}
	v.gate.tokenFile = "" // no token votes
	ctx, cancel := context.WithTimeout(cmd.Context(), signInPatience)
	defer cancel()
	var ready struct {
		Who    string
		Sight  api.Sight
		Ballot string
	}
	if err := v.signIn(ctx, says, id, &ready); err != nil {
		return refusedOr("the vote does not count", err, cmd)
	}
	printSight(out, ready.Sight, false)
	if asks && v.shown == "" {
		fmt.Fprintf(says, "\nYou are %s. %s? [y/N] ", safe(ready.Who), question(v.intent, ready.Sight.Approval))
		if line, err := bufio.NewReader(cmd.InOrStdin()).ReadString('\n'); err != nil || !strings.EqualFold(strings.TrimSpace(line), "y") {
			fmt.Fprintln(says, "countersign: nothing was decided")
			return errFound
		}
		v.shown = ready.Sight.Shown
	}
	if v.shown == "" {
		v.shown = ready.Sight.Shown
	}
	body, err := json.Marshal(map[string]string{"ballot": ready.Ballot, "shown": v.shown})
	if err != nil {
		return err
	}
	var cast struct {
		Who   string
		Sight api.Sight
	}
	if err := v.gate.ask(ctx, http.MethodPost, approvalPath(id, "/votes"), body, &cast); err != nil {
		return refusedOr("the vote does not count", err, cmd)
	}
	fmt.Fprintf(out, "\n%s  %s by %s; it is %s\n", safe(cast.Sight.Approval.ID), done, safe(cast.Who), outcome(cast.Sight))
	return nil
}

// outcome is what a vote has led to.
func outcome(s api.Sight) string {
	if s.Approval.State == approval.Pending {
		return "pending: it waits for " + waitsFor(s)
	}
	return stateOf(s)
}

func question(i api.Intent, a approval.Approval) string {
	switch {
	case i.Do == api.DoBreakGlass:
		return "Break the glass, and approve this alone"
	case a.Grant.For > 0 && !i.Once:
		return fmt.Sprintf("Approve this, and for %s all calls of the same %s", a.Grant.For, a.Grant.Scope)
	}
	return "Approve this, for one call"
}

// signIn has the person sign in in their browser, and reads what the enforcer
// then sends.
func (v *voteFlags) signIn(ctx context.Context, says io.Writer, id string, ready any) error {
	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", v.port))
	if err != nil {
		return fmt.Errorf("the browser cannot come back here (--port): %w", err)
	}
	defer listener.Close() // the server below has closed it; else nothing was served
	verifier := rand.Text() + rand.Text()
	sum := sha256.Sum256([]byte(verifier))
	body, err := json.Marshal(struct {
		api.Intent
		Redirect  string `json:"redirect"`
		Challenge string `json:"challenge"`
	}{v.intent, "http://" + listener.Addr().String() + "/callback", base64.RawURLEncoding.EncodeToString(sum[:])})
	if err != nil {
		return err
	}
	var begun struct{ URL, Flow, State string }
	if err := v.gate.ask(ctx, http.MethodPost, approvalPath(id, "/sign-in"), body, &begun); err != nil {
		return err
	}
	if !strings.HasPrefix(begun.URL, "https://") && !strings.HasPrefix(begun.URL, "http://127.0.0.1:") && !strings.HasPrefix(begun.URL, "http://localhost:") {
		return errors.New("the enforcer names no address to sign in at that a browser should open")
	}
	fmt.Fprintf(says, "Sign in to go on: %s\n", safe(begun.URL))
	if !v.noBrowser {
		if err := browse(begun.URL); err != nil {
			fmt.Fprintln(says, "countersign: no browser could be opened; open that address yourself:", err)
		}
	}
	back, err := comeBack(ctx, listener, begun.State)
	if err != nil {
		return err
	}
	body, err = json.Marshal(map[string]string{"flow": begun.Flow, "state": begun.State, "code": back.code, "iss": back.issuer, "verifier": verifier})
	if err != nil {
		return err
	}
	return v.gate.ask(ctx, http.MethodPost, approvalPath(id, "/ballot"), body, ready)
}

// arrival is what the identity provider sent the browser back with.
type arrival struct {
	code, issuer string
	err          error
}

// comeBack waits for the browser. Whatever else calls is answered, and waited
// past: another page may try ports of this machine.
func comeBack(ctx context.Context, l net.Listener, state string) (arrival, error) {
	came := make(chan arrival, 1)
	server := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		if r.Method != http.MethodGet || r.URL.Path != "/callback" || subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(state)) != 1 {
			http.Error(w, "This is not the answer that is waited for here.", http.StatusNotFound)
			return
		}
		a := arrival{code: q.Get("code"), issuer: q.Get("iss")}
		if a.code == "" {
			a.err = fmt.Errorf("the identity provider did not sign you in: %s", short(q.Get("error")+" "+q.Get("error_description"), 300))
			fmt.Fprintln(w, "You were not signed in. Go back to the terminal; this window can be closed.")
		} else {
			fmt.Fprintln(w, "You are signed in. Nothing is decided yet: go back to the terminal. This window can be closed.")
		}
		select {
		case came <- a:
		default: // came before
		}
	})}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	var a arrival
	select {
	case a = <-came:
	case err := <-served:
		return a, err
	case <-ctx.Done():
		a.err = errors.New("nobody has signed in")
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			a.err = fmt.Errorf("nobody has signed in for %s", signInPatience)
		}
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := server.Shutdown(end); err != nil { // the browser keeps its connection: it has its answer
		_ = server.Close()
	}
	return a, a.err
}

// browse opens the person's browser.
func browse(address string) error {
	name := map[string]string{"darwin": "open", "linux": "xdg-open"}[runtime.GOOS]
	if name == "" {
		return fmt.Errorf("not known how on %s", runtime.GOOS)
	}
	cmd := exec.Command(name, address)
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }() // it may stay as long as the browser
	return nil
}
