package bot

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/slack-go/slack"

	"countersign/enforcer/approval"
	"countersign/enforcer/approval/tell"
)

// modalMemory is what the deny modal carries from press to submission, in its
// private_metadata. Like a button's value it is checked again.
type modalMemory struct {
	Ballot  string `json:"ballot"`
	Channel string `json:"channel"`
	TS      string `json:"ts"`
}

// openReason asks for the reason of a denial. A trigger lives three seconds:
// there is one attempt.
func (b *Bot) openReason(ctx context.Context, a approval.Approval, p press) error {
	memory, err := json.Marshal(modalMemory{p.ballot, p.channel, p.proof.MessageTS})
	if err != nil {
		return fmt.Errorf("%w: %w", errModal, err)
	}
	headline, _ := tell.Headline(a, b.Policy())
	input := slack.NewPlainTextInputBlockElement(plain("For example: ask billing first"), actionReason)
	input.Multiline, input.MinLength, input.MaxLength = true, 1, 500
	reason := slack.NewInputBlock(actionReason, plain("Why? The agent is told."), nil, input)
	return b.open(ctx, p, slack.ModalViewRequest{
		Type: slack.VTModal, CallbackID: actionReason, PrivateMetadata: string(memory),
		Title: plain("Deny this request"), Submit: plain("Deny"), Close: plain("Back"),
		Blocks: slack.Blocks{BlockSet: []slack.Block{
			slack.NewSectionBlock(plain(headline), nil, nil), reason}},
	})
}

// openDetails shows what the card leaves out: the exact identities, and what
// every rule that was looked at said.
func (b *Bot) openDetails(ctx context.Context, a approval.Approval, p press) error {
	var facts strings.Builder
	for _, f := range tell.Facts(a) {
		fmt.Fprintf(&facts, "%-8s %s\n", f.Name, f.Value)
	}
	shown, _ := tell.Cut(strings.TrimSpace(facts.String()), maxText)
	why, _ := tell.Cut(orElse(strings.Join(tell.Trace(a), "\n"), "(no rule)"), maxText)
	return b.open(ctx, p, slack.ModalViewRequest{
		Type: slack.VTModal, Title: plain("Details"), Close: plain("Close"),
		Blocks: slack.Blocks{BlockSet: []slack.Block{
			slack.NewSectionBlock(plain("What is asked, exactly"), nil, nil), preformatted(shown),
			slack.NewSectionBlock(plain("What the rules said"), nil, nil), preformatted(why),
			slack.NewSectionBlock(plain("So far: "+soFar(a)), nil, nil),
		}},
	})
}

func (b *Bot) open(ctx context.Context, p press, v slack.ModalViewRequest) error {
	if _, err := b.API.OpenViewContext(ctx, p.trigger, v); err != nil {
		return fmt.Errorf("%w: %w", errModal, err)
	}
	return nil
}
