package bot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/slack-go/slack"

	"countersign/enforcer/approval"
)

const (
	// again is the pause after Slack refused a card: until somebody invites
	// the bot, say.
	again = 15 * time.Second
	// callLimit bounds one call to Slack.
	callLimit = 20 * time.Second
)

// The metadata by which a message is found again.
const metadataType = "countersign_approval"

// Run keeps a card for every approval and set, from the question to what came
// of it, and the other messages that go with it; and it expires what nobody
// waits for. It returns with ctx, or with an error that cannot be cured by
// waiting.
func (b *Bot) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var cards sync.WaitGroup
	defer func() { cancel(); cards.Wait(); b.drain() }()
	notice := func(p place) {
		b.notice(p, func(p place, woken chan struct{}) { cards.Go(func() { b.tend(ctx, p, woken) }) })
	}

	cards.Go(func() { b.sweep(ctx, notice) })
	if err := b.introduce(ctx); err != nil {
		return err
	}
	// All that is there first: which requests are crowded depends on those
	// before them.
	all, err := b.Book.All(ctx)
	if err != nil {
		return fmt.Errorf("bot: listing the approvals: %w", err)
	}
	for _, a := range all {
		b.waiting.note(a)
	}
	changes, err := b.Book.Watch(ctx)
	if err != nil {
		return fmt.Errorf("bot: watching the approvals: %w", err)
	}
	for a := range changes {
		b.waiting.note(a)
		for _, p := range b.places(a) {
			notice(p)
		}
	}
	return ctx.Err()
}

