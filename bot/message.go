package bot

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/slack-go/slack"

	"countersign/enforcer/approval"
	"countersign/enforcer/approval/tell"
	"countersign/rules"
)

// message is what stands, or is to stand, in one place. Nothing of it is
// remembered: it is made anew from the approval and the policy each time, and
// what it shows is compared with what the store says that Slack has. So whatever
// must be said is said, by whatever bot comes next, though the one that began
// has died.
type message struct {
	face    face
	channel string
	thread  string // ts of the message that it replies to
	wanted  bool   // to be posted, if it is not there
}

// What a set is told beside the card, as the Set of an approval.Card.
func reminderOf(set string) string { return set + "/reminder" }
func alarmOf(set string) string    { return set + "/alarm" }

func setOf(place string) string {
	set, _, _ := strings.Cut(place, "/")
	return set
}

// places are those that an approval's change may concern.
func (b *Bot) places(a approval.Approval) []place {
	var out []place
	for _, set := range setsOf(a) {
		out = append(out, place{a.ID, set})
		if _, told := a.Card(reminderOf(set)); told || b.due(a) {
			out = append(out, place{a.ID, reminderOf(set)})
		}
		if b.waiting.crowded(a, set) {
			out = append(out, place{"", set})
		}
	}
	for _, set := range alarmed(a) {
		out = append(out, place{a.ID, alarmOf(set)})
	}
	return out
}

// message tells what is to stand in a place. errNowhere: a set is to be asked
// there, and policy names no channel for it.
func (b *Bot) message(a approval.Approval, p place, policy *rules.Policy) (message, error) {
	name := setOf(p.set)
	set, known := policy.ApproverSet(name)
	m := message{channel: set.Channel}
	card, has := a.Card(name)
	switch p.set {
	case name:
		m.face = draw(a, set, policy, b.PublicURL)
		m.wanted = a.State == approval.Pending && (has || !b.waiting.crowded(a, name))
		if m.wanted && set.Channel == "" {
			if known && set.Via == approval.ViaOIDC { // asked on the page alone
				m.wanted = false
				return m, nil
			}
			if !has {
				return m, errNowhere
			}
		}
		if has {
			m.channel = card.Channel
		}
	case reminderOf(name):
		m.face = remind(a, set, policy)
		m.channel, m.thread = card.Channel, card.TS
		m.wanted = b.due(a) && card.TS != "" && a.Missing()[name] > 0
	case alarmOf(name):
		m.face = alarm(a, policy)
		m.wanted = set.Channel != "" && slices.Contains(alarmed(a), name)
	}
	return m, nil
}

// due tells whether the approvers are to be reminded: a quarter of the time is
// left, and a minute at least. What is asked for less than two minutes needs no
// reminder.
func (b *Bot) due(a approval.Approval) bool {
	life := a.Expires.Sub(a.Created)
	if a.State != approval.Pending || life < 2*time.Minute {
		return false
	}
	now := b.Now()
	return now.Before(a.Expires) && !now.Before(a.Expires.Add(-max(life/4, time.Minute)))
}

// maxMentions is how many people a reminder calls by name.
const maxMentions = 20

// remind calls, in the card's thread, those members of the set who may still
// vote. Once they have, or time is up, it says so instead.
func remind(a approval.Approval, set rules.ApproverSet, p *rules.Policy) face {
	if a.State != approval.Pending {
		text := "This was a reminder. Now: " + tell.Join(tell.Standing(a), " · ")
		return face{text: text, blocks: []slack.Block{smallPrint(text)}}
	}
	text := fmt.Sprintf("This expires at %s, and then nothing runs: %s", tell.Moment(a.Expires), needs(a, set.Name))
	line := []slack.RichTextSectionElement{slack.NewRichTextSectionTextElement(text+" ", nil)}
	for i, person := range uncounted(a, set, p) {
		if i == maxMentions {
			break
		}
		line = append(line, slack.NewRichTextSectionUserElement(person.SlackUser, nil), slack.NewRichTextSectionTextElement(" ", nil))
	}
	return face{text: text, blocks: []slack.Block{slack.NewRichTextBlock("", slack.NewRichTextSection(line...))}}
}

func needs(a approval.Approval, set string) string {
	return fmt.Sprintf("it needs %d of %s.", a.Missing()[set], set)
}

// uncounted are the members of the set, as far as policy knows their Slack user,
// who neither asked nor voted. Whether their vote would count is found out when
// they vote.
func uncounted(a approval.Approval, set rules.ApproverSet, p *rules.Policy) []rules.Person {
	var out []rules.Person
	for _, name := range set.Members {
		person, ok := p.PersonByName(name)
		asks := person.Issuer == a.Subject.Issuer && person.Sub == a.Subject.Sub
		if !ok || person.SlackUser == "" || asks || slices.Contains(p.Owners(a.Subject, a.Client), name) ||
			slices.ContainsFunc(a.Votes, func(v approval.Vote) bool { return v.Person == name }) {
			continue
		}
		out = append(out, person)
	}
	return out
}

// alarmed are the sets that are told of a broken glass: those that were passed
// over, and those whose member broke it.
func alarmed(a approval.Approval) []string {
	v, broken := a.BrokenGlass()
	if !broken {
		return nil
	}
	out := setsOf(a)
	for _, set := range v.Sets {
		if !slices.Contains(out, set) {
			out = append(out, set)
		}
	}
	return out
}

// alarm says that somebody approved alone, and what was found of it afterwards.
func alarm(a approval.Approval, p *rules.Policy) face {
	v, _ := a.BrokenGlass()
	who, _ := tell.Visible(v.Who(), false, tell.MaxName)
	why, _ := tell.Visible(v.Reason, false, tell.MaxReason)
	title := "Glass broken: approved by " + who + " alone"
	said := "It waits for a review by somebody else."
	if r := a.Review; r != nil {
		by, _ := tell.Visible(orElse(r.Person, orElse(r.Email, r.Sub)), false, tell.MaxName)
		note, _ := tell.Visible(r.Note, false, tell.MaxReason)
		verdict := "not justified"
		if r.Justified {
			verdict = "justified"
		}
		said = fmt.Sprintf("Reviewed by %s at %s, %s: “%s”", by, tell.Moment(r.At), verdict, note)
	}
	headline, _ := tell.Headline(a, p)
	f := face{text: title + ". " + headline + ". " + said}
	f.add(slack.NewHeaderBlock(plain(title)))
	f.add(slack.NewSectionBlock(plain(headline), nil, nil))
	f.add(slack.NewSectionBlock(plain(fmt.Sprintf("Reason given at %s: “%s”", tell.Moment(v.At), why)), nil, nil))
	f.add(slack.NewSectionBlock(plain(said), nil, nil))
	f.add(smallPrint(fmt.Sprintf("approval %s · call %s", a.ID, a.Call)))
	return f
}
