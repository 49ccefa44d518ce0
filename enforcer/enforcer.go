// Package enforcer is the gate: the pipeline that one MCP request goes
// through, and the HTTP surface in front of it.
//
// It promises, for every message that enters:
//
//   - nothing reaches an upstream before its intent is durable in the record,
//     and no JSON-RPC response reaches a client before its outcome is;
//   - no byte from an upstream reaches a client without passing the mask, and
//     what cannot be masked is blocked;
//   - the caller's token is never forwarded, and minted credentials are
//     injected on the upstream side only;
//   - what is decided is what is forwarded: one strict parse, then only
//     splices that are listed here (towards the server: credentials into
//     arguments, and the headers that mirror them; towards the client: masked
//     text, hidden list elements, cacheScope). The endpoint for all servers
//     composes those of the single ones, and names its own: see hub;
//   - every doubt is a refusal, and every refusal is recorded and says why.
//
// The way of one request is exchange.run, in pipeline.go.
package enforcer

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"countersign/audit"
	"countersign/enforcer/approval"
	"countersign/enforcer/approval/api"
	"countersign/enforcer/credential"
	"countersign/enforcer/freeze"
	"countersign/enforcer/hub"
	"countersign/enforcer/identity"
	"countersign/enforcer/kv"
	"countersign/enforcer/mask"
	"countersign/enforcer/quota"
	"countersign/enforcer/upstream"
)

// Config is what an Enforcer is made of. All fields are required unless they
// say otherwise.
type Config struct {
	PublicURL      string         // our own URL, as clients spell it: scheme, host and port
	Issuers        []string       // for the resource metadata (RFC 9728)
	Audience       string         // what tokens must be for; if it is PublicURL, a token for the very endpoint called does, too
	TrustedProxies []netip.Prefix // whose X-Forwarded-For is believed; may be empty
	PolicyMaxAge   time.Duration  // a policy not confirmed by a fetch for longer is not in force

	Identity    *identity.Verifier
	Operators   *identity.Verifier // of tokens that may freeze: another audience than Identity's, and never both
	Freezes     *freeze.Board
	Journal     *audit.Journal
	Eraser      *audit.Eraser // of bodies in the record, for Control; nil: none
	Mask        *mask.Mask
	Credentials *credential.Minter // nil where no Vault is configured: rules that need it refuse
	Approvals   *approval.Book
	// Kept is where what callers who left have not heard is kept, and the tasks of
	// calls that wait for approval; nil: nothing is kept, and there are no tasks.
	Kept *kv.Bucket
	// Alone says that no other enforcer uses Kept: what another run has claimed
	// there died with that.
	Alone bool
	// Ballots is what the command line's votes need beside Approvals: Logins,
	// Seal, SignIn (nil: nobody signs in), Page and Refused. There is no API of
	// approvals without Refused.
	Ballots api.Config
	Quotas  *quota.Table // counts begin anew if nil
	// CardError says why nobody could be asked about an approval (the chat
	// service refused the channel, say); nil, or a nil error, means that
	// somebody was, or is about to be.
	CardError func(approvalID string) error
	// Certificates is the operator's folder of the files that servers of the
	// policy may name under tls; "" if there is none.
	Certificates string
	// Private is a folder for files that spawned servers get, ours alone; what is
	// in it is removed. Without it no credential can be injected as a file.
	Private string
	// Ready lists further conditions that readiness depends on, by name.
	Ready map[string]func(context.Context) error

	DigestKey []byte // keys the digests in the record, so that they cannot be guessed backwards
	// PseudonymKey keys the pseudonyms of field rules, and of subjects in the record; one that comes of
	// DigestKey if empty.
	PseudonymKey []byte
	Now          func() time.Time // the clock
	ID           func() string    // a new random call id
	Log          *slog.Logger     // already behind the mask
}

