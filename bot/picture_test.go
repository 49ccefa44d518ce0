package bot

import (
	"bytes"
	"fmt"
	"image/png"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"countersign/enforcer/approval"
	"countersign/fixtures/peer"
	"countersign/fixtures/slack"
	"countersign/rules"
)

// pictures is where the pictures of docs/approvals.md go, if they are to be made
// anew.
var pictures = os.Getenv("COUNTERSIGN_TEST_SCREENSHOTS")

// scenes are the cards of which docs/approvals.md has pictures.
func scenes(p *rules.Policy) map[string]approval.Approval {
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
	sql := "UPDATE customers SET plan = 'pro' WHERE id IN (1000"
	for id := range 700 {
		sql += fmt.Sprintf(", %d", 1007+7*id)
	}
	sql += ")"
	long.Args, long.Does = "sql: "+sql, p.Does(rules.Request{Server: "db", Method: "tools/call", Tool: "query", Args: []byte(`{"sql":"` + sql + `"}`)})

	changed := plea()
	changed.Policy = strings.Repeat("4", 40)
	changed.Asks = append(changed.Asks, rules.Ask{Rule: "customer-data", Reason: "Customer data is changed with a second pair of eyes", File: "rules/data.yaml", Line: 31, Approvers: "privacy", Quorum: 1})
	changed.Votes = []approval.Vote{{Person: "bob", Sets: []string{"dba"}, Approve: true, At: noon.Add(time.Minute)}}
	changed.Renewals = []approval.Renewal{{At: noon.Add(3 * time.Minute), Policy: changed.Policy, Kept: []string{"dba"}}}

	return map[string]approval.Approval{"pending": two, "window": window, "ran": ran, "unknown": unknown, "too-long": long, "policy-changed": changed}
}

// The documentation shows each of these cards, and says what is to be seen. With
// COUNTERSIGN_TEST_SCREENSHOTS (make screenshots) the pictures are made anew.
func TestPictures(t *testing.T) {
	page, err := os.ReadFile("../docs/approvals.md")
	if err != nil {
		t.Fatal(err)
	}
	if pictures != "" {
		draws(t, cardPolicy(t))
	}
	for _, name := range []string{"pending", "window", "too-long", "policy-changed", "ran", "unknown"} {
		file := "images/card-" + name + ".png"
		told := regexp.MustCompile(`!\[([^\]]{40,})\]\(` + regexp.QuoteMeta(file) + `\)`).FindSubmatch(page)
		if told == nil {
			t.Errorf("docs/approvals.md does not show %s, with words for those who do not see it", file)
		}
		if at, err := os.Stat(filepath.Join("../docs", file)); err != nil || at.Size() > 100_000 {
			t.Errorf("%s: %v, or larger than 100 kB", file, err)
		}
	}
}

func draws(t *testing.T, p *rules.Policy) {
	t.Helper()
	browser, dir := peer.StartBrowser(t), t.TempDir()
	for name, a := range scenes(p) {
		f := draw(a, rules.ApproverSet{Name: a.Asks[0].Approvers}, p, "https://gate.example")
		at := filepath.Join(dir, name+".html")
		if err := os.WriteFile(at, []byte(slack.HTML(slack.Card{Text: f.text, Blocks: raws(f.blocks)}, noon, time.FixedZone("", 3600))), 0o644); err != nil {
			t.Fatal(err)
		}
		browser.Resize(640, 100)
		browser.Open("file://" + at)
		var height int
		browser.Eval("Math.ceil(document.documentElement.getBoundingClientRect().height)", &height)
		browser.Resize(640, height)
		img, err := png.Decode(bytes.NewReader(browser.Picture()))
		if err != nil {
			t.Fatal(err)
		}
		var small bytes.Buffer
		if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&small, img); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(pictures, "card-"+name+".png"), small.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
