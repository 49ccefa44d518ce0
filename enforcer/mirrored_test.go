package enforcer

import (
	"net/http"
	"strings"
	"testing"
	"testing/fstest"

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
