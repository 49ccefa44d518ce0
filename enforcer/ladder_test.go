package enforcer

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"countersign/audit"
	"countersign/enforcer/approval"
	"countersign/enforcer/kv"
	"countersign/enforcer/wire"
	"countersign/rules"
)

// ladder is a gate before a workshop, whose tool risky needs bob's approval.
type ladder struct {
	*gate
	*workshop
	t testing.TB

	mu     sync.Mutex
	events []string // of approvals: "event id"
	got    string   // what the server was last asked, where no test answers for it
	told   chan struct{}
	hook   func(event string)
}

const ladderPeople = `
people:
  bob: { issuer: https://id.example, sub: bob, slack: { team: T0TEST, user: U0BOB } }
sets:
  dba: { members: [bob], channel: C0DBA }
`

const ladderRules = `
- { id: calm, server: echo, tool: calm, effect: allow }
- { id: tasks, server: echo, method: "tasks/*", effect: allow }
- { id: risky, server: echo, tool: risky, effect: approve, reason: Risky things need a DBA, approval: { approvers: dba } }
- { id: prompt, server: echo, method: prompts/get, tool: risky, effect: approve, reason: So do prompts, approval: { approvers: dba } }
`

// ladderPolicy is the files of the ladder's policy, with others over them.
func ladderPolicy(hold string, more map[string]string) map[string]string {
	files := map[string]string{
		"countersign.yaml": "version: 1\napprovals: { hold: " + hold + " }\n", "approvers.yaml": ladderPeople, "rules/echo.yaml": ladderRules,
	}
	for name, text := range more {
		files[name] = text
	}
	return files
}

func newLadder(t testing.TB, hold string, more map[string]string) *ladder {
	t.Helper()
	store, err := kv.OpenEmbedded(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return newLadderOver(t, store, hold, more)
}

func newLadderOver(t testing.TB, store *kv.Store, hold string, more map[string]string) *ladder {
	t.Helper()
	l := &ladder{workshop: &workshop{asked: map[string]int{}}, t: t, told: make(chan struct{})}
	t.Cleanup(func() { fail(t, store.Close()) })
	bucket := func(name string) *kv.Bucket {
		b, err := store.Bucket(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	l.answerWith(func(_ http.ResponseWriter, _ *http.Request, m *wire.Message) bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.got = string(m.Raw)
		return false
	})
	l.gate = newGate(t, l.workshop, ladderPolicy(hold, more), func(c *Config) {
		c.Approvals = approval.New(approval.Config{Bucket: bucket("approvals"), Now: c.Now, Digest: (*rules.Policy).AsksDigest, Record: l.record})
		c.Kept, c.Alone = bucket("callers"), true
	})
	return l
}

func (l *ladder) record(_ context.Context, a approval.Approval, event string) error {
	l.mu.Lock()
	hook := l.hook
	l.mu.Unlock()
	if hook != nil {
		hook(event)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, event+" "+a.ID)
	close(l.told)
	l.told = make(chan struct{})
	return nil
}

// await waits until the event has happened n times, and gives the approval of
// the n-th.
func (l *ladder) await(event string, n int) string {
	l.t.Helper()
	for {
		l.mu.Lock()
		var ids []string
		for _, e := range l.events {
			if id, ok := strings.CutPrefix(e, event+" "); ok {
				ids = append(ids, id)
			}
		}
		told := l.told
		l.mu.Unlock()
		if len(ids) >= n {
			return ids[n-1]
		}
		select {
		case <-told:
		case <-time.After(time.Minute):
			l.t.Fatalf("no %d. %s, but %q", n, event, l.events)
		}
	}
}

func (l *ladder) count(event string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.events {
		if strings.HasPrefix(e, event+" ") {
			n++
		}
	}
	return n
}

func (l *ladder) lastAsked() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.got
}

// vote is bob's, by button.
func (l *ladder) vote(id string, approve bool) { l.t.Helper(); l.voteBy(l.Approvals, id, approve) }

// voteBy is the same through a Book, another process's maybe.
func (l *ladder) voteBy(book *approval.Book, id string, approve bool) {
	l.t.Helper()
	a, err := book.Get(l.t.Context(), id)
	if err != nil {
		l.t.Fatal(err)
	}
	v := approval.Vote{
		Issuer: "https://id.example", Sub: "bob", Approve: approve, Via: approval.ViaSlack, Shown: a.Shows(),
		Slack: &approval.SlackProof{Team: "T0TEST", User: "U0BOB", PayloadHash: "sha256:x"},
	}
	if !approve {
		v.Reason = "ask billing first"
	}
	if _, err := book.Vote(l.t.Context(), id, v, l.Policy()); err != nil {
		l.t.Fatal(err)
	}
}

// install puts another policy in force.
func (l *ladder) install(commit, hold string, more map[string]string) {
	l.t.Helper()
	files := fstest.MapFS{"servers/echo.yaml": {Data: []byte("server: echo\nurl: " + l.url() + "\n")}}
	for name, text := range ladderPolicy(hold, more) {
		files[name] = &fstest.MapFile{Data: []byte(text)}
	}
	p, err := rules.Load(files, commit)
	if err != nil {
		l.t.Fatal(err)
	}
	l.Install(p, time.Now())
}

func (l *ladder) url() string {
	s, _ := l.Policy().Server("echo")
	return s.URL
}

// restarted is another enforcer on the same state, as the next run of this one
// is. It is asked by send.
func (l *ladder) restarted() *Enforcer {
	l.t.Helper()
	e, err := New(l.Config)
	if err != nil {
		l.t.Fatal(err)
	}
	e.Install(l.Policy(), time.Now())
	l.t.Cleanup(func() { fail(l.t, e.Shutdown(context.Background())) })
	return e
}

// sent is an answer.
type sent struct {
	status int
	body   string // as it came
	result map[string]any
	code   float64 // of an error
	text   string  // of an error, or of a tool's result
}

func readSent(t testing.TB, status int, body string) sent {
	t.Helper()
	s := sent{status: status, body: body}
	last := body
	for line := range strings.Lines(body) {
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			last = data
		}
	}
	var m struct {
		Result map[string]any
		Error  struct {
			Code    float64
			Message string
		}
	}
	if err := json.Unmarshal([]byte(last), &m); err != nil && strings.TrimSpace(body) != "" {
		t.Errorf("the answer is no message: %q", body)
	}
	s.result, s.code, s.text = m.Result, m.Error.Code, m.Error.Message
	if content, ok := m.Result["content"].([]any); ok && len(content) > 0 {
		s.text, _ = content[0].(map[string]any)["text"].(string)
	}
	return s
}

