package bot

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/slack-go/slack"

	"countersign/enforcer/approval"
	"countersign/enforcer/approval/tell"
	"countersign/rules"
)

// Many requests at once become one message, the set's list: who asks for what,
// until when, and a button that has the request's own card posted. Nothing is
// decided on the list itself: Approve stands on a card only, under what it
// approves.

const (
	actionShow = "countersign_show"
	// maxListed is how many requests a list shows; the oldest, so that each is
	// shown at some time as those before it are decided.
	maxListed  = 20
	maxSummary = 300
	// listAge is how long a list's message takes on more: people are told of a
	// new message, and not of one that changes.
	listAge = 10 * time.Minute
)

// list does the next thing that a set's list needs, until it needs nothing.
func (b *Bot) list(ctx context.Context, set string, policy *rules.Policy, sure *bool) error {
	l, err := b.Book.List(ctx, set)
	if err != nil {
		return err
	}
	s, ok := policy.ApproverSet(set)
	all := b.waiting.listed(set)
	var open []approval.Approval
	var newest time.Time
	for _, a := range all {
		if a.State == approval.Pending {
			open = append(open, a)
			newest = a.Created
		}
	}
	for len(l.Past) > 0 { // what went before says that it is over
		over := face{text: "This list is closed. What still waits stands in the newest list below."}
		over.add(slack.NewSectionBlock(plain(over.text), nil, nil))
		if _, err := b.update(ctx, l.Past[0], over, true); err != nil {
			return err
		}
		l.Past = l.Past[1:]
		if l, err = b.Book.SetList(ctx, l); err != nil {
			return ours(err)
		}
	}
	switch {
	case len(open) == 0 && l.Card.TS == "":
		return nil // nothing was said, and there is nothing to say
	case len(open) > 0 && (!ok || s.Channel == ""):
		if ok && s.Via == approval.ViaOIDC {
			return nil // asked on the page alone
		}
		return errNowhere
	}
	if l.Card.TS != "" && len(open) > 0 && newest.Sub(l.Opened) > listAge {
		l.Past, l.Card, l.Opened = append(l.Past, l.Card), approval.Card{Set: set}, time.Time{}
		if l, err = b.Book.SetList(ctx, l); err != nil {
			return ours(err)
		}
	}
	if l.Card.TS != "" {
		shown, err := b.update(ctx, l.Card, b.listFace(set, l, open, all, policy), len(open) == 0)
		if err != nil {
			return err
		}
		if len(open) == 0 { // over: the next crowd gets a new message
			l.Card, l.Opened = approval.Card{Set: set}, time.Time{}
		} else if l.Card.Shown == shown {
			return nil
		} else {
			l.Card.Shown = shown
		}
		_, err = b.Book.SetList(ctx, l)
		return ours(err)
	}
	return b.postList(ctx, l, s, policy, sure)
}

// ours has what another did meanwhile looked at.
func ours(err error) error {
	if errors.Is(err, approval.ErrTaken) {
		return errClaimed
	}
	return err
}

// postList claims the list's message, looks for it if somebody may have posted
// it before, and posts it.
func (b *Bot) postList(ctx context.Context, l approval.List, s rules.ApproverSet, policy *rules.Policy, sure *bool) error {
	p := place{"", l.Set}
	if l.Card.By != "" && !*sure {
		if l.Card.By != b.name && b.Now().Sub(l.Card.Claimed) < approval.ClaimPatience {
			return errClaimed
		}
		ts, err := b.find(ctx, p, l.Card, "")
		if err != nil {
			return err
		}
		if ts != "" {
			l.Card.TS = ts
			_, err := b.Book.SetList(ctx, l)
			return ours(err)
		}
	}
	if err := b.lane(ctx, methodPost, s.Channel); err != nil {
		return err
	}
	now := b.Now().UTC()
	all := b.waiting.listed(l.Set)
	var open []approval.Approval
	for _, a := range all {
		if a.State == approval.Pending {
			open = append(open, a)
		}
	}
	if len(open) == 0 {
		return nil // decided during the wait
	}
	if l.Opened.IsZero() {
		l.Opened = open[0].Created
	}
	l.Card = approval.Card{Set: l.Set, Channel: s.Channel, Claimed: now, By: b.name}
	l, err := b.Book.SetList(ctx, l)
	if err != nil {
		return ours(err)
	}
	m := message{face: b.listFace(l.Set, l, open, all, policy), channel: s.Channel}
	channel, ts, shown, err := b.say(ctx, p, m, sure)
	if err != nil {
		return err
	}
	l.Card.Channel, l.Card.TS, l.Card.Shown = channel, ts, shown
	_, err = b.Book.SetList(ctx, l)
	return ours(err)
}

