package enforcer

import (
	"context"
	"errors"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"countersign/enforcer/budget"
	"countersign/enforcer/identity"
	"countersign/enforcer/wire"
)

// door refuses what must not be looked at any further: a foreign Host or
// Origin (DNS rebinding), a method that MCP does not have.
func (x *exchange) door(ctx context.Context) error {
	x.source = x.e.source(x.r)
	if err := x.e.foreign(x.r); err != nil {
		return err
	}
	switch x.r.Method {
	case http.MethodPost, http.MethodGet, http.MethodDelete:
	default:
		return refuse(kindMethod, "method %s is not served on an MCP endpoint", x.r.Method)
	}
	return nil
}

// foreign refuses a Host or an Origin that is not ours.
func (e *Enforcer) foreign(r *http.Request) error {
	if !strings.EqualFold(r.Host, e.public.Host) {
		return refuse(kindForbidden, "host %q is not served here: use %s", r.Host, e.PublicURL)
	}
	for _, o := range r.Header.Values("Origin") {
		u, err := url.Parse(o)
		if err != nil || u.Scheme != e.public.Scheme || !strings.EqualFold(u.Host, e.public.Host) {
			return refuse(kindForbidden, "origin %q may not call this server", o)
		}
	}
	return nil
}

// admit refuses everyone while the enforcer is stopping, or the policy is not
// in force any more: once the caller and the question are known, so that the
// record says who was refused what, and the answer goes to the question.
func (x *exchange) admit(ctx context.Context) error {
	if x.e.closing.Load() {
		return refuse(kindUnavailable, "the enforcer is stopping: try again in a moment")
	}
	f, err := x.e.current()
	if err != nil {
		return refuse(kindUnavailable, "%w", err)
	}
	x.force = f
	return nil
}

func (e *Enforcer) source(r *http.Request) string { return Source(r, e.TrustedProxies) }

// Source is the caller's address: the connection's, or, behind a trusted
// proxy, the last address in X-Forwarded-For that no trusted proxy added.
func Source(r *http.Request, trusted []netip.Prefix) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && among(host, trusted); i-- {
		hop := strings.TrimSpace(hops[i])
		if _, err := netip.ParseAddr(hop); err != nil {
			break
		}
		host = hop
	}
	return host
}

func among(host string, networks []netip.Prefix) bool {
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	for _, n := range networks {
		if n.Contains(ip.Unmap()) {
			return true
		}
	}
	return false
}

// identify verifies the bearer token. The token goes no further than here, but
// to Vault where policy has the caller log in there (see asks).
func (x *exchange) identify(ctx context.Context) error {
	caller, err := bearer(ctx, x.r, x.e.Identity, x.e.names(x.resource())...)
	x.caller = caller
	return err
}

// bearer is who the request's one bearer token stands for, to this verifier; also
// is further names of the resource that is called.
func bearer(ctx context.Context, r *http.Request, by *identity.Verifier, also ...string) (identity.Caller, error) {
	token := bearerToken(r)
	if token == "" {
		return identity.Caller{}, refuse(kindUnauthenticated, "a bearer token is needed")
	}
	caller, err := by.Verify(ctx, token, also...)
	if err != nil {
		return identity.Caller{}, &refusal{kind: kindUnauthenticated, cause: err}
	}
	return caller, nil
}

// bearerToken is the request's one bearer token, "" if it has none or several.
func bearerToken(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || len(r.Header.Values("Authorization")) != 1 {
		return ""
	}
	return strings.TrimSpace(token)
}

// resource is the path of the endpoint that the caller called: a token is for
// that one.
func (x *exchange) resource() string {
	if x.via != "" {
		return x.via
	}
	return x.r.URL.Path
}

// isResource tells which paths are protected resources of their own: ours as a
// whole, and each endpoint. Whether a server exists is not for strangers to find
// out, so any name of one will do.
func (e *Enforcer) isResource(path string) bool {
	name, endpoint := strings.CutPrefix(path, "/mcp/")
	return path == "" || path == allServers || endpoint && name != "" && !strings.Contains(name, "/")
}

