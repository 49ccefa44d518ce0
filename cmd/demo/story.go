package main

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing/fstest"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"countersign/audit"
	"countersign/fixtures/stage"
	"countersign/rules"
)

// teller tells the story: it makes the agent's calls, and reads back what
// happened.
type teller struct {
	stage    *stage.Stage
	product  *product
	out      *printer
	page     *page // where a person presses, if one does
	pressing bool  // a person presses in the story, too
	agent    *mcp.ClientSession
	policy   *rules.Policy
	journal  *journal
	step     int
}

// story is the six scenes.
func (t *teller) story(ctx context.Context) error {
	if err := t.opening(ctx); err != nil {
		return err
	}
	for _, scene := range []func(context.Context) error{t.read, t.forbidden, t.escape, t.approved, t.rejected, t.stolen} {
		t.step++
		if err := scene(ctx); err != nil {
			return fmt.Errorf("step %d: %w", t.step, err)
		}
	}
	return nil
}

// opening says who is on the stage, each line from the part it speaks of: the
// policy that the record says is in force, as it stands in Git, and the first
// request of the agent, as the enforcer saw it.
func (t *teller) opening(ctx context.Context) error {
	var err error
	if t.journal, err = openJournal(t.stage.Path("state")); err != nil {
		return err
	}
	set, err := t.journal.find(func(e audit.Entry) bool { return e.Kind == audit.KindPolicy && e.Status == "accepted" })
	if err != nil {
		return fmt.Errorf("the policy is not in the record: %w", err)
	}
	var by struct{ Subject, Signer string }
	if err := json.Unmarshal(set.Detail, &by); err != nil {
		return err
	}
	if t.policy, err = t.policyAt(ctx, set.Policy); err != nil {
		return err
	}
	if err := t.connect(ctx); err != nil {
		return err
	}
	first, err := t.journal.find(func(e audit.Entry) bool { return e.Kind == audit.KindIntent && e.Sub != "" })
	if err != nil {
		return fmt.Errorf("the agent's first request is not in the record: %w", err)
	}
	var with struct{ Facts audit.Facts }
	if err := json.Unmarshal(first.Detail, &with); err != nil {
		return err
	}
	dba, _ := t.policy.ApproverSet("dba")
	customers, _ := t.policy.Server(first.Server)
	t.out.line("%s", t.out.paint(bold, "Countersign demo: everything below runs on this machine and is gone when it ends."))
	t.out.line("")
	t.out.line("  policy    git   %.7s %q   signed by %s, verified", set.Policy, by.Subject, by.Signer)
	t.out.line("  identity  oidc  %s (%s), by way of the agent %q", first.Sub, strings.Join(with.Facts.Groups, ", "), first.Client)
	t.out.line("  slack     #%s   approvers: %s", t.channel(), strings.Join(dba.Members, ", "))
	t.out.line("  upstream  %s, an MCP server over SQL   credentials from Vault: %s", customers.Name, strings.Join(slices.Sorted(maps.Keys(customers.Credentials)), ", "))
	return nil
}

// policyAt loads the policy of a commit from its repository.
func (t *teller) policyAt(ctx context.Context, commit string) (*rules.Policy, error) {
	packed, err := t.git(ctx, t.stage.Policy.Dir, "archive", "--format=tar", commit)
	if err != nil {
		return nil, err
	}
	fsys := fstest.MapFS{}
	for r := tar.NewReader(strings.NewReader(packed)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return rules.Load(fsys, commit)
		}
		if err != nil {
			return nil, err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		content, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		fsys[h.Name] = &fstest.MapFile{Data: content}
	}
}

// connect has the agent connect for alice.
func (t *teller) connect(ctx context.Context) error {
	token, err := t.stage.Token("alice", []string{"support"}, nil)
	if err != nil {
		return err
	}
	c := mcp.NewClient(&mcp.Implementation{Name: stage.Agent, Version: "1"}, nil)
	t.agent, err = c.Connect(ctx, &mcp.StreamableClientTransport{
		Endpoint: t.stage.URL + "/mcp/customers", HTTPClient: &http.Client{Transport: bearer(token)}, MaxRetries: -1,
	}, nil)
	return err
}

func (t *teller) channel() string {
	for _, c := range t.stage.Slack.Cards(stage.Channel) {
		return c.ChannelName
	}
	return "db-approvals"
}

// where gives a rule's place in the policy.
func (t *teller) where(id string) string {
	d := t.policy.Decide(rules.Request{Server: "customers", Method: "tools/call", Tool: "query", Now: time.Now()})
	e := t.policy.Decide(rules.Request{Server: "customers", Method: "tools/call", Tool: "execute", Now: time.Now()})
	for _, m := range append(d.Trace, e.Trace...) {
		if m.Rule == id {
			return fmt.Sprintf("rule %s (%s:%d)", id, m.File, m.Line)
		}
	}
	return "rule " + id
}

