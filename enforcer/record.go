package enforcer

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"countersign/audit"
	"countersign/enforcer/mask"
	"countersign/enforcer/wire"
)

// previewBytes bounds the masked arguments that an entry shows.
const previewBytes = 2048

// intend makes the intent durable. Nothing is forwarded before it returns.
func (x *exchange) intend(ctx context.Context) error {
	if x.msg != nil && x.msg.Method == "notifications/cancelled" {
		x.e.waiting.cancel(x.waitKey(x.msg.CancelledID))
	}
	if x.cancelled.Load() || ctx.Err() != nil {
		return refuse(kindCancelled, "cancelled by the client before it was forwarded; nothing ran")
	}
	if err := x.append(x.entry(audit.KindIntent)); err != nil {
		return refuse(kindUnavailable, "the record cannot be written, so nothing is forwarded: %w", err)
	}
	x.intended = true
	return nil
}

// recordEnd makes the end of the exchange durable, once: the outcome of a
// call whose intent stands in the record, or a refusal.
func (x *exchange) recordEnd(status, reason string) error {
	if x.closed {
		return nil
	}
	kind := audit.KindRefused
	if x.intended {
		kind = audit.KindOutcome
	}
	en := x.entry(kind)
	en.Status, en.Millis, en.Masked = status, millis(x.e.Now().Sub(x.start)), append(en.Masked, x.masked...)
	if x.reply != nil {
		en.Bytes = x.out.bytes
	}
	if x.intended {
		en.Args, en.Rules, en.Effect, en.Digest = "", nil, "", "" // they stand in the intent
		if !x.window.IsZero() {
			en.Detail, _ = audit.Detail(map[string]time.Time{"window": x.window}) // a time: it cannot fail
		}
	}
	if reason != "" {
		en.Reason = x.e.words(reason, 2048)
	}
	if err := x.append(en); err != nil {
		return err
	}
	x.closed, x.outcome = true, status
	x.e.metrics.ended(x, status)
	return nil
}

// recordServer writes what an upstream asked of the client, and what the
// policy said of it.
func (x *exchange) recordServer(kind audit.Kind, m *wire.Message, effect, reason string) error {
	en := x.entry(kind)
	en.Method, en.Tool, en.Resource, en.Effect, en.Reason = "server:"+x.e.words(m.Method, 128), "", "", effect, x.e.words(reason, 2048)
	en.Args, en.Digest, en.Rules, en.Masked = "", "", nil, nil
	return x.append(en)
}

func (x *exchange) append(en audit.Entry) error {
	_, err := x.e.Journal.Append(context.WithoutCancel(x.r.Context()), en)
	return err
}

// entry is what every entry of this exchange has in common.
func (x *exchange) entry(kind audit.Kind) audit.Entry {
	en := audit.Entry{
		Kind: kind, Call: x.id, Policy: x.decision.Policy,
		Issuer: x.caller.Subject.Issuer, Sub: x.caller.Subject.Sub, Client: x.caller.Client,
		Server: x.server, Method: x.req.Method, Tool: x.req.Tool,
		Effect: string(x.decision.Effect), Rules: x.decision.RuleIDs(), Reason: x.decision.Reason,
		Approval: x.approval, Credential: x.decision.Credential, Digest: x.digest,
	}
	// Whatever the caller spelled is masked, and cut: an entry has a bound, and
	// a refusal that does not fit would leave no trace.
	en.Resource = x.e.words(x.req.Resource, 1024)
	en.Tool = x.e.words(en.Tool, 256)
	en.Method = x.e.words(en.Method, 128)
	en.Reason = x.e.words(en.Reason, 2048)
	if en.Policy == "" && x.force != nil { // refused before it was decided, under this policy all the same
		en.Policy = x.force.policy.Commit()
	}
	if x.force == nil || x.force.upstreams[x.server] == nil {
		en.Server = x.e.words(x.server, 64) // not a name of the policy: the caller's own text
	}
	if x.lease != nil {
		en.Credential += " " + x.lease.Key
	}
	if x.msg == nil {
		return en
	}
	if en.Method == "" { // refused before it was decided
		en.Method, en.Tool = x.e.words(x.msg.Method, 128), x.e.words(x.msg.Name, 256)
	}
	if kind == audit.KindIntent || kind == audit.KindRefused { // the others close what stands there
		args, rest, report := x.maskedParams()
		en.Args, en.Masked = args, masked(nil, report)
		en.Detail = x.facts(rest)
	}
	return en
}

