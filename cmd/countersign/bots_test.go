package main

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"countersign/enforcer/approval"
	"countersign/enforcer/kv"
	"countersign/enforcer/mask"
	"countersign/rules"
)

// What an enforcer knows of bots that are processes of their own.
func TestWhetherAnybodyCanBeAsked(t *testing.T) {
	t.Parallel()
	store, err := kv.OpenEmbedded(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	bucket, err := store.Bucket(t.Context(), "approvals")
	if err != nil {
		t.Fatal(err)
	}
	book := approval.New(approval.Config{Bucket: bucket, Now: time.Now, Record: func(context.Context, approval.Approval, string) error { return nil }})
	both := &approvals{store: store, book: book, log: slog.New(slog.DiscardHandler)}
	open := func(id string) *bots {
		t.Helper()
		b, err := both.bots(t.Context(), config{ID: id}, mask.New(mask.Options{Now: time.Now, MaxMessage: maxMessage}))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	gate, bot := open("prod-1"), open("bot-1")
	now := gate.began
	gate.now = func() time.Time { return now }
	says := func(want string) {
		t.Helper()
		if err := gate.listen(t.Context()); err != nil {
			t.Fatal(err)
		}
		err := gate.cardError("ap_1")
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	write := func(problem string) {
		t.Helper()
		if err := bot.write(t.Context(), problem); err != nil {
			t.Fatal(err)
		}
	}
	says("") // not known yet
	now = now.Add(silence)
	says("nobody can be asked in Slack right now: no bot is alive")
	write("")
	says("")
	now = now.Add(silence)
	says("") // to the second
	now = now.Add(time.Second)
	says("no bot is alive") // its key is there, and has not changed
	write("Slack refuses the token")
	says("Slack refuses the token")
	write("")
	says("")
	if _, err := gate.bucket.Create(t.Context(), "bot.new", []byte("\x00")); err != nil {
		t.Fatal(err)
	}
	says("") // one that can be understood is enough
	if err := bot.bucket.Delete(t.Context(), bot.key, 0); err != nil {
		t.Fatal(err)
	}
	says("bot new cannot be understood")

	// What stopped one card.
	write("")
	says("")
	a, _, err := book.Ask(t.Context(), approval.Request{
		Subject: rules.Subject{Issuer: "https://id.example.com", Sub: "alice"}, Client: "ide", Server: "probe", Method: "tools/call", Tool: "risky",
		Holder: "h", Digest: "d", Args: "what: x", Asks: []rules.Ask{{Rule: "r", Approvers: "dba", Quorum: 1}}, RulesDigest: "rd", Policy: "p", Expires: time.Now().Add(time.Hour), Call: "c_1",
	})
	if err != nil {
		t.Fatal(err)
	}
	card := func(errs map[string]map[string]error) error {
		t.Helper()
		bot.tellCards(t.Context(), errs)
		a, err := book.Get(t.Context(), a.ID)
		if err != nil {
			t.Fatal(err)
		}
		gate.note(a)
		return gate.cardError(a.ID)
	}
	closed := map[string]map[string]error{a.ID: {"dba": errors.New("channel_not_found")}, "ap_gone": {"dba": errors.New("x")}}
	if err := card(closed); err == nil || !strings.Contains(err.Error(), "channel_not_found") {
		t.Errorf("a card that Slack refuses: %v", err)
	}
	before, err := book.Get(t.Context(), a.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := card(closed); err == nil {
		t.Error("the refusal is forgotten")
	}
	if again, err := book.Get(t.Context(), a.ID); err != nil || again.Rev != before.Rev {
		t.Errorf("said twice: revision %d, then %d, %v", before.Rev, again.Rev, err)
	}
	if err := card(nil); err != nil {
		t.Errorf("the card is there, and yet: %v", err)
	}
	// A bot that died with the refusal unrevoked, and another that posted the card.
	if err := card(closed); err == nil {
		t.Error("refused again, and not said")
	}
	if a, err = book.SetCard(t.Context(), a.ID, approval.Card{Set: "dba", Channel: "C0", TS: "1.0"}); err != nil {
		t.Fatal(err)
	}
	if gate.note(a); gate.cardError(a.ID) != nil {
		t.Error("a card that is there counts as refused")
	}
}
