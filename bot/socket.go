package bot

import (
	"context"
	"io"
	"log"
	"sync"

	"github.com/slack-go/slack"
	"github.com/slack-go/slack/socketmode"
)

// RunSocket hears interactions over Socket Mode, for a bot that Slack cannot
// reach by HTTP. It reconnects whenever the connection ends, and returns with
// ctx, or when Slack refuses the app-level token.
func (b *Bot) RunSocket(ctx context.Context, appToken string) error {
	api := *b.API
	slack.OptionAppLevelToken(appToken)(&api)
	client := socketmode.New(&api, socketmode.OptionReadLimit(maxPayload), socketmode.OptionLog(log.New(io.Discard, "", 0)))

	ctx, cancel := context.WithCancel(ctx)
	var hearing sync.WaitGroup
	hearing.Go(func() { b.hear(ctx, client) })
	err := client.RunContext(ctx)
	cancel()
	hearing.Wait()
	b.drain()
	return err
}

func (b *Bot) hear(ctx context.Context, client *socketmode.Client) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-client.Events:
			switch e.Type {
			case socketmode.EventTypeInteractive:
				// Not acknowledged when there is too much to do: Slack then
				// tells the presser that it did not work.
				if !b.accept(e.Request.Payload) {
					b.Log.ErrorContext(ctx, "slack: too many interactions at once; one was turned away")
					continue
				}
				if err := client.AckCtx(ctx, e.Request.EnvelopeID, nil); err != nil {
					b.Log.WarnContext(ctx, "slack: an interaction could not be acknowledged", "error", err)
				}
			case socketmode.EventTypeConnected:
				b.Log.InfoContext(ctx, "slack: Socket Mode is connected")
			case socketmode.EventTypeConnectionError, socketmode.EventTypeInvalidAuth:
				b.Log.ErrorContext(ctx, "slack: Socket Mode cannot connect", "event", e.Type, "cause", e.Data)
			}
		}
	}
}
