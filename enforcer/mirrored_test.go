package enforcer

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"countersign/enforcer/wire"
	"countersign/rules"
)

// A spawned server gets no headers: those that mirror arguments are held
// against them here, as soon as its list has said which they are. One on HTTP
// does it itself.
func TestMirroredHeadersOfASpawnedServer(t *testing.T) {
	policy, err := rules.Load(fstest.MapFS{
		"countersign.yaml":    {Data: []byte("version: 1\n")},
		"servers/pipe.yaml":   {Data: []byte("server: pipe\ncommand: [cat]\n")},
		"servers/remote.yaml": {Data: []byte("server: remote\nurl: http://remote.example\n")},
	}, "0123456789abcdef")
	if err != nil {
		t.Fatal(err)
	}
	parse := func(text string) *wire.Message {
		m, err := wire.Parse([]byte(text), wire.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	e := &Enforcer{}
	call := func(server, meta string) error {
		x := &exchange{e: e, server: server, force: &force{policy: policy}, r: &http.Request{Header: http.Header{"Mcp-Param-Region": {"us-1"}}},
			msg: parse(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{"region":"eu-1"}` + meta + `}}`)}
		return x.mirrored()
	}
	const modern = `,"_meta":{"` + wire.MetaVersion + `":"2026-07-28"}`
	if err := call("pipe", modern); err != nil {
		t.Errorf("nobody can know yet: %v", err)
	}
	for _, server := range []string{"pipe", "remote"} {
		e.mirrors.learn(server, parse(`{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"t","inputSchema":{"properties":{"region":{"type":"string","x-mcp-header":"Region"}}}}]}}`))
	}
	if err := call("pipe", modern); err == nil || !strings.Contains(err.Error(), "Mcp-Param-Region differs") {
		t.Errorf("spawned: %v", err)
	}
	if err := call("remote", modern); err != nil {
		t.Errorf("on HTTP: %v", err)
	}
	if err := call("pipe", ""); err != nil {
		t.Errorf("of the session era: %v", err)
	}
}

// What is remembered of a server's tools has a bound in bytes, whatever it
// lists, and in how often.
func TestMirrorsAreBounded(t *testing.T) {
	var s mirrors
	learn := func(text string) {
		t.Helper()
		m, err := wire.Parse([]byte(text), wire.Limits{Bytes: 8 << 20, Depth: 64})
		if err != nil {
			t.Fatal(err)
		}
		s.learn("x", m)
	}
	tool := func(name, argument string) string {
		return fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":%q,"inputSchema":{"properties":{%q:{"type":"string","x-mcp-header":"A"}}}}]}}`, name, argument)
	}
	learn(tool("t", strings.Repeat("a", 4<<20)))
	if len(s.m["x"]) != 0 {
		t.Errorf("a name that no header can carry is kept")
	}
	for i := range 10_000 {
		learn(tool(fmt.Sprint(i, strings.Repeat("t", 200)), "a"))
	}
	if n := s.n["x"]; n > maxMirrored || n == 0 {
		t.Errorf("%d bytes are kept", n)
	}
	before := s.n["x"]
	learn(tool("9999"+strings.Repeat("t", 200), "a"))
	if s.n["x"] != before {
		t.Errorf("the same tool counts twice: %d, %d", before, s.n["x"])
	}
	seen := sights{}
	seen.init()
	seen.keep("somebody", map[string]sight{}, time.Now())
	if len(seen.seen) != 0 {
		t.Error("nothing seen is remembered")
	}
}
