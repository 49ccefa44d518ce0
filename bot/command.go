package bot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/slack-go/slack"

	"countersign/enforcer/approval"
	"countersign/enforcer/approval/tell"
	"countersign/rules"
)

// Desk is what /countersign asks of the service beside the approvals. A func
// that is nil is not to be had through this bot. Texts that they return are for
// people, masked.
type Desk struct {
	Status   func(ctx context.Context) []string // readiness, the policy in force, what is frozen: a line each
	Freeze   func(ctx context.Context, t Target, reason string, by rules.Person, from approval.SlackProof) (said string, err error)
	Unfreeze func(ctx context.Context, id string, by rules.Person, from approval.SlackProof) (said string, err error)
	Frozen   func() []string // what is frozen: a line each, its id first

	// Refused is told of a freeze, unfreeze or link that somebody asked for and
	// did not get, to be recorded, before they are told. who is the zero Voter if
	// policy knows nobody.
	Refused func(ctx context.Context, what string, who approval.Voter, from approval.SlackProof, why error)

	// Link makes the address at which a Slack user may say who they are; Linked
	// takes the code that they were given there, and returns who they are now.
	Link   func(ctx context.Context, team, user, name string) (url string, err error)
	Linked func(ctx context.Context, team, user, code string) (who string, err error)
}

// Target is what a freeze is to stop: everything, or what agrees with all that
// is given.
type Target struct {
	All     bool   `json:"all,omitempty"`
	Subject string `json:"subject,omitempty"` // issuer, #, sub
	Client  string `json:"client,omitempty"`
	Server  string `json:"server,omitempty"`
	Tool    string `json:"tool,omitempty"`
}

func (t Target) String() string {
	if t.All {
		return "everything"
	}
	var parts []string
	for _, p := range [][2]string{{"subject", t.Subject}, {"client", t.Client}, {"server", t.Server}, {"tool", t.Tool}} {
		if p[1] != "" {
			parts = append(parts, p[0]+" "+p[1])
		}
	}
	return strings.Join(parts, ", ")
}

const commandName = "/countersign"

const usage = `What /countersign can do, told to you alone:
status – whether the service is ready, what policy is in force, what waits and what is frozen
pending [page] – the requests that wait for you
explain APPROVAL – why policy asks
freeze all REASON – stop everything; or, with some of server=… tool=… client=… subject=ISSUER#SUB in the place of all, what agrees with them
unfreeze [ID] – lift a freeze
link [CODE] – say who you are, by signing in`

// errUsage is told as it is.
type errUsage string

func (e errUsage) Error() string { return string(e) }

var (
	errNotHere   = errors.New("this bot cannot do that")
	errMayNot    = errors.New("policy does not let this person freeze")
	errWorkspace = errors.New("the command was typed in another workspace")
)

// command does what one slash command asks for. Everything it says goes to the
// person alone.
func (b *Bot) command(ctx context.Context, c slack.SlashCommand, received []byte) {
	hash := sha256.Sum256(received)
	p := press{team: c.TeamID, user: c.UserID, channel: c.ChannelID, trigger: c.TriggerID, responseURL: c.ResponseURL, command: true,
		proof: &approval.SlackProof{Team: c.TeamID, User: c.UserID, Channel: c.ChannelID, PayloadHash: "sha256:" + hex.EncodeToString(hash[:])}}
	b.mu.Lock()
	team := b.team
	b.mu.Unlock()
	if b.delivered(p.proof.PayloadHash) || c.UserID == "" {
		return
	}
	what, rest, _ := strings.Cut(strings.TrimSpace(c.Text), " ")
	rest = strings.TrimSpace(rest)
	what = strings.ToLower(what)
	err := errWorkspace
	switch {
	case c.TeamID == team && team != "":
		err = b.obey(ctx, p, c, what, rest)
	case what == "freeze", what == "unfreeze", what == "link":
		b.refuse(ctx, what+" "+rest, approval.Voter{}, p, err)
	}
	if err == nil {
		return
	}
	b.Log.WarnContext(ctx, "slack: a command was refused", "command", what, "team", p.team, "user", p.user, "error", err)
	b.tell(ctx, p, b.commandWords(err))
}

