package enforcer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// The promise that the relay is lossless, over the whole way: ten thousand
// generated messages of both eras go through the gate to a server that holds
// what arrives against what was sent, and the answers, JSON and event streams,
// are held against what the server wrote. Nothing is masked (the mask knows
// values, none of which occur), so nothing may differ by a byte.

const (
	losslessSeed  = 20260728
	losslessCases = 10_000
	losslessSize  = 40 // of the largest message, as its generator counts
)

// passage is one message and its answer.
type passage struct {
	modern bool
	header http.Header
	body   []byte
	list   string // what the answer lists; "" for nothing
	status int
	kind   string // of the answer; "" for none
	answer []byte
}

func (p passage) String() string {
	return fmt.Sprintf("header %v\nsent   %q\nanswer %d %s %q", p.header, p.body, p.status, p.kind, p.answer)
}

// ferry is the server: it looks a message up by the header Mcp-Param-Case
// (which nobody on the way knows, and everybody must forward), compares, and
// answers.
type ferry struct {
	mu      sync.Mutex
	pending map[string]passage
	broken  map[string]error // what arrived and was not what was sent
}

func (f *ferry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the answer will be missed
	}
	if bytes.Contains(body, []byte(`"initialize"`)) {
		w.Header().Set("Mcp-Session-Id", "s1")
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"jsonrpc":"2.0","id":0,"result":{}}`)
		return
	}
	key := r.Header.Get("Mcp-Param-Case")
	f.mu.Lock()
	p, ok := f.pending[key]
	switch {
	case !ok:
		f.broken[key] = errors.New("the header Mcp-Param-Case did not arrive")
	case !bytes.Equal(body, p.body):
		f.broken[key] = fmt.Errorf("the message arrived as %q%s", body, differ(p.body, body))
	}
	for name, want := range p.header {
		if got := r.Header[name]; ok && strings.Join(got, "|") != strings.Join(want, "|") {
			f.broken[key] = fmt.Errorf("header %s arrived as %q", name, got)
		}
	}
	f.mu.Unlock()
	if !ok {
		http.NotFound(w, r)
		return
	}
	if p.kind != "" {
		w.Header().Set("Content-Type", p.kind)
	}
	w.WriteHeader(p.status)
	for rest := p.answer; len(rest) > 0; { // in pieces, which end anywhere
		n := min(len(rest), 1+len(p.answer)/3)
		w.Write(rest[:n])
		if p.kind == "text/event-stream" {
			w.(http.Flusher).Flush()
		}
		rest = rest[n:]
	}
}

// cross sends one message, and says what is not as it should be.
func (f *ferry) cross(ctx context.Context, g *gate, key string, p passage) error {
	p.header.Set("Mcp-Param-Case", key)
	f.mu.Lock()
	f.pending[key] = p
	f.mu.Unlock()
	resp, answer, err := g.post(ctx, p.body, p.header)
	f.mu.Lock()
	broken := f.broken[key]
	delete(f.pending, key)
	delete(f.broken, key)
	f.mu.Unlock()
	switch {
	case err != nil:
		return err
	case broken != nil:
		return broken
	case resp.StatusCode != p.status || resp.Header.Get("Content-Type") != p.kind:
		return fmt.Errorf("the answer is %d %q: %q", resp.StatusCode, resp.Header.Get("Content-Type"), answer)
	case !bytes.Equal(answer, p.answer):
		return fmt.Errorf("the answer returned as %q%s", answer, differ(p.answer, answer))
	}
	return nil
}

// differ says where two texts part.
func differ(want, got []byte) string {
	i := 0
	for i < len(want) && i < len(got) && want[i] == got[i] {
		i++
	}
	return fmt.Sprintf(" (at byte %d: want %.40q, got %.40q)", i, want[i:], got[i:])
}

func TestTenThousandMessagesPassByteForByte(t *testing.T) {
	f := &ferry{pending: map[string]passage{}, broken: map[string]error{}}
	g := newGate(t, f, map[string]string{"rules/all.yaml": `
