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

// approve has a person decide, where policy asks for one. It is the way down a
// ladder, by what the client can do:
//
//  1. A client with the tasks extension gets a task at once; see task.go.
//  2. Any other waits on an open event stream, for as long as policy holds it.
//  3. Then one of the stateless era is answered with `input_required`, and waits
//     again with its retry; see ticket.go.
//  4. At last it is told that the approval is pending, and an identical call
//     attaches to the same approval.
//
// Once granted, the request is decided again under the policy then in force, and
// the approval is spent by compare-and-swap: at most one call runs on it. A
// policy that changes meanwhile is noticed at once: see reconsider.
//
// Who cancels or leaves on the way down has nothing run, at whatever moment.
func (x *exchange) approve(ctx context.Context) error {
	answered := x.clock(partWait)
	err := x.granted(ctx)
	if x.approval != "" {
		answered()
	}
	if err == nil || errors.Is(err, errAnswered) || !x.cancelled.Load() && ctx.Err() == nil {
		return err
	}
	if x.approval != "" && !x.spentMeanwhile(ctx) {
		x.left(x.approval)
	}
	return refuse(kindCancelled, "cancelled by the client while waiting for approval; nothing ran")
}

// spentMeanwhile tells whether the approval was spent by a caller who left at
// that moment: then it was for nothing, and is told so (finish). Else it stays.
func (x *exchange) spentMeanwhile(ctx context.Context) bool {
	if !x.spent && x.owes != "" {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeLimit)
		defer cancel()
		if a, err := x.e.Approvals.Get(ctx, x.approval); err == nil {
			x.spent, _ = ranOn(a, x.id)
		}
	}
	return x.spent
}

func (x *exchange) granted(ctx context.Context) error {
	if x.ticket != nil && x.ticket.Digest != x.digest {
		return refuse(kindUnknown, "requestState was given for another call, or for other arguments: repeat the call without it")
	}
	if x.decision.Effect != rules.Approve {
		return nil
	}
	if x.msg == nil || x.msg.Kind != wire.Request {
		return x.denied("this needs a person's approval, which only a request can wait for")
	}
	if err := x.bind(); err != nil {
		return err
	}
	if x.task == nil {
		if err := x.deliverLate(ctx); err != nil {
			return err
		}
	}
	if err := x.resumed(ctx); err != nil {
		return err
	}
	hold := time.NewTimer(x.force.policy.HoldFor(x.caller.Client))
	defer hold.Stop()
	var earlier string // the approval that was asked for until the policy changed
	if x.task != nil {
		earlier = x.task.Approval
	}
	for {
		planned := x.plan(ctx)
		request := x.request(planned)
		a, _, err := x.e.Approvals.Ask(ctx, request)
		if err != nil {
			x.drop(ctx, planned)
			return refuse(kindUnavailable, "the approval could not be asked for: %w", err)
		}
		if earlier != "" && earlier != a.ID {
			x.withdraw(ctx, earlier, "the policy has changed, and asks for another approval instead: "+a.ID)
		}
		x.approval, earlier = a.ID, a.ID
		if a.State == approval.Pending {
			if err := x.queue(ctx, a, planned); err != nil {
				return err
			}
			if a, err = x.wait(ctx, a, hold.C); err != nil && !errors.Is(err, errPolicy) {
				return err
			}
		} else {
			x.drop(ctx, planned)
		}
		switch a.State {
		case approval.Pending: // the policy has changed
		case approval.Approved:
			done, err := x.spend(ctx, a, request)
			if done || err != nil {
				return err
			}
		default:
			return x.denied(verdict(a))
		}
		if done, err := x.reconsider(ctx, a); done || err != nil {
			return err
		}
	}
}

// request is what people are asked.
func (x *exchange) request(planned *task) approval.Request {
	shown, partial, cut := x.shown()
	r := approval.Request{
		Subject: x.caller.Subject, Client: x.caller.Client, Server: x.server, Method: x.req.Method, Tool: x.e.words(x.req.Tool, 256), Resource: x.e.words(x.req.Resource, 2048),
		Holder: x.whose, Digest: x.binds, Args: shown, Partial: partial, Cut: cut, Does: x.does(),
		Asks: x.decision.Asks, Trace: x.decision.Trace, RulesDigest: x.decision.RulesDigest, Policy: x.decision.Policy, Grant: x.decision.Grant,
		Expires: x.e.Now().Add(x.decision.Expires), Call: x.id,
	}
	switch {
	case planned != nil:
		r.Task = planned.ID
	case x.task != nil:
		r.Task = x.task.ID
	}
	return r
}

