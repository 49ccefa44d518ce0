package bot

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/slack-go/slack"
)

// The methods whose calls take turns.
const (
	methodPost    = "chat.postMessage"
	methodUpdate  = "chat.update"
	methodHistory = "conversations.history"
	methodReplies = "conversations.replies"
)

// Slack takes one message a second in a channel; the margin is for the
// network's jitter between us and Slack's clock.
const pace = 1100 * time.Millisecond

// Of the other methods it takes fifty calls a minute at least (tier 3): some at
// once, and then so many that no minute has more.
const (
	tierPace  = 1600 * time.Millisecond
	tierBurst = 10
)

// lane waits until the method may be called: a message takes its turn in the
// channel, what has a tier its turn in the workspace, and all wait for as long as
// Slack asked for. This holds for one process. Two bots over one store claim
// each message, so that only one posts it; but together they may be faster than
// Slack likes, and then are told to wait.
func (b *Bot) lane(ctx context.Context, method, channel string) error {
	b.mu.Lock()
	now := b.Now()
	at := now
	if closed := b.closed[laneOf(method, channel)]; closed.After(at) {
		at = closed
	}
	// turns is when a call would come that waits for all before it; a burst is
	// let through before that.
	turn, step, burst := laneOf(method, channel), pace, time.Duration(0)
	if method != methodPost {
		step, burst = tierPace, tierBurst*tierPace
	}
	next := b.turns[turn]
	if next.Before(at) {
		next = at
	}
	if early := next.Add(-burst); early.After(at) {
		at = early
	}
	b.turns[turn] = next.Add(step)
	b.mu.Unlock()
	return b.Sleep(ctx, at.Sub(now))
}

// laneOf is what Slack counts calls by: the method and, for messages, the channel.
func laneOf(method, channel string) string {
	if method == methodPost {
		return method + " " + channel
	}
	return method
}

// limited keeps the lane closed for as long as Slack asks.
func (b *Bot) limited(method, channel string, err error) error {
	var limited *slack.RateLimitedError
	if errors.As(err, &limited) {
		b.mu.Lock()
		if until := b.Now().Add(limited.RetryAfter); until.After(b.closed[laneOf(method, channel)]) {
			b.closed[laneOf(method, channel)] = until
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
