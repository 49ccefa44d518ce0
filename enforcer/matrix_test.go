package enforcer

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"countersign/enforcer/mask"
)

// The place matrix: a known value in every place of what a server sends, as JSON
// and in event streams, in both eras, at both endpoints, cut in ten ways. It
// never comes out. And once more with a mask that fails: then nothing does.

// cut is how the value is written: as texts of one message, and in pieces on
// the connection.
type cut struct {
	name   string
	texts  func(v string) []string            // nil: one
	spell  func(text string) string           // as a JSON string; nil: shortest
	breaks func(wire []byte, at, n int) []int // where the connection breaks; the value's first piece is wire[at:at+n]
	space  string                             // between the texts
}

// middle is a place in the middle of a value that is between two bytes of it.
func middle(v string) int { return len(v) / 2 }

func cuts() []cut {
	escaped := func(text string) string {
		var b strings.Builder
		for _, r := range text {
			fmt.Fprintf(&b, `\u%04x`, r)
		}
		return `"` + b.String() + `"`
	}
	halves := func(v string) []string { return []string{v[:middle(v)], v[middle(v):]} }
	in := func(offset func(n int) int) func([]byte, int, int) []int {
		return func(_ []byte, at, n int) []int { return []int{at + offset(n)} }
	}
	return []cut{
		{name: "whole"},
		{name: "chunk before its last byte", breaks: in(func(n int) int { return n - 1 })},
		{name: "chunk in the middle", breaks: in(func(n int) int { return n / 2 })},
		{name: "chunk of each byte", breaks: func(_ []byte, at, n int) (all []int) {
			for i := range n {
				all = append(all, at+i)
			}
			return all
		}},
		{name: "chunk within a short escape", breaks: func(wire []byte, at, n int) []int {
			return []int{at + max(0, bytes.IndexByte(wire[at:at+n], '\\')) + 1}
		}},
		{name: "chunk within a long escape", spell: escaped, breaks: in(func(n int) int { return n/2/6*6 + 3 })},
		{name: "two texts", texts: halves},
		{name: "two texts on two lines, with a chunk between", texts: halves, space: "\n ", breaks: in(func(n int) int { return n + 1 })},
		{name: "a text for each character", texts: func(v string) []string { return strings.Split(v, "") }},
		{name: "two texts within an escape", texts: func(v string) []string {
			m := middle(v)
			u := fmt.Sprintf(`\u%04x`, v[m])
			return []string{within(v[:m]) + u[:4], u[4:] + within(v[m+1:])}
		}},
	}
}

// within is a text as it stands between the quotes of JSON.
func within(v string) string { return cell{}.literal(v)[1 : len(cell{}.literal(v))-1] }

// cell is one entry of the matrix.
type cell struct {
	place  place
	era    string
	stream bool
	cut    cut
}

func (c cell) name() string {
	kind := map[bool]string{false: "JSON", true: "SSE"}[c.stream]
	return c.place.name + ", " + kind + ", " + c.era + ", " + c.cut.name
}

func cells(single bool) (all []cell) {
	for _, p := range places() {
		for _, era := range []string{legacy, modern} {
			for _, stream := range []bool{false, true} {
				if p.era != "" && p.era != era || p.stream && !stream || p.single && !single {
					continue
				}
				for _, c := range cuts() {
					all = append(all, cell{p, era, stream, c})
				}
			}
		}
	}
	return all
}

// texts are the pieces of the value as they stand in the cell.
func (c cell) texts() []string {
	v := secretValue
	if c.place.encode != nil {
		v = c.place.encode(v)
	}
	if c.cut.texts == nil {
		return []string{v}
	}
	return c.cut.texts(v)
}

// leaky is a server that puts the value where the cell says.
type leaky struct {
	mu    sync.Mutex
	cell  *cell
	armed func()        // called right before it answers
	over  chan struct{} // closed when the client has left
	gone  func()        // called when the gate has left a stream that has no end of its own
}

const honestEnd = `{"jsonrpc":"2.0","method":"notifications/vendor-end"}`