// sessionAsk and statelessAsk make a request of either era; in params, _meta is left out.
func sessionAsk(id int, method, params string) (string, http.Header) {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":%q,"params":{%s}}`, id, method, params), http.Header{"Mcp-Protocol-Version": {"2025-11-25"}}
}

func statelessAsk(id int, method, params, capabilities string) (string, http.Header) {
	body := fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":%q,"params":{%s,"_meta":{%q:"2026-07-28","io.modelcontextprotocol/clientCapabilities":%s}}}`,
		id, method, params, wire.MetaVersion, capabilities)
	h := http.Header{"Mcp-Protocol-Version": {"2026-07-28"}, "Mcp-Method": {method}}
	m, err := wire.Parse([]byte(body), wire.Limits{})
	if err != nil {
		panic(err)
	}
	for _, name := range []string{m.Name, m.URI, m.TaskID} {
		if name != "" {
			h.Set("Mcp-Name", name)
		}
	}
	return body, h
}

const (
	risky     = `"name":"risky","arguments":{"n":1}`
	withTasks = `{"extensions":{"io.modelcontextprotocol/tasks":{}}}`
)

// send asks an enforcer in process, and waits for the whole answer.
func (l *ladder) send(ctx context.Context, e *Enforcer, body string, header http.Header) sent {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 4*time.Minute) // one that hangs leaves
	defer cancel()
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, e.PublicURL+"/mcp/echo", bytes.NewReader([]byte(body)))
	for name, values := range header {
		r.Header[name] = values
	}
	r.Header.Set("Authorization", "Bearer "+l.token)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, text/event-stream")
	w := httptest.NewRecorder()
	e.Handler().ServeHTTP(w, r)
	return readSent(l.t, w.Code, w.Body.String())
}

