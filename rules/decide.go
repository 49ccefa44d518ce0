package rules

import (
	"fmt"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/interpreter"
)

// open tells whether a message belongs to the protocol's baseline, which
// needs no rule of its own: without it no client could find out what it may
// do. A client's message without a method is its response to something that
// the server asked, and that asking was decided already.
func open(r Request) bool {
	if r.FromServer {
		return r.Method == "ping" || strings.HasPrefix(r.Method, "notifications/")
	}
	switch r.Method {
	case "", "initialize", "ping", "server/discover",
		"tools/list", "prompts/list", "resources/list", "resources/templates/list":
		return true
	}
	return strings.HasPrefix(r.Method, "notifications/")
}

// asks tells whether a rule may let a request of the server to the client
// through. These reach the person and the model behind the client, and were
// used to talk either into something: only a rule that names the method does,
// and a server has no other methods to ask for.
func (r *rule) asks(req *Request) bool {
	switch req.Method {
	case "sampling/createMessage", "elicitation/create", "roots/list":
		return slices.Contains(r.methods, req.Method)
	}
	return false
}

// Decide answers a request. It is total: no error, no panic, and whatever
// could not be evaluated is in the trace.
func (p *Policy) Decide(req Request) Decision {
	d := Decision{Policy: p.commit, Effect: Deny, Record: p.settings.Record.Bodies}
	if _, known := p.servers[req.Server]; !known {
		d.Reason = fmt.Sprintf("The policy knows no server %q.", req.Server)
		return d
	}
	baseline := open(req)
	f := &facts{req: &req, finder: p.finder}
	var matched [3][]*rule // deny, approve, allow
	said := words{}
	for _, r := range p.index.naming(req.Server, req.Method, req.Tool) {
		if r.effect != Deny && (baseline || req.FromServer && !r.asks(&req)) {
			continue
		}
		t, why := r.eval(f)
		m := Match{Rule: r.id, File: r.file, Line: r.line, Effect: r.effect, Reason: r.reason, Err: why}
		m.Matched = t == yes || t == failed && r.effect != Allow
		if m.Matched && r.effect != Allow && len(f.shown) > 0 {
			m.Found = spelled(f.shown)
			said[r] = r.reason + ": it " + brief(m.Found)
			m.Reason = said[r]
		}
		if m.Matched && r.asksPeople(f) {
			m.Effect = Approve
		}
		d.Trace = append(d.Trace, m)
		if m.Matched {
			i := slices.Index(effects, m.Effect)
			matched[i] = append(matched[i], r)
		}
	}
	d.Record = p.recorded(matched)
	switch deny, approve, allow := matched[0], matched[1], matched[2]; {
	case len(deny) > 0:
		d.Reason = said.reasons(deny)
	case p.unreviewed(req):
		d.Reason = fmt.Sprintf("Tool %q of server %q is not in tools.lock, so nobody has reviewed it: run countersign policy lock and have it reviewed.", req.Tool, req.Server)
	case baseline:
		d.Baseline = p.reaches(req)
		if d.Baseline {
			d.Effect, d.Reason = Allow, "The protocol's baseline is open to you on this server."
			if !req.FromServer {
				d.Credential = p.servers[req.Server].Credential
			}
		} else {
			d.Reason = fmt.Sprintf("No rule lets you use server %q.", req.Server)
		}
	case len(approve) > 0:
		d.Effect, d.Reason = Approve, said.reasons(approve)
		p.demand(&d, approve, said)
		p.credential(&d, req.Server, approve)
		p.guardArgs(&d, f, approve)
		if d.Effect == Approve {
			p.seal(&d, req, approve)
		}
	case len(allow) > 0:
		d.Effect, d.Reason = Allow, said.reasons(allow)
		p.credential(&d, req.Server, allow)
		p.guardArgs(&d, f, allow)
	default:
		d.Reason = unmatched(req, d.Trace)
	}
	return d
}

var effects = []Effect{Deny, Approve, Allow}

// words are what rules say of this request beyond their reason.
type words map[*rule]string

func (w words) of(r *rule) string {
	if said, ok := w[r]; ok {
		return said
	}
	return r.reason
}

// reasons joins what the rules say, each once.
func (w words) reasons(rs []*rule) string {
	var out []string
	for _, r := range rs {
		if why := w.of(r); why != "" && !slices.Contains(out, why) {
			out = append(out, why)
		}
	}
	return strings.Join(out, "; ")
}

func spelled(found []finding) []string {
	out := make([]string, len(found))
	for i, f := range found {
		out[i] = f.String()
	}
	return out
}

// brief keeps a reason to a length that people read: the first three, and how
// many more there are. The trace has them all.
func brief(found []string) string {
	const most = 3
	text := strings.Join(found[:min(len(found), most)], ", ")
	if more := len(found) - most; more > 0 {
		text += fmt.Sprintf(", and %d more", more)
	}
	return text
}

