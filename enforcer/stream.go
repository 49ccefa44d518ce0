package enforcer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"countersign/audit"
	"countersign/enforcer/wire"
)

// segmentEvery is how often a long stream leaves a mark in the record.
const segmentEvery = 10 * time.Second

// answerStream lets a stream through, event by event. That of a call begins
// with its intent; one that lasts is opened in the record before anything of it
// leaves, and closed before what it came to.
func (x *exchange) answerStream() error {
	if x.endless() {
		if err := x.recordStream(audit.KindOpen, "open", ""); err != nil {
			return refuse(kindUnavailable, "the record cannot be written, so no stream begins: %w", err)
		}
		x.opened = true
	}
	if err := x.release(); err != nil {
		return err
	}
	x.out.header(x.status(), "text/event-stream")
	last := x.e.Now()
	for {
		came := x.clock(partUpstream)
		ev, due, err := x.nextEvent()
		came()
		if why := x.stopped(); why != nil && !errors.Is(err, io.EOF) {
			return x.endFrozen(why)
		}
		if due || err != nil {
			if err := x.letGo(nil, nil); err != nil {
				return err
			}
		}
		if due && x.out.gone && x.leavingEnds() {
			return x.endStream("client-gone")
		} else if due {
			continue
		}
		switch {
		case errors.Is(err, io.EOF):
			return x.endStream("ok")
		case err != nil && x.endless() && x.e.lifetime.Err() != nil:
			return x.endStream("stopped")
		case err != nil && x.closed, err != nil && x.r.Method == http.MethodGet:
			return x.endStream("broken")
		case err != nil:
			return x.upstreamFailed(err)
		}
		if err := x.event(ev); err != nil {
			return err
		}
		x.events++
		if x.out.gone && x.leavingEnds() {
			return x.endStream("client-gone")
		}
		if now := x.e.Now(); now.Sub(last) >= segmentEvery {
			last = now
			if err := x.recordStream(audit.KindSegment, "open", ""); err != nil {
				return refuse(kindUnavailable, "the record cannot be written, so the stream ends: %w", err)
			}
		}
	}
}

// headersAfter is how long a stream's status and headers wait to travel with
// its first event, which spares a packet for each of the many short ones.
const headersAfter = 100 * time.Millisecond

