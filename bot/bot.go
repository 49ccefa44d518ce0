// Package bot asks people in Slack, and carries their answers to the
// approvals.
//
// It promises:
//
//   - A card shows all of what it asks about, or says that it does not and has
//     no Approve button. Text from outside stands in plain_text and
//     preformatted elements only, in which Slack finds no links, mentions or
//     formatting; what is invisible in it is made visible. See visible.
//   - A vote counts for the person whom the policy links to the Slack user's
//     (team, user); a channel, a group or an e-mail address give nobody a vote.
//     All other checks are those of package approval, at the moment of the
//     press.
//   - What Slack sends is acknowledged before it is worked on, and may come
//     late, twice, or to two bots: there is one outcome. A press that did not
//     count is reported, to be recorded; who pressed is told privately why.
//   - One card per approval and approver set, over restarts and among several
//     bots: the right to post it is claimed in the store first, and a post
//     whose answer was lost is looked for before it is repeated. (Without the
//     scope to read the channel's history it is repeated; a second card of one
//     approval is a nuisance, not a second vote.)
//   - While Slack is down or refuses a card, the approval stays pending until
//     it expires. Nothing is approved because it could not be asked.
package bot

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/slack-go/slack"

	"countersign/enforcer/approval"
	"countersign/rules"
)

// Config is what a Bot needs.
type Config struct {
	API    *slack.Client
	Book   *approval.Book
	Policy func() *rules.Policy // the policy in force; nil while there is none

	SigningSecret string // of the Slack app; empty: Handler refuses everything
	TeamID        string // the workspace that presses are taken from; empty: the token's own
	PublicURL     string // where people reach the approval page; empty: there is none

	// Refused is told of each press that Slack vouches for and that did not
	// count, before the presser is: v.Slack says which Slack user pressed, and
	// v.Issuer, v.Sub and v.Person who that is, if the policy knows. The
	// approval is "" if there is none such. A user's presses that follow each
	// other within a second are told together: why is then a *Repeated. Texts
	// in v and why are not masked. Nil: nobody is told.
	Refused func(ctx context.Context, approvalID string, v approval.Vote, why error)

	Desk Desk // what /countersign asks of the service beside the approvals

	Now   func() time.Time
	Sleep func(context.Context, time.Duration) error // nil: by the wall clock
	Every time.Duration                              // how often to look for what is late; 0: 5 s
	Dead  time.Duration                              // without a ping for so long, a Socket Mode connection is dead; 0: 30 s
	Log   *slog.Logger                               // nil: silent
}

// Bot is one bot process. It is safe for concurrent use.
type Bot struct {
	Config
	name  string        // of this process, for its claims
	slots chan struct{} // bounds interactions being worked on
	idle  *sync.Cond    // over mu: no interaction is being worked on

	mu       sync.Mutex
	jobs     int    // interactions being worked on
	team     string // from TeamID, or auth.test
	botID    string
	authErr  error                       // why Slack does not take our token
	deaf     error                       // why presses do not reach us over Socket Mode
	cardErrs map[string]map[string]error // by approval and set
	tending  map[place]chan struct{}     // cards being brought up to date
	turns    map[string]time.Time        // by lane: when the next call may go
	closed   map[string]time.Time        // by lane: until when Slack asked for silence
	seen     map[string]time.Time        // payload hashes, against double delivery
	refusals map[presser]*refusals       // of users whose refused presses were reported just now
	waiting  waiting
}

// place is one message: the card of an approval in front of a set, or what else
// the set is told of it (see reminderOf and alarmOf); with no approval, the set's
// list.
type place struct{ id, set string }

// maxJobs bounds the interactions being worked on at once.
const maxJobs = 64

