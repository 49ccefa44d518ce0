package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func mustParse(t *testing.T, raw string) *Message {
	t.Helper()
	m, err := Parse([]byte(raw), Limits{})
	if err != nil {
		t.Fatalf("refused %s: %v", raw, err)
	}
	return m
}

func TestParseFindsWhatPolicyLooksAt(t *testing.T) {
	raw := ` {"jsonrpc":"2.0","id":9007199254740993, "method":"tools/call","params":{"_meta":{"progressToken":"p1",` +
		`"io.modelcontextprotocol/protocolVersion":"2026-07-28"},"name":"qu\u0065ry","arguments":{"sql":"SELECT 1"}}} `
	m := mustParse(t, raw)
	if m.Kind != Request || string(m.ID) != "9007199254740993" || m.Method != "tools/call" || m.Name != "query" {
		t.Errorf("kind %v, id %s, method %s, name %s", m.Kind, m.ID, m.Method, m.Name)
	}
	if got := string(m.Bytes(m.Arguments)); got != `{"sql":"SELECT 1"}` {
		t.Errorf("arguments are %s", got)
	}
	if string(m.ProgressToken) != `"p1"` || !m.Modern() || m.ProtocolVersion != "2026-07-28" {
		t.Errorf("token %s, modern %v, version %s", m.ProgressToken, m.Modern(), m.ProtocolVersion)
	}
	if string(m.Raw) != raw {
		t.Error("Raw is not what came")
	}

	m = mustParse(t, `{"jsonrpc":"2.0","id":"a","method":"initialize","params":{"protocolVersion":"2025-11-25"}}`)
	if m.ProtocolVersion != "2025-11-25" || m.Modern() {
		t.Errorf("version %s, modern %v", m.ProtocolVersion, m.Modern())
	}
	m = mustParse(t, `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"x"}}`)
	if m.Kind != Notification || string(m.CancelledID) != `"x"` {
		t.Errorf("kind %v, cancels %s", m.Kind, m.CancelledID)
	}
	m = mustParse(t, `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":7,"progress":1}}`)
	if string(m.ProgressToken) != "7" {
		t.Errorf("progress token %s", m.ProgressToken)
	}
	m = mustParse(t, `{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"greet"},"argument":{}}}`)
	if m.Name != "greet" {
		t.Errorf("completion is for %q", m.Name)
	}
	m = mustParse(t, `{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"name":"other","uri":"x:other","ref":{"uri":"x:{y}","type":"ref/resource"},"argument":{}}}`)
	if m.Name != "" || m.URI != "x:{y}" {
		t.Errorf("completion is for %q, %q", m.Name, m.URI)
	}
	m = mustParse(t, `{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{"notifications":{"toolsListChanged":true,"resourceSubscriptions":["x:1","x:\u0032"]}}}`)
	if !slices.Equal(m.Subscribes, []string{"x:1", "x:2"}) {
		t.Errorf("a subscription to %q", m.Subscribes)
	}
	for raw, asks := range map[string]bool{
		`{"jsonrpc":"2.0","method":"notifications/tasks","params":{"taskId":"1","inputRequests":{}}}`:              true,
		`{"jsonrpc":"2.0","method":"notifications/tasks","params":{"taskId":"1","inputReque\u017fts":{}}}`:         true,
		`{"jsonrpc":"2.0","method":"notifications/tasks","params":{"taskId":"1","x":{"inputRequests":{}}}}`:        false,
		`{"jsonrpc":"2.0","id":1,"error":{"code":-32042,"message":"","data":{"elicitations":[]}}}`:                 true,
		`{"jsonrpc":"2.0","id":1,"error":{"code":-32042,"message":"","DATA":{"ELICITATIONS":[]}}}`:                 true,
		`{"jsonrpc":"2.0","id":1,"error":{"code":-32042,"message":"","elicitations":[],"data":{"inputs":"None"}}}`: false,
		`{"jsonrpc":"2.0","id":1,"result":{"inputRequests":{}}}`:                                                   true,
	} {
		if m := mustParse(t, raw); m.AsksInput != asks {
			t.Errorf("%s asks: %v", raw, m.AsksInput)
		}
	}
	m = mustParse(t, `{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"cut \ud83d"}]}}`)
	if m.Kind != Response || !m.Result.Present() {
		t.Errorf("kind %v", m.Kind)
	}
	m = mustParse(t, `{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"?"}}`)
	if m.Kind != Response || m.ID != nil || !m.ErrorObj.Present() {
		t.Errorf("kind %v id %s", m.Kind, m.ID)
	}
}

