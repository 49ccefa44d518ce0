package rules

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// protocolKeys are members without which no client can read a message: what
// masks.keys names is masked wherever it stands, with all that is in it.
var protocolKeys = strings.Fields(`jsonrpc id method params result error code _meta
	name type uri uriTemplate mimeType role content contents messages tools prompts resources inputSchema
	cursor nextCursor progressToken requestId taskId resultType requestState inputRequests protocolVersion capabilities`)

// maskKeys reads names of members whose values are always masked.
func (d *document) maskKeys(n *yaml.Node) (keys []string) {
	d.each(n, "keys", func(at *yaml.Node, key string) {
		if slices.ContainsFunc(protocolKeys, func(name string) bool { return strings.EqualFold(name, key) }) {
			d.report(at, "key %q is one of the protocol's own: masking it everywhere would break every message; a field rule with keys looks at data only", key)
			return
		}
		keys = append(keys, key)
	})
	return keys
}
