package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"countersign/enforcer"
	"countersign/enforcer/approval/page"
	"countersign/enforcer/identity"
	"countersign/enforcer/mask"
)

func serveCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Run the enforcer",
		Long: `Runs the enforcer: MCP clients connect to <public URL>/mcp/<server>, where
<server> is a server of the policy. Everything is configured by the environment;
what is wrong with it is reported all at once. GET /readyz says how each part
stands, GET /metrics is for Prometheus.

SIGTERM stops it in order: new calls are refused, calls under way finish,
credentials are revoked, the record is flushed and pushed.

Environment:
` + configHelp(),
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := loadConfig(os.Environ())
			if err != nil {
				return err
			}
			profiled, err := startProfile()
			if err != nil {
				return err
			}
			return errors.Join(serve(cmd.Context(), c), profiled())
		},
	}
}

// serve puts the parts together in the order in which they depend on each
// other, runs them until ctx ends, and takes them down in the reverse order.
func serve(ctx context.Context, c config) (err error) {
	p := &process{config: c}
	defer func() { err = p.end(ctx, err) }()
	if err := p.prepare(); err != nil {
		return err
	}
	verifier, err := identity.New(identity.Config{
		Issuers: c.OIDCIssuers, Audience: c.OIDCAudience, GroupsClaim: c.OIDCGroupsClaim, Now: time.Now, AllowHTTP: true,
	})
	if err != nil {
		return err
	}
	operators, err := identity.New(identity.Config{
		Issuers: c.OIDCIssuers, Audience: c.operateAudience(), Never: c.forMCP, GroupsClaim: c.OIDCGroupsClaim, Now: time.Now, AllowHTTP: true,
	})
	if err != nil {
		return err
	}
	counts, err := openQuotas(c.StateDir, time.Now(), p.log)
	if err != nil {
		return err
	}
	p.down.add(counts.save)
	if err := p.listen(); err != nil {
		return err
	}
	if err := p.open(ctx); err != nil {
		return err
	}
	freezes, err := openFreezes(ctx, c, p.approvals, p.record, p.names(), p.policy, p.log)
	if err != nil {
		return err
	}
	vault, err := openVault(ctx, c, p.mask, p.record.journal, p.names(), p.policy, p.log)
	if err != nil {
		return err
	}
	if vault != nil {
		p.down.addCtx(vault.Close)
	}
	chat := &chat{config: c}
	if c.Bot == botOff {
		chat.bots, err = p.approvals.bots(ctx, c, p.mask)
	} else {
		chat, err = newChat(c, p.approvals.book, p.policy, p.record.journal, p.mask, p.log)
	}
	if err != nil {
		return err
	}
	ballots, err := newBallots(p)
	if err != nil {
		return err
	}
	gate, err := enforcer.New(enforcer.Config{
		PublicURL: c.PublicURL, Issuers: c.OIDCIssuers, Audience: c.OIDCAudience, TrustedProxies: c.TrustedProxies,
		PolicyMaxAge: c.PolicyMaxAge, Identity: verifier, Operators: operators, Freezes: freezes, Journal: p.record.journal, Eraser: p.record.eraser, Mask: p.mask, Credentials: vault,
		Approvals: p.approvals.book, Ballots: ballots, CardError: chat.cardError, Quotas: counts.table, Certificates: c.UpstreamCerts, Private: filepath.Join(c.StateDir, "private"),
		Ready: map[string]func(context.Context) error{"identity": verifier.Ready, "record": p.record.ready},
		Kept:  p.approvals.kept, Alone: c.NATSURL == "",
		DigestKey: p.key, PseudonymKey: []byte(c.PseudonymKey), Now: time.Now, ID: func() string { return randomID("c_") }, Log: p.log,
	})
	if err != nil {
		return err
	}
	if chat.bot != nil {
		chat.bot.Policy = gate.VotesUnder
		if chat.bot.Desk, err = newDesk(p, gate); err != nil {
			return err
		}
	}
	p.record.metrics(gate.Registry())
	checks, err := newChecks(c, c.githubToken(p.mask), p.log)
	if err != nil {
		return err
	}
	p.policy.told, p.record.anchor, p.record.told = checks.told, checks.checkpoint, checks.count
	p.policy.begin(ctx, gate)

	p.begin(ctx)
	p.work("slack", chat.run)
	p.work("freezes", freezes.Run)
	p.work("checks", checks.run)
	p.work("quotas", counts.follow)
	p.work("gate", func(ctx context.Context) error { gate.Run(ctx); return nil })

	closeControl, err := serveControl(c.StateDir, gate, p.log)
	if err != nil {
		return err
	}
	p.down.add(closeControl) // after the gate: calls that finish can still be frozen
	votes, err := newPage(p, gate.VotesUnder)
	if err != nil {
		return err
	}
	p.front.open(gate.Handler(), votes, chat)
	p.down.addCtx(func(ctx context.Context) error {
		// First the gate, which answers what it refuses; then the listener.
		return errors.Join(gate.Shutdown(ctx), p.server.Shutdown(ctx), p.server.Close())
	})
	tuneGC()
	p.log.Info("countersign serves", "url", c.PublicURL, "listen", p.listener.Addr().String(), "incarnation", p.record.journal.Incarnation(), "version", version)
	return p.wait(ctx)
}

