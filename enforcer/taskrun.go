package enforcer

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"sync"
	"time"

	"countersign/audit"
	"countersign/enforcer/approval"
	"countersign/enforcer/hub"
	"countersign/enforcer/kv"
	"countersign/enforcer/wire"
)

// A task's call runs when its approval is there and its caller asks for it: an
// exchange of its own, with the message that was kept and the token, address and
// session of who asks now. Who runs it claims the task first, by
// compare-and-swap, and gives a sign of life while it runs. The claim of one that
// has died ends the task as the approval knows it: what was spent is never run
// again.

// taskRuns are the tasks that run here.
type taskRuns struct {
	by string // this run of this enforcer, in claims
	mu sync.Mutex
	m  map[string]liveTask
}

type liveTask struct {
	over   chan struct{}
	cancel context.CancelCauseFunc
}

// add enters a task, before it is claimed: a claim of this run whose task is not
// here is one of a run that has ended. It is nil if the task runs already.
func (r *taskRuns) add(id string, cancel context.CancelCauseFunc) (done func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.m == nil {
		r.m = map[string]liveTask{}
	}
	if _, here := r.m[id]; here {
		return nil
	}
	live := liveTask{make(chan struct{}), cancel}
	r.m[id] = live
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.m, id)
		close(live.over)
	}
}

// of is closed when the task's call is over; nil if it does not run here.
func (r *taskRuns) of(id string) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.m[id].over
}

func (r *taskRuns) cancel(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if live, ok := r.m[id]; ok {
		live.cancel(hub.ErrCancelled)
	}
}

// silent tells whether whoever claimed the task is dead.
func (e *Enforcer) silent(t *task) bool {
	if t.Run.By == e.tasks.by {
		return e.tasks.of(t.ID) == nil
	}
	return e.Alone || e.Now().Sub(t.Run.Seen) > taskSilence
}

// advance brings a task as far as it can go now. over is closed when a call that
// runs here for it is over.
func (x *exchange) advance(ctx context.Context, t *task) (_ *task, over <-chan struct{}, err error) {
	for !t.over() && t.Chained == "" {
		if over = x.e.tasks.of(t.ID); over != nil {
			return t, over, nil
		}
		if t.Run != nil && !x.e.silent(t) {
			return t, nil, nil // it runs at another enforcer
		}
		var a approval.Approval
		a, err = x.e.Approvals.Get(ctx, t.Approval)
		switch {
		case errors.Is(err, approval.ErrUnknown):
			a.State = approval.Expired
		case err != nil:
			return t, nil, refuse(kindUnavailable, "the approval's state cannot be read: %w", err)
		}
		switch {
		case t.Run != nil:
			err = x.bury(ctx, t, a)
		case a.State == approval.Pending && a.Policy == x.force.policy.Commit():
			return t, nil, nil
		case a.State == approval.Pending, a.State == approval.Approved:
			over, err = x.startTask(t)
			if err == nil {
				return t, over, nil
			}
		default:
			err = x.endTask(ctx, t, wire.ToolError([]byte("0"), verdict(a)))
		}
		if err != nil && !errors.Is(err, kv.ErrConflict) {
			var ref *refusal
			if !errors.As(err, &ref) {
				err = refuse(kindUnavailable, "the task cannot be kept: %w", err)
			}
			return t, nil, err
		}
		if t, err = x.e.findTask(ctx, t.Owner, t.ID); err != nil {
			return t, nil, refuse(kindUnavailable, "the task cannot be read: %w", err)
		}
	}
	return t, nil, nil
}

