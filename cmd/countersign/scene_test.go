package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"countersign/audit"
	"countersign/fixtures/githost"
	"countersign/fixtures/port"
	"countersign/fixtures/slack"
	"countersign/fixtures/stage"
)

// probe is an upstream made for these tests: it counts every HTTP request that
// reaches it, and answers as the test tells it.
type probe struct {
	url string

	mu     sync.Mutex
	hits   int
	tools  map[string]int // tool calls by name
	cancel int            // notifications/cancelled
	auth   string         // the last Authorization header
	answer func(w http.ResponseWriter, r *http.Request, id json.RawMessage, method, tool string) bool
}

func newProbe(t *testing.T) *probe {
	t.Helper()
	u := &probe{tools: map[string]int{}}
	srv := httptest.NewServer(u)
	t.Cleanup(srv.Close)
	u.url = srv.URL
	return u
}

// answerWith has f answer what it returns true for.
func (u *probe) answerWith(f func(w http.ResponseWriter, r *http.Request, id json.RawMessage, method, tool string) bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.answer = f
}

func (u *probe) requests() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.hits
}

func (u *probe) ran(tool string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.tools[tool]
}

func (u *probe) authorization() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.auth
}

func (u *probe) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // whoever asked has left
	}
	var m struct {
		ID     json.RawMessage
		Method string
		Params struct{ Name string }
	}
	if len(body) > 0 {
		if err := json.Unmarshal(body, &m); err != nil {
			http.Error(w, err.Error(), http.StatusTeapot)
			return
		}
	}
	u.mu.Lock()
	u.hits++
	u.auth = r.Header.Get("Authorization")
	switch m.Method {
	case "tools/call":
		u.tools[m.Params.Name]++
	case "notifications/cancelled":
		u.cancel++
	}
	answer := u.answer
	u.mu.Unlock()
	if answer != nil && answer(w, r, m.ID, m.Method, m.Params.Name) {
		return
	}
	if m.ID == nil {
		w.WriteHeader(http.StatusAccepted)
		return
	}
	if m.Method == "initialize" {
		w.Header().Set("Mcp-Session-Id", fmt.Sprintf("session-%d", u.requests()))
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":"ran %s"}]}}`, m.ID, m.Params.Name)
}

// probeStage is a stage whose policy is about the probe: echo runs, leak runs with a minted credential, risky needs a DBA.
func probeStage(t *testing.T, u *probe, hold string) *stage.Stage {
	t.Helper()
	s := newStage(t)
	amend(t, s, s.Dana, map[string]string{
		"countersign.yaml": "version: 1\napprovals: { hold: " + hold + ", expires: 15m }\n",
		"servers/probe.yaml": "server: probe\nurl: " + u.url + "\ntimeout: 2m\ncredentials:\n" +
			"  probe-db: { vault: database/creds/customers-ro, scope: holder, ttl: 60s, inject: { headers: { Authorization: \"{{basic username password}}\" } } }\n" +
			"  probe-call: { vault: database/creds/customers-ro, scope: call, ttl: 60s, inject: { headers: { Authorization: \"{{basic username password}}\" } } }\n",
		"rules/probe.yaml": probeRules,
		// Without a rule that reads SQL the program starts in no time.
		"rules/customers.yaml": "", "tests/customers.yaml": "",
	})
	return s
}

const probeRules = `
- { id: probe-echo, server: probe, tool: echo, effect: allow }
- { id: probe-leak, server: probe, tool: leak, effect: allow, credential: probe-db }
- { id: probe-once, server: probe, tool: once, effect: allow, credential: probe-call }
- { id: probe-risky, server: probe, tool: risky, effect: approve, reason: Risky things need a DBA, approval: { approvers: dba } }
- { id: probe-spend, server: probe, tool: spend, effect: approve, reason: Spending needs a DBA, approval: { approvers: dba }, credential: probe-call }
- { id: probe-hasty, server: probe, tool: hasty, effect: approve, reason: Hasty things need a DBA soon, approval: { approvers: dba, expires: 10m } }
`

// amend puts files into the policy repository; "" deletes one.
func amend(t *testing.T, s *stage.Stage, signer githost.Signer, files map[string]string) string {
	t.Helper()
	raw := map[string][]byte{}
	for path, text := range files {
		if raw[path] = []byte(text); text == "" {
			raw[path] = nil
		}
	}
	hash, err := s.Policy.Commit(raw, "Policy for a test\n", signer)
	if err != nil {
		t.Fatal(err)
	}
	return hash
}

// inForce waits until a policy commit decides.
func (p *program) inForce(commit string) {
	p.t.Helper()
	p.await("policy "+commit[:8]+" in force", func() bool { return p.readiness().Policy == commit })
}

type readiness struct {
	Ready    bool
	Policy   string
	Rejected string `json:"policy_rejected"`
	Checks   map[string]string
}

func (p *program) readiness() (r readiness) {
	_, body := p.get("/readyz")
	if err := json.Unmarshal([]byte(body), &r); err != nil {
		return readiness{}
	}
	return r
}

// answer is what a client gets for one POST.
type answer struct {
	status int
	header http.Header
	body   string
	code   int    // of a JSON-RPC error
	text   string // of an error's message, or a tool result's content
	failed bool   // the tool result says isError
	record string // the call id that it names
}

// send makes one request, which edit may change, and reads the whole answer. One
// that never ends fails the test, and not the whole package after a quarter of an
// hour.
func (p *program) send(ctx context.Context, server, token, body string, edit func(*http.Request)) (answer, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*patience, fmt.Errorf("not answered to the end within %s", 2*patience))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.stage.URL+"/mcp/"+server, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if edit != nil {
		edit(req)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{}, err
	}
	return readAnswer(resp.StatusCode, resp.Header, string(b)), nil
}

