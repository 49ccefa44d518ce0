package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"countersign/audit"
	"countersign/fixtures/stage"
)

// statelessProbe has a probe speak revision 2026-07-28 alone.
func statelessProbe(u *probe, more func(r *http.Request, tool string)) {
	u.answerWith(func(w http.ResponseWriter, r *http.Request, id json.RawMessage, method, tool string) bool {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case r.Header.Get("Mcp-Protocol-Version") != "2026-07-28" || r.Header.Get("Mcp-Session-Id") != "":
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"error":{"code":-32022,"message":"Unsupported protocol version","data":{"supported":["2026-07-28"],"requested":""}}}`, id)
		case method == "server/discover":
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}}}}`, id)
		case method == "tools/list":
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"resultType":"complete","tools":[{"name":"echo","inputSchema":{"type":"object","properties":{"what":{"type":"string","x-mcp-header":"What"}}}}],"ttlMs":0,"cacheScope":"private"}}`, id)
		case method == "tools/call" && r.Header.Get("Mcp-Name") != tool:
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"error":{"code":-32020,"message":"Header mismatch"}}`, id)
		default:
			if more != nil {
				more(r, tool)
			}
			return false
		}
		return true
	})
}

// A client with sessions at a server without: an approval is the same at both
// endpoints and in both eras, a client that leaves has its answer later, and
// one that cancels ends the call, as a freeze does.
func TestSessionsMeetAStatelessServer(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "5m")
	p := serving(t, s, nil)
	alice := p.token("alice", "support")
	arrived, release, ended := make(chan string, 1), make(chan struct{}), make(chan struct{}, 1)
	statelessProbe(u, func(r *http.Request, tool string) {
		switch {
		case tool == "hasty":
			arrived <- tool
			select {
			case <-release:
			case <-r.Context().Done(): // the test has failed
			}
		case tool == "echo" && r.Header.Get("Mcp-Param-What") == "stuck":
			arrived <- tool
			<-r.Context().Done()
			ended <- struct{}{}
		}
	})
	session := p.openAll(alice)
	joined := func(tool, what string) string {
		return strings.Replace(toolCall(tool, what), `"name":"`, `"name":"probe__`, 1)
	}
	stateless := func(tool, what string) string {
		return strings.Replace(toolCall(tool, what), `"params":{`, `"params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"},`, 1)
	}
	leaving := func(body string) (leave func()) {
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			_, _ = p.send(ctx, "", alice, body, toAll(session)) // it is left alone
		}()
		return func() { cancel(); <-gone }
	}

	// Asked at /mcp in a session, whose client leaves; attached to at /mcp/probe without.
	leave := leaving(joined("risky", "both"))
	card := awaitCard(t, s, "both")
	leave()
	newer := make(chan answer, 1)
	go func() {
		a, _ := p.send(t.Context(), "probe", alice, stateless("risky", "both"), mirrored("tools/call", "risky")) // checked below
		newer <- a
	}()
	if err := approve(t, s, card, stage.SlackBob); err != nil {
		t.Fatal(err)
	}
	if a := <-newer; a.failed || a.text != "ran risky" || p.happened("risky", "asked") != 1 || u.ran("risky") != 1 {
		t.Errorf("got %+v; asked %d times, ran %d times", a, p.happened("risky", "asked"), u.ran("risky"))
	}

	// Approved and running when its client leaves: it runs on, and the next identical call has the answer.
	leave = leaving(joined("hasty", "left"))
	if err := approve(t, s, awaitCard(t, s, "left"), stage.SlackBob); err != nil {
		t.Fatal(err)
	}
	within(t, arrived, "the call at the server")
	leave()
	p.await("the client's leaving", func() bool { return strings.Contains(p.log.String(), "has left; its answer will be kept") })
	close(release)
	p.await("the call's end", func() bool { return p.happened("hasty", "finished") == 1 })
	if a := p.all(t.Context(), session, alice, joined("hasty", "left")); a.failed || a.text != "ran hasty" || u.ran("hasty") != 1 {
		t.Errorf("got %+v, and it ran %d times", a, u.ran("hasty"))
	}

	// The same call at both: the record differs in the note.
	if a := p.all(t.Context(), session, alice, joined("echo", "twice")); a.text != "ran echo" {
		t.Fatalf("%+v", a)
	}
	if a, err := p.send(t.Context(), "probe", alice, stateless("echo", "twice"), mirrored("tools/call", "echo", "Mcp-Param-What", "twice")); err != nil || a.text != "ran echo" {
		t.Fatalf("%+v %v", a, err)
	}
	intents := p.entries(func(en audit.Entry) bool { return en.Kind == audit.KindIntent && en.Tool == "echo" })
	if len(intents) != 2 || intents[0].Digest != intents[1].Digest || intents[0].Args != intents[1].Args || intents[0].Method != intents[1].Method || !slices.Equal(intents[0].Rules, intents[1].Rules) {
		t.Errorf("differ: %+v", intents)
	}

	// The client cancels, or somebody freezes: either ends the call at the server.
	for status, end := range map[string]func(){
		"cancelled": func() {
			if a := p.all(t.Context(), session, alice, `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`); a.status != http.StatusAccepted {
				t.Errorf("%+v", a)
			}
		},
		"frozen": func() { p.unfreeze(p.freeze("--server", "probe", "--reason", "drill")) },
	} {
		done := make(chan answer, 1)
		go func() {
			a, _ := p.send(t.Context(), "", alice, joined("echo", "stuck"), toAll(session)) // checked below
			done <- a
		}()
		within(t, arrived, "the call at the server")
		end()
		within(t, ended, "the end of the call at the server")
		if a := <-done; a.status != http.StatusOK || !a.failed {
			t.Errorf("%s: %+v", status, a)
		}
		if got := p.entries(func(en audit.Entry) bool {
			return en.Tool == "echo" && en.Kind == audit.KindOutcome && en.Status == status
		}); len(got) != 1 {
			t.Errorf("%s: recorded %+v", status, got)
		}
	}
	p.stop()
	verified(t, s)
}
