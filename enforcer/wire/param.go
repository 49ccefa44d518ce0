package wire

import (
	"math"
	"net/http"
	"strconv"

	"golang.org/x/net/http/httpguts"
)

// ParamHeader is an argument that a tool wants mirrored into a header
// (2026-07-28, basic/transports/streamable-http, "Custom Headers from Tool
// Parameters").
type ParamHeader struct {
	Path   []string // names of the members from the arguments to the value
	Header string   // Mcp-Param-…, in canonical form
}

// ParamPaths reads from a tools/list result which arguments its tools want
// mirrored: for each tool of the list those that a chain of "properties" leads
// to, none where there is none. Left out is an annotation that is no header's
// name, and what no header could carry: of tools with names over 1024 bytes, of
// arguments and headers over 256, and what goes beyond 64 arguments of one tool.
func ParamPaths(m *Message) map[string][]ParamHeader {
	out := map[string][]ParamHeader{}
	list, _ := m.Member(m.Result, "tools")
	elements(m.Raw, list, func(tool Span) {
		at, _ := m.Member(tool, "name")
		name, ok := m.Text(at)
		if !ok || len(name) > 1024 {
			return
		}
		schema, _ := m.Member(tool, "inputSchema")
		out[name] = m.paramPaths(schema, nil, nil)
	})
	return out
}

func (m *Message) paramPaths(schema Span, path []string, all []ParamHeader) []ParamHeader {
	properties, ok := m.Member(schema, "properties")
	if !ok {
		return all
	}
	m.Members(properties, func(name []byte, property Span) bool {
		if len(name) > 256 {
			return true
		}
		to := append(path[:len(path):len(path)], string(name))
		at, _ := m.Member(property, "x-mcp-header")
		if header, ok := m.Text(at); ok && len(all) < 64 && len(header) <= 256 && httpguts.ValidHeaderFieldName(header) {
			all = append(all, ParamHeader{Path: to, Header: http.CanonicalHeaderKey("Mcp-Param-" + header)})
		}
		all = m.paramPaths(property, to, all)
		return len(all) < 64
	})
	return all
}

// MirrorParams sets the headers of a tools/call that mirror its arguments.
// What is not there, or is no text, truth value or whole number, has none.
func MirrorParams(h http.Header, m *Message, headers []ParamHeader) {
	for _, p := range headers {
		at := m.Arguments
		there := at.Present()
		for _, name := range p.Path {
			if there {
				at, there = m.Member(at, name)
			}
		}
		if !there {
			continue
		}
		if text, ok := m.headerText(at); ok {
			h.Set(p.Header, EncodeHeader(text))
		}
	}
}

// headerText is how a header spells an argument: see spells.
func (m *Message) headerText(argument Span) (string, bool) {
	raw := m.Bytes(argument)
	switch raw[0] {
	case '"':
		return m.Text(argument)
	case 't', 'f':
		return string(raw), true
	case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
		n, err := strconv.ParseFloat(string(raw), 64)
		if err != nil || n != math.Trunc(n) || math.Abs(n) > 1<<53-1 {
			return "", false
		}
		return strconv.FormatInt(int64(n), 10), true
	}
	return "", false
}