func (l *ladder) ask(body string, header http.Header) sent {
	l.t.Helper()
	return l.send(l.t.Context(), l.Enforcer, body, header)
}

func (l *ladder) asking(ctx context.Context, body string, header http.Header) <-chan sent {
	done := make(chan sent, 1)
	go func() { done <- l.send(ctx, l.Enforcer, body, header) }()
	return done
}

// recorded are the entries of a status.
func (l *ladder) recorded(status string) (found []audit.Entry) {
	l.t.Helper()
	for en, err := range l.Journal.Read() {
		if err != nil {
			l.t.Fatal(err)
		}
		if en.Status == status {
			found = append(found, en)
		}
	}
	return found
}

func (l *ladder) ran() int { return l.times("risky") }

// The rung that every client has: it is held, told that the approval is pending,
// and the identical call attaches to it. It is told where to look.
func TestThePendingResult(t *testing.T) {
	l := newLadder(t, "1ms", nil)
	for i := range 2 {
		got := l.ask(sessionAsk(i, "tools/call", risky))
		id := l.await(approval.EventAsked, 1)
		wantAll(t, got.body, "approval pending", id, l.PublicURL+"/approvals/"+id, `"isError":true`)
	}
	if n := l.count(approval.EventAsked); n != 1 {
		t.Errorf("asked %d times", n)
	}
	if l.await(approval.EventLeft, 1) != l.await(approval.EventAsked, 1) || l.count(approval.EventBack) == 0 {
		t.Errorf("events %q", l.events)
	}
	l.vote(l.await(approval.EventAsked, 1), true)
	if got := l.ask(sessionAsk(7, "tools/call", risky)); got.text != "ran risky" || l.ran() != 1 {
		t.Errorf("got %s after %d runs", got.body, l.ran())
	}
}

// A client's own hold counts.
func TestAHoldForOneClient(t *testing.T) {
	l := newLadder(t, "1h", map[string]string{"countersign.yaml": "version: 1\napprovals: { hold: 1h, holds: { desk-assistant: 1ms } }\n"})
	wantAll(t, l.ask(sessionAsk(1, "tools/call", risky)).body, "approval pending")
}

// A denial that nobody waited for is told to the identical call, once, also
// after a restart; the one after that asks anew.
func TestADenialIsTold(t *testing.T) {
	for name, start := range map[string]func(*ladder) *Enforcer{
		"the same run": func(l *ladder) *Enforcer { return l.Enforcer }, "the next one": (*ladder).restarted,
	} {
		t.Run(name, func(t *testing.T) {
			l := newLadder(t, "1ms", nil)
			l.ask(sessionAsk(1, "tools/call", risky))
			l.vote(l.await(approval.EventAsked, 1), false)
			e := start(l)
			got := l.send(t.Context(), e, `{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{`+risky+`}}`, nil)
			wantAll(t, got.body, "bob denied this call", "ask billing first", `"isError":true`)
			if l.count(approval.EventAsked) != 1 {
				t.Errorf("it asked again")
			}
			body, h := sessionAsk(3, "tools/call", risky)
			wantAll(t, l.send(t.Context(), e, body, h).body, "approval pending")
			if l.count(approval.EventAsked) != 2 || l.ran() != 0 {
				t.Errorf("asked %d times, ran %d", l.count(approval.EventAsked), l.ran())
			}
		})
	}
}

func state(t testing.TB, got sent) string {
	t.Helper()
	s, _ := got.result["requestState"].(string)
	if got.result["resultType"] != "input_required" || s == "" || !strings.Contains(got.body, `"inputRequests":{}`) {
		t.Fatalf("no ticket in %s", got.body)
	}
	return s
}

func withState(s string) string { return risky + `,"requestState":` + string(wire.Quote(s)) }