// listFace shows the oldest that are open, and counts the others.
func (b *Bot) listFace(set string, l approval.List, open, all []approval.Approval, policy *rules.Policy) face {
	decided := 0
	for _, a := range all {
		if a.State != approval.Pending && !a.Created.Before(l.Opened) {
			decided++
		}
	}
	var f face
	title := fmt.Sprintf("%d requests wait for %s", len(open), set)
	switch len(open) {
	case 0:
		title = fmt.Sprintf("Nothing in this list waits for %s any more", set)
	case 1:
		title = fmt.Sprintf("1 request waits for %s", set)
	}
	f.text = title
	f.add(slack.NewHeaderBlock(plain(title)))
	if decided > 0 {
		f.add(smallPrint(fmt.Sprintf("%d decided or expired, of those asked since %s.", decided, tell.Moment(l.Opened))))
	}
	if len(open) == 0 {
		return f
	}
	f.add(smallPrint("So many came at once that they stand in one list, the oldest first. Show has one posted in full, with its buttons."))
	for i, a := range open {
		if i == maxListed {
			f.add(smallPrint(fmt.Sprintf("and %d more: they move up as these are decided; /countersign pending names all.", len(open)-maxListed)))
			break
		}
		f.add(b.line(a, policy, set))
	}
	if b.PublicURL != "" {
		f.add(slack.NewRichTextBlock("", slack.NewRichTextSection(
			slack.NewRichTextSectionLinkElement(strings.TrimSuffix(b.PublicURL, "/")+"/approvals", "All of them, on the approval page", nil))))
	}
	return f
}

// line names a request in a list, with a button for its card where a set of
// those given has none yet; none given: where any set that is asked has none.
func (b *Bot) line(a approval.Approval, policy *rules.Policy, sets ...string) slack.Block {
	headline, _ := tell.Headline(a, policy)
	text, _ := tell.Cut(headline, maxSummary)
	line := slack.NewSectionBlock(plain(fmt.Sprintf("%s · until %s · approval %s", text, tell.Moment(a.Expires), a.ID)), nil, nil)
	if len(sets) == 0 {
		sets = setsOf(a)
	}
	for _, set := range sets {
		if _, has := a.Card(set); !has {
			line.Accessory = slack.NewAccessory(slack.NewButtonBlockElement(actionShow, ballotFor(a, set), plain("Show")))
			break
		}
	}
	return line
}

// ballotFor is a Show button's value: a ballot, and the set in front of which
// the card is wanted.
func ballotFor(a approval.Approval, set string) string { return ballot(a) + "." + set }

// show has the card of a listed request posted, if it is not there yet.
func (b *Bot) show(ctx context.Context, a approval.Approval, set string, policy *rules.Policy) error {
	if _, has := a.Card(set); has {
		return errShown
	}
	if a.State != approval.Pending {
		return fmt.Errorf("%w: it is %s", approval.ErrDecided, a.State)
	}
	s, ok := policy.ApproverSet(set)
	if !ok || s.Channel == "" {
		return errNowhere
	}
	_, err := b.Book.SetCard(ctx, a.ID, approval.Card{Set: set, Channel: s.Channel})
	return err
}

var errShown = errors.New("the card is there already, or on its way")
