// Package page is the approval page: where a person reads a whole request, and
// decides it, signed in afresh.
//
// It promises:
//
//   - Only a browser that signed in here votes: by the authorization code flow
//     with PKCE, as a client of its own, whose name is the audience of no token
//     that may call MCP. Bearer tokens do nothing here; nobody looks at them.
//   - A vote needs a sign-in that the issuer says is no older than
//     approval.MaxAuthAge. Which
//     acr, whose membership, whose own request: those checks are package
//     approval's, at the moment of the vote.
//   - A vote is for what its form showed: changed meanwhile, it is shown again.
//   - No other site can have a browser vote, nor frame or read the page. There
//     is no script. What comes from outside is text, never a link, and what is
//     invisible in it is made visible. See shown.
//   - A vote that does not count is reported, to be recorded, before whoever
//     voted is told why.
//   - Requests are shown to those whom they concern: see Page.concerns.
//
// What is kept of a signed-in browser is in its cookie, sealed: any enforcer
// that shares the key serves it, also after a restart.
package page

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"countersign/enforcer/approval"
	"countersign/enforcer/approval/signin"
	"countersign/rules"
)

const (
	sessionLife = time.Hour        // for reading
	signInLife  = 10 * time.Minute // from leaving for the issuer to coming back
	maxForm     = 64 << 10         // bytes of a POST
	maxReason   = 500              // characters, as in Slack's modal
	requestTime = 30 * time.Second // for a whole request, its body too
)

// Config is what a Page needs.
type Config struct {
	PublicURL string         // scheme://host[:port]; https, or http on a loopback address
	SignIn    *signin.Client // of an OpenID Connect client of the page's own
	Book      *approval.Book
	Logins    *approval.Logins // the Book's
	Seal      approval.Seal
	Policy    func() *rules.Policy // the policy in force; nil while there is none

	// Refused is told of each vote of a signed-in person that did not count, and of
	// each link to a Slack user that was not made, which has no approval:
	// v.Issuer and v.Sub say who voted. Texts in v and why are not masked.
	Refused func(ctx context.Context, approvalID string, v approval.Vote, why error)
	// Failed is told of the sign-ins that failed with the issuer's answer, and the
	// address they came from; of at most 20 at once, and then one in three seconds. Texts in why are not masked.
	Failed func(ctx context.Context, source string, why error)
	// Source is the address that a request comes from; nil: the connection's.
	Source func(*http.Request) string

	Now func() time.Time
	Log *slog.Logger // nil: silent
}

// Page is the approval page. It is safe for concurrent use.
type Page struct {
	Config
	public   *url.URL
	views    *template.Template
	style    []byte
	styleURL string // holds a digest, so that it may be cached for good
	mux      *http.ServeMux
	starts   *signin.Limits // of sign-ins, by address
	posts    *signin.Limits // of votes, by person
	failures *signin.Limits // told of
	busy     chan struct{}

	mu     sync.Mutex
	untold int                  // failures
	used   map[string]time.Time // states that were answered, until they are too old
	ended  map[string]time.Time // sessions that were signed out, until they are too old
}

//go:embed view
var view embed.FS

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// New checks the configuration; it contacts nobody.
func New(c Config) (*Page, error) {
	u, err := url.Parse(c.PublicURL)
	if err != nil || u.Host == "" || u.Scheme != "https" && !(u.Scheme == "http" && loopback(u.Hostname())) {
		return nil, fmt.Errorf("approval page: public URL %q: browsers keep its cookies over https only (or http on a loopback address)", c.PublicURL)
	}
	if c.Source == nil {
		c.Source = func(r *http.Request) string {
			host, _, _ := net.SplitHostPort(r.RemoteAddr)
			return host
		}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	p := &Page{Config: c, public: u, used: map[string]time.Time{}, ended: map[string]time.Time{},
		starts: signin.NewLimits(20, 3*time.Second), posts: signin.NewLimits(20, 3*time.Second), failures: signin.NewLimits(20, 3*time.Second), busy: make(chan struct{}, maxBusy)}
	if p.style, err = view.ReadFile("view/style.css"); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(p.style)
	p.styleURL = "/approvals/style-" + hex.EncodeToString(sum[:8]) + ".css"
	if p.views, err = template.New("").Funcs(words).ParseFS(view, "view/*.html"); err != nil {
		return nil, err
	}
	p.routes()
	return p, nil
}

func (p *Page) routes() {
	p.mux = http.NewServeMux()
	p.mux.HandleFunc("GET "+p.styleURL, p.serveStyle)
	p.mux.HandleFunc("GET /approvals/sign-in", p.startSignIn)
	p.mux.HandleFunc("GET "+callbackPath, p.finishSignIn)
	p.mux.HandleFunc("POST /approvals/sign-out", p.signedIn(p.signOut))
	p.mux.HandleFunc("GET /approvals", p.signedIn(p.serveList))
	p.mux.HandleFunc("GET /approvals/link", p.signedIn(p.showLink))
	p.mux.HandleFunc("POST /approvals/link", p.signedIn(p.makeLink))
	p.mux.HandleFunc("GET /approvals/{id}", p.signedIn(p.serveApproval))
	p.mux.HandleFunc("POST /approvals/{id}", p.signedIn(p.decide))
	p.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		p.fail(w, r, nil, problem{http.StatusNotFound, "There is no such page", "The address may be cut off. Open the link again, or look at the list."})
	})
}