// A client of the stateless era waits on with a requestState of ours, which its
// server never sees; the answers before the last are tickets.
func TestTickets(t *testing.T) {
	l := newLadder(t, "1ms", nil)
	s := state(t, l.ask(statelessAsk(1, "tools/call", risky, "{}")))
	if strings.Contains(s, "risky") || strings.Contains(s, "alice") {
		t.Error("the ticket can be read")
	}
	second := state(t, l.ask(statelessAsk(2, "tools/call", withState(s), "{}")))
	got := l.ask(statelessAsk(3, "tools/call", withState(second), "{}"))
	wantAll(t, got.body, "approval pending", `"isError":true`)
	if n := l.count(approval.EventAsked); n != 1 {
		t.Errorf("asked %d times", n)
	}
	l.vote(l.await(approval.EventAsked, 1), true)
	got = l.ask(statelessAsk(4, "tools/call", withState(second)+`,"inputResponses":{}`, "{}"))
	if got.text != "ran risky" || l.ran() != 1 {
		t.Errorf("got %s", got.body)
	}
	if sent := l.lastAsked(); strings.Contains(sent, "requestState") || strings.Contains(sent, "inputResponses") || !strings.Contains(sent, `"arguments":{"n":1}`) {
		t.Errorf("the server got %s", sent)
	}
	// The ticket's approval is used up, and that is said.
	wantAll(t, l.ask(statelessAsk(5, "tools/call", withState(second), "{}")).body, "used already")
	if len(l.recorded("pending")) != 3 {
		t.Errorf("%d entries say pending", len(l.recorded("pending")))
	}
	// prompts/get may be answered so, too.
	got = l.ask(statelessAsk(6, "prompts/get", `"name":"risky"`, "{}"))
	state(t, got)
}

// A ticket tells of the denial, whatever else is known.
func TestATicketIsToldOfADenial(t *testing.T) {
	l := newLadder(t, "1ms", nil)
	s := state(t, l.ask(statelessAsk(1, "tools/call", risky, "{}")))
	l.vote(l.await(approval.EventAsked, 1), false)
	for i := range 2 {
		wantAll(t, l.ask(statelessAsk(2+i, "tools/call", withState(s), "{}")).body, "bob denied this call", "ask billing first")
	}
	if l.count(approval.EventAsked) != 1 {
		t.Error("it asked again")
	}
}

// A window outlives the time in which it could be approved: whoever comes back
// with a ticket then runs on it.
func TestATicketForAWindow(t *testing.T) {
	window := strings.Replace(ladderRules, "approval: { approvers: dba }", "approval: { approvers: dba, grant: { for: 1h, scope: exact } }", 1)
	l := newLadder(t, "1ms", map[string]string{"rules/echo.yaml": window})
	s := state(t, l.ask(statelessAsk(1, "tools/call", risky, "{}")))
	l.vote(l.await(approval.EventAsked, 1), true)
	e := l.restarted()
	e.Now = func() time.Time { return time.Now().Add(16 * time.Minute) } // it had 15 to be approved
	body, h := statelessAsk(2, "tools/call", withState(s), "{}")
	if got := l.send(t.Context(), e, body, h); got.text != "ran risky" {
		t.Errorf("got %s", got.body)
	}
}

