package upstream

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"

	"countersign/enforcer/budget"
	"countersign/enforcer/wire"
)

// letter is one message that a spawned server wrote.
type letter struct {
	line  []byte
	final bool          // the response that ends its call
	code  int           // of an error response
	room  *budget.Share // what a long line is counted in; nil: in its mailbox
}

// mailbox holds what a spawned server wrote for one reader. Its writer never
// waits, because the server's one output carries the messages of all readers;
// so it has a bound.
type mailbox struct {
	mu    sync.Mutex
	queue []letter
	bytes int
	small int           // of the letters without a share of their own
	room  *budget.Share // those are counted in
	max   func() int
	err   error // after the queue
	ready chan struct{}
}

func newMailbox(max func() int, room *budget.Pool) *mailbox {
	return &mailbox{max: max, room: room.Share(), ready: make(chan struct{}, 1)}
}

func (m *mailbox) wake() {
	select {
	case m.ready <- struct{}{}:
	default:
	}
}

// put adds a letter, and takes over its share. A reader that lags behind the
// bound, or for whose letters there is no room, loses its stream, with an error
// that says so, never single messages out of it.
func (m *mailbox) put(l *letter) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return
	}
	if l.room == nil && !m.room.Try(m.small+len(l.line)) {
		m.err = budget.ErrFull
	} else if m.bytes += len(l.line); m.bytes > m.max() {
		m.err = fmt.Errorf("%w: more than %d bytes wait to be read", ErrTooLarge, m.max())
		m.room.Keep(m.small)
	} else {
		if l.room == nil {
			m.small += len(l.line)
		}
		m.queue = append(m.queue, *l)
		l.room = nil
		if l.final {
			m.err = io.EOF
		}
	}
	m.wake()
}

// finish ends the mailbox; what is in it can still be read.
func (m *mailbox) finish(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil {
		m.err = err
	}
	m.wake()
}

// discard ends a mailbox that nobody reads any more.
func (m *mailbox) discard() {
	m.finish(io.EOF)
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, l := range m.queue {
		l.room.Free()
	}
	m.queue, m.bytes, m.small = nil, 0, 0
	m.room.Free()
}

// next waits for a letter. A superseded reader gets io.EOF.
func (m *mailbox) next(ctx context.Context, superseded <-chan struct{}) (letter, error) {
	for {
		m.mu.Lock()
		if len(m.queue) > 0 {
			l := m.queue[0]
			m.queue[0] = letter{}
			m.queue = m.queue[1:]
			m.bytes -= len(l.line)
			if l.room == nil {
				m.small -= len(l.line)
				m.room.Keep(m.small)
			}
			if len(m.queue) > 0 || m.err != nil {
				m.wake()
			}
			m.mu.Unlock()
			return l, nil
		}
		err := m.err
		if err != nil {
			m.wake() // for the next reader, who has to see it too
		}
		m.mu.Unlock()
		if err != nil {
			return letter{}, err
		}
		select {
		case <-m.ready:
		case <-superseded:
			return letter{}, io.EOF
		case <-ctx.Done():
			return letter{}, ctx.Err()
		}
	}
}

// handed moves what a letter is counted in to its reader's share, in the place
// of the letter before, which is done with.
func (l letter) handed(room *budget.Share) letter {
	room.Free()
	room.Adopt(l.room)
	return l
}

// asEvent presents a letter as an event of a stream.
func (l letter) asEvent() wire.Event {
	e := wire.Event{Raw: wire.MessageEvent(l.line), Data: l.line, HasData: true}
	if bytes.IndexByte(l.line, '\r') < 0 { // one line of data: what was written need not be kept beside it
		e.Data = e.Raw[len("data: ") : len(e.Raw)-len("\n\n")]
	}
	return e
}

func (m *mailbox) size() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.bytes
}

func (m *mailbox) failed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err != nil
}
