package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/slack-go/slack"

	"countersign/audit"
	"countersign/bot"
	"countersign/enforcer"
	"countersign/enforcer/approval"
	"countersign/enforcer/kv"
	"countersign/enforcer/mask"
	"countersign/gitsync"
	"countersign/rules"
)

// approvals is the book and the store that it lives in.
type approvals struct {
	store *kv.Store
	book  *approval.Book
	kept  *kv.Bucket // what the enforcers keep for callers who have left
	log   *slog.Logger
}

// openApprovals opens the store. The embedded one is rebuilt from the journal,
// which is the authority there; an external cluster is its own.
func openApprovals(ctx context.Context, c config, r *record, m *mask.Mask, names func() enforcer.Names, policy *policyFollower, log *slog.Logger) (*approvals, error) {
	var store *kv.Store
	var err error
	if c.NATSURL != "" {
		store, err = kv.Connect(c.NATSURL, 3)
	} else {
		store, err = kv.OpenEmbedded(filepath.Join(c.StateDir, "kv"))
	}
	if err != nil {
		return nil, err
	}
	bucket, err := store.Bucket(ctx, "approvals")
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	people, err := store.Bucket(ctx, "logins")
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	logins := approval.NewLogins(approval.LoginsConfig{Bucket: people, Now: time.Now, Record: func(ctx context.Context, e approval.LoginEvent) error {
		return recordLogin(ctx, r.journal, e, policy.commit())
	}})
	book := approval.New(approval.Config{Bucket: bucket, Logins: logins, Now: time.Now, Log: log, Words: func(s string) string { s, _ = m.Text(s); return s }, Digest: (*rules.Policy).AsksDigest, Record: func(ctx context.Context, a approval.Approval, event string) error {
		return recordApproval(ctx, r.journal, a, event, names(), policy.current())
	}})
	if c.NATSURL == "" {
		err = book.Restore(ctx, r.recovery.Approvals)
	}
	for _, u := range r.recovery.Unfinished {
		if c.NATSURL != "" && !u.Here {
			continue // it runs, or ran, at another enforcer, who knows what became of it
		}
		if err == nil {
			err = book.Finish(ctx, u.Approval, u.Call, u.Outcome)
		}
		// Ended long ago; or, in a shared store, taken back since its spending was
		// not known to be on record.
		if errors.Is(err, approval.ErrUnknown) || c.NATSURL != "" && errors.Is(err, approval.ErrNotApproved) {
			err = nil
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("approvals: %w", err), store.Close())
	}
	kept, err := store.Bucket(ctx, "callers")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("approvals: %w", err), store.Close())
	}
	return &approvals{store: store, book: book, kept: kept, log: log}, nil
}

// maxApproval is how much of an approval fits an entry, beside the rest.
const maxApproval = audit.MaxLine - 8<<10

// recordApproval writes a change of an approval, with its whole state: the
// embedded store is rebuilt from these entries.
//
// now is the policy in force, under which a vote counted, and which says whether
// subjects are named; the one that asked stands in the detail.
func recordApproval(ctx context.Context, journal *audit.Journal, a approval.Approval, event string, names enforcer.Names, now *rules.Policy) error {
	commit := a.Policy
	if now != nil {
		commit = now.Commit()
	}
	told, err := names.Approval(now, a)
	if err != nil {
		return err
	}
	detail, err := json.Marshal(told)
	if err == nil && len(detail) > maxApproval {
		// A start after a crash must find it no easier to approve than it was:
		// what it does not have nobody approves, until the caller asks again.
		told.Args, told.Partial, told.Cut, told.Trace = strings.ToValidUTF8(told.Args[:min(len(told.Args), 4<<10)], ""), true, true, nil
		detail, err = json.Marshal(told)
	}
	if err != nil {
		return err
	}
	en := audit.Entry{
		Kind: audit.KindApproval, Call: a.Call, Policy: commit, Issuer: told.Subject.Issuer, Sub: told.Subject.Sub, Client: a.Client, Holder: names.Holder(a.Holder),
		Server: a.Server, Method: a.Method, Tool: a.Tool, Approval: a.ID, Status: event, Reason: a.Reason, Digest: a.Digest, Detail: detail,
	}
	if a.About != "" {
		en.Call = a.About
	}
	if event != approval.EventDenied && event != approval.EventWithdrawn && event != approval.EventRevoked {
		en.Reason = ""
	}
	_, err = journal.Append(context.WithoutCancel(ctx), en)
	return err
}

