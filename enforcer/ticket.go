package enforcer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"countersign/enforcer/approval"
	"countersign/enforcer/wire"
)

// A client of the stateless era that was held for as long as policy says, and
// whose approval is pending still, is answered with `input_required`: no
// inputRequests, and a requestState of ours, the ticket. It repeats its request
// with that (2026-07-28, multi round-trip requests), and waits again.
//
// A ticket is ticketPrefix and a sealed ticket (approval.Seal). It grants
// nothing: it names the approval that the request waits for, so that the retry
// is told of a denial, too, instead of asking again. It is bound to who asked
// for what at which server; any other use is refused by name.
//
// The ticket is taken out before anything looks at the request, so that the
// retry has the digest of the first try, and the server gets exactly that. A
// requestState without the prefix is the server's own and goes through; a
// request that carries one, or inputResponses, gets no ticket, which could not
// hold them.

const ticketPrefix = "countersign-wait-1."

// ticketPurpose is what the seal binds a ticket to.
const ticketPurpose = "waiting for approval"

// maxRounds is how often one request is answered with a ticket. Clients count
// such answers, and fail the call at one too many: the Go SDK at the third, the
// TypeScript and Python SDKs at the tenth or eleventh. Which of them calls,
// nothing in the request says, so it is what the most impatient one takes. The
// answer after that is the pending result, which any client can show its agent.
// Who knows a client to be patient gives it a longer hold.
const maxRounds = 2

type ticket struct {
	Issuer   string `json:"issuer"`
	Sub      string `json:"sub"`
	Client   string `json:"client"`
	Server   string `json:"server"`
	Digest   string `json:"digest"` // of what was asked
	Approval string `json:"approval"`
	Rounds   int    `json:"rounds"` // answered with a ticket so far, this one included
}

// ticketLasts is how long a ticket outlives the approval that it names: the
// retry is told that nobody answered in time.
const ticketLasts = 10 * time.Minute

var errTicket = errors.New("requestState was not given by this gateway, was changed on the way, or is too old")

// waitsOn are the methods that may be answered with input_required.
func waitsOn(method string) bool {
	return method == "tools/call" || method == "prompts/get" || method == "resources/read"
}

// readTicket opens a requestState that has the prefix.
func readTicket(s approval.Seal, state string, now time.Time) (t ticket, err error) {
	text, ours := strings.CutPrefix(state, ticketPrefix)
	if !ours || s.Open(ticketPurpose, text, now, &t) != nil {
		return ticket{}, errTicket
	}
	return t, nil
}

// untaken reads the ticket that a request brings, and takes it out. The splice
// is one of the listed ones: what is left is the request as it was first asked.
func (x *exchange) untaken() error {
	if x.msg == nil || x.msg.Kind != wire.Request || !waitsOn(x.msg.Method) {
		return nil
	}
	at, ok := x.msg.Member(x.msg.Params, "requestState")
	if !ok {
		return nil
	}
	state, text := x.msg.Text(at)
	if !text || !strings.HasPrefix(state, ticketPrefix) {
		return nil // the server's own
	}
	t, err := readTicket(x.e.tickets, state, x.e.Now())
	switch {
	case err != nil:
		return refuse(kindUnknown, "%w: repeat the call without it", err)
	case t.Issuer != x.caller.Subject.Issuer || t.Sub != x.caller.Subject.Sub || t.Client != x.caller.Client:
		return refuse(kindUnknown, "requestState was given to another caller")
	case t.Server != x.server:
		return refuse(kindUnknown, "requestState was given for a call of another server")
	}
	without := []string{"requestState"}
	if at, ok := x.msg.Member(x.msg.Params, "inputResponses"); ok {
		empty := true
		x.msg.Members(at, func([]byte, wire.Span) bool { empty = false; return false })
		if first := x.msg.Bytes(at)[0]; !empty || first != '{' && first != 'n' {
			return refuse(kindUnknown, "this gateway asked for no input: repeat the call without inputResponses")
		}
		without = append(without, "inputResponses")
	}
	raw := x.msg.Without(without...)
	set := x.force.policy.Settings()
	m, err := wire.Parse(raw, wire.Limits{Bytes: int(set.MaxRequest), Depth: set.MaxDepth})
	if err != nil {
		return refuse(kindBadRequest, "%w", err)
	}
	x.raw, x.msg, x.ticket = raw, m, &t
	return nil
}

// resumed tells the client that comes back with a ticket how the approval ended,
// if it did: it has heard nothing since, and asking again is not what it wants.
func (x *exchange) resumed(ctx context.Context) error {
	if x.ticket == nil {
		return nil
	}
	a, err := x.e.Approvals.Get(ctx, x.ticket.Approval)
	switch {
	case errors.Is(err, approval.ErrUnknown):
		return nil // long ago
	case err != nil:
		return refuse(kindUnavailable, "the approval's state cannot be read: %w", err)
	}
	if !a.State.Ended() && !x.e.Now().Before(a.Ends()) {
		a.State = approval.Expired // it is about to be
	}
	if !a.State.Ended() {
		return nil
	}
	x.approval = a.ID
	return x.denied(verdict(a))
}

// again is the refusal that a client whose hold is spent is answered with: a
// ticket if it can use one, the pending result otherwise.
func (x *exchange) again(a approval.Approval) *refusal {
	pending := x.pending(a)
	rounds := 0
	if x.ticket != nil {
		rounds = x.ticket.Rounds
	}
	if !x.client().Modern() || !waitsOn(x.msg.Method) || rounds >= maxRounds {
		return pending
	}
	for _, own := range []string{"requestState", "inputResponses"} {
		if _, ok := x.msg.Member(x.msg.Params, own); ok {
			return pending
		}
	}
	t := ticket{
		Issuer: x.caller.Subject.Issuer, Sub: x.caller.Subject.Sub, Client: x.caller.Client, Server: x.server,
		Digest: x.digest, Approval: a.ID, Rounds: rounds + 1,
	}
	state, err := x.e.tickets.Close(ticketPurpose, a.Ends().Add(ticketLasts), t)
	if err != nil {
		return pending
	}
	pending.result = fmt.Appendf(nil, `{"resultType":"input_required","inputRequests":{},"requestState":%s,"_meta":{%q:%s}}`,
		wire.Quote(ticketPrefix+state), metaApproval, x.about(a))
	return pending
}

// metaApproval is the _meta key of what a client may show of an approval.
const metaApproval = "countersign/approval"

// about is what a client may show of an approval that its request waits for.
func (x *exchange) about(a approval.Approval) []byte {
	b, err := json.Marshal(map[string]string{
		"id": a.ID, "approvers": approvers(a), "url": x.e.page(a.ID), "expires": a.Expires.UTC().Format(time.RFC3339), "record": x.id,
	})
	if err != nil {
		return []byte("{}") // texts only: it cannot fail
	}
	return b
}

// page is where a person sees an approval.
func (e *Enforcer) page(id string) string { return e.PublicURL + "/approvals/" + id }

// client is the request as its client sent it: by way of the endpoint for all
// servers that may have been in the other era.
func (x *exchange) client() *wire.Message {
	if x.origin != nil {
		return x.origin
	}
	return x.msg
}

type originKey struct{}

// origin is what a request in process was made of.
func origin(r *http.Request) *wire.Message {
	m, _ := r.Context().Value(originKey{}).(*wire.Message)
	return m
}
