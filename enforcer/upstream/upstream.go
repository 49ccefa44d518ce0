// Package upstream carries messages to MCP servers: to one that listens on
// streamable HTTP, or to processes that are spawned and speak on their
// standard streams. Both look the same to the caller, as an HTTP exchange.
//
// It promises that nothing is edited on the way, that what is not MCP (HTML,
// compressed bodies, redirects) is refused by its kind and never shown, that
// every wait and every size has a bound, that a call in flight ends with an
// error when its server dies, and that no spawned process outlives us.
package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync/atomic"

	"countersign/enforcer/budget"
	"countersign/enforcer/wire"
)

// Injection is what the upstream side of a call gets and nobody else sees.
type Injection struct {
	Header http.Header // HTTP servers
	Query  url.Values  // HTTP servers: more parameters of the URL
	// Cert and Key are a certificate chain and its private key, PEM, shown to an
	// https server in the place of HTTPConfig.TLS's; "" for none. No connection
	// serves two leases.
	Cert, PrivateKey string
	Env              []string // spawned servers: NAME=value
	Files            []File   // spawned servers
	// Key names the lease that the values come from. A spawned process serves
	// one Key, because its environment cannot change.
	Key string
}

// File is a private file of a spawned server, there for as long as its process.
type File struct {
	Env     string // the environment variable that tells its path; its name, too
	Content string
}

// Request is one exchange: a POST of a message, a GET for the stream of what
// the server sends unasked, or a DELETE that ends a session.
type Request struct {
	Verb        string
	Header      http.Header // headers of the caller that MCP defines, already chosen
	Body        []byte
	Message     *wire.Message // Body as scanned
	Session     string        // Mcp-Session-Id, legacy revisions
	Holder      string
	Inject      Injection
	LastEventID string
	// Room is what the answer's bytes are counted in, those of the event that
	// Next gave last included, until Done. Nil: they are not. An answer for
	// which there is no room ends with budget.ErrFull.
	Room *budget.Share
	// Live is asked when EndKey finds the exchange, and before anything is sent:
	// where it says no, the lease was ended before that, and nothing is. Nil: yes.
	Live func() bool
	// Quiet marks a question of our own among the caller's messages: it gets its
	// response and nothing else, so that no message for the caller goes astray.
	Quiet bool
}

// Reply is the server's answer. It must be closed.
type Reply struct {
	Status  int
	Header  http.Header // only headers that MCP defines
	Session string      // the session id that the server gave, on initialize

	stream bool
	code   int // of the error response that a JSON answer is; 0 if none, or not looked at
	next   func() (wire.Event, error)
	done   func()
	close  func() error
}

// Stream reports whether the answer is a stream of events; otherwise Next
// gives one event, whose Data and Raw are the body, or none.
func (r *Reply) Stream() bool { return r.stream }

// Next returns the next event, and io.EOF after the last.
func (r *Reply) Next() (wire.Event, error) {
	if r.next == nil {
		return wire.Event{}, io.EOF
	}
	return r.next()
}

// Done says that the event which Next gave last is not held any more: it is not
// counted from then on (Request.Room).
func (r *Reply) Done() {
	if r.done != nil {
		r.done()
	}
}

// Close gives up what has not been read. On a modern request that cancels it.
func (r *Reply) Close() error {
	if r.close == nil {
		return nil
	}
	return r.close()
}

// Upstream is one MCP server.
type Upstream interface {
	// Send makes one exchange. Cancelling ctx ends it, the stream included. An
	// error is an ErrNotSent if the message certainly did not go out. A
	// *wire.Error in it is about the message, never about what came back.
	Send(ctx context.Context, r *Request) (*Reply, error)
	// EndSession forgets what is kept for a legacy session.
	EndSession(session string)
	// EndKey ends what still holds the values of a lease, before it is revoked.
	EndKey(key string)
	// Retire closes an upstream that another took the place of, without cutting
	// off what runs: exchanges are still taken and carried out, until for two
	// seconds none has run, or until ctx ends. Streams that only listen (GET,
	// subscriptions/listen) do not hold it up. Leases still have to be ended here
	// meanwhile.
	Retire(ctx context.Context) error
	// SetLimits changes the bounds on one message, its bytes and its depth, at
	// once for a spawned server, and for the next exchange with one on HTTP.
	// 8 MiB and 64 if not positive.
	SetLimits(maxMessage, maxDepth int)
	// Close ends everything, what runs included, and returns when it has ended.
	Close() error
}

// Errors of this package. They wrap detail that is safe to show: never bytes
// of an answer, never an injected value.
var (
	ErrDead        = errors.New("the MCP server is not running or did not answer")
	ErrNotMCP      = errors.New("the server's answer is not MCP")
	ErrEncoded     = errors.New("the server sent a compressed or otherwise encoded answer")
	ErrTooLarge    = errors.New("the server's answer is too large")
	ErrSessionGone = errors.New("the session has ended")
	ErrBusy        = errors.New("too many processes of this MCP server are running")
	ErrClosed      = errors.New("the upstream is closed")

	// ErrSessionEnd is wrapped beside ErrSessionGone where the session was ended
	// here while the exchange was under way: then it may have run, where else a
	// session that is gone means that the server did not look at the message.
	ErrSessionEnd = errors.New("the session was ended")

	// ErrNotSent is wrapped, beside the cause, by an error of Send exactly if
	// it is certain that nothing of the message was sent: it did not run.
	// Without it nobody knows.
	ErrNotSent = errors.New("nothing was sent to the MCP server")
)

// unsent marks an error as that of an exchange of which nothing was sent. Its
// text stays: the caller says what that means for the agent.
type unsent struct{ error }

func (e unsent) Unwrap() []error { return []error{e.error, ErrNotSent} }

// StatusError is an answer that carries no message: an HTTP error without
// JSON. It is an ErrNotMCP.
type StatusError struct {
	Status int
	Type   string // its content type, or why that is left out
}

func (e *StatusError) Error() string {
	kind := "no content type"
	if e.Type != "" {
		kind = "content type " + e.Type
	}
	return fmt.Sprintf("%s: HTTP status %d with %s, where JSON or an event stream was expected", ErrNotMCP, e.Status, kind)
}

func (e *StatusError) Unwrap() error { return ErrNotMCP }

const defaultMessage = 8 << 20

// limits are the bounds on one message.
type limits struct{ message, depth atomic.Int64 }

func (l *limits) SetLimits(maxMessage, maxDepth int) {
	if maxMessage <= 0 {
		maxMessage = defaultMessage
	}
	l.message.Store(int64(maxMessage))
	l.depth.Store(int64(max(maxDepth, 0))) // wire knows the default
}

func (l *limits) max() int { return int(l.message.Load()) }

// waiting bounds what waits for one reader.
func (l *limits) waiting() int { return 4 * l.max() }
