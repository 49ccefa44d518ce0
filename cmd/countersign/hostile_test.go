package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"countersign/audit"
	"countersign/fixtures/issuer"
)

// What is malformed, ambiguous or forged gets the exact refusal, is in the
// record, and no upstream hears of it.
func TestHostileRequests(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "1s")
	p := serving(t, s, nil)
	alice, mallory := p.token("alice", "support"), p.token("mallory", "support")

	// A session of alice's, and the proof that the way through works at all.
	a, err := p.send(t.Context(), "probe", alice, `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}`, nil)
	if err != nil {
		t.Fatal(err)
	}
	session := a.header.Get("Mcp-Session-Id")
	if a.status != http.StatusOK || session == "" {
		t.Fatalf("initialize: %+v", a)
	}
	if a := p.ask("probe", alice, toolCall("echo", "hello")); a.status != http.StatusOK || a.text != "ran echo" {
		t.Fatalf("an honest call: %+v", a)
	}

	header := func(kv ...string) func(*http.Request) {
		return func(r *http.Request) {
			for i := 0; i < len(kv); i += 2 {
				r.Header.Set(kv[i], kv[i+1])
			}
		}
	}
	modern := func(method, params string) string {
		return `{"jsonrpc":"2.0","id":7,"method":"` + method + `","params":{` + params + `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}`
	}
	echo := toolCall("echo", "x")
	type row struct {
		name, server, token, body string
		edit                      func(*http.Request)
		status, code              int
		words                     string
		kind                      audit.Kind
		recorded                  string
	}
	refused := func(name, body, words string, code int) row {
		return row{name: name, body: body, status: 400, code: code, words: words, recorded: "bad-request"}
	}
	edited := func(name, body, words string, code int, edit func(*http.Request)) row {
		r := refused(name, body, words, code)
		r.edit = edit
		return r
	}
	token := func(name, token string) row {
		return row{name: name, token: token, body: echo, status: 401, code: -32000, words: "a valid bearer token for this resource is needed",
			kind: audit.KindAuthFailed, recorded: "unauthenticated"}
	}
	rows := []row{
		refused("duplicate key in the envelope", `{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}`, "an object has the same key twice (at byte 40)", -32700),
		refused("duplicate tool name", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","name":"risky","arguments":{}}}`, "an object has the same key twice", -32700),
		refused("duplicate key, one escaped", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","n\u0061me":"risky"}}`, "an object has the same key twice", -32700),
		refused("duplicate argument", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"a":1,"a":2}}}`, "an object has the same key twice", -32700),
		refused("case variant in the envelope", `{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call"}`, "a key is spelled like method but in another case (at byte 40)", -32600),
		refused("case variant of params", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","Name":"risky"}}`, "a key is spelled like name but in another case", -32600),
		refused("arguments that differ in case only", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"sql":"a","SQL":"b"}}}`, "two arguments differ only in upper and lower case", -32700),
		refused("invalid UTF-8", "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"ec\xffho\"}}", "a string is not valid UTF-8", -32700),
		refused("unpaired surrogate", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"a":"\ud800"}}}`, "a string has an unpaired surrogate", -32700),
		refused("NUL in the tool's name", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo\u0000"}}`, "a name of the protocol contains U+0000", -32600),
		refused("NUL in an argument", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"sql":"a\u0000b"}}}`, "a string that policy sees contains U+0000", -32700),
		refused("a raw NUL", "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\x00\"}", "a string has an unescaped control character", -32700),
		refused("a batch", `[`+echo+`]`, "batches are not served: send one message at a time (at byte 0)", -32600),
		refused("trailing data", echo+` {"more":1}`, "data after the end of the message", -32700),
		refused("two messages", echo+"\n"+echo, "data after the end of the message", -32700),
		refused("nothing", ``, "a message must be a JSON object (at byte 0)", -32700),
		refused("no JSON", `hello`, "a message must be a JSON object (at byte 0)", -32700),
		refused("cut off", echo[:len(echo)-4], "a string does not end", -32700),
		refused("deep nesting", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"a":`+strings.Repeat("[", 200)+strings.Repeat("]", 200)+`}}}`, "nested too deeply", -32700),
		refused("another protocol", `{"id":1,"method":"ping"}`, `jsonrpc must be "2.0"`, -32600),
		refused("too large", toolCall("echo", strings.Repeat("x", 4<<20)), "the request is larger than 4194304 bytes, the limit of this policy", -32600),
		edited("not JSON by its content type", echo, `content type "text/plain": want application/json`, -32600, header("Content-Type", "text/plain")),
		edited("a form", echo, `content type "application/x-www-form-urlencoded": want application/json`, -32600, header("Content-Type", "application/x-www-form-urlencoded")),
		edited("encoded", zipped(t, echo), `content encoding "gzip": send the body unencoded`, -32600, header("Content-Encoding", "gzip")),

		{name: "unknown server", server: "elsewhere", body: echo, status: 404, code: -32000, words: `no server named "elsewhere"`, recorded: "no-server"},
		{name: "foreign Host", body: echo, edit: func(r *http.Request) { r.Host = "evil.example" }, status: 403, code: -32000, words: `host "evil.example" is not served here: use ` + s.URL, recorded: "forbidden"},
		{name: "foreign Origin", body: echo, edit: header("Origin", "https://evil.example"), status: 403, code: -32000, words: `origin "https://evil.example" may not call this server`, recorded: "forbidden"},
		{name: "Origin null", body: echo, edit: header("Origin", "null"), status: 403, code: -32000, words: `origin "null" may not call this server`, recorded: "forbidden"},
		{name: "a method that MCP lacks", body: echo, edit: func(r *http.Request) { r.Method = http.MethodPut }, status: 405, code: -32000, words: "method PUT is not served on an MCP endpoint", recorded: "bad-request"},

		edited("modern without Mcp-Method", modern("tools/list", ""), "Header mismatch: Mcp-Method is required and missing", -32020, header("Mcp-Protocol-Version", "2026-07-28")),
		edited("modern without its version header", modern("tools/list", ""), "Header mismatch: MCP-Protocol-Version is required and missing", -32020, header("Mcp-Method", "tools/list")),
		edited("another method in the header", modern("tools/call", `"name":"echo",`), "Header mismatch: Mcp-Method differs from the body's method", -32020,
			header("Mcp-Protocol-Version", "2026-07-28", "Mcp-Method", "tools/list", "Mcp-Name", "echo")),
		edited("another name in the header", modern("tools/call", `"name":"risky",`), "Header mismatch: Mcp-Name differs from the body's name, uri or task id", -32020,
			header("Mcp-Protocol-Version", "2026-07-28", "Mcp-Method", "tools/call", "Mcp-Name", "echo")),
		edited("another version in the header", modern("tools/list", ""), "Header mismatch: MCP-Protocol-Version differs", -32020,
			header("Mcp-Protocol-Version", "2027-01-01", "Mcp-Method", "tools/list")),
		edited("modern by its header only", echo, "io.modelcontextprotocol/protocolVersion is required in params._meta and missing", -32602,
			header("Mcp-Protocol-Version", "2026-07-28", "Mcp-Method", "tools/call", "Mcp-Name", "echo")),
		edited("two Mcp-Name headers", modern("tools/call", `"name":"echo",`), "Header mismatch: Mcp-Name is there more than once", -32020, func(r *http.Request) {
			header("Mcp-Protocol-Version", "2026-07-28", "Mcp-Method", "tools/call", "Mcp-Name", "echo")(r)
			r.Header.Add("Mcp-Name", "risky")
		}),

		{name: "another caller's session", token: mallory, body: echo, edit: header("Mcp-Session-Id", session), status: 404, code: -32000, words: "this session is unknown: initialize again", recorded: "no-session"},
		{name: "an invented session", body: echo, edit: header("Mcp-Session-Id", "session-of-nobody"), status: 404, code: -32000, words: "this session is unknown: initialize again", recorded: "no-session"},
		{name: "another caller's stream", token: mallory, edit: func(r *http.Request) { r.Method = http.MethodGet; header("Mcp-Session-Id", session)(r) }, status: 404, code: -32000, words: "this session is unknown", recorded: "no-session"},
		{name: "ending another caller's session", token: mallory, edit: func(r *http.Request) { r.Method = http.MethodDelete; header("Mcp-Session-Id", session)(r) }, status: 404, code: -32000, words: "this session is unknown", recorded: "no-session"},

		token("no token", "-"),
		token("garbage", "garbage"),
		token("three parts of garbage", "a.b.c"),
		token("wrong audience", minted(t, s.Issuer, s.URL, issuer.Claims{"aud": "https://elsewhere.example"}, nil)),
		token("no audience", minted(t, s.Issuer, s.URL, issuer.Claims{"aud": nil}, nil)),
		token("expired", minted(t, s.Issuer, s.URL, issuer.Claims{"exp": time.Now().Add(-time.Minute).Unix()}, nil)),
		token("no expiry", minted(t, s.Issuer, s.URL, issuer.Claims{"exp": nil}, nil)),
		token("not valid yet", minted(t, s.Issuer, s.URL, issuer.Claims{"nbf": time.Now().Add(time.Hour).Unix()}, nil)),
		token("no signature", unsigned(minted(t, s.Issuer, s.URL, nil, nil))),
		token("HS256 under the public key's name", hs256(minted(t, s.Issuer, s.URL, nil, nil))),
		token("signature of other claims", spliced(minted(t, s.Issuer, s.URL, nil, nil), minted(t, s.Issuer, s.URL, issuer.Claims{"sub": "bob"}, nil))),
		token("a foreign issuer", foreign(t, s.URL, "")),
		token("a foreign key under our issuer's name", foreign(t, s.URL, s.Issuer.URL)),
		token("no subject", minted(t, s.Issuer, s.URL, issuer.Claims{"sub": nil}, nil)),
		token("a logout token", minted(t, s.Issuer, s.URL, nil, map[string]any{"typ": "logout+jwt"})),
		{name: "two Authorization headers", body: echo, edit: func(r *http.Request) { r.Header.Add("Authorization", "Bearer "+mallory) }, status: 401, code: -32000,
			words: "a valid bearer token for this resource is needed", kind: audit.KindAuthFailed, recorded: "unauthenticated"},
		{name: "another scheme", body: echo, edit: header("Authorization", "Basic YWxpY2U6YWxpY2U="), status: 401, code: -32000,
			words: "a valid bearer token for this resource is needed", kind: audit.KindAuthFailed, recorded: "unauthenticated"},
	}
	before := u.requests()
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			if r.server == "" {
				r.server = "probe"
			}
			switch r.token {
			case "":
				r.token = alice
			case "-":
				r.token = ""
			}
			if r.kind == "" {
				r.kind = audit.KindRefused
			}
			a, err := p.send(t.Context(), r.server, r.token, r.body, r.edit)
			if err != nil {
				t.Fatal(err)
			}
			if a.status != r.status || a.code != r.code || !strings.Contains(a.text, r.words) {
				t.Errorf("got %d, code %d, %q\nwant %d, code %d, %q", a.status, a.code, a.text, r.status, r.code, r.words)
			}
			if r.status == 401 && !strings.Contains(a.header.Get("WWW-Authenticate"), "resource_metadata=") {
				t.Errorf("no way to the resource metadata: %v", a.header)
			}
			if u.requests() != before || s.Customers.Calls() != 0 {
				t.Errorf("an upstream was contacted")
				before = u.requests()
			}
			p := p.in(t)
			p.wants(a.record, r.kind, r.recorded)
		})
	}
	t.Run("and the record holds no token", func(t *testing.T) {
		p.stop()
		verified(t, s)
		all := git(t, s.Audit, "log", "-p", "--all") + p.log.String()
		for _, tok := range []string{alice, mallory} {
			if strings.Contains(all, tok) || strings.Contains(all, strings.Split(tok, ".")[2]) {
				t.Error("a token stands in the record or the log")
			}
		}
	})
}

