package approval

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"time"

	"countersign/enforcer/kv"
	"countersign/rules"
)

// Keep is how long an approval that has ended stays readable.
const Keep = 24 * time.Hour

// maxShown bounds what is kept of the arguments' text: a store's document is
// small. What is longer could be shown on no card; it is marked partial.
const maxShown = 64 << 10

// maxDoes bounds, in bytes, the words for what the arguments do.
const maxDoes = 4 << 10

// Config is what a Book needs.
type Config struct {
	Bucket *kv.Bucket
	Now    func() time.Time

	// Record writes a change to the audit journal and returns when it is
	// durable. It is called after the change is in the store. An error takes
	// the permission that the change gave: see Vote, Spend and Ask. One Book
	// records the changes of one approval in their order, and makes the next
	// only after the last is recorded, so that the journal's newest entry is
	// the newest state. Record must not call the Book.
	Record func(ctx context.Context, a Approval, event string) error

	// Digest is the digest, under p, of the rules named in asks, of their
	// approver sets, and of the server and its credential, for a call of the
	// subject by the client: what a Decision calls RulesDigest
	// (rules.Policy.AsksDigest). While it is nil, an approval takes no approving
	// vote under another policy commit than its own.
	Digest func(p *rules.Policy, server string, s rules.Subject, client string, asks []rules.Ask) string

	// Logins are the sign-ins and links of voters. nil: nobody has signed in, so
	// that nobody is a member by a group or linked by a login.
	Logins *Logins

	// SlackEmail is the e-mail address that Slack has of a user of the bot's own
	// workspace, "" of anybody else (of another workspace, a guest, a bot, an
	// account that is switched off). nil: nobody is linked by e-mail. It is
	// called only where policy says links.email.
	SlackEmail func(ctx context.Context, team, user string) (string, error)

	// Words masks what a person typed, of any length: it is kept, recorded, shown
	// to others and told the agent. nil: it stays as it is.
	Words func(string) string

	ID  func() string // a new, unguessable id of letters, digits and _; nil: random
	Log *slog.Logger  // nil: silent
}

// Book is all approvals of one store. Any number of Books, in any number of
// processes, may share a store: the store's compare-and-swap decides. It is
// safe for concurrent use.
type Book struct {
	Config
	order   [64]sync.Mutex // over a change and its record, by approval id
	mu      sync.Mutex
	waiters map[string]map[chan struct{}]bool // by approval id
	unwatch context.CancelFunc                // ends the watch that serves the waiters
}

// New returns the Book of a store's bucket.
func New(c Config) *Book {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Record == nil {
		c.Record = func(context.Context, Approval, string) error { return errors.New("no record is configured") }
	}
	if c.Words == nil {
		c.Words = func(s string) string { return s }
	}
	if c.ID == nil {
		c.ID = randomID
	}
	if c.Log == nil {
		c.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	return &Book{Config: c, waiters: map[string]map[chan struct{}]bool{}}
}

func randomID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // crypto/rand.Read never fails
	return "ap_" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b))
}

// Ids come back from outside, in button values: nothing else may reach a key.
var idForm = regexp.MustCompile(`^[A-Za-z0-9_]{1,64}$`)

// Get returns an approval, or ErrUnknown.
func (b *Book) Get(ctx context.Context, id string) (Approval, error) {
	if !idForm.MatchString(id) {
		return Approval{}, ErrUnknown
	}
	raw, rev, err := b.Bucket.Get(ctx, documents+id)
	if errors.Is(err, kv.ErrNotFound) {
		return Approval{}, fmt.Errorf("%w: %s", ErrUnknown, id)
	}
	if err != nil {
		return Approval{}, err
	}
	return decode(raw, rev)
}

// Pending lists the approvals that wait for a person. In a cluster one that was
// made a moment ago may be missing.
func (b *Book) Pending(ctx context.Context) ([]Approval, error) {
	all, err := b.All(ctx)
	if err != nil {
		return nil, err
	}
	var out []Approval
	for _, a := range all {
		if a.State == Pending && a.live(b.Now()) {
			out = append(out, a)
		}
	}
	return out, nil
}

