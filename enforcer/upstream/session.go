package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"countersign/enforcer/wire"
)

// session is a legacy session of a spawned server. Its fields are guarded by
// the upstream's mutex.
type session struct {
	id, holder string
	opening    []byte                   // the client's initialize
	opened     []byte                   // its notifications/initialized, once it came
	procs      map[string]*process      // by key
	starting   map[string]chan struct{} // keys whose process is being started
	asked      map[string]*process      // requests of the server that the client has not answered, by id
	mail       *mailbox                 // what came unasked, for the GET stream
	reader     chan struct{}            // closed when another GET takes over; nil: nobody reads
	over       bool
}

// session finds the caller's session. Another holder's is not there: a session
// id is no proof of anything.
func (u *stdio) session(r *Request) (*session, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	s := u.sessions[r.Session]
	if s == nil || s.holder != r.Holder {
		return nil, unsent{fmt.Errorf("%w: send initialize again", ErrSessionGone)}
	}
	return s, nil
}

// initialize opens a session with a process of its own.
func (u *stdio) initialize(ctx, first context.Context, r *Request) (*Reply, error) {
	s := &session{
		id: newSessionID(), holder: r.Holder, opening: bytes.Clone(r.Body),
		procs: map[string]*process{}, starting: map[string]chan struct{}{}, asked: map[string]*process{},
		mail: newMailbox(u.waiting, u.cfg.Room),
	}
	p, err := u.spawn(first, s, slot{key: r.Inject.Key}, r.Inject)
	if err != nil {
		return nil, unsent{err}
	}
	u.mu.Lock()
	u.sessions[s.id] = s
	s.procs[r.Inject.Key] = p
	u.mu.Unlock()
	reply, err := u.ask(ctx, first, p, r)
	if err != nil {
		u.EndSession(s.id)
		return nil, err
	}
	if reply.code != 0 { // refused: there is no session, only an answer
		u.EndSession(s.id)
		return reply, nil
	}
	reply.Session = s.id
	reply.Header.Set("Mcp-Session-Id", s.id)
	return reply, nil
}

