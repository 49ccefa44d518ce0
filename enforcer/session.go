package enforcer

import (
	"strings"
	"sync"
	"time"

	"countersign/enforcer/identity"
)

// A legacy MCP session belongs to the caller that opened it: its id proves
// nothing, and is useless to anyone else. The table lives in memory only: after
// a restart a client gets 404 and initializes again, as the protocol says.

const (
	sessionIdle  = 30 * time.Minute
	sessionTotal = 24 * time.Hour
	maxSessions  = 10_000 // of all callers
	maxOwned     = 16     // of one caller at one server: the one idle for longest ends for a new one
	// maxSubject bounds those of one subject, under whatever clients, at all
	// servers. Those opened by way of the endpoint for all servers do not count:
	// they are bounded there. Of a spawned server's processes one subject's
	// sessions take half at most; see share.
	maxSubject = 64
)

type sessions struct {
	mu  sync.Mutex
	now func() time.Time
	m   map[string]*session // by id and server
	// opening are places for sessions that have no id yet.
	opening map[*session]struct{}
	// ending has room for those whose servers are being told of their end.
	ending, queue chan struct{} // queue: for those that wait for it, too
}

type session struct {
	id, server, owner string    // id is empty while it is being opened
	via               string    // the endpoint that its caller called, if that is another
	opened, used      time.Time // used: when an exchange last came or went
	inside            int       // exchanges under way in it, streams included
	speaker
}

// speaker is what the newest message of a session says of its sender: as whom
// its end is told to the server.
type speaker struct {
	caller  identity.Caller
	source  string
	version string // of MCP, as its header says; "" if it does not
}

func (x *exchange) speaker() speaker {
	return speaker{x.caller, x.source, x.r.Header.Get("Mcp-Protocol-Version")}
}

// subjectOf is the subject in an owner's key.
func subjectOf(owner string) string {
	subject, _, _ := strings.Cut(owner, "|")
	return subject
}

// before tells whether x makes room before y: what is idle does, and then what
// was used longest ago.
func (x *session) before(y *session) bool {
	if (x.inside == 0) != (y.inside == 0) {
		return x.inside == 0
	}
	return x.used.Before(y.used)
}

func (s *sessions) init(now func() time.Time) {
	s.now, s.m, s.opening, s.ending = now, map[string]*session{}, map[*session]struct{}{}, make(chan struct{}, endingWidth)
	s.queue = make(chan struct{}, endingQueue)
}

// reserve keeps a place for a session that is about to be opened at a spawned
// server, so that those being opened count too. share is how many of the
// subject's sessions may be there at once. The place is bind's, or to be given
// back; what had to make room is to be ended.
func (s *sessions) reserve(x session, share int) (place *session, evicted []session, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if evicted, ok = s.makeRoom(x, share); !ok {
		return nil, evicted, false
	}
	place = &x
	place.id, place.inside, place.opened, place.used = "", 1, s.now(), s.now()
	s.opening[place] = struct{}{}
	return place, evicted, true
}

// giveBack frees a place that no session has come to.
func (s *sessions) giveBack(place *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.opening, place)
}

// bind gives a session to its owner, in the place that was kept for it, if one
// was. It fails at the bound of all callers, and where the id is another
// owner's: an upstream that hands out one id twice. At a bound of one caller or
// subject the session idle for longest makes room, and is to be ended.
func (s *sessions) bind(x session, place *session) (evicted []session, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.opening, place)
	key := x.server + "\x00" + x.id
	if old, ok := s.m[key]; ok {
		return nil, old.owner == x.owner
	}
	if evicted, ok = s.makeRoom(x, 0); !ok {
		return evicted, false
	}
	x.opened, x.used = s.now(), s.now()
	s.m[key] = &x
	return evicted, true
}

// makeRoom takes out what has to go before x can come. It needs s.mu.
func (s *sessions) makeRoom(x session, share int) (evicted []session, ok bool) {
	subject := subjectOf(x.owner)
	for _, bound := range []struct {
		max   int // 0: none
		holds func(*session) bool
	}{
		{maxOwned, func(y *session) bool { return y.owner == x.owner && y.server == x.server }},
		{share, func(y *session) bool { return y.server == x.server && subjectOf(y.owner) == subject }},
		{maxSubject, func(y *session) bool { return x.via == "" && y.via == "" && subjectOf(y.owner) == subject }},
	} {
		count := 0
		var first *session
		for y := range s.opening {
			if bound.holds(y) {
				count++
			}
		}
		for _, y := range s.m {
			if bound.holds(y) {
				if count++; first == nil || y.before(first) {
					first = y
				}
			}
		}
		if bound.max == 0 || count < bound.max {
			continue
		}
		if first == nil { // all of them are being opened
			return evicted, false
		}
		evicted = append(evicted, *first)
		delete(s.m, first.server+"\x00"+first.id)
	}
	return evicted, len(s.m)+len(s.opening) < maxSessions
}

// enter lets an exchange into the session, if it exists and is owner's, until
// leave is called, once. Meanwhile the session is in use: a stream that is open,
// or a call that takes its time, keeps it from being idle.
func (s *sessions) enter(id, server, owner string, by speaker) (leave func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x, ok := s.m[server+"\x00"+id]
	if !ok || x.owner != owner || s.expired(x) {
		return nil, false
	}
	x.inside++
	x.used, x.speaker = s.now(), by
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
	for x := range s.opening {
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