// bury ends, or takes up again, a task whose runner has died. What was spent may
// have run; what was not did not.
func (x *exchange) bury(ctx context.Context, t *task, a approval.Approval) error {
	ran, ended := ranOn(a, t.Run.Call)
	switch {
	case !ran && t.Run.Free:
		return x.endTask(ctx, t, wire.ErrorReply([]byte("0"), codeInternal, "unknown: the enforcer stopped before the answer was kept. The call may have run, and is never run again (countersign record "+t.Run.Call+")", nil))
	case !ran:
		t.Run = nil
		return x.e.saveTask(ctx, t)
	case ended == audit.StatusNotRun:
		return x.endTask(ctx, t, wire.ToolError([]byte("0"), "the enforcer stopped before the call was sent, so nothing ran, and its approval is used up: repeat the call to ask again (countersign record "+t.Run.Call+")"))
	case ended == "", ended == audit.StatusUnknown:
		return x.endTask(ctx, t, wire.ErrorReply([]byte("0"), codeInternal, "unknown: the enforcer stopped while the call was with the server. It may have run, and is never run again (countersign record "+t.Run.Call+")", nil))
	default:
		return x.endTask(ctx, t, wire.ErrorReply([]byte("0"), codeInternal, fmt.Sprintf("the enforcer stopped before the answer was kept. The call ran, its outcome was %q, and it is never run again (countersign record %s)", ended, t.Run.Call), nil))
	}
}

// endTask ends a task with a response.
func (x *exchange) endTask(ctx context.Context, t *task, response []byte) error {
	return x.e.endTask(ctx, t, response)
}

func (e *Enforcer) endTask(ctx context.Context, t *task, response []byte) error {
	m, err := wire.Parse(response, wire.Limits{})
	if err != nil {
		return err // it is ours, or was parsed before
	}
	if t.Answer, err = e.kept.putText(ctx, e.taskKey(t.Owner, t.ID), answerText, response); err != nil {
		return err
	}
	now := e.Now().UTC()
	if until := now.Add(keepAnswer); until.After(t.Until) {
		t.Until = until
	}
	t.Status, t.Message = taskCompleted, ""
	failed, _ := m.Member(m.Result, "isError")
	switch {
	case m.ErrorObj.Present():
		at, _ := m.Member(m.ErrorObj, "message")
		t.Status = taskFailed
		t.Message, _ = m.Text(at)
		t.Message = clip(t.Message, 1024)
	case !t.Modern && string(m.Bytes(failed)) == "true": // that era calls it so
		t.Status = taskFailed
	}
	return e.saveTask(ctx, t)
}

// startTask claims the task, and runs its call beside this request.
func (x *exchange) startTask(t *task) (over <-chan struct{}, err error) {
	ctx := context.WithoutCancel(x.r.Context())
	message, err := x.e.kept.text(ctx, x.e.taskKey(t.Owner, t.ID), requestText, t.Request)
	if err != nil {
		return nil, err
	}
	if !x.e.inside.enter() {
		return nil, refuse(kindUnavailable, "the enforcer is stopping: try again in a moment")
	}
	ctx, cancel := context.WithCancelCause(ctx)
	done := x.e.tasks.add(t.ID, cancel)
	if done == nil {
		cancel(nil)
		x.e.inside.leave()
		return nil, kv.ErrConflict
	}
	over = x.e.tasks.of(t.ID)
	t.Run = &taskRun{Call: x.e.ID(), By: x.e.tasks.by, Seen: x.e.Now().UTC()}
	if err := x.e.saveTask(ctx, t); err != nil {
		done()
		cancel(nil)
		x.e.inside.leave()
		return nil, err
	}
	e, claimed := x.e, *t // who asks goes on with its own
	y, failed := x.asker(ctx, &claimed)
	go func(t *task, err error) {
		defer e.inside.leave()
		defer done()
		defer cancel(nil)
		if err == nil {
			err = e.runTask(ctx, y, t, message, cancel)
		}
		if err != nil {
			e.Log.Error("a task cannot be kept as it ended", "task", t.ID, "call", t.Run.Call, "err", err)
		}
	}(&claimed, failed)
	return over, nil
}

// asker is the exchange that runs the task's call, for who asks for it now.
func (x *exchange) asker(ctx context.Context, t *task) (*exchange, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, x.e.PublicURL+"/mcp/"+x.server, nil)
	if err != nil {
		return nil, err
	}
	r.Header = t.Header.Clone()
	for _, name := range []string{"Authorization", "Mcp-Session-Id"} {
		if v := x.r.Header.Values(name); len(v) > 0 {
			r.Header[name] = v
		}
	}
	r.RemoteAddr = x.r.RemoteAddr
	w := nowhere{}
	return &exchange{
		e: x.e, w: w, r: r, out: outlet{w: w, r: r}, id: t.Run.Call, start: x.e.Now(), server: x.server, via: x.via,
		source: x.source, caller: x.caller, session: x.session, task: t,
		asked: x.e.room.requests.Share(), answers: x.e.room.answers.Share(), sending: x.e.room.answers.Share(),
	}, nil
}

