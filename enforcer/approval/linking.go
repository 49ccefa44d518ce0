package approval

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"countersign/enforcer/kv"
	"countersign/rules"
)

// Linking is how somebody whom policy links to no Slack user says that one is
// theirs. It takes four steps, and both the Slack user and the sign-in have to
// take part:
//
//  1. In Slack: the user asks for it (/countersign link). The bot makes a token
//     with Begin, and answers that user, alone, with <public URL>/approvals/link?token=…
//  2. On the page: whoever opens that URL signs in. The page shows them which
//     Slack user it is about, and that what this user presses will count as theirs.
//  3. They confirm, and the page shows them a code, from Offer.
//  4. In Slack: the same user types it back (/countersign link CODE). The bot
//     hands it to Accept, which links them.
//
// The danger is a user who sends their own URL from step 1 to an approver: the
// approver signs in and confirms, without reading, and every press of the
// other's would be theirs. Asking the Slack user once more would not help, since
// that is the attacker. The code does: it is shown to the approver only, and
// holds for the attacker's user only. An approver who does what the page says
// types it in Slack as themselves, where it is refused, and recorded. What is
// left is an approver who reads the warning on the page and sends the code to
// somebody else all the same.
//
// The other way round, somebody who lets an approver's Slack user ask and then
// signs in as themselves, gets that user's presses counted as their own: it takes
// the approver typing the code for it, and gives them no vote that they do not
// have.
//
// Under "offer.<team>.<user>", in the bucket of Logins, is what is under way for
// one Slack user, an offer.
type Linking struct {
	Logins *Logins
	Seal   Seal
}

const (
	linkLife  = 10 * time.Minute // of a token, and then of a code
	linkTries = 5                // of a code
	offerKeys = "offer."
)

// Errors of a Linking.
var (
	ErrLinkOff   = errors.New("policy does not let people link their own Slack user (links.login)")
	ErrLinkToken = errors.New("the link is too old, was used already, or is none of ours: ask for another in Slack")
	ErrLinkCode  = errors.New("the code is wrong, too old, or for another Slack user")
)

// SlackUser is who asks, in Slack, to be linked.
type SlackUser struct {
	Team string
	User string
	Name string // as Slack shows it; for people to recognise, not to be relied on
}

// linkToken is sealed into the URL of step 1.
type linkToken struct {
	SlackUser
	ID string
}

// offer is the document of step 3. Used are tokens that made one, each until it
// is too old by itself.
type offer struct {
	Issuer string               `json:"issuer,omitempty"`
	Sub    string               `json:"sub,omitempty"`
	Mark   string               `json:"mark,omitempty"` // of the code; "": it was taken, or guessed too often
	Until  time.Time            `json:"until,omitzero"`
	Tries  int                  `json:"tries,omitempty"`
	Used   map[string]time.Time `json:"used,omitempty"`
}

// Begin makes the token of step 1. The bot has it from Slack who asks.
func (l *Linking) Begin(p *rules.Policy, u SlackUser) (token string, err error) {
	if err := mayLink(p, u); err != nil {
		return "", err
	}
	if _, err := linkKey(u.Team, u.User); err != nil {
		return "", err
	}
	if len(u.Name) > 200 {
		u.Name = strings.ToValidUTF8(u.Name[:200], "")
	}
	return l.Seal.Close("link", l.Logins.Now().Add(linkLife), linkToken{u, rand.Text()})
}

// mayLink: a Slack user whom policy links to a person is that person.
func mayLink(p *rules.Policy, u SlackUser) error {
	if p == nil || !p.Links().Login {
		return ErrLinkOff
	}
	if person, known := p.PersonBySlack(u.Team, u.User); known {
		return fmt.Errorf("%w: approvers.yaml says that this Slack user is %s", ErrLinked, person.Name)
	}
	return nil
}

// Read says whom a token is about, for step 2, without using it.
func (l *Linking) Read(p *rules.Policy, token string) (SlackUser, error) {
	t, err := l.read(p, token)
	return t.SlackUser, err
}

