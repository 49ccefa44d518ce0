package rules

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

func sum(c string) string { return "sha256:" + strings.Repeat(c, 64) }

// locked is a lock of the base policy's customers: the tools that its rules name.
func locked() Lock {
	return Lock{"customers": {
		"query": {Description: sum("a"), Input: sum("b"), Annotations: sum("c"), Required: []string{"sql"}},
		"other": {Description: sum("d")},
	}}
}

func TestLockProblems(t *testing.T) {
	const head = "version: 1\nservers:\n"
	for _, c := range []struct{ name, text, want string }{
		{"not YAML", "servers: [\n", "tools.lock:"},
		{"no mapping", "x", "tools.lock:1:1: tools.lock must be a mapping"},
		{"no version", "servers: {}\n", "tools.lock:1:1: version is missing"},
		{"version", "version: 2\nservers: {}\n", "tools.lock:1:10: version 2 is not known"},
		{"no servers", "version: 1\n", "servers is missing"},
		{"nothing", "version: 1\nservers:\n", "servers must be a mapping, not nothing"},
		{"unknown server", head + "  costumers: {}\n", `tools.lock:3:3: server "costumers" is not in servers/`},
		{"server twice", head + "  customers: {}\n  customers: {}\n", `tools.lock:4:3: duplicate key "customers"`},
		{"no tools", head + "  customers:\n", "server customers must be a mapping, not nothing"},
		{"tool twice", head + "  customers:\n    a: {}\n    \"\\x61\": {}\n", `duplicate key "a"`},
		{"blank tool", head + "  customers:\n    \" \": {}\n", "a tool without a name"},
		{"unknown part", head + "  customers:\n    query: { inputs: " + sum("a") + " }\n", `tools.lock:4:14: unknown field "inputs" in a tool`},
		{"short digest", head + "  customers:\n    query: { input: sha256:ab }\n", "tools.lock:4:21: input must be sha256: and 64 hex digits"},
		{"upper case", head + "  customers:\n    query: { input: " + strings.ToUpper(sum("a")) + " }\n", "must be sha256:"},
		{"number", head + "  customers:\n    query: { input: 12 }\n", "input must be a text"},
		{"required", head + "  customers:\n    query: { required: [1] }\n", "required must be a text"},
		{"anchor", head + "  customers: &a {}\n", "aliases and anchors"},
		{"a conflict", "<<<<<<< HEAD\nversion: 1\n", "tools.lock:"},
		{"a rule's tool", head + "  customers:\n    export: {}\n", `rules/customers.yaml:3:9: tool "query" is not in tools.lock: server customers may not offer it`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := try(base(), "tools.lock", c.text); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("problems:\n%v\nwant one that says %q", err, c.want)
			}
		})
	}
	// A rule that can match elsewhere, or names no tool, is none.
	for _, rule := range []string{
		"- { id: x, server: [customers, files], tool: nope, effect: allow }\n",
		"- { id: x, server: \"*\", tool: nope, effect: allow }\n",
		"- { id: x, server: customers, tool: \"no*\", effect: allow }\n",
		"- { id: x, server: customers, method: prompts/get, tool: nope, effect: allow }\n",
	} {
		load(t, base(), "tools.lock", string(locked().Encode()), "rules/x.yaml", rule)
	}
	if _, err := try(base(), "tools.lock", string(locked().Encode()), "rules/x.yaml", "- { id: x, server: customers, tool: [query, nope], effect: allow }\n"); err == nil {
		t.Error("one of two tools that is not there is no problem")
	}
}

