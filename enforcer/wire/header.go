package wire

import (
	"encoding/base64"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The headers that mirror parts of a 2026-07-28 request, so that what routes
// by them sees what the server executes (basic/transports/streamable-http,
// "Request Metadata").
const (
	headerVersion = "Mcp-Protocol-Version"
	headerMethod  = "Mcp-Method"
	headerName    = "Mcp-Name"

	// A value that is not plain visible ASCII is carried as the base64 of its
	// UTF-8 between these marks, which are case-sensitive.
	encodedPrefix = "=?base64?"
	encodedSuffix = "?="
)

// CheckHeaders refuses a request whose mirrored headers do not agree with its
// body: an *Error of code -32020 (-32602 if _meta lacks the version), to be
// answered with HTTP status 400. It
// asks for the headers in a request that is modern by its header or its body;
// in any other message it refuses those that are there and disagree, because
// something on the way may already have routed by them. Mcp-Param-* are not
// looked at: which arguments they mirror, only the server knows. See CheckParams.
func CheckHeaders(h http.Header, m *Message) error {
	mismatch := func(reason string) error {
		return &Error{Code: CodeHeaderMismatch, Reason: "Header mismatch: " + reason, ID: m.ID}
	}
	var value [3]string
	for i, name := range [...]string{headerVersion, headerMethod, headerName} {
		all := h.Values(name)
		if len(all) > 1 {
			return mismatch(name + " is there more than once")
		}
		if len(all) == 1 {
			if value[i] = all[0]; !visible(value[i]) {
				return mismatch(name + " contains characters that a header may not")
			}
		}
	}
	version, method, name := value[0], value[1], value[2]
	required := m.Kind == Request && (m.Modern() || version >= ModernVersion)

	switch {
	case required && version == "":
		return mismatch("MCP-Protocol-Version is required and missing")
	case required && !m.metaVersion:
		return &Error{Code: CodeInvalidParams, Reason: MetaVersion + " is required in params._meta and missing", Offset: m.Params.Start, ID: m.ID}
	case m.metaVersion && version != "" && version != m.ProtocolVersion:
		return mismatch("MCP-Protocol-Version differs from " + MetaVersion + " in params._meta")
	case required && method == "":
		return mismatch("Mcp-Method is required and missing")
	case method != "" && method != m.Method:
		return mismatch("Mcp-Method differs from the body's method")
	}

	want, must := mirroredName(m)
	if name == "" {
		if required && must {
			return mismatch("Mcp-Name is required for this method and missing")
		}
		return nil
	}
	got, ok := DecodeHeader(name)
	if !ok {
		return mismatch("Mcp-Name is not valid base64 of UTF-8 text")
	}
	if got != want {
		return mismatch("Mcp-Name differs from the body's name, uri or task id")
	}
	return nil
}

// CheckParams refuses a tools/call whose Mcp-Param headers do not agree with
// its arguments, in the same way. headers names the header of each argument
// that the tool wants mirrored (see ParamHeaders). It is for servers that get
// no headers: others check by themselves.
func CheckParams(h http.Header, m *Message, headers map[string]string) error {
	for _, argument := range slices.Sorted(maps.Keys(headers)) {
		name := headers[argument]
		mismatch := func(reason string) error {
			return &Error{Code: CodeHeaderMismatch, Reason: "Header mismatch: " + name + " " + reason, Offset: m.Arguments.Start, ID: m.ID}
		}
		all := h.Values(name)
		at, there := m.Member(m.Arguments, argument)
		there = there && string(m.Bytes(at)) != "null"
		switch {
		case len(all) > 1:
			return mismatch("is there more than once")
		case !there && len(all) == 1:
			return mismatch("is there, and its argument is not")
		case !there:
			continue
		case len(all) == 0:
			return mismatch("is required for its argument and missing")
		}
		value, ok := DecodeHeader(all[0])
		if !ok || !visible(all[0]) {
			return mismatch("is not valid base64 of UTF-8 text, or holds characters that a header may not")
		}
		if !m.spells(at, value) {
			return mismatch("differs from its argument")
		}
	}
	return nil
}

// spells tells whether text is how a header spells an argument: a string as it
// is, true and false, and whole numbers by their value. Others have no header.
func (m *Message) spells(argument Span, text string) bool {
	raw := m.Bytes(argument)
	switch raw[0] {
	case '"':
		s, _ := m.Text(argument)
		return s == text
	case 't', 'f':
		return string(raw) == text
	case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
		const safe = 1<<53 - 1 // beyond, a peer that goes through a float sees another number
		a, err := strconv.ParseFloat(string(raw), 64)
		b, errText := strconv.ParseFloat(text, 64)
		decimal := strings.Trim(text, "+-.0123456789eE") == ""
		return err == nil && errText == nil && decimal && a == b && a == math.Trunc(a) && math.Abs(a) <= safe
	}
	return false
}

// MirrorHeaders makes the headers of a modern request agree with its body
// again after an edit. Other messages keep the headers that they came with.
func MirrorHeaders(h http.Header, m *Message) {
	if !m.Modern() {
		return
	}
	h.Set(headerVersion, m.ProtocolVersion)
	h.Set(headerMethod, m.Method)
	if want, _ := mirroredName(m); want != "" {
		h.Set(headerName, EncodeHeader(want))
	} else {
		h.Del(headerName)
	}
}

// mirroredName is what Mcp-Name carries: the name or uri that the method acts
// on, for tasks the task id; must says whether the revision requires it.
func mirroredName(m *Message) (name string, must bool) {
	switch {
	case m.Method == "tools/call" || m.Method == "prompts/get":
		return m.Name, true
	case m.Method == "resources/read":
		return m.URI, true
	case strings.HasPrefix(m.Method, "tasks/"):
		return m.TaskID, false
	case m.Method == "completion/complete":
		return "", false
	case m.Name != "":
		return m.Name, false
	}
	return m.URI, false
}

// EncodeHeader spells a value for Mcp-Name or Mcp-Param-*.
func EncodeHeader(value string) string {
	plain := visible(value) && value == strings.Trim(value, " \t")
	if plain && !(strings.HasPrefix(value, encodedPrefix) && strings.HasSuffix(value, encodedSuffix)) {
		return value
	}
	return encodedPrefix + base64.StdEncoding.EncodeToString([]byte(value)) + encodedSuffix
}

// DecodeHeader reads such a value; false if it is marked as base64 and is not
// the base64 of valid UTF-8.
func DecodeHeader(value string) (string, bool) {
	inner, ok := strings.CutPrefix(value, encodedPrefix)
	if !ok {
		return value, true
	}
	if inner, ok = strings.CutSuffix(inner, encodedSuffix); !ok {
		return value, true
	}
	text, err := base64.StdEncoding.Strict().DecodeString(inner)
	if err != nil || !utf8.Valid(text) || strings.ContainsAny(inner, "\r\n") {
		return "", false
	}
	return string(text), true
}

// visible reports whether a value consists of what RFC 9110 section 5.5
// allows without obsolete text: visible ASCII, space and tab.
func visible(value string) bool {
	for i := range len(value) {
		if c := value[i]; c != '\t' && (c < 0x20 || c > 0x7e) {
			return false
		}
	}
	return true
}
