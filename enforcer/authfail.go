package enforcer

import (
	"context"
	"sync"
	"time"

	"countersign/audit"
)

// What is refused before anybody is known (a failed authentication, a foreign
// Host) is recorded, but must not let anyone fill the journal: the first of a
// kind from a source is written at once, the rest are counted and written
// together, under the call id of the first.

const (
	authWindow  = 10 * time.Second
	authSources = 1000 // kinds held apart; further ones are counted together
)

type authFailures struct {
	mu sync.Mutex
	m  map[authKey]*authCount
}

type authKey struct {
	source, server, reason, status string
	kind                           audit.Kind
}

type authCount struct {
	n     int
	since time.Time
	call  string // the first one's id
}

func (a *authFailures) init() { a.m = map[authKey]*authCount{} }

// add counts one failure. It returns the call id under which it is found in
// the record; first means that it is to be written now.
func (a *authFailures) add(k authKey, call string, now time.Time) (id string, first bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c, ok := a.m[k]; ok {
		c.n++
		return c.call, false
	}
	if len(a.m) >= authSources {
		k = authKey{source: "many", reason: "many", status: k.status, kind: k.kind}
		if c, ok := a.m[k]; ok {
			c.n++
			return c.call, false
		}
	}
	a.m[k] = &authCount{since: now, call: call}
	return call, true
}

// due takes out the counts whose window is over.
func (a *authFailures) due(now time.Time, all bool) map[authKey]authCount {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := map[authKey]authCount{}
	for k, c := range a.m {
		if all || now.Sub(c.since) >= authWindow {
			out[k] = *c
			delete(a.m, k)
		}
	}
	return out
}

// unknown records what was refused before the caller was known. Nothing was
// served, so a record that cannot be written changes nothing for the caller.
func (e *Enforcer) unknown(x *exchange, ref *refusal) {
	// Texts of any length and content are the caller's to send: clipped first,
	// so that a flood costs little, and masked.
	reason, server := e.words(ref.Error(), 300), e.words(x.server, 64)
	k := authKey{source: x.source, server: server, reason: reason, status: ref.kind.status(), kind: audit.KindRefused}
	if ref.kind == kindUnauthenticated {
		k.kind = audit.KindAuthFailed
	}
	e.metrics.ended(x, k.status)
	var first bool
	if x.id, first = e.auth.add(k, x.id, e.Now()); !first {
		return
	}
	en := audit.Entry{Kind: k.kind, Call: x.id, Server: server, Status: k.status, Reason: reason}
	if err := e.event(x.r.Context(), en, map[string]any{"source": x.source}); err != nil {
		e.Log.Error("a refusal of somebody unknown could not be recorded", "err", err)
	}
}

// flushAuthFailures writes the aggregated counts.
func (e *Enforcer) flushAuthFailures(ctx context.Context) {
	for k, c := range e.auth.due(e.Now(), e.closing.Load()) {
		if c.n == 0 {
			continue
		}
		en := audit.Entry{Kind: k.kind, Call: c.call, Server: k.server, Status: k.status, Reason: k.reason}
		if err := e.event(ctx, en, map[string]any{"source": k.source, "more": c.n, "since": c.since.UTC().Format(time.RFC3339)}); err != nil {
			e.Log.Error("refusals of somebody unknown could not be recorded", "err", err, "count", c.n)
		}
	}
}