func TestPins(t *testing.T) {
	p := load(t, base(), "tools.lock", string(locked().Encode()))
	if !p.Locked("customers") || p.Locked("files") || p.Locked("") {
		t.Error("Locked is wrong")
	}
	pin, ok := p.Pin("customers", "query")
	if !ok || !reflect.DeepEqual(pin, locked()["customers"]["query"]) {
		t.Errorf("pin: %+v", pin)
	}
	if _, ok := p.Pin("customers", "Query"); ok {
		t.Error("a tool in another case is pinned")
	}
	if got := pin.Changed(pin); got != nil {
		t.Errorf("differs from itself: %v", got)
	}
	for part, change := range map[string]func(*Pin){
		"title": func(p *Pin) { p.Title = sum("9") }, "description": func(p *Pin) { p.Description = sum("9") },
		"input schema": func(p *Pin) { p.Input = sum("9") }, "output schema": func(p *Pin) { p.Output = sum("9") },
		"annotations": func(p *Pin) { p.Annotations = "" }, "other members": func(p *Pin) { p.Other = sum("9") },
	} {
		seen := pin
		change(&seen)
		if got := pin.Changed(seen); !slices.Equal(got, []string{part}) {
			t.Errorf("%s: changed %v", part, got)
		}
	}

	open := "- { id: any, server: [customers, files], tool: \"*\", effect: allow }\n"
	p = load(t, base(), "tools.lock", string(locked().Encode()), "rules/x.yaml", open)
	req := call("other", "{}")
	if d := p.Decide(req); d.Effect != Allow || !p.Visible(req) {
		t.Errorf("a locked tool: %+v", d)
	}
	req.Tool = "fresh"
	if d := p.Decide(req); d.Effect != Deny || !strings.Contains(d.Reason, `"fresh" of server "customers" is not in tools.lock`) || p.Visible(req) {
		t.Errorf("a tool that is not in the lock: %+v", d)
	}
	req.Server = "files"
	if d := p.Decide(req); d.Effect != Allow {
		t.Errorf("a server that is not locked: %+v", d)
	}
	req.Server, req.Method, req.Tool = "customers", "tools/list", ""
	if d := p.Decide(req); d.Effect != Allow || !d.Baseline {
		t.Errorf("the baseline: %+v", d)
	}
	p = load(t, base(), "tools.lock", "version: 1\nservers: { files: {} }\n", "rules/x.yaml", open)
	if d := p.Decide(Request{Server: "files", Method: "tools/call", Tool: "read", Subject: alice()}); d.Effect != Deny {
		t.Errorf("a server locked to nothing: %+v", d)
	}
}

// What is locked schemas require needs no has(): in rules that name such tools
// and no others.
func TestGuardKnowsLockedSchemas(t *testing.T) {
	lock := Lock{
		"customers": {"query": {Required: []string{"limit", "sql"}}, "other": {Required: []string{"sql", "where"}}, "none": {}},
		"files":     {"query": {Required: []string{"sql"}}},
	}
	rule := func(names, when string) string {
		return fmt.Sprintf("- { id: x, %s, when: %q, effect: allow }\n", names, when)
	}
	const one = "server: customers, tool: query"
	for _, c := range []struct{ names, when, reads string }{
		{one, `args.sql == "x"`, ""},
		{one, `args["sql"] == "x" && args.limit > 1`, ""},
		{one, `sql(args.sql).parsed`, ""},
		{one, `args.other == "x"`, "args.other"},
		{one, `args.sql.deep == "x"`, "args.sql.deep"},
		{one, `has(args.sql.deep) && args.sql.deep == 1`, ""},
		{one, `args[""] == 1`, "args."},
		{one, `subject.claims.sql == 1`, "subject.claims.sql"},
		{"server: customers, tool: [query, other]", `args.sql == "x"`, ""},
		{"server: customers, tool: [query, other]", `args.limit == 1`, "args.limit"},
		{"server: customers, tool: [query, none]", `args.sql == "x"`, "args.sql"},
		{"server: [customers, files], tool: query", `args.sql == "x"`, ""},
		{"server: [customers, files], tool: query", `args.limit == 1`, "args.limit"},
		{"server: [customers, files], tool: [query, other]", `args.sql == "x"`, "args.sql"},
		{"server: [customers, loose], tool: query", `args.sql == "x"`, "args.sql"},
		{"server: \"*\", tool: query", `args.sql == "x"`, "args.sql"},
		{"server: customers, tool: \"que*\"", `args.sql == "x"`, "args.sql"},
		{"server: customers", `args.sql == "x"`, "args.sql"},
		{"server: customers, method: [tools/call, prompts/get], tool: query", `args.sql == "x"`, "args.sql"},
		{"server: customers, method: prompts/get, tool: query", `args.sql == "x"`, "args.sql"},
	} {
		_, err := try(base(), "tools.lock", string(lock.Encode()), "servers/loose.yaml", "server: loose\nurl: http://127.0.0.1/\n",
			"rules/x.yaml", rule(c.names, c.when))
		switch {
		case c.reads == "" && err != nil:
			t.Errorf("%s: %s: %v", c.names, c.when, err)
		case c.reads != "" && (err == nil || !strings.Contains(err.Error(), "reads "+c.reads+",")):
			t.Errorf("%s: %s: %v, want that it reads %s", c.names, c.when, err, c.reads)
		}
	}

	// The enforcer does not check arguments against the schema: a read of one
	// that is missing all the same errs on the safe side.
	p := load(t, base(), "tools.lock", string(lock.Encode()), "rules/customers.yaml",
		rule(one, `args.sql != "bad"`)+"- { id: no, server: customers, tool: query, when: 'args.limit > 9', effect: deny, reason: Too many }\n")
	for args, want := range map[string]Effect{`{"sql":"x","limit":1}`: Allow, `{"sql":"x","limit":10}`: Deny, `{"sql":"x"}`: Deny, `{"limit":1}`: Deny, `{}`: Deny} {
		if d := p.Decide(call("query", args)); d.Effect != want {
			t.Errorf("%s: %+v", args, d)
		}
	}
}

