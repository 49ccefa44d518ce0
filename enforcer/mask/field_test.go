package mask

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

var testKey = []byte("0123456789abcdef0123456789abcdef")

func fieldMask(t *testing.T, rules ...FieldRule) *Mask {
	t.Helper()
	m := New(Options{Budget: time.Minute})
	for i := range rules {
		if rules[i].Servers == nil {
			rules[i].Servers = []string{"*"}
		}
		if rules[i].Tools == nil {
			rules[i].Tools = []string{"*"}
		}
	}
	m.ConfigureFields(rules, testKey)
	return m
}

func member(name string) Step { return Step{Index: -1, Name: name} }

var anyStep = Step{Any: true, Index: -1}

// result is a tools/call result with structuredContent and the text content.
func result(structured, text string) string {
	quoted, err := json.Marshal(text)
	if err != nil {
		panic(err) // a string
	}
	return `{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":` + string(quoted) + `}],"structuredContent":` + structured + `}}`
}

func answer(t *testing.T, m *Mask, msg string) (string, Report) {
	t.Helper()
	out, r, err := m.Answer([]byte(msg), Site{Server: "db", Tool: "query"})
	if err != nil {
		t.Fatalf("%v\n%s", err, msg)
	}
	if !json.Valid(out) {
		t.Fatalf("not JSON any more:\n%s", out)
	}
	return string(out), r
}

// TestFieldActions: each action on each kind of value, in structuredContent and
// in JSON in a text alike.
func TestFieldActions(t *testing.T) {
	const in = `{"a":1, "f":{"s":"alice@example.com","n":4111111111111111,"b":true,"z":null,"l":["x"]},"c":2}`
	for action, want := range map[Action]string{
		Redact:    `{"a":1, "f":{"s":"[masked: r]","n":"[masked: r]","b":"[masked: r]","z":null,"l":["[masked: r]"]},"c":2}`,
		Partial:   `{"a":1, "f":{"s":"****.com","n":"****1111","b":"[masked: r]","z":null,"l":["****"]},"c":2}`,
		Drop:      `{"a":1,"c":2}`,
		Pseudonym: `{"a":1, "f":{"s":"r:7c0e","n":"r:`,
		Keep:      in,
	} {
		m := fieldMask(t, FieldRule{ID: "r", Keys: []string{"F"}, Action: action})
		out, rep := answer(t, m, result(in, in))
		var got struct {
			Result struct {
				Content []struct {
					Text string `json:"text"`
				} `json:"content"`
				Structured json.RawMessage `json:"structuredContent"`
			} `json:"result"`
		}
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			t.Fatal(err)
		}
		structured, text := string(got.Result.Structured), got.Result.Content[0].Text
		if action == Pseudonym {
			if structured != text || !strings.HasPrefix(structured, `{"a":1, "f":{"s":"r:`) || strings.Contains(structured, "alice") || !strings.Contains(structured, `"b":"[masked: r]"`) {
				t.Errorf("%s: %s\n%s", action, structured, text)
			}
		} else if structured != want || text != want {
			t.Errorf("%s: structured %s\n text %s\n want %s", action, structured, text, want)
		}
		if rep.Masked() != (action != Keep) {
			t.Errorf("%s: report %+v", action, rep)
		}
	}
}