// Enforcer serves MCP under /mcp/<server>, all servers together under /mcp, and
// health, readiness, metrics and resource metadata beside it.
type Enforcer struct {
	Config
	public    *url.URL
	force     atomic.Pointer[force]
	policy    Standing
	session   sessions
	hub       *hub.Hub
	waiting   inflight
	running   running
	auth      authFailures
	naming    Names
	kept      keeper          // see undelivered.go and task.go
	orphans   map[string]bool // texts without a document, as of the last sweep
	tickets   approval.Seal
	runs      runs
	tasks     taskRuns
	turns     turns // of the policy
	attending attending
	room      room
	mirrors   mirrors
	schemas   schemas
	pins      sights
	metrics   *metrics
	ballots   *api.API // nil where nothing is configured

	processes *upstream.Pool // of all spawned servers, those of earlier policies included

	closing  atomic.Bool
	inside   inside
	stop     context.CancelFunc
	lifetime context.Context // ends when waiting callers must be sent home
	retired  sync.WaitGroup  // upstreams of earlier policies that are being closed
	leaving  sync.Map        // *force: these policies
}

// New makes an Enforcer that has no policy yet and refuses everything until
// Install gives it one.
func New(c Config) (*Enforcer, error) {
	u, err := url.Parse(c.PublicURL)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, fmt.Errorf("public URL %q: want http(s)://host[:port]", c.PublicURL)
	}
	if len(c.DigestKey) < 32 {
		return nil, errors.New("digest key: want at least 32 bytes")
	}
	if c.Private != "" {
		if err := upstream.ClearPrivate(c.Private); err != nil {
			return nil, err
		}
	}
	e := &Enforcer{Config: c, public: u, processes: upstream.NewPool(0), naming: NewNames(c.DigestKey, c.PseudonymKey)}
	if e.Quotas == nil {
		e.Quotas = quota.New(c.Now())
	}
	e.session.init(c.Now)
	e.hub = hub.New(hub.Config{Inner: http.HandlerFunc(e.serveMCP), Now: c.Now, Log: c.Log, Own: ownTask})
	e.waiting.init()
	e.auth.init()
	e.room.init()
	e.pins.init()
	e.running.init()
	e.metrics = newMetrics(e)
	e.lifetime, e.stop = context.WithCancel(context.Background())
	if e.tickets, err = approval.NewSeal(c.DigestKey); err != nil {
		return nil, err
	}
	if e.kept.sealer, err = newSealer(c.DigestKey); err != nil {
		return nil, err
	}
	e.kept.bucket, e.tasks.by = c.Kept, rand.Text()
	if b := c.Ballots; b.Refused != nil {
		b.Book, b.Policy, b.Words, b.Source, b.Failed, b.Now, b.Log = c.Approvals, e.VotesUnder, e.words, e.voteSource, e.noVoter, c.Now, c.Log
		e.ballots = api.New(b)
	}
	if c.Freezes != nil {
		c.Freezes.Notify(e.froze)
	}
	return e, nil
}

// Run does the housekeeping until ctx ends: aggregated authentication
// failures are recorded, idle sessions and the leases of idle holders and of
// frozen ones end.
func (e *Enforcer) Run(ctx context.Context) {
	tick, sweep := time.NewTicker(5*time.Second), time.NewTicker(time.Minute)
	defer tick.Stop()
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			e.tidy(ctx)
		case <-sweep.C:
			if err := e.sweepKept(ctx); err != nil && ctx.Err() == nil {
				e.Log.Warn("what is kept for callers could not be cleared", "err", err)
			}
		}
	}
}

// tidy does the housekeeping once. Vault may take its time, and nothing else
// waits for that: each look at the leases waits for those alone that it found to
// end, which no later one finds again. At a stop nobody waits for them either:
// all leases are revoked then.
func (e *Enforcer) tidy(ctx context.Context) {
	e.flushAuthFailures(ctx)
	e.endIdle(ctx)
	e.running.severed.prune(e.Now())
	if e.Credentials != nil {
		go e.endIdleHolders(context.WithoutCancel(ctx))
		go e.endFrozenLeases(context.WithoutCancel(ctx))
	}
}

