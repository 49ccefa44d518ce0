package enforcer

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"countersign/audit"
	"countersign/enforcer/approval"
	"countersign/enforcer/wire"
)

// on has f called once, while the event is being recorded: the store has it, and
// nobody who waits has been told.
func (l *ladder) on(event string, f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hook = func(e string) {
		if e == event {
			l.mu.Lock()
			l.hook = nil
			l.mu.Unlock()
			f()
		}
	}
}

// Whoever leaves or cancels before the call is forwarded has nothing run, at
// whatever moment: not even when it is granted that very moment. The approval
// stays, and the identical call runs on it without another.
func TestLeavingAtEachStep(t *testing.T) {
	ways := map[string]func(l *ladder, leave func()){
		"disconnected": func(_ *ladder, leave func()) { leave() },
		"cancelled":    func(l *ladder, _ func()) { l.ask(cancelCall, nil) },
	}
	for _, c := range []struct {
		event string
		// again: an identical call runs on the same approval
		again bool
	}{
		{approval.EventAsked, true}, {approval.EventApproved, true}, {approval.EventSpent, false},
	} {
		for how, leave := range ways {
			t.Run(how+" as it is "+c.event, func(t *testing.T) {
				l := newLadder(t, "1h", nil)
				ctx, gone := context.WithCancel(t.Context())
				defer gone()
				if c.event == approval.EventAsked {
					l.on(c.event, func() { leave(l, gone) })
				}
				waiting := l.asking(ctx, first(sessionAsk(7, "tools/call", risky)), nil)
				id := l.await(approval.EventAsked, 1)
				if c.event != approval.EventAsked {
					l.on(c.event, func() { leave(l, gone) })
					l.vote(id, true)
				}
				got := <-waiting
				if how == "cancelled" {
					wantAll(t, got.body, "cancelled by the client", "nothing ran")
				}
				if l.ran() != 0 {
					t.Fatal("it ran")
				}
				if c.event == approval.EventAsked {
					if l.await(approval.EventLeft, 1) != id {
						t.Error("another one was left")
					}
					l.vote(id, true)
				}
				a, err := l.Approvals.Get(t.Context(), id)
				if err != nil {
					t.Fatal(err)
				}
				if !c.again {
					if l.await(approval.EventFinished, 1); l.count(approval.EventFinished) != 1 {
						t.Error("its outcome is not known")
					}
					if a, err = l.Approvals.Get(t.Context(), id); err != nil || a.Outcome != audit.StatusNotRun {
						t.Errorf("%v, outcome %q", err, a.Outcome)
					}
					ctx, gone := context.WithCancel(t.Context())
					next := l.asking(ctx, first(sessionAsk(8, "tools/call", risky)), nil)
					l.await(approval.EventAsked, 2)
					gone()
					<-next
					return
				}
				if a.State != approval.Approved || a.Gone.IsZero() {
					t.Errorf("the approval is %s, gone %v", a.State, a.Gone)
				}
				if got := l.ask(sessionAsk(8, "tools/call", risky)); got.text != "ran risky" || l.ran() != 1 || l.count(approval.EventAsked) != 1 {
					t.Errorf("got %s after %d runs; %q", got.body, l.ran(), l.events)
				}
			})
		}
	}
}

// Of two that wait for one approval, one leaves: it is not left.
func TestOneOfTwoLeaves(t *testing.T) {
	l := newLadder(t, "1h", nil)
	ctx, leave := context.WithCancel(t.Context())
	one := l.asking(ctx, first(sessionAsk(1, "tools/call", risky)), nil)
	id := l.await(approval.EventAsked, 1)
	two := l.asking(t.Context(), first(sessionAsk(2, "tools/call", risky)), nil)
	hang := time.After(2 * time.Minute)
	for look := time.NewTicker(time.Millisecond); l.attending.of(id) != 2; {
		select {
		case <-look.C:
		case <-hang:
			t.Fatalf("%d wait for it", l.attending.of(id))
		}
	}
	leave()
	<-one
	if l.count(approval.EventLeft) != 0 {
		t.Error("it is called left")
	}
	l.vote(id, true)
	if got := <-two; got.text != "ran risky" {
		t.Errorf("got %s", got.body)
	}
}

// The answer of an approved call whose client has left is handed to its next
// identical call, once, after a restart too, and in either era.
func TestALateAnswer(t *testing.T) {
	for name, start := range map[string]func(*ladder) *Enforcer{
		"the same run": func(l *ladder) *Enforcer { return l.Enforcer }, "the next one": (*ladder).restarted,
	} {
		t.Run(name, func(t *testing.T) {
			l := newLadder(t, "1h", nil)
			arrived, release := l.hang()
			ctx, leave := context.WithCancel(t.Context())
			waiting := l.asking(ctx, first(sessionAsk(1, "tools/call", risky)), nil)
			l.vote(l.await(approval.EventAsked, 1), true)
			comes(t, arrived, "the call at the server")
			leave()
			// While it runs, an identical call waits for it.
			body, h := sessionAsk(2, "tools/call", risky)
			if name == "the same run" {
				second := l.asking(t.Context(), body, h)
				release()
				<-waiting
				if got := <-second; got.text != "ran risky" || !strings.Contains(got.body, `"id":2`) {
					t.Errorf("got %s", got.body)
				}
			} else {
				release()
				<-waiting
				e := start(l)
				if got := l.send(t.Context(), e, body, h); got.text != "ran risky" || !strings.Contains(got.body, `"id":2`) {
					t.Errorf("got %s", got.body)
				}
			}
			if l.ran() != 1 || l.count(approval.EventAsked) != 1 {
				t.Errorf("ran %d times, asked %d times", l.ran(), l.count(approval.EventAsked))
			}
			ctx, leave = context.WithCancel(t.Context())
			defer leave()
			third := l.asking(ctx, first(sessionAsk(3, "tools/call", risky)), nil)
			l.await(approval.EventAsked, 2)
			leave()
			<-third
		})
	}
}