// spend decides the request again, and uses the approval for this call. It
// returns false if the policy has changed what it asks for, so that the approval
// is not good for it.
func (x *exchange) spend(ctx context.Context, a approval.Approval, request approval.Request) (done bool, err error) {
	if x.force, err = x.e.current(); err != nil {
		return false, refuse(kindUnavailable, "%w", err)
	}
	x.req.Now = x.e.Now()
	again := x.ask()
	if again.Effect != rules.Approve || again.RulesDigest != x.decision.RulesDigest || again.Credential != x.decision.Credential {
		return false, nil
	}
	if err := x.unfrozen(ctx); err != nil {
		return false, err // the approval stays: it may be spent once the freeze is lifted
	}
	if err := x.answerable(ctx); err != nil { // the approval stays
		return false, err
	}
	if refused := x.e.Quotas.Count(x.req.Now, x.draws()); refused != nil {
		return false, x.exhausted(refused) // the approval stays
	}
	x.decision = again
	if x.task == nil {
		x.owes = x.owedKey()
		if err := x.e.owe(ctx, x.owes, owed{Approval: a.ID, Call: x.id, At: x.e.Now()}); err != nil {
			return false, refuse(kindUnavailable, "what the call comes to could not be kept for its caller, so it does not run: %w", err)
		}
	}
	x.cleanup = append(x.cleanup, x.e.runs.begin(x.id))
	if err := x.claimed(ctx); err != nil {
		return false, err
	}
	if err := x.present(ctx); err != nil { // as late as can be: nothing runs for a caller who has left
		return false, err
	}
	spent, err := x.e.Approvals.Spend(ctx, a.ID, request, x.id)
	if err != nil {
		return false, x.denied("the approval cannot be used: " + err.Error())
	}
	x.spent, x.window, x.voices = true, spent.Until, voices(spent.Votes)
	return true, nil
}

// present refuses to go on for a caller who has cancelled or left.
func (x *exchange) present(ctx context.Context) error {
	if x.cancelled.Load() || ctx.Err() != nil {
		return refuse(kindCancelled, "cancelled by the client while waiting for approval; nothing ran")
	}
	return nil
}

// reconsider decides the request under the policy now in force, while its
// approval a is not used. Denied, the caller is told at once; allowed, it goes
// on without: in both cases nobody is asked any more. Otherwise people are asked
// what the new policy asks (done is false).
func (x *exchange) reconsider(ctx context.Context, a approval.Approval) (done bool, err error) {
	if x.force, err = x.e.current(); err != nil {
		return false, refuse(kindUnavailable, "%w", err)
	}
	x.req.Now = x.e.Now()
	x.decision = x.ask()
	switch x.decision.Effect {
	case rules.Deny:
		x.withdraw(ctx, a.ID, "the policy has changed, and denies it: "+x.decision.Reason)
		return true, x.denied("the policy has changed while approval was asked for, and now denies it: " + x.decision.Reason)
	case rules.Allow:
		x.withdraw(ctx, a.ID, "the policy has changed, and allows it without approval")
		x.approval = ""
	default:
		if err := x.bind(); err != nil {
			return false, err
		}
	}
	for _, step := range []func(context.Context) error{x.unfrozen, x.worded, x.answerable, x.foreseen} {
		if err := step(ctx); err != nil {
			return false, err
		}
	}
	if x.decision.Effect == rules.Approve {
		return false, nil
	}
	if refused := x.e.Quotas.Count(x.req.Now, x.draws()); refused != nil {
		return false, x.exhausted(refused)
	}
	return true, x.present(ctx)
}

// withdraw has nobody asked any more. One that was decided meanwhile, or taken
// back by another waiter, is as it is.
func (x *exchange) withdraw(ctx context.Context, id, why string) {
	err := x.e.Approvals.Withdraw(context.WithoutCancel(ctx), id, x.e.words(why, 1024))
	if err != nil && !errors.Is(err, approval.ErrDecided) && !errors.Is(err, approval.ErrUnknown) {
		x.e.Log.Warn("an approval that the policy does not ask for any more could not be withdrawn", "approval", id, "err", err)
	}
}

// bind fills in what an approval is bound to: what is asked, and what Vault is
// asked for it, where that depends on more than what is asked. The same call by
// the same caller is another one when its token names another team, say; and so
// is the holder of a window, which covers calls with other arguments.
func (x *exchange) bind() error {
	x.binds, x.whose = x.digest, x.holder()
	c, ok := x.force.credential(x.server, x.decision.Credential)
	if !ok || !c.UsesCaller() {
		return nil
	}
	ask, err := x.asks(c)
	if err != nil {
		return err
	}
	vault, err := json.Marshal([]any{ask.Path, ask.Params})
	if err != nil {
		return refuse(kindUnavailable, "credential %q cannot be asked for: %w", c.Name, err)
	}
	x.whose += "|" + x.e.keyed("credential", vault)
	x.binds = x.e.keyed("credential", append([]byte(x.digest+"\x00"), vault...))
	return nil
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

func (x *exchange) waitKey(id []byte) string {
	return x.ownerKey() + "|" + x.session + "|" + string(id)
}

// shown is the request in full, masked, as an approver will read it, and
// whether anything of it is masked, or could not be shown at all. A tool's arguments come one a
// line, `name: value`; a text value of several lines is set as a block whose
// every line begins with "│ ", so that no text can pose as another argument.
// Whatever else the parameters hold is appended as JSON, because the digest
// covers it.
func (x *exchange) shown() (text string, partial, cut bool) {
	x.e.room.works(len(x.raw), func() {
		masked, report, err := x.e.Mask.MessageAt(x.canon(), x.askedSite())
		if err != nil {
			text, partial, cut = "[cannot be shown: "+err.Error()+"]", true, true
			return
		}
		text = showParams(masked)
		partial = slices.ContainsFunc(report.Hits, func(h mask.Hit) bool {
			// What is sent on masked is shown as it is sent.
			rest, in := strings.CutPrefix(h.Place, argumentsRoot)
			return !x.decision.MaskArgs || !in || rest == "" || rest[0] != '.' && rest[0] != '['
		})
	})
	return text, partial, cut
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
