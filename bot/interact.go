package bot

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/slack-go/slack"

	"countersign/enforcer/approval"
)

const (
	maxPayload = 1 << 20
	// window is how old, or how far ahead, a signed request may be: Slack's
	// own recommendation.
	window = 5 * time.Minute
	// jobLimit bounds the work on one interaction.
	jobLimit = 30 * time.Second
)

// Handler takes Slack's interactions: POST, signed. It answers at once, within
// the three seconds that Slack waits; the work comes after.
func (b *Bot) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			w.Header().Set("Allow", http.MethodPost)
			http.Error(w, "Slack posts here", http.StatusMethodNotAllowed)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxPayload))
		if err != nil {
			http.Error(w, "the request is too large or was cut off", http.StatusRequestEntityTooLarge)
			return
		}
		if err := b.verify(r.Header, body); err != nil {
			b.Log.WarnContext(r.Context(), "slack: request refused", "error", err)
			http.Error(w, "the request is not signed by Slack, or is too old", http.StatusUnauthorized)
			return
		}
		job, err := b.payload(r.Header.Get("Content-Type"), body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if !b.introduced() {
			// Slack shows who pressed that it did not work: better than a press
			// that is taken, and lost.
			http.Error(w, "not ready yet: press again", http.StatusServiceUnavailable)
			return
		}
		if !b.accept(job) {
			http.Error(w, "too much to do: press again", http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusOK)
	})
}

// verify checks Slack's v0 signature: hex HMAC-SHA256, under the signing
// secret, of "v0:", the time stamp, ":" and the raw body
// (docs.slack.dev/authentication/verifying-requests-from-slack).
func (b *Bot) verify(h http.Header, body []byte) error {
	if b.SigningSecret == "" {
		return errors.New("no signing secret is configured")
	}
	stamps, signatures := h.Values("X-Slack-Request-Timestamp"), h.Values("X-Slack-Signature")
	if len(stamps) != 1 || len(signatures) != 1 {
		return errors.New("the signature headers are missing, or doubled")
	}
	seconds, err := strconv.ParseInt(stamps[0], 10, 64)
	if err != nil {
		return errors.New("the time stamp is no number")
	}
	given, ok := strings.CutPrefix(signatures[0], "v0=")
	sum, err := hex.DecodeString(given)
	if !ok || err != nil {
		return errors.New("the signature is not of version v0")
	}
	mac := hmac.New(sha256.New, []byte(b.SigningSecret))
	mac.Write([]byte("v0:" + stamps[0] + ":"))
	mac.Write(body)
	if !hmac.Equal(mac.Sum(nil), sum) {
		return errors.New("the signature does not fit")
	}
	if age := b.Now().Sub(time.Unix(seconds, 0)); age > window || age < -window {
		return fmt.Errorf("the request was signed %s ago: a replay, or a wrong clock", age.Round(time.Second))
	}
	return nil
}

// payload reads a request: an interaction, as the one field of a form, or a
// slash command, as a form of its own.
func (b *Bot) payload(contentType string, body []byte) (job func(context.Context), err error) {
	if kind, _, err := mime.ParseMediaType(contentType); err != nil || kind != "application/x-www-form-urlencoded" {
		return nil, errors.New("a form is expected")
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, errors.New("a form is expected")
	}
	for _, values := range form {
		if len(values) != 1 {
			return nil, errors.New("a form with each field once is expected")
		}
	}
	switch {
	case form.Has("payload") && !form.Has("command"):
		return func(ctx context.Context) { b.interact(ctx, []byte(form.Get("payload"))) }, nil
	case form.Get("command") == commandName && !form.Has("payload"):
		c := slack.SlashCommand{TeamID: form.Get("team_id"), UserID: form.Get("user_id"), UserName: form.Get("user_name"), ChannelID: form.Get("channel_id"),
			Command: form.Get("command"), Text: form.Get("text"), ResponseURL: form.Get("response_url"), TriggerID: form.Get("trigger_id")}
		return func(ctx context.Context) { b.command(ctx, c, body) }, nil
	}
	return nil, errors.New("a form with one payload, or a command of ours, is expected")
}