func (t *teller) wheres(ids []string) string {
	var out []string
	for _, id := range ids {
		out = append(out, t.where(id))
	}
	return strings.Join(out, ", ")
}

// read: allowed, and masked.
func (t *teller) read(ctx context.Context) error {
	const sql = "SELECT name, plan, api_key FROM customers LIMIT 3"
	c, err := t.call(ctx, "query", sql)
	if err != nil {
		return err
	}
	if c.result.IsError {
		return fmt.Errorf("it was refused: %s", c.text)
	}
	minted, err := t.journal.find(func(e audit.Entry) bool {
		return e.Kind == audit.KindCredential && e.Status == "mint" && e.Lease == c.end.Lease && e.Lease != ""
	})
	if err != nil {
		return fmt.Errorf("no credential was minted: %w", err)
	}
	var lease struct {
		Username string
		Expires  time.Time
	}
	if err := json.Unmarshal(minted.Detail, &lease); err != nil {
		return err
	}
	name := minted.Credential
	t.out.step(t.step, "The agent reads customers, for alice", "allowed", c.ms())
	t.out.detail("%s", sql)
	t.out.aside("%s", t.wheres(c.begin.Rules))
	t.out.aside("credential %s minted as %.18s…, lives %d s; the agent never holds it", name, lease.Username, int(lease.Expires.Sub(minted.Time).Round(time.Second).Seconds()))
	masked := 0
	for _, m := range c.end.Masked {
		masked += m.Count
	}
	rows, err := tableOf(c.result)
	if err != nil {
		return err
	}
	t.out.detail("answer:  %s", rows[0])
	t.out.detail("         …%d more rows, %d values masked", len(rows)-1, masked)
	secrets, err := t.stage.Customers.Secrets(ctx)
	if err != nil {
		return err
	}
	all, err := json.Marshal(c.result)
	if err != nil {
		return err
	}
	for _, s := range secrets {
		if strings.Contains(string(all), s) {
			return errors.New("a secret came through")
		}
	}
	if masked == 0 {
		return errors.New("nothing was masked")
	}
	return nil
}

// tableOf reads the rows of a result: {"columns": […], "rows": [[…]]}.
func tableOf(r *mcp.CallToolResult) ([]string, error) {
	b, err := json.Marshal(r.StructuredContent)
	if err != nil {
		return nil, err
	}
	var table struct {
		Rows [][]any `json:"rows"`
	}
	if err := json.Unmarshal(b, &table); err != nil || len(table.Rows) == 0 {
		return nil, fmt.Errorf("the answer has no rows: %s", b)
	}
	var out []string
	for _, row := range table.Rows {
		var cells []string
		for _, cell := range row {
			cells = append(cells, fmt.Sprint(cell))
		}
		out = append(out, strings.Join(cells, " │ "))
	}
	return out, nil
}

// denied tells a scene in which policy alone refuses.
func (t *teller) denied(ctx context.Context, title, sql string) error {
	before := t.stage.Customers.Calls()
	c, err := t.call(ctx, "query", sql)
	if err != nil {
		return err
	}
	if !c.result.IsError || c.end.Kind != audit.KindRefused {
		return fmt.Errorf("it was not refused: %s", c.text)
	}
	if t.stage.Customers.Calls() != before {
		return errors.New("the upstream was called")
	}
	t.out.step(t.step, title, "denied", c.ms())
	t.out.detail("%s", sql)
	t.out.detail("%q", c.end.Reason)
	t.out.aside("%s; the server was never asked", t.wheres(c.end.Rules))
	return nil
}

func (t *teller) forbidden(ctx context.Context) error {
	return t.denied(ctx, "It tries the table with the password hashes", "SELECT login, password_hash FROM staff")
}

func (t *teller) escape(ctx context.Context) error {
	const sql = "COMMIT; CREATE TABLE evil(a int)"
	if err := t.denied(ctx, "It tries to slip out of the read-only transaction", sql); err != nil {
		return err
	}
	tables, err := t.stage.Customers.Tables(ctx)
	if err != nil {
		return err
	}
	if strings.Contains(strings.Join(tables, " "), "evil") {
		return errors.New("the table was created")
	}
	return nil
}