- { id: everything, server: echo, method: "*", effect: allow }
- { id: never, server: echo, when: size(tool) > 1000, effect: deny, reason: No }
- { id: asks, server: echo, method: [sampling/createMessage, elicitation/create, roots/list], effect: allow }
`})
	for i := range 20 {
		if _, err := g.Mask.Add("test", fmt.Sprintf("a value that nobody sends, number %d", i)); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := g.post(t.Context(), []byte(`{"jsonrpc":"2.0","id":0,"method":"initialize","params":{}}`), nil); err != nil {
		t.Fatal(err)
	}
	cases := make(chan int)
	var wg sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var once sync.Once
	for range 16 {
		wg.Go(func() {
			for i := range cases {
				err := f.cross(ctx, g, strconv.Itoa(i), generate(i, losslessSize))
				if err != nil && ctx.Err() == nil {
					once.Do(func() { smallest(t, f, g, i, err); stop() })
				}
			}
		})
	}
	for i := range losslessCases {
		select {
		case cases <- i:
		case <-ctx.Done():
		}
	}
	close(cases)
	wg.Wait()
}

// smallest reports a failing message as the smallest that the same seed makes
// and that still fails.
func smallest(t *testing.T, f *ferry, g *gate, i int, err error) {
	p, size := generate(i, losslessSize), losslessSize
	for n := range losslessSize {
		q := generate(i, n)
		if e := f.cross(context.Background(), g, strconv.Itoa(i)+"-"+strconv.Itoa(n), q); e != nil {
			p, size, err = q, n, e
			break
		}
	}
	t.Errorf("message %d (seed %d, size %d): %v\n%s", i, losslessSeed, size, err, p)
}

// generate makes message number i; the same i and size make the same one.
func generate(i, size int) passage {
	m := &maker{Rand: rand.New(rand.NewPCG(losslessSeed, uint64(i))), size: size}
	if i%100 == 0 && size == losslessSize {
		m.long = 200_000 // now and then a long text
	}
	return m.passage()
}

// maker writes messages with everything that JSON and event streams let one
// choose: white space, escapes, spellings of numbers, unknown members, order.
type maker struct {
	*rand.Rand
	size   int  // parts that the message may still get
	long   int  // bytes of one long text that it gets, once
	answer bool // results may hold what rules never see: NUL, half of a surrogate pair
}

func (m *maker) pick(of ...string) string { return of[m.IntN(len(of))] }

// few is a number below n, and not above what the size leaves.
func (m *maker) few(n int) int { return m.IntN(max(1, min(m.size+1, n))) }

func (m *maker) space() string { return m.pick("", "", "", "", " ", "\n", "\t \r\n") }

func (m *maker) chars() string {
	var b strings.Builder
	if m.long > 0 {
		b.WriteString(strings.Repeat("long text, ", m.long/11))
		m.long = 0
	}
	for range m.few(10) {
		b.WriteString(m.pick("a", "Z", "é", "世", "😀", "\u2028", `\n`, `\"`, `\\`, `\/`, "/", `\b\f\r\t`, `\u00e9`, `\u00E9`, `\u0041`, `\u000a`,
			`\ud83d\ude00`, `\uD83D\uDE00`, `\u2028`, "\u007f", "0", " ", "plain text", "<b>&amp;", "%41", "=?base64?"))
		if m.answer && m.IntN(20) == 0 {
			b.WriteString(m.pick(`\u0000`, `\ud800`, `\udc00x`))
		}
	}
	return b.String()
}

func (m *maker) str() string { return `"` + m.chars() + `"` }

func (m *maker) id() string {
	return m.pick("0", "1", "-7", "9007199254740993", "-123456789012345678901234567890", `""`, `"\u0031"`, m.str())
}

func (m *maker) value(depth int) string {
	m.size--
	switch n := m.IntN(9); {
	case n == 0 && depth > 0:
		return m.object(m.members(depth))
	case n == 1 && depth > 0:
		parts := []string{}
		for range m.few(6) {
			parts = append(parts, m.space()+m.value(depth-1)+m.space())
		}
		return "[" + strings.Join(parts, ",") + m.pick("", " ") + "]"
	case n == 2 && depth > 8: // straight down
		n := 1 + m.IntN(depth/2-1)
		return strings.Repeat(`{"":[`, n) + m.space() + strings.Repeat(`]}`, n)
	case n < 5:
		return m.str()
	}
	return m.pick("0", "-0", "-0.0", "1", "1.0", "1.10", "1e5", "1E+05", "0e0", "-12.50e-3", "1e400", "-1e-400", "9007199254740993",
		"18446744073709551616", "123456789012345678901234567890", "3.14159265358979323846264338327950288", "true", "false", "null")
}

