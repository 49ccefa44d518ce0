package enforcer

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"countersign/enforcer/approval"
	"countersign/enforcer/kv"
	"countersign/enforcer/wire"
)

// A client that takes tasks need not wait on a connection: a tools/call that
// needs approval is answered with a task at once. It takes tasks if it declares
// the extension io.modelcontextprotocol/tasks in the request (2026-07-28), or if
// the request asks for one, with params.task (2025-11-25).
//
// The task is in the store before anybody is asked, and before the client hears
// of it: its request, sealed, and later its answer. No token is. So the call
// runs when it was approved and its caller asks for the task: with the token of
// that tasks/get, through the same pipeline as any call, where it is decided
// again. An agent that has left has nothing run behind its back. See taskrun.go.
//
// Ids have a prefix of their own, so that a server's tasks go through untouched
// beside them, and are of no use to anybody but the caller that got them.

// TaskPrefix begins the id of each task that is the enforcer's own.
const TaskPrefix = "cst_"

const (
	taskPoll    = 5 * time.Second // how often a client is asked to look
	keepAnswer  = time.Hour       // after the call has run; a task that waits lasts as long as its approval, and so much longer
	maxTasks    = 64              // of one caller at one server; beyond, calls wait on their connection
	taskSilence = time.Minute     // without a sign of life, the enforcer that ran a task is dead
)

// The states of a task (2026-07-28 tasks extension; 2025-11-25 basic/utilities/
// tasks). Ours never ask for input by themselves.
const (
	taskWorking   = "working"
	taskCompleted = "completed"
	taskFailed    = "failed"
	taskCancelled = "cancelled"
)

// task is one call that waits for approval, or what it came to.
type task struct {
	ID       string    `json:"id"`
	Owner    string    `json:"owner"` // subject, client and server
	Tool     string    `json:"tool"`
	Modern   bool      `json:"modern"` // the client speaks the stateless era
	Approval string    `json:"approval"`
	Created  time.Time `json:"created"`
	Updated  time.Time `json:"updated"`
	Until    time.Time `json:"until"` // and no longer
	Status   string    `json:"status"`
	Message  string    `json:"message"`
	// Run is the call that runs, or ran, for it.
	Run       *taskRun `json:"run,omitempty"`
	Cancelled bool     `json:"cancelled,omitempty"` // while it runs; whoever runs it ends it
	// Chained is the server's own task, if that is what it answered with.
	Chained string      `json:"chained,omitempty"`
	Request int         `json:"request"`          // parts of the message
	Answer  int         `json:"answer,omitempty"` // parts of the JSON-RPC response
	Header  http.Header `json:"header"`           // of the message

	rev uint64
}

type taskRun struct {
	Call string    `json:"call"`
	By   string    `json:"by"`   // the run of an enforcer
	Seen time.Time `json:"seen"` // its last sign of life
	// Free says that it may run without the approval, which policy does not ask
	// for any more: no approval tells then whether it did.
	Free bool `json:"free,omitempty"`
}

const (
	tasksPrefix = "task."
	requestText = "request"
)

func (t *task) over() bool {
	return t.Status == taskCompleted || t.Status == taskFailed || t.Status == taskCancelled
}

func (t *task) texts() map[string]int {
	return map[string]int{requestText: t.Request, answerText: t.Answer}
}

// ownerTasks is what the keys of an owner's tasks begin with.
func (e *Enforcer) ownerTasks(owner string) string {
	sum := e.keyed("tasks", []byte(owner))
	return tasksPrefix + sum[strings.IndexByte(sum, ':')+1:][:32] + "."
}

func (e *Enforcer) taskKey(owner, id string) string { return e.ownerTasks(owner) + id }

// findTask reads a task of the owner; kv.ErrNotFound if there is none, or if its
// time is over.
func (e *Enforcer) findTask(ctx context.Context, owner, id string) (*task, error) {
	if e.kept.bucket == nil || !ownTask(id) {
		return nil, kv.ErrNotFound
	}
	t := &task{}
	var err error
	if t.rev, err = e.kept.get(ctx, e.taskKey(owner, id), t); err != nil {
		if errors.Is(err, errKept) {
			err = kv.ErrNotFound // sealed under another key
		}
		return nil, err
	}
	if t.Owner != owner || t.ID != id || !e.Now().Before(t.Until) {
		return nil, kv.ErrNotFound
	}
	return t, nil
}

