package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestCanonical(t *testing.T) {
	params := func(p string) string { return `{"jsonrpc":"2.0","id":1,"method":"x","params":` + p + `}` }
	for _, tt := range []struct{ raw, want string }{
		{`{"jsonrpc":"2.0","id":1,"method":"x"}`, `{}`},
		{params(`{ "b" : 1 , "a" : [ 1.0, 1, 1e0 ] }`), `{"a":[1.0,1,1e0],"b":1}`},
		{params(`{"n":9007199254740993,"_meta":{"progressToken":1}}`), `{"n":9007199254740993}`},
		{params(`{"arguments":{"_meta":1}}`), `{"arguments":{"_meta":1}}`},
		{params(`{"s":"\u0044ROP \u00e9 \/ \n \u001F \u007f"}`), `{"s":"DROP é / \n \u001f ` + "\x7f" + `"}`},
		{params(`{"\u0062":1,"a":2}`), `{"a":2,"b":1}`},
		{params(`{"s":"\ud83d\ude00"}`), `{"s":"😀"}`},
	} {
		if got := string(mustParse(t, tt.raw).Canonical()); got != tt.want {
			t.Errorf("canonical of %s is %s, want %s", tt.raw, got, tt.want)
		}
	}
	m := mustParse(t, params(`{"a":1,"requestState":"s"}`))
	if got := string(m.Canonical("requestState")); got != `{"a":1}` {
		t.Errorf("without requestState: %s", got)
	}
}

