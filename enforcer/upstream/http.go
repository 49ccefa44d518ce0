package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"

	"countersign/enforcer/budget"
	"countersign/enforcer/wire"
)

// HTTPConfig describes a server on streamable HTTP.
type HTTPConfig struct {
	URL string
	// Timeout bounds the wait for the first byte of an answer; a stream may
	// then last as long as it likes. 60 s if zero.
	Timeout  time.Duration
	Timeouts Timeouts // of single phases within it
	TLS      TLSConfig
	// Proxy is an HTTP proxy, http://host:port; empty: none, whatever our
	// environment says. https goes through it by CONNECT.
	Proxy string
	// MaxMessage bounds one message, that is one body or one event. 8 MiB if zero.
	// (Its depth is for whoever parses it.)
	MaxMessage int
	// Client may bring a transport; nothing else of it counts. Redirects are never
	// followed. Nil means a transport of our own, to which alone TLS, Proxy and
	// Timeouts apply.
	Client *http.Client
	Now    func() time.Time  // the clock; time.Now if nil
	Warn   func(text string) // what a person should look at, not yet masked; may be nil
}

// Timeouts bounds phases of an exchange.
type Timeouts struct {
	Connect time.Duration // until a connection stands, through the proxy if there is one; 10 s if zero
	TLS     time.Duration // the handshake; 10 s if zero
	Answer  time.Duration // from the request sent to the first byte of an answer; no bound of its own if zero
	Idle    time.Duration // silence within the stream that answers a request; none if zero
}

type httpUpstream struct {
	cfg HTTPConfig
	url string
	limits
	fixed http.RoundTripper // that the caller brought; nil: ours
	conns *connections
	tells bool // the transport is net/http's, which tells when it has a connection

	mu      sync.Mutex
	traffic traffic
	running map[int]*exchange
	nextID  int
	wait    sync.WaitGroup
}

// exchange is one call in flight, known by session and key so that EndSession
// and EndKey find it.
type exchange struct {
	session, key string
	cancel       context.CancelCauseFunc
}

