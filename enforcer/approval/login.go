package approval

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"countersign/enforcer/kv"
)

// KeepLogin is how long a login is kept, and with it the Slack users linked by
// it: then they sign in again.
const KeepLogin = 30 * 24 * time.Hour

// maxLogin bounds a login's document: an issuer may send thousands of groups.
const maxLogin = 48 << 10

// Login is somebody's sign-in to the approval page: what the issuer said of
// them in a verified ID token.
type Login struct {
	ID       string    `json:"id"` // names this sign-in in the record: letters, digits and _
	Issuer   string    `json:"issuer"`
	Sub      string    `json:"sub"`
	Name     string    `json:"name,omitempty"`
	Email    string    `json:"email,omitempty"`
	Groups   []string  `json:"groups,omitempty"`
	ACR      string    `json:"acr,omitempty"`
	AMR      []string  `json:"amr,omitempty"`
	AuthTime time.Time `json:"auth_time"` // when they proved who they are
	At       time.Time `json:"at"`        // when the claims were received
}

// What LoginEvent.Event says.
const (
	EventSignedIn = "signed-in"
	EventLinked   = "linked"
	EventUnlinked = "unlinked"
)

// LoginEvent is a change of a login or a link, for the record.
type LoginEvent struct {
	Event string `json:"event"`
	Login Login  `json:"login"`          // of EventUnlinked: Issuer and Sub only
	Team  string `json:"team,omitempty"` // of EventLinked and EventUnlinked: the Slack user
	User  string `json:"user,omitempty"`
}

// LoginsConfig is what Logins need.
type LoginsConfig struct {
	Bucket *kv.Bucket
	Now    func() time.Time // nil: time.Now

	// Record writes a change to the audit journal and returns when it is
	// durable. What gives permission (a login, a link) is recorded before it is
	// in the store; what takes it (an unlinking), after.
	Record func(ctx context.Context, e LoginEvent) error
}

// Logins are the newest sign-in of each person, and the Slack users who linked
// themselves to one. Any number of processes may share the bucket. It is safe
// for concurrent use.
//
// The bucket holds a Login under "login.<hash of issuer and sub>", and a link
// under "slack.<team>.<user>".
type Logins struct{ LoginsConfig }

// NewLogins returns the Logins of a store's bucket.
func NewLogins(c LoginsConfig) *Logins {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Record == nil {
		c.Record = func(context.Context, LoginEvent) error { return errors.New("no record is configured") }
	}
	return &Logins{c}
}

const (
	loginKeys = "login."
	linkKeys  = "slack."
)

// A link is the document under a Slack user's key.
type link struct {
	Issuer string    `json:"issuer"`
	Sub    string    `json:"sub"`
	Login  string    `json:"login"` // ID of the one that made it
	At     time.Time `json:"at"`
}

var slackID = regexp.MustCompile(`^[A-Z0-9]{1,32}$`)

func loginKey(issuer, sub string) string {
	return loginKeys + hex.EncodeToString(hashed("login", issuer, sub))
}

func linkKey(team, user string) (string, error) {
	if !slackID.MatchString(team) || !slackID.MatchString(user) {
		return "", fmt.Errorf("%w: Slack user %.40q of team %.40q", ErrLogin, user, team)
	}
	return linkKeys + team + "." + user, nil
}

func (l Login) complete() error {
	switch {
	case l.Issuer == "" || l.Sub == "":
		return fmt.Errorf("%w: it does not say who", ErrLogin)
	case !idForm.MatchString(l.ID):
		return fmt.Errorf("%w: id %.70q", ErrLogin, l.ID)
	case l.At.IsZero() || l.AuthTime.IsZero():
		return fmt.Errorf("%w: it does not say when", ErrLogin)
	}
	return nil
}

