package enforcer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"countersign/audit"
	"countersign/enforcer/approval"
	"countersign/enforcer/kv"
	"countersign/enforcer/mask"
	"countersign/enforcer/wire"
)

// What a caller has not heard, its next identical call is told, once: how an
// approval was denied while nobody waited for it, and what an approved call came
// to whose client had left. Any later identical call is a new request.
//
// It is written into the store before the moment that it is about: before the
// caller is sent home, and before a call that was approved is forwarded. The
// answer joins it if the client has left when it comes, masked as it would have
// been sent; if the client has it, the note is gone. So what a crash leaves is a
// note without an answer, and the approval knows the outcome. (A client that
// leaves as the answer is written, before the network has told us, counts as
// one that has it.)

const (
	keepUndelivered  = time.Hour        // an answer
	keepOwed         = 24 * time.Hour   // a note without one
	undeliveredBytes = 16 << 20         // of one answer; of a larger one the outcome is kept
	runPatience      = 15 * time.Minute // for a call that runs at another enforcer, or did when that died
)

// owed is a note of what a caller has not heard.
type owed struct {
	Approval string    `json:"approval"`
	Call     string    `json:"call,omitempty"`   // that ran on it; "": none had when the caller left
	Answer   int       `json:"answer,omitempty"` // parts of the JSON-RPC response; 0: there is none
	At       time.Time `json:"at"`
}

// answerText is what the answer is called beside its note.
const answerText = "answer"

func (o owed) texts() map[string]int { return map[string]int{answerText: o.Answer} }

const owedPrefix = "owed."

// owedKey is what an identical call by the same caller has in common with this
// one. The digest is keyed, so the key tells nothing.
func (x *exchange) owedKey() string {
	sum := x.e.keyed("owed", []byte(x.ownerKey()+"\x00"+x.req.Method+"\x00"+x.binds))
	return owedPrefix + sum[strings.IndexByte(sum, ':')+1:]
}

// owe makes the note durable, in the place of an earlier one.
func (e *Enforcer) owe(ctx context.Context, key string, o owed) error {
	if e.kept.bucket == nil {
		return nil
	}
	for {
		var was owed
		rev, err := e.kept.get(ctx, key, &was)
		switch {
		case errors.Is(err, kv.ErrNotFound):
			rev = 0
		case errors.Is(err, errKept): // under another key: nobody can read it any more
		case err != nil:
			return err
		}
		_, err = e.kept.put(ctx, key, o, rev)
		if errors.Is(err, kv.ErrConflict) || errors.Is(err, kv.ErrExists) {
			continue
		}
		return err
	}
}

// runs are the approved calls under way here, so that an identical one waits for
// their end.
type runs struct {
	mu sync.Mutex
	m  map[string]chan struct{} // by call
}

func (r *runs) begin(call string) (end func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.m == nil {
		r.m = map[string]chan struct{}{}
	}
	over := make(chan struct{})
	r.m[call] = over
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.m, call)
		close(over)
	}
}

// of is closed when the call is over; nil if it does not run here.
func (r *runs) of(call string) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.m[call]
}

// delivered is called when the answer of a request has been written, or not. If
// its client has left, an approved call's is kept; else the note goes.
func (x *exchange) delivered(answer []byte) {
	if x.took != nil {
		x.took(bytes.Clone(answer))
	}
	if !x.spent || x.owes == "" || x.e.kept.bucket == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(x.r.Context()), storeLimit)
	defer cancel()
	if err := x.settle(ctx, answer); err != nil {
		x.e.Log.Error("what an approved call came to cannot be kept for its caller", "call", x.id, "approval", x.approval, "err", err)
	}
	x.owes = ""
}

// storeLimit is how long the store may take with what a client does not wait for.
const storeLimit = 10 * time.Second

