package enforcer

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"sync"

	"countersign/enforcer/mask"
	"countersign/enforcer/wire"
	"countersign/rules"
)

// SecretsByPolicy finds secrets in arguments by what a policy says about
// masking, without any known value: for a policy that is not in force yet.
func SecretsByPolicy(p *rules.Policy) rules.Finder {
	return finder(sync.OnceValue(func() *mask.Mask {
		m := mask.New(mask.Options{})
		configure(m, p, nil)
		return m
	}))
}

// finder finds secrets in arguments with a mask.
func finder(of func() *mask.Mask) rules.Finder {
	return func(r *rules.Request, value []byte) ([]string, error) {
		at := mask.Site{Server: r.Server, Tool: r.Tool}
		if bytes.Equal(value, r.Args) {
			at.Root = argumentsRoot
		}
		return of().Find(value, at)
	}
}

// argumentsRoot is what places in the arguments begin with.
const argumentsRoot = "params.arguments"

// hideSecrets takes the secrets out of the arguments that are forwarded, where
// policy says so; what was asked, and its digest, stay as they came. It makes
// the message that further splices go into.
func (x *exchange) hideSecrets() error {
	x.sent = x.msg
	if !x.decision.MaskArgs || x.msg == nil || !x.msg.Arguments.Present() {
		return nil
	}
	at := x.site()
	at.Root = argumentsRoot
	var clean []byte
	var err error
	x.e.room.works(len(x.raw), func() { clean, _, err = x.e.Mask.MessageAt(x.msg.Bytes(x.msg.Arguments), at) })
	if err != nil {
		return refuse(kindUnavailable, "nothing ran: the secrets in the arguments cannot be masked: %w", err)
	}
	set := x.force.policy.Settings()
	x.body = wire.Splice(x.raw, wire.Edit{Span: x.msg.Arguments, New: clean})
	if !bytes.Equal(x.body, x.raw) {
		x.noteSplice("mask", argumentsRoot)
	}
	x.e.room.works(len(x.body), func() {
		// Longer than it came, perhaps, by what stands in a secret's place.
		x.sent, err = wire.Parse(x.body, wire.Limits{Bytes: 2*int(set.MaxRequest) + len(x.body), Depth: set.MaxDepth})
	})
	if err != nil {
		return refuse(kindUnavailable, "nothing ran: the arguments without their secrets cannot be forwarded: %w", err)
	}
	if x.msg.Modern() {
		x.spliced = changedTexts(x.msg, x.sent)
		x.hidden = map[string][]byte{}
		collectHidden(x.msg, x.sent, x.msg.Arguments, x.sent.Arguments, x.hidden)
	}
	return nil
}

// collectHidden collects what single arguments became, however deep they stand, by how
// a header would spell what they were.
func collectHidden(came, sent *wire.Message, was, is wire.Span, out map[string][]byte) {
	before, after := came.Bytes(was), sent.Bytes(is)
	if bytes.Equal(before, after) || len(before) == 0 || len(after) == 0 {
		return
	}
	switch before[0] {
	case '{':
		var values []wire.Span // a mask changes names, not the order
		sent.Members(is, func(_ []byte, value wire.Span) bool { values = append(values, value); return true })
		n := 0
		came.Members(was, func(_ []byte, value wire.Span) bool {
			if n < len(values) {
				collectHidden(came, sent, value, values[n], out)
			}
			n++
			return true
		})
	case '[': // what is in one has no header
	case '"':
		if text, ok := came.Text(was); ok {
			out[text] = after
		}
	default:
		out[string(before)] = after
	}
}

// changedTexts are the arguments whose value is another in the message that is
// sent, and a text: their mirrored headers follow.
func changedTexts(came, sent *wire.Message) map[string][]byte {
	out := map[string][]byte{}
	sent.Members(sent.Arguments, func(name []byte, value wire.Span) bool {
		now := sent.Bytes(value)
		if at, ok := came.Member(came.Arguments, string(name)); ok && now[0] == '"' && !bytes.Equal(came.Bytes(at), now) {
			out[string(name)] = now
		}
		return true
	})
	return out
}

// hideInHeaders masks the headers that mirror arguments. Which ones do is known
// from lists only; so all of them are looked at. A value that an argument has
// becomes what the argument becomes.
func (x *exchange) hideInHeaders(h http.Header) error {
	if !x.decision.MaskArgs {
		return nil
	}
	for name, values := range h {
		if !strings.HasPrefix(name, "Mcp-Param-") {
			continue
		}
		out := make([]string, len(values)) // the others are the request's
		for i, v := range values {
			text, ok := wire.DecodeHeader(v)
			if !ok {
				text = v
			}
			out[i] = v
			var shown string
			clean, masked := x.hidden[text] // by the name of its argument, perhaps
			var err error
			if !masked {
				var r mask.Report
				clean, r, err = x.e.Mask.MessageAt(wire.Quote(text), x.site())
				masked = r.Masked()
			}
			switch {
			case err != nil || masked && json.Unmarshal(clean, &shown) != nil:
				return refuse(kindUnavailable, "nothing ran: the secrets in the header %s cannot be masked", name)
			case masked:
				out[i] = wire.EncodeHeader(shown)
				x.noteSplice("mask", "header "+name)
			}
		}
		h[name] = out
	}
	return nil
}
