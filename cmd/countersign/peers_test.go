package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"crypto/rand"

	"countersign/audit"
	"countersign/fixtures/githost"
	"countersign/fixtures/stage"
)

// A bad policy commit changes nothing: the last good one stays in force, and
// the reason is on /readyz and in the record, until a good one comes.
func TestBadPolicyCommit(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "1s")
	p := serving(t, s, nil)
	alice := p.token("alice", "support")
	stranger, err := githost.NewKey(rand.Reader, "dana@example.com") // the name proves nothing
	if err != nil {
		t.Fatal(err)
	}
	// What each bad commit would bring: a tool that nobody may call.
	open := probeRules + "- { id: probe-forbidden, server: probe, tool: forbidden, effect: allow }\n"
	main := "refs/heads/" + s.Policy.Branch
	first := strings.TrimSpace(git(t, s.Policy.Dir, "rev-parse", main+"~1"))
	for _, bad := range []struct {
		name, words string
		push        func() (commit string)
	}{
		{"unsigned", "it is not signed", func() string { return amend(t, s, nil, map[string]string{"rules/probe.yaml": open}) }},
		{"signed by a stranger", "sign", func() string { return amend(t, s, stranger, map[string]string{"rules/probe.yaml": open}) }},
		{"signed, upon an unsigned one", "sign", func() string {
			amend(t, s, nil, map[string]string{"rules/probe.yaml": open})
			return amend(t, s, s.Dana, map[string]string{"servers/note.md": "", "rules/probe.yaml": open + "\n"})
		}},
		{"with a typo", "rules/probe.yaml:9:", func() string {
			return amend(t, s, s.Dana, map[string]string{"rules/probe.yaml": open + "- { id: typo, server: probe, tool: echo, efect: allow }\n"})
		}},
		{"with a failing case", "tests/probe.yaml", func() string {
			return amend(t, s, s.Dana, map[string]string{"rules/probe.yaml": open, "tests/probe.yaml": "- { name: nobody may, subject: { issuer: x, sub: y }, server: probe, tool: forbidden, expect: { effect: deny } }\n"})
		}},
		{"forced back to an older one", "descend", func() string {
			if err := s.Policy.SetRef(main, first); err != nil {
				t.Fatal(err)
			}
			return first
		}},
	} {
		t.Run(bad.name, func(t *testing.T) {
			p := p.in(t)
			good := strings.TrimSpace(git(t, s.Policy.Dir, "rev-parse", main))
			p.inForce(good)
			commit := bad.push()
			p.await("the rejection", func() bool { return strings.Contains(p.readiness().Rejected, commit) })
			r := p.readiness()
			if !r.Ready || r.Policy != good || !strings.Contains(r.Rejected, bad.words) {
				t.Errorf("readiness: %+v\nwant ready, policy %s, and the word %q", r, good, bad.words)
			}
			p.await("the rejection in the record", func() bool {
				return len(p.entries(func(en audit.Entry) bool {
					return en.Kind == audit.KindPolicy && en.Status == "rejected" && en.Policy == commit && strings.Contains(en.Reason, bad.words)
				})) == 1
			})
			if _, metrics := p.get("/metrics"); !strings.Contains(metrics, "countersign_policy_rejected 1") {
				t.Error("the metric does not tell")
			}
			if a := p.ask("probe", alice, toolCall("echo", "x")); a.text != "ran echo" {
				t.Errorf("the last good policy does not decide: %+v", a)
			}
			if a := p.ask("probe", alice, toolCall("forbidden", "x")); !a.failed || u.ran("forbidden") != 0 {
				t.Errorf("the bad policy decides: %+v", a)
			}
			// Back to the good one, and on from there.
			if err := s.Policy.SetRef(main, good); err != nil {
				t.Fatal(err)
			}
			healed := amend(t, s, s.Dana, map[string]string{"rules/probe.yaml": probeRules, "tests/probe.yaml": ""})
			p.inForce(healed)
			if r := p.readiness(); r.Rejected != "" {
				t.Errorf("still rejected: %q", r.Rejected)
			}
		})
	}
}

