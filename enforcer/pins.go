package enforcer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"countersign/audit"
	"countersign/enforcer/budget"
	"countersign/enforcer/upstream"
	"countersign/enforcer/wire"
	"countersign/rules"
)

// A server that tools.lock names may offer what was reviewed and nothing else.
// What it offers is seen in the lists that pass on their way to clients, and,
// where no sight is recent enough, by asking it, in the caller's own session
// and with the same credential: a server may tell different callers different
// things. A tool that differs is hidden and its calls are refused.
//
// No proxy can see that a server changes what a tool does behind the same
// words, nor a change between the question and the call.

// whom names who is shown the same tools: a policy's definition of the server,
// a holder, in its session or in its era.
func (x *exchange) whom() string {
	era := "legacy"
	if x.msg != nil && x.msg.Modern() {
		era = "modern"
	}
	return x.force.policy.Commit() + "|" + x.holder() + "|" + era + "|" + x.session
}

// locked tells whether this is a call that a pin stands for.
func (x *exchange) locked() bool {
	return x.req.Method == "tools/call" && x.force.policy.Locked(x.server)
}

// pinned lets a call of a locked server go on only if the server offers the
// tool as it was locked: as seen lately, or as it says when it is asked now.
func (x *exchange) pinned(ctx context.Context) error {
	if !x.force.policy.Locked(x.server) {
		return nil
	}
	x.turn = x.e.pins.now(x.server) // a list that the client asked for is a sight, too
	if !x.locked() {
		return nil
	}
	is, ok := x.e.pins.find(x.whom(), x.server, x.req.Tool, x.e.Now())
	if !ok {
		tools, err := x.offers(ctx)
		if err != nil {
			return err
		}
		is = tools[x.req.Tool]
	}
	if drift := x.drift(x.req.Tool, is); drift != "" {
		return x.denied(drift)
	}
	return nil
}

// foreseen refuses a call that a pin would stop later, or for which its
// credential cannot be asked for, as soon as that is known, so that nobody is
// asked to approve it. Where nothing was seen lately the server is asked ahead,
// if that takes no credential.
func (x *exchange) foreseen(ctx context.Context) error {
	if c, ok := x.force.credential(x.server, x.decision.Credential); ok {
		if _, err := x.asks(c); err != nil {
			return err
		}
	}
	if !x.locked() {
		return nil
	}
	if x.decision.Effect == rules.Approve && x.decision.Credential == "" {
		return x.pinned(ctx)
	}
	if is, ok := x.e.pins.find(x.whom(), x.server, x.req.Tool, x.e.Now()); ok {
		if drift := x.drift(x.req.Tool, is); drift != "" {
			return x.denied(drift)
		}
	}
	return nil
}

// drift says in what a tool is not what was locked; "" if it is that.
func (x *exchange) drift(tool string, is sight) string {
	pin, ok := x.force.policy.Pin(x.server, tool)
	changed := pin.Changed(is.pin)
	switch {
	case !ok:
		return fmt.Sprintf("tool %q of server %q is not in tools.lock, so nobody has reviewed it; run countersign policy lock and have it reviewed", tool, x.server)
	case !is.offered:
		return fmt.Sprintf("server %q does not offer tool %q to you now, though tools.lock has it", x.server, tool)
	case changed != nil:
		return fmt.Sprintf("tool %q of server %q has changed since it was locked: its %s (tools.lock); run countersign policy lock and have the change reviewed", tool, x.server, partsDiffer(changed))
	}
	return ""
}

// partsDiffer says so: "title differs", "title and annotations differ".
func partsDiffer(parts []string) string {
	last := parts[len(parts)-1]
	switch {
	case len(parts) > 1:
		return strings.Join(parts[:len(parts)-1], ", ") + " and " + last + " differ"
	case strings.HasSuffix(last, "s"):
		return last + " differ"
	}
	return last + " differs"
}

// offers asks the server what it offers this caller. Callers that want to know
// the same wait for one question.
func (x *exchange) offers(ctx context.Context) (map[string]sight, error) {
	for {
		q, mine := x.e.pins.begin(x.whom())
		if mine {
			defer x.e.pins.end(x.whom(), q)
			q.tools, q.err = x.askTools(ctx)
			return q.tools, q.err
		}
		select {
		case <-q.done:
		case <-ctx.Done():
			return nil, refuse(kindCancelled, "cancelled by the client before it was forwarded; nothing ran")
		}
		var ref *refusal
		if !errors.As(q.err, &ref) || ref.kind != kindCancelled { // the other's client left: ask ourselves
			return q.tools, q.err
		}
	}
}

