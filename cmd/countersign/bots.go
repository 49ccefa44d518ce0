package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"countersign/enforcer/approval"
	"countersign/enforcer/kv"
	"countersign/enforcer/mask"
)

// How bots and the enforcers that they ask for know of each other, where they
// are processes of their own: in the bucket "bots" each bot has the key
// "bot.<COUNTERSIGN_ID>", which it writes anew every beat: a JSON object with
// problem, why it can ask nobody, if that is so. What stopped a single card
// stands in its approval (approval.Approval.Unasked).
//
// No clocks are compared: a bot is alive while its key changes.
const (
	beat    = 3 * time.Second
	silence = 20 * time.Second // without a beat for longer there is no bot
)

// bots is the bucket, as a bot or an enforcer of this name sees it.
type bots struct {
	bucket *kv.Bucket
	book   *approval.Book
	key    string
	text   func(string) string // masks what a service said
	now    func() time.Time
	log    *slog.Logger

	mu      sync.Mutex
	began   time.Time            // when an enforcer began to listen for them
	heard   map[string]heard     // by key
	unasked map[string]string    // by approval: why it could not be asked
	told    map[[2]string]string // by approval and set: what a bot wrote into the approval
}

type heard struct {
	rev     uint64
	at      time.Time // by our clock
	problem string
}

func (a *approvals) bots(ctx context.Context, c config, m *mask.Mask) (*bots, error) {
	bucket, err := a.store.Bucket(ctx, "bots")
	if err != nil {
		return nil, err
	}
	text := func(s string) string {
		s, _ = m.Text(s)
		return s
	}
	return &bots{bucket: bucket, book: a.book, key: "bot." + c.ID, text: text, now: time.Now, log: a.log, began: time.Now(),
		heard: map[string]heard{}, unasked: map[string]string{}, told: map[[2]string]string{}}, nil
}

// tell says, until ctx ends, that this bot is alive, whether it can ask
// anybody, and which cards it could not post. At its end it is gone at once.
func (b *bots) tell(ctx context.Context, c *chat) error {
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for {
		problem := ""
		if err := c.cardError(""); err != nil {
			problem = b.text(err.Error())
		}
		if err := b.write(ctx, problem); err != nil && ctx.Err() == nil {
			b.log.Warn("the enforcers cannot be told that this bot is alive; trying again", "err", err)
		}
		if c.bot != nil {
			b.tellCards(ctx, c.bot.CardErrors())
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			if err := b.bucket.Delete(bye, b.key, 0); err != nil {
				b.log.Warn("the enforcers cannot be told that this bot stops; they will notice", "err", err)
			}
			return nil
		}
	}
}

func (b *bots) write(ctx context.Context, problem string) error {
	value, err := json.Marshal(map[string]string{"problem": problem})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, beat)
	defer cancel()
	for {
		_, rev, err := b.bucket.Get(ctx, b.key)
		switch {
		case errors.Is(err, kv.ErrNotFound):
			_, err = b.bucket.Create(ctx, b.key, value)
		case err == nil:
			_, err = b.bucket.Update(ctx, b.key, value, rev)
		}
		if !errors.Is(err, kv.ErrExists) && !errors.Is(err, kv.ErrConflict) {
			return err
		}
	}
}

// tellCards writes into the approvals what stopped their cards, and takes it
// back once a card is there.
func (b *bots) tellCards(ctx context.Context, now map[string]map[string]error) {
	news := map[[2]string]string{}
	for id, sets := range now {
		for set, err := range sets {
			news[[2]string{id, set}] = b.text(err.Error())
		}
	}
	for at := range b.told {
		if news[at] == "" {
			news[at] = ""
		}
	}
	for at, why := range news {
		if b.told[at] == why {
			continue
		}
		err := b.book.Unasked(ctx, at[0], at[1], why)
		if err != nil && !errors.Is(err, approval.ErrUnknown) {
			if ctx.Err() == nil {
				b.log.Warn("an approval cannot be told why it could not be asked; trying again", "approval", at[0], "set", at[1], "err", err)
			}
			continue
		}
		if b.told[at] = why; why == "" {
			delete(b.told, at)
		}
	}
}

// follow listens for bots, and for what stopped their cards, until ctx ends.
func (b *bots) follow(ctx context.Context) error {
	changes, err := b.book.Watch(ctx)
	if err != nil {
		return fmt.Errorf("watching the approvals: %w", err)
	}
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for {
		select {
		case a, ok := <-changes:
			if !ok {
				return nil
			}
			b.note(a)
		case <-tick.C:
			if err := b.listen(ctx); err != nil && ctx.Err() == nil {
				b.log.Warn("it cannot be known whether a bot is alive; trying again", "err", err)
			}
		}
	}
}

// note keeps why an approval that waits could not be asked.
func (b *bots) note(a approval.Approval) {
	var why []string
	if a.State == approval.Pending {
		for _, ask := range a.Asks {
			if card, _ := a.Card(ask.Approvers); card.TS == "" && a.Unasked[ask.Approvers] != "" {
				why = append(why, a.Unasked[ask.Approvers])
			}
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.unasked[a.ID] = strings.Join(why, "; "); len(why) == 0 {
		delete(b.unasked, a.ID)
	}
}

func (b *bots) listen(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, beat)
	defer cancel()
	keys, err := b.bucket.Keys(ctx, "bot.")
	if err != nil {
		return err
	}
	now := map[string]heard{}
	for _, key := range keys {
		value, rev, err := b.bucket.Get(ctx, key)
		if errors.Is(err, kv.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		var said struct{ Problem string }
		if err := json.Unmarshal(value, &said); err != nil {
			said.Problem = "bot " + strings.TrimPrefix(key, "bot.") + " cannot be understood: another version?"
		}
		now[key] = heard{rev, b.now(), said.Problem}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for key, h := range now {
		if was, ok := b.heard[key]; ok && was.rev == h.rev {
			h.at = was.at
			now[key] = h
		}
	}
	b.heard = now
	return nil
}

// cardError says why nobody could be asked about an approval, or nobody can be
// asked at all.
func (b *bots) cardError(id string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if why := b.unasked[id]; why != "" {
		return errors.New(why)
	}
	now := b.now()
	problem := "no bot is alive (countersign bot)"
	for _, h := range b.heard {
		if now.Sub(h.at) > silence {
			continue
		}
		if h.problem == "" {
			return nil
		}
		problem = h.problem
	}
	if now.Sub(b.began) < silence {
		return nil // not known yet
	}
	return fmt.Errorf("nobody can be asked in Slack right now: %s", problem)
}
