package main

import (
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"countersign/audit"
	"countersign/fixtures/stage"
	"countersign/fixtures/vault"
)

// seen is where a server finds what was injected.
type seen struct{ auth, basic, query, cert, body string }

// babbler is a server over TLS that tells all it was given, in the way that the
// tool's name says.
type babbler struct {
	last atomic.Pointer[seen]
	key  string // what it cannot have been told, and guesses
}

func (b *babbler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	got := seen{auth: r.Header.Get("Authorization"), basic: r.Header.Get("X-Basic"), query: r.URL.RawQuery, body: string(body)}
	if len(r.TLS.PeerCertificates) > 0 {
		got.cert = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.TLS.PeerCertificates[0].Raw}))
	}
	b.last.Store(&got)
	all, err := json.Marshal(strings.Join([]string{got.auth, got.basic, got.query, got.body, b.key}, " | "))
	if err != nil {
		return
	}
	w.Header().Set("Content-Type", "application/json")
	switch {
	case strings.Contains(got.body, `"name":"error"`):
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":%s,"data":{"request":%s}}}`, all, all)
	case strings.Contains(got.body, `"name":"stream"`):
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprintf(w, "event: message\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"level\":\"info\",\"data\":%s}}\n\n", all)
		fmt.Fprintf(w, "data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"content\":[],\"structuredContent\":{\"all\":%s}}}\n\n", all)
	case strings.Contains(got.body, `"name":"garbage"`):
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":1,"result":{"a":%s,"a":%s}}`, all, all)
	case strings.Contains(got.body, `"name":"html"`):
		w.Header().Set("Content-Type", "text/plain; x="+got.query)
		w.WriteHeader(http.StatusBadGateway)
		fmt.Fprintf(w, "<html>%s", all)
	default:
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":%s}]}}`, all)
	}
}

