package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"countersign/audit"
	"countersign/enforcer/approval"
	"countersign/fixtures/slack"
	"countersign/fixtures/stage"
)

// The soak of approvals: many requests pending at once, of people who may
// approve those of others; voters who press at random, twice, too late, what is
// not theirs, and what nobody was shown; an enforcer that is killed at random and
// at the worst moments; a Slack that is away, slow, or loses answers. In the end
// the record, Slack's channels, the upstream's own count and what each caller was
// told are held against each other: see approvals_soak_witness_test.go.
//
// The mix, of a hundred requests: 45 want one approval, 20 two of one set, 20 one
// each of two sets that share members, 9 open a window and call three times, 6
// expire after ten seconds. One caller in five leaves now and then and comes back;
// one in ten leaves for good, and one makes its call twice at once.
//
// COUNTERSIGN_SOAK_APPROVALS says how many requests (`make soak`: 1,000, with 50
// voters), COUNTERSIGN_SOAK_SEED which ones, who presses what, and when the
// enforcer dies.
func TestApprovalsSoak(t *testing.T) {
	t.Parallel()
	requests, seed := soakNumber(t, "COUNTERSIGN_SOAK_APPROVALS", 60), soakNumber(t, "COUNTERSIGN_SOAK_SEED", 20260728)
	t.Logf("%d requests, seed %d", requests, seed)
	w := newApprovalSoak(t, requests, uint64(seed))
	begin := time.Now()
	since := func() time.Duration { return time.Since(begin).Round(100 * time.Millisecond) }

	var deaths, agents, voters sync.WaitGroup
	deaths.Go(w.deaths)
	for n := range w.errands {
		agents.Go(func() { w.send(w.errands[n]) })
	}
	w.until("every request is asked", func() bool { return int(w.asked.Load()) == requests })
	t.Logf("%s: all are pending", since())
	close(w.open)
	voting, stopVoting := context.WithCancel(t.Context())
	defer stopVoting()
	for i := range w.people {
		voters.Go(func() { w.vote(voting, i) })
	}
	trouble, calm := context.WithCancel(t.Context())
	voters.Go(func() { w.trouble(trouble) })
	w.until("every caller has its answer", func() bool { return int(w.done.Load()) == requests })
	agents.Wait()
	t.Logf("%s: every caller has its answer", since())
	calm()
	deaths.Wait()
	w.until("every request is decided", func() bool { return len(w.pending()) == 0 })
	stopVoting()
	voters.Wait()
	w.until("every card says what the record says", func() bool { return len(w.cardsAgree(newTestimony(t, w.program.journal()))) == 0 })
	w.program.stop()
	t.Logf("%s: the record is complete", since())

	verified(t, w.stage)
	w.testify(newTestimony(t, gitEntries(t, w.stage)))
	for _, why := range slices.Sorted(maps.Keys(w.told)) {
		t.Logf("callers were told: %d × %q", w.told[why], why)
	}
	for _, kind := range slices.Sorted(maps.Keys(w.ballots.count)) {
		t.Logf("pressed: %d × %s", w.ballots.count[kind], kind)
	}
	t.Logf("%s: %d requests, %d kills (%s), seed %d", since(), requests, w.kills, strings.Join(w.manner, ", "), w.seed)
}

// asHurried has the program's bot wait a twentieth of the time for its turn at
// Slack, whose double sets no pace here: that pace has tests of its own.
const asHurried = "COUNTERSIGN_TEST_HURRIED"

