package wire

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

func readAll(t *testing.T, r io.Reader) []Event {
	t.Helper()
	events := NewEventReader(r, 0)
	var all []Event
	for {
		e, err := events.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
}

func TestEvents(t *testing.T) {
	for _, tt := range []struct {
		in   string
		data []string // "-" for an event without data
		ids  string
	}{
		{"data: a\n\ndata:b\n\n", []string{"a", "b"}, ","},
		{"id: 1\ndata: \n\ndata: x\nid\n\n", []string{"", "x"}, "1,"},
		{"id: 7\r\nretry: 3000\r\nevent: message\r\ndata: a\r\ndata: b\r\n\r\n", []string{"a\nb"}, "7"},
		{"data: a\r\rdata: b\r\r", []string{"a", "b"}, ","},
		{"\xef\xbb\xbfdata: a\n\n: keep-alive\n\n", []string{"a", "-"}, ","},
		{"data: a\n\n\xef\xbb\xbfdata: b\n\n", []string{"a", "-"}, ","},
		{"data\n\ndata:\ndata\n\n", []string{"", "\n"}, ","},
		{"data:  two spaces\n\n", []string{" two spaces"}, ""},
		{"id: a\x00b\ndata: x\n\n", []string{"x"}, ""},
		{"\n\n: c\n\n", []string{"-", "-", "-"}, ",,"},
		{"data: cut", []string{"cut"}, ""},
		{"data: cut\r", []string{"cut"}, ""},
		{"Data: x\nDATA: y\n\n", []string{"-"}, ""},
	} {
		for name, reader := range map[string]io.Reader{
			"at once":     strings.NewReader(tt.in),
			"by the byte": iotest.OneByteReader(strings.NewReader(tt.in)),
			"with EOF":    iotest.DataErrReader(strings.NewReader(tt.in)),
		} {
			var raw, ids, data []string
			for _, e := range readAll(t, reader) {
				raw = append(raw, string(e.Raw))
				if len(bytes.Trim(e.Raw, "\n")) == 0 && strings.Contains(tt.in, "\r") {
					continue // the LF of a CRLF that came after its CR
				}
				ids = append(ids, e.ID)
				if !e.HasData {
					data = append(data, "-")
				} else {
					data = append(data, string(e.Data))
				}
			}
			if got := strings.Join(raw, ""); got != tt.in {
				t.Errorf("%q %s: the bytes came out as %q", tt.in, name, got)
			}
			if !slices.Equal(data, tt.data) || strings.Join(ids, ",") != tt.ids {
				t.Errorf("%q %s: data %q, ids %q", tt.in, name, data, ids)
			}
		}
	}
}

// An event ends at its blank line, even if that is a bare CR and nothing
// follows: a reader that waits for the LF would hold back the answer.
func TestEventEndsWithoutWaiting(t *testing.T) {
	for _, end := range []string{"\n\n", "\r\n\r\n", "\r\r"} {
		pr, pw := io.Pipe()
		go func() {
			_, err := io.WriteString(pw, "data: a"+end)
			pw.CloseWithError(errors.Join(err, errors.New("the reader asked for more")))
		}()
		e, err := NewEventReader(pr, 0).Next()
		if err != nil || string(e.Data) != "a" {
			t.Errorf("ending %q: %q, %v", end, e.Data, err)
		}
	}
}

func TestEventBound(t *testing.T) {
	for _, in := range []string{
		"data: " + strings.Repeat("x", 200) + "\n\n",
		strings.Repeat("data: x\n", 40) + "\n",
		strings.Repeat("x", 200),
	} {
		r := NewEventReader(iotest.OneByteReader(strings.NewReader(in)), 100)
		if e, err := r.Next(); !errors.Is(err, ErrEventTooLarge) {
			t.Errorf("%d bytes passed a bound of 100: %q, %v", len(in), e.Raw, err)
		}
	}
	broken := errors.New("broken")
	r := NewEventReader(io.MultiReader(strings.NewReader("data: a\n\ndata: b"), iotest.ErrReader(broken)), 0)
	if e, err := r.Next(); err != nil || string(e.Data) != "a" {
		t.Errorf("%q, %v", e.Data, err)
	}
	if e, err := r.Next(); !errors.Is(err, broken) {
		t.Errorf("a broken stream ended as %q, %v", e.Raw, err)
	}
}

func TestWithData(t *testing.T) {
	for _, tt := range []struct{ in, data, want string }{
		{"id: 1\ndata: a\n: c\n\n", "b", "id: 1\ndata: b\n: c\n\n"},
		{"id: 1\r\ndata:a\r\nretry:5\r\ndata:b\r\n\r\n", "x", "id: 1\r\ndata:x\r\nretry:5\r\n\r\n"},
		{"data: a\r\r", "x\ny", "data: x\rdata: y\r\r"},
		{"\xef\xbb\xbfdata: a\n\n", "b", "\xef\xbb\xbfdata: b\n\n"},
		{"data: {\ndata: }\n\n", "{\n}", "data: {\ndata: }\n\n"},
		{"data\n\n", "x", "data: x\n\n"},
		{"data: cut", "x", "data: x\n"},
		{": c\n\n", "x", ": c\ndata: x\n\n"},
		{": c\n\n", "", ": c\n\n"},
	} {
		e := readAll(t, strings.NewReader(tt.in))[0]
		if got := string(e.WithData([]byte(tt.data))); got != tt.want {
			t.Errorf("%q with %q is %q, want %q", tt.in, tt.data, got, tt.want)
		}
		if got := string(e.WithData(e.Data)); got != tt.in {
			t.Errorf("%q with its own data is %q", tt.in, got)
		}
	}
	e := readAll(t, strings.NewReader("id: s3cret\nevent: s3cret\n: a s3cret\r\ns3cret: x\ns3cret\ndata: s3cret\n\n"))[0]
	mask := func(s string) string { return strings.ReplaceAll(s, "s3cret", "m\nm") }
	if got := string(e.Rewrite([]byte("m"), mask)); got != "id: m m\nevent: m m\n: a m m\r\nm m: x\nm m\ndata: m\n\n" {
		t.Errorf("rewritten: %q", got)
	}
}

// Work grows with the stream, not with its square: a hostile server sends
// events of one byte, or data of a million lines.
func TestEventsOfOneByte(t *testing.T) {
	const n = 1 << 18
	for _, in := range []string{
		"data: " + strings.Repeat("x", n) + "\n\n" + strings.Repeat("\n", n),
		strings.Repeat("data\r", n/5) + "\r" + strings.Repeat("\r", n),
	} {
		events := NewEventReader(strings.NewReader(in), 2*n)
		total := 0
		for {
			e, err := events.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			total += len(e.Raw)
		}
		if total != len(in) {
			t.Errorf("%d bytes of %d came out", total, len(in))
		}
	}
}

func BenchmarkEvent10KB(b *testing.B) {
	event := MessageEvent([]byte(`{"jsonrpc":"2.0","id":1,"result":{"text":"` + strings.Repeat("x", 10_000) + `"}}`))
	b.SetBytes(int64(len(event)))
	b.ReportAllocs()
	for b.Loop() {
		e, err := NewEventReader(bytes.NewReader(event), 0).Next()
		if err != nil || !e.HasData {
			b.Fatal(err)
		}
	}
}

func FuzzEvents(f *testing.F) {
	for _, seed := range []string{
		"data: a\n\n", "id: 1\r\ndata: {\r\ndata: }\r\n\r\n", ": c\r\rdata: x\r\r\n\n", "\xef\xbb\xbfdata\n\n", "data: a\n\r\n\r",
	} {
		f.Add([]byte(seed), []byte("new\ndata"), 3)
	}
	f.Fuzz(func(t *testing.T, in, data []byte, chunk int) {
		chunk = max(1, min(chunk, 64))
		r := NewEventReader(&chunked{in, chunk}, 0)
		var joined []byte
		for {
			e, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(e.Raw) == 0 {
				t.Fatal("an event without bytes")
			}
			joined = append(joined, e.Raw...)
			if !bytes.Equal(e.WithData(e.Data), e.Raw) {
				t.Fatalf("%q changes with its own data", e.Raw)
			}
			if same := e.Rewrite(e.Data, func(s string) string { return s }); !bytes.Equal(same, e.Raw) {
				t.Fatalf("%q changes where nothing is masked: %q", e.Raw, same)
			}
			longer := e.Rewrite(e.Data, func(s string) string { return s + "x" })
			if again, err := NewEventReader(bytes.NewReader(longer), 0).Next(); e.HasData && !e.Cut && e.Raw[0] != '\n' && (err != nil || !bytes.Equal(again.Data, e.Data) && (e.first || !bytes.HasPrefix(e.Raw, bom))) {
				t.Fatalf("%q loses its data as %q: %q, %v", e.Raw, longer, again.Data, err)
			}
			if e.HasData && !e.Cut {
				again, err := NewEventReader(bytes.NewReader(e.WithData(data)), 0).Next()
				want := bytes.Join(splitLines(data), []byte("\n"))
				if !e.first && bytes.HasPrefix(e.Raw, bom) {
					continue // alone, its BOM would be one
				}
				if e.Raw[0] == '\n' {
					continue // alone, the LF of an earlier CR would end an event
				}
				if err != nil || !bytes.Equal(again.Data, want) || again.ID != e.ID || again.Name != e.Name {
					t.Fatalf("%q with %q reads as %q, %v", e.Raw, data, again.Data, err)
				}
			}
		}
		if !bytes.Equal(joined, in) {
			t.Fatalf("%q came out as %q", in, joined)
		}
	})
}

type chunked struct {
	rest []byte
	size int
}

func (c *chunked) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), c.size)], c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