// members are of any object: their names differ, whatever the case.
func (m *maker) members(depth int) []string {
	n := m.few(20)
	out := []string{}
	if n > 0 && m.IntN(4) == 0 {
		out = append(out, `""`+m.space()+":"+m.value(depth-1))
	}
	for i := range n {
		out = append(out, fmt.Sprintf(`"%sk%d_%s"`, m.pick("", "", `\u0078`, "é", "$.", "a/b:"), i, m.chars())+m.space()+":"+m.space()+m.value(depth-1))
	}
	return out
}

// object is of these members, in any order.
func (m *maker) object(members []string) string {
	m.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
	for i := range members {
		members[i] = m.space() + members[i] + m.space()
	}
	return "{" + strings.Join(members, ",") + m.pick("", "", " ", "\n") + "}"
}

// nested bounds the depth of generated values: with the envelope, less than 64.
const nested = 50

func (m *maker) passage() passage {
	p := passage{header: http.Header{}, modern: m.IntN(2) == 0, status: http.StatusOK}
	params := m.members(nested)
	meta := m.members(nested)
	version := "2025-11-25"
	if p.modern {
		version = "2026-07-28"
		meta = append(meta, `"io.modelcontextprotocol/protocolVersion":"2026-07-28"`, `"io.modelcontextprotocol/clientCapabilities":{}`)
	} else if m.IntN(2) == 0 {
		p.header.Set("Mcp-Session-Id", "s1")
	}
	p.header.Set("Mcp-Protocol-Version", version)
	if p.modern || m.IntN(3) == 0 {
		params = append(params, `"_meta":`+m.object(meta))
	}
	envelope := append(m.members(nested), `"jsonrpc":`+m.pick(`"2.0"`, `"2\u002e0"`))
	kind := m.IntN(10)
	switch {
	case kind == 0: // the answer to what the server asked
		envelope = append(envelope, `"id":`+m.id(), m.pick(`"result":`, `"error":`)+m.object(m.members(nested)))
		p.header.Set("Mcp-Protocol-Version", "2025-11-25")
		p.body = []byte(m.space() + m.object(envelope) + m.space())
		p.status = http.StatusAccepted
		return p
	case kind == 1:
		envelope = append(envelope, `"method":"notifications/`+m.pick("progress", "x", "roots/list_changed")+`"`)
		if p.modern || m.IntN(2) == 0 {
			envelope = append(envelope, `"params":`+m.object(params))
		}
		p.body = []byte(m.space() + m.object(envelope) + m.space())
		p.status = http.StatusAccepted
		return p
	}
	id := m.id()
	method, more := m.request(&p)
	params = append(params, more...)
	envelope = append(envelope, `"id":`+id, `"method":`+method, `"params":`+m.object(params))
	p.body = []byte(m.space() + m.object(envelope) + m.space())
	m.size = m.size/2 + 3
	m.reply(&p, id)
	return p
}

// request is a method as it is spelled, what its params need, and, for the
// stateless era, the headers that mirror it.
func (m *maker) request(p *passage) (method string, params []string) {
	spelled, header, plain := `"tool"`, m.pick("tool", "=?base64?dG9vbA==?="), ""
	if m.IntN(3) == 0 {
		spelled, header = m.pick(`"tööl"`, `"t\u00f6ö\u006c"`, `"t\u00f6\u00F6l"`), "=?base64?dMO2w7Zs?="
	}
	switch m.IntN(8) {
	case 0, 1, 2:
		plain, method = "tools/call", m.pick(`"tools/call"`, `"tools\/call"`, `"\u0074ools/call"`)
		params = append(params, `"name":`+spelled)
		if m.IntN(5) > 0 {
			params = append(params, `"arguments":`+m.object(m.members(nested)))
		}
	case 3:
		plain, method = "prompts/get", `"prompts/get"`
		params = append(params, `"name":`+spelled, `"arguments":`+m.object(m.members(nested)))
	case 4:
		plain, method, header = "resources/read", `"resources/read"`, "file:///a%20b"
		params = append(params, `"uri":`+m.pick(`"file:///a%20b"`, `"file:\/\/\/a%20b"`))
	case 5, 6: // of which the rules hide nothing
		p.list = m.pick("tools", "prompts", "resources", "resourceTemplates")
		plain, header = strings.Replace(p.list, "Templates", "/templates", 1)+"/list", ""
		method = m.pick(`"`+plain+`"`, `"`+strings.Replace(plain, "/", `\/`, 1)+`"`)
		if m.IntN(2) == 0 {
			params = append(params, `"cursor":`+m.str())
		}
	default:
		plain, method, header = "vendor/unknown", `"vendor/unknown"`, ""
	}
	if p.modern {
		p.header.Set("Mcp-Method", plain)
		if header != "" {
			p.header.Set("Mcp-Name", header)
		}
	}
	return method, params
}

