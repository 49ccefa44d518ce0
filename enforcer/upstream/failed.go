package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"

	"countersign/enforcer/budget"
	"countersign/enforcer/wire"
)

// failed names the cause of a broken exchange without the URL (it may hold a
// user or a key) and without the server's bytes.
func (u *httpUpstream) failed(ctx context.Context, w *watcher, err error) error {
	if errors.Is(err, wire.ErrEventTooLarge) {
		return fmt.Errorf("%w: one event has more bytes than the policy's limit", ErrTooLarge)
	}
	if errors.Is(err, budget.ErrFull) {
		return err
	}
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errTimeout):
		return fmt.Errorf("%w: %w", ErrDead, cause)
	case errors.Is(cause, ErrSessionEnd):
		return fmt.Errorf("%w: %w", ErrSessionGone, cause)
	case errors.Is(cause, errKeyEnded):
		return fmt.Errorf("%w: %w", ErrDead, cause)
	case errors.Is(cause, errShutDown):
		return ErrClosed
	case ctx.Err() != nil:
		return ctx.Err()
	}
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	if why := untrusted(err); why != "" {
		return fmt.Errorf("%w: %s", ErrDead, why)
	}
	var proxy *proxyError
	if errors.As(err, &proxy) {
		return fmt.Errorf("%w: %w", ErrDead, proxy)
	}
	at := w.late(0).phase
	var op *net.OpError
	var name *net.DNSError
	switch {
	case errors.As(err, &name):
		return fmt.Errorf("%w: its name cannot be looked up (%s)", ErrDead, name.Err)
	case errors.As(err, &op) && op.Op == "remote error":
		return fmt.Errorf("%w: it broke the TLS connection off (%w)%s", ErrDead, op.Err, u.shows(w))
	case (at == connecting || at == handshaking) && isTimeout(err):
		late := w.late(u.cfg.Timeouts.Connect)
		if at == handshaking {
			late.bound = u.cfg.Timeouts.TLS
		}
		return fmt.Errorf("%w: %w", ErrDead, late)
	case w.rebuffed() && strings.HasPrefix(strings.ToLower(u.url), "https:"):
		// With TLS 1.3 a server refuses our certificate after the handshake, and
		// its word for that may be lost behind the end of the connection.
		return fmt.Errorf("%w: it ended the connection right after the TLS handshake%s", ErrDead, u.shows(w))
	case op != nil:
		place := op.Op
		for inner := op; inner != nil; { // a proxy's address is in the outer one
			op, inner = inner, nil
			errors.As(op.Err, &inner)
		}
		if place == "proxyconnect" {
			return fmt.Errorf("%w: the proxy cannot be reached: %w", ErrDead, op.Err)
		}
		return fmt.Errorf("%w: %s failed: %w", ErrDead, op.Op, op.Err)
	case at == handshaking:
		return fmt.Errorf("%w: the TLS handshake failed", ErrDead)
	case errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF):
		return fmt.Errorf("%w: the connection ended in the middle of an answer", ErrDead)
	}
	return fmt.Errorf("%w: the exchange over HTTP broke", ErrDead)
}

// untrusted says what is wrong with a server's certificate and what mends it,
// "" if that is not what failed. Of the certificate nothing is quoted.
func untrusted(err error) string {
	var authority x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var plain tls.RecordHeaderError
	var roots x509.SystemRootsError
	switch {
	case errors.As(err, &authority):
		return "its certificate was not issued by a CA that is trusted for it: name its CA under tls.ca in the server's file of the policy"
	case errors.As(err, &name):
		return "its certificate is for another name: mend the url in the server's file of the policy, or give the name that the certificate bears as tls.name there"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "its certificate has expired, or is not valid yet: the server needs a new one (or one of the two clocks is wrong)"
	case errors.As(err, &invalid) && invalid.Reason == x509.IncompatibleUsage:
		return "its certificate is not one for servers: the server needs another"
	case errors.As(err, &invalid):
		return fmt.Sprintf("its certificate is not valid (reason %d of crypto/x509): the server needs another", invalid.Reason)
	case errors.As(err, &roots):
		return "the system's list of CAs cannot be read, and the server's file in the policy names none under tls.ca"
	case errors.As(err, &plain), err.Error() == "http: server gave HTTP response to HTTPS client": // an error without a type
		return "it does not speak TLS there: is it an http url, or another port?"
	}
	return ""
}

// shows is what a person should know who looks for why a server refused us.
func (u *httpUpstream) shows(w *watcher) string {
	if w.minted {
		return ": the client certificate that was minted for it was offered to it; is it issued by the CA that the server trusts?"
	}
	if u.cfg.TLS.Cert == "" {
		return ": no client certificate was shown to it; where it wants one, give it under tls.cert and tls.key in the server's file of the policy"
	}
	return ": the client certificate " + u.cfg.TLS.Cert + " was offered to it; is it issued by the CA that the server trusts?"
}
