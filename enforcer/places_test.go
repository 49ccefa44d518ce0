package enforcer

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// secretValue is what must not come through: with what JSON escapes.
const secretValue = `A1a"xT7qB2mZ9\pKc4wVn`

const (
	legacy = "2025-11-25"
	modern = "2026-07-28"
)

// place is somewhere in what a server sends.
type place struct {
	name   string
	method string // of the client's request; GET for the stream
	params string // of it, without braces; ${P} is the server's prefix at /mcp
	mirror string // what Mcp-Name carries
	era    string // the only one that has it; "" for both
	stream bool   // in event streams only
	single bool   // at /mcp/<server> only: /mcp answers that by itself

	encode  func(string) string           // how the value stands there; nil: as it is
	message func(pieces []string) string  // with the pieces, JSON strings, in it; ${ID} is the request's id
	before  bool                          // the message is not the answer: it comes before it
	event   func(pieces []string) string  // lines beside the data of the answer's event; plain pieces
	headers func(http.Header, []string)   // of the HTTP response; plain pieces
	raw     func(http.ResponseWriter) int // an answer that is no message: content type and status; the body is the value
	coded   bool                          // at /mcp, the mask is shown in base64
	blocked bool                          // the answer is withheld whole
	apart   bool                          // is masked if whole, and blocked if in pieces
}

// each repeats a text for each piece, with commas.
func each(pieces []string, format string) string {
	var parts []string
	for i, p := range pieces {
		parts = append(parts, strings.NewReplacer("%s", p, "%d", fmt.Sprint(i)).Replace(format))
	}
	return strings.Join(parts, ",\v") // white space may stand here
}

// result is a complete answer of both eras with such members.
func result(format string) func([]string) string {
	return func(pieces []string) string {
		return `{"jsonrpc":"2.0","id":${ID},"result":{"resultType":"complete",` + strings.ReplaceAll(format, "${EACH}", each(pieces, "%s")) + `}}`
	}
}

// of is a complete answer with an element for each piece.
func of(before, element, after string) func([]string) string {
	return func(pieces []string) string {
		return `{"jsonrpc":"2.0","id":${ID},"result":{"resultType":"complete",` + before + each(pieces, element) + after + `}}`
	}
}

func message(format string) func([]string) string {
	return func(pieces []string) string {
		return strings.NewReplacer("${EACH}", each(pieces, "%s"), "${FIRST}", pieces[0], "${REST}", each(pieces[1:], "%s")).Replace(format)
	}
}

const callParams = `"name":"${P}tool","arguments":{}`

