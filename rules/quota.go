package rules

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// What the quotas of a policy may add up to: each is looked at for every call,
// and holds counts of its own.
const (
	maxQuotas = 32
	maxQuota  = 1_000_000_000
)

// Quota bounds how often calls are made: those that it names, counted apart
// for each combination of what Per lists, or all together if it lists nothing.
type Quota struct {
	ID         string
	Per        []string // of "subject", "client", "server", "tool"; sorted
	Minute     int      // calls within a minute; 0: no bound
	Day        int      // calls on one day, UTC; 0: no bound
	Concurrent int      // calls at one time; 0: no bound

	servers, methods, tools []string
}

// Counts tells whether the quota counts a request of a client. What is no
// request of its own (a notification, an answer, a stream) is counted only if
// the quota spells that out: `*` must not keep a cancellation from the server.
func (q Quota) Counts(server, method, tool string) bool {
	if !slices.Contains(q.servers, "*") && !slices.Contains(q.servers, server) || !matches(q.tools, tool) {
		return false
	}
	if !strings.HasPrefix(method, "notifications/") {
		return matches(q.methods, method)
	}
	return slices.ContainsFunc(q.methods, func(m string) bool {
		return strings.HasPrefix(m, "notifications/") && matches([]string{m}, method)
	})
}

// Quotas lists all quotas, in the order of their ids.
func (p *Policy) Quotas() []Quota { return slices.Clone(p.quotas) }

// QuotasOf lists those that count such a request, in the order of their ids.
func (p *Policy) QuotasOf(server, method, tool string) []Quota {
	var found []Quota
	for _, q := range p.quotas {
		if q.Counts(server, method, tool) {
			found = append(found, q)
		}
	}
	return found
}

// quotas reads the list under quotas; servers are known by now.
func (l *loader) quotas(d *document, list *yaml.Node) {
	lines := map[string]int{}
	all := d.list(list, "quotas")
	if len(all) > maxQuotas {
		d.report(list, "%d quotas: a policy has at most %d", len(all), maxQuotas)
		return
	}
	for _, n := range all {
		q, ok := l.quota(d, n)
		if !ok {
			continue
		}
		if first, dup := lines[q.ID]; dup {
			d.report(n, "duplicate id %q among the quotas (first on line %d)", q.ID, first)
			continue
		}
		lines[q.ID] = n.Line
		l.policy.quotas = append(l.policy.quotas, q)
	}
	slices.SortFunc(l.policy.quotas, func(a, b Quota) int { return strings.Compare(a.ID, b.ID) })
}

func (l *loader) quota(d *document, n *yaml.Node) (q Quota, ok bool) {
	f, ok := d.fields(n, "a quota", "id", "server", "method", "tool", "per", "minute", "day", "concurrent")
	if !ok {
		return q, false
	}
	q = Quota{servers: []string{"*"}, methods: []string{"tools/call"}, tools: []string{"*"}}
	if at := f["id"]; at == nil {
		d.report(n, "id is missing")
	} else if q.ID = d.text(at, "id"); !d.named(q.ID, at.Line, at.Column, "id") {
		q.ID = ""
	}
	if at := f["server"]; at != nil {
		q.servers = d.texts(at, "server")
		for _, s := range q.servers {
			if _, known := l.policy.servers[s]; !known && s != "*" {
				d.report(at, "server %q is not in servers/", s)
			}
		}
	}
	if at := f["method"]; at != nil {
		q.methods = d.patterns(at, "method")
		for _, m := range q.methods {
			if hint := mistaken(m); hint != "" {
				d.report(at, "method %q is not known: %s", m, hint)
			}
		}
	}
	if at := f["tool"]; at != nil {
		q.tools = d.patterns(at, "tool")
	}
	if at := f["per"]; at != nil && (at.Kind != yaml.SequenceNode || len(at.Content) > 0) {
		q.Per = d.texts(at, "per")
		for _, p := range q.Per {
			if !slices.Contains([]string{"subject", "client", "server", "tool"}, p) {
				d.report(at, "per %q is not known: subject, client, server or tool", p)
			}
		}
		slices.Sort(q.Per)
	}
	bound := func(name string) int {
		at := f[name]
		if at == nil {
			return 0
		}
		v := d.number(at, name)
		if at.Tag == "!!int" && (v < 1 || v > maxQuota) {
			d.report(at, "%s must lie between 1 and %d; to forbid calls, write a deny rule", name, maxQuota)
		}
		return v
	}
	q.Minute, q.Day, q.Concurrent = bound("minute"), bound("day"), bound("concurrent")
	if f["minute"] == nil && f["day"] == nil && f["concurrent"] == nil {
		d.report(n, "a quota bounds something: minute, day or concurrent")
	}
	return q, q.ID != ""
}