// Whoever is not known cannot fill the journal: what repeats is counted.
func TestFloodFromOutside(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "1s")
	p := serving(t, s, nil)
	records := map[string]bool{}
	for range 200 {
		for _, edit := range []func(*http.Request){
			func(r *http.Request) { r.Host = "evil.example" },
			func(r *http.Request) { r.Header.Set("Authorization", "Bearer nonsense") },
		} {
			a, err := p.send(t.Context(), "probe", "", toolCall("echo", "x"), edit)
			if err != nil {
				t.Fatal(err)
			}
			records[a.record] = true
		}
	}
	unknown := func() (n, more int) {
		for _, en := range p.entries(func(en audit.Entry) bool {
			return en.Sub == "" && (en.Kind == audit.KindAuthFailed || en.Kind == audit.KindRefused)
		}) {
			if !records[en.Call] {
				t.Errorf("entry of call %q, which nobody was told of", en.Call)
			}
			var d struct{ More int }
			if err := json.Unmarshal(en.Detail, &d); err != nil {
				t.Fatal(err)
			}
			n, more = n+1, more+d.More
		}
		return n, more
	}
	p.stop()
	// Housekeeping may have written some counts in between.
	n, more := unknown()
	if n > 20 {
		t.Errorf("400 requests of nobody left %d entries", n)
	}
	if firsts := len(records); firsts+more != 400 {
		t.Errorf("%d recorded alone and %d counted, want 400 together", firsts, more)
	}
	if u.requests() != 0 {
		t.Error("the upstream was contacted")
	}
}

