package wire

import (
	"fmt"
	"strings"
)

// What a request is about where neither params.name nor params.uri says it.

// completes reads what a completion is for (server/utilities/completion): the
// one thing that params.ref names by its type, so that what a rule sees is what
// the server completes. It does not look at params.name and params.uri.
func (s *scanner) completes(bad func(int, Span, string) error) error {
	m := s.m
	m.Name, m.URI = "", ""
	if b := m.Bytes(s.ref); b == nil || b[0] != '{' {
		return bad(CodeInvalidParams, s.ref, "params.ref must be an object")
	}
	at, _ := m.Member(s.ref, "type")
	name, _ := m.Member(s.ref, "name")
	uri, _ := m.Member(s.ref, "uri")
	switch kind, _ := m.Text(at); kind {
	case "ref/prompt":
		if m.Name, _ = m.Text(name); m.Name == "" || uri.Present() {
			return bad(CodeInvalidParams, s.ref, "a ref/prompt must have a name, a string that is not empty, and no uri")
		}
	case "ref/resource":
		if m.URI, _ = m.Text(uri); m.URI == "" || name.Present() {
			return bad(CodeInvalidParams, s.ref, "a ref/resource must have a uri, a string that is not empty, and no name")
		}
	default:
		return bad(CodeInvalidParams, s.ref, "params.ref.type must be ref/prompt or ref/resource")
	}
	return nil
}

// maxSubscribes bounds the resources of one subscription: each is decided.
const maxSubscribes = 1000

// listens reads the resources that a subscription is for (2026-07-28).
func (s *scanner) listens(bad func(int, Span, string) error) error {
	m := s.m
	if !s.listen.Present() {
		return nil // it asks for nothing, and its server says that it should
	}
	if m.Raw[s.listen.Start] != '{' {
		return bad(CodeInvalidParams, s.listen, "params.notifications must be an object")
	}
	list, ok := m.Member(s.listen, "resourceSubscriptions")
	if !ok {
		return nil
	}
	wrong := m.Raw[list.Start] != '['
	m.Elements(list, func(e Span) {
		if uri, _ := m.Text(e); uri == "" || strings.IndexByte(uri, 0) >= 0 {
			wrong = true
		} else if len(m.Subscribes) <= maxSubscribes {
			m.Subscribes = append(m.Subscribes, uri)
		}
	})
	switch {
	case wrong:
		return bad(CodeInvalidParams, list, "resourceSubscriptions must be a list of strings that are not empty")
	case len(m.Subscribes) > maxSubscribes:
		return bad(CodeInvalidParams, list, fmt.Sprintf("resourceSubscriptions has more than %d elements", maxSubscribes))
	}
	return nil
}
