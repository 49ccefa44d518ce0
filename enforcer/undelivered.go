package enforcer

import (
	"bytes"
	"errors"
	"sync"
	"time"

	"countersign/audit"
	"countersign/enforcer/wire"
)

// An approved call runs at most once. If its client has left when the answer
// comes, the answer is kept, masked as it would have been sent, and handed to
// the caller's next identical call, once; any later identical call is a new
// request. (After a restart the record knows the outcome, the answer is gone.
// So it is if the client leaves as the answer is written, before the network
// has told us: what was sent then counts as delivered.)

const (
	keepUndelivered  = time.Hour
	maxUndelivered   = 256
	undeliveredBytes = 1 << 20 // of one answer; a larger one is not kept
	undeliveredTotal = 16 << 20
)

type undelivered struct {
	mu sync.Mutex
	m  map[string]lateAnswer // by who asked for what
}

type lateAnswer struct {
	call   string // the call that ran
	answer []byte // a JSON-RPC response
	at     time.Time
}

// keep stores an answer. At the bound nothing is kept: nothing runs twice for
// that, the caller just learns less.
func (u *undelivered) keep(key string, a lateAnswer) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.m == nil {
		u.m = map[string]lateAnswer{}
	}
	total := len(a.answer)
	for k, old := range u.m {
		if a.at.Sub(old.at) > keepUndelivered {
			delete(u.m, k)
			continue
		}
		total += len(old.answer)
	}
	if len(u.m) < maxUndelivered && len(a.answer) <= undeliveredBytes && total <= undeliveredTotal {
		u.m[key] = a
	}
}

// take hands an answer out, once.
func (u *undelivered) take(key string, now time.Time) (lateAnswer, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	a, ok := u.m[key]
	delete(u.m, key)
	return a, ok && now.Sub(a.at) <= keepUndelivered
}

// sameRequest names what an identical call has in common with this one.
func (x *exchange) sameRequest() string {
	return x.holder() + "|" + x.req.Method + "|" + x.binds + "|" + x.decision.RulesDigest
}

// delivered is called when the answer of an approved call has been written, or
// not: it is kept if its client has left.
func (x *exchange) delivered(answer []byte) {
	if x.spent && (x.out.gone || x.r.Context().Err() != nil) {
		x.e.late.keep(x.lateKey, lateAnswer{x.id, bytes.Clone(answer), x.e.Now()})
	}
}

// errAnswered ends an exchange whose answer is out already.
var errAnswered = errors.New("answered")

// deliverLate answers with what an identical call, whose client had left, came
// to. Nothing is asked, and nothing runs.
func (x *exchange) deliverLate() error {
	late, ok := x.e.late.take(x.sameRequest(), x.e.Now())
	if !ok {
		return nil
	}
	m, err := wire.Parse(late.answer, wire.Limits{Bytes: undeliveredBytes})
	if err != nil {
		return nil // it was parsed before it was kept
	}
	en := x.entry(audit.KindOutcome)
	en.Status, en.Reason = outcome(m), "the answer of call "+late.call+", whose client had left; nothing ran for this one"
	if err := x.append(en); err != nil {
		x.e.late.keep(x.sameRequest(), late) // for when it can be recorded
		return refuse(kindUnavailable, "the record cannot be written, so the answer is withheld: %w", err)
	}
	x.closed = true
	x.e.metrics.ended(x, outcome(m))
	member, body := `"result":`, m.Bytes(m.Result)
	if m.ErrorObj.Present() {
		member, body = `"error":`, m.Bytes(m.ErrorObj)
	}
	var b bytes.Buffer
	b.WriteString(`{"jsonrpc":"2.0","id":`)
	b.Write(x.msg.ID)
	b.WriteString(`,` + member)
	b.Write(body)
	b.WriteString(`}`)
	x.out.message(200, b.Bytes())
	return errAnswered
}
