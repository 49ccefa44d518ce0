package main

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"countersign/fixtures/issuer"
	"countersign/fixtures/peer"
	"countersign/fixtures/port"
	"countersign/fixtures/slack"
	"countersign/fixtures/stage"
)

// socketMode is the environment of an enforcer that Slack cannot reach.
func socketMode(s *stage.Stage) map[string]string {
	return map[string]string{"SLACK_APP_TOKEN": s.Slack.AppToken(), "SLACK_SIGNING_SECRET_FILE": ""}
}

// connected waits for the program's websocket.
func connected(t *testing.T, s *stage.Stage) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.Slack.Await(ctx, func() bool { return s.Slack.Sockets() > 0 }); err != nil {
		t.Fatalf("no connection in Socket Mode: %v", err)
	}
}

func TestApprovalsOverSocketMode(t *testing.T) {
	s := newStage(t)
	s.Slack.DeliverTo("") // over the websocket
	p := serving(t, s, socketMode(s))
	connected(t, s)
	c := p.client("customers", p.token("alice", "support"))

	approve := func(t *testing.T, sql string) {
		t.Helper()
		pressed := press(t, s, func(card slack.Card) error {
			return s.Slack.Press(t.Context(), card, button(t, card, "approve"), stage.SlackBob)
		})
		text, isErr := call(t, c, "execute", sql)
		if err := <-pressed; err != nil {
			t.Fatal(err)
		}
		if isErr {
			t.Errorf("approved, and yet: %s", text)
		}
	}
	approve(t, "UPDATE customers SET plan = 'pro' WHERE id = 7")
	t.Run("denied, with the reason typed into the modal", func(t *testing.T) {
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
			t.Errorf("error=%v %s", isErr, text)
		}
		if s.Customers.Calls() != before {
			t.Error("the upstream was called")
		}
	})
	t.Run("Slack asks for a new connection, and approvals go on", func(t *testing.T) {
		if err := s.Slack.Refresh(); err != nil {
			t.Fatal(err)
		}
		connected(t, s)
		approve(t, "UPDATE customers SET plan = 'pro' WHERE id = 9")
	})
	t.Run("nothing is served for HTTP mode", func(t *testing.T) {
		resp, err := http.Post(s.URL+"/slack/interactions", "application/x-www-form-urlencoded", strings.NewReader("payload=%7B%7D"))
		if err != nil {
			t.Fatal(err)
		}
		if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s %v", resp.Status, err)
		}
	})
	p.stop()
}

// watched is a client whose answers to tools/call are noticed when they begin: the stream of a call
// that waits for a person begins at once.
func watched(t *testing.T, p *program, token string) (*mcp.ClientSession, <-chan struct{}) {
	t.Helper()
	w := &watcher{next: bearer(token), begun: make(chan struct{}, 100)}
	c, err := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, nil).Connect(t.Context(), &mcp.StreamableClientTransport{
		Endpoint: p.stage.URL + "/mcp/customers", HTTPClient: &http.Client{Transport: w}, MaxRetries: -1,
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() }) // the program may have been killed under it
	return c, w.begun
}

type watcher struct {
	next  http.RoundTripper
	begun chan struct{}
}

func (w *watcher) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := w.next.RoundTrip(r)
	if err == nil && r.Header.Get("Mcp-Method") == "tools/call" {
		w.begun <- struct{}{}
	}
	return resp, err
}

