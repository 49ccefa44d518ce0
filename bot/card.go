package bot

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/slack-go/slack"

	"countersign/enforcer/approval"
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
	maxName   = 60
	maxReason = 600
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
	for _, s := range []string{a.Client, asker(a, p), what(a)} {
		if _, whole := visible(s, false, maxName); !whole {
			f.approvable = false
		}
	}
	headline := headline(a, p)
	if cost(headline) <= maxHeader {
		f.add(slack.NewHeaderBlock(plain(headline)))
	} else {
		f.add(slack.NewSectionBlock(plain(headline), nil, nil))
	}
	shown, whole := visible(orElse(a.Args, "(no arguments)"), true, maxText)
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
		why, _ := visible(ask.Reason, false, maxReason) // reviewed text: a long one may be cut, visibly
		rule, _ := visible(ask.Rule, false, maxName)
		f.add(smallPrint(fmt.Sprintf("why: %s · rule %s, %s:%d · policy %.7s", why, rule, ask.File, ask.Line, a.Policy)))
	}
	if set.Via == approval.ViaOIDC {
		f.approvable = false
		obstacles = append(obstacles, "This approver set approves by signing in, not by button.")
	}

	state := standing(a)
	if a.State == approval.Pending {
		f.add(smallPrint(fmt.Sprintf("until %s · %s · approval %s", clock(a.Expires, a.Created), state, a.ID)))
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

// headline says who asks for whom, for what.
func headline(a approval.Approval, p *rules.Policy) string {
	name := func(s string) string {
		out, _ := visible(s, false, maxName)
		return out
	}
	return fmt.Sprintf("%s asks for %s: %s", orElse(name(a.Client), "An unnamed client"), name(asker(a, p)), name(what(a)))
}

func (f *face) add(b slack.Block) { f.blocks = append(f.blocks, b) }

// asker is the person's name where the policy knows them, else the token's.
func asker(a approval.Approval, p *rules.Policy) string {
	if p != nil {
		if person, ok := p.Person(a.Subject.Issuer, a.Subject.Sub); ok {
			return person.Name
		}
	}
	return a.Subject.Sub
}

func what(a approval.Approval) string {
	thing := orElse(a.Tool, orElse(a.Resource, a.Method))
	return thing + " on " + a.Server
}

// standing says in words where the approval stands: who, when, why, and what
// came of it.
func standing(a approval.Approval) string {
	var said []string
	for _, v := range a.Votes {
		who, _ := visible(v.Person, false, maxName)
		if v.Approve {
			said = append(said, fmt.Sprintf("approved by %s at %s", who, stamp(v.At)))
		} else {
			why, _ := visible(v.Reason, false, maxReason)
			said = append(said, fmt.Sprintf("denied by %s at %s: “%s”", who, stamp(v.At), why))
		}
	}
	switch a.State {
	case approval.Pending:
		missing := a.Missing()
		told := map[string]bool{}
		for _, ask := range a.Asks {
			if n := missing[ask.Approvers]; n > 0 && !told[ask.Approvers] {
				told[ask.Approvers] = true
				set, _ := visible(ask.Approvers, false, maxName)
				said = append(said, fmt.Sprintf("needs %d of %s", n, set))
			}
		}
	case approval.Approved:
		said = append(said, "not used yet")
	case approval.Expired:
		said = append(said, "expired at "+stamp(a.Expires), "nothing ran")
	case approval.Withdrawn:
		why, _ := visible(a.Reason, false, maxReason)
		said = append(said, "withdrawn at "+stamp(a.Ended)+": "+why, "nothing ran")
	case approval.Spent:
		if a.Outcome == "" {
			said = append(said, "used at "+stamp(a.Ended))
		} else {
			outcome, _ := visible(a.Outcome, false, maxReason)
			said = append(said, "used at "+stamp(a.Ended)+", outcome: "+outcome)
		}
	}
	s := strings.Join(said, " · ")
	if s == "" {
		s = string(a.State)
	}
	out, _ := visible(s, false, maxText)
	return out
}

func stamp(t time.Time) string { return t.UTC().Format("15:04:05 MST") }

// clock leaves the date out where it is the day of asking.
func clock(t, asked time.Time) string {
	t, asked = t.UTC(), asked.UTC()
	if t.YearDay() == asked.YearDay() && t.Year() == asked.Year() {
		return t.Format("15:04 MST")
	}
	return t.Format("2 Jan 15:04 MST")
}

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
	if cost(s) > maxText {
		s, _ = visible(s, false, maxText)
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