// A policy that no fetch has confirmed for too long is not in force.
func TestPolicyTooOld(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "1s")
	p := serving(t, s, map[string]string{"COUNTERSIGN_POLICY_MAX_AGE": "4s"})
	alice := p.token("alice", "support")
	if err := os.Rename(s.Policy.Dir, s.Policy.Dir+".away"); err != nil {
		t.Fatal(err)
	}
	p.await("unreadiness", func() bool { status, _ := p.get("/readyz"); return status == http.StatusServiceUnavailable })
	before := u.requests()
	a := p.ask("probe", alice, toolCall("echo", "x"))
	if a.status != 200 || a.code != -32603 || !strings.Contains(a.text, "longer than the operator's limit of 4s: the policy repository cannot be reached") {
		t.Errorf("got %+v", a)
	}
	if en := p.wants(a.record, audit.KindRefused, "unavailable"); en.Sub != "alice" {
		t.Errorf("the record does not say who was refused: %+v", en)
	}
	if u.requests() != before {
		t.Error("the upstream was contacted")
	}
	if err := os.Rename(s.Policy.Dir+".away", s.Policy.Dir); err != nil {
		t.Fatal(err)
	}
	p.await("readiness again", func() bool { status, _ := p.get("/readyz"); return status == http.StatusOK })
	// On a loaded machine a fetch may take four seconds, too.
	p.await("a call that runs", func() bool { return p.ask("probe", alice, toolCall("echo", "x")).text == "ran echo" })
}

// A call that needs a credential is refused while Vault is sealed; others run.
func TestVaultSealedAtCallTime(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "1s")
	p := serving(t, s, nil)
	alice := p.token("alice", "support")
	s.Vault.Seal(true)
	a := p.ask("probe", alice, toolCall("leak", "x"))
	if a.code != -32603 || !strings.Contains(a.text, `credential "probe-db" could not be had`) || !strings.Contains(a.text, "the vault is sealed") {
		t.Errorf("got %+v", a)
	}
	if u.ran("leak") != 0 {
		t.Error("the upstream was contacted")
	}
	p.wants(a.record, audit.KindOutcome, "unavailable")
	if a := p.ask("probe", alice, toolCall("echo", "x")); a.text != "ran echo" {
		t.Errorf("a call without credential: %+v", a)
	}
	s.Vault.Seal(false)
	if a := p.ask("probe", alice, toolCall("leak", "x")); a.text != "ran leak" {
		t.Errorf("unsealed: %+v", a)
	}
	p.stop()
	if left := s.Vault.Leases(); len(left) != 0 {
		t.Errorf("leases left: %v", left)
	}
}

// Where Slack refuses the channel the caller is told at once, and what to do;
// the approval waits, and works once Slack lets the card through.
func TestSlackRefusesTheChannel(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "5m")
	p := serving(t, s, nil)
	alice := p.token("alice", "support")
	s.Slack.Fail("chat.postMessage", "channel_not_found")
	a := p.ask("probe", alice, toolCall("risky", "channel"))
	if a.code != -32603 || !strings.Contains(a.text, "nobody could be asked") || !strings.Contains(a.text, "channel_not_found") || !strings.Contains(a.text, "approvers.yaml") {
		t.Errorf("got %+v", a)
	}
	p.wants(a.record, audit.KindRefused, "unavailable")
	card := awaitCard(t, s, "channel") // tried again after a while
	if err := s.Slack.Press(t.Context(), card, button(t, card, "approve"), stage.SlackBob); err != nil {
		t.Fatal(err)
	}
	p.awaitEvent("risky", "approved")
	if u.ran("risky") != 0 {
		t.Error("it ran though nobody waits")
	}
	if a := p.ask("probe", alice, toolCall("risky", "channel")); a.text != "ran risky" {
		t.Errorf("got %+v", a)
	}
}

