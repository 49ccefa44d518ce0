package enforcer

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"countersign/enforcer/credential"
	"countersign/enforcer/upstream"
	"countersign/fixtures/mishap"
)

// between does something when a call has passed all checks and is on its way to
// its server.
type between struct {
	upstream.Upstream
	do func()
}

func (b between) Send(ctx context.Context, r *upstream.Request) (*upstream.Reply, error) {
	b.do()
	return b.Upstream.Send(ctx, r)
}

// A lease that is revoked after the last look at it, and before its call is known
// to the server's side, is used by nothing: the call is not sent, and says why.
func TestRevokedRightBeforeItIsSent(t *testing.T) {
	var seen atomic.Int64
	server := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen.Add(1)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"jsonrpc":"2.0","id":1,"result":{}}`))
	})
	for name, scope := range map[string]string{"for one call": "call", "a holder's": "holder"} {
		t.Run(name, func(t *testing.T) {
			seen.Store(0)
			g := newGate(t, server, map[string]string{
				"servers/echo.yaml": "server: echo\nurl: ${URL}\ncredential: app\ncredentials:\n  app: { vault: database/creds/app, scope: " + scope + ", ttl: 5m, inject: { headers: { Authorization: \"{{basic username password}}\" } } }\n",
				"rules/echo.yaml":   "- { id: a, server: echo, tool: x, effect: allow }\n",
			}, withVault(t))
			body := []byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":{}}}`)
			if _, answer, err := g.post(t.Context(), body, nil); err != nil || seen.Load() != 1 {
				t.Fatalf("%s %v", answer, err)
			}
			f := g.force.Load()
			f.upstreams["echo"] = between{f.upstreams["echo"], func() {
				if got := g.revoke(t.Context(), "revoked by dana: leaked", func(l credential.LeaseInfo) bool { return l.Uses > 0 }); len(got) != 1 {
					t.Errorf("revoked %+v", got)
				}
			}}
			_, answer, err := g.post(t.Context(), body, nil)
			if err != nil || !strings.Contains(string(answer), `credential \"app\" was revoked by dana: leaked; nothing ran`) {
				t.Errorf("%s %v", answer, err)
			}
			if n := seen.Load(); n != 1 {
				t.Errorf("%d calls came with a lease that had ended", n-1)
			}
		})
	}
}

// A Vault that does not answer holds up the ends of leases, and nothing else of
// the housekeeping, however often it comes by.
func TestHousekeepingDoesNotWaitForVault(t *testing.T) {
	server := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"jsonrpc":"2.0","id":1,"result":{}}`))
	})
	var net *mishap.Proxy
	through := func(url string) string {
		var err error
		if net, err = mishap.Start(url); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { fail(t, net.Close()) })
		return net.URL
	}
	var ahead atomic.Int64
	g := newGate(t, server, map[string]string{
		"servers/echo.yaml": "server: echo\nurl: ${URL}\ncredential: app\ncredentials:\n  app: { vault: database/creds/app, scope: holder, ttl: 1h, inject: { headers: { Authorization: \"{{basic username password}}\" } } }\n",
		"rules/echo.yaml":   "- { id: a, server: echo, tool: x, effect: allow }\n",
	}, withVault(t, through), func(c *Config) {
		c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	if _, answer, err := g.post(t.Context(), []byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":{}}}`), nil); err != nil || len(g.Credentials.Leases()) != 1 {
		t.Fatalf("%s %v", answer, err)
	}
	answered := make(chan struct{})
	net.Set(mishap.Fault{Path: "/sys/leases/revoke", Held: answered})
	ahead.Store(int64(holderIdle + time.Second))
	g.tidy(t.Context())
	if l := g.Credentials.Leases(); len(l) != 1 || l[0].Failed {
		t.Errorf("it returned when it had given up on Vault: %+v", l)
	}
	hang, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	fail(t, net.Met(hang.Done(), "/sys/leases/revoke", 1))
	g.tidy(t.Context()) // returns, while Vault still says nothing
	g.tidy(t.Context())
	if l := g.Credentials.Leases(); len(l) != 1 || !l[0].Ending {
		t.Errorf("%+v", l)
	}
	net.Clear()
	close(answered)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for len(g.Credentials.Leases()) > 0 {
		select {
		case <-tick.C:
		case <-hang.Done():
			t.Fatalf("they do not end: %+v", g.Credentials.Leases())
		}
	}
}