// HTTP returns an upstream that POSTs each message to one URL. Sessions are
// the server's: nothing is kept here between two exchanges.
func HTTP(cfg HTTPConfig) Upstream {
	if cfg.Timeout <= 0 {
		cfg.Timeout = 60 * time.Second
	}
	if cfg.Timeouts.Connect <= 0 {
		cfg.Timeouts.Connect = 10 * time.Second
	}
	if cfg.Timeouts.TLS <= 0 {
		cfg.Timeouts.TLS = 10 * time.Second
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Warn == nil {
		cfg.Warn = func(string) {}
	}
	u := &httpUpstream{cfg: cfg, url: cfg.URL, running: map[int]*exchange{}, traffic: traffic{calm: calm}, tells: true}
	u.SetLimits(cfg.MaxMessage, 0)
	if cfg.Client != nil && cfg.Client.Transport != nil {
		u.fixed = cfg.Client.Transport
		_, u.tells = cfg.Client.Transport.(*http.Transport)
		return u
	}
	u.conns = &connections{cfg: cfg}
	// Files are read now, so that what is wrong with them is in the log before
	// the first call; nothing is dialled.
	if _, err := u.conns.transport(Injection{}); err != nil {
		cfg.Warn(err.Error())
	}
	return u
}

var (
	errTimeout  = errors.New("no answer in time")
	errKeyEnded = errors.New("the credential of this call has ended")
	errShutDown = errors.New("the upstream is shutting down")
)

func (u *httpUpstream) Send(ctx context.Context, r *Request) (*Reply, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	done, err := u.enter(r, cancel)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	reply, err := u.send(ctx, cancel, r)
	if err != nil {
		cancel(nil)
		done()
		return nil, err
	}
	shut := reply.close
	var once sync.Once
	var closing error
	reply.close = func() error {
		once.Do(func() {
			cancel(nil)
			closing = shut()
			done()
		})
		return closing
	}
	return reply, nil
}

func (u *httpUpstream) enter(r *Request, cancel context.CancelCauseFunc) (done func(), err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	leave, err := u.traffic.enter(&u.mu, r)
	if err != nil {
		return nil, err
	}
	id := u.nextID
	u.nextID++
	u.running[id] = &exchange{session: r.Session, key: r.Inject.Key, cancel: cancel}
	u.wait.Add(1)
	return func() {
		u.mu.Lock()
		delete(u.running, id)
		u.mu.Unlock()
		leave()
		u.wait.Done()
	}, nil
}

func (u *httpUpstream) send(ctx context.Context, cancel context.CancelCauseFunc, r *Request) (*Reply, error) {
	transport := u.fixed
	if transport != nil && r.Inject.Cert != "" {
		return nil, unsent{errors.New("a client certificate needs connections of our own")}
	}
	if transport == nil {
		ours, err := u.conns.transport(r.Inject)
		if err != nil {
			return nil, unsent{fmt.Errorf("%w: %w", ErrDead, err)}
		}
		transport = ours
	}
	w := watch(u.cfg, cancel)
	w.minted = r.Inject.Cert != ""
	req, err := u.request(httptrace.WithClientTrace(ctx, w.trace()), r)
	if err != nil {
		w.stop()
		return nil, unsent{err}
	}
	// Not client.Do: there are no redirects to follow and no cookies to keep.
	resp, err := transport.RoundTrip(req)
	if err != nil {
		w.stop()
		err = u.failed(ctx, w, err)
		// Before it has a connection the transport cannot write. (One that is
		// not net/http's would not tell.)
		if u.tells && !w.connected() {
			err = unsent{err}
		}
		return nil, err
	}
	reply, err := u.reply(ctx, r, resp, w)
	if err != nil {
		w.stop()
		if cerr := resp.Body.Close(); cerr != nil {
			return nil, errors.Join(err, u.failed(ctx, w, cerr))
		}
		return nil, err
	}
	return reply, nil
}

// request builds what goes out: the chosen headers of the caller, then ours,
// then what is injected, so that no caller can stand in for a credential.
func (u *httpUpstream) request(ctx context.Context, r *Request) (*http.Request, error) {
	var body io.Reader
	switch r.Verb {
	case http.MethodPost:
		body = bytes.NewReader(r.Body)
	case http.MethodGet, http.MethodDelete:
	default:
		return nil, fmt.Errorf("an MCP server is not asked with %q", r.Verb)
	}
	req, err := http.NewRequestWithContext(ctx, r.Verb, u.url, body)
	if err != nil {
		return nil, errors.New("the URL of the MCP server cannot be used: see its file in the policy")
	}
	if len(r.Inject.Query) > 0 {
		if req.URL.RawQuery != "" {
			req.URL.RawQuery += "&"
		}
		req.URL.RawQuery += r.Inject.Query.Encode()
	}
	// The transport sends a POST again only if it knows that nothing of it was
	// written, never after it may have had its effect.
	req.Header.Set("User-Agent", "countersign")
	for name, values := range r.Header {
		if forwardable(name) {
			req.Header[http.CanonicalHeaderKey(name)] = values
		}
	}
	switch r.Verb {
	case http.MethodPost:
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Accept", "application/json, text/event-stream")
	case http.MethodGet:
		req.Header.Set("Accept", "text/event-stream")
	}
	// What is encoded would pass the mask unread.
	req.Header.Set("Accept-Encoding", "identity")
	if r.Session != "" {
		req.Header.Set("Mcp-Session-Id", r.Session)
	}
	if r.LastEventID != "" {
		req.Header.Set("Last-Event-Id", r.LastEventID)
	}
	for name, values := range r.Inject.Header {
		for _, v := range values {
			if !httpguts.ValidHeaderFieldValue(v) { // no transport of ours would send it, nor say why
				return nil, fmt.Errorf("what was minted for the header %s is not one line of text, which a header cannot carry: see inject in the policy", name)
			}
		}
		req.Header[http.CanonicalHeaderKey(name)] = values
	}
	return req, nil
}

// forwardable is the last guard of "a caller's token is never forwarded": of
// the caller's headers only MCP's own pass, whatever the caller of this
// package put there. Session and event id have fields of their own.
func forwardable(name string) bool {
	name = http.CanonicalHeaderKey(name)
	return name == "Mcp-Protocol-Version" || name == "Mcp-Method" || name == "Mcp-Name" ||
		strings.HasPrefix(name, "Mcp-Param-")
}

func (u *httpUpstream) reply(ctx context.Context, r *Request, resp *http.Response, w *watcher) (*Reply, error) {
	if enc := resp.Header.Values("Content-Encoding"); len(enc) > 0 && !strings.EqualFold(strings.Join(enc, ","), "identity") || resp.Uncompressed {
		return nil, fmt.Errorf("%w: content encoding %s, though identity was asked for", ErrEncoded, shown(strings.Join(enc, ",")))
	}
	reply := &Reply{Status: resp.StatusCode, Header: http.Header{}, close: resp.Body.Close}
	for name, values := range resp.Header {
		if returnable(name) {
			reply.Header[name] = values
		}
	}
	reply.Session = resp.Header.Get("Mcp-Session-Id")
	if resp.StatusCode < 200 { // 101: what follows would be another protocol's
		return nil, &StatusError{Status: resp.StatusCode, Type: shown(resp.Header.Get("Content-Type"))}
	}
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		return nil, fmt.Errorf("%w: HTTP status %d, a redirect, which is not followed: put the final URL into the policy", ErrNotMCP, resp.StatusCode)
	}

	// Legacy revisions: a 404 means that the session is gone, with a JSON body
	// (TypeScript servers) or without (Go servers).
	if resp.StatusCode == http.StatusNotFound && r.Session != "" {
		return nil, fmt.Errorf("%w: the MCP server answered 404", ErrSessionGone)
	}

	kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil {
		kind = ""
	}
	switch {
	case kind == "text/event-stream" && resp.StatusCode < 300:
		w.stop()
		reply.stream = true
		var body io.Reader = resp.Body
		if u.cfg.Timeouts.Idle > 0 && !listens(r) {
			body = w.audible(resp.Body)
		}
		events := wire.NewEventReader(body, u.max())
		events.Hold = func(n int) error { return r.Room.Set(ctx, n) }
		reply.done = func() { _ = events.Done() } // to hold less never fails
		reply.next = func() (wire.Event, error) {
			e, err := events.Next()
			if err != nil && err != io.EOF {
				err = u.failed(ctx, w, err)
			}
			return e, err
		}
		return reply, nil
	case kind == "application/json":
		return reply, u.whole(ctx, r, reply, resp, w)
	}
	// No message. An empty body needs no content type: 202 for what is not a
	// request, 204 for a session's end, 405 for a GET that is not offered.
	var one [1]byte
	n, err := io.ReadFull(resp.Body, one[:])
	w.stop()
	switch {
	case err != nil && err != io.EOF:
		return nil, u.failed(ctx, w, err)
	case n == 0 && resp.StatusCode < 300, resp.StatusCode == http.StatusMethodNotAllowed:
		return reply, nil
	case n > 0 && resp.StatusCode == http.StatusAccepted && !isRequest(r):
		return reply, nil // some servers say "Accepted"; it is not relayed
	}
	return nil, &StatusError{Status: resp.StatusCode, Type: shown(resp.Header.Get("Content-Type"))}
}

