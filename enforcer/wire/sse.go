package wire

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// Event is one block of a server-sent event stream (WHATWG HTML section 9.2),
// as it came. Raw of all events, joined, is the stream.
type Event struct {
	Raw     []byte // every byte of the block, comments and the blank line included
	Data    []byte // the values of its data fields joined by LF
	ID      string // of its last id field
	Name    string // of its last event field
	HasData bool   // there was a data field, maybe an empty one ("priming" events)
	// Cut means that the stream ended inside the block. A client that follows
	// the standard drops such an event; not all do, so it is treated like any.
	Cut bool

	first bool // a BOM at its start is one
}

// ErrEventTooLarge means that an event was longer than its reader's bound.
var ErrEventTooLarge = errors.New("an event of the stream is too large")

const defaultEvent = 8 << 20

// EventReader splits a stream into events without losing a byte.
type EventReader struct {
	// Hold is told how many bytes are held here before they are: what was read,
	// and the last event given out until Done or the next one is asked for. An
	// error of it ends the stream. It may be nil.
	Hold func(bytes int) error

	r      io.Reader
	max    int
	buf    []byte // read, not yet handed out
	size   int    // of the array that buf lies in
	out    int    // bytes of the event handed out last that are not in it
	at     int    // buf[:at] consists of whole lines of the event in progress
	look   int    // buf[at:look] has no line end
	bare   bool   // the last line of the previous event ended in CR at the end of what had been read
	opened bool   // something was read: no BOM any more
	err    error
}

// NewEventReader reads events of at most max bytes, 8 MiB if max is 0.
func NewEventReader(r io.Reader, max int) *EventReader {
	if max <= 0 {
		max = defaultEvent
	}
	return &EventReader{r: r, max: max}
}

// Next returns the next event as soon as its blank line arrived. At the end of
// the stream it returns what is left as an event that is Cut (or, if that is
// only the LF of a final CRLF, as one without data), and then io.EOF.
func (r *EventReader) Next() (Event, error) {
	if err := r.Done(); err != nil {
		return Event{}, err
	}
	e, err := r.next()
	if err == nil && r.out > 0 {
		err = r.hold(r.size + r.out)
	}
	return e, err
}

// Done says that the event given out last is not held any more.
func (r *EventReader) Done() error {
	r.out = 0
	return r.hold(r.size)
}

func (r *EventReader) hold(n int) error {
	if r.Hold == nil {
		return nil
	}
	return r.Hold(n)
}

func (r *EventReader) next() (Event, error) {
	for {
		end, blank := r.line()
		if end < 0 {
			if r.err != nil {
				if len(r.buf) > 0 && r.err == io.EOF {
					e := r.take(len(r.buf))
					e.Cut = len(bytes.Trim(e.Raw, "\r\n")) > 0
					return e, nil
				}
				return Event{}, r.err
			}
			if len(r.buf) > r.max {
				r.err = fmt.Errorf("%w: more than %d bytes", ErrEventTooLarge, r.max)
				return Event{}, r.err
			}
			r.fill()
			continue
		}
		if end > r.max {
			r.err = fmt.Errorf("%w: more than %d bytes", ErrEventTooLarge, r.max)
			return Event{}, r.err
		}
		r.at, r.look = end, end
		if blank {
			// A blank line that ended in a bare CR at the end of what was read:
			// waiting for an LF could hold the event back for ever, so an LF
			// that follows goes to the front of the next event.
			r.bare = r.buf[end-1] == '\r' && end == len(r.buf)
			return r.take(end), nil
		}
	}
}

// line finds the end of the line at r.at, terminator included; -1 if it has
// not arrived. A CR at the end of what was read ends a line at once.
func (r *EventReader) line() (end int, blank bool) {
	from := r.at
	if from == 0 {
		if r.bare && len(r.buf) > 0 {
			r.bare = false
			if r.buf[0] == '\n' {
				r.at, r.look = 1, 1
				from = 1
			}
		}
	}
	i := lineEnd(r.buf[max(from, r.look):])
	if i < 0 {
		r.look = len(r.buf)
		return -1, false
	}
	i += max(from, r.look)
	end = i + 1
	if r.buf[i] == '\r' && end < len(r.buf) && r.buf[end] == '\n' {
		end++
	} else if r.buf[i] == '\r' && end == len(r.buf) && r.err == nil && i > from {
		// A line with content: the LF may still come. Not knowing is harmless
		// only for a blank line, so wait unless the stream has ended.
		r.look = i
		return -1, false
	}
	content := r.buf[from:i]
	if !r.opened {
		content = bytes.TrimPrefix(content, bom)
	}
	return end, len(content) == 0
}

var bom = []byte("\xef\xbb\xbf")

// fill reads once. Events keep the buffer that they were read into, so what is
// full is replaced, never written over.
func (r *EventReader) fill() {
	if cap(r.buf)-len(r.buf) < 4096 {
		size := max(minBuffer, 2*len(r.buf))
		if r.err = r.hold(r.size + size); r.err != nil { // both, while one is copied to the other
			return
		}
		r.renew(size)
		if r.err = r.hold(r.size); r.err != nil {
			return
		}
	}
	n, err := r.r.Read(r.buf[len(r.buf):cap(r.buf)])
	r.buf = r.buf[:len(r.buf)+n]
	r.err = err
}

const minBuffer = 8192

// renew moves what is not handed out to an array of its own.
func (r *EventReader) renew(size int) {
	grown := make([]byte, len(r.buf), size)
	copy(grown, r.buf)
	r.buf, r.size = grown, size
}

// take hands out buf[:end] as an event.
func (r *EventReader) take(end int) Event {
	e := Event{Raw: r.buf[:end:end]}
	r.buf = r.buf[end:]
	r.at, r.look = 0, 0
	if end > minBuffer && end >= r.size/4 { // a large event's array goes with it, or an idle stream would keep it
		r.out = r.size
		r.renew(max(minBuffer, 2*len(r.buf)))
	}
	e.first = !r.opened
	parts := 0
	eachLine(e.Raw, e.first, func(l line) {
		switch string(l.field) {
		case "data":
			switch parts++; parts {
			case 1:
				e.Data = l.value
			case 2: // from here on in a place of its own
				e.Data = append(make([]byte, 0, len(e.Raw)), e.Data...)
				r.out += len(e.Raw)
				fallthrough
			default:
				e.Data = append(append(e.Data, '\n'), l.value...)
			}
			e.HasData = true
		case "id":
			if bytes.IndexByte(l.value, 0) < 0 {
				e.ID = string(l.value)
			}
		case "event":
			e.Name = string(l.value)
		}
	})
	r.opened = true
	return e
}
