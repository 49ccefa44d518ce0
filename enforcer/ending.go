package enforcer

import (
	"context"
	"fmt"
	"net/http"
	"runtime/debug"
	"time"

	"countersign/enforcer/upstream"
)

// A session that ends without its client's DELETE, idle, too old, or because it
// has to make room, ends at its server too. The server is told as by the client:
// the policy decides, the intent is in the record before anything is sent, and
// the outcome after. Nothing depends on the answer: a server need not offer
// DELETE, and a session that it keeps is useless to everybody.

const (
	leaveLimit  = 5 * time.Second // for telling a server, its credential included
	endingWidth = 8               // how many are told at a time
	endingQueue = 1000            // and how many wait for that
)

// Why a session ends, as the record has it.
const (
	endedForRoom = "the session made room for another one of its caller: its server is told that it has ended"
	endedIdle    = "the session was not used, or has reached its age: its server is told that it has ended"
)

// sessionGone forgets a session that the server has ended, or does not know any
// more.
func (x *exchange) sessionGone() {
	x.e.session.end(x.session, x.server)
	x.cleanup = append(x.cleanup, func() { x.e.endHolder(context.WithoutCancel(x.r.Context()), x.ownerKey()) })
}

// share is how many sessions one subject may have at a server, 0 if that is not
// bounded: each has a process of a spawned one, which nobody else can take.
func (f *force) share(server string) int {
	s, ok := f.policy.Server(server)
	if !ok || s.URL != "" {
		return 0
	}
	return max(1, s.Processes/2)
}

// openable makes room for a session before a server is asked to open it, where
// that starts a process.
func (x *exchange) openable(up upstream.Upstream) error {
	share := x.force.share(x.server)
	if !x.opens() || share == 0 {
		return nil
	}
	place, evicted, ok := x.e.session.reserve(session{server: x.server, owner: x.ownerKey(), via: x.via}, share)
	x.e.endSessions(x.force, evicted, endedForRoom)
	if !ok {
		return refuse(kindUnavailable, "too many sessions are open, or being opened: try again later")
	}
	x.place = place
	x.cleanup = append(x.cleanup, func() {
		x.e.session.giveBack(place)
		if x.reply != nil && !x.bound { // it was opened, and nobody will ever use it
			up.EndSession(x.reply.Session)
		}
	})
	return nil
}

// endIdle ends expired sessions.
func (e *Enforcer) endIdle(ctx context.Context) {
	e.endSessions(e.force.Load(), e.session.sweep(), endedIdle)
	e.hub.Sweep()
}

// endSessions ends what is out of the table: here at once, at the server and
// with its leases soon. At a stop nobody waits for that: all leases end then.
func (e *Enforcer) endSessions(f *force, gone []session, why string) {
	for _, s := range gone {
		if f != nil && f.upstreams[s.server] != nil {
			f.upstreams[s.server].EndSession(s.id)
		}
		if !e.inside.enter() {
			continue
		}
		select {
		case e.session.queue <- struct{}{}:
		default:
			e.inside.leave()
			e.Log.Warn("a server is not told of the end of a session: too many are being ended", "server", s.server)
			continue
		}
		go func() {
			defer e.inside.leave()
			defer func() { <-e.session.queue }()
			select {
			case e.session.ending <- struct{}{}:
				defer func() { <-e.session.ending }()
			case <-e.lifetime.Done():
				return
			}
			if f := e.force.Load(); f != nil {
				if at, ok := f.policy.Server(s.server); ok && at.URL != "" {
					e.leave(s, why)
				}
			}
			go e.endHolder(context.WithoutCancel(e.lifetime), s.owner) // beside: Vault may take its time, and others wait for this place
		}()
	}
}

// leave tells a server on HTTP that a session has ended.
func (e *Enforcer) leave(s session, why string) {
	ctx, cancel := context.WithCancel(e.lifetime)
	defer cancel()
	defer e.waiting.after(leaveLimit, cancel)()
	r, err := http.NewRequestWithContext(ctx, http.MethodDelete, e.PublicURL+"/mcp/"+s.server, nil)
	if err != nil {
		e.Log.Error("a server cannot be told of the end of a session", "server", s.server, "err", err)
		return
	}
	if s.version != "" {
		r.Header.Set("Mcp-Protocol-Version", s.version)
	}
	w := nowhere{}
	x := &exchange{
		e: e, w: w, r: r, out: outlet{w: w, r: r}, id: e.ID(), start: e.Now(), server: s.server, via: s.via,
		source: s.source, caller: s.caller, force: e.force.Load(), session: s.id,
	}
	x.asked, x.answers, x.sending = e.room.requests.Share(), e.room.answers.Share(), e.room.answers.Share()
	ctx, thaw := x.freezable(ctx)
	defer thaw()
	defer x.close()
	defer func() {
		if p := recover(); p != nil {
			e.Log.Error("ending a session panicked", "call", x.id, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			x.refuse(refuse(kindUnavailable, "the enforcer failed inside; the session may have ended at the server"))
		}
	}()
	because := func(context.Context) error { x.decision.Reason = why; return nil }
	for _, step := range []func(context.Context) error{
		x.admit, x.decide, because, x.unfrozen, x.intend, x.credential, x.unfrozen, x.forward, x.answer,
	} {
		err := step(ctx)
		switch {
		case err == nil:
			continue
		case x.stopped() != nil:
			err = x.orFrozen(err)
		case ctx.Err() != nil && x.forwarded:
			err = refuse(kindUpstream, "no answer within %s, or the enforcer stopped: whether the session has ended at the server is not known", leaveLimit)
		case ctx.Err() != nil:
			err = refuse(kindUnavailable, "not told within %s, or before the enforcer stopped: nothing was sent", leaveLimit)
		}
		x.refuse(err)
		return
	}
}

// nowhere is a client that is not there.
type nowhere http.Header

func (n nowhere) Header() http.Header         { return http.Header(n) }
func (n nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (n nowhere) WriteHeader(int)             {}
