// Package api is how a command line looks at approvals, and how a person at one
// votes: signed in afresh in their browser, for one vote.
//
// It promises:
//
//   - No token votes. Who votes is who has just signed in for this very vote at
//     the identity provider, as a client of ours by which no agent gets tokens;
//     a request that brings a bearer token is refused.
//   - What the vote will be is sealed before the sign-in begins: approve or deny,
//     how, the reason, and about what. One sign-in gives one vote.
//   - Whoever votes is sent all of what they vote about, after the sign-in and
//     before the vote, and the vote says what they were sent. The checks are
//     those of package approval, at the moment of the vote, as for a vote from the
//     page; so is the record.
//   - A vote that does not count is reported, to be recorded, before whoever
//     voted is told why.
//   - People see the approvals that concern them, and who may stop everything
//     sees all.
//
// The voter's way, each a POST with a JSON object, answered with one or with
// {"error":"…"}:
//
//	/api/approvals/{id}/sign-in  {do, once, reason, redirect, challenge}: {url, flow, state}
//	/api/approvals/{id}/ballot   {flow, state, code, iss, verifier}: {who, sight, ballot}
//	/api/approvals/{id}/votes    {ballot, shown}: {who, sight}
//
// The redirect is one to the machine that the browser runs on (RFC 8252 section
// 7.3), the challenge and its verifier are those of PKCE (RFC 7636): only the
// process that began it can end it.
package api

import (
	"context"
	encode "encoding/json" // as approvals are written everywhere: it spells durations
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/go-json-experiment/json"

	"countersign/enforcer/approval"
	"countersign/enforcer/approval/signin"
	"countersign/enforcer/approval/tell"
	"countersign/rules"
)

// Config is what an API needs.
type Config struct {
	Book   *approval.Book
	Logins *approval.Logins
	Seal   approval.Seal
	SignIn *signin.Client       // nil: nobody can sign in, so nobody votes here
	Policy func() *rules.Policy // the policy in force; nil while there is none
	Page   string               // public URL of the approval page; "" if there is none

	// Words masks what a person typed, and cuts it to so many bytes.
	Words func(text string, bytes int) string
	// Refused is told of each vote of a signed-in person that did not count:
	// v.Issuer and v.Sub say who. Texts in v and why are not masked.
	Refused func(ctx context.Context, approvalID string, v approval.Vote, why error)
	// Failed is told of what came to the voter's way and led to no voter: a token,
	// a flow or a ballot that is none, a sign-in that failed. Anybody can cause any
	// number of them. Texts in why are not masked.
	Failed func(r *http.Request, why error)
	// Source is the address that a request comes from.
	Source func(*http.Request) string

	Now func() time.Time
	Log *slog.Logger
}

// API is safe for concurrent use.
type API struct {
	Config
	busy chan struct{}  // sign-ins being redeemed
	ends *signin.Limits // of them, by address: each asks the issuer

	mu   sync.Mutex
	used map[string]time.Time // flows and ballots that were used, until they are too old
}

const (
	maxBody   = 32 << 10
	maxBusy   = 8       // sign-ins redeemed at a time
	maxUsed   = 100_000 // beyond it new ones are refused, and none is forgotten
	maxReason = 500     // characters, as in Slack and on the page
)

// New returns an API.
func New(c Config) *API {
	return &API{Config: c, busy: make(chan struct{}, maxBusy), ends: signin.NewLimits(20, 3*time.Second), used: map[string]time.Time{}}
}

// Reader is who looks.
type Reader struct {
	All     bool          // sees everything: the operator, and who may stop everything
	Subject rules.Subject // with the groups of their token, or of their sign-in
}

// Sight is an approval as a person is shown it. Texts in it are masked, but hold
// whatever characters agents sent: see tell.Visible.
type Sight struct {
	Approval approval.Approval `json:"approval"`
	Headline string            `json:"headline"`
	Standing []string          `json:"standing"`
	Voters   []string          `json:"voters,omitempty"`
	Notes    []string          `json:"notes,omitempty"`
	Reasons  []tell.Reason     `json:"reasons"`
	Facts    []tell.Fact       `json:"facts"`
	Trace    []string          `json:"trace,omitempty"`
	Shown    string            `json:"shown"` // what a vote names as seen
	Window   bool              `json:"window,omitempty"`
	Review   bool              `json:"needs_review,omitempty"`
	Page     string            `json:"page,omitempty"`
}