// approved: a person presses Approve, and the call runs with a credential of
// its own.
func (t *teller) approved(ctx context.Context) error {
	const sql = "UPDATE customers SET plan = 'pro' WHERE id = 7"
	t.out.step(t.step, "It wants to upgrade a plan", "waiting for a DBA", "")
	t.out.detail("%s", sql)
	pressed := t.decide(ctx, "approve", "")
	c, err := t.call(ctx, "execute", sql)
	if err != nil {
		return err
	}
	if err := <-pressed; err != nil {
		return err
	}
	if c.result.IsError {
		return fmt.Errorf("it was refused: %s", c.text)
	}
	vote, err := t.vote(c.begin.Approval)
	if err != nil {
		return err
	}
	t.out.outcome(vote+" pressed Approve; it ran once", "allowed", duration(c.took))
	mint, err := t.journal.await(ctx, func(e audit.Entry) bool {
		return e.Kind == audit.KindCredential && e.Status == "revoke" && e.Lease == c.end.Lease && e.Lease != ""
	})
	if err != nil {
		return fmt.Errorf("the credential was not revoked: %w", err)
	}
	name := mint.Credential
	if left := t.stage.Vault.Leases(); strings.Contains(strings.Join(left, " "), "customers-rw") {
		return fmt.Errorf("a lease is left: %v", left)
	}
	t.out.aside("credential %s was minted for this one call and revoked after it (checked: Vault holds no such lease)", name)
	return nil
}

// rejected: a person presses Deny and says why; the agent is told.
func (t *teller) rejected(ctx context.Context) error {
	const sql, why = "DELETE FROM customers WHERE plan = 'free'", "Ask billing first"
	before := t.stage.Customers.Calls()
	t.out.step(t.step, "It asks for something bob does not like", "waiting for a DBA", "")
	t.out.detail("%s", sql)
	pressed := t.decide(ctx, "deny", why)
	c, err := t.call(ctx, "execute", sql)
	if err != nil {
		return err
	}
	if err := <-pressed; err != nil {
		return err
	}
	if !c.result.IsError || t.stage.Customers.Calls() != before {
		return fmt.Errorf("it ran: %s", c.text)
	}
	t.out.outcome("the agent was told: "+clip(c.end.Reason, 48), "denied", duration(c.took))
	return nil
}

// stolen: alice's token for another service.
func (t *teller) stolen(ctx context.Context) error {
	token, err := t.stage.Token("alice", []string{"support"}, map[string]any{"aud": "https://wiki.example.com"})
	if err != nil {
		return err
	}
	mark := t.journal.end()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.stage.URL+"/mcp/customers", strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"tools/list"}`))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := (&http.Client{Transport: bearer(token)}).Do(req)
	if err != nil {
		return err
	}
	if err := resp.Body.Close(); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusUnauthorized {
		return fmt.Errorf("status %d, want 401", resp.StatusCode)
	}
	e, err := t.journal.findAfter(mark, func(e audit.Entry) bool { return e.Kind == audit.KindAuthFailed })
	if err != nil {
		return err
	}
	t.out.step(t.step, "Somebody replays alice's token for another service", "refused", "")
	t.out.detail("HTTP %d: %s", resp.StatusCode, strings.TrimPrefix(e.Reason, "identity: "))
	return nil
}

// invite prints the lines that connect a client of one's own.
func (t *teller) invite() {
	token, err := t.stage.Token("alice", []string{"support"}, map[string]any{"exp": time.Now().Add(8 * time.Hour).Unix()})
	if err != nil {
		t.out.line("no token: %v", err)
		return
	}
	url := t.stage.URL + "/mcp/customers"
	t.out.line("")
	t.out.line("It keeps running until Ctrl-C. Connect as alice (the token lives 8 hours):")
	t.out.line("")
	t.out.line("  export COUNTERSIGN_DEMO_TOKEN=%s", token)
	t.out.line("")
	t.out.line("  Claude Code     claude mcp add --transport http customers %s --header \"Authorization: Bearer $COUNTERSIGN_DEMO_TOKEN\"", url)
	t.out.line("  VS Code         code --add-mcp '{\"name\":\"customers\",\"type\":\"http\",\"url\":\"%s\",\"headers\":{\"Authorization\":\"Bearer '$COUNTERSIGN_DEMO_TOKEN'\"}}'", url)
	t.out.line("  MCP Inspector   npx @modelcontextprotocol/inspector@2 --cli %s --transport http --header \"Authorization: Bearer $COUNTERSIGN_DEMO_TOKEN\" --method tools/list   (Node 22)", url)
	t.out.line("")
	t.out.line("  the record      %s audit log --repo %s --last 20", t.product.path, t.stage.Audit)
	t.out.line("  its proof       %s audit verify --repo %s --commit-signers %s --checkpoint-key %s", t.product.path, t.stage.Audit, t.stage.Path("audit_signers"), t.stage.Path("checkpoint.pub"))
	if t.page != nil {
		t.out.line("  the buttons     %s", t.page.url)
	}
}

func clip(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}