// sweep does from time to time what no change asks for: it expires, reminds, and
// forgets.
func (b *Bot) sweep(ctx context.Context, notice func(place)) {
	t := time.NewTicker(b.Every)
	defer t.Stop()
	for {
		if _, err := b.Book.Expire(ctx); err != nil && ctx.Err() == nil {
			b.Log.ErrorContext(ctx, "approvals could not be expired; trying again", "error", err)
		}
		b.waiting.forget(b.Now().Add(-approval.Keep))
		b.waiting.each(func(a approval.Approval) {
			if !b.due(a) {
				return
			}
			for _, set := range setsOf(a) {
				if _, told := a.Card(reminderOf(set)); !told {
					notice(place{a.ID, reminderOf(set)})
				}
			}
		})
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

// attempt is place, of which a fault does not end the process.
func (b *Bot) attempt(ctx context.Context, p place, sure *bool) (err error) {
	err = errFault
	defer b.survive(ctx, "the card of "+p.id)
	return b.place(ctx, p, sure)
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
		err := b.attempt(ctx, p, &sure)
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
	errFault   = errors.New("the bot failed inside")
	errClaimed = errors.New("another bot is posting the card")
	errNowhere = errors.New("the policy names no Slack channel for this approver set")
	errEarly   = errors.New("no policy is in force yet")
)

// place does the next thing that one message needs, until it needs nothing.
func (b *Bot) place(ctx context.Context, p place, sure *bool) error {
	policy := b.Policy()
	if p.id == "" {
		if policy == nil {
			return errEarly
		}
		return b.list(ctx, p.set, policy, sure)
	}
	a, err := b.Book.Get(ctx, p.id)
	if errors.Is(err, approval.ErrUnknown) {
		return nil // forgotten, as old approvals are
	}
	if err != nil {
		return err
	}
	if policy == nil {
		return errEarly
	}
	m, err := b.message(a, p, policy)
	if err != nil {
		return err
	}
	card, has := a.Card(p.set)
	switch {
	case has && card.TS != "":
		if p.set == reminderOf(setOf(p.set)) && a.Reminded.IsZero() && a.State == approval.Pending {
			if _, _, err := b.Book.Remind(ctx, p.id); err != nil { // recorded once, for all sets
				return err
			}
		}
		shown, err := b.update(ctx, card, m.face, a.State.Ended())
		if err != nil || shown == card.Shown {
			return err
		}
		card.Shown = shown
		_, err = b.Book.SetCard(ctx, p.id, card)
		return err
	case !m.wanted && !has:
		return nil
	}
	if has && card.By != "" && !*sure { // claimed once: is it there?
		ts, err := b.find(ctx, p, card, m.thread)
		if err != nil {
			return err
		}
		if ts != "" {
			_, err := b.Book.SetCard(ctx, p.id, approval.Card{Set: p.set, Channel: card.Channel, TS: ts})
			if err != nil {
				return err
			}
			return b.place(ctx, p, sure)
		}
	}
	if !m.wanted {
		return nil
	}
	return b.post(ctx, p, m, sure)
}

func (b *Bot) post(ctx context.Context, p place, m message, sure *bool) error {
	if err := b.lane(ctx, methodPost, m.channel); err != nil {
		return err
	}
	// After the wait: as it stands now.
	a, err := b.Book.SetCard(ctx, p.id, approval.Card{Set: p.set, Channel: m.channel, Claimed: b.Now().UTC(), By: b.name})
	if err != nil {
		return err
	}
	card, _ := a.Card(p.set)
	switch {
	case card.TS != "":
		return nil // posted by another; its update brings us back
	case card.By != b.name:
		return errClaimed
	}
	policy := b.Policy()
	if policy == nil {
		return errEarly
	}
	if m, err = b.message(a, p, policy); err != nil || !m.wanted {
		return err
	}
	channel, ts, shown, err := b.say(ctx, p, m, sure)
	if err != nil {
		return err
	}
	_, err = b.Book.SetCard(ctx, p.id, approval.Card{Set: p.set, Channel: channel, TS: ts, Shown: shown})
	return err
}

// say posts a message. sure is false afterwards if it may be there all the same.
func (b *Bot) say(ctx context.Context, p place, m message, sure *bool) (channel, ts, shown string, err error) {
	if shown, err = m.face.digest(); err != nil {
		return "", "", "", err
	}
	options := append(m.face.options(), slack.MsgOptionMetadata(slack.SlackMetadata{
		EventType: metadataType, EventPayload: map[string]any{"approval": p.id, "set": p.set},
	}))
	if m.thread != "" {
		options = append(options, slack.MsgOptionTS(m.thread))
	}
	call, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	*sure = false
	channel, ts, err = b.API.PostMessageContext(call, m.channel, options...)
	if err != nil {
		var limited *slack.RateLimitedError
		*sure = refused(err) || errors.As(err, &limited)
		return "", "", "", b.limited(methodPost, m.channel, err)
	}
	return channel, ts, shown, nil
}

// update makes a message show the face, and returns what it shows then. A last
// update that Slack refuses is not repeated: the record is in the journal; the
// card, deleted or out of reach, is not worth a loop.
func (b *Bot) update(ctx context.Context, card approval.Card, f face, last bool) (shown string, err error) {
	shown, err = f.digest()
	if err != nil || shown == card.Shown {
		return shown, err
	}
	if err := b.lane(ctx, methodUpdate, card.Channel); err != nil {
		return "", err
	}
	call, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	_, _, _, err = b.API.UpdateMessageContext(call, card.Channel, card.TS, f.options()...)
	if err != nil && last && refused(err) {
		b.Log.WarnContext(ctx, "slack refused the last update of a card", "channel", card.Channel, "ts", card.TS, "error", err)
		return shown, nil
	}
	return shown, b.limited(methodUpdate, card.Channel, err)
}

func (f face) options() []slack.MsgOption {
	return []slack.MsgOption{
		slack.MsgOptionText(f.text, true), // escaped: & < > spell no mention and no link
		slack.MsgOptionBlocks(f.blocks...),
		slack.MsgOptionParse(false), slack.MsgOptionLinkNames(false),
		slack.MsgOptionDisableLinkUnfurl(), slack.MsgOptionDisableMediaUnfurl(),
	}
}

// find looks for a message that was posted, but whose coordinates were lost in a
// crash or with Slack's answer: in the channel, or in a thread.
func (b *Bot) find(ctx context.Context, p place, card approval.Card, thread string) (ts string, err error) {
	method := methodHistory
	if thread != "" {
		method = methodReplies
	}
	if err := b.lane(ctx, method, card.Channel); err != nil {
		return "", err
	}
	call, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	// Slack's clock and ours differ.
	since := strconv.FormatInt(card.Claimed.Add(-2*time.Minute).Unix(), 10) + ".000000"
	var found []slack.Message
	if thread != "" {
		found, _, _, err = b.API.GetConversationRepliesContext(call, &slack.GetConversationRepliesParameters{
			ChannelID: card.Channel, Timestamp: thread, Oldest: since, Limit: 999, IncludeAllMetadata: true})
		slices.Reverse(found)
	} else {
		var h *slack.GetConversationHistoryResponse
		if h, err = b.API.GetConversationHistoryContext(call, &slack.GetConversationHistoryParameters{
			ChannelID: card.Channel, Oldest: since, Limit: 999, IncludeAllMetadata: true}); err == nil {
			found = h.Messages
		}
	}
	if err != nil {
		if refused(err) {
			b.Log.WarnContext(ctx, "slack: the channel's history cannot be read, so a card may be posted twice", "channel", card.Channel, "error", err)
			return "", nil
		}
		return "", b.limited(method, card.Channel, err)
	}
	b.mu.Lock()
	bot := b.botID
	b.mu.Unlock()
	for _, m := range found {
		if m.BotID == bot && m.Metadata.EventType == metadataType && m.Metadata.EventPayload["approval"] == p.id && m.Metadata.EventPayload["set"] == p.set {
			ts = m.Timestamp // newest first: the oldest of several stays
		}
	}
	return ts, nil
}
