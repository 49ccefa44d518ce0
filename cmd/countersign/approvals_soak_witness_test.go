package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"countersign/audit"
	"countersign/enforcer/approval"
	"countersign/fixtures/slack"
	"countersign/fixtures/stage"
)

// What sees the soak of approvals from outside: the upstream's own count, and the
// test's own reading of the record, which uses nothing of what decided.

// ledger is the upstream: it notes every call before it answers it.
type ledger struct {
	url string

	mu      sync.Mutex
	runs    []ledgerRun
	hanging chan struct{} // a call is to wait until this is closed
	arrived chan struct{}
}

type ledgerRun struct {
	n, step int
	at      time.Time
}

func newLedger(t *testing.T) *ledger {
	t.Helper()
	l := &ledger{}
	s := httptest.NewServer(l)
	t.Cleanup(s.Close)
	l.url = s.URL
	return l
}

// hang has the next call wait, when it has run, until free is called.
func (l *ledger) hang() (arrived <-chan struct{}, free func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hanging, l.arrived = make(chan struct{}), make(chan struct{})
	hanging := l.hanging
	return l.arrived, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.hanging == hanging {
			l.hanging = nil
		}
		close(hanging)
	}
}

// ServeHTTP runs a call. One in twenty is slow, one fails, of one the answer is
// lost.
func (l *ledger) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var m struct {
		ID     json.RawMessage
		Method string
		Params struct {
			Arguments struct {
				What string
				Step int
			}
		}
	}
	if json.NewDecoder(r.Body).Decode(&m) != nil || m.Method != "tools/call" {
		w.WriteHeader(http.StatusAccepted)
		return
	}
	what := m.Params.Arguments.What
	n := requestIn(what)
	l.mu.Lock()
	l.runs = append(l.runs, ledgerRun{n, m.Params.Arguments.Step, time.Now()})
	count := len(l.runs)
	hanging := l.hanging
	if hanging != nil {
		l.hanging = nil
		close(l.arrived)
	}
	l.mu.Unlock()
	if hanging != nil {
		<-hanging
	}
	did, failed := "ran", false
	switch n % 20 {
	case 7:
		select {
		case <-time.After(time.Duration(n%100) * time.Millisecond):
		case <-r.Context().Done():
		}
	case 8:
		did, failed = "failed", true
	case 9:
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"isError":%v,"content":[{"type":"text","text":"%s %s as number %d"}]}}`, m.ID, failed, did, what, count)
}

var requestName = regexp.MustCompile(`req-(\d+)\.`)

// requestIn is the number of the request that a text names, or -1.
func requestIn(text string) int {
	found := requestName.FindStringSubmatch(text)
	if found == nil {
		return -1
	}
	n, _ := strconv.Atoi(found[1]) // digits
	return n
}

// testimony is the record, sorted by what it is about.
type testimony struct {
	last     map[string]approval.Approval // each approval as it stands
	first    map[string]int               // by approval: the request that it is about
	events   map[string][]audit.Entry     // by approval: its changes
	intents  map[string][]audit.Entry     // by approval
	outcomes map[string]audit.Entry       // by call: outcome, or recovery
	refused  []audit.Entry                // votes that did not count
}

func newTestimony(t *testing.T, entries []audit.Entry) *testimony {
	t.Helper()
	r := &testimony{last: map[string]approval.Approval{}, first: map[string]int{}, events: map[string][]audit.Entry{},
		intents: map[string][]audit.Entry{}, outcomes: map[string]audit.Entry{}}
	for _, en := range entries {
		switch en.Kind {
		case audit.KindApproval:
			a := detail[approval.Approval](t, en)
			r.last[a.ID], r.first[a.ID] = a, requestIn(a.Args)
			r.events[a.ID] = append(r.events[a.ID], en)
		case audit.KindIntent:
			r.intents[en.Approval] = append(r.intents[en.Approval], en)
		case audit.KindOutcome, audit.KindRecovered:
			if _, twice := r.outcomes[en.Call]; twice {
				t.Errorf("call %s ended twice", en.Call)
			}
			r.outcomes[en.Call] = en
		case audit.KindVote:
			r.refused = append(r.refused, en)
		}
	}
	return r
}

func detail[T any](t *testing.T, en audit.Entry) (v T) {
	t.Helper()
	if err := json.Unmarshal(en.Detail, &v); err != nil {
		t.Fatalf("entry %d, %s: %v", en.Seq, en.Kind, err)
	}
	return v
}

// gitEntries are all of the record in Git, the oldest first.
func gitEntries(t *testing.T, s *stage.Stage) (all []audit.Entry) {
	t.Helper()
	for _, branch := range strings.Fields(git(t, s.Audit, "for-each-ref", "--format=%(refname)", "refs/heads/audit")) {
		for _, file := range strings.Fields(git(t, s.Audit, "ls-tree", "-r", "--name-only", branch)) {
			if !strings.HasSuffix(file, ".jsonl") {
				continue
			}
			for en, err := range audit.ReadEntries(strings.NewReader(git(t, s.Audit, "cat-file", "blob", branch+":"+file))) {
				if err != nil {
					t.Fatalf("%s: %v", file, err)
				}
				all = append(all, en)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b audit.Entry) int { return a.Time.Compare(b.Time) })
	return all
}

// testify holds everything against everything.
func (w *approvalSoak) testify(r *testimony) {
	t := w.t
	t.Helper()
	states, outcomes := map[string]int{}, map[string]int{}
	for id, a := range r.last {
		states[string(a.State)]++
		for _, why := range slices.Concat(w.decidedOnce(r, id), w.ranRightly(r, id)) {
			t.Errorf("%s of request %d: %s", id, r.first[id], why)
		}
		for _, en := range r.intents[id] {
			outcomes[r.outcomes[en.Call].Status]++
		}
	}
	for _, why := range slices.Concat(w.countsAgree(r), w.callersAgree(r), w.cardsAgree(r), w.forgedInVain(r)) {
		t.Error(why)
	}
	t.Logf("approvals: %v; calls that ran on them, as the record has it: %v; the upstream's count: %d; refused presses in the record: %d",
		states, outcomes, len(w.ledger.runs), len(r.refused))
}

// decidedOnce: one decision, by full and distinct votes of those who may.
func (w *approvalSoak) decidedOnce(r *testimony, id string) (wrong []string) {
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	n := r.first[id]
	if n < 0 {
		return []string{"it is about no request of ours"}
	}
	e := w.errands[n]
	decisions, ended := 0, ""
	for _, en := range r.events[id] {
		a := detail[approval.Approval](w.t, en)
		if ended != "" && en.Status != approval.EventFinished && en.Status != approval.EventCard {
			say("%s after it was %s", en.Status, ended)
		}
		switch en.Status {
		case approval.EventApproved:
			decisions++
			if why := w.notEntitled(e, a); why != "" {
				say("approved, and yet: %s: %+v", why, a.Votes)
			}
		case approval.EventDenied:
			decisions++
			if i := slices.IndexFunc(a.Votes, func(v approval.Vote) bool { return !v.Approve }); i < 0 || a.Reason == "" {
				say("denied by nobody, or without a reason")
			}
		case approval.EventExpired, approval.EventWithdrawn:
			if a.State == approval.Withdrawn {
				say("withdrawn, which nobody did: %s", a.Reason)
			}
			if decisions == 0 {
				decisions++
			}
		}
		if a.State.Ended() {
			ended = string(a.State)
		}
		for _, v := range a.Votes {
			if why := w.notCast(id, v); why != "" {
				say("%s: %+v", why, v)
			}
		}
	}
	if decisions != 1 {
		say("%d decisions: %s", decisions, statuses(r.events[id]))
	}
	return wrong
}

func statuses(all []audit.Entry) (s []string) {
	for _, en := range all {
		s = append(s, en.Status)
	}
	return s
}

// notCast tells why a vote of the record is none that anybody gave.
func (w *approvalSoak) notCast(id string, v approval.Vote) string {
	if v.Slack == nil {
		return "a vote that did not come from Slack"
	}
	w.ballots.mu.Lock()
	p, sent := w.ballots.sent[v.Slack.PayloadHash]
	w.ballots.mu.Unlock()
	action := "deny"
	if v.Approve {
		action = "approve"
	}
	switch {
	case !sent:
		return "a vote that nobody pressed"
	case p.forged != "":
		return "a forged vote counts: " + p.forged
	case p.user != v.Slack.User || p.user != userOf(v.Person) || p.approval != id || p.action != action:
		return fmt.Sprintf("the vote is not what was pressed: %+v", p)
	}
	return ""
}

// notEntitled tells why the approving votes are not those of enough different
// people who may, none of whom asks.
func (w *approvalSoak) notEntitled(e *errand, a approval.Approval) string {
	if a.Subject.Sub != w.people[e.asker] {
		return "asked by " + a.Subject.Sub
	}
	var who []string
	for _, v := range a.Votes {
		switch {
		case !v.Approve:
			return "somebody denied it"
		case v.Sub == a.Subject.Sub:
			return "the requester approved it"
		case slices.Contains(who, v.Sub):
			return "one person counts twice"
		}
		who = append(who, v.Sub)
	}
	var places []int
	for set, n := range w.quorum(e) {
		places = append(places, slices.Repeat([]int{set}, n)...)
	}
	if !w.seated(places, who) {
		return fmt.Sprintf("no full quorum of %v", w.quorum(e))
	}
	return ""
}

// seated tries everything: there are two places at most.
func (w *approvalSoak) seated(places []int, who []string) bool {
	if len(places) == 0 {
		return true
	}
	for i, name := range who {
		if slices.Contains(w.members[places[0]], name) && w.seated(places[1:], slices.Concat(who[:i], who[i+1:])) {
			return true
		}
	}
	return false
}

// ranRightly: what ran was approved, and spent, before; once, but on a window;
// and what is not known of it is said.
func (w *approvalSoak) ranRightly(r *testimony, id string) (wrong []string) {
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	a, n := r.last[id], r.first[id]
	if n < 0 {
		return nil
	}
	intents := r.intents[id]
	if w.errands[n].kind != "wide" && len(intents) > 1 {
		say("%d calls ran on it", len(intents))
	}
	used := map[string]bool{}
	for _, en := range intents {
		if used[en.Call] {
			say("call %s began twice", en.Call)
		}
		used[en.Call] = true
		var approved, spent time.Time
		for _, ev := range r.events[id] {
			switch {
			case ev.Status == approval.EventApproved:
				approved = ev.Time
			case (ev.Status == approval.EventSpent || ev.Status == approval.EventUsed) && ev.Call == en.Call:
				spent = ev.Time
			}
		}
		if approved.IsZero() || spent.Before(approved) || en.Time.Before(spent) {
			say("call %s began at %s; approved %s, spent %s", en.Call, en.Time, approved, spent)
		}
		end, ok := r.outcomes[en.Call]
		outcome := a.Outcome
		if i := slices.IndexFunc(a.Calls, func(u approval.Use) bool { return u.Call == en.Call }); i >= 0 {
			outcome = a.Calls[i].Outcome
		}
		switch {
		case !ok:
			say("call %s has no end", en.Call)
		case outcome == "":
			say("the approval does not know what became of call %s, which is %s", en.Call, end.Status)
		case strings.Contains(end.Reason, "is not known") && outcome != audit.StatusUnknown:
			say("its caller was told of call %s: %s; and the approvers %s", en.Call, end.Reason, outcome)
		case end.Kind == audit.KindRecovered && (end.Status != audit.StatusUnknown || end.Approval != id || outcome != audit.StatusUnknown):
			say("nobody knows what became of call %s, and the record has %s, %s", en.Call, end.Status, outcome)
		}
	}
	for _, ev := range r.events[id] {
		if (ev.Status == approval.EventSpent || ev.Status == approval.EventUsed) && !used[ev.Call] {
			outcome := a.Outcome
			if i := slices.IndexFunc(a.Calls, func(u approval.Use) bool { return u.Call == ev.Call }); i >= 0 {
				outcome = a.Calls[i].Outcome
			}
			if outcome != audit.StatusNotRun {
				say("call %s never began, and the approval has %q", ev.Call, outcome)
			}
		}
	}
	return wrong
}

// countsAgree holds the upstream's count against the record, request by request:
// what the record knows to have run did, and nothing more than that and what it
// says it does not know; none before it was approved.
func (w *approvalSoak) countsAgree(r *testimony) (wrong []string) {
	ran, sure, unsure := map[int]int{}, map[int]int{}, map[int]int{}
	approved := map[int]time.Time{}
	for id, n := range r.first {
		for _, en := range r.intents[id] {
			switch end := r.outcomes[en.Call]; {
			case end.Kind == audit.KindRecovered, end.Status == audit.StatusCancelled, strings.Contains(end.Reason, "not known"):
				unsure[n]++
			default:
				sure[n]++
			}
		}
		for _, en := range r.events[id] {
			if en.Status == approval.EventApproved && (approved[n].IsZero() || en.Time.Before(approved[n])) {
				approved[n] = en.Time
			}
		}
	}
	for _, en := range r.intents[""] {
		wrong = append(wrong, fmt.Sprintf("a call began on no approval: %+v", en))
	}
	for _, run := range w.ledger.runs {
		ran[run.n]++
		if at := approved[run.n]; at.IsZero() || run.at.Before(at) {
			wrong = append(wrong, fmt.Sprintf("request %d ran at %s, approved at %s", run.n, run.at, at))
		}
	}
	for n := range w.errands {
		if ran[n] < sure[n] || ran[n] > sure[n]+unsure[n] {
			wrong = append(wrong, fmt.Sprintf("request %d ran %d times; the record knows of %d, and is unsure of %d", n, ran[n], sure[n], unsure[n]))
		}
	}
	return wrong
}

// callersAgree: what each caller was told is what the record has.
func (w *approvalSoak) callersAgree(r *testimony) (wrong []string) {
	of := map[int][]string{}
	for id, n := range r.first {
		of[n] = append(of[n], id)
	}
	for n, e := range w.errands {
		states, calls := map[approval.State]bool{}, map[string]int{}
		reasons := ""
		for _, id := range of[n] {
			a := r.last[id]
			states[a.State] = true
			reasons += a.Reason
			for _, en := range r.intents[id] {
				calls[r.outcomes[en.Call].Status]++
			}
		}
		right := false
		switch e.end {
		case "result":
			right = calls["ok"] >= e.steps && calls["ok"] >= e.ran
		case "error":
			right = calls["ok"]+calls["error"] > 0
		case "denied":
			_, why, _ := strings.Cut(e.text, `denied this call: "`)
			why, _, _ = strings.Cut(why, `"`)
			right = states[approval.Denied] && why != "" && strings.Contains(reasons, why)
		case "expired":
			right = states[approval.Expired]
		case "used", "unknown":
			right = states[approval.Spent] || e.kind == "wide"
		case "gone":
			right = len(of[n]) > 0
		}
		if !right {
			wrong = append(wrong, fmt.Sprintf("request %d (%s): its caller was told %q (%s); the record has %v, %v", n, e.kind, e.end, e.text, slices.Collect(maps.Keys(states)), calls))
		}
	}
	return wrong
}

