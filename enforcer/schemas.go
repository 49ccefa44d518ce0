package enforcer

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"countersign/enforcer/mask"
	"countersign/enforcer/wire"
)

// A tool may promise a shape of its structuredContent (outputSchema, 2025-06-18
// "Tools"), and clients check it: an answer that a mask has bent out of that
// shape would fail in the client with words about types. Such an answer is
// withheld instead, with words about the mask.
//
// The schemas are those of the lists that have passed by. A schema is the
// server's own text: it is compiled without loading anything, and not used where
// checking by it could take long.

const (
	maxSchema      = 64 << 10 // bytes of one schema
	maxSchemas     = 1 << 20  // of all of one server
	maxEvaluations = 200_000  // schemas applied to values, in one check
	checkedBytes   = 1 << 20  // of a structuredContent
)

// schemas are the output schemas of tools, as last listed.
type schemas struct {
	mu sync.Mutex
	m  map[string]map[string]*schema // server, tool
	n  map[string]int                // bytes, by server
}

// schema is compiled when it is first needed.
type schema struct {
	raw      []byte
	once     sync.Once
	compiled *jsonschema.Schema // nil if it cannot be used
}

// learn reads a tools/list result. At the bound of a server it starts anew.
func (s *schemas) learn(server string, m *wire.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m == nil {
		s.m, s.n = map[string]map[string]*schema{}, map[string]int{}
	}
	for _, at := range m.Tools() {
		nameAt, _ := m.Member(at, "name")
		name, ok := m.Text(nameAt)
		if !ok || len(name) > 1024 {
			continue
		}
		schemaAt, _ := m.Member(at, "outputSchema")
		raw := m.Bytes(schemaAt)
		if was := s.m[server][name]; was != nil {
			if bytes.Equal(was.raw, raw) {
				continue
			}
			s.n[server] -= len(name) + len(was.raw)
			delete(s.m[server], name)
		}
		if len(raw) == 0 || len(raw) > maxSchema {
			continue
		}
		if size := len(name) + len(raw); s.m[server] == nil || s.n[server]+size > maxSchemas {
			s.m[server], s.n[server] = map[string]*schema{}, 0
		}
		s.m[server][name] = &schema{raw: bytes.Clone(raw)}
		s.n[server] += len(name) + len(raw)
	}
}

// of is the schema of a tool, nil if none is known or it cannot be used.
func (s *schemas) of(server, tool string) *jsonschema.Schema {
	s.mu.Lock()
	one := s.m[server][tool]
	s.mu.Unlock()
	if one == nil {
		return nil
	}
	one.once.Do(func() { one.compiled = compileSchema(one.raw) })
	return one.compiled
}

// noLoader keeps a schema from having files or URLs read.
type noLoader struct{}

func (noLoader) Load(string) (any, error) { return nil, errors.New("schemas are not loaded") }

// compileSchema returns nil for what is no schema, or refers to others.
func compileSchema(raw []byte) (s *jsonschema.Schema) {
	defer func() {
		if recover() != nil { // of the library, on a schema that nobody thought of
			s = nil
		}
	}()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return nil
	}
	c := jsonschema.NewCompiler()
	c.UseLoader(noLoader{})
	c.AssertFormat() // as clients do
	if err := c.AddResource("tool:output", doc); err != nil {
		return nil
	}
	if s, err = c.Compile("tool:output"); err != nil {
		return nil
	}
	return s
}

// fits says where a value does not fit a schema, "" if it does. It is false if
// that cannot be found out in bounded time.
func fits(s *jsonschema.Schema, raw []byte) (why string, known bool) {
	defer func() {
		if recover() != nil {
			why, known = "", false
		}
	}()
	if len(raw) > checkedBytes {
		return "", false
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return "", false
	}
	if !(&cost{seen: map[pair]int{}}).bounded(s, value) {
		return "", false
	}
	err = s.Validate(value)
	var invalid *jsonschema.ValidationError
	if !errors.As(err, &invalid) {
		return "", err == nil
	}
	for len(invalid.Causes) > 0 {
		invalid = invalid.Causes[0]
	}
	where := "/" + strings.Join(invalid.InstanceLocation, "/")
	return fmt.Sprintf("%s (%s)", clip(where, 200), clip(strings.Join(invalid.ErrorKind.KeywordPath(), "/"), 100)), true
}

// fitting refuses a tool's answer whose structuredContent fitted its tool's
// schema before it was masked and does not any more. came is the message that
// was masked, out what became of it.
func (x *exchange) fitting(came, out []byte, report mask.Report) error {
	if !report.Masked() || x.msg == nil || x.msg.Method != "tools/call" {
		return nil
	}
	s := x.e.schemas.of(x.server, x.req.Tool)
	if s == nil {
		return nil
	}
	var before, after []byte
	x.e.room.works(len(came)+len(out), func() { before, after = structured(came), structured(out) })
	if before == nil || bytes.Equal(before, after) {
		return nil
	}
	var why string
	x.e.room.works(len(before)+len(after), func() {
		if after == nil {
			why = "structuredContent is gone"
			return
		}
		bad, known := fits(s, after)
		if !known || bad == "" {
			return
		}
		if was, known := fits(s, before); known && was == "" { // or the server broke its own promise
			why = bad
		}
	})
	if why == "" {
		return nil
	}
	return refuse(kindWithheld, "the answer is withheld: policy masks a part of it (%s), and the rest does not fit the output schema of tool %q at %s; ask for less, or without that part",
		maskedWhat(report), x.req.Tool, why)
}

// maskedWhat names the first of what was masked in structuredContent.
func maskedWhat(r mask.Report) string {
	for _, h := range r.Hits {
		if strings.Contains(h.Place, "structuredContent") {
			return h.Detector + " at " + h.Place
		}
	}
	return r.Hits[0].Detector
}

// structured is a result's structuredContent, nil if there is none or the
// result says that it failed.
func structured(raw []byte) []byte {
	m, err := wire.Parse(raw, wire.Limits{Bytes: len(raw), Depth: 512})
	if err != nil || m.Kind != wire.Response {
		return nil
	}
	if at, ok := m.Member(m.Result, "isError"); ok && string(m.Bytes(at)) == "true" {
		return nil
	}
	at, _ := m.Member(m.Result, "structuredContent")
	return m.Bytes(at)
}
