package page

import (
	"context"
	"crypto/rand"
	"net/http"
	"net/url"
	"time"

	"countersign/enforcer/approval"
	"countersign/rules"
)

// The cookies. The prefix __Host- has browsers refuse them unless they come
// over TLS, from this very host, for all of it: no other host of the domain can
// plant one.
//
// SameSite is Lax, not Strict: the issuer's redirect, and a link in Slack, are
// navigations from another site, and would come without a Strict cookie. A Lax
// one goes with no cross-site POST, and no GET here changes anything.
const (
	sessionCookie = "__Host-countersign"
	signInCookie  = "__Host-countersign-sign-in-" // and a digit: sign-ins in several tabs
)

// session is what a browser carries, sealed.
type session struct {
	ID       string
	Login    string // approval.Login.ID of the sign-in
	Issuer   string
	Sub      string
	Name     string // as the issuer says, or the e-mail address, or sub
	ACR      string
	AMR      []string
	AuthTime time.Time
	At       time.Time // when the issuer's answer came
	Until    time.Time
}

// key names the person.
func (s session) key() string { return rules.Subject{Issuer: s.Issuer, Sub: s.Sub}.Key() }

// fresh tells whether the sign-in is young enough to vote.
func (s session) fresh(now time.Time) bool { return now.Before(s.VotesUntil()) }

// VotesUntil is until when it is.
func (s session) VotesUntil() time.Time { return s.AuthTime.Add(approval.MaxAuthAge) }

func (p *Page) setCookie(w http.ResponseWriter, name, value string, life time.Duration) {
	c := &http.Cookie{Name: name, Value: value, Path: "/", MaxAge: int(life.Seconds()), Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode}
	if value == "" {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}

// open begins a browser's session, after a sign-in.
func (p *Page) open(w http.ResponseWriter, l approval.Login) error {
	s := session{ID: rand.Text(), Login: l.ID, Issuer: l.Issuer, Sub: l.Sub, Name: firstOf(l.Name, l.Email, l.Sub), ACR: l.ACR, AMR: l.AMR,
		AuthTime: l.AuthTime, At: l.At, Until: p.Now().Add(sessionLife).UTC()}
	sealed, err := p.Seal.Close("session", s.Until, s)
	if err != nil {
		return err
	}
	p.setCookie(w, sessionCookie, sealed, sessionLife)
	return nil
}

// session reads a browser's session. One that was signed out here is none any
// more; elsewhere its cookie is gone, at least.
func (p *Page) session(r *http.Request) (session, bool) {
	cookies := r.CookiesNamed(sessionCookie)
	if len(cookies) != 1 {
		return session{}, false
	}
	var s session
	if p.Seal.Open("session", cookies[0].Value, p.Now(), &s) != nil {
		return session{}, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_, over := p.ended[s.ID]
	return s, !over
}

// signedIn has a person sign in first, and checks that a form is of their own
// session.
func (p *Page) signedIn(serve func(http.ResponseWriter, *http.Request, session)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s, ok := p.session(r)
		switch {
		case !ok && r.Method == http.MethodPost:
			p.fail(w, r, nil, problem{http.StatusUnauthorized, "You are not signed in any more", "Nothing was decided. Open the approval again: you will be asked to sign in."})
		case !ok:
			p.render(w, r, http.StatusUnauthorized, "welcome.html", "Sign in", nil, map[string]string{"To": signInURL(r.URL.RequestURI(), false)})
		case r.Method == http.MethodPost && (r.ParseForm() != nil || !p.Seal.Marked("form", s.ID, r.PostForm.Get("form"))):
			p.fail(w, r, &s, problem{http.StatusForbidden, "This form is not of your present session", "Nothing was decided. You may have signed in again in another tab: open the approval again, and decide there."})
		default:
			serve(w, r, s)
		}
	}
}

// formToken ties a form to the session that it was drawn for.
func (p *Page) formToken(s session) string { return p.Seal.Mark("form", s.ID) }

func (p *Page) signOut(w http.ResponseWriter, r *http.Request, s session) {
	p.once(p.ended, s.ID, s.Until)
	p.setCookie(w, sessionCookie, "", 0)
	p.fail(w, r, nil, problem{http.StatusOK, "Signed out", "You are signed out of this page, though perhaps not of your identity provider. Close the browser on a machine that is not yours."})
}

// maxKept bounds each of the two sets below. What no longer fits is refused,
// not forgotten: a state counts as used then.
const maxKept = 100_000

// once tells whether the key is new in set, and keeps it until then.
func (p *Page) once(set map[string]time.Time, key string, until time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, there := set[key]; there {
		return false
	}
	if len(set) >= maxKept {
		for k, t := range set {
			if !p.Now().Before(t) {
				delete(set, k)
			}
		}
	}
	if len(set) >= maxKept {
		return false
	}
	set[key] = until
	return true
}

// vote is the session's answer, as far as it is known before the form is read.
func (p *Page) vote(r *http.Request, s session) approval.Vote {
	return approval.Vote{Issuer: s.Issuer, Sub: s.Sub, Via: approval.ViaOIDC, At: p.Now().UTC(), Login: &approval.LoginProof{
		ID: s.Login, ACR: s.ACR, AMR: s.AMR, AuthTime: s.AuthTime, At: s.At, Source: p.Source(r), Door: "page"}}
}

// signInURL is where to sign in, and come back to the page.
func signInURL(to string, again bool) string {
	q := url.Values{"to": {to}}
	if again {
		q.Set("again", "1")
	}
	return "/approvals/sign-in?" + q.Encode()
}

func (p *Page) refuse(ctx context.Context, id string, v approval.Vote, why error) {
	p.Log.WarnContext(ctx, "approval page: what a person asked for was refused", "approval", id, "sub", v.Sub, "error", why)
	if p.Refused != nil {
		p.Refused(ctx, id, v, why)
	}
}
