package enforcer

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"countersign/enforcer/approval"
	"countersign/enforcer/wire"
)

func taskOf(t testing.TB, got sent) string {
	t.Helper()
	in := got.result
	if inner, ok := in["task"].(map[string]any); ok {
		in = inner
	}
	id, _ := in["taskId"].(string)
	if !ownTask(id) || in["status"] != "working" {
		t.Fatalf("no task in %s", got.body)
	}
	return id
}

func (l *ladder) getTask(id string) sent {
	l.t.Helper()
	return l.ask(statelessAsk(50, "tasks/get", fmt.Sprintf(`"taskId":%q`, id), withTasks))
}

// A client of the stateless era that takes tasks gets one at once, and its call
// runs when it asks for the task after the approval, once.
func TestATask(t *testing.T) {
	l := newLadder(t, "1h", nil)
	got := l.ask(statelessAsk(1, "tools/call", risky, withTasks))
	id := taskOf(t, got)
	asked := l.await(approval.EventAsked, 1)
	if got.result["resultType"] != "task" || got.result["pollIntervalMs"] != float64(5000) || got.result["ttlMs"].(float64) < float64(time.Hour.Milliseconds()) {
		t.Errorf("got %s", got.body)
	}
	wantAll(t, got.body, "waiting for approval by dba until", l.PublicURL+"/approvals/"+asked)
	if a, err := l.Approvals.Get(t.Context(), asked); err != nil || a.Task != id {
		t.Errorf("%v: the approval's task is %q", err, a.Task)
	}
	// An identical call is answered with the same task.
	if again := taskOf(t, l.ask(statelessAsk(2, "tools/call", risky, withTasks))); again != id {
		t.Errorf("another task: %s", again)
	}
	if got := l.getTask(id); got.result["status"] != "working" || got.result["resultType"] != "complete" {
		t.Errorf("got %s", got.body)
	}
	l.vote(asked, true)
	if l.ran() != 0 {
		t.Error("it ran for nobody")
	}
	for range 2 {
		got = l.getTask(id)
		if got.result["status"] != "completed" || !strings.Contains(fmt.Sprint(got.result["result"]), "ran risky") {
			t.Errorf("got %s", got.body)
		}
	}
	l.await(approval.EventFinished, 1)
	if l.ran() != 1 || l.count(approval.EventSpent) != 1 || l.count(approval.EventAsked) != 1 {
		t.Errorf("ran %d times; %q", l.ran(), l.events)
	}
	// A client without the extension has none.
	wantAll(t, l.ask(statelessAsk(9, "tasks/get", fmt.Sprintf(`"taskId":%q`, id), "{}")).body, "-32021", "io.modelcontextprotocol/tasks")
	wantAll(t, l.ask(statelessAsk(9, "tasks/update", fmt.Sprintf(`"taskId":%q,"inputResponses":{}`, id), withTasks)).body, `"resultType":"complete"`)
}

// The same in the era of sessions: the request asks for it, and tasks/result
// waits for the end.
func TestATaskOfTheSessionEra(t *testing.T) {
	l := newLadder(t, "1h", nil)
	got := l.ask(sessionAsk(1, "tools/call", risky+`,"task":{"ttl":60000}`))
	id := taskOf(t, got)
	wantAll(t, got.body, `"pollInterval":5000`, `"ttl":`, "model-immediate-response")
	asked := l.await(approval.EventAsked, 1)
	wantAll(t, l.ask(sessionAsk(2, "tasks/get", fmt.Sprintf(`"taskId":%q`, id))).body, `"status":"working"`)
	waiting := l.asking(t.Context(), first(sessionAsk(3, "tasks/result", fmt.Sprintf(`"taskId":%q`, id))), nil)
	l.vote(asked, true)
	got = <-waiting
	wantAll(t, got.body, "ran risky", `"io.modelcontextprotocol/related-task":{"taskId":"`+id+`"}`, `"id":3`)
	got = l.ask(sessionAsk(4, "tasks/get", fmt.Sprintf(`"taskId":%q`, id)))
	if got.result["status"] != "completed" || l.ran() != 1 {
		t.Errorf("got %s", got.body)
	}
	wantAll(t, l.ask(sessionAsk(5, "tasks/cancel", fmt.Sprintf(`"taskId":%q`, id))).body, "-32602", "completed already")
	if !strings.Contains(l.lastAsked(), `"task":{"ttl":60000}`) {
		t.Errorf("the server got %s", l.lastAsked())
	}
}

