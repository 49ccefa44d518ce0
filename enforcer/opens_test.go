package enforcer

import (
	"net/http"
	"testing"

	"countersign/enforcer/mask"
	"countersign/enforcer/upstream"
	"countersign/enforcer/wire"
)

// A session id goes through where it is the caller's own, or becomes so by
// initialize. Elsewhere a client would take it up and be refused with it.
func TestASessionBeginsWithInitialize(t *testing.T) {
	for name, c := range map[string]struct {
		method, body string
		session      string // of the request
		answered     string
		passed       string
		refused      bool
	}{
		"initialize opens one":            {http.MethodPost, `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}`, "", "s-1", "s-1", false},
		"a call repeats it":               {http.MethodPost, `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`, "s-1", "s-1", "s-1", false},
		"a stream repeats it":             {http.MethodGet, "", "s-1", "s-1", "s-1", false},
		"server/discover opens none":      {http.MethodPost, `{"jsonrpc":"2.0","id":1,"method":"server/discover"}`, "", "s-1", "", false},
		"a call without one opens none":   {http.MethodPost, `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`, "", "s-1", "", false},
		"a stream without one opens none": {http.MethodGet, "", "", "s-1", "", false},
		"a call does not change its own":  {http.MethodPost, `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`, "s-1", "s-2", "", true},
		"nor does initialize":             {http.MethodPost, `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}`, "s-1", "s-2", "", true},
		"a secret is none":                {http.MethodPost, `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`, "", "ghp_a1B2a1B2a1B2a1B2a1B2a1B2a1B2a1B2a1B2", "", true},
	} {
		t.Run(name, func(t *testing.T) {
			x := &exchange{
				e: &Enforcer{Config: Config{Mask: mask.New(mask.Options{})}}, r: &http.Request{Method: c.method}, session: c.session,
				reply: &upstream.Reply{Status: http.StatusOK, Header: http.Header{"Mcp-Session-Id": {c.answered}}, Session: c.answered},
			}
			if c.body != "" {
				m, err := wire.Parse([]byte(c.body), wire.Limits{})
				if err != nil {
					t.Fatal(err)
				}
				x.msg = m
			}
			pass, err := x.replyHeaders()
			if (err != nil) != c.refused || pass.Get("Mcp-Session-Id") != c.passed {
				t.Errorf("got %q, %v; want %q, refused %v", pass.Get("Mcp-Session-Id"), err, c.passed, c.refused)
			}
		})
	}
}
