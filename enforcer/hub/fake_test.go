package hub

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"countersign/enforcer/budget"
	"countersign/enforcer/wire"
)

// fakes stand in for the endpoints of the single servers. Each remembers what
// it was sent.
type fakes struct {
	mu     sync.Mutex
	seen   []sent
	answer map[string]func(w http.ResponseWriter, r *http.Request, s sent) // by server
	opened int
}

type sent struct {
	server, verb, session, body string
	header                      http.Header
	method, id                  string
	params                      json.RawMessage
}

func (f *fakes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(err)
	}
	s := sent{server: r.PathValue("server"), verb: r.Method, session: r.Header.Get("Mcp-Session-Id"), body: string(body), header: r.Header.Clone()}
	var m struct {
		ID     json.RawMessage
		Method string
		Params json.RawMessage
	}
	if len(body) > 0 {
		if err := json.Unmarshal(body, &m); err != nil {
			panic(err)
		}
	}
	s.method, s.id, s.params = m.Method, string(m.ID), m.Params
	if r.URL.Path != "/mcp/"+s.server {
		panic("path " + r.URL.Path)
	}
	f.mu.Lock()
	f.seen = append(f.seen, s)
	answer := f.answer[s.server]
	f.mu.Unlock()
	answer(w, r, s)
}

// to lists what a server was sent, as "<method>" or "<verb>".
func (f *fakes) to(server string) (all []sent) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.seen {
		if s.server == server {
			all = append(all, s)
		}
	}
	return all
}

func methods(all []sent) string {
	var out []string
	for _, s := range all {
		switch {
		case s.method != "":
			out = append(out, s.method)
		case s.verb == http.MethodPost:
			out = append(out, "response")
		default:
			out = append(out, s.verb)
		}
	}
	return strings.Join(out, " ")
}

// ordinary speaks the legacy era: sessions, and whatever more answers it.
func (f *fakes) ordinary(more func(w http.ResponseWriter, r *http.Request, s sent) bool) func(http.ResponseWriter, *http.Request, sent) {
	return func(w http.ResponseWriter, r *http.Request, s sent) {
		switch {
		case s.method == "initialize":
			f.mu.Lock()
			f.opened++
			w.Header().Set("Mcp-Session-Id", fmt.Sprintf("%s-%d", s.server, f.opened))
			f.mu.Unlock()
			result(w, s.id, `{"protocolVersion":"2025-11-25","capabilities":{"tools":{},"prompts":{},"resources":{},"logging":{},"tasks":{}},"serverInfo":{"name":"x","version":"1"}}`)
		case s.method == "server/discover":
			result(w, s.id, `{"supportedVersions":["2026-07-28"],"capabilities":{"tools":{},"prompts":{},"resources":{}}}`)
		case more != nil && more(w, r, s):
		case s.verb == http.MethodDelete:
			w.WriteHeader(http.StatusNoContent)
		case s.verb == http.MethodGet:
			w.WriteHeader(http.StatusMethodNotAllowed)
		case s.id == "" || s.method == "":
			w.WriteHeader(http.StatusAccepted)
		default:
			result(w, s.id, `{"from":`+string(wire.Quote(s.server))+`}`)
		}
	}
}

func result(w http.ResponseWriter, id, result string) {
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":%s}`, id, result)
}

