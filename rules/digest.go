package rules

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// seal fills in the digests of what an approval rests on, when everything else
// is decided.
func (p *Policy) seal(d *Decision, req Request, rs []*rule) {
	d.RulesDigest = p.digest(req.Server, d.Credential, req.Subject, req.Client, rs)
	for i := range d.Asks {
		for _, r := range rs {
			if r.id == d.Asks[i].Rule {
				d.Asks[i].Digest = p.askDigest(d, req, r, d.Asks[i].Approvers)
			}
		}
	}
}

// AsksDigest is what Decision.RulesDigest would be under this policy for a call
// of the subject, by the client, to the server that the rules which asks names
// ask about; "" if it lacks one of them, or the credential. It tells whether an
// approval that another policy asked for still means the same under this one.
func (p *Policy) AsksDigest(server string, s Subject, client string, asks []Ask) string {
	named := map[string]bool{}
	for _, a := range asks {
		named[a.Rule] = true
	}
	var rs []*rule
	for _, r := range p.rules {
		if named[r.id] && r.mayAsk() {
			rs = append(rs, r)
		}
	}
	if len(rs) == 0 || len(rs) != len(named) {
		return ""
	}
	if _, known := p.servers[server]; !known {
		return ""
	}
	d := Decision{Effect: Approve}
	if p.credential(&d, server, rs); d.Effect != Approve {
		return ""
	}
	return p.digest(server, d.Credential, s, client, rs)
}

// Asked is what the rules that the asks name ask of people under this policy,
// whatever the asks say of it: rule, approvers, quorum and break-glass set. It
// tells whether an approval on record asked for less.
func (p *Policy) Asked(asks []Ask) []Ask {
	var out []Ask
	for _, r := range p.rules {
		if !r.mayAsk() || !slices.ContainsFunc(asks, func(a Ask) bool { return a.Rule == r.id }) {
			continue
		}
		for _, name := range r.approvers {
			out = append(out, Ask{Rule: r.id, Approvers: name, Quorum: r.quorum, BreakGlass: r.breakGlass})
		}
	}
	return out
}

// ReadsClaims tells whether a rule about the request's server has a condition
// that mentions claims. The record does not hold them, so that what such rules
// decided cannot be decided again from it.
func (p *Policy) ReadsClaims(server string) bool {
	return slices.ContainsFunc(p.byServer[server], func(r *rule) bool { return strings.Contains(r.when, "claims") })
}

// What an approver's consent rests on, as it is digested.
type (
	digestedSet struct {
		Name, Channel, Via string
		Members            []Person
		Groups             []Group  `json:",omitempty"`
		ACR                []string `json:",omitempty"`
	}
	digestedRule struct {
		ID                      string
		Servers, Methods, Tools []string
		When, Reason            string
		Quorum                  int
		Expires                 time.Duration
		Credential              string
		Approvers               []digestedSet
		Pins                    []string      `json:",omitempty"` // of the tools it names on locked servers
		Secrets                 SecretsInArgs `json:",omitempty"`
		Via                     string        `json:",omitempty"`
		Grant                   Grant         `json:",omitzero"`
		BreakGlass              *digestedSet  `json:",omitempty"`
	}
	digestedAddress struct {
		URL     string            `json:",omitempty"`
		Command []string          `json:",omitempty"`
		Env     map[string]string `json:",omitempty"`
		Dir     string            `json:",omitempty"`
		TLS     TLS
		Proxy   string        `json:",omitempty"`
		Secrets SecretsInArgs `json:",omitempty"`
	}
	digestedAll struct {
		Rules  []digestedRule
		At     digestedAddress
		With   *Credential `json:",omitempty"`
		Links  Links
		Barred []Person `json:",omitempty"` // who answers for the identity that asks

		MaskArgs bool `json:",omitempty"` // of a single ask's digest
	}
)

// digest is "sha256:" and the hex SHA-256 of a JSON object. Rules are those
// that ask, in the order of their ids, each with the approver sets that it asks,
// the people in them, its break-glass set, and the locked fingerprints of the
// tools that it names. At is where the call goes: the server's address, what a
// spawned one is started with, and what becomes of secrets on the way. With is
// the definition of the credential that it is made with. Links says how Slack
// users are linked to people, and Barred are the owners of the identity that
// asks. Two policies under which the same approval means the same have the same
// digest; comments, files and lines, and a server's bounds, are no part of it.
func (p *Policy) digest(server, credential string, s Subject, client string, rs []*rule) string {
	all := p.digested(server, credential, s, client)
	for _, r := range rs {
		all.Rules = append(all.Rules, p.digestedRule(r, r.approvers))
	}
	return all.sum()
}

// askDigest is the digest of the same object for one rule and one of its sets.
// It covers where the call goes, too, and whether its secrets are masked on the
// way: if that changes, what was approved changes, and no vote stands.
func (p *Policy) askDigest(d *Decision, req Request, r *rule, set string) string {
	all := p.digested(req.Server, d.Credential, req.Subject, req.Client)
	all.Rules = []digestedRule{p.digestedRule(r, []string{set})}
	all.MaskArgs = d.MaskArgs
	return all.sum()
}

func (p *Policy) digested(server, credential string, s Subject, client string) digestedAll {
	at := p.servers[server]
	all := digestedAll{At: digestedAddress{at.URL, at.Command, at.Env, at.Dir, at.TLS, at.Proxy, at.SecretsInArgs}, Links: p.people.links}
	if c, ok := at.Credentials[credential]; ok {
		all.With = &c
	}
	for _, name := range p.Owners(s, client) {
		all.Barred = append(all.Barred, p.people.byName[name])
	}
	return all
}

func (p *Policy) digestedRule(r *rule, sets []string) digestedRule {
	a := digestedRule{ID: r.id, Servers: r.servers, Methods: r.methods, Tools: r.tools, When: r.when, Reason: r.reason,
		Quorum: r.quorum, Expires: r.expires, Credential: r.credential, Pins: r.pins, Secrets: r.secrets, Via: r.via, Grant: r.grant}
	for _, name := range sets {
		a.Approvers = append(a.Approvers, p.digestedSet(name))
	}
	if r.breakGlass != "" {
		one := p.digestedSet(r.breakGlass)
		a.BreakGlass = &one
	}
	return a
}

func (p *Policy) digestedSet(name string) digestedSet {
	s := p.people.sets[name]
	one := digestedSet{Name: name, Channel: s.Channel, Via: s.Via, Groups: s.Groups, ACR: s.ACR}
	for _, m := range s.Members {
		one.Members = append(one.Members, p.people.byName[m])
	}
	return one
}

func (all digestedAll) sum() string {
	b, err := json.Marshal(all)
	if err != nil {
		// Strings, numbers and truths only: cannot be. Were it so, a digest that no
		// approval can have keeps the promise that one approves one thing.
		return ""
	}
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}
