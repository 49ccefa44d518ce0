package enforcer

import (
	"strings"
	"testing"
	"testing/fstest"

	"countersign/enforcer/mask"
	"countersign/rules"
)

// What is told of a command is told without its secret, however it is quoted.
func TestDoesIsMasked(t *testing.T) {
	p, err := rules.Load(fstest.MapFS{
		"countersign.yaml": {Data: []byte("version: 1\n")},
		"servers/ops.yaml": {Data: []byte("server: ops\nurl: http://127.0.0.1:1/mcp\n")},
		"rules/all.yaml":   {Data: []byte("- { id: a, server: ops, effect: allow, when: 'has(args.run) && shell(args.run).parsed' }\n")},
	}, strings.Repeat("a", 40))
	if err != nil {
		t.Fatal(err)
	}
	secret := "ghp_" + strings.Repeat("a1B2", 9)
	e := &Enforcer{Config: Config{Mask: mask.New(mask.Options{})}}
	e.room.init()
	for _, run := range []string{"curl -u me:" + secret + " https://x", "T=" + secret + "; curl -H $T", `curl 'gh''` + secret[2:] + `'`, `echo > ` + secret} {
		x := &exchange{e: e, force: &force{policy: p}, req: rules.Request{Server: "ops", Method: "tools/call", Tool: "run", Args: []byte(`{"run":"` + strings.ReplaceAll(run, `"`, `\"`) + `"}`)}}
		got := strings.Join(x.does(), "\n")
		if !strings.Contains(got, "runs ") || strings.Contains(got, secret) || strings.Contains(got, secret[:12]) {
			t.Errorf("%s: %s", run, got)
		}
	}
}