// Denied, cancelled, expired: the task ends with the words.
func TestATaskThatDoesNotRun(t *testing.T) {
	t.Run("denied", func(t *testing.T) {
		l := newLadder(t, "1h", nil)
		id := taskOf(t, l.ask(statelessAsk(1, "tools/call", risky, withTasks)))
		l.vote(l.await(approval.EventAsked, 1), false)
		wantAll(t, l.getTask(id).body, `"status":"completed"`, `"isError":true`, "bob denied this call", "ask billing first")
	})
	t.Run("denied, in the era of sessions", func(t *testing.T) {
		l := newLadder(t, "1h", nil)
		id := taskOf(t, l.ask(sessionAsk(1, "tools/call", risky+`,"task":{}`)))
		l.vote(l.await(approval.EventAsked, 1), false)
		wantAll(t, l.ask(sessionAsk(2, "tasks/get", fmt.Sprintf(`"taskId":%q`, id))).body, `"status":"failed"`)
		wantAll(t, l.ask(sessionAsk(3, "tasks/result", fmt.Sprintf(`"taskId":%q`, id))).body, `"isError":true`, "bob denied this call")
	})
	t.Run("cancelled", func(t *testing.T) {
		l := newLadder(t, "1h", nil)
		id := taskOf(t, l.ask(statelessAsk(1, "tools/call", risky, withTasks)))
		wantAll(t, l.ask(statelessAsk(2, "tasks/cancel", fmt.Sprintf(`"taskId":%q`, id), withTasks)).body, `"resultType":"complete"`)
		asked := l.await(approval.EventWithdrawn, 1)
		if a, err := l.Approvals.Get(t.Context(), asked); err != nil || a.State != approval.Withdrawn || !strings.Contains(a.Reason, "requester") {
			t.Errorf("%v %+v", err, a)
		}
		wantAll(t, l.getTask(id).body, `"status":"cancelled"`, "nothing ran")
	})
	t.Run("another policy denies it", func(t *testing.T) {
		l := newLadder(t, "1h", nil)
		id := taskOf(t, l.ask(statelessAsk(1, "tools/call", risky, withTasks)))
		l.install("b1", "1h", map[string]string{"rules/echo.yaml": ladderRules + "- { id: never, server: echo, tool: risky, effect: deny, reason: Not today }\n"})
		wantAll(t, l.getTask(id).body, `"status":"completed"`, `"isError":true`, "Not today")
		if a, err := l.Approvals.Get(t.Context(), l.await(approval.EventWithdrawn, 1)); err != nil || !strings.Contains(a.Reason, "Not today") {
			t.Errorf("people are asked on: %v %+v", err, a)
		}
	})
	t.Run("another policy asks more", func(t *testing.T) {
		l := newLadder(t, "1h", nil)
		id := taskOf(t, l.ask(statelessAsk(1, "tools/call", risky, withTasks)))
		asked := l.await(approval.EventAsked, 1)
		l.install("b1", "1h", map[string]string{"rules/echo.yaml": strings.Replace(ladderRules, "need a DBA", "need a DBA who knows", 1)})
		wantAll(t, l.getTask(id).body, `"status":"working"`)
		if l.await(approval.EventRenewed, 1) != asked {
			t.Error("another one was renewed")
		}
		l.vote(asked, true)
		wantAll(t, l.getTask(id).body, `"status":"completed"`, "ran risky")
	})
	t.Run("somebody else's", func(t *testing.T) {
		l := newLadder(t, "1h", nil)
		id := taskOf(t, l.ask(statelessAsk(1, "tools/call", risky, withTasks)))
		unknown := TaskPrefix + strings.Repeat("a", 26)
		l.vote(l.await(approval.EventAsked, 1), true)
		alice := l.token
		l.token = l.other
		for _, method := range []string{"tasks/get", "tasks/cancel", "tasks/update"} {
			got := l.ask(statelessAsk(2, method, fmt.Sprintf(`"taskId":%q`, id), withTasks))
			same := l.ask(statelessAsk(2, method, fmt.Sprintf(`"taskId":%q`, unknown), withTasks))
			if got.code != -32602 || strings.Split(got.text, "(")[0] != strings.Split(same.text, "(")[0] {
				t.Errorf("%s: %s, and %s", method, got.body, same.body)
			}
		}
		l.token = alice
		if l.ran() != 0 || l.times("tasks/get") != 0 {
			t.Error("it ran, or the server was asked")
		}
		wantAll(t, l.getTask(id).body, "ran risky")
	})
	t.Run("a server's own", func(t *testing.T) {
		l := newLadder(t, "1h", nil)
		for _, id := range []string{"t-1", TaskPrefix + "short", TaskPrefix + strings.Repeat("A", 26)} {
			l.getTask(id)
			if !strings.Contains(l.lastAsked(), id) {
				t.Errorf("%s did not reach the server", id)
			}
		}
	})
}