func TestFieldPlaces(t *testing.T) {
	m := fieldMask(t, FieldRule{ID: "mail", Keys: []string{"*mail"}, Action: Redact})
	const row = `{"id":7,"e-mail":"alice@example.com"}`
	quoted, _ := json.Marshal(row)
	twice, _ := json.Marshal(string(quoted))
	for place, msg := range map[string]string{
		`result.structuredContent["e-mail"]`: "",
		"structured":                         `{"jsonrpc":"2.0","id":1,"result":{"structuredContent":` + row + `}}`,
		"task result":                        `{"jsonrpc":"2.0","id":1,"result":{"status":"completed","result":{"structuredContent":{"rows":[` + row + `]}}}}`,
		"text":                               result("null", row),
		"text in prose":                      result("null", "Here [you] are {so}:\n```json\n["+row+","+row+"]\n``` that is all {"),
		"text, a JSON string":                result("null", string(quoted)),
		"text, JSON in JSON":                 result("null", `{"payload":`+string(quoted)+`}`),
		"text, a string in prose":            result("null", `{"payload":`+string(twice)+`} there`),
		"json lines":                         result("null", row+"\n"+row+"\n"),
		"escaped":                            `{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"\u007b\"e\u002dmail\":\"\u0061lice@example.com\"}"}]}}`,
		"another case":                       `{"jsonrpc":"2.0","id":1,"Result":{"StructuredContent":` + row + `,"content":[{"Type":"text","Text":` + string(quoted) + `}]}}`,
		"error data":                         `{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"no","data":` + row + `}}`,
		"error message":                      `{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":` + string(quoted) + `}}`,
		"log notification":                   `{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":` + row + `}}`,
		"progress":                           `{"jsonrpc":"2.0","method":"notifications/progress","params":{"message":` + string(quoted) + `}}`,
		"meta":                               `{"jsonrpc":"2.0","id":1,"result":{"_meta":{"x/row":` + row + `}}}`,
		"resource text":                      `{"jsonrpc":"2.0","id":1,"result":{"contents":[{"uri":"a:b","text":` + string(quoted) + `}]}}`,
		"embedded resource":                  `{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"resource","resource":{"uri":"a:b","text":` + string(quoted) + `}}]}}`,
		"blob":                               `{"jsonrpc":"2.0","id":1,"result":{"contents":[{"uri":"a:b","blob":"` + base64.StdEncoding.EncodeToString([]byte(row)) + `"}]}}`,
		"prompt":                             `{"jsonrpc":"2.0","id":1,"result":{"messages":[{"role":"user","content":{"type":"text","text":` + string(quoted) + `}}]}}`,
		"input_required":                     `{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","inputRequests":{"a":{"params":{"message":` + string(quoted) + `}}}}}`,
	} {
		if msg == "" {
			continue
		}
		out, rep := answer(t, m, msg)
		plain := out
		if i := strings.Index(out, `"blob":"`); i >= 0 {
			b, err := base64.StdEncoding.DecodeString(out[i+8 : i+8+strings.IndexByte(out[i+8:], '"')])
			if err != nil {
				t.Fatal(err)
			}
			plain = string(b)
		}
		if strings.Contains(plain, "lice@") || !strings.Contains(plain, "[masked: mail]") || !rep.Masked() {
			t.Errorf("%s: %s\n%+v", place, out, rep)
		}
	}
}

func TestFieldPaths(t *testing.T) {
	const in = `{"rows":[{"mail":"a@example.com","to":{"mail":"b@example.com"}},{"mail":"c@example.com"}],"mail":"d@example.com","r.s":["e@example.com"]}`
	for name, c := range map[string]struct {
		steps []Step
		gone  string // letters
	}{
		"$.rows[*].mail":   {[]Step{member("rows"), anyStep, member("mail")}, "ac"},
		"$.rows[1].mail":   {[]Step{member("rows"), {Index: 1}, member("mail")}, "c"},
		"$.mail":           {[]Step{member("mail")}, "d"},
		"$..mail":          {[]Step{{Deep: true, Index: -1, Name: "mail"}}, "abcd"},
		"$.rows..mail":     {[]Step{member("rows"), {Deep: true, Index: -1, Name: "mail"}}, "abc"},
		`$["r.s"][0]`:      {[]Step{member("r.s"), {Index: 0}}, "e"},
		"$.rows[0]":        {[]Step{member("rows"), {Index: 0}}, "ab"},
		"$":                {nil, "abcde"},
		"$.Mail (case)":    {[]Step{member("Mail")}, ""},
		"$.rows.mail (no)": {[]Step{member("rows"), member("mail")}, ""},
		"$.rows[*].*.mail": {[]Step{member("rows"), anyStep, anyStep, member("mail")}, "b"},
		"$.rows[9].mail":   {[]Step{member("rows"), {Index: 9}, member("mail")}, ""},
	} {
		m := fieldMask(t, FieldRule{ID: "p", Paths: [][]Step{c.steps}, Action: Redact})
		out, _ := answer(t, m, result(in, ""))
		for _, letter := range "abcde" {
			if gone := !strings.Contains(out, string(letter)+"@"); gone != strings.ContainsRune(c.gone, letter) {
				t.Errorf("%s: %c gone: %v\n%s", name, letter, gone, out)
			}
		}
	}
}