const modernMeta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`

func TestCheckHeaders(t *testing.T) {
	request := func(method, params string) string {
		return `{"jsonrpc":"2.0","id":1,"method":"` + method + `","params":{` + params + `}}`
	}
	call := request("tools/call", `"name":"query",`+modernMeta)
	legacy := request("tools/call", `"name":"query"`)
	const v, m, n = "MCP-Protocol-Version", "Mcp-Method", "Mcp-Name"
	for _, tt := range []struct {
		why, body string
		headers   []string
		reason    string // "" accepted
	}{
		{"all agree", call, []string{v, "2026-07-28", m, "tools/call", n, "query", "Mcp-Param-X", "anything"}, ""},
		{"encoded name", call, []string{v, "2026-07-28", m, "tools/call", n, "=?base64?cXVlcnk=?="}, ""},
		{"no version", call, []string{m, "tools/call", n, "query"}, "MCP-Protocol-Version is required"},
		{"other version", call, []string{v, "2027-01-01", m, "tools/call", n, "query"}, "differs"},
		{"older version", call, []string{v, "2025-11-25", m, "tools/call", n, "query"}, "differs"},
		{"version without _meta", legacy, []string{v, "2026-07-28", m, "tools/call", n, "query"}, "_meta"},
		{"no method", call, []string{v, "2026-07-28", n, "query"}, "Mcp-Method is required"},
		{"other method", call, []string{v, "2026-07-28", m, "tools/list", n, "query"}, "Mcp-Method differs"},
		{"method in another case", call, []string{v, "2026-07-28", m, "Tools/Call", n, "query"}, "Mcp-Method differs"},
		{"encoded method", call, []string{v, "2026-07-28", m, "=?base64?dG9vbHMvY2FsbA==?=", n, "query"}, "Mcp-Method differs"},
		{"no name", call, []string{v, "2026-07-28", m, "tools/call"}, "Mcp-Name is required"},
		{"other name", call, []string{v, "2026-07-28", m, "tools/call", n, "drop"}, "Mcp-Name differs"},
		{"bad base64", call, []string{v, "2026-07-28", m, "tools/call", n, "=?base64?cXVlcnk?="}, "base64"},
		{"base64 not canonical", call, []string{v, "2026-07-28", m, "tools/call", n, "=?base64?cXVlcnl=?="}, "base64"},
		{"two names", call, []string{v, "2026-07-28", m, "tools/call", n, "query", n, "drop"}, "more than once"},
		{"control character", call, []string{v, "2026-07-28", m, "tools/call", n, "query\x01"}, "characters"},
		{"uri", request("resources/read", `"uri":"file:///a",`+modernMeta), []string{v, "2026-07-28", m, "resources/read", n, "file:///a"}, ""},
		{"task", request("tasks/get", `"taskId":"t1",`+modernMeta), []string{v, "2026-07-28", m, "tasks/get", n, "t1"}, ""},
		{"other task", request("tasks/get", `"taskId":"t1",`+modernMeta), []string{v, "2026-07-28", m, "tasks/get", n, "t2"}, "Mcp-Name differs"},
		{"nothing to name", request("tools/list", modernMeta), []string{v, "2026-07-28", m, "tools/list"}, ""},
		{"name for nothing", request("tools/list", modernMeta), []string{v, "2026-07-28", m, "tools/list", n, "x"}, "Mcp-Name differs"},
		{"legacy", legacy, []string{v, "2025-11-25"}, ""},
		{"legacy without version", legacy, nil, ""},
		{"legacy that routes elsewhere", legacy, []string{n, "drop"}, "Mcp-Name differs"},
	} {
		h := http.Header{}
		for i := 0; i < len(tt.headers); i += 2 {
			h.Add(tt.headers[i], tt.headers[i+1])
		}
		err := CheckHeaders(h, mustParse(t, tt.body))
		var refusal *Error
		switch {
		case tt.reason == "" && err != nil:
			t.Errorf("%s: %v", tt.why, err)
		case tt.reason != "" && (!errors.As(err, &refusal) || !strings.Contains(err.Error(), tt.reason)):
			t.Errorf("%s: %v, want %q", tt.why, err, tt.reason)
		case refusal != nil && refusal.Code != CodeHeaderMismatch && !strings.Contains(tt.why, "_meta"):
			t.Errorf("%s: code %d", tt.why, refusal.Code)
		}
	}
}

func TestMirrorHeaders(t *testing.T) {
	h := http.Header{"Mcp-Name": {"billing_query"}, "Mcp-Param-Region": {"eu"}}
	m := mustParse(t, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"q\u00fcery",`+modernMeta+`}}`)
	MirrorHeaders(h, m)
	if err := CheckHeaders(h, m); err != nil || h.Get("Mcp-Name") != "=?base64?ccO8ZXJ5?=" || h.Get("Mcp-Param-Region") != "eu" {
		t.Errorf("%v, %v", h, err)
	}
	MirrorHeaders(h, mustParse(t, `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{`+modernMeta+`}}`))
	if h.Get("Mcp-Name") != "" {
		t.Errorf("a name stayed: %v", h)
	}
	old := http.Header{}
	MirrorHeaders(old, mustParse(t, `{"jsonrpc":"2.0","id":1,"method":"ping"}`))
	if len(old) != 0 {
		t.Errorf("a legacy message got %v", old)
	}
}

