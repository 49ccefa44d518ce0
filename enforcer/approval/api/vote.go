package api

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"countersign/enforcer/approval"
	"countersign/enforcer/approval/signin"
	"countersign/rules"
)

// What a vote can do.
const (
	DoApprove     = "approve"
	DoBreakGlass  = "break-glass"
	DoDeny        = "deny"
	DoRevoke      = "revoke"
	DoJustified   = "justified"   // a review: the glass was rightly broken
	DoUnjustified = "unjustified" // or not
)

var deeds = []string{DoApprove, DoBreakGlass, DoDeny, DoRevoke, DoJustified, DoUnjustified}

const (
	signInLife = 10 * time.Minute // from leaving for the issuer to coming back
	ballotLife = approval.MaxAuthAge

	forSignIn = "cli sign-in"
	forBallot = "cli ballot"
)

// Intent is what somebody is about to do.
type Intent struct {
	Do     string `json:"do"`
	Once   bool   `json:"once,omitempty"`   // approve one call only, though policy grants a window
	Reason string `json:"reason,omitempty"` // needed for all but approve
}

// begun is a sign-in under way, sealed.
type begun struct {
	Approval string      `json:"approval"`
	Intent   Intent      `json:"intent"`
	Flow     signin.Flow `json:"flow"`
}

// ballot is one vote of whoever has signed in for it, sealed.
type ballot struct {
	Approval string         `json:"approval"`
	Intent   Intent         `json:"intent"`
	Login    approval.Login `json:"login"` // without groups: those are kept with the login
	Key      string         `json:"key"`
}

// Begin is POST /api/approvals/{id}/sign-in: where the browser goes, and what to
// bring back with its answer. It asks nobody who they are: the identity provider
// will.
func (s *API) Begin(w http.ResponseWriter, r *http.Request) {
	var ask struct {
		Intent
		Redirect  string `json:"redirect"`
		Challenge string `json:"challenge"`
	}
	if !s.ready(w, r) || !s.read(w, r, &ask) {
		return
	}
	if err := ask.check(); err != nil {
		Fail(w, http.StatusBadRequest, err.Error())
		return
	}
	if !loopback(ask.Redirect) || !challenge.MatchString(ask.Challenge) {
		Fail(w, http.StatusBadRequest, "redirect: want http://127.0.0.1:PORT/callback; challenge: want base64url of a SHA-256 sum")
		return
	}
	a, err := s.Book.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	b := begun{Approval: a.ID, Intent: ask.Intent, Flow: signin.Flow{
		Redirect: ask.Redirect, State: rand.Text(), Nonce: rand.Text(), Challenge: ask.Challenge, Began: s.Now().UTC(),
		// A session that the browser still has must not do: an agent on the same
		// machine could open the URL, and nobody would have to do anything.
		Fresh: true, ACR: a.ACR(),
	}}
	to, err := s.SignIn.Begin(r.Context(), b.Flow)
	var sealed string
	if err == nil {
		sealed, err = s.Seal.Close(forSignIn, b.Flow.Began.Add(signInLife), b)
	}
	if err != nil {
		s.broken(w, r, err)
		return
	}
	Answer(w, http.StatusOK, map[string]string{"url": to, "flow": sealed, "state": b.Flow.State})
}

// ready refuses what nobody should send here.
func (s *API) ready(w http.ResponseWriter, r *http.Request) bool {
	switch {
	case r.Header.Get("Authorization") != "":
		s.Failed(r, errors.New("no token votes"))
		Fail(w, http.StatusForbidden, "no token votes: leave it out, and sign in")
	case s.SignIn == nil:
		Fail(w, http.StatusNotFound, "nobody can sign in to this enforcer: COUNTERSIGN_APPROVALS_CLIENT_ID is not set")
	default:
		return true
	}
	return false
}

func (i Intent) check() error {
	switch {
	case !slices.Contains(deeds, i.Do):
		return fmt.Errorf("do: want one of %s", strings.Join(deeds, ", "))
	case i.Once && i.Do != DoApprove:
		return errors.New("once: goes with approve")
	case i.Do != DoApprove && strings.TrimSpace(i.Reason) == "":
		return errors.New("reason: needed to " + i.Do)
	case utf8.RuneCountInString(i.Reason) > maxReason:
		return fmt.Errorf("reason: want at most %d characters", maxReason)
	}
	return nil
}

var challenge = regexp.MustCompile(`^[A-Za-z0-9_-]{43}$`)

