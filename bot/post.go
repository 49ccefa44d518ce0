package bot

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/slack-go/slack"

	"countersign/enforcer/approval"
	"countersign/rules"
)

const (
	// sweep is how often approvals that nobody waits for are expired.
	sweep = 5 * time.Second
	// again is the pause after Slack refused a card: until somebody invites
	// the bot, say.
	again = 15 * time.Second
	// callLimit bounds one call to Slack.
	callLimit = 20 * time.Second
)

// The metadata by which a card is found again.
const metadataType = "countersign_approval"

// Run keeps a card for every approval and set, from the question to what came
// of it, and expires what nobody waits for. It returns with ctx, or with an
// error that cannot be cured by waiting.
func (b *Bot) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var cards sync.WaitGroup
	defer func() { cancel(); cards.Wait(); b.drain() }()

	cards.Go(func() { b.expire(ctx) })
	if err := b.introduce(ctx); err != nil {
		return err
	}
	changes, err := b.Book.Watch(ctx)
	if err != nil {
		return fmt.Errorf("bot: watching the approvals: %w", err)
	}
	for a := range changes {
		told := map[string]bool{}
		for _, ask := range a.Asks {
			if told[ask.Approvers] {
				continue
			}
			told[ask.Approvers] = true
			b.notice(place{a.ID, ask.Approvers}, func(p place, woken chan struct{}) {
				cards.Go(func() { b.tend(ctx, p, woken) })
			})
		}
	}
	return ctx.Err()
}

