package page

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"countersign/enforcer/approval"
	"countersign/enforcer/approval/signin"
)

const callbackPath = "/approvals/sign-in/callback"

// maxBusy is how many sign-ins may wait for the issuer at once.
const maxBusy = 32

// pending is a sign-in under way. It waits in the browser's cookie, sealed.
type pending struct {
	Flow     signin.Flow
	Verifier string // of PKCE (RFC 7636)
	To       string // the page to come back to
}

// startSignIn sends the browser to the issuer. To be asked for a password once
// more is the issuer's to do where it is too long ago (max_age), and where the
// person wants it so that there is time to decide.
func (p *Page) startSignIn(w http.ResponseWriter, r *http.Request) {
	if !p.starts.Allow(p.Source(r), p.Now()) {
		p.tooOften(w, r, nil)
		return
	}
	q := r.URL.Query()
	s := pending{To: within(q.Get("to")), Verifier: rand.Text() + rand.Text()}
	challenge := sha256.Sum256([]byte(s.Verifier))
	s.Flow = signin.Flow{Redirect: p.PublicURL + callbackPath, State: rand.Text(), Nonce: rand.Text(), Began: p.Now().UTC(),
		Challenge: base64.RawURLEncoding.EncodeToString(challenge[:]), Fresh: q.Get("again") == "1", ACR: p.acrFor(r, s.To)}
	there, err := p.SignIn.Begin(r.Context(), s.Flow)
	if err == nil {
		var sealed string
		if sealed, err = p.Seal.Close("sign-in", s.Flow.Began.Add(signInLife), s); err == nil {
			p.setCookie(w, signInCookie+slot(r), sealed, signInLife)
			http.Redirect(w, r, there, http.StatusSeeOther)
			return
		}
	}
	p.signInFailed(w, r, s, err)
}

// within is a page of ours to come back to; anything else is the list.
func within(to string) string {
	u, err := url.Parse(to)
	if err != nil || len(to) > 4096 || u.Scheme != "" || u.Host != "" || u.Opaque != "" || strings.ContainsAny(to, "\\\r\n\t") ||
		u.Path != "/approvals" && !strings.HasPrefix(u.Path, "/approvals/") || strings.HasPrefix(u.Path, "/approvals/sign-") || strings.Contains(u.Path, "//") || strings.Contains(u.Path, "/.") {
		return "/approvals"
	}
	return (&url.URL{Path: u.Path, RawQuery: u.RawQuery}).String()
}

// acrFor are the ways of signing in that the approver sets of an approval ask
// for.
func (p *Page) acrFor(r *http.Request, to string) []string {
	id := strings.TrimPrefix(to, "/approvals/")
	a, err := p.Book.Get(r.Context(), id)
	if err != nil { // a list, a link: whatever the issuer does by itself
		return nil
	}
	return a.ACR()
}

// slots are as many sign-ins as a browser may have under way, in as many tabs.
const slots = "0123"

// slot is the name of a free cookie, or of one that is taken over.
func slot(r *http.Request) string {
	for _, n := range slots {
		if _, err := r.Cookie(signInCookie + string(n)); err != nil {
			return string(n)
		}
	}
	return string(slots[rand.Text()[0]%byte(len(slots))])
}

// waiting finds the sign-in that this browser began under that state, and takes
// it away: a state is answered once.
func (p *Page) waiting(w http.ResponseWriter, r *http.Request, state string) (pending, error) {
	for _, n := range slots {
		c, err := r.Cookie(signInCookie + string(n))
		if err != nil {
			continue
		}
		var s pending
		if p.Seal.Open("sign-in", c.Value, p.Now(), &s) != nil || subtle.ConstantTimeCompare([]byte(s.Flow.State), []byte(state)) != 1 {
			continue
		}
		p.setCookie(w, c.Name, "", 0)
		// The code is good once at the issuer, too; so another enforcer, which
		// does not know that it was used, gets nothing for it.
		if !p.once(p.used, s.Flow.State, s.Flow.Began.Add(signInLife)) {
			return pending{}, errUsed
		}
		return s, nil
	}
	return pending{}, errNotBegun
}

var (
	errNotBegun = errors.New("this browser has begun no such sign-in, or too long ago")
	errUsed     = errors.New("this sign-in was answered already")
)

// finishSignIn takes the issuer's answer.
func (p *Page) finishSignIn(w http.ResponseWriter, r *http.Request) {
	if !p.starts.Allow(p.Source(r), p.Now()) {
		p.tooOften(w, r, nil)
		return
	}
	s, err := p.waiting(w, r, r.URL.Query().Get("state"))
	var l approval.Login
	if err == nil {
		l, err = p.login(r, s)
	}
	if err == nil {
		err = p.Logins.Put(r.Context(), l)
	}
	if err == nil {
		err = p.open(w, l)
	}
	if err != nil {
		p.report(r, err)
		p.signInFailed(w, r, s, err)
		return
	}
	http.Redirect(w, r, firstOf(s.To, "/approvals"), http.StatusSeeOther)
}