func isRequest(r *Request) bool { return r.Message != nil && r.Message.Kind == wire.Request }

// whole reads a JSON body. The bound on waiting covers it, because a body that
// is one message has nothing to wait for once it has begun.
func (u *httpUpstream) whole(ctx context.Context, r *Request, reply *Reply, resp *http.Response, w *watcher) error {
	max := int64(u.max())
	tooLarge := func() error { return fmt.Errorf("%w: more than %d bytes", ErrTooLarge, max) }
	if resp.ContentLength > max {
		return tooLarge()
	}
	body, err := r.Room.ReadAll(ctx, resp.Body, resp.ContentLength, max)
	w.stop()
	switch {
	case errors.Is(err, budget.ErrTooLarge):
		return tooLarge()
	case err != nil:
		return u.failed(ctx, w, err)
	case len(body) > 0:
		reply.next = once(wire.Event{Raw: body, Data: body, HasData: true})
	}
	return nil
}

// returnable lists the headers of an answer that a caller may see. All others
// stay behind: cookies, challenges that name the upstream's own issuer, and
// whatever a server may put a secret into.
func returnable(name string) bool {
	switch name {
	case "Content-Type", "Mcp-Session-Id", "Mcp-Protocol-Version", "Retry-After", "Cache-Control", "X-Accel-Buffering", "Allow":
		return true
	}
	return false
}

// shown is a header's value as an error may show it: all of it or nothing. The
// mask comes after us, and would not know a secret of which a part is missing.
func shown(v string) string {
	if len(v) > 80 {
		return "(left out: it has more than 80 bytes)"
	}
	for i := range len(v) {
		if v[i] < 0x20 || v[i] > 0x7e {
			return "(left out: it is not visible ASCII)"
		}
	}
	return v
}

func (u *httpUpstream) end(cause error, which func(*exchange) bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, e := range u.running {
		if which(e) {
			e.cancel(cause)
		}
	}
}

// EndSession ends the streams of a session. Telling the server (DELETE) is an
// exchange like any other, and the caller's to make.
func (u *httpUpstream) EndSession(session string) {
	u.end(ErrSessionEnd, func(e *exchange) bool { return session != "" && e.session == session })
}

func (u *httpUpstream) EndKey(key string) {
	if key == "" {
		return
	}
	u.end(errKeyEnded, func(e *exchange) bool { return e.key == key })
	if u.conns != nil {
		u.conns.endKey(key)
	}
}

// Retire waits for the replies to be closed, and cancels what is left.
func (u *httpUpstream) Retire(ctx context.Context) error {
	u.traffic.settle(ctx, &u.mu, func() bool { return false })
	return u.Close()
}

// Close cancels every exchange and waits until their replies are closed.
func (u *httpUpstream) Close() error {
	u.mu.Lock()
	u.traffic.closed = true
	for _, e := range u.running {
		e.cancel(errShutDown)
	}
	u.mu.Unlock()
	u.wait.Wait()
	if u.fixed != nil {
		u.cfg.Client.CloseIdleConnections()
	} else {
		u.conns.close()
	}
	return nil
}