// front answers before the gate is open, and then lets everything through.
type front struct{ inside atomic.Pointer[http.ServeMux] }

// open puts what answers behind the front, and the approval page and the Slack
// endpoint beside it.
func (f *front) open(rest http.Handler, votes *page.Page, chat *chat) {
	mux := http.NewServeMux()
	mux.Handle("/", rest)
	if votes != nil {
		mux.Handle("/approvals", votes)
		mux.Handle("/approvals/", votes)
	}
	if chat.bot != nil && chat.config.SlackSigningSecret != "" {
		mux.Handle("POST /slack/interactions", chat.bot.Handler())
	}
	f.inside.Store(mux)
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if mux := f.inside.Load(); mux != nil {
		mux.ServeHTTP(w, r)
		return
	}
	if r.URL.Path == "/healthz" {
		fmt.Fprintln(w, "ok")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Retry-After", "5")
	w.WriteHeader(http.StatusServiceUnavailable)
	fmt.Fprintln(w, `{"ready": false, "checks": {"start": "not finished: see the log; it waits for Vault, as long as that is sealed or away"}}`)
}

func httpServer(h http.Handler, log *slog.Logger) *http.Server {
	// No deadline of the whole exchange: an event stream lasts as long as its
	// call. A slow sender of headers is cut off here, of a body by the gate.
	return &http.Server{
		Handler: unsmuggled(h), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn), // behind the mask
	}
}

// unsmuggled ends a connection with the first request that comes in chunks.
// Where a Content-Length stands beside them net/http takes it away unseen, and
// a proxy in front of us may have gone by it: then what follows was not its
// client's to send, and must not be read as a request (RFC 9112 section 6.1).
func unsmuggled(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TransferEncoding) > 0 {
			w.Header().Set("Connection", "close")
		}
		h.ServeHTTP(w, r)
	})
}

func serveHTTP(s *http.Server, l net.Listener, c config) (err error) {
	if c.TLSCert != "" {
		err = s.ServeTLS(l, c.TLSCert, c.TLSKey)
	} else {
		err = s.Serve(l)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// maxMessage is the largest message that the mask takes on; a policy's own
// limits lie below it.
const maxMessage = 64 << 20

// newMask makes the mask, with the enforcer's own secrets in it, and the log
// behind it.
func newMask(c config) (*mask.Mask, *slog.Logger, error) {
	m := mask.New(mask.Options{Now: time.Now, MaxMessage: maxMessage})
	log, err := newLog(c.LogLevel, m)
	if err != nil {
		return nil, nil, err
	}
	// net/http's client logs on its own what a server sends unasked.
	slog.SetDefault(log)
	for name, value := range c.secrets() {
		if _, err := m.Add(name, value); err != nil && !errors.Is(err, mask.ErrTooShort) {
			return nil, nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return m, log, nil
}

// randomID is prefix and 128 random bits in base32.
func randomID(prefix string) string {
	return prefix + strings.ToLower(rand.Text())
}

// digestKey is made once for a state directory and stays there.
func digestKey(stateDir string) ([]byte, error) {
	path := filepath.Join(stateDir, "digest.key")
	if b, err := os.ReadFile(path); err == nil {
		if len(b) < 32 {
			return nil, fmt.Errorf("%s is damaged: want 32 bytes, have %d; remove it to make a new one (approvals that wait are asked for again)", path, len(b))
		}
		return b, nil
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	key := make([]byte, 32)
	rand.Read(key)
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = f.Write(key)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, err
	}
	return key, os.Rename(path+".new", path)
}

// newLog writes JSON lines to standard error, behind the mask.
func newLog(level string, m *mask.Mask) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("COUNTERSIGN_LOG_LEVEL: %w; want debug, info, warn or error", err)
	}
	return slog.New(mask.Handler(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: l}), m)), nil
}