func (l *leaky) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // whoever asked has left
	}
	var m struct {
		ID     json.RawMessage
		Method string
	}
	if len(body) > 0 && json.Unmarshal(body, &m) != nil {
		http.Error(w, "no JSON", http.StatusTeapot)
		return
	}
	l.mu.Lock()
	c, over, gone := l.cell, l.over, l.gone
	wanted := ""
	if c != nil {
		wanted = c.place.method
	}
	mine := m.Method != "" && m.Method == wanted || r.Method == http.MethodGet && strings.HasPrefix(wanted, http.MethodGet)
	if mine {
		l.armed()
	}
	l.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	switch {
	case mine:
		c.answer(w, string(m.ID))
		if r.Method == http.MethodGet || m.Method == "subscriptions/listen" {
			select { // the gate is through with it
			case <-r.Context().Done():
				gone()
			case <-over:
			}
		}
	case r.Method != http.MethodPost:
		w.WriteHeader(http.StatusMethodNotAllowed)
	case m.Method == "initialize":
		w.Header().Set("Mcp-Session-Id", "s1")
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{},"prompts":{},"resources":{},"completions":{}},"serverInfo":{"name":"s","version":"1"}}}`, m.ID)
	case m.Method == "server/discover":
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"resultType":"complete","supportedVersions":["2026-07-28","2025-11-25"],"capabilities":{"tools":{"listChanged":true},"prompts":{},"resources":{},"completions":{}}}}`, m.ID)
	case m.ID == nil:
		w.WriteHeader(http.StatusAccepted)
	default:
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"resultType":"complete"}}`, m.ID)
	}
}

// honest is an answer with nothing in it.
const honest = `{"jsonrpc":"2.0","id":%s,"result":{"resultType":"complete","content":[{"type":"text","text":"honest"}]}}`

// text is the message that holds the value; an honest one if none does.
func (c cell) text(id string) string {
	if c.place.message == nil {
		return fmt.Sprintf(honest, id)
	}
	var spelled []string
	for _, t := range c.texts() {
		spelled = append(spelled, c.literal(t))
	}
	return strings.NewReplacer("${ID}", id, "\v", c.cut.space).Replace(c.place.message(spelled))
}

// answer writes the cell.
func (c cell) answer(w http.ResponseWriter, id string) {
	texts := c.texts()
	p := c.place
	if p.headers != nil {
		plain := []string{secretValue}
		if c.cut.texts != nil {
			plain = c.cut.texts(secretValue)
		}
		p.headers(w.Header(), plain)
	}
	if p.raw != nil {
		w.WriteHeader(p.raw(w))
		fmt.Fprint(w, strings.Join(texts, " "))
		return
	}
	var body []byte
	text := c.text(id)
	if !c.stream {
		body = []byte(text)
	} else {
		w.Header().Set("Content-Type", "text/event-stream")
		var b strings.Builder
		if p.event != nil {
			b.WriteString(p.event(texts))
		}
		for line := range strings.SplitSeq(text, "\n") {
			b.WriteString("data: " + line + "\n")
		}
		b.WriteString("\n")
		switch {
		case p.method == "subscriptions/listen":
			ack := `{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"notifications":{"toolsListChanged":true},"_meta":{"io.modelcontextprotocol/subscriptionId":` + id + `}}}`
			end := `{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"end":"notifications/vendor-end","_meta":{"io.modelcontextprotocol/subscriptionId":` + id + `}}}`
			body = []byte("data: " + ack + "\n\n" + b.String() + "data: " + end + "\n\n")
		case strings.HasPrefix(p.method, http.MethodGet):
			body = []byte(b.String() + "data: " + honestEnd + "\n\n")
		case p.before:
			body = []byte(b.String() + "data: " + fmt.Sprintf(honest, id) + "\n\n")
		default:
			body = []byte(b.String())
		}
	}
	breaks := []int{}
	if c.cut.breaks != nil {
		first := []byte(texts[0])
		if p.message != nil {
			first = []byte(c.literal(texts[0]))
			first = first[1 : len(first)-1]
		}
		if at := bytes.Index(body, first); at >= 0 {
			breaks = c.cut.breaks(body, at, len(first))
		}
	}
	done := 0
	for _, b := range append(breaks, len(body)) {
		if b = min(b, len(body)); b <= done {
			continue
		}
		w.Write(body[done:b])
		w.(http.Flusher).Flush()
		done = b
	}
}

// literal is a text as a JSON string.
func (c cell) literal(text string) string {
	if c.cut.spell != nil {
		return c.cut.spell(text)
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(text) // strings only
	return strings.TrimSpace(b.String())
}

// failing is a mask's clock: while it fails, every message is out of time.
type failing struct {
	fails atomic.Bool
	turns atomic.Int64
}

func (f *failing) now() time.Time {
	if f.fails.Load() {
		f.turns.Add(1)
	}
	return time.Unix(1_800_000_000, 0).Add(time.Duration(f.turns.Load()) * time.Minute)
}

// scene is a gate in front of a leaky server.
type scene struct {
	*gate
	server  *leaky
	mask    *failing
	log     *lockedBuffer
	hub     bool
	breaks  bool // the mask fails at the server's answer
	session string
	number  atomic.Int64 // of the cell that runs
	calls   sync.Map     // id of an exchange to the number of its cell
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func newScene(t *testing.T, hub, breaks bool, more map[string]string) *scene {
	policy := map[string]string{"rules/all.yaml": `
