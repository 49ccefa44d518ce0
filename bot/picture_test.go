package bot

import (
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"countersign/enforcer/approval"
	"countersign/fixtures/slack"
	"countersign/rules"
)

var pictures = flag.String("pictures", "", "write the pictures of the documentation into this folder")

// scenes are the cards of which docs/approvals.md has pictures.
func scenes() map[string]approval.Approval {
	window := plea()
	window.Tool, window.Args, window.Grant = "restart", "service: billing\nreason: memory is at 97 %", rules.Grant{For: time.Hour, Scope: rules.ScopeTool}
	window.Does, window.Server = nil, "ops"
	window.Asks = []rules.Ask{{Rule: "restart-service", Reason: "Restarts are agreed with the one on call", File: "rules/ops.yaml", Line: 12, Approvers: "oncall", Quorum: 1}}

	two := plea()
	two.Asks[0].Quorum = 2
	two.Votes = []approval.Vote{{Person: "bob", Sets: []string{"dba"}, Approve: true, At: noon.Add(2 * time.Minute)}}

	ran := plea()
	ran.State, ran.Outcome, ran.SpentBy, ran.Ended = approval.Spent, "ok", "c_20260301-7", noon.Add(4*time.Minute)
	ran.Votes = []approval.Vote{{Person: "bob", Sets: []string{"dba"}, Approve: true, At: noon.Add(4 * time.Minute)}}

	unknown := ran
	unknown.Outcome = "unknown"

	long := plea()
	long.Args = "sql:\n│ " + strings.Repeat("UPDATE customers SET plan = 'pro' WHERE id IN (SELECT customer FROM invoices WHERE paid)\n│ ", 60)
	long.Does = []string{"60 statements:", "1. writes table customers: UPDATE, the rows that its WHERE clause picks · sets plan · reads invoices"}

	changed := plea()
	changed.Policy = strings.Repeat("4", 40)
	changed.Asks = append(changed.Asks, rules.Ask{Rule: "customer-data", Reason: "Customer data is changed with a second pair of eyes", File: "rules/data.yaml", Line: 31, Approvers: "privacy", Quorum: 1})
	changed.Votes = []approval.Vote{{Person: "bob", Sets: []string{"dba"}, Approve: true, At: noon.Add(time.Minute)}}
	changed.Renewals = []approval.Renewal{{At: noon.Add(3 * time.Minute), Policy: changed.Policy, Kept: []string{"dba"}}}

	return map[string]approval.Approval{"pending": two, "window": window, "ran": ran, "unknown": unknown, "too-long": long, "policy-changed": changed}
}

// The documentation shows each of these cards, and says what is to be seen.
func TestPictures(t *testing.T) {
	p := cardPolicy(t)
	page, err := os.ReadFile("../docs/approvals.md")
	if err != nil {
		t.Fatal(err)
	}
	all := scenes()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		a := all[name]
		f := draw(a, rules.ApproverSet{Name: a.Asks[0].Approvers}, p, "https://gate.example")
		drawn := slack.HTML(slack.Card{Text: f.text, Blocks: raws(f.blocks)}, noon, time.FixedZone("", 3600))
		if *pictures != "" {
			if err := os.WriteFile(filepath.Join(*pictures, "card-"+name+".html"), []byte(drawn), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = page
}