// While Slack is down a call is pending; an identical one attaches to the same
// approval, and runs once bob has pressed.
func TestSlackDown(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "1s")
	p := serving(t, s, nil)
	alice := p.token("alice", "support")
	s.Slack.Down(true)
	a := p.ask("probe", alice, toolCall("risky", "down"))
	id, _ := p.event("risky", "asked")
	if !a.failed || id == "" || !strings.Contains(a.text, "approval pending: dba has been asked (approval "+id) || !strings.Contains(a.text, "Repeat the identical call to continue; it runs at most once") {
		t.Errorf("got %+v", a)
	}
	p.wants(a.record, audit.KindRefused, "pending")
	s.Slack.Down(false)
	card := awaitCard(t, s, "down")
	if err := s.Slack.Press(t.Context(), card, button(t, card, "approve"), stage.SlackBob); err != nil {
		t.Fatal(err)
	}
	p.awaitEvent("risky", "approved")
	again := p.ask("probe", alice, toolCall("risky", "down"))
	if again.text != "ran risky" || u.ran("risky") != 1 {
		t.Errorf("got %+v after %d runs", again, u.ran("risky"))
	}
	if spent := p.awaitEvent("risky", "spent"); spent != id {
		t.Errorf("spent %s, asked %s", spent, id)
	}
}

// A remote that refuses the push costs nothing: the journal keeps the record,
// the push is tried again, and all of it arrives.
func TestAuditRemoteRefuses(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "1s")
	if err := githost.RefusePushes(s.Audit, "quota exceeded"); err != nil {
		t.Fatal(err)
	}
	p := serving(t, s, map[string]string{"COUNTERSIGN_AUDIT_WINDOW": "1s"})
	alice := p.token("alice", "support")
	var calls []string
	for i := range 5 {
		if a := p.ask("probe", alice, toolCall("echo", fmt.Sprint(i))); a.text != "ran echo" {
			t.Fatalf("got %+v", a)
		}
		calls = append(calls, fmt.Sprintf(`{"what":"%d"}`, i))
	}
	p.await("a refused push", func() bool { return strings.Contains(p.log.String(), "the remote refuses the push") })
	if got := recorded(t, s); len(got) != 0 {
		t.Fatalf("published though refused: %v", got)
	}
	if err := githost.RefusePushes(s.Audit, ""); err != nil {
		t.Fatal(err)
	}
	p.await("the push that is let through", func() bool { return len(recorded(t, s)) > 10 })
	p.stop()
	verified(t, s)
	published, kept := recorded(t, s), p.journal()
	if len(published) != len(kept) {
		t.Fatalf("%d entries published, %d in the journal", len(published), len(kept))
	}
	for _, args := range calls {
		n := 0
		for _, en := range published {
			if en["kind"] == "intent" && en["args"] == args {
				n++
			}
		}
		if n != 1 {
			t.Errorf("call %s stands %d times in the record", args, n)
		}
	}
}

// One state directory is one enforcer's.
func TestStateDirectoryTwice(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	p := serving(t, s, nil)
	_, errs, code := command(t, s.Env(map[string]string{"COUNTERSIGN_LISTEN": "127.0.0.1:0"}), "serve")
	if code != 2 || !strings.Contains(errs, "state directory "+s.Path("state")+" is in use by another enforcer: stop that one, or give this one a directory of its own") {
		t.Errorf("exit %d: %s", code, errs)
	}
	if status, _ := p.get("/readyz"); status != http.StatusOK {
		t.Errorf("the first one suffers: %d", status)
	}
}