func TestSetArgument(t *testing.T) {
	for _, tt := range []struct{ raw, want string }{
		{`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{ "key" : "old", "n":1.0}}}`,
			`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{ "key" : "new", "n":1.0}}}`},
		{`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{"n":1}}}`,
			`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{"n":1,"key":"new"}}}`},
		{`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{ }}}`,
			`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{ "key":"new"}}}`},
		{`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t"}}`,
			`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{"key":"new"}}}`},
		{`{"jsonrpc":"2.0","id":1,"method":"x","params":{}}`,
			`{"jsonrpc":"2.0","id":1,"method":"x","params":{"arguments":{"key":"new"}}}`},
		{`{"jsonrpc":"2.0","id":1,"method":"x"} `,
			`{"jsonrpc":"2.0","id":1,"method":"x","params":{"arguments":{"key":"new"}}} `},
	} {
		m := mustParse(t, tt.raw)
		edit, err := m.SetArgument("key", []byte(`"new"`))
		if err != nil {
			t.Fatalf("%s: %v", tt.raw, err)
		}
		if got := string(Splice(m.Raw, edit)); got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
	m := mustParse(t, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{"a":1}}}`)
	edits, err := m.SetArguments(map[string][]byte{"c": []byte("3"), "a": []byte("2"), "b\"": []byte("[]")})
	if err != nil {
		t.Fatal(err)
	}
	out := mustParse(t, string(Splice(m.Raw, edits...)))
	if got := string(out.Bytes(out.Arguments)); got != `{"a":2,"b\"":[],"c":3}` {
		t.Errorf("arguments are %s", got)
	}
	for name, value := range map[string]string{"k": `{"a":1,"a":2}`, "l": `1 2`, "m": ``, "n": "\"\xff\"", "A": `1`, "\xff": `1`} {
		if edit, err := m.SetArgument(name, []byte(value)); err == nil {
			t.Errorf("argument %q took %q: %v", name, value, edit)
		}
	}
}

func TestSpliceRefusesGuesses(t *testing.T) {
	raw := []byte("0123456789")
	for _, edits := range [][]Edit{
		{{Span{2, 5}, nil}, {Span{4, 6}, nil}},
		{{Span{-1, 2}, nil}},
		{{Span{9, 11}, nil}},
		{{Span{5, 4}, nil}},
	} {
		if out := Splice(raw, edits...); out != nil {
			t.Errorf("%v gave %q", edits, out)
		}
	}
	if got := string(Splice(raw, Edit{Span{5, 7}, []byte("x")}, Edit{Span{0, 0}, []byte("a")}, Edit{Span{0, 0}, []byte("b")}, Edit{Span{7, 7}, []byte("y")})); got != "ab01234xy789" {
		t.Errorf("got %s", got)
	}
}

func TestFilterList(t *testing.T) {
	list := func(tools, rest string) string {
		return `{"jsonrpc":"2.0","id":1,"result":{"tools":[` + tools + `]` + rest + `}}`
	}
	a, b, c := `{"name":"a", "x":1.0}`, `{"name":"b"}`, ` {"title":"\u0043","name":"c"} `
	for _, tt := range []struct {
		raw, want string
		hidden    int
		hide      string
	}{
		{list(a+","+b+","+c, ""), list(a+","+b+","+c, ""), 0, ""},
		{list(a+","+b+","+c, ""), list(b+","+c, ""), 1, "a"},
		{list(a+","+b+","+c, ""), list(a+","+c, ""), 1, "b"},
		{list(a+","+b+" ,"+c, ""), list(a+","+b+" ", ""), 1, "c"},
		{list(a+","+b+","+c, ""), list(strings.TrimLeft(c, " "), ""), 2, "ab"},
		{list(a+","+b+","+c, ""), list(a+" ", ""), 2, "bc"},
		{list(a+","+b+",{\"name\":\"c\"}", ""), list("", ""), 3, "abc"},
		{list(a+`,{"title":"no name"},7`, ""), list(a, ""), 2, ""},
		{list(a, `,"nextCursor":"x","cacheScope":"public"`), list(a, `,"nextCursor":"x","cacheScope":"private"`), 0, ""},
		{list(a, `,"cacheScope":"private"`), list(a, `,"cacheScope":"private"`), 0, ""},
		{`{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":""}}`, `{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":""}}`, 0, ""},
	} {
		got, hidden, err := FilterList(mustParse(t, tt.raw), "tools", func(name, _ string, _ Span) bool { return !strings.Contains(tt.hide, name) })
		if err != nil || string(got) != tt.want || hidden != tt.hidden {
			t.Errorf("hiding %q: %d hidden, %v\ngot  %s\nwant %s", tt.hide, hidden, err, got, tt.want)
		}
	}
	for _, raw := range []string{
		`{"jsonrpc":"2.0","id":1,"result":{"tools":[],"Tools":[{"name":"hidden"}]}}`,
		`{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"a","Name":"hidden"}]}}`,
		`{"jsonrpc":"2.0","id":1,"result":{"tools":{"name":"a"}}}`,
		`{"jsonrpc":"2.0","id":1,"method":"tools/list"}`,
	} {
		if out, _, err := FilterList(mustParse(t, raw), "tools", func(string, string, Span) bool { return true }); err == nil {
			t.Errorf("%s passed as %s", raw, out)
		}
	}
	raw := `{"jsonrpc":"2.0","id":1,"result":{"resources":[{"uri":"file:///a","name":"x"},{"name":"y"}]}}`
	got, hidden, err := FilterList(mustParse(t, raw), "resources", func(_, uri string, _ Span) bool { return uri == "file:///a" })
	if err != nil || hidden != 1 || !strings.Contains(string(got), "file:///a") || strings.Contains(string(got), `"y"`) {
		t.Errorf("resources: %s, %d, %v", got, hidden, err)
	}
	if got := string(Private(mustParse(t, `{"jsonrpc":"2.0","id":1,"result":{"cacheScope":"public"}}`))); !strings.Contains(got, `"private"`) {
		t.Errorf("stays public: %s", got)
	}
}

func TestParamHeaders(t *testing.T) {
	m := mustParse(t, `{"jsonrpc":"2.0","id":1,"result":{"tools":[
		{"name":"a","inputSchema":{"properties":{"x":{"x-mcp-header":"Region"},"\u0079":{"x-mcp-header":"my-zone"},"z":{"x-mcp-header":"no token"},"n":{"properties":{"deep":{"x-mcp-header":"Deep"}}},"i":{"x-mcp-header":7}}}},
		{"name":"b","inputSchema":{"properties":[]}},{"name":"c"},{"title":"nameless"},7]}}`)
	got := ParamHeaders(m)
	want := map[string]map[string]string{"a": {"x": "Mcp-Param-Region", "y": "Mcp-Param-My-Zone"}, "b": {}, "c": {}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := ParamHeaders(mustParse(t, `{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"x"}}`)); len(got) != 0 {
		t.Errorf("of an error: %v", got)
	}
}

func TestReplies(t *testing.T) {
	for _, tt := range []struct{ got, want string }{
		{string(ErrorReply([]byte(`"a"`), CodeHeaderMismatch, "no \"x\"\n", map[string]any{"k": "<b>"})), `{"jsonrpc":"2.0","id":"a","error":{"code":-32020,"message":"no \"x\"\n","data":{"k":"<b>"}}}`},
		{string(ErrorReply(nil, CodeParse, "bad\xff", nil)), `{"jsonrpc":"2.0","error":{"code":-32700,"message":"bad` + "\uFFFD" + `"}}`},
		{string(ErrorReply([]byte("1"), 1, "m", func() {})), `{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"m"}}`},
		{string(ToolError([]byte("1"), "no")), `{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"no"}],"isError":true,"resultType":"complete"}}`},
	} {
		if tt.got != tt.want {
			t.Errorf("got  %s\nwant %s", tt.got, tt.want)
		}
		mustParse(t, tt.got)
	}
}

func FuzzSplice(f *testing.F) {
	f.Add(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{"a":1}}}`, "key", `"v"`)
	f.Add(`{"jsonrpc":"2.0","id":1,"method":"x"}`, "", `{}`)
	f.Add(`{"jsonrpc":"2.0","id":1,"method":"x","params":{ },"params2":0}`, "\"\\\n", `[1,"\ud83d\ude00"]`)
	f.Fuzz(func(t *testing.T, raw, name, value string) {
		m, err := Parse([]byte(raw), Limits{})
		if err != nil {
			return
		}
		edit, err := m.SetArgument(name, []byte(value))
		if err != nil {
			return
		}
		out := Splice(m.Raw, edit)
		if !bytes.HasPrefix(out, m.Raw[:edit.Span.Start]) || !bytes.HasSuffix(out, m.Raw[edit.Span.End:]) ||
			len(out) != len(m.Raw)-(edit.Span.End-edit.Span.Start)+len(edit.New) {
			t.Fatalf("bytes outside of the edit changed:\n%s\n%s", raw, out)
		}
		if !json.Valid(out) {
			t.Fatalf("not JSON: %s", out)
		}
		again, err := Parse(out, Limits{Bytes: 1 << 30, Depth: 1 << 10})
		if err != nil {
			var refusal *Error
			if errors.As(err, &refusal) && strings.Contains(refusal.Reason, "U+0000") {
				return
			}
			t.Fatalf("the edited message is refused: %v\n%s", err, out)
		}
		if at, ok := again.Member(again.Arguments, name); !ok || string(again.Bytes(at)) != value {
			t.Fatalf("the argument is not what was set: %s", out)
		}
	})
}

