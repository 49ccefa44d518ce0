package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"time"
)

// TLSConfig says whom a server must prove to be, and who we are to it. Files
// are paths below Dir, the operator's folder, and cannot lead out of it.
type TLSConfig struct {
	Dir     string   // "" if the operator names none: then no file can be had
	CA      []string // PEM texts of the CAs trusted for this server
	CAFiles []string // files of them; with neither, the system's are
	Cert    string   // file of our certificate chain, PEM; "" if we show none
	Key     string   // file of its private key, PEM
	Name    string   // that the server's certificate must bear; "": the URL's host
}

// files are the paths that c reads.
func (c TLSConfig) files() []string {
	files := append([]string{}, c.CAFiles...)
	if c.Cert != "" {
		files = append(files, c.Cert, c.Key)
	}
	return files
}

// look is how often files are looked at for a change, at most.
const look = time.Second

// connections are those to one server. When the files change that they rest
// on, others take their place: what runs goes on over the old ones. Files that
// have become bad change nothing: the last good ones stay, with a warning.
type connections struct {
	cfg HTTPConfig

	mu      sync.Mutex
	good    *http.Transport
	expires time.Time // of our certificate
	seen    []fs.FileInfo
	looked  time.Time
	problem string             // as warned of
	minted  map[string]*minted // by lease
}

// transport gives what to send with. An error means that nothing can be sent.
func (c *connections) transport(inject Injection) (*http.Transport, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.cfg.Now()
	var err error
	if c.good == nil || len(c.cfg.TLS.files()) > 0 && (now.Sub(c.looked) >= look || now.Before(c.looked)) {
		c.looked = now
		err = c.read()
	}
	switch {
	case c.good == nil:
		return nil, err
	case err != nil && err.Error() != c.problem:
		c.problem = err.Error()
		c.cfg.Warn(c.problem + "; the files as they were last stay in use")
	case err == nil && !c.looked.Before(now):
		c.problem = ""
	}
	if inject.Cert != "" {
		return c.mintedTransport(inject)
	}
	if !c.expires.IsZero() && now.After(c.expires) {
		return nil, fmt.Errorf("our client certificate %s expired at %s: replace the file, it is read again by itself",
			c.cfg.TLS.Cert, c.expires.UTC().Format(time.RFC3339))
	}
	return c.good, nil
}

// read makes connections of the files as they are now, unless they are as they
// were.
func (c *connections) read() error {
	seen, changed, err := c.stat()
	if err != nil {
		return err
	}
	if c.good != nil && !changed {
		return nil
	}
	conf, expires, err := c.cfg.TLS.load()
	if err != nil {
		return err
	}
	old := c.good
	c.good, c.expires, c.seen = c.cfg.transport(conf), expires, seen
	if old != nil {
		old.CloseIdleConnections()
	}
	return nil
}

// stat looks at the files, before they are read: a change in between is seen
// the next time.
func (c *connections) stat() (seen []fs.FileInfo, changed bool, err error) {
	err = c.cfg.TLS.within(func(root *os.Root) error {
		for i, name := range c.cfg.TLS.files() {
			info, err := root.Stat(name)
			if err != nil {
				return unreadable(name, err)
			}
			seen = append(seen, info)
			changed = changed || i >= len(c.seen) || !os.SameFile(info, c.seen[i]) ||
				info.Size() != c.seen[i].Size() || !info.ModTime().Equal(c.seen[i].ModTime())
		}
		return nil
	})
	return seen, changed, err
}

func (c *connections) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.good != nil {
		c.good.CloseIdleConnections()
	}
	for _, m := range c.minted {
		m.end()
	}
	c.minted = nil
}

// within opens the folder anew: the operator may have put another in its place.
func (c TLSConfig) within(f func(*os.Root) error) error {
	if len(c.files()) == 0 {
		return nil
	}
	if c.Dir == "" {
		return errors.New("the policy names files under tls, and the operator no folder for them (COUNTERSIGN_UPSTREAM_CERTS)")
	}
	root, err := os.OpenRoot(c.Dir)
	if err != nil {
		return errors.New("the operator's folder of certificates (COUNTERSIGN_UPSTREAM_CERTS) cannot be opened")
	}
	return errors.Join(f(root), root.Close())
}

// unreadable leaves out where the folder is.
func unreadable(name string, err error) error {
	var at *fs.PathError
	if errors.As(err, &at) {
		err = at.Err
	}
	return fmt.Errorf("the file %s, named under tls in the policy, cannot be read: %w", name, err)
}