func failure(w http.ResponseWriter, status int, id, code, data string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"error":{"code":%s,"message":"said so","data":%s}}`, id, code, data)
}

// stage is a hub with fakes behind it.
type stage struct {
	t        *testing.T
	hub      *Hub
	fakes    *fakes
	servers  []string
	limit    int
	room     *budget.Pool
	mu       sync.Mutex
	answered []string
}

func newStage(t *testing.T, servers ...string) *stage {
	s := &stage{t: t, fakes: &fakes{answer: map[string]func(http.ResponseWriter, *http.Request, sent){}}, servers: servers, limit: 1 << 20}
	for _, name := range servers {
		s.fakes.answer[name] = s.fakes.ordinary(nil)
	}
	s.hub = New(Config{Inner: s.fakes, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	return s
}

func (s *stage) set(server string, more func(w http.ResponseWriter, r *http.Request, s sent) bool) {
	s.fakes.mu.Lock()
	defer s.fakes.mu.Unlock()
	s.fakes.answer[server] = s.fakes.ordinary(more)
}

// reply is what the client got.
type reply struct {
	refused *Refusal
	code    int
	header  http.Header
	body    string
	result  string // of the response
	failed  string // the code and message of an error response
}

func (s *stage) request(owner, verb, session, body string) *http.Request {
	r := httptest.NewRequest(verb, "http://gate.example/mcp", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, text/event-stream")
	r.Header.Set("Authorization", "Bearer "+owner)
	if session != "" {
		r.Header.Set("Mcp-Session-Id", session)
	}
	return r
}

func (s *stage) serve(w http.ResponseWriter, r *http.Request, owner string) error {
	c := &Call{Request: r, Owner: owner, Servers: s.servers, Limits: wire.Limits{Bytes: s.limit, Depth: 64}, Room: s.room, Answered: func(words string) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.answered = append(s.answered, words)
		return nil
	}}
	if r.Method == http.MethodPost {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			s.t.Fatal(err)
		}
		if c.Message, err = wire.Parse(b, wire.Limits{}); err != nil {
			s.t.Fatalf("%s: %v", b, err)
		}
	}
	return s.hub.Serve(r.Context(), w, c)
}

func (s *stage) send(r *http.Request, owner string) reply {
	s.t.Helper()
	w := httptest.NewRecorder()
	err := s.serve(w, r, owner)
	var out reply
	if err != nil && !errors.As(err, &out.refused) {
		s.t.Fatalf("%v", err)
	}
	if err != nil && w.Body.Len() > 0 && !strings.HasPrefix(w.Header().Get("Content-Type"), "text/event-stream") {
		s.t.Errorf("refused with %v after %s", err, w.Body)
	}
	out.code, out.header, out.body = w.Code, w.Header(), w.Body.String()
	last := out.body
	for line := range strings.Lines(out.body) {
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			last = data
		}
	}
	var m struct {
		Result json.RawMessage
		Error  *struct {
			Code    int
			Message string
		}
	}
	if json.Unmarshal([]byte(last), &m) == nil {
		out.result = string(m.Result)
		if m.Error != nil {
			out.failed = fmt.Sprint(m.Error.Code, " ", m.Error.Message)
		}
	}
	return out
}

// post sends one message as alice; in a session, if there is one.
func (s *stage) post(session, body string) reply {
	s.t.Helper()
	return s.send(s.request("alice", http.MethodPost, session, body), "alice")
}

const hello = `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"sampling":{}},"clientInfo":{"name":"client","version":"7"}}}`

// open initializes a session of alice's.
func (s *stage) open() string {
	s.t.Helper()
	r := s.post("", hello)
	id := r.header.Get("Mcp-Session-Id")
	if id == "" {
		s.t.Fatalf("no session: %+v", r)
	}
	return id
}

// modern is a request of the stateless era.
func (s *stage) modern(method, params string, header ...string) reply {
	s.t.Helper()
	if params != "" {
		params += ","
	}
	r := s.request("alice", http.MethodPost, "", `{"jsonrpc":"2.0","id":7,"method":"`+method+`","params":{`+params+`"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`)
	r.Header.Set("Mcp-Protocol-Version", "2026-07-28")
	r.Header.Set("Mcp-Method", method)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return s.send(r, "alice")
}

// names are those of a list's elements.
func names(t *testing.T, result, list, member string) (all []string) {
	t.Helper()
	var m map[string]json.RawMessage
	if err := json.Unmarshal([]byte(result), &m); err != nil {
		t.Fatalf("%s: %v", result, err)
	}
	var elements []map[string]any
	if err := json.Unmarshal(m[list], &elements); err != nil {
		t.Fatalf("%s: %v", result, err)
	}
	for _, e := range elements {
		all = append(all, fmt.Sprint(e[member]))
	}
	return all
}

// tools answers tools/list with pages of a size.
func tools(size int, all ...string) func(http.ResponseWriter, *http.Request, sent) bool {
	return func(w http.ResponseWriter, _ *http.Request, s sent) bool {
		if s.method != "tools/list" {
			return false
		}
		var p struct{ Cursor string }
		if err := json.Unmarshal(s.params, &p); err != nil && len(s.params) > 0 {
			panic(err)
		}
		from := 0
		if p.Cursor != "" {
			if _, err := fmt.Sscanf(p.Cursor, "at %d", &from); err != nil {
				failure(w, http.StatusOK, s.id, "-32602", "null")
				return true
			}
		}
		to := min(from+size, len(all))
		var list []string
		for _, name := range all[from:to] {
			list = append(list, `{ "name":`+string(wire.Quote(name))+`, "n": 1.0 }`)
		}
		next := ""
		if to < len(all) {
			next = fmt.Sprintf(`,"nextCursor":"at %d"`, to)
		}
		result(w, s.id, `{"tools":[`+strings.Join(list, ", ")+`]`+next+`,"ttlMs":60000,"cacheScope":"public"}`)
		return true
	}
}

func sorted(all []string) []string {
	all = slices.Clone(all)
	slices.Sort(all)
	return all
}