// TestMostRestrictive: of rules that match one value the most restrictive is
// done, whatever their order; keep exempts from what it names alone.
func TestMostRestrictive(t *testing.T) {
	const in = `{"customer":{"id":"c-123456","mail":"alice@example.com"}}`
	redact := FieldRule{ID: "whole", Paths: [][]Step{{member("customer")}}, Action: Redact}
	partial := FieldRule{ID: "part", Keys: []string{"mail"}, Action: Partial}
	keep := FieldRule{ID: "id", Keys: []string{"id"}, Action: Keep, Over: []string{"whole"}}
	block := FieldRule{ID: "stop", Keys: []string{"mail"}, Action: Block, Reason: "no mail here"}
	for _, list := range [][]FieldRule{{redact, partial, keep}, {keep, partial, redact}} {
		out, _ := answer(t, fieldMask(t, list...), result(in, ""))
		if !strings.Contains(out, `{"customer":{"id":"c-123456","mail":"[masked: whole]"}}`) {
			t.Error(out)
		}
	}
	other := keep
	other.Over = []string{"part"}
	if out, _ := answer(t, fieldMask(t, redact, partial, other), result(in, "")); strings.Contains(out, "c-123456") {
		t.Error("a keep exempts from a rule that it does not name:", out)
	}
	drop := FieldRule{ID: "gone", Keys: []string{"customer"}, Action: Drop}
	for _, list := range [][]FieldRule{{block, keep, redact}, {redact, partial, block}, {drop, block}} {
		out, _, err := fieldMask(t, list...).Answer([]byte(result(in, "")), Site{Server: "db", Tool: "query"})
		var refused *Refused
		if !errors.As(err, &refused) || out != nil || refused.Rule != "stop" || refused.Place != "result.structuredContent.customer.mail" || refused.Reason != "no mail here" {
			t.Errorf("%v %s", err, out)
		}
	}
}

// TestKeepNeverShowsKnown: a keep, a partial and a pseudonym are not ways to
// see a known value, nor what a detector finds.
func TestKeepNeverShowsKnown(t *testing.T) {
	const secret = "hunter2-hunter2-99"
	for _, action := range []Action{Keep, Partial, Pseudonym, Redact} {
		m := fieldMask(t, FieldRule{ID: "f", Keys: []string{"p"}, Action: action}, FieldRule{ID: "g", Keys: []string{"p"}, Action: Keep, Over: []string{"f"}})
		if _, err := m.Add("db", secret); err != nil {
			t.Fatal(err)
		}
		out, _ := answer(t, m, result(`{"p":"`+secret+`","q":["p","`+secret+`"]}`, `{"p":"`+secret+`"}`))
		if strings.Contains(out, secret) || strings.Contains(out, "2-99") {
			t.Errorf("%s: %s", action, out)
		}
	}
}

// TestDropJoinsNothing: halves of a known value do not become neighbours by
// what is cut out between them.
func TestDropJoinsNothing(t *testing.T) {
	m := fieldMask(t, FieldRule{ID: "d", Keys: []string{"x"}, Action: Drop})
	if _, err := m.Add("db", "hunter2-hunter2-99"); err != nil {
		t.Fatal(err)
	}
	out, _ := answer(t, m, result(`[{"a":"hunter2-h"},{"x":"between"},{"b":"unter2-99"}]`, ""))
	if strings.Contains(out, "hunter2-h") && strings.Contains(out, "unter2-99") {
		t.Error(out)
	}
}