// The examples of the specification's table, and their inverse.
func TestHeaderValues(t *testing.T) {
	for value, want := range map[string]string{
		"us-west1":             "us-west1",
		"Hello, 世界":            "=?base64?SGVsbG8sIOS4lueVjA==?=",
		" padded ":             "=?base64?IHBhZGRlZCA=?=",
		"line1\nline2":         "=?base64?bGluZTEKbGluZTI=?=",
		"=?base64?literal?=":   "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?=",
		"":                     "",
		"=?BASE64?not marked?": "=?BASE64?not marked?",
	} {
		if got := EncodeHeader(value); got != want {
			t.Errorf("%q is encoded as %q, want %q", value, got, want)
		}
	}
}

func FuzzHeader(f *testing.F) {
	for _, seed := range []string{"plain", " padded ", "=?base64?literal?=", "=?base64?cXVlcnk=?=", "世界", "a\r\nInjected: x", "=?base64??="} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		if text, ok := DecodeHeader(value); ok && text != value && EncodeHeader(text) != value && EncodeHeader(text) != text {
			t.Fatalf("%q decodes to %q, which encodes to %q", value, text, EncodeHeader(text))
		}
		encoded := EncodeHeader(value)
		if !visible(encoded) {
			t.Fatalf("%q is encoded as %q", value, encoded)
		}
		if text, ok := DecodeHeader(encoded); ok && text != value {
			t.Fatalf("%q came back as %q", value, text)
		}
	})
}