// reply is what the server says to a request.
func (m *maker) reply(p *passage, id string) {
	m.answer = true
	result := m.members(nested)
	if p.modern {
		result = append(result, `"resultType":"complete"`, `"cacheScope":"private"`, `"ttlMs":`+m.pick("0", "1.0", "1e3"))
	}
	if p.list != "" {
		uri := map[string]string{"resources": "uri", "resourceTemplates": "uriTemplate"}[p.list]
		var elements []string
		for i := range m.few(8) {
			of := append(m.members(nested-2), `"name":`+m.pick(`"listed`, `"l\u0069sted`)+strconv.Itoa(i)+`"`)
			if uri != "" {
				of = append(of, `"`+uri+`":`+m.pick(`"x:`, `"x\u003a`)+strconv.Itoa(i)+`"`)
			}
			elements = append(elements, m.space()+m.object(of)+m.space())
		}
		result = append(result, `"`+p.list+`":[`+strings.Join(elements, ",")+m.pick("", " ")+`]`)
	}
	body := `"result":` + m.object(result)
	if m.IntN(8) == 0 {
		body = `"error":` + m.object(append(m.members(nested), `"code":`+m.pick("-1", "-32602", "1e400"), `"message":`+m.str()))
	}
	m.answer = false
	message := m.object(append(m.members(nested), `"jsonrpc":"2.0"`, `"id":`+id, body))
	if m.IntN(2) == 0 {
		p.kind, p.answer = "application/json", []byte(m.space()+message+m.space())
		if m.IntN(20) == 0 {
			p.status = http.StatusBadRequest
		}
		return
	}
	p.kind = "text/event-stream"
	var b strings.Builder
	end := m.pick("\n", "\n", "\r\n", "\r")
	if m.IntN(20) == 0 {
		b.WriteString("\xef\xbb\xbf")
	}
	if m.IntN(3) == 0 { // priming
		b.WriteString("id: 1/0" + end + "retry: 1500" + end + m.pick("data:", "data", "data: ") + end + end)
	}
	for range m.IntN(3) {
		switch m.IntN(3) {
		case 0:
			b.WriteString(":" + m.pick("", " keep-alive", "ping é") + end + end)
		case 1:
			m.event(&b, end, m.object(append(m.members(nested), `"jsonrpc":"2.0"`, `"method":"notifications/progress"`,
				`"params":`+m.object(append(m.members(nested), `"progressToken":1`, `"progress":`+m.pick("1", "0.10", "1e1"))))))
		default:
			if p.modern {
				continue // asks inside its results only
			}
			m.event(&b, end, m.object(append(m.members(nested), `"jsonrpc":"2.0"`, `"id":`+m.id(), `"method":"`+
				m.pick("sampling/createMessage", "elicitation/create", "roots/list")+`"`)))
		}
	}
	m.event(&b, end, message)
	if m.IntN(4) == 0 {
		b.WriteString(": the end" + end + end)
	}
	p.answer = []byte(b.String())
}

// event is one event that carries a message, cut into lines wherever the
// message has one, or not at all.
func (m *maker) event(b *strings.Builder, end, message string) {
	if m.IntN(2) == 0 {
		b.WriteString("event:" + m.pick(" message", "message", " ünknown") + end)
	}
	if m.IntN(2) == 0 {
		b.WriteString(m.pick("id: 7", "id:é/1", "id") + end)
	}
	if m.IntN(4) == 0 {
		b.WriteString(m.pick("x-unknown: field", ": a comment inside", "retry: 10", "unknown") + end)
	}
	for line := range strings.SplitSeq(strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(message), "\n") {
		b.WriteString(m.pick("data: ", "data:", "data:  ") + line + end)
	}
	b.WriteString(end)
}
