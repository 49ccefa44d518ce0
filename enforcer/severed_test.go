package enforcer

import (
	"fmt"
	"testing"
	"time"

	"countersign/enforcer/wire"
)

// What is remembered of calls that a freeze has ended has a bound, past which
// more is withheld, not less; and it ends with the session.
func TestSeveredCalls(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	e := &Enforcer{Config: Config{Now: func() time.Time { return now }}}
	call := func(session, body string) *exchange {
		x := &exchange{e: e, server: "probe", session: session}
		x.caller.Subject.Sub = "alice"
		if body != "" {
			var err error
			if x.msg, err = wire.Parse([]byte(body), wire.Limits{}); err != nil {
				t.Fatal(err)
			}
		}
		return x
	}
	legacy := func(id string) string {
		return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"method":"tools/call","params":{"name":"echo"}}`, id)
	}
	var s severed
	s.add(call("one", legacy("1")))
	s.add(call("one", legacy(`"a\u0062"`)))
	s.add(call("one", `{"jsonrpc":"2.0","method":"notifications/x"}`))
	s.add(call("", `{"jsonrpc":"2.0","id":8,"method":"tools/call","params":{"name":"echo","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}`))
	for _, c := range []struct {
		session, id string
		has         bool
	}{
		{"one", "1", true}, {"one", `"1"`, false}, {"one", `"\u0061b"`, true}, {"one", "2", false}, {"two", "1", false}, {"", "1", false}, {"", "8", false},
	} {
		if got := s.has(call(c.session, ""), []byte(c.id)); got != c.has {
			t.Errorf("session %q, id %s: %v", c.session, c.id, got)
		}
	}
	other := call("one", "")
	if other.caller.Client = "another"; s.has(other, []byte("1")) {
		t.Error("another client's session of that name")
	}
	for i := range maxSevered + 1 {
		s.add(call("many", legacy(fmt.Sprint(i))))
	}
	if !s.has(call("many", ""), []byte("999999")) || s.m[call("many", "").severedKey()].ids != nil {
		t.Error("past the bound it is not all withheld")
	}
	now = now.Add(sessionTotal)
	s.add(call("two", legacy("1")))
	if s.prune(now); len(s.m) != 3 {
		t.Errorf("%d sessions left", len(s.m))
	}
	if s.prune(now.Add(time.Second)); len(s.m) != 1 {
		t.Errorf("%d sessions left", len(s.m))
	}
}
