package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"countersign/audit"
	"countersign/fixtures/issuer"
	"countersign/fixtures/stage"
)

// hostile is a request that must be refused, as docs/strictness.md lists it.
type hostile struct {
	name   string
	group  string // its heading in docs/strictness.md
	server string // "" is the probe
	token  string // "" is alice's, "-" none
	body   string
	edit   func(*http.Request)

	status, code int
	words        string // that the client reads
	kind         audit.Kind
	recorded     string // the status in the record
}

// header sets headers; a name given twice is sent twice.
func header(kv ...string) func(*http.Request) {
	return func(r *http.Request) {
		seen := map[string]bool{}
		for i := 0; i < len(kv); i += 2 {
			if name := http.CanonicalHeaderKey(kv[i]); !seen[name] {
				r.Header.Del(name)
				seen[name] = true
			}
			r.Header.Add(kv[i], kv[i+1])
		}
	}
}

// modern is a request of 2026-07-28 by its body.
func modern(method, params string) string {
	return `{"jsonrpc":"2.0","id":7,"method":"` + method + `","params":{` + params + `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}`
}

// mirrored are the headers of such a request, with others over them.
func mirrored(method, name string, kv ...string) func(*http.Request) {
	return func(r *http.Request) {
		header("Mcp-Protocol-Version", "2026-07-28", "Mcp-Method", method)(r)
		if name != "" {
			header("Mcp-Name", name)(r)
		}
		header(kv...)(r)
		for i := 0; i < len(kv); i += 2 {
			if kv[i+1] == "" {
				r.Header.Del(kv[i])
			}
		}
	}
}

// callOf is a tools/call with these params.
func callOf(params string) string {
	return `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{` + params + `}}`
}

// with is a call of echo with these arguments.
func with(arguments string) string { return callOf(`"name":"echo","arguments":{` + arguments + `}`) }