// Two enforcers on two state directories, one NATS server between them: what one asks for the
// other knows, and what is approved once runs once.
func TestTwoEnforcersShareApprovals(t *testing.T) {
	s, nats := newStage(t), peer.StartNATS(t)
	shared := map[string]string{"COUNTERSIGN_NATS_URL": nats.URL, "COUNTERSIGN_OIDC_AUDIENCE": "https://gate.example.test"}
	a := serving(t, s, shared)
	other := *s // the same world, seen from another machine
	var err error
	if other.Listen, err = port.Address(); err != nil {
		t.Fatal(err)
	}
	other.URL = "http://" + other.Listen
	env := map[string]string{"COUNTERSIGN_ID": "second", "COUNTERSIGN_STATE_DIR": s.Path("second-state")}
	for k, v := range shared {
		env[k] = v
	}
	b := serving(t, &other, env)

	token, err := s.Token("alice", []string{"support"}, issuer.Claims{"aud": shared["COUNTERSIGN_OIDC_AUDIENCE"]})
	if err != nil {
		t.Fatal(err)
	}
	var clients []*mcp.ClientSession
	var streams []<-chan struct{}
	for _, p := range []*program{a, b} {
		c, begun := watched(t, p, token)
		clients, streams = append(clients, c), append(streams, begun)
	}

	t.Run("one approval, asked of both at once, runs once", func(t *testing.T) {
		const change = "UPDATE customers SET plan = 'pro' WHERE id = 7"
		before, cards := s.Customers.Calls(), len(s.Slack.Cards(stage.Channel))
		type answer struct {
			text  string
			isErr bool
		}
		answers := make([]answer, len(clients))
		var calls sync.WaitGroup
		for i, c := range clients {
			calls.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				res, err := c.CallTool(ctx, &mcp.CallToolParams{Name: "execute", Arguments: map[string]any{"sql": change}})
				if err != nil {
					t.Errorf("client %d: %v", i, err)
					return
				}
				text, err := json.Marshal(res.Content)
				if err != nil {
					t.Errorf("client %d: %v", i, err)
				}
				answers[i] = answer{string(text), res.IsError}
			})
		}
		for _, begun := range streams { // both wait before anybody presses
			select {
			case <-begun:
			case <-time.After(patience):
				t.Fatal("a call does not wait")
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		card, err := s.Slack.AwaitCard(ctx, stage.Channel, func(c slack.Card) bool { return len(c.Buttons()) > 0 })
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Slack.Press(t.Context(), card, button(t, card, "approve"), stage.SlackBob); err != nil {
			t.Fatal(err)
		}
		calls.Wait()
		if n := s.Customers.Calls() - before; n != 1 {
			t.Errorf("ran %d times: %+v", n, answers)
		}
		if answers[0].isErr == answers[1].isErr {
			t.Errorf("want one result and one refusal: %+v", answers)
		}
		for _, got := range answers {
			if got.isErr && !strings.Contains(got.text, "used") {
				t.Errorf("the refusal does not say why: %s", got.text)
			}
		}
		if n := len(s.Slack.Cards(stage.Channel)) - cards; n != 1 {
			t.Errorf("cards: %d", n)
		}
	})
	t.Run("what is frozen at the one is frozen at the other", func(t *testing.T) {
		list := `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`
		id := a.freeze("--all", "--reason", "both")
		b.in(t).await("the freeze at the other", func() bool { return strings.Contains(b.ask("customers", token, list).text, "both ("+id+")") })
		if out, errs, code := command(t, []string{"COUNTERSIGN_STATE_DIR=" + s.Path("second-state")}, "unfreeze", id); code != 0 {
			t.Errorf("exit %d %s%s", code, out, errs)
		}
		a.in(t).await("the thaw at the one", func() bool { return !strings.Contains(a.ask("customers", token, list).text, "frozen by ") })
	})
	t.Run("the one dies, the other takes the vote", func(t *testing.T) {
		a.kill()
		s.Slack.DeliverTo(other.URL + "/slack/interactions")
		pressed := press(t, s, func(card slack.Card) error {
			return s.Slack.Press(t.Context(), card, button(t, card, "approve"), stage.SlackBob)
		})
		text, isErr := call(t, clients[1], "execute", "UPDATE customers SET plan = 'pro' WHERE id = 8")
		if err := <-pressed; err != nil {
			t.Fatal(err)
		}
		if isErr {
			t.Errorf("%s", text)
		}
	})
	b.stop()
}

func TestNATSAwayAtTheStart(t *testing.T) {
	s := newStage(t)
	gone, err := port.Address()
	if err != nil {
		t.Fatal(err)
	}
	p := starting(t, s, map[string]string{"COUNTERSIGN_NATS_URL": "nats://" + gone})
	select {
	case <-p.done:
	case <-time.After(patience):
		t.Fatal("it goes on")
	}
	if p.err == nil || !strings.Contains(p.log.String(), "NATS") {
		t.Errorf("%v\n%s", p.err, p.log)
	}
}