// What a revision has no more is its server's to refuse, with the code of an
// unknown method: clients tell by it what they talk to.
func TestParseLetsMethodsOfAnotherEraThrough(t *testing.T) {
	for _, method := range []string{"resources/subscribe", "resources/unsubscribe"} {
		m := mustParse(t, `{"jsonrpc":"2.0","id":1,"method":"`+method+`","params":{"_meta":{"`+MetaVersion+`":"2026-07-28"}}}`)
		if m.Method != method || m.URI != "" {
			t.Errorf("got %q of %q", m.Method, m.URI)
		}
	}
}

// Every line was a bypass of some gateway, or would be one of ours.
func TestParseRefuses(t *testing.T) {
	call := func(params string) string {
		return `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":` + params + `}`
	}
	manyKeys := func(last string) string {
		var b strings.Builder
		for i := range 40 {
			fmt.Fprintf(&b, `"k%d":0,`, i)
		}
		return call(`{"name":"t","arguments":{` + b.String() + last + `}}`)
	}
	completion := func(ref string) string {
		return `{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"name":"t","ref":` + ref + `}}`
	}
	listen := func(filter string) string {
		return `{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{"notifications":` + filter + `}}`
	}
	for _, tt := range []struct {
		why, raw string
		code     int
		reason   string
	}{
		{"duplicate method", `{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}`, CodeParse, "same key twice"},
		{"duplicate by escape", `{"jsonrpc":"2.0","id":1,"method":"ping","m\u0065thod":"tools/call"}`, CodeParse, "same key twice"},
		{"duplicate argument", call(`{"name":"t","arguments":{"sql":"a","sql":"b"}}`), CodeParse, "same key twice"},
		{"duplicate deep in a list", call(`{"name":"t","arguments":{"l":[{"a":1,"a":2}]}}`), CodeParse, "same key twice"},
		{"duplicate among many", manyKeys(`"k3":1`), CodeParse, "same key twice"},
		{"case twin among many", manyKeys(`"K3":1`), CodeParse, "same key twice"},
		{"duplicate in a result", `{"jsonrpc":"2.0","id":1,"result":{"a":1,"a":1}}`, CodeParse, "same key twice"},
		{"arguments that differ in case", call(`{"name":"t","arguments":{"sql":"a","SQL":"b"}}`), CodeParse, "upper and lower case"},
		{"arguments that fold", call(`{"name":"t","arguments":{"sql":"a","` + "\u017f" + `ql":"b"}}`), CodeParse, "upper and lower case"},
		{"Method", `{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call"}`, CodeInvalidRequest, "like method"},
		{"PARAMS alone", `{"jsonrpc":"2.0","id":1,"method":"ping","PARAMS":{}}`, CodeInvalidRequest, "like params"},
		{"long s in params", `{"jsonrpc":"2.0","id":1,"method":"ping","param` + "\u017f" + `":{}}`, CodeInvalidRequest, "like params"},
		{"Name", call(`{"name":"t","Name":"u"}`), CodeInvalidRequest, "like name"},
		{"Arguments", call(`{"name":"t","Arguments":{}}`), CodeInvalidRequest, "like arguments"},
		{"_Meta", call(`{"name":"t","_Meta":{}}`), CodeInvalidRequest, "like _meta"},
		{"ProgressToken", call(`{"name":"t","_meta":{"progresstoken":1}}`), CodeInvalidRequest, "like progressToken"},
		{"version in another case", call(`{"name":"t","_meta":{"IO.modelcontextprotocol/protocolVersion":"2026-07-28"}}`), CodeInvalidRequest, "like io.model"},
		{"Name in ref", completion(`{"type":"ref/prompt","name":"a","Name":"b"}`), CodeInvalidRequest, "like name"},
		{"long s in a subscription", listen(`{"re` + "\u017f" + `ourceSubscriptions":["x:"]}`), CodeInvalidRequest, "like resourceSubscriptions"},
		{"no ref", completion(`null`), CodeInvalidParams, "params.ref must be an object"},
		{"a ref without a type", completion(`{"name":"a"}`), CodeInvalidParams, "params.ref.type must be"},
		{"a ref to a prompt and a resource", completion(`{"type":"ref/prompt","name":"a","uri":"x:"}`), CodeInvalidParams, "and no uri"},
		{"a ref to a resource and a prompt", completion(`{"type":"ref/resource","name":"a","uri":"x:"}`), CodeInvalidParams, "and no name"},
		{"a ref to a resource by name", completion(`{"type":"ref/resource","name":"a"}`), CodeInvalidParams, "must have a uri"},
		{"a ref to an object", completion(`{"type":"ref/prompt","name":{"a":1}}`), CodeInvalidParams, "must have a name"},
		{"NUL in a ref", completion(`{"type":"ref/prompt","name":"a\u0000"}`), CodeInvalidRequest, "U+0000"},
		{"a subscription to a list", listen(`[]`), CodeInvalidParams, "params.notifications must be an object"},
		{"a subscription to a text", listen(`{"resourceSubscriptions":"x:"}`), CodeInvalidParams, "must be a list of strings"},
		{"a subscription to an object", listen(`{"resourceSubscriptions":["x:",{}]}`), CodeInvalidParams, "must be a list of strings"},
		{"NUL in a subscription", listen(`{"resourceSubscriptions":["x:\u0000"]}`), CodeInvalidParams, "must be a list of strings"},
		{"too many subscriptions", listen(`{"resourceSubscriptions":["x:"` + strings.Repeat(`,"x:"`, 1000) + `]}`), CodeInvalidParams, "more than 1000"},
		{"invalid UTF-8", call("{\"name\":\"t\xff\"}"), CodeParse, "valid UTF-8"},
		{"overlong UTF-8", call("{\"name\":\"\xc0\xae\"}"), CodeParse, "valid UTF-8"},
		{"surrogate in UTF-8", call("{\"name\":\"\xed\xa0\x80\"}"), CodeParse, "valid UTF-8"},
		{"high surrogate", call(`{"name":"t","arguments":{"a":"\ud800"}}`), CodeParse, "unpaired surrogate"},
		{"low surrogate", call(`{"name":"t","arguments":{"a":"\udc00x"}}`), CodeParse, "unpaired surrogate"},
		{"two high surrogates", call(`{"name":"t","arguments":{"a":"\ud800\ud800"}}`), CodeParse, "unpaired surrogate"},
		{"surrogate in a key", call(`{"name":"t","arguments":{"\udfff":1}}`), CodeParse, "unpaired surrogate"},
		{"NUL in an argument", call(`{"name":"t","arguments":{"sql":"SELECT 1\u0000; DROP"}}`), CodeParse, "U+0000"},
		{"NUL deep in arguments", call(`{"name":"t","arguments":{"l":[{"x":["\u0000"]}]}}`), CodeParse, "U+0000"},
		{"NUL in a key", call(`{"name":"t","arguments":{"a\u0000":1}}`), CodeParse, "U+0000"},
		{"NUL in the name", call(`{"name":"t\u0000x"}`), CodeInvalidRequest, "U+0000"},
		{"NUL in the method", `{"jsonrpc":"2.0","id":1,"method":"ping\u0000"}`, CodeInvalidRequest, "U+0000"},
		{"raw NUL", call("{\"name\":\"t\x00\"}"), CodeParse, "control character"},
		{"raw line end", call("{\"name\":\"t\n\"}"), CodeParse, "control character"},
		{"batch", `[{"jsonrpc":"2.0","id":1,"method":"ping"}]`, CodeInvalidRequest, "batches"},
		{"trailing message", `{"jsonrpc":"2.0","id":1,"method":"ping"}{}`, CodeParse, "after the end"},
		{"trailing NUL", "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}\x00", CodeParse, "after the end"},
		{"BOM", "\xef\xbb\xbf{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}", CodeParse, "JSON object"},
		{"nothing", ``, CodeParse, "JSON object"},
		{"a string", `"ping"`, CodeParse, "JSON object"},
		{"half", `{"jsonrpc":"2.0","id":1,"method":"pi`, CodeParse, "does not end"},
		{"trailing comma", `{"jsonrpc":"2.0","id":1,"method":"ping",}`, CodeParse, "key was expected"},
		{"comment", `{"jsonrpc":"2.0",/**/"id":1,"method":"ping"}`, CodeParse, "key was expected"},
		{"leading zero", `{"jsonrpc":"2.0","id":01,"method":"ping"}`, CodeParse, "comma"},
		{"NaN", call(`{"name":"t","arguments":{"a":NaN}}`), CodeParse, "value was expected"},
		{"unknown escape", call(`{"name":"\x41"}`), CodeParse, "unknown escape"},
		{"malformed escape", call(`{"name":"\u00g1"}`), CodeParse, "malformed"},
		{"depth", call(`{"name":"t","arguments":{"a":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}}`), CodeParse, "too deeply"},
		{"no version", `{"id":1,"method":"ping"}`, CodeInvalidRequest, "jsonrpc"},
		{"version 1", `{"jsonrpc":"1.0","id":1,"method":"ping"}`, CodeInvalidRequest, "jsonrpc"},
		{"version as number", `{"jsonrpc":2.0,"id":1,"method":"ping"}`, CodeInvalidRequest, "jsonrpc"},
		{"id null", `{"jsonrpc":"2.0","id":null,"method":"ping"}`, CodeInvalidRequest, "null"},
		{"id fractional", `{"jsonrpc":"2.0","id":1.5,"method":"ping"}`, CodeInvalidRequest, "integer"},
		{"id 1.0", `{"jsonrpc":"2.0","id":1.0,"method":"ping"}`, CodeInvalidRequest, "integer"},
		{"id 1e3", `{"jsonrpc":"2.0","id":1e3,"method":"ping"}`, CodeInvalidRequest, "integer"},
		{"id -0", `{"jsonrpc":"2.0","id":-0,"method":"ping"}`, CodeInvalidRequest, "integer"},
		{"id true", `{"jsonrpc":"2.0","id":true,"method":"ping"}`, CodeInvalidRequest, "integer"},
		{"id object", `{"jsonrpc":"2.0","id":{},"method":"ping"}`, CodeInvalidRequest, "integer"},
		{"id endless", `{"jsonrpc":"2.0","id":"` + strings.Repeat("x", 2000) + `","method":"ping"}`, CodeInvalidRequest, "1024"},
		{"method empty", `{"jsonrpc":"2.0","id":1,"method":""}`, CodeInvalidRequest, "method"},
		{"method number", `{"jsonrpc":"2.0","id":1,"method":1}`, CodeInvalidRequest, "method"},
		{"params list", `{"jsonrpc":"2.0","id":1,"method":"ping","params":[1]}`, CodeInvalidRequest, "params must"},
		{"params null", `{"jsonrpc":"2.0","id":1,"method":"ping","params":null}`, CodeInvalidRequest, "params must"},
		{"_meta list", call(`{"name":"t","_meta":[]}`), CodeInvalidParams, "_meta"},
		{"no name", call(`{"arguments":{}}`), CodeInvalidParams, "params.name"},
		{"name number", call(`{"name":1}`), CodeInvalidParams, "params.name"},
		{"arguments list", call(`{"name":"t","arguments":[]}`), CodeInvalidParams, "params.arguments"},
		{"arguments null", call(`{"name":"t","arguments":null}`), CodeInvalidParams, "params.arguments"},
		{"no uri", `{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{}}`, CodeInvalidParams, "params.uri"},
		{"no uri to subscribe to", `{"jsonrpc":"2.0","id":1,"method":"resources/subscribe","params":{}}`, CodeInvalidParams, "params.uri"},
		{"a number to subscribe to", `{"jsonrpc":"2.0","id":1,"method":"resources/subscribe","params":{"uri":7,"_meta":{"` + MetaVersion + `":"2026-07-28"}}}`, CodeInvalidParams, "params.uri"},
		{"no uri, stateless", `{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"_meta":{"` + MetaVersion + `":"2026-07-28"}}}`, CodeInvalidParams, "params.uri"},
		{"progress token list", call(`{"name":"t","_meta":{"progressToken":[]}}`), CodeInvalidParams, "progressToken"},
		{"meta version number", call(`{"name":"t","_meta":{"io.modelcontextprotocol/protocolVersion":1}}`), CodeInvalidParams, "version"},
		{"method and result", `{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}`, CodeInvalidRequest, "both"},
		{"result and error", `{"jsonrpc":"2.0","id":1,"result":{},"error":{}}`, CodeInvalidRequest, "either"},
		{"neither", `{"jsonrpc":"2.0","id":1}`, CodeInvalidRequest, "either"},
		{"result without id", `{"jsonrpc":"2.0","result":{}}`, CodeInvalidRequest, "needs an id"},
		{"error string", `{"jsonrpc":"2.0","id":1,"error":"no"}`, CodeInvalidRequest, "error must"},
		{"response with params", `{"jsonrpc":"2.0","id":1,"result":{},"params":{}}`, CodeInvalidRequest, "no params"},
	} {
		_, err := Parse([]byte(tt.raw), Limits{})
		var refusal *Error
		if !errors.As(err, &refusal) {
			t.Errorf("%s: got %v, want a refusal", tt.why, err)
			continue
		}
		if refusal.Code != tt.code || !strings.Contains(refusal.Reason, tt.reason) {
			t.Errorf("%s: code %d, %q; want code %d, %q", tt.why, refusal.Code, refusal.Reason, tt.code, tt.reason)
		}
	}
}

