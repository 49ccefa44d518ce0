package main

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"countersign/fixtures/slack"
	"countersign/fixtures/stage"
)

// One agent's calls, the whole way, against the built program.
func TestOneCallTheWholeWay(t *testing.T) {
	s := newStage(t)
	p := serving(t, s, nil)
	c := p.client("customers", p.token("alice", "support"))

	t.Run("a read comes back with its secrets masked", func(t *testing.T) {
		text, isErr := call(t, c, "query", "SELECT name, plan, api_key FROM customers LIMIT 3")
		if isErr || !strings.Contains(text, "[masked: ") {
			t.Fatalf("want masked rows, got error=%v %s", isErr, text)
		}
		secrets, err := s.Customers.Secrets(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range secrets {
			if strings.Contains(text, secret) {
				t.Errorf("a secret came through: %s", text)
			}
		}
	})
	t.Run("a forbidden table is refused before the upstream hears of it", func(t *testing.T) {
		before := s.Customers.Calls()
		text, isErr := call(t, c, "query", "SELECT * FROM staff")
		if !isErr || !strings.Contains(text, "These tables hold password hashes") {
			t.Errorf("got error=%v %s", isErr, text)
		}
		if s.Customers.Calls() != before {
			t.Error("the upstream was called")
		}
	})
	t.Run("the read-only escape is refused", func(t *testing.T) {
		text, isErr := call(t, c, "query", "COMMIT; CREATE TABLE evil(a int)")
		if !isErr || !strings.Contains(text, "one statement at a time") {
			t.Errorf("got error=%v %s", isErr, text)
		}
		tables, err := s.Customers.Tables(t.Context())
		if err != nil || strings.Contains(strings.Join(tables, " "), "evil") {
			t.Errorf("tables: %v %v", tables, err)
		}
	})
	t.Run("a write runs once bob has approved it", func(t *testing.T) {
		pressed := press(t, s, func(card slack.Card) error {
			return s.Slack.Press(t.Context(), card, button(t, card, "approve"), stage.SlackBob)
		})
		text, isErr := call(t, c, "execute", "UPDATE customers SET plan = 'pro' WHERE id = 7")
		if err := <-pressed; err != nil {
			t.Fatal(err)
		}
		if isErr {
			t.Errorf("got %s", text)
		}
	})
	t.Run("a write that bob denies is refused with his reason", func(t *testing.T) {
		before := s.Customers.Calls()
		pressed := press(t, s, func(card slack.Card) error {
			if err := s.Slack.Press(t.Context(), card, button(t, card, "deny"), stage.SlackBob); err != nil {
				return err
			}
			return deny(t.Context(), s, "Ask billing first")
		})
		text, isErr := call(t, c, "execute", "DELETE FROM customers WHERE id = 8")
		if err := <-pressed; err != nil {
			t.Fatal(err)
		}
		if !isErr || !strings.Contains(text, "Ask billing first") {
			t.Errorf("got error=%v %s", isErr, text)
		}
		if s.Customers.Calls() != before {
			t.Error("the upstream was called")
		}
	})
	t.Run("a token for another service is refused", func(t *testing.T) {
		tok, err := s.Token("alice", []string{"support"}, map[string]any{"aud": "https://elsewhere.example"})
		if err != nil {
			t.Fatal(err)
		}
		status, header, _ := p.post("customers", tok, `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`, nil)
		if status != http.StatusUnauthorized || !strings.Contains(header.Get("WWW-Authenticate"), "resource_metadata=") {
			t.Errorf("got %d %v", status, header)
		}
	})
	p.stop()
	if left := s.Vault.Leases(); len(left) != 0 {
		t.Errorf("leases left: %v", left)
	}
	t.Run("the record proves itself", func(t *testing.T) {
		out, errs, code := command(t, nil, "audit", "verify", "--repo", s.Audit,
			"--commit-signers", s.Path("audit_signers"), "--checkpoint-key", s.Path("checkpoint.pub"))
		if code != 0 {
			t.Fatalf("exit %d\n%s%s", code, out, errs)
		}
		t.Log(out)
	})
	t.Run("and says what was masked", func(t *testing.T) {
		out, errs, code := command(t, nil, "audit", "masks", "--repo", s.Audit, "--server", "customers", "--tool", "query", "--since", "2020-01-01T00:00:00Z")
		if code != 0 || !strings.Contains(out, "result.content[*].text") || !strings.Contains(out, "customers") {
			t.Errorf("exit %d\n%s%s", code, out, errs)
		}
		out, errs, code = command(t, nil, "audit", "masks", "--repo", s.Audit, "--until", "2020-01-01T00:00:00Z", "--json")
		if code != 0 || out != "" {
			t.Errorf("exit %d\n%s%s", code, out, errs)
		}
	})
	t.Run("and holds every call, and no secret", func(t *testing.T) {
		secrets, err := s.Customers.Secrets(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		kinds := map[string]int{}
		for _, en := range recorded(t, s) {
			kinds[en["kind"].(string)]++
		}
		for _, kind := range []string{"start", "policy", "intent", "outcome", "refused", "approval", "credential", "auth-failed", "stop"} {
			if kinds[kind] == 0 {
				t.Errorf("no entry of kind %s: %v", kind, kinds)
			}
		}
		all := git(t, s.Audit, "log", "-p", "--all") + p.log.String()
		for _, secret := range append(secrets, s.Slack.Token(), s.Slack.Secret()) {
			if strings.Contains(all, secret) {
				t.Errorf("the record or the log holds %.8s…", secret)
			}
		}
	})
}

// press waits for the next card that can be decided and hands it to do.
func press(t *testing.T, s *stage.Stage, do func(slack.Card) error) <-chan error {
	t.Helper()
	seen := map[string]bool{}
	for _, c := range s.Slack.Cards(stage.Channel) {
		seen[c.TS] = true
	}
	done := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		card, err := s.Slack.AwaitCard(ctx, stage.Channel, func(c slack.Card) bool { return !seen[c.TS] })
		if err == nil {
			err = do(card)
		}
		done <- err
	}()
	return done
}

// button is the action of a card whose id says what it does.
func button(t *testing.T, card slack.Card, what string) string {
	t.Helper()
	for _, b := range card.Buttons() {
		if strings.Contains(b.ActionID, what) {
			return b.ActionID
		}
	}
	t.Errorf("the card has no %s button: %+v", what, card.Buttons())
	return ""
}

// deny fills in the modal that a press of Deny opens.
func deny(ctx context.Context, s *stage.Stage, reason string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := s.Slack.Await(ctx, func() bool { return len(s.Slack.Views(stage.SlackBob)) > 0 }); err != nil {
		return err
	}
	views := s.Slack.Views(stage.SlackBob)
	return s.Slack.SubmitModal(ctx, views[len(views)-1], stage.SlackBob, map[string]string{"countersign_reason": reason})
}
