package rules

import (
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// The bounds of an approval's life.
const (
	minExpires = 10 * time.Second
	maxExpires = 24 * time.Hour
)

// The bounds of a window, under the ceiling that the policy sets.
const (
	minGrant = time.Minute
	maxGrant = 24 * time.Hour
)

// A rule is one entry of rules/*.yaml, compiled.
type rule struct {
	id         string
	file       string
	line       int
	servers    []string // names, or "*"
	methods    []string // names, prefixes ending in "*", or "*"
	tools      []string // the same
	when       string
	cond       *condition // nil: always
	effect     Effect
	reason     string
	approvers  []string
	quorum     int
	expires    time.Duration
	via        string // "": as its sets say
	grant      Grant
	breakGlass string // name of a set; "": none
	credential string
	secrets    SecretsInArgs // "": as the server says
	pins       []string      // of the tools it names on locked servers, if it asks for approval
	record     string        // RecordDigest or RecordFull; "": as others say
	order      int           // by id
}

// ruleSource keeps what compile needs to name a place in the file.
type ruleSource struct {
	rule *rule
	doc  *document
	when *yaml.Node
	// required are the arguments that locked schemas require, separated by NUL.
	required string
}

// text is what its condition is compiled from: rules that share it share the
// condition.
func (s ruleSource) text() conditionText { return conditionText{s.rule.when, s.required} }

type conditionText struct{ when, required string }

func (l *loader) ruleFile(d *document) {
	root := d.parse()
	if root == nil {
		return
	}
	for _, n := range d.list(root, "a rules file") {
		l.rule(d, n)
	}
}

func (l *loader) rule(d *document, n *yaml.Node) {
	f, ok := d.fields(n, "a rule", "id", "server", "method", "tool", "when", "effect", "reason", "approval", "credential", "secrets_in_args", "record")
	if !ok {
		return
	}
	r := &rule{file: d.file, line: n.Line, methods: []string{"tools/call"}, tools: []string{"*"}, quorum: 1,
		expires: l.policy.settings.DefaultExpires}
	if at := f["id"]; at == nil {
		d.report(n, "id is missing")
	} else if r.id = d.text(at, "id"); d.named(r.id, at.Line, at.Column, "id") {
		if first, dup := l.ids[r.id]; dup {
			d.report(at, "duplicate id %q (first in %s:%d)", r.id, first.file, first.line)
		} else {
			l.ids[r.id] = r
		}
	}
	if at := f["server"]; at == nil {
		d.report(n, "server is missing: a name, a list of names, or \"*\"")
	} else {
		r.servers = d.texts(at, "server")
		for _, s := range r.servers {
			if _, known := l.policy.servers[s]; !known && s != "*" {
				d.report(at, "server %q is not in servers/", s)
			}
		}
	}
	if at := f["method"]; at != nil {
		r.methods = d.patterns(at, "method")
		for _, m := range r.methods {
			if hint := mistaken(m); hint != "" {
				d.report(at, "method %q is not known: %s", m, hint)
			}
		}
	}
	if at := f["tool"]; at != nil {
		r.tools = d.patterns(at, "tool")
		l.reviewed(d, at, r)
	}
	if at := f["when"]; at != nil {
		r.when = d.text(at, "when")
	}
	l.effect(d, n, f, r)
	d.ruleSecrets(f["secrets_in_args"], r)
	l.ruleCredential(d, f["credential"], r)
	if at := f["record"]; at != nil {
		r.record = d.recordWord(at, "record")
	}
	if r.id != "" {
		l.rules = append(l.rules, ruleSource{r, d, f["when"], strings.Join(l.requires(r), "\x00")})
	}
}

func (l *loader) effect(d *document, n *yaml.Node, f map[string]*yaml.Node, r *rule) {
	at := f["effect"]
	if at == nil {
		d.report(n, "effect is missing: allow, approve or deny")
		return
	}
	switch v := Effect(d.text(at, "effect")); v {
	case Allow, Approve, Deny:
		r.effect = v
	case "":
		return
	default:
		d.report(at, "effect %q is not known: allow, approve or deny", v)
		return
	}
	r.reason = d.text(f["reason"], "reason")
	if r.effect != Allow && f["reason"] == nil {
		d.report(n, "a rule that says %s needs a reason, for the agent and for whoever is asked", r.effect)
	}
	a := f["approval"]
	if s := f["secrets_in_args"]; r.effect != Approve && (r.effect != Allow || s == nil || s.Value != string(SecretsApprove)) {
		if a != nil {
			d.report(a, "approval belongs to effect: approve")
		}
		return
	}
	if r.effect == Allow && f["reason"] == nil {
		d.report(n, "a rule that asks where there are secrets in the arguments needs a reason, for whoever is asked")
	}
	for _, m := range r.methods {
		if m != "*" && open(Request{Method: m}) {
			d.report(f["method"], "%s belongs to the protocol's baseline: it can be denied, but nobody can be asked to approve it", m)
		}
	}
	if a == nil {
		d.report(n, "%s needs approval: { approvers: … }", map[Effect]string{Approve: "effect: approve", Allow: "secrets_in_args: approve"}[r.effect])
		return
	}
	l.approval(d, a, r)
}

func (l *loader) ruleCredential(d *document, n *yaml.Node, r *rule) {
	if n == nil {
		return
	}
	r.credential = d.text(n, "credential")
	if !slices.ContainsFunc(r.methods, func(m string) bool { return m == "*" || !open(Request{Method: m}) }) || r.effect == Deny {
		d.report(n, "credential has no use here: nothing that this rule allows reaches a server with it")
	}
	found := false
	for _, s := range r.servers {
		server, known := l.policy.servers[s]
		_, has := server.Credentials[r.credential]
		found = found || has
		if known && !has && r.credential != "" {
			d.report(n, "server %s has no credential %q", s, r.credential)
			found = true // said already
		}
	}
	if slices.Contains(r.servers, "*") && !found {
		for _, s := range l.policy.servers {
			if _, has := s.Credentials[r.credential]; has {
				return
			}
		}
		d.report(n, "no server has a credential %q", r.credential)
	}
}

// patterns reads names that may end in "*".
func (d *document) patterns(n *yaml.Node, what string) []string {
	ps := d.texts(n, what)
	for _, p := range ps {
		if strings.Contains(strings.TrimSuffix(p, "*"), "*") {
			d.report(n, "%s %q: * may only stand alone or at the end", what, p)
		}
	}
	return ps
}

func matches(patterns []string, name string) bool {
	for _, p := range patterns {
		if prefix, glob := strings.CutSuffix(p, "*"); p == name || glob && strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// methods of the protocol, all revisions in use, by which a typing mistake is
// told from a method of somebody's own.
var methods = []string{
	"initialize", "ping", "server/discover", "tools/list", "tools/call", "prompts/list", "prompts/get",
	"resources/list", "resources/templates/list", "resources/read", "resources/subscribe", "resources/unsubscribe",
	"completion/complete", "logging/setLevel", "subscriptions/listen",
	"tasks/get", "tasks/update", "tasks/cancel", "tasks/list", "tasks/result",
	"sampling/createMessage", "elicitation/create", "roots/list",
}

// mistaken returns a hint if the method looks like a slip of the pen: a rule
// that silently matches nothing is worse than one that is refused.
func mistaken(method string) string {
	if strings.HasSuffix(method, "*") || slices.Contains(methods, method) {
		return ""
	}
	family, _, _ := strings.Cut(method, "/")
	if family == "notifications" && method != family {
		return ""
	}
	best, at := 3, ""
	for _, m := range methods {
		if d := distance(strings.ToLower(method), strings.ToLower(m)); d < best {
			best, at = d, m
		}
	}
	if at != "" {
		return "did you mean " + at + "?"
	}
	for _, m := range methods {
		if strings.HasPrefix(m, family+"/") {
			return "the protocol has no such method under " + family + "/"
		}
	}
	return ""
}

// distance is the edit distance of two short words.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}

// An index finds the rules that name a request without looking at the others:
// a rule stands under each combination of its names, every pattern under "*".
type index map[key][]*rule

type key struct{ server, method, tool string }

func bucket(pattern string) string {
	if strings.HasSuffix(pattern, "*") {
		return "*"
	}
	return pattern
}

func (ix index) add(r *rule) {
	for _, s := range r.servers {
		for _, m := range r.methods {
			for _, t := range r.tools {
				k := key{bucket(s), bucket(m), bucket(t)}
				if have := ix[k]; len(have) == 0 || have[len(have)-1] != r {
					ix[k] = append(have, r)
				}
			}
		}
	}
}

// naming lists the rules that name server, method and tool, in the order of
// their ids.
func (ix index) naming(server, method, tool string) []*rule {
	var found []*rule
	for _, s := range distinct(server) {
		for _, m := range distinct(method) {
			for _, t := range distinct(tool) {
				for _, r := range ix[key{s, m, t}] {
					if matches(r.methods, method) && matches(r.tools, tool) {
						found = append(found, r)
					}
				}
			}
		}
	}
	slices.SortFunc(found, func(a, b *rule) int { return a.order - b.order })
	return slices.Compact(found)
}

// distinct lists the buckets in which a name is found. A name that ends in
// "*" itself (a tool may be called so) has no bucket of its own.
func distinct(name string) []string {
	if strings.HasSuffix(name, "*") {
		return []string{"*"}
	}
	return []string{name, "*"}
}