// loopback tells whether the redirect goes to a port of the machine that the
// browser runs on, by its address (RFC 8252 section 8.3).
func loopback(redirect string) bool {
	u, err := url.Parse(redirect)
	if err != nil || u.Scheme != "http" || u.Path != "/callback" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return false
	}
	ip, port := net.ParseIP(u.Hostname()), u.Port()
	n, err := strconv.ParseUint(port, 10, 16)
	return ip != nil && ip.IsLoopback() && err == nil && n > 0 && u.String() == redirect
}

// Redeem is POST /api/approvals/{id}/ballot: it finds out who has signed in, and
// sends them what they are about to vote on, and a ballot. One who may not vote
// is told so now, on record.
func (s *API) Redeem(w http.ResponseWriter, r *http.Request) {
	var ask struct {
		Flow     string `json:"flow"`
		State    string `json:"state"`
		Code     string `json:"code"`
		Issuer   string `json:"iss,omitempty"`
		Verifier string `json:"verifier"`
	}
	if !s.ready(w, r) || !s.read(w, r, &ask) {
		return
	}
	var b begun
	if err := s.Seal.Open(forSignIn, ask.Flow, s.Now(), &b); err != nil || b.Approval != r.PathValue("id") ||
		subtle.ConstantTimeCompare([]byte(b.Flow.State), []byte(ask.State)) != 1 || ask.Code == "" || ask.Verifier == "" {
		s.Failed(r, errors.New("a flow that was not begun here, or not by whoever ends it"))
		Fail(w, http.StatusBadRequest, "this is not the answer to a sign-in that was begun here, less than ten minutes ago, for this approval: begin again")
		return
	}
	if !s.ends.Allow(s.Source(r), s.Now()) {
		w.Header().Set("Retry-After", "10")
		Fail(w, http.StatusTooManyRequests, "too many sign-ins come from this address: wait ten seconds, and begin again")
		return
	}
	if !s.once(b.Flow.State, b.Flow.Began.Add(signInLife)) {
		Fail(w, http.StatusConflict, "this sign-in was answered already: begin again")
		return
	}
	select {
	case s.busy <- struct{}{}:
		defer func() { <-s.busy }()
	default:
		w.Header().Set("Retry-After", "5")
		Fail(w, http.StatusServiceUnavailable, "too many people sign in at this moment: begin again in a little while")
		return
	}
	who, err := s.SignIn.Finish(r.Context(), b.Flow, signin.Answer{Code: ask.Code, Issuer: ask.Issuer, Verifier: ask.Verifier})
	if err != nil {
		s.Log.WarnContext(r.Context(), "a sign-in to vote failed", "approval", b.Approval, "source", s.Source(r), "err", err)
		s.Failed(r, err)
		s.refuse(w, r, err)
		return
	}
	login := approval.Login{ID: "lg_" + rand.Text(), Issuer: who.Issuer, Sub: who.Sub, Name: who.Name, Email: who.Email, Groups: who.Groups,
		ACR: who.ACR, AMR: who.AMR, AuthTime: who.AuthTime, At: who.At}
	if err := s.anew(r, b.Flow, login); err != nil {
		s.Log.WarnContext(r.Context(), "a sign-in to vote failed", "approval", b.Approval, "source", s.Source(r), "err", err)
		s.Failed(r, err)
		s.refuse(w, r, err)
		return
	}
	if err := s.Logins.Put(r.Context(), login); err != nil {
		s.broken(w, r, err)
		return
	}
	a, err := s.Book.Get(r.Context(), b.Approval)
	p := s.Policy()
	v := s.vote(r, login, b.Intent)
	v.Shown = a.Shows()
	switch {
	case err != nil:
	case p == nil:
		err = fmt.Errorf("%w: no policy is in force", approval.ErrStale)
	case !(Reader{Subject: rules.Subject{Issuer: login.Issuer, Sub: login.Sub, Groups: login.Groups}}).concerns(a, p):
		err = fmt.Errorf("%w: %w", approval.ErrUnknown, approval.ErrNotApprover)
	case b.Intent.Do == DoApprove || b.Intent.Do == DoBreakGlass || b.Intent.Do == DoDeny:
		err = s.Book.Check(r.Context(), a, v, p)
	}
	if err != nil {
		s.doesNotCount(w, r, b.Approval, v, err)
		return
	}
	slip := ballot{Approval: a.ID, Intent: b.Intent, Login: login, Key: rand.Text()}
	slip.Login.Groups = nil
	sealed, err := s.Seal.Close(forBallot, s.Now().Add(ballotLife), slip)
	if err != nil {
		s.broken(w, r, err)
		return
	}
	Answer(w, http.StatusOK, struct {
		Who    string `json:"who"`
		Sight  Sight  `json:"sight"`
		Ballot string `json:"ballot"`
	}{called(login, p), s.sight(a, p), sealed})
}