// facts is what a later replay needs beside the entry's own members, and what
// the message asks beside its arguments.
func (x *exchange) facts(params string) json.RawMessage {
	s := x.caller.Subject
	b, err := audit.Detail(struct {
		Facts  audit.Facts `json:"facts"`
		Params string      `json:"params,omitempty"`
		Quota  string      `json:"quota,omitempty"`
		Via    string      `json:"via,omitempty"`
		Hidden bool        `json:"arguments_masked,omitempty"` // towards the upstream, too
		Window time.Time   `json:"window,omitzero"`            // the end of the approved window that it runs on
	}{audit.Facts{Email: s.Email, Groups: s.Groups, Source: x.source}, params, x.quota, x.via, x.decision.MaskArgs, x.window})
	if err != nil {
		return nil // strings only: it cannot fail
	}
	return b
}

// maskedParams is what the message asks, masked: its arguments, and the
// parameters beside them (what the client answers to an input_required, say),
// in canonical form. What the mask cannot read is not shown.
func (x *exchange) maskedParams() (args, rest string, report mask.Report) {
	if x.msg.Kind == wire.Response || !x.msg.Params.Present() {
		return "", "", mask.Report{}
	}
	x.e.room.works(len(x.raw), func() { args, rest, report = x.maskParams() }) // none of it is held, but its beginning
	return clip(args, previewBytes), clip(rest, previewBytes), report
}

func (x *exchange) maskParams() (args, rest string, report mask.Report) {
	text, report, err := x.e.Mask.MessageAt(x.canon(), x.askedSite())
	if err != nil {
		return "", "[not shown: " + err.Error() + "]", mask.Report{}
	}
	if !x.msg.Arguments.Present() {
		return "", string(text), report
	}
	var beside []byte
	eachMember(text, func(name string, value []byte) {
		switch name {
		case "arguments":
			args = string(value)
		case "name": // the entry's tool
		default:
			quoted, err := jsontext.AppendQuote(nil, name)
			if err != nil {
				return // invalid UTF-8, which the scan refuses
			}
			if beside = append(beside, ','); len(beside) == 1 {
				beside[0] = '{'
			}
			beside = append(append(append(beside, quoted...), ':'), value...)
		}
	})
	if beside != nil {
		rest = string(append(beside, '}'))
	}
	return args, rest, report
}

// note adds a mask report to what the outcome will say.
func (x *exchange) note(r mask.Report) {
	x.masked = masked(x.masked, r)
	x.e.metrics.maskedHits(r)
}

// masked adds a report to a list as entries have it.
func masked(list []audit.Masked, r mask.Report) []audit.Masked {
	for _, h := range r.Hits {
		if len(list) >= 64 { // the entry stays small; the count goes on in the last place
			list[63].Count += h.Count
			continue
		}
		list = append(list, audit.Masked{Detector: h.Detector, Place: h.Place, Count: h.Count})
	}
	return list
}

// keptCanonical bounds the canonical forms that are kept: memory that nobody
// counts.
const keptCanonical = 16 << 10

// canon is the canonical form of what was asked, nil if nothing was. Several
// look at it: a small one is made once.
func (x *exchange) canon() []byte {
	if x.canonical != nil || x.msg == nil {
		return x.canonical
	}
	c := x.msg.Canonical()
	if len(c) <= keptCanonical {
		x.canonical = c
	}
	return c
}

// digest is HMAC-SHA256 of method and canonical parameters under a key that
// stays in the state directory: it binds an approval to exactly this request,
// and nobody can guess arguments back from the record.
func (e *Enforcer) digest(m *wire.Message, canonical []byte) string {
	if m == nil {
		return ""
	}
	return e.keyed(m.Method, canonical)
}

func (e *Enforcer) keyed(what string, text []byte) string {
	h := hmac.New(sha256.New, e.DigestKey)
	h.Write([]byte(what))
	h.Write([]byte{0})
	h.Write(text)
	return "hmac-sha256:" + hex.EncodeToString(h.Sum(nil))
}

// RecordPolicy writes that a policy commit came into force, or was refused.
// detail must hold no secret.
func (e *Enforcer) RecordPolicy(ctx context.Context, commit, status, reason string, detail any) error {
	return e.event(ctx, audit.Entry{Kind: audit.KindPolicy, Policy: commit, Status: status, Reason: reason}, detail)
}

func (e *Enforcer) event(ctx context.Context, en audit.Entry, detail any) error {
	if detail != nil {
		b, err := json.Marshal(detail)
		if err != nil {
			return err
		}
		en.Detail = b
	}
	en.Reason = e.words(en.Reason, 4096)
	_, err := e.Journal.Append(context.WithoutCancel(ctx), en)
	return err
}

// words is text of any origin as the record and the client may have it: masked,
// then cut to n bytes. It is cut far beyond n before it is masked, so that a
// flood costs little; what is cut there, and might be half a secret, is cut
// again.
func (e *Enforcer) words(s string, n int) string {
	s, _ = e.Mask.Text(clip(s, 32*n))
	return clip(s, n)
}

// clip cuts s to at most n bytes at a rune's edge and says that it did.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	cut := n - len("…")
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return strings.ToValidUTF8(s[:cut], "�") + "…"
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
