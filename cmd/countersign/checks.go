package main

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"countersign/audit"
	"countersign/bot"
)

// checks shows at GitHub, on the commits of the policy, what this enforcer made
// of them, and its newest checkpoint; or nothing, where that is not configured.
type checks struct{ runs *bot.Checks }

func newChecks(c config, token func(context.Context) (string, error), log *slog.Logger) (*checks, error) {
	if c.GitHubChecksRepo == "" {
		return &checks{}, nil
	}
	owner, repo, _ := strings.Cut(c.GitHubChecksRepo, "/")
	runs, err := bot.NewChecks(bot.ChecksConfig{
		APIURL: c.GitHubAPIURL, Owner: owner, Repo: repo, Name: c.ID, Token: token, Now: time.Now, Log: log,
	})
	return &checks{runs}, err
}

// told is what the policy follower calls: a commit is in force, or was refused.
func (c *checks) told(commit, signer string, rejected error) {
	switch {
	case c.runs == nil:
	case rejected != nil:
		c.runs.Rejected(commit, rejected)
	default:
		c.runs.InForce(commit, signer)
	}
}

// checkpoint is what the publisher of the record calls after a push.
func (c *checks) checkpoint(note string) {
	if c.runs != nil {
		c.runs.Checkpoint(note)
	}
}

// count is what the publisher of the record calls after a commit.
func (c *checks) count(n audit.Tally) {
	if c.runs != nil {
		c.runs.Count(bot.Counts(n))
	}
}

// run sends until ctx ends. What GitHub refuses is no reason to stop: check
// runs are pointers, and nothing waits for them.
func (c *checks) run(ctx context.Context) error {
	if c.runs == nil {
		return nil
	}
	return c.runs.Run(ctx)
}
