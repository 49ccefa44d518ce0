package hub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"

	"countersign/enforcer/budget"
	"countersign/enforcer/wire"
)

// ask is one exchange with one server, made in process with the endpoint of
// that server: it goes through the whole pipeline there, as if the client had
// asked it.
type ask struct {
	verb string
	way  way
	body []byte
	// name is what Mcp-Name mirrors, if the client sent that header.
	name string
	own  bool // the message is one of ours, or of another era than the client's: so are its headers
	last string
	// params are headers that mirror arguments, of a message made here.
	params http.Header
}

// way is how a server is reached in a call.
type way struct {
	server  string
	session string // the server's Mcp-Session-Id, "" if it gave none
	version string // what goes into MCP-Protocol-Version; "": nothing
	offers  offers
	bridged bool // the client is of the other era
	// stateless: so it is, and the server speaks that era alone. Nil otherwise.
	stateless *stateless
}

// send makes the exchange, with the client's headers, and returns when it has
// ended. What comes back goes to the relay.
func (h *Hub) send(ctx context.Context, c *Call, a ask, to *relay) {
	if a.way.bridged {
		defer h.cross(ctx, c, &a, to)()
	}
	if a.way.stateless != nil {
		ctx = h.crossOver(ctx, c, &a, to)
	}
	r := c.Request.Clone(ctx)
	r.Method = a.verb
	r.URL.Path, r.URL.RawPath, r.URL.RawQuery = "/mcp/"+a.way.server, "", ""
	r.RequestURI = r.URL.Path
	r.SetPathValue("server", a.way.server)
	r.Body, r.ContentLength = http.NoBody, 0
	if a.body != nil {
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(a.body)), int64(len(a.body))
	}
	set := func(name, value string) {
		if r.Header.Del(name); value != "" {
			r.Header.Set(name, value)
		}
	}
	set("Mcp-Session-Id", a.way.session)
	set("Last-Event-Id", a.last)
	set("Mcp-Protocol-Version", a.way.version)
	if a.name != "" && r.Header.Get("Mcp-Name") != "" {
		set("Mcp-Name", wire.EncodeHeader(a.name))
	}
	if a.own {
		for name := range r.Header {
			if name == "Mcp-Name" || name == "Mcp-Method" || strings.HasPrefix(name, "Mcp-Param-") {
				r.Header.Del(name)
			}
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Accept", "application/json, text/event-stream")
		if m, err := wire.Parse(a.body, c.limits()); err == nil {
			wire.MirrorHeaders(r.Header, m)
		}
		maps.Copy(r.Header, a.params)
	}
	to.header, to.limits, to.ctx, to.share = http.Header{}, c.limits(), ctx, c.Room.Share()
	h.inner.ServeHTTP(to, r)
	to.end()
}

// relay is the http.ResponseWriter of an ask. It hands each event on as it is
// complete; a JSON body counts as one event. A write returns when take has,
// with its error, so that the pipeline learns of a client that is gone.
type relay struct {
	take func(r *relay, ev wire.Event) error
	open func()          // a stream has begun, and nothing has come yet; may be nil
	room func(int) error // makes room for so many bytes more, or says why not; may be nil

	header http.Header
	code   int
	limits wire.Limits
	ctx    context.Context
	share  *budget.Share // what is held is counted here
	keeps  bool          // beyond the exchange, until somebody frees the share

	mu     sync.Mutex
	closed bool
	held   []byte // of an event, or a body, that is not complete
	begun  bool
	whole  bool // the JSON body was handed on
	err    error
	// refused: an answer came that the client cannot have, and was not handed on.
	refused *Refusal
}

func (r *relay) Header() http.Header { return r.header }

func (r *relay) WriteHeader(code int) {
	if r.code == 0 {
		r.code = code
	}
}

func (r *relay) stream() bool {
	return strings.HasPrefix(r.header.Get("Content-Type"), "text/event-stream")
}

func (r *relay) FlushError() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.WriteHeader(http.StatusOK)
	if r.err == nil && !r.closed && !r.begun && r.stream() && r.open != nil {
		r.begun = true
		r.open()
	}
	return r.err
}