// maxPEM bounds a file of certificates.
const maxPEM = 1 << 20

// readPEM reads a file of the folder. What is not a regular file is refused
// before it is opened, which might wait for ever.
func readPEM(root *os.Root, name string) ([]byte, error) {
	info, err := root.Stat(name)
	if err != nil {
		return nil, unreadable(name, err)
	}
	if !info.Mode().IsRegular() {
		return nil, unreadable(name, errors.New("not a regular file"))
	}
	f, err := root.Open(name)
	if err != nil {
		return nil, unreadable(name, err)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxPEM+1))
	if err = errors.Join(err, f.Close()); err == nil && len(b) > maxPEM {
		err = errors.New("it has more than 1 MB")
	}
	if err != nil {
		return nil, unreadable(name, err)
	}
	return b, nil
}

// load reads the files. expires is the end of our own certificate, zero if we
// have none.
func (c TLSConfig) load() (conf *tls.Config, expires time.Time, err error) {
	conf = &tls.Config{ServerName: c.Name, MinVersion: tls.VersionTLS12}
	if len(c.CA)+len(c.CAFiles) > 0 {
		conf.RootCAs = x509.NewCertPool()
	}
	for _, text := range c.CA {
		if !conf.RootCAs.AppendCertsFromPEM([]byte(text)) {
			return nil, expires, errors.New("tls.ca in the policy holds no certificate that can be read")
		}
	}
	err = c.within(func(root *os.Root) error {
		for _, name := range c.CAFiles {
			b, err := readPEM(root, name)
			if err != nil {
				return err
			}
			if !conf.RootCAs.AppendCertsFromPEM(b) {
				return fmt.Errorf("the file %s, named under tls.ca in the policy, holds no certificate in PEM form", name)
			}
		}
		if c.Cert == "" {
			return nil
		}
		cert, err := readPEM(root, c.Cert)
		if err != nil {
			return err
		}
		key, err := readPEM(root, c.Key)
		if err != nil {
			return err
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil { // its text quotes nothing of the files
			return fmt.Errorf("the files %s and %s, named under tls in the policy, are no certificate and its key: %w", c.Cert, c.Key, err)
		}
		conf.Certificates, expires = []tls.Certificate{pair}, pair.Leaf.NotAfter
		return nil
	})
	return conf, expires, err
}

// transport makes connections, none yet.
func (c HTTPConfig) transport(conf *tls.Config) *http.Transport {
	t := &http.Transport{
		DialContext:     (&net.Dialer{Timeout: c.Timeouts.Connect, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig: conf,
		// The exchange that waits for a handshake bounds it, and says so. This
		// is for one that nobody waits for any more.
		TLSHandshakeTimeout:    2 * c.Timeouts.TLS,
		MaxIdleConns:           256,
		MaxIdleConnsPerHost:    256,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		// Without this the transport asks for gzip and unpacks it behind
		// our back.
		DisableCompression: true,
		ForceAttemptHTTP2:  true,
		HTTP2: &http.HTTP2Config{
			// All calls share one connection: one that died unnoticed must not
			// hold them up until the kernel gives it up.
			SendPingTimeout: 30 * time.Second, PingTimeout: 10 * time.Second,
			// What a stream that nobody reads may keep in memory. The window of
			// the connection is far larger: it does not hold up the others.
			MaxReceiveBufferPerStream: 1 << 20,
		},
		OnProxyConnectResponse: func(_ context.Context, _ *url.URL, _ *http.Request, r *http.Response) error {
			if r.StatusCode != http.StatusOK {
				return &proxyError{r.StatusCode}
			}
			return nil
		},
	}
	// A proxy named by our environment is not the operator's choice of a way to
	// this server.
	if c.Proxy != "" {
		at, err := url.Parse(c.Proxy)
		t.Proxy = func(*http.Request) (*url.URL, error) {
			if err != nil {
				return nil, errors.New("the URL of the proxy cannot be used: see the server's file in the policy")
			}
			return at, nil
		}
	}
	return t
}

// proxyError is a proxy's refusal to connect.
type proxyError struct{ status int }

func (e *proxyError) Error() string {
	switch e.status {
	case http.StatusProxyAuthRequired:
		return "the proxy wants us to log in (HTTP status 407), which is not supported: let the enforcer's address pass there"
	case http.StatusForbidden:
		return "the proxy does not let us through to it (HTTP status 403)"
	}
	return fmt.Sprintf("the proxy did not connect us to it (HTTP status %d)", e.status)
}
