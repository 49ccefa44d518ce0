package upstream

import (
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// A certificate minted for a lease is shown on connections that nobody shares,
// and that end with the lease, calls in flight or not.
func TestHTTPMintedCertificates(t *testing.T) {
	ca, clients := newAuthority(t), newAuthority(t)
	for name, http2 := range map[string]bool{"HTTP/2": true, "HTTP/1.1": false} {
		t.Run(name, func(t *testing.T) {
			srv := secure(t, ca, "crm.internal", clients, http2, nil)
			u := remote(t, HTTPConfig{URL: srv.URL, TLS: TLSConfig{CA: []string{ca.pem}, Name: "crm.internal"}})
			lease := func(key string) Injection {
				cert, private := clients.issue(key, nil)
				return Injection{Key: key, Cert: cert, PrivateKey: private}
			}
			ask := func(inject Injection) string {
				t.Helper()
				r := request(ping)
				r.Inject = inject
				if _, err := answer(t, u, r); err != nil {
					t.Fatal(err)
				}
				return srv.last.Load().TLS.PeerCertificates[0].Subject.CommonName
			}
			one, two := lease("one"), lease("two")
			for range 2 {
				for _, inject := range []Injection{one, two} {
					if who := ask(inject); who != inject.Key {
						t.Errorf("the server saw %q in the place of %q", who, inject.Key)
					}
				}
			}
			if n := srv.conns.Load(); n != 2 {
				t.Errorf("%d connections for two leases", n)
			}
			if _, err := answer(t, u, request(ping)); err == nil {
				t.Error("a call without a certificate came through on somebody's connection")
			}
			n := srv.conns.Load()
			if who := ask(one); who != "one" || srv.conns.Load() != n {
				t.Errorf("%q, %d more connections", who, srv.conns.Load()-n)
			}

			// The end of the lease ends its stream and its connections.
			gone := make(chan struct{})
			get := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				w.WriteHeader(http.StatusOK)
				_ = http.NewResponseController(w).Flush()
				<-r.Context().Done()
				close(gone)
			})
			srv.get.Store(&get)
			reply, err := u.Send(t.Context(), &Request{Verb: http.MethodGet, Inject: one})
			if err != nil {
				t.Fatal(err)
			}
			conns := u.(*httpUpstream).conns
			conns.mu.Lock()
			ended := conns.minted["one"]
			conns.mu.Unlock()
			u.EndKey("one")
			<-gone
			ended.mu.Lock()
			if len(ended.open) != 0 || !ended.ended {
				t.Errorf("%d connections of an ended lease", len(ended.open))
			}
			ended.mu.Unlock()
			if _, err := reply.Next(); !errors.Is(err, errKeyEnded) {
				t.Errorf("the stream ended with %v", err)
			}
			if err := reply.Close(); err != nil {
				t.Error(err)
			}
			if m := conns.minted; len(m) != 1 || m["two"] == nil {
				t.Errorf("connections are kept for %v", m)
			}
			n = srv.conns.Load()
			if who := ask(two); who != "two" || srv.conns.Load() != n {
				t.Errorf("another's connections: %q, %d more", who, srv.conns.Load()-n)
			}
		})
	}
}

// A stream that lasts is found when its lease ends, however long ago it began,
// and though its files have changed meanwhile.
func TestHTTPMintedConnectionsThatLast(t *testing.T) {
	ca, clients := newAuthority(t), newAuthority(t)
	srv := secure(t, ca, "crm.internal", clients, true, nil)
	now := time.Now()
	u := remote(t, HTTPConfig{URL: srv.URL, TLS: TLSConfig{CA: []string{ca.pem}, Name: "crm.internal"}, Now: func() time.Time { return now }})
	get := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	srv.get.Store(&get)
	lease := func(key string) Injection {
		cert, private := clients.issue(key, nil)
		return Injection{Key: key, Cert: cert, PrivateKey: private}
	}
	one := lease("one")
	listen := func() *Reply {
		t.Helper()
		reply, err := u.Send(t.Context(), &Request{Verb: http.MethodGet, Inject: one})
		if err != nil {
			t.Fatal(err)
		}
		return reply
	}
	first := listen()
	now = now.Add(2 * mintedIdle)
	r := request(ping)
	r.Inject = lease("two")
	if _, err := answer(t, u, r); err != nil {
		t.Fatal(err)
	}
	conns := u.(*httpUpstream).conns
	conns.mu.Lock()
	old := conns.minted["one"]
	conns.good = conns.cfg.transport(conns.good.TLSClientConfig.Clone()) // as if a file had changed
	conns.mu.Unlock()
	if old == nil {
		t.Fatal("the connection of a stream that lasts is forgotten")
	}
	second := listen()
	u.EndKey("one")
	for _, reply := range []*Reply{first, second} {
		if _, err := reply.Next(); !errors.Is(err, errKeyEnded) {
			t.Errorf("the stream ended with %v", err)
		}
		if err := reply.Close(); err != nil {
			t.Error(err)
		}
	}
	old.mu.Lock()
	defer old.mu.Unlock()
	if !old.ended || len(old.open) != 0 {
		t.Errorf("%d connections of an ended lease", len(old.open))
	}
}