// Put records a login and keeps it as the newest of its subject. An older one
// than is there (two processes, two browsers) is recorded and not kept. ErrLogin:
// it is incomplete, or too large to keep.
func (s *Logins) Put(ctx context.Context, l Login) error {
	if err := l.complete(); err != nil {
		return err
	}
	raw, err := json.Marshal(l)
	if err != nil {
		return err
	}
	if len(raw) > maxLogin {
		return fmt.Errorf("%w: its claims have %d bytes, more than %d: have the issuer send fewer groups", ErrLogin, len(raw), maxLogin)
	}
	if err := s.Record(ctx, LoginEvent{Event: EventSignedIn, Login: l}); err != nil {
		return fmt.Errorf("login of %s: %w: %w", l.Sub, ErrUnrecorded, err)
	}
	return s.put(ctx, loginKey(l.Issuer, l.Sub), raw, func(there []byte) bool {
		var have Login
		return json.Unmarshal(there, &have) != nil || !have.At.After(l.At)
	})
}

// put writes a key by compare-and-swap, unless what is there is better.
func (s *Logins) put(ctx context.Context, key string, raw []byte, replaces func(there []byte) bool) error {
	for {
		there, rev, err := s.Bucket.Get(ctx, key)
		switch {
		case errors.Is(err, kv.ErrNotFound):
			_, err = s.Bucket.Create(ctx, key, raw)
		case err != nil:
		case !replaces(there):
			return nil
		default:
			_, err = s.Bucket.Update(ctx, key, raw, rev)
		}
		if !errors.Is(err, kv.ErrConflict) && !errors.Is(err, kv.ErrExists) {
			return err
		}
	}
}

// Get returns the newest login of the subject, however old; ErrNoLogin if there
// is none, or none that is still kept.
func (s *Logins) Get(ctx context.Context, issuer, sub string) (Login, error) {
	raw, _, err := s.Bucket.Get(ctx, loginKey(issuer, sub))
	if errors.Is(err, kv.ErrNotFound) {
		return Login{}, ErrNoLogin
	}
	if err != nil {
		return Login{}, err
	}
	var l Login
	if err := json.Unmarshal(raw, &l); err != nil {
		return Login{}, fmt.Errorf("approval: unreadable login: %w", err)
	}
	if l.Issuer != issuer || l.Sub != sub || s.Now().Sub(l.At) > KeepLogin {
		return Login{}, ErrNoLogin
	}
	return l, nil
}

// Link records that the Slack user is whoever signed in, and keeps it. The
// caller has made sure that it is the same person who asked for it in Slack and
// who signed in, and that they meant it. A subject has one Slack user in a
// workspace, and a Slack user one subject: ErrLinked, until that is unlinked.
func (s *Logins) Link(ctx context.Context, team, user string, l Login) error {
	key, err := linkKey(team, user)
	if err == nil {
		err = l.complete()
	}
	if err != nil {
		return err
	}
	others, err := s.Bucket.Keys(ctx, linkKeys+team+".")
	if err != nil {
		return err
	}
	for _, other := range others {
		have, _, err := s.link(ctx, other)
		if errors.Is(err, ErrUnlinked) {
			continue // unlinked since
		}
		if err != nil {
			return err
		}
		same := have.Issuer == l.Issuer && have.Sub == l.Sub
		switch {
		case other == key && same:
			return nil
		case other == key:
			return fmt.Errorf("%w: this Slack user is somebody else's", ErrLinked)
		case same:
			return fmt.Errorf("%w: this person has linked Slack user %s", ErrLinked, strings.TrimPrefix(other, linkKeys+team+"."))
		}
	}
	if err := s.Record(ctx, LoginEvent{Event: EventLinked, Login: l, Team: team, User: user}); err != nil {
		return fmt.Errorf("link of %s: %w: %w", l.Sub, ErrUnrecorded, err)
	}
	raw, err := json.Marshal(link{Issuer: l.Issuer, Sub: l.Sub, Login: l.ID, At: s.Now().UTC()})
	if err != nil {
		return err
	}
	_, err = s.Bucket.Create(ctx, key, raw)
	if errors.Is(err, kv.ErrExists) {
		return fmt.Errorf("%w: this Slack user was linked at the same moment", ErrLinked)
	}
	return err
}