// minted is a token of the stage's issuer for alice.
func minted(t *testing.T, iss *issuer.Issuer, aud string, more issuer.Claims, head map[string]any) string {
	t.Helper()
	claims := issuer.Claims{"sub": "alice", "aud": aud, "client_id": "desk-assistant", "groups": []string{"support"}}
	for k, v := range more {
		claims[k] = v
	}
	tok, err := iss.Mint(claims, head)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// foreign is a token of an issuer that nobody trusts, which may claim another's
// name.
func foreign(t *testing.T, aud, name string) string {
	t.Helper()
	iss, err := issuer.Start("127.0.0.1:0", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := iss.Close(); err != nil {
			t.Error(err)
		}
	})
	if name == "" {
		name = iss.URL
	}
	return minted(t, iss, aud, issuer.Claims{"iss": name}, nil)
}

// unsigned says alg none, and has no signature.
func unsigned(token string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"at+jwt"}`)) + "." + strings.Split(token, ".")[1] + "."
}

// hs256 signs with a secret, as if a public key were one.
func hs256(token string) string {
	input := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256","typ":"at+jwt"}`)) + "." + strings.Split(token, ".")[1]
	mac := hmac.New(sha256.New, []byte("public"))
	mac.Write([]byte(input))
	return input + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// spliced has the claims of one token and the signature of another.
func spliced(signed, claims string) string {
	a, b := strings.Split(signed, "."), strings.Split(claims, ".")
	return a[0] + "." + b[1] + "." + a[2]
}

func zipped(t *testing.T, s string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := io.WriteString(w, s); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// A body that breaks off is no call.
func TestBodyBreaksOff(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "1s")
	p := serving(t, s, nil)
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL+"/mcp/probe", r)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+p.token("alice", "support"))
	done := make(chan error, 1)
	go func() {
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			err = fmt.Errorf("answered %d", resp.StatusCode)
			_ = resp.Body.Close() // the error says enough
		}
		done <- err
	}()
	if _, err := io.WriteString(w, toolCall("echo", "x")[:40]); err != nil {
		t.Fatal(err)
	}
	cancel()
	// The client waits for its body to end, too, before it says that it is cancelled.
	if err := w.CloseWithError(context.Canceled); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err == nil {
		t.Error("half a call was answered")
	}
	p.await("the entry", func() bool {
		return len(p.entries(func(en audit.Entry) bool {
			return en.Kind == audit.KindRefused && en.Status == "cancelled" && strings.Contains(en.Reason, "broke off")
		})) == 1
	})
	if u.requests() != 0 {
		t.Error("the upstream was contacted")
	}
}
