package enforcer

import (
	"errors"
	"net/http"
	"time"

	"countersign/enforcer/approval/api"
	"countersign/enforcer/freeze"
	"countersign/rules"
)

// The approvals over HTTP, for the command line; see package api for what is
// sent:
//
//	GET  /api/approvals                a token for operating: what concerns its person
//	GET  /api/approvals/{id}           the same
//	POST /api/approvals/{id}/withdraw  a token for operating, or for MCP: of whoever asked
//	POST /api/approvals/{id}/sign-in   nobody: these three sign a person in, and vote
//	POST /api/approvals/{id}/ballot
//	POST /api/approvals/{id}/votes
//	POST /api/approvals/{id}/revoke    on the control socket only: the operator
//
// On the control socket the operator sees all, and withdraws what nobody else
// has to consent to; to vote they sign in, as everybody does.

// mountApprovals adds these endpoints; operator is nil but on the control
// socket.
func (e *Enforcer) mountApprovals(mux *http.ServeMux, operator func(*http.Request) freeze.Operator) {
	if e.ballots == nil {
		return
	}
	handle := func(pattern string, serve func(http.ResponseWriter, *http.Request)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			conn := http.NewResponseController(w) // one without deadlines (a test's) never blocks
			_ = conn.SetReadDeadline(time.Now().Add(bodyLimit))
			_ = conn.SetWriteDeadline(time.Now().Add(writeLimit))
			defer func() { _ = conn.SetWriteDeadline(time.Time{}) }()
			defer func() { _ = conn.SetReadDeadline(time.Time{}) }()
			if operator == nil {
				if err := e.foreign(r); err != nil {
					e.stranger(w, r, err)
					return
				}
			}
			serve(w, r)
		})
	}
	reads := func(serve func(http.ResponseWriter, *http.Request, api.Reader)) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, r *http.Request) {
			if operator != nil {
				serve(w, r, api.Reader{All: true})
				return
			}
			caller, err := bearer(r.Context(), r, e.Operators)
			if err != nil {
				e.stranger(w, r, err)
				return
			}
			by := api.Reader{Subject: caller.Subject}
			if p := e.Policy(); p != nil {
				_, by.All = p.MayFreeze(caller.Subject)
			}
			serve(w, r, by)
		}
	}
	handle("GET /api/approvals", reads(e.ballots.List))
	handle("GET /api/approvals/{id}", reads(e.ballots.Show))
	handle("POST /api/approvals/{id}/sign-in", e.ballots.Begin)
	handle("POST /api/approvals/{id}/ballot", e.ballots.Redeem)
	handle("POST /api/approvals/{id}/votes", e.ballots.Vote)
	if operator != nil {
		handle("POST /api/approvals/{id}/withdraw", func(w http.ResponseWriter, r *http.Request) {
			e.ballots.Withdraw(w, r, rules.Subject{}, operator(r).Name)
		})
		handle("POST /api/approvals/{id}/revoke", func(w http.ResponseWriter, r *http.Request) {
			e.ballots.RevokeAsOperator(w, r, operator(r).Name)
		})
		return
	}
	handle("POST /api/approvals/{id}/withdraw", func(w http.ResponseWriter, r *http.Request) {
		caller, err := bearer(r.Context(), r, e.Identity)
		if err != nil {
			caller, err = bearer(r.Context(), r, e.Operators)
		}
		if err != nil {
			e.stranger(w, r, err)
			return
		}
		e.ballots.Withdraw(w, r, caller.Subject, "")
	})
}

// stranger turns away, on record, a request from elsewhere or without a good
// token.
func (e *Enforcer) stranger(w http.ResponseWriter, r *http.Request, err error) {
	var ref *refusal
	if !errors.As(err, &ref) {
		ref = refuse(kindUnavailable, "%w", err)
	}
	x := &exchange{e: e, w: w, r: r, id: e.ID(), start: e.Now(), source: e.source(r)}
	e.unknown(x, refuse(ref.kind, "approvals: %w", ref.cause))
	e.turnAway(w, ref, x.id)
}

// noVoter records that what came to vote was nobody's; as with tokens, those that
// are alike are counted.
func (e *Enforcer) noVoter(r *http.Request, why error) {
	x := &exchange{e: e, r: r, id: e.ID(), start: e.Now(), source: e.voteSource(r)}
	e.unknown(x, refuse(kindUnauthenticated, "approvals: %w", why))
}

// voteSource is where a vote comes from: an address, or the control socket.
func (e *Enforcer) voteSource(r *http.Request) string {
	if source := e.source(r); source != "@" && source != "" { // as an unnamed Unix socket is called
		return source
	}
	return "control.sock"
}

// VotesUnder is the policy that votes are checked under, through whatever door:
// none while it is too old.
func (e *Enforcer) VotesUnder() *rules.Policy {
	f, err := e.current()
	if err != nil {
		return nil
	}
	return f.policy
}
