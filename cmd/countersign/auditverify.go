package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"countersign/audit"
	"countersign/gitsync"
)

// verifyFlags say what the record is held against, and how that is told.
type verifyFlags struct {
	from                  recordFlags
	signers, keys         string
	anchors               []string
	policy, policyBranch  string
	policySigners, state  string
	acceptResets          []string
	quorum                quorumFlags
	handover              bool
	asJSON, bodies        bool
	allowedFile, keysFile []byte // as read
}

func auditVerifyCommand() *cobra.Command {
	var f verifyFlags
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Prove that the record is whole and unchanged (exit 1 if not)",
		Long: `Checks every commit's signature, every checkpoint, every entry against its
checkpoint's tree, and every link between months and runs. Finds edits,
reorderings, gaps, insertions and forks, and names the first entry that does not
hold; finds a cut end if an anchor (--anchor, or a later run's first entry) holds
a checkpoint from beyond the cut.

Checks what the entries say as well: each forwarded call has its intent, its
decision and its outcome, in this order and once; each approved one the votes of
enough different people, before it ran, unexpired and used once. With --policy, a
clone of the policy repository, the policy of the commit that each entry names is
asked again: what it decides, whom it has approve, who is in its sets, and that
the commit is in the branch's history (where an operator has reset that, on record,
--accept-reset says that you know why). What the record does not hold in full
(arguments masked or cut, claims of a token) is not decided again, and counted.

With --state, what holds is noted in a file, and the next run reads only what is
new; a record that no longer holds what it held then has a problem.

What it cannot show: a thief of both private keys can rewrite what no anchor has
seen. Keep checkpoints elsewhere. docs/record.md says more.

Exit status: 0 the record holds; 1 it does not, or there is none; 2 it could not
be checked.`,
		Example: `  countersign audit verify --repo ./audit --commit-signers audit_signers --checkpoint-key checkpoint_key.pub
  countersign audit verify --repo ./audit --commit-signers audit_signers --checkpoint-key checkpoint_key.pub \
    --policy ./policy --state verified.json --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.run(cmd.Context(), cmd.OutOrStdout(), os.Stderr)
		},
	}
	f.from.add(cmd)
	f.quorum.add(cmd)
	f.quorum.addGrace(cmd)
	fl := cmd.Flags()
	fl.StringVar(&f.signers, "commit-signers", "", "allowed_signers file: who may sign commits (required)")
	fl.StringVar(&f.keys, "checkpoint-key", "", "file of who may sign checkpoints: a line each, <enforcer> ssh-ed25519 <key> (required)")
	fl.StringSliceVar(&f.anchors, "anchor", nil, "file with a signed checkpoint kept elsewhere, or a folder of such files (a witness's logs); may be repeated")
	fl.StringVar(&f.policy, "policy", "", "clone of the policy repository: decisions and approvals are held against the policy of their commit")
	fl.StringVar(&f.policyBranch, "policy-branch", "", "branch of that clone which the enforcers follow (default: the one that HEAD names)")
	fl.StringVar(&f.policySigners, "policy-signers", "", "allowed_signers file: each policy commit that decided must be signed by one of them")
	fl.StringArrayVar(&f.acceptResets, "accept-reset", nil, "commit to which an operator reset the policy, with reason as you know: what its enforcer decided before under commits that are gone is then a note; may be repeated")
	fl.BoolVar(&f.handover, "handover", false, "take a repository's proof of its hand-over for the ones before it that are not given: their entries are not checked, nor that they are still there")
	fl.BoolVar(&f.bodies, "bodies", false, "look for every kept body, too, and hold it against its entry")
	fl.StringVar(&f.state, "state", "", "file that notes what holds, for the next run; made if it is not there")
	fl.BoolVar(&f.asJSON, "json", false, "print the report as one JSON object")
	for _, name := range []string{"commit-signers", "checkpoint-key"} {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err) // the flags are defined a few lines up
		}
	}
	return cmd
}

func (f *verifyFlags) run(ctx context.Context, out io.Writer, terminal *os.File) (err error) {
	cfg, err := f.config()
	if err != nil {
		return err
	}
	repos, err := f.from.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, repos.close()) }()
	var all []audit.Repository
	var notes []string
	for i, repo := range repos {
		lacks, branches, err2 := repo.Lacks()
		if err2 == nil && lacks != "" {
			err2 = errors.New(lacks)
		}
		if err2 != nil {
			return fmt.Errorf("%s cannot be verified: %w", f.from.places()[i], err2)
		}
		if branches != "" {
			notes = append(notes, fmt.Sprintf("%s: %s", f.from.places()[i], branches))
		}
		objects, done := sideBySide(repo, runtime.GOMAXPROCS(0))
		defer func() { err = errors.Join(err, done()) }()
		all = append(all, objects)
	}
	cfg.Earlier = all[:len(all)-1]
	if f.policy != "" {
		p, err := openHistory(ctx, f.policy, f.policyBranch, f.policySigners)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, p.close()) }()
		cfg.Policy = p.at
	}
	if err := f.resume(&cfg); err != nil {
		return err
	}
	if term.IsTerminal(int(terminal.Fd())) && !f.asJSON {
		cfg.Progress = progress(terminal)
	}
	report, err := audit.Verify(ctx, all[len(all)-1], cfg)
	if cfg.Progress != nil {
		fmt.Fprint(terminal, "\r\x1b[K")
	}
	var unkept error
	if err == nil || ctx.Err() != nil {
		unkept = f.keep(cfg.State)
	}
	if err != nil {
		err = errors.Join(err, unkept)
		if ctx.Err() != nil && cfg.State != nil {
			return fmt.Errorf("interrupted; %s has what held so far: %w", f.state, err)
		}
		return err
	}
	report.Notes = append(notes, report.Notes...)
	if f.asJSON {
		err = printVerdict(out, report)
	} else {
		printReport(out, report, cmp.Or(f.from.prefix, "audit/"), f.policy != "")
	}
	if err = errors.Join(err, unkept); err == nil && !report.OK() {
		return errFound
	}
	return err
}

func (f *verifyFlags) config() (cfg audit.VerifyConfig, err error) {
	cfg.Handover = f.handover
	if f.allowedFile, err = os.ReadFile(f.signers); err != nil {
		return cfg, fmt.Errorf("--commit-signers: %w", err)
	}
	if len(bytes.TrimSpace(f.allowedFile)) == 0 {
		return cfg, fmt.Errorf("%s: no key is in the file", f.signers)
	}
	trust, err := gitsync.Signers{AllowedSigners: f.allowedFile}.Parse()
	if err != nil {
		return cfg, fmt.Errorf("%s: %w", f.signers, err)
	}
	if f.keysFile, err = os.ReadFile(f.keys); err != nil {
		return cfg, fmt.Errorf("--checkpoint-key: %w", err)
	}
	if cfg.Keys, err = audit.ParseLogKeys(f.keysFile); err != nil {
		return cfg, fmt.Errorf("%s: %w", f.keys, err)
	}
	for _, a := range f.anchors {
		before := len(cfg.Anchors)
		err := filepath.WalkDir(a, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			b, err := os.ReadFile(path)
			cfg.Anchors, cfg.AnchorNames = append(cfg.Anchors, string(b)), append(cfg.AnchorNames, path)
			return err
		})
		if err != nil {
			return cfg, fmt.Errorf("--anchor: %w", err)
		}
		if len(cfg.Anchors) == before {
			return cfg, fmt.Errorf("--anchor: there is no file in %s", a)
		}
	}
	if cfg.Quorum, err = f.quorum.quorum(); err != nil {
		return cfg, err
	}
	cfg.Grace, cfg.Now = f.quorum.grace, time.Now()
	cfg.Bodies, cfg.AcceptResets = f.bodies, f.acceptResets
	for _, c := range f.acceptResets {
		if len(c) < 7 || strings.Trim(c, "0123456789abcdef") != "" {
			return cfg, fmt.Errorf("--accept-reset: %q is no commit, nor seven or more of its first digits", c)
		}
		if f.policy == "" {
			return cfg, errors.New("--accept-reset: there is no --policy to hold anything against")
		}
	}
	cfg.Signer, cfg.Writer, cfg.SignedBy, cfg.Prefix = trust.Commit, enforcerOf, signedBy, f.from.prefix
	cfg.Committer = func(key, enforcer string, when time.Time) (string, error) {
		return trust.Key(key, committerEmail(enforcer), when)
	}
	return cfg, nil
}

// signedBy checks a commit's signature by one key.
func signedBy(raw []byte, when time.Time, key string) error {
	trust, err := gitsync.Signers{AllowedSigners: []byte(`successor namespaces="git" ` + key + "\n")}.Parse()
	if err == nil {
		_, err = trust.Commit(raw, when)
	}
	return err
}

// resume reads the state of an earlier run, if there is one.
func (f *verifyFlags) resume(cfg *audit.VerifyConfig) error {
	if f.state == "" {
		return nil
	}
	var policySigners []byte
	if f.policySigners != "" {
		var err error
		if policySigners, err = os.ReadFile(f.policySigners); err != nil {
			return err
		}
	}
	against := "record alone"
	if f.policy != "" {
		against = "policy " + f.policyBranch
	}
	trust := []string{string(f.allowedFile), string(f.keysFile), f.from.prefix, strconv.Itoa(len(f.from.places())), strconv.FormatBool(f.bodies), strconv.FormatBool(f.handover), against, string(policySigners)}
	for _, c := range slices.Sorted(slices.Values(f.acceptResets)) {
		trust = append(trust, "accepts "+c)
	}
	cfg.State = audit.NewVerified(trust...)
	file, err := os.ReadFile(f.state)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = cfg.State.Load(file)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", f.state, err)
	}
	return nil
}

// keep writes the state, whole or not at all.
func (f *verifyFlags) keep(s *audit.Verified) error {
	if s == nil {
		return nil
	}
	b, err := s.Encode()
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(f.state), filepath.Base(f.state)+".*")
	if err != nil {
		return fmt.Errorf("--state: what holds is not noted: %w", err)
	}
	_, err = tmp.Write(b)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), f.state)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("--state: what holds is not noted: %w", err), os.Remove(tmp.Name()))
	}
	return nil
}

// progress shows on a terminal how far it is, now and then.
func progress(w io.Writer) func(origin string, entries uint64) {
	var last time.Time
	return func(origin string, entries uint64) {
		if now := time.Now(); now.Sub(last) > 200*time.Millisecond {
			last = now
			fmt.Fprintf(w, "\r\x1b[K%s: %d entries hold", origin, entries)
		}
	}
}

// printVerdict prints the report for a program.
func printVerdict(w io.Writer, r *audit.Report) error {
	if r.Logs == nil {
		r.Logs = []audit.Log{}
	}
	if r.Problems == nil {
		r.Problems = []audit.Problem{}
	}
	if r.Notes == nil {
		r.Notes = []string{}
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", b)
	return err
}

// printReport tells people: what does not hold, first; what is worth knowing;
// what was checked; the verdict, last, where it stays on the screen.
func printReport(w io.Writer, r *audit.Report, prefix string, policy bool) {
	for _, p := range r.Problems {
		fmt.Fprintln(w, "PROBLEM:", safe(p.String()))
	}
	for _, n := range r.Notes {
		fmt.Fprintln(w, "note:", safe(n))
	}
	for _, l := range r.Logs {
		if l.Entries == 0 {
			fmt.Fprintf(w, "log %s/%s: none of it holds\n", l.Enforcer, l.Incarnation)
			continue
		}
		resumed := ""
		if l.Resumed > 0 {
			resumed = fmt.Sprintf(", %d of them verified before", l.Resumed)
		}
		fmt.Fprintf(w, "log %s/%s: %s in %s, %s to %s, signed by %s%s\n", l.Enforcer, l.Incarnation, number(l.Entries, "entry", "entries"), count(l.Commits, "commit"),
			l.First.Format(time.DateTime), l.Last.Format(time.DateTime), safe(strings.Join(l.Signers, ", ")), resumed)
	}
	printChecked(w, r, policy)
	switch {
	case len(r.Problems) > 0:
		fmt.Fprintf(w, "the record does not hold: %s\n", count(len(r.Problems), "problem"))
	case len(r.Logs) == 0:
		fmt.Fprintf(w, "no record here: no branch begins with %s (a clone needs all branches)\n", safe(prefix))
	default:
		fmt.Fprintln(w, r)
	}
}

// printChecked tells what was looked at, where anything was.
func printChecked(w io.Writer, r *audit.Report, policy bool) {
	if r.Entries == 0 {
		return
	}
	c := r.Checked
	line := func(format string, args ...any) { fmt.Fprintf(w, "checked: "+format+"\n", args...) }
	line("%s, each with its intent: %d with an outcome, %d closed by a later run, %d open; %s refused, %d answered by the enforcer itself",
		count(c.Calls, "forwarded call"), c.Closed, c.Recovered, c.Open, count(c.Refused, "request"), c.Answered)
	if c.Unrecorded > 0 {
		line("%s refused or not authenticated while the journal could not take an entry of each: the record has their number", count(c.Unrecorded, "request"))
	}
	if c.Approved > 0 || c.Approvals > 0 {
		line("%s on %s with %s", count(c.Approved, "approved call"), count(c.Approvals, "approval"), count(c.Votes, "vote"))
	}
	if policy {
		line("%s decided again under %s, with the same result", count(c.Decided, "request"), count(c.Policies, "policy commit"))
		for _, why := range slices.Sorted(maps.Keys(c.Undecided)) {
			line("%s not decided again: %s", count(c.Undecided[why], "request"), why)
		}
		if c.Votes > 0 {
			line("%s by members of the sets, %d by a group that the voter's sign-in showed, %d by a group of which the record has no sign-in", count(c.Members, "vote"), c.Groups, c.Unknown)
		}
	} else if c.Calls > 0 {
		line("no decision was made again: that takes --policy")
	}
	if c.Bound > 0 {
		line("%s whose approval may cover the caller's credential as well, so that its digest cannot be compared", count(c.Bound, "call"))
	}
	if n := c.Bodies + c.Sealed + c.Erased; n > 0 {
		line("%d bodies as their entries say, %d sealed, %d not there: erased, expired, or not in this clone", c.Bodies, c.Sealed, c.Erased)
	}
	line("%s against what the entries say; %s held elsewhere", count(c.Messages, "commit message"), count(r.Anchors, "checkpoint"))
}

func number(n uint64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// sideBySide is a repository as verification wants to see it: so many reads at
// once, each by a handle of its own.
func sideBySide(r *gitsync.Repo, n int) (audit.Repository, func() error) {
	handles := make(chan *gitsync.Repo, n)
	for range n {
		handles <- r.Again()
	}
	done := func() error {
		var errs []error
		for range n {
			errs = append(errs, (<-handles).Close())
		}
		return errors.Join(errs...)
	}
	return audit.Repository{
		Branches: r.Branches, Tip: r.Tip,
		Commit: func(hash string) (audit.Commit, error) {
			h := <-handles
			defer func() { handles <- h }()
			return objects(h).Commit(hash)
		},
		Tree: func(hash string) ([]audit.Node, error) {
			h := <-handles
			defer func() { handles <- h }()
			return objects(h).Tree(hash)
		},
		Blob: func(hash string) ([]byte, error) {
			h := <-handles
			defer func() { handles <- h }()
			return h.Blob(hash)
		},
	}, done
}

// objects is a repository as verification wants to see it.
func objects(r *gitsync.Repo) audit.Repository {
	return audit.Repository{
		Branches: r.Branches, Tip: r.Tip, Blob: r.Blob,
		Commit: func(hash string) (audit.Commit, error) {
			c, err := r.Commits(hash)
			return audit.Commit{Tree: c.Tree, Parents: c.Parents, When: c.When, Message: c.Message, Raw: c.Raw}, err
		},
		Tree: func(hash string) ([]audit.Node, error) {
			nodes, err := r.Tree(hash)
			out := make([]audit.Node, len(nodes))
			for i, n := range nodes {
				out[i] = audit.Node(n)
			}
			return out, err
		},
	}
}
