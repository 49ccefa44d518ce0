package enforcer

import (
	"errors"
	"strings"

	"countersign/enforcer/mask"
	"countersign/rules"
)

// site says where the exchange's answers come from: of which tool, if that is
// known. On a stream that a GET opens, and in what becomes of a task, it is not;
// then the rules of every tool count.
func (x *exchange) site() mask.Site {
	at := mask.Site{Server: x.server, Tool: x.req.Tool}
	at.Any = at.Tool == "" && (x.msg == nil || !toolless(x.msg.Method))
	return at
}

// toolless tells the methods whose answers are certainly of no tool.
func toolless(method string) bool {
	return strings.HasPrefix(method, "resources/") || method == "completion/complete" || method == "ping"
}

// refuseAnswer is why an answer could not be masked, or may not pass.
func refuseAnswer(err error) *refusal {
	var refused *mask.Refused
	if errors.As(err, &refused) {
		return refuse(kindWithheld, "the answer is withheld by policy: %w", err)
	}
	return refuse(kindBlocked, "the upstream server's answer is blocked, since it cannot be masked: %w", err)
}

// pseudonymKey is the operator's, or else one that comes of the digest key.
func (c *Config) pseudonymKey() []byte { return NewNames(c.DigestKey, c.PseudonymKey).pseudonym }

// configure tells a mask what the policy says about masking.
func configure(m *mask.Mask, p *rules.Policy, pseudonyms []byte) {
	masks := p.Masks()
	var own []mask.Pattern
	for _, d := range masks.Detectors {
		own = append(own, mask.Pattern{ID: d.ID, Expression: d.Expression, Group: d.Group, MinEntropy: d.MinEntropy})
	}
	m.Configure(masks.Disable, masks.Keys, own...)
	m.ConfigureAllowed(allowances(masks.Allow))
	m.ConfigureFields(fieldRules(masks.Fields), pseudonyms)
}

// fieldRules are the policy's field rules as the mask takes them.
func fieldRules(list []rules.FieldRule) []mask.FieldRule {
	var out []mask.FieldRule
	for _, r := range list {
		one := mask.FieldRule{ID: r.ID, Servers: r.Servers, Tools: r.Tools, Keys: r.Keys, Columns: r.Columns,
			Action: mask.Action(r.Action), Reason: r.Reason, Over: r.Over}
		for _, p := range r.Paths {
			steps := make([]mask.Step, len(p))
			for i, s := range p {
				steps[i] = mask.Step(s)
			}
			one.Paths = append(one.Paths, steps)
		}
		out = append(out, one)
	}
	return out
}

// allowances are what the policy lets through, as the mask takes it.
func allowances(list []rules.MaskAllowance) []mask.Allowance {
	out := make([]mask.Allowance, len(list))
	for i, a := range list {
		out[i] = mask.Allowance{Hash: a.Hash, Detector: a.Detector, Servers: a.Servers, Tools: a.Tools, Path: a.Path, Until: a.Expires}
	}
	return out
}

// askedSite is the site of what the client asks: places begin at its parameters.
func (x *exchange) askedSite() mask.Site {
	at := x.site()
	at.Root = "params"
	return at
}