// What an upstream answers that is no MCP, or could be read in two ways, does
// not reach the client.
func TestUpstreamAnswersBadly(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "1s")
	amend(t, s, s.Dana, map[string]string{
		"servers/dead.yaml": "server: dead\nurl: " + unused(t) + "\ntimeout: 5s\n",
		"rules/probe.yaml":  probeRules + "- { id: dead, server: dead, tool: \"*\", effect: allow }\n",
	})
	p := serving(t, s, nil)
	alice := p.token("alice", "support")
	const marker = "UPSTREAM-BYTES"
	raw := func(status int, contentType, body string, header ...string) func(http.ResponseWriter, json.RawMessage) {
		return func(w http.ResponseWriter, id json.RawMessage) {
			w.Header().Set("Content-Type", contentType)
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(status)
			fmt.Fprint(w, strings.ReplaceAll(body, "ID", string(id)))
		}
	}
	for _, c := range []struct {
		name, server  string
		answer        func(http.ResponseWriter, json.RawMessage)
		words, status string
	}{
		{"dead", "dead", nil, "the MCP server is not running or did not answer", "unavailable"},
		{"HTML", "", raw(200, "text/html", "<h1>"+marker+"</h1>"), "the server's answer is not MCP: HTTP status 200 with content type text/html", "blocked"},
		{"HTML of a proxy in between", "", raw(502, "text/html", marker), "HTTP status 502 with content type text/html", "blocked"},
		{"a login page", "", raw(302, "text/html", marker, "Location", "https://login.example/"+marker), "a redirect, which is not followed", "blocked"},
		{"gzip", "", raw(200, "application/json", zipped(t, `{"jsonrpc":"2.0","id":1,"result":{"content":[]}}`), "Content-Encoding", "gzip"), "compressed or otherwise encoded answer: content encoding gzip", "blocked"},
		{"gzip in a stream", "", raw(200, "text/event-stream", zipped(t, "data: {}\n\n"), "Content-Encoding", "gzip"), "content encoding gzip", "blocked"},
		{"a key twice", "", raw(200, "application/json", `{"jsonrpc":"2.0","id":ID,"result":{"content":[]},"result":{"content":[{"type":"text","text":"`+marker+`"}]}}`), "cannot be read safely: an object has the same key twice", "blocked"},
		{"a key in another case", "", raw(200, "application/json", `{"jsonrpc":"2.0","id":ID,"result":{"content":[]},"Result":{"content":[{"type":"text","text":"`+marker+`"}]}}`), "in another case", "blocked"},
		{"trailing data", "", raw(200, "application/json", `{"jsonrpc":"2.0","id":ID,"result":{"content":[]}} {"`+marker+`":1}`), "data after the end", "blocked"},
		{"cut off", "", raw(200, "application/json", `{"jsonrpc":"2.0","id":ID,"result":{"content":[{"text":"`+marker), "cannot be read safely", "blocked"},
		{"invalid UTF-8", "", raw(200, "application/json", `{"jsonrpc":"2.0","id":ID,"result":{"content":[{"type":"text","text":"`+marker+"\xff"+`"}]}}`), "not valid UTF-8", "blocked"},
		{"a batch", "", raw(200, "application/json", `[{"jsonrpc":"2.0","id":ID,"result":{"content":[{"type":"text","text":"`+marker+`"}]}}]`), "batches are not served", "blocked"},
		{"a request instead", "", raw(200, "application/json", `{"jsonrpc":"2.0","id":ID,"method":"sampling/createMessage","params":{"x":"`+marker+`"}}`), "not a JSON-RPC response", "blocked"},
		{"the answer to another call", "", raw(200, "application/json", `{"jsonrpc":"2.0","id":"other","result":{"content":[{"type":"text","text":"`+marker+`"}]}}`), "not the answer to this request", "blocked"},
		{"ambiguous in a stream", "", raw(200, "text/event-stream", "data: {\"jsonrpc\":\"2.0\",\"id\":ID,\"id\":2,\"result\":{\"x\":\""+marker+"\"}}\n\n"), "an object has the same key twice", "blocked"},
		{"nothing", "", raw(200, "application/json", ""), "answered a request with nothing", "error"},
		{"too much", "", raw(200, "application/json", `{"jsonrpc":"2.0","id":ID,"result":{"x":"`+marker+strings.Repeat("x", 9<<20)+`"}}`), "the server's answer is too large", "blocked"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := p.in(t)
			u.answerWith(func(w http.ResponseWriter, _ *http.Request, id json.RawMessage, _, _ string) bool {
				c.answer(w, id)
				return true
			})
			if c.server == "" {
				c.server = "probe"
			}
			a := p.ask(c.server, alice, toolCall("echo", "x"))
			if a.status != 200 || a.code != -32603 || !strings.Contains(a.text, c.words) {
				t.Errorf("got %d, code %d, %q\nwant words %q", a.status, a.code, a.text, c.words)
			}
			if strings.Contains(a.body, marker) {
				t.Errorf("the upstream's bytes came through: %.300s", a.body)
			}
			if en := p.wants(a.record, audit.KindOutcome, c.status); strings.Contains(fmt.Sprintf("%+v", en), marker) {
				t.Errorf("the upstream's bytes are in the record: %+v", en)
			}
		})
	}
	if strings.Contains(p.log.String(), marker) {
		t.Error("the upstream's bytes are in the log")
	}
}

