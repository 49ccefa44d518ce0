package hub

import (
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"countersign/enforcer/wire"
)

// A session of the endpoint belongs to the caller that opened it: its id proves
// nothing, and is useless to anyone else. It lives in memory only; after a
// restart the client gets 404 and initializes again. The sessions at the
// servers that it stands for are opened when something first concerns a server,
// each once, with what the client said of itself in its own initialize.

const (
	sessionIdle  = 30 * time.Minute
	sessionTotal = 24 * time.Hour
	maxSessions  = 10_000   // of all callers
	maxOwned     = 16       // of one caller: the one idle for longest ends for a new one
	maxSubject   = 64       // of one subject, under whatever clients: likewise
	maxHello     = 64 << 10 // an initialize is kept as long as its session
	maxLevel     = 4 << 10  // and so is the logging/setLevel
	// reopenAfter is how long a list leaves a server alone that could not be
	// opened. A call to it tries at once.
	reopenAfter = 15 * time.Second
)

type sessions struct {
	mu  sync.Mutex
	now func() time.Time
	m   map[string]*session
}

type session struct {
	id, owner string
	version   string // as negotiated with the client
	hello     *wire.Message
	bridge    bool // of a caller of the stateless era: see bridge.go

	// the table's
	born, used time.Time // used: when an exchange last came or went
	inside     int       // exchanges under way in it, the GET stream included

	mu       sync.Mutex
	over     bool
	level    []byte // the client's last logging/setLevel
	links    map[string]*link
	missed   map[string]bool     // servers that a list was answered without
	running  map[string]*running // the client's requests under way, by id
	listener *listener           // of the GET stream
}

// link is the session at one server.
type link struct {
	ready chan struct{} // closed when opening has ended
	way   way
	err   error
	ended time.Time
}

// running is a request of the client that is under way.
type running struct {
	to        map[string]bool // servers that have it
	cancelled bool
	stop      []context.CancelFunc // of what waits to be forwarded
}

func (t *sessions) init(now func() time.Time) { t.now, t.m = now, map[string]*session{} }

// before tells whether s makes room before other: what is idle does, and then
// what was used longest ago.
func (s *session) before(other *session) bool {
	if (s.inside == 0) != (other.inside == 0) {
		return s.inside == 0
	}
	return s.used.Before(other.used)
}

// bind opens a session; nil at the bound. At the bound of one owner, or of one
// subject, the session that was idle for longest makes room, and is returned to
// be ended.
func (t *sessions) bind(owner, version string, hello *wire.Message) (s *session, evicted []*session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	subject := subjectOf(owner)
	evicted = append(t.makeRoom(maxOwned, func(s *session) bool { return s.owner == owner }),
		t.makeRoom(maxSubject, func(s *session) bool { return subjectOf(s.owner) == subject })...)
	if len(t.m) >= maxSessions {
		return nil, evicted
	}
	s = newSession(owner, version, hello, t.now())
	s.id = rand.Text()
	t.m[s.id] = s
	return s, evicted
}

// makeRoom takes out one of the sessions that holds tells, if there are as many
// as may be. It needs t.mu.
func (t *sessions) makeRoom(most int, holds func(*session) bool) []*session {
	count := 0
	var first *session
	for _, s := range t.m {
		if holds(s) {
			if count++; first == nil || s.before(first) {
				first = s
			}
		}
	}
	if count < most {
		return nil
	}
	delete(t.m, first.id)
	return []*session{first}
}

// subjectOf is the subject in an owner's key.
func subjectOf(owner string) string {
	subject, _, _ := strings.Cut(owner, "|")
	return subject
}

func newSession(owner, version string, hello *wire.Message, now time.Time) *session {
	return &session{
		owner: owner, version: version, hello: hello, used: now, born: now,
		links: map[string]*link{}, missed: map[string]bool{}, running: map[string]*running{},
	}
}

// enter lets an exchange into the session if it is owner's, until leave is
// called; nil otherwise. Meanwhile the session is in use: a stream that is open,
// or a call that takes its time, keeps it from being idle.
func (t *sessions) enter(id, owner string) (s *session, leave func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s = t.m[id]
	if s == nil || s.owner != owner || t.expired(s) {
		return nil, nil
	}
	s.inside++
	s.used = t.now()
	return s, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		s.inside--
		s.used = t.now()
	}
}

