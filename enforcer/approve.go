package enforcer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"

	"countersign/audit"
	"countersign/enforcer/approval"
	"countersign/enforcer/mask"
	"countersign/enforcer/wire"
	"countersign/rules"
)

// keepAlive is how often a waiting caller hears from us: well below every
// client's idle limit that is known.
const keepAlive = 10 * time.Second

// approve has a person decide, where policy asks for one.
//
// The caller waits on an open event stream for as long as the policy holds it;
// then it is told that the approval is pending, and an identical call attaches
// to the same approval. Once granted, the request is decided again under the
// policy then in force, and the approval is spent by compare-and-swap: at most
// one call runs on it.
func (x *exchange) approve(ctx context.Context) error {
	if x.decision.Effect != rules.Approve {
		return nil
	}
	if x.msg == nil || x.msg.Kind != wire.Request {
		return x.denied("this needs a person's approval, which only a request can wait for")
	}
	var err error
	if x.binds, err = x.binding(); err != nil {
		return err
	}
	if err := x.deliverLate(); err != nil {
		return err
	}
	shown, partial := x.shown()
	asked := x.decision.RulesDigest
	request := approval.Request{
		Subject: x.caller.Subject, Client: x.caller.Client, Server: x.server, Method: x.req.Method, Tool: x.e.words(x.req.Tool, 256), Resource: x.e.words(x.req.Resource, 2048),
		Holder: x.holder(), Digest: x.binds, Args: shown, Partial: partial, Does: x.does(),
		Asks: x.decision.Asks, Trace: x.decision.Trace, RulesDigest: asked, Policy: x.decision.Policy, Grant: x.decision.Grant,
		Expires: x.e.Now().Add(x.decision.Expires), Call: x.id,
	}
	a, _, err := x.e.Approvals.Ask(ctx, request)
	if err != nil {
		return refuse(kindUnavailable, "the approval could not be asked for: %w", err)
	}
	x.approval = a.ID
	if a.State == approval.Pending {
		if a, err = x.wait(ctx, a); err != nil {
			return err
		}
	}
	if a.State != approval.Approved {
		return x.denied(verdict(a))
	}
	if x.force, err = x.e.current(); err != nil {
		return refuse(kindUnavailable, "%w", err)
	}
	x.req.Now = x.e.Now()
	again := x.ask()
	if again.Effect == rules.Deny {
		x.decision = again
		return x.denied("approved, but the policy has changed since and now denies it: " + again.Reason)
	}
	if again.Effect == rules.Approve && again.RulesDigest != asked {
		x.decision = again
		return x.denied("approved, but the rules that ask for approval, the server or its credential have changed since: repeat the call to ask again")
	}
	if again.Credential != x.decision.Credential {
		x.decision = again
		return x.denied("approved, but the policy has changed its credential since: repeat the call to ask again")
	}
	if err := x.unfrozen(ctx); err != nil {
		return err // the approval stays: it may be spent once the freeze is lifted
	}
	if err := x.answerable(ctx); err != nil { // the approval stays
		return err
	}
	if refused := x.e.Quotas.Count(x.req.Now, x.draws()); refused != nil {
		return x.exhausted(refused) // the approval stays
	}
	x.lateKey = x.sameRequest() // as the caller's next identical call will have it
	x.decision = again
	if _, err = x.e.Approvals.Spend(ctx, a.ID, request, x.id); err != nil {
		return x.denied("the approval cannot be used: " + err.Error())
	}
	x.spent = true
	return nil
}

// binding is what an approval is bound to: what is asked, and what Vault is
// asked for it, where that depends on more than what is asked. The same call by
// the same caller is another one when its token names another team, say.
func (x *exchange) binding() (string, error) {
	c, ok := x.force.credential(x.server, x.decision.Credential)
	if !ok || !c.UsesCaller() {
		return x.digest, nil
	}
	ask, err := x.asks(c)
	if err != nil {
		return "", err
	}
	what, err := json.Marshal([]any{x.digest, ask.Path, ask.Params})
	if err != nil {
		return "", refuse(kindUnavailable, "credential %q cannot be asked for: %w", c.Name, err)
	}
	return x.e.keyed("credential", what), nil
}

// finish tells the approval what became of the call that ran on it: not run,
// when nothing was forwarded; unknown, when no outcome could be recorded.
func (x *exchange) finish(ctx context.Context) {
	if !x.spent {
		return
	}
	outcome := x.outcome
	switch {
	case !x.forwarded:
		outcome = audit.StatusNotRun
	case !x.closed, x.outcome == audit.StatusFrozen, x.outcome == kindCancelled.status(): // cut off
		outcome = audit.StatusUnknown
	}
	if err := x.e.Approvals.Finish(ctx, x.approval, x.id, outcome); err != nil {
		x.e.Log.Warn("the approval was not told of its call's outcome", "approval", x.approval, "call", x.id, "err", err)
	}
}

// verdict is what the agent is told of an approval that was not granted.
func verdict(a approval.Approval) string {
	switch a.State {
	case approval.Denied:
		who := "an approver"
		for _, v := range a.Votes {
			if !v.Approve {
				who = v.Who()
			}
		}
		return fmt.Sprintf("%s denied this call: %q", who, a.Reason)
	case approval.Expired:
		return "nobody approved this call in time: ask the approvers, then repeat it"
	case approval.Withdrawn:
		return "the request for approval was withdrawn"
	case approval.Revoked:
		return fmt.Sprintf("the approval was revoked: %q", a.Reason)
	default:
		return "the approval has been used already: repeat the call to ask again"
	}
}

