package wire

import (
	"bytes"
	"encoding/json"
	"strconv"
)

// ErrorReply makes a JSON-RPC error response of our own. An id that is not
// known is left out, as the MCP schema wants it (JSON-RPC alone would say
// null, which the SDKs refuse to read). Data that cannot be encoded is left out.
func ErrorReply(id []byte, code int, message string, data any) []byte {
	out := appendID([]byte(`{"jsonrpc":"2.0"`), id)
	out = append(out, `,"error":{"code":`...)
	out = strconv.AppendInt(out, int64(code), 10)
	out = append(out, `,"message":`...)
	out = appendString(out, bytes.ToValidUTF8([]byte(message), []byte("\uFFFD")))
	if data != nil {
		var buf bytes.Buffer
		enc := json.NewEncoder(&buf)
		enc.SetEscapeHTML(false)
		if enc.Encode(data) == nil {
			out = append(out, `,"data":`...)
			out = append(out, bytes.TrimSuffix(buf.Bytes(), []byte("\n"))...)
		}
	}
	return append(out, "}}"...)
}

// ToolError makes the result of a tools/call that failed with words for the
// agent. It names its resultType, which 2026-07-28 asks for and older
// revisions ignore.
func ToolError(id []byte, text string) []byte {
	out := appendID([]byte(`{"jsonrpc":"2.0"`), id)
	out = append(out, `,"result":{"content":[{"type":"text","text":`...)
	out = appendString(out, bytes.ToValidUTF8([]byte(text), []byte("\uFFFD")))
	return append(out, `}],"isError":true,"resultType":"complete"}}`...)
}

// Quote makes a JSON string literal, with only the escapes that JSON asks for.
// What is not valid UTF-8 in text becomes U+FFFD.
func Quote(text string) []byte {
	return appendString(make([]byte, 0, len(text)+2), bytes.ToValidUTF8([]byte(text), []byte("\uFFFD")))
}

func appendID(out, id []byte) []byte {
	if len(id) == 0 {
		return out
	}
	return append(append(out, `,"id":`...), id...)
}
