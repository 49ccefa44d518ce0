package enforcer

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"countersign/audit"
	"countersign/enforcer/wire"
)

// promising is a tabler that also lists its tool with an output schema.
type promising struct {
	tabler
	schema string
}

func (s promising) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the answer will be missed
	}
	if m, err := wire.Parse(body, wire.Limits{}); err == nil && m.Method == "tools/list" {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"tools":[{"name":"query","inputSchema":{"type":"object"},"outputSchema":%s}]}}`, m.ID, s.schema)
		return
	}
	r.Body = io.NopCloser(strings.NewReader(string(body)))
	s.tabler.ServeHTTP(w, r)
}

// An answer that a mask has bent out of the shape which its tool promised is
// withheld, and says why; what fits, or never fitted, passes masked.
func TestMasksKeepToOutputSchemas(t *testing.T) {
	const schema = `{"type":"object","properties":{"rows":{"type":"array","items":{"type":"object","properties":{"salary":{"type":"number"},"mail":{"type":"string"},"to":{"type":"string","format":"email"}},"required":["id"]}}}}`
	g := newGate(t, promising{schema: schema}, map[string]string{
		"rules/all.yaml": `- { id: tools, server: echo, tool: "*", effect: allow }`,
		"masks/m.yaml":   "fields:\n- { id: pay, server: echo, keys: [salary, mail, to], action: redact }\n- { id: ids, server: echo, paths: [\"$.rows[1].id\"], action: drop }\n",
	})
	number := `{"answer":{"rows":[{"id":1,"salary":70000}]}}`
	if out := callTool(t, g, false, "query", number); !strings.Contains(out, `"salary":"[masked: pay]"`) {
		t.Errorf("before anything was listed: %s", out)
	}
	if _, out, err := g.post(t.Context(), []byte(`{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{}}`), http.Header{"Mcp-Protocol-Version": {"2025-11-25"}}); err != nil || !strings.Contains(string(out), "outputSchema") {
		t.Fatalf("%v %s", err, out)
	}
	for name, c := range map[string]struct{ tool, args, withheld string }{
		"a number becomes a text":  {"query", number, "/rows/0/salary (type)"},
		"a text stays one":         {"query", `{"answer":{"rows":[{"id":1,"mail":"a@example.com"}]}}`, ""},
		"a format":                 {"query", `{"answer":{"rows":[{"id":1,"to":"a@example.com"}]}}`, "/rows/0/to (format)"},
		"a member that is gone":    {"query", `{"answer":{"rows":[{"id":1},{"id":2}]}}`, "/rows/1 (required)"},
		"null stays":               {"query", `{"answer":{"rows":[{"id":1,"mail":"x"}]}}`, ""},
		"it never fitted":          {"query", `{"answer":{"rows":[{"salary":1}]}}`, ""},
		"nothing to mask":          {"query", `{"answer":{"rows":[{"id":1}]}}`, ""},
		"a tool that is not known": {"other", number, ""},
	} {
		for _, modern := range []bool{false, true} {
			out := callTool(t, g, modern, c.tool, c.args)
			if c.withheld == "" {
				if strings.Contains(out, "isError") || strings.Contains(out, "70000") || strings.Contains(out, "a@") {
					t.Errorf("%s: %s", name, out)
				}
				continue
			}
			if !strings.Contains(out, `"isError":true`) || !strings.Contains(out, c.withheld) || !strings.Contains(out, "output schema") || strings.Contains(out, "70000") || strings.Contains(out, "structuredContent\":") {
				t.Errorf("%s: %s", name, out)
			}
			if en := recorded(t, g, audit.KindOutcome); en.Status != "blocked" || len(en.Masked) == 0 {
				t.Errorf("%s: %+v", name, en)
			}
		}
	}
}

// A schema is the server's own text: whatever it says, a check ends soon, reads
// nothing, and a schema that cannot be used is not.
func TestOutputSchemasAreBounded(t *testing.T) {
	double := `"$defs":{"x0":{"type":"integer"}`
	for i := range 40 {
		double += fmt.Sprintf(`,"x%d":{"allOf":[{"$ref":"#/$defs/x%d"},{"$ref":"#/$defs/x%d"}]}`, i+1, i, i)
	}
	deep := strings.Repeat(`{"a":`, 50) + "1" + strings.Repeat("}", 50)
	for name, c := range map[string]struct{ schema, value string }{
		"doubling":      {`{` + double + `},"$ref":"#/$defs/x40"}`, "1"},
		"by depth":      {`{"$defs":{"a":{"properties":{"a":{"$ref":"#/$defs/a"}},"patternProperties":{"^a":{"$ref":"#/$defs/a"}}}},"$ref":"#/$defs/a"}`, deep},
		"dynamic":       {`{"$dynamicAnchor":"n","properties":{"a":{"$dynamicRef":"#n"}}}`, deep},
		"many elements": {`{"items":{"anyOf":[true,true,true,true]}}`, "[" + strings.Repeat("1,", 200_000) + "1]"},
	} {
		s := compileSchema([]byte(c.schema))
		if s == nil {
			t.Errorf("%s: does not compile", name)
			continue
		}
		if _, known := fits(s, []byte(c.value)); known {
			t.Errorf("%s: was checked", name)
		}
	}
	for _, bad := range []string{`{"$ref":"file:///etc/passwd"}`, `{"$ref":"https://schemas.example.com/x"}`, `{"type":"none"}`, `{"pattern":"(?<=a)b"}`, `[]`, `{`, `null`, ``} {
		if compileSchema([]byte(bad)) != nil {
			t.Errorf("%s: compiles", bad)
		}
	}
	circle := compileSchema([]byte(`{"$ref":"#"}`))
	if circle != nil {
		if why, known := fits(circle, []byte("1")); known && why == "" {
			t.Error("a circle fits")
		}
	}
	tree := compileSchema([]byte(`{"properties":{"a":{"$ref":"#"}},"additionalProperties":false}`))
	if why, known := fits(tree, []byte(deep)); !known || why != "" {
		t.Errorf("a recursive schema: %q %v", why, known)
	}
	if why, known := fits(tree, []byte(`{"a":{"b":{}}}`)); !known || !strings.HasPrefix(why, "/a (") {
		t.Errorf("a recursive schema: %q %v", why, known)
	}

	var all schemas
	for i := range 100 {
		m, err := wire.Parse(fmt.Appendf(nil, `{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"t%d","outputSchema":{"title":"%s"}},{"name":"big","outputSchema":{"title":"%s"}}]}}`, i, strings.Repeat("x", 60<<10), strings.Repeat("x", 70<<10)), wire.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		all.learn("s", m)
	}
	if n := all.n["s"]; n > maxSchemas || n == 0 || all.of("s", "big") != nil || all.of("s", "t99") == nil {
		t.Errorf("%d bytes are kept", n)
	}
}
