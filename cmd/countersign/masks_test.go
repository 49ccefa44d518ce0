package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"countersign/audit"
)

func TestMaskHash(t *testing.T) {
	for in, want := range map[string]string{"a value": "a value", "a value\n": "a value", "two\nlines\r\n": "two\nlines", " kept \n": " kept "} {
		cmd := policyMaskHashCommand()
		var out bytes.Buffer
		cmd.SetIn(strings.NewReader(in))
		cmd.SetOut(&out)
		cmd.SetArgs([]string{}) // not those of the test
		sum := sha256.Sum256([]byte(want))
		if err := cmd.Execute(); err != nil || out.String() != hex.EncodeToString(sum[:])+"\n" {
			t.Errorf("%q: %v %s", in, err, out.String())
		}
	}
	for _, in := range []string{"", "\n", strings.Repeat("x", maxHashed+1)} {
		if _, err := readValue(strings.NewReader(in), nil); err == nil {
			t.Errorf("%d bytes were taken for a value", len(in))
		}
	}
}

// What was masked is added up by detector, server, tool and place; a place with
// its indexes is one.
func TestMasksAreAddedUp(t *testing.T) {
	at := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	sum := maskSum{}
	for i, masked := range [][]audit.Masked{
		{{Detector: "gitlab-pat", Place: "result.content[0].text", Count: 2}, {Detector: "gitlab-pat", Place: "result.content[1].text", Count: 1}},
		{{Detector: "gitlab-pat", Place: "result.content[0].text", Count: 1}, {Detector: "known", Place: "result.content[0].text", Count: 9}},
	} {
		sum.add(audit.Entry{Server: "db", Method: "tools/call", Tool: "query\x1b[2J\t\u202e", Call: "c_" + string(rune('1'+i)), Masked: masked, Time: at.Add(time.Duration(i) * time.Hour)}, "gitlab-pat")
	}
	sum.add(audit.Entry{Server: "db", Method: "resources/read", Masked: []audit.Masked{{Detector: "gitlab-pat", Count: 1}}}, "gitlab-pat")
	rows := sum.rows()
	if len(rows) != 2 || rows[0].Count != 4 || rows[0].Calls != 2 || rows[0].Place != "result.content[*].text" || rows[0].LastCall != "c_2" || !rows[0].First.Equal(at) || rows[1].Method != "resources/read" {
		t.Errorf("%+v %+v", rows[0], rows[1])
	}
	var out bytes.Buffer
	if err := printMasks(&out, rows, false); err != nil {
		t.Fatal(err)
	}
	if text := out.String(); strings.ContainsAny(text, "\x1b\t\u202e") || strings.Count(text, "\n") != 3 {
		t.Errorf("%q", text)
	}
}

// The whole way: what the policy's masks say takes effect when it comes into
// force, pseudonyms outlive a restart, and a secret in the arguments stops where
// policy has it stop.
func TestMasksOfThePolicy(t *testing.T) {
	t.Parallel()
	u := newProbe(t)
	var got atomic.Pointer[string]
	u.answerWith(func(w http.ResponseWriter, r *http.Request, id json.RawMessage, method, tool string) bool {
		if method != "tools/call" {
			return false
		}
		got.Store(&tool)
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":"{\"email\":\"alice@example.com\"}"}],"structuredContent":{"email":"alice@example.com"}}}`, id)
		return true
	})
	s := probeStage(t, u, "1s")
	p := serving(t, s, nil)
	user := p.token("alice", "support")
	if out := p.ask("probe", user, toolCall("echo", "x")); !strings.Contains(out.body, "alice@example.com") {
		t.Fatalf("without a rule: %s", out.body)
	}
	p.inForce(amend(t, s, s.Dana, map[string]string{
		"masks/probe.yaml": "fields:\n- { id: mail, server: probe, keys: [email], action: pseudonym }\n",
		"rules/more.yaml":  "- { id: probe-note, server: probe, tool: note, effect: allow, secrets_in_args: deny }\n",
		"tests/more.yaml":  "- { name: a key, subject: { sub: x }, server: probe, tool: note, args: { what: \"gl" + "pat-" + "x7Kq2mB9vT4nR8sW3dYz" + "\" }, expect: { effect: deny, reason: gitlab-pat } }\n- { name: no key, subject: { sub: x }, server: probe, tool: note, args: { what: \"a\" }, expect: { effect: allow } }\n",
	}))
	pseudonym := regexp.MustCompile(`mail:[0-9a-f]{20}`)
	first := p.ask("probe", user, toolCall("echo", "x"))
	names := pseudonym.FindAllString(first.body, -1)
	if strings.Contains(first.body, "alice@") || len(names) != 2 || names[0] != names[1] {
		t.Errorf("with a rule: %s", first.body)
	}
	got.Store(nil)
	out := p.ask("probe", user, toolCall("note", "gl"+"pat-"+"y8Lr3nC0wU5oS9tX4eZa"))
	if !out.failed || !strings.Contains(out.text, "gitlab-pat") || got.Load() != nil {
		t.Errorf("a secret in the arguments: %s", out.body)
	}
	if out := p.ask("probe", user, toolCall("note", "nothing")); out.failed {
		t.Errorf("no secret in the arguments: %s", out.body)
	}
	p.stop()
	p = serving(t, s, nil)
	if again := p.ask("probe", p.token("alice", "support"), toolCall("echo", "x")); !strings.Contains(again.body, names[0]) {
		t.Errorf("after a restart: %s, and before %s", again.body, names[0])
	}
	p.stop()
	text, errs, code := command(t, nil, "audit", "masks", "--repo", s.Audit, "--detector", "field:mail", "--json")
	if code != 0 || !strings.Contains(text, `"place":"result.structuredContent.email"`) || !strings.Contains(text, `"place":"result.content[*].text|email"`) || strings.Contains(text, "gitlab-pat") {
		t.Errorf("exit %d\n%s%s", code, text, errs)
	}
}