func (x *exchange) settle(ctx context.Context, answer []byte) error {
	o := owed{Approval: x.approval, Call: x.id, At: x.e.Now()}
	if !x.forwarded || !x.out.gone && x.r.Context().Err() == nil { // of what did not run, there is nothing to hear
		var was owed
		rev, err := x.e.kept.get(ctx, x.owes, &was)
		if errors.Is(err, kv.ErrNotFound) || err == nil && was.Call != x.id {
			return nil
		}
		if err != nil {
			return err
		}
		return x.e.kept.forget(ctx, x.owes, rev, nil)
	}
	if len(answer) > 0 && len(answer) <= undeliveredBytes {
		var err error
		if o.Answer, err = x.e.kept.putText(ctx, x.owes, answerText, answer); err != nil {
			return err
		}
	}
	return x.e.owe(ctx, x.owes, o)
}

// errAnswered ends an exchange whose answer is out already.
var errAnswered = errors.New("answered")

// deliverLate answers with what an earlier identical call, whose client had
// left, came to. Nothing is asked, and nothing runs. Where that call runs still,
// its end is waited for.
func (x *exchange) deliverLate(ctx context.Context) error {
	if x.e.kept.bucket == nil {
		return nil
	}
	key := x.owedKey()
	look, hold := time.NewTicker(time.Second), time.NewTimer(x.force.policy.HoldFor(x.caller.Client))
	defer look.Stop()
	defer hold.Stop()
	for {
		var o owed
		rev, err := x.e.kept.get(ctx, key, &o)
		switch {
		case errors.Is(err, kv.ErrNotFound):
			return nil
		case errors.Is(err, errKept): // sealed under another key: nobody reads it any more
			o = owed{}
		case err != nil:
			return refuse(kindUnavailable, "whether an identical call has run cannot be read: %w", err)
		}
		is, tell, err := x.earlier(ctx, o)
		switch {
		case err != nil:
			return refuse(kindUnavailable, "the approval of an identical call cannot be read: %w", err)
		case is == earlierOpen:
			return nil
		case is == earlierRuns:
			x.out.open("an identical call is under way")
			select {
			case <-x.e.runs.of(o.Call): // never, if it runs elsewhere
			case <-look.C:
			case <-hold.C:
				x.approval = o.Approval
				return refuse(kindPending, "an identical call (record %s) is under way since it was approved. Repeat this one to hear what it came to", o.Call)
			case <-ctx.Done():
				return refuse(kindCancelled, "cancelled by the client; nothing ran for this call")
			}
			continue
		}
		var answer []byte
		if is == earlierTell && o.Answer > 0 {
			if answer, err = x.e.kept.text(ctx, key, answerText, o.Answer); err != nil {
				x.e.Log.Error("the answer of a call whose client had left cannot be read", "call", o.Call, "err", err)
			}
		}
		// Who takes the note away is who tells of it.
		if err := x.e.kept.forget(ctx, key, rev, map[string]int{answerText: o.Answer}); errors.Is(err, kv.ErrConflict) {
			continue
		} else if err != nil {
			return refuse(kindUnavailable, "that the caller is told of an identical call cannot be noted: %w", err)
		}
		switch {
		case is == earlierOver:
			return nil
		case answer == nil:
			x.approval = o.Approval
			return tell
		}
		return x.deliver(ctx, key, o, answer)
	}
}

// earlier is what is known of an identical call.
type earlier int

const (
	earlierOver earlier = iota // there is nothing to tell: what comes is a new request
	earlierOpen                // its approval may still be used
	earlierRuns                // it is under way
	earlierTell                // the caller has not heard how it ended
)