func (s *API) sight(a approval.Approval, p *rules.Policy) Sight {
	lines := func(all []tell.Line) (out []string) {
		for _, l := range all {
			out = append(out, l.String())
		}
		return out
	}
	link := ""
	if p != nil {
		link = p.Settings().PolicyLink
	}
	headline, _ := tell.Headline(a, p)
	return Sight{
		Approval: a, Headline: headline, Standing: lines(tell.Standing(a)), Voters: lines(tell.Voters(a, p)), Notes: lines(tell.Notes(a)),
		Reasons: tell.Reasons(a, link), Facts: tell.Facts(a), Trace: tell.Trace(a), Shown: a.Shows(),
		Window: a.Window(s.Now()), Review: a.NeedsReview(), Page: tell.PageLink(s.Page, a.ID),
	}
}

func (r Reader) concerns(a approval.Approval, p *rules.Policy) bool {
	return r.All || a.Concerns(r.Subject, p)
}

// states are what a list can be narrowed to.
var states = map[string]func(approval.Approval, time.Time) bool{
	"open": func(a approval.Approval, now time.Time) bool {
		return !a.State.Ended() && now.Before(a.Ends()) || a.NeedsReview()
	},
	"pending": func(a approval.Approval, now time.Time) bool {
		return a.State == approval.Pending && now.Before(a.Expires)
	},
	"window": func(a approval.Approval, now time.Time) bool { return a.Window(now) },
	"review": func(a approval.Approval, _ time.Time) bool { return a.NeedsReview() },
	"all":    func(approval.Approval, time.Time) bool { return true },
}

// List is GET /api/approvals: {"approvals":[…]}, newest first, without traces and
// facts. The query's state is open (pending, approved and not over, or waiting
// for review; so too without one), pending, window, review or all.
func (s *API) List(w http.ResponseWriter, r *http.Request, by Reader) {
	state := r.URL.Query().Get("state")
	if state == "" {
		state = "open"
	}
	match, ok := states[state]
	if !ok {
		Fail(w, http.StatusBadRequest, "state: want open, pending, window, review or all")
		return
	}
	all, err := s.Book.All(r.Context())
	if err != nil {
		s.broken(w, r, err)
		return
	}
	p, now := s.Policy(), s.Now()
	out := struct {
		Approvals []Sight `json:"approvals"`
	}{[]Sight{}}
	slices.SortFunc(all, func(a, b approval.Approval) int { return b.Created.Compare(a.Created) })
	for _, a := range all {
		if match(a, now) && by.concerns(a, p) {
			one := s.sight(a, p)
			one.Facts, one.Trace, one.Approval.Trace = nil, nil, nil
			out.Approvals = append(out.Approvals, one)
		}
	}
	Answer(w, http.StatusOK, out)
}

// Show is GET /api/approvals/{id}: a Sight.
func (s *API) Show(w http.ResponseWriter, r *http.Request, by Reader) {
	a, err := s.Book.Get(r.Context(), r.PathValue("id"))
	p := s.Policy()
	switch {
	case errors.Is(err, approval.ErrUnknown) || err == nil && !by.concerns(a, p):
		unknown(w)
	case err != nil:
		s.broken(w, r, err)
	default:
		Answer(w, http.StatusOK, s.sight(a, p))
	}
}

// unknown says no more of an approval that is none of the asker's business than
// of one that is not there.
func unknown(w http.ResponseWriter) {
	Fail(w, http.StatusNotFound, "there is no such approval, or it ended more than a day ago, or it does not concern you")
}

func (s *API) broken(w http.ResponseWriter, r *http.Request, err error) {
	s.Log.ErrorContext(r.Context(), "approvals cannot be read or written", "path", r.URL.Path, "err", err)
	Fail(w, http.StatusServiceUnavailable, "the approvals cannot be read or written now; nothing was decided: "+s.Words(err.Error(), 300))
}

