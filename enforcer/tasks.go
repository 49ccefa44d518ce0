package enforcer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"countersign/audit"
	"countersign/enforcer/approval"
	"countersign/enforcer/kv"
	"countersign/enforcer/wire"
)

// own answers what a client asks about a task of ours: tasks/get, tasks/cancel,
// tasks/update (2026-07-28) and tasks/result (2025-11-25). No rule is needed for
// that: whoever asks for its own call's state has been let in to ask for the
// call, which is decided again before it runs. It is recorded as any request.
//
// A task that the server has made another of is followed there: the request goes
// on with the server's id, and needs the rule that any tasks/… needs.
func (x *exchange) own(ctx context.Context) error {
	if x.msg == nil || x.msg.Kind != wire.Request || !ownTask(x.msg.TaskID) {
		return nil
	}
	switch x.msg.Method {
	case "tasks/get", "tasks/cancel", "tasks/update", "tasks/result":
	default:
		return nil
	}
	if m := x.client(); m.Modern() && !declaresTasks(m) {
		ref := refuse(kindCapability, "Missing required client capability: extensions[%q]", tasksExtension)
		ref.data = map[string]any{"requiredCapabilities": map[string]any{"extensions": map[string]any{tasksExtension: struct{}{}}}}
		return ref
	}
	t, err := x.e.findTask(ctx, x.ownerKey(), x.msg.TaskID)
	if errors.Is(err, kv.ErrNotFound) {
		return refuse(kindUnknown, "there is no such task of yours, or its time is over")
	}
	if err != nil {
		return refuse(kindUnavailable, "the task cannot be read: %w", err)
	}
	if t.Chained != "" && !t.over() {
		return x.chain(t)
	}
	x.req.Subject, x.req.Client, x.req.Server, x.req.Method, x.req.Tool, x.req.Now = x.caller.Subject, x.caller.Client, x.server, x.msg.Method, t.Tool, x.e.Now()
	x.approval = t.Approval
	if err := x.unfrozen(ctx); err != nil {
		return err
	}
	switch x.msg.Method {
	case "tasks/cancel":
		return x.cancelTask(ctx, t)
	case "tasks/update": // it asks for nothing, so there is nothing to take
		return x.said(`{"resultType":"complete"}`, "a task of this gateway asks for no input")
	case "tasks/result":
		return x.taskResult(ctx, t)
	}
	return x.getTask(ctx, t)
}