// next is the stream's next event. Where the first one takes its time the
// client is told at once that a stream has begun: some clients wait for that
// before they do anything else, and some give up without it.
func (x *exchange) next() (wire.Event, error) {
	if x.out.begun {
		return x.reply.Next()
	}
	if x.r.Method == http.MethodGet {
		x.out.flush()
		return x.reply.Next()
	}
	type result struct {
		ev  wire.Event
		err error
	}
	first := make(chan result, 1)
	go func() {
		r := result{err: errors.New("reading the upstream's stream failed inside")}
		defer func() {
			if p := recover(); p != nil {
				x.e.Log.Error("reading a stream panicked", "call", x.id, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			}
			first <- r
		}()
		r.ev, r.err = x.reply.Next()
	}()
	late := time.NewTimer(headersAfter)
	defer late.Stop()
	select {
	case r := <-first:
		x.out.begun = true
		return r.ev, r.err
	case <-late.C:
		x.out.flush()
		r := <-first
		return r.ev, r.err
	}
}

// event lets one event of the stream through, masked: its data as a message,
// everything beside it (comments, id, name) as text.
func (x *exchange) event(ev wire.Event) error {
	beside, err := x.beside(ev)
	if err != nil {
		return err
	}
	if len(bytes.TrimSpace(ev.Data)) == 0 {
		if x.held.on {
			return x.hold(heldEvent{ev, nil, beside})
		}
		x.out.write(ev.Rewrite(ev.Data, beside))
		return nil
	}
	m, clean, err := x.clean(ev.Data)
	if err != nil {
		return err
	}
	switch m.Kind {
	case wire.Response:
		if x.msg == nil && x.e.running.severed.has(x, m.ID) {
			return x.withhold()
		}
		if x.held.on {
			return x.letGo(m, &heldEvent{ev, clean, beside})
		}
		if err := x.recordResponse(m, clean); err != nil {
			return err
		}
	case wire.Request:
		if allowed, err := x.serverAsks(m); err != nil || !allowed {
			return err
		}
	case wire.Notification:
		if passes, err := x.notifies(m); err != nil || !passes {
			return err
		}
	}
	if x.held.on {
		if err := x.hold(heldEvent{ev, clean, beside}); err != nil || m.Kind != wire.Request {
			return err
		}
		return x.letGo(nil, nil) // the server waits for what the client says to it
	}
	response := m.Kind == wire.Response
	text := ev.Rewrite(clean, beside)
	if !response || !x.spent && x.took == nil {
		clean = nil
	}
	x.reply.Done()
	x.sending.Keep(len(text) + len(clean)) // all that is held of it while the client takes its time
	x.out.write(text)
	x.sending.Free()
	if response {
		x.delivered(clean)
	}
	return nil
}

// beside masks what stands in the event beside its data, before any of it is in
// the record or on its way, and returns how each line goes on. A value that
// lines hold only together is no line's to mask: the event is blocked.
func (x *exchange) beside(ev wire.Event) (func(string) string, error) {
	lines := map[string]string{}
	var all strings.Builder
	ev.Rewrite(ev.Data, func(text string) string {
		clean, r := x.e.Mask.Text(text)
		x.note(r)
		lines[text] = clean
		all.WriteString(clean)
		return text
	})
	if len(lines) > 1 {
		if clean, r := x.e.Mask.Text(all.String()); clean != all.String() {
			x.note(r)
			return nil, refuse(kindBlocked, "the upstream server's stream is blocked: a secret stands in the lines of an event")
		}
	}
	return func(text string) string { return lines[text] }, nil
}

// recordResponse makes a response's outcome durable: this exchange's own, or,
// on a stream that a GET resumes, one of an earlier exchange. A second answer,
// or somebody else's, is blocked.
func (x *exchange) recordResponse(m *wire.Message, clean []byte) (err error) {
	switch {
	case x.msg == nil: // which exchange it belongs to, only the client knows
		en := x.entry(audit.KindSegment)
		en.Status, en.Reason, en.Masked, en.Result = outcome(m), "a response of an earlier request, on a resumed stream", x.masked, x.preview(clean)
		err = x.append(en, x.bodies("response", clean)...)
	case x.closed:
		return refuse(kindBlocked, "the upstream server's stream is blocked: it answers twice")
	case !sameID(m.ID, x.msg.ID):
		return refuse(kindBlocked, "the upstream server's stream is blocked: it is not the answer to this request")
	default:
		err = x.recordEnd(outcome(m), "", clean)
	}
	if err != nil {
		return refuse(kindUnavailable, "the record cannot be written, so the answer is withheld: %w", err)
	}
	return nil
}

// recordStream writes that a stream begins, how far it has come, or that it has
// ended.
func (x *exchange) recordStream(kind audit.Kind, status, reason string) error {
	en := x.entry(kind)
	en.Status, en.Bytes, en.Masked, en.Rules, en.Reason, en.Digest = status, x.out.bytes, x.masked, nil, x.e.words(reason, 2048), ""
	en.Detail = json.RawMessage(`{"events":` + strconv.Itoa(x.events) + `}`)
	return x.append(en)
}

// recordClose closes a stream that was opened in the record; another has been
// closed, or was none.
func (x *exchange) recordClose(status, reason string) error {
	if !x.opened {
		return nil
	}
	x.opened = false
	return x.recordStream(audit.KindClose, status, reason)
}

// endStream closes a stream in the record.
func (x *exchange) endStream(status string) error {
	if x.closed { // the response is out: what came after it, or before, is in the close entry
		x.opened = x.opened || x.events > 1
		return x.recordClose(status, "")
	}
	if x.msg != nil && x.msg.Kind == wire.Request && status == "ok" {
		status = "undelivered" // the stream ended without the response; a resumed one may bring it
	}
	return x.recordEnd(status, "", nil)
}