// A requestState with our prefix is ours, unchanged, in time, and for this
// caller, server and call, or it is refused by name, on record.
func TestForeignTickets(t *testing.T) {
	l := newLadder(t, "1ms", map[string]string{"servers/other.yaml": "server: other\nurl: http://127.0.0.1:1/mcp\n",
		"rules/other.yaml": "- { id: other, server: other, tool: risky, effect: approve, reason: r, approval: { approvers: dba } }\n"})
	good := state(t, l.ask(statelessAsk(1, "tools/call", risky, "{}")))
	make := func(edit func(*ticket)) string {
		tk, err := readTicket(l.tickets, good, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		edit(&tk)
		s, err := l.tickets.Close(ticketPurpose, time.Now().Add(time.Hour), tk)
		if err != nil {
			t.Fatal(err)
		}
		return ticketPrefix + s
	}
	const notOurs = "requestState was not given by this gateway, was changed on the way, or is too old"
	old, err := l.tickets.Close(ticketPurpose, time.Now().Add(-time.Second), ticket{})
	if err != nil {
		t.Fatal(err)
	}
	other, err := l.tickets.Close("another purpose", time.Now().Add(time.Hour), ticket{})
	if err != nil {
		t.Fatal(err)
	}
	flipped := []byte(good)
	flipped[len(flipped)/2] ^= 1
	for name, c := range map[string]struct{ state, params, want string }{
		"nothing":               {ticketPrefix, "", notOurs},
		"no base64":             {ticketPrefix + "!!!!", "", notOurs},
		"cut":                   {good[:len(good)-3], "", notOurs},
		"changed":               {string(flipped), "", notOurs},
		"too old":               {ticketPrefix + old, "", notOurs},
		"for another purpose":   {ticketPrefix + other, "", notOurs},
		"another subject's":     {make(func(t *ticket) { t.Sub = "mallory" }), "", "was given to another caller"},
		"of another issuer":     {make(func(t *ticket) { t.Issuer = "https://x" }), "", "was given to another caller"},
		"another client's":      {make(func(t *ticket) { t.Client = "x" }), "", "was given to another caller"},
		"for another server":    {make(func(t *ticket) { t.Server = "other" }), "", "for a call of another server"},
		"for other arguments":   {good, `"name":"risky","arguments":{"n":2}`, "for another call, or for other arguments"},
		"for another tool":      {good, `"name":"calm","arguments":{"n":1}`, "for another call, or for other arguments"},
		"with answers to input": {good, risky + `,"inputResponses":{"a":{}}`, "asked for no input"},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(l.recorded("bad-request"))
			params := c.params
			if params == "" {
				params = risky
			}
			got := l.ask(statelessAsk(9, "tools/call", params+`,"requestState":`+string(wire.Quote(c.state)), "{}"))
			if got.code != -32602 || got.status != http.StatusBadRequest || !strings.Contains(got.text, c.want) {
				t.Errorf("got %d %s", got.status, got.body)
			}
			if len(l.recorded("bad-request")) != before+1 {
				t.Error("it is not in the record")
			}
		})
	}
	if l.ran() != 0 || l.times("calm") != 0 {
		t.Error("something ran")
	}
	// The server's own goes through, on any method.
	got := l.ask(statelessAsk(10, "tools/call", `"name":"calm","arguments":{},"requestState":"countersign-wait"`, "{}"))
	if got.text != "ran calm" || !strings.Contains(l.lastAsked(), `"requestState":"countersign-wait"`) {
		t.Errorf("got %s, the server %s", got.body, l.lastAsked())
	}
	// A request that carries one of its own gets no ticket, which could not hold it.
	wantAll(t, l.ask(statelessAsk(11, "tools/call", risky+`,"requestState":"theirs"`, "{}")).body, "approval pending")
}

func FuzzTicket(f *testing.F) {
	s, err := approval.NewSeal(make([]byte, 32))
	if err != nil {
		f.Fatal(err)
	}
	now := time.Unix(1e9, 0)
	good, err := s.Close(ticketPurpose, now.Add(time.Hour), ticket{Issuer: "i", Sub: "s", Digest: "d", Rounds: 1})
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{ticketPrefix + good, ticketPrefix, good, ticketPrefix + "AAAA", ticketPrefix + good + "=", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, state string) {
		if got, err := readTicket(s, state, now); err == nil && (state != ticketPrefix+good || got.Digest != "d") {
			t.Errorf("%q was taken for a ticket", state)
		}
	})
}

