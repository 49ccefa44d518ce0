package approval

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
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
	// approver sets, and of the server and its credential: what a Decision calls
	// RulesDigest. While it is nil, an
	// approval takes no approving vote under another policy commit than its own.
	Digest func(p *rules.Policy, server string, asks []rules.Ask) string

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

const (
	documents = "a."
	pointers  = "live."
)

// pointer is the key under which identical requests meet. Each part is
// preceded by its length, so that no two requests spell the same.
func (r Request) pointer() string {
	h := sha256.New()
	for _, part := range []string{r.Subject.Issuer, r.Subject.Sub, r.Client, r.Holder, r.Server, r.Method, r.Tool, r.Resource, r.Digest, r.RulesDigest} {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(part)))
		h.Write(n[:])
		h.Write([]byte(part))
	}
	return pointers + hex.EncodeToString(h.Sum(nil))
}

func (r Request) complete(now time.Time) error {
	missing := func(what string) error { return fmt.Errorf("%w: %s", ErrRequest, what) }
	for what, value := range map[string]string{"issuer": r.Subject.Issuer, "sub": r.Subject.Sub, "server": r.Server, "method": r.Method,
		"holder": r.Holder, "digest": r.Digest, "rules digest": r.RulesDigest, "policy commit": r.Policy, "call": r.Call} {
		if value == "" {
			return missing("no " + what)
		}
	}
	if len(r.Asks) == 0 {
		return missing("no rule asks")
	}
	for _, ask := range r.Asks {
		if ask.Approvers == "" || ask.Quorum < 1 {
			return missing(fmt.Sprintf("rule %s names no approvers, or nobody of them", ask.Rule))
		}
	}
	if !r.Expires.After(now) {
		return missing("it has expired before it was asked")
	}
	return nil
}

// live tells whether an identical retry attaches to the approval.
func (a Approval) live(now time.Time) bool {
	return !a.State.Ended() && now.Before(a.Expires)
}

// Ask finds the live approval for exactly this request, or makes a new one. Of
// any number that ask the same at once, one makes it and the others attach.
//
// The new approval's first document goes to the pointer first, by
// compare-and-swap, and then to its own key: whoever finds a pointer whose
// document is missing, since its maker was cut off, completes it.
func (b *Book) Ask(ctx context.Context, r Request) (a Approval, created bool, err error) {
	r.Subject = rules.Subject{Issuer: r.Subject.Issuer, Sub: r.Subject.Sub, Email: r.Subject.Email}
	if len(r.Args) > maxShown {
		r.Args, r.Partial = strings.ToValidUTF8(r.Args[:maxShown], ""), true
	}
	if err := r.complete(b.Now()); err != nil {
		return Approval{}, false, err
	}
	key := r.pointer()
	for {
		raw, rev, err := b.Bucket.Get(ctx, key)
		if err != nil && !errors.Is(err, kv.ErrNotFound) {
			return Approval{}, false, err
		}
		if err == nil {
			first, err := decode(raw, 0)
			if err != nil {
				return Approval{}, false, err
			}
			a, found, err := b.attach(ctx, first, r)
			if found || err != nil {
				return a, false, err
			}
		}
		now := b.Now().UTC()
		a := Approval{ID: b.ID(), Request: r, State: Pending, Created: now}
		if !idForm.MatchString(a.ID) {
			return Approval{}, false, fmt.Errorf("%w: id %q", ErrRequest, a.ID)
		}
		if rev == 0 {
			_, err = b.Bucket.Create(ctx, key, encode(a))
		} else {
			_, err = b.Bucket.Update(ctx, key, encode(a), rev)
		}
		if errors.Is(err, kv.ErrExists) || errors.Is(err, kv.ErrConflict) {
			continue // another was first: attach to theirs
		}
		if err != nil {
			return Approval{}, false, err
		}
		a, err = b.begin(ctx, a)
		return a, err == nil, err
	}
}

// attach returns the approval that first began, if it is live.
//
// Asked for again under another policy commit, with the same digest of the
// rules, it takes that commit: what the rules ask has not changed, and votes
// are checked under the policy in force.
func (b *Book) attach(ctx context.Context, first Approval, r Request) (a Approval, live bool, err error) {
	now := b.Now()
	a, err = b.Get(ctx, first.ID)
	switch {
	case errors.Is(err, ErrUnknown) && first.live(now):
		a, err = b.begin(ctx, first)
		return a, err == nil, err
	case errors.Is(err, ErrUnknown):
		return a, false, nil
	case err != nil:
		return a, false, err
	case a.live(now) && a.State == Pending && a.Policy != r.Policy:
		a, err = b.change(ctx, a.ID, func(a *Approval) (string, error) {
			if a.State != Pending {
				return "", nil
			}
			a.Policy, a.Asks, a.Trace = r.Policy, r.Asks, r.Trace
			return EventAsked, nil
		})
		return a, err == nil, err
	case a.live(now):
		return a, true, nil
	case !a.State.Ended():
		_, err = b.expire(ctx, a.ID)
		return a, false, err
	}
	return a, false, nil
}

// begin writes a new approval's own document, and records it.
func (b *Book) begin(ctx context.Context, a Approval) (Approval, error) {
	defer b.inOrder(a.ID)()
	rev, err := b.Bucket.Create(ctx, documents+a.ID, encode(a))
	if errors.Is(err, kv.ErrExists) {
		return b.Get(ctx, a.ID) // completed, and recorded, by another
	}
	if err != nil {
		return Approval{}, err
	}
	a.Rev = rev
	if err := b.Record(ctx, a, EventAsked); err != nil {
		return a, b.withdrawUnrecorded(ctx, a.ID, err)
	}
	return a, nil
}

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
	all, err := b.all(ctx)
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

// all are the approvals in the store; in a cluster, one made a moment ago may be
// missing.
func (b *Book) all(ctx context.Context) ([]Approval, error) {
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
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	for {
		a, err := b.Get(ctx, id)
		if err != nil {
			return errors.Join(cause, err)
		}
		if a.State.Ended() {
			return cause
		}
		a.State, a.Reason, a.Ended = Withdrawn, "a change of it could not be recorded", b.Now().UTC()
		_, err = b.Bucket.Update(ctx, documents+id, encode(a), a.Rev)
		if errors.Is(err, kv.ErrConflict) {
			continue
		}
		b.wake(id)
		return errors.Join(cause, err)
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