// hostileRequests are all of them. The session is alice's, whose token is used
// where no other is named.
func hostileRequests(t *testing.T, s *stage.Stage, session, mallory string) []hostile {
	echo := toolCall("echo", "x")
	var rows []hostile
	group := ""
	add := func(h hostile) {
		h.group = group
		rows = append(rows, h)
	}
	refused := func(name, body, words string, code int) {
		add(hostile{name: name, body: body, status: 400, code: code, words: words, recorded: "bad-request"})
	}
	edited := func(name, body, words string, code int, edit func(*http.Request)) {
		add(hostile{name: name, body: body, edit: edit, status: 400, code: code, words: words, recorded: "bad-request"})
	}

	group = "Messages that two parsers could read in two ways"
	const twice = "an object has the same key twice"
	refused("duplicate key in the envelope", `{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}`, twice+" (at byte 40)", -32700)
	refused("duplicate params", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo"},"params":{"name":"risky"}}`, twice, -32700)
	refused("duplicate tool name", callOf(`"name":"echo","name":"risky","arguments":{}`), twice, -32700)
	refused("duplicate key, one escaped", callOf(`"name":"echo","n\u0061me":"risky"`), twice, -32700)
	refused("duplicate arguments", callOf(`"name":"echo","arguments":{"a":1},"arguments":{"a":2}`), twice, -32700)
	refused("duplicate argument", with(`"a":1,"a":2`), twice, -32700)
	refused("duplicate argument, spelled with other escapes", with(`"\u0061":1,"\u0041":3,"a":2`), "two arguments differ only in upper and lower case", -32700)
	refused("duplicate key deep in an argument", with(`"a":{"b":[{"c":1,"c":2}]}`), twice, -32700)
	refused("duplicate key in an unknown member", `{"jsonrpc":"2.0","id":1,"method":"ping","x":{"a":1,"a":2}}`, twice, -32700)
	refused("duplicate key in _meta", callOf(`"name":"echo","_meta":{"progressToken":1,"progressToken":2}`), twice, -32700)
	refused("duplicate empty key", with(`"":1,"":2`), twice, -32700)
	refused("duplicate key among many", with(manyKeys(40)+`,"k7":1`), twice, -32700)
	refused("case variant in the envelope", `{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call"}`, "a key is spelled like method but in another case (at byte 40)", -32600)
	refused("case variant instead of the key", `{"jsonrpc":"2.0","id":1,"Method":"tools/call"}`, "a key is spelled like method but in another case", -32600)
	refused("case variant of params", callOf(`"name":"echo","Name":"risky"`), "a key is spelled like name but in another case", -32600)
	refused("case variant with the long s", `{"jsonrpc":"2.0","id":1,"method":"tools/call","paramſ":{"name":"risky"},"params":{"name":"echo"}}`, "a key is spelled like params but in another case", -32600)
	refused("case variant with an escaped long s", callOf(`"name":"echo","argument\u017f":{}`), "a key is spelled like arguments but in another case", -32600)
	refused("case variant with the Kelvin sign", `{"jsonrpc":"2.0","id":1,"method":"tasks/get","params":{"tasKId":"1"}}`, "a key is spelled like taskId but in another case", -32600)
	refused("case variant in _meta", callOf(`"name":"echo","_meta":{"progresstoken":1}`), "a key is spelled like progressToken but in another case", -32600)
	completion := func(ref string) string {
		return `{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{` + ref + `"argument":{"name":"a","value":""}}}`
	}
	refused("case variant in a completion's ref", completion(`"ref":{"type":"ref/prompt","name":"echo","Name":"risky"},`), "a key is spelled like name but in another case", -32600)
	listen := func(filter string) string { return modern("subscriptions/listen", `"notifications":`+filter+`,`) }
	listening := mirrored("subscriptions/listen", "")
	edited("case variant in a subscription", listen(`{"resourceSubscriptions":["x:a"],"ResourceSubscriptions":["x:b"]}`), "a key is spelled like resourceSubscriptions but in another case", -32600, listening)
	refused("arguments that differ in case only", with(`"sql":"a","SQL":"b"`), "two arguments differ only in upper and lower case", -32700)
	refused("arguments that differ in a folded letter only", with(`"mask":"a","maſk":"b"`), "two arguments differ only in upper and lower case", -32700)
	refused("invalid UTF-8", "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"ec\xffho\"}}", "a string is not valid UTF-8", -32700)
	refused("invalid UTF-8 in an unknown member", "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"x\":\"\xc0\xaf\"}", "a string is not valid UTF-8", -32700)
	refused("a surrogate in UTF-8", with("\"a\":\"\xed\xa0\x80\""), "a string is not valid UTF-8", -32700)
	refused("unpaired surrogate", with(`"a":"\ud800"`), "a string has an unpaired surrogate", -32700)
	refused("surrogates the wrong way round", with(`"a":"\udc00\ud800"`), "a string has an unpaired surrogate", -32700)
	refused("unpaired surrogate in a key", with(`"\udfff":1`), "a string has an unpaired surrogate", -32700)
	refused("NUL in the tool's name", callOf(`"name":"echo\u0000"`), "a name of the protocol contains U+0000", -32600)
	refused("NUL in the method", `{"jsonrpc":"2.0","id":1,"method":"ping\u0000tools/call"}`, "a name of the protocol contains U+0000", -32600)
	refused("NUL in an argument", with(`"sql":"a\u0000b"`), "a string that policy sees contains U+0000", -32700)
	refused("NUL in an argument's name", with(`"sql\u0000":"a"`), "a string that policy sees contains U+0000", -32700)
	refused("a raw NUL", "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\x00\"}", "a string has an unescaped control character", -32700)

	group = "Texts that are not one JSON message"
	const object = "a message must be a JSON object (at byte 0)"
	refused("a batch", `[`+echo+`]`, "batches are not served: send one message at a time (at byte 0)", -32600)
	refused("an empty batch", ` []`, "batches are not served: send one message at a time (at byte 1)", -32600)
	refused("trailing data", echo+` {"more":1}`, "data after the end of the message", -32700)
	refused("two messages", echo+"\n"+echo, "data after the end of the message", -32700)
	refused("NUL behind the message", echo+"\x00", "data after the end of the message", -32700)
	refused("a byte order mark", "\xef\xbb\xbf"+echo, object, -32700)
	refused("UTF-16", "\xff\xfe{\x00}\x00", object, -32700)
	refused("nothing", ``, object, -32700)
	refused("no JSON", `hello`, object, -32700)
	refused("a string", `"ping"`, object, -32700)
	refused("cut off", echo[:len(echo)-4], "a string does not end", -32700)
	refused("a comment", `{"jsonrpc":"2.0",/* */"id":1,"method":"ping"}`, "an object key was expected", -32700)
	refused("a comma at the end", `{"jsonrpc":"2.0","id":1,"method":"ping",}`, "an object key was expected", -32700)
	refused("single quotes", `{'jsonrpc':"2.0"}`, "an object key was expected", -32700)
	refused("NaN", with(`"n":NaN`), "a JSON value was expected", -32700)
	refused("a number with a leading zero", with(`"n":01`), "a comma or the end of the object was expected", -32700)
	refused("a number with a plus", with(`"n":+1`), "a JSON value was expected", -32700)
	refused("an unknown escape", with(`"a":"\x41"`), "a string has an unknown escape", -32700)
	refused("a raw line break in a string", with("\"a\":\"1\n2\""), "a string has an unescaped control character", -32700)
	refused("a vertical tab between tokens", "{\"jsonrpc\":\v\"2.0\"}", "a JSON value was expected", -32700)
	refused("deep nesting", with(`"a":`+strings.Repeat("[", 200)+strings.Repeat("]", 200)), "nested too deeply", -32700)
	refused("deep nesting, a million", with(`"a":`+strings.Repeat("[", 1_000_000)), "nested too deeply", -32700)

	group = "JSON that is not MCP"
	refused("another protocol", `{"id":1,"method":"ping"}`, `jsonrpc must be "2.0"`, -32600)
	refused("another version", `{"jsonrpc":"1.0","id":1,"method":"ping"}`, `jsonrpc must be "2.0"`, -32600)
	refused("the version as a number", `{"jsonrpc":2.0,"id":1,"method":"ping"}`, `jsonrpc must be "2.0"`, -32600)
	const id = "id must be a string or an integer, of at most 1024 bytes"
	refused("an id that is a fraction", `{"jsonrpc":"2.0","id":1.0,"method":"ping"}`, id, -32600)
	refused("an id that is minus zero", `{"jsonrpc":"2.0","id":-0,"method":"ping"}`, id, -32600)
	refused("an id that is an object", `{"jsonrpc":"2.0","id":{},"method":"ping"}`, id, -32600)
	refused("an id of a megabyte", `{"jsonrpc":"2.0","id":"`+strings.Repeat("1", 1<<20)+`","method":"ping"}`, id, -32600)
	refused("an id that is null", `{"jsonrpc":"2.0","id":null,"method":"ping"}`, "id must not be null", -32600)
	refused("no method", `{"jsonrpc":"2.0","id":1}`, "a message needs a method, or else either a result or an error", -32600)
	refused("an empty method", `{"jsonrpc":"2.0","id":1,"method":""}`, "method must be a string that is not empty", -32600)
	refused("a method that is a list", `{"jsonrpc":"2.0","id":1,"method":["ping"]}`, "method must be a string that is not empty", -32600)
	refused("method and result", `{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}`, "a message has both a method and a result or error", -32600)
	refused("result and error", `{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":""}}`, "a message needs a method, or else either a result or an error", -32600)
	refused("a result without an id", `{"jsonrpc":"2.0","result":{}}`, "a result needs an id", -32600)
	refused("a response with params", `{"jsonrpc":"2.0","id":1,"result":{},"params":{}}`, "a response has no params", -32600)
	refused("params that are a list", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":["echo"]}`, "params must be an object", -32600)
	refused("arguments that are a list", callOf(`"name":"echo","arguments":["x"]`), "params.arguments must be an object", -32602)
	refused("arguments in a string", callOf(`"name":"echo","arguments":"{}"`), "params.arguments must be an object", -32602)
	refused("a call without a tool", callOf(`"arguments":{}`), "params.name must be a string that is not empty", -32602)
	refused("a tool that is a number", callOf(`"name":1`), "params.name must be a string that is not empty", -32602)
	refused("a read without a resource", `{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{}}`, "params.uri must be a string that is not empty", -32602)
	refused("a completion of nothing", completion(``), "params.ref must be an object", -32602)
	refused("a completion by params.name", completion(`"name":"echo",`), "params.ref must be an object", -32602)
	refused("a completion of a list", completion(`"ref":["echo"],`), "params.ref must be an object", -32602)
	refused("a completion of another type", completion(`"ref":{"type":"ref/tool","name":"echo"},`), "params.ref.type must be ref/prompt or ref/resource", -32602)
	const prompt = "a ref/prompt must have a name, a string that is not empty, and no uri"
	refused("a completion of a prompt and a resource", completion(`"ref":{"type":"ref/prompt","name":"echo","uri":"x:risky"},`), prompt, -32602)
	refused("a completion of a resource and a prompt", completion(`"ref":{"type":"ref/resource","name":"risky","uri":"x:"},`), "a ref/resource must have a uri, a string that is not empty, and no name", -32602)
	refused("a completion of a prompt whose name is an object", completion(`"ref":{"type":"ref/prompt","name":{"name":"risky"}},`), prompt, -32602)
	edited("a subscription to a list", listen(`[]`), "params.notifications must be an object", -32602, listening)
	const subscriptions = "resourceSubscriptions must be a list of strings that are not empty"
	edited("a subscription to a text", listen(`{"resourceSubscriptions":"x:risky"}`), subscriptions, -32602, listening)
	edited("a subscription to an object", listen(`{"resourceSubscriptions":[{"uri":"x:risky"}]}`), subscriptions, -32602, listening)
	edited("a subscription to 1001 resources", listen(`{"resourceSubscriptions":["x:"`+strings.Repeat(`,"x:"`, 1000)+`]}`), "resourceSubscriptions has more than 1000 elements", -32602, listening)
	refused("_meta that is a list", callOf(`"name":"echo","_meta":[]`), "params._meta must be an object", -32602)
	refused("a protocol version that is a number", callOf(`"name":"echo","_meta":{"io.modelcontextprotocol/protocolVersion":20260728}`), "the protocol version in _meta must be a string", -32602)
	refused("a progress token that is an object", callOf(`"name":"echo","_meta":{"progressToken":{}}`), "progressToken must be a string or an integer", -32602)
	refused("cancelling an object", `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":{}}}`, "params.requestId must be a string or an integer", -32602)

	group = "Bodies by their headers and size"
	contentType := func(name, given, want string) {
		edited(name, echo, `content type "`+given+`": want `+want, -32600, header("Content-Type", given))
	}
	contentType("not JSON by its content type", "text/plain", "application/json")
	contentType("a form", "application/x-www-form-urlencoded", "application/json")
	contentType("almost JSON", "application/json-patch+json", "application/json")
	contentType("another JSON", "text/json", "application/json")
	contentType("no content type", "", "application/json")
	contentType("a broken content type", "application/json; charset", "application/json")
	contentType("UTF-16 by its content type", "application/json; charset=utf-16", "UTF-8")
	contentType("UTF-7 by its content type", "application/json; charset=UTF-7", "UTF-8")
	edited("two content types", echo, `content type "application/json, text/plain": want application/json`, -32600, header("Content-Type", "application/json", "Content-Type", "text/plain"))
	edited("gzip", zipped(t, echo), `content encoding "gzip": send the body unencoded`, -32600, header("Content-Encoding", "gzip"))
	edited("deflate", echo, `content encoding "deflate": send the body unencoded`, -32600, header("Content-Encoding", "deflate"))
	edited("two content encodings", echo, `content encoding "identity, gzip": send the body unencoded`, -32600, header("Content-Encoding", "identity", "Content-Encoding", "gzip"))
	const large = "the request is larger than 4194304 bytes, the limit of this policy"
	refused("too large", toolCall("echo", strings.Repeat("x", 4<<20)), large, -32600)
	edited("too large, in chunks", toolCall("echo", strings.Repeat("x", 4<<20)), large, -32600, func(r *http.Request) { r.ContentLength = -1 })
	add(hostile{name: "headers of 40 KB", body: echo, edit: header("X-Large", strings.Repeat("x", 40<<10)), status: 431, code: -32600,
		words: "the request's headers are larger than 32768 bytes, the limit of this policy", recorded: "bad-request"})

	group = "Mirrored headers (2026-07-28)"
	mismatch := func(name, body, words string, edit func(*http.Request)) {
		edited(name, body, "Header mismatch: "+words, -32020, edit)
	}
	list, call := modern("tools/list", ""), modern("tools/call", `"name":"echo",`)
	mismatch("without MCP-Protocol-Version", list, "MCP-Protocol-Version is required and missing", mirrored("tools/list", "", "Mcp-Protocol-Version", ""))
	mismatch("without Mcp-Method", list, "Mcp-Method is required and missing", mirrored("tools/list", "", "Mcp-Method", ""))
	mismatch("without Mcp-Name", call, "Mcp-Name is required for this method and missing", mirrored("tools/call", ""))
	const version = "MCP-Protocol-Version differs from io.modelcontextprotocol/protocolVersion in params._meta"
	mismatch("another version in the header", list, version, mirrored("tools/list", "", "Mcp-Protocol-Version", "2027-01-01"))
	mismatch("an older version in the header", list, version, mirrored("tools/list", "", "Mcp-Protocol-Version", "2025-11-25"))
	mismatch("another method in the header", call, "Mcp-Method differs from the body's method", mirrored("tools/list", "echo"))
	mismatch("the method in another case", call, "Mcp-Method differs from the body's method", mirrored("Tools/Call", "echo"))
	mismatch("the method in base64", call, "Mcp-Method differs from the body's method", mirrored("=?base64?dG9vbHMvY2FsbA==?=", "echo"))
	const name = "Mcp-Name differs from the body's name, uri or task id"
	mismatch("another name in the header", modern("tools/call", `"name":"risky",`), name, mirrored("tools/call", "echo"))
	mismatch("another name in base64", modern("tools/call", `"name":"risky",`), name, mirrored("tools/call", "=?base64?ZWNobw==?="))
	mismatch("another resource", modern("resources/read", `"uri":"file:///etc/passwd",`), name, mirrored("resources/read", "file:///tmp/a"))
	mismatch("another prompt", modern("prompts/get", `"name":"p",`), name, mirrored("prompts/get", "q"))
	mismatch("another task", modern("tasks/get", `"taskId":"1",`), name, mirrored("tasks/get", "2"))
	mismatch("a name for nothing", list, name, mirrored("tools/list", "echo"))
	mismatch("the marks in another case", call, name, mirrored("tools/call", "=?BASE64?ZWNobw==?="))
	const base64 = "Mcp-Name is not valid base64 of UTF-8 text"
	mismatch("base64 without padding", call, base64, mirrored("tools/call", "=?base64?ZWNobw?="))
	mismatch("base64 with bits to spare", call, base64, mirrored("tools/call", "=?base64?ZWNobx==?="))
	mismatch("base64 of another alphabet", call, base64, mirrored("tools/call", "=?base64?_-__?="))
	mismatch("base64 of no UTF-8", call, base64, mirrored("tools/call", "=?base64?/w==?="))
	mismatch("two Mcp-Name headers", call, "Mcp-Name is there more than once", mirrored("tools/call", "echo", "Mcp-Name", "echo", "Mcp-Name", "risky"))
	mismatch("two Mcp-Method headers", call, "Mcp-Method is there more than once", mirrored("tools/call", "echo", "Mcp-Method", "tools/call", "Mcp-Method", "tools/list"))
	mismatch("two versions", call, "Mcp-Protocol-Version is there more than once", mirrored("tools/call", "echo", "Mcp-Protocol-Version", "2026-07-28", "Mcp-Protocol-Version", "2025-11-25"))
	mismatch("a name outside ASCII", modern("tools/call", `"name":"é",`), "Mcp-Name contains characters that a header may not", mirrored("tools/call", "é"))
	mismatch("a legacy call that names another tool", echo, name, header("Mcp-Name", "risky"))
	edited("modern by its header only", echo, "io.modelcontextprotocol/protocolVersion is required in params._meta and missing", -32602, mirrored("tools/call", "echo"))

	group = "Where and by whom"
	forbidden := func(name, words string, edit func(*http.Request)) {
		add(hostile{name: name, body: echo, edit: edit, status: 403, code: -32000, words: words, recorded: "forbidden"})
	}
	host := func(name, host string) {
		forbidden(name, `host "`+host+`" is not served here: use `+s.URL, func(r *http.Request) { r.Host = host })
	}
	origin := func(name, origin string) {
		forbidden(name, `origin "`+origin+`" may not call this server`, header("Origin", origin))
	}
	port := s.URL[strings.LastIndex(s.URL, ":"):]
	host("foreign Host", "evil.example")
	host("a Host that resolves to this machine", "localhost"+port)
	host("Host without the port", "127.0.0.1")
	host("Host with another port", "127.0.0.1:1")
	origin("foreign Origin", "https://evil.example")
	origin("Origin null", "null")
	origin("Origin of another scheme", "https://127.0.0.1"+port)
	origin("Origin that begins like ours", s.URL+".evil.example")
	forbidden("Origin with our name as its user", "[masked: url-credentials]@evil.example\" may not call this server", header("Origin", "http://127.0.0.1"+port+"@evil.example"))
	forbidden("two Origins, one of them ours", `origin "https://evil.example" may not call this server`, header("Origin", s.URL, "Origin", "https://evil.example"))
	for _, method := range []string{http.MethodPut, http.MethodPatch, http.MethodOptions, "PROPFIND"} {
		add(hostile{name: "the method " + method, body: echo, edit: func(r *http.Request) { r.Method = method }, status: 405, code: -32000,
			words: "method " + method + " is not served on an MCP endpoint", recorded: "bad-request"})
	}
	add(hostile{name: "unknown server", server: "elsewhere", body: echo, status: 404, code: -32000, words: `no server named "elsewhere"`, recorded: "no-server"})
	add(hostile{name: "a server's name in another case", server: "Probe", body: echo, status: 404, code: -32000, words: `no server named "Probe"`, recorded: "no-server"})

	group = "Sessions and streams"
	unknown := func(name, token, body string, edit func(*http.Request)) {
		add(hostile{name: name, token: token, body: body, edit: edit, status: 404, code: -32000, words: "this session is unknown: initialize again", recorded: "no-session"})
	}
	as := func(method string, kv ...string) func(*http.Request) {
		return func(r *http.Request) { r.Method = method; header(kv...)(r) }
	}
	unknown("another caller's session", mallory, echo, header("Mcp-Session-Id", session))
	unknown("an invented session", "", echo, header("Mcp-Session-Id", "session-of-nobody"))
	unknown("another caller's stream", mallory, "", as("GET", "Mcp-Session-Id", session))
	unknown("resuming another caller's stream", mallory, "", as("GET", "Mcp-Session-Id", session, "Last-Event-Id", "1"))
	unknown("ending another caller's session", mallory, "", as("DELETE", "Mcp-Session-Id", session))
	edited("two sessions", echo, "the header Mcp-Session-Id is there more than once", -32600, header("Mcp-Session-Id", session, "Mcp-Session-Id", "s2"))
	edited("ending no session", "", "there is no session to end: Mcp-Session-Id is missing", -32600, as("DELETE"))
	edited("resuming without a session", "", "a stream can be resumed within a session only: Mcp-Session-Id is missing", -32600, as("GET", "Last-Event-Id", "1"))
	edited("two places to resume at", "", "the header Last-Event-Id is there more than once", -32600, as("GET", "Mcp-Session-Id", session, "Last-Event-Id", "1", "Last-Event-Id", "2"))
	for _, method := range []string{"GET", "DELETE"} {
		add(hostile{name: "a " + method + " of 2026-07-28", edit: as(method, "Mcp-Protocol-Version", "2026-07-28"), status: 405, code: -32000,
			words: "this revision of MCP has no " + method + ": use subscriptions/listen", recorded: "bad-request"})
	}

	group = "Tokens"
	unauthenticated := func(h hostile) {
		h.body, h.status, h.code, h.words = echo, 401, -32000, "a valid bearer token for this resource is needed"
		h.kind, h.recorded = audit.KindAuthFailed, "unauthenticated"
		add(h)
	}
	token := func(name, token string) { unauthenticated(hostile{name: name, token: token}) }
	mint := func(claims issuer.Claims, head map[string]any) string {
		return minted(t, s.Issuer, s.URL, claims, head)
	}
	token("no token", "-")
	token("garbage", "garbage")
	token("three parts of garbage", "a.b.c")
	token("a token of 40 KB", strings.Repeat("a", 40<<10))
	token("wrong audience", mint(issuer.Claims{"aud": "https://elsewhere.example"}, nil))
	token("no audience", mint(issuer.Claims{"aud": nil}, nil))
	token("expired", mint(issuer.Claims{"exp": time.Now().Add(-time.Minute).Unix()}, nil))
	token("no expiry", mint(issuer.Claims{"exp": nil}, nil))
	token("not valid yet", mint(issuer.Claims{"nbf": time.Now().Add(time.Hour).Unix()}, nil))
	token("no signature", unsigned(mint(nil, nil)))
	token("HS256 under the public key's name", hs256(mint(nil, nil)))
	token("signature of other claims", spliced(mint(nil, nil), mint(issuer.Claims{"sub": "bob"}, nil)))
	token("a foreign issuer", foreign(t, s.URL, ""))
	token("a foreign key under our issuer's name", foreign(t, s.URL, s.Issuer.URL))
	token("no subject", mint(issuer.Claims{"sub": nil}, nil))
	token("a logout token", mint(nil, map[string]any{"typ": "logout+jwt"}))
	unauthenticated(hostile{name: "two Authorization headers", edit: func(r *http.Request) { r.Header.Add("Authorization", "Bearer "+mallory) }})
	unauthenticated(hostile{name: "another scheme", edit: header("Authorization", "Basic YWxpY2U6YWxpY2U=")})
	unauthenticated(hostile{name: "the token in the query", token: "-", edit: func(r *http.Request) { r.URL.RawQuery = "access_token=" + mallory }})
	return rows
}

// manyKeys are n members, k0 to kn.
func manyKeys(n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `"k%d":0`, i)
	}
	return b.String()
}
