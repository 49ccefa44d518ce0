package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"countersign/audit"
)

// mirror is an upstream that keeps each body as it came, and answers with what
// it is told.
type mirror struct {
	mu     sync.Mutex
	got    string
	answer string
}

func (m *mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.got = string(b)
	answer := m.answer
	if answer == "" { // what it was given, as an error message would show it
		answer = `{"jsonrpc":"2.0","id":7,"result":{"content":[{"type":"text","text":"cannot connect to ` + connection(m.got) + `"}]}}`
	}
	w.Header().Set("Content-Type", "application/json")
	if _, err := io.WriteString(w, answer); err != nil {
		return
	}
}

// connection is the URL in a body.
func connection(body string) string {
	_, rest, _ := strings.Cut(body, `"postgres://`)
	url, _, _ := strings.Cut(rest, `"`)
	return "postgres://" + url
}

// What the agent calls "prod" becomes the real URL on the upstream side only:
// every other byte of the call arrives as it was sent, every byte of an answer
// that holds no secret returns as it came, and the URL is seen by nobody.
func TestACredentialInAnArgument(t *testing.T) {
	t.Parallel()
	up := &mirror{}
	srv := httptest.NewServer(up)
	t.Cleanup(srv.Close)
	s := newStage(t)
	amend(t, s, s.Dana, map[string]string{
		"servers/mirror.yaml": "server: mirror\nurl: " + srv.URL + "\ncredentials:\n" +
			"  db: { vault: database/creds/customers-ro, scope: call, ttl: 60s, inject: { args: { connection: \"postgres://{{username|url}}:{{password|url}}@db/app\" } } }\n",
		"rules/mirror.yaml":    "- { id: mirror, server: mirror, tool: query, effect: allow, credential: db }\n- { id: plain, server: mirror, tool: plain, effect: allow }\n",
		"rules/customers.yaml": "", "rules/protocol.yaml": "", "tests/customers.yaml": "",
	})
	p := serving(t, s, nil)
	alice := p.token("alice", "support")

	const before, after = `{"jsonrpc":"2.0", "id":7,"method":"tools/call","params":{"name":"query","x-unknown":[1.0,1e3,9007199254740993],"arguments":{"connection":`,
		`,"sql":"SELECT 'é',\t1", "n":1.50}}}`
	status, _, text := p.post("mirror", alice, before+`"prod"`+after, nil)
	up.mu.Lock()
	got := up.got
	up.mu.Unlock()
	url := connection(got)
	if status != http.StatusOK || got != before+`"`+url+`"`+after || !strings.HasPrefix(url, "postgres://v-customers-ro-") {
		t.Fatalf("status %d, the upstream got %s", status, got)
	}
	_, password, _ := strings.Cut(strings.TrimSuffix(url, "@db/app"), ":")
	_, password, _ = strings.Cut(password, ":")
	if len(password) < 6 || strings.Contains(text, password) || !strings.Contains(text, "[masked: ") {
		t.Errorf("the agent got %s", text)
	}

	const odd = `{ "jsonrpc":"2.0","id":7, "result":{"x":1.0,"y":9007199254740993,"z":"\u0041\/é","_meta":{"a.b/c":null},"content":[ ]}}`
	up.mu.Lock()
	up.answer = odd
	up.mu.Unlock()
	const ask = `{"id":7,"jsonrpc":"2.0","params":{"name":"plain","arguments":{ }},"method":"tools/call"}`
	if _, _, text := p.post("mirror", alice, ask, nil); text != odd {
		t.Errorf("an answer changed on its way:\n%s\n%s", odd, text)
	}
	up.mu.Lock()
	got = up.got
	up.mu.Unlock()
	if got != ask {
		t.Errorf("a call changed on its way: %s", got)
	}

	// What stands beside the arguments is decided and forwarded, so the record shows it, masked.
	leak := "ghp_" + strings.Repeat("a1B2", 9)
	p.post("mirror", alice, `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"plain","arguments":{"a":1},"inputResponses":{"k":"`+leak+`"},"requestState":"s\u00e9"}}`, nil)
	beside := p.entries(func(en audit.Entry) bool {
		return en.Kind == audit.KindIntent && en.Args == `{"a":1}` &&
			strings.Contains(string(en.Detail), `{\"inputResponses\":{\"k\":\"[masked: github-pat]\"},\"requestState\":\"sé\"}`)
	})
	if len(beside) != 1 {
		t.Errorf("the record does not show it: %s", p.journal()[len(p.journal())-2].Detail)
	}
	p.stop()
	if all := git(t, s.Audit, "log", "-p", "--all") + p.log.String(); strings.Contains(all, password) {
		t.Error("the password is in the record or the log")
	}
	if err := s.Customers.Login(strings.TrimPrefix(url[:strings.LastIndex(url, ":")], "postgres://"), password); err == nil {
		t.Error("the minted user lives")
	}
}