// ServeHTTP serves everything under /approvals.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	// No script at all, nothing from elsewhere, in nobody's frame. Forms are
	// posted here and are answered from here: none leads off this site, since
	// form-action covers redirects too.
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
	h.Set("X-Frame-Options", "DENY")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	if p.public.Scheme == "https" {
		h.Set("Strict-Transport-Security", "max-age=31536000")
	}
	conn := http.NewResponseController(w) // one without deadlines (a test's) never blocks
	_ = conn.SetReadDeadline(time.Now().Add(requestTime))
	_ = conn.SetWriteDeadline(time.Now().Add(2 * requestTime))
	defer func() { _, _ = conn.SetReadDeadline(time.Time{}), conn.SetWriteDeadline(time.Time{}) }()
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	switch {
	case !strings.EqualFold(r.Host, p.public.Host): // DNS rebinding
		p.fail(w, r, nil, problem{http.StatusForbidden, "This is not the address of this page", "Use " + p.PublicURL + "/approvals."})
	case r.Method != http.MethodGet && r.Method != http.MethodHead && r.Method != http.MethodPost:
		h.Set("Allow", "GET, HEAD, POST")
		p.fail(w, r, nil, problem{http.StatusMethodNotAllowed, "That cannot be done here", "Pages are read, and forms are posted."})
	case r.Method == http.MethodPost && !p.sameOrigin(r):
		p.fail(w, r, nil, problem{http.StatusForbidden, "This form was not sent from this page", "Nothing was decided. Open the approval from the list, and decide there. (A browser older than 2023 cannot be used.)"})
	default:
		p.mux.ServeHTTP(w, r)
	}
}

// sameOrigin tells whether a browser says that a form was sent from our own
// page. Without a word on it, it was not: this is stricter than
// http.CrossOriginProtection, which lets through what is no browser's.
func (p *Page) sameOrigin(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "same-origin":
		return true
	case "":
		return r.Header.Get("Origin") == p.PublicURL
	}
	return false
}

func (p *Page) serveStyle(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/css; charset=utf-8")
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	if _, err := w.Write(p.style); err != nil {
		return // the browser left
	}
}

// problem is an error page.
type problem struct {
	Status int
	Title  string
	Text   string // what to do about it
}

// sheet is what every page is made of.
type sheet struct {
	Title string
	Style string
	Who   *session // nil: nobody is signed in
	Form  string   // the token of this session's forms
	Body  any
}

// render writes a page, whole or not at all.
func (p *Page) render(w http.ResponseWriter, r *http.Request, status int, name, title string, who *session, body any) {
	s := sheet{Title: title, Style: p.styleURL, Who: who, Body: body}
	if who != nil {
		s.Form = p.formToken(*who)
	}
	var out strings.Builder
	if err := p.views.ExecuteTemplate(&out, name, s); err != nil {
		p.Log.ErrorContext(r.Context(), "approval page: a page could not be drawn", "page", name, "error", err)
		http.Error(w, "The page could not be drawn. See the enforcer's log.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	if _, err := io.WriteString(w, out.String()); err != nil {
		return // the browser left
	}
}

func (p *Page) fail(w http.ResponseWriter, r *http.Request, who *session, e problem) {
	p.render(w, r, e.Status, "problem.html", e.Title, who, e)
}

// broken answers what we could not find out.
func (p *Page) broken(w http.ResponseWriter, r *http.Request, who *session, err error) {
	if errors.Is(err, context.Canceled) {
		return // the browser left
	}
	p.Log.ErrorContext(r.Context(), "approval page", "path", r.URL.Path, "error", err)
	p.fail(w, r, who, problem{http.StatusServiceUnavailable, "The approvals cannot be read just now", "Nothing was decided. Load the page again in a moment; if it stays so, tell whoever runs this enforcer to see its log."})
}