// Shutdown refuses new requests, sends callers that wait for a person home
// (their approvals stay, an identical retry attaches), and waits for the calls
// already forwarded until ctx ends. It returns how many were still under way.
func (e *Enforcer) Shutdown(ctx context.Context) error {
	e.closing.Store(true)
	e.stop()
	var err error
	select {
	case <-e.inside.close():
	case <-ctx.Done():
		err = fmt.Errorf("calls still under way at the end of the grace period: %w", ctx.Err())
	}
	e.flushAuthFailures(context.WithoutCancel(ctx))
	// An upstream closes when its last answer is closed, which a client that
	// does not read may hold up: credentials are not revoked later for that.
	closed := make(chan struct{})
	go func() {
		if f := e.force.Swap(nil); f != nil {
			f.closeUpstreams(nil)
		}
		e.retired.Wait()
		close(closed)
	}()
	select {
	case <-closed:
	case <-ctx.Done():
		err = errors.Join(err, fmt.Errorf("upstreams still open at the end of the grace period: %w", ctx.Err()))
	}
	return err
}

// Handler is the HTTP surface. The Slack endpoint is mounted beside it by the
// command that puts the parts together.
func (e *Enforcer) Handler() http.Handler {
	mux := http.NewServeMux()
	meta := identity.Metadata(e.PublicURL, e.Issuers, e.isResource)
	mux.Handle(identity.WellKnown, meta)
	mux.Handle(identity.WellKnown+"/", meta)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", e.serveReady)
	mux.Handle("GET /metrics", e.metrics.handler())
	mux.HandleFunc("/mcp/{server}", e.serveMCP)
	mux.HandleFunc("/mcp", e.serveAll)
	e.mountOperate(mux, e.operator)
	e.mountApprovals(mux, nil)
	return mux
}

// bodyLimit is how long a client may take to send a request.
const bodyLimit = 30 * time.Second

// serveMCP is the endpoint of one server.
func (e *Enforcer) serveMCP(w http.ResponseWriter, r *http.Request) {
	e.serve(w, r, r.PathValue("server"), (*exchange).run)
}

// serve runs one exchange, and makes sure that it ends in the record.
func (e *Enforcer) serve(w http.ResponseWriter, r *http.Request, server string, run func(*exchange, context.Context) error) {
	if e.inside.enter() { // one that is not counted finds the gate closing, and is refused
		defer e.inside.leave()
	}
	// A body must come in time; readBody lifts the limit, which must not end a
	// stream. A connection without deadlines (a test's) never blocks.
	conn := http.NewResponseController(w)
	_ = conn.SetReadDeadline(time.Now().Add(bodyLimit))
	// The deadline of the last write is the connection's: left there, it would
	// break the next answer on it, a minute later.
	defer func() { _ = conn.SetWriteDeadline(time.Time{}) }()
	x := &exchange{e: e, w: w, r: r, id: e.ID(), start: e.Now(), server: server, via: via(r.Context()), origin: origin(r)}
	x.out.w, x.out.r = w, r
	x.asked, x.answers, x.sending = e.room.requests.Share(), e.room.answers.Share(), e.room.answers.Share()
	ctx, thaw := x.freezable(r.Context())
	defer thaw()
	defer x.close()
	defer func() {
		if p := recover(); p != nil {
			// The stack may hold anything: the log is behind the mask. The
			// record gets its outcome, the client a refusal.
			e.Log.Error("a call panicked", "call", x.id, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			x.refuse(refuse(kindUnavailable, "the enforcer failed inside; the call may have run"))
		}
	}()
	if err := run(x, ctx); err != nil && !errors.Is(err, errAnswered) {
		x.refuse(x.orRevoked(x.orFrozen(err)))
	}
}