func (b *Bot) obey(ctx context.Context, p press, c slack.SlashCommand, what, rest string) error {
	policy := b.Policy()
	if policy == nil {
		return errEarly
	}
	switch what {
	case "", "help":
		b.tell(ctx, p, usage)
		return nil
	case "link":
		return b.link(ctx, p, c.UserName, rest)
	}
	who, err := b.Book.Voter(ctx, policy, p.team, p.user)
	if err != nil {
		if what == "freeze" || what == "unfreeze" {
			b.refuse(ctx, what+" "+rest, who, p, err)
		}
		return err
	}
	switch what {
	case "status":
		return b.status(ctx, p)
	case "pending":
		return b.pending(ctx, p, policy, rest)
	case "explain":
		return b.explain(ctx, p, policy, rest)
	case "freeze":
		t, reason, err := target(rest)
		if err != nil {
			return err
		}
		if _, err := b.freezer(ctx, p, policy, who, "freeze "+t.String()); err != nil {
			return err
		}
		return b.openFreeze(ctx, p, t, reason)
	case "unfreeze":
		person, err := b.freezer(ctx, p, policy, who, "unfreeze "+rest)
		if err != nil {
			return err
		}
		return b.unfreeze(ctx, p, who, person, rest)
	}
	return errUsage(usage)
}

// freezer is the person whom policy lets freeze; who may not is recorded.
func (b *Bot) freezer(ctx context.Context, p press, policy *rules.Policy, who approval.Voter, what string) (rules.Person, error) {
	if b.Desk.Freeze == nil || b.Desk.Unfreeze == nil {
		b.refuse(ctx, what, who, p, errNotHere)
		return rules.Person{}, errNotHere
	}
	person, ok := policy.MayFreeze(rules.Subject{Issuer: who.Issuer, Sub: who.Sub})
	if !ok {
		b.refuse(ctx, what, who, p, errMayNot)
		return rules.Person{}, errMayNot
	}
	return person, nil
}

func (b *Bot) refuse(ctx context.Context, what string, who approval.Voter, p press, why error) {
	if b.Desk.Refused != nil {
		b.Desk.Refused(ctx, what, who, *p.proof, why)
	}
}

func (b *Bot) status(ctx context.Context, p press) error {
	var lines []string
	if b.Desk.Status != nil {
		lines = b.Desk.Status(ctx)
	}
	pending, windows, reviews := 0, 0, 0
	b.waiting.each(func(a approval.Approval) {
		switch {
		case a.State == approval.Pending && b.Now().Before(a.Expires):
			pending++
		case a.Window(b.Now()):
			windows++
		}
		if a.NeedsReview() {
			reviews++
		}
	})
	lines = append(lines, fmt.Sprintf("%s waiting, %s open, %s to be reviewed", count(pending, "approval"), count(windows, "window"), count(reviews, "broken glass")))
	text, _ := tell.Visible(strings.Join(lines, "\n"), true, maxText)
	b.tell(ctx, p, text)
	return nil
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
		what = strings.ReplaceAll(what, "glasss", "glasses")
	}
	return fmt.Sprintf("%d %s", n, what)
}

// perPage is how many requests one answer to pending lists.
const perPage = 20

// pending lists the requests on which the person has a say now, the soonest to
// expire first.
func (b *Bot) pending(ctx context.Context, p press, policy *rules.Policy, rest string) error {
	page := 1
	if rest != "" {
		n, err := strconv.Atoi(rest)
		if err != nil || n < 1 {
			return errUsage("pending takes the number of a page: /countersign pending 2")
		}
		page = n
	}
	all, err := b.Book.Pending(ctx)
	if err != nil {
		return err
	}
	mine := all[:0]
	for _, a := range all {
		// A denial asks the least of who gives it: they have a say.
		if b.Book.Check(ctx, a, approval.Vote{Via: approval.ViaSlack, Slack: p.proof, Reason: "-"}, policy) == nil {
			mine = append(mine, a)
		}
	}
	sortByExpiry(mine)
	pages := (len(mine) + perPage - 1) / perPage
	if len(mine) == 0 || page > pages {
		b.tell(ctx, p, fmt.Sprintf("%s for you.", count(len(mine), "request")+" waiting"))
		return nil
	}
	text := fmt.Sprintf("%s for you; page %d of %d", count(len(mine), "request")+" waiting", page, pages)
	f := face{text: text}
	f.add(slack.NewSectionBlock(plain(text), nil, nil))
	for _, a := range mine[(page-1)*perPage : min(page*perPage, len(mine))] {
		f.add(b.line(a, policy))
	}
	if page < pages {
		f.add(smallPrint(fmt.Sprintf("More: %s pending %d", commandName, page+1)))
	}
	b.answer(ctx, p, f)
	return nil
}