// Wherever a credential is injected, it arrives there whole; and whatever the
// server does with it, no answer, no card, no log, no metric and no entry of
// the record shows it.
func TestInjectedIsSeenNowhere(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	read := func(file string) string {
		t.Helper()
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	_, certFile, keyFile := selfSigned(t, s)
	cert, key := read(certFile), read(keyFile)
	up := &babbler{key: key}
	srv := httptest.NewUnstartedServer(up)
	_, certFile, keyFile = selfSigned(t, s)
	ca := read(certFile)
	pair, err := tls.X509KeyPair([]byte(ca), []byte(read(keyFile)))
	if err != nil {
		t.Fatal(err)
	}
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequestClientCert}
	srv.StartTLS()
	t.Cleanup(srv.Close)

	const token, password = "tk:+/ é-Zt8qXv2Lw9", "pw/with \"quotes\" & more"
	s.Vault.Mint("crm/creds/app", vault.Role{TTL: time.Hour, Data: func() map[string]any {
		return map[string]any{"username": "crm-app", "password": password, "token": token, "certificate": cert, "private_key": key}
	}})
	s.Vault.Policy("countersign", "crm/creds/app", "auth/token/create", "auth/token/revoke-accessor", "sys/leases/revoke")
	// It shows its file in its answers and on its standard error.
	script := `while read -r line; do echo "it holds $(cat "$TOKEN_FILE")" >&2; ` +
		`echo '{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"'"$(cat "$TOKEN_FILE") $(stat -c %a "$TOKEN_FILE") $TOKEN_FILE"'"}]}}'; done`
	commit := amend(t, s, s.Dana, map[string]string{
		"countersign.yaml": "version: 1\napprovals: { hold: 5m, expires: 15m }\n",
		"servers/crm.yaml": "server: crm\nurl: " + srv.URL + "/mcp?tenant=1\ntls: { ca: " + quoted(t, ca) + " }\ncredentials:\n  app:\n    vault: crm/creds/app\n    scope: call\n    ttl: 60s\n    inject:\n" +
			"      headers: { Authorization: \"Bearer {{token|url}}\", X-Basic: \"{{basic username password}}\" }\n" +
			"      query: { key: \"{{token}}\" }\n      client_cert: { cert: \"{{certificate}}\", key: \"{{private_key}}\" }\n" +
			"      args: { connection: { prod: \"crm://{{username}}:{{password|url}}@prod/\" } }\n",
		"servers/near.yaml": "server: near\ncommand: [/bin/sh, -c, " + quoted(t, script) + "]\nenv: { PATH: \"/bin:/usr/bin\" }\ncredentials:\n" +
			"  app: { vault: crm/creds/app, scope: call, ttl: 60s, inject: { files: { TOKEN_FILE: \"{{token}}\" } } }\n",
		"rules/crm.yaml": "- { id: crm, server: [crm, near], tool: \"*\", effect: allow, credential: app }\n" +
			"- { id: crm-risky, server: crm, tool: risky, effect: approve, reason: Risky things need a DBA, approval: { approvers: dba }, credential: app }\n",
		"rules/customers.yaml": "", "rules/protocol.yaml": "", "tests/customers.yaml": "",
	})
	p := serving(t, s, map[string]string{"COUNTERSIGN_LOG_LEVEL": "debug"})
	p.inForce(commit)
	alice := p.token("alice", "support")

	var shown []string
	call := func(server, tool, connection string) string {
		t.Helper()
		_, header, body := p.post(server, alice, fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":%q,"arguments":{"connection":%q},`+
			`"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`, tool, connection),
			map[string]string{"Mcp-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": tool})
		shown = append(shown, fmt.Sprint(header), body)
		return body
	}
	for _, tool := range []string{"result", "error", "stream", "garbage", "html"} {
		body := call("crm", tool, "prod")
		got := up.last.Load()
		if got.auth != "Bearer tk%3A%2B%2F%20%C3%A9-Zt8qXv2Lw9" || got.query != "tenant=1&key=tk%3A%2B%2F+%C3%A9-Zt8qXv2Lw9" ||
			got.cert != cert || !strings.Contains(got.body, `{"connection":"crm://crm-app:pw%2Fwith%20%22quotes%22%20%26%20more@prod/"}`) ||
			!strings.HasPrefix(got.basic, "Basic ") {
			t.Fatalf("%s: the server got %+v, and answered %s", tool, got, body)
		}
		if masked := strings.Contains(body, "[masked: app]"); masked != (tool != "garbage") {
			t.Errorf("%s: the agent got %s", tool, body)
		}
	}

	// A word that the policy does not know asks nobody and mints nothing.
	up.last.Store(nil)
	for _, tool := range []string{"result", "risky"} {
		if body := call("crm", tool, "postgres://mine@evil/"); up.last.Load() != nil || !strings.Contains(body, `one of prod, not \"postgres://mine@evil/\"`) {
			t.Errorf("another connection: %s", body)
		}
	}
	if n := len(s.Slack.Cards(stage.Channel)); n != 0 {
		t.Errorf("%d cards", n)
	}
	asked := make(chan string, 1)
	go func() { asked <- call("crm", "risky", "prod") }()
	card := awaitCard(t, s, "prod")
	if err := approve(t, s, card, stage.SlackBob); err != nil {
		t.Fatal(err)
	}
	if body := <-asked; !strings.Contains(body, "[masked: app]") {
		t.Errorf("approved: %s", body)
	}

	// The file is the process's alone, and goes with it.
	body := call("near", "result", "x")
	if !strings.Contains(body, "[masked: app] 600 "+s.Path("state")) {
		t.Errorf("the spawned server answered %s", body)
	}
	p.await("the file to be gone", func() bool {
		files, err := filepath.Glob(s.Path("state/private/*"))
		return err == nil && len(files) == 0
	})

	_, metrics := p.get("/metrics")
	_, ready := p.get("/readyz")
	if n := len(p.entries(func(en audit.Entry) bool { return en.Kind == audit.KindCredential && en.Status == "mint" })); n != 7 {
		t.Errorf("%d mints", n)
	}
	p.stop()
	cards := fmt.Sprintf("%+v", s.Slack.Cards(stage.Channel))
	everything := strings.Join(append(shown, metrics, ready, cards, p.log.String(), git(t, s.Audit, "log", "-p", "--all")), "\n")
	inner, _ := pem.Decode([]byte(key))
	for what, secret := range map[string]string{
		"the token": token, "the token in a URL": "tk%3A%2B%2F", "the token's end": "Zt8qXv2Lw9", "the password": password, "the password in a URL": "pw%2Fwith",
		"the password in JSON": `pw/with \"quotes`, "the private key": strings.Split(string(pem.EncodeToMemory(inner)), "\n")[1],
		"basic": strings.TrimPrefix(up.last.Load().basic, "Basic "),
	} {
		if i := strings.Index(everything, secret); i >= 0 {
			t.Errorf("%s is shown: %s", what, everything[max(0, i-300):min(len(everything), i+100)])
		}
	}
}

// quoted is a YAML string in double quotes, which are JSON's.
func quoted(t *testing.T, s string) string {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