func (r *relay) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.WriteHeader(http.StatusOK)
	r.begun = true
	switch {
	case r.closed:
		return 0, errOver
	case r.err != nil:
		return 0, r.err
	case len(r.held)+len(b) > r.limits.Bytes:
		r.err = errLarge
		return 0, r.err
	}
	if r.room != nil {
		if r.err = r.room(len(b)); r.err != nil {
			return 0, r.err
		}
	}
	// As it came, and as it goes on.
	if r.err = r.share.Set(r.ctx, 2*(len(r.held)+len(b))); r.err != nil {
		return 0, r.err
	}
	r.held = append(r.held, b...)
	if r.stream() {
		r.err = r.events(false)
	} else if _, err := wire.Parse(r.held, r.limits); err == nil && !r.whole {
		r.whole = true
		body := r.held
		r.held = nil
		r.err = r.take(r, wire.Event{Raw: body, Data: body, HasData: true})
	}
	if r.err != nil {
		return 0, r.err
	}
	if !r.keeps {
		r.share.Keep(2 * len(r.held))
	}
	return len(b), nil
}

var errLarge = errors.New("more than the policy's limit for a server's message")

// events hands on what is complete; with last, also what is not.
func (r *relay) events(last bool) error {
	if len(r.held) == 0 {
		return nil
	}
	from := wire.NewEventReader(bytes.NewReader(r.held), r.limits.Bytes)
	r.held = nil
	for {
		ev, err := from.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if ev.Cut && !last {
			r.held = append([]byte(nil), ev.Raw...)
			return nil
		}
		if err := r.take(r, ev); err != nil {
			return err
		}
	}
}

// end takes the last of the exchange.
func (r *relay) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stream() && r.err == nil && !r.closed {
		r.err = r.events(true)
	}
	if r.err == nil && len(r.held) > 0 {
		r.err = errors.New("its answer is not a JSON-RPC message")
	}
	r.closed = true
	if !r.keeps {
		r.share.Free()
	}
}

// close has what still comes refused: nobody waits for it any more.
func (r *relay) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
}

// failure is why an exchange came to nothing: the refusal's or the server's own
// words, if it said any.
func (r *relay) failure(m *wire.Message) error {
	switch {
	case m != nil && m.ErrorObj.Present():
		return &answeredError{code: errorCode(m), text: errorText(m)}
	case r.refused != nil:
		return r.refused
	case r.err != nil:
		return r.err
	}
	return fmt.Errorf("it answered with HTTP status %d and nothing else", r.code)
}

// answeredError is an error response.
type answeredError struct {
	code string
	text string
}

func (e *answeredError) Error() string { return e.text }

func errorCode(m *wire.Message) string {
	at, _ := m.Member(m.ErrorObj, "code")
	return string(m.Bytes(at))
}

func errorText(m *wire.Message) string {
	at, _ := m.Member(m.ErrorObj, "message")
	s, _ := m.Text(at)
	if len(s) > maxWords {
		s = strings.ToValidUTF8(s[:maxWords], "") + "…"
	}
	return s
}

// maxWords bounds what is kept, logged and told on of a server's error.
const maxWords = 1 << 10

// collect is a relay that keeps the response, and hands everything else to
// other, which may be nil. The response is there when send has returned.
func collect(other func(m *wire.Message, ev wire.Event) error) (*relay, func() *wire.Message) {
	var mu sync.Mutex
	var found *wire.Message
	r := &relay{take: func(r *relay, ev wire.Event) error {
		if len(bytes.TrimSpace(ev.Data)) == 0 {
			return nil
		}
		m, err := wire.Parse(ev.Data, r.limits)
		if err != nil {
			return err
		}
		if m.Kind == wire.Response {
			mu.Lock()
			defer mu.Unlock()
			found = m
			return nil
		}
		if other == nil {
			return nil
		}
		return other(m, ev)
	}}
	return r, func() *wire.Message {
		mu.Lock()
		defer mu.Unlock()
		return found
	}
}