// explain tells why policy asks, and how it stands.
func (b *Bot) explain(ctx context.Context, p press, policy *rules.Policy, id string) error {
	a, err := b.Book.Get(ctx, id)
	if errors.Is(err, approval.ErrUnknown) {
		return errUsage("There is no such approval. Its id begins with ap_ and stands at the foot of its card.")
	}
	if err != nil {
		return err
	}
	headline, _ := tell.Headline(a, policy)
	f := face{text: headline}
	f.add(slack.NewSectionBlock(plain(headline), nil, nil))
	why, _ := tell.Cut(strings.Join(tell.Trace(a), "\n"), maxText)
	f.add(richText(preformatted(orElse(why, "(no rule)"))))
	standing, _ := tell.Cut(tell.Join(tell.Standing(a), " · "), maxText)
	f.add(slack.NewSectionBlock(plain(orElse(standing, string(a.State))), nil, nil))
	b.answer(ctx, p, f)
	return nil
}

// link gives somebody the address at which they say who they are, or takes the
// code that they have from there.
func (b *Bot) link(ctx context.Context, p press, name, code string) error {
	if b.Desk.Link == nil || b.Desk.Linked == nil {
		return errNotHere
	}
	if code != "" {
		who, err := b.Desk.Linked(ctx, p.team, p.user, code)
		if err != nil {
			b.refuse(ctx, "link", approval.Voter{}, p, err)
			return err
		}
		who, _ = tell.Visible(who, false, tell.MaxName)
		b.tell(ctx, p, "Linked: what this Slack user presses counts as "+who+"'s from now on. The record says so.")
		return nil
	}
	url, err := b.Desk.Link(ctx, p.team, p.user, name)
	if err != nil {
		b.refuse(ctx, "link", approval.Voter{}, p, err)
		return err
	}
	f := face{text: "Sign in to say who you are, and give the code that you get there: /countersign link CODE. The address is for you alone. " + url}
	f.add(slack.NewRichTextBlock("", slack.NewRichTextSection(
		slack.NewRichTextSectionLinkElement(url, "Sign in to say who you are", nil),
		slack.NewRichTextSectionTextElement(". You get a code there: give it here, with /countersign link CODE. The address holds for ten minutes and is for you alone: whoever signs in there, and gives you the code, lets you press in their name.", nil))))
	b.answer(ctx, p, f)
	return nil
}

// target reads what is to be frozen, and why.
func target(text string) (t Target, reason string, err error) {
	words := strings.Fields(text)
	for len(words) > 0 {
		name, value, given := strings.Cut(words[0], "=")
		field := map[string]*string{"subject": &t.Subject, "client": &t.Client, "server": &t.Server, "tool": &t.Tool}[name]
		switch {
		case words[0] == "all" && t == (Target{}):
			t.All = true
		case given && field != nil && *field == "" && value != "" && !t.All:
			*field = value
		case given && field != nil:
			return t, "", errUsage("freeze what? " + words[0] + " cannot be understood there: say all, or each of server=… tool=… client=… subject=ISSUER#SUB once, then the reason")
		default:
			if t == (Target{}) {
				return t, "", errUsage("freeze what? Say all, or some of server=… tool=… client=… subject=ISSUER#SUB, then the reason")
			}
			return t, strings.Join(words, " "), nil
		}
		words = words[1:]
	}
	if t == (Target{}) {
		return t, "", errUsage("freeze what? Say all, or some of server=… tool=… client=… subject=ISSUER#SUB, then the reason")
	}
	return t, "", nil
}

const actionFreeze = "countersign_freeze"

// freezeMemory is what the modal carries from command to submission.
type freezeMemory struct {
	Target      Target `json:"target"`
	Channel     string `json:"channel"`
	ResponseURL string `json:"response_url"`
}

