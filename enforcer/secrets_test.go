package enforcer

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"countersign/audit"
	"countersign/enforcer/mask"
	"countersign/enforcer/wire"
)

// sink is a server that keeps what it gets.
type sink struct {
	mu     sync.Mutex
	body   string
	header http.Header
	calls  int
}

func (s *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the answer will be missed
	}
	m, err := wire.Parse(body, wire.Limits{})
	if err != nil || m.Kind != wire.Request {
		w.WriteHeader(http.StatusAccepted)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if m.Method == "tools/list" {
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"tools":[{"name":"put","inputSchema":{"type":"object","properties":{"region":{"type":"string","x-mcp-header":"Region"}}}}]}}`, m.ID)
		return
	}
	s.mu.Lock()
	s.body, s.header, s.calls = string(body), r.Header.Clone(), s.calls+1
	s.mu.Unlock()
	fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"content":[],"resultType":"complete"}}`, m.ID)
}

func (s *sink) got() (string, http.Header, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.body, s.header, s.calls
}

// Where policy says so a secret in the arguments does not reach the server, in
// no form and in no header; all else arrives as it was sent, and the record
// tells both what was asked and that it was masked.
func TestSecretsInArgumentsAreMasked(t *testing.T) {
	pattern, known := "gl"+"pat-"+"x7Kq2mB9vT4nR8sW3dYz", "hunter2-hunter2-99"
	up := &sink{}
	g := newGate(t, up, map[string]string{
		"servers/echo.yaml": "server: echo\nurl: ${URL}\nsecrets_in_args: mask\n",
		"rules/all.yaml":    "- { id: tools, server: echo, tool: [put, say], effect: allow }\n- { id: raw, server: echo, tool: raw, effect: allow, secrets_in_args: allow }\n",
	})
	if _, err := g.Mask.Add("db", known); err != nil {
		t.Fatal(err)
	}
	for _, modern := range []bool{false, true} {
		callTool(t, g, modern, "put", fmt.Sprintf(`{"a": 1.0,"text":"see %s","n":{"deep":["\u0068unter2-hunter2-99"]} ,"z":null}`, pattern))
		body, _, _ := up.got()
		if strings.Contains(body, pattern) || strings.Contains(body, "unter2-99") || !strings.Contains(body, `"arguments":{"a": 1.0,"text":"see [masked: gitlab-pat]","n":{"deep":["[masked: db]"]} ,"z":null}`) {
			t.Errorf("modern %v: %s", modern, body)
		}
		en := recorded(t, g, audit.KindIntent)
		if !strings.Contains(string(en.Detail), `"arguments_masked":true`) || !slices.Contains(en.Masked, audit.Masked{Detector: "gitlab-pat", Place: "params.arguments.text", Count: 1}) || !slices.Contains(en.Masked, audit.Masked{Detector: "known", Place: "params.arguments.n.deep[0]", Count: 1}) {
			t.Errorf("modern %v: %+v %s", modern, en.Masked, en.Detail)
		}
		if callTool(t, g, modern, "say", `{"x":"plain"}`); !strings.Contains(string(recorded(t, g, audit.KindIntent).Digest), "hmac-sha256:") || strings.Contains(string(recorded(t, g, audit.KindIntent).Detail), "arguments_masked") {
			t.Error("a call without secrets was said to be masked")
		}
		callTool(t, g, modern, "raw", `{"x":"`+pattern+`"}`)
		if body, _, _ := up.got(); !strings.Contains(body, pattern) {
			t.Errorf("a rule that lets secrets through: %s", body)
		}
	}

	meta := `"_meta":{"` + wire.MetaVersion + `":"` + wire.ModernVersion + `","io.modelcontextprotocol/clientCapabilities":{}}`
	for _, listed := range []bool{false, true} {
		if listed {
			header := http.Header{"Mcp-Protocol-Version": {wire.ModernVersion}, "Mcp-Method": {"tools/list"}}
			if resp, out, err := g.post(t.Context(), []byte(`{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{`+meta+`}}`), header); err != nil || resp.StatusCode != http.StatusOK {
				t.Fatalf("%v %s", err, out)
			}
		}
		header := http.Header{"Mcp-Protocol-Version": {wire.ModernVersion}, "Mcp-Method": {"tools/call"}, "Mcp-Name": {"put"},
			"Mcp-Param-Region": {pattern}, "Mcp-Param-Other": {wire.EncodeHeader("ü " + known)}, "Mcp-Param-Plain": {"eu-1"}, "Mcp-Param-Login": {"Tr0ub4dor&3"}}
		if _, out, err := g.post(t.Context(), []byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"put","arguments":{"region":"`+pattern+`","login":{"password":"Tr0ub4dor&3"}},`+meta+`}}`), header); err != nil || !strings.Contains(string(out), `"result"`) {
			t.Fatalf("%v %s", err, out)
		}
		_, sent, _ := up.got()
		if sent.Get("Mcp-Param-Region") != "[masked: gitlab-pat]" || sent.Get("Mcp-Param-Other") != wire.EncodeHeader("ü [masked: db]") || sent.Get("Mcp-Param-Plain") != "eu-1" || sent.Get("Mcp-Param-Login") != "[masked: password-value]" {
			t.Errorf("listed %v: headers %v", listed, sent)
		}
	}
}

// An approver sees what the server will get; what is masked for them and not for
// the server is not shown in full.
func TestShownWithoutSecrets(t *testing.T) {
	e := &Enforcer{Config: Config{Mask: mask.New(mask.Options{})}}
	e.room.init()
	m, err := wire.Parse([]byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{"x":"gl`+`pat-`+"x7Kq2mB9vT4nR8sW3dYz"+`"}}}`), wire.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	for _, masked := range []bool{false, true} {
		x := &exchange{e: e, msg: m, raw: m.Raw, server: "s"}
		x.decision.MaskArgs = masked
		if text, partial, cut := x.shown(); text != "x: [masked: gitlab-pat]" || partial == masked || cut {
			t.Errorf("masked %v: %q, in part: %v", masked, text, partial)
		}
	}
}