// Only ids change, and the data if it is to; what stays keeps its bytes.
func TestRenumber(t *testing.T) {
	id := func(s string) string { return "x." + s }
	for _, c := range []struct{ raw, data, want string }{
		{"id: 7\ndata: a\n\n", "a", "id: x.7\ndata: a\n\n"},
		{": c\r\nid:7\r\nretry: 5\r\nevent: e\r\ndata:a\r\n\r\n", "a", ": c\r\nid:x.7\r\nretry: 5\r\nevent: e\r\ndata:a\r\n\r\n"},
		{"id\ndata: a\n\n", "b", "id\ndata: b\n\n"},
		{"id:\n\n", "", "id:\n\n"},
		{"id: 1\nid: 2\ndata: a\ndata: b\n\n", "c", "id: x.1\nid: x.2\ndata: c\n\n"},
		{"identity: 1\ndata: a\n\n", "a", "identity: 1\ndata: a\n\n"},
	} {
		ev, err := NewEventReader(strings.NewReader(c.raw), 0).Next()
		if err != nil {
			t.Fatal(err)
		}
		if got := string(ev.Renumber([]byte(c.data), id)); got != c.want {
			t.Errorf("%q: got %q, want %q", c.raw, got, c.want)
		}
	}
	ev, err := NewEventReader(strings.NewReader("id: 1\n\n"), 0).Next()
	if err != nil {
		t.Fatal(err)
	}
	if got := string(ev.Renumber(nil, func(string) string { return "a\nid: b" })); got != "id: a id: b\n\n" {
		t.Errorf("a line break in an id: %q", got)
	}
}