// hang has calls of risky wait until the returned func is called.
func (l *ladder) hang() (arrived chan struct{}, release func()) {
	arrived, gate := make(chan struct{}, 8), make(chan struct{})
	l.answerWith(func(_ http.ResponseWriter, r *http.Request, m *wire.Message) bool {
		if m.Method != "tools/call" {
			return false
		}
		arrived <- struct{}{}
		select {
		case <-gate:
		case <-r.Context().Done():
		}
		return false
	})
	return arrived, func() { close(gate) }
}

// A call that takes its time runs beside the requests that ask for it; leaving
// one of them does not end it, cancelling the task does.
func TestATaskTakesItsTime(t *testing.T) {
	start := func(t *testing.T) (l *ladder, id string, arrived chan struct{}, release func()) {
		l = newLadder(t, "1h", nil)
		arrived, release = l.hang()
		id = taskOf(t, l.ask(statelessAsk(1, "tools/call", risky, withTasks)))
		l.vote(l.await(approval.EventAsked, 1), true)
		ctx, leave := context.WithCancel(t.Context())
		body, h := statelessAsk(2, "tasks/get", fmt.Sprintf(`"taskId":%q`, id), withTasks)
		asking := l.asking(ctx, body, h)
		comes(t, arrived, "the call at the server")
		leave()
		<-asking
		return l, id, arrived, release
	}
	t.Run("and ends", func(t *testing.T) {
		l, id, _, release := start(t)
		over := l.tasks.of(id)
		wantAll(t, l.getTask(id).body, `"status":"working"`)
		release()
		comes(t, over, "the end of the task")
		wantAll(t, l.getTask(id).body, `"status":"completed"`, "ran risky")
		if l.ran() != 1 {
			t.Errorf("ran %d times", l.ran())
		}
	})
	t.Run("and is cancelled", func(t *testing.T) {
		l, id, _, release := start(t)
		defer release()
		over := l.tasks.of(id)
		l.ask(statelessAsk(3, "tasks/cancel", fmt.Sprintf(`"taskId":%q`, id), withTasks))
		comes(t, over, "the end of the task")
		wantAll(t, l.getTask(id).body, `"status":"cancelled"`, "may have run")
		l.await(approval.EventFinished, 1)
	})
}