// Withdraw is POST /api/approvals/{id}/withdraw {reason}, by whoever asked; or,
// with an empty subject, by the operator whom name names.
//
// An agent's own token does here: to take back what it asked for gives nobody a
// permission, and whoever holds the token could as well not repeat the call. A
// token of another subject withdraws nothing.
func (s *API) Withdraw(w http.ResponseWriter, r *http.Request, who rules.Subject, name string) {
	var ask struct {
		Reason string `json:"reason"`
	}
	if !s.read(w, r, &ask) {
		return
	}
	why, err := s.Words(ask.Reason, 4*maxReason), error(nil)
	id := r.PathValue("id")
	switch {
	case why == "":
		err = fmt.Errorf("%w: it stands in the record", approval.ErrReason)
	case who.Sub == "":
		err = s.Book.Withdraw(context.WithoutCancel(r.Context()), id, name+": "+why)
	default:
		err = s.Book.WithdrawBy(context.WithoutCancel(r.Context()), id, who, why)
	}
	if errors.Is(err, approval.ErrNotYours) {
		err = approval.ErrUnknown
	}
	s.done(w, r, id, err)
}

// RevokeAsOperator is POST /api/approvals/{id}/revoke {reason}, for the operator
// on the machine, whom name names. Other people sign in, and revoke as they vote.
func (s *API) RevokeAsOperator(w http.ResponseWriter, r *http.Request, name string) {
	var ask struct {
		Reason string `json:"reason"`
	}
	if !s.read(w, r, &ask) {
		return
	}
	id := r.PathValue("id")
	_, err := s.Book.Revoke(context.WithoutCancel(r.Context()), id, approval.Vote{Via: approval.ViaOperator, Person: name, Reason: s.Words(ask.Reason, 4*maxReason)}, s.Policy())
	s.done(w, r, id, err)
}

// done answers with the approval as it stands, or with what was wrong.
func (s *API) done(w http.ResponseWriter, r *http.Request, id string, err error) {
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	a, err := s.Book.Get(r.Context(), id)
	if err != nil {
		s.broken(w, r, err)
		return
	}
	Answer(w, http.StatusOK, struct {
		Sight Sight `json:"sight"`
	}{s.sight(a, s.Policy())})
}

// refuse answers with why something was not done.
func (s *API) refuse(w http.ResponseWriter, r *http.Request, err error) {
	is := func(these ...error) bool {
		return slices.ContainsFunc(these, func(e error) bool { return errors.Is(err, e) })
	}
	switch {
	case is(approval.ErrUnknown):
		unknown(w)
	case is(approval.ErrUnrecorded):
		s.broken(w, r, err)
	case is(approval.ErrReason, approval.ErrVote, approval.ErrRequest):
		Fail(w, http.StatusBadRequest, s.Words(err.Error(), 500))
	case is(approval.ErrDecided, approval.ErrExpired, approval.ErrStale, approval.ErrShown, approval.ErrDuplicate, approval.ErrNotApproved, approval.ErrNoReview, approval.ErrSpent):
		Fail(w, http.StatusConflict, s.Words(err.Error(), 500))
	case is(approval.ErrOwnRequest, approval.ErrOwner, approval.ErrNotApprover, approval.ErrPartial, approval.ErrSignIn, approval.ErrStaleLogin, approval.ErrACR,
		approval.ErrGlass, approval.ErrNoLogin, signin.ErrNotFresh, signin.ErrRefused):
		Fail(w, http.StatusForbidden, s.Words(err.Error(), 500))
	default:
		s.broken(w, r, err)
	}
}

func (s *API) read(w http.ResponseWriter, r *http.Request, ask any) bool {
	return Read(w, r, maxBody, s.Words, ask)
}

// Read reads what is asked, a JSON object of most bytes, strictly; what it cannot
// read it answers. words masks what it says.
func Read(w http.ResponseWriter, r *http.Request, most int64, words func(text string, most int) string, ask any) bool {
	if ct, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || ct != "application/json" {
		Fail(w, http.StatusBadRequest, "want content type application/json")
		return false
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	if err == nil {
		err = json.Unmarshal(body, ask, json.RejectUnknownMembers(true))
	}
	if err != nil {
		Fail(w, http.StatusBadRequest, "the request cannot be read: "+words(err.Error(), 300))
		return false
	}
	return true
}

// Fail answers with an error.
func Fail(w http.ResponseWriter, status int, text string) {
	Answer(w, status, map[string]string{"error": text})
}

// Answer answers with a JSON value.
func Answer(w http.ResponseWriter, status int, v any) {
	b, err := encode.Marshal(v)
	if err != nil { // plain data: cannot be
		status, b = http.StatusInternalServerError, []byte(`{"error":"the answer cannot be written"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // whoever asked may have left; what was done stands
}