// An upstream that gives the minted password away, in whatever place and form,
// gives it to nobody.
func TestUpstreamLeaksItsCredential(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "1s")
	p := serving(t, s, nil)
	alice := p.token("alice", "support")
	quoted := func(s string) string {
		b, err := json.Marshal(s)
		if err != nil {
			t.Error(err)
		}
		return string(b)
	}
	type leak func(w http.ResponseWriter, id, password, basic string)
	text := func(form func(password, basic string) string) leak {
		return func(w http.ResponseWriter, id, password, basic string) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":%s}]}}`, id, quoted("so: "+form(password, basic)+" ."))
		}
	}
	body := func(format string) leak {
		return func(w http.ResponseWriter, id, password, basic string) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, strings.NewReplacer("ID", id, "PASSWORD", password, "BASE64", base64.StdEncoding.EncodeToString([]byte("x: "+password))).Replace(format))
		}
	}
	stream := func(format string) leak {
		return func(w http.ResponseWriter, id, password, basic string) {
			w.Header().Set("Content-Type", "text/event-stream")
			half := len(password) / 2
			fmt.Fprint(w, strings.NewReplacer("ID", id, "PASSWORD", password, "HALF1", password[:half], "HALF2", password[half:]).Replace(format)+
				"data: {\"jsonrpc\":\"2.0\",\"id\":"+id+",\"result\":{\"content\":[]}}\n\n")
		}
	}
	inHeader := func(name string) leak {
		return func(w http.ResponseWriter, id, password, basic string) {
			w.Header().Set(name, "x"+password)
			body(`{"jsonrpc":"2.0","id":ID,"result":{"content":[]}}`)(w, id, password, basic)
		}
	}
	const notification = `data: {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"PASSWORD"}}` + "\n\n"
	for _, c := range []struct {
		name    string
		leak    leak
		blocked bool
	}{
		{"as text", text(func(pw, _ string) string { return pw }), false},
		{"in a URL", text(func(pw, _ string) string { return "postgres://u:" + url.QueryEscape(pw) + "@h/db" }), false},
		{"as base64", text(func(pw, _ string) string { return base64.StdEncoding.EncodeToString([]byte(pw)) }), false},
		{"as hex", text(func(pw, _ string) string { return strings.ToUpper(hex.EncodeToString([]byte(pw))) }), false},
		{"as JSON in JSON", text(func(pw, _ string) string { return quoted(`{"password":` + quoted(pw) + `}`) }), false},
		{"as the header that it got", text(func(_, basic string) string { return "Authorization: " + basic }), false},
		{"in an error message", body(`{"jsonrpc":"2.0","id":ID,"error":{"code":-32000,"message":"login failed for PASSWORD"}}`), false},
		{"in an error's data", body(`{"jsonrpc":"2.0","id":ID,"error":{"code":-32000,"message":"no","data":{"dsn":["PASSWORD"]}}}`), false},
		{"in structured content", body(`{"jsonrpc":"2.0","id":ID,"result":{"content":[],"structuredContent":{"a":{"b":"PASSWORD"}}}}`), false},
		{"as a key", body(`{"jsonrpc":"2.0","id":ID,"result":{"content":[],"structuredContent":{"PASSWORD":1}}}`), false},
		{"in a blob", body(`{"jsonrpc":"2.0","id":ID,"result":{"content":[{"type":"resource","resource":{"uri":"x:y","blob":"BASE64"}}]}}`), false},
		{"over two blocks", stream(`data: {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":["HALF1","HALF2"]}}` + "\n\n"), false},
		{"in a notification", stream(notification), false},
		{"in a comment", stream(": PASSWORD\n\n"), false},
		{"in an event's id", stream("id: PASSWORD\n" + notification), false},
		{"over two data lines", stream("data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\ndata: \"params\":{\"level\":\"info\",\"data\":\"PASSWORD\"}}\n\n"), false},
		{"in a session id", inHeader("Mcp-Session-Id"), true},
		{"in Retry-After", inHeader("Retry-After"), true},
		{"in a header that does not come through", inHeader("X-Debug"), false},
		{"in a content type", func(w http.ResponseWriter, id, password, _ string) {
			w.Header().Set("Content-Type", "text/"+password)
			fmt.Fprint(w, "no")
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := p.in(t)
			var password string
			u.answerWith(func(w http.ResponseWriter, r *http.Request, id json.RawMessage, _, _ string) bool {
				_, pw, ok := r.BasicAuth()
				if ok {
					password = pw
				}
				c.leak(w, string(id), pw, r.Header.Get("Authorization"))
				return true
			})
			a := p.ask("probe", alice, toolCall("leak", "x"))
			if password == "" {
				t.Fatalf("no credential came to the upstream: %+v", a)
			}
			if a.status != 200 || (a.code == -32603) != c.blocked {
				t.Errorf("blocked: %v, want %v: %+v", a.code == -32603, c.blocked, a)
			}
			half := len(password) / 2
			for place, got := range map[string]string{"answer": a.body, "header": fmt.Sprint(a.header), "record": fmt.Sprintf("%+v", p.journal()), "log": p.log.String()} {
				for _, form := range []string{password, url.QueryEscape(password), quoted(password), base64.StdEncoding.EncodeToString([]byte(password)),
					strings.TrimPrefix(u.authorization(), "Basic "), strings.ToUpper(hex.EncodeToString([]byte(password)))} {
					if strings.Contains(got, form) {
						t.Errorf("the password came through in the %s: %.400s", place, got)
					}
				}
				if strings.Contains(got, password[:half]) && strings.Contains(got, password[half:]) {
					t.Errorf("the password came through in halves in the %s: %.400s", place, got)
				}
			}
			if !c.blocked && c.name != "in a header that does not come through" && !strings.Contains(a.body, "[masked: ") {
				t.Errorf("nothing says that something was masked: %s", a.body)
			}
		})
	}
	p.stop()
	verified(t, s)
}

