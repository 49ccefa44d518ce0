// Package tell says in words what an approval is about and where it stands: the
// same words for the card in Slack, the approval page and the terminal.
//
// It promises:
//
//   - What it says depends on its arguments alone: there is no clock.
//   - Text from outside (names, reasons, whatever a token or an agent says) is
//     made visible and bounded; see Visible. It is plain text all the same, and
//     whoever shows it escapes it for where it is shown.
//   - A moment stays one, so that each reader can be shown it in their own time
//     zone; see Line.
package tell

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"countersign/enforcer/approval"
	"countersign/rules"
)

// How many characters (see Cost) are shown of texts from outside.
const (
	MaxName   = 60
	MaxReason = 600
)

// A Line is one thing to say: words and moments, in their order. It begins with
// a small letter and has no full stop, so that lines can be joined.
type Line []Part

// A Part is words or, where At is set, a moment.
type Part struct {
	Text string
	At   time.Time
}

func say(text string) Line                 { return Line{{Text: text}} }
func (l Line) and(text string) Line        { return append(l, Part{Text: text}) }
func (l Line) moment(at time.Time) Line    { return append(l, Part{At: at}) }
func sayf(format string, args ...any) Line { return say(fmt.Sprintf(format, args...)) }

// String has the moments in UTC.
func (l Line) String() string {
	var b strings.Builder
	for _, p := range l {
		if p.At.IsZero() {
			b.WriteString(p.Text)
		} else {
			b.WriteString(Moment(p.At))
		}
	}
	return b.String()
}

// Join makes one text of lines, with the moments in UTC.
func Join(lines []Line, between string) string {
	all := make([]string, len(lines))
	for i, l := range lines {
		all[i] = l.String()
	}
	return strings.Join(all, between)
}

// MaxLines is how many lines Newest leaves.
const MaxLines = 24

// Newest leaves out what there is no room for (see Cost), from the front: what
// matters most of where an approval stands is said last. It says how many lines.
func Newest(lines []Line, room int) []Line {
	from := len(lines)
	for from > 0 && len(lines)-from < MaxLines {
		if room -= Cost(lines[from-1].String()) + 3; room < 60 && from < len(lines) { // 60: for the note
			break
		}
		from--
	}
	if from == 0 {
		return lines
	}
	return append([]Line{sayf("%d earlier lines are left out here", from)}, lines[from:]...)
}

// Moment spells a moment, to the minute, for readers whose time zone is not
// known: "1 Mar 14:05 UTC".
func Moment(t time.Time) string { return t.UTC().Format("2 Jan 15:04 MST") }

// Headline says who asks, for whom and for what: "desk-assistant asks for alice:
// query on db". The policy may be nil. Whole is false where a name had to be
// cut.
func Headline(a approval.Approval, p *rules.Policy) (text string, whole bool) {
	client, one := Visible(orElse(a.Client, "An unnamed client"), false, MaxName)
	asker, two := Visible(asker(a, p), false, MaxName)
	what, three := What(a)
	return fmt.Sprintf("%s asks for %s: %s", client, asker, what), one && two && three
}

// Asker is the person's name where the policy knows them, else what the token
// calls them. The policy may be nil.
func Asker(a approval.Approval, p *rules.Policy) string {
	name, _ := Visible(asker(a, p), false, MaxName)
	return name
}

func asker(a approval.Approval, p *rules.Policy) string {
	if p != nil {
		if person, ok := p.Person(a.Subject.Issuer, a.Subject.Sub); ok {
			return person.Name
		}
	}
	return a.Subject.Sub
}

// What names the tool (or else the resource, or the method) and the server.
func What(a approval.Approval) (text string, whole bool) {
	thing, one := Visible(orElse(a.Tool, orElse(a.Resource, a.Method)), false, MaxName)
	server, two := Visible(a.Server, false, MaxName)
	return thing + " on " + server, one && two
}

// Summary says all that matters of an approval in a few sentences: who asks for
// what, what that does, why a person is asked, and where it stands. It is for
// notifications and screen readers.
func Summary(a approval.Approval, p *rules.Policy) string {
	headline, _ := Headline(a, p)
	text := headline + ". "
	if len(a.Does) > 0 {
		does, _ := Cut(strings.Join(Does(a), "; "), MaxReason)
		text += "What it does: " + does + ". "
	}
	var why []string
	for _, ask := range a.Asks {
		if r := reason(ask.Reason); r != "" && !slices.Contains(why, r) {
			why = append(why, r)
		}
	}
	if len(why) > 0 {
		because, _ := Cut(strings.Join(why, "; "), MaxReason)
		text += "Why a person is asked: " + because + ". "
	}
	text += capital(Join(Newest(Standing(a), 3*MaxReason), "; ")) + "."
	if notes := Notes(a); len(notes) > 0 {
		text += " " + capital(Join(Newest(notes, 3*MaxReason), "; ")) + "."
	}
	return text
}

// Arguments is the request as the record has it, made visible, uncut.
func Arguments(a approval.Approval) string {
	if a.Args == "" {
		return "(no arguments)"
	}
	out, _ := Visible(a.Args, true, 1<<30)
	return out
}

// Does is what SQL and shell in the arguments do, made visible, a line each.
func Does(a approval.Approval) []string {
	var out []string
	for _, line := range a.Does {
		if line != "" {
			line, _ = Visible(line, false, 1<<20)
			out = append(out, line)
		}
	}
	return out
}

func capital(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:] // lines begin with words of ours
}

func orElse(s, other string) string {
	if strings.TrimSpace(s) == "" {
		return other
	}
	return s
}

func name(s string) string {
	out, _ := Visible(s, false, MaxName)
	return out
}

func reason(s string) string {
	out, _ := Visible(s, false, MaxReason)
	return out
}