// Two rules with one condition, of which one may leave has() out.
func TestGuardTellsRulesApart(t *testing.T) {
	_, err := try(base(), "tools.lock", string(locked().Encode()), "rules/x.yaml", `
- { id: a, server: customers, tool: query, when: args.sql == "x", effect: allow }
- { id: b, server: files, tool: query, when: args.sql == "x", effect: allow }
`)
	if err == nil || strings.Count(err.Error(), "\n") != 0 || !strings.Contains(err.Error(), "rules/x.yaml:3:") {
		t.Errorf("problems: %v", err)
	}
}

// An approval is void when a tool that its rule names is locked anew.
func TestTheDigestOfAnApprovalCoversPins(t *testing.T) {
	digest := func(change func(Lock)) string {
		lock := locked()
		change(lock)
		p := load(t, base(), "tools.lock", string(lock.Encode()))
		return p.Decide(call("query", `{"sql":"UPDATE t"}`)).RulesDigest
	}
	same := digest(func(Lock) {})
	if digest(func(l Lock) { l["customers"]["other"] = Pin{Title: sum("e")} }) != same {
		t.Error("another tool's pin is part of it")
	}
	if digest(func(l Lock) { l["customers"]["query"] = Pin{Title: sum("e")} }) == same {
		t.Error("the tool's own pin is not")
	}
	d := load(t, base()).Decide(call("query", `{"sql":"UPDATE t"}`))
	if d.RulesDigest == same {
		t.Error("unlocked and locked are the same")
	}
	if got := load(t, base()).AsksDigest("customers", alice(), "desk", d.Asks); got != d.RulesDigest {
		t.Errorf("AsksDigest %s, Decide %s", got, d.RulesDigest)
	}
}

func TestLoadServers(t *testing.T) {
	files := base()
	files["rules/customers.yaml"] = "- { id: x, server: customers, tool: gone, when: args.x == 1, effect: allow }\n"
	lock := locked()
	lock["gone"] = map[string]Pin{}
	files["tools.lock"] = string(lock.Encode())
	fsys := fstest.MapFS{}
	for name, text := range files {
		fsys[name] = &fstest.MapFile{Data: []byte(text)}
	}
	servers, got, err := LoadServers(fsys)
	if err != nil || len(servers) != 2 || servers[0].Name != "customers" || !reflect.DeepEqual(got, lock) {
		t.Errorf("%v %v %v", servers, got, err)
	}
	fsys["servers/files.yaml"] = &fstest.MapFile{Data: []byte("server: files\n")}
	fsys["tools.lock"] = &fstest.MapFile{Data: []byte("<<<<<<< HEAD\n")}
	if _, _, err := LoadServers(fsys); err == nil || !strings.Contains(err.Error(), "tools.lock") || !strings.Contains(err.Error(), "servers/files.yaml") {
		t.Errorf("err = %v", err)
	}
}

// Whatever a server calls its tools and properties, the lock reads back as it
// was written.
func FuzzLockReadsBack(f *testing.F) {
	for _, name := range []string{"query", "a: b", "true", "\u202e\u200b", "null", "{}", "a\"b\\c\n#", "<<", "\x7f\u0085\u2028\ufeff", "größe 🚀 \U000e0041", "- x", "*a", "!!str"} {
		f.Add(name, name)
	}
	f.Fuzz(func(t *testing.T, tool, property string) {
		tool, property = strings.ToValidUTF8(tool, "?"), strings.ToValidUTF8(property, "?")
		if strings.TrimSpace(tool) == "" || strings.TrimSpace(property) == "" || len(tool) > 128 || len(property) > 128 {
			return // wire leaves these out
		}
		lock := Lock{"customers": {tool: {Title: sum("a"), Other: sum("b"), Required: []string{property}}, tool + "2": {}}, "files": {}}
		text := lock.Encode()
		servers := fstest.MapFS{"tools.lock": {Data: text}}
		_, got, err := LoadServers(servers)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if !reflect.DeepEqual(got, lock) {
			t.Fatalf("%v\n%s", got, text)
		}
		if again := (Lock(maps.Clone(got))).Encode(); string(again) != string(text) {
			t.Fatalf("written again:\n%s\nat first:\n%s", again, text)
		}
	})
}