func TestColumns(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"objects":      {`[{"id":1,"Email":"a@example.com","x":{"email":"z@example.com"}},{"id":2,"email":null}]`, `[{"id":1,"Email":"[masked: c]","x":{"email":"z@example.com"}},{"id":2,"email":null}]`},
		"rows":         {`{"rows":[{"email":"a@example.com"}],"rowCount":1}`, `{"rows":[{"email":"[masked: c]"}],"rowCount":1}`},
		"one row":      {`{"email":"a@example.com","x":{"email":"z@example.com"}}`, `{"email":"[masked: c]","x":{"email":"z@example.com"}}`},
		"not names":    {`{"schema":["public"],"fields":[1],"columns":["id","email"],"rows":[[1,"a@example.com"]]}`, `{"schema":["public"],"fields":[1],"columns":["id","email"],"rows":[[1,"[masked: c]"]]}`},
		"two results":  {`{"columns":["id","email"],"rows":[[1,"a@example.com"]],"data":[[1,"b@example.com"]]}`, `{"columns":["id","email"],"rows":[[1,"[masked: c]"]],"data":[[1,"[masked: c]"]]}`},
		"no row":       {`{"columns":["email"],"rows":[null,{"x":1},["a@example.com"]]}`, `{"columns":["email"],"rows":[null,{"x":1},["[masked: c]"]]}`},
		"data API":     {`{"columnMetadata":[{"name":"email"}],"records":[[{"stringValue":"a@example.com"}]]}`, `{"columnMetadata":[{"name":"email"}],"records":[[{"stringValue":"[masked: c]"}]]}`},
		"apart":        {`{"columns":["id","email"],"rows":[[1,"a@example.com"],[2,"b@example.com"],[3]]}`, `{"columns":["id","email"],"rows":[[1,"[masked: c]"],[2,"[masked: c]"],[3]]}`},
		"apart, names": {`{"rows":[["a@example.com",1]],"fields":[{"name":"u.\"email\"","type":25},{"name":"id"}]}`, `{"rows":[["[masked: c]",1]],"fields":[{"name":"u.\"email\"","type":25},{"name":"id"}]}`},
		"no rows":      {`{"columns":["email"],"rows":["email"]}`, `{"columns":["email"],"rows":["email"]}`},
	} {
		out, _ := answer(t, fieldMask(t, FieldRule{ID: "c", Columns: []string{"email"}, Action: Redact}), result(c.in, ""))
		if !strings.Contains(out, `"structuredContent":`+c.want) {
			t.Errorf("%s:\n%s\nwant %s", name, out, c.want)
		}
	}
	out, _ := answer(t, fieldMask(t, FieldRule{ID: "c", Columns: []string{"email"}, Action: Drop}),
		result(`{"columns":["id","email","n"],"rows":[[1,"a@example.com",3],[2,"b@example.com",4]]}`, ""))
	if !strings.Contains(out, `{"columns":["id","n"],"rows":[[1,3],[2,4]]}`) {
		t.Error(out)
	}
	out, _ = answer(t, fieldMask(t, FieldRule{ID: "c", Columns: []string{"email"}, Action: Drop}),
		result(`{"names":["id","email","n"],"columns":["id","email","n"],"rows":[[1,"a@example.com",3]],"data":[[2,"b@example.com",4]]}`, ""))
	if !strings.Contains(out, `{"names":["id","n"],"columns":["id","n"],"rows":[[1,3]],"data":[[2,4]]}`) {
		t.Error(out)
	}
}

// TestBlobs: base64 in any spelling that a client reads, of a table without
// commas.
func TestBlobs(t *testing.T) {
	m := fieldMask(t, FieldRule{ID: "c", Columns: []string{"email"}, Action: Redact})
	for _, e := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
		blob := func(text string) string {
			return `{"jsonrpc":"2.0","id":1,"result":{"contents":[{"uri":"a:b","blob":"` + e.EncodeToString([]byte(text)) + `"}]}}`
		}
		if out, _ := answer(t, m, blob("id\temail\n?>\ta@example.com\n")); out != blob("id\temail\n?>\t[masked: c]\n") {
			t.Error(out)
		}
	}
}

func TestFieldSites(t *testing.T) {
	m := fieldMask(t, FieldRule{ID: "s", Servers: []string{"db"}, Tools: []string{"query", "read_*"}, Keys: []string{"mail"}, Action: Redact})
	for site, want := range map[Site]bool{
		{Server: "db", Tool: "query"}:    true,
		{Server: "db", Tool: "read_x"}:   true,
		{Server: "db", Tool: "write"}:    false,
		{Server: "db"}:                   false,
		{Server: "db", Any: true}:        true,
		{Server: "other", Tool: "query"}: false,
		{Server: "other", Any: true}:     false,
	} {
		out, _, err := m.Answer([]byte(result(`{"mail":"a@example.com"}`, "")), site)
		if err != nil || strings.Contains(string(out), "[masked: s]") != want {
			t.Errorf("%+v: %v %s", site, err, out)
		}
	}
	// A keep for one tool does not exempt where nobody knows the tool.
	m = fieldMask(t, FieldRule{ID: "s", Keys: []string{"mail"}, Action: Redact}, FieldRule{ID: "k", Tools: []string{"query"}, Keys: []string{"mail"}, Action: Keep, Over: []string{"s"}})
	if out, _, err := m.Answer([]byte(result(`{"mail":"a@example.com"}`, "")), Site{Server: "db", Any: true}); err != nil || strings.Contains(string(out), "a@") {
		t.Errorf("%v %s", err, out)
	}
}

