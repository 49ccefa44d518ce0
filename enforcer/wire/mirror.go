package wire

import (
	"net/http"

	"golang.org/x/net/http/httpguts"
)

// ParamHeaders reads from a tools/list result which arguments its tools want
// mirrored into headers (2026-07-28, basic/transports/streamable-http, "Custom
// Headers from Tool Parameters"): for each tool of the list, header names by
// argument, empty where there is none. Arguments inside of others are left
// out: nothing here ever edits those. So are names that no header could carry:
// of tools over 1024 bytes, of arguments and headers over 256, and what goes
// beyond 64 arguments of one tool.
func ParamHeaders(m *Message) map[string]map[string]string {
	out := map[string]map[string]string{}
	list, _ := m.Member(m.Result, "tools")
	elements(m.Raw, list, func(tool Span) {
		at, _ := m.Member(tool, "name")
		name, ok := m.Text(at)
		if !ok || len(name) > 1024 {
			return
		}
		headers := map[string]string{}
		schema, _ := m.Member(tool, "inputSchema")
		properties, _ := m.Member(schema, "properties")
		m.Members(properties, func(argument []byte, property Span) bool {
			at, _ := m.Member(property, "x-mcp-header")
			if header, ok := m.Text(at); ok && len(argument) <= 256 && len(header) <= 256 && httpguts.ValidHeaderFieldName(header) {
				headers[string(argument)] = http.CanonicalHeaderKey("Mcp-Param-" + header)
			}
			return len(headers) < 64
		})
		out[name] = headers
	})
	return out
}
