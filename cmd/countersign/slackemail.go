package main

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/slack-go/slack"
)

// slackEmail asks Slack for the e-mail address of a user, where policy says that
// people are linked by it. Only full members of the app's own workspace have one
// here: a guest, a bot, somebody of another team over Slack Connect, or an
// account that is switched off, has none. The app needs the scopes users:read
// and users:read.email for it (docs.slack.dev/reference/methods/users.info).
func slackEmail(api *slack.Client) func(ctx context.Context, team, user string) (string, error) {
	var own atomic.Value // the workspace, once Slack has said it
	return func(ctx context.Context, team, user string) (string, error) {
		if own.Load() == nil {
			who, err := api.AuthTestContext(ctx)
			if err != nil {
				return "", fmt.Errorf("slack: auth.test: %w", err)
			}
			own.Store(who.TeamID)
		}
		if team != own.Load() {
			return "", nil
		}
		u, err := api.GetUserInfoContext(ctx, user)
		if err != nil {
			return "", fmt.Errorf("slack: users.info, for links.email (scopes users:read, users:read.email): %w", err)
		}
		if u.ID != user || u.TeamID != team || u.Deleted || u.IsBot || u.IsRestricted || u.IsUltraRestricted || u.IsStranger || !u.IsEmailConfirmed {
			return "", nil
		}
		return u.Profile.Email, nil
	}
}
