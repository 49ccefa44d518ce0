package upstream

import (
	"context"
	"fmt"
	"io"
	"sync"

	"countersign/enforcer/wire"
)

// letter is one message that a spawned server wrote.
type letter struct {
	line  []byte
	final bool // the response that ends its call
	code  int  // of an error response
}

// mailbox holds what a spawned server wrote for one reader. Its writer never
// waits, because the server's one output carries the messages of all readers;
// so it has a bound.
type mailbox struct {
	mu    sync.Mutex
	queue []letter
	bytes int
	max   func() int
	err   error // after the queue
	ready chan struct{}
}

func newMailbox(max func() int) *mailbox {
	return &mailbox{max: max, ready: make(chan struct{}, 1)}
}

func (m *mailbox) wake() {
	select {
	case m.ready <- struct{}{}:
	default:
	}
}

// put adds a letter. A reader that lags behind the bound loses its stream,
// with an error that says so, never single messages out of it.
func (m *mailbox) put(l letter) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return
	}
	if m.bytes += len(l.line); m.bytes > m.max() {
		m.err = fmt.Errorf("%w: more than %d bytes wait to be read", ErrTooLarge, m.max())
	} else {
		m.queue = append(m.queue, l)
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

// next waits for a letter. A superseded reader gets io.EOF.
func (m *mailbox) next(ctx context.Context, superseded <-chan struct{}) (letter, error) {
	for {
		m.mu.Lock()
		if len(m.queue) > 0 {
			l := m.queue[0]
			m.queue[0] = letter{}
			m.queue = m.queue[1:]
			m.bytes -= len(l.line)
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

// asEvent presents a letter as an event of a stream.
func (l letter) asEvent() wire.Event {
	return wire.Event{Raw: wire.MessageEvent(l.line), Data: l.line, HasData: true}
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