// A secret of several lines is no header's, and nothing of it is said.
func TestHTTPInjectsNoHeaderOfTwoLines(t *testing.T) {
	u := against(t, HTTPConfig{}, func(http.ResponseWriter, *http.Request) { t.Error("it was sent") })
	for _, secret := range []string{"hunter2\r\nX-Admin: yes", "hunter2\n", "hunter2\x00"} {
		r := request(ping)
		r.Inject.Header = http.Header{"X-Key": {secret}}
		if _, err := answer(t, u, r); !errors.Is(err, ErrNotSent) || !strings.Contains(err.Error(), "header X-Key is not one line") || strings.Contains(err.Error(), "hunter") {
			t.Errorf("got %v", err)
		}
	}
}

// What is wrong with what was minted is said without it, and nothing was sent.
func TestHTTPMintedCertificatesAreWrong(t *testing.T) {
	ca, clients := newAuthority(t), newAuthority(t)
	srv := secure(t, ca, "127.0.0.1", clients, false, nil)
	cert, key := clients.issue("gate", nil)
	_, other := clients.issue("gate", nil)
	past, pastKey := clients.issue("gate", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	strange, strangeKey := newAuthority(t).issue("gate", nil)
	u := remote(t, HTTPConfig{URL: srv.URL, TLS: TLSConfig{CA: []string{ca.pem}}})
	for name, tt := range map[string]struct {
		inject Injection
		want   string
		sent   bool
	}{
		"no PEM":         {Injection{Key: "a", Cert: "hunter2", PrivateKey: "hunter2"}, "no client certificate and its key", false},
		"another's key":  {Injection{Key: "b", Cert: cert, PrivateKey: other}, "no client certificate and its key", false},
		"expired":        {Injection{Key: "c", Cert: past, PrivateKey: pastKey}, "minted for this call expired", false},
		"of no lease":    {Injection{Cert: cert, PrivateKey: key}, "belongs to no lease", false},
		"of a stranger":  {Injection{Key: "d", Cert: strange, PrivateKey: strangeKey}, "that was minted for it was offered", true},
		"in good health": {Injection{Key: "e", Cert: cert, PrivateKey: key}, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			r := request(ping)
			r.Inject = tt.inject
			_, err := answer(t, u, r)
			if tt.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "-----") {
				t.Errorf("got %v", err)
			}
			if !tt.sent && !errors.Is(err, ErrNotSent) {
				t.Errorf("it says not that nothing was sent: %v", err)
			}
		})
	}
}

// A parameter is added to those of the URL, encoded, to requests of every kind,
// and is in no error.
func TestHTTPInjectsParameters(t *testing.T) {
	got := make(chan string, 8)
	u := against(t, HTTPConfig{}, func(w http.ResponseWriter, r *http.Request) {
		got <- r.Method + " " + r.URL.RawQuery
		if r.URL.Query().Get("secret") == "hunter3" {
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(http.StatusMethodNotAllowed)
	})
	u.(*httpUpstream).url += "%2B"
	for _, verb := range []string{http.MethodPost, http.MethodGet, http.MethodDelete} {
		r := request(ping)
		r.Verb, r.Session, r.Inject.Query = verb, "s", url.Values{"secret": {"a b&c=d/é"}, "user": {"u"}}
		reply, err := u.Send(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if err := reply.Close(); err != nil {
			t.Error(err)
		}
		if had, want := <-got, verb+" key=hunter2%2B&secret=a+b%26c%3Dd%2F%C3%A9&user=u"; had != want {
			t.Errorf("the server got %s, want %s", had, want)
		}
	}
	r := request(ping)
	r.Inject.Query = url.Values{"secret": {"hunter3"}}
	if _, err := answer(t, u, r); err == nil || strings.Contains(err.Error(), "hunter") {
		t.Errorf("got %v", err)
	}
}

// A lease that has ended is used by no exchange that EndKey did not find, and one
// that ends right after an exchange was entered is found by it.
func TestLeasesThatEndRightBeforeTheSending(t *testing.T) {
	sent := make(chan struct{}, 4)
	u := against(t, HTTPConfig{}, func(_ http.ResponseWriter, r *http.Request) {
		sent <- struct{}{}
		_, _ = io.Copy(io.Discard, r.Body) // whoever sent it may be gone
		<-r.Context().Done()
	})
	for name, u := range map[string]Upstream{"http": u, "stdio": spawns(t, "raw")} {
		r := modern(1, "ping")
		r.Inject.Key, r.Live = "ended", func() bool { return false }
		if _, err := u.Send(t.Context(), r); !errors.Is(err, ErrNotSent) || !errors.Is(err, errKeyEnded) {
			t.Errorf("%s: %v", name, err)
		}
	}
	select {
	case <-sent:
		t.Error("it was sent")
	default:
	}
	r := request(ping)
	var ending sync.WaitGroup
	r.Inject.Key, r.Live = "ending", func() bool {
		ending.Go(func() { u.EndKey("ending") })
		return true
	}
	if _, err := u.Send(t.Context(), r); !errors.Is(err, errKeyEnded) {
		t.Errorf("got %v", err)
	}
	ending.Wait()
}
