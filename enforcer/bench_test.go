package enforcer

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"countersign/enforcer/upstream"
)

// What a call costs the gate with everything on: a verified token (from its
// cache, as all but the first of a caller), a thousand rules of which five
// apply, a mask that knows three hundred values, intent and outcome durable.
//
// BenchmarkCall leaves the network out, so that allocations can be counted:
// its writer, its request and its server allocate next to nothing, which
// BenchmarkCall/nothing shows. BenchmarkCallOverLoopback is the same with
// client, server and sockets; its allocations are those of all three.

// benchRules are a thousand, five of which look at a call of echo.
func benchRules() string {
	var b strings.Builder
	b.WriteString(`
- { id: echo, server: echo, tool: echo, when: '"support" in subject.groups', effect: allow }
- { id: quiet, server: echo, tool: echo, when: 'has(args.text) && args.text.startsWith("SHOUT")', effect: deny, reason: Nobody shouts }
- { id: short, server: echo, tool: echo, when: 'has(args.text) && size(args.text) > 2000000', effect: deny, reason: Too long }
- { id: batch, server: echo, tool: echo, when: client == "batch", effect: deny, reason: No batches }
- { id: outside, server: "*", tool: "*", when: 'subject.issuer.startsWith("https://outside.example")', effect: deny, reason: Not ours }
`)
	for i := 5; i < 1000; i++ {
		fmt.Fprintf(&b, "- { id: r%d, server: echo, tool: tool-%[1]d, when: 'has(args.n) && args.n < %[1]d', effect: allow }\n", i)
	}
	return b.String()
}

func benchGate(b *testing.B, server http.Handler) *gate {
	g := newGate(b, server, map[string]string{"rules/bench.yaml": benchRules()})
	for i := range 300 {
		if _, err := g.Mask.Add("db", fmt.Sprintf("A1a-%024d-%x", i, i*i)); err != nil {
			b.Fatal(err)
		}
	}
	return g
}

// callOf is a call of so many bytes, and its answer as JSON or as an event.
func callOf(size int, stream bool) (call, answer []byte) {
	const head, tail = `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"text":"`, `"}}}`
	text := strings.Repeat("lorem ipsum ", 1+size/12)[:max(1, size-len(head)-len(tail))]
	answer = []byte(`{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"` + text + `"}]}}`)
	if stream {
		answer = fmt.Appendf(nil, "event: message\ndata: %s\n\n", answer)
	}
	return []byte(head + text + tail), answer
}

// canned is a server without a network: the transport under the upstream.
type canned struct {
	kind string
	body []byte
}

func (c canned) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {c.kind}}, ContentLength: int64(len(c.body)),
		Body: io.NopCloser(bytes.NewReader(c.body)), Request: r}, nil
}

var types = map[string]string{"json": "application/json", "sse": "text/event-stream"}

// blank is a writer that keeps nothing but what it counts.
type blank struct {
	header http.Header
	status int
	n      int
}

func (w *blank) Header() http.Header         { return w.header }
func (w *blank) WriteHeader(status int)      { w.status = status }
func (w *blank) Write(p []byte) (int, error) { w.n += len(p); return len(p), nil }
func (w *blank) Flush()                      {}

func BenchmarkCall(b *testing.B) {
	run := func(b *testing.B, serve http.HandlerFunc, g *gate, call []byte, want int) {
		body := bytes.NewReader(nil)
		r, err := http.NewRequest(http.MethodPost, g.PublicURL+"/mcp/echo", nil)
		if err != nil {
			b.Fatal(err)
		}
		r.Header = http.Header{"Authorization": {"Bearer " + g.token}, "Content-Type": {"application/json"},
			"Accept": {"application/json, text/event-stream"}, "Mcp-Protocol-Version": {"2025-11-25"}}
		r.SetPathValue("server", "echo")
		r.RemoteAddr, r.ContentLength = "127.0.0.1:1", int64(len(call))
		w := &blank{header: http.Header{}}
		b.SetBytes(int64(len(call) + want))
		b.ReportAllocs()
		for b.Loop() {
			body.Reset(call)
			r.Body = io.NopCloser(body)
			clear(w.header)
			w.status, w.n = 0, 0
			serve(w, r)
			if w.status != http.StatusOK || w.n != want {
				b.Fatalf("status %d, %d bytes, want %d", w.status, w.n, want)
			}
		}
	}
	b.Run("nothing", func(b *testing.B) {
		g := benchGate(b, http.NotFoundHandler())
		run(b, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }, g, nil, 0)
	})
	for _, kind := range []string{"json", "sse"} {
		for _, size := range []int{200, 10_000, 1_000_000} {
			b.Run(fmt.Sprintf("%s-%d", kind, size), func(b *testing.B) {
				g := benchGate(b, http.NotFoundHandler())
				call, _ := callOf(200, false)
				_, answer := callOf(size, kind == "sse")
				g.force.Load().upstreams["echo"] = upstream.HTTP(upstream.HTTPConfig{URL: "http://echo", Client: &http.Client{Transport: canned{types[kind], answer}}})
				run(b, g.serveMCP, g, call, len(answer))
			})
		}
	}
}

func BenchmarkCallOverLoopback(b *testing.B) {
	for _, kind := range []string{"json", "sse"} {
		for _, size := range []int{200, 10_000, 1_000_000} {
			b.Run(fmt.Sprintf("%s-%d", kind, size), func(b *testing.B) {
				call, _ := callOf(200, false)
				_, answer := callOf(size, kind == "sse")
				g := benchGate(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					_, _ = io.Copy(io.Discard, r.Body) // a call cut short shows in its answer
					w.Header().Set("Content-Type", types[kind])
					_, _ = w.Write(answer)
				}))
				b.SetBytes(int64(len(call) + len(answer)))
				b.ReportAllocs()
				b.SetParallelism(8)
				b.ResetTimer()
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if resp, got, err := g.post(b.Context(), call, nil); err != nil || resp.StatusCode != http.StatusOK || len(got) != len(answer) {
							b.Errorf("%v, %d bytes: %.300q", err, len(got), got)
							return
						}
					}
				})
			})
		}
	}
}