// cardsAgree holds what stands in Slack against the record.
func (w *approvalSoak) cardsAgree(r *testimony) (wrong []string) {
	type spot struct{ id, set string }
	cards := map[spot][]slack.Card{}
	for k := range w.members {
		for _, c := range w.stage.Slack.Cards(channelOf(k)) {
			var m struct {
				Payload struct{ Approval, Set string } `json:"event_payload"`
			}
			if len(c.Metadata) > 0 && json.Unmarshal(c.Metadata, &m) == nil {
				at := spot{m.Payload.Approval, m.Payload.Set}
				cards[at] = append(cards[at], c)
				if m.Payload.Approval != "" && r.last[m.Payload.Approval].ID == "" {
					wrong = append(wrong, "a card asks for what the record does not know: "+m.Payload.Approval)
				}
			}
		}
	}
	for id, a := range r.last {
		if r.first[id] < 0 {
			continue
		}
		for _, v := range a.Votes {
			if !slices.ContainsFunc(cards[spot{id, setOf(slices.Index(w.channels(), v.Slack.Channel))}], func(c slack.Card) bool { return c.TS == v.Slack.MessageTS }) {
				wrong = append(wrong, fmt.Sprintf("%s has a vote by a card that is not its own: %+v", id, v.Slack))
			}
		}
		for set := range w.quorum(w.errands[r.first[id]]) { // one may be decided on a set's card before another set's is there
			say := func(format string, args ...any) {
				wrong = append(wrong, fmt.Sprintf("the card of %s (request %d) for %s: ", id, r.first[id], setOf(set))+fmt.Sprintf(format, args...))
			}
			have := cards[spot{id, setOf(set)}]
			known, has := a.Card(setOf(set))
			switch {
			case len(have) > 1:
				say("there are %d", len(have))
			case len(have) == 0 && has && known.TS != "":
				say("it is lost")
			case len(have) == 1:
				if known.TS != have[0].TS || known.Channel != have[0].Channel {
					say("the record has it at %q", known.TS)
				}
				if why := notAs(have[0], a); why != "" {
					say("%s: %s", why, have[0].Text)
				}
			}
		}
	}
	return wrong
}