func (l *Linking) read(p *rules.Policy, token string) (t linkToken, err error) {
	if err := l.Seal.Open("link", token, l.Logins.Now(), &t); err != nil {
		return t, ErrLinkToken
	}
	return t, mayLink(p, t.SlackUser)
}

// Offer is step 3, by whoever has just signed in: it uses the token, and makes
// the code. An earlier code for the same Slack user is void.
func (l *Linking) Offer(ctx context.Context, p *rules.Policy, token string, by Login) (code string, err error) {
	t, err := l.read(p, token)
	if err != nil {
		return "", err
	}
	if person, known := p.Person(by.Issuer, by.Sub); known && person.SlackTeam == t.Team {
		return "", fmt.Errorf("%w: approvers.yaml links %s to another Slack user", ErrLinked, person.Name)
	}
	code = rand.Text()[:8] // 40 bits, and five tries
	code = code[:4] + "-" + code[4:]
	err = l.change(ctx, t.Team, t.User, func(o *offer, now time.Time) error {
		if _, used := o.Used[t.ID]; used || len(o.Used) >= 20 {
			return ErrLinkToken
		}
		if o.Used == nil {
			o.Used = map[string]time.Time{}
		}
		o.Used[t.ID] = now.Add(linkLife)
		o.Issuer, o.Sub, o.Until, o.Tries = by.Issuer, by.Sub, now.Add(linkLife), 0
		o.Mark = l.mark(t.Team, t.User, code)
		return nil
	})
	return code, err
}

func (l *Linking) mark(team, user, code string) string {
	code = strings.ToUpper(strings.NewReplacer("-", "", " ", "").Replace(code))
	return l.Seal.Mark("link", team+"/"+user+"/"+code)
}

// Accept is step 4: the Slack user, of whom Slack vouches, gives the code. It
// returns who they are from now on. What is refused changes nothing, but for the
// tries that are left.
func (l *Linking) Accept(ctx context.Context, p *rules.Policy, team, user, code string) (Login, error) {
	if err := mayLink(p, SlackUser{Team: team, User: user}); err != nil {
		return Login{}, err
	}
	var whose offer
	good := false
	err := l.change(ctx, team, user, func(o *offer, now time.Time) error {
		whose, good = *o, false
		if o.Mark == "" || !now.Before(o.Until) {
			return ErrLinkCode
		}
		if good = subtle.ConstantTimeCompare([]byte(o.Mark), []byte(l.mark(team, user, code))) == 1; good {
			o.Mark = ""
			return nil
		}
		if o.Tries++; o.Tries >= linkTries {
			o.Mark = ""
		}
		return nil
	})
	if err == nil && !good {
		err = ErrLinkCode
	}
	if err != nil {
		return Login{}, err
	}
	by, err := l.Logins.Get(ctx, whose.Issuer, whose.Sub)
	if err != nil {
		return Login{}, err
	}
	return by, l.Logins.Link(ctx, team, user, by)
}

// change applies f to what is under way for the Slack user, by compare-and-swap.
func (l *Linking) change(ctx context.Context, team, user string, f func(o *offer, now time.Time) error) error {
	if _, err := linkKey(team, user); err != nil {
		return err
	}
	key := offerKeys + team + "." + user
	for {
		var o offer
		raw, rev, err := l.Logins.Bucket.Get(ctx, key)
		there := err == nil
		switch {
		case errors.Is(err, kv.ErrNotFound):
		case err != nil:
			return err
		default:
			if err := json.Unmarshal(raw, &o); err != nil {
				return fmt.Errorf("approval: unreadable offer of a link: %w", err)
			}
		}
		now := l.Logins.Now().UTC()
		for id, until := range o.Used {
			if !now.Before(until) {
				delete(o.Used, id)
			}
		}
		if err := f(&o, now); err != nil {
			return err
		}
		if raw, err = json.Marshal(o); err != nil {
			return err
		}
		if there {
			_, err = l.Logins.Bucket.Update(ctx, key, raw, rev)
		} else {
			_, err = l.Logins.Bucket.Create(ctx, key, raw)
		}
		if !errors.Is(err, kv.ErrConflict) && !errors.Is(err, kv.ErrExists) {
			return err
		}
	}
}
