package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http/httptrace"
	"sync"
	"time"
)

// phase is how far an exchange over HTTP has come.
type phase int

const (
	begun phase = iota // a transport that tells nothing stays here
	connecting
	handshaking
	sending
	waiting
	answering
	silent // within a stream
)

// lateError is an errTimeout that names the phase which took too long.
type lateError struct {
	phase phase
	bound time.Duration
	proxy bool
}

func (e *lateError) Error() string {
	what := "it did not begin to answer"
	switch e.phase {
	case connecting:
		what = "no connection to it stood"
		if e.proxy {
			what = "no connection to it stood through the proxy"
		}
	case handshaking:
		what = "it accepted the connection, and the TLS handshake was not done"
	case sending:
		what = "it did not take the whole request"
	case waiting:
		what = "it took the request, and did not begin to answer"
	case answering:
		what = "it began to answer, and did not come to the end"
	case silent:
		return fmt.Sprintf("the stream of its answer was silent for %s", e.bound)
	}
	return fmt.Sprintf("%s: %s within %s", errTimeout, what, e.bound)
}

func (e *lateError) Is(target error) bool { return target == errTimeout }

// watcher follows one exchange through its phases, and cancels it when one of
// them, or all together, take too long.
type watcher struct {
	cfg    HTTPConfig
	cancel context.CancelCauseFunc
	total  *time.Timer
	minted bool // a certificate of the call's own is shown

	mu    sync.Mutex
	at    phase
	conn  bool        // it had a connection at some time: something may have been sent
	fresh bool        // nothing was ever answered on that connection
	timer *time.Timer // of the phase
	over  bool
}

func watch(cfg HTTPConfig, cancel context.CancelCauseFunc) *watcher {
	w := &watcher{cfg: cfg, cancel: cancel}
	w.total = time.AfterFunc(cfg.Timeout, func() { cancel(w.late(cfg.Timeout)) })
	return w
}

// trace hooks into the transport. It dials in goroutines of its own, which may
// outlive the exchange.
func (w *watcher) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		GetConn:           func(string) { w.enter(connecting, w.cfg.Timeouts.Connect) },
		TLSHandshakeStart: func() { w.enter(handshaking, w.cfg.Timeouts.TLS) },
		TLSHandshakeDone:  func(tls.ConnectionState, error) { w.leave(handshaking) },
		GotConn: func(c httptrace.GotConnInfo) {
			w.mu.Lock()
			w.conn, w.fresh = true, !c.Reused
			w.mu.Unlock()
			w.enter(sending, 0)
		},
		WroteRequest:         func(httptrace.WroteRequestInfo) { w.enter(waiting, w.cfg.Timeouts.Answer) },
		GotFirstResponseByte: func() { w.enter(answering, 0) },
	}
}

// enter begins a phase; no bound if zero. A dial that lost against another's
// connection does not take the exchange back.
func (w *watcher) enter(at phase, bound time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over || at == handshaking && w.at != connecting || at == waiting && w.at != sending {
		return
	}
	w.at = at
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
	if bound > 0 {
		late := &lateError{at, bound, w.cfg.Proxy != ""}
		w.timer = time.AfterFunc(bound, func() { w.cancel(late) })
	}
}

// leave lifts the bound of a phase, if that is where the exchange is.
func (w *watcher) leave(at phase) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.at == at && w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
}

// stop lifts all bounds: the answer has begun, or there is none.
func (w *watcher) stop() {
	w.total.Stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
}

func (w *watcher) connected() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.conn
}

// rebuffed tells whether a new connection ended before a byte of an answer.
func (w *watcher) rebuffed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fresh && (w.at == sending || w.at == waiting)
}

func (w *watcher) late(bound time.Duration) *lateError {
	w.mu.Lock()
	defer w.mu.Unlock()
	return &lateError{w.at, bound, w.cfg.Proxy != ""}
}

// audible bounds the silence of a stream. Only while somebody waits for it: a
// client that does not read is not the server's fault.
func (w *watcher) audible(body io.Reader) io.Reader {
	late := &lateError{phase: silent, bound: w.cfg.Timeouts.Idle}
	return readFunc(func(b []byte) (int, error) {
		timer := time.AfterFunc(late.bound, func() { w.cancel(late) })
		defer timer.Stop()
		return body.Read(b)
	})
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(b []byte) (int, error) { return f(b) }

func isTimeout(err error) bool {
	var late interface{ Timeout() bool }
	return errors.As(err, &late) && late.Timeout()
}