func (t *sessions) expired(s *session) bool {
	now := t.now()
	return s.inside == 0 && now.Sub(s.used) > sessionIdle || now.Sub(s.born) > sessionTotal
}

// drop takes a session out; what it holds is the caller's to end.
func (t *sessions) drop(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.m, s.id)
}

func (t *sessions) sweep() {
	t.mu.Lock()
	var gone []*session
	for id, s := range t.m {
		if t.expired(s) {
			gone = append(gone, s)
			delete(t.m, id)
		}
	}
	t.mu.Unlock()
	for _, s := range gone {
		s.close()
	}
}

// close ends what runs in the session, and returns what was open.
func (s *session) close() []way {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	if s.listener != nil {
		s.listener.stop()
	}
	var open []way
	for _, l := range s.links {
		if l.isOpen() {
			open = append(open, l.way)
		}
	}
	s.links = map[string]*link{}
	return open
}

func (l *link) isOpen() bool {
	select {
	case <-l.ready:
		return l.err == nil
	default:
		return false
	}
}

var errEnded = errors.New("the session has ended")

// reach is the session at a server, opened if need be; callers that come
// meanwhile wait for the same opening.
func (s *session) reach(ctx context.Context, x *exchange, server string, eager bool) (way, error) {
	s.mu.Lock()
	if s.over {
		s.mu.Unlock()
		return way{}, errEnded
	}
	l := s.links[server]
	if l != nil && l.failed() && (eager || x.h.now().Sub(l.ended) > reopenAfter) {
		l = nil
	}
	if l == nil {
		l = &link{ready: make(chan struct{})}
		s.links[server] = l
		opening := context.WithoutCancel(ctx)
		go x.h.guard(func() { s.openLink(opening, x, server, l) })
	}
	s.mu.Unlock()
	select {
	case <-l.ready:
		return l.way, l.err
	case <-ctx.Done():
		return way{}, context.Cause(ctx)
	}
}

func (l *link) failed() bool {
	select {
	case <-l.ready:
		return l.err != nil
	default:
		return false
	}
}

// opened is the session at a server, if there is one.
func (s *session) opened(server string) (way, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.links[server]
	if l == nil || !l.isOpen() {
		return way{}, false
	}
	return l.way, true
}

// open lists the servers that have a session.
func (s *session) open() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for _, server := range slices.Sorted(maps.Keys(s.links)) {
		if s.links[server].isOpen() {
			all = append(all, server)
		}
	}
	return all
}

// miss notes that a list was answered without a server, because it has no
// session yet: the client is told when it has one.
func (s *session) miss(server string) {
	s.mu.Lock()
	l, listener := s.links[server], s.listener
	open := l != nil && l.isOpen()
	if !open {
		s.missed[server] = true
	}
	s.mu.Unlock()
	if open && listener != nil { // just now
		listener.changed(l.way.offers)
	}
}

// forget drops a session that the server does not know any more: what comes
// next opens another.
func (s *session) forget(w way) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.links[w.server]; l != nil && l.isOpen() && l.way.session == w.session {
		delete(s.links, w.server)
	}
}

// run registers a request, until the returned func is called.
func (s *session) run(id []byte) func() {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &running{to: map[string]bool{}}
	s.running[string(id)] = r
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.running[string(id)] == r {
			delete(s.running, string(id))
		}
	}
}

// waits is a context that the client's cancellation of the request ends.
func (s *session) waits(ctx context.Context, id []byte) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.running[string(id)]; r != nil {
		if r.cancelled {
			cancel()
		}
		r.stop = append(r.stop, cancel)
	}
	return ctx, cancel
}

// sentTo notes that the request is about to go to a server: from here on its
// cancellation goes there. False if it has been cancelled already.
func (s *session) sentTo(id []byte, server string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.running[string(id)]
	if r == nil {
		return true
	}
	if r.cancelled {
		return false
	}
	r.to[server] = true
	return true
}

// cancel keeps a request from going anywhere else, and says who has it.
func (s *session) cancel(id []byte) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.running[string(id)]
	if r == nil {
		return nil
	}
	r.cancelled = true
	for _, stop := range r.stop {
		stop()
	}
	return slices.Sorted(maps.Keys(r.to))
}