func unmatched(req Request, trace []Match) string {
	what := req.Method
	if req.Tool != "" {
		what += " " + req.Tool
	}
	for _, m := range trace {
		if m.Err != "" {
			return fmt.Sprintf("No rule allows %s on server %q with these arguments; rule %s could not be evaluated: %s", what, req.Server, m.Rule, m.Err)
		}
	}
	if len(trace) > 0 {
		return fmt.Sprintf("No rule allows %s on server %q with these arguments.", what, req.Server)
	}
	return fmt.Sprintf("No rule allows %s on server %q.", what, req.Server)
}

// demand fills in what the approve rules ask for. All of them must be
// satisfied; the shortest expiry and the narrowest grant hold.
func (p *Policy) demand(d *Decision, rs []*rule, said words) {
	d.Grant = rs[0].grant
	for _, r := range rs {
		for _, name := range r.approvers {
			set := p.people.sets[name]
			ask := Ask{Rule: r.id, Reason: said.of(r), File: r.file, Line: r.line, Approvers: name, Quorum: r.quorum,
				Via: ViaSlack, ACR: slices.Clone(set.ACR), BreakGlass: r.breakGlass}
			if r.via == ViaOIDC || set.Via == ViaOIDC {
				ask.Via = ViaOIDC
			}
			d.Asks = append(d.Asks, ask)
		}
		d.Grant = d.Grant.Narrowest(r.grant)
		if d.Expires == 0 || r.expires < d.Expires {
			d.Expires = r.expires
		}
	}
}

// credential picks what the call is made with: what a rule that made the
// effect names, or else the server's default. Rules that name different ones
// leave nothing to pick: the call is denied.
func (p *Policy) credential(d *Decision, name string, rs []*rule) {
	server := p.servers[name]
	d.Credential = server.Credential
	var from *rule
	for _, r := range rs {
		switch {
		case r.credential == "" || from != nil && from.credential == r.credential:
		case from != nil:
			d.refuse(fmt.Sprintf("Rules %s and %s name different credentials (%s, %s): the policy has to say which.", from.id, r.id, from.credential, r.credential))
			return
		default:
			from, d.Credential = r, r.credential
		}
	}
	if from == nil {
		return
	}
	if _, has := server.Credentials[from.credential]; !has {
		d.refuse(fmt.Sprintf("Rule %s names credential %q, which server %q does not have.", from.id, from.credential, name))
	}
}

func (d *Decision) refuse(reason string) {
	d.Effect, d.Reason = Deny, reason
	d.Asks, d.Expires, d.Grant, d.RulesDigest, d.Credential, d.MaskArgs = nil, 0, Grant{}, "", "", false
}

// What a list of tools, and the baseline, cannot know of the calls to come.
var (
	argsUnknown = []*interpreter.AttributePattern{cel.AttributePattern("args"), cel.AttributePattern("request")}
	callUnknown = []*interpreter.AttributePattern{cel.AttributePattern("args"), cel.AttributePattern("request"), cel.AttributePattern("method"),
		cel.AttributePattern("tool"), cel.AttributePattern("resource")}
)

// Visible answers at list time: could this subject get this tool, prompt or
// resource under some arguments? The request names the method that would use
// it (tools/call, prompts/get, resources/read); its Args are not looked at.
// It errs on the side of showing: whether two conditions can hold together is
// not worked out, and the call itself is decided anyway.
func (p *Policy) Visible(req Request) bool {
	if _, known := p.servers[req.Server]; !known || p.unreviewed(req) {
		return false
	}
	f := &facts{req: &req, unknown: argsUnknown}
	possible := false
	for _, r := range p.index.naming(req.Server, req.Method, req.Tool) {
		if r.effect != Deny && req.FromServer && !r.asks(&req) {
			continue
		}
		switch t, _ := r.eval(f); {
		case r.effect == Deny && (t == yes || t == failed):
			return false
		case r.effect == Approve && t != no, r.effect == Allow && (t == yes || t == maybe):
			possible = true
		}
	}
	return possible
}

// Reaches tells whether the protocol's baseline is open to the request's
// subject on its server: what an endpoint for many servers goes by when it asks
// those that concern the caller. Each request is decided all the same.
func (p *Policy) Reaches(req Request) bool {
	_, known := p.servers[req.Server]
	return known && p.reaches(req)
}

// reaches tells whether some rule might let the subject do something on the
// server: what opens the baseline.
func (p *Policy) reaches(req Request) bool {
	if req.FromServer {
		return true
	}
	f := &facts{req: &req, unknown: callUnknown}
	for _, r := range p.byServer[req.Server] {
		if t, _ := r.eval(f); t == yes || t == maybe || t == failed && r.effect == Approve {
			return true
		}
	}
	return false
}