// member returns the session's process for a key, started and shown the
// session's beginning if need be.
func (u *stdio) member(ctx context.Context, s *session, inject Injection) (*process, error) {
	for {
		u.mu.Lock()
		if s.over {
			u.mu.Unlock()
			return nil, fmt.Errorf("%w: send initialize again", ErrSessionGone)
		}
		if others := s.starting[inject.Key]; others != nil {
			u.mu.Unlock()
			select {
			case <-others:
				continue
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		if p := s.procs[inject.Key]; p != nil && !p.leaving {
			u.mu.Unlock()
			return p, nil
		}
		done := make(chan struct{})
		s.starting[inject.Key] = done
		u.mu.Unlock()

		p, err := u.replay(ctx, s, inject)
		u.mu.Lock()
		delete(s.starting, inject.Key)
		u.mu.Unlock()
		close(done)
		return p, err
	}
}

// replay starts another process of a session and repeats to it what the
// client said at the beginning. The answer was given long ago: it is only
// checked for being one.
func (u *stdio) replay(ctx context.Context, s *session, inject Injection) (*process, error) {
	p, err := u.spawn(ctx, s, slot{key: inject.Key}, inject)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*process, error) {
		if ctx.Err() != nil && context.Cause(ctx) != errTimeout { // the caller left
			u.mu.Lock()
			p.ours = true
			u.mu.Unlock()
		}
		p.end(fmt.Errorf("%w: the session could not be opened again in it", ErrDead))
		if ctx.Err() == nil {
			err = fmt.Errorf("the session could not be opened again in a new process: %w", err)
		}
		return nil, err
	}
	m, err := wire.Parse(s.opening, wire.Limits{Bytes: len(s.opening)})
	if err != nil {
		return fail(errors.New(err.Error())) // not a *wire.Error: it is not about this message
	}
	u.mu.Lock()
	c := u.enter(p, m, true)
	u.mu.Unlock()
	if c == nil {
		return fail(p.why())
	}
	if err := p.send(ctx, s.opening); err != nil {
		return fail(err)
	}
	l, err := c.mail.next(ctx, nil)
	c.mail.discard()
	l.room.Free()
	switch {
	case err != nil:
		return fail(err)
	case l.code != 0:
		return fail(fmt.Errorf("%w: it refused the repeated initialize (code %d)", ErrDead, l.code))
	}
	u.mu.Lock()
	over, opened := s.over, s.opened
	if !over {
		s.procs[inject.Key] = p
	}
	u.mu.Unlock()
	if over {
		return fail(ErrSessionGone)
	}
	if opened != nil {
		if err := p.send(ctx, opened); err != nil {
			return fail(err)
		}
	}
	return p, nil
}

// addressees says who gets a message that needs no answer.
func (u *stdio) addressees(s *session, m *wire.Message, body []byte) []*process {
	u.mu.Lock()
	defer u.mu.Unlock()
	if m.Kind == wire.Response {
		p := s.asked[idKey(m.ID)]
		delete(s.asked, idKey(m.ID))
		if p == nil {
			return nil
		}
		return []*process{p}
	}
	if m.Method == "notifications/initialized" {
		s.opened = bytes.Clone(body)
	}
	var to []*process
	for _, p := range s.procs {
		if p.leaving || m.Method == "notifications/cancelled" && p.calls[idKey(m.CancelledID)] == nil {
			continue
		}
		to = append(to, p)
	}
	return to
}

// listen answers a GET: the stream of what the server sends unasked. One
// reader at a time; a second one takes over, because the first is most often
// a connection that died unnoticed.
func (u *stdio) listen(ctx context.Context, r *Request) (*Reply, error) {
	if r.Session == "" { // modern: there is no such stream
		return &Reply{Status: http.StatusMethodNotAllowed, Header: http.Header{}}, nil
	}
	s, err := u.session(r)
	if err != nil {
		return nil, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if s.over {
		return nil, unsent{fmt.Errorf("%w: send initialize again", ErrSessionGone)}
	}
	if s.reader != nil {
		close(s.reader)
	}
	if s.mail.failed() {
		s.mail.discard()
		s.mail = newMailbox(u.waiting, u.cfg.Room)
	}
	mine, mail := make(chan struct{}), s.mail
	s.reader = mine
	reply := &Reply{Status: http.StatusOK, Header: http.Header{}, stream: true}
	reply.Header.Set("Content-Type", "text/event-stream")
	reply.done = r.Room.Free
	reply.next = func() (wire.Event, error) {
		r.Room.Free()
		l, err := mail.next(ctx, mine)
		if err != nil {
			return wire.Event{}, err
		}
		return l.handed(r.Room).asEvent(), nil
	}
	reply.close = func() error {
		u.mu.Lock()
		defer u.mu.Unlock()
		if s.reader == mine {
			s.reader = nil
			close(mine)
			if s.over {
				mail.discard()
			}
		}
		return nil
	}
	return reply, nil
}

// EndSession ends a session's processes; its calls and its stream fail.
func (u *stdio) EndSession(id string) {
	u.mu.Lock()
	s := u.sessions[id]
	if s == nil {
		u.mu.Unlock()
		return
	}
	delete(u.sessions, id)
	s.over = true
	mail, read := s.mail, s.reader != nil
	var ending []*process
	for p := range u.procs {
		if p.session == s {
			p.ours = true
			ending = append(ending, p)
		}
	}
	u.mu.Unlock()
	if read {
		mail.finish(io.EOF) // what is in it is still read
	} else {
		mail.discard()
	}
	for _, p := range ending {
		p.end(fmt.Errorf("%w: %w", ErrSessionGone, ErrSessionEnd))
	}
}

// EndKey ends the processes that were started with a lease's values. A session
// lives on: its next call starts another process.
func (u *stdio) EndKey(key string) {
	if key == "" {
		return
	}
	u.mu.Lock()
	if l := u.leases[key]; l != nil {
		l.ended = true
	}
	var ending []*process
	for p := range u.procs {
		if p.slot.key == key {
			p.ours = true
			ending = append(ending, p)
		}
	}
	u.mu.Unlock()
	for _, p := range ending {
		p.end(fmt.Errorf("%w: %w", ErrDead, errKeyEnded))
		u.forget(p.private) // whatever it does before it is gone
	}
}

// Retire waits until no process has a call in flight, one that its caller gave
// up in a legacy session included: there that does not cancel it.
func (u *stdio) Retire(ctx context.Context) error {
	u.traffic.settle(ctx, &u.mu, func() bool {
		for p := range u.procs {
			if p.busy() {
				return true
			}
		}
		return false
	})
	return u.Close()
}

// Close ends all processes and returns when the last is gone.
func (u *stdio) Close() error {
	u.mu.Lock()
	u.traffic.closed = true
	var ending []*process
	for p := range u.procs {
		p.ours = true
		ending = append(ending, p)
	}
	var open []string
	for id := range u.sessions {
		open = append(open, id)
	}
	u.mu.Unlock()
	for _, p := range ending {
		p.end(ErrClosed)
	}
	for _, id := range open {
		u.EndSession(id)
	}
	u.wait.Wait()
	u.cfg.Pool.leave(u)
	return nil
}

// spawn starts a process within the bounds. At this server's bound a modern
// process of it that has nothing to do makes room, the one idle for longest;
// the pool does likewise. A server that ends at once is not started at once
// again.
func (u *stdio) spawn(ctx context.Context, s *session, at slot, inject Injection) (*process, error) {
	holder := at.holder
	if s != nil {
		holder = s.holder
	}
	for {
		u.mu.Lock()
		if u.traffic.closed {
			u.mu.Unlock()
			return nil, ErrClosed
		}
		if l := u.leases[at.key]; l != nil && l.ended {
			u.mu.Unlock()
			return nil, fmt.Errorf("%w: %w", ErrDead, errKeyEnded)
		}
		if err := u.restarts.allow(holder, u.cfg.Now()); err != nil {
			u.mu.Unlock()
			return nil, err
		}
		if u.count < u.cfg.MaxProcesses {
			u.count++
			u.wait.Add(1)
			u.mu.Unlock()
			break
		}
		freed := u.freed
		u.mu.Unlock()
		switch idle, _, leaving := u.idlest(); {
		case leaving:
		case idle != nil:
			idle.evict()
		default:
			return nil, fmt.Errorf("%w: %d, the bound", ErrBusy, u.cfg.MaxProcesses)
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if err := u.cfg.Pool.take(ctx); err != nil {
		u.free(nil)
		return nil, err
	}
	p, err := u.start(s, at, inject)
	if err != nil {
		u.cfg.Pool.give()
		u.mu.Lock()
		u.restarts.failed(holder, u.cfg.Now(), reason(err), false)
		u.mu.Unlock()
		u.free(nil)
		return nil, err
	}
	u.mu.Lock()
	var over error
	if l := u.leases[at.key]; u.traffic.closed {
		over = ErrClosed
	} else if l != nil && l.ended { // while it was started: EndKey did not see it
		over = fmt.Errorf("%w: %w", ErrDead, errKeyEnded)
	}
	if !p.ended {
		u.procs[p] = struct{}{}
	}
	p.ours = p.ours || over != nil
	u.mu.Unlock()
	if over != nil {
		p.end(over)
		u.forget(p.private)
		return nil, over
	}
	return p, nil
}

// idlest is the modern process that has nothing to do for longest, nil if there
// is none, since which call; and whether some process is ending anyway.
func (u *stdio) idlest() (idle *process, used uint64, leaving bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for p := range u.procs {
		leaving = leaving || p.leaving
		if p.session == nil && !p.leaving && len(p.calls) == 0 && (idle == nil || p.used < idle.used) {
			idle, used = p, p.used
		}
	}
	return idle, used, leaving
}

// free gives a place back.
func (u *stdio) free(p *process) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if p != nil {
		delete(u.procs, p)
		p.ended = true
	}
	u.count--
	close(u.freed)
	u.freed = make(chan struct{})
	u.wait.Done()
}

// abandon takes a process out of use; with a cause its calls fail at once.
func (u *stdio) abandon(p *process, cause error) {
	u.mu.Lock()
	p.leaving = true
	if s := p.session; s != nil && s.procs[p.slot.key] == p {
		delete(s.procs, p.slot.key)
	}
	var failing []*call
	if cause != nil {
		// Before its calls fail: their callers may be here again at once.
		if !p.ours && (!p.worked || p.busy()) {
			p.ours = true // noted once
			u.restarts.failed(p.holder, u.cfg.Now(), reason(cause), p.worked)
		}
		for id, c := range p.calls {
			failing = append(failing, c)
			delete(p.calls, id)
		}
	}
	u.mu.Unlock()
	for _, c := range failing {
		c.mail.finish(cause)
	}
}

// busy tells whether a call is in flight that is to be answered. It needs the
// owner's mutex.
func (p *process) busy() bool {
	for _, c := range p.calls {
		if !c.listen {
			return true
		}
	}
	return false
}

// unread fails the calls that a line may have been for which had to be left out:
// which one it was, the line would have told. The process goes on.
func (u *stdio) unread(p *process, cause error) {
	u.mu.Lock()
	var failing []*mailbox
	for id, c := range p.calls {
		failing = append(failing, c.mail)
		delete(p.calls, id) // its answer, should it still come, is nobody's
	}
	if p.session != nil {
		failing = append(failing, p.session.mail)
	}
	u.mu.Unlock()
	for _, m := range failing {
		m.finish(cause)
	}
}

// ended is the last that is heard of a process.
func (u *stdio) ended(p *process, died error) {
	u.abandon(p, died)
	u.cfg.Pool.give()
	u.mu.Lock()
	if s := p.session; s != nil {
		for id, from := range s.asked {
			if from == p {
				delete(s.asked, id)
			}
		}
	}
	u.mu.Unlock()
	u.free(p)
}

var errUnread = errors.New("nobody reads what the server sends")
