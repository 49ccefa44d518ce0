package enforcer

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"countersign/enforcer/wire"
)

// outlet is the client's side of an exchange. It starts undecided; open turns
// it into an event stream, message answers with plain JSON, or, when a stream
// has begun, with an event of it. A failed write is remembered and changes
// nothing else: the record, not the client, says what happened.
type outlet struct {
	w      http.ResponseWriter
	r      *http.Request
	stream bool
	sent   bool // status and headers are fixed
	begun  bool // and on their way, with the first bytes or ahead of them
	gone   bool // a write failed: the client has left
	bytes  int64
}

// accepts tells whether the client takes an event stream.
func (o *outlet) accepts() bool {
	return strings.Contains(strings.Join(o.r.Header.Values("Accept"), ","), "text/event-stream")
}

// open begins an event stream, if the client takes one and none has begun, and
// flushes a comment, so that the client has its first bytes.
func (o *outlet) open(comment string) {
	if o.sent || !o.accepts() {
		return
	}
	o.header(http.StatusOK, "text/event-stream")
	o.write([]byte(": " + strings.NewReplacer("\n", " ", "\r", " ").Replace(comment) + "\n\n"))
}

// header sends status and headers, once.
func (o *outlet) header(status int, contentType string) {
	if o.sent {
		return
	}
	h := o.w.Header()
	if contentType != "" {
		h.Set("Content-Type", contentType)
	}
	h.Set("X-Content-Type-Options", "nosniff")
	if contentType == "text/event-stream" {
		o.stream = true
		h.Set("Cache-Control", "no-cache, no-transform")
		h.Set("X-Accel-Buffering", "no")
	} else if h.Get("Cache-Control") == "" {
		h.Set("Cache-Control", "no-store")
	}
	o.sent = true
	o.w.WriteHeader(status)
}

// flush sends the headers ahead of anything that may follow.
func (o *outlet) flush() {
	o.begun = true
	if !o.gone {
		o.gone = http.NewResponseController(o.w).Flush() != nil
	}
}

// writeLimit is how long a client may take to read what is written at once.
// One that does not read holds up nothing else: its call ends.
const writeLimit = time.Minute

func (o *outlet) write(b []byte) {
	o.begun = true
	if o.gone {
		return
	}
	// The deadline is the connection's, so it is of the wall clock. A writer
	// that has none (a test's) never blocks.
	_ = http.NewResponseController(o.w).SetWriteDeadline(time.Now().Add(writeLimit))
	n, err := o.w.Write(b)
	o.bytes += int64(n)
	if err == nil && o.stream {
		err = http.NewResponseController(o.w).Flush()
	}
	o.gone = err != nil
}

// message sends one JSON-RPC message.
func (o *outlet) message(status int, msg []byte) {
	if o.stream {
		o.write(wire.MessageEvent(msg))
		return
	}
	o.header(status, "application/json")
	o.write(msg)
}

// progress keeps a waiting client alive: a progress notification where it gave
// a token, a comment otherwise. Our ticks stay below 1, because progress must
// increase and the upstream's own will follow.
func (o *outlet) progress(token []byte, progress float64, text string) {
	if !o.stream {
		return
	}
	if token == nil {
		o.write([]byte(": " + text + "\n\n"))
		return
	}
	b, err := json.Marshal(map[string]any{
		"jsonrpc": "2.0", "method": "notifications/progress",
		"params": map[string]any{"progressToken": json.RawMessage(token), "progress": progress, "message": text},
	})
	if err != nil {
		o.write([]byte(": waiting\n\n"))
		return
	}
	o.write(wire.MessageEvent(b))
}
