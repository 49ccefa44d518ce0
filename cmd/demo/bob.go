package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"countersign/audit"
	"countersign/fixtures/slack"
	"countersign/fixtures/stage"
)

// vote names who decided an approval, from the record.
func (t *teller) vote(approval string) (string, error) {
	e, err := t.journal.find(func(e audit.Entry) bool {
		return e.Kind == audit.KindApproval && e.Approval == approval && (e.Status == "approved" || e.Status == "denied")
	})
	if err != nil {
		return "", err
	}
	var a struct{ Votes []struct{ Person string } }
	if err := json.Unmarshal(e.Detail, &a); err != nil || len(a.Votes) == 0 {
		return "", fmt.Errorf("the record names nobody: %s", e.Detail)
	}
	return a.Votes[len(a.Votes)-1].Person, nil
}

// decide shows the card that the next call brings, and has bob, or the person
// at the page, press.
func (t *teller) decide(ctx context.Context, what, why string) <-chan error {
	seen := map[string]bool{}
	for _, c := range t.stage.Slack.Cards(stage.Channel) {
		seen[c.TS] = true
	}
	done := make(chan error, 1)
	go func() {
		wait, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		card, err := t.stage.Slack.AwaitCard(wait, stage.Channel, func(c slack.Card) bool { return !seen[c.TS] })
		if err != nil {
			done <- fmt.Errorf("no card came: %w", err)
			return
		}
		t.out.detail("%s", strings.TrimRight(slack.Render(card, min(t.out.width-10, 78)), "\n"))
		if t.pressing {
			t.page.forget()
			t.out.detail("%s", t.out.paint(bold, "your turn: "+t.page.url+"  (the story wants you to "+what+")"))
			done <- t.page.pressed(ctx)
			return
		}
		select { // bob reads before he presses
		case <-time.After(1200 * time.Millisecond):
			done <- bobPresses(ctx, t.stage, card, what, why)
		case <-ctx.Done():
			done <- ctx.Err()
		}
	}()
	return done
}

// bobPresses is the approver on loopback: real, signed interactions.
func bobPresses(ctx context.Context, s *stage.Stage, card slack.Card, what, why string) error {
	for _, b := range card.Buttons() {
		if !strings.Contains(b.ActionID, what) {
			continue
		}
		if err := s.Slack.Press(ctx, card, b.ActionID, stage.SlackBob); err != nil || what != "deny" {
			return err
		}
		return giveReason(ctx, s, why)
	}
	return fmt.Errorf("the card has no %s button", what)
}

// giveReason fills in the modal that Deny opened for bob.
func giveReason(ctx context.Context, s *stage.Stage, why string) error {
	wait, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	open := func() (slack.View, bool) {
		views := s.Slack.Views(stage.SlackBob)
		if len(views) == 0 || views[len(views)-1].Closed {
			return slack.View{}, false
		}
		return views[len(views)-1], true
	}
	if err := s.Slack.Await(wait, func() bool { _, ok := open(); return ok }); err != nil {
		return err
	}
	v, _ := open()
	return s.Slack.SubmitModal(ctx, v, stage.SlackBob, map[string]string{"countersign_reason": why})
}
