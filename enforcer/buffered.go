package enforcer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"countersign/enforcer/budget"
	"countersign/enforcer/mask"
	"countersign/enforcer/wire"
	"countersign/rules"
)

// A secret can be split over several messages of one stream: a tool that reports
// what it reads in progress notifications, piece by piece. Where policy says
// `stream: buffered`, the events of a stream are held back until its response
// comes, or the server asks the client something, or one of the bounds is
// reached, and are masked once more, all together, before they leave.
//
// At a bound everything leaves. The end of it is remembered: of a secret that is
// split over a bound the part that follows is masked.

// held is what a stream holds back.
type held struct {
	on     bool
	bounds rules.BufferedStream
	events []heldEvent
	bytes  int
	share  *budget.Share // counts them
	timer  *time.Timer   // for the oldest of them; nil: none is held
	tail   [][]byte      // the messages that left last
	ahead  chan read     // the event that is being read; nil: none is
	stop   context.CancelFunc
}

// heldEvent is an event with its data, masked; nil if it has none.
type heldEvent struct {
	ev     wire.Event
	clean  []byte
	beside func(string) string // what stands beside its data, masked
}

type read struct {
	ev  wire.Event
	err error
}

// tailBytes is how much of what has left is remembered.
const tailBytes = 16 << 10

// buffers begins to hold events back, where policy says so.
func (x *exchange) buffers(ctx context.Context) context.Context {
	at := x.site()
	x.held.bounds, x.held.on = x.force.policy.Buffered(at.Server, at.Tool, at.Any)
	if !x.held.on {
		return ctx
	}
	x.held.share = x.e.room.answers.Share()
	ctx, x.held.stop = context.WithCancel(ctx)
	x.cleanup = append(x.cleanup, x.held.stop)
	return ctx
}

// nextEvent is the stream's next event, or due: it is time to let go what is
// held.
func (x *exchange) nextEvent() (ev wire.Event, due bool, err error) {
	h := &x.held
	if !h.on {
		ev, err = x.next()
		return ev, false, err
	}
	if !x.out.begun {
		x.out.flush() // nothing may follow for a while
	}
	if h.ahead == nil {
		h.ahead = make(chan read, 1)
		go x.readAhead(h.ahead)
	}
	var late <-chan time.Time
	if h.timer != nil {
		late = h.timer.C
	}
	select {
	case r := <-h.ahead:
		h.ahead = nil
		return r.ev, false, r.err
	case <-late:
		return wire.Event{}, true, nil
	}
}

func (x *exchange) readAhead(to chan<- read) {
	r := read{err: errors.New("reading the upstream's stream failed inside")}
	defer func() {
		if p := recover(); p != nil {
			x.e.Log.Error("reading a stream panicked", "call", x.id, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
		to <- r
	}()
	r.ev, r.err = x.reply.Next()
}

// hold keeps an event back, or lets all go if a bound is reached.
func (x *exchange) hold(e heldEvent) error {
	h := &x.held
	e.ev.Raw, e.ev.Data, e.clean = bytes.Clone(e.ev.Raw), bytes.Clone(e.ev.Data), bytes.Clone(e.clean) // they are the reader's
	h.events = append(h.events, e)
	h.bytes += len(e.ev.Raw) + len(e.ev.Data) + len(e.clean)
	x.reply.Done()
	if h.timer == nil {
		h.timer = time.NewTimer(h.bounds.Hold)
	}
	if int64(h.bytes) > h.bounds.Size || len(h.events) > maxHeldEvents || !h.share.Try(h.bytes) {
		return x.letGo(nil, nil)
	}
	return nil
}

// maxHeldEvents bounds what events cost beside their bytes.
const maxHeldEvents = 10_000

// letGo masks what is held as one text, and sends it. A response that ends it,
// with its event as the last of those held, is in the record before any of it
// leaves.
func (x *exchange) letGo(response *wire.Message, last *heldEvent) error {
	h := &x.held
	if last != nil {
		h.events = append(h.events, *last)
	}
	events := h.events
	if len(events) == 0 {
		return nil
	}
	h.events, h.bytes = nil, 0
	if h.timer != nil {
		h.timer.Stop()
		h.timer = nil
	}
	defer h.share.Free()
	msgs, size := append([][]byte(nil), h.tail...), 0
	for _, e := range events {
		if e.clean != nil {
			msgs, size = append(msgs, e.clean), size+len(e.clean)
		}
	}
	var err error
	masked := x.clock(partMask)
	x.e.room.works(size, func() {
		out, report, merr := x.e.Mask.Messages(msgs, x.site())
		x.note(report)
		msgs, err = out, merr
	})
	masked()
	if err != nil {
		return refuse(kindBlocked, "the upstream server's stream is blocked, since it cannot be masked as a whole: %w", err)
	}
	if response != nil {
		if err := x.recordResponse(response, msgs[len(msgs)-1]); err != nil {
			return err
		}
	}
	next := len(h.tail)
	h.remember(msgs)
	for _, e := range events {
		data := e.ev.Data
		if e.clean != nil {
			data, next = msgs[next], next+1
		}
		x.write(e, data)
	}
	if response != nil {
		x.delivered(msgs[len(msgs)-1])
	}
	return nil
}

// write sends an event with other data, and what stands beside it masked.
func (x *exchange) write(e heldEvent, data []byte) {
	text := e.ev.Rewrite(data, e.beside)
	x.sending.Keep(len(text))
	x.out.write(text)
	x.sending.Free()
}

// remember keeps the end of what leaves; of a long message, the ends of its
// texts.
func (h *held) remember(msgs [][]byte) {
	var tail [][]byte
	for size := 0; len(msgs) > 0; msgs = msgs[:len(msgs)-1] {
		m := msgs[len(msgs)-1]
		if len(m) > tailBytes {
			m = mask.End(m, tailBytes/4)
		}
		if size += len(m); size > tailBytes && (len(tail) > 0 || size > 4*tailBytes) {
			break
		}
		tail = append(tail, bytes.Clone(m))
	}
	slices.Reverse(tail)
	h.tail = tail
}

// join waits for the event that is being read: what it is read from is closed
// next.
func (h *held) join() {
	if h.ahead != nil {
		h.stop()
		<-h.ahead
		h.ahead = nil
	}
	if h.timer != nil {
		h.timer.Stop()
	}
	h.share.Free()
}
