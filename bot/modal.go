package bot

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/slack-go/slack"

	"countersign/enforcer/approval"
	"countersign/enforcer/approval/tell"
	"countersign/rules"
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

// openDetails shows what the card leaves out.
func (b *Bot) openDetails(ctx context.Context, a approval.Approval, p press) error {
	return b.open(ctx, p, slack.ModalViewRequest{
		Type: slack.VTModal, Title: plain("Details"), Close: plain("Close"),
		Blocks: slack.Blocks{BlockSet: details(a, b.Policy(), b.PublicURL)},
	})
}

// What a dialog may hold: 100 blocks. Each part of Details has a share of them,
// of one text of maxText characters a block.
const (
	maxRequestBlocks = 30
	maxPartBlocks    = 10
)

// details is the whole approval: where it stands and who may vote, the request,
// what every rule that was looked at said, the exact identities and digests, and
// how each vote came about.
func details(a approval.Approval, p *rules.Policy, public string) []slack.Block {
	var all []slack.Block
	part := func(title string, limit int, lines []string) {
		if len(lines) == 0 {
			return
		}
		all = append(all, richText(section(bold(title))))
		texts := pages(strings.Join(lines, "\n"), limit)
		for _, t := range texts {
			all = append(all, richText(preformatted(t)))
		}
	}
	said := func(lines []tell.Line) []string {
		var out []string
		for _, l := range lines {
			out = append(out, l.String())
		}
		return out
	}
	headline, _ := tell.Headline(a, p)
	all = append(all, slack.NewSectionBlock(plain(headline), nil, nil))
	if page := tell.PageLink(public, a.ID); page != "" {
		all = append(all, richText(section(slack.NewRichTextSectionLinkElement(page, "Open it on the approval page", nil))))
	}
	part("Where it stands", maxPartBlocks, append(said(tell.Standing(a)), said(tell.Notes(a))...))
	part("Who may vote", maxPartBlocks, said(tell.Voters(a, p)))
	part("What it does", maxPartBlocks, tell.Does(a))
	part("The request in full", maxRequestBlocks, []string{tell.Arguments(a)})
	part("What the rules said", maxPartBlocks, tell.Trace(a))
	var facts []string
	for _, f := range tell.Facts(a) {
		facts = append(facts, fmt.Sprintf("%-8s %s", f.Name, f.Value))
	}
	part("Exactly", maxPartBlocks, facts)
	part("How the votes came about", maxPartBlocks, tell.Proofs(a))
	return all
}

// pages cuts a text that is visible into at most so many texts of maxText
// characters, at line breaks where there are any; what is left over is counted.
func pages(visible string, limit int) []string {
	var out []string
	for len(out) < limit-1 && tell.Cost(visible) > maxText {
		head, _ := tell.Split(visible, maxText)
		if i := strings.LastIndexByte(head, '\n'); i > len(head)/2 {
			head = head[:i+1]
		}
		out = append(out, head)
		visible = visible[len(head):]
	}
	last, _ := tell.Cut(visible, maxText)
	return append(out, orElse(last, " "))
}

func (b *Bot) open(ctx context.Context, p press, v slack.ModalViewRequest) error {
	if _, err := b.API.OpenViewContext(ctx, p.trigger, v); err != nil {
		return fmt.Errorf("%w: %w", errModal, err)
	}
	return nil
}