// notAs tells in what the card differs from the approval.
func notAs(c slack.Card, a approval.Approval) string {
	yes, no := 0, 0
	text := fmt.Sprintf("%s", c.Blocks)
	for _, v := range a.Votes {
		words := "denied by " + v.Person
		if v.Approve {
			yes, words = yes+1, "approved by "+v.Person
		} else {
			no++
		}
		if !strings.Contains(text, words) {
			return "it does not say: " + words
		}
	}
	if strings.Count(text, "approved by p") != yes || strings.Count(text, "denied by p") != no {
		return "it has votes that the record does not have"
	}
	for _, b := range c.Buttons() {
		if a.State.Ended() && (strings.HasSuffix(b.ActionID, "approve") || strings.HasSuffix(b.ActionID, "deny")) {
			return "it can still be pressed"
		}
	}
	words := ""
	switch a.State {
	case approval.Denied:
		words = a.Reason
	case approval.Expired:
		words = "expired"
	case approval.Spent:
		words = map[string]string{"ok": "ran", "error": "ran", audit.StatusNotRun: "not run", audit.StatusUnknown: "unknown", audit.StatusCancelled: "unknown"}[a.Outcome]
		if words == "" {
			return "nobody knows what became of its call: " + a.Outcome
		}
	}
	if !strings.Contains(text, words) {
		return "it does not say: " + words
	}
	return ""
}

