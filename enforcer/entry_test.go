package enforcer

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"filippo.io/age"

	"countersign/audit"
	"countersign/enforcer/mask"
	"countersign/enforcer/wire"
	"countersign/rules"
)

// entriesOf are all entries, as their lines have them, and the lines.
func entriesOf(t *testing.T, g *gate) (all []audit.Entry, lines string) {
	t.Helper()
	var text strings.Builder
	for en, err := range g.Journal.Read() {
		if err != nil {
			t.Fatal(err)
		}
		line, err := en.Encode()
		if err != nil {
			t.Fatal(err)
		}
		text.Write(append(line, '\n'))
		all = append(all, en)
	}
	return all, text.String()
}

const vaulted = "server: echo\nurl: ${URL}\ncredential: app\ncredentials:\n  app: { vault: database/creds/app, scope: call, ttl: 5m," +
	" inject: { headers: { Authorization: \"{{basic username password}}\" }, args: { dsn: \"db://{{username}}:{{password}}@h\" } } }\n"

// echoing answers a call with what it was sent, which holds the credential.
type echoing struct{}

func (echoing) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the answer will be missed
	}
	m, err := wire.Parse(body, wire.Limits{})
	if err != nil || m.Kind != wire.Request {
		w.WriteHeader(http.StatusAccepted)
		return
	}
	if m.Method == "initialize" {
		w.Header().Set("Mcp-Session-Id", "the-session")
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":%s}]}}`, m.ID, wire.Quote(string(m.Bytes(m.Arguments))))
}

// The entries of a call say who held what, why it was decided so, what came
// back, what was changed on the way and where its time went; and no value.
func TestWhatTheEntriesOfACallTell(t *testing.T) {
	g := newGate(t, echoing{}, map[string]string{
		"servers/echo.yaml": vaulted,
		"rules/echo.yaml": `
- { id: a, server: echo, tool: q, effect: allow }
- { id: b, server: echo, tool: q, when: 'has(args.x) && args.x > 3', effect: allow }
- { id: c, server: echo, tool: q, when: 'has(args.y)', effect: deny, reason: no y }
- { id: d, server: echo, tool: q, when: 'has(args.z) && args.z > 3', effect: deny, reason: z is too large }
- { id: init, server: echo, method: initialize, effect: deny, when: 'false', reason: never }
`,
	}, withVault(t))
	ask := func(body string) *http.Response {
		t.Helper()
		resp, answer, err := g.post(t.Context(), []byte(body), http.Header{"Mcp-Session-Id": {"the-session"}, "Mcp-Protocol-Version": {"2025-11-25"}})
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%v %s", err, answer)
		}
		return resp
	}
	init := `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}`
	if resp, answer, err := g.post(t.Context(), []byte(init), nil); err != nil || resp.Header.Get("Mcp-Session-Id") != "the-session" {
		t.Fatalf("%v %s", err, answer)
	}
	ask(`{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"q","arguments":{"x":"large","dsn":""}}}`)
	intent, outcome := recorded(t, g, audit.KindIntent), recorded(t, g, audit.KindOutcome)
	ask(`{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"q","arguments":{"y":1,"z":"large"}}}`)
	refused := recorded(t, g, audit.KindRefused)

	if want := []audit.Step{{Rule: "a", Effect: "allow"}, {Rule: "b", Effect: "allow", Why: "failed: no such overload"}}; !slices.Equal(intent.Trace, want) {
		t.Errorf("trace: %+v", intent.Trace)
	}
	if want := []audit.Step{{Rule: "a", Effect: "allow"}, {Rule: "c", Effect: "deny"}, {Rule: "d", Effect: "deny", Why: "failed: no such overload"}}; !slices.Equal(refused.Trace, want) || outcome.Trace != nil {
		t.Errorf("trace of a refusal: %+v; of an outcome: %+v", refused.Trace, outcome.Trace)
	}
	for _, en := range []audit.Entry{intent, outcome} {
		if len(en.Holder) != 20 || en.Session != g.naming.Session("echo", "the-session") || en.Credential != "app" {
			t.Errorf("%s: holder %q, session %q, credential %q", en.Kind, en.Holder, en.Session, en.Credential)
		}
	}
	if outcome.Holder != intent.Holder || intent.Lease != "" || outcome.Lease == "" || strings.ContainsAny(outcome.Lease, " :@") {
		t.Errorf("lease %q, then %q", intent.Lease, outcome.Lease)
	}
	if want := []audit.Splice{{What: "credential", Where: "argument dsn"}, {What: "credential", Where: "header Authorization"}}; !slices.Equal(outcome.Splices, want) || intent.Splices != nil || refused.Splices != nil {
		t.Errorf("splices: %+v", outcome.Splices)
	}
	if !strings.HasPrefix(outcome.Result, `{"content":[{"type":"text","text":"`) || !strings.Contains(outcome.Result, "[masked: ") || outcome.Args != "" || intent.Args != `{"dsn":"","x":"large"}` {
		t.Errorf("args %s, result %s", intent.Args, outcome.Result)
	}
	names := []string{}
	for _, tm := range outcome.Timings {
		names = append(names, tm.Part)
		if tm.Millis <= 0 || tm.Millis > outcome.Millis {
			t.Errorf("%+v of %v ms", tm, outcome.Millis)
		}
	}
	if !slices.Contains(names, "credential") || !slices.Contains(names, "upstream") || !slices.Contains(names, "record") || slices.Contains(names, "wait") {
		t.Errorf("timings: %q", names)
	}
	if _, lines := entriesOf(t, g); strings.Contains(lines, "the-session") || strings.Contains(lines, "v-token") || strings.Contains(lines, "db://v-") {
		t.Errorf("an entry has a value:\n%s", lines)
	}
}

