package enforcer

import (
	"context"
	"errors"

	"countersign/enforcer/quota"
	"countersign/rules"
)

// meter refuses a call of which there have been enough, before a person is
// bothered, and before it costs anything.
//
// An allowed call is counted here. One that needs a person's approval holds its
// place among those under way while it waits, and is counted when it goes
// ahead, right before its approval is spent (approve).
func (x *exchange) meter(ctx context.Context) error {
	if err := x.answerable(ctx); err != nil { // first: what is refused for that is not counted
		return err
	}
	leave, refused := x.e.Quotas.Enter(x.e.Now(), x.draws(), x.decision.Effect == rules.Allow)
	if refused != nil {
		return x.exhausted(refused)
	}
	x.cleanup = append(x.cleanup, leave)
	return nil
}

// draws lists the quotas that count the request, under the policy in force.
func (x *exchange) draws() []quota.Draw {
	of := x.force.policy.QuotasOf(x.req.Server, x.req.Method, x.req.Tool)
	draws := make([]quota.Draw, len(of))
	var room [8]string
	for i, q := range of {
		parts := room[:0]
		for _, p := range q.Per {
			parts = append(parts, p)
			switch p {
			case "subject":
				parts = append(parts, x.caller.Subject.Key())
			case "client":
				parts = append(parts, x.caller.Client)
			case "server":
				parts = append(parts, x.req.Server)
			case "tool":
				parts = append(parts, x.req.Method, x.req.Tool)
			}
		}
		draws[i] = quota.Draw{Quota: q.ID, Key: quota.KeyOf(parts...),
			Limit: quota.Limit{Minute: q.Minute, Day: q.Day, Concurrent: q.Concurrent}}
	}
	return draws
}

func (x *exchange) exhausted(e *quota.Exhausted) *refusal {
	x.quota, x.retry = e.Quota, e.After
	x.e.metrics.exhausted.WithLabelValues(e.Quota).Inc()
	return &refusal{kind: kindQuota, cause: errors.New(e.Error())}
}

// keepQuotas keeps the counts of the quotas that the next policy still has.
func (e *Enforcer) keepQuotas(p *rules.Policy) {
	var ids []string
	for _, q := range p.Quotas() {
		ids = append(ids, q.ID)
		e.metrics.exhausted.WithLabelValues(q.ID) // from zero on, so that an alert sees the first
	}
	e.Quotas.Keep(ids)
}