// said answers with a result of our own.
func (x *exchange) said(result, words string) error {
	return x.responds(fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%s,"result":%s}`, x.msg.ID, result), audit.StatusOK, words)
}

// responds answers without a server, on record.
func (x *exchange) responds(response []byte, status, words string) error {
	x.decision.Policy = x.force.policy.Commit()
	en := x.entry(audit.KindOutcome)
	en.Status, en.Reason, en.Millis = status, x.e.words(words, 2048), millis(x.e.Now().Sub(x.start))
	en.Detail, en.Result = x.facts(""), x.preview(response)
	if err := x.append(en, x.bodies("response", response)...); err != nil {
		return refuse(kindUnavailable, "the record cannot be written, so the answer is withheld: %w", err)
	}
	x.closed, x.outcome = true, status
	x.e.metrics.ended(x, status)
	x.out.message(200, response)
	return errAnswered
}

// runAtOnce is how long tasks/get waits for a call that it has started: most are
// over by then, and their client need not ask again.
const runAtOnce = 2 * time.Second

func (x *exchange) getTask(ctx context.Context, t *task) error {
	t, over, err := x.advance(ctx, t)
	if err != nil {
		return err
	}
	if over != nil {
		patience := time.NewTimer(runAtOnce)
		defer patience.Stop()
		select {
		case <-over:
		case <-patience.C:
		case <-ctx.Done(): // the call goes on: it is not this request
			return refuse(kindCancelled, "cancelled by the client; the task goes on")
		}
		if t, err = x.e.findTask(ctx, t.Owner, t.ID); err != nil {
			return refuse(kindUnavailable, "the task cannot be read: %w", err)
		}
	}
	answer, err := x.taskAnswer(ctx, t)
	if err != nil {
		return err
	}
	return x.said(string(t.state(answer)), "task "+t.ID+" is "+t.Status+words(": ", t.Message))
}

func words(sep, s string) string {
	if s == "" {
		return ""
	}
	return sep + s
}

// taskAnswer is what the call came to, nil if it has not.
func (x *exchange) taskAnswer(ctx context.Context, t *task) (*wire.Message, error) {
	t.Message = x.e.words(t.Message, 2048)
	if t.Answer == 0 {
		return nil, nil
	}
	text, err := x.e.kept.text(ctx, x.e.taskKey(t.Owner, t.ID), answerText, t.Answer)
	if err != nil {
		return nil, refuse(kindUnavailable, "the task's answer cannot be read: %w", err)
	}
	if text, err = x.remasked(text); err != nil {
		return nil, err
	}
	set := x.force.policy.Settings()
	m, err := wire.Parse(text, wire.Limits{Bytes: 2*int(set.MaxResponse) + 64<<10, Depth: set.MaxDepth})
	if err != nil {
		return nil, refuse(kindUnavailable, "the task's answer cannot be read: %w", err)
	}
	return m, nil
}

// taskResult waits for the call's end, for as long as its client does, and
// answers as the call is answered (2025-11-25, "Retrieving Task Results").
func (x *exchange) taskResult(ctx context.Context, t *task) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer x.e.waiting.hold(x, func() { cancel(errCancelled) })()
	defer context.AfterFunc(x.e.lifetime, func() { cancel(errStopping) })()
	tick := time.NewTicker(keepAlive)
	defer tick.Stop()
	tried := false // and the call waits on: it is tried again in a while
	for n := 1; ; {
		var over <-chan struct{}
		var err error
		if x.force, err = x.e.current(); err != nil {
			return refuse(kindUnavailable, "%w", err)
		}
		settled := false
		if tried {
			a, err := x.e.Approvals.Get(ctx, t.Approval)
			settled = err != nil || a.State != approval.Pending
		} else if t, over, err = x.advance(ctx, t); err != nil {
			return err
		}
		if t.over() {
			break
		}
		if t.Chained != "" {
			return x.chain(t)
		}
		decided := make(chan struct{})
		waiting, stop := context.WithCancel(ctx)
		go func() {
			defer close(decided)
			_, _ = x.e.Approvals.Wait(waiting, t.Approval) // what it is now, advance finds out
		}()
		if over != nil || t.Run != nil || settled {
			stop() // for what runs, not for what was decided
			<-decided
			decided = nil
		}
		x.out.open(t.Message)
		retry := true
		select {
		case <-decided:
		case <-over:
			retry = false
		case <-x.e.turns.next():
		case <-tick.C:
			x.out.progress(x.msg.ProgressToken, float64(n)/1e6, t.Message)
			n++
		case <-ctx.Done():
		}
		stop()
		switch {
		case errors.Is(context.Cause(ctx), errStopping):
			return refuse(kindPending, "the enforcer is restarting; task %s stays: ask again", t.ID)
		case ctx.Err() != nil:
			return refuse(kindCancelled, "cancelled by the client; the task goes on")
		}
		if t, err = x.e.findTask(ctx, t.Owner, t.ID); err != nil {
			return refuse(kindUnavailable, "the task cannot be read: %w", err)
		}
		tried = !retry && !t.over() && t.Chained == "" && t.Run == nil
	}
	answer, err := x.taskAnswer(ctx, t)
	if err != nil {
		return err
	}
	if answer == nil { // cancelled
		return refuse(kindCancelled, "the task was cancelled: %s", t.Message)
	}
	if answer.ErrorObj.Present() {
		return x.responds(readdressed(answer, x.msg.ID), outcome(answer), "the answer of task "+t.ID)
	}
	return x.said(string(related(answer, t.ID)), "the answer of task "+t.ID)
}

// relatedTask is the _meta key that ties a message to a task.
const relatedTask = "io.modelcontextprotocol/related-task"

// related is a response's result with the task in its _meta.
func related(m *wire.Message, id string) []byte {
	tie := fmt.Appendf(nil, `%q:{"taskId":%q}`, relatedTask, id)
	result := m.Result
	edit := wire.Edit{Span: wire.Span{Start: result.Start + 1, End: result.Start + 1}, New: fmt.Appendf(nil, `"_meta":{%s}`, tie)}
	empty := true
	m.Members(result, func([]byte, wire.Span) bool { empty = false; return false })
	if !empty {
		edit.New = append(edit.New, ',')
	}
	if meta, ok := m.Member(result, "_meta"); ok && m.Bytes(meta)[0] == '{' {
		if tied, ok := m.Member(meta, relatedTask); ok {
			edit = wire.Edit{Span: tied, New: fmt.Appendf(nil, `{"taskId":%q}`, id)}
		} else {
			edit = wire.Edit{Span: wire.Span{Start: meta.Start + 1, End: meta.Start + 1}, New: tie}
			empty = true
			m.Members(meta, func([]byte, wire.Span) bool { empty = false; return false })
			if !empty {
				edit.New = append(edit.New, ',')
			}
		}
	}
	edit.Span.Start -= result.Start
	edit.Span.End -= result.Start
	return wire.Splice(m.Bytes(result), edit)
}

// cancelTask takes the request for approval back, if nothing has run; a call
// that runs is cancelled. Either way the task has ended for its client.
func (x *exchange) cancelTask(ctx context.Context, t *task) error {
	if t.over() {
		if t.Modern {
			return x.said(`{"resultType":"complete"}`, "task "+t.ID+" is "+t.Status+" already")
		}
		return refuse(kindUnknown, "the task cannot be cancelled: it is %s already", t.Status)
	}
	for {
		running := t.Run != nil && !x.e.silent(t)
		if t.Cancelled, t.Message = running, "cancelled by the client; the call was with the server already, and may have run"; !running {
			t.Message = "cancelled by the client; nothing ran"
		}
		t.Status = taskCancelled
		err := x.e.saveTask(ctx, t)
		if err == nil && running {
			x.e.tasks.cancel(t.ID)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, kv.ErrConflict) {
			return refuse(kindUnavailable, "the task cannot be cancelled: %w", err)
		}
		if t, err = x.e.findTask(ctx, t.Owner, t.ID); err != nil {
			return refuse(kindUnavailable, "the task cannot be read: %w", err)
		}
		if t.over() {
			break
		}
	}
	if t.Run == nil {
		x.takeBack(ctx, t)
	}
	result := `{"resultType":"complete"}`
	if !t.Modern {
		result = fmt.Sprintf(`{%s}`, t.members())
	}
	return x.said(result, "task "+t.ID+": "+t.Message)
}

// takeBack withdraws the approval that a task waits for.
func (x *exchange) takeBack(ctx context.Context, t *task) {
	err := x.e.Approvals.WithdrawBy(context.WithoutCancel(ctx), t.Approval, x.caller.Subject, "the requester has cancelled the call")
	if err != nil && !errors.Is(err, approval.ErrDecided) && !errors.Is(err, approval.ErrUnknown) {
		x.e.Log.Warn("the approval of a cancelled task could not be withdrawn", "task", t.ID, "approval", t.Approval, "err", err)
	}
}

// chain turns the request into one for the server's own task.
func (x *exchange) chain(t *task) error {
	x.approval = "" // it was the call's, not this request's
	at, ok := x.msg.Member(x.msg.Params, "taskId")
	if !ok {
		return refuse(kindUnknown, "there is no such task")
	}
	set := x.force.policy.Settings()
	raw := wire.Splice(x.msg.Raw, wire.Edit{Span: at, New: wire.Quote(t.Chained)})
	m, err := wire.Parse(raw, wire.Limits{Bytes: int(set.MaxRequest) + len(raw), Depth: set.MaxDepth})
	if err != nil {
		return refuse(kindUnavailable, "the server's task cannot be asked for: %w", err)
	}
	if x.r.Header.Get("Mcp-Name") != "" {
		x.r.Header.Set("Mcp-Name", wire.EncodeHeader(t.Chained))
	}
	x.raw, x.msg, x.chained = raw, m, t
	return nil
}

// unchained puts our id where a server's answer has its own.
func (x *exchange) unchained(clean []byte) ([]byte, error) {
	if x.chained == nil {
		return clean, nil
	}
	set := x.force.policy.Settings()
	m, err := wire.Parse(clean, wire.Limits{Bytes: len(clean), Depth: set.MaxDepth})
	if err != nil {
		return nil, fmt.Errorf("the server's task cannot be given its id here: %w", err)
	}
	id, err := json.Marshal(x.chained.ID)
	if err != nil {
		return nil, err // plain letters: it cannot fail
	}
	var edits []wire.Edit
	in := func(object wire.Span) {
		if at, ok := m.Member(object, "taskId"); ok {
			if text, _ := m.Text(at); text == x.chained.Chained {
				edits = append(edits, wire.Edit{Span: at, New: id})
			}
		}
	}
	at := m.Result
	if m.Kind == wire.Notification {
		at = m.Params
	}
	in(at)
	if inner, ok := m.Member(at, "task"); ok {
		in(inner)
	}
	if meta, ok := m.Member(at, "_meta"); ok {
		if rel, ok := m.Member(meta, relatedTask); ok {
			in(rel)
		}
	}
	if len(edits) == 0 {
		return clean, nil
	}
	return wire.Splice(clean, edits...), nil
}