// names are what else than the configured audience a token for this endpoint
// may be for: clients ask for the resource that the metadata names, and spell
// our origin with a slash. An operator who chose an audience gets that one.
func (e *Enforcer) names(path string) []string {
	if e.Audience != e.PublicURL {
		return nil
	}
	return []string{e.PublicURL + "/", e.PublicURL + path}
}

// read takes the body in, bounded, and scans it once, strictly. What rules,
// digest, record and upstream see is this one parse.
func (x *exchange) read(ctx context.Context) error {
	if x.force = x.e.force.Load(); x.force == nil {
		return refuse(kindUnavailable, "no policy is in force: see /readyz")
	}
	if _, ok := x.force.upstreams[x.server]; !ok {
		return refuse(kindNoServer, "no server named %q", x.server)
	}
	if err := x.headers(); err != nil {
		return err
	}
	x.session = x.r.Header.Get("Mcp-Session-Id")
	if err := x.readMessage(ctx); err != nil {
		return err
	}
	if err := x.untaken(); err != nil {
		return err
	}
	return x.known()
}

// known enters the message among those under way, and into its session.
func (x *exchange) known() error {
	if x.msg != nil {
		if x.msg.Modern() {
			x.session = "" // the stateless era has no sessions
		}
		if x.msg.Kind == wire.Request { // until it is over, the client's cancellation finds it
			key := x.waitKey(x.msg.ID)
			x.cleanup = append(x.cleanup, x.e.waiting.add(key, x))
		}
	}
	if x.session != "" {
		leave, ok := x.e.session.enter(x.session, x.server, x.ownerKey(), x.speaker())
		if !ok {
			return refuse(kindNoSession, "this session is unknown: initialize again")
		}
		x.cleanup = append(x.cleanup, leave)
	}
	return x.sessionless()
}

// readMessage takes in what a POST brings.
func (x *exchange) readMessage(ctx context.Context) error {
	if x.r.Method == http.MethodPost {
		if err := x.readBody(ctx); err != nil {
			return err
		}
	}
	_ = http.NewResponseController(x.w).SetReadDeadline(time.Time{}) // the body is in
	if x.msg == nil {
		return nil
	}
	if err := wire.CheckHeaders(x.r.Header, x.msg); err != nil {
		return refuse(kindMismatch, "%w", err)
	}
	return nil
}

// sessionless refuses what makes sense in a session only.
func (x *exchange) sessionless() error {
	if x.session != "" || x.r.Method == http.MethodPost {
		return nil
	}
	switch {
	case modernHeader(x.r.Header):
		return refuse(kindMethod, "this revision of MCP has no %s: use subscriptions/listen", x.r.Method)
	case x.r.Method == http.MethodDelete:
		return refuse(kindBadRequest, "there is no session to end: Mcp-Session-Id is missing")
	case x.r.Header.Get("Last-Event-ID") != "":
		// Without a session nothing tells whose stream is being resumed.
		return refuse(kindBadRequest, "a stream can be resumed within a session only: Mcp-Session-Id is missing")
	}
	return nil
}

// maxBeginning bounds the messages that begin a session: a spawned server's are
// kept for as long as it lasts.
const maxBeginning = 64 << 10

func beginning(m *wire.Message) bool {
	return m.Method == "initialize" || m.Method == "notifications/initialized" || m.Method == "subscriptions/listen"
}

// headers refuses a request whose headers are larger than the policy allows.
// (Those of more than 64 KB were cut off before there was a request.) So is one
// of which two parts could be taken for its session, or its place in a stream.
func (x *exchange) headers() error {
	n, limit := len(x.r.RequestURI), x.force.policy.Settings().MaxHeaders
	for name, values := range x.r.Header {
		for _, v := range values {
			n += len(name) + len(v) + len(": \r\n")
		}
	}
	if int64(n) > limit {
		return refuse(kindHeaders, "the request's headers are larger than %d bytes, the limit of this policy", limit)
	}
	for _, name := range []string{"Mcp-Session-Id", "Last-Event-Id"} {
		if len(x.r.Header.Values(name)) > 1 {
			return refuse(kindBadRequest, "the header %s is there more than once", name)
		}
	}
	return nil
}

