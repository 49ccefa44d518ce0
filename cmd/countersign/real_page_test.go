package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"countersign/audit"
	"countersign/enforcer/approval"
	"countersign/fixtures/peer"
	"countersign/fixtures/stage"
)

// pictures is where the pictures of docs/approvals.md go, if they are to be
// made anew (make screenshots).
var pictures = os.Getenv("COUNTERSIGN_TEST_SCREENSHOTS")

// votePolicy is one that puts writes to people who sign in: alice asks, bob is
// asked.
func votePolicy(s *stage.Stage, u *probe, issuer string) map[string]string {
	return map[string]string{
		"countersign.yaml":       "version: 1\napprovals: { hold: 5m, expires: 1h, max_grant: 2h, policy_link: \"https://git.example.com/acme/policy/blob/{commit}/{file}#L{line}\" }\n",
		"servers/billing.yaml":   "server: billing\nurl: " + u.url + "\ntimeout: 2m\n",
		"servers/customers.yaml": "", "rules/customers.yaml": "", "rules/protocol.yaml": "", "tests/customers.yaml": "",
		"rules/billing.yaml": `
- id: billing-writes
  server: billing
  tool: execute
  effect: approve
  reason: Writing to billing needs one of the DBAs
  approval: { approvers: dba, expires: 30m, approve_via: oidc, grant: { for: 1h, scope: tool } }
- { id: billing-reads, server: billing, tool: query, effect: allow }
`,
		"approvers.yaml": fmt.Sprintf("people:\n  alice: { issuer: %[1]s, sub: alice }\n  bob: { issuer: %[2]s, sub: bob }\nsets:\n  dba: { members: [bob], approve_via: oidc }\n",
			s.Issuer.URL, issuer),
	}
}

func execute(id int, sql, token string) string {
	args := map[string]string{"sql": sql, "comment": "Ada has paid for the pro plan", "ticket": "OPS-4711\u202e"}
	if token != "" {
		args["ticket_token"] = token
	}
	b, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": map[string]any{"name": "execute", "arguments": args}})
	if err != nil {
		panic(err) // texts only
	}
	return string(b)
}

