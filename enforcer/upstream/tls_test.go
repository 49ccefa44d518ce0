package upstream

import (
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

var quiet = log.New(io.Discard, "", 0)

func remote(t *testing.T, cfg HTTPConfig) Upstream {
	t.Helper()
	u := HTTP(cfg)
	t.Cleanup(func() { closeUpstream(t, u) })
	return u
}

// A private CA, a required client certificate, another name: HTTP/2 where the
// server speaks it, one connection for all calls.
func TestHTTPOverTLS(t *testing.T) {
	ca, clients := newAuthority(t), newAuthority(t)
	cert, key := clients.issue("gate", nil)
	dir := folder(t, map[string]string{"ca.pem": newAuthority(t).pem + ca.pem, "us/cert.pem": cert, "us/key.pem": key})
	for name, tt := range map[string]struct {
		http2 bool
		tls   TLSConfig
	}{
		"HTTP/2, CA from a file":   {true, TLSConfig{Dir: dir, CAFiles: []string{"ca.pem"}, Cert: "us/cert.pem", Key: "us/key.pem", Name: "crm.internal"}},
		"HTTP/2, CA in the policy": {true, TLSConfig{Dir: dir, CA: []string{ca.pem}, Cert: "us/cert.pem", Key: "us/key.pem", Name: "crm.internal"}},
		"HTTP/1.1":                 {false, TLSConfig{Dir: dir, CAFiles: []string{"ca.pem"}, Cert: "us/cert.pem", Key: "us/key.pem", Name: "crm.internal"}},
	} {
		t.Run(name, func(t *testing.T) {
			srv := secure(t, ca, "crm.internal", clients, tt.http2, nil)
			u := remote(t, HTTPConfig{URL: srv.URL, TLS: tt.tls, Warn: func(text string) { t.Error(text) }})
			if n := srv.conns.Load(); n != 0 {
				t.Errorf("%d connections before the first call", n)
			}
			for range 5 {
				if _, err := answer(t, u, request(ping)); err != nil {
					t.Fatal(err)
				}
			}
			if n := srv.conns.Load(); n != 1 {
				t.Errorf("%d connections for five calls", n)
			}
			r := srv.last.Load()
			if (r.ProtoMajor == 2) != tt.http2 {
				t.Errorf("it spoke %s", r.Proto)
			}
			if who := r.TLS.PeerCertificates[0].Subject.CommonName; who != "gate" || r.TLS.ServerName != "crm.internal" {
				t.Errorf("the server saw client %q and name %q", who, r.TLS.ServerName)
			}
			if !tt.http2 {
				return
			}
			var calls sync.WaitGroup
			for range 20 {
				calls.Go(func() {
					if _, err := answer(t, u, request(ping)); err != nil {
						t.Error(err)
					}
				})
			}
			calls.Wait()
			if n := srv.conns.Load(); n != 1 {
				t.Errorf("%d connections for twenty calls at once", n)
			}
		})
	}
}

// What is wrong with a certificate is said in words that name the remedy, and
// nothing was sent.
func TestHTTPCertificatesAreWrong(t *testing.T) {
	ca, clients := newAuthority(t), newAuthority(t)
	cert, key := clients.issue("gate", nil)
	strange, strangeKey := newAuthority(t).issue("gate", nil)
	past, pastKey := clients.issue("gate", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	dir := folder(t, map[string]string{
		"ca.pem": ca.pem, "cert.pem": cert, "key.pem": key, "strange.pem": strange, "strange.key": strangeKey,
		"past.pem": past, "past.key": pastKey, "empty.pem": "", "garbage.pem": "hunter2",
	})
	if err := os.Symlink("/etc/hostname", filepath.Join(dir, "out.pem")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe.pem"), 0o600); err != nil {
		t.Fatal(err)
	}
	put(t, dir, "huge.pem", strings.Repeat("x", maxPEM+1))
	ours := TLSConfig{Dir: dir, CAFiles: []string{"ca.pem"}, Cert: "cert.pem", Key: "key.pem"}
	with := func(f func(*TLSConfig)) TLSConfig { c := ours; f(&c); return c }
	for _, tt := range []struct {
		name, says string
		tls        TLSConfig
		alter      func(*x509.Certificate)
		sent       bool // TLS 1.3 tells only after the request may have gone out
	}{
		{"an unknown CA", "tls.ca", with(func(c *TLSConfig) { c.CAFiles = nil }), nil, false},
		{"another name", "tls.name", with(func(c *TLSConfig) { c.Name = "other.internal" }), nil, false},
		{"expired", "has expired", ours, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, false},
		{"not yet valid", "not valid yet", ours, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }, false},
		{"not for servers", "not one for servers", ours, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, false},
		{"we show none", "no client certificate was shown", with(func(c *TLSConfig) { c.Cert, c.Key = "", "" }), nil, true},
		{"we show a strange one", "client certificate strange.pem was offered", with(func(c *TLSConfig) { c.Cert, c.Key = "strange.pem", "strange.key" }), nil, true},
		{"ours has expired", "past.pem expired at", with(func(c *TLSConfig) { c.Cert, c.Key = "past.pem", "past.key" }), nil, false},
		{"no folder", "COUNTERSIGN_UPSTREAM_CERTS", with(func(c *TLSConfig) { c.Dir = "" }), nil, false},
		{"another folder", "cannot be opened", with(func(c *TLSConfig) { c.Dir = "/no/such/folder" }), nil, false},
		{"no file", "nope.pem, named under tls in the policy, cannot be read: no such file", with(func(c *TLSConfig) { c.CAFiles = []string{"nope.pem"} }), nil, false},
		{"out of the folder", "out.pem, named under tls in the policy, cannot be read", with(func(c *TLSConfig) { c.CAFiles = []string{"out.pem"} }), nil, false},
		{"up from the folder", "cannot be read", with(func(c *TLSConfig) { c.Cert = "../cert.pem" }), nil, false},
		{"a pipe", "not a regular file", with(func(c *TLSConfig) { c.Key = "pipe.pem" }), nil, false},
		{"a huge file", "more than 1 MB", with(func(c *TLSConfig) { c.CAFiles = []string{"huge.pem"} }), nil, false},
		{"no PEM", "garbage.pem, named under tls.ca in the policy, holds no certificate", with(func(c *TLSConfig) { c.CAFiles = []string{"garbage.pem"} }), nil, false},
		{"another key", "no certificate and its key", with(func(c *TLSConfig) { c.Key = "strange.key" }), nil, false},
		{"an empty file", "no certificate and its key", with(func(c *TLSConfig) { c.Cert = "empty.pem" }), nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := secure(t, ca, "127.0.0.1", clients, true, tt.alter)
			u := remote(t, HTTPConfig{URL: srv.URL + "/?key=hunter2", TLS: tt.tls})
			_, err := answer(t, u, request(ping))
			if !errors.Is(err, ErrDead) || errors.Is(err, ErrNotSent) == tt.sent || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("it says: %v", err)
			}
			if err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), dir)) {
				t.Errorf("it shows too much: %v", err)
			}
			if srv.last.Load() != nil {
				t.Error("the server got the request")
			}
		})
	}
	plain := against(t, HTTPConfig{}, nil).(*httpUpstream)
	u := remote(t, HTTPConfig{URL: "https" + strings.TrimPrefix(plain.url, "http")})
	if _, err := answer(t, u, request(ping)); err == nil || !strings.Contains(err.Error(), "does not speak TLS") {
		t.Errorf("a server without TLS: %v", err)
	}
}

