package enforcer

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"countersign/audit"
	"countersign/enforcer/wire"
)

// piecemeal answers a call with a stream that it is told line by line; "" ends
// it with the response.
type piecemeal struct {
	lines chan string
	left  chan struct{} // a caller has
}

func (s piecemeal) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the answer will be missed
	}
	m, err := wire.Parse(body, wire.Limits{})
	if err != nil || m.Kind != wire.Request {
		w.WriteHeader(http.StatusAccepted)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	flush := http.NewResponseController(w).Flush
	if flush() != nil {
		return // the client will miss it
	}
	for {
		select {
		case line := <-s.lines:
			if text, last := strings.CutPrefix(line, "answer "); last {
				fmt.Fprintf(w, "data: {\"jsonrpc\":\"2.0\",\"id\":%s,\"result\":{\"content\":[{\"type\":\"text\",\"text\":%s}],\"resultType\":\"complete\"}}\n\n", m.ID, wire.Quote(text))
				return
			}
			fmt.Fprintf(w, "%s\n\n", line)
			if flush() != nil {
				return
			}
		case <-r.Context().Done():
			s.left <- struct{}{}
			return
		}
	}
}

func progress(n int, text string) string {
	return fmt.Sprintf("id: e%d\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{\"progressToken\":1,\"progress\":%d,\"message\":%s}}", n, n, wire.Quote(text))
}

// streamed begins a call of a tool and gives its events' lines, one by one.
func streamed(t *testing.T, g *gate, tool string) (next func() string) {
	t.Helper()
	return streamedAs(t.Context(), t, g, tool, "", http.Header{"Mcp-Protocol-Version": {"2025-11-25"}})
}

// streamedAs does so in any era.
func streamedAs(ctx context.Context, t *testing.T, g *gate, tool, meta string, header http.Header) (next func() string) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, g.PublicURL+"/mcp/echo", strings.NewReader(`{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"`+tool+`","arguments":{}`+meta+`}}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header
	req.Header.Set("Authorization", "Bearer "+g.token)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	in := bufio.NewReader(resp.Body)
	return func() string {
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return err.Error()
			}
			if strings.HasPrefix(line, "data: ") {
				return strings.TrimSpace(line)
			}
		}
	}
}

const bufferedPolicy = `
streams:
  - { server: echo, tool: "slow*", stream: buffered, hold: 5m }
  - { server: echo, tool: "small", stream: buffered, hold: 5m, size: 300 }
  - { server: echo, tool: "quick", stream: buffered, hold: 100ms }
`

func bufferedGate(t *testing.T) (*gate, piecemeal, string) {
	t.Helper()
	up := piecemeal{make(chan string), make(chan struct{}, 8)}
	g := newGate(t, up, map[string]string{
		"rules/all.yaml": `- { id: tools, server: echo, tool: "*", effect: allow }`, "masks/m.yaml": bufferedPolicy,
	})
	const known = "hunter2-hunter2-99"
	if _, err := g.Mask.Add("db", known); err != nil {
		t.Fatal(err)
	}
	return g, up, known
}

// A value that comes in pieces, spread over the messages of one stream, is
// found, in progress notifications and up to the response itself.
func TestBufferedStreams(t *testing.T) {
	g, up, known := bufferedGate(t)
	lines := up.lines
	token := "gl" + "pat-" + "x7Kq2mB9vT4nR8sW3dYz"
	next := streamed(t, g, "slow")
	for i, piece := range []string{"see " + known[:3], known[3:9], known[9:] + " and " + token[:7], token[7:] + " there"} {
		lines <- progress(i, piece)
		if i == 1 {
			lines <- ": still at it"
		}
	}
	lines <- `data: {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"plain"}}`
	lines <- "answer done"
	var got []string
	for range 6 {
		got = append(got, next())
	}
	all := strings.Join(got, "\n")
	for _, piece := range []string{known[:3] + `"`, known[3:9], known[9:], token[:7], token[7:15]} {
		if strings.Contains(all, piece) {
			t.Errorf("%q is still there:\n%s", piece, all)
		}
	}
	if !strings.Contains(got[0], `"message":"see [masked: db]"`) || !strings.Contains(got[3], ` there"`) || !strings.Contains(got[4], `"data":"plain"`) || !strings.Contains(got[5], `"text":"done"`) {
		t.Errorf("events:\n%s", all)
	}
	if masked := recorded(t, g, audit.KindOutcome).Masked; !slices.Contains(masked, audit.Masked{Detector: "known", Place: "params.message", Count: 3}) {
		t.Errorf("recorded: %+v", masked)
	}
	if end := next(); end != "EOF" {
		t.Errorf("after the end: %s", end)
	}

	// Over the seam to the response.
	next = streamed(t, g, "slower")
	lines <- `data: {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1,"text":"` + known[:9] + `"}}`
	lines <- "answer " + known[9:]
	if all := next() + next(); strings.Contains(all, known[:9]) || strings.Contains(all, known[9:]) {
		t.Error(all)
	}

	// Where nobody asked to buffer, an event leaves when it is clean.
	next = streamed(t, g, "other")
	lines <- progress(0, "at once")
	if got := next(); !strings.Contains(got, "at once") {
		t.Error(got)
	}
	lines <- "answer done"
	next()
}

