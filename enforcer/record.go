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

	"countersign/audit"
	"countersign/enforcer/wire"
	"countersign/rules"
)

// intend makes the intent durable. Nothing is forwarded before it returns.
func (x *exchange) intend(ctx context.Context) error {
	if x.msg != nil && x.msg.Method == "notifications/cancelled" {
		x.e.waiting.cancel(x.waitKey(x.msg.CancelledID))
	}
	if x.cancelled.Load() || ctx.Err() != nil {
		return refuse(kindCancelled, "cancelled by the client before it was forwarded; nothing ran")
	}
	en, body := x.opening(audit.KindIntent)
	durable := x.clock(partRecord)
	if err := x.append(en, body...); err != nil {
		return refuse(kindUnavailable, "the record cannot be written, so nothing is forwarded: %w", err)
	}
	durable()
	x.intended = true
	return nil
}

// recordEnd makes the end of the exchange durable, once: the outcome of a
// call whose intent stands in the record, or a refusal. Of an answer it has the
// text, masked, as the client will get it.
func (x *exchange) recordEnd(status, reason string, answer []byte) error {
	if x.closed {
		return nil
	}
	if answer == nil { // a response is not the end of its stream
		if err := x.recordClose(status, reason); err != nil {
			return err
		}
	}
	var en audit.Entry
	var bodies []audit.Body
	if x.intended {
		en = x.entry(audit.KindOutcome)
	} else {
		en, bodies = x.opening(audit.KindRefused)
	}
	en.Status, en.Millis, en.Masked = status, millis(x.e.Now().Sub(x.start)), append(en.Masked, x.masked...)
	en.Timings, en.Result = x.spends.timings(), x.preview(answer)
	if x.reply != nil {
		en.Bytes = x.out.bytes
	}
	if x.intended {
		en.Rules, en.Effect, en.Digest = nil, "", "" // they stand in the intent
		en.Splices = x.splices
		if !x.window.IsZero() {
			en.Detail, _ = audit.Detail(map[string]time.Time{"window": x.window}) // a time: it cannot fail
		}
	}
	if reason != "" {
		en.Reason = x.e.words(reason, 2048)
	}
	if err := x.append(en, append(bodies, x.bodies("response", answer)...)...); err != nil {
		return err
	}
	x.closed, x.outcome = true, status
	x.e.metrics.ended(x, status)
	return nil
}

// recordServer writes what an upstream asked of the client, and what the
// policy said of it.
func (x *exchange) recordServer(kind audit.Kind, m *wire.Message, effect rules.Effect, d rules.Decision) error {
	en := x.entry(kind)
	en.Method, en.Tool, en.Resource, en.Effect, en.Reason = "server:"+x.e.words(m.Method, 128), "", "", string(effect), x.e.words(d.Reason, 2048)
	en.Digest, en.Rules, en.Trace = "", nil, x.trace(d)
	if x.msg != nil {
		en.Detail = x.facts("")
	}
	return x.append(en)
}

func (x *exchange) append(en audit.Entry, bodies ...audit.Body) error {
	if _, err := x.e.Journal.Append(context.WithoutCancel(x.r.Context()), en, bodies...); err != nil {
		x.e.Log.Error("the record cannot be written", "call", x.id, "kind", en.Kind, "err", err)
		return unrecorded{err}
	}
	return nil
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
	if _, err := e.Journal.Append(context.WithoutCancel(ctx), en); err != nil {
		e.Log.Error("the record cannot be written", "kind", en.Kind, "err", err)
		return unrecorded{err}
	}
	return nil
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
