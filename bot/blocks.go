package bot

import (
	"fmt"
	"strings"

	"github.com/slack-go/slack"

	"countersign/enforcer/approval/tell"
)

// Text from outside stands in plain_text objects and in text elements of rich
// text only. In neither does Slack look for links, mentions or formatting.

func plain(s string) *slack.TextBlockObject {
	return slack.NewTextBlockObject(slack.PlainTextType, s, false, false)
}

func smallPrint(s string) slack.Block {
	if tell.Cost(s) > maxText {
		s, _ = tell.Cut(s, maxText)
	}
	return slack.NewContextBlock("", plain(s))
}

func richText(elements ...slack.RichTextElement) slack.Block {
	return slack.NewRichTextBlock("", elements...)
}

func section(elements ...slack.RichTextSectionElement) *slack.RichTextSection {
	return slack.NewRichTextSection(elements...)
}

func preformatted(s string) slack.RichTextElement {
	return &slack.RichTextPreformatted{Type: slack.RTEPreformatted, Elements: []slack.RichTextSectionElement{text(s)}}
}

func text(s string) slack.RichTextSectionElement {
	return slack.NewRichTextSectionTextElement(s, nil)
}

func bold(s string) slack.RichTextSectionElement {
	return slack.NewRichTextSectionTextElement(s, &slack.RichTextSectionTextStyle{Bold: true})
}

// line has its moments shown to each reader in their own time zone.
func line(l tell.Line) []slack.RichTextSectionElement {
	var out []slack.RichTextSectionElement
	for _, p := range l {
		switch {
		case !p.At.IsZero():
			fallback := tell.Moment(p.At)
			out = append(out, slack.NewRichTextSectionDateElement(p.At.Unix(), "{date_short}, {time}", nil, &fallback))
		case p.Text != "":
			out = append(out, text(p.Text))
		}
	}
	return out
}

// list has lines one below the other.
func list(lines []tell.Line) slack.RichTextElement {
	items := []slack.RichTextElement{}
	for _, l := range lines {
		items = append(items, section(line(l)...))
	}
	return slack.NewRichTextList(slack.RTEListBullet, 0, items...)
}

func bullets(texts []string) slack.RichTextElement {
	items := []slack.RichTextElement{}
	for _, s := range texts {
		items = append(items, section(text(s)))
	}
	return slack.NewRichTextList(slack.RTEListBullet, 0, items...)
}

// fitTexts leaves out what there is no room for, from the end, and says how many
// lines; whole is false then.
func fitTexts(texts []string, room int) (fitting []string, whole bool) {
	room -= 60
	for i, s := range texts {
		if room -= tell.Cost(s) + 3; room < 0 || i == maxBullets {
			return append(fitting, fmt.Sprintf("… and %d more lines", len(texts)-i)), false
		}
		fitting = append(fitting, s)
	}
	return texts, true
}

// maxBullets keeps a list short of Slack's hundred.
const maxBullets = 60

// sentences makes a sentence of each text.
func sentences(all []string) string {
	var b strings.Builder
	for i, s := range all {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(strings.ToUpper(s[:1]) + s[1:] + ".")
	}
	return b.String()
}

func orElse(s, other string) string {
	if strings.TrimSpace(s) == "" {
		return other
	}
	return s
}