// Files that change are read again, without a restart: within a second, and
// what is bad in between changes nothing.
func TestHTTPCertificatesRotate(t *testing.T) {
	ca, clients := newAuthority(t), newAuthority(t)
	srv := secure(t, ca, "127.0.0.1", clients, true, nil)
	dir := t.TempDir()
	clock := newClock()
	var warned []string
	u := remote(t, HTTPConfig{
		URL: srv.URL, Now: clock.now, Warn: func(text string) { warned = append(warned, text) },
		TLS: TLSConfig{Dir: dir, CAFiles: []string{"ca.pem"}, Cert: "cert.pem", Key: "key.pem"},
	})
	if _, err := answer(t, u, request(ping)); !errors.Is(err, ErrNotSent) || len(warned) != 1 {
		t.Errorf("without files: %v; warned %q", err, warned)
	}
	who := func() string {
		t.Helper()
		if _, err := answer(t, u, request(ping)); err != nil {
			t.Fatal(err)
		}
		return srv.last.Load().TLS.PeerCertificates[0].Subject.CommonName
	}
	rotate := func(name string) {
		cert, key := clients.issue(name, nil)
		put(t, dir, "ca.pem", ca.pem)
		put(t, dir, "cert.pem", cert)
		put(t, dir, "key.pem", key)
	}
	rotate("first")
	if got := who(); got != "first" {
		t.Errorf("the server saw %q", got)
	}
	rotate("second")
	if got := who(); got != "first" {
		t.Errorf("within the same second the server saw %q", got)
	}
	clock.advance(look)
	if got := who(); got != "second" {
		t.Errorf("after the change the server saw %q", got)
	}
	conns := srv.conns.Load()
	clock.advance(look)
	if got := who(); got != "second" || srv.conns.Load() != conns {
		t.Errorf("without a change: %q, %d connections", got, srv.conns.Load()-conns)
	}
	warned = nil
	put(t, dir, "cert.pem", "half a certif") // before its key
	for range 3 {
		clock.advance(look)
		if got := who(); got != "second" {
			t.Errorf("with a bad file the server saw %q", got)
		}
	}
	if len(warned) != 1 || !strings.Contains(warned[0], "cert.pem") || !strings.Contains(warned[0], "stay in use") {
		t.Errorf("warned %q", warned)
	}
	if err := os.Remove(filepath.Join(dir, "cert.pem")); err != nil {
		t.Fatal(err)
	}
	clock.advance(look)
	if got := who(); got != "second" || len(warned) != 2 {
		t.Errorf("without the file the server saw %q; warned %q", got, warned)
	}
	rotate("third")
	clock.advance(look)
	if got := who(); got != "third" {
		t.Errorf("after all the server saw %q", got)
	}
	clock.advance(2 * time.Hour)
	if _, err := answer(t, u, request(ping)); !errors.Is(err, ErrNotSent) || !strings.Contains(err.Error(), "expired") {
		t.Errorf("our certificate has expired: %v", err)
	}
}