func TestParseBoundsSize(t *testing.T) {
	raw := []byte(`{"jsonrpc":"2.0","id":1,"method":"ping"}`)
	if _, err := Parse(raw, Limits{Bytes: len(raw)}); err != nil {
		t.Errorf("exactly the bound: %v", err)
	}
	if _, err := Parse(raw, Limits{Bytes: len(raw) - 1}); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("over the bound: %v", err)
	}
	if _, err := Parse([]byte(`{"jsonrpc":"2.0","id":1,"method":"ping","params":{}}`), Limits{Depth: 1}); err == nil {
		t.Error("depth 2 passed a bound of 1")
	}
}

// The words eight bytes at a time must agree with the bytes one at a time.
func TestPlainFindsEverySpecialByte(t *testing.T) {
	for place := range 8 {
		for c := range 256 {
			var b [8]byte
			for i := range b {
				b[i] = 'a'
			}
			b[place] = byte(c)
			var w uint64
			for i := range b {
				w |= uint64(b[i]) << (8 * i)
			}
			special := c < 0x20 || c == '"' || c == '\\' || c >= 0x80
			if special && plain(w) {
				t.Errorf("byte %#x at %d is taken for plain", c, place)
			}
			if !special && !plain(w) {
				t.Errorf("byte %#x at %d alone is not taken for plain", c, place)
			}
		}
	}
}

