package enforcer

import (
	"errors"
	"net/http"

	"countersign/audit"
	"countersign/enforcer/approval/api"
	"countersign/enforcer/freeze"
)

// Erasing bodies from the record, for the command line alone (see Control): who
// erases need not be who may freeze.
//
//	POST /erasures        {"issuer":"…","sub":"…","reason":"…"}, or {"call":"…","reason":"…"}:
//	                      200 and the audit.Erasure, done or not
//	GET  /erasures        200, {"erasures":[…]}: those that are not done
//	GET  /erasures/{id}   200 and the audit.Erasure; 404

func (e *Enforcer) serveErase(w http.ResponseWriter, r *http.Request, by freeze.Operator) {
	var ask struct {
		Issuer string `json:"issuer"`
		Sub    string `json:"sub"`
		Call   string `json:"call"`
		Reason string `json:"reason"`
	}
	if !api.Read(w, r, maxOperation, e.words, &ask) {
		return
	}
	er, err := e.Eraser.Ask(r.Context(), audit.Erasure{
		By: by.Name, Issuer: ask.Issuer, Sub: ask.Sub, Call: ask.Call, Reason: e.words(ask.Reason, 1024),
	})
	switch {
	case errors.Is(err, audit.ErrErasure):
		api.Fail(w, http.StatusBadRequest, err.Error())
	case err != nil:
		e.Log.Error("an erasure could not be begun", "err", err)
		api.Fail(w, http.StatusServiceUnavailable, e.words(err.Error(), 1024))
	default:
		api.Answer(w, http.StatusOK, e.erasure(er))
	}
}

// erasure is one as it may be shown.
func (e *Enforcer) erasure(er audit.Erasure) audit.Erasure {
	er.Waits = e.words(er.Waits, 1024)
	return er
}

func (e *Enforcer) serveErasures(w http.ResponseWriter, _ *http.Request, _ freeze.Operator) {
	all := e.Eraser.List()
	for i := range all {
		all[i] = e.erasure(all[i])
	}
	api.Answer(w, http.StatusOK, map[string]any{"erasures": all})
}

func (e *Enforcer) serveErasure(w http.ResponseWriter, r *http.Request, _ freeze.Operator) {
	er, ok := e.Eraser.Get(r.PathValue("id"))
	if !ok {
		api.Fail(w, http.StatusNotFound, "no such erasure waits, or was done since the enforcer started: the record has it")
		return
	}
	api.Answer(w, http.StatusOK, e.erasure(er))
}