// A long message leaves at once; what a value in it ends with is remembered.
func TestBufferedStreamsRememberLongMessages(t *testing.T) {
	g, up, known := bufferedGate(t)
	next := streamed(t, g, "small")
	up.lines <- progress(1, strings.Repeat("ä\n", 20_000)+known[:9])
	if first := next(); !strings.Contains(first, known[:9]) {
		t.Fatal("it was held")
	}
	up.lines <- progress(2, known[9:]+strings.Repeat(" b", 200))
	if got := next(); strings.Contains(got, known[9:]) || !strings.Contains(got, "[masked: db] b") {
		t.Error(got)
	}
	up.lines <- "answer done"
	next()
}

// At a bound, of time or size, what is held leaves, and of a value that is
// split over it the rest is masked.
func TestBufferedStreamsAreBounded(t *testing.T) {
	g, up, known := bufferedGate(t)
	lines := up.lines
	for _, tool := range []string{"quick", "small"} {
		next := streamed(t, g, tool)
		first := known[:9]
		if tool == "small" {
			first = strings.Repeat("x", 300) + first
		}
		lines <- progress(0, first)
		if got := next(); !strings.Contains(got, known[:9]) { // before anything follows
			t.Errorf("%s: %s", tool, got)
		}
		lines <- progress(1, known[9:]+strings.Repeat("x", 300))
		if got := next(); strings.Contains(got, known[9:]) {
			t.Errorf("%s: %s", tool, got)
		}
		lines <- "answer done"
		if got := next(); !strings.Contains(got, `"done"`) {
			t.Errorf("%s: %s", tool, got)
		}
	}
}

// A stream that is blocked while something is held ends with the reason, and one
// whose client leaves is not waited for.
func TestBufferedStreamsEnd(t *testing.T) {
	g, up, _ := bufferedGate(t)
	lines := up.lines
	next := streamed(t, g, "slow")
	lines <- progress(0, "held")
	lines <- "data: {not JSON"
	if got := next(); !strings.Contains(got, "cannot be read safely") {
		t.Error(got)
	}
	if en := recorded(t, g, audit.KindOutcome); en.Status != "blocked" {
		t.Errorf("%+v", en)
	}

	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	streamedAs(ctx, t, g, "slow", `,"_meta":{"`+wire.MetaVersion+`":"`+wire.ModernVersion+`","io.modelcontextprotocol/clientCapabilities":{}}`,
		http.Header{"Mcp-Protocol-Version": {wire.ModernVersion}, "Mcp-Method": {"tools/call"}, "Mcp-Name": {"slow"}})
	lines <- progress(0, "held")
	leave()
	<-up.left // and the gate's shutdown waits for the rest
}