// What a crash leaves is told to the identical call once: how the call ended, or
// that nobody knows.
func TestACallThatACrashCutOff(t *testing.T) {
	for outcome, want := range map[string]string{"unknown": "it may have run", "": "it may have run", "ok": `its outcome was \"ok\"`, "not-run": "approval pending"} {
		t.Run(outcome, func(t *testing.T) {
			l := newLadder(t, "1ms", nil)
			l.ask(sessionAsk(1, "tools/call", risky))
			id := l.await(approval.EventAsked, 1)
			l.vote(id, true)
			a, err := l.Approvals.Get(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			// As a run leaves it that was about to forward the call.
			x := &exchange{e: l.Enforcer, server: "echo", binds: a.Digest}
			x.caller.Subject.Issuer, x.caller.Subject.Sub, x.caller.Client, x.req.Method = a.Subject.Issuer, a.Subject.Sub, a.Client, "tools/call"
			if err := l.owe(t.Context(), x.owedKey(), owed{Approval: id, Call: "c_dead", At: l.Now()}); err != nil {
				t.Fatal(err)
			}
			if _, err := l.Approvals.Spend(t.Context(), id, a.Request, "c_dead"); err != nil {
				t.Fatal(err)
			}
			if outcome != "" {
				if err := l.Approvals.Finish(t.Context(), id, "c_dead", outcome); err != nil {
					t.Fatal(err)
				}
			}
			e := l.restarted()
			body, h := sessionAsk(2, "tools/call", risky)
			got := l.send(t.Context(), e, body, h)
			wantAll(t, got.body, want, `"isError":true`)
			if outcome != "not-run" {
				wantAll(t, got.body, "c_dead", "Nothing ran for this one")
				wantAll(t, l.send(t.Context(), e, body, h).body, "approval pending")
			}
			if l.ran() != 0 || l.count(approval.EventAsked) != 2 {
				t.Errorf("ran %d times, asked %d times", l.ran(), l.count(approval.EventAsked))
			}
		})
	}
}

// Closing the stream ends a call of the stateless era: it may have run, and that
// is what its next identical call is told.
func TestAStatelessCallerLeavesWhileItRuns(t *testing.T) {
	l := newLadder(t, "1h", nil)
	arrived := make(chan struct{})
	l.answerWith(func(_ http.ResponseWriter, r *http.Request, m *wire.Message) bool {
		if m.Method != "tools/call" {
			return false
		}
		close(arrived)
		<-r.Context().Done()
		return true
	})
	ctx, leave := context.WithCancel(t.Context())
	body, h := statelessAsk(1, "tools/call", risky, "{}")
	waiting := l.asking(ctx, body, h)
	l.vote(l.await(approval.EventAsked, 1), true)
	comes(t, arrived, "the call at the server")
	leave()
	<-waiting
	l.await(approval.EventFinished, 1)
	wantAll(t, l.ask(statelessAsk(2, "tools/call", risky, "{}")).body, "may have run")
	if l.ran() != 1 || l.count(approval.EventAsked) != 1 {
		t.Errorf("ran %d times, asked %d times", l.ran(), l.count(approval.EventAsked))
	}
}

// What is kept was masked when it came. A value that has become a secret since
// does not leave with it.
func TestWhatIsKeptIsMaskedAgain(t *testing.T) {
	const value = "correct-horse-battery-41"
	says := func(t *testing.T, format string) *ladder {
		l := newLadder(t, "1h", nil)
		l.answerWith(func(w http.ResponseWriter, _ *http.Request, m *wire.Message) bool {
			if m.Method != "tools/call" {
				return false
			}
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,`+format+`}`, m.ID)
			return true
		})
		return l
	}
	known := func(t *testing.T, l *ladder) {
		t.Helper()
		if _, err := l.Mask.Add("db", value); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("a late answer", func(t *testing.T) {
		l := newLadder(t, "1h", nil)
		arrived, gate := make(chan struct{}, 1), make(chan struct{})
		l.answerWith(func(w http.ResponseWriter, _ *http.Request, m *wire.Message) bool {
			arrived <- struct{}{}
			<-gate
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":"password %s"}]}}`, m.ID, value)
			return true
		})
		ctx, leave := context.WithCancel(t.Context())
		waiting := l.asking(ctx, first(sessionAsk(1, "tools/call", risky)), nil)
		l.vote(l.await(approval.EventAsked, 1), true)
		comes(t, arrived, "the call at the server")
		leave()
		close(gate)
		<-waiting
		known(t, l)
		got := l.ask(sessionAsk(2, "tools/call", risky))
		if !strings.HasPrefix(got.text, "password ") || strings.Contains(got.body, value) {
			t.Errorf("got %s", got.body)
		}
	})
	for what, format := range map[string]string{
		"a result": `"result":{"content":[{"type":"text","text":"password ` + value + `"}]}`, "an error": `"error":{"code":1,"message":"password ` + value + `"}`,
	} {
		t.Run("a task's answer, "+what, func(t *testing.T) {
			l := says(t, format)
			id := taskOf(t, l.ask(statelessAsk(1, "tools/call", risky, withTasks)))
			l.vote(l.await(approval.EventAsked, 1), true)
			for range 2 {
				l.getTask(id)
				if over := l.tasks.of(id); over != nil {
					comes(t, over, "the end of the task")
				}
			}
			known(t, l)
			if got := l.getTask(id); !strings.Contains(got.body, "password ") || strings.Contains(got.body, value) {
				t.Errorf("got %s", got.body)
			}
		})
	}
}
