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

	legacyProbe(u, nil)
	all := p.openAll(alice)
	if a := p.all(t.Context(), all, alice, toolCall("probe__echo", "hello")); a.text != "ran echo" {
		t.Fatalf("an honest call by way of all servers: %+v", a)
	}

	rows := append(hostileRequests(t, s, session, mallory), hostileAtAll(all, mallory)...)
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
	t.Run("the page", func(t *testing.T) { strictnessPage(t, s.URL, rows) })
	t.Run("HTTP", func(t *testing.T) { p.in(t).hostileHTTP(t, u, alice) })
	t.Run("answers", func(t *testing.T) { p.in(t).hostileAnswers(t, u, alice) })
	t.Run("headers", func(t *testing.T) { p.in(t).headersWithoutEffect(t, u, alice) })
	t.Run("and the record holds no token", func(t *testing.T) {
		p.stop()
		verified(t, s)
		record := git(t, s.Audit, "log", "-p", "--all")
		if strings.Contains(record, inner) {
			t.Error("a hostile answer stands in the record")
		}
		for line := range strings.Lines(p.log.String()) {
			if !json.Valid([]byte(line)) {
				t.Errorf("a line of the log went by the mask: %s", line)
			}
		}
		all := record + p.log.String()
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