// recordLogin writes that somebody signed in to the approval page, or linked a
// Slack user to themselves, or is no longer linked.
func recordLogin(ctx context.Context, journal *audit.Journal, e approval.LoginEvent, commit string) error {
	detail, err := audit.Detail(e)
	if err != nil {
		return err
	}
	_, err = journal.Append(context.WithoutCancel(ctx), audit.Entry{
		Kind: audit.KindLogin, Policy: commit, Issuer: e.Login.Issuer, Sub: e.Login.Sub, Status: e.Event, Detail: detail,
	})
	return err
}

func (a *approvals) close() error { return a.store.Close() }

// expire ends approvals whose time has come, and windows that the policy in force
// no longer grants, until ctx ends.
func (a *approvals) expire(ctx context.Context, policy func() *rules.Policy) error {
	considered := ""
	tick, sweep := time.NewTicker(time.Second), time.NewTicker(time.Hour)
	defer tick.Stop()
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if _, err := a.book.Expire(ctx); err != nil && ctx.Err() == nil {
				a.log.Warn("approvals could not be looked through", "err", err)
			}
			p := policy()
			if p == nil || p.Commit() == considered {
				continue
			}
			switch n, err := a.book.Reconsider(ctx, p); {
			case err == nil:
				considered = p.Commit()
				if n > 0 {
					a.log.Info("windows ended, since the policy that granted them has changed", "windows", n, "commit", considered)
				}
			case ctx.Err() == nil:
				a.log.Warn("windows could not be held against the policy in force", "err", err)
			}
		case <-sweep.C:
			if _, err := a.book.Logins.Sweep(ctx); err != nil && ctx.Err() == nil {
				a.log.Warn("logins could not be looked through", "err", err)
			}
		}
	}
}

// botSleep is how the bot waits for its turn at Slack; nil: by the wall clock. A
// soak that presses a thousand cards hurries it.
var botSleep func(context.Context, time.Duration) error

// chat is the Slack bot, or its absence, or what is known of bots elsewhere.
type chat struct {
	config config
	bot    *bot.Bot
	bots   *bots // elsewhere; nil: the bot is here, or nowhere
}

func newChat(c config, book *approval.Book, policy *policyFollower, journal *audit.Journal, m *mask.Mask, log *slog.Logger) (*chat, error) {
	if c.SlackBotToken == "" {
		return &chat{config: c}, nil
	}
	opts := []slack.Option{slack.OptionAppLevelToken(c.SlackAppToken), slack.OptionHTTPClient(&http.Client{Timeout: 30 * time.Second})}
	if c.SlackAPIURL != "" {
		opts = append(opts, slack.OptionAPIURL(c.SlackAPIURL))
	}
	page := "" // of approvals, where somebody can sign in to it
	if c.ApprovalsClientID != "" {
		page = c.PublicURL
	}
	api := slack.New(c.SlackBotToken, opts...)
	book.SlackEmail = slackEmail(api)
	return &chat{config: c, bot: bot.New(bot.Config{
		PublicURL: page,
		API:       api, Book: book, Policy: policy.current, SigningSecret: c.SlackSigningSecret, Now: time.Now, Sleep: botSleep, Log: log,
		Refused: func(ctx context.Context, id string, v approval.Vote, why error) {
			if err := recordRefusedVote(ctx, journal, m, id, v, why, policy.commit()); err != nil {
				log.Error("a vote that did not count could not be recorded", "approval", id, "err", err)
			}
		},
	})}, nil
}

// recordRefusedVote writes a press that did not count: who pressed what, and
// why it was refused.
func recordRefusedVote(ctx context.Context, journal *audit.Journal, m *mask.Mask, id string, v approval.Vote, why error, commit string) error {
	v.Reason, _ = m.Text(brief(v.Reason))
	v.Shown, _ = m.Text(brief(v.Shown)) // comes from outside as well
	detail, err := audit.Detail(v)
	if err != nil {
		return err
	}
	reason, _ := m.Text(brief(why.Error()))
	_, err = journal.Append(context.WithoutCancel(ctx), audit.Entry{
		Kind: audit.KindVote, Policy: commit, Issuer: v.Issuer, Sub: v.Sub, Approval: id, Status: audit.StatusRefused, Reason: reason, Detail: detail,
	})
	return err
}