// A trace has what made the effect first, and says how much it leaves out.
func TestALongTrace(t *testing.T) {
	e := &Enforcer{Config: Config{Mask: mask.New(mask.Options{})}}
	x := &exchange{e: e, decision: rules.Decision{Effect: rules.Deny}}
	for i := range 50 {
		m := rules.Match{Rule: fmt.Sprintf("r%02d", i), Effect: rules.Allow, Matched: i%2 == 0, Found: []string{"reads x", "writes y", "drops z"}}
		if i == 48 {
			m.Effect = rules.Deny
		}
		if i == 49 {
			m.Err = strings.Repeat("é", 300)
		}
		x.decision.Trace = append(x.decision.Trace, m)
	}
	short := &exchange{e: e, decision: rules.Decision{Effect: rules.Deny, Trace: x.decision.Trace[44:]}}
	got := short.trace(short.decision)
	if len(got) != 4 || got[0].Rule != "r44" || got[2].Effect != "deny" || got[1].Why != "it reads x, and 2 more" || !strings.HasPrefix(got[3].Why, "failed: é") || len(got[3].Why) > 256 {
		t.Errorf("%+v", got)
	}
	for i := range x.decision.Trace {
		x.decision.Trace[i].Matched = true
	}
	got = x.trace(x.decision)
	if len(got) != audit.MaxTrace || got[0].Rule != "r48" || got[31] != (audit.Step{Rule: "*", Why: "and 19 more rules"}) {
		t.Errorf("%d: %+v", len(got), got)
	}
	if _, err := (audit.Entry{Kind: audit.KindIntent, Trace: got}).Encode(); err != nil {
		t.Error(err)
	}
}

func TestNoPreviews(t *testing.T) {
	g := newGate(t, echoing{}, map[string]string{
		"countersign.yaml": "version: 1\nrecord: { previews: false }\n",
		"rules/echo.yaml":  "- { id: a, server: echo, tool: q, effect: allow }\n- { id: b, server: echo, tool: n, effect: deny, reason: not you }\n",
	})
	callTool(t, g, true, "q", `{"x":"a-word"}`)
	callTool(t, g, true, "n", `{"x":"a-word"}`)
	if _, lines := entriesOf(t, g); strings.Contains(lines, "a-word") || strings.Contains(lines, `"args"`) || strings.Contains(lines, `"result"`) || strings.Contains(lines, `"params"`) {
		t.Errorf("an entry has a preview:\n%s", lines)
	}
	if en := recorded(t, g, audit.KindIntent); en.Digest == "" || en.Rules == nil {
		t.Errorf("%+v", en)
	}
}

