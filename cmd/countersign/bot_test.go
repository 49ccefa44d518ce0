package main

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"countersign/audit"
	"countersign/fixtures/issuer"
	"countersign/fixtures/peer"
	"countersign/fixtures/port"
	"countersign/fixtures/slack"
	"countersign/fixtures/stage"
)

// elsewhere is the stage as a process on another machine sees it, under another name.
func elsewhere(t *testing.T, s *stage.Stage, name string, shared map[string]string) (*stage.Stage, map[string]string) {
	t.Helper()
	other := *s
	var err error
	if other.Listen, err = port.Address(); err != nil {
		t.Fatal(err)
	}
	other.URL = "http://" + other.Listen
	env := map[string]string{"COUNTERSIGN_ID": name, "COUNTERSIGN_STATE_DIR": s.Path(name)}
	maps.Copy(env, shared)
	return &other, env
}

// everywhere is a Slack that delivers each interaction to all of them, as one does that is
// behind a balancer which repeats what it got no answer to.
func everywhere(t *testing.T, bots ...*program) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		for _, b := range bots {
			req, err := http.NewRequestWithContext(r.Context(), http.MethodPost, b.stage.URL+"/slack/interactions", bytes.NewReader(body))
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			req.Header = r.Header.Clone()
			resp, err := http.DefaultClient.Do(req)
			if err == nil {
				err = resp.Body.Close()
			}
			if err != nil || resp.StatusCode != http.StatusOK {
				http.Error(w, fmt.Sprintf("%v %v", resp, err), http.StatusBadGateway)
				return
			}
		}
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// Two enforcers that ask nobody themselves, and bots beside them, over a real NATS: whichever bot
// takes the press, the caller wakes wherever it waits; and a request has one card, and one outcome.
func TestBotsBesideEnforcers(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "5m")
	nats := peer.StartNATS(t)
	shared := map[string]string{"COUNTERSIGN_NATS_URL": nats.URL, "COUNTERSIGN_OIDC_AUDIENCE": "https://gate.example.test", "COUNTERSIGN_BOT": "off"}
	a := starting(t, s, shared)
	second, env := elsewhere(t, s, "second", shared)
	b := starting(t, second, env)
	begin := func(name string) *program {
		there, env := elsewhere(t, s, name, shared)
		return running(t, there, "bot", env)
	}
	one, two := begin("bot-1"), begin("bot-2")
	for _, p := range []*program{a, b, one, two} {
		p.await("ready", func() bool { return p.readiness().Ready })
	}
	// What it must not be: a second enforcer.
	if status, _ := one.get("/mcp/probe"); status != http.StatusNotFound {
		t.Errorf("a bot answers MCP: %d", status)
	}
	alice, err := s.Token("alice", []string{"support"}, issuer.Claims{"aud": shared["COUNTERSIGN_OIDC_AUDIENCE"]})
	if err != nil {
		t.Fatal(err)
	}
	cards := func(arg string) (n int) {
		for _, c := range s.Slack.Cards(stage.Channel) {
			if strings.Contains(fmt.Sprintf("%s", c.Blocks), arg) {
				n++
			}
		}
		return n
	}
	ran := func(got answer, arg string, times int) {
		t.Helper()
		if got.failed || !strings.Contains(got.text, "ran risky") || u.ran("risky") != times || cards(arg) != 1 {
			t.Errorf("%s: %+v, ran %d times, %d cards", arg, got, u.ran("risky"), cards(arg))
		}
	}

	// Pressed at the one, awaited at the second enforcer.
	s.Slack.DeliverTo(one.stage.URL + "/slack/interactions")
	first := b.asking(t.Context(), "probe", alice, toolCall("risky", "first"))
	if err := approve(t, s, awaitCard(t, s, "first"), stage.SlackBob); err != nil {
		t.Fatal(err)
	}
	ran(<-first, "first", 1)

	// The same click comes to both.
	s.Slack.DeliverTo(everywhere(t, one, two))
	again := a.asking(t.Context(), "probe", alice, toolCall("risky", "second"))
	if err := approve(t, s, awaitCard(t, s, "second"), stage.SlackBob, slack.Delivery{Times: 2}); err != nil {
		t.Fatal(err)
	}
	ran(<-again, "second", 2)

	// Both die while somebody waits; one comes back and takes the press, then the other.
	waits := a.asking(t.Context(), "probe", alice, toolCall("risky", "third"))
	card := awaitCard(t, s, "third")
	one.kill()
	two.kill()
	back, env := elsewhere(t, s, "bot-1", shared)
	one = running(t, back, "bot", env)
	one.await("ready", func() bool { return one.readiness().Ready })
	s.Slack.DeliverTo(back.URL + "/slack/interactions")
	one.await("the press taken", func() bool { // until Slack has said who we are, presses are refused
		return approve(t, s, card, stage.SlackBob) == nil
	})
	ran(<-waits, "third", 3)
	two = begin("bot-2") // which publishes what it had recorded
	two.await("ready", func() bool { return two.readiness().Ready })

	for _, p := range []*program{a, b, one, two} {
		p.stop()
	}
	// Who voted stands in the bots' record, the calls in the enforcers'; all of it proves itself.
	votes := 0
	for _, en := range recorded(t, s) {
		if en["kind"] == string(audit.KindApproval) && en["status"] == "approved" {
			votes++
		}
	}
	if votes != 3 {
		t.Errorf("%d approvals in the record", votes)
	}
	// All have the same two keys: they are listed for each of them.
	for file, lines := range map[string]func(id string) string{
		"audit_signers": func(id string) string {
			return strings.Replace(s.CommitKey.AllowedSigner(""), s.CommitKey.Principal, committerEmail(id), 1)
		},
		"checkpoint.pub": func(id string) string { return id + " " + s.CheckKey.Authorized() },
	} {
		text, err := os.ReadFile(s.Path(file))
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{"second", "bot-1", "bot-2"} {
			text = append(append(bytes.TrimRight(text, "\n"), '\n'), lines(id)...)
		}
		if err := os.WriteFile(s.Path(file), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	verified(t, s)
}

func TestABotThatCannotBegin(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	for want, more := range map[string]map[string]string{
		"COUNTERSIGN_NATS_URL is missing":                                 nil,
		"SLACK_BOT_TOKEN and COUNTERSIGN_APPROVALS_CLIENT_ID are missing": {"COUNTERSIGN_NATS_URL": "nats://127.0.0.1:1", "SLACK_BOT_TOKEN_FILE": "", "SLACK_SIGNING_SECRET_FILE": ""},
		"COUNTERSIGN_BOT: off":                                            {"COUNTERSIGN_BOT": "off"},
		"want one of COUNTERSIGN_OIDC_ISSUERS":                            {"COUNTERSIGN_NATS_URL": "nats://127.0.0.1:1", "COUNTERSIGN_APPROVALS_CLIENT_ID": "votes", "COUNTERSIGN_APPROVALS_ISSUER": "https://elsewhere.example.com"},
		"want on or off":                                                  {"COUNTERSIGN_BOT": "no"},
	} {
		if _, errs, code := command(t, s.Env(more), "bot"); code != 2 || !strings.Contains(errs, want) {
			t.Errorf("want %q: exit %d, %s", want, code, errs)
		}
	}
}