// openFreeze asks for the reason, and whether it is meant.
func (b *Bot) openFreeze(ctx context.Context, p press, t Target, reason string) error {
	memory, err := json.Marshal(freezeMemory{t, p.channel, p.responseURL})
	if err != nil || len(memory) > 3000 { // Slack's bound for it
		return errUsage("that names too much to freeze at once")
	}
	input := slack.NewPlainTextInputBlockElement(plain("For example: incident 42, agents are being phished"), actionFreeze)
	input.MinLength, input.MaxLength = 1, 500
	if r := []rune(reason); len(r) > 0 {
		input.InitialValue = string(r[:min(len(r), 500)])
	}
	what, _ := tell.Visible(t.String(), false, maxText-200)
	return b.open(ctx, p, slack.ModalViewRequest{
		Type: slack.VTModal, CallbackID: actionFreeze, PrivateMetadata: string(memory),
		Title: plain("Freeze"), Submit: plain("Freeze now"), Close: plain("Back"),
		Blocks: slack.Blocks{BlockSet: []slack.Block{
			slack.NewSectionBlock(plain("This stops: "+what+". New calls are refused, those under way are ended, their credentials revoked, until somebody unfreezes."), nil, nil),
			slack.NewInputBlock(actionFreeze, plain("Why? The agents are told."), nil, input)}},
	})
}

// freeze does what the modal says. Who may freeze is asked again.
func (b *Bot) freeze(ctx context.Context, p press) error {
	policy := b.Policy()
	if policy == nil {
		return errEarly
	}
	who, err := b.Book.Voter(ctx, policy, p.team, p.user)
	if err != nil {
		b.refuse(ctx, "freeze "+p.target.String(), who, p, err)
		return err
	}
	person, err := b.freezer(ctx, p, policy, who, "freeze "+p.target.String())
	if err != nil {
		return err
	}
	if strings.TrimSpace(p.reason) == "" {
		return errUsage("A freeze needs a reason, which the agents are told.")
	}
	said, err := b.Desk.Freeze(ctx, p.target, strings.TrimSpace(p.reason), person, *p.proof)
	if err != nil {
		b.refuse(ctx, "freeze "+p.target.String(), who, p, err)
		return errUsage("Not frozen: " + err.Error())
	}
	said, _ = tell.Visible(said, true, maxText)
	b.tell(ctx, p, said)
	return nil
}

func (b *Bot) unfreeze(ctx context.Context, p press, who approval.Voter, by rules.Person, id string) error {
	if id == "" {
		lines := []string{"Unfreeze what? /countersign unfreeze ID, with one of"}
		if b.Desk.Frozen != nil {
			lines = append(lines, b.Desk.Frozen()...)
		}
		if len(lines) == 1 {
			lines = []string{"Nothing is frozen."}
		}
		text, _ := tell.Visible(strings.Join(lines, "\n"), true, maxText)
		b.tell(ctx, p, text)
		return nil
	}
	said, err := b.Desk.Unfreeze(ctx, id, by, *p.proof)
	if err != nil {
		b.refuse(ctx, "unfreeze "+id, who, p, err)
		return errUsage("Not unfrozen: " + err.Error())
	}
	said, _ = tell.Visible(said, true, maxText)
	b.tell(ctx, p, said)
	return nil
}

// commandWords is what whoever typed a command is told that was not obeyed.
func (b *Bot) commandWords(err error) string {
	var plain errUsage
	switch {
	case errors.As(err, &plain):
		text, _ := tell.Visible(string(plain), true, maxText)
		return text
	case errors.Is(err, errWorkspace):
		return "This was typed in another workspace than the one that this app answers."
	case errors.Is(err, errNotHere):
		return "This bot cannot do that: use the command line, countersign --help."
	case errors.Is(err, errMayNot):
		return "You may not freeze, nor lift a freeze: `freeze` in the policy's countersign.yaml does not name you. The record says that you asked."
	case errors.Is(err, approval.ErrUnlinked):
		return "Your Slack user is not linked to anybody in approvers.yaml, so this is not for you." + b.linkHint()
	case errors.Is(err, approval.ErrStaleLogin):
		return "Your last sign-in is too long ago to go by. Sign in again: " + b.page("/sign-in")
	case errors.Is(err, approval.ErrLinkOff):
		return "Policy does not let people link their Slack user themselves (links.login in approvers.yaml): have it added there, by pull request."
	case errors.Is(err, approval.ErrLinkCode):
		return "That code is wrong, too old, or for another Slack user; nothing was linked, and the record says so. If somebody sent it to you, tell your security team. /countersign link gives a new address."
	case errors.Is(err, approval.ErrLinked):
		return "Policy links you, or this Slack user, otherwise already: see approvers.yaml."
	case errors.Is(err, errModal):
		return "Slack did not open the dialog. Type it again."
	case errors.Is(err, errEarly):
		return "No policy is in force yet: try again in a moment."
	}
	return "That did not work: the service has a problem. Try again in a moment."
}
