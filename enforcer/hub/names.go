package hub

import (
	"bytes"
	"encoding/base64"
	"strings"

	"countersign/enforcer/wire"
)

// Names at the one endpoint. A server's name is made of lower-case letters,
// digits and hyphens, so the first "__" and the first "+" after "mcp+" end it,
// whatever follows:
//
//	tools and prompts      <server>__<name>
//	resources, templates   mcp+<server>+<uri>
//	tasks                  <server>__<task id>
//	a server's requests    cs1.<server>.<base64url of the id as spelled>, a string;
//	                       so are the progress tokens in them
//	events of a stream     <p|g>.<server>.<id>, p on the answer to a POST, g on
//	                       the stream that a GET opened
const (
	between     = "__"
	uriScheme   = "mcp+"
	askedPrefix = "cs1."
)

// maxName is how long a tool's or prompt's name may be (2025-11-25 "Tool
// Names"). A longer one is left out of the list.
const maxName = 128

// offered tells whether a joined name is one that clients accept. Only a
// tool's letters are bounded.
func offered(name string, tool bool) bool {
	return len(name) <= maxName && !(tool && strings.Trim(name, nameLetters) != "")
}

const nameLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-."

func joinName(server, name string) string { return server + between + name }

func splitName(joined string) (server, name string, ok bool) {
	server, name, ok = strings.Cut(joined, between)
	return server, name, ok && isServer(server) && name != ""
}

func joinURI(server, uri string) string { return uriScheme + server + "+" + uri }

func splitURI(joined string) (server, uri string, ok bool) {
	rest, ok := strings.CutPrefix(joined, uriScheme)
	if !ok {
		return "", "", false
	}
	server, uri, ok = strings.Cut(rest, "+")
	return server, uri, ok && isServer(server) && uri != ""
}

// maxRawID bounds the ids that are joined: the joined one has to be short
// enough to come back (wire bounds an id to 1024 bytes).
const maxRawID = 600

// joinID spells a request's id, or a progress token, so that the answer finds
// its server; nil if it is too long for that.
func joinID(server string, raw []byte) []byte {
	if len(raw) > maxRawID {
		return nil
	}
	return wire.Quote(askedPrefix + server + "." + base64.RawURLEncoding.EncodeToString(raw))
}

// splitID is its inverse. What it returns as raw is one JSON string or integer
// and nothing else: it is put into a message as it is.
func splitID(literal []byte) (server string, raw []byte, ok bool) {
	text, ok := text(literal)
	if !ok {
		return "", nil, false
	}
	rest, ok := strings.CutPrefix(text, askedPrefix)
	if !ok {
		return "", nil, false
	}
	server, encoded, ok := strings.Cut(rest, ".")
	if !ok || !isServer(server) || strings.ContainsAny(encoded, "\r\n") {
		return "", nil, false
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil || len(raw) > maxRawID {
		return "", nil, false
	}
	m, err := wire.Parse([]byte(`{"jsonrpc":"2.0","id":`+string(raw)+`,"result":{}}`), wire.Limits{})
	return server, raw, err == nil && bytes.Equal(m.ID, raw)
}

// joinEvent spells an event's id; way is 'p' or 'g'.
func joinEvent(way byte, server, id string) string {
	return string(way) + "." + server + "." + id
}

func splitEvent(joined string) (way byte, server, id string, ok bool) {
	parts := strings.SplitN(joined, ".", 3)
	if len(parts) != 3 || parts[0] != "p" && parts[0] != "g" || !isServer(parts[1]) || parts[2] == "" {
		return 0, "", "", false
	}
	return parts[0][0], parts[1], parts[2], true
}

// isServer tells whether s can be a server's name at all.
func isServer(s string) bool {
	return s != "" && len(s) <= 63 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// text decodes one JSON string literal.
func text(literal []byte) (string, bool) {
	return (&wire.Message{Raw: literal}).Text(wire.Span{Start: 0, End: len(literal)})
}