// runTask runs the call, and keeps what it came to.
func (e *Enforcer) runTask(ctx context.Context, y *exchange, t *task, message []byte, cancel context.CancelCauseFunc) error {
	stop := make(chan struct{})
	var beats sync.WaitGroup
	beats.Go(func() { e.liveOn(ctx, t.Owner, t.ID, t.Run.Call, cancel, stop) })
	var answer []byte
	y.took = func(response []byte) { answer = response }
	func() {
		live, thaw := y.freezable(ctx)
		defer thaw()
		defer y.close()
		defer func() {
			if p := recover(); p != nil {
				e.Log.Error("a call panicked", "call", y.id, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
				y.refuse(refuse(kindUnavailable, "the enforcer failed inside; the call may have run"))
			}
		}()
		err := y.reread(live, message)
		if err == nil {
			err = y.call(live)
		}
		if err != nil && !errors.Is(err, errAnswered) {
			if y.forwarded && errors.Is(context.Cause(ctx), hub.ErrCancelled) {
				y.cancelUpstream("cancelled by the requester")
			}
			y.refuse(y.orRevoked(y.orFrozen(err)))
		}
	}()
	close(stop)
	beats.Wait()
	end, done := context.WithTimeout(context.WithoutCancel(ctx), storeLimit)
	defer done()
	return e.keepRun(end, y, t, answer)
}

// reread takes in the message that was kept, as read does one that comes.
func (x *exchange) reread(ctx context.Context, message []byte) error {
	var err error
	if x.force, err = x.e.current(); err != nil {
		return refuse(kindUnavailable, "%w", err)
	}
	if _, ok := x.force.upstreams[x.server]; !ok {
		return refuse(kindNoServer, "no server named %q", x.server)
	}
	if err := x.asked.Set(ctx, 2*len(message)); err != nil {
		return x.full("requests")
	}
	set := x.force.policy.Settings()
	if x.msg, err = wire.Parse(message, wire.Limits{Bytes: int(set.MaxRequest), Depth: set.MaxDepth}); err != nil {
		return refuse(kindBadRequest, "%w", err)
	}
	x.raw = message
	return x.known()
}

// claimed refuses to go on with a task that was cancelled at another enforcer
// meanwhile, or that another has taken up since this one gave no sign of life.
func (x *exchange) claimed(ctx context.Context) error {
	if x.task == nil {
		return nil
	}
	_, err := x.claim(ctx)
	return err
}

func (x *exchange) claim(ctx context.Context) (*task, error) {
	t, err := x.e.findTask(ctx, x.task.Owner, x.task.ID)
	switch {
	case err != nil && !errors.Is(err, kv.ErrNotFound):
		return nil, refuse(kindUnavailable, "the task cannot be read: %w", err)
	case err != nil, t.over(), t.Run == nil, t.Run.Call != x.id:
		return nil, refuse(kindCancelled, "the task was cancelled, or taken up by another enforcer; nothing ran")
	}
	return t, nil
}

// unasked has a task's call that runs without the approval which the task waited
// for, since the policy has changed, run once at most, as the spending of that
// would have: the task says so before anything is sent. Nobody is asked any more.
func (x *exchange) unasked(ctx context.Context) error {
	if x.task == nil || x.spent {
		return nil
	}
	for {
		t, err := x.claim(ctx)
		if err != nil {
			return err
		}
		t.Run.Free = true
		if err = x.e.saveTask(ctx, t); errors.Is(err, kv.ErrConflict) {
			continue // a sign of life, or a cancellation
		}
		if err != nil {
			return refuse(kindUnavailable, "the task cannot be kept: %w", err)
		}
		x.withdraw(ctx, t.Approval, "the policy has changed, and allows it without approval")
		return nil
	}
}

// liveOn gives signs of life, and ends the call if the task is cancelled at
// another enforcer.
func (e *Enforcer) liveOn(ctx context.Context, owner, id, call string, cancel context.CancelCauseFunc, stop <-chan struct{}) {
	beat := time.NewTicker(taskSilence / 6)
	defer beat.Stop()
	for {
		select {
		case <-stop:
			return
		case <-beat.C:
		}
		t, err := e.findTask(ctx, owner, id)
		if err != nil || t.Run == nil || t.Run.Call != call {
			continue // once more in a moment; the end will show
		}
		if t.over() {
			cancel(hub.ErrCancelled)
			return
		}
		t.Run.Seen = e.Now().UTC()
		if err := e.saveTask(ctx, t); err != nil && !errors.Is(err, kv.ErrConflict) {
			e.Log.Warn("a task's sign of life cannot be written", "task", id, "err", err)
		}
	}
}

// keepRun keeps what a call came to. One that did not run, for a reason that may
// pass, leaves the task waiting; its next tasks/get tries again.
func (e *Enforcer) keepRun(ctx context.Context, y *exchange, was *task, answer []byte) error {
	for {
		t, err := e.findTask(ctx, was.Owner, was.ID)
		if errors.Is(err, kv.ErrNotFound) {
			return nil // its time is over
		}
		if err != nil {
			return err
		}
		if t.Run == nil || t.Run.Call != y.id {
			return nil // it was given up for dead, and told so
		}
		switch {
		case t.over(): // cancelled meanwhile
			if !y.spent {
				y.takeBack(ctx, t)
			}
			return nil
		case y.waits():
			t.Run, t.Message = nil, y.waitingFor(ctx, t)
			err = e.saveTask(ctx, t)
		default:
			if y.refused != nil && !y.spent {
				y.withdraw(ctx, t.Approval, "the call was refused: "+y.refused.Error())
			}
			err = e.endRun(ctx, y, t, answer)
		}
		if !errors.Is(err, kv.ErrConflict) {
			return err
		}
	}
}

// waits tells whether the call did not run for a reason that may pass.
func (x *exchange) waits() bool {
	if x.refused == nil || x.spent || x.forwarded {
		return false
	}
	switch x.refused.kind {
	case kindPending, kindFrozen, kindQuota, kindUnavailable, kindCancelled, kindNoSession:
		return true
	}
	return false
}

// waitingFor is why a task waits on; an approval that was asked for anew is the
// one that it waits for.
func (x *exchange) waitingFor(ctx context.Context, t *task) string {
	if x.approval != "" {
		t.Approval = x.approval
	}
	if a, err := x.e.Approvals.Get(ctx, t.Approval); err == nil && a.State == approval.Pending {
		if until := a.Expires.UTC().Add(keepAnswer); until.After(t.Until) {
			t.Until = until
		}
		return x.waitingWords(a)
	}
	return x.e.words(x.refused.Error(), 1024)
}

// endRun ends the task with what its call was answered with. A server's own task
// is followed from here on; a server that asks for input gets none, since nobody
// is there to give it.
func (e *Enforcer) endRun(ctx context.Context, y *exchange, t *task, answer []byte) error {
	set := y.force.policy.Settings()
	m, err := wire.Parse(answer, wire.Limits{Bytes: 2*int(set.MaxResponse) + 64<<10, Depth: set.MaxDepth})
	if err != nil {
		return e.endTask(ctx, t, wire.ErrorReply([]byte("0"), codeInternal, "the server's stream ended without an answer; the call may have run (countersign record "+y.id+")", nil))
	}
	kind, _ := m.Member(m.Result, "resultType")
	what, _ := m.Text(kind)
	in := m.Result
	if inner, ok := m.Member(m.Result, "task"); ok && !t.Modern {
		what, in = "task", inner
	}
	switch what {
	case "task":
		at, _ := m.Member(in, "taskId")
		if t.Chained, _ = m.Text(at); t.Chained != "" {
			t.Run, t.Message, t.Until = nil, "the server works on it, as a task of its own", e.Now().UTC().Add(24*time.Hour)
			return e.saveTask(ctx, t)
		}
	case "input_required":
		answer = wire.ToolError([]byte("0"), "the call ran on its approval, and the server asks for input, which a task that waited for approval cannot give. Nothing more is sent (countersign record "+y.id+")")
	}
	return e.endTask(ctx, t, answer)
}