- { id: everything, server: echo, method: "*", effect: allow }
- { id: asks, server: echo, method: [sampling/createMessage, elicitation/create, roots/list], effect: allow }
`}
	maps.Copy(policy, more)
	s := &scene{server: &leaky{}, mask: &failing{}, log: &lockedBuffer{}, hub: hub, breaks: breaks}
	s.gate = newGate(t, s.server, policy, func(c *Config) {
		c.Mask = mask.New(mask.Options{Now: s.mask.now, Keep: 1 << 60, Budget: 30 * time.Second})
		if _, err := c.Mask.Add("db.password", secretValue); err != nil {
			t.Fatal(err)
		}
		id := c.ID
		c.ID = func() string {
			call := id()
			if s.session != "" {
				s.calls.Store(call, s.number.Load())
			}
			return call
		}
		c.Log = slog.New(mask.Handler(slog.NewJSONHandler(s.log, nil), c.Mask))
	})
	path := "/mcp/echo"
	if hub {
		path = "/mcp"
	}
	_, body := s.request(t.Context(), t, path, http.MethodPost, helloBody, http.Header{}, nil)
	if s.session == "" {
		t.Fatalf("no session: %s", body)
	}
	return s
}

// request sends one, and reads what comes until the end, or the honest end.
func (s *scene) request(ctx context.Context, t *testing.T, path, verb, body string, header http.Header, over <-chan struct{}) (*http.Response, string) {
	t.Helper()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	req, err := http.NewRequestWithContext(ctx, verb, s.PublicURL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if session := resp.Header.Get("Mcp-Session-Id"); session != "" && s.session == "" {
		s.session = session
	}
	if over != nil { // the stream has no end of its own
		go func() {
			select {
			case <-over:
				stop()
			case <-ctx.Done():
			}
		}()
	}
	var got strings.Builder
	buf := make([]byte, 32<<10)
	for {
		n, err := resp.Body.Read(buf)
		got.Write(buf[:n])
		if err != nil || over != nil && strings.Contains(got.String(), "notifications/vendor-end") {
			if err != nil && !errors.Is(err, io.EOF) && ctx.Err() == nil {
				t.Error(err)
			}
			return resp, got.String()
		}
	}
}

// run has the cell happen, and returns the response's headers and body as text.
func (s *scene) run(t *testing.T, c cell, number int) came {
	t.Helper()
	over, gone := make(chan struct{}), make(chan struct{})
	s.server.mu.Lock()
	s.server.cell, s.server.over, s.server.gone = &c, over, sync.OnceFunc(func() { close(gone) })
	s.server.armed = func() { s.mask.fails.Store(s.breaks) }
	s.server.mu.Unlock()
	path, prefix, uri := "/mcp/echo", "", ""
	if s.hub {
		path, prefix, uri = "/mcp", "echo__", "mcp+echo+"
	}
	fill := strings.NewReplacer("${P}", prefix, "${U}", uri)
	h := http.Header{}
	params := fill.Replace(c.place.params)
	if params != "" {
		params += ","
	}
	if c.era == modern {
		params += `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"extensions":{"io.modelcontextprotocol/tasks":{}}},"progressToken":1}`
		h.Set("Mcp-Method", c.place.method)
		if c.place.mirror != "" {
			h.Set("Mcp-Name", fill.Replace(c.place.mirror))
		}
	} else {
		params += `"_meta":{"progressToken":1}`
		if c.place.method != "initialize" {
			h.Set("Mcp-Session-Id", s.session)
		}
	}
	h.Set("Mcp-Protocol-Version", c.era)
	verb, message := http.MethodPost, fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":%q,"params":{%s}}`, number, c.place.method, params)
	var ends <-chan struct{}
	if strings.HasPrefix(c.place.method, http.MethodGet) {
		verb, message = http.MethodGet, ""
		if c.place.method != http.MethodGet {
			h.Set("Last-Event-Id", "7")
		}
		ends = gone
	}
	if c.place.method == "subscriptions/listen" {
		ends = gone
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	resp, body := s.request(ctx, t, path, verb, message, h, ends)
	s.mask.fails.Store(false)
	close(over)
	var b strings.Builder
	_ = resp.Header.Write(&b) // to a Builder
	return came{text: b.String() + body}
}

