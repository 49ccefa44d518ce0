package main

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"countersign/audit"
	"countersign/fixtures/peer"
	"countersign/fixtures/stage"
)

// The official SDKs' clients, each on the rungs that it knows, while a person is asked.
func TestRealClientsWaitForAPerson(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	commit(t, s, "A server whose work needs a DBA", map[string]string{
		"countersign.yaml":      "version: 1\napprovals: { hold: 200ms }\n",
		"servers/workshop.yaml": "server: workshop\nurl: " + workshop(t) + "\n",
		"rules/workshop.yaml":   "- { id: work, server: workshop, tool: work, effect: approve, reason: Work needs a DBA, approval: { approvers: dba } }\n",
		"rules/customers.yaml":  "- { id: none, server: customers, tool: none, effect: deny, reason: None }\n",
		"tests/customers.yaml":  "[]\n",
	})
	p := serving(t, s, nil)
	alice := p.token("alice", "support")

	pending := func() int {
		return len(p.entries(func(en audit.Entry) bool { return en.Status == "pending" }))
	}
	// granted has bob approve what shows arg, once so many answers said that it is pending.
	granted := func(t *testing.T, arg string, after int) {
		t.Helper()
		card := awaitCard(t, s, "steps: "+arg)
		p.in(t).await("the answers that it is pending", func() bool { return pending() >= after })
		if err := approve(t, s, card, stage.SlackBob); err != nil {
			t.Fatal(err)
		}
	}
	going := func(run func() []peer.Line) <-chan []peer.Line {
		done := make(chan []peer.Line, 1)
		go func() { done <- run() }()
		return done
	}

	t.Run("TypeScript 2.x waits on with a requestState", func(t *testing.T) {
		before := pending()
		lines := going(func() []peer.Line {
			return peer.Client2(t, s.URL+"/mcp/workshop", alice, "call", "work", `{"steps":21}`)
		})
		granted(t, "21", before+1)
		if got := <-lines; len(got) != 2 || got[1].Error != nil || !strings.Contains(said(got[1]), "worked") {
			t.Errorf("%+v", got)
		}
	})
	t.Run("TypeScript 2.x at the endpoint for all servers", func(t *testing.T) {
		before := pending()
		lines := going(func() []peer.Line {
			return peer.Client2(t, s.URL+"/mcp", alice, "call", "workshop__work", `{"steps":22}`)
		})
		granted(t, "22", before+1)
		if got := <-lines; len(got) != 2 || got[1].Error != nil || !strings.Contains(said(got[1]), "worked") {
			t.Errorf("%+v", got)
		}
	})
	t.Run("TypeScript 1.x repeats its call", func(t *testing.T) {
		before := pending()
		lines := peer.Client1(t, s.URL+"/mcp/workshop", alice, "call", "work", `{"steps":11}`)
		if len(lines) != 2 || !strings.Contains(said(lines[1]), "approval pending") || !strings.Contains(said(lines[1]), s.URL+"/approvals/ap_") {
			t.Fatalf("%+v", lines)
		}
		granted(t, "11", before+1)
		p.in(t).awaitEvent("work", "approved")
		lines = peer.Client1(t, s.URL+"/mcp/workshop", alice, "call", "work", `{"steps":11}`)
		if len(lines) != 2 || !strings.Contains(said(lines[1]), "worked") {
			t.Errorf("%+v", lines)
		}
	})
	t.Run("TypeScript 1.x follows a task", func(t *testing.T) {
		before := pending()
		lines := going(func() []peer.Line {
			return peer.Client1(t, s.URL+"/mcp", alice, "task", "workshop__work", `{"steps":12}`)
		})
		granted(t, "12", before+1)
		got := <-lines
		if len(got) != 2 || got[1].Error != nil || !strings.Contains(said(got[1]), "worked") || !slices.Contains(got[1].States, "working") {
			t.Errorf("%+v", got)
		}
	})
	for _, version := range []string{"2026-07-28", "2025-11-25"} {
		t.Run("Go of "+version+" is told, and repeats its call", func(t *testing.T) {
			p := p.in(t)
			c := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, nil)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			session, err := c.Connect(ctx, &mcp.StreamableClientTransport{
				Endpoint: s.URL + "/mcp/workshop", HTTPClient: &http.Client{Transport: bearer(alice)}, MaxRetries: -1,
			}, &mcp.ClientSessionOptions{ProtocolVersion: version})
			if err != nil {
				t.Fatal(err)
			}
			defer session.Close()
			steps := map[string]int{"2026-07-28": 31, "2025-11-25": 32}[version]
			call := func() string {
				res, err := session.CallTool(ctx, &mcp.CallToolParams{Name: "work", Arguments: map[string]any{"steps": steps}})
				if err != nil {
					t.Fatalf("the client gave up: %v", err) // one ticket too many, say
				}
				return res.Content[0].(*mcp.TextContent).Text
			}
			approved := p.happened("work", "approved")
			if got := call(); !strings.Contains(got, "approval pending") {
				t.Fatalf("got %s", got)
			}
			granted(t, map[int]string{31: "31", 32: "32"}[steps], 0)
			p.await("the approval", func() bool { return p.happened("work", "approved") == approved+1 })
			if got := call(); got != "worked" {
				t.Errorf("got %s", got)
			}
		})
	}
	p.stop()
	if n := p.happened("work", "spent"); n != 6 || p.happened("work", "asked") != 6 {
		t.Errorf("asked %d, spent %d", p.happened("work", "asked"), n)
	}
	verified(t, s)
}
