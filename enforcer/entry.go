package enforcer

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"countersign/audit"
	"countersign/enforcer/approval"
	"countersign/enforcer/mask"
	"countersign/enforcer/wire"
	"countersign/rules"
)

// previewBytes bounds the masked arguments, and the result, that an entry shows.
const previewBytes = audit.MaxArgs

// entry is what every entry of this exchange has in common.
func (x *exchange) entry(kind audit.Kind) audit.Entry {
	subject := x.subject()
	en := audit.Entry{
		Kind: kind, Call: x.id, Policy: x.decision.Policy,
		Issuer: subject.Issuer, Sub: subject.Sub, Client: x.caller.Client, Holder: x.holderName(),
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
	if x.session != "" {
		en.Session = x.e.naming.Session(en.Server, x.session)
	}
	if x.lease != nil {
		en.Lease = x.lease.Key
	}
	if x.msg != nil && en.Method == "" { // refused before it was decided
		en.Method, en.Tool = x.e.words(x.msg.Method, 128), x.e.words(x.msg.Name, 256)
	}
	return en
}

// opening is the entry that says what was asked, and why it was decided so; the
// others close what stands there. The body is the parameters, masked.
func (x *exchange) opening(kind audit.Kind) (audit.Entry, []audit.Body) {
	en := x.entry(kind)
	en.Trace = x.trace(x.decision)
	if x.msg == nil {
		return en, nil
	}
	args, rest, text, report := x.maskedParams()
	en.Args, en.Masked, en.Detail = args, masked(nil, report), x.facts(rest)
	return en, x.bodies("request", text)
}

// bodies is a masked body as the decision has the record keep it, and sealed to
// whom the policy has it that decided; none if there is no text.
func (x *exchange) bodies(of string, text []byte) []audit.Body {
	if len(text) == 0 {
		return nil
	}
	to := append([]string{}, x.recorded().Recipients...) // none is nobody
	return []audit.Body{{Of: of, Text: text, Digest: x.decision.Record != rules.RecordFull, To: to}}
}

// recorded is what the policy that this exchange goes by has the record keep.
func (x *exchange) recorded() rules.Record {
	if x.force == nil { // nobody has looked at a policy yet: what says least
		return rules.Record{Bodies: rules.RecordDigest}
	}
	return x.force.policy.Settings().Record
}

// subject is how the record names the caller.
func (x *exchange) subject() rules.Subject {
	if x.force == nil {
		return x.e.naming.Subject(x.e.Policy(), x.caller.Subject)
	}
	return x.e.naming.Subject(x.force.policy, x.caller.Subject)
}

// holderName is how the record names the holder; "" while the caller is not
// known.
func (x *exchange) holderName() string {
	if x.caller.Subject.Sub == "" {
		return ""
	}
	if key := x.holder(); key != x.named.key {
		x.named.key, x.named.name = key, x.e.naming.Holder(key)
	}
	return x.named.name
}

// trace is a decision's, as an entry has it: every rule that matched or failed.
func (x *exchange) trace(d rules.Decision) (steps []audit.Step) {
	all := slices.DeleteFunc(slices.Clone(d.Trace), func(m rules.Match) bool { return !m.Matched && m.Err == "" })
	if len(all) > audit.MaxTrace { // what made the effect first
		made := func(m rules.Match) int {
			if m.Matched && m.Effect == d.Effect {
				return 0
			}
			return 1
		}
		slices.SortStableFunc(all, func(a, b rules.Match) int { return made(a) - made(b) })
	}
	for i, m := range all {
		if rest := len(all) - i; i == audit.MaxTrace-1 && rest > 1 {
			return append(steps, audit.Step{Rule: "*", Why: fmt.Sprintf("and %d more rules", rest)})
		}
		why := ""
		switch {
		case m.Err != "":
			why = "failed: " + m.Err
		case len(m.Found) > 0:
			why = "it " + m.Found[0]
			if more := len(m.Found) - 1; more > 0 {
				why += fmt.Sprintf(", and %d more", more)
			}
		}
		steps = append(steps, audit.Step{Rule: m.Rule, Effect: string(m.Effect), Why: x.e.words(why, 256)})
	}
	return steps
}

// A voice is a vote that let a call run: who, through what, when. What a person
// signed, saw and said with it stands in the approval's own entries.
type voice struct {
	Person string    `json:"person,omitempty"` // name in the policy
	Issuer string    `json:"issuer"`
	Sub    string    `json:"sub"`
	Via    string    `json:"via"`
	At     time.Time `json:"at"`
	Glass  bool      `json:"break_glass,omitempty"`
}

// maxVoices bounds the votes that an entry repeats.
const maxVoices = 16

func voices(votes []approval.Vote) (out []voice) {
	for _, v := range votes {
		if v.Approve && len(out) < maxVoices {
			out = append(out, voice{v.Person, v.Issuer, v.Sub, v.Via, v.At.UTC(), v.BreakGlass})
		}
	}
	return out
}

// facts is what a later replay needs beside the entry's own members, and what
// the message asks beside its arguments.
func (x *exchange) facts(params string) json.RawMessage {
	s := x.subject()
	b, err := audit.Detail(struct {
		Facts  audit.Facts `json:"facts"`
		Params string      `json:"params,omitempty"`
		Quota  string      `json:"quota,omitempty"`
		Via    string      `json:"via,omitempty"`
		Hidden bool        `json:"arguments_masked,omitempty"` // towards the upstream, too
		Window time.Time   `json:"window,omitzero"`            // the end of the approved window that it runs on
		Votes  []voice     `json:"votes,omitempty"`            // by which it runs
		Unseen bool        `json:"unshown,omitempty"`          // policy has no previews: args and params stand nowhere
	}{audit.Facts{Email: s.Email, Groups: s.Groups, Source: x.source}, params, x.quota, x.via, x.decision.MaskArgs, x.window, x.voices, !x.recorded().Previews})
	if err != nil {
		return nil // strings only: it cannot fail
	}
	return b
}

// maskedParams is what the message asks, masked: its arguments, and the
// parameters beside them (what the client answers to an input_required, say),
// in canonical form, and the text that they stand in. What the mask cannot read
// is not shown, nor anything where the policy has no previews.
func (x *exchange) maskedParams() (args, rest string, text []byte, report mask.Report) {
	if x.msg.Kind == wire.Response || !x.msg.Params.Present() {
		return "", "", nil, mask.Report{}
	}
	// The text is held until the entry is durable: until then nothing is sent on,
	// for which there is room.
	x.e.room.works(len(x.raw), func() { args, rest, text, report = x.maskParams() })
	if !x.recorded().Previews {
		return "", "", text, report
	}
	return clip(args, previewBytes), clip(rest, previewBytes), text, report
}

func (x *exchange) maskParams() (args, rest string, text []byte, report mask.Report) {
	text, report, err := x.e.Mask.MessageAt(x.canon(), x.askedSite())
	if err != nil {
		return "", "[not shown: " + err.Error() + "]", nil, mask.Report{}
	}
	if !x.msg.Arguments.Present() {
		return "", string(text), text, report
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
	return args, rest, text, report
}

// preview is the beginning of an answer: of its result, or error.
func (x *exchange) preview(answer []byte) (shown string) {
	if len(answer) == 0 || !x.recorded().Previews {
		return ""
	}
	wire.EachMember(answer, func(name, value []byte) bool {
		if string(name) != "result" && string(name) != "error" {
			return true
		}
		shown = clip(string(value[:min(len(value), previewBytes+1)]), previewBytes)
		return false
	})
	return shown
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