func (s *Logins) link(ctx context.Context, key string) (link, uint64, error) {
	raw, rev, err := s.Bucket.Get(ctx, key)
	if errors.Is(err, kv.ErrNotFound) {
		return link{}, 0, ErrUnlinked
	}
	var l link
	if err == nil {
		err = json.Unmarshal(raw, &l)
	}
	return l, rev, err
}

// Unlink takes a Slack user's own link away; ErrUnlinked if there is none.
func (s *Logins) Unlink(ctx context.Context, team, user string) error {
	key, err := linkKey(team, user)
	if err != nil {
		return err
	}
	l, rev, err := s.link(ctx, key)
	if err != nil {
		return err
	}
	if err := s.Bucket.Delete(ctx, key, rev); err != nil {
		return err
	}
	return s.Record(ctx, LoginEvent{Event: EventUnlinked, Login: Login{Issuer: l.Issuer, Sub: l.Sub}, Team: team, User: user})
}

// BySlack returns the newest login of the subject to whom the Slack user is
// linked by their own login, however old. ErrUnlinked: there is no link.
// ErrStaleLogin: there is, but the login is no longer kept.
func (s *Logins) BySlack(ctx context.Context, team, user string) (Login, error) {
	key, err := linkKey(team, user)
	if err != nil {
		return Login{}, err
	}
	to, _, err := s.link(ctx, key)
	if err != nil {
		return Login{}, err
	}
	l, err := s.Get(ctx, to.Issuer, to.Sub)
	if errors.Is(err, ErrNoLogin) {
		return Login{Issuer: to.Issuer, Sub: to.Sub}, ErrStaleLogin
	}
	return l, err
}

// Sweep forgets logins older than KeepLogin, the links to them, and what came of
// nothing when people linked themselves. It returns how many logins it forgot.
func (s *Logins) Sweep(ctx context.Context) (int, error) {
	keys, err := s.Bucket.Keys(ctx, loginKeys)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, key := range keys {
		gone, err := s.forget(ctx, key, func(raw []byte) bool {
			var l Login
			return json.Unmarshal(raw, &l) != nil || s.Now().Sub(l.At) > KeepLogin
		})
		if err != nil {
			return n, err
		}
		if gone {
			n++
		}
	}
	offers, err := s.Bucket.Keys(ctx, offerKeys)
	if err != nil {
		return n, err
	}
	for _, key := range offers {
		if _, err := s.forget(ctx, key, func(raw []byte) bool {
			var o offer
			return json.Unmarshal(raw, &o) != nil || s.Now().Sub(o.Until) > linkLife // of its tokens none is good any more
		}); err != nil {
			return n, err
		}
	}
	links, err := s.Bucket.Keys(ctx, linkKeys)
	if err != nil {
		return n, err
	}
	for _, key := range links {
		team, user, _ := strings.Cut(strings.TrimPrefix(key, linkKeys), ".")
		if _, err := s.BySlack(ctx, team, user); !errors.Is(err, ErrStaleLogin) {
			if err != nil && !errors.Is(err, ErrUnlinked) {
				return n, err
			}
			continue
		}
		if err := s.Unlink(ctx, team, user); err != nil && !errors.Is(err, ErrUnlinked) && !errors.Is(err, kv.ErrConflict) {
			return n, err
		}
	}
	return n, nil
}

// forget deletes a key whose value is old, unless it changes at this moment.
func (s *Logins) forget(ctx context.Context, key string, old func(raw []byte) bool) (bool, error) {
	raw, rev, err := s.Bucket.Get(ctx, key)
	switch {
	case errors.Is(err, kv.ErrNotFound):
		return false, nil
	case err != nil:
		return false, err
	case !old(raw):
		return false, nil
	}
	err = s.Bucket.Delete(ctx, key, rev)
	if errors.Is(err, kv.ErrConflict) {
		return false, nil
	}
	return err == nil, err
}