func TestPseudonyms(t *testing.T) {
	rule := func(id string) FieldRule { return FieldRule{ID: id, Keys: []string{id}, Action: Pseudonym} }
	in := result(`{"one":"alice@example.com","two":"alice@example.com","rows":[{"one":"alice@example.com"},{"one":"bob@example.com"}]}`, "")
	out, _ := answer(t, fieldMask(t, rule("one"), rule("two")), in)
	again, _ := answer(t, fieldMask(t, rule("one"), rule("two")), in)
	if out != again || strings.Contains(out, "alice") {
		t.Errorf("%s\n%s", out, again)
	}
	var got struct {
		Result struct {
			S struct {
				One, Two string
				Rows     []struct{ One string }
			} `json:"structuredContent"`
		}
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	s := got.Result.S
	if s.One != s.Rows[0].One || s.One == s.Rows[1].One || s.One[4:] == s.Two[4:] {
		t.Errorf("%+v", s)
	}
	m := fieldMask(t, rule("one"))
	m.ConfigureFields([]FieldRule{{ID: "one", Servers: []string{"*"}, Tools: []string{"*"}, Keys: []string{"one"}, Action: Pseudonym}}, []byte("another key that is long enough.."))
	if other, _ := answer(t, m, in); strings.Contains(other, s.One) {
		t.Error("the key does not matter")
	}
	m.ConfigureFields([]FieldRule{{ID: "one", Servers: []string{"*"}, Tools: []string{"*"}, Keys: []string{"one"}, Action: Pseudonym}}, nil)
	if none, _ := answer(t, m, in); !strings.Contains(none, `"one":"[masked: one]"`) {
		t.Error("without a key: ", none)
	}
}

// TestPartialShowsLittle: never more than a quarter, nor four characters.
func TestPartialShowsLittle(t *testing.T) {
	f := &fieldRules{}
	r := &fieldRule{FieldRule: FieldRule{Action: Partial}, text: "[masked: x]"}
	for in, want := range map[string]string{
		"": "****", "abc": "****", "abcd": "****d", "abcdefgh": "****gh", "12345678901234567890": "****7890", "äöüß": "****ß",
		"x [masked: y] abcdefgh": "[masked: x]",
	} {
		if got := f.shown(r, in, false); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// TestFieldsBounded: hostile texts end in time, or are blocked.
func TestFieldsBounded(t *testing.T) {
	m := fieldMask(t, FieldRule{ID: "r", Keys: []string{"k"}, Action: Redact})
	m.budget = 200 * time.Millisecond
	for _, text := range []string{strings.Repeat("[", 1<<20), strings.Repeat(`{"a":`, 1<<18), strings.Repeat(`[{"k":"v"},`, 1<<16), strings.Repeat(`{"k":1}`, 1<<16)} {
		out, _, err := m.Answer([]byte(result("null", text)), Site{Server: "db"})
		if err != nil && !errors.Is(err, ErrBudget) && !errors.Is(err, ErrTooLarge) {
			t.Errorf("%.20s…: %v", text, err)
		}
		if err == nil && strings.Contains(string(out), `k\":1}`) {
			t.Errorf("%.20s…: unmasked", text)
		}
	}
}

// TestFieldsTooMany: a message of more values than are kept is blocked.
func TestFieldsTooMany(t *testing.T) {
	m := fieldMask(t, FieldRule{ID: "r", Keys: []string{"k"}, Action: Redact})
	msg := result("["+strings.Repeat("1,", maxTokens)+"1]", "")
	if _, _, err := m.Answer([]byte(msg), Site{}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("%v", err)
	}
}

func FuzzFields(f *testing.F) {
	f.Add(result(`{"mail":"a@example.com","rows":[[1]],"columns":["mail"]}`, `{"mail":"a@example.com"}`))
	f.Add(`{"result":{"structuredContent":[{"mail":1,"mail":{"gone":2}},null]},"error":{"data":"{\"mail\":\"x\"}"}}`)
	f.Add(`{"a":"\ud800 {\"mail\":\"\\ud83d\\ude00\"}"}`)
	m := New(Options{})
	m.ConfigureFields([]FieldRule{
		{ID: "r", Servers: []string{"*"}, Tools: []string{"*"}, Keys: []string{"mail"}, Action: Redact},
		{ID: "d", Servers: []string{"*"}, Tools: []string{"*"}, Keys: []string{"gone"}, Columns: []string{"gone"}, Paths: [][]Step{{{Deep: true, Index: 0}}}, Action: Drop},
	}, nil)
	f.Fuzz(func(t *testing.T, in string) {
		out, r, err := m.Answer([]byte(in), Site{Server: "s"})
		if err != nil {
			return
		}
		if !json.Valid(out) {
			t.Fatalf("%s\n became %s", in, out)
		}
		if !r.Masked() && string(out) != in {
			t.Fatalf("changed without saying so: %s", out)
		}
		again, _, err := m.Answer(out, Site{Server: "s"})
		if err != nil {
			t.Fatalf("%v: %s", err, fmt.Sprint(string(again)))
		}
	})
}
