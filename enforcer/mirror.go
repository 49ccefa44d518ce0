package enforcer

import (
	"encoding/json"
	"net/http"
	"sync"

	"countersign/enforcer/wire"
)

// A tool may want arguments mirrored into headers (x-mcp-header, 2026-07-28),
// and its server must refuse a call where the two differ. Where a credential
// is spliced into such an argument, its header has to follow.
//
// Where the server is spawned, and sees no headers, the refusal is ours.
//
// Which arguments those are, only tools/list says. It is read in passing: a
// client cannot mirror without it, either. After a restart a call may come
// before the list; the server then answers with the mismatch, on which clients
// list the tools and call again.

// maxMirrored bounds what is remembered of one server: bytes of names.
const maxMirrored = 1 << 20

// mirrors are the headers that tools want, as last listed.
type mirrors struct {
	mu sync.Mutex
	m  map[string]map[string]map[string]string // server, tool, argument
	n  map[string]int                          // bytes, by server
}

// learn reads a tools/list result. At the bound of a server it starts anew.
func (s *mirrors) learn(server string, m *wire.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m == nil {
		s.m, s.n = map[string]map[string]map[string]string{}, map[string]int{}
	}
	for tool, headers := range wire.ParamHeaders(m) {
		if was := s.m[server][tool]; was != nil {
			s.n[server] -= sizeOf(tool, was)
			delete(s.m[server], tool)
		}
		if len(headers) == 0 {
			continue
		}
		size := sizeOf(tool, headers)
		if s.m[server] == nil || s.n[server]+size > maxMirrored {
			s.m[server], s.n[server] = map[string]map[string]string{}, 0
		}
		s.m[server][tool] = headers
		s.n[server] += size
	}
}

func sizeOf(tool string, headers map[string]string) int {
	n := len(tool)
	for argument, header := range headers {
		n += len(argument) + len(header)
	}
	return n
}

// follow sets the headers that mirror arguments to their new values, which are
// JSON strings. It returns the names of those it set.
func (s *mirrors) follow(h http.Header, server, tool string, values map[string][]byte) (set []string) {
	if len(values) == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for argument, header := range s.m[server][tool] {
		var text string
		if v, ok := values[argument]; ok && json.Unmarshal(v, &text) == nil {
			h.Set(header, wire.EncodeHeader(text))
			set = append(set, header)
		}
	}
	return set
}

// mirrored holds the headers of a call to a spawned server against its
// arguments: the server gets no headers, and for its clients we are the server.
func (x *exchange) mirrored() error {
	if x.msg == nil || x.msg.Method != "tools/call" || !x.msg.Modern() {
		return nil
	}
	if s, _ := x.force.policy.Server(x.server); len(s.Command) == 0 {
		return nil
	}
	x.e.mirrors.mu.Lock()
	headers := x.e.mirrors.m[x.server][x.msg.Name] // replaced as a whole, never changed
	x.e.mirrors.mu.Unlock()
	if err := wire.CheckParams(x.r.Header, x.msg, headers); err != nil {
		return refuse(kindMismatch, "%w", err)
	}
	return nil
}
