package wire

import (
	"bytes"
	"unicode"
)

// Protocol keys, by the object they belong to. A key that equals one of them
// only when case is ignored is refused: some parsers (encoding/json among
// them) would take it for the real one. Folding is Unicode's, so that the
// long s and the Kelvin sign do not get through either.
var (
	envelopeKeys = []string{"jsonrpc", "id", "method", "params", "result", "error"}
	paramsKeys   = []string{
		"_meta", "name", "arguments", "uri", "cursor", "ref", "argument", "context", "level",
		"requestId", "reason", "progressToken", "progress", "total", "message", "data", "logger",
		"protocolVersion", "capabilities", "clientInfo", "inputResponses", "requestState",
		"taskId", "task", "notifications", "messages", "modelPreferences", "systemPrompt",
		"includeContext", "temperature", "maxTokens", "stopSequences", "metadata", "tools",
		"toolChoice", "requestedSchema", "mode", "url", "elicitationId",
	}
	metaKeys = []string{
		"progressToken", MetaVersion, MetaSubscription,
		"io.modelcontextprotocol/clientInfo", "io.modelcontextprotocol/clientCapabilities",
		"io.modelcontextprotocol/logLevel", "io.modelcontextprotocol/related-task",
	}
	refKeys    = []string{"type", "name", "uri", "title"}
	listenKeys = []string{"toolsListChanged", "promptsListChanged", "resourcesListChanged", "resourceSubscriptions", "taskIds"}
)

// Where a server puts what it asks of the client without a request of its own:
// a result's or a notification's inputRequests, an error's data.elicitations.
var (
	inputRequests = []byte("inputRequests")
	elicitations  = []byte("elicitations")
)

func checkCase(name []byte, at place, i int) *Error {
	var known []string
	switch at {
	case inEnvelope:
		known = envelopeKeys
	case inParams:
		known = paramsKeys
	case inMeta:
		known = metaKeys
	case inRef:
		known = refKeys
	case inListen:
		known = listenKeys
	default:
		return nil
	}
	if k := caseVariant(name, known); k != "" {
		return &Error{Code: CodeInvalidRequest, Reason: "a key is spelled like " + k + " but in another case", Offset: i}
	}
	return nil
}

// caseVariant returns the known key that name equals only when case is
// ignored, or "". Folding keeps the number of characters, and a character
// that folds to ASCII has at most three bytes.
func caseVariant(name []byte, known []string) string {
	for _, k := range known {
		if len(name) < len(k) || len(name) > 3*len(k) {
			continue
		}
		if string(name) == k {
			return ""
		}
	}
	for _, k := range known {
		if len(name) >= len(k) && len(name) <= 3*len(k) && bytes.EqualFold(name, []byte(k)) {
			return k
		}
	}
	return ""
}

// foldKey maps keys that are equal under Unicode simple folding to one text:
// each character becomes the smallest of its orbit.
func foldKey(b []byte) string {
	return string(bytes.Map(func(r rune) rune {
		least := r
		for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
			least = min(least, next)
		}
		return least
	}, b))
}

// below says where the value of a key is.
func (s *scanner) below(name []byte, at place) place {
	switch at {
	case inEnvelope:
		switch string(name) {
		case "params":
			return inParams
		case "result", "error":
			return inResult
		}
		return elsewhere
	case inParams:
		switch string(name) {
		case "arguments":
			return inArguments
		case "_meta":
			return inMeta
		case "ref":
			return inRef
		case "notifications":
			return inListen
		}
		return elsewhere
	case inArguments, inArgument:
		return inArgument
	case inResult:
		return inResult
	}
	return elsewhere
}

// note keeps the spans that policy and routing need.
func (s *scanner) note(name []byte, at place, v Span) {
	switch at {
	case inEnvelope:
		switch string(name) {
		case "jsonrpc":
			s.version = v
		case "id":
			s.id = v
		case "method":
			s.method = v
		case "params":
			s.params = v
		case "result":
			s.result = v
		case "error":
			s.errorObj = v
		}
	case inParams:
		switch string(name) {
		case "name":
			s.name = v
		case "uri":
			s.uri = v
		case "arguments":
			s.m.Arguments = v
		case "_meta":
			s.m.Meta = v
		case "taskId":
			s.task = v
		case "ref":
			s.ref = v
		case "notifications":
			s.listen = v
		case "protocolVersion":
			s.protocol = v
		case "requestId":
			s.request = v
		case "progressToken":
			s.progress = v
		default:
			s.asks(name, inputRequests)
		}
	case inResult:
		switch s.depth {
		case 2:
			s.asks(name, inputRequests)
		case 3:
			s.asks(name, elicitations)
		}
	case inMeta:
		switch string(name) {
		case "progressToken":
			s.metaProgress = v
		case MetaVersion:
			s.metaVersion = v
		}
	}
}

func (s *scanner) asks(name, key []byte) {
	if len(name) >= len(key) && bytes.EqualFold(name, key) {
		s.m.AsksInput = true
	}
}

// close is told of objects without members: an insertion there needs no comma.
func (s *scanner) close(at place, empty bool) {
	switch at {
	case inParams:
		s.m.emptyParams = empty
	case inArguments:
		s.m.empty = empty
	}
}