// run posts cards, and hears presses over Socket Mode where that is chosen; or
// it listens for the bots that do.
func (c *chat) run(ctx context.Context) error {
	switch {
	case c.bots != nil:
		return c.bots.follow(ctx)
	case c.bot == nil:
		return nil
	}
	if c.config.SlackAppToken == "" {
		return c.bot.Run(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	socket := make(chan error, 1)
	go func() { socket <- c.bot.RunSocket(ctx, c.config.SlackAppToken); cancel() }()
	err := c.bot.Run(ctx)
	return errors.Join(err, <-socket)
}

// cardError says why nobody could be asked.
func (c *chat) cardError(id string) error {
	if c.bots != nil {
		return c.bots.cardError(id)
	}
	if c.bot != nil {
		return c.bot.CardError(id)
	}
	if c.config.ApprovalsClientID != "" {
		return nil // on the approval page, whoever is asked finds it
	}
	return errors.New("nobody can be asked: neither Slack (SLACK_BOT_TOKEN) nor the approval page (COUNTERSIGN_APPROVALS_CLIENT_ID) is configured")
}

// policyAuth and auditAuth are the Git credentials of either repository: its
// own where given, the common ones otherwise, a GitHub App's token at last.
func (c config) policyAuth(m *mask.Mask) gitsync.Auth {
	return c.gitAuth(m, c.PolicyRepo, c.PolicyGitToken, c.PolicyGitSSHKey, c.PolicyKnownHosts)
}

func (c config) auditAuth(m *mask.Mask) gitsync.Auth {
	return c.gitAuth(m, c.AuditRepo, c.AuditGitToken, c.AuditGitSSHKey, c.AuditKnownHosts)
}

func (c config) gitAuth(m *mask.Mask, url, token, key, hosts string) gitsync.Auth {
	first := func(own, common string) string {
		if own != "" {
			return own
		}
		return common
	}
	a := gitsync.Auth{KnownHosts: []byte(first(hosts, c.GitKnownHosts))}
	if k := first(key, c.GitSSHKey); k != "" {
		a.SSHKeyPEM = []byte(k + "\n") // OpenSSH wants the line feed that reading a file cut off
	}
	switch t := first(token, c.GitToken); {
	case t != "":
		a.Token = func(context.Context) (string, error) { return t, nil }
	case c.GitHubAppID != 0 && c.githubHost(url):
		a.Token = c.githubToken(m)
	}
	return a
}

const githubAPI = "https://api.github.com"

func (c config) githubAPIURL() string {
	if c.GitHubAPIURL != "" {
		return c.GitHubAPIURL
	}
	return githubAPI
}

// githubHost tells whether a repository is on the GitHub whose App this is: its
// tokens go nowhere else.
func (c config) githubHost(repo string) bool {
	api := gitsync.Host(c.githubAPIURL())
	return api != "" && gitsync.Host(repo) == strings.TrimPrefix(api, "api.")
}

// githubToken gives installation tokens, each in the mask before it is used.
func (c config) githubToken(m *mask.Mask) func(context.Context) (string, error) {
	fetch := gitsync.AppToken(c.GitHubAppID, c.GitHubInstallationID, []byte(c.GitHubPrivateKey+"\n"), c.githubAPIURL(), &http.Client{Timeout: 30 * time.Second})
	return func(ctx context.Context) (string, error) {
		token, err := fetch(ctx)
		if err == nil {
			_, err = m.Add("github-token", token)
		}
		return token, err
	}
}

// errOrNil keeps %w from printing a nil error.
func errOrNil(err error) error {
	if err == nil {
		return errors.New("not revoked")
	}
	return err
}

// policySigners reads the files of trusted keys. A file that begins with "-"
// five times or is binary is an OpenPGP keyring, any other allowed_signers.
func (c config) policySigners() (s gitsync.Signers, unverified bool, err error) {
	if len(c.PolicySigners) == 1 && c.PolicySigners[0] == "unverified" {
		return s, true, nil
	}
	for _, path := range c.PolicySigners {
		b, err := os.ReadFile(strings.TrimSpace(path))
		if err != nil {
			return s, false, fmt.Errorf("COUNTERSIGN_POLICY_SIGNERS: %w", err)
		}
		if strings.HasPrefix(string(b), "-----BEGIN PGP") || len(b) > 0 && b[0] >= 0x80 {
			s.Keyring = append(s.Keyring, b...)
		} else {
			s.AllowedSigners = append(append(s.AllowedSigners, b...), '\n')
		}
	}
	return s, false, nil
}