// Several edits at once: what comes out is what cutting and pasting one after
// the other gives, and edits that overlap or lie outside give nothing.
func FuzzEdits(f *testing.F) {
	f.Add("0123456789", []byte{1, 2, 5, 3}, "ab")
	f.Add("0123456789", []byte{3, 3, 3, 3, 0, 0}, "x")
	f.Add("0123456789", []byte{2, 5, 4, 6}, "overlap")
	f.Add("0123456789", []byte{8, 11, 9, 2}, "outside")
	f.Fuzz(func(t *testing.T, raw string, at []byte, text string) {
		var edits []Edit
		for i := 0; i+1 < len(at) && len(edits) < 8; i += 2 {
			edits = append(edits, Edit{Span{int(at[i]), int(at[i+1])}, []byte(text + strconv.Itoa(i))})
		}
		before := slices.Clone(edits)
		got := Splice([]byte(raw), edits...)
		if !reflect.DeepEqual(edits, before) {
			t.Fatal("the edits were changed")
		}
		covered := make([]bool, len(raw)+1)
		clash := false
		for i, e := range edits {
			if clash = clash || e.Span.End < e.Span.Start || e.Span.End > len(raw); clash {
				break
			}
			for _, o := range edits[:i] { // an insertion inside of another's span, too
				clash = clash || e.Span.Start < o.Span.End && o.Span.Start < e.Span.End
			}
			for b := e.Span.Start; b < e.Span.End; b++ {
				covered[b] = true
			}
		}
		if clash {
			if got != nil {
				t.Fatalf("edits %v of %q were guessed: %q", edits, raw, got)
			}
			return
		}
		var want strings.Builder
		for i := range len(raw) + 1 {
			for _, insertion := range []bool{true, false} {
				for _, e := range edits {
					if e.Span.Start == i && (e.Span.End == i) == insertion {
						want.Write(e.New)
					}
				}
			}
			if i < len(raw) && !covered[i] {
				want.WriteByte(raw[i])
			}
		}
		if string(got) != want.String() {
			t.Fatalf("edits %v of %q give %q, want %q", edits, raw, got, want.String())
		}
	})
}

func TestQuote(t *testing.T) {
	for text, want := range map[string]string{"": `""`, "a\"\\\n\u0001é<": `"a\"\\\n\u0001é<"`, "a\xffb": "\"a\uFFFDb\""} {
		if got := string(Quote(text)); got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
}