func init() {
	if os.Getenv(asHurried) != "" {
		botSleep = func(ctx context.Context, d time.Duration) error { return pause(ctx, d/20) }
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// errand is one request of one caller, and what it is told in the end.
type errand struct {
	n     int
	kind  string // one, two, both, wide, hasty
	set   int
	asker int // of the people
	tool  string
	steps int // calls to make, of a window
	twin  bool
	leave int // 0: it waits; 1: it leaves and comes back; 2: it leaves for good

	asked sync.Once
	end   string // how it ended, for the caller: result, error, denied, expired, used, unknown, gone
	text  string // the last answer
	ran   int    // results
}

func (e *errand) what() string { return fmt.Sprintf("req-%d.", e.n) }

// approvalSoak is what takes part.
type approvalSoak struct {
	t       *testing.T
	seed    uint64
	stage   *stage.Stage
	env     map[string]string
	ledger  *ledger
	people  []string   // their names, subs, and Slack users without the prefix
	members [][]string // by set
	errands []*errand
	client  http.Client

	asked, done atomic.Int64
	open        chan struct{} // closed when the voting begins

	up      sync.RWMutex // held while the enforcer is not there
	program *program
	kills   int
	manner  []string

	ballots ballots

	mu   sync.Mutex
	told map[string]int
}

func newApprovalSoak(t *testing.T, requests int, seed uint64) *approvalSoak {
	w := &approvalSoak{t: t, seed: seed, stage: newStage(t), ledger: newLedger(t), open: make(chan struct{}), told: map[string]int{},
		client: http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}}
	t.Cleanup(w.client.CloseIdleConnections)
	people, sets := 12, 4
	if requests >= 200 {
		people, sets = 50, 10
	}
	for i := range people {
		w.people = append(w.people, fmt.Sprintf("p%02d", i))
	}
	w.members = make([][]string, sets)
	for i, name := range w.people {
		for _, k := range []int{i % sets, (i + 1) % sets} {
			w.members[k] = append(w.members[k], name)
		}
	}
	w.workspace()
	hold := "3s"
	if requests >= 200 {
		hold = "15s"
	}
	amend(t, w.stage, w.stage.Dana, map[string]string{
		"countersign.yaml":    "version: 1\napprovals: { hold: " + hold + ", expires: 4h }\n",
		"servers/ledger.yaml": "server: ledger\nurl: " + w.ledger.url + "\ntimeout: 1m\n",
		"approvers.yaml":      w.approvers(), "rules/ledger.yaml": w.rules(),
		"rules/customers.yaml": "", "tests/customers.yaml": "",
	})
	r := rand.New(rand.NewPCG(seed, 1))
	w.errands = make([]*errand, requests)
	for n := range w.errands {
		e := &errand{n: n, set: r.IntN(sets), asker: r.IntN(people), steps: 1}
		switch p := r.IntN(100); {
		case p < 45:
			e.kind = "one"
		case p < 65:
			e.kind = "two"
		case p < 85:
			e.kind = "both"
		case p < 94:
			e.kind, e.steps = "wide", 3
		default:
			e.kind = "hasty"
		}
		e.tool = fmt.Sprintf("%s-%d", e.kind, e.set)
		if e.kind == "wide" {
			e.tool += fmt.Sprintf("-%d", n) // a window of its own
		}
		switch r.IntN(10) {
		case 0, 1:
			e.leave = 1
		case 2:
			e.leave = 2
		case 3:
			e.twin = e.kind != "wide" // on a window both run
		}
		w.errands[n] = e
	}
	w.env = map[string]string{asHurried: "1", "SLACK_APP_TOKEN": w.stage.Slack.AppToken(), "COUNTERSIGN_LOG_LEVEL": "info"}
	w.program = serving(t, w.stage, w.env)
	return w
}

// workspace puts one with enough people and channels in the place of the
// stage's.
func (w *approvalSoak) workspace() {
	o := slack.Options{Token: w.stage.Slack.Token(), Secret: w.stage.Slack.Secret(), Team: w.stage.Slack.Team(), Unpaced: true}
	for k := range w.members {
		o.Channels = append(o.Channels, slack.Channel{ID: channelOf(k), Name: fmt.Sprint("set-", k)})
	}
	for _, name := range w.people {
		o.Users = append(o.Users, slack.User{ID: userOf(name), Name: name})
	}
	s, err := slack.New(o)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = s.Close() })
	s.DeliverTo(w.stage.URL + "/slack/interactions")
	w.stage.Slack = s
}

func (w *approvalSoak) channels() (all []string) {
	for k := range w.members {
		all = append(all, channelOf(k))
	}
	return all
}

func channelOf(set int) string    { return fmt.Sprintf("C0SET%d", set) }
func userOf(person string) string { return "U0" + strings.ToUpper(person) }
func setOf(k int) string          { return fmt.Sprint("set", k) }

func (w *approvalSoak) approvers() string {
	var b strings.Builder
	b.WriteString("people:\n")
	for _, name := range w.people {
		fmt.Fprintf(&b, "  %s: { issuer: %q, sub: %s, email: %s@example.com, slack: { team: %s, user: %s } }\n",
			name, w.stage.Issuer.URL, name, name, w.stage.Slack.Team(), userOf(name))
	}
	b.WriteString("sets:\n")
	for k, members := range w.members {
		fmt.Fprintf(&b, "  %s: { members: [%s], channel: %s }\n", setOf(k), strings.Join(members, ", "), channelOf(k))
	}
	b.WriteString("  dba: { members: [p00], channel: C0SET0 }\n") // who may freeze, in the stage's policy
	return b.String()
}