// places is all that a server can put a secret into.
func places() []place {
	b64 := func(v string) string {
		return base64.StdEncoding.EncodeToString([]byte("some user:" + v + ", and more"))
	}
	inText := func(v string) string { b, _ := json.Marshal(map[string]string{"password": v}); return string(b) }
	call := place{method: "tools/call", params: callParams, mirror: "${P}tool"}
	prompt := place{method: "prompts/get", params: `"name":"${P}plan"`, mirror: "${P}plan"}
	read := place{method: "resources/read", params: `"uri":"${U}x:y"`, mirror: "${U}x:y"}
	with := func(p place, name string, m func([]string) string, edit ...func(*place)) place {
		p.name, p.message = name, m
		for _, f := range edit {
			f(&p)
		}
		return p
	}
	encoded := func(f func(string) string) func(*place) { return func(p *place) { p.encode = f } }
	early := func(p *place) { p.before, p.stream = true, true }
	only := func(era string) func(*place) { return func(p *place) { p.era = era } }
	at := func(method, params, mirror string) place {
		return place{method: method, params: params, mirror: mirror}
	}
	alone := func(p *place) { p.single = true }
	beside := func(name string, f func([]string) string, edit ...func(*place)) place {
		return with(call, name, nil, append(edit, func(p *place) { p.event, p.stream, p.apart = f, true, true })...)
	}
	lines := func(field string) func([]string) string {
		return func(pieces []string) string { return field + strings.Join(pieces, "\n"+field) + "\n" }
	}
	heads := func(name string, blocked bool, f func(http.Header, []string)) place {
		return with(call, name, nil, func(p *place) { p.headers, p.blocked = f, blocked })
	}
	return []place{
		with(call, "text", of(`"content":[`, `{"type":"text","text":%s}`, `]`)),
		with(call, "text with annotations", of(`"content":[`, `{"type":"text","annotations":{"audience":["user"]},"text":%s}`, `]`)),
		with(call, "JSON in text", of(`"content":[`, `{"type":"text","text":%s}`, `]`), encoded(inText)),
		with(call, "text of a failed tool", of(`"isError":true,"content":[`, `{"type":"text","text":%s}`, `]`)),
		with(call, "structuredContent", result(`"content":[],"structuredContent":{"rows":[${EACH}]}`)),
		with(call, "a column of structuredContent", of(`"content":[],"structuredContent":{"rows":[`, `{"id":"%d","v":%s,"w":null}`, `]}`)),
		with(call, "object keys", of(`"content":[],"structuredContent":{`, `%s:%d`, `}`)),
		with(call, "embedded resource.text", of(`"content":[`, `{"type":"resource","resource":{"uri":"x:%d","text":%s}}`, `]`)),
		with(call, "embedded resource.blob", of(`"content":[`, `{"type":"resource","resource":{"uri":"x:%d","blob":%s}}`, `]`), encoded(b64)),
		with(call, "image data", of(`"content":[`, `{"type":"image","mimeType":"image/png","data":%s}`, `]`), encoded(b64)),
		with(call, "audio data", of(`"content":[`, `{"type":"audio","mimeType":"audio/wav","data":%s}`, `]`), encoded(b64)),
		with(call, "description of a resource link", of(`"content":[`, `{"type":"resource_link","uri":"x:%d","name":"n","description":%s}`, `]`)),
		with(call, "URI of a resource link", of(`"content":[`, `{"type":"resource_link","name":"n","uri":%s}`, `]`)),
		with(call, "_meta of a result", result(`"content":[],"_meta":{"x/y":[${EACH}]}`)),
		with(call, "_meta of a content block", of(`"content":[`, `{"type":"text","text":"t","_meta":{"k":%s}}`, `]`)),
		with(call, "unknown members", result(`"content":[],"vendor":{"a":[[${EACH}]]}`)),
		with(call, "message of an error", message(`{"jsonrpc":"2.0","id":${ID},"error":{"code":-32000,"message":${FIRST},"data":[${REST}]}}`)),
		with(call, "data of an error", message(`{"jsonrpc":"2.0","id":${ID},"error":{"code":-32000,"message":"no","data":{"x":[${EACH}]}}}`)),
		with(call, "elicitations of an error", message(`{"jsonrpc":"2.0","id":${ID},"error":{"code":-32042,"message":"open","data":{"elicitations":[{"mode":"url","elicitationId":"1","url":"https://pay.example/","message":${FIRST},"x":[${REST}]}]}}}`)),
		with(call, "input_required", message(`{"jsonrpc":"2.0","id":${ID},"result":{"resultType":"input_required","inputRequests":{"a":{"method":"elicitation/create","params":{"message":${FIRST},"x":[${REST}]}}},"requestState":"s"}}`), only(modern)),
		with(call, "requestState", message(`{"jsonrpc":"2.0","id":${ID},"result":{"resultType":"input_required","inputRequests":{},"requestState":${FIRST},"x":[${REST}]}}`), only(modern)),
		with(call, "a task", message(`{"jsonrpc":"2.0","id":${ID},"result":{"resultType":"task","taskId":"t1","status":"working","statusMessage":${FIRST},"x":[${REST}]}}`), only(modern)),
		with(at("tasks/get", `"taskId":"${P}t1"`, "${P}t1"), "status of a task", message(`{"jsonrpc":"2.0","id":${ID},"result":{"resultType":"complete","taskId":"t1","status":"failed","statusMessage":${FIRST},"x":[${REST}]}}`)),
		with(at("tasks/get", `"taskId":"${P}t1"`, "${P}t1"), "result of a task", of(`"taskId":"t1","status":"completed","result":{"content":[`, `{"type":"text","text":%s}`, `]}`)),
		with(call, "notification of a task", message(`{"jsonrpc":"2.0","method":"notifications/tasks","params":{"taskId":"t1","status":"working","statusMessage":${FIRST},"x":[${REST}]}}`), early),
		with(prompt, "messages of a prompt", of(`"messages":[`, `{"role":"user","content":{"type":"text","text":%s}}`, `]`)),
		with(prompt, "description of a prompt", message(`{"jsonrpc":"2.0","id":${ID},"result":{"resultType":"complete","description":${FIRST},"messages":[],"x":[${REST}]}}`)),
		with(read, "text of a resource", of(`"contents":[`, `{"uri":"x:%d","text":%s}`, `]`)),
		with(read, "blob of a resource", of(`"contents":[`, `{"uri":"x:%d","blob":%s}`, `]`), encoded(b64)),
		with(at("completion/complete", `"ref":{"type":"ref/prompt","name":"${P}plan"},"argument":{"name":"n","value":"p"}`, ""), "completion", result(`"completion":{"values":[${EACH}]}`)),
		with(at("tools/list", "", ""), "description of a tool", of(`"tools":[`, `{"name":"t%d","description":%s,"inputSchema":{"type":"object"}}`, `]`)),
		with(at("tools/list", "", ""), "schema of a tool", result(`"tools":[{"name":"t","inputSchema":{"type":"object","properties":{"a":{"enum":[${EACH}]}}}}]`)),
		with(at("tools/list", "", ""), "default in a schema", of(`"tools":[{"name":"t","inputSchema":{"type":"object","properties":{`, `"p%d":{"default":%s}`, `}}}]`)),
		with(at("tools/list", "", ""), "annotations of a tool", of(`"tools":[`, `{"name":"t%d","annotations":{"title":%s},"inputSchema":{"type":"object"}}`, `]`)),
		with(at("tools/list", "", ""), "cursor of a list", message(`{"jsonrpc":"2.0","id":${ID},"result":{"resultType":"complete","nextCursor":${FIRST},"x":[${REST}],"tools":[]}}`), alone),
		with(at("prompts/list", "", ""), "description in a list of prompts", of(`"prompts":[`, `{"name":"p%d","description":%s}`, `]`)),
		with(at("resources/list", "", ""), "name in a list of resources", of(`"resources":[`, `{"uri":"x:%d","name":%s}`, `]`)),
		with(at("resources/templates/list", "", ""), "description of a resource template", of(`"resourceTemplates":[`, `{"uriTemplate":"x:{%d}","name":"n","description":%s}`, `]`)),
		with(at("vendor/unknown", "", ""), "answer to an unknown method", result(`"any":[${EACH}]`), alone),
		with(at("initialize", `"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}`, ""), "instructions of initialize",
			message(`{"jsonrpc":"2.0","id":${ID},"result":{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"s","version":"1"},"instructions":${FIRST},"x":[${REST}]}}`), only(legacy), alone),
		with(at("server/discover", "", ""), "instructions of server/discover",
			message(`{"jsonrpc":"2.0","id":${ID},"result":{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{},"instructions":${FIRST},"x":[${REST}]}}`), only(modern), alone),

		with(call, "log message", message(`{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":[${EACH}]}}`), early),
		with(call, "progress message", message(`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1,"message":${FIRST},"x":[${REST}]}}`), early),
		with(call, "unknown notification", message(`{"jsonrpc":"2.0","method":"notifications/vendor","params":{"x":[${EACH}]}}`), early),
		with(call, "sampling request", message(`{"jsonrpc":"2.0","id":"s1","method":"sampling/createMessage","params":{"messages":[{"role":"user","content":{"type":"text","text":${FIRST}}}],"x":[${REST}]}}`), early, only(legacy)),
		with(call, "elicitation request", message(`{"jsonrpc":"2.0","id":"s1","method":"elicitation/create","params":{"message":${FIRST},"requestedSchema":{"x":[${REST}],"type":"object"}}}`), early, only(legacy)),
		with(call, "id of a server's request", message(`{"jsonrpc":"2.0","method":"roots/list","id":${FIRST},"params":{"x":[${REST}]}}`), early, only(legacy), func(p *place) { p.coded = true }),

		beside("comment of the stream", lines(": ")),
		beside("id of an event", lines("id: ")),
		beside("name of an event", lines("event: ")),
		beside("unknown field of an event", lines("")),
		heads("headers of the protocol", true, func(h http.Header, pieces []string) {
			for i, p := range pieces {
				h.Add([]string{"Mcp-Protocol-Version", "Cache-Control", "Retry-After"}[min(i, 2)], p)
			}
		}),
		heads("session id", true, func(h http.Header, pieces []string) {
			h.Set("Mcp-Session-Id", strings.Join(pieces, ""))
		}),
		heads("other headers", false, func(h http.Header, pieces []string) {
			for _, name := range []string{"Set-Cookie", "X-Secret", "Www-Authenticate", "Location", "Link", "Server"} {
				h.Set(name, strings.Join(pieces, ""))
			}
		}),
		with(call, "an error page", nil, func(p *place) {
			p.blocked = true
			p.raw = func(w http.ResponseWriter) int {
				w.Header().Set("Content-Type", "text/html")
				return http.StatusBadGateway
			}
		}),
		with(call, "no JSON", nil, func(p *place) {
			p.blocked = true
			p.raw = func(w http.ResponseWriter) int {
				w.Header().Set("Content-Type", "application/json")
				return http.StatusOK
			}
		}),
		with(call, "the key of the envelope twice", message(`{"jsonrpc":"2.0","id":${ID},"result":{"a":[${EACH}]},"result":{}}`), func(p *place) { p.blocked = true }),

		with(at(http.MethodGet, "", ""), "event of the session's stream", message(`{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":[${EACH}]}}`), early, only(legacy)),
		with(at(http.MethodGet+" again", "", ""), "replayed event", message(`{"jsonrpc":"2.0","id":77,"result":{"content":[{"type":"text","text":${FIRST}}],"x":[${REST}]}}`), early, only(legacy), alone),
		with(at("subscriptions/listen", `"notifications":{"toolsListChanged":true}`, ""), "event of a subscription", message(`{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":${ID},"x":[${EACH}]}}}`), early, only(modern)),
	}
}
