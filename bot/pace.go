package bot

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/slack-go/slack"
)

// Slack takes one message a second in a channel; the margin is for the
// network's jitter between us and Slack's clock.
const pace = 1100 * time.Millisecond

// lane waits until the channel may be written to. A post takes its turn among
// the others; an update waits only for as long as Slack asked for.
func (b *Bot) lane(ctx context.Context, channel string, takes time.Duration) error {
	b.mu.Lock()
	now := b.Now()
	at := now
	if closed := b.closed[channel]; closed.After(at) {
		at = closed
	}
	if takes > 0 {
		if next := b.turns[channel]; next.After(at) {
			at = next
		}
		b.turns[channel] = at.Add(takes)
	}
	b.mu.Unlock()
	return b.Sleep(ctx, at.Sub(now))
}

// limited keeps the channel closed for as long as Slack asks.
func (b *Bot) limited(channel string, err error) error {
	var limited *slack.RateLimitedError
	if errors.As(err, &limited) {
		b.mu.Lock()
		if until := b.Now().Add(limited.RetryAfter); until.After(b.closed[channel]) {
			b.closed[channel] = until
		}
		b.mu.Unlock()
	}
	return err
}

// explain adds what to do about Slack's error.
func explain(err error) error {
	var answer slack.SlackErrorResponse
	if !errors.As(err, &answer) {
		return err
	}
	hint := map[string]string{
		"channel_not_found": "the channel in approvers.yaml does not exist, or is private and the bot is not in it",
		"not_in_channel":    "invite the bot to the channel",
		"is_archived":       "the channel is archived: name another in approvers.yaml",
		"invalid_auth":      "the bot token is not valid",
		"token_revoked":     "the bot token was revoked",
		"account_inactive":  "the app was removed from the workspace",
		"missing_scope":     "the app lacks the scope chat:write",
	}[answer.Err]
	if hint == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, hint)
}
