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
	"countersign/enforcer/credential"
	"countersign/enforcer/freeze"
	"countersign/rules"
)

// Live credentials over HTTP, for whom freezes are for (see Control):
//
//	GET  /credentials         200, {"credentials":[…]}
//	POST /credentials/revoke  {"all":true,"reason":"…"}, or some of key, issuer
//	                          and sub, client, server, credential in the place of
//	                          all: 200, {"revoked":[…],"pending":[…]}, those not
//	                          revoked yet among the latter
//
// Errors are as for freezes; 404 where the key is no lease's. Both are recorded,
// and no value is in any of it. Only leases of this enforcer are there.

// leaseView is a lease as people see it.
type leaseView struct {
	Key        string    `json:"key"`
	Credential string    `json:"credential"`
	Server     string    `json:"server"`
	Issuer     string    `json:"issuer,omitempty"`
	Sub        string    `json:"sub,omitempty"`
	Client     string    `json:"client,omitempty"`
	Call       string    `json:"call"`     // that it was minted for
	PerCall    bool      `json:"per_call"` // for that call alone; otherwise the holder's calls share it
	Username   string    `json:"username,omitempty"`
	Expires    time.Time `json:"expires,omitzero"`
	Uses       int       `json:"uses"` // calls in flight
	Ending     string    `json:"ending,omitempty"`
}

func view(l credential.LeaseInfo) leaseView {
	of := holderOf(l.Holder)
	out := leaseView{Key: l.Key, Credential: l.Name, Server: of.Server, Issuer: of.Issuer, Sub: of.Sub, Client: of.Client,
		Call: l.Call, PerCall: l.PerCall, Username: l.Username, Expires: l.Expires.UTC(), Uses: l.Uses}
	switch {
	case l.Failed:
		out.Ending = "to revoke it failed, and is repeated"
	case l.Ending:
		out.Ending = "it is being revoked, or will be with its last call"
	}
	return out
}

// revokeRequest names leases: those that agree with all that is given.
type revokeRequest struct {
	All        bool   `json:"all"`
	Key        string `json:"key"`
	Issuer     string `json:"issuer"`
	Sub        string `json:"sub"`
	Client     string `json:"client"`
	Server     string `json:"server"`
	Credential string `json:"credential"`
	Reason     string `json:"reason"`
}

// problem says what is wrong with a request.
func (q revokeRequest) problem() string {
	some := q.Key+q.Issuer+q.Sub+q.Client+q.Server+q.Credential != ""
	switch {
	case q.All && some:
		return "either all credentials or some of them, not both"
	case !q.All && !some:
		return "say which credentials to revoke: all, or some of key, issuer and sub, client, server, credential"
	case (q.Issuer == "") != (q.Sub == ""):
		return "a subject is an issuer and a sub: want both"
	case strings.TrimSpace(q.Reason) == "":
		return "to revoke needs a reason: the agents whose calls it ends are told"
	case strings.ContainsAny(q.Reason, "\r\n") || len(q.Reason) > 512:
		return "a reason is one line of at most 512 bytes"
	}
	return ""
}

func (q revokeRequest) covers(l credential.LeaseInfo) bool {
	of := holderOf(l.Holder)
	for _, pair := range [][2]string{{q.Key, l.Key}, {q.Issuer, of.Issuer}, {q.Sub, of.Sub}, {q.Client, of.Client}, {q.Server, of.Server}, {q.Credential, l.Name}} {
		if pair[0] != "" && pair[0] != pair[1] {
			return false
		}
	}
	return true
}

// String names the leases in words.
func (q revokeRequest) String() string {
	if q.All {
		return "all credentials"
	}
	var parts []string
	for _, pair := range [][2]string{{"", q.Key}, {"subject ", q.Issuer + "#" + q.Sub}, {"client ", q.Client}, {"server ", q.Server}, {"credential ", q.Credential}} {
		if pair[1] != "" && pair[1] != "#" {
			parts = append(parts, pair[0]+pair[1])
		}
	}
	return strings.Join(parts, ", ")
}

func (e *Enforcer) serveLeases(w http.ResponseWriter, r *http.Request, by freeze.Operator) {
	all := []leaseView{}
	if e.Credentials != nil {
		for _, l := range e.Credentials.Leases() {
			all = append(all, view(l))
		}
	}
	if err := e.operatedOn(r.Context(), by, "listed", by.Name+" listed the live credentials", map[string]any{"live": len(all)}); err != nil {
		e.Log.Error("a list of credentials could not be recorded", "err", err)
		api.Fail(w, http.StatusServiceUnavailable, "the record cannot be written, so nothing is shown: "+publicCause(err))
		return
	}
	api.Answer(w, http.StatusOK, map[string]any{"credentials": all})
}

