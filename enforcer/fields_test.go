package enforcer

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"countersign/audit"
	"countersign/enforcer/wire"
)

// tabler answers every tools/call with what its argument "answer" holds as
// structuredContent, and the same as text, by JSON or as an event stream.
type tabler struct{ stream bool }

func (s tabler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the answer will be missed
	}
	m, err := wire.Parse(body, wire.Limits{})
	if err != nil || m.Kind != wire.Request {
		w.WriteHeader(http.StatusAccepted)
		return
	}
	at, _ := m.Member(m.Arguments, "answer")
	structured := m.Bytes(at)
	answer := fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":%s}],"structuredContent":%s,"resultType":"complete"}}`, m.ID, wire.Quote(string(structured)), structured)
	if !s.stream {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, answer)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	fmt.Fprintf(w, "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"level\":\"info\",\"data\":%s}}\n\n", structured)
	fmt.Fprintf(w, "data: %s\n\n", answer)
}

// callTool asks for one tool in one era.
func callTool(t *testing.T, g *gate, modern bool, tool, args string) string {
	t.Helper()
	header, meta := http.Header{"Mcp-Protocol-Version": {"2025-11-25"}}, ""
	if modern {
		header = http.Header{"Mcp-Protocol-Version": {wire.ModernVersion}, "Mcp-Method": {"tools/call"}, "Mcp-Name": {tool}}
		meta = `,"_meta":{"` + wire.MetaVersion + `":"` + wire.ModernVersion + `","io.modelcontextprotocol/clientCapabilities":{}}`
	}
	resp, answer, err := g.post(t.Context(), fmt.Appendf(nil, `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":%q,"arguments":%s%s}}`, tool, args, meta), header)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("status %d: %s", resp.StatusCode, answer)
	}
	return string(answer)
}

// recorded is the last entry of a kind.
func recorded(t *testing.T, g *gate, kind audit.Kind) (last audit.Entry) {
	t.Helper()
	for e, err := range g.Journal.Read() {
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind == kind {
			last = e
		}
	}
	return last
}

const fieldPolicy = `
fields:
  - { id: mail, server: echo, tool: query, keys: [email], action: redact }
  - { id: people, server: echo, tool: "query*", columns: [person], action: pseudonym }
  - { id: no-hashes, server: echo, keys: ["*_hash"], action: block, reason: Ask for other columns. }
`

// Field rules hold in both eras, in JSON and in event streams, in structured
// content, texts and notifications; the record says where and how often.
func TestFieldRules(t *testing.T) {
	for _, stream := range []bool{false, true} {
		g := newGate(t, tabler{stream}, map[string]string{
			"rules/all.yaml": `- { id: tools, server: echo, tool: "*", effect: allow }`, "masks/echo.yaml": fieldPolicy,
		})
		for _, modern := range []bool{false, true} {
			t.Run(fmt.Sprintf("stream %v, modern %v", stream, modern), func(t *testing.T) {
				out := callTool(t, g, modern, "query", `{"answer":[{"email":"alice@example.com","person":"Alice Ash"},{"email":null,"person":"Alice Ash"}]}`)
				if strings.Contains(out, "alice@") || strings.Contains(out, "Ash") || strings.Count(out, "people:") < 4 {
					t.Error(out)
				}
				masked := recorded(t, g, audit.KindOutcome).Masked
				if !slices.Contains(masked, audit.Masked{Detector: "field:people", Place: "result.structuredContent[*].person", Count: 2}) ||
					!slices.Contains(masked, audit.Masked{Detector: "field:mail", Place: "result.content[0].text|[*].email", Count: 1}) {
					t.Errorf("recorded: %+v", masked)
				}
				if out := callTool(t, g, modern, "other", `{"answer":{"email":"alice@example.com"}}`); !strings.Contains(out, `{"email":"alice@example.com"}`) {
					t.Errorf("another tool: %s", out)
				}

				out = callTool(t, g, modern, "other", `{"answer":{"user":{"pw_hash":"5f4dcc3b5aa765d61d8327deb882cf99"}}}`)
				if strings.Contains(out, "5f4dcc") || !strings.Contains(out, `"isError":true`) || !strings.Contains(out, "Ask for other columns.") || !strings.Contains(out, "no-hashes") {
					t.Error(out)
				}
				if en := recorded(t, g, audit.KindOutcome); en.Status != "blocked" || len(en.Masked) != 1 || en.Masked[0].Detector != "field:no-hashes" || strings.Contains(en.Reason, "5f4dcc") {
					t.Errorf("recorded: %+v", en)
				}
			})
		}
	}
}

// What the client sends is masked in the record, which says where, and may be
// let through for one tool of a server.
func TestArgumentsInTheRecord(t *testing.T) {
	sample := "gl" + "pat-" + "x7Kq2mB9vT4nR8sW3dYz"
	g := newGate(t, tabler{}, map[string]string{
		"rules/all.yaml":  `- { id: tools, server: echo, tool: "*", effect: allow }`,
		"masks/echo.yaml": `allow: [{ detector: gitlab-pat, server: echo, tool: docs, path: "params.arguments.text", reason: samples }]`,
	})
	for tool, want := range map[string]int{"docs": 0, "query": 1} {
		out := callTool(t, g, false, tool, `{"text":"`+sample+`","answer":{"x":"`+sample+`"}}`)
		if strings.Contains(out, sample) {
			t.Errorf("%s: an entry for the arguments let an answer through: %s", tool, out)
		}
		en := recorded(t, g, audit.KindIntent)
		n := 0
		for _, m := range en.Masked {
			if m.Place == "params.arguments.text" {
				n += m.Count
			}
		}
		if n != want || strings.Contains(en.Args, `"text":"`+sample) != (want == 0) || !slices.Contains(en.Masked, audit.Masked{Detector: "gitlab-pat", Place: "params.arguments.answer.x", Count: 1}) {
			t.Errorf("%s: %+v %s", tool, en.Masked, en.Args)
		}
	}
}

// A pseudonym is the same for all that share a key, and the operator's own key
// counts before the deployment's.
func TestPseudonymKey(t *testing.T) {
	shown := func(c Config) string { return string(c.pseudonymKey()) }
	a, b := Config{DigestKey: []byte(strings.Repeat("a", 32))}, Config{DigestKey: []byte(strings.Repeat("b", 32))}
	again := Config{DigestKey: []byte(strings.Repeat("a", 32))}
	if shown(a) != shown(again) || shown(a) == shown(b) || len(shown(a)) != 32 || shown(a) == strings.Repeat("a", 32) {
		t.Error("the key does not come of the digest key")
	}
	a.PseudonymKey, b.PseudonymKey = []byte("one"), []byte("one")
	if shown(a) != shown(b) {
		t.Error("the operator's key does not count")
	}
}