// forgedInVain: what was refused is in the record as such, and is what somebody
// sent; every kind of forgery is among it.
func (w *approvalSoak) forgedInVain(r *testimony) (wrong []string) {
	seen := map[string]int{}
	for _, en := range r.refused {
		v := detail[approval.Vote](w.t, en)
		if v.Slack == nil || en.Reason == "" {
			wrong = append(wrong, fmt.Sprintf("a refused press without proof or reason: %+v", en))
			continue
		}
		if p, sent := w.ballots.sent[v.Slack.PayloadHash]; sent && p.forged != "" {
			seen[p.forged]++
		}
	}
	for kind, n := range w.ballots.count {
		how, taken := strings.CutSuffix(kind, ": taken")
		forgery := slices.ContainsFunc(slices.Collect(maps.Values(w.ballots.sent)), func(p pressed) bool { return p.forged == how })
		if taken && forgery && n >= 10 && seen[how] == 0 { // of those that follow each other fast one is named
			wrong = append(wrong, fmt.Sprintf("%d presses with %s were taken, and the record has none of them as refused", n, how))
		}
	}
	return wrong
}

// trim keeps the end of a log, for a test that fails.
func (b *buffer) trim(size int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	end := b.b.Bytes()[max(0, b.b.Len()-size):]
	b.b = *bytes.NewBuffer(slices.Clone(end))
}
