package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"countersign/audit"
)

// hostileAnswer is what a server answers to an honest call, as docs/strictness.md
// lists it. Nothing of it must reach the client, who reads words instead.
type hostileAnswer struct {
	name   string
	answer func(w http.ResponseWriter, id string)
	stream bool // a stream has begun: the words come as its last event

	code     int // of the JSON-RPC error; 0 where the honest answer goes through, without what stood beside it
	words    string
	recorded string // status of the outcome
}

// inner stands in every hostile answer, and must never come out.
const inner = "hunter2-inside"

const (
	unreadable = "the upstream server's answer is blocked, since it cannot be read safely: "
	blocked    = "the upstream server's answer is blocked: "
)

func hostileAnswers(elsewhere string) []hostileAnswer {
	var rows []hostileAnswer
	add := func(name string, code int, words, recorded string, answer func(w http.ResponseWriter, id string)) {
		rows = append(rows, hostileAnswer{name: name, code: code, words: words, recorded: recorded, answer: answer})
	}
	withHeader := func(status int, body string, kv ...string) func(http.ResponseWriter, string) {
		return func(w http.ResponseWriter, id string) {
			for i := 0; i < len(kv); i += 2 {
				w.Header().Add(kv[i], kv[i+1])
			}
			w.WriteHeader(status)
			fmt.Fprint(w, strings.NewReplacer("${ID}", id, "${INNER}", inner).Replace(body))
		}
	}
	const result = `"result":{"content":[{"type":"text","text":"${INNER}"}]}`
	const whole = `{"jsonrpc":"2.0","id":${ID},` + result + `}`
	body := func(name, text, words string) {
		add(name, -32603, words, "blocked", withHeader(200, text, "Content-Type", "application/json"))
	}
	stream := func(name, text, words string, code int) {
		add(name, code, words, "blocked", withHeader(200, text, "Content-Type", "text/event-stream"))
		rows[len(rows)-1].stream = true
	}

	encoded := blocked + "the server sent a compressed or otherwise encoded answer: content encoding "
	add("gzip", -32603, encoded+"gzip, though identity was asked for", "blocked", withHeader(200, "\x1f\x8b${INNER}", "Content-Type", "application/json", "Content-Encoding", "gzip"))
	add("deflate, as a stream", -32603, encoded+"deflate, though identity was asked for", "blocked", withHeader(200, "data: ${INNER}\n\n", "Content-Type", "text/event-stream", "Content-Encoding", "deflate"))
	add("two encodings", -32603, encoded+"identity,br, though identity was asked for", "blocked", withHeader(200, whole, "Content-Type", "application/json", "Content-Encoding", "identity", "Content-Encoding", "br"))
	add("a redirect", -32603, blocked+"the server's answer is not MCP: HTTP status 307, a redirect, which is not followed: put the final URL into the policy", "blocked",
		withHeader(307, whole, "Content-Type", "application/json", "Location", elsewhere))
	notMCP := func(name string, status int, kind string) {
		add(name, -32603, fmt.Sprintf(blocked+"the server's answer is not MCP: HTTP status %d with content type %s, where JSON or an event stream was expected", status, kind), "blocked",
			withHeader(status, whole, "Content-Type", kind))
	}
	notMCP("HTML", 200, "text/html")
	notMCP("an error page", 502, "text/html; charset=utf-8")
	notMCP("JSON as text", 200, "text/plain")
	notMCP("an attachment", 200, "application/octet-stream")
	notMCP("a login page", 401, "text/html")
	add("nothing", -32603, "the upstream server answered a request with nothing (status 202)", "error", withHeader(202, ""))
	add("101 Switching Protocols", -32603, blocked+"the server's answer is not MCP: HTTP status 101", "blocked", func(w http.ResponseWriter, _ string) {
		raw(w, "HTTP/1.1 101 Switching Protocols\r\nContent-Type: application/json\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"+inner)
	})
	add("103 Early Hints before the answer", 0, "ran echo", "ok", func(w http.ResponseWriter, id string) {
		raw(w, "HTTP/1.1 103 Early Hints\r\nLink: <"+inner+">\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: application/json\r\nSet-Cookie: "+inner+"\r\nConnection: close\r\n\r\n"+
			`{"jsonrpc":"2.0","id":`+id+`,"result":{"content":[{"type":"text","text":"ran echo"}]}}`)
	})
	add("1xx without end", -32603, "the upstream server failed; whether the call ran is not known: ", "error", func(w http.ResponseWriter, _ string) {
		raw(w, strings.Repeat("HTTP/1.1 102 Processing\r\nX-Inner: "+inner+"\r\n\r\n", 20_000))
	})
	add("headers of 100 KB", -32603, "the upstream server failed; whether the call ran is not known: ", "error", withHeader(200, whole, "Content-Type", "application/json", "X-Large", strings.Repeat("x", 100<<10)))
	add("fewer bytes than announced", -32603, "the upstream server failed; whether the call ran is not known: the MCP server is not running or did not answer: the connection ended in the middle of an answer", "error",
		func(w http.ResponseWriter, id string) {
			raw(w, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n\r\n"+`{"jsonrpc":"2.0","id":`+id+`,"result":{"x":"`+inner)
		})
	add("both Content-Length and Transfer-Encoding", 0, "ran echo", "ok", func(w http.ResponseWriter, id string) {
		text := `{"jsonrpc":"2.0","id":` + id + `,"result":{"content":[{"type":"text","text":"ran echo"}]}}`
		raw(w, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n%s", len(text), text, inner))
	})
	add("two lengths that differ", -32603, "the upstream server failed; whether the call ran is not known: ", "error", func(w http.ResponseWriter, id string) {
		raw(w, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 3\r\nContent-Length: 90\r\n\r\n"+inner)
	})

	body("no JSON", "${INNER}", unreadable+"a message must be a JSON object (at byte 0)")
	body("a batch", "["+whole+"]", unreadable+"batches are not served: send one message at a time (at byte 0)")
	body("trailing data", whole+"${INNER}", unreadable+"data after the end of the message")
	body("a byte order mark", "\xef\xbb\xbf"+whole, unreadable+"a message must be a JSON object (at byte 0)")
	body("a duplicate key", `{"jsonrpc":"2.0","id":${ID},"result":{"a":"${INNER}","a":1}}`, unreadable+"an object has the same key twice")
	body("a duplicate result", `{"jsonrpc":"2.0","id":${ID},`+result+`,"result":{}}`, unreadable+"an object has the same key twice")
	body("a case variant", `{"jsonrpc":"2.0","id":${ID},"Result":{"a":"${INNER}"},"result":{}}`, unreadable+"a key is spelled like result but in another case")
	body("invalid UTF-8", `{"jsonrpc":"2.0","id":${ID},"result":{"a":"${INNER}`+"\xff"+`"}}`, unreadable+"a string is not valid UTF-8")
	body("deep nesting", `{"jsonrpc":"2.0","id":${ID},"result":{"a":"${INNER}","b":`+strings.Repeat("[", 1000)+strings.Repeat("]", 1000)+`}}`, unreadable+"nested too deeply")
	body("result and error", `{"jsonrpc":"2.0","id":${ID},`+result+`,"error":{"code":1,"message":""}}`, unreadable+"a message needs a method, or else either a result or an error")
	body("a request for an answer", `{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage","params":{"x":"${INNER}"}}`, blocked+"not a JSON-RPC response")
	body("a notification for an answer", `{"jsonrpc":"2.0","method":"notifications/message","params":{"x":"${INNER}"}}`, blocked+"not a JSON-RPC response")
	body("the answer to another call", `{"jsonrpc":"2.0","id":999,`+result+`}`, blocked+"it is not the answer to this request")
	body("the id as a string", `{"jsonrpc":"2.0","id":"${ID}",`+result+`}`, blocked+"it is not the answer to this request")
	body("larger than the limit", `{"jsonrpc":"2.0","id":${ID},"result":{"a":"${INNER}`+strings.Repeat("x", 8<<20)+`"}}`, blocked+"the server's answer is too large: more than 8388608 bytes")
	body("it asks for input, and no rule allows it", `{"jsonrpc":"2.0","id":${ID},"result":{"resultType":"input_required","inputRequests":{"a":{"method":"elicitation/create","params":{"message":"${INNER}"}}}}}`,
		"refused by the client's gateway: the server asks the client for elicitation/create")
	rows[len(rows)-1].code, rows[len(rows)-1].recorded = 0, "denied"
	const open = `[{"mode":"url","elicitationId":"1","url":"https://evil.example/${INNER}","message":"${INNER}"}]`
	urls := func(name, members string) {
		body(name, `{"jsonrpc":"2.0","id":${ID},"error":{"message":"${INNER}",`+members+`}}`, "refused by the client's gateway: the server asks the client for elicitation/create")
		rows[len(rows)-1].code, rows[len(rows)-1].recorded = 0, "denied"
	}
	urls("an error asks for a URL to be opened, and no rule allows it", `"code":-32042,"data":{"elicitations":`+open+`}`)
	urls("so does one whose code is spelled otherwise", `"code":-3.2042e4,"data":{"elicitations":`+open+`}`)
	urls("so does one in another case", `"code":-32042,"data":{"elicitations":[]},"Data":{"elicitationſ":`+open+`}`)
	body("elicitations that are no list", `{"jsonrpc":"2.0","id":${ID},"error":{"code":-32042,"message":"","data":{"elicitations":{"a":"${INNER}"}}}}`, blocked+"its elicitations are not a list")
	body("inputRequests in another case", `{"jsonrpc":"2.0","id":${ID},"result":{"InputRequests":["${INNER}"]}}`, blocked+"its inputRequests are not an object")

	stream("an event that is no JSON", "data: ${INNER}\n\n", unreadable+"a message must be a JSON object (at byte 0)", -32603)
	stream("a batch, as an event", "data: ["+whole+"]\n\n", unreadable+"batches are not served", -32603)
	stream("the answer to another call, as an event", "data: {\"jsonrpc\":\"2.0\",\"id\":999,"+result+"}\n\n", "the upstream server's stream is blocked: it is not the answer to this request", -32603)
	stream("an event larger than the limit", "data: {\"jsonrpc\":\"2.0\",\"method\":\"x\",\"params\":{\"a\":\"${INNER}"+strings.Repeat("x", 8<<20)+"\"}}\n\n", blocked+"the server's answer is too large: one event has more bytes than the policy's limit", -32603)
	const honest = "data: {\"jsonrpc\":\"2.0\",\"id\":${ID},\"result\":{\"content\":[{\"type\":\"text\",\"text\":\"ran echo\"}]}}\n\n"
	through := func(name, text string) {
		stream(name, text, "ran echo", 0)
		rows[len(rows)-1].recorded = "ok"
	}
	through("a second answer, as an event", honest+"data: "+whole+"\n\n")
	through("a request without permission, before the answer", "data: {\"jsonrpc\":\"2.0\",\"id\":\"s1\",\"method\":\"sampling/createMessage\",\"params\":{\"a\":\"${INNER}\"}}\n\n"+honest)
	through("a notification asks for input, and no rule allows it, before the answer", "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/tasks\",\"params\":{\"taskId\":\"1\",\"status\":\"input_required\",\"inputRequests\":{\"a\":{\"method\":\"elicitation/create\",\"params\":{\"message\":\"${INNER}\"}}}}}\n\n"+honest)
	through("a method of no revision, before the answer", "data: {\"jsonrpc\":\"2.0\",\"id\":\"s2\",\"method\":\"vendor/ask\",\"params\":{\"a\":\"${INNER}\"}}\n\n"+honest)
	return rows
}

// raw writes to the connection itself, and closes it.
func raw(w http.ResponseWriter, text string) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err) // the server's own: its client gets no answer
	}
	// Whoever asked may have seen enough.
	_, _ = io.WriteString(conn, text)
	_ = conn.Close()
}

// What a server answers that cannot be read, or not be trusted, stays inside.
func (p *program) hostileAnswers(t *testing.T, u *probe, token string) {
	defer u.answerWith(nil)
	for _, r := range hostileAnswers(u.url + "/elsewhere") {
		t.Run(r.name, func(t *testing.T) {
			p := p.in(t)
			u.answerWith(func(w http.ResponseWriter, _ *http.Request, id json.RawMessage, method, _ string) bool {
				if method != "tools/call" {
					return false // the refusal of what it asked
				}
				r.answer(w, string(id))
				return true
			})
			before := u.ran("echo")
			a := p.ask("probe", token, toolCall("echo", "x"))
			if a.code != r.code || !strings.Contains(a.text, r.words) || strings.Contains(a.body, inner) || len(a.header["Set-Cookie"]) > 0 {
				t.Errorf("got %d, code %d, %.2000q\nwant code %d, %q", a.status, a.code, a.body, r.code, r.words)
			}
			if a.status != http.StatusOK || r.stream != strings.HasPrefix(a.header.Get("Content-Type"), "text/event-stream") {
				t.Errorf("status %d, %v", a.status, a.header)
			}
			if n := u.ran("echo") - before; n != 1 {
				t.Errorf("the call was made %d times", n)
			}
			if r.code != 0 {
				p.wants(a.record, audit.KindOutcome, r.recorded)
			}
		})
	}
}

// noEffect are headers that some servers and proxies believe.
var noEffect = []struct{ name, value string }{
	{"X-HTTP-Method-Override", "DELETE"}, {"X-HTTP-Method", "DELETE"}, {"X-Method-Override", "GET"},
	{"X-Original-URL", "/mcp/customers"}, {"X-Rewrite-URL", "/mcp/customers"}, {"X-Forwarded-Host", "evil.example"},
	{"X-Forwarded-For", "10.0.0.1"}, {"Forwarded", "for=10.0.0.1;host=evil.example"}, {"X-Real-IP", "10.0.0.1"},
	{"Cookie", "session=1"}, {"Proxy-Authorization", "Basic YTpi"}, {"X-Api-Key", "k"}, {"Accept-Encoding", "gzip"},
	{"TE", "trailers"}, {"Upgrade", "websocket"}, {"Range", "bytes=0-1"}, {"Mcp-Unknown", "x"},
}

// Such headers change nothing, and no server gets to see them.
func (p *program) headersWithoutEffect(t *testing.T, u *probe, token string) {
	defer u.answerWith(nil)
	var method, uri string
	var got http.Header
	u.answerWith(func(_ http.ResponseWriter, r *http.Request, _ json.RawMessage, _, _ string) bool {
		method, uri, got = r.Method, r.RequestURI, r.Header.Clone()
		return false
	})
	a, err := p.send(t.Context(), "probe", token, toolCall("echo", "x"), func(r *http.Request) {
		for _, h := range noEffect {
			r.Header.Set(h.name, h.value)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if a.text != "ran echo" || method != http.MethodPost || uri != "/" {
		t.Errorf("got %q: the server saw %s %s", a.text, method, uri)
	}
	for _, h := range noEffect {
		if v := got.Get(h.name); v != "" && v != "identity" {
			t.Errorf("the server got %s: %s", h.name, v)
		}
	}
	if got.Get("Authorization") != "" {
		t.Error("the server got the caller's token")
	}
	for _, en := range p.entries(func(en audit.Entry) bool { return strings.Contains(string(en.Detail), "10.0.0.1") }) {
		t.Errorf("an address that nobody vouches for stands in the record: %s", en.Detail)
	}
}
