package main

import (
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"countersign/fixtures/conformance"
	"countersign/fixtures/issuer"
	"countersign/fixtures/peer"
)

// Everything is open, what servers ask of clients included: what the suite then sees is the relay.
const conformanceRules = `
- { id: all, server: "*", method: "*", effect: allow }
- { id: asks, server: "*", method: [sampling/createMessage, elicitation/create, roots/list], effect: allow }
`

// conformanceStage is an enforcer that the suite and its clients can talk to: they bring no token,
// so a front stands where the enforcer's public URL is, and adds one.
type conformanceStage struct {
	*program
	base string // the public URL

	mu      sync.Mutex
	commits []string // of the policy, oldest first
}

// noLog is for proxies of the tests: they tell of each client that left.
var noLog = log.New(io.Discard, "", 0)

func newConformanceStage(t *testing.T, servers map[string]string) *conformanceStage {
	t.Helper()
	s := newStage(t)
	gate, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	var token string
	front := httptest.NewServer(&httputil.ReverseProxy{
		FlushInterval: -1,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(gate)
			r.Out.Host = r.In.Host
			r.Out.Header.Set("Authorization", "Bearer "+token)
		},
		ErrorLog: noLog,
	})
	t.Cleanup(func() { front.CloseClientConnections(); front.Close() })
	if token, err = s.Token("alice", nil, issuer.Claims{"aud": front.URL}); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"rules/all.yaml": conformanceRules, "rules/customers.yaml": "", "tests/customers.yaml": ""}
	for name, where := range servers {
		files["servers/"+name+".yaml"] = "server: " + name + "\n" + where + "\n"
	}
	amend(t, s, s.Dana, files)
	p := serving(t, s, map[string]string{"COUNTERSIGN_PUBLIC_URL": front.URL})
	return &conformanceStage{program: p, base: front.URL}
}

// route has the policy in force name the server, and returns where a client reaches it through the
// enforcer. It may be called by several at once.
func (c *conformanceStage) route(server string) (string, error) {
	c.mu.Lock()
	name := fmt.Sprintf("played-%d", len(c.commits))
	commit, err := c.stage.Policy.Commit(map[string][]byte{
		"servers/" + name + ".yaml": []byte("server: " + name + "\nurl: " + server + "\n"),
	}, "A server that the suite plays\n", c.stage.Dana)
	c.commits = append(c.commits, commit)
	mine := len(c.commits) - 1
	c.mu.Unlock()
	if err != nil {
		return "", err
	}
	deadline := time.After(time.Minute)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-deadline:
			return "", fmt.Errorf("the policy that names %s does not come into force: %+v", server, c.readiness())
		case <-tick.C:
		}
		now := c.readiness().Policy
		c.mu.Lock()
		at := slices.Index(c.commits, now) // one that came later has it, too
		c.mu.Unlock()
		if at >= mine {
			return c.base + "/mcp/" + name, nil
		}
	}
}

// The official conformance suite, directly and through the enforcer: what it says must be the same.
// `make conformance` prints the table.
func TestConformance(t *testing.T) {
	t.Parallel()
	const sessions, stateless = true, false
	onHTTP := func(kind bool) string { return "url: " + peer.ConformanceServer(t, kind) }
	spawned := "command: " + yamlList(peer.ConformanceServerCommand(t))
	rows := []struct {
		revision, name string
		scenarios      int
		direct         bool   // the kind of server that the suite meets directly
		through        string // the server behind the enforcer; "": the suite plays one, for a client
	}{
		{"2025-11-25", "servers on HTTP", 33, sessions, onHTTP(sessions)},
		{"2026-07-28", "servers on HTTP", 50, stateless, onHTTP(stateless)},
		{"2025-11-25", "servers on HTTP without sessions", 33, stateless, onHTTP(stateless)},
		{"2026-07-28", "servers on HTTP of 2025-11-25", 50, sessions, onHTTP(sessions)},
		{"2025-11-25", "servers spawned", 33, sessions, spawned},
		{"2026-07-28", "servers spawned", 50, stateless, spawned},
		{"2025-11-25", "clients", 5, stateless, ""},
		{"2026-07-28", "clients", 8, stateless, ""},
	}
	servers := map[string]string{}
	for i, row := range rows {
		if row.through != "" {
			servers[fmt.Sprintf("server-%d", i)] = row.through
		}
	}
	c := newConformanceStage(t, servers)
	exceptions, err := conformance.Exceptions()
	if err != nil {
		t.Fatal(err)
	}

	results := make([]conformance.Row, len(rows))
	run := func(t *testing.T, wanted func(name string) bool) {
		direct := map[string][]int{} // rows that are held against one and the same run
		for i, row := range rows {
			r := &results[i]
			r.Name = row.revision + ", " + row.name
			if !wanted(r.Name) {
				continue
			}
			t.Run(r.Name+", through", func(t *testing.T) {
				t.Parallel()
				if row.through == "" {
					r.Through = peer.ClientConformance(t, row.revision, c.route)
				} else {
					r.Through = peer.ServerConformance(t, fmt.Sprintf("%s/mcp/server-%d", c.base, i), row.revision)
				}
			})
			key := fmt.Sprint(row.revision, row.direct, row.through == "")
			direct[key] = append(direct[key], i)
		}
		for _, held := range direct {
			row := rows[held[0]]
			t.Run(results[held[0]].Name+", directly", func(t *testing.T) {
				t.Parallel()
				var checks []peer.Check
				if row.through == "" {
					checks = peer.ClientConformance(t, row.revision, func(server string) (string, error) { return server, nil })
				} else {
					checks = peer.ServerConformance(t, peer.ConformanceServer(t, row.direct), row.revision)
				}
				for _, i := range held {
					results[i].Direct = checks
				}
			})
		}
	}
	t.Run("suite", func(t *testing.T) { run(t, func(string) bool { return true }) })
	report := conformance.Compare(results, exceptions)
	// Some checks give a server a second to do something in, which a busy machine may not have: what
	// differs has to do so again.
	if again := report.Odd(); len(again) > 0 && !t.Failed() {
		t.Logf("run once more: %q", again)
		t.Run("again", func(t *testing.T) { run(t, func(name string) bool { return slices.Contains(again, name) }) })
		report = conformance.Compare(results, exceptions)
	}
	fmt.Fprintln(t.Output(), report.Table)
	if shown := docSection(t, "docs/protocol.md", "conformance"); shown != "```\n"+report.Table+"```" {
		t.Error("docs/protocol.md shows another table")
	}
	for i, row := range rows {
		if n := results[i].Scenarios(); n != row.scenarios {
			t.Errorf("%s: %d scenarios ran directly, want %d", results[i].Name, n, row.scenarios)
		}
	}
	for _, d := range report.Unexplained {
		t.Errorf("%s\n%s", d, report.Said[d])
	}
	for _, e := range report.Stale {
		t.Errorf("exceptions.yaml explains what is not so: %s", e.Difference)
	}
}