// ownTask tells whether an id can be one of ours. It becomes part of a key.
func ownTask(id string) bool {
	rest, ok := strings.CutPrefix(id, TaskPrefix)
	return ok && len(rest) == 26 && strings.Trim(rest, "abcdefghijklmnopqrstuvwxyz234567") == ""
}

// saveTask writes the task; kv.ErrConflict if another has since.
func (e *Enforcer) saveTask(ctx context.Context, t *task) error {
	t.Updated = e.Now().UTC()
	rev, err := e.kept.put(ctx, e.taskKey(t.Owner, t.ID), t, t.rev)
	if err == nil {
		t.rev = rev
	}
	return err
}

// takesTasks tells whether the client can be answered with a task.
func (x *exchange) takesTasks() bool {
	m := x.client()
	if x.task != nil || x.e.kept.bucket == nil || x.msg.Method != "tools/call" || m.Method != "tools/call" {
		return false
	}
	if !m.Modern() {
		at, ok := m.Member(m.Params, "task")
		return ok && m.Bytes(at)[0] == '{'
	}
	return declaresTasks(m)
}

const tasksExtension = "io.modelcontextprotocol/tasks"

// declaresTasks tells whether a request of the stateless era declares that its
// client takes tasks.
func declaresTasks(m *wire.Message) bool {
	caps, _ := m.Member(m.Meta, "io.modelcontextprotocol/clientCapabilities")
	extensions, _ := m.Member(caps, "extensions")
	at, ok := m.Member(extensions, tasksExtension)
	return ok && m.Bytes(at)[0] == '{'
}

// plan makes a task for the call, if its client takes one, before anybody is
// asked. It is nil where there can be none: then the call waits as others do.
func (x *exchange) plan(ctx context.Context) *task {
	if !x.takesTasks() {
		return nil
	}
	prefix := x.e.ownerTasks(x.ownerKey())
	keys, err := x.e.kept.bucket.Keys(ctx, prefix)
	if err == nil {
		keys = slices.DeleteFunc(keys, func(key string) bool { return strings.Contains(key[len(prefix):], ".") })
		if len(keys) >= maxTasks {
			return nil
		}
	}
	now := x.e.Now().UTC()
	t := &task{
		ID: TaskPrefix + strings.ToLower(rand.Text()), Owner: x.ownerKey(), Tool: x.req.Tool, Modern: x.client().Modern(),
		Created: now, Until: now.Add(x.decision.Expires + keepAnswer), Status: taskWorking, Header: forwardHeader(x.r.Header, x.msg),
	}
	t.Header.Del("Mcp-Session-Id") // it runs in the session of who asks for it
	if err == nil {
		t.Request, err = x.e.kept.putText(ctx, x.e.taskKey(t.Owner, t.ID), requestText, x.raw)
	}
	if err == nil {
		err = x.e.saveTask(ctx, t)
	}
	if err != nil {
		x.e.Log.Error("a call that waits for approval cannot be kept as a task: it waits on its connection", "call", x.id, "err", err)
		return nil
	}
	return t
}

// drop forgets a task that nobody has heard of.
func (x *exchange) drop(ctx context.Context, t *task) {
	if t == nil {
		return
	}
	if err := x.e.kept.forget(context.WithoutCancel(ctx), x.e.taskKey(t.Owner, t.ID), 0, t.texts()); err != nil {
		x.e.Log.Warn("a task that is not needed stays in the store until its time is over", "task", t.ID, "err", err)
	}
}

// queue answers with the task, if there is one; the approval waits for whoever
// asks for that. It tells a call that runs for a task that it does not run yet.
func (x *exchange) queue(ctx context.Context, a approval.Approval, planned *task) error {
	if x.task != nil {
		return x.pending(a)
	}
	if planned == nil {
		return nil
	}
	t := planned
	if first := x.firstTask(ctx, a); first != nil { // an identical call has one already
		x.drop(ctx, planned)
		t = first
	} else {
		t.Approval, t.Message, t.Until = a.ID, x.waitingWords(a), a.Expires.UTC().Add(keepAnswer)
		if err := x.e.saveTask(ctx, t); err != nil {
			return refuse(kindUnavailable, "the task cannot be kept: %w", err)
		}
	}
	answer := x.pending(a)
	answer.result = t.created()
	return answer
}