func (b *Bot) expire(ctx context.Context) {
	t := time.NewTicker(sweep)
	defer t.Stop()
	for {
		if _, err := b.Book.Expire(ctx); err != nil && ctx.Err() == nil {
			b.Log.ErrorContext(ctx, "approvals could not be expired; trying again", "error", err)
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// notice has the card looked at: by the goroutine that tends it, or by a new
// one.
func (b *Bot) notice(p place, start func(place, chan struct{})) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if woken, ok := b.tending[p]; ok {
		select {
		case woken <- struct{}{}:
		default: // will look anyway
		}
		return
	}
	woken := make(chan struct{}, 1)
	b.tending[p] = woken
	start(p, woken)
}

// tend brings one card up to date, however often that takes, and ends when
// there is nothing to do.
func (b *Bot) tend(ctx context.Context, p place, woken chan struct{}) {
	pause := time.Second
	sure := false // our last attempt to post was refused: the card is not there
	for ctx.Err() == nil {
		select {
		case <-woken:
		default:
		}
		err := b.place(ctx, p, &sure)
		if err == nil {
			b.setCardError(p, nil)
			pause = time.Second
			if b.done(p, woken) {
				return
			}
			continue
		}
		wait := pause
		var limited *slack.RateLimitedError
		switch {
		case ctx.Err() != nil:
		case errors.As(err, &limited):
			wait = 0 // the closed channel waits
			b.Log.WarnContext(ctx, "slack: rate limited", "approval", p.id, "retry_after", limited.RetryAfter)
		case errors.Is(err, errClaimed):
			wait = approval.ClaimPatience / 4
		case refused(err) || errors.Is(err, errNowhere):
			wait = again
			b.setCardError(p, fmt.Errorf("no card for %s could be posted: %w", p.set, explain(err)))
			b.Log.ErrorContext(ctx, "slack refused a card; the approval stays pending", "approval", p.id, "set", p.set, "error", err)
		default:
			pause = min(2*pause, 30*time.Second)
			b.Log.WarnContext(ctx, "slack: a card could not be brought up to date; trying again", "approval", p.id, "set", p.set, "error", err)
		}
		if b.Sleep(ctx, wait) != nil {
			break
		}
	}
	b.mu.Lock()
	delete(b.tending, p)
	b.mu.Unlock()
}

// done forgets the card, unless it changed meanwhile.
func (b *Bot) done(p place, woken chan struct{}) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(woken) > 0 {
		return false
	}
	delete(b.tending, p)
	return true
}

var (
	errClaimed = errors.New("another bot is posting the card")
	errNowhere = errors.New("the policy names no Slack channel for this approver set")
	errEarly   = errors.New("no policy is in force yet")
)

// place does the next thing that one card needs, until it needs nothing.
func (b *Bot) place(ctx context.Context, p place, sure *bool) error {
	a, err := b.Book.Get(ctx, p.id)
	if errors.Is(err, approval.ErrUnknown) {
		return nil // forgotten, as old approvals are
	}
	if err != nil {
		return err
	}
	policy := b.Policy()
	if policy == nil {
		return errEarly
	}
	set, ok := policy.ApproverSet(p.set)
	card, has := a.Card(p.set)
	switch {
	case has && card.TS != "":
		return b.update(ctx, a, card, draw(a, set, policy, b.PublicURL))
	case a.State != approval.Pending && !has:
		return nil // over before it was shown
	case a.State == approval.Pending && (!ok || set.Channel == ""):
		return errNowhere
	}
	channel := set.Channel
	if has {
		channel = card.Channel
	}
	if has && !*sure { // claimed once: is it there?
		ts, err := b.find(ctx, p, channel, card.Claimed)
		if err != nil {
			return err
		}
		if ts != "" {
			_, err := b.Book.SetCard(ctx, p.id, approval.Card{Set: p.set, Channel: channel, TS: ts})
			if err != nil {
				return err
			}
			return b.place(ctx, p, sure)
		}
	}
	if a.State != approval.Pending {
		return nil
	}
	return b.post(ctx, p, set, policy, sure)
}

func (b *Bot) post(ctx context.Context, p place, set rules.ApproverSet, policy *rules.Policy, sure *bool) error {
	if err := b.lane(ctx, set.Channel, pace); err != nil {
		return err
	}
	// After the wait: as it stands now.
	a, err := b.Book.SetCard(ctx, p.id, approval.Card{Set: p.set, Channel: set.Channel, Claimed: b.Now().UTC(), By: b.name})
	if err != nil {
		return err
	}
	card, _ := a.Card(p.set)
	switch {
	case card.TS != "":
		return nil // posted by another; its update brings us back
	case card.By != b.name:
		return errClaimed
	case a.State != approval.Pending:
		return nil
	}
	f := draw(a, set, policy, b.PublicURL)
	shown, err := f.digest()
	if err != nil {
		return err
	}
	call, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	*sure = false
	channel, ts, err := b.API.PostMessageContext(call, set.Channel, append(f.options(), slack.MsgOptionMetadata(slack.SlackMetadata{
		EventType: metadataType, EventPayload: map[string]any{"approval": p.id, "set": p.set},
	}))...)
	if err != nil {
		var limited *slack.RateLimitedError
		*sure = refused(err) || errors.As(err, &limited)
		return b.limited(set.Channel, err)
	}
	_, err = b.Book.SetCard(ctx, p.id, approval.Card{Set: p.set, Channel: channel, TS: ts, Shown: shown})
	return err
}

func (b *Bot) update(ctx context.Context, a approval.Approval, card approval.Card, f face) error {
	shown, err := f.digest()
	if err != nil || shown == card.Shown {
		return err
	}
	if err := b.lane(ctx, card.Channel, 0); err != nil {
		return err
	}
	call, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	if _, _, _, err := b.API.UpdateMessageContext(call, card.Channel, card.TS, f.options()...); err != nil {
		var answer slack.SlackErrorResponse
		if a.State.Ended() && errors.As(err, &answer) && refused(err) {
			// The record is in the journal; the card, deleted or out of reach,
			// is not worth a loop.
			b.Log.WarnContext(ctx, "slack refused the last update of a card", "approval", a.ID, "error", err)
		} else {
			return b.limited(card.Channel, err)
		}
	}
	card.Shown = shown
	_, err = b.Book.SetCard(ctx, a.ID, card)
	return err
}

func (f face) options() []slack.MsgOption {
	return []slack.MsgOption{
		slack.MsgOptionText(f.text, true), // escaped: & < > spell no mention and no link
		slack.MsgOptionBlocks(f.blocks...),
		slack.MsgOptionParse(false), slack.MsgOptionLinkNames(false),
		slack.MsgOptionDisableLinkUnfurl(), slack.MsgOptionDisableMediaUnfurl(),
	}
}

// find looks for a card that was posted, but whose coordinates were lost in a
// crash or with Slack's answer.
func (b *Bot) find(ctx context.Context, p place, channel string, claimed time.Time) (ts string, err error) {
	call, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	if err := b.lane(ctx, channel, 0); err != nil {
		return "", err
	}
	since := claimed.Add(-2 * time.Minute) // Slack's clock and ours differ
	h, err := b.API.GetConversationHistoryContext(call, &slack.GetConversationHistoryParameters{
		ChannelID: channel, Oldest: strconv.FormatInt(since.Unix(), 10) + ".000000", Limit: 999, IncludeAllMetadata: true,
	})
	if err != nil {
		if refused(err) {
			b.Log.WarnContext(ctx, "slack: the channel's history cannot be read, so a card may be posted twice", "channel", channel, "error", err)
			return "", nil
		}
		return "", b.limited(channel, err)
	}
	b.mu.Lock()
	bot := b.botID
	b.mu.Unlock()
	for _, m := range h.Messages {
		if m.BotID == bot && m.Metadata.EventType == metadataType && m.Metadata.EventPayload["approval"] == p.id && m.Metadata.EventPayload["set"] == p.set {
			ts = m.Timestamp // newest first: the oldest of several stays
		}
	}
	return ts, nil
}
