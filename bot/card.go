package bot

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/slack-go/slack"

	"countersign/enforcer/approval"
	"countersign/enforcer/approval/tell"
	"countersign/rules"
)

// The actions of a card's buttons.
const (
	actionApprove = "countersign_approve"
	actionDeny    = "countersign_deny"
	actionDetails = "countersign_details"
)

// Slack's limits, with a margin for how it counts: 3,000 characters in a text
// object, 150 in a header, 50 blocks and about 13,000 characters in a message.
const (
	maxText   = 2900
	maxHeader = 145
	maxAsks   = 8
)

// face is what a card shows.
type face struct {
	blocks     []slack.Block
	text       string // for notifications and screen readers
	approvable bool
}

// digest names what the face shows, so that a card is updated only when that
// has changed.
func (f face) digest() (string, error) {
	raw, err := json.Marshal(f.blocks)
	if err != nil {
		return "", fmt.Errorf("card: %w", err)
	}
	sum := sha256.Sum256(append(raw, f.text...))
	return hex.EncodeToString(sum[:8]), nil
}

// draw makes the card of an approval for one of its sets. It depends on its
// arguments alone: no clock.
func draw(a approval.Approval, set rules.ApproverSet, p *rules.Policy) face {
	f := face{approvable: true}
	headline, named := tell.Headline(a, p)
	f.approvable = named
	if tell.Cost(headline) <= maxHeader {
		f.add(slack.NewHeaderBlock(plain(headline)))
	} else {
		f.add(slack.NewSectionBlock(plain(headline), nil, nil))
	}
	shown, whole := tell.Visible(orElse(a.Args, "(no arguments)"), true, maxText)
	f.add(preformatted(shown))
	var obstacles []string
	switch {
	case a.Partial:
		obstacles = append(obstacles, "Part of the request is masked or left out.")
	case !whole:
		obstacles = append(obstacles, "The request is longer than a card can show.")
	case !f.approvable:
		obstacles = append(obstacles, "A name in it is longer than a card can show.")
	}
	f.approvable = f.approvable && whole && !a.Partial
	if len(a.Asks) > maxAsks {
		f.approvable = false
		obstacles = append(obstacles, fmt.Sprintf("%d rules ask; a card shows %d.", len(a.Asks), maxAsks))
	}
	for _, ask := range a.Asks[:min(len(a.Asks), maxAsks)] {
		why, _ := tell.Visible(ask.Reason, false, tell.MaxReason) // reviewed text: a long one may be cut, visibly
		rule, _ := tell.Visible(ask.Rule, false, tell.MaxName)
		f.add(smallPrint(fmt.Sprintf("why: %s · rule %s, %s:%d · policy %.7s", why, rule, ask.File, ask.Line, a.Policy)))
	}
	if set.Via == approval.ViaOIDC {
		f.approvable = false
		obstacles = append(obstacles, "This approver set approves by signing in, not by button.")
	}

	state := soFar(a)
	if a.State == approval.Pending {
		f.add(smallPrint(fmt.Sprintf("%s · approval %s", state, a.ID)))
		if !f.approvable {
			way := "Deny it, or have it asked again in a form that fits."
			f.add(slack.NewSectionBlock(plain(strings.Join(obstacles, " ")+" What cannot be seen in full cannot be approved here. "+way), nil, nil))
		}
		f.add(buttons(a, f.approvable))
	} else {
		f.approvable = false
		f.add(slack.NewSectionBlock(plain(state), nil, nil))
		f.add(smallPrint(fmt.Sprintf("approval %s · call %s", a.ID, orElse(a.SpentBy, a.Call))))
	}
	f.text = headline + ". " + state
	return f
}

// soFar is where the approval stands, in one line.
func soFar(a approval.Approval) string {
	out, _ := tell.Cut(tell.Join(tell.Standing(a), " · "), maxText)
	return out
}

func (f *face) add(b slack.Block) { f.blocks = append(f.blocks, b) }

func buttons(a approval.Approval, approvable bool) slack.Block {
	value := ballot(a)
	var all []slack.BlockElement
	if approvable {
		all = append(all, slack.NewButtonBlockElement(actionApprove, value, plain("Approve")).WithStyle(slack.StylePrimary))
	}
	all = append(all, slack.NewButtonBlockElement(actionDeny, value, plain("Deny")).WithStyle(slack.StyleDanger),
		slack.NewButtonBlockElement(actionDetails, value, plain("Details")))
	return slack.NewActionBlock("countersign", all...)
}

// ballot is a button's value: the approval's id, a dot, and 16 hex digits of a
// hash over the id and both digests, so that a button of one thing is never
// taken for another. It is no secret and proves nothing: Slack's signature
// does.
func ballot(a approval.Approval) string {
	sum := sha256.Sum256([]byte(a.ID + "\n" + a.Digest + "\n" + a.RulesDigest))
	return a.ID + "." + hex.EncodeToString(sum[:8])
}

func plain(s string) *slack.TextBlockObject {
	return slack.NewTextBlockObject(slack.PlainTextType, s, false, false)
}

func smallPrint(s string) slack.Block {
	if tell.Cost(s) > maxText {
		s, _ = tell.Cut(s, maxText)
	}
	return slack.NewContextBlock("", plain(s))
}

// preformatted holds text in which Slack looks for nothing.
func preformatted(s string) slack.Block {
	return slack.NewRichTextBlock("", &slack.RichTextPreformatted{
		Type:     slack.RTEPreformatted,
		Elements: []slack.RichTextSectionElement{slack.NewRichTextSectionTextElement(s, nil)},
	})
}

func orElse(s, other string) string {
	if strings.TrimSpace(s) == "" {
		return other
	}
	return s
}
