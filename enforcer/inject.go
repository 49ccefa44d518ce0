package enforcer

import (
	"context"
	"errors"
	"net/http"
	"time"

	"countersign/enforcer/hub"
)

// clientGrace is how long an upstream may go on with a call whose client has
// left, in the legacy era, where leaving is not cancelling.
const clientGrace = 10 * time.Minute

// upstreamContext ends with a freeze that covers the call. It outlives the
// client in the legacy era, where a disconnect is not a cancellation, by
// clientGrace, and the client's cancellation by cancelGrace; in the stateless
// era closing the stream is one, unless the request is made for a client of the
// legacy era.
func (x *exchange) upstreamContext(ctx context.Context) context.Context {
	if x.endless() {
		out, cancel := context.WithCancel(ctx)
		stopped := context.AfterFunc(x.e.lifetime, cancel)
		x.cleanup = append(x.cleanup, func() { stopped(); cancel() })
		return out
	}
	if x.leavingEnds() {
		return ctx
	}
	out, cancel := context.WithCancel(context.WithoutCancel(ctx))
	left := context.AfterFunc(ctx, func() {
		if x.spent && x.stopped() == nil {
			x.e.Log.Info("the client of an approved call has left; its answer will be kept", "call", x.id, "approval", x.approval)
		}
		if errors.Is(context.Cause(ctx), hub.ErrCancelled) {
			cancel()
			return
		}
		late := time.AfterFunc(clientGrace, cancel)
		context.AfterFunc(out, func() { late.Stop() })
	})
	cut := context.AfterFunc(x.ice, cancel)
	x.cleanup = append(x.cleanup, x.e.waiting.cutLate(x, cancel), func() { left(); cut(); cancel() })
	return out
}

// leavingEnds tells whether a client that closes the connection ends the
// exchange: it asked for a stream, or is of the stateless era.
func (x *exchange) leavingEnds() bool {
	return x.r.Method != http.MethodPost || x.msg == nil || x.msg.Modern() && !hub.Patient(x.r.Context())
}

// endless tells whether the exchange is a stream that ends when somebody ends
// it: a stop of the enforcer does not wait for it.
func (x *exchange) endless() bool {
	return x.r.Method == http.MethodGet || x.msg != nil && x.msg.Method == "subscriptions/listen"
}

// close gives back what the exchange holds: a per-call credential is revoked,
// and an approval is told what became of its call.
func (x *exchange) close() {
	x.held.join()
	if x.reply != nil {
		if err := x.reply.Close(); err != nil {
			x.e.Log.Debug("closing the upstream's reply", "call", x.id, "err", err)
		}
	}
	x.answers.Free()
	x.sending.Free()
	x.asked.Free()
	for _, f := range x.cleanup {
		f()
	}
	ctx := context.WithoutCancel(x.r.Context())
	x.finish(ctx)
	if x.lease == nil {
		return
	}
	if up := x.force.upstreams[x.server]; x.perCall && up != nil {
		up.EndKey(x.lease.Key) // before the revocation, so that nothing is left that holds it
	}
	if err := x.e.Credentials.Release(ctx, x.lease); err != nil {
		x.e.Log.Warn("a credential was not revoked at once; it is retried", "call", x.id, "err", err)
	}
}