// askTools puts the question: in the record under an id of its own before it is
// sent, and with what became of it after. It takes no longer than the server
// may take for any answer.
func (x *exchange) askTools(ctx context.Context) (tools map[string]sight, err error) {
	up, ok := x.force.upstreams[x.server]
	if !ok {
		return nil, refuse(kindUnavailable, "server %q is not in the policy", x.server)
	}
	server, _ := x.force.policy.Server(x.server)
	set := x.force.policy.Settings()
	limited, cancel := context.WithTimeout(ctx, server.Timeout)
	defer cancel()
	turn, start := x.e.pins.now(x.server), x.e.Now()
	ask := asking{
		up: up, id: "countersign:" + x.id, session: x.session, holder: x.ownerKey(), inject: x.inject, live: x.live(),
		limits: wire.Limits{Bytes: int(set.MaxResponse), Depth: set.MaxDepth}, room: x.e.room.answers.Share(), works: x.e.room.works,
	}
	defer ask.room.Free()
	if x.msg.Modern() {
		ask.meta = x.meta()
	} else {
		ask.version = x.r.Header.Get("Mcp-Protocol-Version")
	}
	en := x.entry(audit.KindIntent)
	en.Call, en.Method, en.Tool, en.Approval = x.e.ID(), "tools/list", "", ""
	en.Effect, en.Rules, en.Digest = "", nil, ""
	en.Reason = "asked by the enforcer before call " + x.id + ": are the tools as tools.lock has them?"
	if err := x.append(en); err != nil {
		return nil, refuse(kindUnavailable, "the record cannot be written, so nothing is forwarded: %w", err)
	}
	tools = map[string]sight{}
	err = ask.tools(limited, func(t Offered) { x.see(tools, t, start, turn) })
	en.Kind, en.Reason, en.Status, en.Millis = audit.KindOutcome, strconv.Itoa(len(tools))+" tools", audit.StatusOK, millis(x.e.Now().Sub(start))
	if err != nil {
		en.Status, en.Reason = audit.StatusError, x.e.words(err.Error(), 2048)
	}
	if rerr := x.append(en); rerr != nil {
		return nil, refuse(kindUnavailable, "the record cannot be written, so nothing is forwarded: %w", rerr)
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, refuse(kindCancelled, "cancelled by the client before it was forwarded; nothing ran")
	case errors.Is(err, budget.ErrFull):
		return nil, x.full("answers")
	case errors.Is(err, upstream.ErrSessionGone):
		return nil, refuse(kindNoSession, "the upstream server no longer knows this session: initialize again")
	case err != nil:
		return nil, refuse(kindUnavailable, "nothing ran: server %q is locked (tools.lock), and it could not be asked whether its tools are as they were: %w", x.server, err)
	}
	for _, tool := range x.force.policy.Pins(x.server) {
		if _, ok := tools[tool]; !ok {
			tools[tool] = sight{at: start, turn: turn}
		}
	}
	return tools, x.saw(tools)
}

// meta is the caller's _meta as far as it says who asks, for a question of ours
// in the stateless era.
func (x *exchange) meta() string {
	var members []string
	for _, key := range []string{wire.MetaVersion, "io.modelcontextprotocol/clientInfo", "io.modelcontextprotocol/clientCapabilities"} {
		if at, ok := x.msg.Member(x.msg.Meta, key); ok {
			members = append(members, strconv.Quote(key)+":"+string(x.msg.Bytes(at)))
		}
	}
	return "{" + strings.Join(members, ",") + "}"
}

// see notes what a list showed of a tool. Of one that it names twice the one that
// differs counts: nobody knows which of them would be called.
func (x *exchange) see(tools map[string]sight, t Offered, at time.Time, turn uint64) {
	is := sight{pin: t.Pin, offered: true, at: at, turn: turn}
	is.pin.Required = nil // not compared, and of the server's own length
	name := clip(t.Name, 1024)
	if was, twice := tools[name]; name != "" && !(twice && x.drift(name, was) != "") {
		tools[name] = is
	}
}

// saw records what was seen to differ, and remembers what was seen of the
// locked tools.
func (x *exchange) saw(tools map[string]sight) error {
	kept := map[string]sight{}
	var changes []string
	said := map[string]string{}
	for tool, is := range tools {
		pin, ok := x.force.policy.Pin(x.server, tool)
		drift := x.drift(tool, is)
		if drift == "" {
			is.pin = pin // the policy's own, not another copy
		} else if is.offered { // to whom a tool is not offered, its call is refused; that need not be a change
			changes = append(changes, tool)
			said[tool] = drift
		}
		if ok {
			kept[tool] = is
		}
	}
	slices.Sort(changes)
	told := 0
	for i, tool := range changes {
		change := sha256.Sum256(fmt.Appendf(nil, "%s %q %s %v", x.server, tool, said[tool], tools[tool].pin))
		if !x.e.pins.note(change) {
			continue
		}
		reason := said[tool]
		if told++; told > maxChanges+1 {
			continue // summed up
		} else if told > maxChanges {
			tool, reason = "", fmt.Sprintf("and %d more tools of server %q are not as tools.lock has them", len(changes)-i, x.server)
		}
		en := x.entry(audit.KindToolChanged)
		en.Method, en.Tool, en.Reason, en.Effect, en.Rules, en.Digest = "tools/list", x.e.words(tool, 256), x.e.words(reason, 2048), "", nil, ""
		if err := x.append(en); err != nil {
			x.e.pins.unnote(change)
			return refuse(kindUnavailable, "the record cannot be written: %w", err)
		}
		x.e.metrics.changed.Inc()
		x.e.Log.Warn("a tool is not as it was locked", "server", x.server, "tool", en.Tool, "reason", en.Reason)
	}
	if x.msg != nil { // on a resumed stream nobody knows when the server said so
		x.e.pins.keep(x.whom(), kept, x.e.Now())
	}
	return nil
}

// maxChanges bounds the entries that one list can add to the record.
const maxChanges = 16