// Ten thousand generated messages: each is accepted, keeps its bytes, and
// means to encoding/json what we found in it.
func TestGeneratedMessagesPassUnchanged(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for n := range 10_000 {
		g := generator{rng}
		raw := g.message()
		before := bytes.Clone(raw)
		m, err := Parse(raw, Limits{})
		if err != nil {
			t.Fatalf("message %d refused: %v\n%s", n, err, raw)
		}
		if !bytes.Equal(m.Raw, before) {
			t.Fatalf("message %d was changed", n)
		}
		if out := Splice(m.Raw); !bytes.Equal(out, before) {
			t.Fatalf("message %d was changed by an empty splice", n)
		}
		event, err := NewEventReader(bytes.NewReader(MessageEvent(raw)), 0).Next()
		if err != nil || !json.Valid(event.Data) {
			t.Fatalf("message %d did not survive an event: %v", n, err)
		}
		var std struct {
			ID     json.RawMessage `json:"id"`
			Method string          `json:"method"`
			Params struct {
				Name      any             `json:"name"`
				Arguments json.RawMessage `json:"arguments"`
			} `json:"params"`
			Result json.RawMessage `json:"result"`
		}
		if err := json.Unmarshal(raw, &std); err != nil {
			t.Fatalf("encoding/json does not read message %d: %v\n%s", n, err, raw)
		}
		if std.Method != m.Method || !bytes.Equal(std.ID, m.ID) || !bytes.Equal(std.Params.Arguments, m.Bytes(m.Arguments)) || !bytes.Equal(std.Result, m.Bytes(m.Result)) {
			t.Fatalf("message %d: encoding/json sees something else\n%s", n, raw)
		}
		if name, ok := std.Params.Name.(string); ok && name != m.Name {
			t.Fatalf("message %d: name %q, encoding/json %q", n, m.Name, name)
		}
	}
}