// anew refuses a sign-in at the issuer that has served before, which a flow begun
// within seconds of it would take for fresh: the URL is opened by whoever began
// the flow, and prompt=login can be taken out of it.
func (s *API) anew(r *http.Request, f signin.Flow, l approval.Login) error {
	last, err := s.Logins.Get(r.Context(), l.Issuer, l.Sub)
	switch {
	case errors.Is(err, approval.ErrNoLogin):
		return nil
	case err != nil:
		return err
	case last.AuthTime.Equal(l.AuthTime) && l.AuthTime.Before(f.Began.Truncate(time.Second)):
		return fmt.Errorf("%w: it has served for another one already", signin.ErrNotFresh)
	}
	return nil
}

// called is who has signed in, for themselves to read.
func called(l approval.Login, p *rules.Policy) string {
	if person, ok := p.Person(l.Issuer, l.Sub); ok {
		return person.Name + " (" + l.Issuer + "#" + l.Sub + ")"
	}
	return l.Issuer + "#" + l.Sub
}

func (s *API) vote(r *http.Request, l approval.Login, i Intent) approval.Vote {
	return approval.Vote{Issuer: l.Issuer, Sub: l.Sub, Via: approval.ViaOIDC, Login: l.Proof(s.Source(r), "cli"), At: s.Now().UTC(),
		Approve: i.Do == DoApprove || i.Do == DoBreakGlass || i.Do == DoJustified, Once: i.Once, BreakGlass: i.Do == DoBreakGlass,
		Reason: s.Words(strings.TrimSpace(i.Reason), 4*maxReason)}
}

// Vote is POST /api/approvals/{id}/votes: the ballot, and what its voter saw.
func (s *API) Vote(w http.ResponseWriter, r *http.Request) {
	var ask struct {
		Ballot string `json:"ballot"`
		Shown  string `json:"shown"`
	}
	if !s.ready(w, r) || !s.read(w, r, &ask) {
		return
	}
	var b ballot
	if err := s.Seal.Open(forBallot, ask.Ballot, s.Now(), &b); err != nil || b.Approval != r.PathValue("id") {
		s.Failed(r, errors.New("a ballot that is none for this approval, or too old"))
		Fail(w, http.StatusForbidden, "this is no ballot for this approval, or it is more than five minutes old: sign in again")
		return
	}
	if !s.once(b.Key, s.Now().Add(ballotLife)) {
		Fail(w, http.StatusConflict, "this ballot was cast already: see how the approval stands")
		return
	}
	v, p := s.vote(r, b.Login, b.Intent), s.Policy()
	v.Shown = ask.Shown
	// Whoever leaves now has voted all the same: cut off between the store and
	// the record, the vote would be in the one and not in the other.
	ctx := context.WithoutCancel(r.Context())
	var a approval.Approval
	var err error
	switch {
	case p == nil:
		err = fmt.Errorf("%w: no policy is in force", approval.ErrStale)
	case b.Intent.Do == DoRevoke:
		a, err = s.Book.Revoke(ctx, b.Approval, v, p)
	case b.Intent.Do == DoJustified || b.Intent.Do == DoUnjustified:
		a, err = s.Book.ReviewBy(ctx, b.Approval, v, p)
	default:
		a, err = s.Book.Vote(ctx, b.Approval, v, p)
	}
	if err != nil {
		s.doesNotCount(w, r, b.Approval, v, err)
		return
	}
	Answer(w, http.StatusOK, struct {
		Who   string `json:"who"`
		Sight Sight  `json:"sight"`
	}{called(b.Login, p), s.sight(a, p)})
}

// doesNotCount reports a vote, and then answers it. What does not concern the
// voter is, to them, not there.
func (s *API) doesNotCount(w http.ResponseWriter, r *http.Request, id string, v approval.Vote, why error) {
	s.Log.WarnContext(r.Context(), "a vote from a command line was refused", "approval", id, "sub", v.Sub, "err", why)
	s.Refused(r.Context(), id, v, why)
	s.refuse(w, r, why)
}

// once tells whether the key is new, and keeps it until then.
func (s *API) once(key string, until time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, there := s.used[key]; there {
		return false
	}
	if len(s.used) >= maxUsed {
		for k, t := range s.used {
			if !s.Now().Before(t) {
				delete(s.used, k)
			}
		}
		if len(s.used) >= maxUsed {
			return false
		}
	}
	s.used[key] = until
	return true
}
