package bot_test

import (
	"testing"
	"time"

	"countersign/enforcer/approval"
	"countersign/fixtures/slack"
)

// With the scopes of the manifests, no call of a whole life is refused for want
// of one, in a private channel as in a public one; without the history's, a card
// whose coordinates were lost is posted again, and that is all.
func TestScopesAreEnough(t *testing.T) {
	for name, test := range map[string]struct {
		scopes  []string
		private bool
		cards   int
	}{
		"public":     {[]string{"chat:write", "commands", "channels:history", "groups:history"}, false, 1},
		"private":    {[]string{"chat:write", "commands", "channels:history", "groups:history"}, true, 1},
		"no history": {[]string{"chat:write", "commands"}, false, 2},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			s, err := slack.New(slack.Options{Now: w.clock.Now, Patience: time.Minute, Scopes: test.scopes,
				Channels: []slack.Channel{{ID: channel, Name: "db-approvals", Private: test.private}},
				Users:    []slack.User{{ID: "U0BOB", Name: "bob"}, {ID: "U0EVE", Name: "eve"}}})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			})
			w.slack = s
			s.Lose("chat.postMessage")
			w.start(often)
			a := w.ask(w.request("sql: 1"))
			w.awaitState(a.ID, func(a approval.Approval) bool { c, ok := a.Card("dba"); return ok && c.TS != "" })
			c := w.card(a.ID, "needs 1")
			w.press(c, deny, "U0EVE")
			w.told("U0EVE", "not linked")
			w.clock.pass(6*time.Hour + time.Minute)
			w.await("a reminder", func() bool { return len(s.Cards(channel)) == test.cards+1 })
			for _, c := range s.Calls() {
				if c.Error == "missing_scope" && test.cards == 1 {
					t.Errorf("%s wants a scope that the manifests do not ask for", c.Method)
				}
			}
		})
	}
}