// generator writes messages with everything that JSON lets one choose: white
// space, escapes, spellings of numbers, unknown members, order.
type generator struct{ *rand.Rand }

func (g generator) pick(of ...string) string { return of[g.IntN(len(of))] }

func (g generator) space() string { return g.pick("", "", "", " ", "\n", "\t \r\n") }

func (g generator) str() string {
	var b strings.Builder
	b.WriteByte('"')
	for range g.IntN(12) {
		b.WriteString(g.pick("a", "Z", "é", "世", "😀", `\n`, `\"`, `\\`, `\/`, `\u00e9`, `\ud83d\ude00`, `\uD83D\uDE00`, "0", " ", "plain text", `\t`))
	}
	b.WriteByte('"')
	return b.String()
}

func (g generator) value(depth int) string {
	switch n := g.IntN(8); {
	case n == 0 && depth > 0:
		return g.object(depth, g.IntN(25))
	case n == 1 && depth > 0:
		var parts []string
		for range g.IntN(5) {
			parts = append(parts, g.space()+g.value(depth-1)+g.space())
		}
		return "[" + strings.Join(parts, ",") + g.space() + "]"
	case n < 4:
		return g.str()
	}
	return g.pick("0", "-0", "1", "1.0", "1e5", "1E+05", "-12.50e-3", "9007199254740993", "true", "false", "null",
		"123456789012345678901234567890")
}