// All calls share an HTTP/2 connection. One that died unnoticed is found out,
// and the next call has another.
func TestHTTP2DeadConnection(t *testing.T) {
	ca := newAuthority(t)
	srv := secure(t, ca, "127.0.0.1", nil, true, nil)
	var frozen atomic.Bool
	relay := stalled(t, func(near net.Conn) {
		far, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Error(err)
			return
		}
		dead := &frozen
		if frozen.Load() {
			dead = &atomic.Bool{} // a later one lives
		}
		var both sync.WaitGroup
		for from, to := range map[net.Conn]net.Conn{near: far, far: near} {
			both.Go(func() {
				b := make([]byte, 64<<10)
				for n, err := from.Read(b); err == nil; n, err = from.Read(b) {
					if dead.Load() {
						continue // into nothing
					}
					if _, err := to.Write(b[:n]); err != nil {
						break
					}
				}
				// Ends the other direction, too, which may have ended before.
				_ = errors.Join(far.Close(), near.SetReadDeadline(time.Unix(1, 0)))
			})
		}
		both.Wait()
	})
	// On a loaded machine one that lives may take a while, too: then it is probed
	// for longer.
	var err error
	for pause := 50 * time.Millisecond; pause < time.Minute; pause *= 8 {
		frozen.Store(false)
		u := remote(t, HTTPConfig{URL: "https://" + relay, TLS: TLSConfig{CA: []string{ca.pem}}}).(*httpUpstream)
		transport, terr := u.conns.transport(Injection{})
		if terr != nil {
			t.Fatal(terr)
		}
		probe := transport.HTTP2
		if probe.SendPingTimeout != 30*time.Second || probe.PingTimeout != 10*time.Second {
			t.Errorf("it is probed after %s, for %s", probe.SendPingTimeout, probe.PingTimeout)
		}
		probe.SendPingTimeout, probe.PingTimeout = pause, pause
		if _, err = answer(t, u, request(ping)); err != nil {
			continue
		}
		if srv.last.Load().ProtoMajor != 2 {
			t.Fatal("this is no HTTP/2")
		}
		frozen.Store(true)
		if _, err := answer(t, u, request(ping)); err == nil || errors.Is(err, errTimeout) {
			t.Fatalf("over the dead connection: %v", err)
		}
		if _, err = answer(t, u, request(ping)); err == nil {
			return
		}
	}
	t.Errorf("over a connection that lives: %v", err)
}