// Where policy says so nothing in the record names the caller, in a call's
// entries, in a refusal's, nor in those of a stranger to the policy; the same
// caller is the same throughout.
func TestPseudonymsInTheRecord(t *testing.T) {
	g := newGate(t, echoing{}, map[string]string{
		"countersign.yaml": "version: 1\nrecord: { subjects: pseudonym }\n",
		"rules/echo.yaml":  "- { id: a, server: echo, tool: q, when: '\"support\" in subject.groups', effect: allow }\n",
	})
	if out := callTool(t, g, true, "q", `{}`); strings.Contains(out, "isError") {
		t.Fatal(out)
	}
	callTool(t, g, true, "unknown", `{}`)
	if resp, answer, err := g.post(t.Context(), []byte(`{"jsonrpc":`), nil); err != nil || resp.StatusCode != http.StatusBadRequest {
		t.Fatalf("%v %s", err, answer)
	}
	want := g.naming.Pseudonym(g.Issuers[0], "alice")
	if !strings.HasPrefix(want, "pseudonym:") || len(want) != len("pseudonym:")+32 || want == g.naming.Pseudonym(g.Issuers[0], "mallory") || want == g.naming.Pseudonym("https://other", "alice") {
		t.Fatalf("%q", want)
	}
	all, lines := entriesOf(t, g)
	if strings.Contains(lines, "alice") || strings.Contains(lines, "support") {
		t.Errorf("an entry names the caller:\n%s", lines)
	}
	calls := 0
	for _, en := range all {
		if en.Kind == audit.KindStart {
			continue
		}
		calls++
		if en.Sub != want || en.Issuer != g.Issuers[0] || en.Holder == "" {
			t.Errorf("%+v", en)
		}
	}
	if calls != 4 {
		t.Errorf("%d entries:\n%s", calls, lines)
	}
	other := NewNames(make([]byte, 32), []byte("of the operator"))
	if other.Pseudonym(g.Issuers[0], "alice") == want || other.Pseudonym("", want) != want || other.Pseudonym("x", "") != "" {
		t.Error("the operator's key does not count, or a pseudonym gets another")
	}
}

