package hub

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"countersign/enforcer/wire"
)

func TestNames(t *testing.T) {
	for joined, want := range map[string][2]string{
		"pg__query":     {"pg", "query"},
		"a__b__c":       {"a", "b__c"},
		"a___x":         {"a", "_x"},
		"my-pg__q":      {"my-pg", "q"},
		"query":         {},
		"pg_query":      {},
		"__query":       {},
		"pg__":          {},
		"PG__query":     {},
		"p g__query":    {},
		"../x__query":   {},
		"":              {},
		"mcp+a+x__y":    {},
		"a\x00__b":      {},
		"é__b":          {},
		"a__\u202ename": {"a", "\u202ename"},
	} {
		server, name, ok := splitName(joined)
		if ok != (want[0] != "") || ok && (server != want[0] || name != want[1]) {
			t.Errorf("%q: %q %q %v", joined, server, name, ok)
		}
	}
	for joined, want := range map[string][2]string{
		"mcp+a+file:///x":   {"a", "file:///x"},
		"mcp+a+mcp+b+x:":    {"a", "mcp+b+x:"},
		"mcp+my-pg+demo://": {"my-pg", "demo://"},
		"mcp+a+x+y:z":       {"a", "x+y:z"},
		"file:///x":         {},
		"mcp+a":             {},
		"mcp+a+":            {},
		"mcp++x:":           {},
		"MCP+a+x:":          {},
		"mcp+A+x:":          {},
		"mcp+a/../b+x:":     {},
	} {
		server, uri, ok := splitURI(joined)
		if ok != (want[0] != "") || ok && (server != want[0] || uri != want[1]) {
			t.Errorf("%q: %q %q %v", joined, server, uri, ok)
		}
	}
	for joined, want := range map[string][3]string{
		"p.a.x":   {"p", "a", "x"},
		"g.a.x.y": {"g", "a", "x.y"},
		"x.a.y":   {},
		"p..y":    {},
		"p.a.":    {},
		"p.a":     {},
	} {
		way, server, id, ok := splitEvent(joined)
		if ok != (want[0] != "") || ok && (string(way) != want[0] || server != want[1] || id != want[2]) {
			t.Errorf("%q: %q %q %q %v", joined, way, server, id, ok)
		}
	}
}

func TestIDs(t *testing.T) {
	for _, raw := range []string{`1`, `-5`, `9007199254740993`, `"x"`, `"a\u0062"`, `""`, `"` + strings.Repeat("x", 500) + `"`} {
		server, got, ok := splitID(joinID("pg", []byte(raw)))
		if !ok || server != "pg" || string(got) != raw {
			t.Errorf("%s: %q %q %v", raw, server, got, ok)
		}
	}
	if joinID("pg", []byte(`"`+strings.Repeat("x", maxRawID)+`"`)) != nil {
		t.Error("an id was made that cannot come back")
	}
	forged := func(raw string) string {
		return strings.Replace(string(joinID("pg", []byte("1"))), "MQ", encode(raw), 1)
	}
	for what, id := range map[string]string{
		"a number":              `1`,
		"some text":             `"1"`,
		"no server":             `"cs1..MQ"`,
		"another scheme":        `"cs2.pg.MQ"`,
		"no base64":             `"cs1.pg.M"`,
		"padded":                `"cs1.pg.MQ=="`,
		"loose bits":            `"cs1.pg.MR"`,
		"a line break in it":    `"cs1.pg.M\nQ"`,
		"a member smuggled in":  forged(`1,"method":"tools/call"`),
		"a message smuggled in": forged(`1,"result":{}} {"a":1`),
		"white space":           forged(` 1`),
		"an object":             forged(`{}`),
		"null":                  forged(`null`),
		"a fraction":            forged(`1.5`),
		"nothing":               forged(``),
	} {
		if server, raw, ok := splitID([]byte(id)); ok {
			t.Errorf("%s: %s comes to %q %s", what, id, server, raw)
		}
	}
}

func encode(raw string) string { return base64.RawURLEncoding.EncodeToString([]byte(raw)) }
func FuzzIDs(f *testing.F) {
	f.Add(`"cs1.pg.MQ"`)
	f.Add(`"cs1.pg.IngiLCJhIjox"`)
	f.Fuzz(func(t *testing.T, id string) {
		if !json.Valid([]byte(id)) {
			return
		}
		server, raw, ok := splitID([]byte(id))
		if !ok {
			return
		}
		if !isServer(server) {
			t.Fatalf("server %q", server)
		}
		m, err := wire.Parse([]byte(`{"jsonrpc":"2.0","id":`+string(raw)+`,"result":1}`), wire.Limits{})
		if err != nil || string(m.ID) != string(raw) {
			t.Fatalf("%q is no id: %v", raw, err)
		}
		if want, _ := text([]byte(id)); string(wire.Quote(want)) != string(joinID(server, raw)) {
			t.Fatalf("%s comes back as %s", id, joinID(server, raw))
		}
	})
}

func FuzzNames(f *testing.F) {
	f.Add("a__b")
	f.Add("mcp+a+b:c")
	f.Add("p.a.b")
	f.Fuzz(func(t *testing.T, s string) {
		if server, name, ok := splitName(s); ok && joinName(server, name) != s {
			t.Fatalf("%q", s)
		}
		if server, uri, ok := splitURI(s); ok && joinURI(server, uri) != s {
			t.Fatalf("%q", s)
		}
		if way, server, id, ok := splitEvent(s); ok && joinEvent(way, server, id) != s {
			t.Fatalf("%q", s)
		}
	})
}

func TestCursor(t *testing.T) {
	at := "next page"
	c := cursor{"a": &at, "b": nil}
	text, err := c.encode("tools")
	if err != nil {
		t.Fatal(err)
	}
	back, err := decodeCursor("tools", text)
	if err != nil || len(back) != 2 || *back["a"] != at || back["b"] != nil {
		t.Fatalf("%v %v", back, err)
	}
	for what, text := range map[string]string{
		"another list's":        text + "x",
		"nothing":               "",
		"no base64":             "!!!",
		"no object":             encode(`[]`),
		"no list":               encode(`{}`),
		"two lists":             encode(`{"prompts":{"a":"x"},"tools":{"a":"x"}}`),
		"no server":             encode(`{"tools":{}}`),
		"not a server's name":   encode(`{"tools":{"../a":"x"}}`),
		"a number":              encode(`{"tools":{"a":1}}`),
		"white space":           encode(`{"tools":{"a": "x"}}`),
		"a key twice":           encode(`{"tools":{"a":"x","a":"y"}}`),
		"another order":         encode(`{"tools":{"b":"x","a":"y"}}`),
		"too long for a server": encode(`{"tools":{"a":"` + strings.Repeat("x", maxOwnCursor+1) + `"}}`),
		"too long":              strings.Repeat("A", maxCursor+1),
	} {
		if _, err := decodeCursor("tools", text); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
	if _, err := decodeCursor("prompts", text); err == nil {
		t.Error("another list's cursor was accepted")
	}
}

func FuzzCursor(f *testing.F) {
	f.Add("eyJ0b29scyI6eyJhIjoieCIsImIiOm51bGx9fQ")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := decodeCursor("tools", s)
		if err != nil {
			return
		}
		again, err := c.encode("tools")
		if err != nil || again != s {
			t.Fatalf("%q comes back as %q, %v", s, again, err)
		}
	})
}