// introduced tells whether Slack has said which workspace is ours; until then
// no press can be taken.
func (b *Bot) introduced() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.team != ""
}

// accept takes on the work, or says that there is too much.
func (b *Bot) accept(job func(context.Context)) bool {
	select {
	case b.slots <- struct{}{}:
	default:
		return false
	}
	b.mu.Lock()
	b.jobs++
	b.mu.Unlock()
	go func() {
		defer func() {
			<-b.slots
			b.mu.Lock()
			defer b.mu.Unlock()
			b.finished()
		}()
		ctx, cancel := context.WithTimeout(context.Background(), jobLimit)
		defer cancel()
		defer b.survive(ctx, "a press")
		job(ctx)
	}()
	return true
}

// survive keeps a fault in the work on what came from outside from ending the
// process, which is the gate's.
func (b *Bot) survive(ctx context.Context, what string) {
	if p := recover(); p != nil {
		b.Log.ErrorContext(ctx, "slack: the bot failed inside, at "+what, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	}
}

// press is one interaction, checked as far as Slack vouches for it.
type press struct {
	action      string // approve, deny, details, or reason: the deny modal
	ballot      string // the button's value
	set         string // of a Show button: in front of whom
	reason      string
	team, user  string // the person's own workspace and id
	channel     string
	trigger     string
	responseURL string
	command     bool   // it is none: a command was typed, maybe where the bot is not
	target      Target // of the freeze modal
	proof       *approval.SlackProof
}

const actionReason = "countersign_reason"

// read takes a payload apart. Every error is a payload that our own cards do
// not make; the press has a proof even so, if Slack says who pressed.
func (b *Bot) read(raw []byte) (press, error) {
	var in slack.InteractionCallback
	if err := json.Unmarshal(raw, &in); err != nil {
		return press{}, fmt.Errorf("unreadable payload: %w", err)
	}
	if in.User.ID == "" {
		return press{}, errors.New("the payload does not say who pressed")
	}
	// Over Slack Connect, the person's team is not the workspace's: the pair
	// that policy links is (team, user) of the person.
	hash := sha256.Sum256(raw)
	p := press{team: in.User.TeamID, user: in.User.ID, channel: in.Channel.ID, trigger: in.TriggerID, responseURL: in.ResponseURL,
		proof: &approval.SlackProof{Team: in.User.TeamID, User: in.User.ID, Channel: in.Channel.ID, MessageTS: in.Container.MessageTs,
			PayloadHash: "sha256:" + hex.EncodeToString(hash[:])}}
	b.mu.Lock()
	team := b.team
	b.mu.Unlock()
	if team == "" || in.Team.ID != team {
		return p, fmt.Errorf("the interaction is from team %q, not from ours", in.Team.ID)
	}
	if p.team == "" {
		return p, errors.New("the payload does not say which team's user pressed")
	}
	switch in.Type {
	case slack.InteractionTypeBlockActions:
		if len(in.ActionCallback.BlockActions) != 1 {
			return p, fmt.Errorf("%d actions in one payload", len(in.ActionCallback.BlockActions))
		}
		act := in.ActionCallback.BlockActions[0]
		p.action, p.ballot, p.proof.ActionTS = act.ActionID, act.Value, act.ActionTs
		switch p.action {
		case actionApprove, actionOnce, actionDeny, actionDetails, actionPage:
		case actionShow: // its value is a ballot, and the set that is to see the card
			i := strings.LastIndexByte(p.ballot, '.')
			p.ballot, p.set = p.ballot[:max(i, 0)], p.ballot[i+1:]
		default:
			return p, fmt.Errorf("unknown action %.40q", p.action)
		}
	case slack.InteractionTypeViewSubmission:
		if in.View.CallbackID == actionFreeze && in.View.State != nil {
			var m freezeMemory
			if err := json.Unmarshal([]byte(in.View.PrivateMetadata), &m); err != nil {
				return p, fmt.Errorf("the modal's memory is unreadable: %w", err)
			}
			p.action, p.target, p.channel, p.responseURL, p.command = actionFreeze, m.Target, m.Channel, m.ResponseURL, true
			p.proof.Channel = m.Channel
			p.reason = in.View.State.Values[actionFreeze][actionFreeze].Value
			return p, nil
		}
		if in.View.CallbackID != actionReason || in.View.State == nil {
			return p, fmt.Errorf("unknown modal %.40q", in.View.CallbackID)
		}
		var m modalMemory
		if err := json.Unmarshal([]byte(in.View.PrivateMetadata), &m); err != nil {
			return p, fmt.Errorf("the modal's memory is unreadable: %w", err)
		}
		p.action, p.ballot, p.channel = actionReason, m.Ballot, m.Channel
		p.proof.Channel, p.proof.MessageTS = m.Channel, m.TS
		p.reason = in.View.State.Values[actionReason][actionReason].Value
	default:
		return p, fmt.Errorf("unknown interaction %.40q", in.Type)
	}
	return p, nil
}

// interact does what one interaction asks for.
func (b *Bot) interact(ctx context.Context, raw []byte) {
	p, err := b.read(raw)
	if p.proof != nil && b.delivered(p.proof.PayloadHash) {
		b.Log.InfoContext(ctx, "slack: the same interaction came again", "user", p.user)
		return
	}
	if err != nil {
		b.Log.WarnContext(ctx, "slack: interaction ignored", "error", err)
		if p.proof != nil {
			b.report(ctx, "", p.vote(b.Now()), err)
		}
		return
	}
	if p.action == actionPage {
		return // their browser follows the link
	}
	if p.action == actionFreeze {
		if err := b.freeze(ctx, p); err != nil {
			b.Log.WarnContext(ctx, "slack: a freeze was refused", "team", p.team, "user", p.user, "error", err)
			b.tell(ctx, p, b.commandWords(err))
		}
		return
	}
	a, v, err := b.act(ctx, p)
	if err == nil {
		return
	}
	if !errors.Is(err, errModal) && !errors.Is(err, errShown) { // these decide nothing
		b.report(ctx, a.ID, v, err)
	}
	b.Log.WarnContext(ctx, "slack: a press was refused", "approval", a.ID, "action", p.action, "team", p.team, "user", p.user, "error", err)
	b.tell(ctx, p, b.words(err, a))
}

var (
	errForged = errors.New("the button does not belong to this approval")
	errModal  = errors.New("the dialog could not be opened")
)

// vote is what a press says, as long as nobody knows who pressed.
func (p press) vote(now time.Time) approval.Vote {
	return approval.Vote{Via: approval.ViaSlack, Slack: p.proof, Approve: p.action == actionApprove || p.action == actionOnce, Once: p.action == actionOnce, Reason: strings.TrimSpace(p.reason), At: now.UTC()}
}

// act does what a press asks for. It returns the vote also if it does not count.
func (b *Bot) act(ctx context.Context, p press) (approval.Approval, approval.Vote, error) {
	v := p.vote(b.Now())
	id, _, _ := strings.Cut(p.ballot, ".")
	policy := b.Policy()
	stranger := errEarly
	if policy != nil {
		var who approval.Voter
		who, stranger = b.Book.Voter(ctx, policy, p.team, p.user)
		v.Person, v.Issuer, v.Sub, v.Email, v.Linked = who.Person, who.Issuer, who.Sub, who.Email, who.Linked
	}
	a, err := b.Book.Get(ctx, id)
	if err != nil {
		return approval.Approval{}, v, err
	}
	if !hmac.Equal([]byte(ballot(a)), []byte(p.ballot)) {
		if len(a.Renewals) > 0 { // a card from before may still be before somebody's eyes
			return a, v, approval.ErrShown
		}
		return a, v, errForged
	}
	if policy == nil {
		return a, v, errEarly
	}
	if p.action == actionDetails {
		return a, v, b.openDetails(ctx, a, p)
	}
	if stranger != nil {
		return a, v, stranger
	}
	if p.action == actionShow {
		return a, v, b.show(ctx, a, p.set, policy)
	}
	v.Shown = a.Shows() // by the ballot
	switch p.action {
	case actionDeny:
		first := v
		first.Reason = "-" // asked for next
		if err := b.Book.Check(ctx, a, first, policy); err != nil {
			return a, v, err
		}
		return a, v, b.openReason(ctx, a, p)
	case actionApprove, actionOnce:
		// The card that the presser saw had this button only if the request
		// could be seen in full; a forged press comes without having seen it.
		if a.State == approval.Pending && len(unseen(a, policy)) > 0 {
			return a, v, approval.ErrPartial
		}
	}
	voted, err := b.Book.Vote(ctx, a.ID, v, policy)
	if voted.ID == "" {
		voted = a
	}
	return voted, v, err
}

// delivered tells whether the same payload came before. It spares the presser
// a second answer; that a vote counts once is the approval's own promise.
func (b *Bot) delivered(hash string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.Now()
	if len(b.seen) > 10_000 {
		for h, at := range b.seen {
			if now.Sub(at) > 2*window {
				delete(b.seen, h)
			}
		}
		if len(b.seen) > 10_000 {
			clear(b.seen)
		}
	}
	_, before := b.seen[hash]
	b.seen[hash] = now
	return before
}

// tell says something to the presser alone. It has blocks: the text of a message
// without them is formatted, and words of others in it could be links.
func (b *Bot) tell(ctx context.Context, p press, text string) {
	f := face{text: text}
	for _, part := range pages(text, maxTold) {
		f.add(richText(section(b.linked(part)...)))
	}
	b.answer(ctx, p, f)
}

const maxTold = 4 // texts of maxText characters in one answer

// linked is plain text in which the addresses of our own approval page, and no
// others, are links.
func (b *Bot) linked(s string) []slack.RichTextSectionElement {
	var out []slack.RichTextSectionElement
	add := func(s string) {
		if s != "" {
			out = append(out, text(s))
		}
	}
	for own := b.page(""); b.PublicURL != ""; {
		at := strings.Index(s, own)
		if at < 0 {
			break
		}
		rest := s[at+len(own):]
		n := at + len(own) + len(rest) - len(strings.TrimLeft(rest, "/-_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"))
		add(s[:at])
		out = append(out, slack.NewRichTextSectionLinkElement(s[at:n], s[at:n], nil))
		s = s[n:]
	}
	add(s)
	return out
}

// answer shows something to the presser alone: where they pressed, as long as
// the bot is there, or else by the address that Slack gave for it. A command may
// be typed where the bot is not, so that address comes first.
func (b *Bot) answer(ctx context.Context, p press, f face) {
	say := []slack.MsgOption{slack.MsgOptionText(f.text, true), slack.MsgOptionParse(false)}
	if len(f.blocks) > 0 {
		say = append(say, slack.MsgOptionBlocks(f.blocks...))
	}
	ways := []func() error{
		func() error { return b.answerIn(ctx, p, say) },
		func() error { return b.answerBy(ctx, p, say) },
	}
	if p.command {
		slices.Reverse(ways)
	}
	var err error
	for _, way := range ways {
		if err = way(); err == nil {
			return
		}
	}
	b.Log.ErrorContext(ctx, "slack: a presser could not be answered", "user", p.user, "told", f.text, "error", err)
}

func (b *Bot) answerIn(ctx context.Context, p press, say []slack.MsgOption) (err error) {
	if p.channel == "" {
		return errors.New("no channel")
	}
	for range 3 {
		if _, err = b.API.PostEphemeralContext(ctx, p.channel, p.user, say...); err == nil {
			return nil
		}
		var limited *slack.RateLimitedError
		if !errors.As(err, &limited) || b.Sleep(ctx, limited.RetryAfter) != nil {
			break
		}
	}
	return err
}

func (b *Bot) answerBy(ctx context.Context, p press, say []slack.MsgOption) error {
	if p.responseURL == "" {
		return errors.New("no response_url")
	}
	_, _, _, err := b.API.SendMessageContext(ctx, "", append(say, slack.MsgOptionResponseURL(p.responseURL, slack.ResponseTypeEphemeral))...)
	return err
}