// revokeWait is how long whoever revokes waits for Vault. What is not revoked
// by then is repeated until it is.
const revokeWait = 20 * time.Second

func (e *Enforcer) serveRevoke(w http.ResponseWriter, r *http.Request, by freeze.Operator) {
	var ask revokeRequest
	if !api.Read(w, r, maxOperation, e.words, &ask) {
		return
	}
	if text := ask.problem(); text != "" {
		api.Fail(w, http.StatusBadRequest, text)
		return
	}
	reason := e.words(ask.Reason, len(ask.Reason))
	why := fmt.Sprintf("revoked by %s: %s", by.Name, reason)
	out := struct {
		Revoked []leaseView `json:"revoked"`
		Pending []leaseView `json:"pending"`
		Warning string      `json:"warning,omitempty"`
	}{[]leaseView{}, []leaseView{}, ""}
	// The record has whom it is about as it has its subjects: by name or not.
	named := ask
	whom := e.naming.Subject(e.Policy(), rules.Subject{Issuer: ask.Issuer, Sub: ask.Sub})
	named.Issuer, named.Sub = whom.Issuer, whom.Sub
	// As with a freeze: where the record fails it is done all the same, loudly.
	// Each lease's end is recorded by itself.
	if err := e.operatedOn(r.Context(), by, "revoke-asked", fmt.Sprintf("%s asked to revoke %s: %s", by.Name, e.words(named.String(), 1024), reason), nil); err != nil {
		e.Log.Error("a revocation by an operator could not be recorded", "what", ask.String(), "by", by.Name, "err", err)
		out.Warning = "it is done, but the record cannot be written: " + publicCause(err)
	}
	ended := e.revoke(r.Context(), why, ask.covers)
	if len(ended) == 0 && ask.Key != "" {
		api.Fail(w, http.StatusNotFound, fmt.Sprintf("no live credential of this enforcer has the key %q", e.words(ask.Key, 100)))
		return
	}
	lives := map[string]credential.LeaseInfo{}
	if e.Credentials != nil {
		for _, l := range e.Credentials.Leases() {
			lives[l.Key] = l
		}
	}
	for _, l := range ended {
		if now, still := lives[l.Key]; still {
			out.Pending = append(out.Pending, view(now))
		} else {
			out.Revoked = append(out.Revoked, view(l))
		}
	}
	e.Log.Warn("credentials revoked", "what", ask.String(), "why", why, "revoked", len(out.Revoked), "pending", len(out.Pending))
	api.Answer(w, http.StatusOK, out)
}

// revoke ends leases and the calls that use them, at once.
func (e *Enforcer) revoke(ctx context.Context, why string, match func(credential.LeaseInfo) bool) []credential.LeaseInfo {
	if e.Credentials == nil {
		return nil
	}
	// Whoever asked may leave: it is done nevertheless.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), revokeWait)
	defer cancel()
	return e.Credentials.Revoke(ctx, why, e.LeaseEnded, match)
}

// operatedOn records what an operator did with credentials.
func (e *Enforcer) operatedOn(ctx context.Context, by freeze.Operator, status, reason string, detail map[string]any) error {
	en := audit.Entry{Kind: audit.KindCredential, Call: e.ID(), Issuer: by.Issuer, Sub: by.Sub, Status: status, Reason: reason}
	if p := e.Policy(); p != nil {
		en.Policy = p.Commit()
	}
	all := map[string]any{"by": by.Name}
	for k, v := range detail {
		all[k] = v
	}
	return e.event(context.WithoutCancel(ctx), en, all)
}

// live asks for an upstream whether the exchange's lease is; nil where it has
// none.
func (x *exchange) live() func() bool {
	if x.lease == nil {
		return nil
	}
	return x.lease.Live
}

// orRevoked is why a call failed, where a person revoked its credential.
func (x *exchange) orRevoked(err error) error {
	var ref *refusal
	if x.lease == nil || !errors.As(err, &ref) || ref.kind != kindUpstream && ref.kind != kindUnavailable {
		return err
	}
	why := x.lease.Ended()
	switch {
	case why == "":
		return err
	case x.forwarded:
		return refuse(ref.kind, "credential %q was %s; the call was with the upstream server, and may have run", x.lease.Name, why)
	}
	return refuse(ref.kind, "credential %q was %s; nothing ran", x.lease.Name, why)
}
