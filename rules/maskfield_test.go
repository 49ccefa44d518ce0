package rules

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestFieldRuleProblems(t *testing.T) {
	field := func(body string) string { return "fields:\n- " + body + "\n" }
	for _, c := range []struct{ name, text, want string }{
		{"no list", "fields: { id: a }\n", "masks/x.yaml:1:9: fields must be a list"},
		{"unknown", field(`{ id: a, server: files, key: [a], action: redact }`), `masks/x.yaml:2:27: unknown field "key" in a field rule`},
		{"no id", field(`{ server: files, keys: [a], action: redact }`), "masks/x.yaml:2:3: id is missing"},
		{"bad id", field(`{ id: A b, server: files, keys: [a], action: redact }`), `masks/x.yaml:2:9: id "A b" is not a name`},
		{"twice", field("{ id: a, server: files, keys: [a], action: redact }\n- { id: a, server: files, keys: [b], action: redact }"), `masks/x.yaml:3:9: duplicate id "a"`},
		{"no server", field(`{ id: a, keys: [a], action: redact }`), "masks/x.yaml:2:3: server is missing"},
		{"other server", field(`{ id: a, server: [files, flies], keys: [a], action: redact }`), `masks/x.yaml:2:28: server "flies" is not in servers/`},
		{"tool", field(`{ id: a, server: files, tool: "*x", keys: [a], action: redact }`), "* may only stand alone or at the end"},
		{"key", field(`{ id: a, server: files, keys: ["*a*"], action: redact }`), "at most one * in a name"},
		{"nothing named", field(`{ id: a, server: files, action: redact }`), "a field rule needs keys, columns or paths"},
		{"no action", field(`{ id: a, server: files, keys: [a] }`), "action is missing"},
		{"action", field(`{ id: a, server: files, keys: [a], action: hide }`), `masks/x.yaml:2:46: action "hide" is not known`},
		{"block", field(`{ id: a, server: files, keys: [a], action: block }`), "needs a reason"},
		{"drop all", field(`{ id: a, server: files, paths: ["$"], action: drop }`), "masks/x.yaml:2:35: path \"$\": drop needs a member"},
		{"path", field(`{ id: a, server: files, paths: ["$.a", "$.a[?(@.b)]"], action: redact }`), `masks/x.yaml:2:42: path "$.a[?(@.b)]": [?(@.b)]: only an index`},
		{"keep", field(`{ id: a, server: files, keys: [a], action: keep }`), "keep needs over"},
		{"over", field(`{ id: a, server: files, keys: [a], action: redact, over: [b] }`), "masks/x.yaml:2:60: over belongs to action: keep"},
		{"over whom", field(`{ id: a, server: files, keys: [a], action: keep, over: [b] }`), `masks/x.yaml:2:59: over "b": there is no field rule of that id`},
		{"over a keep", field(`{ id: a, server: files, keys: [a], action: keep, over: [a] }`), "that rule keeps, too"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := try(base(), "masks/x.yaml", c.text); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

// A key that the protocol itself goes by cannot be masked wherever it stands.
func TestMaskKeyProblems(t *testing.T) {
	_, err := try(base(), "masks/x.yaml", "keys: [salary, NextCursor, id]\n")
	for _, want := range []string{`masks/x.yaml:1:16: key "NextCursor" is one of the protocol's own`, `masks/x.yaml:1:28: key "id"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
	p, err := try(base(), "masks/x.yaml", "keys: [salary, token]\n")
	if err != nil || !slices.Contains(p.masks.Keys, "salary") {
		t.Error(err)
	}
}

// A keep may name a rule of a file that is read later.
func TestFieldRules(t *testing.T) {
	p := load(t, base(), "masks/a.yaml", "fields:\n- { id: k, server: \"*\", keys: [id], action: keep, over: whole }\n",
		"masks/b.yaml", "fields:\n- { id: whole, server: [files, customers], tool: [query, \"get_*\"], paths: \"rows[*]..a\", columns: [b], keys: [\"*_c\"], action: pseudonym }\n")
	want := []FieldRule{
		{ID: "k", Servers: []string{"*"}, Tools: []string{"*"}, Keys: []string{"id"}, Action: FieldKeep, Over: []string{"whole"}},
		{ID: "whole", Servers: []string{"files", "customers"}, Tools: []string{"query", "get_*"}, Keys: []string{"*_c"}, Columns: []string{"b"},
			Paths: [][]PathStep{{{Index: -1, Name: "rows"}, {Any: true, Index: -1}, {Deep: true, Index: -1, Name: "a"}}}, Action: FieldPseudonym},
	}
	if got := p.Masks().Fields; !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestPaths(t *testing.T) {
	name := func(s string) PathStep { return PathStep{Index: -1, Name: s} }
	for text, want := range map[string][]PathStep{
		"$":               nil,
		"$.a.b":           {name("a"), name("b")},
		"a.b":             {name("a"), name("b")},
		`$["a.b"]['c"']`:  {name("a.b"), name(`c"`)},
		"$[0].*":          {{Index: 0}, {Any: true, Index: -1}},
		"[*]..x":          {{Any: true, Index: -1}, {Deep: true, Index: -1, Name: "x"}},
		"$..[3]":          {{Deep: true, Index: 3}},
		"$.Straße.e-mail": {name("Straße"), name("e-mail")},
	} {
		if got, err := parsePath(text); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v %v", text, got, err)
		}
	}
	for _, text := range []string{"$a", "$.", "a.", "$..", "a..", "$.[0]", "[", "[]", "[-1]", "[01]", "[1:2]", "[0,1]", "['a", `["a\"]`, "$.a b", "$.length()", "a]", "[99999999999]", "$" + strings.Repeat(".a", 33)} {
		if got, err := parsePath(text); err == nil {
			t.Errorf("%s: %+v", text, got)
		}
	}
}

func FuzzPath(f *testing.F) {
	for _, s := range []string{"$.a[*]..b", `["x"]['y'][3]`, "$..", "a.*"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		steps, err := parsePath(text)
		if err == nil && len(steps) > maxSteps {
			t.Fatal(len(steps))
		}
		for _, s := range steps {
			if err == nil && s.Index < 0 && !s.Any && s.Name == "" && !strings.Contains(text, `""`) && !strings.Contains(text, "''") {
				t.Fatalf("%q: a step without a name: %+v", text, steps)
			}
		}
	})
}