// firstTask is the task that the approval was asked for with, if it can be
// answered with again.
func (x *exchange) firstTask(ctx context.Context, a approval.Approval) *task {
	if a.Task == "" {
		return nil
	}
	t, err := x.e.findTask(ctx, x.ownerKey(), a.Task)
	if err != nil || t.over() || t.Approval != a.ID || t.Modern != x.client().Modern() {
		return nil
	}
	return t
}

func (x *exchange) waitingWords(a approval.Approval) string {
	return fmt.Sprintf("waiting for approval by %s until %s: %s", approvers(a), a.Expires.UTC().Format("15:04 MST"), x.e.page(a.ID))
}

// members are a task as JSON has it, without the braces.
func (t *task) members() []byte {
	ttl, poll := "ttl", "pollInterval"
	if t.Modern {
		ttl, poll = "ttlMs", "pollIntervalMs"
	}
	out := fmt.Appendf(nil, `"taskId":%q,"status":%q,"createdAt":%q,"lastUpdatedAt":%q,%q:%d,%q:%d`, t.ID, t.Status,
		t.Created.UTC().Format(time.RFC3339Nano), t.Updated.UTC().Format(time.RFC3339Nano),
		ttl, t.Until.Sub(t.Created).Milliseconds(), poll, taskPoll.Milliseconds())
	if t.Message != "" {
		out = append(append(out, `,"statusMessage":`...), wire.Quote(t.Message)...)
	}
	return out
}

// created is the result of the call that became a task.
func (t *task) created() []byte {
	if t.Modern {
		return fmt.Appendf(nil, `{"resultType":"task",%s}`, t.members())
	}
	return fmt.Appendf(nil, `{"task":{%s},"_meta":{"io.modelcontextprotocol/model-immediate-response":%s}}`, t.members(), wire.Quote(t.Message))
}

// state is what tasks/get tells; answer is the response that the call came to,
// nil if it has not. Only the stateless era has that in it.
func (t *task) state(answer *wire.Message) []byte {
	if !t.Modern {
		return fmt.Appendf(nil, `{%s}`, t.members())
	}
	out := append([]byte(`{"resultType":"complete",`), t.members()...)
	switch {
	case answer == nil:
	case t.Status == taskCompleted:
		out = append(append(out, `,"result":`...), answer.Bytes(answer.Result)...)
	case t.Status == taskFailed:
		out = append(append(out, `,"error":`...), answer.Bytes(answer.ErrorObj)...)
	}
	return append(out, '}')
}

// sweepKept forgets what nobody may ask for any more. A text without its
// document, which a run that was cut off left, goes when it is seen the second
// time: texts are written first.
func (e *Enforcer) sweepKept(ctx context.Context) error {
	if e.kept.bucket == nil {
		return nil
	}
	keys, err := e.kept.bucket.Keys(ctx, "")
	if err != nil {
		return err
	}
	var errs []error
	now, left := e.Now(), map[string]bool{}
	for _, key := range keys {
		var doc string
		var past func() (uint64, map[string]int, bool, error)
		switch parts := strings.Split(key, "."); {
		case strings.HasPrefix(key, tasksPrefix) && len(parts) >= 3:
			doc = strings.Join(parts[:3], ".")
			past = func() (uint64, map[string]int, bool, error) {
				var t task
				rev, err := e.kept.get(ctx, key, &t)
				return rev, t.texts(), !now.Before(t.Until), err
			}
		case strings.HasPrefix(key, owedPrefix) && len(parts) >= 2:
			doc = strings.Join(parts[:2], ".")
			past = func() (uint64, map[string]int, bool, error) {
				var o owed
				rev, err := e.kept.get(ctx, key, &o)
				return rev, o.texts(), now.Sub(o.At) > keepOwed, err
			}
		default:
			continue // of a later version
		}
		if doc != key {
			if _, whole := slices.BinarySearch(keys, doc); !whole {
				if left[key] = true; e.orphans[key] {
					errs = append(errs, e.kept.bucket.Delete(ctx, key, 0))
				}
			}
			continue
		}
		if rev, texts, over, err := past(); errors.Is(err, errKept) || err == nil && over {
			errs = append(errs, gone(e.kept.forget(ctx, key, rev, texts)))
		}
	}
	e.orphans = left
	return errors.Join(errs...)
}

// gone is no error where another was faster.
func gone(err error) error {
	if errors.Is(err, kv.ErrConflict) || errors.Is(err, kv.ErrNotFound) {
		return nil
	}
	return err
}
