package rules

import (
	"slices"
	"testing"
)

func TestQuotas(t *testing.T) {
	p := load(t, base(), "countersign.yaml", `version: 1
quotas:
- { id: z-all, minute: 5, method: "*" }
- { id: queries, server: customers, tool: [query, list_*], per: [tool, subject], concurrent: 2 }
- { id: a-person, per: [], day: 5 }
- { id: streams, method: notifications/*, concurrent: 1 }
`)
	for _, c := range []struct {
		server, method, tool string
		want                 []string
	}{
		{"customers", "tools/call", "query", []string{"a-person", "queries", "z-all"}},
		{"customers", "tools/call", "list_all", []string{"a-person", "queries", "z-all"}},
		{"customers", "tools/call", "Query", []string{"a-person", "z-all"}},
		{"files", "tools/call", "query", []string{"a-person", "z-all"}},
		{"files", "resources/read", "", []string{"z-all"}},
		{"files", "notifications/stream", "", []string{"streams"}},
		{"files", "notifications/cancelled", "", []string{"streams"}}, // spelled out, and not by z-all
	} {
		var ids []string
		for _, q := range p.QuotasOf(c.server, c.method, c.tool) {
			ids = append(ids, q.ID)
		}
		if !slices.Equal(ids, c.want) {
			t.Errorf("%s %s %s: %v, want %v", c.server, c.method, c.tool, ids, c.want)
		}
	}
	all := p.Quotas()
	if q := all[1]; len(all) != 4 || q.ID != "queries" || !slices.Equal(q.Per, []string{"subject", "tool"}) || q.Concurrent != 2 || q.Minute != 0 {
		t.Errorf("%+v", all)
	}
}
