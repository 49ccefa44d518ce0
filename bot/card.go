package bot

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/slack-go/slack"

	"countersign/enforcer/approval"
	"countersign/enforcer/approval/tell"
	"countersign/rules"
)

// The actions of a card's buttons.
const (
	actionApprove = "countersign_approve"
	actionOnce    = "countersign_approve_once" // for one call, where the rules grant a window
	actionDeny    = "countersign_deny"
	actionDetails = "countersign_details"
	actionPage    = "countersign_page" // a link: the browser follows it, and Slack tells us too
)

// Slack's limits, with a margin for how it counts: 3,000 characters in a text
// object, 150 in a header, 50 blocks and about 13,000 characters in a message.
// The parts of a card have shares of these that add up to less.
const (
	maxText   = 2900
	maxHeader = 145
	maxStart  = 600  // of a request that does not fit
	maxDoes   = 2000 // what it does, all lines together
	maxAsks   = 8
	maxWhy    = 200 // of each rule's reason, on a card
	maxState  = 1800
	maxNotes  = 1500
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

// draw makes the card of an approval for one of its sets: while it waits, the
// question; afterwards, its record. It depends on its arguments alone: no clock.
// The policy may be nil; public is where the approval page is, or "".
func draw(a approval.Approval, set rules.ApproverSet, p *rules.Policy, public string) face {
	var f face
	var settings rules.Settings
	if p != nil {
		settings = p.Settings()
	}
	headline, _ := tell.Headline(a, p)
	if tell.Cost(headline) <= maxHeader {
		f.add(slack.NewHeaderBlock(plain(headline)))
	} else {
		f.add(slack.NewSectionBlock(plain(headline), nil, nil))
	}
	if a.State != approval.Pending {
		f.add(richText(section(bold("What became of it")), list(tell.Newest(tell.Standing(a), maxState))))
	}
	if does, _ := fitTexts(tell.Does(a), maxDoes); len(does) > 0 {
		f.add(richText(section(bold("What it does")), bullets(does)))
	}
	title := "The request in full"
	request := tell.Arguments(a)
	shown, whole := tell.Cut(request, maxText)
	if !whole {
		shown, _ = tell.Cut(request, maxStart)
	}
	if !whole || a.Partial {
		title = "The request, not all of it"
	}
	f.add(richText(section(bold(title)), preformatted(shown)))
	f.add(whyBlock(a, settings.PolicyLink))
	if notes := tell.Notes(a); len(notes) > 0 {
		f.add(richText(section(bold("Note")), list(tell.Newest(notes, maxNotes))))
	}
	page := tell.PageLink(public, a.ID)
	if a.State == approval.Pending {
		f.ask(a, set, p, page)
	} else {
		f.record(a, settings.AuditLink, page)
	}
	f.text = tell.Summary(a, p)
	return f
}

func (f *face) add(b slack.Block) { f.blocks = append(f.blocks, b) }

// ask is the foot of a card that waits: what is missing, until when, and the
// buttons.
func (f *face) ask(a approval.Approval, set rules.ApproverSet, p *rules.Policy, page string) {
	f.add(richText(section(bold("Where it stands")), list(tell.Newest(tell.Standing(a), maxState))))
	obstacles := unseen(a, p)
	f.approvable = len(obstacles) == 0 && !signsIn(a, set)
	switch {
	case f.approvable:
	case a.Cut:
		f.say("Nobody can approve what nobody can see in full. Deny it, or have it asked again in a form that fits.")
	case len(obstacles) > 0 && page != "":
		f.say(sentences(obstacles) + " What cannot be seen in full cannot be approved here: open the approval page, where it is whole.")
	case len(obstacles) > 0:
		f.say(sentences(obstacles) + " What cannot be seen in full cannot be approved here. Deny it, or have it asked again in a form that fits.")
	case page != "":
		f.say("It is approved by signing in on the approval page, not by a button.")
	default:
		f.say("It is approved by signing in, not by a button.")
	}
	f.add(buttons(a, f.approvable, page))
	f.add(smallPrint("approval " + a.ID))
}

// record is the foot of a card that is decided: no buttons, but where to read
// on.
func (f *face) record(a approval.Approval, auditLink, page string) {
	call := orElse(a.SpentBy, a.Call)
	foot := []slack.RichTextSectionElement{text("approval " + a.ID + " · call " + call)}
	if link := tell.AuditLink(auditLink, call); link != "" {
		foot = append(foot, text(" · "), slack.NewRichTextSectionLinkElement(link, "its entry in the record", nil))
	}
	if page != "" {
		what := "the approval page"
		if a.State == approval.Approved {
			what = "revoke it on the approval page"
		}
		foot = append(foot, text(" · "), slack.NewRichTextSectionLinkElement(page, what, nil))
	}
	f.add(richText(section(foot...)))
}

func (f *face) say(s string) { f.add(slack.NewSectionBlock(plain(s), nil, nil)) }

// unseen lists what a card cannot show of an approval, or only in part: with
// any of these there is no Approve button, and a press of one does not count.
func unseen(a approval.Approval, p *rules.Policy) []string {
	var out []string
	if a.Partial || a.Cut {
		out = append(out, "part of the request is masked or left out")
	}
	if _, whole := tell.Cut(tell.Arguments(a), maxText); !whole {
		out = append(out, "the request is longer than a card can show")
	}
	if _, whole := tell.Headline(a, p); !whole {
		out = append(out, "a name in it is longer than a card can show")
	}
	if _, whole := fitTexts(tell.Does(a), maxDoes); !whole {
		out = append(out, "what it does is longer than a card can show")
	}
	if n := len(a.Asks); n > maxAsks {
		out = append(out, fmt.Sprintf("%d rules ask, and a card shows %d", n, maxAsks))
	}
	return out
}

// signsIn tells whether the set approves by signing in, as the set or a rule
// that asks it wants.
func signsIn(a approval.Approval, set rules.ApproverSet) bool {
	return set.Via == approval.ViaOIDC || slices.ContainsFunc(a.Asks, func(ask rules.Ask) bool {
		return ask.Approvers == set.Name && ask.Via == approval.ViaOIDC
	})
}

// whyBlock says which rules ask and why, with the way to each rule.
func whyBlock(a approval.Approval, policyLink string) slack.Block {
	items := []slack.RichTextElement{}
	for _, r := range tell.Reasons(a, policyLink)[:min(len(a.Asks), maxAsks)] {
		why, _ := tell.Cut(r.Why, maxWhy) // reviewed text: a long one may be cut, visibly
		place := slack.RichTextSectionElement(text(r.Place))
		if r.Link != "" {
			place = slack.NewRichTextSectionLinkElement(r.Link, r.Place, nil)
		}
		items = append(items, section(text(orElse(why, "(no reason)")+" · rule "+r.Rule+", "), place, text(" · policy "+r.At)))
	}
	return richText(section(bold("Why a person is asked")), slack.NewRichTextList(slack.RTEListBullet, 0, items...))
}

func buttons(a approval.Approval, approvable bool, page string) slack.Block {
	value := ballot(a)
	button := func(action, label string) *slack.ButtonBlockElement {
		return slack.NewButtonBlockElement(action, value, plain(label))
	}
	var all []slack.BlockElement
	switch {
	case !approvable:
	case a.Grant.For > 0:
		long := "Approve for " + tell.Span(a.Grant.For)
		all = append(all, button(actionOnce, "Approve once").WithStyle(slack.StylePrimary), button(actionApprove, long).WithConfirm(
			slack.NewConfirmationBlockObject(plain(long+"?"), plain(scopeWords(a)), plain("Approve"), plain("Back"))))
	default:
		all = append(all, button(actionApprove, "Approve").WithStyle(slack.StylePrimary))
	}
	all = append(all, button(actionDeny, "Deny").WithStyle(slack.StyleDanger), button(actionDetails, "Details"))
	if page != "" {
		all = append(all, button(actionPage, "Approval page").WithURL(page))
	}
	return slack.NewActionBlock("countersign", all...)
}

// scopeWords fit a confirmation dialog: 300 characters.
func scopeWords(a approval.Approval) string {
	s, _ := tell.Cut("Nobody is asked again for "+tell.Span(a.Grant.For)+", for "+tell.Scope(a)+". It can be revoked.", 280)
	return s
}

// ballot is a button's value: the approval's id, a dot, and 16 hex digits of a
// hash over the id and both digests, so that a button of one thing is never
// taken for another. It is no secret and proves nothing: Slack's signature
// does.
func ballot(a approval.Approval) string {
	sum := sha256.Sum256([]byte(a.ID + "\n" + a.Digest + "\n" + a.RulesDigest))
	return a.ID + "." + hex.EncodeToString(sum[:8])
}
