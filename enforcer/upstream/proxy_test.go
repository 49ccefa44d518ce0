package upstream

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// proxy is a forward proxy: CONNECT, and plain requests with a whole URL.
type proxy struct {
	*httptest.Server
	t       *testing.T
	connect atomic.Int64
	plain   atomic.Int64
	status  int    // refuses everything with it, if not 0
	to      string // where every CONNECT leads, if not ""
}

func newProxy(t *testing.T) *proxy {
	t.Helper()
	p := &proxy{t: t}
	p.Server = httptest.NewServer(p)
	t.Cleanup(p.Close)
	return p
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case p.status != 0:
		http.Error(w, "hunter2", p.status)
	case r.Method == http.MethodConnect:
		p.connect.Add(1)
		p.tunnel(w, r)
	default:
		p.plain.Add(1)
		r.RequestURI = ""
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			http.Error(w, "hunter2", http.StatusBadGateway)
			return
		}
		w.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
		if _, err := io.Copy(w, resp.Body); err != nil {
			p.t.Error(err)
		}
		if err := resp.Body.Close(); err != nil {
			p.t.Error(err)
		}
	}
}

func (p *proxy) tunnel(w http.ResponseWriter, r *http.Request) {
	host := r.Host
	if p.to != "" {
		host = p.to
	}
	far, err := net.Dial("tcp", host)
	if err != nil {
		http.Error(w, "hunter2", http.StatusBadGateway)
		return
	}
	near, _, err := http.NewResponseController(w).Hijack()
	if err == nil {
		_, err = io.WriteString(near, "HTTP/1.1 200 OK\r\n\r\n")
	}
	if err != nil {
		p.t.Error(err)
		return
	}
	var both sync.WaitGroup
	for from, to := range map[net.Conn]net.Conn{near: far, far: near} {
		both.Go(func() {
			// Whoever ends first ends both; then the other copy fails.
			_, _ = io.Copy(to, from)
			_ = errors.Join(near.Close(), far.Close())
		})
	}
	both.Wait()
}

func TestHTTPThroughAProxy(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1") // not the operator's choice of a way
	ca, clients := newAuthority(t), newAuthority(t)
	cert, key := clients.issue("gate", nil)
	dir := folder(t, map[string]string{"cert.pem": cert, "key.pem": key})
	srv := secure(t, ca, "crm.internal", clients, true, nil)
	p := newProxy(t)
	p.to = srv.Listener.Addr().String() // only the proxy knows the name
	u := remote(t, HTTPConfig{
		URL: "https://crm.internal/mcp", Proxy: p.URL, TLS: TLSConfig{Dir: dir, CA: []string{ca.pem}, Cert: "cert.pem", Key: "key.pem"},
	})
	for range 3 {
		if _, err := answer(t, u, request(ping)); err != nil {
			t.Fatal(err)
		}
	}
	if r := srv.last.Load(); r.ProtoMajor != 2 || r.Host != "crm.internal" || p.connect.Load() != 1 || srv.conns.Load() != 1 {
		t.Errorf("%s to %s, %d CONNECTs, %d connections", r.Proto, r.Host, p.connect.Load(), srv.conns.Load())
	}

	plain := against(t, HTTPConfig{Proxy: p.URL}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if _, err := io.WriteString(w, "{}"); err != nil {
			t.Error(err)
		}
	})
	if _, err := answer(t, plain, request(ping)); err != nil || p.plain.Load() != 1 {
		t.Errorf("plain: %v, %d through the proxy", err, p.plain.Load())
	}
}

// What a proxy refuses is told apart from what the server does, without its
// words.
func TestHTTPProxyFails(t *testing.T) {
	const down = "http://127.0.0.1:1" // a port that is closed for good: one that was let go is soon another's
	nowhere := newProxy(t)
	nowhere.to = "127.0.0.1:1"
	refusing := func(status int) string { p := newProxy(t); p.status = status; return p.URL }
	for name, tt := range map[string]struct {
		proxy string
		says  string
	}{
		"down":         {down, "the proxy cannot be reached: connect: connection refused"},
		"no way":       {nowhere.URL, "the proxy did not connect us to it (HTTP status 502)"},
		"forbidden":    {refusing(http.StatusForbidden), "the proxy does not let us through"},
		"wants a name": {refusing(http.StatusProxyAuthRequired), "log in (HTTP status 407)"},
		"odd":          {refusing(http.StatusNoContent), "(HTTP status 204)"},
	} {
		u := remote(t, HTTPConfig{URL: "https://crm.internal/?key=hunter2", Proxy: tt.proxy})
		_, err := answer(t, u, request(ping))
		if !errors.Is(err, ErrDead) || !errors.Is(err, ErrNotSent) || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