// What denies, denies before the server hears of it, with words that name the
// detector and not the value.
func TestSecretsInArgumentsAreDenied(t *testing.T) {
	secret := "gl" + "pat-" + "x7Kq2mB9vT4nR8sW3dYz"
	up := &sink{}
	g := newGate(t, up, map[string]string{
		"servers/echo.yaml": "server: echo\nurl: ${URL}\nsecrets_in_args: deny\n",
		"rules/all.yaml":    "- { id: tools, server: echo, tool: put, effect: allow }\n- { id: says, server: echo, tool: say, secrets_in_args: allow, when: 'secrets(args) == [\"gitlab-pat\"]', effect: allow }\n",
		"masks/allow.yaml":  `allow: [{ detector: gitlab-pat, server: echo, tool: put, path: params.arguments.sample, reason: a sample }]`,
	})
	out := callTool(t, g, false, "put", `{"x":"`+secret+`"}`)
	if _, _, calls := up.got(); calls != 0 || strings.Contains(out, secret) || !strings.Contains(out, "gitlab-pat") || !strings.Contains(out, `"isError":true`) {
		t.Errorf("%d calls: %s", calls, out)
	}
	if en := recorded(t, g, audit.KindRefused); en.Status != "denied" || strings.Contains(en.Args, secret) || len(en.Masked) != 1 {
		t.Errorf("%+v", en)
	}
	for _, args := range []string{`{"x":"fine"}`, `{"sample":"` + secret + `"}`} {
		if out := callTool(t, g, false, "put", args); !strings.Contains(out, `"content":[]`) {
			t.Errorf("%s: %s", args, out)
		}
	}
	if out := callTool(t, g, false, "say", `{"x":"`+secret+`"}`); !strings.Contains(out, `"content":[]`) {
		t.Errorf("a condition that asks for it: %s", out)
	}
	if out := callTool(t, g, false, "say", `{"x":"fine"}`); !strings.Contains(out, "No rule allows") {
		t.Errorf("a condition that asks for it: %s", out)
	}
}
