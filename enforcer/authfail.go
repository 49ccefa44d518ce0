package enforcer

import (
	"context"
	"sync"
	"time"

	"countersign/audit"
)

// Failed authentications are recorded, but must not let anyone fill the
// journal: the first of a kind from a source is written at once, the rest are
// counted and written together.

const (
	authWindow  = 10 * time.Second
	authSources = 1000 // kinds held apart; further ones are counted together
)

type authFailures struct {
	mu sync.Mutex
	m  map[authKey]*authCount
}

type authKey struct{ source, server, reason string }

type authCount struct {
	n     int
	since time.Time
}

func (a *authFailures) init() { a.m = map[authKey]*authCount{} }

// add counts one failure; true means that it is the first, to be written now.
func (a *authFailures) add(k authKey, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c, ok := a.m[k]; ok {
		c.n++
		return false
	}
	if len(a.m) >= authSources {
		k = authKey{source: "many", reason: "many"}
		if c, ok := a.m[k]; ok {
			c.n++
			return false
		}
	}
	a.m[k] = &authCount{since: now}
	return true
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

// authFailed records a failed authentication. Nothing was served, so a record
// that cannot be written changes nothing for the caller.
func (e *Enforcer) authFailed(x *exchange, ref *refusal) {
	reason, _ := e.Mask.Text(clip(ref.Error(), 300))
	server, _ := e.Mask.Text(clip(x.server, 64))
	e.metrics.ended(x, "unauthenticated")
	k := authKey{x.source, server, reason}
	if !e.auth.add(k, e.Now()) {
		return
	}
	en := audit.Entry{Kind: audit.KindAuthFailed, Call: x.id, Server: server, Status: "unauthenticated", Reason: reason}
	if err := e.event(x.r.Context(), en, map[string]any{"source": x.source}); err != nil {
		e.Log.Error("a failed authentication could not be recorded", "err", err)
	}
}

// flushAuthFailures writes the aggregated counts.
func (e *Enforcer) flushAuthFailures(ctx context.Context) {
	for k, c := range e.auth.due(e.Now(), e.closing.Load()) {
		if c.n == 0 {
			continue
		}
		en := audit.Entry{Kind: audit.KindAuthFailed, Server: k.server, Status: "unauthenticated", Reason: k.reason}
		if err := e.event(ctx, en, map[string]any{"source": k.source, "more": c.n, "since": c.since.UTC().Format(time.RFC3339)}); err != nil {
			e.Log.Error("failed authentications could not be recorded", "err", err, "count", c.n)
		}
	}
}
