package enforcer

import (
	"context"
	"sync"
	"time"
)

// A legacy MCP session belongs to the caller that opened it: its id proves
// nothing, and is useless to anyone else. The table lives in memory only: after
// a restart a client gets 404 and initializes again, as the protocol says.

const (
	sessionIdle  = 30 * time.Minute
	sessionTotal = 24 * time.Hour
	maxSessions  = 10_000 // of all callers
	maxOwned     = 16     // of one caller at one server: the oldest ends for a new one
)

type sessions struct {
	mu  sync.Mutex
	now func() time.Time
	m   map[string]*session // by id and server
}

type session struct {
	id, server, owner string
	opened, used      time.Time // used: when an exchange last came or went
	inside            int       // exchanges under way in it, streams included
}

// before tells whether x makes room before y: what is idle does, and then what
// was used longest ago.
func (x *session) before(y *session) bool {
	if (x.inside == 0) != (y.inside == 0) {
		return x.inside == 0
	}
	return x.used.Before(y.used)
}

func (s *sessions) init(now func() time.Time) { s.now, s.m = now, map[string]*session{} }

// bind gives a session to its owner. It fails at the bound of all callers, and
// where the id is another owner's: an upstream that hands out one id twice. At
// the bound of one caller its oldest session makes room, and is returned to be
// ended at the upstream.
func (s *sessions) bind(id, server, owner string) (evicted string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := server + "\x00" + id
	t := s.now()
	if old, ok := s.m[key]; ok {
		return "", old.owner == owner
	}
	var oldest *session
	owned := 0
	for _, x := range s.m {
		if x.owner == owner {
			owned++
			if oldest == nil || x.before(oldest) {
				oldest = x
			}
		}
	}
	if owned >= maxOwned {
		evicted = oldest.id
		delete(s.m, server+"\x00"+evicted)
	} else if len(s.m) >= maxSessions {
		return "", false
	}
	s.m[key] = &session{id: id, server: server, owner: owner, opened: t, used: t}
	return evicted, true
}

// enter lets an exchange into the session, if it exists and is owner's, until
// leave is called, once. Meanwhile the session is in use: a stream that is open,
// or a call that takes its time, keeps it from being idle.
func (s *sessions) enter(id, server, owner string) (leave func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x, ok := s.m[server+"\x00"+id]
	if !ok || x.owner != owner || s.expired(x) {
		return nil, false
	}
	x.inside++
	x.used = s.now()
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		x.inside--
		x.used = s.now()
	}, true
}

func (s *sessions) expired(x *session) bool {
	t := s.now()
	return x.inside == 0 && t.Sub(x.used) > sessionIdle || t.Sub(x.opened) > sessionTotal
}

// has tells whether an owner has a session.
func (s *sessions) has(owner string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.m {
		if x.owner == owner {
			return true
		}
	}
	return false
}

// end forgets a session.
func (s *sessions) end(id, server string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.m, server+"\x00"+id)
}

// sweep takes out what has expired.
func (s *sessions) sweep() (gone []session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, x := range s.m {
		if s.expired(x) {
			gone = append(gone, *x)
			delete(s.m, k)
		}
	}
	return gone
}

// endIdle ends expired sessions at their upstreams.
func (e *Enforcer) endIdle(ctx context.Context) {
	f := e.force.Load()
	for _, s := range e.session.sweep() {
		if f == nil {
			continue
		}
		if up := f.upstreams[s.server]; up != nil {
			up.EndSession(s.id)
		}
		e.endHolder(ctx, s.owner)
	}
	e.hub.Sweep()
	e.endIdleHolders(ctx)
}

// inflight are the calls under way, so that the client's cancellation finds
// them.
type inflight struct {
	mu    sync.Mutex
	m     map[string]*exchange
	holds map[*exchange]func()                               // those that somebody waits for, a person or a server, and how to wake them
	after func(d time.Duration, f func()) (stop func() bool) // the timer
}

// cancelGrace is how long a server may take to answer a call that its client
// has cancelled. One that honours the cancellation sends nothing more
// (2025-11-25, basic/utilities/cancellation), so the call ends by itself here.
const cancelGrace = 5 * time.Second

func (w *inflight) init() {
	w.m, w.holds = map[string]*exchange{}, map[*exchange]func(){}
	w.after = func(d time.Duration, f func()) func() bool { return time.AfterFunc(d, f).Stop }
}

// add registers a call; the returned func takes it out again. Of two with one
// id, which no client may send, the newer is found.
func (w *inflight) add(key string, x *exchange) func() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.m[key] = x
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.m[key] == x {
			delete(w.m, key)
		}
	}
}

// hold has wake called when x is cancelled, until the returned func is called.
func (w *inflight) hold(x *exchange, wake func()) func() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if x.cancelled.Load() {
		wake()
	}
	w.holds[x] = wake
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.holds, x)
	}
}

// cutLate has cut called a grace after x is cancelled, until the returned func
// is called.
func (w *inflight) cutLate(x *exchange, cut func()) func() {
	var stop func() bool // guarded by w.mu
	release := w.hold(x, func() {
		if stop == nil {
			stop = w.after(cancelGrace, cut)
		}
	})
	return func() {
		release() // from here on nobody sets stop
		if stop != nil {
			stop()
		}
	}
}

// cancel keeps a call from starting, if it has not been forwarded yet. One that
// has gets the grace to end: the upstream gets the notification too.
func (w *inflight) cancel(key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	x := w.m[key]
	if x == nil {
		return
	}
	x.cancelled.Store(true)
	if wake := w.holds[x]; wake != nil {
		wake()
	}
}
