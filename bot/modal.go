package bot

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/slack-go/slack"

	"countersign/enforcer/approval"
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
	input := slack.NewPlainTextInputBlockElement(plain("For example: ask billing first"), actionReason)
	input.Multiline, input.MinLength, input.MaxLength = true, 1, 500
	reason := slack.NewInputBlock(actionReason, plain("Why? The agent is told."), nil, input)
	return b.open(ctx, p, slack.ModalViewRequest{
		Type: slack.VTModal, CallbackID: actionReason, PrivateMetadata: string(memory),
		Title: plain("Deny this request"), Submit: plain("Deny"), Close: plain("Back"),
		Blocks: slack.Blocks{BlockSet: []slack.Block{
			slack.NewSectionBlock(plain(headline(a, b.Policy())), nil, nil), reason}},
	})
}

// openDetails shows what the card leaves out: the exact identities, and what
// every rule that was looked at said.
func (b *Bot) openDetails(ctx context.Context, a approval.Approval, p press) error {
	facts := fmt.Sprintf("subject  %s#%s\nclient   %s\nserver   %s\nmethod   %s\ntool     %s\ndigest   %s\nrules    %s\npolicy   %s\ncall     %s\napproval %s",
		a.Subject.Issuer, a.Subject.Sub, a.Client, a.Server, a.Method, orElse(a.Tool, a.Resource), a.Digest, a.RulesDigest, a.Policy, a.Call, a.ID)
	shown, _ := visible(facts, true, maxText)
	why, _ := visible(trace(a), true, maxText)
	return b.open(ctx, p, slack.ModalViewRequest{
		Type: slack.VTModal, Title: plain("Details"), Close: plain("Close"),
		Blocks: slack.Blocks{BlockSet: []slack.Block{
			slack.NewSectionBlock(plain("What is asked, exactly"), nil, nil), preformatted(shown),
			slack.NewSectionBlock(plain("What the rules said"), nil, nil), preformatted(why),
			slack.NewSectionBlock(plain("So far: "+standing(a)), nil, nil),
		}},
	})
}

func (b *Bot) open(ctx context.Context, p press, v slack.ModalViewRequest) error {
	if _, err := b.API.OpenViewContext(ctx, p.trigger, v); err != nil {
		return fmt.Errorf("%w: %w", errModal, err)
	}
	return nil
}

// trace is one line a rule. Without a trace the asking rules are all that is
// known.
func trace(a approval.Approval) string {
	var s strings.Builder
	all := a.Trace
	if len(all) == 0 {
		for _, ask := range a.Asks {
			all = append(all, rules.Match{Rule: ask.Rule, File: ask.File, Line: ask.Line, Effect: rules.Approve, Matched: true, Reason: ask.Reason})
		}
	}
	for _, m := range all {
		verdict := "did not match"
		if m.Matched {
			verdict = "matched: " + string(m.Effect)
		}
		fmt.Fprintf(&s, "%s (%s:%d) %s", m.Rule, m.File, m.Line, verdict)
		if m.Matched && m.Reason != "" {
			fmt.Fprintf(&s, ": %s", m.Reason)
		}
		if m.Err != "" {
			fmt.Fprintf(&s, " [its condition could not be evaluated: %s]", m.Err)
		}
		s.WriteByte('\n')
	}
	return orElse(strings.TrimSuffix(s.String(), "\n"), "(no rule)")
}
