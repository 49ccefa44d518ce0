package enforcer

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"countersign/audit"
	"countersign/enforcer/approval/api"
	"countersign/enforcer/freeze"
	"countersign/enforcer/identity"
)

// Freezing over HTTP, for people who hold a token for operating (see
// Config.Operators) and whom the policy names, and for the command line:
//
//	POST   /freezes        {"all":true,"reason":"…"}, or some of issuer and sub,
//	                       client, server, tool in the place of all: 201 and the
//	                       freeze, with a "warning" where something is amiss
//	GET    /freezes        200, {"freezes":[…]}
//	DELETE /freezes/{id}   200 and the freeze, which is lifted
//	DELETE /freezes        200, {"unfrozen":[…]}: all of them
//
// Either DELETE may have {"reason":"…"}, which is for the record.
//
// What fails answers {"error":"…"}: 400 where the request is wrong, 401 and 403
// where the caller is, 404 where no such freeze stands, 409 where too many do,
// 503 where the record or the store cannot be written.

const maxOperation = 16 << 10 // bytes of a request

// Control is the same for somebody whose identity the caller of this vouches
// for: who reached a socket that only the operator can open.
func (e *Enforcer) Control(who func(*http.Request) freeze.Operator) http.Handler {
	mux := http.NewServeMux()
	trusted := func(_ http.ResponseWriter, r *http.Request) (freeze.Operator, bool) { return who(r), true }
	e.mountOperate(mux, trusted)
	if e.Eraser != nil {
		mount(mux, trusted, map[string]operation{
			"POST /erasures": e.serveErase, "GET /erasures": e.serveErasures, "GET /erasures/{id}": e.serveErasure,
		})
	}
	e.mountApprovals(mux, who)
	return mux
}

// mountOperate adds these endpoints, and those of credentials. who answers a
// caller that it refuses.
func (e *Enforcer) mountOperate(mux *http.ServeMux, who func(http.ResponseWriter, *http.Request) (freeze.Operator, bool)) {
	mount(mux, who, map[string]operation{
		"POST /freezes": e.serveFreeze, "GET /freezes": e.serveFreezes,
		"DELETE /freezes/{id}": e.serveUnfreeze, "DELETE /freezes": e.serveUnfreezeAll,
		"GET /credentials": e.serveLeases, "POST /credentials/revoke": e.serveRevoke,
	})
}

type operation func(http.ResponseWriter, *http.Request, freeze.Operator)

func mount(mux *http.ServeMux, who func(http.ResponseWriter, *http.Request) (freeze.Operator, bool), all map[string]operation) {
	for pattern, serve := range all {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			// A connection without deadlines (a test's) never blocks.
			conn := http.NewResponseController(w)
			_ = conn.SetReadDeadline(time.Now().Add(bodyLimit))
			_ = conn.SetWriteDeadline(time.Now().Add(writeLimit))
			defer func() { _ = conn.SetWriteDeadline(time.Time{}) }()
			defer func() { _ = conn.SetReadDeadline(time.Time{}) }()
			if by, ok := who(w, r); ok {
				serve(w, r, by)
			}
		})
	}
}

// operator is the person whose token this is, if the policy lets them freeze.
func (e *Enforcer) operator(w http.ResponseWriter, r *http.Request) (freeze.Operator, bool) {
	x := &exchange{e: e, w: w, r: r, id: e.ID(), start: e.Now(), source: e.source(r)}
	var caller identity.Caller
	err := e.foreign(r)
	if err == nil {
		caller, err = bearer(r.Context(), r, e.Operators)
	}
	var ref *refusal
	if errors.As(err, &ref) {
		e.unknown(x, refuse(ref.kind, "%s: %w", operated(r), ref.cause))
		e.turnAway(w, ref, x.id)
		return freeze.Operator{}, false
	}
	p := e.Policy()
	if p == nil {
		api.Fail(w, http.StatusServiceUnavailable, "no policy is in force, which would say who may operate this: use the command line")
		return freeze.Operator{}, false
	}
	person, ok := p.MayFreeze(caller.Subject)
	if !ok {
		kind, text := audit.KindFreeze, "you may not freeze, nor see what is frozen"
		if operated(r) == "credentials" {
			kind, text = audit.KindCredential, "you may not see what credentials live, nor revoke them"
		}
		text += ": `freeze` in the policy's countersign.yaml does not name you"
		err := e.event(r.Context(), audit.Entry{
			Kind: kind, Call: x.id, Policy: p.Commit(), Issuer: caller.Subject.Issuer, Sub: caller.Subject.Sub, Client: caller.Client,
			Method: r.Method + " /" + operated(r), Status: audit.StatusRefused, Reason: text,
		}, map[string]any{"source": x.source})
		if err != nil {
			e.Log.Error("a refused operator could not be recorded", "err", err)
		}
		api.Fail(w, http.StatusForbidden, text+" (countersign record "+x.id+")")
		return freeze.Operator{}, false
	}
	return freeze.Operator{Name: person.Name, Issuer: person.Issuer, Sub: person.Sub}, true
}

// operated is what a request is about: freezes or credentials.
func operated(r *http.Request) string {
	if strings.HasPrefix(r.URL.Path, "/credentials") {
		return "credentials"
	}
	return "freezes"
}