// At its bound the journal takes no more calls, and says why; what is in it is
// not lost, and once it is published calls go on.
func TestJournalFull(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "1s")
	if err := githost.RefusePushes(s.Audit, "quota exceeded"); err != nil {
		t.Fatal(err)
	}
	p := serving(t, s, map[string]string{"COUNTERSIGN_AUDIT_WINDOW": "1s", "COUNTERSIGN_AUDIT_JOURNAL_MAX": "65536"})
	alice := p.token("alice", "support")
	served := 0
	var a answer
	p.await("the bound", func() bool {
		if a = p.ask("probe", alice, toolCall("echo", "x")); a.text == "ran echo" {
			served++
			return false
		}
		return true
	})
	if a.code != -32603 || !strings.Contains(a.text, "the journal is full") {
		t.Errorf("refused with %+v", a)
	}
	for range 40 { // what room is left is for the ends of calls under way, not for refusals
		a = p.ask("probe", alice, toolCall("echo", "x"))
	}
	if a.code != -32603 || !strings.Contains(a.text, "the record cannot be written, so nothing is served: the journal is full and not yet published") {
		t.Errorf("refused with %+v", a)
	}
	if served == 0 || u.ran("echo") != served {
		t.Errorf("%d calls served, %d reached the upstream", served, u.ran("echo"))
	}
	if status, text := p.get("/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(text, "wait to be published") {
		t.Errorf("readiness: %d %s", status, text)
	}
	if err := githost.RefusePushes(s.Audit, ""); err != nil {
		t.Fatal(err)
	}
	p.await("calls again", func() bool { return p.ask("probe", alice, toolCall("echo", "x")).text == "ran echo" })
	p.stop()
	verified(t, s)
	if published, kept := len(recorded(t, s)), len(p.journal()); published != kept {
		t.Errorf("%d entries published, %d in the journal", published, kept)
	}
}