// New returns a Bot. Run posts its cards; Handler or RunSocket hear presses.
func New(c Config) *Bot {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Sleep == nil {
		c.Sleep = sleep
	}
	if c.Dead == 0 {
		c.Dead = 30 * time.Second // Slack pings every few seconds
	}
	if c.Every == 0 {
		c.Every = 5 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	name := make([]byte, 8)
	_, _ = rand.Read(name) // crypto/rand.Read never fails
	b := &Bot{Config: c, name: hex.EncodeToString(name), slots: make(chan struct{}, maxJobs), team: c.TeamID,
		cardErrs: map[string]map[string]error{}, tending: map[place]chan struct{}{}, turns: map[string]time.Time{}, closed: map[string]time.Time{}, seen: map[string]time.Time{}, refusals: map[presser]*refusals{}}
	b.idle = sync.NewCond(&b.mu)
	return b
}

// finished ends a job. The caller holds mu.
func (b *Bot) finished() {
	if b.jobs--; b.jobs == 0 {
		b.idle.Broadcast()
	}
}

// drain waits until nothing is being worked on.
func (b *Bot) drain() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.jobs > 0 {
		b.idle.Wait()
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// CardError tells why an approval cannot be put before its approvers, or they
// cannot answer: Slack refused a token, the channel or the card. It is nil
// while all is well, or while Slack is merely slow, busy or away. The approval
// stays pending.
func (b *Bot) CardError(id string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.authErr != nil {
		return b.authErr
	}
	errs := []error{b.deaf}
	for _, err := range b.cardErrs[id] {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// CardErrors tells which cards could not be posted, and why: by approval and
// approver set. What concerns all of them, CardError tells.
func (b *Bot) CardErrors() map[string]map[string]error {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := map[string]map[string]error{}
	for id, sets := range b.cardErrs {
		out[id] = maps.Clone(sets)
	}
	return out
}

// setCardError notes why a card is not there. That a reminder or an alarm is not
// there keeps nobody from being asked; that a list is not, whoever stands in it.
func (b *Bot) setCardError(p place, err error) {
	if p.id == "" {
		for _, a := range b.waiting.listed(p.set) {
			if _, has := a.Card(p.set); !has && a.State == approval.Pending {
				b.setCardError(place{a.ID, p.set}, err)
			}
		}
		return
	}
	if setOf(p.set) != p.set {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == nil {
		delete(b.cardErrs[p.id], p.set)
		if len(b.cardErrs[p.id]) == 0 {
			delete(b.cardErrs, p.id)
		}
		return
	}
	if b.cardErrs[p.id] == nil {
		b.cardErrs[p.id] = map[string]error{}
	}
	b.cardErrs[p.id][p.set] = err
}

// introduce asks Slack who we are, until it answers. A token of another
// workspace than TeamID is an error for good.
func (b *Bot) introduce(ctx context.Context) error {
	for pause := time.Second; ; pause = min(2*pause, 30*time.Second) {
		who, err := b.API.AuthTestContext(ctx)
		b.mu.Lock()
		switch {
		case err == nil && b.TeamID != "" && who.TeamID != b.TeamID:
			b.authErr = fmt.Errorf("the Slack token is for team %s, but the configuration says %s", who.TeamID, b.TeamID)
			err = b.authErr
			b.mu.Unlock()
			return err
		case err == nil:
			b.team, b.botID, b.authErr = who.TeamID, who.BotID, nil
		case refused(err):
			b.authErr = fmt.Errorf("the bot's Slack token was refused (%w): install the app and give its bot token", err)
		}
		b.mu.Unlock()
		if err == nil {
			return nil
		}
		b.Log.ErrorContext(ctx, "slack: auth.test failed; trying again", "error", err, "pause", pause)
		var limited *slack.RateLimitedError
		if errors.As(err, &limited) {
			pause = max(pause, limited.RetryAfter)
		}
		if err := b.Sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// refused tells whether Slack understood the call and will not do it, now or
// soon, rather than being busy or away.
func refused(err error) bool {
	var answer slack.SlackErrorResponse
	if !errors.As(err, &answer) {
		return false
	}
	switch answer.Err {
	case "ratelimited", "rate_limited", "internal_error", "fatal_error", "service_unavailable", "request_timeout", "accesslimited", "team_added_to_org":
		return false
	}
	return true
}