// A policy that changes while a caller waits is noticed at once.
func TestThePolicyChangesWhileACallerWaits(t *testing.T) {
	allow := strings.Replace(ladderRules, "effect: approve, reason: Risky things need a DBA, approval: { approvers: dba }", "effect: allow", 1)
	deny := ladderRules + "- { id: never, server: echo, tool: risky, effect: deny, reason: Not today }\n"
	stricter := strings.Replace(ladderRules, "Risky things need a DBA", "Risky things need a DBA who knows", 1)
	t.Run("denied", func(t *testing.T) {
		l := newLadder(t, "1h", nil)
		waiting := l.asking(t.Context(), first(sessionAsk(1, "tools/call", risky)), nil)
		id := l.await(approval.EventAsked, 1)
		l.install("b1", "1h", map[string]string{"rules/echo.yaml": deny})
		wantAll(t, (<-waiting).body, "now denies it", "Not today")
		if a, err := l.Approvals.Get(t.Context(), id); err != nil || a.State != approval.Withdrawn || !strings.Contains(a.Reason, "Not today") {
			t.Errorf("%v %+v", err, a)
		}
	})
	t.Run("allowed", func(t *testing.T) {
		l := newLadder(t, "1h", nil)
		waiting := l.asking(t.Context(), first(sessionAsk(1, "tools/call", risky)), nil)
		id := l.await(approval.EventAsked, 1)
		l.install("b1", "1h", map[string]string{"rules/echo.yaml": allow})
		if got := <-waiting; got.text != "ran risky" {
			t.Errorf("got %s", got.body)
		}
		if a, err := l.Approvals.Get(t.Context(), id); err != nil || a.State != approval.Withdrawn || !strings.Contains(a.Reason, "without approval") {
			t.Errorf("%v %+v", err, a)
		}
	})
	t.Run("asked in other words", func(t *testing.T) {
		l := newLadder(t, "1h", nil)
		waiting := l.asking(t.Context(), first(sessionAsk(1, "tools/call", risky)), nil)
		id := l.await(approval.EventAsked, 1)
		l.install("b1", "1h", map[string]string{"rules/echo.yaml": stricter})
		if renewed := l.await(approval.EventRenewed, 1); renewed != id {
			t.Errorf("renewed %s, not %s", renewed, id)
		}
		l.vote(id, true)
		if got := <-waiting; got.text != "ran risky" || l.ran() != 1 {
			t.Errorf("got %s", got.body)
		}
	})
	t.Run("something else", func(t *testing.T) {
		l := newLadder(t, "1h", nil)
		waiting := l.asking(t.Context(), first(sessionAsk(1, "tools/call", risky)), nil)
		id := l.await(approval.EventAsked, 1)
		l.install("b1", "1h", map[string]string{"rules/more.yaml": "- { id: more, server: echo, tool: more, effect: allow }\n"})
		if again := l.await(approval.EventAsked, 2); again != id { // under the new commit
			t.Errorf("asked %s, not %s", again, id)
		}
		l.vote(id, true)
		if got := <-waiting; got.text != "ran risky" || l.ran() != 1 {
			t.Errorf("got %s", got.body)
		}
	})
}

func first[A, B any](a A, _ B) A { return a }

// A call that a window covers runs at once, is counted, and says so in the
// record; freezes, quotas and the policy decide about it like about any other.
func TestCallsOnAWindow(t *testing.T) {
	window := strings.Replace(ladderRules, "approval: { approvers: dba }", "approval: { approvers: dba, grant: { for: 1h, scope: tool } }", 1)
	l := newLadder(t, "1h", map[string]string{"rules/echo.yaml": window})
	waiting := l.asking(t.Context(), first(sessionAsk(1, "tools/call", risky)), nil)
	id := l.await(approval.EventAsked, 1)
	l.vote(id, true)
	if got := <-waiting; got.text != "ran risky" {
		t.Fatalf("got %s", got.body)
	}
	for n := 2; n < 5; n++ { // the same, and others
		if got := l.ask(sessionAsk(n, "tools/call", fmt.Sprintf(`"name":"risky","arguments":{"n":%d}`, n/2))); got.text != "ran risky" {
			t.Errorf("got %s", got.body)
		}
	}
	if a, err := l.Approvals.Get(t.Context(), id); err != nil || a.Uses != 4 || l.count(approval.EventUsed) != 4 || l.count(approval.EventAsked) != 1 {
		t.Errorf("%v: %d uses; %q", err, a.Uses, l.events)
	}
	ends := 0
	for _, en := range l.recorded(audit.StatusOK) {
		if en.Kind == audit.KindOutcome && en.Approval == id && strings.Contains(string(en.Detail), `"window":"`) {
			ends++
		}
	}
	if ends != 4 {
		t.Errorf("%d outcomes say that they ran on a window", ends)
	}
	l.install("b1", "1ms", map[string]string{"rules/echo.yaml": strings.Replace(window, "need a DBA", "need a DBA who knows", 1)})
	wantAll(t, l.ask(sessionAsk(9, "tools/call", risky)).body, "approval pending")
	if l.ran() != 4 {
		t.Errorf("ran %d times", l.ran())
	}
}
