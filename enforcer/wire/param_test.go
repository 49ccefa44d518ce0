package wire

import (
	"net/http"
	"testing"
)

// Arguments are mirrored wherever a chain of properties leads to them, and as
// a server reads them.
func TestMirrorParams(t *testing.T) {
	list := mustParse(t, `{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"t","inputSchema":{"properties":{
		"region":{"type":"string","x-mcp-header":"region"},"at":{"properties":{"zone":{"x-mcp-header":"Zone"},"properties":{"x-mcp-header":"Deep"}}},
		"bad":{"x-mcp-header":"no token"},"none":{"x-mcp-header":""},"seven":{"x-mcp-header":7},"list":{"items":{"properties":{"x":{"x-mcp-header":"Item"}}}},
		"a":{"x-mcp-header":"A"},"b":{"x-mcp-header":"B"},"c":{"x-mcp-header":"C"},"d":{"x-mcp-header":"D"},"e":{"x-mcp-header":"E"},"f":{"x-mcp-header":"F"}}}},
		{"name":"plain"},{"inputSchema":{"properties":{"x":{"x-mcp-header":"X"}}}},7]}}`)
	paths := ParamPaths(list)
	if len(paths["t"]) != 9 || len(paths["plain"]) != 0 || len(paths) != 2 {
		t.Errorf("paths: %v", paths)
	}
	h := http.Header{}
	MirrorParams(h, mustParse(t, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{
		"region":"Zürich","at":{"zone":" z ","properties":true},"bad":"x","list":[{"x":1}],"a":-1.20e1,"b":1.5,"c":null,"d":{"x":1},"e":9007199254740993,"f":"a\r\nb"}}}`), paths["t"])
	want := map[string]string{
		"Mcp-Param-Region": "=?base64?WsO8cmljaA==?=", "Mcp-Param-Zone": "=?base64?IHog?=", "Mcp-Param-Deep": "true",
		"Mcp-Param-A": "-12", "Mcp-Param-F": "=?base64?YQ0KYg==?=",
	}
	for name, value := range want {
		if h.Get(name) != value {
			t.Errorf("%s is %q, want %q", name, h.Get(name), value)
		}
	}
	if len(h) != len(want) {
		t.Errorf("headers: %v", h)
	}
	none := http.Header{}
	MirrorParams(none, mustParse(t, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t"}}`), paths["t"])
	if len(none) != 0 {
		t.Errorf("without arguments: %v", none)
	}
}

// Whatever a list and a call hold, the headers are ones that may be sent, and
// agree with the arguments as the other side checks them.
func FuzzMirrorParams(f *testing.F) {
	f.Add(`{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"t","inputSchema":{"properties":{"a":{"x-mcp-header":"A"},"b":{"properties":{"c":{"x-mcp-header":"C"}}}}}}]}}`,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{"a":"\u00fc\n","b":{"c":12.0}}}}`)
	f.Fuzz(func(t *testing.T, list, call string) {
		l, err := Parse([]byte(list), Limits{})
		if err != nil {
			return
		}
		m, err := Parse([]byte(call), Limits{})
		if err != nil {
			return
		}
		for _, headers := range ParamPaths(l) {
			for _, p := range headers {
				h := http.Header{}
				MirrorParams(h, m, []ParamHeader{p})
				if len(h) == 0 {
					continue
				}
				if v := h.Get(p.Header); !visible(v) {
					t.Fatalf("%q", v)
				}
				if len(p.Path) == 1 {
					if err := CheckParams(h, m, map[string]string{p.Path[0]: p.Header}); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	})
}