// A task survives a restart of the enforcer, and so does its answer; a call that
// was under way when the enforcer died is never run again.
func TestATaskAfterARestart(t *testing.T) {
	get := func(l *ladder, e *Enforcer, id string) sent {
		body, h := statelessAsk(60, "tasks/get", fmt.Sprintf(`"taskId":%q`, id), withTasks)
		return l.send(t.Context(), e, body, h)
	}
	t.Run("while it waits", func(t *testing.T) {
		l := newLadder(t, "1h", nil)
		id := taskOf(t, l.ask(statelessAsk(1, "tools/call", risky, withTasks)))
		e := l.restarted()
		wantAll(t, get(l, e, id).body, `"status":"working"`)
		l.vote(l.await(approval.EventAsked, 1), true)
		wantAll(t, get(l, e, id).body, `"status":"completed"`, "ran risky")
		wantAll(t, get(l, l.restarted(), id).body, `"status":"completed"`, "ran risky")
		if l.ran() != 1 {
			t.Errorf("ran %d times", l.ran())
		}
	})
	for outcome, want := range map[string]string{
		"unknown": "It may have run, and is never run again", "ok": `its outcome was \"ok\"`, "not-run": "nothing ran", "": "It may have run",
	} {
		t.Run("while it ran: "+outcome, func(t *testing.T) {
			l := newLadder(t, "1h", nil)
			id := taskOf(t, l.ask(statelessAsk(1, "tools/call", risky, withTasks)))
			asked := l.await(approval.EventAsked, 1)
			l.vote(asked, true)
			// As a run leaves it that claimed the task, spent its approval, and died.
			owner := l.ownerOf(asked)
			task, err := l.findTask(t.Context(), owner, id)
			if err != nil {
				t.Fatal(err)
			}
			task.Run = &taskRun{Call: "c_dead", By: "an earlier run", Seen: time.Now()}
			if err := l.saveTask(t.Context(), task); err != nil {
				t.Fatal(err)
			}
			a, err := l.Approvals.Get(t.Context(), asked)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := l.Approvals.Spend(t.Context(), asked, a.Request, "c_dead"); err != nil {
				t.Fatal(err)
			}
			if outcome != "" {
				if err := l.Approvals.Finish(t.Context(), asked, "c_dead", outcome); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 {
				wantAll(t, get(l, l.restarted(), id).body, want, "c_dead")
			}
			if l.ran() != 0 {
				t.Error("it ran again")
			}
		})
	}
	t.Run("while it ran without approval", func(t *testing.T) {
		l := newLadder(t, "1h", nil)
		arrived, release := l.hang()
		defer release()
		id := taskOf(t, l.ask(statelessAsk(1, "tools/call", risky, withTasks)))
		owner := l.ownerOf(l.await(approval.EventAsked, 1))
		l.install("b1", "1h", map[string]string{"rules/echo.yaml": strings.Replace(ladderRules, "effect: approve, reason: Risky things need a DBA, approval: { approvers: dba }", "effect: allow", 1)})
		ctx, leave := context.WithCancel(t.Context())
		defer leave()
		body, h := statelessAsk(2, "tasks/get", fmt.Sprintf(`"taskId":%q`, id), withTasks)
		l.asking(ctx, body, h)
		comes(t, arrived, "the call at the server")
		l.await(approval.EventWithdrawn, 1)
		task, err := l.findTask(t.Context(), owner, id)
		if err != nil {
			t.Fatal(err)
		}
		wantAll(t, get(l, l.restarted(), id).body, `"status":"failed"`, "may have run, and is never run again", task.Run.Call)
		if l.ran() != 1 {
			t.Errorf("ran %d times", l.ran())
		}
	})
	t.Run("claimed, and not spent", func(t *testing.T) {
		l := newLadder(t, "1h", nil)
		id := taskOf(t, l.ask(statelessAsk(1, "tools/call", risky, withTasks)))
		asked := l.await(approval.EventAsked, 1)
		l.vote(asked, true)
		task, err := l.findTask(t.Context(), l.ownerOf(asked), id)
		if err != nil {
			t.Fatal(err)
		}
		task.Run = &taskRun{Call: "c_dead", By: "an earlier run", Seen: time.Now()}
		if err := l.saveTask(t.Context(), task); err != nil {
			t.Fatal(err)
		}
		wantAll(t, get(l, l.Enforcer, id).body, `"status":"completed"`, "ran risky")
	})
}

func (l *ladder) ownerOf(id string) string {
	l.t.Helper()
	a, err := l.Approvals.Get(l.t.Context(), id)
	if err != nil {
		l.t.Fatal(err)
	}
	return a.Holder[:strings.LastIndexByte(a.Holder, '|')]
}

// A server that answers the approved call with a task of its own is followed
// under our id; one that asks for input gets none.
func TestWhatAServerMakesOfATask(t *testing.T) {
	t.Run("a task of its own", func(t *testing.T) {
		l := newLadder(t, "1h", nil)
		l.answerWith(func(w http.ResponseWriter, _ *http.Request, m *wire.Message) bool {
			w.Header().Set("Content-Type", "application/json")
			switch m.Method {
			case "tools/call":
				fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"resultType":"task","taskId":"theirs","status":"working","createdAt":"2026-01-01T00:00:00Z","lastUpdatedAt":"2026-01-01T00:00:00Z","ttlMs":1}}`, m.ID)
			case "tasks/get":
				fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"resultType":"complete","taskId":%q,"status":"completed","result":{"content":[{"type":"text","text":"at last"}]}}}`, m.ID, m.TaskID)
			default:
				return false
			}
			return true
		})
		id := taskOf(t, l.ask(statelessAsk(1, "tools/call", risky, withTasks)))
		l.vote(l.await(approval.EventAsked, 1), true)
		wantAll(t, l.getTask(id).body, `"status":"working"`, "a task of its own", id)
		wantAll(t, l.getTask(id).body, `"status":"completed"`, "at last", `"taskId":"`+id+`"`)
		if l.times("tasks/get") != 1 {
			t.Errorf("the server was asked %d times", l.times("tasks/get"))
		}
	})
	t.Run("input", func(t *testing.T) {
		l := newLadder(t, "1h", map[string]string{"rules/ask.yaml": "- { id: roots, server: echo, method: roots/list, effect: allow }\n"})
		l.answerWith(func(w http.ResponseWriter, _ *http.Request, m *wire.Message) bool {
			if m.Method != "tools/call" {
				return false
			}
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"resultType":"input_required","inputRequests":{"a":{"method":"roots/list"}},"requestState":"s"}}`, m.ID)
			return true
		})
		id := taskOf(t, l.ask(statelessAsk(1, "tools/call", risky, withTasks)))
		l.vote(l.await(approval.EventAsked, 1), true)
		wantAll(t, l.getTask(id).body, `"status":"completed"`, `"isError":true`, "cannot be asked")
	})
}

// What is kept goes when its time is over, texts without a document included.
func TestWhatIsKeptIsForgotten(t *testing.T) {
	l := newLadder(t, "1ms", nil)
	taskOf(t, l.ask(statelessAsk(1, "tools/call", risky, withTasks)))
	l.ask(sessionAsk(2, "tools/call", `"name":"risky","arguments":{"n":2}`))
	if _, err := l.kept.putText(t.Context(), owedPrefix+"gone", answerText, []byte("x")); err != nil {
		t.Fatal(err)
	}
	keys := func() []string {
		all, err := l.Kept.Keys(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	if n := len(keys()); n != 4 { // a task and its request, a note, an orphan
		t.Errorf("%d keys: %q", n, keys())
	}
	later := l.restarted()
	for range 2 {
		if err := later.sweepKept(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(keys()); n != 3 {
		t.Errorf("%d keys: %q", n, keys())
	}
	later.Now = func() time.Time { return time.Now().Add(25 * time.Hour) }
	if err := later.sweepKept(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(keys()); n != 0 {
		t.Errorf("%d keys: %q", n, keys())
	}
}

// Many may ask for a task at once: one of them runs its call, on a window too,
// and all are told of that one.
func TestATaskRunsOnceForAll(t *testing.T) {
	window := strings.Replace(ladderRules, "approval: { approvers: dba }", "approval: { approvers: dba, grant: { for: 1h, scope: tool } }", 1)
	l := newLadder(t, "1h", map[string]string{"rules/echo.yaml": window})
	for n := range 10 {
		id := taskOf(t, l.ask(statelessAsk(1, "tools/call", fmt.Sprintf(`"name":"risky","arguments":{"n":%d}`, n), withTasks)))
		asked := l.await(approval.EventAsked, n+1)
		l.vote(asked, true)
		body, h := statelessAsk(50, "tasks/get", fmt.Sprintf(`"taskId":%q`, id), withTasks)
		var all []<-chan sent
		for range 8 {
			all = append(all, l.asking(t.Context(), body, h.Clone()))
		}
		for _, got := range all {
			<-got
		}
		if over := l.tasks.of(id); over != nil { // they do not wait for long
			comes(t, over, "the end of the task")
		}
		wantAll(t, l.getTask(id).body, `"status":"completed"`, "ran risky")
		if _, err := l.Approvals.Revoke(t.Context(), asked, approval.Vote{Via: approval.ViaOperator, Reason: "the next"}, l.Policy()); err != nil {
			t.Fatal(err)
		}
		if l.ran() != n+1 {
			t.Fatalf("ran %d times for %d tasks", l.ran(), n+1)
		}
	}
}

// A task that is cancelled at one enforcer, while another is about to run it,
// does not run.
func TestATaskIsCancelledElsewhere(t *testing.T) {
	two := ladderRules + "- { id: too, server: echo, tool: risky, effect: approve, reason: So are these, approval: { approvers: dba } }\n"
	l := newLadder(t, "1h", map[string]string{"rules/echo.yaml": two})
	l.Alone = false
	id := taskOf(t, l.ask(statelessAsk(1, "tools/call", risky, withTasks)))
	asked := l.await(approval.EventAsked, 1)
	l.vote(asked, true)
	other := l.restarted()
	l.install("b1", "1h", nil) // asks less: the vote stands
	l.mu.Lock()
	l.hook = func(event string) {
		if event == approval.EventRenewed {
			body, h := statelessAsk(2, "tasks/cancel", fmt.Sprintf(`"taskId":%q`, id), withTasks)
			wantAll(t, l.send(t.Context(), other, body, h).body, `"resultType":"complete"`)
		}
	}
	l.mu.Unlock()
	over := l.getTask(id)
	l.await(approval.EventRenewed, 1)
	wantAll(t, over.body, `"status":"cancelled"`)
	if l.ran() != 0 {
		t.Error("it ran")
	}
}

// Who waits for a task's result is told of a policy that denies it; and a call
// that cannot run yet is not tried without pause.
func TestATaskResultIsWaitedFor(t *testing.T) {
	waiting := func(l *ladder, id string) <-chan sent {
		over := l.asking(t.Context(), first(sessionAsk(3, "tasks/result", fmt.Sprintf(`"taskId":%q`, id))), nil)
		return over
	}
	t.Run("another policy", func(t *testing.T) {
		l := newLadder(t, "1h", nil)
		id := taskOf(t, l.ask(sessionAsk(1, "tools/call", risky+`,"task":{}`)))
		got := waiting(l, id)
		l.install("b1", "1h", map[string]string{"rules/echo.yaml": ladderRules + "- { id: never, server: echo, tool: risky, effect: deny, reason: Not today }\n"})
		select {
		case got := <-got:
			wantAll(t, got.body, "Not today")
		case <-time.After(time.Minute):
			t.Fatal("it waits under the policy of before")
		}
	})
	t.Run("a quota", func(t *testing.T) {
		l := newLadder(t, "1h", map[string]string{"countersign.yaml": "version: 1\nquotas:\n  - { id: few, tool: risky, per: [subject], day: 1 }\n"})
		ids := make([]string, 2)
		for n := range ids {
			ids[n] = taskOf(t, l.ask(sessionAsk(1, "tools/call", fmt.Sprintf(`"name":"risky","arguments":{"n":%d},"task":{}`, n))))
			l.vote(l.await(approval.EventAsked, n+1), true)
		}
		wantAll(t, (<-waiting(l, ids[0])).body, "ran risky")
		ctx, leave := context.WithCancel(t.Context())
		got := l.asking(ctx, first(sessionAsk(3, "tasks/result", fmt.Sprintf(`"taskId":%q`, ids[1]))), nil)
		for len(l.recorded("over-quota")) == 0 {
			l.ask(sessionAsk(4, "tools/call", `"name":"calm"`))
		}
		for range 20 {
			l.ask(sessionAsk(4, "tools/call", `"name":"calm"`))
		}
		if n := len(l.recorded("over-quota")); n > 3 {
			t.Errorf("tried %d times", n)
		}
		leave()
		<-got
	})
}
