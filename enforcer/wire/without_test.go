package wire

import (
	"bytes"
	"strings"
	"testing"
)

func TestWithout(t *testing.T) {
	const before, after = `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":`, `}`
	for in, want := range map[string]string{
		`{"name":"t"}`: `{"name":"t"}`,
		`{ "name" : "t" , "requestState" : "s" }`:                                   `{ "name" : "t" }`,
		`{"requestState":"s","name":"t"}`:                                           `{"name":"t"}`,
		`{ "requestState":"s" , "inputResponses":{} , "name":"t" }`:                 `{"name":"t" }`,
		`{"name":"t","requestState":"s","arguments":{"requestState":"mine"}}`:       `{"name":"t","arguments":{"requestState":"mine"}}`,
		`{"name":"t","requestState":"s","inputResponses":{},"arguments":{"a":1.0}}`: `{"name":"t","arguments":{"a":1.0}}`,
		`{"inputResponses":{},"name":"t","requestState":"s","_meta":{"x":[1, 2]}}`:  `{"name":"t","_meta":{"x":[1, 2]}}`,
		`{"request\u0053tate":"s","name":"t"}`:                                      `{"name":"t"}`,
	} {
		m, err := Parse([]byte(before+in+after), Limits{})
		if err != nil {
			t.Fatalf("%s: %v", in, err)
		}
		if got := string(m.Without("requestState", "inputResponses")); got != before+want+after {
			t.Errorf("%s: got %s", in, got)
		}
	}
	m, err := Parse([]byte(`{"jsonrpc":"2.0","id":1,"method":"x","params":{"requestState":"s"}}`), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if got := string(m.Without("requestState")); !strings.Contains(got, `"params":{}`) {
		t.Errorf("got %s", got)
	}
	if m, err = Parse([]byte(`{"jsonrpc":"2.0","id":1,"method":"x"}`), Limits{}); err != nil || string(m.Without("requestState")) != string(m.Raw) {
		t.Errorf("without params: %v", err)
	}
}

// What is left is a message again, with the other members as they were.
func FuzzWithout(f *testing.F) {
	f.Add([]byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"requestState":"s","name":"t","inputResponses":{}}}`))
	f.Add([]byte(`{"jsonrpc":"2.0","id":1,"method":"x","params":{ "a":[{}] , "requestState" : null }}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := Parse(raw, Limits{})
		if err != nil || m.Kind == Response {
			return
		}
		out := m.Without("requestState", "inputResponses")
		left, err := Parse(out, Limits{})
		if err != nil {
			t.Fatalf("%q became %q: %v", raw, out, err)
		}
		if !bytes.Equal(left.Canonical(), m.Canonical("requestState", "inputResponses")) {
			t.Errorf("%q became %q", raw, out)
		}
	})
}
