package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// minted are the connections that show one lease's certificate. Nobody else's
// calls go over them, and they end with the lease.
type minted struct {
	*http.Transport
	base    *http.Transport // that it was made after
	former  *minted         // of the same lease, after another base; nil once it is quiet
	expires time.Time
	used    time.Time

	mu    sync.Mutex
	open  map[net.Conn]struct{}
	ended bool
}

// mintedIdle is how long connections of a lease are kept that nobody uses. They
// end with the lease anyway; this is for a call that came after that.
const mintedIdle = 5 * time.Minute

// mintedTransport gives what to send with on behalf of a lease. Called with mu
// held and good set.
func (c *connections) mintedTransport(inject Injection) (*http.Transport, error) {
	now := c.cfg.Now()
	if inject.Key == "" {
		return nil, errors.New("a client certificate belongs to no lease") // it could not be ended
	}
	m := c.minted[inject.Key]
	if m == nil || m.base != c.good {
		made, err := c.show(inject)
		if err != nil {
			return nil, err
		}
		for key, old := range c.minted {
			if key != inject.Key && now.Sub(old.used) <= mintedIdle {
				continue
			}
			// Calls in flight finish, and must be found if the lease ends first.
			switch busy := old.busy(); {
			case busy && key == inject.Key:
				made.former = old
			case !busy:
				delete(c.minted, key)
			}
		}
		m = made
		if c.minted == nil {
			c.minted = map[string]*minted{}
		}
		c.minted[inject.Key] = m
	}
	if now.After(m.expires) {
		return nil, fmt.Errorf("the client certificate that was minted for this call expired at %s", m.expires.UTC().Format(time.RFC3339))
	}
	m.used = now
	return m.Transport, nil
}

// show makes connections that show the lease's certificate, none yet.
func (c *connections) show(inject Injection) (*minted, error) {
	pair, err := tls.X509KeyPair([]byte(inject.Cert), []byte(inject.PrivateKey))
	if err != nil { // its text quotes nothing of the two
		return nil, fmt.Errorf("what was minted is no client certificate and its key, see client_cert in the policy: %w", err)
	}
	conf := c.good.TLSClientConfig.Clone()
	conf.Certificates = []tls.Certificate{pair}
	m := &minted{Transport: c.cfg.transport(conf), base: c.good, expires: pair.Leaf.NotAfter, open: map[net.Conn]struct{}{}}
	dial := m.DialContext
	m.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return m.keep(conn)
	}
	return m, nil
}

// keep has the connection end with the lease.
func (m *minted) keep(conn net.Conn) (net.Conn, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended {
		return nil, errors.Join(errKeyEnded, conn.Close())
	}
	m.open[conn] = struct{}{}
	return &mintedConn{conn, m}, nil
}

type mintedConn struct {
	net.Conn
	of *minted
}

func (c *mintedConn) Close() error {
	c.of.mu.Lock()
	delete(c.of.open, c.Conn)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// busy closes the connections that nobody uses, and tells whether any are left.
func (m *minted) busy() bool {
	m.CloseIdleConnections()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.former != nil && !m.former.busy() {
		m.former = nil
	}
	return len(m.open) > 0 || m.former != nil
}

// end closes all connections, busy ones too, and lets no other begin.
func (m *minted) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ended = true
	if m.former != nil {
		m.former.end()
	}
	for conn := range m.open {
		_ = conn.Close() // whoever used it is told by its own exchange
	}
	m.open = map[net.Conn]struct{}{}
}

// endKey ends what shows a lease's certificate.
func (c *connections) endKey(key string) {
	c.mu.Lock()
	m := c.minted[key]
	delete(c.minted, key)
	c.mu.Unlock()
	if m != nil {
		m.end()
	}
}
