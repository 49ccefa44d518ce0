package approval

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"time"

	"countersign/enforcer/kv"
)

// List is where an approver set that was asked a lot at once is shown what
// waits: one message in the place of many cards. It is a matter of showing only:
// what waits, and what may be voted on, the approvals say.
type List struct {
	Set    string    `json:"set"`
	Opened time.Time `json:"opened"` // when the oldest request in it was asked
	Card   Card      `json:"card"`   // where it is, as of an approval's card

	// Past are earlier messages that do not say yet that they are over.
	Past []Card `json:"past,omitempty"`

	Rev uint64 `json:"-"` // the store's revision; 0: there is none yet
}

const lists = "list."

var setForm = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)

// ErrTaken is why a List was not written: somebody else was faster.
var ErrTaken = errors.New("somebody else has changed it")

// List returns the list of an approver set, empty if there never was one.
func (b *Book) List(ctx context.Context, set string) (List, error) {
	l := List{Set: set, Card: Card{Set: set}}
	if !setForm.MatchString(set) {
		return l, fmt.Errorf("%w: approver set %.70q", ErrUnknown, set)
	}
	raw, rev, err := b.Bucket.Get(ctx, lists+set)
	if errors.Is(err, kv.ErrNotFound) {
		return l, nil
	}
	if err != nil {
		return l, err
	}
	var have List
	if json.Unmarshal(raw, &have) != nil || have.Set != set {
		have = l // of no worth: it is shown anew
	}
	have.Rev = rev
	return have, nil
}

// SetList writes the list, if it is as it was when it was read: ErrTaken
// otherwise.
func (b *Book) SetList(ctx context.Context, l List) (List, error) {
	if !setForm.MatchString(l.Set) {
		return l, fmt.Errorf("%w: approver set %.70q", ErrUnknown, l.Set)
	}
	raw, err := json.Marshal(l)
	if err != nil {
		return l, err
	}
	if l.Rev == 0 {
		l.Rev, err = b.Bucket.Create(ctx, lists+l.Set, raw)
	} else {
		l.Rev, err = b.Bucket.Update(ctx, lists+l.Set, raw, l.Rev)
	}
	if errors.Is(err, kv.ErrExists) || errors.Is(err, kv.ErrConflict) {
		err = ErrTaken
	}
	return l, err
}