// A person opens the page in a real browser, signs in at a real provider, reads,
// and decides, by keyboard alone; the agent's call runs, or hears why not.
func TestApprovalPageInARealBrowser(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := newStage(t)
	id := peer.StartIssuer(t, s.URL+"/approvals/sign-in/callback")
	amend(t, s, s.Dana, votePolicy(s, u, id.URL))
	p := serving(t, s, map[string]string{
		"COUNTERSIGN_APPROVALS_CLIENT_ID": "votes", "COUNTERSIGN_APPROVALS_CLIENT_SECRET": id.VotesSecret, "COUNTERSIGN_APPROVALS_ISSUER": id.URL,
		"COUNTERSIGN_OIDC_ISSUERS": s.Issuer.URL + "," + id.URL,
		"SLACK_BOT_TOKEN_FILE":     "", "SLACK_SIGNING_SECRET_FILE": "", "SLACK_API_URL": "", // the page is enough
	})
	alice := p.token("alice", "support")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	first := p.asking(ctx, "billing", alice, execute(1, "UPDATE customers\n   SET plan = 'pro'\n WHERE id = 7;", "gl"+"pat-"+"x7Kq2mB9vT4nR8sW3dYz"))
	asked := func(n int) approval.Approval {
		var a approval.Approval
		p.await("the question", func() bool {
			all := p.entries(func(en audit.Entry) bool { return en.Kind == audit.KindApproval && en.Status == approval.EventAsked })
			return len(all) == n && json.Unmarshal(all[n-1].Detail, &a) == nil
		})
		return a
	}
	one := asked(1)

	b := peer.StartBrowser(t)
	says := func(texts ...string) {
		t.Helper()
		page := b.Text()
		for _, text := range texts {
			if !strings.Contains(page, text) {
				t.Errorf("%s does not say %q:\n%s", b.URL(), text, page)
			}
		}
	}
	// Every page is right in both schemes, on a phone, and for those who do not
	// see it.
	right := func(name string) {
		t.Helper()
		for _, dark := range []bool{false, true} {
			b.Dark(dark)
			for _, size := range []struct {
				what          string
				width, height int
			}{{"phone", 390, 844}, {"desktop", 1180, 800}} {
				b.Resize(size.width, size.height)
				var wide int
				if b.Eval("document.documentElement.scrollWidth", &wide); wide > size.width {
					t.Errorf("%s is %d wide on a screen of %d", name, wide, size.width)
				}
				picture(t, fmt.Sprintf("approvals-%s-%s%s.png", name, size.what, map[bool]string{true: "-dark"}[dark]), b)
			}
			for _, v := range b.Violations() {
				t.Errorf("%s, dark %v: %s", name, dark, v)
			}
		}
		b.Dark(false)
	}
	// on presses Tab until the selector's element has the focus, visibly.
	on := func(selector string) {
		t.Helper()
		for range 60 {
			b.Press("Tab")
			var there, seen bool
			b.Eval(fmt.Sprintf("document.activeElement.matches(%q)", selector), &there)
			if there {
				if b.Eval(`getComputedStyle(document.activeElement).outlineStyle !== "none"`, &seen); !seen {
					t.Errorf("%s has the focus, and nobody sees it", selector)
				}
				return
			}
		}
		t.Fatalf("no way to %s by keyboard on %s", selector, b.URL())
	}

	b.Open(s.URL + "/approvals/" + one.ID)
	says("Sign in to decide")
	right("welcome")
	on("a.primary")
	b.Leads(func() { b.Press("Enter") })
	signIn := func() {
		t.Helper()
		b.Eval(`document.querySelector("input[name=login]").focus()`, nil)
		b.Write("bob")
		b.Press("Tab")
		b.Write("any")
		b.Leads(func() { b.Press("Enter") })
	}
	signIn()
	b.Eval(`document.querySelector("button[type=submit]").focus()`, nil) // the provider asks for consent
	b.Leads(func() { b.Press("Enter") })
	if b.URL() != s.URL+"/approvals/"+one.ID {
		t.Fatalf("after signing in: %s\n%s", b.URL(), b.Text())
	}
	says("desk-assistant asks for alice: execute on billing", "SET plan = 'pro'", `OPS-4711\u202e`, "[masked: token-value]", "Parts of it are masked", "Writing to billing needs one of the DBAs", "Approve this call only", "1 h")
	right("one")
	var script bool
	if b.Eval(`(() => { const s = document.createElement("script"); s.textContent = "window.ran = true"; document.head.append(s); return window.ran === true })()`, &script); script {
		t.Error("a script runs on the page")
	}
	on("button[value=once]")
	b.Leads(func() { b.Press("Enter") })
	says("approved, for this call only")
	if a := <-first; a.text != "ran execute" {
		t.Errorf("got %+v", a)
	}

	second := p.asking(ctx, "billing", alice, execute(2, "DELETE FROM invoices", ""))
	two := asked(2)
	b.Open(s.URL + "/approvals")
	says("Waiting for you", "Decided in the last day")
	right("list")
	on(fmt.Sprintf("a[href$=%q]", two.ID))
	b.Leads(func() { b.Press("Enter") })
	says("DELETE FROM invoices", "Decided before", "bob approved, for this call only")
	on("#deny-reason")
	b.Write("Every invoice? Ask billing first.")
	on("button[value=deny]")
	b.Leads(func() { b.Press("Enter") })
	says("Denied", "Every invoice? Ask billing first.")
	right("denied")
	if a := <-second; !strings.Contains(a.text, "Every invoice? Ask billing first.") || u.ran("execute") != 1 {
		t.Errorf("got %+v, and it ran %d times", a, u.ran("execute"))
	}

	// A sign-out ends it, here too.
	b.Leads(func() { b.Click("form.who button") })
	says("Signed out")
	b.Open(s.URL + "/approvals")
	says("Sign in to decide")

	// Nothing of it is there for a token that may call MCP.
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/approvals", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+p.token("bob"))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if resp.Body.Close(); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("an MCP token gets %s", resp.Status)
	}

	var votes []approval.Vote
	for _, en := range p.entries(func(en audit.Entry) bool {
		return en.Kind == audit.KindApproval && (en.Status == approval.EventApproved || en.Status == approval.EventDenied)
	}) {
		var a approval.Approval
		if err := json.Unmarshal(en.Detail, &a); err != nil {
			t.Fatal(err)
		}
		votes = append(votes, a.Votes...)
	}
	signIns := p.entries(func(en audit.Entry) bool { return en.Kind == audit.KindLogin && en.Status == approval.EventSignedIn })
	if len(votes) != 2 || len(signIns) != 1 {
		t.Fatalf("recorded: votes %+v, %d sign-ins", votes, len(signIns))
	}
	for _, v := range votes {
		if v.Person != "bob" || v.Via != approval.ViaOIDC || v.Login == nil || v.Login.ID == "" || v.Login.AuthTime.IsZero() || v.Login.Source != "127.0.0.1" || v.Waited <= 0 {
			t.Errorf("the record does not prove who voted: %+v, %+v", v, v.Login)
		}
	}
	p.stop()
	verified(t, s)
}

// picture keeps a picture for the docs, where they are to be made anew.
func picture(t *testing.T, name string, b *peer.Browser) {
	t.Helper()
	if pictures == "" {
		return
	}
	switch name {
	case "approvals-one-desktop.png", "approvals-one-phone.png", "approvals-list-desktop.png", "approvals-denied-desktop-dark.png":
	default:
		return
	}
	img, err := png.Decode(bytes.NewReader(b.Picture()))
	if err != nil {
		t.Fatal(err)
	}
	var small bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&small, fewColours(img)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(pictures, name), small.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// fewColours is img in its 256 most frequent colours: a third of the bytes.
func fewColours(img image.Image) image.Image {
	count := map[color.Color]int{}
	size := img.Bounds()
	for y := size.Min.Y; y < size.Max.Y; y++ {
		for x := size.Min.X; x < size.Max.X; x++ {
			count[img.At(x, y)]++
		}
	}
	all := slices.SortedFunc(maps.Keys(count), func(a, b color.Color) int {
		return cmp.Or(count[b]-count[a], strings.Compare(fmt.Sprint(a), fmt.Sprint(b)))
	})
	palette := color.Palette(all[:min(len(all), 256)])
	nearest := map[color.Color]uint8{}
	for _, c := range all {
		nearest[c] = uint8(palette.Index(c))
	}
	out := image.NewPaletted(size, palette)
	for y := size.Min.Y; y < size.Max.Y; y++ {
		for x := size.Min.X; x < size.Max.X; x++ {
			out.SetColorIndex(x, y, nearest[img.At(x, y)])
		}
	}
	return out
}