// All lists the approvals in the store: those that wait, windows in force, what
// needs a review, and what ended within Keep. In a cluster, one made a moment
// ago may be missing.
func (b *Book) All(ctx context.Context) ([]Approval, error) {
	keys, err := b.Bucket.Keys(ctx, documents)
	if err != nil {
		return nil, err
	}
	var out []Approval
	for _, key := range keys {
		a, err := b.Get(ctx, strings.TrimPrefix(key, documents))
		if errors.Is(err, ErrUnknown) {
			continue // deleted since
		}
		if err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, nil
}

// inOrder keeps other changes of the approval, through this Book, waiting until
// the returned function is called.
func (b *Book) inOrder(id string) (release func()) {
	h := fnv.New32a()
	h.Write([]byte(id))
	m := &b.order[h.Sum32()%uint32(len(b.order))]
	m.Lock()
	return m.Unlock
}

// change applies f by compare-and-swap, again on the newest state for as long
// as others are faster, and records the result as the event that f returns. An
// error of f changes nothing; so does an empty event.
func (b *Book) change(ctx context.Context, id string, f func(*Approval) (event string, err error)) (Approval, error) {
	defer b.inOrder(id)()
	for {
		a, err := b.Get(ctx, id)
		if err != nil {
			return a, err
		}
		event, err := f(&a)
		if err != nil || event == "" {
			return a, err
		}
		rev, err := b.Bucket.Update(ctx, documents+id, encode(a), a.Rev)
		if errors.Is(err, kv.ErrConflict) {
			continue
		}
		if err != nil {
			return a, err
		}
		a.Rev = rev
		err = b.Record(ctx, a, event)
		b.wake(id)
		if err != nil {
			return a, fmt.Errorf("approval %s, %s: %w: %w", id, event, ErrUnrecorded, err)
		}
		return a, nil
	}
}

// void ends an approval whose change could not be recorded. It returns the
// error to give to the caller.
func (b *Book) void(ctx context.Context, id string, cause error) error {
	defer b.inOrder(id)()
	return b.withdrawUnrecorded(ctx, id, cause)
}

func (b *Book) withdrawUnrecorded(ctx context.Context, id string, cause error) error {
	if !errors.Is(cause, ErrUnrecorded) {
		cause = fmt.Errorf("approval %s: %w: %w", id, ErrUnrecorded, cause)
	}
	_, err := b.quietly(ctx, id, func(a *Approval) bool {
		if a.State.Ended() {
			return false
		}
		a.State, a.Reason, a.Ended = Withdrawn, "a change of it could not be recorded", b.Now().UTC()
		return true
	})
	return errors.Join(cause, err)
}

// quietly takes back what a change that could not be recorded gave; f tells
// whether there is something to take. There is no record of it, since there is
// no record.
func (b *Book) quietly(ctx context.Context, id string, f func(*Approval) bool) (Approval, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	for {
		a, err := b.Get(ctx, id)
		if err != nil || !f(&a) {
			return a, err
		}
		_, err = b.Bucket.Update(ctx, documents+id, encode(a), a.Rev)
		if errors.Is(err, kv.ErrConflict) {
			continue
		}
		b.wake(id)
		return a, err
	}
}

func encode(a Approval) []byte {
	raw, err := json.Marshal(a)
	if err != nil { // plain fields only: cannot be
		return nil
	}
	return raw
}

func decode(raw []byte, rev uint64) (Approval, error) {
	var a Approval
	d := json.NewDecoder(bytes.NewReader(raw))
	if err := d.Decode(&a); err != nil {
		return a, fmt.Errorf("approval: unreadable document at revision %d: %w", rev, err)
	}
	if !idForm.MatchString(a.ID) || a.State == "" {
		return a, fmt.Errorf("approval: the document at revision %d is not an approval", rev)
	}
	a.Rev = rev
	return a, nil
}
