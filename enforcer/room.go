package enforcer

import (
	"context"
	"errors"
	"time"

	"countersign/enforcer/budget"
	"countersign/enforcer/wire"
	"countersign/rules"
)

// room is the memory for messages (limits.memory of the policy): one half for
// what callers ask, one for what servers answer. Two halves, because a call that
// waits for room for its answer holds on to what it asked.
//
// A request is counted twice, as it came and as it is sent on, until its call
// ends. An answer is counted as it is read, and then, masked, until its client
// has taken it. To parse and mask a message takes several times its size beside
// it, for a moment: large ones are worked on so many at a time that they come to
// a sixteenth.
type room struct {
	requests, answers, work *budget.Pool
}

const (
	// roomPatience is how long a call waits for room. Until then, as a rule, a
	// client has read what it was sent, or it does not read.
	roomPatience = 2 * time.Second
	// roomAhead is what must be free for an answer before its call is sent on:
	// better not to run than to run and not be answered.
	roomAhead = 256 << 10
	// roomRetry is when those who found no room are told to try again.
	roomRetry = 5 * time.Second
	// heavy is from where on a message is large.
	heavy = 64 << 10
	// workPatience is how long one waits for its turn. The work on a message has
	// a bound in time itself; should that ever not hold, it is not waited for.
	workPatience = time.Minute
)

func (r *room) init() {
	r.requests, r.answers = budget.New(0, roomPatience), budget.New(0, roomPatience)
	r.work = budget.New(0, workPatience)
}

func (r *room) resize(set rules.Settings) {
	r.requests.Resize(set.MaxMemory / 2)
	r.answers.Resize(set.MaxMemory / 2)
	r.work.Resize(set.MaxMemory / 16)
}

// works lets f work on a message of n bytes, when it is its turn. F must wait for
// nothing but the CPU.
func (r *room) works(n int, f func()) {
	if n >= heavy {
		turn := r.work.Share()
		defer turn.Free()
		_ = turn.Set(context.Background(), int(min(int64(n), r.work.Max()))) // see workPatience
	}
	f()
}

// full refuses what has not run, for want of room.
func (x *exchange) full(what string) *refusal {
	x.retry = roomRetry
	x.e.metrics.full.WithLabelValues(what).Inc()
	return refuse(kindUnavailable, "%w; try again in %d s", budget.ErrFull, int(roomRetry/time.Second))
}

// answerable refuses a request while there is no room for its answer. What is
// no request has none worth speaking of, and may be what ends a call.
func (x *exchange) answerable(ctx context.Context) error {
	if x.msg == nil || x.msg.Kind != wire.Request {
		return nil
	}
	if err := x.e.room.answers.Await(ctx, roomAhead); errors.Is(err, budget.ErrFull) {
		return x.full("answers")
	}
	return nil // ctx: the next step sees that the client has left
}