// report tells of a failed sign-in. What this browser never began says nothing
// of anybody; and strangers must not fill the record, so that those which come
// too fast are counted, and told with the next.
func (p *Page) report(r *http.Request, err error) {
	if p.Failed == nil || errors.Is(err, errNotBegun) {
		return
	}
	told := p.failures.Allow("", p.Now())
	p.mu.Lock()
	n := p.untold
	if p.untold++; told {
		p.untold = 0
	}
	p.mu.Unlock()
	if n > 0 {
		err = fmt.Errorf("%w (and %d more, which came too fast to be told one by one)", err, n)
	}
	if told {
		p.Failed(r.Context(), p.Source(r), err)
	}
}

// login is who signed in, by the issuer's answer (RFC 6749 section 4.1.2).
func (p *Page) login(r *http.Request, s pending) (approval.Login, error) {
	q := r.URL.Query()
	for _, name := range []string{"state", "code", "iss", "error"} {
		if len(q[name]) > 1 || len(q.Get(name)) > 4096 {
			return approval.Login{}, fmt.Errorf("%w: its answer has %s twice, or too long", signin.ErrRefused, name)
		}
	}
	if said := q.Get("error"); said != "" {
		return approval.Login{}, fmt.Errorf("%w: it says %.60q, %.200q", signin.ErrRefused, said, q.Get("error_description"))
	}
	if q.Get("code") == "" {
		return approval.Login{}, fmt.Errorf("%w: there is no code in its answer", signin.ErrRefused)
	}
	select {
	case p.busy <- struct{}{}:
		defer func() { <-p.busy }()
	default:
		return approval.Login{}, fmt.Errorf("%w (%d sign-ins wait for it)", signin.ErrUnavailable, maxBusy)
	}
	l, err := p.SignIn.Finish(r.Context(), s.Flow, signin.Answer{Code: q.Get("code"), Issuer: q.Get("iss"), Verifier: s.Verifier})
	if err != nil {
		return approval.Login{}, err
	}
	return approval.Login{ID: "li_" + strings.ToLower(rand.Text()), Issuer: l.Issuer, Sub: l.Sub, Name: l.Name, Email: l.Email, Groups: l.Groups,
		ACR: l.ACR, AMR: l.AMR, AuthTime: l.AuthTime, At: l.At}, nil
}

// signInFailed says what to do. What exactly was wrong with a token is for the
// log, and the record.
func (p *Page) signInFailed(w http.ResponseWriter, r *http.Request, s pending, err error) {
	p.Log.WarnContext(r.Context(), "approval page: a sign-in failed", "error", err)
	e := problem{Status: http.StatusForbidden, Title: "You could not be signed in"}
	switch {
	case errors.Is(err, signin.ErrUnavailable):
		e.Status, e.Text = http.StatusBadGateway, "The identity provider does not answer as it should. Try again in a moment. If it cannot wait and policy lets it be approved there, use Slack."
	case errors.Is(err, errNotBegun), errors.Is(err, errUsed):
		e.Text = "This browser has begun no such sign-in, or it was answered already, or it took more than ten minutes. Begin again from here; never from an address that somebody sent you."
	case errors.Is(err, signin.ErrNotFresh):
		e.Text = "The identity provider let you in by a sign-in from before, or does not say when you signed in (auth_time). Sign out there, and try again. If it stays so, whoever runs it must have it heed max_age and prompt=login for this page, and say auth_time."
	case errors.Is(err, signin.ErrRefused):
		e.Text = "The identity provider has not signed you in, or its answer is not for this page. Try again. If it stays so, ask whoever runs it whether you may use this page; whoever runs this enforcer finds the reason in its log."
	default:
		e.Status, e.Text = http.StatusServiceUnavailable, "Your sign-in could not be recorded, so it does not count. Try again in a moment."
	}
	p.render(w, r, e.Status, "failed.html", e.Title, nil, map[string]any{"Title": e.Title, "Text": e.Text, "To": signInURL(firstOf(s.To, "/approvals"), s.Flow.Fresh)})
}

func (p *Page) tooOften(w http.ResponseWriter, r *http.Request, who *session) {
	w.Header().Set("Retry-After", "10")
	p.fail(w, r, who, problem{http.StatusTooManyRequests, "Too often", "This came too many times in a short while. Wait ten seconds, then try again."})
}

func firstOf(texts ...string) string {
	for _, t := range texts {
		if strings.TrimSpace(t) != "" {
			return t
		}
	}
	return ""
}