func (g generator) object(depth, n int) string {
	var parts []string
	for i := range n {
		key := fmt.Sprintf(`"k%d_%s`, i, g.str()[1:])
		parts = append(parts, g.space()+key+g.space()+":"+g.space()+g.value(depth-1)+g.space())
	}
	return "{" + strings.Join(parts, ",") + g.space() + "}"
}

func (g generator) message() []byte {
	id := g.pick("1", "-7", "9007199254740993", g.str())
	members := []string{`"jsonrpc":"2.0"`}
	switch g.IntN(4) {
	case 0:
		members = append(members, `"id":`+id, `"result":`+g.object(3, g.IntN(4)))
	case 1:
		members = append(members, `"method":"notifications/message"`, `"params":`+g.object(3, g.IntN(4)))
	default:
		params := []string{`"name":"n` + g.str()[1:], `"arguments":` + g.object(4, g.IntN(25)), `"unknown":` + g.value(2), `"_meta":{"x":` + g.value(2) + "}"}
		g.Shuffle(len(params), func(i, j int) { params[i], params[j] = params[j], params[i] })
		members = append(members, `"id" : `+id, `"method":`+g.pick(`"tools/call"`, `"tools\/call"`, `"prompts/get"`),
			`"params":{`+g.space()+strings.Join(params, g.space()+",")+"}", `"extra":`+g.value(2))
	}
	g.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
	return []byte(g.space() + "{" + strings.Join(members, g.space()+","+g.space()) + g.space() + "}" + g.space())
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"q","arguments":{"sql":"x"},"_meta":{"progressToken":1}}}`,
		`{"jsonrpc":"2.0","id":"\ud83d\ude00","result":{"tools":[{"name":"a"},{"name":"b"}],"cacheScope":"public"}}`,
		`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`,
		`{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"\ud800"}}`,
		`{"jsonrpc":"2.0","id":1,"error":{"code":-32042,"data":{"elicitations":[{"mode":"url"}]}}}`,
		`{"jsonrpc":"2.0","method":"notifications/tasks","params":{"taskId":"1","inputRequests":{"a":{}}}}`,
		`{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"a"},"name":"b"}}`,
		`{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{"notifications":{"resourceSubscriptions":["x:1"]}}}`,
		`{"a":{"b":[1,2,{"c":null}]},"jsonrpc":"2.0","id":1,"method":"x"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		before := bytes.Clone(raw)
		m, err := Parse(raw, Limits{})
		if !bytes.Equal(raw, before) {
			t.Fatal("the input was changed")
		}
		if err != nil {
			var refusal *Error
			if !errors.As(err, &refusal) {
				t.Fatalf("not a refusal: %v", err)
			}
			return
		}
		var std map[string]json.RawMessage
		if err := json.Unmarshal(raw, &std); err != nil {
			t.Fatalf("accepted what encoding/json refuses: %v", err)
		}
		if got := m.Bytes(m.Params); !bytes.Equal(got, std["params"]) {
			t.Fatalf("params %s, encoding/json %s", got, std["params"])
		}
		if m.Kind != Response {
			canonical := m.Canonical()
			if !json.Valid(canonical) {
				t.Fatalf("the canonical form is not JSON: %s", canonical)
			}
			again, err := Parse([]byte(`{"jsonrpc":"2.0","method":"x","params":`+string(canonical)+`}`), Limits{Bytes: 1 << 30})
			if err != nil || !bytes.Equal(again.Canonical(), canonical) {
				t.Fatalf("the canonical form of %s is not stable: %v", canonical, err)
			}
		}
		// A hint may be given for nothing, and must not be missed.
		holds := func(part json.RawMessage, key string) (found bool, values []json.RawMessage) {
			var members map[string]json.RawMessage
			if json.Unmarshal(part, &members) != nil {
				return false, nil
			}
			for name, value := range members {
				found, values = found || strings.EqualFold(name, key), append(values, value)
			}
			return found, values
		}
		for _, part := range []string{"params", "result", "error"} {
			asks, values := holds(std[part], "inputRequests")
			for _, value := range values {
				if found, _ := holds(value, "elicitations"); found && part != "params" {
					asks = true
				}
			}
			if asks && !m.AsksInput {
				t.Fatalf("%s asks for input, and nothing says so", part)
			}
		}
		if m.Kind == Response {
			ParamHeaders(m) // whatever the list holds
			for _, key := range []string{"tools", "resources"} {
				out, _, err := FilterList(m, key, func(name, uri string, _ Span) bool { return len(name)%2 == 0 })
				if err == nil && !json.Valid(out) {
					t.Fatalf("filtering %s made %s", key, out)
				}
			}
			for _, at := range m.Tools() {
				tool := m.Tool(at)
				for _, part := range [][]byte{tool.Title, tool.Description, tool.Input, tool.Output, tool.Annotations, tool.Other} {
					if part != nil && !json.Valid(part) {
						t.Fatalf("a part of a tool is not JSON: %s", part)
					}
				}
			}
		}
	})
}

func benchmarkParse(b *testing.B, size int) {
	head := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"n":1,"text":"`
	tail := `"},"_meta":{"progressToken":1}}}`
	raw := []byte(head + strings.Repeat("x", size-len(head)-len(tail)) + tail)
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(raw, Limits{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParse200B(b *testing.B) { benchmarkParse(b, 200) }
func BenchmarkParse10KB(b *testing.B) { benchmarkParse(b, 10_000) }

// The 10 KB of a call with many small members, as opposed to one long text.
func BenchmarkParse10KBMembers(b *testing.B) {
	var rows strings.Builder
	for i := 0; rows.Len() < 9_900; i++ {
		fmt.Fprintf(&rows, `,{"id":%d,"name":"n%d","ok":true}`, i, i)
	}
	raw := []byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"rows":[` + rows.String()[1:] + `]}}}`)
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(raw, Limits{}); err != nil {
			b.Fatal(err)
		}
	}
}