// finish checks the envelope once all of it was seen (JSON-RPC 2.0 sections 4
// and 5; MCP basic/index "Messages"), and fills in the message.
func (s *scanner) finish() error {
	m := s.m
	bad := func(code int, at Span, reason string) error {
		return &Error{Code: code, Reason: reason, Offset: at.Start, ID: m.ID}
	}
	if string(m.Bytes(s.version)) != `"2.0"` {
		if v, ok := m.Text(s.version); !ok || v != "2.0" {
			return bad(CodeInvalidRequest, s.version, `jsonrpc must be "2.0"`)
		}
	}
	id := m.Bytes(s.id)
	null := string(id) == "null"
	if s.id.Present() && !null {
		if !validID(id) {
			return bad(CodeInvalidRequest, s.id, "id must be a string or an integer, of at most 1024 bytes")
		}
		m.ID = id
	}
	m.Params, m.Result, m.ErrorObj = s.params, s.result, s.errorObj
	if !s.method.Present() {
		return s.finishResponse(null, bad)
	}
	if s.result.Present() || s.errorObj.Present() {
		return bad(CodeInvalidRequest, s.method, "a message has both a method and a result or error")
	}
	if null {
		return bad(CodeInvalidRequest, s.id, "id must not be null")
	}
	method := m.Bytes(s.method)
	if len(method) < 3 || method[0] != '"' {
		return bad(CodeInvalidRequest, s.method, "method must be a string that is not empty")
	}
	m.Method = intern(decoded(method))
	m.Kind = Notification
	if s.id.Present() {
		m.Kind = Request
	}
	if p := m.Bytes(s.params); p != nil && p[0] != '{' {
		return bad(CodeInvalidRequest, s.params, "params must be an object")
	}
	if v := m.Bytes(m.Meta); v != nil && v[0] != '{' {
		return bad(CodeInvalidParams, m.Meta, "params._meta must be an object")
	}
	return s.finishParams(bad)
}

func (s *scanner) finishResponse(nullID bool, bad func(int, Span, string) error) error {
	m := s.m
	m.Kind = Response
	switch {
	case s.result.Present() == s.errorObj.Present():
		return bad(CodeInvalidRequest, s.id, "a message needs a method, or else either a result or an error")
	case s.result.Present() && m.ID == nil:
		return bad(CodeInvalidRequest, s.id, "a result needs an id")
	case s.params.Present():
		return bad(CodeInvalidRequest, s.params, "a response has no params")
	case s.errorObj.Present() && m.Raw[s.errorObj.Start] != '{':
		return bad(CodeInvalidRequest, s.errorObj, "error must be an object")
	}
	return nil
}

func (s *scanner) finishParams(bad func(int, Span, string) error) error {
	m := s.m
	m.Name, _ = m.Text(s.name)
	m.URI, _ = m.Text(s.uri)
	m.TaskID, _ = m.Text(s.task)
	m.ProgressToken = m.Bytes(s.metaProgress)
	if s.metaVersion.Present() {
		v, ok := m.Text(s.metaVersion)
		if !ok {
			return bad(CodeInvalidParams, s.metaVersion, "the protocol version in _meta must be a string")
		}
		m.ProtocolVersion, m.metaVersion = intern([]byte(v)), true
	}
	switch m.Method {
	case "tools/call", "prompts/get":
		if m.Name == "" {
			return bad(CodeInvalidParams, s.name, "params.name must be a string that is not empty")
		}
		if a := m.Bytes(m.Arguments); a != nil && a[0] != '{' {
			return bad(CodeInvalidParams, m.Arguments, "params.arguments must be an object")
		}
	case "resources/read", "resources/subscribe", "resources/unsubscribe":
		// The stateless era has no subscriptions by URI: without one the message
		// asks for nothing, and its server says that it does not know the method.
		gone := m.Modern() && m.Method != "resources/read" && !s.uri.Present()
		if m.URI == "" && !gone {
			return bad(CodeInvalidParams, s.uri, "params.uri must be a string that is not empty")
		}
	case "completion/complete":
		if err := s.completes(bad); err != nil {
			return err
		}
	case "subscriptions/listen":
		if err := s.listens(bad); err != nil {
			return err
		}
	case "initialize":
		if v, ok := m.Text(s.protocol); ok && !m.metaVersion {
			m.ProtocolVersion = v
		}
	case "notifications/progress":
		m.ProgressToken = m.Bytes(s.progress)
	case "notifications/cancelled":
		m.CancelledID = m.Bytes(s.request)
		if m.CancelledID != nil && !validID(m.CancelledID) {
			return bad(CodeInvalidParams, s.request, "params.requestId must be a string or an integer")
		}
	}
	if m.ProgressToken != nil && !validID(m.ProgressToken) {
		return bad(CodeInvalidParams, s.metaProgress, "progressToken must be a string or an integer")
	}
	for _, text := range []string{m.Method, m.Name, m.URI, m.TaskID, m.ProtocolVersion} {
		for i := range len(text) {
			if text[i] == 0 {
				return bad(CodeInvalidRequest, s.method, "a name of the protocol contains U+0000")
			}
		}
	}
	return nil
}

// validID accepts strings and integers. Fractions, exponents and -0 are
// refused: a peer that goes through a float would answer with another id.
func validID(b []byte) bool {
	if len(b) == 0 || len(b) > maxID {
		return false
	}
	switch {
	case b[0] == '"':
		return true
	case b[0] == '-' || b[0] >= '0' && b[0] <= '9':
		return !bytes.ContainsAny(b, ".eE") && string(b) != "-0"
	}
	return false
}

// intern saves an allocation for the words that nearly every message has.
func intern(b []byte) string {
	switch string(b) {
	case "tools/call":
		return "tools/call"
	case "tools/list":
		return "tools/list"
	case "prompts/get":
		return "prompts/get"
	case "resources/read":
		return "resources/read"
	case "ping":
		return "ping"
	case "initialize":
		return "initialize"
	case "server/discover":
		return "server/discover"
	case "notifications/progress":
		return "notifications/progress"
	case "notifications/message":
		return "notifications/message"
	case "notifications/initialized":
		return "notifications/initialized"
	case "notifications/cancelled":
		return "notifications/cancelled"
	case ModernVersion:
		return ModernVersion
	}
	return string(b)
}
