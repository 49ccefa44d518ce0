package bot

import (
	"context"
	"fmt"
	"io"
	"log"
	"sync"
	"time"

	"github.com/slack-go/slack"
	"github.com/slack-go/slack/socketmode"
)

// RunSocket hears interactions over Socket Mode, for a bot that Slack cannot
// reach by HTTP. It returns with ctx only. It reconnects whenever the
// connection ends; while Slack refuses the app-level token, approvals wait, and
// CardError says why.
func (b *Bot) RunSocket(ctx context.Context, appToken string) error {
	defer b.drain()
	for pause := time.Second; ; pause = min(2*pause, time.Minute) {
		connected, err := b.socket(ctx, appToken)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if connected {
			pause = time.Second
		}
		b.unheard(err)
		b.Log.ErrorContext(ctx, "slack: Socket Mode ended, so nobody can answer approvals; trying again", "error", err, "pause", pause)
		if err := b.Sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// socket hears interactions until ctx ends or Slack refuses the token.
func (b *Bot) socket(ctx context.Context, appToken string) (connected bool, err error) {
	api := *b.API
	slack.OptionAppLevelToken(appToken)(&api)
	client := socketmode.New(&api, socketmode.OptionReadLimit(maxPayload), socketmode.OptionPingInterval(b.Dead), socketmode.OptionLog(log.New(io.Discard, "", 0)))

	ctx, cancel := context.WithCancel(ctx)
	var hearing sync.WaitGroup
	hearing.Go(func() { connected = b.hear(ctx, client) })
	err = client.RunContext(ctx)
	cancel()
	hearing.Wait()
	return connected, err
}

// hear takes interactions, and tells whether there ever was a connection.
func (b *Bot) hear(ctx context.Context, client *socketmode.Client) (connected bool) {
	for {
		select {
		case <-ctx.Done():
			return connected
		case e := <-client.Events:
			switch e.Type {
			case socketmode.EventTypeInteractive, socketmode.EventTypeSlashCommand:
				raw := e.Request.Payload
				job := func(ctx context.Context) { b.interact(ctx, raw) }
				if e.Type == socketmode.EventTypeSlashCommand {
					c, ok := e.Data.(slack.SlashCommand)
					if !ok || c.Command != commandName {
						continue // none of ours
					}
					job = func(ctx context.Context) { b.command(ctx, c, raw) }
				}
				// Not acknowledged before we know which workspace is ours, nor
				// when there is too much to do: Slack then tells the presser
				// that it did not work.
				if !b.introduced() || !b.accept(job) {
					b.Log.ErrorContext(ctx, "slack: an interaction came too early, or too many at once; it was turned away")
					continue
				}
				if err := client.AckCtx(ctx, e.Request.EnvelopeID, nil); err != nil {
					b.Log.WarnContext(ctx, "slack: an interaction could not be acknowledged", "error", err)
				}
			case socketmode.EventTypeConnected:
				connected = true
				b.unheard(nil)
				b.Log.InfoContext(ctx, "slack: Socket Mode is connected")
			case socketmode.EventTypeConnectionError, socketmode.EventTypeInvalidAuth:
				if failed, ok := e.Data.(*slack.ConnectionErrorEvent); ok && refused(failed.ErrorObj) {
					b.unheard(failed.ErrorObj)
				}
				b.Log.ErrorContext(ctx, "slack: Socket Mode cannot connect", "event", e.Type, "cause", e.Data)
			}
		}
	}
}

// unheard remembers why presses do not reach us; nil: they do.
func (b *Bot) unheard(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.deaf = nil
	if err != nil {
		b.deaf = fmt.Errorf("approvals cannot be answered, because Slack does not let us hear buttons (%w): check the app-level token (xapp-…, scope connections:write)", err)
	}
}
