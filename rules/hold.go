package rules

import (
	"time"

	"go.yaml.in/yaml/v3"
)

// maxHolds bounds how many clients a policy names under approvals.holds, and
// maxClientName how long such a name is.
const (
	maxHolds      = 256
	maxClientName = 512
)

// HoldFor is how long a caller of the client, the token's client_id, is held
// open for an approval.
func (p *Policy) HoldFor(client string) time.Duration {
	if d, ok := p.holds[client]; ok {
		return d
	}
	return p.settings.Hold
}

// holds reads approvals.holds, a duration for each client that gives up
// earlier, or later, than others do.
func (d *document) holds(n *yaml.Node) map[string]time.Duration {
	const what = "approvals.holds"
	entries := d.mapping(n, what)
	if len(entries) > maxHolds {
		d.report(n, "%s names %d clients: a policy has at most %d", what, len(entries), maxHolds)
		return nil
	}
	all := map[string]time.Duration{}
	for _, f := range entries {
		if f.key.Value == "" || len(f.key.Value) > maxClientName {
			d.report(f.key, "%s: a client is named by the client_id of its tokens, of at most %d bytes", what, maxClientName)
			continue
		}
		all[f.key.Value] = d.span(f.val, what+"."+f.key.Value, 0, time.Hour)
	}
	return all
}