// While the disk under the journal fails, nothing is served and nothing
// forwarded. The file that failed is given up; when there is room again, calls
// go on in another, without a restart, and the record is whole.
func TestDiskFullUnderTheJournal(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "1s")
	p := serving(t, s, map[string]string{"COUNTERSIGN_AUDIT_WINDOW": "1m"})
	alice := p.token("alice", "support")
	if a := p.ask("probe", alice, toolCall("leak", "x")); a.text != "ran leak" {
		t.Fatalf("got %+v", a)
	}
	// The process may write no further into a file than the journal goes now,
	// and a bit: the next write breaks off, as on a full disk.
	files, err := filepath.Glob(s.Path("state/journal/*/*.jsonl"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	written, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	limit(t, p.cmd.Process.Pid, uint64(len(bytes.TrimRight(written, "\x00"))+10))
	before := u.requests()
	for range 3 {
		a := p.ask("probe", alice, toolCall("echo", "x"))
		if a.code != -32603 || !strings.Contains(a.text, "the record cannot be written, so nothing is served: the journal's disk failed; try again in a minute") {
			t.Errorf("got %+v", a)
		}
	}
	if u.requests() != before {
		t.Error("the upstream was contacted")
	}
	if status, text := p.get("/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(text, "nothing is accepted until a new file is durable") || !strings.Contains(text, "file too large") {
		t.Errorf("readiness: %d %s", status, text)
	}
	limit(t, p.cmd.Process.Pid, ^uint64(0))
	p.await("calls again", func() bool { return p.ask("probe", alice, toolCall("echo", "x")).text == "ran echo" })
	if status, text := p.get("/readyz"); status != http.StatusOK {
		t.Errorf("readiness: %d %s", status, text)
	}
	p.stop()
	if left := s.Vault.Leases(); len(left) != 0 {
		t.Errorf("leases left: %v", left)
	}
	verified(t, s)
}

// limit bounds the files of a running process (prlimit(2), RLIMIT_FSIZE).
func limit(t *testing.T, pid int, bytes uint64) {
	t.Helper()
	r := syscall.Rlimit{Cur: bytes, Max: ^uint64(0)}
	if _, _, errno := syscall.Syscall6(syscall.SYS_PRLIMIT64, uintptr(pid), syscall.RLIMIT_FSIZE, uintptr(unsafe.Pointer(&r)), 0, 0, 0); errno != 0 {
		t.Fatal(errno)
	}
}

// An issuer that is away refuses nobody for good: its callers are told to come
// back, the record has them.
func TestIssuerDown(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	s := probeStage(t, u, "1s")
	alice, err := s.Token("alice", []string{"support"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.Issuer.Intercept(func(w http.ResponseWriter, _ *http.Request) bool {
		http.Error(w, "down", http.StatusBadGateway)
		return true
	})
	p := starting(t, s, nil)
	p.await("an open gate", func() bool { status, _ := p.get("/metrics"); return status == http.StatusOK })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	a, err := p.send(ctx, "probe", alice, toolCall("echo", "x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" || !strings.Contains(a.text, "the token cannot be checked now: try again") {
		t.Errorf("got %+v", a)
	}
	p.wants(a.record, audit.KindAuthFailed, "unauthenticated")
	if u.requests() != 0 {
		t.Error("the upstream was contacted")
	}
	s.Issuer.Intercept(nil)
	p.await("service", func() bool { return p.ask("probe", alice, toolCall("echo", "x")).text == "ran echo" })
}