// turnAway answers a request without a good token (RFC 6750 section 3), or with
// a foreign Host or Origin. Which check failed is for the record.
func (e *Enforcer) turnAway(w http.ResponseWriter, ref *refusal, record string) {
	var ierr *identity.Error
	switch known := errors.As(ref.cause, &ierr); {
	case ref.kind != kindUnauthenticated:
		api.Fail(w, http.StatusForbidden, e.words(ref.Error(), 300)+" (countersign record "+record+")")
	case known && ierr.Status() == http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "5")
		api.Fail(w, http.StatusServiceUnavailable, "the token cannot be checked now: try again (countersign record "+record+")")
	default:
		challenge := `Bearer realm="countersign operate"`
		if known && ierr.Code == identity.InvalidToken {
			challenge += `, error="invalid_token", error_description="The access token is invalid, expired, or meant for another resource"`
		}
		w.Header().Set("WWW-Authenticate", challenge)
		api.Fail(w, http.StatusUnauthorized, "unauthorized: a bearer token for operating this enforcer, and for nothing else, is needed (countersign record "+record+")")
	}
}

func (e *Enforcer) serveFreeze(w http.ResponseWriter, r *http.Request, by freeze.Operator) {
	var ask struct {
		freeze.Target
		Reason string `json:"reason"`
	}
	if !api.Read(w, r, maxOperation, e.words, &ask) {
		return
	}
	// The agents are told the reason.
	f, err := e.Freezes.Freeze(r.Context(), ask.Target, e.words(ask.Reason, len(ask.Reason)), by)
	var out struct {
		freeze.Freeze
		Warning string `json:"warning,omitempty"`
	}
	switch {
	case errors.Is(err, freeze.ErrUnstored), errors.Is(err, freeze.ErrUnrecorded):
		e.Log.Error("a freeze holds, but is not where it should be; it is tried again", "freeze", f.ID, "err", err)
		out.Warning = "it holds, and is tried again, but: " + e.words(err.Error(), 1024)
	case errors.Is(err, freeze.ErrTarget), errors.Is(err, freeze.ErrReason):
		api.Fail(w, http.StatusBadRequest, e.words(err.Error(), 300))
		return
	case errors.Is(err, freeze.ErrFull):
		api.Fail(w, http.StatusConflict, err.Error())
		return
	case err != nil:
		api.Fail(w, http.StatusInternalServerError, e.words(err.Error(), 300))
		return
	}
	if p := e.Policy(); p != nil && f.Server != "" && out.Warning == "" {
		if _, ok := p.Server(f.Server); !ok {
			out.Warning = fmt.Sprintf("it holds, but the policy in force has no server %q: is it spelt as in servers/?", f.Server)
		}
	}
	out.Freeze = f
	api.Answer(w, http.StatusCreated, out)
}

func (e *Enforcer) serveFreezes(w http.ResponseWriter, r *http.Request, _ freeze.Operator) {
	out := struct {
		Freezes []freeze.Freeze `json:"freezes"`
		Unknown string          `json:"unknown,omitempty"`
	}{Freezes: e.Freezes.List()}
	if err := e.Freezes.Err(); err != nil {
		out.Unknown = e.words(err.Error(), 1024)
	}
	api.Answer(w, http.StatusOK, out)
}

func (e *Enforcer) serveUnfreeze(w http.ResponseWriter, r *http.Request, by freeze.Operator) {
	if !e.mayLift(w, by) {
		return
	}
	var ok bool
	if by.Why, ok = e.whyLift(w, r); !ok {
		return
	}
	f, err := e.Freezes.Unfreeze(r.Context(), r.PathValue("id"), by)
	if e.lifted(r.Context(), w, err) {
		api.Answer(w, http.StatusOK, f)
	}
}

func (e *Enforcer) serveUnfreezeAll(w http.ResponseWriter, r *http.Request, by freeze.Operator) {
	if !e.mayLift(w, by) {
		return
	}
	var ok bool
	if by.Why, ok = e.whyLift(w, r); !ok {
		return
	}
	all, err := e.Freezes.UnfreezeAll(r.Context(), by)
	if e.lifted(r.Context(), w, err) {
		api.Answer(w, http.StatusOK, map[string]any{"unfrozen": all})
	}
}

// whyLift reads the reason, if the request gives one.
func (e *Enforcer) whyLift(w http.ResponseWriter, r *http.Request) (why string, ok bool) {
	if r.ContentLength == 0 {
		return "", true
	}
	var ask struct {
		Reason string `json:"reason"`
	}
	ok = api.Read(w, r, maxOperation, e.words, &ask)
	return strings.TrimSpace(e.words(ask.Reason, len(ask.Reason))), ok
}

// mayLift refuses a person whose right to lift comes from a policy that is too
// old to be in force. To freeze, the last one known is good enough.
func (e *Enforcer) mayLift(w http.ResponseWriter, by freeze.Operator) bool {
	if by.Sub == "" {
		return true // at the command line
	}
	if _, err := e.current(); err != nil {
		api.Fail(w, http.StatusServiceUnavailable, e.words(err.Error(), 300)+": nothing is lifted by its word; use the command line")
		return false
	}
	return true
}

func (e *Enforcer) lifted(ctx context.Context, w http.ResponseWriter, err error) bool {
	switch {
	case err == nil:
		return true
	case errors.Is(err, freeze.ErrNone):
		api.Fail(w, http.StatusNotFound, e.words(err.Error(), 300))
	case errors.Is(err, freeze.ErrWhy):
		api.Fail(w, http.StatusBadRequest, err.Error())
	default:
		e.Log.ErrorContext(ctx, "a freeze could not be lifted", "err", err)
		api.Fail(w, http.StatusServiceUnavailable, e.words(err.Error(), 1024))
	}
	return false
}