// leaks finds a piece of the value in a text: as it is, and in what its JSON
// strings, joined, decode to.
func (c cell) leaks(text string) string {
	seen := []string{text, decoded(text)}
	for _, s := range seen[:2] {
		for _, word := range strings.FieldsFunc(s, func(r rune) bool { return !strings.ContainsRune(base64Letters, r) }) {
			if b, err := base64.RawStdEncoding.DecodeString(word); err == nil && len(word) > 8 {
				seen = append(seen, string(b))
			}
		}
	}
	needles := windows(secretValue, 6)
	if c.place.encode == nil { // what is around the value may come through
		needles = append(needles, windows(strings.Join(c.texts(), ""), 6)...)
		needles = append(needles, windows(c.literal(secretValue), 9)...)
	}
	needles = append(needles, windows(hex.EncodeToString([]byte(secretValue)), 16)...)
	for _, s := range seen {
		for _, n := range needles {
			if strings.Contains(s, n) {
				return n
			}
		}
	}
	return ""
}

// windows are all pieces of n bytes.
func windows(v string, n int) (all []string) {
	for i := 0; i+n <= len(v); i++ {
		all = append(all, v[i:i+n])
	}
	return all
}

const base64Letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

// decoded is all strings of all messages in a body, one behind the other.
func decoded(body string) string {
	var b strings.Builder
	for line := range strings.Lines(body) {
		line = strings.TrimPrefix(strings.TrimSpace(line), "data:")
		for d := json.NewDecoder(strings.NewReader(line)); ; {
			tok, err := d.Token()
			if err != nil {
				break
			}
			if s, ok := tok.(string); ok {
				b.WriteString(s)
			}
		}
	}
	return b.String()
}

// How many cells there are, so that none is lost unnoticed.
const (
	cellsSingle = 1960
	cellsAll    = 1830
)

func TestPlaceMatrix(t *testing.T) {
	for _, hub := range []bool{false, true} {
		all, want := cells(!hub), cellsSingle
		name := "one server"
		if hub {
			want, name = cellsAll, "all servers"
		}
		if len(all) != want {
			t.Errorf("%s: %d cells, want %d", name, len(all), want)
		}
		for _, breaks := range []bool{false, true} {
			t.Run(name+map[bool]string{false: ", masked", true: ", the mask fails"}[breaks], func(t *testing.T) {
				t.Parallel()
				s := newScene(t, hub, breaks, nil)
				got := make([]came, len(all))
				for i, c := range all {
					s.number.Store(int64(i))
					got[i] = s.run(t, c, i+1)
				}
				s.record(t, got)
				for i, c := range all {
					t.Run(c.name(), func(t *testing.T) { c.check(t, got[i], s.breaks) })
				}
			})
		}
	}
}

// came is what came of a cell: at the client, and in the record.
type came struct {
	text            string
	blocked, masked int
	leak            string // in the record
}

func (c cell) check(t *testing.T, got came, breaks bool) {
	blocks := breaks || c.place.blocked || c.place.apart && len(c.texts()) > 1
	shows := c.place.headers == nil // else there is nothing to be masked
	switch {
	case c.leaks(got.text) != "":
		t.Errorf("%q came through:\n%s", c.leaks(got.text), got.text)
	case got.leak != "":
		t.Errorf("%q is in the record", got.leak)
	case blocks && got.blocked == 0:
		t.Errorf("not recorded as blocked:\n%s", got.text)
	case !blocks && shows && (got.masked == 0 || !c.place.coded && !strings.Contains(got.text, "[masked: ")):
		t.Errorf("masks recorded: %d:\n%s", got.masked, got.text)
	case breaks && strings.Contains(got.text, "honest"):
		t.Errorf("came through though the mask failed:\n%s", got.text)
	}
}

// record ends the gate, and finds for each cell what its exchanges left in the
// record; in the log there is nothing of the value at all.
func (s *scene) record(t *testing.T, got []came) {
	t.Helper()
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	for en, err := range s.Journal.Read() {
		if err != nil {
			t.Fatal(err)
		}
		number, ok := s.calls.Load(en.Call)
		if !ok {
			continue // the session's, before
		}
		c := &got[number.(int64)]
		if en.Status == "blocked" {
			c.blocked++
		}
		for _, m := range en.Masked {
			c.masked += m.Count
		}
		b, err := json.Marshal(en)
		if err != nil {
			t.Fatal(err)
		}
		if leak := (cell{}).leaks(string(b)); leak != "" {
			c.leak = leak
		}
	}
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	if leak := (cell{}).leaks(s.log.b.String()); leak != "" {
		t.Errorf("%q is in the log", leak)
	}
}