// wait holds the caller until the approval is decided, the policy's hold is
// over, the caller leaves, or the enforcer stops.
func (x *exchange) wait(ctx context.Context, a approval.Approval) (approval.Approval, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer x.e.waiting.hold(x, func() { cancel(errCancelled) })()
	stopped := context.AfterFunc(x.e.lifetime, func() { cancel(errStopping) })
	defer stopped()

	type result struct {
		a   approval.Approval
		err error
	}
	decided := make(chan result, 1)
	go func() {
		a, err := x.e.Approvals.Wait(ctx, a.ID)
		decided <- result{a, err}
	}()
	hold := time.NewTimer(x.force.policy.Settings().Hold)
	defer hold.Stop()
	tick, look := time.NewTicker(keepAlive), time.NewTicker(250*time.Millisecond)
	defer tick.Stop()
	defer look.Stop()
	x.out.open("waiting for approval " + a.ID)
	for n := 1; ; {
		select {
		case r := <-decided:
			switch cause := context.Cause(ctx); { // even if it was granted at the same moment: nobody waits for it any more
			case errors.Is(cause, errStopping):
				return a, refuse(kindPending, "the enforcer is restarting; approval %s stays: repeat the identical call", a.ID)
			case ctx.Err() != nil:
				return a, refuse(kindCancelled, "cancelled by the client while waiting for approval; nothing ran")
			case r.err != nil:
				return a, refuse(kindUnavailable, "the approval's state cannot be read: %w", r.err)
			}
			return r.a, nil
		case <-hold.C:
			return a, refuse(kindPending, "approval pending: %s has been asked (approval %s, until %s). Repeat the identical call to continue; it runs at most once",
				approvers(a), a.ID, a.Expires.UTC().Format("15:04 MST"))
		case <-look.C:
			if err := x.cardError(a.ID); err != nil {
				return a, refuse(kindUnavailable, "approval %s is needed, but nobody could be asked: %w", a.ID, err)
			}
		case <-tick.C:
			x.out.progress(x.msg.ProgressToken, float64(n)/1e6, "waiting for approval by "+approvers(a))
			n++
		}
	}
}

var (
	errCancelled = errors.New("cancelled by the client")
	errStopping  = errors.New("the enforcer is stopping")
)

func (x *exchange) cardError(id string) error {
	if x.e.CardError == nil {
		return nil
	}
	return x.e.CardError(id)
}

func approvers(a approval.Approval) string {
	var sets []string
	for _, ask := range a.Asks {
		sets = append(sets, ask.Approvers)
	}
	return strings.Join(sets, " and ")
}

func (x *exchange) waitKey(id []byte) string {
	return x.ownerKey() + "|" + x.session + "|" + string(id)
}

// shown is the request in full, masked, as an approver will read it, and
// whether anything of it could not be shown. A tool's arguments come one a
// line, `name: value`; a text value of several lines is set as a block whose
// every line begins with "│ ", so that no text can pose as another argument.
// Whatever else the parameters hold is appended as JSON, because the digest
// covers it.
func (x *exchange) shown() (text string, partial bool) {
	x.e.room.works(len(x.raw), func() {
		masked, report, err := x.e.Mask.MessageAt(x.canon(), x.askedSite())
		if err != nil {
			text, partial = "[cannot be shown: "+err.Error()+"]", true
			return
		}
		text = showParams(masked)
		partial = slices.ContainsFunc(report.Hits, func(h mask.Hit) bool {
			// What is sent on masked is shown as it is sent.
			rest, in := strings.CutPrefix(h.Place, argumentsRoot)
			return !x.decision.MaskArgs || !in || rest == "" || rest[0] != '.' && rest[0] != '['
		})
	})
	return text, partial
}

func showParams(params []byte) string {
	var b strings.Builder
	rest := map[string]json.RawMessage{}
	eachMember(params, func(name string, value []byte) {
		switch name {
		case "arguments":
			eachMember(value, func(name string, value []byte) { showArgument(&b, name, value) })
		case "name", "uri": // on the card as tool and resource
		default:
			rest[name] = value
		}
	})
	if len(rest) > 0 {
		j, err := json.Marshal(rest)
		if err == nil {
			fmt.Fprintf(&b, "further parameters: %s\n", spelled(j))
		}
	}
	return strings.TrimRight(b.String(), "\n")
}

func showArgument(b *strings.Builder, name string, value []byte) {
	if strings.Trim(name, nameLetters) != "" || name == "" {
		name = strconv.QuoteToASCII(name)
	}
	var s string
	if json.Unmarshal(value, &s) != nil {
		fmt.Fprintf(b, "%s: %s\n", name, spelled(value))
		return
	}
	plain := func(r rune) bool { return r == '\n' || r == '\t' || unicode.IsPrint(r) }
	switch {
	case strings.ContainsFunc(s, func(r rune) bool { return !plain(r) }), s == "", s != strings.TrimSpace(s) && !strings.Contains(s, "\n"):
		fmt.Fprintf(b, "%s: %s\n", name, spelled(value))
	case strings.Contains(s, "\n"):
		fmt.Fprintf(b, "%s:\n│ %s\n", name, strings.ReplaceAll(s, "\n", "\n│ "))
	default:
		fmt.Fprintf(b, "%s: %s\n", name, s)
	}
}

// nameLetters are what an argument's name may hold to be shown without quotes.
const nameLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-."

// spelled is JSON with every character that cannot be seen spelled as an
// escape. Such characters stand inside strings only, so it is the same value.
func spelled(value []byte) string {
	var b strings.Builder
	for _, r := range string(value) {
		switch {
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r > 0xffff:
			hi, lo := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, hi, lo)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// eachMember calls f for the members of a JSON object, in their order.
func eachMember(object []byte, f func(name string, value []byte)) {
	wire.EachMember(object, func(name, value []byte) bool {
		f(string(name), value)
		return true
	})
}
