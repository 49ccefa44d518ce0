package main

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"countersign/audit"
	"countersign/fixtures/stage"
)

// The caller leaves while its approved call runs. Its next identical call gets
// what the first came to, and nothing runs for it; the one after that is a new
// request.
func TestTheAnswerOfACallerWhoLeft(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "5m")
	p := serving(t, s, nil)
	alice := p.token("alice", "support")
	arrived, release := make(chan string, 1), make(chan struct{})
	u.answerWith(func(_ http.ResponseWriter, r *http.Request, _ json.RawMessage, _, tool string) bool {
		if tool == "risky" {
			arrived <- tool
			select {
			case <-release:
			case <-r.Context().Done(): // the test has failed
			}
		}
		return false
	})
	ctx, leave := context.WithCancel(t.Context())
	waiting := p.asking(ctx, "probe", alice, toolCall("risky", "late"))
	if err := approve(t, s, awaitCard(t, s, "late"), stage.SlackBob); err != nil {
		t.Fatal(err)
	}
	within(t, arrived, "the call at the server")
	leave()
	<-waiting
	// A write into a connection that its client has just closed succeeds: the
	// answer must not come before the enforcer has noticed.
	p.await("the client's leaving", func() bool { return strings.Contains(p.log.String(), "has left; its answer will be kept") })
	close(release)
	p.await("the call's end", func() bool { return p.happened("risky", "finished") == 1 })
	again := strings.Replace(toolCall("risky", "late"), `"id":1`, `"id":77`, 1)
	a := p.ask("probe", alice, again)
	if a.failed || a.text != "ran risky" || u.ran("risky") != 1 {
		t.Errorf("got %+v, and it ran %d times", a, u.ran("risky"))
	}
	late := p.entries(func(en audit.Entry) bool {
		return en.Kind == audit.KindOutcome && strings.Contains(en.Reason, "whose client had left")
	})
	if len(late) != 1 {
		t.Errorf("the record has %d entries of it", len(late))
	}
	// Somebody else's identical call, and one more of alice's, ask anew.
	third, done := context.WithCancel(t.Context())
	defer done()
	asked := p.happened("risky", "asked")
	next := p.asking(third, "probe", alice, toolCall("risky", "late"))
	p.await("a new question", func() bool { return p.happened("risky", "asked") == asked+1 })
	done()
	<-next
	if u.ran("risky") != 1 {
		t.Errorf("it ran %d times", u.ran("risky"))
	}
}