func (w *approvalSoak) rules() string {
	var b strings.Builder
	for k := range w.members {
		rule := func(id, tool, how string) {
			fmt.Fprintf(&b, "- { id: %s-%d, server: ledger, tool: %q, effect: approve, reason: Someone has to look, approval: { %s } }\n", id, k, tool, how)
		}
		of := "approvers: " + setOf(k)
		rule("one", fmt.Sprint("one-", k), of)
		rule("two", fmt.Sprint("two-", k), of+", quorum: 2")
		rule("both", fmt.Sprint("both-", k), of)
		rule("too", fmt.Sprint("both-", k), "approvers: "+setOf((k+1)%len(w.members)))
		rule("wide", fmt.Sprintf("wide-%d-*", k), of+", grant: { for: 1h, scope: tool }")
		rule("hasty", fmt.Sprint("hasty-", k), of+", expires: 10s")
	}
	return b.String()
}

// quorum is how many of which sets have to approve the errand.
func (w *approvalSoak) quorum(e *errand) map[int]int {
	switch e.kind {
	case "two":
		return map[int]int{e.set: 2}
	case "both":
		return map[int]int{e.set: 1, (e.set + 1) % len(w.members): 1}
	}
	return map[int]int{e.set: 1}
}

// running is the enforcer, once there is one.
func (w *approvalSoak) running() *program {
	w.up.RLock()
	defer w.up.RUnlock()
	return w.program
}

// until waits for what must come; when it does not, the test ends there.
func (w *approvalSoak) until(what string, cond func() bool) {
	w.t.Helper()
	limit := time.After(max(patience, time.Duration(len(w.errands))*3*time.Second))
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-limit:
			w.t.Fatalf("it does not come to this: %s\n%s", what, w.stuck())
		case <-tick.C:
		}
	}
}

// stuck says what is left to be done.
func (w *approvalSoak) stuck() string {
	var b strings.Builder
	record := newTestimony(w.t, w.running().journal())
	for id := range w.pending() {
		fmt.Fprintf(&b, "pending: %+v\n", record.last[id])
	}
	for _, why := range w.cardsAgree(record) {
		fmt.Fprintln(&b, why)
	}
	fmt.Fprintln(&b, w.told)
	return b.String()
}

// pending are the approvals that wait for a person, as far as the record knows.
func (w *approvalSoak) pending() map[string]bool {
	all := map[string]bool{}
	for _, en := range w.running().journal() {
		if en.Kind == audit.KindApproval {
			if strings.Contains(string(en.Detail), `"state":"`+string(approval.Pending)+`"`) {
				all[en.Approval] = true
			} else {
				delete(all, en.Approval)
			}
		}
	}
	return all
}

// send is a caller on its errand: it makes its call, and makes it again as an
// agent does, until it knows what came of it.
func (w *approvalSoak) send(e *errand) {
	defer w.done.Add(1)
	defer e.asked.Do(func() { w.asked.Add(1) })
	token, err := w.stage.Token(w.people[e.asker], nil, nil)
	if err != nil {
		w.t.Error(err)
		return
	}
	r := rand.New(rand.NewPCG(w.seed, uint64(e.n)+1000))
	step, tries := 0, 0
	for e.end == "" && w.t.Context().Err() == nil {
		body := fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":%q,"arguments":{"what":%q,"step":%d}}}`,
			tries, e.tool, e.what(), step)
		tries++
		ctx, leave := context.WithTimeout(w.t.Context(), patience)
		var twin sync.WaitGroup
		if e.twin { // the same call twice at once: one of them runs, if any
			twin.Go(func() {
				ctx, cancel := context.WithTimeout(w.t.Context(), patience)
				defer cancel()
				_, _ = w.post(ctx, w.running(), token, strings.Replace(body, `"id":`, `"id":1`, 1), func() {}) // what it is told, the other is told, too, or that it is used
			})
		}
		leaves, after := e.leave == 1 && r.IntN(2) == 0 || e.leave == 2, time.Duration(50+r.IntN(1500))*time.Millisecond
		waited := false
		a, err := w.post(ctx, w.running(), token, body, func() {
			waited = true
			e.asked.Do(func() { w.asked.Add(1) })
			if leaves {
				time.AfterFunc(after, leave)
			}
		})
		leave()
		twin.Wait()
		if err != nil {
			w.hear("nothing: the caller left, or the enforcer was killed")
			if e.leave == 2 && waited {
				e.end = "gone"
			}
			continue
		}
		e.text = a.text
		switch {
		case strings.HasPrefix(a.text, "ran "+e.what()):
			e.ran++
			if step++; step == e.steps {
				e.end = "result"
			}
		case strings.HasPrefix(a.text, "failed "+e.what()):
			e.end = "error"
		case strings.Contains(a.text, "denied this call"):
			e.end = "denied"
		case strings.Contains(a.text, "in time"), strings.Contains(a.text, "the approval has expired"):
			e.end = "expired"
		case strings.Contains(a.text, "used already"):
			e.end = "used"
		case strings.Contains(a.text, "is not known"):
			e.end = "unknown"
		case strings.Contains(a.text, "approval pending"):
			w.hear("pending")
			continue
		default:
			w.hear(a.text[:min(len(a.text), 100)])
			if pause(w.t.Context(), 200*time.Millisecond) != nil {
				return
			}
			continue
		}
		if e.end != "" {
			w.hear(e.end)
		}
	}
}