const tooLarge = "the request is larger than %d bytes, the limit of this policy"

func (x *exchange) readBody(ctx context.Context) error {
	if err := plainJSON(x.r.Header); err != nil {
		return err
	}
	set := x.force.policy.Settings()
	if x.r.ContentLength > set.MaxRequest { // not waited for
		return refuse(kindBadRequest, tooLarge, set.MaxRequest)
	}
	body, err := x.asked.ReadAll(ctx, http.MaxBytesReader(x.w, x.r.Body, set.MaxRequest), x.r.ContentLength, set.MaxRequest)
	if err == nil {
		err = x.asked.Set(ctx, 2*len(body)) // as it came, and as it is sent on
	}
	var big *http.MaxBytesError
	switch {
	case err == nil:
	case errors.Is(err, budget.ErrFull):
		return x.full("requests")
	case errors.As(err, &big), errors.Is(err, budget.ErrTooLarge):
		return refuse(kindBadRequest, tooLarge, set.MaxRequest)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return refuse(kindBadRequest, "the request's body did not come within %s", bodyLimit)
	case errors.Is(err, io.ErrUnexpectedEOF), x.r.Context().Err() != nil:
		return refuse(kindCancelled, "the request's body broke off: %v", err)
	default:
		return refuse(kindBadRequest, "the request's body cannot be read: %w", err)
	}
	var msg *wire.Message
	x.e.room.works(len(body), func() {
		msg, err = wire.Parse(body, wire.Limits{Bytes: int(set.MaxRequest), Depth: set.MaxDepth})
	})
	if err != nil {
		return refuse(kindBadRequest, "%w", err)
	}
	if beginning(msg) && len(body) > maxBeginning {
		return refuse(kindBadRequest, "%s is larger than %d bytes", msg.Method, maxBeginning)
	}
	x.raw, x.msg = body, msg
	return nil
}

// plainJSON refuses a body that says it is anything but JSON in UTF-8 as it
// stands.
func plainJSON(h http.Header) error {
	given := strings.Join(h.Values("Content-Type"), ", ")
	kind, params := given, map[string]string(nil)
	var err error
	if kind != "application/json" { // as nearly everybody spells it
		kind, params, err = mime.ParseMediaType(given)
	}
	if err != nil || kind != "application/json" {
		return refuse(kindBadRequest, "content type %q: want application/json", given)
	}
	if charset, ok := params["charset"]; ok && !strings.EqualFold(charset, "utf-8") {
		return refuse(kindBadRequest, "content type %q: want UTF-8", given)
	}
	if ce := strings.Join(h.Values("Content-Encoding"), ", "); ce != "" && !strings.EqualFold(ce, "identity") {
		return refuse(kindBadRequest, "content encoding %q: send the body unencoded", ce)
	}
	return nil
}

// modernHeader tells whether the header claims the stateless era. Revisions
// are dates, so they compare as text.
func modernHeader(h http.Header) bool { return h.Get("Mcp-Protocol-Version") >= wire.ModernVersion }

// ownerKey names who a session belongs to; holder adds the credential. A "|" in
// a part is escaped, so that no two callers have one key, and the parts can be
// told again (see holderOf).
func (x *exchange) ownerKey() string {
	return escapePart.Replace(x.caller.Subject.Key()) + "|" + escapePart.Replace(x.caller.Client) + "|" + x.server
}

var (
	escapePart   = strings.NewReplacer("%", "%25", "|", "%7C")
	unescapePart = strings.NewReplacer("%25", "%", "%7C", "|")
)

func (x *exchange) holder() string { return x.ownerKey() + "|" + x.decision.Credential }

// forwarded are the request headers that an upstream gets: MCP's own, and
// those that the content needs. Authorization, cookies and proxy headers are
// the caller's, and stay here.
func forwardHeader(h http.Header, m *wire.Message) http.Header {
	out := http.Header{}
	for k, v := range h {
		switch {
		case k == "Accept", k == "Content-Type", k == "Mcp-Session-Id", k == "Last-Event-Id" && m == nil:
			out[k] = v
		case strings.HasPrefix(k, "Mcp-"):
			out[k] = v
		}
	}
	return out
}
