package upstream

import (
	"bytes"
	"io"
	"strconv"

	"countersign/enforcer/wire"
)

// backlog bounds what is kept of messages that came unasked while no GET
// stream was open.
const backlog = 256 << 10

// route gives a message that a process wrote to the one reader it is for. All
// that a process writes stays within its session, or within its holder: a
// message that cannot be assigned is given to a call of the same process, or
// to nobody.
//
// The first that it is given to takes over what the line is counted in.
func (u *stdio) route(p *process, m *wire.Message, l *letter) {
	if m.Method == "notifications/tools/list_changed" && u.cfg.ToolsChanged != nil {
		u.cfg.ToolsChanged()
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case m.Kind == wire.Response:
		c := p.calls[idKey(m.ID)]
		if m.ID == nil || c == nil {
			return // late: its call was cancelled
		}
		delete(p.calls, c.id)
		p.worked = p.worked || !c.internal
		if !c.internal && !c.opens {
			u.restarts.worked(p.holder)
		}
		l.final = true
		if m.ErrorObj.Present() {
			l.code = errorCode(m)
		}
		c.mail.put(l)
		return
	case m.Kind == wire.Request && p.session == nil:
		// "The server MUST NOT write JSON-RPC requests to stdout."
		p.post(wire.ErrorReply(m.ID, wire.CodeMethodNotFound, "this revision has no requests from server to client", nil))
		return
	case m.Method == "notifications/progress":
		for _, c := range p.calls {
			if c.token != "" && c.token == idKey(m.ProgressToken) && !c.detached {
				c.mail.put(l)
			}
		}
		return
	}
	if p.session == nil {
		u.routeModern(p, m, l)
		return
	}
	s := p.session
	if m.Kind == wire.Request {
		id := idKey(m.ID)
		if from := s.asked[id]; from != nil && from != p {
			// Two processes of one session number their requests alike: the
			// client could not say which one it answers.
			p.post(wire.ErrorReply(m.ID, wire.CodeInternal, "another request with this id waits for the client", nil))
			return
		}
		s.asked[id] = p
	}
	c, several := p.latest()
	switch {
	case c != nil && (!several || s.reader == nil):
		c.mail.put(l)
	case s.reader != nil || s.mail.size()+len(l.line) <= backlog:
		s.mail.put(l)
	case m.Kind == wire.Request:
		delete(s.asked, idKey(m.ID))
		p.post(wire.ErrorReply(m.ID, wire.CodeInternal, errUnread.Error(), nil))
	}
}

// routeModern assigns a notification: to the subscription that it names, or
// else to a call in flight.
func (u *stdio) routeModern(p *process, m *wire.Message, l *letter) {
	if id, ok := m.Member(m.Meta, wire.MetaSubscription); ok {
		if c := p.calls[idKey(m.Bytes(id))]; c != nil {
			c.mail.put(l)
		}
		return
	}
	if m.Method == "notifications/cancelled" {
		// So a server ends a subscription where there is no stream to close.
		if c := p.calls[idKey(m.CancelledID)]; c != nil {
			delete(p.calls, c.id)
			c.mail.put(l)
			c.mail.finish(io.EOF)
		}
		return
	}
	if c, _ := p.latest(); c != nil {
		c.mail.put(l)
	}
}

// latest is the newest call that somebody reads, and whether there are more.
func (p *process) latest() (newest *call, several bool) {
	for _, c := range p.calls {
		if c.detached || c.internal || c.listen {
			continue
		}
		several = several || newest != nil
		if newest == nil || c.order > newest.order {
			newest = c
		}
	}
	return newest, several
}

// errorCode reads error.code; an error without a usable one is still an error.
func errorCode(m *wire.Message) int {
	if at, ok := m.Member(m.ErrorObj, "code"); ok {
		if code, err := strconv.Atoi(string(bytes.TrimSpace(m.Bytes(at)))); err == nil && code != 0 {
			return code
		}
	}
	return wire.CodeInternal
}