func (w *approvalSoak) hear(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told[what]++
}

// post makes a call, and tells as soon as it is known to wait for a person.
func (w *approvalSoak) post(ctx context.Context, p *program, token, body string, waits func()) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.stage.URL+"/mcp/ledger", strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := w.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	var text strings.Builder
	lines := bufio.NewReader(resp.Body)
	for {
		line, err := lines.ReadString('\n')
		text.WriteString(line)
		if strings.Contains(line, "approval ap_") {
			waits()
		}
		if err == io.EOF {
			a := readAnswer(resp.StatusCode, resp.Header, text.String())
			if a.text == "" { // the stream was cut between two events
				return a, io.ErrUnexpectedEOF
			}
			return a, nil
		}
		if err != nil {
			return answer{}, err
		}
	}
}

// deaths kills the enforcer with SIGKILL, at moments that the seed says: at any,
// while the upstream works on an approved call, and after a card is posted and
// before anybody knows where.
func (w *approvalSoak) deaths() {
	r := rand.New(rand.NewPCG(w.seed, 2))
	all := len(w.errands)
	manner := []string{"posting", "at work", "at any moment", "at work"}
	if all >= 200 {
		for range all / 50 {
			manner = append(manner, []string{"posting", "at work", "at any moment"}[r.IntN(3)])
		}
	}
	at := []int{all/4 + r.IntN(all/2)} // of 2 × all: each request is asked, and answered
	for range manner[1:] {
		at = append(at, all+r.IntN(all*9/10))
	}
	slices.Sort(at)
	for i, n := range at {
		how := manner[i]
		for int(w.asked.Load()+w.done.Load()) < n {
			if pause(w.t.Context(), 10*time.Millisecond) != nil {
				return
			}
		}
		w.die(how, time.Duration(r.IntN(200))*time.Millisecond)
	}
}

func (w *approvalSoak) die(how string, after time.Duration) {
	ctx, cancel := context.WithTimeout(w.t.Context(), 5*time.Second)
	defer cancel()
	release := func() {}
	switch how {
	case "at work":
		arrived, free := w.ledger.hang()
		release = free
		select {
		case <-arrived:
		case <-ctx.Done(): // nobody calls just now
		}
	case "posting":
		before := w.posted()
		w.stage.Slack.Lose("chat.postMessage")
		if w.stage.Slack.Await(ctx, func() bool { return w.posted() > before }) != nil {
			break // nothing is posted just now
		}
	default:
		if pause(ctx, after) != nil {
			return
		}
	}
	w.up.Lock()
	defer w.up.Unlock()
	w.program.kill()
	release()
	w.program.log.trim(1 << 16)
	w.kills++
	w.manner = append(w.manner, how)
	w.stage.Slack.DeliverTo([]string{"", w.stage.URL + "/slack/interactions"}[w.kills%2])
	w.program = serving(w.t, w.stage, w.env)
}

func (w *approvalSoak) posted() (n int) {
	for k := range w.members {
		n += len(w.stage.Slack.Cards(channelOf(k)))
	}
	return n
}

// trouble is what Slack has meanwhile.
func (w *approvalSoak) trouble(ctx context.Context) {
	r := rand.New(rand.NewPCG(w.seed, 3))
	s := w.stage.Slack
	for pause(ctx, time.Duration(200+r.IntN(1500))*time.Millisecond) == nil {
		method := []string{"chat.postMessage", "chat.update", "views.open", "chat.postEphemeral", "conversations.history"}[r.IntN(5)]
		switch r.IntN(6) {
		case 0:
			s.Down(true)
			_ = pause(ctx, time.Duration(r.IntN(1000))*time.Millisecond) // up again, whatever ends it
			s.Down(false)
		case 1:
			for range 3 {
				s.Limit(method, 1+r.IntN(3))
			}
		case 2:
			s.Lose(method)
		case 3:
			s.Break(method)
		case 4:
			s.Stumble(method, http.StatusBadGateway)
		case 5:
			s.Cut()
		}
	}
}
