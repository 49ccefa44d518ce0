package hub

import (
	"errors"
	"net/http"
	"strings"
	"sync"

	"countersign/enforcer/wire"
)

// client is the client's side of an exchange, where several servers may write.
// It starts undecided: the first event makes it a stream, a message without one
// before it is plain JSON. Each write goes out before it returns, so that a
// client that does not read holds up those that write to it, and nothing is
// kept.
type client struct {
	w       http.ResponseWriter
	accepts bool // event streams

	mu     sync.Mutex
	sent   bool // status and headers are fixed
	stream bool
	ended  bool  // the exchange is over: who still writes comes too late
	err    error // of the first write that failed
}

var errOver = errors.New("the exchange is over")

func newClient(w http.ResponseWriter, r *http.Request) *client {
	return &client{w: w, accepts: strings.Contains(strings.Join(r.Header.Values("Accept"), ","), "text/event-stream")}
}

// status sends status and headers alone.
func (c *client) status(code int, pass http.Header) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.head(code, "", pass)
}

func (c *client) head(code int, contentType string, pass http.Header) {
	if c.sent {
		return
	}
	c.sent = true
	h := c.w.Header()
	for _, k := range []string{"Mcp-Protocol-Version", "Retry-After", "Www-Authenticate"} {
		if v := pass.Values(k); len(v) > 0 {
			h[k] = v
		}
	}
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	if contentType != "" {
		h.Set("Content-Type", contentType)
	}
	if c.stream = contentType == "text/event-stream"; c.stream {
		h.Set("Cache-Control", "no-cache, no-transform")
		h.Set("X-Accel-Buffering", "no")
	}
	c.w.WriteHeader(code)
}

// open begins the stream, if it has not begun, and tells the client.
func (c *client) open() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return errOver
	}
	c.head(http.StatusOK, "text/event-stream", nil)
	return c.flush()
}

// event sends an event, and opens the stream for it. A client that takes no
// streams misses what is not the answer.
func (c *client) event(raw []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended { // the headers, too, are somebody else's now
		return errOver
	}
	if !c.accepts && !c.stream {
		return nil
	}
	c.head(http.StatusOK, "text/event-stream", nil)
	return c.write(raw)
}

// message sends the response, which is the last that is sent: as JSON, or as an
// event if a stream has begun.
func (c *client) message(code int, pass http.Header, msg []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer func() { c.ended = true }()
	if c.stream {
		return c.write(wire.MessageEvent(msg))
	}
	if c.sent || c.ended {
		return errOver
	}
	c.head(code, "application/json", pass)
	return c.write(msg)
}

func (c *client) write(b []byte) error {
	if c.ended {
		return errOver
	}
	if c.err != nil {
		return c.err
	}
	if _, c.err = c.w.Write(b); c.err != nil {
		return c.err
	}
	if c.stream {
		return c.flush()
	}
	return nil
}

func (c *client) flush() error {
	if c.err == nil && !c.ended {
		c.err = http.NewResponseController(c.w).Flush()
	}
	return c.err
}

// end refuses whoever still writes: the response is not ours any more.
func (c *client) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
}

func (c *client) begun() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent
}