// A stream that lasts is open in the record before anything of it leaves, and
// closed, with how much there was, before its outcome.
func TestStreamsOpenAndClose(t *testing.T) {
	g := newGate(t, &sayer{}, map[string]string{"rules/all.yaml": "- { id: all, server: echo, method: '*', tool: '*', effect: allow }\n"})
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	if _, answer, err := g.post(ctx, []byte(`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}`), nil); err != nil {
		t.Fatalf("%v %s", err, answer)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.PublicURL+"/mcp/echo", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = http.Header{"Authorization": {"Bearer " + g.token}, "Accept": {"text/event-stream"}, "Mcp-Session-Id": {"s1"}, "Mcp-Protocol-Version": {"2025-11-25"}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := resp.Body.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if en := recorded(t, g, audit.KindOpen); en.Method != "notifications/stream" || en.Status != "open" || en.Session == "" {
		t.Errorf("%+v", en)
	}
	if _, err := io.ReadFull(resp.Body, make([]byte, 20)); err != nil { // of the event
		t.Fatal(err)
	}
	leave()
	for deadline := time.Now().Add(time.Minute); recorded(t, g, audit.KindOutcome).Method != "notifications/stream"; {
		if time.Now().After(deadline) {
			t.Fatal("the stream does not end")
		}
		runtime.Gosched()
	}
	var kinds []string
	all, _ := entriesOf(t, g)
	var closed audit.Entry
	for _, en := range all {
		if en.Method == "notifications/stream" {
			kinds = append(kinds, string(en.Kind))
		}
		if en.Kind == audit.KindClose {
			closed = en
		}
	}
	if got := strings.Join(kinds, " "); got != "intent open close outcome" {
		t.Errorf("entries: %s", got)
	}
	if string(closed.Detail) != `{"events":1}` || closed.Bytes == 0 || closed.Status == "" {
		t.Errorf("%+v", closed)
	}
}

// From the entries of an approved call alone it can be seen who let it run,
// through what, and when.
func TestVotesInTheEntriesOfTheCall(t *testing.T) {
	l := newLadder(t, "1m", nil)
	body, header := sessionAsk(1, "tools/call", risky)
	done := l.asking(t.Context(), body, header)
	l.vote(l.await("asked", 1), true)
	if got := <-done; got.status != http.StatusOK {
		t.Fatal(got)
	}
	intent, outcome := recorded(t, l.gate, audit.KindIntent), recorded(t, l.gate, audit.KindOutcome)
	var d struct{ Votes []voice }
	if err := json.Unmarshal(intent.Detail, &d); err != nil {
		t.Fatal(err)
	}
	if len(d.Votes) != 1 || d.Votes[0].Person != "bob" || d.Votes[0].Sub != "bob" || d.Votes[0].Via != "slack" || d.Votes[0].At.IsZero() || intent.Approval == "" {
		t.Errorf("%s", intent.Detail)
	}
	if !slices.ContainsFunc(outcome.Timings, func(tm audit.Timing) bool { return tm.Part == "wait" && tm.Millis > 0 }) {
		t.Errorf("timings: %+v", outcome.Timings)
	}
}

// What a policy masks in a result is masked in its preview.
func TestAPreviewIsMasked(t *testing.T) {
	secret := "hunter2-hunter2-99"
	g := newGate(t, echoing{}, map[string]string{"rules/all.yaml": "- { id: all, server: echo, tool: '*', effect: allow }\n"})
	if _, err := g.Mask.Add("known", secret); err != nil {
		t.Fatal(err)
	}
	callTool(t, g, true, "q", `{"long":"`+strings.Repeat("é", 3000)+`","x":"`+secret+`"}`)
	en := recorded(t, g, audit.KindOutcome)
	if _, lines := entriesOf(t, g); strings.Contains(lines, secret) {
		t.Errorf("%s", lines)
	}
	if len(en.Result) > audit.MaxArgs || !strings.HasSuffix(en.Result, "…") || strings.Contains(en.Result, "\ufffd") {
		t.Errorf("%d bytes, %q", len(en.Result), en.Result[max(0, len(en.Result)-20):])
	}
}

// A body is kept with those whom the policy that decided its call has it sealed
// to, whatever comes into force before it is published.
func TestBodiesAreSealedToWhomTheCallsPolicyNames(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	journal, err := audit.Open(audit.Config{Dir: dir, Enforcer: "test", Incarnation: "r2"})
	if err != nil {
		t.Fatal(err)
	}
	up := httptest.NewServer(echoing{})
	defer up.Close()
	policy := func(recipients string) map[string]string {
		return map[string]string{
			"countersign.yaml":  "version: 1\nrecord: { bodies: full" + recipients + " }\n",
			"servers/echo.yaml": "server: echo\nurl: " + up.URL + "\n",
			"rules/all.yaml":    "- { id: all, server: echo, tool: '*', effect: allow }\n",
		}
	}
	g := newGate(t, echoing{}, policy(", recipients: ["+id.Recipient().String()+"]"), func(c *Config) { c.Journal = journal })
	callTool(t, g, false, "p", `{"x":"sealed"}`)
	files := fstest.MapFS{}
	for name, text := range policy("") {
		files[name] = &fstest.MapFile{Data: []byte(text)}
	}
	open, err := rules.Load(files, "123456789abcdef0")
	if err != nil {
		t.Fatal(err)
	}
	g.Install(open, time.Now())
	callTool(t, g, false, "p", `{"x":"open"}`)
	if err := journal.Close(); err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob(filepath.Join(dir, "journal", "r2", "*.jsonl"))
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	lines, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	for word, want := range map[string]string{"sealed": `"to":["` + id.Recipient().String() + `"],`, "open": `"to":[],`} {
		n := 0
		for line := range strings.Lines(string(lines)) {
			if strings.HasPrefix(line, `{"body":`) && strings.Contains(line, word) {
				if n++; !strings.Contains(line, want) {
					t.Errorf("%s\nhas not %s", line, want)
				}
			}
		}
		if n != 2 { // the answer is what was sent
			t.Errorf("%d bodies of %s", n, word)
		}
	}
}

// Bodies are the masked parameters and the masked answer; whole where policy
// says so, and else their size and digest alone.
func TestBodiesOfACall(t *testing.T) {
	secret := "hunter2-hunter2-99"
	g := newGate(t, echoing{}, map[string]string{
		"countersign.yaml": "version: 1\nrecord: { bodies: full, previews: false }\n",
		"rules/all.yaml":   "- { id: all, server: echo, tool: '*', effect: allow }\n- { id: quiet, server: echo, tool: q, effect: allow, record: digest }\n- { id: no, server: echo, tool: no, effect: deny, reason: no }\n",
	})
	if _, err := g.Mask.Add("known", secret); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ tool, kept string }{{"q", audit.KeptDigest}, {"p", audit.KeptFull}} {
		answer := callTool(t, g, false, c.tool, `{"x":"`+secret+`"}`)
		intent, outcome := recorded(t, g, audit.KindIntent), recorded(t, g, audit.KindOutcome)
		if want := `{"arguments":{"x":"[masked: known]"},"name":"` + c.tool + `"}`; len(intent.Bodies) != 1 || intent.Bodies[0].Size != int64(len(want)) || intent.Bodies[0].Of != "request" || intent.Bodies[0].Kept != c.kept {
			t.Errorf("%+v, want that of %s", intent.Bodies, want)
		}
		if len(outcome.Bodies) != 1 || outcome.Bodies[0].Size != int64(len(answer)) || outcome.Bodies[0].Of != "response" || outcome.Bodies[0].Kept != c.kept || !strings.HasPrefix(outcome.Bodies[0].Digest, "sha256:") {
			t.Errorf("%s: %+v, want %d bytes", c.tool, outcome.Bodies, len(answer))
		}
	}
	callTool(t, g, false, "no", `{"x":"`+secret+`"}`)
	if en := recorded(t, g, audit.KindRefused); len(en.Bodies) != 1 || en.Bodies[0].Of != "request" || en.Bodies[0].Kept != audit.KeptFull {
		t.Errorf("%+v", en.Bodies)
	}
}