func readAnswer(status int, header http.Header, body string) answer {
	a := answer{status: status, header: header, body: body}
	var m struct {
		Error *struct {
			Code    int
			Message string
		}
		Result struct {
			IsError bool
			Content []struct{ Text string }
		}
	}
	text := body
	if strings.HasPrefix(header.Get("Content-Type"), "text/event-stream") {
		for line := range strings.Lines(body) {
			if data, ok := strings.CutPrefix(line, "data: "); ok {
				text = data // the response comes last
			}
		}
	}
	if json.Unmarshal([]byte(text), &m) != nil {
		return a
	}
	if m.Error != nil {
		a.code, a.text = m.Error.Code, m.Error.Message
	}
	a.failed = m.Result.IsError
	for _, c := range m.Result.Content {
		a.text += c.Text
	}
	if _, after, ok := strings.Cut(a.text, "(countersign record "); ok {
		a.record, _, _ = strings.Cut(after, ")")
	}
	return a
}

// ask sends one message in the legacy era, without a session.
func (p *program) ask(server, token, body string) answer {
	p.t.Helper()
	a, err := p.send(p.t.Context(), server, token, body, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	return a
}

// asking sends it, and does not wait.
func (p *program) asking(ctx context.Context, server, token, body string) <-chan answer {
	done := make(chan answer, 1)
	go func() {
		a, err := p.send(ctx, server, token, body, nil)
		if err != nil {
			a.text = "no answer: " + err.Error()
		}
		done <- a
	}()
	return done
}

func toolCall(tool, arg string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":%q,"arguments":{"what":%q}}}`, tool, arg)
}

// in is the program as a subtest sees it.
func (p *program) in(t *testing.T) *program {
	q := *p
	q.t = t
	return &q
}

// journal reads every entry that is durable in the state directory, the
// earlier runs' first. It asks the program nothing.
func (p *program) journal() []audit.Entry {
	p.t.Helper()
	files, err := filepath.Glob(p.stage.Path("state/journal/*/*.jsonl"))
	if err != nil {
		p.t.Fatal(err)
	}
	var all []audit.Entry
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			p.t.Fatal(err)
		}
		for en, err := range audit.ReadEntries(bytes.NewReader(bytes.TrimRight(b, "\x00"))) {
			if errors.Is(err, io.ErrUnexpectedEOF) {
				break // being written just now
			}
			if err != nil {
				p.t.Fatalf("%s: %v", f, err)
			}
			all = append(all, en)
		}
	}
	slices.SortStableFunc(all, func(a, b audit.Entry) int { return a.Time.Compare(b.Time) })
	return all
}

// entries are those of the journal that match.
func (p *program) entries(match func(audit.Entry) bool) (found []audit.Entry) {
	p.t.Helper()
	for _, en := range p.journal() {
		if match(en) {
			found = append(found, en)
		}
	}
	return found
}

// wants checks that the call stands in the record, with this kind and status.
func (p *program) wants(call string, kind audit.Kind, status string) audit.Entry {
	p.t.Helper()
	if call == "" {
		p.t.Error("the answer names no record")
		return audit.Entry{}
	}
	var seen []string
	for _, en := range p.entries(func(en audit.Entry) bool { return en.Call == call }) {
		if en.Kind == kind && en.Status == status {
			return en
		}
		seen = append(seen, string(en.Kind)+" "+en.Status)
	}
	p.t.Errorf("call %s: want an entry %s %s, have %v", call, kind, status, seen)
	return audit.Entry{}
}

// event tells whether the record has an approval's event, and of which.
func (p *program) event(tool, event string) (id string, ok bool) {
	for _, en := range p.entries(func(en audit.Entry) bool {
		return en.Kind == audit.KindApproval && en.Tool == tool && en.Status == event
	}) {
		id, ok = en.Approval, true
	}
	return id, ok
}

func (p *program) awaitEvent(tool, event string) (approval string) {
	p.t.Helper()
	p.await(tool+" "+event, func() bool { id, ok := p.event(tool, event); approval = id; return ok })
	return approval
}

// awaitCard waits for the card that shows arg and can be decided.
func awaitCard(t *testing.T, s *stage.Stage, arg string) slack.Card {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	card, err := s.Slack.AwaitCard(ctx, stage.Channel, func(c slack.Card) bool {
		return len(c.Buttons()) > 0 && strings.Contains(fmt.Sprintf("%s", c.Blocks), arg)
	})
	if err != nil {
		t.Fatalf("no card shows %q: %v", arg, err)
	}
	return card
}

// told waits until the user was told something alone.
func told(t *testing.T, s *stage.Stage, user, words string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := s.Slack.Await(ctx, func() bool {
		return slices.ContainsFunc(s.Slack.Ephemerals(user), func(e slack.Ephemeral) bool { return strings.Contains(e.Text, words) })
	})
	if err != nil {
		t.Errorf("%s was not told %q, but %+v", user, words, s.Slack.Ephemerals(user))
	}
}

// verified checks the whole record as an auditor would, and returns what
// `audit verify` says.
func verified(t *testing.T, s *stage.Stage) string {
	t.Helper()
	out, errs, code := command(t, nil, "audit", "verify", "--repo", s.Audit,
		"--commit-signers", s.Path("audit_signers"), "--checkpoint-key", s.Path("checkpoint.pub"),
		"--policy", s.Policy.Dir, "--policy-signers", s.Path("policy_signers"))
	if code != 0 {
		t.Errorf("audit verify: exit %d\n%s%s", code, out, errs)
	}
	return out
}

// unused is an address of loopback where nobody listens.
func unused(t *testing.T) string {
	t.Helper()
	addr, err := port.Address()
	if err != nil {
		t.Fatal(err)
	}
	return "http://" + addr
}
