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
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"countersign/audit"
	"countersign/enforcer"
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
	var down teardown
	defer func() { err = errors.Join(err, down.run(ctx, c.ShutdownGrace)) }()
	// A file at its limit (ulimit -f) is an error of the write, as a full disk
	// is, and no death of the process.
	signal.Ignore(syscall.SIGXFSZ)
	// A core file, of ours or of a spawned server, would hold credentials.
	if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}); err != nil {
		return fmt.Errorf("core files cannot be switched off: %w", err)
	}

	masker, log, err := newMask(c)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil { // it goes to a terminal, or a container's log
			text, _ := masker.Text(err.Error())
			err = errors.New(text)
		}
	}()
	for _, name := range unknownVariables(os.Environ()) {
		log.Warn("this variable is none of ours: is it misspelt?", "variable", name)
	}
	lock, err := audit.Lock(c.StateDir)
	if err != nil {
		return err
	}
	down.add(lock.Close)
	// What can be wrong with the configuration comes first: a start that fails
	// leaves no run behind in the record.
	policy := &policyFollower{config: c, log: log}
	if err := policy.open(masker); err != nil {
		return err
	}
	down.add(policy.close)
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
	key, err := digestKey(c.StateDir)
	if err != nil {
		return err
	}
	counts, err := openQuotas(c.StateDir, time.Now(), log)
	if err != nil {
		return err
	}
	down.add(counts.save)
	listener, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("COUNTERSIGN_LISTEN: %w", err)
	}
	// From here on health can be asked: a start waits for a Vault that is
	// sealed or away, and is alive, though not ready, meanwhile.
	front := &front{}
	server := httpServer(front, log)
	served := make(chan error, 1)
	go func() { served <- serveHTTP(server, listener, c) }()
	down.add(server.Close)

	record, err := openRecord(ctx, c, masker, log)
	if err != nil {
		return err
	}
	down.add(record.close)
	approvals, err := openApprovals(ctx, c, record, policy.commit, log)
	if err != nil {
		return err
	}
	down.add(approvals.close)
	if c.NATSURL != "" {
		if key, err = approvals.sharedKey(ctx, key); err != nil {
			return fmt.Errorf("COUNTERSIGN_NATS_URL: %w", err)
		}
	}
	freezes, err := openFreezes(ctx, c, approvals, record, policy.commit, log)
	if err != nil {
		return err
	}
	vault, err := openVault(ctx, c, masker, record.journal, policy, log)
	if err != nil {
		return err
	}
	if vault != nil {
		down.addCtx(vault.Close)
	}
	chat, err := newChat(c, approvals.book, policy, record.journal, masker, log)
	if err != nil {
		return err
	}
	gate, err := enforcer.New(enforcer.Config{
		PublicURL: c.PublicURL, Issuers: c.OIDCIssuers, Audience: c.OIDCAudience, TrustedProxies: c.TrustedProxies,
		PolicyMaxAge: c.PolicyMaxAge, Identity: verifier, Operators: operators, Freezes: freezes, Journal: record.journal, Mask: masker, Credentials: vault,
		Approvals: approvals.book, CardError: chat.cardError, Quotas: counts.table, Certificates: c.UpstreamCerts, Private: filepath.Join(c.StateDir, "private"),
		Ready:     map[string]func(context.Context) error{"identity": verifier.Ready, "record": record.ready},
		DigestKey: key, PseudonymKey: []byte(c.PseudonymKey), Now: time.Now, ID: func() string { return randomID("c_") }, Log: log,
	})
	if err != nil {
		return err
	}
	record.metrics(gate.Registry())
	checks, err := newChecks(c, c.githubToken(masker), log)
	if err != nil {
		return err
	}
	policy.told, record.anchor = checks.told, checks.checkpoint
	policy.begin(ctx, gate)

	workers, stop := context.WithCancel(context.WithoutCancel(ctx))
	group, failed := &sync.WaitGroup{}, make(chan error, 8)
	down.add(func() error { stop(); group.Wait(); return nil })
	work := func(name string, f func(context.Context) error) {
		group.Go(func() {
			if err := f(workers); err != nil && workers.Err() == nil {
				failed <- fmt.Errorf("%s: %w", name, err)
			}
		})
	}
	work("policy", policy.follow)
	work("record", record.publish)
	work("journal", record.prune)
	work("slack", chat.run)
	work("approvals", approvals.expire)
	work("freezes", freezes.Run)
	work("checks", checks.run)
	work("quotas", counts.follow)
	work("gate", func(ctx context.Context) error { gate.Run(ctx); return nil })

	closeControl, err := serveControl(c.StateDir, gate, log)
	if err != nil {
		return err
	}
	down.add(closeControl) // after the gate: calls that finish can still be frozen
	front.open(gate, chat, c)
	down.addCtx(func(ctx context.Context) error {
		// First the gate, which answers what it refuses; then the listener.
		return errors.Join(gate.Shutdown(ctx), server.Shutdown(ctx), server.Close())
	})
	tuneGC()
	log.Info("countersign serves", "url", c.PublicURL, "listen", listener.Addr().String(), "incarnation", record.journal.Incarnation(), "version", version)
	select {
	case <-ctx.Done():
		log.Info("countersign stops: no new calls; those under way may finish", "grace", c.ShutdownGrace.String())
		return nil
	case err := <-failed:
		return err
	case err := <-served:
		return fmt.Errorf("http: %w", err)
	}
}

// front answers before the gate is open, and then lets everything through.
type front struct{ inside atomic.Pointer[http.ServeMux] }

// open puts the gate behind the front, and the Slack endpoint beside it.
func (f *front) open(gate *enforcer.Enforcer, chat *chat, c config) {
	mux := http.NewServeMux()
	mux.Handle("/", gate.Handler())
	if chat.bot != nil && c.SlackSigningSecret != "" {
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

// teardown is what has been opened, to be closed in the reverse order. Each
// step has the whole grace for itself, so that a peer that hangs does not keep
// the others from being told.
type teardown []func(context.Context) error

func (t *teardown) add(f func() error)                       { *t = append(*t, func(context.Context) error { return f() }) }
func (t *teardown) addCtx(f func(ctx context.Context) error) { *t = append(*t, f) }

func (t teardown) run(ctx context.Context, grace time.Duration) (err error) {
	for i := len(t) - 1; i >= 0; i-- {
		step, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		err = errors.Join(err, t[i](step))
		cancel()
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