// earlier finds out what a note is about; with earlierTell, also how it is told
// if there is no answer.
func (x *exchange) earlier(ctx context.Context, o owed) (earlier, *refusal, error) {
	age := x.e.Now().Sub(o.At)
	if o.Approval == "" || age > keepOwed || o.Answer > 0 && age > keepUndelivered {
		return earlierOver, nil, nil
	}
	a, err := x.e.Approvals.Get(ctx, o.Approval)
	if errors.Is(err, approval.ErrUnknown) {
		return earlierOver, nil, nil
	}
	if err != nil {
		return 0, nil, err
	}
	switch {
	case o.Call == "" && !a.State.Ended():
		return earlierOpen, nil, nil
	case o.Call == "" && a.State == approval.Denied:
		return earlierTell, x.denied(verdict(a) + ". This is told once: the identical call would ask again"), nil
	case o.Call == "":
		return earlierOver, nil, nil
	case o.Answer > 0:
		return earlierTell, x.lost(o, "its answer cannot be read"), nil
	case x.e.runs.of(o.Call) != nil:
		return earlierRuns, nil, nil
	}
	switch ran, ended := ranOn(a, o.Call); {
	case !ran, ended == audit.StatusNotRun:
		return earlierOver, nil, nil
	case ended == "" && !x.e.Alone && age < runPatience:
		return earlierRuns, nil, nil
	case ended == "", ended == audit.StatusUnknown:
		return earlierTell, x.lost(o, "how it ended is not known: it may have run"), nil
	default:
		return earlierTell, x.lost(o, fmt.Sprintf("its outcome was %q, its answer is not kept", ended)), nil
	}
}

// ranOn tells whether the call ran on the approval, or may have, and its outcome;
// "" if that is not known yet.
func ranOn(a approval.Approval, call string) (ran bool, outcome string) {
	for _, use := range a.Calls {
		if use.Call == call {
			return true, use.Outcome
		}
	}
	return a.SpentBy == call, a.Outcome
}

// lost tells of a call that ran, or may have, and whose answer is not there.
func (x *exchange) lost(o owed, how string) *refusal {
	return refuse(kindOwed, "an identical call of yours (record %s) was approved and sent, and %s. Nothing ran for this one. This is told once: the identical call would ask again", o.Call, how)
}

// remasked is an answer that was kept, masked by what is secret now: a value may
// have become one since.
func (x *exchange) remasked(answer []byte) (clean []byte, err error) {
	var report mask.Report
	x.e.room.works(len(answer), func() { clean, report, err = x.e.Mask.Answer(answer, x.site()) })
	x.note(report)
	if err != nil {
		return nil, refuseAnswer(err)
	}
	return clean, nil
}

// deliver answers with an answer that was kept.
func (x *exchange) deliver(ctx context.Context, key string, o owed, answer []byte) error {
	clean, err := x.remasked(answer)
	if err != nil {
		return err
	}
	m, err := wire.Parse(clean, wire.Limits{Bytes: 2 * undeliveredBytes})
	if err != nil {
		return x.lost(o, "its answer cannot be read") // it was parsed before it was kept
	}
	en := x.entry(audit.KindOutcome)
	en.Status, en.Reason, en.Approval = outcome(m), "the answer of call "+o.Call+", whose client had left; nothing ran for this one", o.Approval
	en.Result = x.preview(clean)
	if err := x.append(en, x.bodies("response", clean)...); err != nil {
		if parts, perr := x.e.kept.putText(ctx, key, answerText, answer); perr == nil { // for when it can be recorded
			o.Answer = parts
			err = errors.Join(err, x.e.owe(ctx, key, o))
		}
		return refuse(kindUnavailable, "the record cannot be written, so the answer is withheld: %w", err)
	}
	x.closed = true
	x.e.metrics.ended(x, outcome(m))
	x.out.message(200, readdressed(m, x.msg.ID))
	return errAnswered
}

// readdressed is a response as the answer to another id.
func readdressed(m *wire.Message, id []byte) []byte {
	member, body := `"result":`, m.Bytes(m.Result)
	if m.ErrorObj.Present() {
		member, body = `"error":`, m.Bytes(m.ErrorObj)
	}
	var b bytes.Buffer
	b.WriteString(`{"jsonrpc":"2.0","id":`)
	b.Write(id)
	b.WriteString(`,` + member)
	b.Write(body)
	b.WriteString(`}`)
	return b.Bytes()
}
